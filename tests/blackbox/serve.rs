//! Start and stop: the ready line, configuration and its faults, signals.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::{Client, Options, Raw, SECRET, frame, http, request, until};

/// `shutdown_ms` is five seconds by default; this is that and a loaded machine.
const STOPS_WITHIN: Duration = Duration::from_secs(9);

#[tokio::test]
async fn the_ready_line_is_all_that_stdout_gets() {
    for shards in [1, 2, 3] {
        let mut server = Options::new().shards(shards).start();
        assert_eq!(server.shards, shards);
        let noun = if shards == 1 { "shard" } else { "shards" };
        let wanted = [format!("({shards} shards)\n"), format!("({shards} {noun})\n")];
        assert!(wanted.iter().any(|end| server.ready_line.ends_with(end)), "{:?}", server.ready_line);
        assert_ne!(server.addr.port(), 0);
        // Ready means ready: the first connection is served.
        let (client, _) = Client::join(&server, 1, "Alice").await;
        client.leave().await;
        server.signal("TERM");
        assert!(server.ended(STOPS_WITHIN).success());
        assert_eq!(server.later_stdout(), "");
    }
}

#[tokio::test]
async fn shards_default_to_the_cpus_it_may_use() {
    let all = std::thread::available_parallelism().unwrap().get();
    assert_eq!(Options::new().start().shards, all);
    // One CPU of the mask of this very process.
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap().trim();
    let first = list.split(['-', ',']).next().unwrap();
    assert_eq!(Options::new().wrapped(&["taskset", "-c", first]).start().shards, 1);
}

#[tokio::test]
async fn signals_close_everyone_with_1001_and_end_in_time() {
    for signal in ["TERM", "INT"] {
        let mut server = Options::new().shards(2).start();
        let mut members = Vec::new();
        for user in 0..20 {
            members.push(Client::join(&server, user, "User").await.0);
        }
        let mut stranger = Client::open(&server).await;
        // Some that will not help: half a request, and a client that never answers the close.
        let mut half = Raw::connect(&server).await;
        half.write(&request(&server, "/ws", &[]).as_bytes()[..30]).await;
        let mut mute = Raw::upgraded(&server, "/ws").await;
        mute.json().await;
        let start = Instant::now();
        server.signal(signal);
        stranger.closed(1001).await;
        for mut member in members {
            loop {
                match member.event().await {
                    crate::support::Event::Text(text) => {
                        assert!(text.contains("user_o") || text.contains("\"draining\""), "{text}")
                    }
                    crate::support::Event::Close(code, _) => break assert_eq!(code, 1001),
                    other => panic!("{other:?}"),
                }
            }
            assert!(matches!(member.event().await, crate::support::Event::Ended));
        }
        assert_eq!(mute.frame().await.expect("a close").close_code(), 1001);
        let status = server.ended(STOPS_WITHIN);
        assert_eq!(status.code(), Some(0), "{signal}: {status}\n{}", server.log());
        assert!(start.elapsed() < STOPS_WITHIN);
    }
}

#[tokio::test]
async fn a_second_signal_does_not_wait() {
    let mut server = Options::new().env("URINGCAST_SHUTDOWN_MS", 60_000).start();
    let mut mute = Raw::upgraded(&server, "/ws").await;
    mute.json().await;
    server.signal("TERM");
    assert_eq!(mute.frame().await.expect("a close").close_code(), 1001);
    server.signal("TERM");
    server.ended(STOPS_WITHIN);
}

#[tokio::test]
async fn while_stopping_nobody_new_is_taken() {
    let mut server = Options::new().env("URINGCAST_SHUTDOWN_MS", 3000).start();
    let mut mute = Raw::upgraded(&server, "/ws").await;
    mute.json().await;
    server.signal("TERM");
    assert_eq!(mute.frame().await.expect("a close").close_code(), 1001);
    // Refused by the kernel, cut, or 503: anything but a welcome, and not left to wait for the end of the process.
    let start = Instant::now();
    for _ in 0..8 {
        let Ok(tcp) = tokio::net::TcpStream::connect(server.addr).await else { continue };
        let mut late = Raw { tcp, received: Vec::new() };
        use tokio::io::AsyncWriteExt;
        let _ = late.tcp.write_all(request(&server, "/ws", &[]).as_bytes()).await;
        let answer = late.rest().await;
        assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 503"), "{:?}", String::from_utf8_lossy(&answer));
        assert!(start.elapsed() < Duration::from_millis(1500), "hung for {:?}", start.elapsed());
    }
    mute.write(&frame(true, 8, &[0x03, 0xe9])).await;
    assert_eq!(server.ended(STOPS_WITHIN).code(), Some(0));
}

