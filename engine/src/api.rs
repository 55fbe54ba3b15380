//! What a caller may ask of the engine and what it may be told.
//!
//! Every token that comes in with a request resolves exactly once with a [`Response`].
//! Next: `engine` for how requests are served, `wire::client` for how they travel.

use crate::ids::{LogIndex, NodeId, Sequence, SessionId};
use crate::time::Micros;
use alloc::vec::Vec;
use bincode::{Decode, Encode};
use bytes::Bytes;

/// A caller's name for one request; the engine only hands it back. Unique among unresolved ones.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Token(pub u64);

/// A request of a client.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Request {
    /// Put a block into the log (see `block`) and answer when it has been applied.
    Propose(Bytes),
    /// Answer from a state that is at least as new as any answer given before this request came in
    /// (linearizable read, thesis §6.4).
    Query(Bytes),
    /// Answer as soon as what the query describes can be had, at the latest at `until` on the
    /// monotonic clock. A hint and not a promise: another client may be faster.
    Watch {
        /// In the state machine's own encoding.
        query: Bytes,
        /// Monotonic deadline.
        until: Micros,
    },
}

/// How a request ended.
#[derive(Clone, PartialEq, Debug)]
pub enum Response<R> {
    /// The block was committed and applied; one result for each command, in order.
    Applied {
        /// The entry that holds the block.
        index: LogIndex,
        /// One for each command.
        results: Vec<Result<R, CommandError>>,
        /// The payload parts that the replies refer to, in the order of the replies.
        bodies: Vec<Bytes>,
    },
    /// The session is open.
    SessionOpened(SessionId),
    /// The session is closed (or was already gone).
    SessionClosed,
    /// A query's answer.
    Answer {
        /// The entry after which the answer was true.
        at: LogIndex,
        /// The answer.
        reply: R,
        /// The payload parts that the reply refers to, in order.
        bodies: Vec<Bytes>,
    },
    /// A command of the block, the `command`th, is invalid. Nothing of the block took effect.
    Invalid {
        /// Ordinal within the block.
        command: u32,
        /// What the state machine says of it.
        reply: R,
    },
    /// The block took effect (or the query was answered), but the answer has more bytes than a frame
    /// may. Ask again in smaller parts: for a block, its commands with the same sequences.
    TooLarge {
        /// Bytes of the answer.
        bytes: u64,
        /// The most that one answer can have.
        max: u64,
    },
    /// What was watched for is there.
    Ready,
    /// What was watched for did not come in time.
    TimedOut,
    /// The request did not take effect and never will.
    Rejected(Rejection),
    /// Leadership was lost before the outcome was known: the block may or may not take effect. A
    /// retry in the same session with the same sequences is safe.
    Unknown {
        /// Who may know.
        leader: Option<NodeId>,
    },
}

/// Why a single command of an applied block has no reply. Decided in the log, so it is final and the
/// same on every node.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Encode, Decode, thiserror::Error)]
pub enum CommandError {
    /// The session is not known: it was never opened, was closed, or was idle for too long.
    #[error(
        "session is unknown or expired; open a new one, and read before repeating what was unanswered"
    )]
    SessionExpired,
    /// An earlier command of the session is missing. Nothing was applied.
    #[error("an earlier command of the session is missing; resend from sequence {expected}")]
    SequenceGap {
        /// The sequence that must come next.
        expected: Sequence,
    },
    /// A repetition of a command whose reply the client said it had.
    #[error("the reply was acknowledged by the client and is forgotten")]
    ReplyForgotten,
}

/// Why a request was refused without any effect.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Encode, Decode, thiserror::Error)]
pub enum Rejection {
    /// Only the leader serves requests.
    #[error("this node does not lead the cluster; ask {}", match .leader { Some(node) => alloc::format!("node {node}"), None => "again after the election".into() })]
    NotLeader {
        /// The leader, as far as this node knows.
        leader: Option<NodeId>,
    },
    /// A bound is reached. Retry later.
    #[error("the leader has {used} of {max} {what} in use; retry after a pause")]
    Full {
        /// What there is too much of.
        what: Bounded,
        /// How much.
        used: u64,
        /// The bound.
        max: u64,
    },
    /// The request's bytes make no sense.
    #[error("malformed request: {reason}")]
    Malformed {
        /// What is wrong.
        reason: alloc::string::String,
    },
    /// The node is shutting down.
    #[error("this node is shutting down; ask another")]
    ShuttingDown,
}

/// What there can be too much of.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Encode, Decode)]
pub enum Bounded {
    /// Bytes that are proposed and not yet committed.
    UncommittedBytes,
    /// Requests that wait for their answer.
    WaitingRequests,
}

impl core::fmt::Display for Bounded {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::UncommittedBytes => "uncommitted bytes",
            Self::WaitingRequests => "waiting requests",
        })
    }
}
