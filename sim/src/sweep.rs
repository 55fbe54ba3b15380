//! Runs seeds: one after another or many at once, each guarded against panics.
//!
//! Owns the pool and the order of results. A seed is one run in one thread; results come in the order
//! of the seeds whatever thread was faster. Next: `main` prints them.

use crate::outcome::{Counts, Outcome, Verdict};
use crate::scenario::Scenario;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Once, mpsc};

thread_local! {
    static IS_GUARDED: Cell<bool> = const { Cell::new(false) };
    static PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Runs `run` and turns a panic in it into its message and place, without printing it.
///
/// # Errors
/// What the panic said, and where.
pub fn guarded<T>(run: impl FnOnce() -> T) -> Result<T, String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let previous = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if IS_GUARDED.get() {
                PANIC.set(info.to_string());
            } else {
                previous(info);
            }
        }));
    });
    let was_guarded = IS_GUARDED.replace(true);
    // A run that panicked is thrown away whole, so nobody sees what it left half done.
    let result = catch_unwind(AssertUnwindSafe(run));
    IS_GUARDED.set(was_guarded);
    result.map_err(|_| PANIC.take())
}

/// Runs a scenario in a world; a panic becomes [`Verdict::Crash`].
#[must_use]
pub fn run_guarded(scenario: &Scenario, world: fn(&Scenario) -> Outcome) -> Outcome {
    guarded(|| world(scenario)).unwrap_or_else(|message| Outcome {
        seed: scenario.seed,
        verdict: Verdict::Crash { message },
        trace_hash: 0,
        counts: Counts::default(),
    })
}

/// Runs the scenarios of `seeds` on `jobs` threads (at least one) and hands each outcome to `report`
/// in the order of the seeds. Stops early once `report` returns false.
pub fn sweep(
    seeds: Range<u64>,
    jobs: usize,
    world: fn(&Scenario) -> Outcome,
    mut report: impl FnMut(Outcome) -> bool,
) {
    let next = AtomicU64::new(seeds.start);
    let is_over = AtomicBool::new(false);
    let (sender, outcomes) = mpsc::channel();
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            let (sender, next, is_over, end) = (sender.clone(), &next, &is_over, seeds.end);
            scope.spawn(move || {
                while !is_over.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        break;
                    }
                    let outcome = run_guarded(&Scenario::from_seed(seed), world);
                    if sender.send((seed, outcome)).is_err() {
                        break;
                    }
                }
            });
        }
        drop(sender);
        let mut waiting = BTreeMap::new();
        let mut due = seeds.start;
        for (seed, outcome) in outcomes {
            waiting.insert(seed, outcome);
            while let Some(outcome) = waiting.remove(&due) {
                due += 1;
                if !report(outcome) {
                    is_over.store(true, Ordering::Relaxed);
                    return;
                }
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn world(scenario: &Scenario) -> Outcome {
        assert!(scenario.seed != 3, "seed 3 is unlucky");
        let verdict = Verdict::Ok;
        Outcome { seed: scenario.seed, verdict, trace_hash: 1, counts: Counts::default() }
    }

    #[test]
    fn outcomes_come_in_the_order_of_seeds_and_a_panic_is_one_of_them() {
        let mut outcomes = Vec::new();
        sweep(0..6, 3, world, |outcome| {
            outcomes.push(outcome);
            true
        });
        let seeds: Vec<u64> = outcomes.iter().map(|outcome| outcome.seed).collect();
        assert_eq!(seeds, [0, 1, 2, 3, 4, 5]);
        let Verdict::Crash { message } = &outcomes[3].verdict else { panic!("{outcomes:?}") };
        assert!(message.contains("seed 3 is unlucky") && message.contains("sweep.rs"), "{message}");
        assert!(outcomes[4].verdict.is_ok());
    }
}
