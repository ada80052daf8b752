//! One file per target. Each has `run`, which panics if a promise is broken and is otherwise silent, and `generate`,
//! which makes inputs that get past the first check; what makes no sense at all comes of `mutate`.

pub mod api;
pub mod config;
pub mod deflate;
pub mod envelope;
pub mod event_stream;
pub mod frames;
pub mod handshake;
pub mod outbox;
pub mod proxy;
pub mod shard;
pub mod simulation;
pub mod token;
