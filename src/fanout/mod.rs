//! A channel on a shard that has subscribers of it: the run of frames that this turn brought, and who is to have
//! it. Frames are laid end to end once per shard; each subscriber has a cursor into them, so that sending is a walk
//! over subscribers, not over messages. Pure; `shard::flush` does the walking.
//!
//! A run is *open* while frames are appended and *sealed* (immutable, shared) when sending starts. The cursor of a
//! subscriber is a run's number and a place in it: everything before it has been handed over.

pub mod outbox;
pub mod run;
mod subscriptions;

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use hashbrown::HashMap;

use crate::fanout::outbox::{Outbox, SEGMENT_BYTES};
use crate::fanout::run::{Frames, Mark, Origin, Packer, Run, place};
use crate::metrics::Count;
use crate::model::namespace::Sending;
use crate::model::voice::Voice;
use crate::wire::deflate::Deflate;

pub use subscriptions::{Subscription, Subscriptions};

/// An open run is sealed when it gets this long.
const SEAL_BYTES: usize = 256 * 1024;
/// A private frame that overtakes an open run copies what the connection is due of it, up to this much; above it
/// the run is sealed instead, and shared.
const COPY_BYTES: usize = 4 * 1024;
/// A run is compressed in at most this many variants, however many kinds of agreements its subscribers have.
const VARIANTS: usize = 3;

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
    voice: Voice,
    origin: Rc<Origin>,
    /// Number of the oldest sealed run, or of the open one if none is sealed.
    first: u32,
    sealed: VecDeque<Sealed>,
    open: Vec<u8>,
    /// The frames of `open`.
    marks: Vec<Mark>,
    /// In no order. Walked from the back, so that removing one by swapping in the last hides nobody from a walk.
    subscribers: Vec<Subscriber>,
    /// It is in [`Fanout::dirty`].
    dirty: bool,
}

/// A run that is being sent.
#[derive(Debug)]
struct Sealed {
    run: Run,
    /// The same compressed, by variant; nothing if it doesn't pay. At most [`VARIANTS`], and seldom more than one.
    packed: Vec<(Deflate, Option<Run>)>,
}

impl Sealed {
    /// What somebody gets that is due the run from `start` on, and from where on. Packed only whole: see [`Packer`].
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

impl LocalChannel {
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

    /// The channel has no subscriber here.
    pub fn is_empty(&self) -> bool {
        self.subscribers.is_empty()
    }

    /// The subscriber at `index`.
    pub(crate) fn subscriber(&self, index: usize) -> &Subscriber {
        &self.subscribers[index]
    }

    /// Makes what has come so far immutable, for sending.
    pub fn seal(&mut self) {
        if !self.open.is_empty() {
            let (bytes, marks) = (std::mem::take(&mut self.open), std::mem::take(&mut self.marks));
            let run = Rc::new(Frames { origin: Rc::clone(&self.origin), packed: None, bytes, marks });
            self.sealed.push_back(Sealed { run, packed: Vec::new() });
        }
    }

    /// How many sealed runs there are.
    pub fn sealed(&self) -> usize {
        self.sealed.len()
    }

