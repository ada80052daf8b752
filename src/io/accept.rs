//! Accepting: one SO_REUSEPORT listener per shard, so that the kernel spreads connections and nobody hands them
//! over. Binds for `server`, accepts for `reactor`. Owns what happens when descriptors run out.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown, SocketFlags};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::config::{FileMode, ListenAddr};
use crate::io::conn::{self, Layer, Transport};
use crate::io::driver;
use crate::io::reactor::Reactor;
use crate::io::socket_file::SocketFile;
use crate::limits::{Limit, Peer};
use crate::metrics::Count;
use crate::shard::Arrival;
use crate::time::clock::stopwatch_ns;
use crate::tls::{self, Stream};
use crate::wire::handshake::{Refusal, method_of};
use crate::wire::proxy::Proxied;

/// Connections that may wait to be accepted, per shard; the kernel caps it at net.core.somaxconn.
pub const BACKLOG: i32 = 4096;
/// How long the port may still be held by a process that has just died, and how often it is tried again.
const PORT_PATIENCE: Duration = Duration::from_millis(500);
const PORT_RETRY: Duration = Duration::from_millis(10);
/// How long nothing is accepted after descriptors or memory ran out.
const BACK_OFF: Duration = Duration::from_millis(50);
/// How often that is logged.
const SHORTAGE_TOLD: Duration = Duration::from_secs(10);
/// Sent data that the peer doesn't acknowledge for so long ends the connection.
const UNACKED_MAX: Duration = Duration::from_secs(30);
/// Connections taken one after the other before the shard's other tasks have their turn.
const ACCEPTS_PER_TURN: usize = 16;
/// Connections that are told that descriptors ran out, one after the other, before the others have their turn.
const REFUSALS_PER_TURN: usize = 64;

/// What all shards listen on at one place: a socket for each. `file` is the unix socket's.
#[derive(Debug)]
pub struct Bound {
    /// The place; a port that was 0 is known now.
    pub addr: ListenAddr,
    /// One for each shard.
    pub listeners: Vec<OwnedFd>,
    /// Of a unix socket.
    pub file: Option<SocketFile>,
}

/// Binds one listener per shard to the same address; port 0 takes a free one. A unix socket can be bound once only, so
/// its one listener is shared: whichever shard is first takes a connection. `beside` are the other places.
///
/// # Errors
/// When the address is taken, by a listener with SO_REUSEPORT too, or can't be bound.
pub fn bind(place: &ListenAddr, mode: FileMode, shards: usize, beside: &[ListenAddr]) -> io::Result<Bound> {
    match place {
        ListenAddr::Tcp(addr) => {
            let (addr, listeners) = bind_tcp(*addr, shards, shares_port(*addr, beside))?;
            Ok(Bound { addr: addr.into(), listeners: listeners.into_iter().map(Into::into).collect(), file: None })
        }
        ListenAddr::Unix(path) => {
            let (listener, file) = SocketFile::listen(path, mode.0, BACKLOG)?;
            let listeners = (0..shards).map(|_| listener.try_clone().map(Into::into)).collect::<io::Result<_>>()?;
            Ok(Bound { addr: place.clone(), listeners, file: Some(file) })
        }
    }
}

/// Whether an IPv4 address has the port too: then the IPv6 address must not take IPv4 connections.
fn shares_port(addr: SocketAddr, beside: &[ListenAddr]) -> bool {
    let is_rival = |other: SocketAddr| other.is_ipv4() && other.port() == addr.port();
    addr.is_ipv6() && addr.port() != 0 && beside.iter().filter_map(ListenAddr::tcp).any(is_rival)
}

fn bind_tcp(addr: SocketAddr, shards: usize, only_v6: bool) -> io::Result<(SocketAddr, Vec<TcpListener>)> {
    if addr.port() != 0 {
        claim_alone(addr, only_v6)?;
    }
    let mut bound = addr;
    let mut listeners = Vec::with_capacity(shards);
    for _ in 0..shards {
        let socket = socket(bound, only_v6)?;
        socket.set_reuse_port(true)?;
        socket.bind(&bound.into())?;
        let listener: TcpListener = socket.into();
        bound = listener.local_addr()?;
        listeners.push(listener);
    }
    // Listening starts when all are bound: from the first accept on, the kernel spreads over all of them.
    for listener in &listeners {
        SockRef::from(listener).listen(BACKLOG)?;
    }
    Ok((bound, listeners))
}

/// With SO_REUSEPORT a second server on the same port would silently get half the connections: sees first whether
/// a listener without it could have the port. The kernel tears an io_uring down some milliseconds after its
/// process has died, so a restart at once waits a little for the port.
fn claim_alone(addr: SocketAddr, only_v6: bool) -> io::Result<()> {
    let started = Instant::now();
    loop {
        let alone = socket(addr, only_v6)?;
        match alone.bind(&addr.into()).and_then(|()| alone.listen(1)) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && started.elapsed() < PORT_PATIENCE => {
                std::thread::sleep(PORT_RETRY);
            }
            done => return done,
        }
    }
}

