//! The log as its segments tell it, one after another.
//!
//! Owns what the records add up to: places, terms, memberships, the last hard state; and where entries
//! are missing. Never judges bytes: that is `scan`'s. Next: `generation`, which joins it to a snapshot.
//!
//! Each flush says which entries it left at the log's end, and which the flush before it did. So one
//! flush that is destroyed leaves holes at known indices. Of several in a row only the last is known;
//! then nothing counts that is not known to have been committed before them, since they may have
//! replaced it.

use super::HardState;
use super::archive::Archive;
use super::disk::{Disk, FileName};
use super::entries::{Entries, Slot};
use super::error::{Damage, Damaged, StorageError};
use super::format::{EntrySpan, Owner, ResetMark, SegmentHeader};
use super::recovery::{SEGMENT_FIRST, read_file};
use super::scan::{self, Expected, Found, Scan, ScannedFlush, ScannedRecord};
use super::segments::Segments;
use crate::hlc::Hlc;
use crate::ids::{LogIndex, Term};
use crate::raft::{LogPosition, Membership};
use crate::record::{EntryKind, RECORD_HEADER_BYTES};
use alloc::vec::Vec;
use bytes::Bytes;

/// Most entries that are missing in a row and still have their places kept.
const HOLE_ENTRIES_MAX: u64 = 1 << 20;
/// Most places of damage that are remembered.
const DAMAGED_MAX: usize = 1_000;

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
    /// With holes where records are missing.
    pub(super) entries: Entries,
    /// Copies, and what was committed of a log that was given up.
    pub(super) archive: Archive,
    pub(super) segments: Segments,
    pub(super) hard_state: HardState,
    pub(super) has_flush: bool,
    /// From the log's first entry on.
    pub(super) term_runs: Vec<(LogIndex, Term)>,
    pub(super) memberships: Vec<(LogIndex, Membership)>,
    /// The last entry's stamp, if it was read.
    pub(super) last_stamp: Option<Hlc>,
    pub(super) next_sequence: u64,
    /// What the last flush left at the log's end.
    pub(super) last_span: EntrySpan,
    /// What the last flush says that this node vouches for.
    pub(super) vouched: LogPosition,
    pub(super) torn_bytes: u64,
    pub(super) tail: Tail,
    /// The last segment's file, which may have no header.
    pub(super) segment_last: u64,
    /// Where the log last began anew.
    pub(super) reset: Option<ResetMark>,
    /// Where damage was found, in the order of the log.
    pub(super) damaged: Vec<Damaged>,
    /// Whether the last flush of the last segment is damaged: it is known to have been durable only by
    /// what is about to be cut off.
    pub(super) is_tail_damaged: bool,
    /// Whether it is known which flush is the next.
    is_placed: bool,
    /// Whether flushes may be missing before the next one.
    is_astray: bool,
    /// Whether a segment's header is missing before the next flush: the log may have begun anew.
    is_header_lost: bool,
}

impl Replay {
    /// Reads `segments`, numbers and lengths in rising order.
    pub(super) fn of(
        disk: &mut impl Disk,
        owner: &Owner,
        segments: &[(u64, u64)],
    ) -> Result<Self, StorageError> {
        let (first, _) = *segments.first().expect("there is a segment");
        let (segment_last, _) = *segments.last().expect("there is a segment");
        let mut replay = Self::new(first, segment_last);
        for (number, len) in segments {
            while replay.tail.segment + 1 < *number {
                replay.miss_segment();
            }
            let bytes = read_file(disk, FileName::Segment(*number), *len)?;
            let expected = Expected {
                segment: *number,
                sequence: replay.is_placed.then_some(replay.next_sequence),
                is_last: *number == segment_last,
            };
            let scan = scan::scan_segment(owner, expected, &bytes)?;
            replay.torn_bytes += bytes.len() as u64 - scan.durable_bytes;
            replay.take_segment(*number, &scan, &bytes)?;
        }
        if replay.is_astray || (first > SEGMENT_FIRST && !replay.has_flush) {
            // The last term and vote are gone; and segments go only after a later one holds these.
            let damage = Damage::FlushHeader { sequence: replay.next_sequence };
            let (file, offset) = (FileName::Segment(replay.tail.segment), replay.tail.bytes);
            let last = replay.damaged.last();
            let last = last.map_or((file, offset, damage), |it| (it.file, it.offset, it.damage));
            let (file, offset, damage) = last;
            return Err(StorageError::Damaged { file, offset, damage });
        }
        Ok(replay)
    }

