//! The header with which a trusted proxy begins a connection: reads it, and not a byte of what follows. That happens before
//! the shard knows the connection. Called by `accept`; `wire::proxy` knows the format.

use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::RecvFlags;

use crate::io::driver::{Turnstile, as_fd, from_pollable, pollable};
use crate::wire::proxy::{self, Proxied, ProxyError};

/// Reads the header that a trusted proxy sends first, and not a byte more: looks at what is there with `MSG_PEEK`, and
/// then takes the bytes of the header. Returns the socket, too. An error, or the end of the future, closes it.
///
/// # Errors
/// When the peer sends something else, or ends the connection, or the runtime refuses the socket.
pub(super) async fn read(socket: OwnedFd, turnstile: &Turnstile) -> Result<(OwnedFd, Proxied), ProxyError> {
    let socket = pollable(socket).map_err(|_| ProxyError::Ended)?;
    let mut header = Vec::new();
    loop {
        if let Some(proxied) = proxy::parse(&header)? {
            return Ok((from_pollable(socket), proxied));
        }
        turnstile.readable(&socket).await.map_err(|_| ProxyError::Ended)?;
        let have = header.len();
        header.resize(proxy::HEADER_MAX, 0);
        let come = peek(as_fd(&socket), &mut header[have..])?;
        header.truncate(have + come);
        let whole = proxy::length(&header)?;
        header.truncate(whole.map_or(header.len(), |length| length.min(header.len())));
        // The bytes that `peek` has seen are there to be taken.
        let _ = rustix::net::recv(as_fd(&socket), &mut header[have..], RecvFlags::DONTWAIT);
    }
}

/// Copies bytes that are there into `into` and leaves them in the socket. Returns how many.
fn peek(socket: impl AsFd, into: &mut [u8]) -> Result<usize, ProxyError> {
    match rustix::net::recv(socket, into, RecvFlags::DONTWAIT | RecvFlags::PEEK) {
        Ok((0, _)) => Err(ProxyError::Ended),
        Ok((count, _)) => Ok(count),
        Err(Errno::AGAIN | Errno::INTR) => Ok(0),
        Err(_) => Err(ProxyError::Ended),
    }
}
