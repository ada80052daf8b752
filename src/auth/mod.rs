//! Verifies tokens: a token goes in, an identity or a reason comes out.
//!
//! - `claims` has the rules of the contract (docs/protocol.md, "Tokens").
//! - `keys` and `jwks` read the configured secrets and files and the fetched key set. `key` is one key.
//! - `verify` checks a token with the keys and the rules; `token_error` is why a token is refused.
//! - `verified` remembers tokens whose signature is valid. `revocations` has the tokens that are refused before they
//!   expire. `authenticator` is all the state that one shard needs.
//! - `refused` describes a refused token for the log.
//! - `issue` makes tokens for trying things out. `api_keys` are the keys of backends.
//!
//! The time is an argument, and nothing here knows a connection. Only `Verifier::new`, `ApiKeys::new` and `hs256_secret`
//! read files, at the start and on a reload.

mod api_keys;
mod authenticator;
mod claims;
mod issue;
mod jwks;
mod key;
mod keys;
mod refused;
mod revocations;
mod token_error;
mod verified;
mod verify;

#[cfg(test)]
mod tests;

pub use api_keys::ApiKeys;
pub use authenticator::Authenticator;
pub use claims::{ChannelGrant, GrantedChannels, Identity, MAX_NAME_BYTES, MAX_TOKEN_ID_BYTES, user_id_from_json};
pub use issue::{IssueError, NewChannelToken, NewToken, issue, issue_channel};
pub use jwks::FetchedKeys;
pub(crate) use keys::hs256_secret;
pub(crate) use refused::RefusedToken;
pub use revocations::{Lifted, Revocation, Revocations, Revoked, TokenMark};
pub(crate) use token_error::TokenError;
pub use verified::CacheLimits;
pub use verify::{MAX_TOKEN_BYTES, Verifier};

pub use crate::model::user::{MAX_ID_BYTES, UserId};
