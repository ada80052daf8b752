//! What waits to be sent to one connection: an ordered list of segments, each private bytes, a slice of a run
//! that all subscribers of a channel share, or a gap where publications were dropped. Segments end on frame
//! boundaries. It counts its bytes and knows how to shed them; whether they are too many is the caller's to judge.
//! Pure; `shard` fills and flushes it.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::rc::Rc;
use std::sync::Arc;

use hashbrown::HashMap;

use crate::namespace::Overflow;
use crate::proto::encode::{GapReason, Push};
use crate::proto::frame;
use crate::run::{Frames, Mark, Run, place};

/// Messages of the connection's own share a buffer until it is this long: what was sent is freed buffer by buffer.
const JOIN_BYTES: usize = 16 * 1024;
/// At most this many pieces go into one send.
pub const MAX_PIECES: usize = 64;

#[derive(Debug)]
enum Segment {
    /// An HTTP response, which everything else needs before it and which has no frame boundaries.
    Head(Vec<u8>),
    Private(Vec<u8>),
    /// A whole message that is still being compressed. Nothing from here on is sent before that has ended.
    Compressing {
        plain: Vec<u8>,
        ticket: u32,
    },
    Slice {
        run: Run,
        start: u32,
        end: u32,
    },
    /// Publications that are not sent. Encoded when its turn to be sent comes; until then it may still grow.
    Gap {
        channel: Arc<str>,
        epoch: Arc<str>,
        from: u64,
        to: u64,
        reason: GapReason,
    },
    /// A gap that has been encoded, for it may be leaving.
    Told(Vec<u8>),
}

impl Segment {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Head(bytes) | Self::Private(bytes) | Self::Told(bytes) | Self::Compressing { plain: bytes, .. } => {
                bytes
            }
            Self::Slice { run, start, end } => &run.bytes[*start as usize..*end as usize],
            Self::Gap { .. } => &[],
        }
    }
}

/// The queue of one connection. Empty, it is a pointer to nothing.
#[derive(Debug, Default)]
pub struct Outbox(Option<Box<Queue>>);

/// An outbox that holds something.
#[derive(Debug, Default)]
struct Queue {
    segments: VecDeque<Segment>,
    /// Bytes of the first segment that have been sent.
    sent: usize,
    /// Bytes that wait, sent ones not counted, gaps not either.
    bytes: usize,
    /// Of these, the ones that no other connection shares.
    private: usize,
    /// Bytes of encoded gaps: what is dropped to keep a bound must not break it.
    told: usize,
    /// How much may wait before it is shed again; 0 at first.
    shed_at: usize,
}

impl Outbox {
    /// Nothing waits.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Bytes that wait.
    pub fn bytes(&self) -> usize {
        self.0.as_ref().map_or(0, |queue| queue.bytes)
    }

    /// Bytes that count against a bound: gaps don't.
    pub fn bounded_bytes(&self) -> usize {
        self.0.as_ref().map_or(0, |queue| queue.bounded_bytes())
    }

    /// Bytes that wait and that only this connection holds.
    pub fn private_bytes(&self) -> usize {
        self.0.as_ref().map_or(0, |queue| queue.private)
    }

    /// Begins with what `write` appends to a buffer: the response to the upgrade. Before anything else.
    pub fn push_head(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        assert!(self.is_empty(), "a head comes first");
        self.queue().push_head(write);
    }

    /// Appends what `write` appends to a buffer of this connection's own: whole frames.
    pub fn push_private(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        self.queue().push_private(write);
    }

    /// Appends one message of this connection's own, a plain frame that is to be compressed under this ticket.
    pub fn push_compressing(&mut self, plain: Vec<u8>, ticket: u32) {
        self.queue().push_compressing(plain, ticket);
    }

    /// The plain frame of the message with this ticket, if it waits.
    pub fn compressing(&self, ticket: u32) -> Option<&[u8]> {
        let is_it = |segment: &&Segment| matches!(segment, Segment::Compressing { ticket: its, .. } if *its == ticket);
        self.0.as_ref()?.segments.iter().find(is_it).map(Segment::bytes)
    }

    /// The message with this ticket may be sent: as `packed`, or else as it is.
    pub fn finish(&mut self, ticket: u32, packed: Option<Vec<u8>>) {
        if let Some(queue) = &mut self.0 {
            queue.finish(ticket, packed);
        }
    }

