//! Who is let in: a connection takes a place of the process and counts under its address, or is over a limit. Then it
//! gives every place back at once, and is only there, within the bound and its address's share of all refusals, until
//! it has been told. Part of `shard`; the counts are `limits`'.

use super::conns::Conn;
use super::{Arrival, ShardCore};
use crate::ids::ConnId;
use crate::limits::refusals::RefusalNote;
use crate::limits::{Address, Limit, Peer};
use crate::metrics::Count;
use crate::model::voice::Voice;
use crate::time::clock::Now;
use crate::wire::handshake::{self, HttpRefusal};

/// How long a connection over a limit may take to send the request that is answered with the refusal.
pub(super) const REFUSED_MS: u64 = 2_000;

/// Connections that are only there to be told that they are refused.
#[derive(Debug, Default)]
pub(super) struct Admission {
    turned_away: usize,
}

impl Admission {
    /// How many there are.
    pub(super) fn turned_away(&self) -> usize {
        self.turned_away
    }
}

impl ShardCore {
    /// A socket was accepted. Over a limit, its request will be refused. `None`: it can't be told, or too many are
    /// being refused already, and it is to be closed.
    pub(super) fn open(&mut self, arrival: Arrival, now: Now) -> Option<ConnId> {
        let Arrival { from, is_told, accepted_ns } = arrival;
        let (address, refused) = match self.admit(from, now) {
            Ok(address) => (address, None),
            Err(limit) => (Address::of(from), Some(limit)),
        };
        if let Some(limit) = refused {
            self.metrics.refused(limit);
            let note = RefusalNote { reason: limit.name(), client: Some(from), conn: None, user: None };
            self.settings.refusals.tell(&note, now.mono_ms, || "a new connection".to_owned());
            if !is_told || !self.settings.guard.turn_away(address) {
                self.metrics.count(Count::Unadmitted);
                return None;
            }
            self.admission.turned_away += 1;
        }
        let mut conn = Conn::new(refused, now.mono_ms);
        if refused.is_none() && self.settings.guard.is_proxy(from) {
            conn.came_through(from);
        }
        let id = self.conns.insert(conn, from);
        *self.conns.address(id.slot) = address;
        self.conns.set_accepted(id.slot, accepted_ns);
        tracing::debug!(conn = %id, client = %from, refused = refused.map(Limit::name), "connected");
        self.file_deadline(id);
        Some(id)
    }

    /// Takes the place of one more connection. Returns what it counts under: nothing yet, if a trusted proxy is still
    /// to say whose it is.
    fn admit(&self, from: Peer, now: Now) -> Result<Address, Limit> {
        let guard = &self.settings.guard;
        if !guard.take_place() {
            return Err(Limit::Connections);
        }
        let shard_max = guard.settings().connections_per_shard;
        let admitted = if shard_max > 0 && self.connections() >= shard_max {
            Err(Limit::ConnectionsPerShard)
        } else if guard.is_short_of_memory() {
            Err(Limit::Memory)
        } else if guard.is_proxy(from) {
            Ok(Address::NONE)
        } else {
            guard.enter(from, now.mono_ms)
        };
        admitted.inspect_err(|_| guard.give_place_back())
    }

    /// Learns from the request of a trusted proxy where it came from, and counts it there. Over a limit it loses its
    /// place: what is left to do is to tell it, or to cut it if too many are being told.
    pub(super) fn place(&mut self, id: ConnId, request: &handshake::UpgradeRequest<'_>, now: Now) -> Result<(), Limit> {
        let Some(proxy) = self.conns.at(id.slot).take_proxy() else { return Ok(()) };
        let guard = &self.settings.guard;
        let header = guard.settings().forwarded_header;
        let client = header.client(request.headers(header.name()), |addr| guard.is_proxy(addr.into()));
        let client = client.map_or(proxy, Peer::Ip);
        tracing::debug!(conn = %id, %client, "through a proxy");
        let entered = guard.enter(client, now.mono_ms);
        self.conns.set_client(id.slot, client);
        match entered {
            Ok(address) => {
                *self.conns.address(id.slot) = address;
                Ok(())
            }
            Err(limit) => {
                self.refused(id, limit, now, || "a new connection, through a proxy".to_owned());
                let address = Address::of(client);
                let guard = &self.settings.guard;
                let is_told = guard.turn_away(address);
                guard.give_place_back();
                self.admission.turned_away += 1;
                self.conns.at(id.slot).refused = Some(limit);
                if is_told {
                    *self.conns.address(id.slot) = address;
                } else {
                    self.metrics.count(Count::Unadmitted);
                    self.abort(id, now);
                }
                Err(limit)
            }
        }
    }

    /// The socket is gone, whoever ended it.
    pub(super) fn closed(&mut self, id: ConnId, now: Now) {
        if self.conns.get(id).is_none() {
            return;
        }
        if self.api_closed(id) {
            self.sender.unblock(self.conns.at(id.slot));
            self.conns.remove(id);
            return;
        }
        let conn = self.conns.at(id.slot);
        self.event_streams -= usize::from(conn.framing.voice() == Voice::EventStream);
        self.sender.unblock(conn);
        let was_refused = conn.refused.is_some();
        self.leave(id);
        self.release_unfinished(id, now);
        let address = *self.conns.address(id.slot);
        let guard = &self.settings.guard;
        if was_refused {
            self.admission.turned_away -= 1;
            if address != Address::NONE {
                guard.was_turned_away(address);
            }
        } else {
            guard.give_place_back();
            guard.leave(address, now.mono_ms);
        }
        self.conns.remove(id);
    }

    /// How many connections there are, beside those that are being refused.
    pub(super) fn connections(&self) -> usize {
        self.conns.count() - self.admission.turned_away - self.api.count()
    }
}

/// What a connection over this limit is told before the upgrade.
pub(super) fn refusal_of(limit: Limit) -> HttpRefusal {
    match limit {
        // Its others may stay for hours.
        Limit::ConnectionsPerIp => HttpRefusal::too_many_requests(30),
        // At least one is let in each second.
        Limit::NewConnectionsPerIp => HttpRefusal::too_many_requests(1),
        Limit::Memory => HttpRefusal::unavailable("short of memory", 10),
        _ => HttpRefusal::unavailable("at capacity", 5),
    }
}
