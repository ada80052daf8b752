//! The connections of the HTTP API (docs/api.md, "Bounds"): health and metrics are answered whatever publishers do, one
//! backend leaves room for another, a request names its host, and the end of a connection or of the server cuts no
//! answer.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::api::{Backend, KEY, options};
use crate::metrics::Metrics;
use crate::support::{Client, DEADLINE, Options, Server, until};

/// As many as may stay that have brought a key, and the places left for those that have not, with [`PLACES`] on one shard.
const KNOWN: usize = 32;
const STRANGERS: usize = 8;
const PLACES: usize = KNOWN + STRANGERS;

/// A server whose API has few places.
fn few_places() -> Options {
    options().shards(1).env("URINGCAST_LIMITS__API_CONNECTIONS", PLACES)
}

async fn connect_from(from: &str, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(format!("{from}:0").parse().unwrap()).unwrap();
    timeout(DEADLINE, socket.connect(to)).await.expect("a connection in time").unwrap()
}

pub fn publish(backend: &Backend) -> Vec<u8> {
    request(backend, "POST", "/api/publish", r#"{"channel":"news","data":1}"#)
}

pub fn request(backend: &Backend, method: &str, path: &str, body: &str) -> Vec<u8> {
    let Backend { addr, headers } = backend;
    format!("{method} {path} HTTP/1.1\r\nHost: {addr}\r\nContent-Length: {}\r\n{headers}\r\n{body}", body.len())
        .into_bytes()
}

/// Reads one answer with a body of JSON; its status.
async fn status(tcp: &mut TcpStream) -> u16 {
    let mut bytes = Vec::new();
    let reading = async {
        loop {
            let text = String::from_utf8_lossy(&bytes).into_owned();
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let length = head.to_lowercase();
                let length = length.split_once("content-length: ").expect("a length").1;
                let length: usize = length.split("\r\n").next().unwrap().parse().unwrap();
                if body.len() >= length {
                    assert_eq!(body.len(), length, "one answer to one request");
                    return head.split(' ').nth(1).unwrap().parse().unwrap();
                }
            }
            let mut buffer = [0; 4096];
            let count = tcp.read(&mut buffer).await.unwrap();
            assert!(count > 0, "cut in the middle of {text:?}");
            bytes.extend_from_slice(&buffer[..count]);
        }
    };
    timeout(2 * DEADLINE, reading).await.expect("an answer in time")
}

/// Sends bytes, maybe ends its own direction, and reads all there is.
async fn exchange(addr: SocketAddr, bytes: &[u8], half_close: bool) -> String {
    let mut tcp = TcpStream::connect(addr).await.unwrap();
    tcp.write_all(bytes).await.unwrap();
    if half_close {
        tcp.shutdown().await.unwrap();
    }
    let mut text = String::new();
    timeout(DEADLINE, tcp.read_to_string(&mut text)).await.expect("in time").unwrap();
    text
}

async fn is_healthy(backend: &Backend) {
    assert_eq!(backend.with("").send("GET", "/health", b"").await.status, 200);
    assert_eq!(backend.with("").send("GET", "/metrics", b"").await.status, 200);
}

async fn ended(tcp: &mut TcpStream) -> bool {
    let mut rest = Vec::new();
    matches!(timeout(DEADLINE, tcp.read_to_end(&mut rest)).await.expect("an end in time"), Ok(0) | Err(_))
}

#[tokio::test]
async fn a_pool_of_publishers_in_use_leaves_health_its_places() {
    let server = few_places().start();
    let backend = Backend::of(&server).await;
    // All of them before the first request: they may take each other's places, and nobody's else.
    let mut pool = Vec::new();
    for _ in 0..KNOWN {
        pool.push(TcpStream::connect(backend.addr).await.unwrap());
    }
    for _ in 0..2 {
        for tcp in &mut pool {
            tcp.write_all(&publish(&backend)).await.unwrap();
            assert_eq!(status(tcp).await, 200);
        }
        is_healthy(&backend).await;
    }
    // One more backend: the connection that was idle for the longest gives way, and only that one.
    let mut one_more = TcpStream::connect(backend.addr).await.unwrap();
    one_more.write_all(&publish(&backend)).await.unwrap();
    assert_eq!(status(&mut one_more).await, 200);
    assert!(ended(&mut pool[0]).await);
    for tcp in &mut pool[1..] {
        tcp.write_all(&publish(&backend)).await.unwrap();
        assert_eq!(status(tcp).await, 200);
    }
    let metrics = Metrics::of(&server).await;
    assert_eq!(metrics.get("uringcast_api_bounds_reached_total{bound=\"connection_idle\"}").await, 1);
    metrics.reach("uringcast_api_connections", |count| count > KNOWN as u64).await;
    assert!(server.log().contains("reason=\"api_connection_idle\""), "{}", server.log());
}

