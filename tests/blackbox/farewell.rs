//! How connections end that still have something to take: slow readers at SIGTERM and behind a Close, clients that end
//! their own direction, and what each signal does.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::time::{sleep, timeout};

use crate::channel_support::{member, members_publish};
use crate::support::{DEADLINE, Options, Raw, RawFrame, Server, frame, http, request, token, until, whole_frames};

/// How a slow reader reads: so much at a time, so often. 1 MiB/s.
const PORTION: usize = 64 * 1024;
const PAUSE: Duration = Duration::from_millis(60);

fn text(value: &Value) -> Vec<u8> {
    frame(true, 1, value.to_string().as_bytes())
}

/// Signs in and subscribes to `news`, over a socket whose kernel takes little ahead of its reader.
async fn subscriber(server: &Server, user: &str) -> Raw {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(32 * 1024).unwrap();
    let tcp = timeout(DEADLINE, socket.connect(server.addr)).await.expect("in time").unwrap();
    let mut raw = Raw { tcp, received: Vec::new() };
    raw.write(request(server, "/ws", &[]).as_bytes()).await;
    assert_eq!(raw.response().await.status, 101);
    raw.write(&text(&json!({"type": "auth", "data": {"token": token(user, user)}}))).await;
    raw.write(&text(&json!({"type": "subscribe", "data": {"channel": "news"}}))).await;
    while raw.json().await["type"] != "subscribed" {}
    raw
}

/// Reads slowly up to the end of the stream, and answers nothing.
async fn read_slowly(mut raw: Raw) -> Vec<RawFrame> {
    let mut bytes = std::mem::take(&mut raw.received);
    let mut portion = vec![0; PORTION];
    loop {
        match timeout(DEADLINE, raw.tcp.read(&mut portion)).await.expect("in time") {
            Ok(0) | Err(_) => return whole_frames(&bytes),
            Ok(count) => bytes.extend_from_slice(&portion[..count]),
        }
        sleep(PAUSE).await;
    }
}

