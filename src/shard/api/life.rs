//! The beginning and the end of the API's connections. A connection that finds no place has another one give way (`places`
//! chooses it). Part of `shard`.

use super::conn::ApiConn;
use super::places::{PlaceHolder, gives_way};
use crate::ids::ConnId;
use crate::limits::Peer;
use crate::limits::api_bound::ApiBound;
use crate::limits::refusals::RefusalNote;
use crate::shard::conns::{Conn, Stage};
use crate::shard::{Action, ShardCore};
use crate::time::clock::Now;

impl ShardCore {
    /// A connection of the API was accepted. `None`: there is no place for it, and the driver closes it.
    pub(in crate::shard) fn open_api(&mut self, peer: Peer, now: Now) -> Option<ConnId> {
        self.api.rules.as_ref()?;
        let is_full = self.api.conns.len() - self.api.leaving >= self.api.places.all;
        if is_full && !self.displace(false, ApiBound::Stranger, "its place went to a newer connection", now) {
            self.reached(ApiBound::Places, Some(peer), now, "a new connection finds no place");
            return None;
        }
        let mut conn = Conn::new(None, now.mono_ms);
        conn.enter(Stage::Api, now.mono_ms);
        let id = self.conns.insert(conn, peer);
        self.api.conns.insert(id.slot, Box::new(ApiConn::new(peer)));
        tracing::debug!(conn = %id, client = %peer, "connected to the API");
        self.file_deadline(id);
        Some(id)
    }

    /// The kernel has no descriptor or memory for a new connection of the API: one that there is gives way.
    pub(in crate::shard) fn free_api_place(&mut self, now: Now) {
        let why = "its descriptor is for a newer connection";
        if !self.displace(false, ApiBound::Descriptors, why, now) {
            self.displace(true, ApiBound::Descriptors, why, now);
        }
    }

    /// A request of the connection has brought a valid key. Returns false if there are as many such connections as may be,
    /// and none of them can give way.
    pub(super) fn recognize(&mut self, id: ConnId, now: Now) -> bool {
        if self.api_conn(id).is_none_or(|conn| conn.is_known) {
            return true;
        }
        let is_full = self.api.known >= self.api.places.known;
        if is_full && !self.displace(true, ApiBound::Idle, "its place went to another connection with a key", now) {
            return false;
        }
        self.api.known += 1;
        if let Some(conn) = self.api_conn(id) {
            conn.is_known = true;
        }
        true
    }

    /// Has one connection of a kind give way. Returns whether there is one that can.
    fn displace(&mut self, is_known: bool, bound: ApiBound, why: &'static str, now: Now) -> bool {
        let Self { api, conns, .. } = self;
        let of_kind = api.conns.iter_mut().filter(|(_, conn)| !conn.is_leaving && conn.is_known == is_known);
        let holders: Vec<_> = of_kind
            .filter_map(|(slot, conn)| {
                let seen_ms = conns.get_slot(*slot)?.seen_ms;
                let is_busy = is_known && !conn.responses().is_empty();
                Some(PlaceHolder { slot: *slot, address: conn.address(), seen_ms, is_busy })
            })
            .collect();
        let Some(slot) = gives_way(&holders) else { return false };
        let id = self.conns.id(slot);
        let peer = self.api_conn(id).map(|conn| conn.peer);
        self.reached(bound, peer, now, why);
        self.forget_requests(id);
        if let Some(conn) = self.api_conn(id) {
            conn.is_leaving = true;
        }
        self.api.leaving += 1;
        if self.conns.at(slot).outbox.is_empty() {
            self.let_go(id, now);
            self.actions.push(Action::End(id));
        } else {
            self.abort(id, now);
        }
        true
    }

    /// Counts that a bound was reached, and tells it in the log.
    pub(super) fn reached(&mut self, bound: ApiBound, client: Option<Peer>, now: Now, why: &'static str) {
        self.metrics.api_bound(bound);
        let note = RefusalNote { reason: bound.name(), client, conn: None, user: None };
        self.settings.refusals.tell(&note, now.mono_ms, || why.to_owned());
    }

    /// The socket is closed, by either side. Returns false if it is no connection of the API.
    pub(in crate::shard) fn api_closed(&mut self, id: ConnId) -> bool {
        self.forget_requests(id);
        let Some(conn) = self.api.conns.remove(&id.slot) else { return false };
        self.api.known -= usize::from(conn.is_known);
        self.api.leaving -= usize::from(conn.is_leaving);
        true
    }

    /// Nothing more is read of the connection, and nothing that it is owed is sent.
    pub(super) fn forget_requests(&mut self, id: ConnId) {
        let Some(conn) = self.api.conns.get_mut(&id.slot) else { return };
        let address = conn.address();
        if !conn.responses().is_empty() {
            self.api.asks.forget_connection(id);
        }
        while let Some(pending) = conn.responses().pop() {
            if !pending.state.is_written() {
                self.api.requests.give_back(address, 1);
                self.api.bodies.give_back(address, pending.charged);
            }
        }
        self.api.bodies.give_back(address, std::mem::take(&mut conn.charged));
    }

    /// The API's part of a connection.
    pub(super) fn api_conn(&mut self, id: ConnId) -> Option<&mut ApiConn> {
        self.api.conns.get_mut(&id.slot).map(|conn| &mut **conn)
    }

    /// Whether the connection is one of the API.
    pub(in crate::shard) fn is_of_api(&self, id: ConnId) -> bool {
        self.api.conns.contains_key(&id.slot)
    }
}
