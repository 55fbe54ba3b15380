//! The store: turns persists into flushes, one under way at a time, and reads back what is durable.
//!
//! Owns the places of the log's entries and the queue of persists; `segments` and `snapshots` are its
//! parts. Never performs an operation: jobs go out, and their ends come back in. Group commit: whatever was
//! queued while one fdatasync ran goes out with the next (Hagmann, "Reimplementing the Cedar File
//! System Using Logging and Group Commit", SOSP 1987). Next: `read` for what a read plan is.

use super::archive::Archive;
use super::clean::{Copied, Copies, Copy};
use super::disk::{DiskOp, FileName, Job, JobId, Lane};
use super::entries::{Entries, Slot};
use super::flush::{Draft, Heading};
use super::format::{
    self, EntrySpan, Owner, Place, ResetMark, SEGMENT_HEADER_BYTES, SegmentHeader,
};
use super::read::ReadPlan;
use super::scrub::Scrub;
use super::segments::Segments;
use super::snapshots::Snapshots;
use super::{HardState, IoId, Persist};
use crate::ids::{LogIndex, Term};
use crate::raft::{LogPosition, Reset, Snapshot};
use crate::record::{ChecksumSeed, Record};
use alloc::collections::VecDeque;
use alloc::vec;
use alloc::vec::Vec;
use bytes::Bytes;

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
    /// Bytes on the disk beyond twice the live ones at which segments are cleaned.
    pub(super) slack_bytes: u64,
    /// Durable entries that no queued persist replaces.
    pub(super) entries: Entries,
    /// Durable entries that the log has no place for.
    pub(super) archive: Archive,
    pub(super) copies: Copies,
    /// Whether the archive holds nothing but what can be asked for.
    pub(super) is_settled: bool,
    pub(super) scrub: Scrub,
    /// Whether the last flush has nothing that another would have to vouch for.
    pub(super) is_sealed: bool,
    pub(super) wants_seal: bool,
    /// Records that were found damaged.
    pub(super) damaged: u64,
    pub(super) segments: Segments,
    pub(super) snapshots: Snapshots,
    pub(super) next_sequence: u64,
    /// The hard state of the last flush that was begun.
    pub(super) hard_state: HardState,
    /// What that flush left at the log's end.
    pub(super) last_span: EntrySpan,
    /// The log's last index as of that flush.
    pub(super) flushed_last_index: LogIndex,
    /// That entry's term.
    pub(super) flushed_last_term: Term,
    /// What this node has vouched for, while the log does not reach it; see
    /// [`Recovered::vouched`](super::Recovered::vouched).
    pub(super) vouched: LogPosition,
    /// The commit index of the last persist.
    pub(super) commit: LogIndex,
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
    /// Its last persist, if it has any.
    io: Option<IoId>,
    segment: u64,
    /// Whether the log begins anew with it.
    is_reset: bool,
    /// Of the entries that the flush leaves in the log, in order.
    slots: Vec<(LogIndex, Slot)>,
    copied: Vec<Copied>,
}

