//! The server's side of a WebSocket stream: the client's bytes in, messages and control frames out.
//!
//! Owns what RFC 6455 §5.4–§8.1 says about sequences of frames: fragments, interleaved control frames, UTF-8,
//! the Close payload, and the limits that bound what a peer can make us keep; of RFC 7692, which frames may say that
//! they are compressed. Knows no socket, no DEFLATE and no JSON. A message that lies in the input whole is unmasked
//! there and handed out without a copy. Only what is incomplete at the end of the input is kept, on the heap, until
//! it is complete. Then it moves to the [`Assembly`], where a compressed message is inflated too. Called by `shard`.

pub(crate) use super::frame::ProtocolError;

use super::deflate::inflate::{Inflater, Work};
use super::frame::{self, CLIENT_HEADER_MAX, FrameHeader, Opcode};
use super::mask;
use super::utf8::{self, InvalidUtf8, Validator};

/// What a peer may send.
#[derive(Debug, Clone, Copy)]
pub struct MessageLimits {
    /// Bytes of a message, all its fragments and their overhead together; of a compressed one, its content too.
    pub message_bytes: usize,
    /// Bytes of a data frame's payload.
    pub frame_bytes: usize,
    /// What each fragment counts beyond its payload, so that a flood of empty ones comes to an end. A message
    /// of one frame is not charged.
    pub fragment_overhead: usize,
}

