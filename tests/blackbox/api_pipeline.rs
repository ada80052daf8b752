//! Requests of the HTTP API that follow each other on one connection without waiting for responses (docs/api.md,
//! "Pipelining"), and the deadlines and bounds of such connections.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::api::{Backend, KEY, options};
use crate::api_connections::{publish, request};
use crate::metrics::Metrics;
use crate::support::{Client, DEADLINE, Server, until};

/// Responses as they arrive on one connection.
struct Responses {
    tcp: TcpStream,
    bytes: Vec<u8>,
}

impl Responses {
    async fn connect(backend: &Backend) -> Self {
        Self { tcp: TcpStream::connect(backend.addr).await.unwrap(), bytes: Vec::new() }
    }

    async fn send(&mut self, bytes: &[u8]) {
        timeout(DEADLINE, self.tcp.write_all(bytes)).await.expect("taken in time").unwrap();
    }

    /// The status and the body of the next response.
    async fn next(&mut self) -> (u16, Value) {
        timeout(2 * DEADLINE, self.read()).await.expect("a response in time")
    }

    async fn read(&mut self) -> (u16, Value) {
        loop {
            if let Some(end) = self.bytes.windows(4).position(|four| four == b"\r\n\r\n") {
                let head = String::from_utf8(self.bytes[..end].to_vec()).unwrap().to_lowercase();
                let status = head.split(' ').nth(1).unwrap().parse().unwrap();
                let length = head.split_once("content-length: ").map_or("0", |(_, rest)| rest);
                let length: usize = length.split("\r\n").next().unwrap().parse().unwrap();
                let whole = end + 4 + length;
                if self.bytes.len() >= whole {
                    let body = serde_json::from_slice(&self.bytes[end + 4..whole]).unwrap_or(Value::Null);
                    self.bytes.drain(..whole);
                    return (status, body);
                }
            }
            let count = self.tcp.read_buf(&mut self.bytes).await.unwrap();
            assert!(count > 0, "the connection ended after {:?}", String::from_utf8_lossy(&self.bytes));
        }
    }

    /// Whether the server ends the connection, with nothing more to read.
    async fn has_ended(&mut self) -> bool {
        let mut rest = [0; 1];
        self.bytes.is_empty() && matches!(timeout(2 * DEADLINE, self.tcp.read(&mut rest)).await, Ok(Ok(0) | Err(_)))
    }
}

fn publish_to(backend: &Backend, channel: &str, data: usize) -> Vec<u8> {
    request(backend, "POST", "/api/publish", &json!({"channel": channel, "data": data}).to_string())
}

#[tokio::test]
async fn responses_come_in_the_order_of_the_requests() {
    let server = options().shards(3).start();
    let backend = Backend::of(&server).await;
    let mut pipe = Responses::connect(&backend).await;
    let mut bytes = Vec::new();
    // Channels of all shards, requests that are answered at once, and those that the control thread answers.
    for n in 0..300 {
        bytes.extend(match n % 10 {
            7 => request(&backend, "GET", "/health", ""),
            8 => request(&backend, "POST", "/api/nothing", ""),
            9 if n % 50 == 49 => request(&backend, "GET", "/api/revocations", ""),
            9 => request(&backend, "POST", "/api/history", &json!({"channel": format!("c{}", n % 7)}).to_string()),
            _ => publish_to(&backend, &format!("c{}", n % 7), n),
        });
    }
    // In pieces that end anywhere.
    for piece in bytes.chunks(1_234) {
        pipe.send(piece).await;
    }
    let mut offsets = [0; 7];
    for n in 0..300 {
        let (status, body) = pipe.next().await;
        let channel = format!("c{}", n % 7);
        match n % 10 {
            7 => assert_eq!((status, &body["status"]), (200, &json!("ok")), "{n}: {body}"),
            8 => assert_eq!(status, 404, "{n}: {body}"),
            9 if n % 50 == 49 => assert!(body["revocations"].is_array(), "{n}: {body}"),
            9 => assert_eq!((status, &body["channel"]), (200, &json!(channel)), "{n}: {body}"),
            _ => {
                offsets[n % 7] += 1;
                assert_eq!(
                    (&body["channel"], &body["offset"]),
                    (&json!(channel), &json!(offsets[n % 7])),
                    "{n}: {body}"
                );
            }
        }
    }
    // The connection stays open.
    pipe.send(&publish(&backend)).await;
    assert_eq!(pipe.next().await.0, 200);
}

