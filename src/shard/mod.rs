//! One core's whole state, without its sockets: connections and sessions, the fan-out to subscribers, and the hub of the
//! channels that it owns.
//!
//! A [`Shard`] does no I/O and reads no clock. Its *driver* owns the sockets ([`Wire`]), the lanes to the other shards
//! ([`turn::ShardLanes`]) and the clock ([`Now`]), and calls the shard on one thread. `io` is the driver of the server;
//! the simulation and the fuzz target are drivers too.
//!
//! # Kinds of methods
//!
//! - **A connection's life**: [`Shard::open`], then any number of [`Shard::receive`], [`Shard::resume`],
//!   [`Shard::writable`] and [`Shard::hear_out`], and [`Shard::closed`] at the end.
//! - **Time**: [`Shard::tick`], every 64 ms.
//! - **Commands** of the control thread: keys, revocations, the API's keys and slow answers, the drain.
//! - **Turns**: [`turn::Turn::step`]. Here alone parcels come in and leave, and publications are sent.
//! - **Questions**: [`Shard::take_actions`], [`Shard::has_work`], [`Shard::is_stuck`].
//!
//! # What a driver does
//!
//! 1. After each call it carries out the actions of [`Shard::take_actions`], in their order and before its next call.
//! 2. Then it sees to a turn soon if [`Shard::has_work`] or [`Shard::is_stuck`] says so. `turn` has the order within a
//!    turn and says when the next one begins.
//! 3. It receives from a connection only while its [`Input`] is `Open`. After `Paused` it waits for [`Action::Resume`]
//!    and calls [`Shard::resume`] before it reads again. After `Ended` it closes the socket.
//! 4. It calls [`Shard::closed`] once for each connection that [`Shard::open`] returned, whichever side ended it. Until then
//!    every call may name the connection; after that, calls that name it do nothing.
//! 5. It answers each [`Action::AwaitWritable`] with one [`Shard::writable`], unless the connection ends.
//! 6. It gives the same `now` that its clock shows. The monotonic part never goes back; the wall clock may jump.
//! 7. If a call for a connection panics, it calls [`Shard::fail_internally`], or closes the socket and calls
//!    [`Shard::closed`]. If a turn panics, it ends the process.
//!
//! # What a driver may not do
//!
//! It may not send to a client by itself, as the shard alone knows where a frame ends. It may not hold actions back over
//! another call. It may not drive one shard by two `Turn`s, and may not reorder or drop the parcels of a lane.
//!
//! # Parts
//!
//! [`Shard`] is the door (`calls`). Behind it, `receive` takes what clients send, and `ShardCore` is a struct of named
//! parts, each with private fields in a file of its own. A function that needs several parts borrows them beside each
//! other; no field is taken out and put back.

mod admission;
mod announcing;
mod answers;
mod api;
mod asks;
mod calls;
mod commands;
mod compression;
mod conns;
mod deadlines;
#[cfg(test)]
mod direct_sends;
mod echo;
mod errands;
mod farewell;
mod flush;
mod guard;
mod large_memory;
mod pacing;
mod probes;
mod receive;
mod refusals;
mod relief;
mod rights;
mod send_state;
mod sender;
mod stream_state;
mod streams;
mod timers;
pub mod turn;

use std::hash::BuildHasher;
use std::sync::Arc;

pub use api::ApiServing;
pub(crate) use api::ControlCall;
pub use calls::Shard;
pub(crate) use errands::ERRANDS_MAX;
pub use flush::{Sent, Wire};

use crate::auth::{Authenticator, CacheLimits, Verifier};
use crate::dialect;
use crate::fanout::{Fanout, Subscription};
use crate::hub::{Hub, HubSettings};
use crate::ids::{ConnId, ShardId};
use crate::limits::refusals::RefusalLog;
use crate::limits::{Guard, Peer};
use crate::mesh::{self, Staging};
use crate::metrics::{Count, Gauge, Metrics, ShardMetrics};
use crate::model::errand::Errand;
use crate::model::notice::{Gap, GapReason, Reply};
use crate::model::parcel::{Answer, Asker, Delivery, LateAnswer, Parcel, Purse};
use crate::model::position::{Placed, Position};
use crate::model::text::Language;
use crate::model::voice::Voice;
use crate::site::Site;
use crate::time::clock::Now;
use crate::wire::codes::close;
use crate::wire::{frame, http, websocket};
use admission::Admission;
use announcing::Announcing;
use api::Api;
use asks::Asks;
use compression::Compressing;
use conns::{Conns, Ending, Stage};
use deadlines::Deadlines;
use errands::Errands;
use farewell::Progress;
use large_memory::LargeMemory;
use pacing::Pacing;
use probes::Probes;
use relief::Relief;
use rights::Sweep;
use sender::Sender;

