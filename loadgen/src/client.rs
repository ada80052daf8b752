//! One connection as a client sees it, WebSocket or event stream: its socket, the upgrade, the bytes that wait to be
//! sent and the part of a frame or event that has not arrived whole.
//!
//! Knows no epoll and nothing of what the messages mean. A connection that waits holds no receive buffer:
//! the engine lends one per thread and only a partial frame stays here.
//! Called by `engine`.

use std::cell::RefCell;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::rc::Rc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustix::io::Errno;
use rustix::net::{self, AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, ipproto, sockopt};
use thiserror::Error;

use crate::deflate::{Agreed, Compressors, Inflater, Offer};
use crate::events;
use crate::frame::{self, FrameError, MAX_MESSAGE, Opcode};
use crate::http;
use crate::random::Random;
use crate::target::Target;
use crate::upgrade::{EXTENSIONS, MAX_RESPONSE, accept_key, read_response};

/// The least room that a `recv` is given.
const RECEIVE_ROOM: usize = 64 << 10;

/// Why a connection came to its end.
#[derive(Debug, Error)]
pub enum Ended {
    /// The server's framing is wrong.
    #[error("the server broke the protocol: {0}")]
    Frame(#[from] FrameError),
    /// The server's compression is wrong.
    #[error("the server broke permessage-deflate: {0}")]
    Deflate(String),
    /// The socket failed.
    #[error("{0}: {1}")]
    Socket(&'static str, io::Error),
    /// The stream ended without a close frame.
    #[error("the server cut the connection")]
    Cut,
    /// The server sent a close frame.
    #[error("the server closed with {0} {1}")]
    Closed(u16, String),
    /// The upgrade was refused.
    #[error("upgrade refused: {0}")]
    Refused(String),
    /// The event stream was refused.
    #[error("event stream refused: {0}")]
    StreamRefused(String),
    /// An answer to a request is not the HTTP that is read here.
    #[error("bad answer: {0}")]
    Answer(String),
    /// Signing in failed.
    #[error("sign-in failed: {0}")]
    SignIn(String),
    /// Something that was waited for did not come.
    #[error("no {0} within the time limit")]
    Late(&'static str),
}

impl Ended {
    /// The socket call `what` failed with `errno`.
    pub fn socket(what: &'static str, errno: Errno) -> Self {
        Self::Socket(what, errno.into())
    }
}

/// Bytes that wait to be sent.
#[derive(Default)]
pub struct Outgoing {
    bytes: Vec<u8>,
    sent: usize,
    packing: Option<Packing>,
}

/// How a connection's messages are compressed.
struct Packing {
    /// The thread's.
    compressors: Rc<RefCell<Compressors>>,
    window_bits: u8,
    /// Messages of this size and longer, in bytes.
    above: usize,
}

impl Outgoing {
    /// Nothing waits.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Bytes that wait.
    pub fn len(&self) -> usize {
        self.bytes.len() - self.sent
    }

    /// Appends one masked frame.
    pub fn frame(&mut self, opcode: Opcode, payload: &[u8], key: u32) {
        if let Some(packing) = &self.packing
            && payload.len() >= packing.above
            && !opcode.is_control()
            && let Some(body) = packing.compressors.borrow_mut().message(payload, packing.window_bits)
        {
            return frame::append_compressed(&mut self.bytes, opcode, body, key);
        }
        frame::append(&mut self.bytes, opcode, payload, key);
    }

    /// Appends bytes as they are: an HTTP request.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    fn flush(&mut self, socket: &OwnedFd) -> Result<usize, Ended> {
        let mut total = 0;
        while self.sent < self.bytes.len() {
            let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            match net::send(socket, &self.bytes[self.sent..], flags) {
                Ok(sent) => {
                    self.sent += sent;
                    total += sent;
                }
                Err(Errno::AGAIN) => return Ok(total),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(Ended::socket("send", errno)),
            }
        }
        self.bytes.clear();
        self.sent = 0;
        Ok(total)
    }
}

/// What takes a connection's whole messages.
pub trait Sink {
    /// The server agreed to speak WebSocket.
    fn upgraded(&mut self, out: &mut Outgoing) -> Result<(), Ended>;
    /// The server answers with an event stream.
    fn streaming(&mut self) {}
    /// A whole answer to an HTTP request came.
    fn answer(&mut self, _status: u16, _body: &[u8]) {}
    /// A masking key.
    fn key(&mut self) -> u32;
    /// A whole text or binary message.
    fn message(&mut self, out: &mut Outgoing, payload: &[u8]) -> Result<(), Ended>;
    /// What was agreed on, after an offer; none if the server declined it.
    fn agreed(&mut self, _agreed: Option<&Agreed>) {}
    /// The next compressed messages are wanted as they are inflated. Once they are not, they never are again.
    fn reads(&self) -> bool {
        true
    }
    /// A data message as it came, on a connection with compression; before it is handed over otherwise.
    fn wire(&mut self, _payload: &[u8], _compressed: bool) {}
    /// It was inflated to so many bytes.
    fn inflated(&mut self, _from: usize, _to: usize) {}
    /// It was not: it counts, whatever it says.
    fn unread(&mut self) {}
}

struct Fragments {
    bytes: Vec<u8>,
    compressed: bool,
}

/// What a connection offers, and what its thread compresses with.
pub struct Deflating {
    /// The offer.
    pub offer: Offer,
    /// See `Settings`.
    pub above: usize,
    /// The thread's.
    pub compressors: Rc<RefCell<Compressors>>,
}

/// The receiving side of a connection with compression.
struct Inflating {
    agreed: Agreed,
    /// Made for the first compressed message; none again once nobody wants to know what they say.
    inflater: Option<Box<Inflater>>,
    unread: bool,
    content: Vec<u8>,
}

/// A connection from its first SYN to its end.
pub struct Connection {
    socket: OwnedFd,
    /// What waits to be sent.
    pub out: Outgoing,
    partial: Vec<u8>,
    wanted: usize,
    fragments: Option<Box<Fragments>>,
    /// The accept key that the upgrade must bring; none once it did.
    expected: Option<Box<str>>,
    inflating: Option<Box<Inflating>>,
    stream: Option<StreamPart>,
}

/// How far an event stream has come.
#[derive(Clone, Copy, PartialEq, Eq)]
enum StreamPart {
    Head,
    Events,
    /// No event stream: answers to HTTP requests.
    Answers,
}

/// What one `recv` brought.
pub enum Received {
    /// Nothing was there.
    Nothing,
    /// This many bytes; `more` if the buffer was filled, so that more may wait.
    Bytes {
        /// How many.
        count: usize,
        /// The buffer was filled.
        more: bool,
    },
}

impl Connection {
    /// Starts to connect, from `source` if one is given.
    pub fn start(target: &Target, source: Option<IpAddr>, delay_acks: bool) -> Result<Self, Errno> {
        let family = match target.address {
            SocketAddr::V4(_) => AddressFamily::INET,
            SocketAddr::V6(_) => AddressFamily::INET6,
        };
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = net::socket_with(family, SocketType::STREAM, flags, Some(ipproto::TCP))?;
        sockopt::set_tcp_nodelay(&socket, true)?;
        if delay_acks {
            sockopt::set_tcp_quickack(&socket, false)?;
        }
        if let Some(source) = source {
            net::bind(&socket, &SocketAddr::new(source, 0))?;
        }
        match net::connect(&socket, &target.address) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(errno) => return Err(errno),
        }
        Ok(Self {
            socket,
            out: Outgoing::default(),
            partial: Vec::new(),
            wanted: 0,
            fragments: None,
            expected: None,
            inflating: None,
            stream: None,
        })
    }

    /// The socket, to wait on.
    pub fn socket(&self) -> &OwnedFd {
        &self.socket
    }

    /// The socket became writable for the first time: asks for an event stream at `path`.
    pub fn connected_for_events(&mut self, target: &Target, path: &str, token: &str) -> Result<usize, Ended> {
        self.check_connected()?;
        self.stream = Some(StreamPart::Head);
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {}\r\nAccept: text/event-stream\r\nAuthorization: Bearer {token}\r\n\r\n",
            target.host
        );
        self.out.raw(request.as_bytes());
        self.flush()
    }

