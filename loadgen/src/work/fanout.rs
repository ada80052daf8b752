//! The fan-out workload: the first of the subscribers publish, everyone must get every publication once and
//! in each publisher's order, with the server's offsets lacking none.
//!
//! What is done per delivery decides how large a server can be measured: a marker looked for where it was
//! last, one comparison of its number, one of the padding, and the offset; nothing is parsed or copied.
//! Closed loop: `window` publications are outstanding per publisher, closed by its own delivery.
//! Called by `engine`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use super::counted::{Checked, Counted};
use crate::check::{Checker, Faults};
use crate::client::Outgoing;
use crate::control::{Window, connection_number, share};
use crate::engine::{Wires, Workload};
use crate::latency::{Latencies, SECOND, Schedule};
use crate::marker::{Content, Marker, Markers, hex8, unhex};
use crate::protocol::{Dialect, Missed, Offsets, Publish, Template, kind};
use crate::random::Random;

/// A closed window that sees nothing for so long gives up on what is outstanding.
const STALL: u64 = SECOND;
/// Bytes that may wait on a publisher before an open loop holds back more.
const MOST_WAITING: usize = 256 << 10;
/// The newest publications of a publisher whose subscribers are counted.
const REACHED: usize = 1 << 12;
/// How many refusals are kept to be shown.
const EXAMPLES: usize = 3;

/// What a fan-out run sends.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Load threads.
    pub threads: usize,
    /// Those of the subscribers that publish: the first ones.
    pub publishers: usize,
    /// Publications outstanding per publisher (closed loop).
    pub window: u32,
    /// The whole window leaves in one write, and the next only when all of it came back.
    pub lockstep: bool,
    /// Publications a second over all publishers (open loop).
    pub rate: Option<f64>,
    /// Bytes in a publication's text.
    pub payload: usize,
    /// What they are.
    pub content: Content,
    /// Tells this run's publications from another's.
    pub run: u32,
    /// Every how many subscribers one has its latencies taken.
    pub sample_every: usize,
    /// Latency is taken when the last of this many subscribers has a publication.
    pub last: Option<u32>,
    /// Every how many one has what comes compressed inflated and checked.
    pub verify_every: usize,
}

/// What all threads know of the publications.
pub struct Publications {
    publish: Publish,
    /// The server speaks another protocol than uringcast.
    template: Option<Template>,
    sent: Vec<AtomicU32>,
    /// When the last ones of each publisher were sent (closed loop).
    stamps: Vec<Box<[AtomicU64]>>,
    /// How many subscribers have the newest publications of each publisher; empty unless the last one counts.
    reached: Vec<Box<[AtomicU32]>>,
}

impl Publications {
    /// None yet.
    pub fn new(settings: &Settings, dialect: &Dialect) -> Arc<Self> {
        let remembered = (1 << 18) / settings.publishers.max(1);
        let ring = remembered.max(settings.window as usize * 4);
        let ring = ring.next_power_of_two();
        let ring = if settings.rate.is_some() { 0 } else { ring };
        let stamps = || (0..ring).map(|_| AtomicU64::new(0)).collect();
        let publishers = settings.publishers;
        let remembered = if settings.last.is_some() { REACHED } else { 0 };
        let reached = || (0..remembered).map(|_| AtomicU32::new(0)).collect();
        let template = match dialect {
            Dialect::Template(template) => Some((**template).clone()),
            _ => None,
        };
        Arc::new(Self {
            publish: dialect.publish(settings.payload),
            template,
            sent: (0..publishers).map(|_| AtomicU32::new(0)).collect(),
            stamps: (0..publishers).map(|_| stamps()).collect(),
            reached: (0..publishers).map(|_| reached()).collect(),
        })
    }

    /// As if `publisher` had sent `number`.
    #[cfg(test)]
    pub fn pretend(&self, publisher: usize, number: u32) {
        self.sent[publisher].store(number, Relaxed);
    }

    /// One more subscriber has publication `number`; tells whether it is the last of `all`.
    fn is_last(&self, publisher: usize, number: u32, all: u32) -> bool {
        let reached = &self.reached[publisher][number as usize % REACHED];
        let last = reached.fetch_add(1, Relaxed) + 1 == all;
        if last {
            reached.store(0, Relaxed);
        }
        last
    }

    fn sent(&self, publisher: usize) -> u32 {
        self.sent[publisher].load(Relaxed)
    }

