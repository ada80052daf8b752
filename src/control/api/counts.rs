//! The API's own metrics (docs/metrics.md): how often each of its bounds was reached, and a connection had to give way or
//! a request was refused.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use crate::limits::labelled;

labelled! {
    /// A bound of the API that was reached. The label is that of `uringcast_api_bounds_reached_total`.
    pub(crate) enum ApiBound, log prefix "api_" {
        /// A connection that had brought no key gave way to another one.
        Stranger = "connection_without_key",
        /// A connection that had brought a key, and waited for no shard, gave way to another one.
        Idle = "connection_idle",
        /// The kernel had no descriptor or memory for a new connection, and another one gave way.
        Descriptors = "descriptors",
        /// A request was refused because its address has its share of requests with the shards already.
        Requests = "requests",
        /// A request was refused because the bodies of others left no room for its own.
        Bodies = "bodies",
    }
}

/// How often each bound was reached since the start.
#[derive(Debug, Default)]
pub(crate) struct ApiCounts {
    reached: [AtomicU64; ApiBound::ALL.len()],
}

impl ApiCounts {
    /// Counts that `bound` was reached once.
    pub(crate) fn count(&self, bound: ApiBound) {
        self.reached[bound as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// The numbers of this moment, with the present number of `connections`.
    pub(crate) fn snapshot(&self, connections: usize) -> ApiSnapshot {
        ApiSnapshot { connections, reached: std::array::from_fn(|at| self.reached[at].load(Ordering::Relaxed)) }
    }
}

/// The API's metrics at one moment, for a scrape.
#[derive(Debug)]
pub(crate) struct ApiSnapshot {
    connections: usize,
    reached: [u64; ApiBound::ALL.len()],
}

impl Collector for ApiSnapshot {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let help = "Open connections of the HTTP API";
        let connections = encoder.encode_descriptor("api_connections", help, None, MetricType::Gauge)?;
        ConstGauge::new(i64::try_from(self.connections).unwrap_or(i64::MAX)).encode(connections)?;
        let help = "Connections of the HTTP API that gave way to others, and requests that were refused for others, by the \
                    bound that was reached";
        let mut family = encoder.encode_descriptor("api_bounds_reached", help, None, MetricType::Counter)?;
        for (bound, count) in ApiBound::ALL.iter().zip(self.reached) {
            ConstCounter::new(count).encode(family.encode_family(&[("bound", bound.label())])?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_on_the_log_has_every_name() {
        let page = include_str!("../../../docs/logging.md");
        for bound in ApiBound::ALL {
            assert!(page.contains(&format!("`{}`", bound.name())), "docs/logging.md lacks {}", bound.name());
        }
    }
}
