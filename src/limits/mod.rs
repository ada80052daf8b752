//! Who may have how much: the names of all limits, the rates, and the counts that belong to no one connection, by
//! address and by user over all shards. Judges and counts; what is answered is `shard`'s to say, and the table of all
//! limits with their answers is docs/limits.md. Pure: it is told the time, and addresses are data.

mod nets;
mod rate;
pub mod refusals;
pub mod relief;
mod table;

use std::hash::BuildHasher;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

pub use nets::{Address, Net, Peer, any_contains};
pub use rate::{Gcra, Rate};
use relief::Rounds;
use table::{Forgettable, Table};

use crate::wire::forwarded::ForwardedHeader;

/// Refused messages of a connection that are answered with `error` 429: so many at once …
const REFUSALS_AT_ONCE: u64 = 10;
/// … and so many a second over time. Whoever goes on is closed.
const REFUSALS_PER_S: u64 = 1;

/// Every limit that refuses something, by its name in `uringcast_refusals_total{limit="…"}`.
macro_rules! limits {
    ($($(#[doc = $doc:literal])+ $Limit:ident = $name:literal,)*) => {
        /// A limit that refused something.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(u8)]
        pub enum Limit { $($(#[doc = $doc])+ $Limit,)* }

        impl Limit {
            /// All of them.
            pub const ALL: &[Limit] = &[$(Limit::$Limit,)*];

            /// Its name in metrics and in the log.
            pub fn name(self) -> &'static str {
                match self { $(Limit::$Limit => $name,)* }
            }
        }
    };
}

limits! {
    /// `limits.connections`.
    Connections = "connections",
    /// `limits.connections_per_shard`.
    ConnectionsPerShard = "connections_per_shard",
    /// `limits.connections_per_ip`.
    ConnectionsPerIp = "connections_per_ip",
    /// `limits.new_connections_per_ip_per_s`.
    NewConnectionsPerIp = "new_connections_per_ip",
    /// `limits.addresses`.
    Addresses = "addresses",
    /// `limits.memory_bytes`.
    Memory = "memory",
    /// File descriptors, or the kernel's memory, at accept.
    Descriptors = "descriptors",
    /// A PROXY header that is missing, malformed or late.
    ProxyProtocol = "proxy_protocol",
    /// `limits.header_bytes`, `limits.headers`.
    Header = "header",
    /// `limits.handshake_ms`.
    Handshake = "handshake",
    /// `auth.deadline_ms`.
    AuthDeadline = "auth_deadline",
    /// `limits.auth_attempts`.
    AuthAttempts = "auth_attempts",
    /// `limits.auth_failures_per_ip_per_minute`.
    AuthFailuresPerIp = "auth_failures_per_ip",
    /// Sign-ins of one user under `kick_old`.
    SignIns = "sign_ins",
    /// `auth.duplicate_login`.
    DuplicateLogin = "duplicate_login",
    /// `limits.connections_per_user`.
    ConnectionsPerUser = "connections_per_user",
    /// `limits.messages_per_s`.
    Messages = "messages",
    /// `limits.bytes_per_s`.
    Bytes = "bytes",
    /// `limits.user_messages_per_s`.
    UserMessages = "user_messages",
    /// `limits.user_bytes_per_s`.
    UserBytes = "user_bytes",
    /// `limits.message_bytes`, `limits.frame_bytes`, and fragments against the former.
    MessageBytes = "message_bytes",
    /// `limits.message_bytes`, what a compressed message inflates to.
    InflatedBytes = "inflated_bytes",
    /// `limits.unfinished_bytes`, `limits.unfinished_bytes_per_ip`.
    UnfinishedBytes = "unfinished_bytes",
    /// JSON that is malformed or nested too deeply.
    Json = "json",
    /// `limits.subscriptions`.
    Subscriptions = "subscriptions",
    /// `limits.channels`, or memory is short.
    Channels = "channels",
    /// `limits.push_bytes`.
    PushBytes = "push_bytes",
    /// `limits.outbox_bytes`.
    OutboxBytes = "outbox_bytes",
    /// `limits.request_ms`, and lanes that stayed full for half of it.
    Requests = "requests",
}

/// What the configuration says.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// Free of limits by address and of rates.
    pub exempt: Vec<Net>,
    /// Whose word on where a connection came from is taken.
    pub trusted_proxies: Vec<Net>,
    /// The one header in which they say it.
    pub forwarded_header: ForwardedHeader,
    /// Connections of the process.
    pub connections: usize,
    /// Connections that are only there to be told that they are refused.
    pub refusals: usize,
    /// Connections on one shard; 0 is no bound.
    pub connections_per_shard: usize,
    /// Connections of one address; 0 is no bound.
    pub connections_per_ip: u32,
    /// New connections of one address.
    pub arrivals: Option<Rate>,
    /// Tokens of one address that are refused.
    pub auth_failures: Option<Rate>,
    /// Tokens of one connection that are refused; 0 is no bound.
    pub auth_attempts: u8,
    /// Bytes of messages that are not whole, of the connections of one address; 0 is no bound.
    pub unfinished_per_ip: usize,
    /// The same of all connections; 0 is no bound.
    pub unfinished: usize,
    /// Origins that are remembered.
    pub addresses: usize,
    /// Of one connection.
    pub connection: Rates,
    /// Of one user, over all of their connections.
    pub user: Rates,
    /// Bytes of large answers that are made for one user.
    pub answers: Option<Rate>,
    /// Bytes of large answers that may be asked for or wait to be sent to one user at a time; 0 is no bound.
    pub unread_answers: u64,
    /// Users whose rates are remembered.
    pub users: usize,
}

/// How much may come in.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rates {
    /// Messages, pings among them.
    pub messages: Option<Rate>,
    /// Bytes.
    pub bytes: Option<Rate>,
}

/// The counts of all shards.
#[derive(Debug)]
pub struct Guard {
    rules: Rules,
    addresses: Table<Source>,
    users: Table<UserMeters>,
    short_of_memory: AtomicBool,
    /// Bytes of messages that are not whole.
    unfinished: AtomicUsize,
    relief: Rounds,
    /// Connections that were let in.
    connections: AtomicUsize,
    turned_away: TurnedAway,
}

/// One address.
#[derive(Debug, Default)]
struct Source {
    connections: u32,
    /// Bytes of messages that are not whole.
    unfinished: usize,
    arrivals: Gcra,
    failures: Gcra,
}

impl Forgettable for Source {
    fn is_spent(&self, now_ms: u64) -> bool {
        self.connections == 0 && self.unfinished == 0 && self.arrivals.is_full(now_ms) && self.failures.is_full(now_ms)
    }
}

#[derive(Debug, Default)]
struct UserMeters {
    messages: Gcra,
    bytes: Gcra,
    answers: Gcra,
    /// Bytes of large answers that were asked for, or made and not sent yet.
    unread_answers: u64,
}

impl Forgettable for UserMeters {
    fn is_spent(&self, now_ms: u64) -> bool {
        let rates = [self.messages, self.bytes, self.answers];
        self.unread_answers == 0 && rates.iter().all(|rate| rate.is_full(now_ms))
    }
}

/// How soon a user whose other connections have too much to read may ask again, in milliseconds.
const UNREAD_RETRY_MS: u64 = 50;

/// Addresses are told apart in so many groups, for their share of the refusals. Those that fall into one group share.
const REFUSAL_GROUPS: usize = 256;
/// One group has at most this part of all refusals.
const REFUSAL_SHARE: usize = 8;

/// Connections that are only there to be told that they are refused. They take no place of a connection that was let
/// in, and no address can have all of them: what is refused beyond a share is cut without an answer.
#[derive(Debug)]
struct TurnedAway {
    all: AtomicUsize,
    by_group: Box<[AtomicUsize]>,
    /// Secret, so that nobody chooses an address for its group.
    group_hash: foldhash::quality::RandomState,
}

impl TurnedAway {
    fn new() -> Self {
        let by_group = (0..REFUSAL_GROUPS).map(|_| AtomicUsize::new(0)).collect();
        Self { all: AtomicUsize::new(0), by_group, group_hash: foldhash::quality::RandomState::default() }
    }

    fn group(&self, address: Address) -> &AtomicUsize {
        let groups = self.by_group.len() as u64;
        &self.by_group[usize::try_from(self.group_hash.hash_one(address) % groups).unwrap_or(0)]
    }
}

/// Takes one of `most`, unless all are taken.
fn take(count: &AtomicUsize, most: usize) -> bool {
    count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |taken| (taken < most).then_some(taken + 1)).is_ok()
}

impl Guard {
    /// Nothing counted so far.
    pub fn new(rules: Rules) -> Self {
        let (addresses, users) = (Table::new(rules.addresses), Table::new(rules.users));
        Self {
            rules,
            addresses,
            users,
            short_of_memory: AtomicBool::new(false),
            unfinished: AtomicUsize::new(0),
            relief: Rounds::default(),
            connections: AtomicUsize::new(0),
            turned_away: TurnedAway::new(),
        }
    }

    /// What the configuration says.
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// Whether this peer is a proxy, whose word on where a connection came from is taken.
    pub fn is_proxy(&self, peer: Peer) -> bool {
        any_contains(&self.rules.trusted_proxies, peer)
    }

    /// Takes the place of one more connection in the process; false if there is none. It is to be given back with
    /// [`Guard::give_place_back`].
    pub fn take_place(&self) -> bool {
        take(&self.connections, self.rules.connections)
    }

    /// A connection that had a place is gone, or is refused after all.
    pub fn give_place_back(&self) {
        self.connections.fetch_sub(1, Ordering::Relaxed);
    }

    /// How many connections have a place.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Counts a connection from this peer. What is returned is to be given back with [`Guard::leave`]: what the
    /// connection counts under, [`Address::NONE`] if it is exempt.
    ///
    /// # Errors
    /// The limit that it would be over; it has not been counted then.
    pub fn enter(&self, peer: Peer, now_ms: u64) -> Result<Address, Limit> {
        if any_contains(&self.rules.exempt, peer) {
            return Ok(Address::NONE);
        }
        let address = Address::of(peer);
        let most = self.rules.connections_per_ip;
        let entered = self.addresses.with(address.bits(), now_ms, |source| {
            if most > 0 && source.connections >= most {
                return Err(Limit::ConnectionsPerIp);
            }
            if let Some(rate) = &self.rules.arrivals {
                source.arrivals.take(rate, 1, now_ms).map_err(|_| Limit::NewConnectionsPerIp)?;
            }
            source.connections += 1;
            Ok(address)
        });
        entered.unwrap_or(Err(Limit::Addresses))
    }

    /// A connection that was counted is gone.
    pub fn leave(&self, address: Address, now_ms: u64) {
        if address != Address::NONE {
            self.addresses.with(address.bits(), now_ms, |source| {
                source.connections = source.connections.saturating_sub(1);
            });
        }
    }

    /// A connection keeps `after` bytes of a message that is not whole, and kept `before`. Returns false if that is more
    /// than there is room for: it counts with `before` then.
    pub fn unfinished(&self, address: Address, before: usize, after: usize, now_ms: u64) -> bool {
        let Rules { unfinished: most, unfinished_per_ip: most_per_ip, .. } = self.rules;
        let grown = after.saturating_sub(before);
        let fits = |all: usize, most: usize| grown == 0 || most == 0 || all + grown <= most;
        let change = |all: usize| (all + after).saturating_sub(before);
        let all = self.unfinished.fetch_add(grown, Ordering::Relaxed);
        let has_room = fits(all, most)
            && (address == Address::NONE
                || self
                    .addresses
                    .with(address.bits(), now_ms, |source| {
                        let has_room = fits(source.unfinished, most_per_ip);
                        if has_room {
                            source.unfinished = change(source.unfinished);
                        }
                        has_room
                    })
                    .unwrap_or(true));
        let less = if has_room { before.saturating_sub(after) } else { grown };
        self.unfinished.fetch_sub(less, Ordering::Relaxed);
        has_room
    }

    /// Whether a token from there is looked at: not while too many were refused. A table that is full doesn't keep
    /// anyone from signing in.
    pub fn may_sign_in(&self, address: Address, now_ms: u64) -> bool {
        let Some(rate) = &self.rules.auth_failures else { return true };
        let in_bounds = |source: &mut Source| { source.failures }.take(rate, 1, now_ms).is_ok();
        address == Address::NONE || self.addresses.with(address.bits(), now_ms, in_bounds).unwrap_or(true)
    }

    /// A token from there was refused.
    pub fn sign_in_failed(&self, address: Address, now_ms: u64) {
        if let Some(rate) = &self.rules.auth_failures
            && address != Address::NONE
        {
            self.addresses.with(address.bits(), now_ms, |source| source.failures.charge(rate, 1, now_ms));
        }
    }

    /// Takes a message of a user.
    ///
    /// # Errors
    /// When it is one too many, or has too many bytes. A user who finds no room in the table isn't measured over
    /// connections; each connection is all the same.
    pub fn user_message(&self, user: &str, bytes: usize, now_ms: u64) -> Result<(), Limit> {
        let rates = &self.rules.user;
        if rates.messages.is_none() && rates.bytes.is_none() {
            return Ok(());
        }
        let take = |meters: &mut UserMeters| {
            if let Some(rate) = &rates.bytes {
                meters.bytes.take(rate, bytes as u64, now_ms).map_err(|_| Limit::UserBytes)?;
            }
            match &rates.messages {
                Some(rate) => meters.messages.take(rate, 1, now_ms).map_err(|_| Limit::UserMessages),
                None => Ok(()),
            }
        };
        self.users.with(self.users.key_of(user), now_ms, take).unwrap_or(Ok(()))
    }

    /// Takes bytes that a user's message became longer by out of the user's rate. What is over the rate is owed: the
    /// user's next messages are refused until it is paid.
    pub fn charge_user_bytes(&self, user: &str, bytes: usize, now_ms: u64) {
        if let Some(rate) = &self.rules.user.bytes {
            let charge = |meters: &mut UserMeters| meters.bytes.charge(rate, bytes as u64, now_ms);
            self.users.with(self.users.key_of(user), now_ms, charge);
        }
    }

    /// Takes an answer of at most `bytes` out of a user's rate, before it is made: each byte counts `cost` times.
    /// [`Guard::answer_made`] has to follow, and then [`Guard::answer_taken`].
    ///
    /// # Errors
    /// In how many milliseconds to ask again: the rate is used up, or the user's connections have too much to read.
    /// Nothing was taken then.
    pub fn reserve_answer(&self, user: &str, bytes: u64, cost: u64, now_ms: u64) -> Result<(), u64> {
        let Rules { answers, unread_answers: most, .. } = &self.rules;
        let reserve = |meters: &mut UserMeters| {
            if *most > 0 && meters.unread_answers > 0 && meters.unread_answers + bytes > *most {
                return Err(UNREAD_RETRY_MS);
            }
            if let Some(rate) = answers {
                meters.answers.take(rate, bytes * cost, now_ms)?;
            }
            meters.unread_answers += bytes;
            Ok(())
        };
        self.users.with(self.users.key_of(user), now_ms, reserve).unwrap_or(Ok(()))
    }

    /// The answer for which `reserved` bytes were taken has `made` bytes: the rest was not needed.
    pub fn answer_made(&self, user: &str, reserved: u64, made: u64, cost: u64, now_ms: u64) {
        let rest = reserved.saturating_sub(made) * cost;
        self.users.with(self.users.key_of(user), now_ms, |meters| {
            meters.unread_answers = (meters.unread_answers + made).saturating_sub(reserved);
            if let Some(rate) = &self.rules.answers {
                meters.answers.give_back(rate, rest);
            }
        });
    }

    /// An answer of so many bytes has been sent, or will not be.
    pub fn answer_taken(&self, user: &str, bytes: u64, now_ms: u64) {
        self.users.with(self.users.key_of(user), now_ms, |meters| {
            meters.unread_answers = meters.unread_answers.saturating_sub(bytes);
        });
    }

    /// Says whether memory is short: then nothing new is taken, and what is there goes on.
    pub fn set_short_of_memory(&self, short: bool) {
        self.short_of_memory.store(short, Ordering::Relaxed);
    }

    /// Whether memory is short.
    pub fn is_short_of_memory(&self) -> bool {
        self.short_of_memory.load(Ordering::Relaxed)
    }

    /// What gives way while memory is over its bound.
    pub fn relief(&self) -> &Rounds {
        &self.relief
    }

    /// One more connection is there only to be told that it is refused; false if there are too many of these, in all
    /// or of this address.
    pub fn turn_away(&self, address: Address) -> bool {
        let TurnedAway { all, .. } = &self.turned_away;
        let most = self.rules.refusals;
        if !take(self.turned_away.group(address), most.div_ceil(REFUSAL_SHARE)) {
            return false;
        }
        let has_room = take(all, most);
        if !has_room {
            self.turned_away.group(address).fetch_sub(1, Ordering::Relaxed);
        }
        has_room
    }

    /// It has been told, or has gone.
    pub fn was_turned_away(&self, address: Address) {
        self.turned_away.group(address).fetch_sub(1, Ordering::Relaxed);
        self.turned_away.all.fetch_sub(1, Ordering::Relaxed);
    }

    /// Origins that are remembered now.
    pub fn addresses(&self) -> usize {
        self.addresses.len()
    }
}

/// What one connection has sent of late. Kept only while it says something.
#[derive(Debug, Default)]
pub struct Meters {
    messages: Gcra,
    bytes: Gcra,
    refusals: Gcra,
}

impl Meters {
    /// So many bytes were received.
    pub fn received(&mut self, rates: &Rates, bytes: usize, now_ms: u64) {
        if let Some(rate) = &rates.bytes {
            self.bytes.charge(rate, bytes as u64, now_ms);
        }
    }

    /// Takes a message, whose bytes have been counted as they came.
    ///
    /// # Errors
    /// When it is one too many, or too many bytes have come.
    pub fn message(&mut self, rates: &Rates, now_ms: u64) -> Result<(), Limit> {
        if let Some(rate) = &rates.bytes {
            self.bytes.take(rate, 0, now_ms).map_err(|_| Limit::Bytes)?;
        }
        match &rates.messages {
            Some(rate) => self.messages.take(rate, 1, now_ms).map_err(|_| Limit::Messages),
            None => Ok(()),
        }
    }

    /// A message was refused. Returns whether the client goes on as if it hadn't been told.
    pub fn refused(&mut self, now_ms: u64) -> bool {
        let rate = Rate::per_s(REFUSALS_PER_S, REFUSALS_AT_ONCE);
        rate.is_none_or(|rate| self.refusals.take(&rate, 1, now_ms).is_err())
    }

    /// Whether nothing need be remembered.
    pub fn is_spent(&self, now_ms: u64) -> bool {
        self.messages.is_full(now_ms) && self.bytes.is_full(now_ms) && self.refusals.is_full(now_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> Peer {
        Peer::Ip(text.parse().unwrap())
    }

    fn guard(change: impl FnOnce(&mut Rules)) -> Guard {
        let mut rules = Rules { addresses: 10_000, users: 10_000, ..Rules::default() };
        change(&mut rules);
        Guard::new(rules)
    }

    #[test]
    fn connections_of_an_origin_are_counted_as_they_come_and_go() {
        let guard = guard(|rules| rules.connections_per_ip = 2);
        let (one, two) = (ip("2001:db8::1"), ip("2001:db8::ffff"));
        let address = guard.enter(one, 0).unwrap();
        guard.enter(two, 0).unwrap();
        assert_eq!(guard.enter(one, 0), Err(Limit::ConnectionsPerIp));
        assert!(guard.enter(ip("2001:db8:0:1::1"), 0).is_ok(), "another /64");
        guard.leave(address, 0);
        assert!(guard.enter(one, 0).is_ok());
        [address; 2].iter().for_each(|address| guard.leave(*address, 0));
        guard.leave(Address::of(ip("2001:db8:0:1::1")), 0);
        assert_eq!(guard.addresses(), 0);
    }

    #[test]
    fn arrivals_flow() {
        let guard = guard(|rules| rules.arrivals = Rate::per_s(1, 3));
        let come = |now_ms| guard.enter(ip("192.0.2.1"), now_ms).map(|address| guard.leave(address, now_ms));
        for _ in 0..3 {
            come(0).unwrap();
        }
        assert_eq!(come(0), Err(Limit::NewConnectionsPerIp));
        assert!(come(999).is_err() && come(1_000).is_ok() && come(1_000).is_err());
    }

    #[test]
    fn the_exempt_are_not_counted() {
        let guard = guard(|rules| {
            rules.connections_per_ip = 1;
            rules.exempt = vec!["127.0.0.0/8".parse().unwrap()];
        });
        for _ in 0..5 {
            assert_eq!(guard.enter(ip("::ffff:127.0.0.1"), 0), Ok(Address::NONE));
        }
        assert!(guard.may_sign_in(Address::NONE, 0) && guard.addresses() == 0);
    }

    #[test]
    fn refused_tokens_of_an_origin_end_in_none_being_looked_at_for_a_while() {
        let guard = guard(|rules| rules.auth_failures = Rate::per_minute(60, 2));
        let address = Address::of(ip("192.0.2.1"));
        for _ in 0..2 {
            assert!(guard.may_sign_in(address, 0));
            guard.sign_in_failed(address, 0);
        }
        assert!(!guard.may_sign_in(address, 999) && guard.may_sign_in(address, 1_000));
        assert!(guard.may_sign_in(Address::of(ip("192.0.2.2")), 0));
    }

    #[test]
    fn a_user_is_measured_over_all_connections() {
        let guard = guard(|rules| rules.user = Rates { messages: Rate::per_s(1, 3), bytes: Rate::per_s(10, 100) });
        assert_eq!(guard.user_message("ann", 100, 0), Ok(()));
        assert_eq!(guard.user_message("ann", 1, 0), Err(Limit::UserBytes));
        assert_eq!(guard.user_message("ann", 0, 0), Ok(()));
        assert_eq!(guard.user_message("ann", 0, 0), Ok(()));
        assert_eq!(guard.user_message("ann", 0, 0), Err(Limit::UserMessages));
        assert_eq!(guard.user_message("bob", 0, 0), Ok(()));
    }

    #[test]
    fn answers_are_paid_for_before_they_are_made() {
        let guard = guard(|rules| (rules.answers, rules.unread_answers) = (Rate::per_s(10, 100), 70));
        // Three answers of at most 30 bytes: the third is too much to read, though there would be enough to pay for it.
        assert_eq!(guard.reserve_answer("ann", 30, 1, 0), Ok(()));
        assert_eq!(guard.reserve_answer("ann", 30, 1, 0), Ok(()));
        assert_eq!(guard.reserve_answer("ann", 30, 1, 0), Err(UNREAD_RETRY_MS));
        assert_eq!(guard.reserve_answer("bob", 30, 1, 0), Ok(()), "another user");
        // What was not needed is given back, of the rate and of what is unread.
        guard.answer_made("ann", 30, 5, 1, 0);
        assert_eq!(guard.reserve_answer("ann", 30, 1, 0), Ok(()));
        for bytes in [5, 30, 30] {
            guard.answer_taken("ann", bytes, 0);
        }
        // 35 are left of the rate, and one byte counts three times.
        assert_eq!(guard.reserve_answer("ann", 12, 3, 0), Err(100));
        assert_eq!(guard.reserve_answer("ann", 12, 3, 100), Ok(()));
        guard.answer_made("ann", 12, 0, 3, 100);
        assert_eq!(guard.reserve_answer("ann", 36, 1, 100), Ok(()));
    }

    #[test]
    fn unfinished_messages_of_an_address_and_of_all_have_a_bound() {
        let guard = guard(|rules| (rules.unfinished_per_ip, rules.unfinished) = (10, 25));
        let address = |last: u8| Address::of(core::net::IpAddr::from([192, 0, 2, last]).into());
        assert!(guard.unfinished(address(1), 0, 4, 0) && guard.unfinished(address(1), 4, 10, 0));
        assert!(!guard.unfinished(address(1), 0, 1, 0), "the address is full");
        assert!(guard.unfinished(address(2), 0, 10, 0) && guard.unfinished(Address::NONE, 0, 5, 0));
        assert!(!guard.unfinished(address(3), 0, 1, 0) && !guard.unfinished(Address::NONE, 0, 1, 0), "all are full");
        assert!(guard.unfinished(address(1), 10, 3, 0) && guard.unfinished(address(3), 0, 7, 0));
        assert!(!guard.unfinished(address(3), 7, 8, 0));
    }

    #[test]
    fn a_client_over_its_rate_is_told_and_closed_if_it_goes_on() {
        let rates = Rates { messages: Rate::per_s(10, 5), bytes: Rate::per_s(1_000, 1_000) };
        let mut meters = Meters::default();
        (0..5).for_each(|_| meters.message(&rates, 0).unwrap());
        assert_eq!(meters.message(&rates, 0), Err(Limit::Messages));
        for _ in 0..REFUSALS_AT_ONCE {
            assert!(!meters.refused(0));
        }
        assert!(meters.refused(0) && meters.refused(999) && !meters.refused(1_000));
        meters.received(&rates, 5_000, 60_000);
        assert_eq!(meters.message(&rates, 60_000), Err(Limit::Bytes));
        assert_eq!(meters.message(&rates, 60_999), Err(Limit::Bytes), "a second's debt is the most");
        assert_eq!(meters.message(&rates, 61_000), Ok(()));
        assert!(!meters.is_spent(61_000) && meters.is_spent(62_000));
    }

    #[test]
    fn one_address_has_its_share_of_the_refusals_and_no_more() {
        let guard = guard(|rules| rules.refusals = 64);
        let told = |address: Peer| (0..100).filter(|_| guard.turn_away(Address::of(address))).count();
        let greedy = ip("192.0.2.1");
        assert_eq!(told(greedy), 64 / REFUSAL_SHARE);
        let innocent = (0..=255).map(|last| ip(&format!("198.51.100.{last}")));
        assert_eq!(innocent.map(|peer| usize::from(guard.turn_away(Address::of(peer)))).sum::<usize>(), 64 - 8);
        guard.was_turned_away(Address::of(greedy));
        assert_eq!(told(greedy), 1);
    }

    #[test]
    fn the_process_has_so_many_places() {
        let guard = guard(|rules| rules.connections = 2);
        assert!(guard.take_place() && guard.take_place() && !guard.take_place());
        guard.give_place_back();
        assert!(guard.take_place() && guard.connections() == 2);
    }
}
