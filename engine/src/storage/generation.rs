//! Which snapshot a recovery takes, and where the log goes on from it.
//!
//! Owns the rule. A snapshot will do if the log has everything after it, and holds no less than this
//! node ever vouched for. Never trusts a file: header, name, description and state are all checked.
//!
//! ```text
//!                  log   |-----------------------|      will do
//!                  log   |----------|                   only if the log began anew for this one
//!                  log               |-----------|      only if the first entry is the next or before
//!  state ----------------------------|
//! ```
//!
//! The second line is a snapshot that a leader sent: it was durable before the log was reset for it.
//! If the power failed in between, the old log is still the log, and the snapshot is none of its own.
//! Next: `raft::snapshot` for what the log before a snapshot's end is kept for.

use super::disk::{Disk, FileName};
use super::error::{SnapshotDamage, StorageError, Whose};
use super::format::{self, HeaderError, Owner, SnapshotHeader};
use super::recovery::{SEGMENT_FIRST, read_file};
use super::replay::Replay;
use super::snapshots::Saved;
use crate::ids::{LogIndex, Term};
use crate::raft::{LogPosition, Snapshot, SnapshotMeta};
use alloc::boxed::Box;
use alloc::vec::Vec;

/// What a recovery starts from.
pub(super) struct Chosen {
    pub(super) snapshot: Option<Snapshot>,
    pub(super) saved: Option<Saved>,
    /// The other files of snapshots.
    pub(super) others: Vec<LogIndex>,
    pub(super) base: LogPosition,
    /// From the run that `base` is in.
    pub(super) term_runs: Vec<(LogIndex, Term)>,
}

/// Chooses the newest snapshot that will do.
pub(super) fn choose(
    disk: &mut impl Disk,
    owner: &Owner,
    files: &[(FileName, u64)],
    replay: &Replay,
) -> Result<Chosen, StorageError> {
    let mut candidates: Vec<(LogIndex, u64)> = files
        .iter()
        .filter_map(|(file, len)| match file {
            FileName::Snapshot(index) => Some((*index, *len)),
            FileName::Identity
            | FileName::IdentityTemporary
            | FileName::Segment(_)
            | FileName::SnapshotTemporary => None,
        })
        .collect();
    candidates.sort_unstable();
    let mut damaged = None;
    let mut chosen = None;
    for (index, len) in candidates.iter().rev() {
        match read_snapshot(disk, owner, *index, *len)? {
            Ok((snapshot, saved)) if will_do(&snapshot.meta, replay) => {
                chosen = Some((snapshot, saved));
                break;
            }
            Ok(_) => {}
            Err(damage) => damaged = damaged.or(Some((*index, damage))),
        }
    }
    if chosen.is_none() && !is_whole_without(replay) {
        return Err(refusal(replay, damaged, candidates.is_empty()));
    }
    let (snapshot, saved) = chosen.unzip();
    let used = saved.map(|saved: Saved| saved.index);
    let others = candidates.iter().map(|(index, _)| *index);
    let others = others.filter(|index| Some(*index) != used).collect();
    let (base, term_runs) = join(snapshot.as_ref().map(|snapshot| &snapshot.meta), replay);
    Ok(Chosen { snapshot, saved, others, base, term_runs })
}

