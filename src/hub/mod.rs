//! The owner's side: the channels that this shard owns and, on the lobby's owner, the users. An ask comes in,
//! answers and deliveries go out through the staging lanes; there is no I/O and no waiting in here.
//! One owner per channel makes one order. `shard` calls it for every parcel addressed to an owner.

mod attach;
mod batch;
mod caller;
mod channel;
pub mod engine;
mod follow;
mod key;
mod many;
pub mod presence;
mod publish;
mod queue;
mod recovery;
mod remote;
mod subscribers;
mod table;
pub(crate) mod users;

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use crate::ids::{ConnId, ShardId};
use crate::limits::Guard;
use crate::mesh::Staging;
use crate::model::namespace::Namespaces;
use crate::model::parcel::{Answer, Ask, Asker, Claim, PageSize, Parcel, Refusal, UsersPage};
use crate::model::publication::Publication;
use crate::model::user::{DuplicateLogin, User};
use crate::time::clock::Now;
use crate::time::wheel::{TICK_MS, Wheel};
use batch::Performed;
use caller::{Caller, answer, defer};
use channel::Channel;
use engine::{Engine, EngineKind, EngineSettings};
use key::ChannelKey;
use many::ManyUnderWay;
use publish::Publisher;
use queue::SlotState;
use recovery::{claimed, history, recovered};
use remote::AtEngine;
use table::ChannelTable;
use users::{Users, Waiter};

pub use crate::model::namespace::LOBBY;

/// A channel without subscribers and history is kept for this long, and for as long as its history would be. A client
/// that was away for less finds the offsets that it knows. A channel in which nothing was ever published has nothing to
/// keep and goes with its last subscriber. When all places are taken, the channel that is unused for longest goes.
const IDLE_MS: u64 = 5 * 60_000;
/// The resolution of the list of channels without subscribers. Without it, a channel that only the backend uses would
/// move in the list at every publication.
const IDLE_STEP_MS: u64 = 1_000;
/// Purge the wheel when it holds more stale entries than this, or more than there are channels.
const OUTLIVED: usize = 1_024;

/// The shard that owns a channel. The hash is FNV-1a: every shard, every run and every other program gets the same.
pub fn owner_of(channel: &str, shards: usize) -> ShardId {
    if shards == 1 {
        return ShardId(0);
    }
    let hash = channel
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    ShardId(u16::try_from(hash % shards as u64).expect("at most 256 shards"))
}

/// What the hub needs to know of the configuration. Bounds are those of one shard.
#[derive(Clone, Debug)]
pub struct HubSettings {
    /// How many shards there are.
    pub shards: usize,
    /// The rules of all channels.
    pub namespaces: Arc<Namespaces>,
    /// What a second sign-in of a user does.
    pub duplicate_login: DuplicateLogin,
    /// Most connections of one user; 0 is no bound.
    pub connections_per_user: usize,
    /// Whether a user's connections have to show a sign of life before a sign-in is refused for them.
    pub probes: bool,
    /// Says when memory is short. The hub then makes no channel.
    pub guard: Arc<Guard>,
    /// The length of a publication's frame in the native protocol, which limits count in. The hub knows no dialect.
    pub frame_len: fn(&Publication) -> usize,
    /// Largest encoded push, in bytes.
    pub push_bytes: usize,
    /// Most bytes of publications in one recovery or page.
    pub recover_bytes: usize,
    /// How long an ask may wait for room in the lanes before it is refused, and then for a remote engine before it is
    /// answered 504 or 503.
    pub patience_ms: u64,
    /// Most channels that this shard owns.
    pub channels: usize,
    /// How publications are ordered and kept.
    pub engine: EngineSettings,
    /// In channels with more members than this, presence events are digests.
    pub presence_digest_above: u64,
    /// Most users named in one digest.
    pub presence_list: usize,
}

impl HubSettings {
    /// How many endpoints the mesh has: the shards, and a remote engine behind them.
    pub fn endpoints(&self) -> usize {
        self.shards + usize::from(self.engine.kind == EngineKind::Remote)
    }
}

