//! Which connection of the API gives way when a shard has no place for another one. A connection is a stranger until a
//! request of it brings a valid key, and known from then on. Known connections may take a part of the places only, so
//! publishers leave room for health checks, and a peer without a key displaces no publisher. Among the connections of the
//! address that has the most, the one that was silent for the longest time gives way. A known connection that is owed a
//! response never does. Pure; part of `shard`.

use std::cmp::Reverse;

use hashbrown::HashMap;

use crate::limits::Address;

/// The most places that are kept for strangers.
const STRANGERS_MAX: usize = 64;

/// How many connections of the API one shard may have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct ApiPlaces {
    /// The most connections of both kinds.
    pub(super) all: usize,
    /// The most connections that have brought a key.
    pub(super) known: usize,
}

impl ApiPlaces {
    /// Divides `all` places among the two kinds. There are four at least.
    pub(super) fn new(all: usize) -> Self {
        let all = all.max(4);
        Self { all, known: all - (all / 5).clamp(2, STRANGERS_MAX) }
    }
}

/// A connection that may give way.
#[derive(Clone, Copy, Debug)]
pub(super) struct PlaceHolder {
    /// Its slot in the shard's table.
    pub(super) slot: u32,
    /// What it counts under.
    pub(super) address: Address,
    /// When it was last heard of, or took bytes, in milliseconds of the monotonic clock.
    pub(super) seen_ms: u64,
    /// It is owed a response, and stays if it is known.
    pub(super) is_busy: bool,
}

/// The one of these connections, all of one kind, that gives way.
pub(super) fn gives_way(holders: &[PlaceHolder]) -> Option<u32> {
    let mut connections = HashMap::<Address, usize, foldhash::fast::RandomState>::default();
    for holder in holders {
        *connections.entry(holder.address).or_default() += 1;
    }
    let first =
        |holder: &&PlaceHolder| (Reverse(connections.get(&holder.address).copied()), holder.seen_ms, holder.slot);
    holders.iter().filter(|holder| !holder.is_busy).min_by_key(first).map(|holder| holder.slot)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder(slot: u32, last: u8, seen_ms: u64) -> PlaceHolder {
        let address = Address::of(core::net::IpAddr::from([10, 0, 0, last]).into());
        PlaceHolder { slot, address, seen_ms, is_busy: false }
    }

    #[test]
    fn the_longest_silent_one_of_the_largest_address_gives_way() {
        let holders = [holder(0, 1, 1), holder(1, 2, 5), holder(2, 2, 4), holder(3, 2, 6)];
        assert_eq!(gives_way(&holders), Some(2));
        assert_eq!(gives_way(&holders[..2]), Some(0));
        assert_eq!(gives_way(&[]), None);
    }

    #[test]
    fn a_busy_one_stays() {
        let mut holders = [holder(0, 1, 1), holder(1, 1, 2)];
        holders[0].is_busy = true;
        assert_eq!(gives_way(&holders), Some(1));
        holders[1].is_busy = true;
        assert_eq!(gives_way(&holders), None);
    }

    #[test]
    fn strangers_always_have_places() {
        assert_eq!(ApiPlaces::new(0), ApiPlaces { all: 4, known: 2 });
        assert_eq!(ApiPlaces::new(20), ApiPlaces { all: 20, known: 16 });
        assert_eq!(ApiPlaces::new(4_096), ApiPlaces { all: 4_096, known: 4_032 });
    }
}
