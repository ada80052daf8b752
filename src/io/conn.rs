//! The sockets of one shard. `Sockets` owns every transport and is what the pure part sends through; `serve` is
//! the one task that a connection has while it is idle, parked on readability without a buffer. A second task,
//! the writer, exists only while the kernel takes no more. Knows nothing of what the bytes mean.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::panic::AssertUnwindSafe;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

use monoio::net::UnixStream;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown};

use crate::ids::ConnId;
use crate::io::driver::{self, Turnstile};
use crate::io::reactor::Reactor;
use crate::metrics::Count;
use crate::shard::{Action, Input, Sent, Wire};
use crate::tls::{self, Fault, Opened};
use crate::wire::handshake::{Refusal, method_of};
use crate::wire::proxy::{self, Proxied, ProxyError};

/// Size of the one buffer that all of a shard's connections receive into.
pub const RECEIVE_BYTES: usize = 64 * 1024;

/// A connection's socket, as the tasks that wait for it share it: the one that reads and, at times, one that
/// writes. Closed when the last of them lets go.
///
/// monoio's `TcpStream` carries 72 bytes of addresses; its `UnixStream` is the bare descriptor, and all that is
/// asked of it is to wait for readiness.
#[derive(Debug)]
pub struct Transport(UnixStream);

impl Transport {
    /// Takes over an accepted socket, which doesn't block.
    ///
    /// # Errors
    /// When the runtime refuses the descriptor; it is closed then.
    pub fn new(accepted: OwnedFd) -> io::Result<Self> {
        driver::pollable(accepted).map(Self)
    }
}

impl Transport {
    /// Reads what a trusted proxy says first, and not a byte more: looks at what has come, and takes what is the header's.
    ///
    /// # Errors
    /// When it says something else, or nothing.
    pub async fn proxy_header(&self, turnstile: &Turnstile) -> Result<Proxied, ProxyError> {
        let mut header = Vec::new();
        loop {
            if let Some(proxied) = proxy::parse(&header)? {
                return Ok(proxied);
            }
            turnstile.readable(&self.0).await.map_err(|_| ProxyError::Ended)?;
            let have = header.len();
            header.resize(proxy::HEADER_MAX, 0);
            let come = self.peek(&mut header[have..])?;
            header.truncate(have + come);
            let whole = proxy::length(&header)?;
            header.truncate(whole.map_or(header.len(), |length| length.min(header.len())));
            // What has just been seen is there to be taken.
            let _ = rustix::net::recv(self, &mut header[have..], RecvFlags::DONTWAIT);
        }
    }

    /// How many bytes have come; they stay where they are.
    fn peek(&self, into: &mut [u8]) -> Result<usize, ProxyError> {
        match rustix::net::recv(self, into, RecvFlags::DONTWAIT | RecvFlags::PEEK) {
            Ok((0, _)) => Err(ProxyError::Ended),
            Ok((count, _)) => Ok(count),
            Err(Errno::AGAIN | Errno::INTR) => Ok(0),
            Err(_) => Err(ProxyError::Ended),
        }
    }
}

/// One slot: what sending touches lies together.
#[derive(Debug)]
struct Socket {
    generation: u32,
    fd: Descriptor,
    /// Keeps `fd` open.
    transport: Rc<Transport>,
    layer: Layer,
    /// The reader, while it must not read.
    waker: Option<Waker>,
}

/// The copy of a transport's descriptor that lies beside it: saves a walk through two pointers per send.
#[derive(Debug)]
struct Descriptor(RawFd);

/// What is between the kernel's bytes and the shard's.
#[derive(Debug)]
pub enum Layer {
    /// Nothing.
    Tcp,
    /// TLS.
    Tls(Box<Secure>),
}

/// TLS on a socket.
#[derive(Debug)]
pub struct Secure {
    stream: tls::Stream,
    /// A task waits to send what TLS has to say of itself.
    draining: bool,
    /// Our direction ends when all has been sent.
    finishing: bool,
}

impl Layer {
    /// TLS, from its handshake on.
    pub fn tls(stream: tls::Stream) -> Self {
        Self::Tls(Box::new(Secure { stream, draining: false, finishing: false }))
    }
}

/// The sockets of a shard's connections, by slot.
#[derive(Debug, Default)]
pub struct Sockets {
    slots: Vec<Option<Socket>>,
    scratch: tls::Scratch,
}

