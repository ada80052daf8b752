//! Which tokens are good: every way to configure a key, and the forgeries that each of them must refuse.

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};

use crate::support::{Client, Options, SECRET, Server, now_s, sign, sign_with};

fn key_file(name: &str) -> String {
    format!("{}/tests/keys/{name}", env!("CARGO_MANIFEST_DIR"))
}

fn pem(name: &str) -> Vec<u8> {
    std::fs::read(key_file(name)).expect("a test key")
}

/// A server that is configured by this file; the directory must outlive it.
fn with_file(toml: &str) -> (Server, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("uringcast.toml");
    std::fs::write(&path, toml).unwrap();
    (Options::bare(&["serve", "--listen", "127.0.0.1:0", "--config", path.to_str().unwrap()]).start(), folder)
}

async fn accepted(server: &Server, token: &str) -> Value {
    let mut client = Client::open(server).await;
    let answer = client.auth(token).await;
    assert_eq!(answer["type"], "auth_success", "{answer}");
    client.leave().await;
    answer["data"]["user"].clone()
}

async fn refused(server: &Server, token: &str, why: &str) {
    let mut client = Client::open(server).await;
    let answer = client.auth(token).await;
    assert_eq!(answer["type"], "auth_failed", "{why}: {answer}");
    client.closed(4401).await;
}

fn claims() -> Value {
    json!({"sub": "7", "name": "Seven", "exp": now_s() + 600})
}

fn changed(key: &str, value: Value) -> Value {
    let mut claims = claims();
    claims[key] = value;
    claims
}

#[tokio::test]
async fn claims_have_their_fallbacks_and_bounds() {
    let server = Options::new().start();
    assert_eq!(accepted(&server, &sign(&claims())).await, json!({"id": "7", "username": "Seven"}));
    let both = json!({"sub": "a", "user_id": 8, "name": "b", "username": "Eight", "exp": now_s() + 600});
    assert_eq!(accepted(&server, &sign(&both)).await, json!({"id": 8, "username": "Eight"}));
    for (why, token) in [
        ("no exp", sign(&json!({"sub": "7", "name": "Seven"}))),
        ("expired", sign(&changed("exp", json!(now_s() - 60)))),
        ("exp is text", sign(&changed("exp", json!("tomorrow")))),
        ("not yet", sign(&changed("nbf", json!(now_s() + 300)))),
        ("another secret", sign_with("another secret, also long enough", &claims())),
        ("an empty secret", sign_with("", &claims())),
        ("no user", sign(&json!({"name": "Nobody", "exp": now_s() + 600}))),
        ("no object", sign(&json!([1, 2]))),
    ] {
        refused(&server, &token, why).await;
    }
    accepted(&server, &sign(&changed("nbf", json!(now_s() - 5)))).await;
    // Clocks differ by a little.
    for claim in ["nbf", "iat"] {
        accepted(&server, &sign(&changed(claim, json!(now_s() + 3)))).await;
    }
    accepted(&server, &sign(&changed("exp", json!(now_s() - 1)))).await;
    refused(&server, &sign(&changed("iat", json!(now_s() + 60))), "issued in the future").await;
}

#[tokio::test]
async fn a_name_of_any_length_signs_in_and_is_cut_between_characters() {
    let server = Options::new().start();
    for (name, shown) in [
        (json!("ж".repeat(65)), "ж".repeat(64)),
        (json!("漢".repeat(43)), "漢".repeat(42)),
        (json!("a".repeat(4_000)), "a".repeat(128)),
        (json!(12345), "12345".to_owned()),
    ] {
        assert_eq!(accepted(&server, &sign(&changed("name", name))).await["username"], shown);
    }
}

/// As a Kubernetes Secret has it that was made of `echo … | base64`.
#[tokio::test]
async fn line_ends_at_the_end_of_a_secret_are_not_part_of_it() {
    let token = sign(&claims());
    for end in ["\n", "\r\n", "\n\n"] {
        let server = Options::new().env("URINGCAST_AUTH__HS256_SECRET", format!("{SECRET}{end}")).start();
        accepted(&server, &token).await;
    }
    let (server, _folder) = with_file(&format!("[auth]\nhs256_secret = \"\"\"\n{SECRET}\n\"\"\"\n"));
    accepted(&server, &token).await;
    let (server, _folder) = with_file("[[auth.tokens]]\ntoken = \"\"\"fixed\n\"\"\"\nuser = 1\n");
    accepted(&server, "fixed").await;
}

