//! At most one leader a term (Raft §5.2), and every leader has all entries that were
//! committed in earlier terms (§5.4).

use super::committed::Committed;
use super::{Rule, Violation};
use engine::ids::{LogIndex, NodeId, Term};
use std::collections::BTreeMap;

/// Who led when.
#[derive(Clone, Default, Debug)]
pub struct Leaders {
    by_term: BTreeMap<Term, (NodeId, u64)>,
}

impl Leaders {
    /// A node became leader in the given life of its process. `term_at` looks into its log: `None`
    /// for what it does not hold, and `first_index` is the first that it must.
    ///
    /// # Errors
    /// [`Rule::OneLeader`] or [`Rule::LeaderCompleteness`].
    pub fn elected(
        &mut self,
        at_us: u64,
        (node, life): (NodeId, u64),
        term: Term,
        committed: &Committed,
        first_index: LogIndex,
        term_at: impl Fn(LogIndex) -> Option<Term>,
    ) -> Result<(), Violation> {
        let leader = *self.by_term.entry(term).or_insert((node, life));
        if leader != (node, life) {
            let (other, other_life) = leader;
            let explanation = format!(
                "term {term} was led by node {other} (life {other_life}) and is led by node \
                 {node} (life {life})"
            );
            return Err(Violation::new(Rule::OneLeader, at_us, explanation));
        }
        // What is committed in later terms is no concern of a leader that has not heard of them.
        let due = committed.committed_before(term);
        for entry in due.filter(|entry| entry.index >= first_index) {
            let found = term_at(entry.index);
            if found != Some(entry.term) {
                let explanation = format!(
                    "node {node} leads term {term} and has {found:?} at entry {}, which is \
                     committed with term {}",
                    entry.index, entry.term
                );
                return Err(Violation::new(Rule::LeaderCompleteness, at_us, explanation));
            }
        }
        Ok(())
    }

    /// Terms that had a leader.
    #[must_use]
    pub fn count(&self) -> usize {
        self.by_term.len()
    }
}
