//! Which snapshot a recovery takes, and where the log goes on from it.
//!
//! Owns the rule. The newest snapshot is taken that the log goes on from. Never trusts a file: header,
//! name, description and state are all checked.
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
//!
//! Where the disk has lost records, the log begins after the snapshot, as far as it lost any up to
//! there: the others are read from the archive. After the snapshot the log ends before the first that
//! is missing. If nothing goes on from anything any more, the newest whole snapshot is taken alone, or
//! none: what this node has vouched for is known from the last flush, and it waits for the others to
//! bring it back there.
//! Next: `raft::snapshot` for what the log before a snapshot's end is kept for.

use super::disk::{Disk, FileName};
use super::error::{Damage, Damaged, SnapshotDamage, StorageError, Whose};
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
    /// The log ends here; after it, records are missing.
    pub(super) last_index: LogIndex,
    /// Snapshots that are damaged.
    pub(super) damaged: Vec<Damaged>,
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
    let mut damaged = Vec::new();
    let mut chosen = None;
    let mut newest = None;
    for (index, len) in candidates.iter().rev() {
        match read_snapshot(disk, owner, *index, *len)? {
            Ok((snapshot, saved)) if will_do(&snapshot.meta, replay) => {
                chosen = Some((snapshot, saved));
                break;
            }
            Ok(read) => newest = newest.or(Some(read)),
            Err(damage) => {
                let (file, damage) = (FileName::Snapshot(*index), Damage::Snapshot(damage));
                damaged.push(Damaged { file, offset: 0, damage });
            }
        }
    }
    let is_usable = chosen.is_some() || is_whole_without(replay);
    if !is_usable && !replay.has_flush {
        return Err(refusal(replay, damaged.first(), candidates.is_empty()));
    }
    let (snapshot, saved) = if is_usable { chosen.unzip() } else { newest.unzip() };
    let used = saved.map(|saved: Saved| saved.index);
    let others = candidates.iter().map(|(index, _)| *index);
    let others = others.filter(|index| Some(*index) != used).collect();
    let meta = snapshot.as_ref().map(|snapshot| &snapshot.meta);
    let (base, term_runs, last_index) = if is_usable {
        join(meta, replay)
    } else {
        alone(meta.map_or(LogPosition::default(), |meta| meta.last))
    };
    Ok(Chosen { snapshot, saved, others, base, term_runs, last_index, damaged })
}

/// Reads a snapshot and checks all of it; the inner error is damage, which another may make good.
#[allow(clippy::type_complexity, reason = "two kinds of failure, told apart by the only caller")]
pub(super) fn read_snapshot(
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
        let (state_bytes, checksum) = (snapshot.meta.bytes, snapshot.meta.checksum);
        let (term, state_offset) = (snapshot.meta.last.term, header.state_offset());
        Ok((snapshot, Saved { index, term, state_offset, state_bytes, checksum }))
    }))
}

/// Whether the log goes on from this snapshot.
fn will_do(meta: &SnapshotMeta, replay: &Replay) -> bool {
    let last = meta.last;
    let first = replay.entries.first();
    let began_with = replay.reset.map(|mark| mark.snapshot);
    let is_lost = (first..=replay.last_index()).contains(&last.index)
        && replay.entries.slot(last.index).is_none();
    // `last` itself may be gone from the log already, but only if nothing after it is.
    let has_last = match replay.term_at(last.index) {
        Some(term) => term == last.term,
        None => first == last.index.next() || is_lost,
    };
    let is_connected = first <= last.index.next();
    // The log that was given up for a snapshot vouched for entries up to that one.
    let reaches = last.index.max(replay.last_index());
    is_connected
        && (has_last || began_with == Some(last.index))
        && began_with.is_none_or(|index| reaches >= index)
}

/// Whether the log can be replayed from its very beginning.
fn is_whole_without(replay: &Replay) -> bool {
    replay.entries.first() == LogIndex(1) && replay.reset.is_none()
}

