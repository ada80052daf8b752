//! Errands: work that a shard cannot do itself, because it would have to wait for another machine. A shard gives an errand a
//! number and hands it to the control thread by a bounded queue. The control thread does it and answers under the same
//! number, exactly once.

use crate::ids::ShardId;

/// What is to be done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Errand {
    /// Fetch the key set of `auth.jwks_url` again: a token names a key that is not among the known ones. All clients of a
    /// shard that wait for this share one errand.
    RefreshKeys,
}

/// What came of an errand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ErrandOutcome {
    /// The shard has the newest keys that could be had, whether or not others came. Asking again helps from this moment on,
    /// in milliseconds of the monotonic clock.
    KeysChecked {
        /// That moment.
        again_at_ms: u64,
    },
    /// It was not done: the queue to the control thread was full, or the control thread is gone.
    NotDone,
}

/// An errand on its way to the control thread.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ErrandOrder {
    /// Who wants it done.
    pub(crate) shard: ShardId,
    /// The shard's number for it.
    pub(crate) number: u32,
    /// What is to be done.
    pub(crate) errand: Errand,
}
