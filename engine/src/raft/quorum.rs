//! Who counts, and how many are enough: pure arithmetic, apart from the protocol.
//!
//! A membership is one majority set, or two while it changes (joint consensus, §6): then everything
//! needs both majorities.
//! Next: `leader` commits by [`Membership::quorum_value`], elections count [`Membership::tally`].

use super::membership::Membership;
use crate::ids::NodeId;
use crate::limits::VOTERS_MAX;

/// How a vote stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tally {
    /// A quorum said yes.
    Won,
    /// A quorum can no longer say yes.
    Lost,
    /// Neither yet.
    Open,
}

impl Membership {
    /// The greatest value that a quorum has reached, where each voter has reached `value_of` it.
    #[must_use]
    pub fn quorum_value<V: Ord + Copy>(&self, value_of: impl Fn(NodeId) -> V) -> V {
        let incoming = majority_value(self.incoming(), &value_of);
        if !self.is_joint() {
            return incoming;
        }
        incoming.min(majority_value(self.outgoing(), &value_of))
    }

    /// How a vote stands, where `vote_of` is each voter's answer, if it has given one.
    #[must_use]
    pub fn tally(&self, vote_of: impl Fn(NodeId) -> Option<bool>) -> Tally {
        // A no is less than an open answer, which is less than a yes: what a quorum has reached is
        // then the verdict.
        let rank = |node| match vote_of(node) {
            Some(false) => 0,
            None => 1,
            Some(true) => 2,
        };
        match self.quorum_value(rank) {
            0 => Tally::Lost,
            1 => Tally::Open,
            _ => Tally::Won,
        }
    }
}

fn majority_value<V: Ord + Copy>(voters: &[NodeId], value_of: &impl Fn(NodeId) -> V) -> V {
    // The usual sizes need no sorting, and commits are counted for every answer.
    match voters {
        [only] => return value_of(*only),
        [a, b] => return value_of(*a).min(value_of(*b)),
        [a, b, c] => {
            let (a, b, c) = (value_of(*a), value_of(*b), value_of(*c));
            return a.min(b).max(a.max(b).min(c));
        }
        _ => {}
    }
    assert!(!voters.is_empty() && voters.len() <= VOTERS_MAX);
    let mut values = [value_of(voters[0]); VOTERS_MAX];
    let values = &mut values[..voters.len()];
    for (slot, voter) in values.iter_mut().zip(voters) {
        *slot = value_of(*voter);
    }
    values.sort_unstable();
    // With n values in rising order, n/2 + 1 of them are at or above the one at (n - 1) / 2.
    values[(voters.len() - 1) / 2]
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    fn membership(voters: u64) -> Membership {
        Membership::new((1..=voters).map(NodeId).collect())
    }

    /// The definition, without sorting: the greatest value such that more than half have it.
    fn brute_force(values: &[u64]) -> u64 {
        let reached =
            |value: u64| values.iter().filter(|v| **v >= value).count() * 2 > values.len();
        values.iter().copied().filter(|value| reached(*value)).max().unwrap_or(0)
    }

    #[test]
    fn the_quorum_value_is_what_brute_force_finds_for_all_small_memberships() {
        for voters in 1..=5_u32 {
            for code in 0..4_u64.pow(voters) {
                let values: Vec<u64> = (0..voters).map(|i| code / 4_u64.pow(i) % 4).collect();
                let found = membership(u64::from(voters))
                    .quorum_value(|node| values[usize::try_from(node.0).expect("small") - 1]);
                assert_eq!(found, brute_force(&values), "{values:?}");
            }
        }
    }

    /// All pairs of voter sets among four nodes, joint memberships as they occur and as they do not.
    fn all_joint() -> impl Iterator<Item = (Vec<u64>, Vec<u64>)> {
        let set = |code: u64| (1..=4).filter(|node| code >> (node - 1) & 1 == 1).collect();
        (1..16).flat_map(move |new| (1..16).map(move |old| (set(new), set(old))))
    }

    fn joint(new: &[u64], old: &[u64]) -> Membership {
        let nodes = |set: &[u64]| set.iter().copied().map(NodeId).collect();
        Membership::joint(nodes(new), nodes(old))
    }

    /// What each of four nodes has, out of `base` possibilities, for all combinations.
    fn all_values(base: u64) -> impl Iterator<Item = [u64; 4]> {
        (0..base.pow(4)).map(move |code| [0, 1, 2, 3].map(|node| code / base.pow(node) % base))
    }

    fn of(values: &[u64; 4], node: u64) -> u64 {
        values[usize::try_from(node).expect("small") - 1]
    }

    #[test]
    fn joint_commits_are_what_brute_force_finds_for_all_small_pairs_of_sets() {
        for (new, old) in all_joint() {
            let membership = joint(&new, &old);
            for values in all_values(4) {
                let has = |set: &[u64]| -> Vec<u64> {
                    set.iter().map(|node| of(&values, *node)).collect()
                };
                let expected = brute_force(&has(&new)).min(brute_force(&has(&old)));
                let found = membership.quorum_value(|node| of(&values, node.0));
                assert_eq!(found, expected, "{new:?} {old:?} {values:?}");
            }
        }
    }

    #[test]
    fn joint_votes_are_what_brute_force_finds_for_all_small_pairs_of_sets() {
        for (new, old) in all_joint() {
            let membership = joint(&new, &old);
            // No answer, no, or yes.
            for answers in all_values(3) {
                let count = |set: &[u64], answer| {
                    set.iter().filter(|node| of(&answers, **node) == answer).count()
                };
                let is_won = |set: &[u64]| count(set, 2) * 2 > set.len();
                // Even if everybody who is open said yes.
                let is_lost = |set: &[u64]| (count(set, 2) + count(set, 0)) * 2 <= set.len();
                let expected = match (is_won(&new) && is_won(&old), is_lost(&new) || is_lost(&old))
                {
                    (true, _) => Tally::Won,
                    (false, true) => Tally::Lost,
                    (false, false) => Tally::Open,
                };
                let found = membership.tally(|node| match of(&answers, node.0) {
                    0 => None,
                    answer => Some(answer == 2),
                });
                assert_eq!(found, expected, "{new:?} {old:?} {answers:?}");
            }
        }
    }

    #[test]
    fn a_joint_quorum_needs_both_majorities() {
        let joint = Membership::joint([1, 2, 3].map(NodeId).into(), [3, 4, 5].map(NodeId).into());
        let value = |reached: &'static [u64]| {
            joint.quorum_value(move |node| u8::from(reached.contains(&node.0)))
        };
        assert_eq!(value(&[1, 2, 3]), 0);
        assert_eq!(value(&[1, 3, 4]), 1);
        assert_eq!(value(&[3, 4, 5]), 0);
        assert_eq!(joint.voters().count(), 5);
    }

    #[test]
    fn a_vote_is_lost_as_soon_as_it_cannot_be_won() {
        let three = membership(3);
        assert_eq!(three.tally(|node| (node.0 < 3).then_some(true)), Tally::Won);
        assert_eq!(three.tally(|node| (node.0 < 3).then_some(false)), Tally::Lost);
        assert_eq!(three.tally(|node| (node.0 < 3).then_some(node.0 == 1)), Tally::Open);
    }
}
