//! Who takes part: voters, learners and how to reach them, and which changes of that are legal
//! (joint consensus, §6 and thesis §4.3; learners, thesis §4.2.1).
//!
//! Owns the value that a membership entry carries and the arithmetic of changing it. Never decides
//! when a change may be made: that is the leader's, in `change`. An entry carries the whole
//! membership, so that the newest one in a log is all that counts.
//! Next: `quorum` for how many are enough.

use crate::ids::NodeId;
use crate::limits::{MEMBERS_MAX, VOTERS_MAX};
use crate::wire::{self, WireError};
use alloc::string::String;
use alloc::vec::Vec;
use bincode::{Decode, Encode};

/// What a joining node proves with that it is the one that was added: random, minted by itself, and
/// lost with its data directory.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Encode, Decode)]
pub struct Claim(pub [u8; 16]);

impl Claim {
    /// The claim of whoever needed none, since the cluster began with it.
    pub const FOUNDER: Self = Self([0; 16]);
}

/// A node that gets the log.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Encode, Decode)]
pub struct Member {
    /// Which.
    pub node: NodeId,
    /// Where the others and the clients reach it; opaque to the engine, and different for each.
    pub address: String,
    /// Who took this place; `None` while nobody has.
    pub claim: Option<Claim>,
    /// A learner that the leader makes a voter as soon as it has caught up.
    pub is_joining: bool,
}

/// Who ends the joint phase of a change.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug, Encode, Decode)]
pub enum Leave {
    /// The leader, as soon as the joint membership is committed.
    #[default]
    Automatic,
    /// The operator, with [`ChangeRequest::Leave`] or [`ChangeRequest::Cancel`].
    Explicit,
}

/// The members of a group. While it is joint, everything needs a majority of both voter sets.
#[derive(Clone, PartialEq, Eq, Hash, Default, Debug, Encode, Decode)]
pub struct Membership {
    members: Vec<Member>,
    voters: Vec<NodeId>,
    /// Empty unless the membership is joint.
    outgoing: Vec<NodeId>,
    /// Members that go when the joint phase ends with the new voters.
    departing: Vec<NodeId>,
    leave: Leave,
    /// The greatest node id that was ever given out. None is given out twice.
    node_last: NodeId,
}

/// One step of a change.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Encode, Decode)]
pub enum Step {
    /// A further learner. It gets the next node id.
    Add {
        /// Where it will be reached.
        address: String,
        /// Who takes the place, if known already.
        claim: Option<Claim>,
        /// Whether it becomes a voter as soon as it has caught up.
        is_joining: bool,
    },
    /// Makes a learner a voter; it must have caught up.
    Promote(NodeId),
    /// Makes a voter a learner.
    Demote(NodeId),
    /// Takes a node out. Its id never comes back.
    Remove(NodeId),
}

/// A change of the membership: all of its steps at once, or none.
#[derive(Clone, PartialEq, Eq, Hash, Default, Debug, Encode, Decode)]
pub struct Change {
    /// In order.
    pub steps: Vec<Step>,
    /// Who ends the joint phase, if there is one.
    pub leave: Leave,
}

/// What an operator may ask of the membership.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Encode, Decode)]
pub enum ChangeRequest {
    /// Change it.
    Change(Change),
    /// End the joint phase with the new voters.
    Leave,
    /// End the joint phase with the old voters.
    Cancel,
}

