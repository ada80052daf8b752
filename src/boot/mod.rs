//! The start and the end of the process. A configuration becomes running shards and the thread of the HTTP API; a
//! signal ends them.

pub mod cpus;
pub mod descriptors;
pub mod memory;
pub mod server;
pub mod signals;
