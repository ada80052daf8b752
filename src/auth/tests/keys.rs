//! Which key a token is checked with, and which keys are taken at all. The attacks are here.
//! Keys are real ones, from files; tokens are signed here with whatever an attacker could have.

use super::*;

#[test]
fn public_keys_of_each_kind() {
    let rsa = || EncodingKey::from_rsa_pem(&pem("rsa.key.pem")).unwrap();
    let ec = || EncodingKey::from_ec_pem(&pem("ec.key.pem")).unwrap();
    let ed = || EncodingKey::from_ed_pem(&pem("ed.key.pem")).unwrap();
    for (file, named, algorithm, key) in [
        ("rsa.pub.pem", None, Algorithm::RS256, rsa()),
        ("rsa.pkcs1.pub.pem", None, Algorithm::RS256, rsa()),
        ("rsa.pub.pem", Some("PS256"), Algorithm::PS256, rsa()),
        ("ec.pub.pem", None, Algorithm::ES256, ec()),
        ("ed.pub.pem", Some("EdDSA"), Algorithm::EdDSA, ed()),
    ] {
        let verifier = verifier(&with_public_key(file, named));
        let token = signed(algorithm, Some("any"), &key, &claims(json!({})));
        assert_eq!(verifier.verify(&token, NOW_MS).unwrap().name, "Alice", "{file}");
        // Another algorithm that the same key could do is still another algorithm.
        if algorithm == Algorithm::RS256 {
            let token = signed(Algorithm::PS256, None, &key, &claims(json!({})));
            assert_eq!(verifier.verify(&token, NOW_MS), Err(TokenError::NoKey));
        }
        let (message, signature) = token.rsplit_once('.').unwrap();
        let changed = format!("{}A.{signature}", &message[..message.len() - 1]);
        assert_eq!(verifier.verify(&changed, NOW_MS), Err(TokenError::Signature), "{file}");
    }
}

