//! Waiting for what the tests can't be told of: it is looked for until it is there or a deadline says that it isn't
//! coming. Nothing is waited for by time alone.

use std::time::{Duration, Instant};

use super::Server;

/// How long any single answer may take. Generous: a loaded machine with two cores must not fail a test.
pub const DEADLINE: Duration = Duration::from_secs(20);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(10);

/// Looks until there is something to see; `what` says what is waited for.
pub async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let end = Instant::now() + DEADLINE;
    loop {
        if let Some(seen) = look().await {
            return seen;
        }
        assert!(Instant::now() < end, "waited in vain: {what}");
        tokio::time::sleep(PAUSE).await;
    }
}

impl Server {
    /// Waits until the log, which a thread of its own writes, has the words.
    pub async fn logged(&self, words: &str) {
        until(&format!("{words:?} in the log"), async || self.log().contains(words).then_some(())).await;
    }

    /// Where the API listens.
    pub async fn api(&self) -> std::net::SocketAddr {
        let found = async || {
            let log = self.log();
            let (_, rest) = log.split_once("HTTP API on http://")?;
            rest.split_whitespace().next()?.parse().ok()
        };
        until("where the API listens", found).await
    }
}
