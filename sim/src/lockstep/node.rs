//! A simulated machine: a replica on a lying disk, with its clocks, and what waits for its next turn.
//!
//! Owns one node through all the lives of its process. Performs disk jobs, mints tokens and turns the
//! replica's loop as the real driver does. Knows nothing of the network or of time but what it is
//! told. Next: `world` decides when all of this happens.

use super::client::Call;
use super::clock::Clock;
use crate::admin::Deed;
use crate::damage::{self, Decay};
use crate::disk::{CrashMode, Fate, SimDisk};
use crate::oracle::committed::Indices;
use crate::oracle::{Rule, Violation};
use crate::scenario::{CLUSTER, GROUP, Scenario};
use crate::streams::Stream;
use engine::api::{Request, Token};
use engine::engine::RoleName;
use engine::ids::{LogIndex, NodeId, Term};
use engine::queue::{Queues, Reply};
use engine::raft::{Membership, Message};
use engine::replica::{Effect, Input, Replica};
use engine::storage::disk::{Disk, DiskOp, Job, JobDone, JobId, Lane};
use engine::storage::{Identity, Store};
use engine::time::Micros;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The operator among those who ask; no client has this number.
pub(super) const ADMIN: u64 = u64::MAX;

/// Where a node is reached. Nobody looks for it: packets go by number here.
#[must_use]
pub(super) fn address(node: u64) -> String {
    format!("node{node}:7000")
}

/// What waits for a node's next turn.
#[derive(Clone, Debug)]
pub(super) enum Arrival {
    /// From another node.
    Peer(NodeId, Message),
    /// A client's request, under the client's number.
    Call(u64, u64, Call),
    /// A client has closed its connection.
    Disconnected(u64),
    /// A disk job is done.
    Disk(JobDone),
}

/// Why a node does not run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Standstill {
    /// It was crashed or killed by a fault.
    Crashed,
    /// Its disk failed, and it stopped by itself.
    DiskFailed(String),
    /// It could not be opened because of a fault that is still in force.
    CannotOpen(String),
}

/// A machine.
#[derive(Debug)]
pub(super) struct Node {
    /// Which.
    pub(super) id: NodeId,
    /// Counts the lives of its process.
    pub(super) life: u64,
    /// Its clocks.
    pub(super) clock: Clock,
    /// Its process, if it runs.
    pub(super) replica: Option<Replica<Queues>>,
    /// The process before, if it does not: what was durable then still is.
    pub(super) remains: Option<Replica<Queues>>,
    /// The membership that it went by until its latest turn, and since.
    pub(super) memberships: [Arc<Membership>; 2],
    /// Why it does not run, if it doesn't.
    pub(super) standstill: Standstill,
    /// Whether the process is stopped (SIGSTOP).
    pub(super) is_paused: bool,
    /// Whether a turn is scheduled.
    pub(super) has_turn: bool,
    /// When the replica's deadline is scheduled.
    pub(super) deadline_us: Option<u64>,
    /// Its latest role and term, as it said.
    pub(super) role: (RoleName, Term),
    /// Its indices in this life.
    pub(super) indices: Indices,
    /// Disk jobs take this much longer.
    pub(super) disk_slow_us: u64,
    /// Whether the next write job fails.
    pub(super) fails_next_job: bool,
    /// Whether it said in this life that it was removed.
    pub(super) is_removed: bool,
    /// Consecutive turns that came without any input and changed nothing.
    pub(super) idle_turns: u32,
    /// So many of its next writes are looked at for one that may land elsewhere.
    pub(super) misdirects: u32,
    /// Whether its next write lands elsewhere.
    pub(super) misdirects_next_job: bool,
    /// Whether a fault makes its syncs do nothing.
    pub(super) is_lying: bool,
    /// Whether its disk was ever damaged.
    pub(super) is_struck: bool,
    /// Whether it was restarted to find such damage when everything else was well.
    pub(super) is_looked_over: bool,
    disk: SimDisk,
    stream: Stream,
    arrivals: Vec<Arrival>,
    jobs: BTreeMap<JobId, Job>,
    /// When the write lane is free.
    write_lane_free_us: u64,
    tokens: BTreeMap<Token, (u64, u64)>,
    forgotten: BTreeSet<Token>,
    next_token: u64,
    has_broken_disk: bool,
}

