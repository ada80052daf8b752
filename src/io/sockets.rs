//! The open sockets of one shard, and the TLS on them. [`Sockets`] is what the pure part sends through, and keeps the
//! readiness set in step with what each connection waits for. `unsafe` stands here because rustix has no safe function for
//! SIOCOUTQ. This file knows no task and not what the bytes mean.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown};

use crate::ids::{ConnId, ShardId};
use crate::io::readiness::{Interest, Readiness, ReadySocket};
use crate::shard::{Sent, Wire};
use crate::tls::{self, Opened, TlsError};
use crate::wire::handshake::{HttpRefusal, method_of};

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

/// One slot of [`Sockets`]. Its size matters: sending walks over these.
#[derive(Debug)]
struct Socket {
    generation: u32,
    fd: OwnedFd,
    layer: Layer,
    reader: Reader,
    /// Whether the shard waits until the kernel takes bytes.
    awaits_writable: bool,
    /// What the readiness set reports of the socket.
    watched: Interest,
}

/// Whether a connection is read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Reader {
    /// The next bytes are received as soon as they have come.
    Reading,
    /// The shard has paused the connection: nothing is received.
    Paused,
    /// The pause is over; the shard is to resume the connection before more is received.
    Resuming,
}

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
#[derive(Debug)]
pub(super) struct Sockets {
    slots: Vec<Option<Socket>>,
    readiness: Readiness,
    scratch: tls::Scratch,
}

impl Sockets {
    /// An empty table.
    ///
    /// # Errors
    /// When the kernel has no descriptor left.
    pub(super) fn new(own: ShardId) -> io::Result<Self> {
        Ok(Self { slots: Vec::new(), readiness: Readiness::new(own)?, scratch: tls::Scratch::default() })
    }

    /// Takes the socket of a new connection, which must not block. It is read from now on.
    ///
    /// # Errors
    /// When the kernel has no memory to watch it. The socket is closed then.
    pub(super) fn insert(&mut self, id: ConnId, fd: OwnedFd, layer: Layer) -> io::Result<()> {
        let slot = id.slot as usize;
        let watched = Interest { readable: true, writable: false };
        self.readiness.add(id, &fd, watched)?;
        if self.slots.len() <= slot {
            self.slots.resize_with(slot + 1, || None);
        }
        let (generation, reader) = (id.generation, Reader::Reading);
        self.slots[slot] = Some(Socket { generation, fd, layer, reader, awaits_writable: false, watched });
        Ok(())
    }

    /// A copy of the readiness set's descriptor: it is readable while [`Sockets::look`] has something to report.
    ///
    /// # Errors
    /// When the kernel has no descriptor left.
    pub(super) fn readiness(&self) -> io::Result<OwnedFd> {
        self.readiness.descriptor()
    }

    /// Asks the kernel which sockets are ready, and adds some of them to `ready`.
    pub(super) fn look(&mut self, ready: &mut Vec<ReadySocket>) {
        self.readiness.look(ready);
    }

    /// Receives what is there, without waiting. Returns `None` if the connection is not read now.
    pub(super) fn receive(&mut self, id: ConnId, into: &mut [u8]) -> Option<Result<usize, Errno>> {
        let Socket { fd, reader: Reader::Reading, .. } = self.get(id)? else {
            // Only now, because most pauses are over before more has come.
            self.watch(id);
            return None;
        };
        Some(rustix::net::recv(fd, into, RecvFlags::DONTWAIT).map(|(count, _)| count))
    }

    /// Closes a connection's socket. Returns whether it was still there.
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

    /// Has the readiness set report what the connection waits for.
    fn watch(&mut self, id: ConnId) {
        let Some(socket) = get(&mut self.slots, id) else { return };
        let is_draining = matches!(&socket.layer, Layer::Tls(tls) if tls.is_draining);
        let readable = socket.reader == Reader::Reading;
        let wanted = Interest { readable, writable: socket.awaits_writable || is_draining };
        if wanted != socket.watched {
            socket.watched = wanted;
            self.readiness.change(id, &socket.fd, wanted);
        }
    }

    /// Has [`Sockets::look`] report when the kernel takes bytes again.
    pub(super) fn await_writable(&mut self, id: ConnId) {
        if let Some(socket) = self.get(id) {
            socket.awaits_writable = true;
            self.watch(id);
        }
    }

