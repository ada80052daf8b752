//! One turn of a shard: the order in which it takes in parcels, works and sends. The order stands here once. The
//! io_uring loop, the simulation and the fuzz target all call [`Turn::step`], so what the simulation proves is proved
//! of the order that the server has.
//!
//! A turn has six stages:
//!
//! 1. **Drain.** The shard takes parcels out of its lanes, a bounded share of each. It takes in what is there before it
//!    sends anything, so that one send carries all of it.
//! 2. **Handle.** The shard takes the parcels that it sent to itself, and does a bounded share of its own work: the walk
//!    after a revocation, a slice of a long compression, batch windows that end, the farewell. Parcels that it stages for
//!    itself meanwhile belong to the same turn, up to a bound: a publication is delivered in the turn that takes its ask.
//! 3. **Ship.** Parcels for other shards leave. They leave before the flush, so that other shards work while this one
//!    sends.
//! 4. **Flush.** Connections are sent what they are due. With thousands of connections this takes tens of
//!    milliseconds, so a flush is made in steps, and other tasks of the thread run between two steps. A flush covers
//!    what was there when it began. What comes between its steps waits for the flush of the next turn.
//! 5. **Ship** again. Sending ends connections whose peer is gone or too slow; their releases leave now.
//! 6. **Answer.** The driver gets the answers for the control thread. They come last: when the backend reads that a revocation
//!    is done, the kernel has the Close of each connection that the revocation ended, unless its socket is full.
//!
//! A turn in which nothing is to be sent has no stages 4 and 5.
//!
//! # What a driver does
//!
//! It owns the [`ShardLanes`], the [`Wire`] and the clock, calls [`Turn::step`] in a loop and does what [`Next`] says.
//! After each step it carries out [`Shard::take_actions`]. Between two steps it may call every other method of the
//! shard. Only one `Turn` drives a shard.

use super::{LANE_BYTES, LANE_PARCELS, Shard, ShardCore, Wire};
use crate::ids::ShardId;
use crate::mesh::{Endpoint, Staging};
use crate::metrics::Count;
use crate::model::parcel::{Answer, Parcel};
use crate::time::clock::Now;

/// Sends of one step, for a driver that serves clients: 8,000 sends in a row would hold its thread for 30 ms.
pub(crate) const SENDS_PER_STEP: usize = 192;

/// A shard's ends of the lanes to and from the other shards.
pub trait ShardLanes {
    /// Hands parcels that have come in to `take`, a bounded share of each lane. Returns whether any are left.
    fn drain(&mut self, take: impl FnMut(ShardId, Parcel)) -> bool;

    /// Moves staged parcels into the lanes, as far as there is room, and wakes their shards.
    fn ship(&mut self, staging: &mut Staging<Parcel>);

    /// Tells the other shards to ring from now on when they ship. Returns false, and tells them nothing, if a parcel
    /// has come in: then the shard must not sleep.
    fn fall_asleep(&mut self) -> bool;

    /// Tells the other shards that they need not ring.
    fn wake_up(&mut self);
}

impl ShardLanes for Endpoint<Parcel> {
    fn drain(&mut self, take: impl FnMut(ShardId, Parcel)) -> bool {
        Self::drain(self, LANE_PARCELS, LANE_BYTES, Parcel::weight, take)
    }

    fn ship(&mut self, staging: &mut Staging<Parcel>) {
        Self::ship(self, staging);
    }

    fn fall_asleep(&mut self) -> bool {
        Self::fall_asleep(self)
    }

    fn wake_up(&mut self) {
        Self::wake_up(self);
    }
}

/// What the driver does after a step, and after the actions of that step.
#[derive(Debug)]
pub enum Next {
    /// Call [`Turn::step`] again.
    Step,
    /// Let other tasks run, then call [`Turn::step`] again.
    Yield,
    /// The turn is over. Deliver the answers, then do as `then` says.
    Over {
        /// Answers for the control thread, under the numbers that it asked with.
        answers: Vec<(u32, Answer)>,
        /// When the next turn begins.
        then: AfterTurn,
    },
}

/// When the next turn begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AfterTurn {
    /// Work is left: as soon as other tasks have run.
    Work,
    /// Parcels wait for room in a lane that another shard has to drain: in about a millisecond.
    Stuck,
    /// As soon as another shard rings, or a method of the shard leaves it with work ([`Shard::has_work`],
    /// [`Shard::is_stuck`]), or the time of an [`Action::Alarm`](super::Action::Alarm) has come.
    Asleep,
}

/// Drives one shard through its turns.
#[derive(Debug, Default)]
pub struct Turn {
    stage: TurnStage,
    /// Parcels were left in a lane when this turn drained it.
    has_left: bool,
}

#[derive(Clone, Copy, Debug, Default)]
enum TurnStage {
    /// The next step drains, handles and ships.
    #[default]
    TakeIn,
    /// The next step sends.
    Flush {
        /// When the flush began, by the stopwatch.
        since_ns: u64,
    },
}

impl Turn {
    /// Whether a flush is under way: the next step sends.
    pub fn is_flushing(&self) -> bool {
        matches!(self.stage, TurnStage::Flush { .. })
    }

    /// Does the next part of a turn. A part that sends makes about `sends` sends at most.
    pub fn step(
        &mut self,
        shard: &mut Shard,
        lanes: &mut impl ShardLanes,
        wire: &mut impl Wire,
        sends: usize,
        now: Now,
    ) -> Next {
        let core = &mut shard.core;
        match self.stage {
            TurnStage::TakeIn => {
                lanes.wake_up();
                self.has_left = lanes.drain(|from, parcel| core.take(from, parcel, now));
                core.work(now);
                lanes.ship(&mut core.staging);
                if !core.wants_flush() {
                    return self.end(core, lanes);
                }
                core.sender.begin_flush(&mut core.fanout);
                self.stage = TurnStage::Flush { since_ns: core.stopwatch_ns() };
                Next::Step
            }
            TurnStage::Flush { since_ns } => {
                if !core.flush_step(sends, wire, now) {
                    return Next::Yield;
                }
                core.metrics.flushed(core.stopwatch_ns().saturating_sub(since_ns) / 1_000);
                lanes.ship(&mut core.staging);
                self.end(core, lanes)
            }
        }
    }

    fn end(&mut self, core: &mut ShardCore, lanes: &mut impl ShardLanes) -> Next {
        self.stage = TurnStage::TakeIn;
        let answers = std::mem::take(&mut core.backend);
        let then = if self.has_left || core.has_work() {
            AfterTurn::Work
        } else if core.is_stuck() {
            core.metrics.count(Count::LaneFull);
            AfterTurn::Stuck
        } else if lanes.fall_asleep() {
            AfterTurn::Asleep
        } else {
            AfterTurn::Work
        };
        Next::Over { answers, then }
    }
}
