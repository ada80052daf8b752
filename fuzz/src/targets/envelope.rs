//! A text message as a client may write it, against serde_json: which are taken, and of a publication every field
//! and the very bytes of its data. Input: the message.

use std::cell::RefCell;

use serde_json::value::RawValue;
use uringcast::dialect::native::decode::EnvelopeDecoder;
use uringcast::model::command::{Command, Request};

use crate::dice::Dice;
use crate::oracles::envelope::{Members, decoded, is_allowed, reference};

/// What is taken is JSON within the contract's limits, is what the oracle takes, and says the same; a decoder that
/// has seen other messages decodes like a new one.
pub fn run(bytes: &[u8]) {
    thread_local! {
        static USED: RefCell<EnvelopeDecoder> = RefCell::default();
    }
    let mut new = EnvelopeDecoder::default();
    let taken = new.decode(bytes);
    USED.with_borrow_mut(|used| assert_eq!(used.decode(bytes), taken, "a used decoder"));
    let Ok(text) = std::str::from_utf8(bytes) else {
        assert!(taken.is_err(), "a text that is no UTF-8");
        return;
    };
    assert_eq!(taken.is_ok(), is_request(text), "{text:?} {taken:?}");
    if let Ok(Request { command: Command::Publish { idempotency_key: None, epoch: None, .. }, .. }) = taken {
        let known = reference(text);
        assert!(known.is_some() || text.contains("epoch") || text.contains("idempotency_key") || text.contains("\\u"));
        if known.is_some() {
            assert_eq!(decoded(&mut EnvelopeDecoder::default(), bytes), known, "{text:?}");
        }
    }
}

/// Whether a text is a request by docs/protocol.md, with a library that this server doesn't parse with.
fn is_request(text: &str) -> bool {
    is_allowed(text) && judge(text).is_some()
}

fn judge(text: &str) -> Option<()> {
    let envelope = Members::of(text)?;
    within(&envelope, "id", 0..=128)?;
    let kind = envelope.text("type").ok()??;
    let data = match envelope.last("data") {
        None | Some("null") => Members::default(),
        Some(raw) => Members::of(raw)?,
    };
    match kind.as_str() {
        "heartbeat" => {}
        "auth" => {
            text_of(&data, "token")?;
            flag(&data, "ping")?;
            since(&data, "recover")?;
            let channels: Vec<&RawValue> = match data.last("channels") {
                None | Some("null") => Vec::new(),
                Some(raw) => serde_json::from_str(raw).ok()?,
            };
            (channels.len() <= 128).then_some(())?;
            for one in channels {
                let one = Members::of(one.get())?;
                within(&one, "channel", 0..=200)??;
                text_of(&one, "token")?;
                since(&one, "recover")?;
            }
        }
        "message" => {
            text_of(&data, "text")?;
            channel(&data)?;
            within(&data, "idempotency_key", 1..=64)?;
        }
        "users" => {
            text_of(&data, "cursor")?;
            count(&data, "limit")?;
        }
        "subscribe" => {
            channel(&data)??;
            text_of(&data, "token")?;
            since(&data, "recover")?;
        }
        "unsubscribe" => drop(channel(&data)??),
        "publish" => {
            channel(&data)??;
            data.last("data")?;
            within(&data, "key", 0..=255)?;
            within(&data, "idempotency_key", 1..=64)?;
            within(&data, "epoch", 0..=64)?;
        }
        "history" => {
            channel(&data)??;
            since(&data, "since")?;
            count(&data, "limit")?;
            flag(&data, "reverse")?;
        }
        "presence" => {
            channel(&data)??;
            text_of(&data, "cursor")?;
            count(&data, "limit")?;
        }
        "refresh" => {
            channel(&data)?;
            text_of(&data, "token")?.filter(|token| !token.is_empty())?;
        }
        _ => return None,
    }
    Some(())
}

// The outer `None` is a fault, the inner one a field that is absent.

fn text_of(members: &Members<'_>, name: &str) -> Option<Option<String>> {
    members.text(name).ok()
}

fn within(members: &Members<'_>, name: &str, bytes: std::ops::RangeInclusive<usize>) -> Option<Option<String>> {
    let text = text_of(members, name)?;
    text.as_ref().is_none_or(|text| bytes.contains(&text.len())).then_some(text)
}

fn channel(members: &Members<'_>) -> Option<Option<String>> {
    let Some(name) = text_of(members, "channel")? else { return Some(None) };
    let allowed = |c: char| c.is_ascii_alphanumeric() || "_-=@.:/#".contains(c);
    let whole = name.splitn(2, ':').all(|part| !part.is_empty());
    (whole && name.len() <= 200 && name.chars().all(allowed)).then_some(Some(name))
}

fn flag(members: &Members<'_>, name: &str) -> Option<()> {
    matches!(members.last(name), None | Some("null" | "true" | "false")).then_some(())
}

