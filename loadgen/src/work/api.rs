//! A backend's HTTP API: some connections send requests that publish, each with a few on their way, and the others are
//! subscribers, who must get every publication once and in the order of each publisher.
//!
//! Called by `engine`.

use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use memchr::memmem;

use crate::check::{Checker, Faults};
use crate::client::Outgoing;
use crate::control::{Window, connection_number};
use crate::engine::{Wires, Workload};
use crate::latency::Latencies;
use crate::marker::{Content, Markers, unhex};
use crate::protocol::{Dialect, Offsets, Request};
use crate::random::Random;

/// How many refusals are kept to be shown.
const EXAMPLES: usize = 3;

/// What a run does.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Load threads.
    pub threads: usize,
    /// The number of subscribers. They are the first connections; the others send requests.
    pub subscribers: usize,
    /// Connections that send requests.
    pub publishers: usize,
    /// Requests on their way per connection.
    pub pipeline: u32,
    /// Channels that each request publishes to.
    pub channels: usize,
    /// Nothing but one request of each connection, before the window.
    pub idle: bool,
    /// Bytes in a publication's text.
    pub payload: usize,
    /// Tells this run's publications from another's.
    pub run: u32,
}

/// What all threads know.
pub struct Shared {
    dialect: Arc<Dialect>,
    names: Vec<String>,
    request: Request,
    /// The answers tell offsets.
    tells_offsets: bool,
    /// Requests sent by each publisher.
    sent: Vec<AtomicU32>,
    subscribed: AtomicU64,
}

impl Shared {
    /// Requests as `request` has them, to the channels `names`.
    pub fn new(settings: &Settings, dialect: Arc<Dialect>, names: Vec<String>, request: Request) -> Arc<Self> {
        Arc::new(Self {
            tells_offsets: matches!(*dialect, Dialect::Uringcast(_)),
            dialect,
            names,
            request,
            sent: (0..settings.publishers).map(|_| AtomicU32::new(0)).collect(),
            subscribed: AtomicU64::new(0),
        })
    }
}

/// One thread's connections.
pub struct Api {
    settings: Settings,
    shared: Arc<Shared>,
    thread: usize,
    slots: usize,
    window: Option<Window>,
    /// Of a subscriber a lane for each publisher.
    checker: Checker,
    markers: Markers,
    offsets: Offsets,
    /// Answers that each connection has had.
    answered: Vec<u32>,
    gone: Vec<bool>,
    /// The last offset that each connection was told.
    last_offset: Vec<u64>,
    sent_at: Vec<u64>,
    scratch: Vec<u8>,
    primed: bool,
    results: u64,
    sent: u64,
    other_faults: Faults,
    /// Publications that subscribers got.
    pub deliveries: u64,
    /// What came and was none of this.
    pub pushes: u64,
    /// Refusals, as the server put them.
    pub examples: Vec<String>,
    /// From a request to its answer.
    pub latencies: Latencies,
}

