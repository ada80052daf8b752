//! Another server's protocol, written down as templates: what to say after the upgrade, how to publish,
//! what comes back. Read from TOML or made of flags.
//!
//! Pure. What is delivered needs no description to be checked: a publication is found by its marker, as many
//! of them as a frame holds. `delivered` only tells how long a delivery is.

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::Publish;
use crate::frame::Opcode;

/// A protocol by templates; `{payload}` stands for a publication's text, `{length}` for its bytes.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Template {
    /// The path of the fan-out endpoint.
    #[serde(default = "fanout_path")]
    pub fanout_path: String,
    /// The path of the echo endpoint.
    #[serde(default = "echo_path")]
    pub echo_path: String,
    /// Binary messages instead of text.
    #[serde(default)]
    pub binary: bool,
    /// Messages sent after the upgrade.
    #[serde(default)]
    pub hello: Vec<String>,
    /// Text that one of the server's messages must hold before the connection counts as signed in.
    pub hello_reply: Option<String>,
    /// How a publication is sent.
    #[serde(default = "bare_payload")]
    pub publish: String,
    /// How a publication arrives, for its length.
    #[serde(default = "bare_payload")]
    pub delivered: String,
    /// A message that holds this text is a refusal.
    pub refusal: Option<String>,
    /// The path of the endpoint with channels.
    #[serde(default = "channels_path")]
    pub channels_path: String,
    /// How a channel is subscribed to; `{channel}` stands for it, `{number}` for the subscription's number.
    pub subscribe: Option<String>,
    /// Text that the answer to it holds, once.
    pub subscribed: Option<String>,
    /// How a publication is sent to a channel.
    pub publish_to: Option<String>,
    /// How it arrives.
    pub delivered_to: Option<String>,
    /// A request that is answered to its sender alone, with the same text in it.
    pub ask: Option<String>,
    /// The path of an HTTP request that publishes, at the same address.
    pub api_path: Option<String>,
    /// Its body.
    #[serde(default = "bare_payload")]
    pub api_body: String,
    /// The path of an HTTP request that publishes to many channels.
    pub broadcast_path: Option<String>,
    /// Its body; `{channels}` stands for the channels, with commas.
    #[serde(default = "bare_payload")]
    pub broadcast_body: String,
}

fn channels_path() -> String {
    "/topics".to_owned()
}

fn fanout_path() -> String {
    "/fanout".to_owned()
}

fn echo_path() -> String {
    "/echo".to_owned()
}

fn bare_payload() -> String {
    "{payload}".to_owned()
}

/// Stands for a text.
pub(super) const PAYLOAD: &str = "{payload}";
/// Stands for a channel's name.
pub(super) const CHANNEL: &str = "{channel}";
/// Stands for several names.
pub(super) const CHANNELS: &str = "{channels}";
/// Stands for a subscription's number on its connection, from 1.
pub(super) const NUMBER: &str = "{number}";
const LENGTH: &str = "{length}";

impl Default for Template {
    fn default() -> Self {
        Self {
            fanout_path: fanout_path(),
            echo_path: echo_path(),
            binary: false,
            hello: Vec::new(),
            hello_reply: None,
            publish: bare_payload(),
            delivered: bare_payload(),
            refusal: None,
            channels_path: channels_path(),
            subscribe: None,
            subscribed: None,
            publish_to: None,
            delivered_to: None,
            ask: None,
            api_path: None,
            api_body: bare_payload(),
            broadcast_path: None,
            broadcast_body: bare_payload(),
        }
    }
}

impl Template {
    /// Refuses what can't work.
    pub fn check(&self) -> Result<()> {
        for (name, text) in [("publish", &self.publish), ("delivered", &self.delivered)] {
            if text.matches(PAYLOAD).count() != 1 {
                bail!("{name} must hold {PAYLOAD} once: {text:?}");
            }
        }
        let several = [
            ("publish_to", self.publish_to.as_ref(), [PAYLOAD, CHANNEL]),
            ("delivered_to", self.delivered_to.as_ref(), [PAYLOAD, CHANNEL]),
            ("subscribe", self.subscribe.as_ref(), [CHANNEL, CHANNEL]),
            ("ask", self.ask.as_ref(), [PAYLOAD, PAYLOAD]),
            ("broadcast_body", self.broadcast_path.as_ref().map(|_| &self.broadcast_body), [PAYLOAD, CHANNELS]),
        ];
        for (name, text, needed) in several {
            if let Some(text) = text
                && let Some(lacking) = needed.iter().find(|needed| text.matches(**needed).count() != 1)
            {
                bail!("{name} must hold {lacking} once: {text:?}");
            }
        }
        if self.subscribed.as_ref().is_some_and(String::is_empty) {
            bail!("subscribed must not be empty");
        }
        if [&self.fanout_path, &self.echo_path, &self.channels_path].iter().any(|path| !path.starts_with('/')) {
            bail!("fanout_path, echo_path and channels_path must begin with /");
        }
        Ok(())
    }

