//! One channel on a shard, for the subscribers of one voice: who they are, and what they are due. An idle channel holds
//! its name, its subscribers and nothing else. The first one needs no memory of its own. Pure.

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use smallvec::SmallVec;

use crate::fanout::outbox::{Outbox, SEGMENT_BYTES};
use crate::fanout::run::{Frames, Mark, Origin, Packer, Run, place};
use crate::metrics::Count;
use crate::model::voice::Voice;
use crate::wire::deflate::Deflate;

/// An open run is sealed when it gets this long.
const SEAL_BYTES: usize = 256 * 1024;
/// A private frame that overtakes an open run copies what the connection is due of it, up to this much; above it
/// the run is sealed instead, and shared.
const COPY_BYTES: usize = 4 * 1024;
/// A run is compressed in at most this many variants, however many kinds of agreements its subscribers have.
const VARIANTS: usize = 3;
/// Buffers with more room than this, in bytes and in frames, are not kept for the next run.
const KEPT_BYTES: usize = 4 * 1024;
const KEPT_MARKS: usize = 64;
/// Room for more sealed runs than this is not kept either.
const KEPT_RUNS: usize = 8;
/// Room for subscribers is given back when it is more than this and three quarters of it are empty.
const KEPT_SUBSCRIBERS: usize = 16;

/// One connection's subscription, as the channel sees it.
#[derive(Debug)]
pub(crate) struct Subscriber {
    /// The connection's slot in its shard.
    pub(crate) slot: u32,
    run: u32,
    start: u32,
}

/// Which frames an outbox keeps as frames of their channel when a private frame overtakes them. Others are copied, and
/// nothing but their bytes is known any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum KeptFrames {
    /// None: the client takes what it is sent.
    None,
    /// Those that may be dropped: the client is slow.
    Droppable,
    /// All of them: they get ids of the connection's own before they are sent.
    All,
}

/// One channel's frames and subscribers of one voice on this shard.
#[derive(Debug)]
pub struct LocalChannel {
    pub(super) origin: Rc<Origin>,
    /// `None` while every subscriber has had all frames.
    pub(super) due: Option<Box<DueRuns>>,
    /// In no order. Walked from the back: a subscriber that is removed is replaced by the last one, and the walk then misses none.
    subscribers: SmallVec<[Subscriber; 1]>,
    /// Number of the oldest sealed run, or of the open one if none is sealed.
    first: u32,
    pub(super) voice: Voice,
}

/// The frames that some subscriber may be due.
#[derive(Debug, Default)]
pub(super) struct DueRuns {
    sealed: VecDeque<Sealed>,
    open: Vec<u8>,
    /// The frames of `open`.
    marks: Vec<Mark>,
    /// Some frame came after the latest flush began.
    pub(super) is_dirty: bool,
    /// Where the channel stands in the list of those that have this.
    pub(super) place: u32,
}

/// A run that is being sent.
#[derive(Debug)]
struct Sealed {
    run: Run,
    /// The same compressed, by variant; nothing if it doesn't pay. At most [`VARIANTS`], and seldom more than one.
    packed: Vec<(Deflate, Option<Run>)>,
}

impl Sealed {
    /// What a subscriber gets that is due the run from `start` on, and the place where that begins. A run is packed as a
    /// whole only: see [`Packer`].
    fn due(&mut self, start: usize, packer: Option<&mut Packer<'_>>) -> (&Run, usize) {
        let Some(packer) = packer.filter(|_| start == 0) else { return (&self.run, start) };
        let wanted = packer.variant(&self.run);
        let mut at = self.packed.iter().position(|(variant, _)| *variant == wanted);
        if at.is_none() && self.packed.len() < VARIANTS {
            self.packed.push((wanted, packer.pack(&self.run).map(Rc::new)));
            at = Some(self.packed.len() - 1);
        }
        let at = at.or_else(|| {
            packer.metrics.count(Count::PackBorrowed);
            self.packed.iter().position(|(variant, _)| wanted.can_read(*variant))
        });
        (at.and_then(|at| self.packed[at].1.as_ref()).unwrap_or(&self.run), 0)
    }
}

impl DueRuns {
    /// Makes what has come so far immutable. Room that is not used counts where the run is held, so little of it stays.
    fn seal(&mut self, origin: &Rc<Origin>) {
        if self.open.is_empty() {
            return;
        }
        let (mut bytes, mut marks) = (std::mem::take(&mut self.open), std::mem::take(&mut self.marks));
        if bytes.capacity() > 2 * bytes.len() + 64 {
            bytes.shrink_to_fit();
        }
        if marks.capacity() > 2 * marks.len() + 2 {
            marks.shrink_to_fit();
        }
        let run = Rc::new(Frames { origin: Rc::clone(origin), packed: None, bytes, marks });
        self.sealed.push_back(Sealed { run, packed: Vec::new() });
    }

