//! What a client asks for, without a format. A dialect makes a [`Request`] of a client's bytes, `session` judges it.
//! The limits on its fields are here too: the API of the backends holds to the same ones.

use crate::model::position::SinceRef;

/// Longest `id` that a client may give a request, in bytes.
pub const MAX_REQUEST_ID_BYTES: usize = 128;
/// Most channels that one sign-in may subscribe to.
pub const MAX_AUTH_CHANNELS: usize = 128;
/// Longest `key` of a publication, in bytes.
pub const MAX_KEY_BYTES: usize = 255;
/// Longest idempotency key, in bytes. An empty one is refused.
pub const MAX_IDEMPOTENCY_KEY_BYTES: usize = 64;
/// Longest epoch that a client may name, in bytes.
pub const MAX_EPOCH_BYTES: usize = 64;

/// One request of a client. It borrows from the text that was received and from its decoder.
#[derive(Debug, PartialEq, Eq)]
pub struct Request<'a> {
    /// The client's name for the request. Its answer carries the same one.
    pub id: Option<&'a str>,
    /// What the client asks for.
    pub command: Command<'a>,
}

/// What a client can ask for. A dialect has checked the syntax of channel names and the lengths below, nothing else.
#[derive(Debug, PartialEq, Eq)]
pub enum Command<'a> {
    /// Sign in.
    Auth {
        /// The token, if it is there and a non-empty string.
        token: Option<&'a str>,
        /// The client wants `ping` messages, since it can't see ping frames.
        ping: bool,
        /// What the client has of the lobby.
        recover: Option<SinceRef<'a>>,
        /// What to subscribe to at once, [`MAX_AUTH_CHANNELS`] at most; a channel may come twice.
        channels: Vec<SubscribeTo<'a>>,
    },
    /// Say something to everyone in a channel.
    Message {
        /// The text as it came, not trimmed; `None` if it is missing.
        text: Option<&'a str>,
        /// Where to; the lobby by default.
        channel: Option<&'a str>,
        /// Names this message over retries.
        idempotency_key: Option<&'a str>,
    },
    /// The tutorial's heartbeat.
    Heartbeat,
    /// Who is online, a page of it.
    Users {
        /// Where the page before ended.
        cursor: Option<&'a str>,
        /// Most members in the page.
        limit: Option<u32>,
    },
    /// Receive what is published in a channel.
    Subscribe(SubscribeTo<'a>),
    /// Receive it no more.
    Unsubscribe {
        /// Which.
        channel: &'a str,
    },
    /// Send any JSON to everyone in a channel.
    Publish {
        /// Where to.
        channel: &'a str,
        /// One JSON value as the client wrote it, byte for byte; no whitespace around it, any within it.
        data: &'a [u8],
        /// What it is about: under `conflate` the newest of each key is kept.
        key: Option<&'a str>,
        /// Names this publication over retries.
        idempotency_key: Option<&'a str>,
        /// Publish only if the channel is still in this epoch.
        epoch: Option<&'a str>,
    },
    /// What was published in a channel, a page of it.
    History {
        /// Of which.
        channel: &'a str,
        /// What the client has.
        since: Option<SinceRef<'a>>,
        /// Most publications in the page.
        limit: Option<u32>,
        /// Newest first.
        reverse: bool,
    },
    /// Who is in a channel, a page of it.
    Presence {
        /// Which.
        channel: &'a str,
        /// Where the page before ended.
        cursor: Option<&'a str>,
        /// Most members in the page.
        limit: Option<u32>,
    },
    /// Stay signed in, or in one channel, with a new token.
    Refresh {
        /// The token, not empty.
        token: &'a str,
        /// The channel whose own token it replaces; `None` for the token of the sign-in.
        channel: Option<&'a str>,
    },
}

impl<'a> Command<'a> {
    /// The channel that it is about; the lobby where it names none.
    pub fn channel(&self) -> Option<&'a str> {
        match *self {
            Self::Auth { .. } | Self::Heartbeat | Self::Users { .. } => None,
            Self::Message { channel, .. } | Self::Refresh { channel, .. } => channel,
            Self::Subscribe(SubscribeTo { channel, .. })
            | Self::Unsubscribe { channel }
            | Self::Publish { channel, .. }
            | Self::History { channel, .. }
            | Self::Presence { channel, .. } => Some(channel),
        }
    }
}

/// One channel to subscribe to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubscribeTo<'a> {
    /// Which.
    pub channel: &'a str,
    /// The right to, where the namespace asks for one.
    pub token: Option<&'a str>,
    /// What the client has of it.
    pub recover: Option<SinceRef<'a>>,
}
