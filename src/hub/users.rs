//! Who is online: the table that the lobby's owner holds, and with it single login, the limit on kick wars and
//! the count. Synchronous and without messages: `hub` tells the world what changed.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use hashbrown::HashSet;
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use crate::ids::ConnId;
use crate::parcel::{PageSize, Refusal, UsersPage};
use crate::planted::Fault;
use crate::user::User;

/// What a second sign-in of a user does (`auth.duplicate_login`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DuplicateLogin {
    /// The newcomer takes over, the older connection is kicked.
    #[default]
    KickOld,
    /// The newcomer is refused.
    RejectNew,
    /// Both stay.
    Allow,
}

/// Under `kick_old`, this many sign-ins of one user are let through in [`WAR_WINDOW_MS`].
pub const WAR_CLAIMS: usize = 5;
/// Two tabs with reconnecting clients would otherwise kick each other for ever.
pub const WAR_WINDOW_MS: u64 = 10_000;

/// The users and the connections that hold them.
#[derive(Debug, Default)]
pub struct Users {
    /// Ordered by key, so that a page can go on where the one before ended.
    online: BTreeMap<Arc<str>, Entry>,
}

#[derive(Debug)]
struct Entry {
    user: Arc<User>,
    holders: Holders,
    /// When the latest claims came, at most [`WAR_CLAIMS`] of them; kept under `kick_old` only.
    claims: SmallVec<[u64; 1]>,
}

/// Nearly always one; thousands under `allow`.
#[derive(Debug)]
enum Holders {
    One(ConnId),
    Many(HashSet<ConnId, foldhash::fast::RandomState>),
}

/// What a claim changed.
#[derive(Debug, PartialEq, Eq)]
pub enum Claimed {
    /// The user came online.
    First,
    /// One more connection of a user who was online.
    Another,
    /// In place of this connection, which is to be kicked.
    Instead(ConnId),
}

/// What a release changed.
#[derive(Debug)]
pub enum Released {
    /// Nothing: that connection doesn't hold (any more).
    Nothing,
    /// The user has other connections.
    Still,
    /// The user went offline.
    Last(Arc<User>),
}

impl Users {
    /// Users online.
    pub fn count(&self) -> u64 {
        self.online.len() as u64
    }

    /// Signs a user in on `conn`; at most `most` connections may hold one, 0 is no bound.
    ///
    /// # Errors
    /// The refusal that `policy` asks for; nothing has changed then.
    pub fn claim(
        &mut self,
        conn: ConnId,
        user: &Arc<User>,
        policy: DuplicateLogin,
        most: usize,
        now_ms: u64,
    ) -> Result<Claimed, Refusal> {
        let Some(entry) = self.online.get_mut(user.key()) else {
            let claims = if policy == DuplicateLogin::KickOld { [now_ms].into() } else { SmallVec::new() };
            let entry = Entry { user: Arc::clone(user), holders: Holders::One(conn), claims };
            self.online.insert(Arc::clone(user.key()), entry);
            return Ok(Claimed::First);
        };
        match policy {
            DuplicateLogin::RejectNew => Err(Refusal::AlreadyOnline),
            DuplicateLogin::Allow if most > 0 && entry.holders.len() >= most => Err(Refusal::TooManyConnections),
            DuplicateLogin::Allow => {
                entry.holders.add(conn);
                Ok(Claimed::Another)
            }
            DuplicateLogin::KickOld => {
                let Holders::One(old) = entry.holders else { unreachable!("kick_old leaves one holder") };
                entry.claims.retain(|at| at.saturating_add(WAR_WINDOW_MS) > now_ms);
                if entry.claims.len() >= WAR_CLAIMS {
                    return Err(Refusal::TooManySignIns);
                }
                entry.claims.push(now_ms);
                entry.holders = Holders::One(conn);
                entry.user = Arc::clone(user);
                Ok(Claimed::Instead(old))
            }
        }
    }

    /// Takes `conn` away from the user `key`.
    pub fn release(&mut self, conn: ConnId, key: &str) -> Released {
        let Some(entry) = self.online.get_mut(key) else { return Released::Nothing };
        match entry.holders.remove(conn) {
            Removed::NotThere => Released::Nothing,
            Removed::OthersLeft => Released::Still,
            Removed::WasLast => {
                let entry = self.online.remove(key).expect("just seen");
                Released::Last(entry.user)
            }
        }
    }

    /// Whether `conn` is one of the user's connections.
    pub fn holds(&self, conn: ConnId, key: &str) -> bool {
        self.online.get(key).is_some_and(|entry| entry.holders.contains(conn))
    }

    /// The users whose keys come after `cursor`, as many as the page has room for.
    pub fn page(&self, cursor: Option<&str>, size: PageSize) -> UsersPage {
        let start = cursor.map_or(Bound::Unbounded, Bound::Excluded);
        let rest = self.online.range::<str, _>((start, Bound::Unbounded));
        UsersPage::fill(self.count(), rest.map(|(_, e)| (Arc::clone(&e.user), e.holders.len() as u64)), size)
    }
}

enum Removed {
    NotThere,
    OthersLeft,
    WasLast,
}

impl Holders {
    fn len(&self) -> usize {
        match self {
            Self::One(_) => 1,
            Self::Many(all) => all.len(),
        }
    }

    fn contains(&self, conn: ConnId) -> bool {
        match self {
            Self::One(one) => *one == conn,
            Self::Many(all) => all.contains(&conn),
        }
    }

