//! Damaging disks, within the bounds of the atlas.

use super::node::{Node, Standstill, address};
use super::world::World;
use crate::atlas::{self, Copy, Needs, Place};
use crate::damage::Decay;
use crate::oracle::Violation;
use engine::engine::{Config, RoleName};
use engine::ids::{NodeId, Term};
use engine::raft::LogPosition;

impl World<'_> {
    /// Bytes at rest decay. Of a file that goes as a whole no process holds on to what is left.
    pub(super) fn rot(&mut self, node: u64, how: Decay) {
        if !self.strike(node) {
            return;
        }
        if how == Decay::File {
            self.node(node).stop(Standstill::Crashed, false, false);
        }
        if let Some(what) = self.node(node).decay(how) {
            self.tell(node, format_args!("{what}"));
        }
    }

    /// The machine loses its disk.
    pub(super) fn vanish(&mut self, node: u64) {
        if !self.strike(node) {
            return;
        }
        self.node(node).stop(Standstill::Crashed, false, false);
        self.node(node).vanish();
    }

    /// Before a write job is performed: it may be the one that lands elsewhere.
    pub(super) fn aim(&mut self, node: u64) {
        let machine = self.node(node);
        if machine.misdirects == 0 || !machine.is_about_to_write() {
            return;
        }
        machine.misdirects -= 1;
        if self.strike(node) {
            let machine = self.node(node);
            machine.misdirects = 0;
            machine.misdirects_next_job = true;
        }
    }

    /// Whether everything on a machine's disk may be lost now; if so, its votes are forgotten, too.
    pub(super) fn strike(&mut self, node: u64) -> bool {
        let verdict = self.may_damage(node);
        match &verdict {
            Ok(()) => {
                self.damages.0 += 1;
                self.node(node).is_struck = true;
                self.votes.forgive(NodeId(node));
            }
            Err(refusal) => {
                self.damages.1 += 1;
                let refusal = refusal.to_string();
                self.tell(node, format_args!("is not damaged: {refusal}"));
            }
        }
        verdict.is_ok()
    }

    fn may_damage(&self, node: u64) -> Result<(), atlas::Refusal> {
        let (_, membership) = self.committed.memberships().newest();
        let log = self.committed.log();
        let index = log.last_index();
        let term = log.entry(index).map_or_else(Default::default, |entry| entry.term);
        let committed = LogPosition { term, index };
        let machine = &self.nodes[usize::try_from(node - 1).expect("nodes are few")];
        let (claimed, term) = self.claimed(machine);
        let needs = Needs { committed, claimed, term };
        let is_campaigning = |role| match role {
            RoleName::PreCandidate | RoleName::Candidate => true,
            RoleName::Follower | RoleName::Leader => false,
        };
        let places: Vec<Place> = self
            .nodes
            .iter()
            .map(|machine| {
                let copy = Copy::durable(machine.disk(), self.config(machine));
                Place {
                    node: machine.id,
                    has_all: copy.is_some_and(|copy| needs.are_met_by(&copy)),
                    is_campaigning: machine.replica.is_some() && is_campaigning(machine.role.0),
                }
            })
            .collect();
        atlas::may_damage(machine.id, &needs, membership, &places)
    }

    /// The last entry and the term that a machine may have vouched for.
    fn claimed(&self, machine: &Node) -> (LogPosition, Term) {
        if let Some(replica) = &machine.replica {
            let (raft, index) = (replica.raft(), replica.raft().last_index());
            let term = raft.term_at(index).unwrap_or_default();
            return (LogPosition { term, index }, raft.term());
        }
        let copy = Copy::claimed(machine.disk(), self.config(machine));
        copy.map_or_else(Default::default, |copy| (copy.last(), copy.term()))
    }

    fn config(&self, machine: &Node) -> Config {
        self.scenario.engine_config(machine.id, address, 0)
    }

    /// Whether a disk that was struck is not whole.
    pub(super) fn is_damaged(&self, machine: &Node) -> bool {
        machine.is_struck && Copy::claimed(machine.disk(), self.config(machine)).is_none()
    }

    /// A process that has not noticed what became of its disk is restarted, and so looks.
    pub(super) fn find_damage(&mut self, node: u64) {
        if self.is_damaged(&self.nodes[usize::try_from(node - 1).expect("nodes are few")]) {
            self.node(node).stop(Standstill::Crashed, false, false);
        }
    }

    /// All is well, but struck nodes may carry damage that nothing has shown yet: a lost write looks like
    /// one that never was, until another one follows. They are restarted once more. Says who is not whole.
    pub(super) fn look_over_struck(&mut self) -> Result<Vec<String>, Violation> {
        let mut found = Vec::new();
        for node in 1..=self.scenario.machines() {
            let machine = &self.nodes[usize::try_from(node - 1).expect("nodes are few")];
            if machine.replica.is_none() || !self.is_damaged(machine) {
                continue;
            }
            found.push(format!("node {node} is not whole"));
            if !std::mem::replace(&mut self.node(node).is_looked_over, true) {
                self.find_damage(node);
                self.start_node(node)?;
            }
        }
        Ok(found)
    }
}
