//! One client's life: anonymous, signing in, signed in. A session judges each command and turns it into an [`Effect`],
//! and it turns the owners' answers into [`Outcome`]s. It knows no dialect, no socket, no lane and no queue. `shard`
//! carries the effects out.

mod pending;
pub(crate) mod rights;
mod rules;
mod waiting;

use std::sync::Arc;

use crate::auth::{Identity, Revocations};
use crate::limits::refusals::TokenReason;
use crate::model::channel_name::is_channel_name;
use crate::model::command::{Command, Request, SubscribeTo};
use crate::model::namespace::{LOBBY, Namespace, Namespaces, PublishRule};
use crate::model::notice::{About, Reply};
use crate::model::parcel::{Answer, Ask, Claim, Refusal};
use crate::model::position::{Since, SinceRef};
use crate::model::publication::{Content, Publish};
use crate::model::refusal::RequestError;
use crate::model::text::{Text, trim};
use crate::model::user::User;
use crate::planted::Fault;
use crate::session::rights::{Lapse, Rights};
use crate::time::clock::Now;
use crate::wire::codes::close;
use pending::{Pending, PendingRequests, RequestKind};
use rules::grant_for;

pub(crate) use rules::Rules;

/// Most members or publications in a page, and the number if the client names no limit.
const PAGE_MAX: u32 = 1000;
const PAGE_DEFAULT: u32 = 100;

/// Stop reading from a client while its unanswered requests carry this many bytes.
const UNDERWAY_BYTES: usize = 128 * 1024;

/// The expiry of a token that does not expire, as the client is told: the largest integer that JavaScript counts to.
const NEVER_MS: u64 = (1 << 53) - 1;

/// A client's state. It is small, because every idle connection has one.
#[derive(Debug, Default)]
pub(crate) struct Session {
    stage: SessionStage,
    wants_ping: bool,
    /// How long before the end of its token the client is told, in milliseconds; 0 once it has been told.
    notice_ms: u16,
    next_request: u32,
    user: Option<Arc<User>>,
    /// What the client's tokens give. `None` before the sign-in.
    rights: Option<Box<Rights>>,
    underway: Option<Box<Underway>>,
}

/// Requests that wait for the answers of owners.
#[derive(Debug, Default)]
struct Underway {
    requests: PendingRequests,
    /// Commands that are answered here, in order. Each waits because its answer must not overtake that of an earlier
    /// request on its channel. Nothing is read from the client meanwhile.
    stalled: Vec<Stalled>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum SessionStage {
    #[default]
    Anonymous,
    /// The lobby's owner has been asked. Messages that follow wait for its answer.
    SigningIn,
    SignedIn,
}

/// A subscription that the client asks for.
#[derive(Debug)]
pub(crate) struct Wanted {
    /// The name of the channel.
    pub(crate) channel: Box<str>,
    token: Option<Box<str>>,
    recover: Option<Box<Since>>,
}

#[derive(Debug)]
struct Stalled {
    id: Option<Box<str>>,
    channel: Box<str>,
    what: Local,
}

/// An answer that needs no owner.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Local {
    /// Send this error to the client.
    Refuse(RequestError),
    /// End the subscription and send `unsubscribed`.
    Unsubscribe,
}

/// What the shard has to do about a command. An `Option<&str>` is the id of the client's request.
#[derive(Debug)]
pub(crate) enum Effect<'a> {
    /// Send this reply to the client.
    Reply(Reply<'a>, Option<&'a str>),
    /// Send this reply and close with the code.
    Close(Reply<'static>, Option<&'a str>, u16),
    /// Send this reply. The client's rights have changed, which may end subscriptions.
    Refreshed(Reply<'a>, Option<&'a str>),
    /// Ask the channel's owner.
    Ask(Asked),
    /// Give this answer about the channel.
    Local(Local, &'a str, Option<&'a str>),
    /// Send `error` "cancelled" for the subscribe with the first id, then `unsubscribed` for the second id.
    Cancel(Option<Box<str>>, &'a str, Option<&'a str>),
    /// Nothing yet: the command is stalled, see [`Session::next_stalled`].
    Wait,
}

