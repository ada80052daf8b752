//! The open sockets of one shard, and the TLS on them. [`Sockets`] is what the pure part sends through. `unsafe` stands
//! here because monoio's streams do not lend their descriptor, and because rustix has no safe function for SIOCOUTQ.
//! This file knows no task and not what the bytes mean.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use monoio::net::UnixStream;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown};

use crate::ids::ConnId;
use crate::io::driver::{Turnstile, pollable};
use crate::shard::{Sent, Wire};
use crate::tls::{self, Opened, TlsError};
use crate::wire::handshake::{HttpRefusal, method_of};
use crate::wire::proxy::{self, Proxied, ProxyError};

/// The number of clients' sockets that are open, over all shards. Sockets of connections that are being refused count
/// too: a drain waits for all of them.
#[derive(Debug, Default)]
pub(crate) struct OpenSockets(AtomicUsize);

impl OpenSockets {
    /// Counts a socket that was opened.
    pub(super) fn enter(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a socket that was closed.
    pub(super) fn leave(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    /// The number of open sockets.
    pub(super) fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// A connection's socket. The tasks that wait for it share it: the reader and at times a writer. It is closed when the
/// last of them drops it.
///
/// monoio's `TcpStream` carries 72 bytes of addresses. Its `UnixStream` is the bare descriptor, and this file only asks
/// it to wait for readiness.
#[derive(Debug)]
pub(super) struct Transport(UnixStream);

impl Transport {
    /// Takes over an accepted socket, which must not block.
    ///
    /// # Errors
    /// When the runtime refuses the descriptor, which is closed then.
    pub(super) fn new(accepted: OwnedFd) -> io::Result<Self> {
        pollable(accepted).map(Self)
    }

    /// Waits until bytes can be received, and for the other tasks that are ready.
    pub(super) async fn readable(&self, turnstile: &Turnstile) -> io::Result<()> {
        turnstile.readable(&self.0).await
    }

    /// Waits until bytes can be sent.
    pub(super) async fn writable(&self) -> io::Result<()> {
        self.0.writable(false).await
    }

    /// Receives what is there, without waiting.
    pub(super) fn receive(&self, into: &mut [u8]) -> Result<usize, Errno> {
        rustix::net::recv(self, into, RecvFlags::DONTWAIT).map(|(count, _)| count)
    }

    /// Ends both directions at once, and discards what is unsent.
    pub(super) fn reset(&self) {
        reset(self);
    }

    /// Reads the header that a trusted proxy sends first, and not a byte more: looks at what is there with `MSG_PEEK`,
    /// and then takes the bytes of the header.
    ///
    /// # Errors
    /// When the peer sends something else, or ends the connection.
    pub(super) async fn proxy_header(&self, turnstile: &Turnstile) -> Result<Proxied, ProxyError> {
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
            // The bytes that `peek` has seen are there to be taken.
            let _ = rustix::net::recv(self, &mut header[have..], RecvFlags::DONTWAIT);
        }
    }

    /// Copies bytes that are there into `into` and leaves them in the socket. Returns how many.
    fn peek(&self, into: &mut [u8]) -> Result<usize, ProxyError> {
        match rustix::net::recv(self, into, RecvFlags::DONTWAIT | RecvFlags::PEEK) {
            Ok((0, _)) => Err(ProxyError::Ended),
            Ok((count, _)) => Ok(count),
            Err(Errno::AGAIN | Errno::INTR) => Ok(0),
            Err(_) => Err(ProxyError::Ended),
        }
    }
}

/// One slot of [`Sockets`]. Its size matters: sending walks over these.
#[derive(Debug)]
struct Socket {
    generation: u32,
    fd: Descriptor,
    /// The owner of `fd`, which keeps it open.
    transport: Rc<Transport>,
    layer: Layer,
    /// The waker of the reader, while the shard has paused it.
    paused_reader: Option<Waker>,
}

/// A copy of a transport's descriptor, beside the transport. It saves a walk through two pointers per send.
#[derive(Debug)]
struct Descriptor(RawFd);

/// What stands between the kernel's bytes and the shard's.
#[derive(Debug)]
pub(super) enum Layer {
    /// Nothing: the bytes are the same.
    Plain,
    /// TLS encrypts and decrypts the bytes.
    Tls(Box<TlsLayer>),
}

/// TLS on a socket.
#[derive(Debug)]
pub(super) struct TlsLayer {
    stream: tls::Stream,
    /// Whether a task waits to send TLS records that did not fit into the socket.
    is_draining: bool,
    /// Whether our direction ends once everything has been sent.
    is_finishing: bool,
}

impl Layer {
    /// TLS that begins with its handshake.
    pub(super) fn tls(stream: tls::Stream) -> Self {
        Self::Tls(Box::new(TlsLayer { stream, is_draining: false, is_finishing: false }))
    }
}

/// What [`Sockets::decrypt`] made of received bytes.
pub(super) enum Decrypted {
    /// The connection has no TLS: the received bytes are the plaintext.
    Plain,
    /// The plaintext is in the given buffer. `drained` is false if TLS has records to send that did not fit.
    Opened { drained: bool },
    /// The peer does not speak TLS properly.
    Failed(TlsError),
}

/// The sockets of a shard's connections, by slot.
#[derive(Debug, Default)]
pub(super) struct Sockets {
    slots: Vec<Option<Socket>>,
    scratch: tls::Scratch,
}

impl Sockets {
    /// Takes the transport of a new connection.
    pub(super) fn insert(&mut self, id: ConnId, transport: Rc<Transport>, layer: Layer) {
        let slot = id.slot as usize;
        if self.slots.len() <= slot {
            self.slots.resize_with(slot + 1, || None);
        }
        let fd = Descriptor(transport.as_fd().as_raw_fd());
        self.slots[slot] = Some(Socket { generation: id.generation, fd, transport, layer, paused_reader: None });
    }

    /// Drops a connection's transport. Returns whether it was still there.
    pub(super) fn remove(&mut self, id: ConnId) -> bool {
        let Some(Socket { fd, layer, .. }) = self.get(id) else { return false };
        if let Layer::Tls(tls) = layer {
            // Best effort: the closing alert is lost if it does not fit now.
            tls.stream.close();
            let _ = tls.stream.flush(|bytes| send(fd, &[IoSlice::new(bytes)]));
        }
        self.slots[id.slot as usize] = None;
        true
    }

    fn get(&mut self, id: ConnId) -> Option<&mut Socket> {
        get(&mut self.slots, id)
    }

    pub(super) fn transport(&mut self, id: ConnId) -> Option<Rc<Transport>> {
        self.get(id).map(|socket| Rc::clone(&socket.transport))
    }

    /// Decrypts received bytes into `plain`, if the connection has TLS.
    pub(super) fn decrypt(&mut self, id: ConnId, received: &mut [u8], plain: &mut Vec<u8>) -> Decrypted {
        let Some(Socket { layer: Layer::Tls(tls), fd, .. }) = self.get(id) else { return Decrypted::Plain };
        let opened = tls.stream.open(received, plain);
        match opened {
            // The peer's stream ends behind this plaintext. Reading returns 0 from now on, as without TLS.
            Ok(Opened::PeerClosed) => drop(rustix::net::shutdown(fd, Shutdown::Read)),
            Err(TlsError::PlainHttp) => {
                let mut answer = Vec::new();
                let refusal = HttpRefusal::bad_request("this port speaks TLS: use wss:// or https://");
                refusal.write(method_of(received), &mut answer);
                send(fd, &[IoSlice::new(&answer)]);
            }
            Ok(Opened::Open) | Err(_) => {}
        }
        let drained = self.drain(id);
        match opened {
            Ok(_) => Decrypted::Opened { drained },
            Err(error) => Decrypted::Failed(error),
        }
    }

    /// Sends TLS records that did not fit before. Returns false if some still do not fit.
    pub(super) fn drain(&mut self, id: ConnId) -> bool {
        let Some(Socket { fd, layer: Layer::Tls(tls), .. }) = self.get(id) else { return true };
        let drained = tls.stream.flush(|bytes| send(fd, &[IoSlice::new(bytes)])).unwrap_or(true);
        if drained && std::mem::take(&mut tls.is_finishing) {
            // Fails only if the peer is gone, and then reading fails too.
            let _ = rustix::net::shutdown(fd, Shutdown::Write);
        }
        drained
    }

    /// The transport to wait for before the next [`Sockets::drain`]; `None` if a task waits for it already.
    pub(super) fn begin_draining(&mut self, id: ConnId) -> Option<Rc<Transport>> {
        let Some(Socket { layer: Layer::Tls(tls), transport, .. }) = self.get(id) else { return None };
        (!std::mem::replace(&mut tls.is_draining, true)).then(|| Rc::clone(transport))
    }

    /// The task that waited to drain has ended.
    pub(super) fn end_draining(&mut self, id: ConnId) {
        if let Some(Socket { layer: Layer::Tls(tls), .. }) = self.get(id) {
            tls.is_draining = false;
        }
    }

    /// Ends our direction once everything has been sent. Returns false if TLS has records to send that did not fit.
    pub(super) fn finish(&mut self, id: ConnId) -> bool {
        let Some(Socket { fd, layer, .. }) = self.get(id) else { return true };
        if let Layer::Tls(tls) = layer {
            tls.stream.close();
            tls.is_finishing = true;
        } else {
            // Fails only if the peer is gone, and then reading fails too.
            let _ = rustix::net::shutdown(fd, Shutdown::Write);
        }
        self.drain(id)
    }

    /// Ends both directions. What the kernel has taken is still sent; TLS records that do not fit are lost.
    pub(super) fn end(&mut self, id: ConnId) {
        self.finish(id);
        if let Some(Socket { fd, .. }) = self.get(id) {
            let _ = rustix::net::shutdown(&*fd, Shutdown::Both);
        }
        self.wake_reader(id);
    }

    /// Ends both directions at once, and discards what is unsent.
    pub(super) fn abort(&mut self, id: ConnId) {
        if let Some(Socket { fd, .. }) = self.get(id) {
            reset(&*fd);
        }
        self.wake_reader(id);
    }

    /// Has the kernel end the connection when its peer acknowledges nothing for `bound_ms` milliseconds.
    pub(super) fn bound_silence(&mut self, id: ConnId, bound_ms: u64) {
        if let Some(Socket { fd, .. }) = self.get(id) {
            let bound_ms = u32::try_from(bound_ms).unwrap_or(u32::MAX);
            // Fails on a unix socket, whose peer is on this machine and can't vanish.
            let _ = rustix::net::sockopt::set_tcp_user_timeout(&*fd, bound_ms);
        }
    }

    /// Lets a paused reader go on.
    pub(super) fn wake_reader(&mut self, id: ConnId) {
        if let Some(waker) = self.get(id).and_then(|socket| socket.paused_reader.take()) {
            waker.wake();
        }
    }

    /// Polls for [`Sockets::wake_reader`], or for the connection's end. `has_waited` is the state of one wait, and false
    /// at its beginning.
    pub(super) fn poll_resumed(&mut self, id: ConnId, has_waited: &mut bool, context: &Context<'_>) -> Poll<()> {
        if let Some(socket) = self.get(id)
            && (!*has_waited || socket.paused_reader.is_some())
        {
            *has_waited = true;
            socket.paused_reader = Some(context.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(())
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
            Layer::Plain => send(fd, pieces),
            Layer::Tls(tls) => tls.stream.send(pieces, &mut self.scratch, |bytes| send(fd, &[IoSlice::new(bytes)])),
        };
        sent.map_or(Sent::Gone, Sent::Bytes)
    }

    fn unacknowledged(&mut self, conn: ConnId) -> usize {
        let Some(Socket { fd, layer, .. }) = get(&mut self.slots, conn) else { return 0 };
        let encrypted = if let Layer::Tls(tls) = layer { tls.stream.unsent() } else { 0 };
        encrypted + unacknowledged(fd)
    }
}

/// The request of ioctl(2) for bytes in a socket's send queue (tcp(7), unix(7)), as most architectures number it.
const SIOCOUTQ: rustix::ioctl::Opcode = 0x5411;

/// Bytes that the kernel took and the peer has not acknowledged.
fn unacknowledged(fd: &Descriptor) -> usize {
    #[expect(unsafe_code, reason = "rustix has no safe function for SIOCOUTQ")]
    // SAFETY: SIOCOUTQ writes one `int`, for which `Getter` has room.
    let queued = unsafe { rustix::ioctl::ioctl(fd, rustix::ioctl::Getter::<SIOCOUTQ, std::ffi::c_int>::new()) };
    queued.ok().and_then(|count| usize::try_from(count).ok()).unwrap_or(0)
}

/// Offers bytes to the kernel. Returns how many it took, or `None` if the peer is gone.
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

/// Ends both directions with a reset, and discards what is unsent.
fn reset(socket: impl AsFd) {
    let _ = rustix::net::sockopt::set_socket_linger(&socket, Some(Duration::ZERO));
    let _ = rustix::net::shutdown(&socket, Shutdown::Both);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_forty_bytes() {
        assert_eq!(size_of::<Option<Socket>>(), 40);
    }
}
