//! Every key of a namespace, in the lobby and in another one: each does what docs/configuration.md says of it.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::api::{Backend, options};
use crate::channel_support::channel_token;
use crate::support::{Client, Options, Server, now_s, sign, until};

/// A section of the configuration, and a channel that it rules.
#[derive(Clone, Copy, Debug)]
struct Place {
    section: &'static str,
    channel: &'static str,
}

const PLACES: [Place; 2] =
    [Place { section: "LOBBY", channel: "lobby" }, Place { section: "NAMESPACES__ROOM", channel: "room:a" }];

impl Place {
    /// Members publish there, and these keys are set.
    fn with(self, keys: &[(&str, &str)]) -> Options {
        let all = [("PUBLISH", "members"), ("PRESENCE", "off")];
        let given = |key: &str| keys.iter().any(|(name, _)| *name == key);
        let options = options().env("URINGCAST_AUTH__DUPLICATE_LOGIN", "allow").env("URINGCAST_LOBBY__PRESENCE", "off");
        all.iter()
            .filter(|(key, _)| !given(key))
            .chain(keys)
            .fold(options, |options, (key, value)| options.env(&format!("URINGCAST_{}__{key}", self.section), value))
    }

    /// Signed in as `user`, and in the channel.
    async fn member(self, server: &Server, user: &str) -> Client {
        let (mut client, success) = Client::join(server, user, "<A>").await;
        if self.channel == "lobby" {
            assert_eq!(success["data"]["lobby"]["channel"], "lobby", "{success}");
        } else {
            assert_eq!(client.ask("subscribe", json!({"channel": self.channel})).await["type"], "subscribed");
        }
        client
    }

    async fn say(self, client: &mut Client, text: &str) -> Value {
        client.ask("message", json!({"channel": self.channel, "text": text})).await
    }

    async fn history(self, client: &mut Client) -> Vec<Value> {
        let page = client.ask("history", json!({"channel": self.channel})).await;
        page["data"]["publications"].as_array().expect("a page").clone()
    }

    /// Whatever a client who is not let in asks of the channel is refused, and it hears nothing of it.
    async fn is_closed_to(self, client: &mut Client) {
        let channel = json!({"channel": self.channel});
        client.ask_refused("subscribe", channel.clone(), 403).await;
        client.ask_refused("history", channel.clone(), 403).await;
        client.ask_refused("presence", channel.clone(), 403).await;
        client.ask_refused("message", json!({"channel": self.channel, "text": "hi"}), 403).await;
        client.ask_refused("publish", json!({"channel": self.channel, "data": 1}), 403).await;
        if self.channel == "lobby" {
            client.ask_refused("users", json!({}), 403).await;
            client.ask_refused("message", json!({"text": "hi"}), 403).await;
        }
    }
}

/// A user's token that lists these channels.
fn listing(user: &str, channels: &[&str]) -> String {
    sign(&json!({"user_id": user, "username": "<A>", "exp": now_s() + 600, "channels": channels}))
}

#[tokio::test]
async fn subscribe_and_users_say_who_is_let_in() {
    for place in PLACES {
        for (rule, more) in [("token", None), ("named", Some(("USERS", "ann,bob")))] {
            let keys: Vec<_> = [("SUBSCRIBE", rule), ("PRESENCE", "events")].into_iter().chain(more).collect();
            let server = place.with(&keys).shards(2).start();
            let mut listed = Client::open(&server).await;
            let success = listed.auth(&listing("listed", &[place.channel])).await;
            let is_lobby = place.channel == "lobby";
            assert!(success["data"]["lobby"].is_object(), "{success}");
            if !is_lobby {
                assert_eq!(listed.ask("subscribe", json!({"channel": place.channel})).await["type"], "subscribed");
            }
            let mut outsider = Client::open(&server).await;
            let success = outsider.auth(&listing("eve", &["other"])).await;
            assert_eq!(success["type"], "auth_success", "{success}");
            if is_lobby {
                let keys: BTreeSet<_> = success["data"].as_object().unwrap().keys().map(String::as_str).collect();
                assert_eq!(keys, ["expires_at", "user"].into(), "{success}");
            }
            place.is_closed_to(&mut outsider).await;
            listed.send(&json!({"type": "message", "data": {"channel": place.channel, "text": "inside"}})).await;
            listed.find("message").await;
            outsider.ask_next("heartbeat", json!({})).await;
            // A token for the channel lets anyone in, and a refresh that takes the right away ends the subscription.
            let granted = json!({"channel": place.channel, "token": channel_token("eve", place.channel)});
            assert_eq!(outsider.ask("subscribe", granted).await["type"], "subscribed");
            place.say(&mut outsider, "let in").await;
            let poorer = listing("listed", &[]);
            assert_eq!(listed.ask("refresh", json!({ "token": poorer })).await["type"], "refreshed");
            let ended = listed.find("unsubscribed").await;
            assert_eq!((&ended["code"], &ended["data"]["channel"]), (&json!(403), &json!(place.channel)));
            place.is_closed_to(&mut listed).await;
            if rule == "named" {
                for user in ["ann", "bob"] {
                    place.member(&server, user).await;
                }
            }
        }
        let server = place.with(&[("SUBSCRIBE", "signed_in")]).start();
        place.member(&server, "anyone").await;
    }
}

