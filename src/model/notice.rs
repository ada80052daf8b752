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
    /// The greeting when the connection opens.
    System {
        /// The name of the connection in logs and support requests.
        connection_id: &'a str,
        /// The time in Unix milliseconds.
        timestamp: u64,
    },
    /// The user is signed in.
    AuthSuccess {
        /// The user who has signed in.
        user: &'a User,
        /// The user's name is shown HTML-escaped.
        escape: bool,
        /// When the token expires, in Unix milliseconds; `None` if it doesn't.
        expires_at: Option<u64>,
        /// The number of users online, this one included; `None` if this user may not know it.
        online_count: Option<u64>,
        /// Where the lobby stands. The connection receives what is published after it. `None` if the connection is not
        /// attached to the lobby.
        lobby: Option<Position<'a>>,
        /// What was restored of the lobby, if the client asked for what it missed.
        recovery: Option<Recovered<'a>>,
    },
    /// The token was refused; the connection is closed next.
    AuthFailed,
    /// The same user signed in elsewhere; the connection is closed next.
    Kicked,
    /// The answer to a heartbeat.
    Heartbeat {
        /// The time in Unix milliseconds.
        timestamp: u64,
    },
    /// A page of the users who are online.
    Users {
        /// The number of users on all pages together.
        count: u64,
        /// The users of the page, and how many connections each of them has.
        members: &'a [(Arc<User>, u64)],
        /// Names are shown HTML-escaped.
        escape: bool,
        /// Where the next page starts, if there is one.
        cursor: Option<&'a str>,
    },
    /// The connection receives a channel from now on.
    Subscribed {
        /// Where the channel stands. The connection receives what is published after it.
        position: Position<'a>,
        /// What was restored of the channel, if the client asked for what it missed.
        recovery: Option<Recovered<'a>>,
        /// What the channel does about slow consumers.
        overflow: &'static str,
        /// When the channel's own token expires, in Unix milliseconds, if the subscription rests on one.
        expires_at: Option<u64>,
    },
    /// The connection does not receive a channel any more.
    Unsubscribed {
        /// The name of the channel.
        channel: &'a str,
        /// 200 in answer to a request; 401 or 403 unasked, when a right has lapsed.
        code: u16,
    },
    /// A publication was accepted and has been sent to this connection.
    Ack {
        /// The publication's own position.
        position: Position<'a>,
        /// It had been accepted before, and was not sent again.
        duplicate: bool,
    },
    /// A page of a channel's history.
    History {
        /// Where the channel stands.
        position: Position<'a>,
        /// The publications of the page.
        publications: &'a [Arc<Publication>],
    },
    /// A page of the users in a channel.
    Presence {
        /// The name of the channel.
        channel: &'a str,
        /// The number of users on all pages together.
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
        /// When the token expires, in Unix milliseconds.
        expires_at: u64,
    },
    /// A token runs out soon.
    TokenExpiring {
        /// The channel whose own token it is; `None` for the token of the sign-in.
        channel: Option<&'a str>,
        /// When the token expires, in Unix milliseconds.
        expires_at: u64,
    },
    /// A request was refused.
    Error {
        /// Why the request was refused.
        error: RequestError,
        /// What the refusal concerns, if the request's `id` alone doesn't tell.
        about: Option<About<'a>>,
    },
    /// A sign of life for clients that can't see ping frames.
    Ping,
    /// The server is about to stop.
    Draining {
        /// How long the client waits before it connects again. It differs from client to client, so that they do not all
        /// come back at once.
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
    /// This channel: one sign-in may ask for several.
    Channel {
        /// The name of the channel.
        channel: &'a str,
    },
    /// A channel that is in another epoch than the client named. This is where it stands now.
    Position(Position<'a>),
}

/// Publications that a connection is not sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Gap<'a> {
    /// The name of the channel.
    pub(crate) channel: &'a str,
    /// The epoch of `from` and `to`.
    pub(crate) epoch: &'a str,
    /// The first offset that is missing.
    pub(crate) from: u64,
    /// The last offset that is missing.
    pub(crate) to: u64,
    /// Why they are missing.
    pub(crate) reason: GapReason,
}

/// Why publications are missing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum GapReason {
    /// The client of this connection reads too slowly.
    SlowConsumer,
    /// Newer publications of the same keys have taken their place.
    Conflated,
    /// The channel's history does not have them any more.
    HistoryLost,
    /// The engine did not deliver them.
    Engine,
}
