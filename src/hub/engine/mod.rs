//! The engine accepts publications: it gives each one its offset, knows idempotency keys, and keeps the history. The
//! hub asks it before it delivers anything. `memory` is the only engine so far.

pub mod budget;
pub mod dedup;
mod epochs;
pub mod history;
pub mod logs;
mod memory;

use std::sync::Arc;

use crate::model::parcel::Refusal;
use crate::model::position::Placed;
use crate::model::publication::Publish;
use history::HistoryBounds;
use logs::ChannelLogs;
use memory::MemoryEngine;

pub use logs::LogId;

/// What an engine has to know of the configuration. Bounds are those of one shard.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EngineSettings {
    /// Most bytes of history over all channels.
    pub history_bytes: usize,
    /// Most idempotency keys that are remembered.
    pub idempotency_keys: u32,
}

/// Orders and keeps the publications of the channels that one shard owns.
#[derive(Debug)]
pub enum Engine {
    /// This process alone: answers at once.
    Memory(MemoryEngine),
}

/// What an engine says to a publication.
#[derive(Debug)]
pub enum Submitted {
    /// Accepted in this place, with this timestamp in Unix milliseconds. [`ChannelLogs::keep`] has to follow.
    Accepted(Placed, u64),
    /// The same publication was accepted before under the same idempotency key, and has this place.
    Duplicate(Placed),
    /// Not accepted: the channel is not in the epoch that the publisher demands.
    EpochChanged,
    /// Not accepted for another reason.
    Refused(Refusal),
}

impl Engine {
    /// The engine that is this process alone. `seed` makes the epochs: random in a server, fixed in a simulation.
    pub fn memory(settings: &EngineSettings, seed: u64) -> Self {
        Self::Memory(MemoryEngine::new(settings, seed))
    }

    /// Begins a channel.
    pub fn open(&mut self, name: &Arc<str>, bounds: HistoryBounds) -> LogId {
        match self {
            Self::Memory(memory) => memory.open(name, bounds),
        }
    }

    /// Ends a channel: what the engine keeps of it goes.
    pub fn close(&mut self, name: &str, log: LogId) {
        match self {
            Self::Memory(memory) => memory.close(name, log),
        }
    }

    /// Asks for a place in the channel. `timestamp` is the time that the publication gets if this engine decides it.
    /// `fits` says whether the push is small enough for its place: an engine asks for it once, before it accepts.
    pub fn submit(
        &mut self,
        log: LogId,
        publish: &Publish,
        fits: impl FnOnce(&Placed) -> bool,
        timestamp: u64,
        mono_ms: u64,
    ) -> Submitted {
        match self {
            Self::Memory(memory) => memory.submit(log, publish, fits, timestamp, mono_ms),
        }
    }

    /// What is known of the channels' publications.
    pub fn logs(&self) -> &ChannelLogs {
        match self {
            Self::Memory(memory) => memory.logs(),
        }
    }

    /// What is known of the channels' publications.
    pub fn logs_mut(&mut self) -> &mut ChannelLogs {
        match self {
            Self::Memory(memory) => memory.logs_mut(),
        }
    }
}
