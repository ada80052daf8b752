//! What every black-box test needs: the real binary as a child process, a WebSocket client that this project did not
//! write, and a client of plain TCP for the bytes which that one would never send. Each wait has a deadline; nothing
//! here sleeps in the hope that something has happened by then. Knows the wire contract, and nothing of the library.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};

/// How long any single answer may take. Generous: a loaded machine with two cores must not fail a test.
pub const DEADLINE: Duration = Duration::from_secs(20);
/// The secret that `Options::new` configures.
pub const SECRET: &str = "a secret of the black-box tests, 32 bytes and more";

// ---------------------------------------------------------------------------------------------------------- server

/// How to start the binary.
#[derive(Clone)]
pub struct Options {
    args: Vec<String>,
    env: BTreeMap<String, String>,
    wrap: Option<Vec<String>>,
}

impl Options {
    /// Loopback, a free port, the tests' secret.
    pub fn new() -> Self {
        Self::bare(&["--listen", "127.0.0.1:0"]).env("URINGCAST_AUTH__HS256_SECRET", SECRET)
    }

    /// Exactly these arguments and no configuration at all.
    pub fn bare(args: &[&str]) -> Self {
        Self { args: args.iter().map(ToString::to_string).collect(), env: BTreeMap::new(), wrap: None }
    }

    pub fn arg(mut self, arg: impl Into<String>) -> Self {
        self.args.push(arg.into());
        self
    }

    pub fn env(mut self, key: &str, value: impl ToString) -> Self {
        self.env.insert(key.to_owned(), value.to_string());
        self
    }

    pub fn without(mut self, key: &str) -> Self {
        self.env.remove(key);
        self
    }

    pub fn shards(self, shards: usize) -> Self {
        self.arg("--shards").arg(shards.to_string())
    }

    pub fn echo(self) -> Self {
        self.arg("--echo")
    }

    /// Runs `COMMAND... binary args` in place of `binary args`; the command must end in an `exec` of its arguments.
    pub fn wrapped(mut self, command: &[&str]) -> Self {
        self.wrap = Some(command.iter().map(ToString::to_string).collect());
        self
    }

    fn command(&self) -> Command {
        // Another build of the server can be put to the same test.
        let binary = std::env::var("URINGCAST_BIN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_uringcast").to_owned());
        let mut command = match self.wrap.as_deref() {
            Some([program, rest @ ..]) => {
                let mut command = Command::new(program);
                command.args(rest).arg(&binary);
                command
            }
            _ => Command::new(&binary),
        };
        command.args(&self.args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        for (key, _) in std::env::vars().filter(|(key, _)| key.starts_with("URINGCAST_")) {
            command.env_remove(key);
        }
        command.env_remove("RUST_LOG").env("RUST_BACKTRACE", "1").envs(&self.env);
        command
    }

    /// Starts a server and waits for its ready line.
    pub fn start(self) -> Server {
        Server::start(&self)
    }

    /// Runs a command that is expected to end by itself.
    pub fn run(self) -> Finished {
        let mut child = self.command().spawn().expect("the binary starts");
        let stdout = drain(child.stdout.take().expect("piped"));
        let stderr = drain(child.stderr.take().expect("piped"));
        let Some(status) = wait(&mut child, DEADLINE) else {
            let _ = child.kill();
            let _ = child.wait();
            panic!(
                "still running after {DEADLINE:?}: {:?}\n{}\n{}",
                self.args,
                stdout.lock().expect("lock"),
                stderr.lock().expect("lock")
            );
        };
        let (stdout, stderr) = (settled(&stdout), settled(&stderr));
        Finished { status, stdout, stderr }
    }
}

/// A command that has ended.
pub struct Finished {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Finished {
    /// It refused to start: a code other than 0, a message that has `needles`, and no panic.
    pub fn refused(&self, needles: &[&str]) {
        assert!(self.status.code().is_some_and(|code| code != 0), "{}\n{}", self.status, self.all());
        assert!(self.stdout.is_empty(), "nothing belongs on stdout: {}", self.all());
        assert_no_panic(&self.stderr);
        let text = self.stderr.to_lowercase();
        for needle in needles {
            assert!(text.contains(&needle.to_lowercase()), "no {needle:?} in:\n{}", self.stderr);
        }
    }

