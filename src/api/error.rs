//! What a request is refused with: an HTTP status, and JSON that repeats it (docs/api.md, "Errors"). The one table from
//! an owner's refusal to a status stands here. The messages are English, because developers of backends read them.

use std::borrow::Cow;

use crate::dialect::native::encode::{ObjectWriter, write_position};
use crate::model::parcel::{Answer, Refusal};
use crate::model::position::Placed;
use crate::model::text::{Language, Text};
use crate::wire::http::HttpFault;

/// Why a request, or one channel's part of it, was not done, or may not have been done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiError {
    status: u16,
    message: Cow<'static, str>,
    /// The channel's position, if the channel is in another epoch than the request named.
    position: Option<Box<Placed>>,
}

impl ApiError {
    /// An error with a message that only the API uses.
    pub(crate) fn new(status: u16, message: impl Into<Cow<'static, str>>) -> Self {
        Self { status, message: message.into(), position: None }
    }

    /// An error with a message that clients of the WebSocket get too.
    pub(crate) fn of(status: u16, text: Text) -> Self {
        Self::new(status, text.in_language(Language::En))
    }

    /// The request itself is wrong; repeating it cannot help.
    pub(crate) fn malformed(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(400, message)
    }

    /// The request was certainly not done; it may be repeated.
    pub(crate) fn busy() -> Self {
        Self::of(503, Text::Busy)
    }

    /// The server is about to end; the request was certainly not done.
    pub(crate) fn draining() -> Self {
        Self::new(503, "the server is shutting down; the request was not done")
    }

    /// The request may have been done: no answer came in time.
    pub(crate) fn unknown() -> Self {
        Self::of(504, Text::Timeout)
    }

    /// The body did not arrive within the deadline of a request.
    pub(crate) fn body_late() -> Self {
        Self::new(408, "the body did not arrive within limits.request_ms; the request was not done")
    }

    /// The client ended its direction of the stream within the body.
    pub(crate) fn body_broken_off() -> Self {
        Self::malformed("the connection ended within the body")
    }

    /// The body is over `most` bytes.
    pub(crate) fn body_too_large(most: usize) -> Self {
        Self::new(413, format!("the body is too large: it may have {most} bytes"))
    }

    /// The error that an owner's answer means, when it is not the answer that was asked for.
    pub(crate) fn from_answer(answer: Answer) -> Self {
        match answer {
            Answer::EpochChanged(placed) => {
                Self { position: Some(Box::new(placed)), ..Self::of(409, Text::EpochChanged) }
            }
            Answer::Refused(Refusal::TooLarge) => Self::of(413, Text::TooLarge),
            Answer::Refused(Refusal::KeyReused) => Self::of(409, Text::KeyReused),
            Answer::Refused(Refusal::TooManyChannels) => {
                let message = "the server has as many channels as limits.channels allows; the request was not done";
                Self::new(503, message)
            }
            Answer::Refused(Refusal::Busy) => Self::busy(),
            Answer::Refused(Refusal::Unanswered) => Self::unknown(),
            answer => unreachable!("no owner answers the backend with {answer:?}"),
        }
    }

    /// The HTTP status, which is also the `code` of the JSON.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// The sentence for people.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Writes the member `error` of a response.
    pub(crate) fn write(&self, object: &mut ObjectWriter<'_>) {
        object.object("error", |error| {
            error.number("code", u64::from(self.status));
            error.text("message", &self.message);
            if let Some(placed) = &self.position {
                write_position(error, placed.position());
            }
        });
    }
}

impl From<HttpFault> for ApiError {
    fn from(fault: HttpFault) -> Self {
        let status = match fault {
            HttpFault::HeadTooLarge => 431,
            HttpFault::Coding => 501,
            HttpFault::Expectation => 417,
            _ => 400,
        };
        Self::new(status, fault.to_string())
    }
}
