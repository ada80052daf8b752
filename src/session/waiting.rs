//! How long a client's requests may wait. A request that is held back before it is sent has no deadline. A command whose
//! answer would overtake an earlier one is stalled. Part of `session`.

use std::sync::Arc;

use super::pending::{Pending, RequestKind};
use super::{Local, Session, Stalled};

/// The deadline of a request that has not been sent to its owner yet. It never comes.
const HELD_BACK_MS: u64 = u64::MAX;

/// A request whose outcome will not be known any more.
#[derive(Debug)]
pub(crate) struct TimedOut {
    /// The session's number for the request.
    pub(crate) request: u32,
    /// The client's `id` for the request, if it gave one.
    pub(crate) id: Option<Box<str>>,
    /// The channel that the request was about.
    pub(crate) channel: Arc<str>,
    /// The connection has to end, because the request was the sign-in.
    pub(crate) is_final: bool,
}

impl Session {
    /// When the next request has to be answered, in milliseconds of the monotonic clock.
    pub(crate) fn deadline_ms(&self) -> Option<u64> {
        let waits = |pending: &&Pending| !pending.is_cancelled() && pending.deadline_ms != HELD_BACK_MS;
        self.pending().find(waits).map(|pending| pending.deadline_ms)
    }

    /// Notes that a request waits before it is sent. It has no deadline meanwhile.
    pub(crate) fn hold_back(&mut self, request: u32) {
        if let Some(underway) = &mut self.underway {
            underway.requests.set_deadline(request, HELD_BACK_MS);
        }
    }

    /// Notes that a request is sent now and has to be answered by `deadline_ms`. It goes to the end of the queue, which is
    /// in the order of deadlines. No other request of its channel is behind it, because nothing was read meanwhile.
    pub(crate) fn sent(&mut self, request: u32, deadline_ms: u64) {
        let Some(underway) = &mut self.underway else { return };
        let at = underway.requests.iter().position(|pending| pending.request == request);
        if let Some(at) = at {
            let pending = underway.requests.remove(at);
            underway.requests.push(Pending { deadline_ms, ..pending });
        }
    }

    /// Gives up on a request that is over its deadline. If it was the sign-in, the connection has to end: if it signed in
    /// again, a kick for the first claim would hit the second one.
    pub(crate) fn time_out(&mut self, now_ms: u64) -> Option<TimedOut> {
        let late = |pending: &Pending| pending.deadline_ms <= now_ms && !pending.is_cancelled();
        let at = self.pending().position(late)?;
        let Pending { request, id, channel, kind, .. } = self.remove_pending(at);
        Some(TimedOut { request, id, channel, is_final: matches!(kind, RequestKind::SignIn(_)) })
    }

    /// The first stalled command that may be answered now. Call this after each answer and each time-out, until it returns
    /// `None`.
    pub(crate) fn next_stalled(&mut self) -> Option<(Local, Box<str>, Option<Box<str>>)> {
        let at = self.stalled().iter().position(|stalled| !self.is_busy_with(&stalled.channel))?;
        let underway = self.underway.as_mut()?;
        let Stalled { id, channel, what } = underway.stalled.remove(at);
        self.give_back();
        Some((what, channel, id))
    }
}
