//! Who holds which message until when: leases, and the delays that a nack asks for.
//!
//! Owns the deadlines, in log time, and the tokens that fence them. A message is held here exactly
//! while its slot says leased or delayed. Never iterates the table; the deadlines are ordered.
//! Next: `machine` for what happens when one passes.
//!
//! Memory: 40 bytes in the table and 24 in the order, and their slack, for each message held.

use super::command::Held;
use super::messages::SlotNo;
use super::table::Table;
use crate::hlc::Hlc;
use crate::ids::{LeaseToken, Position};
use alloc::collections::BTreeSet;

/// A message that no receive may get for now.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hold {
    pub(super) position: Position,
    /// When it becomes available.
    pub(super) until: Hlc,
    /// Of the lease; zero for a delay, which nobody can settle.
    pub(super) token: LeaseToken,
    pub(super) slot: SlotNo,
}

/// All leases and delays.
#[derive(Debug)]
pub(super) struct Leases {
    table: Table<Hold>,
    deadlines: BTreeSet<(Hlc, Position)>,
    frozen: Option<Frozen>,
}

/// What held messages when a snapshot began and does not any more.
#[derive(Debug)]
struct Frozen {
    ended: Table<Hold>,
    /// A lease with a greater one is newer than the snapshot.
    token_last: LeaseToken,
}

/// Folds a position into 64 well-mixed bits: one multiplication, the same on every platform.
fn hash(position: Position) -> u64 {
    let (left, right) = (position.index.0 ^ 0x9e37_79b9_7f4a_7c15, u64::from(position.offset));
    let product = u128::from(left) * u128::from(right ^ 0xd6e8_feb8_6659_fd93);
    product as u64 ^ (product >> 64) as u64
}

impl Frozen {
    fn find(&self, position: Position) -> Option<&Hold> {
        self.ended.find(hash(position), |hold| hold.position == position)
    }

    /// The first hold of a message that ends is the one that it had, if it had one at all.
    fn keep(&mut self, hold: Hold) {
        if hold.token <= self.token_last && self.find(hold.position).is_none() {
            self.ended.insert(hash(hold.position), hold, |other| hash(other.position));
        }
    }
}

impl Leases {
    pub(super) fn new() -> Self {
        Self { table: Table::new(), deadlines: BTreeSet::new(), frozen: None }
    }

    /// Holds a message that is not held.
    pub(super) fn insert(&mut self, hold: Hold) {
        self.table.insert(hash(hold.position), hold, |other| hash(other.position));
        let is_new = self.deadlines.insert((hold.until, hold.position));
        assert!(is_new, "a message is held once");
    }

    /// The hold on a message.
    pub(super) fn find(&self, position: Position) -> Option<&Hold> {
        self.table.find(hash(position), |hold| hold.position == position)
    }

    /// Lets go of a message, whoever holds it.
    pub(super) fn remove(&mut self, position: Position) -> Option<Hold> {
        self.remove_if(position, |_| true)
    }

    /// Ends the lease that `held` names, if it is the message's present one, has not run out and is
    /// `of_queue`: an earlier receiver's token is too low and does nothing.
    pub(super) fn settle(
        &mut self,
        held: Held,
        now: Hlc,
        of_queue: impl FnOnce(&Hold) -> bool,
    ) -> Option<Hold> {
        if held.token == LeaseToken::ZERO {
            return None;
        }
        let is_current = |hold: &Hold| hold.token == held.token && hold.until > now;
        self.remove_if(held.position, |hold| is_current(hold) && of_queue(hold))
    }

    fn remove_if(
        &mut self,
        position: Position,
        is_wanted: impl FnOnce(&Hold) -> bool,
    ) -> Option<Hold> {
        let is_it = |hold: &Hold| hold.position == position;
        let found = self.table.find_entry(hash(position), is_it)?;
        if !is_wanted(found.get()) {
            return None;
        }
        let (hold, _) = found.remove();
        let was_there = self.deadlines.remove(&(hold.until, hold.position));
        assert!(was_there, "each hold has its deadline");
        if let Some(frozen) = &mut self.frozen {
            frozen.keep(hold);
        }
        Some(hold)
    }

    /// From now on [`frozen`](Self::frozen) tells the holds of now.
    pub(super) fn freeze(&mut self, token_last: LeaseToken) {
        self.frozen = Some(Frozen { ended: Table::new(), token_last });
    }

    /// The hold on a message that was held when the holds were frozen.
    pub(super) fn frozen(&self, position: Position) -> Option<&Hold> {
        let ended = self.frozen.as_ref().and_then(|frozen| frozen.find(position));
        ended.or_else(|| self.find(position))
    }

    pub(super) fn thaw(&mut self) {
        self.frozen = None;
    }

    /// Lets go of the message whose hold has ended first, if one has.
    pub(super) fn take_due(&mut self, now: Hlc) -> Option<Hold> {
        let (until, position) = *self.deadlines.first()?;
        if until > now {
            return None;
        }
        Some(self.remove(position).expect("each deadline has its hold"))
    }

    /// When the first hold ends.
    pub(super) fn next_deadline(&self) -> Option<Hlc> {
        self.deadlines.first().map(|(until, _)| *until)
    }

    /// Messages held.
    pub(super) fn len(&self) -> usize {
        assert!(self.table.len() == self.deadlines.len(), "each hold has its deadline");
        self.table.len()
    }
}
