//! Every message that the server sends, letter by letter as the contract has it.
//! Unit tests: the property tests over the same code stand in tests/.

use super::*;
use crate::model::notice::{Gap, GapReason};
use crate::model::position::Placed;
use crate::model::presence::{Announcement, PresenceDigest, PresenceNews};
use crate::model::publication::Content;
use crate::model::refusal::RequestError;
use crate::model::user::UserId;

fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
    // Not at the start of the buffer: what stands there stays.
    let mut out = b"before".to_vec();
    write(&mut out);
    assert!(out.starts_with(b"before"));
    String::from_utf8(out.split_off("before".len())).expect("text")
}

fn reply(reply: Reply<'_>, id: Option<&str>) -> String {
    written(|out| write_reply(out, &reply, id, Language::En))
}

fn push(publication: &Publication) -> String {
    written(|out| write_publication(out, publication))
}

fn ann() -> Arc<User> {
    Arc::new(User::new(&UserId::int(1).expect("an id"), "Ann"))
}

fn bo() -> Arc<User> {
    Arc::new(User::new(&UserId::text("b").expect("an id"), "Bo"))
}

fn publication(epoch: &str, offset: u64, content: Content) -> Publication {
    let placed = Placed { channel: "news".into(), epoch: epoch.into(), offset };
    Publication { placed, timestamp: 6, sender: None, escape: true, content, key: None, frame_bytes: 0 }
}

fn json(text: &str) -> Content {
    Content::Json(text.as_bytes().into())
}