/// Why a membership cannot be changed as asked, or not now.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Encode, Decode, thiserror::Error)]
pub enum ChangeError {
    /// Another change is under way.
    #[error("a membership change at entry {at} is under way; wait until it is done, or cancel it")]
    Pending {
        /// Its entry.
        at: u64,
    },
    /// The leader is too new.
    #[error("the leader has not committed an entry of its term yet; retry in a moment")]
    LeaderTooNew,
    /// The membership is joint.
    #[error("the membership is joint; leave or cancel the change under way first")]
    Joint,
    /// The membership is not joint.
    #[error("no membership change is under way; nothing to leave or cancel")]
    NotJoint,
    /// Another request ended the change.
    #[error("the change was cancelled by another request; the voters are as they were before")]
    Cancelled,
    /// No such node.
    #[error("node {node} is not a member; see the list of members")]
    Unknown {
        /// Which.
        node: NodeId,
    },
    /// The node was a member and is no more.
    #[error("node {node} was removed; ids are never reused, let it join as a new node")]
    Removed {
        /// Which.
        node: NodeId,
    },
    /// The address belongs to another member.
    #[error(
        "{address} is the address of node {node}; remove that node first, or use another address"
    )]
    AddressTaken {
        /// Which.
        address: String,
        /// Whose.
        node: NodeId,
    },
    /// The learner lags.
    #[error(
        "node {node} has entries up to {matched} of {last}, or lacks some before; wait until it has \
         caught up"
    )]
    NotCaughtUp {
        /// Which.
        node: NodeId,
        /// What it has.
        matched: u64,
        /// What there is.
        last: u64,
    },
    /// No voter would be left.
    #[error("the change leaves no voter; keep at least one")]
    NoVoters,
    /// Too many.
    #[error("{voters} voters and {members} members; there may be {VOTERS_MAX} and {MEMBERS_MAX}")]
    TooMany {
        /// That many voters.
        voters: u64,
        /// That many members.
        members: u64,
    },
}

impl Membership {
    /// Voters without addresses: for tests, and for users whose transport knows the way.
    ///
    /// # Panics
    /// If there are more than [`VOTERS_MAX`].
    #[must_use]
    pub fn new(voters: Vec<NodeId>) -> Self {
        Self::founding(voters.into_iter().map(|node| (node, String::new())).collect())
    }

    /// The voters that a cluster begins with; none for a node that will be told.
    ///
    /// # Panics
    /// If there are more than [`VOTERS_MAX`].
    #[must_use]
    pub fn founding(mut founders: Vec<(NodeId, String)>) -> Self {
        founders.sort_unstable();
        founders.dedup_by_key(|(node, _)| *node);
        assert!(founders.len() <= MEMBERS_MAX);
        let voters: Vec<NodeId> = founders.iter().map(|(node, _)| *node).collect();
        let claim = Some(Claim::FOUNDER);
        let member = |(node, address)| Member { node, address, claim, is_joining: false };
        Self {
            node_last: voters.last().copied().unwrap_or_default(),
            members: founders.into_iter().map(member).collect(),
            voters,
            outgoing: Vec::new(),
            departing: Vec::new(),
            leave: Leave::Automatic,
        }
    }

    /// A joint membership without addresses, whose departing members are the old voters that are not
    /// among the new.
    #[must_use]
    pub fn joint(voters: Vec<NodeId>, outgoing: Vec<NodeId>) -> Self {
        let all = Self::new(voters.iter().chain(&outgoing).copied().collect());
        let (new, old) = (Self::new(voters), Self::new(outgoing));
        let departing = old.voters.iter().copied().filter(|node| !new.is_voter(*node));
        let departing = departing.collect();
        Self { voters: new.voters, outgoing: old.voters, departing, ..all }
    }

    /// The same with these learners besides, without addresses.
    #[must_use]
    pub fn with_learners(mut self, learners: Vec<NodeId>) -> Self {
        for node in learners {
            assert!(!self.contains(node));
            let address = String::new();
            self.members.push(Member { node, address, claim: None, is_joining: false });
            self.node_last = self.node_last.max(node);
        }
        self.members.sort_unstable_by_key(|member| member.node);
        self
    }

    /// Every node that gets the log, in order.
    #[must_use]
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// A member.
    #[must_use]
    pub fn member(&self, node: NodeId) -> Option<&Member> {
        self.members.iter().find(|member| member.node == node)
    }

