//! Large answers: pages of history and of members, and what a client recovers. A connection has one at a time, from the
//! ask until the client has taken the answer, and its user pays for it before it is made. Asks that come too early are
//! held back in order, and nothing more is read of the client meanwhile. Part of `shard`; the rates are `limits`'.

use std::collections::VecDeque;
use std::sync::Arc;

use super::{REPLY_BYTES, ShardCore};
use crate::ids::ConnId;
use crate::limits::Address;
use crate::metrics::Count;
use crate::model::parcel::Answer;
use crate::model::user::User;
use crate::session::Asked;
use crate::time::clock::Now;

/// An answer that may be compressed costs its user's rate this many times what a plain one does: the default rate of 16
/// MiB/s would be half a core's work at level 3 in a build that is not optimized to the last.
const COMPRESSED_COST: u64 = 3;

/// The large answers of one connection.
#[derive(Debug, Default)]
pub(super) struct Pacing {
    stage: PacingStage,
    /// What is paid for the answer that is under way. `None` for a client that is exempt.
    payment: Option<Payment>,
    /// Asks that wait for their turn, in order.
    held_back: VecDeque<Asked>,
    /// When the user's rate may have room for the first of them, in milliseconds of the monotonic clock. `None` while
    /// the connection's own answers are in the way.
    retry_ms: Option<u64>,
}

#[derive(Debug)]
struct Payment {
    user: Arc<User>,
    /// Bytes of the answer: at most, until it has been made.
    bytes: u64,
    /// How much each byte takes out of the user's rate.
    cost: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum PacingStage {
    /// No large answer is under way.
    #[default]
    Idle,
    /// The owner was asked.
    Asked { request: u32 },
    /// The answer waits to be sent.
    Unread,
}

impl Pacing {
    /// Nothing has to be remembered.
    pub(super) fn is_empty(&self) -> bool {
        self.stage == PacingStage::Idle && self.held_back.is_empty()
    }

    /// An ask waits for its turn.
    pub(super) fn holds_back(&self) -> bool {
        !self.held_back.is_empty()
    }

    /// When the first ask has to be tried again, if time alone brings its turn.
    pub(super) fn retry_ms(&self) -> Option<u64> {
        self.retry_ms.filter(|_| self.holds_back())
    }
}

impl ShardCore {
    /// Sends an ask to its owner. One that may bring a large answer is held back until its turn comes.
    pub(super) fn ask(&mut self, id: ConnId, asked: Asked, now: Now) {
        if !asked.ask.may_be_large() {
            return self.send_ask(id, asked);
        }
        if !self.conns.at(id.slot).pacing().is_some_and(Pacing::holds_back) && self.begin_large(id, asked.request, now)
        {
            return self.send_ask(id, asked);
        }
        self.metrics.count(Count::AnswersDelayed);
        let conn = self.conns.at(id.slot);
        conn.session.hold_back(asked.request);
        conn.change_pacing(|pacing| pacing.held_back.push_back(asked));
        self.file_deadline(id);
    }

    /// Sees to the connection's large answers: the last one may have been taken, and the next ask's turn have come.
    pub(super) fn pace(&mut self, id: ConnId, now: Now) {
        let Some(conn) = self.conns.get(id) else { return };
        if conn.pacing().is_some() {
            if conn.outbox.private_bytes() < REPLY_BYTES {
                self.end_unread(id, now);
            }
            self.ask_next(id, now);
        }
        self.maybe_resume(id);
    }

    fn ask_next(&mut self, id: ConnId, now: Now) {
        let next = self.conns.at(id.slot).pacing().and_then(|pacing| pacing.held_back.front());
        let Some(request) = next.map(|asked| asked.request) else { return };
        if self.farewell.has_begun() || !self.begin_large(id, request, now) {
            return self.file_deadline(id);
        }
        let deadline_ms = now.mono_ms + self.settings.request_ms;
        let conn = self.conns.at(id.slot);
        conn.session.sent(request, deadline_ms);
        let asked = conn.change_pacing(|pacing| pacing.held_back.pop_front());
        self.send_ask(id, asked.expect("just seen"));
    }

