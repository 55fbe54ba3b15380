//! A cluster of one out of what a survivor has: everything is there, and nothing of the old cluster
//! ever passes in the new one.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use bytes::Bytes;
use engine::api::{CommandError, Request, Response, Token};
use engine::block::BlockBuilder;
use engine::engine::Config;
use engine::hlc::Hlc;
use engine::ids::{ClusterId, GroupId, LogIndex, MessageId, NodeId, Sequence, SessionId, Term};
use engine::limits::Limits;
use engine::queue::{Command, Message, Queues, ReceiveMode, Reply};
use engine::raft::{
    Change, ChangeRequest, LogPosition, Membership, Reset, Snapshot, SnapshotMeta, Step,
};
use engine::record::{ChecksumSeed, Record, RecordError};
use engine::replica::{Effect, Input, Replica};
use engine::storage::disk::{Disk, FileName, JobId};
use engine::storage::{
    HardState, Identity, IoId, Persist, Rescue, RescueError, StorageError, Store,
};
use engine::time::{Micros, Now};
use sim::disk::{Fate, SimDisk};

const GROUP: GroupId = GroupId(0);
/// Commands of the first of these sequences leave nothing behind; replies of the others are wanted.
const GONE: u64 = 60;
const KEPT: u64 = 60;

type Results = Vec<Result<Reply, CommandError>>;

fn identity(random: u8, node: u64) -> Identity {
    let members = vec![(NodeId(node), format!("localhost:{node}"))];
    let cluster = ClusterId::mint([random; 8], GROUP, &members);
    Identity::founder(cluster, GROUP, NodeId(node), members)
}

/// So small that a few dozen messages make snapshots and purge segments.
fn limits() -> Limits {
    Limits { segment_bytes_max: 2_048, snapshot_log_bytes: 4_096, ..Limits::default() }
}

/// The only voter of a cluster, on a disk that is done at once.
struct Node {
    disk: SimDisk,
    replica: Replica<Queues>,
    now: Now,
}

impl Node {
    fn start(mut disk: SimDisk, identity: &Identity) -> Self {
        let config = Config {
            cluster: identity.cluster,
            group: GROUP,
            node: identity.node,
            founding: Membership::founding(identity.members.clone()),
            priority: 0,
            lease_drift_ppm: None,
            election_timeout: Micros::from_millis(150),
            heartbeat_interval: Micros::from_millis(30),
            limits: limits(),
            seed: 1,
        };
        let now = Now { monotonic: Micros::from_secs(1), ..Now::default() };
        let replica =
            Replica::open(config, Queues::new(&limits()), Now::default(), &mut disk).unwrap();
        let mut node = Self { disk, replica, now };
        node.step(Input::Turn);
        node
    }

    /// Steps until nothing is left to do; the last answer.
    fn step(&mut self, input: Input) -> Option<Response<Reply>> {
        let mut answer = None;
        let mut inputs = vec![input];
        while let Some(input) = inputs.pop() {
            let mut effects = Vec::new();
            self.replica.step(self.now, input, &mut effects);
            self.replica.step(self.now, Input::Turn, &mut effects);
            self.replica.check_invariants();
            for effect in effects {
                match effect {
                    Effect::Disk(job) => inputs.push(Input::Disk(job.perform(&mut self.disk))),
                    Effect::Respond { response, .. } => answer = Some(response),
                    Effect::Send { .. } | Effect::Event(_) => {}
                }
            }
            if inputs.is_empty() && self.replica.next_deadline() == Some(Micros::ZERO) {
                inputs.push(Input::Turn);
            }
        }
        assert_eq!(self.replica.failure(), None);
        answer
    }

    fn ask(&mut self, request: Request) -> Response<Reply> {
        self.step(Input::Client { token: Token(1), request }).expect("it answers at once")
    }

    fn propose(&mut self, block: Vec<u8>) -> Response<Reply> {
        self.ask(Request::Propose(Bytes::from(block)))
    }

    fn command(&mut self, session: SessionId, sequence: u64, command: &Command) -> Results {
        let acked_below = Sequence(if sequence > GONE { GONE + 1 } else { sequence });
        let mut block = BlockBuilder::commands(session, Sequence(sequence), acked_below);
        block.push_with(|out| command.encode_into(out));
        match self.propose(block.finish()) {
            Response::Applied { results, .. } => results,
            other => panic!("{other:?}"),
        }
    }
}

fn body(ordinal: u64) -> Vec<u8> {
    vec![ordinal as u8; 150]
}

fn send(queue: &str, ordinal: u64) -> Command {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&ordinal.to_le_bytes());
    let (id, to, body) = (MessageId(id), queue.into(), body(ordinal));
    let (from, sent_at, headers) = (String::new(), Hlc::ZERO, Vec::new());
    Command::Send { messages: vec![Message { id, from, to, sent_at, headers, body }] }
}

