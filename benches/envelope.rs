//! Envelopes against what one would write first. In: serde_json into a struct of the command's own type, which is
//! told beforehand, and into a `Value`; both from the bytes of a frame, so that all of them check the UTF-8, and from
//! a text that somebody has checked. Out: `serde_json::json!`, and a struct through `serde_json::to_string`.

use std::borrow::Cow;
use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use serde::{Deserialize, Serialize};
use serde_json::json;
use serde_json::value::RawValue;
use uringcast::dialect::native::decode::EnvelopeDecoder;
use uringcast::dialect::native::encode::{publication_frame_len, write_element};
use uringcast::dialect::{write_publication, write_reply};
use uringcast::model::command::Command;
use uringcast::model::notice::Reply;
use uringcast::model::position::{Placed, Position};
use uringcast::model::publication::{Content, Publication};
use uringcast::model::text::Language;
use uringcast::model::user::{User, UserId};
use uringcast::model::voice::Voice;
use uringcast::wire::frame::{self, Opcode};

const MESSAGE: &str = r#"{"type":"message","id":"17","data":{"text":"a line of some length, as people"}}"#;
const ESCAPED: &str = r#"{"type":"message","id":"17","data":{"text":"a \"line\" of some length,\nas peopl\u00e9"}}"#;
const SUBSCRIBE: &str = r#"{"type":"subscribe","id":"1","data":{"channel":"prices:eur","recover":{"epoch":"0f3a9c6d7be1425f","offset":41}}}"#;
const PUBLISH_128: &str = r#"{"type":"publish","id":"3","data":{"channel":"prices:eur","key":"AAPL","data":{"bid":187.31,"ask":187.33,"size":[100,2000000]}}}"#;
const PUBLISH_201: &str = r#"{"type":"publish","id":"3","data":{"channel":"prices:eur","key":"AAPL","data":{"bid":187.31,"ask":187.33,"size":[100,200],"at":"2025-01-01T12:00:00Z"},"idempotency_key":"018f2d0c-7a11-7c3e-9f6b-0d2f"}}"#;
const PUBLISH_BIG: &str = r#"{"type":"publish","id":"3","data":{"channel":"prices:eur","key":"AAPL","data":{"bid":187.31,"ask":187.33,"size":[100,123456789012345678901234567890],"at":"2025-01-01T12:00:00Z"}}}"#;

/// A publish whose data takes about so many bytes: a text, or rows of a table.
fn publishes(bytes: usize) -> [(&'static str, String); 2] {
    let words = "a line of some length, as people write, and one more of them. ".repeat(bytes / 62);
    let row = |n: usize| json!({ "id": n, "name": format!("item {n}"), "bid": 187.31 + n as f64, "size": [100, n] });
    let rows: Vec<_> = (0..bytes / 60).map(row).collect();
    [("publish a text", json!(words)), ("publish rows", json!(rows))].map(|(name, data)| {
        let head = r#"{"type":"publish","id":"3","data":{"channel":"prices:eur","key":"AAPL","data":"#;
        (name, format!("{head}{data}}}}}"))
    })
}

#[derive(Deserialize)]
struct Typed<'a, D> {
    #[serde(rename = "type")]
    kind: &'a str,
    id: Option<&'a str>,
    data: D,
}

#[derive(Deserialize)]
struct TypedMessage<'a> {
    #[serde(borrow)]
    text: Cow<'a, str>,
}

#[derive(Deserialize)]
struct TypedSubscribe<'a> {
    channel: &'a str,
    #[serde(borrow)]
    recover: Option<TypedSince<'a>>,
}

#[derive(Deserialize)]
struct TypedSince<'a> {
    epoch: &'a str,
    offset: u64,
}

#[derive(Deserialize)]
struct TypedPublish<'a> {
    channel: &'a str,
    #[serde(borrow)]
    data: &'a RawValue,
    key: Option<&'a str>,
    idempotency_key: Option<&'a str>,
}

#[derive(Serialize)]
struct TypedEnvelope<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    code: u16,
    data: TypedPush<'a>,
}

#[derive(Serialize)]
struct TypedPush<'a> {
    id: &'a str,
    channel: &'a str,
    offset: u64,
    sender: &'a RawValue,
    text: &'a str,
    timestamp: u64,
}

fn decode_one<'a, D: Deserialize<'a>>(
    criterion: &mut Criterion,
    name: &str,
    text: &'a str,
    touch: impl Fn(&D) -> usize + Copy,
) {
    let mut group = criterion.benchmark_group(format!("decode {name}/{}", text.len()));
    group.throughput(Throughput::Bytes(text.len() as u64));
    let touch_typed =
        |typed: Typed<'_, D>| touch(&typed.data) + typed.kind.len() + typed.id.map_or(0, |id| black_box(id).len());
    let mut decoder = EnvelopeDecoder::default();
    group.bench_function("decode", |bencher| {
        bencher.iter(|| match decoder.decode(black_box(text).as_bytes()).expect("a request").command {
            Command::Message { text, .. } => text.map_or(0, str::len),
            Command::Subscribe(to) => to.channel.len(),
            Command::Publish { data, .. } => data.len(),
            other => unreachable!("{other:?}"),
        })
    });
    group.bench_function("typed, bytes", |bencher| {
        bencher.iter(|| touch_typed(serde_json::from_slice(black_box(text).as_bytes()).expect("a request")))
    });
    group.bench_function("typed, text", |bencher| {
        bencher.iter(|| touch_typed(serde_json::from_str(black_box(text)).expect("a request")))
    });
    group.bench_function("Value, bytes", |bencher| {
        bencher.iter(|| {
            let value: serde_json::Value = serde_json::from_slice(black_box(text).as_bytes()).expect("JSON");
            value.as_object().map_or(0, |fields| fields.len())
        })
    });
    group.finish();
}

