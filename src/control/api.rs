//! The API's routes (docs/api.md): who may ask, how much at a time and for how long, what is asked of the owners and
//! how their answers look in JSON. Every request ends in one answer within its deadline. Knows no socket.
//! `mod` serves the router that this file makes.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use axum::extract::{Query, Request, State as Shared};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use prometheus_client::collector::Collector;
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::bodies::{Bodies, HeldBody};
use super::connections::{Busy, Seat, Seats};
use super::counts::ApiBound;
use super::fault::{Fault, FaultMessage};
use super::hosts::{Hosts, host_of};
use super::input::{self, History, Presence, Publication};
use super::key_set::KeySetCounts;
use super::ledger::{Ledger, NotKept};
use super::owners::{NotAsked, Owners};
use super::places::{Room, Share, Shares};
use super::revocations;
use super::{Parts, Phase};
use crate::auth::{ApiKeys, Lifted, Revoked};
use crate::dialect::native::encode::Member;
use crate::limits::refusals::{RefusalLog, RefusalNote, quoted, quoted_place, quoted_up_to};
use crate::limits::{Address, Guard};
use crate::log::LostLines;
use crate::metrics::{CONTENT_TYPE, Metrics, Process};
use crate::model::channel_name::is_channel_name;
use crate::model::namespace::{LOBBY, Namespaces, PresenceMode};
use crate::model::parcel::{Answer, Ask, Placed};
use crate::model::text::Text;
use crate::time::clock::Clock;
use crate::wire::origin::Origins;

const NO_KEY: &str = "a valid API key is needed: Authorization: Bearer KEY";
/// Channels of one broadcast that are asked at a time: a part of what a shard's queue of commands holds.
const BROADCAST_WINDOW: usize = 32;
/// How long a body may still take to come once the server was told to go.
const LAST_BODY: Duration = Duration::from_millis(500);

/// What whoever watches the server is told.
#[derive(Debug)]
pub struct Watching {
    /// How many connections the shards have.
    pub guard: Arc<Guard>,
    /// What they count.
    pub metrics: Metrics,
    /// How many log lines were lost.
    pub lost: LostLines,
    /// What is counted of `auth.jwks_url`, if it is configured.
    pub key_set: Option<Arc<KeySetCounts>>,
    /// The listener can only be reached from this machine: metrics need no key.
    pub is_open: bool,
}

/// Characters of an error's sentence that the log shows.
const WHY_CHARS: usize = 200;

/// What all requests share.
#[derive(Debug)]
pub struct State {
    keys: RwLock<ApiKeys>,
    cors: Origins,
    ledger: Mutex<Ledger>,
    revocations_kept_ms: u64,
    clock: Clock,
    owners: Owners,
    namespaces: Arc<Namespaces>,
    watching: Watching,
    hosts: Hosts,
    seats: Arc<Seats>,
    /// Requests that are with the shards.
    shares: Arc<Shares>,
    /// Requests that have brought a key and are not answered yet.
    under_way: watch::Sender<usize>,
    refusals: Arc<RefusalLog>,
    bodies: Arc<Bodies>,
    patience: Duration,
    phase: watch::Receiver<Phase>,
}

impl State {
    /// With the bounds of the configuration.
    pub fn new(
        parts: Parts,
        watching: Watching,
        hosts: Hosts,
        room: Room,
        seats: Arc<Seats>,
        phase: watch::Receiver<Phase>,
    ) -> Self {
        let Parts { keys, owners, namespaces, push_bytes, request_ms, .. } = parts;
        Self {
            keys: RwLock::new(keys),
            cors: parts.cors,
            ledger: Mutex::new(parts.ledger),
            revocations_kept_ms: parts.revocations_kept_ms,
            clock: parts.clock,
            owners,
            namespaces,
            watching,
            hosts,
            bodies: Bodies::new(Arc::clone(&seats), push_bytes),
            seats,
            shares: Shares::new(room.requests),
            under_way: watch::Sender::new(0),
            refusals: parts.refusals,
            patience: Duration::from_millis(request_ms),
            phase,
        }
    }

    /// Requests are judged by these keys from now on.
    pub fn set_keys(&self, keys: ApiKeys) {
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = keys;
    }

    /// Waits until no request is under way.
    pub async fn idle(&self) {
        let _ = self.under_way.subscribe().wait_for(|under_way| *under_way == 0).await;
    }

