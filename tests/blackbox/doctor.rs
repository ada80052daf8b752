//! `uringcast doctor`, the real binary: on this machine, and on saved copies of others.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::support::tls::Files;
use crate::support::{Finished, Options, SECRET, assert_no_panic};

const KEY: &str = "URINGCAST_AUTH__HS256_SECRET";

/// The copy of a machine that is in order, for 10,000 connections.
fn machine() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for (path, text) in [
        ("proc/self/limits", "Max open files            1024                 1048576              files"),
        ("proc/self/status", "Seccomp:\t0\nCpus_allowed_list:\t0-3"),
        ("proc/self/cgroup", "0::/"),
        ("proc/meminfo", "MemTotal:       16384000 kB\nSwapTotal:             0 kB"),
        ("proc/sys/kernel/osrelease", "6.12.1"),
        ("proc/sys/kernel/io_uring_disabled", "0"),
        ("proc/sys/fs/nr_open", "1048576"),
        ("proc/sys/fs/epoll/max_user_watches", "3000000"),
        ("proc/sys/fs/file-max", "9223372036854775807"),
        ("proc/sys/net/core/somaxconn", "4096"),
        ("sys/devices/system/cpu/online", "0-3"),
    ] {
        write(root.path(), path, text);
    }
    root
}

fn write(root: &Path, path: &str, text: &str) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, format!("{text}\n")).unwrap();
}

fn doctor(root: &Path, more: &[&str]) -> Finished {
    let args = [&["doctor", "--root", root.to_str().unwrap()], more].concat();
    Options::bare(&args).env(KEY, SECRET).run()
}

/// The findings of `--json`, and whether something stops.
fn findings(root: &Path, more: &[&str]) -> (bool, Vec<Value>) {
    let finished = doctor(root, &[&["--json"], more].concat());
    assert_no_panic(&finished.stderr);
    let report: Value = serde_json::from_str(&finished.stdout).unwrap();
    let stops = report["stops"].as_bool().unwrap();
    assert_eq!(finished.status.code(), Some(i32::from(stops)), "{report}");
    (stops, report["findings"].as_array().unwrap().clone())
}

fn severity(findings: &[Value], check: &str) -> String {
    let finding = findings.iter().find(|finding| finding["check"] == check);
    finding.unwrap_or_else(|| panic!("no {check}: {findings:?}"))["severity"].as_str().unwrap().to_owned()
}

#[test]
fn a_certificate_that_clients_refuse_or_soon_will_is_found() {
    const DAY_S: i64 = 86_400;
    let (root, files) = (machine(), Files::new());
    for (from_s, until_s, expected) in [
        (-DAY_S, 90 * DAY_S, "fine"),
        (-DAY_S, 3 * DAY_S, "note"),
        (-2 * DAY_S, -DAY_S, "stops"),
        (DAY_S, 90 * DAY_S, "stops"),
    ] {
        files.renew_for(from_s, until_s);
        let args = ["doctor", "--json", "--root", root.path().to_str().unwrap()];
        let finished = files.beside(Options::bare(&args).env(KEY, SECRET)).run();
        let report: Value = serde_json::from_str(&finished.stdout).unwrap();
        let found = severity(report["findings"].as_array().unwrap(), "configuration");
        assert_eq!(found, expected, "{}", finished.all());
    }
}

#[test]
fn this_machine_is_looked_at() {
    let finished = Options::bare(&["doctor", "--connections", "10"]).env(KEY, SECRET).run();
    assert_no_panic(&finished.stderr);
    assert!(finished.status.code().is_some_and(|code| code < 2), "{}", finished.stderr);
    // The tests' servers run here, so a ring can be had.
    assert!(finished.stdout.starts_with("For 10 connections on"), "{}", finished.stdout);
    assert!(finished.stdout.contains("in order: io_uring (a ring was set up"), "{}", finished.stdout);
}

#[test]
fn another_process_is_looked_at() {
    // Its own limit is lower than that of whoever asks.
    let server = Options::new().shards(1).wrapped(&["prlimit", "--nofile=500:500"]).start();
    let pid = server.pid().to_string();
    let finished = Options::bare(&["doctor", "--connections", "1000", "--pid", &pid]).env(KEY, SECRET).run();
    assert_eq!(finished.status.code(), Some(1), "{}", finished.stdout);
    assert!(finished.stdout.contains("STOPS  open files: soft 500, hard 500"), "{}", finished.stdout);
}

