//! What a request asks for, checked and owned: the shard does it, or hands it to the control thread. `gate` and
//! `connection` make calls, and `answers` writes what came of them.

use super::ask::ApiAsk;
use super::error::ApiError;
use super::many::ManyPublishes;
use super::reply::ApiReply;

/// One request, whole.
#[derive(Debug)]
pub struct ApiRequest {
    /// What it asks for.
    pub call: ApiCall,
    /// What its response needs to know of it.
    pub reply: ApiReply,
    /// It has brought a valid key.
    pub has_key: bool,
}

/// What a request asks for.
#[derive(Debug)]
pub enum ApiCall {
    /// An ask to the owner of one channel.
    Ask(ApiAsk),
    /// Publications, each with a result of its own.
    Many(Box<ManyPublishes>),
    /// The state of the server.
    Health,
    /// What the control thread does.
    Slow(SlowCall),
    /// Nothing: the response has no body.
    Bare(BareAnswer),
    /// Nothing: the request is refused.
    Refused(ApiError),
}

impl ApiCall {
    pub(super) fn many(publishes: ManyPublishes) -> Self {
        Self::Many(Box::new(publishes))
    }
}

/// A request that the control thread does: it changes or lists revocations, or collects metrics. Its key was checked.
#[derive(Debug)]
pub enum SlowCall {
    /// `POST /api/revoke`, with its body.
    Revoke(Vec<u8>),
    /// `POST /api/unrevoke`, with its body.
    Unrevoke(Vec<u8>),
    /// `GET /api/revocations`, with the names and values of its query.
    Revocations(Vec<(String, String)>),
    /// `GET /metrics`
    Metrics,
}

/// What the control thread answers with.
#[derive(Debug)]
pub struct SlowAnswer {
    /// The value of Content-Type.
    pub content_type: &'static str,
    /// The body of the response.
    pub bytes: Vec<u8>,
}

/// A response without a body.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BareAnswer {
    /// The methods that the path takes (RFC 9110 §9.3.7).
    Methods,
    /// What a page may send, for a browser that asks before it does (Fetch §4.8).
    Preflight,
}