    /// Looks at what was revoked, or changes it, at a moment in Unix milliseconds.
    pub fn with_ledger<R>(&self, work: impl FnOnce(&mut Ledger, u64) -> R) -> R {
        let now_ms = self.clock.now().unix_ms;
        work(&mut self.ledger.lock().unwrap_or_else(PoisonError::into_inner), now_ms)
    }

    /// Tells the shards of revocations that were lifted. False if they may not all know.
    pub async fn tell_lifted(&self, lifted: Lifted) -> bool {
        timeout(self.patience, self.owners.lift(lifted)).await == Ok(true)
    }

    fn is_draining(&self) -> bool {
        *self.phase.borrow() != Phase::Serving
    }

    /// Waits until the server has been told to go, and bodies that are not there yet come too late.
    async fn too_late(&self) {
        let _ = self.phase.clone().wait_for(|phase| *phase != Phase::Serving).await;
        sleep(LAST_BODY).await;
    }

    fn admits(&self, headers: &HeaderMap) -> bool {
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        key_of(headers).is_some_and(|key| keys.matches(key))
    }

    fn check_channel(&self, name: &str) -> Result<(), Fault> {
        if !is_channel_name(name) {
            return Err(Fault::of(StatusCode::BAD_REQUEST, Text::BadChannel));
        }
        match self.namespaces.of(name) {
            Some(_) => Ok(()),
            None => Err(Fault::of(StatusCode::NOT_FOUND, Text::UnknownNamespace)),
        }
    }

    /// Asks the owner of one channel.
    async fn ask(&self, channel: &str, ask: Ask) -> Result<Answer, Fault> {
        let answer = self.owners.ask(channel, ask).map_err(refusal)?;
        self.wait(&answer, Instant::now() + self.patience).await
    }

    async fn wait(&self, answer: &flume::Receiver<Answer>, until: Instant) -> Result<Answer, Fault> {
        match timeout_at(until, answer.recv_async()).await {
            Ok(Ok(answer)) => Ok(answer),
            // The deadline has passed, or the shard has ended with the ask in its hands.
            _ => Err(Fault::unknown()),
        }
    }
}

fn refusal(why: NotAsked) -> Fault {
    match why {
        NotAsked::Full(_) => Fault::busy(),
        NotAsked::Gone => Fault::draining(),
    }
}

/// `Authorization: Bearer KEY`, or `X-API-Key: KEY`.
fn key_of(headers: &HeaderMap) -> Option<&str> {
    let text = |name: &str| headers.get(name)?.to_str().ok();
    let bearer = text("authorization").and_then(|value| {
        let (scheme, key) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
    });
    bearer.or_else(|| text("x-api-key").map(str::trim))
}

/// All routes.
pub fn router(state: Arc<State>) -> axum::Router {
    let guarded = axum::Router::new()
        .route("/api/publish", post(publish))
        .route("/api/broadcast", post(broadcast))
        .route("/api/presence", get(presence_by_query).post(presence))
        .route("/api/history", post(history))
        .route("/api/revoke", post(revoke))
        .route("/api/unrevoke", post(revocations::lift))
        .route("/api/revocations", get(revocations::list))
        .fallback(|| async { Fault::new(StatusCode::NOT_FOUND, "there is no such endpoint") })
        .method_not_allowed_fallback(|| async {
            Fault::new(StatusCode::METHOD_NOT_ALLOWED, "not with this method; the Allow header says with which")
        })
        .layer(middleware::from_fn_with_state(Arc::clone(&state), guard))
        .with_state(Arc::clone(&state));
    // Whoever watches the server needs no right to publish.
    let open = axum::Router::new()
        .route("/health", get(health))
        .route("/metrics", get(metrics))
        .method_not_allowed_fallback(|| async { Fault::new(StatusCode::METHOD_NOT_ALLOWED, "GET and HEAD only") })
        .with_state(Arc::clone(&state));
    open.merge(guarded)
        .layer(middleware::from_fn_with_state(Arc::clone(&state), known_host))
        .layer(middleware::from_fn_with_state(Arc::clone(&state), cors))
        .layer(middleware::from_fn(front))
        .layer(middleware::from_fn_with_state(state, tell))
}

/// In front of everything: a request names one host, and what it asks of the server as a whole is answered here.
async fn front(request: Request, next: Next) -> Response {
    if let Err(fault) = host_of(&request) {
        return last(fault.into_response());
    }
    if request.method() == Method::CONNECT {
        return Fault::new(StatusCode::METHOD_NOT_ALLOWED, "this is no proxy").into_response();
    }
    if request.method() == Method::OPTIONS && request.uri().path() == "*" {
        return (StatusCode::NO_CONTENT, [(header::ALLOW, "GET, HEAD, POST, OPTIONS")]).into_response();
    }
    next.run(request).await
}

