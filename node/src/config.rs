//! What a node has to know before it can run. Where it comes from is `settings`' business.

use engine::limits::{self, Limits};
use engine::raft::Membership;
use engine::storage::Identity;
use engine::time::Micros;

/// The configuration of one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeConfig {
    /// Cluster, group, node, where everybody reaches it, and the members that the cluster began with.
    pub identity: Identity,
    /// Where to listen, `host:port`. Often the address at which everybody reaches the node; differs
    /// behind address translation, or when listening on all interfaces.
    pub listen: String,
    /// Shortest election timeout; each is drawn from this to twice this.
    pub election_timeout: Micros,
    /// How often a leader says that it is there. At most a quarter of the election timeout.
    pub heartbeat_interval: Micros,
    /// Leadership goes to the highest priority among those that are fit and have caught up.
    pub priority: u8,
    /// How much clocks may drift apart, in a million, if the leader may answer reads from a lease;
    /// `None`: it always asks the others, and no clock has to be trusted.
    pub lease_drift_ppm: Option<u32>,
    /// The engine's bounds.
    pub limits: Limits,
    /// Clients connected at a time; further ones are refused.
    pub client_connections_max: usize,
    /// Bytes that may wait to be written to one connection. A client that lets more pile up is cut
    /// off; to a peer, further messages are dropped.
    pub connection_outbound_bytes_max: usize,
}

impl NodeConfig {
    /// The defaults for `identity`, listening where everybody reaches the node.
    #[must_use]
    pub fn new(identity: Identity) -> Self {
        Self {
            listen: identity.address.clone(),
            identity,
            election_timeout: limits::ELECTION_TIMEOUT_DEFAULT,
            heartbeat_interval: limits::HEARTBEAT_INTERVAL_DEFAULT,
            priority: 0,
            lease_drift_ppm: None,
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
            priority: self.priority,
            lease_drift_ppm: self.lease_drift_ppm,
            election_timeout: self.election_timeout,
            heartbeat_interval: self.heartbeat_interval,
            limits: self.limits.clone(),
            seed,
        }
    }
}
