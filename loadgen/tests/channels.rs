//! `channels`, `api` and `newcomers` of the built program against a small server of std threads, orderly or planted with
//! one fault: an orderly one must pass, each fault must end the run with exit code 1 and be told by name.

#![expect(clippy::unwrap_used, reason = "a broken expectation has to stop the test, with its message")]

mod support;

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Output};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;
use tungstenite::{Message, WebSocket};

use support::upgraded;

/// The delivery, answer or announcement, counted over all connections, that is wrong.
const FAULTY: usize = 40;
const SECRET: &str = "0123456789abcdef0123456789abcdef";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    Drop,
    Double,
    /// Another channel's name stands over it.
    Mislabel,
    /// An answer to a request is an error, or has the wrong number.
    Answer,
}

struct Server {
    fault: Fault,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    connections: u64,
    /// The connections that subscribe to a channel, or are in the lobby.
    members: BTreeMap<String, BTreeMap<u64, Sender<String>>>,
    pushes: usize,
    answers: usize,
}

impl Server {
    fn start(fault: Fault) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = Arc::new(Self { fault, state: Mutex::default() });
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let server = Arc::clone(&server);
                thread::spawn(move || server.serve(stream));
            }
        });
        address
    }

    fn serve(&self, stream: TcpStream) {
        let mut method = [0; 4];
        while stream.peek(&mut method).is_ok_and(|count| (1..4).contains(&count)) {}
        if method == *b"POST" {
            let _ = self.serve_requests(stream);
            return;
        }
        let Some((mut socket, _)) = upgraded(stream) else {
            return;
        };
        socket.get_ref().set_read_timeout(Some(Duration::from_millis(1))).unwrap();
        let (sender, pushes) = channel();
        let mut state = self.state.lock().unwrap();
        state.connections += 1;
        let number = state.connections;
        drop(state);
        let _ = self.attend(&mut socket, number, &sender, &pushes);
        for members in self.state.lock().unwrap().members.values_mut() {
            members.remove(&number);
        }
    }

    fn attend(
        &self,
        socket: &mut WebSocket<TcpStream>,
        number: u64,
        sender: &Sender<String>,
        pushes: &Receiver<String>,
    ) -> tungstenite::Result<()> {
        if self.state.lock().unwrap().members.is_empty() {
            self.state.lock().unwrap().members.insert("lobby".to_owned(), BTreeMap::new());
        }
        socket.send(Message::text(r#"{"type":"system","code":200}"#))?;
        loop {
            match socket.read() {
                Ok(Message::Close(_)) => return socket.flush(),
                Ok(message) => {
                    let text = message.into_text()?.as_str().to_owned();
                    self.take(&text, number, sender);
                }
                Err(tungstenite::Error::Io(error)) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
            for push in pushes.try_iter() {
                socket.write(Message::text(push))?;
            }
            socket.flush()?;
        }
    }

    fn take(&self, text: &str, number: u64, sender: &Sender<String>) {
        if let Some(name) = text.strip_prefix("S ") {
            let mut state = self.state.lock().unwrap();
            state.members.entry(name.to_owned()).or_default().insert(number, sender.clone());
            sender.send(format!("s {name}")).unwrap();
        } else if let Some((name, payload)) = text.strip_prefix("P ").and_then(|rest| rest.split_once(' ')) {
            self.publish(name, payload);
        } else if let Some(payload) = text.strip_prefix("E ") {
            let wrong = self.is_faulty_answer();
            sender.send(format!("e {}", if wrong { "ffffffff" } else { payload })).unwrap();
        } else if text.contains(r#""type":"auth""#) {
            self.sign_in(text, number, sender);
        }
    }

    fn is_faulty_answer(&self) -> bool {
        let mut state = self.state.lock().unwrap();
        state.answers += 1;
        self.fault == Fault::Answer && state.answers == FAULTY
    }

    fn publish(&self, name: &str, payload: &str) {
        let state = &mut *self.state.lock().unwrap();
        for member in state.members.get(name).into_iter().flat_map(BTreeMap::values) {
            state.pushes += 1;
            let faulty = state.pushes == FAULTY;
            let label = if faulty && self.fault == Fault::Mislabel { "room:other" } else { name };
            let times = match self.fault {
                Fault::Drop if faulty => 0,
                Fault::Double if faulty => 2,
                _ => 1,
            };
            for _ in 0..times {
                let _ = member.send(format!("{label} {payload}"));
            }
        }
    }

    /// uringcast's own words, as far as newcomers need them: the others hear of a user.
    fn sign_in(&self, text: &str, number: u64, sender: &Sender<String>) {
        let token = text.split_once(r#""token":""#).unwrap().1.split('"').next().unwrap();
        let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap();
        let claims: Value = serde_json::from_slice(&claims).unwrap();
        let state = &mut *self.state.lock().unwrap();
        let lobby = state.members.get_mut("lobby").unwrap();
        let count = lobby.len() + 1;
        for member in lobby.values() {
            state.pushes += 1;
            let times = match self.fault {
                Fault::Drop if state.pushes == FAULTY => 0,
                Fault::Double if state.pushes == FAULTY => 2,
                _ => 1,
            };
            for _ in 0..times {
                let name = claims["username"].as_str().unwrap();
                let _ = member.send(format!(
                    r#"{{"type":"user_online","data":{{"user":{{"id":1,"username":"{name}"}},"online_count":{count}}}}}"#
                ));
            }
        }
        lobby.insert(number, sender.clone());
        let _ = sender.send(r#"{"type":"auth_success","data":{}}"#.to_owned());
    }

    fn serve_requests(&self, stream: TcpStream) -> std::io::Result<()> {
        stream.set_nodelay(true)?;
        let mut out = stream.try_clone()?;
        let mut lines = BufReader::new(stream);
        loop {
            let (mut line, mut length) = (String::new(), 0);
            if lines.read_line(&mut line)? == 0 {
                return Ok(());
            }
            let path = line.split(' ').nth(1).unwrap().to_owned();
            loop {
                let mut header = String::new();
                lines.read_line(&mut header)?;
                if header.trim().is_empty() {
                    break;
                }
                if let Some(value) = header.strip_prefix("Content-Length: ") {
                    length = value.trim().parse().unwrap();
                }
            }
            let mut body = vec![0; length];
            lines.read_exact(&mut body)?;
            let body = String::from_utf8(body).unwrap();
            match path.strip_prefix("/publish/") {
                Some(name) => self.publish(name, &body),
                None => {
                    let (names, payload) = body.split_once('\n').unwrap();
                    names.split(',').for_each(|name| self.publish(name, payload));
                }
            }
            let status = if self.is_faulty_answer() { "500 No" } else { "200 OK" };
            write!(out, "HTTP/1.1 {status}\r\nContent-Length: 2\r\n\r\n{{}}")?;
        }
    }
}

const PROTOCOL: &str = r#"
[protocol.topics]
subscribe = "S {channel}"
subscribed = "s "
publish_to = "P {channel} {payload}"
delivered_to = "{channel} {payload}"
ask = "E {payload}"
api_path = "/publish/{channel}"
broadcast_path = "/broadcast"
broadcast_body = "{channels}\n{payload}"
"#;

fn run(command: &str, fault: Fault, more: &[&str]) -> (Output, Value) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("protocols.toml");
    std::fs::write(&file, PROTOCOL).unwrap();
    let json = folder.path().join("out.json");
    let address = Server::start(fault);
    let (url, api) = (format!("ws://{address}/topics"), format!("http://{address}"));
    let mut arguments = vec![command, "--url", &url, "--json", json.to_str().unwrap(), "--timeout", "4"];
    if command != "newcomers" {
        arguments.extend(["--seconds", "0.6", "--warmup", "0.1", "--users", "same"]);
        arguments.extend(["--protocol-file", file.to_str().unwrap(), "--protocol", "topics"]);
    }
    if command == "api" {
        arguments.extend(["--api", &api]);
    }
    arguments.extend(more);
    let mut loadgen = Command::new(env!("CARGO_BIN_EXE_loadgen"));
    let output = loadgen.args(arguments).env("URINGCAST_AUTH__HS256_SECRET", SECRET).output().unwrap();
    let text = std::fs::read_to_string(&json).unwrap_or_default();
    (output, serde_json::from_str(&text).unwrap_or_default())
}

fn told(output: &Output) -> String {
    let errors = String::from_utf8_lossy(&output.stderr);
    format!("{}{errors}", String::from_utf8_lossy(&output.stdout))
}

fn passes(command: &str, more: &[&str]) -> Value {
    let (output, json) = run(command, Fault::None, more);
    assert_eq!(output.status.code(), Some(0), "{}", told(&output));
    json
}

fn fails(command: &str, fault: Fault, more: &[&str], names: &[&str]) {
    let (output, json) = run(command, fault, more);
    assert_eq!(output.status.code(), Some(1), "{fault:?}: {}", told(&output));
    for (name, count) in json["faults"].as_object().unwrap() {
        let expected = u64::from(names.contains(&name.as_str()));
        assert_eq!(count.as_u64(), Some(expected), "{fault:?}, {name}: {}", told(&output));
    }
}

/// Six connections with three of nine channels, two subscribers each.
const ROOMS: [&str; 6] = ["-c", "6", "-k", "3", "--fanout", "2"];

#[test]
fn orderly_channels_pass_closed_and_open_and_on_two_threads() {
    for more in [&["--window", "4"][..], &["--rate", "300"], &["--threads", "2", "--window", "2"]] {
        let json = passes("channels", &[&ROOMS[..], more].concat());
        let count = |name: &str| json[name].as_u64().unwrap();
        assert!(count("sent") > 50, "{json}");
        assert_eq!(count("received"), count("sent") * 2, "{json}");
        assert_eq!(json["subscriptions"], 18);
        assert!(json["latency"]["count"].as_u64().unwrap() > 20, "{json}");
    }
}

#[test]
fn faulty_channels_fail_by_name() {
    let more = [&ROOMS[..], &["--window", "4"]].concat();
    fails("channels", Fault::Drop, &more, &["lost"]);
    fails("channels", Fault::Double, &more, &["doubled"]);
    // It is not taken for the delivery that should have come.
    fails("channels", Fault::Mislabel, &more, &["corrupted", "lost"]);
}

#[test]
fn private_replies_are_counted_and_checked() {
    let more = [&ROOMS[..], &["--do", "reply", "--window", "4"]].concat();
    let json = passes("channels", &more);
    assert_eq!(json["received"], json["sent"]);
    assert!(json["received"].as_u64().unwrap() > 100, "{json}");
    fails("channels", Fault::Answer, &more, &["lost"]);
}

#[test]
fn subscribing_ends_when_all_is_subscribed() {
    let json = passes("channels", &[&ROOMS[..], &["--do", "subscribe", "--window", "2"]].concat());
    assert_eq!(json["received"], 18);
    assert_eq!(json["latency"]["count"], 6);
}

#[test]
fn an_orderly_api_passes_with_and_without_subscribers() {
    for more in [&["-c", "4", "--pipeline", "3", "-n", "2"][..], &["-c", "2", "-n", "0"]] {
        let json = passes("api", more);
        assert_eq!(json["received"], json["sent"]);
        assert!(json["received"].as_u64().unwrap() > 50, "{json}");
    }
    let json = passes("api", &["-c", "1", "--broadcast", "5", "-n", "5"]);
    assert_eq!(json["received"].as_u64().unwrap(), json["sent"].as_u64().unwrap() * 5);
}

#[test]
fn a_faulty_api_fails_by_name() {
    let more = ["-c", "2", "--pipeline", "2", "-n", "2"];
    fails("api", Fault::Drop, &more, &["lost"]);
    fails("api", Fault::Double, &more, &["doubled"]);
    fails("api", Fault::Answer, &more, &["refused"]);
    fails("api", Fault::Drop, &["-c", "1", "--broadcast", "5", "-n", "5"], &["lost"]);
}

#[test]
fn idle_api_connections_have_sent_one_request() {
    let pid = std::process::id().to_string();
    let json = passes("api", &["-c", "7", "-n", "0", "--idle", "--settle", "0.1", "--pid", &pid]);
    assert_eq!((&json["ready"], &json["sent"]), (&7.into(), &7.into()));
    assert!(json["memory"]["idle"]["rss"].as_u64().unwrap() > 0);
}

#[test]
fn everyone_hears_of_every_newcomer_once() {
    let more = ["-n", "6", "--newcomers", "9", "--within", "2", "--in-flight", "1"];
    let json = passes("newcomers", &more);
    assert_eq!((&json["received"], &json["latency"]["count"]), (&9.into(), &9.into()));
    assert_eq!(json["ready"], 6);
    fails("newcomers", Fault::Drop, &more, &["lost"]);
    fails("newcomers", Fault::Double, &more, &["doubled"]);
}

#[test]
fn runs_that_cannot_be_are_refused() {
    for (command, more, why) in [
        ("channels", &["-c", "4", "-k", "3", "--fanout", "8"][..], "--fanout is more than"),
        ("channels", &["--do", "reply", "--rate", "5"], "--rate is for"),
        ("api", &["--rate", "5"], "no --rate"),
        ("newcomers", &["--users", "same"], "different users"),
    ] {
        let (output, _) = run(command, Fault::None, more);
        assert_eq!(output.status.code(), Some(2), "{}", told(&output));
        assert!(told(&output).contains(why), "{}", told(&output));
    }
}
