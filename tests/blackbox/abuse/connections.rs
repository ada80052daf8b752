//! Connections as a weapon: storms of them, thousands of one user, and two that throw each other out.

use futures_util::future::join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::{KIB, MIB, Scene, auth, lifted, outcome, unlimited};
use crate::metrics::options;
use crate::support::{DEADLINE, Raw, request};

/// Connects, asks for an upgrade, and says what the answer's status was (0: cut without one).
async fn knock(scene: &Scene) -> (u16, Raw) {
    let mut raw = scene.connect().await;
    let _ = raw.tcp.write_all(request(&scene.server, "/ws", &[]).as_bytes()).await;
    while raw.received.len() < 12 {
        let read = timeout(DEADLINE, raw.tcp.read_buf(&mut raw.received)).await.expect("an answer or an end");
        if !matches!(read, Ok(1..)) {
            return (0, raw);
        }
    }
    let status = std::str::from_utf8(&raw.received[9..12]).ok().and_then(|code| code.parse().ok());
    (status.unwrap_or(0), raw)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_from_one_address_is_429_and_others_come_in() {
    let options = options().shards(2).env("URINGCAST_LIMITS__NEW_CONNECTIONS_PER_IP_PER_S", 10);
    let scene = Scene::open(options.env("URINGCAST_LIMITS__NEW_CONNECTIONS_PER_IP_BURST", 50)).await;
    let (mut let_in, mut refused) = (0, 0);
    for _ in 0..60 {
        for (status, raw) in join_all((0..50).map(|_| knock(&scene))).await {
            match status {
                101 => let_in += 1,
                429 => {
                    let head = String::from_utf8_lossy(&raw.received).to_lowercase();
                    assert!(head.contains("retry-after: "), "{head}");
                    refused += 1;
                }
                // More at a time than are told.
                0 => refused += 1,
                other => panic!("{other}"),
            }
        }
        let mut other = scene.connect_from("127.0.0.3").await;
        if let_in + refused < 500 {
            other.write(request(&scene.server, "/ws", &[]).as_bytes()).await;
            assert_eq!(other.response().await.status, 101);
        }
    }
    assert!(let_in >= 50 && refused > 2_000, "{let_in} let in, {refused} refused");
    scene.over(4 * MIB).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_that_no_limit_stops_leaves_nothing_behind() {
    let scene = Scene::open(unlimited()).await;
    for round in 0..60 {
        for (n, (status, mut raw)) in join_all((0..50).map(|_| knock(&scene))).await.into_iter().enumerate() {
            assert_eq!(status, 101);
            match (round + n) % 3 {
                0 => raw.tcp.set_zero_linger().unwrap(),
                1 => raw.write(&auth(&format!("storm-{n}"))).await,
                _ => {}
            }
        }
    }
    // At most a round of them at a time.
    scene.over(100 * 24 * KIB).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_user_opens_thousands_and_keeps_a_hundred() {
    let scene =
        Scene::open(unlimited().env("URINGCAST_AUTH__DUPLICATE_LOGIN", "allow").env("URINGCAST_AUTH__PROBE_MS", 0))
            .await;
    let mut kept = Vec::new();
    let mut refused = 0;
    for _ in 0..1_500 {
        let mut raw = scene.upgraded("/ws").await;
        raw.write(&auth("hoarder")).await;
        let answer = raw.json().await;
        match answer["type"].as_str() {
            Some("auth_success") => kept.push(raw),
            _ => {
                assert!(answer["type"] == "error" && answer["code"] == 429, "{answer}");
                assert_eq!(outcome(&mut raw).await.close, Some(4429));
                refused += 1;
            }
        }
    }
    assert_eq!((kept.len(), refused), (100, 1_400));
    assert_eq!(scene.metrics.refusals("connections_per_user").await, 1_400);
    drop(kept);
    scene.over(100 * 24 * KIB).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kick_war_ends_with_4429_for_the_newcomer() {
    let scene =
        Scene::open(lifted(&["CONNECTIONS_PER_IP", "NEW_CONNECTIONS_PER_IP_PER_S"]).env("URINGCAST_AUTH__PROBE_MS", 0))
            .await;
    let mut holder = scene.signed_in("torn").await;
    let (mut kicks, mut turned_away) = (0, 0);
    while turned_away < 20 {
        let mut newcomer = scene.upgraded("/ws").await;
        newcomer.write(&auth("torn")).await;
        let answer = newcomer.json().await;
        if answer["type"] == "auth_success" {
            kicks += 1;
            assert_eq!(outcome(&mut holder).await.close, Some(4409));
            holder = newcomer;
        } else {
            assert_eq!(outcome(&mut newcomer).await.close, Some(4429), "{answer}");
            turned_away += 1;
        }
        // A machine that takes ten seconds over twenty of these has room for five more claims.
        assert!(kicks < 100);
    }
    assert!(kicks >= 4, "{kicks}");
    holder.write(&crate::support::frame(true, 1, br#"{"type":"heartbeat","id":"mine"}"#)).await;
    while holder.json().await["id"] != "mine" {}
    drop(holder);
    scene.over(MIB).await;
}
