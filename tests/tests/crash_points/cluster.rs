//! Three members in one thread whose disks may fail at any operation of the one that is watched.

use bytes::Bytes;
use engine::api::{Request, Response, Token};
use engine::block::BlockBuilder;
use engine::engine::Config;
use engine::ids::{ClusterId, GroupId, LogIndex, MessageId, NodeId, Sequence, SessionId, Term};
use engine::limits::Limits;
use engine::queue::{Command, Message, Queues, Reply};
use engine::raft::Membership;
use engine::record::{ChecksumSeed, Record};
use engine::replica::{Effect, Event, Input, Replica};
use engine::storage::disk::{Disk, DiskOp, Job, JobDone, Lane};
use engine::storage::{Identity, Store};
use engine::time::{Micros, Now};
use sim::disk::SimDisk;
use sim::workload::body_of;
use std::collections::{BTreeMap, BTreeSet};

pub(crate) const MEMBERS: [NodeId; 3] = [NodeId(1), NodeId(2), NodeId(3)];
/// The member whose disk fails.
pub(crate) const WATCHED: NodeId = NodeId(1);
/// Small, so that small writes tear in many ways.
const SECTOR_BYTES: u64 = 128;
/// A cluster that has not done what it was asked after so many turns is stuck.
const TURNS_MAX: usize = 20_000;

pub(crate) fn limits() -> Limits {
    Limits {
        segment_bytes_max: 4_096,
        snapshot_log_bytes: 2_000,
        snapshot_chunk_bytes_max: 300,
        log_cache_bytes_max: 2_000,
        ..Limits::default()
    }
}

fn config(node: NodeId, seed: u64) -> Config {
    Config {
        cluster: ClusterId([1; 16]),
        group: GroupId(0),
        node,
        founding: Membership::new(MEMBERS.to_vec()),
        election_timeout: Micros::from_millis(150),
        heartbeat_interval: Micros::from_millis(30),
        priority: 0,
        lease_drift_ppm: None,
        limits: limits(),
        seed: seed * 10 + node.0,
    }
}

/// Opens what is on a disk.
pub(crate) fn open(disk: &mut SimDisk, node: NodeId, now: Now) -> Replica<Queues> {
    let opened = Replica::open(config(node, 0), Queues::new(&limits()), now, disk);
    opened.unwrap_or_else(|error| panic!("node {node} cannot be opened: {error}"))
}

/// What must survive, as far as the watched member and all members together have promised it.
#[derive(Clone, Default, Debug)]
pub(crate) struct Promises {
    /// The highest term in anything that the watched member said.
    pub(crate) term: Term,
    /// Whom it has told that they have its vote.
    pub(crate) votes: BTreeMap<Term, NodeId>,
    /// The terms of all entries known to be committed.
    pub(crate) committed: BTreeMap<LogIndex, Term>,
    /// Every entry that was ever handed to a disk.
    pub(crate) written: BTreeSet<(LogIndex, Term)>,
    /// Messages whose sends were acknowledged and that nobody asked to take.
    pub(crate) waiting: BTreeSet<(String, MessageId)>,
    /// Messages that were ever sent.
    pub(crate) sent: BTreeSet<(String, MessageId)>,
}

pub(crate) struct Node {
    pub(crate) disk: SimDisk,
    pub(crate) replica: Replica<Queues>,
    inputs: Vec<Input>,
    is_cut_off: bool,
}

/// After each operation of the watched member's disk: the disks as they are, and what was promised.
pub(crate) type Watch<'w> = dyn FnMut(&BTreeMap<NodeId, Node>, &SimDisk, &Promises, Now) + 'w;

pub(crate) struct Cluster<'w> {
    pub(crate) nodes: BTreeMap<NodeId, Node>,
    pub(crate) now: Micros,
    pub(crate) promises: Promises,
    /// How often the watched member found other entries in the place of its own.
    pub(crate) truncations: usize,
    /// How often it was sent a snapshot.
    pub(crate) installs: usize,
    session: SessionId,
    next_sequence: Sequence,
    next_message: u64,
    next_token: u64,
    answers: BTreeMap<Token, Response<Reply>>,
    watch: Option<Box<Watch<'w>>>,
}

impl<'w> Cluster<'w> {
    /// Three new members.
    pub(crate) fn new(watch: Box<Watch<'w>>) -> Self {
        let disks = MEMBERS.map(|node| {
            let members = MEMBERS.map(|member| (member, format!("node{member}:7000"))).to_vec();
            let identity = Identity::founder(ClusterId([1; 16]), GroupId(0), node, members);
            let mut disk = SimDisk::with_sector_bytes(SECTOR_BYTES);
            Store::format(&mut disk, &identity).expect("the disk is empty");
            (node, disk)
        });
        let mut cluster = Self::on(disks, Promises::default(), Micros::from_secs(1));
        cluster.watch = Some(watch);
        cluster
    }

