//! The other members as this node sees them: how to send to each, and how each does.
//!
//! Owns the view that clients get. Decides nothing about leadership, which is the engine's.
//! Next: `dialer` for the connections.

use crate::config::NodeConfig;
use crate::outbound::Outbound;
use engine::engine::Status;
use engine::ids::{GroupId, NodeId};
use engine::raft::Message;
use engine::time::Micros;
use engine::wire::client::{ClusterView, Health, NodeView};
use engine::wire::peer::write_message;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A connection on which messages go out for that long while nothing at all comes back is made anew:
/// after a long partition TCP itself would wait for many seconds before it tries again.
const SILENCE_MAX: Micros = Micros::from_secs(2);

/// The other members.
#[derive(Debug)]
pub(crate) struct Peers {
    group: GroupId,
    this_node: NodeId,
    addresses: Vec<(NodeId, String)>,
    peers: BTreeMap<NodeId, Peer>,
    /// A peer from which a message came within this span is well.
    heard_within: Micros,
}

#[derive(Debug)]
struct Peer {
    outbound: Arc<Outbound>,
    is_connected: bool,
    heard_at: Option<Micros>,
    /// When the first message went out that nothing came back after.
    unanswered_since: Option<Micros>,
    /// Whether messages were dropped since its queue was last empty enough; for one log line.
    is_overflowing: bool,
}

impl Peers {
    pub(crate) fn new(config: &NodeConfig) -> Self {
        let this_node = config.identity.node;
        let others = config.identity.members.iter().filter(|(node, _)| *node != this_node);
        let peers = others.map(|(node, _)| {
            let peer = Peer {
                outbound: Arc::new(Outbound::closed(config.connection_outbound_bytes_max)),
                is_connected: false,
                heard_at: None,
                unanswered_since: None,
                is_overflowing: false,
            };
            (*node, peer)
        });
        Self {
            group: config.identity.group,
            this_node,
            addresses: config.identity.members.clone(),
            peers: peers.collect(),
            heard_within: config.election_timeout + config.election_timeout,
        }
    }

    /// Each other member with its address and the queue that its dialer writes from.
    pub(crate) fn outbounds(&self) -> impl Iterator<Item = (NodeId, &str, Arc<Outbound>)> {
        self.addresses.iter().filter_map(|(node, address)| {
            self.peers.get(node).map(|peer| (*node, address.as_str(), peer.outbound.clone()))
        })
    }

    /// Queues a message, or drops it if the member is not connected or too far behind.
    pub(crate) fn send(&mut self, now: Micros, to: NodeId, message: &Message) {
        let group = self.group;
        let Some(peer) = self.peers.get_mut(&to) else {
            debug_assert!(false, "the engine sends to members only, not to {to}");
            return;
        };
        if !peer.is_connected {
            return;
        }
        let silent_since = *peer.unanswered_since.get_or_insert(now);
        if now.since(silent_since) > SILENCE_MAX {
            tracing::warn!("node {to} does not answer for {SILENCE_MAX}; connecting anew");
            peer.is_connected = false;
            peer.outbound.cut();
            return;
        }
        let queued = peer.outbound.append(|out| write_message(out, group, message));
        match queued {
            Ok(()) => peer.is_overflowing = false,
            Err(overflow) => {
                if !peer.is_overflowing {
                    let waiting = overflow.waiting;
                    tracing::warn!("node {to} does not keep up; {waiting} bytes wait for it");
                }
                peer.is_overflowing = true;
            }
        }
    }

    /// A message came from a member.
    pub(crate) fn on_heard(&mut self, now: Micros, from: NodeId) {
        if let Some(peer) = self.peers.get_mut(&from) {
            peer.heard_at = Some(now);
            peer.unanswered_since = None;
        }
    }

    /// The connection to a member stands, or is gone.
    pub(crate) fn on_dialled(&mut self, to: NodeId, is_up: bool) {
        if let Some(peer) = self.peers.get_mut(&to) {
            peer.is_connected = is_up;
            peer.unanswered_since = None;
            peer.is_overflowing = false;
        }
    }

