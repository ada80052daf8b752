//! Fuzz targets as plain functions: bytes in, a panic if a promise is broken. `replay` runs them on stable Rust over
//! the corpus and over generated inputs (`./check fuzz`), `fuzz_targets/` hands them to libFuzzer (`./check fuzz-long`).
//! The oracles are those of the property tests and the simulation, shared and not copied: whatever a target holds the
//! server against was written by a second hand.
//!
//! To add one: a file in `targets/` with `run` and `generate`, a line in [`TARGETS`], a folder in `corpus/`, and
//! three lines in `fuzz_targets/` and in Cargo.toml.

pub mod mutate;
pub mod targets;

#[path = "../../tests/oracles/mod.rs"]
mod oracles;
#[expect(
    dead_code,
    missing_docs,
    reason = "they belong to the simulation, which uses all of them; the targets use some"
)]
mod simulation;

pub use simulation::dice;
use simulation::{
    backend, channels, client, codec, deflate, engine, errands, faults, ledger, oracle, plan, tokens, wire, world,
};

use dice::Dice;

/// One thing that reads what a stranger sends.
#[derive(Clone, Copy)]
pub struct Target {
    /// The name of its corpus and of its libFuzzer binary.
    pub name: &'static str,
    /// Panics if a promise is broken.
    pub run: fn(&[u8]),
    /// An input that mostly makes sense.
    pub generate: fn(&mut Dice) -> Vec<u8>,
    /// Of 1,000 inputs of the others, how many this one is given: what it costs.
    pub share: usize,
}

/// All of them.
pub const TARGETS: &[Target] = &[
    Target { name: "frames", run: targets::frames::run, generate: targets::frames::generate, share: 1000 },
    Target { name: "deflate", run: targets::deflate::run, generate: targets::deflate::generate, share: 200 },
    Target { name: "handshake", run: targets::handshake::run, generate: targets::handshake::generate, share: 300 },
    Target { name: "api", run: targets::api::run, generate: targets::api::generate, share: 200 },
    Target { name: "proxy", run: targets::proxy::run, generate: targets::proxy::generate, share: 300 },
    Target {
        name: "event_stream",
        run: targets::event_stream::run,
        generate: targets::event_stream::generate,
        share: 500,
    },
    Target { name: "envelope", run: targets::envelope::run, generate: targets::envelope::generate, share: 1000 },
    Target { name: "token", run: targets::token::run, generate: targets::token::generate, share: 500 },
    Target { name: "config", run: targets::config::run, generate: targets::config::generate, share: 100 },
    Target { name: "outbox", run: targets::outbox::run, generate: targets::outbox::generate, share: 500 },
    Target { name: "shard", run: targets::shard::run, generate: targets::shard::generate, share: 100 },
    Target { name: "simulation", run: targets::simulation::run, generate: targets::simulation::generate, share: 10 },
];
