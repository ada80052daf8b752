//! What a connection sends: the HTTP request, then frames, then commands. Stops taking input whenever an answer
//! has to come first, and goes on where it stopped. Part of `shard`; knows the wire formats through `proto`.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use super::admission::refusal_of;
use super::conns::{Ending, Stage};
use super::guard::shows_token;
use super::refusals::token_use;
use super::{Action, Input, REPLY_BYTES, Shard, Wire};
use crate::auth::RefusedToken;
use crate::dialect::native::decode::Rejected;
use crate::hub::LOBBY;
use crate::ids::ConnId;
use crate::limits::Limit;
use crate::metrics::Count;
use crate::model::command::Request;
use crate::model::notice::Reply;
use crate::model::refusal::RequestError;
use crate::model::text::{Language, Text};
use crate::session::{Effect, Local, Rules};
use crate::site::Route;
use crate::time::clock::Now;
use crate::wire::codes::close;
use crate::wire::frame::{self, Opcode};
use crate::wire::handshake::{self, HttpRefusal};
use crate::wire::websocket::{self, Decoder, Event, ProtocolError};

/// A masked control frame at its longest (RFC 6455 §5.5).
const CONTROL_FRAME_MAX: usize = 2 + 4 + 125;

/// How often a message has come to be taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum MessageCome {
    /// From the wire.
    First,
    /// After it was put off: it is not counted twice, and not put off again.
    Again,
}

impl Shard {
    /// Takes what was received; it is unmasked in place. Replies leave at once, those of one read in one send. Only
    /// while the input is [`Input::Open`].
    pub fn receive(&mut self, id: ConnId, bytes: &mut [u8], wire: &mut impl Wire, now: Now) -> Input {
        if let Some(conn) = self.conns.get(id) {
            let answers_ping = conn.seen(now.mono_ms);
            self.shows_life(id);
            self.metrics.add(Count::BytesIn, bytes.len());
            // An idle connection that answers pings need not be remembered for that.
            if !answers_ping || bytes.len() > CONTROL_FRAME_MAX {
                self.measure(id, bytes.len(), now);
            }
            if answers_ping {
                self.file_deadline(id);
            }
            self.consume(id, bytes, now);
        }
        self.reply_and_go_on(id, wire, now)
    }

    /// Goes on with what had been received before the input was paused.
    pub fn resume(&mut self, id: ConnId, wire: &mut impl Wire, now: Now) -> Input {
        self.consume_held(id, now);
        self.reply_and_go_on(id, wire, now)
    }

    /// Sending may make room for replies to what is held.
    fn reply_and_go_on(&mut self, id: ConnId, wire: &mut impl Wire, now: Now) -> Input {
        loop {
            let before = self.input(id);
            self.reply(id, wire, now);
            let after = self.input(id);
            if (before, after) != (Input::Paused, Input::Open) {
                return after;
            }
            self.consume_held(id, now);
        }
    }

    fn consume_held(&mut self, id: ConnId, now: Now) {
        if let Some(text) = self.take_put_off(id) {
            self.message(id, &text, MessageCome::Again, now);
        }
        if let Some(conn) = self.conns.get(id) {
            let mut held = conn.take_input();
            self.consume(id, &mut held, now);
        }
    }

    /// The peer has ended its direction of the stream. What it asked before that is still answered: the connection ends
    /// when nothing is owed any more.
    pub fn hear_out(&mut self, id: ConnId) -> Input {
        let Some(conn) = self.conns.get(id) else { return Input::Ended };
        conn.paused = conn.hear_out();
        if conn.paused { Input::Paused } else { Input::Ended }
    }

    /// What may be done with the connection's input.
    pub fn input(&mut self, id: ConnId) -> Input {
        match self.conns.get(id) {
            None => Input::Ended,
            Some(conn) if conn.paused => Input::Paused,
            Some(conn) if conn.is_heard_out() => Input::Ended,
            Some(_) => Input::Open,
        }
    }