/// Keeps what needs no key from pages whose name was rebound to this machine, and answers OPTIONS.
async fn known_host(Shared(state): Shared<Arc<State>>, request: Request, next: Next) -> Response {
    let host = host_of(&request).unwrap_or_default();
    if !state.hosts.serve(host) && !state.admits(request.headers()) {
        let message = "without an API key, Host must be this machine or be in http.hosts";
        return Fault::new(StatusCode::FORBIDDEN, message).into_response();
    }
    // Who pipelines requests that need no key has one answered after each other connection had its turn.
    tokio::task::yield_now().await;
    let asks_methods = request.method() == Method::OPTIONS;
    let response = next.run(request).await;
    if asks_methods && response.status() == StatusCode::METHOD_NOT_ALLOWED {
        // The router adds Allow, which is what is asked for (RFC 9110 §9.3.7).
        return StatusCode::NO_CONTENT.into_response();
    }
    response
}

/// Tells the log of each request: at debug, and at info what was refused, other than that `/health` says that the server is going.
async fn tell(Shared(state): Shared<Arc<State>>, request: Request, next: Next) -> Response {
    let peer = Some(seat_of(&request).peer());
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let response = next.run(request).await;
    let status = response.status();
    let client = peer.map(tracing::field::display);
    tracing::debug!(
        client,
        method = quoted(method.as_str()),
        path = quoted_place(&path),
        status = status.as_u16(),
        "API request"
    );
    let is_draining = path == "/health" && status == StatusCode::SERVICE_UNAVAILABLE;
    if (status.is_client_error() || status.is_server_error()) && !is_draining {
        state.watching.metrics.api_refused(status.as_u16());
        let reason = match status {
            StatusCode::UNAUTHORIZED => "api_unauthorized",
            StatusCode::NOT_FOUND => "api_not_found",
            status if status.is_server_error() => "api_not_done",
            _ => "api_refused",
        };
        let note = RefusalNote { reason, client: peer, conn: None, user: None };
        state.refusals.tell(&note, state.clock.now().mono_ms, || {
            let why = response.extensions().get::<FaultMessage>().map_or("", |message| &message.0);
            let method = quoted(method.as_str());
            format!("{method} {}: {} {}", quoted_place(&path), status.as_u16(), quoted_up_to(WHY_CHARS, why))
        });
    }
    response
}

/// Lets pages of the listed origins read what is answered, and answers a browser that asks beforehand (Fetch §4.8).
/// All others see what they would without: nothing, since a browser keeps it from them.
async fn cors(Shared(state): Shared<Arc<State>>, request: Request, next: Next) -> Response {
    let headers = request.headers();
    let Some(origin) = headers.get(header::ORIGIN).cloned() else { return next.run(request).await };
    if !origin.to_str().is_ok_and(|origin| state.cors.lists(origin)) {
        return next.run(request).await;
    }
    let preflight = request.method() == Method::OPTIONS && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
    let mut response = if preflight { StatusCode::NO_CONTENT.into_response() } else { next.run(request).await };
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(header::VARY, HeaderValue::from_static("Origin"));
    if preflight {
        headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST"));
        let allowed = HeaderValue::from_static("Authorization, Content-Type, Idempotency-Key, X-API-Key");
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, allowed);
        headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
    }
    response
}

/// In front of everything but `/health` and `/metrics`. The key comes first: without one nothing of a request is read but its head.
async fn guard(Shared(state): Shared<Arc<State>>, request: Request, next: Next) -> Response {
    if request.method() == Method::OPTIONS {
        return next.run(request).await;
    }
    if !state.admits(request.headers()) {
        return Fault::new(StatusCode::UNAUTHORIZED, NO_KEY).into_response();
    }
    seat_of(&request).recognize();
    if state.is_draining() {
        return last(Fault::draining().into_response());
    }
    let under_way = UnderWay::new(&state);
    let response = next.run(request).await;
    drop(under_way);
    if state.is_draining() { last(response) } else { response }
}

/// A request that is not answered yet.
struct UnderWay(Arc<State>);

impl UnderWay {
    fn new(state: &Arc<State>) -> Self {
        state.under_way.send_modify(|under_way| *under_way += 1);
        Self(Arc::clone(state))
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.under_way.send_modify(|under_way| *under_way -= 1);
    }
}

