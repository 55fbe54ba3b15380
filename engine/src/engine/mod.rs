//! The engine: Raft, sessions and a state machine behind one door.
//!
//! Owns what a request lives through: batching, the log, applying, and the answer. Does no IO and
//! reads no clock; a [`Persist`] or a fetch goes out and its completion comes back. `replica` puts a
//! store under it, which is what drivers use.
//!
//! `propose` collects commands into batches, `apply` runs what is committed, `read` serves queries
//! and watches, `bodies` fetches what answers refer to, `snapshots` cuts the log short,
//! `backups` serves whoever pulls one, `change` changes the membership and the leader, `fitness` tells
//! whether this member should lead, and `space` what happens as disks fill up.

mod apply;
mod backups;
mod bodies;
mod change;
mod config;
mod fitness;
mod indices;
mod live;
mod propose;
mod read;
mod repair;
mod serve;
mod snapshots;
mod space;

pub use crate::raft::RoleName;
pub use config::{Config, Status};
pub(crate) use snapshots::{Parts, split as split_state};
pub use space::Space;

use crate::api::{Bounded, Rejection, Request, Response, Shortage, Token};
use crate::hlc::{Clock, Hlc};
use crate::ids::{GroupId, LogIndex, NodeId, Term};
use crate::limits::Limits;
use crate::raft::{
    Body, Handicap, LogPosition, Membership, Message, Output, Raft, Settings, Snapshot,
};
use crate::record::{ChecksumSeed, EntryKind, Record, RecordBuilder};
use crate::session::Sessions;
use crate::state_machine::{RestoreError, StateMachine};
use crate::storage::{IoId, Persist, Recovered};
use crate::time::{Micros, Now};
use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use backups::Backups;
use bodies::{Bodies, Fetches};
use bytes::Bytes;
use change::Changes;
use fitness::Fitness;
use live::Live;
use propose::Proposals;
use read::ReadQueue;
use repair::Repair;
use serve::Servings;
use snapshots::Snapshots;
use space::SpaceWatch;

/// Bytes of entries that are applied in one turn. A member that has a long log to apply, as after a
/// restart, must not be deaf to heartbeats meanwhile; this many take a millisecond or two.
const APPLY_BYTES_PER_TURN: usize = 256 * 1024;

/// What can happen to an engine.
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
    /// The answer to this token is wanted no more.
    Forget {
        /// Which.
        token: Token,
    },
    /// Everything up to this persist is durable.
    Persisted(IoId),
    /// Entries that were asked for, in order, as far as they could be read.
    Fetched {
        /// Which fetch.
        id: FetchId,
        /// The entries.
        records: Vec<Record>,
    },
    /// The snapshot up to this entry is durable, and the newest.
    SnapshotSaved(LogIndex),
    /// A piece of a snapshot that was asked for; empty if that snapshot is gone.
    SnapshotRead {
        /// Which read.
        id: FetchId,
        /// The piece.
        bytes: Bytes,
    },
    /// The store has no whole record of these entries, though it should: so it found when it settled, when
    /// it read, or when it looked over what it has. Rising.
    Missing(Vec<LogIndex>),
    /// The saved snapshot up to this entry is damaged: another is to take its place.
    SnapshotDamaged(LogIndex),
    /// Records that were handed over with [`Effect::Archive`] are durable: the store has these entries again.
    Archived(Vec<LogIndex>),
    /// The driver's loop turned: seal the batch, look at the deadlines.
    Turn,
}

/// What an engine wants done. Each is safe to perform at once.
#[derive(Clone, PartialEq, Debug)]
pub enum Effect<R> {
    /// Make this durable, after all earlier ones, and report it.
    Persist(Persist),
    /// Read entries from the store.
    Fetch(Fetch),
    /// Write this snapshot in the background, make it durable, and report it with
    /// [`Input::SnapshotSaved`]. A [`Persist`] with a reset that names it waits for it.
    SaveSnapshot(Box<Snapshot>),
    /// Read a piece of a saved snapshot.
    ReadSnapshot(SnapshotRead),
    /// The log begins with `first` from now on. Of the entries before it the store keeps those that it
    /// kept already and those in `keep`, without those in `release`.
    Purge {
        /// The first entry of the log.
        first: LogIndex,
        /// Entries that fall behind `first` now and are needed for the bodies in them; rising.
        keep: Vec<LogIndex>,
        /// Entries that had fallen behind before, and are needed no more; rising.
        release: Vec<LogIndex>,
    },
    /// After a recovery, and after the log has begun anew: of the entries before the log's first these
    /// are needed, and no others. Answered with [`Input::Missing`]: those of them that the store lacks, and
    /// those of the log that it lost.
    Settle {
        /// Rising.
        live: Vec<LogIndex>,
    },
    /// Records that the store lacks and another member had: make them durable beside the log, and report
    /// that with [`Input::Archived`]. They are of committed entries, and change nothing of the log.
    Archive {
        /// Rising.
        records: Vec<Record>,
    },
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
    /// Something worth telling.
    Event(Event),
}