    fn consume(&mut self, id: ConnId, bytes: &mut [u8], now: Now) {
        let mut rest = bytes;
        while !rest.is_empty() {
            if !self.is_open(id) {
                let conn = self.conns.at(id.slot);
                conn.paused = true;
                if !conn.is_closing() {
                    conn.hold_input(rest);
                }
                return self.count_unfinished(id, now);
            }
            let conn = self.conns.at(id.slot);
            let used = match conn.stage {
                Stage::Handshake => self.handshake(id, rest, now),
                Stage::Native | Stage::Echo | Stage::Closing(Ending::AwaitClose) => {
                    let mut decoder = std::mem::take(&mut conn.decoder);
                    let used = self.frame(id, &mut decoder, rest, now);
                    let conn = self.conns.at(id.slot);
                    if conn.is_closing() {
                        decoder.skip_messages();
                    }
                    conn.decoder = decoder;
                    used
                }
                Stage::Closing(_) => {
                    conn.decoder.skip(rest.len());
                    rest.len()
                }
            };
            rest = &mut rest[used..];
        }
        self.count_unfinished(id, now);
        if !self.is_open(id) {
            self.conns.at(id.slot).paused = true;
        }
    }

    /// Whether the next bytes of the connection may be taken.
    fn is_open(&mut self, id: ConnId) -> bool {
        let limit = self.settings.requests_per_connection;
        let going = self.farewell.has_begun();
        // A message may have been under way when we said Close. Of a client that goes on beyond that nothing is read.
        let skipped_max = 2 * self.settings.messages.message_bytes;
        let conn = self.conns.at(id.slot);
        if conn.is_put_off_ready() && !conn.is_closing() {
            return true;
        }
        if conn.is_heard_out() {
            return !conn.owes();
        }
        if conn.is_closing() {
            return conn.decoder.skipped() < skipped_max;
        }
        conn.stage == Stage::Handshake
            || (!going
                && !conn.is_waiting()
                && conn.session.is_open(limit)
                && conn.outbox.private_bytes() < REPLY_BYTES)
    }

    /// Lets the shell read on if what stopped it is over.
    pub(super) fn maybe_resume(&mut self, id: ConnId) {
        if self.conns.get(id).is_some_and(|conn| conn.paused) && self.is_open(id) {
            self.conns.at(id.slot).paused = false;
            self.actions.push(Action::Resume(id));
        }
    }

    /// Reads the request's head; returns how many bytes of `rest` it took.
    fn handshake(&mut self, id: ConnId, rest: &[u8], now: Now) -> usize {
        let conn = self.conns.at(id.slot);
        let mut kept = conn.take_input();
        let before = kept.len();
        let head = if before == 0 {
            rest
        } else {
            kept.extend_from_slice(rest);
            &kept
        };
        let limits = self.settings.head;
        match handshake::UpgradeRequest::parse(head, &limits) {
            Ok(None) => {
                self.conns.at(id.slot).hold_input(head);
                rest.len()
            }
            Ok(Some((request, taken))) => {
                self.route(id, &request, now);
                taken - before
            }
            Err(refusal) => {
                if refusal.status == 413 {
                    self.metrics.refused(Limit::Header);
                }
                self.refuse_request(id, handshake::method_of(head), None, refusal, now);
                rest.len()
            }
        }
    }

    fn route(&mut self, id: ConnId, request: &handshake::UpgradeRequest<'_>, now: Now) {
        let site = std::sync::Arc::clone(&self.settings.site);
        let method = request.method();
        if let Some(limit) = self.conns.at(id.slot).refused {
            // Told when it came.
            let refusal = refusal_of(limit);
            self.metrics.request_refused(refusal.status);
            return self.respond(id, now, |out| refusal.write(method, out));
        }
        if self.farewell.has_begun() {
            let refusal = HttpRefusal::unavailable("server is going away", 5);
            return self.refuse_request(id, method, Some(request), refusal, now);
        }
        if let Err(limit) = self.place(id, request, now) {
            if self.conns.at(id.slot).is_closing() {
                return;
            }
            let refusal = refusal_of(limit);
            self.metrics.request_refused(refusal.status);
            return self.respond(id, now, |out| refusal.write(method, out));
        }
        let upgrade = match site.route(request, now.unix_ms) {
            Err(refusal) => return self.refuse_request(id, method, Some(request), refusal, now),
            Ok(Route::Page(page)) => return self.respond(id, now, |out| page.write(method, out)),
            Ok(Route::Native(upgrade)) => {
                self.conns.at(id.slot).enter(Stage::Native, now.mono_ms);
                upgrade
            }
            Ok(Route::Echo(upgrade)) => {
                self.conns.at(id.slot).enter(Stage::Echo, now.mono_ms);
                upgrade
            }
        };
        let conn = self.conns.at(id.slot);
        conn.deflate = upgrade.deflate();
        if conn.deflate.is_some() {
            conn.decoder.allow_deflate();
            self.metrics.count(Count::UpgradesDeflate);
        }
        let conn = self.conns.at(id.slot);
        conn.outbox.push_head(|out| upgrade.write_response(out));
        self.metrics.count(Count::Upgrades);
        let conn = self.conns.at(id.slot);
        if conn.stage == Stage::Native {
            let connection_id = format!("{:016x}-{id}", self.settings.boot_id);
            self.say(id, &Reply::System { connection_id: &connection_id, timestamp: now.unix_ms }, None);
        }
        self.mark_dirty(id.slot);
        self.file_deadline(id);
    }

