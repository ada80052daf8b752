//! Signs HS256 tokens: for `uringcast token` and for the demo page of dev mode. A real site's backend issues
//! its users' tokens itself. Pure: the clock and the token's id are arguments.

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};

use super::claims::{MAX_NAME_BYTES, is_channel_length};
use crate::config::Secret;
use crate::model::user::UserId;

/// What a new token says.
#[derive(Clone, Debug)]
pub struct NewToken<'a> {
    /// The user.
    pub user: &'a UserId,
    /// The name to show; empty for the id's text.
    pub name: &'a str,
    /// How long it is valid.
    pub ttl_s: u64,
    /// Channels that the user may subscribe to beyond the namespace's rule.
    pub channels: &'a [String],
    /// `iss`, as `auth.issuer` wants it.
    pub issuer: Option<&'a str>,
    /// `aud`, as `auth.audience` wants it.
    pub audience: Option<&'a str>,
    /// `jti`.
    pub token_id: Option<&'a str>,
}

/// What a new channel token says.
#[derive(Clone, Debug)]
pub struct NewChannelToken<'a> {
    /// The user whom it is for.
    pub user: &'a UserId,
    /// The channel that this user may subscribe to.
    pub channel: &'a str,
    /// How long it is valid.
    pub ttl_s: u64,
    /// `iss`, as `auth.issuer` wants it.
    pub issuer: Option<&'a str>,
    /// `aud`, as `auth.audience` wants it.
    pub audience: Option<&'a str>,
    /// `jti`.
    pub token_id: Option<&'a str>,
}

/// Why a token can't be issued.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IssueError {
    /// The server would refuse it.
    #[error("the name must have at most {MAX_NAME_BYTES} bytes")]
    Name,
    /// The server would refuse it.
    #[error("{0:?} cannot be a channel: its name has 1 to 200 bytes")]
    Channel(String),
    /// The cryptography failed.
    #[error("cannot sign: {0}")]
    Signing(String),
}

/// A JWT signed with `secret`, valid from `now_ms` on.
pub fn issue(secret: &Secret, token: &NewToken<'_>, now_ms: u64) -> Result<String, IssueError> {
    if token.name.len() > MAX_NAME_BYTES {
        return Err(IssueError::Name);
    }
    if let Some(wrong) = token.channels.iter().find(|channel| !is_channel_length(channel)) {
        return Err(IssueError::Channel(wrong.clone()));
    }
    let mut claims = claims_for(token.user, token.ttl_s, now_ms);
    if !token.name.is_empty() {
        claims["username"] = json!(token.name);
    }
    if !token.channels.is_empty() {
        claims["channels"] = json!(token.channels);
    }
    sign(secret, claims, [("iss", token.issuer), ("aud", token.audience), ("jti", token.token_id)])
}

/// A channel token: it signs nobody in, and lets this user subscribe to this channel.
pub fn issue_channel(secret: &Secret, token: &NewChannelToken<'_>, now_ms: u64) -> Result<String, IssueError> {
    if !is_channel_length(token.channel) {
        return Err(IssueError::Channel(token.channel.to_owned()));
    }
    let mut claims = claims_for(token.user, token.ttl_s, now_ms);
    claims["channel"] = json!(token.channel);
    sign(secret, claims, [("iss", token.issuer), ("aud", token.audience), ("jti", token.token_id)])
}

fn claims_for(user: &UserId, ttl_s: u64, now_ms: u64) -> Value {
    let now_s = now_ms / 1000;
    json!({ "user_id": user, "iat": now_s, "exp": now_s.saturating_add(ttl_s) })
}

fn sign(secret: &Secret, mut claims: Value, optional: [(&str, Option<&str>); 3]) -> Result<String, IssueError> {
    for (claim, value) in optional {
        if let Some(value) = value {
            claims[claim] = json!(value);
        }
    }
    let key = EncodingKey::from_secret(secret.expose().as_bytes());
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &key)
        .map_err(|error| IssueError::Signing(error.to_string()))
}
