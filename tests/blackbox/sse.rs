//! Event streams (docs/sse.md): what comes over them, what their requests are answered with, and how they end.

use std::time::Duration;

use serde_json::{Value, json};

use crate::channel_support::{member, members_publish};
use crate::listening::Nginx;
use crate::support::{
    Client, DEADLINE, EventStream, Options, Raw, Server, StreamQuery, assert_shape, http, installed, missing, now_s,
    sign, token, until,
};

fn ann(channels: &[&str]) -> StreamQuery {
    StreamQuery::new(channels, &token("ann", "Ann"))
}

/// The request is answered with this status and a JSON error of this code.
async fn refused(server: &Server, query: &StreamQuery, status: u16) -> (crate::support::Response, Value) {
    let Err((response, body)) = EventStream::ask(server, query).await else { panic!("{query:?} was let in") };
    assert_eq!(response.status, status, "{query:?}: {response:?} {body}");
    assert_eq!(response.header("content-type"), Some("application/json"), "{response:?}");
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_shape(&body, &json!({"type": "error", "code": status, "message": "<text>"}));
    (response, body)
}

#[tokio::test]
async fn a_stream_brings_what_a_websocket_gets() {
    let server = members_publish().env("URINGCAST_CHANNELS__PRESENCE", "events").start();
    let mut bob = member(&server, "bob", "news").await;
    let mut stream = EventStream::open(&server, &ann(&["news"])).await;
    for (name, value) in [
        ("cache-control", "no-store"),
        ("x-accel-buffering", "no"),
        ("connection", "close"),
        ("x-content-type-options", "nosniff"),
    ] {
        assert_eq!(stream.response.header(name), Some(value), "{:?}", stream.response);
    }
    let success = stream.expect("auth_success").await;
    assert_eq!(success.data["data"]["user"], json!({"id": "ann", "username": "Ann"}));
    assert!(stream.retry_ms.is_some_and(|ms| (1_000..3_000).contains(&ms)), "{:?}", stream.retry_ms);
    let subscribed = stream.expect("subscribed").await;
    let epoch = subscribed.data["data"]["epoch"].as_str().unwrap().to_owned();
    assert_eq!(subscribed.id, format!("{epoch}.0"));
    let joined = bob.find("join").await;
    assert_eq!(joined["data"]["user"]["id"], "ann");

    bob.publish("news", json!({"price": 1.5})).await;
    let event = stream.expect("message").await;
    assert_eq!(event.id, format!("{epoch}.1"));
    let expected = json!({"type": "publication", "data": {"channel": "news", "offset": 1, "data": {"price": 1.5},
        "sender": {"id": "bob", "username": "bob"}, "timestamp": "<ms>"}});
    assert_shape(&event.data, &expected);
    bob.send_text("{\"type\":\"publish\",\"data\":{\"channel\":\"news\",\"data\":[1,\r\n2,\r3,\n\n4]}}").await;
    assert_eq!(stream.expect("message").await.data["data"]["data"], json!([1, 2, 3, 4]));
    bob.send(&json!({"type": "message", "data": {"channel": "news", "text": "a\nb"}})).await;
    let text = stream.expect("message").await;
    assert_eq!((&text.data["type"], &text.data["data"]["text"]), (&json!("message"), &json!("a\nb")));
    bob.leave().await;
    let left = stream.expect("leave").await;
    assert_eq!((left.data["data"]["user"]["id"].as_str(), left.id), (Some("bob"), format!("{epoch}.3")));
}

#[tokio::test]
async fn a_stream_of_several_channels_has_all_positions_in_each_id() {
    let server = members_publish().shards(2).start();
    let mut bob = member(&server, "bob", "a").await;
    bob.subscribe("b").await;
    bob.publish("b", json!(0)).await;
    let mut stream = EventStream::open(&server, &ann(&["a", "b", "lobby"])).await;
    let last = stream.subscribed(3).await;
    let epochs: Vec<String> =
        last.id.split('_').map(|position| position.split_once('.').unwrap().0.to_owned()).collect();
    let id = |a: u64, b: u64, lobby: u64| format!("{}.{a}_{}.{b}_{}.{lobby}", epochs[0], epochs[1], epochs[2]);
    assert_eq!(last.id, id(0, 1, 0));
    bob.publish("a", json!(1)).await;
    assert_eq!(stream.expect("message").await.id, id(1, 1, 0));
    bob.publish("b", json!(2)).await;
    assert_eq!(stream.expect("message").await.id, id(1, 2, 0));
    bob.say("hi").await;
    let said = stream.expect("message").await;
    assert_eq!((said.id, &said.data["data"]["text"]), (id(1, 2, 1), &json!("hi")));

    // A position for one of them alone leaves the others as they are.
    bob.publish("a", json!(3)).await;
    let mut back = EventStream::open(&server, &ann(&["a", "b", "lobby"]).from(&id(1, 2, 1))).await;
    let recovered = back.find("message").await;
    assert_eq!((recovered.id, &recovered.data["data"]["data"]), (id(2, 2, 1), &json!(3)));
}

