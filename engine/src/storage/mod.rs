//! The log store: segments of flushes of records in a directory of files, without doing any IO itself.
//!
//! Owns what is durable: the log, Raft's hard state and the directory's identity. Never performs an
//! operation: a [`Store`] makes jobs of a few disk operations, a driver performs them on a
//! [`disk::Disk`] and reports back; only making and opening a directory block.
//!
//! ```text
//!  persist -> queue -> next_write -> job -> (disk) -> write_done -> votes, acknowledgements, replies
//! ```
//!
//! The log is only ever appended to. A record whose index is not above the last one replaces
//! everything from there on, so Raft's truncation costs no operation (Raft §5.3). The hard state
//! stands in every flush, atomically with the entries it belongs to. Opening a log tells a torn tail,
//! which is cut, from a hole in what was durable, which is refused.
//!
//! A snapshot is a file of its own; one that came from a leader begins the log anew, with a segment that
//! says so (§7). Entries that a snapshot stands for leave the log; those that can still be asked for are
//! archived. Segments go from the front, once what is live in them has been written again at the end.
//!
//! Next: [`format`] for the bytes, `store` for group commit, `clean` for what outlives the log, [`scan`]
//! for the recovery scan, `generation` for which snapshot a recovery takes.

mod archive;
mod clean;
mod copy;
pub mod disk;
mod entries;
mod error;
mod flush;
pub mod format;
mod generation;
mod identity;
mod inspect;
mod read;
mod recovery;
mod replay;
mod rescue;
mod restore;
pub mod scan;
mod scrub;
mod segments;
mod snapshots;
mod store;

pub use clean::CleaningPlan;
pub use error::{Damage, Damaged, SnapshotDamage, StorageError, Whose};
pub use identity::{FoundersError, Identity};
pub use inspect::{Inspection, SegmentFindings, SnapshotFindings, Start};
pub use read::ReadPlan;
pub use rescue::{Findings, Rescue, RescueError};
pub use restore::{RestoreFileError, restore, restored_node};
pub use scrub::{ScrubPlan, Scrubbed};
pub use store::{Store, Written};

use crate::hlc::Hlc;
use crate::ids::{LogIndex, NodeId, Term};
use crate::raft::{LogPosition, Membership, Reset, Snapshot};
use crate::record::Record;
use alloc::boxed::Box;
use alloc::vec::Vec;

/// What Raft must remember besides the log (Figure 2, "persistent state").
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub struct HardState {
    /// The latest term seen.
    pub term: Term,
    /// Whom this node voted for in it.
    pub voted_for: Option<NodeId>,
    /// An index known to be committed: no promise, only a head start after a restart.
    pub commit: LogIndex,
}

/// Names a [`Persist`], in the order in which they were issued.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct IoId(pub u64);

/// One atomic change of what is durable: the hard state, and records that replace everything from
/// the first of them on. Whole persists become durable in the order of their ids.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Persist {
    /// Its name.
    pub io: IoId,
    /// The hard state from here on.
    pub hard_state: HardState,
    /// Forget the whole log before the records are taken; a snapshot stands for it (§7).
    pub reset: Option<Box<Reset>>,
    /// Consecutive records; the first follows an entry that is there and may replace later ones.
    pub records: Vec<Record>,
}

/// What a log held when it was opened; the default is that of an empty one.
#[derive(Clone, PartialEq, Eq, Hash, Default, Debug)]
pub struct Recovered {
    /// The last durable hard state.
    pub hard_state: HardState,
    /// The newest snapshot that is whole and that the log goes on from.
    pub snapshot: Option<Snapshot>,
    /// The log's first entry is the one after this.
    pub base: LogPosition,
    /// First index of each run of entries of one term, in order, from the one that `base` is in; empty
    /// for an empty log without a base.
    pub term_runs: Vec<(LogIndex, Term)>,
    /// The membership entries after `base`, in order.
    pub memberships: Vec<(LogIndex, Membership)>,
    /// Last entry; that of `base` if none.
    pub last_index: LogIndex,
    /// The greatest place that this node may have vouched for, if damage has shortened the log since;
    /// 0 if it has not. Until the log reaches it again, this node must not lead nor elect one that does
    /// not reach it.
    pub vouched: LogPosition,
    /// The last entry's stamp; 0 if there is none, or if it is before a snapshot's end and was not sent.
    pub last_stamp: Hlc,
    /// Bytes of a torn tail that were cut off, for the log.
    pub torn_bytes: u64,
    /// Damage that was found, of which nothing was cut off: in the order of the log, then snapshots. At
    /// most a thousand places.
    pub damaged: Vec<Damaged>,
}
