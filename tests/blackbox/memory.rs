//! Memory that gets short, and is enough again: the largest queues give way, those who read go on, and newcomers are taken
//! as before. That newcomers are refused meanwhile is in `admission`.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::abuse::{MIB, auth};
use crate::metrics::{Metrics, options};
use crate::support::{Client, DEADLINE, Raw, Server, request};

/// Of memory: what a server needs to begin with, and some 30 MiB.
const BOUND: u64 = 56 * MIB;

async fn knock(server: &Server) -> u16 {
    let mut raw = Raw::connect(server).await;
    raw.write(request(server, "/ws", &[]).as_bytes()).await;
    raw.response().await.status
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_largest_queue_gives_way_and_newcomers_are_taken_again() {
    let server = options()
        .without("URINGCAST_LIMITS__EXEMPT")
        .shards(1)
        .env("URINGCAST_LIMITS__MEMORY_BYTES", BOUND)
        .env("URINGCAST_LIMITS__OUTBOX_BYTES", 256 * MIB)
        .env("URINGCAST_LOBBY__HISTORY_SIZE", 0)
        .start();
    let metrics = Metrics::of(&server).await;
    let (mut loud, _) = Client::join(&server, "loud", "Loud").await;
    let mut deaf = Raw::upgraded(&server, "/ws").await;
    deaf.write(&auth("deaf")).await;
    loud.find("user_online").await;

    // What is said waits for one who never reads.
    let text = "x".repeat(200_000);
    let end = Instant::now() + DEADLINE;
    while !server.log().contains("memory is short") {
        assert!(Instant::now() < end, "{} MiB, and nothing is short", server.resident() / MIB);
        loud.say(&text).await;
        loud.find("message").await;
    }
    // The largest queue gives way, and those who read stay.
    metrics.reach("uringcast_memory_closes_total", |count| count == 1).await;
    assert_eq!(metrics.get("uringcast_closes_total{code=\"4508\"}").await, 1);
    server.logged("queues of slow clients were shed or closed").await;
    loud.say("still here").await;
    loud.find("message").await;
    deaf.rest().await;

    let end = Instant::now() + DEADLINE;
    while knock(&server).await != 101 {
        assert!(Instant::now() < end, "{} MiB resident: {}", server.resident() / MIB, server.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(server.log().contains("memory is enough again"), "{}", server.log());
    loud.send(&json!({"type": "subscribe", "id": "2", "data": {"channel": "new"}})).await;
    loud.find("subscribed").await;
    let (mut late, _) = Client::join(&server, "late", "Late").await;
    loud.say("welcome").await;
    assert_eq!(late.find("message").await["data"]["text"], "welcome");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_publications_may_be_dropped_the_largest_queue_is_shed() {
    let server = options()
        .without("URINGCAST_LIMITS__EXEMPT")
        .shards(2)
        .env("URINGCAST_LIMITS__MEMORY_BYTES", BOUND)
        .env("URINGCAST_LIMITS__OUTBOX_BYTES", 256 * MIB)
        .env("URINGCAST_LOBBY__HISTORY_SIZE", 0)
        .env("URINGCAST_LOBBY__OVERFLOW", "drop_oldest")
        .start();
    let metrics = Metrics::of(&server).await;
    let (mut loud, _) = Client::join(&server, "loud", "Loud").await;
    let mut deaf = Raw::upgraded(&server, "/ws").await;
    deaf.write(&auth("deaf")).await;
    loud.find("user_online").await;
    let text = "x".repeat(200_000);
    let end = Instant::now() + DEADLINE;
    while metrics.get("uringcast_memory_sheds_total").await == 0 {
        assert!(Instant::now() < end, "{} MiB, and nothing is shed", server.resident() / MIB);
        let said = vec![json!({"type": "message", "data": {"text": text}}); 20];
        loud.pipeline(&said).await;
        for _ in said {
            loud.find("message").await;
        }
    }
    assert_eq!(metrics.get("uringcast_memory_closes_total").await, 0);
    // The one that was shed reads on, and is told of the gap.
    loop {
        let value = deaf.json().await;
        if value["type"] == "gap" {
            assert_eq!(value["data"]["reason"], "slow_consumer");
            break;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn histories_give_way_where_no_queue_can() {
    let server = options()
        .without("URINGCAST_LIMITS__EXEMPT")
        .shards(2)
        .env("URINGCAST_LIMITS__MEMORY_BYTES", BOUND)
        .env("URINGCAST_LOBBY__HISTORY_SIZE", 10_000)
        .start();
    let metrics = Metrics::of(&server).await;
    let (mut loud, _) = Client::join(&server, "loud", "Loud").await;
    let text = "x".repeat(200_000);
    let end = Instant::now() + DEADLINE;
    while metrics.get("uringcast_memory_evictions_total").await == 0 {
        assert!(Instant::now() < end, "{} MiB, and histories keep all", server.resident() / MIB);
        let said = vec![json!({"type": "message", "data": {"text": text}}); 20];
        loud.pipeline(&said).await;
        for _ in said {
            loud.find("message").await;
        }
    }
    server.logged("memory is enough again").await;
    assert_eq!(metrics.get("uringcast_memory_closes_total").await, 0);
    // What is left is the newest, without a hole.
    let page = loud.ask("history", json!({"channel": "lobby", "limit": 5, "reverse": true})).await;
    let newest = page["data"]["offset"].as_u64().expect("an offset");
    let offsets = crate::channel_support::listed(&page);
    assert_eq!(offsets, (0..offsets.len() as u64).map(|back| newest - back).collect::<Vec<_>>());
}

/// Subscribes each client to channels of its own, all of one length, and waits for every answer.
async fn subscribe_all(clients: &mut [Client], name: impl Fn(usize, usize) -> String, each: usize) {
    for (at, client) in clients.iter_mut().enumerate() {
        for n in 0..each {
            client.send(&json!({"type": "subscribe", "data": {"channel": name(at, n)}})).await;
        }
        for _ in 0..each {
            client.find("subscribed").await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_personal_channel_and_a_further_subscription_are_small() {
    const CLIENTS: usize = 200;
    const EACH: usize = 100;
    let server = options()
        .shards(1)
        .env("URINGCAST_LIMITS__SUBSCRIPTIONS", 1_000)
        .env("URINGCAST_LOBBY__PRESENCE", "off")
        .start();
    let mut clients = Vec::new();
    for at in 0..CLIENTS {
        clients.push(Client::join(&server, format!("user-{at:04}"), "x").await.0);
    }
    // What is held for each connection and each buffer is there before the first measurement.
    subscribe_all(&mut clients, |_, n| format!("common-{n:08}"), EACH).await;
    let before = server.resident();
    subscribe_all(&mut clients, |at, n| format!("mine-{at:04}-{n:04}"), EACH).await;
    let personal = server.resident().saturating_sub(before) / (CLIENTS * EACH) as u64;
    let before = server.resident();
    subscribe_all(&mut clients, |_, n| format!("other-{n:08}"), EACH).await;
    let further = server.resident().saturating_sub(before) / (CLIENTS * EACH) as u64;
    // More than what was measured: pages and tables grow in steps, and unused pages are given back at any time.
    assert!(personal <= 1_200, "{personal} bytes for a channel with one subscriber");
    assert!(further <= 160, "{further} bytes for a further subscription");
}
