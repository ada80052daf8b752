//! Who gets in and how much they may send (docs/limits.md): connections in all, per shard, address and user, rates,
//! tokens that are refused, and what happens when descriptors or memory run out. Each with its answer and its metric.
//! The addresses 127.0.0.1, 127.0.0.2 and so on are many peers; none is exempt here unless it says so.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::metrics::{Metrics, options};
use crate::support::{Client, DEADLINE, Event, Options, Raw, Response, SECRET, Server, frame, request, token, until};

/// Connects from one of this machine's addresses.
async fn raw_from(server: &Server, address: &str) -> Raw {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(address.parse().unwrap(), 0)).unwrap();
    let tcp = timeout(DEADLINE, socket.connect(server.addr)).await.expect("in time").expect("connects");
    Raw { tcp, received: Vec::new() }
}

/// Asks for an upgrade from an address; the connection stays open with what is returned.
async fn upgrade_from(server: &Server, address: &str) -> (Response, Raw) {
    let mut raw = raw_from(server, address).await;
    raw.write(request(server, "/ws", &[]).as_bytes()).await;
    (raw.response().await, raw)
}

fn limit(options: Options, key: &str, value: impl ToString) -> Options {
    options.env(&format!("URINGCAST_LIMITS__{key}"), value)
}

fn text(value: &Value) -> Vec<u8> {
    frame(true, 1, value.to_string().as_bytes())
}

#[tokio::test]
async fn over_the_limit_of_the_process_or_a_shard_it_is_503() {
    for (key, name) in [("CONNECTIONS", "connections"), ("CONNECTIONS_PER_SHARD", "connections_per_shard")] {
        let server = limit(options().shards(1), key, 2).start();
        let metrics = Metrics::of(&server).await;
        let (first, one) = upgrade_from(&server, "127.0.0.1").await;
        let (second, _two) = upgrade_from(&server, "127.0.0.2").await;
        assert_eq!((first.status, second.status), (101, 101));
        let (third, _) = upgrade_from(&server, "127.0.0.3").await;
        assert_eq!((third.status, third.header("retry-after")), (503, Some("5")));
        assert_eq!(metrics.refusals(name).await, 1);
        drop(one);
        metrics.reach("uringcast_connections", |count| count == 1).await;
        assert_eq!(upgrade_from(&server, "127.0.0.3").await.0.status, 101);
    }
}

#[tokio::test]
async fn over_the_limit_of_an_address_it_is_429_and_others_come_in() {
    let server = limit(options().shards(2), "CONNECTIONS_PER_IP", 2).start();
    let metrics = Metrics::of(&server).await;
    let mut kept = Vec::new();
    for (address, status) in [("127.0.0.1", 101), ("127.0.0.1", 101), ("127.0.0.1", 429), ("127.0.0.2", 101)] {
        let (response, raw) = upgrade_from(&server, address).await;
        assert_eq!(response.status, status, "{address}");
        assert_eq!(response.header("retry-after"), (status == 429).then_some("30"));
        kept.push(raw);
    }
    assert_eq!(metrics.refusals("connections_per_ip").await, 1);
    kept.remove(0);
    metrics.reach("uringcast_connections", |count| count == 2).await;
    assert_eq!(upgrade_from(&server, "127.0.0.1").await.0.status, 101);
}

#[tokio::test]
async fn new_connections_of_an_address_are_limited_by_time() {
    let options = limit(options().shards(2), "NEW_CONNECTIONS_PER_IP_PER_S", 1);
    let server = limit(options, "NEW_CONNECTIONS_PER_IP_BURST", 3).start();
    let started = Instant::now();
    let mut let_in = 0;
    let refused = loop {
        let (response, _) = upgrade_from(&server, "127.0.0.1").await;
        match response.status {
            101 => let_in += 1,
            _ => break response,
        }
    };
    assert_eq!((refused.status, refused.header("retry-after")), (429, Some("1")));
    // Three at once, and one for each second that the machine took over it.
    assert!(let_in >= 3 && let_in <= 3 + started.elapsed().as_secs() + 1, "{let_in}");
    assert_eq!(upgrade_from(&server, "127.0.0.2").await.0.status, 101);
    assert_eq!(Metrics::of(&server).await.refusals("new_connections_per_ip").await, 1);
    // It flows again.
    let comes_in = async || (upgrade_from(&server, "127.0.0.1").await.0.status == 101).then_some(());
    until("it flows again", comes_in).await;
}

