//! Real-time precedence: what returned before something else was invoked comes before it in the log.
//!
//! Together with `replay`, which checks that the replies fit the order, this is linearizability in
//! linear time: the order need not be searched for, because every reply reveals its place. Sound
//! after Herlihy and Wing, 1990, and Gibbons and Korach, 1997 (the case with a known order).

use super::{Rule, Violation};
use crate::history::{Action, History, Operation};
use engine::ids::LogIndex;

/// Checks that the places which `place` gives respect real time. A command must come strictly after
/// everything that had returned when it was invoked; a read may be of the same place.
///
/// # Errors
/// [`Rule::Linearizability`] with the two operations that contradict each other.
pub fn check(
    history: &History,
    place: impl Fn(&Operation) -> Option<LogIndex>,
) -> Result<(), Violation> {
    let operations = &history.operations;
    let mut by_return: Vec<usize> = (0..operations.len())
        .filter(|ordinal| operations[*ordinal].returned_us != u64::MAX)
        .collect();
    by_return.sort_by_key(|ordinal| operations[*ordinal].returned_us);
    let mut returned = by_return.into_iter().peekable();
    // The latest place among operations that returned strictly before the present one was invoked.
    let mut floor: Option<(LogIndex, usize)> = None;
    for (ordinal, operation) in operations.iter().enumerate() {
        while let Some(earlier) =
            returned.next_if(|earlier| operations[*earlier].returned_us < operation.invoked_us)
        {
            // A stale read reveals what has been committed, and no moment at which it was the latest.
            let Some(index) = place(&operations[earlier]) else { continue };
            if floor.is_none_or(|(highest, _)| index > highest) {
                floor = Some((index, earlier));
            }
        }
        let (Some((floor, earlier)), Some(index)) = (floor, place(operation)) else { continue };
        let is_after = match operation.action {
            Action::Command(_) => index > floor,
            Action::Query(_) => index >= floor,
            // Its own rule is in `stale_reads`.
            Action::StaleQuery(_) => true,
        };
        if !is_after {
            let first = &operations[earlier];
            return Err(Violation::new(
                Rule::Linearizability,
                operation.returned_us.min(operation.invoked_us + 1),
                format!(
                    "operation {earlier} of client {} returned at {} us from entry {floor}, and \
                     operation {ordinal} of client {}, invoked at {} us after that, was placed at \
                     entry {index}: {:?} then {:?}",
                    first.client,
                    first.returned_us,
                    operation.client,
                    operation.invoked_us,
                    first.action,
                    operation.action
                ),
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Outcome;
    use engine::queue::{Query, Reply};

    /// Reads with (invoked, returned, place).
    fn reads(operations: &[(u64, u64, u64)]) -> History {
        let mut history = History::default();
        for (invoked, returned, place) in operations {
            let action = Action::Query(Query::List { after: None, max: 1 });
            let id = history.invoke(0, *invoked, None, action);
            let (index, reply) = (LogIndex(*place), Reply::Queues(Vec::new()));
            let outcome = Outcome::Replied { index, reply, messages: Vec::new() };
            history.conclude(id, *returned, outcome);
        }
        history
    }

    #[test]
    fn a_read_that_is_older_than_one_that_had_returned_is_stale() {
        let history = reads(&[(0, 10, 5), (11, 20, 4)]);
        let violation = check(&history, Operation::revealed_index).expect_err("stale");
        assert_eq!(violation.rule, Rule::Linearizability);
    }

    #[test]
    fn overlapping_reads_may_come_in_any_order() {
        let history = reads(&[(0, 10, 5), (10, 20, 4), (11, 30, 5)]);
        assert_eq!(check(&history, Operation::revealed_index), Ok(()));
    }
}
