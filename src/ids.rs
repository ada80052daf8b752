//! The small names that everything else passes around: which shard, which connection, which channel owner.
//! Pure data; knows nothing of sockets or state. A `ConnId` carries a generation, so that a reference to a
//! connection that has gone is harmless: it matches nothing.

use std::fmt;

/// A shard's number within the process, 0-based.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ShardId(pub u16);

impl ShardId {
    /// The number as an index into a per-shard table.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// One connection of this process: where it lives and which life of that slot it is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ConnId {
    /// The shard that holds the socket.
    pub shard: ShardId,
    /// Index into that shard's connection table.
    pub slot: u32,
    /// Counts the lives of the slot; a stale id has an old one.
    pub generation: u32,
}

impl fmt::Display for ConnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{:x}-{:x}", self.shard.0, self.slot, self.generation)
    }
}
