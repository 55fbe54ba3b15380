//! Whether this member is fit to lead, as far as it shows above Raft: its clocks, and its applying.
//!
//! A frozen or racing monotonic clock spoils leases and time-outs; a wall clock alone can spoil nothing,
//! but which of the two is wrong cannot be told. So a single jump, as of a clock that is set, counts for
//! nothing, and only two windows in a row do. Next: `raft::transfer` for what comes of it.

use crate::ids::LogIndex;
use crate::raft::Handicap;
use crate::time::{Micros, Now};

/// Length of a window, on whichever clock runs faster.
const WINDOW: Micros = Micros::from_secs(1);

/// Pause between two looks.
const LOOK_EVERY: Micros = Micros::from_millis(10);

/// What is watched.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Fitness {
    /// When the present window began.
    began: Option<(Micros, Micros)>,
    /// Windows in a row in which the clocks went apart.
    bad_windows: u32,
    /// How far applying had come, and when that was new.
    applied: (LogIndex, Micros),
    look_at: Micros,
    is_incomplete: bool,
}

impl Fitness {
    /// Whether it is time for another look.
    pub(super) fn is_due(&self, now: Now, is_incomplete: bool) -> bool {
        now.monotonic >= self.look_at || is_incomplete != self.is_incomplete
    }

    /// Looks at the clocks and at what is applied of what is committed. An applying that stands still
    /// for `stall` is stalled.
    pub(super) fn watch(
        &mut self,
        now: Now,
        (applied_index, commit_index): (LogIndex, LogIndex),
        stall: Micros,
        is_incomplete: bool,
    ) -> Handicap {
        self.look_at = now.monotonic + LOOK_EVERY;
        self.is_incomplete = is_incomplete;
        self.watch_clocks(now);
        if applied_index != self.applied.0 || applied_index >= commit_index {
            self.applied = (applied_index, now.monotonic);
        }
        Handicap {
            is_apply_stalled: now.monotonic.since(self.applied.1) >= stall,
            is_clock_bad: self.bad_windows >= 2,
            is_incomplete,
            ..Handicap::default()
        }
    }

    fn watch_clocks(&mut self, now: Now) {
        let Some((monotonic, wall)) = self.began else {
            self.began = Some((now.monotonic, now.wall));
            return;
        };
        let (went, wall_went) = (now.monotonic.since(monotonic).0, now.wall.0.abs_diff(wall.0));
        if went.max(wall_went) < WINDOW.0 {
            return;
        }
        // A tenth: far more than any sound clock drifts, and less than any limit here tolerates.
        let is_apart = went.abs_diff(wall_went) > went.max(wall_went) / 10;
        self.bad_windows = if is_apart { self.bad_windows.saturating_add(1) } else { 0 };
        self.began = Some((now.monotonic, now.wall));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(monotonic_ms: u64, wall_ms: u64) -> Now {
        let (monotonic, wall) = (Micros::from_millis(monotonic_ms), Micros::from_millis(wall_ms));
        Now { monotonic, wall, wall_error: Micros::ZERO }
    }

    fn watch(fitness: &mut Fitness, now: Now) -> Handicap {
        fitness.watch(now, (LogIndex(1), LogIndex(1)), Micros::from_millis(300), false)
    }

    #[test]
    fn a_clock_that_is_set_once_is_not_bad() {
        let mut fitness = Fitness::default();
        for second in 0..10 {
            let wall = second * 1_000 + if second >= 5 { 3_600_000 } else { 0 };
            assert!(!watch(&mut fitness, at(second * 1_000, wall)).is_clock_bad, "{second}");
        }
    }

    #[test]
    fn a_clock_that_stands_still_or_races_is_bad_until_it_goes_right_again() {
        for (per_second, is_bad) in [(0, true), (500, true), (990, false), (1_500, true)] {
            let mut fitness = Fitness::default();
            let mut wall = 0;
            for second in 0..5 {
                wall += per_second;
                watch(&mut fitness, at(second * 1_000, wall));
            }
            assert_eq!(watch(&mut fitness, at(5_000, wall + per_second)).is_clock_bad, is_bad);
            for second in 6..9 {
                wall += 1_000;
                watch(&mut fitness, at(second * 1_000, wall));
            }
            assert!(!watch(&mut fitness, at(9_000, wall + 1_000)).is_clock_bad, "{per_second}");
        }
    }

    #[test]
    fn applying_is_stalled_when_something_waits_and_nothing_moves() {
        let mut fitness = Fitness::default();
        let stall = Micros::from_millis(300);
        let mut watch = |ms, applied, commit| {
            let indices = (LogIndex(applied), LogIndex(commit));
            fitness.watch(at(ms, ms), indices, stall, false).is_apply_stalled
        };
        assert!(!watch(0, 5, 5));
        assert!(!watch(1_000, 5, 5), "nothing waits");
        assert!(!watch(1_100, 5, 9));
        assert!(watch(1_400, 5, 9));
        assert!(!watch(1_500, 6, 9), "it moves");
    }
}
