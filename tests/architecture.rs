//! The shape of the source, as a test: what is pure stays pure, the arrows between modules keep their direction, and
//! the few rules of style that a reader relies on hold in every file. It reads `src/` as text; `source` takes the
//! text apart. A rule that is in the way is changed here, in the open, and not worked around.

#[path = "architecture/source.rs"]
mod source;

use std::path::{Path, PathBuf};

use source::Source;

/// Bytes, parcels and the time go in, bytes and parcels come out: no runtime, no socket, no clock.
const PURE: [&str; 21] = [
    "proto",
    "auth",
    "rights",
    "hub",
    "session",
    "outbox",
    "fanout",
    "shard",
    "wheel",
    "user",
    "parcel",
    "ids",
    "clock",
    "http",
    "namespace",
    "publication",
    "run",
    "limits",
    "metrics",
    "refusals",
    "planted",
];
/// What a pure module can't name: words of code, and paths with everything below them.
const IMPURE_WORDS: [&str; 7] = ["monoio", "tokio", "async", "await", "Instant", "SystemTime", "rustix"];
const IMPURE_PATHS: [&str; 3] = ["std::net", "std::os", "std::thread"];
/// The one file that may read the machine's clocks; the shell calls it, and the rest takes `Now`.
const CLOCK: &str = "clock.rs";

/// Who owns sockets and tasks; nothing pure knows of them.
const SHELL: [&str; 15] = [
    "conn",
    "descriptors",
    "control",
    "driver",
    "reactor",
    "listener",
    "socket_file",
    "server",
    "memory",
    "log",
    "cpus",
    "doctor",
    "cli",
    "main",
    "signals",
];
/// Which modules a module must not know, beside the shell: all that stands right of it in the design's chain.
const ARROWS: [(&str, &[&str]); 23] = [
    ("proto", &["auth", "user", "parcel", "mesh", "hub", "session", "outbox", "fanout", "http", "config", "shard"]),
    (
        "publication",
        &["auth", "user", "parcel", "mesh", "hub", "session", "outbox", "fanout", "http", "config", "shard"],
    ),
    ("namespace", &["proto", "auth", "user", "parcel", "mesh", "hub", "session", "outbox", "fanout", "http", "shard"]),
    ("ids", &["proto", "auth", "user", "parcel", "mesh", "hub", "session", "outbox", "fanout", "http", "shard"]),
    ("planted", &["proto", "auth", "user", "parcel", "mesh", "hub", "session", "outbox", "fanout", "http", "shard"]),
    ("clock", &["proto", "auth", "user", "parcel", "mesh", "hub", "session", "outbox", "fanout", "http", "shard"]),
    ("wheel", &["proto", "auth", "user", "parcel", "mesh", "hub", "session", "outbox", "fanout", "http", "shard"]),
    ("auth", &["rights", "user", "parcel", "mesh", "hub", "session", "outbox", "fanout", "http", "shard"]),
    ("rights", &["user", "parcel", "mesh", "hub", "session", "outbox", "fanout", "http", "shard", "config"]),
    (
        "limits",
        &["auth", "user", "parcel", "mesh", "hub", "session", "outbox", "fanout", "http", "shard", "config", "metrics"],
    ),
    (
        "refusals",
        &["proto", "auth", "user", "parcel", "mesh", "hub", "session", "outbox", "fanout", "http", "shard", "config"],
    ),
    ("metrics", &["auth", "user", "parcel", "mesh", "hub", "session", "outbox", "fanout", "http", "shard", "config"]),
    ("user", &["parcel", "mesh", "hub", "session", "outbox", "fanout", "http", "shard", "config"]),
    ("parcel", &["mesh", "hub", "session", "outbox", "fanout", "http", "shard", "config"]),
    ("mesh", &["proto", "auth", "user", "parcel", "hub", "session", "outbox", "fanout", "http", "shard", "config"]),
    ("run", &["auth", "user", "parcel", "mesh", "hub", "session", "outbox", "fanout", "http", "shard", "config"]),
    ("outbox", &["auth", "user", "parcel", "mesh", "hub", "session", "fanout", "http", "shard", "config"]),
    ("fanout", &["auth", "user", "parcel", "mesh", "hub", "session", "http", "shard", "config"]),
    ("hub", &["session", "outbox", "fanout", "http", "shard", "config"]),
    ("session", &["mesh", "outbox", "fanout", "http", "shard", "config"]),
    ("http", &["user", "parcel", "mesh", "hub", "session", "outbox", "fanout", "shard"]),
    ("shard", &["config"]),
    ("tls", &["proto", "auth", "user", "parcel", "mesh", "hub", "session", "outbox", "fanout", "http", "shard", "ids"]),
];

/// Readable in one sitting.
const LINES_MAX: usize = 700;
/// Where `unsafe` may be, and why is said there.
const UNSAFE: [&str; 3] = ["conn.rs", "driver.rs", "main.rs"];

fn files() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (mut folders, mut files) = (vec![root.clone()], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("src is readable") {
            let path: PathBuf = entry.expect("src is readable").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(&root).expect("below src").to_str().expect("a plain name");
                files.push(Source::new(name, &std::fs::read_to_string(&path).expect("a text")));
            }
        }
    }
    assert!(files.len() > 20, "src was found");
    files.sort_by(|a, b| a.name.cmp(&b.name));
    files
}

fn assert_holds(rule: impl Fn(&Source) -> Vec<String>) {
    let broken: Vec<String> = files().iter().flat_map(rule).collect();
    assert!(broken.is_empty(), "\n{}", broken.join("\n"));
}

