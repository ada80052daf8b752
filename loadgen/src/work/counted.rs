//! Subscribers whose messages came compressed and were not inflated: how many they got, and whether their bytes are
//! those of a subscriber whose messages were.
//!
//! A server that compresses a publication once for everyone sends the same bytes to all, so that equal bytes from the
//! beginning of the window to its end are equal content in equal order. Where each connection has a compressor of its
//! own they differ, and only the number is left. Pure; called by `fanout`.

use std::collections::HashSet;
use std::hash::{BuildHasher as _, Hasher as _};

use foldhash::fast::FixedState;
use serde::Serialize;

use crate::check::{Checker, Faults};

/// What came over one connection with compression: how many messages, and a hash over their bytes in order.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
struct Trail {
    messages: u64,
    hash: u64,
}

/// How the subscribers of a compressing server were checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Checked {
    /// Had every message inflated and looked at.
    pub inflated: u64,
    /// Got byte for byte what one of those got.
    pub by_bytes: u64,
    /// Had their messages counted, and no more.
    pub by_count: u64,
    /// Not at all: others published, and what of it came compressed can't be told apart.
    pub unchecked: u64,
}

impl Checked {
    /// Adds another thread's.
    pub fn merge(&mut self, other: &Self) {
        self.inflated += other.inflated;
        self.by_bytes += other.by_bytes;
        self.by_count += other.by_count;
        self.unchecked += other.unchecked;
    }
}

/// One thread's.
pub struct Counted {
    /// The publications of those that are counted.
    counts: Vec<Option<u64>>,
    /// Of all, since the window began; empty if no connection has compression.
    trails: Vec<Trail>,
    /// What `judge` found.
    pub checked: Checked,
}

impl Counted {
    /// None of `slots` is.
    pub fn new(slots: usize) -> Self {
        Self { counts: vec![None; slots], trails: Vec::new(), checked: Checked::default() }
    }

    /// Subscriber `slot` is counted only.
    #[inline]
    pub fn has(&self, slot: usize) -> bool {
        self.counts[slot].is_some()
    }

    /// From now on it is, and has had so many publications.
    pub fn begin(&mut self, slot: usize, had: u64) {
        self.counts[slot] = Some(had);
    }

    /// One more.
    #[inline]
    pub fn add(&mut self, slot: usize) {
        if let Some(count) = &mut self.counts[slot] {
            *count += 1;
        }
    }

    /// Its connection ended.
    pub fn ended(&mut self, slot: usize) {
        self.counts[slot] = None;
    }

    /// Any subscriber's data message as it came.
    #[inline]
    pub fn wire(&mut self, slot: usize, payload: &[u8], compressed: bool) {
        if self.trails.is_empty() {
            self.trails = vec![Trail::default(); self.counts.len()];
        }
        let trail = &mut self.trails[slot];
        let mut hasher = FixedState::default().build_hasher();
        hasher.write_u64(trail.hash ^ u64::from(compressed));
        hasher.write(payload);
        *trail = Trail { messages: trail.messages + 1, hash: hasher.finish() };
    }

    /// Everyone has all there is.
    pub fn complete(&self, total: u64) -> bool {
        self.counts.iter().flatten().all(|count| *count >= total)
    }

    /// Holds the counts against what was sent in all, and the bytes against those of the others, whom `checker` judges.
    /// If `others` published, a count says nothing.
    pub fn judge(&mut self, total: u64, others: bool, checker: &Checker) -> Faults {
        let mut faults = Faults::default();
        let read = |slot: usize| self.counts[slot].is_none() && !checker.is_gone(slot);
        let seen: HashSet<_> =
            self.trails.iter().enumerate().filter(|(slot, _)| read(*slot)).map(|(_, trail)| *trail).collect();
        for (slot, trail) in self.trails.iter().enumerate() {
            let checked = &mut self.checked;
            let Some(count) = self.counts[slot] else {
                checked.inflated += u64::from(!checker.is_gone(slot));
                continue;
            };
            if seen.contains(trail) {
                checked.by_bytes += 1;
                continue;
            }
            if others {
                checked.unchecked += 1;
                continue;
            }
            checked.by_count += 1;
            faults.lost += total.saturating_sub(count);
            faults.doubled += count.saturating_sub(total);
        }
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Subscriber 0 is read, the others are counted; `streams` are the messages of each.
    fn judged(streams: &[&[&str]], others: bool) -> (Faults, Checked) {
        let mut checker = Checker::new(streams.len(), 1);
        let mut counted = Counted::new(streams.len());
        for (slot, messages) in streams.iter().enumerate() {
            for (number, message) in messages.iter().enumerate() {
                counted.wire(slot, message.as_bytes(), true);
                match (slot, number) {
                    (0, _) => checker.advance(0, 0),
                    (_, 0) => {
                        counted.begin(slot, 1);
                        checker.ended(slot);
                    }
                    _ => counted.add(slot),
                }
            }
        }
        let faults = counted.judge(3, others, &checker);
        (faults, counted.checked)
    }

    #[test]
    fn equal_bytes_are_told_from_equal_counts() {
        let (faults, checked) = judged(&[&["a", "b", "c"], &["a", "b", "c"], &["a", "c", "b"]], false);
        assert_eq!(faults, Faults::default());
        assert_eq!(checked, Checked { inflated: 1, by_bytes: 1, by_count: 1, unchecked: 0 });
    }

    #[test]
    fn a_count_that_is_off_is_a_loss_or_a_double() {
        let (faults, checked) = judged(&[&["a", "b", "c"], &["a", "c"], &["a", "b", "b", "c"]], false);
        assert_eq!((faults.lost, faults.doubled, checked.by_count), (1, 1, 2));
        let (faults, checked) = judged(&[&["a", "b", "c"], &["a", "b", "b", "c"]], true);
        assert_eq!((faults, checked.unchecked), (Faults::default(), 1));
    }
}
