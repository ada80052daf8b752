//! Requests of one client that wait for the answers of owners, in the order in which they were made. They are searched by
//! channel for each new request, and by number for each answer. Part of `session`.

use std::collections::VecDeque;
use std::hash::BuildHasher as _;
use std::sync::Arc;

use foldhash::fast::FixedState;

use super::Wanted;
use super::rights::Grant;

/// A request that is not answered yet.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) request: u32,
    /// The bytes that it carries.
    pub(super) bytes: usize,
    pub(super) deadline_ms: u64,
    /// The client's `id` for the request, if it gave one.
    pub(super) id: Option<Box<str>>,
    pub(super) channel: Arc<str>,
    pub(super) kind: RequestKind,
}

/// What was asked for.
#[derive(Debug)]
pub(super) enum RequestKind {
    /// A sign-in, with the channels to subscribe to after it.
    SignIn(Vec<Wanted>),
    /// A subscribe, with the right that the channel's own token gives, if that was needed.
    Subscribe(Option<Box<Grant>>),
    /// A subscribe that the client has cancelled by an unsubscribe. The owner's attachment has to be undone.
    Cancelled,
    Publish,
    /// A page of history, presence or users.
    Page,
}

impl Pending {
    /// Whether it is a subscribe that the client has not cancelled.
    pub(super) fn subscribes(&self) -> bool {
        matches!(self.kind, RequestKind::Subscribe(_))
    }

    /// Whether it is a subscribe that the client has cancelled.
    pub(super) fn is_cancelled(&self) -> bool {
        matches!(self.kind, RequestKind::Cancelled)
    }
}

/// The requests, oldest first. They are answered in nearly this order.
#[derive(Debug, Default)]
pub(super) struct PendingRequests {
    pending: VecDeque<Pending>,
    /// A hash of the channel's name for each request. A search for a channel reads four bytes for each request, and seldom
    /// a name. Clients that choose names of one hash slow down their own searches alone.
    tags: VecDeque<u32>,
    /// How many of them subscribe.
    subscribing: usize,
    /// The bytes that they carry.
    bytes: usize,
}

impl PendingRequests {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.pending.len()
    }

    /// How many of them subscribe.
    pub(super) fn subscribing(&self) -> usize {
        self.subscribing
    }

    /// The bytes that they carry.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// All of them, oldest first.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Pending> + Clone {
        self.pending.iter()
    }

    /// Those on a channel, oldest first.
    pub(super) fn on<'p>(&'p self, channel: &'p str) -> impl Iterator<Item = &'p Pending> {
        let tag = tag_of(channel);
        let found = self.tags.iter().enumerate().filter(move |(_, other)| **other == tag);
        found.map(|(at, _)| &self.pending[at]).filter(move |pending| *pending.channel == *channel)
    }

    /// Adds a request.
    pub(super) fn push(&mut self, pending: Pending) {
        self.subscribing += usize::from(pending.subscribes());
        self.bytes += pending.bytes;
        self.tags.push_back(tag_of(&pending.channel));
        self.pending.push_back(pending);
    }

    /// Takes out the request at this place.
    pub(super) fn remove(&mut self, at: usize) -> Pending {
        let removed = self.pending.remove(at).expect("one of the pending");
        self.tags.remove(at);
        self.subscribing -= usize::from(removed.subscribes());
        self.bytes -= removed.bytes;
        removed
    }

    /// Notes that the client has cancelled a subscribe. Returns the client's id for it.
    pub(super) fn cancel(&mut self, request: u32) -> Option<Box<str>> {
        let pending = self.pending.iter_mut().find(|pending| pending.request == request)?;
        self.subscribing -= usize::from(pending.subscribes());
        pending.kind = RequestKind::Cancelled;
        pending.id.take()
    }

    /// Sets the deadline of a request.
    pub(super) fn set_deadline(&mut self, request: u32, deadline_ms: u64) {
        if let Some(pending) = self.pending.iter_mut().rev().find(|pending| pending.request == request) {
            pending.deadline_ms = deadline_ms;
        }
    }
}

fn tag_of(channel: &str) -> u32 {
    (FixedState::with_seed(0).hash_one(channel) >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pending(request: u32, channel: &str, kind: RequestKind) -> Pending {
        Pending { request, bytes: 1, deadline_ms: 0, id: Some("id".into()), channel: channel.into(), kind }
    }

    #[test]
    fn requests_are_found_by_channel_in_their_order() {
        let mut requests = PendingRequests::default();
        for (request, channel) in [(1, "a"), (2, "b"), (3, "a"), (4, "c")] {
            requests.push(pending(request, channel, RequestKind::Subscribe(None)));
        }
        let on = |requests: &PendingRequests, channel: &str| {
            requests.on(channel).map(|pending| pending.request).collect::<Vec<_>>()
        };
        assert_eq!((on(&requests, "a"), on(&requests, "b"), on(&requests, "d")), (vec![1, 3], vec![2], vec![]));
        assert_eq!((requests.cancel(3).as_deref(), requests.subscribing(), requests.len()), (Some("id"), 3, 4));
        assert_eq!(requests.remove(0).request, 1);
        assert_eq!((on(&requests, "a"), requests.subscribing(), requests.bytes()), (vec![3], 2, 3));
        assert_eq!(requests.remove(1).request, 3);
        assert_eq!((on(&requests, "c"), requests.subscribing()), (vec![4], 2));
    }
}
