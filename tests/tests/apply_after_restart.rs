//! What a member applies that has to read its log back from the disk first.
//!
//! Owns cases that fuzzing found. Next: `engine::engine`'s fetches.

use engine::engine::Config;
use engine::hlc::Hlc;
use engine::ids::{ClusterId, GroupId, LogIndex, NodeId, Term};
use engine::limits::Limits;
use engine::queue::{Queues, Reply};
use engine::raft::Membership;
use engine::raft::{Body, LogPosition, Message};
use engine::record::{ChecksumSeed, EntryKind, Record, RecordBuilder};
use engine::replica::{Effect, Event, Input, Replica};
use engine::storage::disk::{Job, Lane};
use engine::storage::{Identity, Store};
use engine::time::{Micros, Now};
use sim::disk::SimDisk;

const CLUSTER: ClusterId = ClusterId([7; 16]);
const GROUP: GroupId = GroupId(0);
const NODE: NodeId = NodeId(1);
const NOW: Now = Now { monotonic: Micros::ZERO, wall: Micros::ZERO, wall_error: Micros::ZERO };

fn position(term: u64, index: u64) -> LogPosition {
    LogPosition { term: Term(term), index: LogIndex(index) }
}

fn record(term: u64, index: u64) -> Record {
    let seed = ChecksumSeed::of(CLUSTER, GROUP);
    let builder = RecordBuilder::default();
    builder.seal(seed, GROUP, LogIndex(index), Term(term), Hlc(index * 1_000), EntryKind::Tick)
}

/// An entry that only a newer build could have sealed.
fn record_of_unknown_blocks(term: u64, index: u64) -> Record {
    let seed = ChecksumSeed::of(CLUSTER, GROUP);
    let mut builder = RecordBuilder::default();
    builder.payload_mut().extend_from_slice(&[1, 0, 0, 0, 99]);
    let stamp = Hlc(index * 1_000);
    builder.seal(seed, GROUP, LogIndex(index), Term(term), stamp, EntryKind::Commands)
}

fn format(disk: &mut SimDisk) {
    let members = (1..=3).map(|node| (NodeId(node), format!("localhost:{node}"))).collect();
    let identity = Identity::founder(CLUSTER, GROUP, NODE, members);
    Store::format(disk, &identity).expect("the directory is empty");
}

fn open(disk: &mut SimDisk) -> Replica<Queues> {
    let limits = Limits::default();
    let config = Config {
        cluster: CLUSTER,
        group: GROUP,
        node: NODE,
        founding: Membership::new(vec![NODE, NodeId(2), NodeId(3)]),
        priority: 0,
        lease_drift_ppm: None,
        election_timeout: Micros::from_millis(150),
        heartbeat_interval: Micros::from_millis(30),
        limits: limits.clone(),
        seed: 1,
    };
    Replica::open(config, Queues::new(&limits), NOW, disk).expect("the directory is in order")
}

/// Hands in an append and a turn, and returns the jobs that follow.
fn append(
    replica: &mut Replica<Queues>,
    (from, term): (u64, u64),
    previous: LogPosition,
    records: Vec<Record>,
    commit: u64,
) -> Vec<Job> {
    let body = Body::Append { previous, commit: LogIndex(commit), round: 1, records };
    let message = Message { term: Term(term), body };
    let mut effects = Vec::new();
    replica.step(NOW, Input::Peer { from: NodeId(from), message }, &mut effects);
    replica.step(NOW, Input::Turn, &mut effects);
    effects
        .into_iter()
        .filter_map(|effect| if let Effect::Disk(job) = effect { Some(job) } else { None })
        .collect()
}

fn applied(effects: &[Effect<Reply>]) -> Vec<(LogIndex, Term)> {
    let of = |effect: &Effect<Reply>| match effect {
        Effect::Event(Event::Applied { index, term, .. }) => Some((*index, *term)),
        _ => None,
    };
    effects.iter().filter_map(of).collect()
}

