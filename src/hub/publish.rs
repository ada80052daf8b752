//! Accepting a publication: rights and idempotency checked, an offset assigned, encoded once, kept in the history,
//! handed to the lanes. The engine decides what "accepted" means; there is one so far, memory. Part of `hub`.

use std::sync::Arc;

use super::HubSettings;
use super::budget::Budget;
use super::channel::{Batch, Behind, Channel};
use super::dedup::{self, Dedup, Seen};
use super::history::{Bounds, History};
use crate::dialect::native::encode::{self, Kind, Position};
use crate::mesh::Staging;
use crate::model::parcel::{Answer, Asker, Content, Parcel, Placed, Publish, Refusal};
use crate::model::publication::Publication;
use crate::model::text::escape_html;
use crate::planted::Fault;
use crate::time::clock::Now;

/// Who orders and keeps the publications of a channel.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Engine {
    /// This process alone: accepted at once.
    #[default]
    Memory,
}

/// What an engine says to a publication.
#[derive(Debug)]
pub enum Submitted {
    /// It is accepted, in this place.
    Accepted(Placed),
}

impl Engine {
    /// Asks for the next place in the channel.
    pub fn submit(self, channel: &mut Channel) -> Submitted {
        match self {
            Self::Memory => Submitted::Accepted(channel.advance()),
        }
    }
}

/// A scratch buffer above this is given back.
const KEEP_BYTES: usize = 64 * 1024;

/// What publishing needs beside the channel.
#[derive(Debug)]
pub struct Publisher {
    engine: Engine,
    dedup: Dedup,
    /// Of the histories of all channels.
    pub budget: Budget<Arc<str>>,
    /// The length of all frames in open batch windows.
    pub batched_bytes: usize,
    scratch: Vec<u8>,
}

impl Publisher {
    /// With the bounds of one shard.
    pub fn new(settings: &HubSettings) -> Self {
        Self {
            engine: Engine::default(),
            dedup: Dedup::new(settings.idempotency_keys),
            budget: Budget::new(settings.history_bytes),
            batched_bytes: 0,
            scratch: Vec::new(),
        }
    }

    /// Takes one publication for `channel` and returns the answer. Either the publication has been delivered, or it
    /// is in the channel's batch.
    pub fn publish(
        &mut self,
        settings: &HubSettings,
        channel: &mut Channel,
        asker: Asker,
        publish: &Publish,
        now: Now,
        out: &mut Staging<Parcel>,
    ) -> Answer {
        if let Asker::Conn(conn) = asker
            && !channel.has(conn)
        {
            return Answer::Refused(Refusal::Forbidden);
        }
        if publish.epoch.as_ref().is_some_and(|epoch| **epoch != **channel.epoch()) {
            return Answer::EpochChanged(channel.position());
        }
        let content = match self.look_up(channel, publish, now) {
            Ok(content) => content,
            Err(answer) => return answer,
        };
        let publication = match self.encode(settings, channel, publish, now) {
            Ok(publication) => publication,
            Err(refusal) => return Answer::Refused(refusal),
        };
        let Submitted::Accepted(placed) = self.engine.submit(channel);
        assert_eq!(placed.offset, publication.offset, "encoded for the place that it got");
        if let (Some(key), Some(content)) = (&publish.idempotency_key, content) {
            self.dedup.record(&publisher_key(publish), key, content, placed.clone(), now.mono_ms);
        }
        self.keep(channel, &publication, now);
        let window_ms = channel.namespace.batch_window_ms;
        if window_ms == 0 {
            deliver(channel, &publication, out);
        } else {
            let batch = &mut channel.batch;
            if !batch.is_open() {
                batch.until_ms = now.mono_ms + window_ms;
            }
            batch.bytes += publication.frame().len();
            self.batched_bytes += publication.frame().len();
            batch.publications.push(publication);
        }
        Answer::Published { placed, duplicate: false }
    }

    /// Ends the channel's batch window: its publications leave. Returns what waited behind them, which is to be seen to
    /// now.
    pub fn end_batch(&mut self, channel: &mut Channel, out: &mut Staging<Parcel>) -> Vec<Behind> {
        let Batch { mut publications, bytes, behind, .. } = std::mem::take(&mut channel.batch);
        self.batched_bytes -= bytes;
        if Fault::SwappedOrder.is_planted() && publications.len() > 1 {
            publications.swap(0, 1); // PLANTED
        }
        match &*publications {
            [] => {}
            [one] => deliver(channel, one, out),
            _ => {
                let publications: Arc<[_]> = publications.into();
                for shard in channel.interested() {
                    let (channel, publications) = (Arc::clone(channel.name()), Arc::clone(&publications));
                    out.push(shard, Parcel::DeliverBatch { channel, publications, bytes });
                }
            }
        }
        behind
    }

