//! Three replicas, with the fuzzer as network, disk, clock, client and fate.
//!
//! Every message may be lost, doubled, delayed and overtaken, every disk job may wait, every node may
//! lose its power in the middle of a write. Claims: at most one leader a term; what one node applies
//! at an index all apply there; equal logs give equal queues; a token is answered at most once; and
//! when the faults end, the cluster answers again.

use crate::host::{Host, MEMBERS};
use arbitrary::{Arbitrary, Unstructured};
use engine::api::{Request, Response, Token};
use engine::block::BlockBuilder;
use engine::engine::RoleName;
use engine::hlc::Hlc;
use engine::ids::{LeaseToken, LogIndex, MessageId, NodeId, Position, Sequence, SessionId, Term};
use engine::queue::{Command, Held, Message as QueueMessage, Query, ReceiveMode};
use engine::raft::Message;
use engine::replica::{Event, Input};
use engine::state_machine::StateMachine;
use engine::time::Micros;
use sim::disk::Fate;
use std::collections::{BTreeMap, BTreeSet};

/// Time passes in these while the cluster is left alone.
const ROUND: Micros = Micros::from_millis(10);
/// Rounds within which a healed cluster must answer: 6 s, twenty times the longest election timeout.
const ROUNDS_TO_HEAL: usize = 600;

#[derive(Arbitrary, Debug)]
enum Action {
    /// Deliver a message, and keep it if it is to come again.
    Deliver {
        which: u16,
        again: bool,
    },
    Lose {
        which: u16,
    },
    Write {
        node: u8,
    },
    Read {
        node: u8,
        which: u8,
    },
    Turn {
        node: u8,
    },
    Pass {
        millis: u8,
    },
    Crash {
        node: u8,
        fates: [u8; 4],
    },
    Propose {
        node: u8,
        call: Call,
    },
    Query {
        node: u8,
    },
    Watch {
        node: u8,
        millis: u8,
    },
    Forget {
        node: u8,
        token: u8,
    },
    /// For a while nothing goes wrong but this.
    Calm {
        rounds: u8,
        trouble: Trouble,
    },
}

/// What lasts through calm rounds.
#[derive(Arbitrary, Debug, Clone, Copy)]
enum Trouble {
    None,
    /// Nothing reaches this node, and nothing of it reaches others.
    CutOff {
        node: u8,
    },
    /// This node's disk takes writes and finishes none.
    SlowDisk {
        node: u8,
    },
    /// One node is cut off and the disk of another is slow.
    Both {
        cut_off: u8,
        slow: u8,
    },
}

#[derive(Arbitrary, Debug)]
enum Call {
    OpenSession,
    CloseSession {
        session: u8,
    },
    /// Commands of a session; a retry and a gap are as likely as what should come next.
    Commands {
        session: u8,
        sequence: u8,
        acked_below: u8,
        commands: Vec<Asked>,
    },
}

#[derive(Arbitrary, Debug)]
enum Asked {
    Send { ids: Vec<u8>, body_bytes: u8 },
    Take { max: u8 },
    Lease { max: u8, millis: u8 },
    Acknowledge { index: u8, offset: u8, token: u8 },
    Nack { index: u8, offset: u8, token: u8, millis: u8 },
    Purge,
    Nonsense(Vec<u8>),
}

/// One run over the fuzzer's bytes.
pub fn run(bytes: &[u8]) {
    let mut cluster = Cluster::new();
    cluster.elect();
    let mut choices = Unstructured::new(bytes);
    while !choices.is_empty() {
        let Ok(action) = Action::arbitrary(&mut choices) else { break };
        cluster.act(action);
    }
    cluster.heal();
}

struct Cluster {
    now: Micros,
    hosts: Vec<Host>,
    wire: Vec<(NodeId, NodeId, Message)>,
    tokens: u64,
    answered: BTreeSet<Token>,
    sessions: Vec<SessionId>,
    leaders: BTreeMap<Term, NodeId>,
    applied: BTreeMap<LogIndex, (Term, Hlc)>,
}

impl Cluster {
    fn new() -> Self {
        Self {
            now: Micros::ZERO,
            hosts: (1..=MEMBERS).map(|node| Host::new(NodeId(node))).collect(),
            wire: Vec::new(),
            tokens: 0,
            answered: BTreeSet::new(),
            sessions: Vec::new(),
            leaders: BTreeMap::new(),
            applied: BTreeMap::new(),
        }
    }

