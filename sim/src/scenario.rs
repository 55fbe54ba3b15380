//! A scenario: everything that decides a run, as a readable file.
//!
//! Owns the description that all worlds run: topology, workload, network, disks, clocks, timed
//! faults, and the seed of whatever is left to chance. Never runs anything. A run has two phases:
//! faults and workload until [`Scenario::faults_ms`]; then everything is repaired, and within
//! [`Scenario::healing_ms`] the cluster must have converged.
//! Next: [`draw`](Scenario::from_seed) makes one of a seed, `lockstep` runs it.

mod draw;
mod fault;

pub use fault::{Blow, Fault, Moment, TimedFault};

use crate::streams::MILLION;
use engine::ids::{ClusterId, GroupId, NodeId};
use engine::limits::{self, Limits};
use engine::raft::Membership;
use engine::time::Micros;
use serde::{Deserialize, Serialize};

/// Everything that decides a run.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// Decides everything that the other fields leave open. At most 2^63 - 1, which is what a file
    /// can hold.
    pub seed: u64,
    /// Members of the cluster at its beginning, 1 to 7; their ids are 1 to this.
    pub nodes: u64,
    /// Machines that are no members and can become some, with the ids that follow; all together at
    /// most 14.
    #[serde(default)]
    pub spares: u64,
    /// Length of the phase with faults and workload, simulated milliseconds.
    pub faults_ms: u64,
    /// After everything is repaired the cluster must have converged within this, milliseconds.
    pub healing_ms: u64,
    /// How the engines are set up.
    #[serde(default)]
    pub engine: EngineSettings,
    /// What clients do.
    #[serde(default)]
    pub workload: Workload,
    /// What the operator does.
    #[serde(default)]
    pub admin: Admin,
    /// The network in the fault phase.
    #[serde(default)]
    pub network: Network,
    /// The disks in the fault phase.
    #[serde(default)]
    pub disk: DiskSettings,
    /// How the nodes' event loops are scheduled.
    #[serde(default)]
    pub turns: Turns,
    /// What breaks and when, in the order of time.
    #[serde(default)]
    pub faults: Vec<TimedFault>,
}

/// How the engines are set up; the same on every node.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[allow(missing_docs, reason = "the fields are those of `engine::limits::Limits`, unit by unit")]
pub struct EngineSettings {
    /// Shortest election timeout, milliseconds.
    pub election_timeout_ms: u64,
    /// Heartbeat interval, milliseconds.
    pub heartbeat_interval_ms: u64,
    pub body_bytes_max: u32,
    pub batch_bytes_target: usize,
    pub inflight_entries_max: u64,
    pub inflight_bytes_max: usize,
    pub uncommitted_bytes_max: usize,
    pub log_cache_bytes_max: usize,
    pub sessions_max: usize,
    pub waiting_requests_max: usize,
    pub dedup_window_millis: u64,
    pub segment_bytes_max: u64,
    pub snapshot_log_bytes: u64,
    pub snapshot_chunk_bytes_max: usize,
    /// Priorities of the nodes, in the order of their ids, again from the first where they end; all 0
    /// if there are none.
    pub priorities: Vec<u8>,
    /// How much the nodes' clocks may differ in speed if leaders answer reads by a lease, in a
    /// million; they ask a quorum if this is not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lease_drift_ppm: Option<u32>,
}

/// What the operator does.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Admin {
    /// Mean pause between two deeds, milliseconds; nothing is done if it is 0.
    pub pause_ms: u64,
}

impl Default for EngineSettings {
    fn default() -> Self {
        let limits = Limits::default();
        Self {
            election_timeout_ms: limits::ELECTION_TIMEOUT_DEFAULT.as_millis(),
            heartbeat_interval_ms: limits::HEARTBEAT_INTERVAL_DEFAULT.as_millis(),
            body_bytes_max: limits.body_bytes_max,
            batch_bytes_target: limits.batch_bytes_target,
            inflight_entries_max: limits.inflight_entries_max,
            inflight_bytes_max: limits.inflight_bytes_max,
            uncommitted_bytes_max: limits.uncommitted_bytes_max,
            log_cache_bytes_max: limits.log_cache_bytes_max,
            sessions_max: limits.sessions_max,
            waiting_requests_max: limits.waiting_requests_max,
            dedup_window_millis: limits.dedup_window_millis,
            segment_bytes_max: limits.segment_bytes_max,
            snapshot_log_bytes: limits.snapshot_log_bytes,
            snapshot_chunk_bytes_max: limits.snapshot_chunk_bytes_max,
            priorities: Vec::new(),
            lease_drift_ppm: None,
        }
    }
}

