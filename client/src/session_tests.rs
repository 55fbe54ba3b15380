//! The window against the engine's own session table, under every mishap that the wire knows.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

use super::*;
use engine::hlc::Hlc;
use engine::limits::Limits;
use engine::queue::Invalid;
use engine::session::{Sessions, Verdict};
use proptest::prelude::*;

const PLACEHOLDER: &[u8] = b"placeholder";

/// What the log of a cluster does with blocks, whoever leads.
struct Log {
    sessions: Sessions<Reply>,
    /// The commands that took effect, in order.
    applied: Vec<Vec<u8>>,
    /// Commands that nodes refuse.
    refused: fn(&[u8]) -> bool,
}

enum Answer {
    Applied(Vec<Result<Reply, CommandError>>),
    Invalid(usize),
}

impl Log {
    fn new(refused: fn(&[u8]) -> bool) -> (Self, Window<u64>) {
        let mut sessions = Sessions::new(&Limits::default());
        let session = sessions.open(Hlc::ZERO);
        let log = Self { sessions, applied: Vec::new(), refused };
        (log, Window::new(session, PLACEHOLDER.to_vec()))
    }

    fn propose(&mut self, bytes: &[u8]) -> Answer {
        let block = Block::parse(bytes).unwrap();
        if let Some(at) = block.commands().position(|(_, command)| (self.refused)(command)) {
            return Answer::Invalid(at);
        }
        self.sessions.touch(block.session, block.acked_below, Hlc::ZERO);
        let mut sequence = block.first_sequence;
        let mut results = Vec::new();
        for (_, command) in block.commands() {
            results.push(match self.sessions.check(block.session, sequence) {
                Verdict::Refuse(error) => Err(error),
                Verdict::Replay(reply) => Ok(reply),
                Verdict::Apply => {
                    let reply = if command == PLACEHOLDER {
                        Reply::Deleted(vec![false])
                    } else {
                        self.applied.push(command.to_vec());
                        Reply::Purged(number_of(command))
                    };
                    self.sessions.record(block.session, sequence, reply.clone());
                    Ok(reply)
                }
            });
            sequence = sequence.next();
        }
        Answer::Applied(results)
    }
}

fn number_of(command: &[u8]) -> u64 {
    u64::from_le_bytes(command[..8].try_into().unwrap())
}

fn push(window: &mut Window<u64>, numbers: std::ops::Range<u64>) {
    let mut builder = window.start_block();
    numbers.clone().for_each(|number| builder.push(&number.to_le_bytes()));
    window.push_block(builder, numbers.collect());
}

fn answer(
    window: &mut Window<u64>,
    request: u64,
    answer: Answer,
    ended: &mut Vec<(u64, Ended)>,
) -> Progress {
    match answer {
        Answer::Applied(results) => {
            window.on_applied(request, results, Vec::new(), |caller, end| {
                ended.push((caller, end));
            })
        }
        Answer::Invalid(command) => {
            window.on_invalid(request, command, Reply::Invalid(Invalid::Undecodable))
        }
    }
}

/// What can happen next.
#[derive(Clone, Debug)]
enum Step {
    /// New commands join the window.
    Push(u64),
    /// The next block goes out and waits in the leader's queue.
    Send,
    /// The leader takes the next block off its queue, and its answer travels.
    Serve,
    /// It refuses that block, for want of room or of leadership.
    Refuse,
    /// The `n`th of the travelling answers arrives.
    Arrive(usize),
    /// The leader is lost with everything on the way; some of it was applied before.
    LoseLeader { served_first: usize },
    /// The callers of all commands divisible by this give up.
    Abandon(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (1_u64..5).prop_map(Step::Push),
        4 => Just(Step::Send),
        4 => Just(Step::Serve),
        1 => Just(Step::Refuse),
        4 => any::<usize>().prop_map(Step::Arrive),
        1 => (0_usize..4).prop_map(|served_first| Step::LoseLeader { served_first }),
        1 => (2_u64..9).prop_map(Step::Abandon),
    ];
    prop::collection::vec(step, 1..200)
}

/// A window, a leader's queue, and answers that overtake each other.
struct World {
    log: Log,
    window: Window<u64>,
    queue: VecDeque<(u64, Bytes)>,
    answers: Vec<(u64, Option<Answer>)>,
    ended: Vec<(u64, Ended)>,
    abandoned: Vec<u64>,
    requests: u64,
    pushed: u64,
}

