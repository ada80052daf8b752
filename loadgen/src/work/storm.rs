//! The storm: everyone is on the lobby under a steady trickle of publications; all but the publishers lose
//! their sockets at the same moment, and come back at once or spread over a jitter, with their position.
//!
//! What each gets in all is checked by `fanout`, across the cut: nothing lost, doubled or out of order,
//! unless the server says that it could not recover. Called by `engine`.

use std::sync::Arc;

use serde::Serialize;

use super::fanout::{Fanout, Publications, Settings};
use crate::client::Outgoing;
use crate::control::{Window, share};
use crate::engine::{Wires, Workload};
use crate::protocol::{Position, lobby};
use crate::random::Random;

/// What happened to one thread's connections, or to all of them.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Returns {
    /// Sockets that were dropped.
    pub dropped: u64,
    /// Connections that came back and signed in.
    pub back: u64,
    /// From the drop to the last sign-in, in seconds.
    pub seconds: f64,
    /// Came back with all they had missed, as the server said.
    pub recovered: u64,
    /// Came back and were told that what they missed is gone.
    pub unrecovered: u64,
    /// Publications that the answers to signing in brought after.
    pub replayed: u64,
    /// Publications that those who were not recovered missed.
    pub missed: u64,
}

impl Returns {
    /// Adds another thread's.
    pub fn merge(&mut self, other: &Self) {
        self.dropped += other.dropped;
        self.back += other.back;
        self.seconds = self.seconds.max(other.seconds);
        self.recovered += other.recovered;
        self.unrecovered += other.unrecovered;
        self.replayed += other.replayed;
        self.missed += other.missed;
    }
}

/// One thread's part of the storm.
pub struct Storm {
    /// The publishing and checking.
    pub fanout: Fanout,
    /// What came of it.
    pub returns: Returns,
    /// The thread's publishers, its first connections, stay.
    publishers: usize,
    slots: usize,
    /// The time over which the connections come back, in nanoseconds.
    jitter: u64,
    epochs: Vec<Option<Box<str>>>,
    /// When the sockets were dropped.
    dropped_at: Option<u64>,
    gone: u64,
    /// When sending was last looked after, and the last one came back.
    last: (u64, u64),
    /// How long publications go on after that, so that what is live is checked, too.
    after: u64,
}

impl Storm {
    /// The workload of `thread` with its `slots` connections.
    pub fn new(settings: Settings, publications: Arc<Publications>, jitter: u64, thread: usize, slots: usize) -> Self {
        Self {
            fanout: Fanout::new(settings, publications, thread, slots),
            returns: Returns::default(),
            publishers: share(settings.publishers, thread, settings.threads),
            slots,
            jitter,
            epochs: vec![None; slots],
            dropped_at: None,
            gone: 0,
            last: (0, 0),
            after: (2e9 / settings.rate.unwrap_or(1.0)) as u64,
        }
    }

    fn drop_all(&mut self, wires: &mut Wires<'_>, now: u64) {
        self.dropped_at = Some(now);
        for slot in self.publishers..self.slots {
            if wires.is_ready(slot) {
                wires.cut(slot);
                let later = if self.jitter == 0 { 0 } else { wires.random.next() % self.jitter };
                wires.reconnect(slot, now + later);
                self.returns.dropped += 1;
            }
        }
    }

    /// Signed in again: takes what the answer brings after.
    fn recover(&mut self, slot: usize, position: &Position) {
        if position.recovered {
            self.returns.recovered += 1;
            self.returns.replayed += position.publications.len() as u64;
            for missed in &position.publications {
                self.fanout.missed(slot, missed);
            }
        } else {
            self.returns.unrecovered += 1;
            self.returns.missed += position.offset.saturating_sub(self.fanout.last_offset(slot));
            self.fanout.skip_to(slot, position.offset);
        }
    }
}

