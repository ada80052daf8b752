//! The lanes between shards: N×N single-producer single-consumer rings, each FIFO. A shard stages parcels while it
//! works and ships them as one batch at the end of its turn, with at most one wake per peer and batch.
//! Generic over what it carries; knows nothing of channels or connections. `boot` builds it, `io::turns` drives it.
//!
//! Bounds: a ring holds `capacity` parcels. Its last two thirds are kept for asks and answers, whose number `credits`
//! bounds, so refusable deliveries may take [`Staging::room`]. Only parcels that must never be refused may wait in the
//! staging queue beyond the ring: kicks, releases, users that leave, questions for a sign of life, and answers to sign-ins
//! that waited for one, at most one each per connection; two parcels for each batch window that ends; and the two farewells
//! of a shard that ends.

#[cfg(all(test, feature = "loom"))]
mod interleavings;

use std::collections::VecDeque;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

#[cfg(all(test, feature = "loom"))]
use interleavings::{AtomicBool, ModelBell as Bell, Ordering, fence, planted, rtrb};
#[cfg(not(all(test, feature = "loom")))]
use {
    bell::Bell,
    std::sync::atomic::{AtomicBool, Ordering, fence},
};

use crate::ids::ShardId;
use crate::planted::Fault;

/// How many asks of one shard may be under way at one owner, if a lane holds `capacity` parcels. It needs 5 parcels at
/// least.
pub(crate) fn credits(capacity: usize) -> usize {
    (capacity / 3).max(2)
}

/// The part of [`credits`] that is for the API's asks. The rest is for clients' asks.
pub(crate) fn api_credits(capacity: usize) -> usize {
    (credits(capacity) / 4).max(1)
}

/// The parcels that one shard has staged, by destination.
#[derive(Debug)]
pub struct Staging<T> {
    own: ShardId,
    lanes: Vec<VecDeque<T>>,
    /// Free places in each ring as last seen by its producer; the consumer can only have made more.
    free: Vec<usize>,
    reserved: usize,
}

impl<T> Staging<T> {
    /// For shard `own` of `shards`, with lanes of `capacity` parcels.
    pub fn new(own: ShardId, shards: usize, capacity: usize) -> Self {
        let lanes = (0..shards).map(|_| VecDeque::new()).collect();
        Self { own, lanes, free: vec![capacity; shards], reserved: 2 * credits(capacity) }
    }

    /// The shard that stages the parcels.
    pub(crate) fn own(&self) -> ShardId {
        self.own
    }

    /// Stages a parcel at the end of the lane to `to`.
    pub fn push(&mut self, to: ShardId, parcel: T) {
        self.lanes[to.index()].push_back(parcel);
    }

    /// How many refusable parcels the lane to `to` still takes.
    pub(crate) fn room(&self, to: ShardId) -> usize {
        if Fault::FullLane.is_planted() {
            return usize::MAX; // PLANTED: and what finds no place is lost, see `ship_lane`.
        }
        let lane = to.index();
        self.free[lane].saturating_sub(self.lanes[lane].len() + self.reserved)
    }

    /// Takes the next parcel that this shard sent to itself.
    pub(crate) fn pop_own(&mut self) -> Option<T> {
        self.lanes[self.own.index()].pop_front()
    }

    /// Parcels that this shard sent to itself and has not taken yet.
    pub(crate) fn own_len(&self) -> usize {
        self.lanes[self.own.index()].len()
    }

    /// Whether a parcel for another shard is staged.
    pub fn has_outbound(&self) -> bool {
        self.lanes.iter().enumerate().any(|(to, lane)| to != self.own.index() && !lane.is_empty())
    }

    /// Moves what a ring with `free` places takes, through `put`, and notes what is free afterwards.
    /// Returns whether anything moved. The seam by which a simulation stands in for the rings.
    pub fn ship_lane(&mut self, to: ShardId, free: usize, mut put: impl FnMut(T)) -> bool {
        let lane = &mut self.lanes[to.index()];
        let count = lane.len().min(free);
        lane.drain(..count).for_each(&mut put);
        if Fault::FullLane.is_planted() {
            lane.clear(); // PLANTED
        }
        if lane.is_empty() && lane.capacity() > 1024 {
            *lane = VecDeque::new();
        }
        self.free[to.index()] = free - count;
        count > 0
    }
}

/// What wakes one shard. It is aligned so that two shards' flags share no cache line.
#[derive(Debug)]
#[repr(align(128))]
struct Door {
    /// Whether the shard has looked at its lanes for the last time before it sleeps.
    asleep: AtomicBool,
    bell: Bell,
}

