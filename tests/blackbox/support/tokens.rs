//! Tokens as a site's backend would sign them.

use serde_json::{Value, json};

/// The secret that `Options::new` configures.
pub const SECRET: &str = "a secret of the black-box tests, 32 bytes and more";

pub fn now_s() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    i64::try_from(since.as_secs()).expect("fits")
}

/// A token for `SECRET` with the claims every one needs.
pub fn token(id: impl Into<Value>, name: &str) -> String {
    sign(&json!({"user_id": id.into(), "username": name, "exp": now_s() + 3600}))
}

pub fn sign(claims: &Value) -> String {
    sign_with(SECRET, claims)
}

pub fn sign_with(secret: &str, claims: &Value) -> String {
    let key = jsonwebtoken::EncodingKey::from_secret(secret.as_bytes());
    let header = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::HS256);
    jsonwebtoken::encode(&header, claims, &key).expect("signs")
}
