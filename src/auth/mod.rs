//! Token in, identity out. `claims` holds the rules of the contract (docs/protocol.md, "Tokens"). `keys` and `jwks`
//! turn the configured secrets, files and the fetched key set into keys, each of the type in `key`. `verify` brings a
//! token, the keys and the rules together, and answers with a `token_error`. `verified` remembers good signatures,
//! `refused` tells the log of bad tokens, `revocations` knows which tokens count no more although they have not
//! expired, and `authenticator` is what one shard has of all that. `issue` signs tokens for trying things out;
//! `api_keys` is for backends, who have no token. The clock is an argument; nothing here knows a connection. Only
//! `Verifier::new`, `ApiKeys::new` and `hs256_secret` read files, at boot. The shards use it for every token, the control
//! thread for what it fetches, and `cli` for the tokens that it prints.

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
pub use keys::hs256_secret;
pub use refused::RefusedToken;
pub use revocations::{Lifted, Revocation, Revocations, Revoked, TokenMark};
pub use token_error::TokenError;
pub use verified::CacheLimits;
pub use verify::{MAX_TOKEN_BYTES, Verifier};

pub use crate::model::user::{MAX_ID_BYTES, UserId};
