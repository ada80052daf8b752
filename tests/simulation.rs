//! The whole server without its sockets: real shards joined by bounded queues, real bytes to and from simulated
//! clients, an artificial clock, and chance from one seed. Each seed is another life of the server; at its end
//! everything that all clients heard has to fit together.
//!
//! `SIM_SEEDS=10000 cargo test --profile quick --test simulation` runs more lives, and
//! `SIM_SEED=7 cargo test --profile quick --test simulation one_life -- --nocapture` tells the story of one.

#[path = "simulation/backend.rs"]
mod backend;
#[path = "simulation/channels.rs"]
mod channels;
#[path = "simulation/client.rs"]
mod client;
#[path = "simulation/codec.rs"]
mod codec;
#[path = "simulation/deflate.rs"]
mod deflate;
#[path = "simulation/dice.rs"]
mod dice;
#[path = "simulation/engine.rs"]
mod engine;
#[path = "simulation/errands.rs"]
mod errands;
#[path = "simulation/farewell.rs"]
mod farewell;
#[path = "simulation/faults.rs"]
mod faults;
#[path = "simulation/ledger.rs"]
mod ledger;
#[path = "simulation/oracle.rs"]
mod oracle;
#[path = "simulation/plan.rs"]
mod plan;
#[path = "simulation/rights.rs"]
mod rights;
#[path = "simulation/tokens.rs"]
mod tokens;
#[path = "simulation/wire.rs"]
mod wire;
#[path = "simulation/world.rs"]
mod world;

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

use client::Verdict;
use dice::Dice;
use faults::Fault;
use oracle::Tally;
use world::World;

/// How many lives a plain `cargo test` runs.
const SEEDS: u64 = 1_000;
/// A fault has to be noticed within this many lives. The rarest is noticed in about one of 150.
const FAULT_SEEDS: u64 = 1_000;

/// A number from the environment. The names don't begin as the server's own do: it refuses those it doesn't know.
fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap_or_else(|_| panic!("{name}={value} is not a number")))
}

/// One life. A panic of the server is a failure like any other.
fn life(seed: u64, fault: Option<Fault>, trace: bool) -> Verdict<Tally> {
    silence_panics();
    QUIET.set(!trace);
    let lived = catch_unwind(AssertUnwindSafe(|| {
        let mut world = World::new(seed, fault, trace);
        world.live()?;
        oracle::judge(&mut world)
    }));
    QUIET.set(false);
    lived.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Err(format!("panic: {}", text.unwrap_or_default()))
    })
}

thread_local! {
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// The message of a caught panic is in the verdict already.
fn silence_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let loud = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !QUIET.get() {
                loud(info);
            }
        }));
    });
}

/// With a fault planted in the server itself, a life goes wrong before long.
#[test]
#[cfg(feature = "planted")]
fn each_planted_fault_is_noticed() {
    for planted in uringcast::planted::Fault::ALL {
        uringcast::planted::Fault::plant(Some(planted));
        let noticed = (0..SEEDS).find_map(|seed| life(seed, None, false).err().map(|why| (seed, why)));
        let (seed, why) = noticed.unwrap_or_else(|| panic!("{planted:?} goes unnoticed"));
        println!("{planted:?}: seed {seed}: {}", why.chars().take(100).collect::<String>());
    }
}

#[test]
fn many_lives() {
    let seeds = variable("SIM_SEEDS").unwrap_or(SEEDS);
    let mut sum = Tally::default();
    for seed in 0..seeds {
        match life(seed, None, false) {
            Ok(tally) => sum.add(tally),
            Err(problem) => panic!(
                "{problem}\nreplay: SIM_SEED={seed} cargo test --profile quick --test simulation one_life -- --nocapture"
            ),
        }
    }
    println!("{seeds} lives: {sum:?}");
    let everything = [sum.clients, sum.attached, sum.published, sum.kicked, sum.slow, sum.refused];
    let tokens = [sum.refreshed, sum.turned_away, sum.cut, sum.revocations, sum.errands, sum.new_keys, sum.no_keys];
    let channels = [sum.inflated, sum.heard, sum.recovered, sum.not_recovered, sum.gaps, sum.duplicates];
    let engine = [sum.outcomes, sum.silences, sum.losses, sum.engine_gaps];
    assert!(
        seeds < SEEDS || everything.iter().chain(&channels).chain(&tokens).chain(&engine).all(|&count| count > 50),
        "too little happened: {sum:?}"
    );
}

/// What was acknowledged before the server went has reached everybody whom it told so.
#[test]
fn going_away_takes_nothing_back() {
    let seeds = variable("SIM_SEEDS").unwrap_or(SEEDS);
    let chosen = variable("SIM_SEED");
    let mut told = 0;
    for seed in chosen.map_or(0..seeds, |seed| seed..seed + 1) {
        let mut world = World::new(seed, None, chosen.is_some());
        let end = world.live().and_then(|()| farewell::judge(&mut world));
        told += end.unwrap_or_else(|problem| panic!("seed {seed}: {problem}"));
    }
    println!("{told} clients were told goodbye");
    assert!(chosen.is_some() || told > 1_000, "too few: {told}");
}

#[test]
fn one_life() {
    let Some(seed) = variable("SIM_SEED") else { return };
    if let Err(problem) = life(seed, None, true) {
        panic!("{problem}");
    }
}

#[test]
fn a_seed_is_a_life() {
    let tell = |seed| format!("{:?}", life(seed, None, false));
    assert_eq!(tell(3), tell(3));
}

/// As the fuzzer lives: its bytes are the dice, and what the same bytes do is the same.
#[test]
fn bytes_are_a_life() {
    let live = |bytes: &[u8]| {
        let mut world = World::with(Dice::loaded(bytes), 0, None, false);
        world.live()?;
        oracle::judge(&mut world)
    };
    let bytes: Vec<u8> = (0..20_000u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let tally = live(&bytes).expect("a good life");
    assert!(tally.clients > 1, "{tally:?}");
    assert_eq!(format!("{tally:?}"), format!("{:?}", live(&bytes).expect("the same")));
}

#[test]
fn every_fault_is_noticed() {
    for fault in Fault::ALL {
        let noticed = (0..FAULT_SEEDS).find_map(|seed| life(seed, Some(fault), false).err().map(|why| (seed, why)));
        let (seed, why) = noticed.unwrap_or_else(|| panic!("{fault:?} goes unnoticed"));
        let why: String = why.chars().take(200).collect();
        println!("{fault:?}: seed {seed}: {why}");
    }
}
