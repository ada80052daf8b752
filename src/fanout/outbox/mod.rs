//! The frames that wait to be sent to one connection: an ordered list of segments, each private bytes, a slice of a
//! run that all subscribers of a channel share, or a gap where publications were dropped. Segments end on frame
//! boundaries. The outbox counts the memory that it holds and keeps it within a bound; `tidy` does the dropping.
//! Pure; `shard` fills and flushes it.
//!
//! *Held* is what an outbox keeps alive: private buffers with their unused capacity, each run whole however little of
//! it is still to be sent, and [`SEGMENT_BYTES`] for each segment. A run that several outboxes hold counts in each.

pub(crate) mod stamp;
mod tidy;

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::io::IoSlice;
use std::rc::Rc;

use crate::dialect;
use crate::fanout::run::{Frames, Origin, Run, place};
use crate::model::namespace::Overflow;
use crate::model::notice::{Gap, GapReason};
use crate::model::voice::Voice;

/// At most this many pieces go into one send.
pub(crate) const MAX_PIECES: usize = 64;
/// What a segment counts besides the bytes in it: its place in a queue that may be half empty.
pub(crate) const SEGMENT_BYTES: usize = 2 * size_of::<Segment>();
/// A private segment that has reached this size is not appended to, so that its memory goes as it is sent.
const PRIVATE_BYTES: usize = 16 * 1024;
/// Gaps are encoded before their turn, to leave together with what is between them, until this many bytes are.
const TOLD_BYTES: usize = 2 * 1024;
/// The most that a gap of a channel with a short name takes when it is encoded.
const GAP_BYTES: usize = 256;
/// A channel under `conflate` is tidied as soon as its slow client holds this much: prices age quickly.
const CONFLATE_BYTES: usize = 64 * 1024;

#[derive(Debug)]
enum Segment {
    /// Bytes that leave whole and are not looked into: an HTTP response, or the rest of a frame that has begun to
    /// leave.
    Begun { bytes: Vec<u8>, is_private: bool },
    /// Frames for this connection alone.
    Private(Vec<u8>),
    /// Events for this connection alone that move its position in a channel: only in streams of several channels.
    About(Box<AboutEvents>),
    /// A plain frame for this connection alone that is still being compressed. Nothing from here on is sent before that
    /// has ended.
    Compressing { plain: Vec<u8>, ticket: u32 },
    /// Frames of a run. `pays` is set for the last slice of a run in this outbox: the run's weight counts there.
    Slice { run: Run, start: u32, end: u32, pays: bool },
    /// Publications that are not sent, not yet encoded.
    Gap { origin: Rc<Origin>, from: u64, to: u64, reason: GapReason },
    /// A gap that has been encoded. It may have begun to leave, so it can't grow any more.
    Told(Vec<u8>),
    /// A subscription ended here. No gap moves over it: the client may subscribe to the same channel again.
    Fence,
}

impl Segment {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Begun { bytes, .. } | Self::Private(bytes) | Self::Told(bytes) => bytes,
            Self::Compressing { plain, .. } => plain,
            Self::About(about) => &about.bytes[about.start..],
            Self::Slice { run, start, end, .. } => &run.bytes[*start as usize..*end as usize],
            Self::Gap { .. } | Self::Fence => &[],
        }
    }

    fn held(&self) -> usize {
        let held = match self {
            Self::Begun { bytes, .. } | Self::Private(bytes) | Self::Told(bytes) => bytes.capacity(),
            Self::About(about) => size_of::<AboutEvents>() + about.bytes.capacity(),
            Self::Compressing { plain, .. } => plain.capacity(),
            Self::Slice { run, pays, .. } => {
                if *pays {
                    run.weight()
                } else {
                    0
                }
            }
            Self::Gap { .. } | Self::Fence => 0,
        };
        SEGMENT_BYTES + held
    }

    /// Bytes that the connection caused itself.
    fn private(&self) -> usize {
        match self {
            Self::Begun { bytes, is_private: true } | Self::Private(bytes) => bytes.len(),
            Self::Compressing { plain, .. } => plain.len(),
            Self::About(about) => about.bytes.len() - about.start,
            _ => 0,
        }
    }
}

/// Events of an event stream that move its position in one channel.
#[derive(Debug)]
struct AboutEvents {
    /// What the channel's runs have in common.
    origin: Rc<Origin>,
    /// Whole events.
    bytes: Vec<u8>,
    /// Those before this place have been stamped.
    start: usize,
}

/// The queue of one connection. Empty, it is a pointer to nothing.
#[derive(Debug, Default)]
pub struct Outbox(Option<Box<Queue>>);

