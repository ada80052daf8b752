//! Recovery: a client that was away gets exactly what it missed, or is told what it did not get.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::channel_support::{listed, member, members_publish, offset, since};
use crate::support::{Client, Options, Server, assert_shape, token};

/// Comes back with a position; the answer and the connection.
async fn back(server: &Server, recover: Value) -> (Client, Value) {
    let (mut client, _) = Client::join(server, "ann", "Ann").await;
    client.send(&json!({"type": "subscribe", "data": {"channel": "news", "recover": recover}})).await;
    let value = client.next().await;
    assert_eq!(value["type"], "subscribed", "{value}");
    (client, value)
}

/// A server, a member that stays, and the channel's epoch, with so many publications.
async fn filled(options: Options, count: u64) -> (Server, Client, Value) {
    let server = options.start();
    let mut bob = member(&server, "bob", "news").await;
    let mut epoch = Value::Null;
    for n in 1..=count {
        let ack = bob.publish("news", json!(n)).await;
        assert_eq!(offset(&ack), n);
        epoch = ack["data"]["epoch"].clone();
    }
    (server, bob, epoch)
}

/// Not recovered, with the gap that the contract asks for.
async fn lost(server: &Server, recover: Value, epoch: &Value, from: u64, top: u64) {
    let (mut ann, answer) = back(server, recover).await;
    let expected = json!({"type": "subscribed", "code": 200, "data": {"channel": "news", "epoch": epoch, "offset": top,
        "recovered": false, "publications": [], "overflow": "disconnect"}});
    assert_shape(&answer, &expected);
    if from <= top {
        let gap = json!({"type": "gap", "data": {"channel": "news", "epoch": epoch, "from": from, "to": top,
            "reason": "history_lost"}});
        assert_shape(&ann.next().await, &gap);
    }
    ann.nothing_pending().await;
    ann.leave().await;
}

#[tokio::test]
async fn what_was_missed_comes_in_the_answer_and_never_again() {
    let (server, mut bob, epoch) = filled(members_publish(), 10).await;
    for at in [0, 7, 10] {
        let (mut ann, answer) = back(&server, since(&epoch, at)).await;
        assert_eq!((&answer["data"]["recovered"], offset(&answer)), (&json!(true), 10));
        assert_eq!(listed(&answer), (at + 1..=10).collect::<Vec<u64>>());
        ann.nothing_pending().await;
        ann.leave().await;
        bob.find("user_offline").await;
    }
    let (_, answer) = back(&server, since(&epoch, 9)).await;
    let element = json!({"type": "publication", "channel": "news", "offset": 10, "data": 10,
        "sender": {"id": "bob", "username": "bob"}, "timestamp": "<ms>"});
    let expected = json!({"type": "subscribed", "code": 200, "data": {"channel": "news", "epoch": epoch, "offset": 10,
        "recovered": true, "publications": [element], "overflow": "disconnect"}});
    assert_shape(&answer, &expected);
}

#[tokio::test]
async fn what_is_too_old_is_a_gap() {
    let (server, _bob, epoch) = filled(members_publish().env("URINGCAST_CHANNELS__HISTORY_SIZE", 3), 10).await;
    let (_, answer) = back(&server, since(&epoch, 7)).await;
    assert_eq!(listed(&answer), [8, 9, 10]);
    lost(&server, since(&epoch, 6), &epoch, 7, 10).await;
    lost(&server, since(&epoch, 0), &epoch, 1, 10).await;
}

#[tokio::test]
async fn without_history_only_who_missed_nothing_is_recovered() {
    let (server, _bob, epoch) = filled(members_publish().env("URINGCAST_CHANNELS__HISTORY_SIZE", 0), 2).await;
    let (_, answer) = back(&server, since(&epoch, 2)).await;
    assert_eq!((&answer["data"]["recovered"], listed(&answer)), (&json!(true), vec![]));
    lost(&server, since(&epoch, 1), &epoch, 2, 2).await;
}

