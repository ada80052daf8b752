//! A client of plain TCP, for the bytes that a proper one would never send and for those that it would not show:
//! upgrade requests, frames, plain HTTP. Each wait has a deadline.

use std::fmt::Write as _;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{DEADLINE, Server};

/// Plain TCP, for what a proper client would not send.
pub struct Raw {
    pub tcp: TcpStream,
    pub received: Vec<u8>,
}

/// What an HTTP request was answered with.
#[derive(Debug)]
pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, String)>,
}

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

/// A frame as it came over the wire.
#[derive(Debug, PartialEq, Eq)]
pub struct RawFrame {
    pub opcode: u8,
    pub fin: bool,
    pub payload: Vec<u8>,
}

impl RawFrame {
    pub fn close_code(&self) -> u16 {
        assert_eq!(self.opcode, 8, "not a close: {self:?}");
        u16::from_be_bytes([self.payload[0], self.payload[1]])
    }
}

pub const SAMPLE_KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
pub const SAMPLE_ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// A good upgrade request with some headers put in, replaced, or (with an empty value) left out.
pub fn request(server: &Server, path: &str, changes: &[(&str, &str)]) -> String {
    let host = server.addr.to_string();
    let mut headers = vec![
        ("Host", host.as_str()),
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Key", SAMPLE_KEY),
        ("Sec-WebSocket-Version", "13"),
    ];
    for &(name, value) in changes {
        match headers.iter_mut().find(|(known, _)| *known == name) {
            Some(header) => header.1 = value,
            None => headers.push((name, value)),
        }
    }
    let mut text = format!("GET {path} HTTP/1.1\r\n");
    for (name, value) in headers.into_iter().filter(|(_, value)| !value.is_empty()) {
        let _ = write!(text, "{name}: {value}\r\n");
    }
    text + "\r\n"
}

/// A masked client frame.
pub fn frame(fin: bool, opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [0x37, 0xfa, 0x21, 0x3d];
    let mut bytes = vec![u8::from(fin) << 7 | opcode];
    match payload.len() {
        n @ 0..126 => bytes.push(0x80 | n as u8),
        n @ 126..65_536 => {
            bytes.push(0x80 | 126);
            bytes.extend_from_slice(&(n as u16).to_be_bytes());
        }
        n => {
            bytes.push(0x80 | 127);
            bytes.extend_from_slice(&(n as u64).to_be_bytes());
        }
    }
    bytes.extend_from_slice(&mask);
    bytes.extend(payload.iter().enumerate().map(|(n, byte)| byte ^ mask[n % 4]));
    bytes
}

impl Raw {
    pub async fn connect(server: &Server) -> Self {
        let tcp = timeout(DEADLINE, TcpStream::connect(server.addr)).await.expect("in time").expect("connects");
        tcp.set_nodelay(true).expect("nodelay");
        Self { tcp, received: Vec::new() }
    }

    /// Connects and upgrades.
    pub async fn upgraded(server: &Server, path: &str) -> Self {
        let mut raw = Self::connect(server).await;
        raw.write(request(server, path, &[]).as_bytes()).await;
        let response = raw.response().await;
        assert_eq!(response.status, 101, "{response:?}");
        raw
    }

    pub async fn write(&mut self, bytes: &[u8]) {
        timeout(DEADLINE, self.tcp.write_all(bytes)).await.expect("in time").expect("writes");
    }

    /// Reads once more; false at the end of the stream (a reset counts as that).
    async fn more(&mut self) -> bool {
        let read = timeout(DEADLINE, self.tcp.read_buf(&mut self.received)).await.expect("an answer in time");
        matches!(read, Ok(1..))
    }

