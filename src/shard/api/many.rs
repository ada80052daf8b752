//! Requests with several publications: a broadcast, or lines of JSON. The publications are asked of their owners, those of
//! one owner by one ask, a bounded number of them at a time. Part of `shard`.

use super::Api;
use super::asks::ParkedApiAsk;
use super::conn::{ManyPart, ResponseState};
use crate::api::answers::ApiAnswer;
use crate::api::error::ApiError;
use crate::api::many::publish_result;
use crate::hub::owner_of;
use crate::ids::{ConnId, ShardId};
use crate::model::parcel::{Answer, Ask, PublishMany, PublishedMany};
use crate::model::publication::Publish;
use crate::shard::ShardCore;
use crate::shard::refusals::limit_of;
use crate::time::clock::Now;

/// Publications of one request that are with their owners at a time.
const WINDOW: usize = 1_024;
/// An owner answers so much before the request's time is over, in parts of the request's time.
const EARLIER: u64 = 8;

impl ShardCore {
    /// Asks the owners for the next publications of a request. Answers the request if there is none.
    pub(super) fn go_on_with_many(&mut self, id: ConnId, number: u32, now: Now) {
        let shards = self.settings.hub.shards;
        let until_earlier_ms = self.settings.request_ms / EARLIER;
        let Api { conns, rules: Some(rules), .. } = &mut self.api else { return };
        let Some(pending) = conns.get_mut(&id.slot).and_then(|conn| conn.responses().get(number)) else { return };
        let until_ms = pending.until_ms.saturating_sub(until_earlier_ms);
        let ResponseState::Many(progress) = &mut pending.state else { return };
        let mut batches: Vec<Vec<Box<Publish>>> = Vec::new();
        let mut by_owner = vec![None; shards];
        for _ in 0..WINDOW {
            let Some((publication, publish)) = progress.many.next(rules) else { break };
            let owner = owner_of(&publish.channel, shards);
            let at = *by_owner[owner.index()].get_or_insert_with(|| {
                progress.parts.push(ManyPart { owner, numbers: Vec::new() });
                batches.push(Vec::new());
                batches.len() - 1
            });
            progress.parts[at].numbers.push(publication);
            batches[at].push(publish);
        }
        if batches.is_empty() {
            return self.answer_many(id, number, now);
        }
        let ask = |(part, publishes): (&ManyPart, _)| {
            let many = PublishMany { part: u32::from(part.owner.0), until_ms, publishes };
            (part.owner, Ask::PublishMany(Box::new(many)))
        };
        let asks: Vec<(ShardId, Ask)> = progress.parts.iter().zip(batches).map(ask).collect();
        for (owner, ask) in asks {
            self.send_api_ask(owner, ParkedApiAsk { conn: id, number, ask }, now);
        }
    }

    /// An owner has answered its part of a request.
    pub(super) fn many_answered(&mut self, id: ConnId, number: u32, outcomes: PublishedMany, now: Now) {
        let Some(pending) = self.api.conns.get_mut(&id.slot).and_then(|conn| conn.responses().get(number)) else {
            return;
        };
        let ResponseState::Many(progress) = &mut pending.state else { return };
        let PublishedMany { part, outcomes } = outcomes;
        let Some(at) = progress.parts.iter().position(|known| u32::from(known.owner.0) == part) else { return };
        let ManyPart { numbers, .. } = progress.parts.swap_remove(at);
        for (publication, outcome) in numbers.into_iter().zip(outcomes) {
            if let Answer::Refused(refusal) = &outcome
                && let Some(limit) = limit_of(*refusal)
            {
                self.metrics.refused(limit);
            }
            progress.many.put(publication, publish_result(outcome));
        }
        if progress.parts.is_empty() {
            self.go_on_with_many(id, number, now);
        }
    }

    /// The time of a request is over: publications that are with their owners are unknown, and the others are not done.
    pub(super) fn give_up_many(&mut self, id: ConnId, number: u32, now: Now) {
        self.api.asks.forget(id, number);
        let Api { conns, rules: Some(rules), .. } = &mut self.api else { return };
        let Some(pending) = conns.get_mut(&id.slot).and_then(|conn| conn.responses().get(number)) else { return };
        let ResponseState::Many(progress) = &mut pending.state else { return };
        progress.parts.clear();
        progress.many.give_up(rules, &ApiError::unknown(), &ApiError::busy());
        self.answer_many(id, number, now);
    }

    fn answer_many(&mut self, id: ConnId, number: u32, now: Now) {
        let Some(pending) = self.api.conns.get_mut(&id.slot).and_then(|conn| conn.responses().get(number)) else {
            return;
        };
        // The response itself is written next.
        let state = std::mem::replace(&mut pending.state, ResponseState::Control);
        if let ResponseState::Many(progress) = state {
            self.api_respond(id, number, ApiAnswer::Many(progress.many), now);
        }
    }
}
