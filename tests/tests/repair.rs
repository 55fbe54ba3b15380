//! Members that lack records get them from the others: after a snapshot, and after damage. Replicas on
//! simulated disks, whose messages the test delivers, loses and doubles.

use bytes::Bytes;
use engine::api::{Request, Response, Token};
use engine::block::BlockBuilder;
use engine::engine::{Config, Status};
use engine::hlc::Hlc;
use engine::ids::{ClusterId, GroupId, LogIndex, MessageId, NodeId, Sequence, SessionId};
use engine::limits::Limits;
use engine::queue::{Command, Message, Queues, ReceiveMode, Reply};
use engine::raft::{Body, Membership, Message as PeerMessage};
use engine::replica::{Effect, Event, Input, Replica};
use engine::storage::disk::{FileName, Job};
use engine::storage::{Identity, Store};
use engine::time::{Micros, Now};
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use sim::disk::{CrashMode, SimDisk};
use std::collections::BTreeSet;

const CLUSTER: ClusterId = ClusterId([1; 16]);
const GROUP: GroupId = GroupId(0);
const STEP: Micros = Micros::from_millis(5);

/// So small that a few dozen messages make snapshots, and that bodies are read from the disk.
fn limits() -> Limits {
    Limits {
        segment_bytes_max: 4_096,
        snapshot_log_bytes: 2_000,
        snapshot_chunk_bytes_max: 500,
        log_cache_bytes_max: 500,
        ..Limits::default()
    }
}

struct Member {
    replica: Replica<Queues>,
    disk: SimDisk,
    jobs: Vec<Job>,
    lost: BTreeSet<LogIndex>,
    installs: usize,
}

struct Cluster {
    members: Vec<Member>,
    network: Vec<(NodeId, NodeId, PeerMessage)>,
    now: Micros,
    rng: Xoshiro256PlusPlus,
    /// Nobody hears it, and it hears nobody.
    cut_off: Option<u64>,
    /// Of ten messages so many are lost, and as many doubled.
    trouble: u32,
    session: SessionId,
    sequence: u64,
    answers: Vec<(Token, Response<Reply>)>,
    /// Records that went from member to member beside the log.
    pulled: usize,
}

fn open(node: u64, disk: &mut SimDisk, seed: u64, now: Micros) -> Replica<Queues> {
    let config = Config {
        cluster: CLUSTER,
        group: GROUP,
        node: NodeId(node),
        founding: Membership::new((1..=3).map(NodeId).collect()),
        priority: 0,
        lease_drift_ppm: None,
        election_timeout: Micros::from_millis(150),
        heartbeat_interval: Micros::from_millis(30),
        limits: limits(),
        seed,
    };
    Replica::open(config, Queues::new(&limits()), at(now), disk).expect("it can be opened")
}

fn at(monotonic: Micros) -> Now {
    Now { monotonic, wall: Micros::from_secs(1_000) + monotonic, wall_error: Micros::ZERO }
}

fn body(number: u64) -> Vec<u8> {
    let mut body = format!("<{number:05}>").into_bytes();
    body.resize(150, b'.');
    body
}

impl Cluster {
    fn new(seed: u64) -> Self {
        let members = (1..=3).map(|node| {
            let addresses = (1..=3).map(|it| (NodeId(it), format!("node{it}:7000"))).collect();
            let mut disk = SimDisk::new();
            let identity = Identity::founder(CLUSTER, GROUP, NodeId(node), addresses);
            Store::format(&mut disk, &identity).expect("the disk is empty");
            let replica = open(node, &mut disk, seed * 16 + node, Micros::ZERO);
            let (jobs, lost, installs) = (Vec::new(), BTreeSet::new(), 0);
            Member { replica, disk, jobs, lost, installs }
        });
        let mut cluster = Self {
            members: members.collect(),
            network: Vec::new(),
            now: Micros::ZERO,
            rng: Xoshiro256PlusPlus::seed_from_u64(seed),
            cut_off: None,
            trouble: 0,
            session: SessionId::ZERO,
            sequence: 1,
            answers: Vec::new(),
            pulled: 0,
        };
        let Response::SessionOpened(session) = cluster.call(&BlockBuilder::open_session()) else {
            panic!("a session")
        };
        cluster.session = session;
        cluster
    }

