//! Which ids are known: what makes a message that is sent twice arrive once.
//!
//! Owns the table from id to message and when ids are forgotten. An id is known while its message is in
//! a queue, and for at least the dedup window after its send whatever became of the message; unless
//! more ids of messages that are gone are remembered than may be: the oldest go early then. Never iterates the table; its hash is fixed and the same everywhere.
//! Next: `machine` for who asks.

use super::messages::{Messages, SlotNo, State};
use super::remembered::{Place, Remembered};
use super::table::Table;
use crate::hlc::Hlc;
use crate::ids::MessageId;
use xxhash_rust::xxh3::xxh3_64;

/// Ids that are forgotten at one step of log time in any case. Together with twice the number
/// of sends since the step before, it bounds the pause after a busy hour and still catches up.
const FORGET_PER_ADVANCE_MIN: u64 = 4_096;

/// The ids.
#[derive(Debug)]
pub(super) struct Dedup {
    table: Table<SlotNo>,
    /// The messages whose ids are within the window, in the order of sending.
    remembered: Remembered,
    window_millis: u64,
    /// Messages that are gone and remembered, at most; one entry may add as many as it brings.
    gone_max: u64,
    /// Replicated state like the rest: it bounds what the next step forgets.
    pub(super) sends_since_forgetting: u64,
}

/// An id with its hash.
#[derive(Clone, Copy, Debug)]
pub(super) struct HashedId {
    id: MessageId,
    hash: u64,
}

impl HashedId {
    pub(super) fn new(id: MessageId) -> Self {
        Self { id, hash: xxh3_64(&id.0) }
    }
}

impl Dedup {
    pub(super) fn new(window_millis: u64, gone_max: u64) -> Self {
        let (table, remembered) = (Table::new(), Remembered::new());
        Self { table, remembered, window_millis, gone_max, sends_since_forgetting: 0 }
    }

    /// None are known; the bounds are the same.
    pub(super) fn emptied(&self) -> Self {
        Self::new(self.window_millis, self.gone_max)
    }

    /// The message with this id, in a queue or only remembered.
    pub(super) fn find(&self, messages: &Messages, id: HashedId) -> Option<SlotNo> {
        let is_it = |number: &SlotNo| messages.id(*number) == id.id;
        self.table.find(id.hash, is_it).copied()
    }

    /// Knows the id of a message whose window is over, for as long as it is in a queue.
    pub(super) fn insert_forgotten(&mut self, messages: &Messages, id: HashedId, number: SlotNo) {
        let rehash = |number: &SlotNo| HashedId::new(messages.id(*number)).hash;
        self.table.insert(id.hash, number, rehash);
    }

    /// Remembers the id of a message that was just sent.
    pub(super) fn insert(&mut self, messages: &Messages, id: HashedId, number: SlotNo) {
        self.insert_forgotten(messages, id, number);
        self.sends_since_forgetting += 1;
        self.remembered.push(number);
    }

    /// Takes a message that is neither in a queue nor remembered out of the table.
    pub(super) fn remove(&mut self, messages: &Messages, number: SlotNo) {
        let id = HashedId::new(messages.id(number));
        let found = self.table.find_entry(id.hash, |other| *other == number);
        found.expect("every number is in the table").remove();
    }

    /// How many ids to forget at this step of log time, at most.
    pub(super) fn forget_budget(&mut self) -> u64 {
        FORGET_PER_ADVANCE_MIN + 2 * core::mem::take(&mut self.sends_since_forgetting)
    }

    /// Forgets the oldest remembered id, if its window is over or `gone` are too many, and names its
    /// message, which may still be in a queue.
    pub(super) fn forget_next(
        &mut self,
        messages: &mut Messages,
        now: Hlc,
        gone: u64,
    ) -> Option<SlotNo> {
        let number = self.remembered.first()?;
        let is_over = messages.stamp(number).after_millis(self.window_millis) < now;
        if !is_over && gone <= self.gone_max {
            return None;
        }
        self.remembered.pop();
        if messages.state(number) != State::Gone {
            messages[number].set_remembered(false);
        }
        Some(number)
    }

    /// The remembered ids' messages in the order of sending.
    pub(super) fn remembered(&self) -> impl Iterator<Item = SlotNo> {
        let mut place = self.remembered.front();
        core::iter::from_fn(move || self.remembered.next(&mut place))
    }

    /// Where the remembered ids begin, and how many there are.
    pub(super) fn remembered_now(&self) -> (Place, u64) {
        (self.remembered.front(), self.remembered.len())
    }

    /// The message at a place, which moves on to the next.
    pub(super) fn next_remembered(&self, place: &mut Place) -> Option<SlotNo> {
        self.remembered.next(place)
    }

    /// What is forgotten from now on can still be read in order.
    pub(super) fn freeze(&mut self) {
        self.remembered.freeze();
    }

    /// And no more.
    pub(super) fn thaw(&mut self) {
        self.remembered.thaw();
    }

    /// Ids in the table.
    pub(super) fn len(&self) -> u64 {
        self.table.len() as u64
    }
}
