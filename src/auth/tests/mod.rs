//! What the tests of tokens share, and the tests of what is around the claims (`claims`, `channel`) and the keys
//! (`keys`, `fetched`, `api_keys`), what is remembered (`verified`): static tokens, issuing, and garbage of every kind.

mod api_keys;
mod channel;
mod claims;
mod fetched;
mod keys;
mod revocations;
mod verified;

use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::config::{Auth, PublicKeyFile, Secret, StaticToken};

const SECRET: &str = "0123456789abcdef0123456789abcdef";
/// Some moment, with milliseconds.
const NOW_MS: u64 = 1_800_000_000_500;
const NOW_S: u64 = NOW_MS / 1000;

fn with_secret() -> Auth {
    Auth { hs256_secret: Some(Secret::new(SECRET)), leeway_s: 0, ..Auth::default() }
}

fn verifier(auth: &Auth) -> Verifier {
    Verifier::new(auth).unwrap()
}

fn key_file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/keys").join(name)
}

fn pem(name: &str) -> Vec<u8> {
    std::fs::read(key_file(name)).unwrap()
}

fn with_public_key(name: &str, algorithm: Option<&str>) -> Auth {
    let file = PublicKeyFile { file: key_file(name), algorithm: algorithm.map(str::to_owned) };
    Auth { public_key_files: vec![file], leeway_s: 0, ..Auth::default() }
}

fn signed(algorithm: Algorithm, kid: Option<&str>, key: &EncodingKey, claims: &Value) -> String {
    let header = Header { kid: kid.map(str::to_owned), ..Header::new(algorithm) };
    jsonwebtoken::encode(&header, claims, key).unwrap()
}

fn hs256(claims: &Value) -> String {
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    signed(Algorithm::HS256, None, &key, claims)
}

/// Claims that are fine, with some replaced.
fn claims(changes: Value) -> Value {
    let mut claims = json!({"user_id": 1, "username": "Alice", "exp": NOW_S + 3600});
    for (name, value) in changes.as_object().unwrap() {
        claims[name] = value.clone();
    }
    claims
}

fn verify(changes: Value) -> Result<Identity, TokenError> {
    verifier(&with_secret()).verify(&hs256(&claims(changes)), NOW_MS)
}

/// A token put together by hand; the signature is HMAC-SHA256 with `secret` whatever the header says.
fn handmade(header: &str, claims: &Value, secret: &[u8]) -> String {
    let message = [header, &claims.to_string()].map(|part| URL_SAFE_NO_PAD.encode(part)).join(".");
    let key = EncodingKey::from_secret(secret);
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, Algorithm::HS256).unwrap();
    format!("{message}.{signature}")
}

fn static_token(token: &str, user: Value) -> StaticToken {
    StaticToken { token: Secret::new(token), user, name: None, channels: Vec::new() }
}

#[test]
fn static_tokens_are_identities_without_an_end() {
    let mut auth = with_secret();
    auth.tokens = vec![
        StaticToken {
            name: Some("Alice".to_owned()),
            channels: vec!["news".to_owned()],
            ..static_token("alice", json!(1))
        },
        static_token("bob", json!("b")),
    ];
    let verifier = verifier(&auth);
    let alice = verifier.verify("alice", u64::MAX).unwrap();
    assert!(matches!(alice.id, UserId::Int(1)));
    assert_eq!((alice.name.as_str(), alice.expires_at_ms), ("Alice", None));
    assert_eq!(alice.channels.names(), ["news"]);
    assert_eq!(verifier.verify("bob", 0).unwrap().name, "b");
    for wrong in ["alic", "alicf", "alice ", "Alice", "", "bo", "bobb"] {
        assert_eq!(verifier.verify(wrong, NOW_MS), Err(TokenError::Malformed), "{wrong}");
    }
    assert!(verifier.verify(&hs256(&claims(json!({}))), NOW_MS).is_ok());
    for user in [json!(1.5), json!(""), json!(true), json!(1u64 << 53)] {
        let auth = Auth { tokens: vec![static_token("t", user)], ..Auth::default() };
        assert!(Verifier::new(&auth).unwrap_err().to_string().contains("token number 1: user must"));
    }
}

#[test]
fn nothing_secret_is_printed() {
    let auth = Auth { tokens: vec![static_token("hush", json!(1))], ..with_secret() };
    let verifier = verifier(&auth);
    let text = format!("{verifier:?} {verifier:#?} {auth:?}");
    assert!(!text.contains(SECRET) && !text.contains("hush"), "{text}");
    assert!(text.contains("HS256"));
}

