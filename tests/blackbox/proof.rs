//! Larger runs that print numbers, by `./check drops`, `./check join-storm` and `./check stalled`; not part of the
//! default run. Each checks what it can, too.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::Semaphore;

use crate::channel_support::{member, members_publish, offset};
use crate::support::{Client, Event, Options, Random, Server, frame, request, seed, token};

fn options() -> Options {
    let options = members_publish().env("URINGCAST_LOBBY__PRESENCE", "off");
    options.env("URINGCAST_AUTH__DUPLICATE_LOGIN", "allow").env("URINGCAST_CHANNELS__HISTORY_SIZE", 100_000)
}

/// A number that stands behind a name in JSON text; much quicker than parsing all of it.
fn number(text: &str, name: &str) -> Option<u64> {
    let at = text.find(name)? + name.len();
    let digits = text[at..].bytes().take_while(u8::is_ascii_digit).count();
    text[at..at + digits].parse().ok()
}

fn share(part: u64, whole: u64) -> f64 {
    100.0 * part as f64 / whole as f64
}

// ----------------------------------------------------------------------------------------------------------- drops

const CHANNELS: usize = 10;
const PER_SECOND: u64 = 100;
const SECONDS: u64 = 12;
const EACH: u64 = PER_SECOND * SECONDS;

#[derive(Default)]
struct Received {
    live: u64,
    recovered: u64,
    drops: u64,
    /// Came twice, or after a later one.
    double: u64,
    /// Were passed over.
    missed: u64,
    gaps: u64,
}

impl Received {
    fn take(&mut self, at: &mut u64, offset: u64) {
        if offset <= *at {
            self.double += 1;
        } else {
            self.missed += offset - *at - 1;
            *at = offset;
        }
    }
}

