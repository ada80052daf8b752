//! What a session needs to know to judge a command. A token that is refused is left here, so that `shard` can count and
//! log it. Part of `session`.

use crate::auth::{Authenticator, ChannelGrant, Identity, RefusedToken, TokenError};
use crate::limits::refusals::{TokenReason, quoted};
use crate::model::namespace::{Namespaces, PresenceMode};
use crate::model::user::User;
use crate::session::rights::Grant;
use crate::time::clock::Now;

/// What a session needs to know to judge a command.
#[derive(Debug)]
pub(crate) struct Rules<'a> {
    /// Checks the tokens of commands.
    pub(crate) authenticator: &'a mut Authenticator,
    /// The rules of the channels.
    pub(crate) namespaces: &'a Namespaces,
    /// How long a request may stay unanswered, in milliseconds.
    pub(crate) request_ms: u64,
    /// Most subscriptions of a connection. Pending ones count, the lobby does not.
    pub(crate) subscriptions_max: usize,
    /// The number of the connection's subscriptions. The lobby may be among them only if the number is below the bound.
    pub(crate) subscriptions: usize,
    /// The connection is subscribed to the command's channel.
    pub(crate) subscribed: bool,
    /// The limits hold for the client's address.
    pub(crate) bounded: bool,
    /// When the connection was accepted, see `shard::Arrival`.
    pub(crate) accepted_ns: u64,
    /// A channel's token is checked. Not set while too many tokens of the client's address have been refused.
    pub(crate) looks_at_tokens: bool,
    /// The token of the command, if it was refused. The session writes it.
    pub(crate) refused_token: Option<RefusedToken>,
}

impl Rules<'_> {
    /// The identity in the token. A refused token is left in `refused_token`.
    pub(super) fn verify(&mut self, token: &str, now: Now) -> Option<Identity> {
        let verified = self.authenticator.verify(token, now.unix_ms);
        verified.map_err(|error| self.refuse(token, error, now)).ok()
    }

    /// What the channel's token grants. A refused token is left in `refused_token`.
    fn verify_channel(&mut self, token: &str, now: Now) -> Option<ChannelGrant> {
        let verified = self.authenticator.verify_channel(token, now.unix_ms);
        verified.map_err(|error| self.refuse(token, error, now)).ok()
    }

    fn refuse(&mut self, token: &str, error: TokenError, now: Now) {
        self.refused_token = Some(self.authenticator.describe(token, error, now.unix_ms));
    }

    /// Notes that a good token was shown where it does not count.
    pub(super) fn misplaced(&mut self, reason: TokenReason, cause: String, user: &str) {
        self.refused_token = Some(RefusedToken::misplaced(reason, cause, user));
    }

    /// Whether the channel's members may be asked for.
    pub(super) fn shows_members(&self, channel: &str) -> bool {
        self.namespaces.of(channel).is_some_and(|namespace| namespace.presence != PresenceMode::Off)
    }
}

/// The right that the channel's own token gives this user, if the token is good and for this channel.
pub(super) fn grant_for(
    channel: &str,
    token: Option<&str>,
    user: &User,
    rules: &mut Rules<'_>,
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
