//! Messages inflated, one at a time (RFC 7692 §7.2.2): the payload of a whole message in, its content out.
//!
//! One [`Inflater`] serves all connections of a shard, since no message refers to the one before it. It inflates step
//! by step and stops at the limit it is given, so that what a message could become costs nothing. Knows DEFLATE
//! through `flate2`; no frame, no fragment and no text.

use flate2::{Decompress, DecompressError, FlushDecompress, Status};

use super::TAIL;
use crate::wire::frame::ProtocolError;

/// A block of nothing that says it is the last one: taken where a block may begin, and nowhere else.
const PROBE: [u8; 5] = [0x01, 0x00, 0x00, 0xFF, 0xFF];
/// What output room begins with; it doubles.
const FIRST_BYTES: usize = 4 * 1024;
/// Output room that is kept from message to message.
const KEPT_BYTES: usize = 128 * 1024;
/// How far back a block may refer (RFC 1951 §2).
const WINDOW_BYTES: usize = 32 * 1024;
/// How often a message may go on behind a block that said it was the last: each time costs a window, and no sender
/// that is known does it more than once.
const FINAL_BLOCKS_MAX: usize = 16;

/// Inflates the messages of many clients.
#[derive(Debug)]
pub struct Inflater {
    /// Made when the first message comes: 48 KB.
    stream: Option<Decompress>,
    /// Room for output, all of it initialised.
    room: Vec<u8>,
    work: Option<Work>,
    clock: fn() -> u64,
}

/// What a message was and cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Work {
    /// Bytes of its payload.
    pub(crate) payload: usize,
    /// Bytes of its content, or how many there had been when it turned out to be bad.
    pub(crate) content: usize,
    /// How long it took in nanoseconds.
    pub(crate) took_ns: u64,
}

/// Where the input ran out.
#[derive(PartialEq, Eq)]
enum Stop {
    /// In or behind a block that is not the last.
    Open,
    /// Right behind the last block.
    Final,
}

impl Inflater {
    /// One that has nothing yet. `clock` tells nanoseconds, for [`Work`] alone.
    pub fn new(clock: fn() -> u64) -> Self {
        Self { stream: None, room: Vec::new(), work: None, clock }
    }

    /// The content of the message with this payload. `most` is the largest content in bytes.
    ///
    /// # Errors
    /// [`ProtocolError::InflatedTooBig`] as soon as there is more, however much more it would be;
    /// [`ProtocolError::InvalidDeflate`] if the payload is no sequence of whole DEFLATE blocks without the tail that
    /// §7.2.1 cuts off. What all inflaters take is taken too: a tail that was left on, none where the last block says
    /// that it is the last, and nothing at all for an empty message.
    pub fn inflate(&mut self, payload: &[u8], most: usize) -> Result<&mut [u8], ProtocolError> {
        let started_ns = (self.clock)();
        let stream = self.stream.get_or_insert_with(|| Decompress::new(false));
        let mut run = MessageInflation { stream, room: &mut self.room, filled: 0, most };
        let result = run.message(payload);
        let content = run.filled;
        let took_ns = (self.clock)().saturating_sub(started_ns);
        self.work = Some(Work { payload: payload.len(), content, took_ns });
        result.map(|()| &mut self.room[..content])
    }

    /// Gives back what a large message needed, and tells what the last one was. What `inflate` returned is gone.
    pub(crate) fn release(&mut self) -> Option<Work> {
        if self.room.len() > KEPT_BYTES {
            self.room = Vec::new();
        }
        self.work.take()
    }

    /// Bytes of output room that are held at the moment.
    pub(crate) fn heap_bytes(&self) -> usize {
        self.room.capacity()
    }
}

/// One message being inflated.
struct MessageInflation<'a> {
    stream: &'a mut Decompress,
    room: &'a mut Vec<u8>,
    filled: usize,
    most: usize,
}

