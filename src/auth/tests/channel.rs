//! Channel tokens, and that neither kind of token passes for the other.
//! The clock is an argument, so expiry is exact.

use serde_json::{Value, json};

use super::*;

fn grant(changes: Value) -> Result<ChannelGrant, TokenError> {
    verifier(&with_secret()).verify_channel(&hs256(&claims(changes)), NOW_MS)
}

#[test]
fn a_channel_token_grants_one_channel_to_one_user() {
    let token = hs256(&json!({"sub": 7, "channel": "chat:room", "exp": NOW_S + 60, "iat": 5, "jti": "t"}));
    let granted = verifier(&with_secret()).verify_channel(&token, NOW_MS).unwrap();
    let expected = ChannelGrant {
        user_key: "7".to_owned(),
        channel: "chat:room".to_owned(),
        expires_at_ms: (NOW_S + 60) * 1000,
        issued_at_ms: Some(5_000),
        token_id: Some("t".to_owned()),
    };
    assert_eq!(granted, expected);
    assert_eq!(grant(json!({"channel": "a", "user_id": null, "sub": "7"})).unwrap().user_key, "7");
    assert_eq!(grant(json!({"channel": "a", "user_id": 8, "sub": 7})).unwrap().user_key, "8");
    assert!(grant(json!({"channel": "x".repeat(200)})).is_ok());
    for wrong in [json!(""), json!("x".repeat(201)), json!(1), json!(["news"]), json!(null), json!({"a": 1})] {
        assert_eq!(grant(json!({ "channel": wrong })), Err(TokenError::Claims("channel")), "{wrong}");
    }
    assert_eq!(grant(json!({"channel": "a", "user_id": null})), Err(TokenError::Claims("user_id")));
    assert_eq!(grant(json!({"channel": "a", "user_id": true})), Err(TokenError::Claims("user_id")));
}

#[test]
fn neither_kind_of_token_passes_for_the_other() {
    assert_eq!(grant(json!({})), Err(TokenError::Claims("channel")));
    assert_eq!(grant(json!({"channels": ["news"]})), Err(TokenError::Claims("channel")));
    // Whatever else it says, and even when the channel is none.
    for channel in [json!("news"), json!(""), json!(1), json!([]), json!(false)] {
        let result = verify(json!({"channel": channel, "channels": ["news"]}));
        assert_eq!(result, Err(TokenError::Claims("channel")), "{channel}");
    }
    assert!(verify(json!({"channel": null})).is_ok());
    // A static token signs in, and that is all.
    let auth = Auth { tokens: vec![static_token("alice", json!(1))], ..with_secret() };
    assert_eq!(verifier(&auth).verify_channel("alice", NOW_MS), Err(TokenError::Malformed));
}

#[test]
fn a_channel_token_is_checked_like_any_other() {
    let channel = |changes: Value| {
        let mut changes = changes;
        changes["channel"] = json!("news");
        grant(changes)
    };
    assert_eq!(channel(json!({"exp": null})), Err(TokenError::Claims("exp")));
    assert_eq!(channel(json!({"exp": NOW_S})), Err(TokenError::Expired));
    assert_eq!(channel(json!({"nbf": NOW_S + 1})), Err(TokenError::NotYet));

    let strict = verifier(&Auth { issuer: Some("us".to_owned()), leeway_s: 5, ..with_secret() });
    let token = |changes| hs256(&claims(changes));
    let ours = token(json!({"channel": "news", "iss": "us", "exp": NOW_S}));
    assert_eq!(strict.verify_channel(&ours, NOW_MS).unwrap().expires_at_ms, (NOW_S + 5) * 1000);
    let theirs = token(json!({"channel": "news", "iss": "them"}));
    assert_eq!(strict.verify_channel(&theirs, NOW_MS), Err(TokenError::Claims("iss")));

    let forged =
        handmade(r#"{"alg":"HS256"}"#, &claims(json!({"channel": "news"})), b"another secret, of 32 bytes here");
    assert_eq!(strict.verify_channel(&forged, NOW_MS), Err(TokenError::Signature));
    let none = handmade(r#"{"alg":"none"}"#, &claims(json!({"channel": "news"})), SECRET.as_bytes());
    assert_eq!(strict.verify_channel(&none, NOW_MS), Err(TokenError::NoKey));
    let long = hs256(&claims(json!({"channel": "news", "pad": "x".repeat(MAX_TOKEN_BYTES)})));
    assert_eq!(strict.verify_channel(&long, NOW_MS), Err(TokenError::Malformed));
}

#[test]
fn issued_channel_tokens_are_taken() {
    let user = UserId::int(42).unwrap();
    let secret = Secret::new(SECRET);
    let token = NewChannelToken {
        user: &user,
        channel: "chat:room",
        ttl_s: 60,
        issuer: Some("us"),
        audience: Some("chat"),
        token_id: Some("id"),
    };
    let jwt = issue_channel(&secret, &token, NOW_MS).unwrap();
    let auth = Auth { issuer: Some("us".to_owned()), audience: Some("chat".to_owned()), ..with_secret() };
    let granted = verifier(&auth).verify_channel(&jwt, NOW_MS).unwrap();
    assert_eq!((granted.user_key.as_str(), granted.channel.as_str()), ("42", "chat:room"));
    assert_eq!(granted.expires_at_ms, (NOW_S + 60) * 1000);
    assert_eq!(verifier(&auth).verify(&jwt, NOW_MS), Err(TokenError::Claims("channel")));
    for wrong in [String::new(), "x".repeat(201)] {
        let refused = issue_channel(&secret, &NewChannelToken { channel: &wrong, ..token.clone() }, NOW_MS);
        assert_eq!(refused, Err(IssueError::Channel(wrong)));
    }
}
