//! A simulated client: sessions, pipelined blocks, retries, fail-over.
//!
//! Owns the client's side of the session protocol in the plainest way: commands get sequences, go out
//! in blocks, and are sent again in the same session with the same sequences until each is answered.
//! Sans-IO: it is told the time and answers, and says what to send. Writes the history. Deliberately
//! not the real client library, whose retries would hide what nodes do wrong.
//! Next: `workload` for what it asks, `world` for who drives it.

use super::session::{Finished, Session};
use crate::admin::Deed;
use crate::history::{Action, Answer, History, OpenedSession, OperationId, Outcome, StaleRead};
use crate::oracle::{Rule, Violation};
use crate::scenario::Scenario;
use crate::streams::Stream;
use crate::workload::{Generator, Intent, is_intact};
use bytes::Bytes;
use engine::api::{CommandError, Rejection, Response};
use engine::block::BlockBuilder;
use engine::ids::{LogIndex, MessageId, NodeId, Sequence, SessionId};
use engine::queue::{Command, Message, Query, Reply};
use std::collections::{BTreeMap, VecDeque};

/// What a client asks a node.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Call {
    /// A block.
    Propose(Bytes),
    /// A read.
    Query(Bytes),
    /// A read that the node asked answers itself, and linearizably.
    QueryHere(Bytes),
    /// A read of what the node asked has.
    QueryStale(Bytes),
    /// Of the operator.
    Deed(Deed),
    /// A watch.
    Watch {
        /// What for.
        query: Bytes,
        /// At most, microseconds.
        timeout_us: u64,
    },
}

/// What a client wants the world to do.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Wish {
    /// Send this.
    Send {
        /// To which node.
        to: u64,
        /// The client's number for it.
        request: u64,
        /// What.
        call: Call,
    },
    /// The connection to a node is closed: answers to all requests on it are wanted no more.
    Disconnect {
        /// Which node.
        from: u64,
    },
}

/// What a request was about.
#[derive(Clone, Debug)]
enum Purpose {
    Open,
    Close,
    Block { session: SessionId, first: Sequence, bytes: Bytes },
    Query { operation: OperationId },
    Watch { queue: String },
}

#[derive(Clone, Debug)]
struct Request {
    to: u64,
    sent_us: u64,
    purpose: Purpose,
    /// Given up; the answer may still come, and must still be right.
    is_late: bool,
}

/// Late requests that are remembered.
const LATE_MAX: usize = 64;

/// Blocks that may be on their way at the best of times.
const BLOCKS_MAX: usize = 64;
/// A request that was lost is asked again after this at the latest, microseconds, unless clients
/// are more patient from the start.
const PATIENCE_US_MAX: u64 = 3_000_000;
/// Patience is doubled at most so often.
const DOUBLINGS_MAX: u32 = 5;

#[derive(Clone, Debug)]
enum Link {
    /// No session; a request for one may be under way.
    Closed,
    Open(Session),
}

/// A client.
#[derive(Debug)]
pub(super) struct Client {
    id: u64,
    machines: u64,
    /// Probabilities of reads that any node answers, linearizably and not.
    read_ppm: (u32, u32),
    stream: Stream,
    generator: Generator,
    /// Asked before anything is generated.
    script: VecDeque<Intent>,
    request_timeout_us: u64,
    window: usize,
    target: u64,
    link: Link,
    requests: BTreeMap<u64, Request>,
    next_request: u64,
    next_operation_us: u64,
    retry_at_us: Option<u64>,
    /// Blocks that may be on their way: halved by each failure, so that impatient clients don't
    /// drown a cluster that is merely slow.
    blocks_max: usize,
    /// Failures since the last success; doubles patience, up to a point.
    failures: u32,
    is_generating: bool,
}

/// A step's surroundings.
pub(super) struct Surroundings<'a> {
    /// Simulated time, microseconds.
    pub(super) now_us: u64,
    /// Where operations are noted.
    pub(super) history: &'a mut History,
    /// What follows.
    pub(super) wishes: &'a mut Vec<Wish>,
}

