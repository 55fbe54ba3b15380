//! Making and opening a data directory.
//!
//! Owns the order of operations that makes each step safe to be interrupted at any point. Never cuts
//! what was once durable: a hole in the log is an error, and to repair one from the other members is
//! left to a later version. Next: `scan`, which tells a torn tail from a hole.

use super::disk::{Disk, DiskOp, FileName};
use super::entries::{Entries, Slot};
use super::error::{Damage, StorageError, Whose};
use super::format::{self, HeaderError, Owner, SEGMENT_HEADER_BYTES, SegmentHeader};
use super::scan::{self, Expected, Scan};
use super::store::Store;
use super::{HardState, Identity, IoId, Recovered};
use crate::hlc::Hlc;
use crate::ids::{ClusterId, GroupId, LogIndex, NodeId, Term};
use crate::limits::{Limits, SEGMENT_BYTES_MAX};
use crate::raft::LogPosition;
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec;
use alloc::vec::Vec;
use bytes::Bytes;

/// The number of the first segment, which [`Store::format`] makes.
const SEGMENT_FIRST: u64 = 1;

impl Store {
    /// Makes an empty log that belongs to `identity`'s node.
    ///
    /// The first segment is durable before the identity appears under its name: a directory with an
    /// identity and no segment has lost something. What an interrupted call leaves behind has no
    /// identity, and the next call goes on from there.
    ///
    /// # Errors
    /// [`StorageError::NotEmpty`] if there is an identity or a log; [`StorageError::Disk`].
    pub fn format(disk: &mut impl Disk, identity: &Identity) -> Result<(), StorageError> {
        for (file, len) in disk.list()? {
            let is_leftover = match file {
                FileName::Identity => false,
                FileName::IdentityTemporary => true,
                FileName::Segment(number) => {
                    number == SEGMENT_FIRST && len <= SEGMENT_HEADER_BYTES as u64
                }
            };
            if !is_leftover {
                return Err(StorageError::NotEmpty { file });
            }
        }
        let header = SegmentHeader {
            cluster: identity.cluster,
            group: identity.group,
            node: identity.node,
            segment: SEGMENT_FIRST,
            first_index: LogIndex(1),
            first_sequence: 1,
        };
        let header = Bytes::copy_from_slice(&header.encode());
        let identity = Bytes::from(format::encode_identity(identity));
        let (segment, temporary) = (FileName::Segment(SEGMENT_FIRST), FileName::IdentityTemporary);
        perform_all(
            disk,
            &[
                DiskOp::Write { file: segment, offset: 0, parts: vec![header] },
                DiskOp::Sync { file: segment },
                // A longer leftover would stick out behind the new bytes.
                DiskOp::Delete { file: temporary },
                DiskOp::Write { file: temporary, offset: 0, parts: vec![identity] },
                DiskOp::Sync { file: temporary },
                DiskOp::SyncDirectory,
                DiskOp::Rename { from: temporary, to: FileName::Identity },
                DiskOp::SyncDirectory,
            ],
        )
    }

    /// Whose directory this is.
    ///
    /// # Errors
    /// [`StorageError::NoIdentity`], [`StorageError::IdentityDamaged`],
    /// [`StorageError::UnknownVersion`] or [`StorageError::Disk`].
    pub fn read_identity(disk: &mut impl Disk) -> Result<Identity, StorageError> {
        let file = FileName::Identity;
        let files = disk.list()?;
        let len = files.iter().find(|(name, _)| *name == file).map(|(_, len)| *len);
        let bytes = read_file(disk, file, len.ok_or(StorageError::NoIdentity)?)?;
        format::decode_identity(&bytes).map_err(|error| match error {
            HeaderError::Broken => StorageError::IdentityDamaged,
            HeaderError::Version(version) => {
                StorageError::UnknownVersion { file, offset: 0, version }
            }
        })
    }

    /// Opens the log of `node`, cuts a torn tail off, and makes durable whatever it found. Reads
    /// whole segments, one at a time. Of `limits` it heeds the size of a segment.
    ///
    /// # Errors
    /// The directory is empty, another's, damaged, of a newer version, or the disk failed; each says
    /// what to do.
    pub fn open(
        disk: &mut impl Disk,
        cluster: ClusterId,
        group: GroupId,
        node: NodeId,
        limits: &Limits,
    ) -> Result<(Self, Recovered), StorageError> {
        check_identity(&Self::read_identity(disk)?, Whose { cluster, group, node })?;
        let segments = list_segments(disk)?;
        let owner = Owner::new(cluster, group, node);
        let mut replay = Replay::new();
        let mut torn_bytes = 0;
        for (number, len) in &segments {
            let (number, is_last) = (*number, *number == segments.len() as u64);
            let bytes = read_file(disk, FileName::Segment(number), *len)?;
            let expected = Expected {
                segment: number,
                sequence: replay.next_sequence,
                last_index: replay.last_index,
                is_last,
            };
            let scan = scan::scan_segment(&owner, expected, &bytes)?;
            torn_bytes += bytes.len() as u64 - scan.whole_bytes;
            replay.take(number, &scan)?;
        }
        let tail = replay.tail.expect("the first segment has a header, or the scan failed");
        repair_tail(disk, &tail, segments.len() as u64, torn_bytes)?;
        let store = Self {
            owner,
            segment_bytes_max: limits.segment_bytes_max.min(SEGMENT_BYTES_MAX),
            entries: replay.entries,
            segment_first: SEGMENT_FIRST,
            segment_last: tail.segment,
            tail_bytes: tail.bytes,
            closed_bytes: replay.bytes - tail.bytes,
            next_sequence: replay.next_sequence,
            flushed_last_index: replay.last_index,
            last_index: replay.last_index,
            last_io: IoId(0),
            queue: VecDeque::new(),
            under_way: None,
        };
        let recovered = Recovered {
            hard_state: replay.hard_state,
            snapshot: None,
            base: LogPosition::default(),
            memberships: Vec::new(),
            term_runs: replay.term_runs,
            last_index: replay.last_index,
            last_stamp: replay.last_stamp,
            torn_bytes,
        };
        Ok((store, recovered))
    }
}