fn publications(frames: &[RawFrame]) -> usize {
    frames.iter().filter(|frame| frame.payload.starts_with(br#"{"type":"publication""#)).count()
}

async fn publish(server: &Server, count: usize) {
    let mut bob = member(server, "bob", "news").await;
    for n in 0..count {
        bob.ask("publish", json!({"channel": "news", "data": {"n": n, "fill": "x".repeat(60_000)}})).await;
    }
}

fn options() -> Options {
    members_publish().shards(2).env("URINGCAST_CHANNELS__OVERFLOW", "disconnect")
}

#[tokio::test]
async fn a_slow_reader_gets_all_of_it_and_1001_at_the_end() {
    const COUNT: usize = 100;
    let options = options().env("URINGCAST_LIMITS__OUTBOX_BYTES", 16 << 20).env("URINGCAST_SHUTDOWN_MS", 30_000);
    let mut server = options.start();
    let slow = subscriber(&server, "ann").await;
    let stalled = subscriber(&server, "eve").await;
    publish(&server, COUNT).await;
    server.signal("TERM");
    let started = Instant::now();
    let frames = read_slowly(slow).await;
    assert!(started.elapsed() > Duration::from_secs(3), "too fast to tell: {:?}", started.elapsed());
    assert_eq!(publications(&frames), COUNT);
    let last = frames.last().expect("a frame");
    assert_eq!((last.opcode, last.close_code()), (8, 1001));
    // The one that reads nothing holds nobody up.
    assert_eq!(server.ended(DEADLINE).code(), Some(0), "{}", server.log());
    drop(stalled);
}

/// The server does not wait for `shutdown_ms` then.
#[tokio::test]
async fn one_that_reads_nothing_is_reset_early() {
    let options = options().env("URINGCAST_LIMITS__OUTBOX_BYTES", 16 << 20).env("URINGCAST_SHUTDOWN_MS", 60_000);
    let mut server = options.start();
    let mut stalled = subscriber(&server, "eve").await;
    publish(&server, 150).await;
    server.signal("TERM");
    assert_eq!(server.ended(Duration::from_secs(20)).code(), Some(0), "{}", server.log());
    let mut rest = Vec::new();
    assert!(stalled.tcp.read_to_end(&mut rest).await.is_err(), "a reset");
}

#[tokio::test]
async fn a_slow_consumer_that_reads_on_sees_why() {
    let server = options().env("URINGCAST_LIMITS__OUTBOX_BYTES", 1 << 20).start();
    let slow = subscriber(&server, "ann").await;
    publish(&server, 150).await;
    let frames = read_slowly(slow).await;
    let last = frames.last().expect("a frame");
    assert_eq!((last.opcode, last.close_code()), (8, 4508));
    let came = publications(&frames);
    assert!((1..150).contains(&came), "{came}");
}

/// HTTP requests with a FIN behind them, and commands: what was asked is answered.
#[tokio::test]
async fn who_ends_its_direction_is_still_answered() {
    let server = Options::bare(&["--dev", "--listen", "127.0.0.1:0"])
        .env("URINGCAST_CHANNELS__BATCH_WINDOW_MS", 200)
        .env("URINGCAST_CHANNELS__PUBLISH", "members")
        .start();
    let host = server.addr;
    for target in ["/", "/uringcast.js", "/token?name=A", "/nope"] {
        let mut raw = Raw::connect(&server).await;
        raw.write(format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes()).await;
        raw.tcp.shutdown().await.unwrap();
        let response = raw.response().await;
        let length: usize = response.header("content-length").expect("a length").parse().expect("a number");
        assert_eq!(raw.rest().await.len(), length, "{target}");
    }
    let (_, body) = http(&server, &format!("GET /token?name=Ann HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
    let token = serde_json::from_str::<Value>(&body).expect("JSON")["token"].clone();
    let mut raw = Raw::connect(&server).await;
    raw.write(request(&server, "/ws", &[]).as_bytes()).await;
    assert_eq!(raw.response().await.status, 101);
    raw.write(&text(&json!({"type": "auth", "data": {"token": token}}))).await;
    while raw.json().await["type"] != "auth_success" {}
    raw.write(&text(&json!({"type": "subscribe", "id": "s", "data": {"channel": "news"}}))).await;
    raw.write(&text(&json!({"type": "publish", "id": "p", "data": {"channel": "news", "data": 1}}))).await;
    raw.write(&text(&json!({"type": "history", "id": "h", "data": {"channel": "news"}}))).await;
    raw.tcp.shutdown().await.unwrap();
    let mut answered = Vec::new();
    while let Some(frame) = raw.frame().await {
        let value: Value = serde_json::from_slice(&frame.payload).expect("JSON");
        answered.extend(value["id"].as_str().map(str::to_owned));
    }
    answered.sort();
    assert_eq!(answered, ["h", "p", "s"]);
}

/// What each signal does is in docs/deploy.md.
#[tokio::test]
async fn each_signal_does_what_is_documented() {
    let mut server = Options::new().start();
    for signal in ["USR1", "USR2", "ALRM", "VTALRM", "PROF", "IO", "XFSZ", "PIPE", "STKFLT", "34", "64"] {
        server.signal(signal);
        if signal != "PIPE" {
            let name =
                if signal.starts_with(char::is_numeric) { format!("signal {signal}") } else { format!("SIG{signal}") };
            let told = async || server.log().contains(&format!("{name} does nothing here")).then_some(());
            until(&format!("the log tells of {name}"), told).await;
        }
        assert!(server.running(), "{signal}");
    }
    for signal in ["QUIT", "INT", "TERM", "XCPU", "PWR"] {
        let mut server = Options::new().start();
        let mut raw = Raw::upgraded(&server, "/ws").await;
        raw.json().await;
        server.signal(signal);
        raw.closed(1001).await;
        assert_eq!(server.ended(DEADLINE).code(), Some(0), "{signal}: {}", server.log());
    }
    server.signal("QUIT");
    assert_eq!(server.ended(DEADLINE).code(), Some(0));
}
