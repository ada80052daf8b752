//! A token's end under clocks that jump: one real shard, one client, and a clock that does what the test says. The end
//! goes by the wall clock; deadlines are kept by the other one, and nobody may be cut early for that.

use std::io::IoSlice;
use std::sync::Arc;

use serde_json::json;
use uringcast::auth::{NewToken, UserId, Verifier, issue};
use uringcast::config::{Auth, Secret};
use uringcast::ids::{ConnId, ShardId};
use uringcast::mesh::Staging;
use uringcast::model::parcel::Parcel;
use uringcast::shard::turn::{Next, ShardLanes, Turn};
use uringcast::shard::{Sent, Settings, Shard, Wire};
use uringcast::time::clock::Now;

use crate::codec;
use crate::dice::Dice;
use crate::plan::Plan;

const SECRET: &str = "0123456789abcdef0123456789abcdef";
const START_MS: u64 = 1_800_000_000_000;

/// All that was sent, as it was.
#[derive(Default)]
struct Paper(Vec<u8>);

impl Wire for Paper {
    fn send(&mut self, _: ConnId, pieces: &[IoSlice<'_>]) -> Sent {
        let before = self.0.len();
        pieces.iter().for_each(|piece| self.0.extend_from_slice(piece));
        Sent::Bytes(self.0.len() - before)
    }

    fn unacknowledged(&mut self, _: ConnId) -> usize {
        0
    }
}

/// One shard alone has no lanes.
struct NoLanes;

impl ShardLanes for NoLanes {
    fn drain(&mut self, _: impl FnMut(ShardId, Parcel)) -> bool {
        false
    }

    fn ship(&mut self, _: &mut Staging<Parcel>) {}

    fn fall_asleep(&mut self) -> bool {
        true
    }

    fn wake_up(&mut self) {}
}

struct Scene {
    shard: Shard,
    turn: Turn,
    id: ConnId,
    paper: Paper,
    now: Now,
}

impl Scene {
    /// A client whose token lives for so long.
    fn with_token(ttl_s: u64) -> Self {
        let mut dice = Dice::new(7);
        let plan = Plan::new(&mut dice);
        let mut settings = Settings::clone(&plan.settings);
        settings.hub.shards = 1;
        (settings.ping_interval_ms, settings.pong_timeout_ms) = (86_400_000, 86_400_000);
        (settings.outbox_bytes, settings.auth_ms, settings.handshake_ms) = (1 << 20, 10_000, 10_000);
        let auth = Auth { hs256_secret: Some(Secret::new(SECRET)), leeway_s: 0, ..Auth::default() };
        let verifier = Arc::new(Verifier::new(&auth).expect("a secret"));
        let mut shard = Shard::new(ShardId(0), Arc::new(settings), verifier, 1);
        let now = Now { unix_ms: START_MS, mono_ms: 5_000 };
        let id = shard.open(super::world::HERE, now).expect("no limit is reached");
        let user = UserId::int(1).expect("an id");
        let token =
            NewToken { user: &user, name: "A", ttl_s, channels: &[], issuer: None, audience: None, token_id: None };
        let jwt = issue(&Secret::new(SECRET), &token, START_MS).expect("signs");
        let auth = json!({"type": "auth", "data": {"token": jwt}}).to_string();
        let mut scene = Self { shard, turn: Turn::default(), id, paper: Paper::default(), now };
        for mut bytes in [codec::upgrade_request(""), codec::message(&auth, false, &mut dice)] {
            scene.shard.receive(id, &mut bytes, &mut scene.paper, now);
        }
        scene.pass(64, 0);
        assert!(scene.was_told("auth_success"));
        scene
    }

    /// So much time passes, by ticks, with the wall clock jumping by so much before it.
    fn pass(&mut self, ms: u64, jump_ms: i64) {
        self.now.unix_ms = self.now.unix_ms.saturating_add_signed(jump_ms);
        for _ in 0..ms.div_ceil(64) {
            self.now = Now { unix_ms: self.now.unix_ms + 64, mono_ms: self.now.mono_ms + 64 };
            self.shard.tick(&mut self.paper, self.now);
            for _ in 0..8 {
                let step =
                    |scene: &mut Self| scene.turn.step(&mut scene.shard, &mut NoLanes, &mut scene.paper, 16, scene.now);
                while !matches!(step(self), Next::Over { .. }) {}
            }
            self.shard.take_actions();
        }
    }

    /// Whether this was sent since it was last asked for.
    fn was_told(&mut self, what: &str) -> bool {
        let text = String::from_utf8_lossy(&self.paper.0).into_owned();
        let told = text.contains(what);
        self.paper.0.clear();
        told
    }

    fn is_closing(&mut self) -> bool {
        self.shard.is_closing(self.id)
    }
}

#[test]
fn a_token_is_told_of_and_ends_by_a_steady_clock() {
    let mut scene = Scene::with_token(60);
    scene.pass(29_000, 0);
    assert!(!scene.was_told("token_expiring"));
    scene.pass(1_100, 0);
    assert!(scene.was_told("token_expiring"));
    scene.pass(29_000, 0);
    assert!(!scene.was_told("token_expiring") && !scene.is_closing());
    scene.pass(1_100, 0);
    assert!(scene.is_closing() && scene.was_told("token expired"));
}

#[test]
fn a_clock_that_jumps_ahead_ends_it_at_once() {
    let mut scene = Scene::with_token(3_600);
    scene.pass(1_000, 3_575_000);
    assert!(scene.was_told("token_expiring") && !scene.is_closing());
    scene.pass(200, 3_600_000);
    assert!(scene.is_closing());
}

#[test]
fn a_clock_that_goes_back_cuts_nobody_early() {
    let mut scene = Scene::with_token(60);
    scene.pass(20_000, -300_000);
    // By the clock that doesn't jump, the token would have ended long ago.
    scene.pass(290_000, 0);
    assert!(!scene.was_told("token_expiring") && !scene.is_closing());
    scene.pass(21_000, 0);
    assert!(scene.was_told("token_expiring") && !scene.is_closing());
    scene.pass(30_000, 0);
    assert!(scene.is_closing());
}

#[test]
fn a_clock_that_drifts_is_followed() {
    let mut scene = Scene::with_token(60);
    // 900 ms at a time: none of them is a jump by itself.
    for _ in 0..20 {
        scene.pass(2_000, -900);
        assert!(!scene.is_closing());
    }
    scene.pass(36_500, 0);
    assert!(!scene.is_closing(), "22 s of the wall clock, then 36.5");
    scene.pass(2_500, 0);
    assert!(scene.is_closing());
}