    fn add(&mut self, conn: ConnId) {
        match self {
            Self::One(one) => *self = Self::Many([*one, conn].into_iter().collect()),
            Self::Many(all) => {
                all.insert(conn);
            }
        }
    }

    fn remove(&mut self, conn: ConnId) -> Removed {
        match self {
            Self::One(one) if *one == conn || Fault::LateRelease.is_planted() => Removed::WasLast,
            Self::One(_) => Removed::NotThere,
            Self::Many(all) => {
                if !all.remove(&conn) {
                    return Removed::NotThere;
                }
                match (all.len(), all.iter().next().copied()) {
                    (1, Some(last)) => *self = Self::One(last),
                    _ => {
                        if all.capacity() > 64 && all.len() * 4 < all.capacity() {
                            all.shrink_to_fit();
                        }
                    }
                }
                Removed::OthersLeft
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::ShardId;
    use crate::user::tests::user;

    const TEN: PageSize = PageSize { users: 10, bytes: usize::MAX };

    fn conn(slot: u32) -> ConnId {
        ConnId { shard: ShardId(0), slot, generation: 0 }
    }

    #[test]
    fn kick_old_replaces_the_holder_and_a_late_release_does_nothing() {
        let mut users = Users::default();
        let ann = user("ann");
        assert_eq!(users.claim(conn(1), &ann, DuplicateLogin::KickOld, 0, 0), Ok(Claimed::First));
        assert_eq!(users.claim(conn(2), &ann, DuplicateLogin::KickOld, 0, 0), Ok(Claimed::Instead(conn(1))));
        assert!(matches!(users.release(conn(1), "ann"), Released::Nothing));
        assert_eq!(users.count(), 1);
        assert!(users.holds(conn(2), "ann") && !users.holds(conn(1), "ann"));
        assert!(matches!(users.release(conn(2), "ann"), Released::Last(_)));
        assert_eq!(users.count(), 0);
    }

    #[test]
    fn a_kick_war_ends_with_the_holder_staying_until_the_window_has_passed() {
        let mut users = Users::default();
        let ann = user("ann");
        for n in 0..WAR_CLAIMS as u32 {
            assert!(users.claim(conn(n), &ann, DuplicateLogin::KickOld, 0, u64::from(n)).is_ok());
        }
        assert_eq!(users.claim(conn(9), &ann, DuplicateLogin::KickOld, 0, 9_999), Err(Refusal::TooManySignIns));
        assert!(users.holds(conn(4), "ann"));
        assert_eq!(users.claim(conn(9), &ann, DuplicateLogin::KickOld, 0, 10_000), Ok(Claimed::Instead(conn(4))));
        assert_eq!(users.claim(conn(10), &ann, DuplicateLogin::KickOld, 0, 10_000), Err(Refusal::TooManySignIns));
    }

    #[test]
    fn reject_new_keeps_the_holder() {
        let mut users = Users::default();
        assert_eq!(users.claim(conn(1), &user("ann"), DuplicateLogin::RejectNew, 0, 0), Ok(Claimed::First));
        assert_eq!(users.claim(conn(2), &user("ann"), DuplicateLogin::RejectNew, 0, 0), Err(Refusal::AlreadyOnline));
        assert!(users.holds(conn(1), "ann"));
    }

    #[test]
    fn allow_counts_a_user_once_however_many_connections() {
        let mut users = Users::default();
        let ann = user("ann");
        assert_eq!(users.claim(conn(0), &ann, DuplicateLogin::Allow, 0, 0), Ok(Claimed::First));
        for n in 1..1000 {
            assert_eq!(users.claim(conn(n), &ann, DuplicateLogin::Allow, 0, 0), Ok(Claimed::Another));
        }
        assert_eq!(users.count(), 1);
        assert_eq!(users.page(None, TEN).members[0].1, 1000);
        for n in 0..999 {
            assert!(matches!(users.release(conn(n), "ann"), Released::Still));
            assert!(matches!(users.release(conn(n), "ann"), Released::Nothing));
        }
        assert!(matches!(users.release(conn(999), "ann"), Released::Last(_)));
    }

    #[test]
    fn a_user_has_no_more_connections_than_may_be() {
        let mut users = Users::default();
        let ann = user("ann");
        for n in 0..3 {
            assert!(users.claim(conn(n), &ann, DuplicateLogin::Allow, 3, 0).is_ok());
        }
        assert_eq!(users.claim(conn(3), &ann, DuplicateLogin::Allow, 3, 0), Err(Refusal::TooManyConnections));
        assert!(users.claim(conn(3), &user("bob"), DuplicateLogin::Allow, 3, 0).is_ok());
        users.release(conn(1), "ann");
        assert!(users.claim(conn(4), &ann, DuplicateLogin::Allow, 3, 0).is_ok());
    }

    #[test]
    fn pages_cover_everyone_once() {
        let mut users = Users::default();
        for n in 0..25 {
            users.claim(conn(n), &user(&format!("u{n:02}")), DuplicateLogin::KickOld, 0, 0).expect("new");
        }
        let mut seen = Vec::new();
        let mut cursor = None;
        loop {
            let page = users.page(cursor.as_deref(), TEN);
            assert_eq!(page.count, 25);
            seen.extend(page.members.iter().map(|(u, _)| u.key().to_string()));
            cursor = page.cursor;
            if cursor.is_none() {
                break;
            }
        }
        assert_eq!(seen, (0..25).map(|n| format!("u{n:02}")).collect::<Vec<_>>());
        assert!(users.page(Some("zzz"), TEN).members.is_empty());
    }
}
