//! Bringing down what an outbox holds, when its client is slow. Publications are dropped as their channel's `overflow`
//! says, and a gap stands for each stretch of them: a gap ends before the next publication of its channel that is kept,
//! so a client's position only grows over what it was sent or told lost. Frames that are kept are copied out of runs of
//! which little is left, into a *digest*: a run that other clients can share which keep the same frames.
//!
//! The number of gaps is bounded. Each stands before a kept publication, before the end of a subscription, or at the end
//! of its channel, and each counts [`SEGMENT_BYTES`](super::SEGMENT_BYTES).

use std::collections::VecDeque;
use std::rc::Rc;

use hashbrown::{HashMap, HashSet};

use super::{Queue, Segment};
use crate::fanout::run::{Frames, Mark, Origin, Run, place};
use crate::model::namespace::Overflow;
use crate::model::notice::GapReason;
use crate::model::voice::Voice;

type ByAddress<V> = HashMap<usize, V, foldhash::fast::RandomState>;

fn address<T>(shared: &Rc<T>) -> usize {
    Rc::as_ptr(shared).addr()
}

impl Queue {
    /// Drops publications until no more than `keep` bytes are held, or no more may be dropped; then gives back the
    /// memory of dropped frames, more thoroughly if more than `most` bytes are held. Returns whether anything was
    /// dropped.
    pub(super) fn tidy(&mut self, keep: usize, most: usize, voice: Voice) -> bool {
        self.split_begun(voice);
        self.recount();
        let has_shed = self.shed(keep);
        self.compact(is_mostly_dead);
        if self.held > most {
            self.compact(is_wasteful);
        }
        has_shed
    }

    /// Drops publications: the superseded ones, then the oldest ones that no key protects.
    fn shed(&mut self, keep: usize) -> bool {
        let newest = Newest::new(&self.segments);
        let superseded = slices(&self.segments).filter_map(|(run, start, end)| {
            let superseded = |(_, mark): &(u32, Mark)| newest.supersedes(run, *mark);
            (run.origin.sending.overflow == Overflow::Conflate).then(|| {
                let frames = run.frames(start, end).filter(superseded);
                frames.map(|(start, mark)| share(run, mark.end - start)).sum::<usize>()
            })
        });
        let mut excess = self.held.saturating_sub(superseded.sum()).saturating_sub(keep);
        let mut kept = KeptSegments::default();
        let mut has_shed = false;
        for segment in std::mem::take(&mut self.segments) {
            let Segment::Slice { run, start, end, .. } = segment else {
                kept.push(segment);
                continue;
            };
            if !run.origin.may_drop() {
                kept.segments.push_back(Segment::Slice { run, start, end, pays: false });
                continue;
            }
            for (start, mark) in run.frames(start, end) {
                let reason = match () {
                    () if mark.offset == 0 => None,
                    () if newest.supersedes(&run, mark) => Some(GapReason::Conflated),
                    () if excess > 0 && !newest.protects(&run, mark) => {
                        excess = excess.saturating_sub(share(&run, mark.end - start));
                        Some(GapReason::SlowConsumer)
                    }
                    () => None,
                };
                match reason {
                    Some(reason) => {
                        kept.push_gap(&run.origin, mark.offset, mark.offset, reason);
                        has_shed = true;
                    }
                    None => kept.push_frame(&run, start, mark.end),
                }
            }
        }
        self.segments = kept.segments;
        self.recount();
        has_shed
    }

    /// Copies the frames of runs of which so little is left that the run `is_waste`, and lets go of the runs.
    fn compact(&mut self, is_waste: fn(&Frames, Live) -> bool) {
        let mut live: ByAddress<Live> = ByAddress::default();
        for (run, start, end) in slices(&self.segments) {
            let live = live.entry(address(run)).or_default();
            live.bytes += (end - start) as usize;
            live.frames += run.count(start as usize, end as usize);
        }
        let is_waste = |run: &Run| is_waste(run, live[&address(run)]);
        let mut wanted: ByAddress<Vec<WantedFrame<'_>>> = ByAddress::default();
        for (run, start, end) in slices(&self.segments).filter(|(run, ..)| is_waste(run)) {
            let list = wanted.entry(address(&run.origin)).or_default();
            list.extend(run.frames(start, end).map(|(start, mark)| WantedFrame { run, start, mark }));
        }
        if wanted.is_empty() {
            return;
        }
        let mut copies: ByAddress<_> = wanted.iter().map(|(origin, list)| (*origin, copy(list).into_iter())).collect();
        drop(wanted);
        let mut kept = KeptSegments::default();
        for segment in std::mem::take(&mut self.segments) {
            match segment {
                Segment::Slice { run, start, end, .. } if is_waste(&run) => {
                    let copies = copies.get_mut(&address(&run.origin)).expect("as the wanted frames");
                    for (run, start, end) in copies.by_ref().take(run.count(start as usize, end as usize)) {
                        kept.push_frame(&run, start, end);
                    }
                }
                segment => kept.segments.push_back(segment),
            }
        }
        self.segments = kept.segments;
        self.recount();
    }

