//! What a member is at a time: one struct a role, so that no field outlives the role it belongs to.
//!
//! Next: `election`, `follower` and `leader` for what each does.

use super::progress::Progress;
use crate::api::Token;
use crate::ids::{LogIndex, NodeId};
use crate::storage::IoId;
use crate::time::Micros;
use alloc::collections::VecDeque;
use alloc::vec::Vec;

#[derive(Debug)]
pub(super) enum Role {
    Follower(Follower),
    PreCandidate(PreCandidate),
    Candidate(Candidate),
    Leader(Leader),
}

#[derive(Debug)]
pub(super) struct Follower {
    /// The leader of this term, once it has been heard.
    pub(super) leader: Option<NodeId>,
    /// When it was heard last. Until an election timeout later no other candidate gets a vote.
    pub(super) leader_heard_at: Option<Micros>,
    pub(super) election_at: Micros,
    /// Our log equals the leader's up to here, not necessarily durably.
    pub(super) validated_index: LogIndex,
    /// What the leader was last told of it.
    pub(super) reported_index: LogIndex,
    /// The leader's latest read round.
    pub(super) round_heard: u64,
}

/// Answers to an election, our own among them.
#[derive(Debug, Default)]
pub(super) struct Votes(Vec<(NodeId, bool)>);

impl Votes {
    /// Notes an answer; the first one of each voter counts.
    pub(super) fn note(&mut self, voter: NodeId, is_granted: bool) {
        if self.of(voter).is_none() {
            self.0.push((voter, is_granted));
        }
    }

    pub(super) fn of(&self, voter: NodeId) -> Option<bool> {
        self.0.iter().find(|(node, _)| *node == voter).map(|(_, is_granted)| *is_granted)
    }
}

#[derive(Debug)]
pub(super) struct PreCandidate {
    pub(super) votes: Votes,
    pub(super) election_at: Micros,
}

#[derive(Debug)]
pub(super) struct Candidate {
    pub(super) votes: Votes,
    pub(super) election_at: Micros,
    /// Our own vote counts once this is durable.
    pub(super) own_vote_io: IoId,
}

#[derive(Debug)]
pub(super) struct Leader {
    /// One for each other voter, in their order.
    pub(super) followers: Vec<(NodeId, Progress)>,
    pub(super) heartbeat_at: Micros,
    /// The first entry of this term: until it is committed, nothing of the state is certain.
    pub(super) first_index: LogIndex,
    pub(super) reads: Reads,
}

impl Leader {
    pub(super) fn progress(&self, node: NodeId) -> Option<&Progress> {
        self.followers.iter().find(|(follower, _)| *follower == node).map(|(_, p)| p)
    }

    pub(super) fn progress_mut(&mut self, node: NodeId) -> Option<&mut Progress> {
        self.followers.iter_mut().find(|(follower, _)| *follower == node).map(|(_, p)| p)
    }
}

/// Linearizable reads that wait for a quorum to confirm that we still lead (thesis §6.4). All that
/// come while a round is under way share the next one.
#[derive(Debug, Default)]
pub(super) struct Reads {
    /// The latest round; counts within the term, and so never vouches for another leader.
    pub(super) round: u64,
    /// Not yet part of a round.
    pub(super) waiting: Vec<Token>,
    /// Round, the commit index when it began, and the reads in it, oldest first.
    pub(super) under_way: VecDeque<(u64, LogIndex, Vec<Token>)>,
}
