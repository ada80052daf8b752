//! The real binary as a child process: how it is started, what it prints, how it ends. Each wait has a deadline.
//! Knows the ready line and the signals, and nothing of what is said over a connection.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

use super::{DEADLINE, SECRET};

/// How to start the binary.
#[derive(Clone)]
pub struct Options {
    args: Vec<String>,
    env: BTreeMap<String, String>,
    wrap: Option<Vec<String>>,
    /// System calls that are refused to the server, by number.
    refused: Vec<i64>,
}

impl Options {
    /// Loopback, a free port, the tests' secret.
    pub fn new() -> Self {
        Self::bare(&["--listen", "127.0.0.1:0"]).env("URINGCAST_AUTH__HS256_SECRET", SECRET)
    }

    /// Exactly these arguments and no configuration at all.
    pub fn bare(args: &[&str]) -> Self {
        Self {
            args: args.iter().map(ToString::to_string).collect(),
            env: BTreeMap::new(),
            wrap: None,
            refused: Vec::new(),
        }
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

    /// Puts a seccomp filter on the server that refuses these system calls with EPERM, as containers' profiles do.
    pub fn refused(mut self, calls: &[i64]) -> Self {
        self.refused = calls.to_vec();
        self
    }

    /// With a filter the child is made by a thread that has it: children inherit it, and the thread ends with it.
    fn spawn(&self, mut command: Command) -> Child {
        if self.refused.is_empty() {
            return command.spawn().expect("the binary starts");
        }
        let rules = self.refused.iter().map(|&call| (call, Vec::new())).collect();
        let arch = std::env::consts::ARCH.try_into().expect("an architecture that seccompiler knows");
        let filter = SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Errno(1), arch);
        let program: BpfProgram = filter.expect("a filter").try_into().expect("a program");
        let filtered = std::thread::spawn(move || {
            seccompiler::apply_filter(&program).expect("the kernel takes a filter");
            command.spawn().expect("the binary starts")
        });
        filtered.join().expect("the thread ends")
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
        let mut child = self.spawn(self.command());
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
    /// The first address of `addrs`; where there is none, none that could be connected to.
    pub addr: SocketAddr,
    /// All addresses, plain ones first.
    pub addrs: Vec<SocketAddr>,
    /// Where TLS is spoken, if it is.
    pub tls: Option<SocketAddr>,
    /// The unix sockets.
    pub unix: Vec<PathBuf>,
    pub shards: usize,
    pub ready_line: String,
    /// A panic in the log is what the test is about.
    pub panics: bool,
}

impl Server {
    fn start(options: &Options) -> Self {
        let mut command = options.command();
        // All tests can be put to another driver. Without arguments the server would not be in dev mode any more.
        if let Ok(driver) = std::env::var("URINGCAST_DRIVER")
            && !options.args.is_empty()
            && !options.env.contains_key("URINGCAST_DRIVER")
        {
            command.env("URINGCAST_DRIVER", driver);
        }
        let mut child = options.spawn(command);
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
        let Some(Ready { addrs, tls, unix, shards }) = parsed else {
            let _ = child.kill();
            let _ = child.wait();
            panic!("not a ready line: {line:?}; {:?}; stderr:\n{}", options.args, settled(&stderr));
        };
        let addr = addrs.first().copied().unwrap_or_else(|| SocketAddr::from(([0, 0, 0, 0], 0)));
        Self { child, stderr, stdout, addr, addrs, tls, unix, shards, ready_line: line, panics: false }
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

/// What the ready line says.
struct Ready {
    addrs: Vec<SocketAddr>,
    tls: Option<SocketAddr>,
    unix: Vec<PathBuf>,
    shards: usize,
}

/// `listening on ws://ADDR:PORT/ws (N shards)`: one URL or several with "and" between them; with TLS it is `wss://…`, and
/// of a unix socket `ws+unix:PATH:/ws`.
fn parse_ready(line: &str) -> Option<Ready> {
    let (urls, rest) = line.strip_prefix("listening on ")?.split_once(" (")?;
    let shards = rest.strip_suffix(" shards)").or_else(|| rest.strip_suffix(" shard)"))?.parse().ok()?;
    let mut ready = Ready { addrs: Vec::new(), tls: None, unix: Vec::new(), shards };
    for url in urls.split(" and ") {
        let (scheme, place) = url.strip_suffix("/ws")?.split_once(':')?;
        match scheme {
            "ws+unix" | "wss+unix" => ready.unix.push(place.strip_suffix(':')?.into()),
            "ws" | "wss" => {
                let addr = place.strip_prefix("//")?.parse().ok()?;
                ready.addrs.push(addr);
                if scheme == "wss" {
                    ready.tls.get_or_insert(addr);
                }
            }
            _ => return None,
        }
    }
    Some(ready)
}