    /// Counts all segments anew, each run once.
    fn recount(&mut self) {
        let (counted, tidy_at) = (self.counted, self.tidy_at);
        let mut segments = std::mem::take(&mut self.segments);
        let mut paid: HashSet<usize, foldhash::fast::RandomState> = HashSet::default();
        for segment in segments.iter_mut().rev() {
            if let Segment::Slice { run, pays, .. } = segment {
                *pays = paid.insert(address(run));
            }
        }
        *self = Self { counted, tidy_at, segments: VecDeque::with_capacity(segments.len()), ..Self::default() };
        segments.into_iter().for_each(|segment| self.append(segment));
    }
}

fn slices(segments: &VecDeque<Segment>) -> impl Iterator<Item = (&Run, u32, u32)> {
    segments.iter().filter_map(|segment| match segment {
        Segment::Slice { run, start, end, .. } => Some((run, *start, *end)),
        _ => None,
    })
}

/// The share of a run's weight that so many of its bytes have.
fn share(run: &Frames, bytes: u32) -> usize {
    let share = run.weight() as u64 * u64::from(bytes) / run.bytes.len() as u64;
    usize::try_from(share).expect("no more than the run's weight")
}

/// For each key of each `conflate` channel, the newest publication that waits.
struct Newest(HashMap<(usize, u64), u64, foldhash::fast::RandomState>);

impl Newest {
    fn new(segments: &VecDeque<Segment>) -> Self {
        let mut newest = HashMap::default();
        for (run, start, end) in slices(segments) {
            if run.origin.sending.overflow == Overflow::Conflate {
                for (_, mark) in run.frames(start, end).filter(|(_, mark)| mark.key != 0) {
                    newest.insert((address(&run.origin), mark.key), mark.offset);
                }
            }
        }
        Self(newest)
    }

    fn supersedes(&self, run: &Frames, mark: Mark) -> bool {
        self.of(run, mark).is_some_and(|newest| newest > mark.offset)
    }

    fn protects(&self, run: &Frames, mark: Mark) -> bool {
        self.of(run, mark) == Some(mark.offset)
    }

    fn of(&self, run: &Frames, mark: Mark) -> Option<u64> {
        if mark.key == 0 { None } else { self.0.get(&(address(&run.origin), mark.key)).copied() }
    }
}

/// The segments that are kept, and the gaps between them.
#[derive(Default)]
struct KeptSegments {
    segments: VecDeque<Segment>,
    /// By origin, where the latest gap is that may still grow.
    open: ByAddress<usize>,
}

impl KeptSegments {
    fn push(&mut self, segment: Segment) {
        match segment {
            Segment::Gap { origin, from, to, reason } => self.push_gap(&origin, from, to, reason),
            segment => {
                if matches!(segment, Segment::Fence) {
                    self.open.clear();
                }
                self.segments.push_back(segment);
            }
        }
    }

    fn push_frame(&mut self, run: &Run, from: u32, to: u32) {
        match self.segments.back_mut() {
            Some(Segment::Slice { run: last, end, .. }) if Rc::ptr_eq(last, run) && *end == from => *end = to,
            _ => self.segments.push_back(Segment::Slice { run: Rc::clone(run), start: from, end: to, pays: false }),
        }
    }

    /// Adds to the channel's latest gap if nothing of the channel is kept between, or makes a gap.
    fn push_gap(&mut self, origin: &Rc<Origin>, from: u64, to: u64, reason: GapReason) {
        let open = self.open.get(&address(origin)).and_then(|&at| self.segments.get_mut(at));
        if let Some(Segment::Gap { to: end, reason: was, .. }) = open
            // Offsets have no holes, so a gap ends where the next one begins, or at a publication that is kept.
            && *end + 1 == from
        {
            *end = to;
            if *was != reason {
                // Some of them are superseded and some are lost.
                *was = GapReason::SlowConsumer;
            }
            return;
        }
        self.open.insert(address(origin), self.segments.len());
        self.segments.push_back(Segment::Gap { origin: Rc::clone(origin), from, to, reason });
    }
}

