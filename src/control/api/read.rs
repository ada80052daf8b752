//! `/api/presence` and `/api/history`: the members and the kept publications of one channel, page by page. Users and
//! publications look here as they do to clients.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;

use super::response::json_bytes;
use super::state::{ApiState, query_of, seat_of};
use crate::api::error::ApiError;
use crate::api::input::{HistoryRequest, PresenceRequest};
use crate::dialect::native::encode::{ObjectWriter, write_members, write_position, write_publications};
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
    let PresenceRequest { channel, cursor, limit } = wanted;
    state.check_channel(&channel)?;
    let namespace = state.namespaces.of(&channel);
    if namespace.is_some_and(|namespace| namespace.presence == PresenceMode::Off) {
        let message = "presence is off in this channel's namespace";
        return Err(ApiError::new(403, message));
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
    let mut out = Vec::new();
    let mut object = ObjectWriter::begin(&mut out);
    object.text("channel", &channel);
    object.number("count", page.count);
    write_members(&mut object, &page.members, escape);
    object.optional_text("cursor", page.cursor.as_deref());
    object.end();
    Ok(json_bytes(StatusCode::OK, out))
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
    let mut out = Vec::new();
    let mut object = ObjectWriter::begin(&mut out);
    write_position(&mut object, attached.placed.position());
    write_publications(&mut object, &attached.publications);
    object.end();
    Ok(json_bytes(StatusCode::OK, out))
}
