//! What stands for the log's beginning once that is gone (§7).
//!
//! Owns the description of a snapshot; its bytes mean nothing to Raft. The log is the store, so the
//! log may go on from *before* the last entry of the snapshot: entries that bodies are still read
//! from are kept, and a follower gets them as entries.
//!
//! ```text
//!                base                 last
//!  ---------------|--------------------|------------------>  log
//!     gone        |  kept for bodies   |  to be applied
//!  <------- in the snapshot's state -->|
//! ```
//!
//! Next: `follower` for how one is installed, `leader` for how one is sent.

use super::membership::Membership;
use super::message::LogPosition;
use crate::hlc::Hlc;
use crate::ids::{LogIndex, Term};
use alloc::vec::Vec;
use bincode::{Decode, Encode};
use bytes::Bytes;

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
