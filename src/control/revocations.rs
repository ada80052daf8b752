//! What was revoked, page by page, and how a revocation is taken back (docs/api.md): two routes of the API. `api` has the
//! state and the way to the shards, `ledger` the revocations and their file.

use std::sync::Arc;

use axum::extract::{Request, State as Shared};
use axum::http::StatusCode;
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;

use super::api::{State, body, json, pairs};
use super::fault::Fault;
use super::input::{self, RevocationsPage};
use crate::auth::{Lifted, Revocation, Revoked};
use crate::limits::refusals::quoted;

/// A revocation as it is shown.
#[derive(Debug, Serialize)]
struct ShownRevocation<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    token_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    issued_before: Option<u64>,
    expires_at: u64,
}

impl<'a> From<&'a Revocation> for ShownRevocation<'a> {
    fn from(revocation: &'a Revocation) -> Self {
        let (token_id, user, issued_before) = match &revocation.revoked {
            Revoked::TokenId(id) => (Some(&**id), None, None),
            Revoked::User { key, issued_before_ms } => (None, Some(&**key), Some(*issued_before_ms)),
            Revoked::IssuedBefore(before_ms) => (None, None, Some(*before_ms)),
        };
        Self { token_id, user, issued_before, expires_at: revocation.until_ms }
    }
}

/// The revocations in force.
pub async fn list(Shared(state): Shared<Arc<State>>, request: Request) -> Result<Response, Fault> {
    #[derive(Serialize)]
    struct Page<'a> {
        count: usize,
        revocations: Vec<ShownRevocation<'a>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        cursor: Option<String>,
    }
    let RevocationsPage { cursor, limit } = RevocationsPage::of_query(&pairs(&request)?)?;
    let limit = limit as usize;
    let after = cursor.as_deref().map(revocation_of).transpose()?;
    let (count, page, more) = state.with_ledger(|ledger, now_ms| {
        let (page, more) = ledger.page(after.as_ref(), limit, now_ms);
        (ledger.table().count(), page, more)
    });
    let cursor = page.last().filter(|_| more).map(cursor_behind);
    let revocations = page.iter().map(ShownRevocation::from).collect();
    Ok(json(StatusCode::OK, &Page { count, revocations, cursor }))
}

/// Takes revocations back, on every shard and in the file.
pub async fn lift(Shared(state): Shared<Arc<State>>, request: Request) -> Result<Response, Fault> {
    #[derive(Serialize)]
    struct Done {
        lifted: usize,
    }
    let (body, _asking) = body(&state, request).await?;
    let lifted = input::lifted(body.bytes())?;
    let kept = state.with_ledger(|ledger, _| ledger.lift(&lifted));
    let what = match &lifted {
        Lifted::TokenId(_) => "token_id".to_owned(),
        Lifted::User { key, issued_before_ms: None } => format!("user {}", quoted(key)),
        Lifted::User { key, issued_before_ms: Some(ms) } => format!("user {}, issued_before {ms}", quoted(key)),
        Lifted::IssuedBefore(ms) => format!("issued_before {ms}"),
    };
    tracing::info!(what, count = kept.as_ref().ok(), "revocations lifted");
    if !state.tell_lifted(lifted).await {
        // To say it twice does no harm.
        return Err(Fault::new(StatusCode::GATEWAY_TIMEOUT, "not known to be done everywhere, ask again"));
    }
    match kept {
        Ok(lifted) => Ok(json(StatusCode::OK, &Done { lifted })),
        Err(error) => {
            tracing::error!(%error, "auth.revocations_file");
            let why =
                format!("lifted, but auth.revocations_file could not be written, so a restart brings it back: {error}");
            Err(Fault::new(StatusCode::INTERNAL_SERVER_ERROR, why))
        }
    }
}

fn cursor_behind(last: &Revocation) -> String {
    URL_SAFE_NO_PAD.encode(serde_json::to_vec(last).expect("a revocation is JSON"))
}

fn revocation_of(cursor: &str) -> Result<Revocation, Fault> {
    let json = URL_SAFE_NO_PAD.decode(cursor).ok();
    json.and_then(|json| serde_json::from_slice(&json).ok())
        .ok_or_else(|| Fault::malformed("cursor is not one that was answered"))
}
