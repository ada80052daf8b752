//! The WebSocket frame codec of a client: bytes to headers, payloads to masked frames (RFC 6455, section 5).
//!
//! Knows no sockets and keeps no state. Written for a receiver that sees millions of small frames a second,
//! so parsing a header touches two bytes in the usual case and copies nothing.
//! Called by `client`, which owns the buffers.

use thiserror::Error;

/// What a frame is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Opcode {
    /// More of a fragmented message.
    Continuation = 0,
    /// A text message.
    Text = 1,
    /// A binary message.
    Binary = 2,
    /// The end of the connection, with a code.
    Close = 8,
    /// A question for a sign of life.
    Ping = 9,
    /// The answer to it.
    Pong = 10,
}

impl Opcode {
    fn from_bits(bits: u8) -> Option<Self> {
        Some(match bits {
            0 => Self::Continuation,
            1 => Self::Text,
            2 => Self::Binary,
            8 => Self::Close,
            9 => Self::Ping,
            10 => Self::Pong,
            _ => return None,
        })
    }

    /// Close, ping and pong: never fragmented, at most 125 bytes.
    pub fn is_control(self) -> bool {
        self as u8 >= 8
    }
}

/// How a server broke the framing rules.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum FrameError {
    /// RSV bits are set that no extension was negotiated for.
    #[error("a frame with reserved bits set that were not negotiated")]
    ReservedBits,
    /// An opcode that RFC 6455 doesn't define.
    #[error("a frame with unknown opcode {0}")]
    UnknownOpcode(u8),
    /// Servers must not mask.
    #[error("a masked frame from the server")]
    Masked,
    /// A control frame that is fragmented or longer than 125 bytes.
    #[error("a fragmented or oversized control frame")]
    BadControl,
    /// A length that could have been written shorter.
    #[error("a frame length that is not in its shortest form")]
    LengthForm,
    /// More than this client takes.
    #[error("a message of {0} bytes, more than the {MAX_MESSAGE} that are taken")]
    TooLong(u64),
    /// A continuation without a beginning.
    #[error("a continuation frame without a beginning")]
    StrayContinuation,
    /// A new message inside a fragmented one.
    #[error("a new message inside a fragmented one")]
    Interleaved,
}

/// The bit of a compressed message in its first frame.
const RSV1: u8 = 0x40;

/// The longest message that is taken from a server.
pub const MAX_MESSAGE: usize = 64 << 20;

/// A parsed frame header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The last (or only) frame of its message.
    pub fin: bool,
    /// RSV1: its message is compressed (RFC 7692, section 6). Only on the first frame of one.
    pub compressed: bool,
    /// What the frame is for.
    pub opcode: Opcode,
    /// Bytes of header in front of the payload.
    pub header_len: usize,
    /// Bytes of payload.
    pub payload_len: usize,
}

/// Reads the header at the start of `bytes`; `None` means that more bytes are needed.
#[inline]
pub fn parse(bytes: &[u8]) -> Result<Option<Header>, FrameError> {
    let [first, second, rest @ ..] = bytes else {
        return Ok(None);
    };
    let fin = first & 0x80 != 0;
    let compressed = first & RSV1 != 0;
    if first & 0x30 != 0 {
        return Err(FrameError::ReservedBits);
    }
    let opcode = Opcode::from_bits(first & 0x0f).ok_or(FrameError::UnknownOpcode(first & 0x0f))?;
    if compressed && !matches!(opcode, Opcode::Text | Opcode::Binary) {
        return Err(FrameError::ReservedBits);
    }
    if second & 0x80 != 0 {
        return Err(FrameError::Masked);
    }
    if opcode.is_control() && (!fin || *second > 125) {
        return Err(FrameError::BadControl);
    }
    let (header_len, payload_len) = match second {
        126 => {
            let Some(length) = rest.first_chunk::<2>() else {
                return Ok(None);
            };
            let length = usize::from(u16::from_be_bytes(*length));
            if length < 126 {
                return Err(FrameError::LengthForm);
            }
            (4, length)
        }
        127 => {
            let Some(length) = rest.first_chunk::<8>() else {
                return Ok(None);
            };
            let length = u64::from_be_bytes(*length);
            if length < 1 << 16 {
                return Err(FrameError::LengthForm);
            }
            if length > MAX_MESSAGE as u64 {
                return Err(FrameError::TooLong(length));
            }
            (10, length as usize)
        }
        short => (2, usize::from(*short)),
    };
    Ok(Some(Header { fin, compressed, opcode, header_len, payload_len }))
}

/// Appends one whole masked frame to `out`.
pub fn append(out: &mut Vec<u8>, opcode: Opcode, payload: &[u8], key: u32) {
    append_with(out, 0x80 | opcode as u8, payload, key);
}

/// The same for a message that is compressed.
pub fn append_compressed(out: &mut Vec<u8>, opcode: Opcode, payload: &[u8], key: u32) {
    append_with(out, 0x80 | RSV1 | opcode as u8, payload, key);
}