#[tokio::test]
async fn a_sign_in_with_channels_may_bring_the_lobbys_token() {
    let server = PLACES[0].with(&[("SUBSCRIBE", "token")]).start();
    let mut client = Client::open(&server).await;
    let channels = json!([{"channel": "lobby", "token": channel_token("eve", "lobby")}]);
    client.send(&json!({"type": "auth", "data": {"token": listing("eve", &[]), "channels": channels}})).await;
    assert!(client.expect("auth_success").await["data"]["lobby"].is_null());
    assert_eq!(client.expect("subscribed").await["data"]["channel"], "lobby");
    client.say("hi").await;
    client.expect("message").await;
}

#[tokio::test]
async fn publish_says_who_may() {
    for place in PLACES {
        let server = place.with(&[("PUBLISH", "backend")]).start();
        let mut client = place.member(&server, "ann").await;
        let text = json!({"channel": place.channel, "text": "hi"});
        client.ask_refused("message", text.clone(), 403).await;
        client.ask_refused("publish", json!({"channel": place.channel, "data": 1}), 403).await;
        Backend::of(&server).await.post("/api/publish", &text).await.ok();
        assert_eq!(client.expect("message").await["data"]["text"], "hi");
    }
}

#[tokio::test]
async fn history_is_as_long_and_as_old_as_is_said() {
    for place in PLACES {
        let server = place.with(&[("HISTORY_SIZE", "2"), ("HISTORY_AGE_MS", "86400000")]).start();
        let mut client = place.member(&server, "ann").await;
        for text in ["one", "two", "three"] {
            assert_eq!(place.say(&mut client, text).await["type"], "ack");
        }
        let texts: Vec<_> = place.history(&mut client).await.iter().map(|one| one["text"].clone()).collect();
        assert_eq!(texts, ["two", "three"], "{place:?}");
        let server = place.with(&[("HISTORY_AGE_MS", "100")]).start();
        let mut client = place.member(&server, "ann").await;
        assert_eq!(place.say(&mut client, "soon old").await["type"], "ack");
        until("the history is empty", async || place.history(&mut client).await.is_empty().then_some(())).await;
    }
}

#[tokio::test]
async fn presence_says_what_is_told_of_members() {
    for place in PLACES {
        let is_lobby = place.channel == "lobby";
        for mode in ["events", "digest", "count", "off"] {
            let server = place.with(&[("PRESENCE", mode), ("PRESENCE_WINDOW_MS", "10")]).start();
            let mut watcher = place.member(&server, "watcher").await;
            let (_other, success) = {
                let (mut other, success) = Client::join(&server, "other", "B").await;
                if !is_lobby {
                    other.ask("subscribe", json!({"channel": place.channel})).await;
                }
                (other, success)
            };
            let channel = json!({"channel": place.channel});
            match mode {
                "events" => {
                    let kind = if is_lobby { "user_online" } else { "join" };
                    assert_eq!(watcher.find(kind).await["data"]["user"]["id"], "other");
                }
                "off" => drop(watcher.ask_next("heartbeat", json!({})).await),
                _ => {
                    let named = |digest: &Value| digest["data"]["joined"].to_string().contains("\"other\"");
                    let mut digest = watcher.find("presence_digest").await;
                    // The watcher's own coming may have a window of its own.
                    while digest["data"]["count"] != 2 {
                        digest = watcher.find("presence_digest").await;
                    }
                    assert_eq!(named(&digest), mode == "digest", "{digest}");
                }
            }
            let backend = Backend::of(&server).await;
            if mode == "off" {
                watcher.ask_refused("presence", channel.clone(), 403).await;
                backend.post("/api/presence", &channel).await.refused(403);
            } else {
                assert_eq!(watcher.ask("presence", channel.clone()).await["data"]["count"], 2);
                assert_eq!(backend.post("/api/presence", &channel).await.ok()["count"], 2);
            }
            if is_lobby {
                assert_eq!(success["data"]["online_count"].is_null(), mode == "off", "{success}");
                match mode {
                    "off" => drop(watcher.ask_refused("users", json!({}), 403).await),
                    _ => assert_eq!(watcher.ask("users", json!({})).await["data"]["count"], 2),
                }
            }
        }
    }
}

#[tokio::test]
async fn escape_says_how_texts_and_names_are_shown() {
    for place in PLACES {
        for (escape, text, name) in [("true", "&lt;b&gt;", "&lt;A&gt;"), ("false", "<b>", "<A>")] {
            let server = place.with(&[("ESCAPE", escape)]).start();
            let mut client = place.member(&server, "ann").await;
            client.send(&json!({"type": "message", "data": {"channel": place.channel, "text": "<b>"}})).await;
            let message = client.expect("message").await;
            assert_eq!(message["data"]["text"], text);
            assert_eq!(message["data"]["sender"]["username"], name);
        }
    }
}

#[tokio::test]
async fn overflow_is_what_subscribed_says() {
    for place in PLACES {
        for overflow in ["disconnect", "drop_oldest", "conflate"] {
            let server = place.with(&[("OVERFLOW", overflow)]).start();
            let mut client = place.member(&server, "ann").await;
            client.ask("unsubscribe", json!({"channel": place.channel})).await;
            let answer = client.ask("subscribe", json!({"channel": place.channel})).await;
            assert_eq!(answer["data"]["overflow"], overflow, "{answer}");
        }
    }
}

#[tokio::test]
async fn a_batch_window_holds_publications_back() {
    for place in PLACES {
        let server = place.with(&[("BATCH_WINDOW_MS", "60000")]).start();
        let mut client = place.member(&server, "ann").await;
        client.send(&json!({"type": "message", "id": "m", "data": {"channel": place.channel, "text": "later"}})).await;
        client.ask_next("heartbeat", json!({})).await;
        // It is not lost when the server goes.
        server.signal("TERM");
        assert_eq!(client.find("message").await["data"]["text"], "later");
        client.find("ack").await;
    }
}