/// Names a fetch.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct FetchId(pub u64);

/// Entries to be read: from `first` on, at least one if it is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fetch {
    /// Its name.
    pub id: FetchId,
    /// The first entry.
    pub first: LogIndex,
    /// The entry after the last one that is wanted.
    pub end: LogIndex,
    /// Enough once this many bytes were read.
    pub bytes_max: usize,
}

/// A piece of a snapshot to be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SnapshotRead {
    /// Its name, unique among fetches too.
    pub id: FetchId,
    /// The last entry in the snapshot.
    pub index: LogIndex,
    /// Bytes from the start of its state.
    pub offset: u64,
    /// Bytes wanted.
    pub len: usize,
}

/// Something that people and oracles want to know.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// The role, the term or the known leader changed.
    Role {
        /// Now.
        role: RoleName,
        /// Now.
        term: Term,
        /// Now.
        leader: Option<NodeId>,
    },
    /// An entry was applied.
    Applied {
        /// Which.
        index: LogIndex,
        /// Its term.
        term: Term,
        /// Its stamp.
        hlc: Hlc,
    },
    /// Entries were cut off the log because the leader of a later term has others.
    Truncated {
        /// The first that went.
        from: LogIndex,
    },
    /// The newest membership in the log is another one: it counts from now on.
    Membership {
        /// The entry that made it; 0 for the founding one.
        index: LogIndex,
        /// It.
        membership: Box<Membership>,
    },
    /// This node is a member no more. It goes quiet; its process may end, and its data may go.
    Removed {
        /// The entry that says so.
        index: LogIndex,
    },
    /// The state came from a snapshot of the leader.
    Installed {
        /// The last entry in it.
        index: LogIndex,
        /// Its term.
        term: Term,
        /// Its stamp.
        hlc: Hlc,
    },
    /// The disk has damaged a record, or a snapshot: so it was found when the store was looked over. A
    /// record is fetched from another member, and a snapshot is made anew with the next entry that is
    /// applied.
    Damaged {
        /// The entry, or the last one in the snapshot.
        index: LogIndex,
        /// Whether it is a snapshot.
        is_snapshot: bool,
    },
    /// A record that the state refers to is on no member any more: the bodies in it are lost. Who asks
    /// for them is told so.
    Lost {
        /// The entry.
        index: LogIndex,
    },
    /// From this entry on commands that make the store grow are refused, because too many disks are
    /// nearly full, or are taken again.
    Space {
        /// Why they are refused; `None`: they are taken.
        shortage: Option<Shortage>,
    },
    /// The disk failed, or an entry cannot be applied. Nothing more is done or answered; the process
    /// must end. A failed fsync is never retried.
    Fatal {
        /// Why.
        reason: String,
    },
}

/// Raft, sessions and a state machine.
#[derive(Debug)]
pub struct Engine<S: StateMachine> {
    raft: Raft,
    clock: Clock,
    machine: S,
    sessions: Sessions<S::Reply>,
    applied_index: LogIndex,
    /// The stamp of the last applied entry.
    applied_stamp: Hlc,
    /// Whether anything was applied since watchers were last woken.
    has_applied: bool,
    snapshots: Snapshots,
    backups: Backups,
    changes: Changes,
    fitness: Fitness,
    space: SpaceWatch,
    /// How long disk or applying may stand still before this member is not fit to lead; also how long
    /// those who asked for another leader wait for news of one.
    transfer_patience: Micros,
    /// Bytes of entries that may still be applied in this turn.
    apply_budget_bytes: usize,
    proposals: Proposals,
    reads: ReadQueue<S::Reply>,
    bodies: Bodies<S::Reply>,
    fetches: Fetches,
    live: Live,
    repair: Repair,
    serving: Servings,
    /// When the driver's loop last turned.
    turned_at: Micros,
    /// When log time must be moved on, on the monotonic clock, if this member leads.
    tick_at: Option<Micros>,
    /// The last role that was told.
    told: (RoleName, Term, Option<NodeId>),
    group: GroupId,
    seed: ChecksumSeed,
    limits: Limits,
    /// Why nothing more is done, once something has failed for good.
    failure: Option<String>,
    /// Reused from step to step.
    outputs: Vec<Output>,
}

