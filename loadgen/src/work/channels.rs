//! Many channels: each connection is subscribed to K of C, and then one of three things is measured: deliveries, requests
//! that are answered to their sender alone, or the subscribing itself.
//!
//! A publication's marker has its channel for a publisher, and only one connection publishes on a channel, so every
//! subscriber knows which number comes next there. Called by `engine`.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU32, AtomicU64};

use clap::ValueEnum;
use memchr::memmem;

use super::layout::Layout;
use crate::check::{Checker, Faults};
use crate::client::Outgoing;
use crate::control::{Window, connection_number};
use crate::engine::{Wires, Workload};
use crate::latency::{Latencies, SECOND, Schedule};
use crate::marker::{Content, Markers, hex8, unhex};
use crate::protocol::{Dialect, Offsets, Publish};
use crate::random::Random;

/// A closed window that sees nothing for so long gives up on what is outstanding.
const STALL: u64 = SECOND;
/// How many refusals are kept to be shown.
const EXAMPLES: usize = 3;
/// The newest publications of a channel whose time is remembered.
const STAMPS: u32 = 4;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// Publications, and their deliveries
    Publish,
    /// Requests of each connection, answered to it alone
    Reply,
    /// Subscribing
    Subscribe,
}

/// What a run does.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Load threads.
    pub threads: usize,
    /// What is measured.
    pub mode: Mode,
    /// Channels of a connection.
    pub each: usize,
    /// Publications outstanding of each thread, requests outstanding of each connection, or connections that subscribe
    /// at a time.
    pub window: u32,
    /// Publications a second over all threads (open loop).
    pub rate: Option<f64>,
    /// Bytes in a publication's text.
    pub payload: usize,
    /// Tells this run's publications from another's.
    pub run: u32,
    /// Every how many connections one has its latencies taken.
    pub sample_every: usize,
}

/// What all threads know.
pub struct Shared {
    layout: Layout,
    dialect: Arc<Dialect>,
    names: Vec<String>,
    publish: Vec<Publish>,
    labels: Vec<Vec<u8>>,
    ask: Publish,
    /// Publications sent to each channel.
    sent: Vec<AtomicU32>,
    /// When the last ones were sent, or should have been.
    stamps: Vec<[AtomicU64; STAMPS as usize]>,
    /// Subscriptions that were answered.
    subscribed: AtomicU64,
}

impl Shared {
    /// Channels called `prefix` and a number.
    pub fn new(settings: &Settings, layout: Layout, dialect: Arc<Dialect>, prefix: &str) -> Arc<Self> {
        let names: Vec<String> = (0..layout.channels()).map(|channel| format!("{prefix}{channel}")).collect();
        Arc::new(Self {
            publish: names.iter().map(|name| dialect.publish_to(name, settings.payload)).collect(),
            labels: names.iter().map(|name| dialect.label(name)).collect(),
            ask: dialect.ask(),
            sent: names.iter().map(|_| AtomicU32::new(0)).collect(),
            stamps: names.iter().map(|_| Default::default()).collect(),
            subscribed: AtomicU64::new(0),
            layout,
            dialect,
            names,
        })
    }

    fn sent(&self, channel: u32) -> u32 {
        self.sent[channel as usize].load(Relaxed)
    }
}

/// One thread's connections.
pub struct Channels {
    settings: Settings,
    shared: Arc<Shared>,
    thread: usize,
    slots: usize,
    window: Option<Window>,
    /// A lane for each subscription; or in replies, the first lane of each connection.
    checker: Checker,
    markers: Markers,
    offsets: Offsets,
    /// What the offsets of each channel are ahead of this run's numbers; none before the first delivery.
    ahead: Vec<Option<u64>>,
    /// Answered subscriptions of each connection.
    answered: Vec<u32>,
    /// Requests that each connection has sent, and when.
    asked: Vec<u32>,
    asked_at: Vec<u64>,
    /// The channels on which this thread publishes, each with its publisher's slot.
    mine: Vec<(u32, usize)>,
    /// How many publications this thread has sent.
    published: u32,
    outstanding: u32,
    /// The last sign of life of a closed window.
    alive: u64,
    /// The next connection to subscribe.
    next_slot: usize,
    subscribing: u32,
    scratch: Vec<u8>,
    primed: bool,
    last_tick: u64,
    received: u64,
    sent: u64,
    other_faults: Faults,
    /// What came and was none of this.
    pub pushes: u64,
    /// Refusals, as the server put them.
    pub examples: Vec<String>,
    /// From publishing, asking or subscribing to what came of it.
    pub latencies: Latencies,
    /// From the intended time to the sending (open loop).
    pub lag: Latencies,
    /// Publications that should have been sent and were not (open loop).
    pub unsent: u64,
    /// Times that a closed window had to be opened by force.
    pub stalls: u64,
}