/// A request on its way to an owner.
#[derive(Debug)]
pub(crate) struct Asked {
    /// The channel whose owner is asked.
    pub(crate) channel: Arc<str>,
    /// The session's number for the request.
    pub(crate) request: u32,
    /// The ask for the owner.
    pub(crate) ask: Ask,
}

/// What an owner's answer means for the client. An `Option<Box<str>>` is the id of the client's request.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// The user is signed in: attach the connection to the lobby, then send `auth_success`.
    SignedIn(Option<Box<str>>, Arc<User>),
    /// Attach the connection to the channel, then send `subscribed`.
    Subscribed(Option<Box<str>>),
    /// Send the answer to the client.
    Reply(Option<Box<str>>),
    /// Send nothing: the client did not ask for an acknowledgement.
    Silent,
    /// Send this error about the channel.
    Error(Option<Box<str>>, RequestError, Arc<str>),
    /// Send this error, then close with the code.
    Close(Option<Box<str>>, RequestError, u16),
    /// The request is not under way any more. Undo what the owner attached.
    Stale,
}

impl Session {
    /// The user who is signed in.
    pub(crate) fn user(&self) -> Option<&Arc<User>> {
        if self.stage == SessionStage::SignedIn { self.user.as_ref() } else { None }
    }

    /// The user whom the lobby's owner may hold for this connection: one who is signed in, or about to be.
    pub(crate) fn claimed(&self) -> Option<&Arc<User>> {
        self.user.as_ref()
    }

    /// Whether the client has asked for `ping` messages.
    pub(crate) fn wants_ping(&self) -> bool {
        self.wants_ping
    }

    /// Whether the deadline for signing in applies. It applies until a good token has come.
    pub(crate) fn is_anonymous(&self) -> bool {
        self.stage == SessionStage::Anonymous
    }

    /// Whether the next command may be read. It may not during a sign-in, behind a stalled command, or while `limit`
    /// requests or [`UNDERWAY_BYTES`] are under way.
    pub(crate) fn is_open(&self, limit: usize) -> bool {
        let Some(underway) = &self.underway else { return true };
        self.stage != SessionStage::SigningIn
            && underway.stalled.is_empty()
            && underway.requests.len() < limit
            && underway.requests.bytes() < UNDERWAY_BYTES
    }

    fn rights(&self) -> Option<&Rights> {
        self.rights.as_deref()
    }

    /// The next time, in Unix milliseconds, at which the rights have to be looked at.
    pub(crate) fn rights_change_ms(&self) -> Option<u64> {
        self.user().and_then(|_| self.rights()?.next_ms(self.notice_ms))
    }

    /// Why the connection has to end, if its token is not valid any more.
    pub(crate) fn lapse(&self, revocations: &Revocations, now: Now) -> Option<Lapse> {
        self.rights()?.lapse(self.claimed()?.key(), revocations, now.unix_ms)
    }

    /// When the token expires, if the client has to be told now. The client is told once, some time ahead.
    pub(crate) fn take_notice(&mut self, now: Now) -> Option<u64> {
        self.user()?;
        self.rights.as_ref()?.take_notice(&mut self.notice_ms, now.unix_ms)
    }

    /// The channels of whose own tokens the client has to be told now, each once, and when those tokens expire.
    pub(crate) fn take_grant_notices(&mut self, now: Now) -> Vec<(Box<str>, u64)> {
        self.rights.as_mut().map(|rights| rights.take_grant_notices(now.unix_ms)).unwrap_or_default()
    }

    /// When the token of the sign-in expires, in Unix milliseconds, if it does.
    pub(crate) fn expires_at_ms(&self) -> Option<u64> {
        self.rights()?.expires_at_ms()
    }

    /// When the token of a channel expires, in Unix milliseconds, if the subscription rests on one.
    pub(crate) fn grant_expires_at_ms(&self, channel: &str) -> Option<u64> {
        self.rights()?.grant_expires_at_ms(channel)
    }

