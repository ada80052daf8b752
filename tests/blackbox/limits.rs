//! What one bad client costs: its own connection, and a bounded stretch of memory.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpSocket;
use tokio::time::timeout;

use crate::support::{Client, Event, Options, Raw, Server, frame, request, token};

const MIB: u64 = 1 << 20;
/// How much a client may make the server keep: its outbox, what the kernel has, and some slack of the allocator.
const ALLOWED: u64 = 48 * MIB;

/// Writes the same bytes over and over and never reads, until the server takes no more for a second, ends the
/// connection, or has taken `most` bytes; says how many it took.
pub async fn flood(raw: &mut Raw, bytes: &[u8], most: usize) -> usize {
    let mut sent = 0;
    let mut block = Vec::new();
    while block.len() < 256 << 10 {
        block.extend_from_slice(bytes);
    }
    while sent < most {
        match timeout(Duration::from_secs(1), raw.tcp.write_all(&block)).await {
            Ok(Ok(())) => sent += block.len(),
            Ok(Err(_)) | Err(_) => break,
        }
    }
    sent
}

async fn costs_little(server: &Server, path: &str, bytes: &[u8]) {
    let before = server.resident();
    let mut raw = Raw::upgraded(server, path).await;
    let sent = flood(&mut raw, bytes, 300 << 20).await;
    let grown = server.resident().saturating_sub(before);
    assert!(grown < ALLOWED, "{} MiB sent, {} MiB grown", sent >> 20, grown >> 20);
    // Nobody else is held up, on whichever shard.
    for user in 0..6 {
        let (mut other, _) = Client::join(server, user, "Other").await;
        // The news that the one before has gone may come first: another shard tells it.
        other.say("still served").await;
        other.find("message").await;
        other.leave().await;
    }
}

#[tokio::test]
async fn an_echo_client_that_never_reads_is_held_back() {
    let server = Options::new().shards(2).echo().start();
    costs_little(&server, "/echo", &frame(true, 2, &vec![7; 60_000])).await;
    costs_little(&server, "/echo", &frame(true, 2, b"tiny")).await;
}

#[tokio::test]
async fn a_flood_of_pings_is_held_back() {
    let server = Options::new().shards(2).echo().start();
    costs_little(&server, "/ws", &frame(true, 9, &[b'p'; 125])).await;
    costs_little(&server, "/echo", &frame(true, 9, b"")).await;
}

