//! The conversation between nodes: Raft messages, one way on each connection.
//!
//! A node dials every other and sends on the connection it dialled. The handshake is that of
//! `wire::client` with [`Caller::Peer`](super::client::Caller::Peer). An append's records follow its
//! head as they stand on disk. Next: `raft::message` for what the messages mean.

use super::{Frame, TailCheck, WireError, decode, write_frame};
use crate::ids::{GroupId, LogIndex, Term};
use crate::limits;
use crate::raft::{AppendOutcome, Body, LogPosition, Message, SnapshotMeta, Standing};
use crate::record::{ChecksumSeed, Record};
use alloc::boxed::Box;
use alloc::string::String;
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
    PreVoteRequest {
        last: LogPosition,
    },
    PreVoteResponse {
        granted: bool,
    },
    VoteRequest {
        last: LogPosition,
        is_transfer: bool,
    },
    VoteResponse {
        granted: bool,
    },
    /// The tail is the records.
    Append {
        previous: LogPosition,
        commit: LogIndex,
        round: u64,
        records: u32,
    },
    AppendResponse {
        round: u64,
        standing: Standing,
        outcome: AppendOutcome,
    },
    /// The tail is the piece.
    Snapshot {
        round: u64,
        meta: Box<SnapshotMeta>,
        offset: u64,
    },
    SnapshotResponse {
        round: u64,
        standing: Standing,
        last: LogPosition,
        next_offset: u64,
    },
    TimeoutNow,
    ReadRequest {
        id: u64,
    },
    ReadResponse {
        id: u64,
        index: LogIndex,
    },
    Removed {
        membership_index: LogIndex,
    },
    RecordsRequest {
        indices: Vec<LogIndex>,
    },
    /// The tail is the records.
    Records {
        records: u32,
        absent: Vec<LogIndex>,
        applied: LogIndex,
    },
    OlderCopy {
        matched: LogPosition,
    },
}

/// Appends a message as a frame.
pub fn write_message(out: &mut BytesMut, group: GroupId, message: &Message) {
    let mut tail: Vec<Bytes> = Vec::new();
    let mut check = TailCheck::Records;
    let body = match &message.body {
        Body::PreVoteRequest { last } => PeerBody::PreVoteRequest { last: *last },
        Body::PreVoteResponse { granted } => PeerBody::PreVoteResponse { granted: *granted },
        Body::VoteRequest { last, is_transfer } => {
            PeerBody::VoteRequest { last: *last, is_transfer: *is_transfer }
        }
        Body::VoteResponse { granted } => PeerBody::VoteResponse { granted: *granted },
        Body::Append { previous, commit, round, records } => {
            tail.extend(records.iter().map(|record| record.bytes().clone()));
            let records = u32::try_from(records.len()).expect("limits");
            PeerBody::Append { previous: *previous, commit: *commit, round: *round, records }
        }
        Body::AppendResponse { round, standing, outcome } => {
            PeerBody::AppendResponse { round: *round, standing: *standing, outcome: *outcome }
        }
        Body::Snapshot { round, meta, offset, chunk } => {
            check = TailCheck::Frame;
            tail.push(chunk.clone());
            PeerBody::Snapshot { round: *round, meta: meta.clone(), offset: *offset }
        }
        Body::SnapshotResponse { round, standing, last, next_offset } => {
            let (round, standing, last, next_offset) = (*round, *standing, *last, *next_offset);
            PeerBody::SnapshotResponse { round, standing, last, next_offset }
        }
        Body::TimeoutNow => PeerBody::TimeoutNow,
        Body::ReadRequest { id } => PeerBody::ReadRequest { id: *id },
        Body::ReadResponse { id, index } => PeerBody::ReadResponse { id: *id, index: *index },
        Body::Removed { membership_index } => {
            PeerBody::Removed { membership_index: *membership_index }
        }
        Body::RecordsRequest { indices } => PeerBody::RecordsRequest { indices: indices.clone() },
        Body::Records { records, absent, applied } => {
            tail.extend(records.iter().map(|record| record.bytes().clone()));
            let records = u32::try_from(records.len()).expect("limits");
            PeerBody::Records { records, absent: absent.clone(), applied: *applied }
        }
        Body::OlderCopy { matched } => PeerBody::OlderCopy { matched: *matched },
    };
    write_frame(out, &PeerHead { group, term: message.term, body }, &tail, check);
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
        PeerBody::PreVoteRequest { last } => Body::PreVoteRequest { last },
        PeerBody::PreVoteResponse { granted } => Body::PreVoteResponse { granted },
        PeerBody::VoteRequest { last, is_transfer } => Body::VoteRequest { last, is_transfer },
        PeerBody::VoteResponse { granted } => Body::VoteResponse { granted },
        PeerBody::Append { previous, commit, round, records: count } => {
            let records = take_records(seed, count, limits::APPEND_RECORDS_MAX, &mut tail)
                .map_err(tail_error)?;
            Body::Append { previous, commit, round, records }
        }
        PeerBody::AppendResponse { round, standing, outcome } => {
            Body::AppendResponse { round, standing, outcome }
        }
        PeerBody::Snapshot { round, meta, offset } => {
            let chunk = tail.split_to(tail.len());
            Body::Snapshot { round, meta, offset, chunk }
        }
        PeerBody::SnapshotResponse { round, standing, last, next_offset } => {
            Body::SnapshotResponse { round, standing, last, next_offset }
        }
        PeerBody::TimeoutNow => Body::TimeoutNow,
        PeerBody::ReadRequest { id } => Body::ReadRequest { id },
        PeerBody::ReadResponse { id, index } => Body::ReadResponse { id, index },
        PeerBody::Removed { membership_index } => Body::Removed { membership_index },
        PeerBody::RecordsRequest { indices } => {
            check_indices(&indices).map_err(tail_error)?;
            Body::RecordsRequest { indices }
        }
        PeerBody::Records { records: count, absent, applied } => {
            check_indices(&absent).map_err(tail_error)?;
            let records = take_records(seed, count, limits::RECORDS_REQUEST_MAX, &mut tail)
                .map_err(tail_error)?;
            Body::Records { records, absent, applied }
        }
        PeerBody::OlderCopy { matched } => Body::OlderCopy { matched },
    };
    if !tail.is_empty() {
        return Err(tail_error(alloc::format!("{} bytes after the last record", tail.len())));
    }
    Ok(Message { term: head.term, body })
}

/// Takes `count` verified records off the front of a tail.
fn take_records(
    seed: ChecksumSeed,
    count: u32,
    max: usize,
    tail: &mut Bytes,
) -> Result<Vec<Record>, String> {
    if count as usize > max {
        return Err(alloc::format!("{count} records in one message, of which there may be {max}"));
    }
    let mut records = Vec::with_capacity(count as usize);
    for _ in 0..count {
        records.push(Record::take(seed, tail).map_err(|error| alloc::format!("{error}"))?);
    }
    Ok(records)
}

/// Indices rise, and are no more than one message may name.
fn check_indices(indices: &[LogIndex]) -> Result<(), String> {
    let max = limits::RECORDS_REQUEST_MAX;
    if indices.len() > max || !indices.is_sorted_by(|a, b| a < b) {
        let count = indices.len();
        return Err(alloc::format!(
            "{count} indices, of which {max} may be in one message, rising"
        ));
    }
    Ok(())
}
