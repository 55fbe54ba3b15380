//! Linearizable reads (thesis §6.4): on the leader, batched onto one round of heartbeats or covered by
//! a lease; and on followers, which ask the leader from where on they may answer.
//!
//! A round counts within its term and a request has a number of its own, so that no answer, however
//! late or repeated, vouches for anything but what it was given for.
//! Next: `engine::read` for what is answered then.

use super::message::Body;
use super::role::{ReadRequest, ReadRound, Reader, Role};
use super::{Output, Raft};
use crate::api::Token;
use crate::ids::{LogIndex, NodeId};
use crate::time::Micros;
use alloc::vec;
use alloc::vec::Vec;

/// Rounds whose beginning is remembered for a lease; a leader that has more of them unconfirmed has
/// long stepped down.
const ROUNDS_REMEMBERED_MAX: usize = 64;

impl Raft {
    /// Asks to read linearizably; the token comes back in [`Output::ReadsReady`] or
    /// [`Output::ReadsFailed`].
    ///
    /// # Panics
    /// If this member does not lead.
    pub fn read(&mut self, token: Token) {
        let Role::Leader(role) = &mut self.role else { panic!("only a leader takes reads") };
        role.reads.waiting.push(Reader::Here(token));
    }

    /// The same on whichever member: one that does not lead asks the leader at the next turn.
    pub fn read_here(&mut self, token: Token, out: &mut Vec<Output>) {
        match &mut self.role {
            Role::Leader(role) => role.reads.waiting.push(Reader::Here(token)),
            Role::Follower(role) => role.reads.waiting.push(token),
            Role::PreCandidate(_) | Role::Candidate(_) => {
                out.push(Output::ReadsFailed { tokens: vec![token] });
            }
        }
    }

    /// The reads of clients of this member, when it changes its role.
    pub(super) fn take_reads(&mut self) -> Vec<Token> {
        match &mut self.role {
            Role::Follower(role) => role.reads.take_tokens(),
            Role::PreCandidate(_) | Role::Candidate(_) => Vec::new(),
            Role::Leader(role) => {
                let under_way = role.reads.under_way.drain(..).flat_map(|round| round.readers);
                let readers = core::mem::take(&mut role.reads.waiting).into_iter().chain(under_way);
                let here = |reader| match reader {
                    Reader::Here(token) => Some(token),
                    Reader::At(..) => None,
                };
                readers.filter_map(here).collect()
            }
        }
    }

    /// Notes the commit index for the reads that wait, and starts a round that proves that nobody else
    /// led when it was noted; with leases every heartbeat is one. Says whether a round was started
    /// that has to go out now.
    pub(super) fn begin_read_round(&mut self, is_heartbeat_due: bool, now: Micros) -> bool {
        let commit_index = self.commit_index;
        // Before the first entry of the term is committed, the commit index may lag behind what an
        // earlier leader has answered for (§8).
        let is_current = self.has_committed_in_term();
        let has_leases = self.settings.lease_drift_ppm.is_some();
        let Role::Leader(role) = &mut self.role else { return false };
        let reads = &mut role.reads;
        let is_wanted = !reads.waiting.is_empty() && reads.under_way.is_empty() && is_current;
        let renews_lease = has_leases && is_heartbeat_due;
        if !is_wanted && !renews_lease {
            return false;
        }
        reads.round += 1;
        if has_leases {
            reads.begun.push_back((reads.round, now));
            if reads.begun.len() > ROUNDS_REMEMBERED_MAX {
                reads.begun.pop_front();
            }
        }
        if is_wanted {
            let readers = core::mem::take(&mut reads.waiting);
            let (round, index) = (reads.round, commit_index);
            reads.under_way.push_back(ReadRound { round, index, readers });
        }
        is_wanted
    }

