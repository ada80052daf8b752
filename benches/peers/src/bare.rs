//! The floor: one thread, level-triggered epoll, and one `send(2)` per socket and window, with nothing else done per
//! socket. What a socket doesn't take is kept for it and finished before anything else is read: the publisher waits,
//! nothing is lost. Owns every socket of the peer; `wire` is the protocol.

mod wire;

use std::net::{SocketAddr, TcpListener};
use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;

use anyhow::Context as _;
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, SocketFlags};

use self::wire::{Frame, Kind, Upgrade};
use crate::Route;
use crate::listener;

const RECEIVE_BYTES: usize = 64 * 1024;
const EVENTS: usize = 256;
/// The listener's token; connections are numbered from 0.
const LISTENER: u64 = u64::MAX;

/// Serves until the process is killed: `window` messages leave as one buffer.
pub fn serve(address: SocketAddr, window: NonZeroUsize) -> anyhow::Result<()> {
    let listener = listener::bind(address)?;
    listener::announce(&listener)?;
    Floor::new(listener, window)?.run()
}

struct Connection {
    socket: OwnedFd,
    /// None until the upgrade.
    route: Option<Route>,
    /// The begin of a request or of a frame.
    partial: Vec<u8>,
    /// What the kernel didn't take.
    unsent: Vec<u8>,
}

/// The connection is over.
struct Gone;

struct Floor {
    listener: TcpListener,
    /// Waited on while every socket has taken all that was sent to it…
    readable: OwnedFd,
    /// …and this one, with the sockets that haven't, until they have.
    writable: OwnedFd,
    blocked: usize,
    connections: Vec<Option<Connection>>,
    vacant: Vec<usize>,
    subscribers: Vec<usize>,
    window: usize,
    /// Messages of the window that are there, as the frames to be sent.
    pending: usize,
    batch: Vec<u8>,
    input: Vec<u8>,
    /// Echoes, pongs and closes of one receive.
    answers: Vec<u8>,
}

impl Floor {
    fn new(listener: TcpListener, window: NonZeroUsize) -> anyhow::Result<Self> {
        let readable = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(&readable, &listener, EventData::new_u64(LISTENER), EventFlags::IN)?;
        Ok(Self {
            listener,
            readable,
            writable: epoll::create(CreateFlags::CLOEXEC)?,
            blocked: 0,
            connections: Vec::new(),
            vacant: Vec::new(),
            subscribers: Vec::new(),
            window: window.get(),
            pending: 0,
            batch: Vec::new(),
            input: vec![0; RECEIVE_BYTES],
            answers: Vec::new(),
        })
    }

