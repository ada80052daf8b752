//! Which connections of the API may stay when there are more than it has places for. A connection counts as a stranger
//! until one of its requests has brought a valid key. Known connections have a bound below all places, so publishers leave
//! room for health checks; and a stranger that comes when all places are taken displaces a stranger, so nobody without a
//! key displaces a publisher. Of the address with the most connections, the one that gave no sign for the longest gives
//! way. A connection whose request is with the shards never does. The shares of the requests under way stand here too.
//! Pure: the caller tells the time and ends the connection that gives way. Called by `connections` and `api`.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use crate::limits::Address;

/// How many connections and requests there may be at a time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Room {
    /// Connections that have brought a key.
    pub known: usize,
    /// Places that are always left for connections that have not; those may take free places of the others too.
    pub strangers: usize,
    /// Requests that are with the shards: fewer than `known`, so that one of those can always give way.
    pub requests: usize,
}

impl Room {
    /// What there is room for with so many descriptors.
    pub fn within(descriptors: usize) -> Self {
        let usable = descriptors - ENDING.min(descriptors / 4);
        let strangers = (usable / 5).clamp(2, STRANGERS);
        let known = usable.saturating_sub(strangers).clamp(2, KNOWN);
        Self { known, strangers, requests: (known * 3 / 4).max(1) }
    }

    /// Descriptors that it takes, with some for connections that are being ended.
    pub const DESCRIPTORS: usize = KNOWN + STRANGERS + ENDING;
}

const KNOWN: usize = 256;
const STRANGERS: usize = 64;
/// A connection that gives way keeps its descriptor until its task has run.
const ENDING: usize = 16;

/// The connections, each with what its end is told by.
#[derive(Debug)]
pub struct Places<T> {
    room: Room,
    next: u64,
    taken: BTreeMap<u64, Place<T>>,
}

#[derive(Debug)]
struct Place<T> {
    address: Address,
    is_known: bool,
    /// Its request is with the shards.
    is_busy: bool,
    /// When it connected, or was last sent something, in milliseconds of the monotonic clock.
    moved_ms: u64,
    end: T,
}

impl<T> Places<T> {
    /// All of them free.
    pub fn new(room: Room) -> Self {
        Self { room, next: 0, taken: BTreeMap::new() }
    }

    /// How many connections there are.
    pub fn count(&self) -> usize {
        self.taken.len()
    }

    fn known(&self) -> usize {
        self.taken.values().filter(|place| place.is_known).count()
    }

    /// Takes a place for a new connection. Returns its number, and the one that gives way to it.
    pub fn enter(&mut self, address: Address, now_ms: u64, end: T) -> (u64, Option<T>) {
        // There are strangers then: known connections have fewer places.
        let gone = if self.count() >= self.room.known + self.room.strangers { self.give_way(false) } else { None };
        let number = self.next;
        self.next += 1;
        let place = Place { address, is_known: false, is_busy: false, moved_ms: now_ms, end };
        self.taken.insert(number, place);
        (number, gone)
    }

    /// The connection has brought a key. Returns the one that gives way to it.
    pub fn recognize(&mut self, number: u64) -> Option<T> {
        if self.taken.get(&number).is_none_or(|place| place.is_known) {
            return None;
        }
        let gone = if self.known() >= self.room.known { self.give_way(true) } else { None };
        if let Some(place) = self.taken.get_mut(&number) {
            place.is_known = true;
        }
        gone
    }

    /// The connection's request is with the shards, or no more.
    pub fn set_busy(&mut self, number: u64, is_busy: bool) {
        if let Some(place) = self.taken.get_mut(&number) {
            place.is_busy = is_busy;
        }
    }

    /// The peer has taken something that was sent to it.
    pub fn moved(&mut self, number: u64, now_ms: u64) {
        if let Some(place) = self.taken.get_mut(&number) {
            place.moved_ms = now_ms;
        }
    }

    /// The connection is gone.
    pub fn leave(&mut self, number: u64) {
        self.taken.remove(&number);
    }

    /// Ends a connection because descriptors ran out: a stranger's if there is one.
    pub fn free_one(&mut self) -> Option<T> {
        self.give_way(false).or_else(|| self.give_way(true))
    }

    fn give_way(&mut self, is_known: bool) -> Option<T> {
        let mut connections: HashMap<Address, usize> = HashMap::new();
        let of_kind = || self.taken.iter().filter(|(_, place)| place.is_known == is_known);
        of_kind().for_each(|(_, place)| *connections.entry(place.address).or_default() += 1);
        let first = |(number, place): &(&u64, &Place<T>)| {
            (Reverse(connections.get(&place.address).copied()), place.moved_ms, **number)
        };
        let number = *of_kind().filter(|(_, place)| !place.is_busy).min_by_key(first)?.0;
        self.taken.remove(&number).map(|place| place.end)
    }
}

/// How many requests are with the shards, by address. An address may have three times as many as are free: alone it
/// gets three quarters of all, and there is always something left for another.
#[derive(Debug)]
pub struct Shares {
    most: usize,
    held: Mutex<HashMap<Address, usize>>,
}

/// One request with the shards.
#[derive(Debug)]
pub struct Share {
    of: Arc<Shares>,
    address: Address,
}

impl Shares {
    /// At most so many at a time.
    pub fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, held: Mutex::default() })
    }

    /// `None` if the address has its share already.
    pub fn take(self: &Arc<Self>, address: Address) -> Option<Share> {
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

    const ROOM: Room = Room { known: 4, strangers: 3, requests: 3 };

    fn address(last: u8) -> Address {
        Address::of(std::net::IpAddr::from([10, 0, 0, last]).into())
    }

    #[test]
    fn the_longest_silent_stranger_gives_way_and_no_publisher() {
        let mut places = Places::new(ROOM);
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
        let mut places = Places::new(Room { known: 1, strangers: 2, requests: 1 });
        places.enter(address(1), 0, "one");
        places.enter(address(2), 1, "two, first");
        places.enter(address(2), 2, "two, second");
        assert_eq!(places.enter(address(3), 3, "three").1, Some("two, first"));
    }

    #[test]
    fn a_request_that_is_with_the_shards_keeps_its_place() {
        let mut places = Places::new(ROOM);
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
        assert_eq!(Room::within(usize::MAX), Room { known: 256, strangers: 64, requests: 192 });
        assert_eq!(Room::within(Room::DESCRIPTORS), Room::within(usize::MAX));
        assert_eq!(Room::within(54), Room { known: 33, strangers: 8, requests: 24 });
        assert_eq!(Room::within(0), Room { known: 2, strangers: 2, requests: 1 });
    }
}
