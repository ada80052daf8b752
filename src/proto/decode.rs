//! Envelopes from clients: JSON text in, a borrowed `Request` out (docs/protocol.md, "Envelope"). One
//! `EnvelopeDecoder` per shard keeps simd-json's buffers and its tape from message to message. It knows the shape
//! of each command, not who may send it: `session` judges that.

use std::fmt;

use simd_json::{Buffers, Node, StaticNode, Tape};

use super::text::Text;

/// JSON nested deeper than this is refused (the envelope's own two levels included).
pub const MAX_DEPTH: usize = 64;
/// Longest `id` a client may give a request, in bytes.
pub const MAX_ID_BYTES: usize = 128;
/// Scratch space above this is given back after the message that needed it.
const KEEP_BYTES: usize = 128 * 1024;

/// A client's message, borrowed from the decoder.
#[derive(Debug, PartialEq, Eq)]
pub struct Request<'a> {
    /// The client's mark for the request; comes back on its answer.
    pub id: Option<&'a str>,
    /// What it wants.
    pub command: Command<'a>,
}

/// What a client can ask for.
#[derive(Debug, PartialEq, Eq)]
pub enum Command<'a> {
    /// Sign in.
    Auth {
        /// The token, if it is there and a non-empty string.
        token: Option<&'a str>,
        /// The client wants `ping` messages, since it can't see ping frames.
        ping: bool,
    },
    /// Say something to everyone in a channel.
    Message {
        /// The text as it came, not trimmed; `None` if it is missing.
        text: Option<&'a str>,
        /// Where to; the lobby by default.
        channel: Option<&'a str>,
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
}

/// Why a message can't be taken: answered by `error` 400, the connection lives.
#[derive(Debug, PartialEq, Eq)]
pub struct Rejected<'a> {
    /// The request's id, where it could be read.
    pub id: Option<&'a str>,
    /// What is wrong.
    pub text: Text,
}

/// Turns text messages into requests; reused from message to message.
pub struct EnvelopeDecoder {
    scratch: Vec<u8>,
    buffers: Buffers,
    /// Empty between two messages: it lends its allocation, never its contents.
    tape: Vec<Node<'static>>,
}

impl fmt::Debug for EnvelopeDecoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EnvelopeDecoder").field("scratch", &self.scratch.capacity()).finish_non_exhaustive()
    }
}

impl Default for EnvelopeDecoder {
    fn default() -> Self {
        Self { scratch: Vec::new(), buffers: new_buffers(), tape: Vec::new() }
    }
}

fn new_buffers() -> Buffers {
    Buffers::with_max_depth(4096, MAX_DEPTH)
}

impl EnvelopeDecoder {
    /// Reads one text message. `text` itself is left as it is: simd-json unescapes in place, in a copy.
    ///
    /// # Errors
    /// [`Rejected`] with the reason, for an `error` 400.
    pub fn decode<'a>(&'a mut self, text: &[u8]) -> Result<Request<'a>, Rejected<'a>> {
        if self.scratch.capacity() > KEEP_BYTES && text.len() <= KEEP_BYTES {
            *self = Self::default();
        }
        self.scratch.clear();
        self.scratch.extend_from_slice(text);
        let mut tape = Tape(std::mem::take(&mut self.tape)).reset();
        let parsed = simd_json::fill_tape(&mut self.scratch, &mut self.buffers, &mut tape);
        let request = match parsed {
            Ok(()) => Envelope::read(&tape.0).and_then(Envelope::into_request),
            Err(_) => Err(Rejected { id: None, text: Text::Malformed }),
        };
        self.tape = tape.reset().0;
        request
    }
}

/// The envelope's fields as nodes: indexes into the tape, strings into the scratch copy.
struct Envelope<'t, 'a> {
    kind: Option<&'a str>,
    id: Option<&'a str>,
    data: Fields<'t, 'a>,
}

