//! The shards' threads: what each of them starts from, its body, and the way to tell a running shard something. A panic
//! in a shard's loop ends the process, because the other shards cannot go on without the channels that it owned.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustls::ServerConfig;

use crate::auth::{Revocations, Verifier};
use crate::boot::cpus;
use crate::boot::error::BootError;
use crate::io::OpenSockets;
use crate::io::accept::{AcceptSettings, ShardListener};
use crate::io::commands::{ApiOrder, ShardCommand};
use crate::io::driver::Driver;
use crate::io::turns::{LoopParts, ShardLoop};
use crate::mesh::{self, Endpoint, Waker};
use crate::model::errand::ErrandOrder;
use crate::model::parcel::Parcel;
use crate::shard::{Settings, Shard};
use crate::time::clock::Clock;

/// Commands that may wait for one shard. The sending thread blocks while there are more.
const COMMANDS_MAX: usize = 256;
/// How long all shards' loops together may take to turn for the first time.
const START_MAX: Duration = Duration::from_secs(10);

/// What every shard's thread starts from.
pub(super) struct SharedParts {
    pub(super) driver: Driver,
    /// How long a shard asks the kernel for work before it sleeps.
    pub(super) busy_poll: Duration,
    pub(super) settings: Arc<Settings>,
    pub(super) verifier: Arc<Verifier>,
    pub(super) revocations: Revocations,
    /// `None` if TLS is not configured.
    pub(super) certificate: Option<Arc<ServerConfig>>,
    pub(super) open_sockets: Arc<OpenSockets>,
    pub(super) accept: AcceptSettings,
    pub(super) clock: Clock,
    /// The queue to the control thread, which does errands; `None` if the configuration needs none.
    pub(super) errands: Option<flume::Sender<ErrandOrder>>,
    /// The queue to the control thread, which answers slow calls of the API; `None` if there is no API.
    pub(super) calls: Option<flume::Sender<ApiOrder>>,
}

/// A running shard, as the other threads see it.
#[derive(Debug)]
pub(super) struct ShardThread {
    inbox: Inbox,
    thread: JoinHandle<()>,
}

/// The way to tell a shard something from another thread.
#[derive(Clone, Debug)]
pub(super) struct Inbox {
    commands: flume::Sender<ShardCommand>,
    waker: Waker,
}

impl Inbox {
    pub(super) fn tell(&self, command: ShardCommand) {
        // Sending fails only if the shard has ended, and then it needs no commands.
        let _ = self.commands.send(command);
        self.waker.wake();
    }
}

impl ShardThread {
    pub(super) fn tell(&self, command: ShardCommand) {
        self.inbox.tell(command);
    }

    pub(super) fn inbox(&self) -> Inbox {
        self.inbox.clone()
    }

    /// The two ends that `control` sends through.
    pub(super) fn sender(&self) -> (flume::Sender<ShardCommand>, Waker) {
        (self.inbox.commands.clone(), self.inbox.waker.clone())
    }

    pub(super) fn into_thread(self) -> JoinHandle<()> {
        self.thread
    }
}

