//! The atlas of faults: which machines' copies are whole, and whose may be damaged now.
//!
//! Owns the bound within which disks may be destroyed: whatever was committed, and whatever the struck
//! machine itself vouched for, must be held durably and whole by a quorum of the other voters. Beyond it
//! no replicated log can keep its promises (Alagappan et al., "Protocol-Aware Recovery for
//! Consensus-Based Storage", FAST 2018, §3.2). Reads copies of the disks themselves, so it believes no
//! process. Never damages anything: that is `damage`'s. Next: [`crate::damage`].

use crate::disk::{Fate, SimDisk};
use engine::engine::Config;
use engine::ids::{LogIndex, NodeId, Term};
use engine::queue::Queues;
use engine::raft::{LogPosition, Membership};
use engine::replica::{Input, Replica};
use engine::time::Now;
use std::fmt;

/// What a machine's disk holds, opened: all of it whole.
#[derive(Debug)]
pub struct Copy {
    replica: Replica<Queues>,
}

impl Copy {
    /// What a power failure now would certainly leave, if it is whole.
    #[must_use]
    pub fn durable(disk: &SimDisk, config: Config) -> Option<Self> {
        Self::open(disk, config, &Fate::Lost)
    }

    /// What the machine's process would find if it were killed now, if it is whole: everything that it
    /// can have vouched for.
    #[must_use]
    pub fn claimed(disk: &SimDisk, config: Config) -> Option<Self> {
        Self::open(disk, config, &Fate::Kept)
    }

    fn open(disk: &SimDisk, config: Config, fate: &Fate) -> Option<Self> {
        let mut disk = disk.clone();
        disk.crash_with(|_, _| fate.clone());
        let (queues, now) = (Queues::new(&config.limits), Now::default());
        let mut replica = Replica::open(config, queues, now, &mut disk).ok()?;
        // With the first turn it looks whether it has all that it needs.
        replica.step(now, Input::Turn, &mut Vec::new());
        let status = replica.status();
        let is_whole = status.missing == 0 && status.lost == 0 && !replica.raft().is_healing();
        is_whole.then_some(Self { replica })
    }

    /// The last entry.
    #[must_use]
    pub fn last(&self) -> LogPosition {
        let (raft, index) = (self.replica.raft(), self.replica.raft().last_index());
        LogPosition { term: raft.term_at(index).unwrap_or_default(), index }
    }

    /// The term.
    #[must_use]
    pub fn term(&self) -> Term {
        self.replica.raft().term()
    }

    /// Whether it has this entry, or a snapshot that stands for it.
    #[must_use]
    pub fn holds(&self, position: LogPosition) -> bool {
        let raft = self.replica.raft();
        position.index < raft.base().index || raft.term_at(position.index) == Some(position.term)
    }
}

/// What must stay when a disk is damaged.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Needs {
    /// The last entry that anybody knows to be committed.
    pub committed: LogPosition,
    /// The last entry that the struck machine can have vouched for.
    pub claimed: LogPosition,
    /// The term in which it may have voted.
    pub term: Term,
}

impl Needs {
    /// Whether a copy is enough.
    #[must_use]
    pub fn are_met_by(&self, copy: &Copy) -> bool {
        let mut positions = [self.committed, self.claimed].into_iter();
        copy.term() >= self.term && positions.all(|at| at.index == LogIndex::ZERO || copy.holds(at))
    }
}

/// A machine as the atlas sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place {
    /// Its node.
    pub node: NodeId,
    /// Whether all that must stay is certain to survive there.
    pub has_all: bool,
    /// Whether it is asking for votes: what its term will bring is not settled.
    pub is_campaigning: bool,
}

