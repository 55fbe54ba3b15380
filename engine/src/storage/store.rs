//! The store: turns persists into flushes, one under way at a time, and reads back what is durable.
//!
//! Owns the places of the log's entries and the queue of persists; `segments` and `snapshots` are its
//! parts. Never performs an operation: jobs go out, and their ends come back in. Group commit: whatever was
//! queued while one fdatasync ran goes out with the next (Hagmann, "Reimplementing the Cedar File
//! System Using Logging and Group Commit", SOSP 1987). Next: `read` for what a read plan is.

use super::disk::{DiskOp, FileName, Job, JobId, Lane};
use super::entries::{Entries, Slot};
use super::format::{
    self, FlushHeader, Owner, Place, ResetMark, SEGMENT_HEADER_BYTES, SegmentHeader,
};
use super::read::ReadPlan;
use super::segments::Segments;
use super::snapshots::Snapshots;
use super::{IoId, Persist};
use crate::ids::LogIndex;
use crate::raft::{Reset, Snapshot};
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
/// [`persist`](Self::persist) queues a change; [`next_write`](Self::next_write) makes a job of all
/// that is queued whenever none is under way; [`write_done`](Self::write_done) tells which changes the
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
    pub(super) segments: Segments,
    pub(super) snapshots: Snapshots,
    pub(super) next_sequence: u64,
    /// The log's last index as of the last flush that was begun.
    pub(super) flushed_last_index: LogIndex,
    /// The log's last index with everything that is queued.
    pub(super) last_index: LogIndex,
    pub(super) last_io: IoId,
    pub(super) durable_io: IoId,
    pub(super) queue: VecDeque<Persist>,
    pub(super) under_way: Option<UnderWay>,
}

/// The job of the write lane that is being performed.
#[derive(Debug)]
pub(super) struct UnderWay {
    flush: Option<Flush>,
    /// The snapshot that it makes durable.
    snapshot: Option<LogIndex>,
}

impl UnderWay {
    fn is_reset(&self) -> bool {
        self.flush.as_ref().is_some_and(|flush| flush.is_reset)
    }
}

/// A flush that is being written.
#[derive(Debug)]
struct Flush {
    io: IoId,
    segment: u64,
    /// Whether the log begins anew with it.
    is_reset: bool,
    /// Of the entries that the flush leaves in the log, in order.
    slots: Vec<(LogIndex, Slot)>,
}

/// What a job of the write lane made durable.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Written {
    /// Every persist up to this one, if there was one.
    pub io: Option<IoId>,
    /// The snapshot up to this entry.
    pub snapshot: Option<LogIndex>,
}

fn records_bytes(records: &[Record]) -> u64 {
    records.iter().map(|record| record.bytes().len() as u64).sum()
}

