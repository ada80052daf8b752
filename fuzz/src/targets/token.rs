//! Tokens: raw ones that nobody signed, and signed ones whose header and claims are anyone's. Input: a byte for which,
//! then the token, or the claims, or the header, a line end and the claims.

use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey};
use serde_json::{Map, Value};
use uringcast::auth::{Identity, Verifier};
use uringcast::config::{Auth, PublicKeyFile, Secret};

use crate::dice::Dice;

const SECRET: &str = "a secret of the fuzz targets, 32 bytes and more";
const NOW_MS: u64 = 1_800_000_000_000;

/// A secret and public keys side by side: what confusions between them need.
static VERIFIER: LazyLock<Verifier> = LazyLock::new(|| {
    let key = |name: &str| PublicKeyFile {
        file: std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/keys").join(name),
        algorithm: None,
    };
    let auth = Auth {
        hs256_secret: Some(Secret::new(SECRET)),
        public_key_files: vec![key("rsa.pub.pem"), key("ec.pub.pem"), key("ed.pub.pem")],
        ..Auth::default()
    };
    Verifier::new(&auth).expect("the tests' keys")
});

fn sign(message: &str) -> String {
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, Algorithm::HS256).expect("signs");
    format!("{message}.{signature}")
}

/// No token is good that nobody signed, no header makes it so, and claims are read as docs/protocol.md says.
pub fn run(bytes: &[u8]) {
    let Some((&which, rest)) = bytes.split_first() else { return };
    let Ok(text) = std::str::from_utf8(rest) else { return };
    let encode = |part: &str| URL_SAFE_NO_PAD.encode(part);
    match which % 3 {
        0 => {
            // Only one who has a key could make it; the corpus holds none that is signed.
            assert!(VERIFIER.verify(text, NOW_MS).is_err() && VERIFIER.verify_channel(text, NOW_MS).is_err());
        }
        1 => {
            let token = sign(&format!("{}.{}", encode(r#"{"alg":"HS256"}"#), encode(text)));
            let fits = token.len() <= uringcast::auth::MAX_TOKEN_BYTES;
            let expected = serde_json::from_str(text).ok().filter(|_| fits).and_then(|claims| identity(&claims));
            let found = VERIFIER.verify(&token, NOW_MS);
            assert_eq!(found.as_ref().ok().map(shown), expected, "{text} {found:?}");
            let both = found.is_ok() && VERIFIER.verify_channel(&token, NOW_MS).is_ok();
            assert!(!both, "one token signs in and grants a channel: {text}");
        }
        _ => {
            let (header, claims) = text.split_once('\n').unwrap_or((text, r#"{"sub":"a","exp":4000000000}"#));
            let token = sign(&format!("{}.{}", encode(header), encode(claims)));
            if VERIFIER.verify(&token, NOW_MS).is_ok() {
                let header: Map<String, Value> = serde_json::from_str(header).expect("a header is an object");
                assert_eq!(header.get("alg").and_then(Value::as_str), Some("HS256"));
                assert!(header.get("crit").is_none_or(Value::is_null));
            }
        }
    }
}

fn shown(identity: &Identity) -> (String, String, Vec<String>) {
    (identity.id.to_string(), identity.name.clone(), identity.channels.names().to_vec())
}

/// Who the claims speak for: id, name and channels. Numbers of time are left to be told by `f64`.
fn identity(claims: &Map<String, Value>) -> Option<(String, String, Vec<String>)> {
    let given = |name: &str| claims.get(name).filter(|value| !value.is_null());
    if given("channel").is_some() {
        return None;
    }
    let id = match given("user_id").or(given("sub"))? {
        Value::String(text) if (1..=128).contains(&text.len()) => text.clone(),
        Value::Number(number) => number.as_i64().filter(|n| n.unsigned_abs() < 1 << 53)?.to_string(),
        _ => return None,
    };
    let mut name = None;
    for claim in ["username", "name"] {
        match given(claim) {
            _ if name.is_some() => {}
            None => {}
            Some(Value::String(text)) => name = Some(displayed(text)).filter(|text| !text.is_empty()),
            Some(Value::Number(number)) => name = Some(displayed(&number.to_string())),
            Some(_) => return None,
        }
    }
    let time = |name: &str| match given(name) {
        None => Some(None),
        Some(Value::Number(number)) => {
            // A whole number may be of any size; one with a fraction has to be within 2^53.
            let seconds = number.as_f64()?;
            (number.is_u64() || number.is_i64() || seconds <= 9_007_199_254_740_991.0).then_some(Some(seconds * 1000.0))
        }
        Some(_) => None,
    };
    let leeway_ms = Auth::default().leeway_s as f64 * 1000.0;
    let (exp, nbf, iat) = (time("exp")??, time("nbf")?, time("iat")?);
    let is_ahead = |time: Option<f64>| time.is_some_and(|time| (NOW_MS as f64 + leeway_ms) < time.floor());
    if NOW_MS as f64 >= exp.max(0.0).floor() + leeway_ms || is_ahead(nbf) || is_ahead(iat) {
        return None;
    }
    match given("jti") {
        None => {}
        Some(Value::String(text)) if text.len() <= 256 => {}
        Some(_) => return None,
    }
    let mut channels = match given("channels") {
        None => Vec::new(),
        Some(Value::Array(list)) => list
            .iter()
            .map(|channel| channel.as_str().filter(|name| (1..=200).contains(&name.len())).map(str::to_owned))
            .collect::<Option<_>>()?,
        Some(_) => return None,
    };
    // The server keeps them in order.
    channels.sort_unstable();
    Some((id.clone(), name.unwrap_or(id), channels))
}

/// A name as docs/protocol.md says it is shown: blanks for control characters, none at its ends, 128 bytes at most.
fn displayed(name: &str) -> String {
    let blanked: String = name.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let mut shown = String::new();
    for c in blanked.trim().chars() {
        if shown.len() + c.len_utf8() > 128 {
            break;
        }
        shown.push(c);
    }
    shown.trim_end().to_owned()
}

/// Claims, and headers that ask for what they must not get.
pub fn generate(dice: &mut Dice) -> Vec<u8> {
    let which = dice.below(3);
    let mut out = vec![which as u8];
    match which {
        0 => {
            let headers = [r#"{"alg":"none"}"#, r#"{"alg":"HS256"}"#, r#"{"alg":"RS256","jwk":{}}"#];
            let header = URL_SAFE_NO_PAD.encode(dice.pick(&headers));
            let signature = dice.pick(&["", "AAAA", "A", "=", "MEUCIQ"]);
            out.extend(format!("{header}.{}.{signature}", URL_SAFE_NO_PAD.encode(claims(dice))).bytes());
        }
        1 => out.extend(claims(dice).bytes()),
        _ => {
            let alg = dice.pick(&["HS256", "none", "NONE", "hs256", "HS384", "RS256", "ES256", "EdDSA", ""]);
            let more =
                dice.pick(&["", ",\"crit\":[\"b64\"]", ",\"kid\":\"k\"", ",\"alg\":\"HS256\"", ",\"crit\":null"]);
            out.extend(format!("{{\"alg\":\"{alg}\"{more}}}\n{}", claims(dice)).bytes());
        }
    }
    out
}

fn claims(dice: &mut Dice) -> String {
    let ids =
        ["1", "\"ann\"", "\"\"", "1.0", "9007199254740991", "9007199254740992", "-9007199254740991", "null", "[]"];
    let times = [
        "4000000000",
        "1800000000",
        "1799999999",
        "1800000000.5",
        "1e300",
        "-1",
        "\"4000000000\"",
        "null",
        "18446744073709551615",
        "99999999999999999999",
        "1799999990.001",
    ];
    let mut members = Vec::new();
    let mut add = |name: &str, value: &str| members.push(format!("\"{name}\":{value}"));
    add(dice.pick(&["user_id", "sub"]), dice.pick(&ids));
    if !dice.once_in(6) {
        add("exp", dice.pick(&["4000000000", "4000000000", dice.clone().pick(&times)]));
    }
    for name in ["nbf", "iat", "exp"] {
        if dice.once_in(6) {
            add(name, dice.pick(&times));
        }
    }
    for name in ["username", "name", "jti", "sub", "user_id", "channel", "channels"] {
        if dice.once_in(5) {
            add(name, dice.pick(&["\"Bo\"", "\"\"", "null", "7", "[\"a\",\"b\"]", "[\"\"]", "{}"]));
        }
    }
    format!("{{{}}}", members.join(","))
}
