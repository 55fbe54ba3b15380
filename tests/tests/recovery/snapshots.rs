//! Snapshots, purges and logs that begin anew, on a disk that lies.

use super::{CLUSTER, GROUP, NODE, SECTOR_BYTES_SMALL, SEGMENT_BYTES_SMALL, identity, record};
use bytes::Bytes;
use engine::hlc::Hlc;
use engine::ids::{LogIndex, NodeId, Term};
use engine::limits::Limits;
use engine::raft::{LogPosition, Membership, Reset, Snapshot, SnapshotMeta};
use engine::record::{ChecksumSeed, EntryKind, Record, RecordBuilder};
use engine::storage::disk::{Disk, DiskOp, FileName, JobId};
use engine::storage::{
    Damage, Damaged, HardState, Identity, IoId, Persist, Recovered, Scrubbed, SnapshotDamage,
    StorageError, Store, Written,
};
use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::Xoshiro256PlusPlus;
use sim::disk::{CrashMode, Fate, SimDisk};
use std::collections::VecDeque;

/// Pieces so small that every snapshot here takes several.
const PIECE_BYTES_SMALL: usize = 80;

fn limits(segment_bytes_max: u64) -> Limits {
    let snapshot_chunk_bytes_max = PIECE_BYTES_SMALL;
    Limits { segment_bytes_max, snapshot_chunk_bytes_max, ..Limits::default() }
}

fn open(disk: &mut SimDisk) -> Result<(Store, Recovered), StorageError> {
    let (mut store, recovered) =
        Store::open(disk, CLUSTER, GROUP, NODE, &limits(SEGMENT_BYTES_SMALL))?;
    assert_eq!(store.settle(&[]), []);
    Ok((store, recovered))
}

fn membership_record(index: u64, term: u64, payload: &[u8]) -> Record {
    let mut builder = RecordBuilder::default();
    builder.payload_mut().extend_from_slice(payload);
    let seed = ChecksumSeed::of(CLUSTER, GROUP);
    let hlc = Hlc(term * 1_000 + index);
    builder.seal(seed, GROUP, LogIndex(index), Term(term), hlc, EntryKind::Membership)
}

fn members(voters: &[u64]) -> Membership {
    Membership::new(voters.iter().map(|node| NodeId(*node)).collect())
}

/// A log as it should be.
#[derive(Clone, PartialEq, Default, Debug)]
struct Log {
    hard_state: HardState,
    /// It begins after this.
    base: LogPosition,
    /// The snapshot that it began with, unless it began with the first entry of all.
    began_with: Option<LogIndex>,
    records: Vec<Record>,
}

impl Log {
    fn apply(&mut self, persist: &Persist) {
        self.hard_state = persist.hard_state;
        if let Some(reset) = &persist.reset {
            self.base = reset.base;
            self.began_with = Some(reset.snapshot);
            self.records.clear();
        }
        if let Some(first) = persist.records.first() {
            self.records.truncate((first.index().0 - self.base.index.0) as usize - 1);
        }
        self.records.extend(persist.records.iter().cloned());
    }

    fn last_index(&self) -> LogIndex {
        LogIndex(self.base.index.0 + self.records.len() as u64)
    }

    fn at(&self, index: LogIndex) -> Option<&Record> {
        let at = index.0.checked_sub(self.base.index.0 + 1)?;
        self.records.get(at as usize)
    }

    fn position(&self, index: LogIndex) -> LogPosition {
        let term = match self.at(index) {
            Some(record) => record.term(),
            None => {
                assert_eq!(index, self.base.index, "an entry of the log");
                self.base.term
            }
        };
        LogPosition { term, index }
    }

    /// The snapshot that a node with this log makes.
    fn snapshot(&self, last: u64, base: u64, state_bytes: usize) -> Snapshot {
        let (last, base) = (LogIndex(last), LogIndex(base));
        let bytes: Vec<u8> = (0..state_bytes).map(|at| (at as u64 * 7 + last.0) as u8).collect();
        let mut term_runs: Vec<(LogIndex, Term)> = Vec::new();
        for index in (base.0.max(self.base.index.0)..=last.0).map(LogIndex) {
            let term = self.position(index).term;
            if term > Term::ZERO && term_runs.last().is_none_or(|(_, run)| *run != term) {
                term_runs.push((index, term));
            }
        }
        let meta = SnapshotMeta {
            last: self.position(last),
            stamp: self.at(last).map_or(Hlc::ZERO, Record::hlc),
            base: self.position(base),
            term_runs,
            membership: (LogIndex::ZERO, members(&[1])),
            bytes: bytes.len() as u64,
            checksum: ChecksumSeed(0).checksum(&bytes),
        };
        Snapshot { meta, bytes: Bytes::from(bytes) }
    }

