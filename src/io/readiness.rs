//! Which of a shard's sockets can be read or written: an epoll set that each socket joins once, for as long as it is open.
//! The set is level-triggered, so what a connection leaves in its socket is reported again. The runtime waits for the set
//! with one descriptor, whatever its driver. An idle connection thus needs no task, and a read costs no request of its own.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};

use crate::ids::{ConnId, ShardId};

/// The most sockets that one look reports. The shard's other tasks run between two looks.
pub(super) const READY_MAX: usize = 1024;

/// What is reported of a socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Interest {
    /// Bytes have come, or the stream has ended.
    pub(super) readable: bool,
    /// The kernel takes bytes.
    pub(super) writable: bool,
}

/// A socket that is ready. One that has failed is ready for both.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct ReadySocket {
    /// The connection. It may have ended since, and its slot may have another one.
    pub(super) id: ConnId,
    /// Receiving does not wait.
    pub(super) readable: bool,
    /// Sending does not wait.
    pub(super) writable: bool,
}

/// The epoll set of one shard.
pub(super) struct Readiness {
    own: ShardId,
    set: OwnedFd,
    events: Vec<Event>,
}

impl Readiness {
    /// Makes an empty set.
    ///
    /// # Errors
    /// When the kernel has no descriptor left.
    pub(super) fn new(own: ShardId) -> io::Result<Self> {
        Ok(Self { own, set: epoll::create(CreateFlags::CLOEXEC)?, events: Vec::with_capacity(READY_MAX) })
    }

    /// A copy of the set's descriptor, which is readable while a socket is ready.
    ///
    /// # Errors
    /// When the kernel has no descriptor left.
    pub(super) fn descriptor(&self) -> io::Result<OwnedFd> {
        self.set.try_clone()
    }

    /// Takes a socket into the set. It leaves the set when it is closed.
    ///
    /// # Errors
    /// When the kernel has no memory left, or `fs.epoll.max_user_watches` is reached.
    pub(super) fn add(&self, id: ConnId, socket: impl AsFd, interest: Interest) -> io::Result<()> {
        Ok(epoll::add(&self.set, socket, data(id), flags(interest))?)
    }

    /// Changes what is reported of a socket.
    pub(super) fn change(&self, id: ConnId, socket: impl AsFd, interest: Interest) {
        // Fails only for a socket that is not in the set.
        let changed = epoll::modify(&self.set, socket, data(id), flags(interest));
        debug_assert!(changed.is_ok(), "{changed:?}");
    }

    /// Asks the kernel for sockets that are ready, and adds them to `ready`.
    pub(super) fn look(&mut self, ready: &mut Vec<ReadySocket>) {
        self.events.clear();
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        // Fails only if a signal came first: then the next look reports the same.
        let _ = epoll::wait(&self.set, spare_capacity(&mut self.events), Some(&at_once));
        ready.extend(self.events.iter().map(|event| {
            let (id, flags) = (event.data.u64(), event.flags);
            let has_failed = flags.intersects(EventFlags::ERR | EventFlags::HUP);
            ReadySocket {
                id: ConnId { shard: self.own, slot: id as u32, generation: (id >> 32) as u32 },
                readable: has_failed || flags.contains(EventFlags::IN),
                writable: has_failed || flags.contains(EventFlags::OUT),
            }
        }));
    }
}

impl fmt::Debug for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Readiness").field("set", &self.set).finish_non_exhaustive()
    }
}

fn data(id: ConnId) -> EventData {
    EventData::new_u64(u64::from(id.generation) << 32 | u64::from(id.slot))
}