impl<S: StateMachine> Engine<S> {
    /// An engine over what its store recovered. `machine` must be empty: it gets its state from the
    /// newest snapshot, if there is one, and from the log.
    ///
    /// # Errors
    /// The snapshot's state cannot be read by this build.
    pub fn new(
        config: Config,
        machine: S,
        recovered: &Recovered,
        now: Now,
    ) -> Result<Self, RestoreError> {
        let settings = Settings {
            node: config.node,
            founding: config.founding,
            election_timeout: config.election_timeout,
            heartbeat_interval: config.heartbeat_interval,
            priority: config.priority,
            lease_drift_ppm: config.lease_drift_ppm,
            limits: config.limits.clone(),
            seed: config.seed,
        };
        let raft = Raft::new(settings, recovered, now.monotonic);
        let meta = recovered.snapshot.as_ref().map(|snapshot| &snapshot.meta);
        let applied_stamp = meta.map_or(Hlc::ZERO, |meta| meta.stamp);
        let mut engine = Self {
            told: (raft.role(), Term::ZERO, raft.leader()),
            changes: Changes::new(&raft),
            raft,
            clock: Clock::recovered(recovered.last_stamp.max(applied_stamp)),
            machine,
            sessions: Sessions::new(&config.limits),
            applied_index: meta.map_or(LogIndex::ZERO, |meta| meta.last.index),
            applied_stamp,
            has_applied: false,
            snapshots: Snapshots::recovered(recovered.snapshot.as_ref()),
            backups: Backups::default(),
            fitness: Fitness::default(),
            space: SpaceWatch::default(),
            transfer_patience: config.election_timeout + config.election_timeout,
            apply_budget_bytes: APPLY_BYTES_PER_TURN,
            proposals: Proposals::default(),
            reads: ReadQueue::default(),
            bodies: Bodies::default(),
            fetches: Fetches::default(),
            live: Live::default(),
            repair: Repair::default(),
            serving: Servings::default(),
            turned_at: now.monotonic,
            tick_at: None,
            group: config.group,
            seed: ChecksumSeed::of(config.cluster, config.group),
            limits: config.limits,
            failure: None,
            outputs: Vec::new(),
        };
        if let Some(snapshot) = &recovered.snapshot {
            engine.restore(&snapshot.bytes)?;
        }
        engine.repair.begin_anew();
        Ok(engine)
    }

    /// Takes one input and appends what follows from it to `effects`. Total: nothing that comes from
    /// outside makes it panic.
    // Most callers know which input it is; inlined, the dispatch goes away.
    #[inline]
    pub fn step(&mut self, now: Now, input: Input, effects: &mut Vec<Effect<S::Reply>>) {
        if self.failure.is_some() {
            return;
        }
        match input {
            Input::Peer { from, message } => self.on_peer(now, from, message, effects),
            Input::Client { token, request } => self.on_request(now, token, request, effects),
            Input::Forget { token } => self.reads.forget(token),
            Input::Persisted(io) => {
                self.raft.on_persisted(io, now.monotonic, &mut self.outputs);
                self.after_raft(now, effects);
            }
            Input::Missing(indices) => self.on_missing(&indices),
            Input::SnapshotDamaged(index) => self.snapshots.want(index),
            Input::Archived(indices) => self.on_archived(&indices, effects),
            Input::SnapshotSaved(index) => self.on_snapshot_saved(index),
            Input::SnapshotRead { id, bytes } => self.on_snapshot_read(now, id, bytes, effects),
            Input::Fetched { id, records } => self.on_fetched(now, id, records, effects),
            Input::Turn => self.on_turn(now, effects),
        }
    }

