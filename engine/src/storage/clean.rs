//! What becomes of entries that the log needs no more: archived, moved out of the way, or forgotten.
//!
//! Owns the copies that wait to be written: records that other members sent, and live ones that stand
//! in the way of the oldest segment's end. Never decides what is live: the engine says so. Next:
//! `archive` for the map, `store` for the flushes that copies ride along with.
//!
//! Segments go from the front only, as in a log-structured file system whose log is a ring (Rosenblum
//! and Ousterhout, "The Design and Implementation of a Log-Structured File System", SOSP 1991). A live
//! record is read, verified, and written again at the log's end; the old place counts until the new one
//! is durable. Both hold the same bytes, so a crash in between does no harm.

use super::disk::{DiskOp, FileName, Job, JobId, Lane};
use super::entries::Slot;
use super::format;
use super::read::{GAP_BYTES_MAX, ReadPlan, record_at};
use super::store::Store;
use crate::ids::LogIndex;
use crate::record::Record;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use bytes::Bytes;

/// A flush takes along as many bytes of moved records as it has of its own, and at least so many, so
/// that cleaning goes on when there is nothing else to do.
const MOVED_BYTES_MIN: u64 = 64 * 1024;
/// The same of records that make good for lost ones.
const REPAIRED_BYTES_MIN: u64 = 1024 * 1024;
/// Bytes of live records that one read for cleaning fetches; no other is begun while as many wait.
const READ_BYTES_MAX: u64 = 1024 * 1024;
/// Separate places that one read for cleaning fetches.
const READ_OPS_MAX: usize = 64;

/// A record that is to be written again.
#[derive(Debug)]
pub(super) struct Copy {
    pub(super) record: Record,
    /// Where the archive has it now; none if another member sent it.
    pub(super) from: Option<Slot>,
}

/// A copy that is being written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Copied {
    pub(super) index: LogIndex,
    pub(super) from: Option<Slot>,
    pub(super) to: Slot,
}

/// The copies that wait, and how far the oldest segment has been read for more.
#[derive(Debug, Default)]
pub(super) struct Copies {
    repairs: VecDeque<Record>,
    moves: VecDeque<(Record, Slot)>,
    moves_bytes: u64,
    /// Repairs that were given up: reported with those that were written.
    forgotten: Vec<LogIndex>,
    is_reading: bool,
    /// The segment that is being cleaned, and up to where its entries have been read.
    segment: u64,
    next: LogIndex,
}

impl Copies {
    fn next(&mut self) -> Option<Copy> {
        if let Some(record) = self.repairs.pop_front() {
            return Some(Copy { record, from: None });
        }
        let (record, from) = self.moves.pop_front()?;
        self.moves_bytes -= record.bytes().len() as u64;
        Some(Copy { record, from: Some(from) })
    }

    fn peek(&self) -> Option<(&Record, Option<Slot>)> {
        let repair = self.repairs.front().map(|record| (record, None));
        repair.or_else(|| self.moves.front().map(|(record, from)| (record, Some(*from))))
    }
}

/// Live records of the oldest segment that a job reads.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CleaningPlan {
    segment: u64,
    reads: Vec<CleaningRead>,
    entries: Vec<(LogIndex, Slot)>,
}

/// One read, and how many entries it brings.
#[derive(Clone, PartialEq, Eq, Debug)]
struct CleaningRead {
    offset: u64,
    end: u64,
    entries: usize,
}

impl CleaningPlan {
    /// Entries that lie close together are read at once. Takes as many as one job may.
    fn of(segment: u64, entries: Vec<(LogIndex, Slot)>) -> Self {
        let mut plan = Self { segment, reads: Vec::new(), entries };
        let mut bytes = 0;
        for at in 0..plan.entries.len() {
            let (_, slot) = plan.entries[at];
            match plan.reads.last_mut() {
                Some(last)
                    if slot.offset() >= last.end && slot.offset() - last.end <= GAP_BYTES_MAX =>
                {
                    bytes += slot.end() - last.end;
                    last.end = slot.end();
                    last.entries += 1;
                }
                Some(_) | None => {
                    if plan.reads.len() == READ_OPS_MAX || bytes > READ_BYTES_MAX {
                        plan.entries.truncate(at);
                        break;
                    }
                    bytes += slot.len() as u64;
                    let (offset, end) = (slot.offset(), slot.end());
                    plan.reads.push(CleaningRead { offset, end, entries: 1 });
                }
            }
        }
        plan
    }

    fn ops(&self) -> Vec<DiskOp> {
        let file = self.file();
        let op = |read: &CleaningRead| {
            let len = usize::try_from(read.end - read.offset).expect("bounded by a segment");
            DiskOp::Read { file, offset: read.offset, len }
        };
        self.reads.iter().map(op).collect()
    }

    /// Which file the records are in.
    #[must_use]
    pub fn file(&self) -> FileName {
        FileName::Segment(self.segment)
    }
}

