//! What the sending side notes in each connection: two flags, which lie beside the outbox. Part of `shard`; `sender` keeps
//! the lists and counts that go with them.

/// The sending side's part of one connection.
#[derive(Debug, Default)]
pub(super) struct SendState {
    /// The kernel takes no more; the driver waits for writability.
    is_blocked: bool,
    /// The connection is in the sender's list of those with something of their own to send.
    is_dirty: bool,
}

impl SendState {
    /// Whether the kernel takes no more.
    pub(super) fn is_blocked(&self) -> bool {
        self.is_blocked
    }

    /// Whether the connection has something of its own to send.
    pub(super) fn is_dirty(&self) -> bool {
        self.is_dirty
    }

    /// Sets the flag. Returns what it was.
    pub(super) fn set_blocked(&mut self, is_blocked: bool) -> bool {
        std::mem::replace(&mut self.is_blocked, is_blocked)
    }

    /// Sets the flag. Returns what it was.
    pub(super) fn set_dirty(&mut self, is_dirty: bool) -> bool {
        std::mem::replace(&mut self.is_dirty, is_dirty)
    }
}
