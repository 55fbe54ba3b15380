//! A node's two clocks, as wrong as the scenario wants them.
//!
//! Owns the way from simulated time to what a node reads. The monotonic clock may run too fast or too
//! slow and never steps back within one life of a process; the wall clock may also jump and stand
//! still. Never read by anything but `node`.

use engine::time::{Micros, Now};

/// Simulated time 0 on a true wall clock: 2026-01-01 00:00 UTC, microseconds since 1970.
pub(crate) const EPOCH_US: u64 = 1_767_225_600_000_000;

const MILLION: i64 = 1_000_000;

/// The clocks of one machine.
#[derive(Clone, Debug)]
pub(crate) struct Clock {
    /// Too fast by so many parts in a million; above -1,000,000.
    rate_ppm: i64,
    /// Where the present rate began: simulated time, and both clocks then.
    since_us: u64,
    monotonic_us: u64,
    wall_us: i64,
    is_wall_frozen: bool,
}

impl Clock {
    /// Clocks that run at true speed; the wall clock is `skew_us` ahead, the monotonic one starts
    /// anywhere.
    #[must_use]
    pub(crate) fn new(monotonic_us: u64, skew_us: i64) -> Self {
        let wall_us = i64::try_from(EPOCH_US).expect("2026 fits") + skew_us;
        Self { rate_ppm: 0, since_us: 0, monotonic_us, wall_us, is_wall_frozen: false }
    }

    fn elapsed(&self, true_us: u64) -> u64 {
        let span = i64::try_from(true_us - self.since_us).expect("runs are short");
        let skewed = i128::from(span) * i128::from(MILLION + self.rate_ppm) / i128::from(MILLION);
        u64::try_from(skewed).expect("rates are above -1,000,000 ppm")
    }

    /// What the clocks say at a simulated time.
    #[must_use]
    pub(crate) fn now(&self, true_us: u64) -> Now {
        let elapsed = self.elapsed(true_us);
        let wall_elapsed = if self.is_wall_frozen { 0 } else { elapsed };
        let wall = self.wall_us + i64::try_from(wall_elapsed).expect("runs are short");
        Now {
            monotonic: Micros(self.monotonic_us + elapsed),
            wall: Micros(u64::try_from(wall).unwrap_or(0)),
            wall_error: Micros(1_000),
        }
    }

    /// The earliest simulated time, not before `from_us`, at which the monotonic clock has reached
    /// `deadline`.
    #[must_use]
    pub(crate) fn when(&self, deadline: Micros, from_us: u64) -> u64 {
        let span = i128::from(deadline.0.saturating_sub(self.monotonic_us));
        let rate = i128::from(MILLION + self.rate_ppm);
        let true_span = (span * i128::from(MILLION) + rate - 1) / rate;
        let true_span = u64::try_from(true_span).unwrap_or(u64::MAX);
        self.since_us.saturating_add(true_span).max(from_us)
    }

    /// Starts a new piece at a simulated time, so that rates and offsets can change.
    fn settle(&mut self, true_us: u64) {
        let now = self.now(true_us);
        self.since_us = true_us;
        self.monotonic_us = now.monotonic.0;
        self.wall_us = i64::try_from(now.wall.0).expect("wall times fit");
    }

    /// Both clocks run too fast by `ppm` parts in a million from now on.
    pub(crate) fn set_rate(&mut self, true_us: u64, ppm: i64) {
        self.settle(true_us);
        self.rate_ppm = ppm.max(1 - MILLION);
    }

    /// The wall clock jumps.
    pub(crate) fn jump(&mut self, true_us: u64, by_us: i64) {
        self.settle(true_us);
        self.wall_us = self.wall_us.saturating_add(by_us).max(0);
    }

    /// The wall clock stands still.
    pub(crate) fn freeze(&mut self, true_us: u64) {
        self.settle(true_us);
        self.is_wall_frozen = true;
    }

    /// The wall clock tells true time again.
    pub(crate) fn repair(&mut self, true_us: u64) {
        self.settle(true_us);
        self.is_wall_frozen = false;
        self.wall_us = i64::try_from(EPOCH_US + true_us).expect("runs are short");
    }

    /// A process starts: its monotonic clock means nothing to the one before.
    pub(crate) fn restart(&mut self, true_us: u64, monotonic_us: u64) {
        self.settle(true_us);
        self.monotonic_us = monotonic_us;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_reached_when_the_clock_says_so_and_not_before() {
        for ppm in [-900_000, -7, 0, 13, 200_000] {
            let mut clock = Clock::new(1_000, 0);
            clock.set_rate(500, ppm);
            for deadline in [1_500, 1_501, 2_000, 123_457] {
                let when = clock.when(Micros(deadline), 500);
                assert!(clock.now(when).monotonic.0 >= deadline, "{ppm} ppm, {deadline}");
                assert!(when == 500 || clock.now(when - 1).monotonic.0 < deadline);
            }
        }
    }

    #[test]
    fn the_monotonic_clock_never_steps_back_whatever_the_wall_clock_does() {
        let mut clock = Clock::new(0, 0);
        let before = clock.now(1_000).monotonic;
        clock.jump(1_000, -5_000_000);
        clock.freeze(1_000);
        clock.set_rate(1_000, -999_999);
        assert!(clock.now(1_000).monotonic >= before);
        assert_eq!(clock.now(2_000).wall, Micros(EPOCH_US + 1_000 - 5_000_000));
        clock.repair(3_000);
        assert_eq!(clock.now(3_000).wall, Micros(EPOCH_US + 3_000));
    }
}
