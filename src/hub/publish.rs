//! A publication's way through its owner. *Before* the engine: the right to publish and the size. The engine decides
//! whether the publication is accepted and where it stands. *After* the engine: the publication is encoded for its
//! place, kept in the history, and delivered or put into the batch window. Part of `hub`.

use std::sync::Arc;

use super::HubSettings;
use super::channel::{Batch, Channel};
use super::engine::{Engine, Submitted};
use crate::dialect::native::encode::{self, Kind, Position};
use crate::mesh::Staging;
use crate::model::engine::{KeepTerms, Ticket};
use crate::model::parcel::{Answer, Asker, Content, Parcel, Placed, Publish, Refusal};
use crate::model::publication::Publication;
use crate::model::text::escape_html;
use crate::planted::Fault;
use crate::time::clock::Now;

/// A scratch buffer above this size is given back.
const KEEP_BYTES: usize = 64 * 1024;
/// Escaping makes at most this many bytes of one: `'` becomes `&#039;` in HTML, and a control character `\u0007` in JSON.
const ESCAPED_BYTES: usize = 6;
/// The bytes of a push beside its names, its sender and its content, rounded up.
const ENVELOPE_BYTES: usize = 512;

/// Encodes publications, and counts those in batch windows.
#[derive(Debug, Default)]
pub struct Publisher {
    /// The bytes of all frames in open batch windows.
    pub batched_bytes: usize,
    /// Scratch for one frame.
    frame: Vec<u8>,
}

impl Publisher {
    /// Takes one publication for `channel` and returns the answer, or the ticket under which the engine answers later.
    /// An accepted publication has been delivered, or it is in the channel's batch window.
    pub fn publish(
        &mut self,
        settings: &HubSettings,
        engine: &mut Engine,
        channel: &mut Channel,
        asker: Asker,
        publish: Publish,
        now: Now,
        out: &mut Staging<Parcel>,
    ) -> Result<Answer, Ticket> {
        if let Asker::Conn(conn) = asker
            && !channel.has(conn)
        {
            return Ok(Answer::Refused(Refusal::Forbidden));
        }
        let timestamp = channel.timestamp(now.unix_ms);
        let fits = |publish: &Publish, placed: &Placed| {
            most_bytes(channel, publish) <= settings.push_bytes
                || self.encode(channel, placed, timestamp, publish).1 <= settings.push_bytes
        };
        let place = (channel.log, terms(channel));
        Ok(match engine.submit(place, publish, fits, timestamp, now.mono_ms, out) {
            Submitted::Accepted { placed, timestamp, publish } => {
                let (publication, _) = self.encode(channel, &placed, timestamp, &publish);
                engine.logs_mut().keep(channel.log, &publication, now.mono_ms);
                self.hand_on(channel, publication, channel.namespace.batch_window_ms, now, out);
                Answer::Published { placed, duplicate: false }
            }
            Submitted::Duplicate(placed) => Answer::Published { placed, duplicate: true },
            Submitted::EpochChanged => Answer::EpochChanged(channel.position(engine)),
            Submitted::Refused(refusal) => Answer::Refused(refusal),
            Submitted::Pending(ticket) => return Err(ticket),
        })
    }

    /// Sends the publication now, or puts it into the channel's batch window.
    pub fn hand_on(
        &mut self,
        channel: &mut Channel,
        publication: Arc<Publication>,
        window_ms: u64,
        now: Now,
        out: &mut Staging<Parcel>,
    ) {
        if window_ms == 0 {
            return deliver(channel, &publication, out);
        }
        let batch = &mut channel.batch;
        if !batch.is_open() {
            batch.until_ms = now.mono_ms.saturating_add(window_ms);
        }
        batch.bytes += publication.frame().len();
        self.batched_bytes += publication.frame().len();
        batch.publications.push(publication);
    }

    /// Ends the channel's batch window: its publications leave.
    pub fn end_batch(&mut self, channel: &mut Channel, out: &mut Staging<Parcel>) {
        let Batch { mut publications, bytes, .. } = std::mem::take(&mut channel.batch);
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
    }

    /// The publication in its place, and how many bytes its frame has.
    pub fn encode(
        &mut self,
        channel: &Channel,
        placed: &Placed,
        timestamp: u64,
        publish: &Publish,
    ) -> (Arc<Publication>, usize) {
        let escape = channel.namespace.escape;
        let position = placed.position();
        let sender = publish.sender.as_ref().map(|user| user.json(escape));
        let frame = &mut self.frame;
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
        let bytes = frame.len();
        let fields = short(fields.start)..short(fields.end);
        let shared = Arc::from(&**frame);
        if frame.capacity() > KEEP_BYTES {
            *frame = Vec::new();
        }
        let publication = Publication::new(placed.offset, timestamp, publish.key.clone(), kind, shared, fields);
        (Arc::new(publication), bytes)
    }
}

/// How an engine has to keep the channel's publications.
fn terms(channel: &Channel) -> KeepTerms {
    KeepTerms { count: channel.namespace.history_size, age_ms: channel.namespace.history_age_ms }
}

/// An upper bound of the push's size that takes no look at the content. Most pushes are far below the limit, and then
/// nobody has to know the exact size.
fn most_bytes(channel: &Channel, publish: &Publish) -> usize {
    let content = match &publish.content {
        Content::Text(text) => ESCAPED_BYTES * text.len(),
        Content::Json(json) => json.len(),
    };
    let names = channel.name().len() + publish.key.as_ref().map_or(0, |key| key.len());
    let sender = publish.sender.as_ref().map_or(0, |user| user.json(channel.namespace.escape).get().len());
    ENVELOPE_BYTES + ESCAPED_BYTES * names + sender + content
}

fn short(at: usize) -> u32 {
    u32::try_from(at).expect("a push is below 1 GiB")
}

/// Sends one publication to every shard with subscribers.
fn deliver(channel: &Channel, publication: &Arc<Publication>, out: &mut Staging<Parcel>) {
    let dropped = Fault::DroppedParcel.is_planted() && publication.offset.is_multiple_of(16); // PLANTED
    for shard in channel.interested().skip(usize::from(dropped)) {
        let (channel, publication) = (Arc::clone(channel.name()), Arc::clone(publication));
        out.push(shard, Parcel::Deliver { channel, publication });
    }
}
