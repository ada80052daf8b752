//! The built program against a small server of std threads, orderly or planted with one fault:
//! an orderly one must pass, each fault must end the run with exit code 1 and be told by name.

#![expect(clippy::unwrap_used, reason = "a broken expectation has to stop the test, with its message")]

mod support;

use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use tungstenite::protocol::frame::Utf8Bytes;
use tungstenite::{Message, WebSocket};

use support::upgraded;

/// What the server does wrong, once, on its fortieth message to one connection.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    Drop,
    Double,
    Reorder,
    Corrupt,
    Cut,
    /// Never answers auth.
    Mute,
}

const FAULTY_MESSAGE: usize = 40;

struct Lobby {
    fault: Fault,
    next: AtomicU64,
    members: Mutex<HashMap<u64, Sender<String>>>,
    offset: Mutex<u64>,
}

impl Lobby {
    fn broadcast(&self, text: &str) {
        let mut offset = self.offset.lock().unwrap();
        *offset += 1;
        let push = format!(
            r#"{{"type":"message","code":200,"data":{{"id":"x","channel":"lobby","offset":{offset},"sender":{{"id":1}},"text":"{text}","timestamp":1}}}}"#
        );
        for member in self.members.lock().unwrap().values() {
            let _ = member.send(push.clone());
        }
    }
}

/// Passes messages on to one connection, the faulty one of them wrongly.
struct Outlet {
    fault: Fault,
    count: usize,
    held: Option<Message>,
}

impl Outlet {
    fn send(&mut self, socket: &mut WebSocket<TcpStream>, message: Message) -> bool {
        self.count += 1;
        let at = self.count == FAULTY_MESSAGE;
        let held = self.held.take();
        let sent = match self.fault {
            Fault::Drop if at => Ok(()),
            Fault::Double if at => socket.send(message.clone()).and_then(|()| socket.send(message)),
            Fault::Reorder if at => {
                self.held = Some(message);
                return true;
            }
            Fault::Corrupt if at => {
                let mut text = message.into_text().unwrap().as_str().to_owned();
                // The padding of a 64-byte text holds one alphabet at least.
                let z = text.rfind("xyz").unwrap();
                text.replace_range(z..=z, "!");
                socket.send(Message::text(text))
            }
            Fault::Cut if at => return false,
            _ => socket.send(message),
        };
        let late = held.map_or(Ok(()), |held| socket.send(held));
        sent.and(late).is_ok()
    }
}

fn serve(stream: TcpStream, lobby: Arc<Lobby>) {
    let Some((mut socket, echo)) = upgraded(stream) else {
        return;
    };
    let number = lobby.next.fetch_add(1, SeqCst);
    // The fault is planted on one connection that isn't the publisher's, if there are several.
    let fault = if number == 1 { lobby.fault } else { Fault::None };
    let mut outlet = Outlet { fault, count: 0, held: None };
    if echo {
        while let Ok(message) = socket.read() {
            if message.is_close() {
                let _ = socket.flush();
                return;
            }
            if !outlet.send(&mut socket, message) {
                return;
            }
        }
        return;
    }
    let (sender, pushes) = channel();
    let welcome = r#"{"type":"system","code":200,"data":{"connection_id":"c"}}"#;
    socket.send(Message::text(welcome)).unwrap();
    let timeout = Some(Duration::from_millis(1));
    socket.get_ref().set_read_timeout(timeout).unwrap();
    attend(&mut socket, &lobby, number, &sender, &pushes, &mut outlet);
    lobby.members.lock().unwrap().remove(&number);
}

fn attend(
    socket: &mut WebSocket<TcpStream>,
    lobby: &Lobby,
    number: u64,
    sender: &Sender<String>,
    pushes: &Receiver<String>,
    outlet: &mut Outlet,
) {
    loop {
        match socket.read() {
            Ok(Message::Text(text)) => answer(socket, lobby, number, sender, &text),
            Ok(Message::Close(_)) => {
                let _ = socket.flush();
                return;
            }
            Err(tungstenite::Error::Io(error)) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => return,
            Ok(_) => {}
        }
        while let Ok(push) = pushes.try_recv() {
            if !outlet.send(socket, Message::text(push)) {
                return;
            }
        }
    }
}