    /// Forgets the oldest `count` sealed runs, which every subscriber has had.
    pub fn forget(&mut self, count: usize) {
        self.sealed.drain(..count);
        self.first = self.first.wrapping_add(u32::try_from(count).expect("few runs in a turn"));
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
        let subscriber = &mut self.subscribers[index];
        // Wrapping: the number only has to be right among the few runs of a turn.
        let behind = open.wrapping_sub(subscriber.run) as usize;
        if behind == 0 {
            return;
        }
        let mut start = subscriber.start as usize;
        let first = self.sealed.len().saturating_sub(behind);
        for sealed in self.sealed.iter_mut().skip(first) {
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
        let due = {
            let subscriber = &self.subscribers[index];
            let start = if subscriber.run == self.open_number() { subscriber.start as usize } else { 0 };
            self.open.len() - start
        };
        if due > COPY_BYTES {
            self.seal();
        }
        let mut frames = 0;
        self.take_sealed(index, packer, |run, start, end| {
            frames += run.count(start, end);
            outbox.push_slice(run, start, end);
        });
        let subscriber = &mut self.subscribers[index];
        let start = subscriber.start;
        let open = &self.open[start as usize..];
        if !open.is_empty() {
            let marks = &self.marks[self.marks.partition_point(|mark| mark.end <= start)..];
            frames += marks.len();
            if keeps == KeptFrames::All || (keeps == KeptFrames::Droppable && self.origin.may_drop()) {
                let marks = marks.iter().map(|mark| Mark { end: mark.end - start, ..*mark }).collect();
                outbox.push_frames(Frames {
                    origin: Rc::clone(&self.origin),
                    packed: None,
                    bytes: open.to_vec(),
                    marks,
                });
            } else {
                outbox.push_private(|buffer| buffer.extend_from_slice(open));
            }
            subscriber.start = place(self.open.len());
        }
        frames
    }

    /// The most memory that an outbox would hold of what the subscriber is due, of sealed runs and the open one.
    pub(crate) fn due(&self, index: usize) -> usize {
        let Subscriber { run, start, .. } = self.subscribers[index];
        let behind = self.open_number().wrapping_sub(run) as usize;
        let runs = self.sealed.iter().skip(self.sealed.len().saturating_sub(behind));
        let sealed: usize = runs.map(|sealed| SEGMENT_BYTES + sealed.run.weight()).sum();
        let frames = Frames { origin: Rc::clone(&self.origin), packed: None, bytes: Vec::new(), marks: Vec::new() };
        let copied = self.open.len() - if behind == 0 { start as usize } else { 0 };
        let open = 2 * copied + frames.weight() + SEGMENT_BYTES + self.marks.capacity() * size_of::<Mark>();
        sealed + if copied > 0 { open } else { 0 }
    }

    fn open_number(&self) -> u32 {
        self.first.wrapping_add(u32::try_from(self.sealed.len()).expect("few runs in a turn"))
    }
}

/// The channels that have subscribers on this shard.
#[derive(Debug, Default)]
pub struct Fanout {
    channels: Vec<Option<LocalChannel>>,
    /// By voice: the channels that have subscribers who are spoken to in it.
    by_name: [HashMap<Arc<str>, u32, foldhash::fast::RandomState>; Voice::ALL.len()],
    free: Vec<u32>,
    /// Channels with frames that no flush has taken up, each once.
    dirty: Vec<u32>,
    subscribers: usize,
}

impl Fanout {
    /// The channel at `index`.
    pub fn channel(&mut self, index: u32) -> &mut LocalChannel {
        self.channels[index as usize].as_mut().expect("a subscription or a flush refers to it")
    }

    /// The index of a channel that has had subscribers of this voice here.
    pub(crate) fn find(&self, name: &str, voice: Voice) -> Option<u32> {
        self.by_name[voice.index()].get(name).copied()
    }

    /// The voices in which a channel has subscribers here.
    pub(crate) fn voices(&self, name: &str) -> impl Iterator<Item = Voice> + use<> {
        // Nearly always only one voice has any channels at all, and the others cost no look-up.
        let is_used = |voice: &Voice| {
            let channels = &self.by_name[voice.index()];
            !channels.is_empty() && channels.contains_key(name)
        };
        let used = Voice::ALL.map(|voice| Some(voice).filter(is_used));
        used.into_iter().flatten()
    }

