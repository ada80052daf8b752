//! Clients that read more slowly than they are sent to: what each policy does to them, and that nobody else pays.

use std::collections::BTreeMap;

use rustls::version;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::channel_support::{listed, member, members_publish, offset, since};
use crate::support::tls::{Files, Secure};
use crate::support::{Client, Event, Options, Server, until};

/// So much that the kernel's buffers and the bound are filled many times over.
const COUNT: u64 = 600;
const BYTES: usize = 64 * 1024;
const BOUND: usize = 1 << 20;

fn options(overflow: &str) -> Options {
    let options = members_publish().shards(2).env("URINGCAST_LIMITS__OUTBOX_BYTES", BOUND);
    options.env("URINGCAST_CHANNELS__OVERFLOW", overflow).env("URINGCAST_CHANNELS__HISTORY_SIZE", COUNT)
}

fn content(n: u64) -> Value {
    json!({"n": n, "fill": "x".repeat(BYTES)})
}

/// Publishes all of it and reads it itself, which a stalled reader must not hinder. Keys go round in `keys`.
async fn flood(bob: &mut Client, keys: u64) -> Value {
    let mut epoch = Value::Null;
    for n in 1..=COUNT {
        let mut data = json!({"channel": "news", "data": content(n)});
        if keys > 0 {
            data["key"] = format!("k{}", n % keys).into();
        }
        let ack = bob.ask("publish", data).await;
        assert_eq!(offset(&ack), n);
        epoch = ack["data"]["epoch"].clone();
    }
    epoch
}

/// What a reader gets from now on, up to the top or the close.
#[derive(Default)]
struct Got {
    /// What was not of the channel: between channels there is no order.
    others: Vec<Value>,
    publications: Vec<(u64, Option<String>)>,
    /// From, to, reason.
    gaps: Vec<(u64, u64, String)>,
    closed: Option<u16>,
}