impl Api {
    /// The workload of `thread` with its `slots` connections.
    pub fn new(settings: Settings, shared: Arc<Shared>, thread: usize, slots: usize) -> Self {
        Self {
            thread,
            slots,
            window: None,
            checker: Checker::new(slots, settings.publishers),
            markers: Markers::new(settings.run, settings.payload, Content::Alphabet),
            offsets: Offsets::default(),
            answered: vec![0; slots],
            gone: vec![false; slots],
            last_offset: vec![0; slots],
            sent_at: vec![0; slots * settings.pipeline as usize],
            scratch: Vec::new(),
            primed: false,
            results: 0,
            sent: 0,
            other_faults: Faults::default(),
            deliveries: 0,
            pushes: 0,
            examples: Vec::new(),
            latencies: Latencies::default(),
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

    /// The number of the publisher that `slot` is, if it is one.
    fn publisher(&self, slot: usize) -> Option<usize> {
        connection_number(self.thread, slot, self.settings.threads).checked_sub(self.settings.subscribers)
    }

    fn refused(&mut self, what: &[u8]) {
        self.other_faults.refused += 1;
        if self.examples.len() < EXAMPLES {
            let text = &what[..what.len().min(200)];
            self.examples.push(String::from_utf8_lossy(text).into_owned());
        }
    }

    fn send(&mut self, slot: usize, out: &mut Outgoing, now: u64) {
        let Some(publisher) = self.publisher(slot) else {
            return;
        };
        let number = self.shared.sent[publisher].load(Relaxed);
        self.shared.sent[publisher].store(number + 1, Relaxed);
        let pipeline = self.settings.pipeline;
        self.sent_at[slot * pipeline as usize + (number % pipeline) as usize] = now;
        let (markers, request) = (&self.markers, &self.shared.request);
        request.write(&mut self.scratch, self.settings.payload, |text| markers.write(publisher as u32, number, text));
        out.raw(&self.scratch);
        self.sent += 1;
    }

    fn fill_pipeline(&mut self, slot: usize, out: &mut Outgoing, now: u64) {
        let Some(publisher) = self.publisher(slot) else {
            return;
        };
        while self.shared.sent[publisher].load(Relaxed) - self.answered[slot] < self.settings.pipeline {
            self.send(slot, out, now);
        }
    }

    fn delivery(&mut self, slot: usize, payload: &[u8], marker: crate::marker::Marker) {
        self.deliveries += 1;
        let publisher = marker.publisher as usize;
        let sent = self.shared.sent.get(publisher).map_or(0, |sent| sent.load(Relaxed));
        match unhex(&marker.digits) {
            Some(number) if number < sent && self.markers.intact(payload, &marker) => {
                self.checker.saw(slot, publisher, number);
            }
            _ => self.other_faults.corrupted += 1,
        }
    }

    fn all_sent(&self) -> u64 {
        self.shared.sent.iter().map(|sent| u64::from(sent.load(Relaxed))).sum()
    }

    fn unanswered(&self, slot: usize) -> u32 {
        let sent = self.publisher(slot).map_or(0, |publisher| self.shared.sent[publisher].load(Relaxed));
        if self.gone[slot] { 0 } else { sent - self.answered[slot] }
    }
}

impl Workload for Api {
    fn message(&mut self, slot: usize, payload: &[u8], _: u64) {
        if let Some(mut marker) = self.markers.find(payload) {
            let mut rest = payload;
            loop {
                self.delivery(slot, rest, marker);
                rest = rest.get(marker.place + self.markers.length()..).unwrap_or_default();
                match self.markers.find_next(rest) {
                    Some(next) => marker = next,
                    None => return,
                }
            }
        }
        if self.shared.dialect.refuses(payload) {
            return self.refused(payload);
        }
        let answers = self.shared.dialect.subscribed(payload);
        self.shared.subscribed.fetch_add(answers as u64, Relaxed);
        self.pushes += u64::from(answers == 0);
    }

    fn answer(&mut self, slot: usize, status: u16, body: &[u8], at: u64) {
        let number = self.answered[slot];
        if self.unanswered(slot) == 0 {
            self.other_faults.doubled += 1;
            return;
        }
        self.answered[slot] += 1;
        self.results += self.settings.channels as u64;
        let told = if !self.shared.tells_offsets {
            status == 200
        } else if self.settings.channels == 1 {
            let offset = self.offsets.find(body);
            let last = std::mem::replace(&mut self.last_offset[slot], offset.unwrap_or_default());
            if offset.is_some_and(|offset| offset <= last) {
                self.other_faults.offset_breaks += 1;
            }
            status == 200 && offset.is_some()
        } else {
            status == 200 && memmem::find_iter(body, b"\"offset\":").count() == self.settings.channels
        };
        if !told {
            self.refused(&[format!("{status} ").as_bytes(), body].concat());
        }
        if self.window.is_some_and(|window| at >= window.measured_from) {
            let pipeline = self.settings.pipeline;
            let sent = self.sent_at[slot * pipeline as usize + (number % pipeline) as usize];
            self.latencies.record(at.saturating_sub(sent).max(1));
        }
    }

    fn opened(&mut self, slot: usize, out: &mut Outgoing, random: &mut Random) {
        if self.publisher(slot).is_some() {
            if self.settings.idle {
                self.send(slot, out, 0);
            }
            return;
        }
        let number = connection_number(self.thread, slot, self.settings.threads);
        let name = &self.shared.names[number % self.shared.names.len()];
        let (opcode, text) = self.shared.dialect.subscribe(name, 0);
        out.frame(opcode, &text, random.key());
    }

    fn received(&mut self, slot: usize, out: &mut Outgoing, _: &mut Random, at: u64) {
        if self.primed && !self.settings.idle {
            self.fill_pipeline(slot, out, at);
        }
    }

    fn start(&mut self, window: Window) {
        self.window = Some(window);
    }

    fn tick(&mut self, _: Window, wires: &mut Wires<'_>, now: u64) -> u64 {
        if !wires.sending || self.primed || self.settings.idle {
            return u64::MAX;
        }
        if self.shared.subscribed.load(Relaxed) < self.settings.subscribers as u64 {
            return now + 1_000_000;
        }
        self.primed = true;
        for slot in 0..self.slots {
            if let Some((out, _)) = wires.out(slot) {
                self.fill_pipeline(slot, out, now);
            }
        }
        u64::MAX
    }

    fn ended(&mut self, slot: usize) {
        self.checker.ended(slot);
        self.gone[slot] = true;
    }

    fn complete(&self) -> bool {
        let (subscribers, all) = (self.settings.subscribers, self.all_sent());
        let awaited = |slot: usize| {
            let number = connection_number(self.thread, slot, self.settings.threads);
            if number < subscribers { all } else { 0 }
        };
        self.checker.complete(awaited) && (0..self.slots).all(|slot| self.unanswered(slot) == 0)
    }

    fn finish(&mut self) {
        let unanswered: u64 = (0..self.slots).map(|slot| u64::from(self.unanswered(slot))).sum();
        self.other_faults.lost += unanswered;
        let subscribers = (0..self.slots).filter(|slot| self.publisher(*slot).is_none()).count();
        let shared = Arc::clone(&self.shared);
        // Slots are numbered as their connections are: subscribers first.
        self.checker
            .finish(|slot, publisher| if slot < subscribers { shared.sent[publisher].load(Relaxed) } else { 0 });
        self.primed = false;
    }

    fn counts(&self) -> (u64, u64) {
        (self.results, self.sent)
    }
}
