//! Rates by the generic cell rate algorithm (ITU-T I.371, Annex A): a token bucket whose whole state is one moment, the
//! *theoretical arrival time*. A bucket that is full again is the same as a new one, so only clients that were active a
//! moment ago need a bucket. Times are milliseconds of the monotonic clock.

const NS_PER_MS: u64 = 1_000_000;
const NS_PER_S: u64 = 1_000 * NS_PER_MS;

/// A number of units per time, and how many of them may come at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rate {
    units: u64,
    period_ns: u64,
    burst_ns: u64,
}

impl Rate {
    /// A rate of `units` a second, with `burst` of them at once (at least one). `None`, no limit, if `units` is 0.
    pub fn per_s(units: u64, burst: u64) -> Option<Self> {
        Self::new(units, NS_PER_S, burst)
    }

    /// A rate of `units` a minute, with `burst` of them at once (at least one). `None`, no limit, if `units` is 0.
    pub(crate) fn per_minute(units: u64, burst: u64) -> Option<Self> {
        Self::new(units, 60 * NS_PER_S, burst)
    }

    fn new(units: u64, period_ns: u64, burst: u64) -> Option<Self> {
        let mut rate = Self { units, period_ns, burst_ns: 0 };
        rate.burst_ns = (units > 0).then(|| rate.cost_ns(burst.max(1)))?;
        Some(rate)
    }

    /// The time in which `units` flow into the bucket, in nanoseconds.
    fn cost_ns(&self, units: u64) -> u64 {
        let cost = u128::from(units) * u128::from(self.period_ns) / u128::from(self.units);
        u64::try_from(cost).unwrap_or(u64::MAX)
    }
}

/// One bucket: the moment at which it will be full again, in nanoseconds of the monotonic clock. A new bucket is full.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Gcra(u64);

impl Gcra {
    /// Takes `units` out of the bucket if it holds them.
    ///
    /// # Errors
    /// The number of milliseconds after which the bucket will hold them, if nothing else is taken; nothing has been taken
    /// now. A bucket never holds more units than the burst.
    pub(crate) fn take(&mut self, rate: &Rate, units: u64, now_ms: u64) -> Result<(), u64> {
        let now_ns = now_ms.saturating_mul(NS_PER_MS);
        let full_ns = self.0.max(now_ns).saturating_add(rate.cost_ns(units));
        let over_ns = (full_ns - now_ns).saturating_sub(rate.burst_ns);
        if over_ns > 0 {
            return Err(over_ns.div_ceil(NS_PER_MS));
        }
        self.0 = full_ns;
        Ok(())
    }

    /// Takes `units` out of the bucket even if it does not hold them, because they were received already. Returns whether
    /// it held them. The debt is never more than the burst.
    pub(crate) fn charge(&mut self, rate: &Rate, units: u64, now_ms: u64) -> bool {
        let now_ns = now_ms.saturating_mul(NS_PER_MS);
        let full_ns = self.0.max(now_ns).saturating_add(rate.cost_ns(units));
        let most_ns = now_ns.saturating_add(rate.burst_ns);
        self.0 = full_ns.min(most_ns.saturating_add(rate.burst_ns));
        full_ns <= most_ns
    }

    /// Puts back `units` that were taken and not needed.
    pub(crate) fn give_back(&mut self, rate: &Rate, units: u64) {
        self.0 = self.0.saturating_sub(rate.cost_ns(units));
    }

