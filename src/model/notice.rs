//! What the server says to one client, without a format: replies to its requests, and what it is told unasked.
//! A dialect writes them.

use std::sync::Arc;

use crate::model::position::Position;
use crate::model::publication::Publication;
use crate::model::refusal::RequestError;
use crate::model::user::User;

/// What the server says to one client. A dialect writes it.
#[derive(Debug)]
pub enum Reply<'a> {
    /// The greeting on open.
    System {
        /// Names the connection in logs and support requests.
        connection_id: &'a str,
        /// Unix milliseconds.
        timestamp: u64,
    },
    /// Signed in and attached to the lobby.
    AuthSuccess {
        /// The user who has signed in.
        user: &'a User,
        /// The user's name is shown HTML-escaped.
        escape: bool,
        /// When the token expires, in Unix milliseconds; `None` if it doesn't.
        expires_at: Option<u64>,
        /// Users online, this one included; `None` if this user is not to know.
        online_count: Option<u64>,
        /// Where the lobby stands: what is published after it, this connection receives. `None` if it is not in there.
        lobby: Option<Position<'a>>,
        /// What became of the client's `recover`, if there was one.
        recovery: Option<Recovered<'a>>,
    },
    /// The token was refused; the connection is closed next.
    AuthFailed,
    /// The same user signed in elsewhere; the connection is closed next.
    Kicked,
    /// The answer to `heartbeat`.
    Heartbeat {
        /// Unix milliseconds.
        timestamp: u64,
    },
    /// A page of who is online.
    Users {
        /// Users online in all.
        count: u64,
        /// The users of the page, and how many connections each of them has.
        members: &'a [(Arc<User>, u64)],
        /// Names are shown HTML-escaped.
        escape: bool,
        /// Where the next page starts, if there is one.
        cursor: Option<&'a str>,
    },
    /// A channel is received from now on.
    Subscribed {
        /// Where it stands: what is published after it, this connection receives.
        position: Position<'a>,
        /// What became of the client's `recover`, if there was one.
        recovery: Option<Recovered<'a>>,
        /// What the channel does about slow consumers.
        overflow: &'static str,
        /// When the channel's own token expires, in Unix milliseconds, if the subscription rests on one.
        expires_at: Option<u64>,
    },
    /// A channel is received no more.
    Unsubscribed {
        /// Which.
        channel: &'a str,
        /// 200 in answer to a request; 401 or 403 unasked, when a right has lapsed.
        code: u16,
    },
    /// A publication was accepted and has been sent to this connection.
    Ack {
        /// Its own.
        position: Position<'a>,
        /// It had been accepted before, and was not sent again.
        duplicate: bool,
    },
    /// A page of what was published in a channel.
    History {
        /// Where the channel stands.
        position: Position<'a>,
        /// The page.
        publications: &'a [Arc<Publication>],
    },
    /// A page of who is in a channel.
    Presence {
        /// Which.
        channel: &'a str,
        /// Users in it in all.
        count: u64,
        /// The users of the page, and how many connections each of them has.
        members: &'a [(Arc<User>, u64)],
        /// Names are shown HTML-escaped.
        escape: bool,
        /// Where the next page starts, if there is one.
        cursor: Option<&'a str>,
    },
    /// A new token counts from now on.
    Refreshed {
        /// The channel whose own token it is; `None` for the token of the sign-in.
        channel: Option<&'a str>,
        /// Until when, in Unix milliseconds.
        expires_at: u64,
    },
    /// A token runs out soon.
    TokenExpiring {
        /// The channel whose own token it is; `None` for the token of the sign-in.
        channel: Option<&'a str>,
        /// When, in Unix milliseconds.
        expires_at: u64,
    },
    /// A request was refused.
    Error {
        /// Why.
        error: RequestError,
        /// What it concerns, where the `id` alone doesn't tell.
        about: Option<About<'a>>,
    },
    /// A sign of life for clients that can't see ping frames.
    Ping,
    /// The server is about to go.
    Draining {
        /// When to come back; differs from client to client, to spread the storm.
        reconnect_in_ms: u64,
    },
}

/// What was restored of a channel for a client that said how far it had come.
#[derive(Clone, Copy, Debug)]
pub struct Recovered<'a> {
    /// Nothing is missing between what the client has and the position.
    pub recovered: bool,
    /// The publications that the client had missed, in order. Empty if they could not be restored.
    pub publications: &'a [Arc<Publication>],
}

/// What a refusal concerns.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum About<'a> {
    /// This channel: one `auth` may ask for several.
    Channel {
        /// Its name.
        channel: &'a str,
    },
    /// A channel that is in another epoch than the client named: where it stands now.
    Position(Position<'a>),
}

/// Publications that a connection is not sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Gap<'a> {
    /// The channel.
    pub channel: &'a str,
    /// The epoch of `from` and `to`.
    pub epoch: &'a str,
    /// The first offset that is missing.
    pub from: u64,
    /// The last offset that is missing.
    pub to: u64,
    /// Why they are missing.
    pub reason: GapReason,
}

/// Why publications are missing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GapReason {
    /// This connection read too slowly.
    SlowConsumer,
    /// Newer ones of the same keys took their place.
    Conflated,
    /// The channel's history doesn't hold them any more.
    HistoryLost,
    /// The engine didn't deliver them.
    Engine,
}
