//! An accepted publication: its place in the channel and its frame, encoded once. Shared by `Arc` between the
//! lanes, the owner's history and the answers that recover it. Pure data; the hub makes it.

use std::ops::Range;
use std::sync::Arc;

use crate::dialect::native::encode::{Element, Kind};

/// One accepted publication, encoded once.
#[derive(Debug)]
pub struct Publication {
    /// Its number in the channel.
    pub offset: u64,
    /// Unix milliseconds, the owner's.
    pub timestamp: u64,
    /// What it is a value of, for `conflate`.
    pub key: Option<Box<str>>,
    /// Which push it is.
    pub kind: Kind,
    frame: Arc<[u8]>,
    /// Where in `frame` the fields of the push's `data` stand.
    fields: Range<u32>,
}

impl Publication {
    /// What a publication costs beyond its frame and key: itself, the counts of two `Arc`s, and its place in a
    /// queue that may be half empty.
    pub const OVERHEAD: usize = size_of::<Self>() + 4 * size_of::<usize>() + 4 * size_of::<usize>();

    /// `fields` is where in `frame` the fields of `data` stand, without the braces: an element of
    /// `publications` is made of them.
    pub fn new(
        offset: u64,
        timestamp: u64,
        key: Option<Box<str>>,
        kind: Kind,
        frame: Arc<[u8]>,
        fields: Range<u32>,
    ) -> Self {
        assert!(offset > 0, "offsets start at 1");
        assert!(fields.start <= fields.end && fields.end as usize <= frame.len(), "the fields are part of the frame");
        Self { offset, timestamp, key, kind, frame, fields }
    }

    /// The whole push, framed.
    pub fn frame(&self) -> &Arc<[u8]> {
        &self.frame
    }

    /// The fields of the push's `data`, without braces.
    pub fn fields(&self) -> &[u8] {
        &self.frame[self.fields.start as usize..self.fields.end as usize]
    }

    /// The publication as an answer lists it.
    pub fn element(&self) -> Element<'_> {
        Element { kind: self.kind, fields: self.fields() }
    }

    /// The bytes that keeping it holds.
    pub fn weight(&self) -> usize {
        self.frame.len() + self.key.as_ref().map_or(0, |key| key.len()) + Self::OVERHEAD
    }
}
