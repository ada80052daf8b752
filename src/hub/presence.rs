//! Who is on a channel, and how the others hear of it. `Members` counts connections into users: a user with
//! several is one member. `Announcer` makes announcements of the changes: one event each, or one digest per
//! window, which a large channel falls back to by itself. Neither knows the channel, its subscribers or the
//! clock: the owner feeds it the changes, polls it at its deadline, broadcasts what comes out, and tells it when
//! that could not be sent. Replaying the announcements gives the members at the end of every window, unless a
//! digest says that it doesn't tell all (`truncated`) or that something was lost before (`reset`).

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use hashbrown::HashMap;

use crate::ids::ConnId;
use crate::model::namespace::PresenceMode;
use crate::model::parcel::{PageSize, UsersPage};
use crate::model::presence::{Announcement, PresenceDigest};
use crate::model::user::User;

/// What a join or leave changed.
#[derive(Clone, Debug)]
pub enum Change {
    /// The user became a member.
    Joined(Arc<User>),
    /// The user is no longer a member.
    Left(Arc<User>),
    /// The members are the same.
    None,
}

/// The members of a channel: some 24 bytes per connection and 16 per user, the tables' slack not counted.
#[derive(Debug, Default)]
pub struct Members {
    connections: HashMap<ConnId, Arc<User>, foldhash::fast::RandomState>,
    /// Users and how many connections each has, ordered by key, so that a page can go on where the one before
    /// ended. That makes a join O(log users) rather than O(1).
    users: BTreeMap<ByKey, u32>,
}

/// A user in the order of keys.
#[derive(Clone, Debug)]
struct ByKey(Arc<User>);

impl Members {
    /// A connection comes. Coming twice changes nothing. A user is shown as they were when they became a member.
    pub fn join(&mut self, conn: ConnId, user: &Arc<User>) -> Change {
        if let Some(before) = self.connections.get(&conn) {
            assert!(before.key() == user.key(), "{conn} is another user's");
            return Change::None;
        }
        if let Some(connections) = self.users.get_mut(&**user.key()) {
            *connections += 1;
            self.connections.insert(conn, Arc::clone(user));
            return Change::None;
        }
        self.connections.insert(conn, Arc::clone(user));
        self.users.insert(ByKey(Arc::clone(user)), 1);
        Change::Joined(Arc::clone(user))
    }

    /// A connection goes. Going without having come changes nothing.
    pub fn leave(&mut self, conn: ConnId) -> Change {
        let Some(user) = self.connections.remove(&conn) else { return Change::None };
        if self.connections.capacity() > 64 && self.connections.len() * 4 < self.connections.capacity() {
            self.connections.shrink_to_fit();
        }
        let connections = self.users.get_mut(&**user.key()).expect("every connection's user is counted");
        *connections -= 1;
        if *connections > 0 {
            return Change::None;
        }
        let (ByKey(user), _) = self.users.remove_entry(&**user.key()).expect("just seen");
        Change::Left(user)
    }

    /// Users on the channel.
    pub fn count(&self) -> u64 {
        self.users.len() as u64
    }

    /// Whether `conn` is on the channel.
    pub fn is_member(&self, conn: ConnId) -> bool {
        self.connections.contains_key(&conn)
    }

    /// The users whose keys come after `cursor`, as many as the page has room for, and how many connections each has.
    /// Tell [`Announcer::looked_at`].
    pub fn page(&self, cursor: Option<&str>, size: PageSize) -> UsersPage {
        let start = cursor.map_or(Bound::Unbounded, Bound::Excluded);
        let rest = self.users.range::<str, _>((start, Bound::Unbounded));
        let rest = rest.map(|(ByKey(user), count)| (Arc::clone(user), u64::from(*count)));
        UsersPage::fill(self.count(), rest, size)
    }
}

/// What a namespace sets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AnnouncerSettings {
    /// How changes are announced.
    pub mode: PresenceMode,
    /// Above this many members, `events` are digests; below half of it they are events again.
    pub digest_above: u64,
    /// How long changes are gathered for a digest. A window opens with the first change.
    pub window_ms: u64,
    /// Most users that a digest names, `joined` and `left` together, and so the most that are held for it.
    pub list_max: usize,
}

