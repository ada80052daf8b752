//! The idempotency keys of the channels that this shard owns: what was accepted lately under which key. A publish that
//! comes again is answered from here and not published again. A key belongs to one user in one channel. It is kept for
//! 5 minutes, or until its user has used 256 newer keys here. The backend has no such bound. All keys together are
//! bounded too: when the table is full, the oldest key goes, and a retry under it would be published once more
//! (`cut_short` counts these keys; one user cannot cause this, because a user has at most 256 keys). The table knows no
//! clock and publishes nothing: the memory engine checks a key, accepts the publication, and records the key.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use hashbrown::{HashMap, HashTable};

use crate::model::position::Placed;

/// How long a key is kept.
pub const KEPT_MS: u64 = 5 * 60_000;
/// How many keys of one user are kept.
pub const KEYS_PER_USER: u32 = 256;

/// The user under whom the backend's keys are recorded. No user's key is empty.
pub(crate) const BACKEND: &str = "";

/// What the table knows of an idempotency key.
#[derive(Debug)]
pub enum KeySeen {
    /// The key is new: publish.
    New,
    /// The same content was accepted under this key, and has this place.
    Duplicate(Placed),
    /// Other content was accepted under this key.
    OtherContent,
}

/// The table of one shard. An entry takes about 250 bytes beside the names that it shares: 100,000 entries take 25 MB.
/// The table gives its memory back when it is empty.
#[derive(Debug)]
pub struct Dedup {
    max_entries: u32,
    /// Every key is hashed with a secret (SipHash-1-3): users and clients choose all three parts.
    hashing: RandomState,
    /// Two more secrets, for the hash of the content.
    content: [RandomState; 2],
    index: HashTable<u32>,
    slots: Vec<DedupSlot>,
    free: Vec<u32>,
    /// Every entry is on three lists, in the order of recording. An entry that goes leaves all three at once.
    all: DedupList,
    users: HashMap<Arc<str>, DedupList, RandomState>,
    channels: HashMap<Arc<str>, DedupList, RandomState>,
    cut_short: u64,
}

#[derive(Debug)]
struct DedupEntry {
    user: Arc<str>,
    key: Box<str>,
    content: u128,
    placed: Placed,
    at_ms: u64,
    hash: u64,
}

#[derive(Debug)]
struct DedupSlot {
    entry: Option<DedupEntry>,
    links: [DedupLink; 3],
}

/// Which of the three lists.
const ALL: usize = 0;
const USER: usize = 1;
const CHANNEL: usize = 2;
/// Stands for no slot.
const NONE: u32 = u32::MAX;

#[derive(Clone, Copy, Debug)]
struct DedupLink {
    older: u32,
    newer: u32,
}

#[derive(Clone, Copy, Debug)]
struct DedupList {
    oldest: u32,
    newest: u32,
    len: u32,
}

impl Dedup {
    /// An empty table that will hold at most `max_entries` keys; 0 remembers nothing.
    pub fn new(max_entries: u32) -> Self {
        Self {
            max_entries: max_entries.min(NONE - 1),
            hashing: RandomState::new(),
            content: [RandomState::new(), RandomState::new()],
            index: HashTable::new(),
            slots: Vec::new(),
            free: Vec::new(),
            all: DedupList::EMPTY,
            users: HashMap::default(),
            channels: HashMap::default(),
            cut_short: 0,
        }
    }

    /// What stands for the content of a publish: everything that the same request would repeat (its type, its
    /// text or data as sent, its `key`), part by part. Two secret SipHashes, 128 bits: without the secrets,
    /// which never leave the process, nobody can look for two contents of one hash, and by chance none will be
    /// found. All that one could win is that their own second publish is taken for their first.
    pub(crate) fn content_hash(&self, parts: &[&[u8]]) -> u128 {
        let [high, low] = self.content.each_ref().map(|secret| secret.hash_one(parts));
        u128::from(high) << 64 | u128::from(low)
    }

