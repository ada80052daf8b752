//! The requests of the API's connections: bytes come in, asks to owners go out. Requests of one connection are taken one
//! after the other, without waiting for answers, up to a bound. Part of `shard`.

use super::PIPELINE_MAX;
use super::asks::ParkedApiAsk;
use super::conn::{ApiConn, ManyInProgress, PendingResponse, ResponseState};
use crate::api::answers::ApiAnswer;
use crate::api::ask::ApiAsk;
use crate::api::calls::{ApiCall, ApiRequest};
use crate::api::connection::{ApiPhase, ApiStep};
use crate::api::error::ApiError;
use crate::api::many::ManyPublishes;
use crate::api::reply::ApiReply;
use crate::hub::owner_of;
use crate::ids::{ConnId, ShardId};
use crate::limits::api_bound::ApiBound;
use crate::metrics::Count;
use crate::model::parcel::{Asker, Parcel};
use crate::shard::{Input, REPLY_BYTES, ShardCore};
use crate::time::clock::Now;
use crate::wire::http::response::CONTINUE;

impl ShardCore {
    /// Takes requests out of received bytes, until they are used up or answers have to come first. Returns how many bytes
    /// were used. The parser may hold more: call this once more with no bytes when the input goes on.
    pub(in crate::shard) fn api_input(&mut self, id: ConnId, bytes: &[u8], now: Now) -> usize {
        let mut input = bytes;
        let before = self.api_conn(id).map(|conn| conn.parser.phase());
        let mut has_begun = false;
        self.set_has_more(id, true);
        while self.api_is_open(id) {
            let Self { api, .. } = self;
            let (Some(conn), Some(rules)) = (api.conns.get_mut(&id.slot), &api.rules) else { break };
            match conn.parser.next(&mut input, rules) {
                ApiStep::More => {
                    conn.has_more = false;
                    break;
                }
                ApiStep::Continue => self.say_continue(id),
                ApiStep::Request(request) => {
                    has_begun = true;
                    self.take_request(id, request, now);
                }
            }
        }
        self.charge_held(id, now);
        let after = self.api_conn(id).map(|conn| conn.parser.phase());
        if has_begun || before != after {
            self.conns.at(id.slot).since_ms = now.mono_ms;
            self.file_deadline(id);
        }
        bytes.len() - input.len()
    }

    fn set_has_more(&mut self, id: ConnId, has_more: bool) {
        if let Some(conn) = self.api_conn(id) {
            conn.has_more = has_more;
        }
    }

    /// The driver was told to read on. Until it does, bytes that have come are not taken.
    pub(in crate::shard) fn await_api_resume(&mut self, id: ConnId) {
        if let Some(conn) = self.api_conn(id) {
            conn.awaits_resume = true;
        }
    }

    /// The driver reads on.
    pub(in crate::shard) fn resume_api(&mut self, id: ConnId, now: Now) {
        if let Some(conn) = self.api_conn(id) {
            conn.awaits_resume = false;
        }
        self.conns.at(id.slot).since_ms = now.mono_ms;
        self.api_input(id, &[], now);
        self.file_deadline(id);
    }

    /// Whether the next bytes of the connection may be taken.
    pub(in crate::shard) fn api_is_open(&mut self, id: ConnId) -> bool {
        let Self { api, conns, .. } = self;
        let (Some(conn), Some(of_api)) = (conns.get(id), api.conns.get_mut(&id.slot)) else { return false };
        if conn.is_heard_out() && !of_api.has_more && !conn.holds_input() {
            // Only its end is left to be seen.
            return of_api.responses().is_empty() && conn.outbox.is_empty();
        }
        let holds_up = |of_api: &mut ApiConn| of_api.responses().iter().any(|(_, one)| one.state.holds_up());
        !of_api.is_last
            && conn.outbox.private_bytes() < REPLY_BYTES
            && (of_api.responses().is_empty() || (of_api.responses().len() < PIPELINE_MAX && !holds_up(of_api)))
    }

