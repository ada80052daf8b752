//! The upgrade: what is taken, what is refused and with which status, over plain TCP.

use std::time::Instant;

use crate::support::{
    DEADLINE, Options, Raw, Response, SAMPLE_ACCEPT, SAMPLE_KEY, Server, frame, http, request, token,
};

async fn upgrade(server: &Server, request: &str) -> Response {
    let mut raw = Raw::connect(server).await;
    raw.write(request.as_bytes()).await;
    let response = raw.response().await;
    if response.status != 101 {
        // A refusal says why in a short text, and the connection ends.
        let body = raw.rest().await;
        let body = String::from_utf8(body).expect("text");
        assert!(!body.trim().is_empty() && body.len() < 1000, "{response:?} {body:?}");
        assert!(response.header("content-type").is_some_and(|kind| kind.starts_with("text/plain")), "{response:?}");
        if let Some(length) = response.header("content-length") {
            assert_eq!(length.parse(), Ok(body.len()));
        }
    }
    response
}

async fn status(server: &Server, changes: &[(&str, &str)]) -> u16 {
    upgrade(server, &request(server, "/ws", changes)).await.status
}

#[tokio::test]
async fn the_rfcs_example_key_gets_the_rfcs_answer() {
    let server = Options::new().start();
    let response = upgrade(&server, &request(&server, "/ws", &[])).await;
    assert_eq!(response.status, 101);
    assert_eq!(response.header("sec-websocket-accept"), Some(SAMPLE_ACCEPT));
    assert!(response.header("upgrade").is_some_and(|value| value.eq_ignore_ascii_case("websocket")));
    assert!(response.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("upgrade")));
    assert_eq!(response.header("sec-websocket-protocol"), None);
    assert_eq!(response.header("sec-websocket-extensions"), None);
}

#[tokio::test]
async fn names_and_tokens_come_in_any_case_and_in_lists() {
    let server = Options::new().start();
    for changes in [
        &[("Upgrade", "WebSocket")][..],
        &[("Connection", "keep-alive, Upgrade")],
        &[("Connection", "UPGRADE,keep-alive")],
        &[("Upgrade", "h2c, websocket")],
        &[("Sec-WebSocket-Extensions", "permessage-deflate; client_max_window_bits")],
        &[("User-Agent", "x"), ("Cookie", "a=b; c=d"), ("Pragma", "no-cache"), ("Accept-Encoding", "gzip, br")],
    ] {
        assert_eq!(status(&server, changes).await, 101, "{changes:?}");
    }
    let lower = request(&server, "/ws", &[]).replace("Sec-WebSocket-", "sec-websocket-").replace("Host", "host");
    assert_eq!(upgrade(&server, &lower.replace("Upgrade:", "upgrade:")).await.status, 101);
    let query = request(&server, "/ws?token=unused&x=%20", &[]);
    assert_eq!(upgrade(&server, &query).await.status, 101);
}

#[tokio::test]
async fn the_subprotocol_is_chosen_when_offered() {
    let server = Options::new().start();
    for (offered, chosen) in [
        ("uringcast.v1", Some("uringcast.v1")),
        ("chat, uringcast.v1", Some("uringcast.v1")),
        ("uringcast.v1,chat", Some("uringcast.v1")),
        ("chat", None),
        ("uringcast.v10", None),
    ] {
        let response = upgrade(&server, &request(&server, "/ws", &[("Sec-WebSocket-Protocol", offered)])).await;
        assert_eq!((response.status, response.header("sec-websocket-protocol")), (101, chosen), "{offered}");
    }
}

#[tokio::test]
async fn malformed_requests_are_400() {
    let server = Options::new().start();
    for changes in [
        &[("Sec-WebSocket-Key", "")][..],
        &[("Sec-WebSocket-Key", "not base64!")],
        &[("Sec-WebSocket-Key", "c2hvcnQ=")],
        &[("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZSBhbmQgbW9yZQ==")],
        &[("Host", "")],
    ] {
        assert_eq!(status(&server, changes).await, 400, "{changes:?}");
    }
    let good = request(&server, "/ws", &[]);
    for bad in [
        "nonsense\r\n\r\n".to_owned(),
        "GET\r\n\r\n".to_owned(),
        good.replace("Host:", "Host"),
        good.replace("Upgrade: websocket", "Upgrade : \0websocket"),
        good.replace("\r\n\r\n", &format!("\r\nHost: {}\r\n\r\n", server.addr)),
        good.replace("\r\n\r\n", &format!("\r\nSec-WebSocket-Key: {SAMPLE_KEY}\r\n\r\n")),
    ] {
        assert_eq!(upgrade(&server, &bad).await.status, 400, "{bad:?}");
    }
    let old = upgrade(&server, &good.replace("HTTP/1.1", "HTTP/1.0")).await.status;
    assert!(matches!(old, 400 | 426 | 505), "{old}");
}

