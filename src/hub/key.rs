//! The keys of channels: after the name has been looked up once, everything in the hub refers to a channel by its key.
//! Part of `hub`; `table` makes the keys.

/// Names a channel of this shard. The key of a channel that is gone matches no later channel in the same slot.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct ChannelKey {
    slot: u32,
    generation: u32,
}

impl ChannelKey {
    /// The key of the channel in this slot. No other channel in the slot may have had the generation.
    pub(crate) fn new(slot: u32, generation: u32) -> Self {
        Self { slot, generation }
    }

    /// The slot as an index.
    pub(crate) fn index(self) -> usize {
        self.slot as usize
    }
}
