//! Stamps rise with the log: of applied entries, and of the receipts that clients got.

use super::{Rule, Violation};
use crate::history::{History, Operation};
use engine::hlc::Hlc;
use engine::ids::LogIndex;
use engine::queue::{Receipt, Reply};
use std::collections::BTreeMap;

/// Checks that receipts in the order of their positions have stamps that rise with the entry, and
/// that those of one entry have one stamp and one term.
///
/// # Errors
/// [`Rule::Stamps`] with both receipts.
pub fn check(history: &History) -> Result<(), Violation> {
    let mut by_index: BTreeMap<LogIndex, (Receipt, &Operation)> = BTreeMap::new();
    for operation in &history.operations {
        let receipts: Vec<Receipt> = match operation.reply() {
            Some((_, Reply::SentOne(sent))) => vec![sent.receipt],
            Some((_, Reply::SentMany(sent))) => sent.iter().map(|sent| sent.receipt).collect(),
            Some(_) | None => continue,
        };
        for receipt in receipts {
            let (known, _) = by_index.entry(receipt.position.index).or_insert((receipt, operation));
            if (known.stamp, known.term) != (receipt.stamp, receipt.term) {
                let explanation = format!("{known:?} and {receipt:?} are of one entry");
                return Err(Violation::new(Rule::Stamps, operation.returned_us, explanation));
            }
        }
    }
    let receipts: Vec<&(Receipt, &Operation)> = by_index.values().collect();
    for pair in receipts.windows(2) {
        let ((first, _), (second, operation)) = (pair[0], pair[1]);
        if first.stamp >= second.stamp || first.term > second.term {
            let explanation = format!("{first:?} is followed by {second:?}");
            return Err(Violation::new(Rule::Stamps, operation.returned_us, explanation));
        }
    }
    Ok(())
}

/// Checks one step of the log: the stamp of an entry against that of the entry before.
///
/// # Errors
/// [`Rule::Stamps`] with both stamps.
pub fn check_step(at_us: u64, index: LogIndex, before: Hlc, stamp: Hlc) -> Result<(), Violation> {
    if stamp > before {
        return Ok(());
    }
    let explanation = format!("entry {index} has stamp {stamp}, the entry before it {before}");
    Err(Violation::new(Rule::Stamps, at_us, explanation))
}