/// What clients do. Rates are per client; a client that has [`Workload::window`] commands
/// unanswered sends no new ones.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Workload {
    /// How many.
    pub clients: u64,
    /// Queues that they share, named `q0`, `q1`, ...
    pub queues: u64,
    /// Mean pause between two operations of a client, microseconds.
    pub pause_us: u64,
    /// Most unanswered commands of a client, 1 to 4,096.
    pub window: usize,
    /// Most commands in one block, 1 to 4,096.
    pub block_commands_max: usize,
    /// Most messages in one send command.
    pub send_messages_max: u64,
    /// Largest body, bytes; small ones are far more frequent.
    pub body_bytes_max: u64,
    /// Most messages asked for in one receive or browse.
    pub receive_max: u64,
    /// Longest lease asked for, milliseconds.
    pub lease_ms_max: u64,
    /// A client gives up a request after this and tries again, milliseconds.
    pub request_timeout_ms: u64,
    /// Probability of sending a message with an id that was sent before, in a million.
    pub duplicate_id_ppm: u32,
    /// Probability that a session is closed and a new one opened, for each operation, in a million.
    pub session_churn_ppm: u32,
    /// Probability that a read is asked of any node, which answers it linearizably, in a million.
    pub read_here_ppm: u32,
    /// Probability that a read is asked of any node, which answers as things are there, in a million.
    pub read_stale_ppm: u32,
    /// What is done how often.
    pub mix: Mix,
}

/// Weights of the kinds of operations.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[allow(missing_docs, reason = "the fields are the operations, named as in `engine::queue`")]
pub struct Mix {
    pub send: u32,
    pub lease: u32,
    pub take: u32,
    pub acknowledge: u32,
    pub nack: u32,
    pub extend: u32,
    pub delete: u32,
    pub purge: u32,
    pub get: u32,
    pub browse: u32,
    pub list: u32,
    pub watch: u32,
}

impl Default for Mix {
    fn default() -> Self {
        Self {
            send: 40,
            lease: 15,
            take: 8,
            acknowledge: 14,
            nack: 4,
            extend: 3,
            delete: 2,
            purge: 0,
            get: 4,
            browse: 4,
            list: 2,
            watch: 4,
        }
    }
}

impl Mix {
    /// The weights in the order of the fields.
    #[must_use]
    pub const fn weights(&self) -> [u32; 12] {
        [
            self.send,
            self.lease,
            self.take,
            self.acknowledge,
            self.nack,
            self.extend,
            self.delete,
            self.purge,
            self.get,
            self.browse,
            self.list,
            self.watch,
        ]
    }
}

impl Default for Workload {
    fn default() -> Self {
        Self {
            clients: 3,
            queues: 3,
            pause_us: 20_000,
            window: 32,
            block_commands_max: 8,
            send_messages_max: 3,
            body_bytes_max: 200,
            receive_max: 8,
            lease_ms_max: 2_000,
            request_timeout_ms: 1_000,
            duplicate_id_ppm: 50_000,
            session_churn_ppm: 0,
            read_here_ppm: 0,
            read_stale_ppm: 0,
            mix: Mix::default(),
        }
    }
}

/// The network in the fault phase. Messages between nodes, and between clients and nodes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Network {
    /// Shortest way, microseconds.
    pub latency_us_min: u64,
    /// Longest ordinary way; a range reorders.
    pub latency_us_max: u64,
    /// Probability that a message is lost, in a million.
    pub loss_ppm: u32,
    /// Probability that a message comes twice.
    pub duplicate_ppm: u32,
    /// Probability that a message, or its copy, is held up.
    pub straggler_ppm: u32,
    /// For how long at most, microseconds.
    pub straggler_us_max: u64,
    /// Whether messages between nodes are encoded and decoded on the way.
    pub encode: bool,
}

impl Default for Network {
    fn default() -> Self {
        Self {
            latency_us_min: 100,
            latency_us_max: 1_000,
            loss_ppm: 0,
            duplicate_ppm: 0,
            straggler_ppm: 0,
            straggler_us_max: 1_000_000,
            encode: false,
        }
    }
}