/// How much a hub holds now, and how much it has done since it began.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HubHoldings {
    /// Users online, on the lobby's owner.
    pub(crate) users: usize,
    /// The number of channels of this shard.
    pub(crate) channels: usize,
    /// Bytes of all histories.
    pub(crate) history_bytes: usize,
    /// Publications accepted so far.
    pub(crate) publications: u64,
    /// Publications that left a history because all histories together were too large.
    pub(crate) evictions: u64,
    /// Channels without subscribers that were removed to make a place for new ones.
    pub(crate) channel_evictions: u64,
    /// Batch windows that ended early because they were full.
    pub(crate) batches_cut: u64,
}

/// A channel as its owner sees it.
#[derive(Debug)]
#[doc(hidden)]
pub struct OwnedChannel {
    pub name: Arc<str>,
    pub epoch: Arc<str>,
    pub offset: u64,
    pub subscribers: usize,
    pub members: u64,
}

/// One shard's channels, and the users if it owns the lobby.
#[derive(Debug)]
pub(crate) struct Hub {
    settings: HubSettings,
    channels: ChannelTable,
    users: Users,
    engine: Engine,
    /// Asks under way at a remote engine, and its news.
    at_engine: AtEngine,
    publisher: Publisher,
    many: ManyUnderWay,
    /// Asks that found a lane full, and all asks that came after the first of them. The credits of all shards bound it.
    waiting: VecDeque<WaitingAsk>,
    /// Channels whose batch window is open, by the end of the window. The wheel is too coarse for that.
    batches: BTreeSet<(u64, ChannelKey)>,
    /// Batch windows that ended early.
    batches_cut: u64,
    /// The end of a batch window that the driver was last asked to wake the shard for.
    alarm_ms: u64,
    /// Batch windows end in the turn in which they open.
    is_windowless: bool,
    /// Channels by their next deadline.
    wheel: Wheel<ChannelKey>,
    /// An upper bound of how many entries of the wheel are about channels that are gone.
    outlived: usize,
    /// Channels without subscribers, by when they were last used.
    deserted: BTreeSet<(u64, ChannelKey)>,
    publications: u64,
    channel_evictions: u64,
}

/// An ask that waits for room in the lanes.
#[derive(Debug)]
struct WaitingAsk {
    caller: Caller,
    ask: Ask,
    until_ms: u64,
}

impl Hub {
    /// One shard's hub. `seed` makes the epochs: random in a server, given in a simulation.
    pub(crate) fn new(settings: HubSettings, seed: u64) -> Self {
        let endpoint = ShardId(u16::try_from(settings.shards).expect("at most 256 shards"));
        Self {
            engine: Engine::new(&settings.engine, endpoint, seed),
            settings,
            channels: ChannelTable::default(),
            users: Users::default(),
            at_engine: AtEngine::default(),
            publisher: Publisher::default(),
            many: ManyUnderWay::default(),
            waiting: VecDeque::new(),
            batches: BTreeSet::new(),
            batches_cut: 0,
            alarm_ms: 0,
            is_windowless: false,
            wheel: Wheel::default(),
            outlived: 0,
            deserted: BTreeSet::new(),
            publications: 0,
            channel_evictions: 0,
        }
    }

    /// Takes an ask. The answer comes now, or in a later turn if a lane is full or the ask has to wait for something.
    pub(crate) fn ask(&mut self, asker: Asker, request: u32, ask: Ask, now: Now, out: &mut Staging<Parcel>) {
        let caller = Caller { asker, request, credit: true };
        if let Ask::PublishMany(many) = ask {
            return self.publish_many(caller, *many, now, out);
        }
        let key = self.channels.find(channel_of(&ask));
        // An ask that waits holds up all asks after it, so that answers keep the order of the asks.
        if !self.waiting.is_empty() || !self.has_room(&ask, key, out) {
            let until_ms = now.mono_ms + self.settings.patience_ms;
            self.waiting.push_back(WaitingAsk { caller, ask, until_ms });
        } else {
            self.execute(caller, ask, key, now, out);
        }
    }