    /// What became of this key.
    pub fn check(&mut self, user: &str, channel: &str, key: &str, content: u128, mono_ms: u64) -> KeySeen {
        self.expire(mono_ms);
        let hash = self.hashing.hash_one((user, channel, key));
        match self.find(hash, user, channel, key) {
            None => KeySeen::New,
            Some(entry) if entry.content == content => KeySeen::Duplicate(entry.placed.clone()),
            Some(_) => KeySeen::OtherContent,
        }
    }

    /// Remembers an accepted publish; its channel is that of `placed`. The key must have been found new: of two
    /// under one key, the second one must wait until the first one's outcome is known.
    pub fn record(&mut self, user: &Arc<str>, key: &str, content: u128, placed: Placed, mono_ms: u64) {
        self.expire(mono_ms);
        if self.max_entries == 0 {
            return;
        }
        let hash = self.hashing.hash_one((&**user, &*placed.channel, key));
        assert!(self.find(hash, user, &placed.channel, key).is_none(), "one key was accepted twice");
        assert!(self.newest_ms().is_none_or(|newest_ms| newest_ms <= mono_ms), "the monotonic clock went back");
        // One backend publishes what thousands of users would: only the table's own bound is its.
        let most = if **user == *BACKEND { u32::MAX } else { KEYS_PER_USER };
        if let Some(list) = self.users.get(&**user).filter(|list| list.len >= most) {
            self.remove(list.oldest);
        }
        if self.all.len >= self.max_entries {
            self.cut_short += 1;
            self.remove(self.all.oldest);
        }
        // One name per user and channel, however many tokens and requests brought their own copies.
        let user = self.users.get_key_value(&**user).map_or(user, |(known, _)| known).clone();
        let entry = DedupEntry { user, key: key.into(), content, placed, at_ms: mono_ms, hash };
        self.insert(entry);
    }

    /// Drops the keys that are too old. Amortised O(1) per key; `check` and `record` do it too, so this is only
    /// for the memory of a shard that has become quiet.
    pub fn expire(&mut self, mono_ms: u64) {
        while self.oldest_ms().is_some_and(|at_ms| at_ms.saturating_add(KEPT_MS) <= mono_ms) {
            self.remove(self.all.oldest);
        }
    }

    /// Drops the keys of a channel: its epoch has gone, and with it the offsets that they would be answered by.
    pub fn forget_channel(&mut self, channel: &str) {
        while let Some(list) = self.channels.get(channel) {
            self.remove(list.oldest);
        }
    }

    /// How many keys are kept.
    pub fn len(&self) -> usize {
        self.all.len as usize
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.all.len == 0
    }

    /// How many keys went before their time because the table was full.
    pub fn cut_short(&self) -> u64 {
        self.cut_short
    }

    fn find(&self, hash: u64, user: &str, channel: &str, key: &str) -> Option<&DedupEntry> {
        let slot = self.index.find(hash, |slot| {
            let entry = entry(&self.slots, *slot);
            &*entry.key == key && &*entry.user == user && &*entry.placed.channel == channel
        });
        slot.map(|slot| entry(&self.slots, *slot))
    }

    fn oldest_ms(&self) -> Option<u64> {
        (self.all.oldest != NONE).then(|| entry(&self.slots, self.all.oldest).at_ms)
    }

    fn newest_ms(&self) -> Option<u64> {
        (self.all.newest != NONE).then(|| entry(&self.slots, self.all.newest).at_ms)
    }

    fn insert(&mut self, new: DedupEntry) {
        let (hash, user, channel) = (new.hash, Arc::clone(&new.user), Arc::clone(&new.placed.channel));
        let full = DedupSlot { entry: Some(new), links: [DedupLink { older: NONE, newer: NONE }; 3] };
        let slot = match self.free.pop() {
            Some(slot) => {
                self.slots[slot as usize] = full;
                slot
            }
            None => {
                self.slots.push(full);
                u32::try_from(self.slots.len() - 1).expect("bounded by max_entries")
            }
        };
        self.all.append(ALL, slot, &mut self.slots);
        self.users.entry(user).or_insert(DedupList::EMPTY).append(USER, slot, &mut self.slots);
        self.channels.entry(channel).or_insert(DedupList::EMPTY).append(CHANNEL, slot, &mut self.slots);
        self.index.insert_unique(hash, slot, |slot| entry(&self.slots, *slot).hash);
    }