/// The place of the connection that the request came over.
fn seat_of(request: &Request) -> Seat {
    request.extensions().get::<Seat>().expect("every connection has one").clone()
}

/// A request that is with the shards: its connection keeps its place.
pub struct Asking {
    _share: Share,
    _busy: Busy,
}

impl Asking {
    fn new(state: &State, seat: &Seat) -> Result<Self, Fault> {
        let Some(share) = state.shares.take(Address::of(seat.peer())) else {
            state.seats.counts.count(ApiBound::Requests);
            return Err(Fault::busy());
        };
        Ok(Self { _share: share, _busy: seat.busy() })
    }
}

/// The connection ends after this one.
fn last(mut response: Response) -> Response {
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

async fn health(Shared(state): Shared<Arc<State>>) -> Response {
    #[derive(Serialize)]
    struct Health {
        status: &'static str,
        connections: usize,
        shards: usize,
    }
    let (code, status) =
        if state.is_draining() { (StatusCode::SERVICE_UNAVAILABLE, "draining") } else { (StatusCode::OK, "ok") };
    let response =
        json(code, &Health { status, connections: state.watching.guard.connections(), shards: state.owners.count() });
    if state.is_draining() { last(response) } else { response }
}

/// Numbers only, of nobody in particular. A scrape goes on while the server drains: that is when it is looked at.
async fn metrics(Shared(state): Shared<Arc<State>>, headers: HeaderMap) -> Result<Response, Fault> {
    if !state.watching.is_open && !state.admits(&headers) {
        return Err(Fault::new(StatusCode::UNAUTHORIZED, NO_KEY));
    }
    let Watching { metrics, lost, key_set, .. } = &state.watching;
    let now = state.clock.now();
    let revocations = {
        let mut ledger = state.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        ledger.count(now.unix_ms) as u64
    };
    let own = state.seats.counts.snapshot(state.seats.connections());
    let process = Process { log_lines_lost: lost.count(), revocations };
    let mut others: Vec<Box<dyn Collector>> = vec![Box::new(process), Box::new(own)];
    if let Some(key_set) = key_set {
        others.push(Box::new(key_set.snapshot(now.mono_ms)));
    }
    let text = metrics.text(others).map_err(|_| Fault::busy())?;
    Ok(([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response())
}

async fn publish(Shared(state): Shared<Arc<State>>, request: Request) -> Result<Response, Fault> {
    let header = idempotency_key(request.headers())?;
    let (body, _asking) = body(&state, request).await?;
    let (channel, publication) = input::publish(body.bytes(), header.as_deref())?;
    state.check_channel(&channel)?;
    let answer = state.ask(&channel, Ask::Publish(publication.to(&channel))).await?;
    let (placed, duplicate) = published(answer)?;
    Ok(json(StatusCode::OK, &Published::new(&placed, duplicate)))
}

async fn broadcast(Shared(state): Shared<Arc<State>>, request: Request) -> Result<Response, Fault> {
    #[derive(Serialize)]
    #[serde(untagged)]
    enum Entry<'a> {
        Done(Published<'a>),
        Not { channel: &'a str, error: super::fault::Shown<'a> },
    }
    #[derive(Serialize)]
    struct Results<'a> {
        results: Vec<Entry<'a>>,
    }
    let header = idempotency_key(request.headers())?;
    let (body, _asking) = body(&state, request).await?;
    let (channels, publication) = input::broadcast(body.bytes(), header.as_deref())?;
    let outcomes = to_each(&state, &channels, &publication).await;
    let entry = |(channel, outcome)| match outcome {
        &Ok((ref placed, duplicate)) => Entry::Done(Published::new(placed, duplicate)),
        Err(fault) => Entry::Not { channel, error: Fault::shown(fault) },
    };
    let results = channels.iter().map(String::as_str).zip(&outcomes).map(entry).collect();
    Ok(json(StatusCode::OK, &Results { results }))
}

type Outcome = Result<(Placed, bool), Fault>;

/// Publishes to one channel after the other, some at a time. The outcomes are in the order of the channels.
async fn to_each(state: &State, channels: &[String], publication: &Publication) -> Vec<Outcome> {
    let until = Instant::now() + state.patience;
    let mut waiting = VecDeque::new();
    let mut outcomes = Vec::with_capacity(channels.len());
    for channel in channels {
        if waiting.len() >= BROADCAST_WINDOW {
            finish_oldest(state, &mut waiting, &mut outcomes, until).await;
        }
        let mut asked = state.check_channel(channel).map(|()| Ask::Publish(publication.to(channel)));
        let next = loop {
            let ask = match asked {
                Ok(_) if Instant::now() >= until => break Err(Fault::busy()),
                Ok(ask) => ask,
                Err(fault) => break Err(fault),
            };
            match state.owners.ask(channel, ask) {
                Ok(answer) => break Ok(answer),
                // It is this broadcast that fills the queue, or a part of what does.
                Err(NotAsked::Full(ask)) if !waiting.is_empty() => {
                    finish_oldest(state, &mut waiting, &mut outcomes, until).await;
                    asked = Ok(ask);
                }
                Err(why) => break Err(refusal(why)),
            }
        };
        waiting.push_back(next);
    }
    while !waiting.is_empty() {
        finish_oldest(state, &mut waiting, &mut outcomes, until).await;
    }
    outcomes
}

async fn finish_oldest(
    state: &State,
    waiting: &mut VecDeque<Result<flume::Receiver<Answer>, Fault>>,
    outcomes: &mut Vec<Outcome>,
    until: Instant,
) {
    match waiting.pop_front() {
        Some(Ok(answer)) => outcomes.push(state.wait(&answer, until).await.and_then(published)),
        Some(Err(fault)) => outcomes.push(Err(fault)),
        None => {}
    }
}

async fn presence(Shared(state): Shared<Arc<State>>, request: Request) -> Result<Response, Fault> {
    let (body, _asking) = body(&state, request).await?;
    members(&state, Presence::of_body(body.bytes())?).await
}

async fn presence_by_query(Shared(state): Shared<Arc<State>>, request: Request) -> Result<Response, Fault> {
    let wanted = Presence::of_query(&pairs(&request)?)?;
    let _asking = Asking::new(&state, &seat_of(&request))?;
    members(&state, wanted).await
}

/// The parameters of a request's query.
pub fn pairs(request: &Request) -> Result<Vec<(String, String)>, Fault> {
    let pairs = Query::try_from_uri(request.uri()).map_err(|_| Fault::malformed("the query can't be read"))?;
    Ok(pairs.0)
}

async fn members(state: &State, wanted: Presence) -> Result<Response, Fault> {
    #[derive(Serialize)]
    struct Page<'a> {
        channel: &'a str,
        count: u64,
        members: Vec<Member<'a>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        cursor: Option<&'a str>,
    }
    let Presence { channel, cursor, limit } = wanted;
    state.check_channel(&channel)?;
    let namespace = state.namespaces.of(&channel);
    if namespace.is_some_and(|namespace| namespace.presence == PresenceMode::Off) {
        return Err(Fault::new(StatusCode::FORBIDDEN, "presence is off in this channel's namespace"));
    }
    let escape = namespace.is_none_or(|namespace| namespace.escape);
    let cursor = cursor.map(Into::into);
    let ask = if channel == LOBBY {
        Ask::Users { cursor, limit }
    } else {
        Ask::Presence { channel: channel.as_str().into(), cursor, limit }
    };
    let page = match state.ask(&channel, ask).await? {
        Answer::Users(page) | Answer::Presence(_, page) => page,
        other => return Err(Fault::from_answer(other)),
    };
    let members =
        page.members.iter().map(|(user, connections)| Member { user: user.json(escape), connections: *connections });
    let shown =
        Page { channel: &channel, count: page.count, members: members.collect(), cursor: page.cursor.as_deref() };
    Ok(json(StatusCode::OK, &shown))
}

async fn history(Shared(state): Shared<Arc<State>>, request: Request) -> Result<Response, Fault> {
    let (body, _asking) = body(&state, request).await?;
    let History { channel, since, limit, reverse } = History::of_body(body.bytes())?;
    state.check_channel(&channel)?;
    let ask = Ask::History { channel: channel.as_str().into(), since, limit, reverse };
    let attached = match state.ask(&channel, ask).await? {
        Answer::History(attached) => attached,
        other => return Err(Fault::from_answer(other)),
    };
    // Publications are kept encoded: they are put in as they are.
    let mut out = to_json(&attached.placed.position());
    out.pop();
    out.extend_from_slice(b",\"publications\":[");
    for (at, publication) in attached.publications.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        publication.element().write(&mut out);
    }
    out.extend_from_slice(b"]}");
    Ok(json_bytes(StatusCode::OK, out))
}