#[tokio::test]
async fn a_request_without_upgrade_is_told_to_upgrade() {
    let server = Options::new().start();
    for changes in [&[("Upgrade", ""), ("Connection", "close")][..], &[("Upgrade", "h2c")], &[("Connection", "close")]]
    {
        let found = status(&server, changes).await;
        assert!(matches!(found, 400 | 426), "{found} {changes:?}");
    }
}

#[tokio::test]
async fn another_version_is_426_and_told_ours() {
    let server = Options::new().start();
    for version in ["8", "0", "14", "13x"] {
        let response = upgrade(&server, &request(&server, "/ws", &[("Sec-WebSocket-Version", version)])).await;
        assert_eq!((response.status, response.header("sec-websocket-version")), (426, Some("13")), "{version}");
    }
}

#[tokio::test]
async fn unknown_paths_are_404_and_other_methods_405() {
    let server = Options::new().start();
    // The echo endpoint is off unless it is asked for.
    for path in ["/nope", "/echo", "/ws/", "/WS", "/wsx"] {
        assert_eq!(upgrade(&server, &request(&server, path, &[])).await.status, 404, "{path}");
    }
    for method in ["POST", "PUT", "DELETE", "CONNECT"] {
        let response = upgrade(&server, &request(&server, "/ws", &[]).replacen("GET", method, 1)).await;
        assert_eq!(response.status, 405, "{method}");
        assert!(response.header("allow").is_some_and(|allow| allow.contains("GET")), "RFC 9110: {response:?}");
    }
}

/// Clients behind a plain HTTP proxy name the host in the target (RFC 9112 §3.2.2), and that one counts.
#[tokio::test]
async fn targets_in_absolute_form_are_taken() {
    let server = Options::new().start();
    for target in
        ["http://push.example/ws", "HTTP://push.example/ws", "https://push.example:80/ws?x=1", "wss://push.example/ws"]
    {
        assert_eq!(upgrade(&server, &request(&server, target, &[])).await.status, 101, "{target}");
    }
    let with_origin = async |target: &str, origin: &str| {
        upgrade(&server, &request(&server, target, &[("Origin", origin)])).await.status
    };
    assert_eq!(with_origin("http://push.example/ws", "http://push.example").await, 101);
    assert_eq!(with_origin("http://push.example/ws", &format!("http://{}", server.addr)).await, 403);
    for (target, status) in [("http://push.example", 404), ("http://push.example?a", 404), ("http:///ws", 400)] {
        assert_eq!(upgrade(&server, &request(&server, target, &[])).await.status, status, "{target}");
    }
}

/// HEAD is told what GET would be, and no more; OPTIONS is told what there is.
#[tokio::test]
async fn head_has_no_content_and_options_an_answer() {
    let server = Options::bare(&["--dev", "--listen", "127.0.0.1:0"]).start();
    let ask = async |method: &str, target: &str, headers: &str| {
        let mut raw = Raw::connect(&server).await;
        raw.write(format!("{method} {target} HTTP/1.1\r\nHost: {}\r\n{headers}\r\n", server.addr).as_bytes()).await;
        (raw.response().await, raw.rest().await)
    };
    let too_long = format!("X: {}\r\n", "x".repeat(9000));
    for (target, headers, status) in [
        ("/", "", 200),
        ("/uringcast.js", "", 200),
        ("/token?name=A", "", 200),
        ("/token", "", 400),
        ("/nope", "", 404),
        ("/ws", "", 426),
        ("/ws", "Host: twice\r\n", 400),
        ("/ws", too_long.as_str(), 413),
    ] {
        let (get, body) = ask("GET", target, headers).await;
        let (head, nothing) = ask("HEAD", target, headers).await;
        assert_eq!((get.status, head.status), (status, status), "{target}");
        assert!(!body.is_empty() && nothing.is_empty(), "{target}: {nothing:?}");
        let length = |response: &Response| response.header("content-length").map(str::to_owned);
        assert_eq!(length(&get), Some(body.len().to_string()), "{target}");
        if !target.starts_with("/token?") {
            assert_eq!(length(&head), length(&get), "{target}");
        }
    }
    for target in ["*", "/", "/ws", "/echo", "/token?name=A", "http://localhost/ws"] {
        let (response, body) = ask("OPTIONS", target, "").await;
        assert_eq!((response.status, response.header("allow")), (204, Some("GET, HEAD, OPTIONS")), "{target}");
        assert!(body.is_empty() && response.header("content-length").is_none(), "{target}");
    }
    assert_eq!(ask("OPTIONS", "/nope", "").await.0.status, 404);
    assert_eq!(ask("GET", "*", "").await.0.status, 400);
}

#[tokio::test]
async fn an_origin_must_be_this_host() {
    let server = Options::new().start();
    let own = format!("http://{}", server.addr);
    let port = server.addr.port();
    assert_eq!(status(&server, &[("Origin", &own)]).await, 101);
    for foreign in [
        "http://evil.example",
        "null",
        "http://127.0.0.1",
        "http://127.0.0.1:1",
        "file://",
        &format!("http://127.0.0.1:{port}.evil.example"),
        &format!("http://evil.example/{}", server.addr),
        &format!("http://{}@evil.example", server.addr),
    ] {
        assert_eq!(status(&server, &[("Origin", foreign)]).await, 403, "{foreign}");
    }
}

