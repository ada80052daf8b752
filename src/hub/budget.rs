//! The byte bound over all histories of a shard. Every change of a history goes through [`Budget::change`], so
//! that the sum can't drift; when it is over the bound, the owner asks for victims until it isn't. The victim
//! is the channel whose oldest publication is the oldest of all: under pressure every channel keeps about the
//! same stretch of time, and a quiet one isn't emptied before a noisy one's older bytes. Doesn't know where
//! the owner keeps its channels. Holds one entry (some 50 bytes with a name by `Arc`) per channel whose
//! history isn't empty, and nothing else.

use std::collections::BTreeSet;

use super::history::History;

/// The bytes of all histories of a shard. `K` names a channel.
#[derive(Debug)]
pub struct Budget<K> {
    max_bytes: usize,
    bytes: usize,
    /// Channels by the time of their oldest publication, or an earlier one: a history only gets younger at its
    /// old end, so an entry is put right when it comes up, not when the history changes.
    queue: BTreeSet<(u64, K)>,
}

impl<K: Ord + Clone> Budget<K> {
    /// Nothing kept so far, at most `max_bytes` from now on.
    pub fn new(max_bytes: usize) -> Self {
        Self { max_bytes, bytes: 0, queue: BTreeSet::new() }
    }

    /// What all histories hold.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many channels have a history that isn't empty.
    pub fn channels(&self) -> usize {
        self.queue.len()
    }

    /// Changes the history of `channel` by `f` and keeps account. The only way to change a history that is
    /// under a budget; before a channel is dropped, `clear` its history this way.
    pub fn change<R>(&mut self, channel: &K, history: &mut History, f: impl FnOnce(&mut History) -> R) -> R {
        let before = history.bytes();
        let result = f(history);
        assert!(before <= self.bytes, "a history was changed outside its budget");
        self.bytes = self.bytes - before + history.bytes();
        match (history.filed_ms, history.oldest_ms()) {
            (None, Some(oldest_ms)) => self.file(channel, history, oldest_ms),
            (Some(filed_ms), None) => self.unfile(channel, history, filed_ms),
            _ => {}
        }
        result
    }

    /// The channel that has to give up its oldest publication next; `None` when the bound is kept. To be
    /// followed by [`Budget::evict`] with its history, in a loop.
    pub fn victim(&self) -> Option<K> {
        self.victim_above(self.max_bytes)
    }

    /// The same for another bound.
    pub fn victim_above(&self, bytes: usize) -> Option<K> {
        if self.bytes <= bytes {
            return None;
        }
        self.queue.first().map(|(_, channel)| channel.clone())
    }

    /// Takes the oldest publication of the victim, if its history is still the oldest one; says how many bytes
    /// that freed. O(log channels), and a call that frees nothing happens at most once per publication that
    /// left by age or count.
    pub fn evict(&mut self, channel: &K, history: &mut History) -> usize {
        let filed_ms = history.filed_ms.expect("a victim has a history");
        let mut freed = 0;
        if history.oldest_ms() == Some(filed_ms) {
            freed = self.change(channel, history, History::pop_oldest).unwrap_or_default();
        }
        if let Some(oldest_ms) = history.oldest_ms().filter(|oldest_ms| *oldest_ms != filed_ms) {
            self.unfile(channel, history, filed_ms);
            self.file(channel, history, oldest_ms);
        }
        freed
    }

    fn file(&mut self, channel: &K, history: &mut History, oldest_ms: u64) {
        history.filed_ms = Some(oldest_ms);
        let new = self.queue.insert((oldest_ms, channel.clone()));
        assert!(new, "two histories under one name");
    }

    fn unfile(&mut self, channel: &K, history: &mut History, filed_ms: u64) {
        history.filed_ms = None;
        let there = self.queue.remove(&(filed_ms, channel.clone()));
        assert!(there, "a filed history is in the queue");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::hub::history::Bounds;
    use crate::proto::encode::Kind;
    use crate::publication::Publication;

    const BOUNDS: Bounds = Bounds { count: 100, age_ms: u64::MAX };

    fn publication(offset: u64) -> Arc<Publication> {
        Arc::new(Publication::new(offset, 0, None, Kind::Publication, [0; 16].into(), 0..16))
    }

    /// Evicts until the bound is kept; says from which channels.
    fn settle(budget: &mut Budget<u8>, histories: &mut [History]) -> Vec<u8> {
        let mut from = Vec::new();
        while let Some(channel) = budget.victim() {
            if budget.evict(&channel, &mut histories[usize::from(channel)]) > 0 {
                from.push(channel);
            }
        }
        from
    }

    #[test]
    fn the_oldest_goes_whoever_has_it() {
        let each = publication(1).weight();
        let mut budget = Budget::new(3 * each);
        let mut histories: Vec<History> = (0..3).map(|_| History::default()).collect();
        for (at_ms, channel, offset) in [(10, 1, 1), (20, 0, 1), (30, 1, 2), (40, 2, 1), (50, 1, 3)] {
            budget.change(&channel, &mut histories[usize::from(channel)], |h| {
                h.push(publication(offset), at_ms, BOUNDS);
            });
        }
        assert_eq!(settle(&mut budget, &mut histories), [1, 0]);
        assert_eq!(budget.bytes(), 3 * each);
        assert_eq!(histories.iter().map(History::len).collect::<Vec<_>>(), [0, 2, 1]);
        assert_eq!(budget.channels(), 2);
    }

    #[test]
    fn one_that_is_larger_than_the_bound_is_not_kept() {
        let mut budget = Budget::new(10);
        let mut histories = [History::default()];
        budget.change(&0, &mut histories[0], |h| h.push(publication(1), 0, BOUNDS));
        assert_eq!(settle(&mut budget, &mut histories), [0]);
        assert_eq!((budget.bytes(), budget.channels()), (0, 0));
    }

    #[test]
    fn a_cleared_channel_leaves_nothing_behind() {
        let mut budget = Budget::new(usize::MAX);
        let mut history = History::default();
        for round in 0..1000 {
            budget.change(&7, &mut history, |h| h.push(publication(1), round, BOUNDS));
            budget.change(&7, &mut history, History::clear);
        }
        assert_eq!((budget.bytes(), budget.channels()), (0, 0));
    }
}
