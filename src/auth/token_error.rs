//! Why a token is refused. Every file of `auth` that checks a token returns this error, and `refused` describes it for the
//! log.

/// Why a token is refused. It is for the log: outside dev mode a client does not learn the reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// The token is not a JWT, is too long, or needs an extension (`crit`).
    #[error("not a token that can be read")]
    Malformed,
    /// No key has the token's algorithm and `kid`.
    #[error("no key for its algorithm and kid")]
    NoKey,
    /// The token was not signed with the key, or was changed after signing.
    #[error("wrong signature")]
    Signature,
    /// The token has expired (`exp`).
    #[error("expired")]
    Expired,
    /// The token is not valid yet (`nbf` or `iat`).
    #[error("not valid yet")]
    NotYet,
    /// The backend has revoked the token.
    #[error("revoked")]
    Revoked,
    /// The named claim is missing or wrong.
    #[error("claim {0} is missing or wrong")]
    Claims(&'static str),
}
