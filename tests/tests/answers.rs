//! What a client can make a node answer is bounded, and what does not fit is said and not lost.

use bytes::{Bytes, BytesMut};
use engine::api::{Bounded, Rejection, Request, Response, Token};
use engine::block::BlockBuilder;
use engine::engine::{Config, Effect, Engine, Fetch, Input};
use engine::hlc::Hlc;
use engine::ids::{ClusterId, GroupId, LogIndex, MessageId, NodeId, Sequence, SessionId};
use engine::limits::{self, Limits};
use engine::queue::{Command, Message, Queues, ReceiveMode, Reply};
use engine::raft::Membership;
use engine::record::Record;
use engine::storage::Recovered;
use engine::time::{Micros, Now};
use engine::wire::client::{Answer, ServerFrame, read_server_frame, write_response};

const BODY_BYTES: usize = 6 * 1024 * 1024;
const MESSAGES: u64 = 4;

/// A cluster of one, whose writes are done at once, and whose reads when the test says so.
struct Alone {
    engine: Engine<Queues>,
    now: Now,
    session: SessionId,
    log: Vec<Record>,
    fetches: Vec<Fetch>,
}

impl Alone {
    fn new() -> Self {
        Self::with(Limits { body_bytes_max: limits::BODY_BYTES_MAX, ..Limits::default() })
    }

    fn with(limits: Limits) -> Self {
        let config = Config {
            cluster: ClusterId([1; 16]),
            group: GroupId(0),
            node: NodeId(1),
            founding: Membership::new(vec![NodeId(1)]),
            priority: 0,
            lease_drift_ppm: None,
            election_timeout: Micros::from_millis(150),
            heartbeat_interval: Micros::from_millis(30),
            limits,
            seed: 1,
        };
        let recovered = Recovered::default();
        let machine = Queues::new(&config.limits);
        let now = Now { monotonic: Micros::from_secs(1), ..Now::default() };
        let engine = Engine::new(config, machine, &recovered, Now::default()).expect("no snapshot");
        let (session, log, fetches) = (SessionId::ZERO, Vec::new(), Vec::new());
        let mut alone = Self { engine, now, session, log, fetches };
        let opened = alone.call(BlockBuilder::open_session());
        let Some(Response::SessionOpened(session)) = opened else { panic!("{opened:?}") };
        alone.session = session;
        alone
    }

    /// Turns until nothing is to be made durable, and gives the answer, if there was one.
    fn turn(&mut self) -> Option<Response<Reply>> {
        let mut answer = None;
        let mut inputs = vec![Input::Turn];
        while let Some(input) = inputs.pop() {
            let mut effects = Vec::new();
            self.engine.step(self.now, input, &mut effects);
            for effect in effects {
                match effect {
                    Effect::Persist(persist) => {
                        self.log.extend(persist.records);
                        inputs.extend([Input::Turn, Input::Persisted(persist.io)]);
                    }
                    Effect::Respond { response, .. } => answer = Some(response),
                    Effect::Fetch(fetch) => self.fetches.push(fetch),
                    Effect::SaveSnapshot(_)
                    | Effect::ReadSnapshot(_)
                    | Effect::Purge { .. }
                    | Effect::Settle { .. }
                    | Effect::Archive { .. }
                    | Effect::Send { .. }
                    | Effect::Event(_) => {}
                }
            }
        }
        answer
    }

    fn call(&mut self, block: Vec<u8>) -> Option<Response<Reply>> {
        self.turn();
        let request = Request::Propose(Bytes::from(block));
        let mut effects = Vec::new();
        self.engine.step(self.now, Input::Client { token: Token(1), request }, &mut effects);
        match effects.pop() {
            Some(Effect::Respond { response, .. }) => Some(response),
            None => self.turn(),
            Some(other) => panic!("{other:?}"),
        }
    }

    /// Everything that was asked of the disk is read, an entry at a time; gives the answers.
    fn read(&mut self) -> Vec<Response<Reply>> {
        let mut answers = Vec::new();
        while let Some(Fetch { id, first, .. }) = self.fetches.pop() {
            let records = vec![self.log[first.0 as usize - 1].clone()];
            let mut effects = Vec::new();
            self.engine.step(self.now, Input::Fetched { id, records }, &mut effects);
            for effect in effects {
                match effect {
                    Effect::Respond { response, .. } => answers.push(response),
                    Effect::Fetch(fetch) => self.fetches.push(fetch),
                    _ => {}
                }
            }
        }
        answers
    }

