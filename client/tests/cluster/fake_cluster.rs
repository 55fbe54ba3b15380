//! A cluster in one process: real sockets, real sessions and queues, and no replication. One shared
//! log stands for what the nodes agree on, so a test decides who leads, who is killed and which
//! answers are lost, and then looks at what was applied.

use bytes::{Bytes, BytesMut};
use client::{Client, Options};
use engine::api::{BackupAnswer, CommandError, Rejection, Response};
use engine::block::{Block, BlockKind};
use engine::hlc::Hlc;
use engine::ids::{ClusterId, LogIndex, NodeId, Term};
use engine::limits::Limits;
use engine::queue::{Command, Queues, Reply};
use engine::raft::{ChangeError, ChangeRequest, Membership};
use engine::session::{Sessions, Verdict};
use engine::state_machine::{CommandContext, StateMachine, Watched};
use engine::time::Micros;
use engine::wire::client::{
    Call, ClientFrame, ClusterView, Greeting, Health, Hello, NodeStatus, NodeView, ServerFrame,
    Welcome, read_client_frame, write_response,
};
use engine::wire::{TailCheck, decode, take_frame, write_frame};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

const CLUSTER: ClusterId = ClusterId([7; 16]);
/// The stamp of every stale read.
pub(crate) const STALE_TIME: Hlc = Hlc::from_millis(77);

/// What a leader does with the next blocks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mood {
    Serves,
    /// Applies, and closes the connection instead of answering.
    AppliesAndHangsUp,
    /// Neither applies nor answers.
    Ignores,
    /// Refuses this many as full, then serves.
    Full(u32),
}

/// What the nodes agree on.
pub(crate) struct World {
    pub(crate) sessions: Sessions<Reply>,
    pub(crate) queues: Queues,
    pub(crate) mood: Mood,
    /// This node keeps its connections open and does nothing.
    pub(crate) frozen: Option<NodeId>,
    pub(crate) membership: Membership,
    /// How the next requests for a change are refused.
    pub(crate) refusals: VecDeque<ChangeError>,
    /// Requests for a change or a transfer that reached a leader.
    pub(crate) operations: u64,
    payloads: Vec<Bytes>,
    view: watch::Sender<ClusterView>,
    woken: watch::Sender<u64>,
}

pub(crate) struct FakeCluster {
    pub(crate) addresses: Vec<String>,
    world: Arc<Mutex<World>>,
    nodes: Vec<JoinHandle<()>>,
}

impl FakeCluster {
    /// Three nodes; the first leads.
    pub(crate) async fn start() -> Self {
        Self::with_limits(Limits::default()).await
    }

    pub(crate) async fn with_limits(limits: Limits) -> Self {
        let mut listeners = Vec::new();
        let (leader, term) = (Some(NodeId(1)), Term(1));
        let mut view = ClusterView { leader, term, ..ClusterView::default() };
        for node in 1..=3 {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap().to_string();
            let health = Health::Reachable;
            view.nodes.push(NodeView { node: NodeId(node), address, health });
            listeners.push(listener);
        }
        let addresses = view.nodes.iter().map(|node| node.address.clone()).collect();
        let world = World {
            sessions: Sessions::new(&limits),
            queues: Queues::new(&limits),
            mood: Mood::Serves,
            frozen: None,
            membership: Membership::founding(
                view.nodes.iter().map(|node| (node.node, node.address.clone())).collect(),
            ),
            refusals: VecDeque::new(),
            operations: 0,
            payloads: Vec::new(),
            view: watch::channel(view).0,
            woken: watch::channel(0).0,
        };
        let world = Arc::new(Mutex::new(world));
        let node = |(at, listener)| {
            tokio::spawn(run_node(NodeId(at as u64 + 1), listener, Arc::clone(&world)))
        };
        let nodes = listeners.into_iter().enumerate().map(node).collect();
        Self { addresses, world, nodes }
    }

    pub(crate) async fn client(&self, seed: u64, options: Options) -> Client {
        let options = Options { seed: Some(seed), now_millis: Arc::new(|| 1), ..options };
        Client::connect(&self.addresses[1..2], options).await.unwrap()
    }

    pub(crate) fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }

    /// Closes the node's connections and its port.
    pub(crate) fn kill(&self, node: u64) {
        self.nodes[node as usize - 1].abort();
    }

    /// Tells every client of a new leader, or of none.
    pub(crate) fn elect(&self, leader: Option<u64>) {
        self.world().elect(leader);
    }
}

impl World {
    pub(crate) fn elect(&mut self, leader: Option<u64>) {
        self.view.send_modify(|view| {
            view.term = view.term.next();
            view.leader = leader.map(NodeId);
        });
    }

    /// The bodies in a queue, in order.
    pub(crate) fn bodies(&self, queue: &str) -> Vec<String> {
        let query =
            engine::queue::Query::Browse { queue: queue.to_owned(), after: None, max: 4_096 };
        let reply = self.queues.query(&query.encode());
        let message = |bytes: Bytes| engine::queue::Message::decode(&bytes).unwrap();
        let body = |bytes| String::from_utf8(message(bytes).body).unwrap();
        self.read_bodies(&reply).into_iter().map(body).collect()
    }