impl Client {
    /// A client of the scenario's workload.
    #[must_use]
    pub(super) fn new(scenario: &Scenario, id: u64) -> Self {
        let mut stream = Stream::of(scenario.seed, "client", id);
        let mut generator = Generator::new(scenario.seed, id, &scenario.workload);
        Self {
            id,
            machines: scenario.machines(),
            read_ppm: (scenario.workload.read_here_ppm, scenario.workload.read_stale_ppm),
            script: VecDeque::new(),
            request_timeout_us: scenario.workload.request_timeout_ms * 1_000,
            window: scenario.workload.window,
            target: stream.between(1, scenario.nodes),
            link: Link::Closed,
            requests: BTreeMap::new(),
            next_request: 1,
            next_operation_us: generator.draw_pause_us(),
            retry_at_us: None,
            blocks_max: BLOCKS_MAX,
            failures: 0,
            is_generating: true,
            stream,
            generator,
        }
    }

    /// A client that does only what it is told.
    #[must_use]
    pub(super) fn scripted(scenario: &Scenario, id: u64, script: Vec<Intent>) -> Self {
        let mut client = Self::new(scenario, id);
        client.script = script.into();
        client.is_generating = false;
        // The probe runs on a repaired cluster: patience would only hide a lost answer.
        client.request_timeout_us = 1_000_000;
        client
    }

    /// Asks nothing new from now on; what is unanswered is still retried.
    pub(super) fn stop_generating(&mut self) {
        self.is_generating = false;
        self.script.clear();
    }

    /// Commands that were invoked and not answered, and questions that were not yet asked.
    #[must_use]
    pub(super) fn unanswered(&self) -> usize {
        let asked = match &self.link {
            Link::Closed => 0,
            Link::Open(session) => session.unanswered(),
        };
        asked + self.script.len()
    }

    /// When [`wake`](Self::wake) should come next.
    #[must_use]
    pub(super) fn next_wake_us(&self) -> Option<u64> {
        let timeouts = self.requests.values().filter(|request| !request.is_late);
        let timeout = timeouts.map(|request| request.sent_us + self.patience_us()).min();
        let operation = self.is_generating.then_some(self.next_operation_us);
        [timeout, operation, self.retry_at_us].into_iter().flatten().min()
    }

    fn patience_us(&self) -> u64 {
        let longest_us = self.request_timeout_us.max(PATIENCE_US_MAX);
        longest_us.min(self.request_timeout_us << self.failures.min(DOUBLINGS_MAX))
    }

    /// Time has come to do something.
    pub(super) fn wake(&mut self, around: &mut Surroundings<'_>) {
        self.give_up_late_requests(around);
        if self.is_generating && self.next_operation_us <= around.now_us {
            self.next_operation_us = around.now_us + 1 + self.generator.draw_pause_us();
            if self.generator.draws_churn() {
                self.leave_session(around);
            } else if self.script.len() < self.window {
                let intent = self.generator.draw();
                self.script.push_back(intent);
            }
        }
        if self.retry_at_us.is_some_and(|at_us| at_us <= around.now_us) {
            self.retry_at_us = None;
            if let Link::Open(session) = &mut self.link {
                session.send_again();
            }
            // What is sent again supersedes what is on its way; answers to that are still welcome.
            for request in self.requests.values_mut() {
                request.is_late |= matches!(request.purpose, Purpose::Block { .. });
            }
        }
        self.go_on(around);
    }

