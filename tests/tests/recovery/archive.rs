//! What outlives the log: archived entries, the cleaning of old segments, and the space that is left.

use super::{CLUSTER, GROUP, NODE, identity, record};
use bytes::Bytes;
use engine::hlc::Hlc;
use engine::ids::{LogIndex, NodeId, Term};
use engine::limits::Limits;
use engine::raft::{LogPosition, Membership, Reset, Snapshot, SnapshotMeta};
use engine::record::{ChecksumSeed, Record};
use engine::storage::disk::{Disk, DiskOp, FileName, Job, JobId};
use engine::storage::format::{EntrySpan, FlushHeader, Owner, Place, SEGMENT_HEADER_BYTES};
use engine::storage::{CleaningPlan, HardState, IoId, Persist, Recovered, Store};
use proptest::prelude::*;
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use sim::disk::{CrashMode, SimDisk};
use std::collections::{BTreeMap, BTreeSet};

/// Segments that a few entries fill.
const SEGMENT_BYTES: u64 = 2_048;
const TERM: Term = Term(1);

fn limits(segment_bytes_max: u64) -> Limits {
    Limits { segment_bytes_max, slack_bytes: 2 * segment_bytes_max, ..Limits::default() }
}

/// Every entry is committed as soon as it is in the log, and what it says follows from its index.
fn entry(index: u64) -> Record {
    record(index, TERM.0, (index * 89 % 400) as usize)
}

fn open(disk: &mut SimDisk, segment_bytes_max: u64) -> (Store, Recovered) {
    Store::open(disk, CLUSTER, GROUP, NODE, &limits(segment_bytes_max)).unwrap()
}

fn snapshot(last: u64, base: u64) -> Snapshot {
    let bytes = vec![last as u8; 30];
    let position = |index| LogPosition {
        term: if index > 0 { TERM } else { Term::ZERO },
        index: LogIndex(index),
    };
    let meta = SnapshotMeta {
        last: position(last),
        stamp: Hlc(last),
        base: position(base),
        term_runs: vec![(LogIndex(base.max(1)), TERM)],
        membership: (LogIndex::ZERO, Membership::new(vec![NodeId(1)])),
        bytes: bytes.len() as u64,
        checksum: ChecksumSeed(0).checksum(&bytes),
    };
    Snapshot { meta, bytes: Bytes::from(bytes) }
}

/// A store, and what its engine would know.
struct World {
    disk: SimDisk,
    store: Store,
    segment_bytes_max: u64,
    next_io: u64,
    jobs: u64,
    /// The log's last entry, with what is queued.
    last: u64,
    /// The last entry of each persist that is not durable, by its id.
    waiting: BTreeMap<IoId, u64>,
    /// The last durable entry.
    durable: u64,
    /// The last entry before the log's first.
    base: u64,
    /// The last entries of the two newest snapshots that are durable.
    snapshots: (u64, u64),
    /// The last entry of the newest that was handed over.
    saving: u64,
    /// Entries that can be asked for.
    live: BTreeSet<u64>,
    /// Entries that ended after they had fallen behind the base.
    ended: BTreeSet<u64>,
    /// Entries that the store lacks.
    missing: BTreeSet<u64>,
    /// Entries whose records were handed over and not reported yet.
    archiving: Vec<u64>,
    cleaning: Option<(Job, CleaningPlan)>,
}

impl World {
    fn new() -> Self {
        Self::on(SimDisk::new(), SEGMENT_BYTES)
    }

    fn on(mut disk: SimDisk, segment_bytes_max: u64) -> Self {
        Store::format(&mut disk, &identity()).unwrap();
        let (mut store, _) = open(&mut disk, segment_bytes_max);
        assert_eq!(store.settle(&[]), []);
        Self {
            disk,
            store,
            segment_bytes_max,
            next_io: 1,
            jobs: 0,
            last: 0,
            waiting: BTreeMap::new(),
            durable: 0,
            base: 0,
            snapshots: (0, 0),
            saving: 0,
            live: BTreeSet::new(),
            ended: BTreeSet::new(),
            missing: BTreeSet::new(),
            archiving: Vec::new(),
            cleaning: None,
        }
    }

