//! The tutorial's protocol, message by message and JSON shape by JSON shape.

use std::collections::HashSet;

use serde_json::{Value, json};

use crate::support::{Client, Options, Raw, assert_shape, frame, sign, token};

#[tokio::test]
async fn welcome_has_a_connection_id_of_its_own() {
    let server = Options::new().start();
    let mut ids = HashSet::new();
    for _ in 0..20 {
        let mut client = Client::connect(&server, "/ws").await;
        let welcome = client.next().await;
        assert_shape(
            &welcome,
            &json!({"type": "system", "code": 200, "message": "connected, please authenticate",
                    "data": {"connection_id": "<text>", "timestamp": "<ms>"}}),
        );
        assert!(ids.insert(welcome["data"]["connection_id"].to_string()), "{ids:?}");
    }
}

#[tokio::test]
async fn ids_differ_after_a_restart() {
    let mut seen = HashSet::new();
    for _ in 0..2 {
        let server = Options::new().start();
        let mut client = Client::connect(&server, "/ws").await;
        let welcome = client.next().await;
        assert!(seen.insert(welcome["data"]["connection_id"].to_string()), "{seen:?}");
        let success = client.auth(&token(1, "Alice")).await;
        assert!(seen.insert(success["data"]["lobby"]["epoch"].to_string()), "the epoch: {seen:?}");
        client.say("hi").await;
        let message = client.expect("message").await;
        assert!(seen.insert(message["data"]["id"].to_string()), "{seen:?}");
    }
}

#[tokio::test]
async fn sign_in_is_answered_and_announced() {
    let server = Options::new().shards(2).start();
    let (mut alice, success) = Client::join(&server, 1, "Alice").await;
    assert_shape(
        &success,
        &json!({"type": "auth_success", "code": 200, "message": "authenticated",
                "data": {"user": {"id": 1, "username": "Alice"}, "expires_at": "<ms>", "online_count": 1,
                         "lobby": {"channel": "lobby", "epoch": "<text>", "offset": 0}}}),
    );
    let (mut bob, second) = Client::join(&server, "b-2", "Bob").await;
    assert_shape(
        &second,
        &json!({"type": "auth_success", "code": 200, "message": "authenticated",
                "data": {"user": {"id": "b-2", "username": "Bob"}, "expires_at": "<ms>", "online_count": 2,
                         "lobby": {"channel": "lobby", "epoch": success["data"]["lobby"]["epoch"], "offset": 0}}}),
    );
    assert_shape(
        &alice.next().await,
        &json!({"type": "user_online", "code": 200, "message": "user online",
                "data": {"user": {"id": "b-2", "username": "Bob"}, "online_count": 2, "timestamp": "<ms>"}}),
    );
    // Bob hears nothing of his own coming, and nobody hears it twice.
    bob.nothing_pending().await;
    assert_eq!(alice.expect("message").await["data"]["sender"]["id"], "b-2");
    alice.nothing_pending().await;
    bob.expect("message").await;

    bob.leave().await;
    assert_shape(
        &alice.next().await,
        &json!({"type": "user_offline", "code": 200, "message": "user offline",
                "data": {"user": {"id": "b-2", "username": "Bob"}, "online_count": 1, "timestamp": "<ms>"}}),
    );
    alice.nothing_pending().await;
}

#[tokio::test]
async fn messages_reach_everyone_with_offsets_that_count_from_one() {
    let server = Options::new().shards(2).start();
    let (mut alice, _) = Client::join(&server, 1, "Alice").await;
    let (mut bob, _) = Client::join(&server, 2, "Bob").await;
    alice.expect("user_online").await;
    let (mut ids, mut last) = (HashSet::new(), 0);
    for offset in 1..=50 {
        let (id, name, from) = if offset % 2 == 0 { (1, "Alice", &mut alice) } else { (2, "Bob", &mut bob) };
        from.say(&format!("number {offset}")).await;
        let (one, other) = (alice.next().await, bob.next().await);
        assert_shape(
            &one,
            &json!({"type": "message", "code": 200,
                    "data": {"id": "<text>", "channel": "lobby", "offset": offset,
                             "sender": {"id": id, "username": name},
                             "text": format!("number {offset}"), "timestamp": "<ms>"}}),
        );
        assert_eq!(one, other);
        assert!(ids.insert(one["data"]["id"].to_string()));
        let at = one["data"]["timestamp"].as_i64().unwrap();
        assert!(at >= last, "time went back");
        last = at;
    }
    let (_, success) = Client::join(&server, 3, "Carol").await;
    assert_eq!(success["data"]["lobby"]["offset"], 50);
}

