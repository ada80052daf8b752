//! What all requests of the API share: its keys, its bounds, and the way to the shards. A route asks the owner of a
//! channel through [`ApiState::ask`], and gets an answer or an error within the request's deadline.

use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use axum::extract::{Query, Request};
use axum::http::HeaderMap;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::bodies::{Bodies, HeldBody};
use super::connections::{Busy, Seat, Seats};
use super::counts::{ApiBound, ApiSnapshot};
use super::places::{ApiRoom, Share, Shares};
use super::sockets::ApiListener;
use crate::api::error::ApiError;
use crate::api::hosts::Hosts;
use crate::auth::{ApiKeys, Lifted, Revocation};
use crate::config::ListenAddr;
use crate::control::key_set::KeySetCounts;
use crate::control::ledger::Ledger;
use crate::control::owners::{NotAsked, Owners};
use crate::control::phase::Phase;
use crate::limits::refusals::RefusalLog;
use crate::limits::{Address, Guard};
use crate::log::LostLines;
use crate::metrics::Metrics;
use crate::model::channel_name::is_channel_name;
use crate::model::namespace::Namespaces;
use crate::model::parcel::{Answer, Ask};
use crate::model::text::Text;
use crate::time::clock::{Clock, Now};
use crate::wire::origin::Origins;

/// How long a request's body may still take to arrive after the server was told to end.
const LAST_BODY: Duration = Duration::from_millis(500);

/// What the API is made of.
#[derive(Debug)]
pub(crate) struct ApiParts {
    /// The API's socket. It is bound before any thread runs, so that a port that is taken ends the start.
    pub(crate) listener: ApiListener,
    /// How many connections and requests there may be at a time.
    pub(crate) room: ApiRoom,
    /// Host names under which the API answers without a key, beside those of this machine.
    pub(crate) hosts: Vec<String>,
    /// The origins whose pages may use the API from a browser.
    pub(crate) cors: Origins,
    /// The keys that requests must bring.
    pub(crate) keys: ApiKeys,
    /// The way to the shards.
    pub(crate) owners: Owners,
    /// The revocations in force.
    pub(crate) ledger: Ledger,
    /// How long a revocation is kept whose request does not say, in milliseconds.
    pub(crate) revocations_kept_ms: u64,
    /// The clock of the whole process.
    pub(crate) clock: Clock,
    /// The rules of all channels.
    pub(crate) namespaces: Arc<Namespaces>,
    /// Knows how many connections the shards have.
    pub(crate) guard: Arc<Guard>,
    /// The metrics of all shards.
    pub(crate) metrics: Metrics,
    /// Counts log lines that were dropped.
    pub(crate) lost: LostLines,
    /// The metrics of `auth.jwks_url`; `None` if it is not configured.
    pub(crate) key_set: Option<Arc<KeySetCounts>>,
    /// The log of refused requests.
    pub(crate) refusals: Arc<RefusalLog>,
    /// The largest encoded push, in bytes.
    pub(crate) push_bytes: usize,
    /// How long a request may take, in milliseconds.
    pub(crate) request_ms: u64,
    /// How long a peer may take to send a request's head, and stay silent between two requests, in milliseconds.
    pub(crate) head_ms: u64,
}

/// What all requests share.
#[derive(Debug)]
pub(super) struct ApiState {
    keys: RwLock<ApiKeys>,
    pub(super) cors: Origins,
    ledger: Mutex<Ledger>,
    pub(super) revocations_kept_ms: u64,
    clock: Clock,
    pub(super) owners: Owners,
    pub(super) namespaces: Arc<Namespaces>,
    pub(super) guard: Arc<Guard>,
    pub(super) metrics: Metrics,
    pub(super) lost: LostLines,
    /// `None` if `auth.jwks_url` is not configured.
    pub(super) key_set: Option<Arc<KeySetCounts>>,
    /// Whether the listener can only be reached from this machine. Metrics need no key then.
    pub(super) is_local: bool,
    pub(super) hosts: Hosts,
    seats: Arc<Seats>,
    shares: Arc<Shares>,
    /// The number of requests that have brought a key and are not answered yet.
    under_way: watch::Sender<usize>,
    pub(super) refusals: Arc<RefusalLog>,
    bodies: Arc<Bodies>,
    /// How long a request may take.
    pub(super) patience: Duration,
    phase: watch::Receiver<Phase>,
}

