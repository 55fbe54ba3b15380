//! Snapshots on disk: how one is written beside the log, and which are kept.
//!
//! Owns the generations and the one that is being written. Never decides when one is made. A
//! snapshot goes to a temporary file in pieces, each synced, so that no commit waits for more than
//! one of them; then it gets its name, once everything that was handed over before it is durable:
//! so the log is never shorter than a snapshot that was made from it. Two generations are kept,
//! in case the newer one rots. Next: `generation` for which one a recovery takes.

use super::IoId;
use super::disk::{DiskOp, FileName};
use super::format::{self, Owner};
use crate::ids::{LogIndex, Term};
use crate::raft::{LogPosition, Snapshot};
use alloc::collections::VecDeque;
use alloc::vec;
use alloc::vec::Vec;
use bytes::Bytes;

/// A snapshot that is durable under its name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Saved {
    /// The last entry in it.
    pub(super) index: LogIndex,
    /// The term of that entry.
    pub(super) term: Term,
    /// Where its state begins, bytes from the file's start.
    pub(super) state_offset: u64,
    /// Bytes of the state.
    pub(super) state_bytes: u64,
    /// XXH3-64 of these.
    pub(super) checksum: u64,
}

/// A snapshot that waits to be written.
#[derive(Debug)]
struct Waiting {
    snapshot: Snapshot,
    /// It becomes durable after this persist.
    after: IoId,
}

/// The snapshot that is being written.
#[derive(Debug)]
struct Writing {
    saved: Saved,
    after: IoId,
    /// What is not written yet: header and description, then the state.
    head: Bytes,
    state: Bytes,
    written: u64,
}

/// The snapshots of a log.
#[derive(Debug)]
pub(super) struct Snapshots {
    piece_bytes_max: usize,
    /// Oldest first; at most two.
    saved: Vec<Saved>,
    /// Other files, which go with the next generation: damaged ones, and such as a crash kept.
    others: Vec<LogIndex>,
    waiting: VecDeque<Waiting>,
    writing: Option<Writing>,
}

impl Snapshots {
    pub(super) fn new(piece_bytes_max: usize, saved: Option<Saved>, others: Vec<LogIndex>) -> Self {
        Self {
            piece_bytes_max: piece_bytes_max.max(1),
            saved: saved.into_iter().collect(),
            others,
            waiting: VecDeque::new(),
            writing: None,
        }
    }

    /// Queues a snapshot, to become durable after the persist `after`. It takes the place of one that
    /// waits, unless somebody counts on that one.
    pub(super) fn save(
        &mut self,
        snapshot: Snapshot,
        after: IoId,
        is_counted_on: impl Fn(LogIndex) -> bool,
    ) {
        let meta = &snapshot.meta;
        assert_eq!(meta.bytes, snapshot.bytes.len() as u64, "a snapshot is handed over whole");
        assert!(Some(meta.last.index) >= self.newest(), "snapshots come in order");
        if self.waiting.back().is_some_and(|last| !is_counted_on(last.snapshot.meta.last.index)) {
            self.waiting.pop_back();
        }
        self.waiting.push_back(Waiting { snapshot, after });
    }

    /// The newest that was handed over, durable or not.
    fn newest(&self) -> Option<LogIndex> {
        let waiting = self.waiting.back().map(|waiting| waiting.snapshot.meta.last.index);
        let writing = self.writing.as_ref().map(|writing| writing.saved.index);
        waiting.or(writing).or(self.saved.last().map(|saved| saved.index))
    }

    /// Whether this one is durable or will be.
    pub(super) fn is_known(&self, index: LogIndex) -> bool {
        let is_waiting = |waiting: &Waiting| waiting.snapshot.meta.last.index == index;
        self.is_saved(index)
            || self.writing.as_ref().is_some_and(|writing| writing.saved.index == index)
            || self.waiting.iter().any(is_waiting)
    }

    /// Whether this one is durable.
    pub(super) fn is_saved(&self, index: LogIndex) -> bool {
        self.saved.iter().any(|saved| saved.index == index)
    }

    /// The place of the last entry in a durable one.
    pub(super) fn position(&self, index: LogIndex) -> Option<LogPosition> {
        let saved = self.saved.iter().find(|saved| saved.index == index)?;
        Some(LogPosition { term: saved.term, index })
    }

    /// The last entry that even the older of the snapshots stands for.
    pub(super) fn covered(&self) -> LogIndex {
        self.saved.first().map_or(LogIndex::ZERO, |saved| saved.index)
    }

    /// The last entry in the newest snapshot that is durable.
    pub(super) fn newest_saved(&self) -> LogIndex {
        self.saved.last().map_or(LogIndex::ZERO, |saved| saved.index)
    }