/// One client's life: dropped once, away for two seconds, back with its position.
async fn dropped(
    server: Arc<Server>,
    user: String,
    channel: String,
    drop_at: Instant,
    ready: Arc<Semaphore>,
) -> Received {
    let mut got = Received::default();
    let (mut at, mut epoch) = (0, Value::Null);
    loop {
        let mut client = Client::open(&server).await;
        let mut wanted = json!({"channel": channel});
        if !epoch.is_null() {
            wanted["recover"] = json!({"epoch": epoch, "offset": at});
        }
        let auth = json!({"type": "auth", "data": {"token": token(user.as_str(), &user), "channels": [wanted]}});
        client.send(&auth).await;
        let subscribed = client.find("subscribed").await;
        for element in subscribed["data"]["publications"].as_array().into_iter().flatten() {
            got.recovered += 1;
            got.take(&mut at, element["offset"].as_u64().expect("an offset"));
        }
        if epoch.is_null() {
            ready.add_permits(1);
        }
        epoch = subscribed["data"]["epoch"].clone();
        while at < EACH {
            let event = if got.drops == 0 {
                match tokio::time::timeout_at(drop_at.into(), client.event()).await {
                    Ok(event) => event,
                    Err(_) => break,
                }
            } else {
                client.event().await
            };
            let Event::Text(text) = event else { panic!("{user} was cut: {event:?}") };
            if text.starts_with(r#"{"type":"publication""#) {
                got.live += 1;
                got.take(&mut at, number(&text, "\"offset\":").expect("an offset"));
            } else if text.starts_with(r#"{"type":"gap""#) {
                got.gaps += 1;
            }
        }
        if at >= EACH {
            return got;
        }
        client.vanish();
        got.drops += 1;
        // Not for luck: this is how long a client is away.
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "by ./check drops"]
async fn drops() {
    const CLIENTS: usize = 1000;
    let server = Arc::new(options().shards(2).start());
    let mut random = Random(seed());
    let ready = Arc::new(Semaphore::new(0));
    // Joining takes some seconds of its own, which the clients' moments are counted from.
    let start = Instant::now() + Duration::from_secs(4);
    let mut clients = Vec::new();
    for n in 0..CLIENTS {
        let drop_at = start + Duration::from_millis(random.below((SECONDS - 3) * 1000));
        let (user, channel) = (format!("u{n}"), format!("c{}", n % CHANNELS));
        clients.push(tokio::spawn(dropped(Arc::clone(&server), user, channel, drop_at, Arc::clone(&ready))));
    }
    let _all = ready.acquire_many(CLIENTS as u32).await.expect("all are there");
    let begun = Instant::now();
    let mut publishers = Vec::new();
    for n in 0..CHANNELS {
        let channel = format!("c{n}");
        let mut client = member(&server, &format!("publisher{n}"), &channel).await;
        publishers.push(tokio::spawn(async move {
            let mut ticks = tokio::time::interval(Duration::from_micros(1_000_000 / PER_SECOND));
            let (mut sent, mut acked) = (0, 0);
            // It doesn't wait for one answer before the next request: the rate is the clock's.
            while acked < EACH {
                tokio::select! {
                    _ = ticks.tick(), if sent < EACH => {
                        sent += 1;
                        client.send(&json!({"type": "publish", "id": "p", "data": {"channel": channel, "data": sent}})).await;
                    }
                    value = client.next() => if value["type"] == "ack" {
                        acked += 1;
                        assert_eq!(offset(&value), acked);
                    }
                }
            }
            client
        }));
    }
    let mut total = Received::default();
    for client in clients {
        let got = client.await.expect("a client");
        total.live += got.live;
        total.recovered += got.recovered;
        total.drops += got.drops;
        total.double += got.double;
        total.missed += got.missed;
        total.gaps += got.gaps;
    }
    for publisher in publishers {
        publisher.await.expect("a publisher");
    }
    let due = CLIENTS as u64 * EACH;
    let got = total.live + total.recovered - total.double;
    println!(
        "{CLIENTS} clients on {CHANNELS} channels, {} messages ({} a second) in {:.1} s; {} drops of 2 s",
        EACH * CHANNELS as u64,
        PER_SECOND * CHANNELS as u64,
        begun.elapsed().as_secs_f64(),
        total.drops
    );
    println!(
        "due {due}, received {got} ({:.4} %): {} live, {} recovered; missed {}, double or out of order {}, gaps {}",
        share(got, due),
        total.live,
        total.recovered,
        total.missed,
        total.double,
        total.gaps
    );
    assert_eq!((got, total.missed, total.double, total.gaps), (due, 0, 0, 0));
}

// ------------------------------------------------------------------------------------------------------ join-storm

#[derive(Default, Clone, Copy)]
struct Heard {
    frames: u64,
    bytes: u64,
}

/// Joins and counts what it hears of the others, up to the first publication.
async fn listener(server: Arc<Server>, user: String, gate: Arc<Semaphore>) -> Heard {
    let permit = gate.acquire().await.expect("open");
    let mut tcp = TcpStream::connect(server.addr).await.expect("connects");
    let mut hello = request(&server, "/ws", &[]).into_bytes();
    let auth =
        json!({"type": "auth", "data": {"token": token(user.as_str(), &user), "channels": [{"channel": "room"}]}});
    hello.extend(frame(true, 1, auth.to_string().as_bytes()));
    tcp.write_all(&hello).await.expect("writes");
    let mut permit = Some(permit);
    let (mut buffer, mut head, mut heard) = (Vec::with_capacity(4096), true, Heard::default());
    loop {
        assert!(tcp.read_buf(&mut buffer).await.expect("reads") > 0, "cut");
        let mut at = 0;
        if head {
            let Some(end) = buffer.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
            (at, head) = (end + 4, false);
        }
        while let Some((start, end)) = bounds(&buffer[at..]) {
            let payload = &buffer[at + start..at + end];
            if payload.starts_with(br#"{"type":"join""#) || payload.starts_with(br#"{"type":"presence_digest""#) {
                heard.frames += 1;
                heard.bytes += end as u64;
            } else if payload.starts_with(br#"{"type":"subscribed""#) {
                permit.take();
            } else if payload.starts_with(br#"{"type":"publication""#) {
                return heard;
            }
            at += end;
        }
        buffer.drain(..at);
    }
}

/// Where the payload of the first frame is, if it is all there.
fn bounds(bytes: &[u8]) -> Option<(usize, usize)> {
    let (length, start) = match *bytes.get(1)? {
        126 => (usize::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?)), 4),
        127 => (usize::try_from(u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?)).ok()?, 10),
        short => (usize::from(short), 2),
    };
    (bytes.len() >= start + length).then_some((start, start + length))
}

async fn storm(mode: &str, above: u64, joins: usize) -> (Heard, Duration) {
    let options = options().shards(2).env("URINGCAST_CHANNELS__PRESENCE", mode);
    // The listeners answer no pings.
    let options = options.env("URINGCAST_LIVENESS__PING_INTERVAL_MS", 600_000);
    let options = options.env("URINGCAST_LIMITS__OUTBOX_BYTES", 64 << 20);
    let server = Arc::new(options.env("URINGCAST_LIMITS__PRESENCE_DIGEST_ABOVE", above).start());
    let mut first = member(&server, "first", "room").await;
    let gate = Arc::new(Semaphore::new(100));
    let begun = Instant::now();
    let listeners: Vec<_> = (0..joins)
        .map(|n| tokio::spawn(listener(Arc::clone(&server), format!("user-{n:05}"), Arc::clone(&gate))))
        .collect();
    while first.next().await["data"]["count"].as_u64() != Some(joins as u64 + 1) {}
    let took = begun.elapsed();
    first.publish("room", json!("the end")).await;
    let mut all = Heard::default();
    for listener in listeners {
        let heard = listener.await.expect("a listener");
        all.frames += heard.frames;
        all.bytes += heard.bytes;
    }
    (all, took)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "by ./check join-storm"]