    /// Asks what is to be asked and sends what is to be sent.
    fn go_on(&mut self, around: &mut Surroundings<'_>) {
        while let Some(intent) = self.script.pop_front() {
            match intent {
                Intent::Command(command) => {
                    let Link::Open(session) = &mut self.link else {
                        self.script.push_front(Intent::Command(command));
                        break;
                    };
                    if session.unanswered() >= self.window {
                        self.script.push_front(Intent::Command(command));
                        break;
                    }
                    session.invoke(self.id, around.now_us, command, around.history);
                }
                Intent::Query(query) => self.ask(query, around),
                Intent::Watch { queue, timeout_ms } => {
                    let query = Query::Available { queue: queue.clone() };
                    let query = Bytes::from(query.encode());
                    let call = Call::Watch { query, timeout_us: timeout_ms * 1_000 };
                    self.request(call, Purpose::Watch { queue }, around);
                }
            }
        }
        if matches!(self.link, Link::Closed) && !self.script.is_empty() {
            self.open_session(around);
        }
        if self.retry_at_us.is_some() {
            return;
        }
        let blocks = self
            .requests
            .values()
            .filter(|request| matches!(request.purpose, Purpose::Block { .. }) && !request.is_late);
        let mut room = self.blocks_max.saturating_sub(blocks.count());
        while let Link::Open(session) = &mut self.link
            && room > 0
        {
            room -= 1;
            let Some((first, bytes)) = session.next_block(self.generator.draw_block_len()) else {
                break;
            };
            let purpose = Purpose::Block { session: session.id(), first, bytes: bytes.clone() };
            self.request(Call::Propose(bytes), purpose, around);
        }
    }

    fn ask(&mut self, query: Query, around: &mut Surroundings<'_>) {
        let (here_ppm, stale_ppm) = self.read_ppm;
        let bytes = Bytes::from(query.encode());
        let (call, action) = if self.stream.chance(stale_ppm) {
            (Call::QueryStale(bytes), Action::StaleQuery(query))
        } else if self.stream.chance(here_ppm) {
            (Call::QueryHere(bytes), Action::Query(query))
        } else {
            (Call::Query(bytes), Action::Query(query))
        };
        let is_anywhere = !matches!(call, Call::Query(_));
        let operation = around.history.invoke(self.id, around.now_us, None, action);
        // Now and then a read tries its luck elsewhere: a leader that was deposed and does not know
        // must not answer.
        let target = self.target;
        if is_anywhere || self.stream.one_in(4) {
            self.target = self.stream.between(1, self.machines);
        }
        self.request(call, Purpose::Query { operation }, around);
        self.target = target;
    }

    fn open_session(&mut self, around: &mut Surroundings<'_>) {
        let is_asked = self
            .requests
            .values()
            .any(|request| matches!(request.purpose, Purpose::Open) && !request.is_late);
        if !is_asked && self.retry_at_us.is_none() {
            let block = Bytes::from(BlockBuilder::open_session());
            self.request(Call::Propose(block), Purpose::Open, around);
        }
    }

    /// Closes the session properly, or forgets it as a client does that dies. What was unanswered
    /// stays unknown, and packets of the old session are still on their way.
    fn leave_session(&mut self, around: &mut Surroundings<'_>) {
        let Link::Open(session) = std::mem::replace(&mut self.link, Link::Closed) else { return };
        if session.unanswered() == 0 || self.stream.one_in(2) {
            let block = Bytes::from(BlockBuilder::close_session(session.id()));
            self.request(Call::Propose(block), Purpose::Close, around);
        }
    }

    fn request(&mut self, call: Call, purpose: Purpose, around: &mut Surroundings<'_>) {
        let (request, to) = (self.next_request, self.target);
        self.next_request += 1;
        let sent_us = around.now_us;
        self.requests.insert(request, Request { to, sent_us, purpose, is_late: false });
        around.wishes.push(Wish::Send { to, request, call });
    }

    fn give_up_late_requests(&mut self, around: &mut Surroundings<'_>) {
        let mut gave_up_on = None;
        let patience_us = self.patience_us();
        for request in self.requests.values_mut().filter(|request| !request.is_late) {
            if request.sent_us + patience_us <= around.now_us {
                request.is_late = true;
                gave_up_on = Some(request.to);
            }
        }
        let late = self.requests.iter().filter(|(_, request)| request.is_late);
        let late: Vec<u64> = late.map(|(number, _)| *number).collect();
        for number in late.iter().take(late.len().saturating_sub(LATE_MAX)) {
            self.requests.remove(number);
        }
        if let Some(node) = gave_up_on {
            if self.stream.one_in(2) {
                around.wishes.push(Wish::Disconnect { from: node });
            }
            self.retry_with(None, around.now_us);
        }
    }