impl Store {
    /// Entries before `first` are no part of the log any more. Of those that fall behind it only `keep`,
    /// in rising order, are archived and can still be read; `release`, in order too, leave the archive.
    ///
    /// No more falls behind than the older of the saved snapshots stands for, and nothing before the log
    /// has reached the newer one: until then it needs the segment that it began anew with, or is to
    /// begin anew with. What stays for that reason is to be named again.
    ///
    /// # Panics
    /// If either is not in order.
    pub fn purge(&mut self, first: LogIndex, keep: &[LogIndex], release: &[LogIndex]) {
        assert!(keep.is_sorted(), "entries to keep come in order");
        assert!(release.is_sorted(), "entries to release come in order");
        for index in release {
            self.archive.remove(*index);
        }
        self.forget_repairs(|index| release.binary_search(&index).is_ok());
        if self.is_holding_on() {
            return;
        }
        let log_first = self.entries.first();
        let first = first.min(self.snapshots.covered().next()).min(self.entries.end());
        for index in keep.iter().copied().filter(|index| (log_first..first).contains(index)) {
            if let Some(slot) = self.entries.slot(index) {
                self.archive.insert(index, slot);
            }
        }
        // A copy that made good for a damaged entry stays only if the entry does.
        self.archive.retain(log_first, first, |index| keep.binary_search(&index).is_ok());
        self.entries.forget_before(first);
        self.segments.purge(self.entries.first());
    }

    /// Tells the entries that can still be asked for, in rising order and at least all before the log's
    /// first: after the store was opened, and after the persist with which the log begins anew. Others
    /// leave the archive. Returns those that are not there, and those of the log that are damaged, in order.
    /// Nothing is cleaned before this.
    ///
    /// # Panics
    /// If they are not in order.
    pub fn settle(&mut self, live: &[LogIndex]) -> Vec<LogIndex> {
        assert!(live.is_sorted(), "live entries come in order");
        self.is_settled = true;
        let log_first = self.entries.first();
        let (live, _) = live.split_at(live.partition_point(|index| *index < log_first));
        let mut rest = live.iter().copied().peekable();
        self.archive.retain(LogIndex::ZERO, log_first, |index| {
            while rest.next_if(|live| *live < index).is_some() {}
            rest.peek() == Some(&index)
        });
        self.forget_repairs(|index| index < log_first && live.binary_search(&index).is_err());
        if !self.is_holding_on() {
            self.segments.purge(log_first);
        }
        let mut missing: Vec<LogIndex> =
            live.iter().copied().filter(|index| self.slot(*index).is_none()).collect();
        missing.extend(self.entries.holes().filter(|index| self.slot(*index).is_none()));
        missing
    }

    /// Queues records of committed entries that are not there, before the log's first or damaged. A later
    /// [`Written`](super::Written) names each, once it is durable or was released.
    pub fn archive(&mut self, records: Vec<Record>) {
        self.copies.repairs.extend(records);
    }

    /// An entry cannot be read back: from now on it is not there.
    pub fn mark_damaged(&mut self, index: LogIndex) {
        let is_in_log = self.entries.slot(index).is_some();
        if is_in_log {
            self.entries.lose(index);
        }
        if is_in_log || self.archive.remove(index).is_some() {
            self.damaged += 1;
        }
    }

    /// Marks an entry that a plan's read did not bring, unless it lies elsewhere by now. Whether it is
    /// not there.
    pub fn mark_unreadable(&mut self, plan: &ReadPlan, index: LogIndex) -> bool {
        if self.slot(index).is_some() && self.slot(index) == plan.slot(index) {
            self.mark_damaged(index);
        }
        self.slot(index).is_none()
    }

    /// Records that were found damaged since the store was opened.
    #[must_use]
    pub fn damaged(&self) -> u64 {
        self.damaged
    }

    /// How many entries are archived.
    #[must_use]
    pub fn archived_entries(&self) -> u64 {
        self.archive.len()
    }