    /// Adds the next piece to a job. `durable` is the last persist that will be so by then. Says which
    /// snapshot will be durable with the job.
    pub(super) fn next_piece(
        &mut self,
        owner: &Owner,
        durable: IoId,
        ops: &mut Vec<DiskOp>,
    ) -> Option<LogIndex> {
        if self.writing.is_none() {
            let waiting = self.waiting.pop_front()?;
            self.writing = Some(Writing::begin(owner, waiting));
        }
        let writing = self.writing.as_mut()?;
        writing.write_piece(self.piece_bytes_max, ops);
        if !writing.is_whole() || durable < writing.after {
            return None;
        }
        let index = writing.saved.index;
        let (from, to) = (FileName::SnapshotTemporary, FileName::Snapshot(index));
        ops.push(DiskOp::Rename { from, to });
        ops.push(DiskOp::SyncDirectory);
        self.delete_outdated(index, ops);
        Some(index)
    }

    /// Deletes all but the newest and the one that is about to be it. Should one come back with a
    /// power failure, it does no harm and goes with the next generation.
    fn delete_outdated(&mut self, newest: LogIndex, ops: &mut Vec<DiskOp>) {
        // The same one again replaces its own file.
        self.saved.retain(|saved| saved.index != newest);
        let kept = self.saved.len().saturating_sub(1);
        self.others.extend(self.saved.drain(..kept).map(|saved| saved.index));
        for index in self.others.drain(..).filter(|index| *index != newest) {
            ops.push(DiskOp::Delete { file: FileName::Snapshot(index) });
        }
    }

    /// The job that [`next_piece`](Self::next_piece) said would make a snapshot durable is done.
    pub(super) fn saved(&mut self) {
        let writing = self.writing.take().expect("a snapshot was being written");
        self.saved.push(writing.saved);
    }

    /// The oldest durable snapshot after the one up to `index`: it, and the bytes of its state.
    pub(super) fn next_after(&self, index: LogIndex) -> Option<(LogIndex, u64)> {
        let next = self.saved.iter().find(|saved| saved.index > index)?;
        Some((next.index, next.state_bytes))
    }

    /// The checksum of a durable snapshot's state.
    pub(super) fn checksum(&self, index: LogIndex) -> Option<u64> {
        self.saved.iter().find(|saved| saved.index == index).map(|saved| saved.checksum)
    }

    /// A read of `len` bytes of a snapshot's state at `offset`, fewer at its end; none if it is gone.
    pub(super) fn read(&self, index: LogIndex, offset: u64, len: usize) -> Option<DiskOp> {
        let saved = self.saved.iter().find(|saved| saved.index == index)?;
        let offset = offset.min(saved.state_bytes);
        let rest = usize::try_from(saved.state_bytes - offset).unwrap_or(usize::MAX);
        let file = FileName::Snapshot(index);
        Some(DiskOp::Read { file, offset: saved.state_offset + offset, len: len.min(rest) })
    }

    /// Bytes of the saved ones and of what is written of the next.
    pub(super) fn bytes(&self) -> u64 {
        let saved = self.saved.iter().map(|saved| saved.state_offset + saved.state_bytes);
        saved.sum::<u64>() + self.writing.as_ref().map_or(0, |writing| writing.written)
    }

    /// Whether a snapshot is durable, or will be before anything rests on it.
    pub(super) fn has_any(&self) -> bool {
        self.newest().is_some()
    }

    pub(super) fn check_invariants(&self) {
        assert!(self.saved.len() <= 2, "two_generations_are_kept");
        assert!(self.saved.is_sorted_by(|a, b| a.index < b.index), "snapshots_in_order");
    }
}

impl Writing {
    fn begin(owner: &Owner, Waiting { snapshot, after }: Waiting) -> Self {
        let head = Bytes::from(format::encode_snapshot_head(owner, &snapshot.meta));
        let saved = Saved {
            index: snapshot.meta.last.index,
            term: snapshot.meta.last.term,
            state_offset: head.len() as u64,
            state_bytes: snapshot.meta.bytes,
            checksum: snapshot.meta.checksum,
        };
        Self { saved, after, head, state: snapshot.bytes, written: 0 }
    }

    fn is_whole(&self) -> bool {
        self.head.is_empty() && self.state.is_empty()
    }

    fn write_piece(&mut self, bytes_max: usize, ops: &mut Vec<DiskOp>) {
        if self.is_whole() {
            return;
        }
        let file = FileName::SnapshotTemporary;
        let head = self.head.split_to(self.head.len().min(bytes_max));
        let state = self.state.split_to(self.state.len().min(bytes_max - head.len()));
        let offset = self.written;
        self.written += (head.len() + state.len()) as u64;
        ops.push(DiskOp::Write { file, offset, parts: vec![head, state] });
        ops.push(DiskOp::Sync { file });
    }
}
