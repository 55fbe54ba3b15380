//! Elections (§5.2, §5.4.1) with pre-vote (thesis §9.6): a member asks whether it could win before it
//! raises anybody's term, so that one that was cut off does not disturb the others when it is back.
//!
//! Next: `leader` for what the winner does.

use super::message::{Body, LogPosition};
use super::quorum::Tally;
use super::role::{Candidate, PreCandidate, Role, Votes};
use super::{Output, Raft};
use crate::ids::{LogIndex, NodeId, Term};
use crate::limits::VOTERS_MAX;
use crate::time::Micros;
use alloc::vec::Vec;

impl Raft {
    /// No leader was heard for long, or no election was won.
    pub(super) fn on_election_timeout(&mut self, now: Micros, out: &mut Vec<Output>) {
        // A candidate needs its disk at once; with one that has stalled it can but disturb.
        if self.may_campaign() && !self.is_disk_stalled(now) {
            self.become_pre_candidate(now, out);
        } else {
            self.become_follower(self.term, None, now, out);
        }
    }

    /// Whether this member may stand for election: it votes, and has all that it ever vouched for.
    ///
    /// It votes also if only an entry that may not be committed says otherwise (thesis §4.2.2): it may
    /// be the only one with that entry, whom all others need and nobody else can lead past.
    pub(super) fn may_campaign(&self) -> bool {
        let me = self.settings.node;
        let (_, committed) = self.log.memberships().at(self.commit_index);
        (self.membership().is_voter(me) || committed.is_voter(me))
            && !self.is_removed()
            && self.is_whole()
    }

    /// Whether the log reaches as far as this member ever vouched for.
    pub(super) fn is_whole(&self) -> bool {
        self.damaged_to.is_none() && self.log.last() >= self.vouched_position()
    }

    /// The end of what this member has vouched for: of its log, of the snapshot that its log has yet to
    /// grow up to, or of the log that it had before its disk was damaged.
    pub(super) fn vouched_position(&self) -> LogPosition {
        let snapshot = self.snapshot.as_ref().map_or(LogPosition::default(), |meta| meta.last);
        self.log.last().max(snapshot).max(self.vouched)
    }

    /// The voters but this member, as a copy without allocation.
    fn other_voters(&self) -> impl Iterator<Item = NodeId> + use<> {
        let me = self.settings.node;
        let mut others = [NodeId::ZERO; 2 * VOTERS_MAX];
        let mut count = 0;
        for node in self.membership().voters().filter(|node| *node != me) {
            others[count] = node;
            count += 1;
        }
        others.into_iter().take(count)
    }

    pub(super) fn become_pre_candidate(&mut self, now: Micros, out: &mut Vec<Output>) {
        let tokens = self.take_reads();
        if !tokens.is_empty() {
            out.push(Output::ReadsFailed { tokens });
        }
        let mut votes = Votes::default();
        votes.note(self.settings.node, true);
        let election_at = self.draw_election_deadline(now);
        self.role = Role::PreCandidate(PreCandidate { votes, election_at });
        let last = self.log.last();
        for to in self.other_voters() {
            let message =
                super::Message { term: self.term.next(), body: Body::PreVoteRequest { last } };
            out.push(Output::Send { to, message });
        }
        self.count_pre_votes(now, out);
    }

    pub(super) fn become_candidate(
        &mut self,
        is_transfer: bool,
        now: Micros,
        out: &mut Vec<Output>,
    ) {
        let tokens = self.take_reads();
        if !tokens.is_empty() {
            out.push(Output::ReadsFailed { tokens });
        }
        self.term = self.term.next();
        self.forget_validation();
        self.voted_for = Some(self.settings.node);
        self.hard_state_io = self.log.next_io();
        let election_at = self.draw_election_deadline(now);
        self.role = Role::Candidate(Candidate {
            votes: Votes::default(),
            election_at,
            own_vote_io: self.hard_state_io,
        });
        // The request states the end of our log, so it waits until that is durable, which it is with
        // the new term: an election won by entries that a crash then takes away would break leader
        // completeness (§5.4).
        let last = self.log.last();
        for to in self.other_voters() {
            self.send_after_hard_state(to, Body::VoteRequest { last, is_transfer }, out);
        }
    }

    /// §5.4.1: whether a log that ends at `last` is at least as up to date as ours.
    fn is_up_to_date(&self, last: LogPosition) -> bool {
        last >= self.vouched_position()
    }

