//! What the store promises of a data directory, checked against a disk that lies.
//!
//! Owns the claims about recovery: every cut, every power failure and every flipped bit of small
//! logs, and random workloads against a reference. Never looks into the store: it compares what was
//! written with what is read back. Next: `engine::storage`, `sim::disk`.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod archive;
mod snapshots;

use engine::hlc::Hlc;
use engine::ids::{ClusterId, GroupId, LogIndex, NodeId, Term};
use engine::limits::Limits;
use engine::raft::LogPosition;
use engine::record::{ChecksumSeed, EntryKind, Record, RecordBuilder};
use engine::storage::disk::{Disk, DiskOp, FileName, JobId};
use engine::storage::format::{
    EntrySpan, FLUSH_HEADER_BYTES, FlushHeader, Owner, Place, SEGMENT_HEADER_BYTES,
};
use engine::storage::{
    Damage, HardState, Identity, Inspection, IoId, Persist, Recovered, StorageError, Store,
};
use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::Xoshiro256PlusPlus;
use sim::disk::{CrashMode, Fate, SimDisk};

const CLUSTER: ClusterId = ClusterId([7; 16]);
const GROUP: GroupId = GroupId(0);
const NODE: NodeId = NodeId(1);
/// Segments so small that a few flushes fill one.
const SEGMENT_BYTES_SMALL: u64 = 350;
/// Segments that no test here fills.
const SEGMENT_BYTES_LARGE: u64 = 1 << 20;
/// Sectors so small that the flushes of a few bytes tear.
const SECTOR_BYTES_SMALL: u64 = 48;

fn identity() -> Identity {
    let members = vec![(NODE, "localhost:1".to_owned())];
    Identity::founder(CLUSTER, GROUP, NODE, members)
}

fn limits(segment_bytes_max: u64) -> Limits {
    Limits { segment_bytes_max, ..Limits::default() }
}

fn record(index: u64, term: u64, payload_len: usize) -> Record {
    let mut builder = RecordBuilder::with_capacity(payload_len);
    let fill = (index * 31 + term * 7) as u8;
    builder.payload_mut().extend(std::iter::repeat_n(fill, payload_len));
    let seed = ChecksumSeed::of(CLUSTER, GROUP);
    let hlc = Hlc(term * 1_000 + index);
    builder.seal(seed, GROUP, LogIndex(index), Term(term), hlc, EntryKind::Commands)
}

/// What a log says: the reference that every recovery is compared with.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
struct State {
    hard_state: HardState,
    records: Vec<Record>,
}

impl State {
    fn apply(&mut self, persist: &Persist) {
        self.hard_state = persist.hard_state;
        if let Some(first) = persist.records.first() {
            self.records.truncate(first.index().0 as usize - 1);
        }
        self.records.extend(persist.records.iter().cloned());
    }
}

fn open(disk: &mut SimDisk, segment_bytes_max: u64) -> Result<(Store, Recovered), StorageError> {
    Store::open(disk, CLUSTER, GROUP, NODE, &limits(segment_bytes_max))
}

/// Opens the log, reads all of it back, and checks that what was recovered describes it.
fn recover(disk: &mut SimDisk) -> Result<State, StorageError> {
    recover_damaged(disk).map(|(state, _)| state)
}

/// The same; says too what the node must not forget, if the log is shorter than it was.
fn recover_damaged(disk: &mut SimDisk) -> Result<(State, LogPosition), StorageError> {
    let (store, recovered) = open(disk, SEGMENT_BYTES_LARGE)?;
    store.check_invariants();
    let mut records: Vec<Record> = Vec::new();
    let end = recovered.last_index.next();
    while records.len() < recovered.last_index.0 as usize {
        let first = LogIndex(records.len() as u64 + 1);
        let (job, plan) = store.plan_read(first, end, 300, JobId(0)).expect("it is in the log");
        let reads = job.perform(disk).result.expect("the disk works");
        records.extend(plan.decode(store.record_seed(), &reads)?);
    }
    assert_eq!(store.plan_read_one(end, JobId(0)), None);
    let mut term_runs: Vec<(LogIndex, Term)> = Vec::new();
    for record in &records {
        if term_runs.last().is_none_or(|(_, term)| *term != record.term()) {
            term_runs.push((record.index(), record.term()));
        }
    }
    assert_eq!(recovered.term_runs, term_runs);
    assert_eq!(recovered.last_stamp, records.last().map_or(Hlc::ZERO, Record::hlc));
    let files = disk.list().expect("the disk works");
    let segments = files.iter().filter(|(file, _)| matches!(file, FileName::Segment(_)));
    let bytes: Vec<u64> = segments.map(|(_, len)| *len).collect();
    assert_eq!((store.segments(), store.bytes()), (bytes.len() as u64, bytes.iter().sum()));
    Ok((State { hard_state: recovered.hard_state, records }, recovered.vouched))
}

