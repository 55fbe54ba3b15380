//! What a node has to know before it can run. Where it comes from is `settings`' business.

use engine::ids::NodeId;
use engine::limits::{self, Limits};
use engine::raft::Membership;
use engine::storage::Identity;
use engine::time::Micros;

/// The configuration of one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeConfig {
    /// Cluster, group, node and the members with the addresses at which everybody reaches them.
    pub identity: Identity,
    /// Where to listen, `host:port`. Often the node's own member address; differs behind address
    /// translation, or when listening on all interfaces.
    pub listen: String,
    /// Shortest election timeout; each is drawn from this to twice this.
    pub election_timeout: Micros,
    /// How often a leader says that it is there. At most a quarter of the election timeout.
    pub heartbeat_interval: Micros,
    /// The engine's bounds.
    pub limits: Limits,
    /// Clients connected at a time; further ones are refused.
    pub client_connections_max: usize,
    /// Bytes that may wait to be written to one connection. A client that lets more pile up is cut
    /// off; to a peer, further messages are dropped.
    pub connection_outbound_bytes_max: usize,
}

impl NodeConfig {
    /// The defaults for `identity`, listening on the node's own member address.
    ///
    /// # Panics
    /// If the node is not among its own members; an identity that was read from a data directory
    /// always has it.
    #[must_use]
    pub fn new(identity: Identity) -> Self {
        let listen = address_of(&identity, identity.node).expect("a node is one of its members");
        Self {
            listen: listen.to_owned(),
            identity,
            election_timeout: limits::ELECTION_TIMEOUT_DEFAULT,
            heartbeat_interval: limits::HEARTBEAT_INTERVAL_DEFAULT,
            limits: Limits::default(),
            client_connections_max: limits::CLIENT_CONNECTIONS_MAX,
            connection_outbound_bytes_max: limits::CONNECTION_OUTBOUND_BYTES_MAX,
        }
    }

    /// What the engine needs of this.
    #[must_use]
    pub fn engine(&self, seed: u64) -> engine::engine::Config {
        engine::engine::Config {
            cluster: self.identity.cluster,
            group: self.identity.group,
            node: self.identity.node,
            founding: Membership::founding(self.identity.members.clone()),
            priority: 0,
            lease_drift_ppm: None,
            election_timeout: self.election_timeout,
            heartbeat_interval: self.heartbeat_interval,
            limits: self.limits.clone(),
            seed,
        }
    }
}

/// The address of a member.
pub(crate) fn address_of(identity: &Identity, node: NodeId) -> Option<&str> {
    identity.members.iter().find(|(member, _)| *member == node).map(|(_, address)| address.as_str())
}
