//! `POST /api/revoke`, `POST /api/unrevoke` and `GET /api/revocations`: tokens are revoked, a revocation is taken back,
//! and the revocations in force are listed page by page. `ledger` keeps them and writes their file.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;

use super::call_state::CallState;
use super::ledger::NotKept;
use crate::api::calls::SlowAnswer;
use crate::api::error::ApiError;
use crate::api::input::{self, RevocationsRequest};
use crate::auth::{Lifted, Revocation, Revoked};
use crate::limits::Peer;
use crate::limits::refusals::quoted;

/// The answer when some shard may not know of a change yet. The change may safely be asked for again.
const NOT_EVERYWHERE: &str = "some shards did not confirm the change in time; repeat the request";

/// A revocation, as it is listed.
#[derive(Debug, Serialize)]
struct RevocationBody<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    token_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    issued_before: Option<u64>,
    expires_at: u64,
}

impl<'a> From<&'a Revocation> for RevocationBody<'a> {
    fn from(revocation: &'a Revocation) -> Self {
        let (token_id, user, issued_before) = match &revocation.revoked {
            Revoked::TokenId(id) => (Some(&**id), None, None),
            Revoked::User { key, issued_before_ms } => (None, Some(&**key), Some(*issued_before_ms)),
            Revoked::IssuedBefore(before_ms) => (None, None, Some(*before_ms)),
        };
        Self { token_id, user, issued_before, expires_at: revocation.until_ms }
    }
}

/// Revokes tokens. Answers when no connection lives by one of them any more, on any shard.
pub(super) async fn revoke(state: &CallState, peer: Peer, body: &[u8]) -> Result<SlowAnswer, ApiError> {
    #[derive(Serialize)]
    struct RevokedBody {
        expires_at: u64,
        connections: u64,
        #[serde(skip_serializing_if = "Option::is_none")]
        warning: Option<&'static str>,
    }
    let peer = Some(tracing::field::display(peer));
    let revocation = input::revocation(body, state.now().unix_ms, state.revocations_kept_ms)?;
    let kept = state.with_ledger(|ledger, now_ms| ledger.add(&revocation, now_ms));
    if matches!(kept, Err(NotKept::Full)) {
        return Err(ApiError::new(
            507,
            "there are as many revocations as limits.revocations allows, so this one was not done; issued_before \
             without user covers all users with one revocation",
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
    let Some(connections) = state.tell_revoked(revocation).await else {
        return Err(ApiError::new(504, NOT_EVERYWHERE));
    };
    if let Err(error) = kept {
        tracing::error!(%error, "a revocation");
        return Err(ApiError::new(500, error.to_string()));
    }
    if everyone {
        tracing::warn!(client = peer, revoked, expires_at, connections, "revoked for everyone, tokens without iat too");
    } else {
        tracing::info!(client = peer, revoked, expires_at, connections, "revoked");
    }
    Ok(json(&RevokedBody { expires_at, connections, warning }))
}

/// Lists the revocations in force, a page of them.
pub(super) fn list(state: &CallState, query: &[(String, String)]) -> Result<SlowAnswer, ApiError> {
    #[derive(Serialize)]
    struct RevocationsPage<'a> {
        count: usize,
        revocations: Vec<RevocationBody<'a>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        cursor: Option<String>,
    }
    let RevocationsRequest { cursor, limit } = RevocationsRequest::of_query(query)?;
    let limit = limit as usize;
    let after = cursor.as_deref().map(revocation_of).transpose()?;
    let (count, page, more) = state.with_ledger(|ledger, now_ms| {
        let (page, more) = ledger.page(after.as_ref(), limit, now_ms);
        (ledger.table().count(), page, more)
    });
    let cursor = page.last().filter(|_| more).map(cursor_after);
    let revocations = page.iter().map(RevocationBody::from).collect();
    Ok(json(&RevocationsPage { count, revocations, cursor }))
}

/// Takes revocations back, on every shard and in the file.
pub(super) async fn lift(state: &CallState, body: &[u8]) -> Result<SlowAnswer, ApiError> {
    #[derive(Serialize)]
    struct LiftedBody {
        lifted: usize,
    }
    let lifted = input::lifted(body)?;
    let kept = state.with_ledger(|ledger, _| ledger.lift(&lifted));
    tracing::info!(what = lifted_words(&lifted), count = kept.as_ref().ok(), "revocations lifted");
    if !state.tell_lifted(lifted).await {
        return Err(ApiError::new(504, NOT_EVERYWHERE));
    }
    match kept {
        Ok(lifted) => Ok(json(&LiftedBody { lifted })),
        Err(error) => {
            tracing::error!(%error, "auth.revocations_file");
            let why =
                format!("lifted, but auth.revocations_file could not be written, so a restart brings it back: {error}");
            Err(ApiError::new(500, why))
        }
    }
}

/// An answer with a JSON body.
fn json(value: &impl Serialize) -> SlowAnswer {
    let bytes = serde_json::to_vec(value).expect("these types have string keys and no failing fields");
    SlowAnswer { content_type: "application/json", bytes }
}

/// What is revoked, for the log. The id of a token is left out.
fn revoked_words(revoked: &Revoked) -> String {
    match revoked {
        Revoked::TokenId(_) => "token_id".to_owned(),
        Revoked::User { key, issued_before_ms } => format!("user {}, issued_before {issued_before_ms}", quoted(key)),
        Revoked::IssuedBefore(before_ms) => format!("issued_before {before_ms}"),
    }
}

/// What is taken back, for the log. The id of a token is left out.
fn lifted_words(lifted: &Lifted) -> String {
    match lifted {
        Lifted::TokenId(_) => "token_id".to_owned(),
        Lifted::User { key, issued_before_ms: None } => format!("user {}", quoted(key)),
        Lifted::User { key, issued_before_ms: Some(ms) } => format!("user {}, issued_before {ms}", quoted(key)),
        Lifted::IssuedBefore(ms) => format!("issued_before {ms}"),
    }
}

fn cursor_after(last: &Revocation) -> String {
    URL_SAFE_NO_PAD.encode(serde_json::to_vec(last).expect("a revocation is JSON"))
}

fn revocation_of(cursor: &str) -> Result<Revocation, ApiError> {
    let json = URL_SAFE_NO_PAD.decode(cursor).ok();
    json.and_then(|json| serde_json::from_slice(&json).ok())
        .ok_or_else(|| ApiError::malformed("cursor must be one that a page before ended with"))
}