    /// Checks that a log opened as this one.
    fn assert_opened_as(&self, store: &Store, recovered: &Recovered, disk: &mut SimDisk) {
        assert_eq!(recovered.last_index, self.last_index());
        let base = recovered.base;
        assert_eq!(base, self.position(base.index));
        let mut memberships = Vec::new();
        for index in base.index.0 + 1..=self.last_index().0 {
            let record = self.at(LogIndex(index)).expect("within the log");
            assert_eq!(read(store, disk, LogIndex(index)), *record);
            if record.kind() == EntryKind::Membership {
                let membership = Membership::decode(record.payload()).expect("made here");
                memberships.push((record.index(), membership));
            }
        }
        assert_eq!(recovered.memberships, memberships);
        for index in base.index.0.max(1)..=self.last_index().0 {
            let run = recovered.term_runs.iter().rfind(|(first, _)| first.0 <= index);
            assert_eq!(run.map(|(_, term)| *term), Some(self.position(LogIndex(index)).term));
        }
        assert!(recovered.term_runs.is_sorted_by(|a, b| a.0 < b.0 && a.1 < b.1));
        assert!(recovered.term_runs.iter().skip(1).all(|(first, _)| *first > base.index));
        let meta = recovered.snapshot.as_ref().map(|snapshot| &snapshot.meta);
        let meta = meta.filter(|meta| meta.last.index == self.last_index());
        let stamp = self.records.last().map(Record::hlc).or(meta.map(|meta| meta.stamp));
        assert_eq!(recovered.last_stamp, stamp.unwrap_or(Hlc::ZERO));
        assert!(store.plan_read_one(base.index, JobId(0)).is_none(), "what is purged is forgotten");
    }
}

fn read(store: &Store, disk: &mut SimDisk, index: LogIndex) -> Record {
    let (job, plan) = store.plan_read_one(index, JobId(0)).expect("it is in the log");
    let reads = job.perform(disk).result.expect("the disk works");
    plan.decode(store.record_seed(), &reads).expect("it was verified").remove(0)
}

/// A power failure, and what may be found after it.
struct Crash {
    disk: SimDisk,
    logs: Vec<Log>,
    /// The newest snapshot of the log's own that was durable.
    own: Option<LogIndex>,
}

/// A log with snapshots, being written.
struct Writer {
    disk: SimDisk,
    store: Store,
    next_io: u64,
    votes: u64,
    latest: Log,
    waiting: VecDeque<(IoId, Log)>,
    durable: Log,
    snapshots: Vec<Snapshot>,
    own: Option<LogIndex>,
    crashes: Vec<Crash>,
}

impl Writer {
    fn new() -> Self {
        let mut disk = SimDisk::with_sector_bytes(SECTOR_BYTES_SMALL);
        Store::format(&mut disk, &identity()).unwrap();
        let (store, _) = open(&mut disk).unwrap();
        Self {
            disk,
            store,
            next_io: 1,
            votes: 0,
            latest: Log::default(),
            waiting: VecDeque::new(),
            durable: Log::default(),
            snapshots: Vec::new(),
            own: None,
            crashes: Vec::new(),
        }
    }

    fn persist(&mut self, reset: Option<Reset>, term: u64, records: Vec<Record>) {
        let commit = records.first().map_or(self.latest.last_index(), |r| r.index().previous());
        // The vote tells one persist from every other.
        self.votes += 1;
        let voted_for = Some(NodeId(self.votes));
        let hard_state = HardState { term: Term(term), voted_for, commit };
        let persist =
            Persist { io: IoId(self.next_io), hard_state, reset: reset.map(Box::new), records };
        self.next_io += 1;
        self.latest.apply(&persist);
        self.waiting.push_back((persist.io, self.latest.clone()));
        let begins_anew = persist.reset.is_some();
        self.store.persist(persist);
        if begins_anew {
            assert_eq!(self.store.settle(&[]), []);
        }
        self.store.check_invariants();
    }

    fn append(&mut self, term: u64, first: u64, payload_lens: &[usize]) {
        let records = (first..).zip(payload_lens).map(|(index, len)| record(index, term, *len));
        self.persist(None, term, records.collect());
    }

    fn save(&mut self, snapshot: Snapshot) {
        self.snapshots.push(snapshot.clone());
        self.store.save_snapshot(snapshot);
    }

    /// Performs the next job, remembering the disk after each operation. None if nothing is to do.
    fn write(&mut self) -> Option<Written> {
        let job = self.store.next_write(JobId(1))?;
        assert_eq!(self.store.next_write(JobId(2)), None, "one job at a time");
        let (durable, own) = (self.durable.clone(), self.own);
        let mut disks = Vec::new();
        for op in &job.ops {
            self.disk.perform(op).unwrap();
            disks.push(self.disk.clone());
        }
        let written = self.store.write_done();
        self.store.check_invariants();
        while self.waiting.front().is_some_and(|(io, _)| Some(*io) <= written.io) {
            self.durable = self.waiting.pop_front().unwrap().1;
        }
        if written.snapshot.is_some_and(|index| self.durable.position_is(index)) {
            self.own = written.snapshot;
        }
        let last = disks.len() - 1;
        for (at, disk) in disks.into_iter().enumerate() {
            let crash = if at == last {
                Crash { disk, logs: vec![self.durable.clone()], own: self.own }
            } else {
                Crash { disk, logs: vec![durable.clone(), self.durable.clone()], own }
            };
            self.crashes.push(crash);
        }
        Some(written)
    }

    fn write_all(&mut self) {
        while self.write().is_some() {}
    }

    fn files(&mut self) -> Vec<FileName> {
        self.disk.list().unwrap().into_iter().map(|(file, _)| file).collect()
    }

    /// Ends the process and starts again.
    fn reopen(&mut self) -> Recovered {
        self.write_all();
        let (store, recovered) = open(&mut self.disk).unwrap();
        self.durable.assert_opened_as(&store, &recovered, &mut self.disk);
        self.store = store;
        self.next_io = 1;
        recovered
    }
}

impl Log {
    /// Whether a snapshot up to `index` is one that this log itself leads to.
    fn position_is(&self, index: LogIndex) -> bool {
        self.base.index <= index && index <= self.last_index()
    }
}

