//! The connections of one shard: a table by slot, with generations, so that a `ConnId` of a connection that has
//! gone finds nothing. Knows what a connection's state is, not what is done with it.

use smallvec::SmallVec;

use crate::fanout::Subscription;
use crate::ids::{ConnId, ShardId};
use crate::outbox::Outbox;
use crate::parcel::Ask;
use crate::proto::websocket::Decoder;
use crate::session::Session;

/// One connection, from accept to the end.
#[derive(Debug, Default)]
pub struct Conn {
    pub(super) stage: Stage,
    pub(super) decoder: Decoder,
    pub(super) session: Session,
    pub(super) outbox: Outbox,
    pub(super) subscriptions: SmallVec<[Subscription; 1]>,
    /// Received and not yet taken: a request head that is incomplete, or what came behind a frame that has to
    /// wait. At most one receive's bytes, plus a head.
    pub(super) input: Vec<u8>,
    /// Asks that found no credit, in order; nothing is read meanwhile.
    pub(super) parked: Vec<(ShardId, u32, Ask)>,
    /// There was room for it when it came.
    pub(super) admitted: bool,
    /// Reading has stopped until something is done; [`Action::Resume`](super::Action) is due then.
    pub(super) paused: bool,
    /// How much may wait before the outbox sheds again; 0 at first.
    pub(super) shed_at: usize,
    /// The kernel takes no more; the shell waits for writability.
    pub(super) blocked: bool,
    /// It is in the list of connections with something to send.
    pub(super) dirty: bool,
    pub(super) opened_ms: u64,
    /// When the peer last showed that it lives.
    pub(super) seen_ms: u64,
    pub(super) pinged_ms: Option<u64>,
    /// The tick of the wheel under which it is filed; entries under others are stale.
    pub(super) filed: u64,
}

/// Where a connection is in its life.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Stage {
    /// Reading the HTTP request.
    #[default]
    Handshake,
    /// The native protocol.
    Native,
    /// The echo endpoint.
    Echo,
    /// Something is to be said yet, and then it ends.
    Closing {
        /// When patience ends and the connection is reset.
        until_ms: u64,
        ending: Ending,
    },
}

/// How a closing connection comes to its end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Ending {
    /// We sent Close; the peer's Close is awaited (RFC 6455 §7.1.1).
    AwaitClose,
    /// All is said: end our direction as soon as the outbox is empty, then await the peer's end.
    Finish,
    /// Our direction has been ended.
    Finished,
}

impl Conn {
    pub(super) fn new(admitted: bool, now_ms: u64) -> Self {
        Self { admitted, opened_ms: now_ms, seen_ms: now_ms, ..Self::default() }
    }

    pub(super) fn is_closing(&self) -> bool {
        matches!(self.stage, Stage::Closing { .. })
    }
}

#[derive(Debug)]
struct Entry {
    generation: u32,
    conn: Option<Box<Conn>>,
}

/// A shard's connections.
#[derive(Debug)]
pub struct Conns {
    shard: ShardId,
    entries: Vec<Entry>,
    free: Vec<u32>,
    count: usize,
}

impl Conns {
    pub(super) fn new(shard: ShardId) -> Self {
        Self { shard, entries: Vec::new(), free: Vec::new(), count: 0 }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.count
    }

    pub(super) fn insert(&mut self, conn: Conn) -> ConnId {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.entries.push(Entry { generation: 0, conn: None });
            u32::try_from(self.entries.len() - 1).expect("descriptors run out long before")
        });
        let entry = &mut self.entries[slot as usize];
        entry.conn = Some(Box::new(conn));
        self.count += 1;
        ConnId { shard: self.shard, slot, generation: entry.generation }
    }

    pub(super) fn remove(&mut self, id: ConnId) -> Option<Box<Conn>> {
        self.get(id)?;
        let entry = &mut self.entries[id.slot as usize];
        entry.generation = entry.generation.wrapping_add(1);
        self.free.push(id.slot);
        self.count -= 1;
        entry.conn.take()
    }

    pub(super) fn get(&mut self, id: ConnId) -> Option<&mut Conn> {
        let entry = self.entries.get_mut(id.slot as usize)?;
        if entry.generation == id.generation { entry.conn.as_deref_mut() } else { None }
    }

    /// The connection that a subscription, or a list kept in step with the table, refers to.
    pub(super) fn at(&mut self, slot: u32) -> &mut Conn {
        self.entries[slot as usize].conn.as_deref_mut().expect("what refers to a slot goes when its connection goes")
    }

    /// The connection in a slot, if there is one now.
    pub(super) fn get_slot(&mut self, slot: u32) -> Option<&mut Conn> {
        self.entries.get_mut(slot as usize)?.conn.as_deref_mut()
    }

    pub(super) fn id(&self, slot: u32) -> ConnId {
        ConnId { shard: self.shard, slot, generation: self.entries[slot as usize].generation }
    }

    pub(super) fn ids(&self) -> Vec<ConnId> {
        (0u32..).zip(&self.entries).filter(|(_, entry)| entry.conn.is_some()).map(|(slot, _)| self.id(slot)).collect()
    }
}
