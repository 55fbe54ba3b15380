//! The conversation between nodes: Raft messages, one way on each connection.
//!
//! A node dials every other and sends on the connection it dialled. The handshake is that of
//! `wire::client` with [`Caller::Peer`](super::client::Caller::Peer). An append's records follow its
//! head as they stand on disk. Next: `raft::message` for what the messages mean.

use super::{Frame, TailCheck, WireError, decode, write_frame};
use crate::ids::{GroupId, LogIndex, Term};
use crate::limits;
use crate::raft::{AppendOutcome, Body, LogPosition, Message};
use crate::record::{ChecksumSeed, Record};
use alloc::vec::Vec;
use bincode::{Decode, Encode};
use bytes::{Bytes, BytesMut};

#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
struct PeerHead {
    group: GroupId,
    term: Term,
    body: PeerBody,
}

#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
enum PeerBody {
    PreVoteRequest { last: (Term, LogIndex) },
    PreVoteResponse { granted: bool },
    VoteRequest { last: (Term, LogIndex) },
    VoteResponse { granted: bool },
    Append { previous: (Term, LogIndex), commit: LogIndex, round: u64, records: u32 },
    AppendMatched { round: u64, match_index: LogIndex },
    AppendRejected { round: u64, previous_index: LogIndex, hint: (Term, LogIndex) },
}

const fn pair(position: LogPosition) -> (Term, LogIndex) {
    (position.term, position.index)
}

const fn position((term, index): (Term, LogIndex)) -> LogPosition {
    LogPosition { term, index }
}

/// Appends a message as a frame.
pub fn write_message(out: &mut BytesMut, group: GroupId, message: &Message) {
    let mut tail: Vec<Bytes> = Vec::new();
    let body = match &message.body {
        Body::PreVoteRequest { last } => PeerBody::PreVoteRequest { last: pair(*last) },
        Body::PreVoteResponse { granted } => PeerBody::PreVoteResponse { granted: *granted },
        Body::VoteRequest { last } => PeerBody::VoteRequest { last: pair(*last) },
        Body::VoteResponse { granted } => PeerBody::VoteResponse { granted: *granted },
        Body::Append { previous, commit, round, records } => {
            tail.extend(records.iter().map(|record| record.bytes().clone()));
            PeerBody::Append {
                previous: pair(*previous),
                commit: *commit,
                round: *round,
                records: u32::try_from(records.len()).expect("limits"),
            }
        }
        Body::AppendResponse { round, outcome } => match outcome {
            AppendOutcome::Matched { match_index } => {
                PeerBody::AppendMatched { round: *round, match_index: *match_index }
            }
            AppendOutcome::Rejected { previous_index, hint } => PeerBody::AppendRejected {
                round: *round,
                previous_index: *previous_index,
                hint: pair(*hint),
            },
        },
    };
    write_frame(out, &PeerHead { group, term: message.term, body }, &tail, TailCheck::Records);
}

/// Decodes a message and verifies every record in it.
///
/// # Errors
/// What is wrong with the bytes.
pub fn read_message(
    seed: ChecksumSeed,
    group: GroupId,
    frame: &Frame,
) -> Result<Message, WireError> {
    let head: PeerHead = decode("a peer message", &frame.head)?;
    let tail_error = |reason| WireError::Tail { bytes: frame.tail.len(), reason };
    if head.group != group {
        return Err(tail_error(alloc::format!("group {} is not served here", head.group)));
    }
    let mut tail = frame.tail.clone();
    let body = match head.body {
        PeerBody::PreVoteRequest { last } => Body::PreVoteRequest { last: position(last) },
        PeerBody::PreVoteResponse { granted } => Body::PreVoteResponse { granted },
        PeerBody::VoteRequest { last } => Body::VoteRequest { last: position(last) },
        PeerBody::VoteResponse { granted } => Body::VoteResponse { granted },
        PeerBody::Append { previous, commit, round, records: count } => {
            if count as usize > limits::APPEND_RECORDS_MAX {
                return Err(tail_error(alloc::format!("{count} records in one append")));
            }
            let mut records = Vec::with_capacity(count as usize);
            for _ in 0..count {
                let record = Record::take(seed, &mut tail);
                records.push(record.map_err(|error| tail_error(alloc::format!("{error}")))?);
            }
            let previous = position(previous);
            Body::Append { previous, commit, round, records }
        }
        PeerBody::AppendMatched { round, match_index } => {
            Body::AppendResponse { round, outcome: AppendOutcome::Matched { match_index } }
        }
        PeerBody::AppendRejected { round, previous_index, hint } => Body::AppendResponse {
            round,
            outcome: AppendOutcome::Rejected { previous_index, hint: position(hint) },
        },
    };
    if !tail.is_empty() {
        return Err(tail_error(alloc::format!("{} bytes after the last record", tail.len())));
    }
    Ok(Message { term: head.term, body })
}
