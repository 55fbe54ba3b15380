//! Hybrid logical clock: 48 bits of milliseconds and a 16-bit counter in one `u64` (Kulkarni et al.,
//! "Logical Physical Clocks", 2014).
//!
//! Owns the rule that stamps only rise. Never decides order by itself: order is the log's, and the
//! leader stamps each entry with `max(clock, last + 1)`, so stamps merely agree with it.
//! Next: `engine` stamps entries, `queue` measures leases and windows in stamps.

use crate::time::{Micros, Now};
use alloc::format;
use alloc::string::String;
use bincode::{Decode, Encode};
use core::fmt;

/// A stamp. Compares as a number: milliseconds first, then the counter.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug, Encode, Decode)]
pub struct Hlc(pub u64);

const COUNTER_BITS: u32 = 16;
const COUNTER_MASK: u64 = (1 << COUNTER_BITS) - 1;
const MILLIS_MAX: u64 = (1 << 48) - 1;
/// A wall clock beyond the year 6429 is not believed: stamps must have room to rise.
const WALL_MILLIS_MAX: u64 = MILLIS_MAX / 2;

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

    /// Its wall-clock time, UTC to the millisecond, as in RFC 3339.
    #[must_use]
    pub fn to_rfc3339(self) -> String {
        let millis = self.millis();
        let (days, in_day) = (millis / 86_400_000, millis % 86_400_000);
        let (year, month, day) = civil(days);
        let (hour, minute) = (in_day / 3_600_000, in_day / 60_000 % 60);
        let (second, milli) = (in_day / 1_000 % 60, in_day % 1_000);
        format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milli:03}Z")
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

/// The date of a day since 1970-01-01 (Hinnant, "chrono-compatible low-level date algorithms").
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

impl fmt::Display for Hlc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:03}+{}", self.millis() / 1_000, self.millis() % 1_000, self.counter())
    }
}

/// How much faster than its monotonic clock a leader lets log time run when the wall clock is ahead:
/// one part in eight, so that a wall clock set forward by 8 s is followed within about a minute, and
/// one that jumped by a day does not end every lease and every dedup window at once.
const CATCH_UP_SHARE: u64 = 8;

/// Mints stamps that rise, whatever the wall clock does.
///
/// Between two stamps, log time moves by what the monotonic clock measured, give or take the
/// catch-up share towards the wall clock. Only a process that has not seen a stamp yet, or has seen
/// it only on its disk, has to believe the wall clock outright.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Clock {
    last: Hlc,
    reference: Option<Reference>,
}

/// An instant of this process's monotonic clock and the log time at it. In microseconds: with whole
/// milliseconds a leader that stamps often would gain or lose a fraction with every stamp.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Reference {
    monotonic: Micros,
    log: Micros,
}

impl Clock {
    /// A clock that has found `last` on its disk, written an unknown time ago.
    #[must_use]
    pub const fn recovered(last: Hlc) -> Self {
        Self { last, reference: None }
    }

    /// The greatest stamp minted or seen.
    #[must_use]
    pub const fn last(&self) -> Hlc {
        self.last
    }

    /// What the log time of an entry made now would be, but for the counter.
    #[must_use]
    pub fn log_millis(&self, now: Now) -> u64 {
        self.log_time(now).as_millis()
    }

    fn log_time(&self, now: Now) -> Micros {
        let wall = now.wall.min(Micros::from_millis(WALL_MILLIS_MAX));
        let Some(Reference { monotonic, log }) = self.reference else {
            return wall.max(Micros::from_millis(self.last.millis()));
        };
        let elapsed = now.monotonic.since(monotonic);
        let slowest = log + elapsed;
        let fastest = slowest + Micros(elapsed.0 / CATCH_UP_SHARE);
        wall.clamp(slowest, fastest)
    }