    /// Answers a removed member that asks for votes with the news. It was cut off when it was removed, and
    /// would ask for ever. Says whether it did.
    pub(super) fn tell_removed(
        &self,
        from: NodeId,
        message: &super::Message,
        out: &mut Vec<Output>,
    ) -> bool {
        let (Body::PreVoteRequest { .. } | Body::VoteRequest { .. }) = message.body else {
            return false;
        };
        let (membership_index, membership) = self.log.memberships().at(self.commit_index);
        let is_removed = !membership.contains(from) && membership.was_given_out(from);
        if is_removed {
            self.send_now(from, Body::Removed { membership_index: *membership_index }, out);
        }
        is_removed
    }

    /// Another member knows of an entry that takes this one out. Ids are never reused, so that is final.
    pub(super) fn on_removed(&mut self, at: LogIndex, now: Micros, out: &mut Vec<Output>) {
        // A newer membership that is committed here tells more. One that is not may be of an earlier
        // leader's, whose place the removal took.
        let is_news = at > self.log.memberships().at(self.commit_index).0;
        if is_news && !self.is_leader() {
            self.removed_at = Some(at);
            self.become_follower(self.term, None, now, out);
        }
    }

    pub(super) fn on_pre_vote_request(
        &mut self,
        from: NodeId,
        asked_term: Term,
        last: LogPosition,
        now: Micros,
        out: &mut Vec<Output>,
    ) {
        let granted = asked_term > self.term && self.is_up_to_date(last) && !self.hears_leader(now);
        let body = Body::PreVoteResponse { granted };
        if granted {
            out.push(Output::Send { to: from, message: super::Message { term: asked_term, body } });
        } else {
            // In our own term: one who lags behind learns of it and asks again in a higher one, which
            // frees members with long logs and low terms.
            self.send_after_hard_state(from, body, out);
        }
    }

    pub(super) fn on_pre_vote_response(
        &mut self,
        from: NodeId,
        term: Term,
        granted: bool,
        now: Micros,
        out: &mut Vec<Output>,
    ) {
        let asked_term = self.term.next();
        let Role::PreCandidate(role) = &mut self.role else { return };
        // A yes carries the term that was asked for; one of an earlier attempt does not count.
        if !granted || term == asked_term {
            role.votes.note(from, granted);
        }
        self.count_pre_votes(now, out);
    }

    fn count_pre_votes(&mut self, now: Micros, out: &mut Vec<Output>) {
        let Role::PreCandidate(role) = &self.role else { return };
        match self.membership().tally(|node| role.votes.of(node)) {
            Tally::Won => self.become_candidate(false, now, out),
            Tally::Lost => self.become_follower(self.term, None, now, out),
            Tally::Open => {}
        }
    }

    pub(super) fn on_vote_request(
        &mut self,
        from: NodeId,
        last: LogPosition,
        is_transfer: bool,
        now: Micros,
        out: &mut Vec<Output>,
    ) {
        let is_free = self.voted_for.is_none_or(|node| node == from);
        let is_bound = self.hears_leader(now) && !is_transfer;
        let granted = is_free && !is_bound && self.is_up_to_date(last);
        if granted {
            if self.voted_for.is_none() {
                self.voted_for = Some(from);
                self.hard_state_io = self.log.next_io();
            }
            let election_at = self.draw_election_deadline(now);
            match &mut self.role {
                Role::Follower(role) => role.election_at = election_at,
                Role::PreCandidate(role) => role.election_at = election_at,
                // They have voted for themselves.
                Role::Candidate(_) | Role::Leader(_) => {}
            }
        }
        self.send_after_hard_state(from, Body::VoteResponse { granted }, out);
    }

    pub(super) fn on_vote_response(
        &mut self,
        from: NodeId,
        granted: bool,
        now: Micros,
        out: &mut Vec<Output>,
    ) {
        let Role::Candidate(role) = &mut self.role else { return };
        role.votes.note(from, granted);
        self.count_votes(now, out);
    }

    /// Our own vote counts like any other: when it is durable.
    pub(super) fn count_own_vote(&mut self, now: Micros, out: &mut Vec<Output>) {
        let durable_io = self.log.durable_io();
        let me = self.settings.node;
        let Role::Candidate(role) = &mut self.role else { return };
        if role.own_vote_io <= durable_io {
            role.votes.note(me, true);
            self.count_votes(now, out);
        }
    }

    fn count_votes(&mut self, now: Micros, out: &mut Vec<Output>) {
        let Role::Candidate(role) = &self.role else { return };
        match self.membership().tally(|node| role.votes.of(node)) {
            Tally::Won if role.votes.of(self.settings.node) == Some(true) => {
                self.become_leader(now);
            }
            // Elected by the others before our own vote is durable: wait for the disk, since a
            // leader of a term must remember that it stood in it.
            Tally::Won | Tally::Open => {}
            Tally::Lost => self.become_follower(self.term, None, now, out),
        }
    }
}
