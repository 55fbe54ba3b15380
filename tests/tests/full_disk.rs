//! Disks without space: at any byte of anything that a node writes, and for a quorum of a cluster.
//! Scenarios 24 and 28 of docs/testing.md; the sweeps of both worlds fill disks as well.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use bytes::Bytes;
use engine::api::{Rejection, Request, Response, Shortage, Token};
use engine::block::BlockBuilder;
use engine::engine::{Config, Space};
use engine::hlc::Hlc;
use engine::ids::{ClusterId, GroupId, MessageId, NodeId, Sequence, SessionId};
use engine::limits::{self, Limits};
use engine::queue::{Command, Message, Queues, ReceiveMode, Reply};
use engine::raft::{Membership, Standing};
use engine::record::EntryKind;
use engine::replica::{Effect, Input, Replica};
use engine::storage::disk::{DiskOp, FileName, Job};
use engine::storage::{Identity, Store};
use engine::time::{Micros, Now};
use sim::disk::{Fate, SimDisk};
use tests::front::Front;
use tests::messages::{STANDING, matched_by};

const GROUP: GroupId = GroupId(0);
/// Sends of the script, each answered before the next.
const SENDS: u64 = 40;

/// So small that the script makes several segments and snapshots. No reserve: nothing is refused.
fn small() -> Limits {
    Limits {
        segment_bytes_max: 2_048,
        snapshot_log_bytes: 2_500,
        snapshot_chunk_bytes_max: 300,
        reserve_bytes: 0,
        ..Limits::default()
    }
}

fn identity() -> Identity {
    let members = vec![(NodeId(1), "localhost:1".to_owned())];
    Identity::founder(ClusterId::mint([1; 8], GROUP, &members), GROUP, NodeId(1), members)
}

/// The only voter of a cluster.
struct Node {
    disk: SimDisk,
    replica: Replica<Queues>,
    now: Now,
    answers: Vec<Response<Reply>>,
    session: SessionId,
    syncs_after_failure: usize,
    /// Jobs that delete several segments: what is tried again on a full disk begins like that.
    clearances: usize,
}

impl Node {
    fn new() -> Self {
        let mut disk = SimDisk::with_sector_bytes(64);
        Store::format(&mut disk, &identity()).unwrap();
        Self::start(disk)
    }

    fn start(mut disk: SimDisk) -> Self {
        let identity = identity();
        let config = Config {
            cluster: identity.cluster,
            group: GROUP,
            node: identity.node,
            founding: Membership::founding(identity.members.clone()),
            priority: 0,
            lease_drift_ppm: None,
            election_timeout: Micros::from_millis(150),
            heartbeat_interval: Micros::from_millis(30),
            limits: small(),
            seed: 1,
        };
        let now = Now { monotonic: Micros::from_secs(1), ..Now::default() };
        let machine = Queues::new(&config.limits);
        let replica = Replica::open(config, machine, Now::default(), &mut disk).unwrap();
        let session = SessionId::ZERO;
        let mut node = Self {
            disk,
            replica,
            now,
            answers: Vec::new(),
            session,
            syncs_after_failure: 0,
            clearances: 0,
        };
        node.step(Input::Turn);
        node
    }

    /// Steps until nothing is left to do at this time.
    fn step(&mut self, input: Input) {
        let mut inputs = vec![input];
        while let Some(input) = inputs.pop() {
            let had_failed = self.replica.failure().is_some();
            let mut effects = Vec::new();
            self.replica.step(self.now, input, &mut effects);
            self.replica.step(self.now, Input::Turn, &mut effects);
            for effect in effects {
                match effect {
                    Effect::Disk(job) => {
                        let syncs = job.ops.iter().filter(|op| matches!(op, DiskOp::Sync { .. }));
                        self.syncs_after_failure += usize::from(had_failed) * syncs.count();
                        let is_deletion = |op: &&DiskOp| {
                            matches!(op, DiskOp::Delete { file: FileName::Segment(_) })
                        };
                        let deletions = job.ops.iter().filter(is_deletion).count();
                        self.clearances += usize::from(deletions > 1);
                        inputs.push(Input::Disk(job.perform(&mut self.disk)));
                    }
                    Effect::Respond { response, .. } => self.answers.push(response),
                    Effect::Send { .. } | Effect::Event(_) => {}
                }
            }
            if inputs.is_empty() && self.replica.next_deadline() == Some(Micros::ZERO) {
                inputs.push(Input::Turn);
            }
        }
        self.replica.check_invariants();
    }

