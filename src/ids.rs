//! The ids of shards and connections, which every other module passes around. A [`ConnId`] has a generation: the id of a
//! connection that has ended matches no later connection in the same slot.

use std::fmt;

/// The number of a shard within the process, from 0.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ShardId(pub u16);

impl ShardId {
    /// The number as an index into a table by shard.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// The id of a connection of this process. No other connection ever has it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ConnId {
    /// The shard that has the socket.
    pub shard: ShardId,
    /// The index in that shard's table of connections.
    pub slot: u32,
    /// The number of connections that have had the slot. An id of an ended connection has an old number.
    pub generation: u32,
}

impl fmt::Display for ConnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{:x}-{:x}", self.shard.0, self.slot, self.generation)
    }
}
