//! The only voter of a cluster, on a simulated disk that is done at once.
//!
//! Asks its replica what a client would, and gets the answer. Next: `sim::disk` for the disk.

use bytes::Bytes;
use engine::api::{CommandError, Request, Response, Token};
use engine::block::BlockBuilder;
use engine::engine::Config;
use engine::hlc::Hlc;
use engine::ids::{ClusterId, GroupId, MessageId, NodeId, Sequence, SessionId};
use engine::limits::Limits;
use engine::queue::{Command, Message, Queues, Reply};
use engine::raft::Membership;
use engine::replica::{Effect, Input, Replica};
use engine::storage::{Identity, Store};
use engine::time::{Micros, Now};
use sim::disk::SimDisk;

const GROUP: GroupId = GroupId(0);

/// The identity of the one founder of a cluster, whose id follows from `random`.
#[must_use]
pub fn identity(random: u8, node: u64) -> Identity {
    let members = vec![(NodeId(node), format!("localhost:{node}"))];
    let cluster = ClusterId::mint([random; 8], GROUP, &members);
    Identity::founder(cluster, GROUP, NodeId(node), members)
}

/// So small that a few dozen messages make snapshots and purge segments.
#[must_use]
pub fn small_limits() -> Limits {
    Limits { segment_bytes_max: 2_048, snapshot_log_bytes: 4_096, ..Limits::default() }
}

/// Such a node.
#[derive(Debug)]
pub struct Lone {
    /// What it has written.
    pub disk: SimDisk,
    /// It.
    pub replica: Replica<Queues>,
    /// The time that it is told.
    pub now: Now,
}

impl Lone {
    /// A node with an empty disk.
    ///
    /// # Panics
    /// If it cannot be made.
    #[must_use]
    pub fn new(identity: &Identity) -> Self {
        let mut disk = SimDisk::new();
        Store::format(&mut disk, identity).expect("an empty disk");
        Self::start(disk, identity)
    }

    /// A node on a disk that has a log.
    ///
    /// # Panics
    /// If the log cannot be opened.
    #[must_use]
    pub fn start(mut disk: SimDisk, identity: &Identity) -> Self {
        let config = Config {
            cluster: identity.cluster,
            group: GROUP,
            node: identity.node,
            founding: Membership::founding(identity.members.clone()),
            priority: 0,
            lease_drift_ppm: None,
            election_timeout: Micros::from_millis(150),
            heartbeat_interval: Micros::from_millis(30),
            limits: small_limits(),
            seed: 1,
        };
        let now = Now { monotonic: Micros::from_secs(1), ..Now::default() };
        let machine = Queues::new(&small_limits());
        let replica = Replica::open(config, machine, Now::default(), &mut disk);
        let mut node = Self { disk, replica: replica.expect("a whole log"), now };
        node.step(Input::Turn);
        node
    }

    /// Steps until nothing is left to do; the last answer.
    ///
    /// # Panics
    /// If the node fails.
    pub fn step(&mut self, input: Input) -> Option<Response<Reply>> {
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

    /// Asks, and gets the answer.
    ///
    /// # Panics
    /// If there is none.
    pub fn ask(&mut self, request: Request) -> Response<Reply> {
        self.step(Input::Client { token: Token(1), request }).expect("it answers at once")
    }

    /// Lets time pass.
    pub fn wait(&mut self, span: Micros) {
        self.now.monotonic = self.now.monotonic + span;
        self.step(Input::Turn);
    }

    /// Opens a session.
    ///
    /// # Panics
    /// If the answer is another.
    pub fn open_session(&mut self) -> SessionId {
        match self.ask(Request::Propose(Bytes::from(BlockBuilder::open_session()))) {
            Response::SessionOpened(session) => session,
            other => panic!("{other:?}"),
        }
    }

    /// Applies a command, the `sequence`th of its session, and gets its result with the bodies.
    ///
    /// # Panics
    /// If the answer is another.
    pub fn command(
        &mut self,
        session: SessionId,
        sequence: u64,
        command: &Command,
    ) -> (Result<Reply, CommandError>, Vec<Bytes>) {
        let mut block = BlockBuilder::commands(session, Sequence(sequence), Sequence(sequence));
        block.push_with(|out| command.encode_into(out));
        match self.ask(Request::Propose(Bytes::from(block.finish()))) {
            Response::Applied { mut results, bodies, .. } => (results.remove(0), bodies),
            other => panic!("{other:?}"),
        }
    }
}

/// A command that sends the `ordinal`th message, whose body is `bytes` long.
#[must_use]
pub fn send(queue: &str, ordinal: u64, bytes: usize) -> Command {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&ordinal.to_le_bytes());
    let (id, to, body) = (MessageId(id), queue.into(), vec![ordinal as u8; bytes]);
    let (from, sent_at, headers) = (String::new(), Hlc::ZERO, Vec::new());
    Command::Send { messages: vec![Message { id, from, to, sent_at, headers, body }] }
}
