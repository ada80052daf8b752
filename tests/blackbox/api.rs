//! The backend's HTTP API (docs/api.md) against the real binary: what it publishes reaches WebSocket clients as it was
//! written, what it is told is true, and what it does wrong is answered with the right status.

use std::net::{SocketAddr, TcpListener};
use std::time::Instant;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::{Client, DEADLINE, Event, Options, SECRET, Server};

pub const KEY: &str = "an-api-key-of-the-black-box-tests";

pub fn options() -> Options {
    Options::new()
        .env("URINGCAST_HTTP__KEYS", KEY)
        .env("URINGCAST_HTTP__LISTEN", "127.0.0.1:0")
        .env("URINGCAST_NAMESPACES__CHAT__PRESENCE", "events")
        .env("URINGCAST_NAMESPACES__CHAT__BATCH_WINDOW_MS", 0)
}

/// One HTTP answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    body: Value,
    pub text: String,
}

impl Answer {
    #[track_caller]
    pub fn ok(self) -> Value {
        assert_eq!(self.status, 200, "{self:?}");
        self.body
    }

    #[track_caller]
    pub fn refused(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.body["error"]["code"], status, "{self:?}");
        assert!(self.body["error"]["message"].as_str().is_some_and(|message| !message.is_empty()), "{self:?}");
        self.body["error"].clone()
    }
}

/// A backend.
#[derive(Clone)]
pub struct Backend {
    pub addr: SocketAddr,
    pub headers: String,
}

impl Backend {
    pub async fn of(server: &Server) -> Self {
        let addr = server.api().await;
        Self { addr, headers: format!("Authorization: Bearer {KEY}\r\nContent-Type: application/json\r\n") }
    }

    pub fn with(&self, headers: &str) -> Self {
        Self { addr: self.addr, headers: headers.to_owned() }
    }

    pub async fn send(&self, method: &str, path: &str, body: &[u8]) -> Answer {
        self.try_send(method, path, body).await.expect("an answer")
    }

    /// `None` if the connection was refused or ended without an answer.
    async fn try_send(&self, method: &str, path: &str, body: &[u8]) -> Option<Answer> {
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Length: {}\r\n{}\r\n",
            self.addr,
            body.len(),
            self.headers
        );
        let mut tcp = TcpStream::connect(self.addr).await.ok()?;
        tcp.write_all(head.as_bytes()).await.ok()?;
        // An answer may come before all of the body is taken.
        let _ = tcp.write_all(body).await;
        let mut bytes = Vec::new();
        let read = timeout(DEADLINE, tcp.read_to_end(&mut bytes)).await.expect("an answer in time");
        if read.is_err() && bytes.is_empty() {
            return None;
        }
        let text = String::from_utf8(bytes).unwrap();
        let (head, text) = text.split_once("\r\n\r\n")?;
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let body = serde_json::from_str(text).unwrap_or(Value::Null);
        Some(Answer { status, head: head.to_lowercase(), body, text: text.to_owned() })
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send("POST", path, body.to_string().as_bytes()).await
    }

    async fn publish(&self, body: &Value) -> Answer {
        self.post("/api/publish", body).await
    }
}

async fn subscribe(client: &mut Client, channel: &str) -> Value {
    client.send(&json!({"type": "subscribe", "id": "s", "data": {"channel": channel}})).await;
    client.find("subscribed").await
}

