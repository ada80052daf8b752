//! fastwebsockets behind hyper, by the library's own `upgrade`. The echo is the library's own example; the fan-out
//! splits the socket and puts a buffer before its writing half, so that all that is pending leaves in one write.

use std::sync::Arc;

use anyhow::Context as _;
use fastwebsockets::upgrade::{UpgradeFut, upgrade};
use fastwebsockets::{FragmentCollector, FragmentCollectorRead, Frame, OpCode, Payload, WebSocketError};
use http_body_util::Empty;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::BufWriter;
use tokio::net::TcpStream;

use crate::Route;
use crate::listener::Serve;
use crate::room::Room;

/// What is gathered before the writing half goes to the kernel by itself.
const WRITE_BUFFER_BYTES: usize = 16 * 1024;
/// Messages of one flush.
const FLUSH_MESSAGES: usize = 64;

/// A frame that many connections write.
#[derive(Clone)]
struct Outgoing {
    opcode: OpCode,
    payload: Arc<[u8]>,
}

impl From<Frame<'_>> for Outgoing {
    fn from(frame: Frame<'_>) -> Self {
        Self { opcode: frame.opcode, payload: Arc::from(&*frame.payload) }
    }
}

#[derive(Clone, Default)]
pub struct Server {
    room: Room<Outgoing>,
}

impl Serve for Server {
    async fn connection(self, stream: TcpStream) -> anyhow::Result<()> {
        let service = service_fn(|request| self.request(request));
        let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
        connection.with_upgrades().await.context("the upgrade")
    }
}

impl Server {
    async fn request(&self, mut request: Request<Incoming>) -> Result<Response<Empty<Bytes>>, WebSocketError> {
        let Some(route) = Route::of(request.uri().path()) else {
            let mut refusal = Response::new(Empty::new());
            *refusal.status_mut() = StatusCode::NOT_FOUND;
            return Ok(refusal);
        };
        let (response, upgraded) = upgrade(&mut request)?;
        let room = self.room.clone();
        tokio::spawn(async move {
            match route {
                Route::Echo => tokio::task::unconstrained(echo(upgraded)).await,
                Route::Fanout => fanout(upgraded, room).await,
            }
        });
        Ok(response)
    }
}

async fn echo(upgraded: UpgradeFut) -> Result<(), WebSocketError> {
    let mut socket = FragmentCollector::new(upgraded.await?);
    loop {
        let frame = socket.read_frame().await?;
        match frame.opcode {
            OpCode::Close => return Ok(()),
            OpCode::Text | OpCode::Binary => socket.write_frame(frame).await?,
            _ => {}
        }
    }
}

async fn fanout(upgraded: UpgradeFut, room: Room<Outgoing>) -> Result<(), WebSocketError> {
    let (read, mut sink) = upgraded.await?.split(|stream| {
        let (read, write) = tokio::io::split(stream);
        (read, BufWriter::with_capacity(WRITE_BUFFER_BYTES, write))
    });
    let mut stream = FragmentCollectorRead::new(read);
    let (own, mut queue) = room.join().await;
    // Side by side, so that a publisher that waits for its own full queue goes on emptying it.
    let read = async {
        loop {
            // Pongs and the answer to a close, which only the writing half can send.
            let mut answer = |frame: Frame<'_>| {
                let (own, frame) = (own.clone(), Outgoing::from(frame));
                async move { own.send(frame).await }
            };
            let frame = stream.read_frame(&mut answer).await?;
            match frame.opcode {
                // The writing half ends the connection once its answer is out.
                OpCode::Close => std::future::pending().await,
                OpCode::Text | OpCode::Binary => room.publish(frame.into()).await,
                _ => {}
            }
        }
    };
    let write = async {
        let mut pending = Vec::with_capacity(FLUSH_MESSAGES);
        while queue.recv_many(&mut pending, FLUSH_MESSAGES).await > 0 {
            for Outgoing { opcode, payload } in pending.drain(..) {
                sink.write_frame(Frame::new(true, opcode, None, Payload::Borrowed(&payload))).await?;
                if opcode == OpCode::Close {
                    return sink.flush().await;
                }
            }
            sink.flush().await?;
        }
        Ok(())
    };
    tokio::select! { end = read => end, end = write => end }
}