    /// Whether asks wait for room.
    pub(crate) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// The hub's part of a turn: ends batch windows, applies the engine's news, and retries asks that wait for room.
    pub(crate) fn turn(&mut self, now: Now, out: &mut Staging<Parcel>) {
        if self.is_windowless {
            self.end_batches(now, out);
        }
        while self.batches.first().is_some_and(|(until_ms, _)| *until_ms <= now.mono_ms) {
            let Some((_, key)) = self.batches.pop_first() else { break };
            self.end_batch(key, now, out);
        }
        self.engine_turn(now, out);
        self.retry(now, out);
        if self.is_windowless {
            self.end_batches(now, out);
        }
    }

    /// The server is about to stop. Ends every batch window now, and each later one in the turn in which it opens.
    pub(crate) fn end_windows(&mut self, now: Now, out: &mut Staging<Parcel>) {
        self.is_windowless = true;
        self.end_batches(now, out);
    }

    /// Whether a publication or a sign-in waits for time to pass, or for the engine.
    pub(crate) fn is_holding(&self) -> bool {
        !self.batches.is_empty() || self.users.is_probing() || self.is_at_engine() || !self.many.is_empty()
    }

    /// Whether outcomes of several publications are being gathered for one answer.
    pub(crate) fn is_gathering(&self) -> bool {
        !self.many.is_empty()
    }

    /// When the next batch window ends; `None` if this was returned before.
    pub(crate) fn take_alarm(&mut self) -> Option<u64> {
        let (until_ms, _) = self.batches.first()?;
        let new = *until_ms != std::mem::replace(&mut self.alarm_ms, *until_ms);
        new.then_some(*until_ms)
    }

    fn retry(&mut self, now: Now, out: &mut Staging<Parcel>) {
        while let Some(first) = self.waiting.front() {
            let late = first.until_ms <= now.mono_ms;
            let key = self.channels.find(channel_of(&first.ask));
            if !late && !self.has_room(&first.ask, key, out) {
                return;
            }
            let Some(WaitingAsk { caller, ask, .. }) = self.waiting.pop_front() else { return };
            if late {
                self.conclude(key, caller, Answer::Refused(Refusal::Busy), out);
            } else {
                self.execute(caller, ask, key, now, out);
            }
        }
    }

    /// Releases what a gone connection holds. Never refused: there is at most one release for each connection.
    pub(crate) fn release(&mut self, conn: ConnId, user: &User, now: Now, out: &mut Staging<Parcel>) {
        // The connection's own claim may still wait, and then it holds nothing.
        let own_claim = |w: &WaitingAsk| w.caller.asker == Asker::Conn(conn) && matches!(w.ask, Ask::Claim(_));
        if let Some(at) = self.waiting.iter().position(own_claim) {
            let claim = self.waiting.remove(at).expect("just found");
            answer(out, claim.caller, Answer::Refused(Refusal::Busy));
            return;
        }
        let Some(key) = self.channels.find(LOBBY) else { return };
        let Some(lobby) = self.channels.get_mut(key) else { return };
        if lobby.queued() > 0
            && let Some(caller) = lobby.waits_mut().queue.remove_claim(Asker::Conn(conn))
        {
            answer(out, caller, Answer::Refused(Refusal::Busy));
            return;
        }
        let (next, refused) = attach::release(&self.settings, &mut self.users, lobby, (conn, user), now, out);
        if let Some(next) = next {
            let outcome = claimed(&self.settings, &self.engine, &self.users, lobby, &next.claim);
            answer(out, next.caller(), outcome);
        }
        refuse(refused, out);
        self.settle(key, now, out);
    }

    /// A connection has shown the sign of life that it was asked for.
    pub(crate) fn alive(&mut self, conn: ConnId, user: &User, out: &mut Staging<Parcel>) {
        refuse(self.users.alive(conn, user.key()), out);
    }

