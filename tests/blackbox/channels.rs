//! Subscribing: the exact shapes, who may, how many, and what stands between `subscribed` and `unsubscribed`.

use serde_json::{Value, json};

use crate::channel_support::{channel_token, listed, member, members_publish, offset};
use crate::support::{Client, Options, Server, assert_shape, now_s, sign, token};

#[tokio::test]
async fn the_shapes_of_a_channel_are_the_contracts() {
    let server = members_publish().env("URINGCAST_CHANNELS__PRESENCE", "events").start();
    let (mut ann, _) = Client::join(&server, 1, "Ann").await;
    let subscribed = ann.ask("subscribe", json!({"channel": "news"})).await;
    let expected = json!({"type": "subscribed", "id": "ask", "code": 200,
        "data": {"channel": "news", "epoch": "<text>", "offset": 0, "overflow": "disconnect"}});
    assert_shape(&subscribed, &expected);
    let epoch = &subscribed["data"]["epoch"];

    ann.send(&json!({"type": "publish", "id": "p", "data": {"channel": "news", "data": {"a": 1}, "key": "K"}})).await;
    let data = json!({"channel": "news", "offset": 1, "data": {"a": 1}, "key": "K",
        "sender": {"id": 1, "username": "Ann"}, "timestamp": "<ms>"});
    assert_shape(&ann.next().await, &json!({"type": "publication", "data": data}));
    let ack = json!({"type": "ack", "id": "p", "code": 200, "data": {"channel": "news", "epoch": epoch, "offset": 1}});
    assert_shape(&ann.next().await, &ack);

    ann.send(&json!({"type": "message", "id": "m", "data": {"channel": "news", "text": "hi"}})).await;
    let message = json!({"id": "<text>", "channel": "news", "offset": 2, "sender": {"id": 1, "username": "Ann"},
        "text": "hi", "timestamp": "<ms>"});
    assert_shape(&ann.next().await, &json!({"type": "message", "code": 200, "data": message}));
    let ack = json!({"type": "ack", "id": "m", "code": 200, "data": {"channel": "news", "epoch": epoch, "offset": 2}});
    assert_shape(&ann.next().await, &ack);

    let (mut first, mut second) = (data, message);
    first["type"] = "publication".into();
    second["type"] = "message".into();
    let page = ann.ask_next("history", json!({"channel": "news"})).await;
    let history = |publications: Value| {
        json!({"type": "history", "id": "ask", "code": 200,
            "data": {"channel": "news", "epoch": epoch, "offset": 2, "publications": publications}})
    };
    assert_shape(&page, &history(json!([first, second])));
    let page = ann.ask_next("history", json!({"channel": "news", "limit": 1, "reverse": true})).await;
    assert_shape(&page, &history(json!([second])));
    let page = ann.ask_next("history", json!({"channel": "news", "since": {"epoch": epoch, "offset": 1}})).await;
    assert_shape(&page, &history(json!([second])));
    let page =
        ann.ask_next("history", json!({"channel": "news", "since": {"epoch": epoch, "offset": 0}, "limit": 1})).await;
    assert_shape(&page, &history(json!([first])));
    let stale =
        ann.ask_refused("history", json!({"channel": "news", "since": {"epoch": "other", "offset": 1}}), 409).await;
    assert_shape(&stale["data"], &json!({"channel": "news", "epoch": epoch, "offset": 2}));

    let presence = json!({"type": "presence", "id": "ask", "code": 200, "data": {"channel": "news", "count": 1,
        "members": [{"user": {"id": 1, "username": "Ann"}, "connections": 1}]}});
    assert_shape(&ann.ask_next("presence", json!({"channel": "news"})).await, &presence);

    let expected = json!({"type": "unsubscribed", "id": "ask", "code": 200, "data": {"channel": "news"}});
    assert_shape(&ann.ask_next("unsubscribe", json!({"channel": "news"})).await, &expected);
}

#[tokio::test]
async fn the_sender_gets_no_ack_that_it_did_not_ask_for() {
    let server = members_publish().start();
    let mut ann = member(&server, "ann", "news").await;
    ann.send(&json!({"type": "publish", "data": {"channel": "news", "data": 1}})).await;
    assert_eq!(ann.next().await["type"], "publication");
    ann.nothing_pending().await;
}

