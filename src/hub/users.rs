//! Who is online: the table that the lobby's owner holds, and with it single login, the limit on kick wars and
//! the count. A sign-in that would be refused for the connections that its user has waits until these have shown that
//! they live: a user's own dead connections keep nobody out. Synchronous and without messages: `hub` tells the world
//! what changed, and asks for signs of life.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use hashbrown::HashSet;
use smallvec::SmallVec;

use super::Caller;
use crate::ids::ConnId;
use crate::model::parcel::{Asker, Claim, PageSize, Refusal, UsersPage};
use crate::model::user::{DuplicateLogin, User};
use crate::planted::Fault;

/// Under `kick_old`, this many sign-ins of one user are let through in [`WAR_WINDOW_MS`].
pub(crate) const WAR_CLAIMS: usize = 5;
/// Two tabs with reconnecting clients would otherwise kick each other for ever.
pub(crate) const WAR_WINDOW_MS: u64 = 10_000;

/// Most connections of a user that are asked for a sign of life at a time, and most sign-ins that wait for it.
pub(crate) const PROBED_MAX: usize = 128;

/// The users and the connections that hold them.
#[derive(Debug, Default)]
pub(crate) struct Users {
    /// Ordered by key, so that a page can go on where the one before ended.
    online: BTreeMap<Arc<str>, OnlineUser>,
}

#[derive(Debug)]
struct OnlineUser {
    user: Arc<User>,
    holders: Holders,
    /// When the latest claims came, at most [`WAR_CLAIMS`] of them; kept under `kick_old` only.
    claims: SmallVec<[u64; 1]>,
    /// When the connection was accepted that claimed last: under `kick_old`, the holder.
    accepted_ns: u64,
    /// `Some` while connections are asked for a sign of life.
    probe: Option<Box<Probe>>,
}

/// The question whether a user's connections live.
#[derive(Debug)]
struct Probe {
    /// Connections that have neither answered nor gone.
    asked: SmallVec<[ConnId; 1]>,
    /// Sign-ins that wait for one of them to go, in the order in which their connections were accepted.
    waiters: SmallVec<[Waiter; 1]>,
}

/// A sign-in that waits for a connection of its user to go.
#[derive(Debug)]
pub(crate) struct Waiter {
    /// Which connection signs in.
    pub(crate) conn: ConnId,
    /// Its number for the request.
    pub(crate) request: u32,
    /// As whom, and what else it asks for.
    pub(crate) claim: Box<Claim>,
    /// What it is told if all of them live.
    pub(crate) refusal: Refusal,
}

impl Waiter {
    /// Whom to answer. Its credit has been given back.
    pub(crate) fn caller(&self) -> Caller {
        Caller { asker: Asker::Conn(self.conn), request: self.request, credit: false }
    }

    /// A connection that was accepted later counts more; of two accepted at once, any fixed order will do.
    fn rank(&self) -> (u64, ConnId) {
        (self.claim.accepted_ns, self.conn)
    }
}

/// Nearly always one; thousands under `allow`.
#[derive(Debug)]
enum Holders {
    One(ConnId),
    Many(HashSet<ConnId, foldhash::fast::RandomState>),
}

/// What a claim changed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Claimed {
    /// The user came online.
    First,
    /// One more connection of a user who was online.
    Another,
    /// In place of this connection, which is to be kicked.
    Instead(ConnId),
}

/// What a release changed.
#[derive(Debug)]
pub(crate) enum Released {
    /// Nothing: that connection doesn't hold (any more).
    Nothing,
    /// The user has other connections.
    Still,
    /// The user went offline.
    Last(Arc<User>),
    /// The user stays online: this sign-in waited for that, and now holds.
    Next(Box<Waiter>),
}

impl Users {
    /// Users online.
    pub(crate) fn count(&self) -> u64 {
        self.online.len() as u64
    }

