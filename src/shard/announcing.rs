//! News of a channel's members on its way to the subscribers. Each event would cost one send for each subscriber. So in a
//! channel with many subscribers events are appended to the channel's run at once, but are sent at most once in a window.
//! A subscriber's cursor is the same as if they had been sent: a newcomer does not hear of itself, and a page of members
//! comes after the events that it includes. Part of `shard`.

use std::collections::VecDeque;

use hashbrown::HashMap;

use super::ShardCore;
use crate::dialect;
use crate::model::presence::PresenceNews;
use crate::model::voice::Voiced;
use crate::time::clock::Now;

/// A window ends early when the channel's run has this many bytes.
const GATHERED_BYTES: usize = 16 * 1024;

/// The windows of this shard's channels. A window opens when events have been sent. Those that come in it wait for its end.
#[derive(Debug, Default)]
pub(super) struct Announcing {
    /// Open windows, the next to end first, with the channel's index in the fan-out. The channel may be gone by the end of
    /// its window, and another one may have its index.
    windows: VecDeque<(u64, u32)>,
    /// Channels with an open window, and whether an event waits for its end.
    gathering: HashMap<u32, bool, foldhash::fast::RandomState>,
    /// How many channels have events that wait.
    waiting: usize,
    /// The end of a window that the driver was last asked to wake the shard for.
    alarm_ms: u64,
}

impl Announcing {
    /// Notes news in a channel, whose run has `bytes` now. Returns whether it is to be sent in this turn.
    fn note(&mut self, channel: u32, bytes: usize, window_ms: u64, now: Now) -> bool {
        match self.gathering.get_mut(&channel) {
            None => {
                self.gathering.insert(channel, false);
                self.windows.push_back((now.mono_ms.saturating_add(window_ms), channel));
                true
            }
            Some(_) if bytes >= GATHERED_BYTES => true,
            Some(waits) => {
                self.waiting += usize::from(!std::mem::replace(waits, true));
                false
            }
        }
    }

    /// Takes out a channel whose window is over. Returns the channel, and whether an event waits in it.
    fn pop_over(&mut self, now: Now) -> Option<(u32, bool)> {
        let (_, channel) = self.windows.pop_front_if(|(until_ms, _)| *until_ms <= now.mono_ms)?;
        let waits = self.gathering.remove(&channel).unwrap_or_default();
        self.waiting -= usize::from(waits);
        Some((channel, waits))
    }

    /// Whether an event waits for the end of a window.
    pub(super) fn is_waiting(&self) -> bool {
        self.waiting > 0
    }

    /// When the next window ends; `None` if this was returned before, or if no event waits.
    pub(super) fn take_alarm(&mut self) -> Option<u64> {
        let (until_ms, _) = *self.windows.front().filter(|_| self.waiting > 0)?;
        let is_new = until_ms != std::mem::replace(&mut self.alarm_ms, until_ms);
        is_new.then_some(until_ms)
    }
}

impl ShardCore {
    /// Tells the subscribers of a channel about its members, at once or at the end of a window.
    pub(super) fn announce(&mut self, news: &Voiced<PresenceNews>, now: Now) {
        let language = self.settings.language;
        let (window_ms, above) = (self.settings.presence_gather_ms, self.settings.presence_gather_above);
        let name = &news.value().channel;
        for (voice, channel) in self.fanout.places(name) {
            let frame = news.frame(voice, |news, out| dialect::write_presence(voice, out, news, language));
            if !self.fanout.append_unhurried(channel, frame, 0, 0) {
                continue;
            }
            let local = self.fanout.channel(channel);
            let is_small = window_ms == 0 || local.len() <= above;
            if is_small || self.announcing.note(channel, local.open_bytes(), window_ms, now) {
                self.fanout.make_dirty(channel);
            }
        }
    }

    /// Ends the windows that are over. A channel in which events were sent gets a new one.
    pub(super) fn end_announcing(&mut self, now: Now) {
        while let Some((channel, waits)) = self.announcing.pop_over(now) {
            if waits && self.fanout.make_dirty(channel) {
                self.announcing.note(channel, 0, self.settings.presence_gather_ms, now);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW_MS: u64 = 50;

    fn at(mono_ms: u64) -> Now {
        Now { mono_ms, unix_ms: 0 }
    }

    #[test]
    fn an_event_after_a_quiet_time_leaves_at_once_and_the_next_ones_together() {
        let mut announcing = Announcing::default();
        assert!(announcing.note(1, 100, WINDOW_MS, at(0)));
        assert_eq!((announcing.take_alarm(), announcing.is_waiting()), (None, false), "nothing waits");
        assert!(!announcing.note(1, 100, WINDOW_MS, at(10)));
        assert!(!announcing.note(1, 200, WINDOW_MS, at(20)));
        assert!(announcing.note(2, 100, WINDOW_MS, at(20)), "windows are the channels' own");
        assert!(announcing.note(1, GATHERED_BYTES, WINDOW_MS, at(30)), "a long run leaves early");
        assert_eq!((announcing.take_alarm(), announcing.take_alarm()), (Some(50), None));
        assert_eq!(announcing.pop_over(at(49)), None);
        assert_eq!(announcing.pop_over(at(50)), Some((1, true)));
        assert_eq!((announcing.pop_over(at(50)), announcing.is_waiting()), (None, false));
        assert_eq!(announcing.pop_over(at(70)), Some((2, false)));
        assert!(announcing.note(2, 100, WINDOW_MS, at(70)));
    }
}
