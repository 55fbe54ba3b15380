//! A replica: an engine and its store behind one door, which is all that a driver has to know.
//!
//! A driver performs [`Effect`]s and hands back what comes of them as [`Input`]s, with
//! [`Input::Turn`] after each handful:
//!
//! ```text
//! loop {
//!     wait for an input, or until next_deadline()
//!     step(now, input) for every input that waits
//!     step(now, Turn)
//!     perform the effects
//! }
//! ```
//!
//! Never has more than one write job under way: what is to become durable meanwhile shares the next
//! one (group commit). A read whose file was purged meanwhile brings nothing, which is no failure, nor
//! is a write for which there is no space: it is performed again until there is.
//! Next: `engine` and `storage` for the two halves.

mod space;

use crate::api::{Request, Response, Token};
use crate::engine::{self, Config, Engine, Fetch, FetchId, SnapshotRead, Status};
use crate::ids::{LogIndex, NodeId, Term};
use crate::limits::{self, SEAL_AFTER};
use crate::raft::{Message, Raft};
use crate::record::Record;
use crate::state_machine::{RestoreError, StateMachine};
use crate::storage::disk::{Disk, DiskError, FileName, Job, JobDone, JobId};
use crate::storage::{CleaningPlan, ReadPlan, ScrubPlan, Scrubbed, StorageError, Store};
use crate::time::{Micros, Now};
use alloc::collections::{BTreeMap, VecDeque};
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use bytes::Bytes;

use space::Room;

pub use crate::engine::Event;

/// What can happen to a replica.
#[derive(Clone, PartialEq, Debug)]
pub enum Input {
    /// A message came from another member.
    Peer {
        /// Who sent it.
        from: NodeId,
        /// What it says.
        message: Message,
    },
    /// A client asks for something.
    Client {
        /// The caller's name for it.
        token: Token,
        /// What.
        request: Request,
    },
    /// The client is gone: the answer to this token is wanted no more (it may still take effect).
    Forget {
        /// Which.
        token: Token,
    },
    /// A disk job is done.
    Disk(JobDone),
    /// The driver's loop has handed in everything that was waiting: seal the batch, look at the
    /// deadlines. Must follow the other inputs of a turn, and must come when a deadline has passed.
    Turn,
}

/// What a replica wants done. Each is safe to perform at once, in any order among different kinds;
/// jobs of the write lane in the order given.
#[derive(Clone, PartialEq, Debug)]
pub enum Effect<R> {
    /// Perform this and report it.
    Disk(Job),
    /// Send this; it may be lost.
    Send {
        /// To whom.
        to: NodeId,
        /// What.
        message: Message,
    },
    /// Tell the client.
    Respond {
        /// The token that came with the request.
        token: Token,
        /// How it ended.
        response: Response<R>,
    },
    /// Something that people and oracles want to know. Needs no action, but for [`Event::Fatal`].
    Event(Event),
}

/// Why a replica cannot be opened.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory is missing, foreign or damaged; the error says what to do.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The newest snapshot's state cannot be read by this build.
    #[error(transparent)]
    Restore(#[from] RestoreError),
}

/// Between two pieces that are looked at again, at least.
const SCRUB_PAUSE_MIN: Micros = Micros::from_millis(10);

/// A read job under way.
#[derive(Debug)]
enum Read {
    Entries(Fetch, ReadPlan),
    Snapshot(FetchId, FileName),
    Cleaning(CleaningPlan),
    Scrub(ScrubPlan),
}

impl Read {
    fn file(&self) -> FileName {
        match self {
            Self::Entries(_, plan) => plan.file(),
            Self::Snapshot(_, file) => *file,
            Self::Cleaning(plan) => plan.file(),
            Self::Scrub(plan) => plan.file(),
        }
    }
}

/// An engine and its store.
#[derive(Debug)]
pub struct Replica<S: StateMachine> {
    engine: Engine<S>,
    store: Store,
    last_job: JobId,
    write: Option<JobId>,
    reads: BTreeMap<JobId, Read>,
    /// Inputs for the engine that wait: its own, and answers of the store that need no disk.
    answers: VecDeque<engine::Input>,
    torn_bytes: u64,
    room: Room,
    data_bytes_max: u64,
    /// When the last flush is sealed, unless another comes before.
    seal_at: Option<Micros>,
    /// When the next piece of the store is looked at again.
    scrub_at: Option<Micros>,
    scrub_bytes_per_second: u64,
    /// Reused from step to step.
    scratch: Vec<engine::Effect<S::Reply>>,
}

