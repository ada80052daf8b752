//! What a shard compresses with, and what that costs and saves: runs for the subscribers of a channel, and messages for one
//! client, where compression was agreed on. Part of `shard`; `wire` knows DEFLATE.

use std::collections::VecDeque;

use super::{Compression, Settings, ShardCore};
use crate::fanout::run::Packer;
use crate::ids::ConnId;
use crate::metrics::{Count, ShardMetrics};
use crate::model::namespace::{Compress, LOBBY};
use crate::model::notice::Reply;
use crate::time::clock::Now;
use crate::wire::deflate::Deflate;
use crate::wire::deflate::compress::{Compressors, Sliced, Slicer};
use crate::wire::deflate::inflate::Work;
use crate::wire::frame;

/// Long messages that may wait for that. What comes beyond is sent as it is: bytes cost less than the wait.
const SLICED_MAX: usize = 8;
/// Room for a message before it is compressed that is kept from message to message.
const KEPT_BYTES: usize = 128 * 1024;

/// What a shard compresses with.
#[derive(Debug, Default)]
pub(super) struct Compressing {
    /// `None` until a client agrees on compression.
    compressors: Option<Box<Compressors>>,
    /// Room for a message before it is compressed.
    plain: Vec<u8>,
    slicing: Slicing,
}

impl Compressing {
    /// What compresses runs for a client with which `deflate` was agreed.
    pub(super) fn packer<'a>(
        &'a mut self,
        deflate: Option<Deflate>,
        settings: &Settings,
        metrics: &'a ShardMetrics,
    ) -> Option<Packer<'a>> {
        let deflate = deflate?;
        let Compression { level, min_bytes, .. } = settings.compression;
        let compressors = self.compressors.get_or_insert_with(|| Box::new(Compressors::new(level)));
        Some(Packer { deflate, min_bytes, compressors, stopwatch: settings.stopwatch, metrics })
    }

    /// Whether a long message waits for its next slice.
    pub(super) fn has_slices(&self) -> bool {
        self.slicing.is_under_way()
    }
}

/// Long messages that are being compressed, the first of them for now.
#[derive(Debug, Default)]
struct Slicing {
    waiting: VecDeque<LongMessage>,
    slicer: Option<Box<Slicer>>,
    /// The first of them has been begun.
    has_begun: bool,
    next_ticket: u32,
}

/// A message that stands uncompressed in its connection's outbox.
#[derive(Clone, Copy, Debug)]
struct LongMessage {
    conn: ConnId,
    ticket: u32,
    window_bits: u8,
}

impl Slicing {
    fn is_under_way(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// The first message is done with.
    fn pop(&mut self) {
        self.waiting.pop_front();
        self.has_begun = false;
        if self.waiting.is_empty() {
            self.slicer = None;
        }
    }

    /// Puts a message that stands in the outbox of `conn` behind the others. Returns its ticket.
    fn push(&mut self, conn: ConnId, deflate: Deflate) -> u32 {
        let ticket = self.next_ticket;
        self.next_ticket = ticket.wrapping_add(1);
        self.waiting.push_back(LongMessage { conn, ticket, window_bits: deflate.window_bits });
        ticket
    }
}

impl ShardCore {
    /// Compresses a slice of the first long message that waits for it.
    pub(super) fn compress_slice(&mut self) {
        let Some(&LongMessage { conn: id, ticket, window_bits }) = self.compressing.slicing.waiting.front() else {
            return;
        };
        let Slicing { slicer, has_begun, .. } = &mut self.compressing.slicing;
        let plain = self.conns.get(id).and_then(|conn| conn.outbox.compressing(ticket));
        let sliced = plain.map(|plain| {
            let level = self.settings.compression.level;
            let slicer = slicer.get_or_insert_with(|| Box::new(Slicer::new(level, window_bits)));
            if !std::mem::replace(has_begun, true) {
                slicer.begin(window_bits);
            }
            let started_ns = (self.settings.stopwatch)();
            let (opcode, content) = frame::message(plain);
            let sliced = slicer.step(opcode, content, self.settings.compression.slice_bytes);
            let took_ns = (self.settings.stopwatch)().saturating_sub(started_ns);
            self.metrics.add(Count::DeflateNs, took_ns as usize);
            (sliced, plain.len())
        });
        match sliced {
            Some((Sliced::More, _)) => return,
            Some((Sliced::Whole(frame), before)) => {
                self.count_deflated(before, frame.len());
                self.conns.at(id.slot).outbox.finish(ticket, Some(frame));
            }
            Some((Sliced::NoGain, _)) => {
                self.metrics.count(Count::UndeflatedReplies);
                self.conns.at(id.slot).outbox.finish(ticket, None);
            }
            // The connection was ended meanwhile.
            None => {}
        }
        self.compressing.slicing.pop();
        if self.conns.get(id).is_some() {
            self.mark_dirty(id.slot);
        }
    }

