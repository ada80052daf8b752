//! The API's routes (docs/api.md): who may ask, how much at a time and for how long, what is asked of the owners and
//! how their answers look in JSON. Every request ends in one answer within its deadline. Knows no socket.
//! `mod` serves the router that this file makes.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use axum::body::{Body, HttpBody as _};
use axum::extract::{Query, Request, State as Shared};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use serde::Serialize;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout, timeout_at};

use super::fault::{Fault, FaultMessage};
use super::input::{self, History, Presence, Publication, Revoke};
use super::ledger::{Ledger, NotKept};
use super::owners::{NotAsked, Owners};
use super::revocations;
use super::{Parts, REQUESTS};
use crate::auth::{ApiKeys, Lifted, Revoked};
use crate::clock::Clock;
use crate::limits::{Guard, Peer};
use crate::log::LostLines;
use crate::metrics::{CONTENT_TYPE, Metrics, Process};
use crate::namespace::{LOBBY, Namespaces, PresenceMode};
use crate::parcel::{Answer, Ask, Placed};
use crate::proto::channel::is_channel_name;
use crate::proto::encode::Member;
use crate::proto::origin::Origins;
use crate::proto::text::Text;
use crate::refusals::{RefusalLog, RefusalNote, quoted, quoted_place, quoted_up_to};

const NO_KEY: &str = "a valid API key is needed: Authorization: Bearer KEY";
/// A body's room beside its content: a broadcast's list of channels.
const LIST_BYTES: usize = 256 * 1024;
/// Channels of one broadcast that are asked at a time: a part of what a shard's queue of commands holds.
const BROADCAST_WINDOW: usize = 32;

/// What whoever watches the server is told.
#[derive(Debug)]
pub struct Watching {
    /// How many connections the shards have.
    pub guard: Arc<Guard>,
    /// What they count.
    pub metrics: Metrics,
    /// How many log lines were lost.
    pub lost: LostLines,
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
    refusals: Arc<RefusalLog>,
    requests: Semaphore,
    body_bytes: usize,
    patience: Duration,
    draining: AtomicBool,
}

impl State {
    /// With the bounds of the configuration.
    pub fn new(parts: Parts, watching: Watching) -> Self {
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
            refusals: parts.refusals,
            requests: Semaphore::new(REQUESTS as usize),
            // A text may come with every character escaped, in twice the bytes.
            body_bytes: push_bytes.saturating_mul(2).saturating_add(LIST_BYTES),
            patience: Duration::from_millis(request_ms),
            draining: AtomicBool::new(false),
        }
    }

    /// Requests are judged by these keys from now on.
    pub fn set_keys(&self, keys: ApiKeys) {
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = keys;
    }

    /// From now on requests are refused.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Waits until no request is under way.
    pub async fn idle(&self) {
        let _ = self.requests.acquire_many(REQUESTS).await;
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
        self.draining.load(Ordering::Relaxed)
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
        .method_not_allowed_fallback(|| async { Fault::new(StatusCode::METHOD_NOT_ALLOWED, "GET only") })
        .with_state(Arc::clone(&state));
    open.merge(guarded)
        .layer(middleware::from_fn_with_state(Arc::clone(&state), cors))
        .layer(middleware::from_fn_with_state(state, tell))
}

