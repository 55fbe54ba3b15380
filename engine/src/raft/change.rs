//! Changes of the membership, as a leader makes them: one at a time, joint if the voters change, each
//! next step once the last one is committed (§6, thesis §4).
//!
//! Owns when a change may be made. A new membership counts as soon as it is in the log; what it is, is
//! `membership`'s. A learner becomes a voter once it keeps up, so that it never holds up a commit.
//! Next: `transfer` for a leader that is no voter any more.

use super::Raft;
use super::membership::{Change, ChangeError, ChangeRequest, Leave, Membership, Step};
use super::progress::Progress;
use super::role::Role;
use crate::ids::{LogIndex, NodeId};
use crate::time::Micros;
use alloc::vec::Vec;

/// Election timeouts for which a leader goes on sending to one that is a member no more, so that it
/// learns of it.
const DEPARTURE_TIMEOUTS: u64 = 10;

/// What a request to change the membership comes to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Planned {
    /// An entry with this membership is to be appended.
    Append(Membership),
    /// The membership is what was asked for, since this entry.
    Done(LogIndex),
}

impl Raft {
    /// The newest membership in the log. It counts, committed or not (§6).
    #[must_use]
    pub fn membership(&self) -> &Membership {
        &self.log.memberships().newest().1
    }

    /// The entry that made it; 0 for the founding one.
    #[must_use]
    pub fn membership_index(&self) -> LogIndex {
        self.log.memberships().newest().0
    }

    /// Counts changes of the newest membership, those that are undone too.
    #[must_use]
    pub fn membership_version(&self) -> u64 {
        self.log.memberships().version()
    }

    /// The membership that counted at an entry, and the entry that made it.
    #[must_use]
    pub fn membership_at(&self, index: LogIndex) -> &(LogIndex, Membership) {
        self.log.memberships().at(index)
    }

    /// Whether this member was one and is no more, for good: ids are never given out again.
    #[must_use]
    pub fn is_removed(&self) -> bool {
        self.removed_index().is_some()
    }

    /// Whether another member has said that this one is none.
    #[must_use]
    pub fn was_told_of_removal(&self) -> bool {
        self.removed_at.is_some()
    }

    /// The entry that took this member out.
    #[must_use]
    pub fn removed_index(&self) -> Option<LogIndex> {
        let me = self.settings.node;
        let (index, membership) = self.log.memberships().at(self.commit_index);
        let is_out = !membership.contains(me) && membership.was_given_out(me);
        self.removed_at.or(is_out.then_some(*index))
    }

    /// Whether the newest membership entry is committed.
    pub(super) fn is_membership_committed(&self) -> bool {
        self.membership_index() <= self.commit_index
    }

    /// What a request of an operator comes to, at the end of the log as it is.
    ///
    /// # Errors
    /// The change cannot be made, or not now.
    ///
    /// # Panics
    /// If this member does not lead.
    pub fn plan_change(
        &self,
        request: &ChangeRequest,
        now: Micros,
    ) -> Result<Planned, ChangeError> {
        assert!(self.is_leader());
        // A leader that has committed nothing yet may not know of a change that an earlier one has
        // (the erratum to thesis §4.1).
        if !self.has_committed_in_term() {
            return Err(ChangeError::LeaderTooNew);
        }
        let pending = ChangeError::Pending { at: self.membership_index().0 };
        match request {
            ChangeRequest::Change(_) | ChangeRequest::Leave if !self.is_membership_committed() => {
                Err(pending)
            }
            ChangeRequest::Change(change) => self.plan_steps(change, now),
            ChangeRequest::Leave => self.membership().left().map(Planned::Append),
            ChangeRequest::Cancel if self.is_membership_committed() => {
                self.membership().reversed().map(Planned::Append)
            }
            // While its joint entry is not committed, nobody but this very leader can have gone on to
            // the new voters. Of an earlier leader's entry nobody knows.
            ChangeRequest::Cancel => match self.log.term_at(self.membership_index()) {
                Some(term) if term == self.term => {
                    self.membership().abandoned().map(Planned::Append)
                }
                Some(_) | None => Err(pending),
            },
        }
    }

