//! The whole state in bytes, and back.
//!
//! Owns the format. It holds what somebody may ask for and what later answers depend on, and nothing
//! that follows from it: slots, tables, cursors and milestones are made anew. Of a message that is
//! gone only id and receipt are left. Next: `state_machine` for who asks, `invariants` for what a
//! restored machine satisfies.
//!
//! ```text
//!  +-----+------------+----------------+--------+-----------------+----------+---------+
//!  | ver | last token | sends since    | queues | count x (name,  | messages | count x |
//!  | u8  |            | the last entry |        | sent and gone)  |          | message |
//!  +-----+------------+----------------+--------+-----------------+----------+---------+
//!
//!  message
//!  +-----+----------+-------+------+-------+------+-------+-----+--------+-------+-------+
//!  |flags|    id    | index | term | stamp |offset| queue | len |attempts| until | token |
//!  | u8  | 16 bytes |  if another entry    |      |       |     |        |  if held      |
//!  +-----+----------+-------+------+-------+------+-------+-----+--------+-------+-------+
//! ```
//!
//! Numbers without a size are bincode's varints. Queues come in the order of their names and are
//! numbered so; messages come in log order, and those whose id is remembered are the last of them.
//! Index, term and stamp count from those of the entry before, an offset from that of the message
//! before in the same entry, and the end of a hold from the stamp. The flags tell what is left out
//! because it is as with the message before, or because there is none.

use super::dedup::{Dedup, HashedId};
use super::leases::Hold;
use super::machine::Queues;
use super::messages::{ATTEMPTS_MAX, NO_SLOT, SlotNo, State};
use super::reply::Receipt;
use crate::hlc::Hlc;
use crate::ids::{LeaseToken, LogIndex, MessageId, Position, Term};
use crate::limits;
use crate::state_machine::{BodyChanges, CommandContext, RestoreError, SnapshotReader};
use crate::wire;
use alloc::collections::BinaryHeap;
use alloc::collections::binary_heap::PeekMut;
use alloc::vec;
use alloc::vec::Vec;
use core::cmp::Reverse;

const VERSION: u8 = 1;

/// No counter gets here within the life of a cluster; in a snapshot it is damage, and so nothing
/// that counts on can overflow.
const COUNTER_MAX: u64 = 1 << 62;

/// The lowest two bits of the flags are the state, as [`State::bits`] has it.
const STATE_MASK: u8 = 0b11;
/// The id is within the dedup window.
const REMEMBERED: u8 = 1 << 2;
/// Another entry than that of the message before; the offset counts from 0 then.
const ENTRY: u8 = 1 << 3;
/// Another queue.
const QUEUE: u8 = 1 << 4;
/// Another length.
const LEN: u8 = 1 << 5;
/// Handed out before; without this flag, never.
const ATTEMPTS: u8 = 1 << 6;
/// Held otherwise than the last message that was held.
const HOLD: u8 = 1 << 7;

/// What the messages so far leave for the next to refer to.
#[derive(Default)]
struct Last {
    receipt: Receipt,
    queue: u32,
    len: u32,
    hold: (Hlc, LeaseToken),
    is_remembered: bool,
}

fn put(number: u64, out: &mut Vec<u8>) {
    wire::encode_into(&number, out);
}

/// Puts a value, and raises its flag, if it is not the last one.
fn put_new(flag: u8, value: u32, last: &mut u32, flags: &mut u8, out: &mut Vec<u8>) {
    if value != *last {
        *flags |= flag;
        put(u64::from(value), out);
        *last = value;
    }
}

impl Queues {
    pub(super) fn write_snapshot(&self, out: &mut Vec<u8>) {
        out.push(VERSION);
        put(self.token_last.0, out);
        put(self.dedup.sends_since_forgetting, out);
        put(self.lines.len() as u64, out);
        // By name: which queue was made first is not part of the state.
        let mut ordinals = vec![0; self.lines.len()];
        for (ordinal, (name, number)) in (0..).zip(&self.lines_by_name) {
            let line = &self.lines[*number as usize];
            ordinals[*number as usize] = ordinal;
            wire::encode_into(&&**name, out);
            put(line.sent_total - line.len(), out);
        }
        put(self.messages.used(), out);
        let mut last = Last::default();
        for number in self.past_window().chain(self.dedup.remembered(&self.messages)) {
            self.write_message(number, &ordinals, &mut last, out);
        }
    }