/// A whole number from 0 up that 64 bits hold.
fn number(members: &Members<'_>, name: &str) -> Option<Option<u64>> {
    match members.last(name) {
        None | Some("null") => Some(None),
        Some("-0") => Some(Some(0)),
        Some(raw) => raw.parse().ok().filter(|_| !raw.starts_with('+')).map(Some),
    }
}

fn count(members: &Members<'_>, name: &str) -> Option<()> {
    (number(members, name)? != Some(0)).then_some(())
}

fn since(members: &Members<'_>, name: &str) -> Option<()> {
    let raw = match members.last(name) {
        None | Some("null") => return Some(()),
        Some(raw) => raw,
    };
    let since = Members::of(raw)?;
    within(&since, "epoch", 0..=64)??;
    number(&since, "offset")??;
    Some(())
}

/// Requests of every kind, most of them as they should be.
pub fn generate(dice: &mut Dice) -> Vec<u8> {
    let kinds = [
        "auth",
        "message",
        "heartbeat",
        "users",
        "subscribe",
        "unsubscribe",
        "publish",
        "history",
        "presence",
        "refresh",
        "public\\u0061tion",
        "publi\\u0073h",
    ];
    let mut members = vec![format!("\"type\":\"{}\"", dice.pick(&kinds)), format!("\"data\":{}", data(dice))];
    if dice.once_in(2) {
        members.push(format!("\"id\":{}", string(dice)));
    }
    if dice.once_in(12) {
        members.push(format!("\"data\":{}", value(3, dice)));
    }
    if dice.once_in(8) {
        let last = members.len() - 1;
        members.swap(0, last);
    }
    format!("{{{}}}", members.join(dice.pick(&[",", ", ", " ,\n\t"]))).into_bytes()
}

fn data(dice: &mut Dice) -> String {
    let names = [
        "channel",
        "channel",
        "channel",
        "data",
        "data",
        "text",
        "token",
        "key",
        "idempotency_key",
        "epoch",
        "limit",
        "cursor",
        "reverse",
        "ping",
        "recover",
        "since",
        "channels",
        "d\\u0061ta",
    ];
    let members: Vec<String> = (0..dice.below(8))
        .map(|_| {
            let name = dice.pick(&names);
            let fitting = match name {
                "channel" => dice.pick(&["\"news\"", "\"a:b\"", "\"\"", "\"no name\"", "\":a\""]).to_owned(),
                "limit" => dice.pick(&["1", "0", "100", "-1", "-0", "1.0", "1e2", "18446744073709551616"]).to_owned(),
                "reverse" | "ping" => dice.pick(&["true", "false", "null", "0"]).to_owned(),
                "recover" | "since" => since_text(dice),
                "channels" => {
                    let item = format!("{{\"channel\":\"n\",\"recover\":{}}}", since_text(dice));
                    let count = dice.pick(&[0, 1, 2, 128, 129]);
                    format!("[{}]", vec![item; count].join(","))
                }
                "data" => value(4, dice),
                _ => string(dice),
            };
            let value = if dice.once_in(12) { value(2, dice) } else { fitting };
            format!("\"{name}\":{value}")
        })
        .collect();
    format!("{{{}}}", members.join(","))
}

fn since_text(dice: &mut Dice) -> String {
    let offset = dice.pick(&["0", "41", "18446744073709551615", "18446744073709551616", "-0", "0.0"]);
    format!("{{\"epoch\":{},\"offset\":{offset}}}", string(dice))
}

fn string(dice: &mut Dice) -> String {
    let parts =
        ["a", "é", "中", "😀", "\\n", "\\\"", "\\\\", "\\u0000", "\\ud83d\\ude00", "\\ud800", "{", "]", ",", ":"];
    let length = dice.pick(&[0, 1, 2, 5, 64, 65, 129]);
    let usual = dice.once_in(2);
    let text: String = (0..length).map(|_| if usual { "x" } else { dice.pick(&parts) }).collect();
    format!("\"{text}\"")
}

fn value(depth: usize, dice: &mut Dice) -> String {
    let leaves =
        ["null", "true", "false", "0", "-1.5e300", "1e999", "123456789012345678901234567890", "01", "-", "\"\""];
    match dice.below(if depth == 0 { 2 } else { 5 }) {
        0 => dice.pick(&leaves).to_owned(),
        1 => string(dice),
        2 => {
            let items: Vec<String> = (0..dice.below(4)).map(|_| value(depth - 1, dice)).collect();
            format!("[{}]", items.join(","))
        }
        3 => {
            let items: Vec<String> =
                (0..dice.below(4)).map(|_| format!("{}:{}", string(dice), value(depth - 1, dice))).collect();
            format!("{{{}}}", items.join(" , "))
        }
        _ => {
            let levels = dice.between(58, 66);
            format!("{}{}", "[".repeat(levels), "]".repeat(levels))
        }
    }
}
