//! uringcast: a WebSocket push server for Linux.
//!
//! The crate is a set of pure state machines (`proto`, `auth`, `hub`, `session`, `outbox`, `shard`) inside a
//! thin monoio shell (`conn`, `listener`, `server`). The pure part names no runtime, no socket and no clock.
//! `README.md`, "Architecture", has the picture.

#[cfg(not(target_os = "linux"))]
compile_error!("uringcast is built on io_uring and runs on Linux only");

pub mod auth;
pub mod cli;
pub mod config;
pub mod ids;
pub mod proto;
