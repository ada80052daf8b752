//! Accepting: one SO_REUSEPORT listener per shard, so that the kernel spreads connections and nobody hands them
//! over. Binds for `server`, accepts for `reactor`. Owns what happens when descriptors run out.

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::rc::Rc;
use std::time::{Duration, Instant};

use monoio::net::{TcpListener, TcpStream};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::conn::{self, Layer, Transport};
use crate::reactor::Reactor;
use crate::tls::Stream;

/// Connections that may wait to be accepted, per shard; the kernel caps it at net.core.somaxconn.
pub const BACKLOG: i32 = 4096;
/// How long the port may still be held by a process that has just died, and how often it is tried again.
const PORT_PATIENCE: Duration = Duration::from_millis(500);
const PORT_RETRY: Duration = Duration::from_millis(10);
/// How long nothing is accepted after descriptors or memory ran out.
const BACK_OFF: Duration = Duration::from_millis(50);
/// Sent data that the peer doesn't acknowledge for so long ends the connection.
const UNACKED_MAX: Duration = Duration::from_secs(30);
/// Connections over the limit that may be told so at a time; beyond, they are cut without a word.
const REFUSED_MAX: usize = 1024;

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
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%error, "the listener can't be used");
            return;
        }
    };
    let mut spare = Spare::new();
    loop {
        match listener.accept().await {
            Ok((stream, _peer)) => {
                if reactor.is_draining() {
                    return;
                }
                admit(&reactor, stream, tls);
            }
            Err(error) => {
                if is_shortage(&error) {
                    tracing::warn!(%error, "no descriptor or memory for a new connection: refusing for a moment");
                    spare.refuse_one(&listener).await;
                    monoio::time::sleep(BACK_OFF).await;
                } else {
                    tracing::debug!(%error, "accept");
                }
            }
        }
    }
}

fn admit(reactor: &Rc<Reactor>, stream: TcpStream, tls: bool) {
    let count = reactor.counters.enter();
    if count >= reactor.connections_max + REFUSED_MAX {
        reactor.counters.leave();
        return;
    }
    let transport = match Transport::new(stream) {
        Ok(transport) => Rc::new(transport),
        Err(error) => {
            tracing::warn!(%error, "an accepted connection can't be served");
            reactor.counters.leave();
            return;
        }
    };
    let layer = match tls.then(|| secure(reactor)).flatten() {
        Some(stream) => Layer::tls(stream),
        None if tls => return reactor.counters.leave(),
        None => Layer::Tcp,
    };
    let _ = SockRef::from(&*transport).set_tcp_nodelay(true);
    let _ = SockRef::from(&*transport).set_tcp_user_timeout(Some(UNACKED_MAX));
    let id = reactor.with(|shard, now| shard.open(count < reactor.connections_max, now));
    reactor.sockets.borrow_mut().insert(id, Rc::clone(&transport), layer);
    monoio::spawn(conn::serve(Rc::clone(reactor), id, transport));
}

fn secure(reactor: &Reactor) -> Option<Stream> {
    let config = reactor.certificate.borrow().clone()?;
    Stream::new(config).inspect_err(|fault| tracing::error!(%fault, "no TLS for a new connection")).ok()
}

fn is_shortage(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let Some(code) = error.raw_os_error() else { return false };
    [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM].contains(&Errno::from_raw_os_error(code))
}

/// A descriptor kept for the day there are no more: let go, it lets one connection in, to be closed at once, so
/// that peers see an end instead of hanging in the backlog.
struct Spare(Option<std::fs::File>);

impl Spare {
    fn new() -> Self {
        Self(std::fs::File::open("/dev/null").ok())
    }

    async fn refuse_one(&mut self, listener: &TcpListener) {
        if self.0.take().is_some() {
            // It is readable: accept just failed for lack of a descriptor, not of a connection.
            drop(listener.accept().await);
        }
        *self = Self::new();
    }
}
