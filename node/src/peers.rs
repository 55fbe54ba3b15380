//! The other nodes as this one sees them: whom to call, how to send to each, and how each does.
//!
//! Follows the newest membership: a dialer for every other member, and for a while longer for those
//! that left. Nodes outside the membership may call as well, as this node's log may lag behind, or
//! theirs; they are called back only when there is something to tell them, for a while, and only so
//! many of them. Owns the view that clients get. Decides nothing about leadership or membership,
//! which are the engine's. Next: `dialer` for the connections.

use crate::config::NodeConfig;
use crate::outbound::Outbound;
use crate::task::AbortOnDrop;
use engine::engine::Status;
use engine::ids::{GroupId, NodeId};
use engine::raft::{Membership, Message};
use engine::time::Micros;
use engine::wire::client::{ClusterView, Health, NodeView};
use engine::wire::peer::write_message;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A connection on which messages go out for that long while nothing at all comes back is made anew:
/// after a long partition TCP itself would wait for many seconds before it tries again.
const SILENCE_MAX: Micros = Micros::from_secs(2);
/// A node that is no member, or no more, is called for this long after the last message to it.
const STRANGER_GRACE: Micros = Micros::from_secs(5);
/// Nodes outside the membership whose addresses are remembered; of more, the one that was heard of
/// longest ago is forgotten.
const STRANGERS_MAX: usize = 16;

/// The other nodes.
#[derive(Debug)]
pub(crate) struct Peers {
    group: GroupId,
    this_node: NodeId,
    outbound_bytes_max: usize,
    /// Every member of the newest membership with its address, this node too.
    members: Vec<(NodeId, String)>,
    /// Those that are called.
    peers: BTreeMap<NodeId, Peer>,
    /// Where nodes outside the membership were when they were last heard of.
    strangers: BTreeMap<NodeId, Stranger>,
    dialers: u64,
    /// A peer from which a message came within this span is well.
    heard_within: Micros,
}

/// One life of a dialer; news of an earlier one's connection counts no more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct DialerId(u64);

#[derive(Debug)]
struct Stranger {
    address: String,
    seen_at: Micros,
}

#[derive(Debug)]
struct Peer {
    address: String,
    outbound: Arc<Outbound>,
    dialer: DialerId,
    /// The dialer, once it runs.
    task: Option<AbortOnDrop>,
    /// When it is called no more; never while it is a member.
    until: Option<Micros>,
    is_connected: bool,
    heard_at: Option<Micros>,
    /// When the first message went out that nothing came back after.
    unanswered_since: Option<Micros>,
    /// Whether messages were dropped since its queue was last empty enough; for one log line.
    is_overflowing: bool,
}

/// Whom a new dialer is to call.
#[derive(Debug)]
pub(crate) struct Callee {
    pub(crate) dialer: DialerId,
    pub(crate) node: NodeId,
    pub(crate) address: String,
    pub(crate) outbound: Arc<Outbound>,
}

impl Peers {
    pub(crate) fn new(config: &NodeConfig) -> Self {
        Self {
            group: config.identity.group,
            this_node: config.identity.node,
            outbound_bytes_max: config.connection_outbound_bytes_max,
            members: Vec::new(),
            peers: BTreeMap::new(),
            strangers: BTreeMap::new(),
            dialers: 0,
            heard_within: config.election_timeout + config.election_timeout,
        }
    }

    /// The newest membership is another one.
    pub(crate) fn on_membership(&mut self, now: Micros, membership: &Membership) {
        let members = membership.members().iter();
        self.members = members.map(|member| (member.node, member.address.clone())).collect();
        for (node, address) in self.members.clone() {
            self.strangers.remove(&node);
            if node == self.this_node || address.is_empty() {
                continue;
            }
            if self.peers.get(&node).is_none_or(|peer| peer.address != address) {
                self.call(node, address, None);
            } else if let Some(peer) = self.peers.get_mut(&node) {
                peer.until = None;
            }
        }
        let members: BTreeSet<NodeId> = self.members.iter().map(|(node, _)| *node).collect();
        let mut departed = Vec::new();
        for (node, peer) in &mut self.peers {
            if !members.contains(node) && peer.until.is_none() {
                peer.until = Some(now + STRANGER_GRACE);
                departed.push((*node, peer.address.clone()));
            }
        }
        for (node, address) in departed {
            self.remember(now, node, address);
        }
    }

    /// Another node called and said where it is to be called back.
    pub(crate) fn on_called(&mut self, now: Micros, from: NodeId, address: String) {
        let is_member = self.members.iter().any(|(node, _)| *node == from);
        if !is_member && from != self.this_node && !address.is_empty() {
            self.remember(now, from, address);
        }
    }

