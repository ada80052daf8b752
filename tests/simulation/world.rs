//! N real shards, the lanes between them, the sockets of the clients and one clock; a step is one random action
//! on one of them. Does to each part what `src/io/turns.rs` and `src/io/tasks.rs` do, in every order that they could;
//! the order within a turn is the server's own, `shard::turn`. A shard that sleeps takes no turn until it is woken.
//! An observer on the lobby's owner listens from the first step to the last: what it hears is the master sequence.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use uringcast::hub::{LOBBY, owner_of};
use uringcast::ids::{ConnId, ShardId};
use uringcast::limits::Peer;
use uringcast::model::parcel::Parcel;
use uringcast::shard::turn::{AfterTurn, Next, Turn};
use uringcast::shard::{Action, Arrival, Input, Shard};
use uringcast::time::clock::Now;

use crate::backend::{Backend, conn_of};
use crate::channels::Known;
use crate::client::{Client, Verdict, What};
use crate::codec;
use crate::deflate::OFFERS;
use crate::dice::Dice;
use crate::engine::{ModelEngine, ticket_of};
use crate::faults::{Ends, Fault, Lanes, Sabotage};
use crate::plan::{OBSERVER, Plan};
use crate::tokens::{Law, START_MS};
use crate::wire::{Net, Reader};

/// The observer is the first client.
pub const WATCH: usize = 0;

/// How every connection comes in.
pub const HERE: Arrival = Arrival { from: Peer::Ip(IpAddr::V4(Ipv4Addr::LOCALHOST)), is_told: true, accepted_ns: 1 };

/// What a step can be; `Plan::weights` has the odds.
const ACTIONS: [fn(&mut World) -> Verdict; 14] = [
    World::connect,
    World::speak,
    World::any_server_read,
    World::any_client_read,
    World::any_writable,
    World::vanish,
    World::say_goodbye,
    World::any_turn,
    World::pass_time,
    World::backend_asks,
    World::backend_moves,
    World::backend_revokes,
    World::engine_step,
    World::provider_acts,
];

pub fn shard_id(index: usize) -> ShardId {
    ShardId(u16::try_from(index).expect("few shards"))
}

fn note(trace: bool, now: Now, line: impl FnOnce() -> String) {
    if trace {
        println!("{:>7} {}", now.mono_ms, line());
    }
}

pub struct World {
    pub plan: Plan,
    pub dice: Dice,
    pub now: Now,
    pub shards: Vec<Shard>,
    turns: Vec<Turn>,
    /// What the last turn of each shard said about the next one.
    after: Vec<AfterTurn>,
    /// The moments at which shards asked to be woken, with the shard.
    alarms: BTreeSet<(u64, usize)>,
    pub lanes: Lanes,
    pub net: Net,
    pub clients: Vec<Client>,
    pub backend: Backend,
    /// Behind one more endpoint of the mesh, in some lives.
    pub engine: Option<ModelEngine>,
    pub law: Law,
    /// Clients that were closed as slow, judged by what really waited for them.
    pub slow: BTreeSet<usize>,
    /// When the server last received something from each client.
    heard_ms: Vec<u64>,
    /// For how long clients had been silent that a tick began to close.
    pub silent_ms: BTreeMap<usize, u64>,
    /// The server was told to go: handshakes are cut.
    pub going: bool,
    trace: bool,
}

impl World {
    pub fn new(seed: u64, fault: Option<Fault>, trace: bool) -> Self {
        Self::with(Dice::new(seed), seed, fault, trace)
    }

