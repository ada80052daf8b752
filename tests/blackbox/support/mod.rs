//! What every black-box test needs: the real binary as a child process (`server`), a WebSocket client that this project
//! did not write (`client`), and plain TCP for the bytes which that one would never send (`raw`). Each wait has a
//! deadline; nothing here sleeps in the hope that something has happened by then. Knows the wire contract, and nothing
//! of the library.

mod client;
mod random;
mod raw;
mod server;
mod shapes;
mod tokens;

use std::time::Duration;

pub use client::{Client, Event, small_buffers};
pub use random::{Random, seed};
pub use raw::{Raw, RawFrame, Response, SAMPLE_ACCEPT, SAMPLE_KEY, frame, frames, http, request, whole_frames};
pub use server::{Finished, Options, Server, assert_no_panic, resident};
pub use shapes::assert_shape;
pub use tokens::{SECRET, now_s, sign, sign_with, token};

/// How long any single answer may take. Generous: a loaded machine with two cores must not fail a test.
pub const DEADLINE: Duration = Duration::from_secs(20);
