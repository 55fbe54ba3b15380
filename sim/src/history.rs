//! What clients did and what they were told, with times: all that the oracles need of a world.
//!
//! Both worlds write it, neither reads it. An [`Operation`] is one command or one read as its client
//! sees it, retries included; an [`Answer`] is one reply to one block, and exists only in worlds that
//! see single requests. Never checks anything. Next: `oracle` for what is read out of it.

use bytes::Bytes;
use engine::api::CommandError;
use engine::hlc::Hlc;
use engine::ids::{LogIndex, MessageId, NodeId, Sequence, SessionId, Term};
use engine::queue::{Command, Query, Reply};
use engine::raft::Membership;
use engine::record::EntryKind;

/// What a client asked for.
#[derive(Clone, PartialEq, Debug)]
pub enum Action {
    /// To change the queues, in a session.
    Command(Command),
    /// To read.
    Query(Query),
    /// To read what one node has, however old.
    StaleQuery(Query),
}

/// How an operation ended, as far as its client knows.
#[derive(Clone, PartialEq, Debug)]
pub enum Outcome {
    /// Nobody knows: never answered, or leadership or the session was lost. It may have taken effect,
    /// and may yet.
    Unknown,
    /// Answered.
    Replied {
        /// The entry that revealed the reply: of a command the one that held the answered block, of a
        /// read the one after which it was true.
        index: LogIndex,
        /// The reply.
        reply: Reply,
        /// The messages that came along, by id, in the reply's order.
        messages: Vec<MessageId>,
    },
    /// The log refused it for good; it has not taken effect by this try.
    Failed {
        /// The entry that held the refused block.
        index: LogIndex,
        /// Why.
        error: CommandError,
    },
}

/// One command or one read as its client sees it.
#[derive(Clone, PartialEq, Debug)]
pub struct Operation {
    /// Whose, from 0.
    pub client: u64,
    /// Of a command: its name, the same for every try.
    pub command: Option<(SessionId, Sequence)>,
    /// What was asked for.
    pub action: Action,
    /// Simulated time of the first try, microseconds.
    pub invoked_us: u64,
    /// Simulated time of the answer, `u64::MAX` if there is none.
    pub returned_us: u64,
    /// How it ended.
    pub outcome: Outcome,
}

/// The name of an operation within a history: its ordinal.
pub type OperationId = usize;

/// One reply to one block.
#[derive(Clone, PartialEq, Debug)]
pub struct Answer {
    /// When it arrived, microseconds.
    pub at_us: u64,
    /// The entry that held the block.
    pub index: LogIndex,
    /// The block, exactly as it was sent.
    pub block: Bytes,
    /// One for each command.
    pub results: Vec<Result<Reply, CommandError>>,
}

/// A session that a client was told is open.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OpenedSession {
    /// Whose.
    pub client: u64,
    /// When it was told, microseconds.
    pub at_us: u64,
    /// Which.
    pub session: SessionId,
}

/// A stale read that was answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StaleRead {
    /// Which read.
    pub operation: OperationId,
    /// By which node, in which life of its process.
    pub by: (NodeId, u64),
    /// The stamp that was told.
    pub log_time: Hlc,
}

/// What an operator was told of a change.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ChangeAnswer {
    /// When it was asked for first, microseconds.
    pub asked_us: u64,
    /// When it was told, microseconds.
    pub at_us: u64,
    /// The entry that made the membership.
    pub index: LogIndex,
    /// The membership.
    pub membership: Membership,
}

/// Everything that clients did and were told, in the order in which it began.
#[derive(Clone, Default, PartialEq, Debug)]
pub struct History {
    /// Commands and reads in the order of their invocation.
    pub operations: Vec<Operation>,
    /// Replies to blocks in the order of their arrival; empty in worlds that do not see blocks.
    pub answers: Vec<Answer>,
    /// Sessions in the order in which their clients learned of them.
    pub sessions: Vec<OpenedSession>,
    /// Stale reads in the order of their answers.
    pub stale_reads: Vec<StaleRead>,
    /// Membership changes in the order of their answers.
    pub changes: Vec<ChangeAnswer>,
}

impl History {
    /// Notes the start of an operation.
    pub fn invoke(
        &mut self,
        client: u64,
        at_us: u64,
        command: Option<(SessionId, Sequence)>,
        action: Action,
    ) -> OperationId {
        assert!(
            self.operations.last().is_none_or(|last| last.invoked_us <= at_us),
            "operations are noted in the order of time"
        );
        self.operations.push(Operation {
            client,
            command,
            action,
            invoked_us: at_us,
            returned_us: u64::MAX,
            outcome: Outcome::Unknown,
        });
        self.operations.len() - 1
    }

    /// Notes the end of an operation, unless it has ended before.
    pub fn conclude(&mut self, operation: OperationId, at_us: u64, outcome: Outcome) {
        let operation = &mut self.operations[operation];
        if operation.returned_us == u64::MAX {
            assert!(at_us >= operation.invoked_us, "no answer before its question");
            operation.returned_us = at_us;
            operation.outcome = outcome;
        }
    }
}

impl Operation {
    /// The entry and the reply, if it was answered.
    #[must_use]
    pub fn reply(&self) -> Option<(LogIndex, &Reply)> {
        match &self.outcome {
            Outcome::Replied { index, reply, .. } => Some((*index, reply)),
            Outcome::Unknown | Outcome::Failed { .. } => None,
        }
    }

    /// The entry that revealed how it ended, if it ended.
    #[must_use]
    pub fn revealed_index(&self) -> Option<LogIndex> {
        match &self.outcome {
            Outcome::Unknown => None,
            Outcome::Replied { index, .. } | Outcome::Failed { index, .. } => Some(*index),
        }
    }
}

/// A committed entry, as the world saw it applied first.
#[derive(Clone, PartialEq, Debug)]
pub struct CommittedEntry {
    /// Where.
    pub index: LogIndex,
    /// Of whose term.
    pub term: Term,
    /// Its stamp.
    pub stamp: Hlc,
    /// What it means.
    pub kind: EntryKind,
    /// Its payload.
    pub payload: Bytes,
}

/// The committed entries of a run from index 1 on without gaps. A world that can look into its
/// nodes' logs hands it in along with the history, and replies can then be checked exactly.
#[derive(Clone, Default, PartialEq, Debug)]
pub struct CommittedLog {
    entries: Vec<CommittedEntry>,
}

impl CommittedLog {
    /// Adds the next entry.
    ///
    /// # Panics
    /// If it is not the next.
    pub fn push(&mut self, entry: CommittedEntry) {
        assert_eq!(entry.index.0, self.entries.len() as u64 + 1, "entries come without gaps");
        self.entries.push(entry);
    }

    /// The last entry's index, 0 if there is none.
    #[must_use]
    pub fn last_index(&self) -> LogIndex {
        LogIndex(self.entries.len() as u64)
    }

    /// An entry.
    #[must_use]
    pub fn entry(&self, index: LogIndex) -> Option<&CommittedEntry> {
        self.entries.get(usize::try_from(index.0.checked_sub(1)?).ok()?)
    }

    /// All of them, in order.
    #[must_use]
    pub fn entries(&self) -> &[CommittedEntry] {
        &self.entries
    }
}
