//! Panics planted in a server of its own build (`./check planted`): what a bug of ours takes with it. One over what a
//! connection sent, or in its writer, ends that connection; one in a shard's own loop ends the process.

use std::os::unix::process::ExitStatusExt as _;
use std::time::Duration;

use serde_json::json;
use tokio::time::timeout;

use crate::channel_support::members_publish;
use crate::support::{Client, DEADLINE, Event, Raw, Server, frame, token};

/// More than the sockets and the bound of a reader that has stopped can hold.
const FILL: usize = 200;

fn start() -> Server {
    let options = members_publish().shards(1).env("URINGCAST_LIMITS__OUTBOX_BYTES", 64 << 20);
    let mut server = options.start();
    server.panics = true;
    server
}

/// What the log has to say of it, exactly so often. It is written by a thread of its own.
async fn logged(server: &Server, times: usize) {
    let count = || server.log().matches("a panic ended this connection").count();
    let there = async {
        while count() < times {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let _ = timeout(DEADLINE, there).await;
    assert_eq!(count(), times, "{}", server.log());
}

#[tokio::test]
async fn a_panic_over_a_message_ends_that_connection_alone() {
    let server = start();
    let (mut ann, _) = Client::join(&server, 1, "Ann").await;
    let (mut bob, _) = Client::join(&server, 2, "Bob").await;
    ann.expect("user_online").await;
    for round in 1..=3 {
        let (mut eve, _) = Client::join(&server, 3, "Eve").await;
        ann.expect("user_online").await;
        bob.expect("user_online").await;
        eve.say("planted panic: reader").await;
        assert_eq!(eve.closed(1011).await, "internal error");
        // Her sign-in went with her, and what others say is heard.
        assert_eq!(ann.expect("user_offline").await["data"]["online_count"], 2);
        bob.expect("user_offline").await;
        bob.say("still here").await;
        assert_eq!(ann.expect("message").await["data"]["text"], "still here");
        bob.expect("message").await;
        logged(&server, round).await;
    }
}

#[tokio::test]
async fn a_panic_in_a_writer_ends_that_connection_alone() {
    let server = start();
    let (mut ann, _) = Client::join(&server, 1, "Ann").await;
    ann.subscribe("news").await;
    let mut eve = Raw::upgraded(&server, "/ws").await;
    for text in [
        json!({"type": "auth", "data": {"token": token(3, "Eve")}}),
        json!({"type": "subscribe", "data": {"channel": "news"}}),
        json!({"type": "message", "data": {"text": "planted panic: writer"}}),
    ] {
        eve.write(&frame(true, 1, text.to_string().as_bytes())).await;
    }
    ann.expect("user_online").await;
    assert_eq!(ann.find("message").await["data"]["text"], "planted panic: writer");
    // She doesn't read until the kernel takes no more for her; then she makes room, and her writer goes on.
    let fill = "x".repeat(64 * 1024);
    for _ in 0..FILL {
        let ack = ann.ask("publish", json!({"channel": "news", "data": fill})).await;
        assert_eq!(ack["type"], "ack", "{ack}");
    }
    let received = eve.rest().await;
    assert!(received.len() < FILL * fill.len(), "she got everything: there was no writer");
    assert_eq!(ann.find("user_offline").await["data"]["online_count"], 1);
    ann.say("still here").await;
    assert_eq!(ann.find("message").await["data"]["text"], "still here");
    logged(&server, 1).await;
    // Counted out once: the server is empty when the last has gone, and then it ends at once.
    let (bob, _) = Client::join(&server, 2, "Bob").await;
    bob.leave().await;
    ann.leave().await;
    let mut server = server;
    server.signal("TERM");
    assert!(server.ended(DEADLINE).success());
}

#[tokio::test]
async fn a_panic_in_a_shards_loop_ends_the_process() {
    let mut server = start();
    let (mut ann, _) = Client::join(&server, 1, "Ann").await;
    ann.say("planted panic: loop").await;
    let status = server.ended(DEADLINE);
    assert!(!status.success() && status.signal() == Some(6), "{status}");
    assert!(server.log().contains("the loop of shard 0 failed"), "{}", server.log());
    while !matches!(ann.event().await, Event::Ended) {}
}
