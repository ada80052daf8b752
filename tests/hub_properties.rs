//! The owner's state machines against naive oracles: history and its budget against a list, the idempotency
//! table against a list searched from end to end, presence against clients that replay what is announced.
#![expect(clippy::unwrap_used, reason = "a broken expectation has to stop the test, with its message")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;
use uringcast::hub::engine::budget::Budget;
use uringcast::hub::engine::dedup::{Dedup, KEPT_MS, KEYS_PER_USER, KeySeen};
use uringcast::hub::engine::history::{History, HistoryBounds, HistoryRecovery};
use uringcast::hub::presence::{Announcer, AnnouncerSettings, Members};
use uringcast::ids::{ConnId, ShardId};
use uringcast::model::namespace::PresenceMode as Mode;
use uringcast::model::parcel::PageSize;
use uringcast::model::position::Placed;
use uringcast::model::presence::Announcement;
use uringcast::model::publication::{Content, Publication};
use uringcast::model::user::{User, UserId};

fn offsets(publications: &[Arc<Publication>]) -> Vec<u64> {
    publications.iter().map(|publication| publication.offset()).collect()
}

#[derive(Clone, Debug)]
enum Step {
    Push { channel: usize, bytes: usize },
    Wait { ms: u64 },
    Expire { channel: usize },
    Clear { channel: usize, skip: u64 },
    Since { channel: usize, back: i64, max_bytes: usize },
    Page { channel: usize, back: Option<i64>, limit: usize, max_bytes: usize, reverse: bool },
}

const CHANNELS: usize = 4;

fn step() -> impl Strategy<Value = Step> {
    let channel = || 0..CHANNELS;
    prop_oneof![
        8 => (channel(), 0..60usize).prop_map(|(channel, bytes)| Step::Push { channel, bytes }),
        3 => (0..40u64).prop_map(|ms| Step::Wait { ms }),
        1 => channel().prop_map(|channel| Step::Expire { channel }),
        1 => (channel(), 0..3u64).prop_map(|(channel, skip)| Step::Clear { channel, skip }),
        4 => (channel(), -2..20i64, 0..400usize)
            .prop_map(|(channel, back, max_bytes)| Step::Since { channel, back, max_bytes }),
        4 => (channel(), prop::option::of(-2..20i64), 0..12usize, 0..300usize, any::<bool>())
            .prop_map(|(channel, back, limit, max_bytes, reverse)| Step::Page { channel, back, limit, max_bytes, reverse }),
    ]
}

/// A history as a plain list: (offset, pushed at, frame's bytes, weight).
#[derive(Default)]
struct NaiveHistory {
    all: Vec<(u64, u64, usize, usize)>,
    top: u64,
}

impl NaiveHistory {
    fn expire(&mut self, now: u64, bounds: HistoryBounds) {
        self.all.retain(|(_, at, ..)| now - at < bounds.age_ms);
        self.all.drain(..self.all.len().saturating_sub(bounds.count));
    }

    fn since(&self, offset: u64, max_bytes: usize) -> Option<Vec<u64>> {
        let missed: Vec<_> = self.all.iter().filter(|(o, ..)| *o > offset).collect();
        let wanted = self.top.checked_sub(offset)?;
        let bytes: usize = missed.iter().map(|(_, _, bytes, _)| bytes).sum();
        (missed.len() as u64 == wanted && bytes <= max_bytes).then(|| missed.iter().map(|(o, ..)| *o).collect())
    }

    fn page(&self, since: Option<u64>, limit: usize, max_bytes: usize, reverse: bool) -> Vec<u64> {
        let since = since.unwrap_or(0);
        let mut wanted: Vec<_> =
            self.all.iter().filter(|(o, ..)| since == 0 || if reverse { *o < since } else { *o > since }).collect();
        if reverse {
            wanted.reverse();
        }
        let (mut page, mut bytes) = (Vec::new(), 0);
        for (offset, _, size, _) in wanted.into_iter().take(limit) {
            bytes += size;
            if bytes > max_bytes && !page.is_empty() {
                break;
            }
            page.push(*offset);
        }
        page
    }

