//! The recovery scan: what a segment's bytes hold, and what of them is torn or damaged.
//!
//! Owns the one judgement on which durability rests. Pure functions over bytes: never reads, cuts or
//! repairs anything. Next: `replay`, which adds up what the segments hold.
//!
//! A flush is begun only after the one before was synced. So a bad flush with a valid one anywhere
//! after it was durable once and is damaged now: it is a *hole*, which must not be cut, since that
//! would forget what was acknowledged. A bad flush with nothing after it was never acknowledged, or is
//! the last one and damaged; these two cannot be told apart from one log (Alagappan et al.,
//! "Protocol-Aware Recovery for Consensus-Based Storage", FAST 2018), and it is cut, as a whole: its
//! header vouches for all of it or for nothing.
//!
//! After a hole the scan goes on with the next valid flush. Headers are bound to their place, so none
//! is taken for another. The next header repeats what the flush before it held.

use super::disk::FileName;
use super::error::{Damage, StorageError, Whose};
use super::format::{
    self, FLUSH_ALIGNMENT, FLUSH_HEADER_BYTES, FlushHeader, HeaderError, Owner, Place,
    RESET_HEADER_BYTES, SEGMENT_HEADER_BYTES, SegmentHeader,
};
use crate::hlc::Hlc;
use crate::ids::{LogIndex, Term};
use crate::record::{EntryKind, RECORD_HEADER_BYTES, Record, RecordError};
use alloc::boxed::Box;
use alloc::vec::Vec;
use bytes::Bytes;

/// What is known of a segment before it is read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Expected {
    /// The segment's number.
    pub segment: u64,
    /// The sequence of its first flush; `None` if the log before it is gone.
    pub sequence: Option<u64>,
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

/// A flush with a whole header.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ScannedFlush {
    /// The header.
    pub header: FlushHeader,
    /// Bytes from the segment's start to the header.
    pub offset: u64,
    /// Its records, in the order of the file; without those that are damaged.
    pub records: Vec<ScannedRecord>,
    /// Where and how it is damaged, if it is.
    pub damage: Option<(u64, Damage)>,
}

/// What stands at a place of a segment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Found {
    /// A flush.
    Flush(ScannedFlush),
    /// Flushes that cannot even be counted: from here to the next one, or to the segment's end.
    Gap {
        /// Bytes from the segment's start.
        offset: u64,
        /// What is wrong.
        damage: Damage,
    },
}

/// What a segment holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Scan {
    /// Its header; `None` if that is torn or damaged.
    pub header: Option<SegmentHeader>,
    /// Whether the header is torn, as it is when the power failed while the segment was being created.
    pub is_torn: bool,
    /// What comes after the header, in the order of the file.
    pub found: Vec<Found>,
    /// Where the last flush begins; 0 if there is none.
    pub last_flush_offset: u64,
    /// Where what was durable ends. Bytes after it are a torn tail; 0 if the header is torn.
    pub durable_bytes: u64,
}

/// Reads the segment in `bytes`.
///
/// # Errors
/// [`StorageError::Foreign`] or [`StorageError::UnknownVersion`]; [`StorageError::Damaged`] if the
/// last segment has nothing that is whole but was more than just created. Any other damage is found,
/// and no error.
pub fn scan_segment(
    owner: &Owner,
    expected: Expected,
    bytes: &Bytes,
) -> Result<Scan, StorageError> {
    let scanner = Scanner { owner, expected, bytes };
    let (header, damage) = match scanner.take_segment_header()? {
        Ok(header) => (Some(header), None),
        Err(damage) => (None, Some(damage)),
    };
    let mut scan = Scan {
        header,
        is_torn: false,
        found: Vec::new(),
        last_flush_offset: 0,
        durable_bytes: header.map_or(0, |header| header.header_bytes() as u64),
    };
    let header_sequence = header.map(|header| header.first_sequence);
    let mut due = expected.sequence.or(header_sequence).unwrap_or(0);
    let mut start = scan.durable_bytes as usize;
    if let Some(header) = header.filter(|header| header.first_sequence > due) {
        let (index, sequence) = (header.first_index, header.first_sequence);
        scan.found.push(Found::Gap { offset: 0, damage: Damage::Chain { index, sequence } });
        due = sequence;
    }
    if let Some(damage) = damage {
        match scanner.next_flush(SEGMENT_HEADER_BYTES, due)? {
            Some(first) => start = first,
            None if !expected.is_last => start = bytes.len(),
            None => return scanner.without_header(scan, damage),
        }
        scan.found.push(Found::Gap { offset: 0, damage });
    }
    scan.durable_bytes = start as u64;
    while start < bytes.len() {
        let flush = scanner.scan_flush(start, due)?;
        let is_whole = matches!(&flush, Ok(flush) if flush.damage.is_none());
        let (from, sequence) = match &flush {
            Ok(flush) => {
                let end = start as u64 + flush.header.flush_bytes();
                (
                    usize::try_from(end).unwrap_or(usize::MAX).min(bytes.len()),
                    flush.header.sequence + 1,
                )
            }
            Err(_) => (start + FLUSH_ALIGNMENT, due),
        };
        let next = if is_whole { Some(from) } else { scanner.next_flush(from, sequence)? };
        if next.is_none() && expected.is_last {
            // Torn, and so was never acknowledged.
            break;
        }
        scan.take(flush, start as u64, due);
        let next = next.unwrap_or(bytes.len());
        if next > from && sequence > due {
            let damage = Damage::FlushHeader { sequence };
            scan.found.push(Found::Gap { offset: from as u64, damage });
        }
        (start, due) = (next, sequence);
        scan.durable_bytes = start as u64;
    }
    Ok(scan)
}