    fn member(&mut self, node: u64) -> &mut Member {
        &mut self.members[node as usize - 1]
    }

    fn status(&self, node: u64) -> Status {
        self.members[node as usize - 1].replica.status()
    }

    fn leader(&self) -> Option<u64> {
        let leads = |node: &u64| Some(*node) != self.cut_off && self.raft(*node).is_leader();
        (1..=3).filter(leads).max_by_key(|node| self.raft(*node).term())
    }

    fn raft(&self, node: u64) -> &engine::raft::Raft {
        self.members[node as usize - 1].replica.raft()
    }

    fn step(&mut self, node: u64, input: Input) {
        let now = at(self.now);
        let member = self.member(node);
        let mut effects = Vec::new();
        member.replica.step(now, input, &mut effects);
        member.replica.check_invariants();
        for effect in effects {
            match effect {
                Effect::Disk(job) => self.member(node).jobs.push(job),
                Effect::Send { to, message } => self.network.push((NodeId(node), to, message)),
                Effect::Respond { token, response } => self.answers.push((token, response)),
                Effect::Event(Event::Lost { index }) => _ = self.member(node).lost.insert(index),
                Effect::Event(Event::Installed { .. }) => self.member(node).installs += 1,
                Effect::Event(Event::Fatal { reason }) => panic!("node {node}: {reason}"),
                Effect::Event(_) => {}
            }
        }
    }

    /// A moment passes: one job of each disk is done, and what is under way arrives, or not.
    fn pass(&mut self) {
        self.now = self.now + STEP;
        for node in 1..=3 {
            if !self.member(node).jobs.is_empty() {
                let member = self.member(node);
                let done = member.jobs.remove(0).perform(&mut member.disk);
                self.step(node, Input::Disk(done));
            }
            self.step(node, Input::Turn);
        }
        for (from, to, message) in std::mem::take(&mut self.network) {
            let is_cut_off = |node: NodeId| Some(node.0) == self.cut_off;
            if is_cut_off(from) || is_cut_off(to) || self.rng.random_range(0..10) < self.trouble {
                continue;
            }
            if let Body::Records { records, .. } = &message.body {
                self.pulled += records.len();
            }
            if self.rng.random_range(0..10) < self.trouble {
                self.step(to.0, Input::Peer { from, message: message.clone() });
            }
            self.step(to.0, Input::Peer { from, message });
        }
    }

    fn run_until(&mut self, what: &str, is_done: impl Fn(&Self) -> bool) {
        for _ in 0..20_000 {
            if is_done(self) {
                return;
            }
            self.pass();
        }
        let statuses: Vec<Status> = (1..=3).map(|node| self.status(node)).collect();
        panic!("{what}: {statuses:#?}");
    }

    /// The leader's answer to a block, asked for until there is one that is final.
    fn call(&mut self, block: &[u8]) -> Response<Reply> {
        for token in (1..1_000).map(Token) {
            self.run_until("a leader", |cluster| cluster.leader().is_some());
            let leader = self.leader().expect("just seen");
            self.answers.clear();
            let request = Request::Propose(Bytes::copy_from_slice(block));
            self.step(leader, Input::Client { token, request });
            for _ in 0..2_000 {
                if !self.answers.is_empty() {
                    break;
                }
                self.pass();
            }
            match self.answers.pop() {
                None
                | Some((
                    _,
                    Response::Rejected(_)
                    | Response::Unknown { .. }
                    | Response::BodyMissing { is_lost: false, .. },
                )) => self.pass(),
                Some((_, response)) => return response,
            }
        }
        panic!("no answer")
    }