    fn wait(&mut self, span: Micros) {
        self.now.monotonic = self.now.monotonic + span;
        self.now.wall = self.now.wall + span;
        self.step(Input::Turn);
    }

    fn propose(&mut self, block: Vec<u8>) {
        let request = Request::Propose(Bytes::from(block));
        self.step(Input::Client { token: Token(1), request });
    }

    /// Opens the session, and then does what the script says, until an answer does not come at once.
    /// Of what is sent, three of four messages are taken again, so that old segments go.
    fn run_script(&mut self) {
        self.propose(BlockBuilder::open_session());
        match self.answers.pop() {
            Some(Response::SessionOpened(session)) => self.session = session,
            Some(other) => panic!("{other:?}"),
            None => return,
        }
        while self.answers.len() < SENDS as usize && self.command_answered() {}
    }

    fn command_answered(&mut self) -> bool {
        let before = self.answers.len();
        let sequence = before as u64 + 1;
        let command = if sequence.is_multiple_of(5) {
            let (queue, mode) = ("q".to_owned(), ReceiveMode::Take);
            Command::Receive { queue, max: 3, mode }
        } else {
            send(sequence)
        };
        let (first, acked_below) = (Sequence(sequence), Sequence(sequence));
        let mut block = BlockBuilder::commands(self.session, first, acked_below);
        block.push_with(|out| command.encode_into(out));
        self.propose(block.finish());
        self.answers.len() > before
    }

    fn messages(&self) -> u64 {
        self.replica.machine().message_count()
    }
}

fn send(ordinal: u64) -> Command {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&ordinal.to_le_bytes());
    let (id, to, body) = (MessageId(id), "q".to_owned(), vec![ordinal as u8; 150]);
    let (from, sent_at, headers) = (String::new(), Hlc::ZERO, Vec::new());
    Command::Send { messages: vec![Message { id, from, to, sent_at, headers, body }] }
}

/// How many messages are there at least after so many answers: one more receive may be under way.
fn least_left(answers: usize) -> u64 {
    let (answers, takes) = (answers as u64, answers as u64 / 5);
    (answers - takes).saturating_sub((takes + 1) * 3)
}

/// Everything that a run of the script writes beyond an empty node.
fn script_bytes() -> u64 {
    let mut node = Node::new();
    node.run_script();
    assert_eq!(node.answers.len(), SENDS as usize);
    node.replica.store_size().1 + 4_000
}