impl MessageInflation<'_> {
    fn message(&mut self, payload: &[u8]) -> Result<(), ProtocolError> {
        if payload.is_empty() {
            return Ok(());
        }
        self.stream.reset(false);
        match self.blocks(payload)? {
            Stop::Open => self.end(payload),
            Stop::Final => Ok(()),
        }
    }

    /// Inflates all of `payload`.
    fn blocks(&mut self, payload: &[u8]) -> Result<Stop, ProtocolError> {
        let mut rest = payload;
        let mut finals = 0;
        loop {
            let status = self.step(&mut rest)?;
            match status {
                // §7.2.1: blocks may follow one that says it is the last, from the next byte on. They are the same
                // message's, so they may refer to what came before.
                Status::StreamEnd if rest.is_empty() => return Ok(Stop::Final),
                Status::StreamEnd => {
                    finals += 1;
                    if finals > FINAL_BLOCKS_MAX {
                        return Err(ProtocolError::MessageTooBig);
                    }
                    self.stream.reset(false);
                    let window = &self.room[self.filled.saturating_sub(WINDOW_BYTES)..self.filled];
                    self.stream.set_dictionary(window)?;
                }
                // With room left nothing can be waiting for room.
                Status::Ok | Status::BufError if rest.is_empty() && self.filled < self.room.len() => {
                    return Ok(Stop::Open);
                }
                Status::Ok | Status::BufError => {}
            }
        }
    }

    /// Inflates into the room that there is, making more if there is none.
    fn step(&mut self, rest: &mut &[u8]) -> Result<Status, ProtocolError> {
        // One byte over the limit tells that there is more.
        let bound = self.most.saturating_add(1);
        if self.filled == self.room.len() {
            let len = self.room.len().saturating_mul(2).max(FIRST_BYTES).min(bound);
            self.room.reserve_exact(len - self.filled);
            self.room.resize(len, 0);
        }
        let end = self.room.len().min(bound);
        let (taken, made) = (self.stream.total_in(), self.stream.total_out());
        let status = self.stream.decompress(rest, &mut self.room[self.filled..end], FlushDecompress::None);
        *rest = &rest[(self.stream.total_in() - taken) as usize..];
        self.filled += (self.stream.total_out() - made) as usize;
        // Whichever of the two comes first.
        if self.filled > self.most { Err(ProtocolError::InflatedTooBig) } else { Ok(status?) }
    }

    /// Sees to it that the message was whole: with the tail put back, a further block could begin. A message that was
    /// cut would read the tail as content or codes.
    fn end(&mut self, payload: &[u8]) -> Result<(), ProtocolError> {
        // The last bit of a payload without its tail is a 0: of a block's type, or padding.
        let tail_is_on = payload.ends_with(&TAIL);
        if !tail_is_on && self.silent(&TAIL)? == Stop::Final {
            return Ok(());
        }
        match self.silent(&PROBE)? {
            Stop::Final => Ok(()),
            Stop::Open => Err(ProtocolError::InvalidDeflate),
        }
    }

    /// Takes all of `input`, which must come to nothing.
    fn silent(&mut self, input: &[u8]) -> Result<Stop, ProtocolError> {
        let (taken, made) = (self.stream.total_in(), self.stream.total_out());
        let status = self.stream.decompress(input, &mut [0; 8], FlushDecompress::None)?;
        let taken = self.stream.total_in() - taken;
        if taken < input.len() as u64 || self.stream.total_out() > made {
            return Err(ProtocolError::InvalidDeflate);
        }
        Ok(if status == Status::StreamEnd { Stop::Final } else { Stop::Open })
    }
}