    fn command(&mut self, command: &Command) -> Response<Reply> {
        let sequence = Sequence(self.sequence);
        self.sequence += 1;
        let mut block = BlockBuilder::commands(self.session, sequence, sequence);
        block.push_with(|out| command.encode_into(out));
        self.call(&block.finish())
    }

    fn send(&mut self, numbers: impl IntoIterator<Item = u64>) {
        for number in numbers {
            let mut id = [0; 16];
            id[..8].copy_from_slice(&number.to_le_bytes());
            let message = Message {
                id: MessageId(id),
                from: String::new(),
                to: "q".into(),
                sent_at: Hlc::ZERO,
                headers: Vec::new(),
                body: body(number),
            };
            let sent = self.command(&Command::Send { messages: vec![message] });
            assert!(matches!(sent, Response::Applied { .. }), "{sent:?}");
        }
    }

    fn take(&mut self) -> Response<Reply> {
        self.command(&Command::Receive { queue: "q".into(), max: 1, mode: ReceiveMode::Take })
    }

    /// Takes a message each, which must be these, with their bodies.
    fn take_all(&mut self, numbers: impl IntoIterator<Item = u64>) {
        for number in numbers {
            let response = self.take();
            let Response::Applied { bodies, .. } = &response else { panic!("{response:?}") };
            let [found] = bodies.as_slice() else { panic!("{number}: {response:?}") };
            let body = body(number);
            assert!(found.windows(body.len()).any(|part| part == body), "{number}: {found:?}");
        }
    }

    fn crash(&mut self, node: u64) {
        let (seed, now) = (self.rng.random(), self.now);
        let mut rng = self.rng.clone();
        let member = self.member(node);
        member.jobs.clear();
        member.disk.crash(CrashMode::Random, &mut rng);
        member.replica = open(node, &mut member.disk, seed, now);
        self.network.retain(|(from, ..)| from.0 != node);
    }

    /// Damages every copy of a message's body on a member's disk; how many there were.
    fn rot(&mut self, node: u64, number: u64) -> usize {
        let disk = &mut self.member(node).disk;
        let mark = format!("<{number:05}>").into_bytes();
        let mut count = 0;
        for file in (0..200).map(FileName::Segment) {
            let Some(bytes) = disk.contents(file).map(<[u8]>::to_vec) else { continue };
            for at in 0..bytes.len().saturating_sub(mark.len()) {
                if bytes[at..].starts_with(&mark) {
                    disk.overwrite_at_rest(file, at as u64, b"#");
                    count += 1;
                }
            }
        }
        count
    }

    /// A cluster in which member 3 missed almost everything, and whose other members have left most of
    /// it behind.
    fn with_laggard(seed: u64) -> Self {
        let mut cluster = Self::new(seed);
        if cluster.leader() == Some(3) {
            cluster.hand_over(1);
        }
        cluster.send(1..=3);
        cluster.cut_off = Some(3);
        cluster.send(4..=60);
        let behind = cluster.status(3).last_index;
        cluster.run_until("the log's beginning goes", |cluster| {
            let leader = cluster.leader().expect("two of three");
            cluster.status(leader).first_index.0 > behind.0 + 20
        });
        cluster.cut_off = None;
        cluster
    }

    fn hand_over(&mut self, to: u64) {
        for token in (10_000..).map(Token) {
            self.run_until("a leader", |cluster| cluster.leader().is_some());
            let leader = self.leader().expect("just seen");
            if leader == to {
                return;
            }
            let request = Request::Transfer { to: Some(NodeId(to)) };
            self.step(leader, Input::Client { token, request });
            (0..100).for_each(|_| self.pass());
        }
    }

    fn is_complete(&self, node: u64) -> bool {
        let status = self.status(node);
        let leader = self.leader().map(|leader| self.status(leader).commit_index);
        status.missing == 0 && status.lost == 0 && Some(status.applied_index) == leader
    }
}

