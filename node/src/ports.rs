//! What a node needs of the world, so that a simulator can be the world instead.
//!
//! Time comes from `tokio::time`, which madsim replaces; everything that it cannot replace is here.
//! Next: `disk` and `clock` for the real ones.

use engine::engine::Status;
use engine::queue::Queues;
use engine::replica::{Event, Replica};
use engine::storage::disk::{Disk, Job, JobDone};
use engine::time::{Micros, Now};
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use tokio::sync::mpsc::UnboundedSender;

/// A data directory: first a blocking one for recovery, then a queue of jobs.
pub trait DiskPort: Send + 'static {
    /// The blocking side.
    type Recovery: Disk;

    /// The blocking side, used only before [`start`](Self::start).
    fn recovery(&mut self) -> &mut Self::Recovery;

    /// Recovery is over: jobs follow, and each is reported on `done` exactly once.
    fn start(&mut self, done: UnboundedSender<JobDone>);

    /// Queues a job and returns at once. Jobs of [`Lane::Write`](engine::storage::disk::Lane::Write)
    /// are performed in the order in which they are submitted. Called only after
    /// [`start`](Self::start).
    fn submit(&mut self, job: Job);
}

/// A reading of the wall clock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wall {
    /// Microseconds since 1970-01-01 UTC, as far as the clock knows.
    pub time: Micros,
    /// How far that may be from the truth.
    pub error: Micros,
}

/// The wall clock. Monotonic time is `tokio::time::Instant`'s, which the simulator replaces itself.
pub trait ClockPort: Send + 'static {
    /// What the clock says now. It may jump; only the HLC reads it.
    fn wall(&mut self) -> Wall;
}

/// Looks over a node's shoulder: how oracles learn what a simulated node does.
pub trait Observer: Send + 'static {
    /// Something happened, at `now`.
    fn on_event(&mut self, now: Now, event: &Event) {
        let _ = (now, event);
    }

    /// A turn of the driver is over and its effects are performed; the replica may be inspected.
    fn on_turn(&mut self, now: Now, replica: &Replica<Queues>) {
        let _ = (now, replica);
    }

    /// The log is recovered and the node is about to serve.
    fn on_open(&mut self, status: &Status) {
        let _ = status;
    }
}

/// Completes when the node shall stop.
pub type Shutdown = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The world, as one node sees it.
pub struct Ports<D, C> {
    /// Its data directory.
    pub disk: D,
    /// Its wall clock.
    pub clock: C,
    /// All of its entropy. Give a real node a fresh one at every start.
    pub seed: u64,
    /// When to stop.
    pub shutdown: Shutdown,
    /// Who watches, if anybody does.
    pub observer: Option<Box<dyn Observer>>,
}

impl<D, C> fmt::Debug for Ports<D, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ports").field("seed", &self.seed).finish_non_exhaustive()
    }
}
