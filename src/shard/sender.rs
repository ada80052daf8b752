//! What is to be sent: connections with something of their own, channels with something for their subscribers, the flush
//! that is under way, and how much waits for sockets that are full. Part of `shard`; `flush` does the sending.

use super::conns::{Conn, Conns};
use crate::fanout::Fanout;

/// What a shard has to send.
#[derive(Debug, Default)]
pub(super) struct Sender {
    /// Slots of connections with something private to send, each once.
    dirty: Vec<u32>,
    /// Channels whose last subscriber left. They are removed when no flush refers to them.
    emptied: Vec<u32>,
    flush: Option<Flush>,
    /// How many connections are blocked.
    blocked: usize,
    /// Bytes of memory that are held for blocked connections, as far as they have been counted.
    queued_bytes: usize,
}

/// A flush under way: what was there when it began.
#[derive(Debug)]
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
        self.flush.is_some()
    }

    /// Seals what the turn brought. Not while a flush is under way.
    pub(super) fn begin_flush(&mut self, fanout: &mut Fanout) {
        assert!(self.flush.is_none(), "one flush at a time");
        let channels = fanout.take_dirty().into_iter().map(|channel| {
            let local = fanout.channel(channel);
            local.seal();
            Walk { channel, next: local.len(), runs: local.sealed() }
        });
        let channels = channels.collect();
        self.flush = Some(Flush { askers: std::mem::take(&mut self.dirty), channels });
    }

    /// Whom the flush sends to next. `None`: it is over.
    pub(super) fn next_target(&mut self, fanout: &mut Fanout, conns: &mut Conns) -> Option<FlushTarget> {
        loop {
            let flush = self.flush.as_mut()?;
            if let Some(slot) = flush.askers.pop() {
                let Some(conn) = conns.get_slot(slot) else { continue };
                conn.send_state.set_dirty(false);
                return Some(FlushTarget::Asker(slot));
            }
            let Some(walk) = flush.channels.last_mut() else {
                self.flush = None;
                std::mem::take(&mut self.emptied).into_iter().for_each(|channel| fanout.remove_if_empty(channel));
                return None;
            };
            let local = fanout.channel(walk.channel);
            let Some(index) = walk.next.min(local.len()).checked_sub(1) else {
                local.forget(walk.runs);
                flush.channels.pop();
                continue;
            };
            walk.next = index;
            return Some(FlushTarget::Subscriber { channel: walk.channel, index });
        }
    }

    /// The kernel takes no more of a connection.
    pub(super) fn block(&mut self, conn: &mut Conn) {
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