/// Bare connects, slow heads, slow bodies and answers that nobody reads: whoever asks gets an answer at once.
#[tokio::test]
async fn connections_that_do_nothing_hold_up_nobody() {
    let server = few_places().env("URINGCAST_LIMITS__HANDSHAKE_MS", 120_000).start();
    let backend = Backend::of(&server).await;
    let mut publisher = TcpStream::connect(backend.addr).await.unwrap();
    publisher.write_all(&publish(&backend)).await.unwrap();
    assert_eq!(status(&mut publisher).await, 200);
    let slow_body = format!("POST /api/publish HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n{}\r\n{{", backend.headers);
    let many = "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(50);
    for start in ["", "GET /health HTTP/1.1\r\nHost:", &many, &slow_body] {
        let mut idle = Vec::new();
        for _ in 0..KNOWN + STRANGERS + 10 {
            let mut tcp = TcpStream::connect(backend.addr).await.unwrap();
            // It may have to give way already.
            let _ = tcp.write_all(start.as_bytes()).await;
            idle.push(tcp);
        }
        is_healthy(&backend).await;
        let body = json!({"channel": "a", "data": 1});
        let answer = timeout(Duration::from_secs(5), backend.post("/api/publish", &body)).await;
        answer.expect("at once: nobody's deadline has passed").ok();
        is_healthy(&backend).await;
        if start != slow_body {
            publisher.write_all(&publish(&backend)).await.unwrap();
            assert_eq!(status(&mut publisher).await, 200, "strangers take no place of who has a key");
        }
    }
    let metrics = Metrics::of(&server).await;
    assert!(metrics.get("uringcast_api_bounds_reached_total{bound=\"connection_without_key\"}").await > 0);
}

/// Requests that may be unanswered, and those that one address may have of them.
const REQUESTS: usize = 64;
const SHARE: usize = 48;