#[test]
fn a_taken_port_is_an_error_that_names_it() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    Options::bare(&["--listen", &addr]).env("URINGCAST_AUTH__HS256_SECRET", SECRET).run().refused(&[&addr, "in use"]);
}

#[test]
fn a_port_that_another_server_of_ours_has_is_taken_too() {
    // Shards share a port by SO_REUSEPORT; a second process must not slip in that way and take half the clients.
    let first = Options::new().start();
    let addr = first.addr.to_string();
    Options::bare(&["--listen", &addr]).env("URINGCAST_AUTH__HS256_SECRET", SECRET).run().refused(&[&addr, "in use"]);
}

#[test]
fn a_port_is_free_again_at_once() {
    let mut server = Options::new().start();
    let addr = server.addr.to_string();
    let mut open = std::net::TcpStream::connect(server.addr).unwrap();
    std::io::Write::write_all(&mut open, b"GET").unwrap();
    server.signal("TERM");
    server.ended(STOPS_WITHIN);
    let again = Options::bare(&["--listen", &addr]).env("URINGCAST_AUTH__HS256_SECRET", SECRET).start();
    assert_eq!(again.addr.to_string(), addr);
}

#[test]
fn without_a_key_it_does_not_serve() {
    for args in [&["serve"][..], &["serve", "--listen", "127.0.0.1:0"], &["--listen", "127.0.0.1:0"]] {
        Options::bare(args).run().refused(&["key", "hs256_secret", "--dev"]);
    }
    Options::bare(&[]).env("URINGCAST_LISTEN", "127.0.0.1:0").run().refused(&["key"]);
}

#[test]
fn dev_mode_stays_on_this_machine() {
    Options::bare(&["--dev", "--listen", "0.0.0.0:0"]).run().refused(&["0.0.0.0", "loopback"]);
}

#[test]
fn faults_of_the_configuration_name_their_place() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("uringcast.toml");
    let file = path.to_str().unwrap();
    let run = |toml: &str| {
        std::fs::write(&path, toml).unwrap();
        Options::bare(&["serve", "--config", file]).run()
    };
    run("listen = \"127.0.0.1:0\"\n\n[auth]\nhs256_secrets = \"x\"\n")
        .refused(&[&format!("{file}:4"), "hs256_secrets"]);
    run("# one\n[nosuch]\nkey = 1\n").refused(&[&format!("{file}:"), "nosuch"]);
    run("[auth]\nhs256_secret = \"short\"\n").refused(&[&format!("{file}:2"), "hs256_secret"]);
    run("shards = \"two\"\n").refused(&[&format!("{file}:1"), "shards"]);
    run("[limits]\nmessage_bytes = 0\n").refused(&[&format!("{file}:2"), "message_bytes"]);
    run("[limits\n").refused(&[&format!("{file}:1"), "toml"]);
    run("language = \"fr\"\n").refused(&[&format!("{file}:1"), "language", "en", "zh"]);
    run("[auth]\nduplicate_login = \"kick\"\n").refused(&[&format!("{file}:2"), "duplicate_login", "kick_old"]);
    // A secret never shows in a message about it.
    let shown = run("[auth]\nhs256_secret = \"hush-hush-hush-1\nissuer = 5\n");
    shown.refused(&[&format!("{file}:2")]);
    assert!(!shown.stderr.contains("hush"), "{}", shown.stderr);

    Options::bare(&["serve", "--config", "/no/such/file.toml"]).run().refused(&["/no/such/file.toml"]);
    Options::bare(&["serve"])
        .env("URINGCAST_AUTH__HS256_SECRETS", "x")
        .run()
        .refused(&["URINGCAST_AUTH__HS256_SECRETS"]);
    Options::bare(&["serve", "--listen", "nowhere"]).run().refused(&["--listen"]);
    Options::bare(&["serve", "--shards=-1"]).run().refused(&["shards"]);
    Options::bare(&["serve", "--nonsense"]).run().refused(&["--nonsense"]);
}

