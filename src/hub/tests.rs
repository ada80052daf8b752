//! How channels come, stay and go at their owner: what nobody is on, what it keeps, and who gives up a place when all
//! are taken.

mod remote;

use std::collections::BTreeMap;

use super::*;
use crate::limits::GuardSettings;
use crate::model::namespace::{Namespace, PublishRule};
use crate::model::parcel::Attached;
use crate::model::position::Since;
use crate::model::publication::{Content, Publish};
use crate::model::user::tests::user;

const CHANNELS: usize = 4;
const HISTORY_MS: u64 = 10_000;

fn namespace(name: &str, batch_window_ms: u64) -> Namespace {
    Namespace {
        publish: PublishRule::Members,
        history_size: 10,
        history_age_ms: HISTORY_MS,
        escape: false,
        batch_window_ms,
        presence_window_ms: 100,
        ..Namespace::plain(name)
    }
}

/// One owner, one shard, and a clock.
struct Scene {
    hub: Hub,
    out: Staging<Parcel>,
    now: Now,
    asked: u32,
    /// The ask by which each connection subscribed last.
    subscribed: BTreeMap<u32, u32>,
}

impl Scene {
    fn new() -> Self {
        Self::with(EngineKind::Memory)
    }

    /// With a remote engine, there is another shard too.
    fn with(kind: EngineKind) -> Self {
        let settings = HubSettings {
            shards: if kind == EngineKind::Remote { 2 } else { 1 },
            namespaces: Arc::new(Namespaces::new(namespace("lobby", 0), namespace("", 0), [namespace("slow", 100)])),
            duplicate_login: DuplicateLogin::Allow,
            connections_per_user: 0,
            probes: false,
            guard: Arc::new(Guard::new(GuardSettings::default())),
            frame_len: crate::dialect::native::encode::publication_frame_len,
            push_bytes: 10_000,
            recover_bytes: 10_000,
            patience_ms: 1_000,
            channels: CHANNELS,
            engine: EngineSettings { kind, history_bytes: 1 << 20, idempotency_keys: 100 },
            presence_digest_above: 100,
            presence_list: 10,
        };
        let now = Now { unix_ms: 1_800_000_000_000, mono_ms: 1_000 };
        let (hub, out) = (Hub::new(settings, 1), Staging::new(ShardId(0), 3, 1_024));
        Self { hub, out, now, asked: 0, subscribed: BTreeMap::new() }
    }

    /// So much time passes, by ticks.
    fn pass(&mut self, ms: u64) {
        for _ in 0..ms.div_ceil(TICK_MS) {
            self.now = Now { unix_ms: self.now.unix_ms + TICK_MS, mono_ms: self.now.mono_ms + TICK_MS };
            self.hub.tick(self.now, &mut self.out);
            self.hub.turn(self.now, &mut self.out);
        }
    }

    fn ask(&mut self, asker: Asker, ask: Ask) -> Option<Answer> {
        self.asked += 1;
        self.hub.ask(asker, self.asked, ask, self.now, &mut self.out);
        self.answer()
    }

    /// The next answer, if one has been given.
    fn answer(&mut self) -> Option<Answer> {
        while let Some(parcel) = self.out.pop_own() {
            if let Parcel::Answer { answer, .. } = parcel {
                return Some(answer);
            }
        }
        None
    }

    fn subscribe(&mut self, slot: u32, channel: &str, since: Option<(&str, u64)>) -> Result<Attached, Refusal> {
        let recover = since.map(|(epoch, offset)| Box::new(Since { epoch: epoch.into(), offset }));
        let ask = Ask::Subscribe { channel: channel.into(), user: user("ann"), recover };
        let answer = self.ask(Asker::Conn(conn(slot)), ask);
        self.subscribed.insert(slot, self.asked);
        match answer {
            Some(Answer::Subscribed(attached)) => Ok(attached),
            Some(Answer::Refused(refusal)) => Err(refusal),
            other => panic!("{other:?}"),
        }
    }

    /// Ends the connection's latest subscription.
    fn unsubscribe(&mut self, slot: u32, channel: &str) {
        self.hub.unsubscribe(conn(slot), self.subscribed[&slot], channel, self.now, &mut self.out);
    }

