//! What everybody in a run shares: the machines, what was seen of them, and what clients did.
//!
//! One lock around all of it, never held across an await. Next: `machine` and `watcher` for who
//! fills it, `cluster` for who judges.

use super::explain::Call;
use super::machine::{Machine, address};
use crate::history::ChangeAnswer;
use crate::oracle::Violation;
use crate::oracle::committed::Committed;
use crate::oracle::digests::Digests;
use crate::oracle::leaders::Leaders;
use crate::outcome::{Counts, Outcome, Verdict};
use crate::scenario::Scenario;
use crate::trace::Trace;
use engine::ids::{NodeId, Term};
use engine::raft::Membership;
use madsim_tokio::time::Instant;
use std::sync::{Arc, Mutex, MutexGuard};

/// Kinds of events in the trace's hash.
pub(super) mod kind {
    pub(in crate::madsim) const START: u8 = 1;
    pub(in crate::madsim) const STOP: u8 = 2;
    pub(in crate::madsim) const TURN: u8 = 3;
    pub(in crate::madsim) const DISK: u8 = 4;
    pub(in crate::madsim) const FAULT: u8 = 5;
    pub(in crate::madsim) const REPAIR: u8 = 6;
    pub(in crate::madsim) const ROLE: u8 = 7;
    pub(in crate::madsim) const APPLIED: u8 = 8;
    pub(in crate::madsim) const OTHER: u8 = 9;
    pub(in crate::madsim) const CALL: u8 = 10;
    pub(in crate::madsim) const ANSWER: u8 = 11;
}

/// All that a run's parts share.
#[derive(Debug)]
pub(super) struct World {
    pub(super) scenario: Scenario,
    origin: Instant,
    pub(super) machines: Vec<Machine>,
    pub(super) is_healed: bool,
    pub(super) committed: Committed,
    /// When each committed entry was first applied anywhere, by index from 1, microseconds.
    pub(super) applied_us: Vec<u64>,
    pub(super) leaders: Leaders,
    /// The highest term that anybody was seen to lead, and who.
    pub(super) last_leader: Option<(Term, u64)>,
    pub(super) digests: Digests,
    pub(super) calls: Vec<Call>,
    pub(super) changes: Vec<ChangeAnswer>,
    pub(super) trace: Trace,
    /// The first rule that did not hold.
    pub(super) violation: Option<Violation>,
}

/// A handle on the world.
#[derive(Clone, Debug)]
pub(super) struct Shared(Arc<Mutex<World>>);

impl Shared {
    /// The world of a scenario at time 0.
    pub(super) fn new(scenario: Scenario, trace: Trace) -> Self {
        let machines = (1..=scenario.machines()).map(|node| Machine::new(&scenario, NodeId(node)));
        let machines = machines.collect();
        let founders = scenario.founders(NodeId(1), address);
        Self(Arc::new(Mutex::new(World {
            scenario,
            origin: Instant::now(),
            machines,
            is_healed: false,
            committed: Committed::new(Membership::founding(founders)),
            applied_us: Vec::new(),
            leaders: Leaders::default(),
            last_leader: None,
            digests: Digests::default(),
            calls: Vec::new(),
            changes: Vec::new(),
            trace,
            violation: None,
        })))
    }

    /// Looks at the world. Never keep the guard across an await.
    pub(super) fn lock(&self) -> MutexGuard<'_, World> {
        self.0.lock().expect("a run that panicked is not looked at again")
    }
}

impl World {
    /// Simulated time, microseconds.
    pub(super) fn now_us(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_micros()).expect("runs are short")
    }

    /// The machine of a node.
    pub(super) fn machine(&mut self, node: u64) -> &mut Machine {
        &mut self.machines[usize::try_from(node - 1).expect("nodes are few")]
    }

    /// Notes an event in the trace, now.
    pub(super) fn event(&mut self, kind: u8, who: u64, numbers: [u64; 2]) {
        let now_us = self.now_us();
        self.trace.event(now_us, kind, who, numbers);
    }

    /// A line of the readable trace.
    pub(super) fn tell(&mut self, who: &str, role: char, what: std::fmt::Arguments<'_>) {
        if self.trace.is_read() {
            let now_us = self.now_us();
            self.trace.line(now_us, who, role, what);
        }
    }

    /// Keeps the first violation.
    pub(super) fn judge(&mut self, result: Result<(), Violation>) {
        if let Err(violation) = result {
            self.tell("--", '!', format_args!("{violation}"));
            self.violation.get_or_insert(violation);
        }
    }

    /// How the run ended.
    pub(super) fn outcome(&self, result: Result<(), Violation>) -> Outcome {
        Outcome {
            seed: self.scenario.seed,
            verdict: result.map_or_else(Verdict::from, |()| Verdict::Ok),
            trace_hash: self.trace.hash(),
            counts: Counts {
                events: self.trace.events(),
                simulated_us: self.now_us(),
                operations: self.calls.len() as u64,
                answered: self.calls.iter().filter(|call| call.is_answered()).count() as u64,
                entries: self.committed.log().last_index().0,
                leaders: self.leaders.count() as u64,
                lives: self.machines.iter().map(|machine| machine.life).sum(),
                damaged: self.machines.iter().filter(|machine| machine.is_struck).count() as u64,
                excused: self.machines.iter().filter(|machine| machine.is_excused()).count() as u64,
            },
        }
    }
}
