//! Exhaustive check of small groups: every order of every delivery, loss, timeout, flush and crash,
//! within [`Bounds`], with the engine itself as the model.
//!
//! A state is the members (each the real `Raft`, its disk and its persists under way), the messages
//! in flight, and what has been promised so far. [stateright](https://docs.rs/stateright) walks the
//! states, breadth first, so that a violation comes with a shortest way to it. What makes it small
//! enough to end: equal members are kept once and stepped once (`catalog`), states that differ only
//! in who is who are one (`state`), time counts from now (`form`).
//!
//! Deviates from the real cluster in what cannot matter to safety, or is left to the simulations:
//! no commands and no state machine, a follower's entries are read back at once, and a crashed member
//! is back at once (one that stays down looks like one that is slow).
//!
//! Next: `model` for the actions, `properties` for what must hold, `command` for the command line.

mod catalog;
pub mod command;
mod explain;
mod form;
mod member;
mod model;
mod profile;
mod properties;
mod state;
#[cfg(test)]
mod tests;

pub use profile::{Bounds, Profile};
pub use properties::Witness;

use model::Group;
use properties::Witnesses;
use serde_json::{Value, json};
use stateright::{Checker, HasDiscoveries, Model};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// How far a check goes besides its bounds.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Steps from the start, if not as many as there are. Exact with one thread; several share out
    /// states out of order, and may leave out a few of the deepest.
    pub depth: Option<usize>,
    /// States at which it gives up, about 100 bytes each.
    pub states: usize,
    /// Threads.
    pub threads: usize,
}

impl Default for Limits {
    fn default() -> Self {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Self { depth: None, states: 60_000_000, threads }
    }
}

/// A broken promise.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    /// Which.
    pub property: &'static str,
    /// What happened, a line each.
    pub path: Vec<String>,
}

/// Why a check ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// Every state within the bounds was visited.
    Exhausted,
    /// Every state within so many steps was visited.
    Depth,
    /// There were more states than it may visit.
    GaveUp,
    /// A promise was broken.
    Violated,
}

/// What a check found.
#[derive(Clone, Debug)]
pub struct Report {
    /// Its bounds.
    pub bounds: Bounds,
    /// Different states that were visited: in which every promise was checked.
    pub states: usize,
    /// Steps that were taken to states, new ones or not.
    pub transitions: usize,
    /// Most steps from the start.
    pub depth: usize,
    /// Different members: states of one engine with its disk.
    pub members: usize,
    /// Why it ended.
    pub end: End,
    /// What it came upon.
    pub witnesses: Vec<Witness>,
    /// What does not hold.
    pub violations: Vec<Violation>,
    /// Time it took.
    pub wall: Duration,
}

impl Report {
    /// As one JSON object.
    #[must_use]
    pub fn to_json(&self) -> Value {
        json!({
            "states": self.states,
            "transitions": self.transitions,
            "depth": self.depth,
            "members": self.members,
            "exhausted": self.end == End::Exhausted,
            "violations": self.violations.len(),
            "wall_s": seconds(self.wall),
            "witnesses": self.witnesses.iter().map(|w| w.name()).collect::<Vec<_>>(),
            "bounds": self.bounds.to_json(),
        })
    }
}

fn seconds(wall: Duration) -> f64 {
    (wall.as_secs_f64() * 100.0).round() / 100.0
}

/// How far a check has come.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Different states so far.
    pub states: usize,
    /// Most steps from the start so far.
    pub depth: usize,
    /// Time so far.
    pub wall: Duration,
}

/// Checks the check: visits every state within `bounds`, and then compares all members that were taken
/// for one another. Whatever ever happened to any member must make each such pair say the same and
/// become of one form again. Returns how many were compared.
///
/// # Panics
/// If two differ: then a check may miss states.
#[must_use]
pub fn audit(bounds: Bounds) -> usize {
    let group = Group::new(bounds, true);
    let shared = std::sync::Arc::clone(&group.shared);
    let checker = group.checker().spawn_bfs().join();
    assert!(checker.discoveries().is_empty(), "only sound groups are worth an audit");
    shared.catalog.audit()
}

/// How often progress is reported.
const PROGRESS_EVERY: Duration = Duration::from_millis(200);

/// Visits every state within `bounds`, or as many as `limits` allow, and tells `on_progress` about
/// it now and then.
#[must_use]
pub fn run(bounds: Bounds, limits: Limits, mut on_progress: impl FnMut(Progress)) -> Report {
    let began = Instant::now();
    let group = Group::new(bounds, false);
    let shared = std::sync::Arc::clone(&group.shared);
    let mut builder = group.checker().threads(limits.threads.max(1));
    builder = builder.finish_when(HasDiscoveries::AnyFailures);
    if let Some(depth) = limits.depth {
        // The checker counts states along a path, and does not look into the last.
        builder = builder.target_max_depth(depth.saturating_add(2));
    }
    let mut checker = builder.spawn_bfs();
    let handles = checker.handles();
    while handles.iter().any(|handle| !handle.is_finished()) {
        let states = checker.unique_state_count();
        if states > limits.states {
            shared.is_stopped.store(true, Ordering::Relaxed);
        }
        on_progress(Progress { states, depth: checker.max_depth(), wall: began.elapsed() });
        std::thread::park_timeout(PROGRESS_EVERY);
    }
    let is_whole = handles.into_iter().all(|handle| handle.join().is_ok());
    assert!(is_whole, "a thread of the check panicked");
    let violations = explain::violations(&checker);
    let depth = checker.max_depth().saturating_sub(1);
    let end = match limits.depth {
        _ if !violations.is_empty() => End::Violated,
        _ if shared.is_stopped.load(Ordering::Relaxed) => End::GaveUp,
        Some(limit) if depth > limit => End::Depth,
        Some(_) | None => End::Exhausted,
    };
    Report {
        bounds,
        states: shared.visited.load(Ordering::Relaxed),
        transitions: checker.state_count(),
        depth: limits.depth.map_or(depth, |limit| limit.min(depth)),
        members: shared.catalog.members_count(),
        end,
        witnesses: Witnesses::seen(&shared.witnesses),
        violations,
        wall: began.elapsed(),
    }
}