    /// Removes the rights to channels whose own tokens are not valid any more.
    pub(crate) fn drop_lapsed(&mut self, revocations: &Revocations, now: Now) -> Vec<(Box<str>, Lapse)> {
        let (Some(rights), Some(user)) = (&mut self.rights, &self.user) else { return Vec::new() };
        rights.drop_lapsed(user.key(), revocations, now.unix_ms)
    }

    /// Whether the client may stay subscribed to a channel.
    pub(crate) fn may_stay(&self, channel: &str, namespaces: &Namespaces) -> bool {
        let (Some(rights), Some(user)) = (self.rights(), self.claimed()) else { return false };
        let rule = |namespace: &Arc<Namespace>| namespace.may_subscribe(user.key(), rights.grants(channel));
        namespaces.of(channel).is_some_and(rule)
    }

    /// Notes that a subscription has ended. The right that the channel's own token gave ends with it.
    pub(crate) fn unsubscribed(&mut self, channel: &str) {
        if let Some(rights) = &mut self.rights {
            rights.forget(channel);
        }
    }

    /// Judges one command of the client.
    pub(crate) fn command<'a>(&mut self, request: Request<'a>, rules: &mut Rules<'_>, now: Now) -> Effect<'a> {
        let id = request.id;
        let refuse = |code, text| Effect::Reply(Reply::Error { error: RequestError::new(code, text), about: None }, id);
        match request.command {
            Command::Heartbeat => Effect::Reply(Reply::Heartbeat { timestamp: now.unix_ms }, id),
            Command::Auth { .. } if self.stage != SessionStage::Anonymous => refuse(409, Text::AuthTwice),
            Command::Auth { token: None, .. } => refuse(400, Text::TokenMissing),
            Command::Auth { token: Some(token), ping, lobby, recover, channels } => {
                let Some(identity) = rules.verify(token, now) else {
                    return Effect::Close(Reply::AuthFailed, id, close::UNAUTHORIZED);
                };
                self.wants_ping = ping;
                self.sign_in(&identity, id, lobby.then_some(recover), channels, rules, now)
            }
            _ if self.stage != SessionStage::SignedIn => refuse(401, Text::AuthFirst),
            Command::Refresh { token, channel: None } => self.refresh(token, id, rules, now),
            Command::Refresh { token, channel: Some(channel) } => self.refresh_grant(channel, token, id, rules, now),
            Command::Subscribe(to) => match self.subscribe(to, id, rules, now) {
                Ok(asked) => Effect::Ask(asked),
                Err(error) => self.local(Local::Refuse(error), to.channel, id),
            },
            Command::Unsubscribe { channel } => self.unsubscribe(channel, id, rules),
            Command::Message { text, channel, idempotency_key } => {
                let channel = channel.unwrap_or(LOBBY);
                match self.message(text, channel, idempotency_key, rules) {
                    Ok(publish) => self.publish(publish, id, rules, now),
                    Err(error) => self.local(Local::Refuse(error), channel, id),
                }
            }
            Command::Publish { channel, data, key, idempotency_key, epoch } => {
                let content = Content::Json(data.into());
                match self.publication(channel, content, rules) {
                    Ok(mut publish) => {
                        publish.key = key.map(Into::into);
                        publish.idempotency_key = idempotency_key.map(Into::into);
                        publish.epoch = epoch.map(Into::into);
                        self.publish(publish, id, rules, now)
                    }
                    Err(error) => self.local(Local::Refuse(error), channel, id),
                }
            }
            Command::Users { .. } if !self.may_stay(LOBBY, rules.namespaces) || !rules.shows_members(LOBBY) => {
                self.local(Local::Refuse(RequestError::new(403, Text::Forbidden)), LOBBY, id)
            }
            Command::Users { cursor, limit } => {
                let ask = Ask::Users { cursor: cursor.map(Into::into), limit: page(limit) };
                Effect::Ask(self.ask(RequestKind::Page, id, LOBBY.into(), ask, rules, now))
            }
            Command::History { channel, .. } | Command::Presence { channel, .. }
                if !self.takes_part(channel, rules) =>
            {
                self.local(Local::Refuse(RequestError::new(403, Text::NotSubscribed)), channel, id)
            }
            Command::History { channel, since, limit, reverse } => {
                let channel: Arc<str> = channel.into();
                let since = since.map(SinceRef::to_owned);
                let ask = Ask::History { channel: Arc::clone(&channel), since, limit: page(limit), reverse };
                Effect::Ask(self.ask(RequestKind::Page, id, channel, ask, rules, now))
            }
            Command::Presence { channel, .. } if !rules.shows_members(channel) => {
                self.local(Local::Refuse(RequestError::new(403, Text::Forbidden)), channel, id)
            }
            Command::Presence { channel, cursor, limit } => {
                let channel: Arc<str> = channel.into();
                let cursor = cursor.map(Into::into);
                let ask = Ask::Presence { channel: Arc::clone(&channel), cursor, limit: page(limit) };
                Effect::Ask(self.ask(RequestKind::Page, id, channel, ask, rules, now))
            }
        }
    }