#[test]
fn a_member_that_was_left_behind_pulls_the_bodies_and_can_lead_and_deliver_them() {
    let mut cluster = Cluster::with_laggard(1);
    cluster.run_until("it lacks bodies", |cluster| cluster.status(3).missing > 20);
    assert!(cluster.status(3).applied_index > LogIndex(20), "its state came at once");
    cluster.run_until("it lacks nothing", |cluster| cluster.is_complete(3));
    assert!(cluster.member(3).installs > 0 && cluster.pulled >= 20);
    cluster.hand_over(3);
    cluster.take_all(1..=60);
    assert_eq!(cluster.leader(), Some(3));
}

#[test]
fn a_pull_survives_crashes_another_leader_and_a_bad_network() {
    for seed in 1..=6 {
        let mut cluster = Cluster::with_laggard(seed);
        cluster.trouble = 2;
        for round in 0..4 {
            cluster.run_until("it lacks bodies, or has them all", |cluster| {
                let status = cluster.status(3);
                status.missing > 0 || cluster.is_complete(3)
            });
            (0..round * 7).for_each(|_| cluster.pass());
            cluster.crash(3);
            cluster.hand_over(1 + round % 2);
        }
        cluster.run_until("it lacks nothing", |cluster| cluster.is_complete(3));
        assert!(cluster.members.iter().all(|member| member.lost.is_empty()));
        cluster.trouble = 0;
        cluster.hand_over(3);
        cluster.take_all(1..=60);
    }
}

#[test]
fn a_rotten_record_is_healed_from_a_follower_and_the_receive_that_waited_is_answered() {
    for number in [1, 7, 30] {
        let mut cluster = Cluster::new(2);
        cluster.send(1..=40);
        let leader = cluster.leader().expect("it answers");
        assert!(cluster.rot(leader, number) > 0);
        cluster.take_all(1..=40);
        assert_eq!(cluster.pulled, 1, "exactly what was damaged");
        cluster.run_until("it is durable again", |cluster| cluster.is_complete(leader));
        assert!(cluster.members.iter().all(|member| member.lost.is_empty()));
    }
}

#[test]
fn what_no_member_has_is_told_and_the_receive_is_refused_by_name() {
    let mut cluster = Cluster::new(3);
    cluster.send(1..=40);
    assert!((1..=3).all(|node| cluster.rot(node, 7) > 0));
    cluster.take_all(1..=6);
    let Response::BodyMissing { entry, is_lost: true } = cluster.take() else { panic!("lost") };
    let leader = cluster.leader().expect("it answers");
    assert_eq!(cluster.member(leader).lost, BTreeSet::from([entry]));
    cluster.run_until("nobody is any better", |cluster| {
        let status = cluster.status(leader);
        status.lost == 1 && status.missing == 0 && status.is_fit
    });
    cluster.take_all(8..=40);
}

#[test]
fn nothing_is_lost_while_a_member_that_may_have_it_is_away() {
    let mut cluster = Cluster::new(4);
    cluster.send(1..=40);
    let leader = cluster.leader().expect("it answers");
    let away = leader % 3 + 1;
    assert!((1..=3).filter(|node| *node != away).all(|node| cluster.rot(node, 7) > 0));
    cluster.cut_off = Some(away);
    cluster.take_all(1..=6);
    let until = cluster.now + Micros::from_secs(4);
    let mut block = BlockBuilder::commands(cluster.session, Sequence(47), Sequence(47));
    let take = Command::Receive { queue: "q".into(), max: 1, mode: ReceiveMode::Take };
    block.push_with(|out| take.encode_into(out));
    cluster.answers.clear();
    let request = Request::Propose(Bytes::from(block.finish()));
    let leader = cluster.leader().expect("it answers");
    cluster.step(leader, Input::Client { token: Token(77), request });
    cluster.run_until("a while", |cluster| cluster.now > until);
    assert_eq!(cluster.answers, [], "it waits");
    assert!(cluster.members.iter().all(|member| member.lost.is_empty()));
    cluster.cut_off = None;
    cluster.run_until("an answer", |cluster| !cluster.answers.is_empty());
    assert!(matches!(cluster.answers[0], (Token(77), Response::Applied { .. })));
}