#[test]
fn no_key_lets_nobody_in() {
    let keyless = verifier(&Auth::default());
    assert_eq!(keyless.verify(&hs256(&claims(json!({}))), NOW_MS), Err(TokenError::NoKey));
}

#[test]
fn issued_tokens_are_taken() {
    let user = UserId::text("u").unwrap();
    let secret = Secret::new(SECRET);
    let channels = ["news".to_owned()];
    let token = NewToken {
        user: &user,
        name: "Ü",
        ttl_s: 60,
        channels: &channels,
        issuer: Some("us"),
        audience: Some("chat"),
        token_id: Some("id"),
    };
    let jwt = issue(&secret, &token, NOW_MS).unwrap();
    let auth = Auth { issuer: Some("us".to_owned()), audience: Some("chat".to_owned()), ..with_secret() };
    let identity = verifier(&auth).verify(&jwt, NOW_MS).unwrap();
    assert_eq!(
        identity,
        Identity {
            id: user.clone(),
            name: "Ü".to_owned(),
            expires_at_ms: Some((NOW_S + 60) * 1000),
            issued_at_ms: Some(NOW_S * 1000),
            token_id: Some("id".to_owned()),
            channels: channels.iter().cloned().collect(),
        }
    );
    let long = "x".repeat(129);
    assert_eq!(issue(&secret, &NewToken { name: &long, ..token.clone() }, 0), Err(IssueError::Name));
    let wrong = [String::new()];
    assert_eq!(issue(&secret, &NewToken { channels: &wrong, ..token }, 0), Err(IssueError::Channel(String::new())));
}

proptest! {
    #[test]
    fn garbage_is_refused_and_never_panics(token in "\\PC*", now_ms: u64) {
        let verifier = verifier(&with_secret());
        prop_assert!(verifier.verify(&token, now_ms).is_err());
        prop_assert!(verifier.verify_channel(&token, now_ms).is_err());
    }

    #[test]
    fn garbage_of_the_right_shape_is_refused(
        header in prop::sample::select(vec![
            r#"{"alg":"HS256"}"#, r#"{"alg":"none"}"#, r#"{"alg":"HS256","kid":"x"}"#, "{", "null",
        ]),
        payload in "\\PC*",
        signature in "[A-Za-z0-9_-]{0,50}",
    ) {
        let verifier = verifier(&with_secret());
        let [header, payload] = [header, &payload].map(|part| URL_SAFE_NO_PAD.encode(part));
        let result = verifier.verify(&format!("{header}.{payload}.{signature}"), NOW_MS);
        prop_assert!(result.is_err());
    }

    /// Signed garbage: whatever the claims are, the rules answer.
    #[test]
    fn claims_of_any_kind_are_answered(
        name in prop::sample::select(vec![
            "user_id", "sub", "username", "name", "exp", "nbf", "iat", "jti", "channels", "channel",
        ]),
        value in prop_oneof![
            any::<f64>().prop_map(|x| json!(x)), any::<i64>().prop_map(|x| json!(x)), any::<u64>().prop_map(|x| json!(x)),
            "\\PC*".prop_map(|x| json!(x)), Just(json!([null, {}])), Just(json!({"a": 1})),
        ],
        now_ms: u64,
    ) {
        let verifier = verifier(&with_secret());
        let token = hs256(&claims(json!({ name: value })));
        let (result, granted) = (verifier.verify(&token, now_ms), verifier.verify_channel(&token, now_ms));
        prop_assert!(result.is_err() || granted.is_err());
        if let Ok(grant) = granted {
            prop_assert!((1..=200).contains(&grant.channel.len()) && grant.expires_at_ms > now_ms);
        }
        if let Ok(identity) = result {
            prop_assert!(identity.name.len() <= MAX_NAME_BYTES && identity.id.key().len() <= MAX_ID_BYTES);
            prop_assert!(identity.expires_at_ms.unwrap() > now_ms);
        }
    }

    /// One changed character anywhere makes a token worthless.
    #[test]
    fn a_changed_token_is_refused(index in 0usize..400, replacement in "[A-Za-z0-9_.-]") {
        let verifier = verifier(&with_secret());
        let good = hs256(&claims(json!({})));
        let mut token = good.clone().into_bytes();
        let index = index % token.len();
        token[index] = replacement.as_bytes()[0];
        let token = String::from_utf8(token).unwrap();
        prop_assert_eq!(verifier.verify(&token, NOW_MS).is_ok(), token == good);
    }
}