    /// Appends `run[start..end]`: whole frames.
    pub fn push_slice(&mut self, run: &Run, start: usize, end: usize) {
        if start < end {
            self.queue().push_slice(run, start, end);
        }
    }

    /// Encodes a gap whose turn to be sent has come. To be called before [`Self::pieces`]. Not those behind it:
    /// they may still grow, and encoded ones of a client that reads in drips would pile up.
    pub fn settle(&mut self) {
        if let Some(queue) = &mut self.0 {
            queue.settle();
        }
    }

    /// The next pieces to send, up to the next gap or message that is being compressed, and at most [`MAX_PIECES`],
    /// appended to `pieces`. None if such a message is the first that waits.
    pub fn pieces<'a>(&'a self, pieces: &mut impl Extend<IoSlice<'a>>) {
        if let Some(queue) = &self.0 {
            queue.pieces(pieces);
        }
    }

    /// Notes that `count` bytes were sent.
    pub fn advance(&mut self, count: usize) {
        assert!(count <= self.bytes(), "{count} bytes were sent of {}", self.bytes());
        if let Some(queue) = &mut self.0 {
            queue.advance(count);
            if queue.segments.is_empty() {
                self.0 = None;
            }
        }
    }

    /// Drops every frame that has not begun to leave. What stays is the rest of the frame that has, or of the head.
    pub fn drop_unstarted(&mut self) {
        let rest = self.0.take().map_or_else(Vec::new, |queue| queue.started());
        if !rest.is_empty() {
            self.push_private(|buffer| *buffer = rest);
        }
    }

    /// Sheds to `keep` bytes when more than `first` wait; after that, each time what was left has doubled. Returns
    /// whether it did.
    pub fn shed_above(&mut self, first: usize, keep: usize) -> bool {
        if let Some(queue) = &mut self.0
            && queue.bounded_bytes() > queue.shed_at.max(first).min(keep * 2)
        {
            queue.shed(keep);
            queue.shed_at = queue.bounded_bytes() * 2;
            return true;
        }
        false
    }

    /// Drops publications that have not begun to leave, where their channel allows it: the superseded ones of
    /// `conflate`, then the oldest ones, until no more than `keep` bytes wait. A gap stands where they stood.
    pub fn shed(&mut self, keep: usize) {
        if let Some(queue) = &mut self.0 {
            queue.shed(keep);
        }
    }

    fn queue(&mut self) -> &mut Queue {
        self.0.get_or_insert_default()
    }
}

impl Queue {
    fn bounded_bytes(&self) -> usize {
        let sent = if matches!(self.segments.front(), Some(Segment::Told(_))) { self.sent } else { 0 };
        self.bytes - (self.told - sent)
    }

    fn push_head(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let mut head = Vec::new();
        write(&mut head);
        (self.bytes, self.private) = (head.len(), head.len());
        self.segments.push_back(Segment::Head(head));
    }

    fn push_private(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        if !matches!(self.segments.back(), Some(Segment::Private(buffer)) if buffer.len() < JOIN_BYTES) {
            self.segments.push_back(Segment::Private(Vec::new()));
        }
        if let Some(Segment::Private(buffer)) = self.segments.back_mut() {
            let before = buffer.len();
            write(buffer);
            if buffer.len() >= JOIN_BYTES {
                // Nothing more is appended to it.
                buffer.shrink_to_fit();
            }
            self.bytes += buffer.len() - before;
            self.private += buffer.len() - before;
        }
    }

    fn push_compressing(&mut self, mut plain: Vec<u8>, ticket: u32) {
        plain.shrink_to_fit();
        self.bytes += plain.len();
        self.private += plain.len();
        self.segments.push_back(Segment::Compressing { plain, ticket });
    }

    fn finish(&mut self, ticket: u32, packed: Option<Vec<u8>>) {
        for segment in &mut self.segments {
            let Segment::Compressing { plain, ticket: its } = segment else { continue };
            if *its == ticket {
                let before = plain.len();
                let sent = packed.unwrap_or_else(|| std::mem::take(plain));
                self.bytes = self.bytes - before + sent.len();
                self.private = self.private - before + sent.len();
                *segment = Segment::Private(sent);
                return;
            }
        }
    }

    fn push_slice(&mut self, run: &Run, start: usize, end: usize) {
        self.segments.push_back(Segment::Slice { run: Rc::clone(run), start: place(start), end: place(end) });
        self.bytes += end - start;
    }