    /// A world in which `dice` decide, and `seed` only what no step turns on.
    pub fn with(mut dice: Dice, seed: u64, fault: Option<Fault>, trace: bool) -> Self {
        let plan = Plan::new(&mut dice);
        let count = plan.settings.hub.shards;
        let sabotage = Sabotage::new(fault, dice.below(12));
        let shards = (0..count).map(|own| {
            let (settings, verifier) = (Arc::clone(&plan.settings), Arc::clone(&plan.verifier));
            Shard::new(shard_id(own), settings, verifier, seed ^ own as u64)
        });
        let world = Self {
            shards: shards.collect(),
            turns: (0..count).map(|_| Turn::default()).collect(),
            after: vec![AfterTurn::Work; count],
            alarms: BTreeSet::new(),
            engine: plan.engine.map(|engine| ModelEngine::new(engine, count, sabotage.clone())),
            lanes: Lanes::new(plan.settings.hub.endpoints(), plan.settings.lane_parcels, sabotage.clone()),
            net: Net::new(count, Dice::new(seed ^ 0x5eed), sabotage),
            now: Now { unix_ms: START_MS, mono_ms: 1_000 },
            clients: Vec::new(),
            backend: Backend::default(),
            law: Law::new(&plan),
            slow: BTreeSet::new(),
            heard_ms: Vec::new(),
            silent_ms: BTreeMap::new(),
            going: false,
            plan,
            dice,
            trace,
        };
        world.note(|| format!("{:?}", world.plan));
        world
    }

    /// Prints a line of the story, if it is to be told.
    pub fn note(&self, line: impl FnOnce() -> String) {
        note(self.trace, self.now, line);
    }

    /// The observer comes, then anything may happen.
    pub fn live(&mut self) -> Verdict {
        let owner = owner_of(LOBBY, self.shards.len()).index();
        self.open(owner, usize::MAX, true);
        self.say(WATCH, What::Auth(OBSERVER));
        while self.clients[WATCH].attached.is_none() {
            // Its token was issued so late that no revocation is about it: it is shown at that time.
            let today_ms = std::mem::replace(&mut self.now.unix_ms, crate::tokens::OBSERVER_FROM_MS);
            let read = self.server_read(WATCH, usize::MAX);
            self.now.unix_ms = today_ms;
            read?;
            self.finish_engine();
            self.turn(owner)?;
            self.observe()?;
        }
        for _ in 0..self.plan.steps {
            if self.dice.is_spent() {
                break;
            }
            let action = self.dice.weighted(&self.plan.weights);
            ACTIONS[action](self)?;
            self.observe()?;
        }
        Ok(())
    }

    /// One step of a server that was told to go: as in life, but that nobody comes and no time passes.
    pub fn step_out(&mut self) -> Verdict {
        self.finish_engine();
        const WEIGHTS: [usize; 7] = [10, 20, 20, 15, 60, 2, 20];
        let actions: [fn(&mut Self) -> Verdict; WEIGHTS.len()] = [
            Self::speak,
            Self::any_server_read,
            Self::any_client_read,
            Self::any_writable,
            Self::any_turn,
            Self::backend_asks,
            Self::backend_moves,
        ];
        actions[self.dice.weighted(&WEIGHTS)](self)?;
        self.observe()
    }

    /// The observer reads whatever is there.
    fn observe(&mut self) -> Verdict {
        if self.net.pipes[WATCH].down.is_empty() { Ok(()) } else { self.client_read(WATCH, usize::MAX) }
    }

    // ---- clients ----

    fn connect(&mut self) -> Verdict {
        let connected = (0..self.clients.len()).filter(|&client| self.is_there(client)).count();
        if connected <= self.plan.crowd {
            let shard = self.dice.below(self.shards.len());
            let polite = !self.dice.once_in(8);
            self.open(shard, self.plan.room, polite);
        }
        Ok(())
    }

    fn open(&mut self, shard: usize, room: usize, polite: bool) {
        // Clients are numbered in the order in which they are accepted.
        let accepted_ns = self.clients.len() as u64 + 1;
        let id = self.shards[shard].open(Arrival { accepted_ns, ..HERE }, self.now).expect("no limit is reached");
        let number = self.net.connect(id, room);
        self.heard_ms.push(self.now.mono_ms);
        self.note(|| format!("client {number} connects as {id}"));
        let known = self.memory();
        self.clients.push(Client::new(number, shard, polite, known));
        let offer = self.dice.pick(&OFFERS);
        self.net.pipes[number].up.extend(codec::upgrade_request(offer));
    }

