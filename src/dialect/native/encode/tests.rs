//! Every message that the server sends, letter by letter as the contract has it.
//! Unit tests: the property tests over the same code stand in tests/.

use super::*;

fn reply(reply: Reply<'_>, id: Option<&str>) -> String {
    let mut out = Vec::new();
    reply.encode(&mut out, id, Language::En);
    payload(&out)
}

fn payload(frame: &[u8]) -> String {
    assert_eq!(frame[0], 0x81);
    let skip = if frame[1] < 126 { 2 } else { 4 };
    String::from_utf8(frame[skip..].to_vec()).expect("text")
}

fn raw(json: &str) -> Box<RawValue> {
    RawValue::from_string(json.to_owned()).expect("JSON")
}

#[test]
fn shapes_are_the_contracts() {
    let user = raw(r#"{"id":1,"username":"Ann"}"#);
    let lobby = Position { channel: "lobby", epoch: "e", offset: 4 };
    assert_eq!(
        reply(Reply::System { connection_id: "c", timestamp: 5 }, None),
        r#"{"type":"system","code":200,"message":"connected, please authenticate","data":{"connection_id":"c","timestamp":5}}"#
    );
    assert_eq!(
        reply(
            Reply::AuthSuccess {
                user: &user,
                expires_at: Some(9),
                online_count: Some(2),
                lobby: Some(lobby),
                recovery: None
            },
            None
        ),
        r#"{"type":"auth_success","code":200,"message":"authenticated","data":{"user":{"id":1,"username":"Ann"},"expires_at":9,"online_count":2,"lobby":{"channel":"lobby","epoch":"e","offset":4}}}"#
    );
    let outside = Reply::AuthSuccess { user: &user, expires_at: None, online_count: None, lobby: None, recovery: None };
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
    let members = [Member { user: &user, connections: 3 }];
    assert_eq!(
        reply(Reply::Users { count: 7, members: &members, cursor: Some("x") }, Some("1")),
        r#"{"type":"users","id":"1","code":200,"data":{"count":7,"members":[{"user":{"id":1,"username":"Ann"},"connections":3}],"cursor":"x"}}"#
    );
    assert_eq!(
        reply(Reply::Ack { position: lobby, duplicate: false }, Some("4")),
        r#"{"type":"ack","id":"4","code":200,"data":{"channel":"lobby","epoch":"e","offset":4}}"#
    );
    assert_eq!(
        reply(Reply::Error { code: 401, text: Text::AuthFirst, about: None }, None),
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
    let user = raw(r#"{"id":"b","username":"Bo"}"#);
    let mut out = Vec::new();
    let position = Position { channel: "lobby", epoch: "e", offset: 4 };
    Message { position, sender: Some(&user), text: "a\"b", timestamp: 6 }.encode(&mut out);
    assert_eq!(
        payload(&out),
        r#"{"type":"message","code":200,"data":{"id":"e-4","channel":"lobby","offset":4,"sender":{"id":"b","username":"Bo"},"text":"a\"b","timestamp":6}}"#
    );
    out.clear();
    PresenceChange { online: false, user: &user, online_count: 1, timestamp: 6 }.encode(&mut out, Language::Zh);
    assert_eq!(
        payload(&out),
        r#"{"type":"user_offline","code":200,"message":"用户下线","data":{"user":{"id":"b","username":"Bo"},"online_count":1,"timestamp":6}}"#
    );
}

/// The whole frame, and what its fields are.
fn encoded(encode: impl FnOnce(&mut Vec<u8>) -> std::ops::Range<usize>) -> (String, Vec<u8>) {
    // Not at the start of the buffer: ranges count from the start of the frame.
    let mut out = b"before".to_vec();
    let range = encode(&mut out);
    let frame = out.split_off("before".len());
    (payload(&frame), frame[range].to_vec())
}

#[test]
fn a_publication_is_the_contracts() {
    let user = raw(r#"{"id":1,"username":"Ann"}"#);
    let least = Publication { channel: "news", offset: 45, data: b"1.0", key: None, sender: None, timestamp: 6 };
    let (push, fields) = encoded(|out| least.encode(out));
    assert_eq!(push, r#"{"type":"publication","data":{"channel":"news","offset":45,"data":1.0,"timestamp":6}}"#);
    assert_eq!(fields, br#""channel":"news","offset":45,"data":1.0,"timestamp":6"#);

    let data = br#"{ "b":123456789012345678901234567890, "a":"\u00e9\/" }"#;
    let most = Publication { data, key: Some("A\"L"), sender: Some(&user), ..least };
    let (push, fields) = encoded(|out| most.encode(out));
    assert_eq!(
        push,
        r#"{"type":"publication","data":{"channel":"news","offset":45,"data":{ "b":123456789012345678901234567890, "a":"\u00e9\/" },"key":"A\"L","sender":{"id":1,"username":"Ann"},"timestamp":6}}"#
    );
    assert_eq!(push, format!(r#"{{"type":"publication","data":{{{}}}}}"#, String::from_utf8_lossy(&fields)));
}

#[test]
fn fields_are_found_behind_headers_of_every_length() {
    let user = raw("{}");
    for len in [0, 20, 60, 80, 126, 1000, 65_400, 65_535, 70_000] {
        let data = format!("\"{}\"", "x".repeat(len));
        let publication =
            Publication { channel: "c", offset: 1, data: data.as_bytes(), key: None, sender: None, timestamp: 2 };
        let mut out = b"before".to_vec();
        let range = publication.encode(&mut out);
        let fields = &out["before".len()..][range];
        assert_eq!(fields, format!(r#""channel":"c","offset":1,"data":{data},"timestamp":2"#).as_bytes(), "{len}");

        let position = Position { channel: "c", epoch: "e", offset: 1 };
        let message = Message { position, sender: Some(&user), text: &data[1..=len], timestamp: 2 };
        let mut out = b"before".to_vec();
        let range = message.encode(&mut out);
        let fields = &out["before".len()..][range];
        let expected = format!(r#""id":"e-1","channel":"c","offset":1,"sender":{{}},"text":{data},"timestamp":2"#);
        assert_eq!(fields, expected.as_bytes(), "{len}");
    }
}

#[test]
fn answers_hold_the_pushes_fields_and_type() {
    let user = raw(r#"{"id":1,"username":"Ann"}"#);
    let position = Position { channel: "news", epoch: "e\"", offset: 44 };
    let publication = Publication { channel: "news", offset: 43, data: b"[1]", key: None, sender: None, timestamp: 6 };
    let (_, first) = encoded(|out| publication.encode(out));
    let message = Message { position, sender: Some(&user), text: "hi", timestamp: 7 };
    let (_, second) = encoded(|out| message.encode(out));
    let publications =
        [Element { kind: Kind::Publication, fields: &first }, Element { kind: Kind::Message, fields: &second }];
    let array = r#"[{"type":"publication","channel":"news","offset":43,"data":[1],"timestamp":6},{"type":"message","id":"e\"-44","channel":"news","offset":44,"sender":{"id":1,"username":"Ann"},"text":"hi","timestamp":7}]"#;
    // Brackets and a comma less.
    assert_eq!(publications.iter().map(Element::encoded_len).sum::<usize>(), array.len() - 1);

    let subscribed =
        |recovery| reply(Reply::Subscribed { position, recovery, overflow: "disconnect", expires_at: None }, Some("1"));
    assert_eq!(
        subscribed(None),
        r#"{"type":"subscribed","id":"1","code":200,"data":{"channel":"news","epoch":"e\"","offset":44,"overflow":"disconnect"}}"#
    );
    assert_eq!(
        subscribed(Some(Recovery { recovered: false, publications: &[] })),
        r#"{"type":"subscribed","id":"1","code":200,"data":{"channel":"news","epoch":"e\"","offset":44,"recovered":false,"publications":[],"overflow":"disconnect"}}"#
    );
    assert_eq!(
        subscribed(Some(Recovery { recovered: true, publications: &publications })),
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
    let recovery = Some(Recovery { recovered: true, publications: &publications });
    assert_eq!(
        reply(
            Reply::AuthSuccess {
                user: &user,
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
    let user = raw(r#"{"id":1,"username":"Ann"}"#);
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
    let members = [Member { user: &user, connections: 3 }];
    assert_eq!(
        reply(Reply::Presence { channel: "news", count: 7, members: &members, cursor: Some("x") }, Some("6")),
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
        reply(Reply::Error { code: 409, text: Text::Cancelled, about }, Some("1")),
        r#"{"type":"error","id":"1","code":409,"message":"cancelled","data":{"channel":"news"}}"#
    );
    let about = Some(About::Position(position));
    assert_eq!(
        reply(Reply::Error { code: 409, text: Text::EpochChanged, about }, Some("5")),
        r#"{"type":"error","id":"5","code":409,"message":"the channel's epoch has changed","data":{"channel":"news","epoch":"e","offset":45}}"#
    );
}

#[test]
fn pushes_about_channels_are_the_contracts() {
    let ann = raw(r#"{"id":1,"username":"Ann"}"#);
    let bo = raw(r#"{"id":"b","username":"Bo"}"#);
    let push = |push: Push<'_>| {
        let mut out = Vec::new();
        push.encode(&mut out);
        payload(&out)
    };
    for (reason, name) in [
        (GapReason::SlowConsumer, "slow_consumer"),
        (GapReason::Conflated, "conflated"),
        (GapReason::HistoryLost, "history_lost"),
        (GapReason::Engine, "engine"),
    ] {
        assert_eq!(
            push(Push::Gap { channel: "news", epoch: "e", from: 4, to: 7, reason }),
            format!(r#"{{"type":"gap","data":{{"channel":"news","epoch":"e","from":4,"to":7,"reason":"{name}"}}}}"#)
        );
    }
    for (joined, kind) in [(true, "join"), (false, "leave")] {
        assert_eq!(
            push(Push::JoinLeave { joined, channel: "news", user: &ann, count: 2, timestamp: 6 }),
            format!(
                r#"{{"type":"{kind}","data":{{"channel":"news","user":{{"id":1,"username":"Ann"}},"count":2,"timestamp":6}}}}"#
            )
        );
    }
    let digest = |joined: &[&RawValue], left: &[&RawValue], truncated, reset| {
        push(Push::PresenceDigest { channel: "news", count: 2, joined, left, truncated, reset, timestamp: 6 })
    };
    assert_eq!(
        digest(&[&ann, &bo], &[], false, false),
        r#"{"type":"presence_digest","data":{"channel":"news","count":2,"joined":[{"id":1,"username":"Ann"},{"id":"b","username":"Bo"}],"left":[],"timestamp":6}}"#
    );
    assert_eq!(
        digest(&[], &[&bo], true, true),
        r#"{"type":"presence_digest","data":{"channel":"news","count":2,"joined":[],"left":[{"id":"b","username":"Bo"}],"truncated":true,"reset":true,"timestamp":6}}"#
    );
}
