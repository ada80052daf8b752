//! The loop of one shard's thread. It obeys commands, takes turns and sleeps between them. A turn's order stands in
//! `shard::turn`; a turn runs behind the readers that are ready, so that it takes in what is already there before it
//! sends. `boot` builds one [`ShardLoop`] per thread.

use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use monoio::net::UnixStream;
use rustls::ServerConfig;

use crate::api::error::ApiError;
use crate::io::accept::{AcceptSettings, Acceptor, ShardListener};
use crate::io::commands::{ApiOrder, AwaitedAnswers, ShardCommand};
use crate::io::core::{Core, CoreParts};
use crate::io::driver::{Driver, Pause, pollable};
use crate::io::sockets::{OpenSockets, Sockets};
use crate::io::tasks;
use crate::mesh::Endpoint;
use crate::model::errand::{ErrandOrder, ErrandOutcome};
use crate::model::parcel::Parcel;
use crate::shard::Shard;
use crate::shard::turn::{AfterTurn, Next, SENDS_PER_STEP, Turn};
use crate::time::clock::{Clock, stopwatch_ns};
use crate::time::wheel::TICK_MS;

/// How often a shard looks whether another's lane has room again, if it has nothing else to do.
const STUCK: Duration = Duration::from_millis(1);
/// A tick that comes this long after the last one is late, for example because the process was stopped.
const LATE_MS: u64 = 3 * TICK_MS;
/// How long connections that were cut at the end of a drain may take to end.
const CUT: Duration = Duration::from_millis(200);

/// What a shard's thread is made of.
#[derive(Debug)]
pub(crate) struct LoopParts {
    /// The driver that the thread waits with.
    pub(crate) driver: Driver,
    /// How long the thread asks the kernel for work before it sleeps.
    pub(crate) busy_poll: Duration,
    /// The pure shard that this thread drives.
    pub(crate) shard: Shard,
    /// The shard's ends of the lanes to and from the other shards.
    pub(crate) endpoint: Endpoint<Parcel>,
    /// What other threads tell the shard. A sender calls the endpoint's `Waker` after each command.
    pub(crate) commands: flume::Receiver<ShardCommand>,
    /// The queue to the control thread, which does errands; `None` if the configuration needs none.
    pub(crate) errands: Option<flume::Sender<ErrandOrder>>,
    /// The queue to the control thread, which answers slow calls of the API; `None` if there is no API.
    pub(crate) calls: Option<flume::Sender<ApiOrder>>,
    /// The shard's own listeners.
    pub(crate) listeners: Vec<ShardListener>,
    /// What TLS is served with; `None` if TLS is not configured.
    pub(crate) certificate: Option<Arc<ServerConfig>>,
    /// The count of sockets that all shards share.
    pub(crate) open_sockets: Arc<OpenSockets>,
    /// Settings for connections that have just been accepted.
    pub(crate) accept: AcceptSettings,
    /// The clock of the whole process.
    pub(crate) clock: Clock,
}

/// The loop of one shard's thread.
pub(crate) struct ShardLoop {
    core: Rc<Core>,
    driver: Driver,
    busy_poll: Duration,
    endpoint: Endpoint<Parcel>,
    commands: flume::Receiver<ShardCommand>,
    answers: AwaitedAnswers,
    listeners: Vec<Rc<ShardListener>>,
    accept: Rc<AcceptSettings>,
    /// The end of the drain, in milliseconds of the monotonic clock; `None` before a drain.
    deadline_ms: Option<u64>,
}

impl ShardLoop {
    /// Puts the parts together.
    ///
    /// # Errors
    /// When the kernel refuses the descriptors that the shard itself needs.
    pub(crate) fn new(parts: LoopParts) -> io::Result<Self> {
        let core = Core::new(CoreParts {
            shard: parts.shard,
            own: parts.endpoint.own(),
            certificate: parts.certificate,
            open_sockets: parts.open_sockets,
            errands: parts.errands,
            calls: parts.calls,
            clock: parts.clock,
        })?;
        Ok(Self {
            core,
            driver: parts.driver,
            busy_poll: parts.busy_poll,
            endpoint: parts.endpoint,
            commands: parts.commands,
            answers: AwaitedAnswers::default(),
            listeners: parts.listeners.into_iter().map(Rc::new).collect(),
            accept: Rc::new(parts.accept),
            deadline_ms: None,
        })
    }