/// Turns a channel's changes into announcements.
#[derive(Debug)]
pub struct Announcer {
    settings: AnnouncerSettings,
    /// `events` are digests for now.
    crowded: bool,
    /// What the open window has gathered: each user's last change, at most `list_max`.
    gathered: BTreeMap<ByKey, Gathered>,
    /// A change found no place in `gathered`.
    truncated: bool,
    /// An announcement was lost since the last digest.
    lost: bool,
    /// The open window's end.
    deadline_ms: Option<u64>,
    /// Under `count`, what was said last.
    said: u64,
    /// Counts the times that somebody was told the members from outside the announcements.
    looks: u32,
}

#[derive(Clone, Copy, Debug)]
struct Gathered {
    /// Came last, or went.
    joined: bool,
    /// `looks` at that time.
    looks: u32,
    /// Somebody was given the members while this user had come, and somebody while they had not; so whichever
    /// it is in the end has to be said. Else all know how it was at the window's start.
    disputed: bool,
}

impl Announcer {
    /// Of a channel without members.
    pub fn new(settings: AnnouncerSettings) -> Self {
        Self {
            settings,
            crowded: false,
            gathered: BTreeMap::new(),
            truncated: false,
            lost: false,
            deadline_ms: None,
            said: 0,
            looks: 0,
        }
    }

    /// Takes a change, after which there are `count` members; says what to broadcast at once. The change that
    /// makes the channel crowded is the first one of a window.
    pub fn change(&mut self, change: Change, count: u64, mono_ms: u64) -> Option<Announcement> {
        let (joined, user) = match change {
            Change::Joined(user) => (true, user),
            Change::Left(user) => (false, user),
            Change::None => return None,
        };
        match self.settings.mode {
            PresenceMode::Off => return None,
            PresenceMode::Events => {
                self.crowded |= count > self.settings.digest_above;
                if !self.crowded && !self.lost {
                    return Some(Announcement::Event { joined, user, count });
                }
                self.gather(joined, user);
            }
            PresenceMode::Digest => self.gather(joined, user),
            PresenceMode::Count => {}
        }
        self.open_window(mono_ms);
        None
    }

    /// When to call `poll`, if at all.
    pub fn next_deadline(&self) -> Option<u64> {
        self.deadline_ms
    }

    /// Ends the window, if it is time; there are `count` members. Whether a channel is no longer crowded is
    /// decided here and nowhere else, so every event comes after the digest of all that went before it.
    pub fn poll(&mut self, count: u64, mono_ms: u64) -> Option<PresenceDigest> {
        if self.deadline_ms.is_none_or(|deadline_ms| mono_ms < deadline_ms) {
            return None;
        }
        self.deadline_ms = None;
        self.crowded &= count.saturating_mul(2) >= self.settings.digest_above;
        let reset = std::mem::take(&mut self.lost);
        let mut truncated = std::mem::take(&mut self.truncated);
        let (mut joined, mut left) = (Vec::new(), Vec::new());
        for (ByKey(user), gathered) in std::mem::take(&mut self.gathered) {
            if gathered.joined { joined.push(user) } else { left.push(user) }
        }
        let changed = if self.settings.mode == PresenceMode::Count {
            truncated = true;
            std::mem::replace(&mut self.said, count) != count
        } else {
            truncated || !joined.is_empty() || !left.is_empty()
        };
        (changed || reset).then_some(PresenceDigest { count, joined, left, truncated, reset })
    }

    /// An announcement could not be sent to all. Until the digest that says so, at the window's end, there are
    /// no events: they would find the same lanes full, and be doubted anyway.
    pub fn mark_lost(&mut self, mono_ms: u64) {
        if self.settings.mode != PresenceMode::Off {
            self.lost = true;
            self.open_window(mono_ms);
        }
    }

    /// Somebody was given a page of members. They may have seen the middle of the window: from now on a user
    /// who turns back is announced, for them, instead of cancelled, which tells the others nothing new.
    pub fn looked_at(&mut self) {
        self.looks = self.looks.wrapping_add(1);
    }

    fn open_window(&mut self, mono_ms: u64) {
        self.deadline_ms.get_or_insert(mono_ms.saturating_add(self.settings.window_ms));
    }

