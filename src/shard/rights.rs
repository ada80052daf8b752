//! Rights that end while a connection lives: its token expires, it is revoked, a new token grants less. Whatever the
//! wheel or a revocation brings up is judged by the wall clock here, so that a clock that jumps cuts nobody early.
//! Part of `shard`; what a right is, `session` knows.

use std::sync::Arc;

use super::ShardCore;
use crate::auth::Revocation;
use crate::ids::ConnId;
use crate::limits::refusals::quoted;
use crate::model::notice::Reply;
use crate::model::parcel::Answer;
use crate::time::clock::Now;
use crate::wire::codes::close;

/// Connections that are looked at in one turn after a revocation: a fraction of a millisecond.
const SWEEP_SLOTS: usize = 1024;
/// A walk over all connections, some each turn, for what was revoked. Revoking more lengthens it.
#[derive(Debug, Default)]
pub(super) struct Sweep {
    next: usize,
    closed: u64,
    waiting: Vec<PendingRevocation>,
}

/// Who waits until every connection has been looked at.
#[derive(Debug)]
struct PendingRevocation {
    request: u32,
    /// Slots yet to be looked at.
    left: usize,
    /// What [`Sweep::closed`] was before.
    closed: u64,
}

impl Sweep {
    pub(super) fn is_under_way(&self) -> bool {
        !self.waiting.is_empty()
    }
}

impl ShardCore {
    /// Takes the revoked tokens no more, and begins a walk over all connections.
    pub(super) fn revoke(&mut self, request: u32, revocation: &Revocation, now: Now) {
        self.authenticator.revoke(revocation, now.unix_ms);
        let (left, closed) = (self.conns.slots(), self.sweep.closed);
        self.sweep.waiting.push(PendingRevocation { request, left, closed });
    }

    /// A turn's part of the walk.
    pub(super) fn sweep(&mut self, now: Now) {
        let Some(left) = self.sweep.waiting.iter().map(|waiting| waiting.left).max() else { return };
        let count = left.min(SWEEP_SLOTS);
        for _ in 0..count {
            let slot = self.sweep.next % self.conns.slots();
            self.sweep.next = slot + 1;
            let slot = u32::try_from(slot).expect("slots are numbered so");
            if self.conns.get_slot(slot).is_some() && self.judge_rights(self.conns.id(slot), now) {
                self.sweep.closed += 1;
            }
        }
        let all_closed = self.sweep.closed;
        let backend = &mut self.backend;
        self.sweep.waiting.retain_mut(|PendingRevocation { request, left, closed }| {
            *left = left.saturating_sub(count);
            if *left == 0 {
                backend.push((*request, Answer::Revoked { closed: all_closed - *closed }));
            }
            *left > 0
        });
    }

    /// Ends what the connection's tokens give no more, and tells of what is about to end. Whether it has to close.
    pub(super) fn judge_rights(&mut self, id: ConnId, now: Now) -> bool {
        let session = &mut self.conns.at(id.slot).session;
        let revocations = self.authenticator.revocations();
        if let Some(why) = session.lapse(revocations, now) {
            let what = why.as_str();
            self.tell_refusal(id, why.reason().name(), now, || format!("closed: {what} (4401)"));
            self.say(id, &Reply::AuthFailed, None);
            self.close(id, close::UNAUTHORIZED, why.as_str(), now);
            return true;
        }
        let lapsed = session.drop_lapsed(revocations, now);
        let (notice, grants) = (session.take_notice(now), session.take_grant_notices(now));
        if let Some(expires_at) = notice {
            self.say(id, &Reply::TokenExpiring { channel: None, expires_at }, None);
        }
        for (channel, expires_at) in grants {
            self.say(id, &Reply::TokenExpiring { channel: Some(&channel), expires_at }, None);
        }
        for (channel, why) in lapsed {
            let what = why.as_str();
            self.tell_refusal(id, why.reason().name(), now, || format!("channel {}: {what}", quoted(&channel)));
            self.end_unless_allowed(id, &channel, why.code());
        }
        false
    }

    /// Ends the subscriptions that newer rights don't cover.
    pub(super) fn review_subscriptions(&mut self, id: ConnId) {
        let of =
            |subscription: &crate::fanout::Subscription| Arc::clone(self.fanout.channel(subscription.channel).name());
        let channels: Vec<Arc<str>> = self.conns.at(id.slot).subscriptions.iter().map(of).collect();
        for channel in channels {
            self.end_unless_allowed(id, &channel, 403);
        }
    }

    /// Ends a subscription that no right stands for.
    pub(super) fn end_unless_allowed(&mut self, id: ConnId, channel: &str, code: u16) {
        let may_stay = self.conns.at(id.slot).session.may_stay(channel, &self.settings.hub.namespaces);
        if !may_stay && self.is_subscribed(id, channel) {
            self.unsubscribe(id, channel);
            self.say(id, &Reply::Unsubscribed { channel, code }, None);
        }
    }

    fn is_subscribed(&mut self, id: ConnId, channel: &str) -> bool {
        self.find_subscription(id, channel).is_some()
    }
}
