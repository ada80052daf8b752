//! One channel as its owner sees it: who subscribes, who is present, and what waits in its batch window. Its epoch,
//! offsets and history are the engine's. It decides nothing about rights or lanes; `hub` drives it.
//!
//! Most channels have one subscriber and nothing that waits. So a channel is small, and what only some channels need is
//! in a box of its own.

use std::sync::Arc;

use smallvec::SmallVec;

use super::engine::history::HistoryBounds;
use super::engine::{Engine, LogId};
use super::follow::FollowState;
use super::key::ChannelKey;
use super::presence::{Announcer, Members};
use super::queue::AnswerQueue;
use super::subscribers::Subscribers;
use crate::ids::{ConnId, ShardId};
use crate::model::namespace::Namespace;
use crate::model::parcel::{Ask, Asker};
use crate::model::position::Placed;
use crate::model::publication::Publication;

/// Most publications in one batch window, and most answers that wait for its end.
pub(crate) const BATCH_MAX: usize = 1_024;
/// A batch window ends early when it holds this many bytes.
pub(crate) const BATCH_BYTES: usize = 256 * 1024;

/// The state by which an owner orders a channel.
#[derive(Debug)]
pub(crate) struct Channel {
    key: ChannelKey,
    name: Arc<str>,
    /// The channel's rules.
    pub(crate) namespace: Arc<Namespace>,
    /// The timestamp of the newest publication or event. Timestamps do not decrease in a channel.
    timestamp: u64,
    subscribers: Subscribers,
    /// `None` until the first user comes to a channel whose namespace tells of members.
    pub(crate) presence: Option<Box<ChannelPresence>>,
    /// `None` while nothing waits.
    waits: Option<Box<ChannelWaits>>,
    /// When the channel was last used, in milliseconds of the monotonic clock.
    pub(crate) used_ms: u64,
    /// The time under which the hub lists the channel among those without subscribers; `None` if it is not listed.
    pub(crate) deserted_ms: Option<u64>,
    /// The tick of the channel's entry in the hub's wheel; 0 if it has none. Entries at other ticks are stale.
    pub(crate) filed: u64,
    /// Where the engine keeps the channel's epoch, offsets and history.
    pub(crate) log: LogId,
}

/// Who is on a channel, and what the others hear of it.
#[derive(Debug)]
pub(crate) struct ChannelPresence {
    /// The users who subscribe. Empty in the lobby, whose members are the users who are online.
    pub(crate) members: Members,
    /// Decides when the members' coming and going is announced.
    pub(crate) announcer: Announcer,
}

/// What waits in a channel for a batch window or for a remote engine.
#[derive(Debug, Default)]
pub(crate) struct ChannelWaits {
    /// Accepted within the batch window and not delivered yet.
    pub(crate) batch: Batch,
    /// Answers that wait for the engine, in order.
    pub(crate) queue: AnswerQueue,
    /// What is known of the channel at a remote engine.
    pub(crate) follow: FollowState,
}

/// Publications that wait for the end of the batch window.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    /// The publications, in the order of their offsets.
    pub(crate) publications: Vec<Arc<Publication>>,
    /// The sum of their `frame_bytes`.
    pub(crate) bytes: usize,
    /// When the window ends. Without publications it means nothing.
    pub(crate) until_ms: u64,
}

impl Batch {
    /// Whether publications wait for the end of the window.
    pub(crate) fn is_open(&self) -> bool {
        !self.publications.is_empty()
    }

    /// Whether the window is full and has to end early.
    pub(crate) fn is_full(&self) -> bool {
        self.bytes >= BATCH_BYTES || self.publications.len() >= BATCH_MAX
    }
}

impl Channel {
    /// A channel without a past.
    pub(crate) fn new(key: ChannelKey, name: Arc<str>, namespace: Arc<Namespace>, log: LogId, used_ms: u64) -> Self {
        Self {
            key,
            name,
            namespace,
            timestamp: 0,
            subscribers: Subscribers::default(),
            presence: None,
            waits: None,
            used_ms,
            deserted_ms: None,
            filed: 0,
            log,
        }
    }

    /// How much history the channel has.
    pub(crate) fn history_bounds(&self) -> HistoryBounds {
        HistoryBounds { count: self.namespace.history_size, age_ms: self.namespace.history_age_ms }
    }

    /// By what the hub finds the channel.
    pub(crate) fn key(&self) -> ChannelKey {
        self.key
    }

    /// What waits; `None` if nothing does.
    pub(crate) fn waits(&self) -> Option<&ChannelWaits> {
        self.waits.as_deref()
    }

    /// A place for what is to wait. [`Channel::trim`] removes it when nothing waits any more.
    pub(crate) fn waits_mut(&mut self) -> &mut ChannelWaits {
        self.waits.get_or_insert_default()
    }