    /// Hands out the reads whose round a quorum has confirmed, and under a lease all that wait.
    pub(super) fn release_reads(&mut self, now: Micros, out: &mut Vec<Output>) {
        let Role::Leader(role) = &self.role else { return };
        if role.reads.under_way.is_empty() && role.reads.waiting.is_empty() {
            return;
        }
        let confirmed = self.quorum_of(role.reads.round, 0, |progress| progress.confirmed_round);
        let has_lease = self.has_lease(confirmed, now);
        let commit_index = self.commit_index;
        let Role::Leader(role) = &mut self.role else { return };
        let mut released = Vec::new();
        while role.reads.under_way.front().is_some_and(|read| read.round <= confirmed || has_lease)
        {
            let ReadRound { index, readers, .. } =
                role.reads.under_way.pop_front().expect("just seen");
            released.push((index, readers));
        }
        if has_lease {
            released.push((commit_index, core::mem::take(&mut role.reads.waiting)));
        }
        for (index, readers) in released {
            self.release(index, readers, out);
        }
    }

    fn release(&self, index: LogIndex, readers: Vec<Reader>, out: &mut Vec<Output>) {
        let mut tokens = Vec::with_capacity(readers.len());
        for reader in readers {
            match reader {
                Reader::Here(token) => tokens.push(token),
                Reader::At(node, id) => {
                    self.send_now(node, Body::ReadResponse { id, index }, out);
                }
            }
        }
        if !tokens.is_empty() {
            out.push(Output::ReadsReady { tokens, index });
        }
    }

    /// Whether nobody else can have been elected yet: a quorum has heard this leader so lately that it
    /// refuses its votes to all others for a while (thesis §6.4.1), even if its clocks are as much faster as
    /// is allowed.
    fn has_lease(&self, confirmed: u64, now: Micros) -> bool {
        let (Role::Leader(role), Some(drift_ppm)) = (&self.role, self.settings.lease_drift_ppm)
        else {
            return false;
        };
        let is_given_up = role.transfer.is_some()
            || role.has_told_to_campaign
            || self.handicap.is_clock_bad
            || !self.has_committed_in_term();
        let began_at = role.reads.begun.iter().rev().find(|(round, _)| *round <= confirmed);
        let Some((_, began_at)) = began_at.filter(|_| !is_given_up) else { return false };
        let timeout = self.settings.election_timeout.0;
        let margin = timeout.saturating_mul(u64::from(drift_ppm)) / 1_000_000;
        now.since(*began_at) < Micros(timeout.saturating_sub(margin))
    }

    /// A follower's turn: asks the leader for what waits, and again if no answer came.
    pub(super) fn forward_reads(&mut self, now: Micros, out: &mut Vec<Output>) {
        let repeat_at = now + self.settings.heartbeat_interval;
        let Role::Follower(role) = &mut self.role else { return };
        let Some(leader) = role.leader else { return };
        let id = match &mut role.reads.under_way {
            Some(request) if request.repeat_at <= now => {
                request.repeat_at = repeat_at;
                request.id
            }
            None if !role.reads.waiting.is_empty() => {
                self.read_id = self.read_id.wrapping_add(1);
                let (id, tokens) = (self.read_id, core::mem::take(&mut role.reads.waiting));
                role.reads.under_way = Some(ReadRequest { id, tokens, repeat_at });
                id
            }
            Some(_) | None => return,
        };
        self.send_now(leader, Body::ReadRequest { id }, out);
    }

    /// A follower wants to answer reads. Of each follower the newest request counts. One that is a
    /// member no more would wait for entries that it does not get.
    pub(super) fn on_read_request(&mut self, from: NodeId, id: u64) {
        if !self.membership().contains(from) {
            return;
        }
        let Role::Leader(role) = &mut self.role else { return };
        let waiting = &mut role.reads.waiting;
        waiting.retain(|reader| !matches!(reader, Reader::At(node, _) if *node == from));
        waiting.push(Reader::At(from, id));
    }

    pub(super) fn on_read_response(&mut self, id: u64, index: LogIndex, out: &mut Vec<Output>) {
        let Role::Follower(role) = &mut self.role else { return };
        if role.reads.under_way.as_ref().is_some_and(|request| request.id == id) {
            let request = role.reads.under_way.take().expect("just seen");
            out.push(Output::ReadsReady { tokens: request.tokens, index });
        }
    }
}
