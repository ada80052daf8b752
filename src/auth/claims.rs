//! The rules for the claims of a token whose signature is valid: who the user is, until when, and which channels are
//! granted. This file knows neither keys nor signatures.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::token_error::TokenError;
use crate::model::user::{MAX_SAFE_INTEGER, UserId};

/// The longest user name, in bytes. A longer name in a token is cut.
pub const MAX_NAME_BYTES: usize = 128;
/// The longest token id (`jti`), in bytes.
pub const MAX_TOKEN_ID_BYTES: usize = 256;
/// The longest channel name, in bytes. A longer one in a token is the issuer's mistake.
const MAX_CHANNEL_BYTES: usize = 200;
/// Reads a user's id from JSON. A number must be written as an integer: 1.0 and 1e3 are not ids.
pub fn user_id_from_json(value: &Value) -> Option<UserId> {
    match value {
        Value::Number(number) => UserId::int(number.as_i64()?),
        Value::String(text) => UserId::text(text),
        _ => None,
    }
}

/// The user that a valid token signs in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The id of the user.
    pub id: UserId,
    /// The user's name for display, not escaped, cut to [`MAX_NAME_BYTES`]. It is the id's text if the token has no name.
    pub name: String,
    /// The moment from which the token is refused (`exp` plus the configured leeway), in Unix milliseconds. `None` only for a
    /// fixed token.
    pub expires_at_ms: Option<u64>,
    /// `iat` in Unix milliseconds, for revocations. [`ClaimRules::issued_at`] says how a time in the future counts.
    pub(crate) issued_at_ms: Option<u64>,
    /// The token's id (`jti`).
    pub(crate) token_id: Option<String>,
    /// The channels that the user may subscribe to beyond the namespace's rule.
    pub channels: GrantedChannels,
}

/// The right that a channel token grants: this user may subscribe to this channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChannelGrant {
    /// The [`UserId::key`] of the only user who may use the token.
    pub user_key: String,
    /// The name of the channel. Only its length has been checked; subscribing checks the rest.
    pub channel: String,
    /// The moment at which the right ends (`exp` plus the configured leeway), in Unix milliseconds.
    pub expires_at_ms: u64,
    /// `iat` in Unix milliseconds.
    pub(crate) issued_at_ms: Option<u64>,
    /// The token's id (`jti`).
    pub(crate) token_id: Option<String>,
}

/// The configured rules for claims.
#[derive(Clone, Debug, Default)]
pub(super) struct ClaimRules {
    pub(super) issuer: Option<String>,
    pub(super) audience: Option<String>,
    pub(super) leeway_ms: u64,
}

impl ClaimRules {
    /// Checks the claims of a token whose signature is valid.
    pub(super) fn check(&self, claims: &Map<String, Value>, now_ms: u64) -> Result<Identity, TokenError> {
        // A channel token must not sign anyone in.
        if present(claims, "channel").is_some() {
            return Err(TokenError::Claims("channel"));
        }
        let id = user_id(claims)?;
        let expires_at_ms = self.check_validity(claims, now_ms)?;
        Ok(Identity {
            name: name(claims, &id)?,
            id,
            expires_at_ms: Some(expires_at_ms),
            issued_at_ms: self.issued_at(claims, now_ms)?,
            token_id: token_id(claims)?,
            channels: channels(claims)?,
        })
    }

    /// Checks the claims of a channel token whose signature is valid.
    pub(super) fn check_channel(&self, claims: &Map<String, Value>, now_ms: u64) -> Result<ChannelGrant, TokenError> {
        let channel = match present(claims, "channel") {
            Some(Value::String(name)) if is_channel_length(name) => name.clone(),
            _ => return Err(TokenError::Claims("channel")),
        };
        let user_key = user_id(claims)?.key().into_owned();
        Ok(ChannelGrant {
            user_key,
            channel,
            expires_at_ms: self.check_validity(claims, now_ms)?,
            issued_at_ms: self.issued_at(claims, now_ms)?,
            token_id: token_id(claims)?,
        })
    }

    /// When a token was issued, for revocations. A token from the future is refused, because no revocation of the tokens
    /// issued until now would include it. A token that is ahead by at most the leeway comes from a clock that is wrong. It
    /// counts as issued one leeway ago, so that revocations since then include it.
    fn issued_at(&self, claims: &Map<String, Value>, now_ms: u64) -> Result<Option<u64>, TokenError> {
        match time(claims, "iat")? {
            Some(at_ms) if at_ms > now_ms.saturating_add(self.leeway_ms) => Err(TokenError::NotYet),
            Some(at_ms) if at_ms > now_ms => Ok(Some(now_ms.saturating_sub(self.leeway_ms))),
            issued_at_ms => Ok(issued_at_ms),
        }
    }

    /// Checks that a token is valid now and meant for this server. Returns when it ends.
    fn check_validity(&self, claims: &Map<String, Value>, now_ms: u64) -> Result<u64, TokenError> {
        let expires_at_ms = time(claims, "exp")?.ok_or(TokenError::Claims("exp"))?.saturating_add(self.leeway_ms);
        // RFC 7519 §4.1.4: the token is refused "on or after" that time.
        if now_ms >= expires_at_ms {
            return Err(TokenError::Expired);
        }
        if let Some(not_before_ms) = time(claims, "nbf")?
            && now_ms.saturating_add(self.leeway_ms) < not_before_ms
        {
            return Err(TokenError::NotYet);
        }
        self.check_parties(claims)?;
        Ok(expires_at_ms)
    }

