//! Followers: take the leader's entries if they fit, and say how far the log is durably equal (§5.3).
//!
//! Next: `leader` for the other side.

use super::membership::Membership;
use super::message::{AppendOutcome, Body, LogPosition};
use super::role::{Follower, Role};
use super::snapshot::SnapshotMeta;
use super::{Output, Raft};
use crate::ids::{LogIndex, NodeId, Term};
use crate::record::{EntryKind, Record};
use crate::time::Micros;
use alloc::vec::Vec;

impl Raft {
    #[allow(clippy::too_many_arguments, reason = "the fields of one message, taken apart")]
    pub(super) fn on_append(
        &mut self,
        from: NodeId,
        previous: LogPosition,
        commit: LogIndex,
        round: u64,
        records: Vec<Record>,
        now: Micros,
        out: &mut Vec<Output>,
    ) {
        if !self.hear_leader(from, round, now, out) {
            return;
        }
        if let Some(at_least) = self.damaged_to {
            let outcome = AppendOutcome::WantsSnapshot { at_least };
            return self.respond_to_append(from, outcome, out);
        }
        let (previous, records) = self.skip_to_base(previous, records);
        if !self.log.matches(previous) {
            return self.reject_append(from, previous, out);
        }
        let last_new = LogIndex(previous.index.0 + records.len() as u64);
        let was_news = match self.take_records(previous, records, out) {
            Ok(was_news) => was_news,
            Err(Implausible) => return,
        };
        self.note_growth();
        self.validated_index = self.validated_index.max(last_new);
        // Only up to the last entry that this append validated: what follows in our log may still
        // differ from the leader's (§5.3, Figure 2, AppendEntries step 5).
        self.commit_index = self.commit_index.max(commit.min(last_new));
        if !was_news {
            self.answer_append(from, out);
        }
    }

    /// Whoever sends entries, or a snapshot, in this term leads it. `false` if that cannot be.
    pub(super) fn hear_leader(
        &mut self,
        from: NodeId,
        round: u64,
        now: Micros,
        out: &mut Vec<Output>,
    ) -> bool {
        match &self.role {
            // Two leaders in one term cannot be (§5.2): the message is forged or damaged.
            Role::Leader(_) => return false,
            Role::PreCandidate(_) | Role::Candidate(_) => {
                self.become_follower(self.term, Some(from), now, out);
            }
            Role::Follower(_) => {}
        }
        let election_at = self.draw_election_deadline(now);
        let Role::Follower(role) = &mut self.role else { unreachable!("made one above") };
        role.leader = Some(from);
        role.leader_heard_at = Some(now);
        role.election_at = election_at;
        role.round_heard = role.round_heard.max(round);
        true
    }

    /// What lies at or before the base is committed, so that the leader has the same, and is gone here.
    fn skip_to_base(
        &self,
        previous: LogPosition,
        mut records: Vec<Record>,
    ) -> (LogPosition, Vec<Record>) {
        let base = self.log.base();
        if previous.index >= base.index {
            return (previous, records);
        }
        records.retain(|record| record.index() > base.index);
        (base, records)
    }

    /// Appends what is new. Says whether anything was.
    fn take_records(
        &mut self,
        previous: LogPosition,
        records: Vec<Record>,
        out: &mut Vec<Output>,
    ) -> Result<bool, Implausible> {
        check_plausible(previous, self.term, self.snapshot.as_ref(), &records)?;
        let mut was_news = false;
        for record in records {
            let index = record.index();
            if self.log.term_at(index) == Some(record.term()) {
                continue;
            }
            if index <= self.log.last_index() {
                // §5.3: an existing entry conflicts with a new one. A committed one cannot.
                if index <= self.commit_index {
                    return Err(Implausible);
                }
                self.truncate_from(index, out);
            }
            self.log.append(record);
            was_news = true;
        }
        Ok(was_news)
    }

    fn truncate_from(&mut self, index: LogIndex, out: &mut Vec<Output>) {
        self.log.truncate_from(index);
        self.validated_index = self.validated_index.min(index.previous());
        if let Role::Follower(role) = &mut self.role {
            role.reported_index = role.reported_index.min(index.previous());
        }
        out.push(Output::Truncated { from: index });
    }

    fn reject_append(&mut self, from: NodeId, previous: LogPosition, out: &mut Vec<Output>) {
        let hint = self.log.last_not_after(previous.index, previous.term);
        // What lies before the base is committed, and so agrees whatever its term.
        let hint = if hint.index < self.log.base().index { self.log.base() } else { hint };
        let previous_index = previous.index;
        let outcome = if self.is_healing() {
            AppendOutcome::Lost { previous_index, hint }
        } else {
            AppendOutcome::Rejected { previous_index, hint }
        };
        self.respond_to_append(from, outcome, out);
    }

    fn respond_to_append(&mut self, to: NodeId, outcome: AppendOutcome, out: &mut Vec<Output>) {
        let Role::Follower(Follower { round_heard, .. }) = &self.role else { return };
        let (round, standing) = (*round_heard, self.standing());
        self.send_after_hard_state(to, Body::AppendResponse { round, standing, outcome }, out);
    }

    /// Tells the leader how far our log is both equal to its own and durable.
    pub(super) fn answer_append(&mut self, leader: NodeId, out: &mut Vec<Output>) {
        let durable_index = self.log.durable_index();
        let Role::Follower(role) = &mut self.role else { return };
        let match_index = self.validated_index.min(durable_index);
        role.reported_index = role.reported_index.max(match_index);
        self.respond_to_append(leader, AppendOutcome::Matched { match_index }, out);
    }

    /// The leader of this term has been told of an entry that this log, which nobody knows to be damaged,
    /// does not have.
    pub(super) fn on_older_copy(&self, from: NodeId, matched: LogPosition, out: &mut Vec<Output>) {
        let is_from_leader =
            matches!(&self.role, Role::Follower(role) if role.leader == Some(from));
        let has_it = matched.index <= self.log.base().index || self.log.matches(matched);
        if is_from_leader && self.is_whole() && !has_it {
            out.push(Output::OlderCopy { matched });
        }
    }

    /// More became durable: the leader wants to know.
    pub(super) fn report_progress(&mut self, out: &mut Vec<Output>) {
        let durable_index = self.log.durable_index();
        let Role::Follower(role) = &self.role else { return };
        let Some(leader) = role.leader else { return };
        if self.validated_index.min(durable_index) > role.reported_index {
            self.answer_append(leader, out);
        }
    }
}

/// An append that no correct leader sends. It is dropped as if the network had lost it.
struct Implausible;

/// Checks that records follow one another, with terms that do not fall, up to the leader's, and are
/// what the snapshot says where it reaches further than the log.
fn check_plausible(
    previous: LogPosition,
    leader_term: Term,
    snapshot: Option<&SnapshotMeta>,
    records: &[Record],
) -> Result<(), Implausible> {
    let mut before = previous;
    for record in records {
        let position = LogPosition { term: record.term(), index: record.index() };
        let is_next = position.index == before.index.next() && position.term >= before.term;
        let is_sound =
            record.kind() != EntryKind::Membership || Membership::decode(record.payload()).is_ok();
        let snapshot_term = snapshot.and_then(|meta| meta.term_at(position.index));
        let is_sound = is_sound && snapshot_term.is_none_or(|term| term == position.term);
        if !is_next || !is_sound || position.term > leader_term {
            return Err(Implausible);
        }
        before = position;
    }
    Ok(())
}