    fn propose(&mut self, node: NodeId, bytes: &Bytes) -> Option<Response<Reply>> {
        let leader = self.view.borrow().leader;
        if leader != Some(node) {
            return Some(Response::Rejected(Rejection::NotLeader { leader }));
        }
        let block = Block::parse(bytes).unwrap();
        if block.kind == BlockKind::Commands {
            match self.mood {
                Mood::Ignores => return None,
                Mood::Full(left) => {
                    self.mood = if left > 1 { Mood::Full(left - 1) } else { Mood::Serves };
                    let what = engine::api::Bounded::UncommittedBytes;
                    return Some(Response::Rejected(Rejection::Full { what, used: 1, max: 1 }));
                }
                Mood::Serves | Mood::AppliesAndHangsUp => {}
            }
        }
        for (at, (_, command)) in block.commands().enumerate() {
            if let Err(reply) = self.queues.validate(command) {
                return Some(Response::Invalid { command: at as u32, reply });
            }
        }
        let receives = block.commands().map(|(_, command)| Command::decode(command).unwrap());
        let receives = receives.filter(|command| matches!(command, Command::Receive { .. }));
        assert!(receives.count() <= 1, "the bodies of two receives may not fit into one frame");
        let response = self.apply(bytes, &block);
        let is_lost = self.mood == Mood::AppliesAndHangsUp && block.kind == BlockKind::Commands;
        (!is_lost).then_some(response)
    }

    fn apply(&mut self, bytes: &Bytes, block: &Block<'_>) -> Response<Reply> {
        self.payloads.push(bytes.clone());
        let index = LogIndex(self.payloads.len() as u64);
        let now = Hlc::from_millis(index.0);
        match block.kind {
            BlockKind::OpenSession => return Response::SessionOpened(self.sessions.open(now)),
            BlockKind::CloseSession => {
                self.sessions.close(block.session);
                return Response::SessionClosed;
            }
            BlockKind::Commands => {}
        }
        self.sessions.touch(block.session, block.acked_below, now);
        let mut results: Vec<Result<Reply, CommandError>> = Vec::new();
        let mut sequence = block.first_sequence;
        for (offset, command) in block.commands() {
            let offset = offset as u32;
            let context = CommandContext { term: Term(1), index, log_time: now, offset };
            results.push(match self.sessions.check(block.session, sequence) {
                Verdict::Refuse(error) => Err(error),
                Verdict::Replay(reply) => Ok(reply),
                Verdict::Apply => {
                    let reply = self.queues.apply(context, command);
                    self.sessions.record(block.session, sequence, reply.clone());
                    Ok(reply)
                }
            });
            sequence = sequence.next();
        }
        self.woken.send_modify(|count| *count += 1);
        let bodies = results.iter().flatten().flat_map(|reply| self.read_bodies(reply)).collect();
        Response::Applied { index, results, bodies }
    }

    /// What a leader makes of an operator's request; `None`: it is carried out and not answered.
    fn operate(&mut self, node: NodeId, call: &Call) -> Option<Response<Reply>> {
        let leader = self.view.borrow().leader;
        if leader != Some(node) {
            return Some(Response::Rejected(Rejection::NotLeader { leader }));
        }
        self.operations += 1;
        if self.mood == Mood::Ignores {
            return None;
        }
        if let Some(refusal) = self.refusals.pop_front() {
            return Some(Response::Rejected(Rejection::Change(refusal)));
        }
        let response = match call {
            Call::Change(ChangeRequest::Change(change)) => match self.membership.changed(change) {
                Ok(next) => {
                    self.membership = if next.is_joint() { next.left().unwrap() } else { next };
                    let membership = Box::new(self.membership.clone());
                    Response::Changed { index: LogIndex(self.operations), membership }
                }
                Err(error) => Response::Rejected(Rejection::Change(error)),
            },
            Call::Transfer { to } => {
                let leader = to.unwrap_or(NodeId(node.0 % 3 + 1));
                self.elect(Some(leader.0));
                Response::Transferred { leader }
            }
            _ => Response::Rejected(Rejection::Change(ChangeError::NotJoint)),
        };
        (self.mood != Mood::AppliesAndHangsUp).then_some(response)
    }

    fn status(&self, node: NodeId) -> NodeStatus {
        let leader = self.view.borrow().leader;
        let index = LogIndex(10);
        NodeStatus {
            node,
            cluster: CLUSTER,
            role: if leader == Some(node) { "leader" } else { "follower" }.to_owned(),
            term: self.view.borrow().term,
            leader,
            first_index: index,
            last_index: index,
            durable_index: index,
            commit_index: index,
            applied_index: index,
            log_time: 0,
            messages: 0,
            queues: 0,
            sessions: 0,
            segments: 0,
            log_bytes: 0,
            membership: self.membership.clone(),
            membership_index: LogIndex::ZERO,
            is_removed: false,
            is_fit: true,
            missing: 0,
            lost: 0,
            snapshot_index: LogIndex::ZERO,
            followers: Vec::new(),
            transfer: None,
            priority: 0,
            uptime: Micros::from_secs(1),
            version: String::new(),
            room: Default::default(),
        }
    }