#[test]
fn a_missing_key_file_is_an_error_that_names_it() {
    let missing = "/no/such/secret";
    for (key, value) in
        [("URINGCAST_AUTH__HS256_SECRET_FILE", missing.to_owned()), ("URINGCAST_AUTH__JWKS_FILE", missing.to_owned())]
    {
        Options::bare(&["--listen", "127.0.0.1:0"]).env(key, value).run().refused(&[missing]);
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("uringcast.toml");
    std::fs::write(&path, format!("[auth]\npublic_key_files = [{missing:?}]\n")).unwrap();
    Options::bare(&["serve", "--config", path.to_str().unwrap()]).run().refused(&[missing]);
    // A file that is there and holds no key.
    std::fs::write(folder.path().join("empty"), "").unwrap();
    let empty = folder.path().join("empty");
    Options::bare(&["--listen", "127.0.0.1:0"])
        .env("URINGCAST_AUTH__HS256_SECRET_FILE", empty.display())
        .run()
        .refused(&[empty.to_str().unwrap()]);
}

#[test]
fn too_few_file_descriptors_is_an_error_that_says_so() {
    let few = Options::new().shards(4).wrapped(&["sh", "-c", "ulimit -n 12 && exec \"$@\"", "sh"]).run();
    few.refused(&["file"]);
    let text = few.stderr.to_lowercase();
    assert!(text.contains("descriptor") || text.contains("open files") || text.contains("nofile"), "{text}");
}

#[tokio::test]
async fn file_environment_and_flags_win_in_that_order() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("uringcast.toml");
    std::fs::write(
        &path,
        format!("listen = \"127.0.0.1:1\"\nshards = 1\nlanguage = \"zh\"\n[auth]\nhs256_secret = \"{SECRET}\"\n"),
    )
    .unwrap();
    let server = Options::bare(&["serve", "--config", path.to_str().unwrap(), "--listen", "127.0.0.1:0"])
        .env("URINGCAST_SHARDS", 2)
        .env("URINGCAST_LISTEN", "127.0.0.1:2")
        .start();
    assert_eq!(server.shards, 2);
    let mut client = Client::connect(&server, "/ws").await;
    assert_eq!(client.next().await["message"], "连接成功,请发送认证信息");
}