fn flags(interest: Interest) -> EventFlags {
    match interest {
        // The kernel always reports a failure, and with this flag only once.
        Interest { readable: false, writable: false } => EventFlags::ONESHOT,
        Interest { readable: true, writable: false } => EventFlags::IN,
        Interest { readable: false, writable: true } => EventFlags::OUT,
        Interest { readable: true, writable: true } => EventFlags::IN | EventFlags::OUT,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;
    use std::rc::Rc;
    use std::time::Duration;

    use super::*;
    use crate::io::driver::{Driver, Pause, Turnstile, pollable};

    fn id(slot: u32, generation: u32) -> ConnId {
        ConnId { shard: ShardId(3), slot, generation }
    }

    fn look(readiness: &mut Readiness) -> Vec<ReadySocket> {
        let mut ready = Vec::new();
        readiness.look(&mut ready);
        ready
    }

    #[test]
    fn a_socket_is_reported_until_it_has_been_read_and_not_while_nobody_waits_for_it() {
        let mut readiness = Readiness::new(ShardId(3)).expect("a descriptor is left");
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let (readable, none) =
            (Interest { readable: true, writable: false }, Interest { readable: false, writable: false });
        let id = id(7, u32::MAX);
        readiness.add(id, &ours, readable).expect("it is watched");
        assert_eq!(look(&mut readiness), []);
        rustix::io::write(&theirs, b"x").expect("a byte fits");
        let reported = [ReadySocket { id, readable: true, writable: false }];
        assert_eq!(look(&mut readiness), reported);
        assert_eq!(look(&mut readiness), reported, "the byte is still there");
        readiness.change(id, &ours, none);
        assert_eq!(look(&mut readiness), []);
        readiness.change(id, &ours, readable);
        assert_eq!(look(&mut readiness), reported, "the byte came before the wait");
        rustix::io::read(&ours, &mut [0; 8]).expect("the byte is there");
        assert_eq!(look(&mut readiness), []);
        readiness.change(id, &ours, Interest { readable: true, writable: true });
        assert_eq!(look(&mut readiness), [ReadySocket { id, readable: false, writable: true }]);
    }

    #[test]
    fn a_failure_of_a_socket_that_nobody_waits_for_is_reported_once_at_most() {
        let mut readiness = Readiness::new(ShardId(0)).expect("a descriptor is left");
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        readiness.add(id(0, 0), &ours, Interest { readable: false, writable: false }).expect("it is watched");
        drop(theirs);
        assert!(look(&mut readiness).len() <= 1);
        assert_eq!(look(&mut readiness), []);
        readiness.change(id(0, 0), &ours, Interest { readable: true, writable: false });
        assert!(look(&mut readiness)[0].readable, "the end was not lost");
    }

    #[test]
    fn both_drivers_wait_for_the_set_as_often_as_a_socket_becomes_ready() {
        for driver in [Driver::IoUring, Driver::Epoll] {
            let served = driver.serve(|| async move {
                let (turnstile, pause) = (Rc::new(Turnstile::default()), Pause::new(driver)?);
                let at = Rc::clone(&turnstile);
                monoio::spawn(async move { at.serve(pause).await });
                let mut readiness = Readiness::new(ShardId(0))?;
                let waiting = pollable(readiness.descriptor()?)?;
                let (ours, theirs) = UnixStream::pair()?;
                readiness.add(id(0, 0), &ours, Interest { readable: true, writable: false })?;
                for _ in 0..3 {
                    let theirs = theirs.try_clone()?;
                    monoio::spawn(async move {
                        monoio::time::sleep(Duration::from_millis(2)).await;
                        rustix::io::write(&theirs, b"x").expect("a byte fits");
                    });
                    // Twice, because the byte is not read after the first time.
                    for _ in 0..2 {
                        turnstile.readable(&waiting).await?;
                        assert_eq!(look(&mut readiness).len(), 1, "{driver:?}");
                    }
                    rustix::io::read(&ours, &mut [0; 8])?;
                }
                Ok(())
            });
            served.expect("it serves");
        }
    }

    #[test]
    fn a_closed_socket_is_not_reported() {
        let mut readiness = Readiness::new(ShardId(0)).expect("a descriptor is left");
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        readiness.add(id(1, 1), &ours, Interest { readable: true, writable: true }).expect("it is watched");
        drop((ours, theirs));
        assert_eq!(look(&mut readiness), []);
    }
}
