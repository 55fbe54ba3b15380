//! Reading entries back: one read for a run of entries, every byte of it verified.
//!
//! Owns the plan from the moment the job goes out until its bytes come back. Never trusts the disk.
//! Next: `store` for who makes plans.

use super::disk::{DiskOp, FileName};
use super::entries::Slot;
use super::error::StorageError;
use crate::ids::LogIndex;
use crate::record::{ChecksumSeed, Record};
use alloc::vec::Vec;
use bytes::Bytes;

/// Bytes between two entries of one read: headers of flushes, and few entries that were replaced.
const GAP_BYTES_MAX: u64 = 4_096;

/// What a read job will bring.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReadPlan {
    first: LogIndex,
    slots: Vec<Slot>,
}

impl ReadPlan {
    pub(super) fn new(first: LogIndex, slot: Slot) -> Self {
        Self { first, slots: Vec::from([slot]) }
    }

    fn last_slot(&self) -> Slot {
        *self.slots.last().expect("a plan begins with an entry")
    }

    /// Adds the next entry, unless it lies elsewhere or makes the read too long.
    pub(super) fn extend(&mut self, slot: Slot, bytes_max: usize) -> bool {
        let last = self.last_slot();
        let fits = slot.segment() == last.segment()
            && slot.offset() <= last.end() + GAP_BYTES_MAX
            && slot.end() - self.slots[0].offset() <= bytes_max as u64;
        if fits {
            assert!(slot.offset() >= last.end());
            self.slots.push(slot);
        }
        fits
    }

    pub(super) fn op(&self) -> DiskOp {
        let offset = self.slots[0].offset();
        let len = usize::try_from(self.last_slot().end() - offset).expect("bounded by a segment");
        DiskOp::Read { file: self.file(), offset, len }
    }

    /// Which file the entries are in.
    #[must_use]
    pub fn file(&self) -> FileName {
        FileName::Segment(self.slots[0].segment())
    }

    /// The first index asked for.
    #[must_use]
    pub fn first(&self) -> LogIndex {
        self.first
    }

    /// The index after the last that is asked for.
    #[must_use]
    pub fn end(&self) -> LogIndex {
        LogIndex(self.first.0 + self.slots.len() as u64)
    }

    /// The records in the job's result, in order, sharing its memory.
    ///
    /// # Errors
    /// [`StorageError::Unreadable`] if the bytes are not those records.
    pub fn decode(&self, seed: ChecksumSeed, reads: &[Bytes]) -> Result<Vec<Record>, StorageError> {
        let start = self.slots[0].offset();
        let mut records = Vec::with_capacity(self.slots.len());
        let mut index = self.first;
        for slot in &self.slots {
            let unreadable =
                StorageError::Unreadable { index, file: self.file(), offset: slot.offset() };
            let from = usize::try_from(slot.offset() - start).expect("bounded by a segment");
            let bytes = match reads {
                [read] if read.len() >= from + slot.len() => read.slice(from..from + slot.len()),
                _ => return Err(unreadable),
            };
            let mut rest = bytes;
            match Record::take(seed, &mut rest) {
                Ok(record) if record.index() == index && rest.is_empty() => records.push(record),
                Ok(_) | Err(_) => return Err(unreadable),
            }
            index = index.next();
        }
        Ok(records)
    }
}