impl Scan {
    /// The flushes, in order.
    pub fn flushes(&self) -> impl DoubleEndedIterator<Item = &ScannedFlush> {
        self.found.iter().filter_map(|found| match found {
            Found::Flush(flush) => Some(flush),
            Found::Gap { .. } => None,
        })
    }

    fn take(&mut self, flush: Result<ScannedFlush, Damage>, offset: u64, due: u64) {
        match flush {
            Ok(flush) => {
                let found = flush.header.sequence;
                let is_after_gap = matches!(self.found.last(), Some(Found::Gap { .. }));
                if due > 0 && found > due && !is_after_gap {
                    let damage = Damage::FlushSequence { found, expected: due };
                    self.found.push(Found::Gap { offset, damage });
                }
                self.last_flush_offset = offset;
                self.found.push(Found::Flush(flush));
            }
            Err(damage) => self.found.push(Found::Gap { offset, damage }),
        }
    }
}

struct Scanner<'a> {
    owner: &'a Owner,
    expected: Expected,
    bytes: &'a Bytes,
}

impl Scanner<'_> {
    fn file(&self) -> FileName {
        FileName::Segment(self.expected.segment)
    }

    fn unknown_version(&self, offset: usize, version: u8) -> StorageError {
        StorageError::UnknownVersion { file: self.file(), offset: offset as u64, version }
    }

    /// The segment's header, or what is wrong with it.
    #[allow(
        clippy::type_complexity,
        reason = "two kinds of failure, told apart by the only caller"
    )]
    fn take_segment_header(&self) -> Result<Result<SegmentHeader, Damage>, StorageError> {
        let header = match SegmentHeader::decode(self.bytes) {
            Ok(header) => header,
            Err(HeaderError::Version(version)) => return Err(self.unknown_version(0, version)),
            Err(HeaderError::Broken) => return Ok(Err(Damage::SegmentHeader)),
        };
        let found = Whose { cluster: header.cluster, group: header.group, node: header.node };
        let owner = self.owner;
        let expected = Whose { cluster: owner.cluster, group: owner.group, node: owner.node };
        if found != expected {
            let (found, expected) = (Box::new(found), Box::new(expected));
            return Err(StorageError::Foreign { file: self.file(), found, expected });
        }
        if header.segment != self.expected.segment {
            return Ok(Err(Damage::SegmentHeader));
        }
        let (index, sequence) = (header.first_index, header.first_sequence);
        let is_earlier = self.expected.sequence.is_some_and(|expected| sequence < expected);
        if index == LogIndex::ZERO || is_earlier {
            return Ok(Err(Damage::Chain { index, sequence }));
        }
        Ok(Ok(header))
    }

    /// Judges a last segment in which neither the header nor any flush is whole. The header is synced
    /// before the first flush is written; the first segment's before the directory gets its identity.
    fn without_header(&self, mut scan: Scan, damage: Damage) -> Result<Scan, StorageError> {
        let is_first = self.expected.segment == super::recovery::SEGMENT_FIRST;
        if is_first || self.expected.sequence.is_none() || self.bytes.len() > RESET_HEADER_BYTES {
            return Err(StorageError::Damaged { file: self.file(), offset: 0, damage });
        }
        scan.is_torn = true;
        Ok(scan)
    }

    /// The flush at `start`, whose sequence is `due` or later, with what is damaged of it; or why there
    /// is none.
    #[allow(
        clippy::type_complexity,
        reason = "two kinds of failure, told apart by the only caller"
    )]
    fn scan_flush(
        &self,
        start: usize,
        due: u64,
    ) -> Result<Result<ScannedFlush, Damage>, StorageError> {
        let Some(header) = self.flush_header(start)? else {
            return Ok(Err(Damage::FlushHeader { sequence: due }));
        };
        if header.sequence < due {
            let found = header.sequence;
            return Ok(Err(Damage::FlushSequence { found, expected: due }));
        }
        let end = start as u64 + header.flush_bytes();
        let end = usize::try_from(end).unwrap_or(usize::MAX);
        let sequence = header.sequence;
        let mut flush =
            ScannedFlush { header, offset: start as u64, records: Vec::new(), damage: None };
        if end > self.bytes.len() {
            flush.damage = Some((start as u64, Damage::FlushShort { sequence }));
        }
        let records_end = start + FLUSH_HEADER_BYTES + header.records_bytes as usize;
        let records_end = records_end.min(self.bytes.len());
        self.take_records(&mut flush, records_end)?;
        let padding = self.bytes.get(records_end..end).unwrap_or_default();
        if flush.damage.is_none() && padding.iter().any(|byte| *byte != 0) {
            flush.damage = Some((records_end as u64, Damage::Padding { sequence }));
            keep_certain(&mut flush);
        }
        Ok(Ok(flush))
    }

    /// Takes the records up to `end`. If not all are there, keeps those whose part in the flush is
    /// beyond doubt.
    fn take_records(&self, flush: &mut ScannedFlush, end: usize) -> Result<(), StorageError> {
        let header = flush.header;
        let log_count = header.record_count.saturating_sub(header.archived_count);
        let sequence = header.sequence;
        let mut offset = flush.offset as usize + FLUSH_HEADER_BYTES;
        let mut digest = 0;
        let mut count = 0;
        while offset < end {
            let mut rest = self.bytes.slice(offset..end);
            let record = match Record::take(self.owner.record_seed(), &mut rest) {
                Ok(record) => record,
                Err(RecordError::Unknown { version, .. }) => {
                    return Err(self.unknown_version(offset, version));
                }
                Err(error) => {
                    let damage = Damage::Record { sequence, error };
                    flush.damage = flush.damage.or(Some((offset as u64, damage)));
                    // Its length may be sound, and the next record is where that says.
                    let Ok(Some(len)) = Record::peek_len(&rest) else { break };
                    offset += len.max(RECORD_HEADER_BYTES);
                    count += 1;
                    continue;
                }
            };
            digest = format::chain_digest(digest, &record);
            flush.records.push(ScannedRecord {
                index: record.index(),
                term: record.term(),
                hlc: record.hlc(),
                kind: record.kind(),
                is_archived: count >= log_count,
                offset: offset as u64,
                len: record.bytes().len(),
            });
            offset += record.bytes().len();
            count += 1;
        }
        if flush.damage.is_none() && (digest != header.record_digest || offset != end) {
            flush.damage = Some((flush.offset, Damage::Digest { sequence }));
            // Whichever of them it is that was never written so.
            flush.records.clear();
        }
        if flush.damage.is_some() {
            keep_certain(flush);
        }
        Ok(())
    }

    fn flush_header(&self, start: usize) -> Result<Option<FlushHeader>, StorageError> {
        let place = Place { segment: self.expected.segment, offset: start as u64 };
        match FlushHeader::decode(self.owner, place, &self.bytes[start..]) {
            Ok(header) if header.is_sound() => Ok(Some(header)),
            Ok(_) | Err(HeaderError::Broken) => Ok(None),
            Err(HeaderError::Version(version)) => Err(self.unknown_version(start, version)),
        }
    }

    /// Where the next flush of `sequence` or a later one begins, at `from` or after it.
    fn next_flush(&self, from: usize, sequence: u64) -> Result<Option<usize>, StorageError> {
        let first = from.next_multiple_of(FLUSH_ALIGNMENT);
        for start in (first..self.bytes.len()).step_by(FLUSH_ALIGNMENT) {
            if self.flush_header(start)?.is_some_and(|header| header.sequence >= sequence) {
                return Ok(Some(start));
            }
        }
        Ok(None)
    }
}

/// Of a damaged flush, keeps the records of which it is known what they are to the log. Where a later
/// persist replaced what an earlier one of the same flush brought, a record may be one of either.
fn keep_certain(flush: &mut ScannedFlush) {
    let span = flush.header.entries;
    let log_count = flush.header.record_count.saturating_sub(flush.header.archived_count);
    if log_count != span.count {
        flush.records.clear();
    }
    let has_archived = flush.header.archived_count > 0;
    flush.records.retain_mut(|record| {
        record.is_archived = !(span.first..span.end()).contains(&record.index);
        has_archived || !record.is_archived
    });
}