#[tokio::test]
async fn what_was_missed_comes_as_events_and_what_is_lost_is_a_gap() {
    let options = members_publish().env("URINGCAST_AUTH__DUPLICATE_LOGIN", "allow");
    let server = options.env("URINGCAST_CHANNELS__HISTORY_SIZE", 3).start();
    let mut bob = member(&server, "bob", "news").await;
    for n in 1..=5 {
        bob.publish("news", json!(n)).await;
    }
    let mut stream = EventStream::open(&server, &ann(&["news"])).await;
    let id = stream.subscribed(1).await.id;
    let epoch = id.strip_suffix(".5").unwrap();

    let mut back = EventStream::open(&server, &ann(&["news"]).from(&format!("{epoch}.3"))).await;
    let subscribed = back.subscribed(1).await;
    assert_eq!((&subscribed.data["data"]["recovered"], subscribed.id), (&json!(true), format!("{epoch}.3")));
    for n in [4, 5] {
        let event = back.expect("message").await;
        assert_eq!((event.id, &event.data["data"]["data"]), (format!("{epoch}.{n}"), &json!(n)));
    }
    let mut lost = EventStream::open(&server, &ann(&["news"]).from(&format!("{epoch}.1"))).await;
    let subscribed = lost.subscribed(1).await;
    assert_eq!((&subscribed.data["data"]["recovered"], subscribed.id), (&json!(false), format!("{epoch}.1")));
    let gap = lost.expect("gap").await;
    assert_eq!((&gap.data["data"]["from"], &gap.data["data"]["to"]), (&json!(2), &json!(5)));
    assert_eq!(gap.id, id);
    // Above the channel's position nothing can be named, but the client has a position again.
    let mut above = EventStream::open(&server, &ann(&["news"]).from(&format!("{epoch}.9"))).await;
    above.subscribed(1).await;
    bob.publish("news", json!(6)).await;
    assert_eq!(above.expect("message").await.id, format!("{epoch}.6"));
    assert_eq!(lost.expect("message").await.id, format!("{epoch}.6"));
}

