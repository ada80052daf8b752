//! The loop of one core: it gives a `Shard` its sockets, its lanes and the time. A turn drains the lanes, handles
//! what they brought, ships what is for other shards and flushes what is for clients; it runs behind the readers
//! that are ready, so that it takes in what is already there before it sends. Built by `server`, one per thread.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Poll, Waker};
use std::time::Duration;

use monoio::net::UnixStream;
use rustls::ServerConfig;

use crate::auth::{Lifted, Revocation, Verifier};
use crate::ids::{ConnId, ShardId};
use crate::io::conn::{self, RECEIVE_BYTES, Sockets};
use crate::io::driver::{Driver, Pause, Turnstile, pollable};
use crate::io::listener::Door;
use crate::limits::refusals::{RefusalLog, RefusalNote};
use crate::limits::{Guard, Peer};
use crate::mesh::Endpoint;
use crate::metrics::ShardMetrics;
use crate::model::errand::{Errand, ErrandOrder, ErrandOutcome};
use crate::model::parcel::{Answer, Ask, Parcel};
use crate::shard::Shard;
use crate::shard::turn::{AfterTurn, Next, SENDS_PER_STEP, Turn};
use crate::time::clock::{Clock, Now};

/// How often a shard looks for another's lane to have room again, when nothing else is to be done.
const STUCK: Duration = Duration::from_millis(1);
/// How long a connection that was cut at the end of a drain may take to go.
const CUT: Duration = Duration::from_millis(200);

/// What the control thread tells a shard.
#[derive(Debug)]
pub enum Command {
    /// Judge tokens by these keys from now on.
    Keys(Arc<Verifier>),
    /// Show this certificate to whoever connects from now on.
    Certificate(Arc<ServerConfig>),
    /// Tokens count no more; tell when no connection lives by one.
    Revoke(Arc<Revocation>, flume::Sender<Answer>),
    /// Revocations count no more; tell when that is so.
    Lift(Arc<Lifted>, flume::Sender<()>),
    /// Ask the hub of this shard, on the backend's behalf.
    Ask(Ask, flume::Sender<Answer>),
    /// The errand with this number has been done.
    Done(u32, ErrandOutcome),
    /// Answer publications at once from now on, whatever their channel's batch window.
    EndWindows,
    /// Say goodbye to everyone, wait so long at most, and end.
    Drain(Duration),
}

/// How many clients' sockets are open, over all shards, those among them that are being refused: a drain waits for
/// all of them.
#[derive(Debug, Default)]
pub struct OpenSockets(AtomicUsize);