    fn remove(&mut self, slot: u32) {
        self.all.unlink(ALL, slot, &mut self.slots);
        unlink_from(&mut self.users, USER, slot, &mut self.slots, |entry| &entry.user);
        unlink_from(&mut self.channels, CHANNEL, slot, &mut self.slots, |entry| &entry.placed.channel);
        let entry = self.slots[slot as usize].entry.take().expect("a listed slot is full");
        let indexed = self.index.find_entry(entry.hash, |other| *other == slot);
        indexed.expect("every entry is indexed").remove();
        self.free.push(slot);
        if self.is_empty() {
            self.index = HashTable::new();
            (self.slots, self.free) = (Vec::new(), Vec::new());
            self.users.shrink_to_fit();
            self.channels.shrink_to_fit();
        }
    }
}

fn entry(slots: &[DedupSlot], slot: u32) -> &DedupEntry {
    slots[slot as usize].entry.as_ref().expect("a listed slot is full")
}

/// Takes a slot off the list of its user or channel, and the list away if it was the last.
fn unlink_from(
    lists: &mut HashMap<Arc<str>, DedupList, RandomState>,
    which: usize,
    slot: u32,
    slots: &mut [DedupSlot],
    name: impl Fn(&DedupEntry) -> &Arc<str>,
) {
    let name = Arc::clone(name(entry(slots, slot)));
    let list = lists.get_mut(&name).expect("an entry's user and channel have lists");
    list.unlink(which, slot, slots);
    if list.len == 0 {
        lists.remove(&name);
    }
}

impl DedupList {
    const EMPTY: Self = Self { oldest: NONE, newest: NONE, len: 0 };

    fn append(&mut self, which: usize, slot: u32, slots: &mut [DedupSlot]) {
        slots[slot as usize].links[which] = DedupLink { older: self.newest, newer: NONE };
        match self.newest {
            NONE => self.oldest = slot,
            last => slots[last as usize].links[which].newer = slot,
        }
        self.newest = slot;
        self.len += 1;
    }