async fn revoke(Shared(state): Shared<Arc<State>>, request: Request) -> Result<Response, Fault> {
    #[derive(Serialize)]
    struct Done {
        expires_at: u64,
        connections: u64,
        #[serde(skip_serializing_if = "Option::is_none")]
        warning: Option<&'static str>,
    }
    let peer = Some(tracing::field::display(seat_of(&request).peer()));
    let (body, _asking) = body(&state, request).await?;
    let now_ms = state.clock.now().unix_ms;
    let revocation = input::revocation(body.bytes(), now_ms, state.revocations_kept_ms)?;
    let kept = state.ledger.lock().unwrap_or_else(PoisonError::into_inner).add(&revocation, now_ms);
    if matches!(kept, Err(NotKept::Full)) {
        return Err(Fault::new(
            StatusCode::INSUFFICIENT_STORAGE,
            "there are as many revocations as limits.revocations allows, not done; issued_before alone covers all",
        ));
    }
    let expires_at = revocation.until_ms;
    let warning = match &revocation.revoked {
        Revoked::IssuedBefore(_) => {
            Some("a token without iat counts as issued before any time: all of those are revoked")
        }
        Revoked::User { .. } => Some("a token without iat counts as issued before any time: this user's are revoked"),
        Revoked::TokenId(_) => None,
    };
    let revoked = revoked_words(&revocation.revoked);
    let everyone = matches!(revocation.revoked, Revoked::IssuedBefore(_));
    let telling = state.owners.revoke(revocation);
    let Ok(Some(connections)) = timeout(state.patience, telling).await else {
        // Some shards may not know of it yet. To say it twice does no harm.
        return Err(Fault::new(StatusCode::GATEWAY_TIMEOUT, "not known to be done everywhere, ask again"));
    };
    if let Err(error) = kept {
        tracing::error!(%error, "a revocation");
        return Err(Fault::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()));
    }
    if everyone {
        tracing::warn!(client = peer, revoked, expires_at, connections, "revoked for everyone, tokens without iat too");
    } else {
        tracing::info!(client = peer, revoked, expires_at, connections, "revoked");
    }
    Ok(json(StatusCode::OK, &Done { expires_at, connections, warning }))
}