    /// What the history has to forget by now.
    pub fn expire(&mut self, channel: &mut Channel, now: Now) {
        let bounds = bounds(channel);
        let name = Arc::clone(channel.name());
        self.budget.change(&name, &mut channel.history, |history| history.expire(now.mono_ms, bounds));
    }

    /// The channel is about to go: what is kept of it goes too.
    pub fn forget(&mut self, channel: &mut Channel) {
        let name = Arc::clone(channel.name());
        self.budget.change(&name, &mut channel.history, History::clear);
        self.dedup.forget_channel(&name);
    }

    /// What stands for the content, if the publication carries a key that is new.
    fn look_up(&mut self, channel: &Channel, publish: &Publish, now: Now) -> Result<Option<u128>, Answer> {
        let Some(key) = &publish.idempotency_key else { return Ok(None) };
        let (kind, body) = match &publish.content {
            Content::Text(text) => (&b"text"[..], text.as_bytes()),
            Content::Json(json) => (&b"json"[..], &**json),
        };
        let conflation_key = publish.key.as_deref().unwrap_or_default().as_bytes();
        let content = self.dedup.content_hash(&[kind, body, conflation_key]);
        match self.dedup.check(&publisher_key(publish), channel.name(), key, content, now.mono_ms) {
            Seen::New => Ok(Some(content)),
            Seen::Duplicate(placed) => Err(Answer::Published { placed, duplicate: true }),
            Seen::OtherContent => Err(Answer::Refused(Refusal::KeyReused)),
        }
    }

    /// Encodes for the next offset, which is not assigned yet: too large a push leaves no hole.
    fn encode(
        &mut self,
        settings: &HubSettings,
        channel: &mut Channel,
        publish: &Publish,
        now: Now,
    ) -> Result<Arc<Publication>, Refusal> {
        let timestamp = channel.timestamp(now.unix_ms);
        let escape = channel.namespace.escape;
        let position = Position { channel: channel.name(), epoch: channel.epoch(), offset: channel.offset() + 1 };
        let sender = publish.sender.as_ref().map(|user| user.json(escape));
        let frame = &mut self.scratch;
        frame.clear();
        let (kind, fields) = match &publish.content {
            Content::Text(text) => {
                let text = if escape { escape_html(text) } else { (&**text).into() };
                (Kind::Message, encode::Message { position, sender, text: &text, timestamp }.encode(frame))
            }
            Content::Json(data) => {
                let key = publish.key.as_deref();
                let Position { channel, offset, .. } = position;
                let push = encode::Publication { channel, offset, data, key, sender, timestamp };
                (Kind::Publication, push.encode(frame))
            }
        };
        let offset = position.offset;
        let outcome = if frame.len() <= settings.push_bytes {
            let fields = short(fields.start)..short(fields.end);
            let shared = Arc::from(&**frame);
            Ok(Arc::new(Publication::new(offset, timestamp, publish.key.clone(), kind, shared, fields)))
        } else {
            Err(Refusal::TooLarge)
        };
        if frame.capacity() > KEEP_BYTES {
            *frame = Vec::new();
        }
        outcome
    }

    fn keep(&mut self, channel: &mut Channel, publication: &Arc<Publication>, now: Now) {
        let bounds = bounds(channel);
        let name = Arc::clone(channel.name());
        self.budget
            .change(&name, &mut channel.history, |history| history.push(Arc::clone(publication), now.mono_ms, bounds));
    }
}

/// Whose keys they are.
fn publisher_key(publish: &Publish) -> Arc<str> {
    publish.sender.as_ref().map_or_else(|| dedup::BACKEND.into(), |user| Arc::clone(user.key()))
}

fn bounds(channel: &Channel) -> Bounds {
    Bounds { count: channel.namespace.history_size, age_ms: channel.namespace.history_age_ms }
}

fn short(at: usize) -> u32 {
    u32::try_from(at).expect("a push is below 1 GiB")
}

fn deliver(channel: &Channel, publication: &Arc<Publication>, out: &mut Staging<Parcel>) {
    let dropped = Fault::DroppedParcel.is_planted() && publication.offset.is_multiple_of(16); // PLANTED
    for shard in channel.interested().skip(usize::from(dropped)) {
        let (channel, publication) = (Arc::clone(channel.name()), Arc::clone(publication));
        out.push(shard, Parcel::Deliver { channel, publication });
    }
}