    /// Subscribes a connection from here on: it gets what is appended after this for its voice.
    pub fn subscribe(
        &mut self,
        (name, voice): (&Arc<str>, Voice),
        epoch: &Arc<str>,
        sending: Sending,
        slot: u32,
    ) -> Subscription {
        self.subscribers += 1;
        let channel = match self.by_name[voice.index()].get(name) {
            Some(&channel) => channel,
            None => self.create((name, voice), epoch, sending),
        };
        let local = self.channel(channel);
        if local.origin.epoch != *epoch {
            // The channel began a new life while somebody here still subscribed to the old one.
            local.seal();
            local.origin = Origin::new(Arc::clone(name), Arc::clone(epoch), sending);
        }
        let (run, start) = (local.open_number(), place(local.open.len()));
        local.subscribers.push(Subscriber { slot, run, start });
        Subscription { channel, index: place(local.subscribers.len() - 1), request: 0 }
    }

    /// Ends a subscription. Returns the slot whose subscriber now has the freed index, if one moved there.
    pub(crate) fn unsubscribe(&mut self, subscription: Subscription) -> Option<u32> {
        self.subscribers -= 1;
        let local = self.channel(subscription.channel);
        let index = subscription.index as usize;
        local.subscribers.swap_remove(index);
        let moved = local.subscribers.get(index).map(|subscriber| subscriber.slot);
        if local.subscribers.capacity() > 64 && local.subscribers.len() * 4 < local.subscribers.capacity() {
            let keep = local.subscribers.len() * 2;
            local.subscribers.shrink_to(keep);
        }
        moved
    }

    /// Appends one encoded frame to the channel's run of a voice; without subscribers here it is dropped.
    /// Its `offset` and `key` are what [`Mark`] says.
    pub fn append(&mut self, name: &str, voice: Voice, frame: &[u8], offset: u64, key: u64) {
        let Some(&channel) = self.by_name[voice.index()].get(name) else { return };
        let local = self.channel(channel);
        if local.subscribers.is_empty() {
            return;
        }
        if local.open.len() + frame.len() > SEAL_BYTES {
            local.seal();
        }
        local.open.extend_from_slice(frame);
        local.marks.push(Mark { end: place(local.open.len()), offset, key });
        if !std::mem::replace(&mut local.dirty, true) {
            self.dirty.push(channel);
        }
    }

    /// From here on the channel's offsets are those of `epoch`. A slow client's gaps before and after this stay apart.
    pub(crate) fn begin_epoch(&mut self, name: &Arc<str>, epoch: &Arc<str>) {
        for voice in self.voices(name) {
            let Some(channel) = self.find(name, voice) else { continue };
            let local = self.channel(channel);
            local.seal();
            local.origin = Origin::new(Arc::clone(name), Arc::clone(epoch), local.origin.sending);
        }
    }

    /// The channels that have something to send; they count as clean from here on.
    pub fn take_dirty(&mut self) -> Vec<u32> {
        let dirty = std::mem::take(&mut self.dirty);
        for &channel in &dirty {
            self.channel(channel).dirty = false;
        }
        dirty
    }

    /// Subscriptions of all channels.
    pub(crate) fn subscribers(&self) -> usize {
        self.subscribers
    }

    /// Whether anything waits for a flush.
    pub(crate) fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// Removes the channel if nobody subscribes to it. Not while a flush may refer to it.
    pub(crate) fn remove_if_empty(&mut self, channel: u32) {
        let place = &mut self.channels[channel as usize];
        if place.as_ref().is_some_and(LocalChannel::is_empty)
            && let Some(local) = place.take()
        {
            self.by_name[local.voice.index()].remove(local.name());
            self.dirty.retain(|&dirty| dirty != channel);
            self.free.push(channel);
        }
    }