impl Door {
    /// Wakes the shard if it sleeps. A peer calls this after it has put a parcel into a lane; of several peers one rings.
    fn knock(&self) {
        if !planted("no fence before the flag is read") {
            // Pairs with the fence in `fall_asleep`: either the shard sees the parcels, or we see it asleep.
            fence(Ordering::SeqCst);
        }
        // A swap would do as well, but loom lets other threads' stores come in between its load and its store
        // (tokio-rs/loom#254) and finds wake-ups lost that no machine loses.
        if self.asleep.load(Ordering::Relaxed)
            && self.asleep.compare_exchange(true, false, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        {
            self.bell.ring();
        }
    }
}

/// Wakes a shard, for the control thread, whose commands do not come through the lanes.
#[derive(Clone, Debug)]
pub(crate) struct Waker {
    doors: Arc<[Door]>,
    shard: ShardId,
}

impl Waker {
    /// Wakes the shard if it sleeps. To be called after the command is in the queue. The shard looks into the queue
    /// between [`Endpoint::fall_asleep`] and its sleep, so either it sees the command there or it is seen asleep here.
    pub(crate) fn wake(&self) {
        self.doors[self.shard.index()].knock();
    }
}

/// One shard's ends of all its lanes.
#[derive(Debug)]
pub struct Endpoint<T> {
    own: ShardId,
    outbound: Vec<Option<rtrb::Producer<T>>>,
    inbound: Vec<Option<rtrb::Consumer<T>>>,
    doors: Arc<[Door]>,
    /// The lane that is drained first. It changes with each turn, so that no peer is always last.
    first: usize,
}

/// Builds the whole mesh: one endpoint per shard.
///
/// # Errors
/// When the kernel has no file descriptor left for an eventfd.
pub fn build<T>(shards: usize, capacity: usize) -> io::Result<Vec<Endpoint<T>>> {
    let doors = (0..shards)
        .map(|_| Ok(Door { asleep: AtomicBool::new(false), bell: Bell::new()? }))
        .collect::<io::Result<Arc<[Door]>>>()?;
    let mut endpoints: Vec<Endpoint<T>> = (0..shards)
        .map(|own| Endpoint {
            own: shard_id(own),
            outbound: (0..shards).map(|_| None).collect(),
            inbound: (0..shards).map(|_| None).collect(),
            doors: Arc::clone(&doors),
            first: 0,
        })
        .collect();
    for from in 0..shards {
        for to in (0..shards).filter(|&to| to != from) {
            let (producer, consumer) = rtrb::RingBuffer::new(capacity);
            endpoints[from].outbound[to] = Some(producer);
            endpoints[to].inbound[from] = Some(consumer);
        }
    }
    Ok(endpoints)
}

fn shard_id(index: usize) -> ShardId {
    ShardId(u16::try_from(index).expect("at most 256 shards"))
}

impl<T> Endpoint<T> {
    /// The shard that these ends belong to.
    pub(crate) fn own(&self) -> ShardId {
        self.own
    }

    /// The number of shards.
    #[cfg(all(test, feature = "loom"))]
    pub(crate) fn shards(&self) -> usize {
        self.doors.len()
    }

    /// The eventfd that becomes readable when the bell rings.
    pub(crate) fn bell(&self) -> BorrowedFd<'_> {
        self.doors[self.own.index()].bell.as_fd()
    }

    /// A handle with which another thread wakes this shard.
    pub(crate) fn waker(&self) -> Waker {
        Waker { doors: Arc::clone(&self.doors), shard: self.own }
    }

    /// Moves staged parcels into the rings, as far as there is room, and wakes each sleeping peer once.
    pub fn ship(&mut self, staging: &mut Staging<T>) {
        for (to, producer) in self.outbound.iter_mut().enumerate() {
            let Some(producer) = producer else { continue };
            let door = &self.doors[to];
            let too_early = planted("knocks before it ships");
            if too_early {
                door.knock();
            }
            let free = producer.slots();
            let moved = staging.ship_lane(shard_id(to), free, |parcel| {
                let pushed = producer.push(parcel);
                assert!(pushed.is_ok(), "the ring had {free} free places");
            });
            if moved && !too_early {
                door.knock();
            }
        }
    }

    /// Takes received parcels: from each lane at most `parcels`, and no more once their weight reaches `bytes`. Returns
    /// whether any are left.
    pub fn drain(
        &mut self,
        parcels: usize,
        bytes: usize,
        weigh: fn(&T) -> usize,
        mut take: impl FnMut(ShardId, T),
    ) -> bool {
        let shards = self.inbound.len();
        let mut left = false;
        for step in 0..shards {
            let from = (self.first + step) % shards;
            let Some(lane) = &mut self.inbound[from] else { continue };
            let mut weight = 0;
            let mut taken = 0;
            while taken < parcels && weight < bytes {
                let Ok(parcel) = lane.pop() else { break };
                weight += weigh(&parcel);
                taken += 1;
                take(shard_id(from), parcel);
            }
            left |= lane.slots() > 0;
        }
        self.first = (self.first + 1) % shards.max(1);
        left
    }

