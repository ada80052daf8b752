//! What other threads tell a shard, and the answers that they wait for. A command goes through the shard's bounded
//! queue; its sender then wakes the shard (`mesh::Waker`).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;

use crate::api::calls::{SlowAnswer, SlowCall};
use crate::api::error::ApiError;
use crate::auth::{ApiKeys, Lifted, Revocation, Verifier};
use crate::ids::ShardId;
use crate::limits::Peer;
use crate::model::errand::ErrandOutcome;
use crate::model::parcel::Answer;

/// What another thread tells a shard.
#[derive(Debug)]
pub(crate) enum ShardCommand {
    /// Verify tokens with these keys from now on.
    Keys(Arc<Verifier>),
    /// Show this certificate to new connections from now on.
    Certificate(Arc<ServerConfig>),
    /// Refuse the tokens that this names. Answer when no connection of this shard lives by one of them any more.
    Revoke(Arc<Revocation>, flume::Sender<Answer>),
    /// Accept the tokens that these revocations named. Answer when this shard does.
    Lift(Arc<Lifted>, flume::Sender<()>),
    /// Requests to the API must bring one of these keys from now on. Answer when this is so.
    ApiKeys(Arc<ApiKeys>, flume::Sender<()>),
    /// The control thread's answer to the API's call with this number.
    Answered(u32, Result<SlowAnswer, ApiError>),
    /// Refuse new requests to the API from now on. Answer when this is so.
    DrainApi(flume::Sender<()>),
    /// Say whether no request to the API is under way.
    IsApiIdle(flume::Sender<bool>),
    /// The errand with this number has been done.
    Done(u32, ErrandOutcome),
    /// Answer publications at once from now on, in channels with a batch window too.
    EndWindows,
    /// Tell all clients to go, wait for them at most this long, and end.
    Drain(Duration),
}

/// A call of the API on its way to the control thread.
#[derive(Debug)]
pub(crate) struct ApiOrder {
    /// Who has the connection of the request.
    pub(crate) shard: ShardId,
    /// The shard's number for the call.
    pub(crate) number: u32,
    /// The peer that asks, for the log.
    pub(crate) peer: Peer,
    /// What is asked.
    pub(crate) call: SlowCall,
}

/// The answers that the control thread waits for, by the number under which the shard will give them.
#[derive(Debug, Default)]
pub(super) struct AwaitedAnswers {
    replies: HashMap<u32, flume::Sender<Answer>>,
    next: u32,
}

impl AwaitedAnswers {
    /// Chooses the number under which the shard is to answer.
    pub(super) fn expect(&mut self, reply: flume::Sender<Answer>) -> u32 {
        let number = self.next;
        self.next = number.wrapping_add(1);
        self.replies.insert(number, reply);
        number
    }

    /// Hands answers of the shard to their askers.
    pub(super) fn deliver(&mut self, answers: Vec<(u32, Answer)>) {
        for (number, answer) in answers {
            if let Some(reply) = self.replies.remove(&number) {
                // Fails if the asker has stopped waiting.
                let _ = reply.try_send(answer);
            }
        }
    }
}