#[tokio::test]
async fn a_message_before_sign_in_is_401_and_the_connection_stays() {
    let server = Options::new().start();
    let mut client = Client::open(&server).await;
    client.say("hi").await;
    client.refused(401).await;
    client.send(&json!({"type": "users", "id": "u"})).await;
    let refused = client.next().await;
    assert_shape(&refused, &json!({"type": "error", "id": "u", "code": 401, "message": "<text>"}));
    assert_eq!(client.auth(&token(1, "Alice")).await["type"], "auth_success");
    client.nothing_pending().await;
}

#[tokio::test]
async fn a_missing_token_is_400_and_the_connection_stays() {
    let server = Options::new().start();
    let mut client = Client::open(&server).await;
    for auth in [
        json!({"type": "auth"}),
        json!({"type": "auth", "data": {}}),
        json!({"type": "auth", "data": {"token": null}}),
        json!({"type": "auth", "data": null}),
        json!({"type": "auth", "token": token(1, "Alice")}),
    ] {
        client.send(&auth).await;
        client.refused(400).await;
    }
    assert_eq!(client.auth(&token(1, "Alice")).await["type"], "auth_success");
}

#[tokio::test]
async fn a_bad_token_is_refused_and_the_connection_closed_with_4401() {
    let server = Options::new().start();
    let (mut watcher, _) = Client::join(&server, 1, "Alice").await;
    for bad in ["valid_token", "a.b.c", &format!("{}x", token(2, "Bob"))] {
        let mut client = Client::open(&server).await;
        let failed = client.auth(bad).await;
        assert_shape(&failed, &json!({"type": "auth_failed", "code": 401, "message": "token invalid or expired"}));
        client.closed(4401).await;
    }
    watcher.nothing_pending().await;
}

#[tokio::test]
async fn signing_in_twice_is_409_and_changes_nothing() {
    let server = Options::new().start();
    let (mut alice, _) = Client::join(&server, 1, "Alice").await;
    for again in [token(1, "Alice"), token(2, "Bob"), "nonsense".to_owned()] {
        alice.send(&json!({"type": "auth", "id": "again", "data": {"token": again}})).await;
        let refused = alice.next().await;
        assert_shape(&refused, &json!({"type": "error", "id": "again", "code": 409, "message": "<text>"}));
    }
    alice.say("still Alice").await;
    assert_eq!(alice.expect("message").await["data"]["sender"], json!({"id": 1, "username": "Alice"}));
}

#[tokio::test]
async fn malformed_messages_are_400_and_the_connection_stays() {
    let server = Options::new().start();
    let (mut client, _) = Client::join(&server, 1, "Alice").await;
    let deep = "[".repeat(200_000);
    let nested = format!("{{\"type\":\"heartbeat\",\"data\":{}{}}}", "[".repeat(2000), "]".repeat(2000));
    for bad in [
        "",
        " ",
        "{",
        "}",
        "null",
        "true",
        "5",
        "[]",
        "\"heartbeat\"",
        "{}",
        "{\"type\":5}",
        "{\"type\":null}",
        "{\"type\":\"\"}",
        "{\"type\":\"nonsense\"}",
        "{\"type\":\"Heartbeat\"}",
        "{\"type\":\"heartbeat\"",
        "{\"type\":\"heartbeat\"}}",
        "{\"type\":\"heartbeat\"} {}",
        "{'type':'heartbeat'}",
        "{type:\"heartbeat\"}",
        "{\"type\":\"heartbeat\",}",
        "{\"type\":\"message\",\"data\":{\"text\":\"\\ud800\"}}",
        "{\"type\":\"message\",\"data\":{\"text\":\"a\nb\"}}",
        &deep,
    ] {
        client.send_text(bad).await;
        let shown: String = bad.chars().take(60).collect();
        let error = client.next().await;
        assert!(error["type"] == "error" && error["code"] == 400, "{shown:?}: {error}");
    }
    client.send_text(&nested).await;
    let answer = client.next().await;
    assert!(answer["type"] == "error" || answer["type"] == "heartbeat", "{answer}");
    client.nothing_pending().await;
}