#[tokio::test]
async fn what_is_no_good_request_is_answered_in_http() {
    let server = Options::new()
        .env("URINGCAST_CHANNELS__SUBSCRIBE", "token")
        .env("URINGCAST_ORIGINS", "https://page.example")
        .start();
    let may = sign(&json!({"sub": "ann", "exp": now_s() + 60, "channels": ["mine"]}));
    let good = StreamQuery::new(&["mine"], &may);
    for (query, status) in [
        (StreamQuery::new(&["mine"], ""), 401),
        (StreamQuery::new(&["mine"], "no.good.token"), 401),
        (StreamQuery::new(&[], &may), 400),
        (StreamQuery::new(&["a%20b"], &may), 400),
        (StreamQuery::new(&["mine", "mine"], &may), 400),
        (StreamQuery::new(&["c"; 33], &may), 400),
        (good.clone().from("nonsense"), 400),
        (good.clone().from("e.1_e.2"), 400),
        (StreamQuery::new(&["other"], &may), 403),
        (StreamQuery::new(&["no:such"], &may), 404),
        (good.clone().with("Origin: https://elsewhere.example"), 403),
    ] {
        refused(&server, &query, status).await;
    }
    let (response, _) = refused(&server, &StreamQuery::new(&["mine"], ""), 401).await;
    assert_eq!(response.header("www-authenticate"), Some("Bearer"));
    // A page that may connect may also read why it is refused.
    let page = StreamQuery::new(&["other"], &may).with("Origin: https://page.example");
    let (response, _) = refused(&server, &page, 403).await;
    assert_eq!(response.header("access-control-allow-origin"), Some("https://page.example"));
    let stream = EventStream::open(&server, &good.clone().with("Origin: https://page.example")).await;
    assert_eq!(stream.response.header("access-control-allow-origin"), Some("https://page.example"));

    // Of several channels those that may be had are.
    let mut both = EventStream::open(&server, &StreamQuery::new(&["mine", "other"], &may)).await;
    both.expect("auth_success").await;
    let error = both.expect("channel_error").await;
    assert_shape(
        &error.data,
        &json!({"type": "error", "code": 403, "message": "<text>", "data": {"channel": "other"}}),
    );
    let subscribed = both.expect("subscribed").await;
    assert!(subscribed.id.ends_with(".0_-"), "{subscribed:?}");

    let host = server.addr;
    let (response, _) = http(&server, &format!("POST /sse?channel=mine HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
    assert_eq!(response.status, 405);
    // An upgrade is not for this path.
    let (response, _) = http(&server, &format!("GET /nothing HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
    assert_eq!(response.status, 404);
}

#[tokio::test]
async fn head_options_and_http_1_0_are_answered() {
    let server = Options::new().env("URINGCAST_ORIGINS", "https://page.example").start();
    let (host, token) = (server.addr, token("ann", "Ann"));
    let request = format!("HEAD /sse?channel=a&token={token} HTTP/1.1\r\nHost: {host}\r\n\r\n");
    let (response, body) = http(&server, &request).await;
    assert_eq!((response.status, response.header("content-type"), &*body), (200, Some("text/event-stream"), ""));
    let request = format!(
        "OPTIONS /sse?channel=a HTTP/1.1\r\nHost: {host}\r\nOrigin: https://page.example\r\n\
         Access-Control-Request-Method: GET\r\nAccess-Control-Request-Headers: authorization\r\n\r\n"
    );
    let (response, _) = http(&server, &request).await;
    assert_eq!(response.status, 204);
    assert_eq!(response.header("access-control-allow-origin"), Some("https://page.example"));
    assert!(response.header("access-control-allow-headers").is_some_and(|names| names.contains("Authorization")));
    let request = format!("GET /sse?channel=a&token={token} HTTP/1.0\r\nHost: {host}\r\n\r\n");
    let mut raw = Raw::connect(&server).await;
    raw.write(request.as_bytes()).await;
    assert_eq!(raw.response().await.status, 200);
    // The path can be another, or none.
    let off = Options::new().env("URINGCAST_SSE_PATH", "").start();
    let request = format!("GET /sse?channel=a&token={token} HTTP/1.1\r\nHost: {host}\r\n\r\n");
    assert_eq!(http(&off, &request).await.0.status, 404);
}

#[tokio::test]
async fn what_ends_for_good_is_not_come_back_to() {
    let server = Options::new().start();
    let mut stream = EventStream::open(&server, &ann(&["news"])).await;
    stream.subscribed(1).await;
    let (_other, _) = Client::join(&server, "ann", "Ann").await;
    stream.expect("kicked").await;
    let close = stream.closed(4409).await;
    assert_eq!((&close.data["reconnect"], &*close.id), (&json!(false), "!4409"));
    let Err((response, body)) = EventStream::ask(&server, &ann(&["news"]).from(&close.id)).await else {
        panic!("it was let in again");
    };
    assert_eq!((response.status, &*body), (204, ""));
}

#[tokio::test]
async fn a_newcomer_that_is_rejected_hears_it_in_http() {
    let server = Options::new().env("URINGCAST_AUTH__DUPLICATE_LOGIN", "reject_new").start();
    let mut stream = EventStream::open(&server, &ann(&["news"])).await;
    stream.subscribed(1).await;
    // The present stream lives: its kernel acknowledges the ping that is a comment.
    refused(&server, &ann(&["news"]), 409).await;
    drop(stream);
    until("the user is free again", async || EventStream::ask(&server, &ann(&["news"])).await.ok()).await;
}

#[tokio::test]
async fn a_token_ends_a_stream() {
    let server = Options::new().env("URINGCAST_AUTH__LEEWAY_S", 0).start();
    let short = sign(&json!({"sub": "ann", "exp": now_s() + 2}));
    let mut stream = EventStream::open(&server, &StreamQuery::new(&["news"], &short)).await;
    stream.subscribed(1).await;
    stream.find("token_expiring").await;
    stream.find("auth_failed").await;
    let close = stream.closed(4401).await;
    assert_eq!(close.data["reason"], "token expired");
    // A revocation does the same.
    let server = crate::api::options().start();
    let mut stream = EventStream::open(&server, &ann(&["news"])).await;
    stream.subscribed(1).await;
    let backend = crate::api::Backend::of(&server).await;
    backend.post("/api/revoke", &json!({"user": "ann"})).await.ok();
    stream.closed(4401).await;
    refused(&server, &ann(&["news"]), 401).await;
}

#[tokio::test]
async fn a_server_that_stops_says_when_to_come_back() {
    let mut server = Options::new().start();
    let mut stream = EventStream::open(&server, &ann(&["news"])).await;
    let position = stream.subscribed(1).await.id;
    server.signal("TERM");
    let draining = stream.find("draining").await;
    assert_eq!(draining.data["data"]["reconnect_in_ms"].as_u64(), stream.retry_ms);
    let close = stream.closed(1001).await;
    assert_eq!((&close.data["reconnect"], close.id), (&json!(true), position));
    assert!(server.ended(Duration::from_secs(10)).success());
}

#[tokio::test]
async fn nothing_is_read_behind_the_request() {
    let server = Options::new().start();
    let mut stream = EventStream::open(&server, &ann(&["news"])).await;
    stream.subscribed(1).await;
    stream.send(b"GET / HTTP/1.1\r\n").await;
    stream.closed(1002).await;
}

#[tokio::test]
async fn a_stream_that_says_nothing_has_heartbeats() {
    let server = Options::new().env("URINGCAST_LIVENESS__PING_INTERVAL_MS", 100).start();
    let mut stream = EventStream::open(&server, &ann(&["news"])).await;
    stream.subscribed(1).await;
    // It is still there after many intervals without an answer.
    stream.heartbeats(8).await;
    let (_other, _) = Client::join(&server, "ann", "Ann").await;
    stream.closed(4409).await;
}

#[tokio::test]
async fn limits_hold_for_streams() {
    let options = Options::new().env("URINGCAST_LIMITS__EXEMPT", "");
    let server = options.clone().env("URINGCAST_LIMITS__CONNECTIONS_PER_IP", 2).start();
    let mut streams = Vec::new();
    for user in ["a", "b"] {
        streams.push(EventStream::open(&server, &StreamQuery::new(&["news"], &token(user, user))).await);
    }
    let (response, _) = refused(&server, &ann(&["news"]), 429).await;
    assert_eq!(response.header("retry-after"), Some("30"));

    let server = options.clone().env("URINGCAST_LIMITS__CONNECTIONS", 1).start();
    let _first = EventStream::open(&server, &ann(&["news"])).await;
    let (response, _) = refused(&server, &ann(&["news"]), 503).await;
    assert!(response.header("retry-after").is_some());

    let server = options.env("URINGCAST_LIMITS__AUTH_FAILURES_PER_IP_BURST", 2).start();
    for status in [401, 401, 429] {
        refused(&server, &StreamQuery::new(&["news"], "no.good.token"), status).await;
    }

    let server = Options::new().env("URINGCAST_LIMITS__SUBSCRIPTIONS", 2).start();
    let mut stream = EventStream::open(&server, &ann(&["a", "b", "c"])).await;
    assert_eq!(stream.find("channel_error").await.data["code"], 429);
}

/// As docs/sse.md has it: with nginx's defaults, which are HTTP/1.0 and buffers, and with HTTP/1.1.
#[tokio::test]
async fn nginx_passes_events_on_as_they_come() {
    if !installed("nginx") {
        return missing("nginx", "event streams behind nginx");
    }
    let server = members_publish().env("URINGCAST_LIVENESS__PING_INTERVAL_MS", 200).start();
    let mut bob = member(&server, "bob", "news").await;
    for more in ["", "proxy_http_version 1.1; proxy_set_header Connection \"\";"] {
        let nginx = Nginx::start(&format!(
            "http {{ server {{ listen ADDR; access_log off; location /sse {{ proxy_pass http://{}; \
             proxy_set_header Host $http_host; {more} }} }} }}",
            server.addr
        ))
        .await;
        let tcp = tokio::time::timeout(DEADLINE, tokio::net::TcpStream::connect(nginx.addr)).await.unwrap().unwrap();
        let raw = Raw { tcp, received: Vec::new() };
        let query = StreamQuery { is_http_1_0: true, ..ann(&["news"]) };
        let mut stream = match EventStream::ask_over(raw, &server, &query).await {
            Ok(stream) => stream,
            Err((response, body)) => panic!("nginx answered {response:?} {body}"),
        };
        stream.subscribed(1).await;
        for n in 0..3 {
            // Each arrives before the next one is published: nothing is held back.
            bob.publish("news", json!(n)).await;
            assert_eq!(stream.find("message").await.data["data"]["data"], n);
        }
    }
}
