//! One frame of RFC 6455 §5.2: the header of a client's frame read, the server's frames written.
//!
//! Knows nothing of messages, fragments or limits: `websocket` puts frames together and bounds them. Nor does
//! it know payloads: what is written is unmasked, whole (FIN) and uncompressed. Called by `websocket` for
//! reading, by everything that fills an outbox for writing.

use thiserror::Error;

use super::codes::close;

/// How a peer broke RFC 6455 or this server's limits. `Display` is the reason for the Close frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ProtocolError {
    /// RSV1–3 without an extension that gives them a meaning (§5.2).
    #[error("reserved bits are set")]
    ReservedBits,
    /// Opcodes 3–7 and 11–15 (§5.2).
    #[error("reserved opcode")]
    ReservedOpcode,
    /// Clients must mask (§5.1).
    #[error("frame is not masked")]
    Unmasked,
    /// Control frames must not be fragmented (§5.5).
    #[error("fragmented control frame")]
    FragmentedControl,
    /// Control frames carry 125 bytes at most (§5.5).
    #[error("control frame is too long")]
    ControlTooLong,
    /// The shortest encoding of a length is the only one (§5.2).
    #[error("length is not minimally encoded")]
    NonMinimalLength,
    /// The top bit of a 64-bit length must be 0 (§5.2).
    #[error("length has its top bit set")]
    LengthOverflow,
    /// A continuation with nothing to continue (§5.4).
    #[error("continuation without a message")]
    UnexpectedContinuation,
    /// A new message before the fragmented one has ended (§5.4).
    #[error("message inside a fragmented message")]
    InterleavedMessage,
    /// One frame over the limit.
    #[error("frame is too big")]
    FrameTooBig,
    /// A message, its fragments' overhead counted, over the limit.
    #[error("message is too big")]
    MessageTooBig,
    /// A compressed message whose content is over the limit.
    #[error("message is too big when inflated")]
    InflatedTooBig,
    /// A compressed message that is no DEFLATE (RFC 7692 §7.2.2).
    #[error("compressed message is invalid")]
    InvalidDeflate,
    /// Text, or a close reason, that is not UTF-8 (§8.1).
    #[error("invalid UTF-8")]
    InvalidUtf8,
    /// A Close payload of one byte (§5.5.1).
    #[error("close payload of one byte")]
    ClosePayload,
    /// A close code that must not go over the wire (§7.4).
    #[error("invalid close code")]
    CloseCode,
}

impl ProtocolError {
    /// The close code that answers this error.
    pub fn close_code(self) -> u16 {
        match self {
            Self::FrameTooBig | Self::MessageTooBig | Self::InflatedTooBig => close::TOO_BIG,
            Self::InvalidUtf8 | Self::InvalidDeflate => close::INVALID_DATA,
            _ => close::PROTOCOL_ERROR,
        }
    }
}

/// What a frame is (§5.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Opcode {
    /// Goes on with a fragmented message.
    Continuation = 0x0,
    /// Begins a text message.
    Text = 0x1,
    /// Begins a binary message.
    Binary = 0x2,
    /// A request to close the connection.
    Close = 0x8,
    /// A request for a sign of life.
    Ping = 0x9,
    /// The answer to a ping.
    Pong = 0xA,
}

impl Opcode {
    fn from_bits(bits: u8) -> Option<Self> {
        Some(match bits {
            0x0 => Self::Continuation,
            0x1 => Self::Text,
            0x2 => Self::Binary,
            0x8 => Self::Close,
            0x9 => Self::Ping,
            0xA => Self::Pong,
            _ => return None,
        })
    }

    /// Whether this is a control frame (§5.5).
    pub(crate) fn is_control(self) -> bool {
        self as u8 & 0x8 != 0
    }
}

const FIN: u8 = 0x80;
const RSV1: u8 = 0x40;
const RSV2_RSV3: u8 = 0x30;
const MASKED: u8 = 0x80;
/// The most that a control frame carries (§5.5).
pub(crate) const CONTROL_MAX: usize = 125;
/// The longest header of a client frame: 2 bytes, a 64-bit length and the key.
pub(crate) const CLIENT_HEADER_MAX: usize = 14;

