//! Event streams that are cut at random while much is published come back with the last id that they saw, as a browser
//! does, and an oracle holds each of them to the contract: every publication is there exactly once and in order, or a gap
//! names it. Some have one channel, some several; some of the channels drop what a slow client does not take.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::json;

use crate::channel_support::offset;
use crate::support::{Client, EventStream, Options, Random, Server, StreamEvent, StreamQuery, seed, token};

/// What one channel's events have said to one client.
#[derive(Debug, Default)]
struct Seen {
    epoch: String,
    /// All up to this offset came or was told lost.
    position: u64,
    publications: u64,
    told_lost: u64,
}

/// The oracle of one client: it reads data, never ids, so that what the ids promise is held against what came.
#[derive(Debug, Default)]
struct ClientOracle {
    channels: HashMap<String, Seen>,
}

impl ClientOracle {
    fn take(&mut self, event: &StreamEvent) {
        let data = &event.data["data"];
        let channel = data["channel"].as_str().unwrap_or_default().to_owned();
        match &*event.name {
            "message" => {
                let seen = self.channels.get_mut(&channel).expect("subscribed before");
                assert_eq!(offset(&event.data), seen.position + 1, "a hole or a double: {event:?}");
                assert_eq!(data["data"]["n"], data["offset"], "another publication's content");
                seen.position += 1;
                seen.publications += 1;
            }
            "gap" => {
                let seen = self.channels.get_mut(&channel).expect("subscribed before");
                let number = |name: &str| data[name].as_u64().expect("a number");
                assert_eq!(number("from"), seen.position + 1, "{event:?} after {}", seen.position);
                assert!(number("to") >= number("from"));
                seen.told_lost += number("to") - seen.position;
                seen.position = number("to");
            }
            "subscribed" => {
                let epoch = data["epoch"].as_str().expect("an epoch");
                let stands = offset(&event.data);
                match self.channels.get(&channel) {
                    None => {
                        let seen = Seen { epoch: epoch.to_owned(), position: stands, ..Seen::default() };
                        self.channels.insert(channel, seen);
                    }
                    Some(seen) => {
                        assert_eq!(seen.epoch, epoch, "the server was not restarted");
                        assert!(data["recovered"].is_boolean(), "it came back with a position: {event:?}");
                        assert!(stands >= seen.position, "{event:?}");
                    }
                }
            }
            "close" => assert_eq!(event.data["reconnect"], true, "{event:?}"),
            "auth_success" | "draining" => {}
            _ => panic!("unexpected: {event:?}"),
        }
    }

    fn has_all(&self, channels: &[&str]) -> bool {
        channels.iter().all(|channel| self.channels.get(*channel).is_some_and(|seen| seen.position == PER_CHANNEL))
    }
}

const CLIENTS: usize = 200;
const PER_CHANNEL: u64 = 400;

/// What is published where: `drop:` drops what a slow client does not take.
const CHANNELS: [&str; 4] = ["a", "b", "c", "drop:d"];

fn channels_of(number: usize) -> &'static [&'static str] {
    const CHOICES: [&[&str]; 5] = [&["a"], &["a", "b"], &["drop:d"], &["c", "drop:d", "a"], &["b", "a", "c", "drop:d"]];
    CHOICES[number % CHOICES.len()]
}

/// Follows a stream, cuts it at random, comes back, and goes on until everything that was published has come.
async fn follow(server: Arc<Server>, number: usize, over: Arc<Progress>) -> ClientOracle {
    let mut random = Random(seed_of(number));
    let channels = channels_of(number);
    let query = StreamQuery::new(channels, &token(format!("user{number}"), "U"));
    let mut oracle = ClientOracle::default();
    let mut id = String::new();
    let mut is_first = true;
    loop {
        let mut stream = EventStream::open(&server, &query.clone().from(&id)).await;
        // A few events, sometimes none, and sometimes so many that it is not cut before all is there.
        let most = [0, 3, 20, 90, u64::MAX][random.below(5) as usize];
        let mut left = if most == u64::MAX { most } else { random.below(most + 1) };
        if std::mem::take(&mut is_first) {
            // All are there before the first publication, so that nothing is missed by being late.
            while oracle.channels.len() < channels.len() {
                oracle.take(&stream.event().await.expect("the stream has begun"));
            }
            over.ready.fetch_add(1, Ordering::SeqCst);
        }
        while left > 0 {
            if oracle.has_all(channels) {
                return oracle;
            }
            let Some(event) = stream.event().await else { break };
            oracle.take(&event);
            left -= 1;
        }
        id.clone_from(&stream.last_event_id);
        over.cuts.fetch_add(1, Ordering::SeqCst);
        // Dropped in the middle of whatever is on its way: what has not become a whole event never came.
        drop(stream);
    }
}

fn seed_of(number: usize) -> u64 {
    Random(seed() ^ (number as u64) << 32).next()
}

#[derive(Default)]
struct Progress {
    ready: AtomicUsize,
    cuts: AtomicUsize,
}

async fn publish(server: &Server, progress: &Progress) {
    let (mut backend, _) = Client::join(server, "publisher", "P").await;
    for channel in CHANNELS {
        backend.subscribe(channel).await;
    }
    crate::support::until("all streams have begun", async || {
        (progress.ready.load(Ordering::SeqCst) == CLIENTS).then_some(())
    })
    .await;
    for n in 1..=PER_CHANNEL {
        for channel in CHANNELS {
            let data = json!({"channel": channel, "data": {"n": n, "fill": "x".repeat((n % 700) as usize)}});
            let ack = backend.ask("publish", data).await;
            assert_eq!((ack["type"].as_str(), offset(&ack)), (Some("ack"), n), "{ack}");
        }
    }
    backend.leave().await;
}

#[tokio::test]
async fn streams_cut_at_random_lose_and_double_nothing() {
    let server = Options::new()
        .shards(2)
        .env("URINGCAST_CHANNELS__PUBLISH", "members")
        .env("URINGCAST_CHANNELS__HISTORY_SIZE", 300)
        .env("URINGCAST_NAMESPACES__DROP__PUBLISH", "members")
        .env("URINGCAST_NAMESPACES__DROP__HISTORY_SIZE", 40)
        .env("URINGCAST_NAMESPACES__DROP__OVERFLOW", "drop_oldest")
        .start();
    let (server, progress) = (Arc::new(server), Arc::new(Progress::default()));
    let clients: Vec<_> =
        (0..CLIENTS).map(|number| tokio::spawn(follow(Arc::clone(&server), number, Arc::clone(&progress)))).collect();
    publish(&server, &progress).await;
    let (mut publications, mut told_lost) = (0, 0);
    for client in clients {
        for (channel, seen) in client.await.expect("the oracle is content").channels {
            assert_eq!(seen.position, PER_CHANNEL, "{channel}");
            assert_eq!(seen.publications + seen.told_lost, PER_CHANNEL, "{channel}: {seen:?}");
            publications += seen.publications;
            told_lost += seen.told_lost;
        }
    }
    let cuts = progress.cuts.load(Ordering::SeqCst);
    eprintln!("{cuts} cuts, {publications} publications, {told_lost} told lost");
    assert!(cuts > 2 * CLIENTS, "only {cuts} cuts");
    assert!(publications > told_lost, "{publications} came, {told_lost} were told lost");
}
