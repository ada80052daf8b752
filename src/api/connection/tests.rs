//! Requests as they arrive, cut anywhere; what each comes to, and what the connection waits for in between.
//! The statuses and messages are those that docs/api.md and the black-box tests state.

use std::sync::Arc;

use super::*;
use crate::api::answers::{ApiAnswer, ApiWriter};
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

#[test]
fn the_head_is_judged_before_the_body() {
    let key = format!("X-API-Key: {KEY}\r\n");
    let own = "Host: localhost\r\n";
    let ask = |line: &str, headers: &str| steps(&format!("{line} HTTP/1.1\r\n{headers}\r\n")).join(", ");
    let no_key = "401 a valid API key is needed: Authorization: Bearer KEY []";
    for headers in [
        "",
        "Authorization: Bearer wrong-wrong-wrong\r\n",
        &format!("Authorization: Basic {KEY}\r\n"),
        &format!("Authorization: {KEY}\r\n"),
        &format!("Authorization: Bearer {KEY}x\r\n"),
        "X-API-Key: \r\n",
        // The first header counts, whatever the other one says.
        &format!("Authorization: Bearer wrong\r\nX-API-Key: {KEY}\r\n"),
    ] {
        for path in ["/api/publish", "/api/history", "/api/nosuch"] {
            let said = ask(&format!("POST {path}"), &format!("{own}{headers}"));
            assert_eq!(said, format!("POST {path}: {no_key}"), "{headers:?}");
        }
    }
    for headers in [key.clone(), format!("authorization: bEARER  {KEY} \r\n")] {
        let said = ask("GET /api/presence?channel=lobby", &format!("{own}{headers}"));
        assert_eq!(said, "GET /api/presence: Users { cursor: None, limit: 100 } [key]");
    }
    let hosts = "403 without an API key, the Host header must name this machine or be in http.hosts []";
    assert_eq!(ask("GET /health", "Host: rebound.evil.example\r\n"), format!("GET /health: {hosts}"));
    assert_eq!(ask("OPTIONS /health", "Host: rebound.evil.example\r\n"), format!("OPTIONS /health: {hosts}"));
    assert_eq!(ask("GET /health", "Host: Metrics.Internal:2346\r\n"), "GET /health: Health []");
    assert_eq!(ask("GET http://evil.example/health", own), format!("GET /health: {hosts}"));
    assert_eq!(ask("GET http://127.0.0.1/health", "Host: evil.example\r\n"), "GET /health: Health []");
    assert_eq!(ask("GET /health", &format!("Host: push.example\r\n{key}")), "GET /health: Health []");
    for (line, said) in [
        ("OPTIONS *", "OPTIONS *: Bare(Methods) []"),
        ("OPTIONS /api/publish", "OPTIONS /api/publish: Bare(Methods) []"),
        ("OPTIONS /nope", "OPTIONS /nope: 404 this endpoint does not exist []"),
        ("PUT /health", "PUT /health: 405 this endpoint takes GET and HEAD only []"),
        ("CONNECT localhost:80", "CONNECT *: 405 this server is not a proxy: CONNECT is not supported [last]"),
        ("GET /%zz?#", "GET : 400 malformed request target [last]"),
    ] {
        assert_eq!(ask(line, own), said);
    }
    let method = "405 this endpoint does not take this method; the Allow header lists those that it takes [key]";
    for line in ["GET /api/publish", "PUT /api/presence", "POST /api/revocations", "post /api/publish"] {
        assert_eq!(ask(line, &format!("{own}{key}")), format!("{}: {method}", line), "{line}");
    }
    for headers in ["", "Host: a\r\nHost: a\r\n"] {
        assert_eq!(ask("GET /health", headers), "GET /health: 400 exactly one Host header is required [last]");
    }
    assert_eq!(
        ask("GET /health", "Host: a b\r\n"),
        "GET /health: 400 the Host header must be a host, with or without a port [last]"
    );
}