    fn bytes(&self) -> usize {
        self.all.iter().map(|(.., weight)| weight).sum()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 5000, ..ProptestConfig::default() })]

    #[test]
    fn histories_under_a_budget_are_lists(
        steps in vec(step(), 0..150),
        count in 0..12usize,
        age_ms in 0..200u64,
        max_bytes in 0..6000usize,
    ) {
        let bounds = HistoryBounds { count, age_ms };
        let (mut budget, mut now) = (Budget::new(max_bytes), 0);
        let mut real: Vec<History> = (0..CHANNELS).map(|_| History::default()).collect();
        let mut naive: Vec<NaiveHistory> = (0..CHANNELS).map(|_| NaiveHistory::default()).collect();
        for step in steps {
            match step {
                Step::Wait { ms } => now += ms,
                Step::Push { channel, bytes } => {
                    let offset = naive[channel].top + 1;
                    let key = (bytes % 2 == 0).then(|| "k".into());
                    let publication = Arc::new(Publication {
                        placed: Placed { channel: "c".into(), epoch: "e".into(), offset },
                        timestamp: 0,
                        sender: None,
                        escape: false,
                        content: Content::Json(vec![0; bytes].into()),
                        key,
                        frame_bytes: bytes,
                    });
                    naive[channel].all.push((offset, now, bytes, publication.weight()));
                    naive[channel].top = offset;
                    let before = naive[channel].bytes();
                    naive[channel].expire(now, bounds);
                    let freed =
                        budget.change(&channel, &mut real[channel], |history| history.push(publication, now, bounds));
                    prop_assert_eq!(freed, before - naive[channel].bytes());
                    while let Some(victim) = budget.victim() {
                        budget.evict(&victim, &mut real[victim]);
                    }
                    while naive.iter().map(NaiveHistory::bytes).sum::<usize>() > max_bytes {
                        // The largest, by powers of two; of these, the one that has the oldest.
                        let size = |c: usize| std::cmp::Reverse(usize::BITS - naive[c].bytes().leading_zeros());
                        let place = |c: &usize| (size(*c), naive[*c].all[0].1, *c);
                        let victim = (0..CHANNELS).filter(|c| !naive[*c].all.is_empty()).min_by_key(place).unwrap();
                        naive[victim].all.remove(0);
                    }
                }
                Step::Expire { channel } => {
                    let before = naive[channel].bytes();
                    naive[channel].expire(now, bounds);
                    let freed = budget.change(&channel, &mut real[channel], |history| history.expire(now, bounds));
                    prop_assert_eq!(freed, before - naive[channel].bytes());
                }
                Step::Clear { channel, skip } => {
                    let top = naive[channel].top + skip;
                    naive[channel] = NaiveHistory { all: Vec::new(), top };
                    budget.change(&channel, &mut real[channel], History::clear);
                }
                Step::Since { channel, back, max_bytes } => {
                    let top = naive[channel].top;
                    let offset = top.saturating_add_signed(-back);
                    let recovered = match real[channel].since(offset, top, max_bytes) {
                        HistoryRecovery::Complete(all) => Some(offsets(&all)),
                        HistoryRecovery::Incomplete => None,
                    };
                    prop_assert_eq!(recovered, naive[channel].since(offset, max_bytes));
                }
                Step::Page { channel, back, limit, max_bytes, reverse } => {
                    let since = back.map(|back| naive[channel].top.saturating_add_signed(-back));
                    let page = offsets(&real[channel].page(since, naive[channel].top, limit, max_bytes, reverse));
                    prop_assert_eq!(page, naive[channel].page(since, limit, max_bytes, reverse));
                }
            }
            for (real, naive) in real.iter().zip(&naive) {
                prop_assert_eq!(real.bytes(), naive.bytes());
                prop_assert_eq!(real.len(), naive.all.len());
                prop_assert_eq!(real.oldest_ms(), naive.all.first().map(|(_, at, ..)| *at));
            }
            prop_assert_eq!(budget.bytes(), naive.iter().map(NaiveHistory::bytes).sum::<usize>());
            prop_assert!(budget.bytes() <= max_bytes);
            prop_assert_eq!(budget.channels(), naive.iter().filter(|naive| !naive.all.is_empty()).count());
        }
    }
}

#[derive(Clone, Debug)]
enum Use {
    Publish { user: u8, channel: u8, key: u16, content: u8, refused: bool },
    Burst { user: u8, channel: u8, keys: u16 },
    Wait { ms: u64 },
    Forget { channel: u8 },
}

