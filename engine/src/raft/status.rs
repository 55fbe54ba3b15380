//! What those around a member may know of it, and the invariants that it keeps.
//!
//! Changes nothing, but for what the cache holds.

use super::progress::FollowerStatus;
use super::role::Role;
use super::{Handicap, LogPosition, Raft, RoleName, SnapshotMeta};
use crate::hlc::Hlc;
use crate::ids::{LogIndex, NodeId, Term};
use crate::record::Record;
use alloc::vec::Vec;

/// What those around a member may know of it.
impl Raft {
    /// Who it is.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.settings.node
    }

    /// Its role.
    #[must_use]
    pub fn role(&self) -> RoleName {
        match self.role {
            Role::Follower(_) => RoleName::Follower,
            Role::PreCandidate(_) => RoleName::PreCandidate,
            Role::Candidate(_) => RoleName::Candidate,
            Role::Leader(_) => RoleName::Leader,
        }
    }

    /// Whether it leads.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        matches!(self.role, Role::Leader(_))
    }

    /// The leader of its term, if it knows one.
    #[must_use]
    pub fn leader(&self) -> Option<NodeId> {
        match &self.role {
            Role::Follower(role) => role.leader,
            Role::PreCandidate(_) | Role::Candidate(_) => None,
            Role::Leader(_) => Some(self.settings.node),
        }
    }

    /// Its term.
    #[must_use]
    pub fn term(&self) -> Term {
        self.term
    }

    /// Whom it voted for in this term.
    #[must_use]
    pub fn voted_for(&self) -> Option<NodeId> {
        self.voted_for
    }

    /// The last entry known to be committed.
    #[must_use]
    pub fn commit_index(&self) -> LogIndex {
        self.commit_index
    }

    /// The last entry of its log.
    #[must_use]
    pub fn last_index(&self) -> LogIndex {
        self.log.last_index()
    }

    /// The last entry's stamp.
    #[must_use]
    pub fn last_stamp(&self) -> Hlc {
        self.log.last_stamp()
    }

    /// The last entry that is durable here.
    #[must_use]
    pub fn durable_index(&self) -> LogIndex {
        self.log.durable_index()
    }

    /// The term of an entry, if it is in the log.
    #[must_use]
    pub fn term_at(&self, index: LogIndex) -> Option<Term> {
        self.log.term_at(index)
    }

    /// An entry, if it is still in memory.
    #[must_use]
    pub fn cached(&self, index: LogIndex) -> Option<&Record> {
        self.log.cached(index)
    }

    /// On a leader, each other member.
    #[must_use]
    pub fn followers(&self) -> Vec<FollowerStatus> {
        match &self.role {
            Role::Leader(role) => role.followers.iter().map(|(n, p)| p.status(*n)).collect(),
            Role::Follower(_) | Role::PreCandidate(_) | Role::Candidate(_) => Vec::new(),
        }
    }

    /// The log's first entry is the one after this.
    #[must_use]
    pub fn base(&self) -> LogPosition {
        self.log.base()
    }

    /// The newest snapshot that is saved, or goes to the disk before anything else.
    #[must_use]
    pub fn snapshot(&self) -> Option<&SnapshotMeta> {
        self.snapshot.as_ref()
    }

    /// Whether its disk, its clock and its state machine keep up, as of the last turn.
    #[must_use]
    pub fn is_fit(&self) -> bool {
        self.is_fit
    }

    /// What keeps this member from leading as its surroundings see it; told again whenever it changes.
    pub fn set_handicap(&mut self, handicap: Handicap) {
        self.handicap = handicap;
    }

    /// Lets cached entries go that are durable, when there are too many bytes of them.
    pub fn trim_cache(&mut self) {
        self.log.trim_cache(self.settings.limits.log_cache_bytes_max);
    }

    /// Checks what must hold between any two calls.
    ///
    /// # Panics
    /// With the name of the invariant that does not hold.
    pub fn check_invariants(&self) {
        self.log.check_invariants();
        // While the log grows up to an installed snapshot, more is committed than it holds.
        let snapshot_last = self.snapshot.as_ref().map_or(LogIndex::ZERO, |meta| meta.last.index);
        assert!(self.commit_index <= self.log.last_index().max(snapshot_last), "commit_within_log");
        assert!(self.log.base().index <= snapshot_last, "what_is_gone_is_in_a_snapshot");
        assert!(self.log.last().term <= self.term, "no_entry_of_a_later_term");
        assert!(
            self.withheld.iter().zip(self.withheld.iter().skip(1)).all(|(a, b)| a.until <= b.until),
            "withheld_in_order"
        );
        assert!(
            self.withheld.front().is_none_or(|withheld| withheld.until > self.log.durable_io()),
            "released_when_durable"
        );
        assert!(self.validated_index <= self.log.last_index(), "validated_within_log");
        match &self.role {
            Role::Follower(_) | Role::PreCandidate(_) => {}
            Role::Candidate(_) => {
                assert_eq!(self.voted_for, Some(self.settings.node), "candidate_votes_for_itself");
            }
            Role::Leader(role) => {
                assert_eq!(self.voted_for, Some(self.settings.node), "leader_votes_for_itself");
                assert!(self.hard_state_io <= self.log.durable_io(), "leader_is_durably_so");
                assert!(!self.is_healing(), "leader_has_what_it_vouched_for");
                let is_new = role.first_index > self.log.last_index();
                assert!(is_new || self.log.last().term == self.term, "leader_log_ends_in_its_term");
                assert!(snapshot_last <= self.log.last_index(), "leader_has_what_its_snapshot_has");
                for (_, progress) in &role.followers {
                    assert!(progress.match_index < progress.next_index, "match_below_next");
                    assert!(progress.next_index <= self.log.last_index().next(), "next_within_log");
                }
            }
        }
    }
}
