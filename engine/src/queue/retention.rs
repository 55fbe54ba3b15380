//! What queues drop of themselves: messages that are too old, and the oldest of those that are too many.
//!
//! Owns when something is to be dropped. The limits are of what is available: a message that is leased or
//! delayed neither counts nor goes, until it comes back to its old place. The oldest available message is
//! due at once while the queue has more than it may, and when it reaches its age otherwise; what is due
//! goes in the order of these times, then of the log, over all queues. So it is settled by the log alone
//! what goes, also when more is due than one entry may drop.
//! Next: `machine` for what a removal is.
//!
//! Each queue with limits is in one ordered set under when it is due, or earlier: what is taken from the
//! front of a queue is not looked for there, but found when its time has come.

use super::command::Retention;
use super::machine::Queues;
use super::reply::Reply;
use crate::hlc::Hlc;
use crate::ids::Position;
use alloc::collections::BTreeSet;

/// Messages dropped in one entry: a millisecond's work. More than these go with the next entries.
pub(super) const DROPS_PER_ENTRY_MAX: u32 = 4_096;

/// When the oldest available message of a queue is to be dropped, and which it is.
pub(super) type Due = (Hlc, Position);

/// The queues of which something is, or will be, to be dropped.
#[derive(Debug)]
pub(super) struct Excess {
    due: BTreeSet<(Due, u32)>,
    /// Messages that this entry may still drop.
    budget: u32,
}

impl Excess {
    pub(super) const fn new() -> Self {
        Self { due: BTreeSet::new(), budget: DROPS_PER_ENTRY_MAX }
    }

    /// When something is to be dropped, or is to be looked at whether it is.
    pub(super) fn next_deadline(&self) -> Option<Hlc> {
        self.due.first().map(|((at, _), _)| *at)
    }

    /// The next entry begins.
    pub(super) fn renew_budget(&mut self) {
        self.budget = DROPS_PER_ENTRY_MAX;
    }
}

impl Queues {
    /// Gives a queue new limits; it comes into being if it is not there.
    pub(super) fn configure(&mut self, queue: &str, retention: Retention) -> Reply {
        let line = self.find_or_create_line(queue);
        self.lines[line as usize].retention = retention;
        self.register(line, self.due(line));
        Reply::Configured
    }

    /// When the oldest available message of a queue is due.
    fn due(&self, line: u32) -> Option<Due> {
        let line = &self.lines[line as usize];
        let Retention { max_age_millis, max_bytes, max_messages } = line.retention;
        let number = line.first_available()?;
        let position = self.messages.position(number);
        let is_over = |max: Option<u64>, has: u64| max.is_some_and(|max| has > max);
        if is_over(max_messages, line.available) || is_over(max_bytes, line.bytes) {
            return Some((Hlc::ZERO, position));
        }
        Some((self.messages.stamp(number).after_millis(max_age_millis?), position))
    }

    fn register(&mut self, number: u32, due: Option<Due>) {
        let line = &mut self.lines[number as usize];
        let before = core::mem::replace(&mut line.due, due);
        if let Some(before) = before {
            self.excess.due.remove(&(before, number));
        }
        if let Some(due) = due {
            self.excess.due.insert((due, number));
        }
    }

    /// A message has become available: something may be due earlier than was thought.
    #[inline]
    pub(super) fn watch_excess(&mut self, line: u32) {
        if self.lines[line as usize].retention != Retention::default() {
            self.watch_excess_of(line);
        }
    }

    fn watch_excess_of(&mut self, line: u32) {
        let due = self.due(line);
        let known = self.lines[line as usize].due;
        if due.is_some_and(|due| known.is_none_or(|known| due < known)) {
            self.register(line, due);
        }
    }

    /// Drops what is due, as far as this entry may.
    #[inline]
    pub(super) fn drop_excess(&mut self, now: Hlc) {
        if self.excess.next_deadline().is_some_and(|at| at <= now) {
            self.drop_due(now);
        }
    }

    fn drop_due(&mut self, now: Hlc) {
        while self.excess.budget > 0
            && let Some(&(known, line)) = self.excess.due.first()
            && known.0 <= now
        {
            let due = self.due(line);
            assert!(due.is_none_or(|due| due >= known), "nothing is due unnoticed");
            if due == Some(known) {
                self.excess.budget -= 1;
                let line = &mut self.lines[line as usize];
                line.dropped_total += 1;
                let number = line.first_available().expect("the message that is due");
                self.remove_message(number);
            }
            self.register(line, self.due(line));
        }
    }

    /// Every queue of which something is due is known here, no later than it is.
    pub(super) fn check_excess(&self) {
        for (number, line) in (0..).zip(&self.lines) {
            let is_noticed = match (self.due(number), line.due) {
                (Some(due), Some(known)) => known <= due,
                (Some(_), None) => false,
                (None, Some(_) | None) => true,
            };
            assert!(is_noticed, "nothing_is_due_unnoticed");
            let is_known = line.due.is_none_or(|due| self.excess.due.contains(&(due, number)));
            assert!(is_known, "nothing_is_due_unnoticed");
        }
    }
}
