//! permessage-deflate on the client's side (RFC 7692): what is offered, what a server may answer to that, and the
//! messages themselves, inflated and compressed.
//!
//! Strict: an answer that the RFC doesn't allow to this offer ends the connection, and so does a message that is no
//! DEFLATE. Knows DEFLATE through `flate2`; no frames and no sockets. Called by `client`, `args` and `engine`.

mod codec;
mod offer;

use std::collections::BTreeMap;

pub use codec::{Compressors, Inflater};
pub use offer::{Agreed, Offer};

/// What is offered without a value for `--compress`: what browsers offer.
pub const DEFAULT_OFFER: &str = "permessage-deflate; client_max_window_bits";

/// What a run does with compression.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What every connection offers.
    pub offer: Offer,
    /// Messages of this size and longer are sent compressed where that makes them shorter, in bytes.
    pub above: usize,
}

/// What came of it, on one thread's connections or on all.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// How many connections agreed on what; those that come back count again.
    pub agreed: BTreeMap<Agreed, u64>,
    /// How many were answered without an extension.
    pub declined: u64,
    /// Messages that came plain on a connection with compression.
    pub plain: u64,
    /// Messages that came compressed.
    pub compressed: u64,
    /// Their payloads, in bytes.
    pub compressed_bytes: u64,
    /// Those of them that were inflated.
    pub inflated: u64,
    /// Their payloads, in bytes.
    pub inflated_from_bytes: u64,
    /// What they were inflated to, in bytes.
    pub inflated_to_bytes: u64,
}

impl Tally {
    /// Adds another thread's.
    pub fn merge(&mut self, other: &Self) {
        for (agreed, count) in &other.agreed {
            *self.agreed.entry(*agreed).or_default() += count;
        }
        self.declined += other.declined;
        self.plain += other.plain;
        self.compressed += other.compressed;
        self.compressed_bytes += other.compressed_bytes;
        self.inflated += other.inflated;
        self.inflated_from_bytes += other.inflated_from_bytes;
        self.inflated_to_bytes += other.inflated_to_bytes;
    }
}
