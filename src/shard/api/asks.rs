//! Asks of the API to owners, and their credits. The API has credits of its own, so a flood of clients takes none of them,
//! and publishers take none of the clients'. An ask that finds no credit is parked here, in order. Asks to this shard's own
//! hub go through no lane; they have more credits. Part of `shard`.

use std::collections::VecDeque;

use crate::ids::{ConnId, ShardId};
use crate::mesh;
use crate::model::parcel::Ask;

/// Unanswered asks that this shard's own hub takes at a time.
const OWN_CREDITS: usize = 1_024;

/// The credits at all owners, and the asks that wait for one.
#[derive(Debug)]
pub(super) struct ApiAsks {
    owners: Vec<ApiOwner>,
}

#[derive(Debug)]
struct ApiOwner {
    /// The credits when no ask is unanswered.
    most: usize,
    left: usize,
    parked: VecDeque<ParkedApiAsk>,
}

/// An ask of the API that found no credit.
#[derive(Debug)]
pub(super) struct ParkedApiAsk {
    /// The connection whose request it belongs to.
    pub(super) conn: ConnId,
    /// The number of the request's response.
    pub(super) number: u32,
    /// What the owner is asked for.
    pub(super) ask: Ask,
}

impl ApiAsks {
    /// For shard `own` in a mesh of `shards`, with lanes of `lane_parcels` parcels.
    pub(super) fn new(own: ShardId, shards: usize, lane_parcels: usize) -> Self {
        let of_lane = mesh::api_credits(lane_parcels);
        let credits = |owner| if owner == own.index() { OWN_CREDITS } else { of_lane };
        let owner = |owner| ApiOwner { most: credits(owner), left: credits(owner), parked: VecDeque::new() };
        Self { owners: (0..shards).map(owner).collect() }
    }

    /// Takes a credit for an ask. Returns the ask if it may be sent now; otherwise it is parked.
    pub(super) fn admit(&mut self, owner: ShardId, ask: ParkedApiAsk) -> Option<ParkedApiAsk> {
        let credits = &mut self.owners[owner.index()];
        if credits.left == 0 {
            credits.parked.push_back(ask);
            return None;
        }
        credits.left -= 1;
        Some(ask)
    }

    /// A credit comes back. Returns the next parked ask for which `is_wanted` holds; it has the credit then.
    pub(super) fn give_back(
        &mut self,
        owner: ShardId,
        mut is_wanted: impl FnMut(&ParkedApiAsk) -> bool,
    ) -> Option<ParkedApiAsk> {
        let credits = &mut self.owners[owner.index()];
        while let Some(next) = credits.parked.pop_front() {
            if is_wanted(&next) {
                return Some(next);
            }
        }
        credits.left += 1;
        None
    }

    /// Forgets the parked asks of one response. Returns whether there was one.
    pub(super) fn forget(&mut self, conn: ConnId, number: u32) -> bool {
        let mut found = false;
        for owner in &mut self.owners {
            owner.parked.retain(|parked| {
                let is_it = (parked.conn, parked.number) == (conn, number);
                found |= is_it;
                !is_it
            });
        }
        found
    }

    /// Forgets the parked asks of a connection, with the content that they hold.
    pub(super) fn forget_connection(&mut self, conn: ConnId) {
        for owner in &mut self.owners {
            owner.parked.retain(|parked| parked.conn != conn);
        }
    }

    /// Takes away all parked asks: no ask is sent any more.
    pub(super) fn take_parked(&mut self) -> Vec<ParkedApiAsk> {
        self.owners.iter_mut().flat_map(|owner| std::mem::take(&mut owner.parked)).collect()
    }

    /// Whether every ask has been answered and none is parked.
    pub(super) fn are_all_answered(&self) -> bool {
        self.owners.iter().all(|owner| owner.left == owner.most && owner.parked.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::position::Since;

    fn ask(slot: u32, number: u32) -> ParkedApiAsk {
        let conn = ConnId { shard: ShardId(0), slot, generation: 0 };
        let since: Option<Box<Since>> = None;
        ParkedApiAsk { conn, number, ask: Ask::History { channel: "a".into(), since, limit: 1, reverse: false } }
    }

    #[test]
    fn a_connection_that_goes_takes_its_parked_asks_along() {
        let owner = ShardId(0);
        let mut asks = ApiAsks::new(owner, 1, 64);
        (0..OWN_CREDITS).for_each(|_| assert!(asks.admit(owner, ask(1, 0)).is_some()));
        for (slot, number) in [(1, 1), (2, 2), (1, 3)] {
            assert!(asks.admit(owner, ask(slot, number)).is_none(), "no credit is left");
        }
        asks.forget_connection(ask(1, 0).conn);
        assert_eq!(asks.give_back(owner, |_| true).map(|next| next.number), Some(2));
        assert!(asks.give_back(owner, |_| true).is_none());
    }
}
