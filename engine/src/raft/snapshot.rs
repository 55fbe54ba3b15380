//! What stands for the log's beginning once that is gone (§7).
//!
//! Owns the description of a snapshot; its bytes mean nothing to Raft. The log goes on from before the
//! last entry of the snapshot, from where the one before it ended: should the newest be damaged, the
//! older will do. A follower gets these entries as entries. Of what lies before, only what bodies are
//! read from is kept, beside the log; whoever lacks it pulls it (`engine::repair`).
//!
//! ```text
//!      last of the one before = base        last
//!  -----------------|------------------------|------------------>  log
//!   bodies, if any  |  to fall back on       |  to be applied
//!  <------------ in the snapshot's state --->|
//! ```
//!
//! Next: `follower` for how one is installed, `leader` for how one is sent.

use super::Raft;
use super::membership::Membership;
use super::message::LogPosition;
use crate::hlc::Hlc;
use crate::ids::{LogIndex, Term};
use alloc::vec::Vec;
use bincode::{Decode, Encode};
use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64;

/// Which state a snapshot holds, and how the log goes on.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Encode, Decode)]
pub struct SnapshotMeta {
    /// The last entry that the state has applied.
    pub last: LogPosition,
    /// That entry's stamp.
    pub stamp: Hlc,
    /// The log is needed from the entry after this one on; at or before `last`.
    pub base: LogPosition,
    /// First index of each run of entries of one term, from the one that `base` is in to `last`.
    pub term_runs: Vec<(LogIndex, Term)>,
    /// The membership at `last`, and the entry that made it (0: the founding one).
    pub membership: (LogIndex, Membership),
    /// Bytes of the state.
    pub bytes: u64,
    /// XXH3-64 of these bytes.
    pub checksum: u64,
}

impl SnapshotMeta {
    /// The term of an entry between `base` and `last`, both included.
    #[must_use]
    pub fn term_at(&self, index: LogIndex) -> Option<Term> {
        if index < self.base.index || index > self.last.index {
            return None;
        }
        let after = self.term_runs.partition_point(|(first, _)| *first <= index);
        Some(after.checked_sub(1).map_or(Term::ZERO, |run| self.term_runs[run].1))
    }

    /// The same state, for a log that goes on from `base`, if that is a later place than its own.
    pub(super) fn going_on_from(mut self, base: LogPosition) -> Self {
        if base.index > self.base.index && base.index <= self.last.index {
            let runs = self.term_runs.partition_point(|(first, _)| *first <= base.index);
            self.term_runs.drain(..runs.saturating_sub(1));
            self.base = base;
        }
        self
    }

    /// What holds of every snapshot that was made here.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.base.index <= self.last.index
            && self.last.index > LogIndex::ZERO
            && self.term_runs.is_sorted_by(|a, b| a.0 < b.0 && a.1 < b.1)
            && self.term_at(self.base.index) == Some(self.base.term)
            && self.term_at(self.last.index) == Some(self.last.term)
            && self.membership.0 <= self.last.index
            && self.membership.1.is_sound()
    }
}

/// A snapshot.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Snapshot {
    /// Which.
    pub meta: SnapshotMeta,
    /// The state: sessions and state machine, in their own encoding.
    pub bytes: Bytes,
}

/// Begins the log anew: part of a persist.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Reset {
    /// The snapshot that stands for everything up to its last entry; it was handed over for saving
    /// before, and is durable first.
    pub snapshot: LogIndex,
    /// The log is empty, and its next entry is the one after this.
    pub base: LogPosition,
}

impl Raft {
    /// A snapshot of the state that has applied everything up to `last`. The log stays from the snapshot
    /// before on, so that there is always a second one to fall back on.
    ///
    /// # Panics
    /// If `last` is not in the log.
    #[must_use]
    pub fn make_snapshot(&self, last: LogIndex, stamp: Hlc, bytes: Vec<u8>) -> Snapshot {
        let checksum = xxh3_64(&bytes);
        self.make_summed_snapshot(last, stamp, bytes, checksum)
    }

    /// [`make_snapshot`](Self::make_snapshot) of bytes whose XXH3-64 is known: to take it of gigabytes
    /// takes long.
    ///
    /// # Panics
    /// If `last` is not in the log.
    #[must_use]
    pub fn make_summed_snapshot(
        &self,
        last: LogIndex,
        stamp: Hlc,
        bytes: Vec<u8>,
        checksum: u64,
    ) -> Snapshot {
        let position = |index| {
            let term = self.log.term_at(index).expect("applied entries are in the log");
            LogPosition { term, index }
        };
        let before = self.snapshot.as_ref().map_or(self.log.base().index, |own| own.last.index);
        let base = position(before.min(last));
        let meta = SnapshotMeta {
            last: position(last),
            stamp,
            base,
            term_runs: self.log.term_runs_between(base.index, last),
            membership: self.log.memberships().at(last).clone(),
            bytes: bytes.len() as u64,
            checksum,
        };
        Snapshot { meta, bytes: Bytes::from(bytes) }
    }

    /// A snapshot of this member is durable. The log goes on from the one before; says which entry is
    /// its first now.
    pub fn on_snapshot_saved(&mut self, meta: SnapshotMeta) -> LogIndex {
        let is_newer = self.snapshot.as_ref().is_none_or(|own| own.last < meta.last);
        if is_newer {
            self.log.purge(meta.base.index.next());
            self.snapshot = Some(meta);
        }
        self.log.base().index.next()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    #[test]
    fn a_snapshot_tells_of_the_log_as_it_is_and_not_as_it_was() {
        let position = |term, index| LogPosition { term: Term(term), index: LogIndex(index) };
        let meta = SnapshotMeta {
            last: position(3, 64),
            stamp: Hlc(1),
            base: LogPosition::default(),
            term_runs: vec![
                (LogIndex(1), Term(1)),
                (LogIndex(30), Term(2)),
                (LogIndex(50), Term(3)),
            ],
            membership: (LogIndex::ZERO, Membership::default()),
            bytes: 0,
            checksum: 0,
        };
        let later = meta.clone().going_on_from(position(2, 36));
        assert_eq!(later.base, position(2, 36));
        assert_eq!(later.term_runs, [(LogIndex(30), Term(2)), (LogIndex(50), Term(3))]);
        assert_eq!(later.term_at(LogIndex(36)), Some(Term(2)));
        assert_eq!(
            later.clone().going_on_from(position(1, 5)),
            later,
            "an earlier one is gone already"
        );
        assert_eq!(meta.going_on_from(position(3, 64)).term_runs, [(LogIndex(50), Term(3))]);
    }
}
