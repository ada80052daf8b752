//! uringcast: a WebSocket push server for Linux.
//!
//! The crate is a stack of layers. A layer knows only the layers above it in this list; `tests/architecture.rs` holds
//! the rule. From `time` to `shard` everything is pure: no runtime, no socket, no clock of its own. `io` gives a shard
//! its sockets on monoio, `control` serves the backend's API on tokio, `boot` starts and ends both.
//! `docs/architecture.md` has the map.

#![warn(unreachable_pub)]

#[cfg(not(target_os = "linux"))]
compile_error!("uringcast is built on io_uring and runs on Linux only");

pub mod ids;
pub mod log;
pub mod planted;
pub mod time;

pub mod model;
pub mod wire;

pub mod dialect;

pub mod limits;
pub mod mesh;
pub mod metrics;

pub mod config;

pub mod auth;
mod tls;

pub mod fanout;

pub mod hub;

mod session;
pub mod site;

pub mod api;

pub mod shard;

mod io;

mod control;

pub mod boot;

pub mod doctor;

pub mod cli;