async fn join_storm() {
    println!("| joins | presence | frames | bytes | frames per join | bytes per join | s |");
    println!("| --- | --- | --- | --- | --- | --- | --- |");
    for joins in [1_000, 3_000, 10_000] {
        let modes = [
            ("events", "events, never digests", 100_000_000),
            ("events", "events, digests above 1,000", 1_000),
            ("digest", "digest", 1_000),
        ];
        for (mode, name, above) in modes {
            let (heard, took) = storm(mode, above, joins).await;
            let n = joins as f64;
            println!(
                "| {joins} | {name} | {} | {} | {:.1} | {:.0} | {:.1} |",
                heard.frames,
                heard.bytes,
                heard.frames as f64 / n,
                heard.bytes as f64 / n,
                took.as_secs_f64()
            );
        }
    }
}

// --------------------------------------------------------------------------------------------------------- stalled

/// Publishes for some seconds; how late each delivery was, in microseconds, in ascending order.
async fn latencies(bob: &mut Client, readers: &mut Vec<Client>, origin: Instant) -> Vec<u64> {
    const ROUNDS: u64 = 400;
    let fill = "x".repeat(2048);
    let mut tasks = Vec::new();
    for mut reader in readers.drain(..) {
        tasks.push(tokio::spawn(async move {
            let mut all = Vec::with_capacity(ROUNDS as usize);
            while all.len() < ROUNDS as usize {
                let Event::Text(text) = reader.event().await else { panic!("a reader was cut") };
                if let Some(sent) = number(&text, "\"sent\":") {
                    all.push((origin.elapsed().as_micros() as u64).saturating_sub(sent));
                }
            }
            (reader, all)
        }));
    }
    let mut ticks = tokio::time::interval(Duration::from_millis(25));
    for _ in 0..ROUNDS {
        ticks.tick().await;
        bob.publish("news", json!({"sent": origin.elapsed().as_micros() as u64, "fill": fill})).await;
    }
    let mut all = Vec::new();
    for task in tasks {
        let (reader, some) = task.await.expect("a reader");
        readers.push(reader);
        all.extend(some);
    }
    all.sort_unstable();
    all
}

fn line(name: &str, all: &[u64], resident: u64) {
    let at = |part: f64| all[((all.len() - 1) as f64 * part) as usize] as f64 / 1000.0;
    println!(
        "{name}: p50 {:.2} ms, p99 {:.2} ms, max {:.2} ms; resident {:.2} MiB",
        at(0.5),
        at(0.99),
        at(1.0),
        resident as f64 / 1_048_576.0
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "by ./check stalled"]
async fn stalled() {
    const READERS: usize = 999;
    const BOUND: usize = 256 * 1024;
    let options = options().shards(2).env("URINGCAST_CHANNELS__OVERFLOW", "drop_oldest");
    let options = options.env("URINGCAST_LIMITS__OUTBOX_BYTES", BOUND).env("URINGCAST_CHANNELS__HISTORY_SIZE", 0);
    let server = options.start();
    let mut bob = member(&server, "bob", "news").await;
    let mut readers = Vec::new();
    for n in 0..READERS {
        readers.push(member(&server, &format!("u{n}"), "news").await);
    }
    let origin = Instant::now();
    // The first round warms up what is kept for good.
    latencies(&mut bob, &mut readers, origin).await;
    let without = latencies(&mut bob, &mut readers, origin).await;
    let before = server.resident();
    line("without a stalled reader", &without, before);

    // Little room in the kernel, so that it is the server that holds what is not read.
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4096).expect("a size");
    let mut tcp = socket.connect(server.addr).await.expect("connects");
    let mut hello = request(&server, "/ws", &[]).into_bytes();
    let auth = json!({"type": "auth", "data": {"token": token("slow", "slow"), "channels": [{"channel": "news"}, {"channel": "extra"}]}});
    hello.extend(frame(true, 1, auth.to_string().as_bytes()));
    tcp.write_all(&hello).await.expect("writes");
    // What the others needn't carry fills the kernel's buffers, and then the bound.
    bob.subscribe("extra").await;
    for _ in 0..200 {
        bob.publish("extra", json!("x".repeat(64 * 1024))).await;
    }
    let with = latencies(&mut bob, &mut readers, origin).await;
    let during = server.resident();
    line("with one", &with, during);
    drop(tcp);
    let after_it = latencies(&mut bob, &mut readers, origin).await;
    let after = server.resident();
    line("after it left", &after_it, after);
    println!(
        "bound {} KiB; grown by {} KiB while it stalled, {:+.1} % after it left",
        BOUND >> 10,
        (during as i64 - before as i64) >> 10,
        share(after, before) - 100.0
    );
    assert!(during.saturating_sub(before) < 16 << 20, "more than the bound is held");
    assert!(after as f64 <= before as f64 * 1.1, "memory did not return");
}