/// A leader's log: of other terms, and far longer.
fn leader_log() -> Log {
    let persist = Persist {
        io: IoId(1),
        hard_state: HardState::default(),
        reset: None,
        records: (1..=24).map(|index| record(index, 4 + index / 7, 4)).collect(),
    };
    let mut log = Log::default();
    log.apply(&persist);
    log
}

/// A log of several segments with a snapshot up to entry 4.
fn log_with_snapshot() -> Writer {
    let mut writer = Writer::new();
    writer.append(1, 1, &[3, 5]);
    writer.write_all();
    writer.append(1, 3, &[4]);
    writer.write_all();
    writer.append(2, 4, &[20]);
    writer.persist(None, 2, vec![membership_record(5, 2, &members(&[1, 2]).encode())]);
    writer.write_all();
    writer.save(writer.latest.snapshot(4, 0, 100));
    writer.write();
    writer.append(2, 6, &[7]);
    writer.write_all();
    writer
}

/// The same with a second snapshot, and without the entries that nobody needs.
fn purged_log() -> Writer {
    let mut writer = log_with_snapshot();
    writer.append(2, 7, &[8, 9]);
    writer.write_all();
    writer.save(writer.latest.snapshot(8, 3, 70));
    writer.write_all();
    writer.append(2, 9, &[30, 40]);
    writer.write_all();
    writer.append(3, 9, &[3, 50]);
    writer.append(3, 11, &[8]);
    writer.write_all();
    writer.store.purge(LogIndex(5), &[], &[]);
    writer.write_all();
    writer
}

/// The same after a leader's snapshot was installed: the log begins anew after entry 16.
fn installed_log() -> Writer {
    let mut writer = purged_log();
    let leader = leader_log();
    let snapshot = leader.snapshot(20, 16, 150);
    let reset = Reset { snapshot: LogIndex(20), base: snapshot.meta.base };
    writer.append(3, 12, &[8]);
    writer.save(snapshot);
    writer.persist(Some(reset), 8, Vec::new());
    writer.persist(None, 8, leader.records[16..18].to_vec());
    writer.write_all();
    writer
}

#[test]
fn power_failure_at_any_operation_leaves_a_log_and_a_snapshot_that_belong_together() {
    let mut writer = installed_log();
    writer.persist(None, 8, leader_log().records[18..22].to_vec());
    writer.write_all();
    writer.save(writer.latest.snapshot(21, 17, 90));
    writer.append(9, 23, &[1]);
    writer.write_all();
    writer.store.purge(LogIndex(19), &[], &[]);
    writer.write_all();
    assert!(writer.crashes.len() > 80, "{} crashes", writer.crashes.len());
    let mut resets = 0;
    let mut states = 0;
    for Crash { disk, logs, own } in &writer.crashes {
        for left in disk.crash_states() {
            let log = assert_belongs_together(left, logs, *own, &writer.snapshots);
            resets += usize::from(log.began_with.is_some());
            states += 1;
        }
    }
    assert!(states > 500, "{states} states are too few to mean anything");
    assert!(resets > 100, "{resets}");
}

/// Opens what a power failure left and checks it; returns the log that it is.
fn assert_belongs_together<'a>(
    mut disk: SimDisk,
    logs: &'a [Log],
    own: Option<LogIndex>,
    snapshots: &[Snapshot],
) -> &'a Log {
    let (store, recovered) = open(&mut disk).expect("a power failure damages nothing durable");
    store.check_invariants();
    let log = logs.iter().find(|log| log.hard_state == recovered.hard_state);
    let log = log.expect("the hard state is one that was persisted");
    log.assert_opened_as(&store, &recovered, &mut disk);
    match &recovered.snapshot {
        Some(snapshot) => {
            assert!(snapshots.contains(snapshot), "every byte as it was handed over");
            let last = snapshot.meta.last;
            assert!(recovered.base.index <= last.index);
            assert!(log.began_with.is_none_or(|index| index <= last.index));
            if last.index <= log.last_index() {
                assert_eq!(log.position(last.index), last, "of another log");
                assert!(log.began_with.is_some() || Some(last.index) >= own);
            } else {
                assert_eq!(log.began_with, Some(last.index));
            }
        }
        None => assert_eq!((own, log.began_with, recovered.base.index.0), (None, None, 0)),
    }
    let recovered_last = recovered.snapshot.as_ref().map_or(LogIndex::ZERO, |s| s.meta.last.index);
    disk.crash_with(|_, _| Fate::Lost);
    let (mut store, again) = open(&mut disk).expect("it opened before");
    assert_eq!(again, Recovered { torn_bytes: 0, ..recovered }, "what was recovered is durable");
    if recovered_last > log.last_index() {
        return log;
    }
    // A term that nobody had: an entry is what its index and term say it is.
    let term = Term(log.hard_state.term.0 + 1_000);
    let next = record(log.last_index().0 + 1, term.0, 4);
    let hard_state = HardState { term, ..HardState::default() };
    store.persist(Persist { io: IoId(1), hard_state, reset: None, records: vec![next.clone()] });
    while let Some(job) = store.next_write(JobId(1)) {
        job.perform(&mut disk).result.unwrap();
        store.write_done();
    }
    disk.crash_with(|_, _| Fate::Lost);
    let (store, recovered) = open(&mut disk).expect("the log goes on");
    assert_eq!(recovered.last_index, next.index());
    assert_eq!(read(&store, &mut disk, next.index()), next);
    log
}

fn snapshot_files(writer: &mut Writer) -> Vec<FileName> {
    let mut files = writer.files();
    files.retain(|file| matches!(file, FileName::Snapshot(_) | FileName::SnapshotTemporary));
    files
}

