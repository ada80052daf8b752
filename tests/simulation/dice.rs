//! The one source of chance in a simulation: everything that may differ between two runs comes from its seed.
//! SplitMix64, written out here so that a seed means the same run whatever version of a library is in use. A fuzzer
//! loads the dice instead: its bytes are the throws, and only when they are used up is anything left to the seed.

/// A deterministic generator.
#[derive(Debug, Clone)]
pub struct Dice {
    state: u64,
    /// Throws that are decided already, the next one last.
    loaded: Vec<u8>,
    /// Whether `loaded` ever held any.
    is_loaded: bool,
}

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self { state: seed, loaded: Vec::new(), is_loaded: false }
    }

    /// Throws what `bytes` say.
    pub fn loaded(bytes: &[u8]) -> Self {
        Self { state: 0, loaded: bytes.iter().rev().copied().collect(), is_loaded: true }
    }

    /// Whether a fuzzer's throws are used up: then the life is over.
    pub fn is_spent(&self) -> bool {
        self.is_loaded && self.loaded.is_empty()
    }

    pub fn throw(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.state ^ (self.state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 up to, not including, `n`.
    pub fn below(&mut self, n: usize) -> usize {
        match self.loaded.pop() {
            // Most choices are among fewer than 256.
            Some(low) => {
                (usize::from(low) | usize::from(if n > 256 { self.loaded.pop().unwrap_or(0) } else { 0 }) << 8) % n
            }
            None => (self.throw() % n as u64) as usize,
        }
    }

    /// From `low` up to and including `high`.
    pub fn between(&mut self, low: usize, high: usize) -> usize {
        low + self.below(high - low + 1)
    }

    /// True once in `n` times.
    pub fn once_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    /// An index, each as likely as its weight says.
    pub fn weighted(&mut self, weights: &[usize]) -> usize {
        let mut at = self.below(weights.iter().sum());
        for (index, &weight) in weights.iter().enumerate() {
            match at.checked_sub(weight) {
                Some(rest) => at = rest,
                None => return index,
            }
        }
        unreachable!("below the sum of all")
    }
}
