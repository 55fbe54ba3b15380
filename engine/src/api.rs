//! What a caller may ask of the engine and what it may be told.
//!
//! Every token that comes in with a request resolves exactly once with a [`Response`].
//! Next: `engine` for how requests are served, `wire::client` for how they travel.

use crate::hlc::Hlc;
use crate::ids::{GroupId, LogIndex, NodeId, Sequence, SessionId};
use crate::raft::{ChangeError, ChangeRequest, Membership, SnapshotMeta};
use crate::time::Micros;
use alloc::boxed::Box;
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
    /// The same from any member: a follower asks the leader from where on, and answers itself.
    QueryHere(Bytes),
    /// Answer at once from what this member has applied, however old; the answer says how old.
    QueryStale(Bytes),
    /// Change the membership.
    Change(ChangeRequest),
    /// Hand leadership over, to this voter or to the best.
    Transfer {
        /// To whom.
        to: Option<NodeId>,
    },
    /// Answer as soon as what the query describes can be had, at the latest at `until` on the
    /// monotonic clock. A hint and not a promise: another client may be faster.
    Watch {
        /// In the state machine's own encoding.
        query: Bytes,
        /// Monotonic deadline.
        until: Micros,
    },
    /// The next step of a backup, served by any member.
    Backup(BackupRequest),
}

/// A step of a backup; see [`crate::backup`]. A member serves one backup at a time, and lets go of
/// nothing that belongs to it until it is ended, or nobody has asked for
/// [`BACKUP_PATIENCE`](crate::limits::BACKUP_PATIENCE).
#[derive(Clone, PartialEq, Eq, Hash, Debug, Encode, Decode)]
pub enum BackupRequest {
    /// Make ready a snapshot that has at least this entry; to be asked again until it is.
    Begin {
        /// The client's name for the backup; random, so that no other client has it.
        backup: u64,
        /// The last entry that must be in it.
        at_least: LogIndex,
    },
    /// A piece of the snapshot's state.
    State {
        /// Which backup.
        backup: u64,
        /// Bytes from its start.
        offset: u64,
        /// Bytes wanted, at most 1 MiB.
        len: u32,
    },
    /// Records, at most 4,096, in the order of their indices.
    Records {
        /// Which backup.
        backup: u64,
        /// Which records.
        indices: Vec<LogIndex>,
    },
    /// The client has all, or gives up.
    End {
        /// Which backup.
        backup: u64,
    },
}