#[test]
fn what_is_malformed_ends_the_connection() {
    let follows = get("/health", "");
    for (head, said) in [
        ("\u{16}\u{3}\u{1}", "400 malformed request"),
        ("PRI * HTTP/2.0\r\n\r\n", "400 malformed request"),
        ("GET /health HTTP/1.1\r\nHost : a\r\n\r\n", "400 malformed request"),
        ("GET /health HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n", "400 malformed request"),
    ] {
        assert_eq!(steps(&format!("{head}{follows}")), [format!(" : {said} [last]")], "{head:?}");
    }
    let both = post("/api/publish", "Transfer-Encoding: chunked\r\n", BODY);
    let said = "400 Content-Length and Transfer-Encoding contradict each other [last]";
    assert_eq!(steps(&format!("{both}{follows}")), [format!("POST /api/publish: {said}")]);
    let lengths = post("/api/publish", "Content-Length: 5\r\n", BODY);
    assert_eq!(steps(&lengths), ["POST /api/publish: 400 a header is malformed or repeated [last]"]);
    let coding = "POST /api/publish HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n";
    let said = "501 the only Transfer-Encoding that is accepted is chunked [last]";
    assert_eq!(steps(coding), [format!("POST /api/publish: {said}")]);
    let long = get("/health", &format!("X-Long: {}\r\n", "x".repeat(17_000)));
    assert_eq!(run(long.as_bytes(), &[9_000], 0).steps, [" : 431 request header too large [last]"]);
    let many = get("/health", &"X: 1\r\n".repeat(64));
    assert_eq!(steps(&many), [" : 431 request header too large [last]"]);
}

#[test]
fn a_body_nobody_asked_for_is_read_over() {
    let follows = get("/health", "");
    let length = "Content-Length: 24\r\n";
    for (head, said) in [
        (get("/health", length), "GET /health: Health []"),
        (
            format!("POST /api/publish HTTP/1.1\r\nHost: localhost\r\n{length}\r\n"),
            "POST /api/publish: 401 a valid API key is needed: Authorization: Bearer KEY []",
        ),
        (get("/health", "Transfer-Encoding: chunked\r\n"), "GET /health: Health []"),
    ] {
        let body = if head.contains("chunked") { format!("18\r\n{BODY}\r\n0\r\n\r\n") } else { BODY.to_owned() };
        assert_eq!(steps(&format!("{head}{body}{follows}")), [said, "GET /health: Health []"]);
    }
    // One that is too long is not worth it.
    let long = get("/health", "Content-Length: 100000000\r\n");
    assert_eq!(steps(&format!("{long}{follows}")), ["GET /health: Health [last]"]);
}

/// The most bytes of a body under these rules.
const MOST: usize = 2 * 1_024 + 256 * 1_024;

#[test]
fn a_body_has_a_bound() {
    let follows = get("/health", "");
    let large = |bytes: usize| format!("{{\"channel\":\"a\",\"data\":\"{}\"}}", "x".repeat(bytes - 25));
    let at_bound = post("/api/publish", "", &large(MOST));
    let outcome = run(format!("{at_bound}{follows}").as_bytes(), &[300, 70_000], 0);
    assert!(outcome.steps[0].starts_with("POST /api/publish: publish a json \"xx"), "{:.99}", outcome.steps[0]);
    let said = format!("POST /api/publish: 413 the body is too large: it may have {MOST} bytes");
    let over = post("/api/publish", "", &large(MOST + 1));
    let stream = format!("{over}{follows}");
    for cuts in [&[][..], &[300, 70_000], &[150, 200_000]] {
        assert_eq!(
            run(stream.as_bytes(), cuts, 0).steps,
            [format!("{said} [key]"), "GET /health: Health []".to_owned()]
        );
    }
    // Far over it, the client is told before it has sent everything.
    let (mut connection, rules) = (ApiConnection::default(), rules());
    let far = post("/api/publish", "", &large(4 * MOST));
    let (mut told, mut most_held) = (None, 0);
    for piece in far.as_bytes().chunks(10_000) {
        let mut input = piece;
        while let ApiStep::Request(request) = connection.next(&mut input, &rules) {
            told = Some(words(&request));
        }
        most_held = most_held.max(connection.held_bytes());
    }
    assert_eq!((told, connection.phase()), (Some(format!("{said} [key last]")), ApiPhase::Over));
    assert!(most_held < 1_000, "{most_held} bytes of a body that is refused");
    // Chunks say their length late.
    let head =
        format!("POST /api/publish HTTP/1.1\r\nHost: x\r\nX-API-Key: {KEY}\r\nTransfer-Encoding: chunked\r\n\r\n");
    let chunks = format!("{head}{:x}\r\n{}\r\n0\r\n\r\n", MOST + 1, large(MOST + 1));
    assert_eq!(run(format!("{chunks}{follows}").as_bytes(), &[200_000], 0).steps.len(), 2);
    // A client that asks first is told at once.
    let asks = format!(
        "POST /api/publish HTTP/1.1\r\nHost: x\r\nX-API-Key: {KEY}\r\nContent-Length: {}\r\nExpect: 100-continue\r\n\r\n",
        MOST + 1
    );
    assert_eq!(run(asks.as_bytes(), &[], 0).steps, [format!("{said} [key last]")]);
}