#[tokio::test]
async fn refresh_takes_a_new_token_of_the_same_user_only() {
    let server = Options::new().env("URINGCAST_AUTH__LEEWAY_S", 0).start();
    let (mut ann, _) = Client::join(&server, 1, "Ann").await;
    let exp = now_s() + 7200;
    let fresh = sign(&json!({"user_id": "1", "username": "Ann", "exp": exp}));
    let refreshed = json!({"type": "refreshed", "id": "ask", "code": 200, "data": {"expires_at": exp * 1000}});
    assert_shape(&ann.ask_next("refresh", json!({"token": fresh})).await, &refreshed);
    for token in [token(2, "Bob"), "no token".to_owned()] {
        let refused = ann.ask_next("refresh", json!({"token": token})).await;
        assert_shape(&refused, &json!({"type": "error", "id": "ask", "code": 403, "message": "<text>"}));
    }
    ann.ask_refused("refresh", json!({}), 400).await;
    ann.nothing_pending().await;
    let mut stranger = Client::open(&server).await;
    stranger.ask_refused("refresh", json!({"token": fresh}), 401).await;
}

#[tokio::test]
async fn what_needs_a_subscription_is_403_without() {
    let server = members_publish().env("URINGCAST_CHANNELS__PRESENCE", "events").start();
    let _other = member(&server, "bob", "news").await;
    let (mut ann, _) = Client::join(&server, "ann", "Ann").await;
    for (kind, data) in [
        ("publish", json!({"channel": "news", "data": 1})),
        ("message", json!({"channel": "news", "text": "hi"})),
        ("history", json!({"channel": "news"})),
        ("presence", json!({"channel": "news"})),
    ] {
        let error = ann.ask_refused(kind, data, 403).await;
        assert_shape(&error["data"], &json!({"channel": "news"}));
    }
    let error = ann.ask("unsubscribe", json!({"channel": "news"})).await;
    assert_eq!(error["type"], "error", "{error}");
}

#[tokio::test]
async fn names_are_checked_before_anything_else() {
    let server = Options::new().env("URINGCAST_NAMESPACES__CHAT__HISTORY_SIZE", 5).start();
    let (mut ann, _) = Client::join(&server, "ann", "Ann").await;
    ann.ask_refused("subscribe", json!({"channel": "nowhere:x"}), 404).await;
    ann.subscribe("chat:x").await;
    let long = "a".repeat(201);
    for name in ["", "a b", "ä", "a\u{0}", "a\"b", "a,b", &long] {
        for kind in ["subscribe", "unsubscribe", "publish", "history", "presence"] {
            ann.ask_refused(kind, json!({"channel": name, "data": 1}), 400).await;
        }
    }
    for name in [json!(1), json!(null), json!(["news"])] {
        ann.ask_refused("subscribe", json!({"channel": name}), 400).await;
    }
    ann.ask_refused("subscribe", json!({}), 400).await;
    ann.subscribe(&"a".repeat(200)).await;
    ann.subscribe("aZ09_-=@./#").await;
    ann.nothing_pending().await;
}

#[tokio::test]
async fn subscribing_twice_is_409_and_changes_nothing() {
    let server = members_publish().start();
    let mut ann = member(&server, "ann", "news").await;
    ann.publish("news", json!(1)).await;
    let error = ann.ask_refused("subscribe", json!({"channel": "news"}), 409).await;
    assert_shape(&error["data"], &json!({"channel": "news"}));
    ann.ask_refused("subscribe", json!({"channel": "lobby"}), 409).await;
    assert_eq!(offset(&ann.publish("news", json!(2)).await), 2);
    ann.ask("unsubscribe", json!({"channel": "news"})).await;
    ann.ask_refused("publish", json!({"channel": "news", "data": 3}), 403).await;
    // Both at once: the second one is refused before the first is answered or after, and only one counts.
    let twice = |id| json!({"type": "subscribe", "id": id, "data": {"channel": "news"}});
    ann.pipeline(&[twice("a"), twice("b")]).await;
    let answers = [ann.next().await, ann.next().await];
    assert_eq!((&answers[0]["id"], &answers[0]["code"]), (&json!("a"), &json!(200)), "{answers:?}");
    assert_eq!((&answers[1]["id"], &answers[1]["code"]), (&json!("b"), &json!(409)), "{answers:?}");
}

