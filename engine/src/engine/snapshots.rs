//! When a snapshot is made, what is in it, and what happens when one comes (§7).
//!
//! Owns the bytes of a snapshot: whether space is short, the state machine, the sessions. They are
//! written in slices, one with each turn, while entries go on being applied; all of it is the state
//! after the entry at which it began. Never writes a file.
//!
//! ```text
//!  +----------+----------------+-------------+--------------+
//!  | shortage | state machine  |  sessions   | sessions len |
//!  |  bincode |                |   n bytes   |    n u64     |
//!  +----------+----------------+-------------+--------------+
//! ```
//!
//! Little-endian. Next: `raft::snapshot` for what describes it, `storage` for the file.

use super::live::Passing;
use super::{Effect, Engine, Event};
use crate::api::Shortage;
use crate::hlc::Hlc;
use crate::ids::LogIndex;
use crate::limits::Limits;
use crate::raft::{Snapshot, SnapshotMeta};
use crate::session::Sessions;
use crate::state_machine::{RestoreError, StateMachine, read_value};
use crate::wire;
use alloc::boxed::Box;
use alloc::format;
use alloc::vec::Vec;
use xxhash_rust::xxh3::Xxh3;

/// Bytes after the sessions.
const LENGTH_BYTES: usize = 8;

/// Bytes of a snapshot that are written in one turn: half a millisecond's work, or two.
const SLICE_BYTES: usize = 128 * 1024;

/// What decides about the next snapshot.
#[derive(Debug, Default)]
pub(super) struct Snapshots {
    /// Bytes of entries that were applied since the newest one.
    applied_bytes: u64,
    /// Bytes of the newest one.
    newest_bytes: u64,
    /// The next one, as far as it is written.
    writing: Option<Writing>,
    /// On its way to the disk.
    saving: Option<SnapshotMeta>,
    /// A follower waits for one of at least this entry.
    wanted: Option<LogIndex>,
    /// The store has yet to learn that the log begins with this entry now.
    purge: Option<LogIndex>,
}

/// A snapshot of which the rest has yet to be written.
struct Writing {
    /// The last entry in it.
    last: LogIndex,
    stamp: Hlc,
    bytes: Vec<u8>,
    /// Where the sessions begin, once the state machine is whole.
    sessions_start: Option<usize>,
    /// Of `bytes`: to take it of all at once would take longer than a slice may.
    checksum: Box<Xxh3>,
}

impl core::fmt::Debug for Writing {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let Self { last, bytes, .. } = self;
        let bytes = bytes.len();
        f.debug_struct("Writing").field("last", last).field("bytes", &bytes).finish_non_exhaustive()
    }
}

impl Snapshots {
    /// Whether a slice is to be written with the next turn.
    pub(super) fn is_writing(&self) -> bool {
        self.writing.is_some()
    }

    pub(super) fn recovered(snapshot: Option<&Snapshot>) -> Self {
        let newest_bytes = snapshot.map_or(0, |snapshot| snapshot.meta.bytes);
        Self { newest_bytes, ..Self::default() }
    }

    pub(super) fn on_applied(&mut self, bytes: usize) {
        self.applied_bytes += bytes as u64;
    }

    /// Bytes of the newest one.
    pub(super) fn newest_bytes(&self) -> u64 {
        self.newest_bytes
    }

    pub(super) fn want(&mut self, at_least: LogIndex) {
        self.wanted = Some(self.wanted.map_or(at_least, |wanted| wanted.max(at_least)));
    }

    /// As large as the log that it makes superfluous, or smaller: so a snapshot costs no more to write
    /// than the entries did.
    fn is_due(&self, applied_index: LogIndex, limits: &Limits) -> bool {
        let is_worth_it = self.applied_bytes >= limits.snapshot_log_bytes.max(self.newest_bytes);
        is_worth_it || self.wanted.is_some_and(|wanted| wanted <= applied_index)
    }
}

/// What is in a snapshot.
pub(crate) struct Parts<'a> {
    /// Whether space is short.
    pub(crate) shortage: Option<Shortage>,
    /// The state machine's own.
    pub(crate) machine: &'a [u8],
    /// The sessions' own.
    pub(crate) sessions: &'a [u8],
}

/// Takes the bytes of a snapshot apart.
pub(crate) fn split(mut bytes: &[u8]) -> Result<Parts<'_>, RestoreError> {
    let shortage = read_value(&mut bytes, "whether space is short")?;
    let damaged = RestoreError::Damaged { what: "the length of its sessions", at: bytes.len() };
    let (rest, len) = bytes.split_last_chunk::<LENGTH_BYTES>().ok_or(damaged)?;
    let len = usize::try_from(u64::from_le_bytes(*len)).unwrap_or(usize::MAX);
    let machine_len = rest.len().checked_sub(len).ok_or(damaged)?;
    let (machine, sessions) = rest.split_at(machine_len);
    Ok(Parts { shortage, machine, sessions })
}

impl<S: StateMachine> Engine<S> {
    /// Makes a snapshot if one is due, and lets go of what the last one made superfluous.
    pub(super) fn keep_snapshots(&mut self, effects: &mut Vec<Effect<S::Reply>>) {
        let newest = self.raft.snapshot().map_or(LogIndex::ZERO, |meta| meta.last.index);
        let is_new = self.applied_index > newest;
        // What is not durable here yet would be missing from the log after a crash.
        let is_durable = self.applied_index <= self.raft.durable_index();
        if is_new
            && is_durable
            && self.snapshots.saving.is_none()
            && self.snapshots.writing.is_none()
            && self.is_snapshot_due(newest)
        {
            self.begin_snapshot();
        }
        self.write_snapshot(effects);
        let is_pinned = self.backups.is_any();
        if let Some(first) = self.snapshots.purge.take_if(|_| !is_pinned) {
            let before = self.live.base().next();
            let Passing { keep, release } = self.pass_live(first);
            self.give_up_missing((before, first), &keep, &release);
            effects.push(Effect::Purge { first, keep, release });
        }
    }

