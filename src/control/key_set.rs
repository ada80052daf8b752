//! The keys of `auth.jwks_url`: when they are fetched, what a fetch changes, and what is counted of it. The keys that were
//! fetched last stay in force until others come, however long the address answers nothing. Knows no shard; `errands` runs
//! the fetches and passes the keys on.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use super::fetch::{Document, FetchError, KeySetSource};
use crate::auth::{FetchedKeys, Verifier};
use crate::time::clock::Clock;

/// For how long a `max-age` is believed, in seconds.
const FRESH_S: std::ops::RangeInclusive<u64> = 60..=86_400;
/// How long after a fetch for an unknown `kid` no other such `kid` causes one.
const ASK_GAP_MS: u64 = 30_000;
/// The first pause after a fetch that failed; it doubles with each further failure …
const RETRY_MS: u64 = 5_000;
/// … up to this.
const RETRY_MAX_MS: u64 = 300_000;

/// When the next fetch is due. Pure: the time and the dice are arguments. Times are milliseconds of the monotonic clock.
#[derive(Debug)]
pub(crate) struct FetchSchedule {
    /// How long keys count as fresh whose response does not say.
    refresh_ms: u64,
    next_ms: u64,
    failures: u32,
    /// From when on an unknown `kid` causes a fetch.
    ask_again_ms: u64,
}

impl FetchSchedule {
    /// The first fetch is due at once.
    pub(crate) fn new(refresh_s: u64) -> Self {
        Self { refresh_ms: refresh_s * 1000, next_ms: 0, failures: 0, ask_again_ms: 0 }
    }

    /// When the next fetch is due.
    pub(crate) fn next_ms(&self) -> u64 {
        self.next_ms
    }

    /// From when on an unknown `kid` causes a fetch.
    pub(crate) fn ask_again_ms(&self) -> u64 {
        self.ask_again_ms
    }

    /// A token has an unknown `kid`. Whether that causes a fetch.
    pub(crate) fn ask(&mut self, now_ms: u64) -> bool {
        let is_due = now_ms >= self.ask_again_ms;
        if is_due {
            self.ask_again_ms = now_ms + ASK_GAP_MS;
        }
        is_due
    }

    /// Keys were fetched that are fresh for so long. `dice` is from 0 to 1: servers that started together drift apart.
    pub(crate) fn succeeded(&mut self, fresh_s: Option<u64>, now_ms: u64, dice: f64) {
        let fresh_ms =
            fresh_s.map_or(self.refresh_ms, |fresh_s| fresh_s.clamp(*FRESH_S.start(), *FRESH_S.end()) * 1000);
        self.failures = 0;
        self.next_ms = now_ms + part(fresh_ms, 0.9 + 0.1 * dice);
    }

    /// A fetch failed. Returns how long the pause is.
    pub(crate) fn failed(&mut self, now_ms: u64, dice: f64) -> u64 {
        let pause_ms = (RETRY_MS << self.failures.min(10)).min(RETRY_MAX_MS);
        self.failures += 1;
        let pause_ms = part(pause_ms, 0.5 + 0.5 * dice);
        self.next_ms = now_ms + pause_ms;
        pause_ms
    }
}

fn part(whole_ms: u64, share: f64) -> u64 {
    (whole_ms as f64 * share) as u64
}

/// The keys of the configuration, those that were fetched, and when to fetch again.
#[derive(Debug)]
pub(crate) struct KeySet {
    source: KeySetSource,
    /// Knows the keys of the configuration alone.
    configured: Verifier,
    fetched: Option<Fetched>,
    schedule: FetchSchedule,
    counts: Arc<KeySetCounts>,
    clock: Clock,
}

#[derive(Debug)]
struct Fetched {
    /// The body that the keys were read from: the same body is the same keys.
    body: Vec<u8>,
    keys: FetchedKeys,
}

impl KeySet {
    /// Nothing is fetched yet.
    pub(crate) fn new(
        source: KeySetSource,
        configured: Verifier,
        refresh_s: u64,
        clock: Clock,
        counts: Arc<KeySetCounts>,
    ) -> Self {
        Self { source, configured, fetched: None, schedule: FetchSchedule::new(refresh_s), counts, clock }
    }

    /// When the next fetch is due, and from when on an unknown `kid` causes one.
    pub(crate) fn schedule(&mut self) -> &mut FetchSchedule {
        &mut self.schedule
    }

