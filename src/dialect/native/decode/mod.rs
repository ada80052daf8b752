//! Envelopes from clients: JSON text in, a borrowed `Request` out (docs/protocol.md, "Messages"). One
//! `EnvelopeDecoder` per shard keeps simd-json's buffers and its tape from message to message. It knows the shape
//! of each command, not who may send it: `session` judges that. `fields` reads members off the tape, `command`
//! makes commands of them, `source` finds the bytes that have to stay as the client wrote them.

mod command;
mod fields;
mod source;
#[cfg(test)]
mod tests;

use std::fmt;

use simd_json::{Buffers, ErrorType, Node, Tape};

use self::command::RequestEnvelope;
use self::source::ParsedText;
use crate::model::command::Request;
use crate::model::text::Text;

/// JSON that is nested deeper than this is refused. The envelope's own two levels count.
pub const MAX_DEPTH: usize = 64;
/// The most bytes that a decoder keeps between two messages: as many as a message of 16 KiB needs that is all structure,
/// or one of 64 KiB that is mostly text.
const KEEP_BYTES: usize = 512 * 1024;

/// Why a message is not a request. The client is told `error` 400, and the connection stays open.
#[derive(Debug, PartialEq, Eq)]
pub struct Rejected<'a> {
    /// The request's id, if it could be read.
    pub(crate) id: Option<&'a str>,
    /// What is wrong with the message.
    pub(crate) text: Text,
}

/// Turns text messages into requests. One decoder is used for many messages.
pub struct EnvelopeDecoder {
    scratch: Vec<u8>,
    /// A second copy, for the rare message whose numbers are too big for simd-json.
    clipped: Vec<u8>,
    buffers: Buffers,
    /// Empty between two messages. Only its allocation is used again.
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
    /// Reads one text message. simd-json unescapes in place, so it works on a copy. A publication's data is a slice of
    /// `text` itself.
    ///
    /// # Errors
    /// [`Rejected`] with the reason, for an `error` 400.
    pub fn decode<'a>(&'a mut self, text: &'a [u8]) -> Result<Request<'a>, Rejected<'a>> {
        copy(text, &mut self.scratch);
        let mut tape = Tape(std::mem::take(&mut self.tape)).reset();
        let mut parsed = simd_json::fill_tape(&mut self.scratch, &mut self.buffers, &mut tape);
        if parsed.as_ref().is_err_and(|error| *error.error() == ErrorType::InvalidNumber) {
            // The number may only be too big for a machine word. JSON has no such limit, and `publish.data` is forwarded
            // as it is.
            copy(text, &mut self.clipped);
            if source::clip_numbers(&mut self.clipped, self.buffers.structural_indexes()) {
                parsed = simd_json::fill_tape(&mut self.clipped, &mut self.buffers, &mut tape);
            }
        }
        let request = match parsed {
            Ok(()) => {
                let source = ParsedText { text, structurals: self.buffers.structural_indexes(), tape: &tape.0 };
                RequestEnvelope::read(source).and_then(RequestEnvelope::into_request)
            }
            Err(_) => Err(Rejected { id: None, text: Text::Malformed }),
        };
        self.tape = tape.reset().0;
        request
    }

    /// Gives back the memory beyond [`KEEP_BYTES`]. Call it when the request has been handled. A message of 300 KB that is
    /// all brackets takes 10 MB, and the next one of its size may never come.
    /// Returns whether there was memory to give back.
    pub(crate) fn trim(&mut self) -> bool {
        let is_large = self.held_bytes() > KEEP_BYTES;
        if is_large {
            *self = Self::default();
        }
        is_large
    }

    /// The bytes that it holds on the heap, or a little more. simd-json's two buffers are private. Each is as large as the
    /// text and grows by doubling.
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