impl World {
    fn new(refused: fn(&[u8]) -> bool) -> Self {
        let (log, window) = Log::new(refused);
        let (queue, answers) = (VecDeque::new(), Vec::new());
        let (ended, abandoned) = (Vec::new(), Vec::new());
        Self { log, window, queue, answers, ended, abandoned, requests: 0, pushed: 0 }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Push(count) => {
                push(&mut self.window, self.pushed..self.pushed + count);
                self.pushed += count;
            }
            Step::Send => self.send(),
            Step::Serve => self.serve(),
            Step::Refuse => {
                if let Some((request, _)) = self.queue.pop_front() {
                    self.answers.push((request, None));
                }
            }
            Step::Arrive(which) => self.arrive(which),
            Step::LoseLeader { served_first } => {
                (0..served_first).for_each(|_| self.serve());
                self.queue.clear();
                self.answers.clear();
                self.window.rewind();
            }
            Step::Abandon(divisor) => {
                let abandoned = &mut self.abandoned;
                self.window.abandon(|c| c.is_multiple_of(divisor), |caller| abandoned.push(caller));
            }
        }
    }

    fn send(&mut self) {
        self.requests += 1;
        if let Some(bytes) = self.window.transmit(self.requests) {
            self.queue.push_back((self.requests, bytes));
        }
    }

    fn serve(&mut self) {
        if let Some((request, bytes)) = self.queue.pop_front() {
            self.answers.push((request, Some(self.log.propose(&bytes))));
        }
    }

    fn arrive(&mut self, which: usize) {
        if self.answers.is_empty() {
            return;
        }
        let (request, came) = self.answers.remove(which % self.answers.len());
        let progress = match came {
            Some(came) => answer(&mut self.window, request, came, &mut self.ended),
            None => {
                self.window.on_undone(request);
                Progress::Rewound
            }
        };
        assert!(!matches!(progress, Progress::Expired | Progress::Contradiction), "{progress:?}");
    }

    /// Without further mishaps, until everything is answered.
    fn settle(&mut self) {
        let mut turns = 0;
        while self.window.span() > 0 {
            turns += 1;
            assert!(turns < 100_000, "the window never empties");
            self.send();
            self.serve();
            self.arrive(0);
        }
    }

    fn check(&self) {
        let applied: Vec<u64> = self.log.applied.iter().map(|command| number_of(command)).collect();
        assert!(applied.is_sorted_by(|a, b| a < b), "each at most once, in order: {applied:?}");
        let mut callers: Vec<u64> = self.ended.iter().map(|(caller, _)| *caller).collect();
        callers.extend(&self.abandoned);
        callers.sort_unstable();
        assert_eq!(callers, (0..self.pushed).collect::<Vec<_>>(), "each caller once");
        for (caller, ended) in &self.ended {
            let is_refused = (self.log.refused)(&caller.to_le_bytes());
            let is_applied = applied.binary_search(caller).is_ok();
            match ended {
                Ended::Applied(Reply::Purged(number), _) => {
                    assert_eq!(number, caller, "its own reply");
                    assert!(is_applied && !is_refused);
                }
                Ended::Refused(_) => assert!(is_refused && !is_applied),
                other => panic!("caller {caller} ended as {other:?}"),
            }
        }
    }
}

proptest! {
    #[test]
    fn whatever_happens_each_command_takes_effect_once_and_in_order(steps in steps()) {
        let mut world = World::new(|_| false);
        steps.into_iter().for_each(|step| world.step(step));
        world.settle();
        world.check();
    }

    #[test]
    fn refused_commands_have_no_effect_and_hold_nothing_up(steps in steps()) {
        let mut world = World::new(|command| command != PLACEHOLDER && number_of(command) % 5 == 3);
        steps.into_iter().for_each(|step| world.step(step));
        world.settle();
        world.check();
    }
}

#[test]
fn blocks_are_sent_again_in_order_with_the_same_bytes_after_the_leader_is_lost() {
    let (_, mut window) = Log::new(|_| false);
    push(&mut window, 0..2);
    push(&mut window, 2..5);
    let first: Vec<Bytes> = [1, 2].into_iter().filter_map(|n| window.transmit(n)).collect();
    assert_eq!(first.len(), 2);
    assert_eq!(window.transmit(3), None);
    window.rewind();
    let second: Vec<Bytes> = [4, 5].into_iter().filter_map(|n| window.transmit(n)).collect();
    assert_eq!(first, second);
}

