//! The store: turns persists into flushes, one under way at a time, and reads back what is durable.
//!
//! Owns the places of the log's entries, the queue of persists and the tail of the last segment.
//! Never performs an operation: jobs go out, and their ends come back in. Group commit: whatever was
//! queued while one fdatasync ran goes out with the next (Hagmann, "Reimplementing the Cedar File
//! System Using Logging and Group Commit", SOSP 1987). Next: `read` for what a read plan is.

use super::disk::{DiskOp, FileName, Job, JobId, Lane};
use super::entries::{Entries, Slot};
use super::format::{self, FlushHeader, Owner, Place, SEGMENT_HEADER_BYTES, SegmentHeader};
use super::read::ReadPlan;
use super::{IoId, Persist};
use crate::ids::LogIndex;
use crate::record::{ChecksumSeed, Record};
use alloc::collections::VecDeque;
use alloc::vec;
use alloc::vec::Vec;
use bytes::Bytes;

/// Padding is cut from this.
static ZEROS: [u8; format::FLUSH_ALIGNMENT] = [0; format::FLUSH_ALIGNMENT];
/// Entries looked at by [`Store::check_invariants`], so that it can run after every step.
const ENTRIES_CHECKED_MAX: usize = 64;

/// The log of one group on one node.
///
/// [`persist`](Self::persist) queues a change; [`next_flush`](Self::next_flush) makes a job of all
/// that is queued whenever none is under way; [`flush_done`](Self::flush_done) tells which changes the
/// job made durable. A job that fails ends the store's life: nothing may be assumed of the bytes.
///
/// An entry can be read back once it is durable. Until then, and for as long as it is wanted without
/// a disk read, whoever queued it keeps it.
#[derive(Debug)]
pub struct Store {
    pub(super) owner: Owner,
    pub(super) segment_bytes_max: u64,
    /// Durable entries that no queued persist replaces.
    pub(super) entries: Entries,
    pub(super) segment_first: u64,
    /// The segment that takes the next flush, if it fits.
    pub(super) segment_last: u64,
    /// Bytes of `segment_last`, with the flush under way.
    pub(super) tail_bytes: u64,
    /// Bytes of the segments before it.
    pub(super) closed_bytes: u64,
    pub(super) next_sequence: u64,
    /// The log's last index as of the last flush that was begun.
    pub(super) flushed_last_index: LogIndex,
    /// The log's last index with everything that is queued.
    pub(super) last_index: LogIndex,
    pub(super) last_io: IoId,
    pub(super) queue: VecDeque<Persist>,
    pub(super) under_way: Option<UnderWay>,
}

/// The flush that is being written.
#[derive(Debug)]
pub(super) struct UnderWay {
    io: IoId,
    /// Of the entries that the flush leaves in the log, in order.
    slots: Vec<(LogIndex, Slot)>,
}

fn records_bytes(records: &[Record]) -> u64 {
    records.iter().map(|record| record.bytes().len() as u64).sum()
}

impl Store {
    /// Queues a change. Records replace everything from the first of them on, and are not read back
    /// from then on until they are durable.
    ///
    /// # Panics
    /// If the persist is not newer than the last, or its records are not consecutive or leave a gap.
    pub fn persist(&mut self, persist: Persist) {
        assert!(persist.io > self.last_io, "persists come in the order of their ids");
        self.last_io = persist.io;
        if let Some(first) = persist.records.first() {
            assert!(first.index() > LogIndex::ZERO, "the first entry is 1");
            assert!(first.index() <= self.last_index.next(), "records leave no gap");
            let mut expected = first.index();
            for record in &persist.records {
                assert_eq!(record.index(), expected, "records are consecutive");
                expected = expected.next();
            }
            self.entries.truncate(first.index());
            self.last_index = expected.previous();
        }
        self.queue.push_back(persist);
    }

