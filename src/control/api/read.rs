//! `/api/presence` and `/api/history`: the members and the kept publications of one channel, page by page. Users and
//! publications look here as they do to clients.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Serialize;

use super::error::ApiError;
use super::input::{HistoryRequest, PresenceRequest};
use super::response::{json, json_bytes, to_json};
use super::state::{ApiState, query_of, seat_of};
use crate::dialect::native::encode::Member;
use crate::model::namespace::{LOBBY, PresenceMode};
use crate::model::parcel::{Answer, Ask};

pub(super) async fn presence(State(state): State<Arc<ApiState>>, request: Request) -> Result<Response, ApiError> {
    let (body, _waiting) = state.read_body(request).await?;
    members(&state, PresenceRequest::of_body(body.bytes())?).await
}

pub(super) async fn presence_by_query(
    State(state): State<Arc<ApiState>>,
    request: Request,
) -> Result<Response, ApiError> {
    let wanted = PresenceRequest::of_query(&query_of(&request)?)?;
    let _waiting = state.take_share(&seat_of(&request))?;
    members(&state, wanted).await
}

async fn members(state: &ApiState, wanted: PresenceRequest) -> Result<Response, ApiError> {
    #[derive(Serialize)]
    struct MembersPage<'a> {
        channel: &'a str,
        count: u64,
        members: Vec<Member<'a>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        cursor: Option<&'a str>,
    }
    let PresenceRequest { channel, cursor, limit } = wanted;
    state.check_channel(&channel)?;
    let namespace = state.namespaces.of(&channel);
    if namespace.is_some_and(|namespace| namespace.presence == PresenceMode::Off) {
        let message = "presence is off in this channel's namespace";
        return Err(ApiError::new(StatusCode::FORBIDDEN, message));
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
        other => return Err(ApiError::from_answer(other)),
    };
    let members =
        page.members.iter().map(|(user, connections)| Member { user: user.json(escape), connections: *connections });
    let shown = MembersPage {
        channel: &channel,
        count: page.count,
        members: members.collect(),
        cursor: page.cursor.as_deref(),
    };
    Ok(json(StatusCode::OK, &shown))
}

pub(super) async fn history(State(state): State<Arc<ApiState>>, request: Request) -> Result<Response, ApiError> {
    let (body, _waiting) = state.read_body(request).await?;
    let HistoryRequest { channel, since, limit, reverse } = HistoryRequest::of_body(body.bytes())?;
    state.check_channel(&channel)?;
    let ask = Ask::History { channel: channel.as_str().into(), since, limit, reverse };
    let attached = match state.ask(&channel, ask).await? {
        Answer::History(attached) => attached,
        other => return Err(ApiError::from_answer(other)),
    };
    // Publications are kept encoded, so they are put in as they are.
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
