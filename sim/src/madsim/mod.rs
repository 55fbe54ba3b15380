//! The madsim world: the real node and the real client library on a simulated network.
//!
//! Runs `node::run` and `client::Client` as they are, on madsim's single-threaded runtime, with
//! disks, clocks and entropy of our own: every decision comes from the scenario's seed, so equal
//! scenarios give equal runs. Scenarios, histories and oracles are those of the lockstep world.
//! What madsim's TCP does not do (lose, double or reorder single messages) is the lockstep world's
//! business; what the lockstep world does not run (framing, sockets, dialers, the driver's loop, the
//! client's session and fail-over) is this one's.
//!
//! Next: `cluster` for the course of a run, `machine` for a node's world, `watcher` for what is seen of
//! it, `actor` for the clients, `explain` for how calls are told from the log.

mod actor;
mod admin;
mod cluster;
mod damage;
mod disk;
mod explain;
mod faults;
mod machine;
mod matching;
mod pause;
mod watcher;
mod world;

use crate::history::{CommittedLog, History};
use crate::outcome::Outcome;
use crate::scenario::{Network, Scenario};
use crate::sweep;
use crate::trace::Trace;
use ::madsim::runtime::Runtime;
use std::time::Duration;

/// A run with all that it leaves behind.
#[derive(Debug)]
pub struct Run {
    /// How it ended.
    pub outcome: Outcome,
    /// What clients saw, with every command under the name that it has in the log.
    pub history: History,
    /// What was committed.
    pub log: CommittedLog,
}

/// Runs a scenario.
///
/// # Panics
/// If a node or a client does: invariants are checked after every turn. See
/// [`crate::sweep::guarded`].
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
    // A thread of its own: madsim seeds the hash maps of a thread once, at its first runtime.
    let scenario = scenario.clone();
    let run = std::thread::spawn(move || {
        sweep::guarded(|| {
            let config = ::madsim::Config { net: network(&scenario.network), ..Default::default() };
            let runtime = Runtime::with_seed_and_config(scenario.seed, config);
            runtime.block_on(cluster::run(scenario, trace))
        })
    });
    match run.join() {
        Ok(Ok(run)) => run,
        Ok(Err(message)) => panic!("{message}"),
        Err(_) => panic!("the thread of a run ended without a word"),
    }
}

/// The network of the fault phase. Loss delays: TCP sends again.
fn network(settings: &Network) -> ::madsim::net::Config {
    let from = Duration::from_micros(settings.latency_us_min);
    let until = Duration::from_micros(settings.latency_us_max + 1);
    ::madsim::net::Config {
        packet_loss_rate: f64::from(settings.loss_ppm) / 1e6,
        send_latency: from..until,
    }
}
