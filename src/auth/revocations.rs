//! Tokens that count no more although they have not expired: by their id, or by user and time of issue, or all that
//! were issued before a time. Kept until the tokens have expired, as far as whoever revokes can say when that is. The
//! clock is an argument. Each shard has a copy, and the control thread one by which it knows whether there is room.

use std::collections::HashMap;

use foldhash::quality::RandomState;
use serde::{Deserialize, Serialize};

/// Which tokens a revocation is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Revoked {
    /// The one with this `jti`.
    TokenId(Box<str>),
    /// Those of one user, by [`UserId::key`](super::UserId::key), that were issued before a time.
    User {
        /// Whose.
        key: Box<str>,
        /// In Unix milliseconds.
        issued_before_ms: u64,
    },
    /// Everyone's that were issued before a time, in Unix milliseconds.
    IssuedBefore(u64),
}

/// One revocation.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Revocation {
    /// Of what.
    pub revoked: Revoked,
    /// When it may be forgotten, in Unix milliseconds: the tokens have expired by then.
    pub until_ms: u64,
}

/// Which revocations are to be lifted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lifted {
    /// That of one token.
    TokenId(Box<str>),
    /// All of one user; or only those with this time, in Unix milliseconds.
    User {
        /// Whose.
        key: Box<str>,
        /// Which, if not all.
        issued_before_ms: Option<u64>,
    },
    /// Everyone's with this time, in Unix milliseconds.
    IssuedBefore(u64),
}

/// What a revocation can name of a token.
#[derive(Clone, Copy, Debug)]
pub struct TokenMark<'a> {
    /// Whose it is.
    pub user_key: &'a str,
    /// `iat`. A token that doesn't say was issued before any time that a revocation can name.
    pub issued_at_ms: Option<u64>,
    /// `jti`. A token without one can't be revoked by its id.
    pub token_id: Option<&'a str>,
}

/// "Issued before this" until then. Of one subject there may be several, none of which makes another needless.
#[derive(Clone, Copy, Debug)]
struct Cutoff {
    before_ms: u64,
    until_ms: u64,
}

/// All that are in force.
#[derive(Clone, Debug, Default)]
pub struct Revocations {
    token_ids: HashMap<Box<str>, u64, RandomState>,
    users: HashMap<Box<str>, Vec<Cutoff>, RandomState>,
    everyone: Vec<Cutoff>,
    cutoffs: usize,
}

impl Revocations {
    /// How many there are.
    pub fn count(&self) -> usize {
        self.token_ids.len() + self.cutoffs
    }

    /// One more. Returns whether anything has changed: it may say no more than what is there.
    pub fn insert(&mut self, revocation: &Revocation) -> bool {
        let until_ms = revocation.until_ms;
        let (cutoffs, before_ms) = match &revocation.revoked {
            Revoked::TokenId(id) => {
                let longest = self.token_ids.get(id).copied().unwrap_or_default();
                if until_ms > longest {
                    self.token_ids.insert(id.clone(), until_ms);
                }
                return until_ms > longest;
            }
            Revoked::User { key, issued_before_ms } => (self.users.entry(key.clone()).or_default(), *issued_before_ms),
            Revoked::IssuedBefore(before_ms) => (&mut self.everyone, *before_ms),
        };
        if cutoffs.iter().any(|cutoff| cutoff.before_ms >= before_ms && cutoff.until_ms >= until_ms) {
            return false;
        }
        let had = cutoffs.len();
        cutoffs.retain(|cutoff| cutoff.before_ms > before_ms || cutoff.until_ms > until_ms);
        cutoffs.push(Cutoff { before_ms, until_ms });
        self.cutoffs = self.cutoffs + cutoffs.len() - had;
        true
    }

