//! Accepting for one shard: takes connections from the kernel, reads a trusted proxy's header where one is due, and lets
//! the shard admit or refuse each connection. Also decides what happens when file descriptors run out.

use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown, SocketFlags};
use socket2::SockRef;

use crate::io::core::Core;
use crate::io::driver;
use crate::io::proxy_header;
use crate::io::sockets::Layer;
use crate::limits::refusals::{RefusalLog, RefusalNote};
use crate::limits::{Guard, Limit, Peer};
use crate::metrics::Count;
use crate::shard::Arrival;
use crate::time::clock::stopwatch_ns;
use crate::tls::{self, Stream};
use crate::wire::handshake::{HttpRefusal, method_of};
use crate::wire::proxy::Proxied;

/// How long nothing is accepted after descriptors or memory ran out.
const BACK_OFF: Duration = Duration::from_millis(50);
/// How often a shortage of descriptors or memory is logged.
const SHORTAGE_LOG_INTERVAL: Duration = Duration::from_secs(10);
/// A connection ends when its peer has not acknowledged sent data for this long.
const UNACKED_MAX: Duration = Duration::from_secs(30);
/// How many connections are accepted in a row before the shard's other tasks run.
const ACCEPTS_PER_TURN: usize = 16;
/// How many connections in a row are told that descriptors ran out, before the shard's other tasks run.
const REFUSALS_PER_TURN: usize = 64;

/// Settings for connections that have just been accepted. All shards have the same.
#[derive(Clone, Debug)]
pub(crate) struct AcceptSettings {
    /// Knows the trusted proxies, and counts connections.
    pub(crate) guard: Arc<Guard>,
    /// Whether trusted proxies begin every connection with a PROXY header.
    pub(crate) proxy_protocol: bool,
    /// How long a PROXY header may take to arrive.
    pub(crate) patience: Duration,
    /// Descriptors that clients' connections may take, over all shards. The others are the API's and the process's own.
    pub(crate) sockets_max: usize,
    /// The log of refused connections.
    pub(crate) refusals: Arc<RefusalLog>,
}

/// One shard's share of an address that is listened on.
#[derive(Debug)]
pub(crate) struct ShardListener {
    socket: OwnedFd,
    /// Whether TLS is spoken on this address.
    tls: bool,
    /// Whether this is the address of the HTTP API.
    is_api: bool,
    /// How many connections are accepted in a row.
    at_once: usize,
}

impl ShardListener {
    /// Takes a listening socket that is the shard's own, or `shared` with the other shards.
    pub(crate) fn new(socket: OwnedFd, tls: bool, shared: bool) -> Self {
        // With a shared socket, a crowd of connections is for all shards.
        Self { socket, tls, is_api: false, at_once: if shared { 1 } else { ACCEPTS_PER_TURN } }
    }

    /// Takes a listening socket of the HTTP API.
    pub(crate) fn of_api(socket: OwnedFd, shared: bool) -> Self {
        Self { is_api: true, ..Self::new(socket, false, shared) }
    }

    /// Whether this is the address of the HTTP API, which goes on while the server drains.
    pub(super) fn is_api(&self) -> bool {
        self.is_api
    }

    /// Ends the accepting task. Peers that connect from now on are refused by the kernel.
    pub(super) fn shut(&self) {
        let _ = rustix::net::shutdown(&self.socket, Shutdown::Both);
    }

    /// Accepts a connection that waits already; `AGAIN` if none does.
    fn accept(&self) -> Result<(OwnedFd, Peer), Errno> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (socket, addr) = rustix::net::acceptfrom_with(&self.socket, flags)?;
        // A peer without an IP address has connected through a unix socket.
        let addr = addr.and_then(|addr| SocketAddr::try_from(addr).ok());
        Ok((socket, addr.map_or(Peer::Unix, |addr| Peer::Ip(addr.ip()))))
    }
}

/// Accepts the connections of one listener.
pub(super) struct Acceptor {
    core: Rc<Core>,
    settings: Rc<AcceptSettings>,
    listener: Rc<ShardListener>,
}

/// An accepted connection that the shard has not admitted yet.
struct Accepted {
    socket: OwnedFd,
    tls: bool,
    /// The moment by the stopwatch; 0 if the peer had ended the connection by then.
    accepted_ns: u64,
}

impl Acceptor {
    pub(super) fn new(core: Rc<Core>, settings: Rc<AcceptSettings>, listener: Rc<ShardListener>) -> Self {
        Self { core, settings, listener }
    }

    /// Accepts until the shard drains. The API's listener goes on, so that health checks learn of the drain.
    pub(super) async fn run(self) {
        let waiting = match self.listener.socket.try_clone().and_then(driver::pollable) {
            Ok(waiting) => waiting,
            Err(error) => {
                tracing::error!(%error, "the listener cannot be used");
                return;
            }
        };
        let mut spare = SpareDescriptor::new();
        let mut shortage = ShortageLog::default();
        while !self.has_ended() && self.core.turnstile().readable(&waiting).await.is_ok() {
            if !self.accept_some(&mut spare, &mut shortage).await {
                return;
            }
        }
    }

