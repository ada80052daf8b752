//! Does the shards' errands on the control thread (`model::errand`). Each order is answered exactly once, with
//! [`ShardCommand::Done`]. Shards that want the same thing done share it. Today there is one kind: to fetch the key set of
//! `auth.jwks_url` again. The fetches that are due by the clock are made here too.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::fetch::{Document, FetchError, KeySetSource};
use super::key_set::{KeySet, KeySetCounts};
use super::owners::Owners;
use crate::auth::Verifier;
use crate::io::commands::ShardCommand;
use crate::model::errand::{Errand, ErrandOrder, ErrandOutcome};
use crate::time::clock::Clock;

/// What the errands are made of.
#[derive(Debug)]
pub(crate) struct ErrandParts {
    /// What the shards want done.
    pub(crate) orders: flume::Receiver<ErrandOrder>,
    /// Where keys are fetched from.
    pub(crate) source: KeySetSource,
    /// Knows the keys of the configuration.
    pub(crate) verifier: Verifier,
    /// How long fetched keys count as fresh whose response does not say, in seconds.
    pub(crate) refresh_s: u64,
    /// The way to the shards.
    pub(crate) owners: Owners,
    /// The same for all threads.
    pub(crate) clock: Clock,
    /// The metrics of the key set.
    pub(crate) counts: Arc<KeySetCounts>,
}

/// The keys of the configuration, after they were read again.
#[derive(Clone, Debug)]
pub(crate) struct ConfiguredKeys {
    /// Where keys are fetched from.
    pub(crate) source: KeySetSource,
    /// Knows the keys of the configuration.
    pub(crate) verifier: Verifier,
}

/// Takes orders until no shard is left.
#[derive(Debug)]
pub(crate) struct ErrandRunner {
    orders: flume::Receiver<ErrandOrder>,
    configured: watch::Receiver<Option<ConfiguredKeys>>,
    owners: Owners,
    clock: Clock,
    keys: KeySet,
    /// Orders that the fetch under way will answer.
    waiting: Vec<ErrandOrder>,
    /// The keys were read again during a fetch, so the fetch is repeated.
    once_more: bool,
}

type Fetch = JoinHandle<Result<Document, FetchError>>;

impl ErrandRunner {
    /// `configured` holds the keys of the configuration that were read last; `None` until they are read again.
    pub(crate) fn new(parts: ErrandParts, configured: watch::Receiver<Option<ConfiguredKeys>>) -> Self {
        let ErrandParts { orders, source, verifier, refresh_s, owners, clock, counts } = parts;
        let keys = KeySet::new(source, verifier, refresh_s, clock, counts);
        Self { orders, configured, owners, clock, keys, waiting: Vec::new(), once_more: false }
    }

    /// Does errands until the shards are gone.
    pub(crate) async fn serve(mut self) {
        let mut fetch: Option<Fetch> = None;
        loop {
            let pause = Duration::from_millis(self.keys.schedule().next_ms().saturating_sub(self.now_ms()));
            let begin = tokio::select! {
                order = self.orders.recv_async() => match order {
                    Ok(order) => self.take(order, fetch.is_some()).await,
                    Err(_) => return,
                },
                Ok(()) = self.configured.changed() => {
                    let newest = self.configured.borrow_and_update().clone();
                    if let Some(configured) = newest {
                        self.configure(configured).await;
                    }
                    self.once_more = fetch.is_some();
                    true
                }
                result = ended(&mut fetch) => {
                    fetch = None;
                    self.end_fetch(result).await;
                    std::mem::take(&mut self.once_more)
                }
                () = tokio::time::sleep(pause), if fetch.is_none() => true,
            };
            if begin && fetch.is_none() {
                let source = self.keys.source().clone();
                fetch = Some(tokio::spawn(async move { source.fetch().await }));
            }
        }
    }

    /// Takes an order. Returns whether a fetch is to begin for it.
    async fn take(&mut self, order: ErrandOrder, is_fetching: bool) -> bool {
        let Errand::RefreshKeys = order.errand;
        let now_ms = self.now_ms();
        if is_fetching || self.keys.schedule().ask(now_ms) {
            self.waiting.push(order);
            return true;
        }
        self.answer(order).await;
        false
    }

    async fn configure(&mut self, configured: ConfiguredKeys) {
        match self.keys.configure(configured.source, configured.verifier) {
            Ok(verifier) => self.owners.publish_keys(verifier).await,
            Err(error) => tracing::error!(%error, "the keys can't be taken: the old ones stay in force"),
        }
    }

    /// The keys reach every shard before the answers do, as both take the same queue.
    async fn end_fetch(&mut self, result: Result<Document, FetchError>) {
        if let Some(verifier) = self.keys.fetched(result) {
            self.owners.publish_keys(verifier).await;
        }
        for order in std::mem::take(&mut self.waiting) {
            self.answer(order).await;
        }
    }

    async fn answer(&mut self, order: ErrandOrder) {
        let outcome = ErrandOutcome::KeysChecked { again_at_ms: self.keys.schedule().ask_again_ms() };
        self.owners.tell(order.shard, ShardCommand::Done(order.number, outcome)).await;
    }

    fn now_ms(&self) -> u64 {
        self.clock.now().mono_ms
    }
}

/// What the fetch under way brings; never, if none is.
async fn ended(fetch: &mut Option<Fetch>) -> Result<Document, FetchError> {
    match fetch {
        Some(fetch) => fetch.await.unwrap_or(Err(FetchError::Failed)),
        None => std::future::pending().await,
    }
}
