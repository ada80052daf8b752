//! The only owner of sockets: a shard's event loop, the listeners, one task for each connection, and the driver that
//! they wait with (io_uring or epoll).

pub mod conn;
pub mod driver;
pub mod listener;
pub mod reactor;
pub mod socket_file;
