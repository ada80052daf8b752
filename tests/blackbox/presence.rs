//! Who is on a channel: events, digests, counts, pages, and clients that go without a word.

use std::collections::BTreeSet;
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::channel_support::{member, members_publish};
use crate::support::{Client, Options, Raw, Server, assert_shape, frame, request, token};

fn presence(mode: &str) -> Options {
    let options = members_publish().env("URINGCAST_CHANNELS__PRESENCE", mode);
    options.env("URINGCAST_AUTH__DUPLICATE_LOGIN", "allow").env("URINGCAST_CHANNELS__PRESENCE_WINDOW_MS", 150)
}

/// The next message that is not the lobby's.
async fn next_here(client: &mut Client) -> Value {
    loop {
        let value = client.next().await;
        if value["type"] != "user_online" && value["type"] != "user_offline" {
            return value;
        }
    }
}

/// Nothing of the channel is on its way: the next thing is the client's own publication.
async fn nothing_here(client: &mut Client, channel: &str) {
    client.send(&json!({"type": "publish", "data": {"channel": channel, "data": "barrier"}})).await;
    let value = next_here(client).await;
    assert_eq!(value["type"], "publication", "{value}");
}

fn ids(list: &Value) -> Vec<&str> {
    list.as_array().expect("a list").iter().map(|user| user["id"].as_str().expect("an id")).collect()
}

#[tokio::test]
async fn a_user_with_several_connections_joins_and_leaves_once() {
    let server = presence("events").shards(2).start();
    let mut ann = member(&server, "ann", "room").await;
    nothing_here(&mut ann, "room").await;
    let mut bobs = vec![member(&server, "bob", "room").await];
    let event = |kind: &str, count: u32| {
        json!({"type": kind, "data": {"channel": "room", "user": {"id": "bob", "username": "bob"}, "count": count,
            "timestamp": "<ms>"}})
    };
    assert_shape(&next_here(&mut ann).await, &event("join", 2));
    for _ in 0..3 {
        bobs.push(member(&server, "bob", "room").await);
    }
    nothing_here(&mut ann, "room").await;
    let page = ann.ask("presence", json!({"channel": "room"})).await;
    let members = json!([{"user": {"id": "ann", "username": "ann"}, "connections": 1},
        {"user": {"id": "bob", "username": "bob"}, "connections": 4}]);
    assert_shape(&page["data"], &json!({"channel": "room", "count": 2, "members": members}));
    bobs.pop().expect("four").vanish();
    bobs.pop().expect("three").leave().await;
    let mut third = bobs.pop().expect("two");
    third.ask("unsubscribe", json!({"channel": "room"})).await;
    third.ask("unsubscribe", json!({"channel": "lobby"})).await;
    // The second connection's end may still be on its way; the last one's has to be what is announced.
    nothing_here(&mut ann, "room").await;
    bobs.pop().expect("the last").vanish();
    assert_shape(&next_here(&mut ann).await, &event("leave", 1));
    // The third is still there, and comes back.
    third.subscribe("room").await;
    assert_shape(&next_here(&mut ann).await, &event("join", 2));
}

#[tokio::test]
async fn channels_count_their_own_members() {
    let server = presence("events").shards(2).start();
    let mut ann = member(&server, "ann", "a").await;
    ann.subscribe("b").await;
    let mut bob = member(&server, "bob", "a").await;
    assert_eq!(next_here(&mut ann).await["data"]["channel"], "a");
    bob.subscribe("b").await;
    assert_eq!(next_here(&mut ann).await["data"]["channel"], "b");
    bob.ask("unsubscribe", json!({"channel": "a"})).await;
    let left = next_here(&mut ann).await;
    assert_eq!(
        (&left["type"], &left["data"]["channel"], &left["data"]["count"]),
        (&json!("leave"), &json!("a"), &json!(1))
    );
    bob.vanish();
    let left = next_here(&mut ann).await;
    assert_eq!(
        (&left["type"], &left["data"]["channel"], &left["data"]["count"]),
        (&json!("leave"), &json!("b"), &json!(1))
    );
    nothing_here(&mut ann, "a").await;
}

