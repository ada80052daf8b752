//! The routes that monitoring systems ask, without a key: `/health` and `/metrics`. Both go on while the server ends:
//! a balancer learns that it must go elsewhere, and the last numbers can still be collected.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use prometheus_client::collector::Collector;
use serde::Serialize;

use super::gate::NO_KEY;
use super::response::{closing, json};
use super::state::ApiState;
use crate::api::error::ApiError;
use crate::metrics::{CONTENT_TYPE, Process};

pub(super) async fn health(State(state): State<Arc<ApiState>>) -> Response {
    #[derive(Serialize)]
    struct Health {
        status: &'static str,
        connections: usize,
        shards: usize,
    }
    let is_draining = state.is_draining();
    let (code, status) =
        if is_draining { (StatusCode::SERVICE_UNAVAILABLE, "draining") } else { (StatusCode::OK, "ok") };
    let health = Health { status, connections: state.guard.connections(), shards: state.owners.count() };
    let response = json(code, &health);
    if is_draining { closing(response) } else { response }
}

/// Metrics need a key only if the listener can be reached from other machines. They name no user and no channel.
pub(super) async fn metrics(State(state): State<Arc<ApiState>>, headers: HeaderMap) -> Result<Response, ApiError> {
    if !state.is_local && !state.admits(&headers) {
        return Err(ApiError::new(401, NO_KEY));
    }
    let revocations = state.with_ledger(|ledger, now_ms| ledger.count(now_ms) as u64);
    let process = Process { log_lines_lost: state.lost.count(), revocations };
    let mut collectors: Vec<Box<dyn Collector>> = vec![Box::new(process), Box::new(state.snapshot())];
    if let Some(key_set) = &state.key_set {
        collectors.push(Box::new(key_set.snapshot(state.now().mono_ms)));
    }
    let text = state.metrics.text(collectors).map_err(|_| ApiError::busy())?;
    Ok(([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response())
}
