//! An owner with a remote engine: what waits, in which order it is answered, and what is done when the engine is late,
//! loses something or says nothing.

use super::*;
use crate::hub::remote::NEWS_MAX;
use crate::model::engine::{EngineAsk, EngineNews, EngineOutcome, EnginePublication, Ticket};
use crate::model::parcel::Purse;
use crate::model::position::Placed;

const OTHER: ShardId = ShardId(1);
const ENGINE: ShardId = ShardId(2);

fn scene() -> Scene {
    Scene::with(EngineKind::Remote)
}

fn placed(offset: u64) -> Placed {
    Placed { channel: "a".into(), epoch: "e".into(), offset }
}

fn publication(offset: u64) -> EnginePublication {
    let publish = publish_of("a", None, br#""x""#);
    EnginePublication { offset, timestamp: 1, publish: Arc::new(publish) }
}

/// What the owner has asked the engine for.
fn asked(scene: &mut Scene) -> Vec<EngineAsk> {
    let mut asks = Vec::new();
    scene.out.ship_lane(ENGINE, 1_000, |parcel| match parcel {
        Parcel::ToEngine(ask) => asks.push(*ask),
        other => panic!("{other:?}"),
    });
    asks
}

fn one_ticket(scene: &mut Scene) -> Ticket {
    match &*asked(scene) {
        [EngineAsk::Publish { ticket, .. } | EngineAsk::Follow { ticket, .. } | EngineAsk::Page { ticket, .. }] => {
            *ticket
        }
        other => panic!("{other:?}"),
    }
}

fn hear(scene: &mut Scene, news: EngineNews) {
    scene.hub.hear_engine(news, scene.now, &mut scene.out);
}

fn hear_following(scene: &mut Scene, ticket: Ticket, top: u64, offsets: impl IntoIterator<Item = u64>) {
    let publications = offsets.into_iter().map(publication).collect();
    hear(scene, EngineNews::Following { ticket, placed: placed(top), publications });
}

fn hear_publication(scene: &mut Scene, offset: u64) {
    hear(scene, EngineNews::Publication { placed: placed(offset), publication: publication(offset) });
}

fn hear_accepted(scene: &mut Scene, ticket: Ticket, offset: u64) {
    hear(scene, EngineNews::Outcome { ticket, outcome: EngineOutcome::Accepted(placed(offset)) });
}

fn subscribe(scene: &mut Scene, slot: u32, since: Option<(&str, u64)>) {
    let recover = since.map(|(epoch, offset)| Box::new(Since { epoch: epoch.into(), offset }));
    scene.asked += 1;
    let ask = Ask::Subscribe { channel: "a".into(), user: user("ann"), recover };
    scene.hub.ask(Asker::Conn(conn(slot)), scene.asked, ask, scene.now, &mut scene.out);
    scene.subscribed.insert(slot, scene.asked);
}

/// Connection 1 subscribes to `a`, which stands at 3.
fn with_subscriber() -> Scene {
    let mut scene = scene();
    subscribe(&mut scene, 1, None);
    let follow = one_ticket(&mut scene);
    hear_following(&mut scene, follow, 3, 2..=3);
    assert_eq!(taken(&mut scene), ["subscribed at 3"]);
    scene
}

#[test]
fn a_channel_is_followed_once_and_all_who_subscribe_meanwhile_wait_for_that() {
    let mut scene = scene();
    subscribe(&mut scene, 1, None);
    subscribe(&mut scene, 2, Some(("e", 2)));
    assert!(taken(&mut scene).is_empty());
    let follow = one_ticket(&mut scene);
    hear_following(&mut scene, follow, 3, 2..=3);
    assert_eq!(taken(&mut scene), ["subscribed at 3", "subscribed at 3"]);
    // The engine's history is the owner's.
    history_for(&mut scene, 1, "a");
    assert_eq!(taken(&mut scene), ["history 2 at 3"]);
    assert!(asked(&mut scene).is_empty());
}

#[test]
fn a_publication_is_sent_before_it_is_acknowledged_and_answers_keep_their_order() {
    let mut scene = with_subscriber();
    publish_as(&mut scene, 1, "a", 1);
    publish_as(&mut scene, 1, "a", 1);
    history_for(&mut scene, 1, "a");
    let asks = asked(&mut scene);
    let [EngineAsk::Publish { ticket: first, .. }, EngineAsk::Publish { ticket: second, .. }] = &*asks else {
        panic!("{asks:?}")
    };
    subscribe(&mut scene, 2, None);
    assert_eq!(taken(&mut scene), ["subscribed at 3"], "it waits for nobody");
    hear_publication(&mut scene, 4);
    hear_publication(&mut scene, 5);
    assert_eq!(taken(&mut scene), ["deliver 4", "deliver 5"]);
    hear_accepted(&mut scene, *second, 5);
    assert!(taken(&mut scene).is_empty());
    hear_accepted(&mut scene, *first, 4);
    assert_eq!(taken(&mut scene), ["Published", "Published", "history 4 at 5"]);
    // A second word about it changes nothing.
    hear_accepted(&mut scene, *first, 4);
    assert!(taken(&mut scene).is_empty() && !scene.hub.is_at_engine());
}

#[test]
fn an_engine_that_says_nothing_is_given_up_and_what_it_did_is_delivered() {
    let mut scene = with_subscriber();
    publish_as(&mut scene, 1, "a", 1);
    let ticket = one_ticket(&mut scene);
    scene.pass(scene.hub.settings.patience_ms - TICK_MS);
    assert!(taken(&mut scene).is_empty());
    scene.pass(2 * TICK_MS);
    assert_eq!(taken(&mut scene), ["Refused"]);
    hear_publication(&mut scene, 4);
    hear_accepted(&mut scene, ticket, 4);
    assert_eq!(taken(&mut scene), ["deliver 4"], "and no second answer");
}

#[test]
fn who_waits_for_a_channel_of_which_the_engine_says_nothing_is_refused_and_may_try_again() {
    let mut scene = scene();
    subscribe(&mut scene, 1, None);
    let lost = one_ticket(&mut scene);
    scene.pass(scene.hub.settings.patience_ms + TICK_MS);
    assert_eq!(taken(&mut scene), ["Refused"]);
    assert!(scene.channels().is_empty());
    assert!(matches!(&*asked(&mut scene), [EngineAsk::Unfollow { .. }]));
    subscribe(&mut scene, 1, None);
    let follow = one_ticket(&mut scene);
    assert!(follow > lost);
    hear_following(&mut scene, lost, 0, []);
    assert!(taken(&mut scene).is_empty(), "that was about the follow before");
    hear_following(&mut scene, follow, 0, []);
    assert_eq!(taken(&mut scene), ["subscribed at 0"]);
}

#[test]
fn who_comes_from_a_node_that_is_ahead_waits_until_this_one_has_asked() {
    let mut scene = with_subscriber();
    subscribe(&mut scene, 2, Some(("e", 5)));
    let follow = one_ticket(&mut scene);
    hear_publication(&mut scene, 4);
    assert_eq!(taken(&mut scene), ["deliver 4"]);
    hear_following(&mut scene, follow, 6, 4..=6);
    assert_eq!(taken(&mut scene), ["deliver 5-6", "subscribed at 6"]);
    // Who claims what never was is not asked for twice.
    subscribe(&mut scene, 3, Some(("e", 50)));
    let follow = one_ticket(&mut scene);
    hear_following(&mut scene, follow, 6, []);
    assert_eq!(taken(&mut scene), ["subscribed at 6"]);
    assert!(asked(&mut scene).is_empty());
}

#[test]
fn a_hole_is_filled_or_named() {
    let mut scene = with_subscriber();
    hear_publication(&mut scene, 5);
    hear_publication(&mut scene, 6);
    assert!(taken(&mut scene).is_empty());
    scene.pass(TICK_MS);
    let follow = one_ticket(&mut scene);
    hear_publication(&mut scene, 7);
    hear_following(&mut scene, follow, 7, 4..=7);
    assert_eq!(taken(&mut scene), ["deliver 4-7"]);
    hear_publication(&mut scene, 3);
    hear_publication(&mut scene, 7);
    assert!(taken(&mut scene).is_empty(), "these are known");
    hear_publication(&mut scene, 10);
    scene.pass(TICK_MS);
    let follow = one_ticket(&mut scene);
    hear_following(&mut scene, follow, 10, 9..=10);
    assert_eq!(taken(&mut scene), ["gap 8-8", "deliver 9-10"]);
    hear(&mut scene, EngineNews::Gap { placed: placed(12), from: 11 });
    hear_publication(&mut scene, 13);
    assert_eq!(taken(&mut scene), ["gap 11-12", "deliver 13"]);
}

#[test]
fn another_epoch_is_a_gap_from_the_start() {
    let mut scene = with_subscriber();
    publish_as(&mut scene, 1, "a", 1);
    let ticket = one_ticket(&mut scene);
    let renewed = Placed { epoch: "f".into(), ..placed(2) };
    hear(&mut scene, EngineNews::Gap { placed: renewed.clone(), from: 1 });
    hear(&mut scene, EngineNews::Outcome { ticket, outcome: EngineOutcome::EpochChanged(renewed) });
    assert_eq!(taken(&mut scene), ["gap 1-2", "epoch changed at 2"]);
    history_for(&mut scene, 1, "a");
    assert_eq!(taken(&mut scene), ["history 0 at 2"]);
}

#[test]
fn the_backend_needs_no_subscriber() {
    let mut scene = scene();
    assert!(scene.publish("a").is_none());
    let ticket = one_ticket(&mut scene);
    hear_accepted(&mut scene, ticket, 9);
    assert_eq!(taken(&mut scene), ["Published"]);
    let page = Ask::History { channel: "a".into(), since: None, limit: 10, reverse: false };
    assert!(scene.ask(Asker::Api(conn(1_000)), page).is_none());
    let ticket = one_ticket(&mut scene);
    let publications = vec![publication(8), publication(9)];
    hear(&mut scene, EngineNews::Page { ticket, placed: placed(9), publications });
    assert_eq!(taken(&mut scene), ["history 2 at 9"]);
    assert!(scene.channels().is_empty() && asked(&mut scene).is_empty());
}

#[test]
fn an_acknowledgement_waits_for_the_end_of_the_batch_window() {
    let mut scene = scene();
    let at = |offset| Placed { channel: "slow:a".into(), ..placed(offset) };
    let ask = Ask::Subscribe { channel: "slow:a".into(), user: user("ann"), recover: None };
    assert!(scene.ask(Asker::Conn(conn(1)), ask).is_none());
    let follow = one_ticket(&mut scene);
    hear(&mut scene, EngineNews::Following { ticket: follow, placed: at(0), publications: Vec::new() });
    publish_as(&mut scene, 1, "slow:a", 1);
    let ticket = one_ticket(&mut scene);
    hear(&mut scene, EngineNews::Publication { placed: at(1), publication: publication(1) });
    hear(&mut scene, EngineNews::Outcome { ticket, outcome: EngineOutcome::Accepted(at(1)) });
    assert_eq!(taken(&mut scene), ["subscribed at 0"]);
    scene.pass(128);
    assert_eq!(taken(&mut scene), ["deliver 1", "Published"]);
}

#[test]
fn news_that_finds_no_room_is_fetched_again() {
    let mut scene = with_subscriber();
    // Another shard subscribes, and its lane is full.
    let key = scene.hub.channels.find("a").expect("made");
    scene.hub.channels.get_mut(key).expect("made").attach(ConnId { shard: OTHER, ..conn(7) }, 1);
    while scene.out.room(OTHER) > 0 {
        scene.out.push(OTHER, Parcel::Deferred { purse: Purse::Clients });
    }
    let newest = 3 + NEWS_MAX as u64 + 10;
    for offset in 4..=newest {
        hear_publication(&mut scene, offset);
    }
    assert!(taken(&mut scene).is_empty());
    scene.out.ship_lane(OTHER, 10_000, drop);
    scene.pass(TICK_MS);
    assert!(taken(&mut scene).is_empty(), "what is behind a hole is dropped");
    let follow = one_ticket(&mut scene);
    hear_following(&mut scene, follow, newest, 4..=newest);
    let middle = 3 + channel::BATCH_MAX as u64;
    assert_eq!(taken(&mut scene), [format!("deliver 4-{middle}"), format!("deliver {}-{newest}", middle + 1)]);
}
