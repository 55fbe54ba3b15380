//! The log store: segments of flushes of records in a directory of files, without doing any IO itself.
pub mod disk;
mod identity;

pub use identity::Identity;

use crate::hlc::Hlc;
use crate::ids::{LogIndex, NodeId, Term};
use crate::record::Record;
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
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Persist {
    /// Its name.
    pub io: IoId,
    /// The hard state from here on.
    pub hard_state: HardState,
    /// Consecutive records; the first follows an entry that is there and may replace later ones.
    pub records: Vec<Record>,
}

/// What a log held when it was opened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Recovered {
    /// The last durable hard state.
    pub hard_state: HardState,
    /// First index of each run of entries of one term, in order; empty for an empty log.
    pub term_runs: Vec<(LogIndex, Term)>,
    /// Last entry; 0 if none.
    pub last_index: LogIndex,
    /// The last entry's stamp.
    pub last_stamp: Hlc,
    /// Bytes of a torn tail that were cut off, for the log.
    pub torn_bytes: u64,
}
