//! What the sending side notes of each connection: two flags in the connection, which lie beside the outbox, and a table by
//! slot of those that a walk over subscribers may send to without a look at the connection. Part of `shard`; `sender` keeps
//! both, and the lists and counts that go with them.

use crate::ids::{ConnId, ShardId};
use crate::wire::deflate::Deflate;

/// The sending side's part of one connection.
#[derive(Debug, Default)]
pub(super) struct SendState {
    /// The kernel takes no more; the driver waits for writability.
    is_blocked: bool,
    /// The connection is in the sender's list of those with something of their own to send.
    is_dirty: bool,
}

impl SendState {
    /// Whether the kernel takes no more.
    pub(super) fn is_blocked(&self) -> bool {
        self.is_blocked
    }

    /// Whether the connection has something of its own to send.
    pub(super) fn is_dirty(&self) -> bool {
        self.is_dirty
    }

    /// Sets the flag. Returns what it was.
    pub(super) fn set_blocked(&mut self, is_blocked: bool) -> bool {
        std::mem::replace(&mut self.is_blocked, is_blocked)
    }

    /// Sets the flag. Returns what it was.
    pub(super) fn set_dirty(&mut self, is_dirty: bool) -> bool {
        std::mem::replace(&mut self.is_dirty, is_dirty)
    }
}

/// A connection that takes frames as its channels have them: nothing waits for it, its socket takes bytes, and its frames
/// get no ids of its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct DirectTarget {
    /// The connection.
    pub(super) id: ConnId,
    /// What was agreed with it on compression.
    pub(super) deflate: Option<Deflate>,
}

/// The connections that may be sent to directly, by slot. A walk reads eight bytes of this for each subscriber, and finds
/// them in the cache, in place of a connection that it does not find there.
#[derive(Debug, Default)]
pub(super) struct DirectTargets(Vec<DirectSlot>);

#[derive(Clone, Copy, Debug, Default)]
struct DirectSlot {
    generation: u32,
    is_direct: bool,
    deflate: Option<Deflate>,
}

impl DirectTargets {
    /// The connection in this slot, if it may be sent to directly.
    pub(super) fn get(&self, shard: ShardId, slot: u32) -> Option<DirectTarget> {
        let DirectSlot { generation, deflate, .. } = *self.0.get(slot as usize).filter(|known| known.is_direct)?;
        Some(DirectTarget { id: ConnId { shard, slot, generation }, deflate })
    }

    /// The connection may be sent to directly from now on.
    pub(super) fn add(&mut self, target: DirectTarget) {
        let DirectTarget { id, deflate } = target;
        let slot = id.slot as usize;
        if self.0.len() <= slot {
            self.0.resize(slot + 1, DirectSlot::default());
        }
        self.0[slot] = DirectSlot { generation: id.generation, is_direct: true, deflate };
    }

    /// What is sent to the connection in this slot has to go another way.
    pub(super) fn remove(&mut self, slot: u32) {
        if let Some(known) = self.0.get_mut(slot as usize) {
            known.is_direct = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_walk_reads_eight_bytes_a_connection() {
        assert_eq!(size_of::<DirectSlot>(), 8);
    }
}