/// Reads a snapshot and checks all of it; the inner error is damage, which another may make good.
#[allow(clippy::type_complexity, reason = "two kinds of failure, told apart by the only caller")]
fn read_snapshot(
    disk: &mut impl Disk,
    owner: &Owner,
    index: LogIndex,
    len: u64,
) -> Result<Result<(Snapshot, Saved), SnapshotDamage>, StorageError> {
    let file = FileName::Snapshot(index);
    let bytes = read_file(disk, file, len)?;
    let header = match SnapshotHeader::decode(&bytes) {
        Ok(header) => header,
        Err(HeaderError::Broken) => return Ok(Err(SnapshotDamage::Header)),
        Err(HeaderError::Version(version)) => {
            return Err(StorageError::UnknownVersion { file, offset: 0, version });
        }
    };
    let found = Whose { cluster: header.cluster, group: header.group, node: header.node };
    let expected = Whose { cluster: owner.cluster, group: owner.group, node: owner.node };
    if found != expected {
        let (found, expected) = (Box::new(found), Box::new(expected));
        return Err(StorageError::Foreign { file, found, expected });
    }
    if header.last_index != index {
        return Ok(Err(SnapshotDamage::Name { found: header.last_index }));
    }
    Ok(format::decode_snapshot(&header, &bytes).and_then(|snapshot| {
        if snapshot.meta.last.index != index {
            return Err(SnapshotDamage::Description);
        }
        let state_bytes = snapshot.meta.bytes;
        Ok((snapshot, Saved { index, state_offset: header.state_offset(), state_bytes }))
    }))
}

/// Whether the log goes on from this snapshot, and the two hold all that this node vouched for.
fn will_do(meta: &SnapshotMeta, replay: &Replay) -> bool {
    let last = meta.last;
    let is_connected = replay.entries.first() <= last.index.next();
    let began_with = replay.reset.map(|mark| mark.snapshot);
    // `last` itself may be gone from the log already, but only if nothing after it is.
    let has_last = match replay.term_at(last.index) {
        Some(term) => term == last.term,
        None => replay.entries.first() == last.index.next(),
    };
    // The log that was given up for a snapshot vouched for entries up to that one.
    let reaches = last.index.max(replay.last_index);
    is_connected
        && (has_last || began_with == Some(last.index))
        && began_with.is_none_or(|index| reaches >= index)
}

/// Whether the log can be replayed from its very beginning.
fn is_whole_without(replay: &Replay) -> bool {
    replay.entries.first() == LogIndex(1) && replay.reset.is_none()
}

fn refusal(
    replay: &Replay,
    damaged: Option<(LogIndex, SnapshotDamage)>,
    is_without_snapshots: bool,
) -> StorageError {
    let base = replay.entries.first().previous();
    let first_segment = replay.segments.first();
    match damaged {
        Some((index, damage)) => {
            StorageError::SnapshotDamaged { file: FileName::Snapshot(index), damage, base }
        }
        None if is_without_snapshots && first_segment > SEGMENT_FIRST && replay.reset.is_none() => {
            StorageError::MissingSegment { file: FileName::Segment(first_segment - 1) }
        }
        None => StorageError::MissingSnapshot { base },
    }
}

/// Where the usable log begins, and the terms from there on. Entries before the snapshot's own base are
/// left out: their terms are not known, and nobody needs them.
fn join(meta: Option<&SnapshotMeta>, replay: &Replay) -> (LogPosition, Vec<(LogIndex, Term)>) {
    let Some(meta) = meta else { return (LogPosition::default(), replay.term_runs.clone()) };
    let before_first = replay.entries.first().previous();
    let index = before_first.max(meta.base.index.min(replay.last_index));
    let is_in_log = index > before_first;
    let known = if is_in_log { &replay.term_runs } else { &meta.term_runs };
    let run = known.iter().rfind(|(first, _)| *first <= index).copied();
    let mark = replay.reset.filter(|_| !is_in_log);
    let term = mark.map(|mark| mark.base_term).or(run.map(|(_, term)| term));
    let base = LogPosition { index, term: term.unwrap_or_default() };
    let mut term_runs = Vec::new();
    if index > LogIndex::ZERO {
        let first = run.filter(|(_, term)| *term == base.term).map_or(index, |(first, _)| first);
        term_runs.push((first, base.term));
    }
    let later = replay.term_runs.iter().filter(|(first, _)| *first > index);
    for run in later.copied() {
        if term_runs.last().is_none_or(|(_, term)| *term != run.1) {
            term_runs.push(run);
        }
    }
    (base, term_runs)
}
