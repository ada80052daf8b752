//! Replies and pushes: typed fields in, one text frame out, appended to the caller's buffer in a single pass
//! (docs/protocol.md has every shape). Knows the shapes, not when they are sent. Here is what
//! one client is told; `push` has what a channel's subscribers are.

mod push;
#[cfg(test)]
mod tests;

use serde::Serialize;
use serde_json::value::RawValue;

pub use self::push::{Element, GapReason, Kind, Message, PresenceChange, Publication, Push};
use crate::model::text::{Language, Text};
use crate::wire::frame;

/// Every message that the server sends, less what `Envelope` adds to all of them.
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
        /// The user as shown to everyone.
        user: &'a RawValue,
        /// When the token expires, in Unix milliseconds; `None` if it doesn't.
        expires_at: Option<u64>,
        /// Users online, this one included; `None` if this user is not to know.
        online_count: Option<u64>,
        /// Where the lobby stands: what is published after it, this connection receives. `None` if it is not in there.
        lobby: Option<Position<'a>>,
        /// What became of the client's `recover`, if there was one.
        recovery: Option<Recovery<'a>>,
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
        /// The page.
        members: &'a [Member<'a>],
        /// Where the next page starts, if there is one.
        cursor: Option<&'a str>,
    },
    /// A channel is received from now on.
    Subscribed {
        /// Where it stands: what is published after it, this connection receives.
        position: Position<'a>,
        /// What became of the client's `recover`, if there was one.
        recovery: Option<Recovery<'a>>,
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
        publications: &'a [Element<'a>],
    },
    /// A page of who is in a channel.
    Presence {
        /// Which.
        channel: &'a str,
        /// Users in it in all.
        count: u64,
        /// The page.
        members: &'a [Member<'a>],
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
        /// HTTP-like.
        code: u16,
        /// For people.
        text: Text,
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

/// Where a channel stands.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Position<'a> {
    /// The channel's name.
    pub channel: &'a str,
    /// Which life of the channel's offsets.
    pub epoch: &'a str,
    /// The newest publication's number; 0 if there was none.
    pub offset: u64,
}

/// What became of a client's `recover`.
#[derive(Clone, Copy, Debug)]
pub struct Recovery<'a> {
    /// Nothing is missing between what the client has and the position.
    pub recovered: bool,
    /// What it had missed, in order; empty if that is more than can be told.
    pub publications: &'a [Element<'a>],
}

/// What a refusal concerns.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(untagged)]
pub enum About<'a> {
    /// This channel: one `auth` may ask for several.
    Channel {
        /// Its name.
        channel: &'a str,
    },
    /// A channel that is in another epoch than the client named: where it stands now.
    Position(Position<'a>),
}

/// One user who is online.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Member<'a> {
    /// The user as shown to everyone.
    pub user: &'a RawValue,
    /// How many connections they have.
    pub connections: u64,
}

#[derive(Serialize)]
struct Envelope<'a, D> {
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<D>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timestamp: Option<u64>,
}

impl<'a> Envelope<'a, ()> {
    fn bare(kind: &'a str, code: u16) -> Self {
        Self { kind, id: None, code: Some(code), message: None, data: None, timestamp: None }
    }

    fn with<D>(self, data: D) -> Envelope<'a, D> {
        self.with_optional(Some(data))
    }

    fn with_optional<D>(self, data: Option<D>) -> Envelope<'a, D> {
        let Self { kind, id, code, message, timestamp, .. } = self;
        Envelope { kind, id, code, message, data, timestamp }
    }
}

impl<'a, D> Envelope<'a, D> {
    fn saying(mut self, message: &'a str) -> Self {
        self.message = Some(message);
        self
    }

    fn answering(mut self, id: Option<&'a str>) -> Self {
        self.id = id;
        self
    }
}