impl Workload for Storm {
    fn message(&mut self, slot: usize, payload: &[u8], at: u64) {
        // The answer to signing in told of it already.
        if self.dropped_at.is_some() && crate::protocol::kind(payload) == b"gap" {
            self.fanout.pushes += 1;
        } else {
            self.fanout.message(slot, payload, at);
        }
    }

    fn received(&mut self, slot: usize, out: &mut Outgoing, random: &mut Random, at: u64) {
        self.fanout.received(slot, out, random, at);
    }

    fn start(&mut self, window: Window) {
        self.fanout.start(window);
    }

    fn tick(&mut self, window: Window, wires: &mut Wires<'_>, now: u64) -> u64 {
        let next = self.fanout.tick(window, wires, now);
        self.last.0 = now;
        if self.dropped_at.is_some() {
            return next;
        }
        if now < window.measured_from {
            return next.min(window.measured_from);
        }
        self.drop_all(wires, now);
        next
    }

    fn auth(&mut self, slot: usize, data: &mut Vec<u8>) {
        if let Some(epoch) = &self.epochs[slot] {
            let offset = self.fanout.last_offset(slot);
            data.extend_from_slice(format!(r#","recover":{{"epoch":"{epoch}","offset":{offset}}}"#).as_bytes());
        }
    }

    fn signed_in(&mut self, slot: usize, position: Option<&[u8]>, at: u64) {
        let Some(position) = position.and_then(lobby) else {
            return;
        };
        if self.epochs[slot].is_none() {
            self.fanout.begin_at(slot, position.offset);
        } else if let Some(dropped_at) = self.dropped_at {
            self.recover(slot, &position);
            self.returns.back += 1;
            self.last.1 = at;
            self.returns.seconds = at.saturating_sub(dropped_at) as f64 / 1e9;
        }
        self.epochs[slot] = position.epoch;
    }

    fn satisfied(&self) -> bool {
        let over = self.last.0 >= self.last.1 + self.after;
        over && self.dropped_at.is_some() && self.returns.back + self.gone >= self.returns.dropped
    }

    fn ended(&mut self, slot: usize) {
        self.gone += u64::from(self.dropped_at.is_some());
        self.fanout.ended(slot);
    }

    fn complete(&self) -> bool {
        self.fanout.complete()
    }

    fn finish(&mut self) {
        self.fanout.finish();
    }

    fn counts(&self) -> (u64, u64) {
        self.fanout.counts()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Faults;
    use crate::marker::{Content, Markers};
    use crate::protocol::Dialect;

    fn text(run: u32, number: u32) -> String {
        let mut text = Vec::new();
        Markers::new(run, 40, Content::Alphabet).write(0, number, &mut text);
        String::from_utf8(text).unwrap()
    }

    fn push(offset: u64, number: u32) -> String {
        format!(r#"{{"type":"message","data":{{"offset":{offset},"text":"{}"}}}}"#, text(1, number))
    }

    /// As the answer to signing in has it: what is `data` in a push, and its type.
    fn missed(offset: u64, number: u32) -> String {
        format!(r#"{{"type":"message","offset":{offset},"text":"{}"}}"#, text(1, number))
    }

    fn of_others(offset: u64) -> String {
        format!(r#"{{"type":"message","offset":{offset},"text":"{}"}}"#, text(2, 0))
    }

    fn success(offset: u64, more: &str) -> Vec<u8> {
        format!(r#"{{"type":"auth_success","data":{{"lobby":{{"epoch":"e","offset":{offset}{more}}}}}}}"#).into()
    }

    /// One publisher and one that has seen the first of five publications when it is cut.
    fn storm() -> Storm {
        storm_of(2)
    }

    fn storm_of(slots: usize) -> Storm {
        let settings = Settings {
            threads: 1,
            publishers: 1,
            window: 1,
            lockstep: false,
            rate: Some(10.0),
            payload: 40,
            content: Content::Alphabet,
            run: 1,
            sample_every: 1,
            last: None,
            verify_every: 1,
        };
        let publications = Publications::new(&settings, &Dialect::Uringcast(None));
        publications.pretend(0, 5);
        let mut storm = Storm::new(settings, publications, 0, 0, slots);
        storm.fanout.ended(0);
        for slot in 1..slots {
            storm.signed_in(slot, Some(&success(3, "")), 0);
            storm.message(slot, push(4, 0).as_bytes(), 1);
            storm.returns.dropped += 1;
        }
        storm.dropped_at = Some(2);
        let mut data = Vec::new();
        storm.auth(1, &mut data);
        assert_eq!(data, br#","recover":{"epoch":"e","offset":4}"#);
        storm
    }

    fn come_back(more: &str) -> (Faults, Returns) {
        let mut storm = storm();
        storm.signed_in(1, Some(&success(7, more)), 1_000_000_002);
        storm.message(1, push(8, 4).as_bytes(), 2_000_000_000);
        storm.finish();
        (storm.fanout.faults(), storm.returns)
    }

    #[test]
    fn what_is_replayed_and_what_follows_is_all_there_is() {
        let list = [missed(5, 1), missed(6, 2), missed(7, 3)].join(",");
        let (faults, returns) = come_back(&format!(r#","recovered":true,"publications":[{list}]"#));
        assert_eq!(faults, Faults::default());
        assert_eq!((returns.back, returns.recovered, returns.replayed, returns.missed), (1, 1, 3, 0));
        assert!((returns.seconds - 1.0).abs() < 1e-9);
    }

    #[test]
    fn what_others_publish_is_in_the_same_order_and_no_fault() {
        let mut storm = storm();
        let list = [of_others(5), missed(6, 1), of_others(7), missed(8, 2), of_others(9)].join(",");
        storm.signed_in(1, Some(&success(9, &format!(r#","recovered":true,"publications":[{list}]"#))), 1_000);
        storm.message(1, push(10, 3).as_bytes(), 1_001);
        storm.message(1, push(11, 4).as_bytes(), 1_002);
        storm.finish();
        assert_eq!(storm.fanout.faults(), Faults::default());
        assert_eq!((storm.returns.replayed, storm.fanout.foreign), (5, 3));
    }

    /// Where one connection's publications stood says nothing of where another's stand.
    #[test]
    fn what_stands_between_one_connections_publications_hides_none_of_anothers() {
        let mut storm = storm_of(3);
        let between = [missed(5, 1), of_others(6), missed(7, 2), missed(8, 3)].join(",");
        storm.signed_in(1, Some(&success(8, &format!(r#","recovered":true,"publications":[{between}]"#))), 1_000);
        let close = [missed(7, 2), missed(8, 3)].join(",");
        let first = [missed(5, 1), of_others(6)].join(",");
        storm.signed_in(2, Some(&success(8, &format!(r#","recovered":true,"publications":[{first},{close}]"#))), 1_000);
        for slot in [1, 2] {
            storm.message(slot, push(9, 4).as_bytes(), 1_001);
        }
        storm.finish();
        assert_eq!(storm.fanout.faults(), Faults::default());
    }

    #[test]
    fn a_hole_in_what_is_said_to_be_recovered_is_a_loss() {
        let list = [missed(5, 1), missed(7, 3)].join(",");
        let (faults, _) = come_back(&format!(r#","recovered":true,"publications":[{list}]"#));
        assert_eq!((faults.lost, faults.offset_breaks), (1, 1));
        let list = [missed(4, 0), missed(5, 1), missed(6, 2), missed(7, 3)].join(",");
        let (faults, _) = come_back(&format!(r#","recovered":true,"publications":[{list}]"#));
        assert_eq!((faults.lost, faults.doubled), (0, 1));
    }

    #[test]
    fn what_the_server_says_is_gone_is_missed_but_no_fault() {
        let (faults, returns) = come_back(r#","recovered":false,"publications":[]"#);
        assert_eq!(faults, Faults::default());
        assert_eq!((returns.unrecovered, returns.missed), (1, 3));
    }
}