#[test]
fn a_client_that_waits_is_told_to_go_on() {
    let head = post("/api/publish", "Expect: 100-continue\r\n", BODY);
    let (head, body) = head.split_at(head.len() - BODY.len());
    assert_eq!(run(head.as_bytes(), &[], 0).steps, ["continue"]);
    let told = run([head, body].concat().as_bytes(), &[head.len(), head.len() + 3], 0);
    assert_eq!(told.steps, ["continue", PUBLISHED]);
    assert_eq!(run([head, body].concat().as_bytes(), &[], 0).steps, [PUBLISHED]);
    // Without a key it is told to go away, and whether the body follows is unknown then.
    let stranger = head.replace(KEY, "wrong");
    let said = "POST /api/publish: 401 a valid API key is needed: Authorization: Bearer KEY [last]";
    assert_eq!(run(stranger.replace("Host: x", "Host: a").as_bytes(), &[], 0).steps, [said]);
    let other = post("/api/publish", "Expect: 200-ok\r\n", BODY);
    assert_eq!(steps(&other), ["POST /api/publish: 417 the only Expect that is met is 100-continue [last]"]);
}

#[test]
fn types_of_bodies_are_checked() {
    let said = |path: &str, headers: &str| steps(&post(path, headers, BODY)).concat();
    for headers in ["", "Content-Type: Application/JSON ; charset=utf-8\r\n", "Content-Encoding: identity\r\n"] {
        assert_eq!(said("/api/publish", headers), PUBLISHED, "{headers:?}");
    }
    let compressed = "POST /api/publish: 415 the body must not be compressed [key]";
    assert_eq!(said("/api/publish", "Content-Encoding: gzip\r\n"), compressed);
    let form = "Content-Type: application/x-www-form-urlencoded\r\n";
    assert!(
        said("/api/publish", form)
            .starts_with("POST /api/publish: 415 the body must be JSON: Content-Type: application/json")
    );
    let lines = "Content-Type: application/x-ndjson\r\n";
    assert_eq!(said("/api/publish", lines), "POST /api/publish: many true [key]");
    let other = "415 the body must be JSON: Content-Type: application/json [key]";
    assert_eq!(said("/api/broadcast", lines), format!("POST /api/broadcast: {other}"));
    assert!(
        said("/api/publish", &format!("{lines}Idempotency-Key: k\r\n")).contains(": 400 an Idempotency-Key header")
    );
    let two = "Idempotency-Key: k\r\nIdempotency-Key: k\r\n";
    assert!(said("/api/publish", two).contains(": 400 the request has two Idempotency-Key headers"));
    assert!(
        said("/api/publish", "Idempotency-Key: \u{e9}\r\n").contains(": 400 the Idempotency-Key header must be ASCII")
    );
}

#[test]
fn pages_of_other_origins_may_be_let_in() {
    let ask = |line: &str, origin: &str, more: &str| {
        let head = format!("{line} HTTP/1.1\r\nHost: localhost\r\nOrigin: {origin}\r\n{more}\r\n");
        let (mut connection, rules) = (ApiConnection::default(), rules());
        let ApiStep::Request(request) = connection.next(&mut head.as_bytes(), &rules) else { panic!("{head}") };
        let answer = match request.call {
            ApiCall::Bare(bare) => ApiAnswer::Bare(bare),
            ApiCall::Refused(error) => ApiAnswer::Refused(error),
            _ => ApiAnswer::Health { connections: 0, shards: 1, is_draining: false },
        };
        let mut out = Vec::new();
        ApiWriter::default().write(&mut out, &request.reply, answer, 0);
        String::from_utf8(out).expect("a text")
    };
    let preflight = "Access-Control-Request-Method: POST\r\n";
    let shared = "\r\nAccess-Control-Allow-Origin: https://page.example\r\nVary: Origin\r\n";
    let told = ask("OPTIONS /api/publish", "https://page.example", preflight);
    assert!(told.starts_with("HTTP/1.1 204 ") && told.contains(shared), "{told}");
    assert!(
        told.contains("\r\nAccess-Control-Allow-Headers: Authorization, Content-Type, Idempotency-Key, X-API-Key\r\n")
    );
    assert!(ask("GET /health", "https://page.example", "").contains(shared));
    assert!(ask("GET /api/presence", "https://page.example", "").contains(shared), "errors too");
    for (line, more) in [("OPTIONS /api/publish", preflight), ("GET /health", "")] {
        assert!(!ask(line, "https://other.example", more).contains("Access-Control"));
    }
}