#[tokio::test]
async fn other_algorithms_than_the_keys_are_refused() {
    let server = Options::new().start();
    let secret = EncodingKey::from_secret(SECRET.as_bytes());
    for algorithm in [Algorithm::HS384, Algorithm::HS512] {
        let token = encode(&Header::new(algorithm), &claims(), &secret).unwrap();
        refused(&server, &token, &format!("{algorithm:?}")).await;
    }
    use base64::Engine;
    let text = |value: &Value| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(value.to_string());
    for none in ["none", "None", "NONE", ""] {
        let header = text(&json!({"alg": none, "typ": "JWT"}));
        refused(&server, &format!("{header}.{}.", text(&claims())), none).await;
        refused(&server, &format!("{header}.{}", text(&claims())), none).await;
    }
}

#[tokio::test]
async fn issuer_and_audience_are_checked_when_configured() {
    let (server, _folder) = with_file(&format!(
        "[auth]\nhs256_secret = \"{SECRET}\"\nissuer = \"https://id.example\"\naudience = \"chat\"\n"
    ));
    let good =
        json!({"sub": "7", "name": "x", "exp": now_s() + 600, "iss": "https://id.example", "aud": ["web", "chat"]});
    accepted(&server, &sign(&good)).await;
    let with = |key: &str, value: Option<Value>| {
        let mut claims = good.clone();
        match value {
            Some(value) => claims[key] = value,
            None => {
                claims.as_object_mut().unwrap().remove(key);
            }
        }
        sign(&claims)
    };
    accepted(&server, &with("aud", Some(json!("chat")))).await;
    refused(&server, &with("aud", Some(json!("web"))), "audience").await;
    refused(&server, &with("aud", None), "no audience").await;
    refused(&server, &with("iss", Some(json!("https://other.example"))), "issuer").await;
    refused(&server, &with("iss", None), "no issuer").await;
}

#[tokio::test]
async fn public_key_files_verify_their_own_algorithm_only() {
    let (server, _folder) = with_file(&format!(
        "[auth]\npublic_key_files = [{:?}, {:?}, {:?}]\n",
        key_file("rsa.pub.pem"),
        key_file("ec.pub.pem"),
        key_file("ed.pub.pem")
    ));
    let rsa = EncodingKey::from_rsa_pem(&pem("rsa.key.pem")).unwrap();
    let ec = EncodingKey::from_ec_pem(&pem("ec.key.pem")).unwrap();
    let ed = EncodingKey::from_ed_pem(&pem("ed.key.pem")).unwrap();
    for (algorithm, key) in [(Algorithm::RS256, &rsa), (Algorithm::ES256, &ec), (Algorithm::EdDSA, &ed)] {
        let token = encode(&Header::new(algorithm), &claims(), key).unwrap();
        assert_eq!(accepted(&server, &token).await["username"], "Seven", "{algorithm:?}");
        refused(&server, &format!("{}AAAA", &token[..token.len() - 4]), "signature").await;
    }
    // Key confusion: the public key's text taken for a shared secret.
    for file in ["rsa.pub.pem", "ec.pub.pem", "ed.pub.pem"] {
        let confused = EncodingKey::from_secret(&pem(file));
        refused(&server, &encode(&Header::new(Algorithm::HS256), &claims(), &confused).unwrap(), file).await;
    }
    let other = encode(&Header::new(Algorithm::RS512), &claims(), &rsa).unwrap();
    refused(&server, &other, "RS512 with a key for RS256").await;
}

#[tokio::test]
async fn a_secret_may_come_from_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("secret");
    std::fs::write(&path, format!("{SECRET}\n")).unwrap();
    let server = Options::new()
        .without("URINGCAST_AUTH__HS256_SECRET")
        .env("URINGCAST_AUTH__HS256_SECRET_FILE", path.display())
        .start();
    accepted(&server, &sign(&claims())).await;
}

#[tokio::test]
async fn static_tokens_are_for_trying_things_out() {
    let (server, _folder) = with_file(
        "[[auth.tokens]]\ntoken = \"valid_token\"\nuser = 1\nname = \"test_user\"\n\
         [[auth.tokens]]\ntoken = \"other\"\nuser = \"b\"\n",
    );
    assert_eq!(accepted(&server, "valid_token").await, json!({"id": 1, "username": "test_user"}));
    assert_eq!(accepted(&server, "other").await, json!({"id": "b", "username": "b"}));
    for bad in ["valid_toke", "valid_token ", "VALID_TOKEN", &sign(&claims())] {
        refused(&server, bad, bad).await;
    }
}

#[tokio::test]
async fn the_token_command_prints_a_good_one() {
    let printed =
        Options::bare(&["token", "--user", "1", "--name", "Zoë <z>"]).env("URINGCAST_AUTH__HS256_SECRET", SECRET).run();
    assert!(printed.status.success(), "{}", printed.all());
    assert_eq!(printed.stdout.lines().count(), 1, "{}", printed.all());
    let server = Options::new().start();
    let user = accepted(&server, printed.stdout.trim()).await;
    assert_eq!(user, json!({"id": 1, "username": "Zoë &lt;z&gt;"}));
    Options::bare(&["token", "--user", "1"]).run().refused(&["secret"]);
}
