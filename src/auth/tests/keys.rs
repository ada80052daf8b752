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
        assert!(Verifier::new(&auth).unwrap_err().to_string().contains("not a shared secret"));
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
    let warnings = verifier.warnings().join("\n");
    assert!(warnings.contains("key number 5 is not used: its use is \"enc\""), "{warnings}");
    assert!(warnings.contains("key number 6 is not used: kty \"new\""), "{warnings}");
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
    assert!(refusal(&[]).contains("no key in it that could check a signature: it is empty"));
    assert!(refusal(&[json!({"kty": "new"})]).contains("key number 1 is not used: kty \"new\""));
    assert!(refusal(&[short]).contains("key number 1: k is too short"));
    assert!(refusal(&[weak]).contains("2048 to 8192 bits, and this has 1024"));
    assert!(refusal(&[odd]).contains("x and y are not a point on its curve"));
    assert!(refusal(&[json!({"kty": 7})]).contains("kty must be a text"));
    assert!(refusal(&[json!("key")]).contains("not an object"));
    assert!(refusal(&[json!({"kty": "oct", "k": "\u{e9}"})]).contains("k is not base64url"));
    let many: Vec<_> = (0..33).map(|i| json!({"kty": "oct", "k": URL_SAFE_NO_PAD.encode([i; 32])})).collect();
    assert!(refusal(&many).contains("the most is 32"));
}

/// A JWK with one member changed as a library may do it, and as it is.
fn bytes_of(jwk: &Value, member: &str) -> Vec<u8> {
    URL_SAFE_NO_PAD.decode(jwk[member].as_str().unwrap()).unwrap()
}

#[test]
fn numbers_of_a_jwk_may_have_leading_zeros_and_padding() {
    let rsa = EncodingKey::from_rsa_pem(&pem("rsa.key.pem")).unwrap();
    let ec = EncodingKey::from_ec_pem(&pem("ec.key.pem")).unwrap();
    for (key, algorithm, member) in [
        (&rsa, Algorithm::RS256, "n"),
        (&rsa, Algorithm::PS512, "e"),
        (&ec, Algorithm::ES256, "x"),
        (&ec, Algorithm::ES256, "y"),
    ] {
        let plain = jwk(key, algorithm, json!({"kid": "a"}));
        let bytes = bytes_of(&plain, member);
        let zero = URL_SAFE_NO_PAD.encode([&[0, 0], &bytes[..]].concat());
        let padded = base64::engine::general_purpose::URL_SAFE.encode(&bytes);
        for value in [zero, padded] {
            let (_directory, auth) = with_jwks(&[jwk(key, algorithm, json!({"kid": "a", member: value}))]);
            let token = signed(algorithm, Some("a"), key, &claims(json!({})));
            assert!(verifier(&auth).verify(&token, NOW_MS).is_ok(), "{algorithm:?} {member}");
        }
    }
}

#[test]
fn keys_of_one_kid_are_told_apart_by_what_they_are_for() {
    let rsa = EncodingKey::from_rsa_pem(&pem("rsa.key.pem")).unwrap();
    let ec = EncodingKey::from_ec_pem(&pem("ec.key.pem")).unwrap();
    let (old, new) = (EncodingKey::from_secret(&[7; 32]), EncodingKey::from_secret(&[8; 32]));
    let named = |key: &EncodingKey, algorithm| jwk(key, algorithm, json!({"kid": "a"}));
    let (_directory, auth) = with_jwks(&[
        named(&rsa, Algorithm::RS256),
        named(&rsa, Algorithm::PS256),
        named(&ec, Algorithm::ES256),
        named(&old, Algorithm::HS256),
        named(&new, Algorithm::HS256),
    ]);
    let verifier = verifier(&auth);
    for (algorithm, key) in [
        (Algorithm::RS256, &rsa),
        (Algorithm::PS256, &rsa),
        (Algorithm::ES256, &ec),
        (Algorithm::HS256, &old),
        (Algorithm::HS256, &new),
    ] {
        for kid in [Some("a"), None] {
            assert!(verifier.verify(&signed(algorithm, kid, key, &claims(json!({}))), NOW_MS).is_ok(), "{algorithm:?}");
        }
    }
    let token = signed(Algorithm::RS512, Some("a"), &rsa, &claims(json!({})));
    assert_eq!(verifier.verify(&token, NOW_MS), Err(TokenError::NoKey));
}

#[test]
fn an_rsa_key_whose_set_names_no_algorithm_is_for_its_family() {
    let rsa = EncodingKey::from_rsa_pem(&pem("rsa.key.pem")).unwrap();
    let (_directory, auth) = with_jwks(&[jwk(&rsa, Algorithm::RS256, json!({"kid": "a", "alg": null}))]);
    for algorithm in [Algorithm::RS256, Algorithm::RS384, Algorithm::RS512, Algorithm::PS256, Algorithm::PS512] {
        let token = signed(algorithm, Some("a"), &rsa, &claims(json!({})));
        assert!(verifier(&auth).verify(&token, NOW_MS).is_ok(), "{algorithm:?}");
    }
}

