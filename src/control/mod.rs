//! The control thread: everything slow, on tokio, apart from the shards so that none of it delays a shard. It serves the
//! backend's HTTP API (`api`) and does the shards' errands (`errands`); it runs if one of the two is configured. `boot`
//! starts it after the shards and ends it after them.
//!
//! `owners` is the one way to the shards. `ledger` keeps what was revoked. `key_set` has the keys of `auth.jwks_url`,
//! and `fetch` fetches them. `phase` says whether the server is about to end.

mod api;
mod errands;
mod fetch;
mod key_set;
mod ledger;
mod owners;
mod phase;

use std::io;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::auth::ApiKeys;
use crate::config::ListenAddr;
use api::RunningApi;
pub(crate) use api::{ApiListener, ApiParts, ApiRoom};
use errands::ErrandRunner;
pub(crate) use errands::{ConfiguredKeys, ErrandParts};
pub(crate) use fetch::KeySetSource;
pub(crate) use key_set::KeySetCounts;
pub(crate) use ledger::Ledger;
pub(crate) use owners::Owners;
use phase::Phase;

/// How long connections have at least, once the shards have ended, to send the answers that are still queued.
const LAST_ANSWERS: Duration = Duration::from_millis(200);

/// The running control thread.
#[derive(Debug)]
pub(crate) struct Control {
    /// `None` if no API is configured.
    api: Option<RunningApi>,
    /// Takes the keys of the configuration after they were read again; `None` if there are no errands.
    configured: Option<watch::Sender<Option<ConfiguredKeys>>>,
    phase: watch::Sender<Phase>,
    thread: JoinHandle<()>,
}

impl Control {
    /// Starts the thread. On return requests to the API are answered, and errands are done.
    ///
    /// # Errors
    /// When the kernel refuses what the thread needs.
    pub(crate) fn start(api: Option<ApiParts>, errands: Option<ErrandParts>) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (phase, phases) = watch::channel(Phase::Serving);
        let (configured, errands) = match errands {
            Some(parts) => {
                let (configured, changes) = watch::channel(None);
                (Some(configured), Some(ErrandRunner::new(parts, changes)))
            }
            None => (None, None),
        };
        let (api, serve_api) = match api {
            Some(parts) => {
                let (running, serve) = RunningApi::new(parts, phases.clone(), &runtime)?;
                (Some(running), Some(serve))
            }
            None => (None, None),
        };
        let body = async move {
            let errands = errands.map(|errands| tokio::spawn(errands.serve()));
            match serve_api {
                Some(serve) => serve.await,
                None => drop(phases.clone().wait_for(|phase| matches!(phase, Phase::Ending(_))).await),
            }
            if let Some(errands) = errands {
                errands.abort();
            }
        };
        let thread = std::thread::Builder::new().name("control".to_owned()).spawn(move || runtime.block_on(body))?;
        Ok(Self { api, configured, phase, thread })
    }

    /// The address that the API listens on; `None` if no API is configured.
    pub(crate) fn api_addr(&self) -> Option<&ListenAddr> {
        self.api.as_ref().map(RunningApi::addr)
    }

    /// Replaces the keys that requests to the API must bring.
    pub(crate) fn set_keys(&self, keys: ApiKeys) {
        if let Some(api) = &self.api {
            api.set_keys(keys);
        }
    }

    /// Takes the keys of the configuration after they were read again. They reach the shards together with the fetched
    /// ones, which are fetched again.
    pub(crate) fn configure_keys(&self, keys: ConfiguredKeys) {
        if let Some(configured) = &self.configured {
            // Only the newest keys count, so an older set that was not taken yet gives way to them.
            configured.send_replace(Some(keys));
        }
    }

    /// Refuses new requests from now on.
    pub(crate) fn drain(&self) {
        self.phase.send_replace(Phase::Draining);
    }

    /// Waits until the requests under way are answered, while the shards still run. Waits at most as long as `patience`.
    pub(crate) fn wait_until_idle(&self, patience: Duration) {
        if let Some(api) = &self.api {
            api.wait_until_idle(patience);
        }
    }

    /// Ends the thread; the shards must have ended. Peers may go on reading their answers until the given moment.
    pub(crate) fn stop(self, until: Instant) {
        self.phase.send_replace(Phase::Ending(until.max(Instant::now() + LAST_ANSWERS)));
        if self.thread.join().is_err() {
            tracing::error!("the control thread failed");
        }
    }
}