/// What came in. Payloads are unmasked, texts and reasons are UTF-8.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// A text message; mutable because the JSON parser works in place.
    Text(&'a mut [u8]),
    /// A binary message, unmasked and whole.
    Binary(&'a mut [u8]),
    /// A ping, to be answered with a pong of the same payload.
    Ping(&'a [u8]),
    /// A pong, with its payload.
    Pong(&'a [u8]),
    /// The peer's Close, to be answered in kind; nothing follows it.
    Close {
        /// The close code, if the frame had one.
        code: Option<u16>,
        /// The reason, often empty.
        reason: &'a str,
    },
}

/// Where a complete message lies that came in pieces or was compressed. One serves all connections of a shard, since each
/// event is done with before the next bytes are decoded.
#[derive(Debug)]
pub struct Assembly {
    /// What came in pieces: a message, or the payload of a control frame.
    bytes: Vec<u8>,
    inflater: Inflater,
}

impl Assembly {
    /// An empty one. `clock` tells nanoseconds, for [`Work`] alone.
    pub fn new(clock: fn() -> u64) -> Self {
        Self { bytes: Vec::new(), inflater: Inflater::new(clock) }
    }

    /// Frees what the last event lay in. Returns what was inflated for it.
    pub fn release(&mut self) -> Option<Work> {
        self.bytes = Vec::new();
        self.inflater.release()
    }

    /// Bytes that it holds on the heap.
    pub fn heap_bytes(&self) -> usize {
        self.bytes.capacity() + self.inflater.heap_bytes()
    }
}

/// What [`Decoder::echo`] has taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Echoed {
    /// Bytes of the input.
    pub(crate) bytes: usize,
    /// The number of messages in them.
    pub(crate) messages: usize,
}

/// Decodes the stream of one client. Idle, it is two words and has nothing on the heap.
#[derive(Debug, Default)]
pub struct Decoder {
    partial: Option<Box<Partial>>,
    /// After a Close or an error nothing that the peer sends means anything (§5.5.1, §7.1.7).
    closed: bool,
    /// permessage-deflate was agreed on, so messages may be compressed.
    deflate: bool,
    /// Data frames are passed over: only the peer's Close is awaited.
    skips: bool,
    /// Bytes taken since then, or since a Close or an error.
    skipped: u32,
}

/// What is kept while a frame or a message is incomplete.
#[derive(Debug, Default)]
struct Partial {
    /// The start of a header that was cut.
    header: [u8; CLIENT_HEADER_MAX],
    header_len: u8,
    /// The frame whose payload is arriving.
    frame: Option<OpenFrame>,
    /// The data message that is arriving.
    message: Option<Message>,
    /// The payload of a control frame that was cut; it may stand between a message's fragments.
    control: Vec<u8>,
}

#[derive(Debug, Clone, Copy)]
struct OpenFrame {
    header: FrameHeader,
    received: usize,
}

#[derive(Debug)]
struct Message {
    opcode: Opcode,
    compressed: bool,
    bytes: Vec<u8>,
    validator: Validator,
    /// Bytes announced so far and the overhead of the fragments, against `MessageLimits::message_bytes`.
    charged: usize,
}

/// Where the payload of a complete frame or message lies.
enum Ready {
    /// Nothing is complete yet.
    Nothing,
    /// In the input, at these bytes.
    Input(Opcode, std::ops::Range<usize>),
    /// Here: it came in pieces.
    Kept(Opcode, Vec<u8>),
    /// In the input, and has to be inflated.
    Compressed(Opcode, std::ops::Range<usize>),
    /// Here, and has to be inflated.
    KeptCompressed(Opcode, Vec<u8>),
}

impl Decoder {
    /// A decoder for a new connection.
    pub fn new() -> Self {
        Self::default()
    }

    /// permessage-deflate was agreed on: from now on messages may be compressed.
    pub fn allow_deflate(&mut self) {
        self.deflate = true;
    }

    /// From now on data frames are passed over, whatever they hold; what had come of a message is freed.
    pub(crate) fn skip_messages(&mut self) {
        self.skips = true;
        if let Some(partial) = &mut self.partial {
            partial.message = None;
        }
        self.forget_empty();
    }

    /// Bytes that were taken and not looked at.
    pub(crate) fn skipped(&self) -> usize {
        self.skipped as usize
    }

    /// Counts bytes that were not even shown to it.
    pub(crate) fn skip(&mut self, bytes: usize) {
        self.skipped = self.skipped.saturating_add(u32::try_from(bytes).unwrap_or(u32::MAX));
    }

    /// Takes bytes from the front of `input`: returns how many, and what they completed. Call it again with the
    /// rest until all are consumed; of a non-empty input at least one byte always is.
    ///
    /// The event lies in the input or in the assembly. Call [`Assembly::release`] when it is done with. An error is
    /// final, as is `Event::Close`: what comes after is consumed unread.
    pub fn decode<'a>(
        &mut self,
        input: &'a mut [u8],
        limits: &MessageLimits,
        assembly: &'a mut Assembly,
    ) -> Result<(usize, Option<Event<'a>>), ProtocolError> {
        let Assembly { bytes, inflater } = assembly;
        if self.closed {
            self.skip(input.len());
            return Ok((input.len(), None));
        }
        let (consumed, ready) = match self.advance(input, limits) {
            Ok(advanced) => advanced,
            Err(error) => {
                self.close();
                return Err(error);
            }
        };
        if self.skips {
            self.skip(consumed);
        }
        let (opcode, payload) = match ready {
            Ready::Nothing => return Ok((consumed, None)),
            Ready::Input(opcode, range) => {
                if opcode == Opcode::Close {
                    self.close();
                }
                (opcode, &mut input[range])
            }
            Ready::Kept(opcode, payload) => {
                if opcode == Opcode::Close {
                    self.close();
                }
                *bytes = payload;
                (opcode, &mut bytes[..])
            }
            Ready::Compressed(opcode, range) => {
                let content = inflate(opcode, &input[range], limits, inflater);
                (opcode, content.inspect_err(|_| self.close())?)
            }
            Ready::KeptCompressed(opcode, payload) => {
                let content = inflate(opcode, &payload, limits, inflater);
                (opcode, content.inspect_err(|_| self.close())?)
            }
        };
        Ok((consumed, Some(event(opcode, payload)?)))
    }

    /// Sends messages back: of the whole messages that `input` begins with, appends each to `out` as a server's frame.
    /// Stops before the first frame that is anything else, as a control frame, a fragment, a compressed message, an error
    /// or a frame that is cut, and when `out` has `most` bytes. [`Decoder::decode`] has to take that frame, and makes the
    /// same of all others.
    pub(crate) fn echo(&self, input: &[u8], limits: &MessageLimits, most: usize, out: &mut Vec<u8>) -> Echoed {
        let mut echoed = Echoed::default();
        if self.partial.is_some() || self.closed || self.skips || self.deflate {
            return echoed;
        }
        let len_max = limits.frame_bytes.min(limits.message_bytes) as u64;
        while out.len() < most {
            let rest = &input[echoed.bytes..];
            let Ok(Some((header, at))) = FrameHeader::parse(rest, false) else { break };
            let is_message = header.fin && matches!(header.opcode, Opcode::Text | Opcode::Binary);
            if !is_message || header.len > len_max || rest.len() - at < header.len as usize {
                break;
            }
            let (start, end) = (out.len(), at + header.len as usize);
            frame::write_header(out, header.opcode, header.len as usize);
            let payload = out.len();
            mask::append(out, &rest[at..end], header.key);
            if header.opcode == Opcode::Text && utf8::validate(&out[payload..]).is_err() {
                out.truncate(start);
                break;
            }
            echoed.bytes += end;
            echoed.messages += 1;
        }
        echoed
    }

    fn forget_empty(&mut self) {
        if self.partial.as_ref().is_some_and(|partial| partial.is_empty()) {
            self.partial = None;
        }
    }

    /// Whether nothing is kept.
    #[cfg(test)]
    pub(crate) fn is_idle(&self) -> bool {
        self.partial.is_none()
    }

    /// Bytes that the decoder holds on the heap.
    pub fn heap_bytes(&self) -> usize {
        self.partial.as_ref().map_or(0, |partial| {
            let message = partial.message.as_ref().map_or(0, |message| message.bytes.capacity());
            size_of::<Partial>() + message + partial.control.capacity()
        })
    }

    fn close(&mut self) {
        self.closed = true;
        self.partial = None;
    }

    /// Works through one frame, or as much of it as there is.
    fn advance(&mut self, input: &mut [u8], limits: &MessageLimits) -> Result<(usize, Ready), ProtocolError> {
        let open = self.partial.as_ref().is_some_and(|partial| partial.frame.is_some());
        let mut at = 0;
        if !open {
            let Some((header, header_bytes)) = self.parse_header(input)? else {
                return Ok((input.len(), Ready::Nothing));
            };
            at = header_bytes;
            let len = self.admit(&header, limits)?;
            let whole = len <= input.len() - at;
            if whole && self.skips && !header.opcode.is_control() {
                return Ok((at + len, Ready::Nothing));
            }
            let unfragmented = header.fin && header.opcode != Opcode::Continuation;
            if whole && unfragmented {
                let payload = at..at + len;
                mask::apply(&mut input[payload.clone()], header.key, 0);
                if header.rsv1 {
                    return Ok((payload.end, Ready::Compressed(header.opcode, payload)));
                }
                if header.opcode == Opcode::Text {
                    utf8::validate(&input[payload.clone()])?;
                }
                return Ok((payload.end, Ready::Input(header.opcode, payload)));
            }
            self.partial.get_or_insert_default().open(header, limits, self.skips);
        }
        let partial = self.partial.get_or_insert_default();
        let (taken, ready) = partial.take(&mut input[at..], limits, self.skips)?;
        self.forget_empty();
        Ok((at + taken, ready))
    }

    /// Parses the header that `input` goes on with; the number is the bytes of *this* input that belong to it.
    fn parse_header(&mut self, input: &[u8]) -> Result<Option<(FrameHeader, usize)>, ProtocolError> {
        let kept = self.partial.as_ref().map_or(0, |partial| usize::from(partial.header_len));
        let rsv1_allowed = self.deflate;
        if kept == 0 {
            let parsed = FrameHeader::parse(input, rsv1_allowed)?;
            if parsed.is_none() && !input.is_empty() {
                let partial = self.partial.get_or_insert_default();
                partial.header[..input.len()].copy_from_slice(input);
                partial.header_len = input.len() as u8;
            }
            return Ok(parsed);
        }

        let partial = self.partial.get_or_insert_default();
        let filled = CLIENT_HEADER_MAX.min(kept + input.len());
        partial.header[kept..filled].copy_from_slice(&input[..filled - kept]);
        let parsed = FrameHeader::parse(&partial.header[..filled], rsv1_allowed)?;
        partial.header_len = if parsed.is_some() { 0 } else { filled as u8 };
        if parsed.is_some() && partial.is_empty() {
            self.partial = None;
        }
        Ok(parsed.map(|(header, header_len)| (header, header_len - kept)))
    }

    /// Whether a frame may come here (§5.4) and fits the limits, before a byte of its payload is kept. Returns
    /// its length.
    fn admit(&self, header: &FrameHeader, limits: &MessageLimits) -> Result<usize, ProtocolError> {
        let message = self.partial.as_ref().and_then(|partial| partial.message.as_ref());
        match (header.opcode, message) {
            _ if self.skips => {}
            (Opcode::Continuation, None) => return Err(ProtocolError::UnexpectedContinuation),
            (Opcode::Text | Opcode::Binary, Some(_)) => {
                return Err(ProtocolError::InterleavedMessage);
            }
            _ => {}
        }
        // What doesn't fit a `usize` fits no limit either.
        let len = usize::try_from(header.len).map_err(|_| ProtocolError::FrameTooBig)?;
        if header.opcode.is_control() {
            return Ok(len);
        }
        if len > limits.frame_bytes {
            return Err(ProtocolError::FrameTooBig);
        }
        if self.skips {
            return Ok(len);
        }
        let charged = message.map_or(0, |message| message.charged);
        if charged.saturating_add(charge(header, limits)) > limits.message_bytes {
            return Err(ProtocolError::MessageTooBig);
        }
        Ok(len)
    }
}

/// What a data frame counts against the message limit.
fn charge(header: &FrameHeader, limits: &MessageLimits) -> usize {
    let fragment = !header.fin || header.opcode == Opcode::Continuation;
    let overhead = if fragment { limits.fragment_overhead } else { 0 };
    (header.len as usize).saturating_add(overhead)
}

impl Partial {
    fn is_empty(&self) -> bool {
        self.header_len == 0 && self.frame.is_none() && self.message.is_none() && self.control.is_empty()
    }

    /// Begins an admitted frame that is cut or belongs to a fragmented message.
    fn open(&mut self, header: FrameHeader, limits: &MessageLimits, skips: bool) {
        self.frame = Some(OpenFrame { header, received: 0 });
        if skips || header.opcode.is_control() {
            return;
        }
        let message = self.message.get_or_insert_with(|| Message {
            opcode: header.opcode,
            compressed: header.rsv1,
            bytes: Vec::new(),
            validator: Validator::default(),
            charged: 0,
        });
        message.charged = message.charged.saturating_add(charge(&header, limits));
    }

    /// Takes what `input` has of the open frame's payload.
    fn take(&mut self, input: &mut [u8], limits: &MessageLimits, skips: bool) -> Result<(usize, Ready), ProtocolError> {
        let Some(OpenFrame { header, received }) = self.frame else {
            return Ok((0, Ready::Nothing));
        };
        let missing = header.len as usize - received;
        let taken = missing.min(input.len());
        let chunk = &mut input[..taken];
        let is_skipped = skips && !header.opcode.is_control();
        if !is_skipped {
            mask::apply(chunk, header.key, received);
        }
        match &mut self.message {
            _ if is_skipped => {}
            Some(message) if !header.opcode.is_control() => {
                // The most that can still come: known with the last frame, the limit before that.
                let most = if header.fin { message.bytes.len() + missing } else { limits.message_bytes };
                message.push(chunk, most)?;
            }
            _ => self.control.extend_from_slice(chunk),
        }
        if taken < missing {
            self.frame = Some(OpenFrame { header, received: received + taken });
            return Ok((taken, Ready::Nothing));
        }

        self.frame = None;
        let ready = match &mut self.message {
            _ if header.opcode.is_control() => Ready::Kept(header.opcode, std::mem::take(&mut self.control)),
            Some(message) if header.fin => {
                if !message.compressed {
                    message.validator.finish()?;
                }
                let (opcode, bytes, is_compressed) =
                    (message.opcode, std::mem::take(&mut message.bytes), message.compressed);
                self.message = None;
                if is_compressed { Ready::KeptCompressed(opcode, bytes) } else { Ready::Kept(opcode, bytes) }
            }
            _ => Ready::Nothing,
        };
        Ok((taken, ready))
    }
}

impl Message {
    /// Appends unmasked bytes. The buffer grows by doubling, but never beyond `most`: memory follows what has
    /// arrived, not what was announced, and a whole message never has room to spare.
    fn push(&mut self, chunk: &[u8], most: usize) -> Result<(), ProtocolError> {
        if self.opcode == Opcode::Text && !self.compressed {
            self.validator.push(chunk)?;
        }
        let needed = self.bytes.len() + chunk.len();
        if needed > self.bytes.capacity() {
            let capacity = (2 * self.bytes.capacity()).min(most).max(needed);
            self.bytes.reserve_exact(capacity - self.bytes.len());
        }
        self.bytes.extend_from_slice(chunk);
        Ok(())
    }
}

/// The content of a compressed message.
fn inflate<'a>(
    opcode: Opcode,
    payload: &[u8],
    limits: &MessageLimits,
    inflater: &'a mut Inflater,
) -> Result<&'a mut [u8], ProtocolError> {
    let content = inflater.inflate(payload, limits.message_bytes)?;
    if opcode == Opcode::Text {
        utf8::validate(content)?;
    }
    Ok(content)
}