/// Scenario 28. The room ends in the middle of a record, of a segment's header, of a snapshot's piece:
/// wherever it does, the node lives, acknowledges nothing meanwhile, and goes on by itself.
#[test]
fn a_disk_that_fills_up_at_any_byte_holds_a_node_up_and_nothing_more() {
    let mut expected = Node::new();
    expected.run_script();
    let (mut held_up, mut in_snapshots, mut clearances) = (0, 0, 0);
    for room in (0..script_bytes()).step_by(29) {
        let mut node = Node::new();
        node.disk.set_room(Some(room));
        node.run_script();
        assert_eq!(node.replica.failure(), None, "room for {room} bytes");
        let acknowledged = node.answers.len();
        if acknowledged == SENDS as usize {
            continue;
        }
        held_up += 1;
        let writes_snapshot = node.disk.contents(FileName::SnapshotTemporary).is_some();
        in_snapshots += usize::from(writes_snapshot);
        // However often it is tried, there is no room.
        for _ in 0..5 {
            node.wait(limits::SPACE_CHECK_INTERVAL);
        }
        assert_eq!((node.answers.len(), node.replica.failure()), (acknowledged, None), "{room}");
        let status = node.replica.status();
        assert!(status.room.is_short && !status.is_fit, "room for {room} bytes");

        // The power may fail now: what was acknowledged is there, and the node starts.
        let mut left = node.disk.clone();
        left.crash_with(|_, _| Fate::Lost);
        let left = Node::start(left);
        assert!(left.messages() >= least_left(acknowledged), "room for {room} bytes");

        node.disk.set_room(None);
        // What was held up is done at once, and sends are taken again a little later.
        for _ in 0..5 {
            node.wait(limits::SPACE_CHECK_INTERVAL);
        }
        if node.session == SessionId::ZERO {
            let opened = node.answers.pop();
            let Some(Response::SessionOpened(session)) = opened else { panic!("{opened:?}") };
            node.session = session;
        }
        while node.answers.len() < SENDS as usize && node.command_answered() {}
        assert_eq!(node.answers.len(), SENDS as usize, "room for {room} bytes");
        assert_eq!(node.messages(), expected.messages(), "room for {room} bytes");
        node.wait(limits::SPACE_CHECK_INTERVAL);
        assert!(node.replica.status().is_fit && !node.replica.status().room.is_short, "{room}");
        clearances += node.clearances;
        let after_restart = Node::start(node.disk);
        assert_eq!(after_restart.messages(), expected.messages(), "room for {room} bytes");
    }
    assert!(held_up > 50, "{held_up} rooms were too small");
    assert!(in_snapshots > 5, "{in_snapshots} of them in the middle of a snapshot");
    println!("{clearances} times a full disk was cleared of several segments");
}

/// Scenario 24. Whatever a sync failed of, the node ends with it: no other sync follows that could
/// vouch for what the failed one dropped, and what was acknowledged survives the power failure after.
#[test]
fn a_failed_sync_is_never_followed_by_one_that_vouches_for_the_lost_page() {
    let mut failed = 0;
    for is_full in [false, true] {
        for operations in 0..400 {
            let mut node = Node::new();
            node.disk.fail_after(operations, is_full);
            node.run_script();
            // A write that was refused for want of space is tried again, and succeeds.
            node.wait(limits::SPACE_CHECK_INTERVAL);
            let Some(reason) = node.replica.failure() else { continue };
            failed += usize::from(is_full);
            assert!(!is_full || reason.contains("sync"), "{reason}");
            assert_eq!(node.syncs_after_failure, 0, "{reason}");
            let acknowledged = node.answers.len();
            node.wait(Micros::from_secs(5));
            assert_eq!(node.answers.len(), acknowledged, "it answers nobody any more");
            let mut left = node.disk.clone();
            left.crash_with(|_, _| Fate::Lost);
            let again = Node::start(left);
            let least = least_left(acknowledged);
            assert!(again.messages() >= least, "{operations}: {} of {least}", again.messages());
        }
    }
    assert!(failed > 20, "{failed} syncs failed for want of space");
}

/// A leader of three with a reserve of a thousand bytes.
fn leading() -> Front {
    Front::leading(3, Limits { reserve_bytes: 1_000, ..Limits::default() })
}

const ROOMY: Standing = STANDING;
const SHORT: Standing = Standing { is_short: true, ..STANDING };

/// Both followers have everything and say how they are, for `millis`.
fn hear(front: &mut Front, standings: [Standing; 2], millis: u64) {
    for _ in 0..millis / 20 {
        for (follower, standing) in (2..).zip(standings) {
            let raft = front.engine.raft();
            let message = matched_by(raft.term().0, raft.last_index().0, standing);
            front.hear(follower, message);
        }
        front.wait(20);
    }
}