    /// Commands of consecutive sequences; the client says that it has no reply yet.
    fn commands(&mut self, first: u64, commands: &[Command]) -> Response<Reply> {
        self.propose(first, commands).expect("a cluster of one answers at once")
    }

    fn propose(&mut self, first: u64, commands: &[Command]) -> Option<Response<Reply>> {
        let mut block = BlockBuilder::commands(self.session, Sequence(first), Sequence(1));
        for command in commands {
            block.push_with(|out| command.encode_into(out));
        }
        self.call(block.finish())
    }
}

fn take() -> Command {
    Command::Receive { queue: "big".into(), max: 1, mode: ReceiveMode::Take }
}

fn send(ordinal: u64) -> Command {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&ordinal.to_le_bytes());
    let message = Message {
        id: MessageId(id),
        from: String::new(),
        to: "big".into(),
        sent_at: Hlc::ZERO,
        headers: Vec::new(),
        body: vec![9; BODY_BYTES],
    };
    Command::Send { messages: vec![message] }
}

#[test]
fn receives_that_outgrow_an_answer_took_effect_and_are_answered_in_parts() {
    let mut alone = Alone::new();
    for ordinal in 1..=MESSAGES {
        let sent = alone.commands(ordinal, &[send(ordinal)]);
        assert!(matches!(sent, Response::Applied { .. }), "{sent:?}");
    }
    let takes = vec![take(); MESSAGES as usize];
    let refused = alone.commands(MESSAGES + 1, &takes);
    let Response::TooLarge { bytes, max } = refused else { panic!("{refused:?}") };
    assert!(bytes > max && max == limits::ANSWER_BODIES_BYTES_MAX as u64);
    assert_eq!(alone.engine.machine().message_count(), 0, "all were taken");
    for ordinal in 1..=MESSAGES {
        let again = alone.commands(MESSAGES + ordinal, &[take()]);
        let Response::Applied { bodies, .. } = again else { panic!("{again:?}") };
        assert!(bodies.len() == 1 && bodies[0].len() > BODY_BYTES);
    }
}

#[test]
fn answers_that_wait_for_the_disk_are_bounded_and_nothing_more_is_admitted_meanwhile() {
    let waiting_bytes_max = 2 * BODY_BYTES;
    let body_bytes_max = limits::BODY_BYTES_MAX;
    let log_cache_bytes_max = 1024;
    let limits =
        Limits { waiting_bytes_max, body_bytes_max, log_cache_bytes_max, ..Limits::default() };
    let mut alone = Alone::with(limits);
    for ordinal in 1..=MESSAGES {
        let sent = alone.commands(ordinal, &[send(ordinal)]);
        assert!(matches!(sent, Response::Applied { .. }), "{sent:?}");
    }
    assert_eq!(alone.propose(MESSAGES + 1, &[take()]), None, "its body is on the disk");
    assert_eq!(alone.propose(MESSAGES + 2, &[take()]), None);
    let refused = alone.commands(MESSAGES + 3, &[take()]);
    let Response::Rejected(Rejection::Full { what, used, max }) = refused else {
        panic!("{refused:?}")
    };
    assert_eq!((what, max), (Bounded::WaitingBytes, waiting_bytes_max as u64));
    assert!(used >= max);
    assert_eq!(alone.read().len(), 2, "both are answered when the disk has read");
    assert_eq!(alone.propose(MESSAGES + 3, &[take()]), None, "and the next is admitted");
    assert_eq!(alone.read().len(), 1);
}

#[test]
fn a_head_that_outgrows_a_frame_is_replaced_by_the_news_of_that() {
    let settled = Ok(Reply::Settled(vec![true; limits::MESSAGES_PER_RECEIVE_MAX]));
    let index = LogIndex(1);
    let results = vec![settled; 600];
    let mut out = BytesMut::from(&b"before"[..]);
    write_response(&mut out, 5, Response::Applied { index, results, bodies: Vec::new() });
    let mut frames = out.split_off(6);
    let frame = engine::wire::take_frame(&mut frames).expect("valid").expect("whole");
    let (frame, _) = read_server_frame(&frame).expect("a server frame");
    let ServerFrame::Response { request: 5, answer: Answer::TooLarge { bytes, max }, .. } = frame
    else {
        panic!("{frame:?}")
    };
    assert!(bytes > max && max == limits::FRAME_HEAD_BYTES_MAX as u64);
}