#[tokio::test]
async fn a_flood_of_requests_is_held_back() {
    let server = Options::new().shards(2).start();
    costs_little(&server, "/ws", &frame(true, 1, br#"{"type":"heartbeat","id":"0123456789"}"#)).await;
    costs_little(&server, "/ws", &frame(true, 1, b"not JSON")).await;
}

#[tokio::test]
async fn a_flood_of_tiny_fragments_is_1009() {
    let server = Options::new().shards(2).echo().start();
    for (first, piece) in [(frame(false, 2, b""), frame(false, 0, b"")), (frame(false, 1, b"a"), frame(false, 0, b"a"))]
    {
        let before = server.resident();
        let mut raw = Raw::upgraded(&server, "/echo").await;
        raw.write(&first).await;
        flood(&mut raw, &piece, 100 << 20).await;
        let grown = server.resident().saturating_sub(before);
        assert!(grown < ALLOWED, "{} MiB grown", grown >> 20);
        let close = raw.frame().await.expect("a close");
        assert_eq!(close.close_code(), 1009);
    }
}

#[tokio::test]
async fn pipelined_requests_are_all_answered_in_order() {
    let server = Options::new().shards(2).start();
    for user in 0..4 {
        let (mut client, _) = Client::join(&server, user, "Alice").await;
        let requests: Vec<_> = (0..2000).map(|n| json!({"type": "users", "id": n.to_string()})).collect();
        client.pipeline(&requests).await;
        for n in 0..2000 {
            let users = client.expect("users").await;
            assert!(users["id"].as_str() == Some(&n.to_string()) && users["data"]["count"] == 1, "{n}: {users}");
        }
        client.leave().await;
    }
}

#[tokio::test]
async fn a_slow_consumer_is_closed_with_4508_and_the_others_miss_nothing() {
    let server = Options::new().shards(2).env("URINGCAST_LIMITS__OUTBOX_BYTES", 256 << 10).start();
    let (mut watcher, _) = Client::join(&server, "watcher", "Watcher").await;
    let mut told = 0;
    for slow in 0..2 {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(8 << 10).unwrap();
        let mut raw = Raw { tcp: socket.connect(server.addr).await.unwrap(), received: Vec::new() };
        raw.write(request(&server, "/ws", &[]).as_bytes()).await;
        assert_eq!(raw.response().await.status, 101);
        assert_eq!(raw.json().await["type"], "system");
        let auth = json!({"type": "auth", "data": {"token": token(slow, "Slow")}}).to_string();
        raw.write(&frame(true, 1, auth.as_bytes())).await;
        assert_eq!(raw.json().await["type"], "auth_success");
        watcher.expect("user_online").await;

        // One message at a time, each seen by the sender before the next.
        let text = "x".repeat(60_000);
        let (mut said, mut gone) = (0_u64, false);
        let start = Instant::now();
        while !gone {
            assert!(said < 2000 && start.elapsed() < Duration::from_secs(60), "never closed after {said} messages");
            watcher.say(&text).await;
            said += 1;
            loop {
                let value = watcher.next().await;
                match value["type"].as_str() {
                    Some("message") => break,
                    Some("user_offline") => gone = true,
                    _ => panic!("{value}"),
                }
            }
        }
        // What had begun comes whole and in order; then the close, unless the two seconds for it are over.
        let mut last = None;
        while let Some(frame) = raw.frame().await {
            match frame.opcode {
                1 => {
                    let value: serde_json::Value = serde_json::from_slice(&frame.payload).expect("whole");
                    let offset = value["data"]["offset"].as_u64().expect("a message");
                    assert!(last.is_none_or(|last| offset == last + 1), "{offset} after {last:?}");
                    last = Some(offset);
                }
                9 => {}
                _ => {
                    assert_eq!(frame.close_code(), 4508);
                    told += 1;
                }
            }
        }
        watcher.nothing_pending().await;
    }
    assert!(told > 0, "cut, and never told why");
}

#[tokio::test]
async fn a_large_message_reaches_everyone() {
    let server = Options::new().shards(2).start();
    let (mut alice, _) = Client::join(&server, 1, "Alice").await;
    let (mut bob, _) = Client::join(&server, 2, "Bob").await;
    alice.expect("user_online").await;
    for length in [100_000, 500_000] {
        let text = "y".repeat(length);
        alice.say(&text).await;
        for client in [&mut alice, &mut bob] {
            let value = client.expect("message").await;
            assert_eq!(value["data"]["text"].as_str().unwrap().len(), length);
        }
    }
}

#[tokio::test]
async fn ten_times_longer_after_escaping_is_still_answered() {
    // Each of these becomes six bytes; with the default limits the push is larger than an outbox.
    let server = Options::new().shards(2).start();
    let (mut alice, _) = Client::join(&server, 1, "Alice").await;
    alice.send(&json!({"type": "message", "id": "big", "data": {"text": "'".repeat(900_000)}})).await;
    match alice.event().await {
        Event::Text(text) => {
            let value: serde_json::Value = serde_json::from_str(&text).unwrap();
            assert!(value["type"] == "message" || (value["type"] == "error" && value["code"] == 413), "{:.200}", text);
        }
        other => panic!("{other:?}"),
    }
    // Whatever became of it, the next client is served.
    let (mut bob, _) = Client::join(&server, 2, "Bob").await;
    bob.nothing_pending().await;
}

#[tokio::test]
async fn connections_that_come_and_go_leave_nothing_behind() {
    let server = Options::new().shards(2).start();
    let churn = async |rounds: usize| {
        for round in 0..rounds {
            let mut clients = Vec::new();
            for user in 0..50 {
                clients.push(Client::join(&server, format!("{round}-{user}"), "User").await.0);
            }
            for client in clients {
                client.vanish();
            }
        }
        // All of them are gone once the count says so.
        let (mut last, _) = Client::join(&server, "last", "Last").await;
        let start = Instant::now();
        loop {
            last.send(&json!({"type": "users", "id": "1", "data": {"limit": 1}})).await;
            if last.find("users").await["data"]["count"] == 1 {
                break;
            }
            assert!(start.elapsed() < Duration::from_secs(20));
        }
        last.leave().await;
    };
    let open = || std::fs::read_dir(format!("/proc/{}/fd", server.pid())).unwrap().count();
    churn(4).await;
    let (before, files) = (server.resident(), open());
    churn(20).await;
    let grown = server.resident().saturating_sub(before);
    assert!(grown < 16 * MIB, "{} MiB grown by 1,000 connections that are gone", grown >> 20);
    assert!(open() <= files + 4, "{files} files open before, {} after", open());
}