    /// Where the keys are fetched from.
    pub(crate) fn source(&self) -> &KeySetSource {
        &self.source
    }

    /// Takes the configuration's keys after they were read again. Returns the verifier that checks tokens from now on.
    ///
    /// # Errors
    /// When there are too many keys with the fetched ones: nothing has changed then.
    pub(crate) fn configure(&mut self, source: KeySetSource, configured: Verifier) -> Result<Verifier, String> {
        let verifier = match &self.fetched {
            Some(fetched) => configured.with_fetched(&fetched.keys)?,
            None => configured.clone(),
        };
        (self.source, self.configured) = (source, configured);
        Ok(verifier)
    }

    /// A fetch has ended. Returns what tokens are checked with from now on, if that has changed.
    pub(crate) fn fetched(&mut self, result: Result<Document, FetchError>) -> Option<Verifier> {
        let now_ms = self.clock.now().mono_ms;
        let dice = rand::random::<f64>();
        let outcome = match result {
            Ok(Document { body, fresh_s }) => self.take(body).map(|changed| (changed, fresh_s)),
            Err(error) if error.is_answer() => Err((FetchOutcome::Refused, error.to_string())),
            Err(error) => Err((FetchOutcome::Unreachable, error.to_string())),
        };
        match outcome {
            Ok((changed, fresh_s)) => {
                self.schedule.succeeded(fresh_s, now_ms, dice);
                let outcome = if changed.is_some() { FetchOutcome::Changed } else { FetchOutcome::Same };
                self.counts.succeeded(outcome, self.fetched.as_ref().map_or(0, |set| set.keys.count()), now_ms);
                changed
            }
            Err((outcome, why)) => {
                let pause_s = self.schedule.failed(now_ms, dice).div_ceil(1000);
                self.counts.count(outcome);
                let url = self.source.url();
                match &self.fetched {
                    Some(set) => tracing::warn!(
                        "auth.jwks_url: the keys can't be fetched from {url}: {why}. The {} keys that were fetched \
                         before stay in force; the next try is in {pause_s} s",
                        set.keys.count()
                    ),
                    None => tracing::warn!(
                        "auth.jwks_url: the keys can't be fetched from {url}: {why}. No keys have been fetched since \
                         the start, so tokens that need them are refused; the next try is in {pause_s} s"
                    ),
                }
                None
            }
        }
    }

    /// Takes what was fetched. Returns the new verifier, if the keys are others than before.
    fn take(&mut self, body: Vec<u8>) -> Result<Option<Verifier>, (FetchOutcome, String)> {
        if self.fetched.as_ref().is_some_and(|set| set.body == body) {
            return Ok(None);
        }
        let unusable = |why: String| (FetchOutcome::Unusable, format!("what it answers can't be used: {why}"));
        let keys = FetchedKeys::parse(&body).map_err(unusable)?;
        let verifier = self.configured.with_fetched(&keys).map_err(unusable)?;
        tracing::info!(keys = keys.count(), "auth.jwks_url: new keys were fetched from {}", self.source.url());
        keys.passed_over().iter().for_each(|what| tracing::warn!("auth.jwks_url: {what}"));
        self.fetched = Some(Fetched { body, keys });
        Ok(Some(verifier))
    }
}

/// How a fetch ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum FetchOutcome {
    /// With other keys than before.
    Changed,
    /// With the keys that were known.
    Same,
    /// Without an answer.
    Unreachable,
    /// With an answer that has no document.
    Refused,
    /// With a document that is no usable key set.
    Unusable,
}

impl FetchOutcome {
    /// Their names in the metric.
    const LABELS: [&str; 5] = ["changed", "same", "unreachable", "refused", "unusable"];
}

/// What is counted of the key set. Written by the control thread's errands, read by scrapes.
#[derive(Debug)]
pub(crate) struct KeySetCounts {
    fetches: [AtomicU64; FetchOutcome::LABELS.len()],
    keys: AtomicU64,
    /// When a fetch succeeded last, in milliseconds of the monotonic clock; [`NEVER_MS`] before the first.
    fetched_ms: AtomicU64,
}

const NEVER_MS: u64 = u64::MAX;

