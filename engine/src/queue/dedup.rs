//! Which ids are known: what makes a message that is sent twice arrive once.
//!
//! Owns the table from id to slot and the order in which ids are forgotten. An id is known while its
//! message is in a queue, and for at least the dedup window after its send whatever became of the
//! message. Never iterates the table; its hash is fixed and the same everywhere.
//! Next: `machine` for who asks.

use super::messages::{Messages, NO_SLOT, SlotNo};
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
    /// Oldest and newest remembered id; linked through the slots in the order of sending.
    oldest: SlotNo,
    newest: SlotNo,
    window_millis: u64,
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
    pub(super) fn new(window_millis: u64) -> Self {
        let (oldest, newest) = (NO_SLOT, NO_SLOT);
        Self { table: Table::new(), oldest, newest, window_millis, sends_since_forgetting: 0 }
    }

    /// For how long an id is known at least, in log time.
    pub(super) fn window_millis(&self) -> u64 {
        self.window_millis
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
    pub(super) fn insert(&mut self, messages: &mut Messages, id: HashedId, number: SlotNo) {
        self.insert_forgotten(messages, id, number);
        self.sends_since_forgetting += 1;
        match self.newest {
            NO_SLOT => self.oldest = number,
            newest => messages[newest].next_remembered = number,
        }
        self.newest = number;
    }

    /// Takes a message that is neither in a queue nor remembered out of the table.
    pub(super) fn remove(&mut self, messages: &Messages, number: SlotNo) {
        let id = HashedId::new(messages.id(number));
        let found = self.table.find_entry(id.hash, |other| *other == number);
        found.expect("every slot is in the table").remove();
    }

    /// How many ids to forget at this step of log time, at most.
    pub(super) fn forget_budget(&mut self) -> u64 {
        FORGET_PER_ADVANCE_MIN + 2 * core::mem::take(&mut self.sends_since_forgetting)
    }

    /// Forgets the oldest remembered id, if its window is over, and names its message, which may
    /// still be in a queue.
    pub(super) fn forget_next(&mut self, messages: &mut Messages, now: Hlc) -> Option<SlotNo> {
        let number = self.oldest;
        if number == NO_SLOT
            || messages.receipt(number).stamp.after_millis(self.window_millis) >= now
        {
            return None;
        }
        let slot = &mut messages[number];
        slot.set_remembered(false);
        self.oldest = slot.next_remembered;
        slot.next_remembered = NO_SLOT;
        if self.oldest == NO_SLOT {
            self.newest = NO_SLOT;
        }
        Some(number)
    }

    /// The remembered ids' messages in the order of sending.
    pub(super) fn remembered<'a>(
        &self,
        messages: &'a Messages,
    ) -> impl Iterator<Item = SlotNo> + use<'a> {
        let first = (self.oldest != NO_SLOT).then_some(self.oldest);
        core::iter::successors(first, |number| {
            let next = messages[*number].next_remembered;
            (next != NO_SLOT).then_some(next)
        })
    }

    /// Ids in the table.
    pub(super) fn len(&self) -> u64 {
        self.table.len() as u64
    }
}