    #[inline]
    fn on_peer(
        &mut self,
        now: Now,
        from: NodeId,
        message: Message,
        effects: &mut Vec<Effect<S::Reply>>,
    ) {
        match message.body {
            Body::RecordsRequest { indices } => self.on_records_request(from, indices, effects),
            Body::Records { records, absent, applied } => {
                self.on_records(now.monotonic, from, (records, &absent, applied), effects);
            }
            Body::PreVoteRequest { .. }
            | Body::PreVoteResponse { .. }
            | Body::VoteRequest { .. }
            | Body::VoteResponse { .. }
            | Body::Append { .. }
            | Body::AppendResponse { .. }
            | Body::Snapshot { .. }
            | Body::SnapshotResponse { .. }
            | Body::TimeoutNow
            | Body::ReadRequest { .. }
            | Body::ReadResponse { .. }
            | Body::Removed { .. }
            | Body::OlderCopy { .. } => {
                self.raft.on_message(from, message, now.monotonic, &mut self.outputs);
                self.after_raft(now, effects);
            }
        }
    }

    /// Stops for good: from now on nothing is believed and nothing is done.
    pub fn fail(&mut self, reason: String, effects: &mut Vec<Effect<S::Reply>>) {
        self.failure = Some(reason.clone());
        effects.push(Effect::Event(Event::Fatal { reason }));
    }

