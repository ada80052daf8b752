//! The whole simulation with the input as its dice: polite clients, real shards, and the oracle that knows what all of
//! them have to have heard. Input: the throws.

use crate::dice::Dice;
use crate::oracle;
use crate::world::World;

/// Throws that are taken: what a life costs grows with its length, and a fuzzer learns more of many short ones. The
/// seeds of `tests/simulation.rs` live long.
const THROWS: usize = 1024;

/// A life by these throws holds every promise that the oracle knows.
pub fn run(bytes: &[u8]) {
    let mut world = World::with(Dice::loaded(&bytes[..bytes.len().min(THROWS)]), 0, None, false);
    if let Err(problem) = world.live().and_then(|()| oracle::judge(&mut world).map(drop)) {
        panic!("{problem}");
    }
}

/// Any throws will do.
pub fn generate(dice: &mut Dice) -> Vec<u8> {
    let length = dice.between(40, THROWS);
    (0..length).map(|_| (dice.throw() >> 24) as u8).collect()
}
