//! Who listens on `/fanout` of a peer on tokio: one bounded queue per connection, filled in one order for all. When a
//! queue is full, the publisher waits, and the others behind it: nothing is dropped and nothing grows. It knows no
//! library and no socket.

use std::sync::Arc;

use tokio::sync::Mutex;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::mpsc::{Receiver, Sender, channel};

/// Items that may wait for one connection before publishers wait for it.
pub const QUEUE_ITEMS: usize = 1024;

/// A fan-out of `T` to all that have joined.
pub struct Room<T>(Arc<Mutex<Vec<Sender<T>>>>);

impl<T> Clone for Room<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Default for Room<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<T: Clone> Room<T> {
    /// Enters a connection: the sender is its own way into its queue. It leaves by dropping the receiver.
    pub async fn join(&self) -> (Sender<T>, Receiver<T>) {
        let (sender, receiver) = channel(QUEUE_ITEMS);
        self.0.lock().await.push(sender.clone());
        (sender, receiver)
    }

    /// Queues `item` for everyone; waits while a queue is full.
    pub async fn publish(&self, item: T) {
        // Held to the end: a second publisher that passed by while this one waits would make a second order.
        let mut members = self.0.lock().await;
        let mut next = 0;
        while let Some(member) = members.get(next) {
            let gone = match member.try_send(item.clone()) {
                Ok(()) => false,
                Err(TrySendError::Full(item)) => member.send(item).await.is_err(),
                Err(TrySendError::Closed(_)) => true,
            };
            if gone {
                members.swap_remove(next);
            } else {
                next += 1;
            }
        }
    }
}