impl<'t, 'a> Envelope<'t, 'a> {
    fn read(nodes: &'t [Node<'a>]) -> Result<Self, Rejected<'a>> {
        let rejected = |id| Rejected { id, text: Text::Malformed };
        let fields = Fields::of(nodes).ok_or(rejected(None))?;
        let mut envelope = Self { kind: None, id: None, data: Fields::default() };
        let (mut bad, mut bad_id) = (false, false);
        for (key, value) in fields {
            match (key, value.first()) {
                ("type", Some(Node::String(kind))) => envelope.kind = Some(kind),
                ("id", Some(Node::String(id))) if id.len() <= MAX_ID_BYTES => envelope.id = Some(id),
                ("id", Some(Node::Static(StaticNode::Null))) => envelope.id = None,
                ("id", _) => bad_id = true,
                ("data", Some(Node::Object { .. })) => envelope.data = Fields::of(value).unwrap_or_default(),
                ("data", Some(Node::Static(StaticNode::Null))) => envelope.data = Fields::default(),
                ("type" | "data", _) => bad = true,
                _ => {}
            }
        }
        if bad || bad_id || envelope.kind.is_none() {
            return Err(rejected(envelope.id));
        }
        Ok(envelope)
    }

    fn into_request(self) -> Result<Request<'a>, Rejected<'a>> {
        let id = self.id;
        let command = match self.kind.unwrap_or_default() {
            "auth" => self.data.auth(),
            "message" => self.data.message(),
            "heartbeat" => Ok(Command::Heartbeat),
            "users" => self.data.users(),
            _ => Err(Text::UnknownType),
        };
        command.map(|command| Request { id, command }).map_err(|text| Rejected { id, text })
    }
}

/// The members of one JSON object on the tape. Of a key that comes twice the last one counts, as in JavaScript.
#[derive(Clone, Copy, Default)]
struct Fields<'t, 'a> {
    left: usize,
    nodes: &'t [Node<'a>],
}

impl<'t, 'a> Fields<'t, 'a> {
    fn of(nodes: &'t [Node<'a>]) -> Option<Self> {
        match nodes.first() {
            Some(Node::Object { len, .. }) => Some(Self { left: *len, nodes: &nodes[1..] }),
            _ => None,
        }
    }

    fn find(self, name: &str) -> Option<Node<'a>> {
        self.filter(|(key, _)| *key == name).last().and_then(|(_, value)| value.first().copied())
    }

    /// A string that may be absent; `null` is absent, anything else is malformed.
    fn optional_str(self, name: &str) -> Result<Option<&'a str>, Text> {
        match self.find(name) {
            None | Some(Node::Static(StaticNode::Null)) => Ok(None),
            Some(Node::String(text)) => Ok(Some(text)),
            Some(_) => Err(Text::Malformed),
        }
    }

    /// A whole number from 1 up that may be absent.
    fn optional_count(self, name: &str) -> Result<Option<u32>, Text> {
        let number = match self.find(name) {
            None | Some(Node::Static(StaticNode::Null)) => return Ok(None),
            Some(Node::Static(StaticNode::U64(n))) => n,
            Some(Node::Static(StaticNode::I64(n))) => u64::try_from(n).map_err(|_| Text::Malformed)?,
            Some(_) => return Err(Text::Malformed),
        };
        match number {
            0 => Err(Text::Malformed),
            n => Ok(Some(u32::try_from(n).unwrap_or(u32::MAX))),
        }
    }

    fn flag(self, name: &str) -> bool {
        matches!(self.find(name), Some(Node::Static(StaticNode::Bool(true))))
    }

    fn auth(self) -> Result<Command<'a>, Text> {
        let token = self.optional_str("token")?.filter(|token| !token.is_empty());
        Ok(Command::Auth { token, ping: self.flag("ping") })
    }

    fn message(self) -> Result<Command<'a>, Text> {
        Ok(Command::Message { text: self.optional_str("text")?, channel: self.optional_str("channel")? })
    }

    fn users(self) -> Result<Command<'a>, Text> {
        Ok(Command::Users { cursor: self.optional_str("cursor")?, limit: self.optional_count("limit")? })
    }
}