#[tokio::test]
async fn off_says_nothing() {
    let server = presence("off").start();
    let mut ann = member(&server, "ann", "room").await;
    let bob = member(&server, "bob", "room").await;
    bob.leave().await;
    ann.find("user_offline").await;
    nothing_here(&mut ann, "room").await;
    ann.send(&json!({"type": "presence", "id": "p", "data": {"channel": "room"}})).await;
    let refused = ann.find("error").await;
    assert_eq!((&refused["id"], &refused["code"]), (&json!("p"), &json!(403)));
}

/// Reads digests until the members are these.
async fn replay(client: &mut Client, known: &mut BTreeSet<String>, wanted: usize) -> usize {
    let mut digests = 0;
    while known.len() != wanted {
        let value = next_here(client).await;
        assert_eq!(value["type"], "presence_digest", "{value}");
        let data = &value["data"];
        for id in ids(&data["joined"]) {
            assert!(known.insert(id.to_owned()), "{id} joined twice: {value}");
        }
        for id in ids(&data["left"]) {
            assert!(known.remove(id), "{id} left twice: {value}");
        }
        assert_eq!(data["count"].as_u64(), Some(known.len() as u64), "{value}");
        digests += 1;
    }
    digests
}

#[tokio::test]
async fn a_digest_tells_a_window_and_what_undid_itself_is_not_told() {
    let server = presence("digest").env("URINGCAST_CHANNELS__PRESENCE_WINDOW_MS", 1000).start();
    let mut ann = member(&server, "ann", "room").await;
    let mut known = BTreeSet::new();
    replay(&mut ann, &mut known, 1).await;
    let mut bob = member(&server, "bob", "room").await;
    let (mut eve, _) = Client::join(&server, "eve", "eve").await;
    eve.subscribe("room").await;
    eve.ask("unsubscribe", json!({"channel": "room"})).await;
    let _cem = member(&server, "cem", "room").await;
    let digest = next_here(&mut ann).await;
    let expected = json!({"type": "presence_digest", "data": {"channel": "room", "count": 3,
        "joined": [{"id": "bob", "username": "bob"}, {"id": "cem", "username": "cem"}], "left": [], "timestamp": "<ms>"}});
    assert_shape(&digest, &expected);
    bob.ask("unsubscribe", json!({"channel": "room"})).await;
    let expected = json!({"type": "presence_digest", "data": {"channel": "room", "count": 2, "joined": [],
        "left": [{"id": "bob", "username": "bob"}], "timestamp": "<ms>"}});
    assert_shape(&next_here(&mut ann).await, &expected);
}

#[tokio::test]
async fn a_digest_that_lists_too_many_says_so() {
    let server = presence("digest").env("URINGCAST_LIMITS__PRESENCE_LIST", 3).start();
    let mut ann = member(&server, "ann", "room").await;
    next_here(&mut ann).await;
    let mut others = Vec::new();
    for n in 0..8 {
        others.push(Client::join(&server, format!("u{n}"), "x").await.0);
    }
    for other in &mut others {
        other.send(&json!({"type": "subscribe", "data": {"channel": "room"}})).await;
    }
    let (mut count, mut truncated) = (0, false);
    while count != 9 {
        let digest = next_here(&mut ann).await;
        assert!(ids(&digest["data"]["joined"]).len() <= 3, "{digest}");
        truncated |= digest["data"]["truncated"] == true;
        count = digest["data"]["count"].as_u64().expect("a count");
    }
    assert!(truncated);
}

