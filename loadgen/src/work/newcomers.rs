//! Signing in where many are already: residents are there first, then newcomers sign in one after the other, and every
//! resident must hear of each of them once, by an event or in a digest.
//!
//! Called by `engine`.

use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::Relaxed;

use crate::check::Faults;
use crate::client::Outgoing;
use crate::control::{Window, connection_number};
use crate::engine::{Wires, Workload};
use crate::protocol::{field, kind};
use crate::random::Random;

/// What a run does.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Load threads.
    pub threads: usize,
    /// Users who are there first.
    pub residents: usize,
    /// Users who sign in then.
    pub newcomers: usize,
    /// Newcomers who sign in at a time, of each thread.
    pub at_a_time: usize,
}

/// How many newcomers have signed in, for all threads.
pub type Arrived = Arc<AtomicU32>;

/// One thread's users.
pub struct Newcomers {
    settings: Settings,
    arrived: Arrived,
    thread: usize,
    slots: usize,
    /// The thread's residents: its first connections.
    residents: usize,
    began: bool,
    /// The next newcomer to sign in.
    next: usize,
    signing_in: usize,
    /// Newcomers of this thread that have signed in.
    came: u64,
    /// Newcomers that each resident has heard of by name.
    heard: Vec<u32>,
    /// The last number of users that each resident was told.
    count: Vec<u64>,
    /// Digests that left names out: the number counts there.
    truncated: Vec<bool>,
    gone: Vec<bool>,
    settled: bool,
    faults: Faults,
    /// Announcements that came.
    pub events: u64,
    /// Those of them that were digests.
    pub digests: u64,
}

impl Newcomers {
    /// The workload of `thread` with its `slots` connections, `residents` of them residents.
    pub fn new(settings: Settings, arrived: Arrived, thread: usize, slots: usize) -> Self {
        let residents = crate::control::share(settings.residents, thread, settings.threads);
        Self {
            settings,
            arrived,
            thread,
            slots,
            residents,
            began: false,
            next: residents,
            signing_in: 0,
            came: 0,
            heard: vec![0; residents],
            count: vec![0; residents],
            truncated: vec![false; residents],
            gone: vec![false; slots],
            settled: false,
            faults: Faults::default(),
            events: 0,
            digests: 0,
        }
    }

    /// What went wrong.
    pub fn faults(&self) -> Faults {
        self.faults
    }

    /// The resident knows of all newcomers.
    fn knows_all(&self, slot: usize) -> bool {
        let all = (self.settings.residents + self.settings.newcomers) as u64;
        let newcomers = self.settings.newcomers as u32;
        self.gone[slot] || self.count[slot] == all && (self.truncated[slot] || self.heard[slot] >= newcomers)
    }

    fn all_is_known(&self) -> bool {
        self.arrived.load(Relaxed) as usize >= self.settings.newcomers
            && (0..self.residents).all(|slot| self.knows_all(slot))
    }

    /// How many names of newcomers stand in `payload`.
    fn names(&self, payload: &[u8]) -> u32 {
        const NAME: &[u8] = b"\"username\":\"load-";
        let number = |at: usize| {
            let digits = payload[at + NAME.len()..].iter().take_while(|byte| byte.is_ascii_digit());
            digits.fold(0usize, |number, digit| number.wrapping_mul(10) + usize::from(digit - b'0'))
        };
        memchr::memmem::find_iter(payload, NAME).filter(|at| number(*at) >= self.settings.residents).count() as u32
    }
}

impl Workload for Newcomers {
    fn message(&mut self, slot: usize, payload: &[u8], _: u64) {
        if !self.began || slot >= self.residents {
            return;
        }
        let (digest, joined) = match kind(payload) {
            b"user_online" => (false, self.names(payload)),
            b"presence_digest" => {
                let list = memchr::memmem::find(payload, b"\"joined\":[").map_or(&[][..], |at| &payload[at..]);
                let end = memchr::memchr(b']', list).unwrap_or(list.len());
                self.truncated[slot] |= field(payload, "truncated").is_some();
                (true, self.names(&list[..end]))
            }
            b"user_offline" | b"error" | b"kicked" => {
                self.faults.refused += 1;
                return;
            }
            _ => return,
        };
        self.events += 1;
        self.digests += u64::from(digest);
        self.heard[slot] += joined;
        let name = if digest { "count" } else { "online_count" };
        if let Some(count) = field(payload, name).and_then(|count| count.parse().ok()) {
            self.count[slot] = count;
        }
    }

    fn received(&mut self, _: usize, _: &mut Outgoing, _: &mut Random, _: u64) {}

    fn signed_in(&mut self, slot: usize, _: Option<&[u8]>, _: u64) {
        if self.began && slot >= self.residents {
            self.signing_in -= 1;
            self.arrived.fetch_add(1, Relaxed);
            self.came += 1;
        }
    }

    fn start(&mut self, _: Window) {
        self.began = true;
    }

    fn tick(&mut self, _: Window, wires: &mut Wires<'_>, now: u64) -> u64 {
        while wires.sending && self.signing_in < self.settings.at_a_time && self.next < self.slots {
            wires.reconnect(self.next, now);
            self.next += 1;
            self.signing_in += 1;
        }
        self.settled = self.settled || self.all_is_known();
        u64::MAX
    }

    fn ended(&mut self, slot: usize) {
        self.gone[slot] = true;
        if slot >= self.residents {
            self.signing_in = self.signing_in.saturating_sub(1);
        }
    }

    fn complete(&self) -> bool {
        self.settled || self.all_is_known()
    }

    fn satisfied(&self) -> bool {
        self.settled
    }

    fn finish(&mut self) {
        let newcomers = self.settings.newcomers as u32;
        let missing = (self.next..self.slots).count() as u64;
        self.faults.lost += missing;
        for slot in (0..self.residents).filter(|slot| !self.gone[*slot]) {
            let heard = self.heard[slot];
            if !self.truncated[slot] {
                self.faults.lost += u64::from(newcomers.saturating_sub(heard));
            }
            self.faults.doubled += u64::from(heard.saturating_sub(newcomers));
            let number = connection_number(self.thread, slot, self.settings.threads);
            let all = (self.settings.residents + self.settings.newcomers) as u64;
            if self.count[slot] != all && number < self.settings.residents {
                self.faults.presence += 1;
            }
        }
    }

    fn counts(&self) -> (u64, u64) {
        (self.came, self.events)
    }
}
