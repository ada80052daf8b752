//! Asks to owners and what comes back: credits, attaching and detaching, and the replies to the client. Part of
//! `shard`; what an answer means for the client is the `session`'s to say.

use std::sync::Arc;

use super::conns::{Conn, Parked};
use super::{ShardCore, Stage};
use crate::dialect;
use crate::fanout::Subscription;
use crate::hub::{LOBBY, owner_of};
use crate::ids::{ConnId, ShardId};
use crate::metrics::Count;
use crate::model::namespace::{PresenceMode, Sending};
use crate::model::notice::{About, Gap, GapReason, Recovered, Reply};
use crate::model::parcel::{Answer, Ask, Asker, Attached, Parcel};
use crate::model::position::Placed;
use crate::model::refusal::RequestError;
use crate::model::text::{Language, Text};
use crate::model::user::User;
use crate::model::voice::Voice;
use crate::session::{Asked, Local, Outcome};
use crate::time::clock::Now;

impl ShardCore {
    /// Takes an owner's answer for a client.
    pub(super) fn answered(&mut self, id: ConnId, request: u32, answer: &Answer, now: Now) {
        if self.conns.get(id).is_none() {
            return self.detach_stale(id, request, answer);
        }
        if let Answer::Refused(refusal) = answer {
            // Before the session forgets whom it would have signed in.
            self.tell_owner_refusal(id, *refusal, now);
        }
        let (outcome, after) = self.conns.at(id.slot).session.answered(request, answer);
        match (outcome, answer) {
            (Outcome::SignedIn(..), _) if self.conns.at(id.slot).framing.voice() == Voice::EventStream => {
                self.begin_stream(id, &after, now);
            }
            (Outcome::SignedIn(mark, user), Answer::Claimed { lobby, online_count }) => {
                self.signed_in(id, request, lobby.as_deref(), *online_count, &user, mark.as_deref());
                self.subscribe_all(id, &after, now);
            }
            (Outcome::Subscribed(mark), Answer::Subscribed(attached)) => {
                let overflow = self.attach(id, request, &attached.placed).overflow.as_str();
                let recovery = recovery(attached);
                let position = attached.placed.position();
                let expires_at = self.conns.at(id.slot).session.grant_expires_at_ms(position.channel);
                self.say(id, &Reply::Subscribed { position, recovery, overflow, expires_at }, mark.as_deref());
                self.say_gap(id, attached);
                // The rights may have changed since it was asked for.
                self.end_unless_allowed(id, &attached.placed.channel, 403);
                self.file_deadline(id);
            }
            (Outcome::Reply(mark), answer) => self.say_answer(id, answer, mark.as_deref()),
            (Outcome::Error(mark, error, channel), answer) => {
                let about = match answer {
                    Answer::EpochChanged(placed) => Some(About::Position(placed.position())),
                    _ => about(&channel),
                };
                self.say(id, &Reply::Error { error, about }, mark.as_deref());
            }
            (Outcome::Close(mark, error, close_code), _) => {
                self.error(id, mark.as_deref(), error.code, error.text);
                self.close(id, close_code, error.text.in_language(Language::En), now);
            }
            (Outcome::Stale, answer) => self.detach_stale(id, request, answer),
            // It has nothing to be told, but its own publication to come.
            (Outcome::Silent, _) => self.mark_dirty(id.slot),
            (outcome, answer) => unreachable!("{outcome:?} can't come of {answer:?}"),
        }
        self.large_answer_made(id, request, answer, now);
        self.go_on(id, now);
        self.end_unopened_stream(id, now);
        self.pace(id, now);
    }

    /// The stalled command, if its turn has come; then the next ones may be read.
    pub(super) fn go_on(&mut self, id: ConnId, now: Now) {
        while let Some((what, channel, mark)) = self.conns.at(id.slot).session.next_stalled() {
            self.local(id, what, &channel, mark.as_deref(), now);
        }
        self.maybe_resume(id);
    }

    /// Answers without an owner.
    pub(super) fn local(&mut self, id: ConnId, what: Local, channel: &str, mark: Option<&str>, now: Now) {
        match what {
            Local::Refuse(error) => {
                self.tell_local_refusal(id, channel, error.text, now);
                self.say(id, &Reply::Error { error, about: about(channel) }, mark);
            }
            Local::Unsubscribe => {
                self.unsubscribe(id, channel);
                self.say(id, &Reply::Unsubscribed { channel, code: 200 }, mark);
            }
        }
    }

