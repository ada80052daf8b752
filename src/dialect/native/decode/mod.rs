//! Envelopes from clients: JSON text in, a borrowed `Request` out (docs/protocol.md, "Messages"). One
//! `EnvelopeDecoder` per shard keeps simd-json's buffers and its tape from message to message. It knows the shape
//! of each command, not who may send it: `session` judges that. `fields` reads members off the tape, `command`
//! makes commands of them, `source` finds what has to stay as the client wrote it.

mod command;
mod fields;
mod source;
#[cfg(test)]
mod tests;

use std::fmt;

use simd_json::{Buffers, ErrorType, Node, Tape};

use self::command::Envelope;
use self::source::Source;
use crate::model::text::Text;

/// JSON nested deeper than this is refused (the envelope's own two levels included).
pub const MAX_DEPTH: usize = 64;
/// Longest `id` a client may give a request, in bytes.
pub const MAX_ID_BYTES: usize = 128;
/// Most channels in one `auth`.
pub const MAX_AUTH_CHANNELS: usize = 128;
/// Longest `key` of a publication, in bytes.
pub const MAX_KEY_BYTES: usize = 255;
/// Longest `idempotency_key`, in bytes; an empty one is refused.
pub const MAX_IDEMPOTENCY_KEY_BYTES: usize = 64;
/// Longest `epoch` that a client may name, in bytes.
pub const MAX_EPOCH_BYTES: usize = 64;
/// What a decoder keeps between two messages, in bytes: what a message of 16 KiB needs that is all structure, or one
/// of 64 KiB that is mostly text.
const KEEP_BYTES: usize = 512 * 1024;

/// A client's message, borrowed from the decoder and the text.
#[derive(Debug, PartialEq, Eq)]
pub struct Request<'a> {
    /// The client's mark for the request; comes back on its answer.
    pub id: Option<&'a str>,
    /// What it wants.
    pub command: Command<'a>,
}

/// What a client can ask for. Names of channels have been checked for their syntax, nothing else.
#[derive(Debug, PartialEq, Eq)]
pub enum Command<'a> {
    /// Sign in.
    Auth {
        /// The token, if it is there and a non-empty string.
        token: Option<&'a str>,
        /// The client wants `ping` messages, since it can't see ping frames.
        ping: bool,
        /// What the client has of the lobby.
        recover: Option<Since<'a>>,
        /// What to subscribe to at once, [`MAX_AUTH_CHANNELS`] at most; a channel may come twice.
        channels: Vec<SubscribeTo<'a>>,
    },
    /// Say something to everyone in a channel.
    Message {
        /// The text as it came, not trimmed; `None` if it is missing.
        text: Option<&'a str>,
        /// Where to; the lobby by default.
        channel: Option<&'a str>,
        /// Names this message over retries.
        idempotency_key: Option<&'a str>,
    },
    /// The tutorial's heartbeat.
    Heartbeat,
    /// Who is online, a page of it.
    Users {
        /// Where the page before ended.
        cursor: Option<&'a str>,
        /// Most members in the page.
        limit: Option<u32>,
    },
    /// Receive what is published in a channel.
    Subscribe(SubscribeTo<'a>),
    /// Receive it no more.
    Unsubscribe {
        /// Which.
        channel: &'a str,
    },
    /// Send any JSON to everyone in a channel.
    Publish {
        /// Where to.
        channel: &'a str,
        /// One JSON value as the client wrote it, byte for byte; no whitespace around it, any within it.
        data: &'a [u8],
        /// What it is about: under `conflate` the newest of each key is kept.
        key: Option<&'a str>,
        /// Names this publication over retries.
        idempotency_key: Option<&'a str>,
        /// Publish only if the channel is still in this epoch.
        epoch: Option<&'a str>,
    },
    /// What was published in a channel, a page of it.
    History {
        /// Of which.
        channel: &'a str,
        /// What the client has.
        since: Option<Since<'a>>,
        /// Most publications in the page.
        limit: Option<u32>,
        /// Newest first.
        reverse: bool,
    },
    /// Who is in a channel, a page of it.
    Presence {
        /// Which.
        channel: &'a str,
        /// Where the page before ended.
        cursor: Option<&'a str>,
        /// Most members in the page.
        limit: Option<u32>,
    },
    /// Stay signed in, or in one channel, with a new token.
    Refresh {
        /// The token, not empty.
        token: &'a str,
        /// The channel whose own token it replaces; `None` for the token of the sign-in.
        channel: Option<&'a str>,
    },
}

