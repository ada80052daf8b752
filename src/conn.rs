//! The sockets of one shard. `Sockets` owns every transport and is what the pure part sends through; `serve` is
//! the one task that a connection has while it is idle, parked on readability without a buffer. A second task,
//! the writer, exists only while the kernel takes no more. Knows nothing of what the bytes mean.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::panic::AssertUnwindSafe;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

use monoio::net::{TcpStream, UnixStream};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown};

use crate::ids::ConnId;
use crate::metrics::Count;
use crate::proto::proxy::{self, Proxied};
use crate::reactor::Reactor;
use crate::shard::{Action, Input, Sent, Wire};

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
    /// Takes over an accepted socket.
    ///
    /// # Errors
    /// When the runtime refuses the descriptor; it is closed then.
    pub fn new(accepted: TcpStream) -> io::Result<Self> {
        #[expect(unsafe_code, reason = "monoio's streams give their descriptor away as a number only")]
        // SAFETY: `into_raw_fd` has just given up the only ownership of an open descriptor.
        let fd = unsafe { OwnedFd::from_raw_fd(accepted.into_raw_fd()) };
        UnixStream::from_std(fd.into()).map(Self)
    }
}

impl Transport {
    /// Reads what a trusted proxy says first, and not a byte more.
    ///
    /// # Errors
    /// When it says something else, or nothing.
    pub async fn proxy_header(&self) -> io::Result<Proxied> {
        let mut header = Vec::new();
        loop {
            if let Some(proxied) = proxy::parse(&header).map_err(io::Error::other)? {
                return Ok(proxied);
            }
            self.0.readable(false).await?;
            let have = header.len();
            let wanted = proxy::wanted(&header).map_err(io::Error::other)?;
            header.resize(have + wanted, 0);
            let count = match rustix::net::recv(self, &mut header[have..], RecvFlags::DONTWAIT) {
                Ok((0, _)) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok((count, _)) => count,
                Err(Errno::AGAIN | Errno::INTR) => 0,
                Err(error) => return Err(error.into()),
            };
            header.truncate(have + count);
        }
    }
}

/// One slot: what sending touches lies together.
#[derive(Debug)]
struct Socket {
    generation: u32,
    fd: RawFd,
    /// Keeps `fd` open.
    transport: Rc<Transport>,
    /// The reader, while it must not read.
    waker: Option<Waker>,
}

/// The sockets of a shard's connections, by slot.
#[derive(Debug, Default)]
pub struct Sockets {
    slots: Vec<Option<Socket>>,
}

impl Sockets {
    /// Takes the transport of a new connection.
    pub fn insert(&mut self, id: ConnId, transport: Rc<Transport>) {
        let slot = id.slot as usize;
        if self.slots.len() <= slot {
            self.slots.resize_with(slot + 1, || None);
        }
        let fd = transport.as_fd().as_raw_fd();
        self.slots[slot] = Some(Socket { generation: id.generation, fd, transport, waker: None });
    }

    /// Lets go of a connection's transport.
    pub fn remove(&mut self, id: ConnId) {
        if self.get(id).is_some() {
            self.slots[id.slot as usize] = None;
        }
    }

    fn get(&mut self, id: ConnId) -> Option<&mut Socket> {
        self.slots.get_mut(id.slot as usize)?.as_mut().filter(|socket| socket.generation == id.generation)
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

impl AsFd for Socket {
    #[expect(
        unsafe_code,
        reason = "the copy of the descriptor beside its owner saves a walk through two pointers per send"
    )]
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: `fd` is the descriptor of `transport`, which keeps it open as long as this socket exists.
        unsafe { BorrowedFd::borrow_raw(self.fd) }
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
        let Some(socket) = self.get(conn) else { return Sent::Gone };
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        loop {
            let sent = match pieces {
                [one] => rustix::net::send(&*socket, one, flags),
                many => rustix::net::sendmsg(&*socket, many, &mut SendAncillaryBuffer::default(), flags),
            };
            return match sent {
                Ok(count) => Sent::Bytes(count),
                Err(Errno::AGAIN | Errno::NOBUFS | Errno::NOMEM) => Sent::Bytes(0),
                Err(Errno::INTR) => continue,
                Err(_) => Sent::Gone,
            };
        }
    }
}

/// Serves one connection until it ends. Every idle connection holds this future: what it keeps across an `.await`
/// is counted in bytes.
pub fn serve(reactor: Rc<Reactor>, id: ConnId, transport: Rc<Transport>) -> impl Future<Output = ()> {
    // Not an `async fn`, which would keep its arguments twice.
    async move {
        let mut input = Input::Open;
        while input != Input::Ended {
            input = if input == Input::Paused {
                resumed(&reactor.sockets, id).await;
                guarded(&reactor, id, || reactor.with(|shard, now| shard.resume(id, now)))
            } else if transport.0.readable(false).await.is_ok() {
                guarded(&reactor, id, || receive(&reactor, id, &transport))
            } else {
                Input::Ended
            };
        }
        reactor.closed(id);
    }
}

/// A panic over what one connection sent ends this connection and nothing else.
fn guarded(reactor: &Reactor, id: ConnId, work: impl FnOnce() -> Input) -> Input {
    std::panic::catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
        reactor.metrics.count(Count::Panics);
        tracing::error!(conn = %id, "a panic ended this connection; the shard lives on");
        Input::Ended
    })
}

/// Takes what the kernel has.
fn receive(reactor: &Rc<Reactor>, id: ConnId, transport: &Transport) -> Input {
    let mut buffer = reactor.buffer.borrow_mut();
    match rustix::net::recv(transport, &mut buffer[..], RecvFlags::DONTWAIT) {
        Ok((0, _)) => Input::Ended,
        Ok((count, _)) => reactor.with(|shard, now| shard.receive(id, &mut buffer[..count], now)),
        Err(Errno::AGAIN | Errno::INTR) => reactor.with(|shard, _| shard.input(id)),
        Err(_) => Input::Ended,
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
            Action::Resume(id) => sockets.wake_reader(id),
            Action::AwaitWritable(id) => {
                if let Some(transport) = sockets.transport(id) {
                    monoio::spawn(write(Rc::clone(reactor), id, transport));
                }
            }
            Action::Finish(id) => {
                if let Some(socket) = sockets.get(id) {
                    // Fails only if the peer is gone, and then reading says so.
                    let _ = rustix::net::shutdown(&*socket, Shutdown::Write);
                }
            }
            Action::Abort(id) => {
                if let Some(socket) = sockets.get(id) {
                    let _ = rustix::net::sockopt::set_socket_linger(&*socket, Some(Duration::ZERO));
                    let _ = rustix::net::shutdown(&*socket, Shutdown::Both);
                }
                sockets.wake_reader(id);
            }
        }
    }
}

/// Waits until the kernel takes bytes again. The pure part asks for another writer if that wasn't enough.
async fn write(reactor: Rc<Reactor>, id: ConnId, transport: Rc<Transport>) {
    if transport.0.writable(false).await.is_ok() {
        reactor.with_wire(|shard, wire, now| shard.writable(id, wire, now));
    }
}
