//! Real shards and hostile clients: whatever bytes, in whatever pieces, with sockets that block, reset and vanish, and
//! a clock that jumps. No oracle of meaning, which `simulation` has: only what must hold of any server whatever comes.
//! Input: throws of the dice that choose settings, operations and bytes.

use std::net::Ipv4Addr;
use std::sync::Arc;

use uringcast::limits::Peer;
use uringcast::model::errand::ErrandOutcome;
use uringcast::shard::turn::{Next, Turn};
use uringcast::shard::{Action, Arrival, Input, Shard};
use uringcast::time::clock::Now;

use super::{envelope, frames};
use crate::codec::{self, Ear};
use crate::dice::Dice;
use crate::faults::{Ends, Lanes, Sabotage};
use crate::mutate::mutate;
use crate::plan::Plan;
use crate::wire::{Net, Reader};
use crate::world::shard_id;

/// Operations that are taken, and connections.
const STEPS: usize = 600;
const CLIENTS: usize = 12;
/// Rounds within which all comes to rest when nobody is there any more.
const PATIENCE: usize = 2_000;

/// Tokens that could be good by keys that are not known: {"alg":"ES256","kid":"x"}, and the same without a kid.
const UNKNOWN_KEYS: [&str; 2] = ["eyJhbGciOiJFUzI1NiIsImtpZCI6IngifQ.e30.AAAA", "eyJhbGciOiJFUzI1NiJ9.e30.AAAA"];

struct Hostile {
    plan: Plan,
    shards: Vec<Shard>,
    turns: Vec<Turn>,
    lanes: Lanes,
    net: Net,
    /// What each client was sent.
    sent: Vec<Vec<u8>>,
    now: Now,
    dice: Dice,
    /// Errands that are not answered, with their shards.
    errands: Vec<(usize, u32)>,
}

/// Nothing panics; each client is sent a response and then whole frames, and nothing after Close; and when all have
/// gone, nothing is left of them.
pub fn run(bytes: &[u8]) {
    let mut dice = Dice::loaded(bytes);
    // The hostile clients need no engine.
    let plan = Plan::with(None, &mut dice);
    let count = plan.settings.hub.shards;
    let none = Sabotage::new(None, 0);
    let shard = |own| Shard::new(shard_id(own), Arc::clone(&plan.settings), Arc::clone(&plan.verifier), own as u64);
    let mut world = Hostile {
        shards: (0..count).map(shard).collect(),
        turns: (0..count).map(|_| Turn::default()).collect(),
        lanes: Lanes::new(count, plan.settings.lane_parcels, none.clone()),
        net: Net::new(count, Dice::new(1), none),
        sent: Vec::new(),
        now: Now { unix_ms: 1_800_000_000_000, mono_ms: 1_000 },
        plan,
        dice,
        errands: Vec::new(),
    };
    for _ in 0..STEPS {
        if world.dice.is_spent() {
            break;
        }
        world.step();
    }
    world.everyone_goes();
    world.sent.iter().for_each(|sent| well_formed(sent));
}

impl Hostile {
    fn step(&mut self) {
        let count = self.shards.len();
        match self.dice.weighted(&[4, 30, 4, 30, 12, 8, 2, 1, 3]) {
            0 if self.sent.len() < CLIENTS => self.open(),
            1 => self.talk(),
            2 => {
                let Some(client) = self.any() else { return };
                let pipe = &mut self.net.pipes[client];
                pipe.left = true;
                pipe.reset = self.dice.once_in(2);
            }
            3 => {
                let shard = self.dice.below(count);
                self.turn(shard);
            }
            4 => {
                let Some(client) = self.any() else { return };
                let most = self.dice.pick(&[1, 50, usize::MAX]);
                self.read(client, most);
            }
            5 => {
                let ms = self.dice.pick(&[1, 64, 700, 3_000, 30_000]);
                self.pass(ms);
            }
            6 => {
                let Some(client) = self.any() else { return };
                self.writable(client);
            }
            7 if self.dice.once_in(8) => {
                let shard = self.dice.below(count);
                let now = self.now;
                let patience_ms = self.dice.pick(&[0, 500]);
                self.shards[shard].drain(patience_ms, now);
                self.act(shard);
            }
            8 if !self.errands.is_empty() => {
                let (shard, number) = self.errands.swap_remove(self.dice.below(self.errands.len()));
                let again_at_ms = self.now.mono_ms + self.dice.pick(&[0, 0, 10_000]);
                let outcome = self.dice.pick(&[ErrandOutcome::NotDone, ErrandOutcome::KeysChecked { again_at_ms }]);
                // Twice, or under a number that was never given: such an answer must change nothing.
                let number = if self.dice.once_in(8) { self.dice.throw() as u32 } else { number };
                for _ in 0..self.dice.between(0, 2) {
                    self.shards[shard].errand_done(number, outcome);
                    self.act(shard);
                }
            }
            _ => {}
        }
    }

