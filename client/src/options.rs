//! What a client can be told, and what it tells about the cluster.

use engine::ids::{ClusterId, NodeId, Term};
use engine::limits;
use engine::wire::client::Health;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How a client is set up.
#[derive(Clone)]
pub struct Options {
    /// Deadline of every call that sets none of its own. Default 10 s.
    pub timeout: Duration,
    /// How long [`Client::connect`](crate::Client::connect) looks for a node. Default 5 s.
    pub connect_timeout: Duration,
    /// Commands that may be unanswered at once, 1 to 4,096. Default 1,024. Further ones wait.
    pub window: usize,
    /// The only cluster to talk to; `None` takes whichever answers.
    pub cluster: Option<ClusterId>,
    /// Seeds ids and jitter. `None`, the default, asks the operating system; only a simulation
    /// gives a seed, as two clients with one seed mint the same message ids.
    pub seed: Option<u64>,
    /// The wall clock that stamps `sent_at`, in milliseconds since 1970-01-01 UTC.
    pub now_millis: Arc<dyn Fn() -> u64 + Send + Sync>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(5),
            window: 1_024,
            cluster: None,
            seed: None,
            now_millis: Arc::new(system_millis),
        }
    }
}

impl Options {
    /// The window within its bounds.
    pub(crate) fn window_clamped(&self) -> usize {
        self.window.clamp(1, limits::SESSION_WINDOW)
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("timeout", &self.timeout)
            .field("connect_timeout", &self.connect_timeout)
            .field("window", &self.window)
            .field("cluster", &self.cluster)
            .field("seed", &self.seed)
            .finish_non_exhaustive()
    }
}

fn system_millis() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The cluster as a client sees it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Cluster {
    /// Which; `None` until a node has answered.
    pub cluster: Option<ClusterId>,
    /// The leader, if one is known.
    pub leader: Option<NodeId>,
    /// The newest term heard of.
    pub term: Term,
    /// Every member, in the order of their numbers.
    pub nodes: Vec<Node>,
}

/// A member as a client sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Node {
    /// Which.
    pub node: NodeId,
    /// Where it listens, `host:port`, as the cluster says.
    pub address: String,
    /// Whether it leads.
    pub leader: bool,
    /// Whether this client has a working connection to it.
    pub connected: bool,
    /// What the node that was heard last says of it.
    pub health: Health,
}
