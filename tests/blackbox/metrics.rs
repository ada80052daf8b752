//! What is counted, as Prometheus reads it: every metric that is served is in docs/metrics.md with its type, labels and
//! meaning, and no other is. `Metrics` reads numbers for the tests of limits too.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, mpsc};
use std::time::Instant;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::api::Backend;
use crate::support::key_server::{KeyServer, TestKey};
use crate::support::tls::Files;
use crate::support::{Client, DEADLINE, Options, Server, now_s, until};

const KEY: &str = "an-api-key-of-the-tests-of-metrics";

/// A server whose metrics can be read, with no peer exempt from anything.
pub fn options() -> Options {
    Options::new()
        .env("URINGCAST_HTTP__KEYS", KEY)
        .env("URINGCAST_HTTP__LISTEN", "127.0.0.1:0")
        .env("URINGCAST_LIMITS__EXEMPT", "")
}

/// One server's numbers.
pub struct Metrics {
    addr: SocketAddr,
}

impl Metrics {
    pub async fn of(server: &Server) -> Self {
        Self { addr: server.api().await }
    }

    /// The head and the body of the answer.
    async fn scrape(&self, headers: &str) -> (String, String) {
        let request = format!("GET /metrics HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n{headers}\r\n", self.addr);
        let mut text = String::new();
        let exchange = async {
            let mut tcp = TcpStream::connect(self.addr).await.unwrap();
            tcp.write_all(request.as_bytes()).await.unwrap();
            tcp.read_to_string(&mut text).await.unwrap();
        };
        timeout(DEADLINE, exchange).await.expect("an answer in time");
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        (head.to_owned(), body.to_owned())
    }

    /// The value of one series, named as it is served.
    pub async fn get(&self, series: &str) -> u64 {
        let (head, body) = self.scrape("").await;
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        let line = body.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {series} in\n{body}")).parse().unwrap()
    }

    pub async fn refusals(&self, limit: &str) -> u64 {
        self.get(&format!("uringcast_refusals_total{{limit=\"{limit}\"}}")).await
    }

    /// Waits until a series has this value.
    pub async fn reach(&self, series: &str, wanted: impl Fn(u64) -> bool) -> u64 {
        until(series, async || Some(self.get(series).await).filter(|value| wanted(*value))).await
    }
}

/// (name without the prefix, type, labels) → what it means.
type Table = BTreeMap<(String, String, String), String>;

fn documented() -> Table {
    let text = include_str!("../../docs/metrics.md");
    let rows = text.lines().filter(|line| line.starts_with("| `"));
    let cells = |line: &str| {
        let cells: Vec<String> = line.trim_matches('|').split(" | ").map(|cell| cell.trim().to_owned()).collect();
        let [name, kind, labels, meaning] = &cells[..] else { panic!("not four cells: {line}") };
        let plain = |cell: &str| cell.trim_matches('`').to_owned();
        ((plain(name), kind.clone(), plain(labels)), meaning.clone())
    };
    rows.map(cells).collect()
}

fn served(text: &str) -> Table {
    let mut table = Table::new();
    let help = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("# HELP {name} ")));
        line.unwrap_or_else(|| panic!("{name} has no help")).trim_end_matches('.').to_owned()
    };
    for line in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let (name, kind) = line.split_once(' ').unwrap();
        let suffix = match kind {
            "counter" => "_total",
            "histogram" => "_bucket",
            _ => "",
        };
        let mut labels = BTreeSet::new();
        for sample in text.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(suffix)) {
            if let Some((inside, _)) = sample.strip_prefix('{').and_then(|rest| rest.split_once('}')) {
                labels.extend(
                    inside.split(',').filter_map(|pair| pair.split_once('=')).map(|(label, _)| label.to_owned()),
                );
            }
        }
        labels.remove("le");
        let suffix = if kind == "counter" { "_total" } else { "" };
        let labels = labels.into_iter().collect::<Vec<_>>().join(", ");
        table.insert((format!("{name}{suffix}"), kind.to_owned(), labels), help(name));
    }
    table
}