fn open_session(front: &mut Front) -> SessionId {
    let at_once = front.propose(1);
    front.acknowledge_all();
    match at_once.or_else(|| front.answer(1)) {
        Some(Response::SessionOpened(session)) => session,
        other => panic!("{other:?}"),
    }
}

fn ask(
    front: &mut Front,
    session: SessionId,
    sequence: u64,
    command: &Command,
) -> Option<Response<Reply>> {
    let mut block = BlockBuilder::commands(session, Sequence(sequence), Sequence(sequence));
    block.push_with(|out| command.encode_into(out));
    front.ask(sequence + 100, Request::Propose(Bytes::from(block.finish())))
}

fn purge() -> Command {
    Command::Purge { queue: "q".to_owned() }
}

fn entries_about_space(front: &Front) -> usize {
    let records = front.persists.iter().flat_map(|persist| &persist.records);
    records.filter(|record| record.kind() == EntryKind::Space).count()
}

#[test]
fn one_short_node_of_three_stops_nobody_and_is_shown() {
    let mut front = leading();
    let session = open_session(&mut front);
    hear(&mut front, [SHORT, ROOMY], 1_000);
    let status = front.engine.status();
    assert_eq!(status.room.shortage, None);
    let short: Vec<u64> =
        status.followers.iter().filter(|it| it.is_short).map(|it| it.node.0).collect();
    assert_eq!(short, [2]);
    assert_eq!(ask(&mut front, session, 1, &send(1)), None, "it is on its way");
    assert_eq!(entries_about_space(&front), 0);
}

#[test]
fn a_quorum_that_needs_short_nodes_refuses_sends_and_nothing_else_until_there_is_space() {
    let mut front = leading();
    let session = open_session(&mut front);
    hear(&mut front, [SHORT, SHORT], 1_000);
    let shortage = Shortage { short: vec![NodeId(2), NodeId(3)], voters: 3 };
    assert_eq!(front.engine.status().room.shortage, Some(shortage.clone()));
    assert_eq!(entries_about_space(&front), 1);
    let refused = ask(&mut front, session, 1, &send(1));
    assert_eq!(refused, Some(Response::Rejected(Rejection::NoSpace(shortage.clone()))));
    let text = shortage.to_string();
    assert!(text.contains("2 of 3 voters") && text.contains("node 2, 3"), "{text}");
    // What takes away is taken, and a read is answered.
    assert_eq!(ask(&mut front, session, 1, &purge()), None);
    hear(&mut front, [SHORT, SHORT], 20);
    assert!(matches!(front.answer(101), Some(Response::Applied { .. })));
    // What was applied is answered again, though it was a send in another life.
    assert_eq!(ask(&mut front, session, 1, &send(1)), None);
    hear(&mut front, [SHORT, SHORT], 20);
    assert!(matches!(front.answer(101), Some(Response::Applied { .. })));

    hear(&mut front, [SHORT, ROOMY], 1_000);
    assert_eq!(front.engine.status().room.shortage, None);
    assert_eq!(entries_about_space(&front), 2);
    assert_eq!(ask(&mut front, session, 2, &send(2)), None);
}

#[test]
fn a_follower_that_is_away_leaves_a_short_one_needed() {
    let mut front = leading();
    let session = open_session(&mut front);
    // Member 3 says nothing.
    for _ in 0..50 {
        let raft = front.engine.raft();
        let message = matched_by(raft.term().0, raft.last_index().0, SHORT);
        front.hear(2, message);
        front.wait(20);
    }
    let shortage = Shortage { short: vec![NodeId(2)], voters: 3 };
    let refused = ask(&mut front, session, 1, &send(1));
    assert_eq!(refused, Some(Response::Rejected(Rejection::NoSpace(shortage))));
}