    /// Tries again soon, with the node that was named or any.
    fn retry_with(&mut self, leader: Option<u64>, now_us: u64) {
        self.target = match leader {
            Some(leader) if (1..=self.machines).contains(&leader) => leader,
            Some(_) | None => self.stream.between(1, self.machines),
        };
        if self.retry_at_us.is_none() {
            let pause_us = if leader.is_some() { 100 } else { self.stream.between(1_000, 40_000) };
            self.retry_at_us = Some(now_us + pause_us);
            self.blocks_max = (self.blocks_max / 2).max(1);
            self.failures += 1;
        }
    }

    /// An answer has arrived.
    ///
    /// # Errors
    /// The answer is one that must never be given.
    pub(super) fn answer(
        &mut self,
        number: u64,
        life: u64,
        response: Response<Reply>,
        around: &mut Surroundings<'_>,
    ) -> Result<(), Violation> {
        let Some(request) = self.requests.remove(&number) else { return Ok(()) };
        let is_refusal = matches!(
            response,
            Response::Rejected(_)
                | Response::Unknown { .. }
                | Response::BodyMissing { is_lost: false, .. }
        );
        // A read is asked once: nobody learns anything from its refusal.
        let is_read = matches!(request.purpose, Purpose::Query { .. });
        if is_refusal && (request.is_late || is_read) {
            return Ok(());
        }
        match (response, request.purpose) {
            (
                Response::Applied { index, results, bodies },
                Purpose::Block { session, first, bytes },
            ) => {
                self.failures = 0;
                self.blocks_max = (self.blocks_max + 1).min(BLOCKS_MAX);
                let at_us = around.now_us;
                let block = bytes.clone();
                around.history.answers.push(Answer {
                    at_us,
                    index,
                    block,
                    results: results.clone(),
                });
                self.on_results(session, first, index, results, bodies, around)?;
            }
            (Response::SessionOpened(session), Purpose::Open) => {
                self.on_opened(session, around);
            }
            (Response::SessionClosed, Purpose::Close) => {}
            (Response::Answer { at, reply, bodies }, Purpose::Query { operation }) => {
                let messages = decode(around.now_us, &reply, &mut bodies.into_iter())?;
                let outcome = Outcome::Replied { index: at, reply, messages };
                around.history.conclude(operation, around.now_us, outcome);
            }
            (Response::Stale { at, log_time, reply, bodies }, Purpose::Query { operation }) => {
                let messages = decode(around.now_us, &reply, &mut bodies.into_iter())?;
                let outcome = Outcome::Replied { index: at, reply, messages };
                around.history.conclude(operation, around.now_us, outcome);
                let by = (NodeId(request.to), life);
                around.history.stale_reads.push(StaleRead { operation, by, log_time });
            }
            (Response::Ready, Purpose::Watch { queue }) => {
                if self.is_generating {
                    let intent = self.generator.draw_receive(queue);
                    self.script.push_back(intent);
                }
            }
            (Response::TimedOut, Purpose::Watch { .. }) => {}
            (Response::Rejected(Rejection::NotLeader { leader }), _)
            | (Response::Unknown { leader }, _) => {
                self.retry_with(leader.map(|leader| leader.0), around.now_us);
            }
            (Response::Rejected(Rejection::Transferring { to }), _) => {
                self.retry_with(Some(to.0), around.now_us);
            }
            (
                Response::Rejected(
                    Rejection::Full { .. } | Rejection::NoSpace(_) | Rejection::ShuttingDown,
                )
                | Response::BodyMissing { is_lost: false, .. },
                _,
            ) => {
                self.retry_with(None, around.now_us);
            }
            (response, purpose) => {
                let explanation = format!("client {} got {response:?} to {purpose:?}", self.id);
                return Err(Violation::new(Rule::Integrity, around.now_us, explanation));
            }
        }
        self.go_on(around);
        Ok(())
    }