#[tokio::test]
async fn history_goes_with_age() {
    let (server, mut bob, epoch) = filled(members_publish().env("URINGCAST_CHANNELS__HISTORY_AGE_MS", 300), 3).await;
    let end = Instant::now() + Duration::from_secs(10);
    while !listed(&bob.ask("history", json!({"channel": "news"})).await).is_empty() {
        assert!(Instant::now() < end, "history stays");
    }
    lost(&server, since(&epoch, 2), &epoch, 3, 3).await;
    assert_eq!(offset(&bob.publish("news", json!(4)).await), 4);
}

#[tokio::test]
async fn a_position_above_the_top_is_not_recovered() {
    let (server, _bob, epoch) = filled(members_publish(), 3).await;
    for at in [4, 1 << 53, u64::MAX - 1, u64::MAX] {
        lost(&server, since(&epoch, at), &epoch, at.saturating_add(1), 3).await;
    }
}

#[tokio::test]
async fn another_epoch_is_lost_from_the_first_on() {
    let (server, bob, epoch) = filled(members_publish(), 3).await;
    lost(&server, since(&json!("other"), 2), &epoch, 1, 3).await;
    lost(&server, since(&json!(""), 0), &epoch, 1, 3).await;
    drop((server, bob));
    // After a restart every epoch is another one.
    let server = members_publish().start();
    let mut bob = member(&server, "bob", "news").await;
    let ack = bob.publish("news", json!(1)).await;
    assert_ne!(ack["data"]["epoch"], epoch);
    lost(&server, since(&epoch, 3), &ack["data"]["epoch"], 1, 1).await;
    // A channel that nothing was published in has nothing to be missing.
    let (mut ann, _) = Client::join(&server, "ann", "Ann").await;
    let answer = ann.subscribe_from("empty", since(&epoch, 3)).await;
    assert_eq!((&answer["data"]["recovered"], offset(&answer)), (&json!(false), 0));
    ann.nothing_pending().await;
}

#[tokio::test]
async fn what_is_larger_than_half_the_outbox_is_paged_through_history() {
    let options = members_publish().env("URINGCAST_LIMITS__OUTBOX_BYTES", 65_536);
    let server = options.start();
    let mut bob = member(&server, "bob", "news").await;
    let mut epoch = Value::Null;
    for _ in 0..50 {
        epoch = bob.publish("news", json!("x".repeat(1000))).await["data"]["epoch"].clone();
    }
    lost(&server, since(&epoch, 0), &epoch, 1, 50).await;
    let (_, answer) = back(&server, since(&epoch, 30)).await;
    assert_eq!(listed(&answer), (31..=50).collect::<Vec<_>>());
    let (mut ann, _) = Client::join(&server, "ann", "Ann").await;
    ann.subscribe("news").await;
    let (mut at, mut got) = (0, Vec::new());
    while at < 50 {
        let page = ann.ask("history", json!({"channel": "news", "since": since(&epoch, at), "limit": 1000})).await;
        let some = listed(&page);
        assert!(!some.is_empty() && some.len() < 50, "a page of {}", some.len());
        at = *some.last().expect("not empty");
        got.extend(some);
    }
    assert_eq!(got, (1..=50).collect::<Vec<_>>());
    let page = ann.ask("history", json!({"channel": "news", "since": since(&epoch, at)})).await;
    assert!(listed(&page).is_empty());
}

#[tokio::test]
async fn a_bad_position_is_400() {
    let server = members_publish().start();
    let (mut ann, _) = Client::join(&server, "ann", "Ann").await;
    for recover in [
        json!(1),
        json!({"epoch": "e"}),
        json!({"offset": 1}),
        json!({"epoch": "e", "offset": -1}),
        json!({"epoch": "e", "offset": 1.5}),
        json!({"epoch": 1, "offset": 1}),
    ] {
        ann.ask_refused("subscribe", json!({"channel": "news", "recover": recover}), 400).await;
    }
    ann.subscribe("news").await;
}

