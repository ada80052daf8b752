//! One order for everyone, however many shards there are.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::support::{Client, Event, Options, Random, Server, seed, token};

/// What a connection saw of the lobby.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Seen {
    Message { offset: u64, id: String, sender: String, text: String, at: i64 },
    Online { user: String, count: u64, at: i64 },
    Offline { user: String, count: u64, at: i64 },
}

fn seen(value: &Value) -> Option<Seen> {
    let data = &value["data"];
    let user = || data["user"]["id"].as_str().expect("a user id").to_owned();
    let count = || data["online_count"].as_u64().expect("a count");
    let at = data["timestamp"].as_i64().unwrap_or_default();
    Some(match value["type"].as_str()? {
        "message" => Seen::Message {
            offset: data["offset"].as_u64().expect("an offset"),
            id: data["id"].as_str().expect("an id").to_owned(),
            sender: data["sender"]["id"].as_str().expect("a sender").to_owned(),
            text: data["text"].as_str().expect("a text").to_owned(),
            at,
        },
        "user_online" => Seen::Online { user: user(), count: count(), at },
        "user_offline" => Seen::Offline { user: user(), count: count(), at },
        _ => return None,
    })
}

/// One stay of one connection in the lobby, from its sign-in to its end.
struct Stay {
    user: String,
    /// The lobby's offset and the count that `auth_success` told.
    offset: u64,
    count: u64,
    /// Whether it took the place of an older connection, so that nobody saw it come.
    took_over: bool,
    kicked: bool,
    said: u64,
    log: Vec<Seen>,
}

impl Stay {
    async fn begin(server: &Server, user: &str, took_over: bool) -> (Client, Self) {
        let mut client = Client::open(server).await;
        let success = client.auth(&token(user, user)).await;
        assert_eq!(success["type"], "auth_success", "{success}");
        let stay = Self {
            user: user.to_owned(),
            offset: success["data"]["lobby"]["offset"].as_u64().expect("an offset"),
            count: success["data"]["online_count"].as_u64().expect("a count"),
            took_over,
            kicked: false,
            said: 0,
            log: Vec::new(),
        };
        (client, stay)
    }

    /// Takes in one event; false when the connection has ended.
    fn take(&mut self, event: Event) -> bool {
        match event {
            Event::Text(text) => {
                let value: Value = serde_json::from_str(&text).expect("JSON");
                match seen(&value) {
                    Some(event) => {
                        assert!(!self.kicked, "{event:?} after the dismissal");
                        self.log.push(event);
                    }
                    None => {
                        assert_eq!(value["type"], "kicked", "{value}");
                        self.kicked = true;
                    }
                }
                true
            }
            Event::Close(code, _) => {
                assert_eq!(code, if self.kicked { 4409 } else { 1000 });
                true
            }
            Event::Ended => false,
            Event::Binary(_) => panic!("binary"),
        }
    }

    /// Reads on for as long as that; false when the connection has ended.
    async fn listen(&mut self, client: &mut Client, ms: u64) -> bool {
        let pause = tokio::time::sleep(Duration::from_millis(ms));
        tokio::pin!(pause);
        loop {
            tokio::select! {
                () = &mut pause => return true,
                event = client.event() => if !self.take(event) { return false },
            }
        }
    }

    async fn say(&mut self, client: &mut Client) {
        client.say(&format!("{} says {}", self.user, self.said)).await;
        self.said += 1;
    }

    /// Leaves as a client should, taking in what still comes.
    async fn end(&mut self, client: &mut Client) {
        if !self.kicked {
            let close = tokio_tungstenite::tungstenite::protocol::CloseFrame {
                code: tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode::Normal,
                reason: "".into(),
            };
            client.send_message(tokio_tungstenite::tungstenite::Message::Close(Some(close))).await;
        }
        while {
            let event = client.event().await;
            self.take(event)
        } {}
    }
}

/// One visitor: some stays, each with some talk; now and then a second connection of the same user takes over.
async fn visit(server: Arc<Server>, name: String, seed: u64, stays: u64) -> Vec<Stay> {
    let mut random = Random(seed);
    let mut done = Vec::new();
    for number in 0..stays {
        // A name of its own for each stay, so that the reference log tells when it began.
        let user = format!("{name}.{number}");
        let (mut client, mut stay) = Stay::begin(&server, &user, false).await;
        for _ in 0..1 + random.below(4) {
            stay.say(&mut client).await;
            assert!(stay.listen(&mut client, random.below(30)).await, "ended early");
        }
        match random.below(10) {
            0 | 1 => {
                let (mut second, mut next) = Stay::begin(&server, &user, true).await;
                // The older one hears that it was dismissed, and nothing after that.
                while {
                    let event = client.event().await;
                    stay.take(event)
                } {}
                assert!(stay.kicked, "{user} was replaced and not told");
                next.said = stay.said;
                next.say(&mut second).await;
                next.listen(&mut second, random.below(20)).await;
                next.end(&mut second).await;
                done.push(next);
            }
            2 => client.vanish(),
            _ => stay.end(&mut client).await,
        }
        done.push(stay);
    }
    done
}

