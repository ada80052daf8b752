//! Other protocols by templates, and the suite, against small servers of tungstenite: an orderly one passes,
//! each planted fault is told by name. The suite starts this test program itself as its servers.

#![expect(clippy::unwrap_used, reason = "a broken expectation has to stop the test, with its message")]

mod support;

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Output};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use serde_json::Value;
use tungstenite::{Message, WebSocket};

use support::upgraded;

const FAULTY_MESSAGE: usize = 40;

/// How the server speaks.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Speech {
    /// What comes is what goes out.
    Plain,
    /// A broker's: CONNECT, SUB, PUB, and several MSG in one frame.
    Broker,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    Drop,
    Double,
    Reorder,
}

impl Fault {
    fn named(name: &str) -> Self {
        match name {
            "drop" => Self::Drop,
            "double" => Self::Double,
            "reorder" => Self::Reorder,
            _ => Self::None,
        }
    }
}

/// By number, in the order of their coming; and the next one's number.
type Members = (u64, BTreeMap<u64, Sender<Vec<u8>>>);

struct Room {
    speech: Speech,
    fault: Fault,
    members: Mutex<Members>,
}

impl Room {
    fn join(&self) -> (u64, Receiver<Vec<u8>>) {
        let (sender, receiver) = channel();
        let mut members = self.members.lock().unwrap();
        let number = members.0;
        members.0 += 1;
        members.1.insert(number, sender);
        (number, receiver)
    }

    fn broadcast(&self, payload: &[u8]) {
        for member in self.members.lock().unwrap().1.values() {
            let _ = member.send(payload.to_vec());
        }
    }
}

/// The texts of all PUBs in a message.
fn published(mut rest: &str) -> Vec<&str> {
    let mut texts = Vec::new();
    while let Some((head, tail)) = rest.split_once("\r\n") {
        if let Some(length) = head.strip_prefix("PUB x ") {
            let length: usize = length.parse().unwrap();
            texts.push(&tail[..length]);
            rest = &tail[length + 2..];
        } else {
            rest = tail;
        }
    }
    texts
}

fn serve(stream: TcpStream, room: &Room) {
    let Some((mut socket, echo)) = upgraded(stream) else {
        return;
    };
    if echo {
        while let Ok(message) = socket.read() {
            if message.is_close() || socket.send(message).is_err() {
                let _ = socket.flush();
                return;
            }
        }
        return;
    }
    let (number, pushes) = room.join();
    socket.get_ref().set_read_timeout(Some(Duration::from_millis(1))).unwrap();
    let _ = attend(&mut socket, room, number, &pushes);
    room.members.lock().unwrap().1.remove(&number);
}

fn attend(
    socket: &mut WebSocket<TcpStream>,
    room: &Room,
    number: u64,
    pushes: &Receiver<Vec<u8>>,
) -> tungstenite::Result<()> {
    let (mut count, mut held) = (0, None);
    loop {
        match socket.read() {
            Ok(Message::Close(_)) => return socket.flush(),
            Ok(message) => {
                let text = String::from_utf8(message.into_data().to_vec()).unwrap();
                if room.speech == Speech::Plain {
                    room.broadcast(text.as_bytes());
                } else {
                    published(&text).into_iter().for_each(|text| room.broadcast(text.as_bytes()));
                    if text.contains("PING\r\n") {
                        socket.send(Message::binary("PONG\r\n"))?;
                    }
                }
            }
            Err(tungstenite::Error::Io(error)) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        let mut due: Vec<Vec<u8>> = Vec::new();
        for push in pushes.try_iter() {
            count += 1;
            let late = held.take();
            // On one connection that isn't the publisher's.
            match if number == 1 && count == FAULTY_MESSAGE { room.fault } else { Fault::None } {
                Fault::None => due.push(push),
                Fault::Drop => {}
                Fault::Double => due.extend([push.clone(), push]),
                Fault::Reorder => held = Some(push),
            }
            due.extend(late);
        }
        if room.speech == Speech::Plain {
            for push in due {
                socket.send(Message::text(String::from_utf8(push).unwrap()))?;
            }
        } else if !due.is_empty() {
            let text = |push: &Vec<u8>| format!("MSG x 1 {}\r\n{}\r\n", push.len(), String::from_utf8_lossy(push));
            socket.send(Message::binary(due.iter().map(text).collect::<String>()))?;
        }
    }
}

fn server(speech: Speech, fault: Fault) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let room = Arc::new(Room { speech, fault, members: Mutex::default() });
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let room = Arc::clone(&room);
            thread::spawn(move || serve(stream, &room));
        }
    });
    address
}

const PROTOCOLS: &str = r#"
[protocol.plain]
[protocol.broker]
binary = true
hello = ["CONNECT {}\r\nSUB x 1\r\nPING\r\n"]
hello_reply = "PONG"
publish = "PUB x {length}\r\n{payload}\r\n"
delivered = "MSG x 1 {length}\r\n{payload}\r\n"
refusal = "-ERR"
"#;

