//! Which members are short of disk space, and whether a quorum needs them.
//!
//! Owns no rule of Raft: a short member votes and acknowledges as any other. Next: `engine::space` for
//! what follows.

use super::Raft;
use super::quorum::Tally;
use super::role::Role;
use crate::api::Shortage;
use crate::ids::NodeId;
use crate::time::Micros;

impl Raft {
    /// Whether this member's own disk is short of space; told again whenever it changes.
    pub fn set_short(&mut self, is_short: bool) {
        self.is_short = is_short;
    }

    /// Whether this voter is short, as far as its leader has lately heard.
    fn is_voter_short(&self, voter: NodeId, now: Micros) -> Option<bool> {
        if voter == self.settings.node {
            return Some(self.is_short);
        }
        let Role::Leader(role) = &self.role else { return None };
        let progress = role.progress(voter)?;
        let is_near = progress.has_responded
            && now.since(progress.responded_at) <= self.settings.election_timeout;
        is_near.then_some(progress.standing.is_short)
    }

    /// On a leader: whether the voters within reach are a quorum only together with some that are short
    /// of space. `None` if they are no quorum, which says nothing.
    #[must_use]
    pub fn is_quorum_short(&self, now: Micros) -> Option<bool> {
        let membership = self.membership();
        let near = membership.tally(|voter| self.is_voter_short(voter, now).map(|_| true));
        if near != Tally::Won {
            return None;
        }
        let roomy = membership.tally(|voter| self.is_voter_short(voter, now).map(|short| !short));
        Some(roomy != Tally::Won)
    }

    /// On a leader: the voters that are short of space now.
    #[must_use]
    pub fn shortage(&self, now: Micros) -> Shortage {
        let voters = || self.membership().voters();
        let short = voters().filter(|voter| self.is_voter_short(*voter, now) == Some(true));
        let count = u32::try_from(voters().count()).expect("voters are few");
        Shortage { short: short.collect(), voters: count }
    }
}
