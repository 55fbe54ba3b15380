//! Hybrid logical clock: 48 bits of milliseconds and a 16-bit counter in one `u64` (Kulkarni et al.,
//! "Logical Physical Clocks", 2014).
//!
//! Owns the rule that stamps only rise. Never decides order by itself: order is the log's, and the
//! leader stamps each entry with `max(clock, last + 1)`, so stamps merely agree with it.
//! Next: `raft::leader` stamps entries, `queue` measures leases and windows in stamps.

use crate::time::Micros;
use bincode::{Decode, Encode};
use core::fmt;

/// A stamp. Compares as a number: milliseconds first, then the counter.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug, Encode, Decode)]
pub struct Hlc(pub u64);

const COUNTER_BITS: u32 = 16;
const COUNTER_MASK: u64 = (1 << COUNTER_BITS) - 1;
const MILLIS_MAX: u64 = (1 << 48) - 1;

impl Hlc {
    /// Before every stamp.
    pub const ZERO: Self = Self(0);

    /// The stamp of a millisecond with counter 0; the time saturates at 48 bits (year 10889).
    #[must_use]
    pub const fn from_millis(millis: u64) -> Self {
        let millis = if millis > MILLIS_MAX { MILLIS_MAX } else { millis };
        Self(millis << COUNTER_BITS)
    }

    /// Milliseconds since 1970-01-01 UTC, as the stamping clock believed.
    #[must_use]
    pub const fn millis(self) -> u64 {
        self.0 >> COUNTER_BITS
    }

    /// Ordinal among the stamps of one millisecond, 0 to 65,535.
    #[must_use]
    pub const fn counter(self) -> u16 {
        (self.0 & COUNTER_MASK) as u16
    }

    /// The next stamp: the counter carries over into the milliseconds when it is full.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// The stamp `span` later, with the same counter. Used for deadlines in log time.
    #[must_use]
    pub const fn after_millis(self, millis: u64) -> Self {
        Self(self.0.saturating_add(millis << COUNTER_BITS))
    }
}

impl fmt::Display for Hlc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:03}+{}", self.millis() / 1_000, self.millis() % 1_000, self.counter())
    }
}

/// Mints stamps that rise, whatever the wall clock does.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Clock {
    last: Hlc,
}

impl Clock {
    /// A clock that has seen `last`.
    #[must_use]
    pub const fn starting_after(last: Hlc) -> Self {
        Self { last }
    }

    /// The greatest stamp minted or seen.
    #[must_use]
    pub const fn last(&self) -> Hlc {
        self.last
    }

    /// Mints a stamp above all earlier ones: the wall clock's millisecond, or one more than the last.
    pub fn stamp(&mut self, wall: Micros) -> Hlc {
        self.last = self.last.next().max(Hlc::from_millis(wall.as_millis()));
        self.last
    }

    /// Learns of a stamp from elsewhere, so that later ones exceed it.
    pub fn observe(&mut self, seen: Hlc) {
        self.last = self.last.max(seen);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_rise_while_the_wall_clock_stands_still_or_steps_back() {
        let mut clock = Clock::default();
        let first = clock.stamp(Micros::from_millis(1_000));
        let second = clock.stamp(Micros::from_millis(1_000));
        let third = clock.stamp(Micros::from_millis(10));
        assert!(first < second && second < third);
        assert_eq!(third.millis(), 1_000);
    }

    #[test]
    fn a_full_counter_carries_into_the_milliseconds() {
        let full = Hlc((7 << COUNTER_BITS) | COUNTER_MASK);
        assert_eq!(full.next(), Hlc::from_millis(8));
    }

    #[test]
    fn an_observed_stamp_is_exceeded_by_the_next() {
        let mut clock = Clock::default();
        clock.observe(Hlc::from_millis(5_000));
        assert!(clock.stamp(Micros::from_millis(1)) > Hlc::from_millis(5_000));
    }
}
