//! The calls of the HTTP API that no shard answers by itself: revocations and metrics. Each call is answered exactly once,
//! with [`ShardCommand::Answered`]. A revocation waits for all shards, so it has a task of its own.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Semaphore;

use super::call_state::CallState;
use super::key_set::KeySetCounts;
use super::ledger::Ledger;
use super::owners::Owners;
use super::revocations;
use crate::api::calls::{SlowAnswer, SlowCall};
use crate::api::error::ApiError;
use crate::io::commands::{ApiOrder, ShardCommand};
use crate::limits::Peer;
use crate::log::LostLines;
use crate::metrics::Metrics;
use crate::time::clock::Clock;

/// Calls that are answered at a time. Further ones wait in the queue, and where that is full a shard answers 503.
const AT_ONCE: usize = 64;

/// What the calls are answered from.
#[derive(Debug)]
pub(crate) struct CallParts {
    /// The calls of all shards.
    pub(crate) orders: flume::Receiver<ApiOrder>,
    /// The way to the shards.
    pub(crate) owners: Owners,
    /// The revocations in force.
    pub(crate) ledger: Ledger,
    /// How long a revocation is kept whose request does not say, in milliseconds.
    pub(crate) revocations_kept_ms: u64,
    /// The clock of the whole process.
    pub(crate) clock: Clock,
    /// The metrics of all shards.
    pub(crate) metrics: Metrics,
    /// Counts log lines that were dropped.
    pub(crate) lost: LostLines,
    /// The metrics of `auth.jwks_url`; `None` if it is not configured.
    pub(crate) key_set: Option<Arc<KeySetCounts>>,
    /// How long a call may wait for the shards.
    pub(crate) patience: Duration,
}

/// Answers calls until no shard is left.
#[derive(Debug)]
pub(crate) struct CallRunner {
    orders: flume::Receiver<ApiOrder>,
    state: Arc<CallState>,
}

impl CallRunner {
    /// Puts the parts together.
    pub(crate) fn new(parts: CallParts) -> Self {
        let CallParts { orders, owners, ledger, revocations_kept_ms, clock, metrics, lost, key_set, patience } = parts;
        let ledger = Mutex::new(ledger);
        let state = CallState { owners, ledger, revocations_kept_ms, clock, metrics, lost, key_set, patience };
        Self { orders, state: Arc::new(state) }
    }

    /// Answers calls until the shards are gone.
    pub(crate) async fn serve(self) {
        let places = Arc::new(Semaphore::new(AT_ONCE));
        loop {
            // Fails only for a semaphore that was closed.
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            let Ok(ApiOrder { shard, number, peer, call }) = self.orders.recv_async().await else { return };
            let state = Arc::clone(&self.state);
            let answer = async move {
                let answer = answer(&state, peer, call).await;
                state.owners.tell(shard, ShardCommand::Answered(number, answer)).await;
                drop(place);
            };
            tokio::spawn(answer);
        }
    }
}

async fn answer(state: &CallState, peer: Peer, call: SlowCall) -> Result<SlowAnswer, ApiError> {
    match call {
        SlowCall::Revoke(body) => revocations::revoke(state, peer, &body).await,
        SlowCall::Unrevoke(body) => revocations::lift(state, &body).await,
        SlowCall::Revocations(query) => revocations::list(state, &query),
        SlowCall::Metrics => state.metrics(),
    }
}