    pub async fn response(&mut self) -> Response {
        let end = loop {
            if let Some(at) = self.received.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            assert!(self.more().await, "cut before an answer: {:?}", String::from_utf8_lossy(&self.received));
        };
        let head: Vec<u8> = self.received.drain(..end).collect();
        let head = String::from_utf8(head).expect("text");
        let mut lines = head.trim_end().split("\r\n");
        let status = lines.next().expect("a status line");
        let mut words = status.splitn(3, ' ');
        assert_eq!(words.next(), Some("HTTP/1.1"), "{status}");
        let status = words.next().and_then(|code| code.parse().ok()).expect("a status code");
        let headers = lines.map(|line| {
            let (name, value) = line.split_once(':').unwrap_or_else(|| panic!("not a header: {line:?}"));
            (name.to_owned(), value.trim().to_owned())
        });
        Response { status, headers: headers.collect() }
    }

    /// The rest of the stream, up to its end.
    pub async fn rest(&mut self) -> Vec<u8> {
        while self.more().await {}
        std::mem::take(&mut self.received)
    }

    /// The next frame; none at the end of the stream.
    pub async fn frame(&mut self) -> Option<RawFrame> {
        loop {
            if let Some((frame, used)) = parse_frame(&self.received) {
                self.received.drain(..used);
                return Some(frame);
            }
            if !self.more().await {
                return None;
            }
        }
    }

    /// The next frame, which must be a close with this code; then the stream ends.
    pub async fn closed(&mut self, code: u16) {
        let frame = self.frame().await.expect("a close frame");
        assert_eq!(frame.close_code(), code, "{:?}", String::from_utf8_lossy(&frame.payload[2..]));
        let _ = self.tcp.write_all(&super::frame(true, 8, &code.to_be_bytes())).await;
        assert_eq!(self.frame().await, None, "a frame after the close");
    }

    /// The next frame as JSON text.
    pub async fn json(&mut self) -> Value {
        let frame = self.frame().await.expect("a frame");
        assert_eq!(frame.opcode, 1, "{frame:?}");
        serde_json::from_slice(&frame.payload).expect("JSON")
    }
}

fn parse_frame(bytes: &[u8]) -> Option<(RawFrame, usize)> {
    let (&first, &second) = (bytes.first()?, bytes.get(1)?);
    assert_eq!(second & 0x80, 0, "a server must not mask");
    assert_eq!(first & 0x70, 0, "no extension was agreed on");
    let (length, start) = match second {
        126 => (usize::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?)), 4),
        127 => (usize::try_from(u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?)).ok()?, 10),
        short => (usize::from(short), 2),
    };
    let payload = bytes.get(start..start + length)?.to_vec();
    Some((RawFrame { opcode: first & 0x0f, fin: first & 0x80 != 0, payload }, start + length))
}

/// All frames of a stream that has ended.
pub fn frames(bytes: &[u8]) -> Vec<RawFrame> {
    let (frames, rest) = split(bytes);
    assert!(rest.is_empty(), "{} bytes of a frame that was cut", rest.len());
    frames
}

/// The whole frames of a stream that was cut anywhere.
pub fn whole_frames(bytes: &[u8]) -> Vec<RawFrame> {
    split(bytes).0
}

fn split(mut bytes: &[u8]) -> (Vec<RawFrame>, &[u8]) {
    let mut frames = Vec::new();
    while let Some((frame, used)) = parse_frame(bytes) {
        frames.push(frame);
        bytes = &bytes[used..];
    }
    (frames, bytes)
}

/// One plain HTTP request on a connection of its own, from the first byte to the last.
pub async fn http(server: &Server, request: &str) -> (Response, String) {
    let mut raw = Raw::connect(server).await;
    raw.write(request.as_bytes()).await;
    let response = raw.response().await;
    let length = response.header("content-length").and_then(|text| text.parse::<usize>().ok());
    let body = match length {
        Some(length) => {
            while raw.received.len() < length {
                assert!(raw.more().await, "the body was cut");
            }
            raw.received.drain(..length).collect()
        }
        None => raw.rest().await,
    };
    (response, String::from_utf8(body).expect("text"))
}