    fn publish(&mut self, channel: &str) -> Option<Answer> {
        let publish = publish_of(channel, None, b"1");
        self.ask(Asker::Api(conn(1_000)), Ask::Publish(Box::new(publish)))
    }

    fn published(&mut self, channel: &str) {
        let answer = self.publish(channel);
        assert!(matches!(answer, Some(Answer::Published { .. })), "{answer:?}");
    }

    fn channels(&self) -> Vec<String> {
        let mut names: Vec<_> = self.hub.owned().into_iter().map(|owned| owned.name.to_string()).collect();
        names.sort();
        assert_eq!(self.hub.holdings().channels, names.len());
        let deserted = self.hub.channels.iter().filter(|channel| channel.deserted_ms.is_some()).count();
        assert_eq!(self.hub.deserted.len(), deserted);
        names
    }
}

fn publish_of(channel: &str, sender: Option<Arc<User>>, json: &[u8]) -> Publish {
    let content = Content::Json(json.into());
    Publish { channel: channel.into(), sender, content, key: None, idempotency_key: None, epoch: None }
}

fn conn(slot: u32) -> ConnId {
    ConnId { shard: ShardId(0), slot, generation: 0 }
}

#[test]
fn a_channel_without_publications_goes_with_its_last_subscriber_and_comes_back_the_same() {
    let mut scene = Scene::new();
    let before = scene.subscribe(1, "a", None).expect("subscribed").placed;
    scene.subscribe(2, "a", None).expect("subscribed");
    scene.unsubscribe(2, "a");
    assert_eq!(scene.channels(), ["a"]);
    scene.unsubscribe(1, "a");
    assert!(scene.channels().is_empty());
    // What is published meanwhile is what the client missed.
    scene.published("a");
    let after = scene.subscribe(1, "a", Some((&*before.epoch, 0))).expect("subscribed");
    assert_eq!(after.recovery().map(|(all, missed)| (all, missed.len())), Some((true, 1)));
}

#[test]
fn asking_for_a_channel_does_not_make_one() {
    let mut scene = Scene::new();
    let history = Ask::History { channel: "a".into(), since: None, limit: 1, reverse: false };
    assert!(matches!(scene.ask(Asker::Api(conn(1_000)), history), Some(Answer::History(_))));
    assert!(scene.channels().is_empty());
}

#[test]
fn a_life_with_publications_is_never_taken_for_another() {
    let mut scene = Scene::new();
    scene.published("a");
    let first = scene.subscribe(1, "a", None).expect("subscribed").placed;
    scene.pass(IDLE_MS + HISTORY_MS);
    assert_eq!(scene.channels(), ["a"], "somebody is on it");
    scene.unsubscribe(1, "a");
    scene.pass(IDLE_MS - 1_000);
    let back = scene.subscribe(1, "a", Some((&*first.epoch, 1))).expect("subscribed");
    assert_eq!(
        (back.lost_from(), back.missed.is_some(), back.placed.offset),
        (None, true, 1),
        "the time runs from when nobody was left"
    );
    scene.unsubscribe(1, "a");
    scene.pass(IDLE_MS + 1_000);
    assert!(scene.channels().is_empty());
    let back = scene.subscribe(1, "a", Some((&*first.epoch, 1))).expect("subscribed");
    assert_eq!((back.lost_from(), back.placed.offset), (Some(1), 0));
    assert_ne!(back.placed.epoch, first.epoch);
}

#[test]
fn when_all_places_are_taken_the_longest_deserted_gives_up_its_own() {
    let mut scene = Scene::new();
    for name in ["a", "b", "c", "d"] {
        scene.published(name);
        scene.pass(2_000);
    }
    let first = scene.subscribe(1, "a", None).expect("subscribed").placed;
    scene.published("b");
    scene.pass(64);
    // a has a subscriber, and b was used after c.
    scene.published("e");
    assert_eq!(scene.channels(), ["a", "b", "d", "e"]);
    scene.unsubscribe(1, "a");
    scene.published("f");
    scene.published("g");
    assert_eq!(scene.channels(), ["a", "e", "f", "g"], "a was left only now");
    scene.published("h");
    scene.published("i");
    assert!(!scene.channels().contains(&"a".to_owned()));
    let back = scene.subscribe(1, "a", Some((&*first.epoch, 1))).expect("a place");
    assert_eq!(back.lost_from(), Some(1), "told, not silently lost");
    assert_eq!(scene.hub.holdings().channel_evictions, 6);
    let kept = scene.hub.engine.logs().histories();
    assert_eq!((scene.channels().len(), kept), (CHANNELS, CHANNELS - 1), "no history of what is gone");
}

