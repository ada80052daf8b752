//! The channels that have subscribers on this shard: the run of frames that this turn brought to each, and who is to have
//! it. Frames are laid end to end once per shard; each subscriber has a cursor into them, so that sending is a walk
//! over subscribers, not over messages. Pure; `shard::flush` does the walking.
//!
//! A run is *open* while frames are appended and *sealed* (immutable, shared) when sending starts. The cursor of a
//! subscriber is a run's number and a place in it: everything before it has been handed over.
//!
//! A channel is *due* from its first frame until a walk has reached all its subscribers and nothing new has come. For
//! each connection the number of its channels that are due is known, so that a connection with many subscriptions costs
//! no more than one with a single one: `due` has the rules.

mod due;
mod local;
pub mod outbox;
pub mod run;
mod subscriptions;

use std::hash::BuildHasher;
use std::sync::Arc;

use hashbrown::HashTable;
use smallvec::SmallVec;

use crate::fanout::due::DueChannels;
use crate::fanout::run::{Origin, place};
use crate::model::namespace::Sending;
use crate::model::voice::Voice;
pub(crate) use local::KeptFrames;
pub use local::LocalChannel;
pub use subscriptions::{Subscription, Subscriptions};

/// The channels that have subscribers on this shard, one for each voice in which they are spoken to.
#[derive(Debug, Default)]
pub struct Fanout {
    channels: Vec<Option<LocalChannel>>,
    /// Indexes of `channels` by the hash of the name. A name is there once for each of its voices.
    by_name: HashTable<u32>,
    hasher: foldhash::fast::RandomState,
    free: Vec<u32>,
    /// Channels with frames that the next flush takes up, each once.
    dirty: Vec<u32>,
    due: DueChannels,
    subscribers: usize,
}

impl Fanout {
    /// The channel at `index`.
    pub fn channel(&mut self, index: u32) -> &mut LocalChannel {
        self.channels[index as usize].as_mut().expect("a subscription or a flush refers to it")
    }

    /// The index of a channel that has had subscribers of this voice here.
    pub fn find(&self, name: &str, voice: Voice) -> Option<u32> {
        let is_it =
            |&index: &u32| matches!(self.at(index), Some(local) if local.voice == voice && **local.name() == *name);
        self.by_name.find(self.hasher.hash_one(name), is_it).copied()
    }

    /// The voices in which a channel has had subscribers here, each with its index. One look-up finds all of them.
    pub(crate) fn places(&self, name: &str) -> SmallVec<[(Voice, u32); Voice::ALL.len()]> {
        let same_hash = self.by_name.iter_hash(self.hasher.hash_one(name));
        let is_it = |&index: &u32| {
            let local = self.at(index).filter(|local| **local.name() == *name)?;
            Some((local.voice, index))
        };
        same_hash.filter_map(is_it).collect()
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
        let channel = match self.find(name, voice) {
            Some(channel) => channel,
            None => self.create((name, voice), epoch, sending),
        };
        let local = self.channel(channel);
        if local.origin.epoch != *epoch {
            // The channel began a new life while somebody here still subscribed to the old one.
            local.begin_epoch(Origin::new(Arc::clone(name), Arc::clone(epoch), sending));
        }
        let index = local.add(slot);
        let is_due = local.due.is_some();
        self.due.subscribed(slot, is_due);
        Subscription { channel, index, request: 0 }
    }

    /// Ends a subscription. Returns the slot whose subscriber now has the freed index, if one moved there.
    pub(crate) fn unsubscribe(&mut self, subscription: Subscription) -> Option<u32> {
        self.subscribers -= 1;
        let local = self.channel(subscription.channel);
        let (slot, moved) = local.remove(subscription.index as usize);
        let was_due = local.due.is_some();
        self.due.unsubscribed(slot, was_due);
        moved
    }

    /// Appends one encoded frame to a channel's run; without subscribers it is dropped.
    /// Its `offset` and `key` are what [`Mark`](run::Mark) says.
    pub fn append(&mut self, channel: u32, frame: &[u8], offset: u64, key: u64) {
        if self.append_unhurried(channel, frame, offset, key) {
            self.make_dirty(channel);
        }
    }

