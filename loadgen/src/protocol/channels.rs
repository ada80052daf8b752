//! What is said of channels: subscribing, publishing to one of many, a request that is answered to its sender alone, and
//! the requests of an HTTP API that publish.
//!
//! Pure. Called by the workloads `channels` and `api`.

use memchr::memmem;

use super::template::{CHANNEL, CHANNELS, NUMBER, PAYLOAD};
use super::{Dialect, Publish, kind};
use crate::frame::Opcode;

/// The most channels that a run has: a marker has four hex digits for them.
pub const CHANNELS_MAX: usize = 1 << 16;

/// What stands round a text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Around {
    before: Vec<u8>,
    after: Vec<u8>,
}

impl Around {
    fn of(text: &str) -> Self {
        let (before, after) = text.split_once(PAYLOAD).unwrap_or((text, ""));
        Self { before: before.into(), after: after.into() }
    }
}

/// A request that publishes: its head but for the length, and its body but for the text.
#[derive(Clone, Debug)]
pub struct Request {
    head: Vec<u8>,
    body: Around,
}

impl Request {
    fn new(path: &str, key: Option<&str>, body: &str) -> Self {
        let key = key.map_or(String::new(), |key| format!("Authorization: Bearer {key}\r\n"));
        let head =
            format!("POST {path} HTTP/1.1\r\nHost: loadgen\r\n{key}Content-Type: application/json\r\nContent-Length: ");
        Self { head: head.into_bytes(), body: Around::of(body) }
    }

    /// Writes the whole request; `text` appends its text, which needs no escapes.
    pub fn write(&self, scratch: &mut Vec<u8>, length: usize, text: impl FnOnce(&mut Vec<u8>)) {
        let body = self.body.before.len() + length + self.body.after.len();
        scratch.clear();
        scratch.extend_from_slice(&self.head);
        scratch.extend_from_slice(format!("{body}\r\n\r\n").as_bytes());
        scratch.extend_from_slice(&self.body.before);
        text(scratch);
        scratch.extend_from_slice(&self.body.after);
    }
}

impl Dialect {
    fn opcode(&self) -> Opcode {
        match self {
            Self::Template(template) => template.opcode(),
            _ => Opcode::Text,
        }
    }