    /// Says that this shard is about to sleep. Returns false if a parcel came in at the last moment; the shard must not
    /// sleep then. After true, a peer that ships rings the bell, and so does [`Waker::wake`]. The shard must not sleep
    /// either if it finds a command in its queue after this.
    pub(crate) fn fall_asleep(&self) -> bool {
        let door = &self.doors[self.own.index()];
        let is_idle = || self.inbound.iter().flatten().all(|lane| lane.slots() == 0);
        let looked_before = planted("looks before the flag is set").then(is_idle);
        door.asleep.store(true, Ordering::Relaxed);
        if !planted("no fence before the lanes are looked at") {
            // Pairs with the fence in `Door::knock`.
            fence(Ordering::SeqCst);
        }
        let idle = looked_before.unwrap_or_else(is_idle);
        if !idle {
            door.asleep.store(false, Ordering::Relaxed);
        }
        idle
    }

    /// Says that this shard is awake, so peers need not ring.
    pub(crate) fn wake_up(&self) {
        self.doors[self.own.index()].asleep.store(false, Ordering::Relaxed);
    }
}

/// Whether this fault is planted in the protocol, for the model to find. Never in a server.
#[cfg(not(all(test, feature = "loom")))]
const fn planted(_fault: &str) -> bool {
    false
}

/// What wakes a shard that sleeps in the kernel.
#[cfg(not(all(test, feature = "loom")))]
mod bell {
    use std::io;
    use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

    use rustix::event::{EventfdFlags, eventfd};

    #[derive(Debug)]
    pub(crate) struct Bell(OwnedFd);

    impl Bell {
        pub(crate) fn new() -> io::Result<Self> {
            Ok(Self(eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?))
        }

        pub(crate) fn ring(&self) {
            // Fails only if the counter is near 2^64, and then the bell is ringing already.
            let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
        }

        pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
            self.0.as_fd()
        }
    }
}