/// Checks that a log which rotted after it was written as `whole` opens with a part of it from the
/// beginning on, remembers where it ended, and goes on from there through further crashes until it has
/// everything again.
fn assert_heals(disk: &SimDisk, whole: &State, case: &str) {
    let mut disk = disk.clone();
    let (state, vouched) = recover_damaged(&mut disk).unwrap_or_else(|e| panic!("{case}: {e}"));
    assert_eq!(state.hard_state, whole.hard_state, "{case}");
    let kept = state.records.len();
    assert_eq!(whole.records[..kept], state.records, "{case}");
    let last = whole.records.last().map_or(LogPosition::default(), place_of);
    let expected = if kept < whole.records.len() { last } else { LogPosition::default() };
    assert_eq!(vouched, expected, "{case}");
    let again = recover_damaged(&mut disk);
    assert_eq!(again, Ok((state, vouched)), "{case}: opening changed it");
    // What is missing comes again, an entry at a time, and the power fails after each.
    for at in kept..whole.records.len() {
        let (mut store, _) = open(&mut disk, SEGMENT_BYTES_SMALL).unwrap();
        let records = vec![whole.records[at].clone()];
        let hard_state = whole.hard_state;
        store.persist(Persist { io: IoId(1), hard_state, reset: None, records });
        store.next_write(JobId(1)).unwrap().perform(&mut disk).result.unwrap();
        disk.crash_with(|_, _| Fate::Lost);
        let (state, vouched) = recover_damaged(&mut disk).unwrap();
        assert_eq!(state.records, whole.records[..=at], "{case}: entry {} came", at + 1);
        let is_back = at + 1 == whole.records.len();
        assert_eq!(vouched, if is_back { LogPosition::default() } else { last }, "{case}");
    }
}

fn place_of(record: &Record) -> LogPosition {
    LogPosition { term: record.term(), index: record.index() }
}

/// A log being written.
struct Writer {
    disk: SimDisk,
    store: Store,
    next_io: u64,
    /// The state with everything that is queued.
    latest: State,
    /// `states[n]` is the state after `n` flushes.
    states: Vec<State>,
    /// Where flush `n`, counted from 0, begins.
    places: Vec<(FileName, u64)>,
}

impl Writer {
    fn new(mut disk: SimDisk, segment_bytes_max: u64) -> Self {
        Store::format(&mut disk, &identity()).expect("the directory is empty");
        let (store, _) = open(&mut disk, segment_bytes_max).expect("just made");
        let latest = State::default();
        let states = vec![latest.clone()];
        Self { disk, store, next_io: 1, latest, states, places: Vec::new() }
    }

    fn append(&mut self, term: u64, first: u64, payload_lens: &[usize]) {
        let hard_state = HardState {
            term: Term(term),
            voted_for: term.is_multiple_of(2).then_some(NodeId(term)),
            // What is committed is never replaced, and almost everything is here.
            commit: LogIndex::ZERO,
        };
        let indexes = first..;
        let records = indexes.zip(payload_lens).map(|(index, len)| record(index, term, *len));
        let persist =
            Persist { io: IoId(self.next_io), hard_state, reset: None, records: records.collect() };
        self.next_io += 1;
        self.latest.apply(&persist);
        self.store.persist(persist);
        self.store.check_invariants();
    }

    /// Writes everything that is queued; `after_op` sees the disk after each operation, and how many
    /// flushes are durable and begun by then.
    fn flush_with(&mut self, mut after_op: impl FnMut(&SimDisk, usize, usize)) {
        let durable = self.states.len() - 1;
        let job = self.store.next_write(JobId(1)).expect("something is queued");
        assert_eq!(self.store.next_write(JobId(2)), None, "one flush at a time");
        self.states.push(self.latest.clone());
        for (at, op) in job.ops.iter().enumerate() {
            self.disk.perform(op).expect("the disk works");
            let is_synced = at + 1 == job.ops.len();
            after_op(&self.disk, durable + usize::from(is_synced), durable + 1);
            if let DiskOp::Write { file, offset, .. } = op
                && *offset > 0
            {
                self.places.push((*file, *offset));
            }
        }
        assert_eq!(self.store.write_done().io, Some(IoId(self.next_io - 1)));
        self.store.check_invariants();
    }

    fn flush(&mut self) {
        self.flush_with(|_, _, _| {});
    }

    fn tail(&self) -> FileName {
        FileName::Segment(self.store.segments())
    }

    fn bytes_of(&self, file: FileName) -> Vec<u8> {
        self.disk.contents(file).expect("the file is there").to_vec()
    }
}

/// A log written by flushes that meet everything a log does: votes alone, empty payloads, paddings
/// of several lengths, coalesced persists, truncations within and across flushes.
fn small_log(
    sector_bytes: u64,
    segment_bytes_max: u64,
    mut flush: impl FnMut(&mut Writer),
) -> Writer {
    let mut writer = Writer::new(SimDisk::with_sector_bytes(sector_bytes), segment_bytes_max);
    writer.append(1, 1, &[]);
    flush(&mut writer);
    writer.append(1, 1, &[3, 0]);
    flush(&mut writer);
    writer.append(1, 3, &[5, 8]);
    writer.append(2, 4, &[1]);
    flush(&mut writer);
    writer.append(3, 2, &[13, 2]);
    flush(&mut writer);
    writer.append(4, 4, &[]);
    flush(&mut writer);
    writer.append(5, 4, &[16]);
    flush(&mut writer);
    writer
}

#[test]
fn a_log_cut_at_any_byte_recovers_exactly_the_flushes_that_are_whole() {
    let writer = small_log(512, SEGMENT_BYTES_LARGE, Writer::flush);
    let whole = writer.bytes_of(writer.tail());
    let starts = writer.places.iter().map(|(_, offset)| *offset);
    let ends: Vec<u64> = starts.chain([whole.len() as u64]).collect();
    for cut in 0..=whole.len() {
        let mut disk = writer.disk.clone();
        disk.set_contents(writer.tail(), whole[..cut].to_vec());
        let recovered = recover(&mut disk);
        if cut < SEGMENT_HEADER_BYTES {
            let error = recovered.unwrap_err();
            assert!(matches!(error, StorageError::Damaged { offset: 0, .. }), "{error}");
            continue;
        }
        let flushes = ends.iter().filter(|end| **end <= cut as u64).count() - 1;
        assert_eq!(recovered.as_ref(), Ok(&writer.states[flushes]), "cut at {cut}");
        let len = disk.contents(writer.tail()).unwrap().len() as u64;
        assert_eq!(len, ends[flushes], "the torn tail is gone after a cut at {cut}");
    }
}

