//! Envelopes against a naive oracle: serde_json's `RawValue` for the bytes of a publication's data, its members in
//! order for which of several counts, and plain scans for depth and surrogates.
#![expect(clippy::unwrap_used, reason = "a broken expectation has to stop the test, with its message")]

#[path = "oracles/envelope.rs"]
mod envelope;

use std::sync::Arc;

use envelope::{Members, decoded, is_allowed, reference};
use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::value::RawValue;
use uringcast::dialect::native::decode::{EnvelopeDecoder, MAX_DEPTH};
use uringcast::dialect::native::encode::publication_frame_len;
use uringcast::dialect::{write_publication, write_reply};
use uringcast::model::command::{Command, Request};
use uringcast::model::notice::{Recovered, Reply};
use uringcast::model::position::{Placed, Position};
use uringcast::model::publication::{Content, Publication};
use uringcast::model::text::Language;
use uringcast::model::user::{User, UserId};
use uringcast::model::voice::Voice;

/// JSON before it is printed. Numbers are as they are written.
#[derive(Debug, Clone)]
enum Json {
    Word(&'static str),
    Number(String),
    Text(String),
    /// Not a string by the contract.
    LoneSurrogate(u16),
    Array(Vec<Json>),
    Object(Vec<(String, Json)>),
}

fn json() -> impl Strategy<Value = Json> {
    let number = prop_oneof![
        4 => "-?(0|[1-9][0-9]{0,6})",
        2 => "-?[1-9][0-9]{16,40}",
        2 => r"-?(0|[1-9][0-9]{0,24})(\.[0-9]{1,24})?([eE][+-]?[0-9]{1,6})?",
    ];
    let leaf = prop_oneof![
        2 => prop_oneof![Just("true"), Just("false"), Just("null")].prop_map(Json::Word),
        4 => number.prop_map(Json::Number),
        4 => texts().prop_map(Json::Text),
    ];
    leaf.prop_recursive(6, 40, 6, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..6).prop_map(Json::Array),
            vec((prop_oneof![3 => texts(), 1 => Just("data".to_owned())], inner), 0..6).prop_map(Json::Object),
        ]
    })
}

fn texts() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z]{0,8}", "[a-zé中😀\"\\\\/\u{0}-\u{1f}\u{7f}{}:, \\[\\]]{0,12}", "[ -~]{60,70}", any::<String>(),]
}

/// Any JSON, sometimes with what the contract forbids: lone surrogates, and more depth than is allowed.
fn data() -> impl Strategy<Value = Json> {
    let deep = (MAX_DEPTH - 5..MAX_DEPTH + 3, any::<bool>(), json()).prop_map(|(depth, array, inside)| {
        (0..depth).fold(inside, |inside, _| match array {
            true => Json::Array(vec![inside]),
            false => Json::Object(vec![("k".into(), inside)]),
        })
    });
    let lone =
        (0xD800..0xE000u16, json()).prop_map(|(lone, other)| Json::Array(vec![other, Json::LoneSurrogate(lone)]));
    prop_oneof![12 => json(), 1 => deep, 1 => lone]
}

/// A publish, its members in any order, some of them twice, and sometimes one of them missing or not as it should be.
fn publishes() -> impl Strategy<Value = Json> {
    let text = |text: &'static str| Json::Text(text.into());
    let member = |name: &'static str, value: BoxedStrategy<Json>| value.prop_map(move |value| (name.to_owned(), value));
    let channel =
        prop_oneof![8 => Just(text("news")), 4 => Just(text("a:b/c")), 1 => Just(text("no name")), 1 => json()];
    let channel = member("channel", channel.boxed());
    let key = member("key", prop_oneof![6 => texts().prop_map(Json::Text), 1 => json()].boxed());
    let inner = members(
        vec![channel.clone().boxed(), member("data", data().boxed()).boxed()],
        prop_oneof![
            1 => member("data", data().boxed()),
            1 => channel,
            1 => key,
            4 => (texts(), json()),
        ]
        .boxed(),
    );
    let id = member("id", prop_oneof![6 => texts().prop_map(Json::Text), 1 => json()].boxed());
    members(
        vec![member("type", Just(text("publish")).boxed()).boxed(), member("data", inner.clone()).boxed()],
        prop_oneof![
            1 => member("data", prop_oneof![3 => inner, 1 => json().boxed()].boxed()),
            2 => id,
            3 => (texts(), json()),
        ]
        .boxed(),
    )
}

