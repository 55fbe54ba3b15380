//! Making and opening a data directory.
//!
//! Owns the order of operations that makes each step safe to be interrupted at any point. Never cuts
//! what was once durable: where records are damaged the log ends in memory, and the files stay as they
//! are until other flushes have taken their place. Next: `replay` for the log's segments, `generation` for its snapshot.

use super::archive::Archive;
use super::clean::Copies;
use super::disk::{Disk, DiskOp, FileName};
use super::entries::{Entries, Slot};
use super::error::{StorageError, Whose};
use super::format::{self, EntrySpan, HeaderError, Owner, SEGMENT_HEADER_BYTES, SegmentHeader};
use super::generation;
use super::replay::{Replay, Tail};
use super::scrub::Scrub;
use super::segments::Segments;
use super::snapshots::Snapshots;
use super::store::Store;
use super::{HardState, Identity, IoId, Recovered};
use crate::hlc::Hlc;
use crate::ids::{ClusterId, GroupId, LogIndex, NodeId, Term};
use crate::limits::{Limits, SEGMENT_BYTES_MAX};
use crate::raft::LogPosition;
use crate::record::Record;
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec;
use alloc::vec::Vec;
use bytes::Bytes;

/// The number of the first segment, which [`Store::format`] makes.
pub(super) const SEGMENT_FIRST: u64 = 1;
/// Most segments that are missing in a row, in a directory that is taken for one log.
const SEGMENTS_MISSING_MAX: u64 = 1 << 16;

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
        list_nothing_but(disk, |(file, len)| match file {
            FileName::Identity | FileName::Snapshot(_) | FileName::SnapshotTemporary => false,
            FileName::IdentityTemporary => true,
            FileName::Segment(number) => {
                number == SEGMENT_FIRST && len <= SEGMENT_HEADER_BYTES as u64
            }
        })?;
        make_first_segment(disk, identity)?;
        write_identity(disk, identity)
    }

    /// A log without entries, of which only the first segment is there.
    pub(super) fn empty(owner: Owner, limits: &Limits) -> Self {
        let header_bytes = SEGMENT_HEADER_BYTES as u64;
        Self {
            owner,
            segment_bytes_max: limits.segment_bytes_max.min(SEGMENT_BYTES_MAX),
            slack_bytes: limits.slack_bytes,
            entries: Entries::beginning_at(LogIndex(1)),
            archive: Archive::default(),
            copies: Copies::default(),
            is_settled: false,
            scrub: Scrub::default(),
            is_sealed: true,
            wants_seal: false,
            damaged: 0,
            segments: Segments::one(SEGMENT_FIRST, LogIndex(1), header_bytes),
            snapshots: Snapshots::new(limits.snapshot_chunk_bytes_max, None, Vec::new()),
            next_sequence: 1,
            hard_state: HardState::default(),
            last_span: EntrySpan::none_before(LogIndex(1)),
            flushed_last_index: LogIndex::ZERO,
            flushed_last_term: Term::ZERO,
            vouched: LogPosition::default(),
            commit: LogIndex::ZERO,
            last_index: LogIndex::ZERO,
            last_io: IoId(0),
            durable_io: IoId(0),
            queue: VecDeque::new(),
            under_way: None,
        }
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
    /// whole segments, one at a time, and the newest snapshot. Of `limits` it heeds the size of a
    /// segment and of a piece of a snapshot.
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
        let files = disk.list()?;
        let owner = Owner::new(cluster, group, node);
        let mut replay = Replay::of(disk, &owner, &list_segments(&files)?)?;
        let end = replay.last_index();
        let chosen = generation::choose(disk, &owner, &files, &replay)?;
        if replay.is_tail_damaged {
            prove_tail(disk, &owner, &mut replay, chosen.last_index)?;
        }
        repair_tail(disk, &replay.tail, replay.segment_last, replay.torn_bytes)?;
        // Left unfinished. A longer one would stick out behind the next.
        if files.iter().any(|(file, _)| *file == FileName::SnapshotTemporary) {
            disk.perform(&DiskOp::Delete { file: FileName::SnapshotTemporary })?;
        }
        let base = chosen.base;
        let (mut entries, mut archive) = (replay.entries, replay.archive);
        archive.take_committed(&entries, base.index, base.index.next());
        // Where records are missing the log ends, until the leader has sent them again.
        entries.truncate(chosen.last_index.next());
        entries.forget_until(base.index.next());
        // A copy counts only where the log has no place of its own for the entry.
        let is_filled = |(index, slot): &(LogIndex, Slot)| entries.slot(*index) == Some(*slot);
        let filled: Vec<(LogIndex, Slot)> = archive
            .iter()
            .filter(|(index, _)| *index >= entries.first())
            .filter(is_filled)
            .collect();
        archive.retain(entries.first(), LogIndex(u64::MAX), |_| false);
        for (index, slot) in filled {
            entries.lose(index);
            archive.insert(index, slot);
        }
        let in_log =
            |(index, _): &(LogIndex, _)| *index > base.index && *index <= chosen.last_index;
        let last_term = chosen.term_runs.last().map_or(Term::ZERO, |(_, term)| *term);
        let last = LogPosition { term: last_term, index: chosen.last_index };
        // The last entry itself may have been purged.
        let meta = chosen.snapshot.as_ref().map(|snapshot| &snapshot.meta);
        let last_stamp = match meta.filter(|meta| meta.last.index == last.index) {
            Some(meta) => meta.stamp,
            None if last.index == base.index => Hlc::ZERO,
            None => match replay.last_stamp.filter(|_| chosen.last_index == end) {
                Some(stamp) => stamp,
                None => {
                    let slot = entries.slot(last.index).or_else(|| archive.slot(last.index));
                    stamp_of(disk, &owner, slot.expect("the log ends before a hole"), last.index)?
                }
            },
        };
        let known = last.max(meta.map_or(LogPosition::default(), |meta| meta.last));
        let vouched = Some(replay.vouched).filter(|vouched| *vouched > known);
        let recovered = Recovered {
            hard_state: replay.hard_state,
            base,
            term_runs: chosen.term_runs,
            memberships: replay.memberships.into_iter().filter(in_log).collect(),
            last_index: last.index,
            vouched: vouched.unwrap_or_default(),
            last_stamp,
            torn_bytes: replay.torn_bytes,
            damaged: replay.damaged.into_iter().chain(chosen.damaged).collect(),
            snapshot: chosen.snapshot,
        };
        let piece_bytes_max = limits.snapshot_chunk_bytes_max;
        let store = Self {
            entries,
            archive,
            segments: replay.segments,
            snapshots: Snapshots::new(piece_bytes_max, chosen.saved, chosen.others),
            next_sequence: replay.next_sequence,
            is_sealed: !replay.has_flush,
            hard_state: replay.hard_state,
            last_span: replay.last_span,
            flushed_last_index: last.index,
            flushed_last_term: last.term,
            vouched: if replay.vouched > last { replay.vouched } else { LogPosition::default() },
            commit: replay.hard_state.commit,
            last_index: last.index,
            ..Self::empty(owner, limits)
        };
        Ok((store, recovered))
    }
}

