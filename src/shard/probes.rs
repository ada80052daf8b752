//! Signs of life that a sign-in waits for: the lobby's owner asks whether a connection lives whose user signs in again.
//! The connection is pinged at once. Whatever comes from it within [`Settings::probe_ms`](super::Settings) counts, and
//! so does room in a socket that was full. A connection from which nothing comes is closed (4504), and so releases its
//! user. Part of `shard`.

use std::collections::VecDeque;

use hashbrown::HashMap;

use super::{REPLY_BYTES, ShardCore, Wire};
use crate::dialect;
use crate::hub::{LOBBY, owner_of};
use crate::ids::ConnId;
use crate::metrics::Count;
use crate::model::notice::Reply;
use crate::model::parcel::Parcel;
use crate::planted::Fault;
use crate::time::clock::Now;
use crate::wire::codes::close;

/// Connections that have to show a sign of life. Each is in here once at most: its user's owner asks once at a time.
#[derive(Debug, Default)]
pub(super) struct Probes {
    /// With the deadline of each.
    awaited: HashMap<ConnId, u64, foldhash::fast::RandomState>,
    /// By deadline, in milliseconds of the monotonic clock: all wait equally long. Those that have answered are still in
    /// here.
    deadlines: VecDeque<(u64, ConnId)>,
}

impl ShardCore {
    /// The lobby's owner wants to know whether the connection lives.
    pub(super) fn probe(&mut self, id: ConnId, now: Now) {
        let Some(conn) = self.conns.get(id) else { return };
        if conn.session.claimed().is_none() {
            // It has ended, and its release is under way.
            return;
        }
        if conn.pinged_ms().is_none() {
            conn.ping(now.mono_ms);
        }
        self.push_ping(id);
        self.metrics.count(Count::Probes);
        let until_ms = now.mono_ms + self.settings.probe_ms;
        self.probes.awaited.insert(id, until_ms);
        self.probes.deadlines.push_back((until_ms, id));
        self.file_deadline(id);
    }

    /// Sends a ping, and in an event stream a comment.
    pub(super) fn push_ping(&mut self, id: ConnId) {
        let conn = self.conns.at(id.slot);
        if !conn.has_begun_stream() {
            return;
        }
        let (voice, wants_ping) = (conn.framing.voice(), conn.session.wants_ping());
        self.push_private(id.slot, |out| dialect::write_ping(voice, out));
        if wants_ping {
            self.say(id, &Reply::Ping, None);
        }
    }

    /// Something came from the connection, or it made room.
    pub(super) fn shows_life(&mut self, id: ConnId) {
        if self.probes.awaited.is_empty() || Fault::DeafProbe.is_planted() || self.probes.awaited.remove(&id).is_none()
        {
            return;
        }
        let Some(user) = self.conns.at(id.slot).session.claimed().cloned() else { return };
        let owner = owner_of(LOBBY, self.settings.hub.shards);
        self.staging.push(owner, Parcel::Alive { conn: id, user });
    }

    /// Event streams answer nothing: those whose peers have acknowledged all that was sent live.
    fn probe_streams(&mut self, wire: &mut impl Wire) {
        let awaited: Vec<ConnId> = self.probes.awaited.keys().copied().collect();
        for id in awaited {
            if self.has_taken_all(id, wire) {
                self.shows_life(id);
            }
        }
    }

    /// Lets go of the connections whose time is over.
    pub(super) fn end_probes(&mut self, wire: &mut impl Wire, now: Now) {
        if self.event_streams > 0 && !self.probes.awaited.is_empty() {
            self.probe_streams(wire);
        }
        while let Some(&(until_ms, id)) = self.probes.deadlines.front()
            && until_ms <= now.mono_ms
        {
            self.probes.deadlines.pop_front();
            // It may have answered, and be asked anew with a later deadline.
            if self.probes.awaited.get(&id) != Some(&until_ms) {
                continue;
            }
            let Some(conn) = self.conns.get(id).filter(|conn| conn.session.claimed().is_some()) else {
                self.probes.awaited.remove(&id);
                continue;
            };
            if conn.paused && !conn.is_heard_out() && conn.outbox.private_bytes() < REPLY_BYTES {
                // It is not read from because it waits for an answer of ours: its own silence can't be told.
                self.shows_life(id);
                continue;
            }
            self.probes.awaited.remove(&id);
            self.metrics.count(Count::ProbesUnanswered);
            self.tell_refusal(id, "no_sign_of_life", now, || {
                "closed: its user signs in again, and it answered no ping (4504)".to_owned()
            });
            self.close(id, close::NO_SIGN_OF_LIFE, "no sign of life", now);
        }
    }
}
