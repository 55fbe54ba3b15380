//! Who leads, as far as a client can tell.
//!
//! Pure: learns from the views that nodes push and from refusals, and holds one belief. A belief is
//! only where to ask first; whether a node leads is decided by the node when it is asked.

use engine::ids::{NodeId, Term};
use engine::wire::client::ClusterView;

/// A belief about the leader.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Leadership {
    leader: Option<NodeId>,
    term: Term,
    /// Asked while no leader is known.
    guess: Option<NodeId>,
}

impl Leadership {
    /// Who is said to lead.
    pub(crate) fn leader(&self) -> Option<NodeId> {
        self.leader
    }

    /// Whom to ask.
    pub(crate) fn candidate(&self) -> Option<NodeId> {
        self.leader.or(self.guess)
    }

    /// The newest term heard of.
    pub(crate) fn term(&self) -> Term {
        self.term
    }

    /// A node told what it knows. A term has at most one leader (§5.2), so within a term knowing
    /// one beats knowing none, and a newer term beats all.
    pub(crate) fn on_view(&mut self, view: &ClusterView) {
        if view.term > self.term {
            *self = Self { leader: view.leader, term: view.term, guess: None };
        } else if view.term == self.term && view.leader.is_some() {
            self.leader = view.leader;
        }
    }

    /// `from` said that it does not lead, and perhaps who does. The hint carries no term, so it
    /// only replaces a belief in `from` itself.
    pub(crate) fn on_refusal(&mut self, from: NodeId, hint: Option<NodeId>) {
        if self.leader == Some(from) || self.leader.is_none() {
            self.leader = hint.filter(|hinted| *hinted != from);
        }
        self.guess = self.guess.filter(|guess| *guess != from);
    }

    /// Nobody told anything for a while: ask `node`, which knows at least as much as we do.
    pub(crate) fn guess(&mut self, node: NodeId) {
        self.guess = Some(node);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(term: u64, leader: Option<u64>) -> ClusterView {
        ClusterView { leader: leader.map(NodeId), term: Term(term), ..ClusterView::default() }
    }

    #[test]
    fn a_newer_term_replaces_the_belief_even_when_it_has_no_leader_yet() {
        let mut belief = Leadership::default();
        belief.on_view(&view(3, Some(1)));
        assert_eq!(belief.leader(), Some(NodeId(1)));
        belief.on_view(&view(4, None));
        assert_eq!(belief.leader(), None);
        belief.on_view(&view(4, Some(2)));
        assert_eq!(belief.leader(), Some(NodeId(2)));
    }

    #[test]
    fn an_older_or_less_informed_view_changes_nothing() {
        let mut belief = Leadership::default();
        belief.on_view(&view(4, Some(2)));
        belief.on_view(&view(3, Some(1)));
        belief.on_view(&view(4, None));
        assert_eq!(belief.leader(), Some(NodeId(2)));
    }

    #[test]
    fn a_refusal_by_somebody_else_does_not_shake_the_belief() {
        let mut belief = Leadership::default();
        belief.on_view(&view(4, Some(2)));
        belief.on_refusal(NodeId(1), Some(NodeId(3)));
        assert_eq!(belief.leader(), Some(NodeId(2)));
        belief.on_refusal(NodeId(2), Some(NodeId(3)));
        assert_eq!(belief.leader(), Some(NodeId(3)));
        belief.on_refusal(NodeId(3), Some(NodeId(3)));
        assert_eq!(belief.leader(), None);
    }

    #[test]
    fn a_guess_is_asked_and_never_told_until_it_refuses_or_somebody_is_known() {
        let mut belief = Leadership::default();
        belief.guess(NodeId(1));
        assert_eq!((belief.candidate(), belief.leader()), (Some(NodeId(1)), None));
        belief.on_refusal(NodeId(1), None);
        assert_eq!(belief.candidate(), None);
        belief.guess(NodeId(1));
        belief.on_view(&view(0, Some(2)));
        assert_eq!(belief.candidate(), Some(NodeId(2)));
    }
}
