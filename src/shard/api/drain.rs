//! The end of the API: new requests are refused, and those under way are answered. Also what other threads ask of the API as a
//! whole: its keys, and whether anything is left to do. Part of `shard`.

use std::sync::Arc;

use crate::api::answers::ApiAnswer;
use crate::api::connection::ApiPhase;
use crate::api::error::ApiError;
use crate::auth::ApiKeys;
use crate::ids::ConnId;
use crate::shard::ShardCore;
use crate::time::clock::Now;

/// How long a request's body may still take to arrive after the server was told to end, in milliseconds.
const LAST_BODY_MS: u64 = 500;

impl ShardCore {
    /// Refuses requests from now on. Those that are under way go on.
    pub(in crate::shard) fn drain_api(&mut self, now: Now) {
        let Some(rules) = &mut self.api.rules else { return };
        rules.set_draining();
        self.api.last_body_ms = Some(now.mono_ms + LAST_BODY_MS);
        for id in self.api_ids() {
            self.file_deadline(id);
        }
    }

    /// Whether no request of the API is under way.
    pub(in crate::shard) fn is_api_idle(&mut self) -> bool {
        let is_idle = |conn: &mut super::ApiConn| conn.responses().is_empty() && conn.parser.phase() != ApiPhase::Body;
        self.api.conns.values_mut().all(|conn| is_idle(conn))
    }

    /// Whether a connection of the API has yet to be sent something.
    pub(in crate::shard) fn owes_api(&mut self) -> bool {
        let Self { api, conns, .. } = self;
        let mut slots = api.conns.iter_mut();
        slots.any(|(slot, conn)| {
            let unsent = conns.get_slot(*slot).is_some_and(|conn| !conn.outbox.is_empty());
            !conn.is_leaving && (unsent || !conn.responses().is_empty())
        })
    }

    /// No ask is sent any more: those that wait for a credit are certainly not done.
    pub(in crate::shard) fn refuse_parked_asks(&mut self, now: Now) {
        for ask in self.api.asks.take_parked() {
            self.api_respond(ask.conn, ask.number, ApiAnswer::Refused(ApiError::draining()), now);
        }
    }

    /// No answer comes any more: the outcome of what is under way is unknown.
    pub(in crate::shard) fn end_api_requests(&mut self, now: Now) {
        for id in self.api_ids() {
            let numbers = self.api_conn(id).map(|conn| conn.responses().iter().map(|(number, _)| number).collect());
            let numbers: Vec<u32> = numbers.unwrap_or_default();
            for number in numbers {
                self.time_out_api(id, number, now);
            }
        }
    }

    /// From now on requests must bring one of these keys.
    pub(in crate::shard) fn set_api_keys(&mut self, keys: Arc<ApiKeys>) {
        if let Some(rules) = &mut self.api.rules {
            rules.set_keys(keys);
        }
    }

    fn api_ids(&self) -> Vec<ConnId> {
        self.api.conns.keys().map(|slot| self.conns.id(*slot)).collect()
    }
}
