//! How a call can end when it is not acknowledged.
//!
//! Two cases and no more, because a caller has two things to do: after [`Rejected`] nothing
//! happened and nothing will, after [`Unknown`] the caller must look or repeat idempotently.

use engine::api::{Shortage, TransferError};
use engine::ids::LogIndex;
use engine::queue::Invalid;
use engine::raft::ChangeError;
use std::fmt;
use std::time::Duration;
use thiserror::Error;

/// A call that was not acknowledged.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum CallError {
    /// It had no effect and never will.
    #[error("rejected: {0}")]
    Rejected(#[from] Rejected),
    /// It may or may not have taken effect, or may yet.
    #[error("outcome unknown: {0}")]
    Unknown(#[from] Unknown),
}

impl CallError {
    /// What the caller can do next, as a sentence without a full stop.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Rejected(rejected) => rejected.remedy(),
            Self::Unknown(unknown) => unknown.remedy(),
        }
    }
}

/// Why a call had no effect.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum Rejected {
    /// It makes no sense to the queues.
    #[error("{0}")]
    Invalid(Invalid),
    /// It does not fit into one block.
    #[error("the messages of this send take {bytes} bytes together, one send takes {max}")]
    TooLarge {
        /// As asked.
        bytes: usize,
        /// At most.
        max: usize,
    },
    /// A node could not read it.
    #[error("the leader could not read the request: {reason}")]
    Malformed {
        /// What the node says.
        reason: String,
    },
    /// Too many of the cluster's disks are nearly full for anything to be added.
    #[error("{0}")]
    NoSpace(Shortage),
    /// The deadline passed before a leader could be given the call, or, for a read, before one
    /// answered.
    #[error("no answer within {} ms: {trouble}", timeout.as_millis())]
    Deadline {
        /// The call's time.
        timeout: Duration,
        /// What stood in the way.
        trouble: String,
    },
    /// A message of the answer is on no node any more.
    #[error(
        "entry {entry} of the log, which holds a message of the answer, is on no node any more"
    )]
    BodyLost {
        /// The entry.
        entry: LogIndex,
    },
    /// No node with this number is known.
    #[error("no node {node} is known; the cluster has nodes {known}")]
    NoSuchNode {
        /// As asked.
        node: u64,
        /// Those that are known, separated by commas.
        known: String,
    },
    /// The membership cannot be changed as asked, or not now.
    #[error("{0}")]
    Change(ChangeError),
    /// Leadership cannot be handed over as asked.
    #[error("{0}")]
    Transfer(TransferError),
    /// The client was closed.
    #[error("the client is closed")]
    Closed,
}

impl Rejected {
    /// What the caller can do next, as a sentence without a full stop.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Invalid(_) => "correct the request",
            Self::TooLarge { .. } => "split it into several sends",
            Self::NoSpace(_) => {
                "receive or delete messages, or give the nodes disk space, then call again"
            }
            Self::Malformed { .. } => "check that client and nodes are of compatible versions",
            Self::Deadline { .. } => {
                "check with `posthaste nodes` that a majority of the nodes runs, then call again"
            }
            Self::BodyLost { .. } => {
                "delete that message; `posthaste nodes` tells how the nodes are"
            }
            Self::NoSuchNode { .. } => "ask for one of those",
            Self::Change(_) | Self::Transfer(_) => "see `posthaste members`",
            Self::Closed => "connect again",
        }
    }
}

/// Why the outcome of a call is unknown.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum Unknown {
    /// A leader was given the call and its answer did not come in time.
    #[error("handed to a leader, and no answer within {} ms: {trouble}", timeout.as_millis())]
    Deadline {
        /// The call's time.
        timeout: Duration,
        /// What stood in the way.
        trouble: String,
    },
    /// The session expired while the call was being retried.
    #[error("the session expired while this call was being retried")]
    SessionExpired,
    /// It was applied, and its reply is gone.
    #[error("the command was applied earlier and its reply is forgotten")]
    ReplyForgotten,
    /// A reply came that this build cannot make sense of.
    #[error("the reply does not fit the call: {reason}")]
    Reply {
        /// What does not fit.
        reason: String,
    },
    /// The background task ended before the answer came.
    #[error("the client was closed before the answer came")]
    Closed,
}

impl Unknown {
    /// What the caller can do next, as a sentence without a full stop.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Deadline { .. } | Self::SessionExpired | Self::Closed => {
                "send again with the same message id, which is safe, or look with get or browse first"
            }
            Self::ReplyForgotten => "look with get or browse",
            Self::Reply { .. } => "check that client and nodes are of compatible versions",
        }
    }
}

/// No node could be reached.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConnectError {
    /// How long was tried.
    pub waited: Duration,
    /// Each address with the last thing that went wrong there.
    pub attempts: Vec<(String, String)>,
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no node reached within {} ms", self.waited.as_millis())?;
        for (address, trouble) in &self.attempts {
            write!(f, "; {address}: {trouble}")?;
        }
        f.write_str("; check the addresses and that the nodes run")
    }
}

impl std::error::Error for ConnectError {}
