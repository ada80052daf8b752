//! What the small servers of these tests have in common: the handshake. Used by the test programs beside it.

use std::net::TcpStream;

use tungstenite::handshake::server::{Request, Response};
use tungstenite::{WebSocket, accept_hdr};

/// A connection that was upgraded, and whether its path is the echo's.
#[expect(clippy::result_large_err, reason = "the callback's type is the library's")]
pub fn upgraded(stream: TcpStream) -> Option<(WebSocket<TcpStream>, bool)> {
    let mut echo = false;
    let note_path = |request: &Request, response: Response| {
        echo = request.uri().path() == "/echo";
        Ok(response)
    };
    stream.set_nodelay(true).ok()?;
    let socket = accept_hdr(stream, note_path).ok()?;
    Some((socket, echo))
}