/// What a job of the write lane made durable.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Written {
    /// Every persist up to this one, if there was one.
    pub io: Option<IoId>,
    /// The snapshot up to this entry.
    pub snapshot: Option<LogIndex>,
    /// Entries whose records other members sent, and such as were released meanwhile.
    pub archived: Vec<LogIndex>,
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
            let first = reset.base.index.next();
            let given_up = core::mem::replace(&mut self.entries, Entries::beginning_at(first));
            self.archive.take_committed(&given_up, self.commit, first);
            self.last_index = reset.base.index;
        }
        self.commit = persist.hard_state.commit;
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

    /// Whether the log is to begin anew, and what it says now may still be what counts after a crash.
    pub(super) fn is_beginning_anew(&self) -> bool {
        self.under_way.as_ref().is_some_and(UnderWay::is_reset)
            || self.queue.iter().any(|persist| persist.reset.is_some())
    }

    /// Whether the log has yet to reach its newest snapshot: until then it needs the segment that it
    /// began anew with, or is to begin anew with.
    pub(super) fn is_holding_on(&self) -> bool {
        self.is_beginning_anew() || self.entries.end() <= self.snapshots.newest_saved()
    }

    /// The copies of the flush that is being written.
    pub(super) fn copied_under_way(&mut self) -> Option<&mut Vec<Copied>> {
        Some(&mut self.under_way.as_mut()?.flush.as_mut()?.copied)
    }

    /// A job for the write lane; none if there is nothing to do, or while one is under way. It makes
    /// queued changes durable, all of them unless they exceed a whole segment; besides, it writes at
    /// most one piece of a snapshot and deletes at most one segment.
    pub fn next_write(&mut self, id: JobId) -> Option<Job> {
        if self.under_way.is_some() {
            return None;
        }
        let mut ops = Vec::new();
        // First, because on a full disk it makes the room that the rest needs.
        self.delete_oldest(&mut ops);
        let flush = self.begin_flush(&mut ops);
        let flushed_io = flush.as_ref().and_then(|flush| flush.io);
        let durable_io = flushed_io.unwrap_or(self.durable_io);
        let snapshot = self.snapshots.next_piece(&self.owner, durable_io, &mut ops);
        if ops.is_empty() {
            return None;
        }
        self.under_way = Some(UnderWay { flush, snapshot });
        Some(Job { id, lane: Lane::Write, ops })
    }

    /// Makes one flush of what is queued, if anything is. A reset waits for its snapshot, and what comes
    /// after waits with it; copies do not.
    fn begin_flush(&mut self, ops: &mut Vec<DiskOp>) -> Option<Flush> {
        let reset = self.queue.front().and_then(|persist| persist.reset.as_deref().copied());
        let is_waiting = reset.is_some_and(|reset| !self.snapshots.is_saved(reset.snapshot));
        let (persists, records_bytes) = if is_waiting { (0, 0) } else { self.persists_that_fit() };
        let copies = self.copies_that_fit(records_bytes);
        let is_seal = core::mem::take(&mut self.wants_seal);
        if persists == 0 && copies.is_empty() && !is_seal {
            return None;
        }
        ops.reserve(5);
        let reset = reset.filter(|_| !is_waiting);
        let copies_bytes: u64 = copies.iter().map(|copy| copy.record.bytes().len() as u64).sum();
        let flush_bytes = format::flush_bytes(records_bytes + copies_bytes);
        let is_full = self.segments.tail_bytes() > SEGMENT_HEADER_BYTES as u64
            && self.segments.tail_bytes() + flush_bytes > self.segment_bytes_max;
        if is_full || reset.is_some() {
            self.begin_segment(reset, ops);
        }
        let flush = self.write_flush(persists, &copies, ops);
        Some(Flush { is_reset: reset.is_some(), ..flush })
    }

    /// Writes the first persists of the queue, and copies, at the end of the last segment.
    fn write_flush(&mut self, persists: usize, copies: &[Copy], ops: &mut Vec<DiskOp>) -> Flush {
        let place = Place { segment: self.segments.last(), offset: self.segments.tail_bytes() };
        self.is_sealed = persists == 0 && copies.is_empty();
        let records_max: usize =
            self.queue.range(..persists).map(|persist| persist.records.len()).sum();
        let mut draft = Draft::at(place, records_max + copies.len());
        let mut slots: Vec<(LogIndex, Slot)> = Vec::with_capacity(records_max);
        for record in self.queue.range(..persists).flat_map(|persist| &persist.records) {
            // A later persist may replace what an earlier one of the same flush brought.
            while slots.last().is_some_and(|(index, _)| *index >= record.index()) {
                slots.pop();
            }
            slots.push((record.index(), draft.push(record)));
            self.flushed_last_term = record.term();
        }
        let mut copied = Vec::with_capacity(copies.len());
        for Copy { record, from } in copies {
            copied.push(Copied { index: record.index(), from: *from, to: draft.push(record) });
        }
        let io = self.queue.drain(..persists).next_back().map(|last| {
            self.hard_state = last.hard_state;
            last.io
        });
        if let Some((index, _)) = slots.last() {
            self.flushed_last_index = *index;
        }
        let entries = EntrySpan {
            first: slots.first().map_or(self.flushed_last_index.next(), |(index, _)| *index),
            count: u32::try_from(slots.len()).expect("a segment is below 4 GiB"),
        };
        let heading = Heading {
            sequence: self.next_sequence,
            hard_state: self.hard_state,
            archived_count: u32::try_from(copied.len()).expect("a segment is below 4 GiB"),
            entries,
            previous: self.last_span,
            vouched: self.note_vouched(),
        };
        let flush_bytes = draft.finish(&self.owner, &heading, ops);
        self.segments.grow(flush_bytes);
        self.next_sequence += 1;
        self.last_span = entries;
        Flush { io, segment: place.segment, is_reset: false, slots, copied }
    }

    /// What this node vouches for with the flush that is being written: where the log ends, or more.
    fn note_vouched(&mut self) -> LogPosition {
        let last = LogPosition { term: self.flushed_last_term, index: self.flushed_last_index };
        if last >= self.vouched {
            self.vouched = LogPosition::default();
        }
        self.vouched.max(last)
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
            self.flushed_last_term = reset.base.term;
            // The snapshot stands for entries that the log has yet to grow up to.
            let position = self.snapshots.position(reset.snapshot);
            self.vouched = self.vouched.max(position.expect("a reset waits for its snapshot"));
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

    /// Has the next job write a flush of the hard state alone, if nothing else is queued and the last
    /// flush was another. It vouches for that one: if the disk damages that one later, recovery knows
    /// that it was durable, and does not take it for torn.
    pub fn seal(&mut self) {
        self.wants_seal = !self.is_sealed;
    }

    /// Whether the last flush needs no other to vouch for it.
    #[must_use]
    pub fn is_sealed(&self) -> bool {
        self.is_sealed
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
        let io = done.flush.as_ref().and_then(|flush| flush.io);
        let archived = done.flush.map(|flush| self.take_flush(flush)).unwrap_or_default();
        Written { io, snapshot: done.snapshot, archived }
    }

    fn take_flush(&mut self, flush: Flush) -> Vec<LogIndex> {
        self.durable_io = flush.io.unwrap_or(self.durable_io);
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
        self.take_copied(&flush.copied)
    }

    /// A job for the read lane that fetches entries from `first` on, below `limit_index`, up to
    /// `bytes_max` bytes but at least one, as far as they lie close together; the plan decodes what
    /// the job brings. `None` if `first` is not durable, has a replacement that is not, or is not there:
    /// forgotten or damaged.
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
        let slot = self.slot(first)?;
        let mut plan = ReadPlan::new(first, slot);
        let mut index = first.next();
        while index < limit_index
            && self.slot(index).is_some_and(|slot| plan.extend(slot, bytes_max))
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

    /// The log's first entry; whether it is there is another matter. Earlier ones may be archived.
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

    /// Bytes in all files of the log and its snapshots, with what is being written.
    #[must_use]
    pub fn disk_bytes(&self) -> u64 {
        self.bytes() + self.snapshots.bytes()
    }

    /// Deletes all segments at once that are needed no more, for a disk that has no room. Has nothing to
    /// do with a job that is under way: nothing of what goes has been needed since before it.
    pub fn delete_all_that_may_go(&mut self, ops: &mut Vec<DiskOp>) {
        loop {
            let count = ops.len();
            self.delete_oldest(ops);
            if ops.len() == count {
                return;
            }
        }
    }

    /// Checks what must always hold; cheap enough to run after every step of a test.
    ///
    /// # Panics
    /// With the name of the invariant that does not hold.
    pub fn check_invariants(&self) {
        self.segments.check_invariants();
        self.archive.check_invariants();
        let archived_in = self.archive.first_segment().unwrap_or(self.segments.first());
        assert!(archived_in >= self.segments.first(), "archived_entries_in_existing_segments");
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
        let mut io = flush.and_then(|flush| flush.io).unwrap_or(self.durable_io);
        for persist in &self.queue {
            assert!(persist.io > io, "persists_in_order");
            io = persist.io;
        }
    }
}
