//! What is done to a server in the open, case by case, and what must hold meanwhile: the abuser gets the stated answer,
//! an innocent user's message still arrives within two seconds, resident memory stays within the bound that the case
//! states, and comes back once the abuser has left. `Scene` watches all of that; a case is the abuse alone.
//!
//! No peer is exempt here, and the abusers come from addresses of their own. Where a limit would end an abuse at its
//! first step the case lifts it, so that the next defence is tested too.

mod connections;
mod floods;
mod frames;
mod handshakes;
mod messages;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::net::TcpSocket;
use tokio::sync::{Mutex, MutexGuard};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::metrics::{Metrics, options};
use crate::support::{Client, DEADLINE, Options, Raw, Server, frame, request, token};

pub const KIB: u64 = 1 << 10;
pub const MIB: u64 = 1 << 20;
/// How long an innocent user's message may take while someone misbehaves.
const PATIENCE: Duration = Duration::from_secs(2);
/// What the allocator and the innocent themselves may account for, beside the bound of a case.
const SLACK: u64 = 4 * MIB;
/// Where abusers come from; the innocent are at 127.0.0.1.
pub const ABUSER: &str = "127.0.0.2";

/// One abuse at a time, so that what is seen is its doing.
static ALONE: Mutex<()> = Mutex::const_new(());

/// Limits that would end most abuses at once, lifted.
pub fn lifted(names: &[&str]) -> Options {
    let options = options().shards(2).echo();
    names.iter().fold(options, |options, name| options.env(&format!("URINGCAST_LIMITS__{name}"), 0))
}

/// No rate of any kind, and as many connections of one address as it likes.
pub fn unlimited() -> Options {
    let names = ["MESSAGES_PER_S", "BYTES_PER_S", "USER_MESSAGES_PER_S", "USER_BYTES_PER_S"];
    let more = ["CONNECTIONS_PER_IP", "NEW_CONNECTIONS_PER_IP_PER_S"];
    lifted(&[&names[..], &more].concat())
}

/// A server, two innocent users who talk, and what the server's memory did.
pub struct Scene {
    pub server: Server,
    pub metrics: Metrics,
    stop: Arc<AtomicBool>,
    peak: Arc<AtomicU64>,
    talk: JoinHandle<(Client, Client, Duration)>,
    before: u64,
    files: usize,
    _alone: MutexGuard<'static, ()>,
}

impl Scene {
    /// Starts the server and lets the innocent talk, from now until `over`.
    pub async fn open(options: Options) -> Self {
        let alone = ALONE.lock().await;
        let server = options.env("URINGCAST_LOBBY__HISTORY_SIZE", 0).start();
        let metrics = Metrics::of(&server).await;
        let (mut alice, _) = Client::join(&server, "alice", "Alice").await;
        let (mut bob, _) = Client::join(&server, "bob", "Bob").await;
        for n in 0..20 {
            hear(&mut alice, &mut bob, &format!("before {n}")).await;
        }
        let before = server.resident();
        let files = open_files(&server);
        let (stop, peak) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(before)));
        let talk = tokio::spawn(talk(alice, bob, server.pid(), Arc::clone(&stop), Arc::clone(&peak)));
        Self { server, metrics, stop, peak, talk, before, files, _alone: alone }
    }

    /// The abuser is gone: memory never was more than `bound` above what it was (beside the slack), is back within a
    /// tenth and 2 MiB of it, no descriptor is left, and the innocent were heard all along.
    pub async fn over(self, bound: u64) {
        self.over_but_for(bound, 0).await;
    }

    /// The same, where `kept` bytes may stay: what is remembered on purpose, and large buffers that are used again.
    pub async fn over_but_for(mut self, bound: u64, kept: u64) {
        self.metrics.reach("uringcast_connections", |count| count == 2).await;
        self.stop.store(true, Relaxed);
        let (mut alice, mut bob, slowest) = self.talk.await.expect("the innocent were heard all along");
        let end = Instant::now() + DEADLINE;
        let back = self.before + self.before / 10 + 2 * MIB + kept;
        loop {
            hear(&mut alice, &mut bob, "after").await;
            let now = self.server.resident();
            if now <= back && open_files(&self.server) <= self.files {
                let grown = self.peak.load(Relaxed) - self.before;
                eprintln!(
                    "memory {} KiB, at most {} KiB more, at the end {} KiB; slowest innocent message {} ms",
                    self.before >> 10,
                    grown >> 10,
                    now >> 10,
                    slowest.as_millis()
                );
                assert!(grown <= bound + SLACK, "{} KiB grown, and {} KiB is the bound", grown >> 10, bound >> 10);
                break;
            }
            let files = open_files(&self.server);
            let left = now.saturating_sub(self.before) >> 10;
            assert!(Instant::now() < end, "{left} KiB and {} of {files} files stay", files - self.files.min(files));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(self.server.running());
    }

    /// A connection from where abusers come from.
    pub async fn connect(&self) -> Raw {
        self.connect_from(ABUSER).await
    }

    pub async fn connect_from(&self, address: &str) -> Raw {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::new(address.parse().unwrap(), 0)).unwrap();
        let tcp = timeout(DEADLINE, socket.connect(self.server.addr)).await.expect("in time").expect("connects");
        tcp.set_nodelay(true).unwrap();
        Raw { tcp, received: Vec::new() }
    }

    /// The same, upgraded; on `/ws` the welcome has been read.
    pub async fn upgraded(&self, path: &str) -> Raw {
        let mut raw = self.connect().await;
        raw.write(request(&self.server, path, &[]).as_bytes()).await;
        let response = raw.response().await;
        assert_eq!(response.status, 101, "{response:?}");
        if path == "/ws" {
            assert_eq!(raw.json().await["type"], "system");
        }
        raw
    }

    /// The same, signed in.
    pub async fn signed_in(&self, user: &str) -> Raw {
        let mut raw = self.upgraded("/ws").await;
        raw.write(&auth(user)).await;
        let answer = raw.json().await;
        assert_eq!(answer["type"], "auth_success", "{answer}");
        raw
    }

    /// These bytes on a connection of their own have to end it with this code.
    pub async fn ends_with(&self, path: &str, bytes: &[u8], code: u16) {
        let mut raw = self.upgraded(path).await;
        raw.write(bytes).await;
        let outcome = outcome(&mut raw).await;
        assert_eq!(outcome.close, Some(code), "{path}: {:02x?}", &bytes[..bytes.len().min(40)]);
    }
}

