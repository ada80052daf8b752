//! The tokens whose signature one shard has found good, so that a storm of reconnects does not pay for each of them
//! again: RS256, ES256 and EdDSA cost tens of microseconds. Remembered is the signature alone; what a token says is
//! judged anew by `claims` at every use. Bounded; knows neither keys nor clocks. `Authenticator` owns one.

use foldhash::quality::RandomState;
use hashbrown::HashSet;

/// What an entry takes beside its token.
const ENTRY_BYTES: usize = 48;

/// How much one shard remembers. Either being zero switches it off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheLimits {
    /// Tokens.
    pub tokens: usize,
    /// What they take, in bytes.
    pub bytes: usize,
}

/// A set of tokens, in two generations of half the bounds each: a full one makes the other the older, and whatever
/// was not used since the last change is forgotten with it.
#[derive(Debug)]
pub(super) struct VerifiedTokens {
    half: CacheLimits,
    /// Keyed by a seeded hash; a token is found only if all of its bytes are equal.
    young: HashSet<Box<str>, RandomState>,
    young_bytes: usize,
    old: HashSet<Box<str>, RandomState>,
    old_bytes: usize,
    hits: u64,
    misses: u64,
}

impl VerifiedTokens {
    /// Empty, for so many.
    pub(super) fn new(limits: CacheLimits) -> Self {
        let half = CacheLimits { tokens: limits.tokens / 2, bytes: limits.bytes / 2 };
        let (young, old) = (HashSet::default(), HashSet::default());
        Self { half, young, young_bytes: 0, old, old_bytes: 0, hits: 0, misses: 0 }
    }

    /// Whether this very token was found good.
    pub(super) fn contains(&mut self, token: &str) -> bool {
        if self.young.contains(token) {
            self.hits += 1;
            return true;
        }
        let Some(token) = self.old.take(token) else { return false };
        self.hits += 1;
        self.old_bytes -= weight(&token);
        self.insert_owned(token);
        true
    }

    /// Remembers a token with a good signature, if one of its size can be.
    pub(super) fn insert(&mut self, token: &str) {
        self.misses += 1;
        if self.half.tokens > 0 && weight(token) <= self.half.bytes {
            self.insert_owned(token.into());
        }
    }

    /// Forgets everything, for keys that are not those by which it was judged.
    pub(super) fn clear(&mut self) {
        let (hits, misses) = (self.hits, self.misses);
        *self = Self::new(CacheLimits { tokens: self.half.tokens * 2, bytes: self.half.bytes * 2 });
        (self.hits, self.misses) = (hits, misses);
    }

    /// How many tokens were found, and how many were not and are good.
    pub(super) fn looked_up(&self) -> (u64, u64) {
        (self.hits, self.misses)
    }

    /// How many tokens are remembered, and what they take.
    pub(super) fn size(&self) -> CacheLimits {
        CacheLimits { tokens: self.young.len() + self.old.len(), bytes: self.young_bytes + self.old_bytes }
    }

    fn insert_owned(&mut self, token: Box<str>) {
        let bytes = weight(&token);
        if self.young.len() >= self.half.tokens || self.young_bytes + bytes > self.half.bytes {
            self.old = std::mem::take(&mut self.young);
            self.old_bytes = std::mem::take(&mut self.young_bytes);
        }
        if self.young.insert(token) {
            self.young_bytes += bytes;
        }
    }
}

fn weight(token: &str) -> usize {
    token.len() + ENTRY_BYTES
}