#[test]
fn deadlines_of_channels_that_are_gone_do_not_pile_up() {
    let mut scene = Scene::new();
    for n in 0..10_000 {
        scene.published(&format!("n-{n}"));
    }
    assert_eq!((scene.channels().len(), scene.hub.holdings().channel_evictions), (CHANNELS, 10_000 - CHANNELS as u64));
    assert!(scene.hub.wheel.count() <= OUTLIVED + 2 * CHANNELS + 1, "{}", scene.hub.wheel.count());
    scene.pass(IDLE_MS + HISTORY_MS + 1_000);
    assert_eq!((scene.channels().len(), scene.hub.wheel.count()), (0, 0));
}

#[test]
fn a_channel_with_subscribers_is_nobody_elses_place() {
    let mut scene = Scene::new();
    for slot in 0..CHANNELS as u32 {
        scene.subscribe(slot, &format!("mine-{slot}"), None).expect("subscribed");
    }
    assert!(matches!(scene.subscribe(9, "another", None), Err(Refusal::TooManyChannels)));
    assert!(matches!(scene.publish("another"), Some(Answer::Refused(Refusal::TooManyChannels))));
    assert!(scene.subscribe(9, "mine-0", None).is_ok(), "what is there is there");
    scene.unsubscribe(1, "mine-1");
    assert!(scene.subscribe(9, "another", None).is_ok());
    assert_eq!(scene.hub.holdings().channel_evictions, 0);
}

#[test]
fn who_published_within_a_batch_window_is_answered_before_the_channel_goes() {
    let mut scene = Scene::new();
    for name in ["b", "c", "d"] {
        scene.published(name);
    }
    assert!(scene.publish("slow:a").is_none(), "the answer waits for the window's end");
    scene.pass(0);
    let ask = Ask::Subscribe { channel: "e".into(), user: user("ann"), recover: None };
    let first = scene.ask(Asker::Conn(conn(1)), ask);
    // b, c and d were used at the same time, and were made before it.
    let second =
        scene.ask(Asker::Conn(conn(2)), Ask::Subscribe { channel: "f".into(), user: user("bob"), recover: None });
    assert!(matches!((first, second), (Some(Answer::Subscribed(_)), Some(Answer::Subscribed(_)))));
    scene.subscribe(3, "g", None).expect("subscribed");
    let ask = Ask::Subscribe { channel: "h".into(), user: user("ann"), recover: None };
    taken(&mut scene);
    scene.hub.ask(Asker::Conn(conn(4)), scene.asked + 1, ask, scene.now, &mut scene.out);
    assert_eq!(taken(&mut scene), ["late answers to [1000]", "subscribed at 0"]);
    assert_eq!(scene.channels(), ["e", "f", "g", "h"]);
}

/// What a client is told, and what its shard gets for the channel, in order.
fn taken(scene: &mut Scene) -> Vec<String> {
    let mut told = Vec::new();
    while let Some(parcel) = scene.out.pop_own() {
        match parcel {
            Parcel::Gap { placed, from } => told.push(format!("gap {from}-{}", placed.offset)),
            Parcel::Deferred { .. } => told.push("deferred".to_owned()),
            Parcel::Deliver { delivery } => told.push(format!("deliver {}", delivery.value().offset())),
            Parcel::DeliverBatch { deliveries, .. } => {
                let offset = |at: usize| deliveries[at].value().offset();
                let (first, last) = (offset(0), offset(deliveries.len() - 1));
                told.push(format!("deliver {first}-{last}"));
            }
            Parcel::LateAnswers(answers) => {
                let slot = |asker: Asker| match asker {
                    Asker::Conn(conn) | Asker::Api(conn) => Some(conn.slot),
                    Asker::Part(_) => None,
                };
                let conns: Vec<_> = answers.iter().filter_map(|answer| slot(answer.asker)).collect();
                told.push(format!("late answers to {conns:?}"));
            }
            Parcel::Answer { answer, credit, .. } => {
                let what = match answer {
                    Answer::History(page) => format!("history {} at {}", page.publications.len(), page.placed.offset),
                    Answer::Subscribed(attached) => format!("subscribed at {}", attached.placed.offset),
                    Answer::EpochChanged(placed) => format!("epoch changed at {}", placed.offset),
                    answer => format!("{answer:?}").split(['(', ' ']).next().unwrap_or_default().to_owned(),
                };
                told.push(format!("{what}{}", if credit { "" } else { ", late" }));
            }
            other => panic!("{other:?}"),
        }
    }
    told
}

