//! A chat: users in the lobby or spread over rooms, some of whom publish at a rate, while others leave and
//! come back at a rate and everyone hears of it.
//!
//! Messages are checked by the channel's own offsets, from the position that each sign-in tells on; presence
//! by what a few observers believe in the end, and by the server's own count. Called by `engine`.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};

use serde::Serialize;

use crate::check::{Checker, Faults};
use crate::client::Outgoing;
use crate::control::{Window, connection_number, share};
use crate::engine::{Wires, Workload};
use crate::frame::Opcode;
use crate::latency::{Latencies, Schedule};
use crate::marker::{Content, Markers, unhex};
use crate::protocol::{Publish, field, kind, lobby};
use crate::random::Random;

/// How many connections follow who is online.
const OBSERVERS: usize = 8;
/// How many refusals are kept to be shown.
const EXAMPLES: usize = 3;
const UNKNOWN: u64 = u64::MAX;

/// What a chat does.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Connections over all threads, each of another user.
    pub connections: usize,
    /// Load threads.
    pub threads: usize,
    /// The first so many publish, and stay.
    pub publishers: usize,
    /// Publications a second over all publishers.
    pub rate: f64,
    /// Users that leave, a second.
    pub churn: f64,
    /// How long one that left stays away, in nanoseconds.
    pub away: u64,
    /// Rooms that the users are spread over; 0 for the lobby.
    pub rooms: usize,
    /// Bytes in a publication's text.
    pub payload: usize,
    /// Tells this run's publications from another's.
    pub run: u32,
}

/// What all threads know.
pub struct Shared {
    publish: Vec<Publish>,
    names: Vec<String>,
    /// The offset at which each room began.
    first: Vec<AtomicU64>,
    /// Publications sent to each room.
    sent: Vec<AtomicU32>,
    /// The newest offset that anyone has seen in each room: others may publish there, too.
    top: Vec<AtomicU64>,
    /// Publications sent by each publisher.
    by: Vec<AtomicU32>,
    /// Who is signed in.
    online: Vec<AtomicBool>,
    /// How many left and are not back yet.
    absent: AtomicU32,
}

impl Shared {
    /// Nobody is there yet; rooms are called `prefix` and a number.
    pub fn new(settings: &Settings, prefix: &str) -> Arc<Self> {
        let names: Vec<String> = (0..settings.rooms).map(|room| format!("{prefix}{room}")).collect();
        let rooms = settings.rooms.max(1);
        let publish = if names.is_empty() {
            vec![Publish::to_channel(None)]
        } else {
            names.iter().map(|name| Publish::to_channel(Some(name))).collect()
        };
        Arc::new(Self {
            publish,
            names,
            first: (0..rooms).map(|_| AtomicU64::new(UNKNOWN)).collect(),
            sent: (0..rooms).map(|_| AtomicU32::new(0)).collect(),
            top: (0..rooms).map(|_| AtomicU64::new(0)).collect(),
            by: (0..settings.publishers).map(|_| AtomicU32::new(0)).collect(),
            online: (0..settings.connections).map(|_| AtomicBool::new(false)).collect(),
            absent: AtomicU32::new(0),
        })
    }

    /// How many publications everyone in `room` should have, since it began.
    fn expected(&self, room: usize) -> u32 {
        let seen = self.top[room].load(Relaxed).saturating_sub(self.first[room].load(Relaxed));
        self.sent[room].load(Relaxed).max(seen as u32)
    }
}

/// What happened in one thread, or in all.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Visits {
    /// Users that left during the run.
    pub leaves: u64,
    /// Users that came back.
    pub joins: u64,
    /// Pushes that told of someone's coming or going.
    pub presence_events: u64,
    /// Those of them that were digests.
    pub digests: u64,
    /// Observers that compared what they heard with what was so.
    pub observers: u64,
    /// The server's own count of users at the end.
    pub online_count: Option<u64>,
}

impl Visits {
    /// Adds another thread's.
    pub fn merge(&mut self, other: &Self) {
        self.leaves += other.leaves;
        self.joins += other.joins;
        self.presence_events += other.presence_events;
        self.digests += other.digests;
        self.observers += other.observers;
        self.online_count = self.online_count.or(other.online_count);
    }
}

