//! The client's end of the wire, written byte by byte from RFC 6455 without a look at the server's codec: what a
//! client sends, and what it makes of the bytes that reach it. Stricter than a browser: whatever a server must
//! not send is an error here.

use crate::deflate::{self, Inflater};
use crate::dice::Dice;

pub const TEXT: u8 = 1;
pub const CLOSE: u8 = 8;
pub const PING: u8 = 9;
pub const PONG: u8 = 10;
/// The message is compressed (RFC 7692 §6).
const RSV1: u8 = 0x40;

/// §1.3: a key and the answer that it has to get.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// With an offer of compression, if it isn't empty.
pub fn upgrade_request(offer: &str) -> Vec<u8> {
    let offer = if offer.is_empty() { String::new() } else { format!("Sec-WebSocket-Extensions: {offer}\r\n") };
    format!(
        "GET /ws HTTP/1.1\r\nHost: sim\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: {KEY}\r\n{offer}\r\n"
    )
    .into_bytes()
}

/// A masked frame.
pub fn frame(opcode: u8, fin: bool, payload: &[u8], dice: &mut Dice) -> Vec<u8> {
    let mut out = vec![opcode | if fin { 0x80 } else { 0 }];
    match payload.len() {
        short @ 0..126 => out.push(0x80 | short as u8),
        medium @ 126..65_536 => {
            out.push(0x80 | 126);
            out.extend((medium as u16).to_be_bytes());
        }
        long => {
            out.push(0x80 | 127);
            out.extend((long as u64).to_be_bytes());
        }
    }
    let key = (dice.throw() as u32).to_be_bytes();
    out.extend(key);
    out.extend(payload.iter().enumerate().map(|(at, byte)| byte ^ key[at % 4]));
    out
}

/// A text message, sometimes in fragments with a ping between them, sometimes compressed if it may be.
pub fn message(text: &str, deflates: bool, dice: &mut Dice) -> Vec<u8> {
    let compressed = (deflates && dice.once_in(2)).then(|| deflate::compress(text.as_bytes()));
    let opcode = if compressed.is_some() { TEXT | RSV1 } else { TEXT };
    let bytes = compressed.as_deref().unwrap_or(text.as_bytes());
    if !dice.once_in(6) || bytes.len() < 2 {
        return frame(opcode, true, bytes, dice);
    }
    let (first, rest) = bytes.split_at(dice.below(bytes.len()));
    let mut out = frame(opcode, false, first, dice);
    if dice.once_in(2) {
        out.extend(frame(PING, true, b"between", dice));
    }
    out.extend(frame(0, true, rest, dice));
    out
}

/// A Close with a code, or an empty one.
pub fn close(code: Option<u16>, dice: &mut Dice) -> Vec<u8> {
    let payload = code.map(|code| code.to_be_bytes().to_vec()).unwrap_or_default();
    frame(CLOSE, true, &payload, dice)
}

/// What a client makes of the server's bytes.
#[derive(Debug, PartialEq)]
pub enum Heard {
    Text(String),
    Ping(Vec<u8>),
    Pong,
    Close(Option<u16>),
}

/// Reads the server's stream.
#[derive(Debug, Default)]
pub struct Ear {
    buffer: Vec<u8>,
    upgraded: bool,
    closed: bool,
    inflater: Option<Inflater>,
    /// Messages that came compressed.
    pub inflated: usize,
}

impl Ear {
    /// Whether the server has agreed to speak WebSocket.
    pub fn is_upgraded(&self) -> bool {
        self.upgraded
    }

    /// Whether compression was agreed on.
    pub fn deflates(&self) -> bool {
        self.inflater.is_some()
    }

    /// Whether the bytes so far end with a whole frame.
    pub fn is_at_boundary(&self) -> bool {
        self.buffer.is_empty()
    }

    pub fn feed(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next frame, if it is there whole.
    pub fn next(&mut self) -> Result<Option<Heard>, String> {
        if !self.upgraded && !self.read_head()? {
            return Ok(None);
        }
        let Some((opcode, payload)) = self.take_frame()? else { return Ok(None) };
        let (opcode, payload) = self.inflate(opcode, payload)?;
        if self.closed {
            return Err("a frame after Close".into());
        }
        let heard = match opcode {
            TEXT => Heard::Text(String::from_utf8(payload).map_err(|_| "a text that is not UTF-8")?),
            CLOSE => {
                self.closed = true;
                Heard::Close(close_code(&payload)?)
            }
            PING => Heard::Ping(payload),
            PONG => Heard::Pong,
            other => return Err(format!("opcode {other}")),
        };
        Ok(Some(heard))
    }

    fn inflate(&mut self, opcode: u8, payload: Vec<u8>) -> Result<(u8, Vec<u8>), String> {
        match &mut self.inflater {
            Some(inflater) if opcode == TEXT | RSV1 => {
                self.inflated += 1;
                Ok((TEXT, inflater.inflate(&payload)?))
            }
            _ => Ok((opcode, payload)),
        }
    }

    fn read_head(&mut self) -> Result<bool, String> {
        let Some(end) = self.buffer.windows(4).position(|four| four == b"\r\n\r\n") else {
            return Ok(false);
        };
        let head: Vec<u8> = self.buffer.drain(..end + 4).collect();
        let head = String::from_utf8(head).map_err(|_| "a head that is not text")?;
        if !head.starts_with("HTTP/1.1 101 ") || !head.contains(ACCEPT) {
            return Err(format!("not an upgrade: {head:?}"));
        }
        self.inflater = Inflater::agreed(&head);
        self.upgraded = true;
        Ok(true)
    }

    fn take_frame(&mut self) -> Result<Option<(u8, Vec<u8>)>, String> {
        let [first, second, ..] = self.buffer[..] else { return Ok(None) };
        if first & 0xb0 != 0x80 || second & 0x80 != 0 {
            return Err(format!("no server frame begins with {first:02x} {second:02x}"));
        }
        let opcode = first & 0x4f;
        let extended = match second {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        if opcode & 0x0f >= CLOSE && extended > 0 {
            return Err("a control frame over 125 bytes".into());
        }
        let Some(number) = self.buffer.get(2..2 + extended) else { return Ok(None) };
        let length = match extended {
            0 => usize::from(second),
            _ => number.iter().fold(0usize, |sum, &byte| (sum << 8) | usize::from(byte)),
        };
        let least = [0, 0, 126, 0, 0, 0, 0, 0, 65_536][extended];
        if length < least || length > 1 << 24 {
            return Err(format!("a frame of {length} bytes, its length written in {extended}"));
        }
        let start = 2 + extended;
        if self.buffer.len() < start + length {
            return Ok(None);
        }
        let payload = self.buffer[start..start + length].to_vec();
        self.buffer.drain(..start + length);
        Ok(Some((opcode, payload)))
    }
}

fn close_code(payload: &[u8]) -> Result<Option<u16>, String> {
    match payload {
        [] => Ok(None),
        [a, b, reason @ ..] if std::str::from_utf8(reason).is_ok() => Ok(Some(u16::from_be_bytes([*a, *b]))),
        _ => Err("a malformed Close".into()),
    }
}