fn publish_as(scene: &mut Scene, slot: u32, channel: &str, bytes: usize) {
    let publish = publish_of(channel, Some(user("ann")), format!(r#""{}""#, "x".repeat(bytes)).as_bytes());
    scene.asked += 1;
    scene.hub.ask(Asker::Conn(conn(slot)), scene.asked, Ask::Publish(Box::new(publish)), scene.now, &mut scene.out);
}

fn history_for(scene: &mut Scene, slot: u32, channel: &str) {
    let ask = Ask::History { channel: channel.into(), since: None, limit: 10, reverse: false };
    scene.asked += 1;
    scene.hub.ask(Asker::Conn(conn(slot)), scene.asked, ask, scene.now, &mut scene.out);
}

#[test]
fn whoever_asks_within_a_batch_window_is_told_what_has_been_sent_and_the_window_goes_on() {
    let mut scene = Scene::new();
    for slot in [1, 2] {
        scene.subscribe(slot, "slow:a", None).expect("subscribed");
    }
    publish_as(&mut scene, 1, "slow:a", 1);
    publish_as(&mut scene, 1, "slow:a", 1);
    assert_eq!(taken(&mut scene), ["deferred", "deferred"], "the credits are others' meanwhile");
    history_for(&mut scene, 2, "slow:a");
    assert_eq!(taken(&mut scene), ["history 0 at 0"]);
    // Who publishes has its answers in the order of its asks.
    history_for(&mut scene, 1, "slow:a");
    assert_eq!(taken(&mut scene), ["deferred"]);
    let newcomer = scene.subscribe(3, "slow:a", Some(("another", 0))).expect("subscribed");
    assert_eq!((newcomer.placed.offset, newcomer.recovery().map(|(all, _)| all)), (0, Some(false)));
    scene.pass(128);
    let sent = ["deliver 1-2", "late answers to [1, 1]", "history 2 at 2, late"];
    assert_eq!(taken(&mut scene), sent);
    let back = scene.subscribe(4, "slow:a", Some((&*newcomer.placed.epoch, 0))).expect("subscribed");
    assert_eq!(back.recovery().map(|(all, missed)| (all, missed.len(), back.placed.offset)), Some((true, 2, 2)));
    // In the next window, what recovers is what the first one brought.
    publish_as(&mut scene, 1, "slow:a", 1);
    taken(&mut scene);
    let back = scene.subscribe(5, "slow:a", Some((&*newcomer.placed.epoch, 1))).expect("subscribed");
    assert_eq!(back.recovery().map(|(all, missed)| (all, missed.len(), back.placed.offset)), Some((true, 1, 2)));
    scene.pass(128);
    assert_eq!(taken(&mut scene), ["deliver 3", "late answers to [1]"]);
}

#[test]
fn a_batch_window_that_is_full_ends() {
    let mut scene = Scene::new();
    scene.subscribe(1, "slow:a", None).expect("subscribed");
    for _ in 1..channel::BATCH_MAX {
        publish_as(&mut scene, 1, "slow:a", 1);
        assert_eq!(taken(&mut scene), ["deferred"]);
    }
    publish_as(&mut scene, 1, "slow:a", 1);
    let told = taken(&mut scene);
    assert_eq!(told[..2], ["deferred", &format!("deliver 1-{}", channel::BATCH_MAX)]);
    assert_eq!((told.len(), scene.hub.holdings().batches_cut), (3, 1));
    for _ in 0..channel::BATCH_BYTES / 9_000 + 1 {
        publish_as(&mut scene, 1, "slow:a", 9_000);
        taken(&mut scene);
    }
    assert_eq!(scene.hub.holdings().batches_cut, 2);
    scene.pass(200);
    assert_eq!((scene.hub.publisher.batched_bytes, scene.hub.batches.len()), (0, 0));
}
