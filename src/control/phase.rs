//! The phase of the control thread's life. `mod` moves it on; the API's connections and requests, and the thread's body,
//! watch it.

use std::time::Instant;

/// What the control thread does at the moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Phase {
    /// Requests are answered as usual.
    Serving,
    /// New requests are refused; requests under way go on.
    Draining,
    /// Connections end, at this moment at the latest.
    Ending(Instant),
}