/// A request with a key that is not answered yet. The end of the server waits for it.
pub(super) struct OpenRequest(Arc<ApiState>);

/// A request that waits for shards. Its connection does not give way to another while this value lives.
pub(super) struct WaitingForShards {
    _share: Share,
    _busy: Busy,
}

impl ApiState {
    pub(super) fn new(parts: ApiParts, addr: &ListenAddr, seats: Arc<Seats>, phase: watch::Receiver<Phase>) -> Self {
        // Browsers cannot reach a unix socket, so only a loopback address needs the check of the Host header.
        let checks_hosts = addr.is_local() && matches!(addr, ListenAddr::Tcp(_));
        Self {
            keys: RwLock::new(parts.keys),
            cors: parts.cors,
            ledger: Mutex::new(parts.ledger),
            revocations_kept_ms: parts.revocations_kept_ms,
            clock: parts.clock,
            owners: parts.owners,
            namespaces: parts.namespaces,
            guard: parts.guard,
            metrics: parts.metrics,
            lost: parts.lost,
            key_set: parts.key_set,
            is_local: addr.is_local(),
            hosts: Hosts::new(checks_hosts, parts.hosts),
            bodies: Bodies::new(Arc::clone(&seats), parts.push_bytes),
            seats,
            shares: Shares::new(parts.room.requests),
            under_way: watch::Sender::new(0),
            refusals: parts.refusals,
            patience: Duration::from_millis(parts.request_ms),
            phase,
        }
    }

    /// Replaces the keys that requests must bring.
    pub(super) fn set_keys(&self, keys: ApiKeys) {
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = keys;
    }

    /// Whether a request with these headers brings a valid key.
    pub(super) fn admits(&self, headers: &HeaderMap) -> bool {
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        key_of(headers).is_some_and(|key| keys.matches(key))
    }

    pub(super) fn now(&self) -> Now {
        self.clock.now()
    }

    /// Counts the request as under way for as long as the returned value lives.
    pub(super) fn begin_request(self: &Arc<Self>) -> OpenRequest {
        self.under_way.send_modify(|under_way| *under_way += 1);
        OpenRequest(Arc::clone(self))
    }

    /// Waits until no request is under way.
    pub(super) async fn idle(&self) {
        let _ = self.under_way.subscribe().wait_for(|under_way| *under_way == 0).await;
    }

    /// Whether the server is about to end.
    pub(super) fn is_draining(&self) -> bool {
        *self.phase.borrow() != Phase::Serving
    }

    /// Waits until the server has been told to end, and then as long as a body may still take to arrive.
    async fn past_last_body(&self) {
        let _ = self.phase.clone().wait_for(|phase| *phase != Phase::Serving).await;
        sleep(LAST_BODY).await;
    }

    /// Reads or changes the revocations, at a moment in Unix milliseconds.
    pub(super) fn with_ledger<R>(&self, work: impl FnOnce(&mut Ledger, u64) -> R) -> R {
        let now_ms = self.clock.now().unix_ms;
        work(&mut self.ledger.lock().unwrap_or_else(PoisonError::into_inner), now_ms)
    }

    /// Tells all shards of a revocation and returns how many connections it ended; `None` if some shard may not know of
    /// it yet.
    pub(super) async fn tell_revoked(&self, revocation: Revocation) -> Option<u64> {
        timeout(self.patience, self.owners.revoke(revocation)).await.ok().flatten()
    }

