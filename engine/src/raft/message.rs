//! Messages between the members of a group. Each carries the sender's term (§5.1).
//!
//! Any of them may be lost, delayed, duplicated and reordered; none relies on a connection.
//! Next: `raft` for what each role does with them, `wire::peer` for how they travel.

use crate::ids::{LogIndex, Term};
use crate::record::Record;
use alloc::vec::Vec;

/// A message from one member to another.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Message {
    /// The sender's term; for a pre-vote request the term that it would campaign in.
    pub term: Term,
    /// What it says.
    pub body: Body,
}

/// What a message says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Body {
    /// Would you vote for me? Nobody's term rises by it (thesis §9.6).
    PreVoteRequest {
        /// Term and index of the sender's last entry (§5.4.1).
        last: LogPosition,
    },
    /// The answer. `granted` answers carry the asked term; refusals the answerer's own.
    PreVoteResponse {
        /// Whether.
        granted: bool,
    },
    /// Vote for me (§5.2).
    VoteRequest {
        /// Term and index of the sender's last entry (§5.4.1).
        last: LogPosition,
    },
    /// The answer; sent only once the vote is durable.
    VoteResponse {
        /// Whether.
        granted: bool,
    },
    /// Entries of the leader, or a heartbeat if there are none (§5.3).
    Append {
        /// The entry just before the first of `records`.
        previous: LogPosition,
        /// The leader's commit index.
        commit: LogIndex,
        /// The leader's latest read round: a response to this message confirms all reads up to it.
        round: u64,
        /// Consecutive entries.
        records: Vec<Record>,
    },
    /// The answer to an append.
    AppendResponse {
        /// The round of the append that is answered, or the latest one heard in this term.
        round: u64,
        /// How it went.
        outcome: AppendOutcome,
    },
}

/// Term and index of an entry; both 0 before the first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct LogPosition {
    /// First, so that positions compare as §5.4.1 compares logs.
    pub term: Term,
    /// Second.
    pub index: LogIndex,
}

/// How an append went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AppendOutcome {
    /// The follower's log equals the leader's up to `match_index`, durably.
    Matched {
        /// Durable and validated against this leader.
        match_index: LogIndex,
    },
    /// The follower has no entry like `previous`.
    Rejected {
        /// The index of the append's `previous`, so that a stale rejection is recognised.
        previous_index: LogIndex,
        /// The follower's last entry whose term is at most the rejected one's, for a fast back-off
        /// (§5.3, last paragraphs): the logs can only agree at or before it.
        hint: LogPosition,
    },
}
