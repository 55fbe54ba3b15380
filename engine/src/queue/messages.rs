//! What is known of each message, in a few columns; never its bytes.
//!
//! Owns the numbers of messages and what is known under each. A number lives while its message is in a
//! queue or its id is remembered, whichever is longer; it is used again after that. An entry's index
//! and stamp are kept once for all of its messages, a term once for all of its entries. Also owns which
//! entries bodies may be asked of, as their messages come and go.
//! Next: `line` links messages into queues, `dedup` finds them by id, `slab` has the columns.
//!
//! ```text
//!            id       place    wait    table of ids    entry, shared by a batch's messages
//!          16 bytes  8 bytes 20 bytes   6 to 12            24 bytes
//!  waits   |<-------------- 50 to 56 ------------->|
//!  gone    |<------------->|       +  |<---------->|        30 to 36
//! ```

use super::reply::Receipt;
use super::slab::{Column, NONE, Numbers, chunk_of};
use crate::hlc::Hlc;
use crate::ids::{LogIndex, MessageId, Position, Term};
use crate::state_machine::{BodyChanges, CommandContext};
use alloc::vec::Vec;
use core::ops::{Index, IndexMut};

/// The number of a message; [`NO_SLOT`] is none.
pub(super) type SlotNo = u32;
/// No message.
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

/// Where in the log a message is.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Place {
    /// Number of its entry.
    entry: u32,
    offset: u32,
}

/// A message in a queue.
#[derive(Clone, Default, Debug)]
pub(super) struct Wait {
    /// Bytes of the encoded message.
    pub(super) len: u32,
    pub(super) queue: u32,
    /// Neighbours in the queue, whatever their states.
    pub(super) previous: SlotNo,
    /// See `previous`.
    pub(super) next: SlotNo,
    /// Deliveries times 16, then the flags: milestone, remembered, and two bits of state. Zero is the
    /// state of a message that is gone.
    packed: u32,
}

const _: () = assert!(size_of::<Place>() == 8 && size_of::<Wait>() == 20);

const ATTEMPTS_SHIFT: u32 = 4;
/// Attempts are counted up to here.
pub(super) const ATTEMPTS_MAX: u32 = u32::MAX >> ATTEMPTS_SHIFT;
const MILESTONE: u32 = 0b1000;
const REMEMBERED: u32 = 0b100;
const STATE_MASK: u32 = 0b11;

impl Wait {
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
#[derive(Clone, Default, Debug)]
struct Entry {
    index: LogIndex,
    stamp: Hlc,
    /// Messages that refer to it.
    known: u32,
    /// Those of them that are in a queue: somebody may ask for a body of this entry.
    waiting: u32,
}

const _: () = assert!(size_of::<Entry>() == 24);

/// All messages that are in a queue or remembered.
#[derive(Debug)]
pub(super) struct Messages {
    numbers: Numbers,
    /// Apart from the rest, as a table that grows looks at all of them.
    ids: Column<MessageId>,
    places: Column<Place>,
    /// Only chunks with a message that waits are there, and the latest.
    waits: Column<Wait>,
    /// Messages of each chunk that wait.
    waiting: Vec<u16>,
    /// The chunk of the latest message. It stays even if nothing is in it: a queue that is mostly empty
    /// would otherwise take and give back memory with each message.
    chunk_latest: usize,
    entry_numbers: Numbers,
    entries: Column<Entry>,
    /// The entry that brought the latest message, while it is in use.
    entry_latest: Option<(LogIndex, u32)>,
    /// The first entry of each term that brought messages; 16 bytes for each such term, until no message
    /// and no id is left.
    terms: Vec<(LogIndex, Term)>,
    is_frozen: bool,
    /// Not told yet.
    changes: BodyChanges,
}

impl Messages {
    pub(super) fn new() -> Self {
        Self {
            numbers: Numbers::new(),
            ids: Column::new(),
            places: Column::new(),
            waits: Column::new(),
            waiting: Vec::new(),
            chunk_latest: 0,
            entry_numbers: Numbers::new(),
            entries: Column::new(),
            entry_latest: None,
            terms: Vec::new(),
            is_frozen: false,
            changes: BodyChanges::default(),
        }
    }

    /// Makes room for a message that `context`'s entry brings: available, remembered and fresh, but not
    /// yet linked into anything.
    pub(super) fn insert(
        &mut self,
        context: CommandContext,
        offset: u32,
        id: MessageId,
        len: u32,
        queue: u32,
    ) -> SlotNo {
        let entry_number = self.entry_of(context);
        let entry = &mut self.entries[entry_number];
        entry.known += 1;
        entry.waiting += 1;
        let (is_first, is_new) = (entry.waiting == 1, entry.known == 1);
        if is_first {
            self.begin(context.index, is_new);
        }
        let number = self.numbers.take();
        self.ids.put(number, id);
        self.places.put(number, Place { entry: entry_number, offset });
        let (previous, next) = (NO_SLOT, NO_SLOT);
        let packed = REMEMBERED | State::Available.bits();
        self.waits.put(number, Wait { len, queue, previous, next, packed });
        self.count_waiting(chunk_of(number));
        number
    }

    fn count_waiting(&mut self, chunk: usize) {
        if chunk >= self.waiting.len() {
            self.waiting.resize(chunk + 1, 0);
        }
        self.waiting[chunk] += 1;
        let before = core::mem::replace(&mut self.chunk_latest, chunk);
        if before != chunk && self.waiting[before] == 0 {
            self.waits.release(before);
        }
    }

