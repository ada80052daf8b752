//! Event streams (docs/sse.md): connections that ask by one HTTP request and then only receive. What they ask for becomes
//! the same command that a WebSocket client sends, and goes the same way. Here is what differs: the answer is HTTP until
//! the sign-in has been accepted, nothing is read after the request, and there are no pongs. Part of `shard`.

use std::rc::Rc;
use std::sync::Arc;

use super::conns::{Ending, Stage};
use super::guard::shows_token;
use super::receive::MessageCome;
use super::stream_state::EventStream;
use super::{Action, ShardCore, Wire};
use crate::dialect;
use crate::dialect::native::event_stream::StreamRequest;
use crate::ids::ConnId;
use crate::limits::Limit;
use crate::metrics::Count;
use crate::model::command::{Command, Request, SubscribeTo};
use crate::model::notice::{About, Gap, Reply};
use crate::model::parcel::Attached;
use crate::model::position::SinceRef;
use crate::model::refusal::RequestError;
use crate::model::text::Language;
use crate::model::voice::Voice;
use crate::session::{Effect, Local, Wanted};
use crate::site::{StreamRoute, write_stream_refusal};
use crate::time::clock::Now;
use crate::wire::codes::close;
use crate::wire::handshake::HttpRefusal;

/// How long a browser waits at least before it connects again …
const RETRY_MS: u64 = 1_000;
/// … and how much more at most: clients that come back at once would all come at once.
const RETRY_SPREAD_MS: u64 = 2_000;

impl ShardCore {
    /// A well-formed request for an event stream has come: its client signs in.
    pub(super) fn open_stream(&mut self, id: ConnId, route: StreamRoute, now: Now) {
        let StreamRoute { request, reader } = route;
        let conn = self.conns.at(id.slot);
        conn.enter(Stage::Native, now.mono_ms);
        conn.begin_stream(EventStream::new(request, reader));
        self.event_streams += 1;
        self.sign_in_stream(id, MessageCome::First, now);
        self.file_deadline(id);
    }

    /// Has the session judge what the request of a stream asks for.
    pub(super) fn sign_in_stream(&mut self, id: ConnId, come: MessageCome, now: Now) {
        let Some(request) = self.conns.at(id.slot).take_stream_request() else { return };
        let command = auth_of(&request);
        if shows_token(&command) && !self.may_sign_in(id, now) {
            return self.too_many_attempts(id, None, Limit::AuthFailuresPerIp, now);
        }
        if come == MessageCome::First && self.puts_off(id, &command, request.token.as_bytes(), now) {
            drop(command);
            return self.conns.at(id.slot).put_stream_request_off(request);
        }
        self.command(id, Request { id: None, command }, now);
    }

    /// The client of an event stream has signed in: its channels are asked for, and the stream begins, unless its user
    /// may have none of them.
    pub(super) fn begin_stream(&mut self, id: ConnId, wanted: &[Wanted], now: Now) {
        self.metrics.count(Count::SignIns);
        let user = Arc::clone(self.conns.at(id.slot).session.user().expect("it has just signed in"));
        let (mut asks, mut refused) = (Vec::new(), Vec::new());
        for wanted in wanted {
            let (effect, _) =
                self.judge(id, &wanted.channel, false, |session, rules| session.subscribe_to(wanted, rules, now));
            match effect {
                Effect::Ask(asked) => asks.push(asked),
                Effect::Local(Local::Refuse(error), channel, _) => {
                    self.tell_local_refusal(id, channel, error.text, now);
                    refused.push((error, channel));
                }
                effect => unreachable!("{effect:?} doesn't come of a subscribe"),
            }
        }
        if let (true, Some((error, _))) = (asks.is_empty(), refused.first()) {
            self.conns.at(id.slot).note_stream_refusal(*error);
            return self.close(id, close::FORBIDDEN, error.text.in_language(Language::En), now);
        }
        let retry_ms = RETRY_MS + u64::from(id.slot).wrapping_mul(7919) % RETRY_SPREAD_MS;
        self.conns.at(id.slot).open_stream(retry_ms);
        self.metrics.count(Count::EventStreams);
        // As long as a WebSocket client may take nothing before it is closed.
        let silence_ms = self.settings.ping_interval_ms + self.settings.pong_timeout_ms;
        self.actions.push(Action::BoundSilence(id, silence_ms));
        let escape = self.settings.hub.namespaces.lobby().escape;
        let expires_at = self.conns.at(id.slot).session.expires_at_ms();
        let success =
            Reply::AuthSuccess { user: &user, escape, expires_at, online_count: None, lobby: None, recovery: None };
        self.say(id, &success, None);
        for (error, channel) in refused {
            self.say(id, &Reply::Error { error, about: Some(About::Channel { channel }) }, None);
        }
        for asked in asks {
            self.ask(id, asked, now);
        }
        self.mark_dirty(id.slot);
        self.file_deadline(id);
    }

    /// Queues a reply on an event stream, if it is told that. Before the stream has begun only a refusal matters: it is
    /// what the request is answered with when the connection is closed.
    pub(super) fn say_on_stream(&mut self, id: ConnId, reply: &Reply<'_>) {
        if !self.conns.at(id.slot).has_begun_stream() {
            if let Reply::Error { error, .. } = reply {
                self.conns.at(id.slot).note_stream_refusal(*error);
            }
            return;
        }
        let mut events = Vec::new();
        dialect::write_reply(Voice::EventStream, &mut events, reply, None, self.settings.language);
        match reply {
            _ if events.is_empty() => {}
            Reply::Subscribed { position, .. } => self.push_about(id, position.channel, &events),
            _ => self.push_private(id.slot, |out| out.extend_from_slice(&events)),
        }
    }

