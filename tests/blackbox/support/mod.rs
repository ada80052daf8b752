//! What every black-box test needs: the real binary as a child process (`server`), a WebSocket client that this project
//! did not write (`client`), over TLS as well (`tls`), and plain TCP for the bytes which that one would never send
//! (`raw`). Each wait has a deadline; nothing here sleeps in the hope that something has happened by then. Knows the
//! wire contract, and nothing of the library.

mod client;
mod events;
pub mod key_server;
mod machine;
mod random;
mod raw;
mod server;
mod shapes;
pub mod tls;
mod tokens;
mod waiting;

pub use client::{Client, Event};
pub use events::{EventStream, StreamEvent, StreamQuery};
pub use machine::{installed, missing, skipped};
pub use random::{Random, seed};
pub use raw::{Raw, RawFrame, Response, SAMPLE_ACCEPT, SAMPLE_KEY, frame, frames, http, request, whole_frames};
pub use server::{Finished, Options, Server, assert_no_panic, resident};
pub use shapes::assert_shape;
pub use tokens::{SECRET, now_s, sign, sign_with, token};
pub use waiting::{DEADLINE, until};
