//! What stands in front of every endpoint: a request's head is judged before anything of its body is looked at. In this
//! order: the Host header, methods for the whole server, CORS, hosts without a key, the path, OPTIONS, the key, the end of
//! the server, the method, and the type of the body.

use super::calls::{ApiCall, BareAnswer, SlowCall};
use super::error::ApiError;
use super::input::{self, HistoryRequest, PresenceRequest};
use super::many::ManyPublishes;
use super::reply::ApiReply;
use super::routes::{ApiMethod, ApiRoute};
use super::rules::ApiRules;
use crate::wire::http::{BodyFraming, HttpFault, RequestHead, Target};

/// What a request without a valid key is answered with.
const NO_KEY: &str = "a valid API key is needed: Authorization: Bearer KEY";

/// A request whose head has been read.
#[derive(Debug)]
pub(super) struct JudgedHead {
    pub(super) reply: ApiReply,
    pub(super) has_key: bool,
    pub(super) framing: BodyFraming,
    /// The client waits for `100 Continue` before it sends the body.
    pub(super) waits: bool,
    pub(super) verdict: HeadVerdict,
}

/// What a head comes to.
#[derive(Debug)]
pub(super) enum HeadVerdict {
    /// The request is known without its body, which is read over if there is one.
    Call(ApiCall),
    /// The body says what the request asks for.
    Body(BodyPlan),
}

/// How a body is to be read.
#[derive(Debug)]
pub(super) struct BodyPlan {
    kind: BodyKind,
    /// The value of the header `Idempotency-Key`.
    header: Option<Box<str>>,
    /// The most bytes that the body may have.
    pub(super) most: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum BodyKind {
    Publish,
    /// Lines of JSON, each a publication.
    Lines,
    Broadcast,
    Presence,
    History,
    Revoke,
    Unrevoke,
}

/// Decides by its head what a request may do, before the body is read.
pub(super) fn judge(head: &RequestHead<'_, '_>, rules: &ApiRules) -> JudgedHead {
    let named = head.host();
    let target = match head.method() {
        // Its target is a host, and it is refused anyway.
        "CONNECT" => Ok(Target { authority: None, path: "*", query: None }),
        _ => head.target(),
    };
    let path = target.as_ref().map_or("", |target| target.path);
    let mut reply = ApiReply::new(head.method(), path, head.is_http_1_0(), !head.keeps_alive());
    // Where the next request begins is unknown, or cannot be trusted, after one of these.
    let sound = || -> Result<_, HttpFault> {
        let host = named?;
        Ok((host, target?, head.framing()?, head.expects_continue()?))
    };
    let (host, target, framing, waits) = match sound() {
        Ok(sound) if head.method() != "CONNECT" => sound,
        broken => {
            reply.close_after();
            let message = "this server is not a proxy: CONNECT is not supported";
            let error = broken.map_or_else(ApiError::from, |_| ApiError::new(405, message));
            let verdict = HeadVerdict::Call(ApiCall::Refused(error));
            return JudgedHead { reply, has_key: false, framing: BodyFraming::Length(0), waits: false, verdict };
        }
    };
    let mut has_key = false;
    let verdict = decide(head, rules, target.authority.or(host), target, &mut reply, &mut has_key);
    let verdict = verdict.unwrap_or_else(|error| HeadVerdict::Call(ApiCall::Refused(error)));
    JudgedHead { reply, has_key, framing, waits, verdict }
}

fn decide(
    head: &RequestHead<'_, '_>,
    rules: &ApiRules,
    host: Option<&str>,
    target: Target<'_>,
    reply: &mut ApiReply,
    has_key: &mut bool,
) -> Result<HeadVerdict, ApiError> {
    let (method, route) = (ApiMethod::of(head.method()), reply.route());
    if route == ApiRoute::Server {
        return Ok(HeadVerdict::Call(ApiCall::Bare(BareAnswer::Methods)));
    }
    if let Some(origin) = head.values("origin").next().and_then(|origin| std::str::from_utf8(origin).ok())
        && rules.shares_with(origin)
    {
        // Other pages get the same response without the headers, and the browser keeps it from them.
        reply.share_with(origin);
        if method == ApiMethod::Options && head.values("access-control-request-method").next().is_some() {
            return Ok(HeadVerdict::Call(ApiCall::Bare(BareAnswer::Preflight)));
        }
    }
    let admitted = rules.admits(head);
    if !admitted && !rules.serves(host) {
        let message = "without an API key, the Host header must name this machine or be in http.hosts";
        return Err(ApiError::new(403, message));
    }
    if method == ApiMethod::Options {
        return match route {
            ApiRoute::Unknown => Err(no_endpoint()),
            _ => Ok(HeadVerdict::Call(ApiCall::Bare(BareAnswer::Methods))),
        };
    }
    let is_monitoring = matches!(route, ApiRoute::Health | ApiRoute::Metrics);
    if !is_monitoring {
        if !admitted {
            return Err(ApiError::new(401, NO_KEY));
        }
        *has_key = true;
        if rules.is_draining() {
            reply.close_after();
            return Err(ApiError::draining());
        }
        if route == ApiRoute::Unknown {
            return Err(no_endpoint());
        }
    }
    if !route.takes(method) {
        let message = match is_monitoring {
            true => "this endpoint takes GET and HEAD only",
            false => "this endpoint does not take this method; the Allow header lists those that it takes",
        };
        return Err(ApiError::new(405, message));
    }
    if route == ApiRoute::Metrics && rules.metrics_need_key() && !admitted {
        return Err(ApiError::new(401, NO_KEY));
    }
    if method != ApiMethod::Post {
        return without_body(route, target.query.unwrap_or_default(), rules).map(HeadVerdict::Call);
    }
    let header = match route {
        ApiRoute::Publish | ApiRoute::Broadcast => idempotency_key(head)?,
        _ => None,
    };
    let kind = body_kind(head, route)?;
    if kind == BodyKind::Lines && header.is_some() {
        let message = "an Idempotency-Key header cannot be for many lines: each has its own field idempotency_key";
        return Err(ApiError::malformed(message));
    }
    let most = if kind == BodyKind::Lines { rules.lines_bytes() } else { rules.body_bytes() };
    Ok(HeadVerdict::Body(BodyPlan { kind, header, most }))
}

/// The call of a request that is read, with its query.
fn without_body(route: ApiRoute, query: &str, rules: &ApiRules) -> Result<ApiCall, ApiError> {
    match route {
        ApiRoute::Health => Ok(ApiCall::Health),
        ApiRoute::Metrics => Ok(ApiCall::Slow(SlowCall::Metrics)),
        ApiRoute::Revocations => Ok(ApiCall::Slow(SlowCall::Revocations(input::query_pairs(query)))),
        _ => PresenceRequest::of_query(&input::query_pairs(query))?.into_ask(rules).map(ApiCall::Ask),
    }
}

fn no_endpoint() -> ApiError {
    ApiError::new(404, "this endpoint does not exist")
}

fn idempotency_key(head: &RequestHead<'_, '_>) -> Result<Option<Box<str>>, ApiError> {
    let mut values = head.values("idempotency-key");
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(ApiError::malformed("the request has two Idempotency-Key headers and may have one"));
    }
    match std::str::from_utf8(value) {
        Ok(text) if text.is_ascii() => Ok(Some(text.trim().into())),
        _ => Err(ApiError::malformed("the Idempotency-Key header must be ASCII")),
    }
}