    /// Signs a user in on `conn`; at most `most` connections may hold one, 0 is no bound.
    ///
    /// # Errors
    /// The refusal that `policy` asks for; nothing has changed then. See [`Users::wait`].
    pub(crate) fn claim(
        &mut self,
        conn: ConnId,
        claim: &Claim,
        policy: DuplicateLogin,
        most: usize,
        now_ms: u64,
    ) -> Result<Claimed, Refusal> {
        let Claim { user, accepted_ns, .. } = claim;
        let Some(entry) = self.online.get_mut(user.key()) else {
            let claims = if policy == DuplicateLogin::KickOld { [now_ms].into() } else { SmallVec::new() };
            let (user, holders, accepted_ns) = (Arc::clone(user), Holders::One(conn), *accepted_ns);
            let entry = OnlineUser { user, holders, claims, accepted_ns, probe: None };
            self.online.insert(Arc::clone(entry.user.key()), entry);
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
                if (*accepted_ns, conn) < (entry.accepted_ns, old) && !Fault::LateClaim.is_planted() {
                    return Err(Refusal::SignedInElsewhere);
                }
                entry.claims.retain(|at| at.saturating_add(WAR_WINDOW_MS) > now_ms);
                if entry.claims.len() >= WAR_CLAIMS {
                    return Err(Refusal::TooManySignIns);
                }
                entry.claims.push(now_ms);
                entry.hold(conn, claim);
                Ok(Claimed::Instead(old))
            }
        }
    }

    /// Lets a claim that was refused wait until the user's connections have shown that they live; when one goes instead,
    /// the sign-in takes its place. At most `most` wait: beyond that, the one whose connection was accepted first is
    /// handed back, to be refused. `ask` is called for each connection that is to show a sign of life.
    pub(crate) fn wait(&mut self, waiter: Waiter, most: usize, ask: impl FnMut(ConnId)) -> Option<Waiter> {
        let Some(entry) = self.online.get_mut(waiter.claim.user.key()) else { return Some(waiter) };
        let probe = entry.probe.get_or_insert_with(|| {
            let asked: SmallVec<_> = entry.holders.iter().take(PROBED_MAX).collect();
            asked.iter().copied().for_each(ask);
            Box::new(Probe { asked, waiters: SmallVec::new() })
        });
        let at = probe.waiters.partition_point(|other| other.rank() < waiter.rank());
        probe.waiters.insert(at, waiter);
        (probe.waiters.len() > most.clamp(1, PROBED_MAX)).then(|| probe.waiters.remove(0))
    }

    /// A connection has shown a sign of life. When all have, those that waited are handed back, to be refused.
    pub(crate) fn alive(&mut self, conn: ConnId, key: &str) -> Vec<Waiter> {
        let Some(entry) = self.online.get_mut(key) else { return Vec::new() };
        entry.answered(conn)
    }

    /// The user's connections need not answer any more; those that waited for that are handed back.
    pub(crate) fn end_probe(&mut self, key: &str) -> Vec<Waiter> {
        let probe = self.online.get_mut(key).and_then(|entry| entry.probe.take());
        probe.map(|probe| probe.waiters.into_vec()).unwrap_or_default()
    }

    /// The same for all users.
    pub(crate) fn end_probes(&mut self) -> Vec<Waiter> {
        let probes = self.online.values_mut().filter_map(|entry| entry.probe.take());
        probes.flat_map(|probe| probe.waiters).collect()
    }

    /// Whether any connection is asked for a sign of life.
    pub(crate) fn is_probing(&self) -> bool {
        self.online.values().any(|entry| entry.probe.is_some())
    }

    /// Whether a sign-in waits on `conn`; it does not any more.
    fn forget_waiter(&mut self, conn: ConnId, key: &str) -> bool {
        let probe = self.online.get_mut(key).and_then(|entry| entry.probe.as_mut());
        let at = probe.as_ref().and_then(|probe| probe.waiters.iter().position(|waiter| waiter.conn == conn));
        if let (Some(probe), Some(at)) = (probe, at) {
            probe.waiters.remove(at);
        }
        at.is_some()
    }

    /// Takes `conn` away from the user `key`. The second part are sign-ins that waited and are to be refused: all other
    /// connections have shown that they live.
    pub(crate) fn release(&mut self, conn: ConnId, key: &str) -> (Released, Vec<Waiter>) {
        if self.forget_waiter(conn, key) {
            return (Released::Nothing, Vec::new());
        }
        let Some(entry) = self.online.get_mut(key) else { return (Released::Nothing, Vec::new()) };
        let removed = entry.holders.remove(conn);
        if matches!(removed, Removed::NotThere) {
            return (Released::Nothing, Vec::new());
        }
        let next = entry.probe.as_mut().and_then(|probe| probe.waiters.pop());
        let released = match (removed, next) {
            (removed, Some(next)) => {
                match removed {
                    Removed::WasLast => entry.hold(next.conn, &next.claim),
                    _ => entry.holders.add(next.conn),
                }
                Released::Next(Box::new(next))
            }
            (Removed::WasLast, None) => {
                let entry = self.online.remove(key).expect("just seen");
                return (Released::Last(entry.user), Vec::new());
            }
            (_, None) => Released::Still,
        };
        (released, entry.answered(conn))
    }

    /// Whether `conn` is one of the user's connections.
    pub(crate) fn holds(&self, conn: ConnId, key: &str) -> bool {
        self.online.get(key).is_some_and(|entry| entry.holders.contains(conn))
    }

    /// The users whose keys come after `cursor`, as many as the page has room for.
    pub(crate) fn page(&self, cursor: Option<&str>, size: PageSize) -> UsersPage {
        let start = cursor.map_or(Bound::Unbounded, Bound::Excluded);
        let rest = self.online.range::<str, _>((start, Bound::Unbounded));
        UsersPage::fill(self.count(), rest.map(|(_, e)| (Arc::clone(&e.user), e.holders.len() as u64)), size)
    }
}

