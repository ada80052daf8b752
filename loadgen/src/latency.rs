//! Time: the clock, the schedule of an open loop, and the histogram of latencies.
//!
//! An open loop's messages have an intended time that depends on nothing that the server does, and latency
//! counts from it: a server that stalls delays what should have been sent meanwhile, and that delay is
//! counted (no coordinated omission). Pure but for the clock; called by the workloads and the engine.

use std::time::Instant;

use hdrhistogram::Histogram;
use serde::Serialize;

/// Nanoseconds since the run began, the same on every thread.
#[derive(Clone, Copy, Debug)]
pub struct Clock(Instant);

impl Clock {
    /// A clock that starts now.
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// The time.
    #[inline]
    pub fn now(self) -> u64 {
        self.0.elapsed().as_nanos() as u64
    }
}

/// One second in the clock's unit.
pub const SECOND: u64 = 1_000_000_000;

/// The times at which one of `stride` senders should send, all of them together at `rate` a second.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    start: u64,
    interval: f64,
    index: u64,
    stride: u64,
}

impl Schedule {
    /// The schedule of sender `index` among `stride`.
    pub fn new(start: u64, rate: f64, index: usize, stride: usize) -> Self {
        Self { start, interval: SECOND as f64 / rate, index: index as u64, stride: stride as u64 }
    }

    /// When this sender's message `number` should be sent.
    #[inline]
    pub fn intended(&self, number: u32) -> u64 {
        let place = u64::from(number) * self.stride + self.index;
        self.start + (place as f64 * self.interval) as u64
    }

    /// How many messages this sender should have sent before `time`.
    pub fn due_before(&self, time: u64) -> u32 {
        let elapsed = time.saturating_sub(self.start) as f64 / self.interval;
        let guess = ((elapsed - self.index as f64) / self.stride as f64).max(0.0) as u32;
        // Rounding may be off by one either way.
        let mut due = guess.saturating_sub(1);
        while self.intended(due) < time {
            due += 1;
        }
        due
    }
}

/// A histogram of nanoseconds, from 1 ns to 100 s, to three digits.
#[derive(Clone)]
pub struct Latencies(Histogram<u64>);

impl Default for Latencies {
    fn default() -> Self {
        // The bounds are constants that the library takes.
        let histogram = Histogram::new_with_bounds(1, 100 * SECOND, 3);
        Self(histogram.expect("constant histogram bounds"))
    }
}

/// Percentiles, in microseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Percentiles {
    /// How many were measured.
    pub count: u64,
    /// The least.
    pub min_us: f64,
    /// The mean.
    pub mean_us: f64,
    /// Half were at most this.
    pub p50_us: f64,
    /// 90 of 100 were at most this.
    pub p90_us: f64,
    /// 99 of 100.
    pub p99_us: f64,
    /// 999 of 1,000.
    pub p999_us: f64,
    /// The most.
    pub max_us: f64,
}

impl Latencies {
    /// Adds one.
    #[inline]
    pub fn record(&mut self, nanoseconds: u64) {
        self.0.saturating_record(nanoseconds);
    }

    /// Adds all of another.
    pub fn merge(&mut self, other: &Self) {
        self.0.add(&other.0).expect("equal histogram bounds");
    }

    /// The percentiles; none if nothing was measured.
    pub fn percentiles(&self) -> Option<Percentiles> {
        let at = |quantile| self.0.value_at_quantile(quantile) as f64 / 1e3;
        (!self.0.is_empty()).then(|| Percentiles {
            count: self.0.len(),
            min_us: self.0.min() as f64 / 1e3,
            mean_us: self.0.mean() / 1e3,
            p50_us: at(0.5),
            p90_us: at(0.9),
            p99_us: at(0.99),
            p999_us: at(0.999),
            max_us: self.0.max() as f64 / 1e3,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules_interleave_and_invert() {
        for rate in [3.0, 1_000.0, 333_333.0, 1e6] {
            let both = [0, 1].map(|index| Schedule::new(500, rate, index, 2));
            assert_eq!(both[0].intended(0), 500);
            let mut last = 0;
            for number in 0..2_000 {
                for schedule in both {
                    let at = schedule.intended(number);
                    assert!(at >= last);
                    last = at;
                    assert_eq!(schedule.due_before(at), number);
                    assert_eq!(schedule.due_before(at + 1), number + 1);
                }
            }
        }
        assert_eq!(Schedule::new(500, 10.0, 0, 1).due_before(0), 0);
    }

    /// A server that stalls for a second under 1,000 messages a second: half of that second's messages
    /// must show more than half a second.
    #[test]
    fn a_stall_is_seen_by_all_that_should_have_been_sent_meanwhile() {
        let schedule = Schedule::new(0, 1_000.0, 0, 1);
        let mut latencies = Latencies::default();
        for number in 0..2_000 {
            let intended = schedule.intended(number);
            let answered = if (SECOND / 2..SECOND * 3 / 2).contains(&intended) { SECOND * 3 / 2 } else { intended };
            latencies.record(answered + 1_000 - intended);
        }
        let percentiles = latencies.percentiles().unwrap();
        assert_eq!(percentiles.count, 2_000);
        assert!((percentiles.p50_us - 1.0).abs() < 2_000.0);
        assert!((percentiles.p90_us - 800_000.0).abs() < 5_000.0);
        assert!(percentiles.max_us > 999_000.0);
    }

    #[test]
    fn histograms_merge_and_saturate() {
        let (mut one, mut other) = (Latencies::default(), Latencies::default());
        assert!(one.percentiles().is_none());
        one.record(1_000);
        other.record(u64::MAX);
        one.merge(&other);
        let percentiles = one.percentiles().unwrap();
        assert_eq!((percentiles.count, percentiles.min_us), (2, 1.0));
        assert!(percentiles.max_us >= 1e8 * 0.99);
    }
}
