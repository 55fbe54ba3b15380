//! What is known of each message, in compact slots; never its bytes.
//!
//! Owns the slots and the log entries that they refer to. A slot lives while its message is in a
//! queue or its id is remembered, whichever is longer; its number is reused after that. An entry's
//! index, term and stamp are kept once for all of its messages.
//! Next: `line` links slots into queues, `dedup` finds them by id.
//!
//! Memory: 32 bytes for a slot, 16 for its id, 6 to 12 for its place in the table of ids, and 32 for an entry,
//! shared by all messages of a batch.

use super::reply::Receipt;
use super::slab::{Column, NONE, Slab};
use crate::hlc::Hlc;
use crate::ids::{LogIndex, MessageId, Position, Term};
use crate::state_machine::{BodyChanges, CommandContext};
use core::ops::{Index, IndexMut};

/// The number of a slot; [`NO_SLOT`] is none.
pub(super) type SlotNo = u32;
/// No slot.
pub(super) const NO_SLOT: SlotNo = NONE;

/// Where a message is in its life.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    /// In no queue any more; only its id is remembered.
    Gone,
    /// The next receive may get it.
    Available,
    /// A receiver has it.
    Leased,
    /// A nack put it off.
    Delayed,
}

impl State {
    /// Two bits, of which a snapshot is made too.
    pub(super) fn bits(self) -> u32 {
        match self {
            Self::Gone => 0,
            Self::Available => 1,
            Self::Leased => 2,
            Self::Delayed => 3,
        }
    }

    /// From the lowest two bits.
    pub(super) fn from_bits(bits: u32) -> Self {
        match bits & STATE_MASK {
            0 => Self::Gone,
            1 => Self::Available,
            2 => Self::Leased,
            _ => Self::Delayed,
        }
    }
}

/// A message, but for its id.
#[derive(Clone, Debug)]
pub(super) struct Slot {
    /// Of [`Messages::receipt`].
    entry: u32,
    offset: u32,
    /// Bytes of the encoded message.
    pub(super) len: u32,
    pub(super) queue: u32,
    /// Neighbours in the queue, whatever their states.
    pub(super) previous: SlotNo,
    /// See `previous`.
    pub(super) next: SlotNo,
    /// The next message in the order of sending whose id is remembered.
    pub(super) next_remembered: SlotNo,
    /// Deliveries times 16, then the flags: milestone, remembered, and two bits of state.
    packed: u32,
}

const _: () = assert!(size_of::<Slot>() == 32);

const ATTEMPTS_SHIFT: u32 = 4;
/// Attempts are counted up to here.
pub(super) const ATTEMPTS_MAX: u32 = u32::MAX >> ATTEMPTS_SHIFT;
const MILESTONE: u32 = 0b1000;
const REMEMBERED: u32 = 0b100;
const STATE_MASK: u32 = 0b11;

impl Slot {
    pub(super) fn state(&self) -> State {
        State::from_bits(self.packed)
    }

    pub(super) fn set_state(&mut self, state: State) {
        self.packed = self.packed & !STATE_MASK | state.bits();
    }

    /// Whether the id is within the dedup window.
    pub(super) fn is_remembered(&self) -> bool {
        self.packed & REMEMBERED != 0
    }

    pub(super) fn set_remembered(&mut self, remembered: bool) {
        self.packed = self.packed & !REMEMBERED | if remembered { REMEMBERED } else { 0 };
    }

    /// Whether a browse may start here; see `line`.
    pub(super) fn is_milestone(&self) -> bool {
        self.packed & MILESTONE != 0
    }

    pub(super) fn set_milestone(&mut self, milestone: bool) {
        self.packed = self.packed & !MILESTONE | if milestone { MILESTONE } else { 0 };
    }

    /// How often the message was handed out; stands still at 2^28 - 1.
    pub(super) fn attempts(&self) -> u32 {
        self.packed >> ATTEMPTS_SHIFT
    }

    pub(super) fn count_attempt(&mut self) {
        if self.attempts() < ATTEMPTS_MAX {
            self.packed += 1 << ATTEMPTS_SHIFT;
        }
    }

    /// Of a message that is restored.
    pub(super) fn set_attempts(&mut self, attempts: u32) {
        assert!(attempts <= ATTEMPTS_MAX);
        self.packed = self.packed & !(u32::MAX << ATTEMPTS_SHIFT) | attempts << ATTEMPTS_SHIFT;
    }

    /// Whether nobody has received the message yet. Such messages are the end of their queue.
    pub(super) fn is_fresh(&self) -> bool {
        self.attempts() == 0
    }
}

/// A log entry that brought messages.
#[derive(Clone, Debug)]
struct Entry {
    index: LogIndex,
    term: Term,
    stamp: Hlc,
    /// Slots that refer to it.
    slots: u32,
    /// Those of them whose messages are in a queue: somebody may ask for a body of this entry.
    waiting: u32,
}

