//! Deadlines without a timer per connection. A connection is filed under the tick at which it should be looked at again,
//! and the shard looks at whole ticks. To move a deadline the shard files the connection again, and ignores the old entry
//! when it falls due.

use std::collections::BTreeMap;

/// The length of a tick, in milliseconds. Deadlines are as coarse as this.
pub(crate) const TICK_MS: u64 = 64;

/// Keys by the tick at which they fall due.
#[derive(Debug)]
pub(crate) struct Wheel<K> {
    ticks: BTreeMap<u64, Vec<K>>,
}

impl<K> Default for Wheel<K> {
    fn default() -> Self {
        Self { ticks: BTreeMap::new() }
    }
}

impl<K> Wheel<K> {
    /// Files `key` under the first tick at or after `at_ms`. Returns the tick.
    pub(crate) fn file(&mut self, key: K, at_ms: u64) -> u64 {
        let tick = at_ms.div_ceil(TICK_MS);
        self.ticks.entry(tick).or_default().push(key);
        tick
    }

    /// Removes stale entries: every entry for which `is_awaited` returns false.
    pub(crate) fn retain(&mut self, mut is_awaited: impl FnMut(u64, &K) -> bool) {
        self.ticks.retain(|tick, keys| {
            keys.retain(|key| is_awaited(*tick, key));
            keys.shrink_to_fit();
            !keys.is_empty()
        });
    }

    /// The number of entries.
    #[cfg(test)]
    pub(crate) fn count(&self) -> usize {
        self.ticks.values().map(Vec::len).sum()
    }

    /// Takes out the keys of one tick that is due, with the tick's number; `None` if no tick is due.
    pub(crate) fn pop_due(&mut self, now_ms: u64) -> Option<(u64, Vec<K>)> {
        let first = self.ticks.first_entry()?;
        (*first.key() * TICK_MS <= now_ms).then(|| first.remove_entry())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_due_at_its_tick_and_not_before() {
        let mut wheel = Wheel::default();
        wheel.file('a', TICK_MS);
        wheel.file('b', TICK_MS + 1);
        wheel.file('c', 10 * TICK_MS);
        assert!(wheel.pop_due(TICK_MS - 1).is_none());
        assert_eq!(wheel.pop_due(TICK_MS), Some((1, vec!['a'])));
        assert!(wheel.pop_due(TICK_MS).is_none());
        assert_eq!(wheel.pop_due(u64::MAX), Some((2, vec!['b'])));
        assert_eq!(wheel.pop_due(u64::MAX), Some((10, vec!['c'])));
        assert!(wheel.pop_due(u64::MAX).is_none());
    }

    #[test]
    fn what_was_taken_out_does_not_come_up() {
        let mut wheel = Wheel::default();
        let tick = wheel.file('a', 1);
        wheel.file('b', 1);
        let later = wheel.file('a', 100);
        wheel.retain(|at, key| *key == 'b' || at != tick);
        assert_eq!(wheel.count(), 2);
        assert_eq!(wheel.pop_due(u64::MAX), Some((tick, vec!['b'])));
        assert_eq!(wheel.pop_due(u64::MAX), Some((later, vec!['a'])));
        wheel.file('c', 1);
        wheel.retain(|_, _| false);
        assert!(wheel.pop_due(u64::MAX).is_none() && wheel.count() == 0);
    }
}
