//! Calls outside the session: queries, watches, status, and what operators ask of the membership.
//!
//! Each may be asked any number of times, so whatever happens to one on its way, it is asked again
//! until its deadline. Next: `call` for what they are.

use crate::call::{Ask, Route, micros};
use crate::error::Rejected;
use crate::members::Changed;
use crate::peers::LinkId;
use crate::reader::{Read, ReadFrom};
use bytes::Bytes;
use engine::api::{Rejection, Response};
use engine::ids::NodeId;
use engine::queue::{Invalid, Reply};
use engine::raft::ChangeError;
use engine::wire::client::{Call, ClientFrame, NodeStatus};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;
use tokio::time::Instant;

/// Pause before a change is asked for again that cannot be made at this moment.
const CHANGE_PAUSE: Duration = Duration::from_millis(50);
/// Pause before the leader is looked for again, after a node said that it does not lead.
const LEADER_PAUSE: Duration = Duration::from_millis(20);

/// The unanswered ones.
#[derive(Debug, Default)]
pub(super) struct Asks {
    waiting: VecDeque<Ask>,
    /// Not to be asked before then.
    held: Vec<(Instant, Ask)>,
    /// By request number.
    sent: BTreeMap<u64, (LinkId, Ask)>,
    outbound: Vec<(LinkId, ClientFrame, Bytes)>,
}

impl Asks {
    pub(super) fn push(&mut self, ask: Ask) {
        self.waiting.push_back(ask);
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting.len() + self.held.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting() == 0 && self.sent.is_empty()
    }

    pub(super) fn is_sent(&self, request: u64) -> bool {
        self.sent.contains_key(&request)
    }

    /// Sends every waiting one for which `connection` finds a node; `leader` is who is known to lead.
    pub(super) fn send(
        &mut self,
        now: Instant,
        leader: Option<NodeId>,
        requests: &mut u64,
        mut connection: impl FnMut(Route) -> Option<(NodeId, LinkId)>,
    ) {
        let due = self.held.extract_if(.., |(at, _)| *at <= now);
        self.waiting.extend(due.map(|(_, ask)| ask));
        for _ in 0..self.waiting.len() {
            let Some(ask) = self.waiting.pop_front() else { return };
            let Some(mut ask) = settle_by_leader(ask, leader) else { continue };
            let Some((node, link)) = connection(ask.route()) else {
                self.waiting.push_back(ask);
                continue;
            };
            *requests += 1;
            let (call, tail) = encode(&mut ask, node, now);
            let frame = ClientFrame::Call { request: *requests, call };
            self.outbound.push((link, frame, tail));
            self.sent.insert(*requests, (link, ask));
        }
    }

    /// Takes the frames to write.
    pub(super) fn outbound(&mut self) -> impl Iterator<Item = (LinkId, ClientFrame, Bytes)> {
        self.outbound.drain(..)
    }

    /// What went to a lost connection is asked again.
    pub(super) fn on_lost(&mut self, lost: LinkId) {
        self.requeue(|link, _| link == lost);
    }

    /// What only a leader answers, and went to another connection than the leader's, is asked again.
    pub(super) fn on_leader(&mut self, leader: LinkId) {
        self.requeue(|link, ask| link != leader && ask.route() == Route::Leader);
    }

    fn requeue(&mut self, is_lost: impl Fn(LinkId, &Ask) -> bool) {
        for request in self.requests_where(is_lost).into_iter().rev() {
            self.again(request);
        }
    }

    fn requests_where(&self, is_wanted: impl Fn(LinkId, &Ask) -> bool) -> Vec<u64> {
        let wanted = self.sent.iter().filter(|(_, (link, ask))| is_wanted(*link, ask));
        wanted.map(|(request, _)| *request).collect()
    }

    /// A node says how it is; false if the leader was asked and this node does not lead.
    pub(super) fn on_status(&mut self, now: Instant, request: u64, status: NodeStatus) -> bool {
        match self.sent.remove(&request) {
            Some((_, ask @ Ask::Status { node: None, .. }))
                if status.leader != Some(status.node) =>
            {
                self.held.push((now + LEADER_PAUSE, ask));
                false
            }
            Some((_, Ask::Status { caller, .. })) => {
                caller.end(Ok(status));
                true
            }
            Some(_) | None => true,
        }
    }