/// Why a disk may not be damaged now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// The membership is joint, so which quorums count is being decided.
    Joint,
    /// Somebody is asking for votes in a term in which the machine may have voted.
    Campaign {
        /// Who.
        candidate: NodeId,
    },
    /// Too few others hold everything up to there.
    TooFewCopies {
        /// What must survive.
        needed: LogPosition,
        /// Who holds it, durably and whole.
        holders: Vec<NodeId>,
        /// How many must.
        quorum: usize,
    },
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Joint => f.write_str("the membership is joint"),
            Self::Campaign { candidate } => write!(f, "node {candidate} is campaigning"),
            Self::TooFewCopies { needed, holders, quorum } => write!(
                f,
                "entry {} of term {} is whole on {holders:?} of the others, and {quorum} must have it",
                needed.index, needed.term
            ),
        }
    }
}

/// Whether everything on the disk of `node` may be lost now. `membership` is the newest that is known
/// to be committed.
///
/// # Errors
/// Why not.
pub fn may_damage(
    node: NodeId,
    needs: &Needs,
    membership: &Membership,
    places: &[Place],
) -> Result<(), Refusal> {
    if membership.is_joint() {
        return Err(Refusal::Joint);
    }
    if let Some(place) = places.iter().find(|place| place.is_campaigning) {
        return Err(Refusal::Campaign { candidate: place.node });
    }
    let voters: Vec<NodeId> = membership.voters().collect();
    let quorum = voters.len() / 2 + 1;
    let is_holder =
        |place: &&Place| place.has_all && place.node != node && voters.contains(&place.node);
    let holders: Vec<NodeId> = places.iter().filter(is_holder).map(|place| place.node).collect();
    if holders.len() >= quorum {
        return Ok(());
    }
    let needed =
        if needs.claimed.index > needs.committed.index { needs.claimed } else { needs.committed };
    Err(Refusal::TooFewCopies { needed, holders, quorum })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEEDED: LogPosition = LogPosition { term: Term(2), index: LogIndex(9) };
    const NEEDS: Needs = Needs { committed: NEEDED, claimed: NEEDED, term: Term(2) };

    fn place(node: u64, has_all: bool) -> Place {
        Place { node: NodeId(node), has_all, is_campaigning: false }
    }

    fn founders(count: u64) -> Membership {
        Membership::new((1..=count).map(NodeId).collect())
    }

    #[test]
    fn a_copy_is_given_up_only_if_a_quorum_of_whole_ones_stays() {
        let ask = |count: u64, holders: &[u64]| {
            let places: Vec<Place> =
                (1..=count).map(|node| place(node, holders.contains(&node))).collect();
            may_damage(NodeId(count), &NEEDS, &founders(count), &places)
        };
        assert_eq!(ask(3, &[1, 2, 3]), Ok(()));
        let holders = vec![NodeId(1)];
        let refusal = Refusal::TooFewCopies { needed: NEEDED, holders, quorum: 2 };
        assert_eq!(ask(3, &[1, 3]), Err(refusal));
        assert_eq!(ask(5, &[1, 2, 4]), Ok(()), "of five, two may be damaged");
        assert!(ask(5, &[1, 2, 5]).is_err());
        assert!(ask(1, &[1]).is_err(), "there is no other");
    }

    #[test]
    fn a_copy_of_no_voter_counts_for_nothing() {
        let places = [place(1, true), place(2, false), place(4, true)];
        assert!(may_damage(NodeId(3), &NEEDS, &founders(3), &places).is_err());
    }

    #[test]
    fn nothing_is_damaged_amid_an_election_or_a_joint_membership() {
        let mut places = [place(1, true), place(2, true)];
        let joint = Membership::joint([1, 2, 3].map(NodeId).to_vec(), [1, 2].map(NodeId).to_vec());
        assert_eq!(may_damage(NodeId(3), &NEEDS, &joint, &places), Err(Refusal::Joint));
        places[0].is_campaigning = true;
        let refused = may_damage(NodeId(3), &NEEDS, &founders(3), &places);
        assert_eq!(refused, Err(Refusal::Campaign { candidate: NodeId(1) }));
    }
}
