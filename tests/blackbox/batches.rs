//! Batch windows: what waits in one keeps nobody else waiting, and nobody else ends it.

use serde_json::json;

use crate::api::options;
use crate::metrics::Metrics;
use crate::support::{Client, Options, Server};

/// `slow:` has a window that ends with the server only, within the time of a test.
fn slow() -> Options {
    options()
        .env("URINGCAST_NAMESPACES__SLOW__BATCH_WINDOW_MS", 60_000)
        .env("URINGCAST_NAMESPACES__SLOW__PUBLISH", "members")
        .env("URINGCAST_CHANNELS__PUBLISH", "members")
        .env("URINGCAST_LIMITS__REQUEST_MS", 120_000)
}

async fn subscribed(server: &Server, user: &str, channel: &str) -> Client {
    let (mut client, _) = Client::join(server, user, user).await;
    client.subscribe(channel).await;
    client
}

#[tokio::test]
async fn what_waits_in_a_window_keeps_nobody_else_waiting() {
    for shards in [1, 2] {
        let server = slow().shards(shards).env("URINGCAST_LOBBY__PRESENCE", "off").start();
        let mut bystander = subscribed(&server, "bystander", "other").await;
        // More than the credits of a lane.
        let mut waiting = Vec::new();
        for user in 0..5 {
            let mut client = subscribed(&server, &format!("user-{user}"), "slow:a").await;
            let publish =
                |n: u32| json!({"type": "publish", "id": n.to_string(), "data": {"channel": "slow:a", "data": n}});
            client.pipeline(&(0..200).map(publish).collect::<Vec<_>>()).await;
            // It has been read when this is answered.
            client.ask_next("heartbeat", json!({})).await;
            waiting.push(client);
        }
        bystander.publish("other", json!("at once")).await;
        let mut newcomer = subscribed(&server, "newcomer", "other").await;
        newcomer.publish("other", json!("too")).await;
        let page = newcomer.ask("history", json!({"channel": "other"})).await;
        assert_eq!(page["data"]["publications"].as_array().unwrap().len(), 2, "{page}");
        // 1,000 wait; at 1,024 the window ends for all.
        newcomer.subscribe("slow:a").await;
        for n in 0..24 {
            newcomer.send(&json!({"type": "publish", "data": {"channel": "slow:a", "data": n}})).await;
        }
        for client in &mut waiting {
            client.find("ack").await;
        }
        Metrics::of(&server).await.reach("uringcast_batches_cut_total", |count| count == 1).await;
    }
}

#[tokio::test]
async fn nobody_ends_a_window_by_asking() {
    let server = slow().shards(2).start();
    let mut subscriber = subscribed(&server, "subscriber", "slow:a").await;
    let mut publisher = subscribed(&server, "publisher", "slow:a").await;
    for n in 1..=3 {
        let data = json!({"channel": "slow:a", "data": n});
        publisher.send(&json!({"type": "publish", "id": n.to_string(), "data": data})).await;
    }
    publisher.ask("heartbeat", json!({})).await;
    let metrics = Metrics::of(&server).await;
    metrics.reach("uringcast_publications_total", |count| count == 3).await;
    let mut asker = subscribed(&server, "asker", "slow:a").await;
    for _ in 0..20 {
        let page = asker.ask("history", json!({"channel": "slow:a"})).await;
        assert_eq!((&page["data"]["offset"], &page["data"]["publications"]), (&json!(0), &json!([])), "{page}");
        asker.ask("unsubscribe", json!({"channel": "slow:a"})).await;
        let epoch = page["data"]["epoch"].clone();
        let again = json!({"channel": "slow:a", "recover": {"epoch": epoch, "offset": 0}});
        let answer = asker.ask("subscribe", again).await;
        assert_eq!((&answer["data"]["offset"], &answer["data"]["recovered"]), (&json!(0), &json!(true)), "{answer}");
    }
    // The publisher's own questions wait behind its publications.
    publisher.send(&json!({"type": "history", "id": "h", "data": {"channel": "slow:a"}})).await;
    publisher.ask("heartbeat", json!({})).await;
    subscriber.find("user_online").await;
    subscriber.ask("heartbeat", json!({})).await;
    server.signal("TERM");
    // All get all of it, once, whenever they came.
    for client in [&mut subscriber, &mut asker] {
        for n in 1..=3 {
            let publication = client.find("publication").await;
            assert_eq!((&publication["data"]["offset"], &publication["data"]["data"]), (&json!(n), &json!(n)));
        }
    }
    for n in 1..=3 {
        assert_eq!(publisher.find("ack").await["id"], n.to_string());
    }
    let page = publisher.find("history").await;
    assert_eq!(page["data"]["publications"].as_array().unwrap().len(), 3, "{page}");
}