/// The header of a client's frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FrameHeader {
    /// Whether this is the last fragment of its message.
    pub(crate) fin: bool,
    /// Whether the message is compressed (RFC 7692 §6); only ever on its first frame.
    pub(crate) rsv1: bool,
    /// The kind of the frame.
    pub(crate) opcode: Opcode,
    /// The key that the payload is masked with.
    pub(crate) key: [u8; 4],
    /// The announced length of the payload, in bytes.
    pub(crate) len: u64,
}

impl FrameHeader {
    /// Parses a header from the start of `bytes`, which may stop anywhere: `None` asks for more. The number is
    /// the header's length in bytes. What is wrong is reported at the first byte that shows it, so the error
    /// does not depend on how the bytes were cut.
    pub(crate) fn parse(bytes: &[u8], rsv1_allowed: bool) -> Result<Option<(Self, usize)>, ProtocolError> {
        let Some(&first) = bytes.first() else {
            return Ok(None);
        };
        let (fin, rsv1) = (first & FIN != 0, first & RSV1 != 0);
        if first & RSV2_RSV3 != 0 || (rsv1 && !rsv1_allowed) {
            return Err(ProtocolError::ReservedBits);
        }
        let opcode = Opcode::from_bits(first & 0x0F).ok_or(ProtocolError::ReservedOpcode)?;
        // RFC 7692 §6.1: the bit marks a message, so it stands on the first frame of data and nowhere else.
        if rsv1 && !matches!(opcode, Opcode::Text | Opcode::Binary) {
            return Err(ProtocolError::ReservedBits);
        }
        if opcode.is_control() && !fin {
            return Err(ProtocolError::FragmentedControl);
        }

        let Some(&second) = bytes.get(1) else {
            return Ok(None);
        };
        if second & MASKED == 0 {
            return Err(ProtocolError::Unmasked);
        }
        let rest = &bytes[2..];
        let (len, key_at) = match second & 0x7F {
            short @ 0..=125 => (Some(u64::from(short)), 2),
            _ if opcode.is_control() => return Err(ProtocolError::ControlTooLong),
            126 => (length_16(rest)?, 4),
            _ => (length_64(rest)?, 10),
        };
        let Some(len) = len else { return Ok(None) };
        let Some(&key) = bytes[key_at..].first_chunk() else {
            return Ok(None);
        };
        Ok(Some((Self { fin, rsv1, opcode, key, len }, key_at + 4)))
    }
}

fn length_16(bytes: &[u8]) -> Result<Option<u64>, ProtocolError> {
    let Some(&length) = bytes.first_chunk() else {
        return Ok(None);
    };
    match u16::from_be_bytes(length) {
        0..126 => Err(ProtocolError::NonMinimalLength),
        length => Ok(Some(u64::from(length))),
    }
}

fn length_64(bytes: &[u8]) -> Result<Option<u64>, ProtocolError> {
    if bytes.first().is_some_and(|&top| top & 0x80 != 0) {
        return Err(ProtocolError::LengthOverflow);
    }
    if bytes.starts_with(&[0; 6]) {
        return Err(ProtocolError::NonMinimalLength);
    }
    Ok(bytes.first_chunk().map(|&length| u64::from_be_bytes(length)))
}

