//! Instants and spans, passed in and never fetched.
//!
//! The engine reads no clock: every step is told the time. Next: `hlc` makes stamps of it.

use bincode::{Decode, Encode};
use core::fmt;
use core::ops::{Add, Sub};

/// Microseconds: a span, or an instant on a node's monotonic clock.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug, Encode, Decode)]
pub struct Micros(pub u64);

impl Micros {
    /// No time at all.
    pub const ZERO: Self = Self(0);
    /// Later than every instant that will come.
    pub const MAX: Self = Self(u64::MAX);

    /// A span of whole milliseconds.
    #[must_use]
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis * 1_000)
    }

    /// A span of whole seconds.
    #[must_use]
    pub const fn from_secs(secs: u64) -> Self {
        Self(secs * 1_000_000)
    }

    /// Whole milliseconds, rounded down.
    #[must_use]
    pub const fn as_millis(self) -> u64 {
        self.0 / 1_000
    }

    /// The span from `earlier` to `self`, zero if it is not earlier.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Self {
        Self(self.0.saturating_sub(earlier.0))
    }
}

impl Add for Micros {
    type Output = Self;
    fn add(self, span: Self) -> Self {
        Self(self.0.saturating_add(span.0))
    }
}

impl Sub for Micros {
    type Output = Self;
    fn sub(self, span: Self) -> Self {
        Self(self.0.saturating_sub(span.0))
    }
}

impl fmt::Display for Micros {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:06}s", self.0 / 1_000_000, self.0 % 1_000_000)
    }
}

/// What a node's clocks said when a step began.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Now {
    /// Monotonic clock: never steps back within one run of a process, and means nothing outside it.
    /// All timeouts are measured on it.
    pub monotonic: Micros,
    /// Wall clock, microseconds since 1970-01-01 UTC. May be wrong, may jump, may stand still:
    /// only the HLC reads it, and nothing that has to be right depends on it.
    pub wall: Micros,
    /// How far the wall clock may be from the truth, as far as its source knows.
    pub wall_error: Micros,
}