#[test]
fn only_the_last_segment_may_end_torn_and_every_other_that_is_cut_short_has_a_hole() {
    let writer = small_log(512, SEGMENT_BYTES_SMALL, Writer::flush);
    assert!(writer.store.segments() >= 3);
    let states = &writer.states;
    for segment in 1..=writer.store.segments() {
        let file = FileName::Segment(segment);
        let mut longer = writer.bytes_of(file);
        longer.extend([0; 8]);
        let whole = longer.len() - 8;
        for cut in (0..whole).chain([longer.len()]) {
            let mut disk = writer.disk.clone();
            disk.set_contents(file, longer[..cut].to_vec());
            let case = format!("{file} was cut at {cut}");
            if file == writer.tail() {
                let lost = usize::from(cut < whole);
                assert!(states[..states.len() - lost].contains(&recover(&mut disk).unwrap()));
            } else {
                assert_heals(&disk, states.last().unwrap(), &case);
                recover(&mut disk).unwrap();
                assert_eq!(disk.contents(file).unwrap().len(), cut, "nothing is cut");
            }
        }
    }
}

/// Whatever the disk holds, it recovers to one of the states between `durable` and `begun`; and what
/// was recovered once survives a further power failure, and can be written to.
fn assert_recovers_between(disk: &SimDisk, states: &[State], durable: usize, begun: usize) {
    let mut disk = disk.clone();
    let state = recover(&mut disk).expect("a power failure damages nothing that was durable");
    assert!(
        states[durable..=begun].contains(&state),
        "recovered {state:?}, which is none of the states {durable} to {begun}"
    );
    disk.crash_with(|_, _| Fate::Lost);
    assert_eq!(recover(&mut disk), Ok(state.clone()), "what was recovered is durable");
    let (mut store, _) = open(&mut disk, SEGMENT_BYTES_SMALL).unwrap();
    let hard_state = HardState { term: Term(9), ..HardState::default() };
    let next = record(state.records.len() as u64 + 1, 9, 4);
    let persist = Persist { io: IoId(1), hard_state, reset: None, records: vec![next] };
    let mut expected = state;
    expected.apply(&persist);
    store.persist(persist);
    store.next_write(JobId(1)).unwrap().perform(&mut disk).result.unwrap();
    disk.crash_with(|_, _| Fate::Lost);
    assert_eq!(recover(&mut disk), Ok(expected), "the log goes on");
}

#[test]
fn power_failure_at_any_operation_keeps_every_synced_flush_and_nothing_but_a_prefix() {
    let mut crashes = Vec::new();
    let writer = small_log(SECTOR_BYTES_SMALL, SEGMENT_BYTES_SMALL, |writer| {
        writer.flush_with(|disk, durable, begun| {
            let left = disk.crash_states();
            crashes.extend(left.into_iter().map(|disk| (disk, durable, begun)));
        });
    });
    assert!(writer.store.segments() >= 3);
    assert!(crashes.len() > 100, "{} crashes are too few to mean anything", crashes.len());
    for (disk, durable, begun) in crashes {
        assert_recovers_between(&disk, &writer.states, durable, begun);
    }
}

#[test]
fn recovery_can_be_interrupted_at_any_operation() {
    let mut torn = Vec::new();
    let writer = small_log(SECTOR_BYTES_SMALL, SEGMENT_BYTES_SMALL, |writer| {
        writer.flush_with(|disk, durable, begun| {
            let mut disk = disk.clone();
            disk.crash_with(|_, sectors| match sectors {
                0 => Fate::Kept,
                _ => Fate::Sectors((0..sectors).map(|at| at > 0).collect()),
            });
            torn.push((disk, durable, begun));
        });
    });
    for (disk, durable, begun) in torn {
        for operations in 0.. {
            let mut disk = disk.clone();
            disk.fail_after(operations, false);
            let opened = open(&mut disk, SEGMENT_BYTES_SMALL);
            for left in disk.crash_states() {
                assert_recovers_between(&left, &writer.states, durable, begun);
            }
            match opened {
                Ok(_) => break,
                Err(error) => assert!(matches!(error, StorageError::Disk(_)), "{error}"),
            }
        }
    }
}

#[test]
fn an_interrupted_format_is_done_again_and_never_leaves_a_directory_that_does_not_open() {
    for operations in 0.. {
        let mut disk = SimDisk::with_sector_bytes(SECTOR_BYTES_SMALL);
        disk.fail_after(operations, false);
        let made = Store::format(&mut disk, &identity());
        for mut left in disk.crash_states() {
            if made.is_err() && Store::read_identity(&mut left) == Err(StorageError::NoIdentity) {
                Store::format(&mut left, &identity()).expect("there is no log yet");
            }
            assert_eq!(recover(&mut left), Ok(State::default()));
        }
        match made {
            Ok(()) => break,
            Err(error) => assert!(matches!(error, StorageError::Disk(_)), "{error}"),
        }
    }
}

