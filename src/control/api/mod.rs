//! The backend's HTTP API (docs/api.md), on a listener of its own. Top down:
//!
//! - `running` starts it on the control thread; `sockets` is what it listens on and talks through.
//! - `connections` accepts and serves connections with hyper; `places` decides which of them gives way.
//! - `routes` is the router. `gate` stands in front of every route: host, key, CORS, log.
//! - `publish`, `read`, `revocations` and `monitoring` are the routes.
//! - `state` is what all requests share, with the way to the shards; `bodies` reads a request's body.
//! - `hosts` checks the Host header.
//! - `error` and `response` are what every route answers with; `counts` are the API's own metrics.

mod bodies;
mod connections;
mod counts;
mod error;
mod gate;
mod hosts;
mod monitoring;
mod places;
mod publish;
mod read;
mod response;
mod revocations;
mod routes;
mod running;
mod sockets;
mod state;

pub(crate) use places::ApiRoom;
pub(crate) use running::RunningApi;
pub(crate) use sockets::ApiListener;
pub(crate) use state::ApiParts;
