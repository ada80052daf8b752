//! Masking keys and nonces: fast, seeded from the system, not for secrets.
//!
//! RFC 6455 wants masking keys that a page's script can't foresee; there is no such script here,
//! so a small generator per thread does.

use std::hash::{BuildHasher, Hasher, RandomState};

/// A wyrand generator.
pub struct Random(u64);

impl Random {
    /// A generator that gives the same numbers for the same seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A generator whose seed comes from the system.
    pub fn seeded() -> Self {
        Self::new(RandomState::new().build_hasher().finish())
    }

    /// The next 64 bits.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0xa076_1d64_78bd_642f);
        let wide = u128::from(self.0) * u128::from(self.0 ^ 0xe703_7ed1_a0b4_28db);
        (wide >> 64) as u64 ^ wide as u64
    }

    /// A masking key.
    pub fn key(&mut self) -> u32 {
        self.next() as u32
    }
}
