//! Listening sockets, bound before any shard runs: for TCP one SO_REUSEPORT socket per shard, so that the kernel spreads
//! connections over the shards, and for a unix socket one that all shards share. Called by `boot`.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::config::{FileMode, ListenAddr};
use crate::io::socket_file::SocketFile;

/// Connections that may wait to be accepted, per shard. The kernel caps it at net.core.somaxconn.
pub(crate) const BACKLOG: i32 = 4096;
/// How long a process that has just died may still hold the port.
const PORT_PATIENCE: Duration = Duration::from_millis(500);
/// How often the port is tried in that time.
const PORT_RETRY: Duration = Duration::from_millis(10);

/// The sockets of all shards that listen on one address.
#[derive(Debug)]
pub(crate) struct BoundAddr {
    /// The address. A port that was configured as 0 is the one that the kernel chose.
    pub(crate) addr: ListenAddr,
    /// One socket for each shard.
    pub(crate) listeners: Vec<OwnedFd>,
    /// The file of a unix socket; `None` for TCP.
    pub(crate) file: Option<SocketFile>,
}

/// Binds one listener per shard to the same address; port 0 takes a free port. A unix socket can be bound only once, so
/// its one listener is shared, and the first shard that looks takes a connection. `beside` are the other addresses.
///
/// # Errors
/// When the address cannot be bound, or a listener has it already, even one with SO_REUSEPORT.
pub(crate) fn bind(place: &ListenAddr, mode: FileMode, shards: usize, beside: &[ListenAddr]) -> io::Result<BoundAddr> {
    match place {
        ListenAddr::Tcp(addr) => {
            let (addr, listeners) = bind_tcp(*addr, shards, shares_port(*addr, beside))?;
            Ok(BoundAddr { addr: addr.into(), listeners: listeners.into_iter().map(Into::into).collect(), file: None })
        }
        ListenAddr::Unix(path) => {
            let (listener, file) = SocketFile::listen(path, mode.0, BACKLOG)?;
            let listeners = (0..shards).map(|_| listener.try_clone().map(Into::into)).collect::<io::Result<_>>()?;
            Ok(BoundAddr { addr: place.clone(), listeners, file: Some(file) })
        }
    }
}

/// Whether another address is IPv4 and has the same port. The IPv6 socket must not take IPv4 connections then.
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
    // Listening starts after all are bound, so that the kernel spreads the first connections over all of them.
    for listener in &listeners {
        SockRef::from(listener).listen(BACKLOG)?;
    }
    Ok((bound, listeners))
}

/// Checks that a listener without SO_REUSEPORT could have the port. With SO_REUSEPORT alone, a second server on the same
/// port would silently get half of the connections. The kernel tears an io_uring down some milliseconds after its process
/// has died, so a server that is restarted at once waits a little for the port.
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
