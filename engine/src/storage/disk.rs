//! The disk port: the few operations that the store needs of a directory of files.
//!
//! The real one is files and `fdatasync`; the simulated one lies in every way a disk can. Nothing
//! else in the system touches a disk. Next: `storage` for who issues these.

use crate::ids::LogIndex;
use alloc::string::String;
use alloc::vec::Vec;
use bytes::Bytes;
use core::fmt;

/// A file of a data directory.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum FileName {
    /// `identity`: whose directory this is. Written once.
    Identity,
    /// `identity.tmp`: the identity before it is renamed into place.
    IdentityTemporary,
    /// `NNNNNNNNNNNNNNNN.seg` in hexadecimal: a segment of the log, numbered from 1.
    Segment(u64),
    /// `NNNNNNNNNNNNNNNN.snap` in hexadecimal: a snapshot, named after the last entry in it.
    Snapshot(LogIndex),
    /// `snapshot.tmp`: a snapshot before it is renamed into place.
    SnapshotTemporary,
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Identity => f.write_str("identity"),
            Self::IdentityTemporary => f.write_str("identity.tmp"),
            Self::Segment(number) => write!(f, "{number:016x}.seg"),
            Self::Snapshot(last) => write!(f, "{:016x}.snap", last.0),
            Self::SnapshotTemporary => f.write_str("snapshot.tmp"),
        }
    }
}

impl FileName {
    /// The file that is called `name`, if any is.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "identity" => Some(Self::Identity),
            "identity.tmp" => Some(Self::IdentityTemporary),
            "snapshot.tmp" => Some(Self::SnapshotTemporary),
            _ => {
                let (digits, ending) = name.split_once('.')?;
                let number = u64::from_str_radix(digits, 16).ok()?;
                let file = match ending {
                    "seg" => Self::Segment(number),
                    "snap" => Self::Snapshot(LogIndex(number)),
                    _ => return None,
                };
                (alloc::format!("{file}") == name).then_some(file)
            }
        }
    }
}

/// One operation. Operations of one [`Job`] run in order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DiskOp {
    /// Read `len` bytes at `offset`; fewer only at the end of the file.
    Read {
        /// Where from.
        file: FileName,
        /// Bytes from its start.
        offset: u64,
        /// Bytes wanted.
        len: usize,
    },
    /// Write the parts one after another at `offset`, creating the file if there is none.
    Write {
        /// Where to.
        file: FileName,
        /// Bytes from its start.
        offset: u64,
        /// What.
        parts: Vec<Bytes>,
    },
    /// Cut the file to `len` bytes.
    Truncate {
        /// Which.
        file: FileName,
        /// Bytes that stay.
        len: u64,
    },
    /// Make the file's bytes and length durable.
    Sync {
        /// Which.
        file: FileName,
    },
    /// Make the directory's entries durable: creations, renames and deletions.
    SyncDirectory,
    /// Give a file another's name, replacing it.
    Rename {
        /// The old name.
        from: FileName,
        /// The new one.
        to: FileName,
    },
    /// Remove a file; not an error if there is none.
    Delete {
        /// Which.
        file: FileName,
    },
    /// Ask how many bytes may still be written: see [`free_bytes_in`].
    Space,
}

impl DiskOp {
    /// Whether it answers with bytes.
    #[must_use]
    pub fn brings_bytes(&self) -> bool {
        match self {
            Self::Read { .. } | Self::Space => true,
            Self::Write { .. }
            | Self::Truncate { .. }
            | Self::Sync { .. }
            | Self::SyncDirectory
            | Self::Rename { .. }
            | Self::Delete { .. } => false,
        }
    }
}

/// The answer to [`DiskOp::Space`].
#[must_use]
pub fn free_bytes_answer(free_bytes: u64) -> Bytes {
    Bytes::copy_from_slice(&free_bytes.to_le_bytes())
}

