//! What is said to all subscribers of a channel: encoded once, the frame shared by all of them. A publication's frame
//! is what history keeps too, with the place of its fields, so that an answer copies them and encodes nothing again.

use std::ops::Range;

use serde::Serialize;
use serde_json::value::RawValue;

use super::{Envelope, Event, Position, frame_json, is_false, write_json};
use crate::model::text::{Language, Text};
use crate::wire::frame;

/// Which push a publication is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Any JSON.
    Publication,
    /// A text by a user.
    Message,
}

/// One element of `publications`, its fields taken from the stored push.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Element<'a> {
    /// Which push it was.
    pub kind: Kind,
    /// The range of the frame that [`Publication::encode`] or [`Message::encode`] gave.
    pub fields: &'a [u8],
}

impl Element<'_> {
    /// How many bytes it takes within an answer, the comma counted.
    pub fn encoded_len(&self) -> usize {
        self.opening().len() + self.fields.len() + 2
    }

    /// Appends the element, without a comma.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.reserve(self.encoded_len());
        out.extend_from_slice(self.opening());
        out.extend_from_slice(self.fields);
        out.push(b'}');
    }

    fn opening(&self) -> &'static [u8] {
        match self.kind {
            Kind::Publication => br#"{"type":"publication","#,
            Kind::Message => br#"{"type":"message","#,
        }
    }
}

/// A `publication` push.
#[derive(Debug)]
pub struct Publication<'a> {
    /// The channel.
    pub channel: &'a str,
    /// Its number in the channel.
    pub offset: u64,
    /// One JSON value; goes out as it is.
    pub data: &'a [u8],
    /// What it is about.
    pub key: Option<&'a str>,
    /// Who published it, if not the backend.
    pub sender: Option<&'a RawValue>,
    /// Unix milliseconds, the owner's.
    pub timestamp: u64,
}

impl Publication<'_> {
    /// Appends the push as one text frame. Returns where its fields stand, counted from the start of the frame.
    pub fn encode(&self, out: &mut Vec<u8>) -> Range<usize> {
        #[derive(Serialize)]
        struct Head<'a> {
            channel: &'a str,
            offset: u64,
        }
        frame_fields(out, br#"{"type":"publication","data":"#, |out| {
            write_json(out, &Head { channel: self.channel, offset: self.offset });
            out.pop();
            out.extend_from_slice(b",\"data\":");
            out.extend_from_slice(self.data);
            if let Some(key) = self.key {
                out.extend_from_slice(b",\"key\":");
                write_json(out, key);
            }
            if let Some(sender) = self.sender {
                out.extend_from_slice(b",\"sender\":");
                out.extend_from_slice(sender.get().as_bytes());
            }
            out.extend_from_slice(b",\"timestamp\":");
            write_json(out, &self.timestamp);
            out.push(b'}');
        })
    }
}

/// A `message` push.
#[derive(Debug)]
pub struct Message<'a> {
    /// The channel, its epoch and this message's offset.
    pub position: Position<'a>,
    /// Who said it, if not the backend.
    pub sender: Option<&'a RawValue>,
    /// Trimmed, and escaped where the namespace says so.
    pub text: &'a str,
    /// Unix milliseconds, the owner's.
    pub timestamp: u64,
}

impl Message<'_> {
    /// Appends the push as one text frame. Its `id` is unique for ever: the epoch is random, the offset counts.
    /// Returns where its fields stand, counted from the start of the frame.
    pub fn encode(&self, out: &mut Vec<u8>) -> Range<usize> {
        #[derive(Serialize)]
        struct Data<'a> {
            id: std::fmt::Arguments<'a>,
            channel: &'a str,
            offset: u64,
            #[serde(skip_serializing_if = "Option::is_none")]
            sender: Option<&'a RawValue>,
            text: &'a str,
            timestamp: u64,
        }
        let Self { sender, text, timestamp, position: Position { channel, epoch, offset } } = *self;
        frame_fields(out, br#"{"type":"message","code":200,"data":"#, |out| {
            let id = format_args!("{epoch}-{offset}");
            write_json(out, &Data { id, channel, offset, sender, text, timestamp });
        })
    }
}

