//! One connection of the API: its bytes go in as they arrive, whole requests come out in their order. How the bytes were
//! cut does not matter. Requests may follow each other without waiting for answers (RFC 9112 §9.3.2).
//!
//! Between two requests nothing is held on the heap. A body that arrives at once is read where it lies.

use std::borrow::Cow;

use super::calls::{ApiCall, ApiRequest};
use super::error::ApiError;
use super::gate::{self, BodyPlan, HeadVerdict};
use super::reply::ApiReply;
use super::rules::ApiRules;
use crate::wire::http::body::BodyDecoder;
use crate::wire::http::{BodyFraming, HeaderRoom, HttpFault, RequestHead};

/// What is kept of one connection between two reads.
#[derive(Debug, Default)]
pub struct ApiConnection {
    /// Bytes that are not read yet: the beginning of a head, or what [`ApiConnection::hold`] was given.
    held: Vec<u8>,
    /// The bytes at the front of `held` that have been read.
    read: usize,
    /// The body that has begun and is not complete.
    body: Option<Box<OpenBody>>,
    /// The last request was given out: nothing more is read.
    is_over: bool,
}

/// A body that has begun.
#[derive(Debug)]
struct OpenBody {
    decoder: BodyDecoder,
    /// The request that waits for the body; `None` if it was given out, and the body is only read over.
    waiting: Option<WaitingRequest>,
    bytes: Vec<u8>,
    /// The bytes that were read over because the body is too large or is not asked for.
    dropped: usize,
    /// The most bytes that are kept, and the most that are read over.
    most: usize,
    /// The client waits for `100 Continue`, and has not been told.
    waits: bool,
}

/// A request that waits for its body.
#[derive(Debug)]
struct WaitingRequest {
    plan: BodyPlan,
    reply: ApiReply,
    has_key: bool,
}

/// What [`ApiConnection::next`] came to.
#[derive(Debug)]
pub enum ApiStep {
    /// A request, or a refusal of what may not even be one.
    Request(ApiRequest),
    /// `CONTINUE` is to be sent, in the order of the answers, and then `next` is to be called again.
    Continue,
    /// All bytes have been read.
    More,
}

/// What a connection waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ApiPhase {
    /// A request.
    Idle,
    /// The rest of a head.
    Head,
    /// The rest of a body.
    Body,
    /// Nothing: its last request was given out. What still arrives is dropped.
    Over,
}

impl ApiConnection {
    /// Reads the next request. Takes bytes off `input`: all of them if there is no whole request. Call it until it returns
    /// [`ApiStep::More`], or stop with [`ApiConnection::hold`].
    pub fn next(&mut self, input: &mut &[u8], rules: &ApiRules) -> ApiStep {
        if self.held.is_empty() {
            let step = self.advance(input, rules);
            if matches!(step, ApiStep::More) {
                // The beginning of a head is all that `advance` leaves.
                self.held.extend_from_slice(input);
                *input = &[];
            }
            return step;
        }
        let mut held = std::mem::take(&mut self.held);
        if !input.is_empty() {
            held.drain(..std::mem::take(&mut self.read));
            held.extend_from_slice(input);
            *input = &[];
        }
        let mut rest = &held[self.read..];
        let step = self.advance(&mut rest, rules);
        let left = rest.len();
        if left == 0 {
            self.read = 0;
        } else if left < held.capacity() / 4 {
            (self.held, self.read) = (rest.to_vec(), 0);
        } else {
            self.read = held.len() - left;
            self.held = held;
        }
        step
    }

    /// Keeps bytes for a later call of [`ApiConnection::next`], because the connection has as many unanswered requests as
    /// it may have.
    pub fn hold(&mut self, input: &[u8]) {
        self.held.drain(..self.read);
        self.read = 0;
        if !self.is_over {
            self.held.extend_from_slice(input);
        }
    }

    /// What the connection waits for.
    pub fn phase(&self) -> ApiPhase {
        match (self.is_over, &self.body) {
            (true, _) => ApiPhase::Over,
            (false, Some(_)) => ApiPhase::Body,
            (false, None) if !self.held.is_empty() => ApiPhase::Head,
            (false, None) => ApiPhase::Idle,
        }
    }

    /// The bytes that it holds on the heap.
    pub fn held_bytes(&self) -> usize {
        let body = self.body.as_ref().map_or(0, |body| size_of::<OpenBody>() + body.bytes.capacity());
        self.held.capacity() + body
    }

    /// Reads nothing more. Returns the request that waited for its body, refused with `error`.
    pub(crate) fn give_up(&mut self, error: ApiError) -> Option<ApiRequest> {
        self.end();
        let WaitingRequest { mut reply, has_key, .. } = self.body.take()?.waiting?;
        reply.close_after();
        Some(ApiRequest { call: ApiCall::Refused(error), reply, has_key })
    }

    fn end(&mut self) {
        self.is_over = true;
        (self.held, self.read) = (Vec::new(), 0);
    }

    fn advance(&mut self, input: &mut &[u8], rules: &ApiRules) -> ApiStep {
        loop {
            if self.is_over {
                *input = &[];
                return ApiStep::More;
            }
            let step = match self.body.take() {
                Some(body) => self.body_step(body, input, rules),
                None if input.is_empty() => return ApiStep::More,
                None => self.head_step(input, rules),
            };
            match step {
                Some(ApiStep::Request(request)) => {
                    if request.reply.is_last() {
                        self.end();
                        self.body = None;
                        *input = &[];
                    }
                    return ApiStep::Request(request);
                }
                Some(step) => return step,
                None => {}
            }
        }
    }

