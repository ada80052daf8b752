//! One server process: set up, started on its CPUs, awaited, stopped with all that it started.
//!
//! Knows nothing of what is measured. Called by `suite` for each run.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use regex::Regex;
use rustix::process::{Pid, Signal, kill_process_group};
use thiserror::Error;

use super::servers::Server;
use crate::system;

/// How long a server has after SIGTERM.
const GRACE: Duration = Duration::from_secs(3);
/// How many of its last lines are kept.
const LINES: usize = 12;

/// Why a server isn't there.
#[derive(Debug, Error)]
pub enum Absent {
    /// It, or what sets it up, isn't installed: a reason to go on without it.
    #[error("{0}")]
    Missing(String),
    /// It should have started and didn't.
    #[error("{0}")]
    Failed(String),
}

/// A server that listens.
pub struct Running {
    child: Child,
    /// HOST:PORT.
    pub address: String,
    /// HOST:PORT of its HTTP API, if that was waited for.
    pub api: Option<String>,
}

/// What the log of uringcast says when its HTTP API listens; the group is HOST:PORT.
const API_READY: &str = "HTTP API on http://([^/ ]+)";

type Tail = Arc<Mutex<VecDeque<String>>>;

fn command(server: &Server, argv: &[String]) -> Command {
    // A path is one from the server's folder; a bare name is looked up as a shell does.
    let program = &argv[0];
    let mut command = if program.contains('/') {
        Command::new(std::path::absolute(server.dir.join(program)).unwrap_or_else(|_| program.into()))
    } else {
        Command::new(program)
    };
    command.args(&argv[1..]).current_dir(&server.dir).envs(&server.env).stdin(Stdio::null()).process_group(0);
    command
}

/// Runs the server's set-up, if it has one.
pub fn set_up(server: &Server) -> Result<(), Absent> {
    if server.setup.is_empty() {
        return Ok(());
    }
    let told = server.setup.join(" ");
    match command(server, &server.setup).output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => {
            let errors = String::from_utf8_lossy(&output.stderr);
            let last = errors.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
            Err(Absent::Missing(format!("its setup ({told}) ended with {}: {last}", output.status)))
        }
        Err(error) => Err(Absent::Missing(format!("its setup ({told}): {error}"))),
    }
}

/// What the server says of its version, if it has a command for that.
pub fn version(server: &Server) -> Option<String> {
    if server.version.is_empty() {
        return None;
    }
    let output = command(server, &server.version).output().ok().filter(|output| output.status.success())?;
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().next().map(|line| line.trim().to_owned())
}

/// Starts the server with `argv` on `cpus` and waits for its ready line, and for that of its API if asked to.
pub fn start(
    server: &Server,
    argv: &[String],
    cpus: &[usize],
    timeout: Duration,
    with_api: bool,
) -> Result<Running, Absent> {
    let mut command = command(server, argv);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    // A process inherits its CPUs from the thread that starts it.
    let spawned = thread::scope(|scope| {
        let start = scope.spawn(|| system::pin(cpus).map(|()| command.spawn()));
        start.join()
    });
    let mut child = match spawned {
        Ok(Ok(Ok(child))) => child,
        Ok(Ok(Err(error))) if error.kind() == ErrorKind::NotFound => {
            return Err(Absent::Missing(format!("{} is not there", argv[0])));
        }
        Ok(Ok(Err(error))) => return Err(Absent::Failed(format!("{}: {error}", argv[0]))),
        Ok(Err(error)) => return Err(Absent::Failed(format!("{error:#}"))),
        Err(_) => return Err(Absent::Failed("the starting thread panicked".to_owned())),
    };
    let ready = Regex::new(&server.ready).map_err(|error| Absent::Failed(error.to_string()))?;
    let api_ready = Regex::new(API_READY).map_err(|error| Absent::Failed(error.to_string()))?;
    let (sender, receiver) = channel();
    let (api_sender, api_receiver) = channel();
    let awaited = [(ready, sender), (api_ready, api_sender)];
    let tail = Tail::default();
    if let Some(out) = child.stdout.take() {
        follow(out, awaited.clone(), Arc::clone(&tail));
    }
    if let Some(out) = child.stderr.take() {
        follow(out, awaited, Arc::clone(&tail));
    }
    let mut running = Running { child, address: String::new(), api: None };
    let failed = |why: String| {
        let lines = tail.lock().unwrap_or_else(PoisonError::into_inner);
        Absent::Failed(format!("{why}\n{}", Vec::from(lines.clone()).join("\n")).trim_end().to_owned())
    };
    running.address = running.wait(&receiver, timeout).map_err(failed)?;
    if with_api {
        running.api = Some(running.wait(&api_receiver, timeout).map_err(failed)?);
    }
    Ok(running)
}

