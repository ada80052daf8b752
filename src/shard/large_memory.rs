//! When memory is given back to the system. After a large message the allocator keeps pages of some MB for each size that it
//! took, in case another one comes. To give them back costs up to a millisecond, so it is not done after each message.
//! Part of `shard`.

use crate::time::clock::Now;

/// For what is larger than this, the allocator takes pages of some MB.
const LARGE_BYTES: usize = 64 * 1024;
/// How often memory is given back while large messages come.
const GIVE_BACK_MS: u64 = 1_000;

/// What a shard remembers of large messages.
#[derive(Debug, Default)]
pub(super) struct LargeMemory {
    /// Something took much memory since memory was last given back.
    was_used: bool,
    /// When memory was last given back, in milliseconds of the monotonic clock.
    gave_back_ms: u64,
}

impl LargeMemory {
    /// Notes that a parcel or message of `bytes` bytes was taken.
    pub(super) fn note(&mut self, bytes: usize) {
        self.was_used |= bytes > LARGE_BYTES;
    }

    /// Something large was taken, if `is_large`.
    pub(super) fn note_if(&mut self, is_large: bool) {
        self.was_used |= is_large;
    }

    /// Whether memory is to be given back now.
    pub(super) fn is_due(&mut self, now: Now) -> bool {
        let is_due = self.was_used && self.gave_back_ms + GIVE_BACK_MS <= now.mono_ms;
        if is_due {
            (self.was_used, self.gave_back_ms) = (false, now.mono_ms);
        }
        is_due
    }
}