#[test]
fn a_longer_identity_that_was_left_unfinished_does_not_stick_out_of_the_new_one() {
    let mut disk = SimDisk::new();
    disk.set_contents(FileName::IdentityTemporary, vec![7; 500]);
    Store::format(&mut disk, &identity()).unwrap();
    assert_eq!(Store::read_identity(&mut disk), Ok(identity()));
}

#[test]
fn what_a_killed_process_left_unsynced_is_durable_once_it_was_recovered() {
    let mut killed = Vec::new();
    small_log(512, SEGMENT_BYTES_SMALL, |writer| {
        writer.flush_with(|disk, _, _| killed.push(disk.clone()));
    });
    for mut disk in killed {
        let state = recover(&mut disk).unwrap();
        disk.crash_with(|_, _| Fate::Lost);
        assert_eq!(recover(&mut disk), Ok(state));
    }
}

#[test]
fn what_is_recovered_after_a_failed_sync_is_durable_though_the_cache_calls_it_clean() {
    let mut writer = Writer::new(SimDisk::new(), SEGMENT_BYTES_LARGE);
    writer.append(1, 1, &[10]);
    writer.flush();
    writer.append(2, 2, &[20]);
    let job = writer.store.next_write(JobId(1)).unwrap();
    writer.disk.fail_after(1, false);
    let error = job.perform(&mut writer.disk).result.unwrap_err();
    assert_eq!(error.operation, "sync");
    let state = recover(&mut writer.disk).unwrap();
    assert_eq!(state, writer.latest, "the cache still has it");
    writer.disk.crash_with(|_, _| Fate::Lost);
    assert_eq!(recover(&mut writer.disk), Ok(state));
}

#[test]
fn a_flipped_bit_is_a_hole_or_looks_like_a_torn_tail_but_is_never_served() {
    for segment_bytes_max in [SEGMENT_BYTES_SMALL, SEGMENT_BYTES_LARGE] {
        let writer = small_log(512, segment_bytes_max, Writer::flush);
        let (last_file, last_start) = *writer.places.last().unwrap();
        let before_last = &writer.states[writer.states.len() - 2];
        for segment in 1..=writer.store.segments() {
            let file = FileName::Segment(segment);
            let len = writer.bytes_of(file).len();
            for (offset, bit) in (0..len as u64).flat_map(|at| (0..8).map(move |bit| (at, bit))) {
                let mut disk = writer.disk.clone();
                assert!(disk.flip_bit(file, offset, bit));
                if file == last_file && offset >= last_start {
                    assert_eq!(recover(&mut disk), Ok(before_last.clone()));
                    continue;
                }
                let case = format!("bit {bit} of byte {offset} of {file}");
                let (_, recovered) = open(&mut disk, segment_bytes_max).unwrap();
                assert_ne!(recovered.damaged, [], "{case} was ignored");
                assert_eq!(disk.contents(file).unwrap().len(), len, "nothing is cut");
                if bit == 0 {
                    assert_heals(&disk, writer.states.last().unwrap(), &case);
                } else {
                    let (state, vouched) = recover_damaged(&mut disk).unwrap();
                    let whole = writer.states.last().unwrap();
                    let kept = state.records.len();
                    assert_eq!(state.records, whole.records[..kept], "{case}");
                    let is_shorter = kept < whole.records.len();
                    assert_eq!(is_shorter, vouched > LogPosition::default(), "{case}");
                }
            }
        }
    }
}

/// SCENARIO 22: a corrupt record in the middle is a hole to repair and not a torn tail to cut.
#[test]
fn a_corrupt_record_in_the_middle_is_a_hole_and_no_torn_tail() {
    let writer = small_log(512, SEGMENT_BYTES_LARGE, Writer::flush);
    let (file, start) = writer.places[3];
    let mut disk = writer.disk.clone();
    assert!(disk.flip_bit(file, start + FLUSH_HEADER_BYTES as u64 + 60, 3));
    let bytes = disk.contents(file).unwrap().len();
    let (_, recovered) = open(&mut disk, SEGMENT_BYTES_LARGE).unwrap();
    assert_eq!((recovered.last_index, recovered.torn_bytes), (LogIndex(1), 0));
    assert_eq!(recovered.vouched, LogPosition { term: Term(5), index: LogIndex(4) });
    assert_eq!(disk.contents(file).unwrap().len(), bytes, "nothing is cut");
    assert!(matches!(recovered.damaged[0].damage, Damage::Record { sequence: 4, .. }));
    assert_heals(&disk, writer.states.last().unwrap(), "the fourth flush");
}

#[test]
fn a_sealed_flush_that_rots_is_a_hole_and_no_torn_tail() {
    let mut writer = small_log(512, SEGMENT_BYTES_LARGE, Writer::flush);
    assert!(!writer.store.is_sealed());
    writer.store.seal();
    write_one(&mut writer);
    assert!(writer.store.is_sealed());
    writer.store.seal();
    assert_eq!(writer.store.next_write(JobId(1)), None, "once is enough");
    assert_eq!(recover(&mut writer.disk.clone()).as_ref(), Ok(&writer.latest));
    let (file, start) = *writer.places.last().unwrap();
    let end = writer.bytes_of(file).len() as u64 - FLUSH_HEADER_BYTES as u64;
    for offset in start..end {
        let mut disk = writer.disk.clone();
        assert!(disk.flip_bit(file, offset, 5));
        assert_heals(&disk, &writer.latest, &format!("byte {offset} of the last flush"));
    }
    let mut disk = writer.disk.clone();
    assert!(disk.flip_bit(file, end + 20, 5));
    assert_eq!(recover(&mut disk).as_ref(), Ok(&writer.latest), "a torn seal takes nothing along");
}

