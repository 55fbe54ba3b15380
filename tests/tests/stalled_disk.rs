//! A leader whose own disk has stalled: its followers are a quorum, and its clients need not notice.

use bytes::Bytes;
use engine::api::{Request, Response, Token};
use engine::block::BlockBuilder;
use engine::engine::{Config, Effect, Engine, Input};
use engine::ids::{ClusterId, GroupId, NodeId};
use engine::limits::Limits;
use engine::queue::{Queues, Reply};
use engine::raft::Membership;
use engine::storage::Recovered;
use engine::time::{Micros, Now};
use std::collections::VecDeque;

struct Group {
    engines: Vec<Engine<Queues>>,
    inputs: VecDeque<(usize, Input)>,
    stalled: Option<usize>,
    answers: Vec<Response<Reply>>,
    now: Now,
}

impl Group {
    fn new() -> Self {
        let limits = Limits::default();
        let engine = |node| {
            let config = Config {
                cluster: ClusterId([1; 16]),
                group: GroupId(0),
                node: NodeId(node),
                founding: Membership::new((1..=3).map(NodeId).collect()),
                priority: 0,
                lease_drift_ppm: None,
                election_timeout: Micros::from_millis(150),
                heartbeat_interval: Micros::from_millis(30),
                limits: limits.clone(),
                seed: node,
            };
            let recovered = Recovered::default();
            Engine::new(config, Queues::new(&limits), &recovered, Now::default())
                .expect("no snapshot")
        };
        Self {
            engines: (1..=3).map(engine).collect(),
            inputs: VecDeque::new(),
            stalled: None,
            answers: Vec::new(),
            now: Now::default(),
        }
    }

    fn step(&mut self, at: usize, input: Input) {
        let mut effects = Vec::new();
        self.engines[at].step(self.now, input, &mut effects);
        for effect in effects {
            match effect {
                Effect::Persist(_) if self.stalled == Some(at) => {}
                Effect::Persist(persist) => {
                    self.inputs.push_back((at, Input::Persisted(persist.io)));
                }
                Effect::Send { to, message } => {
                    let from = NodeId(at as u64 + 1);
                    self.inputs.push_back((to.0 as usize - 1, Input::Peer { from, message }));
                }
                Effect::Respond { response, .. } => self.answers.push(response),
                Effect::Fetch(_)
                | Effect::SaveSnapshot(_)
                | Effect::ReadSnapshot(_)
                | Effect::Purge { .. }
                | Effect::Settle { .. }
                | Effect::Archive { .. }
                | Effect::Event(_) => {}
            }
        }
    }

    fn run(&mut self) {
        while let Some((at, input)) = self.inputs.pop_front() {
            self.step(at, input);
            self.step(at, Input::Turn);
        }
    }

    /// Lets the member whose election comes first win it.
    fn elect(&mut self) -> usize {
        let deadline = |at: &usize| self.engines[*at].next_deadline();
        let leader = (0..3).min_by_key(deadline).expect("three members");
        self.now.monotonic = deadline(&leader).expect("an election is due");
        self.step(leader, Input::Turn);
        self.run();
        assert!(self.engines[leader].raft().is_leader());
        leader
    }
}

#[test]
fn a_leader_with_a_stalled_disk_still_commits_what_its_followers_store() {
    let mut group = Group::new();
    let leader = group.elect();
    group.stalled = Some(leader);
    let durable = group.engines[leader].raft().durable_index();
    for token in 1..=10 {
        let request = Request::Propose(Bytes::from(BlockBuilder::open_session()));
        group.step(leader, Input::Client { token: Token(token), request });
        group.step(leader, Input::Turn);
        group.run();
        assert_eq!(group.answers.len() as u64, token, "answered by the followers' disks");
    }
    assert_eq!(group.engines[leader].raft().durable_index(), durable);
}
