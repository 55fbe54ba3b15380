//! A simulated machine: its disk and its clocks through all the lives of its process.
//!
//! Owns what outlives a process and what faults do to it. Knows nothing of the network.
//! Next: `disk` for the port to the disk, `cluster` for who starts and stops processes.

use super::world::Shared;
use crate::disk::{CrashMode, SimDisk};
use crate::lockstep::clock::Clock;
use crate::oracle::progress::NodeState;
use crate::scenario::{CLUSTER, GROUP, Scenario};
use crate::streams::Stream;
use engine::ids::NodeId;
use engine::queue::{Query, Reply};
use engine::storage::{Identity, Store};
use node::{ClockPort, NodeConfig, Wall};
use std::sync::Arc;

/// The port on which every simulated node listens.
const PORT: u16 = 7_400;
/// Longest disk operation on a repaired disk, microseconds.
const HEALED_LATENCY_US_MAX: u64 = 500;

/// Whether a node's process runs, and if not, why.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Process {
    /// It runs.
    Running,
    /// It stands still (SIGSTOP).
    Paused,
    /// The power is gone. Its tasks stand still until the restart, so that peers learn nothing.
    PowerLost,
    /// It was killed.
    Killed,
    /// It stopped by itself, because a fault made its disk fail.
    DiskFailed(String),
    /// It could not be opened because of what a fault did to its disk.
    CannotOpen(String),
}

/// Questions about all queues, and what a node's queues answered.
pub(super) type Answers = Arc<Vec<(Query, Reply)>>;

/// What was last seen of a node.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    /// Its indices, leader and digest.
    pub(super) state: NodeState,
    /// What its queues answered when it had applied everything, while the cluster healed.
    pub(super) answers: Answers,
}

/// A machine.
#[derive(Debug)]
pub(super) struct Machine {
    /// Its node.
    pub(super) id: NodeId,
    /// Counts the lives of its process.
    pub(super) life: u64,
    /// Its clocks; only the wall clock is read.
    pub(super) clock: Clock,
    /// Its disk.
    pub(super) disk: SimDisk,
    /// Its process.
    pub(super) process: Process,
    /// What was last seen in this life.
    pub(super) seen: Option<Seen>,
    /// Disk operations take this much longer.
    pub(super) disk_slow_us: u64,
    /// Whether the next write or sync fails.
    pub(super) fails_next_operation: bool,
    /// Whether a fault has ever made its disk fail.
    pub(super) has_broken_disk: bool,
    /// So many of its next writes are looked at for one that may land elsewhere.
    pub(super) misdirects: u32,
    /// Whether a fault makes its syncs do nothing.
    pub(super) is_lying: bool,
    /// Whether its disk was ever damaged.
    pub(super) is_struck: bool,
    identity: Identity,
    pub(super) stream: Stream,
    pace: Stream,
}

/// Where a node listens.
pub(super) fn address(node: u64) -> String {
    format!("10.0.0.{node}:{PORT}")
}

impl Machine {
    /// A machine with a freshly made data directory; its process does not run yet.
    pub(super) fn new(scenario: &Scenario, id: NodeId) -> Self {
        let mut stream = Stream::of(scenario.seed, "node", id.0);
        let mut disk = SimDisk::new();
        let identity = Identity {
            address: address(id.0),
            ..Identity::founder(CLUSTER, GROUP, id, scenario.founders(id, address))
        };
        Store::format(&mut disk, &identity).expect("an empty disk without faults");
        disk.set_sync_lying(scenario.disk.lying_sync);
        let skew_us = i64::try_from(stream.skewed(0, 100_000)).expect("0.1 s fits");
        let skew_us = if stream.one_in(2) { skew_us } else { -skew_us };
        Self {
            id,
            life: 0,
            clock: Clock::new(0, skew_us),
            disk,
            process: Process::Killed,
            seen: None,
            disk_slow_us: 0,
            fails_next_operation: false,
            has_broken_disk: scenario.disk.lying_sync,
            misdirects: 0,
            is_lying: false,
            is_struck: false,
            identity,
            stream,
            pace: Stream::of(scenario.seed, "pace", id.0),
        }
    }

    /// A process starts: its configuration and its seed.
    pub(super) fn begin_life(&mut self, scenario: &Scenario) -> (NodeConfig, u64) {
        self.life += 1;
        self.process = Process::Running;
        self.seen = None;
        self.fails_next_operation = false;
        let seed = self.stream.next_u64();
        let engine = scenario.engine_config(self.id, address, seed);
        let mut config = NodeConfig::new(self.identity.clone());
        config.election_timeout = engine.election_timeout;
        config.heartbeat_interval = engine.heartbeat_interval;
        config.limits = engine.limits;
        (config, seed)
    }

    /// The process is gone, and what it had in memory.
    pub(super) fn end_life(&mut self, why: Process) {
        self.process = why;
        self.seen = None;
    }

    /// The power fails: writes that no sync covered may be lost, kept or torn.
    pub(super) fn lose_power(&mut self, is_torn: bool) {
        let is_random = is_torn && !self.stream.one_in(4);
        let mode = if is_random { CrashMode::Random } else { CrashMode::LoseAll };
        self.disk.crash(mode, self.stream.rng());
    }

    /// Whether there is a process that runs or could go on.
    pub(super) fn is_alive(&self) -> bool {
        matches!(self.process, Process::Running | Process::Paused)
    }

    /// Whether it refuses to run on what was done to its disk.
    pub(super) fn is_excused(&self) -> bool {
        matches!(self.process, Process::CannotOpen(_))
    }

    /// How long the next disk operation takes, microseconds.
    pub(super) fn disk_latency_us(&mut self, scenario: &Scenario, is_healed: bool) -> u64 {
        let disk = &scenario.disk;
        let latency_us = self.pace.between(disk.latency_us_min, disk.latency_us_max);
        if is_healed {
            return latency_us.min(HEALED_LATENCY_US_MAX);
        }
        let is_stalled = self.pace.chance(disk.stall_ppm);
        let stall_us = if is_stalled { self.pace.between(0, disk.stall_us_max) } else { 0 };
        latency_us + stall_us + self.disk_slow_us
    }

    /// How it is, for the rule of progress.
    pub(super) fn state(&self) -> NodeState {
        match (&self.process, &self.seen) {
            (Process::CannotOpen(reason), _) => NodeState::Excused { reason: reason.clone() },
            (Process::Running, Some(seen)) => seen.state.clone(),
            (process, _) => NodeState::Down { reason: format!("{process:?}") },
        }
    }
}

/// A machine's wall clock as its process reads it.
#[derive(Debug)]
pub(super) struct WallClock {
    shared: Shared,
    node: u64,
}

impl WallClock {
    /// The clock of a node.
    pub(super) fn new(shared: &Shared, node: u64) -> Self {
        Self { shared: shared.clone(), node }
    }
}

impl ClockPort for WallClock {
    fn wall(&mut self) -> Wall {
        let mut world = self.shared.lock();
        let now_us = world.now_us();
        let now = world.machine(self.node).clock.now(now_us);
        Wall { time: now.wall, error: now.wall_error }
    }
}