    /// Gives back the memory for what waits, if nothing does.
    pub(crate) fn trim(&mut self) {
        self.waits.take_if(|waits| waits.is_empty());
    }

    /// Whether publications wait for the end of a batch window.
    pub(crate) fn is_batching(&self) -> bool {
        self.batched() > 0
    }

    /// How many publications wait for the end of a batch window.
    pub(crate) fn batched(&self) -> usize {
        self.waits().map_or(0, |waits| waits.batch.publications.len())
    }

    /// The end of the batch window and the channel's key, if the window has just been opened by a publication.
    pub(crate) fn new_window(&self) -> Option<(u64, ChannelKey)> {
        let batch = &self.waits()?.batch;
        (batch.publications.len() == 1).then_some((batch.until_ms, self.key))
    }

    /// How many answers wait.
    pub(crate) fn queued(&self) -> usize {
        self.waits().map_or(0, |waits| waits.queue.len())
    }

    /// Whether the batch window holds as much as it may, or as many answers wait for it.
    pub(crate) fn is_full(&self) -> bool {
        self.waits().is_some_and(|waits| waits.batch.is_full() || waits.queue.len() >= BATCH_MAX)
    }

    /// What is known of the channel at a remote engine.
    pub(crate) fn follow(&self) -> FollowState {
        self.waits().map_or(FollowState::UNKNOWN, |waits| waits.follow)
    }

    /// Whether an answer to this client waits.
    pub(crate) fn is_awaited_by(&self, asker: Asker) -> bool {
        self.waits().is_some_and(|waits| waits.queue.is_awaited_by(asker))
    }

    /// Users who are members. The lobby has none of its own.
    pub(crate) fn member_count(&self) -> u64 {
        self.presence.as_ref().map_or(0, |presence| presence.members.count())
    }

    /// The name of the channel.
    pub(crate) fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// The offset of the newest publication that has been sent to the subscribers: those in an open batch window have
    /// not.
    pub(crate) fn settled(&self, engine: &Engine) -> u64 {
        engine.logs().top(self.log) - self.batched() as u64
    }

    /// The channel's position for a newcomer: it gets what comes after that.
    pub(crate) fn position(&self, engine: &Engine) -> Placed {
        engine.logs().placed(self.log, self.settled(engine))
    }

    /// What a simulation compares with what clients know.
    pub(crate) fn shown(&self, engine: &Engine) -> super::OwnedChannel {
        let Placed { channel: name, epoch, offset } = self.position(engine);
        super::OwnedChannel { name, epoch, offset, subscribers: self.subscribers.len(), members: self.member_count() }
    }

    /// The timestamp of the next publication or event: `now_ms`, but never before the one of the last.
    pub(crate) fn timestamp(&mut self, now_ms: u64) -> u64 {
        self.timestamp = self.timestamp.max(now_ms);
        self.timestamp
    }

    /// Whether the connection subscribes.
    pub(crate) fn has(&self, conn: ConnId) -> bool {
        self.subscribers.request_of(conn).is_some()
    }

    /// Whether the channel has no subscribers, and nothing that the engine could answer.
    pub(crate) fn is_deserted(&self) -> bool {
        let is_asking = |waits: &ChannelWaits| waits.queue.is_at_engine() || waits.follow.is_asking();
        self.subscribers.len() == 0 && !self.waits().is_some_and(is_asking)
    }

    /// Whether a client's ask has to wait behind its earlier asks about this channel. A publish need not, unless one of
    /// those is to attach the client; its answer waits then.
    pub(crate) fn has_to_wait(&self, ask: &Ask, asker: Asker) -> bool {
        let Some(ChannelWaits { queue, .. }) = self.waits() else { return false };
        match ask {
            Ask::Publish(_) => queue.is_attaching(asker),
            _ => queue.is_awaited_by(asker),
        }
    }

    /// Attaches a connection by the ask with this number; once attached, the later ask counts.
    pub(crate) fn attach(&mut self, conn: ConnId, request: u32) {
        self.subscribers.insert(conn, request);
    }

    /// Detaches a connection; `request`, if given, only if no later ask has attached it anew.
    pub(crate) fn detach(&mut self, conn: ConnId, request: Option<u32>) -> bool {
        if request.is_some() && self.subscribers.request_of(conn) != request {
            return false;
        }
        self.subscribers.remove(conn)
    }

    /// The shards that have subscribers.
    pub(crate) fn interested(&self) -> SmallVec<[ShardId; 4]> {
        self.subscribers.shards()
    }
}

impl ChannelWaits {
    fn is_empty(&self) -> bool {
        !self.batch.is_open() && self.queue.len() == 0 && !self.follow.was_asked() && !self.follow.is_behind()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_channel_is_small() {
        assert!(size_of::<Channel>() <= 128, "{}", size_of::<Channel>());
    }
}
