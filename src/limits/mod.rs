//! Limits: their names, the rates, and the counts over all shards, by address and by user. [`Guard`] has the counts that
//! all shards share, [`Meters`] those of one connection. This module decides; `shard` answers the client. docs/limits.md
//! lists every limit with its answer. Pure: the caller tells the time, and addresses are data.

pub(crate) mod api_bound;
mod labelled;
mod nets;
mod rate;
pub(crate) mod refusals;
pub(crate) mod relief;
mod table;

use std::hash::BuildHasher;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

pub(crate) use labelled::labelled;
pub use nets::{Address, Net, Peer, any_contains};
pub use rate::{Gcra, Rate};
use relief::Rounds;
use table::{Forgettable, Table};

use crate::wire::forwarded::ForwardedHeader;

/// How many refused messages of a connection are answered with `error` 429 at once, before it is closed.
const REFUSALS_AT_ONCE: u64 = 10;
/// How many refused messages a second are answered with `error` 429 over time.
const REFUSALS_PER_S: u64 = 1;

labelled! {
    /// A limit that refused something. The name is its label in `uringcast_refusals_total{limit="…"}`.
    pub(crate) enum Limit, log prefix "" {
        /// `limits.connections`: connections of the whole process.
        Connections = "connections",
        /// `limits.connections_per_shard`: connections of one shard.
        ConnectionsPerShard = "connections_per_shard",
        /// `limits.connections_per_ip`: connections of one address.
        ConnectionsPerIp = "connections_per_ip",
        /// `limits.new_connections_per_ip_per_s`: the rate of new connections of one address.
        NewConnectionsPerIp = "new_connections_per_ip",
        /// `limits.addresses`: addresses that are remembered.
        Addresses = "addresses",
        /// `limits.memory_bytes`: resident memory of the process.
        Memory = "memory",
        /// The kernel has no file descriptor or memory for a new connection.
        Descriptors = "descriptors",
        /// A trusted proxy's PROXY header is missing, malformed or late.
        ProxyProtocol = "proxy_protocol",
        /// `limits.header_bytes` and `limits.headers`: the size of a request's head.
        Header = "header",
        /// `limits.handshake_ms`: the time until a handshake is complete.
        Handshake = "handshake",
        /// `auth.deadline_ms`: the time until a connection has signed in.
        AuthDeadline = "auth_deadline",
        /// `limits.auth_attempts`: refused tokens of one connection.
        AuthAttempts = "auth_attempts",
        /// `limits.auth_failures_per_ip_per_minute`: refused tokens of one address.
        AuthFailuresPerIp = "auth_failures_per_ip",
        /// Sign-ins of one user that follow each other too fast under `kick_old`.
        SignIns = "sign_ins",
        /// `auth.duplicate_login`: the user is connected already.
        DuplicateLogin = "duplicate_login",
        /// `limits.connections_per_user`: connections of one user.
        ConnectionsPerUser = "connections_per_user",
        /// `limits.messages_per_s`: the rate of messages of one connection.
        Messages = "messages",
        /// `limits.bytes_per_s`: the rate of bytes of one connection.
        Bytes = "bytes",
        /// `limits.user_messages_per_s`: the rate of messages of one user.
        UserMessages = "user_messages",
        /// `limits.user_bytes_per_s`: the rate of bytes of one user.
        UserBytes = "user_bytes",
        /// `limits.message_bytes` and `limits.frame_bytes`: the size of one message, and of one frame.
        MessageBytes = "message_bytes",
        /// `limits.message_bytes`: the size that a compressed message inflates to.
        InflatedBytes = "inflated_bytes",
        /// `limits.unfinished_bytes` and `limits.unfinished_bytes_per_ip`: bytes of unfinished messages.
        UnfinishedBytes = "unfinished_bytes",
        /// A message is not JSON, or is nested too deeply.
        Json = "json",
        /// `limits.subscriptions`: channels of one connection.
        Subscriptions = "subscriptions",
        /// `limits.channels`: channels of the process; or memory is short.
        Channels = "channels",
        /// `limits.push_bytes`: the size of one encoded push.
        PushBytes = "push_bytes",
        /// `limits.outbox_bytes`: unsent bytes of one connection.
        OutboxBytes = "outbox_bytes",
        /// `limits.request_ms`: the time of one request; or a lane stayed full for half of it.
        Requests = "requests",
    }
}

