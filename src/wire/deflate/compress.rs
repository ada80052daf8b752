//! Messages compressed (RFC 7692 §7.2.1), each by itself or several that follow each other: a pool of compressors, one
//! per window size at most. Knows DEFLATE through `flate2`, and frames; no connection and no channel.

use flate2::{Compress, Compression, FlushCompress, Status};

use super::TAIL;
use crate::wire::frame::{self, Opcode};

/// The smallest window there is a compressor for, as a base-2 logarithm.
const LEAST_WINDOW_BITS: u8 = 9;
/// RSV1: the message is compressed (§6).
const RSV1: u8 = 0x40;
/// A frame's header at its longest, from a server.
const HEADER_MAX: usize = 10;
/// Room for a compressed message that is kept from message to message.
const KEPT_BYTES: usize = 128 * 1024;

/// The compressors of one shard: 250 to 380 KB for each window size that some client has asked for.
#[derive(Debug)]
pub struct Compressors {
    level: Compression,
    /// By window bits, from 9 to 15; each made on first use.
    pool: [Option<Box<Compress>>; 7],
    scratch: Vec<u8>,
}

/// Messages that follow each other at whoever gets them.
#[derive(Debug)]
pub(crate) struct DeflateBatch<'a> {
    stream: &'a mut Compress,
    scratch: &'a mut Vec<u8>,
    /// Nothing has gone through the compressor that a message could refer to.
    fresh: bool,
}

impl Compressors {
    /// None yet, all for this level (1 to 9).
    pub fn new(level: u32) -> Self {
        Self { level: Compression::new(level), pool: Default::default(), scratch: Vec::new() }
    }

    /// Begins a batch for a window of so many bits, from 9 to 15.
    pub(crate) fn batch(&mut self, window_bits: u8) -> DeflateBatch<'_> {
        let level = self.level;
        let stream = self.pool[usize::from(window_bits - LEAST_WINDOW_BITS)]
            .get_or_insert_with(|| Box::new(Compress::new_with_window_bits(level, false, window_bits)));
        let mut batch = DeflateBatch { stream, scratch: &mut self.scratch, fresh: false };
        batch.begin_afresh();
        batch
    }

    /// Appends the frame (FIN, RSV1) of one message compressed by itself. Returns false and appends nothing when that
    /// would not be shorter than the plain frame.
    pub fn write_alone(&mut self, out: &mut Vec<u8>, opcode: Opcode, payload: &[u8], window_bits: u8) -> bool {
        self.batch(window_bits).write(out, opcode, payload)
    }
}

/// Long messages compressed each by itself, a slice at a time, so that other work has its turn in between.
#[derive(Debug)]
pub(crate) struct Slicer {
    level: Compression,
    window_bits: u8,
    stream: Compress,
    /// Bytes of the message that have been compressed.
    taken: usize,
    /// The compressed bytes so far.
    made: Vec<u8>,
}

/// How far a [`Slicer`] has come.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Sliced {
    /// There is more of the message.
    More,
    /// The frame (FIN, RSV1) of the whole message.
    Whole(Vec<u8>),
    /// It would not be shorter than the plain frame.
    NoGain,
}

impl Slicer {
    /// For this level (1 to 9).
    pub(crate) fn new(level: u32, window_bits: u8) -> Self {
        let level = Compression::new(level);
        let stream = Compress::new_with_window_bits(level, false, window_bits);
        Self { level, window_bits, stream, taken: 0, made: Vec::new() }
    }

    /// Begins a message for a window of so many bits, from 9 to 15. One that was begun before is forgotten.
    pub(crate) fn begin(&mut self, window_bits: u8) {
        if self.window_bits == window_bits {
            self.stream.reset();
        } else {
            self.window_bits = window_bits;
            self.stream = Compress::new_with_window_bits(self.level, false, window_bits);
        }
        (self.taken, self.made) = (0, Vec::new());
    }

    /// Compresses the next `most` bytes of the message that was begun. `payload` is all of it, each time the same.
    pub(crate) fn step(&mut self, opcode: Opcode, payload: &[u8], most: usize) -> Sliced {
        let end = payload.len().min(self.taken + most);
        let slice = &payload[self.taken..end];
        self.made.reserve(bound(slice.len()));
        let before = self.stream.total_in();
        // Flushed each time, so that nothing is left in the compressor for which no room was found: see `bound`.
        let done = self.stream.compress_vec(slice, &mut self.made, FlushCompress::Sync);
        let whole = self.stream.total_in() - before == slice.len() as u64 && self.made.len() < self.made.capacity();
        self.taken = end;
        if !matches!(done, Ok(Status::Ok)) || !whole || self.made.len() >= payload.len() {
            return Sliced::NoGain;
        }
        if end < payload.len() {
            return Sliced::More;
        }
        let made = std::mem::take(&mut self.made);
        let Some(content) = made.strip_suffix(&TAIL) else { return Sliced::NoGain };
        let mut frame = Vec::with_capacity(content.len() + HEADER_MAX);
        frame::write_frame(&mut frame, opcode, content);
        frame[0] |= RSV1;
        Sliced::Whole(frame)
    }
}

