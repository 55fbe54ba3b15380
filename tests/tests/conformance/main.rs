//! The behaviours by which the field knows a Raft core, each as a claim on the public door, tied to
//! its section of the paper ("thesis" is Ongaro's). docs/testing.md lists what is covered where.

mod check_quorum;
mod election;
mod flow;
mod healing;
mod membership;
mod persistence;
mod pre_vote;
mod reads;
mod replication;
mod safety;
mod snapshots;
mod terms;
mod transfer;

use engine::raft::RoleName;

/// Every role, for claims that hold in all of them.
const ROLES: [RoleName; 4] =
    [RoleName::Follower, RoleName::PreCandidate, RoleName::Candidate, RoleName::Leader];
