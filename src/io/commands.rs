//! What other threads tell a shard, and the answers that they wait for. A command goes through the shard's bounded
//! queue; its sender then wakes the shard (`mesh::Waker`).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;

use crate::auth::{Lifted, Revocation, Verifier};
use crate::model::errand::ErrandOutcome;
use crate::model::parcel::{Answer, Ask};

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
    /// Ask the hub of this shard for the backend.
    Ask(Ask, flume::Sender<Answer>),
    /// The errand with this number has been done.
    Done(u32, ErrandOutcome),
    /// Answer publications at once from now on, in channels with a batch window too.
    EndWindows,
    /// Tell all clients to go, wait for them at most this long, and end.
    Drain(Duration),
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
