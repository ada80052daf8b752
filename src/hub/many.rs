//! Several publications that one request of the API brings to this owner: a broadcast, or the lines of a bulk publish. The
//! owner takes the ask apart, and treats each publication as an ask of its own, whose asker is the owner itself. So they go
//! the same way as every other publication. When all have their outcome, or the time is over, one answer has all of them.
//! Part of `hub`.

use hashbrown::HashMap;

use super::Hub;
use super::caller::{Caller, answer, defer};
use crate::mesh::Staging;
use crate::model::parcel::{Answer, Ask, Asker, Parcel, PublishMany, PublishedMany, Refusal};
use crate::time::clock::Now;

/// An ask that has no answer after this time gives its credit back: most often a publication waits for a batch window.
const DEFER_MS: u64 = 50;

/// The asks that are not answered yet. The API's credits and bounds bound them.
#[derive(Debug, Default)]
pub(crate) struct ManyUnderWay {
    by_number: HashMap<u32, ManyOutcomes, foldhash::fast::RandomState>,
    next_number: u32,
}

/// The outcomes of one ask, as far as they are known.
#[derive(Debug)]
struct ManyOutcomes {
    caller: Caller,
    part: u32,
    since_ms: u64,
    until_ms: u64,
    /// Outcomes that are still missing.
    missing: usize,
    /// `None` where the outcome is missing.
    outcomes: Vec<Option<Answer>>,
}

impl ManyUnderWay {
    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.by_number.is_empty()
    }
}

impl ManyOutcomes {
    /// Answers the ask. The outcome of a publication that has none yet is unknown.
    fn conclude(self, out: &mut Staging<Parcel>) {
        let unknown = || Answer::Refused(Refusal::Unanswered);
        let outcomes = self.outcomes.into_iter().map(|outcome| outcome.unwrap_or_else(unknown)).collect();
        answer(out, self.caller, Answer::PublishedMany(Box::new(PublishedMany { part: self.part, outcomes })));
    }
}

impl Hub {
    /// Takes several publications. They are carried out in their order.
    pub(super) fn publish_many(&mut self, caller: Caller, many: PublishMany, now: Now, out: &mut Staging<Parcel>) {
        let PublishMany { part, until_ms, publishes } = many;
        let number = self.many.next_number;
        self.many.next_number = number.wrapping_add(1);
        let missing = publishes.len();
        let outcomes = std::iter::repeat_with(|| None).take(missing).collect();
        let under_way = ManyOutcomes { caller, part, since_ms: now.mono_ms, until_ms, missing, outcomes };
        if missing == 0 {
            return under_way.conclude(out);
        }
        self.many.by_number.insert(number, under_way);
        for (index, publish) in (0u32..).zip(publishes) {
            self.ask(Asker::Part(number), index, Ask::Publish(publish), now, out);
        }
    }

    /// One publication of several has its outcome.
    pub(crate) fn one_of_many(&mut self, number: u32, index: u32, outcome: Answer, out: &mut Staging<Parcel>) {
        let Some(under_way) = self.many.by_number.get_mut(&number) else { return };
        let slot = &mut under_way.outcomes[index as usize];
        under_way.missing -= usize::from(slot.is_none());
        *slot = Some(outcome);
        if under_way.missing == 0
            && let Some(whole) = self.many.by_number.remove(&number)
        {
            whole.conclude(out);
        }
    }

    /// Answers the asks whose time is over. Those that take longer than most give their credit back.
    pub(super) fn end_late_many(&mut self, now: Now, out: &mut Staging<Parcel>) {
        if self.many.is_empty() {
            return;
        }
        for under_way in self.many.by_number.values_mut().filter(|one| one.since_ms + DEFER_MS <= now.mono_ms) {
            under_way.caller = defer(under_way.caller, out);
        }
        let is_late = |_: &u32, one: &mut ManyOutcomes| one.until_ms <= now.mono_ms;
        self.many.by_number.extract_if(is_late).for_each(|(_, late)| late.conclude(out));
    }
}