/// How a step of a backup ended.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub enum BackupAnswer {
    /// Not ready: the member has applied entries up to this one, or is saving the snapshot.
    Preparing {
        /// The last entry applied.
        applied: LogIndex,
    },
    /// The snapshot is ready to be pulled.
    Ready {
        /// The group.
        group: GroupId,
        /// What is in it.
        meta: Box<SnapshotMeta>,
    },
    /// The piece of the state, as the one body; empty at the state's end.
    State,
    /// The records from the first one asked for on, each a body: at least one, and as many as there
    /// are in 4 MiB.
    Records,
    /// The member does not have this record now; another may.
    Absent {
        /// Which.
        index: LogIndex,
    },
    /// The backup is ended.
    Ended,
    /// The member knows nothing of this backup, or not any more: begin another, here or elsewhere.
    Gone,
    /// Another backup is being pulled from this member.
    Busy {
        /// When its client will be taken for gone, if it asks for nothing any more.
        left: Micros,
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
    /// A stale read's answer.
    Stale {
        /// The entry after which the answer was true.
        at: LogIndex,
        /// That entry's stamp.
        log_time: Hlc,
        /// The answer.
        reply: R,
        /// The payload parts that the reply refers to, in order.
        bodies: Vec<Bytes>,
    },
    /// The membership is changed, and the change committed, by the voters that it leaves.
    Changed {
        /// The entry that ended the change; for a repetition, the one that made the membership.
        index: LogIndex,
        /// The membership since.
        membership: Box<Membership>,
    },
    /// Another member leads.
    Transferred {
        /// Which.
        leader: NodeId,
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
    /// A step of a backup.
    Backup {
        /// How it ended.
        answer: BackupAnswer,
        /// The bytes that were asked for.
        bodies: Vec<Bytes>,
    },
    /// As with [`TooLarge`](Self::TooLarge), but a body that goes with the answer cannot be read: this
    /// member lacks the entry, and could not get it from another yet; or nobody has it.
    BodyMissing {
        /// The entry.
        entry: LogIndex,
        /// Whether no member has it any more. If not, ask again, as after [`Unknown`](Self::Unknown).
        is_lost: bool,
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
    /// Too many disks are nearly full: commands that would add to what is stored are refused. Others
    /// are not.
    #[error("{0}")]
    NoSpace(Shortage),
    /// Leadership is being handed over; the next leader will serve this.
    #[error("leadership is being handed over to node {to}; ask it in a moment")]
    Transferring {
        /// To whom.
        to: NodeId,
    },
    /// The membership cannot be changed as asked, or not now.
    #[error("{0}")]
    Change(ChangeError),
    /// Leadership cannot be handed over as asked.
    #[error("{0}")]
    Transfer(TransferError),
    /// The node is shutting down.
    #[error("this node is shutting down; ask another")]
    ShuttingDown,
}

/// A quorum cannot be had without voters that are short of disk space.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Encode, Decode)]
pub struct Shortage {
    /// Which are short.
    pub short: Vec<NodeId>,
    /// How many voters there are.
    pub voters: u32,
}

impl core::fmt::Display for Shortage {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let Self { short, voters } = self;
        write!(f, "{} of {voters} voters are short of disk space (node", short.len())?;
        for (at, node) in short.iter().enumerate() {
            write!(f, "{} {node}", if at == 0 { "" } else { "," })?;
        }
        f.write_str(
            "), so nothing can be added; take, acknowledge, delete or purge messages, or give those \
             nodes space, and try again",
        )
    }
}

/// Disk space as a node knows it: its own, and whether the cluster is short.
#[derive(Clone, PartialEq, Eq, Hash, Default, Debug, Encode, Decode)]
pub struct Room {
    /// Bytes that this node may still write; `None` if it does not know.
    pub free_bytes: Option<u64>,
    /// With less it is short; 0: it has no reserve.
    pub reserve_bytes: u64,
    /// Whether it is short: from less than the reserve on until there is twice as much.
    pub is_short: bool,
    /// Why the cluster refuses what would add to what is stored, if it does; as of the last entry that
    /// this node applied.
    pub shortage: Option<Shortage>,
}

/// What there can be too much of.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Encode, Decode)]
pub enum Bounded {
    /// Bytes that are proposed and not yet committed.
    UncommittedBytes,
    /// Requests that wait for their answer.
    WaitingRequests,
    /// Bytes of queries, and of answers that wait for the disk.
    WaitingBytes,
}

/// Why leadership was not handed over.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Encode, Decode, thiserror::Error)]
pub enum TransferError {
    /// Not a member that votes.
    #[error("node {to} does not vote and cannot lead; name a voter")]
    NotAVoter {
        /// Which.
        to: NodeId,
    },
    /// Nobody to hand over to.
    #[error("no other voter is within reach, has caught up and is fit to lead; retry when one is")]
    NoCandidate,
    /// It did not take over in time, and this node leads on.
    #[error("node {to} did not take over within an election timeout; this node leads on")]
    TimedOut {
        /// Which.
        to: NodeId,
    },
    /// Another transfer began meanwhile.
    #[error("a transfer to node {to} took its place")]
    Replaced {
        /// To whom.
        to: NodeId,
    },
}

impl core::fmt::Display for Bounded {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::UncommittedBytes => "uncommitted bytes",
            Self::WaitingRequests => "waiting requests",
            Self::WaitingBytes => "bytes of waiting requests",
        })
    }
}
