//! Which of the API's connections gives way when there are more than the API has places for.
//!
//! A connection is a stranger until one of its requests brings a valid key, and known from then on. Known connections may
//! take a part of all places only, so publishers leave room for health checks. A new connection that finds all places
//! taken displaces a stranger, so a peer without a key displaces no publisher. Among the connections of the address that
//! has the most, the one that took nothing for the longest time gives way; a connection that waits for shards never does.
//!
//! [`Shares`] divides the requests that may wait for shards among the addresses. This file is pure: the caller tells the
//! time, and ends the connection that gives way.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use crate::limits::Address;

/// How many connections and requests the API may have at a time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ApiRoom {
    /// The most connections that have brought a key.
    pub(crate) known: usize,
    /// Places that are always left for connections that have not. Strangers may take free places of the others too.
    pub(crate) strangers: usize,
    /// The most requests that wait for shards. It is less than `known`, so that a known connection can always give way.
    pub(crate) requests: usize,
}

impl ApiRoom {
    /// The room that this many file descriptors allow.
    pub(crate) fn within(descriptors: usize) -> Self {
        let usable = descriptors - ENDING.min(descriptors / 4);
        let strangers = (usable / 5).clamp(2, STRANGERS);
        let known = usable.saturating_sub(strangers).clamp(2, KNOWN);
        Self { known, strangers, requests: (known * 3 / 4).max(1) }
    }

    /// The most descriptors that the API takes, with some for connections that are being ended.
    pub(crate) const DESCRIPTORS: usize = KNOWN + STRANGERS + ENDING;
}

/// The most places of known connections.
const KNOWN: usize = 256;
/// The most places that are kept for strangers.
const STRANGERS: usize = 64;
/// Descriptors for connections that give way: each keeps its descriptor until its task has run.
const ENDING: usize = 16;

/// The places of all connections. `T` is what the caller needs to end a connection.
#[derive(Debug)]
pub(crate) struct ApiPlaces<T> {
    room: ApiRoom,
    next: u64,
    taken: BTreeMap<u64, ApiPlace<T>>,
}

#[derive(Debug)]
struct ApiPlace<T> {
    address: Address,
    is_known: bool,
    /// Whether one of its requests waits for shards.
    is_busy: bool,
    /// When the peer connected or last took bytes of a response, in milliseconds of the monotonic clock.
    moved_ms: u64,
    end: T,
}

impl<T> ApiPlaces<T> {
    /// No place is taken yet.
    pub(crate) fn new(room: ApiRoom) -> Self {
        Self { room, next: 0, taken: BTreeMap::new() }
    }

    /// The number of connections.
    pub(crate) fn count(&self) -> usize {
        self.taken.len()
    }

    fn known(&self) -> usize {
        self.taken.values().filter(|place| place.is_known).count()
    }

    /// Takes a place for a new connection. Returns its number, and the `end` of the connection that gives way to it.
    pub(crate) fn enter(&mut self, address: Address, now_ms: u64, end: T) -> (u64, Option<T>) {
        // At least one of them is a stranger then, because known connections cannot take all places.
        let gone = if self.count() >= self.room.known + self.room.strangers { self.give_way(false) } else { None };
        let number = self.next;
        self.next += 1;
        let place = ApiPlace { address, is_known: false, is_busy: false, moved_ms: now_ms, end };
        self.taken.insert(number, place);
        (number, gone)
    }

    /// Marks the connection as one that has brought a key. Returns the `end` of the connection that gives way to it.
    pub(crate) fn recognize(&mut self, number: u64) -> Option<T> {
        if self.taken.get(&number).is_none_or(|place| place.is_known) {
            return None;
        }
        let gone = if self.known() >= self.room.known { self.give_way(true) } else { None };
        if let Some(place) = self.taken.get_mut(&number) {
            place.is_known = true;
        }
        gone
    }

    /// Marks whether one of the connection's requests waits for shards.
    pub(crate) fn set_busy(&mut self, number: u64, is_busy: bool) {
        if let Some(place) = self.taken.get_mut(&number) {
            place.is_busy = is_busy;
        }
    }

    /// Notes that the peer has taken bytes of a response.
    pub(crate) fn moved(&mut self, number: u64, now_ms: u64) {
        if let Some(place) = self.taken.get_mut(&number) {
            place.moved_ms = now_ms;
        }
    }

    /// Frees the place of a connection that has ended.
    pub(crate) fn leave(&mut self, number: u64) {
        self.taken.remove(&number);
    }

    /// Chooses a connection to end because descriptors ran out: a stranger, if there is one.
    pub(crate) fn free_one(&mut self) -> Option<T> {
        self.give_way(false).or_else(|| self.give_way(true))
    }

