//! The recovery scan: what a segment's bytes hold, and whether their end is torn or damaged.
//!
//! Owns the one judgement on which durability rests. Pure functions over bytes: never reads, cuts or
//! repairs anything. Next: `recovery`, which acts on the verdict.
//!
//! A flush is begun only after the one before was synced. So a bad flush with a valid one anywhere
//! after it was durable once and is damaged now, and to cut it would forget what was acknowledged.
//! A bad flush with nothing after it was never acknowledged, or is the last one and damaged; these two
//! cannot be told apart from one log (Alagappan et al., "Protocol-Aware Recovery for Consensus-Based
//! Storage", FAST 2018), and it is cut, as a whole: its header vouches for all of it or for nothing.

use super::HardState;
use super::disk::FileName;
use super::error::{Damage, StorageError, Whose};
use super::format::{
    self, EntrySpan, FLUSH_ALIGNMENT, FLUSH_HEADER_BYTES, FlushHeader, HeaderError, Owner, Place,
    SegmentHeader,
};
use crate::hlc::Hlc;
use crate::ids::{LogIndex, Term};
use crate::record::{EntryKind, Record, RecordError};
use alloc::boxed::Box;
use alloc::vec::Vec;
use bytes::Bytes;

/// Where the log before a segment ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogEnd {
    /// The sequence of the flush that follows.
    pub sequence: u64,
    /// The last index.
    pub last_index: LogIndex,
}

/// What the log before a segment leads one to expect of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Expected {
    /// The segment's number.
    pub segment: u64,
    /// Where the log before it ends; `None` if that is gone, so that its own header must be believed.
    pub before: Option<LogEnd>,
    /// Whether no later segment exists: only then can its end be torn.
    pub is_last: bool,
}

/// A record found whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ScannedRecord {
    /// Its index; unless it is archived, it replaces whatever the log holds from there on.
    pub index: LogIndex,
    /// Its term.
    pub term: Term,
    /// Its stamp.
    pub hlc: Hlc,
    /// What it means.
    pub kind: EntryKind,
    /// Whether it is a copy of a committed entry: it says nothing about where the log ends.
    pub is_archived: bool,
    /// Bytes from the segment's start.
    pub offset: u64,
    /// Bytes, header included.
    pub len: usize,
}

/// What a segment holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Scan {
    /// Its header; `None` if that is torn, as it is when the power failed while the segment was being
    /// created, or if it would begin the log anew and its first flush is torn.
    pub header: Option<SegmentHeader>,
    /// The records of all whole flushes, in the order of the file.
    pub records: Vec<ScannedRecord>,
    /// The hard state of the last whole flush, if there is one.
    pub hard_state: Option<HardState>,
    /// The sequence of the flush that follows.
    pub next_sequence: u64,
    /// The entries that the last whole flush left at the log's end, if there is one.
    pub entries: Option<EntrySpan>,
    /// Where the last whole flush begins; 0 if there is none.
    pub last_flush_offset: u64,
    /// Where the last whole flush ends. Bytes after it are a torn tail; 0 without a header.
    pub whole_bytes: u64,
}

/// Reads the segment in `bytes`.
///
/// # Errors
/// [`StorageError::Damaged`], [`StorageError::Foreign`] or [`StorageError::UnknownVersion`]; a torn
/// tail is no error.
pub fn scan_segment(
    owner: &Owner,
    expected: Expected,
    bytes: &Bytes,
) -> Result<Scan, StorageError> {
    let mut scan = Scan {
        header: None,
        records: Vec::new(),
        hard_state: None,
        next_sequence: expected.before.map_or(0, |before| before.sequence),
        entries: None,
        last_flush_offset: 0,
        whole_bytes: 0,
    };
    let mut scanner = Scanner { owner, expected, bytes, last_index: LogIndex::ZERO };
    let Some(header) = scanner.take_segment_header()? else { return Ok(scan) };
    scan.header = Some(header);
    scan.next_sequence = header.first_sequence;
    scan.whole_bytes = header.header_bytes() as u64;
    while scan.whole_bytes < bytes.len() as u64 {
        let whole_records = scan.records.len();
        let sequence = scan.next_sequence;
        match scanner.scan_flush(scan.whole_bytes as usize, sequence, &mut scan.records) {
            Ok(header) => {
                scan.hard_state = Some(header.hard_state);
                scan.entries = Some(header.entries);
                scan.next_sequence += 1;
                scan.last_flush_offset = scan.whole_bytes;
                scan.whole_bytes += header.flush_bytes();
            }
            Err(Fault::Final(error)) => return Err(error),
            Err(Fault::Suspect { offset, damage, resume }) => {
                if !expected.is_last || scanner.has_flush_after(resume, sequence) {
                    return Err(scanner.damaged(offset, damage));
                }
                scan.records.truncate(whole_records);
                break;
            }
        }
    }
    assert!(scan.whole_bytes <= bytes.len() as u64);
    if scan.hard_state.is_none() {
        scanner.take_emptiness(&mut scan)?;
    }
    Ok(scan)
}

