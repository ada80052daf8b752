//! What one shard judges tokens by: the keys, and the tokens that it has found good before. `verify` and `claims`
//! have the rules; this is the state around them. Owned by a shard, asked by its sessions.

use std::cell::RefCell;
use std::sync::Arc;

use super::claims::{ChannelGrant, Identity};
use super::verified::{CacheLimits, VerifiedTokens};
use super::verify::{TokenError, Verifier};

/// Judges the tokens that come to one shard.
#[derive(Debug)]
pub struct Authenticator {
    verifier: Arc<Verifier>,
    verified: RefCell<VerifiedTokens>,
}

impl Authenticator {
    /// With these keys, and so much memory for tokens that were found good.
    pub fn new(verifier: Arc<Verifier>, cache: CacheLimits) -> Self {
        Self { verifier, verified: RefCell::new(VerifiedTokens::new(cache)) }
    }

    /// From now on tokens are judged by these keys. What was found good by others counts no more.
    pub fn set_verifier(&mut self, verifier: Arc<Verifier>) {
        self.verifier = verifier;
        self.verified.get_mut().clear();
    }

    /// Who `token` speaks for at `now_ms` (Unix milliseconds).
    ///
    /// # Errors
    /// Why the token is refused.
    pub fn verify(&self, token: &str, now_ms: u64) -> Result<Identity, TokenError> {
        self.verifier.verify_with(token, now_ms, &mut self.verified.borrow_mut())
    }

    /// What a channel token grants at `now_ms`.
    ///
    /// # Errors
    /// Why the token is refused.
    pub fn verify_channel(&self, token: &str, now_ms: u64) -> Result<ChannelGrant, TokenError> {
        self.verifier.verify_channel_with(token, now_ms, &mut self.verified.borrow_mut())
    }

    /// How much is remembered.
    pub fn remembered(&self) -> CacheLimits {
        self.verified.borrow().size()
    }
}
