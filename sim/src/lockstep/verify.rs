//! Lets the oracles watch: after each turn, while the cluster heals, and over the whole run.

use super::node::{Node, Standstill};
use super::world::World;
use crate::history::Outcome;
use crate::oracle::committed::{Applied, Indices, check_logs_match};
use crate::oracle::progress::{ClientState, NodeState, obstacles, stuck};
use crate::oracle::{self, Rule, Violation, nothing_lost, quorums};
use crate::scenario::Moment;
use engine::engine::RoleName;
use engine::ids::{LogIndex, NodeId};
use engine::replica::Event;
use engine::state_machine::StateMachine;
use std::sync::Arc;

impl World<'_> {
    /// A node told something.
    pub(super) fn on_event(
        &mut self,
        node: u64,
        event: &Event,
        fatal: &mut Option<String>,
    ) -> Result<(), Violation> {
        self.tell(node, format_args!("{event:?}"));
        let now_us = self.now_us;
        match *event {
            Event::Role { role, term, leader } => {
                self.trace_role(node, [term.0, leader.map_or(0, |leader| leader.0)]);
                self.node(node).role = (role, term);
                if self.node(node).is_removed && role != RoleName::Follower {
                    let explanation = format!("node {node} was removed, knows it, and is {role:?}");
                    return Err(Violation::new(Rule::Membership, now_us, explanation));
                }
                if role == RoleName::Leader {
                    self.check_elected(node)?;
                    self.spring_ambush(node, Moment::Elected);
                }
            }
            Event::Applied { index, term, hlc } => {
                self.trace_applied(node, [index.0, hlc.0]);
                let applied = Applied { index, term, stamp: hlc };
                let replica = self.node(node).replica.as_ref();
                let in_term = replica.map_or(term, |replica| replica.raft().term());
                self.committed.applied(now_us, NodeId(node), in_term, applied)?;
            }
            Event::Truncated { from } => self.trace_other(node, [1, from.0]),
            Event::Membership { index, ref membership } => {
                self.trace_other(node, [3, index.0]);
                self.node(node).memberships[1] = Arc::new((**membership).clone());
                if membership.is_joint() && self.node(node).role.0 == RoleName::Leader {
                    self.spring_ambush(node, Moment::JointEntered);
                }
            }
            Event::Removed { index } => {
                self.trace_other(node, [4, index.0]);
                self.node(node).is_removed = true;
            }
            Event::Installed { index, term, hlc } => {
                self.trace_other(node, [5, index.0]);
                let applied = Applied { index, term, stamp: hlc };
                self.committed.installed(now_us, NodeId(node), applied)?;
            }
            Event::Lost { index } => self.trace_other(node, [6, index.0]),
            Event::Damaged { index, is_snapshot } => {
                self.trace_other(node, [7 + u64::from(is_snapshot), index.0]);
            }
            Event::Space { ref shortage } => {
                self.trace_other(node, [7, u64::from(shortage.is_some())]);
            }
            Event::Fatal { ref reason } => {
                self.trace_other(node, [2, 0]);
                *fatal = Some(reason.clone());
            }
        }
        Ok(())
    }

    fn check_elected(&mut self, node: u64) -> Result<(), Violation> {
        let (now_us, ordinal) = (self.now_us, usize::try_from(node - 1).expect("nodes are few"));
        let machine = &self.nodes[ordinal];
        let Some(replica) = &machine.replica else { return Ok(()) };
        let [before, now] = &machine.memberships;
        self.votes.elected(now_us, machine.id, machine.role.1, [before, now])?;
        self.leaders.elected(
            now_us,
            (machine.id, machine.life),
            machine.role.1,
            &self.committed,
            replica.status().first_index,
            |index| replica.term_at(index),
        )
    }

    /// After each turn of a node.
    pub(super) fn watch(&mut self, node: u64) -> Result<(), Violation> {
        let now_us = self.now_us;
        let machine = self.node(node);
        let Some(replica) = &machine.replica else { return Ok(()) };
        let raft = replica.raft();
        let (term, commit, applied) = (raft.term(), raft.commit_index(), replica.applied_index());
        let leads = raft.is_leader();
        let has_applied = applied != machine.indices.applied;
        let has_committed = commit > machine.indices.commit;
        machine.indices.advance(now_us, NodeId(node), Indices { term, commit, applied })?;
        if has_applied && oracle::digests::Digests::is_due(applied) {
            replica.machine().check_invariants();
            let digest = replica.machine().digest();
            self.digests.saw(now_us, NodeId(node), applied, digest)?;
        }
        if has_committed && leads {
            self.check_commit(node, commit)?;
            self.spring_ambush(node, Moment::Committed);
        }
        let memberships = &mut self.node(node).memberships;
        memberships[0] = memberships[1].clone();
        Ok(())
    }

    /// Disks that lie are excused from having anything.
    fn check_commit(&mut self, node: u64, commit: LogIndex) -> Result<(), Violation> {
        if self.scenario.disk.lying_sync {
            return Ok(());
        }
        let now_us = self.now_us;
        let machine = self.node(node);
        let Some(term) = machine.replica.as_ref().and_then(|replica| replica.term_at(commit))
        else {
            return Ok(());
        };
        let [before, now] = machine.memberships.clone();
        let holds = |voter: NodeId| {
            let mut machines = self.nodes.iter();
            // A struck disk may have lost what it was made to vouch for; the atlas has seen to it that
            // it is the only one.
            let has_it = |machine: &Node| machine.is_struck || machine.holds(commit, term);
            machines.any(|machine| machine.id == voter && has_it(machine))
        };
        quorums::check_commit(now_us, NodeId(node), commit, [&before, &now], holds)
    }

    /// A change is answered when it is committed, and not before.
    pub(super) fn check_change_is_committed(
        &mut self,
        node: u64,
        index: LogIndex,
    ) -> Result<(), Violation> {
        let now_us = self.now_us;
        let Some(replica) = &self.node(node).replica else { return Ok(()) };
        let commit = replica.raft().commit_index();
        if index <= commit {
            return Ok(());
        }
        let explanation = format!(
            "node {node} answers a change at entry {index}, and has committed up to {commit}"
        );
        Err(Violation::new(Rule::Membership, now_us, explanation))
    }

    /// Those who are members by now: the others are excused.
    fn states(&self) -> Vec<(NodeId, NodeState)> {
        let (_, membership) = self.committed.memberships().newest();
        let state = |machine: &Node| match (&machine.replica, &machine.standstill) {
            (Some(replica), _) => {
                let status = replica.status();
                NodeState::Up {
                    term: status.term,
                    leader: status.leader,
                    last: status.last_index,
                    commit: status.commit_index,
                    applied: status.applied_index,
                    digest: replica.machine().digest(),
                }
            }
            (None, Standstill::CannotOpen(reason)) => NodeState::Excused { reason: reason.clone() },
            (None, why) => NodeState::Down { reason: format!("{why:?}") },
        };
        let members = self.nodes.iter().filter(|machine| membership.contains(machine.id));
        members.map(|machine| (machine.id, state(machine))).collect()
    }

    fn is_probe_answered(&self) -> bool {
        let probe = self.clients.len() as u64 - 1;
        self.history.operations.iter().rev().any(|operation| {
            operation.client == probe
                && matches!(&operation.outcome, Outcome::Replied { messages, .. }
                    if !messages.is_empty())
        })
    }

    /// Ends the run if the cluster has converged, or if its time is over.
    pub(super) fn check_convergence(&mut self) -> Result<(), Violation> {
        let is_answered = self.is_probe_answered();
        let probe = self.clients.len() - 1;
        if !is_answered && self.clients[probe].unanswered() == 0 {
            // Its session was expired by others, as may happen when there are very few.
            self.send_probe();
        }
        let clients: Vec<ClientState> = (0..)
            .zip(&self.clients)
            .map(|(client, state)| ClientState { client, unanswered: state.unanswered() })
            .collect();
        let mut found = obstacles(&self.states(), &clients, is_answered);
        let (made_at, membership) = self.committed.memberships().newest();
        self.admin.finish(self.now_us, membership);
        if self.admin.is_busy() {
            found.push("the operator waits for an answer".to_owned());
        }
        if !self.committed.memberships().is_settled() {
            found.push(format!("the membership of entry {made_at} is joint"));
        }
        self.schedule_admin();
        for machine in self.nodes.iter().filter(|machine| machine.unresolved() > 0) {
            found.push(format!(
                "node {} has not resolved {} requests",
                machine.id,
                machine.unresolved()
            ));
        }
        if found.is_empty() {
            found = self.look_over_struck()?;
        }
        if found.is_empty() {
            self.has_converged = true;
            return Ok(());
        }
        if self.now_us < self.scenario.end_us() {
            return Ok(());
        }
        // What is unsafe matters more than what is slow.
        let engine = &self.scenario.engine;
        oracle::check_history(
            &self.history,
            Some(self.committed.log()),
            engine.dedup_window_millis,
            engine.sessions_max,
        )?;
        Err(stuck(self.now_us, self.scenario.healed_us(), &found))
    }

    /// All rules over the whole run.
    pub(super) fn verify_all(&mut self) -> Result<(), Violation> {
        let engine = &self.scenario.engine;
        let model = oracle::check_history(
            &self.history,
            Some(self.committed.log()),
            engine.dedup_window_millis,
            engine.sessions_max,
        )?;
        let model = model.expect("there was a log");
        let memberships = self.committed.memberships();
        memberships.check_answers(&self.history.changes, self.committed.log())?;
        let (_, membership) = memberships.newest();
        let up =
            self.nodes.iter().filter(|machine| membership.contains(machine.id)).filter_map(
                |machine| machine.replica.as_ref().map(|replica| (machine.id, replica)),
            );
        for (node, replica) in up.clone() {
            let machine = replica.machine();
            machine.check_invariants();
            nothing_lost::check(self.now_us, node, &model, |query| machine.query(&query.encode()))?;
        }
        let last = self.committed.log().last_index();
        let up: Vec<_> = up.collect();
        for pair in up.windows(2) {
            let ((left, one), (right, other)) = (pair[0], pair[1]);
            let terms = |index: LogIndex| (one.term_at(index), other.term_at(index));
            let first = one.status().first_index.max(other.status().first_index).0.max(1);
            check_logs_match(self.now_us, (left, right), first..=last.0, terms)?;
        }
        Ok(())
    }
}