impl<'t, 'a> Iterator for Fields<'t, 'a> {
    type Item = (&'a str, &'t [Node<'a>]);

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let (key, rest) = self.nodes.split_first()?;
        let Node::String(key) = key else { return None };
        let (value, rest) = rest.split_at(span(rest)?);
        self.nodes = rest;
        Some((key, value))
    }
}

/// How many nodes the value at the front takes, its members included.
fn span(nodes: &[Node<'_>]) -> Option<usize> {
    Some(match nodes.first()? {
        Node::Object { count, .. } | Node::Array { count, .. } => count + 1,
        Node::String(_) | Node::Static(_) => 1,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(text: &str) -> Result<String, String> {
        let mut decoder = EnvelopeDecoder::default();
        // Twice: the second pass runs on reused buffers.
        let _ = decoder.decode(br#"{"type":"users","id":"warm","data":{"limit":7,"x":[1,{"y":[2]}]}}"#);
        let out = decoder.decode(text.as_bytes());
        out.map(|r| format!("{:?} {:?}", r.id, r.command)).map_err(|r| format!("{:?} {:?}", r.id, r.text))
    }

    #[test]
    fn reads_the_tutorials_messages() {
        assert_eq!(
            decode(r#"{"type":"auth","data":{"token":"a.b.c"}}"#),
            Ok(r#"None Auth { token: Some("a.b.c"), ping: false }"#.into())
        );
        assert_eq!(
            decode(r#"{"type":"message","data":{"text":"h\u00e9 \"x\""}}"#),
            Ok(r#"None Message { text: Some("hé \"x\""), channel: None }"#.into())
        );
        assert_eq!(decode(r#"{"type":"heartbeat"}"#), Ok("None Heartbeat".into()));
        assert_eq!(decode(r#"{"data":null,"type":"heartbeat","id":"z"}"#), Ok(r#"Some("z") Heartbeat"#.into()));
    }

    #[test]
    fn unknown_fields_are_skipped_whatever_their_shape() {
        assert_eq!(
            decode(r#"{"a":[[1,{"b":2}],{}],"id":"1","data":{"x":{"limit":9},"limit":3,"cursor":"c"},"type":"users"}"#),
            Ok(r#"Some("1") Users { cursor: Some("c"), limit: Some(3) }"#.into())
        );
    }

    #[test]
    fn of_a_key_given_twice_the_last_counts() {
        assert_eq!(
            decode(r#"{"type":"message","data":{"text":"a","text":"b"}}"#),
            Ok(r#"None Message { text: Some("b"), channel: None }"#.into())
        );
    }

    #[test]
    fn a_missing_or_empty_token_is_missing() {
        for text in [r#"{"type":"auth"}"#, r#"{"type":"auth","data":{"token":""}}"#, r#"{"type":"auth","data":{}}"#] {
            assert_eq!(decode(text), Ok("None Auth { token: None, ping: false }".into()), "{text}");
        }
    }

    #[test]
    fn malformed_is_malformed() {
        for text in [
            "",
            "{",
            "hello",
            "[]",
            "1",
            "null",
            r#""x""#,
            "{}",
            r#"{"type":1}"#,
            r#"{"type":"message","data":[]}"#,
            r#"{"type":"message","data":{"text":5}}"#,
            r#"{"type":"heartbeat"} x"#,
        ] {
            assert_eq!(decode(text), Err("None Malformed".into()), "{text}");
        }
        assert_eq!(decode(r#"{"type":"users","id":"9","data":{"limit":0}}"#), Err(r#"Some("9") Malformed"#.into()));
        assert_eq!(decode(r#"{"type":"users","id":"9","data":{"limit":1.5}}"#), Err(r#"Some("9") Malformed"#.into()));
        assert_eq!(decode(r#"{"type":"nope","id":"9"}"#), Err(r#"Some("9") UnknownType"#.into()));
        assert_eq!(decode(r#"{"type":"heartbeat","id":5}"#), Err("None Malformed".into()));
        let long = format!(r#"{{"type":"heartbeat","id":"{}"}}"#, "i".repeat(MAX_ID_BYTES + 1));
        assert_eq!(decode(&long), Err("None Malformed".into()));
    }

    #[test]
    fn depth_is_bounded() {
        let nested = |n: usize| format!(r#"{{"type":"heartbeat","x":{}{}}}"#, "[".repeat(n), "]".repeat(n));
        assert!(decode(&nested(MAX_DEPTH - 2)).is_ok());
        assert_eq!(decode(&nested(MAX_DEPTH + 1)), Err("None Malformed".into()));
        assert_eq!(decode(&nested(100_000)), Err("None Malformed".into()));
    }

    #[test]
    fn a_large_message_gives_its_memory_back() {
        let mut decoder = EnvelopeDecoder::default();
        let big = format!(r#"{{"type":"message","data":{{"text":"{}"}}}}"#, "x".repeat(500_000));
        assert!(decoder.decode(big.as_bytes()).is_ok());
        assert!(decoder.scratch.capacity() > KEEP_BYTES);
        assert!(decoder.decode(br#"{"type":"heartbeat"}"#).is_ok());
        assert!(decoder.scratch.capacity() <= KEEP_BYTES);
    }
}
