//! Calls between a handle and the driver: what is asked, until when, and where the answer goes.

use crate::error::{CallError, Rejected, Unknown};
use crate::members::Changed;
use crate::reader::{Read, ReadFrom};
use bytes::Bytes;
use engine::api::{BackupAnswer, BackupRequest};
use engine::ids::NodeId;
use engine::limits;
use engine::queue::{Command, Query, Reply};
use engine::raft::ChangeRequest;
use engine::time::Micros;
use engine::wire::client::NodeStatus;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// A reply with the bodies that it refers to.
pub(crate) type Answered = (Reply, Vec<Bytes>);

/// Who waits, and until when.
#[derive(Debug)]
pub(crate) struct Caller<R = Answered> {
    done: oneshot::Sender<Result<R, CallError>>,
    pub(crate) deadline: Instant,
    timeout: Duration,
}

impl<R> Caller<R> {
    /// A caller that gives up after `timeout`, and where its answer will come out.
    pub(crate) fn new(timeout: Duration) -> (Self, oneshot::Receiver<Result<R, CallError>>) {
        let (done, answer) = oneshot::channel();
        (Self { done, deadline: Instant::now() + timeout, timeout }, answer)
    }

    /// Answers. A caller that is gone misses nothing.
    pub(crate) fn end(self, answer: Result<R, CallError>) {
        let _caller_gone = self.done.send(answer);
    }

    /// The deadline has passed before the call reached a leader, or the call has no effects.
    pub(crate) fn end_unreached(self, trouble: &str) {
        let timeout = self.timeout;
        self.end(Err(Rejected::Deadline { timeout, trouble: trouble.to_owned() }.into()));
    }

    /// The deadline has passed and a leader may have acted.
    pub(crate) fn end_unknown(self, trouble: &str) {
        let timeout = self.timeout;
        self.end(Err(Unknown::Deadline { timeout, trouble: trouble.to_owned() }.into()));
    }
}

/// A command on its way into a block.
#[derive(Debug)]
pub(crate) struct CommandCall {
    pub(crate) payload: Payload,
    /// At least as many bytes as the encoding takes.
    pub(crate) bytes_max: usize,
    /// How much of a block's answer this one's reply may take; see [`BLOCK_WEIGHT_MAX`].
    pub(crate) weight: usize,
    pub(crate) caller: Caller,
}

/// A block's answer must fit into one frame. A reply of one item weighs 1, and takes less than 40
/// bytes of the frame's head. A reply with bodies may take nearly all of the frame's tail, so no two
/// of them go together.
pub(crate) const BLOCK_WEIGHT_MAX: usize = 16_384;
/// What a reply with bodies weighs.
pub(crate) const BODIES_WEIGHT: usize = BLOCK_WEIGHT_MAX / 2 + 1;

const _: () = {
    assert!(BLOCK_WEIGHT_MAX * 40 < limits::FRAME_HEAD_BYTES_MAX);
    assert!(BODIES_WEIGHT + limits::MESSAGES_PER_SEND_MAX <= BLOCK_WEIGHT_MAX);
    assert!(limits::MESSAGES_PER_RECEIVE_MAX <= BODIES_WEIGHT);
};

/// A command, encoded or not yet.
#[derive(Debug)]
pub(crate) enum Payload {
    Fresh(Command),
    /// From the block of an expired session.
    Encoded(Bytes),
}

/// Something asked outside the session: asked again, it has no other effect than asked once.
#[derive(Debug)]
pub(crate) enum Ask {
    /// Answered where `from` says.
    Query { query: Query, from: ReadFrom, caller: Caller<Read<Answered>> },
    /// Answered by the leader when a message is available, or at `until`; tells whether one is.
    Watch { query: Query, until: Instant, caller: Caller<bool> },
    /// Answered by one node from its own knowledge; without a name, by the leader.
    Status { node: Option<NodeId>, caller: Caller<NodeStatus> },
    /// A step of a backup, answered by this node.
    Backup { node: NodeId, request: BackupRequest, caller: Caller<(BackupAnswer, Vec<Bytes>)> },
    /// Answered by the leader once it is committed. The same change again is the same change.
    Change { change: ChangeRequest, unanswered: u32, caller: Caller<Changed> },
    /// Answered by the leader, or by the fact that another leads than the one that was `asked`.
    Transfer { to: Option<NodeId>, asked: Option<NodeId>, unanswered: u32, caller: Caller<NodeId> },
}

impl Ask {
    pub(crate) fn deadline(&self) -> Instant {
        match self {
            Self::Query { caller, .. } => caller.deadline,
            Self::Watch { caller, .. } => caller.deadline,
            Self::Status { caller, .. } => caller.deadline,
            Self::Backup { caller, .. } => caller.deadline,
            Self::Change { caller, .. } => caller.deadline,
            Self::Transfer { caller, .. } => caller.deadline,
        }
    }

    /// Where it may be answered.
    pub(crate) fn route(&self) -> Route {
        match self {
            Self::Status { node: Some(node), .. } | Self::Backup { node, .. } => Route::Node(*node),
            Self::Query { from: ReadFrom::Anywhere | ReadFrom::Stale, .. } => Route::Anybody,
            Self::Query { from: ReadFrom::Leader, .. }
            | Self::Watch { .. }
            | Self::Status { node: None, .. }
            | Self::Change { .. }
            | Self::Transfer { .. } => Route::Leader,
        }
    }

    /// The deadline has passed.
    pub(crate) fn end_overdue(self, trouble: &str) {
        match self {
            Self::Query { caller, .. } => caller.end_unreached(trouble),
            Self::Watch { caller, .. } => caller.end_unreached(trouble),
            Self::Status { caller, .. } => caller.end_unreached(trouble),
            Self::Backup { caller, .. } => caller.end_unreached(trouble),
            Self::Change { caller, unanswered: 0, .. } => caller.end_unreached(trouble),
            Self::Change { caller, .. } => caller.end_unknown(trouble),
            Self::Transfer { caller, unanswered: 0, .. } => caller.end_unreached(trouble),
            Self::Transfer { caller, .. } => caller.end_unknown(trouble),
        }
    }

    /// A node refused it for now: that transmission has no effect.
    pub(crate) fn on_refused(&mut self) {
        match self {
            Self::Query { .. } | Self::Watch { .. } | Self::Status { .. } | Self::Backup { .. } => {
            }
            Self::Change { unanswered, .. } => *unanswered -= 1,
            Self::Transfer { unanswered, asked, .. } => {
                *unanswered -= 1;
                if *unanswered == 0 {
                    *asked = None;
                }
            }
        }
    }

    pub(crate) fn reject(self, rejected: Rejected) {
        match self {
            Self::Query { caller, .. } => caller.end(Err(rejected.into())),
            Self::Watch { caller, .. } => caller.end(Err(rejected.into())),
            Self::Status { caller, .. } => caller.end(Err(rejected.into())),
            Self::Backup { caller, .. } => caller.end(Err(rejected.into())),
            Self::Change { caller, .. } => caller.end(Err(rejected.into())),
            Self::Transfer { caller, .. } => caller.end(Err(rejected.into())),
        }
    }
}

/// Who can answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Route {
    Leader,
    Node(NodeId),
    Anybody,
}

/// A span as the protocol counts it.
pub(crate) fn micros(span: Duration) -> Micros {
    Micros(u64::try_from(span.as_micros()).unwrap_or(u64::MAX))
}
