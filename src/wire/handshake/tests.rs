//! Requests that must upgrade, requests that must be refused, and how the answers read.
//! Unit tests: the property tests over the same code stand in tests/.

use super::*;

const CHROMIUM: &str = "GET /ws?token=a%20b&x=? HTTP/1.1\r\nHost: chat.example.com:2345\r\nConnection: Upgrade\r\n\
    Pragma: no-cache\r\nCache-Control: no-cache\r\nUser-Agent: Mozilla/5.0\r\nUpgrade: websocket\r\n\
    Origin: http://chat.example.com:2345\r\nSec-WebSocket-Version: 13\r\n\
    Accept-Encoding: gzip, deflate, br\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
    Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\
    Sec-WebSocket-Protocol: chat, uringcast.v1\r\n\r\n";

fn policy() -> Policy {
    Policy { subprotocols: &["uringcast.v1"], ..Policy::default() }
}

fn parse(head: &str) -> Result<UpgradeRequest<'_>, HttpRefusal> {
    let (request, consumed) =
        UpgradeRequest::parse(head.as_bytes(), &HeadLimits::default())?.expect("the head is complete");
    assert_eq!(consumed, head.len());
    Ok(request)
}

fn request_with(lines: &str) -> String {
    format!("GET /ws HTTP/1.1\r\nHost: localhost:2345\r\n{lines}\r\n")
}

const KEY: &str = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
const UPGRADE: &str = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n";

fn outcome(head: &str, policy: &Policy) -> u16 {
    match parse(head).and_then(|request| upgrade(&request, policy)) {
        Ok(_) => 101,
        Err(refusal) => refusal.status,
    }
}