    /// A leader and an open session, so that the fuzzer begins where it matters.
    fn elect(&mut self) {
        let answered = (0..ROUNDS_TO_HEAL).any(|_| {
            let leader =
                self.hosts.iter().position(|host| host.replica.status().role == RoleName::Leader);
            match leader {
                Some(at) if self.tokens == 0 => {
                    let block = BlockBuilder::open_session();
                    self.request(at as u8, Request::Propose(block.into()));
                }
                Some(_) | None => {}
            }
            self.calm_round(Trouble::None);
            !self.sessions.is_empty()
        });
        assert!(answered, "answers_without_faults");
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Deliver { which, again } => {
                if let Some(at) = self.on_wire(which) {
                    let (from, to, message) =
                        if again { self.wire[at].clone() } else { self.wire.remove(at) };
                    self.deliver(from, to, message);
                }
            }
            Action::Lose { which } => {
                if let Some(at) = self.on_wire(which) {
                    self.wire.remove(at);
                }
            }
            Action::Write { node } => {
                let now = self.now;
                self.with(node, |host| _ = host.write(now));
            }
            Action::Read { node, which } => {
                let now = self.now;
                self.with(node, |host| _ = host.read(now, which.into()));
            }
            Action::Turn { node } => self.input(node, Input::Turn),
            Action::Pass { millis } => self.now = self.now + Micros::from_millis(millis.into()),
            Action::Crash { node, fates } => self.crash(node, fates),
            Action::Propose { node, call } => {
                let block = self.block(&call);
                self.request(node, Request::Propose(block.into()));
            }
            Action::Query { node } => {
                let query = Query::Browse { queue: "q".into(), after: None, max: 16 };
                self.request(node, Request::Query(query.encode().into()));
            }
            Action::Watch { node, millis } => {
                let query = Query::Available { queue: "q".into() }.encode().into();
                let until = self.now + Micros::from_millis(millis.into());
                self.request(node, Request::Watch { query, until });
            }
            Action::Forget { node, token } => {
                let token = Token(self.tokens.saturating_sub(token.into()));
                self.input(node, Input::Forget { token });
            }
            Action::Calm { rounds, trouble } => {
                (0..rounds % 32).for_each(|_| self.calm_round(trouble));
            }
        }
    }

    fn on_wire(&self, which: u16) -> Option<usize> {
        usize::from(which).checked_rem(self.wire.len())
    }

    fn deliver(&mut self, from: NodeId, to: NodeId, message: Message) {
        self.input((to.0 - 1) as u8, Input::Peer { from, message });
    }

    fn request(&mut self, node: u8, request: Request) {
        self.tokens += 1;
        let token = Token(self.tokens);
        self.input(node, Input::Client { token, request });
    }

    fn input(&mut self, node: u8, input: Input) {
        let now = self.now;
        self.with(node, |host| host.step(now, input));
    }

    fn crash(&mut self, node: u8, fates: [u8; 4]) {
        let at = usize::from(node) % self.hosts.len();
        let mut fates = fates.into_iter().cycle().map(|fate| match fate % 4 {
            0 => Fate::Lost,
            1 => Fate::Kept,
            2 => Fate::Prefix(fate.into()),
            _ => Fate::Sectors((0..8).map(|sector| fate >> sector & 1 == 1).collect()),
        });
        let host = self.hosts.remove(at);
        let host = host.crash(self.now, || fates.next().expect("a cycle does not end"));
        self.hosts.insert(at, host);
    }

    /// Lets a host do something, then looks at what came of it.
    fn with(&mut self, node: u8, act: impl FnOnce(&mut Host)) {
        let at = usize::from(node) % self.hosts.len();
        let host = &mut self.hosts[at];
        act(host);
        let from = NodeId(at as u64 + 1);
        self.wire.extend(host.sent.drain(..).map(|(to, message)| (from, to, message)));
        for (token, response) in host.answered.drain(..) {
            assert!(
                self.answered.insert(token),
                "token_answered_once: {token:?} again {response:?}"
            );
            if let Response::SessionOpened(session) = response {
                self.sessions.push(session);
            }
        }
        for event in host.events.drain(..) {
            match event {
                Event::Role { role: RoleName::Leader, term, .. } => {
                    let leader = *self.leaders.entry(term).or_insert(from);
                    assert_eq!(leader, from, "one_leader_a_term: term {term}");
                }
                Event::Applied { index, term, hlc } => {
                    let first = *self.applied.entry(index).or_insert((term, hlc));
                    assert_eq!(
                        first,
                        (term, hlc),
                        "applied_is_final: entry {index} on node {from}"
                    );
                }
                Event::Role { .. }
                | Event::Truncated { .. }
                | Event::Membership { .. }
                | Event::Removed { .. }
                | Event::Installed { .. }
                | Event::Lost { .. }
                | Event::Damaged { .. }
                | Event::Space { .. }
                | Event::Fatal { .. } => {}
            }
        }
    }

    /// A round of a cluster that works, but for the trouble: what is under way arrives, what is to be
    /// written is.
    fn calm_round(&mut self, trouble: Trouble) {
        let count = self.hosts.len();
        let place = |node: u8| Some(usize::from(node) % count);
        let (cut_off, slow) = match trouble {
            Trouble::None => (None, None),
            Trouble::CutOff { node } => (place(node), None),
            Trouble::SlowDisk { node } => (None, place(node)),
            Trouble::Both { cut_off, slow } => (place(cut_off), place(slow)),
        };
        self.now = self.now + ROUND;
        let now = self.now;
        for (from, to, message) in std::mem::take(&mut self.wire) {
            if [from, to].iter().all(|node| Some(node.0 as usize - 1) != cut_off) {
                self.deliver(from, to, message);
            }
        }
        for at in 0..count {
            let node = at as u8;
            if Some(at) != slow {
                self.with(node, |host| while host.write(now) || host.read(now, 0) {});
            }
            self.input(node, Input::Turn);
        }
    }

    /// The faults end. Somebody must lead and answer, and all must come to the same state.
    fn heal(&mut self) {
        let answered = (0..ROUNDS_TO_HEAL).any(|round| {
            if round % 64 == 0 {
                for node in 0..self.hosts.len() as u8 {
                    self.request(node, Request::Propose(BlockBuilder::open_session().into()));
                }
            }
            let sessions = self.sessions.len();
            self.calm_round(Trouble::None);
            self.sessions.len() > sessions
        });
        assert!(answered, "answers_when_healed: no session opened in {ROUNDS_TO_HEAL} calm rounds");
        let agreed = (0..ROUNDS_TO_HEAL).any(|_| {
            self.calm_round(Trouble::None);
            let mut applied = self.hosts.iter().map(|host| host.replica.status().applied_index);
            let first = applied.next();
            applied.all(|index| Some(index) == first)
        });
        assert!(agreed, "converges_when_healed: members apply different numbers of entries");
        let digests: BTreeSet<u64> =
            self.hosts.iter().map(|host| host.replica.machine().digest()).collect();
        assert_eq!(digests.len(), 1, "equal_logs_give_equal_queues");
    }

    fn block(&self, call: &Call) -> Vec<u8> {
        match call {
            Call::OpenSession => BlockBuilder::open_session(),
            Call::CloseSession { session } => BlockBuilder::close_session(self.session(*session)),
            Call::Commands { session, sequence, acked_below, commands } => {
                let mut block = BlockBuilder::commands(
                    self.session(*session),
                    Sequence((*sequence).into()),
                    Sequence((*acked_below).into()),
                );
                for command in commands.iter().take(8) {
                    block.push_with(|out| write_command(command, out));
                }
                block.finish()
            }
        }
    }

    /// One of the open sessions, or one that never was.
    fn session(&self, which: u8) -> SessionId {
        let opened = usize::from(which).checked_rem(self.sessions.len());
        opened.map_or(SessionId(which.into()), |at| self.sessions[at])
    }
}