impl<S: StateMachine> Replica<S> {
    /// Opens a data directory that was initialised for `config`'s cluster and node, reading its log.
    /// `machine` must be empty: it is rebuilt from the log.
    ///
    /// # Errors
    /// The directory is missing, foreign or damaged; the error says what to do.
    pub fn open(
        config: Config,
        machine: S,
        now: Now,
        disk: &mut impl Disk,
    ) -> Result<Self, OpenError> {
        let (store, recovered) =
            Store::open(disk, config.cluster, config.group, config.node, &config.limits)?;
        let data_bytes_max = config.limits.data_bytes_max;
        let scrub_bytes_per_second = config.limits.scrub_bytes_per_second;
        let seal_at = (!store.is_sealed()).then(|| now.monotonic + SEAL_AFTER);
        Ok(Self {
            engine: Engine::new(config, machine, &recovered, now)?,
            store,
            seal_at,
            scrub_at: (scrub_bytes_per_second > 0).then_some(now.monotonic + SCRUB_PAUSE_MIN),
            scrub_bytes_per_second,
            last_job: JobId(0),
            write: None,
            reads: BTreeMap::new(),
            answers: VecDeque::new(),
            torn_bytes: recovered.torn_bytes,
            room: Room::default(),
            data_bytes_max,
            scratch: Vec::new(),
        })
    }

    /// Takes one input and appends what follows from it to `effects`. Never panics on anything that
    /// comes from outside.
    pub fn step(&mut self, now: Now, input: Input, effects: &mut Vec<Effect<S::Reply>>) {
        if self.engine.failure().is_some() {
            return;
        }
        match input {
            Input::Peer { from, message } => {
                self.step_engine(now, engine::Input::Peer { from, message }, effects);
            }
            Input::Client { token, request } => {
                self.step_engine(now, engine::Input::Client { token, request }, effects);
            }
            Input::Forget { token } => {
                self.step_engine(now, engine::Input::Forget { token }, effects);
            }
            Input::Disk(done) => self.on_disk(now, done, effects),
            Input::Turn => {
                if self.seal_at.is_some_and(|at| at <= now.monotonic) {
                    self.seal_at = None;
                    self.store.seal();
                }
                self.begin_scrub(now, effects);
                self.step_engine(now, engine::Input::Turn, effects);
                self.watch_room(now, effects);
            }
        }
    }

    fn step_engine(&mut self, now: Now, input: engine::Input, effects: &mut Vec<Effect<S::Reply>>) {
        self.answers.push_back(input);
        self.step_answers(now, effects);
    }

    fn step_answers(&mut self, now: Now, effects: &mut Vec<Effect<S::Reply>>) {
        let mut scratch = core::mem::take(&mut self.scratch);
        while let Some(input) = self.answers.pop_front() {
            self.engine.step(now, input, &mut scratch);
            self.perform(&mut scratch, effects);
        }
        self.scratch = scratch;
        self.begin_write(effects);
        self.begin_cleaning(effects);
    }

    fn perform(
        &mut self,
        scratch: &mut Vec<engine::Effect<S::Reply>>,
        effects: &mut Vec<Effect<S::Reply>>,
    ) {
        for effect in scratch.drain(..) {
            match effect {
                engine::Effect::Persist(persist) => self.store.persist(persist),
                engine::Effect::SaveSnapshot(snapshot) => self.store.save_snapshot(*snapshot),
                engine::Effect::ReadSnapshot(read) => self.begin_snapshot_read(read, effects),
                engine::Effect::Purge { first, keep, release } => {
                    self.store.purge(first, &keep, &release);
                }
                engine::Effect::Settle { live } => {
                    let missing = self.store.settle(&live);
                    self.answers.push_back(engine::Input::Missing(missing));
                }
                engine::Effect::Archive { records } => self.store.archive(records),
                engine::Effect::Fetch(fetch) => self.begin_read(fetch, effects),
                engine::Effect::Send { to, message } => effects.push(Effect::Send { to, message }),
                engine::Effect::Respond { token, response } => {
                    effects.push(Effect::Respond { token, response });
                }
                engine::Effect::Event(event) => effects.push(Effect::Event(event)),
            }
        }
    }

    fn next_job(&mut self) -> JobId {
        self.last_job = JobId(self.last_job.0 + 1);
        self.last_job
    }

    fn begin_write(&mut self, effects: &mut Vec<Effect<S::Reply>>) {
        let is_busy = self.write.is_some() || self.room.is_refused();
        if is_busy || self.engine.failure().is_some() {
            return;
        }
        let id = self.next_job();
        if let Some(job) = self.store.next_write(id) {
            self.write = Some(id);
            self.seal_at = None;
            effects.push(Effect::Disk(job));
        }
    }