    /// Refuses the sign-ins that wait for another connection of their user to show a sign of life.
    pub(crate) fn refuse_waiting(&mut self, out: &mut Staging<Parcel>) {
        let busy = |waiter: Waiter| Waiter { refusal: Refusal::Busy, ..waiter };
        refuse(self.users.end_probes().into_iter().map(busy).collect(), out);
    }

    /// Ends a subscription. Never refused: there is at most one for each subscription.
    pub(crate) fn unsubscribe(
        &mut self,
        conn: ConnId,
        request: u32,
        channel: &str,
        now: Now,
        out: &mut Staging<Parcel>,
    ) {
        let Some(key) = self.channels.find(channel) else { return };
        let Some(channel) = self.channels.get_mut(key) else { return };
        attach::unsubscribe(&self.settings, channel, (conn, request), now, out);
        self.settle(key, now, out);
    }

    /// Handles the channels whose next deadline has come: presence windows, history that is too old, disuse.
    pub(crate) fn tick(&mut self, now: Now, out: &mut Staging<Parcel>) {
        self.engine_turn(now, out);
        self.end_late_many(now, out);
        while let Some((tick, due)) = self.wheel.pop_due(now.mono_ms) {
            for key in due {
                let Some(channel) = self.channels.get_mut(key).filter(|channel| channel.filed == tick) else {
                    continue;
                };
                channel.filed = 0;
                attach::poll(&self.users, channel, now, out);
                self.engine.logs_mut().expire(channel.log, channel.history_bounds(), now.mono_ms);
                if is_disused(&self.engine, channel, now) {
                    self.remove(key, out);
                } else {
                    self.settle(key, now, out);
                }
            }
        }
    }

    /// Every channel, as its owner sees it.
    #[doc(hidden)]
    pub(crate) fn owned(&self) -> Vec<OwnedChannel> {
        self.channels.iter().map(|channel| channel.shown(&self.engine)).collect()
    }

    /// How much the hub holds now, and how much it has done.
    pub(crate) fn holdings(&self) -> HubHoldings {
        HubHoldings {
            users: self.users.count() as usize,
            channels: self.channels.len(),
            history_bytes: self.engine.logs().history_bytes(),
            publications: self.publications,
            evictions: self.engine.logs().evictions(),
            channel_evictions: self.channel_evictions,
            batches_cut: self.batches_cut,
        }
    }

    /// Executes an ask about the channel with this key, which is made if it does not exist. `is_late` says that the ask has
    /// waited in the channel's queue.
    fn perform(
        &mut self,
        caller: Caller,
        ask: Ask,
        key: &mut Option<ChannelKey>,
        is_late: bool,
        now: Now,
        out: &mut Staging<Parcel>,
    ) -> Performed {
        match ask {
            // The client sent this ask before it heard that its subscribe was refused.
            Ask::History { .. } | Ask::Presence { .. } if !self.takes_part(caller.asker, *key) => {
                Performed::Done(Answer::Refused(Refusal::Forbidden))
            }
            Ask::Users { cursor, limit } => {
                let page = self.users.page(cursor.as_deref(), self.page_size(limit));
                Performed::Done(Answer::Users(Box::new(page)))
            }
            Ask::Presence { channel, cursor, limit } => {
                let page = self.members(&channel, *key, cursor.as_deref(), self.page_size(limit));
                Performed::Done(Answer::Presence(channel, Box::new(page)))
            }
            ask => {
                let made = match *key {
                    Some(key) => Ok(key),
                    None => self.make_channel(&ask, now, out),
                };
                match made {
                    Err(refusal) => Performed::Done(Answer::Refused(refusal)),
                    Ok(made) => {
                        *key = Some(made);
                        match self.follow_first(made, &ask, is_late, now, out) {
                            Some(follow) => Performed::Queued(SlotState::Asked(ask, follow)),
                            None => self.with_channel(made, caller, ask, now, out),
                        }
                    }
                }
            }
        }
    }