    fn unlink(&mut self, which: usize, slot: u32, slots: &mut [DedupSlot]) {
        let DedupLink { older, newer } = slots[slot as usize].links[which];
        match older {
            NONE => self.oldest = newer,
            older => slots[older as usize].links[which].newer = newer,
        }
        match newer {
            NONE => self.newest = older,
            newer => slots[newer as usize].links[which].older = older,
        }
        self.len -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn placed(channel: &str, offset: u64) -> Placed {
        Placed { channel: channel.into(), epoch: "e".into(), offset }
    }

    fn offset(seen: KeySeen) -> Option<u64> {
        match seen {
            KeySeen::Duplicate(placed) => Some(placed.offset),
            KeySeen::New => None,
            KeySeen::OtherContent => panic!("other content"),
        }
    }

    #[test]
    fn the_same_again_is_a_duplicate_and_other_content_is_not() {
        let mut dedup = Dedup::new(100);
        let ann: Arc<str> = "ann".into();
        assert!(matches!(dedup.check(&ann, "news", "k", 1, 0), KeySeen::New));
        assert!(matches!(dedup.check(&ann, "news", "k", 1, 0), KeySeen::New), "checking records nothing");
        dedup.record(&ann, "k", 1, placed("news", 7), 0);
        assert_eq!(offset(dedup.check(&ann, "news", "k", 1, 5)), Some(7));
        assert!(matches!(dedup.check(&ann, "news", "k", 2, 5), KeySeen::OtherContent));
        for (user, channel, key) in
            [("bob", "news", "k"), ("ann", "new", "k"), ("ann", "news", "sk"), ("an", "nnews", "k")]
        {
            assert!(matches!(dedup.check(user, channel, key, 1, 5), KeySeen::New));
        }
    }

    #[test]
    fn a_key_lives_five_minutes() {
        let mut dedup = Dedup::new(100);
        dedup.record(&"ann".into(), "k", 1, placed("news", 7), 1000);
        assert_eq!(offset(dedup.check("ann", "news", "k", 1, 1000 + KEPT_MS - 1)), Some(7));
        assert_eq!(offset(dedup.check("ann", "news", "k", 1, 1000 + KEPT_MS)), None);
        assert!(dedup.is_empty() && dedup.users.is_empty() && dedup.channels.is_empty() && dedup.index.is_empty());
    }

    #[test]
    fn a_user_has_256_keys_over_all_channels_and_takes_none_from_others() {
        let mut dedup = Dedup::new(10_000);
        let ann: Arc<str> = "ann".into();
        dedup.record(&"bob".into(), "k", 0, placed("news", 1), 0);
        for n in 0..=u64::from(KEYS_PER_USER) {
            dedup.record(&ann, &format!("k{n}"), 0, placed(if n % 2 == 0 { "a" } else { "b" }, n), n);
        }
        assert_eq!(dedup.len(), 257);
        assert_eq!(offset(dedup.check("ann", "a", "k0", 0, 300)), None);
        assert_eq!(offset(dedup.check("ann", "b", "k1", 0, 300)), Some(1));
        assert_eq!(offset(dedup.check("bob", "news", "k", 0, 300)), Some(1));
        assert_eq!(dedup.cut_short(), 0);
    }

    #[test]
    fn the_backend_has_as_many_as_the_table() {
        let mut dedup = Dedup::new(1000);
        for n in 0..=1000 {
            dedup.record(&BACKEND.into(), &format!("k{n}"), 0, placed("news", n + 1), n);
        }
        assert_eq!(offset(dedup.check(BACKEND, "news", "k1", 0, 1000)), Some(2));
        assert_eq!((dedup.len(), dedup.cut_short()), (1000, 1));
    }

    #[test]
    fn when_the_table_is_full_the_oldest_goes() {
        let mut dedup = Dedup::new(3);
        for n in 0..5 {
            dedup.record(&format!("u{n}").into(), "k", 0, placed("news", n), n);
        }
        let left: Vec<_> = (0..5).map(|n| offset(dedup.check(&format!("u{n}"), "news", "k", 0, 5))).collect();
        assert_eq!(left, [None, None, Some(2), Some(3), Some(4)]);
        assert_eq!((dedup.len(), dedup.cut_short(), dedup.slots.len()), (3, 2, 3));
        Dedup::new(0).record(&"ann".into(), "k", 0, placed("news", 1), 0);
    }

    #[test]
    fn a_channel_is_forgotten_as_a_whole_and_alone() {
        let mut dedup = Dedup::new(100);
        let ann: Arc<str> = "ann".into();
        for n in 0..10 {
            dedup.record(&ann, &format!("k{n}"), 0, placed(if n % 2 == 0 { "a" } else { "b" }, n), n);
        }
        dedup.forget_channel("a");
        dedup.forget_channel("a");
        assert_eq!(dedup.len(), 5);
        assert_eq!(offset(dedup.check("ann", "a", "k2", 0, 10)), None);
        assert_eq!(offset(dedup.check("ann", "b", "k3", 0, 10)), Some(3));
    }

    #[test]
    fn content_is_told_apart_part_by_part() {
        let dedup = Dedup::new(1);
        let hash = |parts: &[&[u8]]| dedup.content_hash(parts);
        assert_eq!(hash(&[b"message", b"hi"]), hash(&[b"message", b"hi"]));
        assert_ne!(hash(&[b"message", b"hi"]), hash(&[b"messageh", b"i"]));
        assert_ne!(hash(&[b"a", b""]), hash(&[b"a"]));
        assert_ne!(hash(&[b"a", b""]), hash(&[b"", b"a"]));
        assert_ne!(hash(&[b"a"]) as u64, (hash(&[b"a"]) >> 64) as u64, "the two halves have secrets of their own");
        assert_ne!(hash(&[b"a"]), Dedup::new(1).content_hash(&[b"a"]));
    }

    #[test]
    fn an_entry_takes_what_is_said() {
        assert!(size_of::<DedupSlot>() <= 176, "{}", size_of::<DedupSlot>());
    }
}