fn use_of_keys() -> impl Strategy<Value = Use> {
    let publish = (0..4u8, 0..3u8, 0..6u16, 0..2u8, prop::bool::weighted(0.1));
    prop_oneof![
        12 => publish.prop_map(|(user, channel, key, content, refused)| {
            Use::Publish { user, channel, key, content, refused }
        }),
        1 => (0..4u8, 0..3u8, 0..300u16).prop_map(|(user, channel, keys)| Use::Burst { user, channel, keys }),
        2 => prop_oneof![0..1000u64, 0..KEPT_MS].prop_map(|ms| Use::Wait { ms }),
        1 => (0..3u8).prop_map(|channel| Use::Forget { channel }),
    ]
}

/// The table as a list in the order of recording.
#[derive(Default)]
struct NaiveDedup {
    all: Vec<NaiveKey>,
    cut_short: u64,
}

struct NaiveKey {
    user: String,
    channel: String,
    key: String,
    content: u128,
    offset: u64,
    at_ms: u64,
}

impl NaiveDedup {
    fn find(&self, user: &str, channel: &str, key: &str) -> Option<&NaiveKey> {
        self.all.iter().find(|k| k.user == user && k.channel == channel && k.key == key)
    }

    fn record(&mut self, new: NaiveKey, max_entries: usize) {
        let of_user: Vec<usize> = (0..self.all.len()).filter(|at| self.all[*at].user == new.user).collect();
        if of_user.len() >= KEYS_PER_USER as usize {
            self.all.remove(of_user[0]);
        }
        self.all.push(new);
        if self.all.len() > max_entries {
            self.all.remove(0);
            self.cut_short += u64::from(max_entries > 0);
        }
    }
}

/// Checks, and if it is new records, in both; they must agree.
fn publish(
    (dedup, naive, max_entries): (&mut Dedup, &mut NaiveDedup, u32),
    (user, channel, key, content): (&str, &str, &str, u128),
    offset: u64,
    now: u64,
    refused: bool,
) {
    let seen = dedup.check(user, channel, key, content, now);
    match (seen, naive.find(user, channel, key)) {
        (KeySeen::New, None) => {}
        (KeySeen::OtherContent, Some(first)) if first.content != content => return,
        (KeySeen::Duplicate(placed), Some(first)) if first.content == content => {
            assert_eq!((placed.offset, &*placed.channel), (first.offset, channel));
            return;
        }
        (seen, first) => panic!("{seen:?}, but first {:?}", first.map(|first| (first.content, first.offset))),
    }
    if !refused {
        let placed = Placed { channel: channel.into(), epoch: "e".into(), offset };
        dedup.record(&user.into(), key, content, placed, now);
        let [user, channel, key] = [user, channel, key].map(str::to_owned);
        naive.record(NaiveKey { user, channel, key, content, offset, at_ms: now }, max_entries as usize);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn the_idempotency_table_is_a_list(
        uses in vec(use_of_keys(), 0..120),
        max_entries in prop_oneof![0..20u32, 200..600u32],
    ) {
        let (mut dedup, mut naive, mut now) = (Dedup::new(max_entries), NaiveDedup::default(), 0);
        let mut offset = 0;
        for one in uses {
            match one {
                Use::Wait { ms } => {
                    now += ms;
                    dedup.expire(now);
                    naive.all.retain(|key| now < key.at_ms + KEPT_MS);
                }
                Use::Forget { channel } => {
                    dedup.forget_channel(&format!("c{channel}"));
                    naive.all.retain(|key| key.channel != format!("c{channel}"));
                }
                Use::Publish { user, channel, key, content, refused } => {
                    offset += 1;
                    let names = (&*format!("u{user}"), &*format!("c{channel}"), &*format!("k{key}"), content.into());
                    publish((&mut dedup, &mut naive, max_entries), names, offset, now, refused);
                }
                Use::Burst { user, channel, keys } => {
                    for key in 0..keys {
                        offset += 1;
                        let names = (&*format!("u{user}"), &*format!("c{channel}"), &*format!("k{key}"), 0);
                        publish((&mut dedup, &mut naive, max_entries), names, offset, now, false);
                    }
                }
            }
            prop_assert_eq!(dedup.len(), naive.all.len());
            prop_assert_eq!(dedup.cut_short(), naive.cut_short);
        }
        for key in &naive.all {
            prop_assert!(matches!(
                dedup.check(&key.user, &key.channel, &key.key, key.content, now),
                KeySeen::Duplicate(placed) if placed.offset == key.offset
            ));
        }
    }
}

#[derive(Clone, Debug)]
enum Act {
    Join {
        conn: u32,
    },
    Leave {
        conn: u32,
    },
    Wait {
        ms: u64,
    },
    /// A client comes and asks for the members.
    Look,
    /// What is announced next at all does not reach anybody.
    Lose,
    /// Something unknown was lost.
    Doubt,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        12 => (0..40u32).prop_map(|conn| Act::Join { conn }),
        12 => (0..40u32).prop_map(|conn| Act::Leave { conn }),
        6 => (0..60u64).prop_map(|ms| Act::Wait { ms }),
        2 => Just(Act::Look),
        1 => Just(Act::Lose),
        1 => Just(Act::Doubt),
    ]
}