/// What is revoked, for the log: not the id of a token.
fn revoked_words(revoked: &Revoked) -> String {
    match revoked {
        Revoked::TokenId(_) => "token_id".to_owned(),
        Revoked::User { key, issued_before_ms } => format!("user {}, issued_before {issued_before_ms}", quoted(key)),
        Revoked::IssuedBefore(before_ms) => format!("issued_before {before_ms}"),
    }
}

fn published(answer: Answer) -> Outcome {
    match answer {
        Answer::Published { placed, duplicate } => Ok((placed, duplicate)),
        other => Err(Fault::from_answer(other)),
    }
}

/// An accepted publication.
#[derive(Serialize)]
struct Published<'a> {
    channel: &'a str,
    epoch: &'a str,
    offset: u64,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    duplicate: bool,
}

impl<'a> Published<'a> {
    fn new(placed: &'a Placed, duplicate: bool) -> Self {
        Self { channel: &placed.channel, epoch: &placed.epoch, offset: placed.offset, duplicate }
    }
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Fault> {
    let mut values = headers.get_all("idempotency-key").iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Fault::malformed("the Idempotency-Key header is there twice"));
    }
    let text = value.to_str().map_err(|_| Fault::malformed("the Idempotency-Key header is not ASCII"))?;
    Ok(Some(text.to_owned()))
}

/// Reads the body, within the deadline; then the request has its turn with the shards.
pub async fn body(state: &Arc<State>, request: Request) -> Result<(HeldBody, Asking), Fault> {
    let seat = seat_of(&request);
    let (head, body) = request.into_parts();
    let reading = state.bodies.read(&head.headers, body);
    let body = tokio::select! {
        body = timeout(state.patience, reading) => body.unwrap_or_else(|_| {
            Err(Fault::new(StatusCode::REQUEST_TIMEOUT, "the body did not come in time, not done"))
        })?,
        () = state.too_late() => return Err(Fault::draining()),
    };
    Ok((body, Asking::new(state, &seat)?))
}

/// An answer in JSON.
pub fn json(status: StatusCode, value: &impl Serialize) -> Response {
    json_bytes(status, to_json(value))
}

fn json_bytes(status: StatusCode, bytes: Vec<u8>) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], bytes).into_response()
}

fn to_json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("these shapes are all JSON")
}