    /// Reads a head. `None` if there is more to read.
    fn head_step(&mut self, input: &mut &[u8], rules: &ApiRules) -> Option<ApiStep> {
        let mut room = HeaderRoom::default();
        let (head, head_bytes) = match RequestHead::parse(input, &rules.head_limits(), &mut room) {
            Ok(Some(parsed)) => parsed,
            Ok(None) => return Some(ApiStep::More),
            Err(fault) => return Some(ApiStep::Request(refused(fault.into(), ApiReply::to_no_request(), false))),
        };
        let gate::JudgedHead { mut reply, has_key, framing, waits, verdict } = gate::judge(&head, rules);
        *input = &input[head_bytes..];
        let has_body = framing != BodyFraming::Length(0);
        let mut body = OpenBody {
            decoder: BodyDecoder::new(framing),
            waiting: None,
            bytes: Vec::new(),
            dropped: 0,
            most: rules.body_bytes(),
            waits: false,
        };
        match verdict {
            HeadVerdict::Call(call) => {
                // The client may send a body that it was not told to send, or not: what follows has two readings.
                let is_over =
                    has_body && (waits || matches!(framing, BodyFraming::Length(length) if length > body.most as u64));
                if is_over {
                    reply.close_after();
                } else if has_body && !reply.is_last() {
                    self.body = Some(Box::new(body));
                }
                Some(ApiStep::Request(ApiRequest { call, reply, has_key }))
            }
            HeadVerdict::Body(plan) => {
                body.most = plan.most;
                if let BodyFraming::Length(length) = framing
                    && let Ok(length) = usize::try_from(length)
                    && length <= plan.most
                    && let Some((bytes, rest)) = input.split_at_checked(length)
                {
                    *input = rest;
                    return Some(ApiStep::Request(request_of(plan, reply, has_key, Cow::Borrowed(bytes), rules)));
                }
                if let BodyFraming::Length(length) = framing
                    && length > plan.most as u64
                {
                    if waits {
                        reply.close_after();
                        return Some(ApiStep::Request(refused(ApiError::body_too_large(plan.most), reply, has_key)));
                    }
                    // None of it is kept.
                    body.dropped = 1;
                }
                body.waits = waits;
                body.waiting = Some(WaitingRequest { plan, reply, has_key });
                self.body = Some(Box::new(body));
                None
            }
        }
    }

    /// Reads a body. `None` if there is more to read.
    fn body_step(&mut self, mut body: Box<OpenBody>, input: &mut &[u8], rules: &ApiRules) -> Option<ApiStep> {
        let ended = body.feed(input);
        let Some(waiting) = body.waiting.take() else {
            match ended {
                Ok(true) => return None,
                Ok(false) if body.dropped <= body.most => {
                    self.body = Some(body);
                    return Some(ApiStep::More);
                }
                // It was answered already.
                Ok(false) | Err(_) => {
                    self.end();
                    return None;
                }
            }
        };
        let WaitingRequest { plan, mut reply, has_key } = waiting;
        let request = match ended {
            Err(fault) => {
                reply.close_after();
                refused(fault.into(), reply, has_key)
            }
            Ok(true) if body.dropped > 0 => refused(ApiError::body_too_large(body.most), reply, has_key),
            Ok(true) => request_of(plan, reply, has_key, Cow::Owned(body.bytes), rules),
            // Read on a little, and drop it: a client whose writes fail would not read the response.
            Ok(false) if body.dropped > body.most => {
                reply.close_after();
                refused(ApiError::body_too_large(body.most), reply, has_key)
            }
            Ok(false) => {
                let tells = std::mem::take(&mut body.waits);
                body.waiting = Some(WaitingRequest { plan, reply, has_key });
                self.body = Some(body);
                return Some(if tells { ApiStep::Continue } else { ApiStep::More });
            }
        };
        Some(ApiStep::Request(request))
    }
}

impl OpenBody {
    /// Takes bytes off the stream. Returns whether the body has ended.
    fn feed(&mut self, input: &mut &[u8]) -> Result<bool, HttpFault> {
        let Self { decoder, waiting, bytes, dropped, most, .. } = self;
        let is_kept = waiting.is_some();
        decoder.feed(input, |data| {
            if is_kept && *dropped == 0 && bytes.len() + data.len() <= *most {
                bytes.extend_from_slice(data);
            } else {
                *bytes = Vec::new();
                *dropped = dropped.saturating_add(data.len());
            }
        })
    }
}

fn refused(error: ApiError, reply: ApiReply, has_key: bool) -> ApiRequest {
    ApiRequest { call: ApiCall::Refused(error), reply, has_key }
}

fn request_of(plan: BodyPlan, reply: ApiReply, has_key: bool, body: Cow<'_, [u8]>, rules: &ApiRules) -> ApiRequest {
    let call = plan.call(body, rules).unwrap_or_else(ApiCall::Refused);
    ApiRequest { call, reply, has_key }
}

#[cfg(test)]
mod tests;
