//! The control thread's server: the backend's HTTP API on a listener of its own (tokio, axum), apart from the shards so
//! that nothing it does holds one up. This file owns the thread, the connections and their end; `api` has the routes,
//! `input` what requests carry, `fault` what they are refused with, `ledger` what was revoked, `revocations` its list, `owners` the way to the
//! shards.
//! Called by `server`, which starts it after the shards and ends it after them.

mod api;
mod fault;
mod input;
mod ledger;
mod owners;
mod revocations;

use std::io;
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::auth::ApiKeys;
use crate::clock::Clock;
use crate::config::ListenAddr;
use crate::limits::{Guard, Peer};
use crate::log::LostLines;
use crate::metrics::Metrics;
use crate::namespace::Namespaces;
use crate::proto::origin::Origins;
use crate::refusals::RefusalLog;
use api::{State, Watching};
pub use ledger::Ledger;
pub use owners::Owners;

/// Connections at a time; further ones wait in the kernel until one ends.
const CONNECTIONS: usize = 256;
/// Requests at a time; further ones are answered 503.
const REQUESTS: u32 = 128;
/// How much of a request's head or body is read at once, and so the largest head.
const BUFFER_BYTES: usize = 64 * 1024;
/// How long a peer may leave what is sent to it unread.
const UNREAD: Duration = Duration::from_secs(30);
/// How long to wait when the kernel has no descriptor left for a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How long the requests under way are waited for before the shards are told to end, and the connections after.
const FAREWELL: Duration = Duration::from_secs(1);

/// The API's socket.
#[derive(Debug)]
pub enum Listener {
    /// At an address.
    Tcp(TcpListener),
    /// At a path.
    Unix(UnixListener, PathBuf),
}

impl Listener {
    fn addr(&self) -> io::Result<ListenAddr> {
        match self {
            Self::Tcp(listener) => listener.local_addr().map(ListenAddr::Tcp),
            Self::Unix(_, path) => Ok(ListenAddr::Unix(path.clone())),
        }
    }
}

/// The same in the runtime.
enum Accepting {
    Tcp(tokio::net::TcpListener),
    Unix(tokio::net::UnixListener),
}

impl Accepting {
    /// Inside the runtime.
    fn new(listener: &Listener) -> io::Result<Self> {
        match listener {
            Listener::Tcp(listener) => {
                listener.set_nonblocking(true)?;
                tokio::net::TcpListener::from_std(listener.try_clone()?).map(Self::Tcp)
            }
            Listener::Unix(listener, _) => {
                listener.set_nonblocking(true)?;
                tokio::net::UnixListener::from_std(listener.try_clone()?).map(Self::Unix)
            }
        }
    }

    async fn accept(&self) -> io::Result<(ApiStream, Peer)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                Ok((ApiStream::Tcp(stream), Peer::Ip(peer.ip())))
            }
            Self::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                Ok((ApiStream::Unix(stream), Peer::Unix))
            }
        }
    }
}

/// A connection of the API.
enum ApiStream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// What the API is made of.
#[derive(Debug)]
pub struct Parts {
    /// Its socket: bound before anything runs, so that a port that is taken is known in time.
    pub listener: Listener,
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
    /// Where refusals are told.
    pub refusals: Arc<RefusalLog>,
    /// Largest encoded push, in bytes.
    pub push_bytes: usize,
    /// How long a request may take.
    pub request_ms: u64,
    /// How long a peer may take to send a request's head, and stay silent between two requests.
    pub head_ms: u64,
}

/// The running API.
#[derive(Debug)]
pub struct Control {
    addr: ListenAddr,
    state: Arc<State>,
    phase: watch::Sender<Phase>,
    quiet: flume::Receiver<()>,
    thread: JoinHandle<()>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Serving,
    /// New requests are refused; those under way go on.
    Draining,
    Ending,
}