    fn gather(&mut self, joined: bool, user: Arc<User>) {
        let (looks, full) = (self.looks, self.gathered.len() >= self.settings.list_max);
        match self.gathered.get_mut(&**user.key()) {
            Some(Gathered { looks: then, disputed: false, .. }) if *then == looks => {
                self.gathered.remove(&**user.key());
            }
            Some(before) => *before = Gathered { joined, looks, disputed: true },
            None if full => self.truncated = true,
            None => {
                self.gathered.insert(ByKey(user), Gathered { joined, looks, disputed: false });
            }
        }
    }
}

impl Borrow<str> for ByKey {
    fn borrow(&self) -> &str {
        self.0.key()
    }
}

impl PartialEq for ByKey {
    fn eq(&self, other: &Self) -> bool {
        self.0.key() == other.0.key()
    }
}

impl Eq for ByKey {}

impl PartialOrd for ByKey {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ByKey {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.key().cmp(other.0.key())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::ShardId;
    use crate::model::user::tests::user;

    const SETTINGS: AnnouncerSettings =
        AnnouncerSettings { mode: PresenceMode::Events, digest_above: 4, window_ms: 100, list_max: 10 };

    fn conn(slot: u32) -> ConnId {
        ConnId { shard: ShardId(0), slot, generation: 0 }
    }

    fn keys(users: &[Arc<User>]) -> String {
        users.iter().map(|user| &**user.key()).collect::<Vec<_>>().join(" ")
    }

    /// A channel with one connection per user, named by a letter.
    struct Channel {
        members: Members,
        announcer: Announcer,
    }

    impl Channel {
        fn new(settings: AnnouncerSettings) -> Self {
            Self { members: Members::default(), announcer: Announcer::new(settings) }
        }

        /// `+a` joins, `-a` leaves; what was announced at once.
        fn go(&mut self, moves: &str, mono_ms: u64) -> String {
            let mut said = String::new();
            for step in moves.split(' ') {
                let (sign, name) = step.split_at(1);
                let conn = conn(u32::from(name.as_bytes()[0]));
                let change = if sign == "+" { self.members.join(conn, &user(name)) } else { self.members.leave(conn) };
                match self.announcer.change(change, self.members.count(), mono_ms) {
                    Some(Announcement::Event { joined, user, count }) => {
                        said += &format!("{}{}={count} ", if joined { '+' } else { '-' }, user.key());
                    }
                    Some(Announcement::Digest(_)) => panic!("digests come at a window's end"),
                    None => {}
                }
            }
            said
        }

        fn poll(&mut self, mono_ms: u64) -> String {
            let digest = self.announcer.poll(self.members.count(), mono_ms);
            digest.map_or_else(String::new, |digest| {
                let PresenceDigest { count, joined, left, truncated, reset } = digest;
                let flags = [(truncated, " truncated"), (reset, " reset")];
                let flags: String = flags.iter().filter(|(set, _)| *set).map(|(_, name)| *name).collect();
                format!("{count} +[{}] -[{}]{flags}", keys(&joined), keys(&left))
            })
        }
    }

    #[test]
    fn a_user_with_several_connections_is_one_member() {
        let mut members = Members::default();
        let ann = user("ann");
        assert!(matches!(members.join(conn(1), &ann), Change::Joined(_)));
        assert!(matches!(members.join(conn(1), &ann), Change::None));
        assert!(matches!(members.join(conn(2), &user("ann")), Change::None));
        assert_eq!(
            (members.count(), members.page(None, PageSize { users: 9, bytes: usize::MAX }).members[0].1),
            (1, 2)
        );
        assert!(matches!(members.leave(conn(1)), Change::None));
        assert!(matches!(members.leave(conn(1)), Change::None));
        assert!(!members.is_member(conn(1)) && members.is_member(conn(2)));
        assert!(matches!(members.leave(conn(2)), Change::Left(user) if Arc::ptr_eq(&user, &ann)));
        assert_eq!(members.count(), 0);
    }

    #[test]
    fn pages_cover_everyone_once() {
        let mut members = Members::default();
        for n in 0..25 {
            members.join(conn(n), &user(&format!("u{n:02}")));
        }
        let (mut seen, mut cursor) = (Vec::new(), None);
        loop {
            let page = members.page(cursor.as_deref(), PageSize { users: 10, bytes: usize::MAX });
            assert_eq!(page.count, 25);
            seen.extend(page.members.iter().map(|(user, _)| user.key().to_string()));
            cursor = page.cursor;
            if cursor.is_none() {
                break;
            }
        }
        assert_eq!(seen, (0..25).map(|n| format!("u{n:02}")).collect::<Vec<_>>());
        assert!(members.page(Some("zzz"), PageSize { users: 10, bytes: usize::MAX }).members.is_empty());
    }

