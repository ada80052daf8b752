//! The API's connections: accepts them, gives each a place, serves it with hyper and ends it. `routes` answers the
//! requests, and `places` decides which connection gives way when there are too many.

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

use super::counts::{ApiBound, ApiCounts};
use super::places::{ApiPlaces, ApiRoom};
use super::sockets::{Accepting, ApiStream};
use crate::control::phase::Phase;
use crate::io::accept::is_shortage;
use crate::limits::refusals::{RefusalLog, RefusalNote};
use crate::limits::{Address, Peer};
use crate::time::clock::Clock;

/// The most bytes that are read at once, and so the largest head of a request.
const BUFFER_BYTES: usize = 64 * 1024;
/// How long nothing is accepted after the kernel had no descriptor or memory for a new connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What ends a connection, and its peer for the log.
#[derive(Clone, Debug)]
struct End {
    told: Arc<Notify>,
    peer: Peer,
}

/// The places of all connections, with the API's counters and log.
#[derive(Debug)]
pub(crate) struct Seats {
    places: Mutex<ApiPlaces<End>>,
    /// The API's own metrics.
    pub(crate) counts: ApiCounts,
    refusals: Arc<RefusalLog>,
    clock: Clock,
}

impl Seats {
    /// No place is taken yet.
    pub(crate) fn new(room: ApiRoom, refusals: Arc<RefusalLog>, clock: Clock) -> Arc<Self> {
        Arc::new(Self { places: Mutex::new(ApiPlaces::new(room)), counts: ApiCounts::default(), refusals, clock })
    }

    /// The number of open connections.
    pub(crate) fn connections(&self) -> usize {
        self.places().count()
    }

    fn places(&self) -> MutexGuard<'_, ApiPlaces<End>> {
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

    /// The kernel has no descriptor or memory for a new connection.
    fn ran_out(&self, error: &io::Error) {
        self.reached(ApiBound::Descriptors, None, || format!("no connection can be taken: {error}"));
        // The new connection stays in the backlog and is accepted after the pause.
        let gone = self.places().free_one();
        self.send_away(gone, ApiBound::Descriptors, || "its descriptor is for a newer connection".to_owned());
    }
}

/// One connection's place. Each of its requests carries a copy as an extension.
#[derive(Clone, Debug)]
pub(crate) struct Seat {
    of: Arc<Seats>,
    number: u64,
    peer: Peer,
}

impl Seat {
    /// The peer at the other end of the connection.
    pub(crate) fn peer(&self) -> Peer {
        self.peer
    }

    /// Marks the connection as one that has brought a valid key.
    pub(crate) fn recognize(&self) {
        let gone = self.of.places().recognize(self.number);
        self.of.send_away(gone, ApiBound::Idle, || "its place went to another connection with a key".to_owned());
    }

    /// Marks that a request of the connection waits for shards, until the returned value is dropped.
    pub(crate) fn busy(&self) -> Busy {
        self.of.places().set_busy(self.number, true);
        Busy(self.clone())
    }
}

/// A request that waits for shards. Its connection does not give way to another.
#[derive(Debug)]
pub(crate) struct Busy(Seat);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.of.places().set_busy(self.0.number, false);
    }
}

/// A socket that notes in its place when the peer takes bytes.
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

/// Accepts and serves connections until the phase is `Ending`. It goes on while the server drains, so that a load
/// balancer that asks for `/health` gets its answer.
pub(crate) async fn serve(
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
                    // The connection that gave way closes its descriptor before the next one is accepted.
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
    // Responses that are still being sent have until then.
    let _ = timeout_at(until, async { while open.join_next().await.is_some() {} }).await;
}

/// Waits for the phase `Ending`. Returns the moment at which every connection must have ended.
async fn ending(phases: &mut watch::Receiver<Phase>) -> tokio::time::Instant {
    match phases.wait_for(|phase| matches!(phase, Phase::Ending(_))).await.as_deref() {
        Ok(Phase::Ending(until)) => (*until).into(),
        // The sender is gone: the server has ended.
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
    let _leaves = LeavesOnDrop(seat.clone());
    let routes = TowerToHyperService::new(router);
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(seat.clone());
        routes.call(request)
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(head)
        .max_buf_size(BUFFER_BYTES)
        // A peer that has closed its direction still gets its response.
        .half_close(true)
        .serve_connection(TokioIo::new(watched), service);
    let mut served = std::pin::pin!(served);
    tokio::select! {
        // An error here is the peer's: it got a response from hyper, or it has gone.
        _ = served.as_mut() => return,
        () = end.notified() => return,
        _ = ending(&mut phases) => served.as_mut().graceful_shutdown(),
    }
    let _ = served.await;
}

/// Gives a place back when its connection's task ends, however it ends.
struct LeavesOnDrop(Seat);

impl Drop for LeavesOnDrop {
    fn drop(&mut self) {
        self.0.of.places().leave(self.0.number);
    }
}
