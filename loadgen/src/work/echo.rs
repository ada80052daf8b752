//! The echo workload: numbered messages out, the same bytes back, in order, each exactly once.
//!
//! Closed loop: `pipeline` messages are on their way per connection, each answer brings the next.
//! Open loop: messages leave at a fixed rate, spread evenly over the connections, whatever the server does.
//! Called by `engine`.

use crate::check::{Checker, Faults};
use crate::client::Outgoing;
use crate::control::{Window, connection_number};
use crate::engine::{Wires, Workload};
use crate::frame::Opcode;
use crate::latency::{Latencies, Schedule};
use crate::marker::{hex8, padding, unhex};
use crate::random::Random;

/// The least payload: the message's number.
pub const LEAST_PAYLOAD: usize = 8;
/// Bytes that may wait on a connection before an open loop holds back more.
const MOST_WAITING: usize = 256 << 10;

/// What an echo run sends.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Connections over all threads.
    pub connections: usize,
    /// Load threads.
    pub threads: usize,
    /// Messages on their way per connection (closed loop).
    pub pipeline: u32,
    /// Messages a second over all connections (open loop).
    pub rate: Option<f64>,
    /// Bytes in a message.
    pub payload: usize,
    /// Binary messages instead of text.
    pub binary: bool,
    /// Every how many connections one has what comes compressed inflated and checked.
    pub verify_every: usize,
}

/// One thread's echoes.
pub struct Echo {
    settings: Settings,
    thread: usize,
    slots: usize,
    window: Option<Window>,
    sent: Vec<u32>,
    /// When the messages on their way were sent (closed loop): `pipeline` per connection.
    stamps: Vec<u64>,
    /// Messages that are due, counted over the thread's connections in turn (open loop).
    cursor: u64,
    due: Vec<u32>,
    checker: Checker,
    text: Vec<u8>,
    scratch: Vec<u8>,
    primed: bool,
    received: u64,
    total_sent: u64,
    /// From sending, or the intended time of it, to the echo.
    pub latencies: Latencies,
    /// From the intended time to the sending (open loop).
    pub lag: Latencies,
    /// Messages that should have been sent and were not (open loop).
    pub unsent: u64,
}

impl Echo {
    /// The workload of `thread` with its `slots` connections.
    pub fn new(settings: Settings, thread: usize, slots: usize) -> Self {
        let open = settings.rate.is_some();
        let stamps = if open { 0 } else { settings.pipeline as usize };
        Self {
            settings,
            thread,
            slots,
            window: None,
            sent: vec![0; slots],
            stamps: vec![0; slots * stamps],
            cursor: 0,
            due: vec![0; slots],
            checker: Checker::new(slots, 1),
            text: padding(settings.payload),
            scratch: Vec::with_capacity(settings.payload),
            primed: false,
            received: 0,
            total_sent: 0,
            latencies: Latencies::default(),
            lag: Latencies::default(),
            unsent: 0,
        }
    }

    /// What went wrong.
    pub fn faults(&self) -> Faults {
        self.checker.faults
    }

    fn number(&self, slot: usize) -> u32 {
        connection_number(self.thread, slot, self.settings.threads) as u32
    }

    fn schedule(&self, slot: usize, rate: f64, start: u64) -> Schedule {
        let number = self.number(slot) as usize;
        Schedule::new(start, rate, number, self.settings.connections)
    }

    /// The stamp that holds when message `number` was sent.
    fn stamp(&mut self, slot: usize, number: u32) -> &mut u64 {
        let pipeline = self.settings.pipeline;
        &mut self.stamps[slot * pipeline as usize + (number % pipeline) as usize]
    }

    fn send(&mut self, slot: usize, out: &mut Outgoing, random: &mut Random) {
        let marker = [hex8(self.sent[slot]), hex8(self.number(slot))].concat();
        let length = marker.len().min(self.text.len());
        self.scratch.clear();
        self.scratch.extend_from_slice(&marker[..length]);
        self.scratch.extend_from_slice(&self.text[length..]);
        let opcode = if self.settings.binary { Opcode::Binary } else { Opcode::Text };
        out.frame(opcode, &self.scratch, random.key());
        self.sent[slot] += 1;
        self.total_sent += 1;
    }

    fn fill_pipeline(&mut self, slot: usize, out: &mut Outgoing, random: &mut Random, now: u64) {
        while self.sent[slot] - self.checker.next(slot, 0) < self.settings.pipeline {
            let number = self.sent[slot];
            *self.stamp(slot, number) = now;
            self.send(slot, out, random);
        }
    }