    pub fn all(&self) -> String {
        format!("stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr)
    }
}

pub fn assert_no_panic(stderr: &str) {
    for word in ["panicked at", "stack backtrace", "RUST_BACKTRACE"] {
        assert!(!stderr.contains(word), "{stderr}");
    }
}

type Text = Arc<Mutex<String>>;

fn drain(mut from: impl Read + Send + 'static) -> Text {
    let text = Text::default();
    let sink = Arc::clone(&text);
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(n @ 1..) = from.read(&mut buffer) {
            sink.lock().expect("lock").push_str(&String::from_utf8_lossy(&buffer[..n]));
        }
    });
    text
}

/// The whole text once its reader has let go of it (the pipe has ended).
fn settled(text: &Text) -> String {
    let end = Instant::now() + DEADLINE;
    while Arc::strong_count(text) > 1 && Instant::now() < end {
        std::thread::yield_now();
    }
    text.lock().expect("lock").clone()
}

fn wait(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let end = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait().expect("waitpid") {
            return Some(status);
        }
        if Instant::now() > end {
            return None;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A running server; killed by its pid when dropped.
pub struct Server {
    child: Child,
    stderr: Text,
    stdout: Text,
    pub addr: SocketAddr,
    /// Where TLS is spoken, if it is.
    pub tls: Option<SocketAddr>,
    pub shards: usize,
    pub ready_line: String,
    /// A panic in the log is what the test is about.
    pub panics: bool,
}

impl Server {
    fn start(options: &Options) -> Self {
        let mut child = options.command().spawn().expect("the binary starts");
        let stderr = drain(child.stderr.take().expect("piped"));
        let mut reader = BufReader::new(child.stdout.take().expect("piped"));
        let (send, receive) = mpsc::channel();
        let stdout = Text::default();
        let later = Arc::clone(&stdout);
        std::thread::spawn(move || {
            let mut line = String::new();
            let _ = reader.read_line(&mut line);
            let _ = send.send(line);
            let mut rest = String::new();
            while matches!(reader.read_line(&mut rest), Ok(1..)) {
                later.lock().expect("lock").push_str(&rest);
                rest.clear();
            }
        });
        let line = receive.recv_timeout(DEADLINE).unwrap_or_default();
        let parsed = parse_ready(line.trim_end_matches('\n'));
        let Some((addr, tls, shards)) = parsed else {
            let _ = child.kill();
            let _ = child.wait();
            panic!("not a ready line: {line:?}; {:?}; stderr:\n{}", options.args, settled(&stderr));
        };
        Self { child, stderr, stdout, addr, tls, shards, ready_line: line, panics: false }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn url(&self, path: &str) -> String {
        format!("ws://{}{path}", self.addr)
    }

    pub fn log(&self) -> String {
        self.stderr.lock().expect("lock").clone()
    }

    /// What it printed to stdout after the ready line.
    pub fn later_stdout(&self) -> String {
        self.stdout.lock().expect("lock").clone()
    }

    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").arg(format!("-{name}")).arg(self.pid().to_string()).status();
        assert!(status.expect("kill runs").success());
    }

    /// Waits for its end by itself.
    pub fn ended(&mut self, limit: Duration) -> ExitStatus {
        wait(&mut self.child, limit).unwrap_or_else(|| panic!("did not end within {limit:?}:\n{}", self.log()))
    }

    pub fn running(&mut self) -> bool {
        self.child.try_wait().expect("waitpid").is_none()
    }

    /// Resident memory that belongs to the process alone, in bytes.
    pub fn resident(&self) -> u64 {
        resident(self.pid())
    }
}

/// Resident memory that belongs to a process alone, in bytes.
pub fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the server runs");
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) * 1024
}

impl Drop for Server {
    fn drop(&mut self) {
        let alive = self.child.try_wait().is_ok_and(|status| status.is_none());
        let _ = self.child.kill();
        let _ = self.child.wait();
        let log = self.log();
        if std::thread::panicking() {
            let tail = log.len().saturating_sub(4000);
            let tail = (tail..log.len()).find(|&at| log.is_char_boundary(at)).unwrap_or(0);
            eprintln!("--- the server's log (it was {}) ---\n{}", if alive { "alive" } else { "dead" }, &log[tail..]);
        } else if !self.panics {
            assert_no_panic(&log);
        }
    }
}