    /// A job for the write lane that makes queued changes durable; none if there are none, or while
    /// one is under way. It takes all that is queued, unless that exceeds a whole segment.
    pub fn next_flush(&mut self, id: JobId) -> Option<Job> {
        if self.under_way.is_some() || self.queue.is_empty() {
            return None;
        }
        let (persists, records_bytes) = self.take_persists();
        let flush_bytes = format::flush_bytes(records_bytes);
        let mut ops = Vec::with_capacity(5);
        if self.tail_bytes > SEGMENT_HEADER_BYTES as u64
            && self.tail_bytes + flush_bytes > self.segment_bytes_max
        {
            self.begin_segment(&mut ops);
        }
        let place = Place { segment: self.segment_last, offset: self.tail_bytes };
        let mut slots: Vec<(LogIndex, Slot)> = Vec::new();
        let mut record_count = 0;
        let mut parts = vec![Bytes::new()];
        let mut offset = place.offset + format::FLUSH_HEADER_BYTES as u64;
        let mut digest = 0;
        for record in persists.iter().flat_map(|persist| &persist.records) {
            let len = record.bytes().len();
            // A later persist may replace what an earlier one of the same flush brought.
            while slots.last().is_some_and(|(index, _)| *index >= record.index()) {
                slots.pop();
            }
            slots.push((record.index(), Slot::new(place.segment, offset, len)));
            record_count += 1;
            digest = format::chain_digest(digest, record);
            parts.push(record.bytes().clone());
            offset += len as u64;
        }
        let last = persists.last().expect("the queue was not empty");
        let header = FlushHeader {
            records_bytes: u32::try_from(records_bytes).expect("checked by take_persists"),
            record_count,
            sequence: self.next_sequence,
            hard_state: last.hard_state,
            record_digest: digest,
        };
        parts[0] = Bytes::copy_from_slice(&header.encode(&self.owner, place));
        let padding = place.offset + flush_bytes - offset;
        if padding > 0 {
            parts.push(Bytes::from_static(&ZEROS[..padding as usize]));
        }
        let file = FileName::Segment(place.segment);
        ops.push(DiskOp::Write { file, offset: place.offset, parts });
        ops.push(DiskOp::Sync { file });

        self.tail_bytes += flush_bytes;
        self.next_sequence += 1;
        if let Some((index, _)) = slots.last() {
            self.flushed_last_index = *index;
        }
        self.under_way = Some(UnderWay { io: last.io, slots });
        Some(Job { id, lane: Lane::Write, ops })
    }

    /// Takes whole persists off the queue, as many as fit into one segment, at least one.
    fn take_persists(&mut self) -> (Vec<Persist>, u64) {
        let mut taken = Vec::with_capacity(self.queue.len());
        let mut total = 0;
        while let Some(persist) = self.queue.front() {
            let with_this = total + records_bytes(&persist.records);
            let fits = format::flush_bytes(with_this) + SEGMENT_HEADER_BYTES as u64
                <= self.segment_bytes_max;
            if !fits && !taken.is_empty() {
                break;
            }
            total = with_this;
            taken.extend(self.queue.pop_front());
        }
        assert!(total <= u64::from(u32::MAX), "a persist is far smaller than 4 GiB");
        (taken, total)
    }

    /// Closes the last segment, which the previous flush has synced, and begins another. The header
    /// is durable before the first flush is written, so a valid flush proves that there was a header.
    fn begin_segment(&mut self, ops: &mut Vec<DiskOp>) {
        self.closed_bytes += self.tail_bytes;
        self.segment_last += 1;
        self.tail_bytes = SEGMENT_HEADER_BYTES as u64;
        let header = SegmentHeader {
            cluster: self.owner.cluster,
            group: self.owner.group,
            node: self.owner.node,
            segment: self.segment_last,
            first_index: self.flushed_last_index.next(),
            first_sequence: self.next_sequence,
        };
        let file = FileName::Segment(self.segment_last);
        let parts = vec![Bytes::copy_from_slice(&header.encode())];
        ops.push(DiskOp::Write { file, offset: 0, parts });
        ops.push(DiskOp::Sync { file });
        ops.push(DiskOp::SyncDirectory);
    }

