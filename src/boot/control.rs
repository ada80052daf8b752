//! The control thread at the start: it runs if there is an HTTP API or a key set to fetch (`auth.jwks_url`). The address of
//! the key set, and whom to trust there, are judged before any thread runs, so that a mistake ends the start. Nothing is
//! fetched then: a server starts although the address answers nothing.

use std::sync::Arc;

use crate::auth::Verifier;
use crate::boot::error::BootError;
use crate::boot::threads::{ShardThread, SharedParts};
use crate::config::Config;
use crate::control::{self, Control, ErrandParts, KeySetCounts, Owners};
use crate::model::errand::ErrandOrder;
use crate::shard::ERRANDS_MAX;

/// The errands that shards will give, and what they are about.
pub(super) struct ErrandQueue {
    source: control::KeySetSource,
    sender: flume::Sender<ErrandOrder>,
    orders: flume::Receiver<ErrandOrder>,
    counts: Arc<KeySetCounts>,
}

impl ErrandQueue {
    /// Room for the errands of all shards; `None` if there is nothing that one could be about.
    ///
    /// # Errors
    /// [`BootError::Config`] if `auth.jwks_url` or the authorities for it cannot be used.
    pub(super) fn new(config: &Config, shard_count: usize) -> Result<Option<Self>, BootError> {
        let Some(source) = control::KeySetSource::of_keys(&config.auth)? else { return Ok(None) };
        let (sender, orders) = flume::bounded(ERRANDS_MAX * shard_count);
        Ok(Some(Self { source, sender, orders, counts: Arc::default() }))
    }

    /// The end that shards hand their errands to.
    pub(super) fn sender(&self) -> flume::Sender<ErrandOrder> {
        self.sender.clone()
    }

    /// What is counted of the key set.
    pub(super) fn counts(&self) -> Arc<KeySetCounts> {
        Arc::clone(&self.counts)
    }
}

/// Starts the control thread, if it has anything to do.
///
/// # Errors
/// [`BootError::System`] if the kernel refuses a thread.
pub(super) fn start(
    config: &Config,
    shared: &SharedParts,
    shards: &[ShardThread],
    calls: Option<control::CallParts>,
    errands: Option<ErrandQueue>,
) -> Result<Option<Control>, BootError> {
    let errands = errands.map(|ErrandQueue { source, orders, counts, .. }| ErrandParts {
        orders,
        source,
        verifier: Verifier::clone(&shared.verifier),
        refresh_s: config.auth.jwks_refresh_s,
        owners: Owners::new(shards.iter().map(ShardThread::sender)),
        clock: shared.clock,
        counts,
    });
    if calls.is_none() && errands.is_none() {
        return Ok(None);
    }
    let control = Control::start(calls, errands).map_err(BootError::system("starting the control thread"))?;
    Ok(Some(control))
}