#[tokio::test]
async fn unknown_fields_are_ignored_and_any_order_will_do() {
    let server = Options::new().start();
    let (mut client, _) = Client::join(&server, 1, "Alice").await;
    for good in [
        r#"{"type":"message","data":{"text":"hi","more":[1,{"text":"no"}]},"version":3,"extra":{"type":"auth"}}"#,
        r#"{"data":{"more":{"text":"no"},"text":"hi"},"type":"message"}"#,
        " \r\n\t{ \"type\" : \"message\" , \"data\" : { \"text\" : \"hi\" } } \n",
        r#"{"\u0074ype":"mess\u0061ge","data":{"te\u0078t":"\u0068i"}}"#,
    ] {
        client.send_text(good).await;
        assert_eq!(client.expect("message").await["data"]["text"], "hi", "{good}");
    }
}

#[tokio::test]
async fn text_must_be_a_string_that_is_not_empty_when_trimmed() {
    let server = Options::new().start();
    let (mut client, _) = Client::join(&server, 1, "Alice").await;
    for text in [json!(""), json!(" \u{3000}\0 "), json!("\u{85}\u{a0}\u{2028}\u{1680}\r\n\t\u{b}\u{c}"), json!("\0")] {
        client.send(&json!({"type": "message", "data": {"text": text}})).await;
        client.refused(400).await;
    }
    for text in [json!(null), json!(0), json!(5), json!(true), json!(["hi"]), json!({"text": "hi"})] {
        client.send(&json!({"type": "message", "id": "m", "data": {"text": text}})).await;
        let refused = client.next().await;
        assert_shape(&refused, &json!({"type": "error", "id": "m", "code": 400, "message": "<text>"}));
    }
    for no_text in
        [json!({"type": "message"}), json!({"type": "message", "data": {}}), json!({"type": "message", "data": []})]
    {
        client.send(&no_text).await;
        client.refused(400).await;
    }
    for (sent, shown) in [
        ("0", "0"),
        ("  hi  there ", "hi  there"),
        ("\0\u{3000}\u{2003}你好\u{85}\u{a0}\0", "你好"),
        // None of these has the White_Space property.
        ("\u{200b}", "\u{200b}"),
        ("\u{feff}x\u{180e}", "\u{feff}x\u{180e}"),
        ("a\0b", "a\0b"),
        ("line one\nline two\n", "line one\nline two"),
        ("👩‍👩‍👧 \u{10ffff}", "👩‍👩‍👧 \u{10ffff}"),
    ] {
        client.say(sent).await;
        assert_eq!(client.expect("message").await["data"]["text"], shown, "{sent:?}");
    }
    // Refused messages took no offset.
    client.say("last").await;
    assert_eq!(client.expect("message").await["data"]["offset"], 9);
}

#[tokio::test]
async fn text_and_names_are_escaped_once() {
    let server = Options::new().start();
    let (mut watcher, _) = Client::join(&server, 1, "Watcher").await;
    let name = "<b>\"Tom\" & 'Jerry'</b> 名前";
    let escaped = "&lt;b&gt;&quot;Tom&quot; &amp; &#039;Jerry&#039;&lt;/b&gt; 名前";
    let (mut client, success) = Client::join(&server, 2, name).await;
    assert_eq!(success["data"]["user"]["username"], escaped);
    assert_eq!(watcher.expect("user_online").await["data"]["user"]["username"], escaped);
    for (sent, shown) in [
        (
            "<script>alert(\"1\" & '2')</script>",
            "&lt;script&gt;alert(&quot;1&quot; &amp; &#039;2&#039;)&lt;/script&gt;",
        ),
        ("&lt;", "&amp;lt;"),
        ("&amp;amp;", "&amp;amp;amp;"),
        ("\\\"\\u0041\t/", "\\&quot;\\u0041\t/"),
        ("`=();", "`=();"),
    ] {
        client.say(sent).await;
        let message = client.expect("message").await;
        assert_eq!(message["data"]["text"], shown);
        assert_eq!(message["data"]["sender"]["username"], escaped);
        assert_eq!(watcher.next().await, message);
    }
    client.send(&json!({"type": "users", "id": "1"})).await;
    let users = client.expect("users").await;
    let members = users["data"]["members"].as_array().unwrap();
    assert!(members.iter().any(|member| member["user"]["username"] == escaped), "{users}");
    client.leave().await;
    assert_eq!(watcher.expect("user_offline").await["data"]["user"]["username"], escaped);
}