    /// What the connection sent made us panic: says so (1011) and takes nothing more from it.
    pub fn fail_internally(&mut self, id: ConnId, now: Now) -> Input {
        let Some(Stage::Native | Stage::Echo) = self.conns.get(id).map(|conn| conn.stage) else { return Input::Ended };
        self.metrics.closed(close::INTERNAL);
        self.end_with(id, Ending::Finish, now, |out| frame::write_close(out, close::INTERNAL, "internal error"));
        self.input(id)
    }

    pub(super) fn respond(&mut self, id: ConnId, now: Now, write: impl FnOnce(&mut Vec<u8>)) {
        self.end_with(id, Ending::Finish, now, write);
    }

    /// Takes one frame, or as much of it as there is; returns how many bytes it took.
    fn frame(&mut self, id: ConnId, decoder: &mut Decoder, rest: &mut [u8], now: Now) -> usize {
        let length = rest.len();
        let limits = self.message_limits(id);
        let mut inflater = self.take_inflater();
        let used = match decoder.decode(rest, &limits, &mut inflater) {
            Ok((used, None)) => used,
            Ok((used, Some(event))) => {
                self.event(id, event, now);
                decoder.release();
                used
            }
            Err(error) => {
                self.fail(id, error, now);
                length
            }
        };
        self.put_back_inflater(id, inflater, now);
        used
    }

    /// What a message may have: before the sign-in no more than `auth` needs.
    fn message_limits(&mut self, id: ConnId) -> websocket::MessageLimits {
        let mut limits = self.settings.messages;
        let conn = self.conns.at(id.slot);
        if conn.stage == Stage::Native && conn.session.is_anonymous() {
            limits.message_bytes = limits.message_bytes.min(self.settings.auth_message_bytes);
        }
        limits
    }

    /// The stream makes no sense any more: nothing that follows is read (RFC 6455 §7.1.7).
    fn fail(&mut self, id: ConnId, error: ProtocolError, now: Now) {
        let reason = error.to_string();
        let code = error.close_code();
        let why = match error {
            ProtocolError::InflatedTooBig => Limit::InflatedBytes.name(),
            _ if code == close::TOO_BIG => Limit::MessageBytes.name(),
            _ if code == close::INVALID_DATA => "invalid_data",
            _ => "protocol_error",
        };
        match error {
            ProtocolError::InflatedTooBig => self.metrics.refused(Limit::InflatedBytes),
            ProtocolError::InvalidDeflate => self.metrics.count(Count::InflateFailures),
            _ if code == close::TOO_BIG => self.metrics.refused(Limit::MessageBytes),
            _ => {}
        }
        self.tell_refusal(id, why, now, || format!("closed: {reason} ({code})"));
        if self.conns.at(id.slot).is_closing() {
            self.finish(id, now);
        } else {
            self.metrics.closed(code);
            self.end_with(id, Ending::Finish, now, |out| frame::write_close(out, code, &reason));
        }
    }

    fn event(&mut self, id: ConnId, event: Event<'_>, now: Now) {
        let conn = self.conns.at(id.slot);
        let stage = conn.stage;
        match (event, stage) {
            (Event::Close { .. }, Stage::Closing(_)) => self.finish(id, now),
            (_, Stage::Closing(_)) => {}
            (Event::Close { code, .. }, _) => {
                self.metrics.closed(0);
                // Answered in kind (§5.5.1); an empty Close has no code to give back.
                self.end_with(id, Ending::Finish, now, |out| match code {
                    Some(code) => frame::write_close(out, code, ""),
                    None => frame::write_frame(out, Opcode::Close, &[]),
                });
            }
            (event, _) if self.is_over_rate(id, &event, now) => {}
            (Event::Ping(payload), _) => {
                self.push_private(id.slot, |out| frame::write_frame(out, Opcode::Pong, payload));
            }
            (Event::Pong(_), _) => {}
            (Event::Text(text), Stage::Echo) => {
                self.push_message(id.slot, |out| frame::write_frame(out, Opcode::Text, text));
            }
            (Event::Binary(bytes), Stage::Echo) => {
                self.push_message(id.slot, |out| frame::write_frame(out, Opcode::Binary, bytes));
            }
            (Event::Binary(_), _) => {
                self.tell_refusal(id, "binary_message", now, || {
                    "closed: only text messages are taken (1003)".to_owned()
                });
                self.close(id, close::UNACCEPTABLE, "only text messages are taken here", now);
            }
            (Event::Text(text), _) => self.message(id, text, MessageCome::First, now),
        }
    }

