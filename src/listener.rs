//! Accepting: one SO_REUSEPORT listener per shard, so that the kernel spreads connections and nobody hands them
//! over. Binds for `server`, accepts for `reactor`. Owns what happens when descriptors run out.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener as StdListener};
use std::os::fd::AsFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use monoio::net::{TcpListener, TcpStream};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::{RecvFlags, SendFlags, Shutdown, SocketFlags};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::clock::stopwatch_ns;
use crate::conn::{self, Layer, Transport};
use crate::limits::Limit;
use crate::metrics::Count;
use crate::proto::handshake::{Refusal, method_of};
use crate::proto::proxy::Proxied;
use crate::reactor::Reactor;
use crate::shard::Arrival;
use crate::tls::Stream;

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

/// Binds one listener per shard to the same address. Port 0 takes a free one.
///
/// # Errors
/// When the address is taken, by a listener with SO_REUSEPORT too, or can't be bound.
pub fn bind(addr: SocketAddr, shards: usize) -> io::Result<(SocketAddr, Vec<StdListener>)> {
    if addr.port() != 0 {
        claim_alone(addr)?;
    }
    let mut bound = addr;
    let mut listeners = Vec::with_capacity(shards);
    for _ in 0..shards {
        let socket = socket(bound)?;
        socket.set_reuse_port(true)?;
        socket.bind(&bound.into())?;
        let listener: StdListener = socket.into();
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
fn claim_alone(addr: SocketAddr) -> io::Result<()> {
    let started = Instant::now();
    loop {
        let alone = socket(addr)?;
        match alone.bind(&addr.into()).and_then(|()| alone.listen(1)) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && started.elapsed() < PORT_PATIENCE => {
                std::thread::sleep(PORT_RETRY);
            }
            done => return done,
        }
    }
}

fn socket(addr: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Accepts for one shard until it drains; with `tls` that is what is spoken there.
pub async fn accept(reactor: Rc<Reactor>, listener: StdListener, tls: bool) {
    let taken = listener.try_clone().and_then(|door| Ok((TcpListener::from_std(listener)?, door)));
    let (listener, door) = match taken {
        Ok(taken) => taken,
        Err(error) => {
            tracing::error!(%error, "the listener can't be used");
            return;
        }
    };
    let mut spare = Spare::new();
    let mut shortage = Shortage::default();
    loop {
        // Waits through the ring, behind whatever else is ready; the rest of a crowd is taken at once, up to a bound.
        let mut accepted = listener.accept().await;
        for taken in 1.. {
            match accepted {
                Ok((stream, peer)) => {
                    if reactor.is_draining() {
                        return;
                    }
                    if reactor.counters.connections() < reactor.entry.sockets_max {
                        enter(&reactor, stream, peer.ip(), tls);
                    } else {
                        shortage.tell(&"all descriptors that connections may have are taken");
                        turn_away(&reactor, stream, tls);
                    }
                }
                Err(error) if is_shortage(&error) => {
                    reactor.metrics.refused(Limit::Descriptors);
                    shortage.tell(&error);
                    spare.refuse_some(&reactor, &door, tls);
                    monoio::time::sleep(BACK_OFF).await;
                    break;
                }
                Err(error) => {
                    if error.kind() != io::ErrorKind::WouldBlock {
                        tracing::debug!(%error, "accept");
                    }
                    break;
                }
            }
            // Not one more than is seen to.
            if taken == ACCEPTS_PER_TURN {
                break;
            }
            accepted = accept_now(&door);
        }
        if reactor.is_draining() {
            return;
        }
    }
}

/// Takes a connection that is there already; `WouldBlock` if there is none.
fn accept_now(listener: &StdListener) -> io::Result<(TcpStream, SocketAddr)> {
    let (stream, peer) = listener.accept()?;
    stream.set_nonblocking(true)?;
    Ok((TcpStream::from_std(stream)?, peer))
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

/// A connection for which no descriptor is left: it gives its own back at once.
fn turn_away(reactor: &Reactor, stream: TcpStream, tls: bool) {
    reactor.metrics.count(Count::Accepted);
    reactor.metrics.refused(Limit::Descriptors);
    if let Ok(transport) = Transport::new(stream)
        && !tls
    {
        tell_unavailable(&transport);
    }
}

/// A connection that was accepted: counted from here on, at once or when a trusted proxy has said whose it is.
fn enter(reactor: &Rc<Reactor>, stream: TcpStream, peer: IpAddr, tls: bool) {
    let over = reactor.enter();
    let transport = match Transport::new(stream) {
        Ok(transport) => Rc::new(transport),
        Err(error) => {
            tracing::warn!(%error, "an accepted connection can't be served");
            reactor.metrics.count(Count::Unadmitted);
            reactor.counters.leave();
            return;
        }
    };
    // Judged now: what the client does on another connection after it has ended this one comes later on any shard.
    let accepted_ns = if has_ended(&transport) { 0 } else { stopwatch_ns() };
    let layer = match tls.then(|| secure(reactor)).flatten() {
        Some(stream) => Layer::tls(stream),
        None if tls => return reactor.counters.leave(),
        None => Layer::Tcp,
    };
    let _ = SockRef::from(&*transport).set_tcp_nodelay(true);
    let _ = SockRef::from(&*transport).set_tcp_user_timeout(Some(UNACKED_MAX));
    if !reactor.entry.proxy_protocol || !reactor.entry.guard.is_proxy(peer) {
        return admit(reactor, transport, layer, Arrival { from: peer, over, accepted_ns });
    }
    let reactor = Rc::clone(reactor);
    monoio::spawn(async move {
        let header = monoio::time::timeout(reactor.entry.patience, transport.proxy_header()).await;
        match header {
            Ok(Ok(proxied)) if !reactor.is_draining() => {
                let from = if let Proxied::From(client) = proxied { client } else { peer };
                admit(&reactor, transport, layer, Arrival { from, over, accepted_ns });
            }
            refused => {
                reactor.metrics.refused(Limit::ProxyProtocol);
                reactor.tell_refusal(Limit::ProxyProtocol.name(), peer, || match refused {
                    Ok(Ok(_)) => "the server is going away".to_owned(),
                    Ok(Err(error)) => format!("the trusted proxy's connection is cut: {error}"),
                    Err(_) => "the trusted proxy's connection is cut: no PROXY header in time".to_owned(),
                });
                reactor.counters.leave();
            }
        }
    });
}

fn admit(reactor: &Rc<Reactor>, transport: Rc<Transport>, layer: Layer, arrival: Arrival) {
    let Some(id) = reactor.with(|shard, now| shard.open(arrival, now)) else {
        reactor.counters.leave();
        return;
    };
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
pub fn is_shortage(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let Some(code) = error.raw_os_error() else { return false };
    [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM].contains(&Errno::from_raw_os_error(code))
}

/// Answers whatever was asked. What has come is read first: a socket that is closed over unread bytes is reset, and
/// the answer might be lost.
fn tell_unavailable(socket: impl AsFd) {
    let socket = &socket;
    let mut asked = [0; 4096];
    let count = rustix::net::recv(socket, &mut asked[..], RecvFlags::DONTWAIT).map_or(0, |(count, _)| count);
    let mut answer = Vec::new();
    Refusal::unavailable("out of descriptors", 5).write(method_of(&asked[..count]), &mut answer);
    let _ = rustix::net::send(socket, &answer, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
    let _ = rustix::net::shutdown(socket, Shutdown::Write);
}

/// A descriptor kept for the day there are no more: let go, it lets one connection in, to be told and closed at once, so
/// that peers see an end instead of hanging in the backlog.
struct Spare(Option<std::fs::File>);

impl Spare {
    fn new() -> Self {
        Self(std::fs::File::open("/dev/null").ok())
    }

    /// Takes connections on the spare's place, one after the other, and tells each why it can't stay.
    fn refuse_some(&mut self, reactor: &Reactor, door: &StdListener, tls: bool) {
        for _ in 0..REFUSALS_PER_TURN {
            if self.0.take().is_none() {
                break;
            }
            let accepted = rustix::net::accept_with(door, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK);
            if let Ok(socket) = &accepted {
                reactor.metrics.count(Count::Accepted);
                if !tls {
                    tell_unavailable(socket);
                }
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