    /// The peer has ended its direction of the stream: what it asked before that is still answered.
    pub(in crate::shard) fn api_hear_out(&mut self, id: ConnId, now: Now) -> Input {
        let given_up = self.api_conn(id).and_then(|conn| match conn.parser.phase() {
            ApiPhase::Body => conn.parser.give_up(ApiError::body_broken_off()),
            _ => None,
        });
        if let Some(request) = given_up {
            self.take_request(id, request, now);
        }
        let Self { api, conns, .. } = self;
        let (Some(conn), Some(of_api)) = (conns.get(id), api.conns.get_mut(&id.slot)) else { return Input::Ended };
        if of_api.responses().is_empty() && conn.outbox.is_empty() {
            return Input::Ended;
        }
        conn.set_heard_out();
        conn.paused = true;
        Input::Paused
    }

    /// Charges the bytes of an unfinished request to its address. A request that finds no room is refused.
    fn charge_held(&mut self, id: ConnId, now: Now) {
        let Self { api, .. } = self;
        let Some(conn) = api.conns.get_mut(&id.slot) else { return };
        let (held, charged, address) = (conn.parser.held_bytes(), conn.charged, conn.address());
        if held == charged {
            return;
        }
        if held < charged {
            api.bodies.give_back(address, charged - held);
        } else if !api.bodies.take(address, held - charged) {
            let peer = conn.peer;
            let refused = conn.parser.give_up(ApiError::busy());
            api.bodies.give_back(address, std::mem::take(&mut conn.charged));
            self.reached(ApiBound::Bodies, Some(peer), now, "no room for the body of a request");
            match refused {
                Some(request) => self.take_request(id, request, now),
                None => self.abort(id, now),
            }
            return;
        }
        conn.charged = held;
    }

    /// Tells a client that it may send the body.
    fn say_continue(&mut self, id: ConnId) {
        // A client that waits has pipelined nothing behind this. Answers that it is still owed must come first.
        let Some(conn) = self.api_conn(id) else { return };
        if conn.responses().is_empty() {
            self.conns.at(id.slot).outbox.push_private(|out| out.extend_from_slice(CONTINUE));
            self.mark_dirty(id.slot);
        } else if let Some(conn) = self.api_conn(id) {
            conn.continues = true;
        }
    }

    pub(super) fn take_request(&mut self, id: ConnId, request: ApiRequest, now: Now) {
        let ApiRequest { call, mut reply, has_key } = request;
        self.metrics.count(Count::ApiRequests);
        let Some(conn) = self.api_conn(id) else { return };
        conn.has_asked = true;
        conn.is_last |= reply.is_last();
        if has_key && !self.recognize(id, now) {
            reply.close_after();
            conn_is_last(self.api_conn(id));
            return self.answer_now(id, reply, ApiAnswer::Refused(ApiError::busy()), now);
        }
        match call {
            ApiCall::Ask(ask) => self.ask_one(id, reply, ask, now),
            ApiCall::Many(many) => self.ask_many(id, reply, many, now),
            ApiCall::Slow(call) => {
                let Some(number) = self.await_response(id, reply, 0, ResponseState::Control, now) else { return };
                let Some(peer) = self.api_conn(id).map(|conn| conn.peer) else { return };
                self.api.control.give(id, number, peer, call);
            }
            ApiCall::Health => {
                let (connections, shards) = (self.settings.guard.connections(), self.settings.hub.shards);
                let is_draining = self.api.last_body_ms.is_some();
                if is_draining {
                    reply.close_after();
                    conn_is_last(self.api_conn(id));
                }
                self.answer_now(id, reply, ApiAnswer::Health { connections, shards, is_draining }, now);
            }
            ApiCall::Bare(answer) => self.answer_now(id, reply, ApiAnswer::Bare(answer), now),
            ApiCall::Refused(error) => self.answer_now(id, reply, ApiAnswer::Refused(error), now),
        }
    }

