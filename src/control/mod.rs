//! The control thread: everything slow, on tokio, apart from the shards so that nothing it does holds one up. It serves the
//! backend's HTTP API on a listener of its own (axum), and does the shards' errands. It runs if one of the two is
//! configured. This file owns the thread and its end; `errands` does errands, `key_set` has the keys that were fetched
//! from `auth.jwks_url`, `fetch` fetches them. Of the API `sockets` has where it listens,
//! `connections` who is connected, `places` who may stay, `api` the routes, `bodies` what requests bring and may take,
//! `input` what they say, `fields` how it is read, `hosts` whom they are meant for, `fault` what they are refused with,
//! `ledger` what was revoked, `revocations` its list, `owners` the way to the shards, `counts` the API's own numbers.
//! Called by `server`, which starts it after the shards and ends it after them.

mod api;
mod bodies;
mod connections;
mod counts;
mod errands;
mod fault;
mod fetch;
mod fields;
mod hosts;
mod input;
mod key_set;
mod ledger;
mod owners;
mod places;
mod revocations;
mod sockets;

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::auth::ApiKeys;
use crate::config::ListenAddr;
use crate::limits::Guard;
use crate::limits::refusals::RefusalLog;
use crate::log::LostLines;
use crate::metrics::Metrics;
use crate::model::namespace::Namespaces;
use crate::time::clock::Clock;
use crate::wire::origin::Origins;
use api::{State, Watching};
use connections::Seats;
use errands::Errands;
pub use errands::{ConfiguredKeys, ErrandParts};
pub use fetch::Source;
use hosts::Hosts;
pub use key_set::KeySetCounts;
pub use ledger::Ledger;
pub use owners::Owners;
pub use places::Room;
use sockets::Accepting;
pub use sockets::Listener;

/// How long connections have at least, once the shards are gone, to send what was answered.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// What the API is made of.
#[derive(Debug)]
pub struct Parts {
    /// Its socket: bound before anything runs, so that a port that is taken is known in time.
    pub listener: Listener,
    /// How many connections and requests there may be.
    pub room: Room,
    /// The names that it is asked under, beside this machine's.
    pub hosts: Vec<String>,
    /// Which pages may ask from a browser.
    pub cors: Origins,
    /// Who may ask.
    pub keys: ApiKeys,
    /// The shards.
    pub owners: Owners,
    /// What was revoked.
    pub ledger: Ledger,
    /// How long a revocation is kept that doesn't say.
    pub revocations_kept_ms: u64,
    /// The same for all threads.
    pub clock: Clock,
    /// Which channels there can be.
    pub namespaces: Arc<Namespaces>,
    /// Knows how many connections the shards have.
    pub guard: Arc<Guard>,
    /// What the shards count.
    pub metrics: Metrics,
    /// How many log lines were lost.
    pub lost: LostLines,
    /// What is counted of `auth.jwks_url`, if it is configured.
    pub key_set: Option<Arc<KeySetCounts>>,
    /// Where refusals are told.
    pub refusals: Arc<RefusalLog>,
    /// Largest encoded push, in bytes.
    pub push_bytes: usize,
    /// How long a request may take.
    pub request_ms: u64,
    /// How long a peer may take to send a request's head, and stay silent between two requests.
    pub head_ms: u64,
}

/// The running control thread.
#[derive(Debug)]
pub struct Control {
    api: Option<RunningApi>,
    /// Takes the keys of the configuration that were read anew, if there are errands.
    configured: Option<flume::Sender<ConfiguredKeys>>,
    phase: watch::Sender<Phase>,
    thread: JoinHandle<()>,
}

/// The API, as the thread that started it sees it.
#[derive(Debug)]
struct RunningApi {
    addr: ListenAddr,
    state: Arc<State>,
    quiet: flume::Receiver<()>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Serving,
    /// New requests are refused; those under way go on.
    Draining,
    /// Connections end, at this moment at the latest.
    Ending(Instant),
}