    fn message(&mut self, id: ConnId, text: &[u8], come: MessageCome, now: Now) {
        let mut over = None;
        if come == MessageCome::First {
            over = self.take_message(id, text.len(), now).err();
            self.metrics.count(Count::MessagesIn);
        }
        let mut envelopes = self.envelopes.take().unwrap_or_default();
        match (envelopes.decode(text), over) {
            (Ok(Request { id: mark, .. }) | Err(Rejected { id: mark, .. }), Some(limit)) => {
                self.too_many_messages(id, mark, limit, now);
            }
            (Err(Rejected { id: mark, text }), None) => {
                let why = text.in_language(Language::En);
                self.refused(id, Limit::Json, now, || format!("a message was not done: {why} (400)"));
                self.error(id, mark, 400, text);
            }
            (Ok(request), None) if shows_token(&request.command) && !self.may_sign_in(id, now) => {
                self.too_many_attempts(id, request.id, Limit::AuthFailuresPerIp, now);
            }
            (Ok(request), None) if come == MessageCome::First && self.puts_off(id, &request.command, text, now) => {}
            (Ok(request), None) => {
                self.charge_escaping(id, &request.command, now);
                let token_use = token_use(&request.command);
                let looks_at_tokens = token_use.is_none() || self.may_sign_in(id, now);
                let mark = request.id;
                let mut session = std::mem::take(&mut self.conns.at(id.slot).session);
                let rules = Rules { looks_at_tokens, ..self.rules(id, request.command.channel().unwrap_or(LOBBY)) };
                let effect = catch_unwind(AssertUnwindSafe(|| {
                    #[cfg(feature = "planted")]
                    crate::planted::hear(id, text);
                    session.command(request, &rules, now)
                }));
                let refused = rules.refused_token.take();
                // Put back come what may: whoever ends the connection has to find whom it signed in.
                self.conns.at(id.slot).session = session;
                let effect = effect.unwrap_or_else(|panic| resume_unwind(panic));
                match effect {
                    Effect::Reply(reply, mark) => self.say(id, &reply, mark),
                    Effect::Wait => {}
                    Effect::Ask(asked) => self.ask(id, asked, now),
                    Effect::Local(what, channel, mark) => self.local(id, what, channel, mark, now),
                    Effect::Cancel(cancelled, channel, mark) => {
                        self.local(
                            id,
                            Local::Refuse(RequestError::new(409, Text::Cancelled)),
                            channel,
                            cancelled.as_deref(),
                            now,
                        );
                        self.say(id, &Reply::Unsubscribed { channel, code: 200 }, mark);
                    }
                    Effect::Refreshed(reply, mark) => {
                        self.say(id, &reply, mark);
                        self.review_subscriptions(id);
                        self.file_deadline(id);
                    }
                    Effect::Close(reply, mark, code) => {
                        self.say(id, &reply, mark);
                        // Whoever may know why: in dev mode everyone is on this machine.
                        let why = refused.as_ref().filter(|_| self.settings.site.is_dev());
                        let why = why.map(RefusedToken::close_reason);
                        self.close(id, code, why.as_deref().unwrap_or("unauthorized"), now);
                    }
                }
                if let (Some(token), Some(token_use)) = (refused, token_use) {
                    self.token_refused(id, mark, token_use, &token, now);
                }
            }
        }
        self.had_large |= envelopes.trim();
        self.envelopes = Some(envelopes);
    }

    /// Both sides have said Close, or nothing more can be said: end our direction once all has left.
    pub(super) fn finish(&mut self, id: ConnId, now: Now) {
        self.conns.at(id.slot).enter(Stage::Closing(Ending::Finish), now.mono_ms);
        self.mark_dirty(id.slot);
        self.file_deadline(id);
    }
}
