//! What was revoked, page by page, and how a revocation is taken back (docs/api.md): two routes of the API. `api` has the
//! state and the way to the shards, `ledger` the revocations and their file.

use std::sync::Arc;

use axum::extract::{Query, Request, State as Shared};
use axum::http::StatusCode;
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use super::api::{State, body, json};
use super::fault::Fault;
use super::input::{self, user_key, which_tokens};
use crate::auth::{Lifted, Revocation, Revoked};
use crate::refusals::quoted;

/// `POST /api/unrevoke`: the fields of `/api/revoke` that say which tokens.
#[derive(Debug, Deserialize)]
struct Unrevoke {
    user: Option<serde_json::Value>,
    token_id: Option<String>,
    issued_before: Option<u64>,
}

/// `GET /api/revocations`: a query.
#[derive(Debug, Deserialize)]
struct RevocationsPage {
    cursor: Option<String>,
    limit: Option<u64>,
}

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

impl Unrevoke {
    fn lifted(self) -> Result<Lifted, Fault> {
        match (self.user, self.token_id, self.issued_before) {
            (None, Some(id), None) => Ok(Lifted::TokenId(id.into())),
            (Some(user), None, issued_before_ms) => Ok(Lifted::User { key: user_key(&user)?, issued_before_ms }),
            (None, None, Some(before_ms)) => Ok(Lifted::IssuedBefore(before_ms)),
            _ => Err(which_tokens()),
        }
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
    let wanted = Query::<RevocationsPage>::try_from_uri(request.uri())
        .map_err(|error| Fault::malformed(format!("the query can't be read: {error}")))?
        .0;
    let limit = input::page(wanted.limit)? as usize;
    let after = wanted.cursor.as_deref().map(revocation_of).transpose()?;
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
    let body = body(&state, request).await?;
    let lifted = input::parse::<Unrevoke>(&body)?.lifted()?;
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
