//! The way from the control thread to the shards: a bounded queue of commands per shard, and its bell. Knows nothing of
//! HTTP. `boot` makes it of the shards that it started.

use std::sync::Arc;

use crate::auth::{Lifted, Revocation, Verifier};
use crate::ids::ShardId;
use crate::io::commands::ShardCommand;
use crate::mesh::Waker;
use crate::model::parcel::Answer;

/// All shards, in order.
#[derive(Clone, Debug)]
pub(crate) struct Owners {
    shards: Arc<[(flume::Sender<ShardCommand>, Waker)]>,
}

impl Owners {
    /// Each shard's commands and bell, in order.
    pub(crate) fn new(shards: impl IntoIterator<Item = (flume::Sender<ShardCommand>, Waker)>) -> Self {
        Self { shards: shards.into_iter().collect() }
    }

    /// Tells one shard something, and waits until its queue has room. A shard that has ended needs no telling.
    pub(crate) async fn tell(&self, shard: ShardId, command: ShardCommand) {
        let (commands, waker) = &self.shards[shard.index()];
        let _ = commands.send_async(command).await;
        waker.wake();
    }

    /// Tells all shards by which keys tokens are judged from now on.
    pub(crate) async fn publish_keys(&self, verifier: Verifier) {
        let verifier = Arc::new(verifier);
        for (commands, waker) in self.shards.iter() {
            let _ = commands.send_async(ShardCommand::Keys(Arc::clone(&verifier))).await;
            waker.wake();
        }
    }

    /// Tells all shards that tokens count no more, and waits until each has ended whoever lived by them. Returns how
    /// many connections that were; `None` if a shard has ended instead.
    pub(crate) async fn revoke(&self, revocation: Revocation) -> Option<u64> {
        let revocation = Arc::new(revocation);
        let mut answers = Vec::with_capacity(self.shards.len());
        for (commands, waker) in self.shards.iter() {
            let (reply, answer) = flume::bounded(1);
            commands.send_async(ShardCommand::Revoke(Arc::clone(&revocation), reply)).await.ok()?;
            waker.wake();
            answers.push(answer);
        }
        let mut connections = 0;
        for answer in answers {
            let Answer::Revoked { closed } = answer.recv_async().await.ok()? else { return None };
            connections += closed;
        }
        Some(connections)
    }

    /// Tells all shards that revocations count no more, and waits until each knows. False if a shard has ended instead.
    pub(crate) async fn lift(&self, lifted: Lifted) -> bool {
        let lifted = Arc::new(lifted);
        let mut answers = Vec::with_capacity(self.shards.len());
        for (commands, waker) in self.shards.iter() {
            let (done, answer) = flume::bounded(1);
            if commands.send_async(ShardCommand::Lift(Arc::clone(&lifted), done)).await.is_err() {
                return false;
            }
            waker.wake();
            answers.push(answer);
        }
        for answer in answers {
            if answer.recv_async().await.is_err() {
                return false;
            }
        }
        true
    }
}
