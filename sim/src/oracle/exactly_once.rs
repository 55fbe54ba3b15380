//! Exactly once: no id is accepted twice within its window, no message is given away twice.
//!
//! Reads replies only, so it holds its ground where a log cannot be looked into.

use super::{Rule, Violation};
use crate::history::{Action, History, Operation};
use engine::ids::{MessageId, Position, Sequence, SessionId};
use engine::queue::{Command, Receipt, ReceiveMode, Reply, Sent};
use std::collections::BTreeMap;

/// Checks receipts and final deliveries.
///
/// # Errors
/// [`Rule::ExactlyOnce`] with both receipts or both deliveries.
pub fn check(history: &History, dedup_window_millis: u64) -> Result<(), Violation> {
    check_receipts(history, dedup_window_millis)?;
    check_takes(history)
}

/// Receipts of one id must be equal unless they are further apart than the window; and only one
/// send may have been told that it was the first.
fn check_receipts(history: &History, window_millis: u64) -> Result<(), Violation> {
    let mut receipts: BTreeMap<MessageId, Vec<Receipt>> = BTreeMap::new();
    let mut firsts: BTreeMap<Position, &Operation> = BTreeMap::new();
    for (operation, id, sent) in sends(history) {
        let known = receipts.entry(id).or_default();
        for other in known.iter().filter(|other| **other != sent.receipt) {
            let (early, late) =
                (other.stamp.min(sent.receipt.stamp), other.stamp.max(sent.receipt.stamp));
            if early.after_millis(window_millis) >= late {
                let explanation = format!(
                    "message {id} has two receipts within the window of {window_millis} ms: \
                     {other:?} and {:?}",
                    sent.receipt
                );
                return Err(Violation::new(Rule::ExactlyOnce, operation.returned_us, explanation));
            }
        }
        if !known.contains(&sent.receipt) {
            known.push(sent.receipt);
        }
        if sent.duplicate {
            continue;
        }
        if let Some(other) = firsts.insert(sent.receipt.position, operation) {
            let explanation = format!(
                "two sends were told that they put the message at {}: {:?} and {:?}",
                sent.receipt.position, other.command, operation.command
            );
            return Err(Violation::new(Rule::ExactlyOnce, operation.returned_us, explanation));
        }
    }
    Ok(())
}

fn sends(history: &History) -> impl Iterator<Item = (&Operation, MessageId, Sent)> {
    history.operations.iter().flat_map(|operation| {
        let sent: Vec<Sent> = match operation.reply() {
            Some((_, Reply::SentOne(sent))) => vec![*sent],
            Some((_, Reply::SentMany(sent))) => sent.clone(),
            Some(_) | None => Vec::new(),
        };
        let ids: Vec<MessageId> = match &operation.action {
            Action::Command(Command::Send { messages }) => {
                messages.iter().map(|message| message.id).collect()
            }
            Action::Command(_) | Action::Query(_) | Action::StaleQuery(_) => Vec::new(),
        };
        ids.into_iter().zip(sent).map(move |(id, sent)| (operation, id, sent))
    })
}

/// A message that was taken for good, or whose acknowledgement was confirmed, has left: nobody else
/// may take it, acknowledge it, or get it at a later place of the log.
fn check_takes(history: &History) -> Result<(), Violation> {
    type Command = (SessionId, Sequence);
    let mut left: BTreeMap<Position, (Command, &Operation)> = BTreeMap::new();
    for operation in &history.operations {
        let Some(command) = operation.command else { continue };
        for position in removed(operation) {
            match left.insert(position, (command, operation)) {
                Some((other, before)) if other != command => {
                    let explanation = format!(
                        "the message at {position} left its queue twice: by {:?} of {other:?}, and \
                         by {:?} of {command:?}",
                        before.action, operation.action
                    );
                    return Err(Violation::new(
                        Rule::ExactlyOnce,
                        operation.returned_us,
                        explanation,
                    ));
                }
                Some(_) | None => {}
            }
        }
    }
    for operation in &history.operations {
        let Some((_, Reply::Received { deliveries, .. })) = operation.reply() else { continue };
        for delivered in deliveries {
            let Some((remover, before)) = left.get(&delivered.position) else { continue };
            // Real time is enough here: the removal had returned before this receive was invoked.
            if operation.command != Some(*remover) && before.returned_us < operation.invoked_us {
                let explanation = format!(
                    "the message at {} was delivered to {:?}, after {:?} had removed it by {:?}",
                    delivered.position, operation.command, remover, before.action
                );
                return Err(Violation::new(Rule::ExactlyOnce, operation.returned_us, explanation));
            }
        }
    }
    Ok(())
}

/// The messages that an operation is known to have removed from their queues.
fn removed(operation: &Operation) -> Vec<Position> {
    match (&operation.action, operation.reply()) {
        (
            Action::Command(Command::Receive { mode: ReceiveMode::Take, .. }),
            Some((_, Reply::Received { deliveries, .. })),
        ) => deliveries.iter().map(|delivered| delivered.position).collect(),
        (
            Action::Command(Command::Acknowledge { held, .. }),
            Some((_, Reply::Settled(settled))),
        ) => {
            let settled = held.iter().zip(settled).filter(|(_, settled)| **settled);
            settled.map(|(held, _)| held.position).collect()
        }
        _ => Vec::new(),
    }
}
