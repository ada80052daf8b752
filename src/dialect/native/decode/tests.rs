//! Envelopes from clients: every command, every refusal, and what stays in the decoder.
//! Unit tests: the property tests over the same code stand in tests/.

use super::*;
use crate::model::command::{
    Command, MAX_AUTH_CHANNELS, MAX_EPOCH_BYTES, MAX_IDEMPOTENCY_KEY_BYTES, MAX_KEY_BYTES, MAX_REQUEST_ID_BYTES,
};

fn decode(text: &str) -> Result<String, String> {
    let mut decoder = EnvelopeDecoder::default();
    // Twice: the second pass runs on reused buffers.
    let _ = decoder.decode(br#"{"type":"users","id":"warm","data":{"limit":7,"x":[1,{"y":[2]}]}}"#);
    let out = decoder.decode(text.as_bytes());
    out.map(|r| format!("{:?} {:?}", r.id, r.command)).map_err(|r| format!("{:?} {:?}", r.id, r.text))
}

#[test]
fn reads_the_tutorials_messages() {
    assert_eq!(
        decode(r#"{"type":"auth","data":{"token":"a.b.c"}}"#),
        Ok(r#"None Auth { token: Some("a.b.c"), ping: false, lobby: true, recover: None, channels: [] }"#.into())
    );
    assert_eq!(
        decode(r#"{"type":"message","data":{"text":"h\u00e9 \"x\""}}"#),
        Ok(r#"None Message { text: Some("hé \"x\""), channel: None, idempotency_key: None }"#.into())
    );
    assert_eq!(decode(r#"{"type":"heartbeat"}"#), Ok("None Heartbeat".into()));
    assert_eq!(decode(r#"{"data":null,"type":"heartbeat","id":"z"}"#), Ok(r#"Some("z") Heartbeat"#.into()));
}

#[test]
fn unknown_fields_are_skipped_whatever_their_shape() {
    assert_eq!(
        decode(r#"{"a":[[1,{"b":2}],{}],"id":"1","data":{"x":{"limit":9},"limit":3,"cursor":"c"},"type":"users"}"#),
        Ok(r#"Some("1") Users { cursor: Some("c"), limit: Some(3) }"#.into())
    );
}

#[test]
fn of_a_key_given_twice_the_last_counts() {
    assert_eq!(
        decode(r#"{"type":"message","data":{"text":"a","text":"b"}}"#),
        Ok(r#"None Message { text: Some("b"), channel: None, idempotency_key: None }"#.into())
    );
}

#[test]
fn a_missing_or_empty_token_is_missing() {
    for text in [r#"{"type":"auth"}"#, r#"{"type":"auth","data":{"token":""}}"#, r#"{"type":"auth","data":{}}"#] {
        assert_eq!(
            decode(text),
            Ok("None Auth { token: None, ping: false, lobby: true, recover: None, channels: [] }".into()),
            "{text}"
        );
    }
}

#[test]
fn malformed_is_malformed() {
    for text in [
        "",
        "{",
        "hello",
        "[]",
        "1",
        "null",
        r#""x""#,
        "{}",
        r#"{"type":1}"#,
        r#"{"type":"message","data":[]}"#,
        r#"{"type":"message","data":{"text":5}}"#,
        r#"{"type":"heartbeat"} x"#,
    ] {
        assert_eq!(decode(text), Err("None Malformed".into()), "{text}");
    }
    assert_eq!(decode(r#"{"type":"users","id":"9","data":{"limit":0}}"#), Err(r#"Some("9") Malformed"#.into()));
    assert_eq!(decode(r#"{"type":"users","id":"9","data":{"limit":1.5}}"#), Err(r#"Some("9") Malformed"#.into()));
    assert_eq!(decode(r#"{"type":"nope","id":"9"}"#), Err(r#"Some("9") UnknownType"#.into()));
    assert_eq!(decode(r#"{"type":"heartbeat","id":5}"#), Err("None Malformed".into()));
    let long = format!(r#"{{"type":"heartbeat","id":"{}"}}"#, "i".repeat(MAX_REQUEST_ID_BYTES + 1));
    assert_eq!(decode(&long), Err("None Malformed".into()));
}

#[test]
fn depth_is_bounded() {
    let nested = |n: usize| format!(r#"{{"type":"heartbeat","x":{}{}}}"#, "[".repeat(n), "]".repeat(n));
    assert!(decode(&nested(MAX_DEPTH - 2)).is_ok());
    assert_eq!(decode(&nested(MAX_DEPTH + 1)), Err("None Malformed".into()));
    assert_eq!(decode(&nested(100_000)), Err("None Malformed".into()));
}

#[test]
fn a_large_message_gives_its_memory_back() {
    let text = "x".repeat(500_000);
    for big in [
        format!(r#"{{"type":"message","data":{{"text":"{text}"}}}}"#),
        format!(r#"{{"type":"heartbeat","x":"{text}","y":1e999}}"#),
        // Short, and all structure: every byte of it is a node of the tape.
        "[".repeat(100_000),
        format!(r#"{{"type":"heartbeat","x":[{}0]}}"#, "1,".repeat(50_000)),
        // Refused before there is a tape.
        format!("{}\"\u{1}\"", "{}".repeat(100_000)),
    ] {
        let mut decoder = EnvelopeDecoder::default();
        let _ = decoder.decode(big.as_bytes());
        let needed = decoder.held_bytes();
        assert!(needed > KEEP_BYTES, "{needed}");
        assert!(decoder.trim());
        assert!(decoder.held_bytes() < 1_024, "{} of {needed}", decoder.held_bytes());
        assert!(decoder.decode(br#"{"type":"heartbeat"}"#).is_ok());
    }
}

#[test]
fn a_message_of_common_size_leaves_the_buffers_to_the_next() {
    let mut decoder = EnvelopeDecoder::default();
    let common = format!(r#"{{"type":"message","data":{{"text":"{}"}}}}"#, "x".repeat(60_000));
    assert!(decoder.decode(common.as_bytes()).is_ok());
    assert!(!decoder.trim());
    assert!(decoder.scratch.capacity() >= common.len());
}

/// Decodes a message of this type with this `data`, under the id "1".
fn command(kind: &str, data: &str) -> Result<String, Text> {
    let mut decoder = EnvelopeDecoder::default();
    let text = format!(r#"{{"type":"{kind}","id":"1","data":{data}}}"#);
    match decoder.decode(text.as_bytes()) {
        Ok(Request { id, command }) => {
            assert_eq!(id, Some("1"));
            Ok(format!("{command:?}"))
        }
        Err(Rejected { id, text }) => {
            assert_eq!(id, Some("1"), "{data}");
            Err(text)
        }
    }
}

/// The data of a publish, as text.
fn published(data: &str) -> Option<String> {
    let mut decoder = EnvelopeDecoder::default();
    let text = format!(r#"{{"type":"publish","id":"1","data":{data}}}"#);
    match decoder.decode(text.as_bytes()) {
        Ok(Request { command: Command::Publish { data, .. }, .. }) => Some(String::from_utf8_lossy(data).into_owned()),
        Err(_) => None,
        Ok(other) => panic!("{other:?}"),
    }
}

#[test]
fn reads_the_channels_commands() {
    for (kind, data, expected) in [
        (
            "subscribe",
            r#"{"channel":"a:b"}"#,
            r#"Subscribe(SubscribeTo { channel: "a:b", token: None, recover: None })"#,
        ),
        (
            "subscribe",
            r#"{"channel":"news","token":"t","recover":{"epoch":"e","offset":18446744073709551615}}"#,
            r#"Subscribe(SubscribeTo { channel: "news", token: Some("t"), recover: Some(SinceRef { epoch: "e", offset: 18446744073709551615 }) })"#,
        ),
        (
            "subscribe",
            r#"{"channel":"news","token":null,"recover":null}"#,
            r#"Subscribe(SubscribeTo { channel: "news", token: None, recover: None })"#,
        ),
        ("unsubscribe", r#"{"channel":"news"}"#, r#"Unsubscribe { channel: "news" }"#),
        (
            "message",
            r#"{"text":"hi","channel":"news","idempotency_key":"k"}"#,
            r#"Message { text: Some("hi"), channel: Some("news"), idempotency_key: Some("k") }"#,
        ),
        (
            "publish",
            r#"{"channel":"news","data":1,"key":"k","idempotency_key":"i","epoch":"e"}"#,
            r#"Publish { channel: "news", data: [49], key: Some("k"), idempotency_key: Some("i"), epoch: Some("e") }"#,
        ),
        (
            "publish",
            r#"{"channel":"news","data":null,"key":"","idempotency_key":null,"epoch":null}"#,
            r#"Publish { channel: "news", data: [110, 117, 108, 108], key: Some(""), idempotency_key: None, epoch: None }"#,
        ),
        (
            "history",
            r#"{"channel":"news"}"#,
            r#"History { channel: "news", since: None, limit: None, reverse: false }"#,
        ),
        (
            "history",
            r#"{"channel":"news","since":{"epoch":"","offset":-0},"limit":9,"reverse":true}"#,
            r#"History { channel: "news", since: Some(SinceRef { epoch: "", offset: 0 }), limit: Some(9), reverse: true }"#,
        ),
        (
            "presence",
            r#"{"channel":"news","cursor":"c","limit":99999999999}"#,
            r#"Presence { channel: "news", cursor: Some("c"), limit: Some(4294967295) }"#,
        ),
        ("refresh", r#"{"token":"t"}"#, r#"Refresh { token: "t", channel: None }"#),
        ("refresh", r#"{"token":"t","channel":"a:b"}"#, r#"Refresh { token: "t", channel: Some("a:b") }"#),
        (
            "auth",
            r#"{"token":"t","ping":true,"recover":{"epoch":"e","offset":1},"channels":[{"channel":"a","x":[{}]},{"channel":"b","recover":{"epoch":"f","offset":2}}]}"#,
            r#"Auth { token: Some("t"), ping: true, lobby: true, recover: Some(SinceRef { epoch: "e", offset: 1 }), channels: [SubscribeTo { channel: "a", token: None, recover: None }, SubscribeTo { channel: "b", token: None, recover: Some(SinceRef { epoch: "f", offset: 2 }) }] }"#,
        ),
    ] {
        assert_eq!(command(kind, data).as_deref(), Ok(expected), "{kind} {data}");
    }
}

#[test]
fn fields_of_the_wrong_type_or_length_are_malformed() {
    let long = |bytes: usize| "k".repeat(bytes);
    let of_channels = |n: usize| format!(r#"{{"channels":[{}]}}"#, vec![r#"{"channel":"a"}"#; n].join(","));
    assert!(command("auth", &of_channels(MAX_AUTH_CHANNELS)).is_ok());
    for (kind, data) in [
        ("subscribe", "{}".to_owned()),
        ("subscribe", "null".into()),
        ("subscribe", r#"{"channel":null}"#.into()),
        ("subscribe", r#"{"channel":1}"#.into()),
        ("subscribe", r#"{"channel":"a","token":1}"#.into()),
        ("subscribe", r#"{"channel":"a","recover":[]}"#.into()),
        ("subscribe", r#"{"channel":"a","recover":{"epoch":"e"}}"#.into()),
        ("subscribe", r#"{"channel":"a","recover":{"offset":1}}"#.into()),
        ("subscribe", r#"{"channel":"a","recover":{"epoch":1,"offset":1}}"#.into()),
        ("subscribe", r#"{"channel":"a","recover":{"epoch":"e","offset":-1}}"#.into()),
        ("subscribe", r#"{"channel":"a","recover":{"epoch":"e","offset":1.0}}"#.into()),
        ("subscribe", r#"{"channel":"a","recover":{"epoch":"e","offset":"1"}}"#.into()),
        ("subscribe", r#"{"channel":"a","recover":{"epoch":"e","offset":18446744073709551616}}"#.into()),
        ("subscribe", format!(r#"{{"channel":"a","recover":{{"epoch":"{}","offset":1}}}}"#, long(MAX_EPOCH_BYTES + 1))),
        ("unsubscribe", "{}".into()),
        ("publish", r#"{"channel":"a"}"#.into()),
        ("publish", r#"{"data":1}"#.into()),
        ("publish", "null".into()),
        ("publish", r#"{"channel":"a","data":1,"key":2}"#.into()),
        ("publish", r#"{"channel":"a","data":1,"idempotency_key":""}"#.into()),
        ("publish", r#"{"channel":"a","data":1,"idempotency_key":7}"#.into()),
        ("publish", r#"{"channel":"a","data":1,"epoch":7}"#.into()),
        ("publish", format!(r#"{{"channel":"a","data":1,"key":"{}"}}"#, long(MAX_KEY_BYTES + 1))),
        ("publish", format!(r#"{{"channel":"a","data":1,"epoch":"{}"}}"#, long(MAX_EPOCH_BYTES + 1))),
        (
            "publish",
            format!(r#"{{"channel":"a","data":1,"idempotency_key":"{}"}}"#, long(MAX_IDEMPOTENCY_KEY_BYTES + 1)),
        ),
        ("message", r#"{"text":"a","idempotency_key":""}"#.into()),
        ("history", r#"{"channel":"a","reverse":1}"#.into()),
        ("history", r#"{"channel":"a","limit":0}"#.into()),
        ("history", r#"{"channel":"a","since":{}}"#.into()),
        ("presence", r#"{"channel":"a","cursor":1}"#.into()),
        ("refresh", r#"{"token":1}"#.into()),
        ("auth", r#"{"token":"t","ping":1}"#.into()),
        ("auth", r#"{"token":"t","channels":{}}"#.into()),
        ("auth", r#"{"token":"t","channels":["a"]}"#.into()),
        ("auth", r#"{"token":"t","channels":[{"channel":"a"},{}]}"#.into()),
        ("auth", r#"{"token":"t","recover":{}}"#.into()),
        ("auth", of_channels(MAX_AUTH_CHANNELS + 1)),
    ] {
        assert_eq!(command(kind, &data), Err(Text::Malformed), "{kind} {data}");
    }
    assert_eq!(command("refresh", "{}"), Err(Text::TokenMissing));
    assert_eq!(command("refresh", r#"{"token":""}"#), Err(Text::TokenMissing));
    assert!(command("publish", &format!(r#"{{"channel":"a","data":1,"key":"{}"}}"#, long(MAX_KEY_BYTES))).is_ok());
}

#[test]
fn channels_have_names() {
    for (kind, data) in [
        ("subscribe", r#"{"channel":""}"#),
        ("subscribe", r#"{"channel":"a b"}"#),
        ("unsubscribe", r#"{"channel":":a"}"#),
        ("publish", r#"{"channel":"a:","data":1}"#),
        ("message", r#"{"text":"a","channel":"é"}"#),
        ("history", r#"{"channel":"a\u0000"}"#),
        ("presence", r#"{"channel":"*"}"#),
    ] {
        assert_eq!(command(kind, data), Err(Text::BadChannel), "{kind} {data}");
    }
}

#[test]
fn published_data_is_the_clients_own_bytes() {
    for value in [
        "0",
        "-0.0",
        "1.0",
        "true",
        "false",
        "null",
        r#""""#,
        r#""\u00e9\/ \" ] } , :""#,
        r#""\ud83d\ude00""#,
        "[]",
        "{}",
        "[ ]",
        "{\n}",
        "[[],[{}],{\"a\":[]}]",
        "{\"z\" : 1 ,\t\"a\":[ 1 , 2,3 ] ,\r\n \"z\":{ } }",
        "12345678901234567890123456789012345678901234567890",
        "-9223372036854775809",
        "[1e999,-1E+400,18446744073709551616,1e-999,{\"n\":0.1234567890123456789012345678901234567890e5000}]",
    ] {
        for space in ["", " ", "\r\n\t "] {
            for (before, after) in [
                ("", ""),
                (r#""x":[1,{"data":[2]},"]"],"#, r#","y":{"data":3}"#),
                (r#""data":{"old":[1,2]},"#, ""),
                (r#""d\u0061ta":7,"#, ""),
            ] {
                let data = format!(r#"{{"channel":"a",{before}"data"{space}:{space}{value}{space}{after}}}"#);
                assert_eq!(published(&data).as_deref(), Some(value), "{data}");
            }
        }
    }
    assert_eq!(published(r#"{"channel":"a","data":1,"\u0064ata":[2]}"#).as_deref(), Some("[2]"), "the last one counts");
}

#[test]
fn of_an_envelopes_fields_given_twice_the_last_counts_too() {
    assert_eq!(
        decode(r#"{"data":5,"type":"users","type":"unsubscribe","id":7,"id":"9","data":{"channel":"a"},"x":1e999}"#),
        Ok(r#"Some("9") Unsubscribe { channel: "a" }"#.into())
    );
    assert_eq!(decode(r#"{"type":"heartbeat","data":{},"data":5,"id":"9"}"#), Err(r#"Some("9") Malformed"#.into()));
}

#[test]
fn numbers_too_big_for_a_word_are_still_not_counts() {
    let big = "18446744073709551616";
    assert_eq!(command("history", &format!(r#"{{"channel":"a","limit":{big}}}"#)), Err(Text::Malformed));
    assert_eq!(
        command("history", &format!(r#"{{"channel":"a","limit":5,"x":{big}}}"#)).as_deref(),
        Ok(r#"History { channel: "a", since: None, limit: Some(5), reverse: false }"#)
    );
    for bad in ["1e999x", "01e999", "1e999.5", "-", "1e", "00000000000000000000000000", "1e999 5"] {
        assert_eq!(published(&format!(r#"{{"channel":"a","data":{bad}}}"#)), None, "{bad}");
    }
}

#[test]
fn lone_surrogates_are_malformed_wherever_they_stand() {
    for lone in [r"\ud800", r"\udc00", r"\ud800x", r"\ud800\ud800", r"\ud800\n", r"\udc00\ud800", r"\uDBFF\u0041"] {
        for text in [
            format!(r#"{{"type":"publish","data":{{"channel":"a","data":"{lone}"}}}}"#),
            format!(r#"{{"type":"publish","data":{{"channel":"a","data":[{{"{lone}":1}}]}}}}"#),
            format!(r#"{{"type":"message","data":{{"text":"{lone}"}}}}"#),
            format!(r#"{{"type":"heartbeat","{lone}":1}}"#),
            format!(r#"{{"type":"heartbeat","x":"{}{lone}"}}"#, "long ".repeat(20)),
        ] {
            assert_eq!(decode(&text), Err("None Malformed".into()), "{text}");
        }
    }
}

#[test]
fn published_data_counts_towards_the_depth() {
    let nested = |n: usize| format!(r#"{{"channel":"a","data":{}1{}}}"#, "[".repeat(n), "]".repeat(n));
    assert!(published(&nested(MAX_DEPTH - 2)).is_some());
    assert!(published(&nested(MAX_DEPTH - 1)).is_none());
    // A number that has to be clipped first changes nothing.
    assert!(published(&nested(MAX_DEPTH - 2).replace('1', "1e999")).is_some());
    assert!(published(&nested(MAX_DEPTH - 1).replace('1', "1e999")).is_none());
}
