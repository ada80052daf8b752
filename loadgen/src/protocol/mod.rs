//! What is said over a connection: uringcast's own protocol, another one written as templates, or nothing
//! at all (an echo endpoint).
//!
//! The one place that knows message shapes. Pure; tokens come from `tokens`, templates from `template`.
//! Called by `engine` (signing in) and the workloads (publishing).

mod channels;
mod template;
mod tokens;

pub use channels::{CHANNELS_MAX, Request};
pub use template::{Template, unescaped};
pub use tokens::Tokens;

use serde::Deserialize;

use crate::client::Outgoing;
use crate::frame::Opcode;
use crate::random::Random;

/// What a connection speaks.
pub enum Dialect {
    /// Nothing before the payload: an echo endpoint.
    Raw,
    /// uringcast's protocol; without tokens a connection stops at the welcome.
    Uringcast(Option<Tokens>),
    /// Another server's, by templates.
    Template(Box<Template>),
}

/// How far a connection is with signing in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignIn {
    /// Waits for `system`.
    Welcome,
    /// Waits for `auth_success`.
    Answer,
    /// Waits for what a template calls its `hello_reply`.
    Reply,
    /// Waits for `subscribed` on an event stream, whose request has said all.
    Subscribed,
    /// Done.
    Done,
}

impl SignIn {
    /// What it waits for, for people.
    pub fn waits_for(self) -> &'static str {
        match self {
            Self::Welcome => "system message",
            Self::Answer => "answer to auth",
            Self::Reply => "hello_reply",
            Self::Subscribed => "subscribed event",
            Self::Done => "message",
        }
    }
}

/// Where a message that came before the sign-in was done leads.
pub struct Step {
    /// The state after it.
    pub state: SignIn,
    /// It was the answer that signed the connection in: the workload may read its position in it.
    pub position: bool,
}

impl Dialect {
    /// The upgrade is done: says hello, and tells what is waited for.
    pub fn hello(&self, out: &mut Outgoing, random: &mut Random) -> SignIn {
        match self {
            Self::Raw => SignIn::Done,
            Self::Uringcast(_) => SignIn::Welcome,
            Self::Template(template) => {
                for message in &template.hello {
                    out.frame(template.opcode(), message.as_bytes(), random.key());
                }
                if template.hello_reply.is_some() { SignIn::Reply } else { SignIn::Done }
            }
        }
    }

    /// The token of a connection's user.
    pub fn token(&self, user: usize) -> Result<String, String> {
        match self {
            Self::Uringcast(Some(tokens)) => {
                tokens.token(user).map(|token| token.into_owned()).map_err(|error| error.to_string())
            }
            _ => Err("no tokens".to_owned()),
        }
    }

