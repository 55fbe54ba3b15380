//! A log on a disk that loses power and rots.
//!
//! The log is written through the store, with a model beside it that remembers what every flush made
//! durable. Claims: after a power failure the log opens, as it was after the last synced flush or
//! after the one under way; after a flipped bit it opens as it was after the last or the last but one;
//! whatever else is done to the files, it opens as it once was, or not at all. Where damage was found, some
//! of that may be missing, and then the node knows where its log ended. What opens can be read, written and
//! opened again. A snapshot that is found is one that was handed over,
//! and the log goes on from it.

use crate::host::{CLUSTER, GROUP};
use arbitrary::{Arbitrary, Unstructured};
use engine::hlc::Hlc;
use engine::ids::{LogIndex, NodeId, Term};
use engine::limits::Limits;
use engine::raft::{LogPosition, Membership, Reset, Snapshot, SnapshotMeta};
use engine::record::{ChecksumSeed, EntryKind, Record, RecordBuilder};
use engine::storage::disk::{Disk, DiskOp, FileName, Job, JobId, Lane};
use engine::storage::{HardState, Identity, IoId, Persist, Recovered, StorageError, Store};
use sim::disk::{Fate, SimDisk};
use std::collections::VecDeque;

const NODE: NodeId = NodeId(1);
/// Small, so that a few flushes fill a segment.
const SEGMENT_BYTES_MAX: u64 = 512;
/// Small, so that every snapshot takes several pieces.
const PIECE_BYTES_MAX: usize = 96;

#[derive(Arbitrary, Debug)]
struct Case {
    written: Vec<Written>,
    /// How many disk operations of the last flush are performed before the end comes.
    operations: u8,
    end: End,
}

/// A persist, and whether those so far are flushed.
#[derive(Arbitrary, Debug)]
struct Written {
    /// How many entries are replaced.
    replaced: u8,
    payloads: Vec<u8>,
    is_new_term: bool,
    is_flushed: bool,
    then: Then,
}

/// What happens besides.
#[derive(Arbitrary, Debug)]
enum Then {
    Nothing,
    /// A snapshot is made, of the log up to some entries before its end, which needs some before that.
    Save {
        back: u8,
        kept: u8,
    },
    /// A leader sends one of more entries than there are, and some of those after its base.
    Install {
        ahead: u8,
        kept: u8,
        sent: u8,
    },
    Purge {
        back: u8,
    },
}

#[derive(Arbitrary, Debug)]
enum End {
    Crash { fates: Vec<u8> },
    Flip { file: u8, bit: u16 },
    Damage(Vec<Damage>),
}

#[derive(Arbitrary, Debug)]
enum Damage {
    Flip { file: u8, bit: u16 },
    Cut { file: u8, len: u16 },
    Overwrite { file: u8, offset: u16, bytes: Vec<u8> },
    Remove { file: u8 },
    Copy { from: u8, to: u8 },
}

/// The log as it was at some time.
#[derive(Clone, PartialEq, Debug, Default)]
struct State {
    hard_state: HardState,
    /// It begins after this.
    base: LogPosition,
    records: Vec<Record>,
}

impl State {
    fn last_index(&self) -> u64 {
        self.base.index.0 + self.records.len() as u64
    }

    fn at(&self, index: u64) -> Option<&Record> {
        let at = index.checked_sub(self.base.index.0 + 1)?;
        self.records.get(at as usize)
    }

    /// A place in it, if it is there.
    fn position(&self, index: LogIndex) -> Option<LogPosition> {
        let own = self.at(index.0).map(|record| LogPosition { term: record.term(), index });
        own.or((index == self.base.index).then_some(self.base))
    }
}

