//! One channel as its owner sees it: who subscribes, who is present, and what waits in its batch window. Its epoch,
//! offsets and history are the engine's. It decides nothing about rights or lanes; `hub` drives it.

use std::sync::Arc;

use hashbrown::HashMap;

use super::engine::{Engine, LogId};
use super::follow::FollowState;
use super::presence::{Announcer, Members};
use super::queue::AnswerQueue;
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
    name: Arc<str>,
    /// The channel's rules.
    pub(crate) namespace: Arc<Namespace>,
    /// Where the engine keeps the channel's epoch, offsets and history.
    pub(crate) log: LogId,
    /// The timestamp of the newest publication or event. Timestamps do not decrease in a channel.
    timestamp: u64,
    /// Subscribed connections, with the number of the ask that attached each.
    subscribers: HashMap<ConnId, u32, foldhash::fast::RandomState>,
    /// How many subscribers each shard has.
    per_shard: Box<[u32]>,
    /// The users who subscribe, if the namespace counts them.
    pub(crate) members: Members,
    /// Decides when the members' coming and going is announced.
    pub(crate) announcer: Announcer,
    /// Accepted within the batch window and not delivered yet.
    pub(crate) batch: Batch,
    /// Answers that wait for the batch.
    pub(crate) queue: AnswerQueue,
    /// What is known of the channel at a remote engine.
    pub(crate) follow: FollowState,
    /// When the channel was last used, in milliseconds of the monotonic clock.
    pub(crate) used_ms: u64,
    /// The time under which the hub lists the channel among those without subscribers; `None` if it is not listed.
    pub(crate) deserted_ms: Option<u64>,
    /// The tick of the channel's entry in the hub's wheel; 0 if it has none. Entries at other ticks are stale.
    pub(crate) filed: u64,
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
    pub(crate) fn new(
        name: Arc<str>,
        namespace: Arc<Namespace>,
        announcer: Announcer,
        shards: usize,
        log: LogId,
    ) -> Self {
        Self {
            name,
            namespace,
            log,
            timestamp: 0,
            subscribers: HashMap::default(),
            per_shard: vec![0; shards].into(),
            members: Members::default(),
            announcer,
            batch: Batch::default(),
            queue: AnswerQueue::default(),
            follow: FollowState::UNKNOWN,
            used_ms: 0,
            deserted_ms: None,
            filed: 0,
        }
    }

    /// The name of the channel.
    pub(crate) fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// The offset of the newest publication that has been sent to the subscribers: those in an open batch window have
    /// not.
    pub(crate) fn settled(&self, engine: &Engine) -> u64 {
        engine.logs().top(self.log) - self.batch.publications.len() as u64
    }

    /// The channel's position for a newcomer: it gets what comes after that.
    pub(crate) fn position(&self, engine: &Engine) -> Placed {
        engine.logs().placed(self.log, self.settled(engine))
    }

    /// What a simulation compares with what clients know.
    pub(crate) fn shown(&self, engine: &Engine) -> super::OwnedChannel {
        let Placed { channel: name, epoch, offset } = self.position(engine);
        super::OwnedChannel { name, epoch, offset, subscribers: self.subscribers.len(), members: self.members.count() }
    }

    /// The timestamp of the next publication or event: `now_ms`, but never before the one of the last.
    pub(crate) fn timestamp(&mut self, now_ms: u64) -> u64 {
        self.timestamp = self.timestamp.max(now_ms);
        self.timestamp
    }

    /// Whether the connection subscribes.
    pub(crate) fn has(&self, conn: ConnId) -> bool {
        self.subscribers.contains_key(&conn)
    }

    /// Whether the channel has no subscribers, and nothing that the engine could answer.
    pub(crate) fn is_deserted(&self) -> bool {
        self.subscribers.is_empty() && !self.queue.is_at_engine() && !self.follow.is_asking()
    }

    /// Whether a client's ask has to wait behind its earlier asks about this channel. A publish need not, unless one of
    /// those is to attach the client; its answer waits then.
    pub(crate) fn has_to_wait(&self, ask: &Ask, asker: Asker) -> bool {
        match ask {
            Ask::Publish(_) => self.queue.is_attaching(asker),
            _ => self.queue.is_awaited_by(asker),
        }
    }

    /// Attaches a connection by the ask with this number; once attached, the later ask counts.
    pub(crate) fn attach(&mut self, conn: ConnId, request: u32) {
        if self.subscribers.insert(conn, request).is_none() {
            self.per_shard[conn.shard.index()] += 1;
        }
    }

    /// Detaches a connection; `request`, if given, only if no later ask has attached it anew.
    pub(crate) fn detach(&mut self, conn: ConnId, request: Option<u32>) -> bool {
        if request.is_some_and(|request| self.subscribers.get(&conn) != Some(&request)) {
            return false;
        }
        let was = self.subscribers.remove(&conn).is_some();
        if was {
            self.per_shard[conn.shard.index()] -= 1;
            if self.subscribers.capacity() > 64 && self.subscribers.len() * 4 < self.subscribers.capacity() {
                self.subscribers.shrink_to_fit();
            }
        }
        was
    }

    /// The shards that have subscribers.
    pub(crate) fn interested(&self) -> impl Iterator<Item = ShardId> + '_ {
        self.per_shard.iter().zip(0u16..).filter(|(count, _)| **count > 0).map(|(_, shard)| ShardId(shard))
    }
}
