//! Seeded randomness: message ids and jitter.
//!
//! Owns the one place that may ask the operating system, and only when no seed is given: with a
//! seed, equal calls give equal numbers, which is what a simulation replays. The generator is
//! SplitMix64 (Steele, Lea, Flood 2014) in counter mode, so that handles share it without a lock.

use engine::ids::MessageId;
use std::sync::atomic::{AtomicU64, Ordering};

const GOLDEN_GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

/// A source of ids and jitter. One per client.
#[derive(Debug)]
pub(crate) struct Entropy {
    keys: [u64; 2],
    counter: AtomicU64,
}

impl Entropy {
    /// From `seed`, or from the operating system if there is none.
    ///
    /// # Errors
    /// The operating system has no entropy to give.
    pub(crate) fn new(seed: Option<u64>) -> Result<Self, getrandom::Error> {
        let keys = match seed {
            Some(seed) => [mix(seed), mix(seed ^ GOLDEN_GAMMA)],
            None => [getrandom::u64()?, getrandom::u64()?],
        };
        Ok(Self { keys, counter: AtomicU64::new(0) })
    }

    /// A fresh message id: a version 4 UUID. Both halves are bijections of the counter, so one
    /// client never mints the same id twice.
    pub(crate) fn message_id(&self) -> MessageId {
        let count = self.counter.fetch_add(1, Ordering::Relaxed);
        let high = mix(self.keys[0].wrapping_add(count.wrapping_mul(GOLDEN_GAMMA)));
        let low = mix(self.keys[1] ^ mix(count.wrapping_add(self.keys[0])));
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&high.to_be_bytes());
        bytes[8..].copy_from_slice(&low.to_be_bytes());
        MessageId(uuid::Builder::from_random_bytes(bytes).into_uuid().into_bytes())
    }

    /// A span drawn evenly from `span / 2` to `span`, so that clients that failed together do not
    /// come back together.
    pub(crate) fn jittered(&self, span: std::time::Duration) -> std::time::Duration {
        let count = self.counter.fetch_add(1, Ordering::Relaxed);
        let share = (mix(self.keys[1].wrapping_add(count)) >> 40) as u32;
        span / 2 + (span / 2).mul_f64(f64::from(share) / f64::from(1 << 24))
    }
}

fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(GOLDEN_GAMMA);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail")]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn equal_seeds_mint_equal_ids_and_different_seeds_different_ones() {
        let ids = |seed| {
            let entropy = Entropy::new(Some(seed)).unwrap();
            (0..100).map(|_| entropy.message_id()).collect::<Vec<_>>()
        };
        assert_eq!(ids(1), ids(1));
        let mut all: Vec<_> = ids(1).into_iter().chain(ids(2)).collect();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 200);
    }

    #[test]
    fn ids_are_version_4_uuids() {
        let id = Entropy::new(Some(3)).unwrap().message_id();
        assert_eq!(uuid::Uuid::from_bytes(id.0).get_version_num(), 4);
    }

    #[test]
    fn jitter_stays_within_half_and_whole() {
        let entropy = Entropy::new(Some(4)).unwrap();
        let span = Duration::from_millis(100);
        for _ in 0..1_000 {
            let drawn = entropy.jittered(span);
            assert!(drawn >= span / 2);
            assert!(drawn <= span);
        }
    }
}