#[tokio::test]
async fn nothing_is_escaped_when_the_lobby_says_so() {
    let server = Options::new().env("URINGCAST_LOBBY__ESCAPE", "false").start();
    let name = "<i>\"A\" & 'B'</i>";
    let (mut client, success) = Client::join(&server, 2, name).await;
    assert_eq!(success["data"]["user"]["username"], name);
    client.say(" <b>&\"'</b> ").await;
    let message = client.expect("message").await;
    assert_eq!(message["data"]["text"], "<b>&\"'</b>");
    assert_eq!(message["data"]["sender"]["username"], name);
}

#[tokio::test]
async fn heartbeat_is_answered_before_and_after_sign_in() {
    let server = Options::new().start();
    let mut client = Client::open(&server).await;
    for _ in 0..2 {
        client.send(&json!({"type": "heartbeat"})).await;
        let pong = json!({"type": "heartbeat", "code": 200, "message": "pong", "timestamp": "<ms>"});
        assert_shape(&client.next().await, &pong);
        client.send(&json!({"type": "heartbeat", "id": "h-1"})).await;
        let pong = json!({"type": "heartbeat", "id": "h-1", "code": 200, "message": "pong", "timestamp": "<ms>"});
        assert_shape(&client.next().await, &pong);
        // The second round is signed in.
        client.send(&json!({"type": "auth", "data": {"token": token(1, "Alice")}})).await;
        client.next().await;
    }
}

#[tokio::test]
async fn the_id_of_a_request_comes_back_on_its_answer() {
    let server = Options::new().start();
    let mut client = Client::open(&server).await;
    client.send(&json!({"type": "auth", "id": "x", "data": {}})).await;
    assert_shape(&client.next().await, &json!({"type": "error", "id": "x", "code": 400, "message": "<text>"}));
    client.send(&json!({"type": "nonsense", "id": "y\"\\\u{1f600}"})).await;
    assert_eq!(client.expect("error").await["id"], "y\"\\\u{1f600}");
    client.send(&json!({"type": "auth", "id": "z", "data": {"token": token(1, "Alice")}})).await;
    let success = client.expect("auth_success").await;
    assert_eq!(success["id"], "z", "{success}");
    client.send(&json!({"type": "message", "id": "e", "data": {"text": ""}})).await;
    assert_shape(&client.next().await, &json!({"type": "error", "id": "e", "code": 400, "message": "<text>"}));

    let mut client = Client::open(&server).await;
    client.send(&json!({"type": "auth", "id": "f", "data": {"token": "bad"}})).await;
    assert_eq!(client.expect("auth_failed").await["id"], "f");
    client.closed(4401).await;
}

#[tokio::test]
async fn ack_follows_the_message_itself_and_only_when_asked_for() {
    let server = Options::new().shards(2).start();
    // Some of these are on the lobby's shard and some are not.
    for user in 1..=8 {
        let (mut client, success) = Client::join(&server, user, "Alice").await;
        let before = success["data"]["lobby"]["offset"].as_u64().unwrap();
        client.send(&json!({"type": "message", "id": "m-1", "data": {"text": "with id"}})).await;
        let message = client.expect("message").await;
        assert_eq!(message["id"], Value::Null, "a broadcast has no id of a request");
        assert_shape(
            &client.next().await,
            &json!({"type": "ack", "id": "m-1", "code": 200,
                    "data": {"channel": "lobby", "epoch": success["data"]["lobby"]["epoch"], "offset": before + 1}}),
        );
        client.say("without").await;
        assert_eq!(client.expect("message").await["data"]["offset"], before + 2);
        client.nothing_pending().await;
        client.leave().await;
    }
}