async fn everyone_saw_the_same(shards: usize, residents: usize, visitors: usize, seed: u64) {
    // Every join and leave is told, however many there are.
    let options = Options::new().shards(shards).env("URINGCAST_LIMITS__PRESENCE_DIGEST_ABOVE", 1_000);
    let server = Arc::new(options.start());
    eprintln!("{shards} shards, {residents} residents, {visitors} visitors");
    // The residents are there throughout, and listen all the time.
    let (finish, _) = tokio::sync::watch::channel(false);
    let mut staying = Vec::new();
    for n in 0..residents {
        let (mut client, mut stay) = Stay::begin(&server, &format!("resident {n}"), false).await;
        let mut finished = finish.subscribe();
        staying.push(tokio::spawn(async move {
            loop {
                tokio::select! {
                    _ = finished.wait_for(|done| *done) => break,
                    event = client.event() => assert!(stay.take(event), "a resident was closed"),
                }
            }
            (client, stay)
        }));
    }
    // The visitors come by and by, at most two hundred at a time.
    let door = Arc::new(Semaphore::new(200));
    let mut random = Random(seed);
    let mut visits = Vec::new();
    for n in 0..visitors {
        let (server, door, seed) = (Arc::clone(&server), Arc::clone(&door), random.next());
        visits.push(tokio::spawn(async move {
            let _turn = door.acquire().await.expect("open");
            visit(server, format!("visitor {n}"), seed, 3).await
        }));
    }
    let mut stays = Vec::new();
    for visit in visits {
        stays.extend(visit.await.expect("a visit"));
    }
    finish.send(true).expect("residents wait");
    let mut clients = Vec::new();
    for stay in staying {
        clients.push(stay.await.expect("a resident"));
    }
    // All have left once the count is that of the residents, and one last word ends every log at the same place.
    let (mut last, mut speaker) = clients.pop().expect("a resident");
    while !speaker
        .log
        .iter()
        .rev()
        .find_map(|event| match event {
            Seen::Online { count, .. } | Seen::Offline { count, .. } => Some(*count == residents as u64),
            Seen::Message { .. } => None,
        })
        .unwrap_or(false)
    {
        let event = last.event().await;
        assert!(speaker.take(event));
    }
    last.say("the end").await;
    clients.push((last, speaker));
    let is_end = |event: Option<&Seen>| matches!(event, Some(Seen::Message { text, .. }) if text == "the end");
    let mut logs = Vec::new();
    for (mut client, mut stay) in clients {
        while !is_end(stay.log.last()) {
            let event = client.event().await;
            assert!(stay.take(event));
        }
        stay.end(&mut client).await;
        // Those who leave one after the other see each other go; that is no longer part of it.
        let end = stay.log.iter().position(|event| is_end(Some(event))).expect("the end");
        stay.log.truncate(end + 1);
        logs.push(stay);
    }
    // Residents came one after another: the first has the longest log, the reference.
    logs.sort_by_key(|stay| std::cmp::Reverse(stay.log.len()));
    let reference = std::mem::take(&mut logs[0].log);
    check_reference(&reference);
    let seen: usize = stays.iter().map(|stay| stay.log.len()).sum();
    eprintln!("{} events in the reference log, {seen} seen by visitors in {} stays", reference.len(), stays.len());
    for stay in stays.iter().chain(&logs[1..]) {
        check_stay(stay, &reference);
    }
    // Everything that somebody said and saw is there, once.
    for stay in &stays {
        for n in 0..stay.said {
            let text = format!("{} says {n}", stay.user);
            let times = reference.iter().filter(|e| matches!(e, Seen::Message { text: t, .. } if *t == text)).count();
            let sure = stay.log.iter().any(|e| matches!(e, Seen::Message { text: t, .. } if *t == text));
            assert!(times == 1 || (times == 0 && !sure), "{text:?} is there {times} times");
        }
    }
    let ids: std::collections::HashSet<_> =
        reference.iter().filter_map(|e| if let Seen::Message { id, .. } = e { Some(id) } else { None }).collect();
    let messages = reference.iter().filter(|e| matches!(e, Seen::Message { .. })).count();
    assert_eq!(ids.len(), messages, "ids are unique");
    assert!(messages > visitors && reference.len() > messages + 2 * visitors, "too little happened: {messages}");
}

