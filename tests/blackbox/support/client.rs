//! A WebSocket client that this project did not write, with the requests of docs/protocol.md. Each wait has a deadline.
//! Knows what a proper client may do; what it would never send is for `raw`.

use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};

use super::{DEADLINE, Server, assert_shape, token};

/// One WebSocket client, over plain TCP unless it says otherwise.
pub struct Client<S = TcpStream> {
    ws: WebSocketStream<S>,
}

fn small_buffers() -> WebSocketConfig {
    // The default of 128 KiB each way would cost more than a gigabyte with ten thousand clients.
    WebSocketConfig::default().read_buffer_size(2048).write_buffer_size(0)
}

impl Client {
    /// Connects to any path, without reading anything.
    pub async fn connect(server: &Server, path: &str) -> Self {
        let tcp = timeout(DEADLINE, TcpStream::connect(server.addr)).await.expect("in time").expect("connects");
        tcp.set_nodelay(true).expect("nodelay");
        Self::over(tcp, &server.url(path)).await
    }

    /// Connects to `/ws` and reads the welcome.
    pub async fn open(server: &Server) -> Self {
        let mut client = Self::connect(server, "/ws").await;
        let welcome = client.next().await;
        assert_eq!(welcome["type"], "system", "{welcome}");
        client
    }

    /// Opens and signs in; the second value is `auth_success`.
    pub async fn join(server: &Server, id: impl Into<Value>, name: &str) -> (Self, Value) {
        Self::join_with(server, &token(id, name)).await
    }

    /// Opens and signs in with this token; the second value is `auth_success`.
    pub async fn join_with(server: &Server, token: &str) -> (Self, Value) {
        let mut client = Self::open(server).await;
        let success = client.auth(token).await;
        assert_eq!(success["type"], "auth_success", "{success}");
        (client, success)
    }

    /// Opens and shows this token, which the server has to refuse (`auth_failed`, then 4401).
    pub async fn is_refused(server: &Server, token: &str) {
        let mut client = Self::open(server).await;
        let answer = client.auth(token).await;
        assert_eq!(answer["type"], "auth_failed", "{answer}");
        client.closed(4401).await;
    }

    /// The TCP stream under the client.
    pub fn tcp(&self) -> &TcpStream {
        self.ws.get_ref()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    /// Upgrades a connection, without reading anything more.
    pub async fn over(stream: S, url: &str) -> Self {
        let request = url.into_client_request().expect("a request");
        let upgrading = tokio_tungstenite::client_async_with_config(request, stream, Some(small_buffers()));
        let (ws, _) = timeout(DEADLINE, upgrading).await.expect("in time").expect("upgrades");
        Self { ws }
    }

    /// Sends a token and returns whatever comes next.
    pub async fn auth(&mut self, token: &str) -> Value {
        self.send(&json!({"type": "auth", "data": {"token": token}})).await;
        self.next().await
    }

    pub async fn send(&mut self, value: &Value) {
        self.send_text(&value.to_string()).await;
    }

    pub async fn send_text(&mut self, text: &str) {
        self.send_message(Message::text(text)).await;
    }

    pub async fn send_message(&mut self, message: Message) {
        timeout(DEADLINE, self.ws.send(message)).await.expect("in time").expect("sends");
    }

    /// Sends frames together, in one write where the socket takes it.
    pub async fn pipeline(&mut self, values: &[Value]) {
        for value in values {
            self.ws.feed(Message::text(value.to_string())).await.expect("feeds");
        }
        timeout(DEADLINE, self.ws.flush()).await.expect("in time").expect("flushes");
    }

    pub async fn say(&mut self, text: &str) {
        self.send(&json!({"type": "message", "data": {"text": text}})).await;
    }

    /// The next text or binary message, or the close.
    pub async fn event(&mut self) -> Event {
        loop {
            match timeout(DEADLINE, self.ws.next()).await.expect("an answer in time") {
                Some(Ok(Message::Text(text))) => return Event::Text(text.to_string()),
                Some(Ok(Message::Binary(bytes))) => return Event::Binary(bytes.to_vec()),
                Some(Ok(Message::Close(frame))) => {
                    let (code, reason) =
                        frame.map_or((1005, String::new()), |frame| (u16::from(frame.code), frame.reason.to_string()));
                    return Event::Close(code, reason);
                }
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                Some(Err(Error::ConnectionClosed | Error::AlreadyClosed)) | None => return Event::Ended,
                Some(Err(Error::Io(_) | Error::Protocol(_))) => return Event::Ended,
                Some(Err(error)) => panic!("the client failed: {error}"),
            }
        }
    }

    /// The next message, which must be a JSON object.
    pub async fn next(&mut self) -> Value {
        match self.event().await {
            Event::Text(text) => {
                let value: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
                assert!(value.is_object(), "{text}");
                value
            }
            other => panic!("a message was due, not {other:?}"),
        }
    }

    /// The next message, which must be of this type.
    pub async fn expect(&mut self, kind: &str) -> Value {
        let value = self.next().await;
        assert_eq!(value["type"], kind, "{value}");
        value
    }

    /// `error`, and then the close with this code.
    pub async fn closed_after_error(&mut self, code: u16) {
        self.expect("error").await;
        self.closed(code).await;
    }

    /// The next message of this type; others are passed over.
    pub async fn find(&mut self, kind: &str) -> Value {
        loop {
            let value = self.next().await;
            if value["type"] == kind {
                return value;
            }
        }
    }

    /// The next message, which must be an error with this code and no `id`.
    pub async fn refused(&mut self, code: u16) -> Value {
        let value = self.next().await;
        assert_shape(&value, &json!({"type": "error", "code": code, "message": "<text>"}));
        value
    }

    /// The connection ends with this code, and nothing else comes before that.
    pub async fn closed(&mut self, code: u16) -> String {
        match self.event().await {
            Event::Close(found, reason) => {
                assert_eq!(found, code, "reason {reason:?}");
                assert!(reason.len() <= 123, "{reason:?}");
                // tungstenite has queued the answer; reading on sends it and must come to the end of the stream.
                assert!(matches!(self.event().await, Event::Ended), "data after a close");
                reason
            }
            other => panic!("close {code} was due, not {other:?}"),
        }
    }

    /// Proves that nothing of the lobby is on its way to this client: its own message is the next thing it sees.
    pub async fn nothing_pending(&mut self) {
        static BARRIER: AtomicU64 = AtomicU64::new(0);
        let text = format!("barrier {}", BARRIER.fetch_add(1, Ordering::Relaxed));
        self.say(&text).await;
        let value = self.next().await;
        assert!(value["type"] == "message" && value["data"]["text"] == text, "{value}, not {text:?}");
    }

    /// Closes as a client should, and waits for the server's half.
    pub async fn leave(mut self) {
        let frame = CloseFrame { code: CloseCode::Normal, reason: "".into() };
        self.ws.close(Some(frame)).await.expect("closes");
        loop {
            match self.event().await {
                Event::Close(code, _) => assert_eq!(code, 1000),
                Event::Ended => return,
                Event::Text(_) | Event::Binary(_) => {}
            }
        }
    }

    /// The socket is gone, as when the client's process is killed.
    pub fn vanish(self) {
        drop(self);
    }
}

#[derive(Debug)]
pub enum Event {
    Text(String),
    Binary(Vec<u8>),
    Close(u16, String),
    Ended,
}
