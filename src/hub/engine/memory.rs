//! The engine that is this process alone. It orders the publications of the channels that this shard owns, and it
//! answers at once. It gives offsets and epochs, remembers idempotency keys and keeps the histories.
//! What it knows ends with the process.

use std::sync::Arc;

use super::dedup::{self, Dedup, KeySeen};
use super::epochs::Epochs;
use super::logs::{ChannelLogs, LogId};
use super::{EngineSettings, Submitted};
use crate::model::parcel::Refusal;
use crate::model::position::Placed;
use crate::model::publication::{Content, Publish};

/// Orders and keeps publications in the memory of one shard.
#[derive(Debug)]
pub(crate) struct MemoryEngine {
    logs: ChannelLogs,
    epochs: Epochs,
    dedup: Dedup,
}

impl MemoryEngine {
    /// `seed` makes the epochs: random in a server, fixed in a simulation.
    pub(crate) fn new(settings: &EngineSettings, seed: u64) -> Self {
        Self {
            logs: ChannelLogs::new(settings.history_bytes),
            epochs: Epochs::new(seed),
            dedup: Dedup::new(settings.idempotency_keys),
        }
    }

    /// The logs of the channels.
    pub(crate) fn logs(&self) -> &ChannelLogs {
        &self.logs
    }

    /// The logs of the channels.
    pub(crate) fn logs_mut(&mut self) -> &mut ChannelLogs {
        &mut self.logs
    }

    /// Begins a channel.
    pub(crate) fn open(&mut self, name: &Arc<str>) -> LogId {
        self.logs.open(name, self.epochs.of(name))
    }

    /// Ends a channel: its history and its idempotency keys go. If it had publications, its epoch ends too.
    pub(crate) fn close(&mut self, name: &str, log: LogId) {
        self.dedup.forget_channel(name);
        if self.logs.close(log) > 0 {
            self.epochs.end(name);
        }
    }

    /// Accepts a publication or says why not. See [`super::Engine::submit`].
    pub(crate) fn submit(
        &mut self,
        log: LogId,
        publish: Publish,
        fits: impl FnOnce(&Publish, &Placed) -> bool,
        timestamp: u64,
        mono_ms: u64,
    ) -> Submitted {
        if publish.epoch.as_ref().is_some_and(|epoch| **epoch != **self.logs.epoch(log)) {
            return Submitted::EpochChanged;
        }
        let content = match self.look_up(&publish, mono_ms) {
            Ok(content) => content,
            Err(submitted) => return submitted,
        };
        // The place is taken only if the push fits, so that a push which is too large leaves no hole.
        if !fits(&publish, &self.logs.placed(log, self.logs.top(log) + 1)) {
            return Submitted::Refused(Refusal::TooLarge);
        }
        let placed = self.logs.advance(log);
        if let (Some(key), Some(content)) = (&publish.idempotency_key, content) {
            self.dedup.record(&publisher_key(&publish), key, content, placed.clone(), mono_ms);
        }
        Submitted::Accepted { placed, timestamp, publish }
    }

    /// The hash of the content, if the publication carries an idempotency key and the key is new.
    #[expect(clippy::result_large_err, reason = "the error is the answer, and it is moved once")]
    fn look_up(&mut self, publish: &Publish, mono_ms: u64) -> Result<Option<u128>, Submitted> {
        let Some(key) = &publish.idempotency_key else { return Ok(None) };
        let (kind, body) = match &publish.content {
            Content::Text(text) => (&b"text"[..], text.as_bytes()),
            Content::Json(json) => (&b"json"[..], &**json),
        };
        let conflation_key = publish.key.as_deref().unwrap_or_default().as_bytes();
        let content = self.dedup.content_hash(&[kind, body, conflation_key]);
        match self.dedup.check(&publisher_key(publish), &publish.channel, key, content, mono_ms) {
            KeySeen::New => Ok(Some(content)),
            KeySeen::Duplicate(placed) => Err(Submitted::Duplicate(placed)),
            KeySeen::OtherContent => Err(Submitted::Refused(Refusal::KeyReused)),
        }
    }
}

/// The user whose idempotency keys count for this publication.
fn publisher_key(publish: &Publish) -> Arc<str> {
    publish.sender.as_ref().map_or_else(|| dedup::BACKEND.into(), |user| Arc::clone(user.key()))
}