/// The configured limits of a [`Guard`].
#[derive(Clone, Debug, Default)]
pub struct GuardSettings {
    /// Networks that are free of limits by address and of rates.
    pub exempt: Vec<Net>,
    /// Networks of proxies, which say where a connection came from.
    pub trusted_proxies: Vec<Net>,
    /// The header in which trusted proxies say where a connection came from.
    pub forwarded_header: ForwardedHeader,
    /// The most connections of the process.
    pub connections: usize,
    /// The most connections at a time that are only being told that they are refused.
    pub refusals: usize,
    /// The most connections on one shard; 0 is no bound.
    pub connections_per_shard: usize,
    /// The most connections of one address; 0 is no bound.
    pub connections_per_ip: u32,
    /// How many new connections one address may make; `None` is no bound.
    pub arrivals: Option<Rate>,
    /// How many tokens of one address may be refused; `None` is no bound.
    pub auth_failures: Option<Rate>,
    /// How many tokens of one connection may be refused; 0 is no bound.
    pub auth_attempts: u8,
    /// The most bytes of unfinished messages over the connections of one address; 0 is no bound.
    pub unfinished_per_ip: usize,
    /// The most bytes of unfinished messages over all connections; 0 is no bound.
    pub unfinished: usize,
    /// The most addresses that are remembered.
    pub addresses: usize,
    /// How much one connection may send.
    pub connection: Rates,
    /// How much one user may send, over all of the user's connections.
    pub user: Rates,
    /// How many bytes of large answers one user may get; `None` is no bound.
    pub answers: Option<Rate>,
    /// The most bytes of large answers that are asked for or unsent for one user at a time; 0 is no bound.
    pub unread_answers: u64,
    /// The most users whose rates are remembered.
    pub users: usize,
}

/// How much may be received from a connection or a user.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rates {
    /// The rate of messages, pings included; `None` is no bound.
    pub(crate) messages: Option<Rate>,
    /// The rate of bytes; `None` is no bound.
    pub(crate) bytes: Option<Rate>,
}

impl Rates {
    /// Whether there is a bound.
    pub(crate) fn is_limited(&self) -> bool {
        self.messages.is_some() || self.bytes.is_some()
    }
}

/// The counts that all shards share, and the decisions that depend on them.
#[derive(Debug)]
pub struct Guard {
    settings: GuardSettings,
    addresses: Table<AddressCounts>,
    users: Table<UserMeters>,
    short_of_memory: AtomicBool,
    /// Bytes of unfinished messages over all connections.
    unfinished: AtomicUsize,
    relief: Rounds,
    /// Connections that were admitted and have not ended.
    connections: AtomicUsize,
    turned_away: TurnedAway,
}

/// The counts of one address.
#[derive(Debug, Default)]
struct AddressCounts {
    connections: u32,
    /// Bytes of unfinished messages.
    unfinished: usize,
    arrivals: Gcra,
    failures: Gcra,
}

impl Forgettable for AddressCounts {
    fn is_spent(&self, now_ms: u64) -> bool {
        self.connections == 0 && self.unfinished == 0 && self.arrivals.is_full(now_ms) && self.failures.is_full(now_ms)
    }
}

/// The counts of one user, over all of the user's connections.
#[derive(Debug, Default)]
struct UserMeters {
    messages: Gcra,
    bytes: Gcra,
    answers: Gcra,
    /// Bytes of large answers that were asked for, or made and not sent yet. Each counts once.
    unread_answers: u64,
}

impl Forgettable for UserMeters {
    fn is_spent(&self, now_ms: u64) -> bool {
        let rates = [self.messages, self.bytes, self.answers];
        self.unread_answers == 0 && rates.iter().all(|rate| rate.is_full(now_ms))
    }
}

/// How soon a user whose connections have too much unsent may ask again, in milliseconds.
const UNREAD_RETRY_MS: u64 = 50;

/// Addresses are hashed into this many groups, and each group has one share of the refusals.
const REFUSAL_GROUPS: usize = 256;
/// One group may have one in this many of all refusals.
const REFUSAL_SHARE: usize = 8;

/// Counts the connections that are only being told that they are refused. They take no place of an admitted connection,
/// and no address can have all of them: a connection beyond its group's share is cut without an answer.
#[derive(Debug)]
struct TurnedAway {
    all: AtomicUsize,
    by_group: Box<[AtomicUsize]>,
    /// Randomly seeded, so that a client cannot choose an address of a certain group.
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

/// Raises `count` by one unless it has reached `most`. Returns whether it was raised.
fn take(count: &AtomicUsize, most: usize) -> bool {
    count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |taken| (taken < most).then_some(taken + 1)).is_ok()
}

impl Guard {
    /// A guard that has counted nothing so far.
    pub fn new(settings: GuardSettings) -> Self {
        let (addresses, users) = (Table::new(settings.addresses), Table::new(settings.users));
        Self {
            settings,
            addresses,
            users,
            short_of_memory: AtomicBool::new(false),
            unfinished: AtomicUsize::new(0),
            relief: Rounds::default(),
            connections: AtomicUsize::new(0),
            turned_away: TurnedAway::new(),
        }
    }