/// One thread's users.
pub struct Chat {
    settings: Settings,
    shared: Arc<Shared>,
    thread: usize,
    slots: usize,
    window: Option<Window>,
    checker: Checker,
    markers: Markers,
    /// Who each observer believes to be online; none after a digest that doesn't tell all.
    beliefs: Vec<Option<Vec<bool>>>,
    publishers: usize,
    /// Leaves that are done, and where to look for the next one to leave.
    departures: u32,
    candidate: usize,
    /// Those that left and have to be sent back.
    away: Vec<(usize, u64)>,
    asked: bool,
    last_tick: u64,
    scratch: Vec<u8>,
    deliveries: u64,
    sent: u64,
    /// What happened.
    pub visits: Visits,
    /// Messages that this run didn't send.
    pub foreign: u64,
    /// Refusals, as the server put them.
    pub examples: Vec<String>,
    /// From the intended time of publishing to a delivery.
    pub latencies: Latencies,
    /// From the intended time to the sending.
    pub lag: Latencies,
    /// Publications that should have been sent and were not.
    pub unsent: u64,
}

impl Chat {
    /// The workload of `thread` with its `slots` connections.
    pub fn new(settings: Settings, shared: Arc<Shared>, thread: usize, slots: usize) -> Self {
        let publishers = share(settings.publishers, thread, settings.threads);
        let observers = share(OBSERVERS.min(settings.publishers), thread, settings.threads);
        Self {
            settings,
            shared,
            thread,
            slots,
            window: None,
            checker: Checker::new(slots, 1),
            markers: Markers::new(settings.run, settings.payload, Content::Alphabet),
            beliefs: vec![Some(vec![true; settings.connections]); observers],
            publishers,
            departures: 0,
            candidate: publishers,
            away: Vec::new(),
            asked: false,
            last_tick: 0,
            scratch: Vec::new(),
            deliveries: 0,
            sent: 0,
            visits: Visits { observers: observers as u64, ..Visits::default() },
            foreign: 0,
            examples: Vec::new(),
            latencies: Latencies::default(),
            lag: Latencies::default(),
            unsent: 0,
        }
    }

    /// What went wrong.
    pub fn faults(&self) -> Faults {
        self.checker.faults
    }

    fn number(&self, slot: usize) -> usize {
        connection_number(self.thread, slot, self.settings.threads)
    }

    fn room(&self, number: usize) -> usize {
        number % self.settings.rooms.max(1)
    }

    /// Connection `slot` hears everything after `offset`.
    fn begin_at(&mut self, slot: usize, offset: u64) {
        let first = &self.shared.first[self.room(self.number(slot))];
        let known = first.compare_exchange(UNKNOWN, offset, Relaxed, Relaxed);
        let base = known.err().unwrap_or(offset);
        self.checker.restart(slot, offset.saturating_sub(base) as u32);
    }

    fn publication(&mut self, slot: usize, payload: &[u8], at: u64) {
        let room = self.room(self.number(slot));
        let marker = self.markers.find(payload);
        let head = marker.map_or(payload, |marker| &payload[..marker.place]);
        let offset = field(head, "offset").and_then(|offset| offset.parse::<u64>().ok());
        let first = self.shared.first[room].load(Relaxed);
        match offset.and_then(|offset| offset.checked_sub(first + 1)) {
            Some(number) => {
                self.shared.top[room].fetch_max(first + 1 + number, Relaxed);
                self.checker.saw(slot, 0, number as u32);
            }
            None => self.checker.faults.offset_breaks += 1,
        }
        let Some(marker) = marker else {
            self.foreign += 1;
            return;
        };
        self.deliveries += 1;
        let (publisher, number) = (marker.publisher as usize, unhex(&marker.digits));
        let sent = self.shared.by.get(publisher).map_or(0, |sent| sent.load(Relaxed));
        let Some(number) = number.filter(|number| *number < sent && self.markers.intact(payload, &marker)) else {
            self.checker.faults.corrupted += 1;
            return;
        };
        if let Some(window) = self.window
            && at >= window.measured_from
        {
            let intended = self.schedule(publisher, window.start).intended(number);
            self.latencies.record(at.saturating_sub(intended).max(1));
        }
    }

    fn schedule(&self, publisher: usize, start: u64) -> Schedule {
        Schedule::new(start, self.settings.rate, publisher, self.settings.publishers)
    }

