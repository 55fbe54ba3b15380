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
pub(super) const GAP_BYTES_MAX: u64 = 4_096;

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
            // An archived entry may lie before those that precede it.
            && slot.offset() >= last.end()
            && slot.offset() <= last.end() + GAP_BYTES_MAX
            && slot.end() - self.slots[0].offset() <= bytes_max as u64;
        if fits {
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

    /// Where an entry that is asked for lies.
    pub(super) fn slot(&self, index: LogIndex) -> Option<Slot> {
        let at = index.0.checked_sub(self.first.0)?;
        self.slots.get(usize::try_from(at).ok()?).copied()
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
        let (records, unreadable) = self.decode_whole(seed, reads);
        match unreadable.and_then(|index| Some((index, self.slot(index)?.offset()))) {
            Some((index, offset)) => {
                Err(StorageError::Unreadable { index, file: self.file(), offset })
            }
            None => Ok(records),
        }
    }

    /// The same up to the first record that is not whole, and which entry that is.
    #[must_use]
    pub fn decode_whole(
        &self,
        seed: ChecksumSeed,
        reads: &[Bytes],
    ) -> (Vec<Record>, Option<LogIndex>) {
        let start = self.slots[0].offset();
        let read = reads.first().cloned().unwrap_or_default();
        let mut records = Vec::with_capacity(self.slots.len());
        let mut index = self.first;
        for slot in &self.slots {
            match record_at(seed, &read, start, index, *slot) {
                Some(record) => records.push(record),
                None => return (records, Some(index)),
            }
            index = index.next();
        }
        (records, None)
    }
}

/// The record of entry `index`, if it is whole in `slot` of a segment of which `read` begins at `start`.
pub(super) fn record_at(
    seed: ChecksumSeed,
    read: &Bytes,
    start: u64,
    index: LogIndex,
    slot: Slot,
) -> Option<Record> {
    let from = usize::try_from(slot.offset() - start).expect("bounded by a segment");
    if read.len() < from + slot.len() {
        return None;
    }
    let mut rest = read.slice(from..from + slot.len());
    let record = Record::take(seed, &mut rest).ok()?;
    (record.index() == index && rest.is_empty()).then_some(record)
}
