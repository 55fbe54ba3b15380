//! The log as its segments tell it, one after another.
//!
//! Owns what the records add up to: places, terms, memberships, the last hard state. Never judges
//! bytes: that is `scan`'s. Next: `generation`, which joins it to a snapshot.

use super::HardState;
use super::archive::Archive;
use super::disk::{Disk, FileName};
use super::entries::{Entries, Slot};
use super::error::{Damage, StorageError};
use super::format::{EntrySpan, Owner, ResetMark, SegmentHeader};
use super::recovery::{SEGMENT_FIRST, read_file};
use super::scan::{self, Expected, LogEnd, Scan, ScannedRecord};
use super::segments::Segments;
use crate::hlc::Hlc;
use crate::ids::{LogIndex, Term};
use crate::raft::Membership;
use crate::record::{EntryKind, RECORD_HEADER_BYTES};
use alloc::vec::Vec;
use bytes::Bytes;

/// The last segment that has a header.
#[derive(Clone, Copy)]
pub(super) struct Tail {
    pub(super) segment: u64,
    /// Bytes up to the end of its last whole flush.
    pub(super) bytes: u64,
    pub(super) last_flush_offset: u64,
}

/// The log as far as it has been read.
pub(super) struct Replay {
    pub(super) entries: Entries,
    /// Copies, and what was committed of a log that was given up.
    pub(super) archive: Archive,
    pub(super) segments: Segments,
    pub(super) hard_state: HardState,
    has_flush: bool,
    /// From the log's first entry on.
    pub(super) term_runs: Vec<(LogIndex, Term)>,
    pub(super) memberships: Vec<(LogIndex, Membership)>,
    pub(super) last_index: LogIndex,
    pub(super) last_stamp: Hlc,
    pub(super) next_sequence: u64,
    /// What the last flush left at the log's end.
    pub(super) last_span: EntrySpan,
    pub(super) torn_bytes: u64,
    pub(super) tail: Tail,
    /// The last segment's file, which may have no header.
    pub(super) segment_last: u64,
    /// Where the log last began anew.
    pub(super) reset: Option<ResetMark>,
}

impl Replay {
    /// Reads `segments`, numbers and lengths without a gap.
    pub(super) fn of(
        disk: &mut impl Disk,
        owner: &Owner,
        segments: &[(u64, u64)],
    ) -> Result<Self, StorageError> {
        let (segment_last, _) = *segments.last().expect("there is a segment");
        let mut replay: Option<Self> = None;
        let mut torn_bytes = 0;
        for (number, len) in segments {
            let bytes = read_file(disk, FileName::Segment(*number), *len)?;
            let beginning = LogEnd { sequence: 1, last_index: LogIndex::ZERO };
            let before = match &replay {
                Some(replay) => Some(replay.end()),
                None => (*number == SEGMENT_FIRST).then_some(beginning),
            };
            let expected = Expected { segment: *number, before, is_last: *number == segment_last };
            let scan = scan::scan_segment(owner, expected, &bytes)?;
            torn_bytes += bytes.len() as u64 - scan.whole_bytes;
            if let Some(header) = scan.header {
                let replay = match &mut replay {
                    Some(replay) => {
                        replay.continue_with(&header);
                        replay
                    }
                    None => replay.insert(Self::begin(&header)),
                };
                replay.take(&header, &scan, &bytes)?;
            }
        }
        let mut replay = replay.expect("the first segment has a header, or the scan failed");
        replay.torn_bytes = torn_bytes;
        replay.segment_last = segment_last;
        let (first, _) = segments[0];
        if first > SEGMENT_FIRST && !replay.has_flush {
            // Segments go only after a later one holds the hard state.
            let damage = Damage::FlushHeader { sequence: replay.next_sequence };
            let (file, offset) = (FileName::Segment(replay.tail.segment), replay.tail.bytes);
            return Err(StorageError::Damaged { file, offset, damage });
        }
        Ok(replay)
    }