/// After a restart entry 2 of term 1 is on disk only. The leader of term 2 replaces it and commits
/// the replacement with the same append. The disk still has the old entry when it is read to apply.
#[test]
fn an_entry_that_was_replaced_is_not_applied_though_the_disk_still_has_it() {
    let mut disk = SimDisk::new();
    format(&mut disk);
    let mut replica = open(&mut disk);
    let records = vec![record(1, 1), record(1, 2)];
    for job in append(&mut replica, (2, 1), position(0, 0), records, 0) {
        job.perform(&mut disk).result.expect("the disk works");
    }

    let mut replica = open(&mut disk);
    let mut effects = Vec::new();
    let jobs = append(&mut replica, (3, 2), position(1, 1), vec![record(2, 2)], 2);
    let (reads, writes): (Vec<Job>, Vec<Job>) =
        jobs.into_iter().partition(|job| job.lane == Lane::Read);
    assert!(!reads.is_empty(), "entry 1 has to be read");
    for job in reads.into_iter().chain(writes) {
        let done = job.perform(&mut disk);
        replica.step(NOW, Input::Disk(done), &mut effects);
        replica.check_invariants();
    }
    let expected = [(LogIndex(1), Term(1)), (LogIndex(2), Term(2))];
    assert_eq!(applied(&effects), expected);
}

/// Four megabytes become committed at once: they are applied over several turns, which follow one
/// another at once but let messages in between, so that a busy member is not taken for a dead one.
#[test]
fn a_long_log_is_applied_in_turns_that_let_heartbeats_in() {
    const ENTRIES: u64 = 40;
    let mut disk = SimDisk::new();
    format(&mut disk);
    let mut replica = open(&mut disk);
    let long = |index| {
        let mut builder = RecordBuilder::default();
        builder.payload_mut().extend_from_slice(&[0; 100_000]);
        let seed = ChecksumSeed::of(CLUSTER, GROUP);
        builder.seal(seed, GROUP, LogIndex(index), Term(1), Hlc(index), EntryKind::Tick)
    };
    let records = (1..=ENTRIES).map(long).collect();
    let jobs = append(&mut replica, (2, 1), position(0, 0), records, ENTRIES);
    let flushes = jobs.iter().filter(|job| job.lane == Lane::Write).count();
    assert_eq!(flushes, 1, "one flush");
    assert_eq!(replica.next_deadline(), Some(Micros::ZERO), "more can be applied at once");
    let mut turns = 0;
    while replica.status().applied_index < LogIndex(ENTRIES) {
        let mut effects = Vec::new();
        replica.step(NOW, Input::Turn, &mut effects);
        let count = applied(&effects).len();
        assert!((1..=3).contains(&count), "a turn applies about 256 KiB, not {count} entries");
        turns += 1;
    }
    assert!(turns >= 10);
    assert_ne!(replica.next_deadline(), Some(Micros::ZERO));
}

#[test]
fn nothing_is_applied_at_or_after_an_entry_that_cannot_be() {
    let mut disk = SimDisk::new();
    format(&mut disk);
    let mut replica = open(&mut disk);
    let records = vec![record(1, 1), record_of_unknown_blocks(1, 2), record(1, 3)];
    for job in append(&mut replica, (2, 1), position(0, 0), records, 0) {
        job.perform(&mut disk).result.expect("the disk works");
    }

    let mut replica = open(&mut disk);
    let mut effects = Vec::new();
    for job in append(&mut replica, (2, 1), position(1, 3), Vec::new(), 3) {
        let done = job.perform(&mut disk);
        replica.step(NOW, Input::Disk(done), &mut effects);
    }
    assert!(replica.failure().is_some_and(|reason| reason.contains("entry 2")));
    assert_eq!(applied(&effects), [(LogIndex(1), Term(1))]);
    assert_eq!(replica.status().applied_index, LogIndex(1));
}
