//! Messages compressed (RFC 7692 §7.2.1), each by itself: a pool of compressors, one per window size at most.
//! Knows DEFLATE through `flate2`, and frames; no connection and no channel.

use flate2::{Compress, Compression, FlushCompress, Status};

use super::TAIL;
use crate::proto::frame::{self, Opcode};

/// The smallest window there is a compressor for, as a base-2 logarithm.
const LEAST_WINDOW_BITS: u8 = 9;
/// RSV1: the message is compressed (§6).
const RSV1: u8 = 0x40;

/// The compressors of one shard.
#[derive(Debug)]
pub struct Compressors {
    level: Compression,
    /// By window bits, from 9 to 15; each made on first use.
    pool: [Option<Box<Compress>>; 7],
    scratch: Vec<u8>,
}

impl Compressors {
    /// None yet, all for this level (1 to 9).
    pub fn new(level: u32) -> Self {
        Self { level: Compression::new(level), pool: Default::default(), scratch: Vec::new() }
    }

    /// Appends the frame (FIN, RSV1) of one message compressed by itself. Returns false and appends nothing when that
    /// would not be shorter than the plain frame.
    pub fn write_alone(&mut self, out: &mut Vec<u8>, opcode: Opcode, payload: &[u8], window_bits: u8) -> bool {
        let level = self.level;
        let stream = self.pool[usize::from(window_bits - LEAST_WINDOW_BITS)]
            .get_or_insert_with(|| Box::new(Compress::new_with_window_bits(level, false, window_bits)));
        stream.reset();
        self.scratch.resize(payload.len(), 0);
        let done = stream.compress(payload, &mut self.scratch, FlushCompress::Sync);
        let (taken, made) = (stream.total_in() as usize, stream.total_out() as usize);
        let whole = matches!(done, Ok(Status::Ok)) && taken == payload.len() && made < self.scratch.len();
        let Some(content) = self.scratch[..made].strip_suffix(&TAIL).filter(|_| whole) else { return false };
        let at = out.len();
        frame::write_frame(out, opcode, content);
        out[at] |= RSV1;
        true
    }
}