    /// Everything but the number is as it was sent to this connection.
    fn intact(&self, slot: usize, payload: &[u8]) -> bool {
        let sender = hex8(self.number(slot));
        let split = payload.len().min(16);
        payload.len() == self.text.len()
            && payload[8..split] == sender[..split - 8]
            && payload[split..] == self.text[split..]
    }

    fn intended(&mut self, slot: usize, number: u32) -> u64 {
        match (self.settings.rate, self.window) {
            (Some(rate), Some(window)) => self.schedule(slot, rate, window.start).intended(number),
            _ => *self.stamp(slot, number),
        }
    }

    fn send_due(&mut self, rate: f64, window: Window, wires: &mut Wires<'_>, now: u64) -> u64 {
        let mut ran_out = u64::MAX;
        while wires.sending {
            let slot = (self.cursor % self.slots as u64) as usize;
            let schedule = self.schedule(slot, rate, window.start);
            let intended = schedule.intended((self.cursor / self.slots as u64) as u32);
            if intended > now || intended >= window.stop {
                ran_out = intended;
                break;
            }
            self.cursor += 1;
            self.due[slot] += 1;
            let Some((out, random)) = wires.out(slot) else {
                continue;
            };
            while self.sent[slot] < self.due[slot] && out.len() < MOST_WAITING {
                let lag = now.saturating_sub(schedule.intended(self.sent[slot]));
                self.lag.record(lag.max(1));
                self.send(slot, out, random);
            }
        }
        ran_out
    }
}

impl Workload for Echo {
    #[inline]
    fn message(&mut self, slot: usize, payload: &[u8], at: u64) {
        self.received += 1;
        let expected = self.checker.next(slot, 0);
        let whole = self.intact(slot, payload);
        if whole && payload[..8] == hex8(expected) && expected < self.sent[slot] {
            if self.window.is_some_and(|window| at >= window.measured_from) {
                let since = self.intended(slot, expected);
                self.latencies.record(at.saturating_sub(since).max(1));
            }
            self.checker.advance(slot, 0);
            return;
        }
        let number = payload.first_chunk::<8>().and_then(|digits| unhex(digits));
        match number {
            Some(number) if whole && number < self.sent[slot] => {
                self.checker.saw(slot, 0, number);
            }
            _ => {
                self.checker.faults.corrupted += 1;
                if expected < self.sent[slot] {
                    self.checker.advance(slot, 0);
                }
            }
        }
    }

    fn verifies(&self, slot: usize) -> bool {
        (self.number(slot) as usize).is_multiple_of(self.settings.verify_every)
    }

    /// Taken for the one that should have come.
    fn unread(&mut self, slot: usize) {
        self.received += 1;
        if self.checker.next(slot, 0) < self.sent[slot] {
            self.checker.advance(slot, 0);
        } else {
            self.checker.faults.doubled += 1;
        }
    }

    #[inline]
    fn received(&mut self, slot: usize, out: &mut Outgoing, random: &mut Random, at: u64) {
        if self.primed {
            self.fill_pipeline(slot, out, random, at);
        }
    }

    fn start(&mut self, window: Window) {
        self.window = Some(window);
    }

    fn tick(&mut self, window: Window, wires: &mut Wires<'_>, now: u64) -> u64 {
        if let Some(rate) = self.settings.rate {
            return self.send_due(rate, window, wires, now);
        }
        if !self.primed && wires.sending {
            self.primed = true;
            for slot in 0..self.slots {
                if let Some((out, random)) = wires.out(slot) {
                    self.fill_pipeline(slot, out, random, now);
                }
            }
        }
        u64::MAX
    }

    fn ended(&mut self, slot: usize) {
        self.checker.ended(slot);
    }

    fn complete(&self) -> bool {
        self.checker.complete(|slot| u64::from(self.sent[slot]))
    }

    fn finish(&mut self) {
        if let (Some(rate), Some(window)) = (self.settings.rate, self.window) {
            for slot in 0..self.slots {
                let due = self.schedule(slot, rate, window.start).due_before(window.stop);
                self.unsent += u64::from(due.saturating_sub(self.sent[slot]));
            }
        }
        let sent = std::mem::take(&mut self.sent);
        self.checker.finish(|slot, _| sent[slot]);
        self.sent = sent;
        self.primed = false;
    }

    fn counts(&self) -> (u64, u64) {
        (self.received, self.total_sent)
    }
}
