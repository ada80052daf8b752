//! The contract of every peer, asked of the running programs: what is sent comes back, all see one order with nothing
//! lost, a slow reader holds the publisher back and misses nothing, another path is refused, and SIGTERM ends it.
//! Those that `./setup` installs are ignored by default: `cargo test -- --include-ignored` has them too.

use std::process::Stdio;
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::{Bytes, Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

const DEADLINE: Duration = Duration::from_secs(60);
/// Two publishers' messages together are whole windows of 64, as the floor asks.
const MESSAGES: usize = 512;
const LARGE_MESSAGES: usize = 1024;
const LARGE_BYTES: usize = 16 * 1024;

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

struct Peer {
    child: Child,
    url: String,
}

impl Peer {
    async fn start(program: &str, args: &[&str]) -> Self {
        let mut command = Command::new(program);
        command.args(args).args(["--listen", "127.0.0.1:0"]).current_dir(env!("CARGO_MANIFEST_DIR"));
        let mut child = command.stdout(Stdio::piped()).kill_on_drop(true).spawn().expect("the peer starts");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let line = timeout(DEADLINE, lines.next_line()).await.expect("ready in time").expect("a text");
        let line = line.expect("a line before the end");
        let url = line.strip_prefix("listening on ").expect("the line of the contract").to_owned();
        assert!(url.starts_with("ws://127.0.0.1:"), "{url}");
        Self { child, url }
    }

    async fn connect(&self, path: &str) -> Socket {
        let (socket, _) = connect_async(format!("{}{path}", self.url)).await.expect("the upgrade");
        socket
    }

    /// A connection of `/fanout` whose own message has come back: it is surely in the room. `padding` more messages
    /// fill the floor's window.
    async fn join(&self, window: usize) -> Socket {
        let mut socket = self.connect("/fanout").await;
        for _ in 0..window {
            socket.send("joined".into()).await.expect("sent");
        }
        for _ in 0..window {
            assert_eq!(receive(&mut socket).await, "joined".into());
        }
        socket
    }

    async fn end(mut self) {
        let pid = Pid::from_raw(self.child.id().expect("it runs").cast_signed()).expect("a pid");
        kill_process(pid, Signal::TERM).expect("signalled");
        timeout(DEADLINE, self.child.wait()).await.expect("ended in time").expect("waited for");
    }
}

async fn receive(socket: &mut Socket) -> Message {
    timeout(DEADLINE, socket.next()).await.expect("in time").expect("open").expect("a message")
}

/// The next `count` messages that aren't another's greeting.
async fn receive_all(socket: &mut Socket, count: usize) -> Vec<Message> {
    let mut messages = Vec::with_capacity(count);
    while messages.len() < count {
        let message = receive(socket).await;
        if message != "joined".into() {
            messages.push(message);
        }
    }
    messages
}

/// Text and binary by turns, each saying whose it is and its number.
fn message(publisher: usize, number: usize) -> Message {
    let text = format!("{publisher} {number}");
    if number.is_multiple_of(2) { Message::text(text) } else { Message::binary(text) }
}

async fn echoes(peer: &Peer) {
    let mut socket = peer.connect("/echo").await;
    for number in 0..MESSAGES {
        socket.feed(message(0, number)).await.expect("fed");
    }
    socket.flush().await.expect("flushed");
    for number in 0..MESSAGES {
        assert_eq!(receive(&mut socket).await, message(0, number));
    }
    for bytes in [0, 125, 126, 0xFFFF, 0x1_0000] {
        let message = Message::binary(vec![0xA5; bytes]);
        socket.send(message.clone()).await.expect("sent");
        assert_eq!(receive(&mut socket).await, message);
    }
    socket.send(Message::Ping(Bytes::from_static(b"ping"))).await.expect("sent");
    assert_eq!(receive(&mut socket).await, Message::Pong(Bytes::from_static(b"ping")));
    socket.close(None).await.expect("sent");
    while let Some(last) = timeout(DEADLINE, socket.next()).await.expect("closed in time") {
        assert!(last.is_ok_and(|last| last.is_close()), "a clean close");
    }
}

/// Two publishers at once: everyone, they too, sees all of both in the same order.
async fn one_order(peer: &Peer, window: usize) {
    let mut subscribers = [peer.join(window).await, peer.join(window).await];
    let mut publishers = [peer.join(window).await, peer.join(window).await];
    let [first, second] = &mut publishers;
    tokio::join!(publish(first, 0), publish(second, 1));
    let [p0, p1] = &mut publishers;
    let [s0, s1] = &mut subscribers;
    let all = 2 * MESSAGES;
    let seen = tokio::join!(receive_all(p0, all), receive_all(p1, all), receive_all(s0, all), receive_all(s1, all));
    for (publisher, count) in [(0, MESSAGES), (1, MESSAGES)] {
        let own: Vec<_> = (0..count).map(|number| message(publisher, number)).collect();
        let of_it: Vec<_> = seen.0.iter().filter(|message| own.contains(message)).cloned().collect();
        assert_eq!(of_it, own, "publisher {publisher}");
    }
    assert!(seen.0 == seen.1 && seen.0 == seen.2 && seen.0 == seen.3, "one order for all");
}

async fn publish(socket: &mut Socket, publisher: usize) {
    for number in 0..MESSAGES {
        socket.send(message(publisher, number)).await.expect("sent");
    }
}

/// More than the sockets hold for a subscriber that doesn't read: it reads once the publisher is held back (or, with a
/// peer that holds that much, has said all), and misses nothing.
async fn slow_reader(peer: &Peer, window: usize) {
    let mut slow = peer.join(window).await;
    let (mut sink, mut stream) = peer.join(window).await.split();
    let large = |number: usize| Message::binary(vec![number as u8; LARGE_BYTES + number]);
    let mut publisher = tokio::spawn(async move {
        for number in 0..LARGE_MESSAGES {
            sink.send(large(number)).await.expect("sent");
        }
        // Kept, or the connection would end here.
        sink
    });
    let own = tokio::spawn(async move {
        for number in 0..LARGE_MESSAGES {
            assert_eq!(stream.next().await.expect("open").expect("a message"), large(number));
        }
    });
    let _held_back = timeout(Duration::from_secs(1), &mut publisher).await;
    for (number, message) in receive_all(&mut slow, LARGE_MESSAGES).await.into_iter().enumerate() {
        assert!(message == large(number), "message {number} of the slow reader");
    }
    timeout(DEADLINE, own).await.expect("in time").expect("all of its own");
}

async fn contract(program: &str, args: &[&str], window: usize) {
    let peer = Peer::start(program, args).await;
    let refused = connect_async(format!("{}/other", peer.url)).await.expect_err("no such path");
    assert!(matches!(&refused, Error::Http(answer) if answer.status() == 404), "{refused}");
    echoes(&peer).await;
    one_order(&peer, window).await;
    slow_reader(&peer, window).await;
    peer.end().await;
}

const PEERS: &str = env!("CARGO_BIN_EXE_peers");

#[tokio::test]
async fn tungstenite() {
    contract(PEERS, &["tungstenite"], 1).await;
}

#[tokio::test]
async fn tungstenite_batched() {
    contract(PEERS, &["tungstenite-batched"], 1).await;
}

#[tokio::test]
async fn fastwebsockets() {
    contract(PEERS, &["fastwebsockets"], 1).await;
}

#[tokio::test]
async fn bare() {
    contract(PEERS, &["bare"], 1).await;
}

#[tokio::test]
async fn bare_by_windows() {
    contract(PEERS, &["bare", "--window", "64"], 64).await;
}

/// The last messages of a publisher that leaves don't wait for a window that never fills.
#[tokio::test]
async fn bare_sends_a_begun_window_when_its_publisher_leaves() {
    let peer = Peer::start(PEERS, &["bare", "--window", "64"]).await;
    let mut subscriber = peer.join(64).await;
    let mut publisher = peer.connect("/fanout").await;
    publisher.send("last".into()).await.expect("sent");
    publisher.close(None).await.expect("closed");
    assert_eq!(receive(&mut subscriber).await, "last".into());
}

#[tokio::test]
#[ignore = "needs ./setup"]
async fn node() {
    contract("node", &["node/server.mjs"], 1).await;
}

/// A client that offers nothing is served as ever.
#[tokio::test]
#[ignore = "needs ./setup"]
async fn node_with_compression() {
    contract("node", &["node/server.mjs", "--deflate"], 1).await;
}

#[tokio::test]
#[ignore = "needs ./setup"]
async fn socketify_with_compression() {
    contract("../../target/peers/venv/bin/python", &["socketify/server.py", "--deflate"], 1).await;
}

#[tokio::test]
#[ignore = "needs ./setup"]
async fn socketify() {
    contract("../../target/peers/venv/bin/python", &["socketify/server.py"], 1).await;
}

#[tokio::test]
#[ignore = "needs UWS=… ./setup"]
async fn uwebsockets() {
    contract("../../target/peers/uwebsockets", &[], 1).await;
}

/// The broker speaks a protocol of its own over WebSocket: order and completeness alone.
#[tokio::test]
#[ignore = "needs ./setup"]
async fn nats() {
    let peer = Peer::start("nats/serve", &[]).await;
    let mut sockets = Vec::new();
    for _ in 0..3 {
        let mut socket = peer.connect("/").await;
        let hello = "CONNECT {\"verbose\":false}\r\nSUB fanout 1\r\nPING\r\n";
        socket.send(Message::binary(hello)).await.expect("sent");
        while !receive(&mut socket).await.into_data().ends_with(b"PONG\r\n") {}
        sockets.push(socket);
    }
    let mut expected = Vec::new();
    for number in 0..MESSAGES {
        let text = format!("message {number}");
        let publish = format!("PUB fanout {}\r\n{text}\r\n", text.len());
        sockets[0].send(Message::binary(publish)).await.expect("sent");
        expected.extend(format!("MSG fanout 1 {}\r\n{text}\r\n", text.len()).into_bytes());
    }
    for socket in &mut sockets {
        let mut seen = Vec::new();
        while seen.len() < expected.len() {
            seen.extend(receive(socket).await.into_data());
        }
        assert!(seen == expected, "one order, nothing lost");
    }
    peer.end().await;
}
