//! The lanes' wake protocol in every interleaving, with every stale value that the memory model allows: `mesh` itself,
//! compiled over loom's atomics (`./check lanes`). Owns what stands in for the ring buffers and the kernel, the faults
//! that the model has to find, and the lives that are tried. A wake-up that is lost is a deadlock, which loom reports.
//! Knows nothing of reactors: what wakes a sleeper there is a bell that stays rung until it is read, as here.

use std::cell::Cell;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use loom::sync::{Condvar, Mutex};

pub(crate) use loom::sync::atomic::{AtomicBool, Ordering, fence};

use super::{Staging, build};
use crate::ids::ShardId;

/// An eventfd: it stays rung until somebody has slept or not slept on it, and whoever was woken sees what came before.
#[derive(Debug)]
pub(crate) struct ModelBell {
    rung: Mutex<bool>,
    woken: Condvar,
}

impl ModelBell {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self { rung: Mutex::new(false), woken: Condvar::new() })
    }

    pub(crate) fn ring(&self) {
        *self.rung.lock().expect("no panic") = true;
        self.woken.notify_one();
    }

    fn sleep(&self) {
        let mut rung = self.rung.lock().expect("no panic");
        while !*rung {
            rung = self.woken.wait(rung).expect("no panic");
        }
        *rung = false;
    }

    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        unreachable!("no reactor runs in the model")
    }
}

/// The ring buffers' counters, with the orderings and the cached copies of the real ones: what a shard can see of a lane
/// is theirs to say. Whether a parcel is whole is not looked into here.
pub(crate) mod rtrb {
    use std::cell::Cell;
    use std::collections::VecDeque;
    use std::sync::{Arc, Mutex};

    use loom::sync::atomic::{AtomicUsize, Ordering};

    #[derive(Debug)]
    pub(crate) struct RingBuffer<T> {
        /// No part of the model, in which one thread runs at a time: never contended.
        parcels: Mutex<VecDeque<T>>,
        capacity: usize,
        pushed: AtomicUsize,
        popped: AtomicUsize,
    }

    #[derive(Debug)]
    pub(crate) struct Producer<T> {
        ring: Arc<RingBuffer<T>>,
        pushed: usize,
        popped_seen: Cell<usize>,
    }

    #[derive(Debug)]
    pub(crate) struct Consumer<T> {
        ring: Arc<RingBuffer<T>>,
        popped: usize,
        pushed_seen: Cell<usize>,
    }

    impl<T> RingBuffer<T> {
        #[expect(clippy::new_ret_no_self, reason = "as rtrb has it")]
        pub(crate) fn new(capacity: usize) -> (Producer<T>, Consumer<T>) {
            let (pushed, popped) = (AtomicUsize::new(0), AtomicUsize::new(0));
            let ring = Arc::new(Self { parcels: Mutex::default(), capacity, pushed, popped });
            let producer = Producer { ring: Arc::clone(&ring), pushed: 0, popped_seen: Cell::new(0) };
            (producer, Consumer { ring, popped: 0, pushed_seen: Cell::new(0) })
        }
    }

    impl<T> Producer<T> {
        pub(crate) fn slots(&self) -> usize {
            self.popped_seen.set(self.ring.popped.load(Ordering::Acquire));
            self.ring.capacity - (self.pushed - self.popped_seen.get())
        }

        pub(crate) fn push(&mut self, parcel: T) -> Result<(), T> {
            if self.pushed - self.popped_seen.get() == self.ring.capacity && self.slots() == 0 {
                return Err(parcel);
            }
            self.ring.parcels.lock().expect("no panic").push_back(parcel);
            self.pushed += 1;
            self.ring.pushed.store(self.pushed, Ordering::Release);
            Ok(())
        }
    }

    impl<T> Consumer<T> {
        pub(crate) fn slots(&self) -> usize {
            self.pushed_seen.set(self.ring.pushed.load(Ordering::Acquire));
            self.pushed_seen.get() - self.popped
        }

        pub(crate) fn pop(&mut self) -> Result<T, ()> {
            if self.pushed_seen.get() == self.popped && self.slots() == 0 {
                return Err(());
            }
            let parcel = self.ring.parcels.lock().expect("no panic").pop_front().ok_or(())?;
            self.popped += 1;
            self.ring.popped.store(self.popped, Ordering::Release);
            Ok(parcel)
        }
    }
}

thread_local! {
    /// All threads of a model run on the one that tries it.
    static FAULT: Cell<&'static str> = const { Cell::new("") };
}