    fn begin(header: &SegmentHeader) -> Self {
        let header_bytes = header.header_bytes() as u64;
        Self {
            entries: Entries::beginning_at(header.first_index),
            archive: Archive::default(),
            segments: Segments::one(header.segment, header.first_index, header_bytes),
            hard_state: HardState::default(),
            has_flush: false,
            term_runs: Vec::new(),
            memberships: Vec::new(),
            last_index: header.first_index.previous(),
            last_stamp: Hlc::ZERO,
            next_sequence: header.first_sequence,
            last_span: EntrySpan::none_before(header.first_index),
            torn_bytes: 0,
            tail: Tail { segment: header.segment, bytes: header_bytes, last_flush_offset: 0 },
            segment_last: header.segment,
            reset: header.reset,
        }
    }

    fn continue_with(&mut self, header: &SegmentHeader) {
        self.segments.begin(header.first_index, header.header_bytes() as u64);
        if header.reset.is_none() {
            return;
        }
        self.reset = header.reset;
        self.segments.need_from(header.segment);
        let given_up = Entries::beginning_at(header.first_index);
        let given_up = core::mem::replace(&mut self.entries, given_up);
        self.archive.take_committed(&given_up, self.hard_state.commit, header.first_index);
        self.term_runs.clear();
        self.memberships.clear();
        self.last_index = header.first_index.previous();
        self.last_stamp = Hlc::ZERO;
    }

    fn end(&self) -> LogEnd {
        LogEnd { sequence: self.next_sequence, last_index: self.last_index }
    }

    fn take(
        &mut self,
        header: &SegmentHeader,
        scan: &Scan,
        bytes: &Bytes,
    ) -> Result<(), StorageError> {
        for record in &scan.records {
            if record.is_archived {
                let slot = Slot::new(header.segment, record.offset, record.len);
                self.archive.insert(record.index, slot);
            } else {
                self.take_record(header.segment, record, bytes)?;
            }
        }
        if let Some(span) = scan.entries {
            self.last_span = span;
        }
        if let Some(hard_state) = scan.hard_state {
            self.hard_state = hard_state;
            self.has_flush = true;
            self.segments.flushed(header.segment);
        }
        self.next_sequence = scan.next_sequence;
        self.segments.grow(scan.whole_bytes - header.header_bytes() as u64);
        self.tail = Tail {
            segment: header.segment,
            bytes: scan.whole_bytes,
            last_flush_offset: scan.last_flush_offset,
        };
        Ok(())
    }

    fn take_record(
        &mut self,
        segment: u64,
        record: &ScannedRecord,
        bytes: &Bytes,
    ) -> Result<(), StorageError> {
        let (index, term) = (record.index, record.term);
        while self.term_runs.last().is_some_and(|(first, _)| *first >= index) {
            self.term_runs.pop();
        }
        while self.memberships.last().is_some_and(|(last, _)| *last >= index) {
            self.memberships.pop();
        }
        let last_term = self.term_runs.last().map_or(Term::ZERO, |(_, term)| *term);
        let is_before_first = index < self.entries.first();
        if term < last_term || (is_before_first && self.reset.is_some()) {
            let file = FileName::Segment(segment);
            let damage = Damage::Order { index, last: self.last_index };
            return Err(StorageError::Damaged { file, offset: record.offset, damage });
        }
        if term > last_term || self.term_runs.is_empty() {
            self.term_runs.push((index, term));
        }
        if record.kind == EntryKind::Membership {
            let start = usize::try_from(record.offset).expect("it was read into memory");
            let payload = &bytes[start + RECORD_HEADER_BYTES..start + record.len];
            let file = FileName::Segment(segment);
            let membership = Membership::decode(payload)
                .map_err(|_| StorageError::UnknownMembership { index, file })?;
            self.memberships.push((index, membership));
        }
        if is_before_first {
            // The segments with the entries before it are gone, and it replaces all that came since.
            self.entries = Entries::beginning_at(index);
        }
        self.entries.put(index, Slot::new(segment, record.offset, record.len));
        self.last_index = index;
        self.last_stamp = record.hlc;
        Ok(())
    }

    /// The term of an entry in the log.
    pub(super) fn term_at(&self, index: LogIndex) -> Option<Term> {
        let is_there = self.entries.first() <= index && index <= self.last_index;
        let run = self.term_runs.iter().rfind(|(first, _)| *first <= index);
        run.filter(|_| is_there).map(|(_, term)| *term)
    }
}
