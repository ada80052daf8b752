//! The HTTP API's connections on this shard (docs/api.md): their requests are parsed by [`crate::api`], asked of the owners
//! by the lanes, and answered in the order in which they came. Part of `shard`.
//!
//! - `conn` is one connection: its parser, and the responses that it is owed.
//! - `requests` takes requests, `many` those with several publications, `responses` writes what became of them.
//! - `asks` has the credits for asks to owners. `shares` divides bounds among addresses. `places` decides which connection
//!   gives way to another one. `control` has the calls that the control thread answers.
//! - `life` opens and closes connections, `deadlines` ends what takes too long, `drain` ends the API.

mod asks;
mod conn;
mod control;
mod deadlines;
mod drain;
mod life;
mod many;
mod places;
mod requests;
mod responses;
mod shares;

use hashbrown::HashMap;

pub(crate) use control::ControlCall;

use crate::api::ApiSettings;
use crate::api::answers::ApiWriter;
use crate::api::rules::ApiRules;
use crate::ids::ShardId;
use asks::ApiAsks;
use conn::ApiConn;
use control::ControlCalls;
use places::ApiPlaces;
use shares::FairShares;

/// Requests of one connection that may be unanswered at a time. Nothing more is read of it meanwhile.
const PIPELINE_MAX: usize = 64;

/// What a shard needs to know of the API. Bounds are those of one shard.
#[derive(Clone, Debug)]
pub struct ApiServing {
    /// What requests are judged by; `None` if there is no API.
    pub rules: Option<ApiSettings>,
    /// The most connections at a time.
    pub connections: usize,
    /// The most requests that are not answered yet.
    pub requests: usize,
    /// The most bytes of requests that are not answered yet.
    pub body_bytes: usize,
    /// How long a connection may be silent between two requests, in milliseconds.
    pub idle_ms: u64,
}

impl ApiServing {
    /// What a shard without an API has.
    pub fn none() -> Self {
        Self { rules: None, connections: 0, requests: 0, body_bytes: 0, idle_ms: 1 }
    }
}

/// The API on one shard.
#[derive(Debug)]
pub(super) struct Api {
    /// `None` if there is no API.
    rules: Option<ApiRules>,
    /// The connections, by their slot in the shard's table.
    conns: HashMap<u32, Box<ApiConn>, foldhash::fast::RandomState>,
    /// How many of them have brought a key.
    known: usize,
    /// How many of them are giving way.
    leaving: usize,
    places: ApiPlaces,
    asks: ApiAsks,
    /// The requests that are not answered yet.
    requests: FairShares,
    /// The bytes of requests that are not answered yet.
    bodies: FairShares,
    control: ControlCalls,
    writer: ApiWriter,
    /// Until when bodies may arrive, in milliseconds of the monotonic clock; `None` before the server is told to end.
    last_body_ms: Option<u64>,
}

impl Api {
    pub(super) fn new(serving: &ApiServing, own: ShardId, shards: usize, lane_parcels: usize) -> Self {
        Self {
            rules: serving.rules.clone().map(ApiRules::new),
            conns: HashMap::default(),
            known: 0,
            leaving: 0,
            places: ApiPlaces::new(serving.connections),
            asks: ApiAsks::new(own, shards, lane_parcels),
            requests: FairShares::new(serving.requests),
            bodies: FairShares::new(serving.body_bytes),
            control: ControlCalls::default(),
            writer: ApiWriter::default(),
            last_body_ms: None,
        }
    }

    /// How many connections there are.
    pub(super) fn count(&self) -> usize {
        self.conns.len()
    }

    /// Whether nothing is under way.
    pub(super) fn is_at_rest(&self) -> bool {
        self.asks.are_all_answered() && self.requests.held() == 0
    }
}
