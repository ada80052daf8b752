//! Black-box tests: the real binary, over real sockets on the loopback interface, held against docs/protocol.md.
//! One test binary for all of them, so that it links once.

#![expect(clippy::unwrap_used, reason = "a broken expectation has to stop the test, with its message")]

mod abuse;
mod admission;
mod answers;
mod api;
mod api_connections;
mod api_pipeline;
mod batches;
mod channel_support;
mod channels;
mod deflate;
mod doctor;
mod driver;
mod echo;
mod farewell;
mod faults;
mod ghosts;
mod handshake;
mod jwks;
mod keys;
mod limits;
mod listening;
mod liveness;
mod memory;
mod metrics;
mod namespaces;
#[cfg(feature = "planted")]
mod panics;
mod presence;
mod proof;
mod proxy;
mod publishing;
mod races;
mod recovery;
mod refusals;
mod rights;
mod serve;
mod shards;
mod sign_in;
mod slow;
mod sse;
mod sse_recovery;
mod support;
mod tls;
mod tutorial;
