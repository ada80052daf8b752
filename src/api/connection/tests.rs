//! Requests as they arrive, cut anywhere; what each comes to, and what the connection waits for in between.
//! The statuses and messages are those that docs/api.md and the black-box tests state.

use std::sync::Arc;

use super::*;
use crate::api::calls::SlowCall;
use crate::api::rules::ApiSettings;
use crate::model::namespace::tests::namespaces;
use crate::model::parcel::Ask;
use crate::model::publication::Content;
use crate::wire::origin::Origins;

const KEY: &str = "an-api-key-of-these-tests";

fn settings() -> ApiSettings {
    ApiSettings {
        hosts: vec!["metrics.internal".to_owned()],
        checks_hosts: true,
        cors: Origins::list(&["https://page.example".to_owned()]).expect("an origin"),
        ..ApiSettings::of_keys(&[KEY], Arc::new(namespaces()), 1_024)
    }
}

fn rules() -> ApiRules {
    ApiRules::new(settings())
}

/// What came of a stream of bytes.
#[derive(Debug, Default, PartialEq)]
struct Outcome {
    /// The requests in words, and how often the client was told to go on.
    steps: Vec<String>,
    phase: Option<ApiPhase>,
}

fn words(request: &ApiRequest) -> String {
    let call = match &request.call {
        ApiCall::Ask(ask) => match &ask.ask {
            Ask::Publish(publish) => {
                let content = match &publish.content {
                    Content::Json(json) => format!("json {}", String::from_utf8_lossy(json)),
                    Content::Text(text) => format!("text {text}"),
                };
                let rest = (&publish.key, &publish.idempotency_key, &publish.epoch);
                format!("publish {} {content} {rest:?}", publish.channel)
            }
            other => format!("{other:?}"),
        },
        ApiCall::Many(many) => format!("many {}", many.held_bytes() > 0),
        ApiCall::Slow(SlowCall::Revoke(body)) => format!("revoke {}", String::from_utf8_lossy(body)),
        ApiCall::Refused(error) => format!("{} {}", error.status(), error.message()),
        other => format!("{other:?}"),
    };
    let marks = [(request.has_key, "key"), (request.reply.is_last(), "last")];
    let marks: Vec<&str> = marks.into_iter().filter(|(is_set, _)| *is_set).map(|(_, mark)| mark).collect();
    format!("{} {}: {call} [{}]", request.reply.method(), request.reply.path(), marks.join(" "))
}

/// Gives the stream in pieces that end at `cuts`. After each `hold_every` requests, what is left is held for later.
fn run(stream: &[u8], cuts: &[usize], hold_every: usize) -> Outcome {
    let (mut connection, rules, mut outcome) = (ApiConnection::default(), rules(), Outcome::default());
    let mut ends: Vec<usize> = cuts.iter().copied().filter(|cut| *cut < stream.len()).collect();
    ends.sort_unstable();
    ends.push(stream.len());
    let mut at = 0;
    for end in ends {
        let mut input = &stream[at..end];
        at = end;
        loop {
            match connection.next(&mut input, &rules) {
                ApiStep::More => break,
                ApiStep::Continue => outcome.steps.push("continue".to_owned()),
                ApiStep::Request(request) => outcome.steps.push(words(&request)),
            }
            if hold_every > 0 && outcome.steps.len().is_multiple_of(hold_every) {
                connection.hold(input);
                input = &[];
            }
        }
        assert!(input.is_empty(), "all bytes are taken");
    }
    outcome.phase = Some(connection.phase());
    if matches!(connection.phase(), ApiPhase::Idle | ApiPhase::Over) {
        assert_eq!(connection.held_bytes(), 0, "nothing is held between requests");
    }
    outcome
}

/// What the stream comes to, however it is cut.
fn steps(stream: &str) -> Vec<String> {
    let whole = run(stream.as_bytes(), &[], 0);
    for cut in 0..stream.len() {
        let mut cut_once = run(stream.as_bytes(), &[cut], 0);
        forget_continue(&mut cut_once, &whole);
        assert_eq!(cut_once, whole, "cut at {cut}");
    }
    let mut each = run(stream.as_bytes(), &(0..stream.len()).collect::<Vec<_>>(), 0);
    forget_continue(&mut each, &whole);
    assert_eq!(each, whole, "byte by byte");
    for hold_every in 1..3 {
        assert_eq!(run(stream.as_bytes(), &[], hold_every), whole, "held after each {hold_every}");
    }
    whole.steps
}

/// A client whose body is already there is not told to go on.
fn forget_continue(outcome: &mut Outcome, whole: &Outcome) {
    if !whole.steps.iter().any(|step| step == "continue") {
        outcome.steps.retain(|step| step != "continue");
    }
}

fn post(path: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!("POST {path} HTTP/1.1\r\nHost: x\r\nX-API-Key: {KEY}\r\nContent-Length: {length}\r\n{headers}\r\n{body}")
}

fn get(target: &str, headers: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n")
}

const PUBLISHED: &str = "POST /api/publish: publish a json 1 (None, None, None) [key]";
const BODY: &str = r#"{"channel":"a","data":1}"#;

#[test]
fn requests_follow_each_other() {
    let stream = [
        post("/api/publish", "", BODY),
        get("/health", ""),
        post("/api/publish", "Idempotency-Key: k\r\n", r#"{"channel":"chat:b","text":" hi ","key":"x","epoch":"e"}"#),
        get("/metrics", ""),
        post("/api/revoke", "", "{\"user\":1}"),
    ]
    .concat();
    let expected = [
        PUBLISHED,
        "GET /health: Health []",
        r#"POST /api/publish: publish chat:b text hi (Some("x"), Some("k"), Some("e")) [key]"#,
        "GET /metrics: Slow(Metrics) []",
        "POST /api/revoke: revoke {\"user\":1} [key]",
    ];
    assert_eq!(steps(&stream), expected);
}

#[test]
fn chunks_are_a_body_too() {
    let head =
        format!("POST /api/publish HTTP/1.1\r\nHost: x\r\nX-API-Key: {KEY}\r\nTransfer-Encoding: chunked\r\n\r\n");
    let stream =
        [&head, "9\r\n{\"channel\r\nf;x=y\r\n\":\"a\",\"data\":1}\r\n0\r\nT: 1\r\n\r\n", &get("/health", "")].concat();
    assert_eq!(steps(&stream), [PUBLISHED, "GET /health: Health []"]);
    let bad = [&head, "9\r\n{\"channelX\r\n", &get("/health", "")].concat();
    assert_eq!(steps(&bad), ["POST /api/publish: 400 malformed chunk in the body [key last]"]);
}