    /// Executes an ask about a channel that exists.
    fn with_channel(
        &mut self,
        key: ChannelKey,
        caller: Caller,
        ask: Ask,
        now: Now,
        out: &mut Staging<Parcel>,
    ) -> Performed {
        let Caller { asker, request, .. } = caller;
        let Self { settings, channels, users, engine, publisher, publications, batches, .. } = self;
        let channel = channels.get_mut(key).expect("made before");
        channel.used_ms = now.mono_ms;
        match (ask, asker) {
            (Ask::Claim(claim), Asker::Conn(_)) => {
                self.claim(key, caller, claim, now, out).map_or(Performed::Probing, Performed::Done)
            }
            (Ask::Publish(publish), asker) => {
                let answer = match publisher.publish(settings, engine, channel, asker, *publish, now, out) {
                    Ok(answer) => answer,
                    Err(ticket) => {
                        let name = Arc::clone(channel.name());
                        self.await_engine(ticket, name, false, now);
                        return Performed::Queued(SlotState::Submitted(ticket));
                    }
                };
                *publications += u64::from(matches!(answer, Answer::Published { duplicate: false, .. }));
                batches.extend(channel.new_window());
                Performed::Done(answer)
            }
            (Ask::Subscribe { user, recover, .. }, Asker::Conn(conn)) => {
                engine.logs_mut().expire(channel.log, channel.history_bounds(), now.mono_ms);
                if **channel.name() == *LOBBY && !users.holds(conn, user.key()) {
                    return Performed::Done(Answer::Refused(Refusal::Forbidden));
                }
                attach::subscribe(settings, channel, (conn, request), &user, now, out);
                Performed::Done(Answer::Subscribed(recovered(settings, engine, channel, recover.as_deref())))
            }
            (Ask::History { since, limit, reverse, .. }, _) => {
                if let Engine::Remote(remote) = engine
                    && !channel.follow().is_known()
                {
                    let name = Arc::clone(channel.name());
                    let ticket = remote.page(&name, since.map(|since| *since), limit as usize, reverse, out);
                    self.await_engine(ticket, name, false, now);
                    return Performed::Queued(SlotState::Submitted(ticket));
                }
                engine.logs_mut().expire(channel.log, channel.history_bounds(), now.mono_ms);
                Performed::Done(history(settings, engine, channel, since.as_deref(), limit as usize, reverse))
            }
            (ask, asker) => unreachable!("{asker:?} can't ask {ask:?}"),
        }
    }

    /// Signs a user in. Returns `None` if the sign-in waits until the user's other connections have answered a probe.
    fn claim(
        &mut self,
        key: ChannelKey,
        caller: Caller,
        claim: Box<Claim>,
        now: Now,
        out: &mut Staging<Parcel>,
    ) -> Option<Answer> {
        let Caller { asker: Asker::Conn(conn), request, .. } = caller else {
            unreachable!("the backend signs nobody in")
        };
        let Self { settings, channels, users, engine, .. } = self;
        let lobby = channels.get_mut(key).expect("made before");
        engine.logs_mut().expire(lobby.log, lobby.history_bounds(), now.mono_ms);
        let most = if claim.bounded { settings.connections_per_user } else { 0 };
        match attach::claim(settings, users, lobby, (conn, request), (&claim, most), now, out) {
            Ok(()) => {
                if settings.duplicate_login == DuplicateLogin::KickOld {
                    // The connection that had to answer is kicked.
                    refuse(users.end_probe(claim.user.key()), out);
                }
                Some(claimed(settings, engine, users, lobby, &claim))
            }
            Err(refusal) if !settings.probes => Some(Answer::Refused(refusal)),
            Err(refusal) => {
                defer(caller, out);
                let most = if settings.duplicate_login == DuplicateLogin::Allow { most } else { 1 };
                let waiter = Waiter { conn, request, claim, refusal };
                let one_too_many = users.wait(waiter, most, |conn| out.push(conn.shard, Parcel::Probe { conn }));
                refuse(one_too_many.into_iter().collect(), out);
                None
            }
        }
    }

