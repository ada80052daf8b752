//! Errors of the API as responses of axum: the status, and JSON that repeats it. `api::error` says which error has which
//! status.

use std::borrow::Cow;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::response::json_bytes;
use crate::api::error::ApiError;
use crate::dialect::native::encode::ObjectWriter;

/// The message of an error, attached to its response so that `gate` can log it.
#[derive(Clone, Debug)]
pub(super) struct ApiErrorMessage(pub(super) Cow<'static, str>);

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut body = Vec::new();
        let mut object = ObjectWriter::begin(&mut body);
        self.write(&mut object);
        object.end();
        let mut response = json_bytes(status, body);
        response.extensions_mut().insert(ApiErrorMessage(self.message().to_owned().into()));
        let headers = response.headers_mut();
        match status {
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
