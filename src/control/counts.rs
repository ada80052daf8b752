//! What the API counts of itself (docs/metrics.md), and what it says of connections that give way, with a bound on
//! how often. Called by `connections` and `api`; knows neither.

use std::fmt;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

/// How often the log tells of the same thing.
const TOLD_EVERY: Duration = Duration::from_secs(10);

/// Why a connection was ended, or a request refused, for the sake of others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Refused {
    /// A connection that had brought no key gave way to another.
    Stranger,
    /// A connection that had brought a key, and had no request under way, gave way to another.
    Idle,
    /// A connection gave way because descriptors ran out.
    Descriptors,
    /// A request without a valid key.
    Key,
    /// A request without a Host, with two, or with one that is not served.
    Host,
    /// A request of an address that has as many under way as it may.
    Requests,
    /// A request whose body found no room beside those of others.
    Bodies,
}

const REASONS: [(Refused, &str); 7] = [
    (Refused::Stranger, "connection_without_key"),
    (Refused::Idle, "connection_idle"),
    (Refused::Descriptors, "descriptors"),
    (Refused::Key, "key"),
    (Refused::Host, "host"),
    (Refused::Requests, "requests"),
    (Refused::Bodies, "bodies"),
];

/// The numbers.
#[derive(Debug, Default)]
pub struct Counts {
    refused: [AtomicU64; REASONS.len()],
    /// When the log was last told of each, and how many there were then.
    told: Mutex<[Option<(Instant, u64)>; REASONS.len()]>,
}

impl Counts {
    /// Counts one, without a word in the log.
    pub fn count(&self, why: Refused) -> u64 {
        self.refused[why as usize].fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Counts one. Returns how many there were since the log was last told, if it is time to tell it again.
    pub fn refused(&self, why: Refused) -> Option<u64> {
        let all = self.count(why);
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let (before, now) = (told[why as usize], Instant::now());
        if before.is_some_and(|(at, _)| now.duration_since(at) < TOLD_EVERY) {
            return None;
        }
        told[why as usize] = Some((now, all));
        Some(all - before.map_or(0, |(_, told)| told))
    }

    /// The numbers of this moment.
    pub fn snapshot(&self, connections: usize) -> Snapshot {
        Snapshot { connections, refused: std::array::from_fn(|at| self.refused[at].load(Ordering::Relaxed)) }
    }
}

/// The numbers of one moment, for a scrape.
#[derive(Debug)]
pub struct Snapshot {
    connections: usize,
    refused: [u64; REASONS.len()],
}

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let help = "Connections that the HTTP API has";
        let connections = encoder.encode_descriptor("api_connections", help, None, MetricType::Gauge)?;
        ConstGauge::new(i64::try_from(self.connections).unwrap_or(i64::MAX)).encode(connections)?;
        let help =
            "Connections of the HTTP API that gave way to others, and requests that it refused without looking at them";
        let mut family = encoder.encode_descriptor("api_refusals", help, None, MetricType::Counter)?;
        for (why, reason) in REASONS {
            let counter = ConstCounter::new(self.refused[why as usize]);
            counter.encode(family.encode_family(&[("reason", reason)])?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_stands_in_its_place() {
        for (at, (why, _)) in REASONS.iter().enumerate() {
            assert_eq!(*why as usize, at);
        }
    }

    #[test]
    fn the_log_is_told_once_in_a_while() {
        let counts = Counts::default();
        assert_eq!(counts.refused(Refused::Idle), Some(1));
        assert!((0..100).all(|_| counts.refused(Refused::Idle).is_none()));
        assert_eq!(counts.refused(Refused::Stranger), Some(1));
        assert_eq!(counts.snapshot(0).refused[Refused::Idle as usize], 101);
    }
}
