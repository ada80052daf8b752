//! What the controller and the load threads share: the plan, the phase, the counters.
//!
//! The controller moves the phase on and reads counters; each thread reads the phase and writes its own
//! counters, once per turn of its loop. Nothing else passes between them while a run lasts.
//! Called by `run` and `engine`.

use std::net::IpAddr;
use std::sync::atomic::Ordering::{Acquire, Release};
use std::sync::atomic::{AtomicU8, AtomicU64};
use std::sync::{Arc, OnceLock};

use crate::deflate;
use crate::latency::Clock;
use crate::protocol::Dialect;
use crate::target::Target;

/// What all threads work on.
pub struct Plan {
    /// Where to connect.
    pub target: Target,
    /// What to say first.
    pub dialect: Arc<Dialect>,
    /// How many connections, over all threads.
    pub connections: usize,
    /// How many threads.
    pub threads: usize,
    /// The CPUs they stay on, in turn; empty for any.
    pub cpus: Vec<usize>,
    /// Source addresses, in turn; empty for any.
    pub sources: Vec<IpAddr>,
    /// New connections a second; none for as fast as `in_flight` allows.
    pub connect_rate: Option<f64>,
    /// Connections that may be on their way at a time when there is no rate.
    pub in_flight: usize,
    /// The deadline of every wait, in nanoseconds.
    pub timeout: u64,
    /// What is offered to compress, if anything is.
    pub compression: Option<deflate::Settings>,
    /// Leave acknowledgements to the kernel's delay.
    pub delay_acks: bool,
    /// Connections that are event streams, if some are to be.
    pub streams: Option<Streams>,
    /// Connections that send HTTP requests, if some are to.
    pub requests: Option<Requests>,
    /// This many connections, the last ones, are opened by the workload, and not before it starts.
    pub later: usize,
}

impl Plan {
    /// Connections that are opened before the workload starts.
    pub fn first(&self) -> usize {
        self.connections.saturating_sub(self.later)
    }
}

/// Which connections send HTTP requests.
pub struct Requests {
    /// The address to connect to.
    pub target: Target,
    /// Connections below this number are WebSockets.
    pub from: usize,
}

/// Which connections are event streams.
pub struct Streams {
    /// The path of the request, with its channels.
    pub path: String,
    /// Connections below this number are none: those that publish.
    pub from: usize,
    /// How large a part of the others are, from 0 to 1.
    pub part: f64,
}

impl Streams {
    /// Whether a connection is one. They are spread evenly.
    pub fn has(&self, number: usize) -> bool {
        let before = |count: usize| (count as f64 * self.part).floor();
        number.checked_sub(self.from).is_some_and(|place| before(place + 1) > before(place))
    }
}

/// What a run is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Phase {
    /// Connections are opened and signed in.
    Connect,
    /// The workload sends.
    Work,
    /// What is still on its way arrives.
    Drain,
    /// Nothing counts any more. All threads must be here before the first connection is closed,
    /// or the goodbyes of one thread's users would be counted as pushes by another.
    Freeze,
    /// Connections are closed.
    Close,
    /// Threads end.
    End,
}

const ORDER: [Phase; PHASES] = [Phase::Connect, Phase::Work, Phase::Drain, Phase::Freeze, Phase::Close, Phase::End];

/// How many phases there are.
pub const PHASES: usize = 6;

/// When the workload sends and what part of it counts.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// The first message.
    pub start: u64,
    /// What comes from here on is measured.
    pub measured_from: u64,
    /// No message after this.
    pub stop: u64,
}

/// Counters of one thread, for the others to read.
#[derive(Default)]
#[repr(align(128))]
pub struct Counters {
    /// Connections signed in, ever.
    pub ready: AtomicU64,
    /// Connections that failed before that.
    pub failed: AtomicU64,
    /// Connections with a socket.
    pub open: AtomicU64,
    /// Messages that count for the workload.
    pub messages: AtomicU64,
    /// Messages the workload sent.
    pub sent: AtomicU64,
    /// All data frames.
    pub frames: AtomicU64,
    /// `recv` calls that brought data.
    pub receives: AtomicU64,
    /// Bytes received.
    pub bytes_in: AtomicU64,
    /// Bytes sent.
    pub bytes_out: AtomicU64,
    /// The workload has all it waits for.
    pub complete: AtomicU64,
    /// The workload needs no more of the window.
    pub satisfied: AtomicU64,
}

/// What `run` and the threads share.
pub struct Control {
    /// The plan.
    pub plan: Plan,
    /// The clock.
    pub clock: Clock,
    phase: AtomicU8,
    /// Set before the phase becomes `Work`.
    pub window: OnceLock<Window>,
    /// One for each thread.
    pub counters: Vec<Counters>,
}

impl Control {
    /// The beginning of a run.
    pub fn new(plan: Plan) -> Self {
        let counters = (0..plan.threads).map(|_| Counters::default()).collect();
        Self {
            plan,
            clock: Clock::start(),
            phase: AtomicU8::new(Phase::Connect as u8),
            window: OnceLock::new(),
            counters,
        }
    }

    /// The present phase.
    pub fn phase(&self) -> Phase {
        ORDER[usize::from(self.phase.load(Acquire))]
    }

    /// Goes on to `phase`.
    pub fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Release);
    }
}

/// The number of a thread's connection among all.
pub fn connection_number(thread: usize, slot: usize, threads: usize) -> usize {
    thread + slot * threads
}

/// How many of `connections` thread `thread` has.
pub fn share(connections: usize, thread: usize, threads: usize) -> usize {
    connections / threads + usize::from(thread < connections % threads)
}