    fn settle(&mut self) {
        let Some(segment) = self.segments.front_mut() else { return };
        if let Segment::Gap { channel, epoch, from, to, reason } = segment {
            let mut bytes = Vec::new();
            Push::Gap { channel, epoch, from: *from, to: *to, reason: *reason }.encode(&mut bytes);
            self.bytes += bytes.len();
            self.told += bytes.len();
            *segment = Segment::Told(bytes);
        }
    }

    fn pieces<'a>(&'a self, pieces: &mut impl Extend<IoSlice<'a>>) {
        let mut skip = self.sent;
        let ready = |segment: &&Segment| !matches!(segment, Segment::Gap { .. } | Segment::Compressing { .. });
        let settled = self.segments.iter().take_while(ready);
        let skipping = |segment: &'a Segment| IoSlice::new(&segment.bytes()[std::mem::take(&mut skip)..]);
        pieces.extend(settled.take(MAX_PIECES).map(skipping));
    }

    fn advance(&mut self, count: usize) {
        self.bytes -= count;
        self.sent += count;
        while let Some(first) = self.segments.front() {
            let whole = first.bytes().len();
            if self.sent < whole || matches!(first, Segment::Gap { .. }) {
                break;
            }
            self.sent -= whole;
            match first {
                Segment::Head(_) | Segment::Private(_) | Segment::Compressing { .. } => self.private -= whole,
                Segment::Told(_) => self.told -= whole,
                Segment::Slice { .. } | Segment::Gap { .. } => {}
            }
            self.segments.pop_front();
        }
    }

    /// What has begun to leave and not left.
    fn started(&self) -> Vec<u8> {
        match self.segments.front() {
            None | Some(Segment::Compressing { .. }) => Vec::new(),
            Some(Segment::Head(head)) => head[self.sent..].to_vec(),
            Some(first) => {
                let end = frame::first_boundary(first.bytes(), self.sent);
                first.bytes()[self.sent..end].to_vec()
            }
        }
    }

    fn shed(&mut self, keep: usize) {
        let newest = self.newest_by_key();
        // What goes as superseded needn't go as old.
        let superseded = self.superseded_bytes(&newest);
        let mut excess = self.bounded_bytes().saturating_sub(keep).saturating_sub(superseded);
        let old = std::mem::take(&mut self.segments);
        (self.bytes, self.private, self.told) = (0, 0, 0);
        let mut begun = self.sent;
        for segment in old {
            match segment {
                Segment::Head(_) | Segment::Private(_) | Segment::Told(_) | Segment::Compressing { .. } => {
                    self.keep_private(segment);
                }
                Segment::Gap { channel, epoch, from, to, reason } => self.add_gap(&channel, &epoch, from, to, reason),
                Segment::Slice { run, start, end } => {
                    for (start, mark) in run.frames(start, end) {
                        let length = (mark.end - start) as usize;
                        // The frame that has begun to leave has to leave whole.
                        let reason = if begun > 0 { None } else { verdict(&newest, excess, &run, mark) };
                        begun = begun.saturating_sub(length);
                        match reason {
                            Some(reason) => {
                                if reason == GapReason::SlowConsumer {
                                    excess = excess.saturating_sub(length);
                                }
                                self.add_gap(&run.channel, &run.epoch, mark.offset, mark.offset, reason);
                            }
                            None => self.push_frame(&run, start, mark.end),
                        }
                    }
                }
            }
            begun = 0;
        }
        self.bytes -= self.sent;
        // If all that is left of the first segment has been sent, what follows is next: a gap, to be settled.
        self.advance(0);
    }

    fn keep_private(&mut self, segment: Segment) {
        self.bytes += segment.bytes().len();
        match segment {
            Segment::Told(_) => self.told += segment.bytes().len(),
            _ => self.private += segment.bytes().len(),
        }
        self.segments.push_back(segment);
    }

    fn push_frame(&mut self, run: &Run, from: u32, to: u32) {
        self.bytes += (to - from) as usize;
        match self.segments.back_mut() {
            Some(Segment::Slice { run: last, end, .. }) if Rc::ptr_eq(last, run) && *end == from => *end = to,
            _ => self.segments.push_back(Segment::Slice { run: Rc::clone(run), start: from, end: to }),
        }
    }

    /// Adds to the channel's pending gap, or makes one: neighbours merge, and of `conflated` there is one.
    fn add_gap(&mut self, channel: &Arc<str>, epoch: &Arc<str>, from: u64, to: u64, reason: GapReason) {
        // Not over what was said in between: it may be that the channel was left and subscribed to again.
        let said = |segment: &&mut Segment| {
            !matches!(segment, Segment::Head(_) | Segment::Private(_) | Segment::Compressing { .. })
        };
        let last = self.segments.iter_mut().rev().take_while(said).find_map(|segment| match segment {
            Segment::Gap { channel: c, epoch: e, from, to, reason } if c == channel && e == epoch => {
                Some((from, to, reason))
            }
            _ => None,
        });
        if let Some((first, end, was)) = last {
            let neighbour = from <= *end + 1;
            if *was == reason && (neighbour || reason == GapReason::Conflated) {
                *first = from.min(*first);
                *end = to.max(*end);
                return;
            }
        }
        let (channel, epoch) = (Arc::clone(channel), Arc::clone(epoch));
        self.segments.push_back(Segment::Gap { channel, epoch, from, to, reason });
    }

    /// For each key of each `conflate` channel, the newest publication that waits.
    fn newest_by_key(&self) -> Newest {
        let mut newest = Newest::default();
        for segment in &self.segments {
            let Segment::Slice { run, start, end } = segment else { continue };
            if run.overflow != Overflow::Conflate {
                continue;
            }
            for (_, mark) in run.frames(*start, *end).filter(|(_, mark)| mark.key != 0) {
                newest.insert((Arc::clone(&run.channel), mark.key), mark.offset);
            }
        }
        newest
    }

    fn superseded_bytes(&self, newest: &Newest) -> usize {
        let slices = self.segments.iter().filter_map(|segment| match segment {
            Segment::Slice { run, start, end } => Some((run, *start, *end)),
            _ => None,
        });
        slices
            .flat_map(|(run, start, end)| run.frames(start, end).map(move |frame| (run, frame)))
            .filter(|(run, (_, mark))| verdict(newest, 0, run, *mark).is_some())
            .map(|(_, (start, mark))| (mark.end - start) as usize)
            .sum()
    }
}

