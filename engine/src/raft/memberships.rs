//! The membership entries of a log, of which the newest counts, committed or not (§6).
//!
//! Owns their history as far back as a truncation may reach. Next: `membership` for what they say.

use super::membership::Membership;
use super::snapshot::SnapshotMeta;
use crate::ids::LogIndex;
use crate::storage::Recovered;
use alloc::vec::Vec;

/// Memberships with the entries that made them, in order; the founding one has index 0.
#[derive(Clone, Hash, Debug)]
pub(super) struct Memberships {
    /// Never empty. The first one is from before the log's first entry.
    history: Vec<(LogIndex, Membership)>,
    /// Counts changes of the newest one, so that those who must follow them notice.
    version: u64,
    /// Whether the newest one is joint or has a joining learner, so that there is something to be done.
    is_unsettled: bool,
}

impl Memberships {
    pub(super) fn new(founding: Membership, recovered: &Recovered) -> Self {
        let first = recovered.snapshot.as_ref().map(|snapshot| snapshot.meta.membership.clone());
        let first = first.unwrap_or((LogIndex::ZERO, founding));
        let mut history = Vec::with_capacity(1 + recovered.memberships.len());
        let after = first.0;
        history.push(first);
        history.extend(recovered.memberships.iter().filter(|(index, _)| *index > after).cloned());
        let mut memberships = Self { history, version: 0, is_unsettled: false };
        memberships.note_change();
        memberships
    }

    fn note_change(&mut self) {
        let newest = &self.newest().1;
        self.is_unsettled =
            newest.is_joint() || newest.members().iter().any(|member| member.is_joining);
        self.version += 1;
    }

    /// Whether the newest one asks for a further change by the leader.
    pub(super) fn is_unsettled(&self) -> bool {
        self.is_unsettled
    }

    /// The newest, and the entry that made it.
    pub(super) fn newest(&self) -> &(LogIndex, Membership) {
        self.history.last().expect("never empty")
    }

    /// The one that counts at `index`: the newest at or before it, or the oldest known.
    pub(super) fn at(&self, index: LogIndex) -> &(LogIndex, Membership) {
        let after = self.history.partition_point(|(made_at, _)| *made_at <= index);
        &self.history[after.saturating_sub(1)]
    }

    pub(super) fn version(&self) -> u64 {
        self.version
    }

    pub(super) fn push(&mut self, index: LogIndex, membership: Membership) {
        // Entries up to a snapshot's last come after it, and are older than its membership.
        if index > self.newest().0 {
            self.history.push((index, membership));
            self.note_change();
        }
    }

    pub(super) fn truncate_from(&mut self, from: LogIndex) {
        let kept = self.history.partition_point(|(index, _)| *index < from).max(1);
        if kept < self.history.len() {
            self.history.truncate(kept);
            self.note_change();
        }
    }

    /// Entries before `first` are gone and final.
    pub(super) fn purge(&mut self, first: LogIndex) {
        let gone = self.history.partition_point(|(index, _)| *index < first).saturating_sub(1);
        self.history.drain(..gone);
    }

    pub(super) fn reset(&mut self, snapshot: &SnapshotMeta) {
        self.history.clear();
        self.history.push(snapshot.membership.clone());
        self.note_change();
    }

    pub(super) fn check_invariants(&self) {
        assert!(
            self.history.is_sorted_by(|(a, _), (b, _)| a < b),
            "memberships_in_order_of_their_entries"
        );
    }
}