    /// Forgets the oldest `count` sealed runs. The buffers of a run that no outbox holds are used again.
    fn forget(&mut self, count: usize) {
        for sealed in self.sealed.drain(..count) {
            let Ok(Frames { mut bytes, mut marks, .. }) = Rc::try_unwrap(sealed.run) else { continue };
            if self.open.capacity() == 0 && bytes.capacity() <= KEPT_BYTES && marks.capacity() <= KEPT_MARKS {
                bytes.clear();
                marks.clear();
                (self.open, self.marks) = (bytes, marks);
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.sealed.is_empty() && self.open.is_empty()
    }

    /// Gets ready for another channel: only buffers of moderate size stay.
    pub(super) fn clear(&mut self) {
        self.forget(self.sealed.len());
        if self.open.capacity() > KEPT_BYTES || self.marks.capacity() > KEPT_MARKS {
            (self.open, self.marks) = (Vec::new(), Vec::new());
        }
        self.sealed.shrink_to(KEPT_RUNS);
        self.open.clear();
        self.marks.clear();
        self.is_dirty = false;
    }
}

impl LocalChannel {
    /// A channel without subscribers.
    pub(super) fn new(origin: Rc<Origin>, voice: Voice) -> Self {
        Self { origin, due: None, subscribers: SmallVec::new(), first: 0, voice }
    }

    /// The name of the channel.
    pub(crate) fn name(&self) -> &Arc<str> {
        &self.origin.channel
    }

    /// What all of its runs have in common.
    pub(crate) fn origin(&self) -> &Rc<Origin> {
        &self.origin
    }

    /// How many subscribe here.
    pub fn len(&self) -> usize {
        self.subscribers.len()
    }

    /// Bytes of frames that no flush has taken up.
    pub(crate) fn open_bytes(&self) -> usize {
        self.due.as_ref().map_or(0, |due| due.open.len())
    }

    /// The channel has no subscriber here.
    pub fn is_empty(&self) -> bool {
        self.subscribers.is_empty()
    }

    /// The subscriber at `index`.
    pub(crate) fn subscriber(&self, index: usize) -> &Subscriber {
        &self.subscribers[index]
    }

    /// All subscribers, in no order.
    pub(super) fn subscribers(&self) -> &[Subscriber] {
        &self.subscribers
    }

    /// Adds a subscriber who gets what comes from now on. Returns its index.
    pub(super) fn add(&mut self, slot: u32) -> u32 {
        let start = self.due.as_ref().map_or(0, |due| place(due.open.len()));
        self.subscribers.push(Subscriber { slot, run: self.open_number(), start });
        place(self.subscribers.len() - 1)
    }

    /// Removes the subscriber at `index`. Returns its slot, and the slot of the subscriber who has the index now.
    pub(super) fn remove(&mut self, index: usize) -> (u32, Option<u32>) {
        let Subscriber { slot, .. } = self.subscribers.swap_remove(index);
        let moved = self.subscribers.get(index).map(|subscriber| subscriber.slot);
        let capacity = self.subscribers.capacity();
        if capacity > KEPT_SUBSCRIBERS && self.subscribers.len() * 4 < capacity {
            let mut fitting = SmallVec::with_capacity(2 * self.subscribers.len());
            fitting.append(&mut self.subscribers);
            self.subscribers = fitting;
        }
        (slot, moved)
    }

    /// The publications that come from now on belong to another epoch, or another channel's rules.
    pub(super) fn begin_epoch(&mut self, origin: Rc<Origin>) {
        self.seal();
        self.origin = origin;
    }

    /// Appends a frame to the open run.
    pub(super) fn append(&mut self, frame: &[u8], offset: u64, key: u64) {
        let due = self.due.as_mut().expect("the channel was noted as due");
        if !due.open.is_empty() && due.open.len() + frame.len() > SEAL_BYTES {
            due.seal(&self.origin);
        }
        due.open.extend_from_slice(frame);
        due.marks.push(Mark { end: place(due.open.len()), offset, key });
    }

    /// Makes what has come so far immutable, for sending.
    pub(super) fn seal(&mut self) {
        if let Some(due) = &mut self.due {
            due.seal(&self.origin);
        }
    }

    /// How many sealed runs there are.
    pub fn sealed(&self) -> usize {
        self.due.as_ref().map_or(0, |due| due.sealed.len())
    }

    /// Forgets the oldest `count` sealed runs, which every subscriber has had. Returns whether nothing is left that
    /// anybody may be due.
    pub(super) fn forget(&mut self, count: usize) -> bool {
        let Some(due) = &mut self.due else { return false };
        due.forget(count);
        self.first = self.first.wrapping_add(u32::try_from(count).expect("few runs in a turn"));
        due.is_empty()
    }

    /// What the subscriber is due of the sealed runs, as (run, start, end); its cursor moves behind them. With a
    /// `packer` it gets them compressed where that pays.
    pub fn take_sealed(
        &mut self,
        index: usize,
        mut packer: Option<Packer<'_>>,
        mut each: impl FnMut(&Run, usize, usize),
    ) {
        let open = self.open_number();
        let Some(due) = &mut self.due else { return };
        let subscriber = &mut self.subscribers[index];
        // Wrapping: the number only has to be right among the few runs of a turn.
        let behind = open.wrapping_sub(subscriber.run) as usize;
        if behind == 0 {
            return;
        }
        let mut start = subscriber.start as usize;
        let first = due.sealed.len().saturating_sub(behind);
        for sealed in due.sealed.iter_mut().skip(first) {
            if start < sealed.run.bytes.len() {
                let (run, start) = sealed.due(start, packer.as_mut());
                each(run, start, run.bytes.len());
            }
            start = 0;
        }
        (subscriber.run, subscriber.start) = (open, 0);
    }

    /// Moves all that the subscriber is due, the open run included, into its outbox: a private frame follows.
    /// Returns how many frames that were. Those that `keeps` names stay frames of the channel in the outbox.
    pub(crate) fn hand_over(
        &mut self,
        index: usize,
        packer: Option<Packer<'_>>,
        keeps: KeptFrames,
        outbox: &mut Outbox,
    ) -> usize {
        let open_number = self.open_number();
        let Some(due) = &mut self.due else { return 0 };
        let subscriber = &self.subscribers[index];
        let start = if subscriber.run == open_number { subscriber.start as usize } else { 0 };
        if due.open.len() - start > COPY_BYTES {
            due.seal(&self.origin);
        }
        let mut frames = 0;
        self.take_sealed(index, packer, |run, start, end| {
            frames += run.count(start, end);
            outbox.push_slice(run, start, end);
        });
        let Self { origin, due: Some(due), subscribers, .. } = self else { return frames };
        let subscriber = &mut subscribers[index];
        let start = subscriber.start;
        let open = &due.open[start as usize..];
        if !open.is_empty() {
            let marks = &due.marks[due.marks.partition_point(|mark| mark.end <= start)..];
            frames += marks.len();
            if keeps == KeptFrames::All || (keeps == KeptFrames::Droppable && origin.may_drop()) {
                let marks = marks.iter().map(|mark| Mark { end: mark.end - start, ..*mark }).collect();
                outbox.push_frames(Frames { origin: Rc::clone(origin), packed: None, bytes: open.to_vec(), marks });
            } else {
                outbox.push_private(|buffer| buffer.extend_from_slice(open));
            }
            subscriber.start = place(due.open.len());
        }
        frames
    }

    /// The most memory that an outbox would hold of what the subscriber is due, of sealed runs and the open one.
    pub(crate) fn due_bytes(&self, index: usize) -> usize {
        let Some(due) = &self.due else { return 0 };
        let Subscriber { run, start, .. } = self.subscribers[index];
        let behind = self.open_number().wrapping_sub(run) as usize;
        let runs = due.sealed.iter().skip(due.sealed.len().saturating_sub(behind));
        let sealed: usize = runs.map(|sealed| SEGMENT_BYTES + sealed.run.weight()).sum();
        let frames = Frames { origin: Rc::clone(&self.origin), packed: None, bytes: Vec::new(), marks: Vec::new() };
        let copied = due.open.len() - if behind == 0 { start as usize } else { 0 };
        let open = 2 * copied + frames.weight() + SEGMENT_BYTES + due.marks.capacity() * size_of::<Mark>();
        sealed + if copied > 0 { open } else { 0 }
    }

    fn open_number(&self) -> u32 {
        self.first.wrapping_add(u32::try_from(self.sealed()).expect("few runs in a turn"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// There may be a million channels with one subscriber each.
    #[test]
    fn an_idle_channel_with_one_subscriber_is_small() {
        assert_eq!(size_of::<Option<LocalChannel>>(), 48);
        assert_eq!(size_of::<Subscriber>(), 12);
        // Beside the two counts of an `Rc`.
        assert!(size_of::<Origin>() <= 48, "{}", size_of::<Origin>());
        let one: SmallVec<[Subscriber; 1]> = std::iter::once(Subscriber { slot: 0, run: 0, start: 0 }).collect();
        assert!(!one.spilled());
    }
}