    /// What it lacks to speak of channels, and to ask if that `asks`; none if it has all.
    pub fn lacks_channels(&self, asks: bool) -> Option<&'static str> {
        let Self::Template(template) = self else {
            return None;
        };
        let there = [
            ("subscribe", template.subscribe.is_some()),
            ("subscribed", template.subscribed.is_some()),
            ("publish_to", template.publish_to.is_some()),
            ("ask", template.ask.is_some() || !asks),
        ];
        there.into_iter().find(|(_, there)| !there).map(|(name, _)| name)
    }

    /// A message that subscribes to `channel`, its connection's subscription `number`.
    pub fn subscribe(&self, channel: &str, number: usize) -> (Opcode, Vec<u8>) {
        let text = match self {
            Self::Template(template) => {
                let subscribe = template.subscribe.as_deref().unwrap_or_default();
                subscribe.replace(CHANNEL, channel).replace(NUMBER, &(number + 1).to_string())
            }
            _ => format!(r#"{{"type":"subscribe","id":"s{number}","data":{{"channel":"{channel}"}}}}"#),
        };
        (self.opcode(), text.into_bytes())
    }

    /// How many answers to `subscribe` this message holds.
    pub fn subscribed(&self, payload: &[u8]) -> usize {
        match self {
            Self::Template(template) => {
                let answer = template.subscribed.as_deref().unwrap_or_default();
                memmem::find_iter(payload, answer.as_bytes()).count()
            }
            _ => usize::from(kind(payload) == b"subscribed"),
        }
    }

    /// It is an error.
    pub fn refuses(&self, payload: &[u8]) -> bool {
        match self {
            Self::Template(template) => template.refuses(payload),
            _ => matches!(kind(payload), b"error" | b"kicked" | b"gap" | b"unsubscribed"),
        }
    }

    /// How a text of `length` bytes is published to `channel`.
    pub fn publish_to(&self, channel: &str, length: usize) -> Publish {
        let text = match self {
            Self::Template(template) => {
                let publish = template.publish_to.as_deref().unwrap_or_default();
                publish.replace(CHANNEL, channel).replace("{length}", &length.to_string())
            }
            _ => format!(r#"{{"type":"publish","data":{{"channel":"{channel}","data":"{PAYLOAD}"}}}}"#),
        };
        let Around { before, after } = Around::of(&text);
        Publish { opcode: self.opcode(), before, after }
    }

    /// What stands in a delivery to say whose channel it is; none if nothing does.
    pub fn label(&self, channel: &str) -> Vec<u8> {
        match self {
            // Up to the text only, where the length may be a part of it.
            Self::Template(template) => {
                let delivered = template.delivered_to.as_deref().unwrap_or_default();
                let end = delivered.find(CHANNEL).map_or(0, |at| at + CHANNEL.len());
                delivered[..end].replace(CHANNEL, channel).into_bytes()
            }
            _ => format!(r#""channel":"{channel}""#).into_bytes(),
        }
    }

    /// A request that is answered to its sender alone, with a text that comes back in the answer.
    pub fn ask(&self) -> Publish {
        let text = match self {
            Self::Template(template) => template.ask.clone().unwrap_or_default(),
            _ => format!(r#"{{"type":"heartbeat","id":"{PAYLOAD}"}}"#),
        };
        let Around { before, after } = Around::of(&text);
        Publish { opcode: self.opcode(), before, after }
    }

    /// An HTTP request that publishes to `channel`; none if there is no such API.
    pub fn publish_request(&self, channel: &str, key: Option<&str>) -> Option<Request> {
        Some(match self {
            Self::Template(template) => {
                let path = template.api_path.as_deref()?.replace(CHANNEL, channel);
                Request::new(&path, key, &template.api_body.replace(CHANNEL, channel))
            }
            _ => {
                let body = format!(r#"{{"channel":"{channel}","data":"{PAYLOAD}"}}"#);
                Request::new("/api/publish", key, &body)
            }
        })
    }

    /// An HTTP request that publishes to all `channels` at once; none if there is no such API.
    pub fn broadcast_request(&self, channels: &[String], key: Option<&str>) -> Option<Request> {
        Some(match self {
            Self::Template(template) => {
                let path = template.broadcast_path.as_deref()?;
                Request::new(path, key, &template.broadcast_body.replace(CHANNELS, &channels.join(",")))
            }
            _ => {
                let body = format!(r#"{{"channels":["{}"],"data":"{PAYLOAD}"}}"#, channels.join("\",\""));
                Request::new("/api/broadcast", key, &body)
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::Template;
    use super::*;

    fn peer() -> Dialect {
        let text = r#"
            [protocol.p]
            subscribe = "S {channel} {number}"
            subscribed = "s "
            publish_to = "P {channel} {payload}"
            delivered_to = "{channel} {payload}"
            ask = "E {payload}"
            api_path = "/publish/{channel}"
            broadcast_path = "/broadcast"
            broadcast_body = "{channels}\n{payload}"
        "#;
        Dialect::Template(Box::new(Template::named(text, "p").unwrap()))
    }

    fn written(publish: &Publish) -> String {
        let mut out = Vec::new();
        publish.write(&mut out, |text| text.extend_from_slice(b"text"));
        String::from_utf8(out).unwrap()
    }

    fn sent(request: &Request) -> String {
        let mut out = Vec::new();
        request.write(&mut out, 4, |text| text.extend_from_slice(b"text"));
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn channels_are_spoken_of_in_both_dialects() {
        let own = Dialect::Uringcast(None);
        let text = |(_, text): (Opcode, Vec<u8>)| String::from_utf8(text).unwrap();
        assert_eq!(text(own.subscribe("room:1", 2)), r#"{"type":"subscribe","id":"s2","data":{"channel":"room:1"}}"#);
        assert_eq!(text(peer().subscribe("room:1", 2)), "S room:1 3");
        assert_eq!(own.subscribed(br#"{"type":"subscribed","id":"s0"}"#), 1);
        assert_eq!(own.subscribed(br#"{"type":"publication"}"#), 0);
        assert_eq!(peer().subscribed(b"s 1s 2"), 2);
        assert_eq!(written(&peer().publish_to("c", 4)), "P c text");
        assert!(written(&own.publish_to("c", 4)).ends_with(r#""channel":"c","data":"text"}}"#));
        assert_eq!(peer().label("c"), b"c");
        assert_eq!(written(&peer().ask()), "E text");
        assert_eq!(written(&own.ask()), r#"{"type":"heartbeat","id":"text"}"#);
        assert!(peer().lacks_channels(true).is_none() && own.lacks_channels(true).is_none());
        assert_eq!(Dialect::Template(Box::default()).lacks_channels(false), Some("subscribe"));
    }

    #[test]
    fn requests_carry_their_length_and_key() {
        let own = Dialect::Uringcast(None).publish_request("c", Some("k")).unwrap();
        let text = sent(&own);
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert_eq!(body, r#"{"channel":"c","data":"text"}"#);
        assert!(head.contains("Bearer k") && head.ends_with(&format!("Content-Length: {}", body.len())), "{head}");
        let text = sent(&peer().publish_request("c", None).unwrap());
        assert!(text.starts_with("POST /publish/c HTTP/1.1\r\n") && text.ends_with("\r\n\r\ntext"), "{text}");
        let names = ["a", "b"].map(str::to_owned);
        assert!(sent(&peer().broadcast_request(&names, None).unwrap()).ends_with("\r\n\r\na,b\ntext"));
        let own = sent(&Dialect::Uringcast(None).broadcast_request(&names, None).unwrap());
        assert!(own.ends_with(r#"{"channels":["a","b"],"data":"text"}"#));
        assert!(Dialect::Template(Box::default()).publish_request("c", None).is_none());
    }
}
