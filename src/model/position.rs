//! Places in a channel: where it stands, and how far a client has received it. Each is there borrowed, as messages have
//! it, and owned, as it travels between shards.

use std::sync::Arc;

/// Where a channel stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Position<'a> {
    /// The name of the channel.
    pub channel: &'a str,
    /// The epoch of the offset.
    pub epoch: &'a str,
    /// The offset of the newest publication; 0 if there was none.
    pub offset: u64,
}

/// A position in a channel, owned: where the channel stands, or where a publication stands in it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Placed {
    /// The name of the channel.
    pub channel: Arc<str>,
    /// The epoch of the offset.
    pub epoch: Arc<str>,
    /// The offset of the newest publication, or of the one whose place this is.
    pub offset: u64,
}

impl Placed {
    /// The position as messages show it.
    pub(crate) fn position(&self) -> Position<'_> {
        Position { channel: &self.channel, epoch: &self.epoch, offset: self.offset }
    }
}

/// How far a client has received a channel: all publications up to and including `offset`. 0 means none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SinceRef<'a> {
    /// The epoch that the offset belongs to.
    pub(crate) epoch: &'a str,
    /// The newest publication that the client knows of.
    pub(crate) offset: u64,
}

impl SinceRef<'_> {
    /// The same place, owned.
    pub(crate) fn to_owned(self) -> Box<Since> {
        Box::new(Since { epoch: self.epoch.into(), offset: self.offset })
    }
}

/// How far a client has received a channel, owned: all publications up to and including `offset`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Since {
    /// The epoch of the offset.
    pub epoch: Box<str>,
    /// The newest publication that the client has; 0 for none.
    pub offset: u64,
}
