//! What the tokens of one connection allow, and until when: the user's token, and the tokens for single channels. They
//! are made of what `auth` found in the tokens, and are judged again when time passes or a token is revoked. Every
//! signed-in connection has them, so they are small. `session` owns them.

use crate::auth::{ChannelGrant, GrantedChannels, Identity, Revocations, TokenMark};
use crate::limits::refusals::TokenReason;

/// A client is told that its token expires when half of the token's remaining life has passed, but not earlier than this
/// before its end.
const NOTICE_MAX_MS: u16 = 30_000;
/// If a token has less time left than this, its client is told at once: half of that might pass between two ticks.
const NOTICE_AT_ONCE_MS: u16 = 256;
/// The expiry of a token that does not expire, in seconds. A later expiry than this (the year 2106) counts as none.
const NEVER_S: u32 = u32::MAX;
/// The time of issue of a token that does not name one, in seconds.
const UNKNOWN_S: u32 = 0;

/// The rights of a connection.
#[derive(Debug)]
pub(crate) struct Rights {
    expires_at_s: u32,
    issued_at_s: u32,
    /// Rights that most connections do not have.
    more: Option<Box<More>>,
}

#[derive(Debug, Default)]
struct More {
    token_id: Option<Box<str>>,
    /// The channels that the user's token grants beyond the namespaces' rules.
    channels: GrantedChannels,
    /// The rights that the own tokens of subscribed channels give.
    grants: Vec<Grant>,
}

/// The right to one channel, by a token of its own.
#[derive(Debug)]
pub(crate) struct Grant {
    channel: Box<str>,
    expires_at_s: u32,
    issued_at_s: u32,
    token_id: Option<Box<str>>,
    /// How long before the end of the token the client is told, in milliseconds; 0 once it has been told.
    notice_ms: u16,
}

/// Why a token is not valid any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Lapse {
    /// The token has expired.
    Expired,
    /// The token was revoked.
    Revoked,
}

impl Lapse {
    /// The reason in a Close frame.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Expired => "token expired",
            Self::Revoked => "token revoked",
        }
    }

    /// The word for it in the log.
    pub(crate) fn reason(self) -> TokenReason {
        match self {
            Self::Expired => TokenReason::Expired,
            Self::Revoked => TokenReason::Revoked,
        }
    }

    /// The code of `unsubscribed`: 401 if a newer token would help, 403 if it would not.
    pub(crate) fn code(self) -> u16 {
        match self {
            Self::Expired => 401,
            Self::Revoked => 403,
        }
    }
}

impl Rights {
    /// What a user's token gives.
    pub(crate) fn new(identity: &Identity) -> Self {
        let more = More {
            token_id: identity.token_id.as_deref().map(Into::into),
            channels: identity.channels.clone(),
            grants: Vec::new(),
        };
        Self {
            expires_at_s: end_s(identity.expires_at_ms),
            issued_at_s: start_s(identity.issued_at_ms),
            more: (more.token_id.is_some() || !more.channels.is_empty()).then(|| Box::new(more)),
        }
    }

    /// Replaces the user's token by a newer one. What the tokens of channels grant stays.
    pub(crate) fn renew(&mut self, identity: &Identity) {
        let grants = self.more.take().map(|more| more.grants).unwrap_or_default();
        *self = Self::new(identity);
        if !grants.is_empty() {
            self.more.get_or_insert_default().grants = grants;
        }
    }

    /// Whether the user's token names the channel.
    pub(crate) fn names(&self, channel: &str) -> bool {
        self.more.as_ref().is_some_and(|more| more.channels.contains(channel))
    }

    /// Whether any of the tokens names the channel.
    pub(crate) fn grants(&self, channel: &str) -> bool {
        self.names(channel) || self.more.iter().flat_map(|more| &more.grants).any(|grant| *grant.channel == *channel)
    }

    /// Adds the right to a channel that has been subscribed.
    pub(crate) fn add(&mut self, grant: Grant) {
        self.forget(&grant.channel.clone());
        self.more.get_or_insert_default().grants.push(grant);
    }

    /// Removes the right to a channel that is not subscribed any more.
    pub(crate) fn forget(&mut self, channel: &str) {
        if let Some(more) = &mut self.more {
            more.grants.retain(|grant| *grant.channel != *channel);
        }
        self.give_back();
    }