/// The disks in the fault phase.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DiskSettings {
    /// Shortest time that a job takes, microseconds.
    pub latency_us_min: u64,
    /// Longest ordinary time.
    pub latency_us_max: u64,
    /// Probability that a job takes longer, in a million.
    pub stall_ppm: u32,
    /// At most so long, microseconds.
    pub stall_us_max: u64,
    /// Whether a crash may leave a write half done (or else not at all, or wholly).
    pub torn_writes: bool,
    /// Whether syncs return without doing anything. No replicated system survives this on a
    /// majority; it is there to see that the oracles notice.
    pub lying_sync: bool,
}

impl Default for DiskSettings {
    fn default() -> Self {
        Self {
            latency_us_min: 50,
            latency_us_max: 500,
            stall_ppm: 0,
            stall_us_max: 200_000,
            torn_writes: true,
            lying_sync: false,
        }
    }
}

/// How the nodes' event loops are scheduled.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Turns {
    /// An input waits at most so long, microseconds, until the node's loop turns and takes in
    /// everything that is waiting by then.
    pub delay_us_max: u64,
}

impl Default for Turns {
    fn default() -> Self {
        Self { delay_us_max: 20 }
    }
}

/// Why a scenario cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum ScenarioError {
    /// The file is not what a scenario looks like.
    #[error("not a scenario: {0}")]
    Parse(#[from] toml::de::Error),
    /// A value is outside its range.
    #[error("{field} is {value}; it must be {range}")]
    Range {
        /// Which.
        field: &'static str,
        /// As given.
        value: u64,
        /// As it should be.
        range: &'static str,
    },
}

/// The cluster that all simulated nodes belong to.
pub const CLUSTER: ClusterId = ClusterId(*b"simulated ph 001");
/// Their group.
pub const GROUP: GroupId = GroupId(0);

impl Scenario {
    /// Reads a scenario file.
    ///
    /// # Errors
    /// It is not one, or a value is outside its range.
    pub fn parse(text: &str) -> Result<Self, ScenarioError> {
        let scenario: Self = toml::from_str(text)?;
        scenario.check()?;
        Ok(scenario)
    }

    /// Writes a scenario file, which [`parse`](Self::parse) reads back to the same value.
    ///
    /// # Panics
    /// If the seed is above 2^63 - 1, which the format cannot hold.
    #[must_use]
    pub fn to_text(&self) -> String {
        toml::to_string(self).expect("numbers, names and lists of tables fit the format")
    }

    fn check(&self) -> Result<(), ScenarioError> {
        let members_max = limits::VOTERS_MAX as u64;
        let (workload, network, disk) = (&self.workload, &self.network, &self.disk);
        let checks = [
            ("nodes", self.nodes, 1, members_max, "1 to 7"),
            (
                "nodes and spares",
                self.machines(),
                1,
                limits::MEMBERS_MAX as u64,
                "1 to 14 together",
            ),
            ("faults_ms", self.faults_ms, 1, 86_400_000, "1 to 86400000 (a day)"),
            ("healing_ms", self.healing_ms, 1, 86_400_000, "1 to 86400000 (a day)"),
            ("workload.clients", workload.clients, 0, 1_000, "0 to 1000"),
            ("workload.queues", workload.queues, 1, 1_000, "1 to 1000"),
            ("workload.window", workload.window as u64, 1, 4_096, "1 to 4096"),
            (
                "workload.block_commands_max",
                workload.block_commands_max as u64,
                1,
                4_096,
                "1 to 4096",
            ),
            ("network.loss_ppm", network.loss_ppm.into(), 0, 999_999, "0 to 999999"),
            (
                "network.latency_us_max",
                network.latency_us_max,
                network.latency_us_min,
                u64::MAX,
                "at least network.latency_us_min",
            ),
            (
                "disk.latency_us_max",
                disk.latency_us_max,
                disk.latency_us_min,
                u64::MAX,
                "at least disk.latency_us_min",
            ),
            (
                "disk.stall_ppm",
                disk.stall_ppm.into(),
                0,
                MILLION.into(),
                "0 to 1000000 (parts of a million)",
            ),
        ];
        for (field, value, low, high, range) in checks {
            if !(low..=high).contains(&value) {
                return Err(ScenarioError::Range { field, value, range });
            }
        }
        for fault in &self.faults {
            for node in fault.fault.nodes() {
                if !(1..=self.machines()).contains(&node) {
                    let range = "a node of the scenario, 1 to `nodes` + `spares`";
                    return Err(ScenarioError::Range { field: "faults.node", value: node, range });
                }
            }
        }
        Ok(())
    }

