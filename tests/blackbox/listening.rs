//! Where the server listens: unix sockets, several places at once, and real nginx in front, over a unix socket and as a
//! stream with the PROXY protocol. The file of a socket comes and goes with its server.

use std::fs;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream, UnixStream};
use tokio::time::timeout;

use crate::metrics::Metrics;
use crate::support::{Client, DEADLINE, Event, Options, SAMPLE_KEY, SECRET, Server, installed, missing, token, until};

/// A folder with a place for a socket.
fn place() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("push.sock");
    (folder, path)
}

/// A server that listens there, with the tests' secret and an API key.
fn at(listen: &str) -> Options {
    let options = Options::bare(&["serve", "--listen", listen]).env("URINGCAST_AUTH__HS256_SECRET", SECRET);
    let options = options.env("URINGCAST_HTTP__KEYS", "an-api-key-of-the-tests-of-places");
    options.env("URINGCAST_HTTP__LISTEN", "127.0.0.1:0")
}

fn unix(path: &Path) -> String {
    format!("unix:{}", path.display())
}

async fn dial(path: &Path) -> UnixStream {
    timeout(DEADLINE, UnixStream::connect(path)).await.expect("in time").expect("connects")
}

/// A user who comes in through a unix socket.
async fn join(path: &Path, user: u64) -> Client<UnixStream> {
    let mut client = Client::over(dial(path).await, "ws://localhost/ws").await;
    client.expect("system").await;
    let answer = client.auth(&token(user, &format!("u{user}"))).await;
    assert_eq!(answer["type"], "auth_success", "{answer}");
    client
}

/// The status that a request for an upgrade is answered with; the connection stays open with what is returned.
async fn status<S: AsyncReadExt + AsyncWriteExt + Unpin>(mut stream: S, headers: &str) -> (u16, S) {
    let request = format!(
        "GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: \
         13\r\nSec-WebSocket-Key: {SAMPLE_KEY}\r\n{headers}\r\n"
    );
    let mut head = [0; 12];
    let exchange = async {
        stream.write_all(request.as_bytes()).await.unwrap();
        stream.read_exact(&mut head).await.unwrap();
    };
    timeout(DEADLINE, exchange).await.expect("an answer in time");
    (std::str::from_utf8(&head[9..]).unwrap().parse().unwrap(), stream)
}

#[tokio::test]
async fn all_places_lead_to_the_same_lobby_and_the_files_go_with_the_server() {
    let (_folder, path) = place();
    let listen = format!("127.0.0.1:0,{},127.0.0.2:0", unix(&path));
    let mut server = at(&listen).shards(2).start();
    assert_eq!((server.addrs.len(), &server.unix[..]), (2, &[path.clone()][..]), "{}", server.ready_line);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
    let mut clients = Vec::new();
    // More than one shard takes at once.
    for user in 0..20 {
        clients.push(join(&path, user).await);
    }
    let mut over_tcp = Vec::new();
    for (user, addr) in (100..).zip(server.addrs.clone()) {
        let mut client = Client::over(TcpStream::connect(addr).await.unwrap(), "ws://localhost/ws").await;
        client.expect("system").await;
        client.auth(&token(user, "Ann")).await;
        over_tcp.push(client);
    }
    over_tcp[0].say("to all").await;
    for client in &mut clients {
        assert_eq!(client.find("message").await["data"]["text"], "to all");
    }
    clients[0].say("and back").await;
    while over_tcp[1].find("message").await["data"]["text"] != "and back" {}
    server.signal("TERM");
    for client in &mut clients {
        loop {
            match client.event().await {
                Event::Close(code, _) => break assert_eq!(code, 1001),
                Event::Ended => panic!("it ended without a goodbye"),
                Event::Text(_) | Event::Binary(_) => {}
            }
        }
    }
    drop((clients, over_tcp));
    assert!(server.ended(DEADLINE).success(), "{}", server.log());
    assert!(!path.exists());
}

#[tokio::test]
async fn the_api_can_listen_on_a_unix_socket_too() {
    let (folder, path) = place();
    let api = folder.path().join("api.sock");
    let server = at(&unix(&path)).env("URINGCAST_HTTP__LISTEN", unix(&api)).env("URINGCAST_LISTEN_MODE", "0600");
    let mut server = server.start();
    assert!(server.ready_line.contains(&format!("ws+unix:{}:/ws", path.display())), "{}", server.ready_line);
    server.logged(&format!("HTTP API on {}", unix(&api))).await;
    for path in [&path, &api] {
        assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
    }
    let _client = join(&path, 1).await;
    // Whoever may connect is on this machine: metrics need no key.
    let mut text = String::new();
    let exchange = async {
        let mut stream = dial(&api).await;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await.unwrap();
        stream.read_to_string(&mut text).await.unwrap();
    };
    timeout(DEADLINE, exchange).await.expect("an answer in time");
    assert!(text.starts_with("HTTP/1.1 200") && text.contains("uringcast_upgrades_total 1"), "{text}");
    server.signal("TERM");
    assert!(server.ended(DEADLINE).success(), "{}", server.log());
    assert!(!path.exists() && !api.exists());
}

