//! What takes too long on the API's connections: an answer, a request, a peer that reads nothing, an idle connection. Part
//! of `shard`.

use super::conn::{ApiConn, ResponseState};
use crate::api::answers::ApiAnswer;
use crate::api::connection::ApiPhase;
use crate::api::error::ApiError;
use crate::ids::ConnId;
use crate::shard::conns::Conn;
use crate::shard::{Settings, ShardCore};
use crate::time::clock::Now;

/// How long a peer may leave sent bytes unread, in milliseconds.
const UNREAD_MS: u64 = 30_000;
/// A connection is looked at no later than this, in milliseconds, whatever it waits for.
const LOOK_MS: u64 = 30_000;

/// When the connection has to be looked at, in milliseconds of the monotonic clock.
fn deadline_of(conn: &Conn, of_api: &mut ApiConn, settings: &Settings, last_body_ms: Option<u64>, now_ms: u64) -> u64 {
    let mut at_ms = now_ms + LOOK_MS;
    if let Some((_, waiting)) = of_api.responses().iter().find(|(_, response)| !response.state.is_written()) {
        at_ms = at_ms.min(waiting.until_ms);
    }
    if conn.send_state.is_blocked() {
        at_ms = at_ms.min(conn.seen_ms + UNREAD_MS);
    }
    // What is late already is looked at again with the next tick.
    at_ms.min(read_deadline(conn, of_api, settings, last_body_ms).unwrap_or(at_ms)).max(now_ms + 1)
}

/// Until when the peer has to send something, in milliseconds of the monotonic clock. `None` if nothing is read.
fn read_deadline(conn: &Conn, of_api: &mut ApiConn, settings: &Settings, last_body_ms: Option<u64>) -> Option<u64> {
    if conn.paused || of_api.awaits_resume {
        return None;
    }
    match of_api.parser.phase() {
        ApiPhase::Idle if !of_api.responses().is_empty() || !conn.outbox.is_empty() => None,
        ApiPhase::Idle if of_api.has_asked => Some(conn.seen_ms + settings.api.idle_ms),
        ApiPhase::Idle | ApiPhase::Head => Some(conn.since_ms + settings.handshake_ms),
        ApiPhase::Body => Some(last_body_ms.unwrap_or(u64::MAX).min(conn.since_ms + settings.request_ms)),
        // The rest of a body is too long to be read. In every other case the last response ends the connection.
        ApiPhase::Over if !of_api.is_last => Some(conn.since_ms),
        ApiPhase::Over => None,
    }
}

impl ShardCore {
    /// When the API's connection has to be looked at.
    pub(in crate::shard) fn api_deadline(&mut self, id: ConnId) -> u64 {
        let now_ms = self.deadlines.ticked_ms();
        let Self { api, conns, settings, .. } = self;
        let last_body_ms = api.last_body_ms;
        match (conns.get(id), api.conns.get_mut(&id.slot)) {
            (Some(conn), Some(of_api)) => deadline_of(conn, of_api, settings, last_body_ms, now_ms),
            _ => now_ms + LOOK_MS,
        }
    }

    /// Looks at a connection of the API whose moment may have come.
    pub(in crate::shard) fn look_at_api(&mut self, id: ConnId, now: Now) {
        let late = self.api_conn(id).map(|conn| {
            let waits = conn.responses().iter().filter(|(_, response)| !response.state.is_written());
            waits
                .take_while(|(_, response)| response.until_ms <= now.mono_ms)
                .map(|(number, _)| number)
                .collect::<Vec<_>>()
        });
        for number in late.unwrap_or_default() {
            self.time_out_api(id, number, now);
        }
        let Self { api, conns, settings, .. } = self;
        let last_body_ms = api.last_body_ms;
        let (Some(conn), Some(of_api)) = (conns.get(id), api.conns.get_mut(&id.slot)) else { return };
        if conn.is_closing() {
            return;
        }
        if conn.send_state.is_blocked() && conn.seen_ms + UNREAD_MS <= now.mono_ms {
            self.forget_requests(id);
            return self.abort(id, now);
        }
        if conn.paused {
            // The rest of what it sends may lie in what is not read.
            conn.since_ms = now.mono_ms;
        }
        let read_by_ms = read_deadline(conn, of_api, settings, last_body_ms);
        if read_by_ms.is_none_or(|at_ms| at_ms > now.mono_ms) {
            return;
        }
        let error = if last_body_ms.is_some() { ApiError::draining() } else { ApiError::body_late() };
        if of_api.parser.phase() == ApiPhase::Body
            && let Some(request) = of_api.parser.give_up(error)
        {
            return self.take_request(id, request, now);
        }
        // Answers to what it asked before are still sent.
        if of_api.responses().is_empty() {
            conn.take_input();
            self.finish(id, now);
        }
    }

    /// A request has had its time. If its ask has not left, it is certainly not done.
    pub(super) fn time_out_api(&mut self, id: ConnId, number: u32, now: Now) {
        let Some(pending) = self.api_conn(id).and_then(|conn| conn.responses().get(number)) else { return };
        match pending.state {
            ResponseState::Many(_) => self.give_up_many(id, number, now),
            ResponseState::Owner { .. } | ResponseState::Control => {
                let is_parked = self.api.asks.forget(id, number);
                let error = if is_parked { ApiError::busy() } else { ApiError::unknown() };
                self.api_respond(id, number, ApiAnswer::Refused(error), now);
            }
            ResponseState::Written(_) => {}
        }
    }
}
