//! The subscriptions of one connection, sorted by channel: it is found in a few steps whether the connection has one
//! subscription or ten thousand. One subscription needs no memory of its own. Pure.

use smallvec::SmallVec;

/// A connection's subscription, as the connection sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Subscription {
    /// Index of the channel in [`Fanout`](super::Fanout).
    pub(crate) channel: u32,
    /// Index of the connection among the channel's subscribers.
    pub(crate) index: u32,
    /// The number of the ask that made it.
    pub(crate) request: u32,
}

/// Room for more subscriptions than this is given back when three quarters of it are empty.
const KEPT_ROOM: usize = 8;

/// The subscriptions of one connection, at most one for each channel.
#[derive(Debug, Default)]
pub struct Subscriptions(SmallVec<[Subscription; 1]>);

impl Subscriptions {
    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// All of them, in the order of their channels' indexes.
    pub(crate) fn iter(&self) -> std::slice::Iter<'_, Subscription> {
        self.0.iter()
    }

    /// The subscription to a channel.
    pub(crate) fn find(&self, channel: u32) -> Option<Subscription> {
        self.place(channel).ok().map(|at| self.0[at])
    }

    /// Adds a subscription to a channel that there is none to.
    pub fn insert(&mut self, subscription: Subscription) {
        match self.place(subscription.channel) {
            Ok(_) => unreachable!("a connection subscribes to a channel once"),
            Err(at) => self.0.insert(at, subscription),
        }
    }

    /// Takes the subscription to a channel out.
    pub fn remove(&mut self, channel: u32) -> Option<Subscription> {
        let subscription = self.0.remove(self.place(channel).ok()?);
        if self.0.spilled() && self.0.capacity() > KEPT_ROOM && self.0.len() * 4 < self.0.capacity() {
            self.0.shrink_to_fit();
        }
        Some(subscription)
    }

    /// Takes any subscription out.
    pub(crate) fn pop(&mut self) -> Option<Subscription> {
        self.0.pop()
    }

    /// The connection has this index among the channel's subscribers from now on.
    pub fn set_index(&mut self, channel: u32, index: u32) {
        let at = self.place(channel).expect("a subscriber has a subscription");
        self.0[at].index = index;
    }

    fn place(&self, channel: u32) -> Result<usize, usize> {
        self.0.binary_search_by_key(&channel, |subscription| subscription.channel)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Insert(u32),
        Remove(u32),
        Move(u32, u32),
        Pop,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..40u32).prop_map(Step::Insert),
            3 => (0..40u32).prop_map(Step::Remove),
            2 => (0..40u32, any::<u32>()).prop_map(|(channel, index)| Step::Move(channel, index)),
            1 => Just(Step::Pop),
        ]
    }

    proptest! {
        /// Held against a map from channels.
        #[test]
        fn each_subscription_is_found_under_its_channel(steps in prop::collection::vec(step(), 0..200)) {
            let (mut subscriptions, mut model) = (Subscriptions::default(), BTreeMap::new());
            for (request, step) in (0..).zip(steps) {
                match step {
                    Step::Insert(channel) if !model.contains_key(&channel) => {
                        let subscription = Subscription { channel, index: request, request };
                        subscriptions.insert(subscription);
                        model.insert(channel, subscription);
                    }
                    Step::Move(channel, index) if model.contains_key(&channel) => {
                        subscriptions.set_index(channel, index);
                        model.entry(channel).and_modify(|subscription| subscription.index = index);
                    }
                    Step::Insert(_) | Step::Move(..) => {}
                    Step::Remove(channel) => prop_assert_eq!(subscriptions.remove(channel), model.remove(&channel)),
                    Step::Pop => {
                        let popped = subscriptions.pop();
                        prop_assert_eq!(popped.and_then(|popped| model.remove(&popped.channel)), popped);
                    }
                }
                prop_assert_eq!(subscriptions.len(), model.len());
                prop_assert!(subscriptions.iter().eq(model.values()));
                for channel in 0..40 {
                    prop_assert_eq!(subscriptions.find(channel), model.get(&channel).copied());
                }
            }
        }
    }

    #[test]
    fn room_is_given_back() {
        let mut subscriptions = Subscriptions::default();
        assert_eq!(size_of::<Subscriptions>(), 24);
        (0..1_000).for_each(|channel| subscriptions.insert(Subscription { channel, index: 0, request: 0 }));
        (1..1_000).for_each(|channel| assert!(subscriptions.remove(channel).is_some()));
        assert!(subscriptions.0.capacity() <= KEPT_ROOM, "{}", subscriptions.0.capacity());
    }
}
