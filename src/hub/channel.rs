//! One channel as its owner sees it: the epoch, the offsets, and which shards have subscribers. Knows no
//! connection and no user; `hub` drives it.

use std::sync::Arc;

use rand::Rng;

use crate::ids::ShardId;
use crate::parcel::Placed;

/// The state by which an owner orders a channel.
#[derive(Debug)]
pub struct Channel {
    name: Arc<str>,
    epoch: Arc<str>,
    /// The newest publication's number, 0 before the first.
    offset: u64,
    /// Of the newest publication or event; timestamps don't decrease in a channel.
    timestamp: u64,
    /// Subscribed connections per shard.
    subscribers: Box<[u32]>,
}

impl Channel {
    /// A channel without a past. The epoch is 64 random bits: offsets of an earlier life can't pass for these.
    pub fn new(name: Arc<str>, shards: usize, random: &mut impl Rng) -> Self {
        let epoch = format!("{:016x}", random.next_u64()).into();
        Self { name, epoch, offset: 0, timestamp: 0, subscribers: vec![0; shards].into() }
    }

    /// The channel's name.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Where the channel stands.
    pub fn position(&self) -> Placed {
        Placed { channel: Arc::clone(&self.name), epoch: Arc::clone(&self.epoch), offset: self.offset }
    }

    /// Assigns the next offset.
    pub fn advance(&mut self) -> Placed {
        self.offset += 1;
        self.position()
    }

    /// The time of what happens next: `now_ms`, but never before what happened last.
    pub fn timestamp(&mut self, now_ms: u64) -> u64 {
        self.timestamp = self.timestamp.max(now_ms);
        self.timestamp
    }

    /// One more subscriber on `shard`.
    pub fn attach(&mut self, shard: ShardId) {
        self.subscribers[shard.index()] += 1;
    }

    /// One less.
    pub fn detach(&mut self, shard: ShardId) {
        let count = &mut self.subscribers[shard.index()];
        assert!(*count > 0, "a subscriber of {} on {shard:?} was detached twice", self.name);
        *count -= 1;
    }

    /// The shards that have subscribers.
    pub fn interested(&self) -> impl Iterator<Item = ShardId> + '_ {
        self.subscribers.iter().zip(0u16..).filter(|(count, _)| **count > 0).map(|(_, shard)| ShardId(shard))
    }
}
