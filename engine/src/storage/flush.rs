//! One flush in the making: its records, one after another, and the header that vouches for them.
//!
//! Owns offsets, digest and padding. Never decides what goes into a flush: `store` does. Next:
//! `format` for the bytes.

use super::HardState;
use super::disk::{DiskOp, FileName};
use super::entries::Slot;
use super::format::{self, EntrySpan, FLUSH_HEADER_BYTES, FlushHeader, Owner, Place};
use crate::raft::LogPosition;
use crate::record::Record;
use alloc::vec::Vec;
use bytes::Bytes;

/// Padding is cut from this.
static ZEROS: [u8; format::FLUSH_ALIGNMENT] = [0; format::FLUSH_ALIGNMENT];

/// What a flush's header says besides its records.
pub(super) struct Heading {
    pub(super) sequence: u64,
    pub(super) hard_state: HardState,
    pub(super) archived_count: u32,
    pub(super) entries: EntrySpan,
    pub(super) previous: EntrySpan,
    pub(super) vouched: LogPosition,
}

/// A flush whose records are being gathered.
pub(super) struct Draft {
    place: Place,
    offset: u64,
    record_count: u32,
    digest: u64,
    /// The header's place, then the records.
    parts: Vec<Bytes>,
}

impl Draft {
    /// A flush at `place`, with room for so many records.
    pub(super) fn at(place: Place, records: usize) -> Self {
        // And one for the header, one for the padding.
        let mut parts = Vec::with_capacity(records + 2);
        parts.push(Bytes::new());
        let offset = place.offset + FLUSH_HEADER_BYTES as u64;
        Self { place, offset, record_count: 0, digest: 0, parts }
    }

    /// Adds a record; says where it will be.
    pub(super) fn push(&mut self, record: &Record) -> Slot {
        let len = record.bytes().len();
        let slot = Slot::new(self.place.segment, self.offset, len);
        self.record_count += 1;
        self.digest = format::chain_digest(self.digest, record);
        self.parts.push(record.bytes().clone());
        self.offset += len as u64;
        slot
    }

    /// Writes and syncs the flush; says how many bytes it has.
    pub(super) fn finish(mut self, owner: &Owner, heading: &Heading, ops: &mut Vec<DiskOp>) -> u64 {
        let place = self.place;
        let records_bytes = self.offset - place.offset - FLUSH_HEADER_BYTES as u64;
        let header = FlushHeader {
            records_bytes: u32::try_from(records_bytes).expect("a segment is below 4 GiB"),
            record_count: self.record_count,
            archived_count: heading.archived_count,
            sequence: heading.sequence,
            hard_state: heading.hard_state,
            record_digest: self.digest,
            entries: heading.entries,
            previous: heading.previous,
            vouched: heading.vouched,
        };
        self.parts[0] = Bytes::copy_from_slice(&header.encode(owner, place));
        let flush_bytes = header.flush_bytes();
        let padding = place.offset + flush_bytes - self.offset;
        if padding > 0 {
            self.parts.push(Bytes::from_static(&ZEROS[..padding as usize]));
        }
        let file = FileName::Segment(place.segment);
        ops.push(DiskOp::Write { file, offset: place.offset, parts: self.parts });
        ops.push(DiskOp::Sync { file });
        flush_bytes
    }
}
