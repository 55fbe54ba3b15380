//! The lockstep world: whole clusters in one plain event loop, without threads and without async.
//!
//! Replicas on lying disks, a faulty network, faulty clocks and impatient clients, all driven by one
//! queue of events in the order of simulated time. Equal scenarios give equal runs, bit for bit.
//! Next: `world` for the loop, `faults` for what breaks, `client` and `node` for the actors.

mod admin;
mod client;
pub(crate) mod clock;
mod damage;
mod event;
mod faults;
mod network;
mod node;
mod session;
mod verify;
mod world;

use crate::history::{CommittedLog, History};
use crate::outcome::Outcome;
use crate::scenario::Scenario;
use crate::trace::Trace;

/// A run with all that it leaves behind.
#[derive(Debug)]
pub struct Run {
    /// How it ended.
    pub outcome: Outcome,
    /// What clients saw.
    pub history: History,
    /// What was committed.
    pub log: CommittedLog,
}

/// Runs a scenario.
///
/// # Panics
/// If an engine does: its invariants are checked after every turn. See [`crate::sweep::guarded`].
#[must_use]
pub fn run_scenario(scenario: &Scenario) -> Outcome {
    run_traced(scenario, Trace::hash_only()).outcome
}

/// Runs a scenario and writes to `trace`.
///
/// # Panics
/// As [`run_scenario`].
#[must_use]
pub fn run_traced(scenario: &Scenario, trace: Trace) -> Run {
    let mut world = world::World::new(scenario, trace);
    let result = world.run();
    let outcome = world.outcome(result);
    let (history, log) = world.into_records();
    Run { outcome, history, log }
}