    /// The messages whose id is remembered only because they are in a queue, in log order. Ids are
    /// forgotten in that order, so these are the first of their queues.
    fn past_window(&self) -> impl Iterator<Item = SlotNo> {
        let head = |number: SlotNo| {
            let is_past = number != NO_SLOT && !self.messages[number].is_remembered();
            is_past.then(|| Reverse((self.messages.position(number), number)))
        };
        let firsts = self.lines.iter().filter_map(|line| line.first());
        let mut heads: BinaryHeap<_> = firsts.filter_map(head).collect();
        core::iter::from_fn(move || {
            let mut first = heads.peek_mut()?;
            let Reverse((_, number)) = *first;
            match head(self.messages[number].next) {
                Some(next) => *first = next,
                None => drop(PeekMut::pop(first)),
            }
            Some(number)
        })
    }

    fn write_message(&self, number: SlotNo, ordinals: &[u32], last: &mut Last, out: &mut Vec<u8>) {
        let (slot, receipt) = (&self.messages[number], self.messages.receipt(number));
        let flags_at = out.len();
        let mut flags = slot.state().bits() as u8;
        flags |= if slot.is_remembered() { REMEMBERED } else { 0 };
        out.push(flags);
        out.extend_from_slice(&self.messages.id(number).0);

        let Receipt { position: Position { index, offset }, term, stamp } = last.receipt;
        if receipt.position.index == index {
            put(u64::from(receipt.position.offset - offset), out);
        } else {
            flags |= ENTRY;
            put(receipt.position.index.0 - index.0, out);
            put(receipt.term.0 - term.0, out);
            put(receipt.stamp.0 - stamp.0, out);
            put(u64::from(receipt.position.offset), out);
        }
        last.receipt = receipt;

        if slot.state() != State::Gone {
            put_new(QUEUE, ordinals[slot.queue as usize], &mut last.queue, &mut flags, out);
            put_new(LEN, slot.len, &mut last.len, &mut flags, out);
            put_new(ATTEMPTS, slot.attempts(), &mut 0, &mut flags, out);
        }
        if let Some(hold) = self.hold_of(number)
            && (hold.until, hold.token) != last.hold
        {
            flags |= HOLD;
            last.hold = (hold.until, hold.token);
            put(hold.until.0.wrapping_sub(receipt.stamp.0), out);
            put(hold.token.0, out);
        }
        out[flags_at] = flags;
    }

    fn hold_of(&self, number: SlotNo) -> Option<&Hold> {
        match self.messages[number].state() {
            State::Leased | State::Delayed => self.leases.find(self.messages.position(number)),
            State::Available | State::Gone => None,
        }
    }

    pub(super) fn read_snapshot(&mut self, bytes: &[u8]) -> Result<(), RestoreError> {
        // What was there goes first, so that memory never holds both.
        *self = self.emptied();
        let mut reader = SnapshotReader::new(bytes, VERSION)?;
        self.token_last = LeaseToken(reader.number(COUNTER_MAX, "the last token")?);
        let sends_since_forgetting = reader.number(COUNTER_MAX, "the latest sends")?;
        let mut name_last = "";
        for _ in 0..reader.number(u64::from(u32::MAX), "the number of queues")? {
            let name = reader.text("a queue's name")?;
            let is_fit = (1..=limits::NAME_BYTES_MAX).contains(&name.len());
            reader.check(is_fit, "a queue's name is empty or too long")?;
            reader.check(name > name_last, "queues are not in the order of their names")?;
            name_last = name;
            let line = self.find_or_create_line(name);
            // Its messages are still to be counted in.
            self.lines[line as usize].sent_total = reader.number(COUNTER_MAX, "a queue's total")?;
        }
        let mut last = Last::default();
        for _ in 0..reader.number(u64::from(u32::MAX) - 1, "the number of messages")? {
            self.read_message(&mut reader, &mut last)?;
        }
        self.dedup.sends_since_forgetting = sends_since_forgetting;
        // Nothing began or ended: whoever restores asks for all live entries.
        self.messages.take_changes(&mut BodyChanges::default());
        reader.finish()
    }