/// What kind of body the request says that it has.
fn body_kind(head: &RequestHead<'_, '_>, route: ApiRoute) -> Result<BodyKind, ApiError> {
    let first = |name| head.values(name).next().map(<[u8]>::trim_ascii);
    if first("content-encoding").is_some_and(|coding| coding != b"identity") {
        return Err(ApiError::new(415, "the body must not be compressed"));
    }
    let essence = first("content-type").map(|kind| {
        let end = kind.iter().position(|&byte| byte == b';').unwrap_or(kind.len());
        kind[..end].trim_ascii()
    });
    let is_json = essence.is_none_or(|essence| essence.eq_ignore_ascii_case(b"application/json"));
    let is_lines = essence.is_some_and(|essence| essence.eq_ignore_ascii_case(b"application/x-ndjson"));
    match route {
        ApiRoute::Publish if is_lines => Ok(BodyKind::Lines),
        ApiRoute::Publish if !is_json => Err(ApiError::new(
            415,
            "the body must be JSON: Content-Type: application/json, or application/x-ndjson for one publication a line",
        )),
        _ if !is_json => Err(ApiError::new(415, "the body must be JSON: Content-Type: application/json")),
        ApiRoute::Publish => Ok(BodyKind::Publish),
        ApiRoute::Broadcast => Ok(BodyKind::Broadcast),
        ApiRoute::Presence => Ok(BodyKind::Presence),
        ApiRoute::History => Ok(BodyKind::History),
        ApiRoute::Revoke => Ok(BodyKind::Revoke),
        _ => Ok(BodyKind::Unrevoke),
    }
}

impl BodyPlan {
    /// The call that a whole body makes of the request.
    ///
    /// # Errors
    /// The body is not what the endpoint takes.
    pub(super) fn call(self, body: std::borrow::Cow<'_, [u8]>, rules: &ApiRules) -> Result<ApiCall, ApiError> {
        let header = self.header.as_deref();
        match self.kind {
            BodyKind::Publish => input::publish_ask(&body, header, rules).map(ApiCall::Ask),
            BodyKind::Lines => ManyPublishes::of_lines(body.into_owned()).map(ApiCall::many),
            BodyKind::Broadcast => {
                let (channels, publication) = input::broadcast(&body, header)?;
                Ok(ApiCall::many(ManyPublishes::of_broadcast(channels, publication)))
            }
            BodyKind::Presence => PresenceRequest::of_body(&body)?.into_ask(rules).map(ApiCall::Ask),
            BodyKind::History => HistoryRequest::of_body(&body)?.into_ask(rules).map(ApiCall::Ask),
            BodyKind::Revoke => Ok(ApiCall::Slow(SlowCall::Revoke(body.into_owned()))),
            BodyKind::Unrevoke => Ok(ApiCall::Slow(SlowCall::Unrevoke(body.into_owned()))),
        }
    }
}
