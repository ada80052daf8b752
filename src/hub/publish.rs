//! A publication's way through its owner. *Before* the engine: the right to publish and the size. The engine decides
//! whether the publication is accepted and where it stands. *After* the engine: the publication gets its place, is kept
//! in the history, and is delivered or put into the batch window. Part of `hub`.

use std::borrow::Cow;
use std::sync::Arc;

use super::HubSettings;
use super::channel::{Batch, Channel};
use super::engine::{Engine, Submitted};
use crate::mesh::Staging;
use crate::model::engine::{KeepTerms, Ticket};
use crate::model::parcel::{Answer, Asker, Delivery, Parcel, Refusal};
use crate::model::position::Placed;
use crate::model::publication::{Content, Publication, Publish};
use crate::model::text::escape_html;
use crate::planted::Fault;
use crate::time::clock::Now;

/// Escaping makes at most this many bytes of one: `'` becomes `&#039;` in HTML, and a control character `\u0007` in JSON.
const ESCAPED_BYTES: usize = 6;
/// The bytes of a push beside its names, its sender and its content, rounded up.
const ENVELOPE_BYTES: usize = 512;

/// Takes publications to their channels, and counts those in batch windows.
#[derive(Debug, Default)]
pub(crate) struct Publisher {
    /// The bytes of all frames in open batch windows.
    pub(crate) batched_bytes: usize,
}

impl Publisher {
    /// Takes one publication for `channel` and returns the answer, or the ticket under which the engine answers later.
    /// An accepted publication has been delivered, or it is in the channel's batch window.
    #[expect(clippy::too_many_arguments, reason = "the parts of the hub that publishing uses, as disjoint borrows")]
    pub(crate) fn publish(
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
                || place(settings, channel, placed.clone(), timestamp, publish.clone()).frame_bytes
                    <= settings.push_bytes
        };
        let terms = (channel.log, terms(channel));
        Ok(match engine.submit(terms, publish, fits, timestamp, now.mono_ms, out) {
            Submitted::Accepted { placed, timestamp, publish } => {
                let publication = Arc::new(place(settings, channel, placed.clone(), timestamp, publish));
                engine.logs_mut().keep(channel.log, channel.history_bounds(), &publication, now.mono_ms);
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
    pub(crate) fn hand_on(
        &mut self,
        channel: &mut Channel,
        publication: Arc<Publication>,
        window_ms: u64,
        now: Now,
        out: &mut Staging<Parcel>,
    ) {
        if window_ms == 0 {
            return deliver(channel, publication, out);
        }
        let batch = &mut channel.waits_mut().batch;
        if !batch.is_open() {
            batch.until_ms = now.mono_ms.saturating_add(window_ms);
        }
        batch.bytes += publication.frame_bytes;
        self.batched_bytes += publication.frame_bytes;
        batch.publications.push(publication);
    }

    /// Ends the channel's batch window: its publications leave.
    pub(crate) fn end_batch(&mut self, channel: &mut Channel, out: &mut Staging<Parcel>) {
        let Batch { mut publications, bytes, .. } = std::mem::take(&mut channel.waits_mut().batch);
        self.batched_bytes -= bytes;
        if Fault::SwappedOrder.is_planted() && publications.len() > 1 {
            publications.swap(0, 1); // PLANTED
        }
        match &*publications {
            [] => {}
            [one] => deliver(channel, Arc::clone(one), out),
            _ => {
                let deliveries: Arc<[_]> = publications.into_iter().map(Delivery::new).collect();
                for shard in channel.interested() {
                    out.push(shard, Parcel::DeliverBatch { deliveries: Arc::clone(&deliveries), bytes });
                }
            }
        }
    }
}

/// How an engine has to keep the channel's publications.
fn terms(channel: &Channel) -> KeepTerms {
    KeepTerms { count: channel.namespace.history_size, age_ms: channel.namespace.history_age_ms }
}

/// An upper bound of the push's size that takes no look at the content. Most pushes are far below the limit, and then
/// the exact size need not be known before the engine is asked.
fn most_bytes(channel: &Channel, publish: &Publish) -> usize {
    let content = match &publish.content {
        Content::Text(text) => ESCAPED_BYTES * text.len(),
        Content::Json(json) => json.len(),
    };
    let names = channel.name().len() + publish.key.as_ref().map_or(0, |key| key.len());
    let sender = publish.sender.as_ref().map_or(0, |user| user.key().len() + user.name().len());
    ENVELOPE_BYTES + ESCAPED_BYTES * (names + sender) + content
}

/// The publication in its place.
pub(crate) fn place(
    settings: &HubSettings,
    channel: &Channel,
    placed: Placed,
    timestamp: u64,
    publish: Publish,
) -> Publication {
    let Publish { sender, content, key, .. } = publish;
    let escape = channel.namespace.escape;
    let content = match content {
        Content::Text(text) if escape => Content::Text(match escape_html(&text) {
            Cow::Owned(escaped) => escaped.into(),
            Cow::Borrowed(_) => text,
        }),
        content => content,
    };
    let mut publication = Publication { placed, timestamp, sender, escape, content, key, frame_bytes: 0 };
    publication.frame_bytes = (settings.frame_len)(&publication);
    publication
}

/// Sends one publication to every shard with subscribers.
fn deliver(channel: &Channel, publication: Arc<Publication>, out: &mut Staging<Parcel>) {
    let dropped = Fault::DroppedParcel.is_planted() && publication.offset().is_multiple_of(16); // PLANTED
    let delivery = Arc::new(Delivery::new(publication));
    for shard in channel.interested().into_iter().skip(usize::from(dropped)) {
        out.push(shard, Parcel::Deliver { delivery: Arc::clone(&delivery) });
    }
}
