//! Remembers tokens whose signature is valid, so that many reconnects at once do not cost a verification each: RS256, ES256
//! and EdDSA take tens of microseconds. Only the signature is remembered; `claims` checks a token's content at every use.
//! The memory is bounded. Each [`Authenticator`](super::Authenticator) has one.

use foldhash::quality::RandomState;
use hashbrown::HashSet;

/// The bytes that an entry takes beside its token.
const ENTRY_BYTES: usize = 48;

/// How much one shard remembers. If either number is zero, nothing is remembered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheLimits {
    /// The number of tokens.
    pub tokens: usize,
    /// The bytes that the tokens take.
    pub bytes: usize,
}

/// A set of tokens in two generations, each with half of the bounds. When the younger one is full it becomes the older one,
/// and the former older one is dropped with every token that was not used since.
#[derive(Debug)]
pub(super) struct VerifiedTokens {
    half: CacheLimits,
    /// By a randomly seeded hash. A token is found only if all of its bytes are equal.
    young: HashSet<Box<str>, RandomState>,
    young_bytes: usize,
    old: HashSet<Box<str>, RandomState>,
    old_bytes: usize,
    hits: u64,
    misses: u64,
}

impl VerifiedTokens {
    /// An empty set with these bounds.
    pub(super) fn new(limits: CacheLimits) -> Self {
        let half = CacheLimits { tokens: limits.tokens / 2, bytes: limits.bytes / 2 };
        let (young, old) = (HashSet::default(), HashSet::default());
        Self { half, young, young_bytes: 0, old, old_bytes: 0, hits: 0, misses: 0 }
    }

    /// Whether the signature of exactly this token is known to be valid.
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

    /// Remembers a token with a valid signature, unless it is too large for the bounds.
    pub(super) fn insert(&mut self, token: &str) {
        self.misses += 1;
        if self.half.tokens > 0 && weight(token) <= self.half.bytes {
            self.insert_owned(token.into());
        }
    }

    /// Forgets all tokens, because the keys have changed.
    pub(super) fn clear(&mut self) {
        let (hits, misses) = (self.hits, self.misses);
        *self = Self::new(CacheLimits { tokens: self.half.tokens * 2, bytes: self.half.bytes * 2 });
        (self.hits, self.misses) = (hits, misses);
    }

    /// How many look-ups found a token, and how many tokens were added.
    pub(super) fn looked_up(&self) -> (u64, u64) {
        (self.hits, self.misses)
    }

    /// The number of tokens, and the bytes that they take.
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