type Newest = HashMap<(Arc<str>, u64), u64, foldhash::fast::RandomState>;

/// Whether a publication is dropped, and why. Of `conflate` the superseded ones always go; while there is still an
/// excess, so do the oldest that no key protects.
fn verdict(newest: &Newest, excess: usize, run: &Frames, mark: Mark) -> Option<GapReason> {
    if mark.offset == 0 {
        return None;
    }
    match run.overflow {
        Overflow::Disconnect => None,
        Overflow::Conflate if mark.key != 0 => {
            let newest = newest.get(&(Arc::clone(&run.channel), mark.key)).copied();
            newest.is_some_and(|newest| newest > mark.offset).then_some(GapReason::Conflated)
        }
        Overflow::Conflate | Overflow::DropOldest => (excess > 0).then_some(GapReason::SlowConsumer),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::namespace::Compress;

    fn frames(texts: &[&str]) -> Vec<u8> {
        let mut out = Vec::new();
        texts.iter().for_each(|text| frame::write_text(&mut out, text.as_bytes()));
        out
    }

    /// A run of one frame per publication: (offset, key, text).
    fn run(overflow: Overflow, publications: &[(u64, u64, &str)]) -> Run {
        let mut bytes = Vec::new();
        let marks = publications.iter().map(|&(offset, key, text)| {
            frame::write_text(&mut bytes, text.as_bytes());
            Mark { end: place(bytes.len()), offset, key }
        });
        let marks = marks.collect();
        let compress = Compress::Auto;
        Rc::new(Frames { channel: "c".into(), epoch: "e".into(), overflow, compress, bytes, marks })
    }

    #[test]
    fn nothing_overtakes_a_message_that_is_being_compressed() {
        let (long, packed) = (frames(&["a long message"]), frames(&["packed"]));
        for (ticket, made) in [(1, Some(packed.clone())), (2, None)] {
            let mut outbox = Outbox::default();
            outbox.push_private(|buffer| buffer.extend(frames(&["before"])));
            outbox.push_compressing(long.clone(), ticket);
            outbox.push_private(|buffer| buffer.extend(frames(&["behind"])));
            assert_eq!(waiting(&outbox), frames(&["before"]));
            let held = outbox.bytes();
            outbox.shed(0);
            assert_eq!((outbox.bytes(), outbox.private_bytes()), (held, held), "it is never shed");
            outbox.advance(frames(&["before"]).len());
            assert_eq!((waiting(&outbox), outbox.is_empty()), (Vec::new(), false));
            assert_eq!((outbox.compressing(ticket), outbox.compressing(9)), (Some(&long[..]), None));
            outbox.finish(ticket, made.clone());
            let sent = [&made.as_ref().unwrap_or(&long)[..], &frames(&["behind"])].concat();
            assert_eq!((waiting(&outbox), outbox.private_bytes()), (sent.clone(), sent.len()));
            outbox.advance(sent.len());
            assert!(outbox.is_empty() && outbox.private_bytes() == 0);
        }
        let mut outbox = Outbox::default();
        outbox.push_compressing(long, 3);
        outbox.drop_unstarted();
        outbox.finish(3, Some(packed));
        assert!(outbox.is_empty());
    }

    fn waiting(outbox: &Outbox) -> Vec<u8> {
        let mut pieces = Vec::new();
        outbox.pieces(&mut pieces);
        pieces.iter().flat_map(|piece| piece.to_vec()).collect()
    }

    /// What waits, readably: the texts, and gaps as "from-to reason".
    fn shown(outbox: &mut Outbox) -> Vec<String> {
        let mut bytes = Vec::new();
        while !outbox.is_empty() {
            outbox.settle();
            let next = waiting(outbox);
            assert!(!next.is_empty(), "nothing to send of {outbox:?}");
            outbox.advance(next.len());
            bytes.extend(next);
        }
        assert_eq!((outbox.bytes(), outbox.private_bytes()), (0, 0));
        let mut rest = &bytes[..];
        let mut shown = Vec::new();
        while !rest.is_empty() {
            let (length, skip) = match rest[1] {
                126 => (usize::from(u16::from_be_bytes([rest[2], rest[3]])), 4),
                length => (usize::from(length), 2),
            };
            let text = String::from_utf8(rest[skip..skip + length].to_vec()).expect("text");
            shown.push(match serde_json::from_str::<serde_json::Value>(&text) {
                Ok(gap) if gap["type"] == "gap" => {
                    format!(
                        "{}-{} {}",
                        gap["data"]["from"],
                        gap["data"]["to"],
                        gap["data"]["reason"].as_str().expect("text")
                    )
                }
                _ => text,
            });
            rest = &rest[skip + length..];
        }
        shown
    }

    #[test]
    fn order_is_kept_and_any_split_of_sends_gives_the_same_bytes() {
        let run = run(Overflow::Disconnect, &[(1, 0, "aa"), (2, 0, "bbb"), (3, 0, "c")]);
        let expected = [frames(&["1", "2"]), run.bytes.clone(), frames(&["3"])].concat();
        for step in 1..=expected.len() {
            let mut outbox = Outbox::default();
            outbox.push_private(|b| b.extend(frames(&["1"])));
            outbox.push_private(|b| b.extend(frames(&["2"])));
            outbox.push_slice(&run, 0, run.bytes.len());
            outbox.push_private(|b| b.extend(frames(&["3"])));
            let mut got = Vec::new();
            while !outbox.is_empty() {
                let now = waiting(&outbox);
                assert_eq!(now.len(), outbox.bytes());
                let n = step.min(now.len());
                got.extend_from_slice(&now[..n]);
                outbox.advance(n);
            }
            assert_eq!(got, expected);
            assert_eq!((outbox.bytes(), outbox.private_bytes()), (0, 0));
        }
    }

    #[test]
    fn dropping_keeps_the_frame_that_has_begun() {
        let run = run(Overflow::Disconnect, &[(1, 0, "aaaa"), (2, 0, "bbbb"), (3, 0, "cccc")]);
        for sent in 0..=run.bytes.len() {
            let mut outbox = Outbox::default();
            outbox.push_slice(&run, 0, run.bytes.len());
            outbox.push_private(|b| b.extend(frames(&["tail"])));
            outbox.advance(sent);
            outbox.drop_unstarted();
            let whole = sent.div_ceil(6) * 6;
            assert_eq!(waiting(&outbox), &run.bytes[sent..whole.max(sent)], "after {sent}");
            assert_eq!(outbox.bytes(), whole - sent);
        }
    }

    #[test]
    fn dropping_keeps_the_head_whether_it_has_begun_or_not() {
        for sent in 0..=4 {
            let mut outbox = Outbox::default();
            outbox.push_head(|b| b.extend(b"HTTP"));
            outbox.push_private(|b| b.extend(frames(&["tail"])));
            outbox.advance(sent);
            outbox.drop_unstarted();
            assert_eq!(waiting(&outbox), &b"HTTP"[sent..]);
            assert_eq!((outbox.bytes(), outbox.private_bytes()), (4 - sent, 4 - sent));
        }
    }

    #[test]
    fn the_oldest_go_first_and_a_gap_stands_where_they_stood() {
        let old = run(Overflow::DropOldest, &[(1, 0, "aaaa"), (2, 0, "bbbb"), (0, 0, "join"), (3, 0, "cccc")]);
        let new = run(Overflow::DropOldest, &[(4, 0, "dddd"), (5, 0, "eeee")]);
        let mut outbox = Outbox::default();
        outbox.push_slice(&old, 0, 24);
        outbox.push_private(|b| b.extend(frames(&["mine"])));
        outbox.push_slice(&new, 0, 12);
        outbox.shed(30);
        assert_eq!(outbox.bytes(), 30);
        outbox.shed(24);
        assert_eq!(shown(&mut outbox), ["1-3 slow_consumer", "join", "mine", "dddd", "eeee"][..].to_vec());
    }

    #[test]
    fn what_may_not_be_dropped_stays() {
        let kept = run(Overflow::Disconnect, &[(1, 0, "aaaa"), (2, 0, "bbbb")]);
        let mut outbox = Outbox::default();
        outbox.push_slice(&kept, 0, 12);
        outbox.shed(0);
        assert_eq!(shown(&mut outbox), ["aaaa", "bbbb"]);
    }

    #[test]
    fn conflation_keeps_the_newest_of_each_key_in_its_place() {
        let ticks = run(
            Overflow::Conflate,
            &[(1, 7, "a1"), (2, 8, "b1"), (3, 7, "a2"), (4, 0, "no key"), (5, 7, "a3"), (6, 9, "c1")],
        );
        let mut outbox = Outbox::default();
        outbox.push_slice(&ticks, 0, ticks.bytes.len());
        outbox.shed(usize::MAX);
        assert_eq!(shown(&mut outbox), ["1-3 conflated", "b1", "no key", "a3", "c1"]);
    }

    #[test]
    fn gaps_of_a_client_that_reads_in_drips_do_not_pile_up() {
        let mut outbox = Outbox::default();
        for round in 0..500 {
            let run = run(Overflow::DropOldest, &[(2 * round + 1, 0, "aaaa"), (2 * round + 2, 0, "bbbb")]);
            outbox.push_slice(&run, 0, 12);
            outbox.shed(6);
            outbox.settle();
            outbox.advance(1);
            let told = outbox.bytes() - outbox.bounded_bytes();
            let segments = outbox.0.as_ref().map_or(0, |queue| queue.segments.len());
            assert!(told < 200 && segments <= 8, "{told} bytes of gaps, {outbox:?}");
        }
    }

    #[test]
    fn a_gap_behind_what_has_been_sent_is_told_next() {
        let ticks = run(Overflow::DropOldest, &[(1, 0, "aaaa"), (2, 0, "bbbb"), (3, 0, "cccc")]);
        for frames in 1..3 {
            let mut outbox = Outbox::default();
            outbox.push_slice(&ticks, 0, ticks.bytes.len());
            outbox.advance(frames * 6);
            outbox.shed(0);
            assert_eq!(shown(&mut outbox), [format!("{}-3 slow_consumer", frames + 1)]);
        }
    }

    #[test]
    fn the_frame_that_has_begun_is_shed_by_nobody() {
        let ticks = run(Overflow::DropOldest, &[(1, 0, "aaaa"), (2, 0, "bbbb"), (3, 0, "cccc")]);
        for sent in 0..ticks.bytes.len() {
            let mut outbox = Outbox::default();
            outbox.push_slice(&ticks, 0, ticks.bytes.len());
            outbox.advance(sent);
            outbox.shed(0);
            let begun = sent.div_ceil(6) * 6;
            assert_eq!(outbox.bytes(), begun - sent, "after {sent}");
            assert_eq!(&waiting(&outbox)[..], &ticks.bytes[sent..begun], "after {sent}");
        }
    }
}
