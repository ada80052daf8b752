//! What the tokens of one connection give it, and until when: the user's token, and those that came for single
//! channels. Made of what `auth` found in them, and judged anew when the clock or a revocation says so. Small: every
//! signed-in connection has one. Knows no socket and no request; `session` owns it.

use crate::auth::{ChannelGrant, Identity, Revocations, TokenMark};
use crate::refusals::TokenReason;

/// How long before its end a client is told that its token expires.
pub const NOTICE_MS: u64 = 30_000;
/// When a token expires that doesn't, in seconds. Later ends than this one (the year 2106) count as none.
const NEVER_S: u32 = u32::MAX;
/// When a token was issued that doesn't say.
const UNKNOWN_S: u32 = 0;

/// The rights of a connection.
#[derive(Debug)]
pub struct Rights {
    expires_at_s: u32,
    issued_at_s: u32,
    /// What most tokens don't have.
    more: Option<Box<More>>,
}

#[derive(Debug, Default)]
struct More {
    token_id: Option<Box<str>>,
    /// What the user's token grants beyond the namespaces' rules.
    channels: Box<[String]>,
    /// What the tokens of channels that are subscribed grant.
    grants: Vec<Grant>,
}

/// The right to one channel, by a token of its own.
#[derive(Debug)]
pub struct Grant {
    channel: Box<str>,
    expires_at_s: u32,
    issued_at_s: u32,
    token_id: Option<Box<str>>,
}

/// Why a token counts no more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lapse {
    /// Its time has passed.
    Expired,
    /// It was revoked.
    Revoked,
}

impl Lapse {
    /// As a reason for closing.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Expired => "token expired",
            Self::Revoked => "token revoked",
        }
    }

    /// The word for it in the log.
    pub fn reason(self) -> TokenReason {
        match self {
            Self::Expired => TokenReason::Expired,
            Self::Revoked => TokenReason::Revoked,
        }
    }

    /// What `unsubscribed` says of a channel: with a newer token of the same kind it would go on, or it would not.
    pub fn code(self) -> u16 {
        match self {
            Self::Expired => 401,
            Self::Revoked => 403,
        }
    }
}

impl Rights {
    /// What a user's token gives.
    pub fn new(identity: &Identity) -> Self {
        let more = More {
            token_id: identity.token_id.as_deref().map(Into::into),
            channels: identity.channels.clone().into(),
            grants: Vec::new(),
        };
        Self {
            expires_at_s: end_s(identity.expires_at_ms),
            issued_at_s: start_s(identity.issued_at_ms),
            more: (more.token_id.is_some() || !more.channels.is_empty()).then(|| Box::new(more)),
        }
    }

    /// A newer token of the same user takes the place of the first. What tokens of channels grant stays.
    pub fn renew(&mut self, identity: &Identity) {
        let grants = self.more.take().map(|more| more.grants).unwrap_or_default();
        *self = Self::new(identity);
        if !grants.is_empty() {
            self.more.get_or_insert_default().grants = grants;
        }
    }

    /// Whether the user's token names the channel.
    pub fn names(&self, channel: &str) -> bool {
        self.more.iter().flat_map(|more| &more.channels).any(|named| named == channel)
    }

    /// Whether any of the tokens names the channel.
    pub fn grants(&self, channel: &str) -> bool {
        self.names(channel) || self.more.iter().flat_map(|more| &more.grants).any(|grant| *grant.channel == *channel)
    }

    /// Adds the right to a channel that has been subscribed.
    pub fn add(&mut self, grant: Grant) {
        self.forget(&grant.channel.clone());
        self.more.get_or_insert_default().grants.push(grant);
    }

    /// The channel is not subscribed any more: the right that came with that is over too.
    pub fn forget(&mut self, channel: &str) {
        if let Some(more) = &mut self.more {
            more.grants.retain(|grant| *grant.channel != *channel);
        }
        self.give_back();
    }

    /// When the user's token expires, in Unix milliseconds.
    pub fn expires_at_ms(&self) -> Option<u64> {
        ms(self.expires_at_s)
    }

    /// The next moment, in Unix milliseconds, at which something changes: the notice, unless it was given, an end.
    pub fn next_ms(&self, noticed: bool) -> Option<u64> {
        let own = self.expires_at_ms().map(|at_ms| if noticed { at_ms } else { at_ms.saturating_sub(NOTICE_MS) });
        let grants = self.more.iter().flat_map(|more| &more.grants).filter_map(|grant| ms(grant.expires_at_s));
        own.into_iter().chain(grants).min()
    }

    /// Why the user's token counts no more, if so.
    pub fn lapse(&self, user_key: &str, revocations: &Revocations, now_ms: u64) -> Option<Lapse> {
        let token_id = self.more.as_ref().and_then(|more| more.token_id.as_deref());
        lapse(self.expires_at_s, mark(user_key, self.issued_at_s, token_id), revocations, now_ms)
    }

    /// Takes out the rights to channels that count no more, with the reason.
    pub fn drop_lapsed(&mut self, user_key: &str, revocations: &Revocations, now_ms: u64) -> Vec<(Box<str>, Lapse)> {
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

impl From<ChannelGrant> for Grant {
    fn from(grant: ChannelGrant) -> Self {
        Self {
            channel: grant.channel.into(),
            expires_at_s: end_s(Some(grant.expires_at_ms)),
            issued_at_s: start_s(grant.issued_at_ms),
            token_id: grant.token_id.map(Into::into),
        }
    }
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

/// Rounded up: nobody is cut early.
fn end_s(at_ms: Option<u64>) -> u32 {
    at_ms.map_or(NEVER_S, |at_ms| u32::try_from(at_ms.div_ceil(1000)).unwrap_or(NEVER_S))
}

/// Rounded down, as revocations do.
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
            channels: Vec::new(),
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
        rights.add(grant.clone().into());
        rights.add(grant.into());
        assert_eq!((rights.grants("a"), rights.names("a"), rights.next_ms(true)), (true, false, Some(3_000)));
        let lapsed = rights.drop_lapsed("1", &Revocations::default(), 3_000);
        assert_eq!(lapsed, [("a".into(), Lapse::Expired)]);
        assert!(rights.more.is_none(), "what is not needed any more is given back");
        assert_eq!((rights.next_ms(true), rights.issued_at_s), (Some(6_000), 1), "an end is rounded up, a start down");
    }
}
