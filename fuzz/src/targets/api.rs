//! A connection of the backend's API: heads, bodies by length and by chunks, requests behind each other, publications.
//! Input: the length of the pieces in which the stream arrives less one, how often bytes are held back, the stream.

use std::sync::Arc;

use uringcast::api::ApiSettings;
use uringcast::api::answers::{ApiAnswer, ApiWriter};
use uringcast::api::calls::{ApiCall, ApiRequest};
use uringcast::api::connection::{ApiConnection, ApiPhase, ApiStep};
use uringcast::api::rules::ApiRules;
use uringcast::model::namespace::{Namespace, Namespaces};
use uringcast::model::parcel::Ask;
use uringcast::model::publication::Content;

use crate::dice::Dice;

const KEY: &str = "a-key-of-the-fuzz-target";

fn rules() -> ApiRules {
    let plain = Namespace::plain;
    let namespaces = Namespaces::new(plain("lobby"), plain(""), [plain("chat")]);
    ApiRules::new(ApiSettings::of_keys(&[KEY], Arc::new(namespaces), 1_024))
}

/// What a stream came to: the requests in words, and what the connection waits for then.
type Seen = (Vec<String>, ApiPhase);

fn read(stream: &[u8], piece: usize, hold_every: usize) -> Seen {
    let (mut connection, rules, mut writer) = (ApiConnection::default(), rules(), ApiWriter::default());
    let mut seen = Vec::new();
    for mut input in stream.chunks(piece) {
        loop {
            match connection.next(&mut input, &rules) {
                ApiStep::More => break,
                // Whether it is needed depends on what has arrived.
                ApiStep::Continue => {}
                ApiStep::Request(request) => {
                    assert_eq!(request.reply.is_last(), connection.phase() == ApiPhase::Over);
                    seen.push(format!("{request:?}"));
                    answer(request, &rules, &mut writer);
                }
            }
            if hold_every > 0 && seen.len().is_multiple_of(hold_every) {
                connection.hold(input);
                input = &[];
            }
        }
        assert!(input.is_empty(), "bytes were left");
    }
    let phase = connection.phase();
    assert!(matches!(phase, ApiPhase::Head | ApiPhase::Body) || connection.held_bytes() == 0, "held in {phase:?}");
    (seen, phase)
}

/// Answers a request as an owner would, and looks at what was taken.
fn answer(request: ApiRequest, rules: &ApiRules, writer: &mut ApiWriter) {
    let ApiRequest { call, reply, has_key } = request;
    let answer = match call {
        ApiCall::Refused(error) => ApiAnswer::Refused(error),
        ApiCall::Bare(bare) => ApiAnswer::Bare(bare),
        ApiCall::Health | ApiCall::Slow(_) => ApiAnswer::Health { connections: 1, shards: 1, is_draining: false },
        ApiCall::Ask(ask) => {
            assert!(has_key, "an ask without a key");
            if let Ask::Publish(publish) = &ask.ask {
                publication(&publish.content);
            }
            ApiAnswer::Health { connections: 1, shards: 1, is_draining: false }
        }
        ApiCall::Many(mut many) => {
            assert!(has_key, "publications without a key");
            while let Some((index, publish)) = many.next(rules) {
                publication(&publish.content);
                let placed =
                    uringcast::model::position::Placed { channel: publish.channel, epoch: "e".into(), offset: 1 };
                many.put(index, Ok((placed, false)));
            }
            ApiAnswer::Many(many)
        }
    };
    let mut out = Vec::new();
    let status = writer.write(&mut out, &reply, answer, 1_795_690_800_000).status;
    let text = std::str::from_utf8(&out).expect("a response is text");
    let (head, body) = text.split_once("\r\n\r\n").expect("a head");
    assert!(
        head.starts_with(&format!("HTTP/1.1 {status} ")) || head.starts_with(&format!("HTTP/1.0 {status} ")),
        "{head}"
    );
    assert!(head.split("\r\n").skip(1).all(|line| line.contains(": ") && !line.contains(['\r', '\n'])), "{head}");
    if !body.is_empty() {
        assert!(head.contains(&format!("\r\nContent-Length: {}\r\n", body.len())), "{head}");
        for line in body.lines() {
            serde_json::from_str::<serde::de::IgnoredAny>(line).expect("a body is JSON");
        }
    }
}

/// Whatever is passed on is JSON that a strict parser takes.
fn publication(content: &Content) {
    if let Content::Json(json) = content {
        serde_json::from_slice::<&serde_json::value::RawValue>(json).expect("data is JSON");
        let text = std::str::from_utf8(json).expect("data is UTF-8");
        assert_eq!(text.trim_matches([' ', '\t', '\r', '\n']), text, "white space around data");
    }
}

/// How a stream is cut changes nothing. Where each request begins is where a naive reader finds it.
pub fn run(bytes: &[u8]) {
    let [piece, hold_every, stream @ ..] = bytes else { return };
    let whole = read(stream, stream.len().max(1), 0);
    assert_eq!(read(stream, usize::from(*piece) + 1, 0), whole, "in pieces of {}", usize::from(*piece) + 1);
    let hold_every = usize::from(hold_every % 4);
    assert_eq!(read(stream, stream.len().max(1), hold_every), whole, "held after each {hold_every}");
    let mut rest = Some(stream);
    for request in &whole.0 {
        let read = rest.map(naive_head);
        let is_last = request.contains("is_last: true");
        let Some(Some((method, behind))) = read else {
            assert!(is_last, "a request that a naive reader does not see: {request}");
            return;
        };
        let known = ["Get", "Head", "Post", "Options"].into_iter().find(|name| name.to_uppercase() == method);
        let read = format!("method: {}", known.unwrap_or("Other"));
        assert!(is_last || request.contains(&read), "{method} was read as {request}");
        rest = behind;
    }
}