    fn total(&self) -> u64 {
        let sent = (0..self.sent.len()).map(|publisher| u64::from(self.sent(publisher)));
        sent.sum()
    }
}

struct Publisher {
    number: usize,
    /// Those before this one no longer count as outstanding, seen or not.
    given_up: u32,
    /// The last sign of life of a closed window: when, and what was seen then.
    alive: (u64, u32),
}

/// One thread's subscribers and publishers.
pub struct Fanout {
    settings: Settings,
    thread: usize,
    publications: Arc<Publications>,
    window: Option<Window>,
    checker: Checker,
    markers: Markers,
    offsets: Offsets,
    /// The last offset of each subscriber; none before the first.
    last_offset: Vec<u64>,
    /// The server numbers its publications; unknown before the first.
    has_offsets: Option<bool>,
    timed: Vec<bool>,
    /// Those subscribers whose messages are not inflated any more.
    counted: Counted,
    /// The thread's publishers: its first connections.
    publishers: Vec<Publisher>,
    scratch: Vec<u8>,
    primed: bool,
    /// When sending was last looked after.
    last_tick: u64,
    deliveries: u64,
    /// user_online, user_offline and whatever else the server pushed.
    pub pushes: u64,
    /// Messages to the lobby that this run didn't send.
    pub foreign: u64,
    /// Refusals, as the server put them.
    pub examples: Vec<String>,
    /// From publishing, or the intended time of it, to a sampled delivery.
    pub latencies: Latencies,
    /// From the intended time to the sending (open loop).
    pub lag: Latencies,
    /// Publications that should have been sent and were not (open loop).
    pub unsent: u64,
    /// Times that a closed window had to be opened by force.
    pub stalls: u64,
}

impl Fanout {
    /// The workload of `thread` with its `slots` connections.
    pub fn new(settings: Settings, publications: Arc<Publications>, thread: usize, slots: usize) -> Self {
        let mine = share(settings.publishers, thread, settings.threads);
        let publishers = (0..mine).map(|slot| Publisher {
            number: connection_number(thread, slot, settings.threads),
            given_up: 0,
            alive: (0, 0),
        });
        let every = settings.sample_every.max(1);
        let timed = (0..slots).map(|slot| connection_number(thread, slot, settings.threads).is_multiple_of(every));
        Self {
            settings,
            thread,
            publications,
            window: None,
            checker: Checker::new(slots, settings.publishers),
            markers: Markers::new(settings.run, settings.payload, settings.content),
            offsets: Offsets::default(),
            last_offset: vec![0; slots],
            has_offsets: None,
            timed: timed.collect(),
            counted: Counted::new(slots),
            publishers: publishers.collect(),
            scratch: Vec::new(),
            primed: false,
            last_tick: 0,
            deliveries: 0,
            pushes: 0,
            foreign: 0,
            examples: Vec::new(),
            latencies: Latencies::default(),
            lag: Latencies::default(),
            unsent: 0,
            stalls: 0,
        }
    }

    /// What went wrong.
    pub fn faults(&self) -> Faults {
        self.checker.faults
    }

    /// The last offset that connection `slot` has seen, 0 before the first.
    pub fn last_offset(&self, slot: usize) -> u64 {
        self.last_offset[slot]
    }

    /// Connection `slot` starts at `offset`.
    pub fn begin_at(&mut self, slot: usize, offset: u64) {
        self.last_offset[slot] = offset;
    }

    /// Connection `slot` was told that what came before `offset` is gone.
    pub fn skip_to(&mut self, slot: usize, offset: u64) {
        self.last_offset[slot] = offset;
        self.checker.forgive(slot);
    }

    /// Takes a publication that an answer to signing in brought after.
    pub fn missed(&mut self, slot: usize, missed: &Missed) {
        self.follows(slot, missed.offset);
        let text = missed.text.as_deref().unwrap_or_default().as_bytes();
        match self.markers.read(text) {
            // Latency is that of what comes live: time 0 is before the measured window.
            Some(marker) => self.delivery(slot, text, marker, 0),
            None => self.foreign += 1,
        }
    }