    fn job(&mut self) -> JobId {
        self.jobs += 1;
        JobId(self.jobs)
    }

    fn persist(&mut self, reset: Option<Reset>, commit: u64, records: Vec<Record>) {
        let io = IoId(self.next_io);
        self.next_io += 1;
        let hard_state = HardState { term: TERM, voted_for: None, commit: LogIndex(commit) };
        self.waiting.insert(io, self.last);
        self.store.persist(Persist { io, hard_state, reset: reset.map(Box::new), records });
    }

    fn append(&mut self, count: u64) {
        let records = (self.last + 1..=self.last + count).map(entry).collect();
        self.live.extend(self.last + 1..=self.last + count);
        self.last += count;
        self.persist(None, self.last, records);
    }

    /// Ends the live entry at a place in the order, if there is any.
    fn end(&mut self, at: usize) {
        let at = at % self.live.len().max(1);
        if let Some(index) = self.live.iter().nth(at).copied() {
            self.live.remove(&index);
            if index <= self.base {
                self.ended.insert(index);
                self.missing.remove(&index);
            }
        }
    }

    fn make_snapshot(&mut self) {
        if self.durable > self.snapshots.1 && self.saving == self.snapshots.1 {
            self.saving = self.durable;
            self.store.save_snapshot(snapshot(self.durable, self.snapshots.1));
        }
    }

    /// One that a leader sent, of a log that is longer than this one.
    fn install(&mut self, ahead: u64) {
        let end = self.last.max(self.snapshots.1) + ahead;
        let base = self.last.max(self.snapshots.1);
        self.saving = end;
        self.store.save_snapshot(snapshot(end, base));
        self.live.extend(self.last + 1..=base);
        let reset = Reset {
            snapshot: LogIndex(end),
            base: LogPosition { term: TERM, index: LogIndex(base) },
        };
        self.base = base;
        self.last = base;
        self.persist(Some(reset), base, Vec::new());
        self.settle();
        self.append(end - base);
    }

    /// Tells the store what can be asked for.
    fn settle(&mut self) {
        self.ended.clear();
        let live: Vec<LogIndex> = self.live.range(..=self.base).copied().map(LogIndex).collect();
        self.missing = self.store.settle(&live).into_iter().map(|index| index.0).collect();
    }

    /// A snapshot is durable: what it and the one before stand for falls behind.
    fn saved(&mut self, index: u64) {
        self.snapshots = (self.snapshots.1, index);
        let first = self.snapshots.0 + 1;
        if first <= self.base + 1 {
            return;
        }
        let keep: Vec<LogIndex> =
            self.live.range(self.base + 1..first).copied().map(LogIndex).collect();
        let release: Vec<LogIndex> = self.ended.iter().copied().map(LogIndex).collect();
        self.ended.clear();
        self.store.purge(LogIndex(first), &keep, &release);
        assert_eq!(self.store.first_index(), LogIndex(first));
        self.base = first - 1;
    }

    /// Performs the first operations of the next job of the write lane; all of them if there are no
    /// more than that. Whether a job was begun and done.
    fn write(&mut self, operations: usize) -> bool {
        let id = self.job();
        let Some(job) = self.store.next_write(id) else { return false };
        if operations < job.ops.len() {
            job.ops.iter().take(operations).for_each(|op| assert!(self.disk.perform(op).is_ok()));
            return false;
        }
        self.perform(&job);
        true
    }

    fn perform(&mut self, job: &Job) {
        job.perform(&mut self.disk).result.unwrap();
        let written = self.store.write_done();
        if let Some(io) = written.io {
            let rest = self.waiting.split_off(&IoId(io.0 + 1));
            let done = std::mem::replace(&mut self.waiting, rest);
            self.durable = done.into_values().next_back().unwrap_or(self.durable);
        }
        for index in written.archived {
            let at = self.archiving.iter().position(|archiving| *archiving == index.0);
            self.archiving.remove(at.expect("it was handed over"));
            self.missing.remove(&index.0);
        }
        if let Some(index) = written.snapshot {
            self.saved(index.0);
        }
    }