impl<'a> Command<'a> {
    /// The channel that it is about; the lobby where it names none.
    pub fn channel(&self) -> Option<&'a str> {
        match *self {
            Self::Auth { .. } | Self::Heartbeat | Self::Users { .. } => None,
            Self::Message { channel, .. } | Self::Refresh { channel, .. } => channel,
            Self::Subscribe(SubscribeTo { channel, .. })
            | Self::Unsubscribe { channel }
            | Self::Publish { channel, .. }
            | Self::History { channel, .. }
            | Self::Presence { channel, .. } => Some(channel),
        }
    }
}

/// One channel to subscribe to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubscribeTo<'a> {
    /// Which.
    pub channel: &'a str,
    /// The right to, where the namespace asks for one.
    pub token: Option<&'a str>,
    /// What the client has of it.
    pub recover: Option<Since<'a>>,
}

/// What a client has of a channel: all up to `offset`, this one included; 0 is nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Since<'a> {
    /// The epoch that the offset belongs to.
    pub epoch: &'a str,
    /// The newest publication that the client knows of.
    pub offset: u64,
}

/// Why a message can't be taken: answered by `error` 400, the connection lives.
#[derive(Debug, PartialEq, Eq)]
pub struct Rejected<'a> {
    /// The request's id, where it could be read.
    pub id: Option<&'a str>,
    /// What is wrong.
    pub text: Text,
}

/// Turns text messages into requests; reused from message to message.
pub struct EnvelopeDecoder {
    scratch: Vec<u8>,
    /// A second scratch copy, for the rare message whose numbers are too big for simd-json.
    clipped: Vec<u8>,
    buffers: Buffers,
    /// Empty between two messages: it lends its allocation, never its contents.
    tape: Vec<Node<'static>>,
}

impl fmt::Debug for EnvelopeDecoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EnvelopeDecoder").field("held_bytes", &self.held_bytes()).finish_non_exhaustive()
    }
}

impl Default for EnvelopeDecoder {
    fn default() -> Self {
        let buffers = Buffers::with_max_depth(4096, MAX_DEPTH);
        Self { scratch: Vec::new(), clipped: Vec::new(), buffers, tape: Vec::new() }
    }
}

impl EnvelopeDecoder {
    /// Reads one text message. `text` itself is left as it is, and a publication's data is a slice of it: simd-json
    /// unescapes in place, in a copy.
    ///
    /// # Errors
    /// [`Rejected`] with the reason, for an `error` 400.
    pub fn decode<'a>(&'a mut self, text: &'a [u8]) -> Result<Request<'a>, Rejected<'a>> {
        copy(text, &mut self.scratch);
        let mut tape = Tape(std::mem::take(&mut self.tape)).reset();
        let mut parsed = simd_json::fill_tape(&mut self.scratch, &mut self.buffers, &mut tape);
        if parsed.as_ref().is_err_and(|error| *error.error() == ErrorType::InvalidNumber) {
            // Perhaps only too big for a machine word: JSON has no such limit, and `publish.data` passes as it is.
            copy(text, &mut self.clipped);
            if source::clip_numbers(&mut self.clipped, self.buffers.structural_indexes()) {
                parsed = simd_json::fill_tape(&mut self.clipped, &mut self.buffers, &mut tape);
            }
        }
        let request = match parsed {
            Ok(()) => {
                let source = Source { text, structurals: self.buffers.structural_indexes(), tape: &tape.0 };
                Envelope::read(source).and_then(Envelope::into_request)
            }
            Err(_) => Err(Rejected { id: None, text: Text::Malformed }),
        };
        self.tape = tape.reset().0;
        request
    }

    /// To be called when the request has been dealt with: gives back what it needed beyond [`KEEP_BYTES`]. A message of
    /// 300 KB that is all brackets takes 10 MB, and nobody knows when the next one of its size comes.
    /// Returns whether there was anything to give back.
    pub fn trim(&mut self) -> bool {
        let is_large = self.held_bytes() > KEEP_BYTES;
        if is_large {
            *self = Self::default();
        }
        is_large
    }

    /// What it holds on the heap, or a little more, in bytes. simd-json's two buffers are private: each is as large as
    /// the text, and grows by doubling.
    fn held_bytes(&self) -> usize {
        let texts = 4 * self.scratch.capacity() + self.clipped.capacity();
        let structurals = 2 * size_of_val(self.buffers.structural_indexes());
        texts + structurals + self.tape.capacity() * size_of::<Node<'_>>()
    }
}

fn copy(text: &[u8], scratch: &mut Vec<u8>) {
    scratch.clear();
    scratch.extend_from_slice(text);
}
