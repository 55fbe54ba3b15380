//! The core alone: three engines in one thread, messages by function call, and a disk that is done
//! at once. What is left is the cost of consensus, sessions, dedup and queues.
//!
//! `cargo bench -p engine --bench core` prints, for 1, 64 and 1,024 commands in flight, how many
//! 256-byte messages a second are committed and applied on all three, and the time for each.

use divan::counter::ItemsCount;
use engine::api::{Request, Response, Token};
use engine::block::BlockBuilder;
use engine::engine::{Config, Effect, Engine, Input};
use engine::ids::{ClusterId, GroupId, MessageId, NodeId, Sequence, SessionId};
use engine::limits::Limits;
use engine::queue::{Command, Message, Queues, Reply};
use engine::raft::Membership;
use engine::storage::Recovered;
use engine::time::{Micros, Now};
use std::collections::VecDeque;

const MEMBERS: u64 = 3;
const MESSAGES: usize = 65_536;

fn main() {
    divan::main();
}

struct Group {
    engines: Vec<Engine<Queues>>,
    inputs: VecDeque<(usize, Input)>,
    effects: Vec<Effect<Reply>>,
    answered: Vec<Response<Reply>>,
    now: Now,
    leader: usize,
}

impl Group {
    fn new() -> Self {
        let engine = |node| {
            let config = Config {
                cluster: ClusterId([1; 16]),
                group: GroupId(0),
                node: NodeId(node),
                founding: Membership::new((1..=MEMBERS).map(NodeId).collect()),
                priority: 0,
                lease_drift_ppm: None,
                election_timeout: Micros::from_millis(150),
                heartbeat_interval: Micros::from_millis(30),
                limits: Limits::default(),
                seed: node,
            };
            let machine = Queues::new(&config.limits);
            Engine::new(config, machine, &Recovered::default(), Now::default())
                .expect("no snapshot to read")
        };
        let mut group = Self {
            engines: (1..=MEMBERS).map(engine).collect(),
            inputs: VecDeque::new(),
            effects: Vec::new(),
            answered: Vec::new(),
            now: Now::default(),
            leader: 0,
        };
        let deadline = |at: &usize| group.engines[*at].next_deadline();
        group.leader = (0..group.engines.len()).min_by_key(deadline).expect("three of them");
        group.now.monotonic = deadline(&group.leader).expect("an election");
        group.now.wall = Micros::from_secs(1_700_000_000);
        group.step(group.leader, Input::Turn);
        group.run();
        assert!(group.engines[group.leader].raft().is_leader());
        group
    }

    fn step(&mut self, at: usize, input: Input) {
        let mut effects = std::mem::take(&mut self.effects);
        self.engines[at].step(self.now, input, &mut effects);
        for effect in effects.drain(..) {
            match effect {
                Effect::Persist(persist) => {
                    self.inputs.push_back((at, Input::Persisted(persist.io)));
                }
                Effect::Send { to, message } => {
                    let from = NodeId(at as u64 + 1);
                    self.inputs.push_back((to.0 as usize - 1, Input::Peer { from, message }));
                }
                Effect::Respond { response, .. } => self.answered.push(response),
                Effect::Fetch(fetch) => panic!("{fetch:?} is in the cache"),
                // An empty machine, at first, and a short run: never in here.
                Effect::SaveSnapshot(_)
                | Effect::ReadSnapshot(_)
                | Effect::Purge { .. }
                | Effect::Settle { .. }
                | Effect::Archive { .. }
                | Effect::Event(_) => {}
            }
        }
        self.effects = effects;
    }

    /// Until nothing moves.
    fn run(&mut self) {
        while let Some((at, input)) = self.inputs.pop_front() {
            self.step(at, input);
            if self.inputs.front().is_none_or(|(next, _)| *next != at) {
                self.step(at, Input::Turn);
            }
        }
    }

    fn call(&mut self, block: Vec<u8>) -> Response<Reply> {
        self.step(
            self.leader,
            Input::Client { token: Token(1), request: Request::Propose(block.into()) },
        );
        self.step(self.leader, Input::Turn);
        self.run();
        self.answered.pop().expect("answered when nothing moves")
    }

    /// Time passes and the followers hear of what is committed.
    fn heartbeat(&mut self) {
        self.now.monotonic = self.now.monotonic + Micros::from_millis(30);
        self.now.wall = self.now.wall + Micros::from_millis(30);
        self.step(self.leader, Input::Turn);
        self.run();
    }
}

/// Every block that a client with `in_flight` commands in flight sends, encoded beforehand.
fn blocks(session: SessionId, in_flight: usize) -> Vec<Vec<u8>> {
    let mut sent = 0_u64;
    let mut blocks = Vec::new();
    while (sent as usize) < MESSAGES {
        let first = Sequence(sent + 1);
        let mut block = BlockBuilder::commands(session, first, first);
        for _ in 0..in_flight {
            sent += 1;
            let mut id = [0; 16];
            id[..8].copy_from_slice(&sent.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
            let message = Message {
                id: MessageId(id),
                from: "bench".into(),
                to: "bench".into(),
                sent_at: engine::hlc::Hlc(sent),
                headers: Vec::new(),
                body: vec![7; 256],
            };
            block.push_with(|out| Command::Send { messages: vec![message] }.encode_into(out));
        }
        blocks.push(block.finish());
    }
    blocks
}

#[divan::bench(args = [1, 64, 1024], sample_count = 10, sample_size = 1)]
fn replicate_and_apply(bencher: divan::Bencher<'_, '_>, in_flight: usize) {
    bencher
        .counter(ItemsCount::new(MESSAGES))
        .with_inputs(|| {
            let mut group = Group::new();
            let opened = group.call(BlockBuilder::open_session());
            let Response::SessionOpened(session) = opened else { panic!("{opened:?}") };
            (group, blocks(session, in_flight))
        })
        .bench_local_values(|(mut group, blocks)| {
            for block in blocks {
                let response = group.call(block);
                assert!(matches!(response, Response::Applied { .. }));
            }
            group.heartbeat();
            let applied = |engine: &Engine<Queues>| engine.machine().message_count() as usize;
            assert!(group.engines.iter().all(|engine| applied(engine) == MESSAGES));
            group
        });
}