fn append_with(out: &mut Vec<u8>, first: u8, payload: &[u8], key: u32) {
    out.push(first);
    match payload.len() {
        length @ 0..=125 => out.push(0x80 | length as u8),
        length @ 126..=0xffff => {
            out.push(0x80 | 126);
            out.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            out.push(0x80 | 127);
            out.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(&key.to_ne_bytes());
    let start = out.len();
    out.extend_from_slice(payload);
    mask(&mut out[start..], key);
}

/// The payload of an unmasked frame that is `frame` bytes long in all.
pub fn payload_of(frame: usize) -> usize {
    match frame {
        0..=127 => frame.saturating_sub(2),
        128..=65_539 => frame - 4,
        _ => frame - 10,
    }
}

/// Exclusive-ors `bytes` with the four bytes of `key`, over and over (RFC 6455, section 5.3).
pub fn mask(bytes: &mut [u8], key: u32) {
    let wide = u64::from(key) | u64::from(key) << 32;
    let mut words = bytes.chunks_exact_mut(8);
    for word in &mut words {
        let mut value = [0; 8];
        value.copy_from_slice(word);
        word.copy_from_slice(&(u64::from_ne_bytes(value) ^ wide).to_ne_bytes());
    }
    for (byte, key) in words.into_remainder().iter_mut().zip(wide.to_ne_bytes()) {
        *byte ^= key;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server_frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut out = vec![first];
        match payload.len() {
            n @ 0..=125 => out.push(n as u8),
            n @ 126..=0xffff => {
                out.push(126);
                out.extend((n as u16).to_be_bytes());
            }
            n => {
                out.push(127);
                out.extend((n as u64).to_be_bytes());
            }
        }
        out.extend(payload);
        out
    }

    #[test]
    fn a_header_is_found_only_when_all_of_it_is_there() {
        for (length, header_len) in [(0, 2), (125, 2), (126, 4), (65_535, 4), (65_536, 10), (70_000, 10)] {
            let bytes = server_frame(0x82, &vec![7; length]);
            for cut in 0..header_len {
                assert_eq!(parse(&bytes[..cut]), Ok(None), "{length} cut at {cut}");
            }
            let header = parse(&bytes[..header_len]).unwrap().unwrap();
            assert_eq!(
                header,
                Header { fin: true, compressed: false, opcode: Opcode::Binary, header_len, payload_len: length }
            );
        }
    }

    #[test]
    fn breaches_are_named() {
        assert!(parse(&[0xc1, 0]).is_ok_and(|header| header.is_some_and(|header| header.compressed)));
        for first in [0xa1, 0x91, 0xc0, 0xc8, 0xc9] {
            assert_eq!(parse(&[first, 0]), Err(FrameError::ReservedBits), "{first:x}");
        }
        assert_eq!(parse(&[0x83, 0]), Err(FrameError::UnknownOpcode(3)));
        assert_eq!(parse(&[0x81, 0x80]), Err(FrameError::Masked));
        assert_eq!(parse(&[0x09, 0]), Err(FrameError::BadControl));
        assert_eq!(parse(&[0x89, 126]), Err(FrameError::BadControl));
        assert_eq!(parse(&[0x81, 126, 0, 125]), Err(FrameError::LengthForm));
        assert_eq!(parse(&[0x81, 127, 0, 0, 0, 0, 0, 0, 255, 255]), Err(FrameError::LengthForm));
        assert!(matches!(parse(&[0x81, 127, 127, 0, 0, 0, 0, 0, 0, 0]), Err(FrameError::TooLong(_))));
    }

    #[test]
    fn masking_agrees_with_the_byte_by_byte_rule_and_undoes_itself() {
        let key = u32::from_ne_bytes([1, 0x7f, 0x80, 0xfe]);
        for length in 0..70 {
            let plain: Vec<u8> = (0..length).map(|i| i as u8 ^ 0x5a).collect();
            let naive: Vec<u8> = plain.iter().enumerate().map(|(i, b)| b ^ key.to_ne_bytes()[i % 4]).collect();
            let mut masked = plain.clone();
            mask(&mut masked, key);
            assert_eq!(masked, naive);
            mask(&mut masked, key);
            assert_eq!(masked, plain);
        }
    }

    #[test]
    fn an_appended_frame_is_masked_and_has_the_shortest_length() {
        for length in [0, 1, 125, 126, 65_535, 65_536] {
            let payload = vec![b'x'; length];
            let mut out = Vec::new();
            append(&mut out, Opcode::Text, &payload, 0x1234_5678);
            let header = match length {
                0..=125 => 2,
                126..=65_535 => 4,
                _ => 10,
            };
            assert_eq!(out.len(), header + 4 + length);
            assert_eq!(out[0], 0x81);
            assert!(out[1] & 0x80 != 0);
            let mut body = out[header + 4..].to_vec();
            mask(&mut body, 0x1234_5678);
            assert_eq!(body, payload);
            assert_eq!(payload_of(header + length), length);
        }
    }
}
