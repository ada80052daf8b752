//! How a shard waits for its sockets: with io_uring, or with epoll if the kernel refuses io_uring. At the start it probes
//! what the runtime needs of io_uring, and says why it cannot be used. Also builds the runtime of a shard's thread, and
//! knows how a task lets others run with each driver. `boot` chooses one driver for all shards.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::pin::pin;
use std::task::{Poll, Waker};
use std::time::Duration;

use io_uring::{opcode, types};
use monoio::net::UnixStream;
use rustix::event::{EventfdFlags, eventfd};

/// The entries of each shard's submission queue. A full one with many inline completions would overflow the completion
/// queue. With epoll, as many events are taken at once.
const ENTRIES: u32 = 4096;
/// How long the probe may take. It ends at once if io_uring works.
const PROBE: Duration = Duration::from_secs(2);

/// The system interface that a shard waits with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Driver {
    /// Completions through an io_uring.
    IoUring,
    /// Readiness through epoll.
    Epoll,
}

impl Driver {
    /// The name in the configuration.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::IoUring => "io_uring",
            Self::Epoll => "epoll",
        }
    }

    /// Runs the future on this thread until it ends.
    ///
    /// # Errors
    /// When the kernel refuses what the driver needs, and the error of the future.
    pub(crate) fn serve<F: Future<Output = io::Result<()>>>(self, start: impl FnOnce() -> F) -> io::Result<()> {
        match self {
            Self::IoUring => {
                let builder = monoio::RuntimeBuilder::<monoio::IoUringDriver>::new().uring_builder(ring());
                builder.with_entries(ENTRIES).enable_timer().build()?.block_on(async move { start().await })
            }
            Self::Epoll => {
                let builder = monoio::RuntimeBuilder::<monoio::LegacyDriver>::new();
                builder.with_entries(ENTRIES).enable_timer().build()?.block_on(async move { start().await })
            }
        }
    }
}

/// Why io_uring cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum UringFault {
    /// A system call was refused.
    #[error("{call} was refused: {cause}")]
    Refused {
        /// The name of the call.
        call: &'static str,
        /// The kernel's error.
        cause: io::Error,
    },
    /// The kernel is too old: it lacks this operation.
    #[error("this kernel's io_uring lacks {0}: Linux 6.0 or later is needed")]
    Lacks(&'static str),
    /// The kernel did not complete the probe.
    #[error("io_uring did not complete a request within {} s", PROBE.as_secs())]
    Silent,
}

impl UringFault {
    /// What probably refuses io_uring, and what to do about it, as far as this process can tell.
    pub(crate) fn hint(&self) -> String {
        let Self::Refused { call, cause } = self else { return String::new() };
        let disabled = read_word("/proc/sys/kernel/io_uring_disabled", "").filter(|word| word != "0");
        let is_filtered = read_word("/proc/self/status", "Seccomp:").is_some_and(|mode| mode != "0");
        if let Some(word) = disabled
            && *call == SETUP
        {
            return format!("kernel.io_uring_disabled is {word}: set it to 0 (sysctl)");
        }
        if cause.raw_os_error() == Some(rustix::io::Errno::NOSYS.raw_os_error()) && !is_filtered {
            return "this kernel was built without it, or is older than Linux 5.1".to_owned();
        }
        let filter = if is_filtered { "a seccomp filter is on this process" } else { "a sandbox refuses it" };
        format!(
            "{filter}, as the default profiles of Docker and containerd are: allow io_uring_setup, io_uring_enter and \
             io_uring_register in the container's seccomp profile"
        )
    }
}

/// The first word after `name` at the start of a line.
fn read_word(path: &str, name: &str) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next().map(str::to_owned)
}

const SETUP: &str = "io_uring_setup";

/// The settings of a shard's ring: one thread enters it, and completions wait until it does. Needs Linux 6.0.
fn ring() -> io_uring::Builder {
    let mut ring = io_uring::IoUring::builder();
    ring.setup_coop_taskrun().setup_single_issuer();
    ring
}

