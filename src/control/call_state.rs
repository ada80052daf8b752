//! What all slow calls of the API share: the revocations in force, the metrics, and the way to the shards. `calls` and
//! `revocations` use it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::collector::Collector;
use tokio::time::timeout;

use super::key_set::KeySetCounts;
use super::ledger::Ledger;
use super::owners::Owners;
use crate::api::calls::SlowAnswer;
use crate::api::error::ApiError;
use crate::auth::{Lifted, Revocation};
use crate::log::LostLines;
use crate::metrics::{CONTENT_TYPE, Metrics, Process};
use crate::time::clock::{Clock, Now};

/// What all calls share.
#[derive(Debug)]
pub(super) struct CallState {
    pub(super) owners: Owners,
    pub(super) ledger: Mutex<Ledger>,
    pub(super) revocations_kept_ms: u64,
    pub(super) clock: Clock,
    pub(super) metrics: Metrics,
    pub(super) lost: LostLines,
    pub(super) key_set: Option<Arc<KeySetCounts>>,
    pub(super) patience: Duration,
}

impl CallState {
    /// The metrics name no user and no channel.
    pub(super) fn metrics(&self) -> Result<SlowAnswer, ApiError> {
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
