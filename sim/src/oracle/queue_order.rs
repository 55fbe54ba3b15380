//! Order within a queue: what nobody had received before comes in the order in which it was sent.
//!
//! A message's first delivery (attempt 1) must not come after the first delivery of a later message
//! of the same queue: it was available all the time. Within one reply positions always rise.

use super::{Rule, Violation};
use crate::history::{Action, History, Operation};
use engine::ids::{LogIndex, Position};
use engine::queue::{Command, Delivered, Reply};
use std::collections::BTreeMap;

/// A receive that was answered: the entry that revealed it, and what it delivered.
type Receive<'a> = (LogIndex, &'a Operation, &'a [Delivered]);

/// Checks all deliveries.
///
/// # Errors
/// [`Rule::QueueOrder`] with both messages.
pub fn check(history: &History) -> Result<(), Violation> {
    let mut by_queue: BTreeMap<&str, Vec<Receive<'_>>> = BTreeMap::new();
    for operation in &history.operations {
        let Action::Command(Command::Receive { queue, .. }) = &operation.action else { continue };
        let Some((index, Reply::Received { deliveries, .. })) = operation.reply() else { continue };
        if let Some(pair) = deliveries.windows(2).find(|pair| pair[0].position >= pair[1].position)
        {
            let explanation = format!(
                "one receive from {queue} delivered {} before {}",
                pair[0].position, pair[1].position
            );
            return Err(Violation::new(Rule::QueueOrder, operation.returned_us, explanation));
        }
        by_queue.entry(queue).or_default().push((index, operation, deliveries));
    }
    by_queue.into_iter().try_for_each(|(queue, receives)| check_queue(queue, receives))
}

fn check_queue(queue: &str, mut receives: Vec<Receive<'_>>) -> Result<(), Violation> {
    // By the message that was first handed out: if its reply was repeated, the receive took effect
    // earlier than its revealed index says, and positions order what took effect.
    let first = |deliveries: &[Delivered]| -> Option<(Position, Position)> {
        let mut fresh = deliveries.iter().filter(|delivered| delivered.attempt == 1);
        let low = fresh.next()?.position;
        Some((low, fresh.next_back().map_or(low, |delivered| delivered.position)))
    };
    receives.sort_by_key(|(_, operation, _)| operation.returned_us);
    let mut by_invocation: Vec<usize> = (0..receives.len()).collect();
    by_invocation.sort_by_key(|ordinal| receives[*ordinal].1.invoked_us);
    let (mut returned, mut highest) = (0, None::<(Position, LogIndex)>);
    for ordinal in by_invocation {
        let (_, operation, deliveries) = receives[ordinal];
        while returned < receives.len() && receives[returned].1.returned_us < operation.invoked_us {
            let (index, _, deliveries) = receives[returned];
            let top = first(deliveries).map(|(_, top)| (top, index));
            highest = highest.max(top);
            returned += 1;
        }
        let (Some((low, _)), Some((high, index))) = (first(deliveries), highest) else { continue };
        // The message must have been there when the later one was handed out, which it was: it lies
        // before it in the log.
        if low < high {
            let explanation = format!(
                "queue {queue}: the message at {low} was first delivered after the one at {high} \
                 had been, by entry {index}"
            );
            return Err(Violation::new(Rule::QueueOrder, operation.returned_us, explanation));
        }
    }
    Ok(())
}
