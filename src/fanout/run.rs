//! A run is a stretch of whole frames of one channel. The channel's subscribers on one shard share it. They also share
//! the same frames compressed, once for each window size that was agreed. `fanout` builds runs, outboxes hold slices.
//!
//! If no frame of a run may be dropped, its messages are compressed together. Each message may refer to those before it
//! (RFC 7692 §7.1.1: context takeover), but never to a message before the run. So nothing is kept for a connection, and
//! compression pays for small messages too. Such a run goes to a client whole or not at all, see [`Packer::pack`].

use std::cell::{OnceCell, RefCell};
use std::rc::{Rc, Weak};
use std::sync::Arc;

use crate::metrics::{Count, ShardMetrics};
use crate::model::namespace::{Compress, Overflow, Sending};
use crate::wire::deflate::Deflate;
use crate::wire::deflate::compress::Compressors;
use crate::wire::frame;

/// A run that subscribers and outboxes share.
pub(crate) type Run = Rc<Frames>;

/// A stretch of whole frames of one channel.
#[derive(Debug)]
pub struct Frames {
    /// The channel and its epoch.
    pub origin: Rc<Origin>,
    /// How the frames are compressed; `None` if all of them are plain.
    pub packed: Option<Deflate>,
    /// The frames, one behind the other.
    pub bytes: Vec<u8>,
    /// The end and the offset of each frame, in order.
    pub marks: Vec<Mark>,
}

/// What all runs of one channel on a shard have in common during one epoch.
#[derive(Debug)]
pub struct Origin {
    /// The name of the channel.
    pub(crate) channel: Arc<str>,
    /// The epoch of the offsets.
    pub(crate) epoch: Arc<str>,
    /// Whether frames may be dropped for a slow client, and whether they may be compressed.
    pub(crate) sending: Sending,
    /// The latest digests, oldest first. See [`Self::digests`]. Seldom there, and so behind a pointer.
    digests: OnceCell<Box<RefCell<Vec<Weak<Frames>>>>>,
}

/// The number of digests that an origin remembers.
const DIGESTS: usize = 4;

impl Origin {
    /// The origin of a channel's runs, without digests.
    pub fn new(channel: Arc<str>, epoch: Arc<str>, sending: Sending) -> Rc<Self> {
        Rc::new(Self { channel, epoch, sending, digests: OnceCell::new() })
    }

    /// Whether publications may be dropped for a slow client.
    pub(crate) fn may_drop(&self) -> bool {
        self.sending.overflow != Overflow::Disconnect
    }

    /// The latest digests that some outbox still holds, newest first. A digest is a run of the frames that one client
    /// kept when it was slow. Clients that are equally slow keep the same frames, and so they share one digest.
    pub(crate) fn digests(&self) -> Vec<Run> {
        self.digests
            .get()
            .map_or_else(Vec::new, |digests| digests.borrow().iter().rev().filter_map(Weak::upgrade).collect())
    }

    /// Lets other outboxes find a digest.
    pub(crate) fn add_digest(&self, digest: &Run) {
        let mut digests = self.digests.get_or_init(Box::default).borrow_mut();
        digests.retain(|digest| digest.strong_count() > 0);
        if digests.len() == DIGESTS {
            digests.remove(0);
        }
        digests.push(Rc::downgrade(digest));
    }
}

/// One frame of a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mark {
    /// Where the frame ends in the run.
    pub end: u32,
    /// The publication's offset. 0 for an event, which has no offset and is never dropped.
    pub offset: u64,
    /// A hash of the publication's key; 0 if it has no key.
    pub key: u64,
}

impl Frames {
    /// The bytes of memory that the run holds. Unused capacity counts.
    pub(crate) fn weight(&self) -> usize {
        const COUNTS: usize = 2 * size_of::<usize>();
        COUNTS + size_of::<Self>() + self.bytes.capacity() + self.marks.capacity() * size_of::<Mark>()
    }

    /// The number of frames from `start` to `end`. Both are boundaries of frames.
    pub(crate) fn count(&self, start: usize, end: usize) -> usize {
        if (start, end) == (0, self.bytes.len()) {
            return self.marks.len();
        }
        let before = |place: usize| self.marks.partition_point(|mark| mark.end as usize <= place);
        before(end) - before(start)
    }