    /// Text or binary.
    pub fn opcode(&self) -> Opcode {
        if self.binary { Opcode::Binary } else { Opcode::Text }
    }

    /// `payload` is the reply that the hello waits for.
    pub fn greets(&self, payload: &[u8]) -> bool {
        let reply = self.hello_reply.as_deref().unwrap_or_default();
        memchr::memmem::find(payload, reply.as_bytes()).is_some()
    }

    /// `payload` is a refusal.
    pub fn refuses(&self, payload: &[u8]) -> bool {
        let refusal = self.refusal.as_deref();
        refusal.is_some_and(|text| memchr::memmem::find(payload, text.as_bytes()).is_some())
    }

    /// How a text of `length` bytes is published.
    pub fn publish(&self, length: usize) -> Publish {
        let text = self.publish.replace(LENGTH, &length.to_string());
        let (before, after) = text.split_once(PAYLOAD).unwrap_or((&text, ""));
        Publish { opcode: self.opcode(), before: before.into(), after: after.into() }
    }

    /// The length of a text whose delivery is `delivered` bytes long, or the nearest that there is.
    pub fn text_length(&self, delivered: usize) -> usize {
        length_in(&self.delivered, delivered)
    }

    /// The same for a delivery on a channel called `channel`.
    pub fn text_length_on(&self, channel: &str, delivered: usize) -> usize {
        let text = self.delivered_to.as_deref().unwrap_or(PAYLOAD);
        length_in(&text.replace(CHANNEL, channel), delivered)
    }

    /// Protocol `name` of the TOML file `text`, that is, its table `[protocol.NAME]`.
    pub fn named(text: &str, name: &str) -> Result<Self> {
        #[derive(Deserialize)]
        struct File {
            #[serde(default)]
            protocol: std::collections::BTreeMap<String, Template>,
        }
        let mut file: File = toml::from_str(text)?;
        let template = file.protocol.remove(name).with_context(|| format!("there is no [protocol.{name}]"))?;
        template.check().with_context(|| format!("[protocol.{name}]"))?;
        Ok(template)
    }
}

/// The length of a text that makes `template` so long, or nearly.
fn length_in(template: &str, delivered: usize) -> usize {
    let around = |length: usize| template.replace(LENGTH, &length.to_string()).len() - PAYLOAD.len();
    // The length's own digits are part of the length.
    let mut length = delivered.saturating_sub(around(0));
    while length > 0 && length + around(length) > delivered {
        length -= 1;
    }
    length
}

/// Replaces \r, \n, \t and \\ as a shell passes them.
pub fn unescaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match (character, character == '\\') {
            (_, true) => match characters.next() {
                Some('r') => out.push('\r'),
                Some('n') => out.push('\n'),
                Some('t') => out.push('\t'),
                Some(other) => out.push(other),
                None => out.push('\\'),
            },
            (other, false) => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const NATS: &str = r#"
        [protocol.nats]
        binary = true
        hello = ["CONNECT {}\r\n", "SUB x 1\r\n"]
        hello_reply = "PONG"
        publish = "PUB x {length}\r\n{payload}\r\n"
        delivered = "MSG x 1 {length}\r\n{payload}\r\n"
        refusal = "-ERR"
    "#;

    #[test]
    fn a_template_is_filled_in() {
        let nats = Template::named(NATS, "nats").unwrap();
        let mut out = Vec::new();
        nats.publish(5).write(&mut out, |text| text.extend_from_slice(b"hello"));
        assert_eq!(out, b"PUB x 5\r\nhello\r\n");
        assert!(nats.greets(b"INFO\r\nPONG\r\n") && !nats.greets(b"INFO"));
        assert!(nats.refuses(b"-ERR 'no'") && !nats.refuses(b"MSG"));
        assert_eq!(nats.fanout_path, "/fanout");
    }

    #[test]
    fn a_text_is_as_long_as_the_delivery_allows() {
        let nats = Template::named(NATS, "nats").unwrap();
        for delivered in 20..1_200 {
            let length = nats.text_length(delivered);
            let whole = format!("MSG x 1 {length}\r\n\r\n").len() + length;
            assert!(whole == delivered || whole == delivered - 1, "{delivered}: {length}");
        }
        assert_eq!(Template::default().text_length(231), 231);
    }

    #[test]
    fn bad_templates_are_refused() {
        assert!(Template::named(NATS, "other").is_err());
        for bad in [
            "subscribe = 'x'",
            "publish_to = '{payload}'",
            "ask = 'x'",
            "subscribed = ''",
            "publish = 'x'",
            "publish = '{payload}{payload}'",
            "fanout_path = 'x'",
            "unknown = 1",
        ] {
            assert!(Template::named(&format!("[protocol.p]\n{bad}"), "p").is_err(), "{bad}");
        }
    }

    #[test]
    fn escapes_are_read() {
        assert_eq!(unescaped(r"a\r\n\\\t"), "a\r\n\\\t");
    }
}
