//! Many publications in one request: which are given out, which are refused by themselves, and how the results read.
//! Lines are also cut as clients may write them: with carriage returns, blank lines, and without a last line end.

use super::*;
use crate::api::rules::ApiSettings;
use crate::model::namespace::tests::namespaces;
use crate::model::publication::Content;

fn rules() -> ApiRules {
    ApiRules::new(ApiSettings::of_keys(&["key-of-these-tests"], Arc::new(namespaces()), 1_024))
}

/// The number of publications that were given out and have no result.
fn waiting(many: &ManyPublishes) -> usize {
    many.entries.iter().filter(|entry| entry.result.is_none()).count()
}

/// Gives each publication the place with the next offset, the last one first. Returns the response and the publications.
fn answered(mut many: ManyPublishes) -> (String, Vec<Publish>) {
    let rules = rules();
    let (mut asked, mut publishes) = (Vec::new(), Vec::new());
    while let Some((index, publish)) = many.next(&rules) {
        asked.push((index, Arc::clone(&publish.channel)));
        publishes.push(*publish);
        assert_eq!(waiting(&many), asked.len());
    }
    for (offset, (index, channel)) in asked.into_iter().enumerate().rev() {
        let placed = Placed { channel, epoch: "e".into(), offset: offset as u64 + 1 };
        many.put(index, Ok((placed, offset == 1)));
    }
    assert_eq!(waiting(&many), 0);
    let mut out = Vec::new();
    many.write(&mut out);
    (String::from_utf8(out).expect("a text"), publishes)
}

fn lines(body: &str) -> (String, Vec<Publish>) {
    answered(ManyPublishes::of_lines(body.into()).expect("lines"))
}

#[test]
fn each_line_has_its_result_in_order() {
    let body = concat!(
        "{\"channel\":\"a\",\"data\":1,\"idempotency_key\":\"k1\"}\n",
        "\n",
        " {\"channel\":\"a\",\"text\":\"hi\"} \r\n",
        "nonsense\n",
        " \t \r\n",
        "{\"channel\":\"nosuch:x\",\"data\":1}\n",
        "{\"channel\":\"a\",\"data\":01}\r\n",
        "{\"channel\":\"no good\",\"data\":1}\n",
        "{\"data\":1}\n",
        "{\"channel\":\"chat:b\",\"data\":{\"x\": [ ] }}",
    );
    let (results, publishes) = lines(body);
    let expected = concat!(
        "{\"channel\":\"a\",\"epoch\":\"e\",\"offset\":1}\n",
        "{\"channel\":\"a\",\"epoch\":\"e\",\"offset\":2,\"duplicate\":true}\n",
        "{\"line\":4,\"error\":{\"code\":400,\"message\":\"the line must be a JSON object: {\\\"name\\\": value, …}\"}}\n",
        "{\"line\":6,\"channel\":\"nosuch:x\",\"error\":{\"code\":404,\"message\":\"unknown namespace\"}}\n",
        "{\"line\":7,\"error\":{\"code\":400,\"message\":\"the line is not JSON: the error is at column 24\"}}\n",
        "{\"line\":8,\"channel\":\"no good\",\"error\":{\"code\":400,\"message\":\"not a channel name\"}}\n",
        "{\"line\":9,\"error\":{\"code\":400,\"message\":\"channel is missing\"}}\n",
        "{\"channel\":\"chat:b\",\"epoch\":\"e\",\"offset\":3}\n",
    );
    assert_eq!(results, expected);
    let keys: Vec<_> = publishes.iter().map(|publish| publish.idempotency_key.as_deref()).collect();
    assert_eq!(keys, [Some("k1"), None, None]);
    assert!(matches!(&publishes[2].content, Content::Json(json) if **json == *b"{\"x\": [ ] }"));
}

#[test]
fn lines_have_a_bound_and_are_not_empty() {
    let line = "{\"channel\":\"a\",\"data\":1}";
    for body in [format!("{line}\n").repeat(MAX_LINES), vec![line; MAX_LINES].join("\r\n")] {
        let (results, publishes) = lines(&body);
        assert_eq!((results.lines().count(), publishes.len()), (MAX_LINES, MAX_LINES));
    }
    let over = ManyPublishes::of_lines(vec![line; MAX_LINES + 1].join("\n").into()).expect_err("too many");
    let said = "the body has 10001 lines and may have 10000; none of them was done";
    assert_eq!((over.status(), over.message()), (413, said));
    for body in ["", "\n", " \r\n\r\n"] {
        assert_eq!(ManyPublishes::of_lines(body.into()).expect_err("none").status(), 400, "{body:?}");
    }
}

#[test]
fn what_was_not_answered_is_given_up() {
    let body = "{\"channel\":\"a\",\"data\":1}\n".repeat(3);
    let mut many = ManyPublishes::of_lines(body.into()).expect("lines");
    let rules = rules();
    let (first, _) = many.next(&rules).expect("a publication");
    let (second, _) = many.next(&rules).expect("a publication");
    many.put(
        second,
        publish_result(Answer::Published {
            placed: Placed { channel: "a".into(), epoch: "e".into(), offset: 9 },
            duplicate: false,
        }),
    );
    assert_eq!((first, waiting(&many)), (0, 1));
    many.give_up(&rules, &ApiError::unknown(), &ApiError::busy());
    let mut out = Vec::new();
    many.write(&mut out);
    let codes: Vec<Option<u64>> = String::from_utf8(out)
        .expect("a text")
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON")["error"]["code"].as_u64())
        .collect();
    assert_eq!(codes, [Some(504), None, Some(503)]);
}

#[test]
fn a_broadcast_has_one_list_of_results() {
    let body = "{\"channels\":[\"a\",\"nosuch:x\",\"chat:b\",\"a\"],\"data\":{\"n\":1}}";
    let (channels, publication) = input::broadcast(body.as_bytes(), Some("k")).expect("a broadcast");
    let (results, publishes) = answered(ManyPublishes::of_broadcast(channels, publication));
    let expected = concat!(
        "{\"results\":[{\"channel\":\"a\",\"epoch\":\"e\",\"offset\":1},",
        "{\"channel\":\"nosuch:x\",\"error\":{\"code\":404,\"message\":\"unknown namespace\"}},",
        "{\"channel\":\"chat:b\",\"epoch\":\"e\",\"offset\":2,\"duplicate\":true},",
        "{\"channel\":\"a\",\"epoch\":\"e\",\"offset\":3}]}",
    );
    assert_eq!(results, expected);
    assert!(publishes.iter().all(|publish| publish.idempotency_key.as_deref() == Some("k")));
}