    fn has_ended(&self) -> bool {
        !self.listener.is_api && self.core.is_draining()
    }

    /// Accepts what waits, up to a bound. Returns false if the listener was shut.
    async fn accept_some(&self, spare: &mut SpareDescriptor, shortage: &mut ShortageLog) -> bool {
        for _ in 0..self.listener.at_once {
            let accepted = self.listener.accept();
            if self.has_ended() {
                return false;
            }
            match accepted {
                Ok((socket, peer)) if self.listener.is_api => self.begin_api(socket, peer),
                Ok((socket, peer)) if self.core.open_sockets().count() < self.settings.sockets_max => {
                    self.begin(socket, peer);
                }
                Ok((socket, _)) => {
                    shortage.log(&"clients' connections have all descriptors that they may have");
                    self.core.metrics().count(Count::Accepted);
                    self.core.metrics().refused(Limit::Descriptors);
                    answer_unavailable(&socket, self.listener.tls);
                }
                Err(Errno::AGAIN) => return true,
                // The listener was shut: by this shard or, if it is shared, by another one.
                Err(Errno::INVAL) => return false,
                Err(error) if is_shortage(error) && self.listener.is_api => {
                    shortage.log(&error);
                    // The new connection stays in the backlog, and is accepted when another one has given way to it.
                    self.core.with(|shard, now| shard.free_api_place(now));
                    monoio::time::sleep(BACK_OFF).await;
                    return true;
                }
                Err(error) if is_shortage(error) => {
                    self.core.metrics().refused(Limit::Descriptors);
                    shortage.log(&error);
                    spare.refuse_some(&self.core, &self.listener);
                    monoio::time::sleep(BACK_OFF).await;
                    return true;
                }
                // This connection failed before it was accepted; the next one may be well.
                Err(error) => tracing::debug!(%error, "accept"),
            }
        }
        true
    }

    /// Begins with an accepted connection of the API.
    fn begin_api(&self, socket: OwnedFd, peer: Peer) {
        set_options(&socket, peer);
        let core = &self.core;
        let Some(id) = core.with(|shard, now| shard.open_api(peer, now)) else { return };
        let inserted = core.sockets().insert(id, socket, Layer::Plain);
        if let Err(error) = inserted {
            tracing::warn!(%error, "an accepted connection cannot be served");
            core.with(|shard, now| shard.closed(id, now));
        }
    }

    /// Begins with an accepted connection. If a trusted proxy is to say whose it is, it holds a place until then.
    fn begin(&self, socket: OwnedFd, peer: Peer) {
        self.core.metrics().count(Count::Accepted);
        // Taken now: whatever the client does on another connection after it has ended this one comes later.
        let accepted_ns = if has_ended(&socket) { 0 } else { stopwatch_ns() };
        set_options(&socket, peer);
        let accepted = Accepted { socket, tls: self.listener.tls, accepted_ns };
        let guard = &self.settings.guard;
        if !self.settings.proxy_protocol || !guard.is_proxy(peer) {
            return admit(&self.core, &self.settings, accepted, peer);
        }
        if !guard.take_place() {
            self.core.metrics().refused(Limit::Connections);
            let detail = || "a trusted proxy's connection".to_owned();
            log_refusal(&self.settings, &self.core, Limit::Connections, peer, detail);
            return self.core.metrics().count(Count::Unadmitted);
        }
        self.core.open_sockets().enter();
        monoio::spawn(read_proxy_header(Rc::clone(&self.core), Rc::clone(&self.settings), accepted, peer));
    }
}

/// Sets the options of an accepted TCP connection. It works without them too.
fn set_options(socket: &OwnedFd, peer: Peer) {
    if let Peer::Ip(_) = peer {
        let _ = SockRef::from(socket).set_tcp_nodelay(true);
        let _ = SockRef::from(socket).set_tcp_user_timeout(Some(UNACKED_MAX));
    }
}

/// Reads the header of a trusted proxy, and admits the connection as one of the client that it names.
async fn read_proxy_header(core: Rc<Core>, settings: Rc<AcceptSettings>, accepted: Accepted, proxy: Peer) {
    let Accepted { socket, tls, accepted_ns } = accepted;
    let header = monoio::time::timeout(settings.patience, proxy_header::read(socket, core.turnstile())).await;
    settings.guard.give_place_back();
    match header {
        Ok(Ok((socket, proxied))) if !core.is_draining() => {
            let client = if let Proxied::From(client) = proxied { Peer::Ip(client) } else { proxy };
            admit(&core, &settings, Accepted { socket, tls, accepted_ns }, client);
        }
        Ok(Ok(_)) => {}
        refused => {
            core.metrics().refused(Limit::ProxyProtocol);
            log_refusal(&settings, &core, Limit::ProxyProtocol, proxy, || match refused {
                Ok(Err(error)) => format!("the trusted proxy's connection is cut: {error}"),
                _ => "the trusted proxy's connection is cut: no PROXY header in time".to_owned(),
            });
        }
    }
    core.open_sockets().leave();
}

