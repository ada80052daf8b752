//! Reads a JSON Web Key Set (RFC 7517) and makes keys that can verify tokens. A key of an unknown kind is skipped with a
//! warning, as RFC 7517 §5 asks, because an issuer may add kinds of keys at any time. A broken key of a known kind is an
//! error in a set from a file, which the operator can repair. In a fetched set it is skipped with a warning, so that one
//! new key of the issuer does not lock out the users of the others.

use std::fmt;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, EcdsaVerificationAlgorithm};
use base64::Engine as _;
use base64::alphabet;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde_json::{Map, Value};

use super::key::{RSA_ALGORITHMS, VerifyKey, ec_key, is_name_of, is_public, rsa_key, without_zeros};
use crate::config::Auth;

/// Base64url with or without padding, because some issuers pad.
const BASE64URL: GeneralPurpose = GeneralPurpose::new(
    &alphabet::URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);
/// The JSON members that only a private key has (RFC 7518 §6.2.2, §6.3.2).
const PRIVATE: [&str; 2] = ["d", "p"];
const NO_SET: &str = "not a JSON Web Key Set: it must be {\"keys\": [ … ]}";

/// The keys of a set from a file. Skipped keys are reported in `warnings`.
pub(super) fn key_set(jwks: &str, warnings: &mut Vec<String>) -> Result<Vec<VerifyKey>, String> {
    let (mut keys, mut passed_over) = (Vec::new(), Vec::new());
    for (number, entry) in (1..).zip(entries(jwks.as_bytes())?) {
        match key_of_entry(&entry) {
            Ok(key) => keys.push(key),
            Err(Unusable::Unknown(what)) => passed_over.push(not_used(number, &what)),
            Err(Unusable::Broken(what)) => return Err(format!("key number {number}: {what}")),
        }
    }
    require_keys(&keys, &passed_over)?;
    warnings.extend(passed_over.into_iter().map(|what| format!("auth.jwks_file: {what}")));
    Ok(keys)
}

/// The keys of a set that was fetched from `auth.jwks_url`.
#[derive(Clone)]
pub struct FetchedKeys {
    pub(super) keys: Vec<VerifyKey>,
    passed_over: Vec<String>,
}

impl FetchedKeys {
    /// Reads a set. Shared secrets (kty "oct") are skipped: everyone who can read the address could sign with them.
    ///
    /// # Errors
    /// What is wrong with the set, if none of its keys can be used.
    pub fn parse(jwks: &[u8]) -> Result<Self, String> {
        let (mut keys, mut passed_over) = (Vec::new(), Vec::new());
        for (number, entry) in (1..).zip(entries(jwks)?) {
            match key_of_entry(&entry) {
                Ok(key) if key.algorithms.contains(&Algorithm::HS256) => {
                    passed_over.push(not_used(number, "it is a shared secret, which must not come from an address"));
                }
                Ok(key) => keys.push(key),
                Err(Unusable::Unknown(what) | Unusable::Broken(what)) => passed_over.push(not_used(number, &what)),
            }
        }
        require_keys(&keys, &passed_over)?;
        Ok(Self { keys, passed_over })
    }

    /// The number of keys that can be used.
    pub(crate) fn count(&self) -> usize {
        self.keys.len()
    }

    /// The keys that are not used, each with the reason.
    pub(crate) fn passed_over(&self) -> &[String] {
        &self.passed_over
    }
}

impl fmt::Debug for FetchedKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ids: Vec<_> = self.keys.iter().map(|key| &key.id).collect();
        f.debug_struct("FetchedKeys").field("ids", &ids).field("passed_over", &self.passed_over).finish()
    }
}

fn entries(jwks: &[u8]) -> Result<Vec<Value>, String> {
    let document: Value = serde_json::from_slice(jwks)
        .map_err(|error| format!("not JSON: line {}, column {}", error.line(), error.column()))?;
    match document {
        Value::Object(mut members) => match members.remove("keys") {
            Some(Value::Array(entries)) => Ok(entries),
            _ => Err(NO_SET.to_owned()),
        },
        _ => Err(NO_SET.to_owned()),
    }
}

fn key_of_entry(entry: &Value) -> Result<VerifyKey, Unusable> {
    match entry {
        Value::Object(jwk) => key_of_jwk(jwk),
        _ => Err(Unusable::Broken("not an object".to_owned())),
    }
}

fn not_used(number: usize, why: &str) -> String {
    format!("key number {number} is not used: {why}")
}

fn require_keys(keys: &[VerifyKey], passed_over: &[String]) -> Result<(), String> {
    if !keys.is_empty() {
        return Ok(());
    }
    let why = if passed_over.is_empty() { "it is empty".to_owned() } else { passed_over.join("; ") };
    Err(format!("there is no key in it that could check a signature: {why}"))
}

enum Unusable {
    /// The server does not support this kind of key.
    Unknown(String),
    /// The kind is supported, but the key is broken.
    Broken(String),
}

fn key_of_jwk(jwk: &Map<String, Value>) -> Result<VerifyKey, Unusable> {
    let text = |name: &str| match jwk.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.as_str())),
        Some(_) => Err(Unusable::Broken(format!("{name} must be a text"))),
    };
    let unknown = |what: String| Err(Unusable::Unknown(what));
    // The purpose is checked first: nothing else matters of a key for encryption.
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
    Ok(VerifyKey { id: text("kid")?.map(str::to_owned), algorithms, key: key.map_err(broken)? })
}

/// The algorithms that a kind of key can verify.
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

/// Whether this server supports an algorithm of this name for any kind of key.
fn is_known(name: &str) -> bool {
    is_public(name) || is_name_of(name, Algorithm::HS256)
}

/// Makes a key of its coordinates. They should have the curve's size (RFC 7518 §6.2.1.2), but some issuers drop or add
/// leading zeros.
fn point(x: &[u8], y: &[u8], size: usize, curve: &'static EcdsaVerificationAlgorithm) -> Result<DecodingKey, String> {
    let mut point = vec![4];
    for coordinate in [x, y] {
        let digits = without_zeros(coordinate);
        let zeros = size.checked_sub(digits.len()).ok_or_else(|| format!("x or y has more than {size} bytes"))?;
        point.extend(std::iter::repeat_n(0, zeros).chain(digits.iter().copied()));
    }
    ec_key(&point, curve)
}