/// A publication that waits for its window delays the responses of later requests, but not their publications.
#[tokio::test]
async fn a_response_that_is_late_keeps_its_place() {
    let server = options().shards(2).env("URINGCAST_NAMESPACES__CHAT__BATCH_WINDOW_MS", 500).start();
    let backend = Backend::of(&server).await;
    let (mut client, _) = Client::join(&server, 1, "Alice").await;
    client.send(&json!({"type": "subscribe", "id": "s", "data": {"channel": "fast"}})).await;
    client.find("subscribed").await;
    let mut pipe = Responses::connect(&backend).await;
    pipe.send(&[publish_to(&backend, "chat:slow", 1), publish_to(&backend, "fast", 2)].concat()).await;
    client.find("publication").await;
    assert_eq!(pipe.next().await.1["channel"], "chat:slow");
    assert_eq!(pipe.next().await.1["channel"], "fast");
}

#[tokio::test]
async fn what_has_no_answer_in_time_is_unknown() {
    let server = options()
        .shards(2)
        .env("URINGCAST_NAMESPACES__CHAT__BATCH_WINDOW_MS", 60_000)
        .env("URINGCAST_LIMITS__REQUEST_MS", 800)
        .start();
    let backend = Backend::of(&server).await;
    let mut pipe = Responses::connect(&backend).await;
    let broadcast = json!({"channels": ["a", "chat:b", "x:y", "c", "chat:d"], "data": 1}).to_string();
    let bytes = [
        publish_to(&backend, "chat:a", 1),
        request(&backend, "POST", "/api/broadcast", &broadcast),
        publish_to(&backend, "news", 1),
    ];
    pipe.send(&bytes.concat()).await;
    assert_eq!(pipe.next().await.0, 504);
    let (status, body) = pipe.next().await;
    assert_eq!(status, 200);
    let codes: Vec<_> = (0..5).map(|at| body["results"][at]["error"]["code"].as_u64().unwrap_or(200)).collect();
    assert_eq!(codes, [200, 504, 404, 200, 504], "{body}");
    assert_eq!(body["results"][3]["channel"], "c");
    assert_eq!(pipe.next().await.0, 200);
}

#[tokio::test]
async fn a_broadcast_to_a_thousand_channels_reaches_all_of_them_in_order() {
    let server = options().shards(3).start();
    let backend = Backend::of(&server).await;
    let channels: Vec<String> = (0..1_000).map(|n| format!("c{}", n % 900)).collect();
    let (mut client, _) = Client::join(&server, 1, "Alice").await;
    client.send(&json!({"type": "subscribe", "id": "s", "data": {"channel": "c1"}})).await;
    client.find("subscribed").await;
    for round in 0..2 {
        let body = json!({"channels": channels, "data": round});
        let results = backend.post("/api/broadcast", &body).await.ok()["results"].clone();
        for (at, channel) in channels.iter().enumerate() {
            let each = if at % 900 < 100 { 2 } else { 1 };
            let offset = round * each + if at >= 900 { 2 } else { 1 };
            assert_eq!((&results[at]["channel"], &results[at]["offset"]), (&json!(channel), &json!(offset)), "{at}");
        }
    }
    for offset in 1..=4 {
        assert_eq!(client.find("publication").await["data"]["offset"], offset);
    }
}