/// Why a flush cannot be taken.
enum Fault {
    /// Whatever follows, this is no torn tail.
    Final(StorageError),
    /// Torn or damaged, depending on whether a valid flush stands at `resume` or later.
    Suspect { offset: usize, damage: Damage, resume: usize },
}

struct Scanner<'a> {
    owner: &'a Owner,
    expected: Expected,
    bytes: &'a Bytes,
    last_index: LogIndex,
}

impl Scanner<'_> {
    fn file(&self) -> FileName {
        FileName::Segment(self.expected.segment)
    }

    fn damaged(&self, offset: usize, damage: Damage) -> StorageError {
        StorageError::Damaged { file: self.file(), offset: offset as u64, damage }
    }

    fn unknown_version(&self, offset: usize, version: u8) -> StorageError {
        StorageError::UnknownVersion { file: self.file(), offset: offset as u64, version }
    }

    /// The segment's header; none if it is torn.
    fn take_segment_header(&mut self) -> Result<Option<SegmentHeader>, StorageError> {
        let header = match SegmentHeader::decode(self.bytes) {
            Ok(header) => header,
            Err(HeaderError::Version(version)) => return Err(self.unknown_version(0, version)),
            Err(HeaderError::Broken) => {
                // The header is synced before the first flush is written, the first segment's before
                // the directory gets its identity, and any other's before those before it go.
                let was_durable = match self.expected.before {
                    Some(before) if self.expected.is_last && self.expected.segment > 1 => {
                        self.has_flush_after(0, before.sequence - 1)
                    }
                    Some(_) | None => true,
                };
                return if was_durable {
                    Err(self.damaged(0, Damage::SegmentHeader))
                } else {
                    Ok(None)
                };
            }
        };
        let found = Whose { cluster: header.cluster, group: header.group, node: header.node };
        let owner = self.owner;
        let expected = Whose { cluster: owner.cluster, group: owner.group, node: owner.node };
        if found != expected {
            let (found, expected) = (Box::new(found), Box::new(expected));
            return Err(StorageError::Foreign { file: self.file(), found, expected });
        }
        if header.segment != self.expected.segment {
            return Err(self.damaged(0, Damage::SegmentHeader));
        }
        let (index, sequence) = (header.first_index, header.first_sequence);
        let continues = |before: LogEnd| {
            let has_index = index == before.last_index.next() || header.reset.is_some();
            has_index && sequence == before.sequence
        };
        if index == LogIndex::ZERO || !self.expected.before.is_none_or(continues) {
            return Err(self.damaged(0, Damage::Chain { index, sequence }));
        }
        self.last_index = index.previous();
        Ok(Some(header))
    }

    /// Judges a segment without a whole flush: where the log begins anew, that is with the first flush,
    /// not with the header.
    fn take_emptiness(&self, scan: &mut Scan) -> Result<(), StorageError> {
        if scan.header.is_none_or(|header| header.reset.is_none()) {
            return Ok(());
        }
        if !self.expected.is_last || self.expected.before.is_none() {
            let damage = Damage::FlushHeader { sequence: scan.next_sequence };
            return Err(self.damaged(scan.whole_bytes as usize, damage));
        }
        scan.header = None;
        scan.whole_bytes = 0;
        Ok(())
    }

    /// Takes the flush at `start`, appending its records; on a fault the caller takes them off again.
    fn scan_flush(
        &mut self,
        start: usize,
        sequence: u64,
        records: &mut Vec<ScannedRecord>,
    ) -> Result<FlushHeader, Fault> {
        let place = Place { segment: self.expected.segment, offset: start as u64 };
        let header = match FlushHeader::decode(self.owner, place, &self.bytes[start..]) {
            Ok(header) => header,
            Err(HeaderError::Version(version)) => {
                return Err(Fault::Final(self.unknown_version(start, version)));
            }
            Err(HeaderError::Broken) => {
                let damage = Damage::FlushHeader { sequence };
                let resume = start + FLUSH_ALIGNMENT;
                return Err(Fault::Suspect { offset: start, damage, resume });
            }
        };
        if header.sequence != sequence {
            let damage = Damage::FlushSequence { found: header.sequence, expected: sequence };
            return Err(Fault::Final(self.damaged(start, damage)));
        }
        // A whole header tells where the next flush would begin: what is inside this one is payload,
        // and need not be searched.
        let resume = start + usize::try_from(header.flush_bytes()).unwrap_or(usize::MAX - start);
        let suspect = |offset, damage| Fault::Suspect { offset, damage, resume };
        if resume > self.bytes.len() {
            return Err(suspect(start, Damage::FlushShort { sequence }));
        }
        let records_end = start + FLUSH_HEADER_BYTES + header.records_bytes as usize;
        let mut offset = start + FLUSH_HEADER_BYTES;
        let mut rest = self.bytes.slice(offset..records_end);
        let mut digest = 0;
        let log_count = header.record_count.saturating_sub(header.archived_count);
        for at in 0..header.record_count {
            let record = match Record::take(self.owner.record_seed(), &mut rest) {
                Ok(record) => record,
                Err(RecordError::Unknown { version, .. }) => {
                    return Err(Fault::Final(self.unknown_version(offset, version)));
                }
                Err(error) => return Err(suspect(offset, Damage::Record { sequence, error })),
            };
            digest = format::chain_digest(digest, &record);
            records.push(ScannedRecord {
                index: record.index(),
                term: record.term(),
                hlc: record.hlc(),
                kind: record.kind(),
                is_archived: at >= log_count,
                offset: offset as u64,
                len: record.bytes().len(),
            });
            offset += record.bytes().len();
        }
        if digest != header.record_digest || offset != records_end {
            return Err(suspect(start, Damage::Digest { sequence }));
        }
        if self.bytes[records_end..resume].iter().any(|byte| *byte != 0) {
            return Err(suspect(records_end, Damage::Padding { sequence }));
        }
        let first = records.len() - header.record_count as usize;
        self.check_order(&records[first..])?;
        Ok(header)
    }

    /// Each record must follow an entry that is there, if it is no copy. A whole flush that breaks this
    /// was written so.
    fn check_order(&mut self, records: &[ScannedRecord]) -> Result<(), Fault> {
        for record in records.iter().filter(|record| !record.is_archived) {
            if record.index == LogIndex::ZERO || record.index > self.last_index.next() {
                let damage = Damage::Order { index: record.index, last: self.last_index };
                return Err(Fault::Final(self.damaged(record.offset as usize, damage)));
            }
            self.last_index = record.index;
        }
        Ok(())
    }

    /// Whether a valid flush later than `sequence` begins at `from` or after it.
    fn has_flush_after(&self, from: usize, sequence: u64) -> bool {
        let first = from.next_multiple_of(FLUSH_ALIGNMENT);
        (first..self.bytes.len()).step_by(FLUSH_ALIGNMENT).any(|offset| {
            let place = Place { segment: self.expected.segment, offset: offset as u64 };
            match FlushHeader::decode(self.owner, place, &self.bytes[offset..]) {
                Ok(header) => header.sequence > sequence,
                // Only whole headers have a version.
                Err(HeaderError::Version(_)) => true,
                Err(HeaderError::Broken) => false,
            }
        })
    }
}
