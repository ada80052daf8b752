//! The sockets of one shard. `Sockets` owns every transport and is what the pure part sends through; `serve` is
//! the one task that a connection has while it is idle, parked on readability without a buffer. A second task,
//! the writer, exists only while the kernel takes no more. Knows nothing of what the bytes mean.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::panic::AssertUnwindSafe;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

use monoio::net::TcpStream;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown};

use crate::ids::ConnId;
use crate::reactor::Reactor;
use crate::shard::{Action, Input, Sent, Wire};

/// Size of the one buffer that all of a shard's connections receive into.
pub const RECEIVE_BYTES: usize = 64 * 1024;

/// How bytes reach a peer. A closed set: TLS will be a case here, not a path of its own.
#[derive(Debug)]
pub enum Transport {
    /// Plain TCP.
    Tcp(TcpStream),
}

impl Transport {
    async fn readable(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.readable(false).await,
        }
    }

    async fn writable(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.writable(false).await,
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
        match self {
            // SAFETY: the stream keeps its descriptor open until it is dropped, which the borrow can't outlive.
            Self::Tcp(stream) => unsafe { BorrowedFd::borrow_raw(stream.as_raw_fd()) },
        }
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

/// Serves one connection until it ends. A panic ends this connection and nothing else.
pub async fn serve(reactor: Rc<Reactor>, id: ConnId, transport: Rc<Transport>) {
    let mut reading = std::pin::pin!(read(&reactor, id, &transport));
    let caught = std::future::poll_fn(|context| {
        let poll = std::panic::catch_unwind(AssertUnwindSafe(|| reading.as_mut().poll(context)));
        match poll {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(())) => Poll::Ready(false),
            Err(_) => Poll::Ready(true),
        }
    });
    if caught.await {
        tracing::error!(conn = %id, "a panic ended this connection; the shard lives on");
    }
    reactor.closed(id);
}

async fn read(reactor: &Rc<Reactor>, id: ConnId, transport: &Rc<Transport>) {
    let mut input = Input::Open;
    loop {
        input = match input {
            Input::Ended => return,
            Input::Paused => {
                resumed(&reactor.sockets, id).await;
                reactor.with(|shard, now| shard.resume(id, now))
            }
            Input::Open => {
                if transport.readable().await.is_err() {
                    return;
                }
                match receive(reactor, id, transport) {
                    Some(input) => input,
                    None => return,
                }
            }
        };
    }
}

/// Takes what the kernel has; `None` at the end of the stream.
fn receive(reactor: &Rc<Reactor>, id: ConnId, transport: &Transport) -> Option<Input> {
    let mut buffer = reactor.buffer.borrow_mut();
    match rustix::net::recv(transport, &mut buffer[..], RecvFlags::DONTWAIT) {
        Ok((0, _)) => None,
        Ok((count, _)) => Some(reactor.with(|shard, now| shard.receive(id, &mut buffer[..count], now))),
        Err(Errno::AGAIN | Errno::INTR) => Some(reactor.with(|shard, _| shard.input(id))),
        Err(_) => None,
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
    if transport.writable().await.is_ok() {
        reactor.with_wire(|shard, wire, now| shard.writable(id, wire, now));
    }
}
