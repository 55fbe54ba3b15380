//! The operator in this world: asks whoever leads, follows redirects, asks again, and gives up.
//!
//! Owns one deed at a time. Sans-IO, like `client`. Next: `crate::admin` for what it asks.

use super::client::{Call, Wish};
use super::node::address;
use crate::admin::{Deed, Operator};
use crate::history::{ChangeAnswer, History};
use crate::oracle::{Rule, Violation};
use crate::scenario::Scenario;
use engine::api::{Rejection, Response};
use engine::queue::Reply;
use engine::raft::{ChangeError, ChangeRequest, Leave, Membership};

/// A question that was not answered is asked again after this, microseconds. Longer than changes
/// take that nothing holds up.
const PATIENCE_US: u64 = 1_000_000;
/// A pause before a refused question is asked again, microseconds.
const PAUSE_US: u64 = 50_000;
/// Tries after which a deed is given up.
const TRIES_MAX: u32 = 12;

#[derive(Clone, Debug)]
struct UnderWay {
    deed: Deed,
    began_us: u64,
    tries: u32,
    /// The number of the question that is on its way, and when it was asked.
    asked: Option<(u64, u64)>,
    /// When to ask again.
    again_us: u64,
}

/// An operator.
#[derive(Debug)]
pub(super) struct Admin {
    operator: Operator,
    machines: u64,
    target: u64,
    under_way: Option<UnderWay>,
    next_deed_us: u64,
    next_request: u64,
    is_active: bool,
}

impl Admin {
    /// The operator of a scenario.
    #[must_use]
    pub(super) fn new(scenario: &Scenario) -> Self {
        let mut operator = Operator::new(scenario, address);
        Self {
            machines: scenario.machines(),
            target: 1,
            under_way: None,
            next_deed_us: operator.draw_pause_us(),
            next_request: 1,
            is_active: scenario.admin.pause_ms > 0,
            operator,
        }
    }

    /// Begins nothing new but what ends a change that waits for it.
    pub(super) fn stop(&mut self) {
        self.is_active = false;
    }

    /// Whether a deed is under way.
    #[must_use]
    pub(super) fn is_busy(&self) -> bool {
        self.under_way.is_some()
    }

    /// When [`wake`](Self::wake) should come next.
    #[must_use]
    pub(super) fn next_wake_us(&self) -> Option<u64> {
        match &self.under_way {
            Some(UnderWay { asked: Some((_, asked_us)), .. }) => Some(asked_us + PATIENCE_US),
            Some(UnderWay { again_us, .. }) => Some(*again_us),
            None => self.is_active.then_some(self.next_deed_us),
        }
    }

    /// Time has come to do something. `membership` is the newest one that is committed.
    pub(super) fn wake(&mut self, now_us: u64, membership: &Membership, wishes: &mut Vec<Wish>) {
        if self.under_way.is_none() && self.is_active && self.next_deed_us <= now_us {
            self.next_deed_us = now_us + self.operator.draw_pause_us();
            if let Some(deed) = self.operator.draw(membership) {
                self.begin(now_us, deed);
            }
        }
        let Some(under_way) = &mut self.under_way else { return };
        if let Some((_, asked_us)) = under_way.asked
            && asked_us + PATIENCE_US <= now_us
        {
            under_way.asked = None;
            under_way.again_us = now_us;
            self.target = self.operator.draw_target(self.machines);
        }
        self.ask(now_us, wishes);
    }

    /// The fault phase is over: a change that waits for the operator is ended.
    pub(super) fn finish(&mut self, now_us: u64, membership: &Membership) {
        if self.under_way.is_none()
            && membership.is_joint()
            && membership.leave() == Leave::Explicit
        {
            self.begin(now_us, Deed::Change(ChangeRequest::Leave));
        }
    }

    fn begin(&mut self, now_us: u64, deed: Deed) {
        self.under_way =
            Some(UnderWay { deed, began_us: now_us, tries: 0, asked: None, again_us: now_us });
    }

    fn ask(&mut self, now_us: u64, wishes: &mut Vec<Wish>) {
        let Some(under_way) = &mut self.under_way else { return };
        if under_way.asked.is_some() || under_way.again_us > now_us {
            return;
        }
        if under_way.tries == TRIES_MAX {
            self.under_way = None;
            return;
        }
        under_way.tries += 1;
        let request = self.next_request;
        self.next_request += 1;
        under_way.asked = Some((request, now_us));
        let call = Call::Deed(under_way.deed.clone());
        wishes.push(Wish::Send { to: self.target, request, call });
    }

    /// An answer has arrived.
    ///
    /// # Errors
    /// The answer is one that must never be given.
    pub(super) fn answer(
        &mut self,
        now_us: u64,
        number: u64,
        response: Response<Reply>,
        history: &mut History,
    ) -> Result<(), Violation> {
        let Some(under_way) = &mut self.under_way else { return Ok(()) };
        if under_way.asked.is_none_or(|(request, _)| request != number) {
            return Ok(());
        }
        under_way.asked = None;
        let asked_us = under_way.began_us;
        match response {
            Response::Changed { index, membership } => {
                let membership = *membership;
                history.changes.push(ChangeAnswer { asked_us, at_us: now_us, index, membership });
                self.under_way = None;
            }
            Response::Transferred { leader } => {
                self.target = leader.0;
                self.under_way = None;
            }
            Response::Rejected(Rejection::NotLeader { leader }) | Response::Unknown { leader } => {
                let known = leader.map(|leader| leader.0).filter(|leader| *leader <= self.machines);
                self.try_again(now_us, known);
            }
            Response::Rejected(Rejection::Transferring { to }) => {
                self.try_again(now_us, Some(to.0).filter(|to| *to <= self.machines));
            }
            Response::Rejected(Rejection::Full { .. } | Rejection::ShuttingDown) => {
                self.try_again(now_us, None);
            }
            Response::Rejected(Rejection::Change(error)) => self.refused(now_us, &error),
            Response::Rejected(Rejection::Transfer(_)) => self.under_way = None,
            response => {
                let explanation = format!("the operator got {response:?}");
                return Err(Violation::new(Rule::Integrity, now_us, explanation));
            }
        }
        Ok(())
    }

    fn try_again(&mut self, now_us: u64, leader: Option<u64>) {
        self.target = leader.unwrap_or_else(|| self.operator.draw_target(self.machines));
        if let Some(under_way) = &mut self.under_way {
            under_way.again_us = now_us + PAUSE_US;
        }
    }

    /// What may pass is waited for, now and then it is cancelled, and all else is given up.
    fn refused(&mut self, now_us: u64, error: &ChangeError) {
        let may_pass = matches!(
            error,
            ChangeError::Pending { .. }
                | ChangeError::LeaderTooNew
                | ChangeError::NotCaughtUp { .. }
        );
        if !may_pass {
            self.under_way = None;
        } else if self.operator.draws_retry() {
            self.try_again(now_us, Some(self.target));
        } else if matches!(error, ChangeError::Pending { .. }) {
            self.begin(now_us, Deed::Change(ChangeRequest::Cancel));
        } else {
            self.under_way = None;
        }
    }
}