    /// Performs a job of the write lane, and fails the power after each operation in every way. How often.
    fn write_with_power_failures(&mut self) -> usize {
        let id = self.job();
        let Some(job) = self.store.next_write(id) else { return 0 };
        let mut failures = 0;
        let mut disk = self.disk.clone();
        for op in &job.ops {
            disk.perform(op).unwrap();
            for left in disk.crash_states() {
                self.check_after(left);
                failures += 1;
            }
        }
        self.perform(&job);
        failures
    }

    fn begin_cleaning(&mut self) -> bool {
        let id = self.job();
        if self.cleaning.is_none() {
            self.cleaning = self.store.plan_cleaning(id);
        }
        self.cleaning.is_some()
    }

    fn end_cleaning(&mut self) {
        if let Some((job, plan)) = self.cleaning.take() {
            let reads = job.perform(&mut self.disk).result;
            let reads = reads.or_else(|error| match self.store.keeps(plan.file()) {
                true => Err(error),
                false => Ok(Vec::new()),
            });
            assert_eq!(self.store.take_cleaned(&plan, &reads.unwrap()), []);
        }
    }

    /// Another member sends what is missing.
    fn repair(&mut self) {
        self.archiving.extend(&self.missing);
        let records = self.missing.iter().map(|index| entry(*index)).collect();
        self.store.archive(records);
    }

    fn work(&mut self) {
        loop {
            self.check();
            let has_cleaned = self.begin_cleaning();
            self.end_cleaning();
            if !self.write(usize::MAX) && !has_cleaned {
                return;
            }
        }
    }

    fn read(&mut self, index: u64) -> Option<Record> {
        let id = self.job();
        let (job, plan) = self.store.plan_read_one(LogIndex(index), id)?;
        let reads = job.perform(&mut self.disk).result.unwrap();
        Some(plan.decode(self.store.record_seed(), &reads).unwrap().remove(0))
    }

    /// Every entry that can be asked for and is not known to be missing reads back as it was.
    fn check(&mut self) {
        self.store.check_invariants();
        let in_log = self.base + 1..=self.durable.min(self.last);
        let behind = self.live.range(..=self.base).copied();
        let expected: Vec<u64> =
            behind.filter(|index| !self.missing.contains(index)).chain(in_log).collect();
        for index in expected {
            assert_eq!(self.read(index), Some(entry(index)), "entry {index}");
        }
    }

    /// The power fails, and the node starts again.
    fn crash(&mut self, mode: CrashMode, seed: u64) {
        self.disk.crash(mode, &mut Xoshiro256PlusPlus::seed_from_u64(seed));
        self.restart();
    }

    /// The same node on what a power failure left of its disk.
    fn check_after(&self, mut disk: SimDisk) {
        let (store, _) = open(&mut disk, self.segment_bytes_max);
        let mut world = Self {
            disk,
            store,
            waiting: BTreeMap::new(),
            live: self.live.clone(),
            ended: self.ended.clone(),
            missing: self.missing.clone(),
            archiving: Vec::new(),
            cleaning: None,
            ..*self
        };
        world.restart();
    }

    fn restart(&mut self) {
        let (store, recovered) = open(&mut self.disk, self.segment_bytes_max);
        self.store = store;
        self.cleaning = None;
        self.archiving.clear();
        self.waiting.clear();
        self.next_io = 1;
        // What was in the log and durable, or was behind it and not missing, has to be there.
        let lacked = std::mem::take(&mut self.missing);
        let was_durable = self.durable;
        let base_before = self.base;
        self.last = recovered.last_index.0;
        self.durable = self.last;
        self.base = recovered.base.index.0;
        let newest = recovered.snapshot.map_or(0, |snapshot| snapshot.meta.last.index.0);
        self.snapshots = (self.base, newest);
        self.saving = newest;
        self.live.retain(|index| *index <= self.last);
        self.settle();
        for index in &self.missing {
            let was_there = *index <= base_before || *index <= was_durable;
            assert!(!was_there || lacked.contains(index), "entry {index} is lost");
        }
        self.check();
    }