/// What a client holds that applies announcements; `None` once it was told, or should have been, to ask again.
type Copy = Option<BTreeSet<String>>;

struct World {
    settings: AnnouncerSettings,
    members: Members,
    announcer: Announcer,
    users: Vec<Arc<User>>,
    /// The oracle: connections per user.
    truth: BTreeMap<String, BTreeSet<u32>>,
    copies: Vec<Copy>,
    now: u64,
    lose_next: bool,
    /// Something was lost and no reset has been heard yet.
    in_doubt: bool,
    counted: u64,
    last_digest_ms: Option<u64>,
    looked_in_window: bool,
}

impl World {
    fn new(settings: AnnouncerSettings, users: usize) -> Self {
        Self {
            settings,
            members: Members::default(),
            announcer: Announcer::new(settings),
            users: (0..users).map(|n| user(&format!("u{n:02}"))).collect(),
            truth: BTreeMap::new(),
            copies: vec![Some(BTreeSet::new())],
            now: 0,
            lose_next: false,
            in_doubt: false,
            counted: 0,
            last_digest_ms: None,
            looked_in_window: false,
        }
    }

    fn present(&self) -> BTreeSet<String> {
        self.truth.keys().cloned().collect()
    }

    /// All pages, one after the other.
    fn ask(&mut self) -> BTreeSet<String> {
        let (mut all, mut cursor) = (BTreeSet::new(), None);
        loop {
            let page = self.members.page(cursor.as_deref(), PageSize { users: 3, bytes: usize::MAX });
            self.announcer.looked_at();
            self.looked_in_window = true;
            assert_eq!(page.count, self.truth.len() as u64);
            for (user, connections) in page.members {
                assert_eq!(connections, self.truth[&**user.key()].len() as u64);
                assert!(all.insert(user.key().to_string()));
            }
            cursor = page.cursor;
            if cursor.is_none() {
                assert_eq!(all, self.present());
                return all;
            }
        }
    }

    fn act(&mut self, act: Act) {
        match act {
            Act::Join { conn } => {
                let user = Arc::clone(&self.users[conn as usize % self.users.len()]);
                self.truth.entry(user.key().to_string()).or_default().insert(conn);
                let change = self.members.join(id(conn), &user);
                self.change(change);
            }
            Act::Leave { conn } => {
                let key = self.users[conn as usize % self.users.len()].key().to_string();
                if self.truth.get_mut(&key).is_some_and(|conns| conns.remove(&conn) && conns.is_empty()) {
                    self.truth.remove(&key);
                }
                let change = self.members.leave(id(conn));
                self.change(change);
                assert!(!self.members.is_member(id(conn)));
            }
            Act::Wait { ms } => {
                self.now += ms;
                self.poll();
            }
            Act::Look => {
                let copy = self.ask();
                self.copies.push(Some(copy));
            }
            Act::Lose => self.lose_next = true,
            Act::Doubt => self.doubt(),
        }
        assert_eq!(self.members.count(), self.truth.len() as u64);
    }

    fn doubt(&mut self) {
        self.announcer.mark_lost(self.now);
        self.in_doubt = self.settings.mode != Mode::Off;
    }