/// How long the peer of a connection that we are closing may take nothing of what was said last, and then say nothing,
/// before the connection is ended without it.
pub const CLOSE_MS: u64 = 2_000;
/// How long that may last in all, unless the server itself is going: then its shell says when all is over.
pub(crate) const CLOSE_MAX_MS: u64 = 30_000;
/// How often connections that are closing are looked at.
const CLOSING_LOOK_MS: u64 = 250;
/// Reading stops while this much waits for the client that nobody shares: who doesn't read answers gets no more.
pub(crate) const REPLY_BYTES: usize = 64 * 1024;
/// Most parcels that one turn takes from one lane.
const LANE_PARCELS: usize = 256;
/// A turn stops taking parcels from a lane after this many bytes.
const LANE_BYTES: usize = 256 * 1024;
/// Most parcels of the shard to itself that one turn takes. A publication makes three of them in one turn: the ask, the
/// delivery and the answer.
const OWN_PARCELS: usize = 3 * LANE_PARCELS;
/// A turn stops taking the shard's own parcels after this many bytes. A publication is in two of them.
const OWN_BYTES: usize = 2 * LANE_BYTES;

/// What a shard needs to know of the configuration.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Of the owner's side, and what both sides share.
    pub hub: HubSettings,
    /// The language of the sentences for people.
    pub language: Language,
    /// Limits that no connection can judge by itself; all shards share it.
    pub guard: Arc<Guard>,
    /// Where all shards count.
    pub metrics: Metrics,
    /// Where all threads tell what they refuse.
    pub refusals: Arc<RefusalLog>,
    /// Parcels in a lane.
    pub lane_parcels: usize,
    /// What is served over HTTP, and who may upgrade.
    pub site: Arc<Site>,
    /// Limits on the request's head.
    pub head: http::HeadLimits,
    /// Limits on frames and messages.
    pub messages: websocket::MessageLimits,
    /// Bytes of a message of a client that has not signed in.
    pub auth_message_bytes: usize,
    /// Bytes that may wait for one connection.
    pub outbox_bytes: usize,
    /// Channels that a connection may subscribe to, the lobby not counted.
    pub subscriptions: usize,
    /// Requests that may be under way for one connection.
    pub requests_per_connection: usize,
    /// How long a request may stay unanswered.
    pub request_ms: u64,
    /// The HTTP API.
    pub api: ApiServing,
    /// How long the handshake may take.
    pub handshake_ms: u64,
    /// How long a client has to sign in.
    pub auth_ms: u64,
    /// What may be remembered of tokens that were found good.
    pub token_cache: CacheLimits,
    /// How long a connection has to show a sign of life when a sign-in waits for it; 0: none is asked.
    pub probe_ms: u64,
    /// Silence after which a client is pinged.
    pub ping_interval_ms: u64,
    /// How long it then has to show a sign of life.
    pub pong_timeout_ms: u64,
    /// How long joins and leaves are gathered before they are sent together, in milliseconds; 0: each is sent at once.
    pub presence_gather_ms: u64,
    /// In channels with at most this many subscribers on the shard each is sent at once.
    pub presence_gather_above: usize,
    /// How messages are compressed for clients that this was agreed on with.
    pub compression: Compression,
    /// A clock in nanoseconds, from any moment on: for what is counted, and for nothing else.
    pub stopwatch: fn() -> u64,
    /// Has the allocator give back what it keeps for the thread that calls it.
    pub give_back: fn(),
    /// Makes connection ids unique over nodes and restarts.
    pub boot_id: u64,
}

/// How messages are compressed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Compression {
    /// From 1 (fastest) to 9 (smallest).
    pub level: u32,
    /// Messages that are shorter, in bytes, are sent as they are.
    pub min_bytes: usize,
    /// A longer message for one client is compressed in slices of so many bytes, one a turn.
    pub slice_bytes: usize,
}

impl Compression {
    /// With slices that are about 1 ms of work at level 3.
    pub(crate) fn new(level: u32, min_bytes: usize) -> Self {
        Self { level, min_bytes, slice_bytes: 64 * 1024 }
    }
}

