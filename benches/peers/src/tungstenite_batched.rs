//! tokio-tungstenite with batching by hand: what can be read at once is published as one shared batch, and all that
//! is pending for a connection is fed to its buffer and leaves with one flush. The library has no way to write bytes
//! framed elsewhere, so the header is still laid per subscriber.

use std::sync::Arc;

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::Route;
use crate::listener::Serve;
use crate::room::Room;

/// Messages of one batch, and batches of one flush.
const BATCH_MESSAGES: usize = 64;
const FLUSH_BATCHES: usize = 16;

type Batch = Arc<[Message]>;

#[derive(Clone, Default)]
pub struct Server {
    room: Room<Batch>,
}

impl Serve for Server {
    async fn connection(self, stream: TcpStream) -> anyhow::Result<()> {
        let (socket, route) = crate::tungstenite::accept(stream).await?;
        match route {
            Route::Echo => echo(socket).await?,
            Route::Fanout => fanout(socket, self.room).await?,
        }
        Ok(())
    }
}

/// The data messages of what could be read at once.
fn data(read: Vec<Result<Message, Error>>) -> Result<Vec<Message>, Error> {
    read.into_iter().filter(|read| !matches!(read, Ok(message) if !message.is_text() && !message.is_binary())).collect()
}

async fn echo(socket: WebSocketStream<TcpStream>) -> Result<(), Error> {
    let (mut sink, stream) = socket.split();
    let mut reads = stream.ready_chunks(BATCH_MESSAGES);
    while let Some(read) = reads.next().await {
        for message in data(read)? {
            sink.feed(message).await?;
        }
        sink.flush().await?;
    }
    Ok(())
}

async fn fanout(socket: WebSocketStream<TcpStream>, room: Room<Batch>) -> Result<(), Error> {
    let (_, mut queue) = room.join().await;
    let (mut sink, stream) = socket.split();
    // A task of its own, so that a publisher that waits for its own full queue goes on emptying it, and that no message
    // to be written polls the reading half. It ends with this one.
    let mut writer = JoinSet::new();
    writer.spawn(async move {
        let mut pending = Vec::with_capacity(FLUSH_BATCHES);
        while queue.recv_many(&mut pending, FLUSH_BATCHES).await > 0 {
            for batch in pending.drain(..) {
                for message in batch.iter() {
                    sink.feed(message.clone()).await?;
                }
            }
            sink.flush().await?;
        }
        Ok::<(), Error>(())
    });
    let mut reads = stream.ready_chunks(BATCH_MESSAGES);
    while let Some(read) = reads.next().await {
        let batch = data(read)?;
        if !batch.is_empty() {
            room.publish(batch.into()).await;
        }
    }
    Ok(())
}
