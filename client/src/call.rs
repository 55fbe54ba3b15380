//! Calls between a handle and the driver: what is asked, until when, and where the answer goes.

use crate::error::{CallError, Rejected, Unknown};
use bytes::Bytes;
use engine::ids::NodeId;
use engine::limits;
use engine::queue::{Command, Query, Reply};
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

/// Something that changes nothing.
#[derive(Debug)]
pub(crate) enum ReadCall {
    /// Answered by the leader.
    Query { query: Query, caller: Caller },
    /// Answered by the leader when a message is available, or at `until`; tells whether one is.
    Watch { query: Query, until: Instant, caller: Caller<bool> },
    /// Answered by one node from its own knowledge.
    Status { node: NodeId, caller: Caller<NodeStatus> },
}

impl ReadCall {
    pub(crate) fn deadline(&self) -> Instant {
        match self {
            Self::Query { caller, .. } => caller.deadline,
            Self::Watch { caller, .. } => caller.deadline,
            Self::Status { caller, .. } => caller.deadline,
        }
    }

    pub(crate) fn end_unreached(self, trouble: &str) {
        match self {
            Self::Query { caller, .. } => caller.end_unreached(trouble),
            Self::Watch { caller, .. } => caller.end_unreached(trouble),
            Self::Status { caller, .. } => caller.end_unreached(trouble),
        }
    }

    pub(crate) fn reject(self, rejected: Rejected) {
        match self {
            Self::Query { caller, .. } => caller.end(Err(rejected.into())),
            Self::Watch { caller, .. } => caller.end(Err(rejected.into())),
            Self::Status { caller, .. } => caller.end(Err(rejected.into())),
        }
    }
}

/// A span as the protocol counts it.
pub(crate) fn micros(span: Duration) -> Micros {
    Micros(u64::try_from(span.as_micros()).unwrap_or(u64::MAX))
}
