//! The same user signing in on every shard at once: whatever wins, the rule of `auth.duplicate_login` holds when
//! the dust has settled.

use serde_json::json;

use crate::support::{Client, Event, Options, Server, token};

/// How one of the sign-ins ended.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// Still connected, and signed in.
    Holds(usize),
    Closed(u16),
}

/// `count` connections of one user sign in at the same moment; gives how each ended. `settled` says how many have
/// to be closed before nothing more will happen.
async fn race(server: &Server, count: usize, settled: usize) -> Vec<End> {
    let mut clients = Vec::new();
    for _ in 0..count {
        clients.push(Client::open(server).await);
    }
    let auth = json!({"type": "auth", "data": {"token": token("ann", "Ann")}});
    let mut running = tokio::task::JoinSet::new();
    let (closed, mut closes) = tokio::sync::mpsc::unbounded_channel();
    let (signed, mut sign_ins) = tokio::sync::mpsc::unbounded_channel();
    let (stop, _) = tokio::sync::broadcast::channel::<()>(1);
    for (number, mut client) in clients.into_iter().enumerate() {
        let (auth, closed, signed, mut stop) = (auth.clone(), closed.clone(), signed.clone(), stop.subscribe());
        running.spawn(async move {
            client.send(&auth).await;
            let mut signed_in = false;
            loop {
                // The last one hears nothing more: it is told when the others have gone.
                tokio::select! {
                    event = client.event() => match event {
                        Event::Text(text) if text.starts_with(r#"{"type":"auth_success""#) => {
                            signed_in = true;
                            signed.send(()).expect("the race listens");
                        }
                        Event::Text(_) => {}
                        Event::Close(code, _) => {
                            closed.send(()).expect("the race listens");
                            return End::Closed(code);
                        }
                        other => panic!("{other:?}"),
                    },
                    _ = stop.recv() => {
                        // The owner has counted it; the answer may be on its way.
                        while !signed_in {
                            let Event::Text(text) = client.event().await else { panic!("open, and not signed in") };
                            signed_in = text.starts_with(r#"{"type":"auth_success""#);
                        }
                        return End::Holds(number);
                    }
                }
            }
        });
    }
    let limit = std::time::Duration::from_secs(20);
    for _ in 0..settled {
        tokio::time::timeout(limit, closes.recv()).await.expect("closes in time");
    }
    for _ in settled..count {
        tokio::time::timeout(limit, sign_ins.recv()).await.expect("sign-ins in time");
    }
    let (mut other, success) = Client::join(server, "other", "Other").await;
    assert_eq!(success["data"]["online_count"], 2, "ann once, and the one who asks");
    other.send(&json!({"type": "users", "id": "u"})).await;
    let users = other.find("users").await;
    let ann = users["data"]["members"].as_array().expect("members").iter().find(|m| m["user"]["id"] == "ann");
    assert_eq!(ann.expect("ann is online")["connections"], count - settled);
    stop.send(()).expect("somebody is left");
    running.join_all().await
}

#[tokio::test]
async fn of_many_at_once_kick_old_leaves_exactly_one() {
    let server = Options::new().shards(16).env("URINGCAST_AUTH__DUPLICATE_LOGIN", "kick_old").start();
    let ends = race(&server, 32, 31).await;
    let holders = ends.iter().filter(|end| matches!(end, End::Holds(_))).count();
    let kicked = ends.iter().filter(|end| **end == End::Closed(4409)).count();
    let refused = ends.iter().filter(|end| **end == End::Closed(4429)).count();
    // Five are let through within ten seconds at most, in the order in which they were accepted.
    assert_eq!((holders, kicked + refused), (1, 31), "{ends:?}");
}

#[tokio::test]
async fn of_many_at_once_reject_new_lets_in_exactly_one() {
    let server = Options::new().shards(16).env("URINGCAST_AUTH__DUPLICATE_LOGIN", "reject_new").start();
    let ends = race(&server, 32, 31).await;
    assert_eq!(ends.iter().filter(|end| **end == End::Closed(4409)).count(), 31, "{ends:?}");
}

#[tokio::test]
async fn of_many_at_once_allow_lets_all_in_as_one_user() {
    let server = Options::new().shards(16).env("URINGCAST_AUTH__DUPLICATE_LOGIN", "allow").start();
    let ends = race(&server, 32, 0).await;
    assert!(ends.iter().all(|end| matches!(end, End::Holds(_))), "{ends:?}");
}