/// RFC 9864 names the curve in `alg`.
#[test]
fn ed25519_has_two_names() {
    let ed = EncodingKey::from_ed_pem(&pem("ed.key.pem")).unwrap();
    let sign = |name: &str| {
        let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let message = format!("{}.{}", part(json!({"alg": name, "kid": "a"})), part(claims(json!({}))));
        let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &ed, Algorithm::EdDSA).unwrap();
        format!("{message}.{signature}")
    };
    for named in [json!("Ed25519"), json!("EdDSA"), json!(null)] {
        let (_directory, auth) = with_jwks(&[jwk(&ed, Algorithm::EdDSA, json!({"kid": "a", "alg": named}))]);
        for (name, outcome) in [("EdDSA", Ok(())), ("Ed25519", Ok(())), ("Ed448", Err(TokenError::NoKey))] {
            assert_eq!(verifier(&auth).verify(&sign(name), NOW_MS).map(|_| ()), outcome, "{name}");
        }
    }
    let auth = with_public_key("ed.pub.pem", Some("Ed25519"));
    assert!(verifier(&auth).verify(&sign("Ed25519"), NOW_MS).is_ok());
}

#[test]
fn a_key_that_can_not_verify_anything_is_refused_with_its_reason() {
    let rsa = EncodingKey::from_rsa_pem(&pem("rsa.key.pem")).unwrap();
    let ec = EncodingKey::from_ec_pem(&pem("ec.key.pem")).unwrap();
    let ed = EncodingKey::from_ed_pem(&pem("ed.key.pem")).unwrap();
    let good = jwk(&rsa, Algorithm::RS256, json!({}));
    let mut even = bytes_of(&good, "n");
    *even.last_mut().unwrap() &= 0xfe;
    let mut off_curve = bytes_of(&jwk(&ec, Algorithm::ES256, json!({})), "y");
    off_curve[31] ^= 1;
    let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    for (why, key) in [
        ("modulus is even", jwk(&rsa, Algorithm::RS256, json!({"n": text(&even)}))),
        ("exponent must be odd", jwk(&rsa, Algorithm::RS256, json!({"e": text(&[1])}))),
        ("exponent must be odd", jwk(&rsa, Algorithm::RS256, json!({"e": text(&[1, 0])}))),
        ("exponent must be odd", jwk(&rsa, Algorithm::RS256, json!({"e": text(&[255; 8])}))),
        ("e is missing", jwk(&rsa, Algorithm::RS256, json!({"e": null}))),
        ("n is missing", jwk(&rsa, Algorithm::RS256, json!({"n": null}))),
        ("not a point on its curve", jwk(&ec, Algorithm::ES256, json!({"y": text(&off_curve)}))),
        ("more than 32 bytes", jwk(&ec, Algorithm::ES256, json!({"x": text(&[9; 33])}))),
        ("x must have 32 bytes, and has 31", jwk(&ed, Algorithm::EdDSA, json!({"x": text(&[9; 31])}))),
        ("can't be that of a key of kty \"EC\"", jwk(&ec, Algorithm::ES256, json!({"alg": "RS256"}))),
        ("can't be that of a key of kty \"RSA\"", jwk(&rsa, Algorithm::RS256, json!({"alg": "HS256"}))),
        ("a private key", jwk(&rsa, Algorithm::RS256, json!({"d": "AQAB"}))),
        ("kid must be a text", jwk(&rsa, Algorithm::RS256, json!({"kid": 7}))),
        ("key_ops lack \"verify\"", jwk(&rsa, Algorithm::RS256, json!({"key_ops": ["sign"]}))),
        ("its use is \"enc\"", jwk(&rsa, Algorithm::RS256, json!({"use": "enc"}))),
        ("alg \"RSA-OAEP\" is not supported", jwk(&rsa, Algorithm::RS256, json!({"alg": "RSA-OAEP"}))),
        ("crv \"P-521\" is not supported", jwk(&ec, Algorithm::ES256, json!({"crv": "P-521"}))),
        ("crv \"X25519\" is not supported", jwk(&ed, Algorithm::EdDSA, json!({"crv": "X25519"}))),
    ] {
        let (_directory, auth) = with_jwks(&[key]);
        let told = Verifier::new(&auth).unwrap_err().to_string();
        assert!(told.contains(why) && told.contains("key number 1"), "{why}: {told}");
    }
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
    for content in [SECRET.to_owned(), format!("{SECRET}\n"), format!("{SECRET}\r\n"), format!("{SECRET}\n\n")] {
        std::fs::write(&file, content).unwrap();
        assert!(verifier(&auth).verify(&hs256(&claims(json!({}))), NOW_MS).is_ok());
    }
    // Blanks may be meant.
    std::fs::write(&file, format!("{SECRET} \n")).unwrap();
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
