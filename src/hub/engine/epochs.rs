//! The epochs of channels. An epoch is a keyed hash of the channel's name and of how many lives with
//! publications have ended: a channel in which nothing was ever published can go and come back under the epoch that
//! its clients know, so that nothing has to be kept of it, and no offset ever stands for two publications. The count
//! is one for many names: their epochs change more often than they need, which a client takes for a loss that wasn't.
//! Part of `hub`; knows no channel.

use std::hash::BuildHasher as _;
use std::sync::Arc;

use foldhash::quality::FixedState;

/// Counts that all names share: 64 KiB. With 100 channels ending each second, a name's epoch stays for 160 s.
const COUNTS: usize = 1 << 14;

/// The epochs of one shard's channels.
#[derive(Debug)]
pub(crate) struct Epochs {
    key: FixedState,
    ended: Box<[u32]>,
}

impl Epochs {
    /// `seed` is random in a server: the epochs of an earlier process don't come again.
    pub(crate) fn new(seed: u64) -> Self {
        Self { key: FixedState::with_seed(seed), ended: vec![0; COUNTS].into() }
    }

    /// The epoch of a channel that begins now: 64 bits in hexadecimal digits.
    pub(crate) fn of(&self, channel: &str) -> Arc<str> {
        let ended = self.ended[self.index(channel)];
        let hash = self.key.hash_one((ended, channel));
        let mut digits = [0; 16];
        for (at, digit) in digits.iter_mut().enumerate() {
            *digit = b"0123456789abcdef"[(hash >> (60 - 4 * at)) as usize & 15];
        }
        std::str::from_utf8(&digits).expect("hexadecimal digits are text").into()
    }

    /// A channel that had publications is gone: its offsets start anew when it comes back.
    pub(crate) fn end(&mut self, channel: &str) {
        let ended = &mut self.ended[self.index(channel)];
        *ended = ended.wrapping_add(1);
    }

    fn index(&self, channel: &str) -> usize {
        (self.key.hash_one(channel) % COUNTS as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn an_epoch_stays_until_a_life_with_publications_ends() {
        let mut epochs = Epochs::new(7);
        let first = epochs.of("a");
        assert_eq!((first.len(), epochs.of("a")), (16, Arc::clone(&first)));
        let all: BTreeSet<_> = (0..1_000)
            .map(|_| {
                epochs.end("a");
                epochs.of("a")
            })
            .chain([first])
            .collect();
        assert_eq!(all.len(), 1_001, "none comes again");
    }

    #[test]
    fn channels_and_processes_have_epochs_of_their_own() {
        let of = |seed| {
            let epochs = Epochs::new(seed);
            (0..10_000).map(move |n| epochs.of(&format!("channel-{n}")))
        };
        let all: BTreeSet<_> = of(1).chain(of(2)).collect();
        assert_eq!(all.len(), 20_000);
    }
}