    fn plan_steps(&self, change: &Change, now: Micros) -> Result<Planned, ChangeError> {
        let next = self.membership().changed(change)?;
        if next == *self.membership() {
            return Ok(Planned::Done(self.membership_index()));
        }
        for node in next.incoming() {
            if !self.membership().is_voter(*node) {
                self.check_caught_up(*node, now)?;
            }
        }
        Ok(Planned::Append(next))
    }

    fn check_caught_up(&self, node: NodeId, now: Micros) -> Result<(), ChangeError> {
        let Role::Leader(role) = &self.role else { return Ok(()) };
        let progress = role.progress(node);
        let timeout = self.settings.election_timeout;
        // A voter that lacked records would be one fewer to have them.
        let is_ready = |p: &Progress| p.is_caught_up(timeout, now) && p.standing.is_complete;
        if progress.is_some_and(is_ready) {
            return Ok(());
        }
        let matched = progress.map_or(0, |progress| progress.match_index.0);
        Err(ChangeError::NotCaughtUp { node, matched, last: self.log.last_index().0 })
    }

    /// The membership that the leader should append of its own accord: the end of a joint phase that
    /// nobody has to end, or a joining learner that has caught up.
    #[must_use]
    pub fn wants_membership(&self, now: Micros) -> Option<Membership> {
        let Role::Leader(role) = &self.role else { return None };
        if !self.log.memberships().is_unsettled() {
            return None;
        }
        let may_change = self.has_committed_in_term() && self.is_membership_committed();
        if !may_change || role.transfer.is_some() {
            return None;
        }
        let membership = self.membership();
        if membership.is_joint() {
            let is_automatic = membership.leave() == Leave::Automatic;
            return membership.left().ok().filter(|_| is_automatic);
        }
        let joining = membership.members().iter().filter(|member| member.is_joining);
        let ready = joining.filter(|member| self.check_caught_up(member.node, now).is_ok());
        let steps: Vec<Step> = ready.map(|member| Step::Promote(member.node)).take(1).collect();
        if steps.is_empty() {
            return None;
        }
        membership.changed(&Change { steps, leave: Leave::Automatic }).ok()
    }

    /// Sends to whom the newest membership names, from the leader's next turn on.
    pub(super) fn follow_membership(&mut self, now: Micros) {
        let version = self.membership_version();
        let Role::Leader(role) = &mut self.role else { return };
        if role.membership_version != version {
            role.membership_version = version;
            self.keep_followers(now);
            // Other majorities count, which may have more.
            self.advance_commit();
        }
    }

    pub(super) fn keep_followers(&mut self, now: Micros) {
        let (me, next_index) = (self.settings.node, self.log.last_index().next());
        let departs_by = now + Micros(self.settings.election_timeout.0 * DEPARTURE_TIMEOUTS);
        let membership = &self.log.memberships().newest().1;
        let Role::Leader(role) = &mut self.role else { return };
        for (node, progress) in &mut role.followers {
            if membership.contains(*node) {
                progress.departs_by = None;
            } else {
                progress.departs_by = progress.departs_by.or(Some(departs_by));
            }
        }
        for member in membership.members() {
            if member.node != me && role.progress(member.node).is_none() {
                role.followers.push((member.node, Progress::new(next_index, now)));
            }
        }
        role.followers.sort_unstable_by_key(|(node, _)| *node);
    }

    /// After a heartbeat: lets those go that know by now that they are members no more, or that cannot
    /// be told.
    pub(super) fn dismiss_departed(&mut self, now: Micros) {
        let (index, commit_index) = (self.membership_index(), self.commit_index);
        let Role::Leader(role) = &mut self.role else { return };
        role.followers.retain(|(_, progress)| {
            let knows = commit_index >= index && progress.match_index >= index;
            progress.departs_by.is_none_or(|by| now < by && !knows)
        });
    }
}