impl From<DecompressError> for ProtocolError {
    fn from(_: DecompressError) -> Self {
        Self::InvalidDeflate
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use flate2::{Compress, Compression, FlushCompress};

    use super::*;
    use ProtocolError::{InflatedTooBig, InvalidDeflate, MessageTooBig};

    const MOST: usize = 1 << 20;

    fn inflate(payload: &[u8], most: usize) -> Result<Vec<u8>, ProtocolError> {
        Inflater::new(|| 0).inflate(payload, most).map(|content| content.to_vec())
    }

    /// A payload with its tail on.
    fn deflate(content: &[u8], window_bits: u8, flush: FlushCompress) -> Vec<u8> {
        let mut stream = Compress::new_with_window_bits(Compression::new(6), false, window_bits);
        let mut out = Vec::with_capacity(content.len() + 1000);
        stream.compress_vec(content, &mut out, flush).unwrap();
        assert_eq!(stream.total_in(), content.len() as u64);
        out
    }

    fn payload(content: &[u8]) -> Vec<u8> {
        let mut out = deflate(content, 15, FlushCompress::Sync);
        out.truncate(out.len() - TAIL.len());
        out
    }

    fn text(len: usize) -> Vec<u8> {
        (0..len).map(|n| b'a' + (n * n % 29 % 26) as u8).collect()
    }

    #[test]
    fn examples_of_the_rfc() {
        let hello = Ok(b"Hello".to_vec());
        // §7.2.3.1: one block. §7.2.3.3: without compression. §7.2.3.4: BFINAL. §7.2.3.5: two blocks. §7.2.3.6: none.
        assert_eq!(inflate(&[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00], MOST), hello);
        assert_eq!(inflate(&[0x00, 0x05, 0x00, 0xfa, 0xff, 0x48, 0x65, 0x6c, 0x6c, 0x6f, 0x00], MOST), hello);
        assert_eq!(inflate(&[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00], MOST), hello);
        let two = [0xf2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xff, 0xff, 0xca, 0xc9, 0xc9, 0x07, 0x00];
        assert_eq!(inflate(&two, MOST), hello);
        assert_eq!(inflate(&[0x00], MOST), Ok(vec![]));
        // §7.2.3.2: the second message of a sender that keeps its window, which it was told not to.
        assert_eq!(inflate(&[0xf2, 0x00, 0x11, 0x00, 0x00], MOST), Err(InvalidDeflate));
    }

    #[test]
    fn every_size_and_window() {
        for len in [1, 2, 100, 4095, 4096, 4097, 32_768, 65_536, 300_000] {
            for window_bits in 9..=15 {
                let content = text(len);
                let payload = deflate(&content, window_bits, FlushCompress::Sync);
                assert_eq!(inflate(&payload[..payload.len() - 4], MOST), Ok(content), "{len} {window_bits}");
            }
        }
    }

    #[test]
    fn a_message_stands_alone() {
        let mut inflater = Inflater::new(|| 0);
        let secret = text(40_000);
        assert_eq!(inflater.inflate(&payload(&secret), MOST).unwrap(), secret);
        // An H and a copy of four bytes from five back: of another client's message, if that were still there.
        let reach_back = [0xf2, 0x00, 0x11, 0x00, 0x00];
        assert_eq!(inflater.inflate(&reach_back, MOST), Err(InvalidDeflate));
        // What came of a bad message doesn't matter to the next either.
        assert_eq!(inflater.inflate(&payload(b"next"), MOST).unwrap(), b"next");
        assert_eq!(inflater.inflate(&reach_back, MOST), Err(InvalidDeflate));
    }

    #[test]
    fn the_limit_is_exact() {
        for most in [0, 1, 5, 4095, 4096, 4097, 10_000, 200_000] {
            let content = vec![b'z'; most];
            assert_eq!(inflate(&payload(&content), most), Ok(content), "{most}");
            for over in [1, 2, 100, 1 << 20] {
                assert_eq!(inflate(&payload(&vec![b'z'; most + over]), most), Err(InflatedTooBig), "{most} {over}");
            }
        }
    }

    #[test]
    fn a_bomb_never_takes_more_room_than_the_limit() {
        let bomb = payload(&vec![0; 64 << 20]);
        let (limit, mut inflater) = (64 << 10, Inflater::new(|| 0));
        assert!(bomb.len() < limit);
        assert_eq!(inflater.inflate(&bomb, limit), Err(InflatedTooBig));
        assert!(inflater.heap_bytes() <= limit + 1);
        assert_eq!(inflater.release().unwrap().content, limit + 1, "not a byte more was made");
        // Another shard-mate with a larger limit leaves more room behind than this one may fill.
        assert!(inflater.inflate(&payload(&text(100_000)), MOST).is_ok());
        assert_eq!(inflater.inflate(&bomb, limit), Err(InflatedTooBig));
        assert_eq!(inflater.release().unwrap().content, limit + 1);
    }

    #[test]
    fn large_room_is_given_back() {
        let mut inflater = Inflater::new(|| 0);
        inflater.inflate(&payload(&text(1_000_000)), MOST).unwrap();
        assert!(inflater.heap_bytes() >= 1_000_000);
        let work = inflater.release().unwrap();
        assert_eq!((work.content, inflater.heap_bytes()), (1_000_000, 0));
        assert_eq!(inflater.release(), None, "told once");
        inflater.inflate(&payload(&text(10_000)), MOST).unwrap();
        inflater.release();
        assert!((10_000..=KEPT_BYTES).contains(&inflater.heap_bytes()));
    }

    #[test]
    fn blocks_behind_a_final_one_are_the_same_message() {
        let (one, two) = (text(5_000), b"and more".repeat(40));
        let mut message = deflate(&one, 15, FlushCompress::Finish);
        message.extend(payload(&two));
        assert_eq!(inflate(&message, MOST), Ok([&one[..], &two].concat()));
        // Each of them final, and the last one with or without the octet of §7.2.3.4.
        for end in [&[][..], &[0]] {
            let message = [&deflate(&one, 15, FlushCompress::Finish), &deflate(&two, 9, FlushCompress::Finish), end];
            assert_eq!(inflate(&message.concat(), MOST), Ok([&one[..], &two].concat()));
        }
        // They may refer to what came before: an H, and four bytes from five back.
        let mut message = deflate(b"1234567", 15, FlushCompress::Finish);
        message.extend([0xf2, 0x00, 0x11, 0x00, 0x00]);
        assert_eq!(inflate(&message, MOST), Ok(b"1234567H4567".to_vec()));
    }

    #[test]
    fn final_blocks_without_end_are_refused() {
        // An empty block with fixed codes that says it is the last.
        let empty = [0x03, 0x00];
        assert_eq!(inflate(&empty.repeat(FINAL_BLOCKS_MAX + 1), MOST), Ok(vec![]));
        assert_eq!(inflate(&empty.repeat(FINAL_BLOCKS_MAX + 2), MOST), Err(MessageTooBig));
        assert_eq!(inflate(&empty.repeat(500_000), MOST), Err(MessageTooBig));
    }

    #[test]
    fn ends_that_all_inflaters_take() {
        let content = text(700);
        let with_tail = deflate(&content, 15, FlushCompress::Sync);
        assert!(with_tail.ends_with(&TAIL));
        assert_eq!(inflate(&with_tail, MOST), Ok(content.clone()));
        assert_eq!(inflate(&deflate(&content, 15, FlushCompress::Finish), MOST), Ok(content));
        assert_eq!(inflate(&[], MOST), Ok(vec![]));
        // The tail completes a final block without content.
        assert_eq!(inflate(&[0x01], MOST), Ok(vec![]));
        // A stored final block whose content looks like the tail.
        let stored = [&[0x01, 4, 0, 0xfb, 0xff][..], &TAIL].concat();
        assert_eq!(inflate(&stored, MOST), Ok(TAIL.to_vec()));
    }

    #[test]
    fn what_is_cut_or_no_deflate_is_refused() {
        let whole = payload(&text(3_000));
        for end in 1..whole.len() {
            assert_eq!(inflate(&whole[..end], MOST), Err(InvalidDeflate), "cut at {end} of {}", whole.len());
        }
        let stored = [&[0x00, 8, 0, 0xf7, 0xff][..], b"four"].concat();
        for bad in [
            // A type of block that there is not.
            &[0x06][..],
            &[0x07, 0x00],
            // Lengths that disagree.
            &[0x00, 5, 0, 0, 0, b'x'],
            // A block that would have the tail for its content.
            &stored,
            // Garbage behind a final block.
            &[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0xff, 0xff],
            &TAIL,
            b"Hello",
            &[0xff; 100],
        ] {
            assert_eq!(inflate(bad, MOST), Err(InvalidDeflate), "{bad:x?}");
        }
    }

    #[test]
    fn work_is_told() {
        let mut inflater = Inflater::new(|| 7);
        let payload = payload(&text(500));
        inflater.inflate(&payload, MOST).unwrap();
        assert_eq!(inflater.release(), Some(Work { payload: payload.len(), content: 500, took_ns: 0 }));
    }
}
