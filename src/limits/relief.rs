//! What is given up while the process has more memory than `limits.memory_bytes`: first the queues of connections, the
//! largest ones first, then histories, and at last unfinished messages: these have a bound of their own, and their senders
//! may be publishers who do nothing wrong. This happens in rounds. In a round each shard says how much it holds, and then
//! each gives up its share. `boot::memory` begins rounds and `shard` carries them out; this file only computes.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// A queue with fewer bytes is never given up: that would free little.
pub(crate) const QUEUE_MIN_BYTES: u64 = 64 * 1024;

/// Bytes that a shard holds, or that it is to give up.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Holding {
    /// Bytes of connections' queues, of those that may be given up.
    pub(crate) queues: u64,
    /// Bytes of channels' histories.
    pub(crate) history: u64,
    /// Bytes of messages that have not come whole, of those that may be given up.
    pub(crate) unfinished: u64,
}

/// The size of one connection's queue, or of its unfinished message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct QueueSize {
    /// The connection's slot in its shard.
    pub(crate) slot: u32,
    /// Bytes that are unsent to the connection, or of what it has sent of a message.
    pub(crate) bytes: u64,
}

/// What a shard that holds `own` of `all` gives up, so that all shards together free `excess` bytes. Histories give only
/// what the queues cannot, and at most half of themselves in one round, because the allocator may free more than expected.
/// Unfinished messages give only what queues and whole histories cannot.
pub(crate) fn share(excess: u64, own: Holding, all: Holding) -> Holding {
    let part = |of: u64, own: u64, all: u64| {
        let all = all.max(own).max(1);
        u64::try_from(u128::from(of) * u128::from(own) / u128::from(all)).unwrap_or(u64::MAX)
    };
    let from_queues = excess.min(all.queues.max(own.queues));
    let from_history = (excess - from_queues).min(all.history.max(own.history).div_ceil(2));
    let from_unfinished =
        (excess - from_queues).saturating_sub(all.history.max(own.history)).min(all.unfinished.max(own.unfinished));
    Holding {
        queues: part(from_queues, own.queues, all.queues),
        history: part(from_history, own.history, all.history),
        unfinished: part(from_unfinished, own.unfinished, all.unfinished),
    }
}

/// Chooses the queues to give up so that at least `bytes` are freed: the largest, and as few as possible.
pub(crate) fn largest_first(mut queues: Vec<QueueSize>, bytes: u64) -> Vec<QueueSize> {
    queues.sort_unstable_by_key(|queue| (std::cmp::Reverse(queue.bytes), queue.slot));
    let mut freed = 0;
    queues.retain(|queue| {
        let is_needed = freed < bytes;
        freed += if is_needed { queue.bytes } else { 0 };
        is_needed
    });
    queues
}

/// The numbers of the present round, which all shards share.
#[derive(Debug, Default)]
pub(crate) struct Rounds {
    number: AtomicU32,
    excess: AtomicU64,
    queues: AtomicU64,
    history: AtomicU64,
    unfinished: AtomicU64,
}

impl Rounds {
    /// Begins a round that is to free `excess` bytes.
    pub(crate) fn begin(&self, excess: u64) {
        self.queues.store(0, Ordering::Relaxed);
        self.history.store(0, Ordering::Relaxed);
        self.unfinished.store(0, Ordering::Relaxed);
        self.excess.store(excess, Ordering::Relaxed);
        self.number.fetch_add(1, Ordering::Release);
    }

    /// The number of the latest round; 0 before the first.
    pub(crate) fn number(&self) -> u32 {
        self.number.load(Ordering::Acquire)
    }

    /// Adds what one shard holds in this round.
    pub(crate) fn hold(&self, own: Holding) {
        self.queues.fetch_add(own.queues, Ordering::Relaxed);
        self.history.fetch_add(own.history, Ordering::Relaxed);
        self.unfinished.fetch_add(own.unfinished, Ordering::Relaxed);
    }