/// How much of a run waits in an outbox.
#[derive(Clone, Copy, Default)]
struct Live {
    bytes: usize,
    frames: usize,
}

/// Less than half of it is still to be sent.
fn is_mostly_dead(run: &Frames, live: Live) -> bool {
    live.bytes < run.bytes.len() / 2
}

/// A copy would hold less by an eighth. Not where nothing is dropped: clients that are equally far behind share those
/// runs, and copies would be one for each client.
fn is_wasteful(run: &Frames, live: Live) -> bool {
    let copied = live.bytes + live.frames * size_of::<Mark>();
    is_mostly_dead(run, live) || run.origin.may_drop() && copied < run.weight() - run.weight() / 8
}

/// A frame that is to be copied.
struct WantedFrame<'a> {
    run: &'a Run,
    start: u32,
    mark: Mark,
}

impl WantedFrame<'_> {
    fn bytes(&self) -> &[u8] {
        &self.run.bytes[self.start as usize..self.mark.end as usize]
    }
}

/// Where copies of frames of one origin are, in the same order: in digests that other outboxes hold as far as they are
/// of use, and in a new one.
fn copy(wanted: &[WantedFrame<'_>]) -> Vec<(Run, u32, u32)> {
    let origin = &wanted[0].run.origin;
    // Who can inflate the largest window among them can inflate all of them.
    let packed = wanted.iter().filter_map(|wanted| wanted.run.packed).max_by_key(|packed| packed.window_bits);
    let mut places: Vec<Option<(Run, u32, u32)>> = vec![None; wanted.len()];
    // Frames that can't be dropped may be compressed together, so a client needs all of them in the same form.
    let digests = if origin.may_drop() { origin.digests() } else { Vec::new() };
    for digest in digests.iter().filter(|digest| digest.packed == packed) {
        let found = find(digest, wanted, &places);
        let bytes: usize = found.iter().map(|(_, start, end)| (end - start) as usize).sum();
        if bytes >= digest.bytes.len() - digest.bytes.len() / 8 {
            for (at, start, end) in found {
                places[at] = Some((Rc::clone(digest), start, end));
            }
        }
    }
    let missing = || wanted.iter().zip(&places).filter(|(_, place)| place.is_none()).map(|(wanted, _)| wanted);
    let count = missing().count();
    if count > 0 {
        let mut bytes = Vec::with_capacity(missing().map(|wanted| wanted.bytes().len()).sum());
        let mut marks = Vec::with_capacity(count);
        for wanted in missing() {
            bytes.extend_from_slice(wanted.bytes());
            marks.push(Mark { end: place(bytes.len()), ..wanted.mark });
        }
        let digest = Rc::new(Frames { origin: Rc::clone(origin), packed, bytes, marks });
        if origin.may_drop() {
            origin.add_digest(&digest);
        }
        let mut frames = digest.frames(0, place(digest.bytes.len()));
        for place in places.iter_mut().filter(|place| place.is_none()) {
            let (start, mark) = frames.next().expect("as many as were missing");
            *place = Some((Rc::clone(&digest), start, mark.end));
        }
    }
    places.into_iter().flatten().collect()
}

/// Which of the wanted frames that have no place yet are in a digest, and where: index, start and end.
fn find(digest: &Run, wanted: &[WantedFrame<'_>], places: &[Option<(Run, u32, u32)>]) -> Vec<(usize, u32, u32)> {
    let mut found = Vec::new();
    let mut frames = digest.frames(0, place(digest.bytes.len())).peekable();
    for (at, wanted) in wanted.iter().enumerate().filter(|(at, _)| places[*at].is_none()) {
        let offset = wanted.mark.offset;
        if offset > 0 {
            while frames.next_if(|(_, mark)| mark.offset < offset).is_some() {}
        }
        let is_same = |(start, mark): &(u32, Mark)| {
            let bytes = &digest.bytes[*start as usize..mark.end as usize];
            // An event has no offset to be told by.
            mark.offset == offset && (offset > 0 || bytes == wanted.bytes())
        };
        if let Some((start, mark)) = frames.next_if(is_same) {
            found.push((at, start, mark.end));
        }
    }
    found
}
