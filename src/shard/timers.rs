//! Deadlines of connections: handshake, sign-in, requests, liveness, closing. Each connection is filed once in the
//! wheel, under the next moment at which it has to be looked at. Part of `shard`.

use super::admission::REFUSED_MS;
use super::conns::{Conn, Ending, Stage};
use super::pacing::Pacing;
use super::{Action, CLOSE_MAX_MS, CLOSE_MS, CLOSING_LOOK_MS, ShardCore, Wire};
use crate::ids::ConnId;
use crate::limits::Limit;
use crate::limits::refusals::quoted;
use crate::model::refusal::RequestError;
use crate::model::text::Text;
use crate::model::voice::Voice;
use crate::session::Local;
use crate::time::clock::Now;
use crate::wire::codes::close;
use crate::wire::websocket::Decoder;

impl ShardCore {
    /// Looks at every connection whose moment has come.
    pub(super) fn tick(&mut self, wire: &mut impl Wire, now: Now) {
        self.publish_metrics(now);
        self.give_back(now);
        self.give_way(now);
        self.hub.tick(now, &mut self.staging);
        self.follow_clock(now);
        self.end_probes(wire, now);
        self.end_late_errands(now);
        while let Some((tick, due)) = self.deadlines.pop_due(now) {
            for id in due {
                if self.conns.get(id).is_some_and(|conn| conn.filed.take(tick)) {
                    self.look_at(id, wire, now);
                    self.file_deadline(id);
                }
            }
        }
    }

    /// Files the connection under its next deadline, unless it is filed at that tick or before.
    pub(super) fn file_deadline(&mut self, id: ConnId) {
        if self.conns.get(id).is_some_and(|conn| conn.stage == Stage::Api) {
            let at_ms = self.api_deadline(id);
            let Self { conns, deadlines, .. } = self;
            return deadlines.file(id, &mut conns.at(id.slot).filed, at_ms);
        }
        let Self { conns, deadlines, settings, .. } = self;
        let Some(conn) = conns.get(id) else { return };
        let at_ms = next_deadline(conn, settings, deadlines.ticked_ms());
        let rights_ms = conn.session.rights_change_ms().map(|unix_ms| deadlines.mono_of(unix_ms));
        deadlines.file(id, &mut conn.filed, rights_ms.map_or(at_ms, |rights_ms| at_ms.min(rights_ms)));
    }

    /// If the wall clock has jumped, files the deadlines that depend on it by its new reading.
    fn follow_clock(&mut self, now: Now) {
        if self.deadlines.begin_tick(now) {
            for id in self.conns.ids() {
                self.file_deadline(id);
            }
        }
    }

    fn look_at(&mut self, id: ConnId, wire: &mut impl Wire, now: Now) {
        let settings = std::sync::Arc::clone(&self.settings);
        let conn = self.conns.at(id.slot);
        let now_ms = now.mono_ms;
        let since_ms = conn.since_ms;
        conn.meters.take_if(|meters| meters.is_spent(now_ms));
        match conn.stage {
            Stage::Closing(ending) => return self.see_off(id, ending, wire, now),
            Stage::Api => return self.look_at_api(id, now),
            Stage::Handshake if since_ms + handshake_ms(conn, &settings) <= now_ms => {
                // One that is being refused was told of when it came.
                if conn.refused.is_none() {
                    self.refused(id, Limit::Handshake, now, || "no whole request in time, reset".to_owned());
                }
                return self.abort(id, now);
            }
            Stage::Handshake => return,
            Stage::Native if awaits_auth(conn) && since_ms + settings.auth_ms <= now_ms => {
                self.refused(id, Limit::AuthDeadline, now, || "closed: no sign-in in time (4408)".to_owned());
                return self.close(id, close::AUTH_TIMEOUT, "no auth in time", now);
            }
            Stage::Native | Stage::Echo => {}
        }
        if self.judge_rights(id, now) {
            return;
        }
        self.time_out_requests(id, now);
        self.pace(id, now);
        if !self.conns.at(id.slot).is_closing() {
            self.check_life(id, now);
        }
    }