impl Sockets {
    /// Takes the transport of a new connection.
    pub fn insert(&mut self, id: ConnId, transport: Rc<Transport>, layer: Layer) {
        let slot = id.slot as usize;
        if self.slots.len() <= slot {
            self.slots.resize_with(slot + 1, || None);
        }
        let fd = Descriptor(transport.as_fd().as_raw_fd());
        self.slots[slot] = Some(Socket { generation: id.generation, fd, transport, layer, waker: None });
    }

    /// Lets go of a connection's transport. Returns whether it was still there.
    pub fn remove(&mut self, id: ConnId) -> bool {
        let Some(Socket { fd, layer, .. }) = self.get(id) else { return false };
        if let Layer::Tls(secure) = layer {
            // What can't be said now can't be said any more.
            secure.stream.close();
            let _ = secure.stream.flush(|bytes| send(fd, &[IoSlice::new(bytes)]));
        }
        self.slots[id.slot as usize] = None;
        true
    }

    fn get(&mut self, id: ConnId) -> Option<&mut Socket> {
        get(&mut self.slots, id)
    }

    /// Ends our direction, as soon as all that was sent has left.
    fn finish(&mut self, id: ConnId) {
        let Some(Socket { fd, layer, .. }) = self.get(id) else { return };
        if let Layer::Tls(secure) = layer {
            secure.stream.close();
            secure.finishing = true;
        } else {
            // Fails only if the peer is gone, and then reading says so.
            let _ = rustix::net::shutdown(fd, Shutdown::Write);
        }
    }

    /// Sends what TLS has to say of itself. Returns whether all of it has left, or can't any more.
    fn drain(&mut self, id: ConnId) -> bool {
        let Some(Socket { fd, layer: Layer::Tls(secure), .. }) = self.get(id) else { return true };
        let drained = secure.stream.flush(|bytes| send(fd, &[IoSlice::new(bytes)])).unwrap_or(true);
        if drained && std::mem::take(&mut secure.finishing) {
            // As in `finish`.
            let _ = rustix::net::shutdown(fd, Shutdown::Write);
        }
        drained
    }

    fn transport(&mut self, id: ConnId) -> Option<Rc<Transport>> {
        self.get(id).map(|socket| Rc::clone(&socket.transport))
    }

    fn wake_reader(&mut self, id: ConnId) {
        if let Some(waker) = self.get(id).and_then(|socket| socket.waker.take()) {
            waker.wake();
        }
    }
}

fn get(slots: &mut [Option<Socket>], id: ConnId) -> Option<&mut Socket> {
    slots.get_mut(id.slot as usize)?.as_mut().filter(|socket| socket.generation == id.generation)
}

impl AsFd for Descriptor {
    #[expect(unsafe_code, reason = "a copy of the descriptor, beside its owner")]
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: it is the descriptor of the socket's `transport`, which keeps it open as long as the socket exists.
        unsafe { BorrowedFd::borrow_raw(self.0) }
    }
}

impl AsFd for Transport {
    #[expect(unsafe_code, reason = "monoio's streams have no AsFd")]
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the stream keeps its descriptor open until it is dropped, which the borrow can't outlive.
        unsafe { BorrowedFd::borrow_raw(self.0.as_raw_fd()) }
    }
}