    /// Members that start on what their disks hold.
    pub(crate) fn on(
        disks: impl IntoIterator<Item = (NodeId, SimDisk)>,
        promises: Promises,
        now: Micros,
    ) -> Self {
        let mut cluster = Self {
            nodes: BTreeMap::new(),
            now,
            next_message: promises.sent.len() as u64 + 1,
            promises,
            truncations: 0,
            installs: 0,
            session: SessionId::ZERO,
            next_sequence: Sequence(1),
            next_token: 1,
            answers: BTreeMap::new(),
            watch: None,
        };
        for (id, mut disk) in disks {
            let replica = open(&mut disk, id, cluster.clocks());
            let node = Node { disk, replica, inputs: Vec::new(), is_cut_off: false };
            cluster.nodes.insert(id, node);
        }
        cluster
    }

    pub(crate) fn clocks(&self) -> Now {
        let wall = Micros::from_secs(1_700_000_000) + self.now;
        Now { monotonic: self.now, wall, wall_error: Micros::ZERO }
    }

    /// Everybody's loop turns once. With nothing to do, time passes until somebody's deadline.
    pub(crate) fn turn(&mut self) {
        let is_idle = self.nodes.values().all(|node| node.inputs.is_empty());
        if is_idle {
            let deadlines = self.nodes.values().filter_map(|node| node.replica.next_deadline());
            self.now = self.now.max(deadlines.min().expect("somebody waits for something"));
        }
        let now = self.clocks();
        for id in MEMBERS {
            let node = self.nodes.get_mut(&id).expect("a member");
            let mut effects = Vec::new();
            for input in node.inputs.drain(..).chain([Input::Turn]) {
                node.replica.step(now, input, &mut effects);
            }
            node.replica.check_invariants();
            self.note_committed(id);
            for effect in effects {
                self.take(id, effect);
            }
        }
    }

    fn take(&mut self, id: NodeId, effect: Effect<Reply>) {
        match effect {
            Effect::Disk(job) => {
                let done = self.perform(id, job);
                self.nodes.get_mut(&id).expect("a member").inputs.push(Input::Disk(done));
            }
            Effect::Send { to, message } => {
                if id == WATCHED {
                    self.promise(&message, to);
                }
                let is_cut_off = self.nodes[&id].is_cut_off || self.nodes[&to].is_cut_off;
                if !is_cut_off {
                    let receiver = self.nodes.get_mut(&to).expect("a member");
                    receiver.inputs.push(Input::Peer { from: id, message });
                }
            }
            Effect::Respond { token, response } => {
                self.answers.insert(token, response);
            }
            Effect::Event(Event::Fatal { reason }) => panic!("node {id}: {reason}"),
            Effect::Event(Event::Truncated { .. }) if id == WATCHED => self.truncations += 1,
            Effect::Event(Event::Installed { .. }) if id == WATCHED => self.installs += 1,
            Effect::Event(_) => {}
        }
    }

    fn promise(&mut self, message: &engine::raft::Message, to: NodeId) {
        use engine::raft::Body;
        match message.body {
            // Of a pre-vote the term is only one that would be.
            Body::PreVoteRequest { .. } | Body::PreVoteResponse { .. } => return,
            Body::VoteRequest { .. } => {
                self.promises.votes.insert(message.term, WATCHED);
            }
            Body::VoteResponse { granted: true } => {
                self.promises.votes.insert(message.term, to);
            }
            _ => {}
        }
        self.promises.term = self.promises.term.max(message.term);
    }

    fn note_committed(&mut self, id: NodeId) {
        let replica = &self.nodes[&id].replica;
        let known = self.promises.committed.last_key_value().map_or(0, |(index, _)| index.0);
        for index in (known + 1..=replica.raft().commit_index().0).map(LogIndex) {
            if let Some(term) = replica.term_at(index) {
                self.promises.committed.insert(index, term);
            }
        }
    }

    fn perform(&mut self, id: NodeId, job: Job) -> JobDone {
        if job.lane == Lane::Read {
            return job.perform(&mut self.nodes.get_mut(&id).expect("a member").disk);
        }
        let seed = ChecksumSeed::of(ClusterId([1; 16]), GroupId(0));
        for op in &job.ops {
            if let DiskOp::Write { parts, .. } = op {
                let records =
                    parts.iter().filter_map(|part| Record::take(seed, &mut part.clone()).ok());
                let written = records.map(|record| (record.index(), record.term()));
                self.promises.written.extend(written);
            }
            let node = self.nodes.get_mut(&id).expect("a member");
            node.disk.perform(op).expect("the disk works");
            if id == WATCHED
                && let Some(mut watch) = self.watch.take()
            {
                let disk = self.nodes[&id].disk.clone();
                watch(&self.nodes, &disk, &self.promises, self.clocks());
                self.watch = Some(watch);
            }
        }
        JobDone { id: job.id, result: Ok(Vec::new()), rest: Vec::new() }
    }

    /// Turns until `is_done`.
    pub(crate) fn run_until(&mut self, what: &str, is_done: impl Fn(&Self) -> bool) {
        for _ in 0..TURNS_MAX {
            if is_done(self) {
                return;
            }
            self.turn();
        }
        let states: Vec<_> = self.nodes.values().map(|node| node.replica.status()).collect();
        panic!("{what} does not come about: {states:#?}");
    }

