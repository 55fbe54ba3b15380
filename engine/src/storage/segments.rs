//! Which segment files there are, and which of them may go.
//!
//! Owns the numbers, sizes and first indices of the segments. Never looks into one. The oldest goes
//! first, one to a job and with a sync of the directory, so that what is left never has a gap; and
//! none goes that holds the last durable hard state. Next: `clean`, for what archived entries add.

use super::disk::{DiskOp, FileName};
use super::format::SEGMENT_HEADER_BYTES;
use crate::ids::LogIndex;
use alloc::collections::VecDeque;
use alloc::vec::Vec;

/// A segment that takes no more flushes.
#[derive(Clone, Copy, Debug)]
struct Closed {
    first_index: LogIndex,
    bytes: u64,
}

/// The segments of a log, numbered without gaps.
#[derive(Debug)]
pub(super) struct Segments {
    first: u64,
    /// All but the last one.
    closed: VecDeque<Closed>,
    closed_bytes: u64,
    /// The number of the one that takes the next flush, if it fits.
    last: u64,
    last_first_index: LogIndex,
    /// Bytes of the last one, with the flush under way.
    tail_bytes: u64,
    /// The one with the last durable flush.
    durable: u64,
    /// Nothing before this one is a part of the log.
    needed: u64,
}

impl Segments {
    /// The one segment of `number`, whose header takes `bytes`.
    pub(super) fn one(number: u64, first_index: LogIndex, bytes: u64) -> Self {
        Self {
            first: number,
            closed: VecDeque::new(),
            closed_bytes: 0,
            last: number,
            last_first_index: first_index,
            tail_bytes: bytes,
            durable: number,
            needed: number,
        }
    }

    /// Closes the last segment and begins another with a header of `header_bytes`.
    pub(super) fn begin(&mut self, first_index: LogIndex, header_bytes: u64) {
        let closed = Closed { first_index: self.last_first_index, bytes: self.tail_bytes };
        self.closed.push_back(closed);
        self.closed_bytes += closed.bytes;
        self.last += 1;
        self.last_first_index = first_index;
        self.tail_bytes = header_bytes;
    }

    /// The last segment takes so many bytes more.
    pub(super) fn grow(&mut self, bytes: u64) {
        self.tail_bytes += bytes;
    }

    /// A flush in segment `number` is durable.
    pub(super) fn flushed(&mut self, number: u64) {
        assert!(number >= self.durable);
        self.durable = number;
    }

    /// What the segments before `number` hold is no part of the log any more.
    pub(super) fn need_from(&mut self, number: u64) {
        assert!(number <= self.last);
        self.needed = self.needed.max(number);
    }

    /// Entries before `first` are no part of the log any more. A segment's first index is one more than the last
    /// entry before it, so whatever still counts of earlier segments is below that.
    pub(super) fn purge(&mut self, first: LogIndex) {
        while self.needed < self.last && self.first_index(self.needed + 1) <= first {
            self.needed += 1;
        }
    }

    fn first_index(&self, number: u64) -> LogIndex {
        let at = usize::try_from(number - self.first).expect("segments fit into memory");
        self.closed.get(at).map_or(self.last_first_index, |closed| closed.first_index)
    }

    /// Whether a segment holds neither a part of the log nor the last durable hard state.
    pub(super) fn may_go(&self, number: u64) -> bool {
        number < self.needed.min(self.durable)
    }

    /// Takes the oldest segment away, which may go.
    pub(super) fn delete_oldest(&mut self, ops: &mut Vec<DiskOp>) {
        assert!(self.may_go(self.first));
        let closed = self.closed.pop_front().expect("the last one is never deleted");
        self.closed_bytes -= closed.bytes;
        ops.push(DiskOp::Delete { file: FileName::Segment(self.first) });
        ops.push(DiskOp::SyncDirectory);
        self.first += 1;
    }

    pub(super) fn first(&self) -> u64 {
        self.first
    }

    pub(super) fn last(&self) -> u64 {
        self.last
    }

    pub(super) fn tail_bytes(&self) -> u64 {
        self.tail_bytes
    }

    pub(super) fn count(&self) -> u64 {
        self.last - self.first + 1
    }

    pub(super) fn bytes(&self) -> u64 {
        self.closed_bytes + self.tail_bytes
    }

    pub(super) fn check_invariants(&self) {
        assert!(self.first <= self.last, "segments_are_numbered_upwards");
        assert_eq!(self.closed.len() as u64, self.last - self.first, "each_segment_is_known");
        assert!(self.tail_bytes >= SEGMENT_HEADER_BYTES as u64, "tail_segment_has_a_header");
        assert!(
            self.first <= self.durable && self.durable <= self.last,
            "hard_state_outlives_purges"
        );
    }
}
