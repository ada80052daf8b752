//! What a connection sends: the HTTP request, then frames, then commands. Stops taking input whenever an answer has to come
//! first, and goes on where it stopped. Part of `shard`; `wire` and `dialect` know the formats.
//!
//! A message goes this way: [`Reading::receive`], `consume`, `frame`, [`ShardCore::event`], [`message`], then
//! [`ShardCore::command`], which has the session judge it and carries out the effect.

use super::admission::refusal_of;
use super::conns::{Ending, Framing, Stage};
use super::echo::EchoBuffer;
use super::guard::shows_token;
use super::{Action, Input, REPLY_BYTES, ShardCore, Wire};
use crate::dialect::native::decode::{EnvelopeDecoder, Rejected};
use crate::ids::ConnId;
use crate::limits::Limit;
use crate::metrics::Count;
use crate::model::command::Request;
use crate::model::notice::Reply;
use crate::model::text::Language;
use crate::model::voice::Voice;
use crate::site::Route;
use crate::time::clock::Now;
use crate::wire::codes::close;
use crate::wire::frame::{self, Opcode};
use crate::wire::handshake::{self, HttpRefusal};
use crate::wire::websocket::{self, Assembly, Event, ProtocolError};

/// A masked control frame at its longest (RFC 6455 §5.5).
const CONTROL_FRAME_MAX: usize = 2 + 4 + 125;

/// How often a message has come to be taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum MessageCome {
    /// From the wire.
    First,
    /// After it was put off: it is not counted twice, and not put off again.
    Again,
}

/// Where a message lies while it is taken: one for all connections of the shard. Between two calls there is nothing in it
/// but spare memory.
#[derive(Debug)]
pub(super) struct Reading {
    assembly: Assembly,
    envelopes: EnvelopeDecoder,
    echoes: EchoBuffer,
}

impl Reading {
    pub(super) fn new(stopwatch: fn() -> u64) -> Self {
        Self {
            assembly: Assembly::new(stopwatch),
            envelopes: EnvelopeDecoder::default(),
            echoes: EchoBuffer::default(),
        }
    }

    /// [`Shard::receive`](super::Shard::receive)
    pub(super) fn receive(
        &mut self,
        core: &mut ShardCore,
        id: ConnId,
        bytes: &mut [u8],
        wire: &mut impl Wire,
        now: Now,
    ) -> Input {
        if core.note_received(id, bytes.len(), now) {
            let echoed = core.echo(id, bytes, &mut self.echoes, wire);
            if echoed < bytes.len() {
                self.consume(core, id, &mut bytes[echoed..], now);
            }
        }
        self.reply_and_go_on(core, id, wire, now)
    }

    /// [`Shard::resume`](super::Shard::resume)
    pub(super) fn resume(&mut self, core: &mut ShardCore, id: ConnId, wire: &mut impl Wire, now: Now) -> Input {
        self.consume_held(core, id, now);
        self.reply_and_go_on(core, id, wire, now)
    }

    /// Sends the replies. Sending may make room for replies to what is held.
    fn reply_and_go_on(&mut self, core: &mut ShardCore, id: ConnId, wire: &mut impl Wire, now: Now) -> Input {
        loop {
            let before = core.input(id);
            core.reply(id, wire, now);
            let after = core.input(id);
            if (before, after) != (Input::Paused, Input::Open) {
                return after;
            }
            self.consume_held(core, id, now);
        }
    }

    fn consume_held(&mut self, core: &mut ShardCore, id: ConnId, now: Now) {
        if let Some(text) = core.take_put_off(id) {
            match core.conns.at(id.slot).framing.voice() {
                Voice::EventStream => core.sign_in_stream(id, MessageCome::Again, now),
                Voice::NativeText => message(core, &mut self.envelopes, id, &text, MessageCome::Again, now),
            }
        }
        if core.conns.get(id).is_some_and(|conn| conn.stage == Stage::Api) {
            // What the parser holds comes first.
            core.resume_api(id, now);
        }
        if let Some(conn) = core.conns.get(id) {
            let mut held = conn.take_input();
            self.consume(core, id, &mut held, now);
        }
    }

