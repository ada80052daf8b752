//! Messages inflated, one at a time (RFC 7692 §7.2.2): the payload of a whole message in, its content out.
//!
//! One [`Inflater`] serves all connections of a shard, since no message refers to the one before it. It inflates step
//! by step and stops at the limit it is given, so that what a message could become costs nothing. Knows DEFLATE
//! through `flate2`; no frame, no fragment and no text.

use flate2::{Decompress, DecompressError, FlushDecompress, Status};

use super::TAIL;
use crate::proto::frame::ProtocolError;

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
    pub payload: usize,
    /// Bytes of its content, or how many there had been when it turned out to be bad.
    pub content: usize,
    /// How long it took in nanoseconds.
    pub took_ns: u64,
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
        let mut run = Run { stream, room: &mut self.room, filled: 0, most };
        let result = run.message(payload);
        let content = run.filled;
        let took_ns = (self.clock)().saturating_sub(started_ns);
        self.work = Some(Work { payload: payload.len(), content, took_ns });
        result.map(|()| &mut self.room[..content])
    }

    /// Gives back what a large message needed, and tells what the last one was. What `inflate` returned is gone.
    pub fn release(&mut self) -> Option<Work> {
        if self.room.len() > KEPT_BYTES {
            self.room = Vec::new();
        }
        self.work.take()
    }

    /// Bytes of output room that are held at the moment.
    pub fn heap_bytes(&self) -> usize {
        self.room.capacity()
    }
}

/// One message being inflated.
struct Run<'a> {
    stream: &'a mut Decompress,
    room: &'a mut Vec<u8>,
    filled: usize,
    most: usize,
}

impl Run<'_> {
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