#[test]
fn purged_segments_are_gone_and_the_log_opens_without_them() {
    let mut writer = purged_log();
    let files = writer.files();
    assert!(!files.contains(&FileName::Segment(1)), "{files:?}");
    assert!(writer.store.plan_read_one(LogIndex(4), JobId(0)).is_none());
    let recovered = writer.reopen();
    assert_eq!(recovered.snapshot.as_ref(), writer.snapshots.last());
    assert_eq!(recovered.base, LogPosition { term: Term(1), index: LogIndex(3) });
    let files = writer.files();
    let segments = files.iter().filter(|file| matches!(file, FileName::Segment(_))).count();
    assert_eq!(writer.store.segments(), segments as u64);
    let members = recovered.memberships.first().map(|(index, _)| *index);
    assert_eq!(members, Some(LogIndex(5)));
}

#[test]
fn a_purge_leaves_what_the_older_snapshot_needs_and_the_last_hard_state() {
    let mut writer = log_with_snapshot();
    writer.append(2, 7, &[8, 9]);
    writer.write_all();
    writer.store.purge(LogIndex(8), &[], &[]);
    writer.write_all();
    let recovered = writer.reopen();
    assert!(recovered.base.index <= LogIndex(4), "{:?}", recovered.base);
    // Votes alone, in a segment of their own: its predecessors hold the entries, and may go.
    let last = writer.latest.last_index();
    for term in 20..30 {
        writer.append(term, last.0 + 1, &[]);
        writer.write_all();
    }
    writer.append(31, last.0 + 1, &[200]);
    for index in last.0..=last.0 + 1 {
        writer.save(writer.latest.snapshot(index, index, 10));
        writer.write_all();
    }
    writer.store.purge(last.next(), &[], &[]);
    writer.write_all();
    assert_eq!(writer.store.segments(), 1);
    assert_eq!(writer.reopen().hard_state.term, Term(31));
}

#[test]
fn a_membership_that_was_cut_off_counts_no_more() {
    let mut writer = log_with_snapshot();
    assert_eq!(writer.reopen().memberships, [(LogIndex(5), members(&[1, 2]))]);
    writer.append(4, 5, &[1]);
    assert_eq!(writer.reopen().memberships, []);
}

#[test]
fn a_membership_that_this_build_cannot_read_is_refused_with_an_upgrade() {
    let mut writer = log_with_snapshot();
    writer.persist(None, 2, vec![membership_record(7, 2, b"from the future")]);
    writer.write_all();
    let error = open(&mut writer.disk).unwrap_err();
    assert!(matches!(error, StorageError::UnknownMembership { index: LogIndex(7), .. }), "{error}");
}

#[test]
fn a_log_that_began_anew_opens_with_its_snapshot_and_nothing_of_the_old_one() {
    let mut writer = installed_log();
    let recovered = writer.reopen();
    assert_eq!(recovered.snapshot.as_ref(), writer.snapshots.last());
    assert_eq!(recovered.base, leader_log().position(LogIndex(16)));
    assert_eq!(recovered.last_index, LogIndex(18));
    assert_eq!(writer.store.segments(), 1, "the old segments are gone");
    assert_eq!(recovered.hard_state.term, Term(8));
}

#[test]
fn a_snapshot_that_came_before_a_power_failure_spared_the_log_is_left_alone() {
    let mut writer = purged_log();
    let own = writer.snapshots.last().cloned();
    writer.save(leader_log().snapshot(20, 16, 150));
    writer.write_all();
    assert!(writer.files().contains(&FileName::Snapshot(LogIndex(20))));
    assert_eq!(writer.reopen().snapshot, own);
    let again = leader_log().snapshot(20, 16, 150);
    writer.save(again.clone());
    let reset = Reset { snapshot: LogIndex(20), base: again.meta.base };
    writer.persist(Some(reset), 8, Vec::new());
    assert_eq!(writer.reopen().snapshot, Some(again));
}

#[test]
fn a_damaged_snapshot_is_never_served_and_the_older_one_takes_its_place() {
    let writer = purged_log();
    let (newest, older) = (FileName::Snapshot(LogIndex(8)), writer.snapshots[0].clone());
    let len = writer.disk.contents(newest).unwrap().len() as u64;
    for (offset, bit) in (0..len).flat_map(|offset| (0..8).map(move |bit| (offset, bit))) {
        let mut disk = writer.disk.clone();
        assert!(disk.flip_bit(newest, offset, bit));
        let (store, recovered) = open(&mut disk).unwrap();
        assert_eq!(recovered.snapshot.as_ref(), Some(&older), "bit {bit} of byte {offset}");
        writer.durable.assert_opened_as(&store, &recovered, &mut disk);
    }
    for bytes in [vec![], vec![0; 200], [writer.disk.contents(newest).unwrap(), b"x"].concat()] {
        let mut disk = writer.disk.clone();
        disk.set_contents(newest, bytes);
        assert_eq!(open(&mut disk).unwrap().1.snapshot.as_ref(), Some(&older));
    }
}