#[tokio::test]
async fn frames_behind_a_sign_in_wait_for_it() {
    let server = Options::new().shards(2).start();
    for user in 1..=8 {
        let mut client = Client::open(&server).await;
        let mut frames = vec![json!({"type": "auth", "data": {"token": token(user, "Alice")}})];
        frames.extend((0..20).map(|n| json!({"type": "message", "data": {"text": format!("{n}")}})));
        frames.push(json!({"type": "users", "id": "u"}));
        frames.push(json!({"type": "auth", "id": "again", "data": {"token": token(user, "Alice")}}));
        client.pipeline(&frames).await;
        client.expect("auth_success").await;
        let (mut texts, mut answers) = (Vec::new(), HashSet::new());
        for _ in 0..22 {
            let value = client.next().await;
            match value["type"].as_str() {
                Some("message") => texts.push(value["data"]["text"].as_str().unwrap().to_owned()),
                Some("users") => assert!(answers.insert("users"), "{value}"),
                Some("error") => assert!(value["code"] == 409 && answers.insert("again"), "{value}"),
                _ => panic!("{value}"),
            }
        }
        assert_eq!(texts, (0..20).map(|n| n.to_string()).collect::<Vec<_>>());
        client.leave().await;
    }
}

#[tokio::test]
async fn frames_behind_a_refused_sign_in_are_never_answered() {
    let server = Options::new().shards(2).start();
    let (mut watcher, _) = Client::join(&server, 1, "Alice").await;
    for _ in 0..8 {
        let mut client = Client::open(&server).await;
        let auth = json!({"type": "auth", "data": {"token": "bad"}});
        let message = json!({"type": "message", "data": {"text": "hi"}});
        let good = json!({"type": "auth", "data": {"token": token(2, "Bob")}});
        client.pipeline(&[auth, message, good, json!({"type": "heartbeat"})]).await;
        client.expect("auth_failed").await;
        client.closed(4401).await;
    }
    watcher.nothing_pending().await;
}

#[tokio::test]
async fn users_are_listed_page_by_page() {
    let server = Options::new().shards(2).start();
    let mut clients = Vec::new();
    for user in 0..25 {
        clients.push(Client::join(&server, user, &format!("user {user}")).await.0);
    }
    let (mut asker, _) = Client::join(&server, "asker", "Asker").await;
    asker.send(&json!({"type": "users", "id": "all"})).await;
    let all = asker.next().await;
    let members = all["data"]["members"].as_array().unwrap().clone();
    assert_shape(&all, &json!({"type": "users", "id": "all", "code": 200, "data": {"count": 26, "members": members}}));
    assert_eq!(members.len(), 26);
    for member in &members {
        assert_shape(member, &json!({"user": {"id": "<any>", "username": "<text>"}, "connections": 1}));
    }
    let names = |members: &[Value]| -> Vec<String> {
        members.iter().map(|member| member["user"]["username"].as_str().unwrap().to_owned()).collect()
    };
    let everyone: HashSet<String> = names(&members).into_iter().collect();
    assert_eq!(everyone.len(), 26);

    for limit in [1, 7, 13, 26, 100] {
        let (mut seen, mut cursor, mut pages) = (Vec::new(), Value::Null, 0);
        loop {
            let mut data = json!({"limit": limit});
            if !cursor.is_null() {
                data["cursor"] = cursor.clone();
            }
            asker.send(&json!({"type": "users", "id": "page", "data": data})).await;
            let page = asker.expect("users").await;
            assert!(page["id"] == "page" && page["code"] == 200 && page["data"]["count"] == 26, "{page}");
            let members = page["data"]["members"].as_array().unwrap();
            assert!(members.len() <= limit, "{page}");
            seen.extend(names(members));
            cursor = page["data"]["cursor"].clone();
            pages += 1;
            assert!(pages <= 27, "the pages never end");
            if cursor.is_null() {
                break;
            }
            assert!(cursor.is_string(), "{page}");
        }
        assert_eq!(seen.len(), 26, "limit {limit}");
        assert_eq!(seen.into_iter().collect::<HashSet<_>>(), everyone, "limit {limit}");
    }
    for bad in [json!({"limit": "many"}), json!({"cursor": 5})] {
        asker.send(&json!({"type": "users", "id": "bad", "data": bad})).await;
        let answer = asker.next().await;
        assert!(answer["type"] == "error" && answer["code"] == 400 && answer["id"] == "bad", "{bad}: {answer}");
    }
    for client in clients {
        client.leave().await;
    }
    loop {
        // Pages are as of the moment: those who left are no longer in them.
        if asker.find("user_offline").await["data"]["online_count"] == 1 {
            break;
        }
    }
    asker.send(&json!({"type": "users", "id": "end"})).await;
    let end = asker.expect("users").await;
    assert_eq!(end["data"]["count"], 1);
    assert_shape(&end["data"]["members"], &json!([{"user": {"id": "asker", "username": "Asker"}, "connections": 1}]));
}