    /// Tells all shards of revocations that were taken back. Returns `false` if some shard may not know of it yet.
    pub(super) async fn tell_lifted(&self, lifted: Lifted) -> bool {
        timeout(self.patience, self.owners.lift(lifted)).await == Ok(true)
    }

    /// The API's own metrics of this moment.
    pub(super) fn snapshot(&self) -> ApiSnapshot {
        self.seats.counts.snapshot(self.seats.connections())
    }

    /// Checks that a channel of this name can exist.
    pub(super) fn check_channel(&self, name: &str) -> Result<(), ApiError> {
        if !is_channel_name(name) {
            return Err(ApiError::of(400, Text::BadChannel));
        }
        match self.namespaces.of(name) {
            Some(_) => Ok(()),
            None => Err(ApiError::of(404, Text::UnknownNamespace)),
        }
    }

    /// Asks the owner of `channel` and waits for the answer.
    pub(super) async fn ask(&self, channel: &str, ask: Ask) -> Result<Answer, ApiError> {
        let answer = self.owners.ask(channel, ask).map_err(not_asked)?;
        self.wait(&answer, Instant::now() + self.patience).await
    }

    /// Waits for an answer until a deadline.
    pub(super) async fn wait(&self, answer: &flume::Receiver<Answer>, deadline: Instant) -> Result<Answer, ApiError> {
        match timeout_at(deadline, answer.recv_async()).await {
            Ok(Ok(answer)) => Ok(answer),
            // The deadline has passed, or the shard ended while it had the ask.
            _ => Err(ApiError::unknown()),
        }
    }

    /// Takes the request's share of the shards' time.
    ///
    /// # Errors
    /// [`ApiError::busy`] if the peer's address has its share already.
    pub(super) fn take_share(&self, seat: &Seat) -> Result<WaitingForShards, ApiError> {
        let Some(share) = self.shares.take(Address::of(seat.peer())) else {
            self.seats.counts.count(ApiBound::Requests);
            return Err(ApiError::busy());
        };
        Ok(WaitingForShards { _share: share, _busy: seat.busy() })
    }

    /// Reads the request's body within the deadline, and then takes the request's share of the shards' time.
    pub(super) async fn read_body(&self, request: Request) -> Result<(HeldBody, WaitingForShards), ApiError> {
        let seat = seat_of(&request);
        let (head, body) = request.into_parts();
        let reading = self.bodies.read(&head.headers, body);
        let body = tokio::select! {
            body = timeout(self.patience, reading) => body.unwrap_or_else(|_| {
                let message = "the body did not arrive within limits.request_ms; the request was not done";
                Err(ApiError::new(408, message))
            })?,
            () = self.past_last_body() => return Err(ApiError::draining()),
        };
        Ok((body, self.take_share(&seat)?))
    }
}

impl Drop for OpenRequest {
    fn drop(&mut self) {
        self.0.under_way.send_modify(|under_way| *under_way -= 1);
    }
}

/// The error of an ask that did not reach its owner.
pub(super) fn not_asked(why: NotAsked) -> ApiError {
    match why {
        NotAsked::Full(_) => ApiError::busy(),
        NotAsked::Gone => ApiError::draining(),
    }
}

/// The place of the connection that the request came over.
pub(super) fn seat_of(request: &Request) -> Seat {
    request.extensions().get::<Seat>().expect("`connections` gives every request its seat").clone()
}

/// The parameters of a request's query.
pub(super) fn query_of(request: &Request) -> Result<Vec<(String, String)>, ApiError> {
    let query = Query::try_from_uri(request.uri());
    Ok(query.map_err(|_| ApiError::malformed("the query is not percent-encoded UTF-8"))?.0)
}

/// The key of `Authorization: Bearer KEY`, or of `X-API-Key: KEY`.
fn key_of(headers: &HeaderMap) -> Option<&str> {
    let text = |name: &str| headers.get(name)?.to_str().ok();
    let bearer = text("authorization").and_then(|value| {
        let (scheme, key) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
    });
    bearer.or_else(|| text("x-api-key").map(str::trim))
}