    /// When the user's token expires, in Unix milliseconds.
    pub(crate) fn expires_at_ms(&self) -> Option<u64> {
        ms(self.expires_at_s)
    }

    /// When the token of a channel expires, in Unix milliseconds, if there is one that does.
    pub(crate) fn grant_expires_at_ms(&self, channel: &str) -> Option<u64> {
        let mut grants = self.more.iter().flat_map(|more| &more.grants);
        ms(grants.find(|grant| *grant.channel == *channel)?.expires_at_s)
    }

    /// The next time, in Unix milliseconds, at which a notice is due or a token expires. `notice_ms` is how long before the
    /// end of the user's token the client is told.
    pub(crate) fn next_ms(&self, notice_ms: u16) -> Option<u64> {
        let own = [(self.expires_at_s, notice_ms)];
        let grants = self.more.iter().flat_map(|more| &more.grants).map(|grant| (grant.expires_at_s, grant.notice_ms));
        let moment = |(end_s, notice_ms): (u32, u16)| Some(ms(end_s)?.saturating_sub(u64::from(notice_ms)));
        own.into_iter().chain(grants).filter_map(moment).min()
    }

    /// How long before the end of the user's token the client is told, in milliseconds, if the token is valid from now on.
    pub(crate) fn notice_ms(&self, now_ms: u64) -> u16 {
        notice_ms(self.expires_at_s, now_ms)
    }

    /// The channels of whose tokens the client has to be told now, each once, and when those tokens expire.
    pub(crate) fn take_grant_notices(&mut self, now_ms: u64) -> Vec<(Box<str>, u64)> {
        let mut due = Vec::new();
        for grant in self.more.iter_mut().flat_map(|more| &mut more.grants) {
            if let Some(end_ms) = notice(grant.expires_at_s, &mut grant.notice_ms, now_ms) {
                due.push((grant.channel.clone(), end_ms));
            }
        }
        due
    }

    /// When the user's token expires, if the client has to be told now. The client is told once.
    pub(crate) fn take_notice(&self, notice_ms: &mut u16, now_ms: u64) -> Option<u64> {
        notice(self.expires_at_s, notice_ms, now_ms)
    }

    /// Why the user's token is not valid any more, if it is not.
    pub(crate) fn lapse(&self, user_key: &str, revocations: &Revocations, now_ms: u64) -> Option<Lapse> {
        let token_id = self.more.as_ref().and_then(|more| more.token_id.as_deref());
        lapse(self.expires_at_s, mark(user_key, self.issued_at_s, token_id), revocations, now_ms)
    }

    /// Removes the rights to channels whose tokens are not valid any more. Returns those channels and the reasons.
    pub(crate) fn drop_lapsed(
        &mut self,
        user_key: &str,
        revocations: &Revocations,
        now_ms: u64,
    ) -> Vec<(Box<str>, Lapse)> {
        let Some(more) = &mut self.more else { return Vec::new() };
        let mut lapsed = Vec::new();
        more.grants.retain_mut(|grant| {
            let mark = mark(user_key, grant.issued_at_s, grant.token_id.as_deref());
            let Some(why) = lapse(grant.expires_at_s, mark, revocations, now_ms) else { return true };
            lapsed.push((std::mem::take(&mut grant.channel), why));
            false
        });
        self.give_back();
        lapsed
    }

    fn give_back(&mut self) {
        self.more.take_if(|more| more.token_id.is_none() && more.channels.is_empty() && more.grants.is_empty());
    }
}

impl Grant {
    /// The right that a channel's token gives from now on.
    pub(crate) fn new(grant: ChannelGrant, now_ms: u64) -> Self {
        let expires_at_s = end_s(Some(grant.expires_at_ms));
        Self {
            channel: grant.channel.into(),
            expires_at_s,
            issued_at_s: start_s(grant.issued_at_ms),
            token_id: grant.token_id.map(Into::into),
            notice_ms: notice_ms(expires_at_s, now_ms),
        }
    }

    /// When the token expires, in Unix milliseconds, if it does.
    pub(crate) fn expires_at_ms(&self) -> Option<u64> {
        ms(self.expires_at_s)
    }
}

/// When the token expires, if the client has to be told now.
fn notice(expires_at_s: u32, notice_ms: &mut u16, now_ms: u64) -> Option<u64> {
    let end_ms = ms(expires_at_s).filter(|_| *notice_ms > 0)?;
    let due = end_ms <= now_ms.saturating_add(u64::from(*notice_ms));
    due.then(|| {
        *notice_ms = 0;
        end_ms
    })
}