    fn open(&mut self) {
        let shard = self.dice.below(self.shards.len());
        let from = if self.dice.once_in(8) { Peer::Unix } else { Peer::Ip(Ipv4Addr::LOCALHOST.into()) };
        let arrival = Arrival { from, is_told: !self.dice.once_in(4), accepted_ns: 1 };
        let Some(id) = self.shards[shard].open(arrival, self.now) else { return };
        let client = self.net.connect(id, self.dice.pick(&[200, 2_000, 1 << 20]));
        self.sent.push(Vec::new());
        if !self.dice.once_in(8) {
            let offer = self.dice.pick(&crate::deflate::OFFERS);
            self.net.pipes[client].up.extend(codec::upgrade_request(offer));
        }
        if !self.dice.once_in(4) {
            let account = self.dice.below(self.plan.accounts.len());
            let token = &self.plan.accounts[account].token;
            self.say(client, format!("{{\"type\":\"auth\",\"data\":{{\"token\":\"{token}\"}}}}").into_bytes());
        }
    }

    /// Any of the clients whose connection the server still has.
    fn any(&mut self) -> Option<usize> {
        let there = |client: &usize| self.net.pipes[*client].reader != Reader::Ended;
        let all: Vec<usize> = (0..self.sent.len()).filter(there).collect();
        if all.is_empty() { None } else { Some(self.dice.pick(&all)) }
    }

    fn say(&mut self, client: usize, text: Vec<u8>) {
        let mut bytes = Vec::new();
        frames::frame(&mut bytes, 0x81, &text, &mut self.dice);
        self.net.pipes[client].up.extend(bytes);
    }