/// `listening on ws://ADDR:PORT/ws (N shards)`, with `wss://…` in the URL's place or, after an "and", beside it.
fn parse_ready(line: &str) -> Option<(SocketAddr, Option<SocketAddr>, usize)> {
    let (urls, rest) = line.strip_prefix("listening on ")?.split_once(" (")?;
    let shards = rest.strip_suffix(" shards)").or_else(|| rest.strip_suffix(" shard)"))?;
    let (mut plain, mut tls) = (None, None);
    for url in urls.split(" and ") {
        let (scheme, rest) = url.strip_suffix("/ws")?.split_once("://")?;
        let place = if scheme == "wss" { &mut tls } else { &mut plain };
        *place = Some(rest.parse().ok()?);
    }
    Some((plain.or(tls)?, tls, shards.parse().ok()?))
}

// ---------------------------------------------------------------------------------------------------------- tokens

pub fn now_s() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    i64::try_from(since.as_secs()).expect("fits")
}

/// A token for `SECRET` with the claims every one needs.
pub fn token(id: impl Into<Value>, name: &str) -> String {
    sign(&json!({"user_id": id.into(), "username": name, "exp": now_s() + 3600}))
}

pub fn sign(claims: &Value) -> String {
    sign_with(SECRET, claims)
}

pub fn sign_with(secret: &str, claims: &Value) -> String {
    let key = jsonwebtoken::EncodingKey::from_secret(secret.as_bytes());
    let header = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::HS256);
    jsonwebtoken::encode(&header, claims, &key).expect("signs")
}

// ---------------------------------------------------------------------------------------------------------- client

/// One WebSocket client.
pub struct Client {
    ws: WebSocketStream<TcpStream>,
}

pub fn small_buffers() -> WebSocketConfig {
    // The default of 128 KiB each way would cost more than a gigabyte with ten thousand clients.
    WebSocketConfig::default().read_buffer_size(2048).write_buffer_size(0)
}

impl Client {
    /// Connects to any path, without reading anything.
    pub async fn connect(server: &Server, path: &str) -> Self {
        let request = server.url(path).into_client_request().expect("a request");
        let connecting = async {
            let tcp = TcpStream::connect(server.addr).await.expect("connects");
            tcp.set_nodelay(true).expect("nodelay");
            tokio_tungstenite::client_async_with_config(request, tcp, Some(small_buffers())).await
        };
        let (ws, _) = timeout(DEADLINE, connecting).await.expect("in time").expect("upgrades");
        Self { ws }
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
        let mut client = Self::open(server).await;
        let success = client.auth(&token(id, name)).await;
        assert_eq!(success["type"], "auth_success", "{success}");
        (client, success)
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

    /// The TCP stream under the client.
    pub fn tcp(&self) -> &TcpStream {
        self.ws.get_ref()
    }
}

#[derive(Debug)]
pub enum Event {
    Text(String),
    Binary(Vec<u8>),
    Close(u16, String),
    Ended,
}

// ----------------------------------------------------------------------------------------------------------- shapes

/// Compares JSON with a pattern: the same keys and no others, the same values, and for the strings `<ms>`
/// (a time within a day of now), `<text>` (not empty), `<int>` and `<any>` whatever fits.
pub fn assert_shape(value: &Value, pattern: &Value) {
    if let Some(why) = differs(value, pattern, "") {
        panic!("{why}\n  got      {value}\n  expected {pattern}");
    }
}

fn differs(value: &Value, pattern: &Value, at: &str) -> Option<String> {
    match (value, pattern) {
        (Value::Object(found), Value::Object(wanted)) => {
            for key in found.keys() {
                if !wanted.contains_key(key) {
                    return Some(format!("{at}.{key} should not be there"));
                }
            }
            wanted.iter().find_map(|(key, pattern)| match found.get(key) {
                Some(value) => differs(value, pattern, &format!("{at}.{key}")),
                None => Some(format!("{at}.{key} is missing")),
            })
        }
        (Value::Array(found), Value::Array(wanted)) if found.len() == wanted.len() => {
            found.iter().zip(wanted).enumerate().find_map(|(n, (v, p))| differs(v, p, &format!("{at}[{n}]")))
        }
        (_, Value::String(pattern)) => {
            let fits = match pattern.as_str() {
                "<ms>" => value.as_i64().is_some_and(|ms| (ms / 1000 - now_s()).abs() < 86_400),
                "<text>" => value.as_str().is_some_and(|text| !text.is_empty()),
                "<int>" => value.is_i64() || value.is_u64(),
                "<any>" => true,
                text => value.as_str() == Some(text),
            };
            (!fits).then(|| format!("{at} is {value}"))
        }
        _ => (value != pattern).then(|| format!("{at} is {value}")),
    }
}

// ------------------------------------------------------------------------------------------------------------- raw

/// Plain TCP, for what a proper client would not send.
pub struct Raw {
    pub tcp: TcpStream,
    pub received: Vec<u8>,
}

/// What an HTTP request was answered with.
#[derive(Debug)]
pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, String)>,
}

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