    fn read_bodies(&self, reply: &Reply) -> Vec<Bytes> {
        let mut refs = Vec::new();
        Queues::bodies(reply, &mut refs);
        let body = |body: engine::state_machine::BodyRef| {
            let start = body.position.offset as usize;
            let payload = &self.payloads[body.position.index.0 as usize - 1];
            payload.slice(start..start + body.len as usize)
        };
        refs.into_iter().map(body).collect()
    }
}

async fn run_node(node: NodeId, listener: TcpListener, world: Arc<Mutex<World>>) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        connections.spawn(serve(node, stream, Arc::clone(&world)));
    }
}

async fn serve(node: NodeId, mut stream: TcpStream, world: Arc<Mutex<World>>) -> Option<()> {
    let (mut inbound, mut outbound) = (BytesMut::new(), BytesMut::new());
    let (mut views, mut woken) = {
        let world = world.lock().unwrap();
        (world.view.subscribe(), world.woken.subscribe())
    };
    let mut greeted = false;
    let mut watches: Vec<(u64, Bytes)> = Vec::new();
    loop {
        if world.lock().unwrap().frozen == Some(node) {
            return std::future::pending().await;
        }
        while let Some(frame) = take_frame(&mut inbound).unwrap() {
            if !greeted {
                greeted = true;
                let _hello: Hello = decode("a hello", &frame.head).unwrap();
                let view = views.borrow_and_update().clone();
                let cluster = CLUSTER;
                let welcome = Greeting::Welcome(Welcome { protocol: 1, cluster, node, view });
                write_frame(&mut outbound, &welcome, &[], TailCheck::Frame);
                continue;
            }
            let mut world = world.lock().unwrap();
            match read_client_frame(&frame).unwrap() {
                ClientFrame::Ping(number) => {
                    let pong = ServerFrame::Pong(number);
                    write_frame(&mut outbound, &pong, &[], TailCheck::Frame);
                }
                ClientFrame::Call { request, call: Call::Propose } => {
                    match world.propose(node, &frame.tail) {
                        Some(response) => write_response(&mut outbound, request, response),
                        None if world.mood == Mood::AppliesAndHangsUp => return None,
                        None => {}
                    }
                }
                ClientFrame::Call { request, call: Call::Query } => {
                    let leader = world.view.borrow().leader;
                    let response = if leader == Some(node) {
                        let reply = world.queues.query(&frame.tail);
                        let bodies = world.read_bodies(&reply);
                        Response::Answer { at: LogIndex(1), reply, bodies }
                    } else {
                        Response::Rejected(Rejection::NotLeader { leader })
                    };
                    write_response(&mut outbound, request, response);
                }
                ClientFrame::Call { request, call: Call::Watch { .. } } => {
                    watches.push((request, frame.tail.clone()));
                }
                ClientFrame::Call { request, call: Call::Status } => {
                    let status = Box::new(world.status(node));
                    let frame = ServerFrame::Status { request, status };
                    write_frame(&mut outbound, &frame, &[], TailCheck::Frame);
                }
                ClientFrame::Call { request, call: Call::Backup(_) } => {
                    let (answer, bodies) = (BackupAnswer::Gone, Vec::new());
                    write_response(&mut outbound, request, Response::Backup { answer, bodies });
                }
                ClientFrame::Call { request, call: Call::QueryHere } => {
                    let reply = world.queues.query(&frame.tail);
                    let bodies = world.read_bodies(&reply);
                    let response = Response::Answer { at: LogIndex(1), reply, bodies };
                    write_response(&mut outbound, request, response);
                }
                ClientFrame::Call { request, call: Call::QueryStale } => {
                    let reply = world.queues.query(&frame.tail);
                    let bodies = world.read_bodies(&reply);
                    let (at, log_time) = (LogIndex(1), STALE_TIME);
                    let response = Response::Stale { at, log_time, reply, bodies };
                    write_response(&mut outbound, request, response);
                }
                ClientFrame::Call {
                    request,
                    call: call @ (Call::Change(_) | Call::Transfer { .. }),
                } => match world.operate(node, &call) {
                    Some(response) => write_response(&mut outbound, request, response),
                    None if world.mood == Mood::AppliesAndHangsUp => return None,
                    None => {}
                },
            }
        }
        watches.retain(|(request, query)| {
            let is_ready = world.lock().unwrap().queues.watch(query) == Watched::Ready;
            if is_ready {
                write_response(&mut outbound, *request, Response::Ready);
            }
            !is_ready
        });
        stream.write_all(&outbound).await.ok()?;
        outbound.clear();
        tokio::select! {
            biased;
            _ = views.changed() => {
                let view = views.borrow_and_update().clone();
                write_frame(&mut outbound, &ServerFrame::View(view), &[], TailCheck::Frame);
            }
            _ = woken.changed() => {}
            read = stream.read_buf(&mut inbound) => {
                if read.ok()? == 0 {
                    return None;
                }
            }
        }
    }
}