/// What a survivor was told and has.
struct Survivor {
    disk: SimDisk,
    session: SessionId,
    receipts: Vec<Results>,
}

/// A member of a cluster that has snapshots, lacks the log's beginning, and has had another member.
fn survivor() -> Survivor {
    let mut disk = SimDisk::new();
    Store::format(&mut disk, &identity(1, 1)).unwrap();
    let mut node = Node::start(disk, &identity(1, 1));
    let opened = node.propose(BlockBuilder::open_session());
    let Response::SessionOpened(session) = opened else { panic!("{opened:?}") };
    for ordinal in 1..GONE {
        node.command(session, ordinal, &send("gone", ordinal));
    }
    node.command(session, GONE, &Command::Purge { queue: "gone".into() });
    let address = "localhost:2".into();
    let steps = vec![Step::Add { address, claim: None, is_joining: false }];
    let change = Change { steps, ..Change::default() };
    let changed = node.ask(Request::Change(ChangeRequest::Change(change)));
    assert!(matches!(changed, Response::Changed { .. }), "{changed:?}");
    let mut receipts = Vec::new();
    for ordinal in GONE + 1..=GONE + KEPT {
        receipts.push(node.command(session, ordinal, &send("kept", ordinal)));
    }
    let status = node.replica.status();
    assert!(status.first_index > LogIndex(1), "the beginning is gone");
    assert!(status.snapshot_index > status.first_index);
    Survivor { disk: node.disk, session, receipts }
}

fn files(disk: &mut SimDisk) -> Vec<(FileName, Vec<u8>)> {
    let names = disk.list().unwrap().into_iter().map(|(file, _)| file);
    names.map(|file| (file, disk.contents(file).unwrap().to_vec())).collect()
}

fn rescue(
    source: &mut SimDisk,
    target: &mut SimDisk,
    identity: &Identity,
) -> Result<(), RescueError> {
    Rescue::open(source)?.copy(target, identity, |_| {})
}

#[test]
fn every_message_and_every_session_survives_with_the_receipts_that_were_given() {
    let Survivor { mut disk, session, receipts } = survivor();
    let before = files(&mut disk);
    let findings = Rescue::open(&mut disk).unwrap().findings().clone();
    assert_eq!(findings.identity, identity(1, 1));
    assert_eq!(findings.address(), "localhost:1");
    assert!(findings.snapshot > LogIndex::ZERO && findings.base > LogIndex::ZERO);
    assert_eq!(Rescue::open(&mut disk).unwrap().next_node(), NodeId(3), "2 was given out");

    let (mut new, identity) = (SimDisk::new(), identity(2, 3));
    rescue(&mut disk, &mut new, &identity).unwrap();
    assert_eq!(files(&mut disk), before, "the source is as it was");
    let mut node = Node::start(new, &identity);
    let status = node.replica.status();
    assert_eq!(status.membership_index, findings.last.index.next());
    let members: Vec<_> = status.membership.members().iter().map(|m| m.node).collect();
    assert_eq!((members, status.term > findings.hard_state.term), (vec![NodeId(3)], true));
    for (ordinal, receipt) in (GONE + 1..).zip(&receipts) {
        let again = node.command(session, ordinal, &send("kept", ordinal));
        assert_eq!(again, *receipt, "the remembered reply");
    }
    for ordinal in 1..=KEPT {
        let take = Command::Receive { queue: "kept".into(), max: 1, mode: ReceiveMode::Take };
        let sequence = GONE + KEPT + ordinal;
        let acked_below = Sequence(sequence);
        let mut block = BlockBuilder::commands(session, Sequence(sequence), acked_below);
        block.push_with(|out| take.encode_into(out));
        let Response::Applied { bodies, .. } = node.propose(block.finish()) else {
            panic!("applied")
        };
        let [part] = &bodies[..] else { panic!("one message") };
        let whole = body(GONE + ordinal);
        assert!(part.windows(whole.len()).any(|window| window == whole), "message {ordinal}");
    }
}