    /// Whether [`Revocations::insert`] would do without another place.
    pub fn has_room_within(&self, revocation: &Revocation) -> bool {
        let until_ms = revocation.until_ms;
        // One of the two says all that the other does.
        let comparable = |cutoffs: &[Cutoff], before_ms: u64| {
            cutoffs.iter().any(|cutoff| {
                (cutoff.before_ms >= before_ms && cutoff.until_ms >= until_ms)
                    || (cutoff.before_ms <= before_ms && cutoff.until_ms <= until_ms)
            })
        };
        match &revocation.revoked {
            Revoked::TokenId(id) => self.token_ids.contains_key(id),
            Revoked::User { key, issued_before_ms } => {
                self.users.get(key).is_some_and(|cutoffs| comparable(cutoffs, *issued_before_ms))
            }
            Revoked::IssuedBefore(before_ms) => comparable(&self.everyone, *before_ms),
        }
    }

    /// Takes revocations back. Returns how many those were. What they had taken the place of does not come back.
    pub fn lift(&mut self, lifted: &Lifted) -> usize {
        let had = self.count();
        match lifted {
            Lifted::TokenId(id) => {
                self.token_ids.remove(id);
            }
            Lifted::User { key, issued_before_ms: None } => {
                self.users.remove(key);
            }
            Lifted::User { key, issued_before_ms: Some(before_ms) } => {
                if let Some(cutoffs) = self.users.get_mut(key) {
                    cutoffs.retain(|cutoff| cutoff.before_ms != *before_ms);
                }
            }
            Lifted::IssuedBefore(before_ms) => self.everyone.retain(|cutoff| cutoff.before_ms != *before_ms),
        }
        // Counts anew, and drops users without any.
        self.prune(0);
        had - self.count()
    }

    /// Those behind `after` in their order, at most `most`; all of them, whatever order they came in.
    pub fn page(&self, after: Option<&Revocation>, most: usize) -> Vec<Revocation> {
        let mut page: Vec<_> = self.iter().filter(|one| after.is_none_or(|after| one > after)).collect();
        if page.len() > most {
            page.select_nth_unstable(most);
            page.truncate(most);
        }
        page.sort_unstable();
        page
    }

    /// Forgets those whose tokens have expired.
    pub fn prune(&mut self, now_ms: u64) {
        self.token_ids.retain(|_, until_ms| *until_ms > now_ms);
        self.everyone.retain(|cutoff| cutoff.until_ms > now_ms);
        self.users.retain(|_, cutoffs| {
            cutoffs.retain(|cutoff| cutoff.until_ms > now_ms);
            !cutoffs.is_empty()
        });
        self.cutoffs = self.everyone.len() + self.users.values().map(Vec::len).sum::<usize>();
    }

    /// Whether a token is revoked at `now_ms` (Unix milliseconds).
    pub fn revokes(&self, token: TokenMark<'_>, now_ms: u64) -> bool {
        // Issuers count whole seconds, and so a fraction must not make a difference between two looks at one token.
        let issued_at_ms = token.issued_at_ms.map_or(0, |ms| ms / 1000 * 1000);
        let cuts = |cutoff: &Cutoff| {
            cutoff.until_ms > now_ms && (issued_at_ms < cutoff.before_ms || token.issued_at_ms.is_none())
        };
        self.everyone.iter().any(cuts)
            || self.users.get(token.user_key).is_some_and(|cutoffs| cutoffs.iter().any(cuts))
            || token.token_id.and_then(|id| self.token_ids.get(id)).is_some_and(|until_ms| *until_ms > now_ms)
    }

    /// All of them, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = Revocation> {
        let ids = self.token_ids.iter().map(|(id, &until_ms)| (Revoked::TokenId(id.clone()), until_ms));
        let of_user = |(key, cutoff): (&str, &Cutoff)| {
            (Revoked::User { key: key.into(), issued_before_ms: cutoff.before_ms }, cutoff.until_ms)
        };
        let users = self.users.iter().flat_map(|(key, cutoffs)| std::iter::repeat(&**key).zip(cutoffs)).map(of_user);
        let everyone = self.everyone.iter().map(|cutoff| (Revoked::IssuedBefore(cutoff.before_ms), cutoff.until_ms));
        ids.chain(users).chain(everyone).map(|(revoked, until_ms)| Revocation { revoked, until_ms })
    }
}
