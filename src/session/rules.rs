//! What a session needs to judge a command, and the tokens that commands bring: one that is refused is left here for
//! `shard` to count and tell. Part of `session`.

use std::cell::RefCell;

use crate::auth::{Authenticator, ChannelGrant, Identity, RefusedToken, TokenError};
use crate::limits::refusals::{TokenReason, quoted};
use crate::model::namespace::{Namespaces, PresenceMode};
use crate::model::user::User;
use crate::session::rights::Grant;
use crate::time::clock::Now;

/// What a session needs to judge a command.
#[derive(Debug)]
pub struct Rules<'a> {
    /// Judges tokens.
    pub authenticator: &'a Authenticator,
    /// What the channels allow.
    pub namespaces: &'a Namespaces,
    /// How long a request may stay unanswered.
    pub request_ms: u64,
    /// Most subscriptions of a connection, pending ones included, the lobby not.
    pub subscriptions_max: usize,
    /// How many it has, the lobby not counted.
    pub subscriptions: usize,
    /// Whether the command's channel is one of them.
    pub subscribed: bool,
    /// Whether the client comes from where limits hold.
    pub bounded: bool,
    /// When the connection was accepted, see `shard::Arrival`.
    pub accepted_ns: u64,
    /// Whether a channel's token is looked at: not while too many tokens of the client's address were refused.
    pub looks_at_tokens: bool,
    /// The token that the command brought and that was refused. Written by the session.
    pub refused_token: RefCell<Option<RefusedToken>>,
}

impl Rules<'_> {
    /// Who the token speaks for; a refused one is left in `refused_token`.
    pub(super) fn verify(&self, token: &str, now: Now) -> Option<Identity> {
        let verified = self.authenticator.verify(token, now.unix_ms);
        verified.map_err(|error| self.refuse(token, error, now)).ok()
    }

    /// What the channel token grants; a refused one is left in `refused_token`.
    fn verify_channel(&self, token: &str, now: Now) -> Option<ChannelGrant> {
        let verified = self.authenticator.verify_channel(token, now.unix_ms);
        verified.map_err(|error| self.refuse(token, error, now)).ok()
    }

    fn refuse(&self, token: &str, error: TokenError, now: Now) {
        *self.refused_token.borrow_mut() = Some(self.authenticator.describe(token, error, now.unix_ms));
    }

    /// A good token was shown where it does not count.
    pub(super) fn misplaced(&self, reason: TokenReason, cause: String, user: &str) {
        *self.refused_token.borrow_mut() = Some(RefusedToken::misplaced(reason, cause, user));
    }

    /// Whether the channel's members may be asked for.
    pub(super) fn shows_members(&self, channel: &str) -> bool {
        self.namespaces.of(channel).is_some_and(|namespace| namespace.presence != PresenceMode::Off)
    }
}

/// What the channel's own token gives this user, if it is good and for this channel.
pub(super) fn grant_for(
    channel: &str,
    token: Option<&str>,
    user: &User,
    rules: &Rules<'_>,
    now: Now,
) -> Option<Box<Grant>> {
    let grant = rules.verify_channel(token?, now)?;
    if grant.user_key != **user.key() {
        rules.misplaced(TokenReason::OtherUser, "another user's token".to_owned(), &grant.user_key);
        return None;
    }
    if grant.channel != *channel {
        let cause = format!("it is for channel {}", quoted(&grant.channel));
        rules.misplaced(TokenReason::OtherChannel, cause, &grant.user_key);
        return None;
    }
    Some(Box::new(Grant::new(grant, now.unix_ms)))
}