    fn new(first: u64, segment_last: u64) -> Self {
        Self {
            entries: Entries::beginning_at(LogIndex(1)),
            archive: Archive::default(),
            segments: Segments::one(first, LogIndex(1), 0),
            hard_state: HardState::default(),
            has_flush: false,
            term_runs: Vec::new(),
            memberships: Vec::new(),
            last_stamp: None,
            next_sequence: 1,
            last_span: EntrySpan::none_before(LogIndex(1)),
            vouched: LogPosition::default(),
            torn_bytes: 0,
            tail: Tail { segment: first - 1, bytes: 0, last_flush_offset: 0 },
            segment_last,
            reset: None,
            damaged: Vec::new(),
            is_tail_damaged: false,
            is_placed: first == SEGMENT_FIRST,
            is_astray: false,
            is_header_lost: false,
        }
    }

    fn note_damage(&mut self, segment: u64, offset: u64, damage: Damage) {
        if self.damaged.len() < DAMAGED_MAX {
            self.damaged.push(Damaged { file: FileName::Segment(segment), offset, damage });
        }
    }

    /// A segment between others is not there.
    fn miss_segment(&mut self) {
        let number = self.tail.segment + 1;
        self.note_damage(number, 0, Damage::MissingSegment);
        self.begin_segment(number, self.entries.end(), 0);
        (self.is_astray, self.is_header_lost) = (true, true);
    }

    fn begin_segment(&mut self, number: u64, first_index: LogIndex, header_bytes: u64) {
        if number > self.segments.first() {
            self.segments.begin(first_index, header_bytes);
        } else {
            self.segments = Segments::one(number, first_index, header_bytes);
        }
        self.tail = Tail { segment: number, bytes: header_bytes, last_flush_offset: 0 };
        self.is_tail_damaged = false;
    }

    fn take_segment(
        &mut self,
        number: u64,
        scan: &Scan,
        bytes: &Bytes,
    ) -> Result<(), StorageError> {
        let is_unwritten = scan.is_torn || (self.is_last(number) && is_empty_reset(scan));
        if is_unwritten && number > self.segments.first() {
            // Created but without a header, or about to begin the log anew, which it does with the
            // first flush: the log goes on in the segment before.
            self.torn_bytes += scan.durable_bytes;
            return Ok(());
        }
        let header_bytes = scan.header.map_or(0, |header| header.header_bytes() as u64);
        // Without its header, a segment's first flush says how far the log had come.
        let told = scan.flushes().next().map(|flush| flush.header.previous.end());
        let first_index = scan.header.map_or_else(
            || told.unwrap_or(self.entries.end()).max(self.entries.end()),
            |header| header.first_index,
        );
        self.begin_segment(number, first_index, header_bytes);
        match &scan.header {
            Some(header) => self.take_header(header),
            None => self.is_header_lost = true,
        }
        for found in &scan.found {
            match found {
                Found::Gap { offset, damage } => {
                    self.note_damage(number, *offset, *damage);
                    self.is_astray = true;
                }
                Found::Flush(flush) => self.take_flush(number, flush, bytes)?,
            }
        }
        if is_empty_reset(scan) {
            // What it began anew with was durable before there was a later segment.
            let damage = Damage::FlushHeader { sequence: self.next_sequence };
            self.note_damage(number, header_bytes, damage);
            self.is_astray = true;
        }
        self.segments.grow(scan.durable_bytes - header_bytes);
        self.tail = Tail {
            segment: number,
            bytes: scan.durable_bytes,
            last_flush_offset: scan.last_flush_offset,
        };
        Ok(())
    }

