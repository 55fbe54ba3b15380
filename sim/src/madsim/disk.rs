//! The port to a simulated disk: jobs take simulated time, one operation after another.
//!
//! A job's operations are performed one by one, each after its latency, so that a crash finds the
//! disk between any two of them. The disk itself belongs to the machine and outlives the process.
//! Next: `crate::disk` for what a power failure does to what was not synced.

use super::pause::pause_us;
use super::world::{Shared, kind};
use crate::scenario::{CLUSTER, GROUP};
use bytes::Bytes;
use engine::record::{ChecksumSeed, Record};
use engine::storage::disk::{Disk, DiskError, DiskOp, FileName, Job, JobDone, Lane};
use madsim_tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use node::DiskPort;

/// A machine's disk as its process uses it.
#[derive(Debug)]
pub(super) struct DiskOfMachine {
    access: Access,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    done: UnboundedSender<JobDone>,
    writes: UnboundedSender<Job>,
}

/// The disk of one node, wherever the node's process is.
#[derive(Clone, Debug)]
pub(super) struct Access {
    shared: Shared,
    node: u64,
}

impl DiskOfMachine {
    /// The disk of a node.
    pub(super) fn new(shared: &Shared, node: u64) -> Self {
        Self { access: Access { shared: shared.clone(), node }, running: None }
    }
}

impl DiskPort for DiskOfMachine {
    type Recovery = Access;

    fn recovery(&mut self) -> &mut Access {
        &mut self.access
    }

    fn start(&mut self, done: UnboundedSender<JobDone>) {
        let (writes, jobs) = unbounded_channel();
        drop(madsim_tokio::spawn(self.access.clone().perform_all(jobs, done.clone())));
        self.running = Some(Running { done, writes });
    }

    fn submit(&mut self, job: Job) {
        let running = self.running.as_ref().expect("jobs follow the start");
        self.access.show_records(&job);
        match job.lane {
            // The receiver ends with the process, and so does whoever waits for the job.
            Lane::Write => drop(running.writes.send(job)),
            Lane::Read => {
                let (access, done) = (self.access.clone(), running.done.clone());
                drop(madsim_tokio::spawn(async move { access.perform_job(job, &done).await }));
            }
        }
    }
}

impl Access {
    async fn perform_all(self, mut jobs: UnboundedReceiver<Job>, done: UnboundedSender<JobDone>) {
        while let Some(job) = jobs.recv().await {
            self.perform_job(job, &done).await;
        }
    }

    async fn perform_job(&self, job: Job, done: &UnboundedSender<JobDone>) {
        let mut reads = Vec::new();
        for (at, op) in job.ops.iter().enumerate() {
            pause_us(self.latency_us()).await;
            match self.perform_faulty(op) {
                Ok(bytes) if op.brings_bytes() => reads.push(bytes),
                Ok(_) => {}
                Err(error) => return self.report(done, job.failed_at(at, error)),
            }
        }
        self.report(done, JobDone { id: job.id, result: Ok(reads), rest: Vec::new() });
    }

    fn report(&self, done: &UnboundedSender<JobDone>, report: JobDone) {
        let numbers = [report.id.0, u64::from(report.result.is_ok())];
        self.shared.lock().event(kind::DISK, self.node, numbers);
        drop(done.send(report));
    }

    fn latency_us(&self) -> u64 {
        let world = &mut *self.shared.lock();
        let node = usize::try_from(self.node - 1).expect("nodes are few");
        world.machines[node].disk_latency_us(&world.scenario, world.is_healed)
    }

    fn perform_faulty(&self, op: &DiskOp) -> Result<Bytes, DiskError> {
        let mut world = self.shared.lock();
        let machine = world.machine(self.node);
        let is_change = matches!(op, DiskOp::Write { .. } | DiskOp::Sync { .. });
        if is_change && std::mem::take(&mut machine.fails_next_operation) {
            machine.has_broken_disk = true;
            machine.disk.fail_after(0, false);
        } else if world.misdirect(self.node, op) {
            return Ok(Bytes::new());
        }
        world.machine(self.node).disk.perform(op)
    }

    /// Shows the records of a write to the rule that logs match.
    fn show_records(&self, job: &Job) {
        let seed = ChecksumSeed::of(CLUSTER, GROUP);
        let mut world = self.shared.lock();
        for op in &job.ops {
            let DiskOp::Write { parts, .. } = op else { continue };
            for part in parts {
                if let Ok(record) = Record::take(seed, &mut part.clone()) {
                    let now_us = world.now_us();
                    let result = world.committed.saw_record(now_us, &record);
                    world.judge(result);
                }
            }
        }
    }
}

impl Disk for Access {
    fn list(&mut self) -> Result<Vec<(FileName, u64)>, DiskError> {
        self.shared.lock().machine(self.node).disk.list()
    }

    fn perform(&mut self, op: &DiskOp) -> Result<Bytes, DiskError> {
        self.shared.lock().machine(self.node).disk.perform(op)
    }
}