    /// Whether the bucket is full, and so the same as a new one.
    pub(crate) fn is_full(&self, now_ms: u64) -> bool {
        self.0 <= now_ms.saturating_mul(NS_PER_MS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The model: a token bucket in the usual form, exact to a thousandth of a unit.
    struct Bucket {
        /// The tokens in the bucket, in thousandths of a unit.
        tokens: u64,
        burst: u64,
        at_ms: u64,
    }

    impl Bucket {
        fn take(&mut self, rate: u64, units: u64, now_ms: u64) -> bool {
            self.tokens = (self.tokens + (now_ms - self.at_ms) * rate).min(self.burst * 1_000);
            self.at_ms = now_ms;
            let fits = self.tokens >= units * 1_000;
            if fits {
                self.tokens -= units * 1_000;
            }
            fits
        }
    }

    proptest! {
        /// At rates that divide a second into whole nanoseconds nothing is rounded, so the two agree exactly.
        #[test]
        fn it_is_a_token_bucket(
            rate in prop::sample::select(vec![1u64, 2, 5, 10, 100, 1_000, 8_000, 1_000_000]),
            burst in 1u64..200,
            steps in prop::collection::vec((0u64..500, 0u64..50), 1..200),
        ) {
            let limit = Rate::per_s(rate, burst).expect("a rate");
            let (mut gcra, mut now_ms) = (Gcra::default(), 7);
            let mut bucket = Bucket { tokens: burst * 1_000, burst, at_ms: now_ms };
            for (wait_ms, units) in steps {
                now_ms += wait_ms;
                let took = gcra.take(&limit, units, now_ms);
                prop_assert_eq!(took.is_ok(), bucket.take(rate, units, now_ms), "{} units at {}", units, now_ms);
            }
        }

        /// At any rate, no more than the burst and the inflow gets through, up to one unit of rounding per step.
        #[test]
        fn no_more_than_the_burst_and_the_flow_gets_through(
            rate in 1u64..2_000_000,
            burst in 1u64..5_000_000,
            steps in prop::collection::vec((0u64..2_000, 1u64..1_000_000), 1..200),
        ) {
            let limit = Rate::per_s(rate, burst).expect("a rate");
            let (mut gcra, mut now_ms, mut through) = (Gcra::default(), 0, 0);
            let count = steps.len() as u64;
            for (wait_ms, units) in steps {
                now_ms += wait_ms;
                if gcra.take(&limit, units, now_ms).is_ok() {
                    through += units;
                }
            }
            prop_assert!(through <= burst + now_ms * rate / 1_000 + count + 1);
        }

        /// A client that waits as long as the error says gets through; a millisecond less is too early.
        #[test]
        fn the_wait_is_told_exactly(rate in 1u64..10_000, burst in 1u64..100, units in 1u64..100) {
            prop_assume!(units <= burst);
            let limit = Rate::per_s(rate, burst).expect("a rate");
            let mut gcra = Gcra::default();
            while gcra.take(&limit, units, 1_000).is_ok() {}
            let wait_ms = gcra.take(&limit, units, 1_000).expect_err("over the limit");
            let mut early = gcra;
            prop_assert!(early.take(&limit, units, 1_000 + wait_ms - 1).is_err());
            prop_assert!(gcra.take(&limit, units, 1_000 + wait_ms).is_ok());
        }
    }

    #[test]
    fn what_is_charged_makes_a_debt_of_at_most_a_burst() {
        let limit = Rate::per_s(10, 20).expect("a rate");
        let mut gcra = Gcra::default();
        assert!(gcra.charge(&limit, 20, 0));
        assert!(!gcra.charge(&limit, 1_000_000, 0));
        assert!(gcra.take(&limit, 1, 2_099).is_err() && gcra.take(&limit, 1, 2_100).is_ok());
        assert!(gcra.is_full(4_100) && !gcra.is_full(4_099));
    }

    #[test]
    fn the_extremes_neither_overflow_nor_divide_by_nothing() {
        assert_eq!(Rate::per_s(0, 5), None);
        for (units, burst) in [(1, u64::MAX), (u64::MAX, 1), (u64::MAX, u64::MAX), (1, 0)] {
            let limit = Rate::per_minute(units, burst).expect("a rate");
            let mut gcra = Gcra::default();
            for (units, now_ms) in [(1, 0), (u64::MAX, 0), (1, u64::MAX), (u64::MAX, u64::MAX)] {
                let _ = gcra.take(&limit, units, now_ms);
                gcra.charge(&limit, units, now_ms);
            }
        }
        assert_eq!(size_of::<Gcra>(), 8);
    }
}