/// Lets the shard admit a connection, or refuses it. If TLS is spoken, a refused connection gets a fatal alert, which may
/// come before any handshake: a handshake would cost the server a signature.
fn admit(core: &Rc<Core>, settings: &AcceptSettings, accepted: Accepted, client: Peer) {
    let Accepted { socket, tls, accepted_ns } = accepted;
    let arrival = Arrival { from: client, is_told: !tls, accepted_ns };
    let Some(id) = core.with(|shard, now| shard.open(arrival, now)) else {
        if tls {
            answer(&socket, |_| tls::UNAVAILABLE.to_vec());
        }
        return;
    };
    let layer = match tls.then(|| tls_stream(core)).flatten() {
        Some(stream) => Layer::tls(stream),
        None if tls => return core.with(|shard, now| shard.closed(id, now)),
        None => Layer::Plain,
    };
    let inserted = core.sockets().insert(id, socket, layer);
    if let Err(error) = inserted {
        core.metrics().refused(Limit::Descriptors);
        let detail = || format!("the socket cannot be watched: {error}");
        log_refusal(settings, core, Limit::Descriptors, client, detail);
        return core.with(|shard, now| shard.closed(id, now));
    }
    core.open_sockets().enter();
}

fn tls_stream(core: &Core) -> Option<Stream> {
    let config = core.certificate()?;
    Stream::new(config).inspect_err(|error| tracing::error!(%error, "TLS cannot begin on a new connection")).ok()
}

/// Logs a connection that was refused before the shard knew it.
fn log_refusal(settings: &AcceptSettings, core: &Core, limit: Limit, client: Peer, detail: impl FnOnce() -> String) {
    let note = RefusalNote { reason: limit.name(), client: Some(client), conn: None, user: None };
    settings.refusals.tell(&note, core.now().mono_ms, detail);
}

/// Whether the peer has ended its side, or reset the connection, before it was accepted.
fn has_ended(socket: &OwnedFd) -> bool {
    let mut poll = [PollFd::new(socket, PollFlags::RDHUP)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    rustix::event::poll(&mut poll, Some(&now)).is_ok_and(|ready| ready > 0)
}

/// Whether the error says that descriptors or memory ran out.
fn is_shortage(error: Errno) -> bool {
    [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM].contains(&error)
}

/// Answers that the server is out of descriptors.
fn answer_unavailable(socket: impl AsFd, tls: bool) {
    if tls {
        return answer(socket, |_| tls::UNAVAILABLE.to_vec());
    }
    answer(socket, |request| {
        let mut response = Vec::new();
        HttpRefusal::unavailable("out of descriptors", 5).write(method_of(request), &mut response);
        response
    });
}

/// Answers a request and ends our direction. Received bytes are read first: the kernel resets a socket that is closed
/// over unread bytes, and the peer might never see the answer.
fn answer(socket: impl AsFd, response: impl FnOnce(&[u8]) -> Vec<u8>) {
    let mut request = [0; 4096];
    let count = rustix::net::recv(&socket, &mut request[..], RecvFlags::DONTWAIT).map_or(0, |(count, _)| count);
    let _ = rustix::net::send(&socket, &response(&request[..count]), SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
    let _ = rustix::net::shutdown(&socket, Shutdown::Write);
}

/// Logs that descriptors or memory ran out, at most once in [`SHORTAGE_LOG_INTERVAL`].
#[derive(Default)]
struct ShortageLog {
    logged: Option<Instant>,
}

impl ShortageLog {
    fn log(&mut self, error: &dyn std::fmt::Display) {
        if self.logged.is_none_or(|at| at.elapsed() > SHORTAGE_LOG_INTERVAL) {
            self.logged = Some(Instant::now());
            tracing::warn!(%error, "no descriptor or memory for new connections: they are refused");
        }
    }
}

/// A descriptor that is kept for the moment when none is left. Given up, it makes room for one connection at a time, which
/// is told and closed at once. Otherwise peers would hang in the backlog.
struct SpareDescriptor(Option<std::fs::File>);

impl SpareDescriptor {
    fn new() -> Self {
        Self(std::fs::File::open("/dev/null").ok())
    }

    /// Accepts connections on the spare's place, one after the other, and tells each that descriptors ran out.
    fn refuse_some(&mut self, core: &Core, listener: &ShardListener) {
        for _ in 0..REFUSALS_PER_TURN {
            if self.0.take().is_none() {
                break;
            }
            let accepted = listener.accept();
            if let Ok((socket, _)) = &accepted {
                core.metrics().count(Count::Accepted);
                answer_unavailable(socket, listener.tls);
            }
            let none_left = accepted.is_err();
            // Closes the connection, so that the spare can have its descriptor again.
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
