//! The API's connections: taken from the kernel, given a place each, served by hyper and ended. What a request means is
//! `api`'s to say; who gives way when there are too many, `places` says. Called by `mod`.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::timeout_at;

use super::Phase;
use super::counts::{ApiBound, ApiCounts};
use super::places::{Places, Room};
use super::sockets::{Accepting, ApiStream};
use crate::io::listener::is_shortage;
use crate::limits::refusals::{RefusalLog, RefusalNote};
use crate::limits::{Address, Peer};
use crate::time::clock::Clock;

/// How much of a request's head or body is read at once, and so the largest head.
const BUFFER_BYTES: usize = 64 * 1024;
/// How long nothing is accepted when the kernel has no descriptor or memory left for a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What the end of a connection is told by, and who it is.
#[derive(Clone, Debug)]
struct End {
    told: Arc<Notify>,
    peer: Peer,
}

/// The places of all connections, and what is counted of them.
#[derive(Debug)]
pub struct Seats {
    places: Mutex<Places<End>>,
    /// What the API counts.
    pub counts: ApiCounts,
    refusals: Arc<RefusalLog>,
    clock: Clock,
}

impl Seats {
    /// All of them free.
    pub fn new(room: Room, refusals: Arc<RefusalLog>, clock: Clock) -> Arc<Self> {
        Arc::new(Self { places: Mutex::new(Places::new(room)), counts: ApiCounts::default(), refusals, clock })
    }

    /// How many connections there are.
    pub fn connections(&self) -> usize {
        self.places().count()
    }

    fn places(&self) -> MutexGuard<'_, Places<End>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now_ms(&self) -> u64 {
        self.clock.now().mono_ms
    }

    fn enter(self: &Arc<Self>, peer: Peer) -> (Seat, Arc<Notify>) {
        let (told, address) = (Arc::new(Notify::new()), Address::of(peer));
        let (number, gone) = self.places().enter(address, self.now_ms(), End { told: Arc::clone(&told), peer });
        self.send_away(gone, ApiBound::Stranger, || "its place went to a newer connection".to_owned());
        (Seat { of: Arc::clone(self), number, peer }, told)
    }

    fn send_away(&self, gone: Option<End>, bound: ApiBound, why: impl FnOnce() -> String) {
        let Some(End { told, peer }) = gone else { return };
        told.notify_one();
        self.reached(bound, Some(peer), why);
    }

    fn reached(&self, bound: ApiBound, client: Option<Peer>, why: impl FnOnce() -> String) {
        self.counts.count(bound);
        let note = RefusalNote { reason: bound.name(), client, conn: None, user: None };
        self.refusals.tell(&note, self.now_ms(), why);
    }

    /// No connection can be taken.
    fn ran_out(&self, error: &io::Error) {
        self.reached(ApiBound::Descriptors, None, || format!("no connection can be taken: {error}"));
        // It makes room; the newcomer is taken next time.
        let gone = self.places().free_one();
        self.send_away(gone, ApiBound::Descriptors, || "its descriptor is for a newer connection".to_owned());
    }
}

/// One connection's place; its requests carry it.
#[derive(Clone, Debug)]
pub struct Seat {
    of: Arc<Seats>,
    number: u64,
    peer: Peer,
}

impl Seat {
    /// Where the connection comes from.
    pub fn peer(&self) -> Peer {
        self.peer
    }

    /// The connection has brought a valid key.
    pub fn recognize(&self) {
        let gone = self.of.places().recognize(self.number);
        self.of.send_away(gone, ApiBound::Idle, || "its place went to another connection with a key".to_owned());
    }

    /// The connection's request is with the shards as long as this lives.
    pub fn busy(&self) -> Busy {
        self.of.places().set_busy(self.number, true);
        Busy(self.clone())
    }
}

/// A request that is with the shards.
#[derive(Debug)]
pub struct Busy(Seat);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.of.places().set_busy(self.0.number, false);
    }
}

/// A socket that tells its place of what the peer takes.
#[derive(Debug)]
struct Watched {
    stream: ApiStream,
    seat: Seat,
}

impl Watched {
    fn moved(&self, sent: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if matches!(sent, Poll::Ready(Ok(_))) {
            self.seat.of.places().moved(self.seat.number, self.seat.of.now_ms());
        }
        sent
    }
}

impl AsyncRead for Watched {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, to)
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let sent = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.moved(sent)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let sent = Pin::new(&mut self.stream).poll_write_vectored(cx, pieces);
        self.moved(sent)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Takes connections until the end, also while draining: a balancer that asks for `/health` is told.
pub async fn serve(
    listener: Accepting,
    router: axum::Router,
    seats: Arc<Seats>,
    mut phases: watch::Receiver<Phase>,
    head: Duration,
) {
    let mut open = JoinSet::new();
    let peers = phases.clone();
    let until = loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    let (seat, end) = seats.enter(peer);
                    open.spawn(connection(Watched { stream, seat }, end, router.clone(), peers.clone(), head));
                    // Whoever gave way lets go of its descriptor before the next one comes.
                    tokio::task::yield_now().await;
                }
                Err(error) if rustix::io::Errno::from_io_error(&error).is_some_and(is_shortage) => {
                    seats.ran_out(&error);
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
                Err(error) => tracing::debug!(%error, "accept"),
            },
            Some(_) = open.join_next() => {}
            until = ending(&mut phases) => break until,
        }
    };
    drop(listener);
    // Answers that are still being read have until then.
    let _ = timeout_at(until, async { while open.join_next().await.is_some() {} }).await;
}

/// Waits for the end. Returns when all has to be over.
async fn ending(phases: &mut watch::Receiver<Phase>) -> tokio::time::Instant {
    match phases.wait_for(|phase| matches!(phase, Phase::Ending(_))).await.as_deref() {
        Ok(Phase::Ending(until)) => (*until).into(),
        // A server that is gone without a word has ended too.
        _ => tokio::time::Instant::now(),
    }
}

async fn connection(
    watched: Watched,
    end: Arc<Notify>,
    router: axum::Router,
    mut phases: watch::Receiver<Phase>,
    head: Duration,
) {
    let seat = watched.seat.clone();
    let _leaves = Leaves(seat.clone());
    let routes = TowerToHyperService::new(router);
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(seat.clone());
        routes.call(request)
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(head)
        .max_buf_size(BUFFER_BYTES)
        // Who has said all it wants to say is still answered.
        .half_close(true)
        .serve_connection(TokioIo::new(watched), service);
    let mut served = std::pin::pin!(served);
    tokio::select! {
        // What a peer does wrong is its own matter: it has been told in HTTP, or has gone.
        _ = served.as_mut() => return,
        () = end.notified() => return,
        _ = ending(&mut phases) => served.as_mut().graceful_shutdown(),
    }
    let _ = served.await;
}

/// Gives a place back when its connection's task ends, however it ends.
struct Leaves(Seat);

impl Drop for Leaves {
    fn drop(&mut self) {
        self.0.of.places().leave(self.0.number);
    }
}