    /// Makes the channel that the ask is about. It does not exist.
    fn make_channel(&mut self, ask: &Ask, now: Now, out: &mut Staging<Parcel>) -> Result<ChannelKey, Refusal> {
        let name = named(ask);
        let namespace = Arc::clone(self.settings.namespaces.of(&name).ok_or(Refusal::Forbidden)?);
        if *name != *LOBBY {
            let full = self.channels.len() >= self.settings.channels;
            if self.settings.guard.is_short_of_memory() || (full && !self.make_place(now, out)) {
                return Err(Refusal::TooManyChannels);
            }
        }
        let log = self.engine.open(&name);
        let new = |key| Channel::new(key, Arc::clone(&name), namespace, log, now.mono_ms);
        Ok(self.channels.insert(&name, new))
    }

    /// Removes the channel that has had no subscriber for the longest time. Returns whether there is one. A client that
    /// comes back to the channel learns from the new epoch that the publications it knew are gone.
    fn make_place(&mut self, now: Now, out: &mut Staging<Parcel>) -> bool {
        let Some((_, key)) = self.deserted.first().copied() else { return false };
        // The window's publications have no subscriber, but their publishers wait for an answer.
        self.end_batch(key, now, out);
        self.remove(key, out);
        self.channel_evictions += 1;
        true
    }

    fn remove(&mut self, key: ChannelKey, out: &mut Staging<Parcel>) {
        let Some(channel) = self.channels.remove(key) else { return };
        if let Engine::Remote(remote) = &mut self.engine
            && channel.follow().was_asked()
        {
            remote.unfollow(channel.name(), out);
        }
        self.engine.close(channel.name(), channel.log);
        if let Some(since_ms) = channel.deserted_ms {
            self.deserted.remove(&(since_ms, key));
        }
        if channel.filed > 0 {
            self.unfile();
        }
    }

    /// Counts an entry of the wheel whose channel is gone. When there are too many, the wheel is purged. That looks at two
    /// entries for each that it removes.
    fn unfile(&mut self) {
        self.outlived += 1;
        if self.outlived > self.channels.len().max(OUTLIVED) {
            let Self { wheel, channels, .. } = self;
            wheel.retain(|tick, key| channels.get(*key).is_some_and(|channel| channel.filed == tick));
            self.outlived = 0;
        }
    }

    /// Whether the asker may ask about the channel. The backend may, and so may subscribers.
    fn takes_part(&self, asker: Asker, key: Option<ChannelKey>) -> bool {
        match asker.client() {
            None => true,
            Some(conn) => key.and_then(|key| self.channels.get(key)).is_some_and(|channel| channel.has(conn)),
        }
    }

    fn page_size(&self, limit: u32) -> PageSize {
        PageSize { users: limit as usize, bytes: self.settings.recover_bytes }
    }

    fn members(&mut self, name: &str, key: Option<ChannelKey>, cursor: Option<&str>, size: PageSize) -> UsersPage {
        if name == LOBBY {
            return self.users.page(cursor, size);
        }
        match key.and_then(|key| self.channels.get_mut(key)?.presence.as_mut()) {
            None => UsersPage { count: 0, members: Vec::new(), cursor: None },
            Some(presence) => {
                presence.announcer.looked_at();
                presence.members.page(cursor, size)
            }
        }
    }

    /// Removes `bytes` of history, the largest histories first. Returns how many publications went.
    pub(crate) fn shrink_histories(&mut self, bytes: usize) -> usize {
        self.engine.logs_mut().shrink(bytes)
    }

    /// Whether every shard with subscribers can take what the ask may bring.
    fn has_room(&self, ask: &Ask, key: Option<ChannelKey>, out: &Staging<Parcel>) -> bool {
        match ask {
            Ask::Users { .. } | Ask::History { .. } | Ask::Presence { .. } | Ask::PublishMany(_) => true,
            Ask::Claim(_) | Ask::Subscribe { .. } | Ask::Publish(_) => {
                let engine_has_room = match &self.engine {
                    Engine::Memory(_) => true,
                    Engine::Remote(remote) => remote.room(out) > 0,
                };
                engine_has_room && self.lanes_have_room(key, out)
            }
        }
    }

