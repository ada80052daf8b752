//! The lanes between shards as bounded queues, and the faults that can be put into them (and into the wire) to
//! prove that the oracle sees each of them. Without a fault a lane is what `mesh` promises: FIFO, nothing lost.

use std::collections::VecDeque;

use uringcast::ids::ShardId;
use uringcast::mesh::Staging;
use uringcast::model::parcel::{Answer, Parcel};
use uringcast::shard::turn::ShardLanes;

use crate::world::shard_id;

/// What goes wrong, once in a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    DropDeliver,
    SwapDelivers,
    DuplicateDeliver,
    DropRelease,
    DropKick,
    /// An answer overtakes the delivery before it.
    AnswerFirst,
    /// The wire says that it took a byte which it did not.
    LoseByte,
    /// A shard says that it revoked what it did not.
    ForgetRevocation,
    /// A shard that sleeps is not woken for what was shipped to it.
    DropRing,
    /// The engine gives one publication two places.
    AppendTwice,
    /// The engine says of each of two publications what became of the other.
    SwapOutcomes,
}

impl Fault {
    pub const ALL: [Self; 11] = [
        Self::DropDeliver,
        Self::SwapDelivers,
        Self::DuplicateDeliver,
        Self::DropRelease,
        Self::DropKick,
        Self::AnswerFirst,
        Self::LoseByte,
        Self::ForgetRevocation,
        Self::DropRing,
        Self::AppendTwice,
        Self::SwapOutcomes,
    ];
}

/// Strikes at the n-th opportunity of one kind of fault.
#[derive(Debug, Clone)]
pub struct Sabotage {
    fault: Option<Fault>,
    countdown: usize,
}

impl Sabotage {
    pub fn new(fault: Option<Fault>, countdown: usize) -> Self {
        Self { fault, countdown }
    }

    /// Told of an opportunity for `fault`: whether this is the one.
    pub fn strikes(&mut self, fault: Fault) -> bool {
        if self.fault != Some(fault) {
            return false;
        }
        match self.countdown.checked_sub(1) {
            Some(left) => {
                self.countdown = left;
                false
            }
            None => {
                self.fault = None;
                true
            }
        }
    }
}

/// Every lane of the mesh.
#[derive(Debug)]
pub struct Lanes {
    endpoints: usize,
    capacity: usize,
    queues: Vec<VecDeque<Parcel>>,
    /// Whether each shard has told the others to ring when they ship.
    asleep: Vec<bool>,
    /// Whether each shard was rung for since its last turn began. A ring during a turn is for the next one.
    rung: Vec<bool>,
    /// Deliveries shipped so far, by destination.
    pub delivered: Vec<usize>,
    pub sabotage: Sabotage,
}

impl Lanes {
    /// Lanes between `endpoints`: the shards, and an engine behind them.
    pub fn new(endpoints: usize, capacity: usize, sabotage: Sabotage) -> Self {
        let queues = (0..endpoints * endpoints).map(|_| VecDeque::new()).collect();
        Self {
            endpoints,
            capacity,
            queues,
            asleep: vec![false; endpoints],
            rung: vec![false; endpoints],
            delivered: vec![0; endpoints],
            sabotage,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.queues.iter().all(VecDeque::is_empty)
    }

    pub fn has_room(&self, from: usize, to: usize) -> bool {
        self.queues[from * self.endpoints + to].len() < self.capacity
    }

    pub fn pop(&mut self, from: usize, to: usize) -> Option<Parcel> {
        self.queues[from * self.endpoints + to].pop_front()
    }

    /// Puts a parcel of the engine's into a lane that has room.
    pub fn put(&mut self, from: usize, to: usize, parcel: Parcel) {
        self.queues[from * self.endpoints + to].push_back(parcel);
        self.rung[to] |= std::mem::take(&mut self.asleep[to]);
    }

    /// Whether the shard was rung and has to take a turn.
    pub fn has_rung(&self, shard: usize) -> bool {
        self.rung[shard]
    }

    /// Rings the shard: it has to take a turn.
    pub fn ring(&mut self, shard: usize) {
        self.rung[shard] = true;
    }
}

/// One shard's ends of the lanes.
pub struct Ends<'a> {
    pub lanes: &'a mut Lanes,
    pub own: usize,
    /// How many parcels each lane gives in one turn, by its producer.
    pub budgets: Vec<usize>,
    /// The lane that is drained first.
    pub first: usize,
    /// Told of each parcel that comes out of a lane.
    pub taken: &'a dyn Fn(usize, &Parcel),
}

