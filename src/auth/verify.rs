//! The verifier: made from the configuration, and made again when the keys of `auth.jwks_url` have changed. It does not
//! change itself, so the shards share one. The algorithm is always the key's and never the token's: a token's header only chooses among the
//! keys. So `alg: none` and a public key taken for a shared secret find no key. Time is an argument.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::Algorithm;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::claims::{
    ChannelGrant, ClaimRules, Identity, MAX_NAME_BYTES, displayable, is_channel_length, user_id_from_json,
};
use super::jwks::FetchedKeys;
use super::key::{VerifyKey, is_name_of, is_public};
use super::keys;
use super::token_error::TokenError;
use super::verified::{CacheLimits, VerifiedTokens};
use crate::config::{Auth, ConfigError, Secret, StaticToken};

/// The longest token that is parsed, in bytes.
pub const MAX_TOKEN_BYTES: usize = 8 * 1024;
/// The most keys. A token without `kid` is tried with each key of its algorithm, so this bounds the work that a stranger can
/// cause.
pub(super) const MAX_KEYS: usize = 32;

/// The keys and rules that tokens are verified with.
#[derive(Clone)]
pub struct Verifier {
    /// The configured keys, followed by the fetched ones.
    keys: Vec<VerifyKey>,
    by_url: ByUrl,
    tokens: Vec<(Secret, Identity)>,
    rules: ClaimRules,
    warnings: Vec<String>,
}

/// The state of the keys from `auth.jwks_url`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum ByUrl {
    /// `auth.jwks_url` is not configured.
    No,
    /// No set has been fetched yet.
    Awaited,
    /// A set was fetched, and its keys are among the others.
    Fetched,
}

/// The members of a JOSE header that are used. Others (`jku`, `jwk`, `x5u` …) would let a token bring its own key.
#[derive(Deserialize)]
struct TokenHeader {
    alg: String,
    kid: Option<String>,
    crit: Option<Value>,
}

impl Verifier {
    /// Reads the keys that the configuration names, from their files.
    pub fn new(auth: &Auth) -> Result<Verifier, ConfigError> {
        let mut warnings = Vec::new();
        let keys = keys::load(auth, &mut warnings)?;
        if keys.len() > MAX_KEYS {
            let count = keys.len();
            return Err(ConfigError::general(format!("auth: {count} keys are configured; the most is {MAX_KEYS}")));
        }
        let tokens = auth.tokens.iter().enumerate().map(|(index, entry)| {
            static_token(entry)
                .map_err(|problem| ConfigError::of_key("auth.tokens", format!("token number {}: {problem}", index + 1)))
        });
        Ok(Verifier {
            keys,
            by_url: if auth.jwks_url.is_some() { ByUrl::Awaited } else { ByUrl::No },
            tokens: tokens.collect::<Result<_, _>>()?,
            rules: ClaimRules {
                issuer: auth.issuer.clone(),
                audience: auth.audience.clone(),
                leeway_ms: auth.leeway_s.saturating_mul(1000),
            },
            warnings,
        })
    }

    /// A verifier with the configured keys and these fetched ones. If both have a key with one `kid`, the configured key
    /// counts, because the address must not replace what the operator wrote. Must be called on the verifier of the
    /// configuration, which has no fetched keys.
    ///
    /// # Errors
    /// When there would be too many keys.
    pub fn with_fetched(&self, fetched: &FetchedKeys) -> Result<Verifier, String> {
        let is_ours = |key: &&VerifyKey| key.id.is_some() && self.keys.iter().any(|own| own.id == key.id);
        let mut verifier = Self { by_url: ByUrl::Fetched, ..self.clone() };
        verifier.keys.extend(fetched.keys.iter().filter(|key| !is_ours(key)).cloned());
        match verifier.keys.len() {
            count if count > MAX_KEYS => Err(format!("with it there would be {count} keys; the most is {MAX_KEYS}")),
            _ => Ok(verifier),
        }
    }

    /// Whether this token is refused now, but may be valid with keys that can still be fetched: no key has its `kid`, or no
    /// set was fetched yet. Never for HS256, whose secrets do not come from an address.
    pub(super) fn awaits_keys(&self, token: &str, verified: &mut VerifiedTokens) -> bool {
        if self.by_url == ByUrl::No || token.len() > MAX_TOKEN_BYTES || self.static_identity(token).is_some() {
            return false;
        }
        let header = token.split_once('.').and_then(|(header, _)| decode::<TokenHeader>(header).ok());
        let Some(header) = header.filter(|header| header.crit.is_none() && is_public(&header.alg)) else {
            return false;
        };
        let is_unknown = match &header.kid {
            Some(_) => self.keys.iter().all(|key| key.id != header.kid),
            None => self.by_url == ByUrl::Awaited,
        };
        is_unknown && matches!(self.signed_claims(token, verified), Err(TokenError::NoKey | TokenError::Signature))
    }

    /// Warnings about the keys, for the operator.
    pub(crate) fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Verifies a token at `now_ms` (Unix milliseconds). Returns the user that it signs in.
    pub fn verify(&self, token: &str, now_ms: u64) -> Result<Identity, TokenError> {
        self.verify_with(token, now_ms, &mut VerifiedTokens::new(CacheLimits::default()))
    }