impl Control {
    /// Starts the thread. On return requests are answered.
    ///
    /// # Errors
    /// When the kernel refuses what the thread needs.
    pub fn start(parts: Parts) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
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
            is_open: addr.is_local(),
        };
        let state = Arc::new(State::new(parts, watching));
        let (phase, phases) = watch::channel(Phase::Serving);
        let (idle, quiet) = flume::bounded(1);
        let shared = Arc::clone(&state);
        let body = async move {
            let telling = tell_when_idle(Arc::clone(&shared), phases.clone(), idle);
            let idle = tokio::spawn(telling);
            serve(listener, shared, phases, head).await;
            idle.abort();
        };
        let thread = std::thread::Builder::new().name("control".to_owned()).spawn(move || runtime.block_on(body))?;
        Ok(Self { addr, state, phase, quiet, thread })
    }

    /// Where it listens.
    pub fn addr(&self) -> &ListenAddr {
        &self.addr
    }

    /// Requests are judged by these keys from now on.
    pub fn set_keys(&self, keys: ApiKeys) {
        self.state.set_keys(keys);
    }

    /// Refuses new requests and waits a moment for those under way, while the shards can still answer them.
    pub fn drain(&self, patience: Duration) {
        self.state.drain();
        self.phase.send_replace(Phase::Draining);
        // Either way the shards end next; what is late learns that its outcome is unknown.
        let _ = self.quiet.recv_timeout(patience.min(FAREWELL));
    }

    /// Ends the thread: the shards are gone.
    pub fn stop(self) {
        self.phase.send_replace(Phase::Ending);
        if self.thread.join().is_err() {
            tracing::error!("the control thread failed");
        }
    }
}

async fn tell_when_idle(state: Arc<State>, mut phases: watch::Receiver<Phase>, idle: flume::Sender<()>) {
    let _ = phases.wait_for(|phase| *phase != Phase::Serving).await;
    state.idle().await;
    let _ = idle.try_send(());
}

async fn ending(phases: &mut watch::Receiver<Phase>) {
    // A server that is gone without a word has ended too.
    let _ = phases.wait_for(|phase| *phase == Phase::Ending).await;
}

/// Takes connections until the end, also while draining: a balancer that asks for `/health` is told.
async fn serve(listener: Accepting, state: Arc<State>, mut phases: watch::Receiver<Phase>, head: Duration) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let router = api::router(state);
    let mut open = JoinSet::new();
    let peers = phases.clone();
    loop {
        let next = async {
            let place = Arc::clone(&places).acquire_owned().await;
            (listener.accept().await, place)
        };
        tokio::select! {
            (accepted, place) = next => match accepted {
                Ok((stream, peer)) => {
                    let (router, phases) = (router.clone(), peers.clone());
                    open.spawn(async move {
                        match stream {
                            ApiStream::Tcp(stream) => {
                                // Neither can fail on a TCP socket, and without them it would work too.
                                let _ = stream.set_nodelay(true);
                                let _ = socket2::SockRef::from(&stream).set_tcp_user_timeout(Some(UNREAD));
                                connection(stream, peer, router, phases, head).await;
                            }
                            ApiStream::Unix(stream) => connection(stream, peer, router, phases, head).await,
                        }
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "the API can't take a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(_) = open.join_next() => {}
            () = ending(&mut phases) => break,
        }
    }
    drop(listener);
    let _ = timeout(FAREWELL, async { while open.join_next().await.is_some() {} }).await;
}

async fn connection(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    peer: Peer,
    router: axum::Router,
    mut phases: watch::Receiver<Phase>,
    head: Duration,
) {
    let router = TowerToHyperService::new(router);
    let service = service_fn(|mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(peer);
        router.call(request)
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(head)
        .max_buf_size(BUFFER_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    let mut served = std::pin::pin!(served);
    tokio::select! {
        // What a peer does wrong is its own matter: it has been told in HTTP, or has gone.
        _ = served.as_mut() => return,
        () = ending(&mut phases) => served.as_mut().graceful_shutdown(),
    }
    let _ = served.await;
}