#[tokio::test]
async fn one_backend_leaves_another_its_share() {
    let server = options()
        .shards(1)
        .env("URINGCAST_LIMITS__API_REQUESTS", REQUESTS)
        .env("URINGCAST_NAMESPACES__CHAT__BATCH_WINDOW_MS", 60_000)
        .env("URINGCAST_LIMITS__REQUEST_MS", 60_000)
        .start();
    let backend = Backend::of(&server).await;
    let slow = request(&backend, "POST", "/api/publish", r#"{"channel":"chat:slow","data":1}"#);
    let mut greedy = JoinSet::new();
    for _ in 0..REQUESTS {
        let mut tcp = connect_from("127.0.0.2", backend.addr).await;
        tcp.write_all(&slow).await.unwrap();
        greedy.spawn(async move { (status(&mut tcp).await, tcp) });
    }
    // Those over its share are refused at once; the others wait for the window's end, which the server's end is.
    let mut kept = Vec::new();
    for _ in 0..REQUESTS - SHARE {
        let (status, tcp) = greedy.join_next().await.unwrap().unwrap();
        assert_eq!(status, 503);
        kept.push(tcp);
    }
    backend.post("/api/publish", &json!({"channel": "news", "data": 1})).await.ok();
    let metrics = Metrics::of(&server).await;
    let refused = metrics.get("uringcast_api_bounds_reached_total{bound=\"requests\"}").await;
    assert_eq!(refused, (REQUESTS - SHARE) as u64);
    server.signal("TERM");
    while let Some(answer) = greedy.join_next().await {
        assert_eq!(answer.unwrap().0, 200);
    }
}

#[tokio::test]
async fn who_has_said_all_is_still_answered() {
    let server = options().env("URINGCAST_NAMESPACES__CHAT__BATCH_WINDOW_MS", 300).start();
    let backend = Backend::of(&server).await;
    let slow = request(&backend, "POST", "/api/publish", r#"{"channel":"chat:slow","data":1}"#);
    for (bytes, count) in [
        (publish(&backend), 1),
        (slow.clone(), 1),
        ([publish(&backend), slow.clone(), publish(&backend)].concat(), 3),
        (b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(), 1),
    ] {
        let text = exchange(backend.addr, &bytes, true).await;
        assert_eq!(text.matches("HTTP/1.1 200 ").count(), count, "{text}");
    }
}

#[tokio::test]
async fn a_request_names_its_host() {
    let server = options().env("URINGCAST_HTTP__HOSTS", "metrics.internal").start();
    let backend = Backend::of(&server).await;
    let ask = async |target: &str, headers: &str| -> u16 {
        let text = format!("GET {target} HTTP/1.1\r\n{headers}Connection: close\r\n\r\n");
        exchange(backend.addr, text.as_bytes(), false).await.split(' ').nth(1).unwrap().parse().unwrap()
    };
    for target in ["/health", "/metrics", "/api/presence?channel=lobby"] {
        for headers in ["", "Host: a\r\nHost: a\r\n", "Host: a b\r\n", "Host: a/b\r\n", "Host:\r\n", "Host: u@a\r\n"] {
            assert_eq!(ask(target, headers).await, 400, "{target} {headers:?}");
        }
        assert_eq!(ask(target, "Host: rebound.evil.example\r\n").await, 403, "{target}");
        let with_key = format!("Host: push.example\r\nX-API-Key: {KEY}\r\n");
        assert_eq!(ask(target, &with_key).await, 200, "{target}");
        // The host of an absolute target counts.
        assert_eq!(ask(&format!("http://evil.example{target}"), "Host: localhost\r\n").await, 403);
        assert_eq!(ask(&format!("http://u@localhost{target}"), "Host: localhost\r\n").await, 400);
    }
    for host in ["localhost", "127.0.0.1:1", "[::1]", "Metrics.Internal:2346", "pushserver"] {
        for target in ["/health", "/metrics"] {
            assert_eq!(ask(target, &format!("Host: {host}\r\n")).await, 200, "{host}");
            assert_eq!(ask(&format!("http://{host}{target}"), "Host: evil.example\r\n").await, 200, "{host}");
        }
    }
    // HTTP/1.0 has no Host: health checks of balancers.
    let old = exchange(backend.addr, b"GET /health HTTP/1.0\r\n\r\n", false).await;
    assert!(old.starts_with("HTTP/1.0 200 "), "{old}");
    let metrics = Metrics::of(&server).await;
    assert_eq!(metrics.get("uringcast_api_refused_total{status=\"403\"}").await, 3 * 2);
    assert!(server.log().contains("exactly one Host header"), "{}", server.log());
}

#[tokio::test]
async fn other_methods_are_told_which_there_are() {
    let server = options().start();
    let backend = Backend::of(&server).await;
    let ask = async |method: &str, target: &str, headers: &str| {
        let text = format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\n{headers}Connection: close\r\n\r\n");
        let text = exchange(backend.addr, text.as_bytes(), false).await;
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        (head.to_lowercase(), body.to_owned())
    };
    for (target, allowed) in [
        ("*", "get, head, post, options"),
        ("/health", "get,head"),
        ("/metrics", "get,head"),
        ("/api/publish", "post"),
        ("/api/presence", "get,head,post"),
    ] {
        let (head, body) = ask("OPTIONS", target, "").await;
        assert!(head.starts_with("http/1.1 204 ") && body.is_empty(), "{target}: {head}");
        assert!(head.contains(&format!("allow: {allowed}")), "{target}: {head}");
    }
    assert!(ask("OPTIONS", "/nope", "").await.0.starts_with("http/1.1 404 "));
    assert!(ask("CONNECT", "localhost:80", "").await.0.starts_with("http/1.1 405 "));
    let key = format!("X-API-Key: {KEY}\r\n");
    for (target, status) in
        [("/health", 200), ("/api/presence?channel=lobby", 200), ("/nope", 404), ("/api/publish", 405)]
    {
        let (get, body) = ask("GET", target, &key).await;
        let (head, nothing) = ask("HEAD", target, &key).await;
        assert!(head.starts_with(&format!("http/1.1 {status} ")) && nothing.is_empty(), "{target}: {head} {nothing}");
        assert!(get.starts_with(&format!("http/1.1 {status} ")), "{target}: {get}");
        assert!(head.contains(&format!("content-length: {}", body.len())), "{target}: {head}");
    }
    assert!(ask("HEAD", "/api/history", "").await.0.starts_with("http/1.1 401 "));
}

/// However long the windows of the channels are: SIGTERM ends them, and what was asked is answered.
#[tokio::test]
async fn a_long_batch_window_ends_with_the_server() {
    let mut server = options().shards(2).env("URINGCAST_NAMESPACES__CHAT__BATCH_WINDOW_MS", 60_000).start();
    let backend = Backend::of(&server).await;
    let (mut client, _) = Client::join(&server, 1, "Alice").await;
    client.send(&json!({"type": "subscribe", "id": "s", "data": {"channel": "chat:late"}})).await;
    client.find("subscribed").await;
    let mut late = JoinSet::new();
    for n in 0..20 {
        let backend = backend.clone();
        late.spawn(async move {
            let channels = [format!("chat:{n}"), "chat:late".to_owned()];
            backend.post("/api/broadcast", &json!({"channels": channels, "data": n})).await.ok()
        });
    }
    accepted(&backend, "chat:late", 20).await;
    // And a body that never comes is told so.
    let mut slow = TcpStream::connect(backend.addr).await.unwrap();
    let head = format!("POST /api/publish HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n{}\r\n{{", backend.headers);
    slow.write_all(head.as_bytes()).await.unwrap();
    server.signal("TERM");
    while let Some(answer) = late.join_next().await {
        let results = answer.unwrap()["results"].clone();
        assert!(results[0]["offset"] == 1 && results[1]["offset"].is_u64(), "{results}");
    }
    assert_eq!(status(&mut slow).await, 503);
    for _ in 0..20 {
        client.find("publication").await;
    }
    assert_eq!(server.ended(DEADLINE).code(), Some(0), "{}", server.log());
}

/// Nobody but the backend is there.
#[tokio::test]
async fn a_server_without_clients_answers_before_it_goes() {
    let mut server = options().env("URINGCAST_NAMESPACES__CHAT__BATCH_WINDOW_MS", 60_000).start();
    let backend = Backend::of(&server).await;
    let late = {
        let backend = backend.clone();
        tokio::spawn(async move { backend.post("/api/publish", &json!({"channel": "chat:a", "data": 1})).await })
    };
    accepted(&backend, "chat:a", 1).await;
    server.signal("TERM");
    assert_eq!(late.await.unwrap().ok()["offset"], 1);
    assert_eq!(server.ended(DEADLINE).code(), Some(0), "{}", server.log());
}

/// Waits until so many publications are in a channel's history, which ends no window.
async fn accepted(backend: &Backend, channel: &str, count: u64) {
    let metrics = async || {
        let answer = backend.with("").send("GET", "/metrics", b"").await;
        let line = answer.text.lines().find_map(|line| line.strip_prefix("uringcast_publications_total "));
        line.and_then(|number| number.parse::<u64>().ok()).filter(|number| *number >= count)
    };
    until(&format!("{count} publications in {channel}"), metrics).await;
}

#[tokio::test]
async fn clients_can_not_take_the_descriptors_of_the_api() {
    let few = ["sh", "-c", "ulimit -n 256; exec \"$@\"", "sh"];
    let server: Server = options().env("URINGCAST_LIMITS__EXEMPT", "").wrapped(&few).shards(1).start();
    let backend = Backend::of(&server).await;
    let mut silent = Vec::new();
    for n in 0..300 {
        silent.push(connect_from(["127.0.0.2", "127.0.0.3", "127.0.0.4"][n % 3], server.addr).await);
    }
    let metrics = Metrics::of(&server).await;
    metrics.reach("uringcast_refusals_total{limit=\"descriptors\"}", |count| count > 0).await;
    let mut pool = Vec::new();
    for _ in 0..20 {
        let mut tcp = TcpStream::connect(backend.addr).await.unwrap();
        tcp.write_all(&publish(&backend)).await.unwrap();
        assert_eq!(status(&mut tcp).await, 200);
        pool.push(tcp);
    }
    is_healthy(&backend).await;
    backend.post("/api/revoke", &json!({"user": "eve"})).await.ok();
    let told = server.log().lines().filter(|line| line.contains("descriptor")).count();
    assert!(told <= 3, "{}", server.log());
}
