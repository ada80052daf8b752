//! One client's life on the native protocol: anonymous, signing in, signed in. It judges each command and turns
//! it into an [`Effect`], and turns owners' answers into replies; it knows no socket, no lane and no queue.
//! `shard` carries the effects out.

use std::sync::Arc;

use crate::auth::Verifier;
use crate::clock::Now;
use crate::hub::LOBBY;
use crate::parcel::{Answer, Ask, Refusal};
use crate::proto::codes::close;
use crate::proto::decode::{Command, Request};
use crate::proto::encode::{Member, Reply};
use crate::proto::text::{Text, trim};
use crate::user::User;

/// Most members in a page of users, and how many a client gets that names no limit.
const PAGE_MAX: u32 = 1000;
const PAGE_DEFAULT: u32 = 100;

/// A client's state. Small: every idle connection has one.
#[derive(Debug, Default)]
pub struct Session {
    stage: Stage,
    user: Option<Arc<User>>,
    /// Requests under way, oldest first.
    pending: Vec<Pending>,
    next_request: u32,
    wants_ping: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Stage {
    #[default]
    Anonymous,
    /// Asked the lobby's owner; frames that follow wait for the outcome.
    SigningIn,
    SignedIn,
}

#[derive(Debug)]
struct Pending {
    request: u32,
    /// The client's mark, if it gave one.
    id: Option<Box<str>>,
    deadline_ms: u64,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    SignIn,
    Publish,
    Users,
    /// Refused here, but not to be said before what was asked earlier has been answered.
    Held(u16, Text),
}

/// What a session needs to judge a command.
#[derive(Debug)]
pub struct Rules<'a> {
    /// Knows the keys.
    pub verifier: &'a Verifier,
    /// Names are HTML-escaped where they are shown.
    pub escape: bool,
    /// How long a request may stay unanswered.
    pub request_ms: u64,
}

/// What is to be done about a command.
#[derive(Debug)]
pub enum Effect<'a> {
    /// Say this, answering the request with this id.
    Reply(Reply<'static>, Option<&'a str>),
    /// Say this and close with the code.
    Close(Reply<'static>, Option<&'a str>, u16),
    /// Nothing yet: a refusal waits its turn behind earlier answers, see [`Session::next_held`].
    Wait,
    /// Ask the channel's owner.
    Ask {
        /// Whose owner.
        channel: &'static str,
        /// The session's number for it.
        request: u32,
        /// What.
        ask: Ask,
    },
}

/// What an owner's answer means for the client.
#[derive(Debug)]
pub enum Outcome {
    /// Signed in: attach the connection to the lobby, then say `auth_success`.
    Attach(Option<Box<str>>, Arc<User>),
    /// Say the answer under this id.
    Reply(Option<Box<str>>),
    /// Nothing to say: the client didn't ask for an acknowledgement.
    Silent,
    /// Say `error` with this code and text under this id.
    Error(Option<Box<str>>, u16, Text),
    /// The same, then close with the last code.
    Close(Option<Box<str>>, u16, Text, u16),
    /// The request is not under way any more: it timed out, and was answered.
    Stale,
}

/// A request whose outcome will not be known any more.
#[derive(Debug)]
pub struct TimedOut {
    /// The session's number for it.
    pub request: u32,
    /// The client's mark, if it gave one.
    pub id: Option<Box<str>>,
    /// The connection can't go on without it.
    pub is_final: bool,
}

impl Session {
    /// The signed-in user.
    pub fn user(&self) -> Option<&Arc<User>> {
        if self.stage == Stage::SignedIn { self.user.as_ref() } else { None }
    }

    /// The user whom the lobby's owner may hold for this connection: signed in, or about to be.
    pub fn claimed(&self) -> Option<&Arc<User>> {
        self.user.as_ref()
    }

    /// Whether the client wants `ping` messages.
    pub fn wants_ping(&self) -> bool {
        self.wants_ping
    }

    /// Whether the deadline for signing in applies.
    pub fn is_anonymous(&self) -> bool {
        self.stage != Stage::SignedIn
    }

    /// Whether the next command may be read: not while signing in, nor with `limit` requests under way.
    pub fn is_open(&self, limit: usize) -> bool {
        self.stage != Stage::SigningIn && self.pending.len() < limit
    }

    /// When the oldest request under way has to be answered.
    pub fn deadline_ms(&self) -> Option<u64> {
        self.pending.first().map(|pending| pending.deadline_ms)
    }

    /// Judges one command.
    pub fn command<'a>(&mut self, request: Request<'a>, rules: &Rules<'_>, now: Now) -> Effect<'a> {
        let id = request.id;
        let refuse = |code, text| Effect::Reply(Reply::Error { code, text }, id);
        match request.command {
            Command::Heartbeat => Effect::Reply(Reply::Heartbeat { timestamp: now.unix_ms }, id),
            Command::Auth { .. } if self.stage != Stage::Anonymous => refuse(409, Text::AuthTwice),
            Command::Auth { token: None, .. } => refuse(400, Text::TokenMissing),
            Command::Auth { token: Some(token), ping } => {
                let Ok(identity) = rules.verifier.verify(token, now.unix_ms) else {
                    return Effect::Close(Reply::AuthFailed, id, close::UNAUTHORIZED);
                };
                let user = Arc::new(User::new(&identity, rules.escape));
                self.wants_ping = ping;
                self.stage = Stage::SigningIn;
                self.user = Some(Arc::clone(&user));
                self.ask(Kind::SignIn, id, Ask::Claim { user }, rules, now)
            }
            _ if self.stage != Stage::SignedIn => refuse(401, Text::AuthFirst),
            Command::Message { text, channel } => match self.publication(text, channel) {
                Ok(ask) => self.ask(Kind::Publish, id, ask, rules, now),
                Err((code, text)) if self.pending.is_empty() => refuse(code, text),
                Err((code, text)) => {
                    self.pend(Kind::Held(code, text), id, u64::MAX);
                    Effect::Wait
                }
            },
            Command::Users { cursor, limit } => {
                let limit = limit.unwrap_or(PAGE_DEFAULT).min(PAGE_MAX) as usize;
                let ask = Ask::Users { cursor: cursor.map(Into::into), limit };
                self.ask(Kind::Users, id, ask, rules, now)
            }
        }
    }