/// SCENARIO 21: the same in snapshot files, with nothing left to fall back on.
#[test]
fn a_node_that_has_lost_all_its_snapshots_waits_for_one_and_forgets_no_promise() {
    let mut writer = purged_log();
    let (newest, older) = (FileName::Snapshot(LogIndex(8)), FileName::Snapshot(LogIndex(4)));
    let last = writer.durable.position(writer.durable.last_index());
    let len = writer.disk.contents(newest).unwrap().len() as u64;
    writer.disk.flip_bit(newest, len - 1, 0);
    writer.disk.perform(&DiskOp::Delete { file: older }).unwrap();
    for is_gone in [false, true] {
        if is_gone {
            writer.disk.perform(&DiskOp::Delete { file: newest }).unwrap();
        }
        for _ in 0..2 {
            let (store, recovered) = open(&mut writer.disk).unwrap();
            store.check_invariants();
            assert_eq!((recovered.snapshot, recovered.last_index), (None, LogIndex::ZERO));
            assert_eq!((recovered.vouched, recovered.base), (last, LogPosition::default()));
            assert_eq!(recovered.hard_state, writer.durable.hard_state);
            let state = Damage::Snapshot(SnapshotDamage::State);
            let damage = Damaged { file: newest, offset: 0, damage: state };
            assert_eq!(recovered.damaged.contains(&damage), !is_gone);
        }
    }
    // A leader's snapshot comes, and then the entries after it.
    let leader = leader_log();
    let (mut store, _) = open(&mut writer.disk).unwrap();
    let snapshot = leader.snapshot(10, 10, 50);
    let reset = Reset { snapshot: LogIndex(10), base: snapshot.meta.base };
    let hard_state = HardState { term: Term(7), ..HardState::default() };
    store.save_snapshot(snapshot.clone());
    let persist = |io, reset, records| Persist { io: IoId(io), hard_state, reset, records };
    store.persist(persist(1, Some(Box::new(reset)), Vec::new()));
    write_all(&mut store, &mut writer.disk);
    let (mut store, recovered) = open(&mut writer.disk).unwrap();
    assert_eq!(recovered.snapshot, Some(snapshot));
    assert_eq!(recovered.vouched, LogPosition::default(), "entry 10 is of a later term");
    store.persist(persist(1, None, leader.records[10..12].to_vec()));
    write_all(&mut store, &mut writer.disk);
    assert_eq!(open(&mut writer.disk).unwrap().1.last_index, LogIndex(12));
}

fn write_all(store: &mut Store, disk: &mut SimDisk) {
    while let Some(job) = store.next_write(JobId(1)) {
        job.perform(disk).result.unwrap();
        store.write_done();
    }
    disk.crash_with(|_, _| Fate::Lost);
}

/// Looks at everything once; says what was found.
fn scrub(store: &mut Store, disk: &mut SimDisk) -> Vec<Scrubbed> {
    let mut found = Vec::new();
    while let Some((job, plan)) = store.plan_scrub(JobId(1)) {
        let reads = job.perform(disk).result.unwrap();
        match store.take_scrubbed(&plan, &reads) {
            Scrubbed::Whole => {}
            other => found.push(other),
        }
    }
    found
}

#[test]
fn a_look_over_the_store_finds_every_flipped_bit_that_matters() {
    let mut writer = purged_log();
    assert_eq!(scrub(&mut writer.store, &mut writer.disk), []);
    for index in [4, 8] {
        let file = FileName::Snapshot(LogIndex(index));
        let len = writer.disk.contents(file).unwrap().len() as u64;
        for offset in len - 60..len {
            let mut disk = writer.disk.clone();
            assert!(disk.flip_bit(file, offset, 2));
            let found = scrub(&mut writer.store, &mut disk);
            assert_eq!(found, [Scrubbed::Snapshot(LogIndex(index))], "byte {offset} of {file}");
        }
    }
    for index in (5..=11).map(LogIndex) {
        let (job, _) = writer.store.plan_read_one(index, JobId(1)).unwrap();
        let [DiskOp::Read { file, offset, len }] = job.ops[..] else { panic!("one read") };
        for at in 0..len as u64 {
            let mut disk = writer.disk.clone();
            assert!(disk.flip_bit(file, offset + at, 2));
            let (mut store, _) = open(&mut writer.disk.clone()).unwrap();
            assert_eq!(scrub(&mut store, &mut disk), [Scrubbed::Record(index)]);
            assert_eq!(store.plan_read_one(index, JobId(1)), None, "it is not there any more");
        }
    }
}

#[test]
fn a_damaged_first_snapshot_is_made_good_by_a_log_that_is_whole() {
    let mut writer = log_with_snapshot();
    assert!(writer.disk.flip_bit(FileName::Snapshot(LogIndex(4)), 100, 0));
    let recovered = writer.reopen();
    assert_eq!((recovered.snapshot, recovered.base), (None, LogPosition::default()));
}

#[test]
fn an_installed_snapshot_that_rots_before_the_log_has_reached_it_is_missed() {
    let mut writer = installed_log();
    let file = FileName::Snapshot(LogIndex(20));
    assert!(writer.files().contains(&FileName::Snapshot(LogIndex(8))), "the older one is there");
    let mut rotten = writer.disk.clone();
    assert!(rotten.flip_bit(file, 200, 0));
    writer.disk.perform(&DiskOp::Delete { file }).unwrap();
    for disk in [&mut rotten, &mut writer.disk] {
        let recovered = open(disk).unwrap().1;
        assert_eq!(recovered.snapshot.map(|it| it.meta.last.index), Some(LogIndex(8)));
        assert_eq!(recovered.last_index, LogIndex(8), "what came after the reset is of no use");
        assert_eq!(recovered.vouched, LogPosition { term: Term(6), index: LogIndex(20) });
    }
}