    /// Whether every shard with subscribers of the channel can take one more delivery.
    fn lanes_have_room(&self, key: Option<ChannelKey>, out: &Staging<Parcel>) -> bool {
        let Some(channel) = key.and_then(|key| self.channels.get(key)) else { return true };
        let needed = usize::from(channel.is_batching());
        channel.interested().into_iter().all(|shard| out.room(shard) > needed)
    }

    /// Call this after every change of a channel. A channel without subscribers is removed, or put on the list of such
    /// channels, and the channel's next deadline goes into the wheel unless an earlier one is there.
    fn settle(&mut self, key: ChannelKey, now: Now, out: &mut Staging<Parcel>) {
        let Some(channel) = self.channels.get_mut(key) else { return };
        channel.trim();
        let is_deserted = channel.is_deserted() && **channel.name() != *LOBBY;
        if is_deserted && self.engine.logs().top(channel.log) == 0 {
            return self.remove(key, out);
        }
        let listed_ms = channel.deserted_ms;
        let is_right = match listed_ms {
            Some(since_ms) => is_deserted && channel.used_ms < since_ms + IDLE_STEP_MS,
            None => !is_deserted,
        };
        if !is_right {
            if let Some(since_ms) = listed_ms {
                self.deserted.remove(&(since_ms, key));
            }
            channel.deserted_ms = is_deserted.then_some(channel.used_ms);
            self.deserted.extend(channel.deserted_ms.map(|since_ms| (since_ms, key)));
        }
        let Some(at_ms) = next_deadline(&self.engine, channel, now) else { return };
        if channel.filed == 0 || at_ms.div_ceil(TICK_MS) < channel.filed {
            channel.filed = self.wheel.file(key, at_ms);
        }
    }
}

/// The name of the channel that the ask is about.
fn channel_of(ask: &Ask) -> &str {
    match ask {
        Ask::Claim(_) | Ask::Users { .. } => LOBBY,
        Ask::Subscribe { channel, .. } | Ask::History { channel, .. } | Ask::Presence { channel, .. } => channel,
        Ask::PublishMany(_) => unreachable!("it is taken apart before"),
        Ask::Publish(publish) => &publish.channel,
    }
}

/// The name of the channel that the ask is about, shared.
fn named(ask: &Ask) -> Arc<str> {
    match ask {
        Ask::Claim(_) | Ask::Users { .. } => LOBBY.into(),
        Ask::Subscribe { channel, .. } | Ask::History { channel, .. } | Ask::Presence { channel, .. } => {
            Arc::clone(channel)
        }
        Ask::Publish(publish) => Arc::clone(&publish.channel),
        Ask::PublishMany(_) => unreachable!("it is taken apart before"),
    }
}

fn next_deadline(engine: &Engine, channel: &Channel, now: Now) -> Option<u64> {
    let age = channel.namespace.history_age_ms;
    let history = engine.logs().oldest_ms(channel.log).map(|oldest| oldest.saturating_add(age));
    let disuse =
        (channel.is_deserted() && **channel.name() != *LOBBY).then(|| idle_until(channel).max(now.mono_ms + 1));
    let presence = channel.presence.as_ref().and_then(|presence| presence.announcer.next_deadline());
    [presence, history, disuse].into_iter().flatten().min()
}

fn idle_until(channel: &Channel) -> u64 {
    channel.used_ms.saturating_add(channel.namespace.history_age_ms.max(IDLE_MS))
}

fn is_disused(engine: &Engine, channel: &Channel, now: Now) -> bool {
    channel.is_deserted()
        && engine.logs().oldest_ms(channel.log).is_none()
        && !channel.is_batching()
        && **channel.name() != *LOBBY
        && idle_until(channel) <= now.mono_ms
}

fn refuse(waiters: Vec<Waiter>, out: &mut Staging<Parcel>) {
    for waiter in waiters {
        answer(out, waiter.caller(), Answer::Refused(waiter.refusal));
    }
}

#[cfg(test)]
mod tests;
