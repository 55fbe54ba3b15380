//! One engine that leads, or follows, in a group whose other members the test plays: for claims about
//! what clients are told.

use crate::messages::{matched, pre_vote_response, vote_response};
use bytes::Bytes;
use engine::api::{Request, Response, Token};
use engine::block::BlockBuilder;
use engine::engine::{Config, Effect, Engine, Input};
use engine::ids::{ClusterId, GroupId, NodeId};
use engine::limits::Limits;
use engine::queue::{Queues, Reply};
use engine::raft::{Membership, Message};
use engine::storage::{Persist, Recovered};
use engine::time::{Micros, Now};

/// Member 1 of a group. Its disk is instant.
pub struct Front {
    /// The engine itself.
    pub engine: Engine<Queues>,
    /// What its clocks say.
    pub now: Now,
    /// What it sent: to whom and what.
    pub sent: Vec<(u64, Message)>,
    /// What clients were told.
    pub answers: Vec<(u64, Response<Reply>)>,
    /// What it made durable.
    pub persists: Vec<Persist>,
    members: u64,
}

/// How member 1 of `members` is set up: elections after 100 to 200 ms, heartbeats each 10 ms.
#[must_use]
pub fn config(members: u64, limits: Limits) -> Config {
    Config {
        cluster: ClusterId([7; 16]),
        group: GroupId(0),
        node: NodeId(1),
        founding: Membership::new((1..=members).map(NodeId).collect()),
        priority: 0,
        lease_drift_ppm: None,
        election_timeout: Micros::from_millis(100),
        heartbeat_interval: Micros::from_millis(10),
        limits,
        seed: 1,
    }
}

impl Front {
    /// Member 1 of `members` with an empty disk.
    #[must_use]
    pub fn new(members: u64, limits: Limits) -> Self {
        Self::configured(config(members, limits), members)
    }

    /// The same with a configuration of the test's own.
    #[must_use]
    pub fn configured(config: Config, members: u64) -> Self {
        let start = Micros::from_secs(1);
        let now = Now { monotonic: start, wall: start, wall_error: Micros::ZERO };
        let machine = Queues::new(&config.limits);
        Self {
            engine: Engine::new(config, machine, &Recovered::default(), now).expect("no snapshot"),
            now,
            sent: Vec::new(),
            answers: Vec::new(),
            persists: Vec::new(),
            members,
        }
    }

    /// A leader of term 1 whose first entry is committed.
    #[must_use]
    pub fn leading(members: u64, limits: Limits) -> Self {
        let mut front = Self::new(members, limits);
        front.lead();
        front
    }

    /// Its time is over, the others vote for it and take its first entry.
    pub fn lead(&mut self) {
        let deadline = self.engine.next_deadline().expect("an election");
        self.wait_until(deadline);
        let term = self.engine.raft().term().0 + 1;
        for answer in [pre_vote_response(term, true), vote_response(term, true)] {
            for voter in 2..=self.members {
                self.hear(voter, answer.clone());
            }
        }
        assert!(self.engine.raft().is_leader());
        self.acknowledge_all();
        self.sent.clear();
    }

    /// One input and the turn of the loop after it.
    pub fn step(&mut self, input: Input) {
        let mut inputs = vec![input, Input::Turn];
        while !inputs.is_empty() {
            let mut effects = Vec::new();
            self.engine.step(self.now, inputs.remove(0), &mut effects);
            for effect in effects {
                match effect {
                    Effect::Persist(persist) => {
                        inputs.extend([Input::Persisted(persist.io), Input::Turn]);
                        self.persists.push(persist);
                    }
                    Effect::Send { to, message } => self.sent.push((to.0, message)),
                    Effect::Respond { token, response } => self.answers.push((token.0, response)),
                    _ => {}
                }
            }
        }
        self.engine.check_invariants();
    }

    /// A message of `from` arrives.
    pub fn hear(&mut self, from: u64, message: Message) {
        self.step(Input::Peer { from: NodeId(from), message });
    }

    /// A client asks for something; what it was told at once, if anything, comes back.
    pub fn ask(&mut self, token: u64, request: Request) -> Option<Response<Reply>> {
        self.step(Input::Client { token: Token(token), request });
        self.answer(token)
    }

    /// What `token` was told, if anything; it is told once.
    pub fn answer(&mut self, token: u64) -> Option<Response<Reply>> {
        let at = self.answers.iter().position(|(asked, _)| *asked == token)?;
        Some(self.answers.remove(at).1)
    }

    /// A client proposes the smallest block there is.
    pub fn propose(&mut self, token: u64) -> Option<Response<Reply>> {
        self.ask(token, Request::Propose(Bytes::from(BlockBuilder::open_session())))
    }

    /// Every other member has the whole log of the leader.
    pub fn acknowledge_all(&mut self) {
        for follower in 2..=self.members {
            let raft = self.engine.raft();
            let message = matched(raft.term().0, raft.last_index().0);
            self.hear(follower, message);
        }
    }

    /// Time passes on all clocks, and the loop turns.
    pub fn wait_until(&mut self, at: Micros) {
        let span = at.since(self.now.monotonic);
        self.now.monotonic = self.now.monotonic + span;
        self.now.wall = self.now.wall + span;
        self.step(Input::Turn);
    }

    /// The same for a span.
    pub fn wait(&mut self, millis: u64) {
        self.wait_until(self.now.monotonic + Micros::from_millis(millis));
    }
}
