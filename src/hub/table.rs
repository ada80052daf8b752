//! The channels of one shard. A name is looked up once for each ask; after that the channel is found by its key. Part of
//! `hub`; knows nothing of what a channel does.

use std::hash::BuildHasher as _;

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use slab::Slab;

use super::channel::Channel;
use super::key::ChannelKey;

/// The channels, by key and by name. Channels are boxed, so that a growing table moves pointers, and the slack of the
/// tables is small.
#[derive(Debug, Default)]
pub(crate) struct ChannelTable {
    channels: Slab<Box<Channel>>,
    by_name: HashTable<u32>,
    /// Clients choose names, so the hash is keyed.
    hasher: foldhash::quality::RandomState,
    /// The generation of the newest channel.
    generation: u32,
}

impl ChannelTable {
    /// The key of the channel with this name.
    pub(crate) fn find(&self, name: &str) -> Option<ChannelKey> {
        let is_it = |slot: &u32| **self.channels[*slot as usize].name() == *name;
        let slot = *self.by_name.find(self.hasher.hash_one(name), is_it)?;
        Some(self.channels[slot as usize].key())
    }

    /// The channel with this key; `None` if it is gone.
    pub(crate) fn get(&self, key: ChannelKey) -> Option<&Channel> {
        self.channels.get(key.index()).map(|channel| &**channel).filter(|channel| channel.key() == key)
    }

    /// The same, to change it.
    pub(crate) fn get_mut(&mut self, key: ChannelKey) -> Option<&mut Channel> {
        self.channels.get_mut(key.index()).map(|channel| &mut **channel).filter(|channel| channel.key() == key)
    }

    /// Adds a channel, which `make` makes with its key. There must be none with its name.
    pub(crate) fn insert(&mut self, name: &str, make: impl FnOnce(ChannelKey) -> Channel) -> ChannelKey {
        self.generation = self.generation.wrapping_add(1);
        let vacant = self.channels.vacant_entry();
        let slot = u32::try_from(vacant.key()).expect("fewer channels than 2^32");
        let key = ChannelKey::new(slot, self.generation);
        vacant.insert(Box::new(make(key)));
        let Self { channels, by_name, hasher, .. } = self;
        let is_it = |other: &u32| **channels[*other as usize].name() == *name;
        let hash_of = |other: &u32| hasher.hash_one(&**channels[*other as usize].name());
        match by_name.entry(hasher.hash_one(name), is_it, hash_of) {
            Entry::Vacant(place) => place.insert(slot),
            Entry::Occupied(_) => unreachable!("the channel is there already"),
        };
        key
    }

    /// Takes a channel out.
    pub(crate) fn remove(&mut self, key: ChannelKey) -> Option<Box<Channel>> {
        self.get(key)?;
        let channel = self.channels.remove(key.index());
        let hash = self.hasher.hash_one(&**channel.name());
        if let Ok(place) = self.by_name.find_entry(hash, |slot| *slot as usize == key.index()) {
            place.remove();
        }
        Some(channel)
    }

    /// How many channels there are.
    pub(crate) fn len(&self) -> usize {
        self.channels.len()
    }

    /// All channels, in no order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Channel> {
        self.channels.iter().map(|(_, channel)| &**channel)
    }
}