    fn run(mut self) -> anyhow::Result<()> {
        let mut events: Vec<Event> = Vec::with_capacity(EVENTS);
        loop {
            events.clear();
            let waited = if self.blocked == 0 { &self.readable } else { &self.writable };
            match epoll::wait(waited, spare_capacity(&mut events), None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error).context("epoll_wait"),
            }
            let reading = self.blocked == 0;
            for event in &events {
                match event.data.u64() {
                    LISTENER => self.accept()?,
                    token if reading => self.read(token as usize),
                    token => self.finish(token as usize),
                }
                if reading && self.blocked > 0 {
                    // The events left over are level-triggered: they come again.
                    break;
                }
            }
        }
    }

    fn accept(&mut self) -> anyhow::Result<()> {
        let socket = match rustix::net::accept_with(&self.listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
            Ok(socket) => socket,
            Err(Errno::AGAIN | Errno::CONNABORTED | Errno::INTR) => return Ok(()),
            Err(error) => return Err(error).context("accept"),
        };
        rustix::net::sockopt::set_tcp_nodelay(&socket, true)?;
        let token = self.vacant.pop().unwrap_or(self.connections.len());
        epoll::add(&self.readable, &socket, EventData::new_u64(token as u64), EventFlags::IN)?;
        let connection = Some(Connection { socket, route: None, partial: Vec::new(), unsent: Vec::new() });
        match self.connections.get_mut(token) {
            Some(vacant) => *vacant = connection,
            None => self.connections.push(connection),
        }
        Ok(())
    }

    fn read(&mut self, token: usize) {
        let Some(connection) = self.connections[token].as_mut() else { return };
        let received = match rustix::net::recv(&connection.socket, &mut self.input[..], RecvFlags::DONTWAIT) {
            Ok((0, _)) => return self.leave(token),
            Ok((received, _)) => received,
            Err(Errno::AGAIN | Errno::INTR) => return,
            Err(_) => return self.leave(token),
        };
        let mut partial = std::mem::take(&mut connection.partial);
        let used = if partial.is_empty() {
            let mut input = std::mem::take(&mut self.input);
            let used = self.consume(token, &mut input[..received]);
            if let Ok(used) = used {
                partial.extend_from_slice(&input[used..received]);
            }
            self.input = input;
            used.map(|_| ())
        } else {
            partial.extend_from_slice(&self.input[..received]);
            self.consume(token, &mut partial).map(|used| drop(partial.drain(..used)))
        };
        match (used, self.connections[token].as_mut()) {
            (Ok(()), Some(connection)) => connection.partial = partial,
            (Ok(()), None) => {}
            (Err(Gone), _) => self.leave(token),
        }
    }

    /// Takes what is whole at the begin of `bytes` and says how much that was.
    fn consume(&mut self, token: usize, bytes: &mut [u8]) -> Result<usize, Gone> {
        let (route, mut used) = match self.connections[token].as_ref().ok_or(Gone)?.route {
            Some(route) => (route, 0),
            None => match self.upgrade(token, bytes)? {
                Some(upgraded) => upgraded,
                None => return Ok(0),
            },
        };
        let mut answers = std::mem::take(&mut self.answers);
        let open = loop {
            let (frame, length) = match wire::next(&mut bytes[used..]) {
                Ok(Some(next)) => next,
                Ok(None) => break Ok(()),
                Err(refused) => {
                    refused.close().put(&mut answers);
                    break Err(Gone);
                }
            };
            used += length;
            match (frame.kind, route) {
                (Kind::Data, Route::Echo) => frame.put(&mut answers),
                (Kind::Data, Route::Fanout) => self.publish(frame),
                (Kind::Ping, _) => frame.pong().put(&mut answers),
                (Kind::Pong, _) => {}
                (Kind::Close, _) => {
                    frame.put(&mut answers);
                    break Err(Gone);
                }
            }
        };
        let sent = self.send(token, &answers);
        answers.clear();
        self.answers = answers;
        open.and(sent).map(|()| used)
    }

    /// The route and the length of the request, once it is whole.
    fn upgrade(&mut self, token: usize, bytes: &[u8]) -> Result<Option<(Route, usize)>, Gone> {
        match wire::upgrade(bytes) {
            Upgrade::Partial => Ok(None),
            Upgrade::Refused(answer) => {
                self.send(token, answer.as_bytes())?;
                Err(Gone)
            }
            Upgrade::Accepted { route, length, answer } => {
                self.send(token, answer.as_bytes())?;
                self.connections[token].as_mut().ok_or(Gone)?.route = Some(route);
                if route == Route::Fanout {
                    self.subscribers.push(token);
                }
                Ok(Some((route, length)))
            }
        }
    }

    fn publish(&mut self, frame: Frame<'_>) {
        frame.put(&mut self.batch);
        self.pending += 1;
        if self.pending == self.window {
            self.broadcast();
        }
    }

    fn broadcast(&mut self) {
        let (mut batch, subscribers) = (std::mem::take(&mut self.batch), std::mem::take(&mut self.subscribers));
        self.pending = 0;
        let mut gone = Vec::new();
        for &token in &subscribers {
            if self.send(token, &batch).is_err() {
                gone.push(token);
            }
        }
        batch.clear();
        (self.batch, self.subscribers) = (batch, subscribers);
        gone.into_iter().for_each(|token| self.leave(token));
    }

    fn send(&mut self, token: usize, bytes: &[u8]) -> Result<(), Gone> {
        let Some(connection) = self.connections[token].as_mut() else { return Ok(()) };
        if bytes.is_empty() {
            return Ok(());
        }
        if !connection.unsent.is_empty() {
            // Only the rest of one receive comes here: nothing more is read until this has left.
            connection.unsent.extend_from_slice(bytes);
            return Ok(());
        }
        let sent = connection.send(bytes)?;
        if sent < bytes.len() {
            connection.unsent.extend_from_slice(&bytes[sent..]);
            let event = EventData::new_u64(token as u64);
            epoll::add(&self.writable, &connection.socket, event, EventFlags::OUT).map_err(|_| Gone)?;
            self.blocked += 1;
        }
        Ok(())
    }

    fn finish(&mut self, token: usize) {
        let Some(connection) = self.connections[token].as_mut() else { return };
        let unsent = std::mem::take(&mut connection.unsent);
        let sent = connection.send(&unsent);
        connection.unsent = unsent;
        let Ok(sent) = sent else { return self.leave(token) };
        connection.unsent.drain(..sent);
        if connection.unsent.is_empty() {
            self.blocked -= 1;
            if epoll::delete(&self.writable, &connection.socket).is_err() {
                self.leave(token);
            }
        }
    }

    fn leave(&mut self, token: usize) {
        let Some(connection) = self.connections[token].take() else { return };
        self.vacant.push(token);
        self.blocked -= usize::from(!connection.unsent.is_empty());
        // Closing the socket takes it out of both epolls.
        drop(connection);
        self.subscribers.retain(|subscriber| *subscriber != token);
        // It may have been the publisher: the begun window would wait for ever.
        if self.pending > 0 {
            self.broadcast();
        }
    }
}

impl Connection {
    /// How much of `bytes` the kernel took.
    fn send(&self, bytes: &[u8]) -> Result<usize, Gone> {
        match rustix::net::send(&self.socket, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Ok(sent) => Ok(sent),
            Err(Errno::AGAIN | Errno::INTR) => Ok(0),
            Err(_) => Err(Gone),
        }
    }
}