    /// What some client before knew: somebody comes back.
    fn memory(&mut self) -> Known {
        if self.clients.is_empty() || self.dice.once_in(4) {
            return Known::default();
        }
        let before = self.dice.below(self.clients.len());
        self.clients[before].book.known.clone()
    }

    /// The client has a socket that it has not let go of.
    pub fn is_there(&self, client: usize) -> bool {
        !self.net.pipes[client].left && !self.net.pipes[client].aborted
    }

    /// One of the clients other than the observer that `fits`.
    fn any(&mut self, fits: impl Fn(&Self, usize) -> bool) -> Option<usize> {
        let all: Vec<usize> = (WATCH + 1..self.clients.len()).filter(|&client| fits(self, client)).collect();
        if all.is_empty() { None } else { Some(self.dice.pick(&all)) }
    }

    fn speak(&mut self) -> Verdict {
        let talks = |world: &Self, client: usize| world.is_there(client) && !world.clients[client].is_over();
        let Some(client) = self.any(talks) else { return Ok(()) };
        let what = self.clients[client].idea(&self.plan, &mut self.dice);
        self.say(client, what);
        Ok(())
    }

    pub fn say(&mut self, client: usize, what: What) {
        self.note(|| format!("client {client} says q{} {what:?}", self.clients[client].asked.len()));
        let bytes = self.clients[client].ask(what, &self.plan, &mut self.law, &mut self.dice);
        self.net.pipes[client].up.extend(bytes);
    }

    fn any_client_read(&mut self) -> Verdict {
        let fits = |world: &Self, client: usize| {
            world.is_there(client) && (!world.net.pipes[client].down.is_empty() || world.net.pipes[client].is_at_end())
        };
        let Some(client) = self.any(fits) else { return Ok(()) };
        let most = self.dice.pick(&[1, 7, 100, 1_000, usize::MAX, usize::MAX]);
        self.client_read(client, most)
    }

    /// The client takes some bytes, and notices the end of the stream when there are no more.
    pub fn client_read(&mut self, client: usize, most: usize) -> Verdict {
        let blame = |problem: String| format!("client {client}: {problem}");
        let pipe = &mut self.net.pipes[client];
        let count = pipe.down.len().min(most);
        let bytes: Vec<u8> = pipe.down.drain(..count).collect();
        let answer = self.clients[client].hear(&bytes, &self.plan, &self.law, &mut self.dice).map_err(blame)?;
        self.note(|| format!("client {client} reads {count}"));
        let pipe = &mut self.net.pipes[client];
        pipe.up.extend(answer);
        if pipe.is_at_end() && !pipe.left {
            pipe.left = true;
            let reset = pipe.aborted;
            self.note(|| format!("client {client} sees the end, reset {reset}"));
            return self.clients[client].at_end(reset).map_err(blame);
        }
        Ok(())
    }

    /// A client is gone without a word.
    fn vanish(&mut self) -> Verdict {
        let Some(client) = self.any(Self::is_there) else { return Ok(()) };
        let reset = self.dice.once_in(2);
        self.note(|| format!("client {client} vanishes, reset {reset}"));
        let pipe = &mut self.net.pipes[client];
        (pipe.left, pipe.reset) = (true, reset);
        if reset {
            pipe.up.clear();
        } else {
            // What is sent now goes nowhere, but goes.
            pipe.room = usize::MAX;
        }
        Ok(())
    }

    fn say_goodbye(&mut self) -> Verdict {
        let fits = |world: &Self, client: usize| world.is_there(client) && !world.clients[client].is_over();
        let Some(client) = self.any(fits) else { return Ok(()) };
        let code = self.dice.pick(&[Some(1000), Some(4000), None]);
        self.note(|| format!("client {client} says Close {code:?}"));
        let bytes = codec::close(code, &mut self.dice);
        self.net.pipes[client].up.extend(bytes);
        self.clients[client].said_close = Some(code);
        Ok(())
    }

    // ---- the server's sockets ----

    fn any_server_read(&mut self) -> Verdict {
        let Some(client) = self.any(Self::is_readable) else { return Ok(()) };
        let most = self.dice.pick(&[1, 3, 20, 200, usize::MAX, usize::MAX]);
        self.server_read(client, most)
    }