impl DeflateBatch<'_> {
    /// What comes from here on refers to nothing before it.
    pub(crate) fn begin_afresh(&mut self) {
        if !std::mem::replace(&mut self.fresh, true) {
            self.stream.reset();
        }
    }

    /// Appends the frame (FIN, RSV1) of the next message, which may refer to those before it in the batch: whoever gets
    /// it has to have had them, and nothing compressed since. Returns false and appends nothing when the frame would
    /// not be shorter than the plain one, which then is no part of what the next may refer to.
    pub(crate) fn write(&mut self, out: &mut Vec<u8>, opcode: Opcode, payload: &[u8]) -> bool {
        self.fresh = false;
        self.scratch.resize(bound(payload.len()), 0);
        let (taken, made) = (self.stream.total_in(), self.stream.total_out());
        let done = self.stream.compress(payload, self.scratch, FlushCompress::Sync);
        let (taken, made) = ((self.stream.total_in() - taken) as usize, (self.stream.total_out() - made) as usize);
        // A flush that filled its room to the end may have more to give.
        let whole = matches!(done, Ok(Status::Ok)) && taken == payload.len() && made < self.scratch.len();
        let content = self.scratch[..made].strip_suffix(&TAIL);
        let content = content.filter(|content| whole && content.len() < payload.len());
        if let Some(content) = content {
            let at = out.len();
            frame::write_frame(out, opcode, content);
            out[at] |= RSV1;
        }
        let written = content.is_some();
        if !written {
            self.begin_afresh();
        }
        if self.scratch.capacity() > KEPT_BYTES {
            *self.scratch = Vec::new();
        }
        written
    }
}

/// The most that so many bytes become, compressed and flushed: 9 bits for each by fixed codes, at level 1. A compressor
/// must never be left with output that found no room: zlib-rs (0.6.8) forgets at a reset what it was, but not the room
/// that it takes, and after some of these it panics.
fn bound(payload_bytes: usize) -> usize {
    payload_bytes + payload_bytes / 8 + 64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::deflate::inflate::Inflater;

    #[test]
    fn slices_are_one_message() {
        let (mut state, mut inflater) = (7, Inflater::new(|| 0));
        let mut slicer = Slicer::new(3, 15);
        let words = b"a long page of history, ".repeat(10_000);
        let mut mixed = noise(90_000, &mut state);
        mixed.extend(b"and something that pays".repeat(20_000));
        for window_bits in [15, 9, 15, 12] {
            for (payload, most) in
                [(&words, 1_000), (&mixed, 64 * 1024), (&words, words.len()), (&words, usize::MAX / 2)]
            {
                slicer.begin(window_bits);
                let mut steps = 1;
                let frame = loop {
                    match slicer.step(Opcode::Text, payload, most) {
                        Sliced::More => steps += 1,
                        Sliced::Whole(frame) => break frame,
                        Sliced::NoGain => panic!("it pays"),
                    }
                };
                assert_eq!(steps, payload.len().div_ceil(most));
                let (opcode, content) = frame::message(&frame);
                assert_eq!((opcode, frame[0] & RSV1), (Opcode::Text, RSV1));
                assert_eq!(inflater.inflate(content, 1 << 20).as_deref(), Ok(&payload[..]));
            }
            // What is given up half-way leaves nothing behind, however often.
            for _ in 0..20 {
                slicer.begin(window_bits);
                assert_eq!(slicer.step(Opcode::Text, &mixed, 50_000), Sliced::More);
            }
            let noise = noise(200_000, &mut state);
            slicer.begin(window_bits);
            while slicer.step(Opcode::Binary, &noise, 64 * 1024) == Sliced::More {}
        }
    }

    fn noise(bytes: usize, state: &mut u64) -> Vec<u8> {
        let mut next = || {
            *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (*state >> 56) as u8
        };
        (0..bytes).map(|_| next()).collect()
    }

    /// At every level and window, after what did not get shorter, however often.
    #[test]
    fn what_is_no_gain_leaves_nothing_behind() {
        let (mut state, mut inflater) = (1, Inflater::new(|| 0));
        let text = b"what comes after it is compressed as ever, ".repeat(40);
        for level in 1..=9 {
            let mut compressors = Compressors::new(level);
            for window_bits in 9..=15 {
                for round in 0..12 {
                    // From 144 up fixed codes have 9 bits.
                    let mut payload = noise([300, 5_000, 70_000][round % 3], &mut state);
                    payload.iter_mut().for_each(|byte| *byte |= 0x90);
                    let mut out = Vec::new();
                    let noisy = noise(payload.len(), &mut state);
                    assert!(!compressors.write_alone(&mut out, Opcode::Binary, &noisy, window_bits), "{level} {round}");
                    assert!(out.is_empty());
                    for message in [&payload, &text] {
                        out.clear();
                        if compressors.write_alone(&mut out, Opcode::Binary, message, window_bits) {
                            let (_, content) = frame::message(&out);
                            assert!(content.len() < message.len());
                            assert_eq!(inflater.inflate(content, 1 << 20).as_deref(), Ok(&message[..]));
                        } else {
                            assert!(message != &text && out.is_empty(), "{level} {window_bits} {round}");
                        }
                    }
                }
            }
        }
    }
}