#[tokio::test]
async fn count_tells_the_number_alone() {
    let server = presence("count").start();
    let mut ann = member(&server, "ann", "room").await;
    let _bob = member(&server, "bob", "room").await;
    let mut count = 0;
    while count != 2 {
        let digest = next_here(&mut ann).await;
        count = digest["data"]["count"].as_u64().expect("a count");
        let expected = json!({"type": "presence_digest", "data": {"channel": "room", "count": count, "joined": [],
            "left": [], "truncated": true, "timestamp": "<ms>"}});
        assert_shape(&digest, &expected);
    }
}

#[tokio::test]
async fn a_crowd_is_told_in_digests_and_a_few_in_events_again() {
    let server = presence("events").shards(2).env("URINGCAST_LIMITS__PRESENCE_DIGEST_ABOVE", 6).start();
    let mut ann = member(&server, "ann", "room").await;
    let mut known = BTreeSet::from(["ann".to_owned()]);
    let mut others = Vec::new();
    for n in 0..5 {
        others.push(member(&server, &format!("u{n}"), "room").await);
        let value = next_here(&mut ann).await;
        assert_eq!((&value["type"], &value["data"]["count"]), (&json!("join"), &json!(n + 2)), "{value}");
        known.insert(format!("u{n}"));
    }
    for n in 5..12 {
        others.push(member(&server, &format!("u{n}"), "room").await);
    }
    replay(&mut ann, &mut known, 13).await;
    // Down to three, which is half, it is still a crowd; at two no more.
    while others.len() > 2 {
        others.pop().expect("some").vanish();
    }
    replay(&mut ann, &mut known, 3).await;
    others.pop().expect("two").vanish();
    replay(&mut ann, &mut known, 2).await;
    others.pop().expect("one").vanish();
    let value = next_here(&mut ann).await;
    assert_eq!((&value["type"], &value["data"]["count"]), (&json!("leave"), &json!(1)), "{value}");
}

#[tokio::test]
async fn events_of_a_large_channel_come_together_and_in_their_place() {
    let server = presence("events")
        .shards(1)
        .env("URINGCAST_LIMITS__PRESENCE_GATHER_ABOVE", 2)
        .env("URINGCAST_LIMITS__PRESENCE_GATHER_MS", 10_000)
        .start();
    let join = |id: &str, count: u32| ("join".to_owned(), id.to_owned(), u64::from(count));
    let read = |value: &Value| {
        let text = |value: &Value| value.as_str().expect("a text").to_owned();
        let data = &value["data"];
        (text(&value["type"]), text(&data["user"]["id"]), data["count"].as_u64().expect("a count"))
    };
    let mut ann = member(&server, "ann", "room").await;
    let mut bob = member(&server, "bob", "room").await;
    let mut cem = member(&server, "cem", "room").await;
    // Up to two subscribers each event comes at once, and so does the first one with more of them.
    let mut dan = member(&server, "dan", "room").await;
    for (client, ids) in [(&mut ann, &["bob", "cem", "dan"][..]), (&mut bob, &["cem", "dan"]), (&mut cem, &["dan"])] {
        for id in ids {
            let count = ["ann", "bob", "cem", "dan"].iter().position(|other| other == id).expect("one of them") + 1;
            assert_eq!(read(&next_here(client).await), join(id, u32::try_from(count).expect("few")));
        }
    }
    // The next ones wait. An answer comes after what it includes, and a newcomer hears of those who come later.
    let mut eve = member(&server, "eve", "room").await;
    let _fay = member(&server, "fay", "room").await;
    ann.send(&json!({"type": "presence", "id": "p", "data": {"channel": "room"}})).await;
    for expected in [join("eve", 5), join("fay", 6)] {
        assert_eq!(read(&next_here(&mut ann).await), expected);
    }
    assert_eq!(next_here(&mut ann).await["data"]["count"], 6);
    let mut gus = member(&server, "gus", "room").await;
    gus.ask("unsubscribe", json!({"channel": "room"})).await;
    eve.send(&json!({"type": "publish", "data": {"channel": "room", "data": 1}})).await;
    let gone = ("leave".to_owned(), "gus".to_owned(), 6);
    for (client, first) in [(&mut ann, 6), (&mut bob, 4), (&mut cem, 4), (&mut dan, 4), (&mut eve, 5)] {
        for expected in [join("eve", 5), join("fay", 6), join("gus", 7), gone.clone()].into_iter().skip(first - 4) {
            assert_eq!(read(&next_here(client).await), expected);
        }
        assert_eq!(next_here(client).await["type"], "publication", "it takes the events along");
    }
}