    /// Whether the connection's reading task would run.
    pub fn is_readable(&self, client: usize) -> bool {
        let pipe = &self.net.pipes[client];
        match pipe.reader {
            Reader::Open => !pipe.up.is_empty() || pipe.left || pipe.aborted || pipe.closed,
            Reader::Woken => true,
            Reader::Paused | Reader::Ended => false,
        }
    }

    /// One round of the reading task.
    pub fn server_read(&mut self, client: usize, most: usize) -> Verdict {
        let pipe = &mut self.net.pipes[client];
        let (id, shard) = (pipe.id, self.clients[client].shard);
        let input = if pipe.reader == Reader::Woken {
            self.note(|| format!("client {client} is resumed"));
            self.shards[shard].resume(id, &mut self.net, self.now)
        } else if pipe.aborted || pipe.closed {
            Input::Ended
        } else if pipe.up.is_empty() {
            if !pipe.left {
                return Ok(());
            }
            self.note(|| format!("client {client} has ended its direction"));
            self.shards[shard].hear_out(id, self.now)
        } else {
            let count = pipe.up.len().min(most);
            let mut bytes: Vec<u8> = pipe.up.drain(..count).collect();
            self.heard_ms[client] = self.now.mono_ms;
            let input = self.shards[shard].receive(id, &mut bytes, &mut self.net, self.now);
            self.note(|| format!("client {client} has {count} bytes received: {input:?}"));
            input
        };
        self.net.pipes[client].reader = match input {
            Input::Open => Reader::Open,
            Input::Paused => Reader::Paused,
            Input::Ended => {
                self.note(|| format!("client {client}'s connection ends"));
                self.shards[shard].closed(id, self.now);
                Reader::Ended
            }
        };
        self.act(shard)
    }

    fn any_writable(&mut self) -> Verdict {
        let Some(client) = self.any(Self::is_writable) else { return Ok(()) };
        self.writable(client)
    }

    pub fn is_writable(&self, client: usize) -> bool {
        let pipe = &self.net.pipes[client];
        pipe.writer && (pipe.free() > 0 || pipe.reset || pipe.aborted)
    }

    pub fn writable(&mut self, client: usize) -> Verdict {
        let shard = self.clients[client].shard;
        self.note(|| format!("client {client} is writable"));
        let pipe = &mut self.net.pipes[client];
        pipe.writer = false;
        let id = pipe.id;
        let before = self.held_bytes(shard);
        self.shards[shard].writable(id, &mut self.net, self.now);
        self.judge_slow(shard, before)?;
        self.act(shard)
    }

    /// What the shell does after each call of a shard: carries out its actions, and sees to a turn if one is needed.
    pub fn act(&mut self, shard: usize) -> Verdict {
        if self.shards[shard].has_work() || self.shards[shard].is_stuck() {
            self.lanes.ring(shard);
        }
        self.carry_out(shard)
    }

    /// Does to the sockets what the shard asks for.
    fn carry_out(&mut self, shard: usize) -> Verdict {
        for action in self.shards[shard].take_actions() {
            let id = match action {
                Action::Alarm(at_ms) => {
                    self.alarms.insert((at_ms, shard));
                    continue;
                }
                Action::Errand(number, errand) => {
                    self.take_errand(shard, number, errand)?;
                    continue;
                }
                action => conn_of(action).expect("all others are about a connection"),
            };
            if let Some(peer) = self.net.api_peer(id) {
                self.act_on_api(peer, action)?;
                continue;
            }
            let Some(client) = self.net.client(id) else { return Err(format!("{action:?} for nobody")) };
            if self.net.pipes[client].reader == Reader::Ended {
                continue;
            }
            self.note(|| format!("client {client}: {action:?}"));
            let pipe = &mut self.net.pipes[client];
            match action {
                Action::Resume(_) => {
                    if pipe.reader == Reader::Paused {
                        pipe.reader = Reader::Woken;
                    }
                }
                Action::AwaitWritable(_) if pipe.writer => return Err(format!("two writers for client {client}")),
                Action::AwaitWritable(_) => pipe.writer = true,
                Action::Finish(_) => pipe.finished = true,
                Action::End(_) => {
                    (pipe.finished, pipe.closed) = (true, true);
                    if pipe.reader == Reader::Paused {
                        pipe.reader = Reader::Woken;
                    }
                }
                // A simulated peer acknowledges or is gone.
                Action::BoundSilence(..) => {}
                Action::Abort(_) | Action::Alarm(_) | Action::Errand(..) => self.abort(client)?,
            }
        }
        Ok(())
    }