    /// When [`Input::Turn`] must come at the latest, on the monotonic clock; never after a failure.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Micros> {
        if self.failure.is_some() {
            return None;
        }
        if self.can_apply_more() || self.snapshots.is_writing() {
            return Some(Micros::ZERO);
        }
        let raft = self.raft.next_deadline();
        let deadlines = [
            self.tick_at,
            self.reads.next_deadline(),
            self.changes.next_deadline(),
            self.bodies.next_deadline(),
            self.repair.next_deadline(),
        ];
        Some(deadlines.into_iter().flatten().fold(raft, Micros::min))
    }

    fn on_turn(&mut self, now: Now, effects: &mut Vec<Effect<S::Reply>>) {
        self.apply_budget_bytes = APPLY_BYTES_PER_TURN;
        self.turned_at = now.monotonic;
        self.reads.expire_watches(now.monotonic, effects);
        self.backups.expire(now.monotonic);
        self.expire_bodies(now.monotonic, effects);
        self.watch_fitness(now);
        self.watch_space(now);
        if self.raft.is_leader() {
            self.append_first_entry(now);
            self.append_wanted_membership(now);
            self.append_space(now);
            self.seal_batch(now);
            self.append_tick(now);
        }
        self.raft.on_turn(now.monotonic, &mut self.outputs);
        self.after_raft(now, effects);
        self.keep_snapshots(effects);
        self.note_body_changes();
        self.settle(effects);
        self.pull(now.monotonic, effects);
        self.raft.trim_cache();
        self.tick_at = self.tick_deadline(now);
    }

    fn watch_fitness(&mut self, now: Now) {
        let is_incomplete = self.repair.missing() > 0;
        if !self.fitness.is_due(now, is_incomplete) {
            return;
        }
        let indices = (self.applied_index, self.raft.commit_index());
        let handicap = self.fitness.watch(now, indices, self.transfer_patience, is_incomplete);
        let is_disk_full = self.is_disk_refusing();
        self.raft.set_handicap(Handicap { is_disk_full, ..handicap });
    }

    fn on_request(
        &mut self,
        now: Now,
        token: Token,
        request: Request,
        effects: &mut Vec<Effect<S::Reply>>,
    ) {
        let admitted = match &request {
            Request::QueryHere(_) | Request::QueryStale(_) | Request::Backup(_) => {
                self.check_room()
            }
            Request::Propose(_)
            | Request::Query(_)
            | Request::Change(_)
            | Request::Transfer { .. }
            | Request::Watch { .. } => self.admit(&request),
        };
        let outcome = match admitted {
            Err(rejection) => Err(Response::Rejected(rejection)),
            Ok(()) => match request {
                Request::Propose(block) => self.propose(now, token, &block),
                Request::Query(query) | Request::QueryHere(query) => {
                    self.query(token, query);
                    Ok(())
                }
                Request::QueryStale(query) => self.query_stale(token, &query, effects),
                Request::Change(request) => self.change(now, token, &request, effects),
                Request::Transfer { to } => self.transfer(now, token, to),
                Request::Watch { query, until } => self.watch(token, &query, until),
                Request::Backup(request) => self.backup(now, token, request, effects),
            },
        };
        if let Err(response) = outcome {
            effects.push(Effect::Respond { token, response });
        }
        // What could be said at once, as that reads fail or another transfer is replaced.
        if !self.outputs.is_empty() {
            self.after_raft(now, effects);
        }
    }

    /// Whether a request that only a leader serves may come in at all.
    fn admit(&self, request: &Request) -> Result<(), Rejection> {
        if !self.raft.is_leader() {
            return Err(Rejection::NotLeader { leader: self.raft.leader() });
        }
        match request {
            // What came in now would have to be sent to the next leader first.
            Request::Propose(_) | Request::Change(_) => match self.raft.transferring_to() {
                Some(to) => Err(Rejection::Transferring { to }),
                None => self.check_room(),
            },
            Request::Query(_)
            | Request::QueryHere(_)
            | Request::QueryStale(_)
            | Request::Watch { .. }
            | Request::Backup(_)
            | Request::Transfer { .. } => self.check_room(),
        }
    }

    fn check_room(&self) -> Result<(), Rejection> {
        let (used, max) = (self.waiting_requests(), self.limits.waiting_requests_max);
        if used >= max {
            let (used, max) = (used as u64, max as u64);
            return Err(Rejection::Full { what: Bounded::WaitingRequests, used, max });
        }
        // Answers that wait for the disk count as well.
        let used = self.reads.waiting_bytes() as u64 + self.bodies.waiting_bytes();
        let max = self.limits.waiting_bytes_max as u64;
        if used >= max {
            return Err(Rejection::Full { what: Bounded::WaitingBytes, used, max });
        }
        Ok(())
    }

    fn waiting_requests(&self) -> usize {
        self.proposals.waiting()
            + self.reads.waiting()
            + self.bodies.waiting()
            + self.backups.waiting()
            + self.changes.waiting()
    }

    /// Carries on what Raft put out, applies what is committed, and tells of a changed role.
    fn after_raft(&mut self, now: Now, effects: &mut Vec<Effect<S::Reply>>) {
        if !self.outputs.is_empty() {
            let mut outputs = core::mem::take(&mut self.outputs);
            effects.reserve(outputs.len());
            for output in outputs.drain(..) {
                self.on_output(output, effects);
            }
            self.outputs = outputs;
        }
        if self.failure.is_some() {
            return;
        }
        self.clock.observe(self.newest_stamp(), now);
        self.answer_change(effects);
        // Before applying: what this member proposed as a leader may just have been replaced, and
        // must not be answered with somebody else's entry.
        self.tell_role(now, effects);
        self.tell_membership(effects);
        self.answer_transfers(now, effects);
        self.apply_committed(effects);
    }

    fn on_output(&mut self, output: Output, effects: &mut Vec<Effect<S::Reply>>) {
        match output {
            Output::Send { to, message } => effects.push(Effect::Send { to, message }),
            Output::Persist(persist) => effects.push(Effect::Persist(persist)),
            Output::Fetch { follower, first } => self.fetch_for_follower(follower, first, effects),
            Output::ReadsReady { tokens, index } => {
                self.reads.confirmed.extend(tokens.into_iter().map(|token| (index, token)));
            }
            Output::ReadsFailed { tokens } => {
                let leader = self.raft.leader();
                for token in tokens {
                    self.reads.remove_query(token);
                    let response = Response::Rejected(Rejection::NotLeader { leader });
                    effects.push(Effect::Respond { token, response });
                }
            }
            Output::ReadSnapshot { follower, index, offset, len } => {
                self.read_snapshot(follower, (index, offset, len), effects);
            }
            Output::WantSnapshot { at_least } => self.snapshots.want(at_least),
            Output::Install(snapshot) => self.install(*snapshot, effects),
            Output::TransferEnded(error) => self.end_transfer(error, effects),
            Output::Truncated { from } => {
                self.repair.forget_from(from);
                effects.push(Effect::Event(Event::Truncated { from }));
            }
            Output::OlderCopy { matched } => self.fail(older_copy(&self.raft, matched), effects),
        }
    }

    fn tell_role(&mut self, now: Now, effects: &mut Vec<Effect<S::Reply>>) {
        let (role, term, leader) = (self.raft.role(), self.raft.term(), self.raft.leader());
        if self.told == (role, term, leader) {
            return;
        }
        if self.told.0 == RoleName::Leader && (role != RoleName::Leader || term != self.told.1) {
            self.abandon_proposals(leader, effects);
            self.reads.abandon_watches(leader, effects);
            self.abandon_changes(now, leader, effects);
        }
        if leader.is_none() {
            self.abandon_reads(effects);
        }
        self.told = (role, term, leader);
        effects.push(Effect::Event(Event::Role { role, term, leader }));
    }

    /// §5.4.2 and §8: a leader begins its term with an entry of its own, and so commits what is older.
    fn append_first_entry(&mut self, now: Now) {
        if self.raft.wants_first_entry() {
            self.append(now, RecordBuilder::default(), EntryKind::Noop);
        }
    }

    /// Moves log time on when something is due and nobody else makes an entry.
    fn append_tick(&mut self, now: Now) {
        let is_due = self.tick_deadline(now).is_some_and(|at| at <= now.monotonic);
        if is_due && self.raft.last_index() == self.applied_index {
            self.append(now, RecordBuilder::default(), EntryKind::Tick);
        }
    }

    /// When the state machine's next deadline passes in log time, on the monotonic clock.
    fn tick_deadline(&self, now: Now) -> Option<Micros> {
        // With entries on their way log time moves by itself; applying them asks again.
        if !self.raft.is_leader() || self.raft.last_index() != self.applied_index {
            return None;
        }
        // The next leader does it, or this one once it leads on.
        if self.raft.transferring_to().is_some() {
            return None;
        }
        let due = self.machine.next_deadline()?;
        // One millisecond more, as a deadline may carry a counter.
        let wait = (due.millis() + 1).saturating_sub(self.clock.log_millis(now));
        Some(now.monotonic + Micros::from_millis(wait))
    }

    fn append(&mut self, now: Now, builder: RecordBuilder, kind: EntryKind) -> LogIndex {
        let index = self.raft.next_index();
        let stamp = self.clock.stamp(now);
        let record = builder.seal(self.seed, self.group, index, self.raft.term(), stamp, kind);
        self.raft.append(record);
        index
    }
}