impl ShardLanes for Ends<'_> {
    fn drain(&mut self, mut take: impl FnMut(ShardId, Parcel)) -> bool {
        let (endpoints, own) = (self.lanes.endpoints, self.own);
        let mut has_left = false;
        for from in (0..endpoints).map(|step| (self.first + step) % endpoints).filter(|&from| from != own) {
            let queue = &mut self.lanes.queues[from * endpoints + own];
            for parcel in queue.drain(..self.budgets[from].min(queue.len())) {
                (self.taken)(from, &parcel);
                take(shard_id(from), parcel);
            }
            has_left |= !queue.is_empty();
        }
        has_left
    }

    /// Moves what the shard has staged into its lanes, as far as there is room.
    fn ship(&mut self, staging: &mut Staging<Parcel>) {
        let Lanes { endpoints, capacity, queues, asleep, rung, delivered, sabotage } = &mut *self.lanes;
        for to in (0..*endpoints).filter(|&to| to != self.own) {
            let queue = &mut queues[self.own * *endpoints + to];
            let free = capacity.saturating_sub(queue.len());
            let has_moved = staging.ship_lane(shard_id(to), free, |parcel| {
                delivered[to] += usize::from(is_delivery(&parcel));
                put(queue, parcel, sabotage);
            });
            if has_moved && std::mem::take(&mut asleep[to]) && !sabotage.strikes(Fault::DropRing) {
                rung[to] = true;
            }
        }
    }

    fn fall_asleep(&mut self) -> bool {
        let (endpoints, own) = (self.lanes.endpoints, self.own);
        let is_idle = (0..endpoints).all(|from| self.lanes.queues[from * endpoints + own].is_empty());
        self.lanes.asleep[own] = is_idle;
        is_idle
    }

    fn wake_up(&mut self) {
        (self.lanes.asleep[self.own], self.lanes.rung[self.own]) = (false, false);
    }
}

fn is_delivery(parcel: &Parcel) -> bool {
    matches!(parcel, Parcel::Deliver { .. } | Parcel::DeliverBatch { .. } | Parcel::Announce { .. })
}

/// The same delivery once more.
fn again(parcel: &Parcel) -> Parcel {
    match parcel {
        Parcel::Deliver { delivery } => Parcel::Deliver { delivery: delivery.clone() },
        Parcel::DeliverBatch { deliveries, bytes } => {
            Parcel::DeliverBatch { deliveries: deliveries.clone(), bytes: *bytes }
        }
        Parcel::Announce { news } => Parcel::Announce { news: news.clone() },
        parcel => unreachable!("{parcel:?} is no delivery"),
    }
}

fn put(queue: &mut VecDeque<Parcel>, parcel: Parcel, sabotage: &mut Sabotage) {
    let after_deliver = queue.back().is_some_and(is_delivery);
    let mut swap = false;
    match &parcel {
        parcel if is_delivery(parcel) => {
            if sabotage.strikes(Fault::DropDeliver) {
                return;
            }
            if sabotage.strikes(Fault::DuplicateDeliver) {
                queue.push_back(again(parcel));
            }
            swap = after_deliver && sabotage.strikes(Fault::SwapDelivers);
        }
        Parcel::Release { .. } if sabotage.strikes(Fault::DropRelease) => return,
        Parcel::Kick { .. } if sabotage.strikes(Fault::DropKick) => return,
        Parcel::LateAnswers(_) | Parcel::Answer { answer: Answer::Published { .. } | Answer::Claimed { .. }, .. } => {
            swap = after_deliver && sabotage.strikes(Fault::AnswerFirst);
        }
        _ => {}
    }
    queue.push_back(parcel);
    if swap {
        let last = queue.len() - 1;
        queue.swap(last, last - 1);
    }
}