type Member = (String, Json);

/// An object with these members, rarely without one of them, and a few more.
fn members(wanted: Vec<BoxedStrategy<Member>>, more: BoxedStrategy<Member>) -> BoxedStrategy<Json> {
    let missing = prop::option::weighted(0.05, 0..wanted.len());
    (wanted, missing, vec(more, 0..4))
        .prop_map(|(mut members, missing, more)| {
            if let Some(missing) = missing {
                members.remove(missing);
            }
            members.extend(more);
            members
        })
        .prop_shuffle()
        .prop_map(Json::Object)
        .boxed()
}

/// Writes JSON, choosing whitespace and escapes by the bytes of `style`, over and over.
struct Printer<'s> {
    out: String,
    style: std::iter::Cycle<std::slice::Iter<'s, u8>>,
}

fn print(json: &Json, style: &[u8]) -> String {
    let mut printer = Printer { out: String::new(), style: style.iter().cycle() };
    printer.space();
    printer.value(json);
    printer.space();
    printer.out
}

impl Printer<'_> {
    fn choose(&mut self, of: u8) -> u8 {
        *self.style.next().unwrap() % of
    }

    fn space(&mut self) {
        let choice = usize::from(self.choose(24));
        let spaces = [" ", "\n", "\t", "\r\n", "  ", "\n    ", &" ".repeat(70)];
        self.out.push_str(spaces.get(choice).copied().unwrap_or_default());
    }

    fn value(&mut self, json: &Json) {
        match json {
            Json::Word(word) => self.out.push_str(word),
            Json::Number(number) => self.out.push_str(number),
            Json::Text(text) => self.string(text),
            Json::LoneSurrogate(unit) => self.out.push_str(&format!("\"a\\u{unit:04x}\"")),
            Json::Array(items) => {
                self.out.push('[');
                for (at, item) in items.iter().enumerate() {
                    self.separate(at);
                    self.value(item);
                }
                self.space();
                self.out.push(']');
            }
            Json::Object(members) => {
                self.out.push('{');
                for (at, (key, value)) in members.iter().enumerate() {
                    self.separate(at);
                    self.string(key);
                    self.space();
                    self.out.push(':');
                    self.space();
                    self.value(value);
                }
                self.space();
                self.out.push('}');
            }
        }
    }

    fn separate(&mut self, at: usize) {
        self.space();
        if at > 0 {
            self.out.push(',');
            self.space();
        }
    }

    fn string(&mut self, text: &str) {
        self.out.push('"');
        for c in text.chars() {
            match c {
                _ if self.choose(12) == 0 => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        let upper = self.choose(2) == 0;
                        self.out.push_str(&if upper { format!("\\u{unit:04X}") } else { format!("\\u{unit:04x}") });
                    }
                }
                '"' | '\\' => self.out.extend(['\\', c]),
                '/' if self.choose(2) == 0 => self.out.push_str("\\/"),
                '\n' => self.out.push_str("\\n"),
                '\t' => self.out.push_str("\\t"),
                '\0'..='\x1f' => self.out.push_str(&format!("\\u{:04x}", c as u32)),
                _ => self.out.push(c),
            }
        }
        self.out.push('"');
    }
}

