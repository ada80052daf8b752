//! Replies and pushes: typed fields in, one text frame out, appended to the caller's buffer in a single pass
//! (docs/protocol.md, "What the tutorial has: exact shapes"). Knows the shapes, not when they are sent.

use serde::Serialize;
use serde_json::value::RawValue;

use super::frame;
use super::text::{Language, Text};

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
        /// Users online, this one included.
        online_count: u64,
        /// Where the lobby stands: what is published after it, this connection receives.
        lobby: Position<'a>,
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
    /// A publication was accepted and has been sent to this connection.
    Ack(Position<'a>),
    /// A request was refused.
    Error {
        /// HTTP-like.
        code: u16,
        /// For people.
        text: Text,
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
        let Self { kind, id, code, message, timestamp, .. } = self;
        Envelope { kind, id, code, message, data: Some(data), timestamp }
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
            Self::AuthSuccess { user, online_count, lobby } => {
                #[derive(Serialize)]
                struct Data<'a> {
                    user: &'a RawValue,
                    online_count: u64,
                    lobby: Position<'a>,
                }
                let envelope = Envelope::bare("auth_success", 200).with(Data { user, online_count, lobby });
                frame_json(out, &envelope.saying(said(Text::Authenticated)).answering(id));
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
            Self::Ack(position) => frame_json(out, &Envelope::bare("ack", 200).with(position).answering(id)),
            Self::Error { code, text } => {
                frame_json(out, &Envelope::bare("error", code).saying(said(text)).answering(id));
            }
            Self::Ping => frame_json(out, &Push { kind: "ping" }),
            Self::Draining { reconnect_in_ms } => {
                #[derive(Serialize)]
                struct Data {
                    reconnect_in_ms: u64,
                }
                frame_json(
                    out,
                    &Envelope { code: None, ..Envelope::bare("draining", 0).with(Data { reconnect_in_ms }) },
                );
            }
        }
    }
}

#[derive(Serialize)]
struct Push<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
}

/// A `message` push.
#[derive(Debug)]
pub struct Message<'a> {
    /// The channel, its epoch and this message's offset.
    pub position: Position<'a>,
    /// Who said it.
    pub sender: &'a RawValue,
    /// Trimmed, and escaped where the namespace says so.
    pub text: &'a str,
    /// Unix milliseconds, the owner's.
    pub timestamp: u64,
}

impl Message<'_> {
    /// Appends the push as one text frame. Its `id` is unique for ever: the epoch is random, the offset counts.
    pub fn encode(&self, out: &mut Vec<u8>) {
        #[derive(Serialize)]
        struct Data<'a> {
            id: std::fmt::Arguments<'a>,
            channel: &'a str,
            offset: u64,
            sender: &'a RawValue,
            text: &'a str,
            timestamp: u64,
        }
        let Position { channel, epoch, offset } = self.position;
        let data = |id| Data { id, channel, offset, sender: self.sender, text: self.text, timestamp: self.timestamp };
        frame_json(out, &Envelope::bare("message", 200).with(data(format_args!("{epoch}-{offset}"))));
    }
}

/// A `user_online` or `user_offline` push.
#[derive(Debug)]
pub struct PresenceChange<'a> {
    /// Came, or went.
    pub online: bool,
    /// Who.
    pub user: &'a RawValue,
    /// Users online after it.
    pub online_count: u64,
    /// Unix milliseconds, the owner's.
    pub timestamp: u64,
}

impl PresenceChange<'_> {
    /// Appends the push as one text frame.
    pub fn encode(&self, out: &mut Vec<u8>, language: Language) {
        #[derive(Serialize)]
        struct Data<'a> {
            user: &'a RawValue,
            online_count: u64,
            timestamp: u64,
        }
        let (kind, text) =
            if self.online { ("user_online", Text::UserOnline) } else { ("user_offline", Text::UserOffline) };
        let data = Data { user: self.user, online_count: self.online_count, timestamp: self.timestamp };
        frame_json(out, &Envelope::bare(kind, 200).with(data).saying(text.in_language(language)));
    }
}

