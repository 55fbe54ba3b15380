//! Memberships: each committed one follows from the one before it by a legal step (§6), ids are never
//! given out twice, and what an operator was told is what the log says.
//!
//! Next: `quorums` for what a membership is needed for.

use super::{Rule, Violation};
use crate::history::{ChangeAnswer, CommittedLog};
use engine::ids::{LogIndex, NodeId};
use engine::raft::{Leave, Membership};
use engine::record::EntryKind;
use std::collections::BTreeSet;

/// The committed memberships.
#[derive(Clone, Default, Debug)]
pub struct Memberships {
    founding: Membership,
    committed: Vec<(LogIndex, Membership)>,
    /// Nodes that were members and are no more.
    gone: BTreeSet<NodeId>,
}

impl Memberships {
    /// Nothing has changed yet.
    #[must_use]
    pub fn new(founding: Membership) -> Self {
        Self { founding, committed: Vec::new(), gone: BTreeSet::new() }
    }

    /// The newest committed membership, and the entry that made it; 0 for the founding one.
    #[must_use]
    pub fn newest(&self) -> (LogIndex, &Membership) {
        self.at(LogIndex(u64::MAX))
    }

    /// The membership as of an entry, and the entry that made it.
    #[must_use]
    pub fn at(&self, index: LogIndex) -> (LogIndex, &Membership) {
        let count = self.committed.partition_point(|(made_at, _)| *made_at <= index);
        match count.checked_sub(1).map(|last| &self.committed[last]) {
            Some((made_at, membership)) => (*made_at, membership),
            None => (LogIndex::ZERO, &self.founding),
        }
    }

    /// A membership entry was committed.
    ///
    /// # Errors
    /// [`Rule::Membership`]: it does not follow from the last one.
    pub fn committed(
        &mut self,
        at_us: u64,
        index: LogIndex,
        payload: &[u8],
    ) -> Result<(), Violation> {
        let violation = |what: String| Err(Violation::new(Rule::Membership, at_us, what));
        let next = match Membership::decode(payload) {
            Ok(next) => next,
            Err(error) => return violation(format!("entry {index}: {error}")),
        };
        let (_, before) = self.newest();
        if next.node_last() < before.node_last() {
            return violation(format!(
                "entry {index} forgets that node {} was given out: {next:?}",
                before.node_last()
            ));
        }
        for member in next.members() {
            let is_new = !before.contains(member.node);
            if is_new && before.was_given_out(member.node) || self.gone.contains(&member.node) {
                return violation(format!("entry {index} gives out id {} again", member.node));
            }
        }
        if !is_legal(before, &next) {
            return violation(format!(
                "entry {index} leads from voters {:?} and {:?} to {:?} and {:?}",
                before.incoming(),
                before.outgoing(),
                next.incoming(),
                next.outgoing()
            ));
        }
        let gone = before.members().iter().map(|member| member.node);
        let gone: Vec<NodeId> = gone.filter(|node| !next.contains(*node)).collect();
        self.gone.extend(gone);
        self.committed.push((index, next));
        Ok(())
    }

    /// Whether the group waits for nobody: a change that ends by itself has ended.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        let (_, newest) = self.newest();
        !newest.is_joint() || newest.leave() == Leave::Explicit
    }

    /// Checks what an operator was told, in the order of the answers.
    ///
    /// # Errors
    /// [`Rule::Membership`] with the answer that the log does not bear out.
    pub fn check_answers(
        &self,
        answers: &[ChangeAnswer],
        log: &CommittedLog,
    ) -> Result<(), Violation> {
        let mut last = LogIndex::ZERO;
        for answer in answers {
            let ChangeAnswer { asked_us: _, at_us, index, membership } = answer;
            let violation = |what: String| Err(Violation::new(Rule::Membership, *at_us, what));
            let is_made_there = match log.entry(*index) {
                Some(entry) => entry.kind == EntryKind::Membership,
                None => *index == LogIndex::ZERO,
            };
            if !is_made_there || self.at(*index).1 != membership {
                return violation(format!(
                    "the operator was told that entry {index} makes {membership:?}; the log says {:?}",
                    self.at(*index)
                ));
            }
            // One operator, who asks for one thing at a time.
            if *index < last {
                return violation(format!(
                    "the operator was told of entry {index} after it had been told of {last}"
                ));
            }
            last = *index;
        }
        Ok(())
    }
}

/// Voters change by way of a joint membership only. It ends with the new voters, turns round, or, as
/// long as it was not committed, is given up for the old ones.
fn is_legal(before: &Membership, next: &Membership) -> bool {
    let (voters, outgoing) = (next.incoming(), next.outgoing());
    if before.is_joint() {
        let is_turned = voters == before.outgoing() && outgoing == before.incoming();
        let is_over =
            outgoing.is_empty() && (voters == before.incoming() || voters == before.outgoing());
        is_turned || is_over
    } else if next.is_joint() {
        outgoing == before.incoming() && voters != outgoing
    } else {
        voters == before.incoming()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(ids: &[u64]) -> Vec<NodeId> {
        ids.iter().copied().map(NodeId).collect()
    }

    fn after(steps: &[Membership]) -> Result<Memberships, Violation> {
        let mut memberships = Memberships::new(Membership::new(nodes(&[1, 2, 3])));
        for (index, step) in (1..).zip(steps) {
            memberships.committed(0, LogIndex(index), &step.encode())?;
        }
        Ok(memberships)
    }

    #[test]
    fn voters_that_change_without_a_joint_phase_are_noticed() {
        let (old, new) = (nodes(&[1, 2, 3]), nodes(&[1, 2]));
        let joint = Membership::joint(new.clone(), old);
        let left = joint.left().expect("it is joint");
        assert!(after(&[joint, left.clone()]).is_ok());
        let violation = after(&[left]).expect_err("no joint phase");
        assert_eq!(violation.rule, Rule::Membership);
    }

    #[test]
    fn an_id_that_comes_back_is_noticed() {
        let with = Membership::new(nodes(&[1, 2, 3])).with_learners(nodes(&[4]));
        let without = with.changed(&engine::raft::Change {
            steps: vec![engine::raft::Step::Remove(NodeId(4))],
            leave: Leave::Automatic,
        });
        let without = without.expect("a learner can go");
        assert!(after(&[with.clone(), without.clone()]).is_ok());
        assert!(after(&[with.clone(), without, with]).is_err());
    }

    #[test]
    fn an_answer_that_the_log_does_not_bear_out_is_noticed() {
        let memberships = after(&[]).expect("nothing happened");
        let answer =
            |membership| ChangeAnswer { asked_us: 0, at_us: 1, index: LogIndex::ZERO, membership };
        let log = CommittedLog::default();
        let told = answer(Membership::new(nodes(&[1, 2, 3])));
        assert_eq!(memberships.check_answers(&[told], &log), Ok(()));
        let told = answer(Membership::new(nodes(&[1, 2])));
        assert!(memberships.check_answers(&[told], &log).is_err());
    }
}