    fn is_last(&self, number: u64) -> bool {
        number == self.segment_last
    }

    fn take_header(&mut self, header: &SegmentHeader) {
        let is_beginning = !self.has_flush && self.damaged.is_empty();
        if header.reset.is_some() {
            self.begin_entries(header.first_index);
            self.reset = header.reset;
            self.segments.need_from(header.segment);
        } else if is_beginning {
            self.begin_entries(header.first_index);
        }
        if is_beginning {
            (self.next_sequence, self.is_placed) = (header.first_sequence, true);
            self.last_span = EntrySpan::none_before(header.first_index);
        }
    }

    /// The log begins anew with `first`. What was committed before stays true.
    fn begin_entries(&mut self, first: LogIndex) {
        let given_up = core::mem::replace(&mut self.entries, Entries::beginning_at(first));
        self.archive.take_committed(&given_up, self.hard_state.commit, first);
        self.reset = None;
        self.term_runs.clear();
        self.memberships.clear();
        self.last_stamp = None;
    }

    fn take_flush(
        &mut self,
        segment: u64,
        flush: &ScannedFlush,
        bytes: &Bytes,
    ) -> Result<(), StorageError> {
        let header = &flush.header;
        if self.is_astray {
            self.find_the_way(header.previous, header.sequence);
        }
        let first = flush.records.iter().find(|record| !record.is_archived);
        let first = first.map_or(header.entries.first, |first| first.index);
        if first > self.entries.end() {
            // A start of this node before found that records were missing up to here, of which it has
            // a snapshot.
            self.begin_entries(first);
        }
        if let Some((offset, damage)) = flush.damage {
            self.note_damage(segment, offset, damage);
            self.lose(header.entries);
        }
        for record in &flush.records {
            let slot = Slot::new(segment, record.offset, record.len);
            if !record.is_archived && flush.damage.is_none() {
                self.take_record(segment, record, bytes)?;
            } else {
                self.fill(segment, record, bytes)?;
                if record.is_archived {
                    self.archive.insert(record.index, slot);
                }
            }
        }
        if header.entries.count == 0 {
            // A start of this node before may have found the log to end here, because of damage.
            self.lose(header.entries);
        }
        self.hard_state = header.hard_state;
        self.vouched = header.vouched;
        (self.has_flush, self.is_placed) = (true, true);
        self.is_tail_damaged = flush.damage.is_some();
        self.segments.flushed(segment);
        self.last_span = header.entries;
        self.next_sequence = header.sequence + 1;
        Ok(())
    }

    /// The first flush that is known after some that are not, of which the last left `previous`.
    fn find_the_way(&mut self, previous: EntrySpan, sequence: u64) {
        self.is_astray = false;
        let missing = sequence.saturating_sub(self.next_sequence);
        let is_known = self.is_placed && !core::mem::take(&mut self.is_header_lost);
        if is_known && missing == 0 {
            return;
        }
        if !is_known || missing > 1 {
            self.truncate(self.hard_state.commit.next().max(self.entries.first()));
        }
        self.lose(previous);
    }

    /// A flush left these entries, and they are damaged.
    fn lose(&mut self, span: EntrySpan) {
        self.truncate(span.first);
        if span.first < self.entries.first()
            || span.end().0 > self.entries.end().0 + HOLE_ENTRIES_MAX
        {
            self.begin_entries(span.first);
        }
        self.entries.lose_until(span.end());
    }

    fn truncate(&mut self, from: LogIndex) {
        if from < self.entries.end() {
            self.last_stamp = None;
        }
        self.entries.truncate(from);
        while self.term_runs.last().is_some_and(|(first, _)| *first >= from) {
            self.term_runs.pop();
        }
        while self.memberships.last().is_some_and(|(last, _)| *last >= from) {
            self.memberships.pop();
        }
    }