    /// The flush's job has succeeded: every persist up to the one returned is durable.
    ///
    /// # Panics
    /// If no flush is under way.
    pub fn flush_done(&mut self) -> IoId {
        let done = self.under_way.take().expect("a job of the write lane was under way");
        let replaced = self.queue.iter().filter_map(|persist| persist.records.first());
        let replaced_from = replaced.map(Record::index).min();
        for (index, slot) in done.slots {
            if replaced_from.is_none_or(|from| index < from) {
                self.entries.put(index, slot);
            }
        }
        done.io
    }

    /// A job for the read lane that fetches entries from `first` on, below `limit_index`, up to
    /// `bytes_max` bytes but at least one, as far as they lie close together; the plan decodes what
    /// the job brings. `None` if `first` is not durable, or has a replacement that is not.
    ///
    /// A job that is under way while the log is truncated brings the old entries: whoever asked
    /// compares terms.
    #[must_use]
    pub fn plan_read(
        &self,
        first: LogIndex,
        limit_index: LogIndex,
        bytes_max: usize,
        id: JobId,
    ) -> Option<(Job, ReadPlan)> {
        if first >= limit_index {
            return None;
        }
        let slot = self.entries.slot(first)?;
        let mut plan = ReadPlan::new(first, slot);
        let mut index = first.next();
        while index < limit_index
            && self.entries.slot(index).is_some_and(|slot| plan.extend(slot, bytes_max))
        {
            index = index.next();
        }
        Some((Job { id, lane: Lane::Read, ops: vec![plan.op()] }, plan))
    }

    /// A job for the read lane that fetches one entry; see [`plan_read`](Self::plan_read).
    #[must_use]
    pub fn plan_read_one(&self, index: LogIndex, id: JobId) -> Option<(Job, ReadPlan)> {
        self.plan_read(index, index.next(), 0, id)
    }

    /// The seed of the records' checksums.
    #[must_use]
    pub fn record_seed(&self) -> ChecksumSeed {
        self.owner.record_seed()
    }

    /// Whether a flush is under way.
    #[must_use]
    pub fn is_flushing(&self) -> bool {
        self.under_way.is_some()
    }

    /// Segment files.
    #[must_use]
    pub fn segments(&self) -> u64 {
        self.segment_last - self.segment_first + 1
    }

    /// Bytes in all segments, with the flush under way.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.closed_bytes + self.tail_bytes
    }

    /// Checks what must always hold; cheap enough to run after every step of a test.
    ///
    /// # Panics
    /// With the name of the invariant that does not hold.
    pub fn check_invariants(&self) {
        assert!(self.segment_first <= self.segment_last, "segments_are_numbered_upwards");
        assert!(self.tail_bytes >= SEGMENT_HEADER_BYTES as u64, "tail_segment_has_a_header");
        assert_eq!(self.tail_bytes % format::FLUSH_ALIGNMENT as u64, 0, "flushes_are_aligned");
        assert!(self.entries.end() <= self.last_index.next(), "readable_entries_within_log");
        let mut next_place = None;
        for slot in self.entries.slots().rev().take(ENTRIES_CHECKED_MAX) {
            let end = (slot.segment(), slot.end());
            assert!(next_place.is_none_or(|next| end <= next), "later_entries_lie_later_on_disk");
            assert!(end <= (self.segment_last, self.tail_bytes), "entries_within_written_bytes");
            assert!(slot.segment() >= self.segment_first, "entries_in_existing_segments");
            next_place = Some((slot.segment(), slot.offset()));
        }
        let mut io = self.under_way.as_ref().map_or(IoId(0), |flush| flush.io);
        for persist in &self.queue {
            assert!(persist.io > io, "persists_in_order");
            io = persist.io;
        }
    }
}