    /// Asks the lobby's owner for the user. `lobby` is what the client has of the lobby, if it wants to be attached to it.
    fn sign_in<'a>(
        &mut self,
        identity: &Identity,
        id: Option<&str>,
        lobby: Option<Option<SinceRef<'_>>>,
        channels: Vec<SubscribeTo<'_>>,
        rules: &Rules<'_>,
        now: Now,
    ) -> Effect<'a> {
        let user = Arc::new(User::new(&identity.id, &identity.name));
        self.stage = SessionStage::SigningIn;
        self.user = Some(Arc::clone(&user));
        let rights = Rights::new(identity);
        let recover = lobby.flatten();
        let lobby = lobby.is_some() && rules.namespaces.lobby().may_subscribe(user.key(), rights.names(LOBBY));
        self.notice_ms = rights.notice_ms(now.unix_ms);
        self.rights = Some(Box::new(rights));
        let wanted = channels.iter().map(Wanted::from).collect();
        let (recover, bounded, accepted_ns) = (recover.map(SinceRef::to_owned), rules.bounded, rules.accepted_ns);
        let ask = Ask::Claim(Box::new(Claim { user, recover, lobby, bounded, accepted_ns }));
        Effect::Ask(self.ask(RequestKind::SignIn(wanted), id, LOBBY.into(), ask, rules, now))
    }

    fn refresh<'a>(&mut self, token: &str, id: Option<&'a str>, rules: &mut Rules<'_>, now: Now) -> Effect<'a> {
        let refused = Effect::Reply(Reply::Error { error: RequestError::new(403, Text::OtherUser), about: None }, id);
        let Some(identity) = rules.verify(token, now) else { return refused };
        let key = identity.id.key();
        if self.user.as_ref().is_none_or(|user| **user.key() != *key) {
            rules.misplaced(TokenReason::OtherUser, "another user's token".to_owned(), &key);
            return refused;
        }
        let rights = self.rights.as_mut().expect("signed in");
        rights.renew(&identity);
        self.notice_ms = rights.notice_ms(now.unix_ms);
        let expires_at = rights.expires_at_ms().unwrap_or(NEVER_MS);
        Effect::Refreshed(Reply::Refreshed { channel: None, expires_at }, id)
    }

    /// Replaces the token of a subscribed channel by a newer one.
    fn refresh_grant<'a>(
        &mut self,
        channel: &'a str,
        token: &str,
        id: Option<&'a str>,
        rules: &mut Rules<'_>,
        now: Now,
    ) -> Effect<'a> {
        if !rules.subscribed {
            return self.local(Local::Refuse(RequestError::new(404, Text::NotSubscribed)), channel, id);
        }
        let user = self.user.as_ref().expect("signed in");
        let Some(grant) = grant_for(channel, Some(token), user, rules, now) else {
            let about = Some(About::Channel { channel });
            return Effect::Reply(Reply::Error { error: RequestError::new(403, Text::OtherUser), about }, id);
        };
        let expires_at = grant.expires_at_ms().unwrap_or(NEVER_MS);
        self.rights.as_mut().expect("signed in").add(*grant);
        Effect::Refreshed(Reply::Refreshed { channel: Some(channel), expires_at }, id)
    }

    fn subscribe(
        &mut self,
        to: SubscribeTo<'_>,
        id: Option<&str>,
        rules: &mut Rules<'_>,
        now: Now,
    ) -> Result<Asked, RequestError> {
        let SubscribeTo { channel, token, recover } = to;
        let namespace = rules.namespaces.of(channel).ok_or(RequestError::new(404, Text::UnknownNamespace))?;
        if rules.subscribed || self.pending_on(channel).any(Pending::subscribes) {
            return Err(RequestError::new(409, Text::AlreadySubscribed));
        }
        if rules.subscriptions + self.subscribing() >= rules.subscriptions_max && channel != LOBBY {
            return Err(RequestError::new(429, Text::TooManySubscriptions));
        }
        let user = Arc::clone(self.user.as_ref().expect("signed in"));
        let mut grant = None;
        if !namespace.may_subscribe(user.key(), self.rights().is_some_and(|rights| rights.names(channel))) {
            if token.is_some() && !rules.looks_at_tokens {
                return Err(RequestError::new(429, Text::TooManyAttempts));
            }
            grant = grant_for(channel, token, &user, rules, now);
            if !namespace.may_subscribe(user.key(), grant.is_some()) {
                return Err(RequestError::new(403, Text::Forbidden));
            }
        }
        let channel: Arc<str> = channel.into();
        let ask = Ask::Subscribe { channel: Arc::clone(&channel), user, recover: recover.map(SinceRef::to_owned) };
        Ok(self.ask(RequestKind::Subscribe(grant), id, channel, ask, rules, now))
    }

    fn unsubscribe<'a>(&mut self, channel: &'a str, id: Option<&'a str>, rules: &Rules<'_>) -> Effect<'a> {
        let (subscribe, more) = {
            let mut of_channel = self.pending_on(channel).filter(|pending| !pending.is_cancelled());
            let first = of_channel.next().filter(|pending| pending.subscribes());
            (first.map(|pending| pending.request), of_channel.next().is_some())
        };
        if let Some(subscribe) = subscribe {
            if more {
                // Requests on the channel that came after the subscribe are answered first.
                return self.local(Local::Unsubscribe, channel, id);
            }
            let underway = self.underway.as_mut().expect("something is pending");
            return Effect::Cancel(underway.requests.cancel(subscribe), channel, id);
        }
        let what = if rules.subscribed {
            Local::Unsubscribe
        } else {
            Local::Refuse(RequestError::new(404, Text::NotSubscribed))
        };
        self.local(what, channel, id)
    }

    /// Answers without an owner, unless that would overtake the answer to an earlier request on the channel.
    fn local<'a>(&mut self, what: Local, channel: &'a str, id: Option<&'a str>) -> Effect<'a> {
        if !self.is_busy_with(channel) && self.stalled().iter().all(|stalled| *stalled.channel != *channel) {
            return Effect::Local(what, channel, id);
        }
        self.underway.get_or_insert_default().stalled.push(Stalled {
            id: id.map(Into::into),
            channel: channel.into(),
            what,
        });
        Effect::Wait
    }

    fn is_busy_with(&self, channel: &str) -> bool {
        self.pending_on(channel).any(|pending| !pending.is_cancelled())
    }

    /// Whether the client is subscribed, or will be when an ask that is sent now comes to the owner. The asks of a
    /// connection about a channel arrive in order.
    fn takes_part(&self, channel: &str, rules: &Rules<'_>) -> bool {
        rules.subscribed || self.pending_on(channel).any(Pending::subscribes)
    }

    fn message(
        &self,
        text: Option<&str>,
        channel: &str,
        idempotency_key: Option<&str>,
        rules: &Rules<'_>,
    ) -> Result<Publish, RequestError> {
        let text = trim(text.unwrap_or_default());
        if text.is_empty() {
            return Err(RequestError::new(400, Text::EmptyText));
        }
        let mut publish = self.publication(channel, Content::Text(text.into()), rules)?;
        publish.idempotency_key = idempotency_key.map(Into::into);
        Ok(publish)
    }

    fn publication(&self, channel: &str, content: Content, rules: &Rules<'_>) -> Result<Publish, RequestError> {
        let may = |namespace: &Arc<Namespace>| namespace.publish == PublishRule::Members;
        if !self.takes_part(channel, rules) {
            return Err(RequestError::new(403, Text::NotSubscribed));
        }
        if !rules.namespaces.of(channel).is_some_and(may) {
            return Err(RequestError::new(403, Text::Forbidden));
        }
        let sender = self.user.clone();
        Ok(Publish { channel: channel.into(), sender, content, key: None, idempotency_key: None, epoch: None })
    }

    fn publish<'a>(&mut self, publish: Publish, id: Option<&str>, rules: &Rules<'_>, now: Now) -> Effect<'a> {
        let channel = Arc::clone(&publish.channel);
        Effect::Ask(self.ask(RequestKind::Publish, id, channel, Ask::Publish(Box::new(publish)), rules, now))
    }

    fn ask(
        &mut self,
        kind: RequestKind,
        id: Option<&str>,
        channel: Arc<str>,
        ask: Ask,
        rules: &Rules<'_>,
        now: Now,
    ) -> Asked {
        let request = self.next_request;
        self.next_request = self.next_request.wrapping_add(1);
        let deadline_ms = now.mono_ms + rules.request_ms;
        let id = id.map(Into::into);
        let bytes = ask.weight();
        let pending = Pending { request, bytes, deadline_ms, id, channel: Arc::clone(&channel), kind };
        self.underway.get_or_insert_default().requests.push(pending);
        Asked { channel, request, ask }
    }

    /// Takes an owner's answer. After `SignedIn`, the second part holds the channels for [`Session::subscribe_to`].
    pub(crate) fn answered(&mut self, request: u32, answer: &Answer) -> (Outcome, Vec<Wanted>) {
        let none = Vec::new();
        let named = |pending: &Pending| pending.request == request;
        let mut at = self.pending().position(named);
        if Fault::StaleSubscribed.is_planted() {
            let stale = |pending: &Pending| {
                pending.subscribes()
                    && matches!(answer, Answer::Subscribed(attached) if attached.placed.channel == pending.channel)
            };
            at = self.pending().position(stale).or(at); // PLANTED
        }
        let Some(at) = at else { return (Outcome::Stale, none) };
        let Pending { id, kind, channel, .. } = self.remove_pending(at);
        let outcome = match (answer, kind) {
            (_, RequestKind::Cancelled) => Outcome::Stale,
            (Answer::Claimed { .. }, RequestKind::SignIn(wanted)) => {
                self.stage = SessionStage::SignedIn;
                let user = Arc::clone(self.user.as_ref().expect("signing in"));
                return (Outcome::SignedIn(id, user), wanted);
            }
            (Answer::Subscribed(_), RequestKind::Subscribe(grant)) => {
                if let (Some(grant), Some(rights)) = (grant, &mut self.rights) {
                    rights.add(*grant);
                }
                Outcome::Subscribed(id)
            }
            (Answer::Published { .. }, RequestKind::Publish) if id.is_none() => Outcome::Silent,
            (Answer::Published { .. }, RequestKind::Publish)
            | (Answer::Users(_) | Answer::Presence(..) | Answer::History(_), RequestKind::Page) => Outcome::Reply(id),
            (Answer::EpochChanged(_), _) => Outcome::Error(id, RequestError::new(409, Text::EpochChanged), channel),
            (Answer::Refused(refusal), kind) => self.refused(*refusal, &kind, id, channel),
            (answer, kind) => unreachable!("{answer:?} can't answer {kind:?}"),
        };
        (outcome, none)
    }

    /// Asks for a channel that was named in the sign-in.
    pub(crate) fn subscribe_to<'a>(&mut self, wanted: &'a Wanted, rules: &mut Rules<'_>, now: Now) -> Effect<'a> {
        let asked = if is_channel_name(&wanted.channel) {
            self.subscribe(wanted.to(), None, rules, now)
        } else {
            Err(RequestError::new(400, Text::BadChannel))
        };
        match asked {
            Ok(asked) => Effect::Ask(asked),
            Err(error) => self.local(Local::Refuse(error), &wanted.channel, None),
        }
    }

    fn refused(&mut self, refusal: Refusal, kind: &RequestKind, id: Option<Box<str>>, channel: Arc<str>) -> Outcome {
        if matches!(kind, RequestKind::SignIn(_)) {
            self.stage = SessionStage::Anonymous;
            self.user = None;
            self.rights = None;
        }
        let error = match refusal {
            Refusal::AlreadyOnline => {
                return Outcome::Close(id, RequestError::new(409, Text::AlreadyOnline), close::SIGNED_IN_ELSEWHERE);
            }
            Refusal::SignedInElsewhere => {
                return Outcome::Close(id, RequestError::new(409, Text::SignedInElsewhere), close::SIGNED_IN_ELSEWHERE);
            }
            Refusal::TooManySignIns => {
                return Outcome::Close(id, RequestError::new(429, Text::TooManySignIns), close::RATE_LIMITED);
            }
            Refusal::TooManyConnections => {
                return Outcome::Close(id, RequestError::new(429, Text::TooManyConnections), close::RATE_LIMITED);
            }
            Refusal::Forbidden => RequestError::new(403, Text::NotSubscribed),
            Refusal::TooLarge => RequestError::new(413, Text::TooLarge),
            Refusal::KeyReused => RequestError::new(409, Text::KeyReused),
            Refusal::TooManyChannels | Refusal::Busy => RequestError::new(503, Text::Busy),
            Refusal::Unanswered => RequestError::new(504, Text::Timeout),
        };
        Outcome::Error(id, error, channel)
    }

    /// Ends the session: it awaits no answer and holds no user. Returns the user whom the owner may still hold.
    pub(crate) fn end(&mut self) -> Option<Arc<User>> {
        let user = self.user.take();
        *self = Self { next_request: self.next_request, ..Self::default() };
        user
    }

    fn pending(&self) -> impl Iterator<Item = &Pending> + Clone {
        self.underway.iter().flat_map(|underway| underway.requests.iter())
    }

    fn pending_on<'s>(&'s self, channel: &'s str) -> impl Iterator<Item = &'s Pending> {
        self.underway.iter().flat_map(move |underway| underway.requests.on(channel))
    }

    /// How many subscribes are under way.
    pub(crate) fn subscribing(&self) -> usize {
        self.underway.as_ref().map_or(0, |underway| underway.requests.subscribing())
    }

    fn stalled(&self) -> &[Stalled] {
        self.underway.as_ref().map_or(&[], |underway| &underway.stalled)
    }

    fn remove_pending(&mut self, at: usize) -> Pending {
        let underway = self.underway.as_mut().expect("something is pending");
        let removed = underway.requests.remove(at);
        self.give_back();
        removed
    }

    fn give_back(&mut self) {
        let idle = |underway: &mut Box<Underway>| underway.requests.len() == 0 && underway.stalled.is_empty();
        self.underway.take_if(idle);
    }
}

impl Wanted {
    fn to(&self) -> SubscribeTo<'_> {
        let recover = self.recover.as_ref().map(|since| SinceRef { epoch: &since.epoch, offset: since.offset });
        SubscribeTo { channel: &self.channel, token: self.token.as_deref(), recover }
    }

    /// Whether the client sent a token for this channel.
    pub(crate) fn has_token(&self) -> bool {
        self.token.is_some()
    }
}

impl From<&SubscribeTo<'_>> for Wanted {
    fn from(to: &SubscribeTo<'_>) -> Self {
        Self {
            channel: to.channel.into(),
            token: to.token.map(Into::into),
            recover: to.recover.map(SinceRef::to_owned),
        }
    }
}

fn page(limit: Option<u32>) -> u32 {
    limit.unwrap_or(PAGE_DEFAULT).min(PAGE_MAX)
}