#[tokio::test]
async fn the_chinese_texts_are_the_tutorials() {
    let server = Options::new().env("URINGCAST_LANGUAGE", "zh").start();
    let mut alice = Client::connect(&server, "/ws").await;
    assert_eq!(alice.expect("system").await["message"], "连接成功,请发送认证信息");
    alice.say("hi").await;
    assert_eq!(alice.refused(401).await["message"], "请先进行身份认证");
    alice.send(&json!({"type": "auth", "data": {}})).await;
    assert_eq!(alice.refused(400).await["message"], "缺少token参数");
    alice.send_text("{").await;
    assert_eq!(alice.refused(400).await["message"], "消息格式错误");
    alice.send_text("{\"data\":{}}").await;
    assert_eq!(alice.refused(400).await["message"], "消息格式错误");
    alice.send_text("{\"type\":\"nonsense\"}").await;
    assert_eq!(alice.refused(400).await["message"], "未知消息类型");
    assert_eq!(alice.auth(&token(1, "Alice")).await["message"], "认证成功");
    alice.say("  ").await;
    assert_eq!(alice.refused(400).await["message"], "消息内容不能为空");
    let (bob, _) = Client::join(&server, 2, "小明").await;
    let online = alice.expect("user_online").await;
    assert_eq!((&online["message"], &online["data"]["user"]["username"]), (&json!("用户上线"), &json!("小明")));
    bob.leave().await;
    assert_eq!(alice.expect("user_offline").await["message"], "用户下线");
    let (_again, _) = Client::join(&server, 1, "Alice").await;
    assert_eq!(alice.expect("kicked").await["message"], "您的账号在其他地方登录");
    alice.closed(4409).await;
    let mut bad = Client::open(&server).await;
    assert_eq!(bad.auth("bad").await["message"], "token失效或无效");
    bad.closed(4401).await;
}

#[tokio::test]
async fn a_binary_message_is_closed_with_1003() {
    let server = Options::new().start();
    let (mut watcher, _) = Client::join(&server, 9, "Watcher").await;
    let mut client = Client::open(&server).await;
    client.send_message(tokio_tungstenite::tungstenite::Message::binary(&b"{\"type\":\"heartbeat\"}"[..])).await;
    client.closed(1003).await;
    let (mut client, _) = Client::join(&server, 1, "Alice").await;
    watcher.expect("user_online").await;
    client.send_message(tokio_tungstenite::tungstenite::Message::binary(&b""[..])).await;
    client.closed(1003).await;
    assert_eq!(watcher.expect("user_offline").await["data"]["online_count"], 1);
}

#[tokio::test]
async fn a_client_that_vanishes_goes_offline() {
    let server = Options::new().shards(2).start();
    let (mut watcher, _) = Client::join(&server, 1, "Watcher").await;
    for way in ["drop", "reset", "half-close", "protocol error"] {
        eprintln!("{way}");
        let (client, _) = Client::join(&server, 2, "Bob").await;
        watcher.expect("user_online").await;
        match way {
            "reset" => {
                client.tcp().set_zero_linger().unwrap();
                client.vanish();
            }
            "half-close" => {
                let tcp = socket2::SockRef::from(client.tcp());
                tcp.shutdown(std::net::Shutdown::Write).unwrap();
                assert_eq!(watcher.expect("user_offline").await["data"]["online_count"], 1, "{way}");
                client.vanish();
                continue;
            }
            "protocol error" => {
                // An unmasked frame.
                client.tcp().writable().await.unwrap();
                assert_eq!(client.tcp().try_write(&[0x81, 0x02, b'h', b'i']).unwrap(), 4);
                assert_eq!(watcher.expect("user_offline").await["data"]["online_count"], 1, "{way}");
                client.vanish();
                continue;
            }
            _ => client.vanish(),
        }
        assert_eq!(watcher.expect("user_offline").await["data"]["online_count"], 1, "{way}");
    }
    watcher.nothing_pending().await;
}