/// One run over the fuzzer's bytes.
pub fn run(bytes: &[u8]) {
    let Ok(case) = Case::arbitrary_take_rest(Unstructured::new(bytes)) else { return };
    let mut log = Log::new();
    for written in case.written.iter().take(64) {
        log.write(written);
        log.then(&written.then);
        if written.is_flushed {
            log.flush();
        }
    }
    let reached = log.flush_partly(case.operations.into());
    let Log { mut disk, states, snapshots, .. } = log;
    match case.end {
        End::Crash { fates } => {
            let mut fates = fates.iter().copied();
            disk.crash_with(|_, _| fate(fates.next().unwrap_or(0)));
            let opened = open(&mut disk).expect("a power failure makes no log unusable");
            let last_synced = states.len() - if reached { 2 } else { 1 };
            check_is_one_of(&opened, &states[last_synced..], &snapshots, &disk);
        }
        End::Flip { file, bit } => {
            // Only what is durable can rot; an unfinished flush is the other case.
            damage(&mut disk, &Damage::Flip { file, bit });
            if let Ok(opened) = open(&mut disk) {
                let lost_at_most = if reached { 3 } else { 2 };
                check_is_one_of(
                    &opened,
                    &states[states.len().saturating_sub(lost_at_most)..],
                    &snapshots,
                    &disk,
                );
            }
        }
        End::Damage(damages) => {
            for damaged in damages.iter().take(8) {
                damage(&mut disk, damaged);
            }
            if let Ok(opened) = open(&mut disk) {
                check_is_one_of(&opened, &states, &snapshots, &disk);
            }
        }
    }
}

/// The log, and what it looked like after each flush.
struct Log {
    disk: SimDisk,
    store: Store,
    jobs: u64,
    term: Term,
    present: State,
    /// After each persist that no flush has taken yet.
    waiting: VecDeque<(IoId, State)>,
    /// After each flush.
    states: Vec<State>,
    snapshots: Vec<Snapshot>,
    /// The last entry of the newest snapshot: nothing up to it is ever replaced.
    settled: u64,
    /// The log that the last installed snapshot was made of.
    leader: State,
}

impl Log {
    fn new() -> Self {
        let mut disk = SimDisk::with_sector_bytes(32);
        let members = vec![(NODE, "node-1:7400".to_owned())];
        let identity = Identity::founder(CLUSTER, GROUP, NODE, members);
        Store::format(&mut disk, &identity).expect("the disk is empty and works");
        let (store, _) = open(&mut disk).expect("it was just made");
        let states = vec![State::default()];
        let (present, waiting) = (State::default(), VecDeque::new());
        Self {
            disk,
            store,
            jobs: 0,
            term: Term(1),
            present,
            waiting,
            states,
            snapshots: Vec::new(),
            settled: 0,
            leader: State::default(),
        }
    }

    fn write(&mut self, written: &Written) {
        if written.is_new_term {
            self.term = self.term.next();
        }
        let last = self.present.last_index();
        let replaced_from = last.saturating_sub(written.replaced.into()).max(self.settled);
        let kept = if written.payloads.is_empty() { last } else { replaced_from.min(last) };
        let new: Vec<Record> = if last < self.settled {
            // What the snapshot stands for already comes as it was.
            self.leader.at(last + 1).into_iter().cloned().collect()
        } else {
            let new = written.payloads.iter().take(8).zip(kept + 1..);
            new.map(|(payload, index)| self.seal(index, *payload)).collect()
        };
        self.present.records.truncate((kept - self.present.base.index.0) as usize);
        // What is committed is never replaced, and a leader's log here may replace everything.
        self.persist(None, 0, new);
    }

    fn persist(&mut self, reset: Option<Reset>, commit: u64, new: Vec<Record>) {
        self.present.records.extend(new.iter().cloned());
        self.jobs += 1;
        // The vote tells one persist from every other.
        let voted_for = Some(NodeId(self.jobs));
        self.present.hard_state =
            HardState { term: self.term, voted_for, commit: LogIndex(commit) };
        let (io, hard_state) = (IoId(self.jobs), self.present.hard_state);
        self.store.persist(Persist { io, hard_state, reset: reset.map(Box::new), records: new });
        self.store.check_invariants();
        self.waiting.push_back((io, self.present.clone()));
    }

    fn then(&mut self, then: &Then) {
        let last = self.present.last_index();
        match then {
            Then::Nothing => {}
            Then::Save { back, kept } => {
                let index = last.saturating_sub(u64::from(back % 8));
                if index > self.settled {
                    let snapshot = snapshot(&self.present, index, (*kept % 8).into());
                    self.save(snapshot);
                }
            }
            Then::Install { ahead, kept, sent } => {
                self.term = self.term.next();
                let end = last.max(self.settled) + 1 + u64::from(ahead % 8);
                let records = (1..=end).map(|index| self.seal(index, 3)).collect();
                self.leader = State { records, ..State::default() };
                let snapshot = snapshot(&self.leader, end, (*kept % 8).into());
                let base = snapshot.meta.base;
                self.save(snapshot);
                self.present = State { base, ..State::default() };
                let first = base.index.0 + 1;
                let sent = (first..first + u64::from(sent % 8)).map_while(|at| self.leader.at(at));
                let sent = sent.cloned().collect();
                let reset = Reset { snapshot: LogIndex(end), base };
                self.persist(Some(reset), base.index.0, sent);
            }
            Then::Purge { back } => {
                let first = self.settled.saturating_sub((*back).into()) + 1;
                self.store.purge(LogIndex(first), &[], &[]);
                self.store.check_invariants();
            }
        }
    }