async fn read<S: AsyncRead + AsyncWrite + Unpin>(client: &mut Client<S>) -> Got {
    let mut got = Got::default();
    loop {
        match client.event().await {
            Event::Text(text) => {
                let value: Value = serde_json::from_str(&text).expect("JSON");
                let data = &value["data"];
                match value["type"].as_str() {
                    Some("publication") => {
                        assert_eq!(data["data"]["n"], data["offset"]);
                        let key = data["key"].as_str().map(str::to_owned);
                        got.publications.push((offset(&value), key));
                        if offset(&value) == COUNT {
                            return got;
                        }
                    }
                    Some("gap") => {
                        let number = |name: &str| data[name].as_u64().expect("a number");
                        let reason = data["reason"].as_str().expect("a reason").to_owned();
                        got.gaps.push((number("from"), number("to"), reason));
                    }
                    _ => got.others.push(value),
                }
            }
            Event::Close(code, _) => {
                got.closed = Some(code);
                return got;
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn disconnect_ends_the_slow_one_which_gets_the_rest_when_it_returns() {
    let server = options("disconnect").start();
    let mut ann = member(&server, "ann", "news").await;
    let mut bob = member(&server, "bob", "news").await;
    // It reads on as soon as it is closed: one that doesn't for two seconds is reset.
    let reading = async {
        until("ann is closed", async || server.log().contains("(4508)").then_some(())).await;
        read(&mut ann).await
    };
    let (epoch, got) = tokio::join!(flood(&mut bob, 0), reading);
    assert_eq!(got.closed, Some(4508));
    assert!(got.gaps.is_empty() && !got.publications.is_empty());
    assert!(got.publications.iter().zip(1..).all(|(got, n)| got.0 == n), "a hole before the close");
    let mut at = got.publications.len() as u64;
    // More is missing than one recovery takes, so it comes page by page.
    let (mut ann, _) = Client::join(&server, "ann", "ann").await;
    let back = ann.subscribe_from("news", since(&epoch, at)).await;
    assert_eq!(back["data"]["recovered"], false, "{}", back["data"]["recovered"]);
    let gap = ann.expect("gap").await;
    assert_eq!((&gap["data"]["from"], &gap["data"]["to"]), (&json!(at + 1), &json!(COUNT)));
    while at < COUNT {
        let page = ann.ask("history", json!({"channel": "news", "since": since(&epoch, at)})).await;
        for n in listed(&page) {
            at += 1;
            assert_eq!(n, at);
        }
    }
    assert_eq!(offset(&ann.publish("news", json!(0)).await), COUNT + 1);
}

#[tokio::test]
async fn drop_oldest_leaves_out_what_the_gaps_name() {
    let server = options("drop_oldest").start();
    let ann = member(&server, "ann", "news").await;
    gaps_name_what_is_left_out(&server, ann).await;
}

/// What TLS has encrypted and the kernel has not taken belongs to what has begun to leave: it comes whole.
#[tokio::test]
async fn drop_oldest_does_so_over_tls() {
    let files = Files::new();
    let server = files.beside(options("drop_oldest")).start();
    let ann = secure_member(&server, &files).await;
    gaps_name_what_is_left_out(&server, ann).await;
}

async fn secure_member(server: &Server, files: &Files) -> Secure {
    let mut client = Secure::signed_in(server, files, 1, &version::TLS13).await;
    client.subscribe("news").await;
    client
}

async fn gaps_name_what_is_left_out<S: AsyncRead + AsyncWrite + Unpin>(server: &Server, mut ann: Client<S>) {
    let mut bob = member(server, "bob", "news").await;
    flood(&mut bob, 0).await;
    // The lobby's messages and answers are not dropped.
    bob.say("still here").await;
    bob.find("message").await;
    ann.send(&json!({"type": "heartbeat"})).await;
    let got = read(&mut ann).await;
    assert_eq!(got.closed, None);
    assert!(!got.gaps.is_empty() && got.gaps.iter().all(|gap| gap.2 == "slow_consumer"), "{:?}", got.gaps);
    // Publications and gaps, in order, tell every number once.
    let mut told: Vec<(u64, u64)> = got.publications.iter().map(|p| (p.0, p.0)).collect();
    told.extend(got.gaps.iter().map(|gap| (gap.0, gap.1)));
    told.sort_unstable();
    let mut at = 0;
    for (from, to) in told {
        assert_eq!(from, at + 1);
        assert!(to >= from);
        at = to;
    }
    assert_eq!(at, COUNT);
    let mut others = got.others;
    // In either order: one comes from the lobby's owner, the other from her own shard.
    while !["message", "heartbeat"].iter().all(|kind| others.iter().any(|value| value["type"] == *kind)) {
        others.push(ann.next().await);
    }
    let said = others.iter().find(|value| value["type"] == "message").expect("just seen");
    assert_eq!(said["data"]["text"], "still here");
}

#[tokio::test]
async fn conflate_keeps_the_newest_of_each_key() {
    let server = options("conflate").start();
    let ann = member(&server, "ann", "news").await;
    the_newest_of_each_key_comes(&server, ann).await;
}

#[tokio::test]
async fn conflate_does_so_over_tls() {
    let files = Files::new();
    let server = files.beside(options("conflate")).start();
    let ann = secure_member(&server, &files).await;
    the_newest_of_each_key_comes(&server, ann).await;
}

async fn the_newest_of_each_key_comes<S: AsyncRead + AsyncWrite + Unpin>(server: &Server, mut ann: Client<S>) {
    const KEYS: u64 = 5;
    let mut bob = member(server, "bob", "news").await;
    flood(&mut bob, KEYS).await;
    let got = read(&mut ann).await;
    assert_eq!(got.closed, None);
    assert!(got.publications.is_sorted_by_key(|p| p.0), "they ascend");
    let mut newest = BTreeMap::new();
    for (offset, key) in &got.publications {
        newest.insert(key.clone().expect("a key"), *offset);
    }
    let expected: BTreeMap<_, _> = (COUNT - KEYS + 1..=COUNT).map(|n| (format!("k{}", n % KEYS), n)).collect();
    assert_eq!(newest, expected);
    assert!(!got.gaps.is_empty() && got.gaps.iter().all(|gap| gap.2 == "conflated"), "{:?}", got.gaps);
    let came: std::collections::BTreeSet<u64> = got.publications.iter().map(|p| p.0).collect();
    assert!(came.len() < COUNT as usize, "something was left out");
    for n in (1..=COUNT).filter(|n| !came.contains(n)) {
        assert!(got.gaps.iter().any(|gap| gap.0 <= n && n <= gap.1), "{n} is neither sent nor told of");
    }
}

#[tokio::test]
async fn without_keys_conflate_drops_the_oldest() {
    let server = options("conflate").start();
    let mut ann = member(&server, "ann", "news").await;
    let mut bob = member(&server, "bob", "news").await;
    flood(&mut bob, 0).await;
    let got = read(&mut ann).await;
    assert_eq!(got.closed, None);
    assert!(!got.gaps.is_empty() && got.gaps.iter().all(|gap| gap.2 == "slow_consumer"), "{:?}", got.gaps);
}

#[tokio::test]
async fn stalled_readers_cost_their_bound_and_no_more() {
    const READERS: usize = 10;
    // No history: what is held is what waits.
    let server: Server = options("drop_oldest").env("URINGCAST_CHANNELS__HISTORY_SIZE", 0).start();
    let mut bob = member(&server, "bob", "news").await;
    let before = server.resident();
    let mut stalled = Vec::new();
    for n in 0..READERS {
        stalled.push(member(&server, &format!("u{n}"), "news").await);
    }
    flood(&mut bob, 0).await;
    let grown = server.resident().saturating_sub(before);
    // The runs are shared, but which part of them each holds differs.
    let most = (READERS + 1) * BOUND + (24 << 20);
    assert!(grown < most as u64, "{} MiB", grown >> 20);
    drop(stalled);
}
