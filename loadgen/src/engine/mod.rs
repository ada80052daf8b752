//! One load thread: its share of the connections, its epoll loop, and the steps that every command shares:
//! connecting at a pace, upgrading, signing in, receiving, sending what waits, saying goodbye.
//!
//! Doesn't know what is measured: that is the `Workload`. Doesn't decide when a phase ends: that is `run`,
//! which moves the phase on and reads the counters. Threads share nothing else.

mod dispatch;

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;

use anyhow::{Context, Result};
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;

use crate::check::Faults;
use crate::client::{Connection, Deflating, Ended, Outgoing, Received};
use crate::control::{Control, PHASES, Phase, Requests, Window, connection_number, share};
use crate::deflate::{Compressors, Tally};
use crate::latency::{Latencies, SECOND, Schedule};
use crate::procfs;
use crate::protocol::SignIn;
use crate::random::Random;
use crate::system;
use dispatch::Dispatch;

/// The longest a thread sleeps, so that it sees a new phase.
const NAP: u64 = 5_000_000;
/// How many full buffers one connection may bring before the others have their turn.
const READS_IN_A_ROW: usize = 16;
/// How many examples of what went wrong are kept.
const EXAMPLES: usize = 3;

/// What a command does with its connections; one per thread, `slot` counts that thread's connections.
pub trait Workload: Send {
    /// A message came at `at`.
    fn message(&mut self, slot: usize, payload: &[u8], at: u64);
    /// All messages of one `recv` were handed over and new ones may be sent on `out`.
    fn received(&mut self, slot: usize, out: &mut Outgoing, random: &mut Random, at: u64);
    /// The phase became `Work`.
    fn start(&mut self, window: Window);
    /// Sends what is due in the window, which has begun; returns when to be called again at the latest.
    fn tick(&mut self, window: Window, wires: &mut Wires<'_>, now: u64) -> u64;
    /// A connection was cut.
    fn ended(&mut self, slot: usize);
    /// Nothing more is awaited.
    fn complete(&self) -> bool;
    /// The last message came: count what is missing.
    fn finish(&mut self);
    /// Messages received that count, and messages sent.
    fn counts(&self) -> (u64, u64);
    /// Appends fields to the data of a connection's `auth`.
    fn auth(&mut self, _slot: usize, _data: &mut Vec<u8>) {}
    /// A connection may send its first message of its own.
    fn opened(&mut self, _slot: usize, _out: &mut Outgoing, _random: &mut Random) {}
    /// An answer to an HTTP request came.
    fn answer(&mut self, _slot: usize, _status: u16, _body: &[u8], _at: u64) {}
    /// A connection is signed in; `position` is the answer that said so, if there was one.
    fn signed_in(&mut self, _slot: usize, _position: Option<&[u8]>, _at: u64) {}
    /// A connection that was told to leave is gone.
    fn left(&mut self, _slot: usize, _at: u64) {}
    /// Connection `slot` is to have every message inflated. Not for good, if it is once not.
    fn verifies(&self, _slot: usize) -> bool {
        true
    }
    /// A data message as it came, on a connection with compression.
    fn wire(&mut self, _slot: usize, _payload: &[u8], _compressed: bool) {}
    /// The compressed message that came was not inflated.
    fn unread(&mut self, _slot: usize) {}
    /// All that was to happen did, so that the window may end before its time.
    fn satisfied(&self) -> bool {
        false
    }
}

/// What a workload wants done with a connection.
#[derive(Clone, Copy, Debug)]
enum Order {
    /// Close the socket without a word.
    Drop(usize),
    /// Say goodbye; the server closes.
    Leave(usize),
    /// Connect again at this time.
    Return(usize, u64),
}

/// The sending side of a thread's connections.
pub struct Wires<'a> {
    slots: &'a mut [Slot],
    touched: &'a mut Vec<usize>,
    orders: &'a mut Vec<Order>,
    /// Masking keys.
    pub random: &'a mut Random,
    /// New messages may be sent.
    pub sending: bool,
}

