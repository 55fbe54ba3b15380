//! Why a log cannot be used, and what to do about it.
//!
//! Owns the words. Never decides: `scan` and `recovery` do. Next: `recovery`.

use super::disk::{DiskError, FileName};
use crate::ids::{ClusterId, GroupId, LogIndex, NodeId};
use crate::record::RecordError;
use alloc::boxed::Box;
use core::fmt;

/// Whose bytes these are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Whose {
    /// The cluster.
    pub cluster: ClusterId,
    /// The group.
    pub group: GroupId,
    /// The node.
    pub node: NodeId,
}

impl fmt::Display for Whose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node {} of group {} of cluster {}", self.node, self.group, self.cluster)
    }
}

/// Where something is wrong.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Damaged {
    /// The file.
    pub file: FileName,
    /// Bytes from its start.
    pub offset: u64,
    /// What is wrong there.
    pub damage: Damage,
}

impl fmt::Display for Damaged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at byte {}: {}", self.file, self.offset, self.damage)
    }
}

/// What is wrong at a place of a segment.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum Damage {
    /// The file is not there, though later ones are.
    #[error("the segment is missing")]
    MissingSegment,
    /// A snapshot is damaged, and another took its place.
    #[error("the snapshot is damaged: {0}")]
    Snapshot(SnapshotDamage),
    /// The segment's header is broken.
    #[error("the segment's header is broken")]
    SegmentHeader,
    /// The segment's header is whole but does not continue the segment before.
    #[error(
        "the segment continues at entry {index} and flush {sequence}, but the log before it ends earlier or later"
    )]
    Chain {
        /// The header's first index.
        index: LogIndex,
        /// The header's first flush.
        sequence: u64,
    },
    /// A flush's header is broken.
    #[error("the header of flush {sequence} is broken")]
    FlushHeader {
        /// The flush that was due there.
        sequence: u64,
    },
    /// A flush's header is whole, but another flush was due.
    #[error("flush {found} stands where flush {expected} was due")]
    FlushSequence {
        /// What is there.
        found: u64,
        /// What was due.
        expected: u64,
    },
    /// A flush is longer than what is left of the file.
    #[error("flush {sequence} is cut short")]
    FlushShort {
        /// The flush.
        sequence: u64,
    },
    /// A record is broken.
    #[error("a record of flush {sequence} is broken: {error}")]
    Record {
        /// The flush it is in.
        sequence: u64,
        /// What is wrong with it.
        error: RecordError,
    },
    /// The records are valid, but not those that the flush's header speaks of.
    #[error("flush {sequence} holds other records than were written")]
    Digest {
        /// The flush.
        sequence: u64,
    },
    /// The padding of a flush is not zero.
    #[error("the padding of flush {sequence} is not zero")]
    Padding {
        /// The flush.
        sequence: u64,
    },
    /// A valid record does not continue the log.
    #[error("entry {index} follows entry {last}, or its term is lower")]
    Order {
        /// The record's index.
        index: LogIndex,
        /// The last index before it.
        last: LogIndex,
    },
}

/// What is wrong with a snapshot.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum SnapshotDamage {
    /// Its header is broken.
    #[error("its header is broken")]
    Header,
    /// It is whole, but has the name of another.
    #[error("it holds the entries up to {found}: somebody renamed it")]
    Name {
        /// The last entry in it.
        found: LogIndex,
    },
    /// Its description is broken.
    #[error("its description is broken")]
    Description,
    /// It is longer or shorter than it was.
    #[error("its state has {found} bytes instead of {expected}")]
    Length {
        /// As the description says.
        expected: u64,
        /// What there is.
        found: u64,
    },
    /// The state's checksum is wrong.
    #[error("the checksum of its state is wrong")]
    State,
}

/// Why a data directory cannot be made, opened or read.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum StorageError {
    /// The disk failed.
    #[error("{0}; mend the disk, then start the node again")]
    Disk(#[from] DiskError),
    /// A directory to be initialised is in use.
    #[error(
        "the data directory already holds {file}: it belongs to a node; choose an empty directory"
    )]
    NotEmpty {
        /// What was found.
        file: FileName,
    },
    /// No identity file.
    #[error(
        "the data directory has no identity file: it was never initialised, or it is the wrong \
         directory; initialise it if the node is new, and if it ever ran before, find its directory"
    )]
    NoIdentity,
    /// The identity file does not decode.
    #[error(
        "the identity file is damaged; put it back from a backup, or let the node join anew under \
         another node id"
    )]
    IdentityDamaged,
    /// The directory is another's.
    #[error("{file} belongs to {found}, not to {expected}; start the node with its own directory")]
    Foreign {
        /// Where that stands.
        file: FileName,
        /// Whose it is.
        found: Box<Whose>,
        /// Whose it should be.
        expected: Box<Whose>,
    },
    /// Written by a newer build.
    #[error(
        "{file} has version {version} at byte {offset}, which this build does not know; start the \
         build that wrote it, or a newer one"
    )]
    UnknownVersion {
        /// The file.
        file: FileName,
        /// Bytes from its start.
        offset: u64,
        /// The version found.
        version: u8,
    },
    /// A segment is not there.
    #[error(
        "{file} is missing: the log has a hole, and the node could forget what it promised; put \
         the file back, or let the node join anew under another node id"
    )]
    MissingSegment {
        /// The file that should be there.
        file: FileName,
    },
    /// A membership entry that this build cannot read. To go on without it would be to count the
    /// wrong votes.
    #[error(
        "entry {index} in {file} is a membership that this build cannot read; start the build that \
         wrote it, or a newer one"
    )]
    UnknownMembership {
        /// The entry.
        index: LogIndex,
        /// The file.
        file: FileName,
    },
    /// The snapshot that stands for the log's beginning is damaged, and no other will do.
    #[error(
        "{file} is damaged: {damage}; the log begins after entry {base}, and no other snapshot \
         stands for what was before; put the file back from a copy, or let the node join anew under \
         another node id"
    )]
    SnapshotDamaged {
        /// The file.
        file: FileName,
        /// What is wrong.
        damage: SnapshotDamage,
        /// The last entry that is missing from the log.
        base: LogIndex,
    },
    /// No snapshot stands for the log's beginning.
    #[error(
        "the log begins after entry {base}, and no snapshot stands for what was before; put the \
         newest .snap file back, or let the node join anew under another node id"
    )]
    MissingSnapshot {
        /// The last entry that is missing from the log.
        base: LogIndex,
    },
    /// Bytes that were once durable are damaged: no torn tail, so nothing is cut.
    #[error(
        "{file} is damaged at byte {offset}: {damage}; this was durable once, so nothing was cut; \
         put the file back from a backup, or let the node join anew under another node id"
    )]
    Damaged {
        /// The file.
        file: FileName,
        /// Bytes from its start to where the damage was noticed.
        offset: u64,
        /// What is wrong.
        damage: Damage,
    },
    /// An entry that was whole at the start of the node reads back wrong now.
    #[error(
        "entry {index} cannot be read back from byte {offset} of {file}; the disk has damaged it: \
         stop the node and check the disk"
    )]
    Unreadable {
        /// The entry.
        index: LogIndex,
        /// The file.
        file: FileName,
        /// Bytes from its start.
        offset: u64,
    },
}