/// Slots and entries.
#[derive(Debug)]
pub(super) struct Messages {
    slots: Slab<Slot>,
    /// Apart from the slots, as a table that grows looks at all of them.
    ids: Column<MessageId>,
    entries: Slab<Entry>,
    /// The entry that brought the latest message, while it is in use.
    entry_latest: Option<(LogIndex, u32)>,
    /// Not told yet.
    changes: BodyChanges,
}

impl Messages {
    pub(super) fn new() -> Self {
        Self {
            slots: Slab::new(),
            ids: Column::new(),
            entries: Slab::new(),
            entry_latest: None,
            changes: BodyChanges::default(),
        }
    }

    /// Makes a slot for a message that `context`'s entry brings: available, remembered and fresh,
    /// but not yet linked into anything.
    pub(super) fn insert(
        &mut self,
        context: CommandContext,
        offset: u32,
        id: MessageId,
        len: u32,
        queue: u32,
    ) -> SlotNo {
        let entry = self.entry_of(context);
        let is_new = self.entries[entry].slots == 0;
        self.entries[entry].slots += 1;
        self.entries[entry].waiting += 1;
        if self.entries[entry].waiting == 1 {
            self.begin(context.index, is_new);
        }
        let mut slot = Slot {
            entry,
            offset,
            len,
            queue,
            previous: NO_SLOT,
            next: NO_SLOT,
            next_remembered: NO_SLOT,
            packed: REMEMBERED,
        };
        slot.set_state(State::Available);
        let number = self.slots.insert(slot);
        self.ids.put(number, id);
        number
    }

    /// A message's id.
    pub(super) fn id(&self, number: SlotNo) -> MessageId {
        self.ids[number]
    }

    /// The entry of `context`, made when its first message comes.
    fn entry_of(&mut self, context: CommandContext) -> u32 {
        let CommandContext { term, index, log_time: stamp, offset: _ } = context;
        if let Some((latest, number)) = self.entry_latest
            && latest == index
        {
            return number;
        }
        let number = self.entries.insert(Entry { index, term, stamp, slots: 0, waiting: 0 });
        self.entry_latest = Some((index, number));
        number
    }

    /// A body of this entry may be asked for. One that is not new may have ceased to be such an entry a
    /// moment ago: its messages were taken between two sends of the entry. Both cancel out then, as the
    /// lists have no order between them; what is searched is what ended since, so this costs nothing.
    fn begin(&mut self, index: LogIndex, is_new: bool) {
        let ended = &mut self.changes.ended;
        let at = if is_new { None } else { ended.iter().rposition(|ended| *ended == index) };
        match at {
            Some(at) => drop(ended.swap_remove(at)),
            None => self.changes.begun.push(index),
        }
    }

    /// A message is in no queue any more.
    pub(super) fn on_gone(&mut self, number: SlotNo) {
        let number_of_entry = self[number].entry;
        let entry = &mut self.entries[number_of_entry];
        entry.waiting -= 1;
        if entry.waiting == 0 {
            self.changes.ended.push(entry.index);
        }
    }

    /// See [`StateMachine::take_body_changes`](crate::state_machine::StateMachine::take_body_changes).
    pub(super) fn take_changes(&mut self, changes: &mut BodyChanges) {
        changes.begun.append(&mut self.changes.begun);
        changes.ended.append(&mut self.changes.ended);
    }

    /// The entries of messages that are in a queue, in any order.
    pub(super) fn live_entries(&self) -> impl Iterator<Item = LogIndex> {
        let live = self.entries.values().filter(|entry| entry.waiting > 0);
        live.map(|entry| entry.index)
    }

    /// Frees a slot that is linked nowhere.
    pub(super) fn remove(&mut self, number: SlotNo) {
        let entry_number = self[number].entry;
        let entry = &mut self.entries[entry_number];
        entry.slots -= 1;
        if entry.slots == 0 {
            self.entries.remove(entry_number);
            self.entry_latest.take_if(|(_, latest)| *latest == entry_number);
        }
        self.slots.remove(number);
    }

    /// Where a message is and when it came.
    pub(super) fn receipt(&self, number: SlotNo) -> Receipt {
        let slot = &self[number];
        let entry = &self.entries[slot.entry];
        let position = Position { index: entry.index, offset: slot.offset };
        Receipt { position, term: entry.term, stamp: entry.stamp }
    }

    /// Where a message is.
    pub(super) fn position(&self, number: SlotNo) -> Position {
        let slot = &self[number];
        Position { index: self.entries[slot.entry].index, offset: slot.offset }
    }

    /// Slots that there are, in use or free.
    #[cfg(test)]
    pub(super) fn capacity(&self) -> u32 {
        self.slots.capacity()
    }

    /// Slots in use.
    pub(super) fn used(&self) -> u64 {
        u64::from(self.slots.used())
    }
}

impl Index<SlotNo> for Messages {
    type Output = Slot;
    fn index(&self, number: SlotNo) -> &Slot {
        &self.slots[number]
    }
}

impl IndexMut<SlotNo> for Messages {
    fn index_mut(&mut self, number: SlotNo) -> &mut Slot {
        &mut self.slots[number]
    }
}
