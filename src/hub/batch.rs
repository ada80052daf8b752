//! Batch windows, and the answers that wait. What is published within a window leaves together at its end, and so do the
//! acknowledgements. An ask of another client neither ends a window nor waits for its end: it is answered from what has
//! been sent so far. An answer that waits for a window holds no credit, so that a window keeps no other client waiting;
//! a window that is full ends before its time. An answer that waits for a remote engine keeps its credit, so that
//! credits bound what waits. Part of `hub`.

use std::collections::BTreeMap;

use super::Hub;
use super::caller::{Caller, answer, defer};
use super::channel::{BATCH_MAX, Channel};
use super::engine::Engine;
use super::key::ChannelKey;
use super::queue::{AnswerSlot, SlotState};
use crate::ids::ShardId;
use crate::mesh::Staging;
use crate::model::parcel::{Answer, Ask, LateAnswer, Parcel};
use crate::time::clock::Now;

/// Most bytes in all open batch windows of a shard. Above it, the windows end that would end next.
const BATCHED_BYTES: usize = 16 * 1024 * 1024;

/// What came of an ask.
pub(super) enum Performed {
    /// It is answered.
    Done(Answer),
    /// Its answer waits in the channel's queue.
    Queued(SlotState),
    /// It is a sign-in that waits for another connection of its user.
    Probing,
}

impl Hub {
    /// Ends every batch window now.
    pub(crate) fn end_batches(&mut self, now: Now, out: &mut Staging<Parcel>) {
        while let Some((_, key)) = self.batches.pop_first() {
            self.end_batch(key, now, out);
        }
    }

    /// Ends a channel's batch window: its publications leave, and then the answers that waited for them.
    pub(super) fn end_batch(&mut self, key: ChannelKey, now: Now, out: &mut Staging<Parcel>) {
        let Some(channel) = self.channels.get_mut(key).filter(|channel| channel.is_batching()) else { return };
        self.batches.remove(&(channel.waits_mut().batch.until_ms, key));
        self.publisher.end_batch(channel, out);
        self.drain(key, now, out);
    }

    /// Ends the batch windows that hold more than they may: the channel's own, and, while all windows together hold too
    /// much, those that would end next.
    pub(super) fn cut_batches(&mut self, key: ChannelKey, now: Now, out: &mut Staging<Parcel>) {
        if self.channels.get(key).is_some_and(|channel| channel.is_batching() && channel.is_full()) {
            self.batches_cut += 1;
            self.end_batch(key, now, out);
        }
        while self.publisher.batched_bytes > BATCHED_BYTES {
            let Some((_, next)) = self.batches.pop_first() else { return };
            self.batches_cut += 1;
            self.end_batch(next, now, out);
        }
    }

    /// Executes an ask that has just come, or lets it wait behind earlier asks of the same client. `key` is that of its
    /// channel, if the channel exists.
    pub(super) fn execute(
        &mut self,
        caller: Caller,
        ask: Ask,
        mut key: Option<ChannelKey>,
        now: Now,
        out: &mut Staging<Parcel>,
    ) {
        if let Some(key) = key
            && let Some(channel) = self.channels.get_mut(key)
            && channel.has_to_wait(&ask, caller.asker)
        {
            let caller = release_credit(channel, caller, out);
            channel.waits_mut().queue.push(caller, SlotState::Asked(ask, Default::default()));
            return self.cut_batches(key, now, out);
        }
        match self.perform(caller, ask, &mut key, false, now, out) {
            Performed::Done(outcome) => self.conclude(key, caller, outcome, out),
            Performed::Queued(state) => {
                let channel = key.and_then(|key| self.channels.get_mut(key)).expect("a channel waits for the engine");
                channel.waits_mut().queue.push(caller, state);
            }
            Performed::Probing => return,
        }
        if let Some(key) = key {
            self.cut_batches(key, now, out);
            self.settle(key, now, out);
        }
    }