/// A connection as it comes in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Arrival {
    /// The client as far as it is known: the peer, or what it said in a PROXY header.
    pub from: Peer,
    /// Whether it is told if it is refused: not where that would take a TLS handshake.
    pub is_told: bool,
    /// When it was accepted, in nanoseconds of the [stopwatch](crate::time::clock::stopwatch_ns): of a user's connections the
    /// one that was accepted later counts. 0 if the peer had ended its side by then, so that any other counts more.
    pub accepted_ns: u64,
}

/// What the shell is to do to a socket; the pure part can't.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// Go on reading: call [`Shard::resume`] first.
    Resume(ConnId),
    /// Call [`Shard::writable`] when the kernel takes bytes again.
    AwaitWritable(ConnId),
    /// End our direction of the stream.
    Finish(ConnId),
    /// Reset the connection.
    Abort(ConnId),
    /// The peer of this connection is dead if it acknowledges nothing for this many milliseconds: have the kernel end the
    /// connection then.
    BoundSilence(ConnId, u64),
    /// Close the connection. What the kernel was given still arrives.
    End(ConnId),
    /// See to a turn at this time, in milliseconds of the monotonic clock.
    Alarm(u64),
    /// Have this done, and call [`Shard::errand_done`] with the number: once, in this turn or any later one.
    Errand(u32, Errand),
}

/// What the shell may do with a connection's input.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Input {
    /// Read on.
    Open,
    /// Don't read before [`Action::Resume`].
    Paused,
    /// The connection has come to its end: close the socket.
    Ended,
}

/// How much one turn has taken of the parcels that the shard sent to itself.
#[derive(Clone, Copy, Debug, Default)]
struct OwnShare {
    parcels: usize,
    /// The sum of their weights.
    bytes: usize,
}

/// A shard's parts, but for those that are lent out while a message is taken.
#[derive(Debug)]
struct ShardCore {
    own: ShardId,
    settings: Arc<Settings>,
    authenticator: Authenticator,
    hub: Hub,
    staging: Staging<Parcel>,
    conns: Conns,
    fanout: Fanout,
    sender: Sender,
    /// Nothing is sent directly, for a test that compares.
    #[cfg(test)]
    sends_through_outboxes: bool,
    compressing: Compressing,
    large_memory: LargeMemory,
    announcing: Announcing,
    asks: Asks,
    api: Api,
    errands: Errands,
    deadlines: Deadlines,
    sweep: Sweep,
    relief: Relief,
    actions: Vec<Action>,
    /// Answers to the control thread.
    backend: Vec<(u32, Answer)>,
    /// What stands for the keys of `conflate`; secret, since publishers choose them.
    key_hash: foldhash::quality::RandomState,
    farewell: Progress,
    probes: Probes,
    metrics: Arc<ShardMetrics>,
    /// Connections that are event streams.
    event_streams: usize,
    admission: Admission,
}

impl ShardCore {
    fn new(own: ShardId, settings: Arc<Settings>, verifier: Arc<Verifier>, seed: u64) -> Self {
        let shards = settings.hub.shards;
        let endpoints = settings.hub.endpoints();
        Self {
            own,
            hub: Hub::new(settings.hub.clone(), seed),
            staging: Staging::new(own, endpoints, settings.lane_parcels),
            conns: Conns::new(own),
            fanout: Fanout::default(),
            sender: Sender::default(),
            #[cfg(test)]
            sends_through_outboxes: false,
            compressing: Compressing::default(),
            large_memory: LargeMemory::default(),
            announcing: Announcing::default(),
            asks: Asks::new(shards, mesh::credits(settings.lane_parcels) - mesh::api_credits(settings.lane_parcels)),
            api: Api::new(&settings.api, own, shards, settings.lane_parcels),
            errands: Errands::default(),
            deadlines: Deadlines::default(),
            sweep: Sweep::default(),
            relief: Relief::default(),
            actions: Vec::new(),
            backend: Vec::new(),
            key_hash: foldhash::quality::RandomState::default(),
            farewell: Progress::default(),
            probes: Probes::default(),
            authenticator: Authenticator::new(verifier, settings.token_cache),
            metrics: settings.metrics.shard(own.index()),
            event_streams: 0,
            admission: Admission::default(),
            settings,
        }
    }

    fn stopwatch_ns(&self) -> u64 {
        (self.settings.stopwatch)()
    }

