//! The responses of the API's connections. They are written in the order of the requests: one that is ready too early waits
//! behind those before it. All that a turn has for a connection leaves in one send. Part of `shard`.

use super::Api;
use super::conn::{PendingResponse, ResponseState};
use crate::api::answers::{ApiAnswer, WrittenResponse};

use crate::api::reply::ApiReply;
use crate::ids::ConnId;
use crate::limits::Peer;
use crate::limits::refusals::{RefusalNote, quoted, quoted_place, quoted_up_to};
use crate::metrics::Count;
use crate::model::parcel::Answer;
use crate::shard::refusals::limit_of;
use crate::shard::{Settings, ShardCore};
use crate::time::clock::Now;
use crate::wire::http::response::CONTINUE;

/// How many characters of an error's message the log shows.
const MESSAGE_CHARS: usize = 200;

impl ShardCore {
    /// Takes an owner's answer to a request.
    pub(in crate::shard) fn api_answered(&mut self, id: ConnId, number: u32, answer: Answer, now: Now) {
        if self.conns.get(id).is_none() {
            return;
        }
        let Some(pending) = self.api.conns.get_mut(&id.slot).and_then(|conn| conn.responses().get(number)) else {
            return;
        };
        match (&mut pending.state, answer) {
            (ResponseState::Owner { escape, .. }, answer) => {
                let escape = *escape;
                if let Answer::Refused(refusal) = &answer
                    && let Some(limit) = limit_of(*refusal)
                {
                    self.metrics.refused(limit);
                }
                self.api_respond(id, number, ApiAnswer::Owner { answer, escape }, now);
            }
            (ResponseState::Many(_), Answer::PublishedMany(outcomes)) => {
                self.many_answered(id, number, *outcomes, now);
            }
            // It was given up on.
            _ => {}
        }
    }

    /// Answers a request that waits for nothing.
    pub(super) fn answer_now(&mut self, id: ConnId, reply: ApiReply, answer: ApiAnswer, now: Now) {
        let Some(conn) = self.api.conns.get_mut(&id.slot) else { return };
        let (peer, is_first) = (conn.peer, conn.responses().is_empty());
        if !is_first {
            let mut bytes = Vec::new();
            let written = self.api.writer.write(&mut bytes, &reply, answer, now.unix_ms);
            tell_of(&self.settings, &reply, peer, &written, now);
            let state = ResponseState::Written(bytes);
            if let Some(conn) = self.api_conn(id) {
                conn.responses().push(PendingResponse { reply, until_ms: u64::MAX, charged: 0, state });
            }
            return;
        }
        let mut written = None;
        let writer = &mut self.api.writer;
        let outbox = &mut self.conns.at(id.slot).outbox;
        outbox.push_private(|out| written = Some(writer.write(out, &reply, answer, now.unix_ms)));
        if let Some(written) = written {
            tell_of(&self.settings, &reply, peer, &written, now);
        }
        self.mark_dirty(id.slot);
        self.response_left(id, &reply, now);
    }

    /// Answers the request whose response has this number, if it is still owed and not written.
    pub(super) fn api_respond(&mut self, id: ConnId, number: u32, answer: ApiAnswer, now: Now) {
        let Self { api, conns, settings, .. } = self;
        let Api { conns: of_api, writer, requests, bodies, .. } = api;
        let Some(conn) = conns.get(id) else { return };
        let Some(of_api) = of_api.get_mut(&id.slot) else { return };
        let (address, peer) = (of_api.address(), of_api.peer);
        let is_first = of_api.responses().first_number() == number;
        let Some(pending) = of_api.responses().get(number) else { return };
        if pending.state.is_written() {
            return;
        }
        requests.give_back(address, 1);
        bodies.give_back(address, pending.charged);
        if !is_first {
            let mut bytes = Vec::new();
            let written = writer.write(&mut bytes, &pending.reply, answer, now.unix_ms);
            pending.state = ResponseState::Written(bytes);
            return tell_of(settings, &pending.reply, peer, &written, now);
        }
        let Some(pending) = of_api.responses().pop() else { return };
        let mut written = None;
        conn.outbox.push_private(|out| written = Some(writer.write(out, &pending.reply, answer, now.unix_ms)));
        if let Some(written) = written {
            tell_of(settings, &pending.reply, peer, &written, now);
        }
        self.mark_dirty(id.slot);
        self.response_left(id, &pending.reply, now);
        self.write_ready(id, now);
        self.maybe_resume(id);
    }

    /// Moves the responses that are ready, and whose turn has come, to what is sent.
    fn write_ready(&mut self, id: ConnId, now: Now) {
        loop {
            let Some(conn) = self.api.conns.get_mut(&id.slot) else { return };
            if !conn.responses().first().is_some_and(|first| first.state.is_written()) {
                break;
            }
            let Some(PendingResponse { reply, state: ResponseState::Written(bytes), .. }) = conn.responses().pop()
            else {
                return;
            };
            self.conns.at(id.slot).outbox.push_private(|out| out.extend_from_slice(&bytes));
            self.response_left(id, &reply, now);
        }
        let Some(conn) = self.api.conns.get_mut(&id.slot) else { return };
        if conn.responses().is_empty() && std::mem::take(&mut conn.continues) {
            self.conns.at(id.slot).outbox.push_private(|out| out.extend_from_slice(CONTINUE));
        }
    }

    /// A response has been written to the outbox. After the last one the connection closes.
    fn response_left(&mut self, id: ConnId, reply: &ApiReply, now: Now) {
        self.metrics.count(Count::Replies);
        if reply.is_last() {
            self.forget_requests(id);
            self.conns.at(id.slot).take_input();
            self.finish(id, now);
        }
    }
}

/// Logs a request at debug, and one that was refused like other refusals. A `/health` that says "draining" is no refusal.
fn tell_of(settings: &Settings, reply: &ApiReply, peer: Peer, written: &WrittenResponse, now: Now) {
    let status = written.status;
    tracing::debug!(
        client = %peer,
        method = quoted(reply.method()),
        path = quoted_place(reply.path()),
        status,
        "API request"
    );
    if status < 400 || (reply.is_health() && status == 503) {
        return;
    }
    settings.metrics.api_refused(status);
    let reason = match status {
        401 => "api_unauthorized",
        404 => "api_not_found",
        500.. => "api_not_done",
        _ => "api_refused",
    };
    let note = RefusalNote { reason, client: Some(peer), conn: None, user: None };
    settings.refusals.tell(&note, now.mono_ms, || {
        let message = quoted_up_to(MESSAGE_CHARS, written.error.as_ref().map_or("", |error| error.message()));
        format!("{} {}: {status} {message}", quoted(reply.method()), quoted_place(reply.path()))
    });
}
