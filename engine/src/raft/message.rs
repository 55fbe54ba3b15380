//! Messages between the members of a group. Each carries the sender's term (§5.1).
//!
//! Any of them may be lost, delayed, duplicated and reordered; none relies on a connection.
//! Next: `raft` for what each role does with them, `wire::peer` for how they travel.

use super::snapshot::SnapshotMeta;
use crate::ids::{LogIndex, Term};
use crate::record::Record;
use alloc::boxed::Box;
use alloc::vec::Vec;
use bincode::{Decode, Encode};
use bytes::Bytes;

/// A message from one member to another.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Message {
    /// The sender's term; for a pre-vote request the term that it would campaign in.
    pub term: Term,
    /// What it says.
    pub body: Body,
}

/// What a message says.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
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
        /// The leader itself wants this election, so that nobody has to be true to it (thesis §3.10).
        is_transfer: bool,
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
        /// How the follower does.
        standing: Standing,
        /// How it went.
        outcome: AppendOutcome,
    },
    /// A piece of a snapshot, for a follower that needs entries which are gone (§7).
    Snapshot {
        /// As in an append.
        round: u64,
        /// Which snapshot, and how the log goes on after it.
        meta: Box<SnapshotMeta>,
        /// Where the piece belongs, bytes from the start.
        offset: u64,
        /// The piece; empty only if the snapshot is.
        chunk: Bytes,
    },
    /// The answer to a piece. A whole snapshot is answered like an append.
    SnapshotResponse {
        /// As in the answer to an append.
        round: u64,
        /// How the follower does.
        standing: Standing,
        /// The last entry in the snapshot.
        last: LogPosition,
        /// The first byte that the follower lacks.
        next_offset: u64,
    },
    /// Campaign at once: the leader hands over to you (thesis §3.10).
    TimeoutNow,
    /// From which entry on is what is true now? A follower wants to answer a read (thesis §6.4).
    ReadRequest {
        /// The follower's number for it, never reused.
        id: u64,
    },
    /// The answer, once a quorum has confirmed that the sender led when it was asked.
    ReadResponse {
        /// The number in the request.
        id: u64,
        /// What must be applied.
        index: LogIndex,
    },
    /// You are no member any more; to one that asks for votes.
    Removed {
        /// The committed entry that says so.
        membership_index: LogIndex,
    },
    /// Records that the sender lacks. This and its answer have nothing to do with terms: they are of
    /// committed entries, which are the same everywhere; see `engine::repair`.
    RecordsRequest {
        /// Rising, at most [`RECORDS_REQUEST_MAX`](crate::limits::RECORDS_REQUEST_MAX) of them.
        indices: Vec<LogIndex>,
    },
    /// The answer: as many of them as fit, from the first one on.
    Records {
        /// Rising.
        records: Vec<Record>,
        /// Those that the sender does not have, rising, and before the last of which it has all that
        /// `records` does not name either.
        absent: Vec<LogIndex>,
        /// What the sender had applied then: what it has let go, no later state refers to.
        applied: LogIndex,
    },
    /// Your log ends before an entry that you have told this leader of as durable, in this very term: your
    /// directory is an older copy of itself.
    OlderCopy {
        /// That entry.
        matched: LogPosition,
    },
}

/// What a follower tells of itself, so that the leader knows to whom it can hand over.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Encode, Decode)]
pub struct Standing {
    /// Its priority: leadership goes to the highest that is fit.
    pub priority: u8,
    /// Whether its disk, its clock and its state machine keep up, and it lacks nothing.
    pub is_fit: bool,
    /// Whether it has every record that its state refers to, as far as any member has.
    pub is_complete: bool,
    /// Whether its disk is short of space.
    pub is_short: bool,
}

/// Term and index of an entry; both 0 before the first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug, Encode, Decode)]
pub struct LogPosition {
    /// First, so that positions compare as §5.4.1 compares logs.
    pub term: Term,
    /// Second.
    pub index: LogIndex,
}

/// How an append went.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Encode, Decode)]
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
    /// The append is of an earlier term than the answer, and tells nothing of the logs. Whoever leads in
    /// the answer's term must not take it for a refusal of its own.
    StaleTerm,
    /// The follower knows that its log is damaged, and asks for a snapshot of at least all that it
    /// ever vouched for.
    WantsSnapshot {
        /// The last entry that the snapshot must have.
        at_least: LogIndex,
    },
    /// The follower has no entry like `previous`, as in a rejection; and whatever it matched before, in
    /// this term too, counts no more: its disk has lost it.
    Lost {
        /// The index of the append's `previous`.
        previous_index: LogIndex,
        /// As in a rejection.
        hint: LogPosition,
    },
}
