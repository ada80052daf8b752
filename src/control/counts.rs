//! What the API counts of itself (docs/metrics.md): connections and requests that gave way or were refused for the sake
//! of others. Called by `connections` and `api`; knows neither.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

macro_rules! bounds {
    ($($(#[doc = $doc:literal])+ $Bound:ident = $name:literal,)*) => {
        /// A bound of the API that was reached.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(u8)]
        pub enum ApiBound { $($(#[doc = $doc])+ $Bound,)* }

        impl ApiBound {
            const ALL: &[ApiBound] = &[$(ApiBound::$Bound,)*];

            /// Its name in the metric.
            fn label(self) -> &'static str {
                match self { $(ApiBound::$Bound => $name,)* }
            }

            /// Its name in the log (docs/logging.md).
            pub fn name(self) -> &'static str {
                match self { $(ApiBound::$Bound => concat!("api_", $name),)* }
            }
        }
    };
}

bounds! {
    /// A connection that had brought no key gave way to another.
    Stranger = "connection_without_key",
    /// A connection that had brought a key, and had no request with the shards, gave way to another.
    Idle = "connection_idle",
    /// No descriptor or memory for a connection: one gave way.
    Descriptors = "descriptors",
    /// A request of an address that has as many with the shards as it may.
    Requests = "requests",
    /// A request whose body found no room beside those of others.
    Bodies = "bodies",
}

/// The numbers.
#[derive(Debug, Default)]
pub struct ApiCounts {
    reached: [AtomicU64; ApiBound::ALL.len()],
}

impl ApiCounts {
    /// Counts one.
    pub fn count(&self, bound: ApiBound) {
        self.reached[bound as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// The numbers of this moment.
    pub fn snapshot(&self, connections: usize) -> ApiSnapshot {
        ApiSnapshot { connections, reached: std::array::from_fn(|at| self.reached[at].load(Ordering::Relaxed)) }
    }
}

/// The numbers of one moment, for a scrape.
#[derive(Debug)]
pub struct ApiSnapshot {
    connections: usize,
    reached: [u64; ApiBound::ALL.len()],
}

impl Collector for ApiSnapshot {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let help = "Connections that the HTTP API has";
        let connections = encoder.encode_descriptor("api_connections", help, None, MetricType::Gauge)?;
        ConstGauge::new(i64::try_from(self.connections).unwrap_or(i64::MAX)).encode(connections)?;
        let help = "Connections of the HTTP API that gave way to others, and requests that were too many beside others, by the bound";
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
        let page = include_str!("../../docs/logging.md");
        for bound in ApiBound::ALL {
            assert!(page.contains(&format!("`{}`", bound.name())), "docs/logging.md lacks {}", bound.name());
        }
    }
}