impl Wires<'_> {
    /// Where to put bytes for connection `slot`; they leave after the tick.
    pub fn out(&mut self, slot: usize) -> Option<(&mut Outgoing, &mut Random)> {
        let entry = &mut self.slots[slot];
        if entry.stage != Stage::Ready {
            return None;
        }
        let connection = entry.connection.as_mut()?;
        if self.touched.last() != Some(&slot) {
            self.touched.push(slot);
        }
        Some((&mut connection.out, self.random))
    }

    /// Connection `slot` is signed in.
    pub fn is_ready(&self, slot: usize) -> bool {
        self.slots[slot].stage == Stage::Ready
    }

    /// Closes a signed-in connection's socket without a word.
    pub fn cut(&mut self, slot: usize) {
        self.orders.push(Order::Drop(slot));
    }

    /// Says goodbye on a signed-in connection; `left` tells of its end.
    pub fn leave(&mut self, slot: usize) {
        self.orders.push(Order::Leave(slot));
    }

    /// Connects `slot` again, whose connection was cut or has left, at time `at`.
    pub fn reconnect(&mut self, slot: usize, at: u64) {
        self.orders.push(Order::Return(slot, at));
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Unborn,
    Connecting,
    Upgrading,
    SigningIn(SignIn),
    Ready,
    /// On its workload's wish.
    Leaving,
    Closing,
    Gone,
}

struct Slot {
    connection: Option<Connection>,
    stage: Stage,
    started: u64,
    /// The server ended its side: read to the end, since no further event will say so.
    ending: bool,
    /// Not its first connection.
    again: bool,
}

/// CPU time of a thread at the start of a phase.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// When.
    pub at: u64,
    /// Nanoseconds on a CPU.
    pub used: u64,
    /// Nanoseconds ready to run without a CPU.
    pub waited: u64,
}

/// What a thread leaves behind.
pub struct Finished<W> {
    /// The workload with its findings.
    pub workload: W,
    /// Cut and failed connections.
    pub faults: Faults,
    /// What went wrong first.
    pub examples: Vec<String>,
    /// From the intended time of connecting to the end of the upgrade.
    pub upgraded: Latencies,
    /// From the intended time of connecting to the end of the sign-in.
    pub signed_in: Latencies,
    /// From the intended time of coming back to the end of the sign-in.
    pub returned: Latencies,
    /// At the start of each phase.
    pub usage: [Usage; PHASES],
    /// When the last connection was ready or had failed.
    pub connected: Option<Usage>,
    /// What was agreed on, and came compressed.
    pub compression: Tally,
}

#[derive(Default)]
struct Stats {
    ready: u64,
    open: u64,
    frames: u64,
    receives: u64,
    bytes_in: u64,
    bytes_out: u64,
    faults: Faults,
    examples: Vec<String>,
    upgraded: Latencies,
    signed_in: Latencies,
    returned: Latencies,
    compression: Tally,
}

/// One load thread.
pub struct Engine<'a, W> {
    control: &'a Control,
    index: usize,
    workload: W,
    slots: Vec<Slot>,
    epoll: std::os::fd::OwnedFd,
    deflating: Option<Deflating>,
    buffer: Vec<u8>,
    random: Random,
    phase: Phase,
    /// Nothing is sent from then on; 0 outside the phase `Work`.
    stop: u64,
    next_slot: usize,
    /// Slots that are opened before the workload starts: the first ones.
    first: usize,
    connects: Option<Schedule>,
    /// Connections that are to come back, the earliest first.
    returning: BinaryHeap<Reverse<(u64, usize)>>,
    orders: Vec<Order>,
    in_flight: usize,
    next_sweep: u64,
    unread: Vec<usize>,
    touched: Vec<usize>,
    stats: Stats,
    usage: [Usage; PHASES],
    connected: Option<Usage>,
}