    fn save(&mut self, snapshot: Snapshot) {
        self.settled = snapshot.meta.last.index.0;
        self.snapshots.push(snapshot.clone());
        self.store.save_snapshot(snapshot);
    }

    fn seal(&self, index: u64, payload: u8) -> Record {
        let mut builder = RecordBuilder::default();
        builder.payload_mut().extend(std::iter::repeat_n(payload, payload.into()));
        let seed = ChecksumSeed::of(CLUSTER, GROUP);
        let index = LogIndex(index);
        builder.seal(seed, GROUP, index, self.term, Hlc(index.0), EntryKind::Commands)
    }

    fn next_flush(&mut self) -> Option<Job> {
        self.jobs += 1;
        self.store.next_write(JobId(self.jobs))
    }

    /// Flushes whatever waits; one flush may not take all of it.
    fn flush(&mut self) {
        while let Some(job) = self.next_flush() {
            job.perform(&mut self.disk).result.expect("the disk works");
            self.note_flush();
        }
    }

    /// Performs the first operations of one more flush, and says whether there was one. What it would
    /// have made durable is the last state then. A job without a flush makes no state durable.
    fn flush_partly(&mut self, operations: usize) -> bool {
        let Some(job) = self.next_flush() else { return false };
        for op in job.ops.iter().take(operations) {
            self.disk.perform(op).expect("the disk works");
        }
        self.note_flush()
    }

    fn note_flush(&mut self) -> bool {
        let written = self.store.write_done();
        self.store.check_invariants();
        let Some(io) = written.io else { return false };
        let flushed = self.waiting.iter().position(|(waiting, _)| *waiting == io);
        let flushed = flushed.expect("a flush ends with a persist that was waiting");
        let (_, state) = self.waiting.drain(..=flushed).next_back().expect("at least that one");
        self.states.push(state);
        true
    }
}

/// The snapshot that a node with this log makes, which needs `kept` entries before its end.
fn snapshot(log: &State, last: u64, kept: u64) -> Snapshot {
    let base = LogIndex(last.saturating_sub(kept).max(log.base.index.0));
    let position = |index| log.position(index).expect("within the log");
    let mut term_runs: Vec<(LogIndex, Term)> = Vec::new();
    for index in (base.0.max(1)..=last).map(LogIndex) {
        let term = position(index).term;
        if term_runs.last().is_none_or(|(_, run)| *run != term) {
            term_runs.push((index, term));
        }
    }
    let state = vec![last as u8; 70];
    let meta = SnapshotMeta {
        last: position(LogIndex(last)),
        stamp: Hlc(last),
        base: position(base),
        term_runs,
        membership: (LogIndex::ZERO, Membership::new(vec![NODE])),
        bytes: state.len() as u64,
        checksum: ChecksumSeed(0).checksum(&state),
    };
    Snapshot { meta, bytes: state.into() }
}

fn open(disk: &mut SimDisk) -> Result<(Store, Recovered), StorageError> {
    let limits = Limits {
        segment_bytes_max: SEGMENT_BYTES_MAX,
        snapshot_chunk_bytes_max: PIECE_BYTES_MAX,
        ..Limits::default()
    };
    Store::open(disk, CLUSTER, GROUP, NODE, &limits)
}

fn fate(byte: u8) -> Fate {
    match byte % 4 {
        0 => Fate::Lost,
        1 => Fate::Kept,
        2 => Fate::Prefix(u64::from(byte)),
        _ => Fate::Sectors((2..8).cycle().take(64).map(|bit| byte >> bit & 1 == 1).collect()),
    }
}