    fn abort(&mut self, client: usize) -> Verdict {
        let limits = &self.plan.settings;
        let upgraded = self.clients[client].is_upgraded();
        let pipe = &mut self.net.pipes[client];
        let patient = self.now.mono_ms >= 1_000 + limits.handshake_ms.min(uringcast::shard::CLOSE_MS);
        let cut = self.going && !upgraded;
        if !patient && !cut && !pipe.reset && !pipe.aborted {
            return Err(format!("client {client}, upgraded {upgraded}, is reset too early"));
        }
        pipe.aborted = true;
        pipe.down.clear();
        pipe.up.clear();
        if pipe.reader == Reader::Paused {
            pipe.reader = Reader::Woken;
        }
        Ok(())
    }

    // ---- turns ----

    fn any_turn(&mut self) -> Verdict {
        let shard = self.dice.below(self.shards.len());
        self.turn(shard)
    }

    /// A turn, or the next step of the flush in which it is. Nothing if the shard sleeps.
    pub fn turn(&mut self, shard: usize) -> Verdict {
        if self.after[shard] == AfterTurn::Asleep && !self.lanes.has_rung(shard) && !self.is_told(shard) {
            return Ok(());
        }
        if !self.turns[shard].is_flushing() {
            self.tell(shard)?;
            self.tell_of_errands(shard);
            self.after[shard] = AfterTurn::Work;
            self.step(shard, 0)?;
            if self.turns[shard].is_flushing() && self.dice.once_in(2) {
                self.step(shard, usize::MAX)?;
                return self.within_bounds(shard);
            }
        }
        if self.turns[shard].is_flushing() {
            let sends = self.dice.between(1, self.plan.flush_budget);
            self.step(shard, sends)?;
        }
        Ok(())
    }

    /// Whether a shard has yet to be told something.
    pub fn is_told(&self, shard: usize) -> bool {
        self.law.is_pending(shard) || self.law.provider.is_pending(shard)
    }

    /// Turns until a shard has nothing to do: a second is long for it.
    pub fn finish_turns(&mut self, shard: usize) -> Verdict {
        for _ in 0..10_000 {
            if !self.turns[shard].is_flushing() && !self.shards[shard].has_work() {
                return Ok(());
            }
            self.turn(shard)?;
        }
        Err(format!("shard {shard} never comes to rest"))
    }

    /// One step of a turn. A step that sends may give up connections, those alone for which too much waits.
    fn step(&mut self, shard: usize, sends: usize) -> Verdict {
        let is_sending = self.turns[shard].is_flushing();
        let before = if is_sending { self.held_bytes(shard) } else { Vec::new() };
        let count = self.plan.settings.hub.endpoints();
        let (budgets, first) = if is_sending {
            (Vec::new(), 0)
        } else {
            ((0..count).map(|_| self.dice.between(0, self.plan.lane_budget)).collect(), self.dice.below(count))
        };
        let (trace, now) = (self.trace, self.now);
        let outcomes = RefCell::new(Vec::new());
        let taken = |from: usize, parcel: &Parcel| {
            note(trace, now, || format!("shard {shard} takes from {from} {parcel:?}"));
            outcomes.borrow_mut().extend(ticket_of(parcel));
        };
        let mut ends = Ends { lanes: &mut self.lanes, own: shard, budgets, first, taken: &taken };
        let next = self.turns[shard].step(&mut self.shards[shard], &mut ends, &mut self.net, sends, now);
        self.note(|| match is_sending {
            true => format!("shard {shard} flushes {sends}: {next:?}"),
            false => format!("shard {shard} takes a turn: {next:?}"),
        });
        self.judge_slow(shard, before)?;
        self.judge_outcomes(shard, outcomes.into_inner())?;
        // The shell does not count these as a reason for another turn.
        self.carry_out(shard)?;
        if let Next::Over { answers, then } = next {
            self.after[shard] = then;
            self.law.hear(answers)?;
        }
        Ok(())
    }

