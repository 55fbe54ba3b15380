//! Membership changes and transfers of leadership, from the request to the answer.
//!
//! Owns the tokens of those who wait. What may be done is decided by `raft`.

use super::{Effect, Engine, Event};
use crate::api::{Rejection, Response, Token, TransferError};
use crate::ids::{LogIndex, NodeId};
use crate::raft::{ChangeError, ChangeRequest, Leave, Membership, Planned, Raft};
use crate::record::{EntryKind, RecordBuilder};
use crate::state_machine::StateMachine;
use crate::time::{Micros, Now};
use alloc::boxed::Box;
use alloc::vec::Vec;

/// Who waits for a change, and what the surroundings were told.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// For the change that is under way; there is one at a time.
    waiting: Option<Token>,
    /// For another leader.
    transfers: Vec<Token>,
    /// Until when, once this member leads no more and does not know who does.
    transfers_until: Option<Micros>,
    told_version: u64,
    /// Whether the newest membership has this member.
    is_member: bool,
    has_told_removed: bool,
}

impl Changes {
    pub(super) fn new(raft: &Raft) -> Self {
        let is_member = raft.membership().contains(raft.node());
        Self { told_version: raft.membership_version(), is_member, ..Self::default() }
    }

    pub(super) fn waiting(&self) -> usize {
        usize::from(self.waiting.is_some()) + self.transfers.len()
    }

    pub(super) fn next_deadline(&self) -> Option<Micros> {
        self.transfers_until
    }
}

impl<S: StateMachine> Engine<S> {
    pub(super) fn change(
        &mut self,
        now: Now,
        token: Token,
        request: &ChangeRequest,
        effects: &mut Vec<Effect<S::Reply>>,
    ) -> Result<(), Response<S::Reply>> {
        let refused = |error| Response::Rejected(Rejection::Change(error));
        match self.raft.plan_change(request, now.monotonic).map_err(refused)? {
            Planned::Done(index) => Err(self.changed(index)),
            Planned::Append(membership) => {
                // Only a cancellation comes while another request waits.
                if let Some(token) = self.changes.waiting.replace(token) {
                    let response = Response::Rejected(Rejection::Change(ChangeError::Cancelled));
                    effects.push(Effect::Respond { token, response });
                }
                self.append_membership(now, &membership);
                Ok(())
            }
        }
    }

    fn append_membership(&mut self, now: Now, membership: &Membership) {
        let mut builder = RecordBuilder::default();
        builder.payload_mut().extend_from_slice(&membership.encode());
        self.append(now, builder, EntryKind::Membership);
    }

    /// The end of a joint phase, or the promotion of a learner that has caught up.
    pub(super) fn append_wanted_membership(&mut self, now: Now) {
        if let Some(membership) = self.raft.wants_membership(now.monotonic) {
            self.append_membership(now, &membership);
        }
    }

    fn changed(&self, index: LogIndex) -> Response<S::Reply> {
        Response::Changed { index, membership: Box::new(self.raft.membership().clone()) }
    }

    /// Answers the change whose last entry is committed, by the voters that it leaves.
    pub(super) fn answer_change(&mut self, effects: &mut Vec<Effect<S::Reply>>) {
        if self.changes.waiting.is_none() {
            return;
        }
        let index = self.raft.membership_index();
        let membership = self.raft.membership();
        let is_over = !membership.is_joint() || membership.leave() == Leave::Explicit;
        if is_over && index <= self.raft.commit_index() {
            let token = self.changes.waiting.take().expect("just seen");
            let response = self.changed(index);
            effects.push(Effect::Respond { token, response });
        }
    }

    pub(super) fn transfer(
        &mut self,
        now: Now,
        token: Token,
        to: Option<NodeId>,
    ) -> Result<(), Response<S::Reply>> {
        let refused = |error| Response::Rejected(Rejection::Transfer(error));
        let begun = self.raft.transfer(to, now.monotonic, &mut self.outputs);
        match begun.map_err(refused)? {
            None => Err(Response::Transferred { leader: self.raft.node() }),
            Some(_) => {
                self.changes.transfers.push(token);
                Ok(())
            }
        }
    }

    /// This member leads on.
    pub(super) fn end_transfer(
        &mut self,
        error: TransferError,
        effects: &mut Vec<Effect<S::Reply>>,
    ) {
        for token in self.changes.transfers.drain(..) {
            let response = Response::Rejected(Rejection::Transfer(error));
            effects.push(Effect::Respond { token, response });
        }
    }

    /// Leadership is gone: what became of the change, the next leader knows.
    pub(super) fn abandon_changes(
        &mut self,
        now: Now,
        leader: Option<NodeId>,
        effects: &mut Vec<Effect<S::Reply>>,
    ) {
        if let Some(token) = self.changes.waiting.take() {
            effects.push(Effect::Respond { token, response: Response::Unknown { leader } });
        }
        if !self.changes.transfers.is_empty() {
            self.changes.transfers_until = Some(now.monotonic + self.transfer_patience);
        }
    }

    /// Answers those who wait for another leader once there is one, or none for too long.
    pub(super) fn answer_transfers(&mut self, now: Now, effects: &mut Vec<Effect<S::Reply>>) {
        let Some(until) = self.changes.transfers_until else { return };
        let leader = self.raft.leader();
        if leader.is_none() && now.monotonic < until {
            return;
        }
        self.changes.transfers_until = None;
        for token in self.changes.transfers.drain(..) {
            let response = match leader {
                Some(leader) => Response::Transferred { leader },
                None => Response::Unknown { leader },
            };
            effects.push(Effect::Respond { token, response });
        }
    }

    /// Tells when another membership counts, and when this member is none any more.
    pub(super) fn tell_membership(&mut self, effects: &mut Vec<Effect<S::Reply>>) {
        let version = self.raft.membership_version();
        if version != self.changes.told_version {
            self.changes.told_version = version;
            self.changes.is_member = self.raft.membership().contains(self.raft.node());
            let (index, membership) =
                (self.raft.membership_index(), Box::new(self.raft.membership().clone()));
            effects.push(Effect::Event(Event::Membership { index, membership }));
        }
        let may_be_removed = !self.changes.is_member || self.raft.was_told_of_removal();
        if may_be_removed
            && !self.changes.has_told_removed
            && !self.raft.is_leader()
            && let Some(index) = self.raft.removed_index()
        {
            self.changes.has_told_removed = true;
            effects.push(Effect::Event(Event::Removed { index }));
        }
    }
}
