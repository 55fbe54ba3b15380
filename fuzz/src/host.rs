//! One replica with its simulated disk, driven by hand: what comes out is kept until it is asked for.
//!
//! Owns the order in which a real driver may do things: write jobs one after another, read jobs in
//! any order, everything else whenever. Checks the replica's invariants after every input.

use engine::api::{Response, Token};
use engine::engine::Config;
use engine::ids::{ClusterId, GroupId, NodeId};
use engine::limits::Limits;
use engine::queue::{Queues, Reply};
use engine::raft::{Membership, Message};
use engine::replica::{Effect, Event, Input, Replica};
use engine::storage::disk::{Job, Lane};
use engine::storage::{Identity, Store};
use engine::time::{Micros, Now};
use sim::disk::{Fate, SimDisk};
use std::collections::VecDeque;

/// The only cluster.
pub(crate) const CLUSTER: ClusterId = ClusterId([7; 16]);
/// Its only group.
pub(crate) const GROUP: GroupId = GroupId(0);
/// Its members, numbered from 1.
pub(crate) const MEMBERS: u64 = 3;

/// The wall clock at the start of every run; it then moves with the monotonic one.
const WALL_AT_START: Micros = Micros::from_secs(1_700_000_000);

/// A replica, its disk, and what it wants done.
pub(crate) struct Host {
    /// The replica.
    pub(crate) replica: Replica<Queues>,
    /// Messages to other members, oldest first.
    pub(crate) sent: Vec<(NodeId, Message)>,
    /// Answers to clients.
    pub(crate) answered: Vec<(Token, Response<Reply>)>,
    /// What else happened.
    pub(crate) events: Vec<Event>,
    node: NodeId,
    disk: SimDisk,
    writes: VecDeque<Job>,
    reads: Vec<Job>,
    effects: Vec<Effect<Reply>>,
}

/// The instant at which a run's clocks say `monotonic`.
#[must_use]
pub(crate) fn at(monotonic: Micros) -> Now {
    Now { monotonic, wall: WALL_AT_START + monotonic, wall_error: Micros::ZERO }
}

/// Bounds low enough to be reached within one run.
fn limits() -> Limits {
    Limits {
        log_cache_bytes_max: 1_024,
        batch_bytes_target: 512,
        inflight_entries_max: 4,
        uncommitted_bytes_max: 4_096,
        waiting_requests_max: 8,
        sessions_max: 4,
        segment_bytes_max: 4_096,
        dedup_window_millis: 200,
        ..Limits::default()
    }
}

impl Host {
    /// A new member with an empty log.
    #[must_use]
    pub(crate) fn new(node: NodeId) -> Self {
        let mut disk = SimDisk::new();
        let members = (1..=MEMBERS).map(|node| (NodeId(node), format!("node-{node}:7400")));
        let identity = Identity::founder(CLUSTER, GROUP, node, members.collect());
        Store::format(&mut disk, &identity).expect("the disk is empty");
        Self::open(node, disk, Micros::ZERO)
    }

    fn open(node: NodeId, mut disk: SimDisk, now: Micros) -> Self {
        let limits = limits();
        let config = Config {
            cluster: CLUSTER,
            group: GROUP,
            node,
            founding: Membership::new((1..=MEMBERS).map(NodeId).collect()),
            priority: 0,
            lease_drift_ppm: None,
            election_timeout: Micros::from_millis(150),
            heartbeat_interval: Micros::from_millis(30),
            limits: limits.clone(),
            seed: node.0,
        };
        let replica = Replica::open(config, Queues::new(&limits), at(now), &mut disk)
            .expect("no crash that a disk allows makes a log unusable");
        replica.check_invariants();
        Self {
            replica,
            sent: Vec::new(),
            answered: Vec::new(),
            events: Vec::new(),
            node,
            disk,
            writes: VecDeque::new(),
            reads: Vec::new(),
            effects: Vec::new(),
        }
    }

    /// The power fails, `decide` says what becomes of each write that was not synced, and the node
    /// starts again.
    #[must_use]
    pub(crate) fn crash(mut self, now: Micros, mut decide: impl FnMut() -> Fate) -> Self {
        self.disk.crash_with(|_, _| decide());
        Self::open(self.node, self.disk, now)
    }

    /// Hands in an input and collects what follows.
    pub(crate) fn step(&mut self, now: Micros, input: Input) {
        self.replica.step(at(now), input, &mut self.effects);
        self.replica.check_invariants();
        for effect in self.effects.drain(..) {
            match effect {
                Effect::Disk(job) => match job.lane {
                    Lane::Write => self.writes.push_back(job),
                    Lane::Read => self.reads.push(job),
                },
                Effect::Send { to, message } => self.sent.push((to, message)),
                Effect::Respond { token, response } => self.answered.push((token, response)),
                Effect::Event(Event::Fatal { reason }) => {
                    panic!("node {} gave up on a disk that works: {reason}", self.node)
                }
                Effect::Event(event) => self.events.push(event),
            }
        }
    }

    /// Performs the oldest write job, if there is one.
    pub(crate) fn write(&mut self, now: Micros) -> bool {
        let Some(job) = self.writes.pop_front() else { return false };
        let done = job.perform(&mut self.disk);
        self.step(now, Input::Disk(done));
        true
    }

    /// Performs a read job, if there is one; `which` wraps.
    pub(crate) fn read(&mut self, now: Micros, which: usize) -> bool {
        if self.reads.is_empty() {
            return false;
        }
        let job = self.reads.swap_remove(which % self.reads.len());
        let done = job.perform(&mut self.disk);
        self.step(now, Input::Disk(done));
        true
    }
}