/// Whether a close code may go over the wire: §7.4 and the registry it sets up (1012–1014 came later; 1004,
/// 1005, 1006 and 1015 never do), libraries' 3000–3999, applications' 4000–4999.
pub(crate) fn is_close_code(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

/// Bytes of the header of a server frame that carries `len` bytes.
pub fn header_len(len: usize) -> usize {
    match len {
        0..=125 => 2,
        126..=0xFFFF => 4,
        _ => 10,
    }
}

/// Appends the header of a server frame that carries `len` bytes.
pub(crate) fn write_header(out: &mut Vec<u8>, opcode: Opcode, len: usize) {
    if len <= CONTROL_MAX {
        // Most frames are short: two bytes, and no choice of lengths.
        out.extend_from_slice(&[FIN | opcode as u8, len as u8]);
        return;
    }
    let (header, header_len) = encode_header(opcode, len);
    out.extend_from_slice(&header[..header_len]);
}

fn encode_header(opcode: Opcode, len: usize) -> ([u8; 10], usize) {
    assert!(!opcode.is_control() || len <= CONTROL_MAX, "a control frame carries {CONTROL_MAX} bytes at most");
    let mut header = [0; 10];
    header[0] = FIN | opcode as u8;
    let header_len = header_len(len);
    match header_len {
        2 => header[1] = len as u8,
        4 => {
            header[1] = 126;
            header[2..4].copy_from_slice(&(len as u16).to_be_bytes());
        }
        _ => {
            header[1] = 127;
            header[2..].copy_from_slice(&(len as u64).to_be_bytes());
        }
    }
    (header, header_len)
}

/// The length of a server frame with a payload of `payload` bytes.
pub(crate) fn frame_len(payload: usize) -> usize {
    header_len(payload) + payload
}

/// Appends a whole server frame.
pub fn write_frame(out: &mut Vec<u8>, opcode: Opcode, payload: &[u8]) {
    out.reserve(frame_len(payload.len()));
    write_header(out, opcode, payload.len());
    out.extend_from_slice(payload);
}

/// Appends a text message. That `text` is UTF-8 is the caller's business.
pub fn write_text(out: &mut Vec<u8>, text: &[u8]) {
    write_frame(out, Opcode::Text, text);
}

/// Appends a Close frame; a reason over 123 bytes is cut at a character. To answer a Close that had no code,
/// write a frame with an empty payload instead: no code stands for that on the wire (§7.4.1, 1005).
pub fn write_close(out: &mut Vec<u8>, code: u16, reason: &str) {
    assert!(is_close_code(code), "{code} must not go over the wire");
    let reason = &reason[..reason.floor_char_boundary(CONTROL_MAX - 2)];
    write_header(out, Opcode::Close, 2 + reason.len());
    out.extend_from_slice(&code.to_be_bytes());
    out.extend_from_slice(reason.as_bytes());
}

/// What `begin_text` reserves. JSON envelopes are mostly between 126 bytes and 64 KiB, where it is exact.
pub(crate) const RESERVED: usize = 4;

/// Where a text frame began whose payload is being written in place.
#[derive(Debug)]
#[must_use = "the frame has no header before `end_text`"]
pub struct TextStart(usize);

/// Begins a text frame whose length is not known yet: append the payload to `out`, then call `end_text`.
pub fn begin_text(out: &mut Vec<u8>) -> TextStart {
    let mark = TextStart(out.len());
    out.extend_from_slice(&[0; RESERVED]);
    mark
}

/// Ends the text frame that began at `mark`: writes its header. A payload outside 126–65,535 bytes is moved,
/// 2 bytes down or 6 up: the short ones cost next to nothing, the long ones are rare.
pub fn end_text(out: &mut Vec<u8>, mark: TextStart) {
    let TextStart(start) = mark;
    let payload = start + RESERVED..out.len();
    let (header, header_len) = encode_header(Opcode::Text, payload.len());
    let end = start + header_len + payload.len();
    out.resize(end.max(out.len()), 0);
    if header_len != RESERVED {
        out.copy_within(payload, start + header_len);
    }
    out.truncate(end);
    out[start..start + header_len].copy_from_slice(&header[..header_len]);
}

/// The smallest frame boundary at or after `at` in a stretch of whole server frames: what stands behind it has
/// not begun when `at` bytes were sent, and can be dropped.
pub fn first_boundary(frames: &[u8], at: usize) -> usize {
    assert!(at <= frames.len(), "{at} lies outside {} bytes of frames", frames.len());
    let mut boundary = 0;
    while boundary < at {
        boundary += server_frame_len(&frames[boundary..]);
    }
    assert!(boundary <= frames.len(), "the stretch ends within a frame");
    boundary
}

/// What the server frame `frame`, a whole message, is and carries.
pub fn message(frame: &[u8]) -> (Opcode, &[u8]) {
    assert_eq!(server_frame_len(frame), frame.len(), "not one frame");
    let opcode = Opcode::from_bits(frame[0] & 0x0F).expect("we wrote it");
    let header_bytes = match frame[1] {
        0..=125 => 2,
        126 => 4,
        _ => 10,
    };
    (opcode, &frame[header_bytes..])
}

/// The length of the server frame that `bytes` begin with. We wrote it ourselves, so it is not checked.
fn server_frame_len(bytes: &[u8]) -> usize {
    match bytes[1] {
        short @ 0..=125 => 2 + usize::from(short),
        126 => 4 + usize::from(u16::from_be_bytes([bytes[2], bytes[3]])),
        _ => {
            let mut length = [0; 8];
            length.copy_from_slice(&bytes[2..10]);
            10 + u64::from_be_bytes(length) as usize
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(bytes: &[u8]) -> Result<Option<(FrameHeader, usize)>, ProtocolError> {
        FrameHeader::parse(bytes, false)
    }

    fn client_header(first: u8, len: u64) -> Vec<u8> {
        let mut bytes = vec![first];
        match len {
            0..=125 => bytes.push(0x80 | len as u8),
            126..=0xFFFF => {
                bytes.push(0x80 | 126);
                bytes.extend((len as u16).to_be_bytes());
            }
            _ => {
                bytes.push(0x80 | 127);
                bytes.extend(len.to_be_bytes());
            }
        }
        bytes.extend([1, 2, 3, 4]);
        bytes
    }

    #[test]
    fn every_prefix_of_a_header_asks_for_more() {
        for len in [0, 1, 125, 126, 127, 255, 256, 0xFFFF, 0x1_0000, 1 << 32, 1 << 62, (1 << 63) - 1] {
            for (first, fin, opcode) in [
                (0x00, false, Opcode::Continuation),
                (0x80, true, Opcode::Continuation),
                (0x01, false, Opcode::Text),
                (0x82, true, Opcode::Binary),
            ] {
                let bytes = client_header(first, len);
                for end in 0..bytes.len() {
                    assert_eq!(parse(&bytes[..end]), Ok(None), "{len} cut at {end}");
                }
                let header = FrameHeader { fin, rsv1: false, opcode, key: [1, 2, 3, 4], len };
                assert_eq!(parse(&bytes), Ok(Some((header, bytes.len()))));
                assert_eq!(parse(&[&bytes[..], b"payload"].concat()), Ok(Some((header, bytes.len()))));
                assert!(bytes.len() <= CLIENT_HEADER_MAX);
            }
        }
    }

    #[test]
    fn rfc_examples() {
        // RFC 6455 §5.7.
        let (header, len) = parse(&[0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f]).unwrap().unwrap();
        assert_eq!((header.fin, header.opcode, header.len, len), (true, Opcode::Text, 5, 6));
        assert_eq!(header.key, [0x37, 0xfa, 0x21, 0x3d]);
        let mut out = Vec::new();
        write_text(&mut out, b"Hello");
        assert_eq!(out, [0x81, 0x05, 0x48, 0x65, 0x6c, 0x6c, 0x6f]);
        out.clear();
        write_frame(&mut out, Opcode::Ping, b"Hello");
        assert_eq!(out, [0x89, 0x05, 0x48, 0x65, 0x6c, 0x6c, 0x6f]);
        out.clear();
        write_frame(&mut out, Opcode::Binary, &[7; 256]);
        assert_eq!(out[..4], [0x82, 0x7E, 0x01, 0x00]);
        out.clear();
        write_frame(&mut out, Opcode::Binary, &[7; 65536]);
        assert_eq!(out[..10], [0x82, 0x7F, 0, 0, 0, 0, 0, 1, 0, 0]);
    }

    #[test]
    fn what_is_wrong_shows_at_its_first_byte() {
        use ProtocolError::*;
        // Each sequence is wrong at its last byte and not before.
        let cases: &[(&[u8], ProtocolError)] = &[
            (&[0x91], ReservedBits),
            (&[0xA1], ReservedBits),
            (&[0xC1], ReservedBits),
            (&[0x83], ReservedOpcode),
            (&[0x87], ReservedOpcode),
            (&[0x8B], ReservedOpcode),
            (&[0x8F], ReservedOpcode),
            (&[0x08], FragmentedControl),
            (&[0x09], FragmentedControl),
            (&[0x0A], FragmentedControl),
            (&[0x81, 0x05], Unmasked),
            (&[0x81, 0x7F], Unmasked),
            (&[0x88, 0xFE], ControlTooLong),
            (&[0x89, 0xFF], ControlTooLong),
            (&[0x81, 0xFE, 0x00, 0x7D], NonMinimalLength),
            (&[0x81, 0xFF, 0, 0, 0, 0, 0, 0], NonMinimalLength),
            (&[0x81, 0xFF, 0x80], LengthOverflow),
        ];
        for &(bytes, error) in cases {
            assert_eq!(parse(&bytes[..bytes.len() - 1]), Ok(None), "{bytes:x?}");
            assert_eq!(parse(bytes), Err(error), "{bytes:x?}");
            assert_eq!(parse(&[bytes, &[0xFF; 20]].concat()), Err(error), "{bytes:x?} and more");
        }
    }

    #[test]
    fn rsv1_is_for_the_first_frame_of_data() {
        let (header, _) = FrameHeader::parse(&client_header(0xC1, 3), true).unwrap().unwrap();
        assert!(header.rsv1);
        assert!(FrameHeader::parse(&client_header(0x42, 3), true).is_ok());
        for first in [0xC0, 0xC8, 0xC9, 0xCA, 0xD1, 0xE1] {
            assert_eq!(FrameHeader::parse(&[first], true), Err(ProtocolError::ReservedBits), "{first:x}");
        }
    }

    #[test]
    fn close_codes() {
        let valid = |code| matches!(code, 1000..=1003 | 1007..=1014) || (3000..5000).contains(&code);
        for code in 0..=u16::MAX {
            assert_eq!(is_close_code(code), valid(code), "{code}");
        }
        for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535] {
            assert!(!is_close_code(code), "{code}");
        }
    }

    #[test]
    fn a_close_reason_is_cut_at_a_character() {
        for (reason, kept) in [("", 0), ("bye", 3), (&"x".repeat(200), 123), (&"é".repeat(80), 122)] {
            let mut out = Vec::new();
            write_close(&mut out, 4408, reason);
            assert_eq!(out[..4], [0x88, 2 + kept as u8, 0x11, 0x38]);
            assert_eq!(out[4..], reason.as_bytes()[..kept]);
        }
    }

    #[test]
    #[should_panic(expected = "must not go over the wire")]
    fn a_code_that_must_not_be_sent_is_our_bug() {
        write_close(&mut Vec::new(), 1006, "");
    }

    #[test]
    fn a_text_written_in_place_equals_one_that_was_copied() {
        for len in [0, 1, 2, 124, 125, 126, 127, 128, 0xFFFE, 0xFFFF, 0x1_0000, 0x1_0001, 100_000] {
            let payload: Vec<u8> = (0..len).map(|n| b'a' + (n % 23) as u8).collect();
            let (mut expected, mut out) = (b"before".to_vec(), b"before".to_vec());
            write_text(&mut expected, &payload);
            let mark = begin_text(&mut out);
            out.extend_from_slice(&payload);
            end_text(&mut out, mark);
            assert_eq!(out, expected, "{len}");
            assert_eq!(out.len(), 6 + header_len(len) + len);
        }
    }

    #[test]
    fn a_message_is_told_from_its_frame() {
        for len in [0, 5, 125, 126, 300, 0xFFFF, 0x1_0000] {
            for opcode in [Opcode::Text, Opcode::Binary] {
                let (payload, mut frame) = (vec![0x7E; len], Vec::new());
                write_frame(&mut frame, opcode, &payload);
                assert_eq!(message(&frame), (opcode, &payload[..]));
            }
        }
    }

    #[test]
    fn boundaries_at_every_byte() {
        let mut frames = Vec::new();
        let mut boundaries = vec![0];
        for len in [0, 5, 125, 126, 300, 0xFFFF, 0x1_0000, 1] {
            write_text(&mut frames, &vec![0x81; len]);
            boundaries.push(frames.len());
        }
        for at in 0..=frames.len() {
            let expected = boundaries.iter().copied().find(|&boundary| boundary >= at).unwrap();
            assert_eq!(first_boundary(&frames, at), expected, "{at}");
        }
        assert_eq!(first_boundary(&[], 0), 0);
    }

    #[test]
    fn errors_are_small_and_fit_a_close_frame() {
        use ProtocolError::*;
        assert!(size_of::<ProtocolError>() <= 8);
        for error in [ReservedBits, NonMinimalLength, UnexpectedContinuation, InterleavedMessage, ClosePayload] {
            assert!(error.to_string().len() <= 123);
            assert_eq!(error.close_code(), 1002);
        }
        for error in [FrameTooBig, MessageTooBig, InflatedTooBig] {
            assert_eq!(error.close_code(), 1009);
        }
        assert_eq!((InvalidUtf8.close_code(), InvalidDeflate.close_code()), (1007, 1007));
    }
}
