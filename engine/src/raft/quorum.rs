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
