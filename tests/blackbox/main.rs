//! Black-box tests: the real binary, over real sockets on the loopback interface, held against docs/protocol.md.
//! One test binary for all of them, so that it links once.

// The whole file is test code; a broken expectation has to stop the test, with its message.
#![allow(missing_docs, clippy::unwrap_used)]

mod abuse;
mod admission;
mod api;
mod channel_support;
mod channels;
mod deflate;
mod doctor;
mod echo;
mod faults;
mod handshake;
mod keys;
mod limits;
mod liveness;
mod metrics;
#[cfg(feature = "planted-panic")]
mod panics;
mod presence;
mod proof;
mod proxy;
mod publishing;
mod races;
mod recovery;
mod rights;
mod serve;
mod shards;
mod sign_in;
mod slow;
mod support;
mod tls;
mod tutorial;