fn refusal(replay: &Replay, damaged: Option<&Damaged>, is_without_snapshots: bool) -> StorageError {
    let base = replay.entries.first().previous();
    let first_segment = replay.segments.first();
    match damaged {
        Some(Damaged { file, damage: Damage::Snapshot(damage), .. }) => {
            StorageError::SnapshotDamaged { file: *file, damage: *damage, base }
        }
        Some(_) | None
            if is_without_snapshots && first_segment > SEGMENT_FIRST && replay.reset.is_none() =>
        {
            StorageError::MissingSegment { file: FileName::Segment(first_segment - 1) }
        }
        Some(_) | None => StorageError::MissingSnapshot { base },
    }
}

/// Where the usable log begins, the terms from there on, and where it ends. Entries before the
/// snapshot's own base are left out: their terms are not known, and nobody needs them.
fn join(
    meta: Option<&SnapshotMeta>,
    replay: &Replay,
) -> (LogPosition, Vec<(LogIndex, Term)>, LogIndex) {
    let Some(meta) = meta else {
        let last_index = last_before_hole(LogIndex::ZERO, replay);
        let runs = replay.term_runs.iter().filter(|(first, _)| *first <= last_index);
        return (LogPosition::default(), runs.copied().collect(), last_index);
    };
    let before_first = replay.entries.first().previous();
    let index = before_first.max(meta.base.index.min(replay.last_index()));
    let hole = replay.entries.first_hole(index.max(LogIndex(1)));
    if hole.is_some_and(|hole| hole <= meta.last.index) {
        return after(meta.last, replay);
    }
    let last_index = last_before_hole(index, replay);
    let is_in_log = index > before_first;
    let known = if is_in_log { &replay.term_runs } else { &meta.term_runs };
    let run = known.iter().rfind(|(first, _)| *first <= index).copied();
    let mark = replay.reset.filter(|_| !is_in_log);
    let term = mark.map(|mark| mark.base_term).or(run.map(|(_, term)| term));
    let base = LogPosition { index, term: term.unwrap_or_default() };
    let first = run.filter(|(_, term)| *term == base.term).map_or(index, |(first, _)| first);
    let begins = if index > LogIndex::ZERO { Some((first, base.term)) } else { None };
    (base, runs_from(begins, index, last_index, replay), last_index)
}

/// The log after `base`, up to which records are missing. If that of `base` itself is, those after it
/// may be of another log, which this one was to be replaced by; not so if they begin in the term of
/// `base`, whose one leader wrote them after it.
fn after(base: LogPosition, replay: &Replay) -> (LogPosition, Vec<(LogIndex, Term)>, LogIndex) {
    let known = replay.term_at(base.index).or_else(|| replay.term_at(base.index.next()));
    if known != Some(base.term) {
        return alone(base);
    }
    let last_index = last_before_hole(base.index, replay);
    let begins = Some((base.index, base.term));
    (base, runs_from(begins, base.index, last_index, replay), last_index)
}

/// No log but what comes after `base`.
fn alone(base: LogPosition) -> (LogPosition, Vec<(LogIndex, Term)>, LogIndex) {
    let run = (base.index, base.term);
    let runs = if base.index > LogIndex::ZERO { Vec::from([run]) } else { Vec::new() };
    (base, runs, base.index)
}

/// The last of the entries that follow `base` without a gap.
fn last_before_hole(base: LogIndex, replay: &Replay) -> LogIndex {
    let hole = replay.entries.first_hole(base.next());
    hole.map_or(replay.last_index(), LogIndex::previous).max(base)
}

fn runs_from(
    begins: Option<(LogIndex, Term)>,
    base: LogIndex,
    last_index: LogIndex,
    replay: &Replay,
) -> Vec<(LogIndex, Term)> {
    let mut term_runs: Vec<(LogIndex, Term)> = begins.into_iter().collect();
    let is_after = |run: &&(LogIndex, Term)| run.0 > base && run.0 <= last_index;
    for run in replay.term_runs.iter().filter(is_after).copied() {
        if term_runs.last().is_none_or(|(_, term)| *term != run.1) {
            term_runs.push(run);
        }
    }
    term_runs
}
