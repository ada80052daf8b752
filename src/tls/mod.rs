//! TLS for the shards' connections (rustls): `stream` is one connection's, from the kernel's bytes to plaintext and
//! back; `identity` reads the certificate and its key, and `watch` reads them anew when they change.
//! `validity` knows until when it is good. Knows no socket: `conn` puts it between the kernel and the shard.

mod identity;
mod stream;
mod validity;
mod watch;

pub use identity::{TlsIdentity, Pair, Served};
pub use stream::{Opened, Scratch, Stream, TlsError};
pub use validity::{Concern, Validity};
pub use watch::CertificateWatch;

/// A fatal alert, `internal_error`, in a record of its own (RFC 8446 §5.1, §6.2): what a client gets that can't be
/// served, before any handshake.
pub const UNAVAILABLE: [u8; 7] = [21, 3, 3, 0, 2, 2, 80];

#[cfg(test)]
mod tests;