    fn begin_cleaning(&mut self, effects: &mut Vec<Effect<S::Reply>>) {
        if self.engine.failure().is_some() {
            return;
        }
        let id = self.next_job();
        if let Some((job, plan)) = self.store.plan_cleaning(id) {
            self.reads.insert(id, Read::Cleaning(plan));
            effects.push(Effect::Disk(job));
        }
    }

    /// Reads a piece of what is kept again, if it is time. The next one comes when a round of the whole
    /// store in pieces of this size takes as long as it should.
    fn begin_scrub(&mut self, now: Now, effects: &mut Vec<Effect<S::Reply>>) {
        if self.scrub_at.is_none_or(|at| at > now.monotonic) || self.engine.failure().is_some() {
            return;
        }
        let pieces = self.store.live_bytes() / limits::SCRUB_PIECE_BYTES as u64 + 1;
        let by_round = limits::SCRUB_ROUND.0 / pieces;
        let by_rate = limits::SCRUB_PIECE_BYTES as u64 * 1_000_000 / self.scrub_bytes_per_second;
        let pause = by_round.max(by_rate).max(SCRUB_PAUSE_MIN.0);
        self.scrub_at = Some(now.monotonic + Micros(pause));
        let is_busy = self.reads.values().any(|read| matches!(read, Read::Scrub(_)));
        if is_busy {
            return;
        }
        let id = self.next_job();
        if let Some((job, plan)) = self.store.plan_scrub(id) {
            self.reads.insert(id, Read::Scrub(plan));
            effects.push(Effect::Disk(job));
        }
    }

    fn on_scrubbed(&mut self, found: Scrubbed, effects: &mut Vec<Effect<S::Reply>>) {
        let (index, is_snapshot) = match found {
            Scrubbed::Whole => return,
            Scrubbed::Record(index) => {
                self.answers.push_back(engine::Input::Missing(vec![index]));
                (index, false)
            }
            Scrubbed::Snapshot(index) => {
                self.answers.push_back(engine::Input::SnapshotDamaged(index));
                (index, true)
            }
        };
        effects.push(Effect::Event(Event::Damaged { index, is_snapshot }));
    }

    /// Reads from the store. What it has not is for the engine to fetch from others.
    fn begin_read(&mut self, fetch: Fetch, effects: &mut Vec<Effect<S::Reply>>) {
        let id = self.next_job();
        match self.store.plan_read(fetch.first, fetch.end, fetch.bytes_max, id) {
            Some((job, plan)) => {
                self.reads.insert(id, Read::Entries(fetch, plan));
                effects.push(Effect::Disk(job));
            }
            None => {
                let records = Vec::new();
                self.answers.push_back(engine::Input::Fetched { id: fetch.id, records });
            }
        }
    }

    fn begin_snapshot_read(&mut self, read: SnapshotRead, effects: &mut Vec<Effect<S::Reply>>) {
        let id = self.next_job();
        match self.store.plan_snapshot_read(read.index, read.offset, read.len, id) {
            Some(job) => {
                self.reads.insert(id, Read::Snapshot(read.id, FileName::Snapshot(read.index)));
                effects.push(Effect::Disk(job));
            }
            None => {
                let bytes = Bytes::new();
                self.answers.push_back(engine::Input::SnapshotRead { id: read.id, bytes });
            }
        }
    }

    fn on_disk(&mut self, now: Now, done: JobDone, effects: &mut Vec<Effect<S::Reply>>) {
        if self.write == Some(done.id) {
            return match done.result {
                Ok(_) => self.on_written(now, effects),
                Err(error) if error.may_be_repeated() => self.on_refused(now, done.rest),
                Err(error) => self.fail(error.to_string(), effects),
            };
        }
        if self.on_room(&done) {
            return;
        }
        if let Some(read) = self.reads.remove(&done.id) {
            self.on_read(now, read, done.result, effects);
        }
    }