#[test]
fn a_gap_is_filled_from_the_block_that_the_leader_misses() {
    let (mut log, mut window) = Log::new(|_| false);
    (0..3).for_each(|at| push(&mut window, at..at + 1));
    let blocks: Vec<Bytes> = (1..=3).filter_map(|n| window.transmit(n)).collect();
    let mut ended = Vec::new();
    let first = log.propose(&blocks[0]);
    // The second block is lost.
    let third = log.propose(&blocks[2]);
    assert_eq!(answer(&mut window, 3, third, &mut ended), Progress::Rewound);
    assert_eq!(answer(&mut window, 1, first, &mut ended), Progress::Answered);
    assert_eq!(window.transmit(4), Some(blocks[1].clone()));
    assert_eq!(window.transmit(5), Some(blocks[2].clone()));
    assert_eq!(window.transmit(6), None);
}

#[test]
fn a_block_that_was_answered_before_the_leader_was_lost_is_not_sent_again() {
    let (mut log, mut window) = Log::new(|_| false);
    push(&mut window, 0..1);
    push(&mut window, 1..2);
    let blocks: Vec<Bytes> = (1..=2).filter_map(|n| window.transmit(n)).collect();
    let (first, second) = (log.propose(&blocks[0]), log.propose(&blocks[1]));
    let mut ended = Vec::new();
    assert_eq!(answer(&mut window, 2, second, &mut ended), Progress::Answered);
    window.rewind();
    assert_eq!(window.transmit(3), Some(blocks[0].clone()));
    assert_eq!(answer(&mut window, 3, first, &mut ended), Progress::Answered);
    assert_eq!(window.transmit(4), None);
    assert_eq!(window.span(), 0);
}

#[test]
fn acknowledged_below_follows_the_lowest_unanswered_command() {
    let (mut log, mut window) = Log::new(|_| false);
    push(&mut window, 0..2);
    push(&mut window, 2..5);
    assert_eq!(window.acked_below(), Sequence(1));
    let blocks: Vec<Bytes> = (1..=2).filter_map(|n| window.transmit(n)).collect();
    let (first, second) = (log.propose(&blocks[0]), log.propose(&blocks[1]));
    let mut ended = Vec::new();
    assert_eq!(answer(&mut window, 2, second, &mut ended), Progress::Answered);
    assert_eq!(window.acked_below(), Sequence(1), "the first block still holds the window");
    assert_eq!(answer(&mut window, 1, first, &mut ended), Progress::Answered);
    assert_eq!(window.acked_below(), Sequence(6));
    assert_eq!(window.span(), 0);
    let next = window.start_block().finish();
    assert_eq!(&next[12..28], [6_u64.to_le_bytes(), 6_u64.to_le_bytes()].concat());
}

#[test]
fn commands_sent_once_to_an_expired_session_may_be_sent_in_another() {
    let (mut log, mut window) = Log::new(|_| false);
    (0..3).for_each(|at| push(&mut window, at..at + 1));
    window.transmit(1);
    window.rewind();
    let blocks: Vec<Bytes> = (2..=4).filter_map(|n| window.transmit(n)).collect();
    log.sessions.close(window.session());
    let second = log.propose(&blocks[1]);
    let mut ended = Vec::new();
    assert_eq!(answer(&mut window, 3, second, &mut ended), Progress::Expired);
    let mut fates = Vec::new();
    window.expire(Some(3), |caller, fate| fates.push((caller, fate)));
    // The first was sent twice: the earlier time may have been before the session expired.
    let again = |number: u64| Fate::NeverApplied(Bytes::from(number.to_le_bytes().to_vec()));
    assert_eq!(fates, [(0, Fate::Unknown), (1, again(1)), (2, again(2))]);
}

#[test]
fn a_reply_without_its_bodies_is_not_passed_off_as_whole() {
    let (_, mut window) = Log::new(|_| false);
    push(&mut window, 0..1);
    window.transmit(1);
    let delivered = engine::queue::Delivered { position: Default::default(), len: 1, attempt: 1 };
    let reply = Reply::Received {
        token: Default::default(),
        until: Hlc::ZERO,
        deliveries: vec![delivered],
    };
    let mut ended = Vec::new();
    let came = Answer::Applied(vec![Ok(reply)]);
    assert_eq!(answer(&mut window, 1, came, &mut ended), Progress::Answered);
    assert_eq!(ended, [(0, Ended::BodiesMissing)]);
}
