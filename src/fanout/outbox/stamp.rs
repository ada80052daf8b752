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

/// The most bytes of events that are copied at once.
const STAMP_BYTES: usize = 16 * 1024;

/// The channels of one stream, in the order of its URL, and where each stands for the client that has received all that
/// was stamped.
#[derive(Debug)]
pub(crate) struct StreamPositions {
    channels: Box<[Box<str>]>,
    positions: Box<[Option<StreamPosition>]>,
    /// Room for the next id; its content is overwritten for each event.
    id: String,
}

impl StreamPositions {
    /// The channels, each with the position that the client brought.
    pub(crate) fn new(channels: impl Iterator<Item = (Box<str>, Option<StreamPosition>)>) -> Self {
        let (channels, positions): (Vec<_>, Vec<_>) = channels.unzip();
        Self { channels: channels.into(), positions: positions.into(), id: String::new() }
    }

    /// How many channels there are.
    pub(crate) fn len(&self) -> usize {
        self.channels.len()
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
    pub(crate) fn push_about(&mut self, origin: &Rc<Origin>, events: &[u8]) {
        let about = AboutEvents { origin: Rc::clone(origin), bytes: events.to_vec(), start: 0 };
        self.queue().append(Segment::About(Box::new(about)));
    }

    /// Puts the ids of a stream of several channels into the events that are next. To be called before
    /// [`Self::stamped_pieces`], in place of [`Self::settle`].
    pub(crate) fn stamp(&mut self, positions: &mut StreamPositions) {
        if let Some(queue) = &mut self.0 {
            queue.stamp(positions);
            if queue.segments.is_empty() {
                self.0 = None;
            }
        }
    }

    /// What can be sent of a stream of several channels, in place of [`Self::pieces`]: nothing that has no ids yet.
    pub(crate) fn stamped_pieces<'a>(&'a self, pieces: &mut impl Extend<IoSlice<'a>>) {
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::super::Kept;
    use super::*;
    use crate::dialect::native::stream;
    use crate::fanout::run::{Frames, Mark, place};
    use crate::model::namespace::{Compress, Overflow, Sending};
    use crate::model::publication::tests::publication_of;

    const CHANNELS: [&str; 3] = ["a", "b", "c"];

    /// What happens to the outbox of a stream, step by step.
    #[derive(Clone, Debug)]
    enum Step {
        /// So many publications of a channel come, each with so many bytes.
        Publish(usize, u64, usize),
        /// A heartbeat comes.
        Heartbeat,
        /// What is held is brought down to so many bytes.
        KeepWithin(usize),
        /// The kernel takes so many bytes.
        Send(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..3usize, 1..6u64, 1..900usize).prop_map(|(channel, count, bytes)| Step::Publish(channel, count, bytes)),
            1 => Just(Step::Heartbeat),
            1 => (600..40_000usize).prop_map(Step::KeepWithin),
            3 => (1..9_000usize).prop_map(Step::Send),
        ]
    }

    fn run(origin: &Rc<Origin>, from: u64, count: u64, length: usize) -> Frames {
        let (mut bytes, mut marks) = (Vec::new(), Vec::new());
        for offset in from..from + count {
            let data = format!("\"{}\"", "x".repeat(length)).into_bytes();
            let mut publication = publication_of(offset, data.into());
            let publication = Arc::get_mut(&mut publication).expect("not shared");
            (publication.placed.channel, publication.placed.epoch) =
                (Arc::clone(&origin.channel), Arc::clone(&origin.epoch));
            stream::write_publication(&mut bytes, publication);
            marks.push(Mark { end: place(bytes.len()), offset, key: 0 });
        }
        Frames { origin: Rc::clone(origin), packed: None, bytes, marks }
    }

    /// Holds what a client has read against what the ids say.
    #[derive(Default)]
    struct Oracle {
        positions: BTreeMap<String, u64>,
    }

    impl Oracle {
        fn read(&mut self, sent: &[u8]) {
            for event in events(sent) {
                let (id, rest) = split_id(event);
                let text = std::str::from_utf8(rest).expect("text");
                let Some((_, data)) = text.split_once("data: ") else { continue };
                let value: serde_json::Value = serde_json::from_str(data.trim_end()).expect("JSON");
                let data = &value["data"];
                let position =
                    self.positions.entry(data["channel"].as_str().expect("a channel").to_owned()).or_default();
                let number = |name: &str| data[name].as_u64().expect("a number");
                if value["type"] == "gap" {
                    assert_eq!(number("from"), *position + 1, "{text}");
                    *position = number("to");
                } else {
                    assert_eq!(number("offset"), *position + 1, "{text}");
                    *position += 1;
                }
                let Ok(EventId::Positions(told)) = EventId::parse(id.expect("it moves a position")) else {
                    panic!("{id:?} holds no positions");
                };
                for (channel, told) in CHANNELS.iter().zip(told) {
                    let expected = self.positions.get(*channel).copied().unwrap_or(0);
                    assert_eq!(told.map_or(0, |told| told.offset), expected, "{channel} in {id:?}");
                }
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        /// Whatever is dropped and however the kernel takes it: each id has the positions behind its event, of all channels.
        #[test]
        fn ids_say_what_the_client_has(
            steps in prop::collection::vec(step(), 1..40),
            overflow in prop::sample::select(&[Overflow::Disconnect, Overflow::DropOldest][..]),
        ) {
            let sending = Sending { overflow, compress: Compress::Auto };
            let origins = CHANNELS.map(|name| Origin::new(name.into(), format!("e{name}").into(), sending));
            let mut positions = StreamPositions::new(CHANNELS.iter().map(|name| ((*name).into(), None)));
            let (mut outbox, mut tops, mut sent) = (Outbox::default(), [0u64; 3], Vec::new());
            let mut send = |outbox: &mut Outbox, most: usize, sent: &mut Vec<u8>| {
                outbox.stamp(&mut positions);
                let mut pieces = Vec::new();
                outbox.stamped_pieces(&mut pieces);
                let mut bytes: Vec<u8> = pieces.iter().flat_map(|piece| piece.to_vec()).collect();
                bytes.truncate(most);
                outbox.advance(bytes.len());
                sent.extend_from_slice(&bytes);
                !bytes.is_empty()
            };
            for step in steps {
                match step {
                    Step::Publish(channel, count, bytes) => {
                        outbox.push_frames(run(&origins[channel], tops[channel] + 1, count, bytes));
                        tops[channel] += count;
                    }
                    Step::Heartbeat => outbox.push_private(|out| out.extend_from_slice(b":\n\n")),
                    Step::KeepWithin(bound) => {
                        let kept = outbox.keep_within(bound, Voice::EventStream);
                        prop_assert!(kept != Kept::Shed || overflow == Overflow::DropOldest);
                    }
                    Step::Send(most) => {
                        send(&mut outbox, most, &mut sent);
                    }
                }
            }
            while send(&mut outbox, usize::MAX, &mut sent) {}
            prop_assert!(outbox.is_empty());
            let mut oracle = Oracle::default();
            oracle.read(&sent);
            for (channel, top) in CHANNELS.iter().zip(tops) {
                prop_assert_eq!(oracle.positions.get(*channel).copied().unwrap_or(0), top);
            }
        }
    }
}