    fn take_record(
        &mut self,
        segment: u64,
        record: &ScannedRecord,
        bytes: &Bytes,
    ) -> Result<(), StorageError> {
        let (index, term) = (record.index, record.term);
        self.truncate(index);
        let last_term = self.term_runs.last().map_or(Term::ZERO, |(_, term)| *term);
        let is_before_first = index < self.entries.first();
        if term < last_term || (is_before_first && self.reset.is_some()) || index == LogIndex::ZERO
        {
            let file = FileName::Segment(segment);
            let damage = Damage::Order { index, last: self.entries.end().previous() };
            return Err(StorageError::Damaged { file, offset: record.offset, damage });
        }
        if term > last_term || self.term_runs.is_empty() {
            self.term_runs.push((index, term));
        }
        if let Some(membership) = membership_in(segment, record, bytes)? {
            self.memberships.push((index, membership));
        }
        if is_before_first {
            // The segments with the entries before it are gone, and it replaces all that came since.
            self.entries = Entries::beginning_at(index);
        }
        if index > self.entries.end() {
            let file = FileName::Segment(segment);
            let damage = Damage::Order { index, last: self.entries.end().previous() };
            return Err(StorageError::Damaged { file, offset: record.offset, damage });
        }
        self.entries.put(index, Slot::new(segment, record.offset, record.len));
        self.last_stamp = Some(record.hlc);
        Ok(())
    }

    /// Fills a hole, if there is one: its term and what it says of the members belong between those
    /// around it.
    fn fill(
        &mut self,
        segment: u64,
        record: &ScannedRecord,
        bytes: &Bytes,
    ) -> Result<(), StorageError> {
        let (index, term) = (record.index, record.term);
        let at = self.term_runs.partition_point(|(first, _)| *first <= index);
        let before = at.checked_sub(1).map(|at| self.term_runs[at].1);
        let after = self.term_runs.get(at).map(|(_, term)| *term);
        let fits = before.is_none_or(|before| before <= term) && after.is_none_or(|t| term <= t);
        let slot = Slot::new(segment, record.offset, record.len);
        if !fits || !self.entries.fill(index, slot) {
            return Ok(());
        }
        if before != Some(term) {
            match self.term_runs.get_mut(at) {
                Some((first, next)) if *next == term => *first = index,
                Some(_) | None => self.term_runs.insert(at, (index, term)),
            }
        }
        if let Some(membership) = membership_in(segment, record, bytes)? {
            let at = self.memberships.partition_point(|(other, _)| *other < index);
            self.memberships.insert(at, (index, membership));
        }
        Ok(())
    }

    /// The log's last index, whether its record is there or not.
    pub(super) fn last_index(&self) -> LogIndex {
        self.entries.end().previous()
    }

    /// The term of an entry whose record is there.
    pub(super) fn term_at(&self, index: LogIndex) -> Option<Term> {
        self.entries.slot(index)?;
        self.term_runs.iter().rfind(|(first, _)| *first <= index).map(|(_, term)| *term)
    }
}

/// Whether the segment would begin the log anew, but for the first flush.
fn is_empty_reset(scan: &Scan) -> bool {
    scan.header.is_some_and(|header| header.reset.is_some()) && scan.found.is_empty()
}

fn membership_in(
    segment: u64,
    record: &ScannedRecord,
    bytes: &Bytes,
) -> Result<Option<Membership>, StorageError> {
    if record.kind != EntryKind::Membership {
        return Ok(None);
    }
    let start = usize::try_from(record.offset).expect("it was read into memory");
    let payload = &bytes[start + RECORD_HEADER_BYTES..start + record.len];
    let file = FileName::Segment(segment);
    let membership = Membership::decode(payload);
    membership.map(Some).map_err(|_| StorageError::UnknownMembership { index: record.index, file })
}
