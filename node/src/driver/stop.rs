//! The end of a node that was asked to stop: a leader hands over first, so that nobody has to wait
//! for an election timeout.

use super::Driver;
use crate::ports::{ClockPort, DiskPort};
use engine::api::{Request, Response, Token};
use engine::engine::RoleName;
use engine::queue::Reply;
use engine::replica::Input;
use engine::time::Micros;

/// A leader that has handed over to nobody by then stops all the same.
const HANDOVER_TIMEOUT: Micros = Micros::from_secs(1);
/// Names the node's own request; `clients` never gives out so high a slot.
const HANDOVER: Token = Token(u64::MAX);

/// A node that was asked to stop.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stopping {
    /// When it stops at the latest.
    until: Micros,
}

impl<D: DiskPort, C: ClockPort> Driver<D, C> {
    /// The shutdown signal has come. From now on clients are sent away.
    pub(super) fn begin_to_stop(&mut self) {
        let now = self.now.monotonic;
        let status = self.replica.status();
        let is_leader = status.role == RoleName::Leader;
        if !is_leader || status.membership.voters().all(|voter| voter == status.node) {
            self.stopping = Some(Stopping { until: now });
            return;
        }
        tracing::info!("handing leadership over before stopping");
        self.stopping = Some(Stopping { until: now + HANDOVER_TIMEOUT });
        self.step(Input::Client { token: HANDOVER, request: Request::Transfer { to: None } });
    }

    /// Whether `token` names the node's own request to hand over, whose outcome this is.
    pub(super) fn is_handover(&mut self, token: Token, response: &Response<Reply>) -> bool {
        if token != HANDOVER {
            return false;
        }
        if let Response::Rejected(rejection) = response {
            tracing::info!("leadership is not handed over: {rejection}");
            self.stopping = Some(Stopping { until: self.now.monotonic });
        }
        true
    }

    /// Whether the node may stop: somebody else leads, nobody is left to lead, or it has tried for long
    /// enough. Not as soon as it leads no more, because its vote may be needed for the next leader.
    pub(super) fn is_stopped(&self) -> bool {
        let Some(stopping) = self.stopping else { return false };
        let status = self.replica.status();
        let is_led = status.leader.is_some_and(|leader| leader != status.node);
        let is_alone = !status.membership.voters().any(|voter| self.peers.is_connected(voter));
        is_led || is_alone || self.now.monotonic >= stopping.until
    }

    /// When [`is_stopped`](Self::is_stopped) is true at the latest.
    pub(super) fn stop_deadline(&self) -> Option<Micros> {
        self.stopping.map(|stopping| stopping.until)
    }
}