/// A frame as it came over the wire.
#[derive(Debug, PartialEq, Eq)]
pub struct RawFrame {
    pub opcode: u8,
    pub fin: bool,
    pub payload: Vec<u8>,
}

impl RawFrame {
    pub fn close_code(&self) -> u16 {
        assert_eq!(self.opcode, 8, "not a close: {self:?}");
        u16::from_be_bytes([self.payload[0], self.payload[1]])
    }
}

pub const SAMPLE_KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
pub const SAMPLE_ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// A good upgrade request with some headers put in, replaced, or (with an empty value) left out.
pub fn request(server: &Server, path: &str, changes: &[(&str, &str)]) -> String {
    let host = server.addr.to_string();
    let mut headers = vec![
        ("Host", host.as_str()),
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Key", SAMPLE_KEY),
        ("Sec-WebSocket-Version", "13"),
    ];
    for &(name, value) in changes {
        match headers.iter_mut().find(|(known, _)| *known == name) {
            Some(header) => header.1 = value,
            None => headers.push((name, value)),
        }
    }
    let mut text = format!("GET {path} HTTP/1.1\r\n");
    for (name, value) in headers.into_iter().filter(|(_, value)| !value.is_empty()) {
        let _ = write!(text, "{name}: {value}\r\n");
    }
    text + "\r\n"
}

/// A masked client frame.
pub fn frame(fin: bool, opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [0x37, 0xfa, 0x21, 0x3d];
    let mut bytes = vec![u8::from(fin) << 7 | opcode];
    match payload.len() {
        n @ 0..126 => bytes.push(0x80 | n as u8),
        n @ 126..65_536 => {
            bytes.push(0x80 | 126);
            bytes.extend_from_slice(&(n as u16).to_be_bytes());
        }
        n => {
            bytes.push(0x80 | 127);
            bytes.extend_from_slice(&(n as u64).to_be_bytes());
        }
    }
    bytes.extend_from_slice(&mask);
    bytes.extend(payload.iter().enumerate().map(|(n, byte)| byte ^ mask[n % 4]));
    bytes
}

impl Raw {
    pub async fn connect(server: &Server) -> Self {
        let tcp = timeout(DEADLINE, TcpStream::connect(server.addr)).await.expect("in time").expect("connects");
        tcp.set_nodelay(true).expect("nodelay");
        Self { tcp, received: Vec::new() }
    }

    /// Connects and upgrades.
    pub async fn upgraded(server: &Server, path: &str) -> Self {
        let mut raw = Self::connect(server).await;
        raw.write(request(server, path, &[]).as_bytes()).await;
        let response = raw.response().await;
        assert_eq!(response.status, 101, "{response:?}");
        raw
    }

    pub async fn write(&mut self, bytes: &[u8]) {
        timeout(DEADLINE, self.tcp.write_all(bytes)).await.expect("in time").expect("writes");
    }

    /// Reads once more; false at the end of the stream (a reset counts as that).
    async fn more(&mut self) -> bool {
        let read = timeout(DEADLINE, self.tcp.read_buf(&mut self.received)).await.expect("an answer in time");
        matches!(read, Ok(1..))
    }

