//! More of something than anyone needs: pings, fragments, names, keys, and answers that are never read.

use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use super::{ABUSER, KIB, MIB, Outcome, Scene, lifted, outcome, text, unlimited};
use crate::limits::flood;
use crate::metrics::options;
use crate::support::{Raw, frame};

/// Writes without end and reads at the same time, to the end of the connection; says how it went.
async fn pour(raw: Raw, bytes: Vec<u8>) -> Outcome {
    let (mut from, mut to) = raw.tcp.into_split();
    let writer = tokio::spawn(async move { while to.write_all(&bytes).await.is_ok() {} });
    let mut all = raw.received;
    // A reset at the end of it is no surprise: the server doesn't read what comes behind its close.
    while let Ok(Ok(1..)) =
        timeout(crate::support::DEADLINE, tokio::io::AsyncReadExt::read_buf(&mut from, &mut all)).await
    {}
    writer.abort();
    let mut outcome = Outcome::default();
    for frame in crate::support::whole_frames(&all) {
        match frame.opcode {
            8 => outcome.close = Some(frame.close_code()),
            10 => outcome.pongs += 1,
            1 if frame.payload.windows(10).any(|bytes| bytes == b"\"code\":429") => outcome.refused += 1,
            _ => outcome.others += 1,
        }
    }
    outcome
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_pings_is_4429() {
    let scene = Scene::open(options().shards(2).echo()).await;
    for path in ["/ws", "/echo"] {
        for opcode in [9, 10] {
            let raw = scene.upgraded(path).await;
            let outcome = pour(raw, frame(true, opcode, b"ping").repeat(100)).await;
            // The reset behind it may take the last of what was said along.
            assert!(matches!(outcome.close, Some(4429) | None), "{path} {opcode}: {outcome:?}");
            assert!(outcome.pongs <= 1_000 && outcome.refused <= 20, "{path} {opcode}: {outcome:?}");
        }
    }
    scene.metrics.reach("uringcast_closes_total{code=\"4429\"}", |count| count == 4).await;
    scene.over(MIB).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_rates_are_lifted_who_never_reads_is_held_back() {
    const OUTBOX: u64 = 256 * KIB;
    let scene = Scene::open(unlimited().env("URINGCAST_LIMITS__OUTBOX_BYTES", OUTBOX)).await;
    let mut held = Vec::new();
    for (path, bytes) in [
        ("/echo", frame(true, 2, &[7; 60_000])),
        ("/echo", frame(true, 2, b"tiny")),
        ("/echo", frame(true, 9, &[b'p'; 125])),
        ("/ws", frame(true, 9, &[b'p'; 125])),
        ("/ws", frame(true, 1, br#"{"type":"heartbeat","id":"0123456789"}"#)),
        ("/ws", frame(true, 1, b"not JSON")),
    ] {
        let mut raw = scene.upgraded(path).await;
        let sent = flood(&mut raw, &bytes, 100 << 20).await;
        assert!(sent < 100 << 20, "{path}: {sent} bytes were taken of a client that never reads");
        held.push(raw);
    }
    let many = held.len() as u64;
    drop(held);
    // An outbox each, and what one receive brought and its answers.
    scene.over(many * (OUTBOX + MIB)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn subscribers_that_never_read_are_4508() {
    const OUTBOX: u64 = 256 * KIB;
    const MANY: u64 = 8;
    let scene = Scene::open(unlimited().env("URINGCAST_LIMITS__OUTBOX_BYTES", OUTBOX)).await;
    let mut deaf = Vec::new();
    for n in 0..MANY {
        deaf.push(scene.signed_in(&format!("deaf-{n}")).await);
    }
    let mut loud = scene.signed_in("loud").await;
    let code = "uringcast_closes_total{code=\"4508\"}";
    let block = text(&json!({"type": "message", "data": {"text": "x".repeat(20_000)}}));
    for n in 0.. {
        assert!(n < 5_000, "{} of {MANY} were closed", scene.metrics.get(code).await);
        loud.write(&block).await;
        // Its own delivery: one at a time, which nobody who reads falls behind of.
        while loud.frame().await.expect("still there").payload.len() < 20_000 {}
        if n % 50 == 49 && scene.metrics.get(code).await == MANY {
            break;
        }
    }
    drop((deaf, loud));
    scene.over(MANY * (OUTBOX + 256 * KIB) + MIB).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tiny_fragments_are_1009() {
    let scene = Scene::open(options().shards(2).echo()).await;
    for (path, first, piece) in [
        ("/echo", frame(false, 2, b""), frame(false, 0, b"")),
        ("/echo", frame(false, 1, b"a"), frame(false, 0, b"a")),
        ("/ws", frame(false, 1, b"{"), frame(false, 0, b" ")),
    ] {
        for _ in 0..10 {
            let mut raw = scene.upgraded(path).await;
            raw.write(&first).await;
            let outcome = pour(raw, piece.repeat(1_000)).await;
            assert!(matches!(outcome.close, Some(1009) | None), "{path}: {outcome:?}");
        }
    }
    scene.metrics.reach("uringcast_closes_total{code=\"1009\"}", |count| count == 30).await;
    scene.over(4 * MIB).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_channel_names_stops_at_the_bounds() {
    const CHANNELS: u64 = 1_000;
    let options = unlimited().env("URINGCAST_LIMITS__CHANNELS", CHANNELS).env("URINGCAST_CHANNELS__PUBLISH", "members");
    let scene = Scene::open(options.env("URINGCAST_CHANNELS__HISTORY_SIZE", 0)).await;
    let name = |user: u64, n: usize| format!("{user}-{n}-{}", "n".repeat(180));
    let mut users = Vec::new();
    let mut kept = 0;
    for user in 0..10 {
        let mut raw = scene.signed_in(&format!("mallory-{user}")).await;
        let ask = |n: usize| text(&json!({"type": "subscribe", "id": "s", "data": {"channel": name(user, n)}}));
        raw.write(&(0..200).flat_map(ask).collect::<Vec<u8>>()).await;
        let (mut taken, mut refused) = (0, 0);
        while taken + refused < 200 {
            let value = raw.json().await;
            match (value["type"].as_str(), value["code"].as_u64()) {
                (Some("subscribed"), _) => taken += 1,
                (Some("error"), Some(429 | 503)) => refused += 1,
                (Some("message" | "user_online" | "user_offline"), _) => {}
                _ => panic!("{value}"),
            }
        }
        assert!(taken <= 128, "{taken} subscriptions of one connection");
        kept += taken;
        users.push(raw);
    }
    let channels = scene.metrics.reach("uringcast_channels", |count| count > 128).await;
    assert!(channels <= CHANNELS && kept < CHANNELS, "{channels} channels, {kept} subscriptions");
    drop(users);
    // A channel in which nothing was published goes with its last subscriber.
    scene.metrics.reach("uringcast_channels", |count| count == 1).await;
    // Any other keeps its position for a while, and gives up its place when another needs it.
    let mut raw = scene.signed_in("fickle").await;
    for round in 0..40 {
        let both = |n: usize| {
            let channel = name(99, round * 100 + n);
            let subscribe = json!({"type": "subscribe", "id": "s", "data": {"channel": &channel}});
            let publish = json!({"type": "publish", "id": "p", "data": {"channel": &channel, "data": 1}});
            let unsubscribe = json!({"type": "unsubscribe", "id": "u", "data": {"channel": &channel}});
            [text(&subscribe), text(&publish), text(&unsubscribe)].concat()
        };
        raw.write(&(0..100).flat_map(both).collect::<Vec<u8>>()).await;
        let mut answers = 0;
        while answers < 300 {
            let value = raw.json().await;
            assert!(value["type"] != "error", "{value}");
            answers += usize::from(value["id"].is_string());
        }
    }
    drop(raw);
    scene.metrics.reach("uringcast_channel_evictions_total", |count| count >= 4_000 - CHANNELS).await;
    assert!(scene.metrics.get("uringcast_channels").await <= CHANNELS);
    // Whoever needs a channel of their own gets it, on whichever shard.
    let mut innocent = scene.signed_in("carol").await;
    for n in 0..10 {
        let channel = format!("carols-{n}");
        innocent.write(&text(&json!({"type": "subscribe", "id": "s", "data": {"channel": channel}}))).await;
        let answer = loop {
            let value = innocent.json().await;
            if value["id"] == "s" {
                break value;
            }
        };
        assert_eq!(answer["type"], "subscribed", "{answer}");
    }
    drop(innocent);
    // A channel, a subscription at both ends, and names of 190 bytes; the channels that are kept stay.
    scene.over_but_for(CHANNELS * 4 * KIB, CHANNELS * 2 * KIB).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_idempotency_keys_keeps_the_last_256_of_a_user() {
    let scene = Scene::open(unlimited()).await;
    let mut raw = scene.signed_in("mallory").await;
    let say = |n: usize| {
        let key = format!("{n:064}");
        text(&json!({"type": "message", "id": n.to_string(), "data": {"text": "x", "idempotency_key": key}}))
    };
    for round in 0..100 {
        raw.write(&(0..200).flat_map(|n| say(round * 200 + n)).collect::<Vec<u8>>()).await;
        let mut acks = 0;
        while acks < 200 {
            acks += usize::from(raw.json().await["type"] == "ack");
        }
    }
    // The last one is known, the first one long forgotten.
    for (n, duplicate) in [(19_999, true), (0, false)] {
        raw.write(&say(n)).await;
        let ack = loop {
            let value = raw.json().await;
            if value["type"] == "ack" {
                break value;
            }
        };
        assert_eq!(ack["data"]["duplicate"] == true, duplicate, "{ack}");
    }
    drop(raw);
    scene.over(256 * KIB).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_wrong_tokens_is_not_listened_to() {
    let scene = Scene::open(lifted(&["CONNECTIONS_PER_IP", "NEW_CONNECTIONS_PER_IP_PER_S"])).await;
    let wrong = text(&json!({"type": "auth", "data": {"token": "x".repeat(4_000)}}));
    let mut codes = [0, 0];
    for _ in 0..300 {
        let mut raw = scene.upgraded("/ws").await;
        raw.write(&wrong).await;
        match outcome(&mut raw).await.close {
            Some(4401) => codes[0] += 1,
            Some(4429) => codes[1] += 1,
            other => panic!("{other:?}"),
        }
    }
    assert!((60..150).contains(&codes[0]) && codes[1] > 100, "{codes:?} from {ABUSER}");
    scene.over(MIB).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peers_that_fall_silent_are_closed_with_4504() {
    const MANY: usize = 200;
    let scene = Scene::open(
        unlimited()
            .env("URINGCAST_LIVENESS__PING_INTERVAL_MS", 1_500)
            .env("URINGCAST_LIVENESS__PONG_TIMEOUT_MS", 1_500),
    )
    .await;
    // Their sockets stay open, and nobody reads or writes there any more.
    let mut silent = Vec::new();
    for n in 0..MANY {
        silent.push(scene.signed_in(&format!("silent-{n}")).await);
    }
    scene.metrics.reach("uringcast_closes_total{code=\"4504\"}", |count| count == MANY as u64).await;
    scene.metrics.reach("uringcast_connections", |count| count == 2).await;
    for mut raw in silent {
        assert_eq!(outcome(&mut raw).await.close, Some(4504));
    }
    scene.over(MANY as u64 * 12 * KIB).await;
}