/// Tells the log of each request: at debug, and at info what was refused. `/health` is no request of a backend.
async fn tell(Shared(state): Shared<Arc<State>>, request: Request, next: Next) -> Response {
    let peer = request.extensions().get::<Peer>().copied();
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
    if (status.is_client_error() || status.is_server_error()) && path != "/health" {
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
    if !state.admits(request.headers()) {
        return Fault::new(StatusCode::UNAUTHORIZED, NO_KEY).into_response();
    }
    if state.is_draining() {
        return last(Fault::draining().into_response());
    }
    let Ok(_permit) = state.requests.try_acquire() else { return Fault::busy().into_response() };
    let response = next.run(request).await;
    if state.is_draining() { last(response) } else { response }
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
    let Watching { metrics, lost, .. } = &state.watching;
    let revocations = {
        let mut ledger = state.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        ledger.count(state.clock.now().unix_ms) as u64
    };
    let text = metrics.text(Process { log_lines_lost: lost.count(), revocations }).map_err(|_| Fault::busy())?;
    Ok(([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response())
}

async fn publish(Shared(state): Shared<Arc<State>>, request: Request) -> Result<Response, Fault> {
    let header = idempotency_key(request.headers())?;
    let body = body(&state, request).await?;
    let (channel, publication) = input::publish(&body, header.as_deref())?;
    drop(body);
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
    let body = body(&state, request).await?;
    let (channels, publication) = input::broadcast(&body, header.as_deref())?;
    drop(body);
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
    let body = body(&state, request).await?;
    members(&state, input::parse(&body)?).await
}

async fn presence_by_query(Shared(state): Shared<Arc<State>>, request: Request) -> Result<Response, Fault> {
    let query = Query::<Presence>::try_from_uri(request.uri())
        .map_err(|error| Fault::malformed(format!("the query can't be read: {error}")))?;
    members(&state, query.0).await
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
    let limit = wanted.limit()?;
    let Presence { channel, cursor, .. } = wanted;
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
    let body = body(&state, request).await?;
    let wanted: History = input::parse(&body)?;
    state.check_channel(&wanted.channel)?;
    let (since, limit) = (wanted.since()?, wanted.limit()?);
    let ask = Ask::History { channel: wanted.channel.as_str().into(), since, limit, reverse: wanted.reverse };
    let attached = match state.ask(&wanted.channel, ask).await? {
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
    let peer = request.extensions().get::<Peer>().copied().map(tracing::field::display);
    let body = body(&state, request).await?;
    let now_ms = state.clock.now().unix_ms;
    let revocation = input::parse::<Revoke>(&body)?.revocation(now_ms, state.revocations_kept_ms)?;
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
    let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
    let text = value.to_str().map_err(|_| Fault::malformed("the Idempotency-Key header is not ASCII"))?;
    Ok(Some(text.to_owned()))
}

/// Reads the body, as long as it may be and within the deadline.
pub async fn body(state: &State, request: Request) -> Result<Vec<u8>, Fault> {
    check_type(request.headers())?;
    let reading = read(request.into_body(), state.body_bytes);
    timeout(state.patience, reading)
        .await
        .unwrap_or_else(|_| Err(Fault::new(StatusCode::REQUEST_TIMEOUT, "the body did not come in time, not done")))
}

fn check_type(headers: &HeaderMap) -> Result<(), Fault> {
    let unsupported = |message| Err(Fault::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message));
    if headers.get(header::CONTENT_ENCODING).is_some_and(|coding| coding != "identity") {
        return unsupported("the body must not be compressed");
    }
    let kind = headers.get(header::CONTENT_TYPE).map(|value| value.to_str().unwrap_or_default());
    let essence = kind.map(|kind| kind.split(';').next().unwrap_or_default().trim());
    match essence {
        Some(essence) if !essence.eq_ignore_ascii_case("application/json") => {
            unsupported("the body must be JSON: Content-Type: application/json")
        }
        _ => Ok(()),
    }
}

async fn read(mut body: Body, most: usize) -> Result<Vec<u8>, Fault> {
    let (mut bytes, mut dropped) = (Vec::new(), 0);
    while let Some(frame) = std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
        let frame = frame.map_err(|_| Fault::malformed("the body broke off"))?;
        let Ok(data) = frame.into_data() else { continue };
        if dropped == 0 && bytes.len() + data.len() <= most {
            bytes.extend_from_slice(&data);
            continue;
        }
        // Some more is taken and thrown away: a peer whose writes are cut would not read the answer.
        bytes = Vec::new();
        dropped += data.len();
        if dropped > most {
            break;
        }
    }
    if dropped > 0 {
        return Err(Fault::new(StatusCode::PAYLOAD_TOO_LARGE, format!("the body may have {most} bytes")));
    }
    Ok(bytes)
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
