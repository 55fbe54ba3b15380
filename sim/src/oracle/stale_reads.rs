//! Stale reads: what is told is the state after one committed entry, with that entry's stamp, and a
//! client that asks one node again does not go back.
//!
//! That the answer is the state there, `replay` checks.

use super::{Rule, Violation};
use crate::history::{CommittedLog, History};
use engine::hlc::Hlc;
use engine::ids::{LogIndex, NodeId};
use std::collections::BTreeMap;

/// Checks all stale reads. A node that starts again may have forgotten how far it was, so only what
/// one life of its process told is compared.
///
/// # Errors
/// [`Rule::StaleReads`].
pub fn check(history: &History, log: &CommittedLog) -> Result<(), Violation> {
    // By client and life: return times and places, in the order of returns.
    let mut told: BTreeMap<(u64, NodeId, u64), Vec<(u64, LogIndex)>> = BTreeMap::new();
    for read in &history.stale_reads {
        let operation = &history.operations[read.operation];
        let Some((index, _)) = operation.reply() else { continue };
        let at_us = operation.returned_us;
        let violation = |what: String| Err(Violation::new(Rule::StaleReads, at_us, what));
        let (node, life) = read.by;
        let stamp = log.entry(index).map_or(Hlc::ZERO, |entry| entry.stamp);
        if read.log_time != stamp {
            return violation(format!(
                "node {node} told stamp {} for entry {index}, which has {stamp}",
                read.log_time
            ));
        }
        let earlier = told.entry((operation.client, node, life)).or_default();
        let before =
            earlier.partition_point(|(returned_us, _)| *returned_us < operation.invoked_us);
        let floor = earlier[..before].iter().map(|(_, index)| *index).max();
        if floor.is_some_and(|floor| floor > index) {
            return violation(format!(
                "client {} was told the state after entry {index} by node {node}, and before by \
                 the same node that after {floor:?}",
                operation.client
            ));
        }
        earlier.push((at_us, index));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{Action, Outcome, StaleRead};
    use engine::queue::{Query, Reply};

    fn history(reads: &[(u64, u64, u64)]) -> History {
        let mut history = History::default();
        for (invoked_us, returned_us, index) in reads {
            let action = Action::StaleQuery(Query::List { after: None, max: 1 });
            let operation = history.invoke(0, *invoked_us, None, action);
            let (index, reply) = (LogIndex(*index), Reply::Queues(Vec::new()));
            let outcome = Outcome::Replied { index, reply, messages: Vec::new() };
            history.conclude(operation, *returned_us, outcome);
            let by = (NodeId(1), 1);
            history.stale_reads.push(StaleRead { operation, by, log_time: Hlc::ZERO });
        }
        history
    }

    #[test]
    fn reads_that_go_back_are_noticed_unless_they_overlap() {
        let log = CommittedLog::default();
        assert!(check(&history(&[(0, 10, 5), (11, 20, 4)]), &log).is_err());
        assert_eq!(check(&history(&[(0, 10, 5), (9, 20, 4)]), &log), Ok(()));
    }
}
