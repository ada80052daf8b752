//! State by key for all shards: what has to be counted over the whole process, as the connections of one address. In
//! parts, each behind a mutex that is held for a look-up; it is asked once per connection or message from a client,
//! never per delivery, so two shards seldom meet. Entries that say nothing any more go; their number is bounded.
//! Knows nothing of what is kept.

use std::hash::BuildHasher;
use std::sync::{Mutex, PoisonError};

use hashbrown::HashMap;

/// Two of 256 shards that ask at the same moment meet in one of so many parts.
const PARTS: usize = 64;
/// A part is first swept when it has so many entries.
const SWEEP_FIRST: usize = 64;
/// A full part is swept no more often, in milliseconds: newcomers to it must not cost a sweep each.
const SWEEP_MS: u64 = 10;

/// What may be forgotten.
pub trait Forgettable: Default {
    /// Whether it is the same as no entry.
    fn is_spent(&self, now_ms: u64) -> bool;
}

/// The table.
#[derive(Debug)]
pub struct Table<S> {
    parts: Box<[Mutex<Part<S>>]>,
    part_max: usize,
    hash: foldhash::quality::RandomState,
}

/// On cache lines of its own.
#[derive(Debug)]
#[repr(align(128))]
struct Part<S> {
    entries: HashMap<u64, S, foldhash::quality::RandomState>,
    sweep_at: usize,
    swept_ms: u64,
}

impl<S: Forgettable> Table<S> {
    /// With room for about `entries_max` keys.
    pub fn new(entries_max: usize) -> Self {
        let part = || Mutex::new(Part { entries: HashMap::default(), sweep_at: SWEEP_FIRST, swept_ms: 0 });
        Self {
            parts: (0..PARTS).map(|_| part()).collect(),
            part_max: entries_max.div_ceil(PARTS),
            hash: foldhash::quality::RandomState::default(),
        }
    }

    /// A key for what is no number. Chosen by nobody: the hash is keyed anew in each process.
    pub fn key_of(&self, name: &str) -> u64 {
        self.hash.hash_one(name)
    }

    /// Reads or changes the entry of a key; one that is spent afterwards is not kept. `None` if there is none and no
    /// room for one.
    pub fn with<R>(&self, key: u64, now_ms: u64, work: impl FnOnce(&mut S) -> R) -> Option<R> {
        let place = self.hash.hash_one(key) as usize % PARTS;
        // A panic in `work` leaves counts and times, each of which is whole.
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

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.parts.iter().map(|part| part.lock().unwrap_or_else(PoisonError::into_inner).entries.len()).sum()
    }
}

impl<S: Forgettable> Part<S> {
    /// Looks at each entry once for as many as were added since the last time.
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