    /// Appends one frame as [`Fanout::append`] does, but no flush begins for it before [`Fanout::make_dirty`]. It leaves
    /// earlier, in its place, with another frame of the channel or before a message of a subscriber's own. Returns whether
    /// the channel has subscribers.
    pub(crate) fn append_unhurried(&mut self, channel: u32, frame: &[u8], offset: u64, key: u64) -> bool {
        let local = self.channels[channel as usize].as_mut().expect("it was found under its name");
        if local.is_empty() {
            return false;
        }
        if local.due.is_none() {
            self.due.begin(channel, local);
        }
        local.append(frame, offset, key);
        true
    }

    /// The next flush takes up what was appended to the channel. Returns false if there is nothing, or no such channel.
    pub(crate) fn make_dirty(&mut self, channel: u32) -> bool {
        let local = self.channels.get_mut(channel as usize).and_then(Option::as_mut);
        let Some(due) = local.and_then(|local| local.due.as_mut()) else { return false };
        if !std::mem::replace(&mut due.is_dirty, true) {
            self.dirty.push(channel);
        }
        true
    }

    /// From here on the channel's offsets are those of `epoch`. A slow client's gaps before and after this stay apart.
    pub(crate) fn begin_epoch(&mut self, name: &Arc<str>, epoch: &Arc<str>) {
        for (_, channel) in self.places(name) {
            let local = self.channel(channel);
            let sending = local.origin.sending;
            local.begin_epoch(Origin::new(Arc::clone(name), Arc::clone(epoch), sending));
        }
    }

    /// Makes what has come so far immutable, for sending. Calls `each` for each channel that a flush has to walk over, in
    /// the order in which they became dirty.
    pub fn seal_dirty(&mut self, mut each: impl FnMut(u32, &LocalChannel)) {
        for channel in self.dirty.drain(..) {
            let local = self.channels[channel as usize].as_mut().expect("a channel is removed from here when it goes");
            if let Some(due) = &mut local.due {
                due.is_dirty = false;
            }
            local.seal();
            each(channel, local);
        }
    }

    /// A flush has reached every subscriber of the channel with its oldest `runs` sealed runs.
    pub fn end_walk(&mut self, channel: u32, runs: usize) {
        let local = self.channels[channel as usize].as_mut().expect("a flush refers to it");
        if local.forget(runs) {
            let moved = self.due.end(channel, local);
            self.note_place(moved);
        }
    }

    /// How many of the channels that the connection in this slot subscribes to are due.
    pub(crate) fn due_channels(&self, slot: u32) -> usize {
        self.due.count(slot)
    }

    /// Those subscriptions of the connection in this slot whose channels are due.
    pub(crate) fn due_of(&self, slot: u32, subscriptions: &Subscriptions) -> SmallVec<[Subscription; 8]> {
        self.due.of(slot, subscriptions)
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
            && let Some(mut local) = place.take()
        {
            let hash = self.hasher.hash_one(&**local.name());
            let entry = self.by_name.find_entry(hash, |&index| index == channel);
            entry.expect("a channel is found by its name").remove();
            if local.due.as_ref().is_some_and(|due| due.is_dirty) {
                self.dirty.retain(|&dirty| dirty != channel);
            }
            let moved = self.due.end(channel, &mut local);
            self.note_place(moved);
            self.free.push(channel);
        }
    }

    /// A due channel stands in another place of the list of due channels.
    fn note_place(&mut self, moved: Option<(u32, u32)>) {
        if let Some((channel, place)) = moved
            && let Some(due) = &mut self.channel(channel).due
        {
            due.place = place;
        }
    }

    fn at(&self, index: u32) -> Option<&LocalChannel> {
        self.channels[index as usize].as_ref()
    }