impl Reply<'_> {
    /// Appends the reply to `out` as one text frame. `id` is the mark of the request that it answers.
    pub fn encode(&self, out: &mut Vec<u8>, id: Option<&str>, language: Language) {
        let said = |text: Text| text.in_language(language);
        match *self {
            Self::System { connection_id, timestamp } => {
                #[derive(Serialize)]
                struct Data<'a> {
                    connection_id: &'a str,
                    timestamp: u64,
                }
                let data = Data { connection_id, timestamp };
                frame_json(out, &Envelope::bare("system", 200).with(data).saying(said(Text::Connected)));
            }
            Self::AuthSuccess { user, expires_at, online_count, lobby, recovery } => {
                #[derive(Serialize)]
                struct Data<'a> {
                    user: &'a RawValue,
                    #[serde(skip_serializing_if = "Option::is_none")]
                    expires_at: Option<u64>,
                    #[serde(skip_serializing_if = "Option::is_none")]
                    online_count: Option<u64>,
                    #[serde(skip_serializing_if = "Option::is_none")]
                    lobby: Option<Restored<'a>>,
                }
                let tail = if lobby.is_some() { "}}}" } else { "}}" };
                let lobby = lobby.map(|lobby| Restored::new(lobby, recovery));
                let data = Data { user, expires_at, online_count, lobby };
                let envelope = Envelope::bare("auth_success", 200).with(data);
                frame_spliced(out, &envelope.saying(said(Text::Authenticated)).answering(id), tail, |out| {
                    write_publications(out, recovery.map(|recovery| recovery.publications));
                });
            }
            Self::AuthFailed => {
                let envelope = Envelope::bare("auth_failed", 401).saying(said(Text::TokenInvalid));
                frame_json(out, &envelope.answering(id));
            }
            Self::Kicked => {
                frame_json(out, &Envelope::bare("kicked", 409).saying(said(Text::SignedInElsewhere)));
            }
            Self::Heartbeat { timestamp } => {
                let mut envelope = Envelope::bare("heartbeat", 200).saying("pong").answering(id);
                envelope.timestamp = Some(timestamp);
                frame_json(out, &envelope);
            }
            Self::Users { count, members, cursor } => {
                #[derive(Serialize)]
                struct Data<'a> {
                    count: u64,
                    members: &'a [Member<'a>],
                    #[serde(skip_serializing_if = "Option::is_none")]
                    cursor: Option<&'a str>,
                }
                let data = Data { count, members, cursor };
                frame_json(out, &Envelope::bare("users", 200).with(data).answering(id));
            }
            Self::Subscribed { position, recovery, overflow, expires_at } => {
                let envelope = Envelope::bare("subscribed", 200).with(Restored::new(position, recovery));
                frame_spliced(out, &envelope.answering(id), "}}", |out| {
                    write_publications(out, recovery.map(|recovery| recovery.publications));
                    out.extend_from_slice(b",\"overflow\":");
                    write_json(out, overflow);
                    if let Some(expires_at) = expires_at {
                        out.extend_from_slice(b",\"expires_at\":");
                        write_json(out, &expires_at);
                    }
                });
            }
            Self::Unsubscribed { channel, code } => {
                frame_json(out, &Envelope::bare("unsubscribed", code).with(About::Channel { channel }).answering(id));
            }
            Self::Ack { position, duplicate } => {
                #[derive(Serialize)]
                struct Data<'a> {
                    channel: &'a str,
                    epoch: &'a str,
                    offset: u64,
                    #[serde(skip_serializing_if = "is_false")]
                    duplicate: bool,
                }
                let Position { channel, epoch, offset } = position;
                let data = Data { channel, epoch, offset, duplicate };
                frame_json(out, &Envelope::bare("ack", 200).with(data).answering(id));
            }
            Self::History { position, publications } => {
                let envelope = Envelope::bare("history", 200).with(position);
                frame_spliced(out, &envelope.answering(id), "}}", |out| write_publications(out, Some(publications)));
            }
            Self::Presence { channel, count, members, cursor } => {
                #[derive(Serialize)]
                struct Data<'a> {
                    channel: &'a str,
                    count: u64,
                    members: &'a [Member<'a>],
                    #[serde(skip_serializing_if = "Option::is_none")]
                    cursor: Option<&'a str>,
                }
                let data = Data { channel, count, members, cursor };
                frame_json(out, &Envelope::bare("presence", 200).with(data).answering(id));
            }
            Self::Refreshed { channel, expires_at } => {
                let expiry = Expiry { channel, expires_at };
                frame_json(out, &Envelope::bare("refreshed", 200).with(expiry).answering(id));
            }
            Self::TokenExpiring { channel, expires_at } => {
                frame_json(out, &Event::new("token_expiring", Expiry { channel, expires_at }));
            }
            Self::Error { code, text, about } => {
                let envelope = Envelope::bare("error", code).with_optional(about);
                frame_json(out, &envelope.saying(said(text)).answering(id));
            }
            Self::Ping => {
                #[derive(Serialize)]
                struct Bare {
                    #[serde(rename = "type")]
                    kind: &'static str,
                }
                frame_json(out, &Bare { kind: "ping" });
            }
            Self::Draining { reconnect_in_ms } => {
                #[derive(Serialize)]
                struct Data {
                    reconnect_in_ms: u64,
                }
                frame_json(out, &Event::new("draining", Data { reconnect_in_ms }));
            }
        }
    }
}

/// An envelope of what answers nothing and has no code.
#[derive(Serialize)]
struct Event<'a, D> {
    #[serde(rename = "type")]
    kind: &'a str,
    data: D,
}

impl<'a, D> Event<'a, D> {
    fn new(kind: &'a str, data: D) -> Self {
        Self { kind, data }
    }
}

#[derive(Serialize)]
struct Expiry<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    channel: Option<&'a str>,
    expires_at: u64,
}

/// A position and, ahead of the publications themselves, whether they are all.
#[derive(Serialize)]
struct Restored<'a> {
    channel: &'a str,
    epoch: &'a str,
    offset: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    recovered: Option<bool>,
}

impl<'a> Restored<'a> {
    fn new(Position { channel, epoch, offset }: Position<'a>, recovery: Option<Recovery<'_>>) -> Self {
        Self { channel, epoch, offset, recovered: recovery.map(|recovery| recovery.recovered) }
    }
}

fn is_false(flag: &bool) -> bool {
    !flag
}

fn frame_json(out: &mut Vec<u8>, value: &impl Serialize) {
    frame_spliced(out, value, "", |_| {});
}

/// Frames `value`, whose JSON ends with `tail`, and lets `write` add members ahead of that: publications are stored
/// encoded, and serde has no way to take them in without parsing them again.
fn frame_spliced(out: &mut Vec<u8>, value: &impl Serialize, tail: &str, write: impl FnOnce(&mut Vec<u8>)) {
    let mark = frame::begin_text(out);
    write_json(out, value);
    assert!(out.ends_with(tail.as_bytes()), "the innermost object comes last");
    out.truncate(out.len() - tail.len());
    write(out);
    out.extend_from_slice(tail.as_bytes());
    frame::end_text(out, mark);
}

fn write_json(out: &mut Vec<u8>, value: &(impl Serialize + ?Sized)) {
    serde_json::to_writer(&mut *out, value).expect("a Vec takes everything and these shapes are all JSON");
}

fn write_publications(out: &mut Vec<u8>, publications: Option<&[Element<'_>]>) {
    let Some(publications) = publications else { return };
    out.extend_from_slice(b",\"publications\":[");
    for (at, element) in publications.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        element.write(out);
    }
    out.push(b']');
}
