//! What an abuser does, by name: how a connection of it opens, what it sends and how often, and whether it ever reads.
//! A connection that the server ends is opened again, for as long as the abuse goes on.
//!
//! Knows nothing of the innocent beside it. Runs on a thread of its own, with blocking opens and non-blocking sends;
//! called by `commands`.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use rustix::net::{self, AddressFamily, SocketFlags, SocketType, sockopt};
use serde::Serialize;

use crate::frame::{Opcode, append};
use crate::protocol::Tokens;
use crate::random::Random;
use crate::target::Target;

/// How long a connection may take to open.
const OPENS_WITHIN: Duration = Duration::from_secs(2);
/// The first user that abusers sign in as; the innocent are before it.
const FIRST_USER: usize = 1 << 30;

/// The abuses, in the order in which all of them are done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Abuse {
    /// Requests for an upgrade, a byte at a time
    Slowloris,
    /// A frame that announces a mebibyte, a byte at a time
    SlowFrames,
    /// Pings without end
    Pings,
    /// A message in fragments of one byte
    Fragments,
    /// Requests without end, whose answers are never read
    NeverReads,
    /// Request heads that are too large
    Headers,
    /// Frames that are none
    Garbage,
    /// JSON ten thousand levels deep
    DeepJson,
    /// Connections that upgrade and vanish
    Reconnects,
    /// Two connections of one user, which sign each other out
    KickWar,
    /// Subscriptions to ever new names
    Channels,
    /// Publications with ever new idempotency keys
    Keys,
    /// Tokens that nobody signed
    Tokens,
}

/// How far a connection is opened before the abuse begins.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Opens {
    Plain,
    Upgraded,
    SignedIn,
}

impl Abuse {
    /// (how it opens, the time between two sends of a connection, whether it reads)
    fn style(self) -> (Opens, Duration, bool) {
        let ms = Duration::from_millis;
        match self {
            Self::Slowloris => (Opens::Plain, ms(50), true),
            Self::SlowFrames => (Opens::Upgraded, ms(50), true),
            Self::Pings | Self::Fragments | Self::Garbage | Self::Tokens => (Opens::Upgraded, ms(1), true),
            Self::NeverReads => (Opens::SignedIn, ms(1), false),
            Self::Headers => (Opens::Plain, ms(1), true),
            Self::Reconnects => (Opens::Upgraded, ms(1), true),
            Self::KickWar => (Opens::SignedIn, ms(50), true),
            Self::DeepJson | Self::Channels | Self::Keys => (Opens::SignedIn, ms(10), true),
        }
    }

