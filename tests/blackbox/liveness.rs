//! Deadlines and signs of life, with short times configured.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::{Client, DEADLINE, Options, Raw, frame, request, token};

#[tokio::test]
async fn no_sign_in_by_the_deadline_is_4408() {
    let server = Options::new().shards(2).env("URINGCAST_AUTH__DEADLINE_MS", 400).start();
    let (mut member, _) = Client::join(&server, 1, "Alice").await;
    let start = Instant::now();
    let mut idle = Client::open(&server).await;
    // Neither chatter nor failed attempts put it off.
    let mut chatty = Client::open(&server).await;
    chatty.send(&json!({"type": "heartbeat"})).await;
    chatty.expect("heartbeat").await;
    chatty.send(&json!({"type": "auth", "data": {}})).await;
    chatty.refused(400).await;
    idle.closed(4408).await;
    chatty.closed(4408).await;
    assert!(start.elapsed() >= Duration::from_millis(390), "before the deadline: {:?}", start.elapsed());
    // Who has signed in stays.
    member.nothing_pending().await;
}

#[tokio::test]
async fn an_idle_peer_is_pinged_and_stays_while_it_answers() {
    let server = Options::new()
        .env("URINGCAST_LIVENESS__PING_INTERVAL_MS", 200)
        .env("URINGCAST_LIVENESS__PONG_TIMEOUT_MS", 1000)
        .start();
    let mut raw = Raw::upgraded(&server, "/ws").await;
    raw.json().await;
    let auth = json!({"type": "auth", "data": {"token": token(1, "Alice")}}).to_string();
    raw.write(&frame(true, 1, auth.as_bytes())).await;
    raw.json().await;
    for _ in 0..8 {
        let ping = raw.frame().await.expect("a ping");
        assert_eq!(ping.opcode, 9, "{ping:?}");
        raw.write(&frame(true, 10, &ping.payload)).await;
    }
    raw.write(&frame(true, 1, br#"{"type":"heartbeat"}"#)).await;
    loop {
        let frame = raw.frame().await.expect("still there");
        match frame.opcode {
            9 => {}
            1 => break assert!(String::from_utf8_lossy(&frame.payload).contains("pong")),
            _ => panic!("{frame:?}"),
        }
    }
}

#[tokio::test]
async fn a_silent_peer_is_closed_with_4504_and_goes_offline() {
    let server = Options::new()
        .shards(2)
        .env("URINGCAST_LIVENESS__PING_INTERVAL_MS", 300)
        .env("URINGCAST_LIVENESS__PONG_TIMEOUT_MS", 300)
        .start();
    let (mut watcher, _) = Client::join(&server, "watcher", "Watcher").await;
    // It answers pings only while it is read from.
    let watching = tokio::spawn(async move {
        watcher.expect("user_online").await;
        assert_eq!(watcher.expect("user_offline").await["data"]["online_count"], 1);
    });
    let mut raw = Raw::upgraded(&server, "/ws").await;
    raw.json().await;
    let auth = json!({"type": "auth", "data": {"token": token(1, "Alice")}}).to_string();
    raw.write(&frame(true, 1, auth.as_bytes())).await;
    assert_eq!(raw.json().await["type"], "auth_success");
    let ping = raw.frame().await.expect("a ping");
    assert_eq!(ping.opcode, 9);
    let close = raw.frame().await.expect("a close");
    assert_eq!(close.close_code(), 4504);
    // It does not answer the close either; the server lets go of it all the same.
    watching.await.expect("the watcher saw it go");
    assert!(raw.rest().await.is_empty());
}

#[tokio::test]
async fn any_traffic_is_a_sign_of_life() {
    let server = Options::new()
        .env("URINGCAST_LIVENESS__PING_INTERVAL_MS", 300)
        .env("URINGCAST_LIVENESS__PONG_TIMEOUT_MS", 600)
        .start();
    let mut raw = Raw::upgraded(&server, "/ws").await;
    raw.json().await;
    let start = Instant::now();
    // It never answers a ping, but it talks.
    let mut answers = 0;
    while start.elapsed() < Duration::from_secs(3) {
        raw.write(&frame(true, 1, br#"{"type":"heartbeat"}"#)).await;
        loop {
            let frame = raw.frame().await.expect("still there");
            match frame.opcode {
                9 => {}
                1 => break answers += 1,
                _ => panic!("closed after {:?} and {answers} answers: {frame:?}", start.elapsed()),
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn half_a_request_is_cut_by_the_deadline() {
    let server = Options::new().shards(2).env("URINGCAST_LIMITS__HANDSHAKE_MS", 400).start();
    let whole = request(&server, "/ws", &[]);
    for part in [0, 1, whole.len() - 1] {
        let mut raw = Raw::connect(&server).await;
        raw.write(&whole.as_bytes()[..part]).await;
        let start = Instant::now();
        // Closed, with 408 or without a word.
        let rest = raw.rest().await;
        assert!(rest.is_empty() || rest.starts_with(b"HTTP/1.1 408"), "{:?}", String::from_utf8_lossy(&rest));
        assert!(start.elapsed() < DEADLINE);
    }
    // One deadline for the whole: a byte now and then does not put it off.
    let mut raw = Raw::connect(&server).await;
    let start = Instant::now();
    for byte in whole.bytes().cycle().take(400) {
        use tokio::io::AsyncWriteExt;
        if byte == b'\n' {
            continue;
        }
        if raw.tcp.write_all(&[byte]).await.is_err() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(start.elapsed() < Duration::from_secs(7), "a slow request was not cut");
}