    /// A connection is closing. A peer that takes what was said last has the time for it, however slowly it does; one that
    /// takes nothing is reset. One that has all of it and says nothing may still be reading: our direction ends, and
    /// then the connection, without a reset.
    fn see_off(&mut self, id: ConnId, ending: Ending, wire: &mut impl Wire, now: Now) {
        let unacknowledged = wire.unacknowledged(id);
        let is_server_going = self.farewell.has_begun();
        let conn = self.conns.at(id.slot);
        let left = conn.outbox.bytes() + unacknowledged;
        let began_ms = conn.since_ms;
        let moved_ms = conn.note_last_words(left, now.mono_ms);
        let is_over = !is_server_going && began_ms + CLOSE_MAX_MS <= now.mono_ms;
        // Repeat `Abort` on each tick until the driver confirms it.
        if moved_ms + CLOSE_MS > now.mono_ms && !is_over {
            return;
        }
        if left > 0 {
            self.abort(id, now);
        } else if ending == Ending::AwaitClose {
            self.conns.at(id.slot).enter(Stage::Closing(Ending::Finished), now.mono_ms);
            self.conns.at(id.slot).forget_last_words();
            self.actions.push(Action::Finish(id));
        } else {
            self.let_go(id, now);
            self.actions.push(Action::End(id));
        }
    }

    pub(super) fn abort(&mut self, id: ConnId, now: Now) {
        self.let_go(id, now);
        self.actions.push(Action::Abort(id));
    }

    /// The shell is about to end the connection: what its reader finds is the end.
    pub(super) fn let_go(&mut self, id: ConnId, now: Now) {
        let conn = self.conns.at(id.slot);
        conn.enter(Stage::Closing(Ending::Finished), now.mono_ms);
        conn.forget_last_words();
        conn.owe_nothing();
        // It may have sent so much that nothing more was read: now its end is to be seen.
        (conn.decoder, conn.paused) = (Decoder::default(), false);
    }

    fn time_out_requests(&mut self, id: ConnId, now: Now) {
        while let Some(timed_out) = self.conns.at(id.slot).session.time_out(now.mono_ms) {
            self.conns.at(id.slot).forget_parked(|parked| parked.request == timed_out.request);
            self.large_answer_given_up(id, timed_out.request, now);
            let channel = &timed_out.channel;
            self.refused(id, Limit::Requests, now, || format!("no answer in time (504), channel {}", quoted(channel)));
            let error = RequestError::new(504, Text::Timeout);
            self.local(id, Local::Refuse(error), &timed_out.channel, timed_out.id.as_deref(), now);
            if timed_out.is_final {
                return self.close(id, close::INTERNAL, "sign-in timed out", now);
            }
            self.go_on(id, now);
        }
    }

    fn check_life(&mut self, id: ConnId, now: Now) {
        let conn = self.conns.at(id.slot);
        if conn.paused && !conn.send_state.is_blocked() {
            // Its pong may lie in what we don't read. While the kernel takes no more, taking bytes is the sign of life.
            conn.seen(now.mono_ms);
        }
        let silent = conn.seen_ms + self.settings.ping_interval_ms <= now.mono_ms;
        if conn.framing.voice() == Voice::EventStream && !conn.send_state.is_blocked() {
            // It answers nothing. If its peer is dead the kernel finds that out and ends the connection.
            if silent || conn.pinged_ms().is_some() {
                conn.seen(now.mono_ms);
            }
            if silent {
                self.push_ping(id);
            }
            return;
        }
        match conn.pinged_ms() {
            Some(pinged_ms) if pinged_ms + self.settings.pong_timeout_ms <= now.mono_ms => {
                self.tell_refusal(id, "no_sign_of_life", now, || "closed: a ping was not answered (4504)".to_owned());
                self.close(id, close::NO_SIGN_OF_LIFE, "no sign of life", now);
            }
            None if silent => {
                conn.ping(now.mono_ms);
                self.push_ping(id);
            }
            _ => {}
        }
    }
}

/// The client has not signed in, and nothing but the client is in the way.
fn awaits_auth(conn: &Conn) -> bool {
    conn.session.is_anonymous() && !conn.is_waiting()
}

/// How long the request may take to come.
fn handshake_ms(conn: &Conn, settings: &super::Settings) -> u64 {
    if conn.refused.is_some() { settings.handshake_ms.min(REFUSED_MS) } else { settings.handshake_ms }
}

fn next_deadline(conn: &Conn, settings: &super::Settings, ticked_ms: u64) -> u64 {
    let alive = match conn.pinged_ms() {
        Some(pinged_ms) => pinged_ms + settings.pong_timeout_ms,
        None => conn.seen_ms + settings.ping_interval_ms,
    };
    let at_ms = match conn.stage {
        Stage::Handshake => conn.since_ms + handshake_ms(conn, settings),
        // `api` has its deadlines.
        Stage::Api => ticked_ms + CLOSING_LOOK_MS,
        Stage::Closing(_) => ticked_ms + CLOSING_LOOK_MS,
        Stage::Native if awaits_auth(conn) => alive.min(conn.since_ms + settings.auth_ms),
        Stage::Native | Stage::Echo => alive,
    };
    let answers = [conn.session.deadline_ms(), conn.pacing().and_then(Pacing::retry_ms)];
    answers.into_iter().flatten().fold(at_ms, u64::min)
}