impl OnlineUser {
    /// From now on one connection holds the user.
    fn hold(&mut self, conn: ConnId, claim: &Claim) {
        self.holders = Holders::One(conn);
        self.user = Arc::clone(&claim.user);
        self.accepted_ns = claim.accepted_ns;
    }

    /// A connection has shown that it lives, or is gone. Returns the sign-ins for which that was the last hope.
    fn answered(&mut self, conn: ConnId) -> Vec<Waiter> {
        let Some(probe) = &mut self.probe else { return Vec::new() };
        probe.asked.retain(|asked| *asked != conn);
        if !probe.asked.is_empty() {
            return Vec::new();
        }
        self.probe.take().map(|probe| probe.waiters.into_vec()).unwrap_or_default()
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

    fn iter(&self) -> impl Iterator<Item = ConnId> {
        let (one, many) = match self {
            Self::One(one) => (Some(*one), None),
            Self::Many(all) => (None, Some(all)),
        };
        one.into_iter().chain(many.into_iter().flatten().copied())
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
    use crate::model::user::tests::user;

    const TEN: PageSize = PageSize { users: 10, bytes: usize::MAX };

    fn claim(user: &Arc<User>) -> Claim {
        Claim { user: Arc::clone(user), recover: None, lobby: true, bounded: true, accepted_ns: 0 }
    }

    fn claim_at(accepted_ns: u64) -> Claim {
        Claim { accepted_ns, ..claim(&user("ann")) }
    }

    /// A sign-in that waits; also what was asked for a sign of life, and who was one too many.
    fn wait(users: &mut Users, slot: u32, accepted_ns: u64, most: usize) -> (Vec<u32>, Option<u32>) {
        let claim = Box::new(claim_at(accepted_ns));
        let waiter = Waiter { conn: conn(slot), request: slot, claim, refusal: Refusal::AlreadyOnline };
        let mut asked = Vec::new();
        let one_too_many = users.wait(waiter, most, |conn| asked.push(conn.slot));
        asked.sort_unstable();
        (asked, one_too_many.map(|waiter| waiter.conn.slot))
    }

    fn slots(waiters: Vec<Waiter>) -> Vec<u32> {
        waiters.into_iter().map(|waiter| waiter.conn.slot).collect()
    }

    fn next((released, refused): (Released, Vec<Waiter>)) -> (Option<u32>, Vec<u32>) {
        let next = if let Released::Next(next) = released { Some(next.conn.slot) } else { None };
        (next, slots(refused))
    }

    fn conn(slot: u32) -> ConnId {
        ConnId { shard: ShardId(0), slot, generation: 0 }
    }

    #[test]
    fn kick_old_replaces_the_holder_and_a_late_release_does_nothing() {
        let mut users = Users::default();
        let ann = user("ann");
        assert_eq!(users.claim(conn(1), &claim(&ann), DuplicateLogin::KickOld, 0, 0), Ok(Claimed::First));
        assert_eq!(users.claim(conn(2), &claim(&ann), DuplicateLogin::KickOld, 0, 0), Ok(Claimed::Instead(conn(1))));
        assert!(matches!(users.release(conn(1), "ann").0, Released::Nothing));
        assert_eq!(users.count(), 1);
        assert!(users.holds(conn(2), "ann") && !users.holds(conn(1), "ann"));
        assert!(matches!(users.release(conn(2), "ann").0, Released::Last(_)));
        assert_eq!(users.count(), 0);
    }

    #[test]
    fn a_kick_war_ends_with_the_holder_staying_until_the_window_has_passed() {
        let mut users = Users::default();
        let ann = user("ann");
        for n in 0..WAR_CLAIMS as u32 {
            assert!(users.claim(conn(n), &claim(&ann), DuplicateLogin::KickOld, 0, u64::from(n)).is_ok());
        }
        assert_eq!(users.claim(conn(9), &claim(&ann), DuplicateLogin::KickOld, 0, 9_999), Err(Refusal::TooManySignIns));
        assert!(users.holds(conn(4), "ann"));
        assert_eq!(
            users.claim(conn(9), &claim(&ann), DuplicateLogin::KickOld, 0, 10_000),
            Ok(Claimed::Instead(conn(4)))
        );
        assert_eq!(
            users.claim(conn(10), &claim(&ann), DuplicateLogin::KickOld, 0, 10_000),
            Err(Refusal::TooManySignIns)
        );
    }

    #[test]
    fn reject_new_keeps_the_holder() {
        let mut users = Users::default();
        assert_eq!(users.claim(conn(1), &claim(&user("ann")), DuplicateLogin::RejectNew, 0, 0), Ok(Claimed::First));
        assert_eq!(
            users.claim(conn(2), &claim(&user("ann")), DuplicateLogin::RejectNew, 0, 0),
            Err(Refusal::AlreadyOnline)
        );
        assert!(users.holds(conn(1), "ann"));
    }

    #[test]
    fn allow_counts_a_user_once_however_many_connections() {
        let mut users = Users::default();
        let ann = user("ann");
        assert_eq!(users.claim(conn(0), &claim(&ann), DuplicateLogin::Allow, 0, 0), Ok(Claimed::First));
        for n in 1..1000 {
            assert_eq!(users.claim(conn(n), &claim(&ann), DuplicateLogin::Allow, 0, 0), Ok(Claimed::Another));
        }
        assert_eq!(users.count(), 1);
        assert_eq!(users.page(None, TEN).members[0].1, 1000);
        for n in 0..999 {
            assert!(matches!(users.release(conn(n), "ann").0, Released::Still));
            assert!(matches!(users.release(conn(n), "ann").0, Released::Nothing));
        }
        assert!(matches!(users.release(conn(999), "ann").0, Released::Last(_)));
    }

    #[test]
    fn a_user_has_no_more_connections_than_may_be() {
        let mut users = Users::default();
        let ann = user("ann");
        for n in 0..3 {
            assert!(users.claim(conn(n), &claim(&ann), DuplicateLogin::Allow, 3, 0).is_ok());
        }
        assert_eq!(users.claim(conn(3), &claim(&ann), DuplicateLogin::Allow, 3, 0), Err(Refusal::TooManyConnections));
        assert!(users.claim(conn(3), &claim(&user("bob")), DuplicateLogin::Allow, 3, 0).is_ok());
        users.release(conn(1), "ann");
        assert!(users.claim(conn(4), &claim(&ann), DuplicateLogin::Allow, 3, 0).is_ok());
    }

    #[test]
    fn pages_cover_everyone_once() {
        let mut users = Users::default();
        for n in 0..25 {
            users.claim(conn(n), &claim(&user(&format!("u{n:02}"))), DuplicateLogin::KickOld, 0, 0).expect("new");
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

    #[test]
    fn under_kick_old_the_connection_counts_that_was_accepted_later() {
        let mut users = Users::default();
        let kick = DuplicateLogin::KickOld;
        assert_eq!(users.claim(conn(1), &claim_at(20), kick, 0, 0), Ok(Claimed::First));
        assert_eq!(users.claim(conn(2), &claim_at(10), kick, 0, 0), Err(Refusal::SignedInElsewhere));
        assert_eq!(
            users.claim(conn(0), &claim_at(20), kick, 0, 0),
            Err(Refusal::SignedInElsewhere),
            "in a fixed order"
        );
        assert_eq!(users.claim(conn(3), &claim_at(21), kick, 0, 0), Ok(Claimed::Instead(conn(1))));
        assert_eq!(users.claim(conn(1), &claim_at(20), kick, 0, 0), Err(Refusal::SignedInElsewhere));
        assert!(users.holds(conn(3), "ann"));
    }

    #[test]
    fn a_sign_in_that_waits_takes_the_place_of_a_connection_that_goes() {
        let mut users = Users::default();
        assert_eq!(users.claim(conn(1), &claim_at(1), DuplicateLogin::RejectNew, 0, 0), Ok(Claimed::First));
        assert_eq!(wait(&mut users, 2, 2, 1), (vec![1], None));
        // Of several that wait, the connection counts that was accepted last; nobody is asked twice.
        assert_eq!(wait(&mut users, 4, 4, 1), (vec![], Some(2)));
        assert_eq!(wait(&mut users, 3, 3, 1), (vec![], Some(3)));
        assert_eq!(next(users.release(conn(1), "ann")), (Some(4), vec![]));
        assert!(users.holds(conn(4), "ann") && users.count() == 1);
        // The question is over, and may be asked anew.
        assert_eq!(wait(&mut users, 5, 5, 1), (vec![4], None));
        assert!(slots(users.alive(conn(1), "ann")).is_empty(), "it isn't about that one");
        assert_eq!(slots(users.alive(conn(4), "ann")), [5]);
        assert!(users.holds(conn(4), "ann"));
    }

    #[test]
    fn a_sign_in_that_waits_may_go_before_it_is_answered() {
        let mut users = Users::default();
        users.claim(conn(1), &claim_at(1), DuplicateLogin::RejectNew, 0, 0).expect("the first");
        wait(&mut users, 2, 2, 1);
        assert_eq!(next(users.release(conn(2), "ann")), (None, vec![]));
        assert_eq!(wait(&mut users, 3, 3, 1), (vec![], None), "the question is still open");
        assert_eq!(slots(users.end_probes()), [3]);
        assert!(matches!(users.release(conn(1), "ann").0, Released::Last(_)));
    }

    #[test]
    fn each_connection_that_goes_lets_one_in() {
        let mut users = Users::default();
        for n in 0..3 {
            users.claim(conn(n), &claim_at(n.into()), DuplicateLogin::Allow, 3, 0).expect("room");
        }
        for n in 10..13 {
            let asked = if n == 10 { vec![0, 1, 2] } else { vec![] };
            assert_eq!(wait(&mut users, n, n.into(), 3), (asked, None));
        }
        assert_eq!(next(users.release(conn(0), "ann")), (Some(12), vec![]));
        assert!(slots(users.alive(conn(1), "ann")).is_empty());
        assert_eq!(next(users.release(conn(2), "ann")), (Some(11), vec![10]), "the last one has answered");
        assert_eq!(users.page(None, TEN).members[0].1, 3);
        assert_eq!(users.claim(conn(10), &claim_at(10), DuplicateLogin::Allow, 3, 0), Err(Refusal::TooManyConnections));
    }
}
