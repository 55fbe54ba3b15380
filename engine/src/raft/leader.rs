//! Leaders: replicate entries, decide what is committed, confirm reads, and step down when a quorum
//! is no longer heard (§5.3, §5.4.2, thesis §6.2 and §6.4).
//!
//! Owns one `Progress` for each follower. Entries go out before they are durable here; the leader
//! counts itself only when they are (thesis §10.2.1).
//! Next: `engine` applies what becomes committed.

use super::message::{AppendOutcome, Body, LogPosition};
use super::progress::Progress;
use super::role::{Leader, Reads, Role};
use super::{Output, Raft};
use crate::api::Token;
use crate::ids::{LogIndex, NodeId};
use crate::limits;
use crate::record::Record;
use crate::time::Micros;
use alloc::vec::Vec;

impl Raft {
    pub(super) fn become_leader(&mut self, now: Micros) {
        let next_index = self.log.last_index().next();
        let followers = self.others().map(|node| (node, Progress::new(next_index, now)));
        self.role = Role::Leader(Leader {
            followers: followers.collect(),
            heartbeat_at: now,
            first_index: next_index,
            reads: Reads::default(),
        });
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

    /// Appends the leader's own entry; it goes out at the next turn.
    ///
    /// # Panics
    /// If this member does not lead, or the record is not the next one of its term.
    pub fn append(&mut self, record: Record) {
        assert!(self.is_leader());
        assert_eq!(record.term(), self.term);
        self.log.append(record);
    }

    /// Asks to read linearizably; the token comes back in [`Output::ReadsReady`] or
    /// [`Output::ReadsFailed`].
    ///
    /// # Panics
    /// If this member does not lead.
    pub fn read(&mut self, token: Token) {
        let Role::Leader(role) = &mut self.role else { panic!("only a leader takes reads") };
        role.reads.waiting.push(token);
    }

    /// A leader's turn.
    pub(super) fn lead(&mut self, now: Micros, out: &mut Vec<Output>) {
        let Role::Leader(role) = &mut self.role else { return };
        let is_heartbeat_due = role.heartbeat_at <= now;
        if is_heartbeat_due {
            role.heartbeat_at = now + self.settings.heartbeat_interval;
            if !self.hears_quorum(now) {
                return self.become_follower(self.term, None, now, out);
            }
        }
        let is_read_round_due = self.begin_read_round();
        if is_heartbeat_due || is_read_round_due {
            for follower in self.others() {
                self.send_heartbeat(follower, out);
            }
        }
        for follower in self.others() {
            self.send_entries(follower, out);
        }
        self.advance_commit();
        self.release_reads(out);
    }

    /// Thesis §6.2: a leader that has not heard a quorum for an election timeout is deposed or cut
    /// off, and must not let its clients wait.
    fn hears_quorum(&self, now: Micros) -> bool {
        let Role::Leader(role) = &self.role else { return false };
        let me = self.settings.node;
        let heard_at = self.settings.membership.quorum_value(|node| {
            if node == me {
                now
            } else {
                role.progress(node).map_or(Micros::ZERO, |p| p.responded_at)
            }
        });
        now.since(heard_at) <= self.settings.election_timeout
    }

    /// An empty append just before the next entry to send: as a heartbeat it also finds out that an
    /// earlier append was lost, as a probe it finds out where the logs agree.
    fn send_heartbeat(&mut self, to: NodeId, out: &mut Vec<Output>) {
        let Role::Leader(role) = &self.role else { return };
        let Some(progress) = role.progress(to) else { return };
        self.send_append(to, progress.next_index.previous(), Vec::new(), out);
    }

    /// Sends what the follower's window has room for.
    pub(super) fn send_entries(&mut self, to: NodeId, out: &mut Vec<Output>) {
        let last_index = self.log.last_index();
        let cache_first = self.log.cache_first();
        loop {
            let limits = &self.settings.limits;
            let Role::Leader(role) = &mut self.role else { return };
            let Some(progress) = role.progress_mut(to) else { return };
            let first = progress.next_index;
            if first > last_index || progress.is_fetching || !progress.has_room(limits) {
                return;
            }
            if first < cache_first {
                progress.is_fetching = true;
                out.push(Output::Fetch { follower: to, first });
                return;
            }
            let records_max = progress.room_entries(limits).min(limits::APPEND_RECORDS_MAX);
            let bytes_max = limits::APPEND_BYTES_TARGET.min(limits.inflight_bytes_max);
            let run = self.log.cached_run(first, records_max, bytes_max);
            self.send_records(to, run, out);
        }
    }

    /// Entries that a follower needed were read; none if they could not be.
    pub fn on_fetched(&mut self, follower: NodeId, records: Vec<Record>, out: &mut Vec<Output>) {
        let Role::Leader(role) = &mut self.role else { return };
        let Some(progress) = role.progress_mut(follower) else { return };
        progress.is_fetching = false;
        let next_index = progress.next_index;
        let is_wanted = progress.has_room(&self.settings.limits)
            && records.first().is_some_and(|record| record.index() == next_index)
            // The disk may still hold entries that were replaced since.
            && records.iter().all(|r| self.log.term_at(r.index()) == Some(r.term()));
        if is_wanted {
            self.send_records(follower, records, out);
        }
    }

    fn send_records(&mut self, to: NodeId, records: Vec<Record>, out: &mut Vec<Output>) {
        let (Some(first), Some(last)) = (records.first(), records.last()) else { return };
        let (previous_index, last_index) = (first.index().previous(), last.index());
        let bytes = records.iter().map(|record| record.bytes().len()).sum();
        let Role::Leader(role) = &mut self.role else { return };
        let Some(progress) = role.progress_mut(to) else { return };
        progress.on_sent(last_index, bytes);
        self.send_append(to, previous_index, records, out);
    }

    fn send_append(
        &self,
        to: NodeId,
        previous_index: LogIndex,
        records: Vec<Record>,
        out: &mut Vec<Output>,
    ) {
        let Role::Leader(role) = &self.role else { return };
        let term = self.log.term_at(previous_index).expect("next_within_log");
        let previous = LogPosition { term, index: previous_index };
        let (commit, round) = (self.commit_index, role.reads.round);
        // Safe before our own flush: the term is durable, and a follower's acknowledgement counts
        // for the follower alone.
        self.send_now(to, Body::Append { previous, commit, round, records }, out);
    }

    pub(super) fn on_append_response(
        &mut self,
        from: NodeId,
        round: u64,
        outcome: AppendOutcome,
        now: Micros,
        out: &mut Vec<Output>,
    ) {
        let last_index = self.log.last_index();
        let Role::Leader(role) = &mut self.role else { return };
        if round > role.reads.round {
            return;
        }
        let Some(progress) = role.progress_mut(from) else { return };
        progress.responded_at = now;
        progress.confirmed_round = progress.confirmed_round.max(round);
        match outcome {
            AppendOutcome::Matched { match_index } if match_index <= last_index => {
                progress.on_matched(match_index);
                self.advance_commit();
            }
            AppendOutcome::WantsSnapshot => return,
            // Nobody can match more than there is: forged or damaged.
            AppendOutcome::Matched { .. } => return,
            AppendOutcome::Rejected { previous_index, hint } => {
                let agreement = self.log.last_not_after(hint.index, hint.term).index;
                if progress.on_rejected(previous_index, agreement) {
                    self.send_heartbeat(from, out);
                }
            }
        }
        self.release_reads(out);
        self.send_entries(from, out);
    }

    /// Commits the longest prefix that a quorum stores durably.
    pub(super) fn advance_commit(&mut self) {
        let Role::Leader(role) = &self.role else { return };
        let me = self.settings.node;
        let durable_index = self.log.durable_index();
        let quorum_index = self.settings.membership.quorum_value(|node| {
            if node == me {
                durable_index
            } else {
                role.progress(node).map_or(LogIndex::ZERO, |progress| progress.match_index)
            }
        });
        assert!(quorum_index <= self.log.last_index());
        // §5.4.2, Figure 8: an entry of an older term may be on a quorum and still be overwritten,
        // so only entries of this term commit by counting.
        if quorum_index > self.commit_index && self.log.term_at(quorum_index) == Some(self.term) {
            self.commit_index = quorum_index;
        }
    }

    /// Thesis §6.4: notes the commit index for the reads that wait, and starts a round that proves
    /// that nobody else led when it was noted. Says whether one was started.
    fn begin_read_round(&mut self) -> bool {
        let commit_index = self.commit_index;
        let Role::Leader(role) = &mut self.role else { return false };
        let reads = &mut role.reads;
        // Before the first entry of the term is committed, the commit index may lag behind what an
        // earlier leader has answered for (§8).
        let is_current = commit_index >= role.first_index;
        if reads.waiting.is_empty() || !reads.under_way.is_empty() || !is_current {
            return false;
        }
        reads.round += 1;
        let tokens = core::mem::take(&mut reads.waiting);
        reads.under_way.push_back((reads.round, commit_index, tokens));
        true
    }

    /// Hands out the reads whose round a quorum has confirmed.
    fn release_reads(&mut self, out: &mut Vec<Output>) {
        let me = self.settings.node;
        let Role::Leader(role) = &mut self.role else { return };
        if role.reads.under_way.is_empty() {
            return;
        }
        let confirmed = self.settings.membership.quorum_value(|node| {
            if node == me {
                role.reads.round
            } else {
                role.progress(node).map_or(0, |progress| progress.confirmed_round)
            }
        });
        while role.reads.under_way.front().is_some_and(|(round, _, _)| *round <= confirmed) {
            let (_, index, tokens) = role.reads.under_way.pop_front().expect("just seen");
            out.push(Output::ReadsReady { tokens, index });
        }
    }
}