    fn ask_one(&mut self, id: ConnId, reply: ApiReply, ask: ApiAsk, now: Now) {
        let owner = owner_of(ask.channel(), self.settings.hub.shards);
        let ApiAsk { ask, escape } = ask;
        let state = ResponseState::Owner { escape, is_large: ask.may_be_large() };
        if let Some(number) = self.await_response(id, reply, ask.weight(), state, now) {
            self.send_api_ask(owner, ParkedApiAsk { conn: id, number, ask }, now);
        }
    }

    fn ask_many(&mut self, id: ConnId, reply: ApiReply, many: Box<ManyPublishes>, now: Now) {
        let bytes = many.held_bytes();
        let state = ResponseState::Many(Box::new(ManyInProgress { many, parts: Vec::new() }));
        if let Some(number) = self.await_response(id, reply, bytes, state, now) {
            self.go_on_with_many(id, number, now);
        }
    }

    /// Takes the request's share of what requests may have. Returns the number of its response; `None` if the request is
    /// refused, and answered.
    fn await_response(
        &mut self,
        id: ConnId,
        reply: ApiReply,
        bytes: usize,
        state: ResponseState,
        now: Now,
    ) -> Option<u32> {
        let until_ms = now.mono_ms + self.settings.request_ms;
        let Self { api, .. } = self;
        let conn = api.conns.get_mut(&id.slot)?;
        let address = conn.address();
        let reached = if !api.requests.take(address, 1) {
            Some(ApiBound::Requests)
        } else if !api.bodies.take(address, bytes) {
            api.requests.give_back(address, 1);
            Some(ApiBound::Bodies)
        } else {
            None
        };
        if let Some(bound) = reached {
            // The log has the refused request itself.
            self.metrics.api_bound(bound);
            self.answer_now(id, reply, ApiAnswer::Refused(ApiError::busy()), now);
            return None;
        }
        Some(conn.responses().push(PendingResponse { reply, until_ms, charged: bytes, state }))
    }

    /// Sends an ask to its owner, or parks it until there is a credit. On the way out none is sent.
    pub(super) fn send_api_ask(&mut self, owner: ShardId, ask: ParkedApiAsk, now: Now) {
        if self.farewell.has_begun() {
            return self.api_respond(ask.conn, ask.number, ApiAnswer::Refused(ApiError::draining()), now);
        }
        if let Some(ask) = self.api.asks.admit(owner, ask) {
            self.put_api_ask(owner, ask, now);
        }
    }

    /// An ask with a credit leaves. This shard's own hub takes it at once: there is nothing to wait for.
    fn put_api_ask(&mut self, owner: ShardId, ask: ParkedApiAsk, now: Now) {
        let ParkedApiAsk { conn, number, ask } = ask;
        if owner == self.own {
            self.hub.ask(Asker::Api(conn), number, ask, now, &mut self.staging);
        } else {
            self.staging.push(owner, Parcel::Ask { asker: Asker::Api(conn), request: number, ask });
        }
    }

    /// An owner gives a credit back.
    pub(in crate::shard) fn give_api_credit(&mut self, owner: ShardId, now: Now) {
        let Self { api, conns, .. } = self;
        let super::Api { asks, conns: of_api, .. } = api;
        let is_wanted = |ask: &ParkedApiAsk| {
            let is_there = conns.get(ask.conn).is_some();
            let conn = of_api.get_mut(&ask.conn.slot).filter(|_| is_there);
            conn.and_then(|conn| conn.responses().get(ask.number)).is_some()
        };
        if let Some(next) = asks.give_back(owner, is_wanted) {
            self.put_api_ask(owner, next, now);
        }
    }
}

/// Nothing more is read of the connection.
fn conn_is_last(conn: Option<&mut ApiConn>) {
    if let Some(conn) = conn {
        conn.is_last = true;
    }
}