/// Bob hears what Alice says, in time.
async fn hear(alice: &mut Client, bob: &mut Client, text: &str) -> Duration {
    let start = Instant::now();
    alice.say(text).await;
    let heard = async { while bob.find("message").await["data"]["text"] != text {} };
    timeout(PATIENCE, heard).await.unwrap_or_else(|_| panic!("{text:?} was not heard within {PATIENCE:?}"));
    let took = start.elapsed();
    while alice.find("message").await["data"]["text"] != text {}
    took
}

async fn talk(
    mut alice: Client,
    mut bob: Client,
    pid: u32,
    stop: Arc<AtomicBool>,
    peak: Arc<AtomicU64>,
) -> (Client, Client, Duration) {
    let (mut slowest, mut count) = (Duration::ZERO, 0);
    // Once more after the stop: an abuse shorter than a pause is looked at all the same.
    let mut last = false;
    while !last {
        last = stop.load(Relaxed);
        slowest = slowest.max(hear(&mut alice, &mut bob, &format!("during {count}")).await);
        peak.fetch_max(crate::support::resident(pid), Relaxed);
        count += 1;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    (alice, bob, slowest)
}

fn open_files(server: &Server) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", server.pid())).unwrap().count()
}

/// The frame that signs `user` in.
pub fn auth(user: &str) -> Vec<u8> {
    text(&json!({"type": "auth", "data": {"token": token(user, user)}}))
}

pub fn text(value: &Value) -> Vec<u8> {
    frame(true, 1, value.to_string().as_bytes())
}

/// How a connection went on until its end.
#[derive(Debug, Default)]
pub struct Outcome {
    pub close: Option<u16>,
    /// `error` by code.
    pub refused: usize,
    pub pongs: usize,
    pub others: usize,
}

/// Reads to the end; `refused` counts `error` 429.
pub async fn outcome(raw: &mut Raw) -> Outcome {
    let mut outcome = Outcome::default();
    while let Some(frame) = raw.frame().await {
        match frame.opcode {
            8 => {
                outcome.close = Some(frame.close_code());
                let _ = tokio::io::AsyncWriteExt::write_all(&mut raw.tcp, &crate::support::frame(true, 8, b"")).await;
            }
            10 => outcome.pongs += 1,
            1 if frame.payload.windows(10).any(|bytes| bytes == b"\"code\":429") => outcome.refused += 1,
            _ => outcome.others += 1,
        }
    }
    outcome
}

/// Peers that are gone while no packet says so: `unplug` is what drops all packets from and to `ABUSER`. (`faults`
/// runs it where there is a network to unplug.)
pub async fn half_open(unplug: impl FnOnce()) {
    const MANY: u64 = 100;
    let options = unlimited().env("URINGCAST_LIVENESS__PING_INTERVAL_MS", 1_000);
    let scene = Scene::open(options.env("URINGCAST_LIVENESS__PONG_TIMEOUT_MS", 1_000)).await;
    let mut gone = Vec::new();
    for n in 0..MANY {
        gone.push(scene.signed_in(&format!("gone-{n}")).await);
    }
    unplug();
    scene.metrics.reach("uringcast_closes_total{code=\"4504\"}", |count| count == MANY).await;
    scene.over(MANY * 12 * KIB).await;
    drop(gone);
}
