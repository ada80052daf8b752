//! The architecture as a test: each module uses only the layers below it, no folder has a circle, the pure modules
//! stay pure, and every file keeps a few rules of style. The test reads `src/` as text; `source` takes the text apart.
//! If a rule is in the way, change it here, in the open. Do not work around it.

#[path = "architecture/source.rs"]
mod source;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use source::Source;

/// Bytes, parcels and the time go in, bytes and parcels come out: no runtime, no socket, no clock.
const PURE: [&str; 15] = [
    "ids", "planted", "time", "model", "wire", "dialect", "limits", "metrics", "auth", "fanout", "hub", "session",
    "site", "api", "shard",
];
/// What a pure module can't name: words of code, and paths with everything below them.
const IMPURE_WORDS: [&str; 7] = ["monoio", "tokio", "async", "await", "Instant", "SystemTime", "rustix"];
const IMPURE_PATHS: [&str; 3] = ["std::net", "std::os", "std::thread"];
/// The one file that may read the machine's clocks; the shell calls it, and the rest takes `Now`.
const CLOCK: &str = "time/clock.rs";

/// The layers, lowest first. A module may use what stands before it in this list, and nothing that stands after it.
const LAYERS: [&str; 25] = [
    "ids", "log", "planted", "time", "model", "wire", "dialect", "limits", "metrics", "mesh", "config", "auth", "tls",
    "fanout", "hub", "session", "site", "api", "shard", "io", "control", "boot", "doctor", "cli", "main",
];
/// Modules that must not know each other although the layers would allow it.
const STRANGERS: [(&str, &str); 5] =
    [("session", "dialect"), ("hub", "dialect"), ("fanout", "hub"), ("hub", "fanout"), ("control", "shard")];
/// Uses that break one of the two rules above: the file, what it uses, and why that is right.
const EXCEPTIONS: [(&str, &str, &str); 0] = [];
/// Readable in one sitting.
const LINES_MAX: usize = 700;
/// A doc comment with at most this many words says nothing that the name does not say.
const SHORT_COMMENT_WORDS: usize = 3;
/// The most short comments, in thousandths of all doc comments.
const SHORT_COMMENTS_MAX: usize = 20;
/// Where `unsafe` may be, and why is said there.
const UNSAFE: [&str; 3] = ["io/sockets.rs", "io/driver.rs", "main.rs"];

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

fn rank(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| *layer == module)
}

fn is_exception(file: &Source, module: &str) -> bool {
    EXCEPTIONS.iter().any(|(name, used, _)| *name == file.name && *used == module)
}

fn wrong_arrows(file: &Source) -> Vec<String> {
    let Some(own) = rank(file.module()) else { return Vec::new() };
    let used = LAYERS.iter().enumerate().filter(|(_, module)| file.names(&format!("crate::{module}")));
    let is_wrong = |layer: usize, module: &str| layer > own || STRANGERS.contains(&(file.module(), module));
    let wrong = used.filter(|(layer, module)| is_wrong(*layer, module) && !is_exception(file, module));
    wrong.map(|(_, module)| format!("{}: uses `{module}`, which its layer must not know", file.name)).collect()
}