fn impurities(file: &Source) -> Vec<String> {
    if !PURE.contains(&file.module()) {
        return Vec::new();
    }
    let word = |word: &&str| file.words().any(|other| other == *word);
    let clock = |word: &&str| file.name == CLOCK && ["Instant", "SystemTime"].contains(word);
    let words = IMPURE_WORDS.into_iter().filter(|w| word(w) && !clock(w));
    let paths = IMPURE_PATHS.into_iter().filter(|path| file.names(path));
    words.chain(paths).map(|what| format!("{}: a pure module names {what}", file.name)).collect()
}

fn wrong_arrows(file: &Source) -> Vec<String> {
    let Some((_, forbidden)) = ARROWS.iter().find(|(module, _)| *module == file.module()) else { return Vec::new() };
    let known = forbidden.iter().chain(&SHELL).filter(|module| file.names(&format!("crate::{module}")));
    known.map(|module| format!("{}: knows `{module}`, which stands right of it", file.name)).collect()
}

fn faults_of_style(file: &Source) -> Vec<String> {
    let head = file.text.lines().take_while(|line| line.starts_with("//!")).count();
    let lines = file.text.lines().count();
    let faults = [
        (head < 2, "does not begin by saying what it owns"),
        (lines > LINES_MAX, "is too long to read in one sitting"),
        (file.has(&[".", "unwrap", "(", ")"]), "unwraps"),
        (file.has(&["todo", "!"]), "is not done"),
        (file.text.contains("TODO") || file.text.contains("FIXME"), "leaves something to do"),
        (!UNSAFE.contains(&&*file.name) && file.words().any(|word| word == "unsafe"), "is unsafe"),
    ];
    faults.into_iter().filter(|(broken, _)| *broken).map(|(_, what)| format!("{} {what}", file.name)).collect()
}

#[test]
fn the_pure_modules_name_no_runtime_no_socket_and_no_clock() {
    assert_holds(impurities);
}

#[test]
fn the_arrows_keep_their_direction() {
    assert_holds(wrong_arrows);
}

#[test]
fn every_file_keeps_the_style() {
    assert_holds(faults_of_style);
}

#[test]
fn every_module_is_in_one_layer() {
    let layered = |module: &str| ARROWS.iter().any(|(name, _)| *name == module) || SHELL.contains(&module);
    let free: Vec<_> = files().iter().map(|file| file.module().to_owned()).filter(|module| !layered(module)).collect();
    assert!(free.iter().all(|module| ["config", "lib"].contains(&module.as_str())), "in no layer: {free:?}");
    assert!(PURE.iter().all(|module| layered(module)), "a pure module has a place");
}

#[test]
fn a_planted_violation_is_found() {
    let head = "//! Owns\n//! this.\n";
    let file = |name: &str, code: &str| Source::new(name, &format!("{head}{code}"));
    for (name, code) in [
        ("hub/mod.rs", "use monoio::net::TcpStream;"),
        ("shard/mod.rs", "use std::{fmt, net::{TcpStream, UdpSocket}};"),
        ("shard/mod.rs", "fn f() { let now = std::time::Instant::now(); }"),
        ("session.rs", "pub async fn f() {}"),
        ("wheel.rs", "use std::time::{Duration, SystemTime as Clock};"),
    ] {
        assert_eq!(impurities(&file(name, code)).len(), 1, "{name}: {code}");
    }
    for (name, code) in [
        ("proto/frame.rs", "use crate::hub::LOBBY;"),
        ("proto/frame.rs", "fn f() { crate::session::f() }"),
        ("proto/frame.rs", "use super::super::shard::Shard;"),
        ("hub/users.rs", "use crate::{ids::ConnId, shard::{self, Shard}};"),
        ("outbox.rs", "use super::{ids, reactor};"),
        ("shard/flush.rs", "type S = crate :: conn :: Sockets;"),
    ] {
        assert_eq!(wrong_arrows(&file(name, code)).len(), 1, "{name}: {code}");
    }
    for code in ["fn f() { g().unwrap() }", "fn f() { todo!() }", "// FIXME: later", "fn f() { unsafe { g() } }"] {
        assert_eq!(faults_of_style(&file("hub/mod.rs", code)).len(), 1, "{code}");
    }
    assert_eq!(faults_of_style(&Source::new("x.rs", "fn f() {}")).len(), 1);
    assert_eq!(faults_of_style(&file("x.rs", &"\n".repeat(LINES_MAX))).len(), 1);
}

#[test]
fn what_is_no_code_violates_nothing() {
    let code = r##"//! monoio and tokio are
//! not named.
/* async /* nested */ crate::shard */
const A: &str = "crate::conn .unwrap() \" unsafe";
const B: &str = r#"Instant "quoted" monoio"#;
const C: [char; 3] = ['"', '\'', 'u'];
fn f<'async_>(x: &'async_ str) -> Option<u8> { x.bytes().next() }
#[cfg(test)]
mod tests {
    use crate::shard::Shard;
    fn g() { Some(1).unwrap(); let _ = "}"; }
}
fn h() {}
"##;
    let file = Source::new("hub/mod.rs", code);
    assert!(impurities(&file).is_empty() && wrong_arrows(&file).is_empty() && faults_of_style(&file).is_empty());
    assert!(file.has(&["fn", "h"]), "what follows the tests is still looked at");
    assert!(Source::new("hub/tests.rs", "use crate::shard::Shard;").words().next().is_none());
}