/// Probes io_uring as the shards use it: sets up a ring of their size, checks for their operations, and waits through it for
/// a descriptor that is readable.
///
/// # Errors
/// The reason why io_uring cannot be used.
pub(crate) fn probe_uring() -> Result<(), UringFault> {
    let refused = |call| move |cause| UringFault::Refused { call, cause };
    let mut ring = ring().build(ENTRIES).map_err(refused(SETUP))?;
    let mut probe = io_uring::Probe::new();
    ring.submitter().register_probe(&mut probe).map_err(refused("io_uring_register"))?;
    let needed = [
        ("poll_add", opcode::PollAdd::CODE),
        ("poll_remove", opcode::PollRemove::CODE),
        ("async_cancel", opcode::AsyncCancel::CODE),
        ("read", opcode::Read::CODE),
        ("timeout", opcode::Timeout::CODE),
        ("close", opcode::Close::CODE),
    ];
    if let Some((name, _)) = needed.into_iter().find(|(_, code)| !probe.is_supported(*code)) {
        return Err(UringFault::Lacks(name));
    }
    let ready = eventfd(1, EventfdFlags::CLOEXEC).map_err(|error| refused("eventfd")(error.into()))?;
    let poll = opcode::PollAdd::new(types::Fd(ready.as_raw_fd()), POLLIN).build();
    #[expect(unsafe_code, reason = "a submission may name memory; this one names a descriptor alone")]
    // SAFETY: the operation refers to no memory, and `ready` lives until the ring is gone or the request has completed.
    let pushed = unsafe { ring.submission().push(&poll) };
    pushed.map_err(|_| UringFault::Silent)?;
    let patience = types::Timespec::from(PROBE);
    let wait = types::SubmitArgs::new().timespec(&patience);
    match ring.submitter().submit_with_args(1, &wait) {
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::TIME.raw_os_error()) => {}
        entered => drop(entered.map_err(refused("io_uring_enter"))?),
    }
    match ring.completion().next().map(|entry| entry.result()) {
        None => Err(UringFault::Silent),
        Some(result @ ..0) => Err(refused("polling through io_uring")(io::Error::from_raw_os_error(-result))),
        Some(_) => Ok(()),
    }
}

/// The flag of poll(2) for readability.
const POLLIN: u32 = 1;

/// Lets other tasks run. A task that wakes itself does not: it starves I/O (monoio #322) and timers.
pub(crate) struct Pause {
    driver: Driver,
    readable: UnixStream,
}

impl Pause {
    /// Makes a pause. Must be called within the runtime.
    ///
    /// # Errors
    /// When the kernel has no descriptor left.
    pub(crate) fn new(driver: Driver) -> io::Result<Self> {
        let count = match driver {
            Driver::IoUring => 1,
            Driver::Epoll => 0,
        };
        let fd = eventfd(count, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        Ok(Self { driver, readable: pollable(fd)? })
    }

    /// Lets every task that is ready run, and the driver take in what the kernel has.
    ///
    /// With io_uring, to poll a descriptor that is always readable goes through the ring. The epoll driver remembers
    /// what was readable and would not ask the kernel: its descriptor becomes readable while the task waits.
    pub(crate) async fn take(&self) {
        let mut is_rung = match self.driver {
            Driver::IoUring => true,
            Driver::Epoll => {
                // Resets the descriptor, which is readable since the last pause.
                let _ = rustix::io::read(as_fd(&self.readable), &mut [0; 8]);
                false
            }
        };
        let mut readable = pin!(self.readable.readable(false));
        poll_fn(|context| {
            let polled = readable.as_mut().poll(context);
            if polled.is_pending() && !std::mem::replace(&mut is_rung, true) {
                // Cannot fail, because the count is 0.
                let _ = rustix::io::write(as_fd(&self.readable), &1_u64.to_ne_bytes());
            }
            polled
        })
        .await
        .ok();
    }
}

impl fmt::Debug for Pause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pause").field("driver", &self.driver).finish_non_exhaustive()
    }
}

/// Makes tasks whose descriptor was readable at once wait until the driver has looked at the kernel again. With io_uring
/// that never happens, but the epoll driver reports a descriptor without a look as long as it is readable. Otherwise a
/// client that sends without a pause would have a shard to itself. Any number of tasks may wait, and the driver wakes one,
/// `serve`, for all of them.
#[derive(Debug, Default)]
pub(crate) struct Turnstile {
    waiting: RefCell<Vec<Waker>>,
    /// The number of looks of the driver.
    looks: Cell<u64>,
    /// The waker of `serve`, while no task waits.
    serving: RefCell<Option<Waker>>,
}

impl Turnstile {
    /// Wakes the waiting tasks each time the driver has looked. Never ends.
    pub(crate) async fn serve(&self, pause: Pause) {
        loop {
            poll_fn(|context| {
                if self.waiting.borrow().is_empty() {
                    *self.serving.borrow_mut() = Some(context.waker().clone());
                    return Poll::Pending;
                }
                Poll::Ready(())
            })
            .await;
            pause.take().await;
            self.looks.set(self.looks.get() + 1);
            self.waiting.take().into_iter().for_each(Waker::wake);
        }
    }

    /// Waits for the driver's next look.
    async fn pass(&self) {
        let before = self.looks.get();
        poll_fn(|context| {
            if self.looks.get() > before {
                return Poll::Ready(());
            }
            self.waiting.borrow_mut().push(context.waker().clone());
            if let Some(serving) = self.serving.borrow_mut().take() {
                serving.wake();
            }
            Poll::Pending
        })
        .await;
    }

