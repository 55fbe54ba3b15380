//! Seeded randomness, split into named streams.
//!
//! Owns the one way to get a random number in this crate: a stream is made of the scenario's seed and
//! a name, so that drawing more from one (another fault, say) leaves all others as they were. Never
//! touches the system's entropy. Next: `scenario` draws a whole run from one seed.

use rand::rngs::Xoshiro256PlusPlus;
use rand::{Rng, RngExt, SeedableRng};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// A million: probabilities are given in parts of it.
pub const MILLION: u32 = 1_000_000;

/// A stream of random numbers.
#[derive(Clone, Debug)]
pub struct Stream {
    rng: Xoshiro256PlusPlus,
}

impl Stream {
    /// The stream called `name` of `seed`.
    #[must_use]
    pub fn new(seed: u64, name: &str) -> Self {
        let seed = xxh3_64_with_seed(name.as_bytes(), seed);
        Self { rng: Xoshiro256PlusPlus::seed_from_u64(seed) }
    }

    /// The stream called `name` of a numbered thing, as a node or a client.
    #[must_use]
    pub fn of(seed: u64, name: &str, number: u64) -> Self {
        Self::new(xxh3_64_with_seed(&number.to_le_bytes(), seed), name)
    }

    /// For those who draw by themselves.
    pub fn rng(&mut self) -> &mut Xoshiro256PlusPlus {
        &mut self.rng
    }

    /// Any number.
    pub fn next_u64(&mut self) -> u64 {
        self.rng.next_u64()
    }

    /// A number from `low` up to and including `high`.
    ///
    /// # Panics
    /// If `low > high`.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        assert!(low <= high, "an empty range: {low} to {high}");
        self.rng.random_range(low..=high)
    }

    /// An ordinal below `count`.
    ///
    /// # Panics
    /// If `count` is 0.
    pub fn below(&mut self, count: usize) -> usize {
        assert!(count > 0, "nothing to choose from");
        self.rng.random_range(0..count)
    }

    /// Whether something of probability `ppm` in a million happens.
    pub fn chance(&mut self, ppm: u32) -> bool {
        // Nothing is drawn for certainties, which are frequent: faults that a scenario turned off.
        ppm > 0 && self.rng.random_range(0..MILLION) < ppm
    }

    /// Whether something of probability 1 in `n` happens.
    pub fn one_in(&mut self, n: u32) -> bool {
        self.rng.random_range(0..n.max(1)) == 0
    }

    /// One of `choices`.
    ///
    /// # Panics
    /// If there is none.
    pub fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }

    /// An ordinal, drawn in proportion to `weights`.
    ///
    /// # Panics
    /// If all weights are 0.
    pub fn weighted(&mut self, weights: &[u32]) -> usize {
        let total: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
        assert!(total > 0, "all weights are 0");
        let mut at = self.between(0, total - 1);
        for (ordinal, weight) in weights.iter().enumerate() {
            match at.checked_sub(u64::from(*weight)) {
                Some(rest) => at = rest,
                None => return ordinal,
            }
        }
        unreachable!("`at` is below the sum of the weights")
    }

    /// A number from `low` to `high`, small ones far more often: uniform in its number of digits.
    pub fn skewed(&mut self, low: u64, high: u64) -> u64 {
        assert!(low <= high, "an empty range: {low} to {high}");
        let spread = high - low;
        let bits = self.between(0, u64::from(u64::BITS - spread.leading_zeros()));
        let bound = if bits >= 64 { spread } else { spread.min((1 << bits) - 1) };
        low + self.between(0, bound)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_names_give_equal_streams_and_others_differ() {
        let mut first = Stream::new(7, "network");
        let mut same = Stream::new(7, "network");
        let mut other = Stream::new(7, "faults");
        let mut numbered = Stream::of(7, "network", 1);
        let drawn = first.next_u64();
        assert_eq!(drawn, same.next_u64());
        assert_ne!(drawn, other.next_u64());
        assert_ne!(drawn, numbered.next_u64());
    }

    #[test]
    fn weights_of_zero_are_never_drawn() {
        let mut stream = Stream::new(1, "test");
        for _ in 0..1_000 {
            assert_eq!(stream.weighted(&[0, 3, 0]), 1);
        }
    }

    #[test]
    fn skewed_numbers_stay_in_their_range_and_reach_both_halves() {
        let mut stream = Stream::new(1, "test");
        let drawn: Vec<u64> = (0..1_000).map(|_| stream.skewed(3, 1_000)).collect();
        assert!(drawn.iter().all(|number| (3..=1_000).contains(number)));
        assert!(drawn.iter().any(|number| *number > 500));
        assert!(drawn.iter().filter(|number| **number < 100).count() > 400);
    }
}