#[tokio::test]
async fn what_is_published_arrives_byte_for_byte() {
    let server = options().shards(2).start();
    let backend = Backend::of(&server).await;
    let (mut client, _) = Client::join(&server, 1, "Alice").await;
    let position = subscribe(&mut client, "news").await;
    let epoch = position["data"]["epoch"].as_str().unwrap().to_owned();
    let data = [
        r#"{"z":1,"a":123456789012345678901234567890,"z":[ 1.50, -0, 1E+9 ]}"#,
        r#""\u00e9\/ é \ud83d\ude00 <b>&\"""#,
        "[null,1e400]",
        "null",
        "{ \"x\" :\t\"\\u0000\" }",
    ];
    for (at, data) in data.iter().enumerate() {
        let offset = at as u64 + 1;
        let body = format!("{{ \"data\" : {data} ,\"channel\":\"news\",\"key\":\"k\"}}");
        let answer = backend.send("POST", "/api/publish", body.as_bytes()).await;
        assert!(answer.head.contains("content-type: application/json"), "{}", answer.head);
        assert_eq!(answer.ok(), json!({"channel": "news", "epoch": epoch, "offset": offset}));
        let Event::Text(text) = client.event().await else { panic!("a publication was due") };
        let start = format!(r#"{{"type":"publication","data":{{"channel":"news","offset":{offset},"data":"#);
        let rest = text.strip_prefix(&start).unwrap_or_else(|| panic!("{text}"));
        assert!(rest.starts_with(&format!("{data},\"key\":\"k\",\"timestamp\":")), "{text}");
        assert!(!text.contains("sender"), "the backend is nobody: {text}");
    }
    let answer = backend.publish(&json!({"channel": "lobby", "text": " \u{3000}<b>hi</b>\u{0} "})).await.ok();
    let message = client.expect("message").await;
    assert_eq!(message["data"]["text"], "&lt;b&gt;hi&lt;/b&gt;");
    assert_eq!(message["data"]["offset"], answer["offset"]);
    // And the past has them as they were, too.
    let past = backend.post("/api/history", &json!({"channel": "news", "limit": 2})).await;
    assert!(past.text.contains(&format!("\"data\":{},", data[0])), "{}", past.text);
    let past = past.ok();
    assert_eq!((&past["epoch"], &past["offset"]), (&json!(epoch), &json!(5)));
    let offsets = |past: &Value| {
        let list = past["publications"].as_array().unwrap();
        list.iter().map(|entry| entry["offset"].as_u64().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(offsets(&past), [1, 2]);
    assert_eq!(past["publications"][0]["type"], "publication");
    let since = json!({"channel": "news", "since": {"epoch": epoch, "offset": 3}});
    assert_eq!(offsets(&backend.post("/api/history", &since).await.ok()), [4, 5]);
    let reverse = json!({"channel": "news", "limit": 2, "reverse": true});
    assert_eq!(offsets(&backend.post("/api/history", &reverse).await.ok()), [5, 4]);
    let other = json!({"channel": "news", "since": {"epoch": "other", "offset": 3}});
    let error = backend.post("/api/history", &other).await.refused(409);
    assert_eq!((&error["epoch"], &error["offset"]), (&json!(epoch), &json!(5)));
}

#[tokio::test]
async fn a_key_is_accepted_once() {
    let server = options().shards(2).start();
    let backend = Backend::of(&server).await;
    let body = json!({"channel": "news", "data": {"n": 1}, "idempotency_key": "one"});
    let first = backend.publish(&body).await.ok();
    assert_eq!(first["offset"], 1);
    let mut again = first.clone();
    again["duplicate"] = json!(true);
    assert_eq!(backend.publish(&body).await.ok(), again);
    // The header is the same key.
    let plain = json!({"channel": "news", "data": {"n": 1}});
    let header = backend.with(&format!("{}Idempotency-Key: one\r\n", backend.headers));
    assert_eq!(header.publish(&plain).await.ok(), again);
    header.publish(&json!({"channel": "news", "data": 1, "idempotency_key": "two"})).await.refused(400);
    let reused = json!({"channel": "news", "data": {"n": 2}, "idempotency_key": "one"});
    backend.publish(&reused).await.refused(409);
    // Another channel's is another.
    let other = json!({"channel": "other", "data": {"n": 1}, "idempotency_key": "one"});
    assert_eq!(backend.publish(&other).await.ok()["offset"], 1);
    // A key is not pushed out by a few hundred newer ones: one backend has what a thousand users have.
    for n in 0..300 {
        let body = json!({"channel": "news", "data": 1, "idempotency_key": format!("k{n}")});
        assert_eq!(backend.publish(&body).await.ok()["offset"], n + 2);
    }
    assert_eq!(backend.publish(&body).await.ok(), again);
    let epoch = first["epoch"].clone();
    assert_eq!(backend.publish(&json!({"channel": "news", "data": 1, "epoch": epoch})).await.ok()["offset"], 302);
    let error = backend.publish(&json!({"channel": "news", "data": 1, "epoch": "x"})).await.refused(409);
    assert_eq!(error["offset"], 302);
}

#[tokio::test]
async fn what_is_wrong_is_said() {
    let server = options().env("URINGCAST_LIMITS__PUSH_BYTES", 1024).start();
    let backend = Backend::of(&server).await;
    let good = json!({"channel": "news", "data": 1});
    for headers in [
        String::new(),
        "Authorization: Bearer wrong-wrong-wrong-wrong\r\n".to_owned(),
        format!("Authorization: Basic {KEY}\r\n"),
        format!("Authorization: Bearer {KEY}x\r\n"),
        format!("Authorization: {KEY}\r\n"),
        "X-API-Key: \r\n".to_owned(),
    ] {
        for path in ["/api/publish", "/api/history", "/api/nosuch"] {
            let answer = backend.with(&headers).post(path, &good).await;
            assert!(answer.head.contains("www-authenticate: bearer"), "{}", answer.head);
            answer.refused(401);
        }
    }
    for headers in [
        format!("X-API-Key: {KEY}\r\n"),
        format!("authorization: bearer {KEY}\r\nContent-Type: application/json; charset=utf-8\r\n"),
    ] {
        backend.with(&headers).publish(&good).await.ok();
    }
    for body in [
        "",
        "{",
        "[1]",
        "{\"channel\":\"news\"}",
        "{\"channel\":5,\"data\":1}",
        "{\"data\":1}",
        "{\"channel\":\"news\",\"data\":01}",
        "{\"channel\":\"news\",\"data\":1,\"text\":\"x\"}",
        "{\"channel\":\"news\",\"text\":\" \"}",
        "{\"channel\":\"a b\",\"data\":1}",
        "{\"channel\":\"\",\"data\":1}",
        "{\"channel\":\"news\",\"data\":\"\\ud800\"}",
        "{\"channel\":\"news\",\"data\":1,\"idempotency_key\":\"\"}",
        &format!("{{\"channel\":\"news\",\"data\":{}{}}}", "[".repeat(65), "]".repeat(65)),
        &format!("{{\"channel\":\"news\",\"data\":1,\"key\":\"{}\"}}", "k".repeat(256)),
        &format!("{{\"channel\":\"{}\",\"data\":1}}", "c".repeat(201)),
    ] {
        backend.send("POST", "/api/publish", body.as_bytes()).await.refused(400);
    }
    backend.send("POST", "/api/publish", b"{\"channel\":\"news\",\"data\":\"\xff\"}").await.refused(400);
    backend.publish(&json!({"channel": "nosuch:room", "data": 1})).await.refused(404);
    backend.post("/api/history", &json!({"channel": "nosuch:room"})).await.refused(404);
    backend.post("/api/history", &json!({"channel": "news", "limit": 0})).await.refused(400);
    backend.post("/api/history", &json!({"channel": "news", "since": {"epoch": "x"}})).await.refused(400);
    backend.send("GET", "/api/presence", b"").await.refused(400);
    backend.send("GET", "/api/nosuch", b"").await.refused(404);
    backend.send("GET", "/", b"").await.refused(404);
    let answer = backend.send("GET", "/api/publish", b"").await;
    assert!(answer.head.contains("allow: post"), "{}", answer.head);
    answer.refused(405);
    let form = format!("Authorization: Bearer {KEY}\r\nContent-Type: application/x-www-form-urlencoded\r\n");
    backend.with(&form).publish(&good).await.refused(415);
    let packed = format!("{}Content-Encoding: gzip\r\n", backend.headers);
    backend.with(&packed).publish(&good).await.refused(415);
    // Too large as a push, and too large to be looked at; neither takes an offset.
    backend.publish(&json!({"channel": "news", "data": "x".repeat(1024)})).await.refused(413);
    backend.publish(&json!({"channel": "news", "data": "x".repeat(400_000)})).await.refused(413);
    assert_eq!(backend.publish(&good).await.ok()["offset"], 3);
}

/// What is no JSON object is refused by every endpoint, and what a field must be is said in the words of docs/api.md.
#[tokio::test]
async fn only_objects_are_taken_and_errors_name_the_field() {
    let server = options().start();
    let backend = Backend::of(&server).await;
    let arrays = [
        ("publish", r#"[1,null,null,null,null,"news",null]"#),
        ("broadcast", r#"[1,null,null,null,null,null,["news"]]"#),
        ("history", r#"["news",null,1,false]"#),
        ("presence", r#"["lobby",null,1]"#),
        ("revoke", "[null,null,9999999999999,null]"),
        ("unrevoke", "[null,null,9999999999999]"),
    ];
    for (endpoint, array) in arrays {
        for body in [array, "[]", "null", "1", "\"x\"", "true", "", "[{}]"] {
            let error = backend.send("POST", &format!("/api/{endpoint}"), body.as_bytes()).await.refused(400);
            let message = error["message"].as_str().unwrap();
            assert!(message.starts_with("the body must be a JSON object"), "{endpoint} {body}: {message}");
        }
    }
    for (endpoint, body, said) in [
        ("publish", r#"{"channel":["news"],"data":1}"#, "channel must be a text in quotes"),
        ("publish", r#"{"data":1}"#, "channel is missing"),
        ("publish", r#"{"channel":"news","data":1,"data":2}"#, "the body has data twice"),
        ("publish", r#"{"channel":"news","text":{"a":1}}"#, "text must be a text in quotes"),
        ("publish", r#"{"channel":"news","data":1,"key":1}"#, "key must be a text in quotes"),
        ("publish", r#"{"channel":"news","data":1,"epoch":[]}"#, "epoch must be a text in quotes"),
        ("broadcast", r#"{"channels":{"0":"a"},"data":1}"#, "channels must be a list of texts: [\"…\", \"…\"]"),
        ("broadcast", r#"{"channels":["a",["b"]],"data":1}"#, "channels[1] must be a text in quotes"),
        ("history", r#"{"channel":"news","since":["x",1]}"#, "since must be an object with epoch and offset"),
        ("history", r#"{"channel":"news","since":{"epoch":"x"}}"#, "since.offset is missing"),
        (
            "history",
            r#"{"channel":"news","since":{"epoch":"x","offset":-1}}"#,
            "since.offset must be a whole number from 0 up",
        ),
        ("history", r#"{"channel":"news","limit":1.5}"#, "limit must be a whole number from 1 up"),
        ("history", r#"{"channel":"news","limit":0}"#, "limit must be a whole number from 1 up"),
        ("history", r#"{"channel":"news","reverse":1}"#, "reverse must be true or false"),
        ("presence", r#"{"channel":"lobby","cursor":1}"#, "cursor must be a text in quotes"),
        (
            "revoke",
            r#"{"issued_before":"1"}"#,
            "issued_before must be a time in Unix milliseconds, a whole number from 0 up",
        ),
        ("revoke", r#"{"token_id":7}"#, "token_id must be a text in quotes"),
    ] {
        let error = backend.send("POST", &format!("/api/{endpoint}"), body.as_bytes()).await.refused(400);
        assert_eq!(error["message"], said, "{endpoint} {body}");
    }
    for (query, said) in [
        ("", "channel is missing"),
        ("?channel=lobby&limit=x", "limit must be a whole number from 1 up"),
        ("?channel=lobby&limit=-1", "limit must be a whole number from 1 up"),
        ("?channel=lobby&limit=", "limit must be a whole number from 1 up"),
        ("?channel=lobby&channel=news", "the query has channel twice"),
    ] {
        let error = backend.send("GET", &format!("/api/presence{query}"), b"").await.refused(400);
        assert_eq!(error["message"], said, "{query}");
    }
    // Nobody was revoked and nothing was published.
    assert_eq!(backend.post("/api/history", &json!({"channel": "news"})).await.ok()["offset"], 0);
    Client::join(&server, 1, "Alice").await;
}

#[tokio::test]
async fn a_broadcast_answers_for_each_channel() {
    let server = options().shards(2).start();
    let backend = Backend::of(&server).await;
    let (mut client, _) = Client::join(&server, 1, "Alice").await;
    subscribe(&mut client, "a").await;
    subscribe(&mut client, "b").await;
    let body = json!({"channels": ["a", "nosuch:x", "b", "no good", "lobby", "a"], "data": {"n": 1}});
    let results = backend.post("/api/broadcast", &body).await.ok()["results"].clone();
    let codes: Vec<_> = (0..6).map(|at| results[at]["error"]["code"].clone()).collect();
    assert_eq!(json!(codes), json!([null, 404, null, 400, null, null]));
    let offsets: Vec<_> = (0..6).map(|at| results[at]["offset"].clone()).collect();
    assert_eq!(json!(offsets), json!([1, null, 1, null, 1, 2]));
    let channels: Vec<_> = (0..6).map(|at| results[at]["channel"].clone()).collect();
    assert_eq!(json!(channels), body["channels"]);
    let mut seen = Vec::new();
    for _ in 0..4 {
        let push = client.expect("publication").await;
        assert_eq!(push["data"]["data"], json!({"n": 1}));
        seen.push((push["data"]["channel"].as_str().unwrap().to_owned(), push["data"]["offset"].as_u64().unwrap()));
    }
    seen.sort();
    assert_eq!(seen, [("a".into(), 1), ("a".into(), 2), ("b".into(), 1), ("lobby".into(), 1)]);
    // The most there may be, again under the same key, and one more.
    let many: Vec<_> = (0..1000).map(|n| format!("chat:{n}")).collect();
    for duplicate in [Value::Null, json!(true)] {
        let body = json!({"channels": many, "text": "hi", "idempotency_key": "all"});
        let results = backend.post("/api/broadcast", &body).await.ok()["results"].clone();
        for (at, channel) in many.iter().enumerate() {
            assert_eq!(results[at]["channel"], **channel);
            assert_eq!((&results[at]["offset"], &results[at]["duplicate"]), (&json!(1), &duplicate), "{at}");
        }
    }
    let over: Vec<_> = (0..1001).map(|n| format!("chat:{n}")).collect();
    for channels in [json!(over), json!([]), json!("a"), json!([1])] {
        backend.post("/api/broadcast", &json!({"channels": channels, "data": 1})).await.refused(400);
    }
    backend.post("/api/broadcast", &json!({"channels": ["a"], "data": 1, "text": "x"})).await.refused(400);
}

#[tokio::test]
async fn presence_has_pages() {
    let server = options().shards(2).env("URINGCAST_AUTH__DUPLICATE_LOGIN", "allow").start();
    let backend = Backend::of(&server).await;
    let mut clients = Vec::new();
    for user in [1, 1, 2, 3] {
        let (mut client, _) = Client::join(&server, user, "A & B").await;
        subscribe(&mut client, "chat:room").await;
        clients.push(client);
    }
    for channel in ["lobby", "chat:room"] {
        let all = backend.send("GET", &format!("/api/presence?channel={channel}"), b"").await.ok();
        assert_eq!(all["count"], 3, "{all}");
        let of = |page: &Value| {
            let list = page["members"].as_array().unwrap();
            list.iter()
                .map(|member| (member["user"]["id"].as_u64().unwrap(), member["connections"].as_u64().unwrap()))
                .collect::<Vec<_>>()
        };
        assert_eq!(of(&all), [(1, 2), (2, 1), (3, 1)]);
        assert_eq!(all["channel"], channel);
        let mut seen = Vec::new();
        let mut cursor = Value::Null;
        loop {
            let body = json!({"channel": channel, "limit": 2, "cursor": cursor});
            let page = backend.post("/api/presence", &body).await.ok();
            seen.extend(of(&page));
            cursor = page["cursor"].clone();
            if cursor.is_null() {
                break;
            }
        }
        assert_eq!(seen, of(&all));
    }
    let empty = backend.post("/api/presence", &json!({"channel": "chat:empty"})).await.ok();
    assert_eq!(empty, json!({"channel": "chat:empty", "count": 0, "members": []}));
    backend.post("/api/presence", &json!({"channel": "news"})).await.refused(403);
    backend.post("/api/presence", &json!({"channel": "nosuch:x"})).await.refused(404);
    let health = backend.with("").send("GET", "/health", b"").await.ok();
    assert_eq!(health, json!({"status": "ok", "connections": 4, "shards": 2}));
}

#[tokio::test]
async fn two_publishers_and_everyone_sees_one_order() {
    const EACH: u64 = 200;
    let server = options().shards(2).start();
    let backend = Backend::of(&server).await;
    let mut readers = Vec::new();
    for user in 0..4 {
        let (mut client, _) = Client::join(&server, user, "Reader").await;
        subscribe(&mut client, "news").await;
        readers.push(client);
    }
    let publishers: Vec<_> = (0..2)
        .map(|publisher| {
            let backend = backend.clone();
            tokio::spawn(async move {
                let mut acks = Vec::new();
                for n in 0..EACH {
                    let body = json!({"channel": "news", "data": [publisher, n]});
                    acks.push((backend.publish(&body).await.ok()["offset"].as_u64().unwrap(), publisher, n));
                }
                acks
            })
        })
        .collect();
    let mut acks = Vec::new();
    for publisher in publishers {
        let own = publisher.await.unwrap();
        assert!(own.is_sorted(), "a publisher's own order is kept");
        acks.extend(own);
    }
    acks.sort_unstable();
    assert!(acks.iter().map(|ack| ack.0).eq(1..=2 * EACH), "offsets without a hole");
    for mut reader in readers {
        for (offset, publisher, n) in &acks {
            let push = reader.find("publication").await;
            assert_eq!((&push["data"]["offset"], &push["data"]["data"]), (&json!(offset), &json!([publisher, n])));
        }
    }
}

#[tokio::test]
async fn an_unknown_outcome_becomes_known_under_its_key() {
    let server = options()
        .env("URINGCAST_NAMESPACES__CHAT__BATCH_WINDOW_MS", 1000)
        .env("URINGCAST_LIMITS__REQUEST_MS", 300)
        .start();
    let backend = Backend::of(&server).await;
    let body = json!({"channel": "chat:slow", "data": 1, "idempotency_key": "k"});
    let error = backend.publish(&body).await.refused(504);
    assert!(error["message"].as_str().unwrap().contains("idempotency_key"), "{error}");
    let end = Instant::now() + DEADLINE;
    let outcome = loop {
        let answer = backend.publish(&body).await;
        if answer.status == 200 {
            break answer.body;
        }
        answer.refused(504);
        assert!(Instant::now() < end);
    };
    assert_eq!((&outcome["offset"], &outcome["duplicate"]), (&json!(1), &json!(true)));
    // A body that doesn't come isn't waited for either, nor a head.
    let mut tcp = TcpStream::connect(backend.addr).await.unwrap();
    let head = format!("POST /api/publish HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n{}\r\n{{", backend.headers);
    tcp.write_all(head.as_bytes()).await.unwrap();
    let mut text = String::new();
    timeout(DEADLINE, tcp.read_to_string(&mut text)).await.expect("in time").unwrap();
    assert!(text.starts_with("HTTP/1.1 408 "), "{text}");
}

#[tokio::test]
async fn a_slow_head_is_cut() {
    let server = options().env("URINGCAST_LIMITS__HANDSHAKE_MS", 200).start();
    let backend = Backend::of(&server).await;
    for part in ["", "POST /api/publish HTTP/1.1\r\nHost:"] {
        let mut tcp = TcpStream::connect(backend.addr).await.unwrap();
        tcp.write_all(part.as_bytes()).await.unwrap();
        let mut bytes = Vec::new();
        timeout(DEADLINE, tcp.read_to_end(&mut bytes)).await.expect("cut in time").unwrap();
    }
}

#[tokio::test]
async fn what_is_under_way_is_answered_when_the_server_stops() {
    let mut server = options().shards(2).env("URINGCAST_NAMESPACES__CHAT__BATCH_WINDOW_MS", 400).start();
    let backend = Backend::of(&server).await;
    let (mut client, _) = Client::join(&server, 1, "Alice").await;
    subscribe(&mut client, "chat:late").await;
    let publishers: Vec<_> = (0..4)
        .map(|_| {
            let backend = backend.clone();
            tokio::spawn(async move {
                let mut accepted = 0_u64;
                while let Some(answer) = backend.try_send("POST", "/api/publish", br#"{"channel":"a","data":1}"#).await
                {
                    match answer.status {
                        200 => accepted += 1,
                        503 => assert!(answer.head.contains("retry-after: "), "{}", answer.head),
                        _ => panic!("{answer:?}"),
                    }
                }
                accepted
            })
        })
        .collect();
    let late = {
        let backend = backend.clone();
        tokio::spawn(async move { backend.publish(&json!({"channel": "chat:late", "data": 7})).await })
    };
    // It is in the history at once, and answered when its window is over.
    let end = Instant::now() + DEADLINE;
    while backend.post("/api/history", &json!({"channel": "chat:late"})).await.ok()["offset"] != 1 {
        assert!(Instant::now() < end);
    }
    server.signal("TERM");
    assert_eq!(late.await.unwrap().ok()["offset"], 1);
    assert_eq!(client.find("publication").await["data"]["data"], 7);
    for publisher in publishers {
        assert!(publisher.await.unwrap() > 0);
    }
    assert_eq!(server.ended(DEADLINE).code(), Some(0), "{}", server.log());
}

#[tokio::test]
async fn keys_are_read_anew() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys");
    std::fs::write(&file, format!("# ours\n{KEY}\n")).unwrap();
    let server = options().without("URINGCAST_HTTP__KEYS").env("URINGCAST_HTTP__KEYS_FILE", file.display()).start();
    let backend = Backend::of(&server).await;
    let good = json!({"channel": "news", "data": 1});
    backend.publish(&good).await.ok();
    let other = "another-api-key-of-these-tests";
    std::fs::write(&file, other).unwrap();
    server.signal("HUP");
    let end = Instant::now() + DEADLINE;
    while backend.publish(&good).await.status != 401 {
        assert!(Instant::now() < end, "{}", server.log());
    }
    backend.with(&format!("X-API-Key: {other}\r\n")).publish(&good).await.ok();
    assert!(!server.log().contains(other) && !server.log().contains(KEY), "keys don't belong in a log");
}

#[tokio::test]
async fn it_listens_only_with_a_key_and_on_a_port_of_its_own() {
    let probe = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = probe.local_addr().unwrap();
    let taken = options().env("URINGCAST_HTTP__LISTEN", addr).run();
    taken.refused(&[&addr.to_string(), "http.listen", "in use"]);
    drop(probe);
    let server = options().without("URINGCAST_HTTP__KEYS").env("URINGCAST_HTTP__LISTEN", addr).start();
    assert!(TcpStream::connect(addr).await.is_err());
    assert!(!server.log().contains("HTTP API"), "{}", server.log());
    let off = options().env("URINGCAST_HTTP__LISTEN", "").start();
    assert!(!off.log().contains("HTTP API"), "{}", off.log());
    Options::bare(&["--listen", "127.0.0.1:0"])
        .env("URINGCAST_AUTH__HS256_SECRET", SECRET)
        .env("URINGCAST_HTTP__KEYS_FILE", "/no/such/file")
        .run()
        .refused(&["http.keys_file", "/no/such/file"]);
}
