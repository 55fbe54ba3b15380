//! The atlas of faults: which machines' copies are whole, and whose may be damaged now.
//!
//! Owns the bound within which disks may be destroyed: whatever was committed, and whatever the struck
//! machine itself vouched for, must be held durably and whole by a quorum of the other voters. Beyond it
//! no replicated log can keep its promises (Alagappan et al., "Protocol-Aware Recovery for
//! Consensus-Based Storage", FAST 2018, §3.2). Reads copies of the disks themselves, so it believes no
//! process. Never damages anything: that is `damage`'s. Next: [`crate::damage`].

use crate::disk::{Fate, SimDisk};
use crate::scenario::{CLUSTER, GROUP};
use engine::ids::{LogIndex, NodeId, Term};
use engine::limits::Limits;
use engine::raft::{LogPosition, Membership};
use engine::storage::{Recovered, Store};
use std::fmt;

/// What a machine's disk holds: all of it whole.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Copy {
    recovered: Recovered,
}

impl Copy {
    /// What a power failure now would certainly leave, if it is whole.
    #[must_use]
    pub fn durable(disk: &SimDisk, node: NodeId, limits: &Limits) -> Option<Self> {
        let mut disk = disk.clone();
        disk.crash_with(|_, _| Fate::Lost);
        Self::open(disk, node, limits)
    }

    /// What the machine's process would find if it were killed now, if it is whole: everything that it
    /// can have vouched for.
    #[must_use]
    pub fn claimed(disk: &SimDisk, node: NodeId, limits: &Limits) -> Option<Self> {
        let mut disk = disk.clone();
        disk.crash_with(|_, _| Fate::Kept);
        Self::open(disk, node, limits)
    }

    fn open(mut disk: SimDisk, node: NodeId, limits: &Limits) -> Option<Self> {
        let (_, recovered) = Store::open(&mut disk, CLUSTER, GROUP, node, limits).ok()?;
        let is_whole = recovered.damaged.is_empty() && recovered.vouched == LogPosition::default();
        is_whole.then_some(Self { recovered })
    }

    /// The last entry.
    #[must_use]
    pub fn last(&self) -> LogPosition {
        let Recovered { snapshot, base, last_index, term_runs, .. } = &self.recovered;
        let of_log = LogPosition {
            term: term_runs.last().map_or(base.term, |(_, term)| *term),
            index: *last_index,
        };
        match snapshot {
            Some(snapshot) if snapshot.meta.last.index > of_log.index => snapshot.meta.last,
            Some(_) | None => of_log,
        }
    }

    /// The term.
    #[must_use]
    pub fn term(&self) -> Term {
        self.recovered.hard_state.term
    }

    /// Whether it has this entry, or a snapshot that stands for it.
    #[must_use]
    pub fn holds(&self, position: LogPosition) -> bool {
        let Recovered { snapshot, base, last_index, term_runs, .. } = &self.recovered;
        let settled = snapshot.as_ref().map_or(base.index, |snapshot| snapshot.meta.last.index);
        if position.index <= settled.max(base.index) {
            return true;
        }
        let run = term_runs.iter().rfind(|(first, _)| *first <= position.index);
        position.index <= *last_index && run.is_some_and(|(_, term)| *term == position.term)
    }
}

/// A machine as the atlas sees it.
#[derive(Clone, Debug)]
pub struct Place {
    /// Its node.
    pub node: NodeId,
    /// What is certain to survive there; nothing unless all of it is whole.
    pub durable: Option<Copy>,
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

/// Whether everything on the disk of `node` may be lost now. `claimed` is the last entry and the term
/// that it can have vouched for, `committed` the last entry that anybody knows to be committed, and
/// `membership` the newest that is.
///
/// # Errors
/// Why not.
pub fn may_damage(
    node: NodeId,
    claimed: Option<(LogPosition, Term)>,
    committed: LogPosition,
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
    let (last, term) = claimed.unwrap_or((LogPosition::default(), Term::ZERO));
    let needs: Vec<LogPosition> =
        [committed, last].into_iter().filter(|needed| needed.index > LogIndex::ZERO).collect();
    let holds_all = |place: &&Place| {
        let is_other_voter = place.node != node && voters.contains(&place.node);
        let copy = place.durable.as_ref();
        is_other_voter
            && copy.is_some_and(|copy| {
                copy.term() >= term && needs.iter().all(|needed| copy.holds(*needed))
            })
    };
    let holders: Vec<NodeId> = places.iter().filter(holds_all).map(|place| place.node).collect();
    if holders.len() >= quorum {
        return Ok(());
    }
    let needed = needs.into_iter().max_by_key(|needed| needed.index).unwrap_or_default();
    Err(Refusal::TooFewCopies { needed, holders, quorum })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(index: u64, term: u64) -> LogPosition {
        LogPosition { term: Term(term), index: LogIndex(index) }
    }

    fn place(node: u64, last: LogPosition) -> Place {
        let term_runs = vec![(LogIndex(1), last.term)];
        let recovered = Recovered { last_index: last.index, term_runs, ..Recovered::default() };
        let durable = Some(Copy { recovered });
        Place { node: NodeId(node), durable, is_campaigning: false }
    }

    fn founders(count: u64) -> Membership {
        Membership::new((1..=count).map(NodeId).collect())
    }

    #[test]
    fn a_copy_is_given_up_only_if_a_quorum_of_whole_ones_stays() {
        let members = founders(3);
        let mut places = vec![place(1, at(9, 2)), place(2, at(9, 2)), place(3, at(9, 2))];
        let ask = |places: &[Place], claimed: LogPosition| {
            may_damage(NodeId(3), Some((claimed, Term::ZERO)), at(9, 2), &members, places)
        };
        assert_eq!(ask(&places, at(9, 2)), Ok(()));
        // What it alone has may have been counted, and the answer be under way.
        assert!(matches!(ask(&places, at(10, 2)), Err(Refusal::TooFewCopies { quorum: 2, .. })));
        places[1] = place(2, at(8, 2));
        let holders = vec![NodeId(1)];
        let needed = at(9, 2);
        let refusal = Refusal::TooFewCopies { needed, holders, quorum: 2 };
        assert_eq!(ask(&places, at(9, 2)), Err(refusal));
        places[1] = place(2, at(9, 1));
        assert!(ask(&places, at(9, 2)).is_err(), "another entry 9");
    }

    #[test]
    fn a_damaged_copy_and_one_of_no_voter_count_for_nothing() {
        let members = founders(3);
        let mut places = vec![place(1, at(9, 2)), place(2, at(9, 2)), place(4, at(9, 2))];
        let ask = |places: &[Place]| may_damage(NodeId(3), None, at(9, 2), &members, places);
        assert_eq!(ask(&places), Ok(()));
        places[1].durable = None;
        assert!(ask(&places).is_err());
    }

    #[test]
    fn nothing_is_damaged_amid_an_election_or_a_joint_membership() {
        let mut places = vec![place(1, at(9, 2)), place(2, at(9, 2))];
        let joint = Membership::joint([1, 2, 3].map(NodeId).to_vec(), [1, 2].map(NodeId).to_vec());
        assert_eq!(may_damage(NodeId(3), None, at(9, 2), &joint, &places), Err(Refusal::Joint));
        places[0].is_campaigning = true;
        let refused = may_damage(NodeId(3), None, at(9, 2), &founders(3), &places);
        assert_eq!(refused, Err(Refusal::Campaign { candidate: NodeId(1) }));
    }
}
