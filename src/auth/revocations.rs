//! Revocations: tokens that are refused before they expire, by their id, by user and time of issue, or all that were issued
//! before a time. A revocation is kept until the moment that the backend named, when the tokens have expired. Each shard
//! has a copy of the table. The control thread has one too, and enforces the bound.

use std::collections::HashMap;

use foldhash::quality::RandomState;
use serde::{Deserialize, Serialize};

/// The tokens that a revocation names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Revoked {
    /// The token with this id (`jti`).
    TokenId(Box<str>),
    /// The tokens of one user that were issued before a time.
    User {
        /// The user's key, see `UserId::key`.
        key: Box<str>,
        /// The time, in Unix milliseconds.
        issued_before_ms: u64,
    },
    /// The tokens of all users that were issued before a time, in Unix milliseconds.
    IssuedBefore(u64),
}

/// A revocation, and how long it is kept.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Revocation {
    /// The tokens that are revoked.
    pub revoked: Revoked,
    /// When it may be forgotten, in Unix milliseconds. The tokens have expired by then.
    pub until_ms: u64,
}

/// The revocations to take back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lifted {
    /// The revocation of one token.
    TokenId(Box<str>),
    /// The revocations of one user.
    User {
        /// The user's key, see `UserId::key`.
        key: Box<str>,
        /// The time of the revocation, in Unix milliseconds; `None` means all of the user's revocations.
        issued_before_ms: Option<u64>,
    },
    /// The revocation of all users with this time, in Unix milliseconds.
    IssuedBefore(u64),
}

/// The parts of a token that revocations refer to.
#[derive(Clone, Copy, Debug)]
pub struct TokenMark<'a> {
    /// The key of the token's user.
    pub(crate) user_key: &'a str,
    /// `iat` in Unix milliseconds. A token without it counts as issued before any time.
    pub(crate) issued_at_ms: Option<u64>,
    /// The token's id (`jti`). A token without one cannot be revoked by its id.
    pub(crate) token_id: Option<&'a str>,
}

/// Cutoffs of one user, or of all: tokens issued before the first number are revoked until the second. There may be several
/// of them, as long as none covers another.
#[derive(Clone, Copy, Debug)]
struct Cutoff {
    before_ms: u64,
    until_ms: u64,
}

/// All revocations in force.
#[derive(Clone, Debug, Default)]
pub struct Revocations {
    token_ids: HashMap<Box<str>, u64, RandomState>,
    users: HashMap<Box<str>, Vec<Cutoff>, RandomState>,
    everyone: Vec<Cutoff>,
    cutoffs: usize,
}

impl Revocations {
    /// The number of revocations.
    pub(crate) fn count(&self) -> usize {
        self.token_ids.len() + self.cutoffs
    }

    /// Adds a revocation. Returns false if the present ones cover it already.
    pub(crate) fn insert(&mut self, revocation: &Revocation) -> bool {
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

    /// Whether [`Revocations::insert`] would not raise the number of revocations.
    pub(crate) fn has_room_within(&self, revocation: &Revocation) -> bool {
        let until_ms = revocation.until_ms;
        // One of the two covers the other.
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

    /// Takes revocations back. Returns how many. Revocations that they had replaced do not come back.
    pub(crate) fn lift(&mut self, lifted: &Lifted) -> usize {
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
        // Counts again, and drops users without a revocation.
        self.prune(0);
        had - self.count()
    }

    /// At most `most` revocations after `after`, in an order that does not depend on when they were added.
    pub(crate) fn page(&self, after: Option<&Revocation>, most: usize) -> Vec<Revocation> {
        let mut page: Vec<_> = self.iter().filter(|one| after.is_none_or(|after| one > after)).collect();
        if page.len() > most {
            page.select_nth_unstable(most);
            page.truncate(most);
        }
        page.sort_unstable();
        page
    }

    /// Removes the revocations whose tokens have expired by `now_ms`.
    pub(crate) fn prune(&mut self, now_ms: u64) {
        self.token_ids.retain(|_, until_ms| *until_ms > now_ms);
        self.everyone.retain(|cutoff| cutoff.until_ms > now_ms);
        self.users.retain(|_, cutoffs| {
            cutoffs.retain(|cutoff| cutoff.until_ms > now_ms);
            !cutoffs.is_empty()
        });
        self.cutoffs = self.everyone.len() + self.users.values().map(Vec::len).sum::<usize>();
    }

    /// Whether a token is revoked at `now_ms` (Unix milliseconds).
    pub(crate) fn revokes(&self, token: TokenMark<'_>, now_ms: u64) -> bool {
        // Issuers write whole seconds, so a fraction of a second must make no difference.
        let issued_at_ms = token.issued_at_ms.map_or(0, |ms| ms / 1000 * 1000);
        let cuts = |cutoff: &Cutoff| {
            cutoff.until_ms > now_ms && (issued_at_ms < cutoff.before_ms || token.issued_at_ms.is_none())
        };
        self.everyone.iter().any(cuts)
            || self.users.get(token.user_key).is_some_and(|cutoffs| cutoffs.iter().any(cuts))
            || token.token_id.and_then(|id| self.token_ids.get(id)).is_some_and(|until_ms| *until_ms > now_ms)
    }

    /// All revocations, in no particular order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Revocation> {
        let ids = self.token_ids.iter().map(|(id, &until_ms)| (Revoked::TokenId(id.clone()), until_ms));
        let of_user = |(key, cutoff): (&str, &Cutoff)| {
            (Revoked::User { key: key.into(), issued_before_ms: cutoff.before_ms }, cutoff.until_ms)
        };
        let users = self.users.iter().flat_map(|(key, cutoffs)| std::iter::repeat(&**key).zip(cutoffs)).map(of_user);
        let everyone = self.everyone.iter().map(|cutoff| (Revoked::IssuedBefore(cutoff.before_ms), cutoff.until_ms));
        ids.chain(users).chain(everyone).map(|(revoked, until_ms)| Revocation { revoked, until_ms })
    }
}
