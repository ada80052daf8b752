//! The control thread: everything slow, on tokio, apart from the shards so that none of it delays a shard. It answers the
//! calls of the HTTP API that concern no channel (`calls`, `revocations`), and does the shards' errands (`errands`). It runs
//! if there is an API, or a key set to fetch. `boot` starts it after the shards and ends it after them.
//!
//! `owners` is the one way to the shards. `ledger` keeps what was revoked. `key_set` has the keys of `auth.jwks_url`,
//! and `fetch` fetches them.

mod call_state;
mod calls;
mod errands;
mod fetch;
mod key_set;
mod ledger;
mod owners;
mod revocations;

use std::io;
use std::thread::JoinHandle;

use tokio::sync::watch;

pub(crate) use calls::CallParts;
use calls::CallRunner;
use errands::ErrandRunner;
pub(crate) use errands::{ConfiguredKeys, ErrandParts};
pub(crate) use fetch::KeySetSource;
pub(crate) use key_set::KeySetCounts;
pub(crate) use ledger::Ledger;
pub(crate) use owners::Owners;

/// The running control thread.
#[derive(Debug)]
pub(crate) struct Control {
    /// Takes the keys of the configuration after they were read again; `None` if there are no errands.
    configured: Option<watch::Sender<Option<ConfiguredKeys>>>,
    /// The thread ends when this is dropped.
    running: flume::Sender<()>,
    thread: JoinHandle<()>,
}

impl Control {
    /// Starts the thread. On return calls of the API are answered, and errands are done.
    ///
    /// # Errors
    /// When the kernel refuses what the thread needs.
    pub(crate) fn start(calls: Option<CallParts>, errands: Option<ErrandParts>) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (configured, errands) = match errands {
            Some(parts) => {
                let (configured, changes) = watch::channel(None);
                (Some(configured), Some(ErrandRunner::new(parts, changes)))
            }
            None => (None, None),
        };
        let (running, end) = flume::bounded::<()>(0);
        let body = async move {
            let errands = errands.map(|errands| tokio::spawn(errands.serve()));
            let calls = calls.map(|calls| tokio::spawn(CallRunner::new(calls).serve()));
            // Nothing is ever sent.
            let _ = end.recv_async().await;
            errands.into_iter().chain(calls).for_each(|task| task.abort());
        };
        let thread = std::thread::Builder::new().name("control".to_owned()).spawn(move || runtime.block_on(body))?;
        Ok(Self { configured, running, thread })
    }

    /// Takes the keys of the configuration after they were read again. They reach the shards together with the fetched
    /// ones, which are fetched again.
    pub(crate) fn configure_keys(&self, keys: ConfiguredKeys) {
        if let Some(configured) = &self.configured {
            // Only the newest keys count, so an older set that was not taken yet gives way to them.
            configured.send_replace(Some(keys));
        }
    }

    /// Ends the thread; the shards must have ended.
    pub(crate) fn stop(self) {
        drop(self.running);
        if self.thread.join().is_err() {
            tracing::error!("the control thread failed");
        }
    }
}
