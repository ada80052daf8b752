//! A client of event streams: an HTTP request, then a reader of server-sent events that follows the standard (WHATWG HTML,
//! section 9.2.6) and keeps the last event id as a browser does. Each wait has a deadline.

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::raw::Response;
use super::{DEADLINE, Raw, Server};

/// One event as a page gets it.
#[derive(Clone, Debug, PartialEq)]
pub struct StreamEvent {
    /// `message` where the stream says nothing.
    pub name: String,
    pub data: Value,
    /// The last event id as it is with this event.
    pub id: String,
}

/// What an event stream is asked for with.
#[derive(Clone, Debug, Default)]
pub struct StreamQuery {
    pub path: String,
    pub token: String,
    pub last_event_id: String,
    /// Further header lines, each with its line end.
    pub headers: String,
    /// HTTP/1.0: a proxy must not chunk its answer.
    pub is_http_1_0: bool,
}

impl StreamQuery {
    /// These channels, for the user of this token.
    pub fn new(channels: &[&str], token: &str) -> Self {
        let query: Vec<String> = channels.iter().map(|channel| format!("channel={channel}")).collect();
        Self { path: format!("/sse?{}", query.join("&")), token: token.to_owned(), ..Self::default() }
    }

    /// From the position that this id holds.
    pub fn from(mut self, last_event_id: &str) -> Self {
        last_event_id.clone_into(&mut self.last_event_id);
        self
    }

    /// With a header line.
    pub fn with(mut self, line: &str) -> Self {
        self.headers += &format!("{line}\r\n");
        self
    }

    fn text(&self, server: &Server) -> String {
        let version = if self.is_http_1_0 { "1.0" } else { "1.1" };
        let (path, host) = (&self.path, server.addr);
        let mut head = format!("GET {path} HTTP/{version}\r\nHost: {host}\r\nAccept: text/event-stream\r\n");
        if !self.token.is_empty() {
            head += &format!("Authorization: Bearer {}\r\n", self.token);
        }
        if !self.last_event_id.is_empty() {
            head += &format!("Last-Event-ID: {}\r\n", self.last_event_id);
        }
        head + &self.headers + "\r\n"
    }
}

/// An event stream that has begun.
pub struct EventStream {
    pub raw: Raw,
    pub response: Response,
    /// What a browser would send as Last-Event-ID.
    pub last_event_id: String,
    pub retry_ms: Option<u64>,
    /// Comments that have come.
    pub comments: usize,
    pending_id: String,
}

impl EventStream {
    /// Asks for a stream; the answer has to be one.
    pub async fn open(server: &Server, query: &StreamQuery) -> Self {
        match Self::ask(server, query).await {
            Ok(stream) => stream,
            Err((response, body)) => panic!("{query:?} was answered {response:?} {body}"),
        }
    }

    /// Asks for a stream; another answer comes back with its body.
    pub async fn ask(server: &Server, query: &StreamQuery) -> Result<Self, (Response, String)> {
        let raw = Raw::connect(server).await;
        Self::ask_over(raw, server, query).await
    }

    /// The same on a connection that is there.
    pub async fn ask_over(mut raw: Raw, server: &Server, query: &StreamQuery) -> Result<Self, (Response, String)> {
        raw.write(query.text(server).as_bytes()).await;
        let response = raw.response().await;
        if response.status != 200 {
            let body = String::from_utf8(raw.rest().await).expect("text");
            return Err((response, body));
        }
        assert_eq!(response.header("content-type"), Some("text/event-stream"));
        let last_event_id = query.last_event_id.clone();
        let pending_id = last_event_id.clone();
        Ok(Self { raw, response, last_event_id, retry_ms: None, comments: 0, pending_id })
    }

    /// The next event; none at the end of the stream. What came of an event before the end is dropped, as browsers do.
    pub async fn event(&mut self) -> Option<StreamEvent> {
        loop {
            while let Some(end) = self.raw.received.windows(2).position(|pair| pair == b"\n\n") {
                let block: Vec<u8> = self.raw.received.drain(..end + 2).collect();
                if let Some(event) = self.block(&String::from_utf8(block).expect("UTF-8")) {
                    return Some(event);
                }
            }
            if !self.more().await {
                return None;
            }
        }
    }

    /// Takes what has come; false at the end of the stream.
    async fn more(&mut self) -> bool {
        let read = timeout(DEADLINE, self.raw.tcp.read_buf(&mut self.raw.received)).await;
        matches!(read.expect("an event in time"), Ok(1..))
    }

    fn block(&mut self, block: &str) -> Option<StreamEvent> {
        let (mut name, mut data) = (String::new(), None::<String>);
        for line in block.lines() {
            let (field, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "" if !line.is_empty() => self.comments += 1,
                "event" => name = value.to_owned(),
                "id" => self.pending_id = value.to_owned(),
                "retry" => self.retry_ms = Some(value.parse().expect("milliseconds")),
                "data" => {
                    let data = data.get_or_insert_default();
                    if !data.is_empty() {
                        data.push('\n');
                    }
                    data.push_str(value);
                }
                _ => assert!(line.is_empty(), "an unknown field: {line:?}"),
            }
        }
        self.last_event_id.clone_from(&self.pending_id);
        let data = data?;
        let data = serde_json::from_str(&data).unwrap_or_else(|error| panic!("{error}: {data}"));
        let name = if name.is_empty() { "message".to_owned() } else { name };
        Some(StreamEvent { name, data, id: self.last_event_id.clone() })
    }

    /// Reads until so many comments have come; no event may come before.
    pub async fn heartbeats(&mut self, count: usize) {
        while self.comments < count {
            while let Some(end) = self.raw.received.windows(2).position(|pair| pair == b"\n\n") {
                let block: Vec<u8> = self.raw.received.drain(..end + 2).collect();
                assert_eq!(self.block(&String::from_utf8(block).expect("UTF-8")), None);
            }
            assert!(self.comments >= count || self.more().await, "the end, after {} comments", self.comments);
        }
    }

    /// The next event, which must have this name.
    pub async fn expect(&mut self, name: &str) -> StreamEvent {
        let event = self.event().await.unwrap_or_else(|| panic!("{name} was due, not the end"));
        assert_eq!(event.name, name, "{event:?}");
        event
    }

    /// The next event of this name; others are passed over.
    pub async fn find(&mut self, name: &str) -> StreamEvent {
        loop {
            let event = self.event().await.unwrap_or_else(|| panic!("{name} was due, not the end"));
            if event.name == name {
                return event;
            }
        }
    }

    /// Passes over the sign-in and as many `subscribed`; returns the last of these.
    pub async fn subscribed(&mut self, count: usize) -> StreamEvent {
        self.expect("auth_success").await;
        let mut last = None;
        for _ in 0..count {
            last = Some(self.find("subscribed").await);
        }
        last.expect("one at least")
    }

    /// The stream ends with this close code; what comes before is passed over.
    pub async fn closed(&mut self, code: u16) -> StreamEvent {
        let close = self.find("close").await;
        assert_eq!(close.data["code"], code, "{close:?}");
        assert_eq!(self.event().await, None, "an event after the close");
        close
    }

    /// Sends bytes behind the request.
    pub async fn send(&mut self, bytes: &[u8]) {
        let _ = self.raw.tcp.write_all(bytes).await;
    }
}
