//! What happens around the server, and not to it alone: it is killed, told to stop, or stopped; a client's process is;
//! the clock jumps, stderr is full, the network drops packets or a peer without a word. What needs a program of the
//! machine (libfaketime, nft, unshare) says loudly that it was skipped where there is none, and fails in CI.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::channel_support::{listed, offset, since};
use crate::metrics::{Metrics, options};
use crate::support::{
    Client, DEADLINE, Event, Options, Server, frame, installed, missing, now_s, request, sign, skipped, token,
    whole_frames,
};

/// The next event, or none if nothing comes for that long.
async fn event_within(client: &mut Client, limit: Duration) -> Option<Event> {
    tokio::time::timeout(limit, client.event()).await.ok()
}

#[tokio::test]
async fn what_was_killed_claims_nothing_that_it_no_longer_has() {
    let options = Options::new().shards(2).env("URINGCAST_CHANNELS__PUBLISH", "members");
    let mut server = options.clone().start();
    let (mut alice, success) = Client::join(&server, 1, "Alice").await;
    let lobby = success["data"]["lobby"].clone();
    let news = alice.subscribe("news").await;
    let publish = |n: u64| json!({"channel": "news", "data": n, "idempotency_key": format!("key-{n}")});
    for n in 1..=20 {
        assert_eq!(offset(&alice.ask("publish", publish(n)).await), n);
    }
    server.signal("KILL");
    server.ended(DEADLINE);
    // Cut without a close, which says to come back.
    while !matches!(alice.event().await, Event::Ended) {}
    let again = Options::bare(&["--listen", &server.addr.to_string()])
        .env("URINGCAST_AUTH__HS256_SECRET", crate::support::SECRET)
        .env("URINGCAST_CHANNELS__PUBLISH", "members")
        .shards(2)
        .start();
    let mut alice = Client::open(&again).await;
    let auth = json!({"token": token(1, "Alice"), "recover": since(&lobby["epoch"], 0)});
    alice.send(&json!({"type": "auth", "data": auth})).await;
    let success = alice.find("auth_success").await;
    assert_ne!(success["data"]["lobby"]["epoch"], lobby["epoch"], "another life, another epoch");
    // The position of then is unknown now, and that is said: no publication is made up, none passes for seen.
    let back = alice.subscribe_from("news", since(&news["data"]["epoch"], 20)).await;
    assert_eq!((back["data"]["recovered"].as_bool(), offset(&back)), (Some(false), 0), "{back}");
    assert!(listed(&back).is_empty());
    assert_ne!(back["data"]["epoch"], news["data"]["epoch"]);
    let page = json!({"channel": "news", "since": since(&news["data"]["epoch"], 0)});
    alice.ask_refused("history", page, 409).await;
    let page = alice.ask("history", json!({"channel": "news"})).await;
    assert!(listed(&page).is_empty(), "{page}");
    // The key of then isn't known either: the message is published, as the first of the new epoch.
    let ack = alice.ask("publish", publish(20)).await;
    assert!(ack["type"] == "ack" && offset(&ack) == 1 && ack["data"]["duplicate"] != true, "{ack}");
    // Who insists on the epoch of then is told.
    let old = json!({"channel": "news", "data": 1, "epoch": news["data"]["epoch"]});
    alice.ask_refused("publish", old, 409).await;
}