impl<'a, W: Workload> Engine<'a, W> {
    /// Prepares thread `index`; to be called on it.
    pub fn new(control: &'a Control, index: usize, workload: W) -> Result<Self> {
        let plan = &control.plan;
        if let Some(cpu) = plan.cpus.get(index % plan.cpus.len().max(1)) {
            system::pin(&[*cpu])?;
        }
        system::exact_timers();
        let count = share(plan.connections, index, plan.threads);
        let slots = (0..count).map(|_| Slot {
            connection: None,
            stage: Stage::Unborn,
            started: 0,
            ending: false,
            again: false,
        });
        let rate = plan.connect_rate;
        let deflating = plan.compression.as_ref().map(|settings| Deflating {
            offer: settings.offer.clone(),
            above: settings.above,
            compressors: Rc::new(RefCell::new(Compressors::default())),
        });
        Ok(Self {
            control,
            index,
            workload,
            slots: slots.collect(),
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC).context("epoll")?,
            deflating,
            buffer: Vec::new(),
            random: Random::seeded(),
            phase: Phase::Connect,
            stop: 0,
            next_slot: 0,
            first: share(plan.first(), index, plan.threads),
            connects: rate.map(|rate| Schedule::new(control.clock.now(), rate, index, plan.threads)),
            returning: BinaryHeap::new(),
            orders: Vec::new(),
            in_flight: 0,
            next_sweep: 0,
            unread: Vec::new(),
            touched: Vec::new(),
            stats: Stats::default(),
            usage: Default::default(),
            connected: None,
        })
    }

    /// Works until the phase is `End`.
    pub fn run(mut self) -> Result<Finished<W>> {
        let mut events = Vec::with_capacity(512);
        self.usage[Phase::Connect as usize] = self.usage();
        loop {
            let phase = self.control.phase();
            if phase != self.phase {
                self.enter(phase);
            }
            if phase == Phase::End {
                break;
            }
            let now = self.control.clock.now();
            let next = self.due(now).min(now + NAP);
            let sleep = if self.unread.is_empty() { next.saturating_sub(self.control.clock.now()) } else { 0 };
            let timeout = Timespec { tv_sec: 0, tv_nsec: sleep.min(NAP) as _ };
            events.clear();
            let spare = rustix::buffer::spare_capacity(&mut events);
            match epoll::wait(&self.epoll, spare, Some(&timeout)) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(errno).context("epoll_wait"),
            }
            for slot in std::mem::take(&mut self.unread) {
                self.attend(slot, |engine| engine.read(slot));
            }
            for event in &events {
                let (slot, flags) = (event.data.u64() as usize, event.flags);
                self.attend(slot, |engine| engine.ready(slot, flags));
            }
            if self.in_flight == 0 && self.next_slot == self.first && self.connected.is_none() {
                self.connected = Some(self.usage());
            }
            self.publish();
        }
        Ok(Finished {
            workload: self.workload,
            faults: self.stats.faults,
            examples: self.stats.examples,
            upgraded: self.stats.upgraded,
            signed_in: self.stats.signed_in,
            returned: self.stats.returned,
            usage: self.usage,
            connected: self.connected,
            compression: self.stats.compression,
        })
    }

    fn usage(&self) -> Usage {
        let (used, waited) = procfs::this_thread();
        let at = self.control.clock.now();
        Usage { at, used, waited }
    }

    fn enter(&mut self, phase: Phase) {
        let before = self.phase;
        self.phase = phase;
        self.usage[phase as usize] = self.usage();
        self.stop = 0;
        if phase == Phase::Work
            && let Some(window) = self.control.window.get()
        {
            self.stop = window.stop;
            self.workload.start(*window);
        }
        if phase >= Phase::Freeze && before < Phase::Freeze {
            self.workload.finish();
            self.returning.clear();
            let counted = |slot: &&mut Slot| matches!(slot.stage, Stage::Ready | Stage::Leaving);
            for slot in self.slots.iter_mut().filter(counted) {
                slot.stage = Stage::Closing;
            }
        }
        if phase >= Phase::Close && before < Phase::Close {
            self.goodbye();
        }
    }

    /// Does what is due by the clock; returns when there is more.
    fn due(&mut self, now: u64) -> u64 {
        let mut next = u64::MAX;
        if self.phase == Phase::Connect {
            next = self.connect_due(now);
        }
        if now >= self.next_sweep && self.phase < Phase::Freeze {
            self.next_sweep = now + SECOND / 10;
            self.sweep(now);
        }
        if matches!(self.phase, Phase::Work | Phase::Drain) {
            let mut wires = Wires {
                slots: &mut self.slots,
                touched: &mut self.touched,
                orders: &mut self.orders,
                random: &mut self.random,
                sending: now < self.stop,
            };
            next = next.min(match self.control.window.get() {
                Some(window) if now < window.start => window.start,
                Some(window) => self.workload.tick(*window, &mut wires, now),
                None => u64::MAX,
            });
            let mut touched = std::mem::take(&mut self.touched);
            for slot in touched.drain(..) {
                self.attend(slot, |engine| engine.flush(slot));
            }
            self.touched = touched;
            self.obey();
            next = next.min(self.return_due(now));
        }
        next
    }

    /// Does what the workload asked for.
    fn obey(&mut self) {
        let mut orders = std::mem::take(&mut self.orders);
        for order in orders.drain(..) {
            match order {
                Order::Return(slot, at) => self.returning.push(Reverse((at, slot))),
                Order::Drop(slot) if self.slots[slot].stage == Stage::Ready => {
                    self.slots[slot].connection = None;
                    self.slots[slot].stage = Stage::Unborn;
                    self.stats.open -= 1;
                }
                Order::Leave(slot) if self.slots[slot].stage == Stage::Ready => {
                    self.slots[slot].stage = Stage::Leaving;
                    self.attend(slot, |engine| {
                        let connection = engine.slots[slot].connection.as_mut();
                        let sent = connection.map(|connection| connection.close(&mut engine.random)).transpose()?;
                        engine.stats.bytes_out += sent.unwrap_or_default() as u64;
                        Ok(())
                    });
                }
                // It was cut meanwhile, and counted.
                Order::Drop(_) | Order::Leave(_) => {}
            }
        }
        self.orders = orders;
    }

    /// Opens again what is to come back now.
    fn return_due(&mut self, now: u64) -> u64 {
        let most = (self.control.plan.in_flight / self.control.plan.threads).max(1);
        while let Some(Reverse((at, slot))) = self.returning.peek().copied() {
            if at > now {
                return at;
            }
            if self.in_flight >= most {
                return u64::MAX;
            }
            self.returning.pop();
            // One that failed for good doesn't come back.
            if self.slots[slot].stage == Stage::Unborn {
                self.slots[slot].again = true;
                self.begin(slot, at);
            }
        }
        u64::MAX
    }

    fn begin(&mut self, slot: usize, intended: u64) {
        self.in_flight += 1;
        self.stats.open += 1;
        let entry = &mut self.slots[slot];
        entry.stage = Stage::Connecting;
        entry.started = intended;
        entry.ending = false;
        self.attend(slot, |engine| engine.open(slot));
    }

    /// Opens the connections whose time has come.
    fn connect_due(&mut self, now: u64) -> u64 {
        let plan = &self.control.plan;
        let most = (plan.in_flight / plan.threads).max(1);
        while self.next_slot < self.first {
            let slot = self.next_slot;
            let intended = match &self.connects {
                Some(schedule) => schedule.intended(slot as u32),
                None if self.in_flight >= most => return u64::MAX,
                None => self.control.clock.now(),
            };
            if self.connects.is_some() && intended > now {
                return intended;
            }
            self.next_slot += 1;
            self.begin(slot, intended);
        }
        u64::MAX
    }

    /// Where connection `number` sends HTTP requests, if it does.
    fn requests(&self, number: usize) -> Option<&'a Requests> {
        self.control.plan.requests.as_ref().filter(|requests| number >= requests.from)
    }

    fn open(&mut self, slot: usize) -> Result<(), Ended> {
        let plan = &self.control.plan;
        let number = connection_number(self.index, slot, plan.threads);
        let sources = plan.sources.len().max(1);
        let target = self.requests(number).map_or(&plan.target, |requests| &requests.target);
        let mut result = Err(Errno::ADDRNOTAVAIL);
        for attempt in 0..sources {
            let source = plan.sources.get((number + attempt) % sources).copied();
            result = Connection::start(target, source, plan.delay_acks);
            if !matches!(result, Err(Errno::ADDRNOTAVAIL | Errno::ADDRINUSE)) {
                break;
            }
        }
        let connection = result.map_err(|errno| Ended::socket("connect", errno))?;
        let flags = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::RDHUP | epoll::EventFlags::ET;
        let data = epoll::EventData::new_u64(slot as u64);
        epoll::add(&self.epoll, connection.socket(), data, flags).map_err(|errno| Ended::socket("epoll_ctl", errno))?;
        self.slots[slot].connection = Some(connection);
        Ok(())
    }

    /// Ends the connections that take too long to get ready.
    fn sweep(&mut self, now: u64) {
        if self.in_flight == 0 {
            return;
        }
        for slot in 0..self.slots.len() {
            let late = now.saturating_sub(self.slots[slot].started) > self.control.plan.timeout;
            let missing = match self.slots[slot].stage {
                Stage::Connecting => "TCP connection",
                Stage::Upgrading => "answer to the upgrade",
                Stage::SigningIn(state) => state.waits_for(),
                _ => continue,
            };
            if late {
                self.end(slot, &Ended::Late(missing));
            }
        }
    }

    /// Runs `action` on a connection and ends it if that fails.
    #[inline]
    fn attend(&mut self, slot: usize, action: impl FnOnce(&mut Self) -> Result<(), Ended>) {
        if let Err(why) = action(self) {
            self.end(slot, &why);
        }
    }

    #[cold]
    fn end(&mut self, slot: usize, why: &Ended) {
        let entry = &mut self.slots[slot];
        entry.connection = None;
        let stage = std::mem::replace(&mut entry.stage, Stage::Gone);
        if stage == Stage::Gone {
            return;
        }
        self.stats.open -= 1;
        match stage {
            Stage::Ready => {
                self.stats.faults.cut += 1;
                self.workload.ended(slot);
            }
            Stage::Closing => return,
            Stage::Leaving => {
                self.slots[slot].stage = Stage::Unborn;
                self.workload.left(slot, self.control.clock.now());
                return;
            }
            _ => {
                self.in_flight -= 1;
                self.stats.faults.failed += 1;
                self.workload.ended(slot);
            }
        }
        if self.stats.examples.len() < EXAMPLES {
            let number = connection_number(self.index, slot, self.control.plan.threads);
            self.stats.examples.push(format!("connection {number}: {why}"));
        }
    }

    fn ready(&mut self, slot: usize, flags: epoll::EventFlags) -> Result<(), Ended> {
        use epoll::EventFlags as F;
        let failed = flags.intersects(F::ERR | F::HUP);
        let entry = &mut self.slots[slot];
        entry.ending |= failed || flags.contains(F::RDHUP);
        if entry.stage == Stage::Connecting && (failed || flags.contains(F::OUT)) {
            let Some(connection) = &mut entry.connection else {
                return Ok(());
            };
            let plan = &self.control.plan;
            let number = connection_number(self.index, slot, plan.threads);
            if plan.requests.as_ref().is_some_and(|requests| number >= requests.from) {
                connection.connected_for_requests()?;
                entry.stage = Stage::Ready;
                self.in_flight -= 1;
                self.stats.ready += 1;
                self.stats.signed_in.record(self.control.clock.now().saturating_sub(entry.started));
                self.workload.opened(slot, &mut connection.out, &mut self.random);
                return self.flush(slot);
            }
            entry.stage = Stage::Upgrading;
            let sent = match plan.streams.as_ref().filter(|streams| streams.has(number)) {
                Some(streams) => {
                    let token = plan.dialect.token(number).map_err(Ended::SignIn)?;
                    connection.connected_for_events(&plan.target, &streams.path, &token)?
                }
                None => connection.connected(&plan.target, self.deflating.as_ref(), &mut self.random)?,
            };
            self.stats.bytes_out += sent as u64;
        } else if flags.contains(F::OUT) {
            self.flush(slot)?;
        }
        if failed || flags.intersects(F::IN | F::RDHUP) {
            self.read(slot)?;
        }
        Ok(())
    }

    #[inline]
    fn flush(&mut self, slot: usize) -> Result<(), Ended> {
        if let Some(connection) = &mut self.slots[slot].connection {
            self.stats.bytes_out += connection.flush()? as u64;
        }
        Ok(())
    }

    /// Reads until the socket has no more, or others should have their turn.
    fn read(&mut self, slot: usize) -> Result<(), Ended> {
        let clock = self.control.clock;
        for _ in 0..READS_IN_A_ROW {
            let entry = &mut self.slots[slot];
            let Some(connection) = &mut entry.connection else {
                return Ok(());
            };
            let mut at = 0;
            let received = connection.receive(&mut self.buffer, self.deflating.as_ref(), || {
                at = clock.now();
                Dispatch {
                    plan: &self.control.plan,
                    number: connection_number(self.index, slot, self.control.plan.threads),
                    slot,
                    at,
                    started: entry.started,
                    again: entry.again,
                    stage: &mut entry.stage,
                    in_flight: &mut self.in_flight,
                    workload: &mut self.workload,
                    random: &mut self.random,
                    stats: &mut self.stats,
                }
            })?;
            let Received::Bytes { count, more } = received else {
                return Ok(());
            };
            self.stats.receives += 1;
            self.stats.bytes_in += count as u64;
            if at < self.stop && entry.stage == Stage::Ready {
                self.workload.received(slot, &mut connection.out, &mut self.random, at);
            }
            self.stats.bytes_out += connection.flush()? as u64;
            if !more && !entry.ending {
                return Ok(());
            }
        }
        self.unread.push(slot);
        Ok(())
    }

    /// Closes what is open; the server is to end the streams, so that the ports rest on its side.
    fn goodbye(&mut self) {
        for slot in 0..self.slots.len() {
            let entry = &mut self.slots[slot];
            let upgraded = matches!(entry.stage, Stage::SigningIn(_) | Stage::Ready | Stage::Leaving | Stage::Closing);
            let Some(connection) = entry.connection.as_mut() else {
                continue;
            };
            entry.stage = Stage::Closing;
            if !upgraded || connection.close(&mut self.random).is_err() {
                self.end(slot, &Ended::Cut);
            }
        }
        self.in_flight = 0;
    }

    fn publish(&self) {
        let counters = &self.control.counters[self.index];
        let (messages, sent) = self.workload.counts();
        let stats = &self.stats;
        counters.ready.store(stats.ready, Relaxed);
        counters.failed.store(stats.faults.failed, Relaxed);
        counters.open.store(stats.open, Relaxed);
        counters.messages.store(messages, Relaxed);
        counters.sent.store(sent, Relaxed);
        counters.frames.store(stats.frames, Relaxed);
        counters.receives.store(stats.receives, Relaxed);
        counters.bytes_in.store(stats.bytes_in, Relaxed);
        counters.bytes_out.store(stats.bytes_out, Relaxed);
        if self.phase == Phase::Work {
            let satisfied = u64::from(self.workload.satisfied());
            counters.satisfied.store(satisfied, Relaxed);
        }
        if self.phase == Phase::Drain {
            let complete = u64::from(self.workload.complete());
            counters.complete.store(complete, Relaxed);
        }
    }
}
