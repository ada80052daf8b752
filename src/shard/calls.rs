//! The methods that a driver calls, by kind: the door of [`Shard`]. The module's head has the contract: in which order a
//! driver calls them, and what it may not do. What they do stands with the parts.

use std::fmt;
use std::sync::Arc;

use super::receive::Reading;
use super::{Action, Arrival, ControlCall, Input, Settings, ShardCore, Wire};
use crate::api::calls::SlowAnswer;
use crate::api::error::ApiError;
use crate::auth::{ApiKeys, Lifted, Revocation, Revocations, Verifier};
use crate::hub::OwnedChannel;
use crate::ids::{ConnId, ShardId};
use crate::limits::Peer;
use crate::metrics::ShardMetrics;
use crate::model::engine::Ticket;
use crate::model::errand::ErrandOutcome;
use crate::time::clock::Now;

/// One core's state.
#[derive(Debug)]
pub struct Shard {
    /// Where a message lies while it is taken. Apart from the rest, so that a message can be lent out of it while the
    /// rest is changed.
    pub(super) reading: Reading,
    pub(super) core: ShardCore,
}

impl Shard {
    /// Shard `own`. `seed` makes the epochs of the channels that it owns: random in a server, given in a simulation.
    pub fn new(own: ShardId, settings: Arc<Settings>, verifier: Arc<Verifier>, seed: u64) -> Self {
        let reading = Reading::new(settings.stopwatch);
        Self { reading, core: ShardCore::new(own, settings, verifier, seed) }
    }
}

/// A connection's life, in the order in which it happens.
impl Shard {
    /// A socket was accepted. Over a limit, its request will be refused. `None`: it can't be told, or too many are
    /// being refused already, and the driver closes it.
    pub fn open(&mut self, arrival: Arrival, now: Now) -> Option<ConnId> {
        self.core.open(arrival, now)
    }

    /// A socket of the HTTP API was accepted. `None`: there is no place for it, and the driver closes it.
    pub fn open_api(&mut self, peer: Peer, now: Now) -> Option<ConnId> {
        self.core.open_api(peer, now)
    }

    /// The kernel has no descriptor or memory for a new connection of the API: one that there is gives way.
    pub(crate) fn free_api_place(&mut self, now: Now) {
        self.core.free_api_place(now);
    }

    /// Takes what was received; it is unmasked in place. Replies leave at once, those of one read in one send. Only
    /// while the input is [`Input::Open`].
    pub fn receive(&mut self, id: ConnId, bytes: &mut [u8], wire: &mut impl Wire, now: Now) -> Input {
        self.reading.receive(&mut self.core, id, bytes, wire, now)
    }

    /// Goes on with what had been received before the input was paused.
    pub fn resume(&mut self, id: ConnId, wire: &mut impl Wire, now: Now) -> Input {
        self.reading.resume(&mut self.core, id, wire, now)
    }

    /// What may be done with the connection's input.
    pub(crate) fn input(&mut self, id: ConnId) -> Input {
        self.core.input(id)
    }

    /// The kernel takes bytes again: the answer to [`Action::AwaitWritable`].
    pub fn writable(&mut self, id: ConnId, wire: &mut impl Wire, now: Now) {
        self.core.writable(id, wire, now);
    }

    /// The peer has ended its direction of the stream. What it asked before that is still answered: the connection ends
    /// when nothing is owed any more.
    pub fn hear_out(&mut self, id: ConnId, now: Now) -> Input {
        self.core.hear_out(id, now)
    }

    /// What the peer sent is no TLS, or TLS that can't be agreed on: its connection ends.
    pub(crate) fn tls_failed(&mut self, id: ConnId, fault: &impl fmt::Display, now: Now) {
        self.core.tls_failed(id, fault, now);
    }

    /// A call for this connection panicked: tells the client (1011) and takes nothing more from it.
    pub(crate) fn fail_internally(&mut self, id: ConnId, now: Now) -> Input {
        self.core.fail_internally(id, now)
    }

    /// The socket is closed, by either side. From now on the id names no connection.
    pub fn closed(&mut self, id: ConnId, now: Now) {
        self.core.closed(id, now);
    }
}

/// Time.
impl Shard {
    /// Looks at every connection whose deadline has passed. To be called every
    /// [`TICK_MS`](crate::time::wheel::TICK_MS), however idle the shard is.
    pub fn tick(&mut self, wire: &mut impl Wire, now: Now) {
        self.core.tick(wire, now);
    }
}

/// Commands of the control thread.
impl Shard {
    /// From now on tokens are judged by these keys.
    pub fn set_verifier(&mut self, verifier: Arc<Verifier>) {
        self.core.authenticator.set_verifier(verifier);
    }

    /// What had been revoked before the start.
    pub(crate) fn set_revocations(&mut self, revocations: Revocations) {
        self.core.authenticator.set_revocations(revocations);
    }

    /// The backend has revoked tokens: none of them is taken from now on, and connections that live by one end within
    /// the next turns. Then [`Answer::Revoked`](crate::model::parcel::Answer::Revoked) is among the answers of a turn,
    /// under the same number.
    pub fn revoke(&mut self, request: u32, revocation: &Revocation, now: Now) {
        self.core.revoke(request, revocation, now);
    }