#[test]
fn config_prints_every_key_and_can_be_read_back() {
    let printed = Options::bare(&["config"]).run();
    assert!(printed.status.success(), "{}", printed.all());
    for key in [
        "listen",
        "shards",
        "echo",
        "language",
        "[auth]",
        "hs256_secret",
        "hs256_secret_file",
        "duplicate_login",
        "[limits]",
        "message_bytes",
    ] {
        assert!(printed.stdout.contains(key), "no {key}:\n{}", printed.stdout);
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("printed.toml");
    std::fs::write(&path, &printed.stdout).unwrap();
    let again = Options::bare(&["config", "--config", path.to_str().unwrap()]).run();
    assert!(again.status.success(), "{}", again.all());
    // And it never shows a secret.
    let secret = Options::bare(&["config"]).env("URINGCAST_AUTH__HS256_SECRET", SECRET).run();
    assert!(secret.status.success() && !secret.stdout.contains(SECRET), "{}", secret.stdout);
}

#[test]
fn help_and_version_are_for_people() {
    let help = Options::bare(&["--help"]).run();
    assert!(help.status.success());
    for word in ["--listen", "--shards", "--dev", "--config", "--echo", "token", "config"] {
        assert!(help.stdout.contains(word), "{}", help.stdout);
    }
    let version = Options::bare(&["--version"]).run();
    assert_eq!(version.stdout.trim(), format!("uringcast {}", env!("CARGO_PKG_VERSION")));
}

#[tokio::test]
async fn it_lives_on_after_every_kind_of_bad_client() {
    let mut server = Options::new().shards(2).echo().start();
    for n in 0..60_u32 {
        let mut raw = Raw::connect(&server).await;
        match n % 6 {
            0 => raw.write(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03").await,
            1 => raw.write(&request(&server, "/ws", &[]).as_bytes()[..(n as usize)]).await,
            2 => raw.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await,
            3 => {
                raw.write(request(&server, "/echo", &[]).as_bytes()).await;
                raw.write(&[0xff; 300]).await;
            }
            4 => {
                raw.write(request(&server, "/ws", &[]).as_bytes()).await;
                raw.tcp.set_zero_linger().unwrap();
            }
            _ => {
                raw.write(request(&server, "/ws", &[]).as_bytes()).await;
                raw.response().await;
                raw.write(&frame(false, 1, b"{\"type\":")).await;
            }
        }
    }
    let (mut client, _) = Client::join(&server, 1, "Alice").await;
    client.nothing_pending().await;
    client.send(&json!({"type": "users", "id": "1"})).await;
    assert_eq!(client.expect("users").await["data"]["count"], 1);
    assert!(server.running());
}

/// The client file is for every page, in production too; a browser keeps it and asks whether it is still the same.
#[tokio::test]
async fn the_client_file_is_served_in_every_mode() {
    let dev = Options::bare(&["--dev", "--listen", "127.0.0.1:0"]).start();
    for server in [&Options::new().start(), &dev] {
        let get = |more: &str| format!("GET /uringcast.js HTTP/1.1\r\nHost: {}\r\n{more}\r\n", server.addr);
        let (file, body) = http(server, &get("Origin: https://any.example\r\n")).await;
        assert_eq!((file.status, file.header("access-control-allow-origin")), (200, Some("*")));
        assert!(file.header("content-type").is_some_and(|kind| kind.starts_with("text/javascript")), "{file:?}");
        assert_eq!(file.header("cross-origin-resource-policy"), Some("cross-origin"));
        assert_eq!(file.header("cache-control"), Some("no-cache"), "it may be kept, and is asked for");
        assert_eq!(body, include_str!("../../client/uringcast.js"));
        let etag = file.header("etag").expect("an entity tag");
        for known in [etag.to_owned(), format!("\"x\", W/{etag}"), "*".to_owned()] {
            let (same, body) = http(server, &get(&format!("If-None-Match: {known}\r\n"))).await;
            assert_eq!((same.status, same.header("etag"), body.as_str()), (304, Some(etag), ""), "{known}");
            assert_eq!(same.header("access-control-allow-origin"), Some("*"));
        }
        let (other, body) = http(server, &get("If-None-Match: \"x\"\r\n")).await;
        assert!(other.status == 200 && !body.is_empty());
        let (refused, _) = http(server, &get("").replace("GET", "DELETE")).await;
        assert_eq!(refused.status, 405);
    }
}

/// The demo page and its tokens are dev mode's alone.
#[tokio::test]
async fn nothing_else_is_served_in_production() {
    let server = Options::new().start();
    for path in ["/", "/app.js", "/style.css", "/favicon.ico", "/token?name=Alice"] {
        let (page, _) = http(&server, &format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", server.addr)).await;
        assert_eq!(page.status, 404, "{path}");
    }
}

/// Whoever waits for the line on stdout has it; whoever collects JSON has an event with fields.
#[tokio::test]
async fn the_ready_line_is_an_event_under_json_logs() {
    let server = Options::new().shards(2).env("URINGCAST_LOG__FORMAT", "json").start();
    let event = until("the event", async || {
        let log = server.log();
        let mut events = log.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        events.find(|event| event["fields"]["message"] == "listening")
    })
    .await;
    assert_eq!(event["level"], "INFO");
    assert_eq!(event["fields"]["shards"], 2);
    assert_eq!(event["fields"]["urls"], server.url("/ws"));
}

/// A Service of Kubernetes that is called like the server, or begins so, keeps nobody from starting.
#[tokio::test]
async fn variables_of_a_service_are_passed_over() {
    let mut options = Options::new();
    for name in ["URINGCAST", "URINGCAST_HTTP", "URINGCAST_PORT"] {
        options = options
            .env(&format!("{name}_SERVICE_HOST"), "10.0.0.9")
            .env(&format!("{name}_SERVICE_PORT"), "2346")
            .env(&format!("{name}_SERVICE_PORT_HTTP"), "2346")
            .env(&format!("{name}_PORT"), "tcp://10.0.0.9:2346")
            .env(&format!("{name}_PORT_2346_TCP"), "tcp://10.0.0.9:2346")
            .env(&format!("{name}_PORT_2346_TCP_PROTO"), "tcp")
            .env(&format!("{name}_PORT_2346_TCP_PORT"), "2346")
            .env(&format!("{name}_PORT_2346_TCP_ADDR"), "10.0.0.9");
    }
    options.start();
    let typing_error = Options::new().env("URINGCAST_HTTP_PORT", "2346").run();
    typing_error.refused(&["URINGCAST_HTTP_PORT: unknown setting; did you mean URINGCAST_HTTP__LISTEN?"]);
}
