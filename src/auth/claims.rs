//! The rules for what a token says, once its signature has been found good: who the user is, until when, and
//! which channels are granted. Pure; knows neither keys nor signatures. Called by `verify`.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::token_error::TokenError;
use crate::model::user::{MAX_SAFE_INTEGER, UserId};

/// The longest user name; a token's longer one is cut.
pub const MAX_NAME_BYTES: usize = 128;
/// The longest token id (`jti`).
pub const MAX_TOKEN_ID_BYTES: usize = 256;
/// The longest channel name there can be; a longer one in a token is a fault of whoever issued it.
const MAX_CHANNEL_BYTES: usize = 200;
/// An id as it stands in JSON. A number must be written as an integer: 1.0 and 1e3 are none.
pub fn user_id_from_json(value: &Value) -> Option<UserId> {
    match value {
        Value::Number(number) => UserId::int(number.as_i64()?),
        Value::String(text) => UserId::text(text),
        _ => None,
    }
}

/// Who a valid token speaks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The user.
    pub id: UserId,
    /// The name to show, not escaped, cut to [`MAX_NAME_BYTES`]; the id's text if the token has none.
    pub name: String,
    /// From this moment on the server does not take the token (`exp` plus the configured leeway). `None` for a
    /// static token only.
    pub expires_at_ms: Option<u64>,
    /// `iat`, for revocations: [`Rules::issued_at`] says how a time ahead of our clock counts.
    pub issued_at_ms: Option<u64>,
    /// `jti`.
    pub token_id: Option<String>,
    /// Channels that the user may subscribe to beyond the namespace's rule.
    pub channels: GrantedChannels,
}

/// What a channel token grants: this user may subscribe to this channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChannelGrant {
    /// The user's [`UserId::key`]. The token is for nobody else.
    pub user_key: String,
    /// The channel's name, of a possible length; the rest is checked where one subscribes.
    pub channel: String,
    /// From this moment on the right has lapsed (`exp` plus the configured leeway).
    pub expires_at_ms: u64,
    /// `iat`.
    pub issued_at_ms: Option<u64>,
    /// `jti`.
    pub token_id: Option<String>,
}

/// What the configuration asks of claims.
#[derive(Clone, Debug, Default)]
pub(super) struct ClaimRules {
    pub(super) issuer: Option<String>,
    pub(super) audience: Option<String>,
    pub(super) leeway_ms: u64,
}

impl ClaimRules {
    /// Checks the claims of a token whose signature is good.
    pub(super) fn check(&self, claims: &Map<String, Value>, now_ms: u64) -> Result<Identity, TokenError> {
        // The right to one channel, handed to whoever may have that and no more.
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

    /// Checks the claims of a channel token whose signature is good.
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

    /// When a token was issued, as far as revocations go. A token from the future is refused: no revocation of "what was
    /// issued until now" would reach it. One that is ahead by no more than the leeway comes from a clock that is off, so
    /// its time says nothing: it counts as issued a leeway ago, and whatever was revoked since then includes it.
    fn issued_at(&self, claims: &Map<String, Value>, now_ms: u64) -> Result<Option<u64>, TokenError> {
        match time(claims, "iat")? {
            Some(at_ms) if at_ms > now_ms.saturating_add(self.leeway_ms) => Err(TokenError::NotYet),
            Some(at_ms) if at_ms > now_ms => Ok(Some(now_ms.saturating_sub(self.leeway_ms))),
            issued_at_ms => Ok(issued_at_ms),
        }
    }

    /// Whether a token is in force and meant for us; returns when it ends.
    fn check_validity(&self, claims: &Map<String, Value>, now_ms: u64) -> Result<u64, TokenError> {
        let expires_at_ms = time(claims, "exp")?.ok_or(TokenError::Claims("exp"))?.saturating_add(self.leeway_ms);
        // RFC 7519 §4.1.4: not "on or after" that time.
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

/// A claim that is there. Many libraries write null for what they don't have.
fn present<'a>(claims: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    claims.get(name).filter(|value| !value.is_null())
}

fn user_id(claims: &Map<String, Value>) -> Result<UserId, TokenError> {
    // A `user_id` that is there but wrong is refused, not passed over: `sub` may be someone else.
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
            // Who has no name is often sent with an empty one; locking them out would help nobody.
            Some(Value::String(text)) => {
                let name = displayable(text);
                if !name.is_empty() {
                    return Ok(name);
                }
            }
            // Databases and spreadsheets make numbers of names.
            Some(Value::Number(number)) => return Ok(displayable(&number.to_string())),
            Some(_) => return Err(TokenError::Claims(claim)),
        }
    }
    Ok(id.to_string())
}

/// A name as it is shown: without control characters, which would garble a page or a terminal, without blanks around it, and
/// cut between two characters where it has more than [`MAX_NAME_BYTES`].
pub(super) fn displayable(name: &str) -> String {
    let name: String = name.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let name = name.trim();
    name[..name.floor_char_boundary(MAX_NAME_BYTES)].trim_end().to_owned()
}

/// A NumericDate (RFC 7519 §2: seconds, possibly with a fraction) in milliseconds.
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
    // Before 1970: long past, which for `nbf` and `iat` is as good as at the epoch.
    if number.as_i64().is_some() {
        return Ok(Some(0));
    }
    match number.as_f64() {
        Some(seconds) if seconds.is_finite() && seconds <= MAX_SAFE_INTEGER as f64 => {
            // `as` takes what is below zero to zero, as above.
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

/// The channels that a token names. Made once for each token that is parsed, and shared by the connections that live by
/// it: a token may name thousands.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct GrantedChannels(Arc<[String]>);

impl GrantedChannels {
    /// Whether it is one of them.
    pub fn contains(&self, channel: &str) -> bool {
        self.0.binary_search_by(|name| name.as_str().cmp(channel)).is_ok()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All of them, in order.
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

/// Whether a name could be a channel's, by its length; the rest is checked where one subscribes.
pub(super) fn is_channel_length(name: &str) -> bool {
    (1..=MAX_CHANNEL_BYTES).contains(&name.len())
}