    /// What connection number `at` sends the `turn`th time.
    fn writes(self, out: &mut Vec<u8>, at: usize, turn: u64, random: &mut Random) {
        let mut text = |text: &str, key: u32| append(out, Opcode::Text, text.as_bytes(), key);
        let key = random.key();
        let number = turn * 1_000_000 + at as u64;
        match self {
            Self::Slowloris if turn == 0 => out.extend_from_slice(b"GET /ws HTTP/1.1\r\nX-Slow: "),
            Self::SlowFrames if turn == 0 => {
                // A mebibyte, the mask, and nothing yet.
                out.extend_from_slice(&[0x81, 0xff, 0, 0, 0, 0, 0, 0x10, 0, 0, 1, 2, 3, 4]);
            }
            Self::Slowloris | Self::SlowFrames => out.push(b'x'),
            Self::Pings => (0..100).for_each(|_| append(out, Opcode::Ping, b"ping", key)),
            Self::Fragments if turn == 0 => out.extend_from_slice(&[0x01, 0x81, 1, 2, 3, 4, b'x']),
            Self::Fragments => out.extend_from_slice(&[0x00, 0x81, 1, 2, 3, 4, b'x'].repeat(100)),
            Self::NeverReads => (0..100).for_each(|_| text(r#"{"type":"heartbeat","id":"never read"}"#, key)),
            Self::Headers => {
                out.extend_from_slice(b"GET /ws HTTP/1.1\r\nCookie: ");
                out.resize(20_000, b'x');
            }
            Self::Garbage => {
                out.push(0xff);
                (0..100).for_each(|_| out.extend_from_slice(&random.next().to_ne_bytes()));
            }
            Self::DeepJson => text(&"[".repeat(10_000), key),
            Self::Reconnects | Self::KickWar => {}
            Self::Channels => {
                for n in 0..20 {
                    text(&format!(r#"{{"type":"subscribe","data":{{"channel":"flood-{number}-{n}"}}}}"#), key);
                }
            }
            Self::Keys => {
                let data = format!(r#"{{"channel":"flood","data":0,"idempotency_key":"{number}"}}"#);
                text(&format!(r#"{{"type":"publish","data":{data}}}"#), key);
            }
            Self::Tokens => text(r#"{"type":"auth","data":{"token":"a.b.c"}}"#, key),
        }
    }
}

/// What came of it.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Tally {
    /// Connections that opened as far as the abuse needs.
    pub opened: u64,
    /// Connections that were refused or cut before that.
    pub refused: u64,
    /// Connections that the server ended later.
    pub ended: u64,
    /// Bytes that the kernel took.
    pub sent_bytes: u64,
}

/// Who does it, from where and with what.
pub struct Abuser<'a> {
    /// The server.
    pub target: &'a Target,
    /// What its users sign in with.
    pub tokens: &'a Tokens,
    /// Connections at a time.
    pub connections: usize,
    /// Set when it is enough.
    pub stop: &'a AtomicBool,
}

struct Held {
    stream: Option<TcpStream>,
    turn: u64,
    /// When it opens or sends next.
    due: Instant,
}

impl Abuser<'_> {
    /// Abuses until it is told to stop; then all its connections are gone.
    pub fn run(&self, abuse: Abuse) -> Tally {
        let (opens, pace, reads) = abuse.style();
        let mut random = Random::seeded();
        let mut tally = Tally::default();
        let count = if abuse == Abuse::KickWar { 2 } else { self.connections };
        let start = Instant::now();
        let mut held: Vec<Held> = (0..count).map(|_| Held { stream: None, turn: 0, due: start }).collect();
        let mut out = Vec::new();
        while !self.stop.load(Relaxed) {
            let mut next = Instant::now() + pace;
            for (at, held) in held.iter_mut().enumerate() {
                let now = Instant::now();
                if self.stop.load(Relaxed) || held.due > now {
                    next = next.min(held.due);
                    continue;
                }
                held.due = now + pace;
                let Some(stream) = &mut held.stream else {
                    match self.open(opens, abuse, at, &mut random) {
                        Ok(stream) => {
                            tally.opened += 1;
                            (held.stream, held.turn) = (Some(stream), 0);
                        }
                        Err(_) => {
                            tally.refused += 1;
                            held.due = now + Duration::from_millis(20);
                        }
                    }
                    continue;
                };
                out.clear();
                abuse.writes(&mut out, at, held.turn, &mut random);
                held.turn += 1;
                let over = abuse == Abuse::Reconnects || (reads && drained(stream).is_err());
                match if over { Err(ErrorKind::NotConnected.into()) } else { stream.write(&out) } {
                    Ok(sent) => tally.sent_bytes += sent as u64,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    Err(_) => {
                        tally.ended += 1;
                        held.stream = None;
                    }
                }
            }
            thread::sleep(next.saturating_duration_since(Instant::now()));
        }
        tally
    }

    fn open(&self, opens: Opens, abuse: Abuse, at: usize, random: &mut Random) -> io::Result<TcpStream> {
        let mut stream = self.connect()?;
        if opens != Opens::Plain {
            let request = format!(
                "GET {} HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                 Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
                self.target.path, self.target.host
            );
            stream.write_all(request.as_bytes())?;
            until(&mut stream, b"\"connection_id\"")?;
        }
        if opens == Opens::SignedIn {
            let user = FIRST_USER + if abuse == Abuse::KickWar { 0 } else { at + 1 };
            let token = self.tokens.token(user).map_err(io::Error::other)?;
            let mut frame = Vec::new();
            let text = format!(r#"{{"type":"auth","data":{{"token":"{token}"}}}}"#);
            append(&mut frame, Opcode::Text, text.as_bytes(), random.key());
            stream.write_all(&frame)?;
            until(&mut stream, b"\"auth_success\"")?;
        }
        stream.set_nonblocking(true)?;
        Ok(stream)
    }

    /// On loopback from an address that none of the innocent has.
    fn connect(&self) -> io::Result<TcpStream> {
        let to = self.target.address;
        let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let socket = net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        if matches!(to.ip(), IpAddr::V4(ip) if ip.is_loopback()) {
            net::bind(&socket, &SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 1, 1)), 0))?;
        }
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, Some(OPENS_WITHIN))?;
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(OPENS_WITHIN))?;
        sockopt::set_tcp_nodelay(&socket, true)?;
        net::connect(&socket, &to)?;
        Ok(TcpStream::from(socket))
    }
}

/// Reads until `mark` has come.
fn until(stream: &mut TcpStream, mark: &[u8]) -> io::Result<()> {
    let mut received = Vec::new();
    let mut buffer = [0; 4096];
    while memchr::memmem::find(&received, mark).is_none() {
        match stream.read(&mut buffer)? {
            0 => return Err(ErrorKind::UnexpectedEof.into()),
            // What refuses is short: it never comes to this.
            _ if received.len() > 1 << 20 => return Err(ErrorKind::InvalidData.into()),
            count => received.extend_from_slice(&buffer[..count]),
        }
    }
    Ok(())
}

/// Reads what there is; an error at the end of the stream.
fn drained(stream: &mut TcpStream) -> io::Result<()> {
    let mut buffer = [0; 16 << 10];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// A server that ends each connection after the first bytes.
    #[test]
    fn what_is_ended_is_opened_again_until_the_stop() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("ws://{}/ws", listener.local_addr().unwrap());
        let (target, tokens) = (Target::parse(&url).unwrap(), Tokens::Given("t".to_owned()));
        let stop = AtomicBool::new(false);
        let tally = thread::scope(|scope| {
            let abuser = Abuser { target: &target, tokens: &tokens, connections: 1, stop: &stop };
            let running = scope.spawn(move || abuser.run(Abuse::Headers));
            for _ in 0..3 {
                let mut buffer = [0; 4];
                let (mut stream, peer) = listener.accept().unwrap();
                stream.read_exact(&mut buffer).unwrap();
                assert_eq!(&buffer, b"GET ");
                assert_eq!(peer.ip(), IpAddr::V4(Ipv4Addr::new(127, 0, 1, 1)));
            }
            stop.store(true, Relaxed);
            running.join().unwrap()
        });
        assert!(tally.opened >= 3 && tally.ended >= 2 && tally.sent_bytes >= 40_000, "{tally:?}");
    }

    #[test]
    fn every_abuse_has_something_to_do() {
        let mut random = Random::seeded();
        for abuse in Abuse::value_variants() {
            let mut out = Vec::new();
            for turn in 0..3 {
                abuse.writes(&mut out, 0, turn, &mut random);
            }
            let silent = matches!(abuse, Abuse::Reconnects | Abuse::KickWar);
            assert_eq!(out.is_empty(), silent, "{abuse:?}");
        }
    }
}
