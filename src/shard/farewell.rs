//! Going away without taking back a word: what was acknowledged reaches everyone who is still here, on whichever
//! shard. Two rounds of parcels go through the lanes, which are FIFO: "I ask nothing more" to every owner, and, once
//! all have said so, "I deliver nothing more" to every shard. After that nothing is on its way, and connections are
//! closed. A shard that doesn't answer holds this up until a deadline. Part of `shard`.

use super::conns::Stage;
use super::{Action, ShardCore};
use crate::ids::ShardId;
use crate::model::notice::Reply;
use crate::model::parcel::{Farewell, Parcel};
use crate::time::clock::Now;
use crate::wire::codes::close;

/// How far a shard has come with it.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// It was told to go, and closes connections at this moment at the latest, in milliseconds of the monotonic clock.
    until_ms: Option<u64>,
    /// Shards that ask nothing more of this one.
    silent: usize,
    /// It has told them that it delivers nothing more.
    delivered: bool,
    /// Shards that deliver nothing more to this one.
    complete: usize,
    /// Everybody was told to go.
    said: bool,
}

impl Progress {
    /// No new request is taken up.
    pub(super) fn has_begun(&self) -> bool {
        self.until_ms.is_some()
    }
}

impl ShardCore {
    /// The server is about to go: publications wait for no batch window any more, so that nobody waits for an answer.
    pub(super) fn end_windows(&mut self, now: Now) {
        self.hub.end_windows(now, &mut self.staging);
    }

    /// Takes no more requests, and says goodbye to everyone (1001) when all that was accepted has come, or after
    /// `patience_ms`.
    pub(super) fn drain(&mut self, patience_ms: u64, now: Now) {
        if self.farewell.has_begun() {
            return;
        }
        self.farewell.until_ms = Some(now.mono_ms.saturating_add(patience_ms));
        for id in self.conns.ids() {
            if self.conns.at(id.slot).stage == Stage::Handshake {
                self.actions.push(Action::Abort(id));
            }
        }
        // What waits for a credit never gets one.
        self.asks.end_waiting();
        self.drain_api(now);
        self.refuse_parked_asks(now);
        self.tell_all(Farewell::NoMoreAsks);
    }

    /// Another shard's word, or this one's own.
    pub(super) fn hear_farewell(&mut self, farewell: Farewell) {
        match farewell {
            Farewell::NoMoreAsks => self.farewell.silent += 1,
            Farewell::NoMoreDeliveries => self.farewell.complete += 1,
        }
    }

    /// The farewell's part of a turn.
    pub(super) fn take_leave(&mut self, now: Now) {
        let Some(until_ms) = self.farewell.until_ms else { return };
        let shards = self.settings.hub.shards;
        if self.farewell.silent == shards && !self.farewell.delivered {
            // Asks that wait for room may be waiting for a batch to leave.
            self.hub.end_batches(now, &mut self.staging);
            self.hub.refuse_waiting(&mut self.staging);
            if !self.hub.is_waiting() && !self.hub.is_at_engine() && !self.hub.is_gathering() {
                self.tell_all(Farewell::NoMoreDeliveries);
                self.farewell.delivered = true;
            }
        }
        let complete = self.farewell.complete == shards;
        if !self.farewell.said && (complete || until_ms <= now.mono_ms) {
            self.farewell.said = true;
            if !complete {
                tracing::warn!(
                    shards,
                    complete = self.farewell.complete,
                    "some shards don't answer: going without them"
                );
            }
            self.say_goodbye(now);
        }
    }

    /// Whether everybody here was told to go.
    pub(super) fn has_said_goodbye(&self) -> bool {
        self.farewell.said
    }

    fn tell_all(&mut self, farewell: Farewell) {
        for shard in 0..self.settings.hub.shards {
            let shard = ShardId(u16::try_from(shard).expect("few shards"));
            self.staging.push(shard, Parcel::Farewell(farewell));
        }
    }

    fn say_goodbye(&mut self, now: Now) {
        for (place, id) in (0u64..).zip(self.conns.ids()) {
            let conn = self.conns.at(id.slot);
            match conn.stage {
                Stage::Handshake => self.actions.push(Action::Abort(id)),
                Stage::Native | Stage::Echo => {
                    if conn.is_signed_in() {
                        // Clients that come back at once would all come at once.
                        let reconnect_in_ms = 500 + place.wrapping_mul(7919) % 4_500;
                        self.say(id, &Reply::Draining { reconnect_in_ms }, None);
                    }
                    self.close(id, close::GOING_AWAY, "server is going away", now);
                }
                Stage::Api | Stage::Closing(_) => {}
            }
        }
        self.end_api_requests(now);
    }
}