/// Starts one thread per element of `listeners`, and waits until the loops of all of them turn. `cpus` are those that
/// the threads are pinned to in turn; if it is empty they are not pinned.
///
/// # Errors
/// [`BootError`] if the kernel refuses a thread, or a loop does not begin to turn.
pub(super) fn start(
    shared: &SharedParts,
    listeners: Vec<Vec<ShardListener>>,
    cpus: &[usize],
) -> Result<Vec<ShardThread>, BootError> {
    let count = listeners.len();
    let lanes = mesh::build(count, shared.settings.lane_parcels).map_err(BootError::system("creating the lanes"))?;
    let (ready, started) = mpsc::channel();
    let mut shards = Vec::with_capacity(count);
    for (endpoint, listeners) in lanes.into_iter().zip(listeners) {
        let (commands, received) = flume::bounded(COMMANDS_MAX);
        let waker = endpoint.waker();
        let number = endpoint.own();
        let body = ShardBody {
            driver: shared.driver,
            busy_poll: shared.busy_poll,
            shard: (Arc::clone(&shared.settings), Arc::clone(&shared.verifier), shared.revocations.clone()),
            cpu: cpus.get(number.index() % cpus.len().max(1)).copied(),
            endpoint,
            commands: received,
            listeners,
            certificate: shared.certificate.clone(),
            open_sockets: Arc::clone(&shared.open_sockets),
            accept: shared.accept.clone(),
            clock: shared.clock,
            errands: shared.errands.clone(),
            calls: shared.calls.clone(),
        };
        let ready = ready.clone();
        let thread = std::thread::Builder::new()
            .name(format!("shard-{}", number.0))
            .spawn(move || body.run(&ready))
            .map_err(BootError::system("starting a shard's thread"))?;
        shards.push(ShardThread { inbox: Inbox { commands, waker }, thread });
    }
    drop(ready);
    await_first_turns(&started, count).map_err(|cause| BootError::Driver { driver: shared.driver.name(), cause })?;
    Ok(shards)
}

fn await_first_turns(started: &mpsc::Receiver<io::Result<()>>, count: usize) -> io::Result<()> {
    let latest = Instant::now() + START_MAX;
    for _ in 0..count {
        let turned = started.recv_timeout(latest.saturating_duration_since(Instant::now()));
        turned.unwrap_or_else(|_| {
            Err(io::Error::other(format!("its event loop did not start within {} s", START_MAX.as_secs())))
        })?;
    }
    Ok(())
}

/// What the body of one shard's thread owns.
struct ShardBody {
    driver: Driver,
    busy_poll: Duration,
    /// What the shard itself is made of, on its own thread.
    shard: (Arc<Settings>, Arc<Verifier>, Revocations),
    /// `None` if the thread is not pinned.
    cpu: Option<usize>,
    endpoint: Endpoint<Parcel>,
    commands: flume::Receiver<ShardCommand>,
    listeners: Vec<ShardListener>,
    certificate: Option<Arc<ServerConfig>>,
    open_sockets: Arc<OpenSockets>,
    accept: AcceptSettings,
    clock: Clock,
    errands: Option<flume::Sender<ErrandOrder>>,
    calls: Option<flume::Sender<ApiOrder>>,
}

impl ShardBody {
    fn run(self, ready: &mpsc::Sender<io::Result<()>>) {
        let number = self.endpoint.own().index();
        match catch_unwind(AssertUnwindSafe(|| self.serve(ready))) {
            Ok(Ok(())) => return,
            // An error comes from the runtime's start only; `start` waits for it there.
            Ok(Err(cause)) => {
                if ready.send(Err(cause)).is_ok() {
                    return;
                }
            }
            Err(_) => {}
        }
        // Written directly: the logging thread would not run any more after `abort`.
        eprintln!("uringcast: the loop of shard {number} failed, so the process ends");
        std::process::abort();
    }

    fn serve(self, ready: &mpsc::Sender<io::Result<()>>) -> io::Result<()> {
        if let Some(cpu) = self.cpu
            && let Err(error) = cpus::pin(cpu)
        {
            tracing::warn!(%error, cpu, "this shard cannot be pinned to a CPU");
        }
        let driver = self.driver;
        driver.serve(|| async move {
            let (settings, verifier, revocations) = self.shard;
            let mut shard = Shard::new(self.endpoint.own(), settings, verifier, rand::random());
            shard.set_revocations(revocations);
            let shard_loop = ShardLoop::new(LoopParts {
                driver,
                busy_poll: self.busy_poll,
                shard,
                endpoint: self.endpoint,
                commands: self.commands,
                errands: self.errands,
                calls: self.calls,
                listeners: self.listeners,
                certificate: self.certificate,
                open_sockets: self.open_sockets,
                accept: self.accept,
                clock: self.clock,
            })?;
            let begun = || drop(ready.send(Ok(())));
            shard_loop.run(begun).await
        })
    }
}