    fn give_way(&mut self, is_known: bool) -> Option<T> {
        let mut connections: HashMap<Address, usize> = HashMap::new();
        let of_kind = || self.taken.iter().filter(|(_, place)| place.is_known == is_known);
        of_kind().for_each(|(_, place)| *connections.entry(place.address).or_default() += 1);
        let first = |(number, place): &(&u64, &ApiPlace<T>)| {
            (Reverse(connections.get(&place.address).copied()), place.moved_ms, **number)
        };
        let number = *of_kind().filter(|(_, place)| !place.is_busy).min_by_key(first)?.0;
        self.taken.remove(&number).map(|place| place.end)
    }
}

/// The number of requests that wait for shards, by address. An address may have three times as many as are free: alone it
/// gets three quarters of all, and there is always some room left for another address.
#[derive(Debug)]
pub(crate) struct Shares {
    most: usize,
    held: Mutex<HashMap<Address, usize>>,
}

/// One request's share, given back when this value is dropped.
#[derive(Debug)]
pub(crate) struct Share {
    of: Arc<Shares>,
    address: Address,
}

impl Shares {
    /// Allows `most` requests at a time.
    pub(crate) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, held: Mutex::default() })
    }

    /// Takes a share for one request; `None` if the address has all it may have.
    pub(crate) fn take(self: &Arc<Self>, address: Address) -> Option<Share> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let free = self.most.saturating_sub(held.values().sum());
        let own = held.get(&address).copied().unwrap_or(0);
        if own >= 3 * free {
            return None;
        }
        held.insert(address, own + 1);
        Some(Share { of: Arc::clone(self), address })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut held = self.of.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = held.get_mut(&self.address) {
            *own -= 1;
            if *own == 0 {
                held.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOM: ApiRoom = ApiRoom { known: 4, strangers: 3, requests: 3 };

    fn address(last: u8) -> Address {
        Address::of(std::net::IpAddr::from([10, 0, 0, last]).into())
    }

    #[test]
    fn the_longest_silent_stranger_gives_way_and_no_publisher() {
        let mut places = ApiPlaces::new(ROOM);
        for n in 0..4 {
            let (number, gone) = places.enter(address(1), n, n);
            assert_eq!((gone, places.recognize(number)), (None, None));
        }
        assert!((10..13).all(|n| places.enter(address(1), n, n).1.is_none()));
        places.moved(4, 20);
        assert_eq!(places.enter(address(1), 21, 21).1, Some(11));
        assert_eq!(places.enter(address(1), 22, 22).1, Some(12));
        assert_eq!(places.enter(address(1), 23, 23).1, Some(10));
        assert_eq!(places.count(), 7);
    }

    #[test]
    fn the_address_with_the_most_connections_pays() {
        let mut places = ApiPlaces::new(ApiRoom { known: 1, strangers: 2, requests: 1 });
        places.enter(address(1), 0, "one");
        places.enter(address(2), 1, "two, first");
        places.enter(address(2), 2, "two, second");
        assert_eq!(places.enter(address(3), 3, "three").1, Some("two, first"));
    }

    #[test]
    fn a_request_that_is_with_the_shards_keeps_its_place() {
        let mut places = ApiPlaces::new(ROOM);
        let mut numbers = Vec::new();
        for n in 0..4 {
            let (number, _) = places.enter(address(1), n, n);
            assert_eq!(places.recognize(number), None);
            numbers.push(number);
        }
        numbers[..3].iter().for_each(|number| places.set_busy(*number, true));
        let (newcomer, _) = places.enter(address(2), 10, 10);
        assert_eq!(places.recognize(newcomer), Some(3), "the only one that is idle");
        assert_eq!(places.recognize(newcomer), None, "once");
        places.set_busy(numbers[1], false);
        let (newcomer, _) = places.enter(address(2), 11, 11);
        assert_eq!(places.recognize(newcomer), Some(1));
        places.leave(newcomer);
        places.set_busy(numbers[1], true);
        assert_eq!(places.count(), 3, "what is gone stays gone");
    }

    #[test]
    fn one_address_never_has_all_requests() {
        let shares = Shares::new(16);
        let take = |last: u8| std::iter::from_fn(|| shares.take(address(last))).collect::<Vec<_>>();
        let first = take(1);
        let second = take(2);
        assert_eq!((first.len(), second.len()), (12, 3));
        assert!(shares.take(address(3)).is_some());
        drop(first);
        assert_eq!(take(2).len(), 9);
        drop(second);
        assert!(shares.held.lock().expect("whole").is_empty(), "nothing is kept of who has nothing");
    }

    #[test]
    fn few_descriptors_give_few_places() {
        assert_eq!(ApiRoom::within(usize::MAX), ApiRoom { known: 256, strangers: 64, requests: 192 });
        assert_eq!(ApiRoom::within(ApiRoom::DESCRIPTORS), ApiRoom::within(usize::MAX));
        assert_eq!(ApiRoom::within(54), ApiRoom { known: 33, strangers: 8, requests: 24 });
        assert_eq!(ApiRoom::within(0), ApiRoom { known: 2, strangers: 2, requests: 1 });
    }
}
