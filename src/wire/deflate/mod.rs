//! permessage-deflate (RFC 7692): what is agreed on in the handshake, messages inflated, messages compressed.
//!
//! Nothing is kept per connection but [`Deflate`]. A client is always told `client_no_context_takeover`, so that each
//! of its messages stands alone and one inflater does for a shard; what is sent is compressed afresh too, so that one
//! compressor per window size does. Knows frames and close codes; no connection, no channel and no limit of its own.

pub mod compress;
pub mod inflate;
pub(crate) mod negotiate;

use serde::{Deserialize, Serialize};

/// What leaves a compressor at the end of a message and does not go over the wire (§7.2.1).
const TAIL: [u8; 4] = [0x00, 0x00, 0xFF, 0xFF];

/// What was agreed with a client.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Deflate {
    /// The base-2 logarithm of the window that it inflates with: 9 to 15 (§7.1.2.1).
    pub window_bits: u8,
    /// Whether a message may refer to what was sent before it (§7.1.1.1).
    pub takeover: bool,
}

impl Deflate {
    /// Whether a client with which this was agreed can inflate what was compressed for others: with a window that is
    /// no larger, and without references to earlier messages unless this client keeps them too.
    pub(crate) fn can_read(self, compressed: Self) -> bool {
        compressed.window_bits <= self.window_bits && (self.takeover || !compressed.takeover)
    }
}

/// Whether permessage-deflate is spoken.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Offers of compression are declined.
    #[default]
    Off,
    /// Compression is used with clients that offer it.
    On,
    /// A client that does not offer compression is refused.
    Forced,
}
