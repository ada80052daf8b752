//! The description of a refused token for the log: the reason, the header's `alg` and `kid`, and the user if the signature is
//! valid. It never contains the token, nor a part of it that could be used again. It is made only when a token is refused,
//! so it may parse the token a second time.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use super::token_error::TokenError;
use super::verify::MAX_TOKEN_BYTES;
use crate::limits::refusals::{TokenReason, quoted};

/// The most bytes of a Close frame's reason (RFC 6455 §5.5).
const CLOSE_REASON_BYTES: usize = 123;

/// The description of a refused token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RefusedToken {
    reason: TokenReason,
    cause: String,
    alg: Option<String>,
    kid: Option<String>,
    /// The user in a token whose signature is valid.
    user: Option<String>,
}

impl TokenError {
    /// The reason for metrics and the log.
    pub(crate) fn reason(self) -> TokenReason {
        match self {
            Self::Malformed => TokenReason::Malformed,
            Self::NoKey => TokenReason::NoKey,
            Self::Signature => TokenReason::Signature,
            Self::Expired => TokenReason::Expired,
            Self::NotYet => TokenReason::NotYet,
            Self::Revoked => TokenReason::Revoked,
            Self::Claims(_) => TokenReason::Claim,
        }
    }

    /// Whether the error implies a valid signature, so that the claims are the issuer's.
    fn is_of_signed(self) -> bool {
        !matches!(self, Self::Malformed | Self::NoKey | Self::Signature)
    }
}

impl RefusedToken {
    /// Describes a token that was refused at `now_ms` (Unix milliseconds) with this error.
    pub(super) fn new(token: &str, error: TokenError, now_ms: u64) -> Self {
        let mut parts = token.split('.').map(decode_object);
        let (header, claims) = match token.len() {
            ..=MAX_TOKEN_BYTES => (parts.next().flatten(), parts.next().flatten()),
            _ => (None, None),
        };
        let claims = claims.filter(|_| error.is_of_signed());
        let text = |name: &str| header.as_ref()?.get(name).map(shown);
        let user = claims.as_ref().and_then(|claims| {
            let named = |name: &&str| claims.get(*name).is_some_and(|value| !value.is_null());
            ["user_id", "sub"].iter().find(|name| named(name)).map(|name| shown(&claims[*name]))
        });
        Self {
            reason: error.reason(),
            cause: cause(token, error, claims.as_ref(), now_ms),
            alg: text("alg"),
            kid: text("kid"),
            user,
        }
    }

    /// Describes a valid token of `user` that is for another user or channel.
    pub(crate) fn misplaced(reason: TokenReason, cause: impl Into<String>, user: &str) -> Self {
        Self { reason, cause: cause.into(), alg: None, kid: None, user: Some(quoted(user)) }
    }

    /// The reason for metrics and the log.
    pub(crate) fn reason(&self) -> TokenReason {
        self.reason
    }

    /// The reason of the Close frame in dev mode, where the client may know why the token is refused.
    pub(crate) fn close_reason(&self) -> String {
        let mut text = format!("token refused: {self}");
        text.truncate(text.floor_char_boundary(CLOSE_REASON_BYTES));
        text
    }
}

impl fmt::Display for RefusedToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.cause)?;
        let facts = [("alg", &self.alg), ("kid", &self.kid), ("user", &self.user)];
        for (name, fact) in facts {
            if let Some(fact) = fact {
                write!(f, ", {name} {fact}")?;
            }
        }
        Ok(())
    }
}

fn decode_object(part: &str) -> Option<Map<String, Value>> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok()
}

fn cause(token: &str, error: TokenError, claims: Option<&Map<String, Value>>, now_ms: u64) -> String {
    let seconds = |name: &str| claims?.get(name)?.as_f64();
    let now_s = now_ms as f64 / 1000.0;
    match error {
        TokenError::Malformed => format!("{error} ({} bytes)", token.len()),
        TokenError::Expired if let Some(at_s) = seconds("exp") => format!("expired {:.0} s ago", now_s - at_s),
        TokenError::NotYet
            if let Some(at_s) =
                seconds("iat").filter(|at_s| *at_s > now_s && seconds("nbf").is_none_or(|nbf_s| nbf_s <= now_s)) =>
        {
            format!("issued {:.0} s in the future: iat is ahead of the server's clock", at_s - now_s)
        }
        TokenError::NotYet if let Some(at_s) = seconds("nbf") => format!("not valid for another {:.0} s", at_s - now_s),
        TokenError::Claims(name) => match claims.and_then(|claims| claims.get(name)) {
            None | Some(Value::Null) => format!("claim {name} is missing"),
            Some(value) => format!("claim {name} is wrong: it is {}", kind(value)),
        },
        error => error.to_string(),
    }
}

fn kind(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Number(number) => format!("the number {number}"),
        Value::String(text) => format!("a text of {} bytes", text.len()),
        Value::Array(list) => format!("a list of {}", list.len()),
        Value::Object(_) => "an object".to_owned(),
    }
}

/// A value from a client or an issuer as the log may show it: quoted and cut.
fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => quoted(text),
        Value::Number(number) => quoted(&number.to_string()).trim_matches('"').to_owned(),
        other => kind(other),
    }
}
