//! A bound that addresses share: an address may hold three times as much as is free. Alone it gets three quarters of all,
//! and there is always room for another address. For the requests of the API and for the bytes of their bodies. Part of
//! `shard`.

use hashbrown::HashMap;

use crate::limits::Address;

/// Addresses that hold nothing are forgotten when more than this many are known.
const KNOWN_MAX: usize = 64;

/// How much of one bound each address holds.
#[derive(Debug)]
pub(super) struct FairShares {
    most: usize,
    held: usize,
    by_address: HashMap<Address, usize, foldhash::fast::RandomState>,
}

impl FairShares {
    /// Divides `most` among the addresses.
    pub(super) fn new(most: usize) -> Self {
        Self { most, held: 0, by_address: HashMap::default() }
    }

    /// How much is held by all.
    pub(super) fn held(&self) -> usize {
        self.held
    }

    /// Takes `amount` for an address. Returns false, and takes nothing, if the address has what it may have. When nothing is
    /// held, any amount is granted.
    pub(super) fn take(&mut self, address: Address, amount: usize) -> bool {
        let free = self.most.saturating_sub(self.held);
        let own = self.by_address.entry(address).or_default();
        if self.held > 0 && (amount > free || *own + amount > free.saturating_mul(3)) {
            return false;
        }
        *own += amount;
        self.held += amount;
        true
    }

    /// Gives back what an address has taken.
    pub(super) fn give_back(&mut self, address: Address, amount: usize) {
        let Some(own) = self.by_address.get_mut(&address) else { return };
        *own -= amount;
        self.held -= amount;
        if self.by_address.len() > KNOWN_MAX {
            self.by_address.retain(|_, own| *own > 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> Address {
        Address::of(core::net::IpAddr::from([10, 0, 0, last]).into())
    }

    #[test]
    fn one_address_never_has_all() {
        let mut shares = FairShares::new(16);
        let take = |shares: &mut FairShares, last| (0..20).filter(|_| shares.take(address(last), 1)).count();
        assert_eq!((take(&mut shares, 1), take(&mut shares, 2)), (12, 3));
        assert!(shares.take(address(3), 1));
        shares.give_back(address(1), 12);
        assert_eq!(take(&mut shares, 2), 9);
        assert_eq!(shares.held(), 13);
    }

    #[test]
    fn what_is_too_large_for_all_is_granted_alone() {
        let mut shares = FairShares::new(16);
        assert!(shares.take(address(1), 100));
        assert!(!shares.take(address(2), 1));
        shares.give_back(address(1), 100);
        assert!(shares.take(address(2), 1) && !shares.take(address(2), 100));
    }

    #[test]
    fn addresses_that_hold_nothing_are_forgotten() {
        let mut shares = FairShares::new(1_000);
        for last in 0..200 {
            assert!(shares.take(address(last), 1));
            shares.give_back(address(last), 1);
        }
        assert!(shares.by_address.len() <= KNOWN_MAX);
        assert_eq!(shares.held(), 0);
    }
}
