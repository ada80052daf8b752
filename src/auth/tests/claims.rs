//! Every rule about what a token says.
//! Each case is a token that was signed well: what it claims decides.

use serde_json::{Value, json};

use super::*;

#[test]
fn user_id_comes_before_sub() {
    assert_eq!(verify(json!({"sub": "x"})).unwrap().id.key(), "1");
    assert_eq!(verify(json!({"user_id": null, "sub": "x"})).unwrap().id.key(), "x");
    assert!(matches!(verify(json!({"user_id": null, "sub": 42})).unwrap().id, UserId::Int(42)));
    assert_eq!(verify(json!({"user_id": null})), Err(TokenError::Claims("user_id")));
    // A wrong one is not passed over in favour of `sub`.
    assert_eq!(verify(json!({"user_id": "", "sub": 1})), Err(TokenError::Claims("user_id")));
}

#[test]
fn user_ids_have_bounds() {
    let most = (1i64 << 53) - 1;
    for good in [json!(0), json!(-7), json!(most), json!(-most), json!("x"), json!("é".repeat(64))] {
        let identity = verify(json!({ "user_id": good })).unwrap();
        assert_eq!(serde_json::to_value(&identity.id).unwrap(), good);
    }
    assert!(verify(json!({"user_id": "x".repeat(128)})).is_ok());
    for wrong in [
        json!(most + 1),
        json!(-most - 1),
        json!(i64::MIN),
        json!(u64::MAX),
        json!(1.0),
        json!(1.5),
        json!(1e300),
        json!(""),
        json!("x".repeat(129)),
        json!("é".repeat(64) + "x"),
        json!(true),
        json!([1]),
        json!({"id": 1}),
    ] {
        let result = verify(json!({ "user_id": wrong }));
        assert_eq!(result, Err(TokenError::Claims("user_id")), "{wrong}");
        let result = verify(json!({"user_id": null, "sub": wrong}));
        assert_eq!(result, Err(TokenError::Claims("sub")), "{wrong}");
    }
    // Numbers that no i64 holds, as they stand in the text.
    for wrong in ["9007199254740993000000", "1e3", "1.0", "-0"] {
        let header = r#"{"alg":"HS256"}"#;
        let payload: Value = serde_json::from_str(&format!(r#"{{"user_id":{wrong},"exp":{}}}"#, NOW_S + 1)).unwrap();
        let token = handmade(header, &payload, SECRET.as_bytes());
        let result = verifier(&with_secret()).verify(&token, NOW_MS);
        assert_eq!(result, Err(TokenError::Claims("user_id")), "{wrong}");
    }
}

#[test]
fn a_number_and_its_text_are_the_same_user() {
    let (number, text) = (UserId::int(1).unwrap(), UserId::text("1").unwrap());
    assert_eq!(number, text);
    assert_eq!(number.key(), text.key());
    assert_eq!([number.clone()].into_iter().collect::<std::collections::HashSet<_>>().get(&text), Some(&number));
    assert_ne!(number, UserId::text("01").unwrap());
    assert_eq!(serde_json::to_string(&[number, text]).unwrap(), r#"[1,"1"]"#);
}

#[test]
fn the_name_is_a_text_of_bounded_size() {
    let name = |changes| verify(changes).map(|identity| identity.name);
    assert_eq!(name(json!({"name": "Bob"})).unwrap(), "Alice");
    assert_eq!(name(json!({"username": null, "name": "Bob"})).unwrap(), "Bob");
    assert_eq!(name(json!({"username": "", "name": "Bob"})).unwrap(), "Bob");
    assert_eq!(name(json!({"username": ""})).unwrap(), "1");
    assert_eq!(name(json!({"username": null, "user_id": "u-7"})).unwrap(), "u-7");
    assert_eq!(name(json!({"username": "<b>&"})).unwrap(), "<b>&");
    // Cut between two characters, and never longer than the bound.
    for (long, bytes) in
        [("x".repeat(128), 128), ("x".repeat(2_000), 128), ("ж".repeat(65), 128), ("漢".repeat(43), 126)]
    {
        assert_eq!(name(json!({ "username": long })).unwrap(), &long[..bytes]);
        assert_eq!(name(json!({"username": null, "name": long})).unwrap(), &long[..bytes]);
    }
    for (shown, claim) in [
        ("12345", json!(12345)),
        ("-0.5", json!(-0.5)),
        ("0", json!(0)),
        ("a b", json!("\u{7}a\nb\u{9f} ")),
        // Nothing is left: as if it weren't there.
        ("1", json!(" \t\u{0} ")),
    ] {
        assert_eq!(name(json!({ "username": claim })).unwrap(), shown, "{claim}");
    }
    for wrong in [json!(true), json!(["A"]), json!({"first": "A"})] {
        assert_eq!(name(json!({"username": wrong})), Err(TokenError::Claims("username")));
        let result = name(json!({"username": null, "name": wrong}));
        assert_eq!(result, Err(TokenError::Claims("name")));
    }
}

#[test]
fn a_token_ends_at_exp_to_the_millisecond() {
    let verifier = verifier(&with_secret());
    let token = hs256(&claims(json!({"exp": NOW_S})));
    let end_ms = NOW_S * 1000;
    let identity = verifier.verify(&token, end_ms - 1).unwrap();
    assert_eq!(identity.expires_at_ms, Some(end_ms));
    assert_eq!(verifier.verify(&token, end_ms), Err(TokenError::Expired));
    assert_eq!(verifier.verify(&token, u64::MAX), Err(TokenError::Expired));
    // With a fraction, as Python's time.time() has.
    let token = hs256(&claims(json!({"exp": NOW_S as f64 + 0.25})));
    assert!(verifier.verify(&token, end_ms + 249).is_ok());
    assert_eq!(verifier.verify(&token, end_ms + 250), Err(TokenError::Expired));
}

#[test]
fn exp_is_required_and_a_number() {
    for wrong in [json!(null), json!("1800003600"), json!(1e300), json!([1]), json!(true)] {
        assert_eq!(verify(json!({ "exp": wrong })), Err(TokenError::Claims("exp")), "{wrong}");
    }
    assert_eq!(verify(json!({"exp": -5})), Err(TokenError::Expired));
    assert_eq!(verify(json!({"exp": -5.5})), Err(TokenError::Expired));
    assert_eq!(verify(json!({"exp": u64::MAX})).unwrap().expires_at_ms, Some(u64::MAX));
}

#[test]
fn nbf_is_checked_when_it_is_there() {
    let verifier = verifier(&with_secret());
    let token = hs256(&claims(json!({"nbf": NOW_S})));
    assert_eq!(verifier.verify(&token, NOW_S * 1000 - 1), Err(TokenError::NotYet));
    assert!(verifier.verify(&token, NOW_S * 1000).is_ok());
    assert_eq!(verify(json!({"nbf": "soon"})), Err(TokenError::Claims("nbf")));
}

#[test]
fn leeway_widens_both_ends() {
    let verifier = verifier(&Auth { leeway_s: 5, ..with_secret() });
    let token = hs256(&claims(json!({"nbf": NOW_S, "exp": NOW_S + 10})));
    let at = |offset_s: i64, ms: i64| {
        let now_ms = (NOW_S as i64 + offset_s) * 1000 + ms;
        verifier.verify(&token, u64::try_from(now_ms).unwrap())
    };
    assert_eq!(at(-5, -1), Err(TokenError::NotYet));
    assert!(at(-5, 0).is_ok());
    // Told as the moment from which the server refuses, so that nobody is let in and thrown out at once.
    assert_eq!(at(15, -1).unwrap().expires_at_ms, Some((NOW_S + 15) * 1000));
    assert_eq!(at(15, 0), Err(TokenError::Expired));
}

/// Else it would escape every revocation of what was issued until now.
#[test]
fn a_token_from_the_future_is_refused_or_counts_as_issued_before() {
    let exact = verifier(&with_secret());
    let lenient = verifier(&Auth { leeway_s: 5, ..with_secret() });
    let issued = |verifier: &Verifier, iat: Value| {
        verifier.verify(&hs256(&claims(json!({ "iat": iat }))), NOW_MS).map(|identity| identity.issued_at_ms)
    };
    assert_eq!(issued(&exact, json!(NOW_S)), Ok(Some(NOW_S * 1000)));
    assert_eq!(issued(&exact, json!(NOW_S + 1)), Err(TokenError::NotYet));
    assert_eq!(issued(&lenient, json!(NOW_S + 5)), Ok(Some(NOW_MS - 5_000)));
    for far in [json!(NOW_S + 6), json!(NOW_S + 1_000_000), json!(9e14), json!(u64::MAX)] {
        assert_eq!(issued(&lenient, far), Err(TokenError::NotYet));
    }
    assert_eq!(issued(&exact, json!(-1)), Ok(Some(0)));
}

#[test]
fn issuer_and_audience_are_checked_when_configured() {
    assert!(verify(json!({"iss": "x", "aud": ["y"]})).is_ok());
    let auth = Auth { issuer: Some("us".to_owned()), audience: Some("chat".to_owned()), ..with_secret() };
    let verifier = verifier(&auth);
    let verify =
        |iss: Value, aud: Value| verifier.verify(&hs256(&claims(json!({"iss": iss, "aud": aud}))), NOW_MS).map(|_| ());
    assert_eq!(verify(json!("us"), json!("chat")), Ok(()));
    assert_eq!(verify(json!("us"), json!(["mail", "chat"])), Ok(()));
    for wrong in [json!("them"), json!(null), json!(["us"]), json!("US")] {
        assert_eq!(verify(wrong, json!("chat")), Err(TokenError::Claims("iss")));
    }
    for wrong in [json!("mail"), json!(null), json!([]), json!(["mail"]), json!({"chat": 1})] {
        assert_eq!(verify(json!("us"), wrong), Err(TokenError::Claims("aud")));
    }
}

#[test]
fn what_else_a_token_says() {
    let identity = verify(json!({"iat": NOW_S, "jti": "t-1", "channels": ["news", "a:b"]})).unwrap();
    assert_eq!(identity.issued_at_ms, Some(NOW_S * 1000));
    assert_eq!(identity.token_id.as_deref(), Some("t-1"));
    assert_eq!(identity.channels.names(), ["a:b", "news"]);
    assert!(identity.channels.contains("news") && !identity.channels.contains("new"));
    let plain = verify(json!({})).unwrap();
    assert_eq!((plain.issued_at_ms, plain.token_id, plain.channels), (None, None, GrantedChannels::default()));
    for (claim, wrong) in [
        ("iat", json!("now")),
        ("jti", json!(7)),
        ("channels", json!("news")),
        ("channels", json!([1])),
        ("channels", json!([""])),
        ("channels", json!(["x".repeat(201)])),
    ] {
        assert_eq!(verify(json!({ claim: wrong })), Err(TokenError::Claims(claim)), "{wrong}");
    }
}