#[tokio::test]
async fn the_lobby_recovers_with_auth() {
    let server = Options::new().start();
    let (mut bob, success) = Client::join(&server, "bob", "Bob").await;
    let epoch = &success["data"]["lobby"]["epoch"];
    for text in ["one", "two", "three"] {
        bob.say(text).await;
        bob.find("message").await;
    }
    let mut ann = Client::open(&server).await;
    ann.send(&json!({"type": "auth", "data": {"token": token("ann", "Ann"), "recover": since(epoch, 1)}})).await;
    let success = ann.expect("auth_success").await;
    let lobby = &success["data"]["lobby"];
    let texts: Vec<_> = lobby["publications"].as_array().expect("a list").iter().map(|p| p["text"].clone()).collect();
    assert_eq!((texts, &lobby["recovered"]), (vec![json!("two"), json!("three")], &json!(true)));
    ann.nothing_pending().await;
    ann.leave().await;
    let mut ann = Client::open(&server).await;
    ann.send(&json!({"type": "auth", "data": {"token": token("ann", "Ann"), "recover": since(&json!("old"), 9)}}))
        .await;
    let success = ann.expect("auth_success").await;
    assert_eq!(
        (&success["data"]["lobby"]["recovered"], &success["data"]["lobby"]["publications"]),
        (&json!(false), &json!([]))
    );
    let gap = json!({"type": "gap", "data": {"channel": "lobby", "epoch": epoch, "from": 1, "to": 4,
        "reason": "history_lost"}});
    assert_shape(&ann.next().await, &gap);
}

/// Comes and goes while somebody publishes as fast as it will go; every number has to come once and in order.
async fn under_load(window_ms: u64) {
    let options = members_publish().shards(2).env("URINGCAST_CHANNELS__BATCH_WINDOW_MS", window_ms);
    let server = options.env("URINGCAST_CHANNELS__HISTORY_SIZE", 100_000).start();
    let mut bob = member(&server, "bob", "news").await;
    let first = bob.publish("news", json!(1)).await;
    let epoch = first["data"]["epoch"].clone();
    let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
    let publisher = tokio::spawn(async move {
        let mut n = 1;
        while stopped.try_recv().is_err() {
            let burst: Vec<_> = (0..16)
                .map(|_| {
                    n += 1;
                    json!({"type": "publish", "id": "p", "data": {"channel": "news", "data": n}})
                })
                .collect();
            bob.pipeline(&burst).await;
            for ack in bob.collect("ack", burst.len()).await {
                assert_eq!(ack["code"], 200, "{ack}");
            }
        }
        (bob, n)
    });
    let (mut at, mut recovered, mut live) = (1, 0, 0);
    for round in 0..25 {
        let (mut ann, answer) = back(&server, since(&epoch, at)).await;
        assert_eq!(answer["data"]["recovered"], true, "{answer}");
        for element in answer["data"]["publications"].as_array().expect("a list") {
            at += 1;
            recovered += 1;
            assert_eq!((&element["offset"], &element["data"]), (&json!(at), &json!(at)), "round {round}");
        }
        assert_eq!(offset(&answer), at);
        for _ in 0..40 {
            let value = ann.find("publication").await;
            at += 1;
            live += 1;
            assert_eq!((&value["data"]["offset"], &value["data"]["data"]), (&json!(at), &json!(at)), "round {round}");
        }
        if round % 2 == 0 { ann.vanish() } else { ann.leave().await }
    }
    stop.send(()).expect("it publishes");
    let (_bob, top) = publisher.await.expect("the publisher");
    let (_, answer) = back(&server, since(&epoch, at)).await;
    assert_eq!(listed(&answer), (at + 1..=top).collect::<Vec<u64>>());
    assert!(recovered > 0 && live > 0, "{recovered} recovered, {live} live");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_missing_or_double_at_full_speed() {
    under_load(0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_missing_or_double_with_a_batch_window() {
    under_load(20).await;
}