/// Within itself: offsets without a hole, counts that follow the events, time that does not go back.
fn check_reference(reference: &[Seen]) {
    let (mut offset, mut count, mut at) = (0, 1, 0);
    for event in reference {
        let time = match event {
            Seen::Message { offset: found, at, .. } => {
                assert_eq!(*found, offset + 1, "{event:?}");
                offset = *found;
                at
            }
            Seen::Online { count: found, at, .. } => {
                assert_eq!(*found, count + 1, "{event:?}");
                count = *found;
                at
            }
            Seen::Offline { count: found, at, .. } => {
                assert_eq!(*found, count - 1, "{event:?}");
                count = *found;
                at
            }
        };
        assert!(*time >= at, "time went back at {event:?}");
        at = *time;
    }
}

/// The log of a stay is exactly the stretch of the reference that begins behind its own coming.
fn check_stay(stay: &Stay, reference: &[Seen]) {
    let come = reference.iter().position(|e| matches!(e, Seen::Online { user, .. } if *user == stay.user));
    let came = come.unwrap_or_else(|| panic!("nobody saw {} come", stay.user));
    let begin = match stay.took_over {
        false => {
            assert!(matches!(&reference[came], Seen::Online { count, .. } if *count == stay.count), "{}", stay.user);
            came + 1
        }
        // Nobody sees a change of connection: its place is where what it saw first stands.
        true => match stay.log.first() {
            Some(first) => reference.iter().position(|event| event == first).expect("what it saw happened"),
            None => return,
        },
    };
    let end = begin + stay.log.len();
    assert!(end <= reference.len(), "{} saw more than there was", stay.user);
    for (found, wanted) in stay.log.iter().zip(&reference[begin..end]) {
        assert_eq!(found, wanted, "{} (stay of {} events from {begin})", stay.user, stay.log.len());
    }
    let before = |upto: usize| {
        let offsets = reference[..upto].iter().rev();
        offsets
            .clone()
            .find_map(|e| if let Seen::Message { offset, .. } = e { Some(*offset) } else { None })
            .unwrap_or(0)
    };
    assert_eq!(stay.offset, before(begin), "the offset that {} was told", stay.user);
    let times = reference.iter().filter(|e| matches!(e, Seen::Online { user, .. } if *user == stay.user)).count();
    assert_eq!(times, 1, "{} came once", stay.user);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_shard_has_one_order() {
    everyone_saw_the_same(1, 5, 60, seed()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_users_on_two_shards_see_one_order() {
    everyone_saw_the_same(2, 20, 200, seed()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixteen_shards_on_few_cores_have_one_order() {
    everyone_saw_the_same(16, 20, 120, seed()).await;
}

/// Everyone sends as fast as it can, and reads at the same time.
async fn a_burst_from_everyone(shards: usize, users: usize, each: usize) {
    let server = Arc::new(Options::new().shards(shards).env("URINGCAST_LIMITS__OUTBOX_BYTES", 64 << 20).start());
    let mut clients = Vec::new();
    for user in 0..users {
        clients.push(Client::join(&server, user, "User").await.0);
    }
    let mut running = Vec::new();
    for (user, mut client) in clients.into_iter().enumerate() {
        running.push(tokio::spawn(async move {
            let (mut log, mut acks, mut refused, mut sent) = (Vec::new(), Vec::new(), 0, 0);
            let mut heard = std::collections::HashSet::new();
            // Ahead by at most 100 answers: so that neither side's socket is full for good.
            loop {
                while sent < each && sent < acks.len() + refused + 100 {
                    let message =
                        json!({"type": "message", "id": sent.to_string(), "data": {"text": format!("{user}/{sent}")}});
                    client.send(&message).await;
                    sent += 1;
                }
                if acks.len() + refused == each {
                    return (client, log, acks, refused);
                }
                let value = client.next().await;
                match value["type"].as_str() {
                    Some("message") => {
                        let offset = value["data"]["offset"].as_u64().expect("an offset");
                        let text = value["data"]["text"].as_str().expect("a text").to_owned();
                        heard.insert(offset);
                        log.push((offset, text));
                    }
                    Some("ack") => {
                        let offset = value["data"]["offset"].as_u64().expect("an offset");
                        assert!(heard.contains(&offset), "acknowledged before it was heard: {value}");
                        assert_eq!(value["id"], (acks.len() + refused).to_string(), "answers in order");
                        acks.push(offset);
                    }
                    Some("error") => {
                        assert_eq!(value["code"], 503, "{value}");
                        refused += 1;
                    }
                    _ => assert_eq!(value["type"], "user_online", "{value}"),
                }
            }
        }));
    }
    let (mut clients, mut logs, mut acked, mut refused) = (Vec::new(), Vec::new(), 0, 0);
    for one in running {
        let (client, log, acks, no) = one.await.expect("a client");
        clients.push(client);
        logs.push(log);
        acked += acks.len();
        refused += no;
    }
    eprintln!("{shards} shards: {acked} messages, {refused} refused as too busy");
    // Each reads on until it has seen what was acknowledged to anybody.
    for (client, log) in clients.iter_mut().zip(&mut logs) {
        while log.len() < acked {
            let value = client.expect("message").await;
            let offset = value["data"]["offset"].as_u64().expect("an offset");
            log.push((offset, value["data"]["text"].as_str().expect("a text").to_owned()));
        }
    }
    for log in &logs {
        assert!(log.iter().map(|(offset, _)| *offset).eq(1..=acked as u64), "offsets without a hole");
        assert!(log == &logs[0], "two connections saw different orders");
    }
    // Each sender's own order is kept.
    let mut last = vec![-1_i64; users];
    for (_, text) in &logs[0] {
        let (user, n) = text.split_once('/').expect("ours");
        let (user, n): (usize, i64) = (user.parse().expect("a user"), n.parse().expect("a number"));
        assert!(n > last[user], "{text} after {}", last[user]);
        last[user] = n;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_from_everyone_on_two_shards_has_one_order() {
    a_burst_from_everyone(2, 40, 200).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_from_everyone_on_sixteen_shards_has_one_order() {
    a_burst_from_everyone(16, 40, 100).await;
}

/// All connections of one user, and one word to all of them. `URINGCAST_TEST_CONNECTIONS` says how many.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_connections_of_one_user_get_one_broadcast() {
    let many = std::env::var("URINGCAST_TEST_CONNECTIONS").ok().and_then(|text| text.parse().ok()).unwrap_or(2000);
    let server = Arc::new(
        Options::new()
            .shards(2)
            .env("URINGCAST_AUTH__DUPLICATE_LOGIN", "allow")
            // Signing in ten thousand takes longer than the usual deadline on a busy machine.
            .env("URINGCAST_AUTH__DEADLINE_MS", 120_000)
            .start(),
    );
    let before = server.resident();
    let (mut watcher, _) = Client::join(&server, "watcher", "Watcher").await;
    let door = Arc::new(Semaphore::new(100));
    let token = Arc::new(token("crowd", "Crowd"));
    let mut joining = Vec::new();
    for _ in 0..many {
        let (server, door, token) = (Arc::clone(&server), Arc::clone(&door), Arc::clone(&token));
        joining.push(tokio::spawn(async move {
            let _turn = door.acquire().await.expect("open");
            let mut client = Client::open(&server).await;
            let success = client.auth(&token).await;
            assert!(success["type"] == "auth_success" && success["data"]["online_count"] == 2, "{success}");
            client
        }));
    }
    let mut crowd = Vec::new();
    for client in joining {
        crowd.push(client.await.expect("joined"));
    }
    let each = server.resident().saturating_sub(before) / many as u64;
    println!("{many} idle signed-in connections: {each} bytes of user memory each");
    assert!(each < 16 << 10, "{each} bytes for an idle connection");
    assert_eq!(watcher.expect("user_online").await["data"]["online_count"], 2);
    watcher.send(&json!({"type": "users", "id": "1"})).await;
    let users = watcher.expect("users").await;
    let members = users["data"]["members"].as_array().unwrap();
    assert!(members.iter().any(|member| member["connections"] == many as u64), "{users}");

    watcher.say("hello everyone").await;
    let heard = watcher.expect("message").await;
    for client in &mut crowd {
        assert_eq!(client.next().await, heard);
    }
    // And once each: the next thing that everyone hears is the next word.
    watcher.say("again").await;
    let heard = watcher.expect("message").await;
    for client in &mut crowd {
        assert_eq!(client.next().await, heard);
    }
    crowd.clear();
    assert_eq!(watcher.expect("user_offline").await["data"]["online_count"], 1);
}
