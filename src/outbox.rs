//! What waits to be sent to one connection: an ordered list of segments, each either private bytes or a slice of
//! a run that all subscribers of a channel share. Segments end on frame boundaries. It counts its bytes; whether
//! they are too many is the caller's to judge. Pure; `shard` fills and flushes it.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::rc::Rc;

use crate::proto::frame;

/// A stretch of whole frames, shared by the subscribers of a channel on one shard.
pub type Run = Rc<Vec<u8>>;

/// At most this many pieces go into one send.
pub const MAX_PIECES: usize = 64;

#[derive(Debug)]
enum Segment {
    /// An HTTP response, which everything else needs before it and which has no frame boundaries.
    Head(Vec<u8>),
    Private(Vec<u8>),
    Slice {
        run: Run,
        start: u32,
        end: u32,
    },
}

impl Segment {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Head(bytes) | Self::Private(bytes) => bytes,
            Self::Slice { run, start, end } => &run[*start as usize..*end as usize],
        }
    }
}

/// The queue of one connection. Empty, it owns no memory.
#[derive(Debug, Default)]
pub struct Outbox {
    segments: VecDeque<Segment>,
    /// Bytes of the first segment that have been sent.
    sent: usize,
    /// Bytes that wait, sent ones not counted.
    bytes: usize,
    /// Of these, the ones that no other connection shares.
    private: usize,
}

impl Outbox {
    /// Nothing waits.
    pub fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// Bytes that wait.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Bytes that wait and that only this connection holds.
    pub fn private_bytes(&self) -> usize {
        self.private
    }

    /// Begins with what `write` appends to a buffer: the response to the upgrade. Before anything else.
    pub fn push_head(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        assert!(self.is_empty(), "a head comes first");
        let mut head = Vec::new();
        write(&mut head);
        (self.bytes, self.private) = (head.len(), head.len());
        self.segments.push_back(Segment::Head(head));
    }

    /// Appends what `write` appends to a buffer of this connection's own: whole frames.
    pub fn push_private(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        if !matches!(self.segments.back(), Some(Segment::Private(_))) {
            self.segments.push_back(Segment::Private(Vec::new()));
        }
        if let Some(Segment::Private(buffer)) = self.segments.back_mut() {
            let before = buffer.len();
            write(buffer);
            self.bytes += buffer.len() - before;
            self.private += buffer.len() - before;
        }
    }

    /// Appends `run[start..end]`: whole frames, or the rest of one that was sent in part.
    pub fn push_slice(&mut self, run: &Run, start: usize, end: usize) {
        if start == end {
            return;
        }
        let short = |at: usize| u32::try_from(at).expect("runs are sealed far below 4 GiB");
        self.segments.push_back(Segment::Slice { run: Rc::clone(run), start: short(start), end: short(end) });
        self.bytes += end - start;
    }

    /// The next pieces to send, at most [`MAX_PIECES`], appended to `pieces`.
    pub fn pieces<'a>(&'a self, pieces: &mut Vec<IoSlice<'a>>) {
        let mut skip = self.sent;
        for segment in self.segments.iter().take(MAX_PIECES) {
            pieces.push(IoSlice::new(&segment.bytes()[skip..]));
            skip = 0;
        }
    }

    /// Notes that `count` bytes were sent.
    pub fn advance(&mut self, count: usize) {
        assert!(count <= self.bytes, "{count} bytes were sent of {}", self.bytes);
        self.bytes -= count;
        self.sent += count;
        while let Some(first) = self.segments.front() {
            let whole = first.bytes().len();
            if self.sent < whole {
                break;
            }
            self.sent -= whole;
            if matches!(first, Segment::Head(_) | Segment::Private(_)) {
                self.private -= whole;
            }
            self.segments.pop_front();
        }
        if self.segments.is_empty() {
            *self = Self::default();
        }
    }

    /// Drops every frame that has not begun to leave. What stays is the rest of the frame that has, or of the head.
    pub fn drop_unstarted(&mut self) {
        let rest = match self.segments.front() {
            None => Vec::new(),
            Some(Segment::Head(head)) => head[self.sent..].to_vec(),
            Some(first) => {
                let end = frame::first_boundary(first.bytes(), self.sent);
                first.bytes()[self.sent..end].to_vec()
            }
        };
        *self = Self::default();
        if !rest.is_empty() {
            self.push_private(|buffer| *buffer = rest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(texts: &[&str]) -> Vec<u8> {
        let mut out = Vec::new();
        texts.iter().for_each(|text| frame::write_text(&mut out, text.as_bytes()));
        out
    }

    fn waiting(outbox: &Outbox) -> Vec<u8> {
        let mut pieces = Vec::new();
        outbox.pieces(&mut pieces);
        pieces.iter().flat_map(|piece| piece.to_vec()).collect()
    }

    #[test]
    fn order_is_kept_and_any_split_of_sends_gives_the_same_bytes() {
        let run: Run = Rc::new(frames(&["aa", "bbb", "c"]));
        let expected = [frames(&["1", "2"]), run.to_vec(), frames(&["3"])].concat();
        for step in 1..=expected.len() {
            let mut outbox = Outbox::default();
            outbox.push_private(|b| b.extend(frames(&["1"])));
            outbox.push_private(|b| b.extend(frames(&["2"])));
            outbox.push_slice(&run, 0, run.len());
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
            assert_eq!((outbox.bytes(), outbox.private_bytes(), outbox.sent), (0, 0, 0));
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
    fn dropping_keeps_the_frame_that_has_begun() {
        let run: Run = Rc::new(frames(&["aaaa", "bbbb", "cccc"]));
        for sent in 0..=run.len() {
            let mut outbox = Outbox::default();
            outbox.push_slice(&run, 0, run.len());
            outbox.push_private(|b| b.extend(frames(&["tail"])));
            outbox.advance(sent);
            outbox.drop_unstarted();
            let whole = sent.div_ceil(6) * 6;
            assert_eq!(waiting(&outbox), &run[sent..whole.max(sent)], "after {sent}");
            assert_eq!(outbox.bytes(), whole - sent);
        }
    }
}