    /// Serves until it is told to drain and every connection has ended. Calls `begun` once the loop is known to turn.
    ///
    /// # Errors
    /// When the kernel refuses the descriptors that the loop itself needs.
    pub(crate) async fn run(mut self, begun: impl FnOnce()) -> io::Result<()> {
        let bell = pollable(self.endpoint.bell().try_clone_to_owned()?)?;
        let bell_fd = self.endpoint.bell().try_clone_to_owned()?;
        let pause = Pause::new(self.driver)?;
        monoio::spawn(listen_to_bell(Rc::clone(&self.core), bell, bell_fd));
        monoio::spawn(keep_time(Rc::clone(&self.core)));
        let readiness = pollable(self.core.sockets().readiness()?)?;
        monoio::spawn(tasks::serve(Rc::clone(&self.core), readiness, !self.busy_poll.is_zero()));
        monoio::spawn(tasks::resume(Rc::clone(&self.core)));
        let (core, looking) = (Rc::clone(&self.core), Pause::new(self.driver)?);
        monoio::spawn(async move { core.turnstile().serve(looking).await });
        for listener in &self.listeners {
            let acceptor = Acceptor::new(Rc::clone(&self.core), Rc::clone(&self.accept), Rc::clone(listener));
            monoio::spawn(acceptor.run());
        }
        // Once through the driver: this proves that the driver works on this thread.
        pause.take().await;
        begun();
        self.take_turns(&pause).await;
        Ok(())
    }

    /// Takes turns until the server has drained.
    async fn take_turns(&mut self, pause: &Pause) {
        let mut turn = Turn::default();
        loop {
            // Earlier rings may be forgotten: the turn that begins here sees what they were for.
            self.core.turn_signal().clear();
            self.obey();
            let then = self.take_turn(&mut turn, pause).await;
            // Other shards' connections need the channels that this shard owns, so it waits for all of them.
            if self.deadline_ms.is_some()
                && self.core.open_sockets().count() == 0
                && !self.core.with(|shard, _| shard.owes_api())
            {
                return;
            }
            if self.deadline_ms.is_some_and(|at_ms| self.core.now().mono_ms >= at_ms) {
                return self.cut().await;
            }
            // Looked at after the shard has said that it falls asleep: see `mesh::Waker::wake`.
            match if self.commands.is_empty() { then } else { AfterTurn::Work } {
                AfterTurn::Work => pause.take().await,
                AfterTurn::Stuck => monoio::time::sleep(STUCK).await,
                AfterTurn::Asleep => self.sleep(pause).await,
            }
        }
    }

    /// Waits for a reason to take a turn. With `busy_poll_us` the thread asks the kernel for work that long, before it
    /// lets the kernel put it to sleep.
    async fn sleep(&self, pause: &Pause) {
        let signal = self.core.turn_signal();
        if !self.busy_poll.is_zero() {
            let end_ns = stopwatch_ns() + u64::try_from(self.busy_poll.as_nanos()).unwrap_or(u64::MAX);
            while !signal.is_rung() && stopwatch_ns() < end_ns {
                pause.take().await;
            }
        }
        signal.wait().await;
    }

    async fn take_turn(&mut self, turn: &mut Turn, pause: &Pause) -> AfterTurn {
        loop {
            match self.step(turn) {
                Next::Step => {}
                Next::Yield => pause.take().await,
                Next::Over { answers, then } => {
                    self.answers.deliver(answers);
                    return then;
                }
            }
        }
    }

