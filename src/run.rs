//! A run: a stretch of whole frames of one channel, which its subscribers on one shard share, and the same frames
//! compressed, made once for all who inflate with the same window. Pure; `fanout` builds runs, outboxes hold slices.
//!
//! Where nothing of a run may be dropped, its messages are compressed together: each may refer to those before it
//! (RFC 7692 §7.1.1: context takeover), though never to what came before the run. So nothing is kept per connection,
//! and small messages pay too; but such a run goes to a client whole or not at all, see [`Packer::pack`].

use std::rc::Rc;
use std::sync::Arc;

use crate::metrics::{Count, ShardMetrics};
use crate::namespace::{Compress, Overflow};
use crate::proto::deflate::Deflate;
use crate::proto::deflate::compress::Compressors;
use crate::proto::frame;

/// A run, shared.
pub type Run = Rc<Frames>;

/// A stretch of whole frames.
#[derive(Debug)]
pub struct Frames {
    /// Whose they are, for the gap that stands where some of them are dropped.
    pub channel: Arc<str>,
    /// Which life of the channel's offsets.
    pub epoch: Arc<str>,
    /// What may be dropped of them for a client that is slow.
    pub overflow: Overflow,
    /// Whether they may be compressed.
    pub compress: Compress,
    /// The frames, end to end.
    pub bytes: Vec<u8>,
    /// Where each ends and what it is, in order.
    pub marks: Vec<Mark>,
}

/// One frame of a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mark {
    /// Where it ends in the run.
    pub end: u32,
    /// A publication's offset; 0 for an event, which has none and is never dropped.
    pub offset: u64,
    /// What stands for a publication's key; 0 if it has none.
    pub key: u64,
}

impl Frames {
    /// How many frames there are from `start` to `end`, both of which are boundaries.
    pub fn count(&self, start: usize, end: usize) -> usize {
        if (start, end) == (0, self.bytes.len()) {
            return self.marks.len();
        }
        let before = |place: usize| self.marks.partition_point(|mark| mark.end as usize <= place);
        before(end) - before(start)
    }

    /// The frames between two boundaries, each with where it starts.
    pub fn frames(&self, start: u32, end: u32) -> impl Iterator<Item = (u32, Mark)> + '_ {
        let first = self.marks.partition_point(|mark| mark.end <= start);
        let mut at = start;
        self.marks[first..].iter().take_while(move |mark| mark.end <= end).map(move |mark| {
            let from = std::mem::replace(&mut at, mark.end);
            (from, *mark)
        })
    }
}

/// A place in a run as it is kept.
pub fn place(at: usize) -> u32 {
    u32::try_from(at).expect("runs are sealed far below 4 GiB")
}

/// Compresses runs for the clients with which one thing was agreed.
#[derive(Debug)]
pub struct Packer<'a> {
    /// What was agreed.
    pub deflate: Deflate,
    /// Below this many bytes nothing is compressed.
    pub min_bytes: usize,
    /// The shard's.
    pub compressors: &'a mut Compressors,
    /// A clock in nanoseconds, for the metrics alone.
    pub stopwatch: fn() -> u64,
    /// Where it is counted.
    pub metrics: &'a ShardMetrics,
}

impl Packer<'_> {
    /// The run with its messages compressed; `None` if that doesn't pay or isn't wanted. It may be sent in place of the
    /// run to whoever gets all of it, and whose next compressed bytes it is: frames may refer to each other, and lie
    /// elsewhere than in the run.
    pub fn pack(&mut self, run: &Frames) -> Option<Frames> {
        if run.compress == Compress::Off || run.bytes.len() < self.min_bytes {
            self.metrics.add(Count::PackSkipped, run.marks.len());
            return None;
        }
        let started_ns = (self.stopwatch)();
        let (packed, count) = self.compress(run);
        let took_ns = (self.stopwatch)().saturating_sub(started_ns);
        self.metrics.add(Count::PackNs, usize::try_from(took_ns).unwrap_or(usize::MAX));
        self.metrics.add(Count::PackSkipped, run.marks.len() - count);
        if count == 0 {
            return None;
        }
        self.metrics.add(Count::Packed, count);
        self.metrics.add(Count::PackBytesBefore, run.bytes.len());
        self.metrics.add(Count::PackBytesAfter, packed.bytes.len());
        Some(packed)
    }

    /// The frames, and how many of them are compressed.
    fn compress(&mut self, run: &Frames) -> (Frames, usize) {
        // What may be dropped must not be referred to.
        let together = self.deflate.takeover && run.overflow == Overflow::Disconnect;
        let mut batch = self.compressors.batch(self.deflate.window_bits);
        let (mut bytes, mut marks, mut count) = (Vec::new(), Vec::with_capacity(run.marks.len()), 0);
        for (start, mark) in run.frames(0, place(run.bytes.len())) {
            let plain = &run.bytes[start as usize..mark.end as usize];
            let (opcode, content) = frame::message(plain);
            if !together {
                batch.begin_afresh();
            }
            let worth_while = together || content.len() >= self.min_bytes;
            if worth_while && batch.write(&mut bytes, opcode, content) {
                count += 1;
            } else {
                bytes.extend_from_slice(plain);
            }
            marks.push(Mark { end: place(bytes.len()), ..mark });
        }
        let (channel, epoch) = (Arc::clone(&run.channel), Arc::clone(&run.epoch));
        (Frames { channel, epoch, overflow: run.overflow, compress: run.compress, bytes, marks }, count)
    }
}
