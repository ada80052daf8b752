//! The only owner of sockets: the part of a shard that is not pure, on monoio. Each shard has one thread, with one
//! event loop and one task for all connections. The files are a stack; each uses only those below it:
//!
//! - `turns` is the loop of a shard's thread: it takes turns, obeys commands and drains.
//! - `accept` takes connections from the kernel and admits or refuses them.
//! - `tasks` serve the connections: they receive, resume and let the shard send on.
//! - `core` is what all tasks of the thread share: the shard, its sockets and the clock.
//! - `sockets` has every open socket, with TLS on it where it is spoken, and is what the shard sends through.
//! - `readiness` knows which sockets can be read or written.
//! - `proxy_header` reads what a trusted proxy sends first.
//! - `bind`, `socket_file`: listening sockets, bound before the threads start.
//! - `commands`: what other threads tell a shard, and the answers that they wait for.
//! - `driver`: io_uring or epoll, and how a task lets others run.

pub(crate) mod accept;
pub(crate) mod bind;
pub(crate) mod commands;
mod core;
pub(crate) mod driver;
mod proxy_header;
mod readiness;
pub(crate) mod socket_file;
mod sockets;
mod tasks;
pub(crate) mod turns;

pub(crate) use sockets::OpenSockets;