/// The stamp of an entry of the log.
fn stamp_of(
    disk: &mut impl Disk,
    owner: &Owner,
    slot: Slot,
    index: LogIndex,
) -> Result<Hlc, StorageError> {
    let file = FileName::Segment(slot.segment());
    let op = DiskOp::Read { file, offset: slot.offset(), len: slot.len() };
    let mut bytes = disk.perform(&op)?;
    let unreadable = StorageError::Unreadable { index, file, offset: slot.offset() };
    let record = Record::take(owner.record_seed(), &mut bytes).map_err(|_| unreadable)?;
    Ok(record.hlc())
}

/// Refuses a directory in which there is anything but leftovers.
pub(super) fn list_nothing_but(
    disk: &mut impl Disk,
    is_leftover: impl Fn((FileName, u64)) -> bool,
) -> Result<(), StorageError> {
    let files = disk.list()?;
    match files.into_iter().find(|file| !is_leftover(*file)) {
        Some((file, _)) => Err(StorageError::NotEmpty { file }),
        None => Ok(()),
    }
}

/// Makes the first segment; its name is durable with the next sync of the directory.
pub(super) fn make_first_segment(
    disk: &mut impl Disk,
    identity: &Identity,
) -> Result<(), StorageError> {
    let header = SegmentHeader {
        cluster: identity.cluster,
        group: identity.group,
        node: identity.node,
        segment: SEGMENT_FIRST,
        first_index: LogIndex(1),
        first_sequence: 1,
        reset: None,
    };
    let file = FileName::Segment(SEGMENT_FIRST);
    let parts = vec![Bytes::from(header.encode())];
    perform_all(disk, &[DiskOp::Write { file, offset: 0, parts }, DiskOp::Sync { file }])
}

