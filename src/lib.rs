//! uringcast: a WebSocket push server for Linux.
//!
//! The crate is a set of pure state machines (`proto`, `auth`, `rights`, `hub`, `session`, `outbox`, `fanout`, `shard`)
//! inside a thin monoio shell (`conn`, `driver`, `listener`, `reactor`, `server`), with the backend's API (`control`) on tokio. The pure part names no runtime, no
//! socket and no clock. `README.md`, "Architecture", has the picture.

#[cfg(not(target_os = "linux"))]
compile_error!("uringcast is built on io_uring and runs on Linux only");

pub mod auth;
pub mod cli;
pub mod clock;
pub mod config;
pub mod conn;
pub mod control;
pub mod cpus;
pub mod descriptors;
pub mod doctor;
pub mod driver;
pub mod fanout;
pub mod http;
pub mod hub;
pub mod ids;
pub mod limits;
pub mod listener;
pub mod log;
pub mod memory;
pub mod mesh;
pub mod metrics;
pub mod namespace;
pub mod outbox;
pub mod parcel;
pub mod planted;
pub mod proto;
pub mod publication;
pub mod reactor;
pub mod refusals;
pub mod rights;
pub mod run;
pub mod server;
pub mod session;
pub mod shard;
pub mod signals;
pub mod socket_file;
pub mod tls;
pub mod user;
pub mod wheel;