    fn create(&mut self, (name, voice): (&Arc<str>, Voice), epoch: &Arc<str>, sending: Sending) -> u32 {
        let local = LocalChannel {
            voice,
            origin: Origin::new(Arc::clone(name), Arc::clone(epoch), sending),
            first: 0,
            sealed: VecDeque::new(),
            open: Vec::new(),
            marks: Vec::new(),
            subscribers: Vec::new(),
            dirty: false,
        };
        let channel = self.free.pop().unwrap_or_else(|| {
            self.channels.push(None);
            place(self.channels.len() - 1)
        });
        self.channels[channel as usize] = Some(local);
        self.by_name[voice.index()].insert(Arc::clone(name), channel);
        channel
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::namespace::{Compress, Overflow};

    const NATIVE: Voice = Voice::NativeText;
    const KEPT: Sending = Sending { overflow: Overflow::Disconnect, compress: Compress::Auto };

    fn sealed(fanout: &mut Fanout, subscription: Subscription) -> Vec<u8> {
        let mut got = Vec::new();
        let local = fanout.channel(subscription.channel);
        local.take_sealed(subscription.index as usize, None, |run, start, end| {
            got.extend_from_slice(&run.bytes[start..end])
        });
        got
    }

    fn handed(fanout: &mut Fanout, subscription: Subscription) -> Vec<u8> {
        let mut outbox = Outbox::default();
        fanout.channel(subscription.channel).hand_over(
            subscription.index as usize,
            None,
            KeptFrames::None,
            &mut outbox,
        );
        let mut pieces = Vec::new();
        outbox.pieces(&mut pieces);
        pieces.iter().flat_map(|piece| piece.to_vec()).collect()
    }

    #[test]
    fn each_subscriber_gets_what_came_after_it_once() {
        let mut fanout = Fanout::default();
        let name: Arc<str> = "c".into();
        let a = fanout.subscribe((&name, NATIVE), &"e".into(), KEPT, 1);
        fanout.append("c", NATIVE, b"one", 1, 0);
        let b = fanout.subscribe((&name, NATIVE), &"e".into(), KEPT, 2);
        fanout.append("c", NATIVE, b"two", 1, 0);
        assert_eq!(fanout.take_dirty(), vec![a.channel]);
        fanout.channel(a.channel).seal();
        fanout.append("c", NATIVE, b"six", 1, 0);
        assert_eq!(sealed(&mut fanout, a), b"onetwo");
        assert_eq!(sealed(&mut fanout, a), b"");
        assert_eq!(handed(&mut fanout, b), b"twosix");
        assert_eq!(handed(&mut fanout, b), b"");
        assert!(fanout.is_dirty());
        fanout.channel(a.channel).forget(1);
        fanout.channel(a.channel).seal();
        assert_eq!(sealed(&mut fanout, a), b"six");
        assert_eq!(sealed(&mut fanout, b), b"");
    }

    #[test]
    fn a_long_run_is_shared_and_a_short_one_copied() {
        let mut fanout = Fanout::default();
        let name: Arc<str> = "c".into();
        let a = fanout.subscribe((&name, NATIVE), &"e".into(), KEPT, 1);
        fanout.append("c", NATIVE, &vec![7; COPY_BYTES], 1, 0);
        let mut outbox = Outbox::default();
        fanout.channel(a.channel).hand_over(0, None, KeptFrames::None, &mut outbox);
        assert_eq!(outbox.private_bytes(), COPY_BYTES);
        fanout.append("c", NATIVE, &vec![8; COPY_BYTES + 1], 1, 0);
        fanout.channel(a.channel).hand_over(0, None, KeptFrames::None, &mut outbox);
        assert_eq!((outbox.private_bytes(), outbox.bytes()), (COPY_BYTES, 2 * COPY_BYTES + 1));
        assert_eq!(fanout.channel(a.channel).sealed(), 1);
    }

    #[test]
    fn channels_without_subscribers_go_and_their_place_is_used_again() {
        let mut fanout = Fanout::default();
        let a = fanout.subscribe((&"a".into(), NATIVE), &"e".into(), KEPT, 1);
        fanout.append("a", NATIVE, b"x", 1, 0);
        assert_eq!(fanout.unsubscribe(a), None);
        fanout.remove_if_empty(a.channel);
        fanout.append("a", NATIVE, b"lost on purpose", 1, 0);
        assert!(!fanout.is_dirty());
        assert_eq!(fanout.subscribe((&"b".into(), NATIVE), &"e".into(), KEPT, 1), a);
    }
}