#[tokio::test]
async fn too_much_header_is_413() {
    let server = Options::new().start();
    let long = "x".repeat(9000);
    assert_eq!(status(&server, &[("X-Long", &long)]).await, 413);
    let many: String = (0..65).map(|n| format!("\r\nX-{n}: y")).collect();
    let bytes = request(&server, "/ws", &[]).replace("\r\n\r\n", &format!("{many}\r\n\r\n"));
    assert_eq!(upgrade(&server, &bytes).await.status, 413);
    // A line that never ends is refused too, without waiting for its end.
    let mut raw = Raw::connect(&server).await;
    raw.write(format!("GET /{}", "x".repeat(10_000)).as_bytes()).await;
    assert!(matches!(raw.response().await.status, 413 | 414));
    // Just under both limits is served.
    let some: String = (0..50).map(|n| format!("\r\nX-{n}: {}", "y".repeat(100))).collect();
    let bytes = request(&server, "/ws", &[]).replace("\r\n\r\n", &format!("{some}\r\n\r\n"));
    assert_eq!(upgrade(&server, &bytes).await.status, 101);
}

#[tokio::test]
async fn a_request_may_come_byte_by_byte() {
    let server = Options::new().start();
    let mut raw = Raw::connect(&server).await;
    for byte in request(&server, "/ws", &[]).bytes() {
        raw.write(&[byte]).await;
    }
    assert_eq!(raw.response().await.status, 101);
    assert_eq!(raw.json().await["type"], "system");
}

#[tokio::test]
async fn frames_that_come_with_the_request_are_kept() {
    let server = Options::new().shards(2).start();
    let auth = format!("{{\"type\":\"auth\",\"data\":{{\"token\":\"{}\"}}}}", token(1, "Alice"));
    let mut bytes = request(&server, "/ws", &[]).into_bytes();
    bytes.extend(frame(true, 1, auth.as_bytes()));
    bytes.extend(frame(true, 1, br#"{"type":"message","data":{"text":"early"}}"#));
    // At every split that matters: all at once, in the middle of the blank line, one byte into the first frame.
    let head = request(&server, "/ws", &[]).len();
    for split in [bytes.len(), head - 2, head, head + 1, head + 3, bytes.len() - 1] {
        let mut raw = Raw::connect(&server).await;
        raw.write(&bytes[..split]).await;
        raw.write(&bytes[split..]).await;
        assert_eq!(raw.response().await.status, 101);
        assert_eq!(raw.json().await["type"], "system");
        assert_eq!(raw.json().await["type"], "auth_success", "split at {split}");
        assert_eq!(raw.json().await["data"]["text"], "early");
        raw.write(&frame(true, 8, &[0x03, 0xe8])).await;
        while raw.frame().await.is_some() {}
    }
}

#[tokio::test]
async fn dev_mode_answers_only_to_names_of_this_machine() {
    let server = Options::bare(&["--dev", "--listen", "127.0.0.1:0"]).start();
    let port = server.addr.port();
    for host in ["localhost", "127.0.0.1"] {
        let host = format!("{host}:{port}");
        assert_eq!(status(&server, &[("Host", &host)]).await, 101, "{host}");
        let (page, body) = http(&server, &format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")).await;
        assert_eq!(page.status, 200);
        assert!(page.header("content-type").is_some_and(|kind| kind.starts_with("text/html")), "{page:?}");
        assert!(body.to_lowercase().contains("<!doctype html"), "{body}");
    }
    // A name that an attacker points at 127.0.0.1 makes its page "same origin": Host must give it away.
    for host in ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "0.0.0.0"] {
        let (host, origin) = (format!("{host}:{port}"), format!("http://{host}:{port}"));
        assert_eq!(status(&server, &[("Host", &host), ("Origin", &origin)]).await, 403, "{host}");
        let (page, _) = http(&server, &format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")).await;
        assert_eq!(page.status, 403, "{host}");
    }
}

#[tokio::test]
async fn over_capacity_is_503_with_a_time_to_come_back() {
    let server = Options::new().shards(2).env("URINGCAST_LIMITS__CONNECTIONS", "4").start();
    let mut held = Vec::new();
    let mut refused = None;
    for _ in 0..5 {
        let mut raw = Raw::connect(&server).await;
        raw.write(request(&server, "/ws", &[]).as_bytes()).await;
        let response = raw.response().await;
        match response.status {
            101 => held.push(raw),
            _ => refused = Some(response),
        }
    }
    let refused = refused.expect("the fifth is refused");
    assert_eq!((held.len(), refused.status), (4, 503));
    let wait = refused.header("retry-after").expect("Retry-After");
    assert!(wait.parse::<u32>().is_ok(), "{wait}");
    // A place that is given back is a place again.
    drop(held.pop());
    let start = Instant::now();
    while status(&server, &[]).await != 101 {
        assert!(start.elapsed() < DEADLINE, "the place never came back");
    }
}
