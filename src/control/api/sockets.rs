//! What the API listens on and talks through: TCP or a unix socket. The rest of the API does not tell them apart. `boot`
//! binds the listener, and `connections` accepts.

use std::io;
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use crate::config::ListenAddr;
use crate::limits::Peer;

/// Connections that may wait to be accepted. The kernel caps it at net.core.somaxconn.
const BACKLOG: i32 = 1024;
/// How long a peer may leave sent bytes unacknowledged.
const UNREAD: Duration = Duration::from_secs(30);

/// The API's bound socket.
#[derive(Debug)]
pub(crate) enum ApiListener {
    /// A TCP socket or connection.
    Tcp(TcpListener),
    /// A unix socket, or a connection through one.
    Unix(UnixListener, PathBuf),
}

impl ApiListener {
    /// The address that it listens on.
    pub(crate) fn addr(&self) -> io::Result<ListenAddr> {
        match self {
            Self::Tcp(listener) => listener.local_addr().map(ListenAddr::Tcp),
            Self::Unix(_, path) => Ok(ListenAddr::Unix(path.clone())),
        }
    }
}

/// The API's socket, registered with the runtime.
#[derive(Debug)]
pub(crate) enum Accepting {
    /// A TCP socket or connection.
    Tcp(tokio::net::TcpListener),
    /// A unix socket, or a connection through one.
    Unix(tokio::net::UnixListener),
}

impl Accepting {
    /// Registers a bound socket. Must be called within the runtime.
    pub(crate) fn new(listener: &ApiListener) -> io::Result<Self> {
        match listener {
            ApiListener::Tcp(listener) => {
                listener.set_nonblocking(true)?;
                socket2::SockRef::from(listener).listen(BACKLOG)?;
                tokio::net::TcpListener::from_std(listener.try_clone()?).map(Self::Tcp)
            }
            ApiListener::Unix(listener, _) => {
                listener.set_nonblocking(true)?;
                tokio::net::UnixListener::from_std(listener.try_clone()?).map(Self::Unix)
            }
        }
    }

    /// Accepts a connection, and says where it comes from.
    pub(crate) async fn accept(&self) -> io::Result<(ApiStream, Peer)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                // Both calls succeed on a TCP socket, and the connection works without them too.
                let _ = stream.set_nodelay(true);
                let _ = socket2::SockRef::from(&stream).set_tcp_user_timeout(Some(UNREAD));
                Ok((ApiStream::Tcp(stream), Peer::Ip(peer.ip())))
            }
            Self::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                Ok((ApiStream::Unix(stream), Peer::Unix))
            }
        }
    }
}

/// A connection of the API, over TCP or a unix socket.
#[derive(Debug)]
pub(crate) enum ApiStream {
    /// A TCP socket or connection.
    Tcp(TcpStream),
    /// A unix socket, or a connection through one.
    Unix(UnixStream),
}

macro_rules! each {
    ($stream:expr, $inner:ident => $call:expr) => {
        match $stream {
            ApiStream::Tcp($inner) => $call,
            ApiStream::Unix($inner) => $call,
        }
    };
}

impl AsyncRead for ApiStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        each!(&mut *self, stream => Pin::new(stream).poll_read(cx, to))
    }
}

impl AsyncWrite for ApiStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        each!(&mut *self, stream => Pin::new(stream).poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each!(&mut *self, stream => Pin::new(stream).poll_write_vectored(cx, pieces))
    }

    fn is_write_vectored(&self) -> bool {
        each!(self, stream => stream.is_write_vectored())
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(&mut *self, stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(&mut *self, stream => Pin::new(stream).poll_shutdown(cx))
    }
}