fn answer(socket: &mut WebSocket<TcpStream>, lobby: &Lobby, number: u64, sender: &Sender<String>, text: &Utf8Bytes) {
    let text = text.as_str();
    if text.starts_with(r#"{"type":"auth""#) {
        if lobby.fault == Fault::Mute {
            return;
        }
        assert!(text.contains(r#""token":"ey"#), "{text}");
        let mut members = lobby.members.lock().unwrap();
        for member in members.values() {
            let _ = member.send(r#"{"type":"user_online","code":200,"data":{}}"#.to_owned());
        }
        members.insert(number, sender.clone());
        let success = r#"{"type":"auth_success","code":200,"data":{}}"#;
        socket.send(Message::text(success)).unwrap();
    } else if let Some((_, rest)) = text.split_once(r#""text":""#) {
        lobby.broadcast(rest.trim_end_matches(r#""}}"#));
    }
}

fn server(fault: Fault) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let lobby =
        Arc::new(Lobby { fault, next: AtomicU64::new(0), members: Mutex::new(HashMap::new()), offset: Mutex::new(0) });
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let lobby = Arc::clone(&lobby);
            thread::spawn(move || serve(stream, lobby));
        }
    });
    address
}

const SECRET: &str = "0123456789abcdef0123456789abcdef";

fn run(command: &str, fault: Fault, more: &[&str]) -> (Output, serde_json::Value) {
    let path = if command == "echo" { "echo" } else { "ws" };
    let url = format!("ws://{}/{path}", server(fault));
    let json = tempfile::NamedTempFile::new().unwrap();
    let mut loadgen = Command::new(env!("CARGO_BIN_EXE_loadgen"));
    loadgen.args([command, "--url", &url, "--json"]);
    loadgen.arg(json.path()).args(more);
    if command == "echo" {
        loadgen.env_remove("URINGCAST_AUTH__HS256_SECRET");
    } else {
        loadgen.env("URINGCAST_AUTH__HS256_SECRET", SECRET);
    }
    let output = loadgen.output().unwrap();
    let text = std::fs::read_to_string(json.path()).unwrap();
    (output, serde_json::from_str(&text).unwrap_or_default())
}

fn stdout(output: &Output) -> String {
    let errors = String::from_utf8_lossy(&output.stderr);
    format!("{}{errors}", String::from_utf8_lossy(&output.stdout))
}

const SHORT: [&str; 4] = ["--seconds", "0.6", "--warmup", "0.1"];

fn expect(command: &str, fault: Fault, more: &[&str], names: &[&str]) {
    // What is lost is awaited until the deadline.
    let arguments = [more, &SHORT, &["--timeout", "4"]].concat();
    let (output, json) = run(command, fault, &arguments);
    let told = stdout(&output);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("FAIL: "), "{told}");
    for (name, count) in json["faults"].as_object().unwrap() {
        let expected = u64::from(names.contains(&name.as_str()));
        let lenient = name == "offset_breaks" && expected == 1;
        let count = count.as_u64().unwrap();
        assert!(count == expected || lenient && count > 0, "{name}: {told}");
    }
}

#[test]
fn an_orderly_echo_passes_closed_and_open() {
    let closed = ["-c", "5", "--pipeline", "4", "--threads", "2"];
    let open = ["-c", "5", "--rate", "500", "--binary"];
    for more in [&closed[..], &open[..]] {
        let (output, json) = run("echo", Fault::None, &[more, &SHORT].concat());
        let told = stdout(&output);
        assert_eq!(output.status.code(), Some(0), "{told}");
        assert!(told.contains("PASS") && told.contains("p99.9"), "{told}");
        assert_eq!(json["sent"], json["received"], "{told}");
        assert!(json["latency"]["count"].as_u64().unwrap() > 50, "{told}");
        if more.contains(&"--rate") {
            assert_eq!(json["sent"], 300, "{told}");
            assert_eq!(json["unsent"], 0, "{told}");
        }
    }
}

