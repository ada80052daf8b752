//! Asks that this shard may send to owners. Each owner gives credit for a bounded number of unanswered asks, so that its
//! answers always find room in the lane back. An ask that finds no credit is parked with its connection. The API has credits
//! of its own (`api::asks`). Part of `shard`.

use std::collections::VecDeque;

use crate::ids::{ConnId, ShardId};

/// The credits at all owners.
#[derive(Debug)]
pub(super) struct Asks {
    /// The credits at one owner when no ask is unanswered.
    most: usize,
    owners: Vec<OwnerCredits>,
}

#[derive(Debug)]
struct OwnerCredits {
    left: usize,
    /// Connections that have an ask parked, in the order in which they wait; one with several asks as often.
    waiting: VecDeque<ConnId>,
}

impl Asks {
    /// With `most` credits at each owner.
    pub(super) fn new(shards: usize, most: usize) -> Self {
        Self { most, owners: (0..shards).map(|_| OwnerCredits { left: most, waiting: VecDeque::new() }).collect() }
    }

    /// Takes a credit for an ask that is about to be sent. Returns false if none is left.
    pub(super) fn take_credit(&mut self, owner: ShardId) -> bool {
        let credits = &mut self.owners[owner.index()];
        let has_credit = credits.left > 0;
        credits.left -= usize::from(has_credit);
        has_credit
    }

    /// A connection has parked an ask and waits for a credit.
    pub(super) fn wait(&mut self, owner: ShardId, id: ConnId) {
        self.owners[owner.index()].waiting.push_back(id);
    }

    /// The next connection that waits for a credit, which it may use without taking one.
    pub(super) fn next_waiting(&mut self, owner: ShardId) -> Option<ConnId> {
        self.owners[owner.index()].waiting.pop_front()
    }

    /// A credit comes back that no connection uses at once.
    pub(super) fn give_back(&mut self, owner: ShardId) {
        self.owners[owner.index()].left += 1;
    }

    /// From now on no connection gets a credit that it waits for.
    pub(super) fn end_waiting(&mut self) {
        self.owners.iter_mut().for_each(|credits| credits.waiting.clear());
    }

    /// Whether every ask has been answered and none waits.
    pub(super) fn are_all_answered(&self) -> bool {
        self.owed().is_empty()
    }

    /// The owners that owe an answer or are waited for: the owner, its credits, and how many wait.
    pub(super) fn owed(&self) -> Vec<(usize, usize, usize)> {
        let credits = self.owners.iter().map(|credits| (credits.left, credits.waiting.len())).enumerate();
        credits
            .filter(|(_, credits)| *credits != (self.most, 0))
            .map(|(owner, (left, wait))| (owner, left, wait))
            .collect()
    }
}