    fn on_opened(&mut self, session: SessionId, around: &mut Surroundings<'_>) {
        let (client, at_us) = (self.id, around.now_us);
        around.history.sessions.push(OpenedSession { client, at_us, session });
        // An answer to an earlier try: that session is left to expire.
        if matches!(self.link, Link::Closed) {
            self.link = Link::Open(Session::new(session));
        }
    }

    fn on_results(
        &mut self,
        id: SessionId,
        first: Sequence,
        index: LogIndex,
        results: Vec<Result<Reply, CommandError>>,
        bodies: Vec<Bytes>,
        around: &mut Surroundings<'_>,
    ) -> Result<(), Violation> {
        let at_us = around.now_us;
        let mut bodies = bodies.into_iter();
        let mut decoded = Vec::with_capacity(results.len());
        for result in results {
            decoded.push(match result {
                Ok(reply) => decode(at_us, &reply, &mut bodies).map(|ids| Ok((reply, ids)))?,
                Err(error) => Err(error),
            });
        }
        if bodies.next().is_some() {
            let explanation = format!("entry {index}: more bodies than replies speak of");
            return Err(Violation::new(Rule::Integrity, at_us, explanation));
        }
        let Link::Open(session) = &mut self.link else { return Ok(()) };
        if session.id() != id {
            return Ok(());
        }
        match session.finish(at_us, first, index, decoded, around.history)? {
            Finished::Replies(replies) => {
                replies.iter().for_each(|(command, reply)| self.generator.learn(command, reply));
            }
            Finished::Gap => self.retry_with(Some(self.target), at_us),
            Finished::Expired(lost) => {
                self.link = Link::Closed;
                self.send_in_next_session(lost);
            }
        }
        Ok(())
    }

    /// Sends that were under way when a session was lost are sent again under their old ids, which
    /// is what makes them safe to repeat. Other commands stay unknown.
    fn send_in_next_session(&mut self, lost: Vec<Command>) {
        if !self.is_generating {
            return;
        }
        let sends = lost.into_iter().filter(|command| matches!(command, Command::Send { .. }));
        for command in sends.collect::<Vec<_>>().into_iter().rev() {
            self.script.push_front(Intent::Command(command));
        }
    }
}

/// Checks the messages that came with a reply and gives their ids.
fn decode(
    at_us: u64,
    reply: &Reply,
    bodies: &mut impl Iterator<Item = Bytes>,
) -> Result<Vec<MessageId>, Violation> {
    let lens: Vec<u32> = match reply {
        Reply::Received { deliveries, .. } => {
            deliveries.iter().map(|delivered| delivered.len).collect()
        }
        Reply::Got(message) => message.iter().map(|message| message.len).collect(),
        Reply::Browsed(messages) => messages.iter().map(|message| message.len).collect(),
        Reply::SentOne(_)
        | Reply::SentMany(_)
        | Reply::Settled(_)
        | Reply::Deleted(_)
        | Reply::Purged(_)
        | Reply::Queues(_)
        | Reply::Available(_)
        | Reply::Configured
        | Reply::Invalid(_) => Vec::new(),
    };
    lens.into_iter()
        .map(|len| {
            let violation = |what: String| Violation::new(Rule::Integrity, at_us, what);
            let body = bodies.next().ok_or_else(|| violation(format!("{reply:?}: no body")))?;
            if body.len() != len as usize {
                let explanation = format!("a body of {} bytes, {len} were promised", body.len());
                return Err(violation(explanation));
            }
            let message = Message::decode(&body)
                .map_err(|error| violation(format!("a delivered message is damaged: {error}")))?;
            if !is_intact(&message) {
                return Err(violation(format!("message {} has another's body", message.id)));
            }
            Ok(message.id)
        })
        .collect()
}