    pub async fn response(&mut self) -> Response {
        let end = loop {
            if let Some(at) = self.received.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            assert!(self.more().await, "cut before an answer: {:?}", String::from_utf8_lossy(&self.received));
        };
        let head: Vec<u8> = self.received.drain(..end).collect();
        let head = String::from_utf8(head).expect("text");
        let mut lines = head.trim_end().split("\r\n");
        let status = lines.next().expect("a status line");
        let mut words = status.splitn(3, ' ');
        assert_eq!(words.next(), Some("HTTP/1.1"), "{status}");
        let status = words.next().and_then(|code| code.parse().ok()).expect("a status code");
        let headers = lines.map(|line| {
            let (name, value) = line.split_once(':').unwrap_or_else(|| panic!("not a header: {line:?}"));
            (name.to_owned(), value.trim().to_owned())
        });
        Response { status, headers: headers.collect() }
    }

    /// The rest of the stream, up to its end.
    pub async fn rest(&mut self) -> Vec<u8> {
        while self.more().await {}
        std::mem::take(&mut self.received)
    }

    /// The next frame; none at the end of the stream.
    pub async fn frame(&mut self) -> Option<RawFrame> {
        loop {
            if let Some((frame, used)) = parse_frame(&self.received) {
                self.received.drain(..used);
                return Some(frame);
            }
            if !self.more().await {
                return None;
            }
        }
    }

    /// The next frame, which must be a close with this code; then the stream ends.
    pub async fn closed(&mut self, code: u16) {
        let frame = self.frame().await.expect("a close frame");
        assert_eq!(frame.close_code(), code, "{:?}", String::from_utf8_lossy(&frame.payload[2..]));
        let _ = self.tcp.write_all(&crate::support::frame(true, 8, &code.to_be_bytes())).await;
        assert_eq!(self.frame().await, None, "a frame after the close");
    }

    /// The next frame as JSON text.
    pub async fn json(&mut self) -> Value {
        let frame = self.frame().await.expect("a frame");
        assert_eq!(frame.opcode, 1, "{frame:?}");
        serde_json::from_slice(&frame.payload).expect("JSON")
    }
}

fn parse_frame(bytes: &[u8]) -> Option<(RawFrame, usize)> {
    let (&first, &second) = (bytes.first()?, bytes.get(1)?);
    assert_eq!(second & 0x80, 0, "a server must not mask");
    assert_eq!(first & 0x70, 0, "no extension was agreed on");
    let (length, start) = match second {
        126 => (usize::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?)), 4),
        127 => (usize::try_from(u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?)).ok()?, 10),
        short => (usize::from(short), 2),
    };
    let payload = bytes.get(start..start + length)?.to_vec();
    Some((RawFrame { opcode: first & 0x0f, fin: first & 0x80 != 0, payload }, start + length))
}

/// All frames of a stream that has ended.
pub fn frames(bytes: &[u8]) -> Vec<RawFrame> {
    let (frames, rest) = split(bytes);
    assert!(rest.is_empty(), "{} bytes of a frame that was cut", rest.len());
    frames
}

/// The whole frames of a stream that was cut anywhere.
pub fn whole_frames(bytes: &[u8]) -> Vec<RawFrame> {
    split(bytes).0
}

fn split(mut bytes: &[u8]) -> (Vec<RawFrame>, &[u8]) {
    let mut frames = Vec::new();
    while let Some((frame, used)) = parse_frame(bytes) {
        frames.push(frame);
        bytes = &bytes[used..];
    }
    (frames, bytes)
}

/// A small seeded generator (SplitMix64): the run is told by its seed alone.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

/// The seed of a random test: `URINGCAST_TEST_SEED`, or always the same.
pub fn seed() -> u64 {
    let seed = std::env::var("URINGCAST_TEST_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(20_261_122);
    eprintln!("URINGCAST_TEST_SEED={seed}");
    seed
}

/// One plain HTTP request on a connection of its own, from the first byte to the last.
pub async fn http(server: &Server, request: &str) -> (Response, String) {
    let mut raw = Raw::connect(server).await;
    raw.write(request.as_bytes()).await;
    let response = raw.response().await;
    let length = response.header("content-length").and_then(|text| text.parse::<usize>().ok());
    let body = match length {
        Some(length) => {
            while raw.received.len() < length {
                assert!(raw.more().await, "the body was cut");
            }
            raw.received.drain(..length).collect()
        }
        None => raw.rest().await,
    };
    (response, String::from_utf8(body).expect("text"))
}
