//! A table that all shards share, for counts over the whole process, such as the connections of one address. It is
//! divided into 64 parts, and each part has a mutex that is held for one look-up. A shard asks the table once per
//! connection and once per message from a client, never per delivery, so two shards seldom wait for each other. Entries
//! that equal no entry are removed, and the number of entries is bounded.

use std::hash::BuildHasher;
use std::sync::{Mutex, PoisonError};

use hashbrown::HashMap;

/// The number of parts. Two shards that ask at the same moment meet in one part with a chance of 1 in 64.
const PARTS: usize = 64;
/// The number of entries at which a part is swept for the first time.
const SWEEP_FIRST: usize = 64;
/// The shortest time between two sweeps of a full part, in milliseconds. Without it each new key would cost a sweep.
const SWEEP_MS: u64 = 10;

/// A state that the table may forget once it says nothing.
pub(crate) trait Forgettable: Default {
    /// Whether this state is the same as a new one, so that it need not be kept.
    fn is_spent(&self, now_ms: u64) -> bool;
}

/// A table of states by key, shared by all shards.
#[derive(Debug)]
pub(crate) struct Table<S> {
    parts: Box<[Mutex<Part<S>>]>,
    part_max: usize,
    hash: foldhash::quality::RandomState,
}

/// One part of the table, on cache lines of its own.
#[derive(Debug)]
#[repr(align(128))]
struct Part<S> {
    entries: HashMap<u64, S, foldhash::quality::RandomState>,
    sweep_at: usize,
    swept_ms: u64,
}

impl<S: Forgettable> Table<S> {
    /// An empty table with room for about `entries_max` keys.
    pub(crate) fn new(entries_max: usize) -> Self {
        let part = || Mutex::new(Part { entries: HashMap::default(), sweep_at: SWEEP_FIRST, swept_ms: 0 });
        Self {
            parts: (0..PARTS).map(|_| part()).collect(),
            part_max: entries_max.div_ceil(PARTS),
            hash: foldhash::quality::RandomState::default(),
        }
    }

    /// A key made of a text. The hash is randomly seeded in each process, so a client cannot choose names that collide.
    pub(crate) fn key_of(&self, name: &str) -> u64 {
        self.hash.hash_one(name)
    }

    /// Reads or changes the state of a key, and removes it if it is spent afterwards. `None` if the key has no state and
    /// there is no room for one.
    pub(crate) fn with<R>(&self, key: u64, now_ms: u64, work: impl FnOnce(&mut S) -> R) -> Option<R> {
        let place = self.hash.hash_one(key) as usize % PARTS;
        // A poisoned mutex is fine: a panic in `work` leaves whole numbers behind.
        let mut part = self.parts[place].lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(state) = part.entries.get_mut(&key) {
            let result = work(state);
            if state.is_spent(now_ms) {
                part.entries.remove(&key);
            }
            return Some(result);
        }
        let full = part.entries.len() >= self.part_max && part.swept_ms + SWEEP_MS <= now_ms;
        if full || part.entries.len() >= part.sweep_at {
            part.sweep(now_ms);
        }
        if part.entries.len() >= self.part_max {
            return None;
        }
        let mut state = S::default();
        let result = work(&mut state);
        if !state.is_spent(now_ms) {
            part.entries.insert(key, state);
        }
        Some(result)
    }

    /// The number of entries.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.parts.iter().map(|part| part.lock().unwrap_or_else(PoisonError::into_inner).entries.len()).sum()
    }
}

impl<S: Forgettable> Part<S> {
    /// Removes spent entries. The cost per new entry is constant, because the next sweep is due when the number of entries
    /// has doubled.
    fn sweep(&mut self, now_ms: u64) {
        self.entries.retain(|_, state| !state.is_spent(now_ms));
        let left = self.entries.len();
        if self.entries.capacity() > 4 * left.max(SWEEP_FIRST) {
            self.entries.shrink_to(2 * left);
        }
        self.sweep_at = (2 * left).max(SWEEP_FIRST);
        self.swept_ms = now_ms;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Spent from this moment on.
    #[derive(Default)]
    struct Until(u64);

    impl Forgettable for Until {
        fn is_spent(&self, now_ms: u64) -> bool {
            self.0 <= now_ms
        }
    }

    #[test]
    fn a_flood_of_keys_leaves_no_more_than_what_lives() {
        let table = Table::<Until>::new(1_000_000);
        for key in 0..1_000_000 {
            table.with(key, key, |until| until.0 = key + 1_000).expect("room");
        }
        let kept = table.len();
        assert!((1_000..=2_000 + 2 * PARTS * SWEEP_FIRST).contains(&kept), "{kept} entries of 1,000 that live");
    }

    #[test]
    fn a_full_table_refuses_newcomers_and_knows_the_others() {
        let table = Table::<Until>::new(PARTS * 100);
        let known = (0..).find(|&key| table.with(key, 0, |until| until.0 = 10).is_none()).expect("it gets full");
        assert!(table.len() <= PARTS * 100);
        assert_eq!(table.with(0, 0, |until| until.0), Some(10));
        assert_eq!(table.with(known, 1_000, |until| until.0), Some(0), "those that were spent have made room");
    }

    #[test]
    fn what_says_nothing_is_not_kept() {
        let table = Table::<Until>::new(100);
        table.with(1, 5, |until| until.0 = 5);
        assert_eq!(table.len(), 0);
        table.with(1, 5, |until| until.0 = 6);
        assert_eq!(table.len(), 1);
        table.with(1, 6, |_| ());
        assert_eq!(table.len(), 0);
    }
}
