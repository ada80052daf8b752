//! Publishing: one order for all, bytes as they came, refusals that leave no hole, acknowledgements, idempotency.

use serde_json::{Value, json};

use crate::channel_support::{member, members_publish, offset};
use crate::support::{Client, Event, assert_shape};

async fn one_order(shards: usize, window_ms: u64) {
    const PUBLISHERS: usize = 8;
    const EACH: usize = 100;
    let options = members_publish().shards(shards).env("URINGCAST_CHANNELS__BATCH_WINDOW_MS", window_ms);
    let server = options.start();
    let mut readers = Vec::new();
    for n in 0..6 {
        readers.push(member(&server, &format!("reader{n}"), "news").await);
    }
    let mut writers = Vec::new();
    for n in 0..PUBLISHERS {
        writers.push(member(&server, &format!("writer{n}"), "news").await);
    }
    let mut tasks = Vec::new();
    for (n, mut client) in writers.into_iter().enumerate() {
        tasks.push(tokio::spawn(async move {
            let requests: Vec<Value> = (0..EACH)
                .map(|k| json!({"type": "publish", "id": k.to_string(), "data": {"channel": "news", "data": [n, k]}}))
                .collect();
            let (mut got, mut acked) = (Vec::new(), 0);
            for burst in requests.chunks(20) {
                client.pipeline(burst).await;
            }
            while got.len() < PUBLISHERS * EACH || acked < EACH {
                let value = client.next().await;
                match value["type"].as_str() {
                    Some("publication") => got.push(value["data"].clone()),
                    Some("ack") => {
                        // In the order of the requests, each after the publication that it is about.
                        assert_eq!(value["id"], acked.to_string(), "{value}");
                        let own = got.iter().rev().find(|p| p["offset"] == value["data"]["offset"]);
                        assert_eq!(own.map(|p| &p["data"]), Some(&json!([n, acked])), "{value}");
                        acked += 1;
                    }
                    _ => {}
                }
            }
            got
        }));
    }
    let mut orders = Vec::new();
    for reader in &mut readers {
        let all = reader.collect("publication", PUBLISHERS * EACH).await;
        orders.push(all.into_iter().map(|value| value["data"].clone()).collect::<Vec<_>>());
    }
    for task in tasks {
        orders.push(task.await.expect("a writer"));
    }
    let first = &orders[0];
    assert!(first.iter().zip(1..).all(|(p, n)| p["offset"] == n), "a hole");
    assert!(first.is_sorted_by_key(|p| p["timestamp"].as_u64()), "the time went back");
    for order in &orders {
        assert_eq!(order, first);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_shards_make_one_order() {
    one_order(2, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixteen_shards_make_one_order() {
    one_order(16, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_window_keeps_the_order_and_the_place_of_acks() {
    one_order(4, 20).await;
}

#[tokio::test]
async fn data_is_forwarded_byte_for_byte() {
    let server = members_publish().shards(2).start();
    let mut ann = member(&server, "ann", "news").await;
    let mut bob = member(&server, "bob", "news").await;
    ann.find("user_online").await;
    let deep = format!("{}1{}", "[".repeat(60), "]".repeat(60));
    for (n, data) in [
        "123456789012345678901234567890",
        "-0.10000000000000000000000000000000001e+0005",
        "1E400",
        "[123456789012345678901234567890, 1.0, 1.00, -0]",
        r#"{"z":1,"a":2,"m":{"b":3,"a":4}}"#,
        r#"{"a":1,"a":2}"#,
        r#"{ "a" :	[ 1 , 2 ] , "b":  { } }"#,
        r#""\u00e4\/\u0041\n\ud83d\ude00 <b>&amp;</b>""#,
        "\"ä😀\u{7f}\"",
        "null",
        "\"\"",
        &deep,
    ]
    .iter()
    .enumerate()
    {
        ann.send_text(&format!(r#"{{"id":"x","type":"publish","data":{{"data":{data},"channel":"news"}}}}"#)).await;
        let expected =
            format!(r#"{{"type":"publication","data":{{"channel":"news","offset":{},"data":{data},"sender":"#, n + 1);
        for client in [&mut ann, &mut bob] {
            let text = client.next_text().await;
            assert!(text.starts_with(&expected), "{text} is not {expected}");
        }
        ann.expect("ack").await;
        let element = format!(r#"{{"type":"publication","channel":"news","offset":{},"data":{data},"sender":"#, n + 1);
        ann.send(&json!({"type": "history", "data": {"channel": "news", "limit": 1, "reverse": true}})).await;
        let text = ann.next_text().await;
        assert!(text.contains(&element), "{text} has no {element}");
    }
}

#[tokio::test]
async fn what_is_no_json_is_400_and_takes_no_offset() {
    let server = members_publish().start();
    let mut ann = member(&server, "ann", "news").await;
    let nested = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
    for data in [
        nested(65).as_str(),
        nested(1000).as_str(),
        r#""\ud800""#,
        r#""\udc00""#,
        r#"{"\ud800":1}"#,
        r#""\ud800\u0041""#,
        "01",
        "nul",
        "[1,]",
        "'a'",
        "\"\u{1}\"",
        "1 2",
        "",
        "NaN",
    ] {
        ann.send_text(&format!(r#"{{"type":"publish","data":{{"channel":"news","data":{data}}}}}"#)).await;
        let error = ann.expect("error").await;
        assert_eq!(error["code"], 400, "{data}: {error}");
    }
    ann.ask_refused("publish", json!({"channel": "news"}), 400).await;
    ann.ask_refused("publish", json!({"channel": "news", "data": 1, "key": 1}), 400).await;
    assert_eq!(offset(&ann.publish("news", json!(1)).await), 1);
}

/// The message has 64 levels, and the two outermost are the request's own.
#[tokio::test]
async fn a_message_of_64_levels_is_taken() {
    let server = members_publish().start();
    let mut ann = member(&server, "ann", "news").await;
    let data = format!("{}{}", "[".repeat(62), "]".repeat(62));
    ann.send_text(&format!(r#"{{"type":"publish","id":"ask","data":{{"channel":"news","data":{data}}}}}"#)).await;
    assert!(ann.next_text().await.contains(&data));
    ann.expect("ack").await;
}

#[tokio::test]
async fn a_push_over_the_limit_is_413_and_leaves_no_hole() {
    let server = members_publish().env("URINGCAST_LIMITS__PUSH_BYTES", 2048).start();
    let mut ann = member(&server, "ann", "news").await;
    ann.publish("news", json!("a".repeat(1900))).await;
    let publish = json!({"channel": "news", "data": "a".repeat(2048), "idempotency_key": "k"});
    let error = ann.ask_refused("publish", publish, 413).await;
    assert_shape(&error["data"], &json!({"channel": "news"}));
    // Nothing was stored under the key.
    let ack = ann.ask("publish", json!({"channel": "news", "data": 2, "idempotency_key": "k"})).await;
    assert_eq!((offset(&ack), ack["data"].get("duplicate")), (2, None), "{ack}");
    // A text grows when it is escaped.
    ann.ask_refused("message", json!({"channel": "news", "text": "<".repeat(600)}), 413).await;
    assert_eq!(offset(&ann.publish("news", json!(3)).await), 3);
    ann.nothing_pending().await;
}

#[tokio::test]
async fn another_epoch_is_409_and_not_published() {
    let server = members_publish().start();
    let mut ann = member(&server, "ann", "news").await;
    let ack = ann.publish("news", json!(1)).await;
    let epoch = ack["data"]["epoch"].clone();
    let error = ann.ask_refused("publish", json!({"channel": "news", "data": 2, "epoch": "stale"}), 409).await;
    assert_shape(&error["data"], &json!({"channel": "news", "epoch": epoch, "offset": 1}));
    let ack = ann.ask("publish", json!({"channel": "news", "data": 3, "epoch": epoch})).await;
    assert_eq!(offset(&ack), 2);
    ann.nothing_pending().await;
}

#[tokio::test]
async fn a_key_is_one_users_in_one_channel_over_connections_and_shards() {
    let options = members_publish().shards(2).env("URINGCAST_AUTH__DUPLICATE_LOGIN", "allow");
    for window_ms in [0, 20] {
        let server = options.clone().env("URINGCAST_CHANNELS__BATCH_WINDOW_MS", window_ms).start();
        let mut clients = Vec::new();
        // Enough of them to be on both shards.
        for _ in 0..6 {
            let mut ann = member(&server, "ann", "news").await;
            ann.subscribe("other").await;
            clients.push(ann);
        }
        let mut bob = member(&server, "bob", "news").await;
        let publish = |data: i32| json!({"channel": "news", "data": data, "idempotency_key": "k"});
        let first = clients[0].ask("publish", publish(1)).await;
        assert_eq!((offset(&first), first["data"].get("duplicate")), (1, None), "{first}");
        let mut duplicate = first.clone();
        duplicate["data"]["duplicate"] = true.into();
        for client in &mut clients {
            assert_shape(&client.ask("publish", publish(1)).await, &duplicate);
            let error = client.ask_refused("publish", publish(2), 409).await;
            assert_shape(&error["data"], &json!({"channel": "news"}));
            let with_key = json!({"channel": "news", "data": 1, "key": "K", "idempotency_key": "k"});
            client.ask_refused("publish", with_key, 409).await;
            client.ask_refused("message", json!({"channel": "news", "text": "1", "idempotency_key": "k"}), 409).await;
        }
        let elsewhere = json!({"channel": "other", "data": 1, "idempotency_key": "k"});
        assert_eq!(clients[1].ask("publish", elsewhere).await["data"].get("duplicate"), None);
        let bobs = bob.ask("publish", publish(2)).await;
        assert_eq!((offset(&bobs), bobs["data"].get("duplicate")), (2, None), "{bobs}");
        // Nothing was sent twice.
        let page = bob.ask("history", json!({"channel": "news"})).await;
        assert_eq!(crate::channel_support::listed(&page), [1, 2]);
        for client in &mut clients {
            client.publish("news", json!("end")).await;
        }
    }
}

#[tokio::test]
async fn many_retries_at_once_are_accepted_once() {
    for window_ms in [0, 20] {
        let options = members_publish().shards(2).env("URINGCAST_AUTH__DUPLICATE_LOGIN", "allow");
        let server = options.env("URINGCAST_CHANNELS__BATCH_WINDOW_MS", window_ms).start();
        let mut clients = Vec::new();
        for _ in 0..5 {
            clients.push(member(&server, "ann", "news").await);
        }
        let request =
            json!({"type": "publish", "id": "r", "data": {"channel": "news", "data": 1, "idempotency_key": "k"}});
        for client in &mut clients {
            client.pipeline(&[request.clone(), request.clone()]).await;
        }
        let mut first = 0;
        for client in &mut clients {
            // The publication once, and before the acknowledgements.
            assert_eq!(client.next().await["type"], "publication");
            for _ in 0..2 {
                let ack = client.expect("ack").await;
                assert_eq!(offset(&ack), 1);
                first += usize::from(ack["data"].get("duplicate").is_none());
            }
        }
        assert_eq!(first, 1);
    }
}

#[tokio::test]
async fn messages_have_keys_too_and_keys_have_a_length() {
    let server = members_publish().start();
    let mut ann = member(&server, "ann", "news").await;
    let message = json!({"text": "hi", "idempotency_key": "k"});
    let first = ann.ask("message", message.clone()).await;
    let again = ann.ask_next("message", message).await;
    assert_eq!((offset(&first), offset(&again), &again["data"]["duplicate"]), (1, 1, &json!(true)));
    ann.ask_refused("message", json!({"text": "ho", "idempotency_key": "k"}), 409).await;
    for key in ["a".repeat(65), String::new()] {
        ann.ask_refused("publish", json!({"channel": "news", "data": 1, "idempotency_key": key}), 400).await;
        ann.ask_refused("message", json!({"text": "hi", "idempotency_key": key}), 400).await;
    }
    ann.ask_refused("message", json!({"text": "hi", "idempotency_key": 7}), 400).await;
    let ack = ann.ask("publish", json!({"channel": "news", "data": 1, "idempotency_key": "a".repeat(64)})).await;
    assert_eq!(offset(&ack), 1);
}

#[tokio::test]
async fn a_user_has_their_last_256_keys() {
    let server = members_publish().start();
    let mut ann = member(&server, "ann", "news").await;
    let publish = |n: usize| json!({"channel": "news", "data": n, "idempotency_key": format!("k{n}")});
    for n in 0..=256 {
        ann.ask("publish", publish(n)).await;
    }
    let kept = ann.ask("publish", publish(1)).await;
    assert_eq!((offset(&kept), &kept["data"]["duplicate"]), (2, &json!(true)));
    let gone = ann.ask("publish", publish(0)).await;
    assert_eq!((offset(&gone), gone["data"].get("duplicate")), (258, None));
}

#[tokio::test]
async fn answers_keep_the_order_of_the_requests_on_a_channel() {
    let server = members_publish().shards(2).env("URINGCAST_CHANNELS__BATCH_WINDOW_MS", 30).start();
    for n in 0..4 {
        let channel = format!("c{n}");
        let (mut ann, _) = Client::join(&server, "ann", "Ann").await;
        let ask = |id: &str, kind: &str, extra: Value| {
            let mut data = json!({"channel": channel});
            data.as_object_mut().expect("an object").extend(extra.as_object().expect("an object").clone());
            json!({"type": kind, "id": id, "data": data})
        };
        ann.subscribe(&channel).await;
        let requests = [
            ask("1", "publish", json!({"data": 1})),
            ask("2", "history", json!({})),
            ask("3", "subscribe", json!({})),
            ask("4", "publish", json!({"data": 2, "epoch": "stale"})),
            ask("5", "unsubscribe", json!({})),
            ask("6", "history", json!({})),
            ask("7", "subscribe", json!({})),
        ];
        ann.pipeline(&requests).await;
        let mut ids = Vec::new();
        while ids.len() < 7 {
            let Event::Text(text) = ann.event().await else { panic!("cut") };
            let value: Value = serde_json::from_str(&text).expect("JSON");
            ids.extend(value["id"].as_str().map(str::to_owned));
        }
        assert_eq!(ids, ["1", "2", "3", "4", "5", "6", "7"]);
    }
}