    /// The socket became writable for the first time: what comes are answers to HTTP requests.
    pub fn connected_for_requests(&mut self) -> Result<(), Ended> {
        self.check_connected()?;
        self.stream = Some(StreamPart::Answers);
        Ok(())
    }

    fn check_connected(&self) -> Result<(), Ended> {
        match sockopt::socket_error(&self.socket) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(errno)) | Err(errno) => Err(Ended::socket("connect", errno)),
        }
    }

    /// The socket became writable for the first time: asks for the upgrade.
    pub fn connected(
        &mut self,
        target: &Target,
        deflating: Option<&Deflating>,
        random: &mut Random,
    ) -> Result<usize, Ended> {
        self.check_connected()?;
        let mut nonce = [0; 16];
        nonce[..8].copy_from_slice(&random.next().to_ne_bytes());
        nonce[8..].copy_from_slice(&random.next().to_ne_bytes());
        let key = STANDARD.encode(nonce);
        self.expected = Some(accept_key(&key).into_boxed_str());
        let offer = deflating.map_or(String::new(), |with| format!("{EXTENSIONS}: {}\r\n", with.offer.text()));
        let request = format!(
            "GET {} HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n{offer}\r\n",
            target.path, target.host
        );
        self.out.raw(request.as_bytes());
        self.flush()
    }

    /// Sends what waits, as far as the socket takes it; returns how many bytes it took.
    #[inline]
    pub fn flush(&mut self) -> Result<usize, Ended> {
        if self.out.is_empty() {
            return Ok(0);
        }
        self.out.flush(&self.socket)
    }

    /// Puts what was kept of a partial frame and what one `recv` brings into `buffer`, and hands the whole
    /// messages to the sink, which is made between the two: the place to take the time.
    #[inline]
    pub fn receive<S: Sink>(
        &mut self,
        buffer: &mut Vec<u8>,
        deflating: Option<&Deflating>,
        sink: impl FnOnce() -> S,
    ) -> Result<Received, Ended> {
        let kept = self.partial.len();
        let room = (kept + RECEIVE_ROOM).max(self.wanted);
        if buffer.len() < room {
            buffer.resize(room, 0);
        }
        let count = loop {
            match net::recv(&self.socket, &mut buffer[kept..], RecvFlags::DONTWAIT) {
                Ok((0, _)) => return Err(Ended::Cut),
                Ok((count, _)) => break count,
                Err(Errno::AGAIN) => return Ok(Received::Nothing),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(Ended::socket("recv", errno)),
            }
        };
        let more = kept + count == buffer.len();
        if kept > 0 {
            buffer[..kept].copy_from_slice(&self.partial);
            self.partial.clear();
        }
        let data = &buffer[..kept + count];
        let used = self.consume(data, deflating, &mut sink())?;
        if used < data.len() {
            self.partial.extend_from_slice(&data[used..]);
        } else if self.partial.capacity() > RECEIVE_ROOM {
            self.partial = Vec::new();
        }
        Ok(Received::Bytes { count, more })
    }

    /// Hands every whole message in `data` to `sink`; returns how many bytes are done with.
    #[inline]
    fn consume<S: Sink>(&mut self, data: &[u8], deflating: Option<&Deflating>, sink: &mut S) -> Result<usize, Ended> {
        match self.stream {
            None => {}
            Some(StreamPart::Answers) => return self.consume_answers(data, sink),
            Some(_) => return self.consume_events(data, sink),
        }
        let mut at = 0;
        if self.expected.is_some() {
            match self.upgrade(data, deflating, sink)? {
                Some(end) => at = end,
                None => return Ok(0),
            }
            sink.upgraded(&mut self.out)?;
        }
        while let Some(header) = frame::parse(&data[at..])? {
            let body = at + header.header_len;
            let end = body + header.payload_len;
            let Some(payload) = data.get(body..end) else {
                self.wanted = end - at;
                return Ok(at);
            };
            at = end;
            if header.fin && matches!(header.opcode, Opcode::Text | Opcode::Binary) {
                if self.fragments.is_some() {
                    return Err(FrameError::Interleaved.into());
                }
                if self.inflating.is_none() && !header.compressed {
                    sink.message(&mut self.out, payload)?;
                } else {
                    self.extended(payload, header.compressed, sink)?;
                }
            } else {
                self.rare(header, payload, sink)?;
            }
        }
        self.wanted = 0;
        Ok(at)
    }

    /// Hands every whole HTTP answer in `data` to `sink`; returns how many bytes are done with.
    fn consume_answers<S: Sink>(&mut self, data: &[u8], sink: &mut S) -> Result<usize, Ended> {
        let mut at = 0;
        while at < data.len() {
            let Some(answer) = http::parse(&data[at..]).map_err(Ended::Answer)? else {
                if data.len() - at > MAX_RESPONSE {
                    return Err(Ended::Answer("an answer whose head has no end".to_owned()));
                }
                break;
            };
            let body = at + answer.head;
            let end = body + answer.body;
            let Some(body) = data.get(body..end) else {
                self.wanted = end - at;
                return Ok(at);
            };
            sink.answer(answer.status, body);
            at = end;
        }
        self.wanted = 0;
        Ok(at)
    }

    /// Hands the data of every whole event in `data` to `sink`; returns how many bytes are done with.
    #[inline]
    fn consume_events<S: Sink>(&mut self, data: &[u8], sink: &mut S) -> Result<usize, Ended> {
        let mut at = 0;
        if self.stream == Some(StreamPart::Head) {
            match events::read_head(data).map_err(Ended::StreamRefused)? {
                Some(end) => at = end,
                None if data.len() > MAX_RESPONSE => {
                    return Err(Ended::StreamRefused("an answer without an end".to_owned()));
                }
                None => return Ok(0),
            }
            self.stream = Some(StreamPart::Events);
            sink.streaming();
        }
        while let Some((length, event)) = events::parse(&data[at..]) {
            at += length;
            match event {
                Some(event) if event.name == "close" => {
                    let code = crate::protocol::field(&event.data, "code").and_then(|code| code.parse().ok());
                    let reason = crate::protocol::field(&event.data, "reason").unwrap_or_default();
                    return Err(Ended::Closed(code.unwrap_or(1005), reason.to_owned()));
                }
                Some(event) => sink.message(&mut self.out, &event.data)?,
                None => {}
            }
        }
        if data.len() - at > MAX_MESSAGE {
            return Err(FrameError::TooLong((data.len() - at) as u64).into());
        }
        Ok(at)
    }

    /// A whole message, compressed or not, of a connection that may have either.
    fn extended<S: Sink>(&mut self, payload: &[u8], compressed: bool, sink: &mut S) -> Result<(), Ended> {
        let Some(inflating) = &mut self.inflating else {
            if compressed {
                return Err(FrameError::ReservedBits.into());
            }
            return sink.message(&mut self.out, payload);
        };
        sink.wire(payload, compressed);
        if !compressed {
            return sink.message(&mut self.out, payload);
        }
        // What comes next refers to what came before: there is no way back.
        inflating.unread |= !sink.reads();
        if inflating.unread {
            inflating.inflater = None;
            sink.unread();
            return Ok(());
        }
        let forgets = inflating.agreed.server_no_context_takeover;
        let inflater = inflating.inflater.get_or_insert_with(|| Box::new(Inflater::new(forgets)));
        inflater.message(payload, &mut inflating.content).map_err(Ended::Deflate)?;
        sink.inflated(payload.len(), inflating.content.len());
        sink.message(&mut self.out, &inflating.content)
    }

    /// Control frames and fragments.
    #[cold]
    fn rare<S: Sink>(&mut self, header: frame::Header, payload: &[u8], sink: &mut S) -> Result<(), Ended> {
        match header.opcode {
            Opcode::Ping => {
                // A peer that pings without reading must not grow this buffer.
                if self.out.len() < RECEIVE_ROOM {
                    self.out.frame(Opcode::Pong, payload, sink.key());
                }
            }
            Opcode::Pong => {}
            Opcode::Close => {
                let (code, reason) = match payload.split_first_chunk::<2>() {
                    Some((code, reason)) => (u16::from_be_bytes(*code), reason),
                    None => (1005, &[][..]),
                };
                let reason = String::from_utf8_lossy(reason).into_owned();
                return Err(Ended::Closed(code, reason));
            }
            Opcode::Text | Opcode::Binary => {
                if self.fragments.is_some() {
                    return Err(FrameError::Interleaved.into());
                }
                let bytes = payload.to_vec();
                self.fragments = Some(Box::new(Fragments { bytes, compressed: header.compressed }));
            }
            Opcode::Continuation => {
                let Some(fragments) = &mut self.fragments else {
                    return Err(FrameError::StrayContinuation.into());
                };
                let length = fragments.bytes.len() + payload.len();
                if length > MAX_MESSAGE {
                    return Err(FrameError::TooLong(length as u64).into());
                }
                fragments.bytes.extend_from_slice(payload);
                if header.fin
                    && let Some(whole) = self.fragments.take()
                {
                    self.extended(&whole.bytes, whole.compressed, sink)?;
                }
            }
        }
        Ok(())
    }

    /// Reads the answer to the upgrade; its length once all of it is there.
    fn upgrade<S: Sink>(
        &mut self,
        data: &[u8],
        deflating: Option<&Deflating>,
        sink: &mut S,
    ) -> Result<Option<usize>, Ended> {
        let expected = self.expected.as_deref().unwrap_or_default();
        let offer = deflating.map(|with| &with.offer);
        let Some((end, agreed)) = read_response(data, expected, offer).map_err(Ended::Refused)? else {
            return Ok(None);
        };
        self.expected = None;
        if deflating.is_some() {
            sink.agreed(agreed.as_ref());
        }
        if let (Some(agreed), Some(with)) = (agreed, deflating) {
            self.out.packing = Some(Packing {
                compressors: Rc::clone(&with.compressors),
                window_bits: agreed.client_max_window_bits.unwrap_or(15),
                above: with.above,
            });
            self.inflating = Some(Box::new(Inflating { agreed, inflater: None, unread: false, content: Vec::new() }));
        }
        Ok(Some(end))
    }

    /// Says goodbye; the server closes the stream.
    pub fn close(&mut self, random: &mut Random) -> Result<usize, Ended> {
        if self.stream.is_some() {
            net::shutdown(&self.socket, net::Shutdown::Write).map_err(|errno| Ended::socket("shutdown", errno))?;
            return Ok(0);
        }
        let code = 1000u16.to_be_bytes();
        self.out.frame(Opcode::Close, &code, random.key());
        self.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};

    #[derive(Default)]
    struct Collected(Vec<Vec<u8>>);

    impl Sink for &mut Collected {
        fn upgraded(&mut self, _: &mut Outgoing) -> Result<(), Ended> {
            self.0.push(b"upgraded".to_vec());
            Ok(())
        }
        fn key(&mut self) -> u32 {
            7
        }
        fn message(&mut self, _: &mut Outgoing, payload: &[u8]) -> Result<(), Ended> {
            self.0.push(payload.to_vec());
            Ok(())
        }
    }

    fn pair() -> (Connection, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("ws://{}/x", listener.local_addr().unwrap());
        let connection = Connection::start(&Target::parse(&url).unwrap(), None, false).unwrap();
        let (server, _) = listener.accept().unwrap();
        server.set_nodelay(true).unwrap();
        (connection, server)
    }

    /// Two messages, one of them in fragments round a ping, split at every byte.
    #[test]
    fn messages_survive_every_split_point() {
        let mut stream = vec![0x81, 5];
        stream.extend(b"hello");
        stream.extend([0x01, 2, b'a', b'b', 0x89, 1, b'p', 0x00, 0, 0x80, 1, b'c']);
        stream.extend([0x82, 126, 0, 200]);
        stream.extend([9; 200]);
        for cut in 0..=stream.len() {
            let (mut connection, mut server) = pair();
            let mut seen = Collected::default();
            let mut buffer = Vec::new();
            for part in [&stream[..cut], &stream[cut..]] {
                if part.is_empty() {
                    continue;
                }
                server.write_all(part).unwrap();
                let mut left = part.len();
                while left > 0 {
                    match connection.receive(&mut buffer, None, || &mut seen) {
                        Ok(Received::Bytes { count, .. }) => left -= count,
                        Ok(Received::Nothing) => std::thread::yield_now(),
                        Err(error) => panic!("{error}"),
                    }
                }
            }
            let expected = [b"hello".to_vec(), b"abc".to_vec(), vec![9; 200]];
            assert_eq!(seen.0, expected, "cut at {cut}");
            assert!(connection.partial.is_empty());
            assert_eq!(connection.out.len(), 7, "the pong");
        }
    }

    #[test]
    fn a_close_frame_ends_with_its_code_and_reason() {
        let (mut connection, mut server) = pair();
        server.write_all(&[0x88, 5, 0x11, 0x39, b'b', b'y', b'e']).unwrap();
        let mut seen = Collected::default();
        let ended = loop {
            match connection.receive(&mut Vec::new(), None, || &mut seen) {
                Ok(_) => std::thread::yield_now(),
                Err(ended) => break ended,
            }
        };
        assert_eq!(ended.to_string(), "the server closed with 4409 bye");
    }
}