#[tokio::test]
async fn what_a_killed_server_left_is_replaced_and_nothing_else() {
    let (folder, path) = place();
    let mut killed = at(&unix(&path)).start();
    at(&unix(&path)).run().refused(&[&unix(&path), "a running server"]);
    join(&path, 1).await;
    killed.signal("KILL");
    killed.ended(DEADLINE);
    assert!(path.exists());
    let successor = at(&unix(&path)).start();
    join(&path, 1).await;
    drop(successor);
    fs::remove_file(&path).unwrap();
    fs::write(&path, "text").unwrap();
    at(&unix(&path)).run().refused(&[&unix(&path), "no socket"]);
    assert_eq!(fs::read_to_string(&path).unwrap(), "text");
    let link = folder.path().join("link");
    symlink(&path, &link).unwrap();
    at(&unix(&link)).run().refused(&[&unix(&link), "no socket"]);
    at("unix:/nowhere/at/all").run().refused(&["unix:/nowhere/at/all", "folder"]);
    at("unix:relative").run().refused(&["--listen", "absolute path"]);
    at(",").run().refused(&["--listen", "at least one address"]);
    let (http, both) = ("URINGCAST_HTTP__LISTEN", "127.0.0.1:0,127.0.0.1:0");
    at("127.0.0.1:0").env(http, both).run().refused(&["http.listen", "at most one address"]);
}

#[tokio::test]
async fn peers_of_unix_sockets_count_as_one_address_unless_they_are_exempt_or_trusted() {
    let (_folder, path) = place();
    let limited = |exempt: &str, trusted: &str| {
        let options = at(&unix(&path)).env("URINGCAST_LIMITS__CONNECTIONS_PER_IP", 1);
        options.env("URINGCAST_LIMITS__EXEMPT", exempt).env("URINGCAST_LIMITS__TRUSTED_PROXIES", trusted).start()
    };
    let said = |client: &str| format!("X-Forwarded-For: {client}\r\n");
    for (exempt, trusted, expected) in [
        ("unix", "", [("", 101), ("", 101), ("192.0.2.1", 101), ("192.0.2.1", 101)]),
        ("", "127.0.0.1", [("", 101), ("", 429), ("192.0.2.1", 429), ("192.0.2.2", 429)]),
        ("unix", "unix", [("192.0.2.1", 101), ("192.0.2.1", 429), ("192.0.2.2", 101), ("", 101)]),
    ] {
        let _server = limited(exempt, trusted);
        let mut kept = Vec::new();
        for (client, code) in expected {
            let headers = if client.is_empty() { String::new() } else { said(client) };
            let (found, stream) = status(dial(&path).await, &headers).await;
            assert_eq!(found, code, "{client:?} with exempt {exempt:?} and trusted {trusted:?}");
            kept.push(stream);
        }
    }
}

/// nginx with a configuration of its own, ended by its id.
pub struct Nginx {
    child: Child,
    pub addr: SocketAddr,
    _folder: tempfile::TempDir,
}

impl Nginx {
    /// Starts it with blocks that have `ADDR` where it is to listen. A port that was free may be another's by then: then
    /// with the next one.
    pub async fn start(blocks: &str) -> Self {
        let module = "/usr/lib/nginx/modules/ngx_stream_module.so";
        let load = if Path::new(module).exists() { format!("load_module {module};\n") } else { String::new() };
        for _ in 0..5 {
            let folder = tempfile::tempdir().unwrap();
            let addr = StdListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
            // Its workers have to reach the socket, which is this user's.
            let user = if rustix::process::getuid().is_root() { "user root;\n" } else { "" };
            let text = format!(
                "{load}{user}daemon off;\nworker_processes 1;\npid nginx.pid;\nerror_log stderr;\nevents {{}}\n{}\n",
                blocks.replace("ADDR", &addr.to_string())
            );
            fs::write(folder.path().join("nginx.conf"), text).unwrap();
            let mut command = Command::new("nginx");
            command.arg("-p").arg(folder.path()).args(["-c", "nginx.conf", "-e", "stderr"]);
            let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
            let mut nginx = Self { child, addr, _folder: folder };
            let is_there = until("nginx, or its end", async || match nginx.child.try_wait().unwrap() {
                Some(_) => Some(false),
                None => TcpStream::connect(addr).await.is_ok().then_some(true),
            });
            if is_there.await {
                return nginx;
            }
        }
        panic!("nginx does not start");
    }