    fn count_deflated(&self, before: usize, after: usize) {
        self.metrics.count(Count::DeflatedReplies);
        self.metrics.add(Count::DeflatedReplyBytesBefore, before);
        self.metrics.add(Count::DeflatedReplyBytesAfter, after);
    }

    /// Counts what inflating a message took.
    pub(super) fn count_inflated(&mut self, id: ConnId, work: Work, now: Now) {
        self.metrics.count(Count::InflatedMessages);
        self.metrics.add(Count::InflatedPayloadBytes, work.payload);
        self.metrics.add(Count::InflatedContentBytes, work.content);
        self.metrics.add(Count::InflateNs, work.took_ns as usize);
        // What came out was sent too, in the eyes of a limit on bytes; the payload itself has been counted.
        if self.conns.get(id).is_some() {
            self.measure(id, work.content.saturating_sub(work.payload), now);
        }
    }

    /// Whether a reply tells of no channel whose namespace says that nothing of it is to be compressed.
    pub(super) fn may_compress(&self, reply: &Reply<'_>) -> bool {
        let channel = match reply {
            Reply::AuthSuccess { lobby: Some(lobby), .. } => lobby.channel,
            Reply::Subscribed { position, .. } | Reply::History { position, .. } => position.channel,
            Reply::Presence { channel, .. } => channel,
            Reply::Users { .. } => LOBBY,
            _ => return true,
        };
        let namespace = self.settings.hub.namespaces.of(channel);
        namespace.is_none_or(|namespace| namespace.compress == Compress::Auto)
    }

    /// Queues one message for one client, which `write` appends as a plain frame. It leaves compressed, by itself, if
    /// that was agreed on and pays.
    pub(super) fn push_message(&mut self, slot: u32, write: impl FnOnce(&mut Vec<u8>)) {
        let Some(deflate) = self.conns.at(slot).framing.deflate() else { return self.push_private(slot, write) };
        let Compression { level, min_bytes, slice_bytes } = self.settings.compression;
        self.hand_over(slot);
        let Self { conns, compressing: Compressing { plain, slicing, compressors }, .. } = self;
        let (id, outbox) = (conns.id(slot), &mut conns.at(slot).outbox);
        plain.clear();
        write(plain);
        let (opcode, content) = frame::message(plain);
        let is_long = content.len() > slice_bytes;
        if is_long && content.len() >= min_bytes && slicing.waiting.len() < SLICED_MAX {
            let ticket = slicing.push(id, deflate);
            return outbox.push_compressing(std::mem::take(plain), ticket);
        }
        let (stopwatch, mut took_ns, mut sent) = (self.settings.stopwatch, 0, None);
        let compressors = compressors.get_or_insert_with(|| Box::new(Compressors::new(level)));
        outbox.push_private(|out| {
            let before = out.len();
            if content.len() >= min_bytes && !is_long {
                let started_ns = stopwatch();
                if compressors.write_alone(out, opcode, content, deflate.window_bits) {
                    sent = Some(out.len() - before);
                }
                took_ns = stopwatch().saturating_sub(started_ns);
            }
            if sent.is_none() {
                out.extend_from_slice(plain);
            }
        });
        let before = plain.len();
        if plain.capacity() > KEPT_BYTES {
            *plain = Vec::new();
        }
        self.metrics.add(Count::DeflateNs, took_ns as usize);
        match sent {
            Some(bytes) => self.count_deflated(before, bytes),
            None => self.metrics.count(Count::UndeflatedReplies),
        }
    }
}