    /// Archived entries, in order.
    pub fn archived(&self) -> impl Iterator<Item = LogIndex> + '_ {
        self.archive.iter().map(|(index, _)| index)
    }

    /// Bytes of the records that can still be asked for: those of the log, and archived ones.
    #[must_use]
    pub fn live_bytes(&self) -> u64 {
        self.entries.bytes() + self.archive.bytes()
    }

    /// Where an entry lies, if it is durable and not replaced.
    pub(super) fn slot(&self, index: LogIndex) -> Option<Slot> {
        if index >= self.entries.end() {
            return None;
        }
        self.entries.slot(index).or_else(|| self.archive.slot(index))
    }

    /// Forgets records that other members sent and nobody wants any more.
    fn forget_repairs(&mut self, is_gone: impl Fn(LogIndex) -> bool) {
        let mut forgotten = core::mem::take(&mut self.copies.forgotten);
        self.copies.repairs.retain(|record| {
            let stays = !is_gone(record.index());
            if !stays {
                forgotten.push(record.index());
            }
            stays
        });
        if let Some(copied) = self.copied_under_way() {
            let gone = copied.extract_if(.., |copy| copy.from.is_none() && is_gone(copy.index));
            forgotten.extend(gone.map(|copy| copy.index));
        }
        self.copies.forgotten = forgotten;
    }

    /// Copies for a flush that has `records_bytes` of its own: about as many again.
    pub(super) fn copies_that_fit(&mut self, records_bytes: u64) -> Vec<Copy> {
        let mut copies = Vec::new();
        let own_bytes = format::RESET_HEADER_BYTES as u64
            + format::flush_bytes(records_bytes)
            + format::FLUSH_ALIGNMENT as u64;
        let room = self.segment_bytes_max.saturating_sub(own_bytes);
        let mut bytes = 0;
        while let Some((record, from)) = self.copies.peek() {
            let bytes_min = from.map_or(REPAIRED_BYTES_MIN, |_| MOVED_BYTES_MIN);
            let with_this = bytes + record.bytes().len() as u64;
            let is_first = bytes == 0 && (records_bytes == 0 || with_this <= room);
            if !is_first && with_this > room.min(records_bytes.max(bytes_min)) {
                break;
            }
            let is_wanted = from.is_none() || self.archive.slot(record.index()) == from;
            let copy = self.copies.next().expect("one was seen");
            if is_wanted {
                bytes = with_this;
                copies.push(copy);
            }
        }
        copies
    }

    /// Copies are durable. Returns the entries that other members sent.
    pub(super) fn take_copied(&mut self, copied: &[Copied]) -> Vec<LogIndex> {
        let mut archived = core::mem::take(&mut self.copies.forgotten);
        for copy in copied {
            match copy.from {
                // It may have been released or found damaged meanwhile.
                Some(from) if self.archive.slot(copy.index) == Some(from) => {
                    self.archive.insert(copy.index, copy.to);
                }
                Some(_) => {}
                None => {
                    if self.slot(copy.index).is_none() {
                        self.archive.insert(copy.index, copy.to);
                    }
                    archived.push(copy.index);
                }
            }
        }
        archived
    }

    /// Deletes the oldest segment if nothing in it is needed.
    pub(super) fn delete_oldest(&mut self, ops: &mut Vec<DiskOp>) {
        let oldest = self.segments.first();
        if self.segments.may_go(oldest)
            && self.archive.first_segment() != Some(oldest)
            && !self.is_beginning_anew()
        {
            self.segments.delete_oldest(ops);
        }
    }

    /// Whether there is more on the disk than there should be.
    fn is_too_large(&self) -> bool {
        self.bytes() > 2 * self.live_bytes() + self.slack_bytes
    }

    /// A job for the read lane that fetches live records of the oldest segment, so that they can be
    /// written elsewhere; none while that is not worth it, cannot be, or was begun already.
    /// [`take_cleaned`](Self::take_cleaned) must follow.
    pub fn plan_cleaning(&mut self, id: JobId) -> Option<(Job, CleaningPlan)> {
        let segment = self.segments.first();
        if self.copies.is_reading
            || self.copies.moves_bytes >= READ_BYTES_MAX
            || !self.is_too_large()
            || !self.is_settled
            || !self.segments.may_go(segment)
            || self.archive.first_segment() != Some(segment)
            || self.is_beginning_anew()
        {
            return None;
        }
        if self.copies.segment != segment {
            self.copies.segment = segment;
            self.copies.next = LogIndex::ZERO;
        }
        let mut found = self.archive.in_segment(segment, self.copies.next, READ_BYTES_MAX);
        if found.is_empty() && self.copies.moves.is_empty() && self.under_way.is_none() {
            // What was read has left, so that what is there was archived behind it.
            found = self.archive.in_segment(segment, LogIndex::ZERO, READ_BYTES_MAX);
        }
        let plan = CleaningPlan::of(segment, found);
        let (last, _) = plan.entries.last()?;
        self.copies.next = last.next();
        self.copies.is_reading = true;
        Some((Job { id, lane: Lane::Read, ops: plan.ops() }, plan))
    }

    /// The job of [`plan_cleaning`](Self::plan_cleaning) is done; nothing was read if the file was gone.
    /// Queues what it brought, and returns the entries that it found damaged: they are not there from
    /// now on.
    pub fn take_cleaned(&mut self, plan: &CleaningPlan, reads: &[Bytes]) -> Vec<LogIndex> {
        self.copies.is_reading = false;
        let mut damaged = Vec::new();
        if reads.is_empty() {
            return damaged;
        }
        let mut entries = plan.entries.iter().copied();
        for (at, read) in plan.reads.iter().enumerate() {
            let bytes = reads.get(at).cloned().unwrap_or_default();
            for (index, slot) in entries.by_ref().take(read.entries) {
                if self.archive.slot(index) != Some(slot) {
                    continue;
                }
                match record_at(self.record_seed(), &bytes, read.offset, index, slot) {
                    Some(record) => {
                        self.copies.moves_bytes += slot.len() as u64;
                        self.copies.moves.push_back((record, slot));
                    }
                    None => {
                        self.mark_damaged(index);
                        damaged.push(index);
                    }
                }
            }
        }
        damaged
    }
}
