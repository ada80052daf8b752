//! A JSON Web Key Set (RFC 7517) in, the keys that can check a token out. What the set has beside them is passed over with
//! its reason, as RFC 7517 §5 wants: an issuer may add kinds of keys that we don't know. A key of a kind that we do know,
//! with a fault by which it could never verify anything, refuses the set. Called by `keys`.

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, EcdsaVerificationAlgorithm};
use base64::Engine as _;
use base64::alphabet;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde_json::{Map, Value};

use super::keys::{RSA_ALGORITHMS, ec_key, rsa_key, without_zeros};
use super::verify::{Key, is_name_of};
use crate::config::Auth;

/// Some issuers pad.
const BASE64URL: GeneralPurpose = GeneralPurpose::new(
    &alphabet::URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);
/// The members that only a private key has (RFC 7518 §6.2.2, §6.3.2).
const PRIVATE: [&str; 2] = ["d", "p"];

/// The keys of a set. What it has beside them is told in `warnings`.
pub(super) fn key_set(jwks: &str, warnings: &mut Vec<String>) -> Result<Vec<Key>, String> {
    let document: Value = serde_json::from_str(jwks)
        .map_err(|error| format!("not JSON: line {}, column {}", error.line(), error.column()))?;
    let Some(Value::Array(entries)) = document.get("keys") else {
        return Err("not a JSON Web Key Set: it must be {\"keys\": [ … ]}".to_owned());
    };
    let (mut keys, mut unused) = (Vec::new(), Vec::new());
    for (number, entry) in (1..).zip(entries) {
        let Value::Object(jwk) = entry else { return Err(format!("key number {number}: not an object")) };
        match key_of_jwk(jwk) {
            Ok(key) => keys.push(key),
            Err(Unusable::Unknown(what)) => unused.push(format!("key number {number} is not used: {what}")),
            Err(Unusable::Broken(what)) => return Err(format!("key number {number}: {what}")),
        }
    }
    if keys.is_empty() {
        let why = if unused.is_empty() { "it is empty".to_owned() } else { unused.join("; ") };
        return Err(format!("there is no key in it that could check a signature: {why}"));
    }
    warnings.extend(unused.into_iter().map(|what| format!("auth.jwks_file: {what}")));
    Ok(keys)
}

enum Unusable {
    /// A kind of key that we don't do.
    Unknown(String),
    /// A kind that we do, with a fault.
    Broken(String),
}

fn key_of_jwk(jwk: &Map<String, Value>) -> Result<Key, Unusable> {
    let text = |name: &str| match jwk.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.as_str())),
        Some(_) => Err(Unusable::Broken(format!("{name} must be a text"))),
    };
    let unknown = |what: String| Err(Unusable::Unknown(what));
    // For what it is meant comes first: nothing else of a key for encryption matters.
    if let Some(used) = text("use")?.filter(|used| *used != "sig") {
        return unknown(format!("its use is {used:?}, not \"sig\""));
    }
    if let Some(Value::Array(operations)) = jwk.get("key_ops")
        && !operations.iter().any(|operation| operation == "verify")
    {
        return unknown("its key_ops lack \"verify\"".to_owned());
    }
    let kind = text("kty")?.ok_or_else(|| Unusable::Broken("kty is missing".to_owned()))?;
    let broken = |what: String| Unusable::Broken(what);
    let bytes = |name: &str| -> Result<Vec<u8>, Unusable> {
        let value = text(name)?.ok_or_else(|| broken(format!("{name} is missing")))?;
        BASE64URL.decode(value).map_err(|_| broken(format!("{name} is not base64url")))
    };
    let (fitting, named) = match fitting(kind, text("crv")?) {
        Some(fitting) => (fitting, text("alg")?),
        None => {
            let curve = text("crv")?.map(|curve| format!(", crv {curve:?}")).unwrap_or_default();
            return unknown(format!("kty {kind:?}{curve} is not supported"));
        }
    };
    let algorithms = match named {
        None => fitting,
        Some(name) => match fitting.iter().position(|fits| is_name_of(name, *fits)) {
            Some(at) => &fitting[at..=at],
            None if is_known(name) => {
                return Err(broken(format!("alg {name:?} can't be that of a key of kty {kind:?}")));
            }
            None => return unknown(format!("alg {name:?} is not supported for such a key")),
        },
    };
    if kind != "oct" && PRIVATE.iter().any(|member| jwk.contains_key(*member)) {
        return Err(broken(
            "this is a private key, which the server must not have: leave out all but its public members".to_owned(),
        ));
    }
    let key = match kind {
        "RSA" => rsa_key(&bytes("n")?, &bytes("e")?),
        "EC" if algorithms == [Algorithm::ES256] => point(&bytes("x")?, &bytes("y")?, 32, &ECDSA_P256_SHA256_FIXED),
        "EC" => point(&bytes("x")?, &bytes("y")?, 48, &ECDSA_P384_SHA384_FIXED),
        "OKP" => match bytes("x")? {
            x if x.len() == 32 => Ok(DecodingKey::from_ed_der(&x)),
            x => Err(format!("x must have 32 bytes, and has {}", x.len())),
        },
        _ => match bytes("k")? {
            k if k.len() >= Auth::MIN_SECRET_BYTES => Ok(DecodingKey::from_secret(&k)),
            _ => Err(format!("k is too short to be a secret: at least {} bytes", Auth::MIN_SECRET_BYTES)),
        },
    };
    Ok(Key { id: text("kid")?.map(str::to_owned), algorithms, key: key.map_err(broken)? })
}

/// The algorithms that a kind of key can be for.
fn fitting(kind: &str, curve: Option<&str>) -> Option<&'static [Algorithm]> {
    match (kind, curve) {
        ("RSA", _) => Some(RSA_ALGORITHMS),
        ("EC", Some("P-256")) => Some(&[Algorithm::ES256]),
        ("EC", Some("P-384")) => Some(&[Algorithm::ES384]),
        ("OKP", Some("Ed25519")) => Some(&[Algorithm::EdDSA]),
        ("oct", _) => Some(&[Algorithm::HS256]),
        _ => None,
    }
}

/// Whether the name is that of an algorithm which some key could have here.
fn is_known(name: &str) -> bool {
    let others = [Algorithm::ES256, Algorithm::ES384, Algorithm::EdDSA, Algorithm::HS256];
    RSA_ALGORITHMS.iter().chain(&others).any(|known| is_name_of(name, *known))
}

/// A key of its coordinates, which should have the curve's size (RFC 7518 §6.2.1.2) and may have lost or got leading zeros.
fn point(x: &[u8], y: &[u8], size: usize, curve: &'static EcdsaVerificationAlgorithm) -> Result<DecodingKey, String> {
    let mut point = vec![4];
    for coordinate in [x, y] {
        let digits = without_zeros(coordinate);
        let zeros = size.checked_sub(digits.len()).ok_or_else(|| format!("x or y has more than {size} bytes"))?;
        point.extend(std::iter::repeat_n(0, zeros).chain(digits.iter().copied()));
    }
    ec_key(&point, curve)
}