    fn remember(&mut self, now: Micros, node: NodeId, address: String) {
        self.strangers.insert(node, Stranger { address, seen_at: now });
        if self.strangers.len() > STRANGERS_MAX {
            let oldest = self.strangers.iter().min_by_key(|(_, stranger)| stranger.seen_at);
            let oldest = oldest.map(|(node, _)| *node).expect("more than none");
            self.strangers.remove(&oldest);
        }
    }

    /// Begins to call a node, in place of whoever had its number before.
    fn call(&mut self, node: NodeId, address: String, until: Option<Micros>) {
        self.dialers += 1;
        let peer = Peer {
            address,
            outbound: Arc::new(Outbound::closed(self.outbound_bytes_max)),
            dialer: DialerId(self.dialers),
            task: None,
            until,
            is_connected: false,
            heard_at: None,
            unanswered_since: None,
            is_overflowing: false,
        };
        self.peers.insert(node, peer);
    }

    /// Starts the dialers that do not run yet.
    pub(crate) fn start_dialers(&mut self, mut start: impl FnMut(Callee) -> AbortOnDrop) {
        for (node, peer) in self.peers.iter_mut().filter(|(_, peer)| peer.task.is_none()) {
            peer.task = Some(start(Callee {
                dialer: peer.dialer,
                node: *node,
                address: peer.address.clone(),
                outbound: peer.outbound.clone(),
            }));
        }
    }

    /// Stops calling those whose time is up.
    pub(crate) fn expire(&mut self, now: Micros) {
        self.peers.retain(|_, peer| peer.until.is_none_or(|until| until > now));
    }

    /// When [`expire`](Self::expire) has something to do.
    pub(crate) fn next_expiry(&self) -> Option<Micros> {
        self.peers.values().filter_map(|peer| peer.until).min()
    }

    /// Queues a message, or drops it if the node is not connected, too far behind, or unknown. One
    /// that is known and not called is called from now on.
    pub(crate) fn send(&mut self, now: Micros, to: NodeId, message: &Message) {
        let group = self.group;
        let Some(peer) = self.peers.get_mut(&to) else { return self.call_back(now, to) };
        if peer.until.is_some() {
            peer.until = Some(now + STRANGER_GRACE);
        }
        if !peer.is_connected {
            return;
        }
        let silent_since = *peer.unanswered_since.get_or_insert(now);
        if peer.until.is_none() && now.since(silent_since) > SILENCE_MAX {
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

    fn call_back(&mut self, now: Micros, to: NodeId) {
        let called = self.peers.values().filter(|peer| peer.until.is_some()).count();
        if called >= STRANGERS_MAX {
            return;
        }
        if let Some(stranger) = self.strangers.get_mut(&to) {
            stranger.seen_at = now;
            let address = stranger.address.clone();
            self.call(to, address, Some(now + STRANGER_GRACE));
        }
    }

    /// Whether a connection to the node stands.
    pub(crate) fn is_connected(&self, node: NodeId) -> bool {
        self.peers.get(&node).is_some_and(|peer| peer.is_connected)
    }

    /// A message came from another node.
    pub(crate) fn on_heard(&mut self, now: Micros, from: NodeId) {
        if let Some(peer) = self.peers.get_mut(&from) {
            peer.heard_at = Some(now);
            peer.unanswered_since = None;
        }
    }

    /// The connection of a dialer stands, or is gone.
    pub(crate) fn on_dialled(&mut self, dialer: DialerId, to: NodeId, is_up: bool) {
        if let Some(peer) = self.peers.get_mut(&to).filter(|peer| peer.dialer == dialer) {
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
            if node == self.this_node {
                return Health::Itself;
            }
            let Some(peer) = self.peers.get(&node) else { return Health::Unreachable };
            let is_heard = peer.heard_at.is_some_and(|at| now.since(at) <= self.heard_within);
            let should_be_heard =
                status.leader == Some(self.this_node) || status.leader == Some(node);
            if is_heard || peer.is_connected && !should_be_heard {
                Health::Reachable
            } else {
                Health::Unreachable
            }
        };
        let nodes = self.members.iter().map(|(node, address)| NodeView {
            node: *node,
            address: address.clone(),
            health: health(*node),
        });
        ClusterView {
            leader: status.leader,
            term: status.term,
            membership_index: status.membership_index,
            nodes: nodes.collect(),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail")]
#[path = "peers_tests.rs"]
mod tests;