#[tokio::test]
async fn what_is_served_is_what_is_documented() {
    let files = Files::new();
    let keys = KeyServer::start(&[&TestKey::ed("a")]).await;
    let options = options().env("URINGCAST_AUTH__JWKS_URL", keys.url());
    let server = files.beside(options).shards(2).start();
    let metrics = Metrics::of(&server).await;
    metrics.reach("uringcast_jwks_keys", |keys| keys == 1).await;
    let (head, body) = metrics.scrape("").await;
    assert!(head.to_lowercase().contains("content-type: application/openmetrics-text; version=1.0.0"), "{head}");
    assert!(body.ends_with("# EOF\n"), "{body}");
    let served = served(&body);
    if std::env::var_os("BLESS").is_some() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md");
        let text = std::fs::read_to_string(path).unwrap();
        let head = text.split("| `").next().unwrap().to_owned();
        let row = |((name, kind, labels), meaning): (&(String, String, String), &String)| {
            let labels = if labels.is_empty() { String::new() } else { format!("`{labels}`") };
            format!("| `{name}` | {kind} | {labels} | {meaning} |\n")
        };
        std::fs::write(path, head + &served.iter().map(row).collect::<String>()).unwrap();
        return;
    }
    assert_eq!(documented(), served, "BLESS=1 writes the table of docs/metrics.md anew");
}

#[tokio::test]
async fn what_clients_do_is_counted() {
    let server = options().shards(2).start();
    let metrics = Metrics::of(&server).await;
    let (mut alice, _) = Client::join(&server, 1, "Alice").await;
    let (mut bob, _) = Client::join(&server, 2, "Bob").await;
    alice.expect("user_online").await;
    for _ in 0..10 {
        alice.say("hi").await;
        alice.expect("message").await;
        bob.expect("message").await;
    }
    let failed = Client::open(&server).await.auth("nonsense").await;
    assert_eq!(failed["type"], "auth_failed");
    metrics.reach("uringcast_connections", |count| count == 2).await;
    for (series, least) in [
        ("uringcast_connections_accepted_total", 3),
        ("uringcast_upgrades_total", 3),
        ("uringcast_auth_succeeded_total", 2),
        ("uringcast_auth_failed_total", 1),
        ("uringcast_messages_received_total", 13),
        ("uringcast_publications_total", 10),
        ("uringcast_deliveries_total", 20),
        ("uringcast_users", 2),
        ("uringcast_subscriptions", 2),
        ("uringcast_channels", 1),
        ("uringcast_closes_total{code=\"4401\"}", 1),
    ] {
        let most = if series == "uringcast_deliveries_total" { 23 } else { least };
        let value = metrics.reach(series, |value| value >= least).await;
        assert!(value <= most, "{series} is {value}");
    }
    for series in ["received_bytes_total", "sent_bytes_total", "sends_total", "turns_total", "flush_seconds_count"] {
        metrics.reach(&format!("uringcast_{series}"), |value| value > 0).await;
    }
    let (mut again, _) = Client::join(&server, 2, "Bob").await;
    bob.expect("kicked").await;
    metrics.reach("uringcast_kicks_total", |value| value == 1).await;
    again.nothing_pending().await;
    again.leave().await;
    metrics.reach("uringcast_closes_total{code=\"client\"}", |value| value == 1).await;
    metrics.reach("uringcast_users", |value| value == 1).await;
}

#[tokio::test]
async fn history_is_counted_and_so_is_what_leaves_it() {
    let server = options()
        .shards(1)
        .env("URINGCAST_LIMITS__HISTORY_BYTES", 4_000)
        .env("URINGCAST_LOBBY__HISTORY_SIZE", 1_000)
        .start();
    let metrics = Metrics::of(&server).await;
    let (mut alice, _) = Client::join(&server, 1, "Alice").await;
    for n in 0..40 {
        alice.send(&json!({"type": "message", "id": n.to_string(), "data": {"text": "x".repeat(100)}})).await;
        alice.find("ack").await;
    }
    metrics.reach("uringcast_history_evictions_total", |value| value >= 10).await;
    let kept = metrics.reach("uringcast_history_bytes", |value| value > 0).await;
    assert!(kept <= 4_000, "{kept} bytes are kept");
}

/// The log's reader ends as soon as it knows where the API is.
const READER: &str = r#"exec "$@" 2> >(sed -u '/HTTP API on/q' >&2)"#;

#[tokio::test]
async fn log_lines_that_are_refused_are_counted() {
    let options = options().shards(1).env("URINGCAST_LOG__LEVEL", "debug");
    let server = options.wrapped(&["bash", "-c", READER, "bash"]).start();
    let metrics = Metrics::of(&server).await;
    let end = Instant::now() + DEADLINE;
    while metrics.get("uringcast_log_lines_lost_total").await == 0 {
        assert!(Instant::now() < end, "no line was refused");
        let (client, _) = Client::join(&server, 1, "Alice").await;
        client.leave().await;
    }
}

