//! The backend's HTTP API (docs/api.md), without sockets: a connection's bytes go in, checked requests come out, answers
//! become bytes. A shard keeps one [`ApiConnection`] for each connection of `http.listen`, and one [`ApiRules`] and one
//! [`ApiWriter`] for all of them. Top down:
//!
//! - `connection` takes requests off the stream, one after the other.
//! - `gate` judges a request's head: host, key, CORS, path, method, type of the body. `rules` is what it judges by,
//!   `hosts` the names that are answered without a key, `routes` the paths.
//! - `calls` is what a request asks for, `ask` an ask to one owner, `many` many publications: a broadcast, or lines of
//!   JSON.
//! - `input` checks what bodies and queries say, `fields` reads JSON and queries.
//! - `answers` writes responses, and `reply` is what a request leaves for its response. `error` is a refusal.

pub mod answers;
pub(crate) mod ask;
pub mod calls;
pub mod connection;
pub(crate) mod error;
mod fields;
mod gate;
mod hosts;
pub(crate) mod input;
pub(crate) mod many;
pub(crate) mod reply;
mod routes;
pub mod rules;

pub use rules::ApiSettings;
