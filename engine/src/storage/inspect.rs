//! What is in a data directory, whatever state it is in.
//!
//! Owns the looking. Never writes, and never refuses to show what can be shown: where a node would
//! refuse to start, that is one of the findings. Reads and checks every byte. Next: `scan` and
//! `generation` for how it is judged.

use super::disk::{Disk, FileName};
use super::error::{Damage, Damaged, StorageError};
use super::format::{Owner, SegmentHeader};
use super::generation::read_snapshot;
use super::recovery::{SEGMENT_FIRST, read_file};
use super::rescue::ReadOnly;
use super::scan::{Expected, Found, scan_segment};
use super::store::Store;
use super::{HardState, Identity};
use crate::ids::LogIndex;
use crate::limits::Limits;
use crate::raft::LogPosition;
use alloc::vec::Vec;

/// A segment, as it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SegmentFindings {
    /// Its number.
    pub segment: u64,
    /// Bytes of the file.
    pub bytes: u64,
    /// Whether the log begins anew with it.
    pub is_reset: bool,
    /// Flushes with a whole header.
    pub flushes: u64,
    /// Whole records that were appended to the log here, replaced ones too.
    pub entries: u64,
    /// The first and the last index among them, if there are any.
    pub range: Option<(LogIndex, LogIndex)>,
    /// Whole records that are copies of older entries.
    pub archived: u64,
    /// Bytes of a torn tail.
    pub torn_bytes: u64,
}

/// A snapshot, as it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SnapshotFindings {
    /// The last entry in it, by its name.
    pub index: LogIndex,
    /// Bytes of the file.
    pub bytes: u64,
    /// Whether all of it is whole.
    pub is_whole: bool,
}

/// What a node would start with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Start {
    /// Term, vote and known commit index.
    pub hard_state: HardState,
    /// The last entry in the snapshot that it takes; 0 without one.
    pub snapshot: LogIndex,
    /// The log begins after this.
    pub base: LogIndex,
    /// The log ends here, before the first entry that is missing.
    pub last_index: LogIndex,
    /// What it has vouched for and must have back before it may lead; 0 if it lacks nothing.
    pub vouched: LogPosition,
    /// Bytes of records in the log, and of older ones that may still be needed.
    pub live_bytes: u64,
}

/// Everything that was found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Inspection {
    /// Whose directory it is, or why that is not known.
    pub identity: Result<Identity, StorageError>,
    /// The segments, in order.
    pub segments: Vec<SegmentFindings>,
    /// The snapshots, in order.
    pub snapshots: Vec<SnapshotFindings>,
    /// What a node would start with, or why it would refuse.
    pub start: Result<Start, StorageError>,
    /// Everything that is damaged, where and how.
    pub damaged: Vec<Damaged>,
    /// Files that cannot be judged: of another node, or of a version that this build does not know.
    pub unreadable: Vec<StorageError>,
}

impl Inspection {
    /// Looks at a directory.
    ///
    /// # Errors
    /// The disk failed.
    pub fn of(disk: &mut impl Disk) -> Result<Self, StorageError> {
        let mut disk = ReadOnly(disk);
        let mut files = disk.list()?;
        files.sort_unstable();
        let identity = match Store::read_identity(&mut disk) {
            Err(StorageError::Disk(error)) => return Err(error.into()),
            identity => identity,
        };
        let mut inspection = Self {
            start: open(&mut disk, &identity),
            identity,
            segments: Vec::new(),
            snapshots: Vec::new(),
            damaged: Vec::new(),
            unreadable: Vec::new(),
        };
        let Some(owner) = inspection.owner(&mut disk, &files)? else { return Ok(inspection) };
        let segment_last = files.iter().rev().find_map(|(file, _)| match file {
            FileName::Segment(number) => Some(*number),
            FileName::Identity
            | FileName::IdentityTemporary
            | FileName::Snapshot(_)
            | FileName::SnapshotTemporary => None,
        });
        let mut due = None;
        for (file, bytes) in files {
            match file {
                FileName::Segment(segment) => {
                    let is_last = Some(segment) == segment_last;
                    inspection.look_at_segment(
                        &mut disk,
                        &owner,
                        (segment, is_last),
                        bytes,
                        &mut due,
                    )?;
                }
                FileName::Snapshot(index) => {
                    inspection.look_at_snapshot(&mut disk, &owner, index, bytes)?;
                }
                FileName::Identity | FileName::IdentityTemporary | FileName::SnapshotTemporary => {}
            }
        }
        Ok(inspection)
    }