    /// Answers; or lets the answer wait, if it acknowledges a publication that has not been sent yet or would overtake
    /// an earlier answer to the same client.
    pub(super) fn conclude(
        &mut self,
        key: Option<ChannelKey>,
        caller: Caller,
        outcome: Answer,
        out: &mut Staging<Parcel>,
    ) {
        let Self { channels, engine, .. } = self;
        let channel = key.and_then(|key| channels.get_mut(key)).filter(|channel| channel.waits().is_some());
        let Some(channel) = channel else { return answer(out, caller, outcome) };
        if is_ahead(engine, channel, &outcome) || channel.is_awaited_by(caller.asker) {
            let caller = release_credit(channel, caller, out);
            channel.waits_mut().queue.push(caller, SlotState::Answered(outcome));
        } else {
            answer(out, caller, outcome);
        }
    }

    /// Lets the first answers of a channel's queue leave, as far as they wait for nothing more.
    pub(super) fn drain(&mut self, key: ChannelKey, now: Now, out: &mut Staging<Parcel>) {
        let mut late = BTreeMap::<ShardId, Vec<LateAnswer>>::new();
        while let Some(AnswerSlot { caller, state }) = self.next_ready(key) {
            match (caller, state) {
                (Caller { asker, request, credit: false }, SlotState::Answered(answer))
                    if answer.weight() == 0 && asker.shard().is_some() =>
                {
                    let shard = asker.shard().unwrap_or(out.own());
                    late.entry(shard).or_default().push(LateAnswer { asker, request, answer });
                }
                (caller, SlotState::Answered(outcome)) => {
                    // A large answer is a parcel of its own, so that a turn doesn't take many of them.
                    send_late(&mut late, out);
                    answer(out, caller, outcome);
                }
                (caller, SlotState::Asked(ask, _)) => {
                    // The answers to what was asked before it go first.
                    send_late(&mut late, out);
                    match self.perform(caller, ask, &mut Some(key), true, now, out) {
                        Performed::Done(outcome) => self.put_first(key, caller, SlotState::Answered(outcome), out),
                        Performed::Queued(state) => self.put_first(key, caller, state, out),
                        Performed::Probing => {}
                    }
                    self.cut_batches(key, now, out);
                }
                (_, SlotState::Submitted(_)) => unreachable!("it waits for the engine"),
            }
        }
        send_late(&mut late, out);
        self.settle(key, now, out);
    }

    /// Takes the first slot of a channel's queue, if it waits for nothing more.
    fn next_ready(&mut self, key: ChannelKey) -> Option<AnswerSlot> {
        let Self { channels, engine, .. } = self;
        let channel = channels.get_mut(key)?;
        let is_ready = match &channel.waits()?.queue.first()?.state {
            SlotState::Answered(answer) => !is_ahead(engine, channel, answer),
            SlotState::Asked(_, follow) => channel.follow().heard() >= *follow,
            SlotState::Submitted(_) => false,
        };
        if is_ready { channel.waits_mut().queue.pop() } else { None }
    }

    /// The slot comes before all others of the channel.
    fn put_first(&mut self, key: ChannelKey, caller: Caller, state: SlotState, out: &mut Staging<Parcel>) {
        match (self.channels.get_mut(key), state) {
            (Some(channel), state) => channel.waits_mut().queue.push_front(caller, state),
            (None, SlotState::Answered(outcome)) => answer(out, caller, outcome),
            (None, state) => unreachable!("{state:?} without a channel"),
        }
    }
}

/// Whether the answer acknowledges a publication that the subscribers have not been sent yet.
fn is_ahead(engine: &Engine, channel: &Channel, answer: &Answer) -> bool {
    let Answer::Published { placed, .. } = answer else { return false };
    placed.offset > channel.settled(engine) && placed.epoch == *engine.logs().epoch(channel.log)
}

/// An ask that waits for a batch window holds no credit meanwhile, unless very many wait already.
fn release_credit(channel: &Channel, caller: Caller, out: &mut Staging<Parcel>) -> Caller {
    if channel.is_batching() && channel.queued() < BATCH_MAX { defer(caller, out) } else { caller }
}

fn send_late(late: &mut BTreeMap<ShardId, Vec<LateAnswer>>, out: &mut Staging<Parcel>) {
    for (shard, answers) in std::mem::take(late) {
        out.push(shard, Parcel::LateAnswers(answers));
    }
}
