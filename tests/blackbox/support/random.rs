//! Chance that can be had again: a seeded generator, and where its seed comes from.

/// A small seeded generator (SplitMix64): the run is told by its seed alone.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

/// The seed of a random test: `URINGCAST_TEST_SEED`, or always the same.
pub fn seed() -> u64 {
    let seed = std::env::var("URINGCAST_TEST_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(20_261_122);
    eprintln!("URINGCAST_TEST_SEED={seed}");
    seed
}