/// The event for a complete payload. Texts were validated on the way.
fn event(opcode: Opcode, payload: &mut [u8]) -> Result<Event<'_>, ProtocolError> {
    Ok(match opcode {
        Opcode::Text => Event::Text(payload),
        Opcode::Ping => Event::Ping(payload),
        Opcode::Pong => Event::Pong(payload),
        Opcode::Close => close_event(payload)?,
        Opcode::Binary => Event::Binary(payload),
        Opcode::Continuation => unreachable!("a message has the opcode of its first frame"),
    })
}

/// §5.5.1: empty, or a code and a reason in UTF-8.
fn close_event(payload: &[u8]) -> Result<Event<'_>, ProtocolError> {
    let Some((&code, reason)) = payload.split_first_chunk() else {
        return if payload.is_empty() {
            Ok(Event::Close { code: None, reason: "" })
        } else {
            Err(ProtocolError::ClosePayload)
        };
    };
    let code = u16::from_be_bytes(code);
    if !frame::is_close_code(code) {
        return Err(ProtocolError::CloseCode);
    }
    let reason = std::str::from_utf8(reason).map_err(|_| ProtocolError::InvalidUtf8)?;
    Ok(Event::Close { code: Some(code), reason })
}

impl From<InvalidUtf8> for ProtocolError {
    fn from(InvalidUtf8: InvalidUtf8) -> Self {
        Self::InvalidUtf8
    }
}

#[cfg(test)]
mod tests;