#[test]
fn shapes_are_the_contracts() {
    let user = ann();
    let lobby = Position { channel: "lobby", epoch: "e", offset: 4 };
    assert_eq!(
        reply(Reply::System { connection_id: "c", timestamp: 5 }, None),
        r#"{"type":"system","code":200,"message":"connected, please authenticate","data":{"connection_id":"c","timestamp":5}}"#
    );
    assert_eq!(
        reply(
            Reply::AuthSuccess {
                user: &user,
                escape: true,
                expires_at: Some(9),
                online_count: Some(2),
                lobby: Some(lobby),
                recovery: None
            },
            None
        ),
        r#"{"type":"auth_success","code":200,"message":"authenticated","data":{"user":{"id":1,"username":"Ann"},"expires_at":9,"online_count":2,"lobby":{"channel":"lobby","epoch":"e","offset":4}}}"#
    );
    let outside = Reply::AuthSuccess {
        user: &user,
        escape: true,
        expires_at: None,
        online_count: None,
        lobby: None,
        recovery: None,
    };
    assert_eq!(
        reply(outside, None),
        r#"{"type":"auth_success","code":200,"message":"authenticated","data":{"user":{"id":1,"username":"Ann"}}}"#
    );
    assert_eq!(
        reply(Reply::AuthFailed, None),
        r#"{"type":"auth_failed","code":401,"message":"token invalid or expired"}"#
    );
    assert_eq!(reply(Reply::Kicked, None), r#"{"type":"kicked","code":409,"message":"signed in elsewhere"}"#);
    assert_eq!(
        reply(Reply::Heartbeat { timestamp: 9 }, Some("h")),
        r#"{"type":"heartbeat","id":"h","code":200,"message":"pong","timestamp":9}"#
    );
    let members = [(Arc::clone(&user), 3)];
    assert_eq!(
        reply(Reply::Users { count: 7, members: &members, escape: true, cursor: Some("x") }, Some("1")),
        r#"{"type":"users","id":"1","code":200,"data":{"count":7,"members":[{"user":{"id":1,"username":"Ann"},"connections":3}],"cursor":"x"}}"#
    );
    assert_eq!(
        reply(Reply::Ack { position: lobby, duplicate: false }, Some("4")),
        r#"{"type":"ack","id":"4","code":200,"data":{"channel":"lobby","epoch":"e","offset":4}}"#
    );
    assert_eq!(
        reply(Reply::Error { error: RequestError::new(401, Text::AuthFirst), about: None }, None),
        r#"{"type":"error","code":401,"message":"please authenticate first"}"#
    );
    assert_eq!(reply(Reply::Ping, None), r#"{"type":"ping"}"#);
    assert_eq!(
        reply(Reply::Draining { reconnect_in_ms: 8 }, None),
        r#"{"type":"draining","data":{"reconnect_in_ms":8}}"#
    );
}

#[test]
fn pushes_are_the_contracts() {
    let message = Publication { sender: Some(bo()), ..publication("e", 4, Content::Text("a\"b".into())) };
    assert_eq!(
        push(&message),
        r#"{"type":"message","code":200,"data":{"id":"e-4","channel":"news","offset":4,"sender":{"id":"b","username":"Bo"},"text":"a\"b","timestamp":6}}"#
    );
    let event = Announcement::Event { joined: false, user: bo(), count: 1 };
    let news = PresenceNews { channel: "lobby".into(), timestamp: 6, escape: true, announcement: event };
    assert_eq!(
        written(|out| write_presence(out, &news, true, Language::Zh)),
        r#"{"type":"user_offline","code":200,"message":"用户下线","data":{"user":{"id":"b","username":"Bo"},"online_count":1,"timestamp":6}}"#
    );
}

#[test]
fn a_name_is_shown_as_the_namespace_asks() {
    let user = |id: &str, name: &str| User::new(&UserId::text(id).expect("an id"), name);
    let shown = |user: &User, escape| written(|out| write_user(out, user, escape));
    let odd = user("<b>\"", "<b>\"");
    assert_eq!(shown(&odd, true), r#"{"id":"<b>\"","username":"&lt;b&gt;&quot;"}"#);
    assert_eq!(shown(&odd, false), r#"{"id":"<b>\"","username":"<b>\""}"#);
    assert_eq!(shown(&user("1", "ann"), true), r#"{"id":"1","username":"ann"}"#);
    assert_eq!(shown(&ann(), false), r#"{"id":1,"username":"Ann"}"#);
}

#[test]
fn a_publication_is_the_contracts() {
    let least = publication("e", 45, json("1.0"));
    assert_eq!(
        push(&least),
        r#"{"type":"publication","data":{"channel":"news","offset":45,"data":1.0,"timestamp":6}}"#
    );
    let data = json(r#"{ "b":123456789012345678901234567890, "a":"\u00e9\/" }"#);
    let most = Publication { content: data, key: Some("A\"L".into()), sender: Some(ann()), ..least };
    assert_eq!(
        push(&most),
        r#"{"type":"publication","data":{"channel":"news","offset":45,"data":{ "b":123456789012345678901234567890, "a":"\u00e9\/" },"key":"A\"L","sender":{"id":1,"username":"Ann"},"timestamp":6}}"#
    );
}

#[test]
fn answers_hold_the_pushes_fields_and_type() {
    let user = ann();
    let position = Position { channel: "news", epoch: "e\"", offset: 44 };
    let first = publication("e\"", 43, json("[1]"));
    let second = Publication {
        sender: Some(Arc::clone(&user)),
        timestamp: 7,
        ..publication("e\"", 44, Content::Text("hi".into()))
    };
    let publications = [Arc::new(first), Arc::new(second)];
    let array = r#"[{"type":"publication","channel":"news","offset":43,"data":[1],"timestamp":6},{"type":"message","id":"e\"-44","channel":"news","offset":44,"sender":{"id":1,"username":"Ann"},"text":"hi","timestamp":7}]"#;
    let subscribed =
        |recovery| reply(Reply::Subscribed { position, recovery, overflow: "disconnect", expires_at: None }, Some("1"));
    assert_eq!(
        subscribed(None),
        r#"{"type":"subscribed","id":"1","code":200,"data":{"channel":"news","epoch":"e\"","offset":44,"overflow":"disconnect"}}"#
    );
    assert_eq!(
        subscribed(Some(Recovered { recovered: false, publications: &[] })),
        r#"{"type":"subscribed","id":"1","code":200,"data":{"channel":"news","epoch":"e\"","offset":44,"recovered":false,"publications":[],"overflow":"disconnect"}}"#
    );
    assert_eq!(
        subscribed(Some(Recovered { recovered: true, publications: &publications })),
        format!(
            r#"{{"type":"subscribed","id":"1","code":200,"data":{{"channel":"news","epoch":"e\"","offset":44,"recovered":true,"publications":{array},"overflow":"disconnect"}}}}"#
        )
    );
    assert_eq!(
        reply(Reply::History { position, publications: &publications }, Some("5")),
        format!(
            r#"{{"type":"history","id":"5","code":200,"data":{{"channel":"news","epoch":"e\"","offset":44,"publications":{array}}}}}"#
        )
    );
    assert_eq!(
        reply(Reply::History { position, publications: &[] }, None),
        r#"{"type":"history","code":200,"data":{"channel":"news","epoch":"e\"","offset":44,"publications":[]}}"#
    );
    let recovery = Some(Recovered { recovered: true, publications: &publications });
    assert_eq!(
        reply(
            Reply::AuthSuccess {
                user: &user,
                escape: true,
                expires_at: None,
                online_count: Some(2),
                lobby: Some(position),
                recovery
            },
            None
        ),
        format!(
            r#"{{"type":"auth_success","code":200,"message":"authenticated","data":{{"user":{{"id":1,"username":"Ann"}},"online_count":2,"lobby":{{"channel":"news","epoch":"e\"","offset":44,"recovered":true,"publications":{array}}}}}}}"#
        )
    );
}

#[test]
fn answers_about_channels_are_the_contracts() {
    let user = ann();
    let position = Position { channel: "news", epoch: "e", offset: 45 };
    assert_eq!(
        reply(Reply::Unsubscribed { channel: "news", code: 200 }, Some("2")),
        r#"{"type":"unsubscribed","id":"2","code":200,"data":{"channel":"news"}}"#
    );
    assert_eq!(
        reply(Reply::Unsubscribed { channel: "news", code: 403 }, None),
        r#"{"type":"unsubscribed","code":403,"data":{"channel":"news"}}"#
    );
    assert_eq!(
        reply(Reply::Ack { position, duplicate: true }, Some("3")),
        r#"{"type":"ack","id":"3","code":200,"data":{"channel":"news","epoch":"e","offset":45,"duplicate":true}}"#
    );
    let members = [(Arc::clone(&user), 3)];
    assert_eq!(
        reply(
            Reply::Presence { channel: "news", count: 7, members: &members, escape: true, cursor: Some("x") },
            Some("6")
        ),
        r#"{"type":"presence","id":"6","code":200,"data":{"channel":"news","count":7,"members":[{"user":{"id":1,"username":"Ann"},"connections":3}],"cursor":"x"}}"#
    );
    assert_eq!(
        reply(Reply::Refreshed { channel: None, expires_at: 9 }, Some("7")),
        r#"{"type":"refreshed","id":"7","code":200,"data":{"expires_at":9}}"#
    );
    assert_eq!(
        reply(Reply::Refreshed { channel: Some("vip:1"), expires_at: 9 }, Some("7")),
        r#"{"type":"refreshed","id":"7","code":200,"data":{"channel":"vip:1","expires_at":9}}"#
    );
    assert_eq!(
        reply(Reply::TokenExpiring { channel: None, expires_at: 9 }, None),
        r#"{"type":"token_expiring","data":{"expires_at":9}}"#
    );
    assert_eq!(
        reply(Reply::TokenExpiring { channel: Some("vip:1"), expires_at: 9 }, None),
        r#"{"type":"token_expiring","data":{"channel":"vip:1","expires_at":9}}"#
    );
    let about = Some(About::Channel { channel: "news" });
    assert_eq!(
        reply(Reply::Error { error: RequestError::new(409, Text::Cancelled), about }, Some("1")),
        r#"{"type":"error","id":"1","code":409,"message":"cancelled","data":{"channel":"news"}}"#
    );
    let about = Some(About::Position(position));
    assert_eq!(
        reply(Reply::Error { error: RequestError::new(409, Text::EpochChanged), about }, Some("5")),
        r#"{"type":"error","id":"5","code":409,"message":"the channel's epoch has changed","data":{"channel":"news","epoch":"e","offset":45}}"#
    );
}

#[test]
fn pushes_about_channels_are_the_contracts() {
    for (reason, name) in [
        (GapReason::SlowConsumer, "slow_consumer"),
        (GapReason::Conflated, "conflated"),
        (GapReason::HistoryLost, "history_lost"),
        (GapReason::Engine, "engine"),
    ] {
        let gap = Gap { channel: "news", epoch: "e", from: 4, to: 7, reason };
        assert_eq!(
            written(|out| write_gap(out, &gap)),
            format!(r#"{{"type":"gap","data":{{"channel":"news","epoch":"e","from":4,"to":7,"reason":"{name}"}}}}"#)
        );
    }
    let told = |announcement| {
        let news = PresenceNews { channel: "news".into(), timestamp: 6, escape: true, announcement };
        written(|out| write_presence(out, &news, false, Language::En))
    };
    for (joined, kind) in [(true, "join"), (false, "leave")] {
        assert_eq!(
            told(Announcement::Event { joined, user: ann(), count: 2 }),
            format!(
                r#"{{"type":"{kind}","data":{{"channel":"news","user":{{"id":1,"username":"Ann"}},"count":2,"timestamp":6}}}}"#
            )
        );
    }
    let digest = |joined, left, truncated, reset| {
        told(Announcement::Digest(PresenceDigest { count: 2, joined, left, truncated, reset }))
    };
    assert_eq!(
        digest(vec![ann(), bo()], vec![], false, false),
        r#"{"type":"presence_digest","data":{"channel":"news","count":2,"joined":[{"id":1,"username":"Ann"},{"id":"b","username":"Bo"}],"left":[],"timestamp":6}}"#
    );
    assert_eq!(
        digest(vec![], vec![bo()], true, true),
        r#"{"type":"presence_digest","data":{"channel":"news","count":2,"joined":[],"left":[{"id":"b","username":"Bo"}],"truncated":true,"reset":true,"timestamp":6}}"#
    );
}
