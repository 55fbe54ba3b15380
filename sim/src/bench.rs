//! `sim bench space`: bytes on the disk against bytes that wait, over simulated hours.
//!
//! Owns one node on a simulated disk, told the time by this module, and its only client: it sends a
//! batch, receives a batch and acknowledges most of it, at a steady pace; what it puts off is spread
//! over all of the log and waits to the end. Never looks into the node: live is what this client was
//! told that is stored and has not acknowledged. Next: `engine::storage` (`clean`) for what is measured.

use crate::disk::SimDisk;
use bytes::Bytes;
use engine::api::{Request, Response, Token};
use engine::block::BlockBuilder;
use engine::engine::Config;
use engine::hlc::Hlc;
use engine::ids::{ClusterId, GroupId, MessageId, NodeId, Sequence, SessionId};
use engine::limits::{LEASE_MILLIS_MAX, Limits};
use engine::queue::{Command, Held, Message, Queues, ReceiveMode, Reply};
use engine::raft::Membership;
use engine::replica::{Effect, Input, Replica};
use engine::storage::disk::{Disk, FileName};
use engine::storage::{Identity, Store};
use engine::time::{Micros, Now};
use std::collections::VecDeque;

const QUEUE: &str = "bench";
/// Simulated time between two rounds.
const ROUND: Micros = Micros::from_secs(1);

/// What load, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Simulated hours.
    pub hours: u64,
    /// Messages that are sent, and as many received, in a simulated second.
    pub messages_per_s: u32,
    /// Bytes in each body.
    pub payload: usize,
    /// Messages that always wait.
    pub backlog: u64,
    /// Of so many received messages one is put off until the end.
    pub keep_one_in: u64,
}

/// How it is at one moment.
#[derive(Clone, Copy, PartialEq, Debug, serde::Serialize)]
pub struct Sample {
    /// Simulated minutes since the beginning.
    pub minute: u64,
    /// Messages that wait.
    pub waiting: u64,
    /// Bytes of their encodings.
    pub live_bytes: u64,
    /// Bytes of the files.
    pub disk_bytes: u64,
    /// Segment files.
    pub segments: u64,
}

impl Sample {
    /// Bytes on the disk for each that waits.
    #[must_use]
    pub fn ratio(&self) -> f64 {
        self.disk_bytes as f64 / self.live_bytes.max(1) as f64
    }
}

/// Runs a load; `tell` hears how it is once a simulated minute.
///
/// # Panics
/// If the node answers otherwise than a node does.
pub fn space(load: Load, mut tell: impl FnMut(Sample)) {
    let mut node = Node::new();
    for second in 0..load.hours * 3_600 {
        node.round(&load);
        if second % 60 == 59 {
            tell(node.sample(second / 60 + 1));
        }
    }
}

/// A node, its disk, and what its client knows.
struct Node {
    disk: SimDisk,
    replica: Replica<Queues>,
    now: Now,
    session: SessionId,
    sequence: u64,
    sent: u64,
    received: u64,
    waiting: u64,
    kept: u64,
    /// Bytes of a message's encoding; all are alike.
    message_bytes: u64,
}

impl Node {
    fn new() -> Self {
        let members = vec![(NodeId(1), "localhost:1".to_owned())];
        let cluster = ClusterId::mint([1; 8], GroupId(0), &members);
        let identity = Identity::founder(cluster, GroupId(0), NodeId(1), members);
        let mut disk = SimDisk::new();
        Store::format(&mut disk, &identity).expect("an empty disk");
        let limits = Limits::default();
        let config = Config {
            cluster,
            group: GroupId(0),
            node: NodeId(1),
            founding: Membership::founding(identity.members.clone()),
            priority: 0,
            lease_drift_ppm: None,
            election_timeout: Micros::from_millis(150),
            heartbeat_interval: Micros::from_millis(30),
            limits: limits.clone(),
            seed: 1,
        };
        let replica = Replica::open(config, Queues::new(&limits), Now::default(), &mut disk);
        let mut node = Self {
            replica: replica.expect("an empty log"),
            disk,
            now: Now { monotonic: ROUND, wall: ROUND, wall_error: Micros::ZERO },
            session: SessionId::ZERO,
            sequence: 0,
            sent: 0,
            received: 0,
            waiting: 0,
            kept: 0,
            message_bytes: 0,
        };
        node.step(Input::Turn);
        let opened = node.propose(BlockBuilder::open_session());
        let Response::SessionOpened(session) = opened else { panic!("{opened:?}") };
        node.session = session;
        node
    }