/// Why a member stops whose log ends before what it has once acknowledged.
fn older_copy(raft: &Raft, LogPosition { term, index }: LogPosition) -> String {
    let (node, last) = (raft.node(), raft.last_index());
    format!(
        "the data of node {node} is an older copy of itself: its log ends at entry {last} and has no entry \
         {index} of term {term}, which this node has acknowledged to the leader; move the directory \
         away, remove node {node} from the cluster, and let a node with an empty directory join anew"
    )
}

/// What those around an engine may know of it.
impl<S: StateMachine> Engine<S> {
    /// How it is.
    #[must_use]
    pub fn status(&self) -> Status {
        Status {
            node: self.raft.node(),
            role: self.raft.role(),
            term: self.raft.term(),
            voted_for: self.raft.voted_for(),
            leader: self.raft.leader(),
            first_index: self.raft.base().index.next(),
            last_index: self.raft.last_index(),
            durable_index: self.raft.durable_index(),
            commit_index: self.raft.commit_index(),
            applied_index: self.applied_index,
            membership: self.raft.membership().clone(),
            membership_index: self.raft.membership_index(),
            is_removed: self.raft.is_removed(),
            is_fit: self.raft.is_fit(),
            missing: self.repair.missing(),
            lost: self.repair.lost(),
            snapshot_index: self.raft.snapshot().map_or(LogIndex::ZERO, |meta| meta.last.index),
            followers: self.raft.followers(),
            transfer: self.raft.transferring_to(),
            sessions: self.sessions.len(),
            waiting_requests: self.waiting_requests(),
            room: self.room(),
        }
    }

    /// Why nothing more is done, if something has failed for good.
    #[must_use]
    pub fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    /// The last entry applied.
    #[must_use]
    pub fn applied_index(&self) -> LogIndex {
        self.applied_index
    }

    /// Raft, to look at.
    #[must_use]
    pub fn raft(&self) -> &Raft {
        &self.raft
    }

    /// The state machine, to look at.
    #[must_use]
    pub fn machine(&self) -> &S {
        &self.machine
    }

    /// What the records' checksums are bound to.
    #[must_use]
    pub fn checksum_seed(&self) -> ChecksumSeed {
        self.seed
    }

    /// Checks every named invariant but the state machine's own.
    ///
    /// # Panics
    /// With the name of the invariant that does not hold.
    pub fn check_invariants(&self) {
        self.raft.check_invariants();
        self.sessions.check_invariants();
        assert!(self.applied_index <= self.raft.commit_index(), "applied_within_commit");
        assert!(self.clock.last() >= self.newest_stamp(), "clock_at_or_after_log");
        self.proposals.check_invariants(self.raft.is_leader(), self.raft.last_index());
    }
}