/// The number of bytes in an answer to [`DiskOp::Space`], if it is one.
#[must_use]
pub fn free_bytes_in(answer: &[u8]) -> Option<u64> {
    Some(u64::from_le_bytes(answer.try_into().ok()?))
}

/// Why an operation failed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{operation} of {file} failed: {reason}")]
pub struct DiskError {
    /// `read`, `write`, `sync`, ...
    pub operation: &'static str,
    /// The file, or the directory.
    pub file: String,
    /// What the system says.
    pub reason: String,
    /// Whether space was the trouble.
    pub is_full: bool,
}

impl DiskError {
    /// Whether the operation was refused for want of space and may be performed again, from its
    /// beginning, once there is some. Never a sync, whatever it failed of: what it was to make durable
    /// may be gone, and another one that succeeds would vouch for it.
    #[must_use]
    pub fn may_be_repeated(&self) -> bool {
        self.is_full && self.operation != "sync"
    }
}

/// A directory of files. Calls block until they are done.
pub trait Disk {
    /// The files there, in any order, with their lengths in bytes. Files with foreign names are left out.
    ///
    /// # Errors
    /// What the system says.
    fn list(&mut self) -> Result<Vec<(FileName, u64)>, DiskError>;

    /// Performs one operation; the bytes are those of a [`DiskOp::Read`] or the answer to a
    /// [`DiskOp::Space`], and empty otherwise. A write that is refused for want of space may have
    /// written some of its bytes.
    ///
    /// # Errors
    /// What the system says. After a failed sync nothing may be assumed of the file's bytes.
    fn perform(&mut self, op: &DiskOp) -> Result<Bytes, DiskError>;
}

/// A job's number, unique within one run of a node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct JobId(pub u64);

/// Which queue a job waits in.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Lane {
    /// One writer, in order: the store never has more than one of these under way.
    Write,
    /// Any number at a time, in any order.
    Read,
}

/// Operations to be performed in order, and reported once when all are done or one has failed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Job {
    /// Its number.
    pub id: JobId,
    /// Its queue.
    pub lane: Lane,
    /// What to do.
    pub ops: Vec<DiskOp>,
}

/// The report.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct JobDone {
    /// Which.
    pub id: JobId,
    /// What each operation that [brings bytes](DiskOp::brings_bytes) brought, in order, or the first
    /// failure.
    pub result: Result<Vec<Bytes>, DiskError>,
    /// After a failure, what is not done: the operation that failed, and those after it.
    pub rest: Vec<DiskOp>,
}

impl Job {
    /// Performs the whole job on `disk`: what every driver does with it, sooner or later.
    pub fn perform(&self, disk: &mut impl Disk) -> JobDone {
        let mut reads = Vec::new();
        for (at, op) in self.ops.iter().enumerate() {
            match disk.perform(op) {
                Ok(bytes) if op.brings_bytes() => reads.push(bytes),
                Ok(_) => {}
                Err(error) => return self.failed_at(at, error),
            }
        }
        JobDone { id: self.id, result: Ok(reads), rest: Vec::new() }
    }

    /// The report that the operation of this ordinal has failed.
    #[must_use]
    pub fn failed_at(&self, at: usize, error: DiskError) -> JobDone {
        JobDone { id: self.id, result: Err(error), rest: self.ops[at..].to_vec() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_read_back_and_no_other_way_of_writing_it_is() {
        let files = [
            FileName::Identity,
            FileName::IdentityTemporary,
            FileName::Segment(0x12_3456),
            FileName::Snapshot(LogIndex(u64::MAX)),
            FileName::SnapshotTemporary,
        ];
        for file in files {
            assert_eq!(FileName::parse(&alloc::format!("{file}")), Some(file));
        }
        for other in ["lock", "1.seg", "0000000000000001.SNAP", "+000000000000001.snap", ".seg"] {
            assert_eq!(FileName::parse(other), None, "{other}");
        }
    }
}