fn socket(addr: SocketAddr, only_v6: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    if only_v6 {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Where connections come in: one shard's share of an address.
#[derive(Debug)]
pub struct Door {
    socket: OwnedFd,
    /// Whether TLS is spoken there.
    tls: bool,
    /// Connections that are taken one after the other.
    at_once: usize,
}

impl Door {
    /// A door with a listening socket, of the shard's own or `shared` with the others.
    pub fn new(socket: OwnedFd, tls: bool, shared: bool) -> Self {
        // A crowd at a shared one is for all shards.
        Self { socket, tls, at_once: if shared { 1 } else { ACCEPTS_PER_TURN } }
    }

    /// Ends the accepting task; peers that come now are told at once that nobody listens.
    pub fn shut(&self) {
        let _ = rustix::net::shutdown(&self.socket, Shutdown::Both);
    }

    /// Takes a connection that is there already; `AGAIN` if there is none.
    fn take(&self) -> Result<(OwnedFd, Peer), Errno> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (socket, addr) = rustix::net::acceptfrom_with(&self.socket, flags)?;
        // A peer without an IP address came through a unix socket.
        let addr = addr.and_then(|addr| SocketAddr::try_from(addr).ok());
        Ok((socket, addr.map_or(Peer::Unix, |addr| Peer::Ip(addr.ip()))))
    }
}

/// Accepts for one shard until it drains.
pub async fn accept(reactor: Rc<Reactor>, door: Rc<Door>) {
    let waiting = match door.socket.try_clone().and_then(driver::pollable) {
        Ok(waiting) => waiting,
        Err(error) => {
            tracing::error!(%error, "the listener can't be used");
            return;
        }
    };
    let mut spare = Spare::new();
    let mut shortage = Shortage::default();
    // Waits through the driver, behind whatever else is ready; a crowd is taken at once, up to a bound.
    while !reactor.is_draining() && reactor.turnstile.readable(&waiting).await.is_ok() {
        for _ in 0..door.at_once {
            let taken = door.take();
            if reactor.is_draining() {
                return;
            }
            match taken {
                Ok((socket, peer)) if reactor.open_sockets.count() < reactor.entry.sockets_max => {
                    enter(&reactor, socket, peer, door.tls);
                }
                Ok((socket, _)) => {
                    shortage.tell(&"all descriptors that connections may have are taken");
                    reactor.metrics.count(Count::Accepted);
                    reactor.metrics.refused(Limit::Descriptors);
                    tell_unavailable(&socket, door.tls);
                }
                Err(Errno::AGAIN) => break,
                // It was shut: by this shard or, where it is shared, by another that goes away too.
                Err(Errno::INVAL) => return,
                Err(error) if is_shortage(error) => {
                    reactor.metrics.refused(Limit::Descriptors);
                    shortage.tell(&error);
                    spare.refuse_some(&reactor, &door);
                    monoio::time::sleep(BACK_OFF).await;
                    break;
                }
                // The connection's own fault: the next may be well.
                Err(error) => tracing::debug!(%error, "accept"),
            }
        }
    }
}

/// Tells the log that descriptors or memory ran out, once in a while.
#[derive(Default)]
struct Shortage {
    told: Option<Instant>,
}

impl Shortage {
    fn tell(&mut self, error: &dyn std::fmt::Display) {
        if self.told.is_none_or(|at| at.elapsed() > SHORTAGE_TOLD) {
            self.told = Some(Instant::now());
            tracing::warn!(%error, "no descriptor or memory for new connections: they are refused");
        }
    }
}

/// A connection that was accepted. If a trusted proxy is to say whose it is, it holds a place until it has.
fn enter(reactor: &Rc<Reactor>, socket: OwnedFd, peer: Peer, tls: bool) {
    reactor.metrics.count(Count::Accepted);
    let transport = match Transport::new(socket) {
        Ok(transport) => Rc::new(transport),
        Err(error) => {
            tracing::warn!(%error, "an accepted connection can't be served");
            return reactor.metrics.count(Count::Unadmitted);
        }
    };
    // Judged now: what the client does on another connection after it has ended this one comes later on any shard.
    let accepted_ns = if has_ended(&transport) { 0 } else { stopwatch_ns() };
    if let Peer::Ip(_) = peer {
        let _ = SockRef::from(&*transport).set_tcp_nodelay(true);
        let _ = SockRef::from(&*transport).set_tcp_user_timeout(Some(UNACKED_MAX));
    }
    let guard = &reactor.entry.guard;
    if !reactor.entry.proxy_protocol || !guard.is_proxy(peer) {
        return admit(reactor, transport, peer, tls, accepted_ns);
    }
    if !guard.take_place() {
        reactor.metrics.refused(Limit::Connections);
        reactor.tell_refusal(Limit::Connections.name(), peer, || "a trusted proxy's connection".to_owned());
        return reactor.metrics.count(Count::Unadmitted);
    }
    reactor.open_sockets.enter();
    let reactor = Rc::clone(reactor);
    monoio::spawn(async move {
        let header = monoio::time::timeout(reactor.entry.patience, transport.proxy_header(&reactor.turnstile)).await;
        reactor.entry.guard.give_place_back();
        match header {
            Ok(Ok(proxied)) if !reactor.is_draining() => {
                let from = if let Proxied::From(client) = proxied { Peer::Ip(client) } else { peer };
                admit(&reactor, transport, from, tls, accepted_ns);
            }
            Ok(Ok(_)) => {}
            refused => {
                reactor.metrics.refused(Limit::ProxyProtocol);
                reactor.tell_refusal(Limit::ProxyProtocol.name(), peer, || match refused {
                    Ok(Err(fault)) => format!("the trusted proxy's connection is cut: {fault}"),
                    _ => "the trusted proxy's connection is cut: no PROXY header in time".to_owned(),
                });
            }
        }
        reactor.open_sockets.leave();
    });
}

/// Lets a connection in, or has it told that it is refused. Over a limit where TLS is spoken it gets no handshake, which
/// would cost a signature: it is told with an alert that nothing of TLS has to come before.
fn admit(reactor: &Rc<Reactor>, transport: Rc<Transport>, from: Peer, tls: bool, accepted_ns: u64) {
    let arrival = Arrival { from, is_told: !tls, accepted_ns };
    let Some(id) = reactor.with(|shard, now| shard.open(arrival, now)) else {
        if tls {
            tell(&*transport, |_| tls::UNAVAILABLE.to_vec());
        }
        return;
    };
    let layer = match tls.then(|| secure(reactor)).flatten() {
        Some(stream) => Layer::tls(stream),
        None if tls => return reactor.with(|shard, now| shard.closed(id, now)),
        None => Layer::Tcp,
    };
    reactor.open_sockets.enter();
    reactor.sockets.borrow_mut().insert(id, Rc::clone(&transport), layer);
    monoio::spawn(conn::serve(Rc::clone(reactor), id, transport));
}

/// Whether the peer has ended its side, or reset the connection, before it was accepted.
fn has_ended(transport: &Transport) -> bool {
    let mut poll = [PollFd::new(transport, PollFlags::RDHUP)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    rustix::event::poll(&mut poll, Some(&now)).is_ok_and(|ready| ready > 0)
}

fn secure(reactor: &Reactor) -> Option<Stream> {
    let config = reactor.certificate.borrow().clone()?;
    Stream::new(config).inspect_err(|fault| tracing::error!(%fault, "no TLS for a new connection")).ok()
}

/// Whether descriptors or memory ran out.
pub fn is_shortage(error: Errno) -> bool {
    [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM].contains(&error)
}

/// Answers whatever was asked that there is no descriptor for it.
fn tell_unavailable(socket: impl AsFd, tls: bool) {
    if tls {
        return tell(socket, |_| tls::UNAVAILABLE.to_vec());
    }
    tell(socket, |asked| {
        let mut answer = Vec::new();
        Refusal::unavailable("out of descriptors", 5).write(method_of(asked), &mut answer);
        answer
    });
}

/// Answers what was asked, before the socket is closed. What has come is read first: a socket that is closed over
/// unread bytes is reset, and the answer might be lost.
fn tell(socket: impl AsFd, answer: impl FnOnce(&[u8]) -> Vec<u8>) {
    let mut asked = [0; 4096];
    let count = rustix::net::recv(&socket, &mut asked[..], RecvFlags::DONTWAIT).map_or(0, |(count, _)| count);
    let _ = rustix::net::send(&socket, &answer(&asked[..count]), SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
    let _ = rustix::net::shutdown(&socket, Shutdown::Write);
}

/// A descriptor kept for the day there are no more: let go, it lets one connection in, to be told and closed at once, so
/// that peers see an end instead of hanging in the backlog.
struct Spare(Option<std::fs::File>);

impl Spare {
    fn new() -> Self {
        Self(std::fs::File::open("/dev/null").ok())
    }

    /// Takes connections on the spare's place, one after the other, and tells each why it can't stay.
    fn refuse_some(&mut self, reactor: &Reactor, door: &Door) {
        for _ in 0..REFUSALS_PER_TURN {
            if self.0.take().is_none() {
                break;
            }
            let accepted = door.take();
            if let Ok((socket, _)) = &accepted {
                reactor.metrics.count(Count::Accepted);
                tell_unavailable(socket, door.tls);
            }
            let none_left = accepted.is_err();
            // Its place is the spare's again.
            drop(accepted);
            *self = Self::new();
            if none_left {
                break;
            }
        }
        if self.0.is_none() {
            *self = Self::new();
        }
    }
}