    fn change(&mut self, change: uringcast::hub::presence::Change) {
        let announced = self.announcer.change(change, self.members.count(), self.now);
        let Some(announced) = announced else { return };
        let Announcement::Event { joined, user, count } = announced else { panic!("a digest before its time") };
        assert!(self.settings.mode == Mode::Events && !self.in_doubt && self.announcer.next_deadline().is_none());
        assert_eq!(count, self.truth.len() as u64);
        assert!(count <= self.settings.digest_above);
        self.counted = count;
        if std::mem::take(&mut self.lose_next) {
            self.doubt();
            return;
        }
        let present = self.present();
        for copy in self.copies.iter_mut().flatten() {
            let changed = if joined { copy.insert(user.key().to_string()) } else { copy.remove(&**user.key()) };
            assert!(changed, "an event without a change");
            assert_eq!(*copy, present);
        }
    }

    fn poll(&mut self) {
        let due = self.announcer.next_deadline().is_some_and(|deadline_ms| deadline_ms <= self.now);
        let digest = self.announcer.poll(self.members.count(), self.now);
        if !due {
            assert!(digest.is_none());
            return;
        }
        assert_eq!(self.announcer.next_deadline(), None);
        let looked = std::mem::take(&mut self.looked_in_window);
        let present = self.present();
        let Some(digest) = digest else {
            assert!(!self.in_doubt);
            assert_eq!(self.counted, self.truth.len() as u64, "a window whose changes cancel");
            if self.settings.mode != Mode::Count {
                self.copies.iter().flatten().for_each(|copy| assert_eq!(*copy, present));
            }
            return;
        };
        assert!(self.last_digest_ms.is_none_or(|last| last + self.settings.window_ms <= self.now), "too often");
        self.last_digest_ms = Some(self.now);
        assert_eq!(digest.count, self.truth.len() as u64);
        assert!(digest.joined.len() + digest.left.len() <= self.settings.list_max);
        assert!(digest.joined.iter().all(|user| present.contains(&**user.key())));
        assert!(digest.left.iter().all(|user| !present.contains(&**user.key())));
        assert_eq!(digest.reset, self.in_doubt);
        if self.settings.mode == Mode::Count {
            assert!(digest.truncated && digest.joined.is_empty() && digest.left.is_empty());
            assert!(digest.reset || digest.count != self.counted);
        }
        if std::mem::take(&mut self.lose_next) {
            self.doubt();
            return;
        }
        self.in_doubt = false;
        self.counted = digest.count;
        if digest.truncated || digest.reset {
            for at in 0..self.copies.len() {
                self.copies[at] = Some(self.ask());
            }
            return;
        }
        for copy in self.copies.iter_mut().flatten() {
            for user in &digest.joined {
                assert!(copy.insert(user.key().to_string()) || looked, "one who was there joins");
            }
            for user in &digest.left {
                assert!(copy.remove(&**user.key()) || looked, "one who wasn't there leaves");
            }
            assert_eq!(*copy, present);
        }
    }
}

fn user(id: &str) -> Arc<User> {
    Arc::new(User::new(&UserId::text(id).unwrap(), id))
}

fn id(slot: u32) -> ConnId {
    ConnId { shard: ShardId(0), slot, generation: 0 }
}

fn settings() -> impl Strategy<Value = AnnouncerSettings> {
    let mode =
        prop_oneof![4 => Just(Mode::Events), 2 => Just(Mode::Digest), 1 => Just(Mode::Count), 1 => Just(Mode::Off)];
    (mode, 0..16u64, 0..150u64, prop_oneof![0..6usize, 20..40usize]).prop_map(
        |(mode, digest_above, window_ms, list_max)| AnnouncerSettings { mode, digest_above, window_ms, list_max },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 5000, ..ProptestConfig::default() })]

    #[test]
    fn replaying_the_announcements_gives_the_members(
        acts in vec(act(), 0..250),
        settings in settings(),
        users in 1..30usize,
    ) {
        let mut world = World::new(settings, users);
        for act in acts {
            world.act(act);
        }
        if settings.mode == Mode::Off {
            prop_assert_eq!(world.announcer.next_deadline(), None);
            prop_assert_eq!(world.last_digest_ms, None);
            return Ok(());
        }
        // In the end everybody knows, once nothing more is lost.
        world.lose_next = false;
        world.act(Act::Wait { ms: settings.window_ms });
        prop_assert_eq!(world.announcer.next_deadline(), None);
        prop_assert!(!world.in_doubt);
        if settings.mode != Mode::Count {
            let present = world.present();
            world.copies.iter().flatten().for_each(|copy| assert_eq!(*copy, present));
        }
    }
}
