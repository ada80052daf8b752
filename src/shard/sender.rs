//! What is to be sent: connections with something of their own, channels with something for their subscribers, the flush
//! that is under way, which connections may be sent to directly, and how much waits for sockets that are full. Part of
//! `shard`; `flush` does the sending.

use super::conns::{Conn, Conns};
use super::send_state::{DirectTarget, DirectTargets};
use crate::fanout::Fanout;
use crate::ids::{ConnId, ShardId};

/// What a shard has to send.
#[derive(Debug, Default)]
pub(super) struct Sender {
    /// Slots of connections with something private to send, each once.
    dirty: Vec<u32>,
    /// Channels whose last subscriber left. They are removed when no flush refers to them.
    emptied: Vec<u32>,
    flush: Flush,
    is_flushing: bool,
    direct: DirectTargets,
    /// How many connections are blocked.
    blocked: usize,
    /// Bytes of memory that are held for blocked connections, as far as they have been counted.
    queued_bytes: usize,
}

/// A flush under way: what was there when it began. The lists keep their room from flush to flush.
#[derive(Debug, Default)]
struct Flush {
    /// Slots of connections that asked for something, still to be sent to.
    askers: Vec<u32>,
    /// Channels still to be walked after them, the current one last.
    channels: Vec<Walk>,
}

#[derive(Debug)]
struct Walk {
    channel: u32,
    /// Subscribers from here up have been visited. Walked downwards: see `LocalChannel::subscribers`.
    next: usize,
    /// Sealed runs when the flush began: every subscriber has had them when the walk ends.
    runs: usize,
}

/// Whom a flush sends to next.
#[derive(Clone, Copy, Debug)]
pub(super) enum FlushTarget {
    /// The connection in this slot, which has something of its own.
    Asker(u32),
    /// A subscriber of a channel, by its index there.
    Subscriber { channel: u32, index: usize },
}

impl Sender {
    /// The connection in `slot` has something of its own to send.
    pub(super) fn mark_dirty(&mut self, slot: u32, conn: &mut Conn) {
        self.direct.remove(slot);
        if !conn.send_state.set_dirty(true) {
            self.dirty.push(slot);
        }
    }

    /// The connection in `slot` has sent what it had. It stays in the list if others came after it.
    pub(super) fn unmark_last(&mut self, slot: u32, conn: &mut Conn) {
        if self.dirty.last() == Some(&slot) {
            self.dirty.pop();
            conn.send_state.set_dirty(false);
        }
    }

    /// What was to be sent to a connection has been sent, as far as possible. If nothing is left, frames of its channels
    /// go to it directly from now on. To be called after each try to send what waits in its outbox.
    pub(super) fn tried(&mut self, id: ConnId, conn: &Conn) {
        let has_nothing = conn.outbox.is_empty() && !conn.send_state.is_dirty();
        if has_nothing && !conn.send_state.is_blocked() && !conn.stamps() {
            self.direct.add(DirectTarget { id, deflate: conn.framing.deflate() });
        } else {
            self.direct.remove(id.slot);
        }
    }

    /// The connection in `slot` of this shard, if frames of its channels may go to it directly.
    pub(super) fn direct(&self, shard: ShardId, slot: u32) -> Option<DirectTarget> {
        self.direct.get(shard, slot)
    }

    /// What is sent to the connection in `slot` goes through its outbox, until [`Self::tried`] says otherwise.
    pub(super) fn queue_for(&mut self, slot: u32) {
        self.direct.remove(slot);
    }

    /// The last subscriber of a channel has left.
    pub(super) fn channel_emptied(&mut self, channel: u32) {
        self.emptied.push(channel);
    }

    /// Whether a flush would find anything to do.
    pub(super) fn wants_flush(&self, fanout: &Fanout) -> bool {
        fanout.is_dirty() || !self.dirty.is_empty() || !self.emptied.is_empty()
    }

    /// Whether a flush is under way.
    pub(super) fn is_flushing(&self) -> bool {
        self.is_flushing
    }

    /// Seals what the turn brought. Not while a flush is under way.
    pub(super) fn begin_flush(&mut self, fanout: &mut Fanout) {
        assert!(!std::mem::replace(&mut self.is_flushing, true), "one flush at a time");
        let Flush { askers, channels } = &mut self.flush;
        fanout.seal_dirty(|channel, local| channels.push(Walk { channel, next: local.len(), runs: local.sealed() }));
        // The first that came are the last of the list, and so the first that are sent.
        channels.reverse();
        std::mem::swap(askers, &mut self.dirty);
        askers.reverse();
    }

    /// Whom the flush sends to next. `None`: it is over.
    pub(super) fn next_target(&mut self, fanout: &mut Fanout, conns: &mut Conns) -> Option<FlushTarget> {
        if !self.is_flushing {
            return None;
        }
        loop {
            if let Some(slot) = self.flush.askers.pop() {
                let Some(conn) = conns.get_slot(slot) else { continue };
                conn.send_state.set_dirty(false);
                return Some(FlushTarget::Asker(slot));
            }
            let Some(walk) = self.flush.channels.last_mut() else {
                self.is_flushing = false;
                self.emptied.drain(..).for_each(|channel| fanout.remove_if_empty(channel));
                return None;
            };
            let Some(index) = walk.next.min(fanout.channel(walk.channel).len()).checked_sub(1) else {
                fanout.end_walk(walk.channel, walk.runs);
                self.flush.channels.pop();
                continue;
            };
            walk.next = index;
            return Some(FlushTarget::Subscriber { channel: walk.channel, index });
        }
    }

    /// The kernel takes no more of a connection.
    pub(super) fn block(&mut self, slot: u32, conn: &mut Conn) {
        self.direct.remove(slot);
        if !conn.send_state.set_blocked(true) {
            self.blocked += 1;
        }
    }

    /// The kernel takes bytes of a connection again, or the connection goes.
    pub(super) fn unblock(&mut self, conn: &mut Conn) {
        if conn.send_state.set_blocked(false) {
            self.blocked -= 1;
        }
        self.forget_queued(conn);
    }

    /// Counts what is held for a connection, if it is blocked.
    pub(super) fn count_queued(&mut self, conn: &mut Conn) {
        if conn.send_state.is_blocked() {
            let (held, counted) = conn.outbox.recount();
            self.queued_bytes = self.queued_bytes + held - counted;
        }
    }

    /// What is held for a connection counts no more.
    pub(super) fn forget_queued(&mut self, conn: &mut Conn) {
        self.queued_bytes -= conn.outbox.forget_count();
    }

    /// How many connections are blocked.
    pub(super) fn blocked(&self) -> usize {
        self.blocked
    }

    /// Bytes of memory that are held for blocked connections.
    pub(super) fn queued_bytes(&self) -> usize {
        self.queued_bytes
    }
}