    /// What a shard that holds `own` gives up, after all shards have called [`Rounds::hold`].
    pub(crate) fn share_of(&self, own: Holding) -> Holding {
        let all = Holding {
            queues: self.queues.load(Ordering::Relaxed),
            history: self.history.load(Ordering::Relaxed),
            unfinished: self.unfinished.load(Ordering::Relaxed),
        };
        share(self.excess.load(Ordering::Relaxed), own, all)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn holding(queues: u64, history: u64) -> Holding {
        Holding { queues, history, unfinished: 0 }
    }

    #[test]
    fn an_unfinished_message_gives_way_only_where_nothing_else_is_left() {
        let all = Holding { unfinished: 200, ..holding(100, 1_000) };
        let given = |excess| share(excess, all, all).unfinished;
        assert_eq!((given(50), given(100), given(1_100)), (0, 0, 0));
        assert_eq!((given(1_150), given(5_000)), (50, 200));
        let own = Holding { unfinished: 200, ..holding(0, 0) };
        assert_eq!(share(1_000, own, all).unfinished, 0, "other shards have what is to go first");
    }

    #[test]
    fn queues_give_way_before_histories() {
        let all = holding(100, 1_000);
        assert_eq!(share(40, all, all), holding(40, 0));
        assert_eq!(share(100, all, all), holding(100, 0));
        assert_eq!(share(250, all, all), holding(100, 150));
        assert_eq!(share(5_000, all, all), holding(100, 500), "half of the histories at most");
        assert_eq!(share(40, holding(25, 1_000), all), holding(10, 0), "each shard by what it holds");
        assert_eq!(share(40, holding(0, 0), all), holding(0, 0));
        assert_eq!(share(40, holding(50, 0), holding(0, 0)), holding(40, 0), "one that came late");
    }

    #[test]
    fn the_largest_go_and_no_more_than_needed() {
        let queue = |slot, bytes| QueueSize { slot, bytes };
        let all = vec![queue(0, 10), queue(1, 300), queue(2, 20), queue(3, 300), queue(4, 200)];
        assert_eq!(largest_first(all.clone(), 0), []);
        assert_eq!(largest_first(all.clone(), 1), [queue(1, 300)]);
        assert_eq!(largest_first(all.clone(), 300), [queue(1, 300)]);
        assert_eq!(largest_first(all.clone(), 601), [queue(1, 300), queue(3, 300), queue(4, 200)]);
        assert_eq!(largest_first(all, 10_000).len(), 5);
    }

    proptest! {
        /// All shards together give up the excess, if they hold it, up to one byte of rounding per shard.
        #[test]
        fn the_shares_add_up(
            held in prop::collection::vec((0u64..1 << 40, 0u64..1 << 40), 1..64),
            excess in 0u64..1 << 42,
        ) {
            let rounds = Rounds::default();
            rounds.begin(excess);
            held.iter().for_each(|&(queues, history)| rounds.hold(holding(queues, history)));
            let shares: Vec<Holding> = held.iter().map(|&(q, h)| rounds.share_of(holding(q, h))).collect();
            let (queues, history) = held.iter().fold((0, 0), |sum, own| (sum.0 + own.0, sum.1 + own.1));
            let given = shares.iter().fold((0, 0), |sum, share| (sum.0 + share.queues, sum.1 + share.history));
            let wanted_queues = excess.min(queues);
            let wanted_history = (excess - wanted_queues).min(history.div_ceil(2));
            let rounding = held.len() as u64;
            prop_assert!(given.0 <= wanted_queues && given.0 + rounding >= wanted_queues);
            prop_assert!(given.1 <= wanted_history && given.1 + rounding >= wanted_history);
            for (share, own) in shares.iter().zip(&held) {
                prop_assert!(share.queues <= own.0 && share.history <= own.1);
            }
        }

        #[test]
        fn enough_is_chosen_and_nothing_larger_is_left(
            sizes in prop::collection::vec(0u64..1_000, 0..50), bytes in 0u64..20_000,
        ) {
            let all: Vec<_> = (0..).zip(&sizes).map(|(slot, &bytes)| QueueSize { slot, bytes }).collect();
            let chosen = largest_first(all, bytes);
            let freed: u64 = chosen.iter().map(|queue| queue.bytes).sum();
            prop_assert!(freed >= bytes.min(sizes.iter().sum()));
            if let Some(last) = chosen.last() {
                prop_assert!(freed - last.bytes < bytes);
                let larger = sizes.iter().filter(|size| **size > last.bytes).count();
                prop_assert!(larger <= chosen.len());
            }
        }
    }
}
