//! When a snapshot is made, what is in it, and what happens when one comes (§7).
//!
//! Owns the bytes of a snapshot: the sessions, then the state machine. Never writes a file.
//!
//! ```text
//!  0              8             8 + n
//!  +--------------+-------------+----------------+
//!  | sessions len |  sessions   | state machine  |
//!  |     u64      |   n bytes   |  to the end    |
//!  +--------------+-------------+----------------+
//! ```
//!
//! Little-endian. Next: `raft::snapshot` for what describes it, `storage` for the file.

use super::{Effect, Engine, Event};
use crate::hlc::Hlc;
use crate::ids::LogIndex;
use crate::limits::Limits;
use crate::raft::{Snapshot, SnapshotMeta};
use crate::session::Sessions;
use crate::state_machine::{RestoreError, StateMachine};
use alloc::boxed::Box;
use alloc::format;
use alloc::vec::Vec;

/// Bytes before the sessions.
const LENGTH_BYTES: usize = 8;

/// What decides about the next snapshot.
#[derive(Debug, Default)]
pub(super) struct Snapshots {
    /// Bytes of entries that were applied since the newest one.
    applied_bytes: u64,
    /// Bytes of the newest one.
    newest_bytes: u64,
    /// On its way to the disk.
    saving: Option<SnapshotMeta>,
    /// A follower waits for one of at least this entry.
    wanted: Option<LogIndex>,
    /// Entries before this one may go, once nobody reads them any more.
    purge: Option<LogIndex>,
}

impl Snapshots {
    pub(super) fn recovered(snapshot: Option<&Snapshot>) -> Self {
        let newest_bytes = snapshot.map_or(0, |snapshot| snapshot.meta.bytes);
        Self { newest_bytes, ..Self::default() }
    }

    pub(super) fn on_applied(&mut self, bytes: usize) {
        self.applied_bytes += bytes as u64;
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

/// A snapshot's bytes: those of the sessions, and those of the state machine.
pub(crate) fn split(bytes: &[u8]) -> Result<(&[u8], &[u8]), RestoreError> {
    let damaged = RestoreError::Damaged { what: "the length of its sessions", at: 0 };
    let (len, rest) = bytes.split_first_chunk::<LENGTH_BYTES>().ok_or(damaged)?;
    let len = usize::try_from(u64::from_le_bytes(*len)).unwrap_or(usize::MAX);
    rest.split_at_checked(len).ok_or(damaged)
}

impl<S: StateMachine> Engine<S> {
    /// Makes a snapshot if one is due, and lets go of what the last one made superfluous.
    pub(super) fn keep_snapshots(&mut self, effects: &mut Vec<Effect<S::Reply>>) {
        let newest = self.raft.snapshot().map_or(LogIndex::ZERO, |meta| meta.last.index);
        let is_new = self.applied_index > newest;
        // What is not durable here yet would be missing from the log after a crash.
        let is_durable = self.applied_index <= self.raft.durable_index();
        if is_new && is_durable && self.snapshots.saving.is_none() && self.is_snapshot_due(newest) {
            let snapshot = self.make_snapshot();
            self.snapshots.applied_bytes = 0;
            self.snapshots.newest_bytes = snapshot.meta.bytes;
            self.snapshots.wanted = None;
            self.snapshots.saving = Some(snapshot.meta.clone());
            effects.push(Effect::SaveSnapshot(Box::new(snapshot)));
        }
        if let Some(first) = self.snapshots.purge
            && !self.backups.is_any()
            && self.fetches.oldest().is_none_or(|oldest| oldest >= first)
        {
            self.snapshots.purge = None;
            effects.push(Effect::Purge { first, keep: Vec::new(), release: Vec::new() });
        }
    }

    /// What a backup is pulled from stays: no snapshot takes its place meanwhile, and nothing is let go
    /// of. One that is begun wants a snapshot now.
    fn is_snapshot_due(&self, newest: LogIndex) -> bool {
        let by_backup = self.backups.wants_snapshot(newest);
        by_backup.unwrap_or_else(|| self.snapshots.is_due(self.applied_index, &self.limits))
    }

    fn make_snapshot(&self) -> Snapshot {
        let mut bytes = Vec::new();
        bytes.extend_from_slice(&[0; LENGTH_BYTES]);
        self.sessions.snapshot(&mut bytes, S::write_reply);
        let sessions_len = (bytes.len() - LENGTH_BYTES) as u64;
        bytes[..LENGTH_BYTES].copy_from_slice(&sessions_len.to_le_bytes());
        self.machine.snapshot(&mut bytes);
        let oldest = self.oldest_entry();
        self.raft.make_snapshot(self.applied_index, self.applied_stamp, oldest, bytes)
    }

    /// The oldest entry of which a body may still be asked: by a message that waits, or by the
    /// repetition of a command whose reply a session remembers.
    fn oldest_entry(&self) -> Option<LogIndex> {
        let mut bodies = Vec::new();
        let mut oldest = self.machine.oldest_entry();
        for reply in self.sessions.replies() {
            bodies.clear();
            S::bodies(reply, &mut bodies);
            let of_reply = bodies.iter().map(|body| body.position.index).min();
            oldest = [oldest, of_reply].into_iter().flatten().min();
        }
        oldest
    }

    /// A snapshot is durable. Only one that was made here matters: what a leader's replaces went with it.
    pub(super) fn on_snapshot_saved(&mut self, index: LogIndex) {
        if let Some(meta) = self.snapshots.saving.take_if(|meta| meta.last.index == index) {
            self.snapshots.purge = Some(self.raft.on_snapshot_saved(meta));
        }
    }

    /// The leader's snapshot is whole: it is saved, and its state takes the place of this one.
    pub(super) fn install(&mut self, snapshot: Snapshot, effects: &mut Vec<Effect<S::Reply>>) {
        let SnapshotMeta { last, stamp, bytes, .. } = snapshot.meta;
        effects.push(Effect::SaveSnapshot(Box::new(snapshot.clone())));
        self.snapshots.saving = None;
        self.snapshots.purge = None;
        self.snapshots.applied_bytes = 0;
        self.snapshots.newest_bytes = bytes;
        self.abandon_bodies(effects);
        self.abandon_backup(effects);
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
        let (sessions, machine) = split(bytes)?;
        // First, since it tells a newer version from damage, and the replies have the same version.
        self.machine.restore(machine)?;
        self.sessions = Sessions::restore(&self.limits, sessions, S::read_reply)?;
        Ok(())
    }

    /// The stamp of the newest entry that is known here, in the log or in a snapshot.
    pub(super) fn newest_stamp(&self) -> Hlc {
        self.raft.last_stamp().max(self.applied_stamp)
    }
}
