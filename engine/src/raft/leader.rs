//! Leaders: decide what is committed, keep their followers, and step down when a quorum is no longer
//! heard (§5.3, §5.4.2, thesis §6.2).
//!
//! Owns one `Progress` for each follower. The leader counts itself only when an entry is durable here
//! (thesis §10.2.1).
//! Next: `replicate` for how entries go out, `reads`, `change` and `transfer` for the rest of a
//! leader's work; `engine` applies what becomes committed.

use super::message::{AppendOutcome, Body, LogPosition, Standing};
use super::progress::Progress;
use super::role::{Leader, Reads, Role};
use super::{Output, Raft};
use crate::ids::{LogIndex, NodeId};
use crate::record::Record;
use crate::time::Micros;
use alloc::vec::Vec;

impl Raft {
    pub(super) fn become_leader(&mut self, now: Micros) {
        let first_index = self.log.last_index().next();
        self.role = Role::Leader(Leader {
            followers: Vec::new(),
            membership_version: self.log.memberships().version(),
            heartbeat_at: now,
            first_index,
            reads: Reads::default(),
            transfer: None,
            has_told_to_campaign: false,
            no_transfer_before: now,
        });
        self.keep_followers(now);
    }

    /// The entry that the next record must be.
    #[must_use]
    pub fn next_index(&self) -> LogIndex {
        self.log.last_index().next()
    }

    /// Whether this member leads and has not yet appended the first entry of its term, which it
    /// must before anything else (§5.4.2, §8).
    #[must_use]
    pub fn wants_first_entry(&self) -> bool {
        matches!(&self.role, Role::Leader(role) if role.first_index > self.log.last_index())
    }

    /// Whether an entry of the leader's own term is committed, so that its commit index is current.
    #[must_use]
    pub fn has_committed_in_term(&self) -> bool {
        matches!(&self.role, Role::Leader(role) if role.first_index <= self.commit_index)
    }

    /// Appends the leader's own entry; it goes out at the next turn.
    ///
    /// # Panics
    /// If this member does not lead, or the record is not the next one of its term.
    pub fn append(&mut self, record: Record) {
        assert!(self.is_leader());
        assert_eq!(record.term(), self.term);
        self.log.append(record);
    }

    /// A leader's turn.
    pub(super) fn lead(&mut self, now: Micros, out: &mut Vec<Output>) {
        self.follow_membership(now);
        let Role::Leader(role) = &mut self.role else { return };
        let is_heartbeat_due = role.heartbeat_at <= now;
        if is_heartbeat_due {
            role.heartbeat_at = now + self.settings.heartbeat_interval;
            if !self.hears_quorum(now) {
                return self.become_follower(self.term, None, now, out);
            }
        }
        if self.gives_way(now, out) {
            return;
        }
        if is_heartbeat_due {
            self.hand_over_if_better(now, out);
        }
        self.go_on_transferring(now, out);
        let is_read_round_due = self.begin_read_round(is_heartbeat_due, now);
        let mut at = 0;
        while let Some(follower) = self.follower_at(at) {
            if is_heartbeat_due || is_read_round_due {
                self.send_heartbeat(follower, now, out);
            }
            self.send_entries(follower, now, out);
            at += 1;
        }
        if is_heartbeat_due {
            self.dismiss_departed(now);
        }
        self.release_reads(now, out);
    }

    /// The follower of that ordinal among those whom the leader sends to.
    pub(super) fn follower_at(&self, at: usize) -> Option<NodeId> {
        let Role::Leader(role) = &self.role else { return None };
        role.followers.get(at).map(|(node, _)| *node)
    }

    /// Thesis §6.2: a leader that has not heard a quorum for an election timeout is deposed or cut
    /// off, and must not let its clients wait.
    fn hears_quorum(&self, now: Micros) -> bool {
        let heard_at = self.quorum_of(now, Micros::ZERO, |progress| progress.responded_at);
        now.since(heard_at) <= self.settings.election_timeout
    }

    /// The greatest value that a quorum has reached, where this member has reached `own`.
    pub(super) fn quorum_of<V: Ord + Copy>(
        &self,
        own: V,
        none: V,
        value_of: impl Fn(&Progress) -> V,
    ) -> V {
        let Role::Leader(role) = &self.role else { return none };
        let me = self.settings.node;
        self.membership().quorum_value(|node| {
            if node == me { own } else { role.progress(node).map_or(none, &value_of) }
        })
    }