fn perform_all(disk: &mut impl Disk, ops: &[DiskOp]) -> Result<(), StorageError> {
    for op in ops {
        disk.perform(op)?;
    }
    Ok(())
}

fn read_file(disk: &mut impl Disk, file: FileName, len: u64) -> Result<Bytes, StorageError> {
    let len = usize::try_from(len).unwrap_or(usize::MAX);
    Ok(disk.perform(&DiskOp::Read { file, offset: 0, len })?)
}

fn check_identity(identity: &Identity, expected: Whose) -> Result<(), StorageError> {
    let found = Whose { cluster: identity.cluster, group: identity.group, node: identity.node };
    if found == expected {
        return Ok(());
    }
    let (found, expected) = (Box::new(found), Box::new(expected));
    Err(StorageError::Foreign { file: FileName::Identity, found, expected })
}

/// The numbers and lengths of the segments: from the first on, without a gap.
fn list_segments(disk: &mut impl Disk) -> Result<Vec<(u64, u64)>, StorageError> {
    let mut segments: Vec<(u64, u64)> = disk
        .list()?
        .into_iter()
        .filter_map(|(file, len)| match file {
            FileName::Segment(number) => Some((number, len)),
            FileName::Identity | FileName::IdentityTemporary => None,
        })
        .collect();
    segments.sort_unstable();
    let mut expected = SEGMENT_FIRST;
    for (number, _) in &segments {
        if *number != expected {
            break;
        }
        expected += 1;
    }
    let is_whole = !segments.is_empty() && expected == segments.len() as u64 + SEGMENT_FIRST;
    if is_whole {
        Ok(segments)
    } else {
        Err(StorageError::MissingSegment { file: FileName::Segment(expected) })
    }
}

/// Cuts the torn tail off and makes what is left durable.
///
/// What a process that was killed had written may be in the system's cache only, and we are about to
/// act on it as on a promise. If the last sync failed, the cache may even call those bytes clean, so
/// that another sync does nothing (Rebello et al., ATC 2020); so the last flush is written once more.
/// Earlier ones need no such care: a flush is begun only after the one before was synced.
fn repair_tail(
    disk: &mut impl Disk,
    tail: &Tail,
    segment_last: u64,
    torn_bytes: u64,
) -> Result<(), StorageError> {
    if tail.segment < segment_last {
        // Created but without a header. The directory must forget it before the segment before it
        // grows, or the next recovery would take that one's torn end for a hole.
        disk.perform(&DiskOp::Delete { file: FileName::Segment(segment_last) })?;
    }
    let file = FileName::Segment(tail.segment);
    let len = usize::try_from(tail.bytes - tail.last_flush_offset).expect("it was read whole");
    let offset = tail.last_flush_offset;
    let last_flush = disk.perform(&DiskOp::Read { file, offset, len })?;
    if torn_bytes > 0 {
        disk.perform(&DiskOp::Truncate { file, len: tail.bytes })?;
    }
    perform_all(
        disk,
        &[
            DiskOp::Write { file, offset, parts: vec![last_flush] },
            DiskOp::Sync { file },
            DiskOp::SyncDirectory,
        ],
    )
}

/// The last segment that has a header.
#[derive(Clone, Copy)]
struct Tail {
    segment: u64,
    /// Bytes up to the end of its last whole flush.
    bytes: u64,
    last_flush_offset: u64,
}

/// The log as far as it has been read.
struct Replay {
    entries: Entries,
    hard_state: HardState,
    term_runs: Vec<(LogIndex, Term)>,
    last_index: LogIndex,
    last_stamp: Hlc,
    next_sequence: u64,
    bytes: u64,
    tail: Option<Tail>,
}

impl Replay {
    fn new() -> Self {
        Self {
            entries: Entries::new(),
            hard_state: HardState::default(),
            term_runs: Vec::new(),
            last_index: LogIndex::ZERO,
            last_stamp: Hlc::ZERO,
            next_sequence: 1,
            bytes: 0,
            tail: None,
        }
    }

    fn take(&mut self, segment: u64, scan: &Scan) -> Result<(), StorageError> {
        if scan.whole_bytes == 0 {
            return Ok(());
        }
        for record in &scan.records {
            let (index, term) = (record.index, record.term);
            while self.term_runs.last().is_some_and(|(first, _)| *first >= index) {
                self.term_runs.pop();
            }
            let last_term = self.term_runs.last().map_or(Term::ZERO, |(_, term)| *term);
            if term < last_term {
                let file = FileName::Segment(segment);
                let damage = Damage::Order { index, last: self.last_index };
                return Err(StorageError::Damaged { file, offset: record.offset, damage });
            }
            if term > last_term || self.term_runs.is_empty() {
                self.term_runs.push((index, term));
            }
            self.entries.put(index, Slot::new(segment, record.offset, record.len));
            self.last_index = index;
            self.last_stamp = record.hlc;
        }
        if let Some(hard_state) = scan.hard_state {
            self.hard_state = hard_state;
        }
        self.next_sequence = scan.next_sequence;
        self.bytes += scan.whole_bytes;
        self.tail = Some(Tail {
            segment,
            bytes: scan.whole_bytes,
            last_flush_offset: scan.last_flush_offset,
        });
        Ok(())
    }
}