    fn step(&mut self, turn: &mut Turn) -> Next {
        let endpoint = &mut self.endpoint;
        let step = |shard: &mut Shard, wire: &mut Sockets, now| turn.step(shard, endpoint, wire, SENDS_PER_STEP, now);
        self.core.act_on(step).0
    }

    /// Does what other threads have told the shard.
    fn obey(&mut self) {
        for number in self.core.take_refused_errands() {
            self.core.with(|shard, _| shard.errand_done(number, ErrandOutcome::NotDone));
        }
        for number in self.core.take_refused_calls() {
            self.core.with(|shard, now| shard.control_answered(number, Err(ApiError::busy()), now));
        }
        while let Ok(command) = self.commands.try_recv() {
            match command {
                ShardCommand::Keys(verifier) => self.core.with(|shard, _| shard.set_verifier(verifier)),
                ShardCommand::Certificate(config) => self.core.set_certificate(config),
                ShardCommand::Revoke(revocation, reply) => {
                    let number = self.answers.expect(reply);
                    self.core.with(|shard, now| shard.revoke(number, &revocation, now));
                }
                ShardCommand::Lift(lifted, done) => {
                    self.core.with(|shard, _| shard.lift(&lifted));
                    // Fails if the asker has stopped waiting.
                    let _ = done.try_send(());
                }
                ShardCommand::ApiKeys(keys, done) => {
                    self.core.with(|shard, _| shard.set_api_keys(keys));
                    // Fails if the asker has stopped waiting.
                    let _ = done.try_send(());
                }
                ShardCommand::Answered(number, answer) => {
                    self.core.with(|shard, now| shard.control_answered(number, answer, now));
                }
                ShardCommand::DrainApi(done) => {
                    self.core.with(|shard, now| shard.drain_api(now));
                    // Fails if the asker has stopped waiting.
                    let _ = done.try_send(());
                }
                ShardCommand::IsApiIdle(reply) => {
                    let is_idle = self.core.with(|shard, _| shard.is_api_idle());
                    // Fails if the asker has stopped waiting.
                    let _ = reply.try_send(is_idle);
                }
                ShardCommand::Done(number, outcome) => self.core.with(|shard, _| shard.errand_done(number, outcome)),
                ShardCommand::EndWindows => self.core.with(|shard, now| shard.end_windows(now)),
                ShardCommand::Drain(patience) => self.drain(patience),
            }
        }
    }

    fn drain(&mut self, patience: Duration) {
        self.core.set_draining();
        self.listeners.iter().filter(|listener| !listener.is_api()).for_each(|listener| listener.shut());
        let patience_ms = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX);
        let end_ms = self.core.now().mono_ms.saturating_add(patience_ms);
        self.deadline_ms.get_or_insert(end_ms);
        // The shard has half of the time to say goodbye. The clients have the rest to read it and to close.
        self.core.with(|shard, now| shard.drain(patience_ms / 2, now));
    }

    /// Cuts the connections that are left when the time of a drain is over.
    async fn cut(&self) {
        self.core.with(|shard, _| shard.end_all());
        monoio::time::sleep(CUT).await;
    }
}

/// Asks for a turn when another thread rings the bell.
async fn listen_to_bell(core: Rc<Core>, bell: UnixStream, fd: OwnedFd) {
    while bell.readable(false).await.is_ok() {
        let mut count = [0; 8];
        // Resets the bell. It is 0 already if one read covered two rings.
        let _ = rustix::io::read(&fd, &mut count);
        core.turn_signal().ring();
    }
}

/// Tells the shard the time on each tick.
async fn keep_time(core: Rc<Core>) {
    loop {
        let before_ms = core.now().mono_ms;
        monoio::time::sleep(Duration::from_millis(TICK_MS)).await;
        if core.now().mono_ms - before_ms > LATE_MS {
            tasks::catch_up(&core);
        }
        core.with_wire(|shard, wire, now| shard.tick(wire, now));
        if core.is_draining() {
            core.turn_signal().ring();
        }
    }
}