impl Wire for Sockets {
    fn send(&mut self, conn: ConnId, pieces: &[IoSlice<'_>]) -> Sent {
        let Some(Socket { fd, layer, .. }) = get(&mut self.slots, conn) else { return Sent::Gone };
        let sent = match layer {
            Layer::Tcp => send(fd, pieces),
            Layer::Tls(secure) => {
                secure.stream.send(pieces, &mut self.scratch, |bytes| send(fd, &[IoSlice::new(bytes)]))
            }
        };
        sent.map_or(Sent::Gone, Sent::Bytes)
    }

    fn unacknowledged(&mut self, conn: ConnId) -> usize {
        let Some(Socket { fd, layer, .. }) = get(&mut self.slots, conn) else { return 0 };
        let encrypted = if let Layer::Tls(secure) = layer { secure.stream.unsent() } else { 0 };
        encrypted + unacknowledged(fd)
    }
}

/// The request of ioctl(2) for what a socket has not got rid of yet (tcp(7), unix(7)), as most architectures number it.
const SIOCOUTQ: rustix::ioctl::Opcode = 0x5411;

/// Bytes that the kernel took and the peer has not acknowledged.
fn unacknowledged(fd: &Descriptor) -> usize {
    #[expect(unsafe_code, reason = "rustix has no safe function for SIOCOUTQ")]
    // SAFETY: SIOCOUTQ writes one `int`, for which `Getter` has room.
    let queued = unsafe { rustix::ioctl::ioctl(fd, rustix::ioctl::Getter::<SIOCOUTQ, std::ffi::c_int>::new()) };
    queued.ok().and_then(|count| usize::try_from(count).ok()).unwrap_or(0)
}

/// Offers bytes to the kernel; returns how many it took, or `None` if the peer is gone.
fn send(fd: &Descriptor, pieces: &[IoSlice<'_>]) -> Option<usize> {
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    loop {
        let sent = match pieces {
            [one] => rustix::net::send(fd, one, flags),
            many => rustix::net::sendmsg(fd, many, &mut SendAncillaryBuffer::default(), flags),
        };
        return match sent {
            Ok(count) => Some(count),
            Err(Errno::AGAIN | Errno::NOBUFS | Errno::NOMEM) => Some(0),
            Err(Errno::INTR) => continue,
            Err(_) => None,
        };
    }
}

/// Serves one connection until it ends. Every idle connection holds this future: what it keeps across an `.await`
/// is counted in bytes.
#[expect(clippy::manual_async_fn, reason = "an `async fn` would keep its arguments twice")]
pub fn serve(reactor: Rc<Reactor>, id: ConnId, transport: Rc<Transport>) -> impl Future<Output = ()> {
    async move {
        let mut input = Input::Open;
        while input != Input::Ended {
            input = if input == Input::Paused {
                resumed(&reactor.sockets, id).await;
                guarded(&reactor, id, || reactor.with_wire(|shard, wire, now| shard.resume(id, wire, now)))
            } else if reactor.turnstile.readable(&transport.0).await.is_ok() {
                guarded(&reactor, id, || receive(&reactor, id, &transport))
            } else {
                Input::Ended
            };
        }
        reactor.closed(id);
    }
}

/// A panic over what one connection sent ends this connection and nothing else. The peer is told (1011), unless that
/// panics too.
fn guarded(reactor: &Rc<Reactor>, id: ConnId, work: impl FnOnce() -> Input) -> Input {
    caught(reactor, id, work)
        .or_else(|| caught(reactor, id, || reactor.with(|shard, now| shard.fail_internally(id, now))))
        .unwrap_or(Input::Ended)
}

/// What `work` returns, or nothing if it panics.
fn caught<R>(reactor: &Reactor, id: ConnId, work: impl FnOnce() -> R) -> Option<R> {
    let caught = std::panic::catch_unwind(AssertUnwindSafe(work));
    if caught.is_err() {
        reactor.metrics.count(Count::Panics);
        tracing::error!(conn = %id, "a panic ended this connection; the shard lives on");
    }
    caught.ok()
}

/// Takes what the kernel has.
fn receive(reactor: &Rc<Reactor>, id: ConnId, transport: &Transport) -> Input {
    let mut buffer = reactor.buffer.borrow_mut();
    match rustix::net::recv(transport, &mut buffer[..], RecvFlags::DONTWAIT) {
        Ok((0, _)) => reactor.with(|shard, _| shard.hear_out(id)),
        Ok((count, _)) => take(reactor, id, &mut buffer[..count]),
        Err(Errno::AGAIN | Errno::INTR) => reactor.with(|shard, _| shard.input(id)),
        Err(_) => Input::Ended,
    }
}

/// Takes received bytes through the connection's layer to the shard.
fn take(reactor: &Rc<Reactor>, id: ConnId, received: &mut [u8]) -> Input {
    let mut sockets = reactor.sockets.borrow_mut();
    let Some(Socket { layer: Layer::Tls(secure), fd, .. }) = sockets.get(id) else {
        drop(sockets);
        return reactor.with_wire(|shard, wire, now| shard.receive(id, received, wire, now));
    };
    let mut plain = reactor.plain.borrow_mut();
    plain.clear();
    let opened = secure.stream.open(received, &mut plain);
    match opened {
        // The stream ends behind this plaintext, as if the kernel had said so.
        Ok(Opened::PeerClosed) => drop(rustix::net::shutdown(fd, Shutdown::Read)),
        Err(Fault::PlainHttp) => {
            let mut answer = Vec::new();
            let refusal = Refusal::bad_request("this port speaks TLS: use wss:// or https://");
            refusal.write(method_of(received), &mut answer);
            send(fd, &[IoSlice::new(&answer)]);
        }
        Ok(Opened::Open) | Err(_) => {}
    }
    let drained = sockets.drain(id);
    drop(sockets);
    if let Err(fault) = opened {
        reactor.metrics.count(Count::TlsFailures);
        reactor.with(|shard, now| shard.tls_failed(id, &fault, now));
        return Input::Ended;
    }
    if !drained {
        await_drained(reactor, id);
    }
    match &mut plain[..] {
        [] => reactor.with(|shard, _| shard.input(id)),
        bytes => reactor.with_wire(|shard, wire, now| shard.receive(id, bytes, wire, now)),
    }
}

/// Has a task send what TLS has to say of itself, unless there is one.
fn await_drained(reactor: &Rc<Reactor>, id: ConnId) {
    let mut sockets = reactor.sockets.borrow_mut();
    let Some(Socket { layer: Layer::Tls(secure), transport, .. }) = sockets.get(id) else { return };
    if !std::mem::replace(&mut secure.draining, true) {
        monoio::spawn(drain(Rc::clone(reactor), id, Rc::clone(transport)));
    }
}

async fn drain(reactor: Rc<Reactor>, id: ConnId, transport: Rc<Transport>) {
    while transport.0.writable(false).await.is_ok() {
        let mut sockets = reactor.sockets.borrow_mut();
        if sockets.drain(id) {
            if let Some(Socket { layer: Layer::Tls(secure), .. }) = sockets.get(id) {
                secure.draining = false;
            }
            return;
        }
    }
}

/// Waits for [`Action::Resume`] or the connection's end.
async fn resumed(sockets: &RefCell<Sockets>, id: ConnId) {
    let mut waiting = false;
    std::future::poll_fn(|context| {
        if let Some(socket) = sockets.borrow_mut().get(id)
            && (!waiting || socket.waker.is_some())
        {
            waiting = true;
            socket.waker = Some(context.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(())
    })
    .await;
}

/// Does to the sockets what the pure part asked for.
pub fn act(reactor: &Rc<Reactor>, actions: Vec<Action>) {
    for action in actions {
        let mut sockets = reactor.sockets.borrow_mut();
        match action {
            Action::Alarm(at_ms) => reactor.turn_at(at_ms),
            Action::Errand(number, errand) => reactor.give_errand(number, errand),
            Action::Resume(id) => sockets.wake_reader(id),
            Action::AwaitWritable(id) => {
                if let Some(transport) = sockets.transport(id) {
                    monoio::spawn(write(Rc::clone(reactor), id, transport));
                }
            }
            Action::Finish(id) => {
                sockets.finish(id);
                if !sockets.drain(id) {
                    drop(sockets);
                    await_drained(reactor, id);
                }
            }
            Action::End(id) => {
                sockets.finish(id);
                // What TLS has to say last may find no room: then the peer does without.
                sockets.drain(id);
                if let Some(Socket { fd, .. }) = sockets.get(id) {
                    let _ = rustix::net::shutdown(&*fd, Shutdown::Both);
                }
                sockets.wake_reader(id);
            }
            Action::Abort(id) => {
                if let Some(Socket { fd, .. }) = sockets.get(id) {
                    let _ = rustix::net::sockopt::set_socket_linger(&*fd, Some(Duration::ZERO));
                    let _ = rustix::net::shutdown(&*fd, Shutdown::Both);
                }
                sockets.wake_reader(id);
            }
        }
    }
}

/// Waits until the kernel takes bytes again. The pure part asks for another writer if that wasn't enough.
async fn write(reactor: Rc<Reactor>, id: ConnId, transport: Rc<Transport>) {
    if transport.0.writable(false).await.is_ok()
        && caught(&reactor, id, || reactor.with_wire(|shard, wire, now| shard.writable(id, wire, now))).is_none()
    {
        // How far the stream got is not known any more. The reader finds its connection gone.
        let _ = rustix::net::sockopt::set_socket_linger(&*transport, Some(Duration::ZERO));
        let _ = rustix::net::shutdown(&*transport, Shutdown::Both);
        reactor.sockets.borrow_mut().wake_reader(id);
        reactor.closed(id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_forty_bytes() {
        assert_eq!(size_of::<Option<Socket>>(), 40);
    }
}