impl OpenSockets {
    /// One more.
    pub fn enter(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// One less.
    pub fn leave(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// Whether none is left.
    pub fn is_empty(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 0
    }
}

/// What is done with connections before they come to a shard.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Knows the proxies.
    pub guard: Arc<Guard>,
    /// Trusted proxies begin with a PROXY header.
    pub proxy_protocol: bool,
    /// How long it may take to come.
    pub patience: Duration,
    /// Descriptors that connections may take, over all shards: the others are the API's and the process's own.
    pub sockets_max: usize,
    /// Where refusals are told.
    pub refusals: Arc<RefusalLog>,
}

/// One shard with its sockets, as the tasks of its thread share it. No borrow is held across an `.await`.
#[derive(Debug)]
pub struct Reactor {
    shard: RefCell<Shard>,
    endpoint: RefCell<Endpoint<Parcel>>,
    commands: flume::Receiver<Command>,
    /// The way to whoever does errands, if anyone does.
    errands: Option<flume::Sender<ErrandOrder>>,
    /// Numbers of errands that found no room on that way: the shard is told in the next turn.
    errands_not_done: RefCell<Vec<u32>>,
    own: ShardId,
    doors: Vec<Rc<Door>>,
    /// Where tasks wait that the driver would not interrupt.
    pub turnstile: Turnstile,
    /// Where all connections receive into: nothing stays in it.
    pub buffer: RefCell<Box<[u8]>>,
    /// What it becomes when it was encrypted.
    pub plain: RefCell<Vec<u8>>,
    /// What TLS is served with, if it is.
    pub certificate: RefCell<Option<Arc<ServerConfig>>>,
    /// The transports.
    pub sockets: RefCell<Sockets>,
    /// Shared by all shards.
    pub open_sockets: Arc<OpenSockets>,
    /// Of connections that have just been accepted.
    pub entry: Entry,
    /// This shard's numbers.
    pub metrics: Arc<ShardMetrics>,
    driver: Driver,
    clock: Clock,
    turn: Signal,
    /// Who waits for the answers to what the backend asked, by number.
    backend: RefCell<HashMap<u32, flume::Sender<Answer>>>,
    next_ask: Cell<u32>,
    draining: Cell<bool>,
}

/// Wakes the one task that waits for it; rung early, it doesn't wait.
#[derive(Debug, Default)]
struct Signal {
    rung: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Signal {
    fn ring(&self) {
        if !self.rung.replace(true)
            && let Some(waker) = self.waker.borrow_mut().take()
        {
            waker.wake();
        }
    }

    async fn wait(&self) {
        std::future::poll_fn(|context| {
            if self.rung.replace(false) {
                return Poll::Ready(());
            }
            *self.waker.borrow_mut() = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

/// What a reactor is made of.
#[derive(Debug)]
pub struct Parts {
    /// What it waits with.
    pub driver: Driver,
    /// The pure state.
    pub shard: Shard,
    /// Its ends of the lanes.
    pub endpoint: Endpoint<Parcel>,
    /// What the control thread says; its sender rings the endpoint's bell.
    pub commands: flume::Receiver<Command>,
    /// The way to whoever does errands, if anyone does.
    pub errands: Option<flume::Sender<ErrandOrder>>,
    /// Its own listeners; the kernel spreads connections over all shards'.
    pub doors: Vec<Door>,
    /// What TLS is served with, if it is.
    pub certificate: Option<Arc<ServerConfig>>,
    /// Shared by all shards.
    pub open_sockets: Arc<OpenSockets>,
    /// Of connections that have just been accepted.
    pub entry: Entry,
    /// The same for all shards.
    pub clock: Clock,
}

impl Reactor {
    /// Puts the parts together.
    pub fn new(parts: Parts) -> Rc<Self> {
        Rc::new(Self {
            metrics: Arc::clone(parts.shard.metrics()),
            entry: parts.entry,
            shard: RefCell::new(parts.shard),
            own: parts.endpoint.own(),
            endpoint: RefCell::new(parts.endpoint),
            commands: parts.commands,
            errands: parts.errands,
            errands_not_done: RefCell::new(Vec::new()),
            turnstile: Turnstile::default(),
            doors: parts.doors.into_iter().map(Rc::new).collect(),
            buffer: RefCell::new(vec![0; RECEIVE_BYTES].into()),
            plain: RefCell::new(Vec::new()),
            certificate: RefCell::new(parts.certificate),
            sockets: RefCell::new(Sockets::default()),
            open_sockets: parts.open_sockets,
            driver: parts.driver,
            clock: parts.clock,
            turn: Signal::default(),
            backend: RefCell::new(HashMap::new()),
            next_ask: Cell::new(0),
            draining: Cell::new(false),
        })
    }

    /// Whether no new connection is taken.
    pub fn is_draining(&self) -> bool {
        self.draining.get()
    }

    /// Lets the shard do something and carries out what follows from it.
    pub fn with<R>(self: &Rc<Self>, work: impl FnOnce(&mut Shard, Now) -> R) -> R {
        self.with_wire(|shard, _, now| work(shard, now))
    }

    /// The same, for work that sends.
    pub fn with_wire<R>(self: &Rc<Self>, work: impl FnOnce(&mut Shard, &mut Sockets, Now) -> R) -> R {
        let (result, needs_turn) = self.act_on(work);
        if needs_turn {
            self.turn.ring();
        }
        result
    }

    /// Lets the shard work and carries out its actions. Returns whether a turn is needed then.
    fn act_on<R>(self: &Rc<Self>, work: impl FnOnce(&mut Shard, &mut Sockets, Now) -> R) -> (R, bool) {
        let now = self.clock.now();
        let mut shard = self.shard.borrow_mut();
        let result = work(&mut shard, &mut self.sockets.borrow_mut(), now);
        let actions = shard.take_actions();
        let needs_turn = shard.has_work() || shard.is_stuck();
        drop(shard);
        conn::act(self, actions);
        (result, needs_turn)
    }

    /// Sees to a turn at a moment of the monotonic clock.
    pub fn turn_at(self: &Rc<Self>, at_ms: u64) {
        let wait = Duration::from_millis(at_ms.saturating_sub(self.clock.now().mono_ms));
        let reactor = Rc::clone(self);
        monoio::spawn(async move {
            monoio::time::sleep(wait).await;
            reactor.turn.ring();
        });
    }

    /// Hands an errand on. The shard is told in its next turn if that can't be.
    pub fn give_errand(&self, number: u32, errand: Errand) {
        let order = ErrandOrder { shard: self.own, number, errand };
        let is_given = self.errands.as_ref().is_some_and(|errands| errands.try_send(order).is_ok());
        if !is_given {
            self.errands_not_done.borrow_mut().push(number);
            self.turn.ring();
        }
    }

    /// Tells in the log what was refused before it came to the shard.
    pub fn tell_refusal(&self, reason: &'static str, client: Peer, detail: impl FnOnce() -> String) {
        let note = RefusalNote { reason, client: Some(client), conn: None, user: None };
        self.entry.refusals.tell(&note, self.clock.now().mono_ms, detail);
    }

    /// A connection's task has ended. Its second, after a panic, may come later and change nothing.
    pub fn closed(self: &Rc<Self>, id: ConnId) {
        self.with(|shard, now| shard.closed(id, now));
        if self.sockets.borrow_mut().remove(id) {
            self.open_sockets.leave();
        }
    }

    /// Serves until it is told to drain and everyone has gone. Calls `begun` as soon as the loop is known to turn.
    ///
    /// # Errors
    /// When the kernel refuses the descriptors that the loop itself needs.
    pub async fn run(self: Rc<Self>, begun: impl FnOnce()) -> io::Result<()> {
        let bell = pollable(self.endpoint.borrow().bell().try_clone_to_owned()?)?;
        let pause = Pause::new(self.driver)?;
        let bell_fd = self.endpoint.borrow().bell().try_clone_to_owned()?;
        monoio::spawn(listen_to_bell(Rc::clone(&self), bell, bell_fd));
        monoio::spawn(keep_time(Rc::clone(&self)));
        let (reactor, looking) = (Rc::clone(&self), Pause::new(self.driver)?);
        monoio::spawn(async move { reactor.turnstile.serve(looking).await });
        for door in &self.doors {
            monoio::spawn(crate::io::listener::accept(Rc::clone(&self), Rc::clone(door)));
        }
        // Through the driver once: it does work on this thread.
        pause.take().await;
        begun();
        self.turns(&pause).await;
        Ok(())
    }

    /// Takes turns until the server has drained.
    async fn turns(self: &Rc<Self>, pause: &Pause) {
        let mut turn = Turn::default();
        let mut deadline = None;
        loop {
            // A ring counts if it comes after this: the turn that follows sees what it was for.
            self.turn.rung.set(false);
            self.obey(&mut deadline);
            let then = self.take_turn(&mut turn, pause).await;
            // The channels that this shard owns are needed until the last subscriber has gone, whoever serves it.
            if deadline.is_some() && self.open_sockets.is_empty() {
                return;
            }
            if let Some(at) = deadline
                && self.clock.now().mono_ms >= at
            {
                return self.cut().await;
            }
            match if self.commands.is_empty() { then } else { AfterTurn::Work } {
                AfterTurn::Work => pause.take().await,
                AfterTurn::Stuck => monoio::time::sleep(STUCK).await,
                AfterTurn::Asleep => self.turn.wait().await,
            }
        }
    }

    async fn take_turn(self: &Rc<Self>, turn: &mut Turn, pause: &Pause) -> AfterTurn {
        loop {
            match self.step(turn) {
                Next::Step => {}
                Next::Yield => pause.take().await,
                Next::Over { answers, then } => {
                    self.answer_backend(answers);
                    return then;
                }
            }
        }
    }

    fn step(self: &Rc<Self>, turn: &mut Turn) -> Next {
        let mut endpoint = self.endpoint.borrow_mut();
        let step =
            |shard: &mut Shard, wire: &mut Sockets, now| turn.step(shard, &mut *endpoint, wire, SENDS_PER_STEP, now);
        self.act_on(step).0
    }

    fn obey(self: &Rc<Self>, deadline: &mut Option<u64>) {
        for number in self.errands_not_done.take() {
            self.with(|shard, _| shard.errand_done(number, ErrandOutcome::NotDone));
        }
        for command in self.commands.try_iter() {
            match command {
                Command::Keys(verifier) => self.with(|shard, _| shard.set_verifier(verifier)),
                Command::Certificate(config) => drop(self.certificate.replace(Some(config))),
                Command::Revoke(revocation, reply) => {
                    let number = self.expect_answer(reply);
                    self.with(|shard, now| shard.revoke(number, &revocation, now));
                }
                Command::Lift(lifted, done) => {
                    self.with(|shard, _| shard.lift(&lifted));
                    // Whoever asked may have stopped waiting.
                    let _ = done.try_send(());
                }
                // Whoever asks now is told that nobody is there any more.
                Command::Ask(..) if self.is_draining() => {}
                Command::Ask(ask, reply) => {
                    let number = self.expect_answer(reply);
                    self.with(|shard, _| shard.ask_for_backend(number, ask));
                }
                Command::Done(number, outcome) => self.with(|shard, _| shard.errand_done(number, outcome)),
                Command::EndWindows => self.with(|shard, now| shard.end_windows(now)),
                Command::Drain(patience) => {
                    self.draining.set(true);
                    for door in &self.doors {
                        // Wakes the accepting task, and peers that come now are told at once that nobody listens.
                        door.shut();
                    }
                    let patience = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX);
                    let now = self.clock.now().mono_ms;
                    deadline.get_or_insert(now.saturating_add(patience));
                    // The other half is the clients', to take what is left and to close.
                    self.with(|shard, now| shard.drain(patience / 2, now));
                }
            }
        }
    }

    /// A number under which the backend's answer will come.
    fn expect_answer(&self, reply: flume::Sender<Answer>) -> u32 {
        let number = self.next_ask.get();
        self.next_ask.set(number.wrapping_add(1));
        self.backend.borrow_mut().insert(number, reply);
        number
    }

    fn answer_backend(&self, answers: Vec<(u32, Answer)>) {
        for (number, answer) in answers {
            if let Some(reply) = self.backend.borrow_mut().remove(&number) {
                // Whoever asked may have stopped waiting.
                let _ = reply.try_send(answer);
            }
        }
    }

    /// The time to say goodbye is over.
    async fn cut(self: &Rc<Self>) {
        self.with(|shard, _| shard.end_all());
        monoio::time::sleep(CUT).await;
    }
}

async fn listen_to_bell(reactor: Rc<Reactor>, bell: UnixStream, fd: OwnedFd) {
    while bell.readable(false).await.is_ok() {
        let mut count = [0; 8];
        // Empty when it had been rung for commands and for parcels, and was read once for both.
        let _ = rustix::io::read(&fd, &mut count);
        reactor.turn.ring();
    }
}

async fn keep_time(reactor: Rc<Reactor>) {
    loop {
        monoio::time::sleep(Duration::from_millis(crate::time::wheel::TICK_MS)).await;
        reactor.with_wire(|shard, wire, now| shard.tick(wire, now));
        if reactor.is_draining() {
            reactor.turn.ring();
        }
    }
}
