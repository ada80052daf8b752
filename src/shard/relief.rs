//! Giving way while memory is over its bound: in a first tick of a round the shard says what it holds, in a later one it
//! gives up its share. Part of `shard`; who gives way is `limits`' to decide.

use super::ShardCore;
use super::conns::Conn;
use crate::limits::Limit;
use crate::limits::relief::{self, Holding, QUEUE_MIN_BYTES, QueueSize};
use crate::metrics::Count;
use crate::time::clock::Now;
use crate::wire::codes::close;

/// How far the shard is in the rounds.
#[derive(Debug, Default)]
pub(super) struct Relief {
    /// The latest round that it has taken part in.
    round: u32,
    /// What it said that it holds, if it has yet to give up its share.
    said: Option<Holding>,
}

impl ShardCore {
    /// A tick's part of a round, if there is one.
    pub(super) fn give_way(&mut self, now: Now) {
        if let Some(own) = self.relief.said.take() {
            let share = self.settings.guard.relief().share_of(own);
            return self.give_up(share, now);
        }
        let round = self.settings.guard.relief().number();
        if std::mem::replace(&mut self.relief.round, round) != round {
            let sum = |queues: Vec<QueueSize>| queues.iter().map(|queue| queue.bytes).sum();
            let own = Holding {
                queues: sum(self.queues()),
                history: self.hub.holdings().history_bytes as u64,
                unfinished: sum(self.unfinished_messages()),
            };
            self.settings.guard.relief().hold(own);
            self.relief.said = Some(own);
        }
    }

    /// The queues that are large enough to give way.
    fn queues(&mut self) -> Vec<QueueSize> {
        self.large_ones(|conn| conn.outbox.held_bytes())
    }

    /// The unfinished messages that are large enough to give way.
    fn unfinished_messages(&mut self) -> Vec<QueueSize> {
        self.large_ones(|conn| conn.unfinished())
    }

    fn large_ones(&mut self, bytes_of: impl Fn(&Conn) -> usize) -> Vec<QueueSize> {
        let slots = 0..u32::try_from(self.conns.slots()).expect("slots are numbered so");
        let size = |slot| {
            let conn = self.conns.get_slot(slot).filter(|conn| !conn.is_closing())?;
            let bytes = bytes_of(conn) as u64;
            (bytes >= QUEUE_MIN_BYTES).then_some(QueueSize { slot, bytes })
        };
        slots.filter_map(size).collect()
    }

    fn give_up(&mut self, share: Holding, now: Now) {
        let (mut shed, mut closed) = (0u32, 0u32);
        for QueueSize { slot, bytes } in relief::largest_first(self.queues(), share.queues) {
            let (id, conn) = (self.conns.id(slot), self.conns.at(slot));
            conn.outbox.make_room(0, conn.framing.voice());
            if conn.outbox.held_bytes() as u64 <= bytes / 2 {
                self.sender.count_queued(self.conns.at(slot));
                shed += 1;
                self.metrics.count(Count::Sheds);
            } else {
                closed += 1;
                let detail = || format!("closed: {bytes} bytes wait for it, and memory is short (4508)");
                self.tell_refusal(id, Limit::Memory.name(), now, detail);
                self.close_slow(id, now);
            }
        }
        for QueueSize { slot, bytes } in relief::largest_first(self.unfinished_messages(), share.unfinished) {
            closed += 1;
            let id = self.conns.id(slot);
            let detail = || format!("closed: {bytes} bytes of an unfinished message, and memory is short (4503)");
            self.tell_refusal(id, Limit::Memory.name(), now, detail);
            self.close(id, close::DRAINING, "short of memory", now);
        }
        let evicted = self.hub.shrink_histories(usize::try_from(share.history).unwrap_or(usize::MAX));
        self.metrics.add(Count::MemorySheds, shed as usize);
        self.metrics.add(Count::MemoryCloses, closed as usize);
        self.metrics.add(Count::MemoryEvictions, evicted);
        if shed > 0 || closed > 0 || evicted > 0 {
            let shard = self.own.index();
            tracing::warn!(
                shard,
                shed,
                closed,
                evicted,
                "memory is short: queues of slow clients were shed or closed, publications left histories"
            );
            (self.settings.give_back)();
        }
    }
}
