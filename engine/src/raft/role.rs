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

#[derive(Clone, Hash, Debug)]
pub(super) enum Role {
    Follower(Follower),
    PreCandidate(PreCandidate),
    Candidate(Candidate),
    Leader(Leader),
}

#[derive(Clone, Hash, Debug)]
pub(super) struct Follower {
    /// The leader of this term, once it has been heard.
    pub(super) leader: Option<NodeId>,
    /// When it was heard last. Until an election timeout later no other candidate gets a vote.
    pub(super) leader_heard_at: Option<Micros>,
    pub(super) election_at: Micros,
    /// What the leader was last told of it.
    pub(super) reported_index: LogIndex,
    /// The leader's latest read round.
    pub(super) round_heard: u64,
    /// Reads of clients of this member, for which the leader tells from where on they may be answered.
    pub(super) reads: ForwardedReads,
}

/// Linearizable reads on a follower. All that come while a request is under way share the next one.
#[derive(Clone, Hash, Default, Debug)]
pub(super) struct ForwardedReads {
    /// Not asked for yet.
    pub(super) waiting: Vec<Token>,
    pub(super) under_way: Option<ReadRequest>,
}

/// A request to the leader, repeated under its number until it is answered: an answer to any of its
/// copies is as new as the request.
#[derive(Clone, Hash, Debug)]
pub(super) struct ReadRequest {
    pub(super) id: u64,
    pub(super) tokens: Vec<Token>,
    pub(super) repeat_at: Micros,
}

impl ForwardedReads {
    pub(super) fn take_tokens(&mut self) -> Vec<Token> {
        let mut tokens = core::mem::take(&mut self.waiting);
        tokens.extend(self.under_way.take().into_iter().flat_map(|request| request.tokens));
        tokens
    }
}

/// Answers to an election, our own among them.
#[derive(Clone, Hash, Default, Debug)]
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

#[derive(Clone, Hash, Debug)]
pub(super) struct PreCandidate {
    pub(super) votes: Votes,
    pub(super) election_at: Micros,
}

#[derive(Clone, Hash, Debug)]
pub(super) struct Candidate {
    pub(super) votes: Votes,
    pub(super) election_at: Micros,
    /// Our own vote counts once this is durable.
    pub(super) own_vote_io: IoId,
}

#[derive(Clone, Hash, Debug)]
pub(super) struct Leader {
    /// One for each other member, and for those that still have to learn that they are none, in
    /// their order.
    pub(super) followers: Vec<(NodeId, Progress)>,
    /// The membership that `followers` follow.
    pub(super) membership_version: u64,
    pub(super) heartbeat_at: Micros,
    /// The first entry of this term: until it is committed, nothing of the state is certain.
    pub(super) first_index: LogIndex,
    pub(super) reads: Reads,
    pub(super) transfer: Option<Transfer>,
    /// Whether anybody was ever told to campaign in this term: a lease is worth nothing then, as the
    /// message may arrive late.
    pub(super) has_told_to_campaign: bool,
    /// Before this, leadership is not handed over again of this member's own accord.
    pub(super) no_transfer_before: Micros,
}

/// Leadership is being handed over (thesis §3.10).
#[derive(Clone, Copy, Hash, Debug)]
pub(super) struct Transfer {
    pub(super) to: NodeId,
    pub(super) until: Micros,
    /// When the target is told again to campaign.
    pub(super) tell_at: Micros,
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
#[derive(Clone, Hash, Default, Debug)]
pub(super) struct Reads {
    /// The latest round; counts within the term, and so never vouches for another leader.
    pub(super) round: u64,
    /// Not yet part of a round.
    pub(super) waiting: Vec<Reader>,
    /// Oldest first.
    pub(super) under_way: VecDeque<ReadRound>,
    /// With leases: rounds and when each began, from the newest that a quorum has confirmed.
    pub(super) begun: VecDeque<(u64, Micros)>,
}

/// Who waits for a round.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Reader {
    /// A client of this member.
    Here(Token),
    /// A follower, with its number for the request.
    At(NodeId, u64),
}

/// Reads that a round decides.
#[derive(Clone, Hash, Debug)]
pub(super) struct ReadRound {
    pub(super) round: u64,
    /// The commit index when it began.
    pub(super) index: LogIndex,
    pub(super) readers: Vec<Reader>,
}