impl Control {
    /// Starts the thread. On return requests to the API are answered, and errands are done.
    ///
    /// # Errors
    /// When the kernel refuses what the thread needs.
    pub fn start(api: Option<Parts>, errands: Option<ErrandParts>) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (phase, phases) = watch::channel(Phase::Serving);
        let (configured, errands) = match errands {
            Some(parts) => {
                let (configured, receiver) = flume::unbounded();
                (Some(configured), Some(Errands::new(parts, receiver)))
            }
            None => (None, None),
        };
        let (api, serve_api) = match api {
            Some(parts) => {
                let (running, serve) = prepare(parts, phases.clone(), &runtime)?;
                (Some(running), Some(serve))
            }
            None => (None, None),
        };
        let body = async move {
            let errands = errands.map(|errands| tokio::spawn(errands.serve()));
            match serve_api {
                Some(serve) => serve.await,
                None => drop(phases.clone().wait_for(|phase| matches!(phase, Phase::Ending(_))).await),
            }
            if let Some(errands) = errands {
                errands.abort();
            }
        };
        let thread = std::thread::Builder::new().name("control".to_owned()).spawn(move || runtime.block_on(body))?;
        Ok(Self { api, configured, phase, thread })
    }

    /// Where the API listens, if it runs.
    pub fn api_addr(&self) -> Option<&ListenAddr> {
        self.api.as_ref().map(|api| &api.addr)
    }

    /// The API's requests are judged by these keys from now on.
    pub fn set_keys(&self, keys: ApiKeys) {
        if let Some(api) = &self.api {
            api.state.set_keys(keys);
        }
    }

    /// The keys of the configuration were read anew: they reach the shards with the fetched ones, which are fetched again.
    pub fn configure_keys(&self, keys: ConfiguredKeys) {
        if let Some(configured) = &self.configured {
            // Fails only if the thread has ended, and with it the server.
            let _ = configured.send(keys);
        }
    }

    /// Refuses new requests from now on.
    pub fn drain(&self) {
        self.phase.send_replace(Phase::Draining);
    }

    /// Waits until those under way have been answered, while the shards can still do it.
    pub fn wait_until_idle(&self, patience: Duration) {
        if let Some(api) = &self.api {
            // Either way the shards end next; what is late learns that its outcome is unknown.
            let _ = api.quiet.recv_timeout(patience);
        }
    }

    /// Ends the thread: the shards are gone. Peers may go on reading what they were answered until the given moment.
    pub fn stop(self, until: Instant) {
        self.phase.send_replace(Phase::Ending(until.max(Instant::now() + LAST_WORDS)));
        if self.thread.join().is_err() {
            tracing::error!("the control thread failed");
        }
    }
}

/// The API, and the future that serves it.
fn prepare(
    parts: Parts,
    phases: watch::Receiver<Phase>,
    runtime: &tokio::runtime::Runtime,
) -> io::Result<(RunningApi, impl Future<Output = ()> + Send + use<>)> {
    let Parts { listener, head_ms, .. } = &parts;
    let head = Duration::from_millis(*head_ms);
    let addr = listener.addr()?;
    let listener = {
        let _inside = runtime.enter();
        Accepting::new(listener)?
    };
    let watching = Watching {
        guard: Arc::clone(&parts.guard),
        metrics: parts.metrics.clone(),
        lost: parts.lost.clone(),
        key_set: parts.key_set.clone(),
        is_open: addr.is_local(),
    };
    // No browser gets to a unix socket.
    let is_loopback = watching.is_open && matches!(addr, ListenAddr::Tcp(_));
    let (room, clock, hosts) = (parts.room, parts.clock, Hosts::new(is_loopback, parts.hosts.clone()));
    let seats = Seats::new(room, Arc::clone(&parts.refusals), clock);
    let state = Arc::new(State::new(parts, watching, hosts, room, Arc::clone(&seats), phases.clone()));
    let (idle, quiet) = flume::bounded(1);
    let shared = Arc::clone(&state);
    let serve = async move {
        let idle = tokio::spawn(tell_when_idle(Arc::clone(&shared), phases.clone(), idle));
        connections::serve(listener, api::router(shared), seats, phases, head).await;
        idle.abort();
    };
    Ok((RunningApi { addr, state, quiet }, serve))
}

async fn tell_when_idle(state: Arc<State>, mut phases: watch::Receiver<Phase>, idle: flume::Sender<()>) {
    let _ = phases.wait_for(|phase| *phase != Phase::Serving).await;
    state.idle().await;
    let _ = idle.try_send(());
}