fn write_one(writer: &mut Writer) {
    let job = writer.store.next_write(JobId(1)).expect("a seal");
    job.perform(&mut writer.disk).result.unwrap();
    writer.store.write_done();
}

#[test]
fn an_inspection_finds_every_flipped_bit_that_is_no_torn_tail_and_changes_nothing() {
    let writer = small_log(512, SEGMENT_BYTES_SMALL, Writer::flush);
    let clean = Inspection::of(&mut writer.disk.clone()).unwrap();
    assert!(!clean.is_damaged(), "{clean:?}");
    let flushes: u64 = clean.segments.iter().map(|segment| segment.flushes).sum();
    assert_eq!(flushes, writer.places.len() as u64);
    assert_eq!(clean.start.unwrap().last_index, LogIndex(4));
    let (last_file, last_start) = *writer.places.last().unwrap();
    let files = (1..=writer.store.segments()).map(FileName::Segment).chain([FileName::Identity]);
    for file in files {
        let len = writer.disk.contents(file).unwrap().len() as u64;
        for (offset, bit) in (0..len).flat_map(|at| [(at, 0), (at, 6)]) {
            let mut disk = writer.disk.clone();
            assert!(disk.flip_bit(file, offset, bit));
            let before = disk.contents(file).unwrap().to_vec();
            let found = Inspection::of(&mut disk).unwrap();
            let is_torn = file == last_file && offset >= last_start;
            assert_eq!(found.is_damaged(), !is_torn, "byte {offset} of {file}: {found:?}");
            assert_eq!(found.segments.len() as u64, writer.store.segments());
            assert_eq!(disk.contents(file).unwrap(), before);
        }
    }
}

/// What is torn goes, and with it what proved that the flush before it was durable.
#[test]
fn a_damaged_flush_before_a_torn_one_or_a_torn_segment_stays_known_as_durable() {
    let mut writer = Writer::new(SimDisk::new(), SEGMENT_BYTES_LARGE);
    writer.append(1, 1, &[10]);
    writer.flush();
    writer.append(2, 2, &[20]);
    writer.flush();
    let whole = writer.latest.clone();
    let (file, start) = writer.places[1];
    let mut with_torn_segment = writer.disk.clone();
    with_torn_segment.set_contents(FileName::Segment(2), vec![0; 40]);
    writer.append(3, 3, &[30]);
    writer.flush();
    let len = writer.bytes_of(file).len();
    writer.disk.set_contents(file, writer.bytes_of(file)[..len - 8].to_vec());
    for mut disk in [with_torn_segment, writer.disk] {
        assert!(disk.flip_bit(file, start + FLUSH_HEADER_BYTES as u64 + 60, 3));
        assert_heals(&disk, &whole, "the second flush");
        for operations in 0.. {
            let mut disk = disk.clone();
            disk.fail_after(operations, false);
            let opened = open(&mut disk, SEGMENT_BYTES_LARGE);
            for mut left in disk.crash_states() {
                let (state, vouched) = recover_damaged(&mut left).unwrap();
                assert_eq!(state.records, whole.records[..1]);
                assert!(vouched >= place_of(&whole.records[1]), "after {operations} operations");
            }
            if opened.is_ok() {
                break;
            }
        }
    }
}

#[test]
fn what_a_flush_replaced_itself_is_not_taken_for_what_it_left() {
    let mut writer = Writer::new(SimDisk::new(), SEGMENT_BYTES_LARGE);
    writer.append(1, 1, &[8]);
    writer.append(2, 1, &[3]);
    writer.flush();
    writer.append(2, 2, &[8]);
    writer.flush();
    let (file, start) = writer.places[0];
    for offset in start..writer.places[1].1 {
        let mut disk = writer.disk.clone();
        assert!(disk.flip_bit(file, offset, 4));
        assert_heals(&disk, &writer.latest, &format!("byte {offset}"));
    }
}

#[test]
fn zeroed_pages_and_overwritten_flushes_are_holes() {
    for segment_bytes_max in [SEGMENT_BYTES_SMALL, SEGMENT_BYTES_LARGE] {
        let writer = small_log(512, segment_bytes_max, Writer::flush);
        let whole = writer.states.last().unwrap();
        let (last_file, last_start) = *writer.places.last().unwrap();
        for segment in 1..=writer.store.segments() {
            let file = FileName::Segment(segment);
            let bytes = writer.bytes_of(file);
            let end = if file == last_file { last_start as usize } else { bytes.len() };
            for (from, to) in (0..end).flat_map(|from| (from + 1..=end).map(move |to| (from, to))) {
                if from % 16 != 0 || (to % 64 != 0 && to != end) {
                    continue;
                }
                for filler in [0, 0xa5] {
                    let mut disk = writer.disk.clone();
                    let mut damaged = bytes.clone();
                    damaged[from..to].fill(filler);
                    disk.set_contents(file, damaged);
                    assert_heals(&disk, whole, &format!("{file} from {from} to {to} of {filler}"));
                }
            }
        }
    }
}

#[test]
fn a_flipped_bit_of_the_identity_is_reported() {
    let mut disk = SimDisk::new();
    Store::format(&mut disk, &identity()).unwrap();
    let len = disk.contents(FileName::Identity).unwrap().len() as u64;
    for (offset, bit) in (0..len).flat_map(|offset| (0..8).map(move |bit| (offset, bit))) {
        let mut disk = disk.clone();
        assert!(disk.flip_bit(FileName::Identity, offset, bit));
        assert_eq!(recover(&mut disk), Err(StorageError::IdentityDamaged));
    }
}

