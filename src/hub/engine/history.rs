//! The history of a channel: a contiguous run of publications up to the newest one, from which a client that was away
//! gets what it missed. It is bounded by count and age here, and by bytes over all channels in `budget`. It knows neither
//! the epoch nor the subscribers nor the clock: `logs` clears it when the offsets start again at 1, and passes the time in.
//! Publications are shared by `Arc`: a publication that is on its way to a client outlives its place here.

use std::cmp::Reverse;
use std::collections::VecDeque;
use std::sync::Arc;

use crate::model::publication::Publication;
use crate::planted::Fault;

/// How much history the channels of a namespace have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HistoryBounds {
    /// Most publications kept; 0 keeps none.
    pub count: usize,
    /// A publication goes when it is this old.
    pub age_ms: u64,
}

/// What [`History::since`] found.
#[derive(Debug)]
pub enum HistoryRecovery {
    /// Everything that was missed, in order. Empty if nothing was missed.
    Complete(Vec<Arc<Publication>>),
    /// Some of it is gone, or it is too much for one answer, or the client's offset was never given.
    Incomplete,
}

/// Where a history stands in the order in which histories give up publications; the smallest one is first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct HistoryPlace {
    /// The number of bits in the history's size. It changes seldom.
    pub(super) size: Reverse<u32>,
    /// When the oldest publication was pushed, or earlier, in milliseconds of the monotonic clock.
    oldest_ms: u64,
}

impl HistoryPlace {
    /// The place of a history as it is now; `None` if the history is empty.
    pub(super) fn of(history: &History) -> Option<Self> {
        let size = Reverse(usize::BITS - history.bytes().leading_zeros());
        history.oldest_ms().map(|oldest_ms| Self { size, oldest_ms })
    }
}

/// The history of one channel.
#[derive(Debug, Default)]
pub struct History {
    /// The publications. Offsets ascend by one, times do not descend.
    kept: VecDeque<KeptPublication>,
    /// The sum of the weights.
    bytes: usize,
    /// The newest offset ever pushed since the last `clear`, kept or not.
    newest: Option<u64>,
    /// The place under which the budget has filed this history. Only the budget writes it.
    pub(super) filed: Option<HistoryPlace>,
}

#[derive(Debug)]
struct KeptPublication {
    publication: Arc<Publication>,
    at_ms: u64,
}

impl History {
    /// Takes the next publication and lets go of what is then too much or too old; says how many bytes that
    /// freed. The first one after `clear` may have any offset, the others follow without a hole.
    pub fn push(&mut self, publication: Arc<Publication>, mono_ms: u64, bounds: HistoryBounds) -> usize {
        let offset = publication.offset();
        assert!(self.newest.is_none_or(|newest| newest + 1 == offset), "a hole before offset {offset}");
        assert!(self.kept.back().is_none_or(|last| last.at_ms <= mono_ms), "the monotonic clock went back");
        self.newest = Some(offset);
        self.bytes += publication.weight();
        self.kept.push_back(KeptPublication { publication, at_ms: mono_ms });
        self.expire(mono_ms, bounds)
    }

    /// Lets go of what is too old or too much; says how many bytes that freed. `since` and `page` show what is
    /// there: call this before, if age matters to the answer.
    pub fn expire(&mut self, mono_ms: u64, bounds: HistoryBounds) -> usize {
        let before = self.bytes;
        while let Some(first) = self.kept.front()
            && (self.kept.len() > bounds.count || first.at_ms.saturating_add(bounds.age_ms) <= mono_ms)
        {
            self.pop_oldest();
        }
        before - self.bytes
    }

    /// Lets go of the oldest publication; says how many bytes that freed.
    pub(crate) fn pop_oldest(&mut self) -> Option<usize> {
        let freed = self.kept.pop_front()?.publication.weight();
        self.bytes -= freed;
        // A burst's capacity isn't held for ever; far enough from growing again to stay amortised O(1).
        if self.kept.capacity() > 64 && self.kept.len() * 4 < self.kept.capacity() {
            self.kept.shrink_to(self.kept.len() * 2);
        }
        Some(freed)
    }

    /// Forgets everything, the offsets too: a new epoch, or a hole that the engine couldn't fill. Says how many
    /// bytes that freed.
    pub fn clear(&mut self) -> usize {
        self.kept = VecDeque::new();
        self.newest = None;
        std::mem::take(&mut self.bytes)
    }

