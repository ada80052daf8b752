//! What one shard judges tokens by: the keys, the tokens that it has found good before, and those that were revoked.
//! `verify` and `claims` have the rules; this is the state around them. Owned by a shard, asked by its sessions.

use std::cell::RefCell;
use std::sync::Arc;

use super::claims::{ChannelGrant, Identity};
use super::refused::RefusedToken;
use super::revocations::{Lifted, Revocation, Revocations, TokenMark};
use super::token_error::TokenError;
use super::verified::{CacheLimits, VerifiedTokens};
use super::verify::Verifier;

/// Judges the tokens that come to one shard.
#[derive(Debug)]
pub struct Authenticator {
    verifier: Arc<Verifier>,
    verified: RefCell<VerifiedTokens>,
    revocations: Revocations,
}

impl Authenticator {
    /// With these keys, and so much memory for tokens that were found good.
    pub fn new(verifier: Arc<Verifier>, cache: CacheLimits) -> Self {
        Self { verifier, verified: RefCell::new(VerifiedTokens::new(cache)), revocations: Revocations::default() }
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
        let identity = self.verifier.verify_with(token, now_ms, &mut self.verified.borrow_mut())?;
        let user_key = &identity.id.key();
        let mark = TokenMark { user_key, issued_at_ms: identity.issued_at_ms, token_id: identity.token_id.as_deref() };
        if self.revocations.revokes(mark, now_ms) { Err(TokenError::Revoked) } else { Ok(identity) }
    }

    /// What a channel token grants at `now_ms`.
    ///
    /// # Errors
    /// Why the token is refused.
    pub fn verify_channel(&self, token: &str, now_ms: u64) -> Result<ChannelGrant, TokenError> {
        let grant = self.verifier.verify_channel_with(token, now_ms, &mut self.verified.borrow_mut())?;
        let user_key = &grant.user_key;
        let mark = TokenMark { user_key, issued_at_ms: grant.issued_at_ms, token_id: grant.token_id.as_deref() };
        if self.revocations.revokes(mark, now_ms) { Err(TokenError::Revoked) } else { Ok(grant) }
    }

    /// Whether this token is refused now and could be good by keys that are to be fetched (`auth.jwks_url`).
    pub fn awaits_keys(&self, token: &str) -> bool {
        self.verifier.awaits_keys(token, &mut self.verified.borrow_mut())
    }

    /// What the log is to tell of a token that [`Authenticator::verify`] or [`Authenticator::verify_channel`] refused.
    pub fn describe(&self, token: &str, error: TokenError, now_ms: u64) -> RefusedToken {
        RefusedToken::new(token, error, now_ms)
    }

    /// From now on the tokens that this names count no more. Keys read anew change nothing about that.
    pub fn revoke(&mut self, revocation: &Revocation, now_ms: u64) {
        self.revocations.insert(revocation);
        self.revocations.prune(now_ms);
    }

    /// From now on these revocations count no more.
    pub fn lift(&mut self, lifted: &Lifted) {
        self.revocations.lift(lifted);
    }

    /// What is in force from the start.
    pub fn set_revocations(&mut self, revocations: Revocations) {
        self.revocations = revocations;
    }

    /// What was revoked.
    pub fn revocations(&self) -> &Revocations {
        &self.revocations
    }

    /// How much is remembered.
    pub fn remembered(&self) -> CacheLimits {
        self.verified.borrow().size()
    }

    /// How often a token's signature was remembered to be good, and how often it had to be checked and is good.
    pub fn looked_up(&self) -> (u64, u64) {
        self.verified.borrow().looked_up()
    }
}
