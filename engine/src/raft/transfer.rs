//! Handing leadership over (thesis §3.10): because it was asked for, because this leader is not fit, is
//! to be removed, has a fit follower of higher priority, or is short of disk space where one is not.
//!
//! The target first gets all entries and is then told to campaign at once. It may lead a moment before
//! this member knows. Next: `election` for what it does.

use super::message::Body;
use super::progress::Progress;
use super::role::{Role, Transfer};
use super::{Output, Raft};
use crate::api::TransferError;
use crate::ids::NodeId;
use crate::time::Micros;
use alloc::vec::Vec;

/// Election timeouts between two attempts to hand over of the leader's own accord.
const PAUSE_TIMEOUTS: u64 = 10;

impl Raft {
    /// Begins to hand over to a voter, or to the best one; says to whom. It ends with another leader,
    /// or with [`Output::TransferEnded`] within an election timeout. `None`: this member leads already.
    ///
    /// # Errors
    /// The target cannot lead, or there is none.
    ///
    /// # Panics
    /// If this member does not lead.
    pub fn transfer(
        &mut self,
        to: Option<NodeId>,
        now: Micros,
        out: &mut Vec<Output>,
    ) -> Result<Option<NodeId>, TransferError> {
        let to = to.or_else(|| self.successor(now)).ok_or(TransferError::NoCandidate)?;
        if !self.membership().is_voter(to) {
            return Err(TransferError::NotAVoter { to });
        }
        if to == self.settings.node {
            return Ok(None);
        }
        let until = now + self.settings.election_timeout;
        let Role::Leader(role) = &mut self.role else { panic!("only a leader hands over") };
        match role.transfer {
            Some(transfer) if transfer.to == to => return Ok(Some(to)),
            Some(_) => out.push(Output::TransferEnded(TransferError::Replaced { to })),
            None => {}
        }
        role.transfer = Some(Transfer { to, until, tell_at: now });
        Ok(Some(to))
    }

    /// To whom this leader is handing over.
    #[must_use]
    pub fn transferring_to(&self) -> Option<NodeId> {
        let Role::Leader(role) = &self.role else { return None };
        role.transfer.map(|transfer| transfer.to)
    }

    /// The best voter to hand over to: fit, within reach, with disk space, of the highest priority, with
    /// the most of the log.
    fn successor(&self, now: Micros) -> Option<NodeId> {
        let Role::Leader(role) = &self.role else { return None };
        let timeout = self.settings.election_timeout;
        let able = role.followers.iter().filter(|(node, progress)| {
            let is_near = progress.has_responded && now.since(progress.responded_at) <= timeout;
            is_near && progress.standing.is_fit && self.membership().incoming().contains(node)
        });
        let rank = |progress: &Progress| {
            (!progress.standing.is_short, progress.standing.priority, progress.match_index)
        };
        able.max_by_key(|(_, progress)| rank(progress)).map(|(node, _)| *node)
    }

    /// Tells the target to campaign once it has everything; gives up after an election timeout.
    pub(super) fn go_on_transferring(&mut self, now: Micros, out: &mut Vec<Output>) {
        let last_index = self.log.last_index();
        let again_at = now + self.settings.heartbeat_interval;
        let Role::Leader(role) = &mut self.role else { return };
        let Some(Transfer { to, until, tell_at }) = role.transfer else { return };
        let has_all = role.progress(to).is_some_and(|progress| progress.match_index == last_index);
        let error = if !self.log.memberships().newest().1.is_voter(to) {
            TransferError::NotAVoter { to }
        } else if now >= until {
            TransferError::TimedOut { to }
        } else {
            if has_all && tell_at <= now {
                role.transfer = Some(Transfer { to, until, tell_at: again_at });
                role.has_told_to_campaign = true;
                self.send_now(to, Body::TimeoutNow, out);
            }
            return;
        };
        role.transfer = None;
        out.push(Output::TransferEnded(error));
    }

    /// Of the leader's own accord: it is not fit to lead, or somebody of higher priority, or with more
    /// disk space, is.
    pub(super) fn hand_over_if_better(&mut self, now: Micros, out: &mut Vec<Output>) {
        let pause = Micros(self.settings.election_timeout.0 * PAUSE_TIMEOUTS);
        let Role::Leader(role) = &self.role else { return };
        if role.transfer.is_some() || now < role.no_transfer_before {
            return;
        }
        let Some(to) = self.successor(now) else { return };
        let Some(progress) = role.progress(to) else { return };
        let is_higher = progress.standing.priority > self.settings.priority;
        let is_preferred = match (self.is_short, progress.standing.is_short) {
            (true, false) => true,
            (false, true) => false,
            (true, true) | (false, false) => is_higher,
        };
        let is_preferred = is_preferred
            && progress.is_caught_up(self.settings.election_timeout, now)
            && self.has_committed_in_term();
        if self.is_fit && !is_preferred {
            return;
        }
        if self.transfer(Some(to), now, out).is_ok()
            && let Role::Leader(role) = &mut self.role
        {
            role.no_transfer_before = now + pause;
        }
    }

    /// Thesis §4.2.2: a leader that is no voter any more leads until that is committed, and then gives
    /// way. Says whether it did.
    pub(super) fn gives_way(&mut self, now: Micros, out: &mut Vec<Output>) -> bool {
        let is_out = !self.membership().is_voter(self.settings.node)
            && self.is_membership_committed()
            && self.has_committed_in_term();
        if !is_out {
            return false;
        }
        if let Some(successor) = self.successor(now) {
            self.send_now(successor, Body::TimeoutNow, out);
        }
        // They learn that it is committed, those that go with this leader too.
        let mut at = 0;
        while let Some(follower) = self.follower_at(at) {
            self.send_heartbeat(follower, now, out);
            at += 1;
        }
        self.become_follower(self.term, None, now, out);
        true
    }

    /// The leader hands over to this member.
    pub(super) fn on_timeout_now(&mut self, from: NodeId, now: Micros, out: &mut Vec<Output>) {
        let is_from_leader =
            matches!(&self.role, Role::Follower(role) if role.leader == Some(from));
        if is_from_leader && self.may_campaign() && !self.is_disk_stalled(now) {
            self.become_candidate(true, now, out);
        }
    }
}
