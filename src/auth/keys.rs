//! Reads the configured keys: a secret, PEM files and a JWKS file. Each key is bound to one algorithm. A key that could never
//! verify anything is an error at the start, not a puzzle later. This file reads files and knows no token.

use std::path::Path;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::jwk::{AlgorithmParameters, Jwk};
use jsonwebtoken::{Algorithm, DecodingKey};

use super::jwks::key_set;
use super::key::{RSA_ALGORITHMS, VerifyKey, ec_key, is_name_of, name_of, rsa_key};

use crate::config::{Auth, ConfigError, PublicKeyFile, Secret, read_text};

/// The size of a good HS256 secret, in bytes: at least that of the hash (RFC 7518 §3.2).
const GOOD_SECRET_BYTES: usize = 32;
/// The DER of the curves' object identifiers: 1.2.840.10045.3.1.7 and 1.3.132.0.34.
const P256_OID: &[u8] = &[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const P384_OID: &[u8] = &[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22];

/// All keys of the configuration.
pub(super) fn load(auth: &Auth, warnings: &mut Vec<String>) -> Result<Vec<VerifyKey>, ConfigError> {
    let mut keys = Vec::new();
    if let Some(secret) = hs256_secret(auth)? {
        let bytes = secret.expose().len();
        if bytes < GOOD_SECRET_BYTES {
            warnings.push(format!(
                "auth.hs256_secret has {bytes} bytes; {GOOD_SECRET_BYTES} random ones are harder to guess"
            ));
        }
        keys.push(VerifyKey {
            id: None,
            algorithms: &[Algorithm::HS256],
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

/// The HS256 secret, from the configuration or from the file that it names.
pub(crate) fn hs256_secret(auth: &Auth) -> Result<Option<Secret>, ConfigError> {
    let (key, secret) = match (&auth.hs256_secret, &auth.hs256_secret_file) {
        (Some(secret), _) => ("auth.hs256_secret", secret.clone()),
        (None, Some(file)) => ("auth.hs256_secret_file", secret_of_file(file)?),
        (None, None) => return Ok(None),
    };
    // The classic mistake: everyone who knows the public key could sign with it.
    if secret.expose().trim_start().starts_with("-----BEGIN") {
        return Err(ConfigError::of_key(
            key,
            "this is a PEM key, not a shared secret: public keys go into auth.public_key_files",
        ));
    }
    Ok(Some(secret))
}

fn secret_of_file(file: &Path) -> Result<Secret, ConfigError> {
    let secret = Secret::new(read("auth.hs256_secret_file", file)?);
    let (bytes, least) = (secret.expose().len(), Auth::MIN_SECRET_BYTES);
    if bytes < least {
        let problem = format!(
            "the secret in it has {bytes} bytes and needs at least {least}; \
             `openssl rand -base64 32` makes a good one"
        );
        return Err(of_file("auth.hs256_secret_file", file, problem));
    }
    Ok(secret)
}

pub(super) fn read(key: &str, file: &Path) -> Result<String, ConfigError> {
    read_text(file).map_err(|error| of_file(key, file, format!("cannot read it: {error}")))
}

pub(super) fn of_file(key: &str, file: &Path, problem: String) -> ConfigError {
    ConfigError::of_key(key, format!("{}: {problem}", file.display()))
}

fn public_key(pem: &str, file: &PublicKeyFile) -> Result<VerifyKey, String> {
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
    // Each key gets one algorithm: the named one, or the usual one of its type.
    let at = match &file.algorithm {
        None => 0,
        Some(name) => fitting.iter().position(|fits| is_name_of(name, *fits)).ok_or_else(|| {
            let names: Vec<_> = fitting.iter().map(|fits| name_of(*fits)).collect();
            format!("algorithm {name:?} does not fit this key: use {}", names.join(", "))
        })?,
    };
    Ok(VerifyKey { id: None, algorithms: &fitting[at..=at], key })
}

/// The key in a PEM text, and the algorithms that fit it, the usual one first.
fn parse_pem(pem: &str) -> Result<(DecodingKey, &'static [Algorithm]), String> {
    let bytes = pem.as_bytes();
    if let Ok(key) = DecodingKey::from_rsa_pem(bytes) {
        let jwk = Jwk::from_decoding_key(&key, None).map_err(|_| "not an RSA key that can be read".to_owned())?;
        let AlgorithmParameters::RSA(rsa) = jwk.algorithm else { return Err("not an RSA key".to_owned()) };
        let number = |text: &str| URL_SAFE_NO_PAD.decode(text).unwrap_or_default();
        return Ok((rsa_key(&number(&rsa.n), &number(&rsa.e))?, RSA_ALGORITHMS));
    }
    if let Ok(key) = DecodingKey::from_ec_pem(bytes) {
        // Keys of other curves can have the same length, and would refuse every token.
        let inside =
            pem.split_once("-----BEGIN ").and_then(|(_, rest)| rest.split_once("-----END ")).map_or("", |(a, _)| a);
        let base64: String = inside.lines().skip(1).map(str::trim).collect();
        let der = STANDARD.decode(base64).map_err(|_| "the PEM's base64 is broken".to_owned())?;
        let has = |oid: &[u8]| der.windows(oid.len()).any(|window| window == oid);
        let point = key.try_get_as_bytes().unwrap_or_default();
        return match point.len() {
            65 if has(P256_OID) => Ok((ec_key(point, &ECDSA_P256_SHA256_FIXED)?, &[Algorithm::ES256])),
            97 if has(P384_OID) => Ok((ec_key(point, &ECDSA_P384_SHA384_FIXED)?, &[Algorithm::ES384])),
            _ => Err("an EC key must be on P-256 (ES256) or P-384 (ES384), uncompressed".to_owned()),
        };
    }
    match DecodingKey::from_ed_pem(bytes) {
        Ok(key) if key.try_get_as_bytes().is_ok_and(|bytes| bytes.len() == 32) => Ok((key, &[Algorithm::EdDSA])),
        _ => Err("not a PEM public key of RSA, EC (P-256, P-384) or Ed25519".to_owned()),
    }
}
