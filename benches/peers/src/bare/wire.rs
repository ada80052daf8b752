//! As much of RFC 6455 as the floor needs: the upgrade, whole masked frames in, unmasked frames out. Fragments,
//! extensions and the check of UTF-8 are left out on purpose. Pure: it knows no socket.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha1::{Digest as _, Sha1};

use crate::Route;

const REQUEST_BYTES_MAX: usize = 8 * 1024;
const HEADERS_MAX: usize = 32;
const PAYLOAD_BYTES_MAX: usize = 1024 * 1024;
/// RFC 6455 section 1.3.
const ACCEPT_GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

const FINAL: u8 = 0x80;
const MASKED: u8 = 0x80;
const TEXT: u8 = 0x1;
const BINARY: u8 = 0x2;
const CLOSE: u8 = 0x8;
const PONG: u8 = 0xA;

/// What became of the begin of a connection.
#[derive(Debug, PartialEq)]
pub enum Upgrade {
    Partial,
    Refused(String),
    Accepted { route: Route, length: usize, answer: String },
}

/// RFC 6455 section 4.2, as far as a load generator needs it.
pub fn upgrade(bytes: &[u8]) -> Upgrade {
    let refused = |status: &str| Upgrade::Refused(format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n"));
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    let length = match request.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) if bytes.len() < REQUEST_BYTES_MAX => return Upgrade::Partial,
        Ok(httparse::Status::Partial) | Err(_) => return refused("400 Bad Request"),
    };
    let Some(route) = request.path.and_then(Route::of) else { return refused("404 Not Found") };
    let key = request.headers.iter().find(|header| header.name.eq_ignore_ascii_case("sec-websocket-key"));
    let Some(key) = key else { return refused("400 Bad Request") };
    let accept = STANDARD.encode(Sha1::new().chain_update(key.value).chain_update(ACCEPT_GUID).finalize());
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\
         sec-websocket-accept: {accept}\r\n\r\n"
    );
    Upgrade::Accepted { route, length, answer }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Data,
    Ping,
    Pong,
    Close,
}

/// A whole frame, unmasked.
#[derive(Debug, PartialEq)]
pub struct Frame<'a> {
    pub kind: Kind,
    first: u8,
    payload: &'a [u8],
}

/// A frame that the floor doesn't take, with its close code of RFC 6455 section 7.4.1.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("a frame of a client must be masked and a control frame short and whole")]
    Protocol,
    #[error("the floor takes no fragments")]
    Fragment,
    #[error("a payload is at most {PAYLOAD_BYTES_MAX} bytes")]
    TooBig,
}

impl Refused {
    pub fn close(&self) -> Frame<'static> {
        let payload = match self {
            Self::Protocol => &[0x03, 0xEA],
            Self::Fragment => &[0x03, 0xEB],
            Self::TooBig => &[0x03, 0xF1],
        };
        Frame { kind: Kind::Close, first: FINAL | CLOSE, payload }
    }
}

/// The frame at the begin of `bytes`, unmasked in place, and its length on the wire; none if it isn't whole yet.
pub fn next(bytes: &mut [u8]) -> Result<Option<(Frame<'_>, usize)>, Refused> {
    let &[first, second, ..] = &*bytes else { return Ok(None) };
    let kind = match first {
        0x81 | 0x82 => Kind::Data,
        0x88 => Kind::Close,
        0x89 => Kind::Ping,
        0x8A => Kind::Pong,
        0x00 | TEXT | BINARY | FINAL => return Err(Refused::Fragment),
        _ => return Err(Refused::Protocol),
    };
    if second & MASKED == 0 || (kind != Kind::Data && second & !MASKED > 125) {
        return Err(Refused::Protocol);
    }
    let (length, head) = match second & !MASKED {
        126 => match bytes.get(2..4) {
            Some(length) => (length.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)), 4),
            None => return Ok(None),
        },
        127 => match bytes.get(2..10) {
            Some(length) => (length.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)), 10),
            None => return Ok(None),
        },
        short => (u64::from(short), 2),
    };
    let length = usize::try_from(length).ok().filter(|length| *length <= PAYLOAD_BYTES_MAX).ok_or(Refused::TooBig)?;
    let (start, end) = (head + 4, head + 4 + length);
    let Some(whole) = bytes.get_mut(head..end) else { return Ok(None) };
    let (mask, payload) = whole.split_at_mut(start - head);
    for chunk in payload.chunks_mut(4) {
        for (byte, mask) in chunk.iter_mut().zip(&*mask) {
            *byte ^= mask;
        }
    }
    Ok(Some((Frame { kind, first, payload }, end)))
}

