//! The only owner of sockets: the part of a shard that is not pure, on monoio. Each shard has one thread, with one
//! event loop and one task per connection. The files are a stack; each uses only those below it:
//!
//! - `turns` is the loop of a shard's thread: it takes turns, obeys commands and drains.
//! - `accept` takes connections from the kernel and admits or refuses them.
//! - `tasks` are the tasks of one connection: the reader, and at times a writer.
//! - `core` is what all tasks of the thread share: the shard, its sockets and the clock.
//! - `sockets` has every open socket, with TLS on it where it is spoken, and is what the shard sends through.
//! - `bind`, `socket_file`: listening sockets, bound before the threads start.
//! - `commands`: what other threads tell a shard, and the answers that they wait for.
//! - `driver`: io_uring or epoll, and how a task lets others run.

pub(crate) mod accept;
pub(crate) mod bind;
pub(crate) mod commands;
mod core;
pub(crate) mod driver;
pub(crate) mod socket_file;
mod sockets;
mod tasks;
pub(crate) mod turns;

pub(crate) use sockets::OpenSockets;
