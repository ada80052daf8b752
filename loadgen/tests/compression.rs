//! The built program against a small server that speaks permessage-deflate, orderly or planted with one fault: in its
//! answer to the offer, in its frames, or in one message of one connection that is inflated or only counted.

#![allow(clippy::unwrap_used)]

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Output};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use flate2::{Compress, Compression, FlushCompress};
use serde_json::Value;
use tungstenite::handshake::server::{Request, Response};
use tungstenite::protocol::frame::coding::{Data, OpCode};
use tungstenite::protocol::frame::{Frame, FrameHeader};
use tungstenite::{Message, WebSocket, accept_hdr};

/// What the server does wrong, on its fortieth compressed message to the second connection.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    Drop,
    Double,
    Swap,
    Corrupt,
    /// Not DEFLATE at all.
    Garbage,
}

const FAULTY_MESSAGE: usize = 40;

/// What the server answers to an offer, and whether what it compresses refers to what came before.
#[derive(Clone, Copy)]
struct Speech {
    answer: &'static str,
    takes_over: bool,
    fault: Fault,
}

const KEEPS: Speech = Speech { answer: "permessage-deflate", takes_over: true, fault: Fault::None };
const FORGETS: Speech =
    Speech { answer: "permessage-deflate; server_no_context_takeover", takes_over: false, fault: Fault::None };

/// Compresses for one connection.
struct Packer {
    stream: Compress,
    takes_over: bool,
}

impl Packer {
    fn frame(&mut self, text: &[u8]) -> Message {
        if !self.takes_over {
            self.stream.reset();
        }
        let mut body = Vec::with_capacity(text.len() + 1024);
        self.stream.compress_vec(text, &mut body, FlushCompress::Sync).unwrap();
        body.truncate(body.len() - 4);
        raw(body)
    }
}

/// A text message with RSV1.
fn raw(body: Vec<u8>) -> Message {
    let header = FrameHeader { is_final: true, rsv1: true, opcode: OpCode::Data(Data::Text), ..Default::default() };
    Message::Frame(Frame::from_payload(header, body.into()))
}

type Room = Arc<Mutex<Vec<Sender<Vec<u8>>>>>;

#[allow(clippy::result_large_err)] // the callback's type is the library's
fn serve(stream: TcpStream, speech: Speech, room: &Room) {
    let mut offered = false;
    let answer = |request: &Request, mut response: Response| {
        offered = request.headers().contains_key("sec-websocket-extensions");
        if offered && !speech.answer.is_empty() {
            response.headers_mut().insert("sec-websocket-extensions", speech.answer.parse().unwrap());
        }
        Ok(response)
    };
    stream.set_nodelay(true).unwrap();
    let Ok(mut socket) = accept_hdr(stream, answer) else {
        return;
    };
    assert!(offered, "everyone offers");
    let (sender, pushes) = channel();
    let number = {
        let mut room = room.lock().unwrap();
        room.push(sender);
        room.len() - 1
    };
    socket.get_ref().set_read_timeout(Some(Duration::from_millis(1))).unwrap();
    let fault = if number == 1 { speech.fault } else { Fault::None };
    let _ = attend(&mut socket, Speech { fault, ..speech }, &pushes, room);
}

fn attend(
    socket: &mut WebSocket<TcpStream>,
    speech: Speech,
    pushes: &Receiver<Vec<u8>>,
    room: &Room,
) -> tungstenite::Result<()> {
    let mut packer = Packer { stream: Compress::new(Compression::fast(), false), takes_over: speech.takes_over };
    let (mut count, mut held) = (0, None);
    loop {
        match socket.read() {
            Ok(Message::Close(_)) => return socket.flush(),
            Ok(message) => {
                for member in room.lock().unwrap().iter() {
                    let _ = member.send(message.clone().into_data().to_vec());
                }
            }
            Err(tungstenite::Error::Io(error)) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        for mut text in pushes.try_iter() {
            count += 1;
            let late: Option<Vec<u8>> = held.take();
            match if count == FAULTY_MESSAGE { speech.fault } else { Fault::None } {
                Fault::None => socket.send(packer.frame(&text))?,
                Fault::Drop => {}
                Fault::Double => {
                    socket.send(packer.frame(&text))?;
                    socket.send(packer.frame(&text))?;
                }
                Fault::Swap => held = Some(text),
                Fault::Corrupt => {
                    *text.last_mut().unwrap() = b'!';
                    socket.send(packer.frame(&text))?;
                }
                Fault::Garbage => socket.send(raw(vec![0xff; 40]))?,
            }
            if let Some(late) = late {
                socket.send(packer.frame(&late))?;
            }
        }
    }
}

fn server(speech: Speech) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let room = Room::default();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let room = Arc::clone(&room);
            thread::spawn(move || serve(stream, speech, &room));
        }
    });
    address
}