    /// Takes one parcel from a lane.
    fn take(&mut self, from: ShardId, parcel: Parcel, now: Now) {
        if from != self.own {
            self.metrics.count(Count::Parcels);
        }
        self.large_memory.note(parcel.weight());
        match parcel {
            Parcel::Ask { asker, request, ask } => self.hub.ask(asker, request, ask, now, &mut self.staging),
            Parcel::Unsubscribe { conn, request, channel } => {
                self.hub.unsubscribe(conn, request, &channel, now, &mut self.staging);
            }
            Parcel::Release { conn, user } => self.hub.release(conn, &user, now, &mut self.staging),
            Parcel::Deliver { delivery } => self.deliver(&delivery),
            Parcel::DeliverBatch { deliveries, .. } => deliveries.iter().for_each(|delivery| self.deliver(delivery)),
            Parcel::LateAnswers(answers) => {
                for LateAnswer { asker, request, answer } in answers {
                    self.take_answer(asker, request, answer, now);
                }
            }
            Parcel::Announce { news } => self.announce(&news, now),
            Parcel::Kick { conn } => self.kick(conn, now),
            Parcel::Probe { conn } => self.probe(conn, now),
            Parcel::Alive { conn, user } => self.hub.alive(conn, &user, &mut self.staging),
            Parcel::Deferred { purse } => self.give_credit_back(from, purse, now),
            Parcel::FromEngine(news) => self.hub.hear_engine(*news, now, &mut self.staging),
            Parcel::ToEngine(ask) => unreachable!("{ask:?} is for the engine"),
            Parcel::Gap { placed, from } => self.lose(&placed, from),
            Parcel::Farewell(farewell) => self.hear_farewell(farewell),
            Parcel::Answer { asker, request, answer, credit } => {
                if credit && let Some(purse) = asker.purse() {
                    self.give_credit_back(from, purse, now);
                }
                self.take_answer(asker, request, answer, now);
            }
        }
    }

    fn give_credit_back(&mut self, owner: ShardId, purse: Purse, now: Now) {
        match purse {
            Purse::Clients => self.give_credit(owner),
            Purse::Api => self.give_api_credit(owner, now),
        }
    }

    /// Takes an owner's answer to its asker.
    fn take_answer(&mut self, asker: Asker, request: u32, answer: Answer, now: Now) {
        match asker {
            Asker::Conn(conn) => self.answered(conn, request, &answer, now),
            Asker::Api(conn) => self.api_answered(conn, request, answer, now),
            Asker::Part(number) => self.hub.one_of_many(number, request, answer, &mut self.staging),
        }
    }

    fn deliver(&mut self, delivery: &Delivery) {
        let publication = &**delivery.value();
        let key = publication.key.as_deref().map_or(0, |key| self.key_hash.hash_one(key).max(1));
        for (voice, channel) in self.fanout.places(&publication.placed.channel) {
            let frame = delivery.frame(voice, |publication, out| dialect::write_publication(voice, out, publication));
            self.fanout.append(channel, frame, publication.offset(), key);
        }
    }

    /// Tells the subscribers of a channel that its publications up to `placed` are lost for good.
    fn lose(&mut self, placed: &Placed, from: u64) {
        self.fanout.begin_epoch(&placed.channel, &placed.epoch);
        let Position { channel, epoch, offset: to } = placed.position();
        let gap = Gap { channel, epoch, from, to, reason: GapReason::Engine };
        for (voice, channel) in self.fanout.places(channel) {
            let mut frame = Vec::new();
            dialect::write_gap(voice, &mut frame, &gap);
            self.fanout.append(channel, &frame, 0, 0);
        }
    }

    /// Does the shard's own work of one turn: parcels to itself, and bounded shares of what takes longer than a turn.
    fn work(&mut self, now: Now) {
        #[cfg(feature = "planted")]
        crate::planted::at_turn();
        let mut share = OwnShare::default();
        self.take_own(&mut share, now);
        self.sweep(now);
        self.compress_slice();
        self.hub.turn(now, &mut self.staging);
        // The end of a batch window has staged deliveries: they leave with the flush of this turn.
        self.take_own(&mut share, now);
        // Last: what it hears from itself it hears in the next turn, for which its parcels are a reason.
        self.take_leave(now);
        self.end_announcing(now);
        let alarms = [self.hub.take_alarm(), self.announcing.take_alarm()];
        self.actions.extend(alarms.into_iter().flatten().map(Action::Alarm));
        self.metrics.count(Count::Turns);
    }

