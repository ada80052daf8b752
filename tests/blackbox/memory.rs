//! Memory that gets short, and is enough again: who comes meanwhile is refused and who is there goes on, and then all
//! are taken as before. That it gets short at all is in `admission`.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::abuse::{MIB, auth};
use crate::metrics::{Metrics, options};
use crate::support::{Client, DEADLINE, Raw, Server, request};

async fn knock(server: &Server) -> u16 {
    let mut raw = Raw::connect(server).await;
    raw.write(request(server, "/ws", &[]).as_bytes()).await;
    raw.response().await.status
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_refused_for_want_of_memory_is_taken_once_there_is_enough() {
    let server = options()
        .without("URINGCAST_LIMITS__EXEMPT")
        .shards(1)
        .env("URINGCAST_LIMITS__MEMORY_BYTES", 96 * MIB)
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
    assert_eq!(knock(&server).await, 503);
    assert!(metrics.refusals("memory").await >= 1);
    loud.send(&json!({"type": "subscribe", "id": "1", "data": {"channel": "new"}})).await;
    assert_eq!(loud.find("error").await["code"], 503, "no new channel either");
    loud.say("still here").await;
    loud.find("message").await;

    drop(deaf);
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
