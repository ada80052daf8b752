//! Envelopes by a second hand: serde_json's `RawValue` for the client's own bytes, the members in order for which of
//! several counts, plain scans for depth and surrogates. For the property tests and for fuzzing.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use uringcast::dialect::native::decode::{EnvelopeDecoder, MAX_DEPTH};
use uringcast::model::command::{Command, Request};

/// An object's members in order, their values as they are written.
#[derive(Default)]
pub struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

impl<'a> Members<'a> {
    pub fn of(raw: &'a str) -> Option<Self> {
        serde_json::from_str(raw).ok()
    }

    pub fn last(&self, name: &str) -> Option<&'a str> {
        self.0.iter().rfind(|(key, _)| key == name).map(|(_, value)| value.get())
    }

    /// `Err` if it is no string; `null` is absent.
    pub fn text(&self, name: &str) -> Result<Option<String>, ()> {
        self.last(name).map_or(Ok(None), |raw| serde_json::from_str(raw).map_err(drop))
    }
}

/// Whether the text is JSON within the contract's limits: its strings are whole, its depth bounded.
pub fn is_allowed(text: &str) -> bool {
    if serde_json::from_str::<&RawValue>(text).is_err() {
        return false;
    }
    let (mut depth, mut at) = (0, 0);
    while at < text.len() {
        match text.as_bytes()[at] {
            b'"' => {
                let mut end = at + 1;
                while text.as_bytes()[end] != b'"' {
                    end += 1 + usize::from(text.as_bytes()[end] == b'\\');
                }
                if serde_json::from_str::<String>(&text[at..=end]).is_err() {
                    return false;
                }
                at = end;
            }
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth -= 1,
            _ => {}
        }
        if depth > MAX_DEPTH {
            return false;
        }
        at += 1;
    }
    true
}

#[derive(Debug, PartialEq, Eq)]
pub struct Published {
    id: Option<String>,
    channel: String,
    key: Option<String>,
    /// Where the data stands in the text.
    data: std::ops::Range<usize>,
}

/// What a text that publishes says, by the oracle; `None` if it says nothing.
pub fn reference(text: &str) -> Option<Published> {
    let envelope = Members::of(text).filter(|_| is_allowed(text))?;
    let id = envelope.text("id").ok()?.filter(|id| id.len() <= 128);
    if envelope.text("id") != Ok(id.clone()) || envelope.text("type") != Ok(Some("publish".into())) {
        return None;
    }
    let inner = Members::of(envelope.last("data")?)?;
    let channel = inner.text("channel").ok()??;
    let allowed = |c: char| c.is_ascii_alphanumeric() || "_-=@.:/#".contains(c);
    let parts: Vec<&str> = channel.splitn(2, ':').collect();
    if parts.contains(&"") || channel.len() > 200 || !channel.chars().all(allowed) {
        return None;
    }
    let key = inner.text("key").ok()?;
    if key.as_ref().is_some_and(|key| key.len() > 255) {
        return None;
    }
    if ["idempotency_key", "epoch"].iter().any(|name| inner.last(name).is_some()) {
        return None; // Not made here; the unit tests have them.
    }
    let data = inner.last("data")?;
    let start = data.as_ptr().addr() - text.as_ptr().addr();
    Some(Published { id, channel, key, data: start..start + data.len() })
}

/// What it says by the real decoder.
pub fn decoded(decoder: &mut EnvelopeDecoder, text: &[u8]) -> Option<Published> {
    match decoder.decode(text) {
        Ok(Request { id, command: Command::Publish { channel, data, key, .. } }) => {
            let start = data.as_ptr().addr() - text.as_ptr().addr();
            Some(Published {
                id: id.map(Into::into),
                channel: channel.into(),
                key: key.map(Into::into),
                data: start..start + data.len(),
            })
        }
        _ => None,
    }
}
