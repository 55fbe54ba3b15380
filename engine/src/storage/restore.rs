//! A cluster of one, out of a backup.
//!
//! Owns the copying: the backup's snapshot, with which the new log begins, and its records, which lie
//! before it. Sessions are in the snapshot and stay: session ids are never given out twice, and whatever an
//! old client repeats is answered as it was then, if it was before the backup, and otherwise refused or
//! applied for the first time. Next: `copy` for the writing, `crate::backup` for the file.

use super::copy::Copy;
use super::disk::Disk;
use super::error::StorageError;
use super::{HardState, Identity};
use crate::backup::{FormatError, Header, ReadError, Reader, Section};
use crate::ids::NodeId;
use crate::raft::{Snapshot, SnapshotMeta};
use alloc::vec;
use alloc::vec::Vec;
use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64;

/// Why a backup cannot be restored.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RestoreFileError<E: core::error::Error + 'static> {
    /// The backup cannot be read.
    #[error(transparent)]
    Backup(ReadError<E>),
    /// The directory cannot be used.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl<E: core::error::Error + 'static> From<ReadError<E>> for RestoreFileError<E> {
    fn from(error: ReadError<E>) -> Self {
        Self::Backup(error)
    }
}

/// The id of the one member of the new cluster: none that the old one had given out by then.
#[must_use]
pub fn restored_node(header: &Header) -> NodeId {
    header.meta.membership.1.node_last().max(header.node).next()
}

/// Writes what is in a backup to an empty directory under a new identity, whose node becomes the only
/// member with one last entry. `read` gives the backup's bytes as [`check`](crate::backup::check) wants
/// them, which should have found it whole before: here only the bytes are verified once more. `tell` hears
/// how many were read.
///
/// # Errors
/// The backup's, [`StorageError::NotEmpty`], or a disk failed. What is in the directory then is no node's.
///
/// # Panics
/// If the new identity has the old cluster's id.
pub fn restore<E: core::error::Error + 'static>(
    target: &mut impl Disk,
    identity: &Identity,
    read: impl FnMut(usize) -> Result<Bytes, E>,
    mut tell: impl FnMut(u64),
) -> Result<(), RestoreFileError<E>> {
    let (mut reader, header) = Reader::open(read)?;
    assert_ne!(identity.cluster, header.cluster, "a cluster of its own");
    let SnapshotMeta { last, stamp, .. } = header.meta;
    let hard_state = HardState { term: last.term, commit: last.index, ..HardState::default() };
    let mut copy = Copy::begin(target, identity, hard_state)?;
    let (mut state, mut is_begun) = (Vec::new(), false);
    loop {
        tell(reader.at());
        match reader.next_section()? {
            Some(Section::State(piece)) => state.extend_from_slice(&piece),
            Some(Section::Records(records)) => {
                if !is_begun {
                    copy.write_snapshot(snapshot_of(&header, &mut state, reader.at())?, last)?;
                    is_begun = true;
                }
                copy.archive(&records)?;
            }
            None => break,
        }
    }
    if !is_begun {
        copy.write_snapshot(snapshot_of(&header, &mut state, reader.at())?, last)?;
    }
    copy.finish(None, last, stamp)?;
    Ok(())
}

/// The snapshot with which the new log begins; nothing of the old log comes after it.
fn snapshot_of<E: core::error::Error + 'static>(
    header: &Header,
    state: &mut Vec<u8>,
    at: u64,
) -> Result<Snapshot, ReadError<E>> {
    let bytes = Bytes::from(core::mem::take(state));
    let SnapshotMeta { last, .. } = header.meta;
    if bytes.len() as u64 != header.meta.bytes || xxh3_64(&bytes) != header.meta.checksum {
        let what = "the state before it is not what the header says";
        return Err(FormatError::Damaged { at, what }.into());
    }
    let term_runs = vec![(last.index, last.term)];
    let meta = SnapshotMeta { base: last, term_runs, ..header.meta.clone() };
    Ok(Snapshot { meta, bytes })
}