/// Frames `head`, the object that `write` appends, and a closing bracket. Returns the object's place in the frame,
/// less its brackets.
fn frame_fields(out: &mut Vec<u8>, head: &[u8], write: impl FnOnce(&mut Vec<u8>)) -> Range<usize> {
    let start = out.len();
    let mark = frame::begin_text(out);
    out.extend_from_slice(head);
    let object = out.len();
    write(out);
    let len = out.len() - object - 2;
    out.push(b'}');
    // The frame's header settles only here, so the place is counted from the end.
    frame::end_text(out, mark);
    let end = out.len() - start - 2;
    end - len..end
}

/// A `user_online` or `user_offline` push.
#[derive(Debug)]
pub struct PresenceChange<'a> {
    /// Came, or went.
    pub online: bool,
    /// Who.
    pub user: &'a RawValue,
    /// Users online after it.
    pub online_count: u64,
    /// Unix milliseconds, the owner's.
    pub timestamp: u64,
}

impl PresenceChange<'_> {
    /// Appends the push as one text frame.
    pub fn encode(&self, out: &mut Vec<u8>, language: Language) {
        #[derive(Serialize)]
        struct Data<'a> {
            user: &'a RawValue,
            online_count: u64,
            timestamp: u64,
        }
        let (kind, text) =
            if self.online { ("user_online", Text::UserOnline) } else { ("user_offline", Text::UserOffline) };
        let data = Data { user: self.user, online_count: self.online_count, timestamp: self.timestamp };
        frame_json(out, &Envelope::bare(kind, 200).with(data).saying(text.in_language(language)));
    }
}

/// Why publications are missing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum GapReason {
    /// This connection read too slowly.
    SlowConsumer,
    /// Newer ones of the same keys took their place.
    Conflated,
    /// The channel's history doesn't hold them any more.
    HistoryLost,
    /// The engine didn't deliver them.
    Engine,
}

/// What is said of a channel besides its publications.
#[derive(Debug)]
pub enum Push<'a> {
    /// Publications that this connection doesn't receive.
    Gap {
        /// Of which channel.
        channel: &'a str,
        /// The epoch of `from` and `to`.
        epoch: &'a str,
        /// The first one missing.
        from: u64,
        /// The last one missing.
        to: u64,
        /// Why.
        reason: GapReason,
    },
    /// A user came or went.
    JoinLeave {
        /// Came, or went.
        joined: bool,
        /// Which channel.
        channel: &'a str,
        /// Who.
        user: &'a RawValue,
        /// Users in the channel after it.
        count: u64,
        /// Unix milliseconds, the owner's.
        timestamp: u64,
    },
    /// Who came and went within a window of time.
    PresenceDigest {
        /// Which channel.
        channel: &'a str,
        /// Users in the channel at the window's end.
        count: u64,
        /// Who came, in order.
        joined: &'a [&'a RawValue],
        /// Who went, in order.
        left: &'a [&'a RawValue],
        /// There were more.
        truncated: bool,
        /// What the client knows of the members is void: fetch them again.
        reset: bool,
        /// Unix milliseconds, the owner's.
        timestamp: u64,
    },
}

impl Push<'_> {
    /// Appends the push as one text frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match *self {
            Self::Gap { channel, epoch, from, to, reason } => {
                #[derive(Serialize)]
                struct Data<'a> {
                    channel: &'a str,
                    epoch: &'a str,
                    from: u64,
                    to: u64,
                    reason: GapReason,
                }
                frame_json(out, &Event::new("gap", Data { channel, epoch, from, to, reason }));
            }
            Self::JoinLeave { joined, channel, user, count, timestamp } => {
                #[derive(Serialize)]
                struct Data<'a> {
                    channel: &'a str,
                    user: &'a RawValue,
                    count: u64,
                    timestamp: u64,
                }
                let kind = if joined { "join" } else { "leave" };
                frame_json(out, &Event::new(kind, Data { channel, user, count, timestamp }));
            }
            Self::PresenceDigest { channel, count, joined, left, truncated, reset, timestamp } => {
                #[derive(Serialize)]
                struct Data<'a> {
                    channel: &'a str,
                    count: u64,
                    joined: &'a [&'a RawValue],
                    left: &'a [&'a RawValue],
                    #[serde(skip_serializing_if = "is_false")]
                    truncated: bool,
                    #[serde(skip_serializing_if = "is_false")]
                    reset: bool,
                    timestamp: u64,
                }
                let data = Data { channel, count, joined, left, truncated, reset, timestamp };
                frame_json(out, &Event::new("presence_digest", data));
            }
        }
    }
}