impl Channels {
    /// The workload of `thread` with its `slots` connections.
    pub fn new(settings: Settings, shared: Arc<Shared>, thread: usize, slots: usize) -> Self {
        let owned = (0..shared.layout.channels()).filter_map(|channel| {
            let owner = shared.layout.owner(channel)?;
            (owner % settings.threads == thread).then_some((channel as u32, owner / settings.threads))
        });
        let mut mine: Vec<_> = owned.collect();
        let mut random = Random::new(u64::from(settings.run));
        for place in (1..mine.len()).rev() {
            mine.swap(place, (random.next() % (place as u64 + 1)) as usize);
        }
        let pipeline = if settings.mode == Mode::Reply { settings.window as usize } else { 1 };
        Self {
            thread,
            slots,
            window: None,
            checker: Checker::new(slots, settings.each),
            markers: Markers::new(settings.run, settings.payload, Content::Alphabet),
            offsets: Offsets::default(),
            ahead: vec![None; shared.layout.channels()],
            answered: vec![0; slots],
            asked: vec![0; slots],
            asked_at: vec![0; slots * pipeline],
            mine,
            published: 0,
            outstanding: 0,
            alive: 0,
            next_slot: 0,
            subscribing: 0,
            scratch: Vec::new(),
            primed: false,
            last_tick: 0,
            received: 0,
            sent: 0,
            other_faults: Faults::default(),
            pushes: 0,
            examples: Vec::new(),
            latencies: Latencies::default(),
            lag: Latencies::default(),
            unsent: 0,
            stalls: 0,
            settings,
            shared,
        }
    }

    /// What went wrong.
    pub fn faults(&self) -> Faults {
        let mut faults = self.checker.faults;
        faults += self.other_faults;
        faults
    }

    fn number(&self, slot: usize) -> usize {
        connection_number(self.thread, slot, self.settings.threads)
    }

    fn everyone_is_subscribed(&self) -> bool {
        let all = self.shared.layout.subscriptions();
        self.shared.subscribed.load(Relaxed) >= all
    }

    fn measures(&self, slot: usize, at: u64) -> bool {
        self.number(slot).is_multiple_of(self.settings.sample_every)
            && self.window.is_some_and(|window| at >= window.measured_from)
    }

    fn subscribe(&self, slot: usize, out: &mut Outgoing, random: &mut Random) {
        for (number, channel) in self.shared.layout.of(self.number(slot)).iter().enumerate() {
            let name = &self.shared.names[*channel as usize];
            let (opcode, text) = self.shared.dialect.subscribe(name, number);
            out.frame(opcode, &text, random.key());
        }
    }

    fn answers(&mut self, slot: usize, count: usize, at: u64) {
        let each = self.settings.each as u32;
        self.answered[slot] += count as u32;
        self.shared.subscribed.fetch_add(count as u64, Relaxed);
        if self.settings.mode == Mode::Subscribe {
            self.received += count as u64;
            self.alive = at;
            if self.answered[slot] == each {
                self.subscribing -= 1;
                self.latencies.record(at.saturating_sub(self.asked_at[slot]).max(1));
            }
        }
        if self.answered[slot] > each {
            self.other_faults.doubled += 1;
        }
    }

    fn subscribe_more(&mut self, wires: &mut Wires<'_>, now: u64) {
        while self.subscribing < self.settings.window && self.next_slot < self.slots {
            let slot = self.next_slot;
            self.next_slot += 1;
            if let Some((out, random)) = wires.out(slot) {
                self.subscribe(slot, out, random);
                self.asked_at[slot] = now;
                self.subscribing += 1;
                self.sent += self.settings.each as u64;
            }
        }
    }

    /// Every publication in `payload`; tells how many there were.
    #[inline]
    fn publications(&mut self, slot: usize, payload: &[u8], at: u64) -> usize {
        let Some(mut marker) = self.markers.find(payload) else {
            return 0;
        };
        let (mut rest, mut count) = (payload, 0);
        loop {
            self.delivery(slot, rest, marker, at);
            count += 1;
            // A server may put several into one message.
            rest = rest.get(marker.place + self.markers.length()..).unwrap_or_default();
            match self.markers.find_next(rest) {
                Some(next) => marker = next,
                None => return count,
            }
        }
    }