/// Pages wait for a client that does not read them: one at a time is made, and nothing else is held up.
#[tokio::test]
async fn a_client_that_does_not_read_gets_one_page_at_a_time() {
    let server = options().shards(1).env("URINGCAST_CHANNELS__HISTORY_SIZE", 100).start();
    let backend = Backend::of(&server).await;
    let data = "x".repeat(20_000);
    for _ in 0..50 {
        backend.post("/api/publish", &json!({"channel": "big", "data": data})).await.ok();
    }
    let mut slow = Responses::connect(&backend).await;
    let history = request(&backend, "POST", "/api/history", r#"{"channel":"big"}"#);
    slow.send(&history.repeat(60)).await;
    slow.send(&publish(&backend)).await;
    let metrics = Metrics::of(&server).await;
    metrics.reach("uringcast_connections_blocked", |count| count == 1).await;
    for _ in 0..20 {
        backend.post("/api/publish", &json!({"channel": "news", "data": 1})).await.ok();
    }
    let queued = metrics.get("uringcast_queued_bytes").await;
    assert!(queued < 4 << 20, "{queued} bytes wait");
    for _ in 0..60 {
        assert_eq!(slow.next().await.1["publications"].as_array().unwrap().len(), 50);
    }
    assert_eq!(slow.next().await.0, 200);
}

#[tokio::test]
async fn connections_that_send_nothing_are_closed_and_idle_ones_stay() {
    let server = options()
        .env("URINGCAST_LIMITS__HANDSHAKE_MS", 400)
        .env("URINGCAST_LIMITS__REQUEST_MS", 900)
        .env("URINGCAST_LIMITS__API_IDLE_MS", 2_500)
        .start();
    let backend = Backend::of(&server).await;
    let mut idle = Responses::connect(&backend).await;
    idle.send(&publish(&backend)).await;
    assert_eq!(idle.next().await.0, 200);
    let mut silent = Responses::connect(&backend).await;
    let mut in_head = Responses::connect(&backend).await;
    in_head.send(b"GET /health HTTP/1.1\r\nHost:").await;
    let mut in_body = Responses::connect(&backend).await;
    let whole = publish(&backend);
    in_body.send(&whole[..whole.len() - 1]).await;
    assert!(silent.has_ended().await && in_head.has_ended().await);
    assert_eq!(in_body.next().await.0, 408);
    assert!(in_body.has_ended().await);
    idle.send(&publish(&backend)).await;
    assert_eq!(idle.next().await.0, 200, "an idle connection stays");
    assert!(idle.has_ended().await, "and not for ever");
}

/// On every shard, before the log says that the keys were read.
#[tokio::test]
async fn new_keys_hold_on_every_shard_once_they_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys");
    std::fs::write(&file, "the-first-key-of-the-file").unwrap();
    let server = options().shards(4).env("URINGCAST_HTTP__KEYS_FILE", file.display()).start();
    let backend = Backend::of(&server).await;
    let with = |key: &str| backend.with(&format!("X-API-Key: {key}\r\n"));
    let mut open = Vec::new();
    for _ in 0..20 {
        let mut pipe = Responses::connect(&backend).await;
        pipe.send(&publish(&with("the-first-key-of-the-file"))).await;
        assert_eq!(pipe.next().await.0, 200);
        open.push(pipe);
    }
    std::fs::write(&file, "the-second-key-of-the-file").unwrap();
    server.signal("HUP");
    server.logged("API keys read again").await;
    for pipe in &mut open {
        for (key, expected) in [("the-first-key-of-the-file", 401), ("the-second-key-of-the-file", 200), (KEY, 200)] {
            pipe.send(&publish(&with(key))).await;
            assert_eq!(pipe.next().await.0, expected, "{key}");
        }
    }
}

#[tokio::test]
async fn a_server_that_ends_answers_what_was_asked() {
    let mut server = options().shards(2).env("URINGCAST_NAMESPACES__CHAT__BATCH_WINDOW_MS", 60_000).start();
    let backend = Backend::of(&server).await;
    let mut pipe = Responses::connect(&backend).await;
    pipe.send(&[publish_to(&backend, "chat:a", 1), publish_to(&backend, "chat:b", 2)].concat()).await;
    let metrics = Metrics::of(&server).await;
    metrics.reach("uringcast_publications_total", |count| count == 2).await;
    server.signal("TERM");
    assert_eq!((pipe.next().await.0, pipe.next().await.0), (200, 200));
    assert_eq!(server.ended(DEADLINE).code(), Some(0), "{}", server.log());
}

/// An idle connection of a backend costs no more than an idle client.
#[tokio::test]
async fn an_idle_connection_costs_a_kilobyte_at_most() {
    const COUNT: usize = 3_000;
    const BYTES: u64 = 1_024;
    let server = options().shards(1).env("URINGCAST_LIMITS__API_CONNECTIONS", 2 * COUNT).start();
    let backend = Backend::of(&server).await;
    let mut pool = Vec::new();
    let open = async |pool: &mut Vec<Responses>, count: usize| {
        for _ in 0..count {
            let mut pipe = Responses::connect(&backend).await;
            pipe.send(&publish(&backend)).await;
            assert_eq!(pipe.next().await.0, 200);
            pool.push(pipe);
        }
    };
    // Tables grow by doubling: from here to there they double once.
    open(&mut pool, COUNT / 3).await;
    let before = settled(&server).await;
    open(&mut pool, COUNT - COUNT / 3).await;
    let each = settled(&server).await.saturating_sub(before) / (COUNT - COUNT / 3) as u64;
    assert!(each <= BYTES, "{each} bytes for each idle connection");
}

/// The server's memory when it does not change any more.
async fn settled(server: &Server) -> u64 {
    let mut last = 0;
    until("memory that stays the same", async || {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let now = server.resident();
        let is_same = now == std::mem::replace(&mut last, now);
        is_same.then_some(now)
    })
    .await
}