impl Default for KeySetCounts {
    fn default() -> Self {
        let fetches = [const { AtomicU64::new(0) }; _];
        Self { fetches, keys: AtomicU64::new(0), fetched_ms: AtomicU64::new(NEVER_MS) }
    }
}

impl KeySetCounts {
    fn count(&self, outcome: FetchOutcome) {
        self.fetches[outcome as usize].fetch_add(1, Ordering::Relaxed);
    }

    fn succeeded(&self, outcome: FetchOutcome, keys: usize, now_ms: u64) {
        self.count(outcome);
        self.keys.store(keys as u64, Ordering::Relaxed);
        self.fetched_ms.store(now_ms, Ordering::Relaxed);
    }

    /// The numbers of this moment.
    pub(crate) fn snapshot(&self, now_ms: u64) -> KeySetSnapshot {
        let fetched_ms = self.fetched_ms.load(Ordering::Relaxed);
        KeySetSnapshot {
            fetches: std::array::from_fn(|at| self.fetches[at].load(Ordering::Relaxed)),
            keys: self.keys.load(Ordering::Relaxed),
            age_s: (fetched_ms != NEVER_MS).then(|| now_ms.saturating_sub(fetched_ms) / 1000),
        }
    }
}

/// The numbers of one moment, for a scrape.
#[derive(Debug)]
pub(crate) struct KeySetSnapshot {
    fetches: [u64; FetchOutcome::LABELS.len()],
    keys: u64,
    /// `None` before the first fetch that succeeded.
    age_s: Option<u64>,
}

impl Collector for KeySetSnapshot {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let help = "Fetches of auth.jwks_url, by their outcome";
        let mut family = encoder.encode_descriptor("jwks_fetches", help, None, MetricType::Counter)?;
        for (label, count) in FetchOutcome::LABELS.iter().zip(self.fetches) {
            ConstCounter::new(count).encode(family.encode_family(&[("outcome", *label)])?)?;
        }
        let gauge = |value: u64| ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
        let help = "Keys that were fetched from auth.jwks_url and are in force";
        gauge(self.keys).encode(encoder.encode_descriptor("jwks_keys", help, None, MetricType::Gauge)?)?;
        if let Some(age_s) = self.age_s {
            let help = "Seconds since the keys of auth.jwks_url were fetched last; absent before the first time";
            gauge(age_s).encode(encoder.encode_descriptor("jwks_age_seconds", help, None, MetricType::Gauge)?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_fetch_is_a_little_before_the_keys_get_old() {
        let mut schedule = FetchSchedule::new(600);
        assert_eq!(schedule.next_ms(), 0, "the first is due at once");
        for (fresh_s, dice, expected_ms) in [
            (None, 0.0, 540_000),
            (None, 1.0, 600_000),
            (Some(3_600), 0.0, 3_240_000),
            (Some(0), 1.0, 60_000),
            (Some(u64::MAX), 1.0, 86_400_000),
        ] {
            schedule.succeeded(fresh_s, 1_000, dice);
            assert_eq!(schedule.next_ms(), 1_000 + expected_ms, "{fresh_s:?}");
        }
    }

    #[test]
    fn pauses_grow_while_fetches_fail_and_begin_anew_after_one_that_succeeds() {
        let mut schedule = FetchSchedule::new(600);
        let pauses: Vec<u64> = (0..9).map(|_| schedule.failed(7, 1.0)).collect();
        assert_eq!(pauses[..3], [5_000, 10_000, 20_000]);
        assert_eq!(pauses[6..], [300_000; 3]);
        assert_eq!(schedule.next_ms(), 300_007);
        assert_eq!(FetchSchedule::new(600).failed(0, 0.0), 2_500, "at random half as long");
        schedule.succeeded(None, 0, 1.0);
        assert_eq!(schedule.failed(0, 1.0), 5_000);
        for _ in 0..100 {
            assert!(schedule.failed(0, 1.0) <= RETRY_MAX_MS);
        }
    }

    #[test]
    fn unknown_kids_cause_one_fetch_in_thirty_seconds() {
        let mut schedule = FetchSchedule::new(600);
        let fetches = (100_000..160_000).filter(|now_ms| schedule.ask(*now_ms)).collect::<Vec<u64>>();
        assert_eq!(fetches, [100_000, 130_000]);
        assert_eq!(schedule.ask_again_ms(), 160_000);
    }
}
