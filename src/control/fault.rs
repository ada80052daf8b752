//! What a request is refused with: an HTTP status and the JSON that says it again (docs/api.md, "Errors"). One table
//! of the owners' refusals. Its sentences are English: they are read by whoever writes the backend. Called by `api`
//! and `input`; knows no route.

use std::borrow::Cow;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::api::json;
use crate::model::parcel::{Answer, Placed, Refusal};
use crate::model::text::{Language, Text};

/// Why a request, or one channel's part of it, was not done or not known to be.
#[derive(Debug)]
pub struct Fault {
    status: StatusCode,
    message: Cow<'static, str>,
    /// Where the channel stands, if it is in another epoch than the request named.
    position: Option<Placed>,
}

/// The sentence of a fault, beside the response that says it: for the log.
#[derive(Clone, Debug)]
pub struct FaultMessage(pub Cow<'static, str>);

/// The fault as it stands under `error`.
#[derive(Serialize)]
pub struct Shown<'a> {
    code: u16,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    channel: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    epoch: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<u64>,
}

impl Fault {
    /// With a sentence of its own.
    pub fn new(status: StatusCode, message: impl Into<Cow<'static, str>>) -> Self {
        Self { status, message: message.into(), position: None }
    }

    /// With a sentence that clients read too.
    pub fn of(status: StatusCode, text: Text) -> Self {
        Self::new(status, text.in_language(Language::En))
    }

    /// The request itself is wrong.
    pub fn malformed(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// Certainly not done; it may be tried again.
    pub fn busy() -> Self {
        Self::of(StatusCode::SERVICE_UNAVAILABLE, Text::Busy)
    }

    /// The server is about to end.
    pub fn draining() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "the server is going away, not done")
    }

    /// It may have been done.
    pub fn unknown() -> Self {
        Self::of(StatusCode::GATEWAY_TIMEOUT, Text::Timeout)
    }

    /// What an owner's answer means that is not the one that was asked for.
    pub fn from_answer(answer: Answer) -> Self {
        match answer {
            Answer::EpochChanged(placed) => {
                Self { position: Some(placed), ..Self::of(StatusCode::CONFLICT, Text::EpochChanged) }
            }
            Answer::Refused(Refusal::TooLarge) => Self::of(StatusCode::PAYLOAD_TOO_LARGE, Text::TooLarge),
            Answer::Refused(Refusal::KeyReused) => Self::of(StatusCode::CONFLICT, Text::KeyReused),
            Answer::Refused(Refusal::TooManyChannels) => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "there are as many channels as there may be, not done")
            }
            Answer::Refused(Refusal::Busy) => Self::busy(),
            Answer::Refused(Refusal::Unanswered) => Self::unknown(),
            answer => unreachable!("the backend is not answered {answer:?}"),
        }
    }

    /// What stands under `error`.
    pub fn shown(&self) -> Shown<'_> {
        let position = self.position.as_ref();
        Shown {
            code: self.status.as_u16(),
            message: &self.message,
            channel: position.map(|placed| &*placed.channel),
            epoch: position.map(|placed| &*placed.epoch),
            offset: position.map(|placed| placed.offset),
        }
    }
}

impl IntoResponse for Fault {
    fn into_response(self) -> Response {
        #[derive(Serialize)]
        struct Body<'a> {
            error: Shown<'a>,
        }
        let mut response = json(self.status, &Body { error: self.shown() });
        response.extensions_mut().insert(FaultMessage(self.message));
        let headers = response.headers_mut();
        match self.status {
            StatusCode::SERVICE_UNAVAILABLE => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            }
            StatusCode::UNAUTHORIZED => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            _ => {}
        }
        response
    }
}
