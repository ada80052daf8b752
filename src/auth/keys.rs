//! Turns what is configured (a secret, PEM files, a JWKS file) into keys, each bound to one algorithm. It is
//! strict at boot, so that a key that could never verify anything is an error there and not a puzzle later.
//! Reads files; knows nothing of tokens. Called by `verify` when the server starts, and by `cli`.

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde_json::Value;

use super::verify::{Key, name_of};
use crate::config::{Auth, ConfigError, PublicKeyFile, Secret};

/// RFC 7518 §3.2: an HS256 key has at least the size of the hash.
const GOOD_SECRET_BYTES: usize = 32;
/// What the RSA verification takes (RFC 7518 §3.3 asks for 2048 too).
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;
/// The DER of the curves' object identifiers: 1.2.840.10045.3.1.7 and 1.3.132.0.34.
const P256_OID: &[u8] = &[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const P384_OID: &[u8] = &[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22];

const RSA_ALGORITHMS: &[Algorithm] =
    &[Algorithm::RS256, Algorithm::RS384, Algorithm::RS512, Algorithm::PS256, Algorithm::PS384, Algorithm::PS512];

/// All keys of the configuration.
pub(super) fn load(auth: &Auth, warnings: &mut Vec<String>) -> Result<Vec<Key>, ConfigError> {
    let mut keys = Vec::new();
    if let Some(secret) = hs256_secret(auth)? {
        let bytes = secret.expose().len();
        if bytes < GOOD_SECRET_BYTES {
            warnings.push(format!(
                "auth.hs256_secret has {bytes} bytes; {GOOD_SECRET_BYTES} random ones are harder to guess"
            ));
        }
        keys.push(Key {
            id: None,
            algorithm: Algorithm::HS256,
            key: DecodingKey::from_secret(secret.expose().as_bytes()),
        });
    }
    for file in &auth.public_key_files {
        let error = |problem| of_file("auth.public_key_files", &file.file, problem);
        let pem = read("auth.public_key_files", &file.file)?;
        keys.push(public_key(&pem, file).map_err(error)?);
    }
    if let Some(file) = &auth.jwks_file {
        let error = |problem| of_file("auth.jwks_file", file, problem);
        let jwks = read("auth.jwks_file", file)?;
        let from_set = key_set(&jwks, warnings).map_err(error)?;
        keys.extend(from_set);
    }
    Ok(keys)
}

/// The HS256 secret, from the configuration itself or from the file that it names.
pub fn hs256_secret(auth: &Auth) -> Result<Option<Secret>, ConfigError> {
    let (key, secret) = match (&auth.hs256_secret, &auth.hs256_secret_file) {
        (Some(secret), _) => ("auth.hs256_secret", secret.clone()),
        (None, Some(file)) => ("auth.hs256_secret_file", secret_of_file(file)?),
        (None, None) => return Ok(None),
    };
    // The classical confusion, made by the operator: whoever knows the public key could sign with it.
    if secret.expose().trim_start().starts_with("-----BEGIN") {
        return Err(ConfigError::of_key(
            key,
            "this is a PEM key and no shared secret: public keys go into auth.public_key_files",
        ));
    }
    Ok(Some(secret))
}

fn secret_of_file(file: &Path) -> Result<Secret, ConfigError> {
    let text = read("auth.hs256_secret_file", file)?;
    // Editors and `echo` end a file with a line end that nobody means.
    let text = text.strip_suffix('\n').unwrap_or(&text);
    let text = text.strip_suffix('\r').unwrap_or(text);
    let (bytes, least) = (text.len(), Auth::MIN_SECRET_BYTES);
    if bytes < least {
        let problem = format!(
            "the secret in it has {bytes} bytes and needs at least {least}; \
             `openssl rand -base64 32` makes a good one"
        );
        return Err(of_file("auth.hs256_secret_file", file, problem));
    }
    Ok(Secret::new(text))
}

pub(super) fn read(key: &str, file: &Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(file).map_err(|error| of_file(key, file, format!("cannot read it: {error}")))
}

pub(super) fn of_file(key: &str, file: &Path, problem: String) -> ConfigError {
    ConfigError::of_key(key, format!("{}: {problem}", file.display()))
}

fn public_key(pem: &str, file: &PublicKeyFile) -> Result<Key, String> {
    if pem.contains("PRIVATE KEY-----") {
        return Err("this is a private key, which the server must not have: make the public one \
                    with `openssl pkey -pubout`"
            .to_owned());
    }
    if pem.contains("BEGIN CERTIFICATE") {
        return Err("this is a certificate: take the public key out of it with \
                    `openssl x509 -pubkey -noout`"
            .to_owned());
    }
    if pem.matches("-----BEGIN ").count() != 1 {
        return Err("it must hold one PEM public key (-----BEGIN PUBLIC KEY-----)".to_owned());
    }
    let (key, fitting) = parse_pem(pem)?;
    let algorithm = match &file.algorithm {
        None => fitting[0],
        Some(name) => *fitting.iter().find(|fits| name_of(**fits) == name).ok_or_else(|| {
            let names: Vec<_> = fitting.iter().map(|fits| name_of(*fits)).collect();
            format!("algorithm {name:?} does not fit this key: use {}", names.join(", "))
        })?,
    };
    Ok(Key { id: None, algorithm, key })
}

/// The key of a PEM text and the algorithms that fit it, the usual one first.
fn parse_pem(pem: &str) -> Result<(DecodingKey, &'static [Algorithm]), String> {
    let bytes = pem.as_bytes();
    if let Ok(key) = DecodingKey::from_rsa_pem(bytes) {
        let size = Jwk::from_decoding_key(&key, None).ok().and_then(|jwk| match jwk.algorithm {
            AlgorithmParameters::RSA(rsa) => rsa_bits(&rsa.n),
            _ => None,
        });
        check_rsa(size)?;
        return Ok((key, RSA_ALGORITHMS));
    }
    if let Ok(key) = DecodingKey::from_ec_pem(bytes) {
        // Keys of other curves can have the same length, and would only ever refuse.
        let base64: String = pem.lines().filter(|line| !line.starts_with('-')).map(str::trim).collect();
        let der = STANDARD.decode(base64).map_err(|_| "the PEM's base64 is broken".to_owned())?;
        let has = |oid: &[u8]| der.windows(oid.len()).any(|window| window == oid);
        let points = key.try_get_as_bytes().map_or(0, <[u8]>::len);
        return match points {
            65 if has(P256_OID) => Ok((key, &[Algorithm::ES256])),
            97 if has(P384_OID) => Ok((key, &[Algorithm::ES384])),
            _ => Err("an EC key must be on P-256 (ES256) or P-384 (ES384), uncompressed".to_owned()),
        };
    }
    match DecodingKey::from_ed_pem(bytes) {
        Ok(key) if key.try_get_as_bytes().is_ok_and(|bytes| bytes.len() == 32) => Ok((key, &[Algorithm::EdDSA])),
        _ => Err("not a PEM public key of RSA, EC (P-256, P-384) or Ed25519".to_owned()),
    }
}

fn rsa_bits(modulus: &str) -> Option<usize> {
    let bytes = base64url(modulus)?;
    let first = bytes.iter().position(|byte| *byte != 0)?;
    Some((bytes.len() - first) * 8 - bytes[first].leading_zeros() as usize)
}

fn check_rsa(bits: Option<usize>) -> Result<(), String> {
    match bits {
        Some(bits) if RSA_BITS.contains(&bits) => Ok(()),
        Some(bits) => Err(format!("an RSA key must have 2048 to 8192 bits, and this has {bits}")),
        None => Err("not an RSA key that can be read".to_owned()),
    }
}

fn base64url(text: &str) -> Option<Vec<u8>> {
    base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(text).ok()
}

/// The keys of a JWKS (RFC 7517) that can check a token. What the set has beyond them is passed over with a
/// warning, as RFC 7517 §5 wants: an issuer may add kinds of keys that we don't know.
fn key_set(jwks: &str, warnings: &mut Vec<String>) -> Result<Vec<Key>, String> {
    let document: Value = serde_json::from_str(jwks)
        .map_err(|error| format!("not JSON: line {}, column {}", error.line(), error.column()))?;
    let Some(Value::Array(entries)) = document.get("keys") else {
        return Err("not a JSON Web Key Set: it must be {\"keys\": [ … ]}".to_owned());
    };
    let mut keys: Vec<Key> = Vec::new();
    for (index, entry) in entries.iter().enumerate() {
        let number = index + 1;
        let jwk = match serde_json::from_value::<Jwk>(entry.clone()) {
            Ok(jwk) if is_for_signatures(&jwk) => jwk,
            Ok(_) => continue,
            Err(_) => {
                warnings.push(format!("auth.jwks_file: key number {number} is of an unknown kind"));
                continue;
            }
        };
        match key_of_jwk(&jwk) {
            Ok(key) => {
                if key.id.is_some() && keys.iter().any(|other| other.id == key.id) {
                    return Err(format!("key number {number} has the kid of an earlier one"));
                }
                keys.push(key);
            }
            Err(Unusable::Unknown(what)) => {
                warnings.push(format!("auth.jwks_file: key number {number} is not used: {what}"));
            }
            Err(Unusable::Broken(what)) => return Err(format!("key number {number}: {what}")),
        }
    }
    if keys.is_empty() {
        return Err("there is no key in it that could check a signature".to_owned());
    }
    Ok(keys)
}

fn is_for_signatures(jwk: &Jwk) -> bool {
    let verifies = |operations: &Vec<KeyOperations>| operations.contains(&KeyOperations::Verify);
    matches!(jwk.common.public_key_use, None | Some(PublicKeyUse::Signature))
        && jwk.common.key_operations.as_ref().is_none_or(verifies)
}

enum Unusable {
    /// A kind of key that we don't do.
    Unknown(String),
    /// A kind that we do, with a fault.
    Broken(String),
}

fn key_of_jwk(jwk: &Jwk) -> Result<Key, Unusable> {
    let broken = |what: &str| Unusable::Broken(what.to_owned());
    let fitting: &[Algorithm] = match &jwk.algorithm {
        AlgorithmParameters::RSA(rsa) => {
            check_rsa(rsa_bits(&rsa.n)).map_err(Unusable::Broken)?;
            base64url(&rsa.e).ok_or_else(|| broken("e is not base64url"))?;
            RSA_ALGORITHMS
        }
        AlgorithmParameters::EllipticCurve(ec) => {
            let (size, algorithms): (usize, &[Algorithm]) = match ec.curve {
                EllipticCurve::P256 => (32, &[Algorithm::ES256]),
                EllipticCurve::P384 => (48, &[Algorithm::ES384]),
                _ => return Err(Unusable::Unknown("its curve is not supported".to_owned())),
            };
            for coordinate in [&ec.x, &ec.y] {
                if base64url(coordinate).is_none_or(|bytes| bytes.len() != size) {
                    return Err(broken("x or y does not have the length of its curve"));
                }
            }
            algorithms
        }
        AlgorithmParameters::OctetKeyPair(pair) => {
            if pair.curve != EllipticCurve::Ed25519 {
                return Err(Unusable::Unknown("its curve is not supported".to_owned()));
            }
            if base64url(&pair.x).is_none_or(|bytes| bytes.len() != 32) {
                return Err(broken("x is not 32 bytes of base64url"));
            }
            &[Algorithm::EdDSA]
        }
        AlgorithmParameters::OctetKey(oct) => {
            let bytes = base64url(&oct.value).ok_or_else(|| broken("k is not base64url"))?;
            if bytes.len() < Auth::MIN_SECRET_BYTES {
                return Err(broken("k is too short to be a secret: at least 16 bytes"));
            }
            &[Algorithm::HS256]
        }
        _ => return Err(Unusable::Unknown("its kind is not supported".to_owned())),
    };
    let algorithm = match jwk.common.key_algorithm {
        None => fitting[0],
        Some(named) => *fitting
            .iter()
            .find(|fits| name_of(**fits) == named.to_string())
            .ok_or_else(|| Unusable::Unknown(format!("algorithm {named} is not supported for such a key")))?,
    };
    let key = DecodingKey::from_jwk(jwk).map_err(|_| broken("it cannot be read"))?;
    Ok(Key { id: jwk.common.key_id.clone(), algorithm, key })
}