    fn on_read(
        &mut self,
        now: Now,
        read: Read,
        result: Result<Vec<Bytes>, DiskError>,
        effects: &mut Vec<Effect<S::Reply>>,
    ) {
        let file = read.file();
        let reads = match result {
            Ok(reads) => Some(reads),
            // The file went meanwhile.
            Err(_) if !self.store.keeps(file) => None,
            Err(error) => return self.fail(error.to_string(), effects),
        };
        match (read, reads) {
            (Read::Entries(fetch, plan), Some(reads)) => {
                self.on_entries(fetch, &plan, &reads, effects)
            }
            // What was in it and is still needed is elsewhere by now.
            (Read::Entries(fetch, _), None) => self.begin_read(fetch, effects),
            (Read::Snapshot(id, _), reads) => {
                let bytes = reads.and_then(|mut reads| reads.pop()).unwrap_or_default();
                self.answers.push_back(engine::Input::SnapshotRead { id, bytes });
            }
            (Read::Scrub(plan), reads) => {
                let found = self.store.take_scrubbed(&plan, &reads.unwrap_or_default());
                self.on_scrubbed(found, effects);
            }
            (Read::Cleaning(plan), reads) => {
                let damaged = self.store.take_cleaned(&plan, &reads.unwrap_or_default());
                if !damaged.is_empty() {
                    self.answers.push_back(engine::Input::Missing(damaged));
                }
            }
        }
        self.step_answers(now, effects);
    }

    /// Hands on the entries that a read brought, up to one that is damaged.
    fn on_entries(
        &mut self,
        fetch: Fetch,
        plan: &ReadPlan,
        reads: &[Bytes],
        effects: &mut Vec<Effect<S::Reply>>,
    ) {
        let (records, unreadable) = plan.decode_whole(self.engine.checksum_seed(), reads);
        match unreadable {
            Some(index) if self.store.mark_unreadable(plan, index) => {
                self.answers.push_back(engine::Input::Missing(vec![index]));
            }
            // It has a new place: the bytes that were read are not what counts.
            Some(index) if index == fetch.first => return self.begin_read(fetch, effects),
            Some(_) | None => {}
        }
        self.answers.push_back(engine::Input::Fetched { id: fetch.id, records });
    }

    fn on_written(&mut self, now: Now, effects: &mut Vec<Effect<S::Reply>>) {
        self.write = None;
        self.on_accepted();
        let written = self.store.write_done();
        if let Some(io) = written.io {
            self.step_engine(now, engine::Input::Persisted(io), effects);
        }
        if let Some(index) = written.snapshot {
            self.step_engine(now, engine::Input::SnapshotSaved(index), effects);
        }
        if !written.archived.is_empty() {
            self.step_engine(now, engine::Input::Archived(written.archived), effects);
        }
        self.begin_write(effects);
        self.begin_cleaning(effects);
        if self.write.is_none() && !self.store.is_sealed() {
            self.seal_at = Some(now.monotonic + SEAL_AFTER);
        }
    }

    fn fail(&mut self, reason: String, effects: &mut Vec<Effect<S::Reply>>) {
        let mut scratch = Vec::new();
        self.engine.fail(reason, &mut scratch);
        self.perform(&mut scratch, effects);
    }

    /// When [`Input::Turn`] must come at the latest, on the monotonic clock.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Micros> {
        let engine = self.engine.next_deadline()?;
        let others = [self.room.next_deadline(), self.seal_at, self.scrub_at];
        Some(others.into_iter().flatten().fold(engine, Micros::min))
    }

    /// How it is.
    #[must_use]
    pub fn status(&self) -> Status {
        self.engine.status()
    }

    /// Raft, to look at: [`status`](Self::status) without its copies.
    #[must_use]
    pub fn raft(&self) -> &Raft {
        self.engine.raft()
    }

    /// The last entry applied.
    #[must_use]
    pub fn applied_index(&self) -> LogIndex {
        self.engine.applied_index()
    }

    /// The state machine, to look at.
    #[must_use]
    pub fn machine(&self) -> &S {
        self.engine.machine()
    }

    /// Segment files and the bytes in them.
    #[must_use]
    pub fn store_size(&self) -> (u64, u64) {
        (self.store.segments(), self.store.bytes())
    }

    /// Bytes of an unfinished last write that were cut off when this replica was opened.
    #[must_use]
    pub fn torn_bytes(&self) -> u64 {
        self.torn_bytes
    }

    /// Why the replica does nothing more, if its disk has failed or an entry cannot be applied.
    #[must_use]
    pub fn failure(&self) -> Option<&str> {
        self.engine.failure()
    }

    /// The term of an entry, if it is in the log.
    #[must_use]
    pub fn term_at(&self, index: LogIndex) -> Option<Term> {
        self.engine.raft().term_at(index)
    }

    /// An entry that is still in memory.
    #[must_use]
    pub fn cached_record(&self, index: LogIndex) -> Option<&Record> {
        self.engine.raft().cached(index)
    }

    /// Checks every named invariant; tests and simulations call it after each turn.
    ///
    /// # Panics
    /// With the name of the invariant that does not hold.
    pub fn check_invariants(&self) {
        self.engine.check_invariants();
        self.store.check_invariants();
    }
}
