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

/// What a reader gets from now on, up to the top or the close. Publications and gaps have to follow each other without
/// a hole and without an overlap.
#[derive(Default)]
struct Got {
    /// All up to this offset came or was told lost.
    position: u64,
    epoch: Value,
    /// What was not of the channel: between channels there is no order.
    others: Vec<Value>,
    publications: Vec<(u64, Option<String>)>,
    /// From, to, reason.
    gaps: Vec<(u64, u64, String)>,
    closed: Option<u16>,
}

async fn read<S: AsyncRead + AsyncWrite + Unpin>(client: &mut Client<S>) -> Got {
    read_until(client, |got| got.position == COUNT).await
}

async fn read_until<S: AsyncRead + AsyncWrite + Unpin>(client: &mut Client<S>, enough: impl Fn(&Got) -> bool) -> Got {
    let mut got = Got::default();
    while !enough(&got) {
        match client.event().await {
            Event::Text(text) => {
                let value: Value = serde_json::from_str(&text).expect("JSON");
                let data = &value["data"];
                match value["type"].as_str() {
                    Some("publication") => {
                        assert_eq!(data["data"]["n"], data["offset"]);
                        assert_eq!(offset(&value), got.position + 1, "a hole, or told lost before");
                        got.position = offset(&value);
                        got.publications.push((got.position, data["key"].as_str().map(str::to_owned)));
                    }
                    Some("gap") => {
                        let number = |name: &str| data[name].as_u64().expect("a number");
                        let reason = data["reason"].as_str().expect("a reason").to_owned();
                        let (from, to) = (number("from"), number("to"));
                        assert!(from == got.position + 1 && from <= to, "{value} after {}", got.position);
                        (got.position, got.epoch) = (to, data["epoch"].clone());
                        got.gaps.push((from, to, reason));
                    }
                    _ => got.others.push(value),
                }
            }
            Event::Close(code, _) => {
                got.closed = Some(code);
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    got
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
    assert_eq!(got.position, COUNT);
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
    let mut newest = BTreeMap::new();
    for (offset, key) in &got.publications {
        newest.insert(key.clone().expect("a key"), *offset);
    }
    let expected: BTreeMap<_, _> = (COUNT - KEYS + 1..=COUNT).map(|n| (format!("k{}", n % KEYS), n)).collect();
    assert_eq!(newest, expected);
    assert!(!got.gaps.is_empty() && got.gaps.iter().all(|gap| gap.2 == "conflated"), "{:?}", got.gaps);
    let came: std::collections::BTreeSet<u64> = got.publications.iter().map(|p| p.0).collect();
    assert!(came.len() < COUNT as usize, "something was left out");
}

/// A gap says of nothing that it is lost that is still to come. So whoever is cut behind one recovers all of it.
#[tokio::test]
async fn a_client_that_is_cut_behind_a_gap_recovers_what_was_kept() {
    const KEYS: u64 = 5;
    let server = options("conflate").env("URINGCAST_LIMITS__OUTBOX_BYTES", 8 << 20).start();
    let mut ann = member(&server, "ann", "news").await;
    let mut bob = member(&server, "bob", "news").await;
    flood(&mut bob, KEYS).await;
    let got = read_until(&mut ann, |got| !got.gaps.is_empty()).await;
    // What is kept is looked at when it has doubled.
    assert!(got.position < COUNT && COUNT - got.position <= 4 * KEYS, "at {}, kept are the newest", got.position);
    ann.vanish();
    let (mut ann, _) = Client::join(&server, "ann", "ann").await;
    let back = ann.subscribe_from("news", since(&got.epoch, got.position)).await;
    assert_eq!(back["data"]["recovered"], true, "{}", back["data"]["recovered"]);
    assert_eq!(listed(&back), (got.position + 1..=COUNT).collect::<Vec<_>>());
}

/// Small publications that are kept came together with large ones that are not: they hold no more than themselves,
/// for one reader and for many.
#[tokio::test]
async fn what_is_kept_is_what_is_counted() {
    const READERS: usize = 4;
    let server: Server = options("conflate").env("URINGCAST_CHANNELS__HISTORY_SIZE", 0).start();
    let mut bob = member(&server, "bob", "news").await;
    let before = server.resident();
    let mut stalled = Vec::new();
    for n in 0..READERS {
        stalled.push(member(&server, &format!("u{n}"), "news").await);
    }
    let large = |n: u64| json!({"channel": "news", "data": content(n), "key": "hot"});
    let mut n = 0;
    for round in 0..COUNT {
        let small = json!({"channel": "news", "data": {"n": n + 1}, "key": format!("cold {round}")});
        n += 2;
        let both = [small, large(n)].map(|data| json!({"type": "publish", "id": n.to_string(), "data": data}));
        bob.pipeline(&both).await;
        for _ in both {
            while bob.next().await["id"].as_str() != Some(n.to_string().as_str()) {}
        }
    }
    let grown = server.resident().saturating_sub(before);
    let most = READERS * BOUND + (16 << 20);
    assert!(grown < most as u64, "{} MiB for {READERS} readers", grown >> 20);
    // All are still there, and told everything.
    for reader in &mut stalled {
        let got = read_until(reader, |got| got.position == n).await;
        assert_eq!(got.closed, None);
        let keys = got.publications.iter().filter_map(|p| p.1.clone()).collect::<std::collections::BTreeSet<_>>();
        assert_eq!(keys.len() as u64, COUNT + 1, "the newest of each key");
    }
}

/// Its answers are not dropped, and the gaps around them don't become many.
#[tokio::test]
async fn a_reader_that_only_sends_heartbeats_keeps_to_its_bound() {
    for overflow in ["drop_oldest", "conflate"] {
        let server: Server = options(overflow).env("URINGCAST_CHANNELS__HISTORY_SIZE", 0).start();
        let mut bob = member(&server, "bob", "news").await;
        let mut ann = member(&server, "ann", "news").await;
        let before = server.resident();
        for n in 1..=COUNT {
            ann.send(&json!({"type": "heartbeat"})).await;
            let data = json!({"channel": "news", "data": content(n), "key": "hot"});
            assert_eq!(offset(&bob.ask("publish", data).await), n);
        }
        let grown = server.resident().saturating_sub(before);
        assert!(grown < (BOUND + (16 << 20)) as u64, "{} MiB under {overflow}", grown >> 20);
        let got = read(&mut ann).await;
        assert_eq!((got.closed, got.position), (None, COUNT), "under {overflow}");
        assert!(got.gaps.len() < 20, "{} gaps under {overflow}", got.gaps.len());
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
