//! Which channels have frames that some subscriber may be due, and how many of them each connection subscribes to. With
//! these numbers a walk over subscribers and a reply to a client skip all channels that have nothing, without a look at
//! any. Pure; part of `fanout`.

use smallvec::SmallVec;

use super::local::{DueRuns, LocalChannel};
use super::subscriptions::{Subscription, Subscriptions};
use crate::fanout::run::place;

/// The number of empty runs that are kept with their buffers, for channels that become due.
const SPARE_MAX: usize = 64;
/// What finding a channel among a connection's subscriptions costs, against looking at one subscription.
const FIND_STEPS: usize = 8;

/// The channels that are due.
#[derive(Debug, Default)]
pub(super) struct DueChannels {
    /// Their indexes, in no order.
    channels: Vec<u32>,
    /// The same as a set: one bit for each index of a channel.
    bits: Vec<u64>,
    /// By slot: how many due channels the connection subscribes to.
    counts: Vec<u32>,
    #[expect(clippy::vec_box, reason = "a channel takes the box")]
    spare: Vec<Box<DueRuns>>,
}

impl DueChannels {
    /// A channel becomes due: each of its subscribers has one due channel more.
    pub(super) fn begin<'a>(&mut self, channel: u32, local: &'a mut LocalChannel) -> &'a mut DueRuns {
        for subscriber in local.subscribers() {
            self.counts[subscriber.slot as usize] += 1;
        }
        let (word, bit) = bit_of(channel);
        if self.bits.len() <= word {
            self.bits.resize(word + 1, 0);
        }
        self.bits[word] |= bit;
        let mut due = self.spare.pop().unwrap_or_default();
        due.place = place(self.channels.len());
        self.channels.push(channel);
        local.due.insert(due)
    }

    /// A channel is not due any more. Returns the channel whose place in the list has changed, with its place.
    pub(super) fn end(&mut self, channel: u32, local: &mut LocalChannel) -> Option<(u32, u32)> {
        let mut due = local.due.take()?;
        for subscriber in local.subscribers() {
            self.counts[subscriber.slot as usize] -= 1;
        }
        let (word, bit) = bit_of(channel);
        self.bits[word] &= !bit;
        let at = due.place;
        self.channels.swap_remove(at as usize);
        if self.spare.len() < SPARE_MAX {
            due.clear();
            self.spare.push(due);
        }
        self.channels.get(at as usize).map(|&moved| (moved, at))
    }

    /// The connection in this slot has subscribed to a channel.
    pub(super) fn subscribed(&mut self, slot: u32, is_due: bool) {
        let slot = slot as usize;
        if self.counts.len() <= slot {
            self.counts.resize(slot + 1, 0);
        }
        self.counts[slot] += u32::from(is_due);
    }

    /// The connection in this slot has ended its subscription to a channel.
    pub(super) fn unsubscribed(&mut self, slot: u32, was_due: bool) {
        self.counts[slot as usize] -= u32::from(was_due);
    }

    /// How many due channels the connection in this slot subscribes to.
    pub(super) fn count(&self, slot: u32) -> usize {
        self.counts.get(slot as usize).map_or(0, |&count| count as usize)
    }

    /// The subscriptions to due channels among those of the connection in this slot.
    pub(super) fn of(&self, slot: u32, subscriptions: &Subscriptions) -> SmallVec<[Subscription; 8]> {
        let count = self.count(slot);
        if count == 0 {
            return SmallVec::new();
        }
        if self.channels.len() * FIND_STEPS < subscriptions.len() {
            return self.channels.iter().filter_map(|&channel| subscriptions.find(channel)).collect();
        }
        let is_due = |subscription: &&Subscription| {
            let (word, bit) = bit_of(subscription.channel);
            self.bits.get(word).is_some_and(|bits| bits & bit != 0)
        };
        subscriptions.iter().filter(is_due).take(count).copied().collect()
    }
}

/// Where a channel's bit is: the word, and the bit in it.
fn bit_of(channel: u32) -> (usize, u64) {
    (channel as usize / 64, 1 << (channel % 64))
}
