//! Looks over a node's shoulder and lets the oracles know.
//!
//! One for each life of a process. Next: `crate::oracle` for the rules.

use super::machine::{Answers, Seen};
use super::world::{Shared, World, kind};
use crate::oracle::Violation;
use crate::oracle::committed::{Applied, Indices};
use crate::oracle::digests::Digests;
use crate::oracle::progress::NodeState;
use engine::engine::{RoleName, Status};
use engine::ids::{LogIndex, NodeId, Term};
use engine::queue::{Query, Queues, Reply};
use engine::replica::{Event, Replica};
use engine::state_machine::StateMachine;
use engine::time::Now;
use node::Observer;

/// Most messages that are compared in a queue at the end.
const BROWSE_MAX: u32 = 4_096;

/// Watches one life of a node's process.
#[derive(Debug)]
pub(super) struct Watcher {
    shared: Shared,
    node: NodeId,
    life: u64,
    indices: Indices,
    /// The term that the node told last.
    term: Term,
    /// The latest term in which this life was seen to lead.
    led: Term,
    /// The digest and the answers of a healing cluster, and after which entry they were true.
    settled: Option<(LogIndex, u64, Answers)>,
}

impl Watcher {
    /// A watcher of a life.
    pub(super) fn new(shared: &Shared, node: NodeId, life: u64) -> Self {
        Self {
            shared: shared.clone(),
            node,
            life,
            indices: Indices::default(),
            term: Term::ZERO,
            led: Term::ZERO,
            settled: None,
        }
    }

    fn watch(&mut self, world: &mut World, replica: &Replica<Queues>) -> Result<(), Violation> {
        let (now_us, status) = (world.now_us(), replica.status());
        let indices = Indices {
            term: status.term,
            commit: status.commit_index,
            applied: status.applied_index,
        };
        let has_applied = indices.applied != self.indices.applied;
        self.indices.advance(now_us, self.node, indices)?;
        if status.role == RoleName::Leader && status.term > self.led {
            self.led = status.term;
            world.last_leader = world.last_leader.max(Some((status.term, self.node.0)));
            world.leaders.elected(
                now_us,
                (self.node, self.life),
                status.term,
                &world.committed,
                status.first_index,
                |index| replica.term_at(index),
            )?;
        }
        if has_applied && Digests::is_due(indices.applied) {
            replica.machine().check_invariants();
            let digest = replica.machine().digest();
            world.digests.saw(now_us, self.node, indices.applied, digest)?;
        }
        Ok(())
    }

    fn state(&mut self, is_healed: bool, status: &Status, machine: &Queues) -> Seen {
        let is_settled = is_healed && status.applied_index == status.last_index;
        let is_known =
            self.settled.as_ref().is_some_and(|(index, ..)| *index == status.applied_index);
        if is_settled && !is_known {
            self.settled = Some((status.applied_index, machine.digest(), answers(machine)));
        }
        let (digest, answers) = match &self.settled {
            Some((_, digest, answers)) if is_settled => (*digest, answers.clone()),
            Some(_) | None => (0, Answers::default()),
        };
        let state = NodeState::Up {
            term: status.term,
            leader: status.leader,
            last: status.last_index,
            commit: status.commit_index,
            applied: status.applied_index,
            digest,
        };
        Seen { state, answers }
    }
}

/// All that the queues have to say of themselves.
fn answers(machine: &Queues) -> Answers {
    let list = Query::List { after: None, max: BROWSE_MAX };
    let listed = machine.query(&list.encode());
    let names: Vec<String> = match &listed {
        Reply::Queues(queues) => queues.iter().map(|queue| queue.name.clone()).collect(),
        _ => Vec::new(),
    };
    let browses = names.into_iter().map(|queue| {
        let browse = Query::Browse { queue, after: None, max: BROWSE_MAX };
        let reply = machine.query(&browse.encode());
        (browse, reply)
    });
    let all: Vec<_> = core::iter::once((list, listed.clone())).chain(browses).collect();
    all.into()
}

impl Observer for Watcher {
    fn on_event(&mut self, _: Now, event: &Event) {
        let mut world = self.shared.lock();
        let node = self.node.0;
        world.tell(&format!("n{node}"), ' ', format_args!("{event:?}"));
        match event {
            Event::Role { role: _, term, leader } => {
                self.term = *term;
                world.event(kind::ROLE, node, [term.0, leader.map_or(0, |leader| leader.0)]);
            }
            Event::Applied { index, term, hlc } => {
                world.event(kind::APPLIED, node, [index.0, hlc.0]);
                let now_us = world.now_us();
                let applied = Applied { index: *index, term: *term, stamp: *hlc };
                let result = world.committed.applied(now_us, self.node, self.term, applied);
                if world.committed.log().last_index().0 > world.applied_us.len() as u64 {
                    world.applied_us.push(now_us);
                }
                world.judge(result);
            }
            Event::Truncated { from } => world.event(kind::OTHER, node, [1, from.0]),
            Event::Membership { index, .. } => world.event(kind::OTHER, node, [3, index.0]),
            Event::Removed { index } => world.event(kind::OTHER, node, [4, index.0]),
            Event::Installed { index, term, hlc } => {
                world.event(kind::OTHER, node, [5, index.0]);
                let applied = Applied { index: *index, term: *term, stamp: *hlc };
                let result = world.committed.installed(world.now_us(), self.node, applied);
                world.judge(result);
            }
            Event::Lost { index } => world.event(kind::OTHER, node, [6, index.0]),
            Event::Damaged { index, is_snapshot } => {
                world.event(kind::OTHER, node, [7 + u64::from(*is_snapshot), index.0]);
            }
            Event::Space { shortage } => {
                world.event(kind::OTHER, node, [9, u64::from(shortage.is_some())]);
            }
            Event::Fatal { .. } => world.event(kind::OTHER, node, [2, 0]),
        }
    }

    fn on_turn(&mut self, _: Now, replica: &Replica<Queues>) {
        replica.check_invariants();
        let shared = self.shared.clone();
        let mut world = shared.lock();
        world.event(kind::TURN, self.node.0, [self.life, 0]);
        let result = self.watch(&mut world, replica);
        world.judge(result);
        let seen = self.state(world.is_healed, &replica.status(), replica.machine());
        world.machine(self.node.0).seen = Some(seen);
    }
}