#[test]
fn a_directory_of_another_node_cluster_or_group_is_refused() {
    let mut disk = SimDisk::new();
    Store::format(&mut disk, &identity()).unwrap();
    let others = [
        (ClusterId([8; 16]), GROUP, NODE),
        (CLUSTER, GroupId(1), NODE),
        (CLUSTER, GROUP, NodeId(2)),
    ];
    for (cluster, group, node) in others {
        let open = |disk: &mut SimDisk| {
            let opened = Store::open(disk, cluster, group, node, &limits(SEGMENT_BYTES_LARGE));
            match opened.unwrap_err() {
                StorageError::Foreign { file, .. } => file,
                error => panic!("{error}"),
            }
        };
        assert_eq!(open(&mut disk), FileName::Identity);
        // The identity is right, but somebody copied a segment here.
        let mut other = SimDisk::new();
        Store::format(&mut other, &Identity { cluster, group, node, ..identity() }).unwrap();
        let file = FileName::Segment(1);
        other.set_contents(file, disk.contents(file).unwrap().to_vec());
        assert_eq!(open(&mut other), file);
    }
}

#[test]
fn a_flush_of_another_node_never_passes_for_one_of_ours() {
    let mut writer = Writer::new(SimDisk::new(), SEGMENT_BYTES_LARGE);
    writer.append(1, 1, &[10]);
    writer.flush();
    let header = FlushHeader {
        records_bytes: 0,
        record_count: 0,
        archived_count: 0,
        sequence: 2,
        hard_state: HardState { term: Term(77), ..HardState::default() },
        record_digest: 0,
        entries: EntrySpan { first: LogIndex(2), count: 0 },
        previous: EntrySpan { first: LogIndex(1), count: 1 },
        vouched: LogPosition { term: Term(1), index: LogIndex(1) },
    };
    let with_flush_of = |node| {
        let mut bytes = writer.bytes_of(writer.tail());
        let place = Place { segment: 1, offset: bytes.len() as u64 };
        bytes.extend_from_slice(&header.encode(&Owner::new(CLUSTER, GROUP, node), place));
        let mut disk = writer.disk.clone();
        disk.set_contents(writer.tail(), bytes);
        recover(&mut disk).unwrap()
    };
    assert_eq!(with_flush_of(NodeId(2)), writer.latest);
    assert_eq!(with_flush_of(NODE).hard_state.term, Term(77));
}

#[test]
fn a_valid_record_in_the_place_of_another_is_not_served() {
    let mut writer = Writer::new(SimDisk::new(), SEGMENT_BYTES_LARGE);
    writer.append(1, 1, &[8]);
    writer.flush();
    writer.append(1, 2, &[8]);
    writer.flush();
    let other = record(1, 2, 8);
    let mut bytes = writer.bytes_of(writer.tail());
    let first = SEGMENT_HEADER_BYTES + FLUSH_HEADER_BYTES;
    bytes[first..first + other.bytes().len()].copy_from_slice(other.bytes());
    writer.disk.set_contents(writer.tail(), bytes);
    let (_, recovered) = open(&mut writer.disk, SEGMENT_BYTES_LARGE).unwrap();
    assert!(matches!(recovered.damaged[0].damage, Damage::Digest { sequence: 1 }));
    assert_heals(&writer.disk, &writer.latest, "the first record");
}

#[test]
fn a_used_directory_is_never_formatted() {
    let refused = |file| Err(StorageError::NotEmpty { file });
    let mut disk = SimDisk::new();
    Store::format(&mut disk, &identity()).unwrap();
    assert_eq!(Store::format(&mut disk, &identity()), refused(FileName::Identity));
    let mut writer = Writer::new(SimDisk::new(), SEGMENT_BYTES_LARGE);
    writer.append(1, 1, &[10]);
    writer.flush();
    writer.disk.perform(&DiskOp::Delete { file: FileName::Identity }).unwrap();
    assert_eq!(Store::format(&mut writer.disk, &identity()), refused(FileName::Segment(1)));
    assert_eq!(recover(&mut writer.disk), Err(StorageError::NoIdentity));
}

#[test]
fn a_missing_segment_is_a_hole_unless_there_is_nothing_after_it() {
    let writer = small_log(512, SEGMENT_BYTES_SMALL, Writer::flush);
    for segment in 1..writer.store.segments() {
        let mut disk = writer.disk.clone();
        let file = FileName::Segment(segment);
        disk.perform(&DiskOp::Delete { file }).unwrap();
        let (state, vouched) = recover_missing(&mut disk);
        let whole = writer.states.last().unwrap();
        assert_eq!(state.hard_state, whole.hard_state);
        assert_eq!(state.records, whole.records[..state.records.len()]);
        let last = place_of(whole.records.last().unwrap());
        let is_shorter = state.records.len() < whole.records.len();
        assert_eq!(vouched, if is_shorter { last } else { LogPosition::default() });
    }
    let mut disk = SimDisk::new();
    Store::format(&mut disk, &identity()).unwrap();
    let file = FileName::Segment(1);
    disk.perform(&DiskOp::Delete { file }).unwrap();
    assert_eq!(recover(&mut disk), Err(StorageError::MissingSegment { file }));
}

