//! Batch windows: what is published within one leaves together at its end, and so do the acknowledgements. An ask of
//! somebody else neither ends a window nor waits for its end: it is answered from what has been sent so far. What
//! waits holds no credit, so that a window keeps nobody else waiting; a window that is full ends before its time.
//! Part of `hub`.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Hub;
use super::channel::Behind;
use crate::ids::ShardId;
use crate::mesh::Staging;
use crate::model::parcel::{Answer, Asker, LateAnswer, Parcel};
use crate::time::clock::Now;

/// What all open batch windows of a shard may hold; above it, those end that would end next.
const BATCHED_BYTES: usize = 16 * 1024 * 1024;

/// Who waits for an answer.
#[derive(Clone, Copy, Debug)]
pub struct Caller {
    /// A client, or the backend.
    pub asker: Asker,
    /// The asker's number for the ask.
    pub request: u32,
    /// Whether the answer gives the ask's credit back.
    pub credit: bool,
}

impl Hub {
    /// Ends every batch window now.
    pub fn end_batches(&mut self, now: Now, out: &mut Staging<Parcel>) {
        while let Some((_, name)) = self.batches.pop_first() {
            self.end_batch(&name, now, out);
        }
    }

    /// Ends a channel's batch window: its publications leave, and then what waited behind them is answered.
    pub(super) fn end_batch(&mut self, name: &Arc<str>, now: Now, out: &mut Staging<Parcel>) {
        let Some(channel) = self.channels.get_mut(name).filter(|channel| channel.batch.is_open()) else { return };
        self.batches.remove(&(channel.batch.until_ms, Arc::clone(name)));
        let mut late = BTreeMap::<ShardId, Vec<LateAnswer>>::new();
        for behind in self.publisher.end_batch(channel, out) {
            match behind {
                Behind::Answer(Caller { asker: Asker::Conn(conn), request, .. }, answer) if answer.weight() == 0 => {
                    late.entry(conn.shard).or_default().push(LateAnswer { conn, request, answer });
                }
                Behind::Answer(caller, outcome) => {
                    // A large answer is a parcel of its own, so that a turn doesn't take many of them.
                    send_late(&mut late, out);
                    answer(out, caller, outcome);
                }
                Behind::Ask(caller, ask) => {
                    // The answers to what was asked before it go first.
                    send_late(&mut late, out);
                    self.execute(caller, ask, now, out);
                }
            }
        }
        send_late(&mut late, out);
    }

    /// Ends the batch windows that hold more than they may: a channel's own, and, while all of them together do, those
    /// that would end next.
    pub(super) fn cut_batches(&mut self, name: &Arc<str>, now: Now, out: &mut Staging<Parcel>) {
        if self.channels.get(name).is_some_and(|channel| channel.batch.is_full()) {
            self.batches_cut += 1;
            self.end_batch(name, now, out);
        }
        while self.publisher.batched_bytes > BATCHED_BYTES {
            let Some((_, next)) = self.batches.pop_first() else { return };
            self.batches_cut += 1;
            self.end_batch(&next, now, out);
        }
    }

    /// Answers; or lets the answer wait for the end of the channel's batch window, if it acknowledges a publication in
    /// there or would overtake an earlier one to the same client.
    pub(super) fn conclude(&mut self, name: &str, caller: Caller, outcome: Answer, out: &mut Staging<Parcel>) {
        let Some(channel) = self.channels.get_mut(name).filter(|channel| channel.batch.is_open()) else {
            return answer(out, caller, outcome);
        };
        let settled = channel.settled(&self.engine);
        let is_ahead = matches!(&outcome, Answer::Published { placed, .. } if placed.offset > settled);
        if is_ahead || channel.batch.is_awaited_by(caller.asker) {
            channel.batch.behind.push(Behind::Answer(defer(caller, out), outcome));
        } else {
            answer(out, caller, outcome);
        }
    }
}

/// Answers an ask.
pub(super) fn answer(out: &mut Staging<Parcel>, caller: Caller, answer: Answer) {
    let Caller { asker, request, credit } = caller;
    let to = match asker {
        Asker::Conn(conn) => conn.shard,
        // It asked here, and waits here.
        Asker::Backend => out.own(),
    };
    out.push(to, Parcel::Answer { asker, request, answer, credit });
}

/// The answer comes later: until then, the credit is another ask's.
pub(super) fn defer(caller: Caller, out: &mut Staging<Parcel>) -> Caller {
    if let Caller { asker: Asker::Conn(conn), credit: true, .. } = caller {
        out.push(conn.shard, Parcel::Deferred);
    }
    Caller { credit: false, ..caller }
}

fn send_late(late: &mut BTreeMap<ShardId, Vec<LateAnswer>>, out: &mut Staging<Parcel>) {
    for (shard, answers) in std::mem::take(late) {
        out.push(shard, Parcel::LateAnswers(answers));
    }
}
