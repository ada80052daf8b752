//! The calls of the HTTP API that no shard answers by itself: revocations and metrics. Each call is answered exactly once,
//! with [`ShardCommand::Answered`]. A revocation waits for all shards, so it has a task of its own.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::collector::Collector;
use tokio::time::timeout;

use super::key_set::KeySetCounts;
use super::ledger::Ledger;
use super::owners::Owners;
use super::revocations;
use crate::api::calls::{SlowAnswer, SlowCall};
use crate::api::error::ApiError;
use crate::auth::{Lifted, Revocation};
use crate::io::commands::{ApiOrder, ShardCommand};
use crate::limits::Peer;
use crate::log::LostLines;
use crate::metrics::{CONTENT_TYPE, Metrics, Process};
use crate::time::clock::{Clock, Now};

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

/// What all calls share.
#[derive(Debug)]
pub(super) struct CallState {
    owners: Owners,
    ledger: Mutex<Ledger>,
    pub(super) revocations_kept_ms: u64,
    clock: Clock,
    metrics: Metrics,
    lost: LostLines,
    key_set: Option<Arc<KeySetCounts>>,
    patience: Duration,
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
        while let Ok(ApiOrder { shard, number, peer, call }) = self.orders.recv_async().await {
            let state = Arc::clone(&self.state);
            let answer = async move {
                let answer = state.answer(peer, call).await;
                state.owners.tell(shard, ShardCommand::Answered(number, answer)).await;
            };
            tokio::spawn(answer);
        }
    }
}

impl CallState {
    async fn answer(&self, peer: Peer, call: SlowCall) -> Result<SlowAnswer, ApiError> {
        match call {
            SlowCall::Revoke(body) => revocations::revoke(self, peer, &body).await,
            SlowCall::Unrevoke(body) => revocations::lift(self, &body).await,
            SlowCall::Revocations(query) => revocations::list(self, &query),
            SlowCall::Metrics => self.metrics(),
        }
    }

    /// The metrics name no user and no channel.
    fn metrics(&self) -> Result<SlowAnswer, ApiError> {
        let revocations = self.with_ledger(|ledger, now_ms| ledger.count(now_ms) as u64);
        let process = Process { log_lines_lost: self.lost.count(), revocations };
        let mut collectors: Vec<Box<dyn Collector>> = vec![Box::new(process)];
        if let Some(key_set) = &self.key_set {
            collectors.push(Box::new(key_set.snapshot(self.now().mono_ms)));
        }
        let text = self.metrics.text(collectors).map_err(|_| ApiError::busy())?;
        Ok(SlowAnswer { content_type: CONTENT_TYPE, bytes: text.into_bytes() })
    }

    pub(super) fn now(&self) -> Now {
        self.clock.now()
    }

    /// Reads or changes the revocations, at a moment in Unix milliseconds.
    pub(super) fn with_ledger<R>(&self, work: impl FnOnce(&mut Ledger, u64) -> R) -> R {
        let now_ms = self.clock.now().unix_ms;
        work(&mut self.ledger.lock().unwrap_or_else(PoisonError::into_inner), now_ms)
    }

    /// Tells all shards of a revocation and returns how many connections it ended; `None` if some shard may not know of
    /// it yet.
    pub(super) async fn tell_revoked(&self, revocation: Revocation) -> Option<u64> {
        timeout(self.patience, self.owners.revoke(revocation)).await.ok().flatten()
    }

    /// Tells all shards of revocations that were taken back. Returns `false` if some shard may not know of it yet.
    pub(super) async fn tell_lifted(&self, lifted: Lifted) -> bool {
        timeout(self.patience, self.owners.lift(lifted)).await == Ok(true)
    }
}
