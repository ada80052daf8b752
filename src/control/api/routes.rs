//! The router of the API (docs/api.md): which path is answered by which function, and in which order the layers of
//! `gate` stand in front of them.

use std::sync::Arc;

use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::{get, post};

use super::state::ApiState;
use super::{gate, monitoring, publish, read, revocations};
use crate::api::error::ApiError;

/// All routes, with what stands in front of them.
pub(super) fn router(state: Arc<ApiState>) -> axum::Router {
    let with_key = axum::Router::new()
        .route("/api/publish", post(publish::publish))
        .route("/api/broadcast", post(publish::broadcast))
        .route("/api/presence", get(read::presence_by_query).post(read::presence))
        .route("/api/history", post(read::history))
        .route("/api/revoke", post(revocations::revoke))
        .route("/api/unrevoke", post(revocations::lift))
        .route("/api/revocations", get(revocations::list))
        .fallback(|| async { ApiError::new(404, "this endpoint does not exist") })
        .method_not_allowed_fallback(|| async {
            let message = "this endpoint does not take this method; the Allow header lists those that it takes";
            ApiError::new(405, message)
        })
        .layer(from_fn_with_state(Arc::clone(&state), gate::key))
        .with_state(Arc::clone(&state));
    // A monitoring system needs no right to publish.
    let without_key = axum::Router::new()
        .route("/health", get(monitoring::health))
        .route("/metrics", get(monitoring::metrics))
        .method_not_allowed_fallback(|| async { ApiError::new(405, "this endpoint takes GET and HEAD only") })
        .with_state(Arc::clone(&state));
    // The last layer is the outermost one.
    without_key
        .merge(with_key)
        .layer(from_fn_with_state(Arc::clone(&state), gate::known_host))
        .layer(from_fn_with_state(Arc::clone(&state), gate::cors))
        .layer(from_fn(gate::whole_server))
        .layer(from_fn_with_state(state, gate::log))
}