#[tokio::test]
async fn fragments_and_control_frames_in_between_make_one_message() {
    let server = Options::new().start();
    let mut raw = Raw::upgraded(&server, "/ws").await;
    assert_eq!(raw.json().await["type"], "system");
    let auth = json!({"type": "auth", "data": {"token": token(1, "Zoë")}}).to_string();
    let (first, rest) = auth.as_bytes().split_at(auth.find('\u{eb}').unwrap_or(20) + 1);
    let (second, third) = rest.split_at(1);
    let mut bytes = frame(false, 1, first);
    bytes.extend(frame(true, 9, b"in between"));
    bytes.extend(frame(false, 0, second));
    bytes.extend(frame(false, 0, b""));
    bytes.extend(frame(true, 10, b"unasked"));
    bytes.extend(frame(true, 0, third));
    for byte in bytes {
        raw.write(&[byte]).await;
    }
    let pong = raw.frame().await.unwrap();
    assert_eq!((pong.opcode, pong.payload.as_slice()), (10, &b"in between"[..]));
    assert_eq!(raw.json().await["data"]["user"]["username"], "Zoë");
}

#[tokio::test]
async fn the_close_handshake_is_answered() {
    let server = Options::new().start();
    for (sent, answered) in [
        (&b""[..], None),
        (&[0x03, 0xe8][..], Some(1000)),
        (&[0x03, 0xe9, b'b', b'y', b'e'][..], Some(1001)),
        (&[0x0f, 0xa0][..], Some(4000)),
        (&[0x03][..], Some(1002)),
        (&[0x03, 0xed][..], Some(1002)),
        (&[0x03, 0xe8, 0xff][..], Some(1007)),
    ] {
        let mut raw = Raw::upgraded(&server, "/ws").await;
        raw.json().await;
        raw.write(&frame(true, 8, sent)).await;
        let answer = raw.frame().await.expect("an answer");
        assert_eq!(answer.opcode, 8, "{sent:?}");
        match answered {
            Some(code) => assert_eq!(answer.close_code(), code, "{sent:?}"),
            None => assert!(answer.payload.is_empty() || answer.close_code() == 1000, "{answer:?}"),
        }
        assert_eq!(raw.frame().await, None, "the server ends the connection");
    }
}

#[tokio::test]
async fn a_user_is_its_number_or_that_number_as_text() {
    let server = Options::new().start();
    let (mut first, success) = Client::join(&server, 1, "Number").await;
    assert_eq!(success["data"]["user"]["id"], 1);
    let (mut second, success) = Client::join(&server, "1", "Text").await;
    assert_eq!(success["data"]["user"], json!({"id": "1", "username": "Text"}));
    first.expect("kicked").await;
    first.closed(4409).await;
    second.nothing_pending().await;
    // A number at the edge keeps every digit.
    let edge = 9_007_199_254_740_991_i64;
    for id in [edge, -edge, 0] {
        let (mut client, success) = Client::join(&server, id, "Edge").await;
        assert_eq!(success["data"]["user"]["id"], id);
        client.nothing_pending().await;
        client.leave().await;
    }
    for claims in [
        json!({"user_id": edge + 1, "username": "over", "exp": crate::support::now_s() + 60}),
        json!({"user_id": 1.5, "username": "fraction", "exp": crate::support::now_s() + 60}),
        json!({"user_id": "", "username": "empty", "exp": crate::support::now_s() + 60}),
        json!({"user_id": "x".repeat(129), "username": "long", "exp": crate::support::now_s() + 60}),
        json!({"user_id": true, "username": "bool", "exp": crate::support::now_s() + 60}),
        json!({"username": "nobody", "exp": crate::support::now_s() + 60}),
    ] {
        let mut client = Client::open(&server).await;
        let answer = client.auth(&sign(&claims)).await;
        assert_eq!(answer["type"], "auth_failed", "{claims}: {answer}");
        client.closed(4401).await;
    }
}