    /// Someone came or went.
    fn presence(&mut self, slot: usize, payload: &[u8]) {
        self.visits.presence_events += 1;
        let digest = kind(payload) == b"presence_digest";
        self.visits.digests += u64::from(digest);
        let Some(belief) = self.beliefs.get_mut(slot) else {
            return;
        };
        if digest && (field(payload, "truncated").is_some() || field(payload, "reset").is_some()) {
            *belief = None;
        }
        let Some(belief) = belief else {
            return;
        };
        if !digest {
            mark(belief, payload, kind(payload) == b"user_online");
            return;
        }
        for (list, online) in [(&b"\"joined\":["[..], true), (b"\"left\":[", false)] {
            if let Some(at) = memchr::memmem::find(payload, list) {
                let rest = &payload[at..];
                let end = memchr::memchr(b']', rest).unwrap_or(rest.len());
                mark(belief, &rest[..end], online);
            }
        }
    }

    /// How many of the thread's observers believe something that is not so.
    fn mistaken(&self) -> u64 {
        let wrong = |belief: &&Vec<bool>| {
            let mut both = belief.iter().zip(&self.shared.online);
            both.any(|(believed, online)| *believed != online.load(Relaxed))
        };
        self.beliefs.iter().flatten().filter(wrong).count() as u64
    }

    fn publish_due(&mut self, window: Window, wires: &mut Wires<'_>, now: u64) -> u64 {
        let mut next = u64::MAX;
        for slot in 0..self.publishers {
            let publisher = self.number(slot);
            let schedule = self.schedule(publisher, window.start);
            let shared = Arc::clone(&self.shared);
            let room = self.room(publisher);
            let mut number = shared.by[publisher].load(Relaxed);
            while schedule.intended(number) <= now.min(window.stop - 1) {
                let Some((out, random)) = wires.out(slot) else {
                    break;
                };
                self.lag.record((now - schedule.intended(number)).max(1));
                shared.publish[room].write(&mut self.scratch, |text| {
                    self.markers.write(publisher as u32, number, text);
                });
                out.frame(Opcode::Text, &self.scratch, random.key());
                number += 1;
                shared.by[publisher].store(number, Relaxed);
                shared.sent[room].fetch_add(1, Relaxed);
                self.sent += 1;
            }
            next = next.min(schedule.intended(number).max(now + 1));
        }
        next
    }

    /// Sends home who is due to leave.
    fn leave_due(&mut self, window: Window, wires: &mut Wires<'_>, now: u64) -> u64 {
        if self.settings.churn <= 0.0 || self.publishers == self.slots {
            return u64::MAX;
        }
        let schedule = Schedule::new(window.start, self.settings.churn, self.thread, self.settings.threads);
        while schedule.intended(self.departures) <= now {
            self.departures += 1;
            let slot = self.candidate;
            self.candidate = if slot + 1 == self.slots { self.publishers } else { slot + 1 };
            if wires.is_ready(slot) {
                self.shared.absent.fetch_add(1, Relaxed);
                self.visits.leaves += 1;
                self.shared.online[self.number(slot)].store(false, Relaxed);
                self.checker.ended(slot);
                wires.leave(slot);
            }
        }
        schedule.intended(self.departures)
    }

    /// Asks the server how many users there are, once everything else is there.
    fn ask(&mut self, wires: &mut Wires<'_>) {
        if self.asked || self.thread != 0 || self.shared.absent.load(Relaxed) > 0 {
            return;
        }
        if let Some((out, random)) = wires.out(0) {
            out.frame(Opcode::Text, br#"{"type":"users","id":"loadgen","data":{"limit":1}}"#, random.key());
            self.asked = true;
        }
    }
}

/// Marks the users named in `payload`.
fn mark(belief: &mut [bool], payload: &[u8], online: bool) {
    const NAME: &[u8] = b"\"username\":\"load-";
    for at in memchr::memmem::find_iter(payload, NAME) {
        let digits = payload[at + NAME.len()..].iter().take_while(|byte| byte.is_ascii_digit());
        let number = digits.fold(0usize, |number, digit| number.wrapping_mul(10) + usize::from(digit - b'0'));
        if let Some(entry) = belief.get_mut(number) {
            *entry = online;
        }
    }
}

impl Workload for Chat {
    fn message(&mut self, slot: usize, payload: &[u8], at: u64) {
        match kind(payload) {
            b"message" => self.publication(slot, payload, at),
            b"user_online" | b"user_offline" | b"presence_digest" => self.presence(slot, payload),
            b"subscribed" => {
                let offset = field(payload, "offset").and_then(|offset| offset.parse().ok());
                self.begin_at(slot, offset.unwrap_or(0));
            }
            b"users" => self.visits.online_count = field(payload, "count").and_then(|count| count.parse().ok()),
            b"error" | b"kicked" | b"gap" => {
                self.checker.faults.refused += 1;
                if self.examples.len() < EXAMPLES {
                    let text = &payload[..payload.len().min(200)];
                    self.examples.push(String::from_utf8_lossy(text).into_owned());
                }
            }
            _ => {}
        }
    }