/// Whether this fault is to be in the protocol.
pub(crate) fn planted(fault: &str) -> bool {
    FAULT.get() == fault
}

/// Peers ship batches to a shard that sleeps whenever it may, and a control thread gives it commands, until it has them
/// all, in the order of each lane.
fn life(peers: usize, batches: u32, commands: u32, capacity: usize) {
    let mut ends = build(1 + peers, capacity).expect("no descriptor is asked for").into_iter();
    let mut sleeper = ends.next().expect("the first");
    // The queue of commands, as far as the model cares: how many wait in it.
    let queue = Arc::new(Mutex::new(0));
    let waiting = |queue: &Mutex<u32>| *queue.lock().expect("no panic");
    let control = (commands > 0).then(|| {
        let (queue, waker) = (Arc::clone(&queue), sleeper.waker());
        loom::thread::spawn(move || {
            for _ in 0..commands {
                if planted("wakes before the command is queued") {
                    waker.wake();
                    *queue.lock().expect("no panic") += 1;
                } else {
                    *queue.lock().expect("no panic") += 1;
                    waker.wake();
                }
            }
        })
    });
    let mut obeyed = 0;
    let peers: Vec<_> = ends
        .map(|mut end| {
            loom::thread::spawn(move || {
                let mut staging = Staging::new(end.own(), end.shards(), capacity);
                for number in 0..batches {
                    staging.push(ShardId(0), number);
                    end.ship(&mut staging);
                }
            })
        })
        .collect();
    let mut next = vec![0; 1 + peers.len()];
    loop {
        obeyed += std::mem::take(&mut *queue.lock().expect("no panic"));
        sleeper.wake_up();
        let left = sleeper.drain(
            usize::MAX,
            usize::MAX,
            |_| 0,
            |from, number| {
                assert_eq!(number, next[from.index()]);
                next[from.index()] += 1;
            },
        );
        if next[1..].iter().all(|&next| next == batches) && obeyed == commands {
            break;
        }
        let looked_before = planted("looks for commands before it falls asleep").then(|| waiting(&queue));
        // As `io::turns` has it.
        if !left && sleeper.fall_asleep() && looked_before.unwrap_or_else(|| waiting(&queue)) == 0 {
            sleeper.doors[0].bell.sleep();
        }
    }
    control.into_iter().for_each(|control| control.join().expect("commands"));
    peers.into_iter().for_each(|peer| peer.join().expect("ships"));
}

fn every_life(preemptions: Option<usize>, peers: usize, batches: u32, commands: u32) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = preemptions;
    model.check(move || life(peers, batches, commands, 4));
}

#[test]
fn no_wake_is_lost_between_two_shards() {
    every_life(Some(3), 1, 3, 0);
}

#[test]
fn no_wake_is_lost_among_three_shards() {
    every_life(Some(3), 2, 1, 0);
}

#[test]
fn no_wake_is_lost_between_a_shard_and_the_control_thread() {
    every_life(Some(3), 0, 0, 3);
    every_life(Some(3), 1, 1, 1);
}

/// What loom says when a shard sleeps and nobody will wake it.
fn is_found(fault: &'static str, (peers, batches, commands): (usize, u32, u32)) {
    FAULT.set(fault);
    let lives = || every_life(Some(3), peers, batches, commands);
    let panic = std::panic::catch_unwind(lives).expect_err("a planted fault goes unnoticed");
    let said =
        panic.downcast_ref::<String>().map_or_else(|| format!("{:?}", panic.downcast_ref::<&str>()), String::clone);
    assert!(said.contains("deadlock"), "{said}");
}

#[test]
fn a_missing_fence_of_the_peer_is_found() {
    is_found("no fence before the flag is read", (2, 1, 0));
}

#[test]
fn a_missing_fence_of_the_sleeper_is_found() {
    is_found("no fence before the lanes are looked at", (2, 1, 0));
}

#[test]
fn a_flag_that_is_set_too_late_is_found() {
    is_found("looks before the flag is set", (2, 1, 0));
}

#[test]
fn a_bell_that_is_rung_too_early_is_found() {
    is_found("knocks before it ships", (2, 1, 0));
}

#[test]
fn a_command_that_is_looked_for_too_early_is_found() {
    is_found("looks for commands before it falls asleep", (0, 0, 1));
}

#[test]
fn a_command_that_is_queued_too_late_is_found() {
    is_found("wakes before the command is queued", (0, 0, 1));
}
