//! How an engine is set up, and how it is.

use crate::api::Room;
use crate::ids::{ClusterId, GroupId, LogIndex, NodeId, Term};
use crate::limits::Limits;
use crate::raft::{FollowerStatus, Membership, RoleName};
use crate::time::Micros;
use alloc::vec::Vec;

/// How an engine is set up. Everything but `node`, `priority` and `seed` is the same on every member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The cluster.
    pub cluster: ClusterId,
    /// The group.
    pub group: GroupId,
    /// This node.
    pub node: NodeId,
    /// The members that the cluster began with, this one too; empty on a node that joined later.
    pub founding: Membership,
    /// Shortest election timeout; each is drawn from this to twice this. Several heartbeat intervals.
    pub election_timeout: Micros,
    /// Heartbeat interval.
    pub heartbeat_interval: Micros,
    /// Leadership goes to the highest priority among those that are fit and have caught up.
    pub priority: u8,
    /// How much a second of any two members' monotonic clocks may differ, in a million, if the leader
    /// may answer reads without asking; `None`: it asks, and no clock has to be trusted.
    pub lease_drift_ppm: Option<u32>,
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
    /// The newest membership in the log.
    pub membership: Membership,
    /// The entry that made it; 0 for the founding one.
    pub membership_index: LogIndex,
    /// Whether this node was a member and is no more.
    pub is_removed: bool,
    /// Whether its disk, its clock and its state machine keep up and it lacks nothing, so that it may lead.
    pub is_fit: bool,
    /// Entries that it lacks and gets from the others.
    pub missing: u64,
    /// Entries that its state refers to and no member has any more.
    pub lost: u64,
    /// The last entry in the newest snapshot; 0 if there is none.
    pub snapshot_index: LogIndex,
    /// On a leader: each other member.
    pub followers: Vec<FollowerStatus>,
    /// On a leader: to whom it is handing over.
    pub transfer: Option<NodeId>,
    /// Open sessions.
    pub sessions: usize,
    /// Requests waiting for an answer.
    pub waiting_requests: usize,
    /// Disk space, here and in the cluster.
    pub room: Room,
}