    /// The limits that the configuration sets.
    pub fn settings(&self) -> &GuardSettings {
        &self.settings
    }

    /// Whether this peer is a trusted proxy, which says where its connections came from.
    pub(crate) fn is_proxy(&self, peer: Peer) -> bool {
        any_contains(&self.settings.trusted_proxies, peer)
    }

    /// Takes the place of one more connection in the process. Returns `false` if all are taken. The caller gives the
    /// place back with [`Guard::give_place_back`].
    pub(crate) fn take_place(&self) -> bool {
        take(&self.connections, self.settings.connections)
    }

    /// Gives a place back: its connection has ended, or is refused after all.
    pub(crate) fn give_place_back(&self) {
        self.connections.fetch_sub(1, Ordering::Relaxed);
    }

    /// The number of connections that have a place.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Counts a connection from this peer. Returns the address that the connection counts under, or [`Address::NONE`] if
    /// the peer is exempt. The caller gives it to [`Guard::leave`] when the connection ends.
    ///
    /// # Errors
    /// The limit that the connection would exceed; it has not been counted then.
    pub(crate) fn enter(&self, peer: Peer, now_ms: u64) -> Result<Address, Limit> {
        if any_contains(&self.settings.exempt, peer) {
            return Ok(Address::NONE);
        }
        let address = Address::of(peer);
        let most = self.settings.connections_per_ip;
        let entered = self.addresses.with(address.bits(), now_ms, |source| {
            if most > 0 && source.connections >= most {
                return Err(Limit::ConnectionsPerIp);
            }
            if let Some(rate) = &self.settings.arrivals {
                source.arrivals.take(rate, 1, now_ms).map_err(|_| Limit::NewConnectionsPerIp)?;
            }
            source.connections += 1;
            Ok(address)
        });
        entered.unwrap_or(Err(Limit::Addresses))
    }

    /// Counts that a connection of this address has ended.
    pub(crate) fn leave(&self, address: Address, now_ms: u64) {
        if address != Address::NONE {
            self.addresses.with(address.bits(), now_ms, |source| {
                source.connections = source.connections.saturating_sub(1);
            });
        }
    }

