//! Three members in one thread: what a program has to write around the engine, with everything in
//! memory. A real one has sockets where this has `inputs`, files where this has `Memory`, and clocks
//! where this has `now`; its loop is that of [`Cluster::turn`].

use bytes::Bytes;
use engine::api::{Request, Response, Token};
use engine::block::BlockBuilder;
use engine::engine::Config;
use engine::ids::{ClusterId, GroupId, NodeId, Sequence, SessionId};
use engine::limits::{self, Limits};
use engine::raft::{Membership, RoleName};
use engine::replica::{Effect, Event, Input, Replica};
use engine::state_machine::StateMachine;
use engine::storage::disk::{Disk, DiskError, DiskOp, FileName, free_bytes_answer};
use engine::storage::{Identity, Store};
use engine::time::{Micros, Now};
use std::collections::BTreeMap;

const MEMBERS: [NodeId; 3] = [NodeId(1), NodeId(2), NodeId(3)];

/// The members, and what is on its way between them.
pub(crate) struct Cluster<S: StateMachine> {
    nodes: BTreeMap<NodeId, Node<S>>,
    now: Micros,
    token_last: u64,
    answers: BTreeMap<Token, Response<S::Reply>>,
}

struct Node<S: StateMachine> {
    disk: Memory,
    /// None while the process is dead.
    replica: Option<Replica<S>>,
    inputs: Vec<Input>,
}

impl<S: StateMachine + Default> Cluster<S> {
    /// Three new members.
    pub(crate) fn new() -> Self {
        let (token_last, answers) = (0, BTreeMap::new());
        let mut cluster = Self { nodes: BTreeMap::new(), now: Micros::ZERO, token_last, answers };
        for node in MEMBERS {
            let identity = Identity {
                cluster: ClusterId([1; 16]),
                group: GroupId(0),
                node,
                address: format!("node-{node}"),
                members: MEMBERS.map(|member| (member, format!("node-{member}"))).into(),
            };
            let mut disk = Memory::default();
            Store::format(&mut disk, &identity).expect("the disk is empty");
            cluster.nodes.insert(node, Node { disk, replica: None, inputs: Vec::new() });
            cluster.start(node);
        }
        cluster
    }

    /// Starts a member's process, which reads its log and joins in.
    pub(crate) fn start(&mut self, id: NodeId) {
        let config = Config {
            cluster: ClusterId([1; 16]),
            group: GroupId(0),
            node: id,
            founding: Membership::new(MEMBERS.to_vec()),
            election_timeout: limits::ELECTION_TIMEOUT_DEFAULT,
            heartbeat_interval: limits::HEARTBEAT_INTERVAL_DEFAULT,
            priority: 0,
            lease_drift_ppm: None,
            limits: Limits::default(),
            seed: id.0,
        };
        let now = self.clocks();
        let node = self.nodes.get_mut(&id).expect("a member");
        let replica = Replica::open(config, S::default(), now, &mut node.disk);
        node.replica = Some(replica.expect("its own disk, and whole"));
    }

    /// Kills a member's process. What is on its disk stays, and nothing else.
    pub(crate) fn kill(&mut self, id: NodeId) {
        let node = self.nodes.get_mut(&id).expect("a member");
        node.replica = None;
        node.inputs.clear();
    }

    /// What the clocks say, here and on every member.
    fn clocks(&self) -> Now {
        let wall = Micros::from_secs(1_700_000_000) + self.now;
        Now { monotonic: self.now, wall, wall_error: Micros::ZERO }
    }

    /// The loop around the engine, once: hand in all that waits and [`Input::Turn`], and do what
    /// comes out. With nothing left to hand in, sleep until the next deadline.
    fn turn(&mut self) {
        let now = self.clocks();
        let mut sent = Vec::new();
        for (from, node) in &mut self.nodes {
            let Some(replica) = &mut node.replica else { continue };
            let mut effects = Vec::new();
            for input in node.inputs.drain(..).chain([Input::Turn]) {
                replica.step(now, input, &mut effects);
            }
            for effect in effects {
                match effect {
                    Effect::Disk(job) => {
                        node.inputs.push(Input::Disk(job.perform(&mut node.disk)));
                    }
                    Effect::Send { to, message } => {
                        sent.push((to, Input::Peer { from: *from, message }));
                    }
                    Effect::Respond { token, response } => {
                        self.answers.insert(token, response);
                    }
                    Effect::Event(Event::Fatal { reason }) => panic!("node {from}: {reason}"),
                    Effect::Event(_) => {}
                }
            }
        }
        for (to, input) in sent {
            let node = self.nodes.get_mut(&to).expect("a member");
            if node.replica.is_some() {
                node.inputs.push(input);
            }
        }
        if self.nodes.values().all(|node| node.inputs.is_empty()) {
            let deadlines = self.replicas().filter_map(|(_, replica)| replica.next_deadline());
            self.now = deadlines.min().expect("an idle member waits for a leader").max(self.now);
        }
    }

    fn replicas(&self) -> impl Iterator<Item = (NodeId, &Replica<S>)> {
        self.nodes.iter().filter_map(|(id, node)| Some((*id, node.replica.as_ref()?)))
    }

    /// Goes on until somebody leads. A deposed leader that does not know it yet has an earlier term.
    pub(crate) fn leader(&mut self) -> NodeId {
        loop {
            let mut leaders: Vec<_> = self.replicas().map(|(id, it)| (it.status(), id)).collect();
            leaders.retain(|(status, _)| status.role == RoleName::Leader);
            if let Some((_, id)) = leaders.iter().max_by_key(|(status, _)| status.term) {
                return *id;
            }
            self.turn();
        }
    }