#[tokio::test]
async fn what_is_refused_takes_no_place_and_no_more_than_a_share_of_the_refusals() {
    let server = limit(limit(options().shards(2), "CONNECTIONS", 8), "CONNECTIONS_PER_IP", 2);
    let server = limit(server, "HANDSHAKE_MS", 60_000).start();
    let metrics = Metrics::of(&server).await;
    // Far more than all places, and than what may be told at a time.
    let mut kept = Vec::new();
    for _ in 0..1_200 {
        kept.push(raw_from(&server, "127.0.0.1").await);
    }
    metrics.reach("uringcast_connections_accepted_total", |count| count == 1_200).await;
    let told = metrics.reach("uringcast_connections_turned_away", |count| count > 0).await;
    assert!(told <= 128, "{told} of one address are being told");
    assert_eq!(metrics.get("uringcast_connections").await, 2);
    let mut told = 0;
    for address in ["127.0.0.2", "127.0.0.3", "127.0.0.4"] {
        for _ in 0..2 {
            let (response, raw) = upgrade_from(&server, address).await;
            assert_eq!(response.status, 101, "{address}");
            kept.push(raw);
        }
        // Of 256 addresses one shares the greedy one's part of the refusals, and is cut.
        let mut third = raw_from(&server, address).await;
        third.write(request(&server, "/ws", &[]).as_bytes()).await;
        told += usize::from(third.rest().await.starts_with(b"HTTP/1.1 429"));
    }
    assert!(told >= 2, "only {told} of three are told");
    // There is no place left: now it is 503 for everyone.
    let refused = async || {
        let mut raw = raw_from(&server, "127.0.0.5").await;
        raw.write(request(&server, "/ws", &[]).as_bytes()).await;
        raw.rest().await.starts_with(b"HTTP/1.1 503").then_some(())
    };
    until("a refusal", refused).await;
    // Whoever doesn't ask is not waited for as long as one who was let in.
    metrics.reach("uringcast_connections_turned_away", |count| count == 0).await;
    assert_eq!(metrics.get("uringcast_connections").await, 8);
}

#[tokio::test]
async fn the_exempt_are_free_of_all_that() {
    let options = limit(options().shards(2), "EXEMPT", "127.0.0.0/8");
    let options = limit(limit(options, "CONNECTIONS_PER_IP", 1), "NEW_CONNECTIONS_PER_IP_BURST", 1);
    let server = limit(limit(options, "MESSAGES_PER_S", 1), "MESSAGES_BURST", 1).start();
    let mut alice = Client::join(&server, 1, "Alice").await.0;
    let mut bob = Client::join(&server, 2, "Bob").await.0;
    alice.expect("user_online").await;
    for _ in 0..20 {
        bob.say("hi").await;
        alice.expect("message").await;
        bob.expect("message").await;
    }
}

#[tokio::test]
async fn ipv6_peers_are_counted_too() {
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        eprintln!("this machine has no ::1");
        return;
    }
    let server = Options::bare(&["--listen", "[::1]:0"])
        .env("URINGCAST_AUTH__HS256_SECRET", SECRET)
        .env("URINGCAST_LIMITS__EXEMPT", "");
    let server = limit(server, "CONNECTIONS_PER_IP", 1).start();
    let upgrade = async || {
        let mut raw = Raw { tcp: TcpStream::connect(server.addr).await.unwrap(), received: Vec::new() };
        raw.write(request(&server, "/ws", &[]).as_bytes()).await;
        (raw.response().await.status, raw)
    };
    let (first, _open) = upgrade().await;
    assert_eq!(first, 101);
    assert_eq!(upgrade().await.0, 429);
}

#[tokio::test]
async fn a_user_has_no_more_connections_than_may_be() {
    let options = options().shards(2).env("URINGCAST_AUTH__DUPLICATE_LOGIN", "allow");
    // Here nobody answers a ping meanwhile; the next test is about that.
    let server = limit(options, "CONNECTIONS_PER_USER", 2).env("URINGCAST_AUTH__PROBE_MS", 0).start();
    let (one, _) = Client::join(&server, 1, "Ann").await;
    let (_two, _) = Client::join(&server, 1, "Ann").await;
    let mut third = Client::open(&server).await;
    let refusal = third.auth(&token(1, "Ann")).await;
    assert_eq!((refusal["type"].as_str(), refusal["code"].as_u64()), (Some("error"), Some(429)), "{refusal}");
    third.closed(4429).await;
    let (_bob, _) = Client::join(&server, 2, "Bob").await;
    let metrics = Metrics::of(&server).await;
    assert_eq!(metrics.refusals("connections_per_user").await, 1);
    one.leave().await;
    metrics.reach("uringcast_connections", |count| count == 2).await;
    Client::join(&server, 1, "Ann").await;
}