    /// Takes the bytes one frame after the other, until they are used up or an answer has to come first. Then the rest is
    /// held.
    fn consume(&mut self, core: &mut ShardCore, id: ConnId, bytes: &mut [u8], now: Now) {
        let mut rest = bytes;
        while !rest.is_empty() {
            if !core.is_open(id) {
                let conn = core.conns.at(id.slot);
                conn.paused = true;
                if !conn.is_closing() {
                    conn.hold_input(rest);
                }
                return core.count_unfinished(id, now);
            }
            let conn = core.conns.at(id.slot);
            let used = match conn.stage {
                Stage::Api => core.api_input(id, rest, now),
                Stage::Handshake => core.handshake(id, rest, now),
                Stage::Native if conn.framing.voice() == Voice::EventStream => {
                    core.stream_input(id, now);
                    rest.len()
                }
                Stage::Native | Stage::Echo | Stage::Closing(Ending::AwaitClose) => self.frame(core, id, rest, now),
                Stage::Closing(_) => {
                    conn.decoder.skip(rest.len());
                    rest.len()
                }
            };
            rest = &mut rest[used..];
        }
        core.count_unfinished(id, now);
        if !core.is_open(id) {
            core.conns.at(id.slot).paused = true;
        }
    }

    /// Takes one frame, or as much of it as there is. Returns how many bytes it took.
    fn frame(&mut self, core: &mut ShardCore, id: ConnId, rest: &mut [u8], now: Now) -> usize {
        let length = rest.len();
        let limits = core.message_limits(id);
        let used = match core.conns.at(id.slot).decoder.decode(rest, &limits, &mut self.assembly) {
            Ok((used, None)) => used,
            Ok((used, Some(event))) => {
                if let Some(text) = core.event(id, event, now) {
                    message(core, &mut self.envelopes, id, text, MessageCome::First, now);
                }
                used
            }
            Err(error) => {
                core.fail(id, error, now);
                length
            }
        };
        if let Some(work) = self.assembly.release() {
            core.count_inflated(id, work, now);
        }
        used
    }
}

/// Takes one text of the native protocol, unless its sender is over a rate.
fn message(
    core: &mut ShardCore,
    envelopes: &mut EnvelopeDecoder,
    id: ConnId,
    text: &[u8],
    come: MessageCome,
    now: Now,
) {
    #[cfg(feature = "planted")]
    crate::planted::hear(id, text);
    let mut over = None;
    if come == MessageCome::First {
        over = core.take_message(id, text.len(), now).err();
        core.metrics.count(Count::MessagesIn);
    }
    match (envelopes.decode(text), over) {
        (Ok(Request { id: mark, .. }) | Err(Rejected { id: mark, .. }), Some(limit)) => {
            core.too_many_messages(id, mark, limit, now);
        }
        (Err(Rejected { id: mark, text }), None) => {
            let why = text.in_language(Language::En);
            core.refused(id, Limit::Json, now, || format!("a message was not done: {why} (400)"));
            core.error(id, mark, 400, text);
        }
        (Ok(request), None) if shows_token(&request.command) && !core.may_sign_in(id, now) => {
            core.too_many_attempts(id, request.id, Limit::AuthFailuresPerIp, now);
        }
        (Ok(request), None) if come == MessageCome::First && core.puts_off(id, &request.command, text, now) => {}
        (Ok(request), None) => core.command(id, request, now),
    }
    core.large_memory.note_if(envelopes.trim());
}