    /// As [`Verifier::verify`], with a memory of tokens whose signature is valid.
    pub(super) fn verify_with(
        &self,
        token: &str,
        now_ms: u64,
        verified: &mut VerifiedTokens,
    ) -> Result<Identity, TokenError> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(TokenError::Malformed);
        }
        match self.static_identity(token) {
            Some(identity) => Ok(identity.clone()),
            None => self.rules.check(&self.signed_claims(token, verified)?, now_ms),
        }
    }

    /// Verifies a channel token at `now_ms` (Unix milliseconds). Returns the one user and the one channel that it is for. A
    /// token that signs a user in is no channel token.
    pub fn verify_channel(&self, token: &str, now_ms: u64) -> Result<ChannelGrant, TokenError> {
        self.verify_channel_with(token, now_ms, &mut VerifiedTokens::new(CacheLimits::default()))
    }

    /// As [`Verifier::verify_channel`], with a memory of tokens whose signature is valid.
    pub(super) fn verify_channel_with(
        &self,
        token: &str,
        now_ms: u64,
        verified: &mut VerifiedTokens,
    ) -> Result<ChannelGrant, TokenError> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(TokenError::Malformed);
        }
        self.rules.check_channel(&self.signed_claims(token, verified)?, now_ms)
    }

    fn static_identity(&self, token: &str) -> Option<&Identity> {
        let mut found = None;
        // Compares with all of them, each in a time that depends on lengths only.
        for (secret, identity) in &self.tokens {
            if same_bytes(secret.expose().as_bytes(), token.as_bytes()) {
                found = Some(identity);
            }
        }
        found
    }

    fn signed_claims(&self, token: &str, verified: &mut VerifiedTokens) -> Result<Map<String, Value>, TokenError> {
        let (message, signature) = token.rsplit_once('.').ok_or(TokenError::Malformed)?;
        let (header, payload) = message.split_once('.').ok_or(TokenError::Malformed)?;
        if payload.contains('.') {
            return Err(TokenError::Malformed);
        }
        if verified.contains(token) {
            return decode(payload);
        }
        let header: TokenHeader = decode(header)?;
        // RFC 7515 §4.1.11: a token with an extension that the server does not know must be refused.
        if header.crit.is_some() {
            return Err(TokenError::Malformed);
        }
        let mut outcome = TokenError::NoKey;
        for (key, algorithm) in self.candidates(&header) {
            match jsonwebtoken::crypto::verify(signature, message.as_bytes(), &key.key, algorithm) {
                Ok(true) => {
                    // Computing an HMAC costs hardly more than looking the token up.
                    if algorithm != Algorithm::HS256 {
                        verified.insert(token);
                    }
                    return decode(payload);
                }
                Ok(false) => outcome = TokenError::Signature,
                // The signature is not base64.
                Err(_) => return Err(TokenError::Malformed),
            }
        }
        Err(outcome)
    }

    /// The keys that a token may have been signed with. A known `kid` means that key only. An unknown `kid` leaves the keys
    /// without one: secrets and PEM files have none, and issuers often write a `kid` anyway.
    fn candidates<'a>(&'a self, header: &'a TokenHeader) -> impl Iterator<Item = (&'a VerifyKey, Algorithm)> {
        let known = self.keys.iter().any(|key| key.id.is_some() && key.id == header.kid);
        let of_id = self.keys.iter().filter(move |key| match &header.kid {
            Some(_) if known => key.id == header.kid,
            Some(_) => key.id.is_none(),
            None => true,
        });
        // Several keys may share a `kid`; their algorithms tell them apart.
        of_id.filter_map(|key| {
            let algorithm = key.algorithms.iter().find(|algorithm| is_name_of(&header.alg, **algorithm))?;
            Some((key, *algorithm))
        })
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys: Vec<_> = self.keys.iter().map(|key| (key.algorithms, &key.id)).collect();
        f.debug_struct("Verifier")
            .field("keys", &keys)
            .field("tokens", &self.tokens.len())
            .field("rules", &self.rules)
            .finish_non_exhaustive()
    }
}

fn decode<T: for<'de> Deserialize<'de>>(part: &str) -> Result<T, TokenError> {
    let bytes = URL_SAFE_NO_PAD.decode(part).map_err(|_| TokenError::Malformed)?;
    serde_json::from_slice(&bytes).map_err(|_| TokenError::Malformed)
}

fn static_token(entry: &StaticToken) -> Result<(Secret, Identity), String> {
    let id = user_id_from_json(&entry.user).ok_or_else(|| {
        format!("user must be an integer within ±(2^53−1) or a text of 1 to 128 bytes, not {}", entry.user)
    })?;
    let name = match entry.name.as_deref() {
        Some(name) if name.len() > MAX_NAME_BYTES => return Err(format!("name is longer than {MAX_NAME_BYTES} bytes")),
        name => Some(displayable(name.unwrap_or_default()))
            .filter(|name| !name.is_empty())
            .unwrap_or_else(|| id.to_string()),
    };
    if entry.token.expose().len() > MAX_TOKEN_BYTES {
        return Err(format!("it is longer than {MAX_TOKEN_BYTES} bytes"));
    }
    if let Some(wrong) = entry.channels.iter().find(|channel| !is_channel_length(channel)) {
        return Err(format!("{wrong:?} cannot be a channel: its name has 1 to 200 bytes"));
    }
    let identity = Identity {
        id,
        name,
        expires_at_ms: None,
        issued_at_ms: None,
        token_id: None,
        channels: entry.channels.iter().cloned().collect(),
    };
    Ok((entry.token.clone(), identity))
}

/// Compares two texts in a time that depends on their lengths only.
pub(super) fn same_bytes(a: &[u8], b: &[u8]) -> bool {
    aws_lc_rs::constant_time::verify_slices_are_equal(a, b).is_ok()
}