/// An outbox that holds something.
#[derive(Debug, Default)]
struct Queue {
    segments: VecDeque<Segment>,
    /// Bytes of the first segment that have been sent.
    sent: usize,
    /// Bytes that wait. Bytes that have been sent don't count, and gaps count when they are encoded.
    bytes: usize,
    /// Private bytes, until the last byte of their segment has been sent.
    private: usize,
    /// Memory that is held: the sum over all segments.
    held: usize,
    /// Segments that are gaps and not encoded.
    gaps: usize,
    /// Bytes of encoded gaps.
    told: usize,
    /// Some slice is of a channel under `conflate`.
    conflates: bool,
    /// How much may be held before the queue is tidied again; 0 at first.
    tidy_at: usize,
    /// What the shard has added to its sum for this queue.
    counted: usize,
}

/// What [`Outbox::keep_within`] did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kept {
    /// Nothing had to be done.
    Untouched,
    /// Memory was given back, and nothing was dropped.
    Tidied,
    /// Publications were dropped, and gaps stand where they stood.
    Shed,
    /// More than the bound is held, and what may be dropped is not enough.
    TooMuch,
}

impl Outbox {
    /// Nothing waits.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Bytes that wait.
    pub fn bytes(&self) -> usize {
        self.0.as_ref().map_or(0, |queue| queue.bytes)
    }

    /// Bytes of memory that are held, which is what a bound is for.
    pub fn held_bytes(&self) -> usize {
        self.0.as_ref().map_or(0, |queue| queue.held)
    }

    /// The most that gaps will add to that when their turn comes and they are encoded.
    #[doc(hidden)]
    pub(crate) fn gap_bytes(&self) -> usize {
        self.0.as_ref().map_or(0, |queue| (queue.gaps * GAP_BYTES).min(TOLD_BYTES + GAP_BYTES))
    }

    /// Bytes that wait and that only this connection holds.
    pub fn private_bytes(&self) -> usize {
        self.0.as_ref().map_or(0, |queue| queue.private)
    }

    /// Begins with what `write` appends to a buffer: the response to the upgrade. Before anything else.
    pub(crate) fn push_head(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        assert!(self.is_empty(), "a head comes first");
        let mut bytes = Vec::new();
        write(&mut bytes);
        self.queue().append(Segment::Begun { bytes, is_private: true });
    }

    /// Appends what `write` appends to a buffer of this connection's own: whole frames.
    pub fn push_private(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        self.queue().push_private(write);
    }

    /// Appends one message of this connection's own, a plain frame that is to be compressed under this ticket.
    pub(crate) fn push_compressing(&mut self, mut plain: Vec<u8>, ticket: u32) {
        plain.shrink_to_fit();
        self.queue().append(Segment::Compressing { plain, ticket });
    }

    /// The plain frame of the message with this ticket, if it waits.
    pub(crate) fn compressing(&self, ticket: u32) -> Option<&[u8]> {
        let is_it = |segment: &&Segment| matches!(segment, Segment::Compressing { ticket: its, .. } if *its == ticket);
        self.0.as_ref()?.segments.iter().find(is_it).map(Segment::bytes)
    }

    /// The message with this ticket may be sent: as `packed`, or else as it is.
    pub(crate) fn finish(&mut self, ticket: u32, packed: Option<Vec<u8>>) {
        if let Some(queue) = &mut self.0 {
            queue.finish(ticket, packed);
        }
    }

    /// Drops publications, where their channel allows it, until no more than `most` bytes are held. Returns whether any
    /// were dropped.
    pub(crate) fn make_room(&mut self, most: usize, voice: Voice) -> bool {
        match &mut self.0 {
            Some(queue) if queue.held > most && queue.may_drop() => queue.tidy(most, most, voice),
            _ => false,
        }
    }

    /// Appends `run[start..end]`: whole frames.
    pub fn push_slice(&mut self, run: &Run, start: usize, end: usize) {
        if start < end {
            let run = Rc::clone(run);
            self.queue().append(Segment::Slice { run, start: place(start), end: place(end), pays: true });
        }
    }

    /// Appends frames of a channel that only this connection holds.
    pub(crate) fn push_frames(&mut self, frames: Frames) {
        let end = frames.bytes.len();
        self.push_slice(&Rc::new(frames), 0, end);
    }

    /// A subscription of the connection ends: gaps of what came before stay before what is appended from here on.
    pub(crate) fn push_fence(&mut self) {
        if let Some(queue) = &mut self.0
            && !matches!(queue.segments.back(), Some(Segment::Fence))
        {
            queue.append(Segment::Fence);
        }
    }