#[tokio::test]
async fn a_users_dead_connections_make_room_for_as_many_living_ones() {
    let options = options().shards(2).env("URINGCAST_AUTH__DUPLICATE_LOGIN", "allow");
    let server = limit(options, "CONNECTIONS_PER_USER", 3).env("URINGCAST_AUTH__PROBE_MS", 500).start();
    let mut ghosts = Vec::new();
    for _ in 0..3 {
        ghosts.push(Client::join(&server, 1, "Ann").await.0);
    }
    let mut newcomers = Vec::new();
    for _ in 0..3 {
        let mut client = Client::open(&server).await;
        client.send(&json!({"type": "auth", "data": {"token": token(1, "Ann")}})).await;
        newcomers.push(client);
    }
    for client in &mut newcomers {
        client.expect("auth_success").await;
    }
    for mut ghost in ghosts {
        ghost.closed(4504).await;
    }
    let metrics = Metrics::of(&server).await;
    assert_eq!(metrics.refusals("connections_per_user").await, 0);
}

/// Sends until the connection is closed; returns which messages were refused. (Of the others the answers may come later,
/// or not any more.)
async fn flood(client: &mut Client, message: impl Fn(usize) -> Value) -> Vec<usize> {
    let messages: Vec<Value> = (0..60).map(message).collect();
    client.pipeline(&messages).await;
    let mut refused = Vec::new();
    loop {
        match client.event().await {
            Event::Text(text) => {
                let value: Value = serde_json::from_str(&text).unwrap();
                if value["type"] == "error" {
                    assert_eq!(value["code"], 429, "{value}");
                    refused.push(value["id"].as_str().unwrap().parse().unwrap());
                }
            }
            Event::Close(4429, _) => return refused,
            other => panic!("{other:?} after {refused:?} were refused"),
        }
    }
}

fn say(n: usize) -> Value {
    json!({"type": "message", "id": n.to_string(), "data": {"text": "x".repeat(1_000)}})
}

#[tokio::test]
async fn messages_over_a_rate_are_refused_and_who_goes_on_is_closed() {
    // Signing in is a message of the connection; a user's are counted from the next one.
    for (key, burst, name, allowed) in [
        ("MESSAGES", 21, "messages", 20),
        ("BYTES", 20_000, "bytes", 0),
        ("USER_MESSAGES", 20, "user_messages", 20),
        ("USER_BYTES", 20_000, "user_bytes", 19),
    ] {
        let options = limit(options().shards(1), &format!("{key}_PER_S"), 1);
        let options = limit(limit(options, &format!("{key}_BURST"), burst), "MESSAGE_BYTES", 5_000);
        let server = options.start();
        let metrics = Metrics::of(&server).await;
        let (mut alice, _) = Client::join(&server, 1, "Alice").await;
        let refused = flood(&mut alice, say).await;
        // All bytes of a receive count before its messages are looked at.
        let slack = if name == "bytes" { 20 } else { 2 };
        assert!((allowed..=allowed + slack).contains(&refused[0]), "{name}: {refused:?}");
        assert!((11..=14).contains(&refused.len()), "{name}: {refused:?} before the end");
        assert_eq!(metrics.refusals(name).await, refused.len() as u64);
        metrics.reach("uringcast_closes_total{code=\"4429\"}", |count| count == 1).await;
    }
}

#[tokio::test]
async fn what_escaping_adds_to_a_text_counts_for_its_user() {
    let apostrophes = |n: usize| json!({"type": "message", "id": n.to_string(), "data": {"text": "'".repeat(1_000)}});
    // A message has about 1,060 bytes; escaped, its text has 5,000 more.
    for (escape, allowed) in [("true", 3..=5), ("false", 18..=20)] {
        let options = limit(options().shards(1), "USER_BYTES_PER_S", 1).env("URINGCAST_LOBBY__ESCAPE", escape);
        let server = limit(limit(options, "USER_BYTES_BURST", 20_000), "MESSAGE_BYTES", 5_000).start();
        let (mut alice, _) = Client::join(&server, 1, "Alice").await;
        let refused = flood(&mut alice, apostrophes).await;
        assert!(allowed.contains(&refused[0]), "escape = {escape}: {refused:?}");
    }
}

