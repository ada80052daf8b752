//! Responses as bytes: their heads, and the JSON of docs/api.md.
//! What a request leaves for its response is taken from real requests.

use std::sync::Arc;

use super::*;
use crate::api::connection::{ApiConnection, ApiStep};
use crate::api::rules::{ApiRules, ApiSettings};
use crate::model::namespace::tests::namespaces;
use crate::model::parcel::{HistoryPage, Refusal};
use crate::model::position::Placed;
use crate::model::publication::tests::publication_of;
use crate::model::user::tests::user;

const DATE: &str = "Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n";
const MOMENT_MS: u64 = 784_111_777_500;

/// The response to the request with this head.
fn response(head: &str, answer: ApiAnswer) -> String {
    let rules = ApiRules::new(ApiSettings::of_keys(&["key-of-the-tests"], Arc::new(namespaces()), 1_024));
    let ApiStep::Request(request) = ApiConnection::default().next(&mut format!("{head}\r\n").as_bytes(), &rules) else {
        panic!("{head} is a request")
    };
    let mut out = Vec::new();
    let written = ApiWriter::default().write(&mut out, &request.reply, answer, MOMENT_MS);
    let text = String::from_utf8(out).expect("a text");
    assert_eq!(text.split(' ').nth(1), Some(&*written.status.to_string()));
    assert_eq!(written.error.is_some(), written.status >= 400 && written.status != 503 || text.contains("\"error\""));
    text
}

const POST: &str = "POST /api/publish HTTP/1.1\r\nHost: a\r\n";

fn placed(offset: u64) -> Placed {
    Placed { channel: "c".into(), epoch: "e".into(), offset }
}

fn body(answer: ApiAnswer) -> String {
    let text = response(POST, answer);
    let (head, body) = text.split_once("\r\n\r\n").expect("a head");
    assert!(head.contains(&format!("\r\nContent-Length: {}\r\n", body.len())), "{head}");
    body.to_owned()
}

fn of_owner(answer: Answer) -> ApiAnswer {
    ApiAnswer::Owner { answer, escape: true }
}

#[test]
fn a_publication_is_answered_with_its_place() {
    let json = r#"{"channel":"c","epoch":"e","offset":17}"#;
    assert_eq!(
        response(POST, of_owner(Answer::Published { placed: placed(17), duplicate: false })),
        format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 39\r\n{DATE}\r\n{json}")
    );
    let again = body(of_owner(Answer::Published { placed: placed(17), duplicate: true }));
    assert_eq!(again, r#"{"channel":"c","epoch":"e","offset":17,"duplicate":true}"#);
}

#[test]
fn pages_are_those_of_the_contract() {
    let publications = vec![publication_of(3, (*b"[1]").into())];
    let history = body(of_owner(Answer::History(Box::new(HistoryPage { placed: placed(3), publications }))));
    let publication = r#"{"type":"publication","channel":"c","offset":3,"data":[1],"timestamp":3}"#;
    assert_eq!(history, format!(r#"{{"channel":"c","epoch":"e","offset":3,"publications":[{publication}]}}"#));
    let page = || Box::new(UsersPage { count: 7, members: vec![(user("ann"), 2)], cursor: Some("ann".into()) });
    let members = body(of_owner(Answer::Presence("c".into(), page())));
    assert!(members.starts_with(r#"{"channel":"c","count":7,"members":[{"user":{"id":"ann","#), "{members}");
    assert!(members.ends_with(r#","connections":2}],"cursor":"ann"}"#), "{members}");
    assert!(body(of_owner(Answer::Users(page()))).starts_with(r#"{"channel":"lobby","count":7,"#));
}

#[test]
fn refusals_repeat_their_status() {
    for (answer, status, said) in [
        (Answer::Refused(Refusal::TooLarge), 413, "message too large"),
        (Answer::Refused(Refusal::KeyReused), 409, "idempotency_key was used with other content"),
        (Answer::Refused(Refusal::Busy), 503, "server busy, not done, try again"),
        (Answer::Refused(Refusal::Unanswered), 504, "outcome unknown, retry with the same idempotency_key"),
    ] {
        let text = response(POST, of_owner(answer));
        assert!(text.ends_with(&format!(r#"{{"error":{{"code":{status},"message":"{said}"}}}}"#)), "{text}");
        assert_eq!(text.contains("Retry-After: 1\r\n"), status == 503, "{text}");
    }
    let epoch = body(of_owner(Answer::EpochChanged(placed(5))));
    let said = "the channel's epoch has changed";
    assert_eq!(epoch, format!(r#"{{"error":{{"code":409,"message":"{said}","channel":"c","epoch":"e","offset":5}}}}"#));
    let unauthorized = response(POST, ApiAnswer::Refused(ApiError::new(401, "no")));
    assert!(unauthorized.contains("\r\nWWW-Authenticate: Bearer\r\n"), "{unauthorized}");
    let method = response("GET /api/publish HTTP/1.1\r\nHost: a\r\n", ApiAnswer::Refused(ApiError::new(405, "no")));
    assert!(method.contains("\r\nAllow: POST\r\n"), "{method}");
}

#[test]
fn a_head_alone_answers_head_and_options() {
    let health = || ApiAnswer::Health { connections: 3, shards: 2, is_draining: false };
    let json = r#"{"status":"ok","connections":3,"shards":2}"#;
    let get = response("GET /health HTTP/1.1\r\nHost: a\r\n", health());
    assert!(get.ends_with(&format!("\r\n\r\n{json}")), "{get}");
    let head = response("HEAD /health HTTP/1.1\r\nHost: a\r\n", health());
    assert_eq!(format!("{head}{json}"), get);
    let options = response("OPTIONS /health HTTP/1.1\r\nHost: a\r\n", ApiAnswer::Bare(BareAnswer::Methods));
    assert_eq!(options, format!("HTTP/1.1 204 No Content\r\nAllow: GET,HEAD\r\n{DATE}\r\n"));
}

#[test]
fn the_connection_closes_when_the_response_says_so() {
    let ask = |line: &str, is_draining| {
        response(&format!("GET /health {line}"), ApiAnswer::Health { connections: 0, shards: 1, is_draining })
    };
    let closes = |text: &str| text.contains("\r\nConnection: close\r\n");
    assert!(!ask("HTTP/1.1\r\nHost: a\r\n", false).contains("Connection"));
    assert!(closes(&ask("HTTP/1.1\r\nHost: a\r\nConnection: close\r\n", false)));
    let draining = ask("HTTP/1.1\r\nHost: a\r\n", true);
    assert!(closes(&draining) && draining.starts_with("HTTP/1.1 503 "), "{draining}");
    assert!(draining.ends_with(r#"{"status":"draining","connections":0,"shards":1}"#), "{draining}");
    let old = ask("HTTP/1.0\r\n", false);
    assert!(closes(&old) && old.starts_with("HTTP/1.0 200 OK\r\n"), "{old}");
    assert!(ask("HTTP/1.0\r\nConnection: keep-alive\r\n", false).contains("\r\nConnection: keep-alive\r\n"));
}