#[tokio::test]
async fn members_come_page_by_page() {
    let server = presence("digest").start();
    let mut all = Vec::new();
    for n in 0..7 {
        all.push(member(&server, &format!("u{n}"), "room").await);
    }
    let (mut seen, mut cursor, mut pages) = (Vec::new(), None, 0);
    loop {
        let mut data = json!({"channel": "room", "limit": 3});
        if let Some(cursor) = cursor {
            data["cursor"] = cursor;
        }
        let page = all[0].ask("presence", data).await;
        assert_eq!(page["data"]["count"], 7);
        let members = page["data"]["members"].as_array().expect("a list").clone();
        assert!(members.len() <= 3);
        seen.extend(members.iter().map(|m| m["user"]["id"].as_str().expect("an id").to_owned()));
        pages += 1;
        cursor = page["data"].get("cursor").cloned();
        if cursor.is_none() {
            break;
        }
    }
    seen.sort();
    assert_eq!((pages, seen), (3, (0..7).map(|n| format!("u{n}")).collect()));
    for limit in [json!(0), json!(-1), json!("3")] {
        all[0].ask_refused("presence", json!({"channel": "room", "limit": limit}), 400).await;
    }
}

/// What a client of plain bytes sends to be a member.
fn script(server: &Server, user: &str) -> Vec<u8> {
    let mut bytes = request(server, "/ws", &[]).into_bytes();
    let auth = json!({"type": "auth", "data": {"token": token(user, user), "channels": [{"channel": "room"}]}});
    bytes.extend(frame(true, 1, auth.to_string().as_bytes()));
    bytes
}

#[tokio::test]
async fn a_killed_clients_member_goes_at_once() {
    let server = presence("events").start();
    let mut ann = member(&server, "ann", "room").await;
    let line = format!("exec cat >/dev/tcp/{}/{}", server.addr.ip(), server.addr.port());
    let mut child = Command::new("bash").args(["-c", &line]).stdin(Stdio::piped()).spawn().expect("bash runs");
    child.stdin.as_mut().expect("piped").write_all(&script(&server, "bob")).expect("writes");
    assert_eq!(next_here(&mut ann).await["type"], "join");
    let killed = Instant::now();
    child.kill().expect("kills");
    assert_eq!(next_here(&mut ann).await["type"], "leave");
    assert!(killed.elapsed() < Duration::from_secs(5), "{:?}", killed.elapsed());
    child.wait().expect("ends");
}

#[tokio::test]
async fn a_silent_clients_member_goes_in_the_stated_time() {
    let options = presence("events").env("URINGCAST_LIVENESS__PING_INTERVAL_MS", 400);
    let server = options.env("URINGCAST_LIVENESS__PONG_TIMEOUT_MS", 300).start();
    let mut ann = member(&server, "ann", "room").await;
    let mut raw = Raw::connect(&server).await;
    raw.write(&script(&server, "bob")).await;
    assert_eq!(next_here(&mut ann).await["type"], "join");
    let silent = Instant::now();
    // As behind a cable that was pulled: the socket stays, and nothing comes from it.
    assert_eq!(next_here(&mut ann).await["type"], "leave");
    let took = silent.elapsed();
    assert!(took > Duration::from_millis(600) && took < Duration::from_secs(5), "{took:?}");
    drop(raw);
}