    /// Two snapshots: what is there now falls behind the log.
    fn leave_behind(&mut self) {
        for _ in 0..2 {
            self.append(1);
            self.work();
            self.make_snapshot();
            self.work();
        }
    }

    fn segment_bytes(&mut self) -> u64 {
        let files = self.disk.list().unwrap();
        let segments = files.iter().filter(|(file, _)| matches!(file, FileName::Segment(_)));
        segments.map(|(_, len)| *len).sum()
    }

    fn live_bytes(&self) -> u64 {
        let live = self.live.iter().filter(|index| **index <= self.base);
        let in_log = self.base + 1..=self.last;
        live.copied().chain(in_log).map(|index| entry(index).bytes().len() as u64).sum()
    }
}

#[derive(Clone, Debug)]
enum Act {
    Append(u64),
    End(usize),
    EndMany(usize, usize),
    Snapshot,
    Install(u64),
    Write,
    BeginCleaning,
    EndCleaning,
    Repair,
    Lose(usize),
    Work,
    Crash { operations: usize, is_random: bool, seed: u64 },
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        6 => (1_u64..6).prop_map(Act::Append),
        3 => any::<usize>().prop_map(Act::End),
        2 => (any::<usize>(), 1_usize..30).prop_map(|(at, count)| Act::EndMany(at, count)),
        4 => Just(Act::Snapshot),
        1 => (1_u64..9).prop_map(Act::Install),
        6 => Just(Act::Write),
        2 => Just(Act::BeginCleaning),
        2 => Just(Act::EndCleaning),
        2 => Just(Act::Repair),
        1 => any::<usize>().prop_map(Act::Lose),
        3 => Just(Act::Work),
        1 => (0_usize..12, any::<bool>(), any::<u64>())
            .prop_map(|(operations, is_random, seed)| Act::Crash { operations, is_random, seed }),
    ]
}

