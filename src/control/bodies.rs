//! The bodies of requests: of which type, how large, and how much all of them take together. Called by `api`, which
//! says how long one may take.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::body::{Body, HttpBody as _};
use axum::http::{HeaderMap, StatusCode, header};

use super::connections::Seats;
use super::counts::ApiBound;
use super::fault::Fault;

/// A body's room beside its content: a broadcast's list of channels.
const LIST_BYTES: usize = 256 * 1024;
/// What the bodies that are being read, or whose requests are with the shards, may take together; one always finds room.
const TOGETHER_BYTES: usize = 256 << 20;

/// All bodies.
#[derive(Debug)]
pub struct Bodies {
    seats: Arc<Seats>,
    /// Most that one may have, in bytes.
    each: usize,
    /// What those take that are held at the moment.
    together: AtomicUsize,
}

/// A body that was read. It counts among all bodies as long as it is held.
#[derive(Debug)]
pub struct HeldBody {
    of: Arc<Bodies>,
    bytes: Vec<u8>,
    counted: usize,
}

impl Bodies {
    /// With room for what may be pushed.
    pub fn new(seats: Arc<Seats>, push_bytes: usize) -> Arc<Self> {
        // A text may come with every character escaped, in twice the bytes.
        let each = push_bytes.saturating_mul(2).saturating_add(LIST_BYTES);
        Arc::new(Self { seats, each, together: AtomicUsize::new(0) })
    }

    /// Reads a body.
    ///
    /// # Errors
    /// When it is too large, not JSON by its headers, or broken off, or when there is no room for it.
    pub async fn read(self: &Arc<Self>, headers: &HeaderMap, mut body: Body) -> Result<HeldBody, Fault> {
        check_type(headers)?;
        let (mut held, mut dropped) = (self.hold(), 0);
        while let Some(frame) = std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
            let frame = frame.map_err(|_| Fault::malformed("the body broke off"))?;
            let Ok(data) = frame.into_data() else { continue };
            if dropped == 0 && held.bytes.len() + data.len() <= self.each {
                held.push(&data)?;
                continue;
            }
            // Some more is taken and thrown away: a peer whose writes are cut would not read the answer.
            held = self.hold();
            dropped += data.len();
            if dropped > self.each {
                break;
            }
        }
        if dropped > 0 {
            let message = format!("the body may have {} bytes", self.each);
            return Err(Fault::new(StatusCode::PAYLOAD_TOO_LARGE, message));
        }
        Ok(held)
    }

    fn hold(self: &Arc<Self>) -> HeldBody {
        HeldBody { of: Arc::clone(self), bytes: Vec::new(), counted: 0 }
    }
}

impl HeldBody {
    /// The whole body.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn push(&mut self, data: &[u8]) -> Result<(), Fault> {
        let before = self.of.together.fetch_add(data.len(), Ordering::Relaxed);
        self.counted += data.len();
        if before + data.len() > TOGETHER_BYTES.max(self.of.each) {
            self.of.seats.counts.count(ApiBound::Bodies);
            return Err(Fault::busy());
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

fn check_type(headers: &HeaderMap) -> Result<(), Fault> {
    let unsupported = |message| Err(Fault::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message));
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
