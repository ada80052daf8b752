//! The engine accepts publications: it gives each one its offset, knows idempotency keys, and keeps the history. The
//! hub asks it before it delivers anything. The engine of a server is `memory`: this process alone. `remote` is the
//! owner's side of an engine that lies elsewhere and answers later; so far only the simulation has such an engine.

pub mod budget;
pub mod dedup;
mod epochs;
pub mod history;
pub(crate) mod logs;
mod memory;
mod remote;

use std::sync::Arc;

use crate::ids::ShardId;
use crate::mesh::Staging;
use crate::model::engine::{KeepTerms, Ticket};
use crate::model::parcel::{Parcel, Refusal};
use crate::model::position::Placed;
use crate::model::publication::Publish;
use logs::ChannelLogs;
use memory::MemoryEngine;
use remote::RemoteEngine;

pub(crate) use logs::LogId;

/// What an engine has to know of the configuration. Bounds are those of one shard.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EngineSettings {
    /// The engine that orders and stores.
    pub kind: EngineKind,
    /// Most bytes of history over all channels.
    pub history_bytes: usize,
    /// Most idempotency keys that are remembered.
    pub idempotency_keys: u32,
}

/// The kinds of engines. No key of the configuration chooses the remote one yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EngineKind {
    /// This process alone.
    Memory,
    /// The endpoint of the mesh behind the shards.
    Remote,
}

/// Orders and keeps the publications of the channels that one shard owns.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "a shard has one engine")]
pub(crate) enum Engine {
    /// This process alone: answers at once.
    Memory(MemoryEngine),
    /// An endpoint of the mesh: answers later, or never.
    Remote(RemoteEngine),
}

/// What an engine says to a publication.
#[derive(Debug)]
pub(crate) enum Submitted {
    /// Accepted. [`ChannelLogs::keep`] has to follow.
    Accepted {
        /// The publication's place.
        placed: Placed,
        /// Its time, in Unix milliseconds.
        timestamp: u64,
        /// What was submitted.
        publish: Publish,
    },
    /// The same publication was accepted before under the same idempotency key, and has this place.
    Duplicate(Placed),
    /// Not accepted: the channel is not in the epoch that the publisher demands.
    EpochChanged,
    /// Not accepted for another reason.
    Refused(Refusal),
    /// Not known yet. The outcome comes as news with this ticket, or never.
    Pending(Ticket),
}

impl Engine {
    /// The engine that the settings ask for. A remote one is at `endpoint` of the mesh. `seed` makes the epochs of the
    /// memory engine: random in a server, fixed in a simulation.
    pub(crate) fn new(settings: &EngineSettings, endpoint: ShardId, seed: u64) -> Self {
        match settings.kind {
            EngineKind::Memory => Self::Memory(MemoryEngine::new(settings, seed)),
            EngineKind::Remote => Self::Remote(RemoteEngine::new(settings, endpoint)),
        }
    }

    /// Begins a channel.
    pub(crate) fn open(&mut self, name: &Arc<str>) -> LogId {
        match self {
            Self::Memory(memory) => memory.open(name),
            Self::Remote(remote) => remote.logs_mut().open(name, "".into()),
        }
    }

    /// Ends a channel: what the engine keeps of it goes.
    pub(crate) fn close(&mut self, name: &str, log: LogId) {
        match self {
            Self::Memory(memory) => memory.close(name, log),
            Self::Remote(remote) => drop(remote.logs_mut().close(log)),
        }
    }

    /// Asks for a place in the channel. `fits` says whether the push is small enough for its place: an engine asks for
    /// it once, before it accepts. `timestamp` is the time of the publication unless the engine decides it.
    pub(crate) fn submit(
        &mut self,
        (log, terms): (LogId, KeepTerms),
        publish: Publish,
        fits: impl FnOnce(&Publish, &Placed) -> bool,
        timestamp: u64,
        mono_ms: u64,
        out: &mut Staging<Parcel>,
    ) -> Submitted {
        match self {
            Self::Memory(memory) => memory.submit(log, publish, fits, timestamp, mono_ms),
            Self::Remote(remote) => remote.submit(publish, fits, terms, out),
        }
    }

    /// What is known of the channels' publications.
    pub(crate) fn logs(&self) -> &ChannelLogs {
        match self {
            Self::Memory(memory) => memory.logs(),
            Self::Remote(remote) => remote.logs(),
        }
    }

    /// What is known of the channels' publications.
    pub(crate) fn logs_mut(&mut self) -> &mut ChannelLogs {
        match self {
            Self::Memory(memory) => memory.logs_mut(),
            Self::Remote(remote) => remote.logs_mut(),
        }
    }
}