#[test]
fn a_sound_machine_ends_with_0_and_a_short_one_with_1() {
    let root = machine();
    let (stops, found) = findings(root.path(), &["--connections", "10000"]);
    assert!(!stops, "{found:?}");
    for check in ["configuration", "open files", "kernel", "memory", "shards and CPUs"] {
        assert_eq!(severity(&found, check), "fine", "{check}");
    }
    assert_eq!(severity(&found, "io_uring"), "not_known", "a copy has no ring");
    assert_eq!(severity(&found, "net.ipv4.tcp_mem"), "not_known");

    write(root.path(), "proc/self/limits", "Max open files            1024                 4096              files");
    write(root.path(), "proc/sys/net/core/somaxconn", "128");
    let (stops, found) = findings(root.path(), &["--connections", "10000"]);
    assert!(stops);
    assert_eq!(severity(&found, "open files"), "stops");
    assert_eq!(severity(&found, "net.core.somaxconn"), "costs");
    let text = doctor(root.path(), &["--connections", "10000"]);
    assert_eq!(text.status.code(), Some(1));
    for words in ["STOPS  open files", "room for 4,032 of 10,000", "tuning/uringcast.limits.conf", "stops: 1, costs: 1"]
    {
        assert!(text.stdout.contains(words), "no {words:?} in:\n{}", text.stdout);
    }
    // Fewer connections are content with it.
    assert!(!findings(root.path(), &["--connections", "4000"]).0);
}

#[test]
fn what_can_not_be_read_is_not_known() {
    let root = machine();
    for path in ["proc/meminfo", "proc/self/status", "proc/sys/fs/nr_open", "proc/sys/net/core/somaxconn"] {
        fs::remove_file(root.path().join(path)).unwrap();
    }
    // Neither a folder nor bytes that are no text are a number.
    fs::create_dir(root.path().join("proc/meminfo")).unwrap();
    fs::write(root.path().join("proc/sys/fs/nr_open"), b"\xff\xfe").unwrap();
    let (stops, found) = findings(root.path(), &["--connections", "10000"]);
    assert!(!stops, "{found:?}");
    for check in ["memory", "fs.nr_open", "net.core.somaxconn", "shards and CPUs"] {
        assert_eq!(severity(&found, check), "not_known", "{check}");
    }
}

#[test]
fn the_configuration_is_looked_at() {
    let root = machine();
    let file = root.path().join("uringcast.toml");
    let path = file.to_str().unwrap().to_owned();
    fs::write(&file, "shards = 2\n[limits]\nconnections = 5000\n").unwrap();
    let finished = doctor(root.path(), &["--config", &path]);
    assert_eq!(finished.status.code(), Some(0), "{}", finished.stdout);
    assert!(finished.stdout.starts_with("For 5,000 connections on 2 shards:"), "{}", finished.stdout);

    fs::write(&file, "shards = \"many\"\n").unwrap();
    let finished = doctor(root.path(), &["--config", &path]);
    assert_eq!(finished.status.code(), Some(1));
    assert!(
        finished.stdout.contains("STOPS  configuration") && finished.stdout.contains("shards"),
        "{}",
        finished.stdout
    );
    assert!(
        finished.stdout.contains("in order: open files"),
        "the rest is looked at all the same: {}",
        finished.stdout
    );

    let none = Options::bare(&["doctor", "--root", root.path().to_str().unwrap(), "--config", "/no/such/file"]).run();
    assert_eq!(none.status.code(), Some(1));
}

#[test]
fn what_could_not_be_looked_at_ends_with_2() {
    let empty = tempfile::tempdir().unwrap();
    for args in [&["--root", empty.path().to_str().unwrap()][..], &["--pid", "4194305"], &["--connections", "none"]] {
        let finished = Options::bare(&[&["doctor"], args].concat()).run();
        assert_eq!(finished.status.code(), Some(2), "{args:?}: {}", finished.stdout);
        assert!(finished.stdout.is_empty() && !finished.stderr.is_empty(), "{args:?}");
        assert_no_panic(&finished.stderr);
    }
}