/// Reads to the end: the offsets of the lobby that came, and the code of the close.
async fn to_the_end(mut client: Client) -> (Vec<u64>, Vec<u64>, Option<u16>) {
    let (mut offsets, mut acked, mut close) = (Vec::new(), Vec::new(), None);
    loop {
        match client.event().await {
            Event::Text(text) => {
                let value: Value = serde_json::from_str(&text).unwrap();
                match value["type"].as_str() {
                    Some("message") => offsets.push(offset(&value)),
                    Some("ack") => acked.push(offset(&value)),
                    _ => {}
                }
            }
            Event::Close(code, _) => close = Some(code),
            Event::Ended => return (offsets, acked, close),
            Event::Binary(_) => panic!("no binary here"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn told_to_stop_in_the_middle_everyone_has_all_that_was_acknowledged_and_1001() {
    for _ in 0..5 {
        let mut server = Options::new().shards(2).start();
        let mut readers = Vec::new();
        for user in 0..40 {
            let client = Client::join(&server, user, "Reader").await.0;
            readers.push(tokio::spawn(to_the_end(client)));
        }
        let (mut writer, _) = Client::join(&server, "writer", "Writer").await;
        let (started, mut starts) = tokio::sync::mpsc::channel(1);
        let writing = tokio::spawn(async move {
            let say = |n: usize| json!({"type": "message", "id": n.to_string(), "data": {"text": n.to_string()}});
            writer.pipeline(&(0..3_000).map(say).collect::<Vec<_>>()).await;
            // The first answer: the broadcast is under way.
            let mut first = Vec::new();
            while first.is_empty() {
                let value = writer.next().await;
                if value["type"] == "ack" {
                    first.push(offset(&value));
                }
            }
            started.send(()).await.unwrap();
            let (_, acked, close) = to_the_end(writer).await;
            ([first, acked].concat(), close)
        });
        starts.recv().await.unwrap();
        server.signal("TERM");
        let (acked, close) = writing.await.unwrap();
        assert_eq!(close, Some(1001));
        let last_acked = *acked.last().unwrap();
        assert!(acked.iter().copied().eq(1..=last_acked), "acknowledged in order and without a hole");
        for reader in readers {
            let (seen, _, close) = reader.await.unwrap();
            assert_eq!(close, Some(1001));
            let last = seen.last().copied().unwrap_or(0);
            assert!(seen.iter().copied().eq(1..=last), "a prefix: {seen:?}");
            assert!(last >= last_acked, "{last_acked} was acknowledged, and a reader has {last} only");
        }
        assert!(server.ended(DEADLINE).success());
    }
}

/// A client that is a process of its own: it signs in, reads all that comes into a file, and answers nothing.
struct Process {
    child: std::process::Child,
    output: tempfile::NamedTempFile,
}

impl Process {
    fn start(server: &Server, user: &str) -> Self {
        let mut input = tempfile::NamedTempFile::new().unwrap();
        let auth = json!({"type": "auth", "data": {"token": token(user, user)}}).to_string();
        input.write_all(request(server, "/ws", &[]).as_bytes()).unwrap();
        input.write_all(&frame(true, 1, auth.as_bytes())).unwrap();
        let output = tempfile::NamedTempFile::new().unwrap();
        let script = r#"exec 3<>"/dev/tcp/$0/$1"; cat "$2" >&3; exec cat <&3"#;
        let child = Command::new("bash")
            .args(["-c", script, &server.addr.ip().to_string(), &server.addr.port().to_string()])
            .arg(input.path())
            .stdin(Stdio::null())
            .stdout(output.reopen().unwrap())
            .spawn()
            .expect("bash runs");
        // It is read before the folder of temporary files may be cleaned.
        let (_, path) = input.keep().unwrap();
        let process = Self { child, output };
        process.wait_for("auth_success");
        std::fs::remove_file(path).unwrap();
        process
    }

    fn wait_for(&self, needle: &str) {
        let end = Instant::now() + DEADLINE;
        while !String::from_utf8_lossy(&self.read()).contains(needle) {
            assert!(Instant::now() < end, "{needle} never came");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn read(&self) -> Vec<u8> {
        std::fs::read(self.output.path()).unwrap()
    }

    fn signal(&self, name: &str) {
        let status = Command::new("kill").arg(format!("-{name}")).arg(self.child.id().to_string()).status();
        assert!(status.expect("kill runs").success());
    }

    /// The frames that it has received, up to the end of the connection.
    fn finish(mut self) -> Vec<crate::support::RawFrame> {
        let end = Instant::now() + DEADLINE;
        while self.child.try_wait().unwrap().is_none() {
            assert!(Instant::now() < end, "its connection never ends");
            std::thread::sleep(Duration::from_millis(5));
        }
        let bytes = self.read();
        let head = bytes.windows(4).position(|four| four == b"\r\n\r\n").expect("a head") + 4;
        whole_frames(&bytes[head..])
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn a_client_that_is_stopped_is_4508_and_the_others_lose_nothing() {
    let options = options().shards(2).env("URINGCAST_LIMITS__OUTBOX_BYTES", 64 << 10);
    let options = ["MESSAGES_PER_S", "BYTES_PER_S", "USER_MESSAGES_PER_S", "USER_BYTES_PER_S"]
        .iter()
        .fold(options, |options, name| options.env(&format!("URINGCAST_LIMITS__{name}"), 0));
    let server = options.env("URINGCAST_LOBBY__HISTORY_SIZE", 0).start();
    let metrics = Metrics::of(&server).await;
    let (mut alice, _) = Client::join(&server, 1, "Alice").await;
    let stopped = Process::start(&server, "stopped");
    stopped.signal("STOP");
    let text = "x".repeat(20_000);
    let code = "uringcast_closes_total{code=\"4508\"}";
    let mut said = 0;
    while metrics.get(code).await == 0 {
        assert!(said < 3_000, "never closed");
        for _ in 0..20 {
            alice.say(&text).await;
            said += 1;
            assert_eq!(offset(&alice.find("message").await), said);
        }
    }
    metrics.reach("uringcast_connections", |count| count == 1).await;
    stopped.signal("CONT");
    // What had begun comes whole and in order, as far as it came before the reset.
    let mut last = 0;
    for frame in stopped.finish().iter().filter(|frame| frame.opcode == 1) {
        let value: Value = serde_json::from_slice(&frame.payload).unwrap();
        if value["type"] == "message" {
            assert_eq!(offset(&value), last + 1);
            last += 1;
        }
    }
    assert!(last > 0 && last < said, "{last} of {said}");
}

#[tokio::test]
async fn a_client_that_is_stopped_and_has_nothing_to_read_is_4504() {
    let server = options()
        .env("URINGCAST_LIVENESS__PING_INTERVAL_MS", 300)
        .env("URINGCAST_LIVENESS__PONG_TIMEOUT_MS", 300)
        .start();
    let metrics = Metrics::of(&server).await;
    let stopped = Process::start(&server, "stopped");
    stopped.signal("STOP");
    metrics.reach("uringcast_closes_total{code=\"4504\"}", |count| count == 1).await;
    stopped.signal("CONT");
    let frames = stopped.finish();
    assert_eq!(frames.last().expect("frames").close_code(), 4504);
}

#[tokio::test]
async fn a_server_that_is_stopped_and_goes_on_cuts_nobody() {
    const PAUSE: Duration = Duration::from_millis(1_300);
    let server = options()
        .shards(2)
        .env("URINGCAST_LIVENESS__PING_INTERVAL_MS", 200)
        .env("URINGCAST_LIVENESS__PONG_TIMEOUT_MS", 600)
        .start();
    let metrics = Metrics::of(&server).await;
    let mut members = Vec::new();
    for user in 0..60 {
        let (mut client, _) = Client::join(&server, user, "Member").await;
        members.push(tokio::spawn(async move {
            let mut offsets = Vec::new();
            while offsets.last() != Some(&5) {
                let value = client.find("message").await;
                offsets.push(offset(&value));
            }
            (offsets, client)
        }));
    }
    let (mut alice, _) = Client::join(&server, "alice", "Alice").await;
    for n in 1..=5 {
        // The pause is the fault itself: longer than a ping and its answer may take together.
        server.signal("STOP");
        let end = tokio::time::Instant::now() + PAUSE;
        alice.say("said to a stopped server").await;
        tokio::time::sleep_until(end).await;
        server.signal("CONT");
        assert_eq!(offset(&alice.find("message").await), n);
    }
    for member in members {
        let (offsets, _open) = member.await.expect("stays connected");
        assert_eq!(offsets, [1, 2, 3, 4, 5]);
    }
    assert_eq!(metrics.get("uringcast_closes_total{code=\"4504\"}").await, 0);
}

#[tokio::test]
async fn a_clock_that_jumps_cuts_nobody_and_no_timestamp_goes_back() {
    let places = ["/usr/lib/x86_64-linux-gnu/faketime", "/usr/lib/aarch64-linux-gnu/faketime", "/usr/lib64/faketime"];
    let Some(library) =
        places.iter().map(|place| format!("{place}/libfaketimeMT.so.1")).find(|path| std::fs::exists(path).unwrap())
    else {
        return missing("libfaketime", "the clock jumps");
    };
    let folder = tempfile::tempdir().unwrap();
    let offset_file = folder.path().join("offset");
    let jump = |text: &str| {
        // In one step: the server reads it at any time.
        let next = folder.path().join("next");
        std::fs::write(&next, text).unwrap();
        std::fs::rename(&next, &offset_file).unwrap();
    };
    jump("+0\n");
    let server = Options::new()
        .shards(2)
        .env("LD_PRELOAD", library)
        .env("FAKETIME_TIMESTAMP_FILE", offset_file.display())
        .env("FAKETIME_NO_CACHE", 1)
        .env("FAKETIME_DONT_FAKE_MONOTONIC", 1)
        .env("URINGCAST_LIVENESS__PING_INTERVAL_MS", 300)
        .env("URINGCAST_LIVENESS__PONG_TIMEOUT_MS", 10_000)
        .start();
    let long = |user: &str| sign(&json!({"user_id": user, "username": user, "exp": now_s() + 10 * 86_400}));
    let mut alice = Client::open(&server).await;
    assert_eq!(alice.auth(&long("alice")).await["type"], "auth_success");
    let (mut short, _) = Client::join(&server, "short", "Short").await;
    let mut last = 0;
    let mut said = async |alice: &mut Client, text: &str| {
        alice.say(text).await;
        let value = alice.find("message").await;
        let time = value["data"]["timestamp"].as_i64().unwrap();
        assert!(time >= last, "{text}: {time} after {last}");
        last = time;
        time / 1_000 - now_s()
    };
    assert!(said(&mut alice, "at first").await.abs() < 60);
    jump("-7200\n");
    assert!(said(&mut alice, "two hours back").await.abs() < 60, "not before what was said before");
    // A token that is good for an hour is, two hours ago; what it may not do is make the hour longer.
    let mut early = Client::open(&server).await;
    assert_eq!(early.auth(&token("early", "Early")).await["type"], "auth_success");
    jump("+7200\n");
    assert!((said(&mut alice, "two hours on").await - 7_200).abs() < 60, "the jump has arrived");
    // By that clock the hour is over, for who is connected and for who comes.
    let code = loop {
        match short.event().await {
            Event::Close(code, _) => break code,
            Event::Ended => panic!("cut without a word"),
            Event::Text(_) | Event::Binary(_) => {}
        }
    };
    assert_eq!(code, 4401);
    let mut late = Client::open(&server).await;
    assert_eq!(late.auth(&token("late", "Late")).await["type"], "auth_failed");
    jump("+0\n");
    said(&mut alice, "back again").await;
    // A second of silence: pings go by a clock that doesn't jump.
    while event_within(&mut alice, Duration::from_secs(1)).await.is_some() {}
    said(&mut alice, "and still here").await;
}

#[tokio::test]
async fn a_full_disk_for_the_log_stops_nothing() {
    let full = ["sh", "-c", "exec \"$@\" 2>/dev/full", "sh"];
    let mut server = Options::new().shards(2).env("URINGCAST_LOG__LEVEL", "trace").wrapped(&full).start();
    let (mut alice, _) = Client::join(&server, 1, "Alice").await;
    for n in 0..300 {
        let mut bad = Client::open(&server).await;
        assert_eq!(bad.auth("nonsense").await["type"], "auth_failed");
        bad.closed(4401).await;
        if n % 10 == 0 {
            alice.say("still here").await;
            alice.find("message").await;
        }
    }
    assert!(server.log().is_empty(), "it went to /dev/full");
    server.signal("TERM");
    assert_eq!(to_the_end(alice).await.2, Some(1001));
    assert!(server.ended(DEADLINE).success());
}

// ------------------------------------------------------------------------------------------- in a network of its own

const INSIDE: &str = "URINGCAST_TEST_NAMESPACE";

/// Runs a test of this module in a network namespace where nobody else's packets are.
fn in_namespace(test: &str, rules: &[&str]) {
    let mut script = String::from("set -e; ip link set lo up; nft add table inet t; ");
    script += "nft 'add chain inet t c { type filter hook input priority 0 ; }'; ";
    for rule in rules {
        script += &format!("nft 'add rule inet t c {rule}'; ");
    }
    let unshared = |script: &str| {
        let mut command = Command::new("unshare");
        command.args(["--map-root-user", "--net", "sh", "-c", script, "sh"]).stdin(Stdio::null());
        command
    };
    for (program, package) in [("unshare", "util-linux"), ("ip", "iproute2"), ("nft", "nftables")] {
        if !installed(program) {
            return missing(package, test);
        }
    }
    // Containers may be denied namespaces, or a kernel be without nf_tables: no package mends that, in CI neither.
    let tried = unshared(&script).output().expect("unshare runs");
    if !tried.status.success() {
        let why = String::from_utf8_lossy(&tried.stderr).trim().to_owned();
        return skipped(test, &format!("this machine gives no network namespace with nftables: {why}"));
    }
    let exe = std::env::current_exe().unwrap();
    let name = format!("faults::{test}");
    let output = unshared(&format!("{script} exec \"$@\""))
        .arg(exe)
        .args([&name, "--exact", "--ignored", "--nocapture"])
        .env(INSIDE, "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
    eprintln!("{text}");
}

fn inside() -> bool {
    let inside = std::env::var_os(INSIDE).is_some();
    if !inside {
        eprintln!("SKIPPED: this runs in a network namespace only, started by the test of the same name");
    }
    inside
}

#[test]
fn packets_that_are_lost_lose_nothing() {
    in_namespace("inside_a_lossy_network", &["numgen random mod 100 < 5 drop"]);
}

#[tokio::test]
#[ignore = "started by packets_that_are_lost_lose_nothing"]
async fn inside_a_lossy_network() {
    if !inside() {
        return;
    }
    let server = options().shards(2).start();
    let mut members = Vec::new();
    for user in 0..20 {
        let (mut client, _) = Client::join(&server, user, "Member").await;
        members.push(tokio::spawn(async move {
            for wanted in 1..=300 {
                assert_eq!(offset(&client.find("message").await), wanted, "each once and in order");
            }
            client
        }));
    }
    let (mut alice, _) = Client::join(&server, "alice", "Alice").await;
    for n in 0..300 {
        alice.say(&format!("{n} {}", "x".repeat(2_000))).await;
        alice.find("message").await;
    }
    for member in members {
        member.await.expect("all of it").leave().await;
    }
}

#[test]
fn peers_that_vanish_without_a_word_are_let_go_of() {
    in_namespace("inside_a_network_that_ends", &[]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "started by peers_that_vanish_without_a_word_are_let_go_of"]
async fn inside_a_network_that_ends() {
    if !inside() {
        return;
    }
    crate::abuse::half_open(|| {
        for side in ["saddr", "daddr"] {
            let rule = format!("add rule inet t c ip {side} {} drop", crate::abuse::ABUSER);
            assert!(Command::new("nft").arg(rule).status().expect("nft runs").success());
        }
    })
    .await;
}