    fn hand_in(&mut self, id: NodeId, request: Request) -> Token {
        self.token_last += 1;
        let token = Token(self.token_last);
        let node = self.nodes.get_mut(&id).expect("a member");
        node.inputs.push(Input::Client { token, request });
        token
    }

    fn answer(&mut self, token: Token) -> Response<S::Reply> {
        loop {
            self.turn();
            if let Some(response) = self.answers.remove(&token) {
                return response;
            }
        }
    }

    /// What a client does: asks whoever leads, and asks again as long as it does not know the
    /// outcome. For a block of a session that is safe: its commands take effect once.
    pub(crate) fn ask(&mut self, request: &Request) -> Response<S::Reply> {
        loop {
            let leader = self.leader();
            let token = self.hand_in(leader, request.clone());
            match self.answer(token) {
                Response::Rejected(_) | Response::Unknown { .. } => {}
                response => return response,
            }
        }
    }

    /// Asks the leader and kills it when the command has taken effect and the answer is on its way,
    /// so that the client never sees it. Says who it was.
    pub(crate) fn ask_a_leader_that_dies(&mut self, request: &Request) -> NodeId {
        let leader = self.leader();
        let token = self.hand_in(leader, request.clone());
        let lost = self.answer(token);
        assert!(matches!(lost, Response::Applied { .. }));
        self.kill(leader);
        leader
    }

    /// A linearizable read: it sees every command that was answered before.
    pub(crate) fn query(&mut self, query: Vec<u8>) -> S::Reply {
        match self.ask(&Request::Query(query.into())) {
            Response::Answer { reply, .. } => reply,
            other => panic!("a query is answered and not {other:?}"),
        }
    }

    /// Goes on until all members have applied everything; all have the same state then.
    pub(crate) fn settle(&mut self) {
        loop {
            let last = self.replicas().map(|(_, it)| it.status().last_index).max();
            if self.replicas().all(|(_, it)| Some(it.status().applied_index) == last) {
                break;
            }
            self.turn();
        }
        let mut digests: Vec<u64> = self.replicas().map(|(_, it)| it.machine().digest()).collect();
        digests.dedup();
        assert_eq!(digests.len(), 1, "equal logs make equal states");
    }
}

/// A client's side of its session: commands are numbered, so that each takes effect once.
pub(crate) struct Session {
    id: SessionId,
    next: Sequence,
}

impl Session {
    pub(crate) fn open<S: StateMachine + Default>(cluster: &mut Cluster<S>) -> Self {
        match cluster.ask(&Request::Propose(BlockBuilder::open_session().into())) {
            Response::SessionOpened(id) => Self { id, next: Sequence(1) },
            other => panic!("a session is opened and not {other:?}"),
        }
    }

    /// A request for one command. However often it is asked, it takes effect once.
    pub(crate) fn request(&mut self, command: &[u8]) -> Request {
        // One command at a time: when this one is sent, the replies of all before are known.
        let mut block = BlockBuilder::commands(self.id, self.next, self.next);
        block.push(command);
        self.next = self.next.next();
        Request::Propose(block.finish().into())
    }

    /// Has a command applied and returns its reply.
    pub(crate) fn apply<S: StateMachine + Default>(
        &mut self,
        cluster: &mut Cluster<S>,
        command: &[u8],
    ) -> S::Reply {
        let request = self.request(command);
        reply_to(cluster.ask(&request))
    }
}

/// The reply to the only command of a block.
pub(crate) fn reply_to<R: std::fmt::Debug>(response: Response<R>) -> R {
    match response {
        Response::Applied { mut results, .. } if results.len() == 1 => {
            results.remove(0).expect("the session is open and in sequence")
        }
        Response::Invalid { reply, .. } => reply,
        other => panic!("a command is applied or invalid and not {other:?}"),
    }
}

/// A directory of files in memory.
#[derive(Default)]
struct Memory(BTreeMap<FileName, Vec<u8>>);

impl Disk for Memory {
    fn list(&mut self) -> Result<Vec<(FileName, u64)>, DiskError> {
        Ok(self.0.iter().map(|(name, bytes)| (*name, bytes.len() as u64)).collect())
    }

    fn perform(&mut self, op: &DiskOp) -> Result<Bytes, DiskError> {
        match op {
            DiskOp::Read { file, offset, len } => {
                let bytes = self.0.get(file).map_or(&[][..], |bytes| bytes);
                let start = bytes.len().min(*offset as usize);
                let end = bytes.len().min(start + len);
                return Ok(Bytes::copy_from_slice(&bytes[start..end]));
            }
            DiskOp::Write { file, offset, parts } => {
                let (bytes, parts) = (self.0.entry(*file).or_default(), parts.concat());
                let start = *offset as usize;
                bytes.resize(bytes.len().max(start + parts.len()), 0);
                bytes[start..start + parts.len()].copy_from_slice(&parts);
            }
            DiskOp::Truncate { file, len } => {
                self.0.entry(*file).or_default().truncate(*len as usize);
            }
            DiskOp::Rename { from, to } => {
                let bytes = self.0.remove(from).unwrap_or_default();
                self.0.insert(*to, bytes);
            }
            DiskOp::Delete { file } => drop(self.0.remove(file)),
            DiskOp::Sync { .. } | DiskOp::SyncDirectory => {}
            DiskOp::Space => return Ok(free_bytes_answer(u64::MAX)),
        }
        Ok(Bytes::new())
    }
}
