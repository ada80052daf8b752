//! A user's own dead connections, which the server takes for living ones: they keep nobody out. A client that is not
//! polled stands for one whose network is gone: it answers no ping.

use std::time::Duration;

use serde_json::json;
use tokio::net::TcpStream;

use crate::api::options;
use crate::metrics::Metrics;
use crate::support::{Client, Event, Options, Raw, Server, frame, request, token};

/// `reject_new` with two shards, where a sign of life has to come within so long.
fn reject_new(probe_ms: u64) -> Options {
    options().shards(2).env("URINGCAST_AUTH__DUPLICATE_LOGIN", "reject_new").env("URINGCAST_AUTH__PROBE_MS", probe_ms)
}

/// Signs in where that must fail.
async fn refused(server: &Server, user: u32, code: u16) {
    let mut client = Client::open(server).await;
    let answer = client.auth(&token(user, "Late")).await;
    assert_eq!(answer["type"], "error", "{answer}");
    client.closed(code).await;
}

/// The connection is told that it shows no sign of life.
async fn let_go(mut client: Client) {
    loop {
        match client.event().await {
            Event::Text(_) => {}
            Event::Close(code, _) => return assert_eq!(code, 4504),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_dead_connection_gives_way_to_its_user() {
    let server = reject_new(300).start();
    let (mut watcher, _) = Client::join(&server, "watcher", "Watcher").await;
    // Enough rounds for every pair of shards.
    for user in 0..8 {
        let (ghost, _) = Client::join(&server, user, "Alice").await;
        watcher.expect("user_online").await;
        let (mut newcomer, success) = Client::join(&server, user, "Alice again").await;
        assert_eq!(success["data"]["online_count"], 2, "the user was online all the time");
        watcher.nothing_pending().await;
        newcomer.say("here again").await;
        assert_eq!(watcher.expect("message").await["data"]["sender"]["username"], "Alice again");
        newcomer.expect("message").await;
        let_go(ghost).await;
        newcomer.leave().await;
        watcher.expect("user_offline").await;
    }
    let metrics = Metrics::of(&server).await;
    metrics.reach("uringcast_probes_total", |count| count == 8).await;
    metrics.reach("uringcast_probes_unanswered_total", |count| count == 8).await;
}

#[tokio::test]
async fn a_living_connection_stays() {
    let server = reject_new(2_000).start();
    let (mut holder, _) = Client::join(&server, 1, "Alice").await;
    for _ in 0..4 {
        // Whoever reads answers pings.
        tokio::select! {
            event = holder.event() => panic!("{event:?}"),
            () = refused(&server, 1, 4409) => {}
        }
    }
    // Whoever doesn't read, but sends, lives too.
    let sends = async {
        loop {
            holder.send(&json!({"type": "heartbeat"})).await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::select! {
        () = sends => {}
        () = refused(&server, 1, 4409) => {}
    }
    holder.find("heartbeat").await;
    let metrics = Metrics::of(&server).await;
    assert_eq!(metrics.get("uringcast_probes_unanswered_total").await, 0);
    assert_eq!(metrics.refusals("duplicate_login").await, 5);
}

#[tokio::test]
async fn a_sign_in_that_waits_goes_on_when_the_connection_goes() {
    let server = reject_new(9_000).start();
    for user in 0..4_u32 {
        let (holder, _) = Client::join(&server, user, "Alice").await;
        let metrics = Metrics::of(&server).await;
        let mut gone = Client::open(&server).await;
        gone.send(&json!({"type": "auth", "data": {"token": token(user, "Gone")}})).await;
        metrics.reach("uringcast_probes_total", |count| count == u64::from(user) + 1).await;
        // Of those that wait the last one counts; one that goes is not waited for.
        let mut older = Client::open(&server).await;
        let mut newer = Client::open(&server).await;
        newer.send(&json!({"type": "auth", "data": {"token": token(user, "Newer")}})).await;
        gone.closed_after_error(4409).await;
        older.send(&json!({"type": "auth", "data": {"token": token(user, "Older")}})).await;
        older.closed_after_error(4409).await;
        drop(holder);
        assert_eq!(newer.expect("auth_success").await["data"]["user"]["username"], "Newer");
        assert_eq!(metrics.get("uringcast_probes_unanswered_total").await, 0);
        newer.leave().await;
        metrics.reach("uringcast_users", |count| count == 0).await;
    }
}

#[tokio::test]
async fn many_sign_ins_that_wait_keep_nobody_else_waiting() {
    // More than a lane has credits for.
    let server = reject_new(5_000).env("URINGCAST_LOBBY__PRESENCE", "off").start();
    let (mut ghosts, mut waiting) = (Vec::new(), Vec::new());
    for user in 0..800 {
        ghosts.push(signed_in(&server, user).await);
        waiting.push(signed_in(&server, user).await);
    }
    let (mut other, _) = Client::join(&server, "other", "Other").await;
    other.say("not held up").await;
    other.expect("message").await;
    let metrics = Metrics::of(&server).await;
    metrics.reach("uringcast_probes_total", |count| count == 800).await;
    metrics.reach("uringcast_users", |count| count == 801).await;
}

/// A connection that has shown a token and reads nothing.
async fn signed_in(server: &Server, user: u32) -> Raw {
    let mut raw = Raw { tcp: TcpStream::connect(server.addr).await.unwrap(), received: Vec::new() };
    let auth = json!({"type": "auth", "data": {"token": token(user, "Alice")}}).to_string();
    raw.write(&[request(server, "/ws", &[]).as_bytes(), &frame(true, 1, auth.as_bytes())].concat()).await;
    raw
}

#[tokio::test]
async fn reconnects_that_follow_each_other_fast_are_no_war() {
    let server = options().shards(2).env("URINGCAST_AUTH__PROBE_MS", 200).start();
    let mut last = None;
    // The sixth within ten seconds would be refused if the one before it lived.
    for _ in 0..7 {
        last = Some(Client::join(&server, 1, "Alice").await.0);
    }
    drop(last);
}

#[tokio::test]
async fn a_connection_that_is_gone_never_kicks_the_one_after_it() {
    let server = options().shards(2).env("URINGCAST_LOBBY__PRESENCE", "off").start();
    let mut alive = Vec::new();
    for user in 0..400 {
        let dead = signed_in(&server, user).await;
        if user % 3 > 0 {
            dead.tcp.set_zero_linger().unwrap();
        }
        drop(dead);
        let mut client = Client::connect(&server, "/ws").await;
        client.send(&json!({"type": "auth", "data": {"token": token(user, "Alice")}})).await;
        alive.push(client);
    }
    for client in &mut alive {
        client.expect("system").await;
        client.expect("auth_success").await;
    }
    for client in &mut alive {
        assert_eq!(client.ask("heartbeat", json!({})).await["type"], "heartbeat");
    }
    Metrics::of(&server).await.reach("uringcast_users", |count| count == 400).await;
}
