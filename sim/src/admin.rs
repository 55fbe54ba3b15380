//! An operator: draws membership changes and transfers of leadership.
//!
//! Owns what is asked next, from a seeded stream and the membership as it is. Used by both worlds;
//! knows nothing of nodes, retries or answers. Addresses are asked for once each, in the order of the
//! spare nodes, so that the number which the log gives out is that of the machine at the address.
//! Next: `scenario::Admin` for the numbers.

use crate::scenario::Scenario;
use crate::streams::Stream;
use engine::ids::NodeId;
use engine::raft::{Change, ChangeRequest, Leave, Membership, Step};

/// Voters beyond which no more are made: larger groups only run slower.
const VOTERS_MAX: usize = 5;

/// What an operator asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Deed {
    /// Another membership.
    Change(ChangeRequest),
    /// Another leader.
    Transfer(Option<NodeId>),
}

/// Draws an operator's deeds.
#[derive(Clone, Debug)]
pub struct Operator {
    stream: Stream,
    pause_us: u64,
    address: fn(u64) -> String,
    /// The next spare that nobody has added.
    next_spare: u64,
    spares_end: u64,
}

impl Operator {
    /// The operator of a scenario; `address` says where a node is reached.
    #[must_use]
    pub fn new(scenario: &Scenario, address: fn(u64) -> String) -> Self {
        Self {
            stream: Stream::new(scenario.seed, "operator"),
            pause_us: scenario.admin.pause_ms * 1_000,
            address,
            next_spare: scenario.nodes + 1,
            spares_end: scenario.nodes + scenario.spares + 1,
        }
    }

    /// The pause until the next deed, microseconds.
    pub fn draw_pause_us(&mut self) -> u64 {
        self.stream.between(1, 2 * self.pause_us.max(1))
    }

    /// Whether to ask again what was refused or not answered.
    pub fn draws_retry(&mut self) -> bool {
        !self.stream.one_in(4)
    }

    /// A node to ask, of `machines`.
    pub fn draw_target(&mut self, machines: u64) -> u64 {
        self.stream.between(1, machines)
    }

    /// Adds no further node.
    pub fn forget_spares(&mut self) {
        self.next_spare = self.spares_end;
    }

    /// The next deed on a membership; none if nothing comes to mind.
    pub fn draw(&mut self, membership: &Membership) -> Option<Deed> {
        if membership.is_joint() {
            return Some(Deed::Change(self.draw_end()));
        }
        let steps = match self.stream.weighted(&[4, 2, 3, 3, 3, 3, 3, 6]) {
            0 => self.add(true),
            1 => self.add(false),
            2 => self.promote(membership),
            3 => self.demote(membership),
            4 => self.remove(membership),
            5 => self.replace(membership),
            6 => self.several(membership),
            _ => return Some(Deed::Transfer(self.draw_successor(membership))),
        };
        let leave = if self.stream.one_in(3) { Leave::Explicit } else { Leave::Automatic };
        (!steps.is_empty()).then_some(Deed::Change(ChangeRequest::Change(Change { steps, leave })))
    }

    fn draw_end(&mut self) -> ChangeRequest {
        if self.stream.one_in(3) { ChangeRequest::Cancel } else { ChangeRequest::Leave }
    }

    fn draw_successor(&mut self, membership: &Membership) -> Option<NodeId> {
        let voters: Vec<NodeId> = membership.voters().collect();
        (!self.stream.one_in(3)).then(|| self.stream.pick(&voters))
    }

    fn add(&mut self, is_joining: bool) -> Vec<Step> {
        if self.next_spare == self.spares_end {
            return Vec::new();
        }
        let address = (self.address)(self.next_spare);
        self.next_spare += 1;
        vec![Step::Add { address, claim: None, is_joining }]
    }

    fn promote(&mut self, membership: &Membership) -> Vec<Step> {
        let learners: Vec<NodeId> = membership.learners().collect();
        if learners.is_empty() || membership.incoming().len() >= VOTERS_MAX {
            return Vec::new();
        }
        vec![Step::Promote(self.stream.pick(&learners))]
    }

    fn demote(&mut self, membership: &Membership) -> Vec<Step> {
        match membership.incoming() {
            [] | [_] => Vec::new(),
            voters => vec![Step::Demote(self.stream.pick(voters))],
        }
    }

    fn remove(&mut self, membership: &Membership) -> Vec<Step> {
        let members: Vec<NodeId> = membership.members().iter().map(|member| member.node).collect();
        let node = self.stream.pick(&members);
        let is_last_voter = membership.incoming() == [node];
        if is_last_voter { Vec::new() } else { vec![Step::Remove(node)] }
    }

    /// A learner takes a voter's place.
    fn replace(&mut self, membership: &Membership) -> Vec<Step> {
        let learners: Vec<NodeId> = membership.learners().collect();
        if learners.is_empty() {
            return self.add(false);
        }
        let goes = self.stream.pick(membership.incoming());
        let out = if self.stream.one_in(2) { Step::Remove(goes) } else { Step::Demote(goes) };
        vec![Step::Promote(self.stream.pick(&learners)), out]
    }

    fn several(&mut self, membership: &Membership) -> Vec<Step> {
        let mut steps = self.add(true);
        steps.extend(self.promote(membership));
        steps.extend(self.demote(membership));
        steps
    }
}
