//! PLANTED faults and panics, for the tests that have to find them (`./check planted`). Without the feature `planted`,
//! and so in every server that is given to anyone, nothing can be planted and the compiler leaves the places out.
//! Knows the faults' names; what each does wrong stands where it does it.

/// A mistake that could have been made in the server. The simulation plants one at a time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// One of many publications doesn't reach the first of the shards.
    DroppedParcel,
    /// Two publications of a batch change places.
    SwappedOrder,
    /// Recovery leaves out the first that was missed.
    RecoveryOffByOne,
    /// The answer to a subscribe that was cancelled passes for that to the later one.
    StaleSubscribed,
    /// A release takes away what a later claim has.
    LateRelease,
    /// A full lane takes more, and loses it.
    FullLane,
    /// A sign-in counts by when it comes to the owner, not by when its connection was accepted.
    LateClaim,
    /// A connection counts as dead although it has shown a sign of life.
    DeafProbe,
    /// One of many outcomes of a remote engine is forgotten.
    LostCompletion,
    /// One of many publications of a remote engine is taken in twice.
    DoubledCompletion,
    /// Two publications that wait for a remote engine get each other's outcome.
    SwappedCompletion,
    /// A message that was put off for an errand is forgotten when the errand is done.
    ForgottenMessage,
}

impl Fault {
    /// Every fault that can be planted.
    pub const ALL: [Self; 12] = [
        Self::DroppedParcel,
        Self::SwappedOrder,
        Self::RecoveryOffByOne,
        Self::StaleSubscribed,
        Self::LateRelease,
        Self::FullLane,
        Self::LateClaim,
        Self::DeafProbe,
        Self::LostCompletion,
        Self::DoubledCompletion,
        Self::SwappedCompletion,
        Self::ForgottenMessage,
    ];

    /// Whether the server is to make this mistake.
    #[cfg(not(feature = "planted"))]
    #[inline(always)]
    pub(crate) const fn is_planted(self) -> bool {
        false
    }
}

#[cfg(feature = "planted")]
pub(crate) use chosen::{at_turn, at_write, hear};

/// What has been planted, by thread: a simulated server runs on one, and a real one's shards have no faults but panics.
#[cfg(feature = "planted")]
mod chosen {
    use std::cell::Cell;

    use super::Fault;
    use crate::ids::ConnId;

    thread_local! {
        static FAULT: Cell<Option<Fault>> = const { Cell::new(None) };
        static WRITER: Cell<Option<ConnId>> = const { Cell::new(None) };
        static LOOP: Cell<bool> = const { Cell::new(false) };
    }

    impl Fault {
        /// Whether the server is to make this mistake.
        pub(crate) fn is_planted(self) -> bool {
            FAULT.get() == Some(self)
        }

        /// From now on the servers of this thread make this mistake, or none.
        pub fn plant(fault: Option<Self>) {
            FAULT.set(fault);
        }
    }

    /// Looks for the place of a panic in a client's message, and panics if that is here.
    pub(crate) fn hear(id: ConnId, message: &[u8]) {
        let says = |what: &[u8]| message.windows(what.len()).any(|window| window == what);
        if says(b"planted panic: reader") {
            panic!("planted in the reader of {id}");
        }
        if says(b"planted panic: writer") {
            WRITER.set(Some(id));
        }
        if says(b"planted panic: loop") {
            LOOP.set(true);
        }
    }

    /// Where a connection's writer goes on.
    pub(crate) fn at_write(id: ConnId) {
        if WRITER.get() == Some(id) {
            panic!("planted in the writer of {id}");
        }
    }

    /// Where a shard takes a turn.
    pub(crate) fn at_turn() {
        if LOOP.get() {
            panic!("planted in a shard's loop");
        }
    }
}
