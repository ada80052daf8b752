//! Envelopes against what one would write first: serde_json into a struct of the command's own type, which is told
//! beforehand, and `serde_json::json!` for what goes out.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;
use uringcast::proto::decode::{Command, EnvelopeDecoder};
use uringcast::proto::encode::{Element, Kind, Message, Position, Publication, Reply};
use uringcast::proto::frame::{self, Opcode};
use uringcast::proto::text::Language;

const MESSAGE: &str = r#"{"type":"message","id":"17","data":{"text":"a line of some length, as people write"}}"#;
const SUBSCRIBE: &str = r#"{"type":"subscribe","id":"1","data":{"channel":"prices:eur","recover":{"epoch":"0f3a9c6d7be1425f","offset":41}}}"#;
const PUBLISH: &str = r#"{"type":"publish","id":"3","data":{"channel":"prices:eur","key":"AAPL","data":{"bid":187.31,"ask":187.33,"size":[100,200],"at":"2025-01-01T12:00:00Z"},"idempotency_key":"018f2d0c-7a11-7c3e-9f6b-0d2f0f8f4a55"}}"#;
const PUBLISH_BIG: &str = r#"{"type":"publish","id":"3","data":{"channel":"prices:eur","key":"AAPL","data":{"bid":187.31,"ask":187.33,"size":[100,123456789012345678901234567890],"at":"2025-01-01T12:00:00Z"}}}"#;

#[derive(Deserialize)]
struct Typed<'a, D> {
    #[serde(rename = "type")]
    kind: &'a str,
    id: Option<&'a str>,
    data: D,
}

#[derive(Deserialize)]
struct TypedMessage<'a> {
    text: &'a str,
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

fn decode_one<'a, D: Deserialize<'a>>(
    criterion: &mut Criterion,
    name: &str,
    text: &'static str,
    touch: impl Fn(&D) -> usize + Copy,
) where
    'static: 'a,
{
    let mut group = criterion.benchmark_group(format!("decode {name}/{}", text.len()));
    group.throughput(Throughput::Bytes(text.len() as u64));
    let mut decoder = EnvelopeDecoder::default();
    group.bench_function("tape", |bencher| {
        bencher.iter(|| match decoder.decode(black_box(text).as_bytes()).expect("a request").command {
            Command::Message { text, .. } => text.map_or(0, str::len),
            Command::Subscribe(to) => to.channel.len(),
            Command::Publish { data, .. } => data.len(),
            other => unreachable!("{other:?}"),
        })
    });
    group.bench_function("serde_json typed", |bencher| {
        bencher.iter(|| {
            let typed: Typed<'_, D> = serde_json::from_str(black_box(text)).expect("a request");
            touch(&typed.data) + typed.kind.len() + typed.id.map_or(0, str::len)
        })
    });
    group.finish();
}

fn decode(criterion: &mut Criterion) {
    decode_one(criterion, "message", MESSAGE, |data: &TypedMessage<'_>| data.text.len());
    decode_one(criterion, "subscribe", SUBSCRIBE, |data: &TypedSubscribe<'_>| {
        data.channel.len() + data.recover.as_ref().map_or(0, |since| since.epoch.len() + since.offset as usize)
    });
    let touch = |data: &TypedPublish<'_>| {
        data.channel.len() + data.data.get().len() + [data.key, data.idempotency_key].into_iter().flatten().count()
    };
    decode_one(criterion, "publish", PUBLISH, touch);
    decode_one(criterion, "publish, a number too big", PUBLISH_BIG, touch);
}

fn encode(criterion: &mut Criterion) {
    let user = serde_json::value::to_raw_value(&json!({ "id": 1, "username": "Ann" })).expect("JSON");
    let shown = json!({ "id": 1, "username": "Ann" });
    let data = br#"{"bid":187.31,"ask":187.33,"size":[100,200],"at":"2025-01-01T12:00:00Z"}"#;
    let position = Position { channel: "prices:eur", epoch: "0f3a9c6d7be1425f", offset: 41 };
    let mut out = Vec::with_capacity(64 * 1024);

    let mut group = criterion.benchmark_group("encode message");
    group.bench_function("one pass", |bencher| {
        bencher.iter(|| {
            out.clear();
            let text = black_box("a line of some length, as people write");
            Message { position, sender: Some(&user), text, timestamp: 1_700_000_000_000 }.encode(&mut out)
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

    let publication = Publication {
        channel: position.channel,
        offset: 41,
        data,
        key: Some("AAPL"),
        sender: Some(&user),
        timestamp: 1_700_000_000_000,
    };
    let mut group = criterion.benchmark_group("encode publication");
    group.bench_function("one pass", |bencher| {
        bencher.iter(|| {
            out.clear();
            black_box(&publication).encode(&mut out)
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

    let mut stored = Vec::new();
    let range = publication.encode(&mut stored);
    let publications = vec![Element { kind: Kind::Publication, fields: &stored[range.clone()] }; 100];
    let fields = format!("{{\"type\":\"publication\",{}}}", String::from_utf8_lossy(&stored[range]));
    let mut group = criterion.benchmark_group("encode a history of 100");
    group.bench_function("copied", |bencher| {
        bencher.iter(|| {
            out.clear();
            let reply = Reply::History { position, publications: black_box(&publications) };
            reply.encode(&mut out, Some("5"), Language::En);
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
