//! The lanes between shards as bounded queues, and the faults that can be put into them (and into the wire) to
//! prove that the oracle sees each of them. Without a fault a lane is what `mesh` promises: FIFO, nothing lost.

use std::collections::VecDeque;

use uringcast::mesh::Staging;
use uringcast::model::parcel::{Answer, Parcel};
use uringcast::shard::Shard;

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
    /// The engine gives one publication two places.
    AppendTwice,
    /// The engine says of each of two publications what became of the other.
    SwapOutcomes,
}

impl Fault {
    pub const ALL: [Self; 10] = [
        Self::DropDeliver,
        Self::SwapDelivers,
        Self::DuplicateDeliver,
        Self::DropRelease,
        Self::DropKick,
        Self::AnswerFirst,
        Self::LoseByte,
        Self::ForgetRevocation,
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
    /// Deliveries shipped so far, by destination.
    pub delivered: Vec<usize>,
    pub sabotage: Sabotage,
}

impl Lanes {
    pub fn new(endpoints: usize, capacity: usize, sabotage: Sabotage) -> Self {
        let queues = (0..endpoints * endpoints).map(|_| VecDeque::new()).collect();
        Self { endpoints, capacity, queues, delivered: vec![0; endpoints], sabotage }
    }

    pub fn is_empty(&self) -> bool {
        self.queues.iter().all(VecDeque::is_empty)
    }

    pub fn len(&self, from: usize, to: usize) -> usize {
        self.queues[from * self.endpoints + to].len()
    }

    pub fn pop(&mut self, from: usize, to: usize) -> Option<Parcel> {
        self.queues[from * self.endpoints + to].pop_front()
    }

    pub fn has_room(&self, from: usize, to: usize) -> bool {
        self.len(from, to) < self.capacity
    }

    /// Puts a parcel into a lane that has room.
    pub fn put(&mut self, from: usize, to: usize, parcel: Parcel) {
        self.queues[from * self.endpoints + to].push_back(parcel);
    }

    /// Moves what a shard has staged into its lanes, as far as there is room.
    pub fn ship(&mut self, from: usize, shard: &mut Shard) {
        for to in (0..self.endpoints).filter(|&to| to != from) {
            let queue = &mut self.queues[from * self.endpoints + to];
            let free = self.capacity.saturating_sub(queue.len());
            let (sabotage, delivered) = (&mut self.sabotage, &mut self.delivered[to]);
            let staging: &mut Staging<Parcel> = shard.staging();
            staging.ship_lane(crate::world::shard_id(to), free, |parcel| {
                *delivered += usize::from(is_delivery(&parcel));
                put(queue, parcel, sabotage);
            });
        }
    }
}

fn is_delivery(parcel: &Parcel) -> bool {
    matches!(parcel, Parcel::Deliver { .. } | Parcel::DeliverBatch { .. } | Parcel::Announce { .. })
}

/// The same delivery once more.
fn again(parcel: &Parcel) -> Parcel {
    match parcel {
        Parcel::Deliver { channel, publication } => {
            Parcel::Deliver { channel: channel.clone(), publication: publication.clone() }
        }
        Parcel::DeliverBatch { channel, publications, bytes } => {
            Parcel::DeliverBatch { channel: channel.clone(), publications: publications.clone(), bytes: *bytes }
        }
        Parcel::Announce { channel, frame } => Parcel::Announce { channel: channel.clone(), frame: frame.clone() },
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