    /// A message's id.
    pub(super) fn id(&self, number: SlotNo) -> MessageId {
        self.ids[number]
    }

    /// Where a message is in its life.
    pub(super) fn state(&self, number: SlotNo) -> State {
        self.waits.find(number).map_or(State::Gone, Wait::state)
    }

    /// The entry of `context`, made when its first message comes.
    fn entry_of(&mut self, context: CommandContext) -> u32 {
        let CommandContext { term, index, log_time: stamp, offset: _ } = context;
        if let Some((latest, number)) = self.entry_latest
            && latest == index
        {
            return number;
        }
        if self.entry_numbers.used() == 0 && !self.is_frozen {
            self.terms.clear();
        }
        if self.terms.last().is_none_or(|(_, last)| *last != term) {
            self.terms.push((index, term));
        }
        let number = self.entry_numbers.take();
        self.entries.put(number, Entry { index, stamp, known: 0, waiting: 0 });
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
        self[number].set_state(State::Gone);
        let chunk = chunk_of(number);
        self.waiting[chunk] -= 1;
        if self.waiting[chunk] == 0 && chunk != self.chunk_latest {
            self.waits.release(chunk);
        }
        let entry_number = self.places[number].entry;
        let entry = &mut self.entries[entry_number];
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

    /// Frees the number of a message that is gone.
    pub(super) fn remove(&mut self, number: SlotNo) {
        let entry_number = self.places[number].entry;
        let entry = &mut self.entries[entry_number];
        entry.known -= 1;
        if entry.known == 0 {
            assert!(entry.waiting == 0, "what waits is known");
            self.entry_latest.take_if(|(_, latest)| *latest == entry_number);
            if self.entry_numbers.give_back(entry_number) {
                self.entries.release(chunk_of(entry_number));
            }
        }
        let chunk = chunk_of(number);
        if self.numbers.give_back(number) && chunk != self.chunk_latest {
            self.ids.release(chunk);
            self.places.release(chunk);
        }
    }

    /// Where a message is and when it came.
    pub(super) fn receipt(&self, number: SlotNo) -> Receipt {
        let place = self.places[number];
        self.receipt_of(place, &self.entries[place.entry])
    }

    fn receipt_of(&self, place: Place, entry: &Entry) -> Receipt {
        let run = self.terms.partition_point(|(first, _)| *first <= entry.index);
        let term = run.checked_sub(1).map_or(Term::ZERO, |run| self.terms[run].1);
        let position = Position { index: entry.index, offset: place.offset };
        Receipt { position, term, stamp: entry.stamp }
    }

    /// Where a message is.
    pub(super) fn position(&self, number: SlotNo) -> Position {
        let Place { entry, offset } = self.places[number];
        Position { index: self.entries[entry].index, offset }
    }

    /// When a message came.
    pub(super) fn stamp(&self, number: SlotNo) -> Hlc {
        self.entries[self.places[number].entry].stamp
    }

    /// Numbers that there are, in use or free.
    #[cfg(test)]
    pub(super) fn capacity(&self) -> u32 {
        self.numbers.capacity()
    }

    /// Chunks with room for messages that wait.
    #[cfg(test)]
    pub(super) fn waiting_chunks(&self) -> usize {
        self.waits.values().count() / super::slab::CHUNK_LEN
    }

    /// Messages in a queue and remembered ones.
    pub(super) fn used(&self) -> u64 {
        u64::from(self.numbers.used())
    }

    /// From now on the messages can be looked at as they are now.
    pub(super) fn freeze(&mut self) {
        self.is_frozen = true;
        self.ids.freeze();
        self.places.freeze();
        self.waits.freeze();
        self.entries.freeze();
    }

    /// Gives back some of what was kept for looking back; says whether all of it.
    pub(super) fn thaw(&mut self, budget: &mut usize) -> bool {
        self.is_frozen = false;
        let (ids, places) = (self.ids.thaw(budget), self.places.thaw(budget));
        let (waits, entries) = (self.waits.thaw(budget), self.entries.thaw(budget));
        ids && places && waits && entries
    }

    /// A message that is in a queue, now or when the messages were frozen.
    pub(super) fn wait_at(&self, at: At, number: SlotNo) -> Option<&Wait> {
        let wait = match at {
            At::Now => self.waits.find(number),
            At::Freeze => self.waits.frozen(number),
        };
        wait.filter(|wait| wait.state() != State::Gone)
    }

    /// Id and receipt of a message, now or when the messages were frozen.
    pub(super) fn known_at(&self, at: At, number: SlotNo) -> (MessageId, Receipt) {
        match at {
            At::Now => (self.id(number), self.receipt(number)),
            At::Freeze => {
                let known = "the number was in use";
                let place = *self.places.frozen(number).expect(known);
                let entry = self.entries.frozen(place.entry).expect(known);
                (*self.ids.frozen(number).expect(known), self.receipt_of(place, entry))
            }
        }
    }
}

/// As of when something is looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum At {
    /// As it is.
    Now,
    /// As it was when it was frozen.
    Freeze,
}

impl Index<SlotNo> for Messages {
    type Output = Wait;
    fn index(&self, number: SlotNo) -> &Wait {
        &self.waits[number]
    }
}

impl IndexMut<SlotNo> for Messages {
    fn index_mut(&mut self, number: SlotNo) -> &mut Wait {
        &mut self.waits[number]
    }
}