    pub(super) fn on_append_response(
        &mut self,
        from: NodeId,
        (round, standing): (u64, Standing),
        outcome: AppendOutcome,
        now: Micros,
        out: &mut Vec<Output>,
    ) {
        let (base, last_index) = (self.log.base().index, self.log.last_index());
        let election_timeout = self.settings.election_timeout;
        let Some(progress) = self.on_response(from, round, standing, now) else { return };
        let is_outdated = round < progress.trusted_from_round;
        match outcome {
            AppendOutcome::Matched { .. }
            | AppendOutcome::WantsSnapshot { .. }
            | AppendOutcome::Lost { .. }
                if is_outdated => {}
            AppendOutcome::Matched { match_index } if match_index <= last_index => {
                progress.on_matched(match_index, base);
                progress.note_catch_up(last_index, election_timeout, now);
                self.advance_commit();
            }
            AppendOutcome::StaleTerm => {}
            // Nobody can match more than there is: forged or damaged.
            AppendOutcome::Matched { .. } => return,
            AppendOutcome::Rejected { previous_index, hint } => {
                self.on_rejected(from, previous_index, hint, now, out);
            }
            AppendOutcome::Lost { previous_index, hint } => {
                self.on_lost(from, hint);
                self.on_rejected(from, previous_index, hint, now, out);
            }
            AppendOutcome::WantsSnapshot { at_least } => {
                self.on_wants_snapshot(from, at_least, now, out);
            }
        }
        self.release_reads(now, out);
        self.send_entries(from, now, out);
    }

    fn on_rejected(
        &mut self,
        from: NodeId,
        previous_index: LogIndex,
        hint: LogPosition,
        now: Micros,
        out: &mut Vec<Output>,
    ) {
        let agreement = self.log.last_not_after(hint.index, hint.term).index;
        let election_timeout = self.settings.election_timeout;
        let Some(progress) = self.progress_mut(from) else { return };
        let index = progress.match_index;
        let is_contradiction = progress.contradicts_itself(previous_index, election_timeout, now);
        if is_contradiction && let Some(term) = self.log.term_at(index) {
            let matched = LogPosition { term, index };
            return self.send_now(from, Body::OlderCopy { matched }, out);
        }
        let Some(progress) = self.progress_mut(from) else { return };
        if progress.on_rejected(previous_index, agreement) {
            self.send_heartbeat(from, now, out);
        }
    }

    /// A follower's disk has lost entries that it had matched in this term. They go again. What was
    /// committed by counting it stays so: until it has them back it elects nobody who lacks them.
    fn on_lost(&mut self, from: NodeId, hint: LogPosition) {
        let agreement = self.log.last_not_after(hint.index, hint.term).index;
        let Role::Leader(role) = &mut self.role else { return };
        let next_round = role.reads.round + 1;
        let Some(progress) = role.progress_mut(from) else { return };
        if progress.match_index > agreement {
            progress.on_lost(agreement, next_round);
            role.reads.round = next_round;
        }
    }

    /// Notes what every response says, and gives the follower's progress if the response can be.
    pub(super) fn on_response(
        &mut self,
        from: NodeId,
        round: u64,
        standing: Standing,
        now: Micros,
    ) -> Option<&mut Progress> {
        let Role::Leader(role) = &mut self.role else { return None };
        if round > role.reads.round {
            return None;
        }
        let progress = role.progress_mut(from)?;
        progress.on_response(round, standing, now);
        Some(progress)
    }

    pub(super) fn progress_mut(&mut self, node: NodeId) -> Option<&mut Progress> {
        let Role::Leader(role) = &mut self.role else { return None };
        role.progress_mut(node)
    }

    /// Commits the longest prefix that a quorum stores durably.
    pub(super) fn advance_commit(&mut self) {
        let durable_index = self.log.durable_index();
        let quorum_index =
            self.quorum_of(durable_index, LogIndex::ZERO, |progress| progress.match_index);
        assert!(quorum_index <= self.log.last_index());
        // §5.4.2, Figure 8: an entry of an older term may be on a quorum and still be overwritten,
        // so only entries of this term commit by counting.
        if quorum_index > self.commit_index && self.log.term_at(quorum_index) == Some(self.term) {
            self.commit_index = quorum_index;
        }
    }
}