    /// The owner has answered: the user's rate gets back what was taken out of it in vain.
    pub(super) fn large_answer_made(&mut self, id: ConnId, request: u32, answer: &Answer, now: Now) {
        self.end_asked(id, request, answer.weight() as u64, now);
    }

    /// Nobody waits for the answer any more.
    pub(super) fn large_answer_given_up(&mut self, id: ConnId, request: u32, now: Now) {
        self.end_asked(id, request, 0, now);
    }

    /// The connection ends: nothing of it counts for its user any more.
    pub(super) fn end_pacing(&mut self, id: ConnId) {
        let now_ms = self.deadlines.ticked_ms();
        let pacing = self.conns.at(id.slot).change_pacing(std::mem::take);
        if let Some(Payment { user, bytes, .. }) = pacing.payment {
            self.settings.guard.answer_taken(user.key(), bytes, now_ms);
        }
    }

    /// Whether a large answer may be asked for now; if so it is under way, and paid for.
    fn begin_large(&mut self, id: ConnId, request: u32, now: Now) -> bool {
        let (guard, bound) = (&self.settings.guard, self.settings.outbox_bytes);
        let largest = self.settings.hub.recover_bytes as u64;
        let bounded = *self.conns.address(id.slot) != Address::NONE;
        let conn = self.conns.at(id.slot);
        let is_idle = conn.pacing().is_none_or(|pacing| pacing.stage == PacingStage::Idle);
        let is_clear = is_idle && conn.outbox.private_bytes() < REPLY_BYTES;
        // With an answer of half of the bound an eighth of it has to stay free.
        let room = bound / 4;
        let has_shed = is_clear && conn.outbox.make_room(room, conn.framing.voice());
        if !is_clear || conn.outbox.held_bytes() > room {
            conn.change_pacing(|pacing| pacing.retry_ms = None);
            self.count_shed(id.slot, has_shed);
            return false;
        }
        let user = conn.session.claimed().filter(|_| bounded).map(Arc::clone);
        let cost = if conn.framing.deflate().is_some() { COMPRESSED_COST } else { 1 };
        let wait_ms = user.as_ref().and_then(|user| guard.reserve_answer(user.key(), largest, cost, now.mono_ms).err());
        conn.change_pacing(|pacing| {
            pacing.retry_ms = wait_ms.map(|wait_ms| now.mono_ms + wait_ms);
            if wait_ms.is_none() {
                pacing.stage = PacingStage::Asked { request };
                pacing.payment = user.map(|user| Payment { user, bytes: largest, cost });
            }
        });
        self.count_shed(id.slot, has_shed);
        wait_ms.is_none()
    }

    fn count_shed(&mut self, slot: u32, has_shed: bool) {
        if has_shed {
            self.metrics.count(Count::Sheds);
            self.sender.count_queued(self.conns.at(slot));
        }
    }

    fn end_asked(&mut self, id: ConnId, request: u32, made: u64, now: Now) {
        let Some(conn) = self.conns.get(id) else { return };
        if conn.pacing().is_none_or(|pacing| pacing.stage != PacingStage::Asked { request }) {
            return;
        }
        let guard = &self.settings.guard;
        conn.change_pacing(|pacing| {
            pacing.stage = PacingStage::Unread;
            if let Some(Payment { user, bytes, cost }) = &mut pacing.payment {
                guard.answer_made(user.key(), *bytes, made, *cost, now.mono_ms);
                *bytes = made;
            }
        });
    }

    fn end_unread(&mut self, id: ConnId, now: Now) {
        let guard = &self.settings.guard;
        self.conns.at(id.slot).change_pacing(|pacing| {
            if pacing.stage != PacingStage::Unread {
                return;
            }
            pacing.stage = PacingStage::Idle;
            if let Some(Payment { user, bytes, .. }) = pacing.payment.take() {
                guard.answer_taken(user.key(), bytes, now.mono_ms);
            }
        });
    }
}
