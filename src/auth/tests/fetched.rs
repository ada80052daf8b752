//! Keys that were fetched: what of a set is taken, how they stand beside the configured ones, and which tokens are worth
//! a fetch.

use super::*;
use crate::auth::verified::{CacheLimits, VerifiedTokens};

fn url() -> Auth {
    Auth { jwks_url: Some("https://id.example/keys".to_owned()), ..Auth::default() }
}

fn ed() -> EncodingKey {
    EncodingKey::from_ed_pem(&pem("ed.key.pem")).unwrap()
}

fn ec() -> EncodingKey {
    EncodingKey::from_ec_pem(&pem("ec.key.pem")).unwrap()
}

fn jwk(key: &EncodingKey, algorithm: Algorithm, kid: Option<&str>) -> Value {
    let mut jwk = serde_json::to_value(jsonwebtoken::jwk::Jwk::from_encoding_key(key, algorithm).unwrap()).unwrap();
    if let Some(kid) = kid {
        jwk["kid"] = json!(kid);
    }
    jwk
}

fn fetched(keys: &[Value]) -> Result<FetchedKeys, String> {
    FetchedKeys::parse(json!({ "keys": keys }).to_string().as_bytes())
}

fn token(key: &EncodingKey, algorithm: Algorithm, kid: Option<&str>) -> String {
    signed(algorithm, kid, key, &claims(json!({})))
}

fn awaits(verifier: &Verifier, token: &str) -> bool {
    verifier.awaits_keys(token, &mut VerifiedTokens::new(CacheLimits::default()))
}

#[test]
fn a_fault_in_one_fetched_key_costs_no_other() {
    let oct = EncodingKey::from_secret(SECRET.as_bytes());
    let mut private = jwk(&ec(), Algorithm::ES256, Some("private"));
    private["d"] = json!("AAAA");
    let set = [
        json!("no object"),
        json!({"kty": "new kind", "kid": "later"}),
        json!({"kty": "RSA", "n": "AQAB", "e": "AQAB"}),
        jwk(&oct, Algorithm::HS256, Some("secret")),
        private,
        jwk(&ed(), Algorithm::EdDSA, Some("good")),
    ];
    let keys = fetched(&set).unwrap();
    assert_eq!((keys.count(), keys.passed_over().len()), (1, 5), "{keys:?}");
    assert!(keys.passed_over()[3].contains("shared secret"), "{keys:?}");
    let verifier = Verifier::new(&url()).unwrap().with_fetched(&keys).unwrap();
    assert!(verifier.verify(&token(&ed(), Algorithm::EdDSA, Some("good")), NOW_MS).is_ok());
    for (key, algorithm, kid) in [(&oct, Algorithm::HS256, "secret"), (&ec(), Algorithm::ES256, "private")] {
        assert_eq!(verifier.verify(&token(key, algorithm, Some(kid)), NOW_MS), Err(TokenError::NoKey), "{kid}");
    }
}

#[test]
fn a_set_without_a_usable_key_is_refused() {
    for (set, part) in [
        ("", "not JSON"),
        ("<html>", "not JSON"),
        ("[]", "not a JSON Web Key Set"),
        (r#"{"keys": {}}"#, "not a JSON Web Key Set"),
        (r#"{"keys": []}"#, "empty"),
        (r#"{"keys": [{"kty": "oct", "k": "AAAAAAAAAAAAAAAAAAAAAAAAAAAA"}]}"#, "shared secret"),
    ] {
        let problem = FetchedKeys::parse(set.as_bytes()).unwrap_err();
        assert!(problem.contains(part), "{set}: {problem}");
    }
}

#[test]
fn a_configured_key_is_not_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("jwks.json");
    std::fs::write(&file, json!({"keys": [jwk(&ed(), Algorithm::EdDSA, Some("a"))]}).to_string()).unwrap();
    let base = Verifier::new(&Auth { jwks_file: Some(file), ..url() }).unwrap();
    let keys = fetched(&[jwk(&ec(), Algorithm::ES256, Some("a")), jwk(&ec(), Algorithm::ES256, Some("b"))]).unwrap();
    let verifier = base.with_fetched(&keys).unwrap();
    assert!(verifier.verify(&token(&ed(), Algorithm::EdDSA, Some("a")), NOW_MS).is_ok());
    assert!(verifier.verify(&token(&ec(), Algorithm::ES256, Some("b")), NOW_MS).is_ok());
    assert_eq!(verifier.verify(&token(&ec(), Algorithm::ES256, Some("a")), NOW_MS), Err(TokenError::NoKey));
}

#[test]
fn keys_have_a_bound() {
    let many: Vec<Value> = (0..33).map(|number| jwk(&ed(), Algorithm::EdDSA, Some(&format!("key {number}")))).collect();
    let base = Verifier::new(&url()).unwrap();
    assert!(base.with_fetched(&fetched(&many[..32]).unwrap()).is_ok());
    let problem = base.with_fetched(&fetched(&many).unwrap()).unwrap_err();
    assert!(problem.contains("33 keys") && problem.contains("32"), "{problem}");
}

#[test]
fn only_a_token_that_other_keys_could_make_good_is_worth_a_fetch() {
    let base = Verifier::new(&Auth { hs256_secret: Some(Secret::new(SECRET)), ..url() }).unwrap();
    let with_keys = base.with_fetched(&fetched(&[jwk(&ed(), Algorithm::EdDSA, Some("known"))]).unwrap()).unwrap();
    let no_url = Verifier::new(&Auth { jwks_url: None, ..with_secret() }).unwrap();
    let unknown = token(&ed(), Algorithm::EdDSA, Some("unknown"));
    let without = token(&ed(), Algorithm::EdDSA, None);
    let of_known = token(&ed(), Algorithm::EdDSA, Some("known"));
    let bad = format!("{}AAAA", &of_known[..of_known.len() - 4]);
    let brought = handmade(
        r#"{"alg":"EdDSA","kid":"unknown","jku":"https://evil.example/keys"}"#,
        &claims(json!({})),
        SECRET.as_bytes(),
    );
    for (what, token, at_first, later) in [
        ("an unknown kid", &*unknown, true, true),
        ("an unknown kid with an address of its own", &brought, true, true),
        ("no kid", &without, true, false),
        ("a known kid", &of_known, true, false),
        ("a known kid and a wrong signature", &bad, true, false),
        ("a good secret", &hs256(&claims(json!({}))), false, false),
        ("a wrong secret", &handmade(r#"{"alg":"HS256","kid":"x"}"#, &claims(json!({})), b"other"), false, false),
        ("no algorithm", &handmade(r#"{"alg":"none","kid":"x"}"#, &claims(json!({})), b"other"), false, false),
        ("an extension", &handmade(r#"{"alg":"EdDSA","kid":"x","crit":["b64"]}"#, &json!({}), b"x"), false, false),
        ("no token", "x", false, false),
        ("no token with dots", "x.y.z", false, false),
    ] {
        assert_eq!(awaits(&base, token), at_first, "{what}, before the first set");
        assert_eq!(awaits(&with_keys, token), later, "{what}, after the first set");
        assert!(!awaits(&no_url, token), "{what}, without an address");
    }
}