    /// The frames between two boundaries, each with the place where it starts.
    pub(crate) fn frames(&self, start: u32, end: u32) -> impl Iterator<Item = (u32, Mark)> + '_ {
        let first = self.marks.partition_point(|mark| mark.end <= start);
        let mut at = start;
        self.marks[first..].iter().take_while(move |mark| mark.end <= end).map(move |mark| {
            let from = std::mem::replace(&mut at, mark.end);
            (from, *mark)
        })
    }
}

/// A place in a run, in the type in which it is kept.
pub(crate) fn place(at: usize) -> u32 {
    u32::try_from(at).expect("runs are sealed far below 4 GiB")
}

/// Compresses runs for the clients that have made the same agreement.
#[derive(Debug)]
pub struct Packer<'a> {
    /// The agreement on compression.
    pub deflate: Deflate,
    /// Runs and messages of fewer bytes are not compressed.
    pub min_bytes: usize,
    /// The compressors of the shard.
    pub compressors: &'a mut Compressors,
    /// A clock in nanoseconds, for the metrics alone.
    pub stopwatch: fn() -> u64,
    /// The metrics of the shard.
    pub metrics: &'a ShardMetrics,
}

impl Packer<'_> {
    /// How the run is compressed for these clients. No message may refer to a frame that may be dropped, so each of those
    /// frames is compressed alone.
    pub(crate) fn variant(&self, run: &Frames) -> Deflate {
        Deflate { takeover: self.deflate.takeover && !run.origin.may_drop(), ..self.deflate }
    }

    /// The run with its messages compressed; `None` if that does not pay or is not wanted. A client may get it in place of
    /// the run only if the client gets all of it, and gets no other compressed bytes in between: its frames may refer to
    /// each other, and they begin at other places than in the run.
    pub fn pack(&mut self, run: &Frames) -> Option<Frames> {
        if run.origin.sending.compress == Compress::Off || run.bytes.len() < self.min_bytes {
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

    /// The frames, and the number of those that are compressed.
    fn compress(&mut self, run: &Frames) -> (Frames, usize) {
        let variant = self.variant(run);
        let together = variant.takeover;
        let mut batch = self.compressors.batch(variant.window_bits);
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
        (Frames { origin: Rc::clone(&run.origin), packed: Some(variant), bytes, marks }, count)
    }
}

#[cfg(test)]
mod tests {
    use flate2::{Decompress, FlushDecompress, Status};
    use proptest::prelude::*;

    use super::*;
    use crate::metrics::Metrics;

    /// What a client does that keeps what it inflated, as far as its window goes.
    struct Client {
        stream: Decompress,
        takeover: bool,
    }

    impl Client {
        fn new(deflate: Deflate) -> Self {
            Self { stream: Decompress::new_with_window_bits(false, deflate.window_bits), takeover: deflate.takeover }
        }

        fn read(&mut self, frames: &Frames) -> Vec<String> {
            let all = frames.frames(0, place(frames.bytes.len()));
            all.map(|(start, mark)| self.message(&frames.bytes[start as usize..mark.end as usize])).collect()
        }

        fn message(&mut self, frame: &[u8]) -> String {
            let (_, payload) = frame::message(frame);
            if frame[0] & 0x40 == 0 {
                return String::from_utf8(payload.to_vec()).expect("text");
            }
            if !self.takeover {
                self.stream.reset(false);
            }
            let (input, mut out) = ([payload, &[0, 0, 0xff, 0xff]].concat(), Vec::new());
            let before = self.stream.total_in();
            // Little by little, so that what lies behind the window is out of reach.
            loop {
                let taken = (self.stream.total_in() - before) as usize;
                let (mut room, made) = ([0; 64], self.stream.total_out());
                let status =
                    self.stream.decompress(&input[taken..], &mut room, FlushDecompress::Sync).expect("DEFLATE");
                let made = (self.stream.total_out() - made) as usize;
                out.extend_from_slice(&room[..made]);
                if status == Status::BufError
                    || (made < room.len() && self.stream.total_in() - before == input.len() as u64)
                {
                    return String::from_utf8(out).expect("text");
                }
            }
        }
    }

    fn run(texts: &[String], overflow: Overflow) -> Frames {
        let (mut bytes, mut marks) = (Vec::new(), Vec::new());
        for (offset, text) in (1..).zip(texts) {
            frame::write_text(&mut bytes, text.as_bytes());
            marks.push(Mark { end: place(bytes.len()), offset, key: offset % 3 });
        }
        let origin = Origin::new("c".into(), "e".into(), Sending { overflow, compress: Compress::Auto });
        Frames { origin, packed: None, bytes, marks }
    }

    fn pack(run: &Frames, deflate: Deflate, min_bytes: usize, compressors: &mut Compressors) -> Option<Frames> {
        let metrics = Metrics::new(1).shard(0);
        Packer { deflate, min_bytes, compressors, stopwatch: || 0, metrics: &metrics }.pack(run)
    }

    fn text() -> impl Strategy<Value = String> {
        prop_oneof![
            "[a-z\"{}:, ]{0,300}",
            (0..50usize).prop_map(|n| format!(r#"{{"type":"publication","data":{{"price":{n},"name":"some name"}}}}"#)),
            (0..4_000usize).prop_map(|n| "over and over, ".repeat(n / 15)),
            "\\PC{0,200}",
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        /// Runs one after the other, as a client gets them: each is whole, or the plain run in its place.
        #[test]
        fn a_packed_run_says_what_the_run_says(
            runs in prop::collection::vec((prop::collection::vec(text(), 1..12), any::<bool>()), 1..6),
            window_bits in 9u8..=15,
            takeover: bool,
            overflow in prop::sample::select(&[Overflow::Disconnect, Overflow::DropOldest, Overflow::Conflate][..]),
            min_bytes in 0usize..400,
        ) {
            let deflate = Deflate { window_bits, takeover };
            let mut compressors = Compressors::new(1);
            let mut client = Client::new(deflate);
            for (texts, is_missed) in &runs {
                let run = run(texts, overflow);
                let packed = pack(&run, deflate, min_bytes, &mut compressors);
                if *is_missed {
                    continue;
                }
                let sent = packed.as_ref().unwrap_or(&run);
                prop_assert!(sent.bytes.len() <= run.bytes.len());
                prop_assert_eq!(&client.read(sent), texts);
                let meta = |frames: &Frames| frames.marks.iter().map(|mark| (mark.offset, mark.key)).collect::<Vec<_>>();
                prop_assert_eq!(meta(sent), meta(&run));
            }
        }
    }

    #[test]
    fn what_may_be_dropped_is_not_referred_to() {
        let texts: Vec<String> = (0..6).map(|n| format!("{} {n}", "the same again ".repeat(30))).collect();
        let deflate = Deflate { window_bits: 15, takeover: true };
        let mut compressors = Compressors::new(1);
        for overflow in [Overflow::DropOldest, Overflow::Conflate] {
            let packed = pack(&run(&texts, overflow), deflate, 256, &mut compressors).expect("it pays");
            for (place, (start, mark)) in packed.frames(0, place(packed.bytes.len())).enumerate() {
                let alone = Client::new(deflate).message(&packed.bytes[start as usize..mark.end as usize]);
                assert_eq!(alone, texts[place]);
            }
        }
    }

    #[test]
    fn small_messages_pay_together() {
        let texts: Vec<String> = (0..40)
            .map(|n| format!(r#"{{"type":"publication","data":{{"channel":"prices","offset":{n},"data":{}}}}}"#, n * 7))
            .collect();
        let mut compressors = Compressors::new(1);
        let run = run(&texts, Overflow::Disconnect);
        let alone = Deflate { window_bits: 15, takeover: false };
        assert!(pack(&run, alone, 256, &mut compressors).is_none(), "by itself each is too short");
        let packed = pack(&run, Deflate { takeover: true, ..alone }, 256, &mut compressors).expect("it pays");
        assert!(packed.bytes.len() * 3 < run.bytes.len(), "{} of {}", packed.bytes.len(), run.bytes.len());
    }

    #[test]
    fn what_is_no_gain_stays_as_it_is() {
        let mut compressors = Compressors::new(9);
        let deflate = Deflate { window_bits: 9, takeover: true };
        let short = run(&["short".into()], Overflow::Disconnect);
        assert!(pack(&short, deflate, 0, &mut compressors).is_none());
        assert!(pack(&run(&["x".repeat(200)], Overflow::Disconnect), deflate, 256, &mut compressors).is_none());
        let sending = Sending { overflow: Overflow::Disconnect, compress: Compress::Off };
        let origin = Origin::new("c".into(), "e".into(), sending);
        let off = Frames { origin, ..run(&["x".repeat(2_000)], Overflow::Disconnect) };
        assert!(pack(&off, deflate, 256, &mut compressors).is_none());
    }
}