    /// Connects from one of this machine's addresses.
    async fn dial_from(&self, address: &str) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::new(address.parse().unwrap(), 0)).unwrap();
        timeout(DEADLINE, socket.connect(self.addr)).await.expect("in time").expect("connects")
    }

    /// Clients come through it from several addresses, two from each where one is allowed.
    async fn tells_clients_apart(&self, server: &Server) {
        let mut kept = Vec::new();
        for (address, code) in [("127.0.0.2", 101), ("127.0.0.2", 429), ("127.0.0.3", 101), ("127.0.0.3", 429)] {
            let (found, stream) = status(self.dial_from(address).await, "").await;
            assert_eq!(found, code, "{address}: {}", server.log());
            kept.push(stream);
        }
        drop(kept);
        Metrics::of(server).await.reach("uringcast_connections", |count| count == 0).await;
        let stream = self.dial_from("127.0.0.4").await;
        let mut client = Client::over(stream, "ws://localhost/ws").await;
        client.expect("system").await;
        assert_eq!(client.auth(&token(1, "Ann")).await["type"], "auth_success");
        client.say("through nginx").await;
        assert_eq!(client.find("message").await["data"]["text"], "through nginx");
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(None)) {
            return;
        }
        // The master ends its worker when it is asked; it is asked by its id.
        let _ = Command::new("kill").arg("-TERM").arg(self.child.id().to_string()).status();
        let _ = self.child.wait();
    }
}

fn behind(listen: &str, trusted: &str) -> Options {
    let options = at(listen).shards(2).env("URINGCAST_LIMITS__CONNECTIONS_PER_IP", 1);
    options.env("URINGCAST_LIMITS__EXEMPT", "").env("URINGCAST_LIMITS__TRUSTED_PROXIES", trusted)
}

#[tokio::test]
async fn nginx_in_front_of_a_unix_socket() {
    if !installed("nginx") {
        return missing("nginx", "a unix socket behind nginx");
    }
    let (_folder, path) = place();
    let server = behind(&unix(&path), "unix").start();
    // As in docs/deploy.md.
    let blocks = format!(
        "http {{ map $http_upgrade $connection_upgrade {{ default upgrade; '' close; }}
         access_log off; client_body_temp_path t1; proxy_temp_path t2; fastcgi_temp_path t3; uwsgi_temp_path t4;
         scgi_temp_path t5; upstream uringcast {{ server {}; }}
         server {{ listen ADDR; location /ws {{ proxy_pass http://uringcast; proxy_http_version 1.1;
         proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $connection_upgrade;
         proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; proxy_set_header Host $http_host;
         proxy_buffering off; }} }} }}",
        unix(&path)
    );
    Nginx::start(&blocks).await.tells_clients_apart(&server).await;
}

#[tokio::test]
async fn nginx_as_a_stream_with_the_proxy_protocol() {
    if !installed("nginx") {
        return missing("nginx", "a stream of nginx");
    }
    let (_folder, path) = place();
    for (listen, trusted) in [(unix(&path), "unix"), ("127.0.0.1:0".to_owned(), "127.0.0.1")] {
        let server = behind(&listen, trusted).env("URINGCAST_LIMITS__PROXY_PROTOCOL", "true").start();
        let target = if server.unix.is_empty() { server.addr.to_string() } else { listen };
        let blocks = format!("stream {{ server {{ listen ADDR; proxy_pass {target}; proxy_protocol on; }} }}");
        Nginx::start(&blocks).await.tells_clients_apart(&server).await;
    }
}

#[tokio::test]
async fn version_1_over_a_unix_socket_counts_by_what_it_says() {
    let (_folder, path) = place();
    let _server = behind(&unix(&path), "unix").env("URINGCAST_LIMITS__PROXY_PROTOCOL", "true").start();
    let mut kept = Vec::new();
    for (line, code) in [
        ("PROXY TCP4 192.0.2.1 10.0.0.1 50000 443\r\n", 101),
        ("PROXY TCP4 192.0.2.1 10.0.0.1 50001 443\r\n", 429),
        ("PROXY TCP6 2001:db8::1 ::1 50000 443\r\n", 101),
        // The proxy's own: all of a unix socket count as one.
        ("PROXY UNKNOWN\r\n", 101),
        ("PROXY UNKNOWN\r\n", 429),
    ] {
        let mut stream = dial(&path).await;
        stream.write_all(line.as_bytes()).await.unwrap();
        let (found, stream) = status(stream, "").await;
        assert_eq!(found, code, "{line}");
        kept.push(stream);
    }
}
