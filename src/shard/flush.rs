//! Sending: once a turn, what all connections are due. First those who wait for an answer or for their own
//! publication, for they go on when they have it; then channel by channel, the subscriber in the outer loop and one
//! run of bytes for all of them. It works in steps, so that the shell can let others run in between. Part of
//! `shard`; the kernel is behind [`Wire`].

use std::io::IoSlice;

use smallvec::SmallVec;

use super::conns::{Ending, Stage};
use super::sender::FlushTarget;
use super::{Action, ShardCore};
use crate::fanout::outbox::{Kept, MAX_PIECES};
use crate::fanout::run::Run;
use crate::ids::ConnId;
use crate::limits::Limit;
use crate::metrics::Count;
use crate::time::clock::Now;

/// What became of a send.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sent {
    /// The kernel took so many bytes; fewer than offered means that it takes no more now.
    Bytes(usize),
    /// The peer is gone.
    Gone,
}

/// The sockets, as the pure part sees them.
pub trait Wire {
    /// Sends the pieces, in order, without waiting.
    fn send(&mut self, conn: ConnId, pieces: &[IoSlice<'_>]) -> Sent;

    /// How many bytes of what was sent the peer's kernel has not acknowledged. Asked for connections that are closing.
    fn unacknowledged(&mut self, conn: ConnId) -> usize;
}

impl ShardCore {
    /// Sends to about `budget` connections. Returns true when the flush is over.
    pub(super) fn flush_step(&mut self, mut budget: usize, wire: &mut impl Wire, now: Now) -> bool {
        while budget > 0 {
            match self.sender.next_target(&mut self.fanout, &mut self.conns) {
                None => return true,
                Some(FlushTarget::Asker(slot)) => {
                    self.gather(slot);
                    self.send_outbox(slot, wire, now);
                    budget -= 1;
                }
                Some(FlushTarget::Subscriber { channel, index }) => {
                    budget -= usize::from(self.visit(channel, index, wire, now));
                }
            }
        }
        !self.sender.is_flushing()
    }

    /// Sends what a connection that has just been read from is to be told, while all of it is in the cache. What the
    /// hubs have for it comes with the turn, and so does the judgement if the kernel takes no more.
    pub(super) fn reply(&mut self, id: ConnId, wire: &mut impl Wire, now: Now) {
        let Some(conn) = self.conns.get(id) else { return };
        let may_send = conn.send_state.is_dirty() && !conn.send_state.is_blocked();
        if may_send && self.send_waiting(id.slot, wire) {
            self.sender.unmark_last(id.slot, self.conns.at(id.slot));
        }
        self.pace(id, now);
    }

    /// The kernel takes bytes again.
    pub(super) fn writable(&mut self, id: ConnId, wire: &mut impl Wire, now: Now) {
        let Some(conn) = self.conns.get(id) else { return };
        self.sender.unblock(conn);
        #[cfg(feature = "planted")]
        crate::planted::at_write(id);
        let waiting = conn.outbox.bytes();
        self.send_outbox(id.slot, wire, now);
        let conn = self.conns.at(id.slot);
        if conn.outbox.bytes() < waiting {
            // The kernel took bytes after having been full: the peer made room, so it lives.
            conn.seen(now.mono_ms);
            self.shows_life(id);
        }
    }

    /// One subscriber's turn in a channel's walk. Returns whether a send was made.
    fn visit(&mut self, channel: u32, index: usize, wire: &mut impl Wire, now: Now) -> bool {
        let local = self.fanout.channel(channel);
        let slot = local.subscriber(index).slot;
        let conn = self.conns.at(slot);
        if conn.outbox.is_empty()
            && !conn.send_state.is_blocked()
            && conn.subscriptions.len() == 1
            && !conn.stamps()
            && local.sealed() == 1
        {
            return self.send_run(channel, index, slot, wire, now);
        }
        self.gather(slot);
        let conn = self.conns.at(slot);
        if conn.send_state.is_blocked() {
            self.check_bound(slot, now);
            return false;
        }
        if conn.outbox.is_empty() {
            return false;
        }
        self.send_outbox(slot, wire, now);
        true
    }

    /// Moves what the flush has for a connection, of all its channels, into its outbox.
    fn gather(&mut self, slot: u32) {
        let conn = self.conns.at(slot);
        for subscription in conn.subscriptions.iter() {
            let local = self.fanout.channel(subscription.channel);
            let outbox = &mut conn.outbox;
            let packer = self.compressing.packer(conn.framing.deflate(), &self.settings, &self.metrics);
            local.take_sealed(subscription.index as usize, packer, |run, start, end| {
                self.metrics.add(Count::Deliveries, run.count(start, end));
                outbox.push_slice(run, start, end);
            });
        }
    }

    /// The common case, and the fast one: nothing else waits, so the shared bytes go to the kernel as they are.
    fn send_run(&mut self, channel: u32, index: usize, slot: u32, wire: &mut impl Wire, now: Now) -> bool {
        let id = self.conns.id(slot);
        let mut rest: Option<(Run, usize, usize, usize)> = None;
        let mut sent = Sent::Bytes(0);
        let packer = self.compressing.packer(self.conns.at(slot).framing.deflate(), &self.settings, &self.metrics);
        self.fanout.channel(channel).take_sealed(index, packer, |run, start, end| {
            sent = wire.send(id, &[IoSlice::new(&run.bytes[start..end])]);
            let count = if let Sent::Bytes(count) = sent { count } else { 0 };
            self.metrics.count(Count::Sends);
            self.metrics.add(Count::BytesOut, count);
            self.metrics.add(Count::Deliveries, run.count(start, end));
            if count < end - start {
                rest = Some((Run::clone(run), start, end, count));
            }
        });
        if sent == Sent::Gone {
            self.gone(slot);
        } else if let Some((run, start, end, count)) = rest {
            let outbox = &mut self.conns.at(slot).outbox;
            outbox.push_slice(&run, start, end);
            outbox.advance(count);
            self.block(slot);
            self.check_bound(slot, now);
        }
        true
    }

    /// Sends what waits for one connection, as far as the kernel takes it, and judges what is left.
    fn send_outbox(&mut self, slot: u32, wire: &mut impl Wire, now: Now) {
        if self.conns.at(slot).send_state.is_blocked() || !self.send_waiting(slot, wire) {
            self.check_bound(slot, now);
        }
        self.pace(self.conns.id(slot), now);
    }

    /// Sends what waits for one connection. Returns false if the kernel takes no more, or a message that is being
    /// compressed is next.
    fn send_waiting(&mut self, slot: u32, wire: &mut impl Wire) -> bool {
        let id = self.conns.id(slot);
        let conn = self.conns.at(slot);
        while !conn.outbox.is_empty() {
            conn.settle();
            if conn.outbox.is_empty() {
                break;
            }
            let mut pieces = SmallVec::<[IoSlice<'_>; 4]>::new();
            conn.pieces(&mut pieces);
            debug_assert!(pieces.len() <= MAX_PIECES, "as many as one call takes");
            if pieces.is_empty() {
                // It is sent when it has been compressed.
                return false;
            }
            let offered: usize = pieces.iter().map(|piece| piece.len()).sum();
            let sent = wire.send(id, &pieces);
            drop(pieces);
            self.metrics.count(Count::Sends);
            match sent {
                Sent::Gone => {
                    self.gone(slot);
                    return true;
                }
                Sent::Bytes(count) => {
                    conn.outbox.advance(count);
                    self.metrics.add(Count::BytesOut, count);
                    if count < offered {
                        self.block(slot);
                        return false;
                    }
                }
            }
        }
        self.after_sending(id);
        true
    }

    fn after_sending(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get(id) else { return };
        if conn.outbox.is_empty() && conn.stage == Stage::Closing(Ending::Finish) {
            conn.stage = Stage::Closing(Ending::Finished);
            self.actions.push(Action::Finish(id));
        }
    }

    fn block(&mut self, slot: u32) {
        let id = self.conns.id(slot);
        self.sender.block(self.conns.at(slot));
        self.actions.push(Action::AwaitWritable(id));
    }

    fn check_bound(&mut self, slot: u32, now: Now) {
        let conn = self.conns.at(slot);
        if !conn.is_closing() && conn.stage != Stage::Echo {
            match conn.outbox.keep_within(self.settings.outbox_bytes, conn.framing.voice()) {
                Kept::Untouched | Kept::Tidied => {}
                Kept::Shed => self.metrics.count(Count::Sheds),
                Kept::TooMuch => {
                    let id = self.conns.id(slot);
                    let bound = self.settings.outbox_bytes;
                    let told = || format!("closed: over {bound} bytes are held for it unread (4508)");
                    self.refused(id, Limit::OutboxBytes, now, told);
                    self.close_slow(id, now);
                }
            }
        }
        self.sender.count_queued(self.conns.at(slot));
    }

    /// A send failed: the peer is gone. The reader will find out too and end the connection.
    fn gone(&mut self, slot: u32) {
        let id = self.conns.id(slot);
        let conn = self.conns.at(slot);
        self.sender.forget_queued(conn);
        conn.outbox = crate::fanout::outbox::Outbox::default();
        conn.paused = false;
        conn.owe_nothing();
        self.actions.push(Action::Abort(id));
    }
}