fn notice_ms(expires_at_s: u32, now_ms: u64) -> u16 {
    let left_ms = ms(expires_at_s).map_or(0, |end_ms| end_ms.saturating_sub(now_ms));
    let before_ms = if left_ms < u64::from(NOTICE_AT_ONCE_MS) { left_ms } else { left_ms / 2 };
    u16::try_from(before_ms).map_or(NOTICE_MAX_MS, |before_ms| before_ms.min(NOTICE_MAX_MS))
}

fn mark<'a>(user_key: &'a str, issued_at_s: u32, token_id: Option<&'a str>) -> TokenMark<'a> {
    let issued_at_ms = (issued_at_s != UNKNOWN_S).then_some(u64::from(issued_at_s) * 1000);
    TokenMark { user_key, issued_at_ms, token_id }
}

fn lapse(expires_at_s: u32, mark: TokenMark<'_>, revocations: &Revocations, now_ms: u64) -> Option<Lapse> {
    if ms(expires_at_s).is_some_and(|at_ms| at_ms <= now_ms) {
        return Some(Lapse::Expired);
    }
    revocations.revokes(mark, now_ms).then_some(Lapse::Revoked)
}

fn ms(at_s: u32) -> Option<u64> {
    (at_s != NEVER_S).then_some(u64::from(at_s) * 1000)
}

/// Rounded up, so that no connection ends early.
fn end_s(at_ms: Option<u64>) -> u32 {
    at_ms.map_or(NEVER_S, |at_ms| u32::try_from(at_ms.div_ceil(1000)).unwrap_or(NEVER_S))
}

/// Rounded down, as revocations are.
fn start_s(at_ms: Option<u64>) -> u32 {
    at_ms.map_or(UNKNOWN_S, |at_ms| u32::try_from(at_ms / 1000).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_without_grants_pays_sixteen_bytes() {
        assert_eq!(size_of::<Rights>(), 16);
        let identity = Identity {
            id: crate::auth::UserId::Int(1),
            name: "A".to_owned(),
            expires_at_ms: Some(5_001),
            issued_at_ms: Some(1_999),
            token_id: None,
            channels: GrantedChannels::default(),
        };
        let mut rights = Rights::new(&identity);
        assert!(rights.more.is_none());
        let grant = ChannelGrant {
            user_key: "1".to_owned(),
            channel: "a".to_owned(),
            expires_at_ms: 3_000,
            issued_at_ms: None,
            token_id: None,
        };
        rights.add(Grant::new(grant.clone(), 0));
        rights.add(Grant::new(grant, 0));
        assert_eq!((rights.grants("a"), rights.names("a"), rights.next_ms(0)), (true, false, Some(1_500)));
        assert_eq!(rights.take_grant_notices(1_499), []);
        assert_eq!(rights.take_grant_notices(1_500), [("a".into(), 3_000)]);
        assert_eq!((rights.take_grant_notices(2_000), rights.next_ms(0)), (vec![], Some(3_000)));
        assert_eq!((rights.grant_expires_at_ms("a"), rights.grant_expires_at_ms("b")), (Some(3_000), None));
        let lapsed = rights.drop_lapsed("1", &Revocations::default(), 3_000);
        assert_eq!(lapsed, [("a".into(), Lapse::Expired)]);
        assert!(rights.more.is_none(), "what is not needed any more is given back");
        assert_eq!((rights.next_ms(0), rights.issued_at_s), (Some(6_000), 1), "an end is rounded up, a start down");
    }

    #[test]
    fn a_token_is_told_of_half_a_minute_ahead_or_half_of_what_is_left() {
        for (left_ms, expected) in [
            (3_600_000, 30_000),
            (60_000, 30_000),
            (59_000, 29_500),
            (30_000, 15_000),
            (2_000, 1_000),
            (256, 128),
            (255, 255),
            (1, 1),
            (0, 0),
        ] {
            assert_eq!(notice_ms(3_600, 3_600_000 - left_ms), expected, "{left_ms}");
        }
        assert_eq!(notice_ms(NEVER_S, 0), 0);
        let mut left = notice_ms(10, 8_000);
        assert_eq!(notice(10, &mut left, 8_999), None);
        assert_eq!((notice(10, &mut left, 9_000), notice(10, &mut left, 9_001)), (Some(10_000), None));
    }
}