/// Gives a directory its identity, after everything else in it.
pub(super) fn write_identity(
    disk: &mut impl Disk,
    identity: &Identity,
) -> Result<(), StorageError> {
    let file = FileName::IdentityTemporary;
    let parts = vec![Bytes::from(format::encode_identity(identity))];
    perform_all(
        disk,
        &[
            // A longer leftover would stick out behind the new bytes.
            DiskOp::Delete { file },
            DiskOp::Write { file, offset: 0, parts },
            DiskOp::Sync { file },
            DiskOp::SyncDirectory,
            DiskOp::Rename { from: file, to: FileName::Identity },
            DiskOp::SyncDirectory,
        ],
    )
}

fn perform_all(disk: &mut impl Disk, ops: &[DiskOp]) -> Result<(), StorageError> {
    for op in ops {
        disk.perform(op)?;
    }
    Ok(())
}

pub(super) fn read_file(
    disk: &mut impl Disk,
    file: FileName,
    len: u64,
) -> Result<Bytes, StorageError> {
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

/// The numbers and lengths of the segments, in order. The first ones may be gone, if a snapshot stands
/// for them. Where others are missing, it is for the log to say what was in them.
fn list_segments(files: &[(FileName, u64)]) -> Result<Vec<(u64, u64)>, StorageError> {
    let mut segments: Vec<(u64, u64)> = files
        .iter()
        .filter_map(|(file, len)| match file {
            FileName::Segment(number) if *number >= SEGMENT_FIRST => Some((*number, *len)),
            FileName::Segment(_)
            | FileName::Identity
            | FileName::IdentityTemporary
            | FileName::Snapshot(_)
            | FileName::SnapshotTemporary => None,
        })
        .collect();
    segments.sort_unstable();
    let mut before = segments.first().map_or(SEGMENT_FIRST - 1, |(number, _)| *number - 1);
    for (number, _) in &segments {
        if *number - before > SEGMENTS_MISSING_MAX {
            return Err(StorageError::MissingSegment { file: FileName::Segment(before + 1) });
        }
        before = *number;
    }
    if segments.is_empty() {
        return Err(StorageError::MissingSegment { file: FileName::Segment(SEGMENT_FIRST) });
    }
    Ok(segments)
}

/// A damaged flush is told from a torn one by what comes after it. If that is torn and about to go,
/// another segment takes its place first.
fn prove_tail(
    disk: &mut impl Disk,
    owner: &Owner,
    replay: &mut Replay,
    last_index: LogIndex,
) -> Result<(), StorageError> {
    let header = SegmentHeader {
        cluster: owner.cluster,
        group: owner.group,
        node: owner.node,
        segment: replay.tail.segment + 1,
        first_index: last_index.next(),
        first_sequence: replay.next_sequence,
        reset: None,
    };
    let file = FileName::Segment(header.segment);
    let bytes = header.header_bytes() as u64;
    let tail = FileName::Segment(replay.tail.segment);
    perform_all(
        disk,
        &[
            DiskOp::Write { file, offset: 0, parts: vec![Bytes::from(header.encode())] },
            // What was there may have been longer.
            DiskOp::Truncate { file, len: bytes },
            DiskOp::Sync { file },
            DiskOp::SyncDirectory,
            DiskOp::Truncate { file: tail, len: replay.tail.bytes },
            DiskOp::Sync { file: tail },
        ],
    )?;
    replay.segments.begin(header.first_index, bytes);
    replay.tail = Tail { segment: header.segment, bytes, last_flush_offset: 0 };
    replay.segment_last = header.segment;
    replay.torn_bytes = 0;
    Ok(())
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