    /// Whether there is anything that a healthy node's directory does not have.
    #[must_use]
    pub fn is_damaged(&self) -> bool {
        self.identity.is_err()
            || self.start.is_err()
            || !self.damaged.is_empty()
            || !self.unreadable.is_empty()
    }

    /// Whose files these are: as the identity says, or else the first segment that can be read.
    fn owner(
        &self,
        disk: &mut impl Disk,
        files: &[(FileName, u64)],
    ) -> Result<Option<Owner>, StorageError> {
        if let Ok(identity) = &self.identity {
            return Ok(Some(Owner::new(identity.cluster, identity.group, identity.node)));
        }
        for (file, bytes) in files {
            let FileName::Segment(_) = file else { continue };
            if let Ok(header) = SegmentHeader::decode(&read_file(disk, *file, *bytes)?) {
                return Ok(Some(Owner::new(header.cluster, header.group, header.node)));
            }
        }
        Ok(None)
    }

    fn look_at_segment(
        &mut self,
        disk: &mut impl Disk,
        owner: &Owner,
        (segment, is_last): (u64, bool),
        bytes: u64,
        due: &mut Option<u64>,
    ) -> Result<(), StorageError> {
        let file = FileName::Segment(segment);
        if self.segments.last().is_some_and(|before| before.segment + 1 < segment) {
            let file = FileName::Segment(segment - 1);
            self.damaged.push(Damaged { file, offset: 0, damage: Damage::MissingSegment });
        }
        let content = read_file(disk, file, bytes)?;
        let sequence = if segment == SEGMENT_FIRST { Some(1) } else { *due };
        let mut findings = SegmentFindings {
            segment,
            bytes,
            is_reset: false,
            flushes: 0,
            entries: 0,
            range: None,
            archived: 0,
            torn_bytes: 0,
        };
        match scan_segment(owner, Expected { segment, sequence, is_last }, &content) {
            Ok(scan) => {
                findings.torn_bytes = bytes - scan.durable_bytes;
                findings.is_reset = scan.header.is_some_and(|header| header.reset.is_some());
                for found in &scan.found {
                    let damage = match found {
                        Found::Gap { offset, damage } => Some((*offset, *damage)),
                        Found::Flush(flush) => {
                            findings.flushes += 1;
                            *due = Some(flush.header.sequence + 1);
                            flush.damage
                        }
                    };
                    let damaged = damage.map(|(offset, damage)| Damaged { file, offset, damage });
                    self.damaged.extend(damaged);
                }
                for record in scan.flushes().flat_map(|flush| &flush.records) {
                    if record.is_archived {
                        findings.archived += 1;
                        continue;
                    }
                    findings.entries += 1;
                    let (first, last) = findings.range.unwrap_or((record.index, record.index));
                    findings.range = Some((first.min(record.index), last.max(record.index)));
                }
            }
            Err(StorageError::Damaged { file, offset, damage }) => {
                self.damaged.push(Damaged { file, offset, damage });
            }
            Err(error) => self.unreadable.push(error),
        }
        self.segments.push(findings);
        Ok(())
    }

    fn look_at_snapshot(
        &mut self,
        disk: &mut impl Disk,
        owner: &Owner,
        index: LogIndex,
        bytes: u64,
    ) -> Result<(), StorageError> {
        let is_whole = match read_snapshot(disk, owner, index, bytes) {
            Ok(Ok(_)) => true,
            Ok(Err(damage)) => {
                let (file, damage) = (FileName::Snapshot(index), Damage::Snapshot(damage));
                self.damaged.push(Damaged { file, offset: 0, damage });
                false
            }
            Err(StorageError::Disk(error)) => return Err(error.into()),
            Err(error) => {
                self.unreadable.push(error);
                false
            }
        };
        self.snapshots.push(SnapshotFindings { index, bytes, is_whole });
        Ok(())
    }
}

fn open(
    disk: &mut impl Disk,
    identity: &Result<Identity, StorageError>,
) -> Result<Start, StorageError> {
    let identity = identity.clone()?;
    let (cluster, group, node) = (identity.cluster, identity.group, identity.node);
    let (store, recovered) = Store::open(disk, cluster, group, node, &Limits::default())?;
    let meta = recovered.snapshot.as_ref().map(|snapshot| &snapshot.meta);
    Ok(Start {
        hard_state: recovered.hard_state,
        snapshot: meta.map_or(LogIndex::ZERO, |meta| meta.last.index),
        base: recovered.base.index,
        last_index: recovered.last_index,
        vouched: recovered.vouched,
        live_bytes: store.live_bytes(),
    })
}