/// As [`recover_damaged`], where files are missing that the store counts.
fn recover_missing(disk: &mut SimDisk) -> (State, LogPosition) {
    let (store, recovered) = open(disk, SEGMENT_BYTES_LARGE).unwrap();
    store.check_invariants();
    let read = |index| {
        let (job, plan) = store.plan_read_one(LogIndex(index), JobId(0)).expect("in the log");
        let reads = job.perform(&mut disk.clone()).result.unwrap();
        plan.decode(store.record_seed(), &reads).unwrap().remove(0)
    };
    let records = (1..=recovered.last_index.0).map(read).collect();
    (State { hard_state: recovered.hard_state, records }, recovered.vouched)
}

#[test]
fn a_segment_that_lost_whole_flushes_has_a_hole_before_the_next() {
    let writer = small_log(512, SEGMENT_BYTES_SMALL, Writer::flush);
    for (file, start) in writer.places.iter().filter(|(file, _)| *file != writer.tail()) {
        let mut disk = writer.disk.clone();
        let bytes = writer.bytes_of(*file);
        disk.set_contents(*file, bytes[..*start as usize].to_vec());
        let (_, recovered) = open(&mut disk, SEGMENT_BYTES_SMALL).unwrap();
        assert_ne!(recovered.damaged, []);
        assert_heals(&disk, writer.states.last().unwrap(), &format!("{file} from {start} on"));
    }
}

#[test]
fn a_whole_record_of_an_unknown_kind_is_never_cut() {
    let mut writer = Writer::new(SimDisk::new(), SEGMENT_BYTES_LARGE);
    let mut unknown = record(1, 1, 8).bytes().to_vec();
    unknown[13] = 99;
    let checksum = ChecksumSeed::of(CLUSTER, GROUP).checksum(&unknown[8..]);
    unknown[..8].copy_from_slice(&checksum.to_le_bytes());
    let header = FlushHeader {
        records_bytes: unknown.len() as u32,
        record_count: 1,
        archived_count: 0,
        sequence: 1,
        hard_state: HardState::default(),
        record_digest: 0,
        entries: EntrySpan { first: LogIndex(1), count: 1 },
        previous: EntrySpan { first: LogIndex(1), count: 0 },
        vouched: LogPosition::default(),
    };
    let mut bytes = writer.bytes_of(writer.tail());
    let place = Place { segment: 1, offset: bytes.len() as u64 };
    bytes.extend_from_slice(&header.encode(&Owner::new(CLUSTER, GROUP, NODE), place));
    bytes.extend_from_slice(&unknown);
    writer.disk.set_contents(writer.tail(), bytes);
    let error = recover(&mut writer.disk).unwrap_err();
    assert!(matches!(error, StorageError::UnknownVersion { offset: 168, .. }), "{error}");
}

#[test]
fn entries_that_lie_together_are_fetched_by_one_read() {
    let mut writer = Writer::new(SimDisk::new(), SEGMENT_BYTES_LARGE);
    for index in 1..=10 {
        writer.append(1, index, &[40]);
        writer.flush();
    }
    let end = LogIndex(11);
    let plan_read = |bytes_max| writer.store.plan_read(LogIndex(3), end, bytes_max, JobId(5));
    let (job, plan) = plan_read(1 << 20).unwrap();
    assert_eq!((job.ops.len(), plan.first(), plan.end()), (1, LogIndex(3), end));
    let reads = job.perform(&mut writer.disk.clone()).result.unwrap();
    let records = plan.decode(writer.store.record_seed(), &reads).unwrap();
    assert_eq!(records, writer.latest.records[2..]);
    assert_eq!(plan_read(200).unwrap().1.end(), LogIndex(4), "what lies between counts too");
    assert_eq!(plan_read(280).unwrap().1.end(), LogIndex(5));
    assert_eq!(plan_read(1).unwrap().1.end(), LogIndex(4), "one at least");
}

#[test]
fn a_bit_that_flips_under_a_running_node_is_not_served() {
    let mut writer = Writer::new(SimDisk::new(), SEGMENT_BYTES_LARGE);
    writer.append(1, 1, &[40, 40]);
    writer.flush();
    let (job, plan) = writer.store.plan_read_one(LogIndex(2), JobId(5)).unwrap();
    let [DiskOp::Read { file, offset, len }] = job.ops[..] else { panic!("one read") };
    for at in 0..len as u64 {
        let mut disk = writer.disk.clone();
        assert!(disk.flip_bit(file, offset + at, 3));
        let reads = job.perform(&mut disk).result.unwrap();
        let error = plan.decode(writer.store.record_seed(), &reads).unwrap_err();
        assert_eq!(error, StorageError::Unreadable { index: LogIndex(2), file, offset });
    }
    // A whole record, but not the one that was asked for.
    let other = record(1, 1, 40).bytes().clone();
    assert!(plan.decode(writer.store.record_seed(), &[other]).is_err());
    assert!(plan.decode(writer.store.record_seed(), &[]).is_err());
}

#[test]
fn an_entry_is_read_back_only_while_it_is_durable_and_not_being_replaced() {
    let mut writer = Writer::new(SimDisk::new(), SEGMENT_BYTES_LARGE);
    let is_readable =
        |writer: &Writer, index| writer.store.plan_read_one(LogIndex(index), JobId(0)).is_some();
    writer.append(1, 1, &[1, 2, 3]);
    assert!(!is_readable(&writer, 1), "queued");
    let job = writer.store.next_write(JobId(1)).unwrap();
    assert!(!is_readable(&writer, 1), "under way");
    writer.append(2, 2, &[9]);
    job.perform(&mut writer.disk).result.unwrap();
    assert_eq!(writer.store.write_done().io, Some(IoId(1)));
    writer.store.check_invariants();
    assert!(is_readable(&writer, 1), "durable");
    assert!(!is_readable(&writer, 2), "durable, but a queued persist replaces it");
    writer.flush();
    assert!(is_readable(&writer, 2));
    assert!(!is_readable(&writer, 3), "cut off");
    assert_eq!(recover(&mut writer.disk).as_ref(), Ok(&writer.latest));
}