    /// Encodes the gaps whose turn to be sent has come. To be called before [`Self::pieces`]. Not those far behind:
    /// they may still grow, and encoded gaps of a client that reads in drips would pile up.
    pub fn settle(&mut self, voice: Voice) {
        if let Some(queue) = &mut self.0
            && queue.gaps > 0
        {
            queue.settle(voice);
        }
    }

    /// The next pieces to send, up to the next gap or message that is being compressed, and at most [`MAX_PIECES`],
    /// appended to `pieces`. None if such a message is the first that waits.
    pub fn pieces<'a>(&'a self, pieces: &mut impl Extend<IoSlice<'a>>) {
        if let Some(queue) = &self.0 {
            queue.pieces(pieces);
        }
    }

    /// Notes that `count` bytes were sent.
    pub fn advance(&mut self, count: usize) {
        assert!(count <= self.bytes(), "{count} bytes were sent of {}", self.bytes());
        if let Some(queue) = &mut self.0 {
            queue.advance(count);
            if queue.segments.is_empty() {
                debug_assert_eq!((queue.bytes, queue.private, queue.held, queue.told, queue.gaps), (0, 0, 0, 0, 0));
                self.0 = None;
            }
        }
    }

    /// Drops every frame that has not begun to leave. What stays is the rest of the frame that has, or of the head.
    pub(crate) fn drop_unstarted(&mut self, voice: Voice) {
        let Some(mut queue) = self.0.take() else { return };
        queue.split_begun(voice);
        if let Some(begun @ Segment::Begun { .. }) = queue.segments.pop_front() {
            self.queue().append(begun);
        }
    }

    /// Tidies when more than `bound` bytes are held; of channels under `conflate` already when less is held, each time
    /// what was left has doubled. First publications are dropped where their channel allows it: the superseded ones of
    /// `conflate`, then the oldest ones, until half of the bound is held. A gap stands where they stood. Then frames
    /// are copied out of runs of which little is left.
    ///
    /// What is left has to leave an eighth of the bound free, so that each time of work is paid for by as many bytes.
    pub fn keep_within(&mut self, bound: usize, voice: Voice) -> Kept {
        let Some(queue) = &mut self.0 else { return Kept::Untouched };
        let first = if queue.conflates { CONFLATE_BYTES.min(bound) } else { bound };
        if queue.held <= queue.tidy_at.max(first).min(bound) {
            return Kept::Untouched;
        }
        let most = bound - bound / 8;
        let was_over = queue.held > bound;
        let has_shed = queue.tidy(bound / 2, most, voice);
        queue.tidy_at = 2 * queue.held;
        match () {
            () if was_over && queue.held > most => Kept::TooMuch,
            () if has_shed => Kept::Shed,
            () => Kept::Tidied,
        }
    }

    /// What is held, and what was the last time that this was asked.
    pub(crate) fn recount(&mut self) -> (usize, usize) {
        match &mut self.0 {
            Some(queue) => (queue.held, std::mem::replace(&mut queue.counted, queue.held)),
            None => (0, 0),
        }
    }

    /// What was held the last time that [`Self::recount`] was asked; the next time it is as if nothing had been.
    pub(crate) fn forget_count(&mut self) -> usize {
        self.0.as_mut().map_or(0, |queue| std::mem::take(&mut queue.counted))
    }

    fn queue(&mut self) -> &mut Queue {
        self.0.get_or_insert_default()
    }
}

impl Queue {
    /// Appends a segment and counts it.
    fn append(&mut self, segment: Segment) {
        self.count(&segment);
        self.segments.push_back(segment);
    }

    /// Counts a segment that is in the queue from now on.
    fn count(&mut self, segment: &Segment) {
        self.bytes += segment.bytes().len();
        self.private += segment.private();
        self.held += segment.held();
        match segment {
            Segment::Slice { run, .. } => self.conflates |= run.origin.sending.overflow == Overflow::Conflate,
            Segment::Gap { .. } => self.gaps += 1,
            Segment::Told(bytes) => self.told += bytes.len(),
            Segment::Begun { .. }
            | Segment::Private(_)
            | Segment::About(_)
            | Segment::Compressing { .. }
            | Segment::Fence => {}
        }
    }

    /// Counts a segment no more of which nothing has been sent.
    fn uncount(&mut self, segment: &Segment) {
        self.bytes -= segment.bytes().len();
        self.private -= segment.private();
        self.held -= segment.held();
        match segment {
            Segment::Gap { .. } => self.gaps -= 1,
            Segment::Told(bytes) => self.told -= bytes.len(),
            _ => {}
        }
    }