    fn signed_in(
        &mut self,
        id: ConnId,
        request: u32,
        lobby: Option<&Attached>,
        online_count: u64,
        user: &User,
        mark: Option<&str>,
    ) {
        self.metrics.count(Count::SignIns);
        if let Some(lobby) = lobby {
            self.attach(id, request, &lobby.placed);
        }
        let rules = Arc::clone(self.settings.hub.namespaces.lobby());
        let expires_at = self.conns.at(id.slot).session.expires_at_ms();
        // What nobody may ask for is not told here either.
        let online_count = (lobby.is_some() && rules.presence != PresenceMode::Off).then_some(online_count);
        let recovery = lobby.and_then(recovery);
        let position = lobby.map(|lobby| lobby.placed.position());
        let escape = rules.escape;
        self.say(id, &Reply::AuthSuccess { user, escape, expires_at, online_count, lobby: position, recovery }, mark);
        if let Some(lobby) = lobby {
            self.say_gap(id, lobby);
            // The rights may have changed since it was asked for.
            self.end_unless_allowed(id, LOBBY, 403);
        }
        self.file_deadline(id);
    }

    /// From here on the connection gets what the channel's lane brings.
    fn attach(&mut self, id: ConnId, request: u32, placed: &Placed) -> Sending {
        let namespace = self.settings.hub.namespaces.of(&placed.channel);
        let sending = namespace.expect("the owner found it").sending();
        let voice = self.conns.at(id.slot).framing.voice();
        let mut subscription = self.fanout.subscribe((&placed.channel, voice), &placed.epoch, sending, id.slot);
        subscription.request = request;
        self.conns.at(id.slot).subscriptions.insert(subscription);
        sending
    }

    /// Nobody waits for this answer any more: what it attached is detached.
    fn detach_stale(&mut self, conn: ConnId, request: u32, answer: &Answer) {
        // A claim is released by whoever gave it up.
        if let Answer::Subscribed(attached) = answer {
            let channel = Arc::clone(&attached.placed.channel);
            let owner = owner_of(&channel, self.settings.hub.shards);
            self.staging.push(owner, Parcel::Unsubscribe { conn, request, channel });
        }
    }

    /// Ends what the connection takes part in: subscriptions, and the user at the lobby's owner.
    pub(super) fn leave(&mut self, id: ConnId) {
        self.end_pacing(id);
        let conn = self.conns.at(id.slot);
        conn.forget_parked(|_| true);
        conn.forget_put_off();
        let held = conn.session.end();
        while let Some(subscription) = self.conns.at(id.slot).subscriptions.pop() {
            // The release takes care of the lobby.
            let channel = Arc::clone(self.fanout.channel(subscription.channel).name());
            self.end_subscription(id, subscription, held.is_some() && *channel == *LOBBY);
        }
        if let Some(user) = held {
            let owner = owner_of(LOBBY, self.settings.hub.shards);
            self.staging.push(owner, Parcel::Release { conn: id, user });
        }
    }

    /// Ends one subscription: nothing of the channel reaches the client after this.
    pub(super) fn unsubscribe(&mut self, id: ConnId, channel: &str) {
        if let Some(subscription) = self.find_subscription(id, channel) {
            let conn = self.conns.at(id.slot);
            conn.subscriptions.remove(subscription.channel);
            // What came before is the client's.
            self.sender.queue_for(id.slot);
            let local = self.fanout.channel(subscription.channel);
            let packer = self.compressing.packer(conn.framing.deflate(), &self.settings, &self.metrics);
            let kept = conn.kept_frames();
            let frames = local.hand_over(subscription.index as usize, packer, kept, &mut conn.outbox);
            self.metrics.add(Count::Deliveries, frames);
            conn.outbox.push_fence();
            conn.session.unsubscribed(channel);
            self.end_subscription(id, subscription, false);
        }
    }

    fn end_subscription(&mut self, id: ConnId, subscription: Subscription, owner_knows: bool) {
        let Subscription { channel, index, request } = subscription;
        if let Some(moved) = self.fanout.unsubscribe(subscription) {
            self.conns.at(moved).subscriptions.set_index(channel, index);
        }
        let local = self.fanout.channel(channel);
        let name = Arc::clone(local.name());
        if local.is_empty() {
            self.sender.channel_emptied(channel);
        }
        if !owner_knows {
            let owner = owner_of(&name, self.settings.hub.shards);
            self.staging.push(owner, Parcel::Unsubscribe { conn: id, request, channel: name });
        }
    }