    /// The shard's open connections: its client, the most that is held for it, and whether it is closing.
    fn held_bytes(&mut self, shard: usize) -> Vec<(usize, ConnId, usize, bool)> {
        let connections = self.connections(shard).into_iter();
        let shard = &mut self.shards[shard];
        let held = |(client, id)| (client, id, shard.held_bytes(id).unwrap_or_default().1, shard.is_closing(id));
        connections.map(held).collect()
    }

    /// Sending makes a shard give up a connection only if too much waits for it.
    fn judge_slow(&mut self, shard: usize, before: Vec<(usize, ConnId, usize, bool)>) -> Verdict {
        for (client, id, most, was_closing) in before {
            if !was_closing && self.shards[shard].is_closing(id) {
                if most <= self.plan.settings.outbox_bytes {
                    return Err(format!("client {client} is closed as slow with {most} bytes held at most"));
                }
                self.slow.insert(client);
            }
        }
        Ok(())
    }

    fn connections(&self, shard: usize) -> Vec<(usize, ConnId)> {
        let open = self.net.pipes.iter().enumerate().filter(|(_, pipe)| pipe.reader != Reader::Ended);
        open.filter(|(_, pipe)| pipe.id.shard.index() == shard).map(|(client, pipe)| (client, pipe.id)).collect()
    }

    /// After a flush that nothing came between, no connection keeps more than the bound.
    fn within_bounds(&mut self, shard: usize) -> Verdict {
        for (client, id) in self.connections(shard) {
            let (held, _) = self.shards[shard].held_bytes(id).unwrap_or_default();
            if held > self.plan.settings.outbox_bytes && !self.shards[shard].is_closing(id) {
                return Err(format!("{held} bytes are held for client {client} after a flush"));
            }
        }
        Ok(())
    }

    fn backend_revokes(&mut self) -> Verdict {
        // Otherwise nobody would be left before long.
        if !self.dice.once_in(4) {
            return Ok(());
        }
        let said = self.law.decree(&self.plan, &self.clients, &mut self.dice);
        self.note(|| said);
        Ok(())
    }

    // ---- time ----

    fn pass_time(&mut self) -> Verdict {
        let ms =
            if self.dice.once_in(150) { 310_000 } else { self.dice.pick(&[1, 1, 10, 64, 64, 150, 150, 700, 3_000]) };
        self.advance(ms)
    }

    /// Notes whom the tick begins to close, and for how long they had been silent.
    fn tick(&mut self, shard: usize) {
        let mut open = self.connections(shard);
        open.retain(|(_, id)| !self.shards[shard].is_closing(*id));
        self.shards[shard].tick(&mut self.net, self.now);
        for (client, id) in open {
            if self.shards[shard].is_closing(id) {
                self.silent_ms.insert(client, self.now.mono_ms - self.heard_ms[client]);
            }
        }
    }

    pub fn advance(&mut self, ms: u64) -> Verdict {
        self.note(|| format!("{ms} ms pass"));
        self.now.mono_ms += ms;
        self.now.unix_ms += ms;
        self.law.now_ms = self.now.unix_ms;
        while let Some(&(at_ms, shard)) = self.alarms.first()
            && at_ms <= self.now.mono_ms
        {
            self.alarms.pop_first();
            self.lanes.ring(shard);
        }
        // The observer lives, come what may.
        let alive = codec::frame(codec::PONG, true, &[], &mut self.dice);
        self.net.pipes[WATCH].up.extend(alive);
        self.server_read(WATCH, usize::MAX)?;
        for shard in 0..self.shards.len() {
            if !self.dice.once_in(8) {
                self.tick(shard);
                self.act(shard)?;
            }
        }
        Ok(())
    }
}