    /// The kernel takes bytes again. Sends the TLS records that did not fit before, and returns whether the shard waits
    /// for it, too.
    pub(super) fn take_writable(&mut self, id: ConnId) -> bool {
        let drained = self.drain(id);
        let Some(socket) = self.get(id) else { return false };
        if let Layer::Tls(tls) = &mut socket.layer {
            tls.is_draining &= !drained;
        }
        let is_awaited = std::mem::take(&mut socket.awaits_writable);
        self.watch(id);
        is_awaited
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

    /// Has [`Sockets::look`] report when the TLS records that did not fit can be sent.
    pub(super) fn await_drained(&mut self, id: ConnId) {
        if let Some(Socket { layer: Layer::Tls(tls), .. }) = self.get(id) {
            tls.is_draining = true;
            self.watch(id);
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
    }

    /// Ends both directions at once, and discards what is unsent.
    pub(super) fn abort(&mut self, id: ConnId) {
        if let Some(Socket { fd, .. }) = self.get(id) {
            reset(&*fd);
        }
    }

    /// Has the kernel end the connection when its peer acknowledges nothing for `bound_ms` milliseconds.
    pub(super) fn bound_silence(&mut self, id: ConnId, bound_ms: u64) {
        if let Some(Socket { fd, .. }) = self.get(id) {
            let bound_ms = u32::try_from(bound_ms).unwrap_or(u32::MAX);
            // Fails on a unix socket, whose peer is on this machine and can't vanish.
            let _ = rustix::net::sockopt::set_tcp_user_timeout(&*fd, bound_ms);
        }
    }

    /// The shard has paused the connection: nothing is received until it has been resumed.
    pub(super) fn pause(&mut self, id: ConnId) {
        if let Some(socket) = self.get(id) {
            socket.reader = Reader::Paused;
        }
    }

    /// Ends a pause. Returns whether there was one: the shard has to resume the connection then.
    pub(super) fn end_pause(&mut self, id: ConnId) -> bool {
        let Some(socket) = self.get(id).filter(|socket| socket.reader == Reader::Paused) else { return false };
        socket.reader = Reader::Resuming;
        true
    }

    /// The connection is read from now on.
    pub(super) fn read_on(&mut self, id: ConnId) {
        if let Some(socket) = self.get(id) {
            socket.reader = Reader::Reading;
            self.watch(id);
        }
    }
}

fn get(slots: &mut [Option<Socket>], id: ConnId) -> Option<&mut Socket> {
    slots.get_mut(id.slot as usize)?.as_mut().filter(|socket| socket.generation == id.generation)
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
fn unacknowledged(fd: &OwnedFd) -> usize {
    #[expect(unsafe_code, reason = "rustix has no safe function for SIOCOUTQ")]
    // SAFETY: SIOCOUTQ writes one `int`, for which `Getter` has room.
    let queued = unsafe { rustix::ioctl::ioctl(fd, rustix::ioctl::Getter::<SIOCOUTQ, std::ffi::c_int>::new()) };
    queued.ok().and_then(|count| usize::try_from(count).ok()).unwrap_or(0)
}

/// Offers bytes to the kernel. Returns how many it took, or `None` if the peer is gone.
fn send(fd: &OwnedFd, pieces: &[IoSlice<'_>]) -> Option<usize> {
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
    use std::os::unix::net::UnixStream;

    use super::*;

    fn look(sockets: &mut Sockets) -> Vec<ReadySocket> {
        let mut ready = Vec::new();
        sockets.look(&mut ready);
        ready
    }

    #[test]
    fn a_paused_connection_is_not_read_until_it_has_been_resumed() {
        let id = ConnId { shard: ShardId(0), slot: 2, generation: 9 };
        let mut sockets = Sockets::new(ShardId(0)).expect("a descriptor is left");
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        sockets.insert(id, ours.into(), Layer::Plain).expect("it is watched");
        let mut buffer = [0; 8];
        assert!(!sockets.end_pause(id), "it is not paused");
        sockets.pause(id);
        rustix::io::write(&theirs, b"x").expect("a byte fits");
        // Most pauses are short, so the kernel is told only when it has reported the socket.
        assert!(look(&mut sockets).iter().all(|_| sockets.receive(id, &mut buffer).is_none()));
        assert_eq!(look(&mut sockets), []);
        assert!(sockets.end_pause(id));
        assert!(!sockets.end_pause(id), "the shard is asked once");
        assert!(sockets.receive(id, &mut buffer).is_none(), "the shard has not resumed it yet");
        assert_eq!(look(&mut sockets), []);
        sockets.read_on(id);
        assert_eq!(look(&mut sockets), [ReadySocket { id, readable: true, writable: false }]);
        assert_eq!(sockets.receive(id, &mut buffer), Some(Ok(1)));
        let gone = ConnId { generation: 8, ..id };
        assert!(sockets.receive(gone, &mut buffer).is_none() && !sockets.remove(gone), "an earlier connection's id");
        assert!(sockets.remove(id));
        assert_eq!(rustix::io::read(&theirs, &mut buffer), Ok(0), "the socket is closed");
    }

    #[test]
    fn writability_is_reported_once_for_each_wait() {
        let id = ConnId { shard: ShardId(0), slot: 0, generation: 0 };
        let mut sockets = Sockets::new(ShardId(0)).expect("a descriptor is left");
        let (ours, _theirs) = UnixStream::pair().expect("a pair");
        sockets.insert(id, ours.into(), Layer::Plain).expect("it is watched");
        assert_eq!(look(&mut sockets), []);
        sockets.await_writable(id);
        assert_eq!(look(&mut sockets), [ReadySocket { id, readable: false, writable: true }]);
        assert!(sockets.take_writable(id));
        assert_eq!(look(&mut sockets), []);
        assert!(!sockets.take_writable(id), "nobody waits");
    }

    #[test]
    fn a_slot_is_three_words() {
        assert_eq!(size_of::<Option<Socket>>(), 24);
    }
}