    /// A client sends something, and the server may read some of what is there.
    fn talk(&mut self) {
        let Some(client) = self.any() else { return };
        match self.dice.below(6) {
            0 => {
                let mut stream = frames::generate(&mut self.dice);
                mutate(&mut stream, b"", &mut self.dice);
                self.net.pipes[client].up.extend(stream);
            }
            1 => {
                let mut text = envelope::generate(&mut self.dice);
                mutate(&mut text, b"\"lobby\"\"news\"", &mut self.dice);
                self.say(client, text);
            }
            2 => {
                let kind = self.dice.pick(&["subscribe", "unsubscribe", "publish", "history", "presence"]);
                let channel = self.dice.pick(&["lobby", "news", "plain/2", "d:one", "q:one"]);
                let data = format!("{{\"channel\":\"{channel}\",\"data\":[1],\"key\":\"k\"}}");
                self.say(client, format!("{{\"type\":\"{kind}\",\"id\":\"1\",\"data\":{data}}}").into_bytes());
            }
            3 if self.dice.once_in(2) => {
                let token = self.dice.pick(&UNKNOWN_KEYS);
                let text = match self.dice.below(3) {
                    0 => format!("{{\"type\":\"auth\",\"data\":{{\"token\":\"{token}\"}}}}"),
                    1 => format!("{{\"type\":\"refresh\",\"data\":{{\"token\":\"{token}\"}}}}"),
                    _ => format!("{{\"type\":\"subscribe\",\"data\":{{\"channel\":\"t:one\",\"token\":\"{token}\"}}}}"),
                };
                self.say(client, text.into_bytes());
            }
            3 => self.say(client, br#"{"type":"message","data":{"text":"hi"}}"#.to_vec()),
            4 => {
                let close = codec::close(self.dice.pick(&[None, Some(1000), Some(999)]), &mut self.dice);
                self.net.pipes[client].up.extend(close);
            }
            _ => {
                let text = envelope::generate(&mut self.dice);
                self.say(client, text);
            }
        }
        let most = self.dice.pick(&[1, 7, 100, usize::MAX]);
        self.receive(client, most);
    }

    /// What the server's reading task does.
    fn receive(&mut self, client: usize, most: usize) {
        let pipe = &mut self.net.pipes[client];
        let (id, shard) = (pipe.id, pipe.id.shard.index());
        let input = match pipe.reader {
            Reader::Ended | Reader::Paused => return,
            Reader::Woken => self.shards[shard].resume(id, &mut self.net, self.now),
            Reader::Open if pipe.reset || pipe.aborted || (pipe.up.is_empty() && pipe.left) => Input::Ended,
            Reader::Open if pipe.up.is_empty() => return,
            Reader::Open => {
                let count = pipe.up.len().min(most);
                let mut bytes: Vec<u8> = pipe.up.drain(..count).collect();
                self.shards[shard].receive(id, &mut bytes, &mut self.net, self.now)
            }
        };
        self.net.pipes[client].reader = match input {
            Input::Open => Reader::Open,
            Input::Paused => Reader::Paused,
            Input::Ended => {
                self.shards[shard].closed(id, self.now);
                Reader::Ended
            }
        };
        self.act(shard);
    }

    fn read(&mut self, client: usize, most: usize) {
        let pipe = &mut self.net.pipes[client];
        let count = pipe.down.len().min(most);
        self.sent[client].extend(pipe.down.drain(..count));
    }

    fn writable(&mut self, client: usize) {
        let pipe = &mut self.net.pipes[client];
        if !std::mem::take(&mut pipe.writer) {
            return;
        }
        let (id, shard) = (pipe.id, pipe.id.shard.index());
        self.shards[shard].writable(id, &mut self.net, self.now);
        self.act(shard);
    }

    fn act(&mut self, shard: usize) {
        for action in self.shards[shard].take_actions() {
            let (Action::Resume(id)
            | Action::AwaitWritable(id)
            | Action::Finish(id)
            | Action::Abort(id)
            | Action::End(id)) = action
            else {
                if let Action::Errand(number, _) = action {
                    self.errands.push((shard, number));
                }
                continue; // An alarm: time passes here by itself.
            };
            let client = self.net.client(id).expect("an action is for a connection");
            let pipe = &mut self.net.pipes[client];
            if pipe.reader == Reader::Ended {
                continue;
            }
            match action {
                Action::AwaitWritable(_) => {
                    assert!(!pipe.writer, "two writers");
                    pipe.writer = true;
                }
                Action::Finish(_) => pipe.finished = true,
                Action::Abort(_) | Action::End(_) => pipe.aborted = true,
                Action::Resume(_) | Action::Alarm(_) | Action::BoundSilence(..) | Action::Errand(..) => {}
            }
            if matches!(action, Action::Resume(_) | Action::Abort(_) | Action::End(_)) && pipe.reader == Reader::Paused
            {
                pipe.reader = Reader::Woken;
            }
        }
    }

    /// A whole turn.
    fn turn(&mut self, shard: usize) {
        loop {
            let budgets = vec![self.plan.lane_budget; self.shards.len()];
            let mut ends = Ends { lanes: &mut self.lanes, own: shard, budgets, first: 0, taken: &|_, _| {} };
            let next = self.turns[shard].step(&mut self.shards[shard], &mut ends, &mut self.net, usize::MAX, self.now);
            self.act(shard);
            if let Next::Over { .. } = next {
                return;
            }
        }
    }

    fn pass(&mut self, ms: u64) {
        self.now.mono_ms += ms;
        self.now.unix_ms += ms;
        for shard in 0..self.shards.len() {
            self.shards[shard].tick(&mut self.net, self.now);
            self.act(shard);
        }
    }

    /// All clients are gone; so, before long, is every trace of them.
    fn everyone_goes(&mut self) {
        for client in 0..self.sent.len() {
            let pipe = &mut self.net.pipes[client];
            (pipe.left, pipe.reset) = (true, true);
        }
        for round in 0..PATIENCE {
            for client in 0..self.sent.len() {
                self.read(client, usize::MAX);
                self.writable(client);
                self.receive(client, usize::MAX);
            }
            (0..self.shards.len()).for_each(|shard| self.turn(shard));
            let gone = self.shards.iter().all(|shard| shard.connections() == 0 && shard.is_quiescent());
            if gone && self.lanes.is_empty() {
                let subscribers = self.shards.iter().flat_map(Shard::owned).map(|owned| owned.subscribers);
                assert_eq!(subscribers.sum::<usize>(), 0, "subscribers that are gone");
                return;
            }
            if round % 4 == 3 {
                self.pass(64);
            }
        }
        let waiting: Vec<_> = self.shards.iter().map(Shard::what_waits).collect();
        panic!("does not come to rest: {waiting:?}, connections {:?}", self.net.pipes);
    }
}

/// A response, and if that is an upgrade, frames.
fn well_formed(sent: &[u8]) {
    if sent.is_empty() || !sent.starts_with(b"HTTP/1.1 101 ") {
        let status = sent.get(..12).map(String::from_utf8_lossy);
        let refused = status.as_ref().is_none_or(|status| status.starts_with("HTTP/1.1 4") || status.contains(" 503"));
        assert!(refused, "{status:?}");
        return;
    }
    let mut ear = Ear::default();
    ear.feed(sent);
    while ear.next().unwrap_or_else(|problem| panic!("{problem}")).is_some() {}
}

/// Any throws will do.
pub fn generate(dice: &mut Dice) -> Vec<u8> {
    let length = dice.between(60, 3_000);
    (0..length).map(|_| (dice.throw() >> 24) as u8).collect()
}