#[tokio::test]
async fn subscriptions_are_limited_and_the_lobby_does_not_count() {
    let server = Options::new().env("URINGCAST_LIMITS__SUBSCRIPTIONS", 2).start();
    let (mut ann, _) = Client::join(&server, "ann", "Ann").await;
    ann.subscribe("a").await;
    ann.subscribe("b").await;
    let error = ann.ask_refused("subscribe", json!({"channel": "c"}), 429).await;
    assert_shape(&error["data"], &json!({"channel": "c"}));
    ann.ask("unsubscribe", json!({"channel": "lobby"})).await;
    ann.ask_refused("subscribe", json!({"channel": "c"}), 429).await;
    assert_eq!(ann.ask("subscribe", json!({"channel": "lobby"})).await["type"], "subscribed");
    ann.ask("unsubscribe", json!({"channel": "a"})).await;
    ann.subscribe("c").await;
    // Those that are pending count.
    let (mut bob, _) = Client::join(&server, "bob", "Bob").await;
    let to = |channel| json!({"type": "subscribe", "id": channel, "data": {"channel": channel}});
    bob.pipeline(&[to("a"), to("b"), to("c")]).await;
    let mut codes: Vec<_> = Vec::new();
    for _ in 0..3 {
        let answer = bob.next().await;
        codes.push((answer["id"].as_str().expect("an id").to_owned(), answer["code"].as_u64().expect("a code")));
    }
    codes.sort();
    assert_eq!(codes, [("a".to_owned(), 200), ("b".to_owned(), 200), ("c".to_owned(), 429)]);
}

#[tokio::test]
async fn the_token_rule_takes_a_channel_token_or_the_channels_claim() {
    let server = Options::new()
        .env("URINGCAST_NAMESPACES__VIP__SUBSCRIBE", "token")
        .env("URINGCAST_LIMITS__AUTH_ATTEMPTS", 100)
        .start();
    let (mut ann, _) = Client::join(&server, "ann", "Ann").await;
    let error = ann.ask_refused("subscribe", json!({"channel": "vip:1"}), 403).await;
    assert_shape(&error["data"], &json!({"channel": "vip:1"}));
    for (token, why) in [
        (channel_token("ann", "vip:2"), "another channel's"),
        (channel_token("bob", "vip:1"), "another user's"),
        (token("ann", "Ann"), "not a channel token"),
        ("nonsense".to_owned(), "no token"),
        (sign(&json!({"sub": "ann", "channel": "vip:1", "exp": now_s() - 10})), "expired"),
    ] {
        let answer = ann.ask("subscribe", json!({"channel": "vip:1", "token": token})).await;
        assert_eq!(answer["code"], 403, "{why}: {answer}");
    }
    let right = channel_token("ann", "vip:1");
    let answer = ann.ask("subscribe", json!({"channel": "vip:1", "token": right})).await;
    assert_eq!(answer["type"], "subscribed", "{answer}");
    // A channel token signs nobody in.
    let mut stranger = Client::open(&server).await;
    assert_eq!(stranger.auth(&right).await["type"], "auth_failed");

    let claims = json!({"user_id": "cem", "username": "Cem", "exp": now_s() + 600, "channels": ["vip:7"]});
    let mut cem = Client::open(&server).await;
    assert_eq!(cem.auth(&sign(&claims)).await["type"], "auth_success");
    cem.subscribe("vip:7").await;
    cem.ask_refused("subscribe", json!({"channel": "vip:8"}), 403).await;
    // A new token brings new rights.
    let claims = json!({"user_id": "cem", "username": "Cem", "exp": now_s() + 600, "channels": ["vip:8"]});
    assert_eq!(cem.ask("refresh", json!({"token": sign(&claims)})).await["type"], "refreshed");
    cem.subscribe("vip:8").await;
}

#[tokio::test]
async fn the_named_rule_lets_in_whom_it_names_and_who_has_a_token() {
    let options = Options::new().env("URINGCAST_NAMESPACES__TEAM__SUBSCRIBE", "named");
    let server = options.env("URINGCAST_NAMESPACES__TEAM__USERS", "1,ann").start();
    for (id, code) in [(json!(1), 200), (json!("ann"), 200), (json!("bob"), 403), (json!(11), 403)] {
        let (mut client, _) = Client::join(&server, id.clone(), "x").await;
        let answer = client.ask("subscribe", json!({"channel": "team:a"})).await;
        assert_eq!(answer["code"], code, "{id}: {answer}");
    }
    let (mut bob, _) = Client::join(&server, "bob", "Bob").await;
    let granted = json!({"channel": "team:a", "token": channel_token("bob", "team:a")});
    assert_eq!(bob.ask("subscribe", granted).await["code"], 200);
}

#[tokio::test]
async fn members_publish_only_where_the_namespace_lets_them() {
    let server = Options::new().env("URINGCAST_NAMESPACES__CHAT__PUBLISH", "members").start();
    let mut ann = member(&server, "ann", "news").await;
    for (kind, data) in
        [("publish", json!({"channel": "news", "data": 1})), ("message", json!({"channel": "news", "text": "hi"}))]
    {
        let error = ann.ask_refused(kind, data, 403).await;
        assert_shape(&error["data"], &json!({"channel": "news"}));
    }
    ann.subscribe("chat:1").await;
    assert_eq!(offset(&ann.publish("chat:1", json!(1)).await), 1);
    let server = Options::new().env("URINGCAST_LOBBY__PUBLISH", "backend").start();
    let (mut bob, _) = Client::join(&server, "bob", "Bob").await;
    bob.ask_refused("message", json!({"text": "hi"}), 403).await;
}