    fn publication(&self, text: Option<&str>, channel: Option<&str>) -> Result<Ask, (u16, Text)> {
        let text = trim(text.unwrap_or_default());
        if text.is_empty() {
            return Err((400, Text::EmptyText));
        }
        if channel.is_some_and(|channel| channel != LOBBY) {
            return Err((403, Text::NotSubscribed));
        }
        let sender = Arc::clone(self.user.as_ref().expect("signed in"));
        Ok(Ask::Publish { channel: LOBBY.into(), sender, text: text.into() })
    }

    fn ask<'a>(&mut self, kind: Kind, id: Option<&str>, ask: Ask, rules: &Rules<'_>, now: Now) -> Effect<'a> {
        let request = self.pend(kind, id, now.mono_ms + rules.request_ms);
        Effect::Ask { channel: LOBBY, request, ask }
    }

    fn pend(&mut self, kind: Kind, id: Option<&str>, deadline_ms: u64) -> u32 {
        let request = self.next_request;
        self.next_request = self.next_request.wrapping_add(1);
        self.pending.push(Pending { request, id: id.map(Into::into), deadline_ms, kind });
        request
    }

    /// The next refusal whose turn has come: all that was asked before it is answered. To be called until it
    /// gives none, after each answer and each request that timed out.
    pub fn next_held(&mut self) -> Option<(Option<Box<str>>, u16, Text)> {
        let Kind::Held(code, text) = self.pending.first()?.kind else { return None };
        let held = self.pending.remove(0);
        self.give_back();
        Some((held.id, code, text))
    }

    /// Takes an owner's answer.
    pub fn answered(&mut self, request: u32, answer: &Answer) -> Outcome {
        let Some(at) = self.pending.iter().position(|pending| pending.request == request) else {
            return Outcome::Stale;
        };
        let Pending { id, kind, .. } = self.pending.remove(at);
        self.give_back();
        match (answer, kind) {
            (Answer::Claimed { .. }, Kind::SignIn) => {
                self.stage = Stage::SignedIn;
                Outcome::Attach(id, Arc::clone(self.user.as_ref().expect("signing in")))
            }
            (Answer::Published(_), Kind::Publish) if id.is_none() => Outcome::Silent,
            (Answer::Published(_), Kind::Publish) | (Answer::Users(_), Kind::Users) => Outcome::Reply(id),
            (Answer::Refused(refusal), _) => self.refused(*refusal, kind, id),
            (answer, kind) => unreachable!("{answer:?} can't answer {kind:?}"),
        }
    }

    fn refused(&mut self, refusal: Refusal, kind: Kind, id: Option<Box<str>>) -> Outcome {
        if kind == Kind::SignIn {
            self.stage = Stage::Anonymous;
            self.user = None;
        }
        match refusal {
            Refusal::AlreadyOnline => Outcome::Close(id, 409, Text::AlreadyOnline, close::SIGNED_IN_ELSEWHERE),
            Refusal::TooManySignIns => Outcome::Close(id, 429, Text::TooManySignIns, close::RATE_LIMITED),
            Refusal::Forbidden => Outcome::Error(id, 403, Text::NotSubscribed),
            Refusal::TooLarge => Outcome::Error(id, 413, Text::TooLarge),
            Refusal::Busy => Outcome::Error(id, 503, Text::Busy),
        }
    }

    /// Gives up on a request that is over its deadline. If it was the sign-in, the connection has to end: were it to
    /// sign in once more, a kick meant for the first claim would hit the second.
    pub fn time_out(&mut self, now_ms: u64) -> Option<TimedOut> {
        self.pending.first().filter(|pending| pending.deadline_ms <= now_ms)?;
        let Pending { request, id, kind, .. } = self.pending.remove(0);
        self.give_back();
        Some(TimedOut { request, id, is_final: kind == Kind::SignIn })
    }

    /// Ends the session: no answer is awaited, nothing is held. Returns whom the owner may still hold.
    pub fn end(&mut self) -> Option<Arc<User>> {
        self.pending = Vec::new();
        self.stage = Stage::Anonymous;
        self.user.take()
    }

    fn give_back(&mut self) {
        if self.pending.is_empty() {
            self.pending = Vec::new();
        }
    }
}

/// The reply that carries an owner's answer; `None` for the answers that say nothing by themselves.
pub fn with_reply<R>(answer: &Answer, say: impl FnOnce(&Reply<'_>) -> R) -> Option<R> {
    match answer {
        Answer::Published(placed) => Some(say(&Reply::Ack(placed.position()))),
        Answer::Users(page) => {
            let members: Vec<_> = page
                .members
                .iter()
                .map(|(user, connections)| Member { user: user.json(), connections: *connections })
                .collect();
            Some(say(&Reply::Users { count: page.count, members: &members, cursor: page.cursor.as_deref() }))
        }
        Answer::Claimed { .. } | Answer::Refused(_) => None,
    }
}
