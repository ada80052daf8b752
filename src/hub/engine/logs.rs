//! What this shard knows of the publications in each channel: the epoch, the newest offset and the history. All
//! histories share one budget of bytes. A log doesn't decide what comes next in a channel: the engine does, and the
//! log follows. Channels and logs are separate, so that nothing outside the engine can change an offset.

use std::sync::Arc;

use slab::Slab;

use super::budget::Budget;
use super::history::{History, HistoryBounds, HistoryRecovery};
use crate::model::position::Placed;
use crate::model::publication::Publication;

/// Names the log of one channel.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct LogId(u32);

impl LogId {
    fn index(self) -> usize {
        self.0 as usize
    }
}

/// The log of one channel.
#[derive(Debug)]
struct ChannelLog {
    name: Arc<str>,
    epoch: Arc<str>,
    /// The newest publication's offset; 0 before the first publication.
    top: u64,
    /// `None` while nothing is kept.
    history: Option<Box<History>>,
}

/// The logs of all channels that one shard owns.
#[derive(Debug)]
pub(crate) struct ChannelLogs {
    logs: Slab<ChannelLog>,
    budget: Budget<LogId>,
    /// Publications that left a history because all histories together were too large.
    evictions: u64,
}

impl ChannelLogs {
    /// No logs yet. All histories together will hold at most `history_bytes`.
    pub(crate) fn new(history_bytes: usize) -> Self {
        Self { logs: Slab::new(), budget: Budget::new(history_bytes), evictions: 0 }
    }

    /// Begins the log of a channel that has no publication in this epoch yet.
    pub(crate) fn open(&mut self, name: &Arc<str>, epoch: Arc<str>) -> LogId {
        let log = ChannelLog { name: Arc::clone(name), epoch, top: 0, history: None };
        LogId(u32::try_from(self.logs.insert(log)).expect("fewer channels than 2^32"))
    }

    /// The channel stands at `top` of `epoch` from now on, and nothing of its history is kept.
    pub(crate) fn restart(&mut self, log: LogId, epoch: &Arc<str>, top: u64) {
        self.change(log, History::clear);
        let log = &mut self.logs[log.index()];
        (log.epoch, log.top) = (Arc::clone(epoch), top);
    }

    /// Ends a log and forgets its history. Returns the newest offset that the channel had.
    pub(crate) fn close(&mut self, log: LogId) -> u64 {
        self.change(log, History::clear);
        self.logs.remove(log.index()).top
    }

    /// The channel's epoch.
    pub(crate) fn epoch(&self, log: LogId) -> &Arc<str> {
        &self.logs[log.index()].epoch
    }

    /// The newest publication's offset; 0 before the first publication.
    pub(crate) fn top(&self, log: LogId) -> u64 {
        self.logs[log.index()].top
    }

    /// The position at `offset`, as answers name it.
    pub(crate) fn placed(&self, log: LogId, offset: u64) -> Placed {
        let ChannelLog { name, epoch, .. } = &self.logs[log.index()];
        Placed { channel: Arc::clone(name), epoch: Arc::clone(epoch), offset }
    }

    /// Counts one more publication. Returns its position; [`ChannelLogs::keep`] takes the publication itself.
    pub(crate) fn advance(&mut self, log: LogId) -> Placed {
        self.logs[log.index()].top += 1;
        self.placed(log, self.logs[log.index()].top)
    }

    /// Puts the newest publication into the history, as far as the bounds allow.
    pub(crate) fn keep(&mut self, log: LogId, bounds: HistoryBounds, publication: &Arc<Publication>, mono_ms: u64) {
        if bounds.count == 0 {
            return;
        }
        self.logs[log.index()].history.get_or_insert_default();
        self.change(log, |history| history.push(Arc::clone(publication), mono_ms, bounds));
        while let Some(victim) = self.budget.victim() {
            self.evictions += u64::from(self.evict(victim));
        }
    }

    /// Removes the publications that have become too old.
    pub(crate) fn expire(&mut self, log: LogId, bounds: HistoryBounds, mono_ms: u64) {
        self.change(log, |history| history.expire(mono_ms, bounds));
    }

    /// Removes `bytes` of history, the largest histories first. Returns how many publications went.
    pub(crate) fn shrink(&mut self, bytes: usize) -> usize {
        let keep = self.budget.bytes().saturating_sub(bytes);
        let mut count = 0;
        while let Some(victim) = self.budget.victim_above(keep) {
            count += usize::from(self.evict(victim));
        }
        count
    }

    /// What a client missed that has everything up to `offset`, in a channel whose subscribers have been sent
    /// everything up to `top`. See [`History::since`].
    pub(crate) fn since(&self, log: LogId, offset: u64, top: u64, max_bytes: usize) -> HistoryRecovery {
        match &self.logs[log.index()].history {
            Some(history) => history.since(offset, top, max_bytes),
            None => History::default().since(offset, top, max_bytes),
        }
    }

    /// A page of the history. See [`History::page`].
    pub(crate) fn page(
        &self,
        log: LogId,
        since: Option<u64>,
        top: u64,
        limit: usize,
        max_bytes: usize,
        reverse: bool,
    ) -> Vec<Arc<Publication>> {
        let history = self.logs[log.index()].history.as_ref();
        history.map(|history| history.page(since, top, limit, max_bytes, reverse)).unwrap_or_default()
    }

    /// When the oldest publication in the history was pushed; `None` if the history is empty.
    pub(crate) fn oldest_ms(&self, log: LogId) -> Option<u64> {
        self.logs[log.index()].history.as_ref()?.oldest_ms()
    }

    /// The bytes of all histories.
    pub(crate) fn history_bytes(&self) -> usize {
        self.budget.bytes()
    }

    /// How many channels have a history that is not empty.
    #[cfg(test)]
    pub(crate) fn histories(&self) -> usize {
        self.budget.channels()
    }

    /// How many publications left a history because all histories together were too large.
    pub(crate) fn evictions(&self) -> u64 {
        self.evictions
    }

    /// Changes a history, unless nothing is kept in it.
    fn change<R>(&mut self, log: LogId, change: impl FnOnce(&mut History) -> R) {
        let place = &mut self.logs[log.index()].history;
        if let Some(history) = place {
            self.budget.change(&log, history, change);
            if history.is_empty() {
                *place = None;
            }
        }
    }

    /// Removes the victim's oldest publication, unless the victim has lost it already. Returns whether it was there.
    fn evict(&mut self, victim: LogId) -> bool {
        let place = &mut self.logs[victim.index()].history;
        let history = place.as_mut().expect("a victim has a history");
        let was_there = self.budget.evict(&victim, history) > 0;
        if history.is_empty() {
            *place = None;
        }
        was_there
    }
}
