//! The byte bound over all histories of a shard. Every change of a history goes through [`Budget::change`], so that the
//! sum stays right. When the sum is over the bound, the owner of the budget asks for victims until it is not. The largest
//! histories shrink first, so that a channel which is flooded loses its own history and not that of other channels. Sizes
//! are compared by powers of two. Of histories that are about equally large, the one with the oldest publication is the
//! victim. The budget does not know where the histories are. It holds one entry for each history that is not empty.

use std::collections::BTreeSet;

use super::history::{History, HistoryPlace};

/// The bytes of all histories of a shard. `K` names a channel.
#[derive(Debug)]
pub struct Budget<K> {
    max_bytes: usize,
    bytes: usize,
    /// Channels by [`HistoryPlace`]. The time in a place may be earlier than that of the oldest publication: the oldest
    /// publication of a history only gets younger, so an entry is corrected when its turn comes.
    queue: BTreeSet<(HistoryPlace, K)>,
}

impl<K: Ord + Clone> Budget<K> {
    /// No histories yet; at most `max_bytes` from now on.
    pub fn new(max_bytes: usize) -> Self {
        Self { max_bytes, bytes: 0, queue: BTreeSet::new() }
    }

    /// The bytes of all histories.
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
        match (history.filed, HistoryPlace::of(history)) {
            (None, Some(place)) => self.file(channel, history, place),
            (Some(filed), None) => self.unfile(channel, history, filed),
            (Some(filed), Some(place)) if filed.size != place.size => {
                self.unfile(channel, history, filed);
                self.file(channel, history, place);
            }
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
    pub(crate) fn victim_above(&self, bytes: usize) -> Option<K> {
        if self.bytes <= bytes {
            return None;
        }
        self.queue.first().map(|(_, channel)| channel.clone())
    }

    /// Takes the oldest publication of the victim, if its place in the queue is right; says how many bytes
    /// that freed. O(log channels), and a call that frees nothing happens at most once per publication that
    /// left by age or count.
    pub fn evict(&mut self, channel: &K, history: &mut History) -> usize {
        let filed = history.filed.expect("a victim has a history");
        let mut freed = 0;
        if HistoryPlace::of(history) == Some(filed) {
            freed = self.change(channel, history, History::pop_oldest).unwrap_or_default();
        }
        if let (Some(filed), Some(place)) = (history.filed, HistoryPlace::of(history))
            && filed != place
        {
            self.unfile(channel, history, filed);
            self.file(channel, history, place);
        }
        freed
    }

    fn file(&mut self, channel: &K, history: &mut History, place: HistoryPlace) {
        history.filed = Some(place);
        let new = self.queue.insert((place, channel.clone()));
        assert!(new, "two histories under one name");
    }

    fn unfile(&mut self, channel: &K, history: &mut History, filed: HistoryPlace) {
        history.filed = None;
        let there = self.queue.remove(&(filed, channel.clone()));
        assert!(there, "a filed history is in the queue");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::hub::engine::history::HistoryBounds;
    use crate::model::publication::Publication;
    use crate::model::publication::tests::publication_of;

    const BOUNDS: HistoryBounds = HistoryBounds { count: 100, age_ms: u64::MAX };

    fn publication(offset: u64) -> Arc<Publication> {
        publication_of(offset, [0; 16].into())
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

    fn push(budget: &mut Budget<u8>, histories: &mut [History], channel: u8, at_ms: u64) {
        let history = &mut histories[usize::from(channel)];
        let offset = history.len() as u64 + 1;
        budget.change(&channel, history, |history| history.push(publication(offset), at_ms, BOUNDS));
    }

    #[test]
    fn of_histories_that_are_equally_large_the_oldest_gives_way() {
        let each = publication(1).weight();
        let mut budget = Budget::new(3 * each);
        let mut histories: Vec<History> = (0..5).map(|_| History::default()).collect();
        for (channel, at_ms) in [(3, 10), (0, 20), (4, 30), (1, 40), (2, 50)] {
            push(&mut budget, &mut histories, channel, at_ms);
        }
        assert_eq!(settle(&mut budget, &mut histories), [3, 0]);
        assert_eq!((budget.bytes(), budget.channels()), (3 * each, 3));
    }

    #[test]
    fn a_flood_pushes_out_its_own_history_and_nobody_elses() {
        let each = publication(1).weight();
        let mut budget = Budget::new(50 * each);
        let mut histories: Vec<History> = (0..11).map(|_| History::default()).collect();
        for channel in 1..11 {
            push(&mut budget, &mut histories, channel, 1);
            push(&mut budget, &mut histories, channel, 2);
        }
        for at_ms in 10..60 {
            push(&mut budget, &mut histories, 0, at_ms);
        }
        let from = settle(&mut budget, &mut histories);
        assert!(from.len() == 20 && from.iter().all(|channel| *channel == 0), "{from:?}");
        assert_eq!(histories.iter().map(History::len).collect::<Vec<_>>(), [30, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2]);
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