    /// Waits until a descriptor is readable, and for the driver's next look if it is already.
    ///
    /// # Errors
    /// Those of the driver.
    pub(crate) async fn readable(&self, stream: &UnixStream) -> io::Result<()> {
        let mut has_waited = false;
        {
            let mut readable = pin!(stream.readable(false));
            poll_fn(|context| {
                let polled = readable.as_mut().poll(context);
                has_waited |= polled.is_pending();
                polled
            })
            .await?;
        }
        if !has_waited {
            self.pass().await;
        }
        Ok(())
    }
}

/// Makes a descriptor that tasks can wait for. monoio polls only sockets, but the kernel polls any descriptor, and this one
/// is used for polling only.
///
/// # Errors
/// When the driver refuses it.
pub(crate) fn pollable(fd: OwnedFd) -> io::Result<UnixStream> {
    UnixStream::from_std(StdUnixStream::from(fd))
}

/// The descriptor of what [`pollable`] has made.
pub(crate) fn as_fd(stream: &UnixStream) -> BorrowedFd<'_> {
    #[expect(unsafe_code, reason = "monoio's streams have no AsFd")]
    // SAFETY: the stream keeps its descriptor open until it is dropped, which the borrow can't outlive.
    unsafe {
        BorrowedFd::borrow_raw(stream.as_raw_fd())
    }
}

/// Takes the descriptor back from what [`pollable`] has made. No task may wait for it.
pub(crate) fn from_pollable(stream: UnixStream) -> OwnedFd {
    #[expect(unsafe_code, reason = "monoio's streams give their descriptor back as a number alone")]
    // SAFETY: the stream owned the descriptor, and has given it up.
    unsafe {
        OwnedFd::from_raw_fd(stream.into_raw_fd())
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;

    #[test]
    fn a_socket_that_is_always_readable_starves_neither_timers_nor_other_sockets() {
        for driver in [Driver::IoUring, Driver::Epoll] {
            let served = driver.serve(|| async move {
                let turnstile = Rc::new(Turnstile::default());
                let (pause, at) = (Pause::new(driver)?, Rc::clone(&turnstile));
                monoio::spawn(async move { at.serve(pause).await });
                let reads = Rc::new(Cell::new(0_u64));
                let mut ends = Vec::new();
                for _ in 0..3 {
                    let (ours, theirs) = StdUnixStream::pair()?;
                    rustix::io::write(&theirs, b"x")?;
                    let (ours, count, at) = (pollable(ours.into())?, Rc::clone(&reads), Rc::clone(&turnstile));
                    // What has come is never taken.
                    monoio::spawn(async move {
                        while at.readable(&ours).await.is_ok() {
                            count.set(count.get() + 1);
                        }
                    });
                    ends.push(theirs);
                }
                monoio::time::sleep(Duration::from_millis(3)).await;
                assert!(reads.get() > 0, "{driver:?}");
                let (ours, theirs) = StdUnixStream::pair()?;
                monoio::spawn(async move {
                    monoio::time::sleep(Duration::from_millis(3)).await;
                    rustix::io::write(&theirs, b"x").expect("the socket takes a byte");
                });
                turnstile.readable(&pollable(ours.into())?).await
            });
            served.expect("it serves");
        }
    }

    /// Runs a task that never does anything but pause, beside what the future does.
    fn beside_a_busy_task<F: Future<Output = io::Result<()>>>(driver: Driver, work: impl FnOnce(Rc<Cell<u64>>) -> F) {
        let served = driver.serve(|| async move {
            let pauses = Rc::new(Cell::new(0));
            let (pause, count) = (Pause::new(driver)?, Rc::clone(&pauses));
            monoio::spawn(async move {
                loop {
                    pause.take().await;
                    count.set(count.get() + 1);
                }
            });
            work(pauses).await
        });
        served.expect("it serves");
    }

    #[test]
    fn a_task_that_pauses_again_and_again_starves_neither_timers_nor_sockets() {
        for driver in [Driver::IoUring, Driver::Epoll] {
            beside_a_busy_task(driver, |pauses| async move {
                monoio::time::sleep(Duration::from_millis(3)).await;
                assert!(pauses.get() > 0, "it had its turns");
                let (ours, theirs) = StdUnixStream::pair()?;
                let ours = pollable(ours.into())?;
                let (before, wrote) = (pauses.get(), Rc::new(Cell::new(0)));
                let at = Rc::clone(&wrote);
                monoio::spawn(async move {
                    monoio::time::sleep(Duration::from_millis(3)).await;
                    at.set(pauses.get());
                    rustix::io::write(&theirs, b"x").expect("the socket takes a byte");
                });
                ours.readable(false).await?;
                assert!(wrote.get() > before, "{driver:?}: the pauses went on while the socket was awaited");
                Ok(())
            });
        }
    }
}