    /// The voters; while the membership is joint, the new ones.
    #[must_use]
    pub fn incoming(&self) -> &[NodeId] {
        &self.voters
    }

    /// The old voters while the membership is joint, or none.
    #[must_use]
    pub fn outgoing(&self) -> &[NodeId] {
        &self.outgoing
    }

    /// Every voter of either set, once.
    pub fn voters(&self) -> impl Iterator<Item = NodeId> + '_ {
        let only_outgoing = self.outgoing.iter().filter(|node| !self.voters.contains(node));
        self.voters.iter().chain(only_outgoing).copied()
    }

    /// Members that do not vote.
    pub fn learners(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.members.iter().map(|member| member.node).filter(|node| !self.is_voter(*node))
    }

    /// Whether `node` gets the log.
    #[must_use]
    pub fn contains(&self, node: NodeId) -> bool {
        self.members.iter().any(|member| member.node == node)
    }

    /// Whether `node` votes, in either set.
    #[must_use]
    pub fn is_voter(&self, node: NodeId) -> bool {
        self.voters.contains(&node) || self.outgoing.contains(&node)
    }

    /// Whether two voter sets count.
    #[must_use]
    pub fn is_joint(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// Who ends the joint phase.
    #[must_use]
    pub fn leave(&self) -> Leave {
        self.leave
    }

    /// Whether `node` once was, or is, a member: ids are given out in rising order.
    #[must_use]
    pub fn was_given_out(&self, node: NodeId) -> bool {
        node <= self.node_last
    }

    /// The greatest node id that was ever given out.
    #[must_use]
    pub fn node_last(&self) -> NodeId {
        self.node_last
    }

    /// What becomes of this membership by `change`: joint if the voters change.
    ///
    /// # Errors
    /// The change makes no sense for this membership.
    pub fn changed(&self, change: &Change) -> Result<Self, ChangeError> {
        if self.is_joint() {
            return Err(ChangeError::Joint);
        }
        let mut next = self.clone();
        for step in &change.steps {
            next.take_step(step)?;
        }
        if next.voters.is_empty() {
            return Err(ChangeError::NoVoters);
        }
        if next.voters != self.voters {
            next.leave = change.leave;
            next.outgoing.clone_from(&self.voters);
            next.keep_departing(self);
        }
        let (voters, members) = (next.voters.len(), next.members.len());
        if voters > VOTERS_MAX || members > MEMBERS_MAX {
            return Err(ChangeError::TooMany { voters: voters as u64, members: members as u64 });
        }
        Ok(next)
    }

    /// Old voters that are members no more vote until the joint phase ends, and get the log until then.
    fn keep_departing(&mut self, before: &Self) {
        for node in &self.outgoing {
            if !self.members.iter().any(|member| member.node == *node) {
                self.departing.push(*node);
                self.members.extend(before.member(*node).cloned());
            }
        }
        self.members.sort_unstable_by_key(|member| member.node);
    }

    fn take_step(&mut self, step: &Step) -> Result<(), ChangeError> {
        match step {
            Step::Add { address, claim, is_joining } => self.add(address, *claim, *is_joining),
            Step::Promote(node) => {
                let member = self.expect_member_mut(*node)?;
                member.is_joining = false;
                if let Err(at) = self.voters.binary_search(node) {
                    self.voters.insert(at, *node);
                }
                Ok(())
            }
            Step::Demote(node) => {
                self.expect_member_mut(*node)?.is_joining = false;
                self.voters.retain(|voter| voter != node);
                Ok(())
            }
            Step::Remove(node) => {
                // Removing a node that is gone succeeds: a retried command must not fail.
                if !self.contains(*node) && !self.was_given_out(*node) {
                    return Err(ChangeError::Unknown { node: *node });
                }
                self.members.retain(|member| member.node != *node);
                self.voters.retain(|voter| voter != node);
                Ok(())
            }
        }
    }

    /// Adds a learner. The same address and claim again is the same learner; a place that nobody has
    /// claimed is taken by the first who does.
    fn add(
        &mut self,
        address: &str,
        claim: Option<Claim>,
        is_joining: bool,
    ) -> Result<(), ChangeError> {
        // Members without addresses are never the same.
        let holder = self.members.iter_mut().find(|m| !address.is_empty() && m.address == address);
        if let Some(holder) = holder {
            if holder.claim.is_none() || holder.claim == claim {
                holder.claim = claim;
                return Ok(());
            }
            let (address, node) = (address.into(), holder.node);
            return Err(ChangeError::AddressTaken { address, node });
        }
        self.node_last = self.node_last.next();
        let node = self.node_last;
        self.members.push(Member { node, address: address.into(), claim, is_joining });
        Ok(())
    }

    fn expect_member_mut(&mut self, node: NodeId) -> Result<&mut Member, ChangeError> {
        let was_given_out = self.was_given_out(node);
        self.members.iter_mut().find(|member| member.node == node).ok_or(if was_given_out {
            ChangeError::Removed { node }
        } else {
            ChangeError::Unknown { node }
        })
    }

    /// The end of the joint phase with the new voters.
    ///
    /// # Errors
    /// [`ChangeError::NotJoint`].
    pub fn left(&self) -> Result<Self, ChangeError> {
        if !self.is_joint() {
            return Err(ChangeError::NotJoint);
        }
        let mut next = self.clone();
        next.members.retain(|member| !self.departing.contains(&member.node));
        next.outgoing.clear();
        next.departing.clear();
        next.leave = Leave::Automatic;
        Ok(next)
    }

    /// The old voters alone, as before the change. Safe only while the joint entry is not committed
    /// and its own leader still leads: then nobody can have gone on to the new voters.
    ///
    /// # Errors
    /// [`ChangeError::NotJoint`].
    pub fn abandoned(&self) -> Result<Self, ChangeError> {
        if !self.is_joint() {
            return Err(ChangeError::NotJoint);
        }
        let mut next = self.clone();
        next.voters = core::mem::take(&mut next.outgoing);
        next.departing.clear();
        next.leave = Leave::Automatic;
        Ok(next)
    }

    /// The way back from a committed joint membership: the same two majorities, so that it overlaps
    /// with whatever anybody may hold, but to be left with the old voters.
    ///
    /// # Errors
    /// [`ChangeError::NotJoint`].
    pub fn reversed(&self) -> Result<Self, ChangeError> {
        if !self.is_joint() {
            return Err(ChangeError::NotJoint);
        }
        let mut next = self.clone();
        core::mem::swap(&mut next.voters, &mut next.outgoing);
        next.departing.clear();
        next.leave = Leave::Automatic;
        Ok(next)
    }

    /// The payload of a membership entry.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        wire::encode(self)
    }

    /// The membership that an entry's payload carries.
    ///
    /// # Errors
    /// The bytes are not a membership, or one that no leader makes.
    pub fn decode(payload: &[u8]) -> Result<Self, WireError> {
        let membership: Self = wire::decode("a membership", payload)?;
        if membership.is_sound() {
            return Ok(membership);
        }
        let reason = "it contradicts itself".into();
        Err(WireError::Decode { what: "a membership", reason })
    }

    /// What holds of every membership that was made here.
    pub(super) fn is_sound(&self) -> bool {
        fn rises(nodes: &[NodeId]) -> bool {
            nodes.is_sorted_by(|a, b| a < b)
        }
        rises(&self.voters)
            && rises(&self.outgoing)
            && self.voters.len().max(self.outgoing.len()) <= VOTERS_MAX
            && self.members.len() <= MEMBERS_MAX
            && self.members.is_sorted_by(|a, b| a.node < b.node)
            && self.members.last().is_none_or(|member| member.node <= self.node_last)
            && self.voters().chain(self.departing.iter().copied()).all(|node| self.contains(node))
            && (self.members.is_empty() || !self.voters.is_empty())
    }
}