#[cfg(all(test, not(feature = "loom")))]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    const A: ShardId = ShardId(0);
    const B: ShardId = ShardId(1);

    fn pair(capacity: usize) -> (Endpoint<u32>, Endpoint<u32>) {
        let mut ends = build(2, capacity).expect("eventfds");
        let b = ends.pop().expect("two");
        (ends.pop().expect("one"), b)
    }

    fn all(end: &mut Endpoint<u32>) -> Vec<u32> {
        let mut got = Vec::new();
        end.drain(usize::MAX, usize::MAX, |_| 0, |_, n| got.push(n));
        got
    }

    fn rang(end: &Endpoint<u32>) -> bool {
        let mut count = [0; 8];
        rustix::io::read(end.bell(), &mut count).is_ok()
    }

    #[test]
    fn a_lane_is_fifo_over_more_than_its_capacity() {
        let (mut a, mut b) = pair(4);
        let mut staging = Staging::new(A, 2, 4);
        (0..10).for_each(|n| staging.push(B, n));
        let mut got = Vec::new();
        while got.len() < 10 {
            a.ship(&mut staging);
            got.extend(all(&mut b));
        }
        assert_eq!(got, (0..10).collect::<Vec<_>>());
        assert!(!staging.has_outbound());
    }

    #[test]
    fn room_leaves_what_credits_may_need() {
        let (mut a, mut b) = pair(9);
        let mut staging = Staging::new(A, 2, 9);
        assert_eq!(staging.room(B), 3);
        staging.push(B, 1);
        assert_eq!(staging.room(B), 2);
        a.ship(&mut staging);
        assert_eq!(staging.room(B), 2, "in the ring it takes the same place");
        all(&mut b);
        a.ship(&mut staging);
        assert_eq!(staging.room(B), 3, "taken, it frees the place");
        (0..20).for_each(|n| staging.push(B, n));
        assert_eq!(staging.room(B), 0);
    }

    #[test]
    fn drain_keeps_to_its_budget_and_says_what_it_left() {
        let (mut a, mut b) = pair(16);
        let mut staging = Staging::new(A, 2, 16);
        (0..10).for_each(|n| staging.push(B, n));
        a.ship(&mut staging);
        let mut got = 0;
        assert!(b.drain(4, usize::MAX, |_| 0, |_, _| got += 1));
        assert_eq!(got, 4);
        assert!(b.drain(100, 30, |_| 10, |_, _| got += 1));
        assert_eq!(got, 7);
        assert!(!b.drain(100, usize::MAX, |_| 0, |_, _| got += 1));
        assert_eq!(got, 10);
    }

    #[test]
    fn only_a_sleeper_is_woken_and_once_per_batch() {
        let (mut a, mut b) = pair(16);
        let mut staging = Staging::new(A, 2, 16);
        staging.push(B, 1);
        a.ship(&mut staging);
        assert!(!rang(&b), "b was at work");
        assert!(!b.fall_asleep(), "a parcel was there");
        all(&mut b);
        assert!(b.fall_asleep());
        (0..5).for_each(|n| staging.push(B, n));
        a.ship(&mut staging);
        assert!(rang(&b));
        staging.push(B, 9);
        a.ship(&mut staging);
        assert!(!rang(&b), "already woken");
    }

    /// Two shards that work for random times, on two cores where there are two, and sleep whenever they may.
    struct Walker {
        end: Endpoint<u32>,
        staging: Staging<u32>,
        /// Of both: parcels that have not come to the end of their way.
        walking: Arc<AtomicUsize>,
        random: u64,
        hops: u32,
        sleeps: u32,
    }

    impl Walker {
        fn new(end: Endpoint<u32>, walking: &Arc<AtomicUsize>) -> Self {
            let random = 0x9e37_79b9_7f4a_7c15 ^ u64::from(end.own().0);
            let staging = Staging::new(end.own(), 2, 8);
            Self { end, staging, walking: Arc::clone(walking), random, hops: 0, sleeps: 0 }
        }

        /// Works for a moment: mostly next to nothing, so that both are on the brink of sleep, now and then longer.
        fn work(&mut self) {
            self.random ^= self.random << 13;
            self.random ^= self.random >> 7;
            self.random ^= self.random << 17;
            let most = if self.random.is_multiple_of(64) { 4_000 } else { 60 };
            (0..(self.random >> 32) % most).for_each(|_| std::hint::spin_loop());
        }

        /// Sends parcels on, each with one hop less to go, until none of the two has any left.
        fn walk(mut self) -> (u32, u32) {
            let peer = ShardId(1 - self.end.own().0);
            while self.walking.load(Ordering::Acquire) > 0 {
                self.end.wake_up();
                let mut came = Vec::new();
                let left = self.end.drain(3, usize::MAX, |_| 0, |_, hops| came.push(hops));
                for hops in came {
                    self.hops += 1;
                    if hops > 0 {
                        self.staging.push(peer, hops - 1);
                    } else if self.walking.fetch_sub(1, Ordering::AcqRel) == 1 {
                        Waker { doors: Arc::clone(&self.end.doors), shard: peer }.wake();
                    }
                }
                self.work();
                self.end.ship(&mut self.staging);
                self.work();
                if left || self.staging.has_outbound() || !self.end.fall_asleep() {
                    continue;
                }
                // Whoever takes the last step rings for the other alone.
                if self.walking.load(Ordering::Acquire) > 0 {
                    self.sleep();
                }
            }
            (self.hops, self.sleeps)
        }

        fn sleep(&mut self) {
            let mut poll = [rustix::event::PollFd::from_borrowed_fd(self.end.bell(), rustix::event::PollFlags::IN)];
            let deadline = rustix::event::Timespec { tv_sec: 30, tv_nsec: 0 };
            let ready = rustix::event::poll(&mut poll, Some(&deadline)).expect("poll");
            assert_eq!(ready, 1, "asleep after {} hops, and nobody rang", self.hops);
            rang(&self.end);
            self.sleeps += 1;
        }
    }

    #[test]
    fn every_parcel_gets_there_whoever_sleeps() {
        let hops: u32 = std::env::var("URINGCAST_TEST_HOPS").map_or(60_000, |hops| hops.parse().expect("a number"));
        // One parcel alone lets the other side sleep on each hop; more of them meet it at work.
        for parcels in [1, 2, 5] {
            let (mut a, b) = pair(8);
            let mut staging = Staging::new(A, 2, 8);
            (0..parcels).for_each(|_| staging.push(B, hops / parcels));
            a.ship(&mut staging);
            let walking = Arc::new(AtomicUsize::new(parcels as usize));
            let threads = [a, b].map(|end| {
                let walker = Walker::new(end, &walking);
                std::thread::spawn(move || walker.walk())
            });
            let [a, b] = threads.map(|thread| thread.join().expect("no wake is lost"));
            assert_eq!(a.0 + b.0, (hops / parcels + 1) * parcels);
            assert!(a.1 + b.1 > 0, "nobody ever slept");
            println!("{parcels} on the way: {} hops, {} sleeps", a.0 + b.0, a.1 + b.1);
        }
    }
}
