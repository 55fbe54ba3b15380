//! How an engine is set up, and how it is.

use crate::ids::{ClusterId, GroupId, LogIndex, NodeId, Term};
use crate::limits::Limits;
use crate::raft::RoleName;
use crate::time::Micros;
use alloc::vec::Vec;

/// How an engine is set up. Everything but `node` and `seed` is the same on every member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The cluster.
    pub cluster: ClusterId,
    /// The group.
    pub group: GroupId,
    /// This node.
    pub node: NodeId,
    /// All members, this one too; 1 to 7.
    pub members: Vec<NodeId>,
    /// Shortest election timeout; each is drawn from this to twice this. Several heartbeat intervals.
    pub election_timeout: Micros,
    /// Heartbeat interval.
    pub heartbeat_interval: Micros,
    /// Bounds.
    pub limits: Limits,
    /// The only entropy. Give a real node a fresh one at every start.
    pub seed: u64,
}

/// How an engine is, for people and for oracles.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Status {
    /// This node.
    pub node: NodeId,
    /// What it does.
    pub role: RoleName,
    /// Its term.
    pub term: Term,
    /// Whom it voted for in this term.
    pub voted_for: Option<NodeId>,
    /// The leader of this term, if known.
    pub leader: Option<NodeId>,
    /// First entry in the log.
    pub first_index: LogIndex,
    /// Last entry in the log.
    pub last_index: LogIndex,
    /// Last entry that is durable here.
    pub durable_index: LogIndex,
    /// Last entry known to be committed.
    pub commit_index: LogIndex,
    /// Last entry applied.
    pub applied_index: LogIndex,
    /// On a leader: the match index of each other member.
    pub followers: Vec<(NodeId, LogIndex)>,
    /// Open sessions.
    pub sessions: usize,
    /// Requests waiting for an answer.
    pub waiting_requests: usize,
}
