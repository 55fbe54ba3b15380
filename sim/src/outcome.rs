//! How a run ended: one verdict, with what it rests on.

use crate::oracle::{Rule, Violation};
use core::fmt;
use serde::Serialize;

/// How a run ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Every rule held, and the cluster converged.
    Ok,
    /// Something happened that must never happen.
    Safety(Violation),
    /// Something did not happen in time that must happen.
    Liveness(Violation),
    /// Our own code panicked.
    Crash {
        /// Where and why.
        message: String,
    },
}

impl Verdict {
    /// One word: `ok`, `safety`, `liveness` or `crash`.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Safety(_) => "safety",
            Self::Liveness(_) => "liveness",
            Self::Crash { .. } => "crash",
        }
    }

    /// Whether every rule held.
    #[must_use]
    pub const fn is_ok(&self) -> bool {
        matches!(self, Self::Ok)
    }
}

impl From<Violation> for Verdict {
    fn from(violation: Violation) -> Self {
        match violation.rule {
            Rule::Progress => Self::Liveness(violation),
            Rule::Linearizability
            | Rule::ExactlyOnce
            | Rule::QueueOrder
            | Rule::LeaseFencing
            | Rule::Stamps
            | Rule::OneLeader
            | Rule::OneVote
            | Rule::Quorum
            | Rule::Membership
            | Rule::Snapshots
            | Rule::StaleReads
            | Rule::LeaderCompleteness
            | Rule::CommittedStays
            | Rule::LogMatching
            | Rule::EqualState
            | Rule::NothingLost
            | Rule::Integrity
            | Rule::ResolvedOnce
            | Rule::Recovery => Self::Safety(violation),
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ok => f.write_str("ok"),
            Self::Safety(violation) => write!(f, "safety: {violation}"),
            Self::Liveness(violation) => write!(f, "liveness: {violation}"),
            Self::Crash { message } => write!(f, "crash: {message}"),
        }
    }
}

/// What a run did, for people who wonder whether it did anything.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, Serialize)]
pub struct Counts {
    /// Events of the world: messages, disk jobs, turns, wake-ups, faults.
    pub events: u64,
    /// Simulated time, microseconds.
    pub simulated_us: u64,
    /// Operations of clients.
    pub operations: u64,
    /// Of these, answered.
    pub answered: u64,
    /// Entries committed.
    pub entries: u64,
    /// Terms that had a leader.
    pub leaders: u64,
    /// Lives of processes, all nodes together.
    pub lives: u64,
    /// Disks that were damaged, with what the atlas of faults refused left out.
    pub damaged: u64,
    /// Nodes that refused to run at the end, for what was done to their disks.
    pub excused: u64,
}

/// A finished run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// The scenario's seed.
    pub seed: u64,
    /// How it ended.
    pub verdict: Verdict,
    /// Of all events; equal for equal runs. 0 after a crash, which has no end.
    pub trace_hash: u64,
    /// What it did.
    pub counts: Counts,
}
