//! Sending: once a turn, what all connections are due. First those who wait for an answer or for their own
//! publication, for they go on when they have it; then channel by channel, the subscriber in the outer loop and one
//! run of bytes for all of them. It works in steps, so that the shell can let others run in between. Part of
//! `shard`; the kernel is behind [`Wire`].

use std::io::IoSlice;

use smallvec::SmallVec;

use super::conns::{Ending, Stage};
use super::send_state::DirectTarget;
use super::sender::FlushTarget;
use super::{Action, ShardCore};
use crate::fanout::outbox::{Kept, MAX_PIECES};
use crate::fanout::run::{Run, place};
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

/// Slices of runs on their way to one connection.
type Slices = SmallVec<[(Run, u32, u32); 4]>;

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
        if may_send {
            if self.send_waiting(id.slot, wire) {
                self.sender.unmark_last(id.slot, self.conns.at(id.slot));
            }
            self.tried(id);
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
        let slot = self.fanout.channel(channel).subscriber(index).slot;
        if let Some(target) = self.direct_target(slot) {
            return self.send_due(channel, index, target, wire, now);
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

    /// The connection in a slot, if what its channels have for it may go to the kernel as it is.
    fn direct_target(&mut self, slot: u32) -> Option<DirectTarget> {
        #[cfg(test)]
        if self.sends_through_outboxes {
            return None;
        }
        let target = self.sender.direct(self.own, slot)?;
        if cfg!(debug_assertions) {
            let conn = self.conns.at(slot);
            let waits = conn.send_state.is_blocked() || conn.send_state.is_dirty() || !conn.outbox.is_empty();
            assert!(!waits && !conn.stamps(), "{}: what waits for it goes first", target.id);
            assert_eq!((target.deflate, target.id), (conn.framing.deflate(), self.conns.id(slot)));
        }
        Some(target)
    }

    /// Moves what the flush has for a connection, of all its channels, into its outbox.
    fn gather(&mut self, slot: u32) {
        let conn = self.conns.at(slot);
        for subscription in self.fanout.due_of(slot, &conn.subscriptions) {
            let local = self.fanout.channel(subscription.channel);
            let outbox = &mut conn.outbox;
            let packer = self.compressing.packer(conn.framing.deflate(), &self.settings, &self.metrics);
            local.take_sealed(subscription.index as usize, packer, |run, start, end| {
                self.metrics.add(Count::Deliveries, run.count(start, end));
                outbox.push_slice(run, start, end);
            });
        }
    }

    /// The fast way, and the common one: nothing waits for the connection, so the bytes that it shares with others go to
    /// the kernel as they are. Only what the kernel does not take goes through the outbox. Returns whether a send was made.
    fn send_due(&mut self, channel: u32, index: usize, target: DirectTarget, wire: &mut impl Wire, now: Now) -> bool {
        if self.fanout.due_channels(target.id.slot) == 1 && self.fanout.channel(channel).sealed() == 1 {
            return self.send_run(channel, index, target, wire, now);
        }
        let mut slices = Slices::new();
        let slot = target.id.slot;
        for subscription in self.fanout.due_of(slot, &self.conns.at(slot).subscriptions) {
            let local = self.fanout.channel(subscription.channel);
            let packer = self.compressing.packer(target.deflate, &self.settings, &self.metrics);
            local.take_sealed(subscription.index as usize, packer, |run, start, end| {
                self.metrics.add(Count::Deliveries, run.count(start, end));
                slices.push((Run::clone(run), place(start), place(end)));
            });
        }
        if slices.is_empty() {
            return false;
        }
        if slices.len() > MAX_PIECES {
            let outbox = &mut self.conns.at(slot).outbox;
            slices.iter().for_each(|(run, start, end)| outbox.push_slice(run, *start as usize, *end as usize));
            self.send_outbox(slot, wire, now);
            return true;
        }
        let offered = slices.iter().map(|(_, start, end)| (end - start) as usize).sum();
        let pieces: SmallVec<[IoSlice<'_>; 8]> =
            slices.iter().map(|(run, start, end)| IoSlice::new(&run.bytes[*start as usize..*end as usize])).collect();
        let sent = wire.send(target.id, &pieces);
        drop(pieces);
        self.sent_directly(slot, &slices, offered, sent, now);
        true
    }

    /// [`Self::send_due`] when that is one run of one channel: nothing but the cursor is touched.
    fn send_run(&mut self, channel: u32, index: usize, target: DirectTarget, wire: &mut impl Wire, now: Now) -> bool {
        let mut rest = None;
        let mut is_sent = false;
        let packer = self.compressing.packer(target.deflate, &self.settings, &self.metrics);
        self.fanout.channel(channel).take_sealed(index, packer, |run, start, end| {
            let sent = wire.send(target.id, &[IoSlice::new(&run.bytes[start..end])]);
            is_sent = true;
            self.metrics.add(Count::Deliveries, run.count(start, end));
            if sent == Sent::Bytes(end - start) {
                self.metrics.count(Count::Sends);
                self.metrics.add(Count::BytesOut, end - start);
            } else {
                rest = Some(((Run::clone(run), place(start), place(end)), sent));
            }
        });
        if let Some((slice, sent)) = rest {
            let offered = (slice.2 - slice.1) as usize;
            self.sent_directly(target.id.slot, &[slice], offered, sent, now);
        }
        is_sent
    }

    /// Counts a direct send, and queues what the kernel did not take of it.
    fn sent_directly(&mut self, slot: u32, slices: &[(Run, u32, u32)], offered: usize, sent: Sent, now: Now) {
        self.metrics.count(Count::Sends);
        let Sent::Bytes(count) = sent else { return self.gone(slot) };
        self.metrics.add(Count::BytesOut, count);
        if count < offered {
            let outbox = &mut self.conns.at(slot).outbox;
            slices.iter().for_each(|(run, start, end)| outbox.push_slice(run, *start as usize, *end as usize));
            outbox.advance(count);
            self.block(slot);
            self.check_bound(slot, now);
        }
    }

    /// Sends what waits for one connection, as far as the kernel takes it, and judges what is left.
    fn send_outbox(&mut self, slot: u32, wire: &mut impl Wire, now: Now) {
        if self.conns.at(slot).send_state.is_blocked() || !self.send_waiting(slot, wire) {
            self.check_bound(slot, now);
        }
        let id = self.conns.id(slot);
        self.tried(id);
        self.pace(id, now);
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

    /// What waits for a connection has been sent as far as possible.
    fn tried(&mut self, id: ConnId) {
        if let Some(conn) = self.conns.get(id) {
            self.sender.tried(id, conn);
        }
    }

    fn after_sending(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get(id) else { return };
        if conn.outbox.is_empty() && conn.stage == Stage::Closing(Ending::Finish) {
            conn.stage = Stage::Closing(Ending::Finished);
            self.actions.push(Action::Finish(id));
        }
    }

    pub(super) fn block(&mut self, slot: u32) {
        let id = self.conns.id(slot);
        self.sender.block(slot, self.conns.at(slot));
        self.actions.push(Action::AwaitWritable(id));
    }

    fn check_bound(&mut self, slot: u32, now: Now) {
        let conn = self.conns.at(slot);
        if !conn.is_closing() && !matches!(conn.stage, Stage::Echo | Stage::Api) {
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
    pub(super) fn gone(&mut self, slot: u32) {
        let id = self.conns.id(slot);
        let conn = self.conns.at(slot);
        self.sender.forget_queued(conn);
        conn.outbox = crate::fanout::outbox::Outbox::default();
        conn.paused = false;
        conn.owe_nothing();
        self.actions.push(Action::Abort(id));
    }
}
