//! `POST /api/publish` and `POST /api/broadcast`. A broadcast asks the owners of its channels in order, a bounded number
//! at a time, and reports one outcome per channel.

use std::collections::VecDeque;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use serde::Serialize;
use tokio::time::Instant;

use super::response::json;
use super::state::{ApiState, not_asked};
use crate::api::error::ApiError;
use crate::api::input::{self, PublicationInput};
use crate::control::owners::NotAsked;
use crate::dialect::native::encode::ObjectWriter;
use crate::model::parcel::{Answer, Ask};
use crate::model::position::Placed;

/// How many channels of one broadcast are asked at a time. It is a part of what a shard's queue of commands holds.
const BROADCAST_WINDOW: usize = 32;

/// The place of an accepted publication and whether it is a duplicate, or why it was not accepted.
type PublishOutcome = Result<(Placed, bool), ApiError>;

/// An accepted publication, as it is answered.
#[derive(Serialize)]
struct PublishedBody<'a> {
    channel: &'a str,
    epoch: &'a str,
    offset: u64,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    duplicate: bool,
}

/// The outcome of one channel of a broadcast, as it is answered.
#[derive(Serialize)]
#[serde(untagged)]
enum BroadcastEntry<'a> {
    Published(PublishedBody<'a>),
    Failed { channel: &'a str, error: serde_json::Value },
}

pub(super) async fn publish(State(state): State<Arc<ApiState>>, request: Request) -> Result<Response, ApiError> {
    let header = idempotency_key(request.headers())?;
    let (body, _waiting) = state.read_body(request).await?;
    let publish = input::publish_body(body.bytes(), header.as_deref())?;
    let channel = Arc::clone(&publish.channel);
    state.check_channel(&channel)?;
    let answer = state.ask(&channel, Ask::Publish(publish)).await?;
    let (placed, duplicate) = outcome_of(answer)?;
    Ok(json(StatusCode::OK, &PublishedBody::new(&placed, duplicate)))
}

pub(super) async fn broadcast(State(state): State<Arc<ApiState>>, request: Request) -> Result<Response, ApiError> {
    #[derive(Serialize)]
    struct Results<'a> {
        results: Vec<BroadcastEntry<'a>>,
    }
    let header = idempotency_key(request.headers())?;
    let (body, _waiting) = state.read_body(request).await?;
    let (channels, publication) = input::broadcast(body.bytes(), header.as_deref())?;
    let outcomes = publish_to_all(&state, &channels, &publication).await;
    let results = channels
        .iter()
        .map(|channel| &**channel)
        .zip(&outcomes)
        .map(|(channel, outcome)| entry_of(channel, outcome))
        .collect();
    Ok(json(StatusCode::OK, &Results { results }))
}

fn entry_of<'a>(channel: &'a str, outcome: &'a PublishOutcome) -> BroadcastEntry<'a> {
    match outcome {
        &Ok((ref placed, duplicate)) => BroadcastEntry::Published(PublishedBody::new(placed, duplicate)),
        Err(error) => {
            let mut body = Vec::new();
            let mut object = ObjectWriter::begin(&mut body);
            error.write(&mut object);
            object.end();
            let mut body: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
            BroadcastEntry::Failed { channel, error: body["error"].take() }
        }
    }
}

/// Publishes to each channel, [`BROADCAST_WINDOW`] at a time. The outcomes are in the order of the channels.
async fn publish_to_all(
    state: &ApiState,
    channels: &[Arc<str>],
    publication: &PublicationInput,
) -> Vec<PublishOutcome> {
    let deadline = Instant::now() + state.patience;
    let mut waiting = VecDeque::new();
    let mut outcomes = Vec::with_capacity(channels.len());
    for channel in channels {
        if waiting.len() >= BROADCAST_WINDOW {
            finish_oldest(state, &mut waiting, &mut outcomes, deadline).await;
        }
        let mut ask = state.check_channel(channel).map(|()| Ask::Publish(publication.to(Arc::clone(channel))));
        let asked = loop {
            let next = match ask {
                Ok(_) if Instant::now() >= deadline => break Err(ApiError::busy()),
                Ok(next) => next,
                Err(error) => break Err(error),
            };
            match state.owners.ask(channel, next) {
                Ok(answer) => break Ok(answer),
                // This broadcast itself helped to fill the queue: wait for its oldest ask, then try again.
                Err(NotAsked::Full(returned)) if !waiting.is_empty() => {
                    finish_oldest(state, &mut waiting, &mut outcomes, deadline).await;
                    ask = Ok(returned);
                }
                Err(why) => break Err(not_asked(why)),
            }
        };
        waiting.push_back(asked);
    }
    while !waiting.is_empty() {
        finish_oldest(state, &mut waiting, &mut outcomes, deadline).await;
    }
    outcomes
}

async fn finish_oldest(
    state: &ApiState,
    waiting: &mut VecDeque<Result<flume::Receiver<Answer>, ApiError>>,
    outcomes: &mut Vec<PublishOutcome>,
    deadline: Instant,
) {
    match waiting.pop_front() {
        Some(Ok(answer)) => outcomes.push(state.wait(&answer, deadline).await.and_then(outcome_of)),
        Some(Err(error)) => outcomes.push(Err(error)),
        None => {}
    }
}

fn outcome_of(answer: Answer) -> PublishOutcome {
    match answer {
        Answer::Published { placed, duplicate } => Ok((placed, duplicate)),
        other => Err(ApiError::from_answer(other)),
    }
}

impl<'a> PublishedBody<'a> {
    fn new(placed: &'a Placed, duplicate: bool) -> Self {
        Self { channel: &placed.channel, epoch: &placed.epoch, offset: placed.offset, duplicate }
    }
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    let mut values = headers.get_all("idempotency-key").iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(ApiError::malformed("the request has two Idempotency-Key headers and may have one"));
    }
    let text = value.to_str().map_err(|_| ApiError::malformed("the Idempotency-Key header must be ASCII"))?;
    Ok(Some(text.to_owned()))
}