    /// Mints a stamp above all earlier ones.
    pub fn stamp(&mut self, now: Now) -> Hlc {
        let log = self.log_time(now);
        self.last = self.last.next().max(Hlc::from_millis(log.as_millis()));
        // A full counter has carried into the milliseconds: log time is at least there.
        let log = log.max(Micros::from_millis(self.last.millis()));
        self.reference = Some(Reference { monotonic: now.monotonic, log });
        self.last
    }

    /// Learns of a stamp from elsewhere, so that later ones exceed it.
    pub fn observe(&mut self, stamp: Hlc, now: Now) {
        if stamp <= self.last {
            return;
        }
        // Within one millisecond the earlier instant stays the reference: renewing it each time
        // would lose the fractions.
        if stamp.millis() != self.last.millis() || self.reference.is_none() {
            let log = Micros::from_millis(stamp.millis());
            self.reference = Some(Reference { monotonic: now.monotonic, log });
        }
        self.last = stamp;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(monotonic_millis: u64, wall_millis: u64) -> Now {
        Now {
            monotonic: Micros::from_millis(monotonic_millis),
            wall: Micros::from_millis(wall_millis),
            wall_error: Micros::ZERO,
        }
    }

    #[test]
    fn stamps_rise_while_the_wall_clock_stands_still() {
        let mut clock = Clock::default();
        let first = clock.stamp(at(0, 1_000));
        let second = clock.stamp(at(0, 1_000));
        assert!(first < second);
        assert_eq!(second.millis(), 1_000);
    }

    #[test]
    fn log_time_goes_on_at_the_monotonic_pace_after_the_wall_clock_steps_back() {
        let mut clock = Clock::default();
        let _ = clock.stamp(at(0, 100_000));
        assert_eq!(clock.stamp(at(5_000, 10)).millis(), 105_000);
    }

    #[test]
    fn a_wall_clock_that_jumps_ahead_is_followed_slowly() {
        let mut clock = Clock::default();
        let _ = clock.stamp(at(0, 100_000));
        assert_eq!(clock.stamp(at(8_000, 100_000_000)).millis(), 109_000);
    }

    #[test]
    fn a_wall_clock_that_jumps_ahead_is_followed_as_slowly_by_a_leader_that_stamps_often() {
        let mut clock = Clock::default();
        let _ = clock.stamp(at(0, 100_000));
        let wall = Micros::from_secs(1_000_000);
        let mut last = Hlc::ZERO;
        for micros in (0..=8_000_000).step_by(100) {
            let now = Now { monotonic: Micros(micros), wall, wall_error: Micros::ZERO };
            last = clock.stamp(now);
        }
        assert!((108_900..=109_000).contains(&last.millis()), "{last}");
    }

    #[test]
    fn log_time_loses_no_fractions_while_the_wall_clock_is_behind() {
        let mut clock = Clock::default();
        let _ = clock.stamp(at(0, 100_000));
        let mut last = Hlc::ZERO;
        for micros in (0..=1_900_000).step_by(1_900) {
            last = clock.stamp(Now { monotonic: Micros(micros), ..Now::default() });
        }
        assert_eq!(last.millis(), 101_900);
    }

    #[test]
    fn a_stamp_from_disk_lets_the_wall_clock_decide() {
        let mut clock = Clock::recovered(Hlc::from_millis(1_000));
        assert_eq!(clock.stamp(at(0, 90_000)).millis(), 90_000);
    }

    #[test]
    fn a_full_counter_carries_into_the_milliseconds() {
        let full = Hlc((7 << COUNTER_BITS) | COUNTER_MASK);
        assert_eq!(full.next(), Hlc::from_millis(8));
    }

    #[test]
    fn an_observed_stamp_is_exceeded_by_the_next() {
        let mut clock = Clock::default();
        clock.observe(Hlc::from_millis(5_000), at(0, 1));
        assert!(clock.stamp(at(0, 1)) > Hlc::from_millis(5_000));
    }
}
