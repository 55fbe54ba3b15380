//! Events of the world and the queue that orders them.

use super::client::Call;
use super::network::Address;
use crate::scenario::Fault;
use bytes::Bytes;
use engine::api::Response;
use engine::queue::Reply;
use engine::raft::{AppendOutcome, Body, Message};
use engine::storage::disk::JobId;
use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// What travels.
#[derive(Clone, Debug)]
pub(super) enum Payload {
    /// From node to node.
    Peer(Message),
    /// The same, encoded.
    PeerBytes(Bytes),
    /// From client to node, with the client's number.
    Call(u64, Call),
    /// From client to node.
    Disconnect,
    /// From node to client, with the client's number and the life of the node's process.
    Response(u64, u64, Response<Reply>),
}

/// What happens at an instant.
#[derive(Clone, Debug)]
pub(super) enum Event {
    /// A message arrives.
    Packet {
        /// From whom.
        from: Address,
        /// At whom.
        to: Address,
        /// What.
        payload: Payload,
    },
    /// A node's loop turns.
    Turn {
        /// Which node, from 1.
        node: u64,
        /// In which life.
        life: u64,
    },
    /// A node's deadline may have come.
    Deadline {
        /// Which node.
        node: u64,
        /// In which life.
        life: u64,
    },
    /// A disk job is done.
    DiskDone {
        /// Which node.
        node: u64,
        /// In which life.
        life: u64,
        /// Which job.
        job: JobId,
    },
    /// A client has something to do.
    Wake {
        /// Which client.
        client: u64,
    },
    /// The operator has something to do.
    WakeAdmin,
    /// The scenario's next fault is due.
    Fault(usize),
    /// A leader is cut off.
    Ambush {
        /// Which node.
        leader: u64,
        /// Whether the followers lose power.
        blink: bool,
    },
    /// What a fault has brought with it is due: its end.
    FollowUp(Fault),
    /// Everything is repaired.
    Repair,
    /// Has the cluster converged?
    Check,
}

#[derive(Debug)]
struct Scheduled {
    at_us: u64,
    ordinal: u64,
    event: Event,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    /// Reversed, because the heap yields the greatest first.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at_us, other.ordinal).cmp(&(self.at_us, self.ordinal))
    }
}

/// Events in the order of time, and of their making within an instant.
#[derive(Default, Debug)]
pub(super) struct EventQueue {
    heap: BinaryHeap<Scheduled>,
    next_ordinal: u64,
}

impl EventQueue {
    /// Adds an event.
    pub(super) fn push(&mut self, at_us: u64, event: Event) {
        let ordinal = self.next_ordinal;
        self.next_ordinal += 1;
        self.heap.push(Scheduled { at_us, ordinal, event });
    }

    /// Takes the next event and its time.
    pub(super) fn pop(&mut self) -> Option<(u64, Event)> {
        self.heap.pop().map(|scheduled| (scheduled.at_us, scheduled.event))
    }
}

/// Two numbers that tell a message from most others: for the trace's hash.
#[must_use]
pub(super) fn fingerprint(message: &Message) -> [u64; 2] {
    let term = message.term.0;
    match &message.body {
        Body::PreVoteRequest { last } => [term << 4, last.term.0 << 32 | last.index.0],
        Body::PreVoteResponse { granted } => [term << 4 | 1, u64::from(*granted)],
        Body::VoteRequest { last, is_transfer } => {
            [term << 4 | 2, last.term.0 << 32 | last.index.0 << 1 | u64::from(*is_transfer)]
        }
        Body::VoteResponse { granted } => [term << 4 | 3, u64::from(*granted)],
        Body::Append { previous, commit, round, records } => {
            let end = previous.index.0 + records.len() as u64;
            [term << 4 | 4, end << 40 ^ commit.0 << 20 ^ round]
        }
        Body::AppendResponse { round, standing: _, outcome } => match outcome {
            AppendOutcome::Matched { match_index } => [term << 4 | 5, match_index.0 << 24 ^ round],
            AppendOutcome::Rejected { previous_index, hint } => {
                [term << 4 | 6, previous_index.0 << 40 ^ hint.index.0 << 20 ^ round]
            }
            AppendOutcome::StaleTerm => [term << 4 | 14, *round],
            AppendOutcome::WantsSnapshot { at_least } => [term << 4 | 7, at_least.0 << 20 ^ round],
            AppendOutcome::Lost { previous_index, hint } => {
                [term << 4 | 15, previous_index.0 << 40 ^ hint.index.0 << 20 ^ round]
            }
        },
        Body::Snapshot { round, meta, offset, chunk } => {
            let end = offset + chunk.len() as u64;
            [term << 4 | 8, meta.last.index.0 << 40 ^ end << 20 ^ round]
        }
        Body::SnapshotResponse { round, standing: _, last, next_offset } => {
            [term << 4 | 9, last.index.0 << 40 ^ next_offset << 20 ^ round]
        }
        Body::TimeoutNow => [term << 4 | 10, 0],
        Body::ReadRequest { id } => [term << 4 | 11, *id],
        Body::ReadResponse { id, index } => [term << 4 | 12, id << 20 ^ index.0],
        Body::Removed { membership_index } => [term << 4 | 13, membership_index.0],
        Body::RecordsRequest { indices } => {
            let first = indices.first().map_or(0, |index| index.0);
            [term << 4 | 15, first << 20 ^ indices.len() as u64]
        }
        Body::Records { records, absent, applied } => {
            let counts = (records.len() as u64) << 10 | absent.len() as u64;
            [term << 4 | 15, 1 << 63 | applied.0 << 20 ^ counts]
        }
        Body::OlderCopy { matched } => [term << 4 | 15, 1 << 62 | matched.index.0],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_of_one_instant_come_in_the_order_of_their_making() {
        let mut queue = EventQueue::default();
        queue.push(5, Event::Repair);
        queue.push(3, Event::Fault(0));
        queue.push(3, Event::Fault(1));
        assert!(matches!(queue.pop(), Some((3, Event::Fault(0)))));
        assert!(matches!(queue.pop(), Some((3, Event::Fault(1)))));
        assert!(matches!(queue.pop(), Some((5, Event::Repair))));
        assert!(queue.pop().is_none());
    }
}