#[test]
fn a_leader_that_is_short_hands_over_to_one_that_is_not() {
    let mut front = leading();
    front.engine.set_space(Space { free_bytes: 999, is_refusing: false });
    hear(&mut front, [SHORT, ROOMY], 500);
    let told: Vec<u64> = front
        .sent
        .iter()
        .filter(|(_, message)| matches!(message.body, engine::raft::Body::TimeoutNow))
        .map(|(to, _)| *to)
        .collect();
    assert!(!told.is_empty() && told.iter().all(|to| *to == 3), "{told:?}");
}

#[test]
fn disks_that_are_all_full_refuse_sends_though_the_fact_cannot_be_stored() {
    let mut front = leading();
    let session = open_session(&mut front);
    let last = front.engine.raft().last_index().0;
    front.engine.set_space(Space { free_bytes: 0, is_refusing: true });
    // They answer, and store nothing.
    for _ in 0..50 {
        let term = front.engine.raft().term().0;
        for follower in 2..=3 {
            front.hear(follower, matched_by(term, last, SHORT));
        }
        front.wait(20);
    }
    assert_eq!(front.engine.status().room.shortage, None, "it is not committed");
    let refused = ask(&mut front, session, 1, &send(1));
    let shortage = Shortage { short: (1..=3).map(NodeId).collect(), voters: 3 };
    assert_eq!(refused, Some(Response::Rejected(Rejection::NoSpace(shortage))));
}

/// The replica asks its disk, and a quota counts as the disk's end.
#[test]
fn a_quota_makes_a_node_short_as_a_small_disk_does() {
    let identity = identity();
    let mut disk = SimDisk::new();
    Store::format(&mut disk, &identity).unwrap();
    let limits = Limits { reserve_bytes: 10_000, data_bytes_max: 5_000, ..Limits::default() };
    let config = Config {
        cluster: identity.cluster,
        group: GROUP,
        node: identity.node,
        founding: Membership::founding(identity.members.clone()),
        priority: 0,
        lease_drift_ppm: None,
        election_timeout: Micros::from_millis(150),
        heartbeat_interval: Micros::from_millis(30),
        limits: limits.clone(),
        seed: 1,
    };
    let machine = Queues::new(&limits);
    let mut replica = Replica::open(config, machine, Now::default(), &mut disk).unwrap();
    let mut effects: Vec<Effect<Reply>> = Vec::new();
    replica.step(Now::default(), Input::Turn, &mut effects);
    let asks = |effect: &Effect<Reply>| match effect {
        Effect::Disk(job) if job.ops == [DiskOp::Space] => Some(job.clone()),
        _ => None,
    };
    let job: Job = effects.iter().find_map(asks).expect("it asks at once");
    effects.clear();
    replica.step(Now::default(), Input::Disk(job.perform(&mut disk)), &mut effects);
    replica.step(Now::default(), Input::Turn, &mut effects);
    let room = replica.status().room;
    assert!(room.is_short, "{room:?}");
    assert!(room.free_bytes.unwrap() <= 5_000 && room.reserve_bytes == 10_000, "{room:?}");
}

#[test]
fn a_lone_node_takes_sends_again_at_twice_its_reserve() {
    let mut front = Front::leading(1, Limits { reserve_bytes: 1_000, ..Limits::default() });
    let session = open_session(&mut front);
    let mut with_free = |free_bytes| {
        front.engine.set_space(Space { free_bytes, is_refusing: false });
        (0..50).for_each(|_| front.wait(20));
        ask(&mut front, session, 1, &send(1))
    };
    for free_bytes in [10, 1_999] {
        let answer = with_free(free_bytes);
        assert!(matches!(answer, Some(Response::Rejected(Rejection::NoSpace(_)))), "{answer:?}");
    }
    let answer = with_free(2_000);
    assert!(matches!(answer, Some(Response::Applied { .. })), "{answer:?}");
}