    /// Takes the parcels that the shard sent to itself, those included that are staged meanwhile: a publication whose
    /// channel this shard owns is delivered in the turn in which it was asked for.
    fn take_own(&mut self, share: &mut OwnShare, now: Now) {
        while share.parcels < OWN_PARCELS
            && share.bytes < OWN_BYTES
            && let Some(parcel) = self.staging.pop_own()
        {
            share.parcels += 1;
            share.bytes += parcel.weight();
            self.take(self.own, parcel, now);
        }
    }

    fn give_back(&mut self, now: Now) {
        if self.large_memory.is_due(now) {
            (self.settings.give_back)();
        }
    }

    /// Tells what is kept elsewhere, once a tick: an idle shard has no turns.
    fn publish_metrics(&self, now: Now) {
        self.settings.refusals.tick(now.mono_ms);
        let Self { metrics, hub, .. } = self;
        metrics.set(Gauge::Connections, self.connections());
        metrics.set(Gauge::ApiConnections, self.api.count());
        metrics.set(Gauge::EventStreams, self.event_streams);
        metrics.set(Gauge::TurnedAway, self.admission.turned_away());
        metrics.set(Gauge::Blocked, self.sender.blocked());
        metrics.set(Gauge::QueuedBytes, self.sender.queued_bytes());
        metrics.set(Gauge::Subscriptions, self.fanout.subscribers());
        let held = hub.holdings();
        metrics.set(Gauge::Users, held.users);
        metrics.set(Gauge::Channels, held.channels);
        metrics.set(Gauge::HistoryBytes, held.history_bytes);
        metrics.set(Gauge::TokensKept, self.authenticator.remembered().tokens);
        let (known, new) = self.authenticator.looked_up();
        metrics.set_count(Count::TokensKnown, known);
        metrics.set_count(Count::TokensNew, new);
        metrics.set_count(Count::Publications, held.publications);
        metrics.set_count(Count::Evictions, held.evictions);
        metrics.set_count(Count::ChannelEvictions, held.channel_evictions);
        metrics.set_count(Count::BatchesCut, held.batches_cut);
    }

    /// Whether something waits for another shard to make room: no turn helps before it has.
    fn is_stuck(&self) -> bool {
        self.staging.has_outbound() || self.hub.is_waiting() || self.hub.has_news()
    }

    /// Whether something waits that a turn would take up.
    fn has_work(&self) -> bool {
        let more = self.sweep.is_under_way() || self.compressing.has_slices();
        self.staging.own_len() > 0 || self.wants_flush() || more
    }

    /// Whether a flush would find anything to do.
    fn wants_flush(&self) -> bool {
        self.sender.wants_flush(&self.fanout)
    }

    /// Whether a connection waits for the turn of a large answer.
    fn holds_back(&mut self) -> bool {
        self.conns.ids().into_iter().any(|id| self.conns.at(id.slot).pacing().is_some_and(Pacing::holds_back))
    }

    /// Whether nothing is under way: no parcel is staged, no ask is unanswered, nothing waits for a flush.
    fn is_quiescent(&self) -> bool {
        self.asks.are_all_answered()
            && self.api.is_at_rest()
            && !self.hub.is_holding()
            && !self.announcing.is_waiting()
            && !self.is_stuck()
            && !self.has_work()
            && !self.sender.is_flushing()
    }

    /// For the failure message of a simulation that doesn't come to rest.
    fn what_waits(&self) -> String {
        let owed = self.asks.owed();
        let (stuck, dirty, flush) = (self.is_stuck(), self.wants_flush(), self.sender.is_flushing());
        let holding = self.hub.is_holding() || self.announcing.is_waiting();
        let own = self.staging.own_len();
        format!("credits {owed:?}, stuck {stuck}, dirty {dirty}, flushing {flush}, holding {holding}, own {own}")
    }

    /// The memory that is held for the connection, in bytes, and the most that it would be with what it is due.
    fn held_bytes(&mut self, id: ConnId) -> Option<(usize, usize)> {
        let conn = self.conns.get(id)?;
        let due = |s: &Subscription| self.fanout.channel(s.channel).due_bytes(s.index as usize);
        let held = conn.outbox.held_bytes();
        Some((held, held + conn.outbox.gap_bytes() + conn.subscriptions.iter().map(due).sum::<usize>()))
    }

