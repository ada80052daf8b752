//! What a client asks for, without a format. A dialect makes a [`Request`] of a client's bytes, `session` judges it.
//! The limits on its fields are here too: the API of the backends holds to the same ones.

use crate::model::position::SinceRef;

/// Longest `id` that a client may give a request, in bytes.
pub(crate) const MAX_REQUEST_ID_BYTES: usize = 128;
/// Most channels that one sign-in may subscribe to.
pub(crate) const MAX_AUTH_CHANNELS: usize = 128;
/// Longest `key` of a publication, in bytes.
pub(crate) const MAX_KEY_BYTES: usize = 255;
/// Longest idempotency key, in bytes. An empty one is refused.
pub(crate) const MAX_IDEMPOTENCY_KEY_BYTES: usize = 64;
/// Longest epoch that a client may name, in bytes.
pub(crate) const MAX_EPOCH_BYTES: usize = 64;

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
    /// Sign in with a token.
    Auth {
        /// The token; `None` if it is missing or empty.
        token: Option<&'a str>,
        /// The client wants `ping` messages, since it can't see ping frames.
        ping: bool,
        /// The sign-in is to attach the connection to the lobby. An event stream names all of its channels.
        lobby: bool,
        /// How far the client has received the lobby, if it asks for what it missed.
        recover: Option<SinceRef<'a>>,
        /// The channels to subscribe to at once, [`MAX_AUTH_CHANNELS`] at most. A channel may come twice.
        channels: Vec<SubscribeTo<'a>>,
    },
    /// Send a text to everyone in a channel.
    Message {
        /// The text as it came, not trimmed; `None` if it is missing.
        text: Option<&'a str>,
        /// The channel; `None` for the lobby.
        channel: Option<&'a str>,
        /// The same for all tries to send this message.
        idempotency_key: Option<&'a str>,
    },
    /// Get a sign of life: the heartbeat of the tutorial.
    Heartbeat,
    /// Get a page of the users who are online.
    Users {
        /// Where the page before ended.
        cursor: Option<&'a str>,
        /// Most members in the page.
        limit: Option<u32>,
    },
    /// Receive what is published in a channel.
    Subscribe(SubscribeTo<'a>),
    /// Stop receiving a channel.
    Unsubscribe {
        /// The name of the channel.
        channel: &'a str,
    },
    /// Send any JSON to everyone in a channel.
    Publish {
        /// The name of the channel.
        channel: &'a str,
        /// One JSON value as the client wrote it, byte for byte, without whitespace around it.
        data: &'a [u8],
        /// What the publication is the newest state of: `conflate` keeps the newest publication of each key.
        key: Option<&'a str>,
        /// The same for all tries to send this publication.
        idempotency_key: Option<&'a str>,
        /// Publish only if the channel is still in this epoch.
        epoch: Option<&'a str>,
    },
    /// Get a page of a channel's history.
    History {
        /// The name of the channel.
        channel: &'a str,
        /// The page begins behind this place; with `reverse`, before it.
        since: Option<SinceRef<'a>>,
        /// Most publications in the page.
        limit: Option<u32>,
        /// The newest publications come first.
        reverse: bool,
    },
    /// Get a page of the users in a channel.
    Presence {
        /// The name of the channel.
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
    /// The channel that the command names, if it names one.
    pub(crate) fn channel(&self) -> Option<&'a str> {
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
    /// The name of the channel.
    pub channel: &'a str,
    /// A token for this channel, if the client has one.
    pub(crate) token: Option<&'a str>,
    /// How far the client has received the channel, if it asks for what it missed.
    pub(crate) recover: Option<SinceRef<'a>>,
}