#[tokio::test]
async fn subscribe_unsubscribe_subscribe_in_a_pipeline_never_mix() {
    let server = members_publish().shards(2).env("URINGCAST_AUTH__DUPLICATE_LOGIN", "allow").start();
    // More connections than shards: some are on the owner's, some are not.
    for round in 0..6 {
        let channel = format!("c{round}");
        let mut bob = member(&server, "bob", &channel).await;
        bob.publish(&channel, json!(1)).await;
        let (mut ann, _) = Client::join(&server, "ann", "Ann").await;
        let data = json!({"channel": channel});
        let (on, off) = (
            |id: &str| json!({"type": "subscribe", "id": id, "data": data}),
            |id: &str| json!({"type": "unsubscribe", "id": id, "data": data}),
        );
        ann.pipeline(&[on("1"), off("2"), on("3")]).await;
        let answers = [ann.next().await, ann.next().await, ann.next().await];
        let brief: Vec<_> =
            answers.iter().map(|a| (a["id"].as_str(), a["type"].as_str(), a["code"].as_u64())).collect();
        // Nearly always cancelled; not if the server has read the first one by itself and was quick.
        let first = [(Some("1"), Some("error"), Some(409)), (Some("1"), Some("subscribed"), Some(200))];
        assert!(first.contains(&brief[0]), "{answers:?}");
        assert_eq!(brief[1], (Some("2"), Some("unsubscribed"), Some(200)), "{answers:?}");
        assert_eq!(brief[2], (Some("3"), Some("subscribed"), Some(200)), "{answers:?}");
        assert_eq!(answers[0]["data"]["channel"], channel.as_str());
        assert_eq!(offset(&answers[2]), 1);
        bob.publish(&channel, json!(2)).await;
        assert_eq!(offset(&ann.next().await), 2);
        // And the other way round: at the end it is off, whatever was under way.
        ann.pipeline(&[off("4"), on("5"), off("6")]).await;
        let kinds = [ann.next().await, ann.next().await, ann.next().await].map(|a| a["type"].clone());
        assert!(kinds[1] == "error" || kinds[1] == "subscribed", "{kinds:?}");
        assert_eq!((&kinds[0], &kinds[2]), (&json!("unsubscribed"), &json!("unsubscribed")));
        bob.publish(&channel, json!(3)).await;
        ann.nothing_pending().await;
        ann.ask_refused("history", data.clone(), 403).await;
    }
}

#[tokio::test]
async fn nothing_comes_before_subscribed_or_after_unsubscribed() {
    let server = members_publish().shards(2).start();
    let mut bob = member(&server, "bob", "news").await;
    let publisher = tokio::spawn(async move {
        for n in 0..3000 {
            bob.send(&json!({"type": "publish", "data": {"channel": "news", "data": n}})).await;
            let _ = bob.find("publication").await;
        }
        bob
    });
    let (mut ann, _) = Client::join(&server, "ann", "Ann").await;
    let mut last = 0;
    while !publisher.is_finished() {
        ann.send(&json!({"type": "subscribe", "id": "s", "data": {"channel": "news"}})).await;
        let subscribed = ann.next().await;
        assert_eq!(subscribed["type"], "subscribed", "{subscribed}");
        let mut at = offset(&subscribed);
        assert!(at >= last);
        ann.send(&json!({"type": "unsubscribe", "id": "u", "data": {"channel": "news"}})).await;
        loop {
            let value = ann.next().await;
            if value["type"] == "unsubscribed" {
                break;
            }
            at += 1;
            assert_eq!(offset(&value), at, "{value}");
        }
        last = at;
    }
    let _bob = publisher.await.expect("the publisher");
    ann.nothing_pending().await;
}

