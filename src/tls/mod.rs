//! TLS for clients' connections, with rustls. `stream` is the TLS of one connection: it turns received bytes into plaintext
//! and plaintext into records. `identity` reads the certificate and its key, `watch` reads them again when they change, and
//! `validity` knows when a certificate expires. This module knows no socket; `io::sockets` has a stream per TLS connection.

mod identity;
mod stream;
mod validity;
mod watch;

pub(crate) use identity::{Pair, Served, TlsIdentity};
pub(crate) use stream::{Opened, Scratch, Stream, TlsError};
pub(crate) use validity::Concern;
pub(crate) use watch::CertificateWatch;

/// A fatal alert, `internal_error`, in a record of its own (RFC 8446 §5.1, §6.2). A client that cannot be served gets it
/// before any handshake.
pub(crate) const UNAVAILABLE: [u8; 7] = [21, 3, 3, 0, 2, 2, 80];

#[cfg(test)]
mod tests;