/// One step of a random workload.
#[derive(Clone, Debug)]
enum Step {
    /// Append records of these payload lengths, `back` entries before the log's end.
    Persist { back: u64, is_new_term: bool, payload_lens: Vec<usize> },
    /// Write all that is queued.
    Flush,
    /// Kill the process after this many operations of a flush; lose the power as well if there is a
    /// seed for what that does.
    Restart { operations: usize, power_failure: Option<u64> },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let lens = proptest::collection::vec(0_usize..200, 0..5);
    let persist = (prop_oneof![4 => Just(0), 1 => 0_u64..6], any::<bool>(), lens).prop_map(
        |(back, is_new_term, payload_lens)| Step::Persist { back, is_new_term, payload_lens },
    );
    let restart = (0_usize..6, any::<Option<u64>>())
        .prop_map(|(operations, power_failure)| Step::Restart { operations, power_failure });
    let step = prop_oneof![6 => persist, 3 => Just(Step::Flush), 2 => restart];
    proptest::collection::vec(step, 1..60)
}

/// A random workload beside its reference.
struct Model {
    writer: Writer,
    segment_bytes_max: u64,
    /// What must survive, then what may: the state after each persist that is not durable.
    candidates: Vec<(IoId, State)>,
}

impl Model {
    fn run(steps: &[Step], segment_bytes_max: u64) {
        let writer = Writer::new(SimDisk::new(), segment_bytes_max);
        let candidates = vec![(IoId(0), State::default())];
        let mut model = Self { writer, segment_bytes_max, candidates };
        let mut term = 1;
        for step in steps {
            match step {
                Step::Persist { back, is_new_term, payload_lens } => {
                    term += u64::from(*is_new_term || *back > 0);
                    let next = model.writer.latest.records.len() as u64 + 1;
                    model.writer.append(term, next.saturating_sub(*back).max(1), payload_lens);
                    let io = IoId(model.writer.next_io - 1);
                    model.candidates.push((io, model.writer.latest.clone()));
                }
                Step::Flush => while model.flush(usize::MAX) {},
                Step::Restart { operations, power_failure } => {
                    model.flush(*operations);
                    if let Some(seed) = power_failure {
                        let mut rng = Xoshiro256PlusPlus::seed_from_u64(*seed);
                        model.writer.disk.crash(CrashMode::Random, &mut rng);
                    }
                    model.reopen();
                }
            }
        }
        model.reopen();
    }

    /// Performs the first operations of the next flush; whether that was a whole one.
    fn flush(&mut self, operations: usize) -> bool {
        let Some(job) = self.writer.store.next_write(JobId(0)) else { return false };
        for op in job.ops.iter().take(operations) {
            self.writer.disk.perform(op).unwrap();
        }
        let is_whole = operations >= job.ops.len();
        if is_whole {
            let durable = self.writer.store.write_done().io.expect("it was a flush");
            self.writer.store.check_invariants();
            self.candidates.retain(|(io, _)| *io >= durable);
        }
        is_whole
    }

    /// The process ends and starts again.
    fn reopen(&mut self) {
        let state = recover(&mut self.writer.disk).unwrap();
        let is_known = self.candidates.iter().any(|(_, candidate)| *candidate == state);
        assert!(is_known, "{:?} became {state:?}", self.candidates);
        self.writer.store = open(&mut self.writer.disk, self.segment_bytes_max).unwrap().0;
        self.writer.next_io = 1;
        self.writer.latest = state.clone();
        self.candidates = vec![(IoId(0), state)];
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(256) })]

    #[test]
    fn any_workload_recovers_what_it_made_durable_and_nothing_that_it_never_wrote(
        steps in steps(),
        segment_bytes_max in prop_oneof![Just(200_u64), Just(1_000), Just(SEGMENT_BYTES_LARGE)],
    ) {
        Model::run(&steps, segment_bytes_max);
    }

    #[test]
    fn garbage_is_refused_or_cut_and_never_a_panic(
        identity_bytes in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..80)),
        garbage in proptest::collection::vec(any::<u8>(), 0..400),
        file_at in 0_u64..8,
        at in any::<proptest::sample::Index>(),
        is_appended in any::<bool>(),
    ) {
        let mut writer = small_log(512, SEGMENT_BYTES_SMALL, Writer::flush);
        let file = FileName::Segment(1 + file_at % writer.store.segments());
        let mut bytes = writer.bytes_of(file);
        let at = if is_appended { bytes.len() } else { at.index(bytes.len()) };
        let end = (at + garbage.len()).min(bytes.len());
        bytes.splice(at..end, garbage);
        writer.disk.set_contents(file, bytes);
        if let Some(bytes) = identity_bytes {
            writer.disk.set_contents(FileName::Identity, bytes);
        }
        if let Ok((state, vouched)) = recover_damaged(&mut writer.disk) {
            let is_begun = |whole: &State| {
                whole.hard_state == state.hard_state
                    && whole.records.starts_with(&state.records)
                    && (whole.records.len() == state.records.len()
                        || whole.records.last().map(place_of) == Some(vouched))
            };
            prop_assert!(writer.states.iter().any(is_begun), "{state:?}");
        }
    }
}