    pub(crate) fn leader(&self) -> Option<NodeId> {
        let leads =
            |(_, node): &(&NodeId, &Node)| node.replica.raft().is_leader() && !node.is_cut_off;
        let leaders = self.nodes.iter().filter(leads);
        leaders.max_by_key(|(_, node)| node.replica.raft().term()).map(|(id, _)| *id)
    }

    /// Whether all who can be reached have applied the same, to the end of the leader's log.
    pub(crate) fn is_settled(&self) -> bool {
        let Some(leader) = self.leader() else { return false };
        let last = self.nodes[&leader].replica.raft().last_index();
        let mut reached = self.nodes.values().filter(|node| !node.is_cut_off);
        reached.all(|node| node.inputs.is_empty() && node.replica.applied_index() == last)
    }

    pub(crate) fn settle(&mut self) {
        self.run_until("agreement", Self::is_settled);
    }

    /// Lets time pass.
    pub(crate) fn idle(&mut self, millis: u64) {
        let end = self.now + Micros::from_millis(millis);
        while self.now < end {
            self.turn();
        }
    }

    pub(crate) fn cut_off(&mut self, node: NodeId, is_cut_off: bool) {
        self.nodes.get_mut(&node).expect("a member").is_cut_off = is_cut_off;
    }

    /// Hands in a request and returns its token.
    pub(crate) fn ask(&mut self, node: NodeId, request: Request) -> Token {
        let token = Token(self.next_token);
        self.next_token += 1;
        let node = self.nodes.get_mut(&node).expect("a member");
        node.inputs.push(Input::Client { token, request });
        token
    }

    /// Asks a member, and waits for its answer.
    pub(crate) fn answer(&mut self, node: NodeId, request: Request) -> Response<Reply> {
        let token = self.ask(node, request);
        self.run_until("an answer", |cluster| cluster.answers.contains_key(&token));
        self.answers.remove(&token).expect("it is there")
    }

    pub(crate) fn open_session(&mut self) {
        self.run_until("a leader", |cluster| cluster.leader().is_some());
        let leader = self.leader().expect("there is one");
        let block = Bytes::from(BlockBuilder::open_session());
        let Response::SessionOpened(session) = self.answer(leader, Request::Propose(block)) else {
            panic!("the session does not open");
        };
        (self.session, self.next_sequence) = (session, Sequence(1));
    }

    fn block(&mut self, commands: &[Command]) -> Bytes {
        let mut block =
            BlockBuilder::commands(self.session, self.next_sequence, self.next_sequence);
        commands.iter().for_each(|command| block.push_with(|bytes| command.encode_into(bytes)));
        self.next_sequence = Sequence(self.next_sequence.0 + commands.len() as u64);
        Bytes::from(block.finish())
    }

    fn messages(&mut self, queue: &str, body_lens: &[usize]) -> (Command, Vec<MessageId>) {
        let mut ids = Vec::new();
        let messages = body_lens.iter().map(|len| {
            let id = sim::workload::mint(1, self.next_message);
            self.next_message += 1;
            ids.push(id);
            self.promises.sent.insert((queue.to_owned(), id));
            Message {
                id,
                from: "test".to_owned(),
                to: queue.to_owned(),
                sent_at: engine::hlc::Hlc::ZERO,
                headers: Vec::new(),
                body: body_of(id, *len),
            }
        });
        let messages = messages.collect();
        (Command::Send { messages }, ids)
    }

    /// Sends messages, each of them with a body of its own length, and waits for the receipts.
    pub(crate) fn send(&mut self, queue: &str, body_lens: &[usize]) {
        let (command, ids) = self.messages(queue, body_lens);
        self.command(command);
        self.promises.waiting.extend(ids.into_iter().map(|id| (queue.to_owned(), id)));
    }

    /// A member is handed a send that nobody will answer.
    pub(crate) fn send_in_vain(&mut self, node: NodeId, queue: &str, body_lens: &[usize]) {
        let (command, _) = self.messages(queue, body_lens);
        let sequence = self.next_sequence;
        let block = self.block(&[command]);
        self.next_sequence = sequence;
        self.ask(node, Request::Propose(block));
    }

    /// Whether messages are taken away is open until it is answered; afterwards they are gone.
    pub(crate) fn delete(&mut self, queue: &str, is_to_go: impl Fn(usize) -> bool) {
        let of_queue = self.promises.waiting.iter().filter(|(name, _)| name == queue);
        let ids = of_queue.enumerate().filter(|(at, _)| is_to_go(*at)).map(|(_, (_, id))| *id);
        let ids: Vec<MessageId> = ids.collect();
        for id in &ids {
            self.promises.waiting.remove(&(queue.to_owned(), *id));
        }
        self.command(Command::Delete { queue: queue.to_owned(), ids });
    }

    fn command(&mut self, command: Command) {
        self.run_until("a leader", |cluster| cluster.leader().is_some());
        let leader = self.leader().expect("there is one");
        let block = self.block(&[command]);
        match self.answer(leader, Request::Propose(block)) {
            Response::Applied { results, .. } => assert!(results.iter().all(Result::is_ok)),
            other => panic!("{other:?}"),
        }
    }
}