    /// Takes a message that came before the sign-in was done; `more` appends fields to the `auth`.
    pub fn step(
        &self,
        state: SignIn,
        user: usize,
        payload: &[u8],
        out: &mut Outgoing,
        random: &mut Random,
        more: impl FnOnce(&mut Vec<u8>),
    ) -> Result<Step, String> {
        let told = || String::from_utf8_lossy(&payload[..payload.len().min(200)]).into_owned();
        let stay = |state| Ok(Step { state, position: false });
        let tokens = match self {
            Self::Raw => return stay(SignIn::Done),
            Self::Template(template) if template.refuses(payload) => return Err(told()),
            Self::Template(template) => return stay(if template.greets(payload) { SignIn::Done } else { state }),
            Self::Uringcast(tokens) => tokens,
        };
        match (state, kind(payload)) {
            (SignIn::Welcome, b"system") => {
                let Some(tokens) = tokens else {
                    return stay(SignIn::Done);
                };
                let token = tokens.token(user).map_err(|error| error.to_string())?;
                // A JWT is base64url and dots; --token may hold anything.
                let token = serde_json::to_string(&token).map_err(|error| error.to_string())?;
                let mut auth = format!(r#"{{"type":"auth","data":{{"token":{token}"#).into_bytes();
                more(&mut auth);
                auth.extend_from_slice(b"}}");
                out.frame(Opcode::Text, &auth, random.key());
                stay(SignIn::Answer)
            }
            (SignIn::Subscribed, b"subscribed") => stay(SignIn::Done),
            (SignIn::Answer, b"auth_success") => Ok(Step { state: SignIn::Done, position: true }),
            (_, b"auth_failed" | b"error" | b"kicked") => Err(told()),
            _ => stay(state),
        }
    }

    /// How a text of `length` bytes is published.
    pub fn publish(&self, length: usize) -> Publish {
        match self {
            Self::Template(template) => template.publish(length),
            _ => Publish::to_channel(None),
        }
    }
}

/// A publication but for its text.
pub struct Publish {
    /// Text or binary.
    pub opcode: Opcode,
    /// What stands before the text.
    pub before: Vec<u8>,
    /// What stands behind it.
    pub after: Vec<u8>,
}

impl Publish {
    /// uringcast's `message` to a channel, or to the lobby.
    pub fn to_channel(channel: Option<&str>) -> Self {
        let channel = channel.map_or(String::new(), |name| format!(r#""channel":"{name}","#));
        let before = format!(r#"{{"type":"message","data":{{{channel}"text":""#).into_bytes();
        Self { opcode: Opcode::Text, before, after: br#""}}"#.to_vec() }
    }

    /// Writes a whole publication; `text` appends its text, which needs no escapes.
    #[inline]
    pub fn write(&self, scratch: &mut Vec<u8>, text: impl FnOnce(&mut Vec<u8>)) {
        scratch.clear();
        scratch.extend_from_slice(&self.before);
        text(scratch);
        scratch.extend_from_slice(&self.after);
    }
}

/// Where the lobby stands, as the answer to signing in tells, and what it brings after.
#[derive(Debug, Deserialize)]
pub struct Position {
    /// The life of the channel that `offset` counts in.
    #[serde(default)]
    pub epoch: Option<Box<str>>,
    /// The newest publication's.
    pub offset: u64,
    /// `publications` are all that the connection missed.
    #[serde(default)]
    pub recovered: bool,
    /// What it missed, whoever published it, in order.
    #[serde(default)]
    pub publications: Vec<Missed>,
}

/// A publication that was brought after.
#[derive(Debug, Deserialize)]
pub struct Missed {
    /// Its place in the channel.
    pub offset: u64,
    /// Its text, if it is a chat message.
    #[serde(default)]
    pub text: Option<Box<str>>,
}

/// The lobby's position in an `auth_success`; none if the server tells of none, or not in this shape.
pub fn lobby(answer: &[u8]) -> Option<Position> {
    #[derive(Deserialize)]
    struct Answer {
        data: Data,
    }
    #[derive(Deserialize)]
    struct Data {
        lobby: Position,
    }
    serde_json::from_slice::<Answer>(answer).ok().map(|answer| answer.data.lobby)
}

/// The raw value of the first field `name` in `payload`: digits, or what stands between its quotes.
pub fn field<'a>(payload: &'a [u8], name: &str) -> Option<&'a str> {
    let name = format!("\"{name}\":");
    let at = memchr::memmem::find(payload, name.as_bytes())? + name.len();
    let rest = payload[at..].trim_ascii_start();
    let (rest, end) = match rest.strip_prefix(b"\"") {
        Some(text) => (text, text.iter().position(|byte| *byte == b'"')?),
        None => (rest, rest.iter().position(|byte| !byte.is_ascii_alphanumeric() && *byte != b'-')?),
    };
    std::str::from_utf8(&rest[..end]).ok()
}

/// A message's `type`, empty if it can't be told.
pub fn kind(payload: &[u8]) -> &[u8] {
    const START: &[u8] = br#"{"type":""#;
    if let Some(rest) = payload.strip_prefix(START) {
        let end = memchr::memchr(b'"', rest).unwrap_or(0);
        return &rest[..end];
    }
    // Other servers may put it elsewhere or use spaces.
    let Some(at) = memchr::memmem::find(payload, b"\"type\"") else {
        return b"";
    };
    let rest = payload[at + 6..].trim_ascii_start();
    let rest = rest.strip_prefix(b":").unwrap_or_default();
    let rest = rest.trim_ascii_start();
    let rest = rest.strip_prefix(b"\"").unwrap_or_default();
    &rest[..memchr::memchr(b'"', rest).unwrap_or(0)]
}

/// Reads the lobby's `offset` field out of pushes, trying first where it was last.
#[derive(Default)]
pub struct Offsets {
    place: usize,
}

impl Offsets {
    /// The offset that `head` carries.
    #[inline]
    pub fn find(&mut self, head: &[u8]) -> Option<u64> {
        const FIELD: &[u8] = b"\"offset\":";
        let here = head.get(self.place..);
        let rest = match here.and_then(|rest| rest.strip_prefix(FIELD)) {
            Some(rest) => rest,
            None => {
                self.place = memchr::memmem::find(head, FIELD)?;
                &head[self.place + FIELD.len()..]
            }
        };
        let mut offset = 0u64;
        for digit in rest.iter().take_while(|byte| byte.is_ascii_digit()) {
            offset = offset.wrapping_mul(10) + u64::from(digit - b'0');
        }
        Some(offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_read() {
        assert_eq!(kind(br#"{"type":"system","code":200}"#), b"system");
        assert_eq!(kind(br#"{ "code":200, "type" : "message" }"#), b"message");
        for odd in [&b""[..], b"{}", b"\"type\"", b"{\"type\":\"x"] {
            assert_eq!(kind(odd), b"");
        }
    }

    #[test]
    fn signing_in_follows_the_protocol() {
        let dialect = Dialect::Uringcast(Some(Tokens::Given("a.b.c".into())));
        let (mut out, mut random) = (Outgoing::default(), Random::new(1));
        assert_eq!(dialect.hello(&mut out, &mut random), SignIn::Welcome);
        let mut step = |state, text: &str| {
            let step = dialect.step(state, 0, text.as_bytes(), &mut out, &mut random, |_| {});
            step.map(|step| step.state)
        };
        assert_eq!(step(SignIn::Welcome, r#"{"type":"system"}"#), Ok(SignIn::Answer));
        assert_eq!(step(SignIn::Answer, r#"{"type":"user_online"}"#), Ok(SignIn::Answer));
        assert_eq!(step(SignIn::Answer, r#"{"type":"auth_success"}"#), Ok(SignIn::Done));
        assert!(step(SignIn::Answer, r#"{"type":"auth_failed"}"#).is_err());
        assert!(!out.is_empty());
        let no_auth = Dialect::Uringcast(None);
        let done = no_auth.step(SignIn::Welcome, 0, br#"{"type":"system"}"#, &mut out, &mut random, |_| {});
        assert!(done.is_ok_and(|step| step.state == SignIn::Done));
    }

    #[test]
    fn offsets_are_found_where_they_move() {
        let mut offsets = Offsets::default();
        for (head, expected) in [
            (r#"{"id":"a","offset":9,"text":""#, Some(9)),
            (r#"{"id":"a","offset":10,"text":""#, Some(10)),
            (r#"{"id":"bcd","offset":4294967296,""#, Some(4_294_967_296)),
            (r#"{"id":"bcd"}"#, None),
        ] {
            assert_eq!(offsets.find(head.as_bytes()), expected);
        }
    }

    #[test]
    fn a_position_is_read_with_what_it_brings_after() {
        let answer =
            br#"{"type":"auth_success","data":{"user":{"id":1,"username":"\"lobby\":{"},"lobby":{"channel":"lobby",
            "epoch":"ab","offset":9,"recovered":true,"publications":[{"type":"message","offset":8,"text":"a"},
            {"type":"publication","offset":9,"data":{"offset":1}}]}}}"#;
        let position = lobby(answer).unwrap();
        assert_eq!((position.epoch.as_deref(), position.offset, position.recovered), (Some("ab"), 9, true));
        let missed: Vec<_> = position.publications.iter().map(|each| (each.offset, each.text.as_deref())).collect();
        assert_eq!(missed, [(8, Some("a")), (9, None)]);
        assert!(lobby(br#"{"type":"auth_success","data":{}}"#).is_none());
    }

    #[test]
    fn fields_are_read() {
        let text = br#"{"type":"x","data":{"lobby":{"epoch":"ab","offset":17,"recovered":true}}}"#;
        assert_eq!(field(text, "epoch"), Some("ab"));
        assert_eq!(field(text, "offset"), Some("17"));
        assert_eq!(field(text, "recovered"), Some("true"));
        assert_eq!(field(text, "none"), None);
    }
}