#[test]
fn nothing_of_the_old_cluster_passes_in_the_new_one_and_the_other_way_round() {
    let Survivor { mut disk, .. } = survivor();
    let (mut new, new_identity) = (SimDisk::new(), identity(2, 3));
    rescue(&mut disk, &mut new, &new_identity).unwrap();
    let open = |disk: &mut SimDisk, identity: &Identity| {
        Store::open(disk, identity.cluster, GROUP, identity.node, &limits()).map(|_| ())
    };
    let error = open(&mut new, &identity(1, 1)).unwrap_err();
    assert!(matches!(error, StorageError::Foreign { file: FileName::Identity, .. }), "{error}");
    // A segment or a snapshot of an old member, put among the new one's files.
    for (file, bytes) in files(&mut disk) {
        let mut mixed = new.clone();
        if matches!(file, FileName::Segment(_) | FileName::Snapshot(_)) {
            let last = new.list().unwrap().into_iter().map(|(name, _)| name);
            let is_segment = |name: &FileName| matches!(name, FileName::Segment(_));
            let is_snapshot = |name: &FileName| matches!(name, FileName::Snapshot(_));
            let mut same_kind = last
                .filter(|name| is_segment(name) == is_segment(&file))
                .filter(|name| is_snapshot(name) == is_snapshot(&file));
            let place = same_kind.next_back().unwrap();
            mixed.set_contents(place, bytes);
            let error = open(&mut mixed, &new_identity).unwrap_err();
            assert!(matches!(error, StorageError::Foreign { .. }), "{error}");
        }
    }
    // A record of an old member, as it would come in an append.
    let (old, _) = Store::open(&mut disk, identity(1, 1).cluster, GROUP, NodeId(1), &limits())
        .expect("it is whole");
    let last = Rescue::open(&mut disk.clone()).unwrap().findings().last.index;
    let (job, _) = old.plan_read_one(last, JobId(1)).unwrap();
    let mut bytes = job.perform(&mut disk).result.unwrap().remove(0);
    let refused = Record::take(ChecksumSeed::of(new_identity.cluster, GROUP), &mut bytes.clone());
    assert!(matches!(refused, Err(RecordError::Checksum { .. })), "{refused:?}");
    Record::take(old.record_seed(), &mut bytes).unwrap();
}

#[test]
fn a_copy_that_was_interrupted_at_any_operation_is_no_nodes_directory() {
    let Survivor { mut disk, .. } = survivor();
    let identity = identity(2, 3);
    let mut failures = 0;
    for operations in 0.. {
        let mut new = SimDisk::new();
        new.fail_after(operations, false);
        let copied = rescue(&mut disk, &mut new, &identity);
        for fate in [Fate::Lost, Fate::Kept] {
            let mut left = new.clone();
            left.crash_with(|_, _| fate.clone());
            match Store::read_identity(&mut left) {
                Ok(found) => {
                    assert_eq!(found, identity);
                    Store::open(&mut left, identity.cluster, GROUP, identity.node, &limits())
                        .expect("an identity is the last that is written");
                }
                Err(error) => {
                    assert_eq!(error, StorageError::NoIdentity);
                    assert!(copied.is_err(), "a finished copy is durable");
                }
            }
        }
        if copied.is_ok() {
            break;
        }
        failures += 1;
    }
    assert!(failures > 20, "{failures}");
}

#[test]
fn a_copy_goes_to_an_empty_directory_only() {
    let Survivor { mut disk, .. } = survivor();
    let mut used = SimDisk::new();
    Store::format(&mut used, &identity(3, 1)).unwrap();
    let before = files(&mut used);
    let error = rescue(&mut disk, &mut used, &identity(2, 3)).unwrap_err();
    let RescueError::Storage(StorageError::NotEmpty { .. }) = error else { panic!("{error}") };
    assert_eq!(files(&mut used), before);
}

#[test]
fn a_node_that_was_still_receiving_the_log_is_no_source() {
    let mut disk = SimDisk::new();
    Store::format(&mut disk, &identity(1, 1)).unwrap();
    let cluster = identity(1, 1).cluster;
    let (mut store, _) = Store::open(&mut disk, cluster, GROUP, NodeId(1), &limits()).unwrap();
    let position = |index| LogPosition { term: Term(2), index: LogIndex(index) };
    let meta = SnapshotMeta {
        last: position(9),
        stamp: Hlc(9),
        base: position(5),
        term_runs: vec![(LogIndex(5), Term(2))],
        membership: (LogIndex::ZERO, Membership::new(vec![NodeId(1)])),
        bytes: 3,
        checksum: ChecksumSeed(0).checksum(b"abc"),
    };
    store.save_snapshot(Snapshot { meta, bytes: Bytes::from_static(b"abc") });
    let reset = Some(Box::new(Reset { snapshot: LogIndex(9), base: position(5) }));
    let hard_state = HardState { term: Term(2), ..HardState::default() };
    store.persist(Persist { io: IoId(1), hard_state, reset, records: Vec::new() });
    while let Some(job) = store.next_write(JobId(1)) {
        job.perform(&mut disk).result.unwrap();
        store.write_done();
    }
    let mut new = SimDisk::new();
    let error = rescue(&mut disk, &mut new, &identity(2, 3)).unwrap_err();
    let expected = RescueError::Unfinished { snapshot: LogIndex(9), last: LogIndex(5) };
    assert_eq!((error, new.list().unwrap().len()), (expected, 0));
}
