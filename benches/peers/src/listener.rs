//! The listening socket of every peer, the line that says it is ready, and the accept loop of those on tokio: one
//! current-thread runtime, one task per connection. It knows nothing of WebSocket.

use std::io::Write as _;
use std::net::{SocketAddr, TcpListener};

use anyhow::Context as _;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::TcpStream;

/// Connections the kernel may hold until they are accepted: a ramp of thousands comes at once.
const BACKLOG: i32 = 4096;

/// What a library does with one accepted connection.
pub trait Serve: Clone + Send + 'static {
    /// Runs the connection to its end.
    fn connection(self, stream: TcpStream) -> impl Future<Output = anyhow::Result<()>> + Send;
}

/// Raises the limit of open files to the hard one.
pub fn raise_file_limit() -> anyhow::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    setrlimit(Resource::Nofile, raised).context("raising the limit of open files")
}

/// A non-blocking listener.
pub fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    rustix::net::sockopt::set_socket_reuseaddr(&socket, true)?;
    rustix::net::bind(&socket, &address).with_context(|| format!("listening on {address}"))?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(TcpListener::from(socket))
}

/// Says on stdout where the peer can be reached; whoever started it waits for this line.
pub fn announce(listener: &TcpListener) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "listening on ws://{}", listener.local_addr()?)?;
    Ok(stdout.flush()?)
}

/// Serves until the process is killed.
pub fn serve(address: SocketAddr, server: impl Serve) -> anyhow::Result<()> {
    let listener = bind(address)?;
    announce(&listener)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        loop {
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                // The client left before it was accepted.
                Err(error) if Errno::from_io_error(&error) == Some(Errno::CONNABORTED) => continue,
                Err(error) => return Err(error).context("accept"),
            };
            // A peer that waits for Nagle would lose for a reason that isn't its own.
            stream.set_nodelay(true)?;
            let server = server.clone();
            // A client that is gone is no news: the load generator counts what it misses.
            tokio::spawn(async move { server.connection(stream).await.ok() });
        }
    })
}