impl ShardCore {
    /// Counts what was received, and remembers that the connection lives. Returns whether there is such a connection.
    fn note_received(&mut self, id: ConnId, bytes: usize, now: Now) -> bool {
        let Some(conn) = self.conns.get(id) else { return false };
        let answers_ping = conn.seen(now.mono_ms);
        self.shows_life(id);
        self.metrics.add(Count::BytesIn, bytes);
        // An idle connection that answers pings need not be remembered for that.
        if !answers_ping || bytes > CONTROL_FRAME_MAX {
            self.measure(id, bytes, now);
        }
        if answers_ping {
            self.file_deadline(id);
        }
        true
    }

    /// The peer has ended its direction of the stream. What it asked before that is still answered: the connection ends
    /// when nothing is owed any more.
    pub(super) fn hear_out(&mut self, id: ConnId, now: Now) -> Input {
        let Some(conn) = self.conns.get(id) else { return Input::Ended };
        if conn.stage == Stage::Api {
            return self.api_hear_out(id, now);
        }
        conn.paused = conn.hear_out();
        if conn.paused { Input::Paused } else { Input::Ended }
    }

    /// What may be done with the connection's input.
    pub(super) fn input(&mut self, id: ConnId) -> Input {
        match self.conns.get(id) {
            None => Input::Ended,
            Some(conn) if conn.paused => Input::Paused,
            // Of a connection of the API, requests may be left to take: the driver finds the end once more.
            Some(conn) if conn.is_heard_out() && conn.stage != Stage::Api => Input::Ended,
            Some(_) => Input::Open,
        }
    }

    /// Whether the next bytes of the connection may be taken.
    pub(super) fn is_open(&mut self, id: ConnId) -> bool {
        let limit = self.settings.requests_per_connection;
        let going = self.farewell.has_begun();
        // A message may have been under way when we said Close. Of a client that goes on beyond that nothing is read.
        let skipped_max = 2 * self.settings.messages.message_bytes;
        let conn = self.conns.at(id.slot);
        if conn.stage == Stage::Api {
            return self.api_is_open(id);
        }
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
            self.await_api_resume(id);
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
            return self.respond(id, now, |out| site.write_refusal(Some(request), method, &refusal, out));
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
            return self.respond(id, now, |out| site.write_refusal(Some(request), method, &refusal, out));
        }
        let upgrade = match site.route(request, now.unix_ms) {
            Err(refusal) => return self.refuse_request(id, method, Some(request), refusal, now),
            Ok(Route::EventStream(route)) => return self.open_stream(id, *route, now),
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
        conn.framing = Framing::WebSocket(upgrade.deflate());
        if conn.framing.deflate().is_some() {
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
    pub(super) fn fail_internally(&mut self, id: ConnId, now: Now) -> Input {
        let Some(Stage::Native | Stage::Echo) = self.conns.get(id).map(|conn| conn.stage) else { return Input::Ended };
        let voice = self.conns.at(id.slot).framing.voice();
        if voice == Voice::EventStream {
            self.close(id, close::INTERNAL, "internal error", now);
        } else {
            self.metrics.closed(close::INTERNAL);
            self.end_with(id, Ending::Finish, now, |out| frame::write_close(out, close::INTERNAL, "internal error"));
        }
        self.input(id)
    }

    pub(super) fn respond(&mut self, id: ConnId, now: Now, write: impl FnOnce(&mut Vec<u8>)) {
        self.end_with(id, Ending::Finish, now, write);
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

    /// Sees to an event. Returns the text of a message of the native protocol, for the caller to take.
    fn event<'a>(&mut self, id: ConnId, event: Event<'a>, now: Now) -> Option<&'a [u8]> {
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
            (Event::Text(text), _) => return Some(text),
        }
        None
    }

    /// Both sides have said Close, or nothing more can be said: end our direction once all has left.
    pub(super) fn finish(&mut self, id: ConnId, now: Now) {
        self.conns.at(id.slot).enter(Stage::Closing(Ending::Finish), now.mono_ms);
        self.mark_dirty(id.slot);
        self.file_deadline(id);
    }
}