    fn check_parties(&self, claims: &Map<String, Value>) -> Result<(), TokenError> {
        if let Some(issuer) = &self.issuer
            && claims.get("iss").and_then(Value::as_str) != Some(issuer)
        {
            return Err(TokenError::Claims("iss"));
        }
        let Some(audience) = &self.audience else {
            return Ok(());
        };
        let is_ours = |value: &Value| value.as_str() == Some(audience);
        let meant_for_us = match claims.get("aud") {
            Some(Value::Array(list)) => list.iter().any(is_ours),
            Some(value) => is_ours(value),
            None => false,
        };
        if meant_for_us { Ok(()) } else { Err(TokenError::Claims("aud")) }
    }
}

/// The value of a claim. `null` counts as missing, because many libraries write it for a missing value.
fn present<'a>(claims: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    claims.get(name).filter(|value| !value.is_null())
}

fn user_id(claims: &Map<String, Value>) -> Result<UserId, TokenError> {
    // A wrong `user_id` is refused and not skipped, because `sub` may name another user.
    for name in ["user_id", "sub"] {
        if let Some(value) = present(claims, name) {
            return user_id_from_json(value).ok_or(TokenError::Claims(name));
        }
    }
    Err(TokenError::Claims("user_id"))
}

fn name(claims: &Map<String, Value>, id: &UserId) -> Result<String, TokenError> {
    for claim in ["username", "name"] {
        match present(claims, claim) {
            None => {}
            // Backends often send an empty name for a user without one. That is no reason to refuse the token.
            Some(Value::String(text)) => {
                let name = displayable(text);
                if !name.is_empty() {
                    return Ok(name);
                }
            }
            // Databases and spreadsheets turn some names into numbers.
            Some(Value::Number(number)) => return Ok(displayable(&number.to_string())),
            Some(_) => return Err(TokenError::Claims(claim)),
        }
    }
    Ok(id.to_string())
}

/// A name for display: control characters become blanks, blanks around it are removed, and it is cut between two characters
/// to at most [`MAX_NAME_BYTES`].
pub(super) fn displayable(name: &str) -> String {
    let name: String = name.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let name = name.trim();
    name[..name.floor_char_boundary(MAX_NAME_BYTES)].trim_end().to_owned()
}

/// Reads a NumericDate (RFC 7519 §2: seconds, possibly with a fraction), in milliseconds.
fn time(claims: &Map<String, Value>, name: &'static str) -> Result<Option<u64>, TokenError> {
    let Some(value) = present(claims, name) else {
        return Ok(None);
    };
    let wrong = TokenError::Claims(name);
    let Value::Number(number) = value else {
        return Err(wrong);
    };
    if let Some(seconds) = number.as_u64() {
        return Ok(Some(seconds.saturating_mul(1000)));
    }
    // A time before 1970 counts as 1970, which makes no difference to any check.
    if number.as_i64().is_some() {
        return Ok(Some(0));
    }
    match number.as_f64() {
        Some(seconds) if seconds.is_finite() && seconds <= MAX_SAFE_INTEGER as f64 => {
            // `as` turns negative numbers into 0, as above.
            Ok(Some((seconds * 1000.0) as u64))
        }
        _ => Err(wrong),
    }
}

fn token_id(claims: &Map<String, Value>) -> Result<Option<String>, TokenError> {
    match present(claims, "jti") {
        None => Ok(None),
        Some(Value::String(text)) if text.len() <= MAX_TOKEN_ID_BYTES => Ok(Some(text.clone())),
        Some(_) => Err(TokenError::Claims("jti")),
    }
}

fn channels(claims: &Map<String, Value>) -> Result<GrantedChannels, TokenError> {
    let wrong = TokenError::Claims("channels");
    let list = match present(claims, "channels") {
        None => return Ok(GrantedChannels::default()),
        Some(Value::Array(list)) => list,
        Some(_) => return Err(wrong),
    };
    list.iter()
        .map(|value| match value {
            Value::String(text) if is_channel_length(text) => Ok(text.clone()),
            _ => Err(wrong),
        })
        .collect()
}

/// The channels that a token grants, sorted by name. Connections that use the token share the list, because it may have
/// thousands of names.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct GrantedChannels(Arc<[String]>);

impl GrantedChannels {
    /// Whether the token grants `channel`.
    pub(crate) fn contains(&self, channel: &str) -> bool {
        self.0.binary_search_by(|name| name.as_str().cmp(channel)).is_ok()
    }

    /// Whether the token grants no channel.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The names in ascending order.
    pub fn names(&self) -> &[String] {
        &self.0
    }
}

impl FromIterator<String> for GrantedChannels {
    fn from_iter<I: IntoIterator<Item = String>>(names: I) -> Self {
        let mut names: Vec<String> = names.into_iter().collect();
        names.sort_unstable();
        Self(names.into())
    }
}

/// Whether a name has a length that a channel's name can have. Subscribing checks the rest.
pub(super) fn is_channel_length(name: &str) -> bool {
    (1..=MAX_CHANNEL_BYTES).contains(&name.len())
}