fn loadgen(arguments: &[&str], json: &Path) -> (Output, Value) {
    let mut loadgen = Command::new(env!("CARGO_BIN_EXE_loadgen"));
    let output = loadgen.args(arguments).arg("--json").arg(json).output().unwrap();
    let text = std::fs::read_to_string(json).unwrap_or_default();
    (output, serde_json::from_str(&text).unwrap_or_default())
}

fn told(output: &Output) -> String {
    let errors = String::from_utf8_lossy(&output.stderr);
    format!("{}{errors}", String::from_utf8_lossy(&output.stdout))
}

fn fanout(speech: Speech, fault: Fault, more: &[&str]) -> (Output, Value) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("protocols.toml");
    std::fs::write(&file, PROTOCOLS).unwrap();
    let url = format!("ws://{}/fanout", server(speech, fault));
    let name = if speech == Speech::Plain { "plain" } else { "broker" };
    let basis = ["fanout", "--url", &url, "-n", "4", "--in-flight", "1", "--seconds", "0.6", "--timeout", "4"];
    let protocol = ["--protocol-file", file.to_str().unwrap(), "--protocol", name];
    let arguments = [&basis[..], &protocol[..], more].concat();
    loadgen(&arguments, &folder.path().join("out.json"))
}

#[test]
fn templates_reach_other_servers_closed_open_and_in_lockstep() {
    for speech in [Speech::Plain, Speech::Broker] {
        for more in
            [&["--window", "8"][..], &["--rate", "300"], &["--window", "8", "--lockstep", "--wire-bytes", "231"]]
        {
            let (output, json) = fanout(speech, Fault::None, more);
            assert_eq!(output.status.code(), Some(0), "{}", told(&output));
            let count = |name: &str| json[name].as_u64().unwrap();
            assert!(count("sent") > 50, "{}", told(&output));
            assert_eq!(count("received"), count("sent") * 4, "{}", told(&output));
            if more.contains(&"--lockstep") {
                assert_eq!(count("sent") % 8, 0, "whole windows only");
            }
        }
    }
}

#[test]
fn several_publications_in_one_frame_are_counted_one_by_one() {
    let (output, json) = fanout(Speech::Broker, Fault::None, &["--window", "64"]);
    assert_eq!(output.status.code(), Some(0), "{}", told(&output));
    let traffic = &json["traffic"];
    let (frames, messages) = (traffic["coalescing"].as_f64().unwrap(), traffic["per_receive"].as_f64().unwrap());
    assert!(messages > frames * 2.0, "{frames} {messages}");
}

#[test]
fn faults_behind_a_template_are_told_by_name() {
    for speech in [Speech::Plain, Speech::Broker] {
        for (fault, name) in [(Fault::Drop, "lost"), (Fault::Double, "doubled"), (Fault::Reorder, "reordered")] {
            let (output, json) = fanout(speech, fault, &["--window", "8"]);
            assert_eq!(output.status.code(), Some(1), "{}", told(&output));
            for (other, count) in json["faults"].as_object().unwrap() {
                assert_eq!(count.as_u64(), Some(u64::from(other == name)), "{other}: {}", told(&output));
            }
        }
    }
}

#[test]
fn flags_do_without_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("ws://{}/", server(Speech::Broker, Fault::None));
    let (output, json) = loadgen(
        &[
            "fanout",
            "--url",
            &url,
            "-n",
            "3",
            "--seconds",
            "0.5",
            "--warmup",
            "0.1",
            "--binary-frames",
            "--hello",
            r"CONNECT {}\r\nSUB x 1\r\nPING\r\n",
            "--hello-reply",
            "PONG",
            "--publish",
            r"PUB x {length}\r\n{payload}\r\n",
        ],
        &folder.path().join("out.json"),
    );
    assert_eq!(output.status.code(), Some(0), "{}", told(&output));
    assert_eq!(json["ready"], 3);
    let (output, _) = loadgen(&["fanout", "--protocol", "x"], &folder.path().join("none.json"));
    assert_eq!(output.status.code(), Some(2));
    assert!(told(&output).contains("--protocol-file"), "{}", told(&output));
}

/// Not a test: what the suite below starts as a server.
#[test]
#[ignore = "a server, for the suite to start"]
fn tiny_server() {
    let fault = Fault::named(&std::env::var("TINY_FAULT").unwrap_or_default());
    let speech = if std::env::var("TINY_BROKER").is_ok() { Speech::Broker } else { Speech::Plain };
    println!("listening on ws://{}/fanout", server(speech, fault));
    loop {
        thread::park();
    }
}