fn frame_json(out: &mut Vec<u8>, value: &impl Serialize) {
    let mark = frame::begin_text(out);
    serde_json::to_writer(&mut *out, value).expect("a Vec takes everything and these shapes are all JSON");
    frame::end_text(out, mark);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(reply: Reply<'_>, id: Option<&str>) -> String {
        let mut out = Vec::new();
        reply.encode(&mut out, id, Language::En);
        payload(&out)
    }

    fn payload(frame: &[u8]) -> String {
        assert_eq!(frame[0], 0x81);
        let skip = if frame[1] < 126 { 2 } else { 4 };
        String::from_utf8(frame[skip..].to_vec()).expect("text")
    }

    fn raw(json: &str) -> Box<RawValue> {
        RawValue::from_string(json.to_owned()).expect("JSON")
    }

    #[test]
    fn shapes_are_the_contracts() {
        let user = raw(r#"{"id":1,"username":"Ann"}"#);
        let lobby = Position { channel: "lobby", epoch: "e", offset: 4 };
        assert_eq!(
            reply(Reply::System { connection_id: "c", timestamp: 5 }, None),
            r#"{"type":"system","code":200,"message":"connected, please authenticate","data":{"connection_id":"c","timestamp":5}}"#
        );
        assert_eq!(
            reply(Reply::AuthSuccess { user: &user, online_count: 2, lobby }, None),
            r#"{"type":"auth_success","code":200,"message":"authenticated","data":{"user":{"id":1,"username":"Ann"},"online_count":2,"lobby":{"channel":"lobby","epoch":"e","offset":4}}}"#
        );
        assert_eq!(
            reply(Reply::AuthFailed, None),
            r#"{"type":"auth_failed","code":401,"message":"token invalid or expired"}"#
        );
        assert_eq!(reply(Reply::Kicked, None), r#"{"type":"kicked","code":409,"message":"signed in elsewhere"}"#);
        assert_eq!(
            reply(Reply::Heartbeat { timestamp: 9 }, Some("h")),
            r#"{"type":"heartbeat","id":"h","code":200,"message":"pong","timestamp":9}"#
        );
        let members = [Member { user: &user, connections: 3 }];
        assert_eq!(
            reply(Reply::Users { count: 7, members: &members, cursor: Some("x") }, Some("1")),
            r#"{"type":"users","id":"1","code":200,"data":{"count":7,"members":[{"user":{"id":1,"username":"Ann"},"connections":3}],"cursor":"x"}}"#
        );
        assert_eq!(
            reply(Reply::Ack(lobby), Some("4")),
            r#"{"type":"ack","id":"4","code":200,"data":{"channel":"lobby","epoch":"e","offset":4}}"#
        );
        assert_eq!(
            reply(Reply::Error { code: 401, text: Text::AuthFirst }, None),
            r#"{"type":"error","code":401,"message":"please authenticate first"}"#
        );
        assert_eq!(reply(Reply::Ping, None), r#"{"type":"ping"}"#);
        assert_eq!(
            reply(Reply::Draining { reconnect_in_ms: 8 }, None),
            r#"{"type":"draining","data":{"reconnect_in_ms":8}}"#
        );
    }

    #[test]
    fn pushes_are_the_contracts() {
        let user = raw(r#"{"id":"b","username":"Bo"}"#);
        let mut out = Vec::new();
        let position = Position { channel: "lobby", epoch: "e", offset: 4 };
        Message { position, sender: &user, text: "a\"b", timestamp: 6 }.encode(&mut out);
        assert_eq!(
            payload(&out),
            r#"{"type":"message","code":200,"data":{"id":"e-4","channel":"lobby","offset":4,"sender":{"id":"b","username":"Bo"},"text":"a\"b","timestamp":6}}"#
        );
        out.clear();
        PresenceChange { online: false, user: &user, online_count: 1, timestamp: 6 }.encode(&mut out, Language::Zh);
        assert_eq!(
            payload(&out),
            r#"{"type":"user_offline","code":200,"message":"用户下线","data":{"user":{"id":"b","username":"Bo"},"online_count":1,"timestamp":6}}"#
        );
    }
}
