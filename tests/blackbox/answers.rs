//! Large answers: pages of history and members, and what is recovered. A client gets them one at a time as it takes them,
//! its user pays for them, and nobody is closed for asking.

use serde_json::{Value, json};

use crate::abuse::{KIB, MIB, text};
use crate::channel_support::{listed, members_publish, offset, since};
use crate::metrics::{Metrics, options};
use crate::support::{Client, Options, Raw, Server, request, token};

/// Texts that fill the lobby's history to the largest page, and bytes of each.
const TEXTS: u64 = 40;
const TEXT_BYTES: usize = 50_000;

/// Fills the lobby's history.
async fn fill_lobby(server: &Server) {
    let (mut writer, _) = Client::join(server, "writer", "Writer").await;
    for _ in 0..TEXTS {
        let ack = writer.ask("message", json!({"text": "a".repeat(TEXT_BYTES)})).await;
        assert_eq!(ack["type"], "ack", "{ack}");
    }
    writer.leave().await;
}

fn history(id: usize) -> Value {
    json!({"type": "history", "id": id.to_string(), "data": {"channel": "lobby", "limit": 1_000}})
}

/// Signs in over a connection that is not read any more.
async fn deaf(server: &Server, user: &str) -> Raw {
    let mut raw = Raw::connect(server).await;
    raw.write(request(server, "/ws", &[]).as_bytes()).await;
    assert_eq!(raw.response().await.status, 101);
    raw.json().await;
    raw.write(&text(&json!({"type": "auth", "data": {"token": token(user, user)}}))).await;
    assert_eq!(raw.json().await["type"], "auth_success");
    raw
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_asks_for_many_pages_and_reads_none_has_one_made() {
    let server = options().shards(1).start();
    let metrics = Metrics::of(&server).await;
    fill_lobby(&server).await;
    let before = server.resident();
    let sent = metrics.get("uringcast_replies_total").await;
    let mut eve = deaf(&server, "eve").await;
    let burst: Vec<u8> = (0..256).flat_map(|id| text(&history(id))).collect();
    eve.write(&burst).await;
    metrics.reach("uringcast_answers_delayed_total", |count| count > 0).await;
    // Others go on, and by the time they have been answered often all of her requests would have been.
    let (mut bob, _) = Client::join(&server, "bob", "Bob").await;
    for _ in 0..200 {
        assert_eq!(bob.ask("heartbeat", json!({})).await["code"], 200);
    }
    let grown = server.resident().saturating_sub(before);
    assert!(grown < 24 * MIB, "{} MiB grown for requests of {} KiB", grown / MIB, burst.len() as u64 / KIB);
    let made = metrics.get("uringcast_replies_total").await - sent;
    assert!(made < 200 + 60, "{made} replies, 200 of them to Bob");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_pages_come_in_order_to_who_reads_them() {
    for compression in ["off", "on"] {
        let server = Options::new().shards(2).env("URINGCAST_COMPRESSION__MODE", compression).start();
        fill_lobby(&server).await;
        let (mut ann, _) = Client::join(&server, "ann", "Ann").await;
        let requests: Vec<Value> = (0..30).map(history).collect();
        ann.pipeline(&requests).await;
        for id in 0..30 {
            let page = ann.next().await;
            assert_eq!((page["type"].as_str(), page["id"].as_str()), (Some("history"), Some(&*id.to_string())));
            assert_eq!(listed(&page), (1..=TEXTS).collect::<Vec<u64>>());
        }
        assert_eq!(ann.ask_next("heartbeat", json!({})).await["code"], 200);
    }
}

/// Twelve channels of 1.5 MB each, more than may wait for a client at a time by far.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_was_away_recovers_many_full_channels() {
    const CHANNELS: usize = 12;
    const EACH: u64 = 30;
    let exempt_or_not = [members_publish(), options().env("URINGCAST_CHANNELS__PUBLISH", "members")];
    for options in exempt_or_not {
        let server = options.shards(2).start();
        let (mut bob, _) = Client::join(&server, "bob", "Bob").await;
        let mut wanted = Vec::new();
        for n in 0..CHANNELS {
            let channel = format!("room-{n}");
            let epoch = bob.subscribe(&channel).await["data"]["epoch"].clone();
            // Rates have tests of their own: a second user each few channels.
            let (mut writer, _) = Client::join(&server, format!("writer-{n}"), "Writer").await;
            writer.subscribe(&channel).await;
            for _ in 0..EACH {
                let ack = writer.publish(&channel, json!("x".repeat(TEXT_BYTES))).await;
                assert_eq!(ack["type"], "ack", "{ack}");
            }
            writer.leave().await;
            wanted.push(json!({"channel": channel, "recover": since(&epoch, 0)}));
        }
        let mut ann = Client::open(&server).await;
        ann.send(&json!({"type": "auth", "data": {"token": token("ann", "Ann"), "channels": wanted}})).await;
        ann.expect("auth_success").await;
        // What is published meanwhile comes behind the answer, whichever came first.
        for n in 0..CHANNELS {
            let ack = bob.publish(&format!("room-{n}"), json!("live")).await;
            assert_eq!(offset(&ack), EACH + 1, "{ack}");
        }
        let mut position = [0; CHANNELS];
        while position.iter().any(|&at| at <= EACH) {
            let value = ann.next().await;
            if value["type"] == "user_offline" {
                continue;
            }
            let name = value["data"]["channel"].as_str().unwrap_or_else(|| panic!("{value} is of no channel"));
            let at = &mut position[name.strip_prefix("room-").unwrap().parse::<usize>().unwrap()];
            match value["type"].as_str() {
                Some("subscribed") => {
                    assert_eq!((*at, &value["data"]["recovered"]), (0, &json!(true)), "{name}");
                    let offsets = listed(&value);
                    assert_eq!(offsets, (1..=offsets.len() as u64).collect::<Vec<u64>>());
                    *at = offset(&value);
                    assert_eq!(offsets.len() as u64, *at);
                }
                Some("publication") => {
                    assert!(*at > 0 && offset(&value) == *at + 1, "{name}: {} behind {at}", offset(&value));
                    *at += 1;
                }
                other => panic!("{other:?} where only channels are told of"),
            }
        }
        ann.leave().await;
    }
}

/// Twice what may wait for a client is to be had at once: four pages. Further ones take two seconds each.
fn slow_answers() -> Options {
    let options = options().shards(1).env("URINGCAST_LIMITS__USER_ANSWER_BYTES_PER_S", MIB);
    options.env("URINGCAST_LIMITS__USER_ANSWER_BYTES_BURST", 1).env("URINGCAST_AUTH__DUPLICATE_LOGIN", "allow")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_the_rate_of_answers_is_not_taken_for_dead() {
    // A page takes longer than that, and meanwhile the server reads no pong.
    let options = slow_answers().env("URINGCAST_LIVENESS__PING_INTERVAL_MS", 300);
    let server = options.env("URINGCAST_LIVENESS__PONG_TIMEOUT_MS", 300).start();
    let metrics = Metrics::of(&server).await;
    fill_lobby(&server).await;
    let (mut ann, _) = Client::join(&server, "ann", "Ann").await;
    let requests: Vec<Value> = (0..7).map(history).collect();
    ann.pipeline(&requests).await;
    for id in 0..7 {
        assert_eq!(ann.find("history").await["id"], id.to_string());
    }
    assert!(metrics.get("uringcast_answers_delayed_total").await >= 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sign_in_waits_for_the_rate_of_answers_beyond_its_deadline() {
    let server = slow_answers().env("URINGCAST_AUTH__DEADLINE_MS", 500).start();
    let metrics = Metrics::of(&server).await;
    fill_lobby(&server).await;
    let (mut ann, success) = Client::join(&server, "ann", "Ann").await;
    let requests: Vec<Value> = (0..4).map(history).collect();
    ann.pipeline(&requests).await;
    for id in 0..4 {
        assert_eq!(ann.find("history").await["id"], id.to_string());
    }
    let mut again = Client::open(&server).await;
    let recover = since(&success["data"]["lobby"]["epoch"], 0);
    again.send(&json!({"type": "auth", "data": {"token": token("ann", "Ann"), "recover": recover}})).await;
    let success = again.next().await;
    assert_eq!(success["data"]["lobby"]["recovered"], true, "{}", success["type"]);
    assert!(metrics.get("uringcast_answers_delayed_total").await >= 1);
    // Another user doesn't wait for her.
    let (mut bob, _) = Client::join(&server, "bob", "Bob").await;
    assert_eq!(listed(&bob.ask("history", json!({"channel": "lobby", "limit": 1_000})).await).len() as u64, TEXTS);
    assert_eq!(ann.ask("heartbeat", json!({})).await["code"], 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_connections_of_a_user_that_read_nothing_hold_a_few_answers() {
    let server = options().shards(2).env("URINGCAST_AUTH__DUPLICATE_LOGIN", "allow").start();
    let metrics = Metrics::of(&server).await;
    fill_lobby(&server).await;
    let before = server.resident();
    let mut all = Vec::new();
    for _ in 0..60 {
        let mut eve = deaf(&server, "eve").await;
        eve.write(&[text(&history(1)), text(&history(2))].concat()).await;
        all.push(eve);
    }
    metrics.reach("uringcast_answers_delayed_total", |count| count >= 60).await;
    let (mut bob, _) = Client::join(&server, "bob", "Bob").await;
    for _ in 0..100 {
        bob.ask("heartbeat", json!({})).await;
    }
    let grown = server.resident().saturating_sub(before);
    assert!(grown < 60 * MIB, "{} MiB grown", grown / MIB);
    // When those are gone, the last one is served.
    let mut last = all.pop().expect("some");
    drop(all);
    while last.frame().await.expect("it stays").payload.len() < TEXTS as usize * TEXT_BYTES {}
}