impl Node {
    /// A machine with a freshly made data directory; its process does not run yet.
    ///
    /// # Panics
    /// If an empty disk cannot be formatted.
    #[must_use]
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
            clock: Clock::new(stream.between(0, 1 << 40), skew_us),
            replica: None,
            remains: None,
            memberships: Default::default(),
            standstill: Standstill::Crashed,
            is_paused: false,
            has_turn: false,
            deadline_us: None,
            role: (RoleName::Follower, Term::ZERO),
            indices: Indices::default(),
            disk_slow_us: 0,
            fails_next_job: false,
            is_removed: false,
            idle_turns: 0,
            misdirects: 0,
            misdirects_next_job: false,
            is_lying: false,
            is_struck: false,
            is_looked_over: false,
            disk,
            stream,
            arrivals: Vec::new(),
            jobs: BTreeMap::new(),
            write_lane_free_us: 0,
            tokens: BTreeMap::new(),
            forgotten: BTreeSet::new(),
            next_token: 1,
            has_broken_disk: scenario.disk.lying_sync,
        }
    }

    /// Starts the process, if it does not run.
    ///
    /// # Errors
    /// [`Rule::Recovery`]: it refuses its own data directory, though no fault excuses that.
    pub(super) fn start(&mut self, now_us: u64, scenario: &Scenario) -> Result<(), Violation> {
        if self.replica.is_some() {
            return Ok(());
        }
        self.life += 1;
        self.clock.restart(now_us, self.stream.between(0, 1 << 40));
        let config = scenario.engine_config(self.id, address, self.stream.next_u64());
        let machine = Queues::new(&config.limits);
        match Replica::open(config, machine, self.clock.now(now_us), &mut self.disk) {
            Ok(replica) => {
                self.role = (RoleName::Follower, replica.raft().term());
                let membership = Arc::new(replica.raft().membership().clone());
                self.memberships = [membership.clone(), membership];
                self.replica = Some(replica);
                self.remains = None;
                Ok(())
            }
            Err(error) if self.has_broken_disk || self.is_struck => {
                self.standstill = Standstill::CannotOpen(error.to_string());
                Ok(())
            }
            Err(error) => {
                let explanation = format!("node {} cannot be opened again: {error}", self.id);
                Err(Violation::new(Rule::Recovery, now_us, explanation))
            }
        }
    }

    /// The process is gone, and what it had in memory. If the power went as well, writes that no
    /// sync covered may be lost, kept or torn.
    pub(super) fn stop(&mut self, why: Standstill, is_power_lost: bool, is_torn: bool) {
        if let Some(replica) = self.replica.take() {
            self.remains = Some(replica);
            self.standstill = why;
        }
        self.perform_part_of_jobs();
        if is_power_lost {
            let mode = if is_torn && !self.stream.one_in(4) {
                CrashMode::Random
            } else {
                CrashMode::LoseAll
            };
            self.disk.crash(mode, self.stream.rng());
        }
        self.is_paused = false;
        self.has_turn = false;
        self.deadline_us = None;
        self.indices = Indices::default();
        self.role.0 = RoleName::Follower;
        self.fails_next_job = false;
        self.misdirects_next_job = false;
        self.is_removed = false;
        self.idle_turns = 0;
        self.arrivals.clear();
        self.write_lane_free_us = 0;
        self.tokens.clear();
        self.forgotten.clear();
    }

    /// A job under way when the process ends is done in part: some of its operations, in order.
    fn perform_part_of_jobs(&mut self) {
        for job in std::mem::take(&mut self.jobs).into_values() {
            if job.lane == Lane::Write {
                let count = self.stream.below(job.ops.len() + 1);
                // What fails ends the job; nobody is left to hear of it.
                let mut ops = job.ops[..count].iter();
                let _ = ops.try_for_each(|op| self.disk.perform(op).map(drop));
            }
        }
    }

    /// Whether its disk held an entry for certain when it was last asked. What a snapshot stands for
    /// was committed.
    #[must_use]
    pub(super) fn holds(&self, index: LogIndex, term: Term) -> bool {
        let Some(replica) = self.replica.as_ref().or(self.remains.as_ref()) else { return false };
        let raft = replica.raft();
        raft.durable_index() >= index && raft.term_at(index).is_none_or(|found| found == term)
    }

    /// Whether the process runs and is not paused.
    #[must_use]
    pub(super) fn is_running(&self) -> bool {
        self.replica.is_some() && !self.is_paused
    }

    /// Something arrived; it waits for the next turn. Nothing reaches a process that is not there.
    pub(super) fn arrive(&mut self, arrival: Arrival) {
        if self.replica.is_some() {
            self.arrivals.push(arrival);
        }
    }

    /// One turn of the driver's loop: hands in everything that waits, then [`Input::Turn`].
    ///
    /// # Panics
    /// If the replica's invariants do not hold.
    pub(super) fn turn(&mut self, now_us: u64, effects: &mut Vec<Effect<Reply>>) {
        let now = self.clock.now(now_us);
        let mut arrivals = std::mem::take(&mut self.arrivals);
        self.idle_turns = if arrivals.is_empty() { self.idle_turns + 1 } else { 0 };
        let Some(replica) = &mut self.replica else { return };
        for arrival in arrivals.drain(..) {
            let input = match arrival {
                Arrival::Peer(from, message) => Input::Peer { from, message },
                Arrival::Disk(done) => Input::Disk(done),
                Arrival::Call(client, number, call) => {
                    let token = Token(self.next_token);
                    self.next_token += 1;
                    self.tokens.insert(token, (client, number));
                    let request = match call {
                        Call::Propose(block) => Request::Propose(block),
                        Call::Query(query) => Request::Query(query),
                        Call::QueryHere(query) => Request::QueryHere(query),
                        Call::QueryStale(query) => Request::QueryStale(query),
                        Call::Deed(Deed::Change(change)) => Request::Change(change),
                        Call::Deed(Deed::Transfer(to)) => Request::Transfer { to },
                        Call::Watch { query, timeout_us } => {
                            let until = now.monotonic + Micros(timeout_us);
                            Request::Watch { query, until }
                        }
                    };
                    Input::Client { token, request }
                }
                Arrival::Disconnected(client) => {
                    let tokens = self.tokens.iter().filter(|(_, (other, _))| *other == client);
                    let tokens: Vec<Token> = tokens.map(|(token, _)| *token).collect();
                    for token in tokens {
                        replica.step(now, Input::Forget { token }, effects);
                        self.tokens.remove(&token);
                        self.forgotten.insert(token);
                    }
                    continue;
                }
            };
            replica.step(now, input, effects);
        }
        replica.step(now, Input::Turn, effects);
        replica.check_invariants();
        self.arrivals = arrivals;
    }

    /// Whose request this token stands for; it must be resolved only once.
    ///
    /// # Errors
    /// [`Rule::ResolvedOnce`].
    pub(super) fn resolve(
        &mut self,
        now_us: u64,
        token: Token,
    ) -> Result<Option<(u64, u64)>, Violation> {
        if self.forgotten.remove(&token) {
            return Ok(None);
        }
        match self.tokens.remove(&token) {
            Some(request) => Ok(Some(request)),
            None => {
                let explanation =
                    format!("node {} resolved token {} twice or of itself", self.id, token.0);
                Err(Violation::new(Rule::ResolvedOnce, now_us, explanation))
            }
        }
    }

    /// Requests that the process has not answered.
    #[must_use]
    pub(super) fn unresolved(&self) -> usize {
        self.tokens.len()
    }

    /// Takes up a disk job and says when it will be done. Jobs of the write lane are done in order.
    pub(super) fn submit(&mut self, now_us: u64, latency_us: u64, job: Job) -> u64 {
        let latency_us = latency_us + self.disk_slow_us;
        let done_us = match job.lane {
            Lane::Write => {
                self.write_lane_free_us = self.write_lane_free_us.max(now_us) + latency_us;
                self.write_lane_free_us
            }
            Lane::Read => now_us + latency_us,
        };
        self.jobs.insert(job.id, job);
        done_us
    }

    /// Performs a job. Nothing was done of it before: only the disk can tell when a write happens,
    /// and a crash in between is the same as one before or in its middle.
    pub(super) fn perform(&mut self, id: JobId) -> Option<JobDone> {
        let job = self.jobs.remove(&id)?;
        let has_write = job.ops.iter().any(|op| matches!(op, DiskOp::Write { .. }));
        if job.lane == Lane::Write && has_write && std::mem::take(&mut self.fails_next_job) {
            self.has_broken_disk = true;
            self.disk.fail_after(self.stream.below(job.ops.len()) as u64, false);
        }
        if job.lane == Lane::Write && std::mem::take(&mut self.misdirects_next_job) {
            return Some(self.perform_misdirected(&job));
        }
        Some(job.perform(&mut self.disk))
    }

    /// The job's last write lands elsewhere.
    fn perform_misdirected(&mut self, job: &Job) -> JobDone {
        let last = job.ops.iter().rposition(|op| matches!(op, DiskOp::Write { .. }));
        for (at, op) in job.ops.iter().enumerate() {
            let is_misdirected = Some(at) == last
                && damage::misdirect(&mut self.disk, op, &mut self.stream).is_some();
            if !is_misdirected && let Err(error) = self.disk.perform(op) {
                return job.failed_at(at, error);
            }
        }
        JobDone { id: job.id, result: Ok(Vec::new()), rest: Vec::new() }
    }

    /// Leaves the disk so much room; `None` for any.
    pub(super) fn set_room(&mut self, room_bytes: Option<u64>) {
        self.disk.set_room(room_bytes);
    }

    /// Whether a fault has ever made its disk fail.
    #[must_use]
    pub(super) fn has_broken_disk(&self) -> bool {
        self.has_broken_disk || self.is_struck
    }

    /// Whether it refuses to run on what was done to its disk.
    #[must_use]
    pub(super) fn is_excused(&self) -> bool {
        self.replica.is_none() && matches!(self.standstill, Standstill::CannotOpen(_))
    }

    /// Its disk, with what is not durable yet.
    #[must_use]
    pub(super) fn disk(&self) -> &SimDisk {
        &self.disk
    }

    /// Durable bytes decay somewhere; says where, if there are any of that kind.
    pub(super) fn decay(&mut self, how: Decay) -> Option<String> {
        damage::decay(&mut self.disk, how, &mut self.stream)
    }

    /// Another disk takes the place of its disk.
    pub(super) fn vanish(&mut self) {
        self.disk.vanish();
        self.disk.set_sync_lying(self.is_lying);
    }

    /// Whether syncs do nothing from now on. When they are honest again, everything is durable.
    pub(super) fn set_lying(&mut self, is_lying: bool) {
        self.is_lying = is_lying;
        if !is_lying {
            self.disk.crash_with(|_, _| Fate::Kept);
        }
        self.disk.set_sync_lying(is_lying);
    }

    /// Whether a job of the write lane is under way.
    #[must_use]
    pub(super) fn is_about_to_write(&self) -> bool {
        self.jobs.values().any(|job| job.lane == Lane::Write)
    }

    /// A letter for people: what it is at the moment.
    #[must_use]
    pub(super) fn role_sign(&self) -> char {
        match (&self.replica, self.is_paused, self.role.0) {
            (None, _, _) => '-',
            (Some(_), true, _) => 'Z',
            (Some(_), false, RoleName::Follower) => 'F',
            (Some(_), false, RoleName::PreCandidate) => 'P',
            (Some(_), false, RoleName::Candidate) => 'C',
            (Some(_), false, RoleName::Leader) => 'L',
        }
    }
}
