//! Replays the corpus in the tree and tries seeded inputs on every target, on stable Rust: `./check fuzz`. Half of
//! the inputs are generated to make sense, half are damaged. FUZZ_SEED and FUZZ_INPUTS choose others and more;
//! names as arguments choose targets. A broken promise ends it with the input, written to where the message says.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use uringcast_fuzz::dice::Dice;
use uringcast_fuzz::mutate::mutate;
use uringcast_fuzz::{TARGETS, Target};

/// Inputs of a target whose share is 1,000.
const INPUTS: usize = 100_000;

fn main() -> ExitCode {
    let only: Vec<String> = std::env::args().skip(1).collect();
    if let Some(unknown) = only.iter().find(|name| TARGETS.iter().all(|target| target.name != **name)) {
        eprintln!("no such target: {unknown}");
        return ExitCode::from(2);
    }
    let (seed, inputs) = (variable("FUZZ_SEED", 1), variable("FUZZ_INPUTS", INPUTS as u64) as usize);
    for target in TARGETS.iter().filter(|target| only.is_empty() || only.iter().any(|name| name == target.name)) {
        let started = Instant::now();
        let corpus = corpus(target.name);
        for (path, bytes) in &corpus {
            if !holds(target, bytes) {
                println!("{}: broken by {}", target.name, path.display());
                return ExitCode::FAILURE;
            }
        }
        let count = (inputs * target.share / 1000).max(1);
        for number in 0..count {
            let bytes = input(target, &corpus, &mut Dice::new(seed.wrapping_mul(1 << 32).wrapping_add(number as u64)));
            if !holds(target, &bytes) {
                let path = std::env::temp_dir().join(format!("uringcast-fuzz-{}-{seed}-{number}", target.name));
                let kept = std::fs::write(&path, &bytes);
                println!("{}: broken by input {number} of seed {seed}, {} {kept:?}", target.name, path.display());
                return ExitCode::FAILURE;
            }
        }
        let (took, of_corpus) = (started.elapsed().as_secs_f32(), corpus.len());
        println!("{:<10} {of_corpus:>3} of the corpus, {count:>7} inputs of seed {seed}: {took:.1} s", target.name);
    }
    ExitCode::SUCCESS
}

/// Half of them make sense, half are damaged.
fn input(target: &Target, corpus: &[(PathBuf, Vec<u8>)], dice: &mut Dice) -> Vec<u8> {
    let generated = (target.generate)(dice);
    if dice.once_in(2) || corpus.is_empty() {
        return generated;
    }
    let kept = &corpus[dice.below(corpus.len())].1;
    let (mut bytes, other) = if dice.once_in(2) { (generated, kept.clone()) } else { (kept.clone(), generated) };
    mutate(&mut bytes, &other, dice);
    bytes
}

fn holds(target: &Target, bytes: &[u8]) -> bool {
    catch_unwind(AssertUnwindSafe(|| (target.run)(bytes))).is_ok()
}

fn corpus(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("readable").path()).collect();
    paths.sort();
    paths.into_iter().map(|path| (path.clone(), std::fs::read(&path).expect("readable"))).collect()
}

fn variable(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")),
        Err(_) => default,
    }
}