fn perform(world: &mut World, act: &Act) {
    match *act {
        Act::Append(count) => world.append(count),
        Act::End(at) => world.end(at),
        Act::EndMany(at, count) => (0..count).for_each(|_| world.end(at)),
        Act::Snapshot => world.make_snapshot(),
        Act::Install(ahead) => world.install(ahead),
        Act::Write => _ = world.write(usize::MAX),
        Act::BeginCleaning => _ = world.begin_cleaning(),
        Act::EndCleaning => world.end_cleaning(),
        Act::Repair => world.repair(),
        Act::Lose(at) => {
            let behind: Vec<u64> = world.live.range(..=world.base).copied().collect();
            if let Some(index) = behind.get(at % behind.len().max(1)).copied() {
                world.store.mark_damaged(LogIndex(index));
                world.missing.insert(index);
            }
        }
        Act::Work => world.work(),
        Act::Crash { operations, is_random, seed } => {
            let mode = if is_random { CrashMode::Random } else { CrashMode::LoseAll };
            if !world.write(operations) {
                world.crash(mode, seed);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]
    #[test]
    fn every_live_entry_outlives_the_log_and_the_disk_stays_within_its_bound(
        acts in proptest::collection::vec(act(), 1..120),
    ) {
        let mut world = World::new();
        for act in &acts {
            perform(&mut world, act);
            world.check();
        }
        world.work();
        world.repair();
        world.work();
        prop_assert!(world.missing.is_empty());
        // A log that is short, so that what is behind it is what counts.
        world.leave_behind();
        prop_assert!(world.archiving.is_empty(), "each record that was handed over is reported");
        let (bytes, live_bytes) = (world.segment_bytes(), world.live_bytes());
        let bound = 2 * live_bytes + 3 * SEGMENT_BYTES;
        prop_assert!(bytes <= bound, "{bytes} bytes on the disk, {live_bytes} live");
        world.crash(CrashMode::LoseAll, 0);
        prop_assert!(world.missing.is_empty());
    }
}

#[test]
fn power_failure_at_any_operation_of_cleaning_loses_no_live_entry() {
    let mut world = World::on(SimDisk::with_sector_bytes(SEGMENT_BYTES), SEGMENT_BYTES);
    let mut failures = 0;
    for round in 0..20 {
        world.append(8);
        failures += world.write_with_power_failures();
        (0..7).for_each(|at| world.end(at * 5 + round));
        world.make_snapshot();
        failures += world.write_with_power_failures();
        while world.begin_cleaning() {
            world.end_cleaning();
            failures += world.write_with_power_failures();
        }
    }
    println!("{failures} power failures");
    assert!(failures > 500, "{failures} power failures");
    assert!(world.store.archived_entries() > 5);
    assert!(!world.store.keeps(FileName::Segment(8)), "segments were cleaned");
}

/// A store that has left entries behind, most of which have ended since.
fn sparse() -> World {
    let mut world = World::new();
    for _ in 0..12 {
        world.append(4);
        world.work();
    }
    world.leave_behind();
    world
}

#[test]
fn an_entry_found_damaged_while_it_is_moved_is_reported_and_holds_nothing_up() {
    let mut world = sparse();
    let (job, _) = world.store.plan_read_one(LogIndex(3), JobId(0)).unwrap();
    let [DiskOp::Read { file, offset, .. }] = job.ops[..] else { panic!("one read: {job:?}") };
    assert!(world.disk.flip_bit(file, offset + 50, 3));
    (0..40).for_each(|_| world.end(5));
    let mut release: Vec<LogIndex> = world.ended.iter().copied().map(LogIndex).collect();
    release.sort();
    world.store.purge(world.store.first_index(), &[], &release);
    let (job, plan) = world.store.plan_cleaning(JobId(7)).unwrap();
    let reads = job.perform(&mut world.disk).result.unwrap();
    assert_eq!(world.store.take_cleaned(&plan, &reads), [LogIndex(3)]);
    assert_eq!(world.store.damaged(), 1);
    assert_eq!(world.read(3), None);
    world.missing.insert(3);
    world.work();
    assert!(!world.store.keeps(file), "its segment has gone");
    world.repair();
    world.work();
    assert_eq!(world.read(3), Some(entry(3)));
    world.crash(CrashMode::LoseAll, 0);
    assert_eq!(world.read(3), Some(entry(3)));
}

#[test]
fn a_damaged_entry_of_the_log_is_made_good_beside_it() {
    let mut world = World::new();
    world.append(9);
    world.work();
    world.store.mark_damaged(LogIndex(4));
    assert_eq!(world.read(4), None);
    let (_, plan) = world.store.plan_read(LogIndex(2), LogIndex(10), 1 << 20, JobId(0)).unwrap();
    assert_eq!(plan.end(), LogIndex(4), "what is damaged is never served");
    assert_eq!(world.store.settle(&[]), [LogIndex(4)]);
    world.missing.insert(4);
    world.repair();
    assert!(world.write(usize::MAX));
    assert_eq!(world.read(4), Some(entry(4)));
    assert_eq!(world.store.settle(&[]), []);
    world.leave_behind();
    assert_eq!(world.read(4), Some(entry(4)), "it goes on living behind the log");
}

#[test]
fn a_flush_takes_along_about_as_many_moved_bytes_as_it_has_itself() {
    let segment_bytes_max = 512 * 1024;
    let mut world = World::on(SimDisk::new(), segment_bytes_max);
    world.live.clear();
    // Entry 1 lives on for ever, 40 others for a while.
    let large = |index| record(index, TERM.0, 60_000);
    let persist = |world: &mut World, first: u64, count: u64| {
        let records = (first..first + count).map(large).collect();
        world.last = first + count - 1;
        world.persist(None, world.last, records);
        assert!(world.write(usize::MAX));
    };
    (0..8).for_each(|at| persist(&mut world, 1 + 8 * at, 8));
    let live: Vec<u64> = (1..=24).collect();
    world.live.extend(&live);
    for _ in 0..2 {
        let next = world.last + 1;
        persist(&mut world, next, 1);
        world.make_snapshot();
        while world.write(usize::MAX) {}
    }
    let written = |job: &Job| -> usize {
        let writes = job.ops.iter().filter_map(|op| match op {
            DiskOp::Write { parts, .. } => Some(parts.iter().map(Bytes::len).sum::<usize>()),
            _ => None,
        });
        writes.sum()
    };
    // So that it is worth while: most of what was left behind has ended.
    let release: Vec<LogIndex> = (5..=24).map(LogIndex).collect();
    world.store.purge(world.store.first_index(), &[], &release);
    assert!(world.begin_cleaning());
    let (job, plan) = world.cleaning.take().unwrap();
    let reads = job.perform(&mut world.disk).result.unwrap();
    assert_eq!(world.store.take_cleaned(&plan, &reads), []);
    let idle = world.store.next_write(JobId(1)).unwrap();
    assert!((60_000..70_000).contains(&written(&idle)), "one record: {}", written(&idle));
    world.perform(&idle);
    world.last += 2;
    let records = vec![large(world.last - 1), large(world.last)];
    world.persist(None, world.last, records);
    let busy = world.store.next_write(JobId(2)).unwrap();
    assert!((220_000..250_000).contains(&written(&busy)), "two and two: {}", written(&busy));
}

#[test]
fn each_flush_repeats_what_the_one_before_left_at_the_logs_end() {
    let mut world = World::on(SimDisk::new(), 1 << 20);
    let persist = |world: &mut World, first: u64, count: u64| {
        let records = (first..first + count).map(entry).collect();
        world.persist(None, 0, records);
    };
    persist(&mut world, 1, 0);
    assert!(world.write(usize::MAX));
    persist(&mut world, 1, 5);
    persist(&mut world, 4, 3);
    assert!(world.write(usize::MAX));
    persist(&mut world, 3, 1);
    assert!(world.write(usize::MAX));
    world.store.mark_damaged(LogIndex(2));
    world.missing.insert(2);
    world.repair();
    assert!(world.write(usize::MAX));
    let bytes = world.disk.contents(FileName::Segment(1)).unwrap();
    let owner = Owner::new(CLUSTER, GROUP, NODE);
    let (mut offset, mut spans) = (SEGMENT_HEADER_BYTES as u64, vec![(1, 0)]);
    while offset < bytes.len() as u64 {
        let place = Place { segment: 1, offset };
        let header = FlushHeader::decode(&owner, place, &bytes[offset as usize..]).unwrap();
        let span = |span: EntrySpan| (span.first.0, span.count);
        assert_eq!(Some(&span(header.previous)), spans.last());
        spans.push(span(header.entries));
        offset += header.flush_bytes();
    }
    assert_eq!(spans, [(1, 0), (1, 0), (1, 6), (3, 1), (4, 0)]);
}

/// A queue that is always about as long, of which now this and now that message is taken: every
/// segment is as sparse as the others. One cleaning read, and one job of the write lane, to a flush.
#[test]
fn in_a_steady_load_the_disk_stays_within_its_bound_all_along() {
    const LIVE_ENTRIES: usize = 400;
    let segment_bytes_max = 1 << 20;
    let mut world = World::on(SimDisk::new(), segment_bytes_max);
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(7);
    let (mut excess_max, mut logged) = (0, 0);
    for turn in 0..3_000 {
        let records = (world.last + 1..=world.last + 5).map(|index| record(index, TERM.0, 20_000));
        let records: Vec<Record> = records.collect();
        world.live.extend(world.last + 1..=world.last + 5);
        world.last += 5;
        world.persist(None, world.last, records);
        while world.live.len() > LIVE_ENTRIES {
            world.end(rng.random_range(0..LIVE_ENTRIES));
        }
        if turn % 20 == 0 {
            world.make_snapshot();
        }
        world.begin_cleaning();
        world.end_cleaning();
        assert!(world.write(usize::MAX));
        logged = logged.max(world.last - world.base);
        let bound = 2 * world.store.live_bytes();
        excess_max = excess_max.max(world.store.bytes().saturating_sub(bound));
    }
    assert!(logged < 300, "{logged} entries in the log proper");
    println!("{} KiB above twice the live bytes", excess_max >> 10);
    assert!(excess_max <= 6 * segment_bytes_max, "{excess_max} bytes above twice the live ones");
}