    fn create(&mut self, (name, voice): (&Arc<str>, Voice), epoch: &Arc<str>, sending: Sending) -> u32 {
        let local = LocalChannel::new(Origin::new(Arc::clone(name), Arc::clone(epoch), sending), voice);
        let channel = self.free.pop().unwrap_or_else(|| {
            self.channels.push(None);
            place(self.channels.len() - 1)
        });
        self.channels[channel as usize] = Some(local);
        let Self { channels, by_name, hasher, .. } = self;
        let hash = |&index: &u32| channels[index as usize].as_ref().map_or(0, |local| hasher.hash_one(&**local.name()));
        by_name.insert_unique(hasher.hash_one(&**name), channel, hash);
        channel
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fanout::outbox::Outbox;
    use crate::model::namespace::{Compress, Overflow};

    const COPY_BYTES: usize = 4 * 1024;
    const NATIVE: Voice = Voice::NativeText;
    const KEPT: Sending = Sending { overflow: Overflow::Disconnect, compress: Compress::Auto };

    fn append(fanout: &mut Fanout, name: &str, frame: &[u8], offset: u64, key: u64) {
        for (_, channel) in fanout.places(name) {
            fanout.append(channel, frame, offset, key);
        }
    }

    fn take_dirty(fanout: &mut Fanout) -> Vec<(u32, usize)> {
        let mut dirty = Vec::new();
        fanout.seal_dirty(|channel, local| dirty.push((channel, local.sealed())));
        dirty
    }

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
        append(&mut fanout, "c", b"one", 1, 0);
        let b = fanout.subscribe((&name, NATIVE), &"e".into(), KEPT, 2);
        append(&mut fanout, "c", b"two", 1, 0);
        assert_eq!(take_dirty(&mut fanout), vec![(a.channel, 1)]);
        append(&mut fanout, "c", b"six", 1, 0);
        assert_eq!(sealed(&mut fanout, a), b"onetwo");
        assert_eq!(sealed(&mut fanout, a), b"");
        assert_eq!(handed(&mut fanout, b), b"twosix");
        assert_eq!(handed(&mut fanout, b), b"");
        assert!(fanout.is_dirty());
        fanout.end_walk(a.channel, 1);
        assert_eq!((fanout.due_channels(1), fanout.due_channels(2)), (1, 1));
        assert_eq!(take_dirty(&mut fanout), vec![(a.channel, 1)]);
        assert_eq!(sealed(&mut fanout, a), b"six");
        assert_eq!(sealed(&mut fanout, b), b"");
        fanout.end_walk(a.channel, 1);
        assert_eq!((fanout.due_channels(1), fanout.due_channels(2)), (0, 0));
    }

    #[test]
    fn an_unhurried_frame_waits_and_keeps_its_place() {
        let mut fanout = Fanout::default();
        let name: Arc<str> = "c".into();
        let a = fanout.subscribe((&name, NATIVE), &"e".into(), KEPT, 1);
        let b = fanout.subscribe((&name, NATIVE), &"e".into(), KEPT, 2);
        assert!(!fanout.make_dirty(a.channel) && !fanout.make_dirty(7));
        assert!(fanout.append_unhurried(a.channel, b"one", 0, 0));
        assert!(!fanout.is_dirty());
        let late = fanout.subscribe((&name, NATIVE), &"e".into(), KEPT, 3);
        assert_eq!(handed(&mut fanout, b), b"one", "before a message of its own");
        assert!(fanout.make_dirty(a.channel) && fanout.make_dirty(a.channel));
        fanout.append(a.channel, b"two", 1, 0);
        assert_eq!(take_dirty(&mut fanout), [(a.channel, 1)]);
        assert_eq!(sealed(&mut fanout, a), b"onetwo");
        assert_eq!(sealed(&mut fanout, b), b"two");
        assert_eq!(sealed(&mut fanout, late), b"two", "who came later does not hear of it");
    }

    #[test]
    fn a_long_run_is_shared_and_a_short_one_copied() {
        let mut fanout = Fanout::default();
        let name: Arc<str> = "c".into();
        let a = fanout.subscribe((&name, NATIVE), &"e".into(), KEPT, 1);
        append(&mut fanout, "c", &vec![7; COPY_BYTES], 1, 0);
        let mut outbox = Outbox::default();
        fanout.channel(a.channel).hand_over(0, None, KeptFrames::None, &mut outbox);
        assert_eq!(outbox.private_bytes(), COPY_BYTES);
        append(&mut fanout, "c", &vec![8; COPY_BYTES + 1], 1, 0);
        fanout.channel(a.channel).hand_over(0, None, KeptFrames::None, &mut outbox);
        assert_eq!((outbox.private_bytes(), outbox.bytes()), (COPY_BYTES, 2 * COPY_BYTES + 1));
        assert_eq!(fanout.channel(a.channel).sealed(), 1);
    }

    #[test]
    fn channels_without_subscribers_go_and_their_place_is_used_again() {
        let mut fanout = Fanout::default();
        let a = fanout.subscribe((&"a".into(), NATIVE), &"e".into(), KEPT, 1);
        append(&mut fanout, "a", b"x", 1, 0);
        assert_eq!(fanout.unsubscribe(a), None);
        fanout.remove_if_empty(a.channel);
        append(&mut fanout, "a", b"lost on purpose", 1, 0);
        assert!(!fanout.is_dirty());
        assert_eq!(fanout.subscribe((&"b".into(), NATIVE), &"e".into(), KEPT, 1), a);
    }
}