fn fanout(speech: Speech, more: &[&str]) -> (Output, Value, String) {
    let json = tempfile::NamedTempFile::new().unwrap();
    let url = format!("ws://{}/", server(speech));
    let mut loadgen = Command::new(env!("CARGO_BIN_EXE_loadgen"));
    loadgen.args(["fanout", "--plain", "--url", &url, "-n", "4", "--in-flight", "1", "--window", "8"]);
    // Its library knows no RSV1 in what it reads.
    loadgen.args(["--content", "feed", "--payload", "500", "--compress-above", "1000000"]);
    loadgen.args(["--seconds", "0.6", "--warmup", "0.1", "--timeout", "4", "--json"]).arg(json.path());
    let output =
        loadgen.args(if more.iter().any(|each| each.starts_with("--compress=")) { &[][..] } else { &["--compress"] });
    let output = output.args(more).output().unwrap();
    let told = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let report = serde_json::from_str(&std::fs::read_to_string(json.path()).unwrap()).unwrap_or_default();
    (output, report, told)
}

/// One compressor for each: but all get the same from the same beginning, and so the same bytes.
#[test]
fn one_is_inflated_and_the_others_are_held_against_its_bytes() {
    for speech in [KEEPS, FORGETS] {
        let (output, json, told) = fanout(speech, &[]);
        assert_eq!(output.status.code(), Some(0), "{told}");
        let compression = &json["compression"];
        assert_eq!(compression["agreed"][0]["parameters"], speech.answer, "{told}");
        assert_eq!(compression["agreed"][0]["connections"], 4, "{told}");
        assert_eq!(
            (&compression["checked"]["inflated"], &compression["checked"]["by_bytes"]),
            (&1.into(), &3.into()),
            "{told}"
        );
        assert_eq!(json["received"].as_u64().unwrap(), json["sent"].as_u64().unwrap() * 4, "{told}");
        assert_eq!(compression["compressed"], json["received"], "{told}");
        assert!(compression["ratio"].as_f64().unwrap() > 1.5, "{told}");
    }
}

#[test]
fn every_fault_of_an_inflated_connection_is_told_by_name() {
    for speech in [KEEPS, FORGETS] {
        for (fault, name) in [
            (Fault::Drop, "lost"),
            (Fault::Double, "doubled"),
            (Fault::Swap, "reordered"),
            (Fault::Corrupt, "corrupted"),
        ] {
            let (output, json, told) = fanout(Speech { fault, ..speech }, &["--verify-every", "1"]);
            assert_eq!(output.status.code(), Some(1), "{told}");
            for (each, count) in json["faults"].as_object().unwrap() {
                assert_eq!(count, u64::from(each == name), "{each}: {told}");
            }
        }
    }
    let (output, json, told) = fanout(Speech { fault: Fault::Garbage, ..FORGETS }, &["--verify-every", "1"]);
    assert_eq!((output.status.code(), &json["faults"]["cut"]), (Some(1), &1.into()), "{told}");
    assert!(told.contains("no DEFLATE"), "{told}");
}

#[test]
fn a_counted_connection_misses_nothing_either() {
    for (fault, name) in [(Fault::Drop, "lost"), (Fault::Double, "doubled")] {
        let (output, json, told) = fanout(Speech { fault, ..FORGETS }, &[]);
        assert_eq!((output.status.code(), &json["faults"][name]), (Some(1), &1.into()), "{told}");
    }
    // What counting can't see is not claimed: two are as they should be by their bytes, this one by its number.
    let (output, json, told) = fanout(Speech { fault: Fault::Swap, ..FORGETS }, &[]);
    assert_eq!(output.status.code(), Some(0), "{told}");
    let checked = &json["compression"]["checked"];
    assert_eq!((&checked["by_bytes"], &checked["by_count"]), (&2.into(), &1.into()), "{told}");
}

#[test]
fn a_server_may_decline_and_what_it_may_not_answer_ends_the_connection() {
    let (output, _, told) = fanout(Speech { answer: "", ..KEEPS }, &[]);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("reserved bits"), "compressed without an agreement: {told}");
    for (answer, why) in [
        ("permessage-deflate; client_max_window_bits=8", "no compressor"),
        ("permessage-deflate; server_max_window_bits", "without a value"),
        ("permessage-deflate; unknown", "the unknown parameter"),
        ("x-webkit-deflate-frame", "not permessage-deflate"),
    ] {
        let (output, json, told) = fanout(Speech { answer, ..KEEPS }, &[]);
        assert_eq!((output.status.code(), &json["faults"]["failed"]), (Some(1), &4.into()), "{told}");
        assert!(told.contains(why) && told.contains("in answer to"), "{told}");
    }
    let (output, _, told) = fanout(KEEPS, &["--compress=permessage-deflate; server_no_context_takeover"]);
    assert!(output.status.code() == Some(1) && told.contains("though it was asked for"), "{told}");
    let (output, _, told) = fanout(KEEPS, &["--compress=permessage-deflate; level=9"]);
    assert!(output.status.code() == Some(2) && told.contains("unknown parameter"), "{told}");
}