fn decode(criterion: &mut Criterion) {
    let of_message = |data: &TypedMessage<'_>| data.text.len();
    decode_one(criterion, "message", MESSAGE, of_message);
    decode_one(criterion, "message with escapes", ESCAPED, of_message);
    decode_one(criterion, "subscribe", SUBSCRIBE, |data: &TypedSubscribe<'_>| {
        data.channel.len() + data.recover.as_ref().map_or(0, |since| since.epoch.len() + since.offset as usize)
    });
    let of_publish = |data: &TypedPublish<'_>| {
        data.channel.len() + data.data.get().len() + [data.key, data.idempotency_key].into_iter().flatten().count()
    };
    decode_one(criterion, "publish", PUBLISH_128, of_publish);
    decode_one(criterion, "publish", PUBLISH_201, of_publish);
    decode_one(criterion, "publish, a number too big", PUBLISH_BIG, of_publish);
    for bytes in [1024, 16 * 1024] {
        for (name, text) in publishes(bytes) {
            decode_one(criterion, name, &text, of_publish);
        }
    }
}

fn encode(criterion: &mut Criterion) {
    let user = serde_json::value::to_raw_value(&json!({ "id": 1, "username": "Ann" })).expect("JSON");
    let sender = Arc::new(User::new(&UserId::int(1).expect("an id"), "Ann"));
    let shown = json!({ "id": 1, "username": "Ann" });
    let data = br#"{"bid":187.31,"ask":187.33,"size":[100,200],"at":"2025-01-01T12:00:00Z"}"#;
    let position = Position { channel: "prices:eur", epoch: "0f3a9c6d7be1425f", offset: 41 };
    let publication = |content: Content, key: Option<&str>| {
        let Position { channel, epoch, offset } = position;
        let placed = Placed { channel: channel.into(), epoch: epoch.into(), offset };
        let (timestamp, sender, key) = (1_700_000_000_000, Some(Arc::clone(&sender)), key.map(Into::into));
        let mut publication = Publication { placed, timestamp, sender, escape: true, content, key, frame_bytes: 0 };
        publication.frame_bytes = publication_frame_len(&publication);
        publication
    };
    let mut out = Vec::with_capacity(64 * 1024);

    let message = publication(Content::Text("a line of some length, as people write".into()), None);
    let mut group = criterion.benchmark_group("encode message");
    group.bench_function("one pass", |bencher| {
        bencher.iter(|| {
            out.clear();
            write_publication(Voice::NativeText, &mut out, black_box(&message));
        })
    });
    let id = format!("{}-{}", position.epoch, position.offset);
    group.bench_function("to_string", |bencher| {
        bencher.iter(|| {
            out.clear();
            let text = black_box("a line of some length, as people write");
            let data = TypedPush { id: &id, channel: "prices:eur", offset: 41, sender: &user, text, timestamp: 1 };
            let json = serde_json::to_string(&TypedEnvelope { kind: "message", code: 200, data }).expect("JSON");
            frame::write_frame(&mut out, Opcode::Text, json.as_bytes());
        })
    });
    group.bench_function("json!", |bencher| {
        bencher.iter(|| {
            out.clear();
            let value = json!({ "type": "message", "code": 200, "data": {
                "id": format!("{}-{}", position.epoch, position.offset), "channel": position.channel,
                "offset": position.offset, "sender": shown, "timestamp": 1_700_000_000_000_u64,
                "text": black_box("a line of some length, as people write"),
            } });
            frame::write_frame(&mut out, Opcode::Text, value.to_string().as_bytes());
        })
    });
    group.finish();

    let publication = publication(Content::Json(data[..].into()), Some("AAPL"));
    let mut group = criterion.benchmark_group("encode publication");
    group.bench_function("one pass", |bencher| {
        bencher.iter(|| {
            out.clear();
            write_publication(Voice::NativeText, &mut out, black_box(&publication));
        })
    });
    group.bench_function("json!", |bencher| {
        bencher.iter(|| {
            out.clear();
            let data: serde_json::Value = serde_json::from_slice(black_box(data)).expect("JSON");
            let value = json!({ "type": "publication", "data": {
                "channel": position.channel, "offset": position.offset, "data": data, "key": "AAPL",
                "sender": shown, "timestamp": 1_700_000_000_000_u64,
            } });
            frame::write_frame(&mut out, Opcode::Text, value.to_string().as_bytes());
        })
    });
    group.finish();

    let mut element = Vec::new();
    write_element(&mut element, &publication);
    let fields = String::from_utf8(element).expect("JSON");
    let publications = std::iter::repeat_n(Arc::new(publication), 100).collect::<Vec<_>>();
    let mut group = criterion.benchmark_group("encode a history of 100");
    group.bench_function("one pass", |bencher| {
        bencher.iter(|| {
            out.clear();
            let reply = Reply::History { position, publications: black_box(&publications) };
            write_reply(Voice::NativeText, &mut out, &reply, Some("5"), Language::En);
        })
    });
    group.bench_function("json!", |bencher| {
        bencher.iter(|| {
            out.clear();
            let elements: Vec<serde_json::Value> =
                (0..100).map(|_| serde_json::from_str(black_box(&fields)).expect("JSON")).collect();
            let value = json!({ "type": "history", "id": "5", "code": 200, "data": {
                "channel": position.channel, "epoch": position.epoch, "offset": position.offset,
                "publications": elements,
            } });
            frame::write_frame(&mut out, Opcode::Text, value.to_string().as_bytes());
        })
    });
    group.finish();
}

criterion_group!(envelope, decode, encode);
criterion_main!(envelope);
