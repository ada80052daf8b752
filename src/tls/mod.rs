//! TLS for the shards' connections (rustls): `stream` is one connection's, from the kernel's bytes to plaintext and
//! back; `identity` reads the certificate and its key, and `watch` reads them anew when they change.
//! `validity` knows until when it is good. Knows no socket: `conn` puts it between the kernel and the shard.

mod identity;
mod stream;
mod validity;
mod watch;

pub use identity::{Identity, Pair, Served};
pub use stream::{Fault, Opened, Scratch, Stream};
pub use validity::{Concern, Validity};
pub use watch::Watch;

#[cfg(test)]
mod tests;