fn held(index: u8, offset: u8, token: u8) -> Vec<Held> {
    let position = Position { index: LogIndex(index.into()), offset: offset.into() };
    vec![Held { position, token: LeaseToken(token.into()) }]
}

fn write_command(asked: &Asked, out: &mut Vec<u8>) {
    let queue = || "q".to_owned();
    let command = match asked {
        Asked::Send { ids, body_bytes } => Command::Send {
            messages: ids
                .iter()
                .take(4)
                .map(|id| QueueMessage {
                    id: MessageId([*id; 16]),
                    from: String::new(),
                    to: queue(),
                    sent_at: Hlc::ZERO,
                    headers: Vec::new(),
                    body: vec![*id; (*body_bytes).into()],
                })
                .collect(),
        },
        Asked::Take { max } => {
            Command::Receive { queue: queue(), max: (*max).into(), mode: ReceiveMode::Take }
        }
        Asked::Lease { max, millis } => Command::Receive {
            queue: queue(),
            max: (*max).into(),
            mode: ReceiveMode::Lease { millis: (*millis).into() },
        },
        Asked::Acknowledge { index, offset, token } => {
            Command::Acknowledge { queue: queue(), held: held(*index, *offset, *token) }
        }
        Asked::Nack { index, offset, token, millis } => Command::Nack {
            queue: queue(),
            held: held(*index, *offset, *token),
            delay_millis: (*millis).into(),
        },
        Asked::Purge => Command::Purge { queue: queue() },
        Asked::Nonsense(bytes) => {
            out.extend_from_slice(bytes);
            return;
        }
    };
    command.encode_into(out);
}
