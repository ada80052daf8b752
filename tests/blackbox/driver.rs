//! io_uring, and epoll in its place: which of them is taken when the kernel or a seccomp filter refuses a part of
//! io_uring, what is said of it, and that the server serves and ends all the same.

use std::time::Duration;

use crate::metrics::{self, Metrics};
use crate::support::{Client, DEADLINE, Options, SECRET, Server, assert_no_panic, until};

/// The three system calls of io_uring; their numbers are the same on all architectures.
const CALLS: [(&str, i64); 3] = [("io_uring_setup", 425), ("io_uring_enter", 426), ("io_uring_register", 427)];

/// A client signs in, speaks and is heard; the server says with what it waits, and ends in order at SIGTERM.
async fn serves_with(mut server: Server, driver: &str) {
    let metrics = Metrics::of(&server).await;
    let expected = format!("uringcast_driver{{driver=\"{driver}\"}}");
    metrics.reach(&expected, |value| value == 1).await;
    let mut ann = Client::join(&server, 1, "Ann").await.0;
    let mut bob = Client::join(&server, 2, "Bob").await.0;
    bob.say("hello").await;
    ann.find("message").await;
    server.signal("TERM");
    assert!(server.ended(DEADLINE).success(), "{}", server.log());
}

#[tokio::test]
async fn whichever_call_is_refused_epoll_is_taken_and_the_log_says_why() {
    for (name, number) in CALLS {
        let options = metrics::options().shards(2).env("URINGCAST_DRIVER", "auto");
        let server = options.refused(&[number]).start();
        let log = server.log();
        let warnings = log.lines().filter(|line| line.contains("WARN") && line.contains("epoll")).count();
        assert_eq!(warnings, 1, "{log}");
        for words in [name, "was refused", "seccomp", "driver = \"epoll\""] {
            assert!(log.contains(words), "no {words:?} in:\n{log}");
        }
        serves_with(server, "epoll").await;
    }
}

#[test]
fn a_server_that_is_to_have_io_uring_does_not_start_without_it() {
    for (name, number) in CALLS {
        let server = Options::new().env("URINGCAST_DRIVER", "io_uring").refused(&[number]);
        server.run().refused(&[name, "seccomp", "driver = \"auto\""]);
    }
    Options::new().env("URINGCAST_DRIVER", "iouring").run().refused(&["URINGCAST_DRIVER", "\"io_uring\" or \"epoll\""]);
}

#[tokio::test]
async fn epoll_is_taken_without_a_warning_where_it_is_asked_for() {
    let calls = CALLS.map(|(_, number)| number);
    let server = metrics::options().shards(2).env("URINGCAST_DRIVER", "epoll").refused(&calls).start();
    assert!(!server.log().contains("WARN"), "{}", server.log());
    serves_with(server, "epoll").await;
}

#[tokio::test]
async fn io_uring_is_taken_where_it_can_be_had() {
    let server = metrics::options().shards(2).env("URINGCAST_DRIVER", "auto").start();
    assert!(!server.log().contains("WARN"), "{}", server.log());
    serves_with(server, "io_uring").await;
}

#[test]
fn doctor_says_which_would_be_taken() {
    for (driver, words) in [("auto", "costs  io_uring: refused"), ("io_uring", "STOPS  io_uring: refused")] {
        let doctor = Options::bare(&["doctor", "--connections", "10"]).env("URINGCAST_AUTH__HS256_SECRET", SECRET);
        let finished = doctor.env("URINGCAST_DRIVER", driver).refused(&[CALLS[1].1]).run();
        assert_no_panic(&finished.stderr);
        for words in [words, "io_uring_enter was refused", "seccomp"] {
            assert!(finished.stdout.contains(words), "no {words:?} in:\n{}", finished.stdout);
        }
        assert_eq!(finished.stdout.contains("waits with epoll"), driver == "auto", "{}", finished.stdout);
    }
}

/// User and kernel time of a process so far.
fn cpu_time(server: &Server) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", server.pid())).unwrap();
    // Fields 14 and 15, counted behind the name, in ticks of 10 ms.
    let fields = stat.rsplit_once(") ").unwrap().1.split(' ').skip(11).take(2);
    Duration::from_millis(fields.map(|ticks| ticks.parse::<u64>().unwrap() * 10).sum())
}

#[tokio::test]
async fn an_idle_server_does_not_spin() {
    for driver in ["io_uring", "epoll"] {
        let server = Options::new().shards(2).env("URINGCAST_DRIVER", driver).start();
        let mut clients = Vec::new();
        for user in 0..20 {
            clients.push(Client::join(&server, user, "Ann").await.0);
        }
        // A loop that turns without a pause takes all of a core: what is measured is the process's own time.
        until("a second in which the server is idle", async || {
            let before = cpu_time(&server);
            tokio::time::sleep(Duration::from_secs(1)).await;
            (cpu_time(&server) - before < Duration::from_millis(200)).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn a_server_that_polls_is_busy_between_messages_and_sleeps_after_them() {
    for driver in ["io_uring", "epoll"] {
        let options = Options::new().shards(1).env("URINGCAST_DRIVER", driver);
        let server = options.env("URINGCAST_BUSY_POLL_US", 10_000).start();
        let (mut ann, _) = Client::join(&server, 1, "Ann").await;
        let (mut bob, _) = Client::join(&server, 2, "Bob").await;
        // Between two messages there are fewer than 10 ms.
        until("messages between which the server polls", async || {
            let before = cpu_time(&server);
            for _ in 0..100 {
                ann.say("hello").await;
                bob.find("message").await;
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            (cpu_time(&server) - before > Duration::from_millis(250)).then_some(())
        })
        .await;
        until("a second in which the server is idle", async || {
            let before = cpu_time(&server);
            tokio::time::sleep(Duration::from_secs(1)).await;
            (cpu_time(&server) - before < Duration::from_millis(300)).then_some(())
        })
        .await;
    }
}
