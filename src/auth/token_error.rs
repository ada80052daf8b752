//! Why a token is refused. Everything in `auth` that looks at a token answers with this; `refused` makes a log line of it.
//! It knows no key and no claim.

/// Why a token is refused. For the log; outside dev mode a client is only told that it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It isn't a JWT, or too long, or it depends on an extension (`crit`).
    #[error("not a token that can be read")]
    Malformed,
    /// No configured key has its algorithm and `kid`.
    #[error("no key for its algorithm and kid")]
    NoKey,
    /// It was not signed with the key, or was changed since.
    #[error("wrong signature")]
    Signature,
    /// Its time has passed.
    #[error("expired")]
    Expired,
    /// Its time has not come.
    #[error("not valid yet")]
    NotYet,
    /// It was revoked.
    #[error("revoked")]
    Revoked,
    /// A claim is missing or not as it must be.
    #[error("claim {0} is missing or wrong")]
    Claims(&'static str),
}