#[tokio::test]
async fn who_leaves_the_lobby_stays_online() {
    let server = Options::new().start();
    let (mut ann, success) = Client::join(&server, "ann", "Ann").await;
    let (mut bob, _) = Client::join(&server, "bob", "Bob").await;
    ann.find("user_online").await;
    let off = ann.ask_next("unsubscribe", json!({"channel": "lobby"})).await;
    assert_shape(&off, &json!({"type": "unsubscribed", "id": "ask", "code": 200, "data": {"channel": "lobby"}}));
    ann.ask_refused("message", json!({"text": "hi"}), 403).await;
    bob.say("unheard").await;
    bob.find("message").await;
    let users = ann.ask_next("users", json!({})).await;
    assert_eq!(users["data"]["count"], 2, "{users}");
    bob.nothing_pending().await;
    // Back again, with what was missed.
    let lobby = &success["data"]["lobby"];
    let back = ann.subscribe_from("lobby", json!({"epoch": lobby["epoch"], "offset": lobby["offset"]})).await;
    assert_eq!((&back["data"]["recovered"], listed(&back)), (&json!(true), vec![1, 2]));
    ann.say("heard").await;
    assert_eq!(bob.find("message").await["data"]["text"], "heard");
    // And off for good: the others hear of it once.
    ann.ask("unsubscribe", json!({"channel": "lobby"})).await;
    ann.vanish();
    assert_eq!(bob.expect("user_offline").await["data"]["online_count"], 1);
    bob.nothing_pending().await;
}

#[tokio::test]
async fn auth_brings_the_lobby_and_all_channels_in_one_round_trip() {
    let server = members_publish().env("URINGCAST_NAMESPACES__VIP__SUBSCRIBE", "token").start();
    let (mut bob, success) = Client::join(&server, "bob", "Bob").await;
    let news = bob.subscribe("news").await;
    bob.say("one").await;
    for n in 1..=3 {
        bob.publish("news", json!(n)).await;
    }
    let auth = json!({"type": "auth", "id": "a", "data": {"token": token("ann", "Ann"),
        "recover": {"epoch": success["data"]["lobby"]["epoch"], "offset": 0},
        "channels": [
            {"channel": "news", "recover": {"epoch": news["data"]["epoch"], "offset": 1}},
            {"channel": "fresh"},
            {"channel": "vip:1"},
            {"channel": "vip:1", "token": channel_token("ann", "vip:1")},
            {"channel": "nowhere:1"},
            {"channel": "lobby"}]}});
    let mut ann = Client::open(&server).await;
    ann.send(&auth).await;
    let success = ann.next().await;
    let message = json!({"type": "message", "id": "<text>", "channel": "lobby", "offset": 1,
        "sender": {"id": "bob", "username": "Bob"}, "text": "one", "timestamp": "<ms>"});
    let expected = json!({"type": "auth_success", "id": "a", "code": 200, "message": "<text>", "data": {
        "user": {"id": "ann", "username": "Ann"}, "expires_at": "<ms>", "online_count": 2,
        "lobby": {"channel": "lobby", "epoch": "<text>", "offset": 1, "recovered": true, "publications": [message]}}});
    assert_shape(&success, &expected);
    let mut answers: Vec<Value> = Vec::new();
    for _ in 0..6 {
        answers.push(ann.next().await);
    }
    let of = |channel: &str, kind: &str| {
        let found: Vec<_> = answers.iter().filter(|a| a["data"]["channel"] == channel && a["type"] == kind).collect();
        assert_eq!(found.len(), 1, "{channel} {kind}: {answers:?}");
        found[0].clone()
    };
    let news = of("news", "subscribed");
    assert_eq!((listed(&news), &news["data"]["recovered"]), (vec![2, 3], &json!(true)));
    assert_eq!(offset(&of("fresh", "subscribed")), 0);
    assert_eq!(of("vip:1", "error")["code"], 403);
    assert_eq!(offset(&of("vip:1", "subscribed")), 0);
    assert_eq!(of("nowhere:1", "error")["code"], 404);
    assert_eq!(of("lobby", "error")["code"], 409);
    ann.nothing_pending().await;
}

#[tokio::test]
async fn the_same_user_and_offsets_in_many_channels_stay_apart() {
    let server: Server = members_publish().shards(2).start();
    let (mut ann, _) = Client::join(&server, "ann", "Ann").await;
    let names: Vec<String> = (0..20).map(|n| format!("c{n}")).collect();
    let mut epochs = std::collections::BTreeSet::new();
    for name in &names {
        epochs.insert(ann.subscribe(name).await["data"]["epoch"].to_string());
    }
    assert_eq!(epochs.len(), names.len(), "every channel has an epoch of its own");
    for round in 1..=3 {
        for name in &names {
            let ack = ann.publish(name, json!(name)).await;
            assert_eq!((offset(&ack), &ack["data"]["channel"]), (round, &json!(name)));
        }
    }
    for name in &names {
        let page = ann.ask("history", json!({"channel": name})).await;
        assert_eq!(listed(&page), [1, 2, 3]);
        assert!(
            page["data"]["publications"].as_array().is_some_and(|all| all.iter().all(|p| p["data"] == json!(name)))
        );
    }
}