    /// Whether the store still has what the log has passed.
    pub(super) fn is_purge_due(&self) -> bool {
        self.snapshots.purge.is_some()
    }

    /// What a backup is pulled from stays: no snapshot takes its place meanwhile, and nothing is let go
    /// of. One that is begun wants a snapshot now.
    fn is_snapshot_due(&self, newest: LogIndex) -> bool {
        let by_backup = self.backups.wants_snapshot(newest);
        by_backup.unwrap_or_else(|| self.snapshots.is_due(self.applied_index, &self.limits))
    }

    /// A snapshot of what is applied now. Its first slice is written before anything else is.
    fn begin_snapshot(&mut self) {
        self.machine.begin_snapshot();
        self.sessions.begin_snapshot(S::write_reply);
        self.snapshots.applied_bytes = 0;
        self.snapshots.wanted = None;
        let bytes = wire::encode(self.shortage());
        let mut checksum = Box::new(Xxh3::new());
        checksum.update(&bytes);
        self.snapshots.writing = Some(Writing {
            last: self.applied_index,
            stamp: self.applied_stamp,
            bytes,
            sessions_start: None,
            checksum,
        });
    }

    /// Writes the next slice; after the last the snapshot goes to the disk.
    fn write_snapshot(&mut self, effects: &mut Vec<Effect<S::Reply>>) {
        let Some(writing) = &mut self.snapshots.writing else { return };
        let start = writing.bytes.len();
        if writing.sessions_start.is_none()
            && self.machine.snapshot_piece(SLICE_BYTES, &mut writing.bytes)
        {
            writing.sessions_start = Some(writing.bytes.len());
        }
        let left = SLICE_BYTES.saturating_sub(writing.bytes.len() - start);
        let sessions_start = writing.sessions_start.filter(|_| left > 0);
        let is_whole = sessions_start.is_some_and(|start| {
            let is_whole = self.sessions.snapshot_piece(left, &mut writing.bytes);
            let len = (writing.bytes.len() - start) as u64;
            if is_whole {
                writing.bytes.extend_from_slice(&len.to_le_bytes());
            }
            is_whole
        });
        writing.checksum.update(&writing.bytes[start..]);
        if is_whole && let Some(writing) = self.snapshots.writing.take() {
            let Writing { last, stamp, bytes, checksum, .. } = writing;
            let checksum = checksum.digest();
            let snapshot = self.raft.make_summed_snapshot(last, stamp, bytes, checksum);
            self.snapshots.newest_bytes = snapshot.meta.bytes;
            self.snapshots.saving = Some(snapshot.meta.clone());
            effects.push(Effect::SaveSnapshot(Box::new(snapshot)));
        }
    }

    /// A snapshot is durable, and the log goes on from the one before. Of what it leaves behind, the store
    /// is to keep what is needed for the bodies in it. Only a snapshot that was made here matters: what a
    /// leader's replaces went with it.
    pub(super) fn on_snapshot_saved(&mut self, index: LogIndex) {
        if let Some(meta) = self.snapshots.saving.take_if(|meta| meta.last.index == index) {
            self.snapshots.purge = Some(self.raft.on_snapshot_saved(meta));
        }
    }

    /// The leader's snapshot is whole: it is saved, and its state takes the place of this one.
    pub(super) fn install(&mut self, snapshot: Snapshot, effects: &mut Vec<Effect<S::Reply>>) {
        let SnapshotMeta { last, stamp, bytes, .. } = snapshot.meta;
        effects.push(Effect::SaveSnapshot(Box::new(snapshot.clone())));
        self.snapshots.writing = None;
        self.snapshots.saving = None;
        self.snapshots.purge = None;
        self.snapshots.applied_bytes = 0;
        self.snapshots.newest_bytes = bytes;
        self.abandon_bodies(effects);
        self.abandon_backup(effects);
        self.repair.begin_anew();
        if let Err(error) = self.restore(&snapshot.bytes) {
            let index = last.index;
            let reason = format!("the leader's snapshot of entry {index} cannot be used: {error}");
            return self.fail(reason, effects);
        }
        self.applied_index = last.index;
        self.applied_stamp = stamp;
        let (index, term, hlc) = (last.index, last.term, stamp);
        effects.push(Effect::Event(Event::Installed { index, term, hlc }));
    }

    /// Takes the state out of a snapshot's bytes.
    pub(super) fn restore(&mut self, bytes: &[u8]) -> Result<(), RestoreError> {
        let Parts { sessions, shortage, machine } = split(bytes)?;
        // First, since it tells a newer version from damage, and the replies have the same version.
        self.machine.restore(machine)?;
        self.sessions = Sessions::restore(&self.limits, sessions, S::read_reply)?;
        self.restore_shortage(shortage);
        Ok(())
    }

    /// The stamp of the newest entry that is known here, in the log or in a snapshot.
    pub(super) fn newest_stamp(&self) -> Hlc {
        self.raft.last_stamp().max(self.applied_stamp)
    }
}