#[tokio::test]
async fn a_user_is_measured_over_all_connections_and_a_pause_heals() {
    let options = options().shards(2).env("URINGCAST_AUTH__DUPLICATE_LOGIN", "allow");
    let server = limit(limit(options, "USER_MESSAGES_PER_S", 2), "USER_MESSAGES_BURST", 4).start();
    let (mut one, _) = Client::join(&server, 1, "Ann").await;
    let (mut two, _) = Client::join(&server, 1, "Ann").await;
    let mut refused = None;
    for n in 0..100 {
        let client = if n % 2 == 0 { &mut one } else { &mut two };
        client.send(&json!({"type": "users", "id": n.to_string(), "data": {}})).await;
        let answer = client.next().await;
        if answer["type"] == "error" {
            assert_eq!(answer["code"], 429, "{answer}");
            refused = Some(n);
            break;
        }
    }
    assert!(refused.is_some_and(|n| n >= 4), "{refused:?}");
    // The pause is the point: questions in quick succession would end the connection.
    let end = Instant::now() + DEADLINE;
    loop {
        tokio::time::sleep(Duration::from_millis(600)).await;
        if one.ask("users", json!({})).await["type"] == "users" {
            break;
        }
        assert!(Instant::now() < end, "a pause doesn't heal");
    }
}

#[tokio::test]
async fn a_flood_of_pings_or_pongs_is_a_flood() {
    for opcode in [9, 10] {
        let server = limit(limit(options().shards(1), "MESSAGES_PER_S", 1), "MESSAGES_BURST", 5).start();
        let mut raw = Raw::upgraded(&server, "/ws").await;
        raw.json().await;
        raw.write(&frame(true, opcode, b"x").repeat(40)).await;
        let (mut pongs, mut errors) = (0, 0);
        loop {
            let frame = raw.frame().await.expect("a close comes");
            match frame.opcode {
                10 => pongs += 1,
                1 => errors += 1,
                _ => {
                    assert_eq!(frame.close_code(), 4429);
                    break;
                }
            }
        }
        assert!(errors >= 10, "{errors}");
        assert!(if opcode == 9 { (5..=6).contains(&pongs) } else { pongs == 0 }, "{pongs}");
    }
}

#[tokio::test]
async fn a_connection_may_have_few_tokens_refused() {
    let server = limit(options().shards(1), "AUTH_ATTEMPTS", 3).start();
    let (mut alice, _) = Client::join(&server, 1, "Alice").await;
    for n in 0..3 {
        alice.send(&json!({"type": "refresh", "id": "r", "data": {"token": token(2, "Bob")}})).await;
        assert_eq!(alice.next().await["code"], 403, "{n}");
    }
    let last = alice.next().await;
    assert_eq!((last["type"].as_str(), last["code"].as_u64()), (Some("error"), Some(429)), "{last}");
    alice.closed(4429).await;
    assert_eq!(Metrics::of(&server).await.refusals("auth_attempts").await, 1);
}

#[tokio::test]
async fn an_address_that_guesses_tokens_is_not_listened_to() {
    let options = limit(options().shards(2), "AUTH_FAILURES_PER_IP_PER_MINUTE", 1);
    let server = limit(options, "AUTH_FAILURES_PER_IP_BURST", 3).start();
    let guess = async |address: &str, token: &str| {
        let (response, mut raw) = upgrade_from(&server, address).await;
        assert_eq!(response.status, 101);
        raw.json().await;
        raw.write(&text(&json!({"type": "auth", "data": {"token": token}}))).await;
        let answer = raw.json().await;
        (answer["type"].as_str().unwrap().to_owned(), answer["code"].as_u64().unwrap(), raw)
    };
    for _ in 0..3 {
        let (kind, _, mut raw) = guess("127.0.0.1", "nonsense").await;
        assert_eq!(kind, "auth_failed");
        raw.closed(4401).await;
    }
    // Not even a good one, and that is the point: whether it is good isn't told.
    let (kind, code, mut raw) = guess("127.0.0.1", &token(1, "Ann")).await;
    assert_eq!((kind.as_str(), code), ("error", 429));
    raw.closed(4429).await;
    assert_eq!(guess("127.0.0.2", &token(1, "Ann")).await.0, "auth_success");
    assert_eq!(Metrics::of(&server).await.refusals("auth_failures_per_ip").await, 1);
}