#[test]
fn an_older_snapshot_is_no_substitute_for_one_that_stands_for_more_than_the_log_holds() {
    let mut writer = purged_log();
    let mut leader = writer.latest.clone();
    leader.records.extend((12..=20).map(|index| record(index, 8, 4)));
    let reset = Reset { snapshot: LogIndex(20), base: leader.position(LogIndex(6)) };
    writer.save(leader.snapshot(20, 6, 50));
    writer.persist(Some(reset), 8, leader.records[6..9].to_vec());
    writer.write_all();
    let mut rotten = writer.disk.clone();
    assert!(rotten.flip_bit(FileName::Snapshot(LogIndex(20)), 100, 0));
    let recovered = open(&mut rotten).unwrap().1;
    assert_eq!(recovered.snapshot.map(|it| it.meta.last.index), Some(LogIndex(8)));
    assert_eq!(recovered.vouched, leader.position(LogIndex(20)));
    // Once the log has all of it again, nothing is missing.
    writer.persist(None, 8, leader.records[9..20].to_vec());
    writer.write_all();
    assert!(writer.disk.flip_bit(FileName::Snapshot(LogIndex(20)), 100, 0));
    let older = writer.snapshots[1].clone();
    assert_eq!(writer.reopen().snapshot, Some(older));
}

#[test]
fn a_segment_without_a_flush_does_not_take_the_place_of_the_one_with_the_hard_state() {
    let mut writer = log_with_snapshot();
    let last = writer.latest.last_index();
    for index in last.0 - 1..=last.0 {
        writer.save(writer.latest.snapshot(index, index, 10));
        writer.write_all();
    }
    writer.append(9, last.0 + 1, &[]);
    writer.write_all();
    writer.append(9, last.0 + 1, &[250]);
    let job = writer.store.next_write(JobId(1)).unwrap();
    let [DiskOp::Write { file, offset: 0, .. }, ..] = job.ops[..] else { panic!("a new segment") };
    job.ops.iter().take(3).for_each(|op| assert!(writer.disk.perform(op).is_ok()));
    let (store, _) = open(&mut writer.disk).unwrap();
    writer.store = store;
    writer.store.purge(last.next(), &[], &[]);
    while let Some(job) = writer.store.next_write(JobId(1)) {
        job.perform(&mut writer.disk).result.unwrap();
        writer.store.write_done();
    }
    assert!(writer.files().contains(&file));
    assert_eq!(open(&mut writer.disk).unwrap().1.hard_state.term, Term(9));
}

#[test]
fn an_unfinished_snapshot_is_cleared_away_and_does_not_stick_out_of_the_next() {
    let mut writer = log_with_snapshot();
    writer.disk.set_contents(FileName::SnapshotTemporary, vec![7; 5_000]);
    writer.reopen();
    assert_eq!(snapshot_files(&mut writer), [FileName::Snapshot(LogIndex(4))]);
    let snapshot = writer.latest.snapshot(5, 0, 20);
    writer.save(snapshot.clone());
    assert_eq!(writer.reopen().snapshot, Some(snapshot));
}

#[test]
fn a_foreign_snapshot_is_refused_and_a_renamed_one_is_damage() {
    let mut writer = purged_log();
    let newest = FileName::Snapshot(LogIndex(8));
    let older = writer.disk.contents(FileName::Snapshot(LogIndex(4))).unwrap().to_vec();
    let mut disk = writer.disk.clone();
    disk.set_contents(newest, older.clone());
    disk.perform(&DiskOp::Delete { file: FileName::Snapshot(LogIndex(4)) }).unwrap();
    let recovered = open(&mut disk).unwrap().1;
    let damage = Damage::Snapshot(SnapshotDamage::Name { found: LogIndex(4) });
    assert_eq!(recovered.damaged, [Damaged { file: newest, offset: 0, damage }]);
    assert_eq!((recovered.snapshot, recovered.last_index), (None, LogIndex::ZERO));

    let mut other = SimDisk::new();
    let node = NodeId(2);
    Store::format(&mut other, &Identity { node, ..identity() }).unwrap();
    let mut other = Store::open(&mut other, CLUSTER, GROUP, node, &Limits::default()).unwrap().0;
    other.save_snapshot(writer.snapshots[1].clone());
    let mut theirs = SimDisk::new();
    other.next_write(JobId(1)).unwrap().perform(&mut theirs).result.unwrap();
    writer.disk.set_contents(newest, theirs.contents(newest).unwrap().to_vec());
    let error = open(&mut writer.disk).unwrap_err();
    assert!(matches!(error, StorageError::Foreign { file, .. } if file == newest), "{error}");
}

#[test]
fn a_large_snapshot_goes_in_pieces_that_commits_wait_for_one_at_a_time() {
    let mut writer = log_with_snapshot();
    let snapshot = writer.latest.snapshot(5, 0, 1_000);
    writer.save(snapshot.clone());
    let mut pieces = 0;
    for index in 7.. {
        writer.append(2, index, &[1]);
        let io = IoId(writer.next_io - 1);
        let before = writer.crashes.len();
        let written = writer.write().unwrap();
        assert_eq!(written.io, Some(io), "no commit waits for the snapshot");
        let operations = writer.crashes.len() - before;
        assert!(operations <= 11, "{operations} operations");
        pieces += 1;
        if written.snapshot.is_some() {
            break;
        }
    }
    assert!(pieces > 1_000 / PIECE_BYTES_SMALL, "{pieces} pieces");
    assert_eq!(writer.reopen().snapshot, Some(snapshot));
}

