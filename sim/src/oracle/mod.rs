//! What must hold, each rule in its own file, checked from what clients saw and what nodes did.
//!
//! Owns the rules and nothing of any world: most read a [`History`], those that a world can feed with
//! more (committed entries, roles, digests) take plain values. A rule that fails gives a
//! [`Violation`]. Two kinds: rules over a whole run ([`check_history`]), and rules that watch while
//! the run goes on ([`committed`], [`digests`], [`leaders`]).
//!
//! | rule | file | reads |
//! |---|---|---|
//! | linearizability, by revealed order | `precedence`, `replay`, `model` | history, committed log |
//! | linearizability, by search | `search` | small histories |
//! | exactly once | `exactly_once` | history |
//! | order within a queue | `queue_order` | history |
//! | fencing of leases | `lease_fencing` | history |
//! | stamps rise with the log | `stamps` | history, applied entries |
//! | one leader a term, complete logs | `leaders` | roles, terms |
//! | one vote a term, quorums of both voter sets | `quorums` | votes, durable entries |
//! | changes by legal steps, as was answered | `memberships` | membership entries, answers |
//! | snapshots hold what the log gives | `snapshots` | snapshots on their way |
//! | stale reads are true of their entry | `stale_reads` | history, committed log |
//! | committed entries stay, logs match | `committed` | applied entries, records |
//! | equal state at equal index | `digests` | state digests |
//! | nothing acknowledged is lost | `nothing_lost` | replayed model, final queues |
//! | progress after healing | `progress` | final states |

pub mod committed;
pub mod digests;
pub mod exactly_once;
pub mod leaders;
pub mod lease_fencing;
pub mod memberships;
pub mod model;
pub mod nothing_lost;
pub mod precedence;
pub mod progress;
pub mod queue_order;
pub mod quorums;
pub mod replay;
pub mod search;
pub mod snapshots;
pub mod stale_reads;
pub mod stamps;

use crate::history::{CommittedLog, History};
use core::fmt;
use model::Model;

/// The rules, by name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rule {
    /// Replies and reads agree with one order that respects real time.
    Linearizability,
    /// No id is accepted twice within its window, no command takes effect twice.
    ExactlyOnce,
    /// First deliveries from a queue come in the order of the log.
    QueueOrder,
    /// A lease that was granted to another does nothing any more.
    LeaseFencing,
    /// Stamps rise with the log.
    Stamps,
    /// At most one leader a term.
    OneLeader,
    /// A node votes once a term.
    OneVote,
    /// Nobody leads and nothing is committed without a majority of each voter set.
    Quorum,
    /// Memberships change by legal steps, and are what the operator was told.
    Membership,
    /// What snapshots hold is what the log gives.
    Snapshots,
    /// Stale reads are of one committed state each, and do not go back.
    StaleReads,
    /// A leader has every committed entry.
    LeaderCompleteness,
    /// Committed entries never change, commit and applied indices never go back.
    CommittedStays,
    /// Entries of one index and term are the same everywhere, and so is everything before them.
    LogMatching,
    /// Nodes that have applied the same entries are in the same state.
    EqualState,
    /// What was acknowledged is there.
    NothingLost,
    /// Bytes come out as they went in.
    Integrity,
    /// Every request of a client is resolved exactly once.
    ResolvedOnce,
    /// A data directory that the node itself wrote can be opened again.
    Recovery,
    /// Once everything is repaired the cluster goes on.
    Progress,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Linearizability => "linearizability",
            Self::ExactlyOnce => "exactly-once",
            Self::QueueOrder => "queue-order",
            Self::LeaseFencing => "lease-fencing",
            Self::Stamps => "stamps-rise",
            Self::OneLeader => "one-leader-a-term",
            Self::OneVote => "one-vote-a-term",
            Self::Quorum => "quorum",
            Self::Membership => "membership",
            Self::Snapshots => "snapshots",
            Self::StaleReads => "stale-reads",
            Self::LeaderCompleteness => "leader-completeness",
            Self::CommittedStays => "committed-stays",
            Self::LogMatching => "log-matching",
            Self::EqualState => "equal-state",
            Self::NothingLost => "nothing-lost",
            Self::Integrity => "integrity",
            Self::ResolvedOnce => "resolved-once",
            Self::Recovery => "recovery",
            Self::Progress => "progress",
        })
    }
}

/// A rule that does not hold.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{rule} is violated at {}.{:06} s: {explanation}", at_us / 1_000_000, at_us % 1_000_000)]
pub struct Violation {
    /// Which rule.
    pub rule: Rule,
    /// What was seen and what should have been, with the values.
    pub explanation: String,
    /// When it was noticed, simulated microseconds; for rules over a whole history the return of
    /// the operation in question.
    pub at_us: u64,
}

impl Violation {
    /// A violation of `rule`.
    #[must_use]
    pub fn new(rule: Rule, at_us: u64, explanation: String) -> Self {
        Self { rule, explanation, at_us }
    }
}

/// Checks all rules over a whole history, and with the committed log also every reply in it.
/// Returns the replayed model's final state, if there was a log to replay.
///
/// `dedup_window_millis` and `sessions_max` are those of the engines.
///
/// # Errors
/// The first rule that does not hold.
pub fn check_history(
    history: &History,
    log: Option<&CommittedLog>,
    dedup_window_millis: u64,
    sessions_max: usize,
) -> Result<Option<Model>, Violation> {
    precedence::check(history, |operation| operation.revealed_index())?;
    exactly_once::check(history, dedup_window_millis)?;
    queue_order::check(history)?;
    lease_fencing::check(history)?;
    stamps::check(history)?;
    let Some(log) = log else { return Ok(None) };
    stale_reads::check(history, log)?;
    let replayed = replay::replay(history, log, dedup_window_millis, sessions_max)?;
    precedence::check(history, |operation| match operation.command {
        Some(command) => replayed.effects.get(&command).map(|effect| effect.index),
        None => operation.revealed_index(),
    })?;
    Ok(Some(replayed.model))
}