    /// Whether the connection is there and has been told, or is to be told, that it ends.
    fn is_closing(&mut self, id: ConnId) -> bool {
        self.conns.get(id).is_some_and(|conn| conn.is_closing())
    }

    /// Ends every connection that is left: those that the kernel has not taken everything for are reset.
    fn end_all(&mut self) {
        for id in self.conns.ids() {
            let conn = self.conns.at(id.slot);
            let is_said = conn.is_closing() && conn.outbox.is_empty();
            conn.owe_nothing();
            conn.paused = false;
            self.actions.push(if is_said { Action::End(id) } else { Action::Abort(id) });
        }
    }

    fn kick(&mut self, id: ConnId, now: Now) {
        let Some(conn) = self.conns.get(id) else { return };
        if conn.session.claimed().is_none() {
            return;
        }
        self.metrics.count(Count::Kicks);
        self.tell_refusal(id, "signed_in_elsewhere", now, || {
            "closed: the user has a newer connection (4409)".to_owned()
        });
        self.say(id, &Reply::Kicked, None);
        self.close(id, close::SIGNED_IN_ELSEWHERE, "signed in elsewhere", now);
    }

    /// Queues one reply. What the connection is due of its channels goes before it.
    fn say(&mut self, id: ConnId, reply: &Reply<'_>, mark: Option<&str>) {
        if self.conns.at(id.slot).framing.voice() == Voice::EventStream {
            return self.say_on_stream(id, reply);
        }
        let language = self.settings.language;
        let write = |out: &mut Vec<u8>| dialect::write_reply(Voice::NativeText, out, reply, mark, language);
        if self.may_compress(reply) { self.push_message(id.slot, write) } else { self.push_private(id.slot, write) }
    }

    fn push_private(&mut self, slot: u32, write: impl FnOnce(&mut Vec<u8>)) {
        self.hand_over(slot);
        self.conns.at(slot).outbox.push_private(write);
    }

    /// A message of the connection's own is about to be queued: what it is due of its channels goes before that.
    fn hand_over(&mut self, slot: u32) {
        if self.fanout.due_channels(slot) > 0 {
            self.hand_over_due(slot);
        }
        self.metrics.count(Count::Replies);
        self.mark_dirty(slot);
    }

    fn hand_over_due(&mut self, slot: u32) {
        let conn = self.conns.at(slot);
        let kept = conn.kept_frames();
        for subscription in self.fanout.due_of(slot, &conn.subscriptions) {
            let channel = self.fanout.channel(subscription.channel);
            let packer = self.compressing.packer(conn.framing.deflate(), &self.settings, &self.metrics);
            let frames = channel.hand_over(subscription.index as usize, packer, kept, &mut conn.outbox);
            self.metrics.add(Count::Deliveries, frames);
        }
    }

    fn mark_dirty(&mut self, slot: u32) {
        self.sender.mark_dirty(slot, self.conns.at(slot));
    }

    /// Starts the closing handshake from our side.
    fn close(&mut self, id: ConnId, code: u16, reason: &str, now: Now) {
        if self.conns.at(id.slot).stage == Stage::Api {
            return self.abort(id, now);
        }
        if self.conns.at(id.slot).framing.voice() == Voice::EventStream {
            return self.close_stream(id, code, reason, now);
        }
        self.metrics.closed(code);
        self.end_with(id, Ending::AwaitClose, now, |out| frame::write_close(out, code, reason));
    }

    /// Says the last thing and ends the connection in the given way.
    fn end_with(&mut self, id: ConnId, ending: Ending, now: Now, last: impl FnOnce(&mut Vec<u8>)) {
        self.push_private(id.slot, last);
        self.leave(id);
        self.release_unfinished(id, now);
        let conn = self.conns.at(id.slot);
        conn.decoder.skip_messages();
        conn.take_input();
        conn.enter(Stage::Closing(ending), now.mono_ms);
        self.file_deadline(id);
        self.maybe_resume(id);
    }

    /// The client reads more slowly than it is sent to: what has not begun is dropped.
    fn close_slow(&mut self, id: ConnId, now: Now) {
        self.leave(id);
        let conn = self.conns.at(id.slot);
        self.sender.forget_queued(conn);
        conn.outbox.drop_unstarted(conn.framing.voice());
        self.close(id, close::SLOW_CONSUMER, "slow consumer", now);
    }
}
