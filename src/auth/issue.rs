//! Issues HS256 tokens for `uringcast token` and for the demo page of dev mode. A real site's backend issues its users'
//! tokens itself. The time and the token's id are arguments.

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};

use super::claims::{MAX_NAME_BYTES, is_channel_length};
use crate::config::Secret;
use crate::model::user::UserId;

/// The content of a new token.
#[derive(Clone, Debug)]
pub struct NewToken<'a> {
    /// The user whom the token signs in.
    pub user: &'a UserId,
    /// The user's name for display; empty for the id's text.
    pub name: &'a str,
    /// How long the token is valid, in seconds.
    pub ttl_s: u64,
    /// The channels that the user may subscribe to beyond the namespace's rule.
    pub channels: &'a [String],
    /// The claim `iss`, which must be `auth.issuer` if that is set.
    pub issuer: Option<&'a str>,
    /// The claim `aud`, which must be `auth.audience` if that is set.
    pub audience: Option<&'a str>,
    /// The token's id (`jti`).
    pub token_id: Option<&'a str>,
}

/// The content of a new channel token.
#[derive(Clone, Debug)]
pub struct NewChannelToken<'a> {
    /// The only user who may use the token.
    pub(crate) user: &'a UserId,
    /// The channel that the token lets this user subscribe to.
    pub(crate) channel: &'a str,
    /// How long the token is valid, in seconds.
    pub(crate) ttl_s: u64,
    /// The claim `iss`, which must be `auth.issuer` if that is set.
    pub(crate) issuer: Option<&'a str>,
    /// The claim `aud`, which must be `auth.audience` if that is set.
    pub(crate) audience: Option<&'a str>,
    /// The token's id (`jti`).
    pub(crate) token_id: Option<&'a str>,
}

/// Why a token can't be issued.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IssueError {
    /// The name is longer than the server accepts.
    #[error("the name must have at most {MAX_NAME_BYTES} bytes")]
    Name,
    /// No channel can have this name.
    #[error("{0:?} cannot be a channel: its name has 1 to 200 bytes")]
    Channel(String),
    /// The cryptography library could not sign.
    #[error("cannot sign: {0}")]
    Signing(String),
}

/// Makes a JWT that is signed with `secret` and valid from `now_ms` on.
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

/// Makes a channel token. It lets this user subscribe to this channel, and signs nobody in.
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
