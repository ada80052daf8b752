//! Who is subscribed to what: each of N connections to K of C channels, at random but the same in every run, each
//! channel to about as many connections as any other.
//!
//! Pure. Called by `channels`.

use crate::random::Random;

/// How often a double is tried to be put elsewhere.
const TRIES: usize = 10_000;
const SEED: u64 = 20_061_213;

/// The channels of each connection, and a connection of each channel.
pub struct Layout {
    each: usize,
    /// Of connection after connection, in ascending order.
    channels: Vec<u32>,
    /// A subscriber of each channel: the one that publishes there.
    owners: Vec<u32>,
}

impl Layout {
    /// `connections` connections with `each` of `channels` channels; `each` is not more than there are.
    pub fn new(connections: usize, each: usize, channels: usize) -> Self {
        let mut dealt = dealt(connections, each, channels).unwrap_or_else(|| {
            let round = (0..connections * each).map(|place| (place % channels) as u32);
            round.collect()
        });
        for hand in dealt.chunks_mut(each.max(1)) {
            hand.sort_unstable();
        }
        let mut owners = vec![u32::MAX; channels];
        let mut seen = vec![0u64; channels];
        let mut random = Random::new(SEED);
        for (place, channel) in dealt.iter().enumerate() {
            let channel = *channel as usize;
            seen[channel] += 1;
            // Any subscriber is as likely as another, so that publishers are spread over the connections.
            if random.next().is_multiple_of(seen[channel]) {
                owners[channel] = (place / each) as u32;
            }
        }
        Self { each, channels: dealt, owners }
    }

    /// The channels of a connection.
    pub fn of(&self, connection: usize) -> &[u32] {
        &self.channels[connection * self.each..][..self.each]
    }

    /// Which of its channels `channel` is to a connection.
    #[inline]
    pub fn place(&self, connection: usize, channel: u32) -> Option<usize> {
        self.of(connection).binary_search(&channel).ok()
    }

    /// The connection that publishes on `channel`; none if it has no subscriber.
    #[inline]
    pub fn owner(&self, channel: usize) -> Option<usize> {
        Some(self.owners[channel]).filter(|owner| *owner != u32::MAX).map(|owner| owner as usize)
    }

    /// How many subscriptions there are.
    pub fn subscriptions(&self) -> u64 {
        self.channels.len() as u64
    }

    /// How many channels there are.
    pub fn channels(&self) -> usize {
        self.owners.len()
    }
}

/// All channels in turn as often as they are needed, shuffled, and doubles in one hand changed for others.
fn dealt(connections: usize, each: usize, channels: usize) -> Option<Vec<u32>> {
    let mut random = Random::new(SEED);
    let mut cards: Vec<u32> = (0..connections * each).map(|place| (place % channels) as u32).collect();
    for place in (1..cards.len()).rev() {
        cards.swap(place, (random.next() % (place as u64 + 1)) as usize);
    }
    let double = |cards: &[u32], place: usize| {
        let hand = place / each * each;
        (hand..hand + each).any(|other| other != place && cards[other] == cards[place])
    };
    for place in 0..cards.len() {
        let mut tries = TRIES;
        while double(&cards, place) {
            tries = tries.checked_sub(1)?;
            let other = (random.next() % cards.len() as u64) as usize;
            cards.swap(place, other);
            // Those before `place` have no doubles, and keep none.
            if double(&cards, place) || (other < place && double(&cards, other)) {
                cards.swap(place, other);
            }
        }
    }
    Some(cards)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_connection_has_its_channels_once_and_every_channel_its_share() {
        for (connections, each, channels) in [(40, 1, 5), (64, 10, 80), (30, 7, 8), (30, 8, 8), (10, 3, 40), (5, 1, 5)]
        {
            let layout = Layout::new(connections, each, channels);
            let mut counts = vec![0; channels];
            for connection in 0..connections {
                let own = layout.of(connection);
                assert!(own.is_sorted_by(|a, b| a < b) && own.len() == each, "{own:?}");
                own.iter().for_each(|channel| counts[*channel as usize] += 1);
                assert_eq!(layout.place(connection, own[each - 1]), Some(each - 1));
            }
            let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
            assert!(most - least <= 1, "{counts:?}");
            for (channel, count) in counts.iter().enumerate() {
                let owner = layout.owner(channel);
                assert_eq!(owner.is_some(), *count > 0);
                assert!(owner.is_none_or(|owner| layout.place(owner, channel as u32).is_some()));
            }
        }
    }
}