    fn push_private(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        if !matches!(self.segments.back(), Some(Segment::Private(bytes)) if bytes.len() < PRIVATE_BYTES) {
            self.append(Segment::Private(Vec::new()));
        }
        if let Some(Segment::Private(buffer)) = self.segments.back_mut() {
            let (length, capacity) = (buffer.len(), buffer.capacity());
            write(buffer);
            if buffer.capacity() > buffer.len() + PRIVATE_BYTES {
                buffer.shrink_to_fit();
            }
            self.bytes += buffer.len() - length;
            self.private += buffer.len() - length;
            self.held = self.held + buffer.capacity() - capacity;
        }
    }

    fn finish(&mut self, ticket: u32, packed: Option<Vec<u8>>) {
        for segment in &mut self.segments {
            let Segment::Compressing { plain, ticket: its } = segment else { continue };
            if *its == ticket {
                let taken = std::mem::take(plain);
                self.bytes -= taken.len();
                self.private -= taken.len();
                self.held -= SEGMENT_BYTES + taken.capacity();
                *segment = Segment::Private(packed.unwrap_or(taken));
                self.bytes += segment.bytes().len();
                self.private += segment.private();
                self.held += segment.held();
                return;
            }
        }
    }

    /// Whether some publication may be dropped.
    fn may_drop(&self) -> bool {
        self.segments.iter().any(|segment| matches!(segment, Segment::Slice { run, .. } if run.origin.may_drop()))
    }

    fn settle(&mut self, voice: Voice) {
        for (index, segment) in self.segments.iter_mut().take(MAX_PIECES).enumerate() {
            let Segment::Gap { origin, from, to, reason } = segment else { continue };
            if index > 0 && self.told >= TOLD_BYTES {
                return;
            }
            let mut bytes = Vec::new();
            let (channel, epoch) = (&*origin.channel, &*origin.epoch);
            let gap = Gap { channel, epoch, from: *from, to: *to, reason: *reason };
            dialect::write_gap(voice, &mut bytes, &gap);
            self.bytes += bytes.len();
            self.told += bytes.len();
            self.held += bytes.capacity();
            self.gaps -= 1;
            *segment = Segment::Told(bytes);
        }
    }

    fn pieces<'a>(&'a self, pieces: &mut impl Extend<IoSlice<'a>>) {
        let mut skip = self.sent;
        let ready = |segment: &&Segment| !matches!(segment, Segment::Gap { .. } | Segment::Compressing { .. });
        let settled = self.segments.iter().take_while(ready);
        let skipping = |segment: &'a Segment| IoSlice::new(&segment.bytes()[std::mem::take(&mut skip)..]);
        pieces.extend(settled.take(MAX_PIECES).map(skipping));
    }

    fn advance(&mut self, count: usize) {
        self.bytes -= count;
        self.sent += count;
        while let Some(first) = self.segments.front() {
            let whole = first.bytes().len();
            if self.sent < whole || matches!(first, Segment::Gap { .. }) {
                break;
            }
            self.sent -= whole;
            self.private -= first.private();
            self.held -= first.held();
            if let Segment::Told(bytes) = first {
                self.told -= bytes.len();
            }
            self.segments.pop_front();
        }
        // A long queue must not keep its room when it has become short.
        if self.segments.capacity() > 256 && self.segments.len() < self.segments.capacity() / 4 {
            self.segments.shrink_to(2 * self.segments.len());
        }
    }

    /// Makes the rest of a frame that has begun to leave a segment of its own. Nothing of the others has been sent
    /// then, and they begin with a frame.
    fn split_begun(&mut self, voice: Voice) {
        let Some(first) = self.segments.front() else { return };
        if self.sent == 0 {
            return;
        }
        let bytes = first.bytes();
        let boundary = match first {
            Segment::Begun { .. } => bytes.len(),
            _ => dialect::first_boundary(voice, bytes, self.sent),
        };
        let begun = bytes[self.sent..boundary].to_vec();
        let is_private = first.private() > 0;
        match self.segments.pop_front() {
            Some(Segment::Slice { run, start, end, pays }) if start + place(boundary) < end => {
                self.segments.push_front(Segment::Slice { run, start: start + place(boundary), end, pays });
            }
            Some(Segment::Private(bytes)) if boundary < bytes.len() => {
                self.segments.push_front(Segment::Private(bytes[boundary..].to_vec()));
            }
            _ => {}
        }
        if !begun.is_empty() {
            self.segments.push_front(Segment::Begun { bytes: begun, is_private });
        }
        self.sent = 0;
    }
}
