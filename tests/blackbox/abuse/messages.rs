//! JSON that hurts who reads it carelessly: deep, huge, doubled, half a character. Each is `error` 400 or taken as it
//! is, and the connection goes on.

use serde_json::Value;

use super::{MIB, Scene, unlimited};
use crate::support::{Raw, frame};

/// Sends a request; returns the answer that isn't a push.
async fn ask(raw: &mut Raw, text: &str) -> Value {
    raw.write(&frame(true, 1, text.as_bytes())).await;
    loop {
        let frame = raw.frame().await.expect("an answer");
        // A push holds what was published, byte for byte: numbers that this reader has no room for, too.
        let is = |kind: &str| frame.payload.starts_with(format!("{{\"type\":\"{kind}\"").as_bytes());
        if !["message", "publication", "user_online", "user_offline"].into_iter().any(is) {
            return serde_json::from_slice(&frame.payload).expect("JSON");
        }
    }
}

async fn answers(raw: &mut Raw, text: &str, kind: &str, code: u16) -> Value {
    let value = ask(raw, text).await;
    let shown = &text[..text.len().min(100)];
    assert!(value["type"] == kind && value["code"] == code, "{shown}: {value} is not {kind} {code}");
    // It can still be talked to.
    let next = ask(raw, r#"{"type":"heartbeat","id":"h"}"#).await;
    assert!(next["type"] == "heartbeat" && next["id"] == "h", "{shown}: {next}");
    value
}

fn publish(data: &str) -> String {
    format!(r#"{{"type":"publish","id":"p","data":{{"channel":"news","data":{data}}}}}"#)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deep_huge_and_doubled_json_is_answered() {
    let scene = Scene::open(
        unlimited().env("URINGCAST_CHANNELS__PUBLISH", "members").env("URINGCAST_CHANNELS__HISTORY_SIZE", 0),
    )
    .await;
    let mut raw = scene.signed_in("mallory").await;
    answers(&mut raw, r#"{"type":"subscribe","id":"s","data":{"channel":"news"}}"#, "subscribed", 200).await;
    let nested = |depth: usize, open: &str, close: &str| open.repeat(depth) + "1" + &close.repeat(depth);
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        answers(&mut raw, &publish(&nested(60, open, close)), "ack", 200).await;
        for depth in [65, 1_000, 100_000] {
            answers(&mut raw, &publish(&nested(depth, open, close)), "error", 400).await;
            answers(&mut raw, &nested(depth, open, close), "error", 400).await;
            answers(&mut raw, &open.repeat(depth), "error", 400).await;
        }
    }
    // Numbers are passed on and never computed with …
    let digits = "9".repeat(100_000);
    for number in ["1e400", "-1e-400", "1e999999999999", "123456789012345678901234567890", &digits] {
        answers(&mut raw, &publish(number), "ack", 200).await;
    }
    // … and where one is needed it has to be one.
    for number in ["1e400", "-1", "99999999999999999999999999", "1.5", &digits] {
        let text = format!(r#"{{"type":"history","id":"h","data":{{"channel":"news","limit":{number}}}}}"#);
        answers(&mut raw, &text, "error", 400).await;
    }
    for number in ["01", "+1", ".5", "1.", "0x10", "NaN", "Infinity", "1e", "--1"] {
        answers(&mut raw, &publish(number), "error", 400).await;
    }
    for lone in [r#""\ud800""#, r#""\udc00""#, r#""\ud800\ud800""#, r#""\udc00\ud800""#, r#"{"\ud800":1}"#, r#""\u12""#]
    {
        answers(&mut raw, &publish(lone), "error", 400).await;
        answers(&mut raw, &format!(r#"{{"type":"message","data":{{"text":{lone}}}}}"#), "error", 400).await;
    }
    answers(&mut raw, &publish(r#""\ud83d\ude00""#), "ack", 200).await;
    // In what is passed on a key may come twice; of what the server itself reads the last one counts, as in JavaScript,
    // so that no two readers differ.
    answers(&mut raw, &publish(r#"{"a":1,"a":2}"#), "ack", 200).await;
    answers(&mut raw, r#"{"type":"heartbeat","type":"auth"}"#, "error", 409).await;
    let heartbeat = answers(&mut raw, r#"{"type":"heartbeat","id":"1","id":"2"}"#, "heartbeat", 200).await;
    assert_eq!(heartbeat["id"], "2");
    for (doubled, channel) in [
        (r#"{"type":"subscribe","data":{"channel":"news"},"data":{"channel":"second"}}"#, "second"),
        (r#"{"type":"subscribe","data":{"channel":"news","channel":"third"}}"#, "third"),
        (r#"{"type":"subscribe","data":{"channel":"news","\u0063hannel":"fourth"}}"#, "fourth"),
    ] {
        assert_eq!(answers(&mut raw, doubled, "subscribed", 200).await["data"]["channel"], channel);
    }
    let key = "k".repeat(100_000);
    answers(&mut raw, &format!(r#"{{"type":"{key}"}}"#), "error", 400).await;
    answers(&mut raw, &format!(r#"{{"type":"heartbeat","id":"{key}"}}"#), "error", 400).await;
    answers(&mut raw, &format!(r#"{{"type":"subscribe","data":{{"channel":"{key}"}}}}"#), "error", 400).await;
    let many: String = (0..20_000).map(|n| format!("\"k{n}\":{n},")).collect();
    answers(&mut raw, &publish(&format!("{{{many}\"end\":0}}")), "ack", 200).await;
    drop(raw);
    // Beside what comes back within the common bound, a page or two of each size that the messages took.
    scene.over_but_for(32 * MIB, 5 * MIB).await;
}