#[tokio::test]
async fn a_log_that_was_not_read_in_time_says_so_at_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let fifo = folder.path().join("log");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let (path, read) = (fifo.clone(), Arc::new(AtomicUsize::new(0)));
    let (found, addr) = mpsc::channel();
    let (go_on, resumed) = mpsc::channel();
    let so_far = Arc::clone(&read);
    let reader = std::thread::spawn(move || {
        let mut lines = BufReader::with_capacity(256, File::open(path).unwrap()).lines();
        let addr = lines.by_ref().find_map(|line| Some(line.unwrap().split_once("HTTP API on http://")?.1.to_owned()));
        found.send(addr.unwrap()).unwrap();
        resumed.recv().unwrap();
        let mut text = String::new();
        for line in lines {
            text += &line.unwrap();
            so_far.store(text.len(), Relaxed);
        }
        text
    });
    let options = options().shards(1).without("URINGCAST_LIMITS__EXEMPT");
    let options = options.env("URINGCAST_LOG__LEVEL", "debug").env("URINGCAST_LOG__QUEUE_LINES", 16);
    let script = r#"exec "$@" 2>"$0""#;
    let mut server = options.wrapped(&["sh", "-c", script, fifo.to_str().unwrap()]).start();
    let metrics = Metrics { addr: addr.recv_timeout(DEADLINE).unwrap().trim().parse().unwrap() };
    let end = Instant::now() + 3 * DEADLINE;
    while metrics.get("uringcast_log_lines_lost_total").await == 0 {
        assert!(Instant::now() < end, "no line was lost");
        for _ in 0..50 {
            let (client, _) = Client::join(&server, 1, "Alice").await;
            client.leave().await;
        }
    }
    go_on.send(()).unwrap();
    // Lines come again, and none is lost: there is room.
    let end = Instant::now() + DEADLINE;
    loop {
        let (lost, seen) = (metrics.get("uringcast_log_lines_lost_total").await, read.load(Relaxed));
        let (client, _) = Client::join(&server, 1, "Alice").await;
        client.leave().await;
        if metrics.get("uringcast_log_lines_lost_total").await == lost && read.load(Relaxed) > seen {
            break;
        }
        assert!(Instant::now() < end, "only {} bytes come", read.load(Relaxed));
    }
    server.signal("TERM");
    assert!(server.ended(DEADLINE).success());
    let text = reader.join().unwrap();
    assert!(text.contains("log lines were lost"), "{}", &text[text.len().saturating_sub(1_000)..]);
}

#[tokio::test]
async fn revocations_and_remembered_tokens_are_counted() {
    let server = options()
        .shards(2)
        .env("URINGCAST_AUTH__PUBLIC_KEY_FILES", concat!(env!("CARGO_MANIFEST_DIR"), "/tests/keys/ed.pub.pem"))
        .start();
    let metrics = Metrics::of(&server).await;
    let pem = include_bytes!("../keys/ed.key.pem");
    let header = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::EdDSA);
    let claims = json!({"user_id": 7, "username": "Ed", "exp": now_s() + 600});
    let token = jsonwebtoken::encode(&header, &claims, &jsonwebtoken::EncodingKey::from_ed_pem(pem).unwrap()).unwrap();
    let sign_ins = 12;
    for _ in 0..sign_ins {
        let mut client = Client::open(&server).await;
        assert_eq!(client.auth(&token).await["type"], "auth_success");
        client.leave().await;
    }
    // Each shard checks it once.
    let end = Instant::now() + DEADLINE;
    let misses = loop {
        let hits = metrics.get("uringcast_token_cache_hits_total").await;
        let misses = metrics.get("uringcast_token_cache_misses_total").await;
        if hits + misses == sign_ins {
            break misses;
        }
        assert!(Instant::now() < end, "{hits} hits and {misses} misses of {sign_ins} sign-ins");
    };
    assert!((1..=2).contains(&misses), "{misses}");
    metrics.reach("uringcast_token_cache_tokens", |count| count == misses).await;

    assert_eq!(metrics.get("uringcast_revocations").await, 0);
    let backend = Backend::of(&server).await.with(&format!("Authorization: Bearer {KEY}\r\n"));
    backend.post("/api/revoke", &json!({"user": 7})).await.ok();
    assert_eq!(metrics.get("uringcast_revocations").await, 1, "once, however many shards have it");
}

#[tokio::test]
async fn beyond_this_machine_metrics_need_a_key() {
    let server = options().env("URINGCAST_HTTP__LISTEN", "0.0.0.0:0").start();
    let metrics = Metrics::of(&server).await;
    let port = metrics.addr.port();
    let metrics = Metrics { addr: SocketAddr::from(([127, 0, 0, 1], port)) };
    assert!(metrics.scrape("").await.0.starts_with("HTTP/1.1 401"));
    let (head, body) = metrics.scrape(&format!("Authorization: Bearer {KEY}\r\n")).await;
    assert!(head.starts_with("HTTP/1.1 200") && body.contains("uringcast_connections 0"), "{head}\n{body}");
}