/// Texts of every command that are mostly as they should be.
fn requests() -> impl Strategy<Value = String> {
    let since = r#"{"epoch":"e","offset":41}"#;
    let fixed = [
        format!(r#"{{"type":"auth","id":"1","data":{{"token":"t","ping":true,"recover":{since},"channels":[{{"channel":"a","recover":{since}}},{{"channel":"b","token":"\u00e9"}}]}}}}"#),
        r#"{"type":"message","id":"4","data":{"text":"h\u00e9 \"x\"","channel":"n:a","idempotency_key":"k"}}"#.into(),
        format!(r#"{{"type":"subscribe","id":"1","data":{{"channel":"news","token":"t","recover":{since}}}}}"#),
        r#"{"type":"publish","id":"3","data":{"channel":"news","data":[1e999,"\ud83d\ude00",{"a":12345678901234567890123}],"key":"k"}}"#.into(),
        format!(r#"{{"type":"history","id":"5","data":{{"channel":"news","since":{since},"limit":100,"reverse":false}}}}"#),
        r#"{"type":"presence","id":"6","data":{"channel":"news","cursor":"c","limit":100}}"#.into(),
        r#"{"type":"refresh","id":"7","data":{"token":"JWT"}}"#.into(),
        r#"{"type":"heartbeat"}"#.into(),
        "[]".into(),
        String::new(),
    ];
    prop_oneof![
        2 => prop::sample::select(fixed.to_vec()),
        1 => (publishes(), vec(any::<u8>(), 1..64)).prop_map(|(json, style)| print(&json, &style)),
    ]
}

/// Damage to a text: bytes replaced, put in, left out, or a stretch repeated.
#[derive(Debug, Clone)]
enum Damage {
    Replace(u8),
    Insert(u8),
    Remove,
    Cut,
    Repeat(prop::sample::Index),
}

fn damages() -> impl Strategy<Value = Vec<(prop::sample::Index, Damage)>> {
    let byte = || prop_oneof![3 => prop::sample::select(br#"{}[]",:\ -+.eE0123456789utfn"#.to_vec()), 1 => any::<u8>()];
    let damage = prop_oneof![
        4 => byte().prop_map(Damage::Replace),
        4 => byte().prop_map(Damage::Insert),
        4 => Just(Damage::Remove),
        1 => Just(Damage::Cut),
        1 => any::<prop::sample::Index>().prop_map(Damage::Repeat),
    ];
    vec((any::<prop::sample::Index>(), damage), 0..4)
}

fn damaged(text: &str, damages: &[(prop::sample::Index, Damage)]) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    for (at, damage) in damages {
        if bytes.is_empty() {
            break;
        }
        let at = at.index(bytes.len());
        match damage {
            Damage::Replace(byte) => bytes[at] = *byte,
            Damage::Insert(byte) => bytes.insert(at, *byte),
            Damage::Remove => drop(bytes.remove(at)),
            Damage::Cut => bytes.truncate(at),
            Damage::Repeat(to) => {
                let end = at.max(to.index(bytes.len()));
                let stretch = bytes[at..end].to_vec();
                bytes.splice(at..at, stretch);
            }
        }
    }
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 4000, ..ProptestConfig::default() })]

    #[test]
    fn published_data_is_what_the_oracle_cuts_out(json in publishes(), style in vec(any::<u8>(), 1..64)) {
        let text = print(&json, &style);
        prop_assert_eq!(decoded(&mut EnvelopeDecoder::default(), text.as_bytes()), reference(&text), "{}", text);
    }

    #[test]
    fn any_value_passes_byte_for_byte(json in json(), style in vec(any::<u8>(), 1..64)) {
        let value = print(&json, &style);
        let text = format!(r#"{{"type":"publish","data":{{"channel":"news","data":{value}}}}}"#);
        let mut decoder = EnvelopeDecoder::default();
        let Ok(Request { command: Command::Publish { data, .. }, .. }) = decoder.decode(text.as_bytes()) else {
            return Err(TestCaseError::fail(text.clone()));
        };
        prop_assert_eq!(data, value.trim_matches([' ', '\t', '\r', '\n']).as_bytes());
    }

    #[test]
    fn damage_is_judged_as_the_oracle_does(text in requests(), damages in damages()) {
        let bytes = damaged(&text, &damages);
        let published = decoded(&mut EnvelopeDecoder::default(), &bytes);
        match std::str::from_utf8(&bytes) {
            Ok(text) => {
                // Fields that the oracle doesn't know may refuse what it takes, and never the other way.
                let known = reference(text);
                if published.is_some() || !text.contains("epoch") {
                    prop_assert_eq!(published, known, "{}", text);
                }
                let taken = EnvelopeDecoder::default().decode(&bytes).is_ok();
                prop_assert!(!taken || is_allowed(text), "{}", text);
            }
            Err(_) => prop_assert_eq!(published, None),
        }
    }

    #[test]
    fn arbitrary_bytes_do_no_harm(bytes in vec(any::<u8>(), 0..300)) {
        let _ = EnvelopeDecoder::default().decode(&bytes);
    }

    #[test]
    fn a_used_decoder_decodes_as_a_new_one(
        texts in vec((requests(), damages()), 1..12),
        padding in prop::option::weighted(0.1, 130_000..200_000usize),
    ) {
        let mut used = EnvelopeDecoder::default();
        for (text, damages) in texts {
            let mut bytes = damaged(&text, &damages);
            if let Some(padding) = padding.filter(|_| text.len() % 3 == 0) {
                bytes.resize(bytes.len() + padding, b' ');
            }
            let mut new = EnvelopeDecoder::default();
            prop_assert_eq!(used.decode(&bytes), new.decode(&bytes));
        }
    }

    #[test]
    fn answers_are_json_and_hold_what_was_pushed(
        values in vec((json(), vec(any::<u8>(), 1..32), texts(), any::<bool>()), 0..8),
        padding in prop_oneof![Just(0), 60..130usize, 65_000..66_000usize],
    ) {
        let user = Arc::new(User::new(&UserId::int(1).unwrap(), "Ann \\ <\u{1}>"));
        let (mut publications, mut pushed) = (Vec::new(), Vec::new());
        for (offset, (json, style, text, is_message)) in (1..).zip(&values) {
            let text = text.repeat(1 + padding / text.len().max(1));
            let (content, key) = if *is_message {
                (Content::Text(text.into()), None)
            } else {
                (Content::Json(print(json, style).into_bytes().into()), Some(text.into()))
            };
            let mut publication = Publication {
                placed: Placed { channel: "news".into(), epoch: "e".into(), offset },
                timestamp: 7,
                sender: (offset % 3 > 0).then(|| Arc::clone(&user)),
                escape: offset % 2 == 0,
                content,
                key,
                frame_bytes: 0,
            };
            publication.frame_bytes = publication_frame_len(&publication);
            let mut frame = Vec::new();
            write_publication(Voice::NativeText, &mut frame, &publication);
            prop_assert_eq!(frame.len(), publication.frame_bytes);
            let push = payload(&frame);
            prop_assert!(is_allowed(push));
            let push = Members::of(push).unwrap();
            pushed.push((push.last("type").unwrap().to_owned(), push.last("data").unwrap().to_owned()));
            publications.push(Arc::new(publication));
        }
        let position = Position { channel: "news", epoch: "e", offset: 9 };
        let recovery = Some(Recovered { recovered: true, publications: &publications });
        for reply in [
            Reply::History { position, publications: &publications },
            Reply::Subscribed { position, recovery, overflow: "conflate", expires_at: Some(u64::MAX) },
        ] {
            let mut frame = Vec::new();
            write_reply(Voice::NativeText, &mut frame, &reply, Some("1"), Language::En);
            let data = Members::of(Members::of(payload(&frame)).unwrap().last("data").unwrap()).unwrap();
            let elements: Vec<&RawValue> = serde_json::from_str(data.last("publications").unwrap()).unwrap();
            prop_assert_eq!(elements.len(), pushed.len());
            for (element, (kind, fields)) in elements.iter().zip(&pushed) {
                prop_assert_eq!(element.get(), format!("{{\"type\":{kind},{}", &fields[1..]));
            }
        }
    }
}

fn payload(frame: &[u8]) -> &str {
    let skip = [2, 4, 10][usize::from(frame[1] > 125) + usize::from(frame[1] > 126)];
    std::str::from_utf8(&frame[skip..]).unwrap()
}