    /// Takes every publication in `payload`; tells how many there were.
    #[inline]
    fn publications(&mut self, slot: usize, payload: &[u8], at: u64) -> usize {
        let Some(mut marker) = self.markers.find(payload) else {
            return 0;
        };
        let (mut rest, mut count) = (payload, 0);
        loop {
            if !self.counted.has(slot) {
                self.check_offset(slot, &rest[..marker.place]);
            }
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

    /// The server's offsets were there to be checked.
    pub fn has_offsets(&self) -> bool {
        self.has_offsets == Some(true)
    }

    fn schedule(&self, number: usize, rate: f64, start: u64) -> Schedule {
        Schedule::new(start, rate, number, self.settings.publishers)
    }

    #[inline]
    fn check_offset(&mut self, slot: usize, head: &[u8]) {
        if self.has_offsets == Some(false) {
            return;
        }
        let Some(offset) = self.offsets.find(head) else {
            if self.has_offsets.is_some() {
                self.checker.faults.offset_breaks += 1;
            }
            self.has_offsets.get_or_insert(false);
            return;
        };
        self.has_offsets = Some(true);
        self.follows(slot, offset);
    }

    /// Every subscriber gets every offset, whoever published there.
    #[inline]
    fn follows(&mut self, slot: usize, offset: u64) {
        let last = std::mem::replace(&mut self.last_offset[slot], offset);
        if last != 0 && offset != last + 1 {
            self.checker.faults.offset_breaks += 1;
        }
    }

    #[inline]
    fn record(&mut self, slot: usize, publisher: usize, number: u32, at: u64) {
        let Some(window) = self.window else {
            return;
        };
        match self.settings.last {
            Some(all) if !self.publications.is_last(publisher, number, all) => return,
            Some(_) if at < window.measured_from => return,
            None if !self.timed[slot] || at < window.measured_from => return,
            _ => {}
        }
        let since = if let Some(rate) = self.settings.rate {
            self.schedule(publisher, rate, window.start).intended(number)
        } else {
            let stamps = &self.publications.stamps[publisher];
            let behind = self.publications.sent(publisher).wrapping_sub(number);
            if behind as usize >= stamps.len() {
                return;
            }
            stamps[number as usize & (stamps.len() - 1)].load(Relaxed)
        };
        self.latencies.record(at.saturating_sub(since).max(1));
    }

    /// Not the publication that should have come next.
    #[cold]
    fn irregular(&mut self, slot: usize, publisher: usize, digits: [u8; 8]) {
        match unhex(&digits) {
            Some(number) if publisher < self.publications.sent.len() && number < self.publications.sent(publisher) => {
                self.checker.saw(slot, publisher, number);
            }
            _ => self.checker.faults.corrupted += 1,
        }
    }

    /// Not a publication of this run.
    #[cold]
    fn other(&mut self, slot: usize, payload: &[u8]) {
        if let Some(template) = &self.publications.template {
            if template.refuses(payload) {
                self.refused(payload);
            } else {
                self.pushes += 1;
            }
            return;
        }
        match kind(payload) {
            b"message" => {
                self.foreign += 1;
                self.check_offset(slot, payload);
            }
            b"error" | b"kicked" | b"gap" => self.refused(payload),
            _ => self.pushes += 1,
        }
    }

    fn refused(&mut self, payload: &[u8]) {
        self.checker.faults.refused += 1;
        if self.examples.len() < EXAMPLES {
            let text = &payload[..payload.len().min(200)];
            self.examples.push(String::from_utf8_lossy(text).into_owned());
        }
    }

    #[inline]
    fn delivery(&mut self, slot: usize, payload: &[u8], marker: Marker, at: u64) {
        self.deliveries += 1;
        if !self.markers.intact(payload, &marker) {
            self.checker.faults.corrupted += 1;
        }
        if self.counted.has(slot) {
            return self.counted.add(slot);
        }
        let publisher = marker.publisher as usize;
        if publisher >= self.settings.publishers {
            return self.irregular(slot, publisher, marker.digits);
        }
        let expected = self.checker.next(slot, publisher);
        if marker.digits == hex8(expected) {
            self.checker.advance(slot, publisher);
            self.record(slot, publisher, expected, at);
        } else {
            self.irregular(slot, publisher, marker.digits);
        }
    }

    /// How the subscribers were checked; nothing before the end.
    pub fn checked(&self) -> Checked {
        self.counted.checked
    }

    fn publish(&mut self, number: usize, out: &mut Outgoing, random: &mut Random, now: u64) {
        let sent = self.publications.sent(number);
        let stamps = &self.publications.stamps[number];
        if !stamps.is_empty() {
            stamps[sent as usize & (stamps.len() - 1)].store(now, Relaxed);
        }
        self.publications.sent[number].store(sent + 1, Relaxed);
        let (markers, publish) = (&self.markers, &self.publications.publish);
        publish.write(&mut self.scratch, |text| markers.write(number as u32, sent, text));
        out.frame(publish.opcode, &self.scratch, random.key());
    }

    fn outstanding(&self, slot: usize) -> u32 {
        let publisher = &self.publishers[slot];
        let seen = self.checker.next(slot, publisher.number);
        self.publications.sent(publisher.number) - seen.max(publisher.given_up)
    }

    fn fill_window(&mut self, slot: usize, out: &mut Outgoing, random: &mut Random, now: u64) {
        let number = self.publishers[slot].number;
        let outstanding = self.outstanding(slot);
        if self.settings.lockstep && outstanding > 0 {
            return;
        }
        for _ in outstanding..self.settings.window {
            self.publish(number, out, random, now);
        }
    }

    fn send_due(&mut self, rate: f64, window: Window, wires: &mut Wires<'_>, now: u64) -> u64 {
        let mut next = u64::MAX;
        for slot in 0..self.publishers.len() {
            let number = self.publishers[slot].number;
            let schedule = self.schedule(number, rate, window.start);
            let mut intended = schedule.intended(self.publications.sent(number));
            if wires.sending
                && intended <= now
                && let Some((out, random)) = wires.out(slot)
            {
                while intended <= now && intended < window.stop && out.len() < MOST_WAITING {
                    self.lag.record((now - intended).max(1));
                    self.publish(number, out, random, now);
                    intended = schedule.intended(self.publications.sent(number));
                }
            }
            // One that is held back is tried again when its socket takes more.
            if intended > now {
                next = next.min(intended);
            }
        }
        next
    }

    fn tend_windows(&mut self, wires: &mut Wires<'_>, now: u64) {
        for slot in 0..self.publishers.len() {
            let seen = self.checker.next(slot, self.publishers[slot].number);
            let publisher = &mut self.publishers[slot];
            if self.primed && publisher.alive.1 != seen {
                publisher.alive = (now, seen);
            }
            let stalled = self.primed && now - publisher.alive.0 > STALL;
            if stalled {
                self.stalls += 1;
                publisher.given_up = self.publications.sent(publisher.number);
            }
            if stalled || !self.primed {
                publisher.alive = (now, seen);
                if let Some((out, random)) = wires.out(slot) {
                    self.fill_window(slot, out, random, now);
                }
            }
        }
        self.primed = true;
    }
}

impl Workload for Fanout {
    #[inline]
    fn message(&mut self, slot: usize, payload: &[u8], at: u64) {
        if self.publications(slot, payload, at) == 0 {
            self.other(slot, payload);
        }
    }

    fn verifies(&self, slot: usize) -> bool {
        let number = connection_number(self.thread, slot, self.settings.threads);
        slot < self.publishers.len() || number.is_multiple_of(self.settings.verify_every)
    }

    fn wire(&mut self, slot: usize, payload: &[u8], compressed: bool) {
        if self.window.is_none() {
            return;
        }
        self.counted.wire(slot, payload, compressed);
    }

    fn unread(&mut self, slot: usize) {
        if self.window.is_none() {
            self.pushes += 1;
            return;
        }
        self.deliveries += 1;
        if self.counted.has(slot) {
            return self.counted.add(slot);
        }
        self.counted.begin(slot, self.checker.had(slot) + 1);
        // It is judged by its count from now on.
        self.checker.ended(slot);
    }

    #[inline]
    fn received(&mut self, slot: usize, out: &mut Outgoing, random: &mut Random, at: u64) {
        if self.primed && slot < self.publishers.len() {
            self.fill_window(slot, out, random, at);
        }
    }

    fn start(&mut self, window: Window) {
        self.window = Some(window);
    }

    fn tick(&mut self, window: Window, wires: &mut Wires<'_>, now: u64) -> u64 {
        if wires.sending {
            self.last_tick = now;
        }
        if let Some(rate) = self.settings.rate {
            return self.send_due(rate, window, wires, now);
        }
        if wires.sending {
            self.tend_windows(wires, now);
        }
        u64::MAX
    }

    fn ended(&mut self, slot: usize) {
        self.counted.ended(slot);
        self.checker.ended(slot);
    }

    fn complete(&self) -> bool {
        let total = self.publications.total();
        self.checker.complete(|_| total) && self.counted.complete(total)
    }

    fn finish(&mut self) {
        let publications = Arc::clone(&self.publications);
        if let (Some(rate), Some(window)) = (self.settings.rate, self.window) {
            for publisher in &self.publishers {
                let schedule = self.schedule(publisher.number, rate, window.start);
                // A window may end before its time.
                let due = schedule.due_before(window.stop.min(self.last_tick));
                let sent = publications.sent(publisher.number);
                self.unsent += u64::from(due.saturating_sub(sent));
            }
        }
        self.checker.faults += self.counted.judge(self.publications.total(), self.foreign > 0, &self.checker);
        self.checker.finish(|_, publisher| publications.sent(publisher));
    }

    fn counts(&self) -> (u64, u64) {
        let mine = self.publishers.iter();
        let sent = mine.map(|publisher| u64::from(self.publications.sent(publisher.number)));
        (self.deliveries, sent.sum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        Settings {
            threads: 1,
            publishers: 2,
            window: 4,
            lockstep: false,
            rate: None,
            payload: 40,
            content: Content::Alphabet,
            run: 1,
            sample_every: 1,
            last: None,
            verify_every: 1,
        }
    }

    fn delivery(publisher: u32, number: u32, offset: u64) -> Vec<u8> {
        let mut payload = format!(r#"{{"type":"message","data":{{"offset":{offset},"text":""#).into_bytes();
        Markers::new(1, 40, Content::Alphabet).write(publisher, number, &mut payload);
        payload.extend(br#""}}"#);
        payload
    }

    fn faults_of(seen: &[Vec<u8>]) -> (Faults, Fanout) {
        let settings = settings();
        let publications = Publications::new(&settings, &Dialect::Uringcast(None));
        for sent in &publications.sent {
            sent.store(3, Relaxed);
        }
        let mut fanout = Fanout::new(settings, publications, 0, 2);
        fanout.ended(1);
        for payload in seen {
            fanout.message(0, payload, 0);
        }
        fanout.finish();
        (fanout.faults(), fanout)
    }

    fn orderly() -> Vec<Vec<u8>> {
        let order = [(0, 0), (1, 0), (0, 1), (0, 2), (1, 1), (1, 2)];
        let numbered = order.into_iter().zip(8..);
        numbered.map(|((publisher, number), offset)| delivery(publisher, number, offset)).collect()
    }

    #[test]
    fn an_orderly_run_passes_whatever_else_is_pushed() {
        let mut seen = orderly();
        seen.insert(3, br#"{"type":"user_online","code":200}"#.to_vec());
        let (faults, fanout) = faults_of(&seen);
        assert_eq!(faults, Faults::default());
        assert_eq!((fanout.pushes, fanout.deliveries), (1, 6));
        assert!(fanout.has_offsets());
    }

    /// A server may put several publications into one message, another run's among them.
    #[test]
    fn what_others_publish_between_hides_none() {
        let other = String::from_utf8(delivery(0, 0, 10)).unwrap().replace("lg", "xx").into_bytes();
        let with_it = [delivery(0, 0, 8), delivery(1, 0, 9), other, delivery(0, 1, 11)].concat();
        let without = [delivery(0, 2, 12), delivery(1, 1, 13), delivery(1, 2, 14)].concat();
        let (faults, fanout) = faults_of(&[with_it, without]);
        assert_eq!((faults.lost, fanout.deliveries), (0, 6));
    }

    #[test]
    fn each_planted_fault_is_told_apart() {
        let mut seen = orderly();
        seen.remove(2);
        let (faults, _) = faults_of(&seen);
        assert_eq!((faults.lost, faults.offset_breaks), (1, 1));

        let mut seen = orderly();
        seen.insert(3, seen[2].clone());
        let (faults, _) = faults_of(&seen);
        assert_eq!((faults.doubled, faults.lost), (1, 0));
        assert!(faults.offset_breaks > 0);

        let mut seen = orderly();
        seen.swap(2, 3);
        let (faults, _) = faults_of(&seen);
        assert_eq!((faults.reordered, faults.lost), (1, 0));

        let mut seen = orderly();
        let end = seen[1].len() - 5;
        seen[1][end] ^= 1;
        let (faults, _) = faults_of(&seen);
        assert_eq!((faults.corrupted, faults.lost), (1, 0));
    }

    #[test]
    fn numbers_never_sent_are_corrupt_and_refusals_are_kept() {
        let mut seen = orderly();
        seen.push(delivery(0, 99, 14));
        seen.push(br#"{"type":"error","code":503}"#.to_vec());
        let (faults, fanout) = faults_of(&seen);
        assert_eq!((faults.corrupted, faults.refused, faults.lost), (1, 1, 0));
        assert_eq!(fanout.examples.len(), 1);
    }
}
