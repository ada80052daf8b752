//! Time as data: pure modules get a [`Now`] as an argument. Only `io`, `control` and `boot` read the [`Clock`].
//! The stopwatch measures what work costs; nothing is decided by it.

use std::sync::LazyLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// One moment, by the wall clock and by the monotonic clock.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Now {
    /// Milliseconds since 1970, for timestamps on the wire and for tokens. May jump.
    pub unix_ms: u64,
    /// Milliseconds since the process started, for deadlines. Never goes back.
    pub mono_ms: u64,
}

impl Now {
    /// Whole seconds since 1970, for the dates of certificates.
    pub(crate) fn unix_s(self) -> i64 {
        i64::try_from(self.unix_ms / 1000).unwrap_or(i64::MAX)
    }
}

/// Reads the machine's clocks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    started: Instant,
}

impl Clock {
    /// A clock whose monotonic time begins now.
    pub(crate) fn start() -> Self {
        Self { started: Instant::now() }
    }

    /// The present moment on both clocks.
    pub(crate) fn now(&self) -> Now {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now { unix_ms: millis(unix), mono_ms: millis(self.started.elapsed()) }
    }
}

/// Nanoseconds since an arbitrary moment, to measure what some work costs.
pub(crate) fn stopwatch_ns() -> u64 {
    static STARTED: LazyLock<Instant> = LazyLock::new(Instant::now);
    u64::try_from(STARTED.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
