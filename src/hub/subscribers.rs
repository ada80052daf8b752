//! The connections that subscribe to one channel, and the shards that they are on. Most channels have one or a few
//! subscribers: the first is stored inline, a few in a list, and more in a hash table. Part of `hub`.

use hashbrown::HashMap;
use smallvec::SmallVec;

use crate::ids::{ConnId, ShardId};

/// Most subscribers in a list. Searching it is about as fast as a look-up in a table.
const FEW: usize = 16;

/// Subscribed connections, with the number of the ask that attached each.
#[derive(Debug, Default)]
pub(crate) enum Subscribers {
    /// The channel has no subscriber.
    #[default]
    None,
    One((ConnId, u32)),
    /// At most [`FEW`], in no order.
    Few(Vec<(ConnId, u32)>),
    Many(Box<ManySubscribers>),
}

#[derive(Debug)]
pub(crate) struct ManySubscribers {
    by_conn: HashMap<ConnId, u32, foldhash::fast::RandomState>,
    /// How many of them each shard has, by its number. Trailing shards without any may be missing.
    per_shard: Vec<u32>,
}

impl Subscribers {
    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::None => 0,
            Self::One(_) => 1,
            Self::Few(few) => few.len(),
            Self::Many(many) => many.by_conn.len(),
        }
    }

    /// The number of the ask that attached the connection; `None` if it does not subscribe.
    pub(crate) fn request_of(&self, conn: ConnId) -> Option<u32> {
        match self {
            Self::None => None,
            Self::One((one, request)) => (*one == conn).then_some(*request),
            Self::Few(few) => few.iter().find(|(other, _)| *other == conn).map(|(_, request)| *request),
            Self::Many(many) => many.by_conn.get(&conn).copied(),
        }
    }

    /// Adds a connection, or notes the later ask of one that is there.
    pub(crate) fn insert(&mut self, conn: ConnId, request: u32) {
        match self {
            Self::None => *self = Self::One((conn, request)),
            Self::One(one) if one.0 == conn => one.1 = request,
            Self::One(one) => *self = Self::Few(vec![*one, (conn, request)]),
            Self::Few(few) => match few.iter().position(|(other, _)| *other == conn) {
                Some(at) => few[at].1 = request,
                None if few.len() < FEW => {
                    if few.len() == few.capacity() {
                        few.reserve_exact(few.len().min(FEW - few.len()));
                    }
                    few.push((conn, request));
                }
                None => {
                    let mut many = ManySubscribers { by_conn: HashMap::default(), per_shard: Vec::new() };
                    few.drain(..).for_each(|(conn, request)| many.insert(conn, request));
                    many.insert(conn, request);
                    *self = Self::Many(Box::new(many));
                }
            },
            Self::Many(many) => many.insert(conn, request),
        }
    }

    /// Removes a connection. Returns whether it was there.
    pub(crate) fn remove(&mut self, conn: ConnId) -> bool {
        match self {
            Self::None => false,
            Self::One((one, _)) => {
                let was = *one == conn;
                if was {
                    *self = Self::None;
                }
                was
            }
            Self::Few(few) => {
                let Some(at) = few.iter().position(|(other, _)| *other == conn) else { return false };
                few.swap_remove(at);
                if let [last] = **few {
                    *self = Self::One(last);
                }
                true
            }
            Self::Many(many) => {
                let was = many.by_conn.remove(&conn).is_some();
                if was {
                    many.per_shard[conn.shard.index()] -= 1;
                }
                // Half of the bound, so that one who comes and goes does not move all others each time.
                if many.by_conn.len() <= FEW / 2 {
                    *self = Self::Few(many.by_conn.drain().collect());
                } else if many.by_conn.capacity() > 64 && many.by_conn.len() * 4 < many.by_conn.capacity() {
                    many.by_conn.shrink_to_fit();
                }
                was
            }
        }
    }

    /// The shards that have subscribers, in the order of their numbers.
    pub(crate) fn shards(&self) -> SmallVec<[ShardId; 4]> {
        match self {
            Self::None => SmallVec::new(),
            Self::One((conn, _)) => SmallVec::from_slice(&[conn.shard]),
            // Nearly always all are on one shard.
            Self::Few(few) if few.iter().all(|(conn, _)| conn.shard == few[0].0.shard) => {
                SmallVec::from_slice(&[few[0].0.shard])
            }
            Self::Few(few) => {
                let mut shards: SmallVec<[ShardId; 4]> = SmallVec::new();
                for (conn, _) in few {
                    if let Err(at) = shards.binary_search(&conn.shard) {
                        shards.insert(at, conn.shard);
                    }
                }
                shards
            }
            Self::Many(many) => {
                let counts = many.per_shard.iter().zip(0u16..);
                counts.filter(|(count, _)| **count > 0).map(|(_, shard)| ShardId(shard)).collect()
            }
        }
    }
}

impl ManySubscribers {
    fn insert(&mut self, conn: ConnId, request: u32) {
        if self.by_conn.insert(conn, request).is_some() {
            return;
        }
        let shard = conn.shard.index();
        if self.per_shard.len() <= shard {
            self.per_shard.resize(shard + 1, 0);
        }
        self.per_shard[shard] += 1;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn subscribers_are_a_map(
            steps in vec((0..40u32, 0..4u16, any::<bool>()), 0..400),
            bias in 0..4u32,
        ) {
            let (mut real, mut model) = (Subscribers::default(), BTreeMap::new());
            for (at, (slot, shard, comes)) in (0u32..).zip(steps) {
                let conn = ConnId { shard: ShardId(shard), slot, generation: 0 };
                // Long stretches in which more come than go, and the reverse.
                let comes = if (at / 100 + bias) % 2 == 0 { comes || at % 2 == 0 } else { comes && at % 2 == 0 };
                if comes {
                    real.insert(conn, at);
                    model.insert(conn, at);
                } else {
                    prop_assert_eq!(real.remove(conn), model.remove(&conn).is_some());
                }
                prop_assert_eq!((real.len(), real.request_of(conn)), (model.len(), model.get(&conn).copied()));
                let shards: BTreeSet<_> = model.keys().map(|conn| conn.shard).collect();
                prop_assert_eq!(real.shards().into_vec(), shards.into_iter().collect::<Vec<_>>());
            }
            for (conn, request) in &model {
                prop_assert_eq!(real.request_of(*conn), Some(*request));
            }
        }
    }

    #[test]
    fn one_subscriber_needs_no_memory_of_its_own() {
        assert!(size_of::<Subscribers>() <= 24, "{}", size_of::<Subscribers>());
    }
}