    /// Counts that a connection keeps `after` bytes of an unfinished message, and kept `before`. Returns `false` if there
    /// is no room for them; the connection still counts with `before` then.
    pub(crate) fn unfinished(&self, address: Address, before: usize, after: usize, now_ms: u64) -> bool {
        let GuardSettings { unfinished: most, unfinished_per_ip: most_per_ip, .. } = self.settings;
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

    /// Whether a token from this address is verified: not while too many were refused. If the table of addresses is full,
    /// a new address is not limited.
    pub(crate) fn may_sign_in(&self, address: Address, now_ms: u64) -> bool {
        let Some(rate) = &self.settings.auth_failures else { return true };
        let in_bounds = |source: &mut AddressCounts| { source.failures }.take(rate, 1, now_ms).is_ok();
        address == Address::NONE || self.addresses.with(address.bits(), now_ms, in_bounds).unwrap_or(true)
    }

    /// Counts a refused token of this address.
    pub(crate) fn sign_in_failed(&self, address: Address, now_ms: u64) {
        if let Some(rate) = &self.settings.auth_failures
            && address != Address::NONE
        {
            self.addresses.with(address.bits(), now_ms, |source| source.failures.charge(rate, 1, now_ms));
        }
    }

    /// Counts a message of a user.
    ///
    /// # Errors
    /// The limit that the message exceeds; it has not been counted then. If the table of users is full, a new user is
    /// not limited here. The limits of each connection still apply.
    pub(crate) fn user_message(&self, user: &str, bytes: usize, now_ms: u64) -> Result<(), Limit> {
        let rates = &self.settings.user;
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

    /// Counts bytes that a user's message grew by when it was inflated. Bytes over the rate become a debt: the user's next
    /// messages are refused until it is paid.
    pub(crate) fn charge_user_bytes(&self, user: &str, bytes: usize, now_ms: u64) {
        if let Some(rate) = &self.settings.user.bytes {
            let charge = |meters: &mut UserMeters| meters.bytes.charge(rate, bytes as u64, now_ms);
            self.users.with(self.users.key_of(user), now_ms, charge);
        }
    }

    /// Counts an answer of at most `bytes` against a user's rate before it is made; each byte counts `cost` times. The
    /// caller must call [`Guard::answer_made`] after this, and then [`Guard::answer_taken`].
    ///
    /// # Errors
    /// The number of milliseconds after which to ask again: the rate is used up, or the user's connections have too much
    /// unsent. Nothing was counted then.
    pub(crate) fn reserve_answer(&self, user: &str, bytes: u64, cost: u64, now_ms: u64) -> Result<(), u64> {
        let GuardSettings { answers, unread_answers: most, .. } = &self.settings;
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

    /// Gives back what an answer did not need: `reserved` bytes were counted for it, and it has `made` bytes.
    pub(crate) fn answer_made(&self, user: &str, reserved: u64, made: u64, cost: u64, now_ms: u64) {
        let rest = reserved.saturating_sub(made) * cost;
        self.users.with(self.users.key_of(user), now_ms, |meters| {
            meters.unread_answers = (meters.unread_answers + made).saturating_sub(reserved);
            if let Some(rate) = &self.settings.answers {
                meters.answers.give_back(rate, rest);
            }
        });
    }

    /// Counts that `bytes` of an answer have been sent, or will never be.
    pub(crate) fn answer_taken(&self, user: &str, bytes: u64, now_ms: u64) {
        self.users.with(self.users.key_of(user), now_ms, |meters| {
            meters.unread_answers = meters.unread_answers.saturating_sub(bytes);
        });
    }

    /// Sets whether memory is short. While it is, new connections and channels are refused.
    pub(crate) fn set_short_of_memory(&self, short: bool) {
        self.short_of_memory.store(short, Ordering::Relaxed);
    }

    /// Whether memory is short.
    pub(crate) fn is_short_of_memory(&self) -> bool {
        self.short_of_memory.load(Ordering::Relaxed)
    }

    /// The rounds in which queues and histories are given up while memory is short.
    pub(crate) fn relief(&self) -> &Rounds {
        &self.relief
    }

    /// Counts one more connection that is only told that it is refused. Returns `false` if there are too many of these,
    /// in all or of this address's group.
    pub(crate) fn turn_away(&self, address: Address) -> bool {
        let TurnedAway { all, .. } = &self.turned_away;
        let most = self.settings.refusals;
        if !take(self.turned_away.group(address), most.div_ceil(REFUSAL_SHARE)) {
            return false;
        }
        let has_room = take(all, most);
        if !has_room {
            self.turned_away.group(address).fetch_sub(1, Ordering::Relaxed);
        }
        has_room
    }

    /// Counts that such a connection has been told, or has gone.
    pub(crate) fn was_turned_away(&self, address: Address) {
        self.turned_away.group(address).fetch_sub(1, Ordering::Relaxed);
        self.turned_away.all.fetch_sub(1, Ordering::Relaxed);
    }

    /// The number of addresses that are remembered.
    #[cfg(test)]
    pub(crate) fn addresses(&self) -> usize {
        self.addresses.len()
    }
}

/// What one connection has sent of late. The owner drops it once [`Meters::is_spent`].
#[derive(Debug, Default)]
pub(crate) struct Meters {
    messages: Gcra,
    bytes: Gcra,
    refusals: Gcra,
}

impl Meters {
    /// Counts bytes that were received.
    pub(crate) fn received(&mut self, rates: &Rates, bytes: usize, now_ms: u64) {
        if let Some(rate) = &rates.bytes {
            self.bytes.charge(rate, bytes as u64, now_ms);
        }
    }

    /// Counts a message. Its bytes were counted when they were received.
    ///
    /// # Errors
    /// The limit that the message or its bytes exceed.
    pub(crate) fn message(&mut self, rates: &Rates, now_ms: u64) -> Result<(), Limit> {
        if let Some(rate) = &rates.bytes {
            self.bytes.take(rate, 0, now_ms).map_err(|_| Limit::Bytes)?;
        }
        match &rates.messages {
            Some(rate) => self.messages.take(rate, 1, now_ms).map_err(|_| Limit::Messages),
            None => Ok(()),
        }
    }

    /// Counts a refused message. Returns whether there were too many of them, so that the client is closed.
    pub(crate) fn refused(&mut self, now_ms: u64) -> bool {
        let rate = Rate::per_s(REFUSALS_PER_S, REFUSALS_AT_ONCE);
        rate.is_none_or(|rate| self.refusals.take(&rate, 1, now_ms).is_err())
    }

    /// Whether these counts are the same as new ones.
    pub(crate) fn is_spent(&self, now_ms: u64) -> bool {
        self.messages.is_full(now_ms) && self.bytes.is_full(now_ms) && self.refusals.is_full(now_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> Peer {
        Peer::Ip(text.parse().unwrap())
    }

    fn guard(change: impl FnOnce(&mut GuardSettings)) -> Guard {
        let mut settings = GuardSettings { addresses: 10_000, users: 10_000, ..GuardSettings::default() };
        change(&mut settings);
        Guard::new(settings)
    }

    #[test]
    fn connections_of_an_address_are_counted_as_they_come_and_go() {
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