impl<'a> Frame<'a> {
    /// Appends the frame as a server sends it.
    pub fn put(&self, out: &mut Vec<u8>) {
        out.push(self.first);
        match self.payload.len() {
            short @ 0..=125 => out.push(short as u8),
            middle @ 126..=0xFFFF => {
                out.push(126);
                out.extend_from_slice(&(middle as u16).to_be_bytes());
            }
            long => {
                out.push(127);
                out.extend_from_slice(&(long as u64).to_be_bytes());
            }
        }
        out.extend_from_slice(self.payload);
    }

    /// The answer to a ping.
    pub fn pong(&self) -> Frame<'a> {
        Frame { kind: Kind::Pong, first: FINAL | PONG, payload: self.payload }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![first];
        match payload.len() {
            short @ 0..=125 => frame.push(MASKED | short as u8),
            middle @ 126..=0xFFFF => {
                frame.push(MASKED | 126);
                frame.extend((middle as u16).to_be_bytes());
            }
            long => {
                frame.push(MASKED | 127);
                frame.extend((long as u64).to_be_bytes());
            }
        }
        let mask = [1, 2, 3, 4];
        frame.extend(mask);
        frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        frame
    }

    #[test]
    fn every_length_survives_and_no_prefix_is_a_frame() {
        for length in [0, 1, 5, 125, 126, 127, 0xFFFF, 0x1_0000] {
            let payload: Vec<u8> = (0..length).map(|byte| byte as u8).collect();
            let wire = masked(FINAL | TEXT, &payload);
            let step = 1 + wire.len() / 64;
            for cut in (0..wire.len()).step_by(step) {
                assert_eq!(next(&mut wire[..cut].to_vec()), Ok(None), "{cut} of {length}");
            }
            let mut two = [&wire[..], &wire[..]].concat();
            let (frame, used) = next(&mut two).expect("a frame").expect("whole");
            assert_eq!((frame.kind, frame.payload, used), (Kind::Data, &payload[..], wire.len()));
            let mut out = Vec::new();
            frame.put(&mut out);
            assert_eq!(out.len(), wire.len() - 4);
            assert!(out.ends_with(&payload));
        }
    }

    #[test]
    fn what_the_floor_leaves_out_is_refused() {
        assert_eq!(next(&mut [FINAL | TEXT, 1, b'x']), Err(Refused::Protocol), "unmasked");
        assert_eq!(next(&mut masked(TEXT, b"x")), Err(Refused::Fragment));
        assert_eq!(next(&mut masked(0x89, &[0; 126])), Err(Refused::Protocol));
        assert_eq!(next(&mut masked(0xC1, b"x")), Err(Refused::Protocol), "compressed");
        assert_eq!(next(&mut [FINAL | TEXT, MASKED | 127, 1, 0, 0, 0, 0, 0, 0, 0]), Err(Refused::TooBig));
    }

    #[test]
    fn the_upgrade_of_the_rfc() {
        let request = b"GET /echo HTTP/1.1\r\nhost: x\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\nrest";
        let Upgrade::Accepted { route, length, answer } = upgrade(request) else { panic!("accepted") };
        assert_eq!((route, length), (Route::Echo, request.len() - 4));
        assert!(answer.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{answer}");
        assert_eq!(upgrade(&request[..30]), Upgrade::Partial);
        assert!(matches!(upgrade(b"GET /other HTTP/1.1\r\n\r\n"), Upgrade::Refused(answer) if answer.contains("404")));
        assert!(matches!(upgrade(b"GET /echo HTTP/1.1\r\n\r\n"), Upgrade::Refused(answer) if answer.contains("400")));
    }
}
