//! What a request of the backend's API costs before and after the hub: the head, the gate, the body, and the response.
//! The requests are those that curl and a client library with keep-alive send.

use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use uringcast::api::ApiSettings;
use uringcast::api::answers::{ApiAnswer, ApiWriter};
use uringcast::api::calls::{ApiCall, ApiRequest};
use uringcast::api::connection::{ApiConnection, ApiStep};
use uringcast::api::rules::ApiRules;
use uringcast::model::namespace::{Namespace, Namespaces};
use uringcast::model::parcel::Answer;
use uringcast::model::position::Placed;

const KEY: &str = "an-api-key-of-the-benchmarks";
const SMALL: &str = r#"{"channel":"prices:eur","data":{"bid":187.31,"ask":187.33}}"#;
const USUAL: &str = r#"{"channel":"prices:eur","data":{"bid":187.31,"ask":187.33,"size":[100,200],"at":"2025-01-01T12:00:00Z"},"idempotency_key":"018f2d0c-7a11-7c3e-9f6b-0d2f"}"#;

fn rules() -> ApiRules {
    let plain = Namespace::plain;
    let namespaces = Namespaces::new(plain("lobby"), plain(""), [plain("prices")]);
    ApiRules::new(ApiSettings::of_keys(&[KEY], Arc::new(namespaces), 64 * 1024))
}

fn publish(body: &str) -> Vec<u8> {
    format!(
        "POST /api/publish HTTP/1.1\r\nHost: 127.0.0.1:2346\r\nUser-Agent: a-client/1.2\r\nAccept: */*\r\n\
         Authorization: Bearer {KEY}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// Takes the next request.
fn next(connection: &mut ApiConnection, input: &mut &[u8], rules: &ApiRules) -> ApiRequest {
    match connection.next(input, rules) {
        ApiStep::Request(request) => request,
        step => panic!("{step:?} where a request was due"),
    }
}

fn answer(writer: &mut ApiWriter, out: &mut Vec<u8>, request: ApiRequest, placed: &Placed) {
    let answer = match request.call {
        ApiCall::Ask(_) => {
            ApiAnswer::Owner { answer: Answer::Published { placed: placed.clone(), duplicate: false }, escape: true }
        }
        ApiCall::Health => ApiAnswer::Health { connections: 1_024, shards: 8, is_draining: false },
        call => panic!("{call:?} is not asked for here"),
    };
    writer.write(out, &request.reply, answer, 1_795_690_800_000);
}

fn requests(c: &mut Criterion) {
    let rules = rules();
    let placed = Placed { channel: "prices:eur".into(), epoch: "985fb77c7705dcc1".into(), offset: 123_456 };
    let kilobyte = format!(r#"{{"channel":"prices:eur","data":"{}"}}"#, "a line, ".repeat(128));
    let health =
        b"GET /health HTTP/1.1\r\nHost: 127.0.0.1:2346\r\nUser-Agent: a-client/1.2\r\nAccept: */*\r\n\r\n".to_vec();
    let mut group = c.benchmark_group("api");
    for (name, stream) in [
        ("publish 60 B", publish(SMALL)),
        ("publish 160 B", publish(USUAL)),
        ("publish 1 KiB", publish(&kilobyte)),
        ("health", health),
    ] {
        group.throughput(Throughput::Elements(1));
        let mut connection = ApiConnection::default();
        group.bench_function(format!("{name}: parse"), |b| {
            b.iter(|| black_box(next(&mut connection, &mut black_box(&stream[..]), &rules)));
        });
        let (mut writer, mut out) = (ApiWriter::default(), Vec::new());
        group.bench_function(format!("{name}: parse and answer"), |b| {
            b.iter(|| {
                out.clear();
                let request = next(&mut connection, &mut black_box(&stream[..]), &rules);
                answer(&mut writer, &mut out, request, &placed);
                black_box(&out);
            });
        });
    }
    group.finish();
}

criterion_group!(benches, requests);
criterion_main!(benches);