#[test]
fn a_request_that_does_not_come_whole_is_given_up() {
    let (mut connection, rules) = (ApiConnection::default(), rules());
    assert_eq!((connection.phase(), connection.held_bytes()), (ApiPhase::Idle, 0));
    let stream = post("/api/publish", "", BODY);
    let (first, rest) = stream.split_at(20);
    assert!(matches!(connection.next(&mut first.as_bytes(), &rules), ApiStep::More));
    assert_eq!(connection.phase(), ApiPhase::Head);
    assert!(connection.held_bytes() >= 20);
    let (second, _) = rest.split_at(rest.len() - 3);
    assert!(matches!(connection.next(&mut second.as_bytes(), &rules), ApiStep::More));
    assert_eq!(connection.phase(), ApiPhase::Body);
    let refused = connection.give_up(ApiError::body_late()).expect("a request has waited");
    let late = "408 the body did not arrive within limits.request_ms; the request was not done";
    assert_eq!(words(&refused), format!("POST /api/publish: {late} [key last]"));
    assert_eq!((connection.phase(), connection.held_bytes()), (ApiPhase::Over, 0));
    // What comes now is dropped.
    let mut input = stream.as_bytes();
    assert!(matches!(connection.next(&mut input, &rules), ApiStep::More) && input.is_empty());
    let mut idle = ApiConnection::default();
    assert!(idle.give_up(ApiError::draining()).is_none());
}

#[test]
fn a_server_that_ends_refuses_what_needs_a_key() {
    let mut rules = rules();
    rules.set_draining();
    let ask = |stream: &str| {
        let mut connection = ApiConnection::default();
        match connection.next(&mut stream.as_bytes(), &rules) {
            ApiStep::Request(request) => words(&request),
            step => panic!("{step:?}"),
        }
    };
    let refused = "POST /api/publish: 503 the server is shutting down; the request was not done [key last]";
    assert_eq!(ask(&post("/api/publish", "", BODY)), refused);
    assert!(ask(&post("/api/publish", "", BODY).replace(KEY, "x").replace("Host: x", "Host: a")).contains(": 401 "));
    assert_eq!(ask(&get("/health", "")), "GET /health: Health []");
    assert_eq!(ask(&get("/metrics", "")), "GET /metrics: Slow(Metrics) []");
}

#[test]
fn metrics_need_a_key_where_others_can_ask() {
    let rules = ApiRules::new(ApiSettings { metrics_need_key: true, checks_hosts: false, ..settings() });
    let ask = |headers: &str| {
        let head = get("/metrics", headers);
        match ApiConnection::default().next(&mut head.as_bytes(), &rules) {
            ApiStep::Request(request) => words(&request),
            step => panic!("{step:?}"),
        }
    };
    assert_eq!(ask(""), "GET /metrics: 401 a valid API key is needed: Authorization: Bearer KEY []");
    assert_eq!(ask(&format!("X-API-Key: {KEY}\r\n")), "GET /metrics: Slow(Metrics) []");
}

#[test]
fn a_stream_that_never_pauses_between_requests_is_not_kept() {
    let (mut connection, rules) = (ApiConnection::default(), rules());
    let stream = get("/health", "").repeat(1_000);
    let (mut requests, mut most) = (0, 0);
    // No piece ends with a request, so a part of a head is held each time.
    for piece in stream.as_bytes().chunks(997) {
        let mut input = piece;
        while let ApiStep::Request(_) = connection.next(&mut input, &rules) {
            requests += 1;
        }
        most = most.max(connection.held_bytes());
    }
    assert_eq!(requests, 1_000);
    assert!(most < 4_000, "{most} bytes are held");
}