/// Reads a server's output to its end, so that it never blocks on it.
fn follow(out: impl Read + Send + 'static, awaited: [(Regex, Sender<String>); 2], tail: Tail) {
    thread::spawn(move || {
        for line in BufReader::new(out).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line);
            for (ready, sender) in &awaited {
                if let Some(address) = ready.captures(&line).and_then(|found| found.get(1)) {
                    // After the first address the receiver is gone.
                    let _ = sender.send(address.as_str().to_owned());
                }
            }
            let mut lines = tail.lock().unwrap_or_else(PoisonError::into_inner);
            if lines.len() == LINES {
                lines.pop_front();
            }
            lines.push_back(line.into_owned());
        }
    });
}

impl Running {
    fn wait(&mut self, receiver: &Receiver<String>, timeout: Duration) -> Result<String, String> {
        match receiver.recv_timeout(timeout) {
            // All addresses of this machine are reached by its loopback one.
            Ok(address) => Ok(address.replace("0.0.0.0:", "127.0.0.1:").replace("[::]:", "127.0.0.1:")),
            Err(RecvTimeoutError::Timeout) => Err("no ready line within the time limit".to_owned()),
            Err(RecvTimeoutError::Disconnected) => Err(match self.child.wait() {
                Ok(status) => format!("it ended with {status} before it listened"),
                Err(error) => error.to_string(),
            }),
        }
    }

    /// The process that was started.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// It ended by itself.
    pub fn is_gone(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for Running {
    /// SIGTERM to all that it started; what is there after a while is killed.
    fn drop(&mut self) {
        let Some(group) = Pid::from_raw(self.child.id() as i32) else {
            return;
        };
        // The group may be gone already, which is what is wanted.
        if !self.is_gone() {
            let _ = kill_process_group(group, Signal::TERM);
            let deadline = Instant::now() + GRACE;
            while !self.is_gone() && Instant::now() < deadline {
                thread::sleep(Duration::from_millis(10));
            }
        }
        let _ = kill_process_group(group, Signal::KILL);
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(script: &str) -> (Server, Vec<String>) {
        let argv = ["sh", "-c", script].map(str::to_owned).to_vec();
        let server = Server {
            name: "a".to_owned(),
            command: argv.clone(),
            env: Default::default(),
            dir: ".".into(),
            setup: Vec::new(),
            ready: "listening on ws://([^/ ]+)".to_owned(),
            protocol: "uringcast".to_owned(),
            works: Vec::new(),
            pad: false,
            lockstep: false,
            cpus: None,
            compress: None,
            version: Vec::new(),
            floor: false,
            sse: 0.0,
        };
        (server, argv)
    }

    fn failure(script: &str, timeout_ms: u64) -> String {
        let (server, argv) = server(script);
        let Err(absent) = start(&server, &argv, &[], Duration::from_millis(timeout_ms), false) else {
            panic!("it started");
        };
        absent.to_string()
    }

    #[test]
    fn a_server_is_awaited_and_stopped_with_its_children() {
        let script = "sleep 60 & echo starting; echo listening on ws://0.0.0.0:99/x >&2; wait";
        let (server, argv) = server(script);
        let running = start(&server, &argv, &[], Duration::from_secs(20), false).unwrap();
        assert_eq!(running.address, "127.0.0.1:99");
        let group = Pid::from_raw(running.pid() as i32).unwrap();
        assert!(rustix::process::test_kill_process_group(group).is_ok());
        drop(running);
        let deadline = Instant::now() + Duration::from_secs(20);
        while rustix::process::test_kill_process_group(group).is_ok() {
            assert!(Instant::now() < deadline, "something of it is still there");
            thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn a_server_that_does_not_start_says_why() {
        assert!(failure("echo no port >&2; exit 3", 20_000).contains("exit status: 3"));
        assert!(failure("echo no port >&2; exit 3", 20_000).contains("no port"));
        assert!(failure("sleep 60", 50).contains("no ready line"));
        let (mut server, _) = server("");
        let missing = start(&server, &["/nonexistent/program".to_owned()], &[], GRACE, false);
        assert!(matches!(missing, Err(Absent::Missing(_))));
        server.setup = ["sh", "-c", "echo not installed >&2; false"].map(str::to_owned).to_vec();
        let missing = set_up(&server).unwrap_err().to_string();
        assert!(missing.contains("not installed"), "{missing}");
    }
}
