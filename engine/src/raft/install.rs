//! Followers that lack what they cannot get as entries, or have lost what they had: collect the pieces
//! of a snapshot, and begin the log anew when it is whole (§7).
//!
//! The bytes are kept in memory until then. They are the same on every member that snapshots at the
//! same entry, so that what has come is of use even if another leader sends the rest.
//! Next: `replicate` for the other side, `snapshot` for what becomes of the log.

use super::message::{Body, LogPosition};
use super::role::Role;
use super::snapshot::{Snapshot, SnapshotMeta};
use super::{Output, Raft};
use crate::ids::{LogIndex, NodeId};
use crate::limits;
use crate::time::Micros;
use alloc::boxed::Box;
use alloc::vec::Vec;
use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64;

/// A snapshot, as far as it has come.
#[derive(Clone, Hash, Debug)]
pub(super) struct Incoming {
    meta: SnapshotMeta,
    bytes: Vec<u8>,
}

impl Incoming {
    fn new(meta: SnapshotMeta) -> Self {
        Self { meta, bytes: Vec::new() }
    }

    /// Whether a piece that comes with `meta` belongs here. Bases may differ from leader to leader.
    fn is_of(&self, meta: &SnapshotMeta) -> bool {
        let identity = |meta: &SnapshotMeta| (meta.last, meta.bytes, meta.checksum);
        identity(&self.meta) == identity(meta)
    }

    /// Takes a piece if it is the next one.
    fn take(&mut self, offset: u64, chunk: &[u8]) {
        let fits = (self.bytes.len() + chunk.len()) as u64 <= self.meta.bytes;
        if offset == self.bytes.len() as u64 && fits {
            self.bytes.extend_from_slice(chunk);
        }
    }
}

impl Raft {
    #[allow(clippy::too_many_arguments, reason = "the fields of one message, taken apart")]
    pub(super) fn on_snapshot(
        &mut self,
        from: NodeId,
        round: u64,
        meta: &SnapshotMeta,
        offset: u64,
        chunk: &Bytes,
        now: Micros,
        out: &mut Vec<Output>,
    ) {
        if !self.hear_leader(from, round, now, out) {
            return;
        }
        if !meta.is_sound() || meta.bytes > limits::SNAPSHOT_BYTES_MAX {
            return;
        }
        if !self.needs(meta) {
            return self.catch_up_with(from, meta, out);
        }
        let mut incoming = match self.incoming.take() {
            Some(mut incoming) if incoming.is_of(meta) => {
                incoming.meta = meta.clone();
                incoming
            }
            Some(_) | None => Incoming::new(meta.clone()),
        };
        incoming.take(offset, chunk);
        if incoming.bytes.len() as u64 == meta.bytes {
            if xxh3_64(&incoming.bytes) == meta.checksum {
                return self.install(incoming, out);
            }
            // Damaged on the way or where it was read: from the beginning.
            incoming.bytes.clear();
        }
        let (standing, last) = (self.standing(), meta.last);
        let next_offset = incoming.bytes.len() as u64;
        self.incoming = Some(incoming);
        let body = Body::SnapshotResponse { round, standing, last, next_offset };
        self.send_after_hard_state(from, body, out);
    }

    /// Whether the log cannot do without this snapshot.
    fn needs(&self, meta: &SnapshotMeta) -> bool {
        if let Some(at_least) = self.damaged_to {
            return meta.last.index >= at_least;
        }
        // What the leader was told in this term must stay true: to begin the log anew at a place before
        // it would take back what the leader counts on.
        if self.validated_index >= meta.base.index && self.log.last_index() >= meta.base.index {
            return false;
        }
        let is_newer = meta.last.index > self.commit_index;
        // An older state is of use if the log between the two is gone where it comes from.
        let bridges_a_gap = self.log.last_index() < meta.base.index;
        (is_newer || bridges_a_gap) && !self.log.matches(meta.last)
    }

    /// §7: what the log holds already, it need not be given. And it is committed.
    fn catch_up_with(&mut self, from: NodeId, meta: &SnapshotMeta, out: &mut Vec<Output>) {
        if self.damaged_to.is_none() && self.log.matches(meta.last) {
            self.commit_index = self.commit_index.max(meta.last.index);
            self.validated_index = self.validated_index.max(meta.last.index);
        }
        self.incoming = None;
        self.answer_append(from, out);
    }

    /// The log begins anew after the base, and until it has grown up to the snapshot's last entry this
    /// member never stands for election: see `vouched_position`.
    fn install(&mut self, incoming: Incoming, out: &mut Vec<Output>) {
        let Incoming { meta, bytes } = incoming;
        let base = meta.base;
        self.damaged_to = None;
        self.validated_index = base.index;
        if let Role::Follower(role) = &mut self.role {
            role.reported_index = LogIndex::ZERO;
        }
        match &self.snapshot {
            Some(own) if own.last >= meta.last => self.log.reset(&meta, own),
            Some(_) | None => {
                self.log.reset(&meta, &meta);
                self.commit_index = self.commit_index.max(meta.last.index);
                self.snapshot = Some(meta.clone());
                let bytes = Bytes::from(bytes);
                out.push(Output::Install(Box::new(Snapshot { meta, bytes })));
            }
        }
        self.note_growth();
    }

    /// Whether the disk has lost entries that this member vouched for, and it does not have them back.
    ///
    /// It takes entries as any follower does. It judges candidates as if its log still ended where it
    /// did, and does not stand itself; so whoever is elected has all that was ever committed by its
    /// word (Alagappan et al., "Protocol-Aware Recovery for Consensus-Based Storage", FAST 2018).
    #[must_use]
    pub fn is_healing(&self) -> bool {
        self.vouched > LogPosition::default()
    }

    /// What this member has vouched for and its log does not reach; 0 if it reaches everything.
    #[must_use]
    pub fn vouched(&self) -> LogPosition {
        self.vouched
    }

    /// The log has grown. If it ends no earlier than the lost one, in the order of §5.4.1, nothing that
    /// was committed is missing from it. Its last entry came from the leader of that entry's term, and
    /// with it, by log matching, all that this leader had before. If the lost log ended in that term
    /// too, this one is no shorter; if in an earlier one, that leader was elected with all that was
    /// committed by then.
    pub(super) fn note_growth(&mut self) {
        if self.log.last() >= self.vouched {
            self.vouched = LogPosition::default();
        }
    }

    /// This member knows that it cannot read what its log should hold: it asks for a snapshot of all
    /// that it ever vouched for, and neither leads nor takes entries until it has it.
    pub fn request_snapshot(&mut self) {
        self.damaged_to = Some(self.log.last_index());
    }
}