#[test]
fn a_faulty_echo_fails_by_name() {
    let more = ["-c", "3", "--pipeline", "8"];
    expect("echo", Fault::Drop, &more, &["lost"]);
    expect("echo", Fault::Double, &more, &["doubled"]);
    expect("echo", Fault::Reorder, &more, &["reordered"]);
    expect("echo", Fault::Corrupt, &more, &["corrupted"]);
    expect("echo", Fault::Cut, &more, &["cut"]);
}

#[test]
fn an_orderly_fanout_passes_closed_and_open() {
    let closed = ["-n", "8", "--window", "4", "--publishers", "3", "--threads", "2"];
    let open = ["-n", "8", "--rate", "200"];
    for more in [&closed[..], &open[..]] {
        let (output, json) = run("fanout", Fault::None, &[more, &SHORT].concat());
        let told = stdout(&output);
        assert_eq!(output.status.code(), Some(0), "{told}");
        let count = |name: &str| json[name].as_u64().unwrap();
        assert_eq!(count("received"), count("sent") * 8, "{told}");
        assert_eq!(count("pushes"), 28, "seven newcomers were announced: {told}");
        assert!(json["traffic"]["coalescing"].as_f64().unwrap() >= 1.0);
    }
}

#[test]
fn a_faulty_fanout_fails_by_name() {
    let more = ["-n", "3", "--window", "8", "--in-flight", "1"];
    let breaks = "offset_breaks";
    expect("fanout", Fault::Drop, &more, &["lost", breaks]);
    expect("fanout", Fault::Double, &more, &["doubled", breaks]);
    expect("fanout", Fault::Reorder, &more, &["reordered", breaks]);
    expect("fanout", Fault::Corrupt, &more, &["corrupted"]);
    expect("fanout", Fault::Cut, &more, &["cut"]);
}

#[test]
fn connect_measures_sign_in_and_memory() {
    let pid = std::process::id().to_string();
    let more = ["-c", "20", "--pid", &pid, "--settle", "0.1", "--hold", "0.1"];
    let (output, json) = run("connect", Fault::None, &more);
    let told = stdout(&output);
    assert_eq!(output.status.code(), Some(0), "{told}");
    assert_eq!(json["ready"], 20);
    assert_eq!(json["connecting"]["sign_in"]["count"], 20);
    assert!(json["memory"]["idle"]["rss"].as_u64().unwrap() > 0);
    let (output, _) = run("connect", Fault::Mute, &["-c", "3", "--no-auth", "--settle", "0"]);
    assert_eq!(output.status.code(), Some(0), "{}", stdout(&output));
}

#[test]
fn waits_have_a_deadline_and_impossible_runs_say_why() {
    let (output, json) = run("connect", Fault::Mute, &["-c", "3", "--timeout", "0.3"]);
    let told = stdout(&output);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert_eq!(json["faults"]["failed"], 3, "{told}");
    assert!(told.contains("no answer to auth within"), "{told}");
    let (output, _) = run("connect", Fault::None, &["-c", "4000000000"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stdout(&output).contains("open files"), "{}", stdout(&output));
    // No server listens there.
    let url = "ws://127.0.0.1:1/echo";
    let mut loadgen = Command::new(env!("CARGO_BIN_EXE_loadgen"));
    let output = loadgen.args(["echo", "--url", url, "--wait", "0.3"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "the run could not be made");
    assert!(stdout(&output).contains("refused"), "{}", stdout(&output));
}

#[test]
fn ctrl_c_prints_what_there_is() {
    let url = format!("ws://{}/echo", server(Fault::None));
    let child = Command::new(env!("CARGO_BIN_EXE_loadgen"))
        .args(["echo", "-c", "2", "--seconds", "60", "--url", &url])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    thread::sleep(Duration::from_millis(1_500));
    let pid = rustix::process::Pid::from_raw(child.id() as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    let told = stdout(&output);
    assert_eq!(output.status.code(), Some(0), "{told}");
    assert!(told.contains("interrupted") && told.contains("echoes/s"), "{told}");
}