fn damage(disk: &mut SimDisk, damage: &Damage) {
    match damage {
        Damage::Flip { file, bit } => {
            if let Some((file, bytes)) = pick(disk, *file).filter(|(_, bytes)| !bytes.is_empty()) {
                let bit = usize::from(*bit) % (bytes.len() * 8);
                assert!(disk.flip_bit(file, (bit / 8) as u64, (bit % 8) as u32));
            }
        }
        Damage::Cut { file, len } => {
            if let Some((file, mut bytes)) = pick(disk, *file) {
                bytes.truncate((*len).into());
                disk.set_contents(file, bytes);
            }
        }
        Damage::Overwrite { file, offset, bytes: garbage } => {
            if let Some((file, mut bytes)) = pick(disk, *file) {
                let start = usize::from(*offset).min(bytes.len());
                let end = (start + garbage.len()).min(bytes.len());
                bytes.splice(start..end, garbage.iter().copied());
                disk.set_contents(file, bytes);
            }
        }
        Damage::Remove { file } => {
            if let Some((file, _)) = pick(disk, *file) {
                disk.perform(&DiskOp::Delete { file }).expect("the disk works");
            }
        }
        Damage::Copy { from, to } => {
            if let (Some((_, bytes)), Some((to, _))) = (pick(disk, *from), pick(disk, *to)) {
                disk.set_contents(to, bytes);
            }
        }
    }
}

/// One of the files that are there.
fn pick(disk: &mut SimDisk, which: u8) -> Option<(FileName, Vec<u8>)> {
    let files = disk.list().expect("the disk works");
    let (file, _) = files[usize::from(which).checked_rem(files.len())?];
    disk.contents(file).map(|bytes| (file, bytes.to_vec()))
}

/// The opened log is one that was, it reads back byte for byte, and it goes on from there.
fn check_is_one_of(
    opened: &(Store, Recovered),
    allowed: &[State],
    snapshots: &[Snapshot],
    disk: &SimDisk,
) {
    let (store, recovered) = opened;
    store.check_invariants();
    let mut disk = disk.clone();
    let base = recovered.base.index;
    let records: Vec<Record> = (base.0 + 1..=recovered.last_index.0)
        .map(|index| read(store, &mut disk, LogIndex(index)))
        .collect();
    let is_it = |state: &&State| {
        let kept = base.0.checked_sub(state.base.index.0).map(|gone| gone as usize);
        state.hard_state == recovered.hard_state
            && state.position(base) == Some(recovered.base)
            && kept.and_then(|kept| state.records.get(kept..)) == Some(&records)
    };
    let found = allowed.iter().any(|state| is_it(&state) || is_part_of(state, recovered, &records));
    assert!(found, "the log opened as it never was: {recovered:?}");
    match &recovered.snapshot {
        Some(snapshot) => {
            assert!(snapshots.contains(snapshot), "a snapshot that nobody made");
            assert!(base <= snapshot.meta.last.index, "entries are missing after the snapshot");
        }
        None => assert_eq!(base, LogIndex::ZERO, "nothing stands for the log's beginning"),
    }
    for record in &records {
        let run = recovered.term_runs.iter().rfind(|(first, _)| *first <= record.index());
        assert_eq!(run.map(|(_, term)| *term), Some(record.term()), "term_runs are wrong");
    }

    let (again, recovered_again) = open(&mut disk).expect("what opened once opens again");
    let recovered = Recovered { torn_bytes: 0, ..recovered.clone() };
    assert_eq!(recovered_again, recovered, "opening a log changed it");
    again.check_invariants();
}

/// Whether the disk has lost some of this log, and the node knows: it has nothing else, and knows where
/// the log ended.
fn is_part_of(state: &State, recovered: &Recovered, records: &[Record]) -> bool {
    let last = state.position(LogIndex(state.last_index())).unwrap_or_default();
    let has_snapshot_only =
        records.is_empty() && recovered.snapshot.as_ref().is_some_and(|it| it.meta.last >= last);
    state.hard_state == recovered.hard_state
        // A first segment or a snapshot that is gone leaves no trace but what was vouched for.
        && (!recovered.damaged.is_empty()
            || recovered.vouched > LogPosition::default()
            || has_snapshot_only)
        && (recovered.vouched >= last || has_snapshot_only)
        && records.iter().all(|record| {
            let own = state.at(record.index().0);
            own == Some(record) || record.index() <= state.base.index
        })
}

fn read(store: &Store, disk: &mut SimDisk, index: LogIndex) -> Record {
    let (job, plan) =
        store.plan_read_one(index, JobId(u64::MAX)).expect("all that opened is there");
    assert_eq!(job.lane, Lane::Read);
    let reads = job.perform(disk).result.expect("the disk works");
    let records = plan.decode(store.record_seed(), &reads).expect("it was verified when opened");
    records.into_iter().next().expect("one was asked for")
}