    #[inline]
    fn delivery(&mut self, slot: usize, payload: &[u8], marker: crate::marker::Marker, at: u64) {
        self.received += 1;
        let channel = marker.publisher;
        let head = &payload[..marker.place];
        let connection = self.number(slot);
        let place = (channel as usize) < self.shared.names.len();
        let place = place.then(|| self.shared.layout.place(connection, channel)).flatten();
        let (Some(place), Some(number)) = (place, unhex(&marker.digits)) else {
            self.other_faults.corrupted += 1;
            return;
        };
        let sent = self.shared.sent(channel);
        let label = &self.shared.labels[channel as usize];
        if number >= sent || !self.markers.intact(payload, &marker) || memmem::find(head, label).is_none() {
            self.other_faults.corrupted += 1;
            return;
        }
        if let Some(offset) = self.offsets.find(head) {
            let ahead = offset.wrapping_sub(u64::from(number));
            if *self.ahead[channel as usize].get_or_insert(ahead) != ahead {
                self.other_faults.offset_breaks += 1;
            }
        }
        self.checker.saw(slot, place, number);
        if self.shared.layout.owner(channel as usize) == Some(connection) {
            self.outstanding = self.outstanding.saturating_sub(1);
            self.alive = at;
        }
        if sent - number <= STAMPS && self.measures(slot, at) {
            let since = self.shared.stamps[channel as usize][(number % STAMPS) as usize].load(Relaxed);
            self.latencies.record(at.saturating_sub(since).max(1));
        }
    }

    /// Publishes on the next channel in turn. A channel whose publisher is gone is passed over.
    fn publish(&mut self, wires: &mut Wires<'_>, since: u64) {
        let (channel, slot) = self.mine[self.published as usize % self.mine.len()];
        self.published += 1;
        let Some((out, random)) = wires.out(slot) else {
            return;
        };
        let number = self.shared.sent(channel);
        self.shared.stamps[channel as usize][(number % STAMPS) as usize].store(since, Relaxed);
        self.shared.sent[channel as usize].store(number + 1, Relaxed);
        let publish = &self.shared.publish[channel as usize];
        publish.write(&mut self.scratch, |text| self.markers.write(channel, number, text));
        out.frame(publish.opcode, &self.scratch, random.key());
        self.sent += 1;
        self.outstanding += 1;
    }

    fn schedule(&self, rate: f64, start: u64) -> Schedule {
        Schedule::new(start, rate, self.thread, self.settings.threads)
    }

    fn publish_due(&mut self, rate: f64, window: Window, wires: &mut Wires<'_>, now: u64) -> u64 {
        let schedule = self.schedule(rate, window.start);
        loop {
            let intended = schedule.intended(self.published);
            if intended > now || intended >= window.stop {
                return intended;
            }
            self.lag.record((now - intended).max(1));
            self.publish(wires, intended);
        }
    }

    fn fill_window(&mut self, wires: &mut Wires<'_>, now: u64) {
        if self.outstanding > 0 && now.saturating_sub(self.alive) > STALL {
            self.stalls += 1;
            self.outstanding = 0;
        }
        if self.outstanding == 0 {
            self.alive = now;
        }
        for _ in self.outstanding..self.settings.window {
            self.publish(wires, now);
        }
    }

    fn ask(&mut self, slot: usize, out: &mut Outgoing, random: &mut Random, now: u64) {
        let pipeline = self.settings.window;
        while self.asked[slot] - self.checker.next(slot, 0) < pipeline {
            let number = self.asked[slot];
            self.asked[slot] += 1;
            self.asked_at[slot * pipeline as usize + (number % pipeline) as usize] = now;
            self.shared.ask.write(&mut self.scratch, |text| text.extend_from_slice(&hex8(number)));
            out.frame(self.shared.ask.opcode, &self.scratch, random.key());
            self.sent += 1;
        }
    }

    /// An answer to `slot` alone, which has the number of its request.
    fn reply(&mut self, slot: usize, payload: &[u8], at: u64) {
        let expected = self.checker.next(slot, 0);
        if expected < self.asked[slot] && memmem::find(payload, &hex8(expected)).is_some() {
            self.checker.advance(slot, 0);
            self.received += 1;
            if self.measures(slot, at) {
                let pipeline = self.settings.window;
                let asked = self.asked_at[slot * pipeline as usize + (expected % pipeline) as usize];
                self.latencies.record(at.saturating_sub(asked).max(1));
            }
            return;
        }
        let earlier = (0..expected).rev().take(64).any(|number| memmem::find(payload, &hex8(number)).is_some());
        let later = (expected..self.asked[slot]).find(|number| memmem::find(payload, &hex8(*number)).is_some());
        match later {
            Some(number) => {
                self.received += 1;
                self.checker.saw(slot, 0, number);
            }
            None if earlier => {
                self.received += 1;
                let number = (0..expected).rev().find(|number| memmem::find(payload, &hex8(*number)).is_some());
                self.checker.saw(slot, 0, number.unwrap_or_default());
            }
            None => self.pushes += 1,
        }
    }

