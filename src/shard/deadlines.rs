//! When connections have to be looked at. Each connection is filed once in the wheel, under its next deadline. Deadlines of
//! the wall clock (a token's end) are filed by the monotonic clock, and filed again when the wall clock jumps. Part of `shard`;
//! `timers` says what is due when.

use crate::ids::ConnId;
use crate::time::clock::Now;
use crate::time::wheel::{TICK_MS, Wheel};

/// How far the wall clock may drift from the monotonic one before all deadlines that depend on it are filed again.
const DRIFT_MS: u64 = 1_000;

/// The tick under which a connection is filed; entries of the wheel under other ticks are stale. 32 bits last for eight
/// years. 0: it is not filed.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct FiledTick(u32);

/// The wheel of one shard, and the clocks by which it is read.
#[derive(Debug, Default)]
pub(super) struct Deadlines {
    wheel: Wheel<ConnId>,
    /// The clocks by which deadlines of the wall clock are filed.
    filed_by: Now,
    /// When the wheel was last looked at, in milliseconds of the monotonic clock.
    ticked_ms: u64,
}

impl Deadlines {
    /// Files a connection under a deadline, in milliseconds of the monotonic clock, unless it is filed at that tick or
    /// before.
    pub(super) fn file(&mut self, id: ConnId, filed: &mut FiledTick, at_ms: u64) {
        if filed.0 == 0 || at_ms.div_ceil(TICK_MS) < u64::from(filed.0) {
            filed.0 = u32::try_from(self.wheel.file(id, at_ms)).expect("a tick within the next years");
        }
    }

    /// The connections of the next tick that has passed, stale ones among them. `None` if there is none.
    pub(super) fn pop_due(&mut self, now: Now) -> Option<(u64, Vec<ConnId>)> {
        self.wheel.pop_due(now.mono_ms)
    }

    /// When the wheel was last looked at, in milliseconds of the monotonic clock.
    pub(super) fn ticked_ms(&self) -> u64 {
        self.ticked_ms
    }

    /// A tick begins. Returns whether the wall clock has jumped, so that every connection has to be filed again.
    pub(super) fn begin_tick(&mut self, now: Now) -> bool {
        self.ticked_ms = now.mono_ms;
        let expected = self.filed_by.unix_ms.saturating_add(now.mono_ms.saturating_sub(self.filed_by.mono_ms));
        let has_jumped = expected.abs_diff(now.unix_ms) > DRIFT_MS;
        if has_jumped {
            self.filed_by = now;
        }
        has_jumped
    }

    /// A moment of the wall clock on the monotonic one, as long as the former doesn't jump. It is later than the tick that
    /// is under way, so that a connection which is filed there again is not looked at for ever.
    pub(super) fn mono_of(&self, unix_ms: u64) -> u64 {
        let Self { filed_by, ticked_ms, .. } = self;
        let at_ms = filed_by.mono_ms.saturating_add(unix_ms).saturating_sub(filed_by.unix_ms);
        at_ms.max(ticked_ms + 1)
    }
}

impl FiledTick {
    /// Takes the connection out of this tick. Returns false if it is filed under another one.
    pub(super) fn take(&mut self, tick: u64) -> bool {
        let is_here = u64::from(self.0) == tick;
        if is_here {
            self.0 = 0;
        }
        is_here
    }
}
