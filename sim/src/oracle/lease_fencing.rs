//! Fencing: once a message is leased to another, the old holder's token does nothing.
//!
//! Tokens rise with the log and are granted once. If a later token of a message was handed out by a
//! reply that had returned, a settlement with an earlier one that is invoked afterwards must fail.

use super::{Rule, Violation};
use crate::history::{Action, History, Operation};
use engine::ids::{LeaseToken, Position};
use engine::queue::{Command, Held, Reply};
use std::collections::BTreeMap;

/// Checks all leases and settlements.
///
/// # Errors
/// [`Rule::LeaseFencing`] with both tokens.
pub fn check(history: &History) -> Result<(), Violation> {
    let mut granted: BTreeMap<LeaseToken, &Operation> = BTreeMap::new();
    let mut leases: BTreeMap<Position, Vec<(LeaseToken, &Operation)>> = BTreeMap::new();
    for operation in &history.operations {
        let Some((_, Reply::Received { token, deliveries, .. })) = operation.reply() else {
            continue;
        };
        if *token == LeaseToken::ZERO {
            continue;
        }
        if let Some(other) = granted.insert(*token, operation) {
            let explanation = format!(
                "token {token} was granted to {:?} and to {:?}",
                other.command, operation.command
            );
            return Err(Violation::new(Rule::LeaseFencing, operation.returned_us, explanation));
        }
        for delivered in deliveries {
            leases.entry(delivered.position).or_default().push((*token, operation));
        }
    }
    for operation in &history.operations {
        for held in settled(operation) {
            let later = leases.get(&held.position).into_iter().flatten().find(|(token, grant)| {
                *token > held.token && grant.returned_us < operation.invoked_us
            });
            if let Some((token, grant)) = later {
                let explanation = format!(
                    "the message at {} was leased to {:?} with token {token}, and then {:?} \
                     settled it with token {}",
                    held.position, grant.command, operation.command, held.token
                );
                return Err(Violation::new(Rule::LeaseFencing, operation.returned_us, explanation));
            }
        }
    }
    Ok(())
}

/// What an operation settled with success.
fn settled(operation: &Operation) -> impl Iterator<Item = &Held> {
    let held: &[Held] = match &operation.action {
        Action::Command(
            Command::Acknowledge { held, .. }
            | Command::Nack { held, .. }
            | Command::Extend { held, .. },
        ) => held,
        Action::Command(
            Command::Send { .. }
            | Command::Receive { .. }
            | Command::Delete { .. }
            | Command::Purge { .. }
            | Command::Configure { .. },
        )
        | Action::Query(_)
        | Action::StaleQuery(_) => &[],
    };
    let settled: &[bool] = match operation.reply() {
        Some((_, Reply::Settled(settled))) => settled,
        Some(_) | None => &[],
    };
    held.iter().zip(settled).filter(|(_, settled)| **settled).map(|(held, _)| held)
}
