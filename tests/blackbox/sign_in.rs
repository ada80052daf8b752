//! One user on several connections: kick, refuse, allow, and the war of two tabs.

use serde_json::{Value, json};

use crate::support::{Client, Event, Options, Server, assert_shape, token};

/// Signs in where that must fail: whatever comes before the close is not a success.
async fn turned_away(server: &Server, user: impl Into<Value>, code: u16) {
    let mut client = Client::open(server).await;
    client.send(&json!({"type": "auth", "data": {"token": token(user, "Late")}})).await;
    for _ in 0..3 {
        match client.event().await {
            Event::Text(text) => {
                let value: Value = serde_json::from_str(&text).unwrap();
                assert!(value["type"] != "auth_success" && value["type"] != "user_online", "{value}");
            }
            Event::Close(found, _) => {
                assert_eq!(found, code);
                return;
            }
            other => panic!("{other:?}"),
        }
    }
    panic!("not closed");
}

#[tokio::test]
async fn a_second_sign_in_kicks_the_first_over_all_shards() {
    for shards in [1, 2, 4] {
        let server = Options::new().shards(shards).start();
        let (mut watcher, _) = Client::join(&server, "watcher", "Watcher").await;
        // Which shard takes a connection is the kernel's choice: enough rounds see every pair.
        for user in 0..16 {
            let (mut old, _) = Client::join(&server, user, "Alice").await;
            watcher.expect("user_online").await;
            let (mut new, success) = Client::join(&server, user, "Alice again").await;
            assert_eq!(success["data"]["online_count"], 2, "a kick changes no count");
            assert_shape(&old.next().await, &json!({"type": "kicked", "code": 409, "message": "signed in elsewhere"}));
            old.closed(4409).await;
            new.nothing_pending().await;
            // The watcher sees the new name speak, and no online/offline pair before or after.
            let message = watcher.expect("message").await;
            assert_eq!(message["data"]["sender"]["username"], "Alice again");
            new.leave().await;
            assert_eq!(watcher.expect("user_offline").await["data"]["online_count"], 1);
        }
        watcher.nothing_pending().await;
    }
}

#[tokio::test]
async fn a_kicked_connection_cannot_speak_any_more() {
    let server = Options::new().shards(2).start();
    let (mut watcher, _) = Client::join(&server, "watcher", "Watcher").await;
    for user in 0..8 {
        let (mut old, _) = Client::join(&server, user, "Old").await;
        watcher.expect("user_online").await;
        let (new, _) = Client::join(&server, user, "New").await;
        // It has not read its dismissal yet, and talks on.
        for _ in 0..5 {
            old.say("too late").await;
        }
        old.expect("kicked").await;
        old.closed(4409).await;
        watcher.nothing_pending().await;
        new.leave().await;
        watcher.expect("user_offline").await;
    }
}

#[tokio::test]
async fn reject_new_keeps_the_holder() {
    // Here the holder answers no ping meanwhile; `ghosts` is about that.
    let options = Options::new().shards(2).env("URINGCAST_AUTH__PROBE_MS", 0);
    let server = options.env("URINGCAST_AUTH__DUPLICATE_LOGIN", "reject_new").start();
    let (mut holder, _) = Client::join(&server, 1, "Alice").await;
    for _ in 0..3 {
        turned_away(&server, 1, 4409).await;
        turned_away(&server, "1", 4409).await;
    }
    holder.nothing_pending().await;
    let (other, success) = Client::join(&server, 2, "Bob").await;
    assert_eq!(success["data"]["online_count"], 2);
    holder.expect("user_online").await;
    other.leave().await;
    holder.expect("user_offline").await;
    let (mut watcher, _) = Client::join(&server, 3, "Watcher").await;
    holder.expect("user_online").await;
    holder.leave().await;
    watcher.expect("user_offline").await;
}

#[tokio::test]
async fn allow_has_a_user_online_once() {
    let server = Options::new().shards(2).env("URINGCAST_AUTH__DUPLICATE_LOGIN", "allow").start();
    let (mut watcher, _) = Client::join(&server, "watcher", "Watcher").await;
    let mut tabs = Vec::new();
    // More than the five sign-ins that a kick war may have: here nobody kicks.
    for _ in 0..12 {
        let (tab, success) = Client::join(&server, 1, "Alice").await;
        assert_eq!(success["data"]["online_count"], 2);
        tabs.push(tab);
    }
    assert_eq!(watcher.expect("user_online").await["data"]["online_count"], 2);
    watcher.nothing_pending().await;
    watcher.send(&json!({"type": "users", "id": "1"})).await;
    let users = watcher.expect("users").await;
    assert_eq!(users["data"]["count"], 2);
    let members = users["data"]["members"].as_array().unwrap();
    let alice = members.iter().find(|member| member["user"]["id"] == 1).unwrap();
    assert_eq!(alice["connections"], 12);
    for tab in &mut tabs {
        tab.expect("message").await;
    }
    tabs[3].say("from one tab").await;
    let heard = watcher.expect("message").await;
    for tab in &mut tabs {
        assert_eq!(tab.next().await, heard);
    }
    while let Some(tab) = tabs.pop() {
        watcher.nothing_pending().await;
        tab.leave().await;
    }
    assert_eq!(watcher.expect("user_offline").await["data"]["online_count"], 1);
    watcher.nothing_pending().await;
}

#[tokio::test]
async fn two_tabs_that_kick_each_other_are_stopped() {
    let server = Options::new().shards(2).env("URINGCAST_AUTH__PROBE_MS", 0).start();
    let (mut watcher, _) = Client::join(&server, "watcher", "Watcher").await;
    let (mut holder, _) = Client::join(&server, 1, "Alice").await;
    watcher.expect("user_online").await;
    for _ in 0..4 {
        let (newcomer, _) = Client::join(&server, 1, "Alice").await;
        holder.expect("kicked").await;
        holder.closed(4409).await;
        holder = newcomer;
    }
    // The sixth sign-in within ten seconds, and those after it.
    for _ in 0..3 {
        turned_away(&server, 1, 4429).await;
    }
    holder.nothing_pending().await;
    assert_eq!(watcher.expect("message").await["data"]["sender"]["id"], 1);
    watcher.nothing_pending().await;
    holder.expect("message").await;
    // Another user is not held up by that.
    let (other, _) = Client::join(&server, 2, "Bob").await;
    watcher.expect("user_online").await;
    other.leave().await;
}