#[test]
fn accept_key_of_the_rfc() {
    assert_eq!(accept_key("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
}

#[test]
fn a_browser_upgrades() {
    let request = parse(CHROMIUM).unwrap();
    assert_eq!((request.method(), request.path(), request.query()), ("GET", "/ws", Some("token=a%20b&x=?")));
    assert_eq!(request.host(), "chat.example.com:2345");
    assert_eq!(request.origin(), Some("http://chat.example.com:2345"));
    assert_eq!(request.header("PRAGMA"), Some("no-cache"));
    assert_eq!(request.header("nothing"), None);
    assert_eq!(request.extensions().collect::<Vec<_>>(), [b"permessage-deflate; client_max_window_bits"]);
    let mut out = Vec::new();
    let upgrade = upgrade(&request, &policy()).unwrap();
    assert_eq!(upgrade.subprotocol(), Some("uringcast.v1"));
    upgrade.write_response(&mut out);
    assert_eq!(
        String::from_utf8(out).unwrap(),
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Protocol: uringcast.v1\r\n\r\n"
    );
}

/// The answer to an upgrade with these extension headers.
fn extensions(lines: &str, compression: Mode) -> Result<Option<String>, HttpRefusal> {
    let head = request_with(&format!("{UPGRADE}{KEY}{lines}"));
    let upgrade = upgrade(&parse(&head)?, &Policy { compression, ..policy() })?;
    let mut out = Vec::new();
    upgrade.write_response(&mut out);
    let text = String::from_utf8(out).unwrap();
    let found = text.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Extensions: ").map(str::to_owned));
    assert_eq!(found.is_some(), upgrade.deflate().is_some());
    Ok(found)
}

#[test]
fn compression_is_answered_as_the_policy_says() {
    let offer = "Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=10\r\n";
    let bad = "sec-websocket-extensions: permessage-deflate; mystery\r\n";
    let answer = "permessage-deflate; client_no_context_takeover; server_max_window_bits=10";
    assert_eq!(extensions(offer, Mode::On), Ok(Some(answer.to_owned())));
    assert_eq!(extensions(offer, Mode::Forced), Ok(Some(answer.to_owned())));
    assert_eq!(extensions(&format!("{bad}{offer}"), Mode::On), Ok(Some(answer.to_owned())));
    assert_eq!(extensions(offer, Mode::Off), Ok(None));
    for declined in ["", bad, "Sec-WebSocket-Extensions:\r\n"] {
        assert_eq!(extensions(declined, Mode::Off), Ok(None));
        assert_eq!(extensions(declined, Mode::On), Ok(None));
        let refusal = extensions(declined, Mode::Forced).unwrap_err();
        assert_eq!(refusal.status, 400);
        assert!(refusal.text.contains("permessage-deflate"));
    }
    // RFC 6455 §9.1 has no mode in which that passes.
    for mode in [Mode::Off, Mode::On, Mode::Forced] {
        let refusal = extensions("Sec-WebSocket-Extensions: permessage-deflate; =\r\n", mode).unwrap_err();
        assert_eq!((refusal.status, refusal.text), (400, "malformed Sec-WebSocket-Extensions header"));
    }
}

#[test]
fn every_prefix_asks_for_more_and_what_follows_stays() {
    for end in 0..CHROMIUM.len() {
        let prefix = UpgradeRequest::parse(&CHROMIUM.as_bytes()[..end], &HeadLimits::default());
        assert!(matches!(prefix, Ok(None)), "cut at {end}");
    }
    let with_frames = [CHROMIUM.as_bytes(), &[0x81, 0x80, 1, 2, 3, 4]].concat();
    let (_, consumed) = UpgradeRequest::parse(&with_frames, &HeadLimits::default()).unwrap().unwrap();
    assert_eq!(consumed, CHROMIUM.len());
}

#[test]
fn clients_in_use_pass() {
    let firefox = "Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n";
    let undici = "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n";
    let curl = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: WebSocket\r\nSec-WebSocket-Version: 13\r\n";
    let lines = "Connection: keep-alive\r\nConnection: UPGRADE\r\nUpgrade: h2c\r\nUpgrade:  websocket \r\n\
                 Sec-WebSocket-Version: 13\r\nContent-Length: 0\r\n";
    for lines in [firefox, undici, curl, lines] {
        assert_eq!(outcome(&request_with(&format!("{lines}{KEY}")), &policy()), 101, "{lines}");
    }
    // The last character of this key has bits that no byte uses.
    let key = "Sec-WebSocket-Key: 1234567890123456789019==\r\n";
    assert_eq!(outcome(&request_with(&format!("{UPGRADE}{key}")), &policy()), 101);
}

#[test]
fn requests_that_do_not_parse() {
    let status =
        |head: &str| UpgradeRequest::parse(head.as_bytes(), &HeadLimits::default()).err().map(|refusal| refusal.status);
    for head in [
        "\x16\x03\x01\x02",
        "GET /ws HTTP/0.9\r\n",
        "GET /ws HTTP/1.0\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "GET /ws HTTP/1.1\r\n\r\n",
        "GET /ws HTTP/1.1\r\nHost:\r\n\r\n",
        "GET /ws HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
        "GET /ws HTTP/1.1\r\nHost: a b\r\n\r\n",
        "GET /ws HTTP/1.1\r\nHost: user@a\r\n\r\n",
        "GET /ws HTTP/1.1\r\nHost: a:b\r\n\r\n",
        "GET /ws HTTP/1.1\r\nHost: [::1\r\n\r\n",
        "GET /ws HTTP/1.1\r\nHost: [::1]x\r\n\r\n",
        "GET http:///ws HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET http://u:p@a/ws HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET http://a:b/ws HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET http://a/ws#x HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET http://a/ws HTTP/1.1\r\n\r\n",
        "GET http://a/ws HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
        "GET http://a/ws HTTP/1.1\r\nHost: a b\r\n\r\n",
        "GET ftp://a/ws HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET http:/ws HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET a:80 HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET ws HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET * HTTP/1.1\r\nHost: a\r\n\r\n",
        "OPTIONS ** HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /ws#x HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /ws HTTP/1.1\r\nHost : a\r\n\r\n",
        "GET /ws HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n",
        "GET /ws HTTP/1.1\r\nHost: a\r\nOrigin: http://a\r\nOrigin: http://b\r\n\r\n",
        "GET /ws HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx",
        "GET /ws HTTP/1.1\r\nHost: a\r\nContent-Length: +0\r\n\r\n",
        "GET /ws HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n",
        "GET /ws HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nContent-Length: 0\r\n\r\n",
        "POST /ws HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n",
        "GET /ws HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ] {
        assert_eq!(status(head), Some(400), "{head:?}");
    }
    let post = parse("POST /token HTTP/1.1\r\nHost: a\r\nContent-Length: 12\r\n\r\n").unwrap();
    assert_eq!(post.content_length(), 12);
}

#[test]
fn a_target_in_absolute_form_names_the_host() {
    for (target, host, path, query) in [
        ("http://push.example/ws", "push.example", "/ws", None),
        ("HTTP://push.example:80/ws?x=1", "push.example:80", "/ws", Some("x=1")),
        ("https://[::1]:2345/a/b?", "[::1]:2345", "/a/b", Some("")),
        ("wss://push.example", "push.example", "/", None),
        ("http://push.example?x=http://y/z", "push.example", "/", Some("x=http://y/z")),
        ("/go?to=http://y/z", "other.example", "/go", Some("to=http://y/z")),
    ] {
        let head = format!("GET {target} HTTP/1.1\r\nHost: other.example\r\n\r\n");
        let request = parse(&head).unwrap();
        assert_eq!((request.host(), request.path(), request.query()), (host, path, query), "{target}");
    }
    let whole = parse("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    assert_eq!((whole.method(), whole.path()), ("OPTIONS", "*"));
    assert_eq!(parse("CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n").unwrap_err().status, 405);
    // It is the one that the Origin has to be, and in development mode this machine's.
    let upgrading = |target: &str, host: &str, origin: &str| {
        format!("GET {target} HTTP/1.1\r\nHost: {host}\r\nOrigin: {origin}\r\n{UPGRADE}{KEY}\r\n")
    };
    assert_eq!(outcome(&upgrading("http://a/ws", "b", "http://a"), &policy()), 101);
    assert_eq!(outcome(&upgrading("http://a/ws", "b", "http://b"), &policy()), 403);
    let dev = Policy { dev_hosts: true, ..policy() };
    assert_eq!(outcome(&upgrading("http://localhost/ws", "localhost", "http://localhost"), &dev), 101);
    assert_eq!(outcome(&upgrading("http://evil.example/ws", "localhost", "http://evil.example"), &dev), 403);
}

#[test]
fn the_head_is_bounded() {
    let limits = HeadLimits { head_bytes: 200, headers: 4 };
    let status =
        |head: &str| UpgradeRequest::parse(head.as_bytes(), &limits).map_err(|refusal| refusal.status).map(|_| ());
    let head = |padding: usize| format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(padding));
    let exact = 200 - head(0).len();
    assert_eq!(status(&head(exact)), Ok(()));
    assert_eq!(status(&head(exact + 1)), Err(413));
    // One that is not over yet is refused when its end can't come in time.
    assert_eq!(status(&head(300)[..199]), Ok(()));
    assert_eq!(status(&head(300)[..200]), Err(413));
    let many = |n| format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(n));
    assert_eq!(status(&many(3)), Ok(()));
    assert_eq!(status(&many(4)), Err(413));
    // The limit is on the head, not on what was received with it.
    assert_eq!(status(&format!("{}{}", head(0), "x".repeat(1000))), Ok(()));
}

#[test]
fn upgrades_that_are_refused() {
    let cases = [
        (400, "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n", KEY),
        (400, "Upgrade: websocket\r\nConnection: keep-alive\r\nSec-WebSocket-Version: 13\r\n", KEY),
        (426, "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n", KEY),
        (426, "Upgrade: h2c\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n", KEY),
        (426, "Upgrade: websockets\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n", KEY),
        (426, "Upgrade: websocket\r\nConnection: Upgrade\r\n", KEY),
        (426, "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 8\r\n", KEY),
        (426, "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 013\r\n", KEY),
        (400, UPGRADE, ""),
        (400, UPGRADE, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25j\r\n"),
        (400, UPGRADE, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZSEh\r\n"),
        (400, UPGRADE, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=!\r\n"),
        (400, UPGRADE, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Key: a\r\n"),
        (403, UPGRADE, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nOrigin: http://evil.com\r\n"),
    ];
    for (status, lines, key) in cases {
        assert_eq!(outcome(&request_with(&format!("{lines}{key}")), &policy()), status, "{lines}{key}");
    }
    let with = |method: &str| outcome(&request_with(&format!("{UPGRADE}{KEY}")).replace("GET", method), &policy());
    assert_eq!((with("POST"), with("HEAD")), (405, 426));
}

#[test]
fn development_serves_this_machine_only() {
    for (host, loopback) in [
        ("localhost", true),
        ("LocalHost:2345", true),
        ("127.0.0.1:2345", true),
        ("127.1.2.3", true),
        ("[::1]:80", true),
        ("[::1]", true),
        ("evil.com:2345", false),
        ("localhost.evil.com", false),
        ("127.0.0.1.evil.com", false),
        ("127.0.0", false),
        ("127.0.0.256", false),
        ("127.0.0.1.1", false),
        ("128.0.0.1", false),
        ("[::2]", false),
        ("0.0.0.0", false),
    ] {
        let head = format!("GET /ws HTTP/1.1\r\nHost: {host}\r\n{UPGRADE}{KEY}\r\n");
        let dev = Policy { dev_hosts: true, ..policy() };
        assert_eq!(outcome(&head, &dev), if loopback { 101 } else { 403 }, "{host}");
        assert_eq!(outcome(&head, &policy()), 101, "{host}");
    }
}

#[test]
fn subprotocols() {
    let chosen = |lines: &str| {
        let head = request_with(&format!("{UPGRADE}{KEY}{lines}"));
        upgrade(&parse(&head).unwrap(), &policy()).unwrap().subprotocol()
    };
    assert_eq!(chosen(""), None);
    assert_eq!(chosen("Sec-WebSocket-Protocol: chat\r\n"), None);
    assert_eq!(chosen("Sec-WebSocket-Protocol: uringcast.v11\r\n"), None);
    assert_eq!(chosen("Sec-WebSocket-Protocol: chat,uringcast.v1\r\n"), Some("uringcast.v1"));
    let lines = "Sec-WebSocket-Protocol: chat\r\nsec-websocket-protocol: uringcast.v1, x\r\n";
    assert_eq!(chosen(lines), Some("uringcast.v1"));
}

#[test]
fn every_refusal_is_a_whole_response() {
    let header_of = |response: &str, name: &str| {
        let (_, rest) = response.split_once(&format!("\r\n{name}: "))?;
        rest.split_once("\r\n").map(|(value, _)| value.to_string())
    };
    for (refusal, own) in [
        (HttpRefusal::bad_request("why"), None),
        (HttpRefusal::forbidden("why"), None),
        (HttpRefusal::not_found(), None),
        (HttpRefusal::method_not_allowed(), Some(("Allow", "GET, HEAD, OPTIONS"))),
        (HttpRefusal::head_too_large(), None),
        (HttpRefusal::upgrade_required("why"), Some(("Sec-WebSocket-Version", "13"))),
        (HttpRefusal::upgrade_required("why"), Some(("Upgrade", "websocket"))),
        (HttpRefusal::too_many_requests(7), Some(("Retry-After", "7"))),
        (HttpRefusal::unavailable("draining", 30), Some(("Retry-After", "30"))),
    ] {
        let mut out = Vec::new();
        refusal.write("GET", &mut out);
        let response = String::from_utf8(out).unwrap();
        let mut without_content = Vec::new();
        refusal.write("HEAD", &mut without_content);
        assert_eq!(response.strip_suffix(&format!("{}\n", refusal.text)).unwrap().as_bytes(), without_content);
        let (head, body) = response.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with(&format!("HTTP/1.1 {} ", refusal.status)), "{head}");
        assert_eq!(header_of(&response, "Content-Length"), Some(body.len().to_string()));
        assert!(header_of(&response, "Connection").is_some_and(|value| value.starts_with("close")));
        assert_eq!(header_of(&response, "Retry-After").is_some(), refusal.retry_after_s.is_some());
        if let Some((name, value)) = own {
            assert_eq!(header_of(&response, name).as_deref(), Some(value), "{head}");
        }
        assert_eq!(body.trim_end(), refusal.text);
    }
}