    fn read_message(
        &mut self,
        reader: &mut SnapshotReader<'_>,
        last: &mut Last,
    ) -> Result<(), RestoreError> {
        let [flags] = reader.array("a message's flags")?;
        let id = MessageId(reader.array("a message's id")?);
        let state = State::from_bits(u32::from(flags & STATE_MASK));
        let is_remembered = flags & REMEMBERED != 0;
        last.read_receipt(reader, flags & ENTRY != 0)?;
        reader.check(is_remembered >= last.is_remembered, "ids are not forgotten in log order")?;
        last.is_remembered = is_remembered;
        if state == State::Gone {
            reader.check(is_remembered, "a message is gone and forgotten")?;
            let known = STATE_MASK | REMEMBERED | ENTRY;
            reader.check(flags & !known == 0, "a message that is gone has more than a receipt")?;
            let number = self.restore_slot(reader, id, true, last)?;
            self.messages[number].set_state(State::Gone);
            self.messages.on_gone(number);
            return Ok(());
        }
        if flags & QUEUE != 0 {
            last.queue = reader.number(u64::from(u32::MAX), "a message's queue")? as u32;
        }
        reader.check((last.queue as usize) < self.lines.len(), "a message is in no queue")?;
        if flags & LEN != 0 {
            last.len = reader.number(u64::from(u32::MAX), "a message's length")? as u32;
        }
        let attempts = match flags & ATTEMPTS {
            0 => 0,
            _ => reader.number(u64::from(ATTEMPTS_MAX), "a message's attempts")? as u32,
        };
        let number = self.restore_slot(reader, id, is_remembered, last)?;
        self.messages[number].set_state(state);
        self.messages[number].set_attempts(attempts);
        let line = &mut self.lines[last.queue as usize];
        let is_possible = line.push_restored(&mut self.messages, number);
        reader.check(is_possible, "a message's state fits neither its attempts nor its place")?;
        self.message_count += 1;
        if flags & HOLD != 0 {
            let until = Hlc(reader.number(u64::MAX, "the end of a hold")?);
            let until = Hlc(until.0.wrapping_add(last.receipt.stamp.0));
            last.hold = (until, LeaseToken(reader.number(self.token_last.0, "a lease's token")?));
        }
        let (until, token) = last.hold;
        match state {
            State::Leased => reader.check(token != LeaseToken::ZERO, "a lease has no token")?,
            State::Delayed => reader.check(token == LeaseToken::ZERO, "a delay has a token")?,
            State::Available | State::Gone => {
                return reader.check(flags & HOLD == 0, "an available message is held");
            }
        }
        self.leases.insert(Hold { position: last.receipt.position, until, token, slot: number });
        Ok(())
    }

    /// Makes the slot of a message and lets its id lead to it.
    fn restore_slot(
        &mut self,
        reader: &SnapshotReader<'_>,
        id: MessageId,
        is_remembered: bool,
        last: &Last,
    ) -> Result<SlotNo, RestoreError> {
        let hashed = HashedId::new(id);
        let is_known = self.dedup.find(&self.messages, hashed).is_some();
        reader.check(!is_known, "two messages have one id")?;
        let Receipt { position: Position { index, offset }, term, stamp: log_time } = last.receipt;
        let context = CommandContext { term, index, log_time, offset };
        let number = self.messages.insert(context, offset, id, last.len, last.queue);
        if is_remembered {
            self.dedup.insert(&mut self.messages, hashed, number);
        } else {
            self.messages[number].set_remembered(false);
            self.dedup.insert_forgotten(&self.messages, hashed, number);
        }
        Ok(number)
    }

    fn emptied(&self) -> Self {
        Self::empty(Dedup::new(self.dedup.window_millis()), self.body_bytes_max)
    }

    /// The first entry that brought a message which is in a queue.
    pub(super) fn oldest_entry_in_queues(&self) -> Option<LogIndex> {
        let firsts = self.lines.iter().filter_map(|line| line.first());
        firsts.map(|number| self.messages.position(number).index).min()
    }
}

impl Last {
    /// Moves on to the place of the next message.
    fn read_receipt(
        &mut self,
        reader: &mut SnapshotReader<'_>,
        is_new_entry: bool,
    ) -> Result<(), RestoreError> {
        let Receipt { position: Position { index, offset }, term, stamp } = &mut self.receipt;
        if is_new_entry {
            let step = reader.number(COUNTER_MAX - index.0, "an entry's index")?;
            reader.check(step > 0, "entries are not in log order")?;
            *index = LogIndex(index.0 + step);
            *term = Term(term.0 + reader.number(COUNTER_MAX - term.0, "an entry's term")?);
            *stamp = Hlc(stamp.0 + reader.number(u64::MAX - stamp.0, "an entry's stamp")?);
            *offset = reader.number(u64::from(u32::MAX), "a message's offset")? as u32;
            return Ok(());
        }
        reader.check(*index != LogIndex::ZERO, "the first message has no entry")?;
        let step = reader.number(u64::from(u32::MAX - *offset), "a message's offset")? as u32;
        reader.check(step > 0, "messages of an entry are not in their order")?;
        *offset += step;
        Ok(())
    }
}
