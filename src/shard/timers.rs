//! Deadlines of connections: handshake, sign-in, requests, liveness, closing. Each connection is filed once in the
//! wheel, under the next moment at which it has to be looked at. Part of `shard`.

use super::conns::{Conn, Stage};
use super::{Action, Shard};
use crate::clock::Now;
use crate::ids::ConnId;
use crate::proto::codes::close;
use crate::proto::encode::Reply;
use crate::proto::frame::{self, Opcode};
use crate::proto::text::Text;

impl Shard {
    /// Looks at every connection whose moment has come.
    pub fn tick(&mut self, now: Now) {
        while let Some((tick, due)) = self.wheel.pop_due(now.mono_ms) {
            for id in due {
                let Some(conn) = self.conns.get(id).filter(|conn| conn.filed == tick) else { continue };
                conn.filed = 0;
                self.look_at(id, now);
                self.file_deadline(id);
            }
        }
    }

    /// Files the connection under its next deadline, unless it is filed at that tick or before.
    pub(super) fn file_deadline(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get(id) else { return };
        let at_ms = next_deadline(conn, &self.settings);
        if conn.filed == 0 || at_ms.div_ceil(crate::wheel::TICK_MS) < conn.filed {
            conn.filed = self.wheel.file(id, at_ms);
        }
    }

    fn look_at(&mut self, id: ConnId, now: Now) {
        let settings = std::sync::Arc::clone(&self.settings);
        let conn = self.conns.at(id.slot);
        let now_ms = now.mono_ms;
        match conn.stage {
            Stage::Closing { until_ms, .. } if until_ms <= now_ms => {
                // Asked for anew until the shell has done it.
                conn.stage = Stage::Closing { until_ms: now_ms + super::CLOSE_MS, ending: super::Ending::Finished };
                self.actions.push(Action::Abort(id));
                return;
            }
            Stage::Closing { .. } => return,
            Stage::Handshake => {
                if conn.opened_ms + settings.handshake_ms <= now_ms {
                    conn.stage = Stage::Closing { until_ms: now_ms + super::CLOSE_MS, ending: super::Ending::Finished };
                    self.actions.push(Action::Abort(id));
                }
                return;
            }
            Stage::Native if conn.session.is_anonymous() && conn.opened_ms + settings.auth_ms <= now_ms => {
                return self.close(id, close::AUTH_TIMEOUT, "no auth in time", now);
            }
            Stage::Native | Stage::Echo => {}
        }
        self.time_out_requests(id, now);
        if !self.conns.at(id.slot).is_closing() {
            self.check_life(id, now);
        }
    }

    fn time_out_requests(&mut self, id: ConnId, now: Now) {
        while let Some(timed_out) = self.conns.at(id.slot).session.time_out(now.mono_ms) {
            self.conns.at(id.slot).parked.take_if(|parked| parked.1 == timed_out.request);
            self.error(id, timed_out.id.as_deref(), 504, Text::Timeout);
            if timed_out.is_final {
                return self.close(id, close::INTERNAL, "sign-in timed out", now);
            }
            self.say_held(id);
        }
    }

    fn check_life(&mut self, id: ConnId, now: Now) {
        let conn = self.conns.at(id.slot);
        let silent = conn.seen_ms + self.settings.ping_interval_ms <= now.mono_ms;
        match conn.pinged_ms {
            Some(pinged) if pinged + self.settings.pong_timeout_ms <= now.mono_ms => {
                self.close(id, close::NO_SIGN_OF_LIFE, "no sign of life", now);
            }
            None if silent => {
                conn.pinged_ms = Some(now.mono_ms);
                let wants_ping = conn.session.wants_ping();
                self.push_private(id.slot, |out| frame::write_frame(out, Opcode::Ping, &[]));
                if wants_ping {
                    self.say(id, &Reply::Ping, None);
                }
            }
            _ => {}
        }
    }
}

fn next_deadline(conn: &Conn, settings: &super::Settings) -> u64 {
    let alive = match conn.pinged_ms {
        Some(pinged) => pinged + settings.pong_timeout_ms,
        None => conn.seen_ms + settings.ping_interval_ms,
    };
    let at_ms = match conn.stage {
        Stage::Handshake => conn.opened_ms + settings.handshake_ms,
        Stage::Closing { until_ms, .. } => until_ms,
        Stage::Native if conn.session.is_anonymous() => alive.min(conn.opened_ms + settings.auth_ms),
        Stage::Native | Stage::Echo => alive,
    };
    conn.session.deadline_ms().map_or(at_ms, |deadline| deadline.min(at_ms))
}
