//! Progress: once everything is repaired the cluster agrees, serves, and leaves nobody behind.
//!
//! Every excuse is enumerated here: a cluster that has not converged in time must show a node that
//! may not take part. There are no others.

use super::{Rule, Violation};
use engine::ids::{LogIndex, NodeId, Term};

/// What a node is like at a moment of the healing phase.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NodeState {
    /// It runs.
    Up {
        /// Its term.
        term: Term,
        /// Whom it follows, itself if it leads.
        leader: Option<NodeId>,
        /// Its last entry.
        last: LogIndex,
        /// Committed.
        commit: LogIndex,
        /// Applied.
        applied: LogIndex,
        /// Its state.
        digest: u64,
    },
    /// It refuses to run on what the fault injection did to its disk; the reason is its own.
    Excused {
        /// Why.
        reason: String,
    },
    /// It does not run and has no excuse.
    Down {
        /// Why.
        reason: String,
    },
}

/// A client's part in convergence.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClientState {
    /// Which.
    pub client: u64,
    /// What it has asked and not been answered.
    pub unanswered: usize,
}

/// Why the cluster has not converged, one line each; empty once it has. A minority of excused nodes
/// does not count.
#[must_use]
pub fn obstacles(
    nodes: &[(NodeId, NodeState)],
    clients: &[ClientState],
    is_probe_answered: bool,
) -> Vec<String> {
    let mut obstacles = Vec::new();
    let excused = nodes.iter().filter(|(_, state)| matches!(state, NodeState::Excused { .. }));
    if 2 * excused.count() >= nodes.len() {
        obstacles.push("a majority refuses to run".to_owned());
    }
    let mut first: Option<(NodeId, &NodeState)> = None;
    for (node, state) in nodes {
        match state {
            NodeState::Excused { .. } => {}
            NodeState::Down { reason } => obstacles.push(format!("node {node} is down: {reason}")),
            NodeState::Up { leader, last, commit, applied, .. } => {
                if leader.is_none() {
                    obstacles.push(format!("node {node} knows no leader"));
                }
                if commit != last || applied != last {
                    obstacles.push(format!(
                        "node {node} ends at entry {last}, committed {commit}, applied {applied}"
                    ));
                }
                match first {
                    None => first = Some((*node, state)),
                    Some((other, first)) if first != state => obstacles
                        .push(format!("nodes {other} and {node} differ: {first:?} and {state:?}")),
                    Some(_) => {}
                }
            }
        }
    }
    for client in clients.iter().filter(|client| client.unanswered > 0) {
        obstacles.push(format!("client {} waits for {} answers", client.client, client.unanswered));
    }
    if !is_probe_answered {
        obstacles.push("the probe was not sent and received".to_owned());
    }
    obstacles
}

/// The violation of a cluster that has not converged in time.
#[must_use]
pub fn stuck(at_us: u64, healed_us: u64, obstacles: &[String]) -> Violation {
    let waited_us = at_us.saturating_sub(healed_us);
    let explanation =
        format!("{} ms after everything was repaired: {}", waited_us / 1_000, obstacles.join("; "));
    Violation::new(Rule::Progress, at_us, explanation)
}
