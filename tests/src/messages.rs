//! Messages as other members would send them, in few words.

use engine::ids::{LogIndex, Term};
use engine::raft::{AppendOutcome, Body, LogPosition, Message, Snapshot, Standing};
use engine::record::Record;

/// A follower that may lead.
pub const STANDING: Standing =
    Standing { priority: 0, is_fit: true, is_complete: true, is_short: false };

/// The place of an entry; `(0, 0)` is before the first.
#[must_use]
pub fn position(term: u64, index: u64) -> LogPosition {
    LogPosition { term: Term(term), index: LogIndex(index) }
}

/// A question whether a vote would be given in `term`.
#[must_use]
pub fn pre_vote_request(term: u64, last: LogPosition) -> Message {
    Message { term: Term(term), body: Body::PreVoteRequest { last } }
}

/// Its answer.
#[must_use]
pub fn pre_vote_response(term: u64, granted: bool) -> Message {
    Message { term: Term(term), body: Body::PreVoteResponse { granted } }
}

/// A candidate's request, whose log ends at `last`.
#[must_use]
pub fn vote_request(term: u64, last: LogPosition) -> Message {
    Message { term: Term(term), body: Body::VoteRequest { last, is_transfer: false } }
}

/// Its answer.
#[must_use]
pub fn vote_response(term: u64, granted: bool) -> Message {
    Message { term: Term(term), body: Body::VoteResponse { granted } }
}

/// A leader's append of `records` after `previous`, with its commit index.
#[must_use]
pub fn append(term: u64, previous: LogPosition, commit: u64, records: Vec<Record>) -> Message {
    let body = Body::Append { previous, commit: LogIndex(commit), round: 0, records };
    Message { term: Term(term), body }
}

/// A follower has everything up to `index`.
#[must_use]
pub fn matched(term: u64, index: u64) -> Message {
    append_response(term, AppendOutcome::Matched { match_index: LogIndex(index) })
}

/// A follower lacks the entry at `previous`; its own log may agree up to `hint`.
#[must_use]
pub fn rejected(term: u64, previous: u64, hint: LogPosition) -> Message {
    let outcome = AppendOutcome::Rejected { previous_index: LogIndex(previous), hint };
    append_response(term, outcome)
}

fn append_response(term: u64, outcome: AppendOutcome) -> Message {
    Message {
        term: Term(term),
        body: Body::AppendResponse { round: 0, standing: STANDING, outcome },
    }
}

/// The same as [`matched`] in the answer to an append of a read round.
#[must_use]
pub fn matched_in_round(term: u64, index: u64, round: u64) -> Message {
    let outcome = AppendOutcome::Matched { match_index: LogIndex(index) };
    let body = Body::AppendResponse { round, standing: STANDING, outcome };
    Message { term: Term(term), body }
}

/// A follower says of itself how fit it is to lead, and that it has everything up to `index`.
#[must_use]
pub fn matched_by(term: u64, index: u64, standing: Standing) -> Message {
    let outcome = AppendOutcome::Matched { match_index: LogIndex(index) };
    Message { term: Term(term), body: Body::AppendResponse { round: 0, standing, outcome } }
}

/// The append that is answered was of an earlier term.
#[must_use]
pub fn stale_term(term: u64) -> Message {
    append_response(term, AppendOutcome::StaleTerm)
}

/// A follower needs a snapshot of at least `at_least`.
#[must_use]
pub fn wants_snapshot(term: u64, at_least: u64) -> Message {
    append_response(term, AppendOutcome::WantsSnapshot { at_least: LogIndex(at_least) })
}

/// A follower lacks the entry at `previous`, and its disk has lost what it had after `hint`.
#[must_use]
pub fn lost(term: u64, previous: u64, hint: LogPosition) -> Message {
    let outcome = AppendOutcome::Lost { previous_index: LogIndex(previous), hint };
    append_response(term, outcome)
}

/// A request for votes by order of the leader.
#[must_use]
pub fn transfer_vote_request(term: u64, last: LogPosition) -> Message {
    Message { term: Term(term), body: Body::VoteRequest { last, is_transfer: true } }
}

/// The leader hands over.
#[must_use]
pub fn timeout_now(term: u64) -> Message {
    Message { term: Term(term), body: Body::TimeoutNow }
}

/// A follower asks from which entry on it may answer.
#[must_use]
pub fn read_request(term: u64, id: u64) -> Message {
    Message { term: Term(term), body: Body::ReadRequest { id } }
}

/// The leader's answer.
#[must_use]
pub fn read_response(term: u64, id: u64, index: u64) -> Message {
    Message { term: Term(term), body: Body::ReadResponse { id, index: LogIndex(index) } }
}

/// Another member tells that the entry at `index` took the receiver out.
#[must_use]
pub fn removed(term: u64, index: u64) -> Message {
    Message { term: Term(term), body: Body::Removed { membership_index: LogIndex(index) } }
}

/// `len` bytes of a snapshot's state from `offset` on.
#[must_use]
pub fn piece(term: u64, snapshot: &Snapshot, offset: usize, len: usize) -> Message {
    let chunk = snapshot.bytes.slice(offset..offset + len);
    let (meta, offset) = (Box::new(snapshot.meta.clone()), offset as u64);
    Message { term: Term(term), body: Body::Snapshot { round: 0, meta, offset, chunk } }
}

/// A follower lacks the state from `next_offset` on.
#[must_use]
pub fn piece_response(term: u64, last: LogPosition, next_offset: u64) -> Message {
    let body = Body::SnapshotResponse { round: 0, standing: STANDING, last, next_offset };
    Message { term: Term(term), body }
}

/// How a follower answered an append, if the message is that.
#[must_use]
pub fn outcome_of(message: &Message) -> Option<AppendOutcome> {
    match &message.body {
        Body::AppendResponse { outcome, .. } => Some(*outcome),
        _ => None,
    }
}

/// What an append carries, if the message is one: the place before the entries, the commit index,
/// and the entries' indexes.
#[must_use]
pub fn append_of(message: &Message) -> Option<(LogPosition, u64, Vec<u64>)> {
    match &message.body {
        Body::Append { previous, commit, records, .. } => {
            let indexes = records.iter().map(|record| record.index().0).collect();
            Some((*previous, commit.0, indexes))
        }
        _ => None,
    }
}
