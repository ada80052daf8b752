//! What a request is refused with: an HTTP status, and JSON that repeats it (docs/api.md, "Errors"). The one table from
//! an owner's refusal to a status stands here. The messages are English, because developers of backends read them.

use std::borrow::Cow;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::response::json;
use crate::model::parcel::{Answer, Refusal};
use crate::model::position::Placed;
use crate::model::text::{Language, Text};

/// Why a request, or one channel's part of it, was not done, or may not have been done.
#[derive(Debug)]
pub(super) struct ApiError {
    status: StatusCode,
    message: Cow<'static, str>,
    /// The channel's position, if the channel is in another epoch than the request named.
    position: Option<Placed>,
}

/// The message of an error, attached to its response so that `gate` can log it.
#[derive(Clone, Debug)]
pub(super) struct ApiErrorMessage(pub(super) Cow<'static, str>);

/// The error as the JSON value of `error`.
#[derive(Serialize)]
pub(super) struct ErrorBody<'a> {
    code: u16,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    channel: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    epoch: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<u64>,
}

impl ApiError {
    /// An error with a message that only the API uses.
    pub(super) fn new(status: StatusCode, message: impl Into<Cow<'static, str>>) -> Self {
        Self { status, message: message.into(), position: None }
    }

    /// An error with a message that clients of the WebSocket get too.
    pub(super) fn of(status: StatusCode, text: Text) -> Self {
        Self::new(status, text.in_language(Language::En))
    }

    /// The request itself is wrong; repeating it cannot help.
    pub(super) fn malformed(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// The request was certainly not done; it may be repeated.
    pub(super) fn busy() -> Self {
        Self::of(StatusCode::SERVICE_UNAVAILABLE, Text::Busy)
    }

    /// The server is about to end; the request was certainly not done.
    pub(super) fn draining() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "the server is shutting down; the request was not done")
    }

    /// The request may have been done: no answer came in time.
    pub(super) fn unknown() -> Self {
        Self::of(StatusCode::GATEWAY_TIMEOUT, Text::Timeout)
    }

    /// The error that an owner's answer means, when it is not the answer that was asked for.
    pub(super) fn from_answer(answer: Answer) -> Self {
        match answer {
            Answer::EpochChanged(placed) => {
                Self { position: Some(placed), ..Self::of(StatusCode::CONFLICT, Text::EpochChanged) }
            }
            Answer::Refused(Refusal::TooLarge) => Self::of(StatusCode::PAYLOAD_TOO_LARGE, Text::TooLarge),
            Answer::Refused(Refusal::KeyReused) => Self::of(StatusCode::CONFLICT, Text::KeyReused),
            Answer::Refused(Refusal::TooManyChannels) => {
                let message = "the server has as many channels as limits.channels allows; the request was not done";
                Self::new(StatusCode::SERVICE_UNAVAILABLE, message)
            }
            Answer::Refused(Refusal::Busy) => Self::busy(),
            Answer::Refused(Refusal::Unanswered) => Self::unknown(),
            answer => unreachable!("no owner answers the backend with {answer:?}"),
        }
    }

    /// The JSON value of `error`.
    pub(super) fn body(&self) -> ErrorBody<'_> {
        let position = self.position.as_ref();
        ErrorBody {
            code: self.status.as_u16(),
            message: &self.message,
            channel: position.map(|placed| &*placed.channel),
            epoch: position.map(|placed| &*placed.epoch),
            offset: position.map(|placed| placed.offset),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        #[derive(Serialize)]
        struct Body<'a> {
            error: ErrorBody<'a>,
        }
        let mut response = json(self.status, &Body { error: self.body() });
        response.extensions_mut().insert(ApiErrorMessage(self.message));
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
