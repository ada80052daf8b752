//! The state that one shard verifies tokens with: the keys, the tokens whose signature was verified before, and the
//! revocations. `verify` and `claims` have the rules. A shard owns one, and its sessions ask it.

use std::sync::Arc;

use super::claims::{ChannelGrant, Identity};
use super::refused::RefusedToken;
use super::revocations::{Lifted, Revocation, Revocations, TokenMark};
use super::token_error::TokenError;
use super::verified::{CacheLimits, VerifiedTokens};
use super::verify::Verifier;

/// Verifies the tokens that one shard receives.
#[derive(Debug)]
pub struct Authenticator {
    verifier: Arc<Verifier>,
    verified: VerifiedTokens,
    revocations: Revocations,
}

impl Authenticator {
    /// An authenticator with these keys and this much memory for verified tokens, without revocations.
    pub fn new(verifier: Arc<Verifier>, cache: CacheLimits) -> Self {
        Self { verifier, verified: VerifiedTokens::new(cache), revocations: Revocations::default() }
    }

    /// Replaces the keys, and forgets the tokens that were verified with the old ones.
    pub(crate) fn set_verifier(&mut self, verifier: Arc<Verifier>) {
        self.verifier = verifier;
        self.verified.clear();
    }

    /// Verifies a token at `now_ms` (Unix milliseconds). Returns the user that it signs in.
    ///
    /// # Errors
    /// The reason why the token is refused.
    pub fn verify(&mut self, token: &str, now_ms: u64) -> Result<Identity, TokenError> {
        let identity = self.verifier.verify_with(token, now_ms, &mut self.verified)?;
        let user_key = &identity.id.key();
        let mark = TokenMark { user_key, issued_at_ms: identity.issued_at_ms, token_id: identity.token_id.as_deref() };
        if self.revocations.revokes(mark, now_ms) { Err(TokenError::Revoked) } else { Ok(identity) }
    }

    /// Verifies a channel token at `now_ms` (Unix milliseconds). Returns what it grants.
    ///
    /// # Errors
    /// The reason why the token is refused.
    pub(crate) fn verify_channel(&mut self, token: &str, now_ms: u64) -> Result<ChannelGrant, TokenError> {
        let grant = self.verifier.verify_channel_with(token, now_ms, &mut self.verified)?;
        let user_key = &grant.user_key;
        let mark = TokenMark { user_key, issued_at_ms: grant.issued_at_ms, token_id: grant.token_id.as_deref() };
        if self.revocations.revokes(mark, now_ms) { Err(TokenError::Revoked) } else { Ok(grant) }
    }

    /// Whether this token is refused now, but may be valid with keys that can still be fetched (`auth.jwks_url`).
    pub(crate) fn awaits_keys(&mut self, token: &str) -> bool {
        self.verifier.awaits_keys(token, &mut self.verified)
    }

    /// Describes for the log a token that [`Authenticator::verify`] or [`Authenticator::verify_channel`] has refused.
    pub(crate) fn describe(&self, token: &str, error: TokenError, now_ms: u64) -> RefusedToken {
        RefusedToken::new(token, error, now_ms)
    }

    /// Refuses the tokens that the revocation names from now on. New keys do not change that.
    pub(crate) fn revoke(&mut self, revocation: &Revocation, now_ms: u64) {
        self.revocations.insert(revocation);
        self.revocations.prune(now_ms);
    }

    /// Takes revocations back: their tokens are accepted again.
    pub(crate) fn lift(&mut self, lifted: &Lifted) {
        self.revocations.lift(lifted);
    }

    /// Sets the revocations that are in force from the start.
    pub(crate) fn set_revocations(&mut self, revocations: Revocations) {
        self.revocations = revocations;
    }

    /// The revocations in force.
    pub(crate) fn revocations(&self) -> &Revocations {
        &self.revocations
    }

    /// How many tokens are remembered, and the bytes that they take.
    pub(crate) fn remembered(&self) -> CacheLimits {
        self.verified.size()
    }

    /// How often a token was found among the verified ones, and how often a signature had to be verified and was valid.
    pub(crate) fn looked_up(&self) -> (u64, u64) {
        self.verified.looked_up()
    }
}