    /// The cluster as this node sees it. The leader hears from everybody and everybody from the
    /// leader, so silence between those counts; two followers have nothing to say to each other, and
    /// for them the connection has to do.
    pub(crate) fn view(&self, now: Micros, status: &Status) -> ClusterView {
        let health = |node: NodeId| {
            let Some(peer) = self.peers.get(&node) else { return Health::Itself };
            let is_heard = peer.heard_at.is_some_and(|at| now.since(at) <= self.heard_within);
            let should_be_heard =
                status.leader == Some(self.this_node) || status.leader == Some(node);
            if is_heard || peer.is_connected && !should_be_heard {
                Health::Reachable
            } else {
                Health::Unreachable
            }
        };
        let nodes = self.addresses.iter().map(|(node, address)| NodeView {
            node: *node,
            address: address.clone(),
            health: health(*node),
        });
        ClusterView { leader: status.leader, term: status.term, nodes: nodes.collect() }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail")]
mod tests {
    use super::*;
    use engine::engine::RoleName;
    use engine::ids::{ClusterId, LogIndex, Term};
    use engine::raft::Body;
    use engine::storage::Identity;

    fn peers() -> Peers {
        let members = (1..=3).map(|node| (NodeId(node), format!("10.0.0.{node}:7100"))).collect();
        let cluster = ClusterId([1; 16]);
        let identity = Identity { cluster, group: GroupId(0), node: NodeId(1), members };
        Peers::new(&NodeConfig::new(identity))
    }

    fn status(leader: Option<u64>) -> Status {
        Status {
            node: NodeId(1),
            role: RoleName::Follower,
            term: Term(1),
            voted_for: None,
            leader: leader.map(NodeId),
            first_index: LogIndex(1),
            last_index: LogIndex(0),
            durable_index: LogIndex(0),
            commit_index: LogIndex(0),
            applied_index: LogIndex(0),
            membership: engine::raft::Membership::default(),
            membership_index: LogIndex(0),
            is_removed: false,
            is_fit: true,
            snapshot_index: LogIndex(0),
            followers: Vec::new(),
            transfer: None,
            sessions: 0,
            waiting_requests: 0,
        }
    }

    fn health(peers: &Peers, now: Micros, leader: Option<u64>) -> Vec<Health> {
        peers.view(now, &status(leader)).nodes.iter().map(|node| node.health).collect()
    }

    #[test]
    fn a_silent_leader_is_unreachable_while_a_connected_follower_is_not() {
        let mut peers = peers();
        let start = Micros::from_secs(1);
        for node in [2, 3] {
            peers.on_dialled(NodeId(node), true);
            peers.on_heard(start, NodeId(node));
        }
        let later = start + Micros::from_millis(301);
        use Health::{Itself, Reachable, Unreachable};
        assert_eq!(health(&peers, start, Some(2)), [Itself, Reachable, Reachable]);
        assert_eq!(health(&peers, later, Some(2)), [Itself, Unreachable, Reachable]);
        assert_eq!(health(&peers, later, Some(1)), [Itself, Unreachable, Unreachable]);
        peers.on_dialled(NodeId(3), false);
        assert_eq!(health(&peers, later, Some(2)), [Itself, Unreachable, Unreachable]);
    }

    #[test]
    fn a_connection_without_any_answer_is_cut_and_one_with_answers_is_kept() {
        let mut peers = peers();
        for (_, _, outbound) in peers.outbounds() {
            outbound.reopen();
        }
        let vote = Message { term: Term(1), body: Body::VoteResponse { granted: true } };
        for node in [2, 3] {
            peers.on_dialled(NodeId(node), true);
        }
        for tenth in 0..=21 {
            let now = Micros::from_millis(tenth * 100);
            peers.send(now, NodeId(2), &vote);
            peers.send(now, NodeId(3), &vote);
            peers.on_heard(now, NodeId(3));
        }
        assert!(!peers.peers[&NodeId(2)].outbound.is_open());
        assert!(peers.peers[&NodeId(3)].outbound.is_open());
    }
}