    /// The backend takes revocations back: their tokens are taken again from now on.
    pub(crate) fn lift(&mut self, lifted: &Lifted) {
        self.core.authenticator.lift(lifted);
    }

    /// From now on requests to the API must bring one of these keys.
    pub(crate) fn set_api_keys(&mut self, keys: Arc<ApiKeys>) {
        self.core.set_api_keys(keys);
    }

    /// The control thread has answered a call of [`Shard::take_control_calls`], or could not take it.
    pub(crate) fn control_answered(&mut self, number: u32, answer: Result<SlowAnswer, ApiError>, now: Now) {
        self.core.control_answered(number, answer, now);
    }

    /// Refuses requests to the API from now on. Those that are under way go on.
    pub fn drain_api(&mut self, now: Now) {
        self.core.drain_api(now);
    }

    /// An errand has been done. Call this once for each [`Action::Errand`], with its number. An answer that comes late
    /// changes nothing.
    pub fn errand_done(&mut self, number: u32, outcome: ErrandOutcome) {
        self.core.errand_done(number, outcome);
    }

    /// The server is about to go: publications no longer wait for a batch window, so that no client waits for an answer.
    pub(crate) fn end_windows(&mut self, now: Now) {
        self.core.end_windows(now);
    }

    /// Takes no more requests, and says goodbye to everyone (1001) when all that was accepted has come, or after
    /// `patience_ms`.
    pub fn drain(&mut self, patience_ms: u64, now: Now) {
        self.core.drain(patience_ms, now);
    }

    /// Ends every connection that is left: those that the kernel has not taken everything for are reset.
    pub(crate) fn end_all(&mut self) {
        self.core.end_all();
    }
}

/// What a driver asks after each call.
impl Shard {
    /// What the driver has to do now, in this order; the list is handed over.
    pub fn take_actions(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.core.actions)
    }

    /// The calls of the API that the control thread has to answer; the list is handed over.
    pub(crate) fn take_control_calls(&mut self) -> Vec<ControlCall> {
        self.core.take_control_calls()
    }

    /// Whether the connection is one of the API.
    pub(crate) fn is_of_api(&self, id: ConnId) -> bool {
        self.core.is_of_api(id)
    }

    /// Whether no request of the API is under way.
    pub(crate) fn is_api_idle(&mut self) -> bool {
        self.core.is_api_idle()
    }

    /// Whether a connection of the API has yet to be sent something.
    pub(crate) fn owes_api(&mut self) -> bool {
        self.core.owes_api()
    }

    /// Whether something waits that a turn would take up.
    pub fn has_work(&self) -> bool {
        self.core.has_work()
    }

    /// Whether something waits for another shard to make room: no turn helps before it has.
    pub fn is_stuck(&self) -> bool {
        self.core.is_stuck()
    }
}

/// What is shown of a shard.
impl Shard {
    /// This shard's numbers.
    pub(crate) fn metrics(&self) -> &Arc<ShardMetrics> {
        &self.core.metrics
    }

    /// How many connections there are, beside those that are being refused.
    pub fn connections(&self) -> usize {
        self.core.connections()
    }

    /// Whether everybody here was told to go.
    pub fn has_said_goodbye(&self) -> bool {
        self.core.has_said_goodbye()
    }

    /// Whether a connection waits for the turn of a large answer.
    #[doc(hidden)]
    pub fn holds_back(&mut self) -> bool {
        self.core.holds_back()
    }

    /// Whether nothing is under way: no parcel is staged, no ask is unanswered, nothing waits for a flush.
    #[doc(hidden)]
    pub fn is_quiescent(&self) -> bool {
        self.core.is_quiescent()
    }

    /// For the failure message of a simulation that doesn't come to rest.
    #[doc(hidden)]
    pub fn what_waits(&self) -> String {
        self.core.what_waits()
    }

    /// The channels that this shard owns, as it sees them.
    #[doc(hidden)]
    pub fn owned(&self) -> Vec<OwnedChannel> {
        self.core.hub.owned()
    }

    /// Whether news of a remote engine waits for room in the lanes.
    #[doc(hidden)]
    pub fn has_engine_news(&self) -> bool {
        self.core.hub.has_news()
    }

    /// Whether the outcome of this ask to a remote engine is awaited.
    #[doc(hidden)]
    pub fn awaits_engine(&self, ticket: Ticket) -> bool {
        self.core.hub.awaits(ticket)
    }

    /// Whether a client waits for an errand.
    #[doc(hidden)]
    pub fn awaits_errand(&self) -> bool {
        !self.core.errands.is_idle()
    }

    /// The memory that is held for the connection, in bytes, and the most that it would be with what it is due.
    #[doc(hidden)]
    pub fn held_bytes(&mut self, id: ConnId) -> Option<(usize, usize)> {
        self.core.held_bytes(id)
    }

    /// Whether the connection is there and has been told, or is to be told, that it ends.
    #[doc(hidden)]
    pub fn is_closing(&mut self, id: ConnId) -> bool {
        self.core.is_closing(id)
    }
}
