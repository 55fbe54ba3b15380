//! Elections (§5.2, §5.4.1) with pre-vote (thesis §9.6): a member asks whether it could win before it
//! raises anybody's term, so that one that was cut off does not disturb the others when it is back.
//!
//! Next: `leader` for what the winner does.

use super::message::{Body, LogPosition};
use super::quorum::Tally;
use super::role::{Candidate, PreCandidate, Role, Votes};
use super::{Output, Raft};
use crate::ids::{NodeId, Term};
use crate::time::Micros;
use alloc::vec::Vec;

impl Raft {
    pub(super) fn become_pre_candidate(&mut self, now: Micros, out: &mut Vec<Output>) {
        let mut votes = Votes::default();
        votes.note(self.settings.node, true);
        let election_at = self.draw_election_deadline(now);
        self.role = Role::PreCandidate(PreCandidate { votes, election_at });
        let last = self.log.last();
        for to in self.others() {
            let message =
                super::Message { term: self.term.next(), body: Body::PreVoteRequest { last } };
            out.push(Output::Send { to, message });
        }
        self.count_pre_votes(now, out);
    }

    fn become_candidate(&mut self, now: Micros, out: &mut Vec<Output>) {
        self.term = self.term.next();
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
        for to in self.others() {
            self.send_after_hard_state(to, Body::VoteRequest { last, is_transfer: false }, out);
        }
    }

    /// §5.4.1: whether a log that ends at `last` is at least as up to date as ours.
    fn is_up_to_date(&self, last: LogPosition) -> bool {
        last >= self.log.last()
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
        match self.settings.membership.tally(|node| role.votes.of(node)) {
            Tally::Won => self.become_candidate(now, out),
            Tally::Lost => self.become_follower(self.term, None, now, out),
            Tally::Open => {}
        }
    }

    pub(super) fn on_vote_request(
        &mut self,
        from: NodeId,
        last: LogPosition,
        now: Micros,
        out: &mut Vec<Output>,
    ) {
        let is_free = self.voted_for.is_none_or(|node| node == from);
        let granted = is_free && self.is_up_to_date(last);
        if granted {
            if self.voted_for.is_none() {
                self.voted_for = Some(from);
                self.hard_state_io = self.log.next_io();
            }
            let election_at = self.draw_election_deadline(now);
            if let Role::Follower(role) = &mut self.role {
                role.election_at = election_at;
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
        match self.settings.membership.tally(|node| role.votes.of(node)) {
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
