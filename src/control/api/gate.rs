//! What stands in front of the routes, outermost first: the log of requests, requests about the server as a whole, CORS,
//! the check of the Host header, and the check of the key. The key is checked before anything but a request's head is
//! read.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

use super::error::ApiErrorMessage;
use super::hosts::host_of;
use super::response::closing;
use super::state::{ApiState, seat_of};
use crate::api::error::ApiError;
use crate::limits::refusals::{RefusalNote, quoted, quoted_place, quoted_up_to};

/// What a request without a valid key is answered with.
pub(super) const NO_KEY: &str = "a valid API key is needed: Authorization: Bearer KEY";
/// How many characters of an error's message the log shows.
const MESSAGE_CHARS: usize = 200;

/// Logs each request at debug, and each refused one at info too. A `/health` that says "draining" is no refusal.
pub(super) async fn log(State(state): State<Arc<ApiState>>, request: Request, next: Next) -> Response {
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
        state.metrics.api_refused(status.as_u16());
        let reason = match status {
            StatusCode::UNAUTHORIZED => "api_unauthorized",
            StatusCode::NOT_FOUND => "api_not_found",
            status if status.is_server_error() => "api_not_done",
            _ => "api_refused",
        };
        let note = RefusalNote { reason, client: peer, conn: None, user: None };
        state.refusals.tell(&note, state.now().mono_ms, || {
            let message = response.extensions().get::<ApiErrorMessage>().map_or("", |message| &message.0);
            let method = quoted(method.as_str());
            let message = quoted_up_to(MESSAGE_CHARS, message);
            format!("{method} {}: {} {message}", quoted_place(&path), status.as_u16())
        });
    }
    response
}

/// Refuses requests that name no host or two, and answers requests about the server as a whole.
pub(super) async fn whole_server(request: Request, next: Next) -> Response {
    if let Err(error) = host_of(&request) {
        return closing(error.into_response());
    }
    if request.method() == Method::CONNECT {
        let message = "this server is not a proxy: CONNECT is not supported";
        return ApiError::new(405, message).into_response();
    }
    if request.method() == Method::OPTIONS && request.uri().path() == "*" {
        return (StatusCode::NO_CONTENT, [(header::ALLOW, "GET, HEAD, POST, OPTIONS")]).into_response();
    }
    next.run(request).await
}

/// Lets pages of the configured origins read responses, and answers the preflight request of a browser (Fetch §4.8).
/// Other pages get the same response without the headers, and the browser keeps it from them.
pub(super) async fn cors(State(state): State<Arc<ApiState>>, request: Request, next: Next) -> Response {
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

/// Refuses requests without a key that name a foreign host, and answers OPTIONS.
pub(super) async fn known_host(State(state): State<Arc<ApiState>>, request: Request, next: Next) -> Response {
    let host = host_of(&request).unwrap_or_default();
    if !state.hosts.serve(host) && !state.admits(request.headers()) {
        let message = "without an API key, the Host header must name this machine or be in http.hosts";
        return ApiError::new(403, message).into_response();
    }
    // A connection that pipelines requests without a key gets one answer per round of all connections.
    tokio::task::yield_now().await;
    let asks_methods = request.method() == Method::OPTIONS;
    let response = next.run(request).await;
    if asks_methods && response.status() == StatusCode::METHOD_NOT_ALLOWED {
        // The router adds the Allow header to this response, which is what OPTIONS asks for (RFC 9110 §9.3.7).
        return StatusCode::NO_CONTENT.into_response();
    }
    response
}

/// Refuses requests without a valid key, and all requests while the server ends. Not in front of `/health` and
/// `/metrics`.
pub(super) async fn key(State(state): State<Arc<ApiState>>, request: Request, next: Next) -> Response {
    if request.method() == Method::OPTIONS {
        return next.run(request).await;
    }
    if !state.admits(request.headers()) {
        return ApiError::new(401, NO_KEY).into_response();
    }
    seat_of(&request).recognize();
    if state.is_draining() {
        return closing(ApiError::draining().into_response());
    }
    let under_way = state.begin_request();
    let response = next.run(request).await;
    drop(under_way);
    if state.is_draining() { closing(response) } else { response }
}
