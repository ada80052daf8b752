//! Event streams of several channels. The id of each event has to hold the positions of all channels behind it, so it
//! differs from stream to stream, while the events are shared by all streams of their channel. So the ids are put in at
//! the last moment: of what waits, the next events are copied into one buffer, with their ids, and that buffer is sent.
//! At most [`STAMP_BYTES`] and one event are copied at a time; everything behind stays shared, and can still be dropped.

use std::io::IoSlice;
use std::rc::Rc;

use super::{AboutEvents, Outbox, Queue, Segment};
use crate::dialect;
use crate::dialect::native::event_stream::{EventId, StreamPosition, write_positions};
use crate::fanout::run::Origin;
use crate::model::notice::Gap;
use crate::model::voice::Voice;
use crate::wire::event_stream::{events, split_id, write_id};

/// Events are copied until so many bytes are.
const STAMP_BYTES: usize = 16 * 1024;

/// The channels of one stream, in the order of its URL, and where each stands for the client that has received all that
/// was stamped.
#[derive(Debug)]
pub struct StreamPositions {
    channels: Box<[Box<str>]>,
    positions: Box<[Option<StreamPosition>]>,
    /// The id that holds them, to be written anew.
    id: String,
}

impl StreamPositions {
    /// The channels, each with the position that the client brought.
    pub fn new(channels: impl Iterator<Item = (Box<str>, Option<StreamPosition>)>) -> Self {
        let (channels, positions): (Vec<_>, Vec<_>) = channels.unzip();
        Self { channels: channels.into(), positions: positions.into(), id: String::new() }
    }

    /// How many channels there are.
    pub fn len(&self) -> usize {
        self.channels.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.channels.is_empty()
    }

    /// The channel has come to this position. Appends the line with the id that says so.
    fn write_moved(&mut self, channel: &str, epoch: &str, offset: u64, out: &mut Vec<u8>) {
        let Some(at) = self.channels.iter().position(|known| **known == *channel) else { return };
        match &mut self.positions[at] {
            Some(position) if *position.epoch == *epoch => position.offset = offset,
            position => *position = Some(StreamPosition { epoch: epoch.into(), offset }),
        }
        self.id.clear();
        write_positions(&self.positions, &mut self.id);
        write_id(out, &self.id);
    }

    /// Appends events of a channel, with the stream's ids in place of the channel's own.
    fn write_events(&mut self, channel: &str, stretch: &[u8], out: &mut Vec<u8>) {
        for event in events(stretch) {
            let (id, rest) = split_id(event);
            if let Some(Ok(EventId::Positions(positions))) = id.map(EventId::parse)
                && let [Some(StreamPosition { epoch, offset })] = &positions[..]
            {
                self.write_moved(channel, epoch, *offset, out);
            }
            out.extend_from_slice(rest);
        }
    }
}

impl Outbox {
    /// Appends events of this connection's own that move its position in a channel.
    pub fn push_about(&mut self, origin: &Rc<Origin>, events: &[u8]) {
        let about = AboutEvents { origin: Rc::clone(origin), bytes: events.to_vec(), start: 0 };
        self.queue().append(Segment::About(Box::new(about)));
    }

    /// Puts the ids of a stream of several channels into the events that are next. To be called before
    /// [`Self::stamped_pieces`], in place of [`Self::settle`].
    pub fn stamp(&mut self, positions: &mut StreamPositions) {
        if let Some(queue) = &mut self.0 {
            queue.stamp(positions);
            if queue.segments.is_empty() {
                self.0 = None;
            }
        }
    }

    /// What can be sent of a stream of several channels, in place of [`Self::pieces`]: nothing that has no ids yet.
    pub fn stamped_pieces<'a>(&'a self, pieces: &mut impl Extend<IoSlice<'a>>) {
        if let Some(queue) = &self.0
            && let Some(Segment::Begun { bytes, .. }) = queue.segments.front()
        {
            pieces.extend([IoSlice::new(&bytes[queue.sent..])]);
        }
    }
}

impl Queue {
    fn stamp(&mut self, positions: &mut StreamPositions) {
        if matches!(self.segments.front(), Some(Segment::Begun { .. })) {
            // Stamped before, and not sent yet.
            return;
        }
        debug_assert_eq!(self.sent, 0, "only stamped bytes are sent");
        let mut out = Vec::new();
        while out.len() < STAMP_BYTES
            && let Some(first) = self.segments.pop_front()
        {
            self.uncount(&first);
            match first {
                Segment::Slice { run, start, end, pays } => {
                    let mut at = start;
                    for (from, mark) in run.frames(start, end) {
                        if out.len() >= STAMP_BYTES {
                            break;
                        }
                        let event = &run.bytes[from as usize..mark.end as usize];
                        if mark.offset > 0 {
                            positions.write_moved(&run.origin.channel, &run.origin.epoch, mark.offset, &mut out);
                            out.extend_from_slice(split_id(event).1);
                        } else {
                            // News of members, which moves nothing, or a gap that all subscribers are told.
                            positions.write_events(&run.origin.channel, event, &mut out);
                        }
                        at = mark.end;
                    }
                    if at < end {
                        let rest = Segment::Slice { run, start: at, end, pays };
                        self.count(&rest);
                        self.segments.push_front(rest);
                    }
                }
                Segment::About(mut about) => {
                    let mut at = about.start;
                    for event in events(&about.bytes[about.start..]) {
                        if out.len() >= STAMP_BYTES {
                            break;
                        }
                        positions.write_events(&about.origin.channel, event, &mut out);
                        at += event.len();
                    }
                    about.start = at;
                    if at < about.bytes.len() {
                        let rest = Segment::About(about);
                        self.count(&rest);
                        self.segments.push_front(rest);
                    }
                }
                Segment::Gap { origin, from, to, reason } => {
                    let (channel, epoch) = (&*origin.channel, &*origin.epoch);
                    let mut event = Vec::new();
                    dialect::write_gap(Voice::EventStream, &mut event, &Gap { channel, epoch, from, to, reason });
                    positions.write_events(channel, &event, &mut out);
                }
                Segment::Private(bytes) | Segment::Told(bytes) | Segment::Begun { bytes, .. } => {
                    out.extend_from_slice(&bytes);
                }
                Segment::Compressing { plain, .. } => out.extend_from_slice(&plain),
                Segment::Fence => {}
            }
        }
        if !out.is_empty() {
            let stamped = Segment::Begun { bytes: out, is_private: false };
            self.count(&stamped);
            self.segments.push_front(stamped);
        }
    }
}
