//! What quorums promised: nobody votes twice in a term (Raft §5.2), and nobody leads and nothing is
//! committed without a majority of every voter set that counts (§6).
//!
//! Stronger than waiting for what comes of it: a second leader or a lost entry needs bad luck on top
//! of a wrong count, and these rules need only the wrong count.

use super::{Rule, Violation};
use engine::ids::{LogIndex, NodeId, Term};
use engine::raft::Membership;
use std::collections::BTreeMap;

/// Every vote that was given: it counts from when it was sent.
#[derive(Clone, Default, Debug)]
pub struct Votes {
    given: BTreeMap<(Term, NodeId), NodeId>,
}

impl Votes {
    /// A node has told `candidate` that it has its vote; a candidate that asks for votes has its own.
    ///
    /// # Errors
    /// [`Rule::OneVote`] with the other candidate.
    pub fn voted(
        &mut self,
        at_us: u64,
        voter: NodeId,
        term: Term,
        candidate: NodeId,
    ) -> Result<(), Violation> {
        let first = *self.given.entry((term, voter)).or_insert(candidate);
        if first == candidate {
            return Ok(());
        }
        let explanation =
            format!("node {voter} votes for node {candidate} in term {term}, and has for {first}");
        Err(Violation::new(Rule::OneVote, at_us, explanation))
    }

    /// A node's disk was damaged where its vote may have been. It may vote again in a term that nobody
    /// can win any more.
    pub fn forgive(&mut self, voter: NodeId) {
        self.given.retain(|(_, of), _| *of != voter);
    }

    /// A node leads. `memberships` are those that it may have counted by: it may have taken up
    /// another one in the same instant.
    ///
    /// # Errors
    /// [`Rule::Quorum`].
    pub fn elected(
        &self,
        at_us: u64,
        leader: NodeId,
        term: Term,
        memberships: [&Membership; 2],
    ) -> Result<(), Violation> {
        let has_vote = |voter| voter == leader || self.given.get(&(term, voter)) == Some(&leader);
        if memberships.iter().any(|membership| has_quorum(membership, has_vote)) {
            return Ok(());
        }
        let voters = self.given.iter().filter(|((of, _), to)| *of == term && **to == leader);
        let voters: Vec<NodeId> = voters.map(|((_, voter), _)| *voter).collect();
        let explanation = format!(
            "node {leader} leads term {term} with the votes of {voters:?}; {}",
            sets(memberships[1])
        );
        Err(Violation::new(Rule::Quorum, at_us, explanation))
    }
}

/// Checks that an entry which a leader has just found to be committed is durable on a quorum.
///
/// # Errors
/// [`Rule::Quorum`].
pub fn check_commit(
    at_us: u64,
    leader: NodeId,
    index: LogIndex,
    memberships: [&Membership; 2],
    holds: impl Fn(NodeId) -> bool,
) -> Result<(), Violation> {
    if memberships.iter().any(|membership| has_quorum(membership, &holds)) {
        return Ok(());
    }
    let holders: Vec<NodeId> = memberships[1].voters().filter(|node| holds(*node)).collect();
    let explanation = format!(
        "node {leader} commits entry {index}, which is durable on {holders:?}; {}",
        sets(memberships[1])
    );
    Err(Violation::new(Rule::Quorum, at_us, explanation))
}

fn sets(membership: &Membership) -> String {
    match membership.outgoing() {
        [] => format!("voters are {:?}", membership.incoming()),
        outgoing => format!("voters are {:?} and {outgoing:?}", membership.incoming()),
    }
}

/// Counted here once more and in the plainest way, as the engine's own arithmetic is under test.
fn has_quorum(membership: &Membership, is_for: impl Fn(NodeId) -> bool) -> bool {
    let is_majority = |voters: &[NodeId]| {
        let count = voters.iter().filter(|voter| is_for(**voter)).count();
        2 * count > voters.len()
    };
    let outgoing = membership.outgoing();
    is_majority(membership.incoming()) && (outgoing.is_empty() || is_majority(outgoing))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(ids: &[u64]) -> Vec<NodeId> {
        ids.iter().copied().map(NodeId).collect()
    }

    #[test]
    fn a_second_vote_in_a_term_is_noticed_and_a_repeated_one_is_not() {
        let mut votes = Votes::default();
        let (term, later) = (Term(3), Term(4));
        assert_eq!(votes.voted(0, NodeId(1), term, NodeId(2)), Ok(()));
        assert_eq!(votes.voted(0, NodeId(1), term, NodeId(2)), Ok(()));
        assert_eq!(votes.voted(0, NodeId(1), later, NodeId(3)), Ok(()));
        let violation = votes.voted(0, NodeId(1), term, NodeId(3)).expect_err("a second vote");
        assert_eq!(violation.rule, Rule::OneVote);
    }

    #[test]
    fn a_joint_membership_needs_both_majorities() {
        let joint = Membership::joint(nodes(&[1, 4, 5]), nodes(&[1, 2, 3]));
        let check = |holders: &[u64]| {
            let holds = |node: NodeId| holders.contains(&node.0);
            check_commit(0, NodeId(1), LogIndex(9), [&joint, &joint], holds)
        };
        assert_eq!(check(&[1, 4, 2]), Ok(()));
        assert!(check(&[1, 2, 3]).is_err(), "only the old majority");
        assert!(check(&[1, 4, 5]).is_err(), "only the new majority");
    }
}