    /// The sum of the weights of what is kept.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many publications are kept.
    pub fn len(&self) -> usize {
        self.kept.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// When the oldest one was pushed.
    pub fn oldest_ms(&self) -> Option<u64> {
        self.kept.front().map(|first| first.at_ms)
    }

    /// What a client missed that has `offset`, in a channel that stands at `top`. More than `max_bytes` of
    /// frames is not recovered; their elements in `publications` are never longer than the frames.
    pub fn since(&self, offset: u64, top: u64, max_bytes: usize) -> HistoryRecovery {
        if offset == top {
            return HistoryRecovery::Complete(Vec::new());
        }
        let Some(first) = self.kept.front().map(|first| first.publication.offset()) else {
            return HistoryRecovery::Incomplete;
        };
        if offset > top || first > offset + 1 || self.newest.is_none_or(|newest| newest < top) {
            return HistoryRecovery::Incomplete;
        }
        let offset = offset + u64::from(Fault::RecoveryOffByOne.is_planted()); // PLANTED
        let missed = self.kept.range(index(offset + 1 - first)..index(top + 1 - first));
        let mut room = max_bytes;
        for kept in missed.clone() {
            match room.checked_sub(kept.publication.frame_bytes) {
                Some(left) => room = left,
                None => return HistoryRecovery::Incomplete,
            }
        }
        HistoryRecovery::Complete(missed.map(|kept| Arc::clone(&kept.publication)).collect())
    }

    /// A page of what is kept: at most `limit` publications, and no more than `max_bytes` of frames unless the
    /// first alone has more. Forward from after `since`; or with `reverse` back from before it, newest first.
    /// No `since`, or 0, is all of it, from the one end or the other. What comes after `top` is not shown.
    pub fn page(
        &self,
        since: Option<u64>,
        top: u64,
        limit: usize,
        max_bytes: usize,
        reverse: bool,
    ) -> Vec<Arc<Publication>> {
        let since = since.filter(|since| *since > 0);
        let Some(first) = self.kept.front().map(|first| first.publication.offset()) else { return Vec::new() };
        // How many of those kept are at or before `since`, and before it.
        let shown = clamp(top.saturating_add(1).saturating_sub(first), self.kept.len());
        let upto = since.map_or(0, |since| clamp(since.saturating_add(1).saturating_sub(first), shown));
        let before = since.map_or(shown, |since| clamp(since.saturating_sub(first), shown));
        let mut room = PageRoom { first: true, bytes: Some(max_bytes) };
        let fits = |kept: &&KeptPublication| room.take(kept.publication.frame_bytes);
        if reverse {
            self.kept.range(..before).rev().take(limit).take_while(fits).map(shared).collect()
        } else {
            self.kept.range(upto..shown).take(limit).take_while(fits).map(shared).collect()
        }
    }
}

/// What is left of a page's bytes: nothing once the first alone has taken more.
struct PageRoom {
    first: bool,
    bytes: Option<usize>,
}

impl PageRoom {
    /// The first always fits: a page that is empty for want of room would be taken for the end.
    fn take(&mut self, bytes: usize) -> bool {
        self.bytes = self.bytes.and_then(|left| left.checked_sub(bytes));
        std::mem::take(&mut self.first) || self.bytes.is_some()
    }
}

fn shared(kept: &KeptPublication) -> Arc<Publication> {
    Arc::clone(&kept.publication)
}

fn clamp(distance: u64, len: usize) -> usize {
    usize::try_from(distance).map_or(len, |distance| distance.min(len))
}

fn index(distance: u64) -> usize {
    usize::try_from(distance).expect("an index into what is kept")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::publication::tests::publication_of;

    const ALL: HistoryBounds = HistoryBounds { count: 1000, age_ms: u64::MAX };

    fn publication(offset: u64) -> Arc<Publication> {
        publication_of(offset, format!("frame {offset:04}").into_bytes().into())
    }

    fn filled(offsets: std::ops::RangeInclusive<u64>, bounds: HistoryBounds) -> History {
        let mut history = History::default();
        for offset in offsets {
            history.push(publication(offset), offset * 10, bounds);
        }
        history
    }

    fn offsets(publications: &[Arc<Publication>]) -> Vec<u64> {
        publications.iter().map(|publication| publication.offset()).collect()
    }

    fn recovered(recovery: HistoryRecovery) -> Option<Vec<u64>> {
        match recovery {
            HistoryRecovery::Complete(all) => Some(offsets(&all)),
            HistoryRecovery::Incomplete => None,
        }
    }

    #[test]
    fn recovery_is_all_or_nothing() {
        let history = filled(1..=10, HistoryBounds { count: 4, age_ms: u64::MAX });
        assert_eq!(recovered(history.since(10, 10, 0)), Some(vec![]));
        assert_eq!(recovered(history.since(6, 10, 1000)), Some(vec![7, 8, 9, 10]));
        assert_eq!(recovered(history.since(9, 10, 1000)), Some(vec![10]));
        assert_eq!(recovered(history.since(5, 10, 1000)), None, "6 is gone");
        assert_eq!(recovered(history.since(0, 10, 1000)), None);
        assert_eq!(recovered(history.since(11, 10, 1000)), None, "above the top");
        assert_eq!(recovered(history.since(u64::MAX, 10, 1000)), None);
    }

    #[test]
    fn recovery_counts_bytes() {
        let history = filled(1..=10, ALL);
        assert_eq!(recovered(history.since(0, 10, 100)).map(|all| all.len()), Some(10));
        assert_eq!(recovered(history.since(0, 10, 99)), None);
    }

    #[test]
    fn a_channel_that_keeps_nothing_still_knows_who_missed_nothing() {
        let history = filled(1..=10, HistoryBounds { count: 0, age_ms: u64::MAX });
        assert!(history.is_empty() && history.bytes() == 0);
        assert_eq!(recovered(history.since(10, 10, 1000)), Some(vec![]));
        assert_eq!(recovered(history.since(9, 10, 1000)), None);
    }

    #[test]
    fn age_takes_from_the_old_end() {
        let mut history = filled(1..=10, ALL);
        let each = publication(1).weight();
        assert_eq!(history.expire(149, HistoryBounds { count: 100, age_ms: 100 }), 4 * each);
        assert_eq!((history.len(), history.oldest_ms()), (6, Some(50)));
        assert_eq!(history.expire(150, HistoryBounds { count: 100, age_ms: 100 }), each);
        assert_eq!(history.expire(u64::MAX, HistoryBounds { count: 100, age_ms: 100 }), 5 * each);
        assert_eq!((history.bytes(), history.oldest_ms(), history.pop_oldest()), (0, None, None));
    }

    #[test]
    fn pages_go_both_ways_and_exclude_their_start() {
        let history = filled(1..=10, HistoryBounds { count: 6, age_ms: u64::MAX });
        let page = |since, limit, reverse| offsets(&history.page(since, 10, limit, usize::MAX, reverse));
        assert_eq!(page(None, 3, false), [5, 6, 7]);
        assert_eq!(page(Some(0), 3, false), [5, 6, 7]);
        assert_eq!(page(Some(7), 9, false), [8, 9, 10]);
        assert_eq!(page(Some(10), 9, false), [0; 0]);
        assert_eq!(page(Some(u64::MAX), 9, false), [0; 0]);
        assert_eq!(page(None, 3, true), [10, 9, 8]);
        assert_eq!(page(Some(0), 3, true), [10, 9, 8]);
        assert_eq!(page(Some(8), 2, true), [7, 6]);
        assert_eq!(page(Some(5), 2, true), [0; 0]);
        assert_eq!(page(Some(99), 2, true), [10, 9]);
    }

    #[test]
    fn a_page_has_at_least_one_publication_and_otherwise_keeps_its_bytes() {
        let history = filled(1..=10, ALL);
        assert_eq!(offsets(&history.page(None, 10, 100, 0, false)), [1]);
        assert_eq!(offsets(&history.page(None, 10, 100, 29, false)), [1, 2]);
        assert_eq!(offsets(&history.page(None, 10, 100, 30, true)), [10, 9, 8]);
    }

    #[test]
    #[should_panic(expected = "a hole before offset 3")]
    fn a_hole_is_a_bug() {
        filled(1..=1, ALL).push(publication(3), 10, ALL);
    }

    #[test]
    fn after_clear_any_offset_may_be_first() {
        let mut history = filled(1..=3, ALL);
        assert_eq!(history.clear(), 3 * publication(1).weight());
        history.push(publication(9), 0, ALL);
        assert_eq!(recovered(history.since(8, 9, 1000)), Some(vec![9]));
        assert_eq!(recovered(history.since(3, 9, 1000)), None);
    }

    #[test]
    fn the_room_of_a_burst_is_given_back() {
        let mut history = filled(1..=1000, ALL);
        while history.len() > 10 {
            history.pop_oldest();
        }
        assert!(history.kept.capacity() <= 64, "{}", history.kept.capacity());
    }
}