    #[test]
    fn a_crowd_gets_digests_until_half_of_it_has_gone() {
        let mut channel = Channel::new(SETTINGS);
        assert_eq!(channel.go("+a +b +c +d", 0), "+a=1 +b=2 +c=3 +d=4 ");
        assert_eq!(channel.announcer.next_deadline(), None);
        assert_eq!(channel.go("+e +f", 10), "");
        assert_eq!(channel.announcer.next_deadline(), Some(110));
        assert_eq!(channel.poll(109), "");
        assert_eq!(channel.poll(110), "6 +[e f] -[]");
        assert_eq!(channel.go("-a -b -c -d", 200), "");
        assert_eq!(channel.poll(300), "2 +[] -[a b c d]", "2 is half, not below it");
        assert_eq!(channel.go("-e", 400), "");
        assert_eq!(channel.go("+g -g", 410), "");
        assert_eq!(channel.poll(500), "1 +[] -[e]");
        assert_eq!(channel.go("+h -f", 600), "+h=2 -f=1 ");
        assert_eq!(channel.announcer.next_deadline(), None);
    }

    #[test]
    fn what_cancels_is_not_said_unless_somebody_looked_in_between() {
        let mut channel = Channel::new(AnnouncerSettings { mode: PresenceMode::Digest, ..SETTINGS });
        channel.go("+a", 0);
        assert_eq!(channel.poll(100), "1 +[a] -[]");
        channel.go("-a +b +a -b", 200);
        assert_eq!(channel.poll(300), "");
        channel.go("-a +b", 400);
        channel.announcer.looked_at();
        channel.go("+a -b +a", 400);
        assert_eq!(channel.poll(500), "1 +[a] -[b]");
        channel.go("-a", 600);
        channel.announcer.looked_at();
        channel.go("+a -a", 600);
        assert_eq!(channel.poll(700), "0 +[] -[a]", "the look doesn't make the others forget a");
    }

    #[test]
    fn a_long_list_is_cut_and_the_count_is_right() {
        let mut channel = Channel::new(AnnouncerSettings { mode: PresenceMode::Digest, list_max: 2, ..SETTINGS });
        channel.go("+a +b +c +d", 0);
        assert_eq!(channel.poll(100), "4 +[a b] -[] truncated");
        channel.go("-d -c", 200);
        assert_eq!(channel.poll(300), "2 +[] -[c d]");
    }

    #[test]
    fn a_loss_is_followed_by_one_reset_and_no_events_before_it() {
        let mut channel = Channel::new(SETTINGS);
        assert_eq!(channel.go("+a", 0), "+a=1 ");
        channel.announcer.mark_lost(0);
        channel.announcer.mark_lost(50);
        assert_eq!(channel.go("+b", 60), "");
        assert_eq!(channel.poll(100), "2 +[b] -[] reset");
        assert_eq!(channel.go("+c", 110), "+c=3 ");
        channel.announcer.mark_lost(120);
        assert_eq!(channel.poll(220), "3 +[] -[] reset");
        assert_eq!(channel.poll(1000), "");
    }

    #[test]
    fn count_says_the_number_when_it_has_changed_and_off_says_nothing() {
        let mut channel = Channel::new(AnnouncerSettings { mode: PresenceMode::Count, ..SETTINGS });
        assert_eq!(channel.go("+a +b", 0), "");
        assert_eq!(channel.poll(100), "2 +[] -[] truncated");
        channel.go("-a +c", 200);
        assert_eq!(channel.poll(300), "", "another two");
        channel.announcer.mark_lost(400);
        assert_eq!(channel.poll(500), "2 +[] -[] truncated reset");
        let mut channel = Channel::new(AnnouncerSettings { mode: PresenceMode::Off, ..SETTINGS });
        assert_eq!(channel.go("+a +b", 0), "");
        channel.announcer.mark_lost(0);
        assert_eq!((channel.poll(1000), channel.announcer.next_deadline()), (String::new(), None));
    }
}