/// The method of the first request, and what follows the request if its end has come, read as simply as another server
/// might.
fn naive_head(stream: &[u8]) -> Option<(String, Option<&[u8]>)> {
    let mut lines = Vec::new();
    let mut rest = stream;
    loop {
        let end = rest.iter().position(|&byte| byte == b'\n')?;
        let line = String::from_utf8_lossy(&rest[..end]).trim_end_matches('\r').to_owned();
        rest = &rest[end + 1..];
        match (line.is_empty(), lines.is_empty()) {
            (true, true) => {}
            (true, false) => break,
            (false, _) => lines.push(line),
        }
    }
    let method = lines[0].split(' ').next()?.to_owned();
    let value = |name: &str| {
        lines[1..].iter().find_map(|line| {
            let (own, value) = line.split_once(':')?;
            own.eq_ignore_ascii_case(name).then(|| value.trim().to_ascii_lowercase())
        })
    };
    let behind = match value("transfer-encoding") {
        Some(_) => behind_chunks(rest),
        None => {
            value("content-length").map_or(Some(0), |value| value.parse().ok()).and_then(|length| rest.get(length..))
        }
    };
    Some((method, behind))
}

/// What follows a body in chunks.
fn behind_chunks(mut rest: &[u8]) -> Option<&[u8]> {
    let line = |rest: &mut &[u8]| -> Option<String> {
        let end = rest.windows(2).position(|pair| pair == b"\r\n")?;
        let line = String::from_utf8_lossy(&rest[..end]).into_owned();
        *rest = &rest[end + 2..];
        Some(line)
    };
    loop {
        let size = usize::from_str_radix(line(&mut rest)?.split([';', ' ', '\t']).next()?, 16).ok()?;
        if size == 0 {
            while !line(&mut rest)?.is_empty() {}
            return Some(rest);
        }
        rest = rest.get(size.checked_add(2)?..)?;
    }
}

/// A few requests behind each other, mostly well formed.
pub fn generate(dice: &mut Dice) -> Vec<u8> {
    let mut out = vec![dice.pick(&[0, 1, 6, 50, 255]), dice.pick(&[0, 1, 2, 3])];
    let lines = [
        "POST /api/publish HTTP/1.1",
        "POST /api/publish HTTP/1.1",
        "POST /api/broadcast HTTP/1.1",
        "POST /api/history HTTP/1.1",
        "POST /api/presence HTTP/1.1",
        "GET /api/presence?channel=chat%3Aa&limit=2 HTTP/1.1",
        "GET /health HTTP/1.1",
        "HEAD /metrics HTTP/1.1",
        "OPTIONS * HTTP/1.1",
        "GET http://a/nope HTTP/1.1",
        "POST /api/publish HTTP/1.0",
        "CONNECT a:1 HTTP/1.1",
    ];
    let unusual = [
        "Content-Type: application/x-ndjson",
        "Content-Type: application/json",
        "Content-Type: text/plain",
        "Connection: close",
        "Connection: keep-alive",
        "Expect: 100-continue",
        "Idempotency-Key: k",
        "Content-Length: 3",
        "Transfer-Encoding: chunked",
        "Transfer-Encoding: gzip, chunked",
        "Origin: https://a.example",
        "Host: b",
        " folded: line",
        "X-Empty:",
    ];
    let bodies = [
        r#"{"channel":"a","data":1}"#,
        r#"{"channel":"chat:a","data":{"x":[1,"\u00e9",null]},"key":"k"}"#,
        "{\"channel\":\"a\",\"text\":\"hi\"}\n\n{\"channel\":\"b\",\"data\":\"\\ud83d\\ude00\"}\r\nx",
        r#"{"channels":["a","no:x","b"],"data":[1e400],"idempotency_key":"x"}"#,
        r#"{"channel":"a","since":{"epoch":"e","offset":1},"limit":3,"reverse":true}"#,
        r#"{"channel":"a","data":"\ud800"}"#,
        r#"{"channel":"a","data":1,"data":2}"#,
        "[]",
        "",
    ];
    for _ in 0..dice.between(1, 5) {
        let mut head = dice.pick(&lines).to_owned() + "\r\nHost: localhost\r\n";
        if !dice.once_in(6) {
            head += &format!("X-API-Key: {KEY}\r\n");
        }
        if dice.once_in(4) {
            head += dice.pick(&unusual);
            head += "\r\n";
        }
        let body = dice.pick(&bodies);
        if head.starts_with("POST") || dice.once_in(10) {
            if dice.once_in(3) {
                head += "Transfer-Encoding: chunked\r\n\r\n";
                let middle = dice.below(body.len() + 1);
                for part in [&body.as_bytes()[..middle], &body.as_bytes()[middle..]] {
                    if !part.is_empty() {
                        out.extend_from_slice(std::mem::take(&mut head).as_bytes());
                        out.extend_from_slice(format!("{:x}\r\n", part.len()).as_bytes());
                        out.extend_from_slice(part);
                        out.extend_from_slice(b"\r\n");
                    }
                }
                out.extend_from_slice(head.as_bytes());
                out.extend_from_slice(dice.pick(&["0\r\n\r\n", "0\r\nT: 1\r\n\r\n"]).as_bytes());
                continue;
            }
            head += &format!("Content-Length: {}\r\n", body.len());
            out.extend_from_slice(format!("{head}\r\n{body}").as_bytes());
        } else {
            out.extend_from_slice(format!("{head}\r\n").as_bytes());
        }
    }
    out
}