    pub(super) fn find_subscription(&mut self, id: ConnId, channel: &str) -> Option<Subscription> {
        let conn = self.conns.at(id.slot);
        let channel = self.fanout.find(channel, conn.framing.voice())?;
        conn.subscriptions.find(channel)
    }

    fn say_answer(&mut self, id: ConnId, answer: &Answer, mark: Option<&str>) {
        let escape = |namespaces: &crate::model::namespace::Namespaces, channel: &str| {
            namespaces.of(channel).is_none_or(|namespace| namespace.escape)
        };
        match answer {
            Answer::Published { placed, duplicate } => {
                self.say(id, &Reply::Ack { position: placed.position(), duplicate: *duplicate }, mark);
            }
            Answer::History(page) => {
                let (position, publications) = (page.placed.position(), &*page.publications);
                self.say(id, &Reply::History { position, publications }, mark);
            }
            Answer::Users(page) => {
                let escape = escape(&self.settings.hub.namespaces, LOBBY);
                let (count, members, cursor) = (page.count, &*page.members, page.cursor.as_deref());
                self.say(id, &Reply::Users { count, members, escape, cursor }, mark);
            }
            Answer::Presence(channel, page) => {
                let escape = escape(&self.settings.hub.namespaces, channel);
                let (count, members, cursor) = (page.count, &*page.members, page.cursor.as_deref());
                self.say(id, &Reply::Presence { channel, count, members, escape, cursor }, mark);
            }
            answer => unreachable!("{answer:?} is no reply"),
        }
    }

    /// What could not be recovered, where it is missing: right behind the answer that says so.
    fn say_gap(&mut self, id: ConnId, attached: &Attached) {
        let Placed { channel, epoch, offset } = &attached.placed;
        let lost_from = attached.lost_from().filter(|from| from <= offset);
        let gap = lost_from.map(|from| Gap { channel, epoch, from, to: *offset, reason: GapReason::HistoryLost });
        match (self.conns.at(id.slot).framing.voice(), gap) {
            (Voice::EventStream, gap) => self.say_gap_on_stream(id, attached, gap),
            (voice, Some(gap)) => self.push_private(id.slot, |out| dialect::write_gap(voice, out, &gap)),
            (_, None) => {}
        }
    }

    /// Sends an ask, or parks it until the owner's answers have given a credit back. On the way out none is sent.
    pub(super) fn send_ask(&mut self, id: ConnId, asked: Asked) {
        let Asked { channel, request, ask } = asked;
        let owner = owner_of(&channel, self.settings.hub.shards);
        let going = self.farewell.has_begun();
        if !going && self.asks.take_credit(owner) {
            self.staging.push(owner, parcel(id, request, ask));
        } else {
            if !going {
                self.asks.wait(owner, id);
            }
            self.conns.at(id.slot).park(Parked { owner, request, ask });
        }
        self.file_deadline(id);
    }

    pub(super) fn give_credit(&mut self, owner: ShardId) {
        while let Some(next) = self.asks.next_waiting(owner) {
            let Some(conn) = self.conns.get(next) else { continue };
            // It may have given up on the ask for which it queued.
            let Some(Parked { request, ask, .. }) = conn.unpark(owner) else { continue };
            self.staging.push(owner, parcel(next, request, ask));
            self.maybe_resume(next);
            return;
        }
        self.asks.give_back(owner);
    }

    pub(super) fn error(&mut self, id: ConnId, mark: Option<&str>, code: u16, text: Text) {
        self.say(id, &Reply::Error { error: RequestError::new(code, text), about: None }, mark);
    }
}

impl Conn {
    /// The session speaks the native protocol and has signed in.
    pub(super) fn is_signed_in(&self) -> bool {
        self.stage == Stage::Native && self.session.user().is_some()
    }
}

/// What a refusal concerns. Of the lobby's nothing is said: they have the tutorial's shape.
fn about(channel: &str) -> Option<About<'_>> {
    (channel != LOBBY).then_some(About::Channel { channel })
}

fn parcel(conn: ConnId, request: u32, ask: Ask) -> Parcel {
    Parcel::Ask { asker: Asker::Conn(conn), request, ask }
}

fn recovery(attached: &Attached) -> Option<Recovered<'_>> {
    attached.recovery().map(|(recovered, publications)| Recovered { recovered, publications })
}
