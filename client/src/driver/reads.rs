//! Calls without effect: queries, watches and status.
//!
//! They belong to no session and may be asked any number of times, so whatever happens to one on
//! its way, it is asked again until its deadline.

use crate::call::{ReadCall, micros};
use crate::error::Rejected;
use crate::peers::LinkId;
use bytes::Bytes;
use engine::api::{Rejection, Response};
use engine::queue::{Invalid, Reply};
use engine::wire::client::{Call, ClientFrame, NodeStatus};
use std::collections::{BTreeMap, VecDeque};
use tokio::time::Instant;

/// The unanswered reads.
#[derive(Debug, Default)]
pub(super) struct Reads {
    waiting: VecDeque<ReadCall>,
    /// By request number.
    sent: BTreeMap<u64, (LinkId, ReadCall)>,
    outbound: Vec<(LinkId, ClientFrame, Bytes)>,
}

impl Reads {
    pub(super) fn push(&mut self, call: ReadCall) {
        self.waiting.push_back(call);
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.sent.is_empty()
    }

    pub(super) fn is_sent(&self, request: u64) -> bool {
        self.sent.contains_key(&request)
    }

    /// Sends every waiting read for which `link_for` has a connection.
    pub(super) fn send(
        &mut self,
        now: Instant,
        requests: &mut u64,
        mut link_for: impl FnMut(&ReadCall) -> Option<LinkId>,
    ) {
        for _ in 0..self.waiting.len() {
            let Some(call) = self.waiting.pop_front() else { return };
            let Some(link) = link_for(&call) else {
                self.waiting.push_back(call);
                continue;
            };
            *requests += 1;
            let (kind, tail) = match &call {
                ReadCall::Query { query, .. } => (Call::Query, Bytes::from(query.encode())),
                ReadCall::Watch { query, until, .. } => {
                    let timeout = micros(until.saturating_duration_since(now));
                    (Call::Watch { timeout }, Bytes::from(query.encode()))
                }
                ReadCall::Status { .. } => (Call::Status, Bytes::new()),
            };
            let frame = ClientFrame::Call { request: *requests, call: kind };
            self.outbound.push((link, frame, tail));
            self.sent.insert(*requests, (link, call));
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
        self.requeue(|link, call| link != leader && !matches!(call, ReadCall::Status { .. }));
    }

    fn requeue(&mut self, is_lost: impl Fn(LinkId, &ReadCall) -> bool) {
        for request in self.requests_where(is_lost).into_iter().rev() {
            self.again(request);
        }
    }

    fn requests_where(&self, is_wanted: impl Fn(LinkId, &ReadCall) -> bool) -> Vec<u64> {
        let wanted = self.sent.iter().filter(|(_, (link, call))| is_wanted(*link, call));
        wanted.map(|(request, _)| *request).collect()
    }

    pub(super) fn on_status(&mut self, request: u64, status: Box<NodeStatus>) {
        if let Some((_, ReadCall::Status { caller, .. })) = self.sent.remove(&request) {
            caller.end(Ok(*status));
        }
    }

    pub(super) fn on_response(&mut self, request: u64, response: Response<Reply>) {
        let retry = matches!(
            response,
            Response::Unknown { .. }
                | Response::Rejected(
                    Rejection::NotLeader { .. } | Rejection::Full { .. } | Rejection::ShuttingDown
                )
        );
        if retry {
            return self.again(request);
        }
        let Some((_, call)) = self.sent.remove(&request) else { return };
        match (call, response) {
            (
                call,
                Response::Answer { reply: Reply::Invalid(invalid), .. }
                | Response::Invalid { reply: Reply::Invalid(invalid), .. },
            ) => call.reject(Rejected::Invalid(invalid)),
            (call, Response::Rejected(Rejection::Malformed { reason })) => {
                call.reject(Rejected::Malformed { reason });
            }
            (ReadCall::Query { caller, .. }, Response::Answer { reply, bodies, .. }) => {
                caller.end(Ok((reply, bodies)));
            }
            (ReadCall::Watch { caller, .. }, Response::Ready) => caller.end(Ok(true)),
            (ReadCall::Watch { caller, .. }, Response::TimedOut) => caller.end(Ok(false)),
            (call, _) => call.reject(Rejected::Invalid(Invalid::Undecodable)),
        }
    }

    pub(super) fn end_overdue(&mut self, now: Instant, trouble: &str) {
        for call in std::mem::take(&mut self.waiting) {
            if call.deadline() <= now {
                call.end_unreached(trouble);
            } else {
                self.waiting.push_back(call);
            }
        }
        for request in self.requests_where(|_, call| call.deadline() <= now) {
            if let Some((_, call)) = self.sent.remove(&request) {
                call.end_unreached(trouble);
            }
        }
    }

    pub(super) fn deadlines(&self) -> impl Iterator<Item = Instant> {
        let sent = self.sent.values().map(|(_, call)| call.deadline());
        self.waiting.iter().map(ReadCall::deadline).chain(sent)
    }

    fn again(&mut self, request: u64) {
        if let Some((_, call)) = self.sent.remove(&request) {
            self.waiting.push_front(call);
        }
    }
}