    fn round(&mut self, load: &Load) {
        self.now.monotonic = self.now.monotonic + ROUND;
        self.now.wall = self.now.wall + ROUND;
        self.send(load);
        if self.waiting > load.backlog + self.kept {
            self.receive(load);
        }
        // Cleaning goes on between the client's calls, one job at a time.
        self.step(Input::Turn);
    }

    fn send(&mut self, load: &Load) {
        let messages: Vec<Message> = (0..load.messages_per_s)
            .map(|_| {
                self.sent += 1;
                let mut id = [0; 16];
                id[..8].copy_from_slice(&self.sent.to_le_bytes());
                Message {
                    id: MessageId(id),
                    from: String::new(),
                    to: QUEUE.to_owned(),
                    sent_at: Hlc::ZERO,
                    headers: Vec::new(),
                    body: vec![self.sent as u8; load.payload],
                }
            })
            .collect();
        self.message_bytes = messages.first().map_or(0, |message| message.encode().len() as u64);
        self.waiting += messages.len() as u64;
        match self.command(&Command::Send { messages }) {
            Reply::SentOne(_) | Reply::SentMany(_) => {}
            other => panic!("{other:?}"),
        }
    }

    fn receive(&mut self, load: &Load) {
        let mode = ReceiveMode::Lease { millis: 30_000 };
        let receive = Command::Receive { queue: QUEUE.to_owned(), max: load.messages_per_s, mode };
        let Reply::Received { token, deliveries, .. } = self.command(&receive) else {
            panic!("a receive is answered with messages");
        };
        let (mut done, mut kept) = (Vec::new(), Vec::new());
        for delivered in deliveries {
            self.received += 1;
            let is_kept = self.received.is_multiple_of(load.keep_one_in);
            let held = Held { position: delivered.position, token };
            if is_kept { kept.push(held) } else { done.push(held) }
        }
        self.waiting -= done.len() as u64;
        self.kept += kept.len() as u64;
        self.command(&Command::Acknowledge { queue: QUEUE.to_owned(), held: done });
        if !kept.is_empty() {
            let delay_millis = LEASE_MILLIS_MAX;
            self.command(&Command::Nack { queue: QUEUE.to_owned(), held: kept, delay_millis });
        }
    }

    fn command(&mut self, command: &Command) -> Reply {
        self.sequence += 1;
        let sequence = Sequence(self.sequence);
        let mut block = BlockBuilder::commands(self.session, sequence, sequence);
        block.push_with(|out| command.encode_into(out));
        match self.propose(block.finish()) {
            Response::Applied { mut results, .. } => {
                results.pop().expect("one for each command").expect("a session that is open")
            }
            other => panic!("{other:?}"),
        }
    }

    fn propose(&mut self, block: Vec<u8>) -> Response<Reply> {
        let request = Request::Propose(Bytes::from(block));
        self.step(Input::Client { token: Token(1), request }).expect("it answers at once")
    }

    /// Steps until nothing is left to do; the last answer.
    fn step(&mut self, input: Input) -> Option<Response<Reply>> {
        let mut answer = None;
        let mut inputs = VecDeque::from([input]);
        let mut effects = Vec::new();
        while let Some(input) = inputs.pop_front() {
            self.replica.step(self.now, input, &mut effects);
            self.replica.step(self.now, Input::Turn, &mut effects);
            for effect in effects.drain(..) {
                match effect {
                    Effect::Disk(job) => inputs.push_back(Input::Disk(job.perform(&mut self.disk))),
                    Effect::Respond { response, .. } => answer = Some(response),
                    Effect::Send { .. } | Effect::Event(_) => {}
                }
            }
            if inputs.is_empty() && self.replica.next_deadline() == Some(Micros::ZERO) {
                inputs.push_back(Input::Turn);
            }
        }
        assert_eq!(self.replica.failure(), None);
        answer
    }

    fn sample(&mut self, minute: u64) -> Sample {
        let files = self.disk.list().expect("a disk without faults");
        let is_segment = |(file, _): &&(FileName, u64)| matches!(file, FileName::Segment(_));
        Sample {
            minute,
            waiting: self.waiting,
            live_bytes: self.waiting * self.message_bytes,
            disk_bytes: files.iter().map(|(_, len)| len).sum(),
            segments: files.iter().filter(is_segment).count() as u64,
        }
    }
}