    fn received(&mut self, _: usize, _: &mut Outgoing, _: &mut Random, _: u64) {}

    fn start(&mut self, window: Window) {
        self.window = Some(window);
    }

    fn tick(&mut self, window: Window, wires: &mut Wires<'_>, now: u64) -> u64 {
        for (slot, at) in std::mem::take(&mut self.away) {
            wires.reconnect(slot, at + self.settings.away);
        }
        if !wires.sending {
            self.ask(wires);
            return u64::MAX;
        }
        self.last_tick = now;
        let next = self.publish_due(window, wires, now);
        next.min(self.leave_due(window, wires, now))
    }

    fn auth(&mut self, slot: usize, data: &mut Vec<u8>) {
        if let Some(name) = self.shared.names.get(self.room(self.number(slot))) {
            data.extend_from_slice(format!(r#","channels":[{{"channel":"{name}"}}]"#).as_bytes());
        }
    }

    fn signed_in(&mut self, slot: usize, position: Option<&[u8]>, _: u64) {
        self.shared.online[self.number(slot)].store(true, Relaxed);
        if self.window.is_some() {
            self.shared.absent.fetch_sub(1, Relaxed);
            self.visits.joins += 1;
        }
        if self.settings.rooms == 0 {
            let offset = position.and_then(lobby).map_or(0, |lobby| lobby.offset);
            self.begin_at(slot, offset);
        }
    }

    fn left(&mut self, slot: usize, at: u64) {
        self.away.push((slot, at));
    }

    fn ended(&mut self, slot: usize) {
        // One that was away failed to come back.
        let was_online = self.shared.online[self.number(slot)].swap(false, Relaxed);
        if !was_online && self.window.is_some() {
            self.shared.absent.fetch_sub(1, Relaxed);
        }
        self.checker.ended(slot);
    }

    fn complete(&self) -> bool {
        let sent = |slot| u64::from(self.shared.expected(self.room(self.number(slot))));
        let answered = self.thread != 0 || self.visits.online_count.is_some();
        self.shared.absent.load(Relaxed) == 0 && answered && self.checker.complete(sent) && self.mistaken() == 0
    }

    fn finish(&mut self) {
        let shared = Arc::clone(&self.shared);
        let (thread, settings) = (self.thread, self.settings);
        self.checker.finish(|slot, _| {
            let number = connection_number(thread, slot, settings.threads);
            shared.expected(number % settings.rooms.max(1))
        });
        self.checker.faults.presence += self.mistaken();
        let online = self.shared.online.iter().filter(|online| online.load(Relaxed)).count() as u64;
        // None: the question was refused or never answered.
        if self.thread == 0 && self.window.is_some() && self.visits.online_count != Some(online) {
            self.checker.faults.presence += 1;
        }
        if let Some(window) = self.window {
            for slot in 0..self.publishers {
                let publisher = self.number(slot);
                let due = self.schedule(publisher, window.start).due_before(window.stop.min(self.last_tick));
                self.unsent += u64::from(due.saturating_sub(self.shared.by[publisher].load(Relaxed)));
            }
        }
    }

    fn counts(&self) -> (u64, u64) {
        (self.deliveries, self.sent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        Settings {
            connections: 3,
            threads: 1,
            publishers: 1,
            rate: 10.0,
            churn: 1.0,
            away: 1,
            rooms: 0,
            payload: 40,
            run: 1,
        }
    }

    fn push(offset: u64, number: u32) -> Vec<u8> {
        let mut payload = format!(r#"{{"type":"message","data":{{"offset":{offset},"text":""#).into_bytes();
        Markers::new(1, 40, Content::Alphabet).write(0, number, &mut payload);
        payload.extend(br#""}}"#);
        payload
    }

    fn presence(kind: &str, number: usize) -> Vec<u8> {
        format!(r#"{{"type":"{kind}","data":{{"user":{{"id":1,"username":"load-{number}"}},"online_count":2}}}}"#)
            .into()
    }

    fn success(offset: u64) -> Vec<u8> {
        format!(r#"{{"type":"auth_success","data":{{"online_count":3,"lobby":{{"offset":{offset}}}}}}}"#).into()
    }

    /// Three users, of whom the first publishes; two publications were sent to a lobby that stood at 7.
    fn chat() -> Chat {
        let shared = Shared::new(&settings(), "");
        let mut chat = Chat::new(settings(), Arc::clone(&shared), 0, 3);
        for slot in 0..3 {
            chat.signed_in(slot, Some(&success(7)), 0);
        }
        shared.sent[0].store(2, Relaxed);
        shared.by[0].store(2, Relaxed);
        chat.start(Window { start: 0, measured_from: 0, stop: 10 });
        chat.message(0, br#"{"type":"users","data":{"count":3,"members":[]}}"#, 0);
        chat
    }

    fn all(chat: &mut Chat, slots: std::ops::Range<usize>) {
        for slot in slots {
            chat.message(slot, &push(8, 0), 1);
            chat.message(slot, &push(9, 1), 1);
        }
    }

    #[test]
    fn an_orderly_chat_passes() {
        let mut chat = chat();
        all(&mut chat, 0..3);
        assert!(chat.complete());
        chat.finish();
        assert_eq!(chat.faults(), Faults::default());
    }

    #[test]
    fn a_loss_a_double_and_a_reorder_are_told_apart() {
        let mut lost = chat();
        all(&mut lost, 0..2);
        lost.message(2, &push(9, 1), 1);
        assert!(!lost.complete());
        lost.finish();
        assert_eq!((lost.faults().lost, lost.faults().doubled), (1, 0));
        let mut doubled = chat();
        all(&mut doubled, 0..3);
        doubled.message(1, &push(8, 0), 1);
        doubled.finish();
        assert_eq!((doubled.faults().lost, doubled.faults().doubled), (0, 1));
        let mut reordered = chat();
        all(&mut reordered, 0..2);
        reordered.message(2, &push(9, 1), 1);
        reordered.message(2, &push(8, 0), 1);
        reordered.finish();
        assert_eq!((reordered.faults().lost, reordered.faults().reordered), (0, 1));
    }

    #[test]
    fn what_others_publish_there_is_in_the_same_order() {
        let other = br#"{"type":"message","data":{"offset":9,"text":"hi"}}"#;
        let mut chat = chat();
        for slot in 0..3 {
            chat.message(slot, &push(8, 0), 1);
            // One of them doesn't get it.
            if slot < 2 {
                chat.message(slot, other, 1);
            }
            chat.message(slot, &push(10, 1), 1);
        }
        chat.finish();
        assert_eq!((chat.faults(), chat.foreign), (Faults { lost: 1, ..Faults::default() }, 2));
    }

    #[test]
    fn one_that_comes_back_hears_what_follows_its_position() {
        let mut chat = chat();
        all(&mut chat, 0..2);
        chat.shared.absent.store(1, Relaxed);
        chat.shared.online[2].store(false, Relaxed);
        chat.checker.ended(2);
        chat.message(0, &presence("user_offline", 2), 1);
        assert_eq!(chat.mistaken(), 0);
        chat.signed_in(2, Some(&success(8)), 2);
        assert_eq!(chat.mistaken(), 1, "nobody has told the observer yet");
        chat.message(0, &presence("user_online", 2), 2);
        assert!(!chat.complete());
        chat.message(2, &push(9, 1), 2);
        assert!(chat.complete());
        chat.finish();
        assert_eq!(chat.faults(), Faults::default());
        assert_eq!((chat.visits.joins, chat.visits.presence_events), (1, 2));
    }

    #[test]
    fn wrong_beliefs_and_a_wrong_count_are_faults() {
        let mut chat = chat();
        all(&mut chat, 0..3);
        let digest = br#"{"type":"presence_digest","data":{"joined":[],"left":[{"id":1,"username":"load-1"}]}}"#;
        chat.message(0, digest, 1);
        assert!(!chat.complete());
        chat.visits.online_count = Some(2);
        chat.finish();
        assert_eq!(chat.faults().presence, 2);
    }
}