    pub(super) fn on_response(
        &mut self,
        now: Instant,
        node: NodeId,
        request: u64,
        response: Response<Reply>,
    ) {
        let Some((_, ask)) = self.sent.remove(&request) else { return };
        match (ask, response) {
            (ask, Response::Unknown { .. } | Response::BodyMissing { is_lost: false, .. }) => {
                self.waiting.push_front(ask);
            }
            (ask, Response::BodyMissing { entry, is_lost: true }) => {
                ask.reject(Rejected::BodyLost { entry });
            }
            (
                mut ask,
                Response::Rejected(
                    Rejection::NotLeader { .. }
                    | Rejection::Full { .. }
                    | Rejection::ShuttingDown
                    | Rejection::Transferring { .. },
                ),
            ) => {
                ask.on_refused();
                self.waiting.push_front(ask);
            }
            (
                ask,
                Response::Answer { reply: Reply::Invalid(invalid), .. }
                | Response::Stale { reply: Reply::Invalid(invalid), .. }
                | Response::Invalid { reply: Reply::Invalid(invalid), .. },
            ) => ask.reject(Rejected::Invalid(invalid)),
            (ask, Response::Rejected(Rejection::Malformed { reason })) => {
                ask.reject(Rejected::Malformed { reason });
            }
            (mut ask, Response::Rejected(Rejection::Change(error))) => {
                if is_passing(&ask, &error) {
                    ask.on_refused();
                    self.held.push((now + CHANGE_PAUSE, ask));
                } else {
                    ask.reject(Rejected::Change(error));
                }
            }
            (ask, Response::Rejected(Rejection::Transfer(error))) => {
                ask.reject(Rejected::Transfer(error));
            }
            (Ask::Query { caller, .. }, Response::Answer { at, reply, bodies }) => {
                let value = (reply, bodies);
                caller.end(Ok(Read { value, at, log_time: None, node }));
            }
            (Ask::Query { caller, .. }, Response::Stale { at, log_time, reply, bodies }) => {
                let (value, log_time) = ((reply, bodies), Some(log_time));
                caller.end(Ok(Read { value, at, log_time, node }));
            }
            (Ask::Backup { caller, .. }, Response::Backup { answer, bodies }) => {
                caller.end(Ok((answer, bodies)));
            }
            (Ask::Watch { caller, .. }, Response::Ready) => caller.end(Ok(true)),
            (Ask::Watch { caller, .. }, Response::TimedOut) => caller.end(Ok(false)),
            (Ask::Change { caller, .. }, Response::Changed { index, membership }) => {
                caller.end(Ok(Changed { index, membership: *membership }));
            }
            (Ask::Transfer { caller, .. }, Response::Transferred { leader }) => {
                caller.end(Ok(leader));
            }
            (ask, _) => ask.reject(Rejected::Invalid(Invalid::Undecodable)),
        }
    }

    pub(super) fn end_overdue(&mut self, now: Instant, trouble: &str) {
        let held = self.held.extract_if(.., |(_, ask)| ask.deadline() <= now);
        held.for_each(|(_, ask)| ask.end_overdue(trouble));
        for ask in std::mem::take(&mut self.waiting) {
            if ask.deadline() <= now {
                ask.end_overdue(trouble);
            } else {
                self.waiting.push_back(ask);
            }
        }
        for request in self.requests_where(|_, ask| ask.deadline() <= now) {
            if let Some((_, ask)) = self.sent.remove(&request) {
                ask.end_overdue(trouble);
            }
        }
    }

    pub(super) fn deadlines(&self) -> impl Iterator<Item = Instant> {
        let sent = self.sent.values().map(|(_, ask)| ask.deadline());
        let held = self.held.iter().map(|(_, ask)| ask.deadline());
        self.waiting.iter().map(Ask::deadline).chain(held).chain(sent)
    }

    /// When something that is held is to be asked again.
    pub(super) fn next_release(&self) -> Option<Instant> {
        self.held.iter().map(|(at, _)| *at).min()
    }

    fn again(&mut self, request: u64) {
        if let Some((_, ask)) = self.sent.remove(&request) {
            self.waiting.push_front(ask);
        }
    }
}

/// A transfer that was asked for is done when another leads: with what the old leader might have said
/// it would have been the same. Otherwise `ask` is still to be asked.
fn settle_by_leader(ask: Ask, leader: Option<NodeId>) -> Option<Ask> {
    match (ask, leader) {
        (Ask::Transfer { to, asked: Some(asked), caller, .. }, Some(leader))
            if leader != asked && to.is_none_or(|to| to == leader) =>
        {
            caller.end(Ok(leader));
            None
        }
        (ask, _) => Some(ask),
    }
}

fn encode(ask: &mut Ask, node: NodeId, now: Instant) -> (Call, Bytes) {
    match ask {
        Ask::Query { query, from, .. } => {
            let call = match from {
                ReadFrom::Leader => Call::Query,
                ReadFrom::Anywhere => Call::QueryHere,
                ReadFrom::Stale => Call::QueryStale,
            };
            (call, Bytes::from(query.encode()))
        }
        Ask::Watch { query, until, .. } => {
            let timeout = micros(until.saturating_duration_since(now));
            (Call::Watch { timeout }, Bytes::from(query.encode()))
        }
        Ask::Status { .. } => (Call::Status, Bytes::new()),
        Ask::Backup { request, .. } => (Call::Backup(request.clone()), Bytes::new()),
        Ask::Change { change, unanswered, .. } => {
            *unanswered += 1;
            (Call::Change(change.clone()), Bytes::new())
        }
        Ask::Transfer { to, asked, unanswered, .. } => {
            *unanswered += 1;
            *asked = Some(node);
            (Call::Transfer { to: *to }, Bytes::new())
        }
    }
}

/// Whether a refused change is worth asking for again: the leader is new, or what is under way may be
/// this very change, which was asked for before without an answer.
fn is_passing(ask: &Ask, error: &ChangeError) -> bool {
    let Ask::Change { unanswered, .. } = ask else { return false };
    match error {
        ChangeError::LeaderTooNew => true,
        ChangeError::Pending { .. } | ChangeError::Joint => *unanswered > 1,
        ChangeError::NotJoint
        | ChangeError::Cancelled
        | ChangeError::Unknown { .. }
        | ChangeError::Removed { .. }
        | ChangeError::AddressTaken { .. }
        | ChangeError::NotCaughtUp { .. }
        | ChangeError::NoVoters
        | ChangeError::TooMany { .. } => false,
    }
}
