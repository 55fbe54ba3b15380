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

/// A directory of files. Calls block until they are done.
pub trait Disk {
    /// The files there, in any order, with their lengths in bytes. Files with foreign names are left out.
    ///
    /// # Errors
    /// What the system says.
    fn list(&mut self) -> Result<Vec<(FileName, u64)>, DiskError>;

    /// Performs one operation; the bytes are those of a [`DiskOp::Read`] and empty otherwise.
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
    /// The bytes of each [`DiskOp::Read`], in order, or the first failure.
    pub result: Result<Vec<Bytes>, DiskError>,
}

impl Job {
    /// Performs the whole job on `disk`: what every driver does with it, sooner or later.
    pub fn perform(&self, disk: &mut impl Disk) -> JobDone {
        let mut reads = Vec::new();
        for op in &self.ops {
            match disk.perform(op) {
                Ok(bytes) => {
                    if matches!(op, DiskOp::Read { .. }) {
                        reads.push(bytes);
                    }
                }
                Err(error) => return JobDone { id: self.id, result: Err(error) },
            }
        }
        JobDone { id: self.id, result: Ok(reads) }
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
