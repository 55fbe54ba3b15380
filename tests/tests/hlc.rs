//! Stamps rise and log time keeps the monotonic clock's pace, whatever the wall clock says.

use engine::hlc::{Clock, Hlc};
use engine::time::{Micros, Now};
use proptest::prelude::*;

/// One use of the clock, some time after the last.
#[derive(Clone, Debug)]
struct Use {
    /// Monotonic microseconds since the last use.
    elapsed: u64,
    /// The wall clock's milliseconds: anything.
    wall_millis: u64,
    /// A stamp that came in first, as a distance from the last one; not every time.
    observed: Option<u64>,
}

fn uses() -> impl Strategy<Value = Vec<Use>> {
    let wall =
        prop_oneof![0..2_000_000_u64, Just(0), Just(u64::MAX / 1_000), 999_000..1_001_000_u64];
    let one = (0..5_000_000_u64, wall, prop::option::weighted(0.2, 0..1_000_000_u64));
    let one =
        one.prop_map(|(elapsed, wall_millis, observed)| Use { elapsed, wall_millis, observed });
    prop::collection::vec(one, 1..200)
}

fn now(monotonic: u64, wall_millis: u64) -> Now {
    Now {
        monotonic: Micros(monotonic),
        wall: Micros::from_millis(wall_millis),
        wall_error: Micros::ZERO,
    }
}

proptest! {
    #[test]
    fn every_stamp_exceeds_all_that_were_minted_or_seen(uses in uses()) {
        let mut clock = Clock::default();
        let (mut monotonic, mut greatest) = (0, Hlc::ZERO);
        for Use { elapsed, wall_millis, observed } in uses {
            monotonic += elapsed;
            if let Some(distance) = observed {
                let stamp = Hlc(greatest.0 + distance);
                clock.observe(stamp, now(monotonic, wall_millis));
                greatest = greatest.max(stamp);
            }
            let stamp = clock.stamp(now(monotonic, wall_millis));
            prop_assert!(stamp > greatest, "{stamp} after {greatest}");
            greatest = stamp;
        }
    }

    /// So no lease and no window ends early or late by more than an eighth, however a leader's wall
    /// clock jumps; however often it stamps, rounding is 1 ms at most.
    #[test]
    fn log_time_keeps_the_monotonic_pace_however_the_wall_clock_jumps(uses in uses()) {
        let mut clock = Clock::default();
        let start = clock.stamp(now(0, 1_000_000)).millis();
        let mut monotonic = 0;
        for Use { elapsed, wall_millis, .. } in uses {
            monotonic += elapsed;
            let passed = clock.stamp(now(monotonic, wall_millis)).millis() - start;
            let elapsed_millis = monotonic / 1_000;
            prop_assert!(passed >= elapsed_millis, "{passed} ms of {elapsed_millis}");
            prop_assert!(passed <= elapsed_millis * 9 / 8 + 1, "{passed} ms of {elapsed_millis}");
        }
    }

    #[test]
    fn a_stamp_reads_back_and_orders_by_time_first(a in 0..1_u64 << 48, b in 0..1_u64 << 48, n in 0..u16::MAX) {
        let stamp = Hlc(Hlc::from_millis(a).0 | u64::from(n));
        prop_assert_eq!((stamp.millis(), stamp.counter()), (a, n));
        prop_assert_eq!(stamp < Hlc::from_millis(b), a < b);
    }
}