fn suite(servers: &str, more: &[&str]) -> (Output, Value, String, String) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("servers.toml");
    std::fs::write(&file, format!("{servers}{PROTOCOLS}")).unwrap();
    let (markdown, html) = (folder.path().join("out.md"), folder.path().join("out.html"));
    let page = folder.path().join("page.md");
    let basis = [
        "suite",
        "--servers",
        file.to_str().unwrap(),
        "--seconds",
        "0.4",
        "--timeout",
        "5",
        "--scale-down",
        "100",
        "--wire-bytes",
        "231",
        "--out-md",
        markdown.to_str().unwrap(),
        "--page",
        page.to_str().unwrap(),
        "--note",
        "made by a test",
        "--html",
        html.to_str().unwrap(),
    ];
    let (output, json) = loadgen(&[&basis[..], more].concat(), &folder.path().join("out.json"));
    let read = |path: &Path| std::fs::read_to_string(path).unwrap_or_default();
    if !json.is_null() {
        let page = read(&page);
        assert!(page.contains("made by a test") && page.contains("| one |") | page.contains("| good |"), "{page}");
        // Folders of this machine say nothing elsewhere.
        assert!(!page.contains(folder.path().to_str().unwrap()), "{page}");
    }
    (output, json, read(&markdown), read(&html))
}

fn tiny(name: &str, more: &str) -> String {
    let program = std::env::current_exe().unwrap();
    format!(
        "[[server]]\nname = '{name}'\npad = true\n\
         command = ['{}', 'tiny_server', '--exact', '--ignored', '--nocapture', '--test-threads', '1']\n{more}\n",
        program.display()
    )
}

#[test]
fn a_suite_compares_two_servers_and_skips_what_is_not_there() {
    let servers = [
        tiny("one", "protocol = 'plain'"),
        tiny("two", "protocol = 'broker'\nenv = { TINY_BROKER = '1' }\nworks = ['fanout', 'latency']"),
        "[[server]]\nname = 'gone'\ncommand = ['/nonexistent/server']\nprotocol = 'plain'\n".to_owned(),
        tiny("unprepared", "protocol = 'plain'\nsetup = ['false']"),
    ];
    let works =
        ["--rounds", "2", "--works", "fanout-1000-w64,latency-same,echo-100-p16,connect,storm", "--rate", "200"];
    let (output, json, markdown, html) = suite(&servers.concat(), &works);
    assert_eq!(output.status.code(), Some(0), "{}", told(&output));
    let works = json["works"].as_array().unwrap();
    let names: Vec<_> = works.iter().map(|work| work["name"].as_str().unwrap()).collect();
    // A storm is uringcast's alone.
    assert_eq!(names, ["fanout-1000-w64", "latency-same", "echo-100-p16", "connect"]);
    let took_part = |work: &Value| {
        let results = work["results"].as_array().unwrap().iter();
        results.map(|results| results["server"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(took_part(&works[0]), ["one", "two"]);
    assert_eq!(took_part(&works[2]), ["one"]);
    for results in works[0]["results"].as_array().unwrap() {
        assert_eq!(results["rounds"].as_array().unwrap().len(), 2);
        let median = |key: &str| results["median"][key].as_f64().unwrap_or_else(|| panic!("no {key}: {results}"));
        for key in
            ["per_second", "server_cpu_ns", "server_cores", "generator_core", "p50_us", "p99_us", "p999_us", "rss_mb"]
        {
            assert!(median(key) > 0.0, "{key}: {results}");
        }
        // 231 bytes and a header of 4, or less where several share one.
        let wire = median("wire_bytes");
        assert!((229.0..=236.0).contains(&wire), "{wire}");
        assert!(results["ratio"]["per_second"].as_f64().unwrap() > 0.0);
        assert_eq!(results["rounds"][0]["faults"]["lost"], 0);
    }
    assert_eq!(works[0]["results"][0]["ratio"]["per_second"], 1.0);
    assert_eq!(works[1]["results"][1]["median"]["rate"], 200.0);
    let skipped: Vec<_> = json["skipped"].as_array().unwrap().iter().map(|each| each["server"].clone()).collect();
    assert_eq!(skipped, ["unprepared", "gone"]);
    assert!(markdown.contains("| one |") && markdown.contains("Skipped: gone"), "{markdown}");
    assert!(html.contains("<svg") && html.contains("two") && !html.contains("http://localhost"), "{html}");
}

#[test]
fn a_suite_fails_when_a_server_loses_something_or_does_not_start() {
    let servers = [
        tiny("good", "protocol = 'plain'"),
        tiny("bad", "protocol = 'plain'\nenv = { TINY_FAULT = 'drop' }"),
        "[[server]]\nname = 'dead'\ncommand = ['sh', '-c', 'echo no port; exit 3']\nprotocol = 'plain'\n".to_owned(),
    ];
    let works = ["--rounds", "1", "--works", "fanout-1000-w64"];
    let (output, json, markdown, _) = suite(&servers.concat(), &works);
    assert_eq!(output.status.code(), Some(1), "{}", told(&output));
    let results = &json["works"][0]["results"];
    assert_eq!(results[0]["rounds"][0]["faults"]["lost"], 0);
    assert_eq!(results[1]["rounds"][0]["faults"]["lost"], 1);
    assert!(results[2]["error"].as_str().unwrap().contains("no port"), "{results}");
    assert!(markdown.contains("1 lost"), "{markdown}");
    let (output, _, _, _) = suite(&servers[0], &["--works", "nonsense"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(told(&output).contains("no such work"), "{}", told(&output));
}