#[test]
fn a_newer_snapshot_takes_the_place_of_one_that_waits_unless_a_reset_names_that_one() {
    let mut writer = log_with_snapshot();
    writer.append(2, 7, &[8, 9]);
    writer.write_all();
    writer.save(writer.latest.snapshot(5, 0, 200));
    writer.write();
    writer.save(writer.latest.snapshot(6, 0, 200));
    writer.save(writer.latest.snapshot(7, 0, 200));
    let mut saved = Vec::new();
    while let Some(written) = writer.write() {
        saved.extend(written.snapshot);
    }
    assert_eq!(saved, [LogIndex(5), LogIndex(7)]);
    let (leader, mut saved) = (leader_log(), Vec::new());
    let reset = Reset { snapshot: LogIndex(20), base: leader.position(LogIndex(16)) };
    writer.save(leader.snapshot(20, 16, 50));
    writer.persist(Some(reset), 8, leader.records[16..22].to_vec());
    writer.save(writer.latest.snapshot(21, 16, 50));
    while let Some(written) = writer.write() {
        saved.extend(written.snapshot);
    }
    assert_eq!(saved, [LogIndex(20), LogIndex(21)]);
    assert_eq!(snapshot_files(&mut writer).len(), 2);
}

#[test]
fn a_snapshot_waits_for_the_entries_that_it_was_made_from() {
    let mut writer = log_with_snapshot();
    for index in 7..12 {
        writer.append(2, index, &[150]);
    }
    writer.save(writer.latest.snapshot(11, 0, 10));
    while let Some(written) = writer.write() {
        assert!(written.snapshot.is_none_or(|index| index <= writer.durable.last_index()));
    }
    assert_eq!(writer.own, Some(LogIndex(11)));
}

#[test]
fn a_saved_snapshot_is_read_in_pieces_and_one_that_is_gone_is_not() {
    let mut writer = log_with_snapshot();
    let snapshot = writer.snapshots[0].clone();
    let read = |writer: &mut Writer, index, offset, len| {
        let job = writer.store.plan_snapshot_read(LogIndex(index), offset, len, JobId(9))?;
        Some(job.perform(&mut writer.disk).result.unwrap().remove(0))
    };
    assert_eq!(read(&mut writer, 4, 0, 60).unwrap(), snapshot.bytes[..60]);
    assert_eq!(read(&mut writer, 4, 60, 1_000).unwrap(), snapshot.bytes[60..]);
    assert_eq!(read(&mut writer, 4, 100, 8).unwrap(), Bytes::new());
    assert_eq!(read(&mut writer, 4, u64::MAX, 8).unwrap(), Bytes::new());
    assert_eq!(read(&mut writer, 5, 0, 8), None);
    writer.reopen();
    assert_eq!(read(&mut writer, 4, 60, 30).unwrap(), snapshot.bytes[60..90]);
    for last in [5, 6] {
        writer.save(writer.latest.snapshot(last, 0, 10));
        writer.write_all();
    }
    assert_eq!(read(&mut writer, 4, 0, 8), None);
    assert!(!writer.store.keeps(FileName::Snapshot(LogIndex(4))));
    assert_eq!(snapshot_files(&mut writer).len(), 2, "two generations");
}

#[test]
fn a_deletion_that_a_power_failure_undoes_does_no_harm() {
    let mut writer = installed_log();
    let mut disk = writer.disk.clone();
    for before in writer.crashes.iter().map(|crash| &crash.disk) {
        // Whatever the newest files are, the oldest segment that ever went comes back.
        let files = writer.disk.list().unwrap();
        let (file, _) =
            files.iter().find(|(file, _)| matches!(file, FileName::Segment(_))).unwrap();
        let FileName::Segment(first) = *file else { unreachable!() };
        let back = FileName::Segment(first - 1);
        if let Some(bytes) = before.contents(back) {
            disk.set_contents(back, bytes.to_vec());
        }
    }
    assert_eq!(disk.list().unwrap().len(), writer.disk.list().unwrap().len() + 1);
    let recovered = open(&mut disk).unwrap().1;
    assert_eq!(recovered, writer.reopen());
    let (mut store, _) = open(&mut disk).unwrap();
    store.next_write(JobId(1)).unwrap().perform(&mut disk).result.unwrap();
    store.write_done();
    assert_eq!(disk.list().unwrap(), writer.disk.list().unwrap(), "it goes again");
}

#[test]
fn a_directory_with_a_snapshot_is_never_formatted() {
    let mut writer = log_with_snapshot();
    for file in writer.files() {
        if !matches!(file, FileName::Snapshot(_)) {
            writer.disk.perform(&DiskOp::Delete { file }).unwrap();
        }
    }
    let file = FileName::Snapshot(LogIndex(4));
    assert_eq!(Store::format(&mut writer.disk, &identity()), Err(StorageError::NotEmpty { file }));
}

