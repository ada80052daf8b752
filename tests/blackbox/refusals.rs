//! What an operator reads at `info` about each refusal, and what is counted: a line with the reason, the client's address,
//! the user where one is known, and never a token. A flood of refusals must not flood the log.

use serde_json::{Value, json};

use crate::api::Backend;
use crate::metrics::{self, Metrics};
use crate::support::{
    Client, Event, Options, Raw, SAMPLE_KEY, Server, frame, http, now_s, request, sign, sign_with, token, until,
};

/// The first line of the log that tells a refusal for this reason.
async fn line(server: &Server, reason: &str) -> String {
    let wanted = format!("reason=\"{reason}\"");
    until(reason, async || server.log().lines().find(|line| line.contains(&wanted)).map(str::to_owned)).await
}

fn assert_has(line: &str, parts: &[&str]) {
    for part in parts {
        assert!(line.contains(part), "no {part:?} in {line}");
    }
}

async fn refused(server: &Server, token: &str) -> String {
    let mut client = Client::open(server).await;
    let answer = client.auth(token).await;
    assert_eq!(answer["type"], "auth_failed", "{answer}");
    client.closed(4401).await
}

/// Each way in which a token can be bad: its reason, what the line says besides, the token.
fn bad_tokens() -> Vec<(&'static str, Vec<&'static str>, String)> {
    let with = |changes: Value| {
        let mut claims = json!({"sub": "ann", "name": "Ann", "exp": now_s() + 600});
        changes.as_object().unwrap().iter().for_each(|(name, value)| claims[name] = value.clone());
        claims
    };
    vec![
        ("malformed", vec!["auth: not a token", "(11 bytes)"], "no token at".to_owned()),
        ("no_key", vec![r#"alg \"RS256\", kid \"2026-a\""#], header(r#"{"alg":"RS256","kid":"2026-a"}"#)),
        (
            "signature",
            vec!["wrong signature", r#"alg \"HS256\""#],
            sign_with("another secret, long enough", &with(json!({}))),
        ),
        ("expired", vec!["expired 100", "s ago", r#"user \"ann\""#], sign(&with(json!({"exp": now_s() - 1000})))),
        ("not_yet", vec!["not valid for another", r#"user \"ann\""#], sign(&with(json!({"nbf": now_s() + 500})))),
        ("claim", vec!["claim exp is missing", r#"user \"ann\""#], sign(&with(json!({"exp": null})))),
    ]
}

/// A token with this header, and a signature that is none.
fn header(header: &str) -> String {
    use base64::Engine as _;
    let engine = base64::engine::general_purpose::URL_SAFE_NO_PAD;
    format!("{}.{}.{}", engine.encode(header), engine.encode("{}"), engine.encode("none"))
}

#[tokio::test]
async fn why_a_token_is_refused_is_told_to_the_operator_and_counted() {
    let server = metrics::options().start();
    let metrics = Metrics::of(&server).await;
    for (reason, parts, token) in bad_tokens() {
        let why = refused(&server, &token).await;
        assert_eq!(why, "unauthorized", "outside dev mode a client is not told");
        let line = line(&server, &format!("token_{reason}")).await;
        assert_has(&line, &["INFO", "refused", "client=127.0.0.1", "conn="]);
        assert_has(&line, &parts);
        assert_eq!(metrics.get(&format!("uringcast_tokens_refused_total{{reason=\"{reason}\"}}")).await, 1);
        assert!(!server.log().contains(&token), "a token is in the log");
    }
}

#[tokio::test]
async fn in_dev_mode_the_close_reason_says_it_too() {
    let server = Options::bare(&["--dev", "--listen", "127.0.0.1:0"]).start();
    assert_has(&refused(&server, "no token at").await, &["token refused: not a token that can be read"]);
    let long = format!(r#"{{"alg":"RS256","kid":"{}"}}"#, "ж".repeat(500));
    let why = refused(&server, &header(&long)).await;
    assert_has(&why, &["no key for its algorithm and kid, alg \"RS256\""]);
}

#[tokio::test]
async fn a_token_of_another_user_or_channel_is_told_with_the_user() {
    let server = metrics::options().env("URINGCAST_NAMESPACES__PRIV__SUBSCRIBE", "token").start();
    let (mut client, _) = Client::join(&server, "eve", "Eve").await;
    client.send(&json!({"type": "refresh", "data": {"token": token("ann", "Ann")}})).await;
    client.refused(403).await;
    assert_has(
        &line(&server, "token_other_user").await,
        &["refresh: another user's token", r#"user="\"eve\"""#, "ann"],
    );
    let of_channel = |channel: &str| sign(&json!({"sub": "eve", "channel": channel, "exp": now_s() + 600}));
    client.send(&json!({"type": "subscribe", "data": {"channel": "priv:a", "token": of_channel("priv:b")}})).await;
    assert_eq!(client.next().await["code"], 403);
    assert_has(&line(&server, "token_other_channel").await, &[r#"subscribe \"priv:a\""#, "priv:b"]);
    assert_has(&line(&server, "channel_forbidden").await, &[r#"channel \"priv:a\""#]);
}

#[tokio::test]
async fn why_a_request_to_connect_is_refused_is_told_and_counted() {
    let server = metrics::options().start();
    let metrics = Metrics::of(&server).await;
    let upgrade = |path: &str, changes: &[(&str, &str)]| request(&server, path, changes);
    for (reason, status, parts, request) in [
        (
            "forbidden",
            403,
            vec!["origin not allowed", r#"Origin \"https://evil.example\""#],
            upgrade("/ws", &[("Origin", "https://evil.example")]),
        ),
        ("not_found", 404, vec![r#"\"GET\" \"/wss\""#], upgrade("/wss", &[])),
        ("upgrade_required", 426, vec!["version 13"], upgrade("/ws", &[("Sec-WebSocket-Version", "8")])),
        ("bad_request", 400, vec!["Sec-WebSocket-Key"], upgrade("/ws", &[("Sec-WebSocket-Key", &SAMPLE_KEY[1..])])),
        ("header", 413, vec!["413 request header too large"], upgrade("/ws", &[("Cookie", &"c".repeat(10_000))])),
    ] {
        assert_eq!(http(&server, &request).await.0.status, status);
        let line = line(&server, reason).await;
        assert_has(&line, &["refused", "client=127.0.0.1"]);
        assert_has(&line, &parts);
        assert_eq!(metrics.get(&format!("uringcast_requests_refused_total{{status=\"{status}\"}}")).await, 1);
    }
}

#[tokio::test]
async fn closes_by_the_server_are_told_with_the_user() {
    let server = metrics::options()
        .env("URINGCAST_AUTH__DEADLINE_MS", 200)
        .env("URINGCAST_LIMITS__MESSAGE_BYTES", 1000)
        .env("URINGCAST_LIMITS__MESSAGES_BURST", 5)
        .env("URINGCAST_LIMITS__MESSAGES_PER_S", 1)
        .start();
    let mut silent = Client::open(&server).await;
    silent.closed(4408).await;
    assert_has(&line(&server, "auth_deadline").await, &["4408", "client=127.0.0.1"]);
    for (reason, code, bytes) in [
        ("protocol_error", 1002, frame(true, 3, b"")),
        ("binary_message", 1003, frame(true, 2, b"x")),
        ("invalid_data", 1007, frame(true, 1, b"\xff")),
        ("message_bytes", 1009, frame(true, 1, &[b'x'; 2000])),
    ] {
        let mut raw = Raw::upgraded(&server, "/ws").await;
        raw.frame().await.expect("the welcome");
        raw.write(&bytes).await;
        raw.closed(code).await;
        assert_has(&line(&server, reason).await, &[&format!("({code})")]);
    }
    let (mut eager, _) = Client::join(&server, "eve", "Eve").await;
    let messages: Vec<Value> = (0..30).map(|_| json!({"type": "heartbeat"})).collect();
    eager.pipeline(&messages).await;
    while !matches!(eager.event().await, Event::Close(4429, _)) {}
    assert_has(&line(&server, "messages").await, &[r#"user="\"eve\"""#, "429"]);
    assert_has(&line(&server, "rate_limited").await, &[r#"user="\"eve\"""#, "4429"]);
    let (mut old, _) = Client::join(&server, 1, "One").await;
    let (_new, _) = Client::join(&server, 1, "One").await;
    old.find("kicked").await;
    assert_has(&line(&server, "signed_in_elsewhere").await, &[r#"user="\"1\"""#, "4409"]);
}

#[tokio::test]
async fn refusals_of_the_api_are_told_and_counted() {
    let server = crate::api::options().start();
    let backend = Backend::of(&server).await;
    backend
        .with("Authorization: Bearer wrong-and-long-enough\r\n")
        .send("POST", "/api/publish", b"{}")
        .await
        .refused(401);
    assert_has(&line(&server, "api_unauthorized").await, &["client=127.0.0.1", r#"\"POST\" \"/api/publish\": 401"#]);
    backend.send("POST", "/api/publish", b"{}").await.refused(400);
    assert_has(&line(&server, "api_refused").await, &["400", "channel is missing"]);
    assert!(!server.log().contains("wrong-and-long-enough"));
    let metrics = Metrics::of(&server).await;
    assert_eq!(metrics.get("uringcast_api_refused_total{status=\"401\"}").await, 1);
}

#[tokio::test]
async fn a_flood_of_refusals_has_few_lines_and_says_how_many_it_left_out() {
    let server = metrics::options().env("URINGCAST_LIMITS__NEW_CONNECTIONS_PER_IP_BURST", 10_000).start();
    for _ in 0..300 {
        assert_eq!(http(&server, &request(&server, "/nowhere", &[])).await.0.status, 404);
    }
    assert_eq!(Metrics::of(&server).await.get("uringcast_requests_refused_total{status=\"404\"}").await, 300);
    server.signal("TERM");
    let left_out = until("the count", async || {
        let log = server.log();
        let line = log.lines().find(|line| line.contains("further refusals were only counted"))?;
        line.split("left_out=").nth(1)?.split_whitespace().next()?.parse::<usize>().ok()
    });
    let left_out = left_out.await;
    let told = server.log().lines().filter(|line| line.contains(" refused reason=\"not_found\"")).count();
    assert_eq!(told + left_out, 300, "{}", server.log());
    assert!(told <= 3, "{told} lines");
}