    /// How many machines there are; their nodes are numbered from 1.
    #[must_use]
    pub const fn machines(&self) -> u64 {
        self.nodes + self.spares
    }

    /// The members that `node` knows of from its identity, each with its address: the founders, or
    /// none if it is a spare.
    #[must_use]
    pub fn founders(&self, node: NodeId, address: fn(u64) -> String) -> Vec<(NodeId, String)> {
        let count = if node.0 <= self.nodes { self.nodes } else { 0 };
        (1..=count).map(|founder| (NodeId(founder), address(founder))).collect()
    }

    /// The bounds of every node's engine.
    #[must_use]
    pub fn limits(&self) -> Limits {
        let engine = &self.engine;
        Limits {
            body_bytes_max: engine.body_bytes_max,
            batch_bytes_target: engine.batch_bytes_target,
            inflight_entries_max: engine.inflight_entries_max,
            inflight_bytes_max: engine.inflight_bytes_max,
            uncommitted_bytes_max: engine.uncommitted_bytes_max,
            log_cache_bytes_max: engine.log_cache_bytes_max,
            sessions_max: engine.sessions_max,
            waiting_requests_max: engine.waiting_requests_max,
            dedup_window_millis: engine.dedup_window_millis,
            segment_bytes_max: engine.segment_bytes_max,
            snapshot_log_bytes: engine.snapshot_log_bytes,
            snapshot_chunk_bytes_max: engine.snapshot_chunk_bytes_max,
            ..Limits::default()
        }
    }

    /// The configuration of a node's engine for one life of its process.
    #[must_use]
    pub fn engine_config(
        &self,
        node: NodeId,
        address: fn(u64) -> String,
        seed: u64,
    ) -> engine::engine::Config {
        let priorities = &self.engine.priorities;
        let ordinal = usize::try_from(node.0 - 1).expect("nodes are few");
        engine::engine::Config {
            cluster: CLUSTER,
            group: GROUP,
            node,
            founding: Membership::founding(self.founders(node, address)),
            priority: priorities.get(ordinal % priorities.len().max(1)).copied().unwrap_or(0),
            lease_drift_ppm: self.engine.lease_drift_ppm,
            election_timeout: Micros::from_millis(self.engine.election_timeout_ms),
            heartbeat_interval: Micros::from_millis(self.engine.heartbeat_interval_ms),
            limits: self.limits(),
            seed,
        }
    }

    /// When the fault phase ends, microseconds.
    #[must_use]
    pub const fn healed_us(&self) -> u64 {
        self.faults_ms * 1_000
    }

    /// When the cluster must have converged, microseconds.
    #[must_use]
    pub const fn end_us(&self) -> u64 {
        (self.faults_ms + self.healing_ms) * 1_000
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drawn_scenario_survives_being_written_and_read() {
        for seed in 0..200 {
            let scenario = Scenario::from_seed(seed);
            let read = Scenario::parse(&scenario.to_text());
            assert_eq!(read.expect("what we write is a scenario"), scenario, "seed {seed}");
        }
    }

    #[test]
    fn a_file_needs_no_more_than_the_essentials() {
        let text = "seed = 1\nnodes = 3\nfaults_ms = 1000\nhealing_ms = 5000\n\
                    [[faults]]\nat_ms = 10\nfault = \"crash\"\nnode = 2\n";
        let scenario = Scenario::parse(text).expect("a scenario");
        assert_eq!(scenario.workload, Workload::default());
        assert_eq!(scenario.faults, [TimedFault { at_ms: 10, fault: Fault::Crash { node: 2 } }]);
    }

    #[test]
    fn a_fault_of_a_node_that_is_not_there_is_refused() {
        let text = "seed = 1\nnodes = 3\nfaults_ms = 1000\nhealing_ms = 5000\n\
                    [[faults]]\nat_ms = 10\nfault = \"crash\"\nnode = 4\n";
        let error = Scenario::parse(text).expect_err("there is no node 4");
        assert!(error.to_string().contains("faults.node is 4"), "{error}");
    }
}