/// The circles among the files and folders that lie directly in one folder. `mod.rs` is the folder itself and counts
/// for none of them.
fn circles(files: &[Source], folder: &str) -> Vec<String> {
    let child = |file: &Source| {
        let below = file.name.strip_prefix(folder)?.strip_prefix('/')?;
        Some(below.split(['/', '.']).next().unwrap_or_default().to_owned()).filter(|name| name != "mod")
    };
    let children: BTreeSet<String> = files.iter().filter_map(child).collect();
    let path = folder.replace('/', "::");
    let mut arrows: BTreeSet<(String, String)> = BTreeSet::new();
    for file in files {
        let Some(from) = child(file) else { continue };
        let used = children.iter().filter(|to| **to != from && file.names(&format!("crate::{path}::{to}")));
        arrows.extend(used.map(|to| (from.clone(), to.clone())));
    }
    // A child without users, or one that uses no other, is on no circle. Remove such arrows until nothing changes.
    loop {
        let before = arrows.len();
        let (froms, tos): (BTreeSet<_>, BTreeSet<_>) = arrows.iter().cloned().unzip();
        arrows.retain(|(from, to)| froms.contains(to) && tos.contains(from));
        if arrows.len() == before {
            break;
        }
    }
    arrows.into_iter().map(|(from, to)| format!("{folder}: {from} uses {to}, on a circle")).collect()
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

/// Names that several types have, with the files that define them.
fn doubled_types(files: &[Source]) -> Vec<String> {
    let mut places: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for file in files {
        for name in file.types() {
            places.entry(name).or_default().push(&file.name);
        }
    }
    places.retain(|_, files| files.len() > 1);
    places.iter().map(|(name, files)| format!("{name} is defined in {}", files.join(" and "))).collect()
}

/// The short comments, each with its file, and the number of all comments.
fn short_comments(files: &[Source]) -> (Vec<String>, usize) {
    let comments: Vec<_> =
        files.iter().flat_map(|file| file.doc_comments().into_iter().map(|c| (&file.name, c))).collect();
    let is_short = |comment: &str| comment.split_whitespace().count() <= SHORT_COMMENT_WORDS;
    let short = comments.iter().filter(|(_, comment)| is_short(comment));
    (short.map(|(file, comment)| format!("{file}: {}", comment.trim())).collect(), comments.len())
}

#[test]
fn one_name_means_one_type() {
    let doubled = doubled_types(&files());
    assert!(doubled.is_empty(), "\n{}", doubled.join("\n"));
}

#[test]
fn comments_are_sentences() {
    let (short, all) = short_comments(&files());
    assert!(
        short.len() * 1_000 <= all * SHORT_COMMENTS_MAX,
        "{} of {all} are short:\n{}",
        short.len(),
        short.join("\n")
    );
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
fn no_folder_has_a_circle() {
    let files = files();
    let folders: BTreeSet<&str> = files.iter().filter_map(|file| Some(file.name.rsplit_once('/')?.0)).collect();
    let found: Vec<String> = folders.into_iter().flat_map(|folder| circles(&files, folder)).collect();
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

#[test]
fn every_module_is_in_one_layer() {
    let files = files();
    let modules: BTreeSet<&str> = files.iter().map(Source::module).filter(|module| *module != "lib").collect();
    let layers: BTreeSet<&str> = LAYERS.into();
    assert_eq!(modules, layers);
    assert!(PURE.iter().all(|module| layers.contains(module)), "a pure module has a layer");
    for (file, used, _) in EXCEPTIONS {
        let named = |source: &Source| source.name == file && source.names(&format!("crate::{used}"));
        assert!(files.iter().any(named), "{file} does not use {used} any more: remove the exception");
    }
}

#[test]
fn a_planted_violation_is_found() {
    let head = "//! Owns\n//! this.\n";
    let file = |name: &str, code: &str| Source::new(name, &format!("{head}{code}"));
    for (name, code) in [
        ("hub/mod.rs", "use monoio::net::TcpStream;"),
        ("shard/mod.rs", "use std::{fmt, net::{TcpStream, UdpSocket}};"),
        ("shard/mod.rs", "fn f() { let now = std::time::Instant::now(); }"),
        ("session/mod.rs", "pub async fn f() {}"),
        ("time/wheel.rs", "use std::time::{Duration, SystemTime as Clock};"),
    ] {
        assert_eq!(impurities(&file(name, code)).len(), 1, "{name}: {code}");
    }
    for (name, code) in [
        ("wire/frame.rs", "use crate::hub::LOBBY;"),
        ("wire/frame.rs", "fn f() { crate::session::f() }"),
        ("wire/frame.rs", "use super::super::shard::Shard;"),
        ("hub/users.rs", "use crate::{ids::ConnId, shard::{self, Shard}};"),
        ("mesh.rs", "use super::{ids, io};"),
        ("shard/flush.rs", "type S = crate :: io :: conn :: Sockets;"),
        ("control/api.rs", "use crate::shard::Shard;"),
    ] {
        assert_eq!(wrong_arrows(&file(name, code)).len(), 1, "{name}: {code}");
    }
    let circle = [
        file("a/b.rs", "use super::c::d;"),
        file("a/c/mod.rs", "use crate::a::b::e;"),
        file("a/f.rs", "use super::b;"),
    ];
    assert_eq!(circles(&circle, "a").len(), 2);
    assert!(circles(&circle[1..], "a").is_empty());
    let types = [
        file("a.rs", "pub struct Entry(u8);\nmacro! { enum Twice { A } }"),
        file("b.rs", "mod inner { trait Entry {} }\nimpl X { type Twice = u8; }"),
        file("c.rs", "fn f() { struct Entry; }\n#[cfg(test)]\nmod tests { struct Entry; }"),
    ];
    assert_eq!(doubled_types(&types), ["Entry is defined in a.rs and b.rs"]);
    let code = "/// Its name.\nfn a() {}\n/// The name of the\n/// channel.\n///\n/// # Errors\n/// Never.\nfn b() {}";
    assert_eq!(short_comments(&[Source::new("a.rs", code)]), (vec!["a.rs: Its name.".to_owned()], 2));
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
