//! Looking at what is kept, before it is asked for: bytes that decay unseen are found while other
//! members still have them.
//!
//! Owns where the look has come to: the entries in the order of their indices, then the snapshots. Never
//! repairs: a damaged record is not there any more, and the engine gets it elsewhere. Whatever is not
//! needed any more is not looked at. (Schwarz et al., "Disk Scrubbing in Large Archival Storage
//! Systems", MASCOTS 2004.) Next: `replica`, which sets the pace.

use super::disk::{FileName, Job, JobId, Lane};
use super::read::ReadPlan;
use super::store::Store;
use crate::ids::LogIndex;
use crate::limits::SCRUB_PIECE_BYTES;
use alloc::boxed::Box;
use alloc::vec;
use bytes::Bytes;
use core::fmt;
use xxhash_rust::xxh3::Xxh3;

/// How far the look has come.
#[derive(Default)]
pub(super) struct Scrub {
    /// The next entry; after the last one the snapshots come.
    next: LogIndex,
    /// The snapshot that is being read, or was read last in this round; 0 if none was.
    snapshot: LogIndex,
    /// Bytes of it that have been read, and their checksum so far.
    read: u64,
    digest: Option<Box<Xxh3>>,
}

impl fmt::Debug for Scrub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { next, snapshot, read, digest: _ } = self;
        f.debug_tuple("Scrub").field(next).field(snapshot).field(read).finish()
    }
}

/// What a job reads again.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ScrubPlan {
    /// Records.
    Entries(ReadPlan),
    /// A piece of the state of a snapshot up to this entry.
    Snapshot {
        /// Which.
        index: LogIndex,
        /// Bytes from the beginning of its state.
        offset: u64,
        /// Bytes of the piece.
        len: u64,
    },
}

impl ScrubPlan {
    /// Which file is read.
    #[must_use]
    pub fn file(&self) -> FileName {
        match self {
            Self::Entries(plan) => plan.file(),
            Self::Snapshot { index, .. } => FileName::Snapshot(*index),
        }
    }
}

/// What a look has found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scrubbed {
    /// Nothing wrong.
    Whole,
    /// This entry's record is damaged: from now on it is not there.
    Record(LogIndex),
    /// The snapshot up to this entry is damaged.
    Snapshot(LogIndex),
}

impl Store {
    /// A job for the read lane that reads the next piece again; none if there is nothing.
    /// [`take_scrubbed`](Self::take_scrubbed) must follow.
    pub fn plan_scrub(&mut self, id: JobId) -> Option<(Job, ScrubPlan)> {
        let limit = LogIndex(u64::MAX);
        if let Some(first) = self.next_kept(self.scrub.next) {
            let (job, plan) = self.plan_read(first, limit, SCRUB_PIECE_BYTES, id)?;
            self.scrub.next = plan.end();
            return Some((job, ScrubPlan::Entries(plan)));
        }
        let (index, bytes) = match &self.scrub.digest {
            Some(_) => self.snapshots.next_after(self.scrub.snapshot.previous())?,
            None => match self.snapshots.next_after(self.scrub.snapshot) {
                Some(next) => next,
                None => {
                    // The next round begins.
                    self.scrub = Scrub::default();
                    return None;
                }
            },
        };
        if self.scrub.digest.is_none() || index != self.scrub.snapshot {
            self.scrub.snapshot = index;
            self.scrub.read = 0;
            self.scrub.digest = Some(Box::new(Xxh3::new()));
        }
        let offset = self.scrub.read;
        let len = (bytes - offset).min(SCRUB_PIECE_BYTES as u64);
        let op = self.snapshots.read(index, offset, SCRUB_PIECE_BYTES)?;
        let job = Job { id, lane: Lane::Read, ops: vec![op] };
        Some((job, ScrubPlan::Snapshot { index, offset, len }))
    }

    /// The first entry from `index` on that is kept.
    fn next_kept(&self, index: LogIndex) -> Option<LogIndex> {
        let mut in_log = (index.max(self.entries.first()).0..self.entries.end().0).map(LogIndex);
        let in_log = in_log.find(|index| self.slot(*index).is_some());
        let archived = self.archive.next_from(index);
        [in_log, archived].into_iter().flatten().min()
    }

    /// The job of [`plan_scrub`](Self::plan_scrub) is done; nothing was read if the file was gone.
    pub fn take_scrubbed(&mut self, plan: &ScrubPlan, reads: &[Bytes]) -> Scrubbed {
        match plan {
            ScrubPlan::Entries(_) if reads.is_empty() => Scrubbed::Whole,
            ScrubPlan::Entries(plan) => {
                let (_, unreadable) = plan.decode_whole(self.record_seed(), reads);
                let Some(index) = unreadable else { return Scrubbed::Whole };
                // What lies behind it has not been looked at.
                self.scrub.next = self.scrub.next.min(index.next());
                // It may have been let go of meanwhile.
                let is_news = self.slot(index).is_some() && self.mark_unreadable(plan, index);
                if is_news { Scrubbed::Record(index) } else { Scrubbed::Whole }
            }
            ScrubPlan::Snapshot { index, offset, len } => {
                let piece = reads.first().cloned().unwrap_or_default();
                self.take_piece(*index, *offset, *len, &piece)
            }
        }
    }

    fn take_piece(&mut self, index: LogIndex, offset: u64, len: u64, piece: &Bytes) -> Scrubbed {
        let state_bytes = self.snapshots.next_after(index.previous());
        let Some((_, state_bytes)) = state_bytes.filter(|(found, _)| *found == index) else {
            // A newer one has taken its place meanwhile.
            self.scrub.digest = None;
            return Scrubbed::Whole;
        };
        let Some(digest) = &mut self.scrub.digest else { return Scrubbed::Whole };
        digest.update(piece);
        self.scrub.read = offset + len;
        let is_short = (piece.len() as u64) < len;
        if self.scrub.read < state_bytes && !is_short {
            return Scrubbed::Whole;
        }
        let is_whole = !is_short && self.snapshots.checksum(index) == Some(digest.digest());
        self.scrub.digest = None;
        if is_whole { Scrubbed::Whole } else { Scrubbed::Snapshot(index) }
    }
}