impl Store {
    /// Queues a change. Records replace everything from the first of them on, and are not read back
    /// from then on until they are durable. A reset waits for its snapshot to be durable first.
    ///
    /// # Panics
    /// If the persist is not newer than the last, its records are not consecutive or leave a gap, or
    /// the snapshot of its reset was never handed over.
    pub fn persist(&mut self, persist: Persist) {
        assert!(persist.io > self.last_io, "persists come in the order of their ids");
        self.last_io = persist.io;
        if let Some(reset) = &persist.reset {
            assert!(self.snapshots.is_known(reset.snapshot), "the snapshot comes before the reset");
            self.entries = Entries::beginning_at(reset.base.index.next());
            self.last_index = reset.base.index;
        }
        if let Some(first) = persist.records.first() {
            assert!(first.index() >= self.entries.first(), "what was purged is never replaced");
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

    /// Queues a snapshot, which is written in pieces beside the log, and becomes durable after every
    /// persist that was queued before it. A newer one takes the place of one that was not begun,
    /// unless a queued reset names that one.
    ///
    /// # Panics
    /// If it is older than the last one, or its length is not what its description says.
    pub fn save_snapshot(&mut self, snapshot: Snapshot) {
        let queue = &self.queue;
        let is_named = |index| {
            let mut resets = queue.iter().filter_map(|persist| persist.reset.as_ref());
            resets.any(|reset| reset.snapshot == index)
        };
        self.snapshots.save(snapshot, self.last_io, is_named);
    }

    /// Entries before `first` are needed no more: they are forgotten, and so are whole segments of
    /// them. No more goes than the older of the saved snapshots stands for, and nothing before the log
    /// has reached the newer one: until then it needs the segment that it began anew with, or is to
    /// begin anew with.
    pub fn purge(&mut self, first: LogIndex) {
        let is_beginning_anew = self.queue.iter().any(|persist| persist.reset.is_some())
            || self.under_way.as_ref().is_some_and(UnderWay::is_reset);
        if is_beginning_anew || self.entries.end() <= self.snapshots.newest_saved() {
            return;
        }
        let first = first.min(self.snapshots.covered().next()).min(self.entries.end());
        self.entries.forget_before(first);
        self.segments.purge(first);
    }

    /// A job for the write lane; none if there is nothing to do, or while one is under way. It makes
    /// queued changes durable, all of them unless they exceed a whole segment; besides, it writes at
    /// most one piece of a snapshot and deletes at most one segment.
    pub fn next_write(&mut self, id: JobId) -> Option<Job> {
        if self.under_way.is_some() {
            return None;
        }
        let mut ops = Vec::new();
        let flush = self.begin_flush(&mut ops);
        let durable_io = flush.as_ref().map_or(self.durable_io, |flush| flush.io);
        let snapshot = self.snapshots.next_piece(&self.owner, durable_io, &mut ops);
        self.segments.delete_oldest(&mut ops);
        if ops.is_empty() {
            return None;
        }
        self.under_way = Some(UnderWay { flush, snapshot });
        Some(Job { id, lane: Lane::Write, ops })
    }

    /// Makes one flush of what is queued, unless nothing is or a reset still waits for its snapshot.
    fn begin_flush(&mut self, ops: &mut Vec<DiskOp>) -> Option<Flush> {
        let reset = self.queue.front()?.reset.as_deref().copied();
        if reset.is_some_and(|reset| !self.snapshots.is_saved(reset.snapshot)) {
            return None;
        }
        ops.reserve(5);
        let (persists, records_bytes) = self.persists_that_fit();
        let flush_bytes = format::flush_bytes(records_bytes);
        let is_full = self.segments.tail_bytes() > SEGMENT_HEADER_BYTES as u64
            && self.segments.tail_bytes() + flush_bytes > self.segment_bytes_max;
        if is_full || reset.is_some() {
            self.begin_segment(reset, ops);
        }
        let place = Place { segment: self.segments.last(), offset: self.segments.tail_bytes() };
        let records_max = self.queue.range(..persists).map(|persist| persist.records.len()).sum();
        let mut slots: Vec<(LogIndex, Slot)> = Vec::with_capacity(records_max);
        let mut record_count = 0;
        // And one for the header, one for the padding.
        let mut parts = Vec::with_capacity(records_max + 2);
        parts.push(Bytes::new());
        let mut offset = place.offset + format::FLUSH_HEADER_BYTES as u64;
        let mut digest = 0;
        for record in self.queue.range(..persists).flat_map(|persist| &persist.records) {
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
        let last = self.queue.drain(..persists).next_back().expect("the queue was not empty");
        let header = FlushHeader {
            records_bytes: u32::try_from(records_bytes).expect("a persist is far below 4 GiB"),
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

        self.segments.grow(flush_bytes);
        self.next_sequence += 1;
        if let Some((index, _)) = slots.last() {
            self.flushed_last_index = *index;
        }
        Some(Flush { io: last.io, segment: place.segment, is_reset: reset.is_some(), slots })
    }

    /// How many whole persists of the queue fit into one segment, at least one, and the bytes of their
    /// records. A reset begins a flush of its own.
    fn persists_that_fit(&self) -> (usize, u64) {
        let mut total = 0;
        for (count, persist) in self.queue.iter().enumerate() {
            let with_this = total + records_bytes(&persist.records);
            let fits = format::flush_bytes(with_this) + SEGMENT_HEADER_BYTES as u64
                <= self.segment_bytes_max;
            if (!fits || persist.reset.is_some()) && count > 0 {
                return (count, total);
            }
            total = with_this;
        }
        (self.queue.len(), total)
    }

    /// Closes the last segment, which the previous flush has synced, and begins another. The header
    /// is durable before the first flush is written, so a valid flush proves that there was a header.
    fn begin_segment(&mut self, reset: Option<Reset>, ops: &mut Vec<DiskOp>) {
        if let Some(reset) = reset {
            self.flushed_last_index = reset.base.index;
        }
        let header = SegmentHeader {
            cluster: self.owner.cluster,
            group: self.owner.group,
            node: self.owner.node,
            segment: self.segments.last() + 1,
            first_index: self.flushed_last_index.next(),
            first_sequence: self.next_sequence,
            reset: reset
                .map(|reset| ResetMark { snapshot: reset.snapshot, base_term: reset.base.term }),
        };
        self.segments.begin(header.first_index, header.header_bytes() as u64);
        let file = FileName::Segment(header.segment);
        ops.push(DiskOp::Write { file, offset: 0, parts: vec![Bytes::from(header.encode())] });
        ops.push(DiskOp::Sync { file });
        ops.push(DiskOp::SyncDirectory);
    }

    /// The job of the write lane has succeeded: what it carried is durable.
    ///
    /// # Panics
    /// If none is under way.
    pub fn write_done(&mut self) -> Written {
        let done = self.under_way.take().expect("a job of the write lane was under way");
        if done.snapshot.is_some() {
            self.snapshots.saved();
        }
        let io = done.flush.as_ref().map(|flush| flush.io);
        if let Some(flush) = done.flush {
            self.take_flush(flush);
        }
        Written { io, snapshot: done.snapshot }
    }

    fn take_flush(&mut self, flush: Flush) {
        self.durable_io = flush.io;
        self.segments.flushed(flush.segment);
        if flush.is_reset {
            self.segments.need_from(flush.segment);
        }
        // Whatever waits replaces entries from some index on, or all of them.
        let replaced = self.queue.iter().filter_map(|persist| match persist.reset {
            Some(_) => Some(LogIndex::ZERO),
            None => persist.records.first().map(Record::index),
        });
        let replaced_from = replaced.min();
        for (index, slot) in flush.slots {
            if replaced_from.is_none_or(|from| index < from) {
                self.entries.put(index, slot);
            }
        }
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

    /// A job for the read lane that fetches `len` bytes of a snapshot's state at `offset`, fewer at
    /// its end; `None` if that snapshot is not saved, or no more.
    #[must_use]
    pub fn plan_snapshot_read(
        &self,
        index: LogIndex,
        offset: u64,
        len: usize,
        id: JobId,
    ) -> Option<Job> {
        let op = self.snapshots.read(index, offset, len)?;
        Some(Job { id, lane: Lane::Read, ops: vec![op] })
    }

    /// Whether a file is still kept. A read that fails because its file went meanwhile is no failure
    /// of the disk.
    #[must_use]
    pub fn keeps(&self, file: FileName) -> bool {
        match file {
            FileName::Segment(number) => number >= self.segments.first(),
            FileName::Snapshot(index) => self.snapshots.is_saved(index),
            FileName::Identity | FileName::IdentityTemporary | FileName::SnapshotTemporary => true,
        }
    }

    /// The first entry that is not purged; whether it is there is another matter.
    #[must_use]
    pub fn first_index(&self) -> LogIndex {
        self.entries.first()
    }

    /// The seed of the records' checksums.
    #[must_use]
    pub fn record_seed(&self) -> ChecksumSeed {
        self.owner.record_seed()
    }

    /// Whether a job of the write lane is under way.
    #[must_use]
    pub fn is_writing(&self) -> bool {
        self.under_way.is_some()
    }

    /// Segment files.
    #[must_use]
    pub fn segments(&self) -> u64 {
        self.segments.count()
    }

    /// Bytes in all segments, with the flush under way.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.segments.bytes()
    }

    /// Checks what must always hold; cheap enough to run after every step of a test.
    ///
    /// # Panics
    /// With the name of the invariant that does not hold.
    pub fn check_invariants(&self) {
        self.segments.check_invariants();
        self.snapshots.check_invariants();
        let tail_bytes = self.segments.tail_bytes();
        assert_eq!(tail_bytes % format::FLUSH_ALIGNMENT as u64, 0, "flushes_are_aligned");
        assert!(self.entries.end() <= self.last_index.next(), "readable_entries_within_log");
        assert!(
            self.entries.first() == LogIndex(1) || self.snapshots.has_any(),
            "snapshot_stands_for_what_is_gone"
        );
        let mut next_place = None;
        for slot in self.entries.slots().rev().take(ENTRIES_CHECKED_MAX) {
            let end = (slot.segment(), slot.end());
            assert!(next_place.is_none_or(|next| end <= next), "later_entries_lie_later_on_disk");
            assert!(end <= (self.segments.last(), tail_bytes), "entries_within_written_bytes");
            assert!(slot.segment() >= self.segments.first(), "entries_in_existing_segments");
            next_place = Some((slot.segment(), slot.offset()));
        }
        let flush = self.under_way.as_ref().and_then(|job| job.flush.as_ref());
        let mut io = flush.map_or(self.durable_io, |flush| flush.io);
        for persist in &self.queue {
            assert!(persist.io > io, "persists_in_order");
            io = persist.io;
        }
    }
}