#[tokio::test]
async fn without_descriptors_newcomers_are_told_and_the_others_go_on() {
    let few = ["sh", "-c", "ulimit -n 80; exec \"$@\"", "sh"];
    let mut server = options().shards(1).wrapped(&few).start();
    let (mut alice, _) = Client::join(&server, 1, "Alice").await;
    let metrics = Metrics::of(&server).await;
    let mut kept = Vec::new();
    let refused = loop {
        let (response, raw) = upgrade_from(&server, "127.0.0.2").await;
        kept.push(raw);
        if response.status != 101 {
            break response;
        }
        assert!(kept.len() < 80, "more connections than descriptors");
    };
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("5")));
    // A storm of them is told too, and costs the ones inside nothing.
    for _ in 0..20 {
        assert_eq!(upgrade_from(&server, "127.0.0.3").await.0.status, 503);
        alice.say("hi").await;
        alice.expect("message").await;
    }
    // While nobody comes it waits, and doesn't spin: what it used of a stretch of time can't be had without the stretch.
    let (ticks, start) = (cpu_ticks(&server), Instant::now());
    tokio::time::sleep(Duration::from_millis(500)).await;
    let (used_ms, of_ms) = (10 * (cpu_ticks(&server) - ticks), start.elapsed().as_millis() as u64);
    assert!(used_ms < of_ms / 2, "{used_ms} ms of work in {of_ms} ms of waiting");
    assert!(server.running());
    kept.truncate(kept.len() / 2);
    let comes_in = async || (upgrade_from(&server, "127.0.0.3").await.0.status == 101).then_some(());
    until("there are descriptors again", comes_in).await;
    assert!(metrics.refusals("descriptors").await > 0);
}

/// Processor time that the server has had, in ticks of 10 ms.
fn cpu_ticks(server: &Server) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", server.pid())).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[tokio::test]
async fn short_of_memory_nothing_new_is_taken_and_the_rest_goes_on() {
    let options = options().shards(2).env("URINGCAST_CHANNELS__PUBLISH", "members");
    let server = limit(options, "MEMORY_BYTES", 1).start();
    let (mut alice, _) = Client::join(&server, 1, "Alice").await;
    alice.send(&json!({"type": "subscribe", "id": "1", "data": {"channel": "before"}})).await;
    // The watch may have been quicker.
    let first = alice.next().await;
    server.logged("memory is short").await;
    let refused = async || Some(upgrade_from(&server, "127.0.0.2").await.0).filter(|response| response.status != 101);
    let refused = until("nobody new is let in", refused).await;
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("10")));
    alice.send(&json!({"type": "subscribe", "id": "2", "data": {"channel": "after"}})).await;
    let answer = alice.find("error").await;
    assert_eq!((answer["code"].as_u64(), answer["id"].as_str()), (Some(503), Some("2")), "{answer}");
    alice.say("still here").await;
    alice.find("message").await;
    if first["type"] == "subscribed" {
        alice.send(&json!({"type": "publish", "id": "3", "data": {"channel": "before", "data": 1}})).await;
        alice.find("ack").await;
    }
    let metrics = Metrics::of(&server).await;
    assert!(metrics.refusals("memory").await >= 1 && metrics.refusals("channels").await >= 1);
}

#[tokio::test]
async fn the_older_limits_are_counted_by_name() {
    let options = limit(limit(options().shards(1), "HEADER_BYTES", 400), "SUBSCRIPTIONS", 1);
    let options = limit(limit(options, "MESSAGE_BYTES", 3_000), "PUSH_BYTES", 1_024);
    let options = limit(options, "HANDSHAKE_MS", 200).env("URINGCAST_AUTH__DEADLINE_MS", 600);
    let server = options.start();
    let metrics = Metrics::of(&server).await;
    let (mut alice, _) = Client::join(&server, 1, "Alice").await;
    alice.send_text("{").await;
    assert_eq!(alice.next().await["code"], 400);
    alice.send_text(&"[".repeat(2_000)).await;
    assert_eq!(alice.next().await["code"], 400);
    for (channel, code) in [("one", 200), ("two", 429)] {
        alice.send(&json!({"type": "subscribe", "id": "s", "data": {"channel": channel}})).await;
        assert_eq!(alice.next().await["code"], code);
    }
    alice.say(&"x".repeat(2_000)).await;
    assert_eq!(alice.next().await["code"], 413);
    alice.say(&"x".repeat(4_000)).await;
    alice.closed(1009).await;
    let mut raw = Raw::connect(&server).await;
    raw.write(request(&server, "/ws", &[("Cookie", &"x".repeat(500))]).as_bytes()).await;
    assert_eq!(raw.response().await.status, 413);
    let _silent = Raw::connect(&server).await;
    let mut anonymous = Raw::upgraded(&server, "/ws").await;
    anonymous.json().await;
    anonymous.closed(4408).await;
    for (name, count) in [
        ("json", 2),
        ("subscriptions", 1),
        ("push_bytes", 1),
        ("message_bytes", 1),
        ("header", 1),
        ("auth_deadline", 1),
    ] {
        assert_eq!(metrics.refusals(name).await, count, "{name}");
    }
    metrics.reach("uringcast_refusals_total{limit=\"handshake\"}", |count| count == 1).await;
}