/// The attack: take the server's public key for a shared secret, and tell the server to do so too.
#[test]
fn a_public_key_is_never_a_secret() {
    for file in ["rsa.pub.pem", "ec.pub.pem", "ed.pub.pem"] {
        let public = pem(file);
        let mut auth = with_public_key(file, None);
        let token = handmade(r#"{"alg":"HS256","typ":"JWT"}"#, &claims(json!({})), &public);
        assert_eq!(verifier(&auth).verify(&token, NOW_MS), Err(TokenError::NoKey));
        // With a real secret beside it the token is tried on that, and fails.
        auth.hs256_secret = Some(Secret::new(SECRET));
        assert_eq!(verifier(&auth).verify(&token, NOW_MS), Err(TokenError::Signature));
        // And the operator can't open that door by accident.
        let auth = Auth { hs256_secret_file: Some(key_file(file)), ..Auth::default() };
        assert!(Verifier::new(&auth).unwrap_err().to_string().contains("no shared secret"));
    }
}

#[test]
fn the_header_does_not_choose_the_algorithm() {
    let verifier = verifier(&with_secret());
    for alg in ["none", "None", "NONE", "", "hs256", "HS384", "RS256", "ES256"] {
        let header = json!({ "alg": alg }).to_string();
        let token = handmade(&header, &claims(json!({})), SECRET.as_bytes());
        assert_eq!(verifier.verify(&token, NOW_MS), Err(TokenError::NoKey), "{alg}");
        let unsigned = &token[..=token.rfind('.').unwrap()];
        assert_eq!(verifier.verify(unsigned, NOW_MS), Err(TokenError::NoKey), "{alg}");
    }
    let token = hs256(&claims(json!({})));
    let unsigned = &token[..=token.rfind('.').unwrap()];
    assert_eq!(verifier.verify(unsigned, NOW_MS), Err(TokenError::Signature));
    for header in
        [r#"{"alg":null}"#, r#"{}"#, r#"{"alg":7}"#, "[]", "x", r#"{"alg":"HS256","crit":["b64"],"b64":false}"#]
    {
        let token = handmade(header, &claims(json!({})), SECRET.as_bytes());
        assert_eq!(verifier.verify(&token, NOW_MS), Err(TokenError::Malformed), "{header}");
    }
    // A key that the token brings along is not looked at.
    let header = r#"{"alg":"HS256","jwk":{"kty":"oct","k":"AAAA"},"jku":"http://127.0.0.1/"}"#;
    let token = handmade(header, &claims(json!({})), b"other");
    assert_eq!(verifier.verify(&token, NOW_MS), Err(TokenError::Signature));
}

#[test]
fn what_is_no_token() {
    let verifier = verifier(&with_secret());
    let good = hs256(&claims(json!({})));
    let long = "x".repeat(MAX_TOKEN_BYTES + 1);
    for wrong in
        ["", ".", "..", "...", "a.b.c", "a.b", &long, &format!("{good}."), &format!("{good}.x"), &format!(" {good}")]
    {
        assert_eq!(verifier.verify(wrong, NOW_MS), Err(TokenError::Malformed), "{wrong}");
    }
    assert_eq!(verifier.verify(&format!("{good}="), NOW_MS), Err(TokenError::Malformed));
    for payload in [json!([]), json!("x"), json!(null)] {
        let token = handmade(r#"{"alg":"HS256"}"#, &payload, SECRET.as_bytes());
        assert_eq!(verifier.verify(&token, NOW_MS), Err(TokenError::Malformed));
    }
}

/// The public half of a private key, as a JWK.
fn jwk(key: &EncodingKey, algorithm: Algorithm, changes: Value) -> Value {
    let jwk = jsonwebtoken::jwk::Jwk::from_encoding_key(key, algorithm).unwrap();
    let mut jwk = serde_json::to_value(jwk).unwrap();
    for (name, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => drop(jwk.as_object_mut().unwrap().remove(name)),
            value => jwk[name] = value.clone(),
        }
    }
    jwk
}

fn with_jwks(keys: &[Value]) -> (tempfile::TempDir, Auth) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("jwks.json");
    std::fs::write(&file, json!({ "keys": keys }).to_string()).unwrap();
    let auth = Auth { jwks_file: Some(file), ..Auth::default() };
    (directory, auth)
}

#[test]
fn jwks_keys_are_chosen_by_kid() {
    let rsa = EncodingKey::from_rsa_pem(&pem("rsa.key.pem")).unwrap();
    let ec = EncodingKey::from_ec_pem(&pem("ec.key.pem")).unwrap();
    let ed = EncodingKey::from_ed_pem(&pem("ed.key.pem")).unwrap();
    let oct = EncodingKey::from_secret(SECRET.as_bytes());
    let (_directory, auth) = with_jwks(&[
        jwk(&rsa, Algorithm::RS256, json!({"kid": "r", "alg": null, "use": "sig"})),
        jwk(&ec, Algorithm::ES256, json!({"kid": "e"})),
        jwk(&ed, Algorithm::EdDSA, json!({"kid": "d", "alg": null})),
        jwk(&oct, Algorithm::HS256, json!({"kid": "o"})),
        jwk(&rsa, Algorithm::RS256, json!({"kid": "enc", "use": "enc"})),
        json!({"kty": "new", "kid": "?"}),
    ]);
    let verifier = verifier(&auth);
    assert_eq!(verifier.warnings().len(), 1, "{:?}", verifier.warnings());
    let verify = |algorithm, kid, key: &EncodingKey| {
        verifier.verify(&signed(algorithm, kid, key, &claims(json!({}))), NOW_MS).map(|_| ())
    };
    for (algorithm, kid, key) in [
        (Algorithm::RS256, "r", &rsa),
        (Algorithm::ES256, "e", &ec),
        (Algorithm::EdDSA, "d", &ed),
        (Algorithm::HS256, "o", &oct),
    ] {
        assert_eq!(verify(algorithm, Some(kid), key), Ok(()));
        assert_eq!(verify(algorithm, None, key), Ok(()), "no kid: any key of that algorithm");
        assert_eq!(verify(algorithm, Some("other"), key), Err(TokenError::NoKey));
        assert_eq!(verify(algorithm, Some("enc"), key), Err(TokenError::NoKey));
    }
    // The kid of the ES256 key under RS256, and the other way.
    assert_eq!(verify(Algorithm::RS256, Some("e"), &rsa), Err(TokenError::NoKey));
    assert_eq!(verify(Algorithm::ES256, Some("r"), &ec), Err(TokenError::NoKey));
}

#[test]
fn of_two_keys_the_kid_takes_the_right_one() {
    let (old, new) = ([7u8; 32], [8u8; 32]);
    let key = |bytes: &[u8]| EncodingKey::from_secret(bytes);
    let (_directory, auth) = with_jwks(&[
        jwk(&key(&old), Algorithm::HS256, json!({"kid": "old"})),
        jwk(&key(&new), Algorithm::HS256, json!({"kid": "new"})),
    ]);
    let verifier = verifier(&auth);
    let verify = |kid, bytes| {
        let token = signed(Algorithm::HS256, kid, &key(bytes), &claims(json!({})));
        verifier.verify(&token, NOW_MS).map(|_| ())
    };
    assert_eq!(verify(Some("old"), &old), Ok(()));
    assert_eq!(verify(Some("new"), &new), Ok(()));
    assert_eq!(verify(Some("old"), &new), Err(TokenError::Signature));
    assert_eq!(verify(None, &old), Ok(()));
    assert_eq!(verify(None, &new), Ok(()));
}

#[test]
fn faults_of_a_jwks_are_told() {
    let refusal = |keys: &[Value]| {
        let (_directory, auth) = with_jwks(keys);
        Verifier::new(&auth).unwrap_err().to_string()
    };
    let short = json!({"kty": "oct", "k": "AAAA"});
    let weak = json!({"kty": "RSA", "n": URL_SAFE_NO_PAD.encode([255u8; 128]), "e": "AQAB"});
    let odd = json!({"kty": "EC", "crv": "P-256", "x": "AAAA", "y": "AAAA"});
    let key = json!({"kty": "oct", "k": URL_SAFE_NO_PAD.encode([1u8; 32]), "kid": "a"});
    assert!(refusal(&[]).contains("no key in it"));
    assert!(refusal(&[short]).contains("key number 1: k is too short"));
    assert!(refusal(&[weak]).contains("2048 to 8192 bits, and this has 1024"));
    assert!(refusal(&[odd]).contains("x or y"));
    assert!(refusal(&[key.clone(), key]).contains("key number 2 has the kid"));
    let many: Vec<_> = (0..33).map(|i| json!({"kty": "oct", "k": URL_SAFE_NO_PAD.encode([i; 32])})).collect();
    assert!(refusal(&many).contains("the most is 32"));
}

#[test]
fn faults_of_key_files_are_told() {
    let refusal = |name: &str, algorithm| Verifier::new(&with_public_key(name, algorithm)).unwrap_err().to_string();
    assert!(refusal("missing.pem", None).contains("missing.pem: cannot read it: No such file"));
    assert!(refusal("rsa.key.pem", None).contains("private key"));
    assert!(refusal("ec.key.pem", None).contains("private key"));
    assert!(refusal("rsa1024.pub.pem", None).contains("this has 1024"));
    assert!(refusal("k1.pub.pem", None).contains("must be on P-256"));
    assert!(refusal("ec.pub.pem", Some("RS256")).contains("use ES256"));
    assert!(refusal("rsa.pub.pem", Some("HS256")).contains("use RS256, RS384"));
    assert!(refusal("../../Cargo.toml", None).contains("one PEM public key"));
}

#[test]
fn secrets_from_files() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("secret");
    let auth = Auth { hs256_secret_file: Some(file.clone()), ..Auth::default() };
    let message = Verifier::new(&auth).unwrap_err().to_string();
    assert!(message.contains("auth.hs256_secret_file") && message.contains("cannot read it"));
    for content in [SECRET.to_owned(), format!("{SECRET}\n"), format!("{SECRET}\r\n")] {
        std::fs::write(&file, content).unwrap();
        assert!(verifier(&auth).verify(&hs256(&claims(json!({}))), NOW_MS).is_ok());
    }
    // One line end only: the rest may be meant.
    std::fs::write(&file, format!("{SECRET}\n\n")).unwrap();
    assert!(verifier(&auth).verify(&hs256(&claims(json!({}))), NOW_MS).is_err());
    for content in ["", "\n", "fifteen bytes !\n"] {
        std::fs::write(&file, content).unwrap();
        assert!(Verifier::new(&auth).unwrap_err().to_string().contains("needs at least 16"));
    }
}

#[test]
fn short_secrets_are_warned_of() {
    assert!(verifier(&with_secret()).warnings().is_empty());
    let auth = Auth { hs256_secret: Some(Secret::new("sixteen bytes !!")), ..Auth::default() };
    assert_eq!(verifier(&auth).warnings().len(), 1);
}
