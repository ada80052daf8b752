//! The bodies of requests: their type, their size, and the memory that all of them take together. `state` says how long
//! reading one may take.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::body::{Body, HttpBody as _};
use axum::http::{HeaderMap, header};

use super::connections::Seats;
use super::counts::ApiBound;
use crate::api::error::ApiError;

/// What a body may have beside its content, in bytes: a broadcast's list of channels.
const LIST_BYTES: usize = 256 * 1024;
/// The bytes that all bodies may take together while they are read or their requests wait for shards. A single body always
/// fits.
const TOGETHER_BYTES: usize = 256 << 20;

/// Counts the bytes of all bodies that are held at the moment.
#[derive(Debug)]
pub(crate) struct Bodies {
    seats: Arc<Seats>,
    /// The most bytes that one body may have.
    each: usize,
    /// The bytes of all bodies that are held at the moment.
    together: AtomicUsize,
}

/// A body that was read. Its bytes count in [`Bodies`] until this value is dropped.
#[derive(Debug)]
pub(crate) struct HeldBody {
    of: Arc<Bodies>,
    bytes: Vec<u8>,
    counted: usize,
}

impl Bodies {
    /// `push_bytes` is the size of the largest push: a body has room for what makes one.
    pub(crate) fn new(seats: Arc<Seats>, push_bytes: usize) -> Arc<Self> {
        // A text may come with every character escaped, in twice the bytes.
        let each = push_bytes.saturating_mul(2).saturating_add(LIST_BYTES);
        Arc::new(Self { seats, each, together: AtomicUsize::new(0) })
    }

    /// Reads a whole body.
    ///
    /// # Errors
    /// When it is too large, its headers say that it is not JSON, it breaks off, or there is no room for it.
    pub(crate) async fn read(self: &Arc<Self>, headers: &HeaderMap, mut body: Body) -> Result<HeldBody, ApiError> {
        check_type(headers)?;
        let (mut held, mut dropped) = (self.hold(), 0);
        while let Some(frame) = std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
            let frame = frame.map_err(|_| ApiError::malformed("the connection ended within the body"))?;
            let Ok(data) = frame.into_data() else { continue };
            if dropped == 0 && held.bytes.len() + data.len() <= self.each {
                held.push(&data)?;
                continue;
            }
            // Reads on a little and discards it: a peer whose writes fail would not read the response.
            held = self.hold();
            dropped += data.len();
            if dropped > self.each {
                break;
            }
        }
        if dropped > 0 {
            let message = format!("the body is too large: it may have {} bytes", self.each);
            return Err(ApiError::new(413, message));
        }
        Ok(held)
    }

    fn hold(self: &Arc<Self>) -> HeldBody {
        HeldBody { of: Arc::clone(self), bytes: Vec::new(), counted: 0 }
    }
}

impl HeldBody {
    /// The body's bytes, all of them.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn push(&mut self, data: &[u8]) -> Result<(), ApiError> {
        let before = self.of.together.fetch_add(data.len(), Ordering::Relaxed);
        self.counted += data.len();
        if before + data.len() > TOGETHER_BYTES.max(self.of.each) {
            self.of.seats.counts.count(ApiBound::Bodies);
            return Err(ApiError::busy());
        }
        self.bytes.extend_from_slice(data);
        Ok(())
    }
}

impl Drop for HeldBody {
    fn drop(&mut self) {
        self.of.together.fetch_sub(self.counted, Ordering::Relaxed);
    }
}

fn check_type(headers: &HeaderMap) -> Result<(), ApiError> {
    let unsupported = |message| Err(ApiError::new(415, message));
    if headers.get(header::CONTENT_ENCODING).is_some_and(|coding| coding != "identity") {
        return unsupported("the body must not be compressed");
    }
    let kind = headers.get(header::CONTENT_TYPE).map(|value| value.to_str().unwrap_or_default());
    let essence = kind.map(|kind| kind.split(';').next().unwrap_or_default().trim());
    match essence {
        Some(essence) if !essence.eq_ignore_ascii_case("application/json") => {
            unsupported("the body must be JSON: Content-Type: application/json")
        }
        _ => Ok(()),
    }
}