    /// What could not be recovered for an event stream, right behind the answer that says so; or, if nothing can be
    /// named, the position that the client has all the same.
    pub(super) fn say_gap_on_stream(&mut self, id: ConnId, attached: &Attached, gap: Option<Gap<'_>>) {
        let mut events = Vec::new();
        match gap {
            Some(gap) => dialect::write_gap(Voice::EventStream, &mut events, &gap),
            None if attached.lost_from().is_some() => {
                dialect::native::stream::write_position(&mut events, attached.placed.position());
            }
            None => return,
        }
        self.push_about(id, &attached.placed.channel, &events);
    }

    /// Queues events that move the stream's position in a channel to which it is subscribed.
    fn push_about(&mut self, id: ConnId, channel: &str, events: &[u8]) {
        if !self.conns.at(id.slot).stamps() {
            return self.push_private(id.slot, |out| out.extend_from_slice(events));
        }
        let subscription = self.find_subscription(id, channel).expect("it has just been attached");
        let origin = Rc::clone(self.fanout.channel(subscription.channel).origin());
        self.hand_over(id.slot);
        self.conns.at(id.slot).outbox.push_about(&origin, events);
    }

    /// Ends an event stream: with an event that says why, or, if it has not begun, with the answer to its request.
    pub(super) fn close_stream(&mut self, id: ConnId, code: u16, reason: &str, now: Now) {
        let conn = self.conns.at(id.slot);
        if conn.is_closing() {
            return;
        }
        if !conn.has_begun_stream() {
            return self.refuse_stream(id, code, reason, now);
        }
        self.metrics.closed(code);
        self.end_with(id, Ending::Finish, now, |out| dialect::write_close(Voice::EventStream, out, code, reason));
    }

    /// Answers the request of a stream that has not begun, in place of the close with this code.
    pub(super) fn refuse_stream(&mut self, id: ConnId, code: u16, reason: &str, now: Now) {
        let Some(stream) = self.conns.at(id.slot).take_stream() else { return };
        let language = self.settings.language;
        let text = stream.refusal.map_or(reason, |error| error.text.in_language(language));
        let refusal = http_refusal(code, stream.refusal);
        self.metrics.request_refused(refusal.status);
        self.end_with(id, Ending::Finish, now, |out| {
            write_stream_refusal(&refusal, text, "GET", stream.reader.as_deref(), out);
        });
    }

    /// A sign-in was refused without a close: a WebSocket client may try again, a request is over.
    pub(super) fn end_unopened_stream(&mut self, id: ConnId, now: Now) {
        let Some(conn) = self.conns.get(id) else { return };
        if conn.framing.voice() == Voice::EventStream
            && !conn.is_closing()
            && !conn.has_begun_stream()
            && conn.session.is_anonymous()
        {
            self.close(id, close::DRAINING, "the sign-in was not done", now);
        }
    }

    /// The client of an event stream sent something behind its request.
    pub(super) fn stream_input(&mut self, id: ConnId, now: Now) {
        self.tell_refusal(id, "protocol_error", now, || {
            "closed: bytes behind the request for an event stream".to_owned()
        });
        self.close(id, close::PROTOCOL_ERROR, "nothing is read on an event stream", now);
    }

    /// Whether the peer of an event stream has shown that it lives: its kernel has acknowledged all that was sent.
    pub(super) fn has_taken_all(&mut self, id: ConnId, wire: &mut impl Wire) -> bool {
        self.conns.get(id).is_some_and(|conn| conn.framing.voice() == Voice::EventStream && conn.outbox.is_empty())
            && wire.unacknowledged(id) == 0
    }
}

/// The command that a request stands for.
fn auth_of(request: &StreamRequest) -> Command<'_> {
    let channels = request.channels.iter().map(|(channel, position)| SubscribeTo {
        channel,
        token: None,
        recover: position.as_ref().map(|position| SinceRef { epoch: &position.epoch, offset: position.offset }),
    });
    let (token, channels) = (Some(&*request.token), channels.collect());
    Command::Auth { token, ping: false, lobby: false, recover: None, channels }
}

/// What a request is answered with, in place of a close with this code, or with the error that was told before it.
fn http_refusal(code: u16, error: Option<RequestError>) -> HttpRefusal {
    let status = error.map_or(0, |error| error.code);
    match (status, code) {
        (400, _) => HttpRefusal::bad_request("bad request"),
        (403, _) => HttpRefusal::forbidden("forbidden"),
        (404, _) => HttpRefusal::not_found(),
        (409, _) | (_, close::SIGNED_IN_ELSEWHERE) => HttpRefusal::conflict("signed in elsewhere"),
        (429, _) | (_, close::RATE_LIMITED) => HttpRefusal::too_many_requests(30),
        (504, _) => HttpRefusal::gateway_timeout("no answer in time"),
        (_, close::UNAUTHORIZED) => HttpRefusal::unauthorized("unauthorized"),
        (_, close::FORBIDDEN) => HttpRefusal::forbidden("forbidden"),
        (_, close::INTERNAL) => HttpRefusal::internal("internal error"),
        _ => HttpRefusal::unavailable("try again later", 5),
    }
}