/// One step of a random workload.
#[derive(Clone, Debug)]
enum Step {
    /// Append records of these payload lengths, `back` entries before the log's end.
    Append { back: u64, payload_lens: Vec<usize> },
    /// Make a snapshot this far before the log's end, that needs the log this far back.
    Save { back: u64, kept: u64, state_bytes: usize },
    /// Get a leader's snapshot this far beyond the log's end, and some of the entries after its base.
    Install { ahead: u64, kept: u64, sent: u64, state_bytes: usize },
    /// Let go of entries up to this far before the newest snapshot's end.
    Purge { back: u64 },
    /// Perform so many jobs.
    Write { jobs: usize },
    /// Perform a part of a job, lose the power, and start again.
    Restart { operations: usize, power_failure: Option<u64> },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let lens = proptest::collection::vec(0_usize..120, 0..4);
    let append =
        (0_u64..3, lens).prop_map(|(back, payload_lens)| Step::Append { back, payload_lens });
    let save = (0_u64..4, 0_u64..6, 0_usize..300)
        .prop_map(|(back, kept, state_bytes)| Step::Save { back, kept, state_bytes });
    let install = (1_u64..6, 0_u64..6, 0_u64..8, 0_usize..300).prop_map(
        |(ahead, kept, sent, state_bytes)| Step::Install { ahead, kept, sent, state_bytes },
    );
    let restart = (0_usize..12, any::<Option<u64>>())
        .prop_map(|(operations, power_failure)| Step::Restart { operations, power_failure });
    let step = prop_oneof![
        6 => append,
        2 => save,
        1 => install,
        1 => (0_u64..4).prop_map(|back| Step::Purge { back }),
        4 => (1_usize..6).prop_map(|jobs| Step::Write { jobs }),
        2 => restart,
    ];
    proptest::collection::vec(step, 1..60)
}

/// A random workload beside its reference.
struct Model {
    writer: Writer,
    term: u64,
    /// The last entry of the newest snapshot that was handed over: nothing up to it is ever replaced.
    settled: u64,
    /// The logs that leaders made snapshots of.
    leaders: Vec<(LogPosition, Log)>,
}

impl Model {
    fn run(steps: &[Step]) {
        let (writer, leaders) = (Writer::new(), Vec::new());
        let mut model = Self { writer, term: 1, settled: 0, leaders };
        for step in steps {
            model.take(step);
            model.writer.crashes.clear();
        }
        model.restart(0, None);
    }

    fn take(&mut self, step: &Step) {
        let last = self.writer.latest.last_index().0;
        match step {
            Step::Append { .. } if last < self.settled => self.catch_up(),
            Step::Append { back, payload_lens } => {
                let next = (last + 1).saturating_sub(*back).max(self.settled + 1);
                self.term += u64::from(next <= last);
                self.writer.append(self.term, next, payload_lens);
            }
            Step::Save { back, kept, state_bytes } => {
                let index = last.saturating_sub(*back);
                if index > self.settled && index > self.writer.latest.base.index.0 {
                    let base = index.saturating_sub(*kept).max(self.writer.latest.base.index.0);
                    self.writer.save(self.writer.latest.snapshot(index, base, *state_bytes));
                    self.settled = index;
                }
            }
            Step::Install { ahead, kept, sent, state_bytes } => {
                self.term += 1;
                self.install(last.max(self.settled) + ahead, *kept, *sent, *state_bytes);
            }
            Step::Purge { back } => {
                let first = LogIndex(self.settled.saturating_sub(*back) + 1);
                self.writer.store.purge(first, &[], &[]);
                self.writer.store.check_invariants();
            }
            Step::Write { jobs } => for _ in (0..*jobs).map_while(|_| self.writer.write()) {},
            Step::Restart { operations, power_failure } => {
                self.restart(*operations, *power_failure);
            }
        }
    }

    fn install(&mut self, last: u64, kept: u64, sent: u64, state_bytes: usize) {
        let records = (1..=last + sent).map(|index| record(index, self.term, 8)).collect();
        let leader = Log { records, ..Log::default() };
        let snapshot = leader.snapshot(last, last.saturating_sub(kept), state_bytes);
        let base = snapshot.meta.base;
        let reset = Reset { snapshot: LogIndex(last), base };
        self.leaders.push((snapshot.meta.last, leader.clone()));
        self.writer.save(snapshot);
        let end = base.index.0 + sent;
        let records = leader.records[base.index.0 as usize..end as usize].to_vec();
        self.writer.persist(Some(reset), self.term, records);
        self.settled = last;
    }

    /// What a snapshot stands for already comes as it was.
    fn catch_up(&mut self) {
        let (_, leader) = self.leaders.last().expect("only an installed snapshot is ahead");
        let next =
            leader.at(self.writer.latest.last_index().next()).expect("it is in the snapshot");
        self.writer.persist(None, self.term, vec![next.clone()]);
    }

    fn restart(&mut self, operations: usize, power_failure: Option<u64>) {
        let writer = &mut self.writer;
        if let Some(job) = writer.store.next_write(JobId(1)) {
            for op in job.ops.iter().take(operations) {
                writer.disk.perform(op).unwrap();
            }
        }
        if let Some(seed) = power_failure {
            let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
            writer.disk.crash(CrashMode::Random, &mut rng);
        }
        let mut logs = vec![writer.durable.clone()];
        logs.extend(writer.waiting.drain(..).map(|(_, log)| log));
        let log =
            assert_belongs_together(writer.disk.clone(), &logs, writer.own, &writer.snapshots);
        self.term += 1;
        writer.latest = log.clone();
        writer.durable = log.clone();
        let (store, recovered) = open(&mut writer.disk).unwrap();
        writer.store = store;
        writer.next_io = 1;
        let last = recovered.snapshot.map(|snapshot| snapshot.meta.last);
        let newest = last.map(|last| last.index);
        self.settled = newest.map_or(0, |index| index.0);
        while self.leaders.last().is_some_and(|(position, _)| Some(*position) > last) {
            self.leaders.pop();
        }
        writer.own = newest.filter(|index| writer.durable.position_is(*index));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(256) })]

    #[test]
    fn any_workload_with_snapshots_recovers_a_log_and_a_snapshot_that_belong_together(
        steps in steps(),
    ) {
        Model::run(&steps);
    }
}
