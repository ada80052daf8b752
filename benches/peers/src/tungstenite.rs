//! tokio-tungstenite as a competent user writes it: one task per connection that reads and writes, a bounded queue of
//! messages each, `send` (a flush) per message.

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::http::StatusCode;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::Route;
use crate::listener::Serve;
use crate::room::Room;

/// The library clears this much before every attempt to read, in vain or not; its 128 KiB would cost a broadcast more
/// than the sends.
const READ_BUFFER_BYTES: usize = 4 * 1024;

#[derive(Clone, Default)]
pub struct Server {
    room: Room<Message>,
}

impl Serve for Server {
    async fn connection(self, stream: TcpStream) -> anyhow::Result<()> {
        let (socket, route) = accept(stream).await?;
        match route {
            Route::Echo => echo(socket).await?,
            Route::Fanout => fanout(socket, self.room).await?,
        }
        Ok(())
    }
}

/// The handshake, shared with the batched form: it is the same library's.
pub async fn accept(stream: TcpStream) -> anyhow::Result<(WebSocketStream<TcpStream>, Route)> {
    let mut route = None;
    // The callback's type is the library's.
    #[allow(clippy::result_large_err)]
    let check = |request: &Request, response: Response| -> Result<Response, ErrorResponse> {
        route = Route::of(request.uri().path());
        if route.is_some() {
            return Ok(response);
        }
        let mut refusal = ErrorResponse::new(None);
        *refusal.status_mut() = StatusCode::NOT_FOUND;
        Err(refusal)
    };
    let config = WebSocketConfig::default().read_buffer_size(READ_BUFFER_BYTES);
    let socket = tokio_tungstenite::accept_hdr_async_with_config(stream, check, Some(config)).await?;
    Ok((socket, route.expect("accepted only with a route")))
}

async fn echo(mut socket: WebSocketStream<TcpStream>) -> Result<(), Error> {
    // After a close frame the library answers it by itself and then ends the stream.
    while let Some(message) = socket.next().await.transpose()? {
        if message.is_text() || message.is_binary() {
            socket.send(message).await?;
        }
    }
    Ok(())
}

async fn fanout(socket: WebSocketStream<TcpStream>, room: Room<Message>) -> Result<(), Error> {
    let (_, mut queue) = room.join().await;
    let (mut sink, mut stream) = socket.split();
    // Side by side, so that a publisher that waits for its own full queue goes on emptying it.
    let read = async {
        while let Some(message) = stream.next().await.transpose()? {
            if message.is_text() || message.is_binary() {
                room.publish(message).await;
            }
        }
        Ok(())
    };
    let write = async {
        while let Some(message) = queue.recv().await {
            sink.send(message).await?;
        }
        Ok(())
    };
    tokio::select! { end = read => end, end = write => end }
}