    /// What lane `place` of a connection is to have seen in the end.
    fn awaited(&self, slot: usize, place: usize) -> u32 {
        match self.settings.mode {
            Mode::Publish => self.shared.sent(self.shared.layout.of(self.number(slot))[place]),
            Mode::Reply if place == 0 => self.asked[slot],
            Mode::Reply | Mode::Subscribe => 0,
        }
    }
}

impl Workload for Channels {
    #[inline]
    fn message(&mut self, slot: usize, payload: &[u8], at: u64) {
        if self.publications(slot, payload, at) > 0 {
            return;
        }
        if self.shared.dialect.refuses(payload) {
            self.other_faults.refused += 1;
            if self.examples.len() < EXAMPLES {
                let text = &payload[..payload.len().min(200)];
                self.examples.push(String::from_utf8_lossy(text).into_owned());
            }
            return;
        }
        let answers = if self.answered[slot] < self.settings.each as u32 || self.settings.mode == Mode::Subscribe {
            self.shared.dialect.subscribed(payload)
        } else {
            0
        };
        if answers > 0 {
            self.answers(slot, answers, at);
        } else if self.settings.mode == Mode::Reply {
            self.reply(slot, payload, at);
        } else {
            self.pushes += 1;
        }
    }

    fn opened(&mut self, slot: usize, out: &mut Outgoing, random: &mut Random) {
        if self.settings.mode != Mode::Subscribe {
            self.subscribe(slot, out, random);
        }
    }

    #[inline]
    fn received(&mut self, slot: usize, out: &mut Outgoing, random: &mut Random, at: u64) {
        if self.primed && self.settings.mode == Mode::Reply {
            self.ask(slot, out, random, at);
        }
    }

    fn start(&mut self, window: Window) {
        self.window = Some(window);
        self.alive = window.start;
    }

    fn tick(&mut self, window: Window, wires: &mut Wires<'_>, now: u64) -> u64 {
        if !wires.sending {
            return u64::MAX;
        }
        self.last_tick = now;
        if self.settings.mode == Mode::Subscribe {
            self.subscribe_more(wires, now);
            return u64::MAX;
        }
        if !self.primed && !self.everyone_is_subscribed() {
            return now + SECOND / 1_000;
        }
        if self.settings.mode == Mode::Reply {
            if !self.primed {
                for slot in 0..self.slots {
                    if let Some((out, random)) = wires.out(slot) {
                        self.ask(slot, out, random, now);
                    }
                }
            }
            self.primed = true;
            return u64::MAX;
        }
        self.primed = true;
        if self.mine.is_empty() {
            return u64::MAX;
        }
        if let Some(rate) = self.settings.rate {
            return self.publish_due(rate, window, wires, now);
        }
        self.fill_window(wires, now);
        u64::MAX
    }

    fn ended(&mut self, slot: usize) {
        self.checker.ended(slot);
    }

    fn complete(&self) -> bool {
        let all = |slot: usize| (0..self.settings.each).map(|place| u64::from(self.awaited(slot, place))).sum();
        (self.settings.mode != Mode::Subscribe || self.everyone_is_subscribed()) && self.checker.complete(all)
    }

    fn satisfied(&self) -> bool {
        self.settings.mode == Mode::Subscribe && self.everyone_is_subscribed()
    }

    fn finish(&mut self) {
        for slot in 0..self.slots {
            if !self.checker.is_gone(slot) {
                let missing = (self.settings.each as u32).saturating_sub(self.answered[slot]);
                self.other_faults.lost += u64::from(missing);
            }
        }
        if let (Some(rate), Some(window)) = (self.settings.rate, self.window) {
            let due = self.schedule(rate, window.start).due_before(window.stop.min(self.last_tick));
            self.unsent += u64::from(due.saturating_sub(self.published));
        }
        let awaited: Vec<u32> = (0..self.slots * self.settings.each)
            .map(|lane| self.awaited(lane / self.settings.each, lane % self.settings.each))
            .collect();
        let each = self.settings.each;
        self.checker.finish(|slot, place| awaited[slot * each + place]);
        self.primed = false;
    }

    fn counts(&self) -> (u64, u64) {
        (self.received, self.sent)
    }
}
