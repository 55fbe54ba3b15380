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
//!  | u8  |            | the last entry |        | gone, dropped,  |          | message |
//!  |     |            |                |        | age, bytes, max)|          |         |
//!  +-----+------------+----------------+--------+-----------------+----------+---------+
//!
//!  message
//!  +-----+----------+-------+------+-------+------+-------+-----+--------+-------+-------+
//!  |flags|    id    | index | term | stamp |offset| queue | len |attempts| until | token |
//!  | u8  | 16 bytes |  if another entry    |      |       |     |        |  if held      |
//!  +-----+----------+-------+------+-------+------+-------+-----+--------+-------+-------+
//! ```
//!
//! Numbers without a size are bincode's varints. Of a queue there are those that were sent and are gone,
//! those of them that it dropped, and its limits, 0 for none. Queues come in the order of their names and are
//! numbered so; messages come in log order, and those whose id is remembered are the last of them.
//! Index, term and stamp count from those of the entry before, an offset from that of the message
//! before in the same entry, and the end of a hold from the stamp. The flags tell what is left out
//! because it is as with the message before, or because there is none.

use super::command::Retention;
use super::dedup::HashedId;
use super::leases::Hold;
use super::line::Line;
use super::machine::Queues;
use super::messages::{ATTEMPTS_MAX, At, NO_SLOT, SlotNo, State, Wait};
use super::remembered::Place;
use super::reply::Receipt;
use crate::hlc::Hlc;
use crate::ids::{LeaseToken, LogIndex, MessageId, Position, Term};
use crate::limits;
use crate::state_machine::{BodyChanges, CommandContext, RestoreError, SnapshotReader};
use crate::wire;
use alloc::boxed::Box;
use alloc::collections::BinaryHeap;
use alloc::vec;
use alloc::vec::Vec;
use core::cmp::Reverse;
use core::ops::Bound;

const VERSION: u8 = 2;

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

/// What a queue adds to the head of a snapshot, as of when that began.
struct LineHead {
    first: SlotNo,
    gone: u64,
    dropped: u64,
    retention: Retention,
}

/// Which part is next.
enum Stage {
    /// The counters.
    Head,
    /// The queues after this one, which has this ordinal.
    Names(Option<(Box<str>, u32)>),
    /// The first messages of the queues from this number on are looked at.
    Firsts(usize),
    /// The messages whose id is remembered only because they are in a queue, in log order. Ids are
    /// forgotten in that order, so these are the first of their queues.
    PastWindow,
    /// The others.
    Remembered,
    /// All is written; what was kept for it is given back.
    Done,
}

/// A snapshot that is being written.
///
/// It reads the messages as they were when it began, and of the queues what it noted then: that takes
/// about 20 ns for each queue, and nothing for a message.
pub(super) struct SnapshotWriter {
    at: At,
    stage: Stage,
    token_last: LeaseToken,
    sends_since_forgetting: u64,
    used: u64,
    lines: Vec<LineHead>,
    /// By name: which queue was made first is not part of the state.
    ordinals: Vec<u32>,
    /// The next message of each queue that is past its window.
    heads: BinaryHeap<Reverse<(Position, SlotNo)>>,
    remembered: (Place, u64),
    last: Last,
}

impl core::fmt::Debug for SnapshotWriter {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("SnapshotWriter").field("lines", &self.lines.len()).finish_non_exhaustive()
    }
}

/// Copies of chunks that are given back in one piece: a few megabytes.
const THAWED_PER_PIECE: usize = 256;

/// So many bytes are what a look at a message costs that is then not written.
const BYTES_PER_STEP: usize = 4;

impl SnapshotWriter {
    fn new(queues: &Queues, at: At) -> Self {
        let head = |line: &Line| LineHead {
            first: line.first().unwrap_or(NO_SLOT),
            gone: line.sent_total - line.len(),
            dropped: line.dropped_total,
            retention: line.retention,
        };
        Self {
            at,
            stage: Stage::Head,
            token_last: queues.token_last,
            sends_since_forgetting: queues.dedup.sends_since_forgetting,
            used: queues.messages.used(),
            lines: queues.lines.iter().map(head).collect(),
            ordinals: vec![0; queues.lines.len()],
            heads: BinaryHeap::new(),
            remembered: queues.dedup.remembered_now(),
            last: Last::default(),
        }
    }

    /// Writes until there are `bytes_max` more bytes, or what took as long; says whether that was all.
    fn write(&mut self, queues: &Queues, bytes_max: usize, out: &mut Vec<u8>) -> bool {
        let (start, mut steps) = (out.len(), 0);
        while out.len() - start + steps * BYTES_PER_STEP < bytes_max {
            steps += 1;
            self.stage = match core::mem::replace(&mut self.stage, Stage::Done) {
                Stage::Head => {
                    out.push(VERSION);
                    put(self.token_last.0, out);
                    put(self.sends_since_forgetting, out);
                    put(self.lines.len() as u64, out);
                    Stage::Names(None)
                }
                Stage::Names(last) => self.write_name(queues, last, out),
                Stage::Firsts(line) if line < self.lines.len() => {
                    self.heads.extend(self.head(queues, self.lines[line].first));
                    Stage::Firsts(line + 1)
                }
                Stage::Firsts(_) => Stage::PastWindow,
                Stage::PastWindow => self.write_past_window(queues, out),
                Stage::Remembered => self.write_remembered(queues, out),
                Stage::Done => return true,
            };
        }
        matches!(self.stage, Stage::Done)
    }

    fn write_name(
        &mut self,
        queues: &Queues,
        last: Option<(Box<str>, u32)>,
        out: &mut Vec<u8>,
    ) -> Stage {
        let after = last.as_ref().map_or(Bound::Unbounded, |(name, _)| Bound::Excluded(&**name));
        let mut names = queues.lines_by_name.range::<str, _>((after, Bound::Unbounded));
        // Queues that are newer than the snapshot have greater numbers.
        let next = names.find(|(_, number)| (**number as usize) < self.lines.len());
        let Some((name, number)) = next else {
            put(self.used, out);
            return Stage::Firsts(0);
        };
        let ordinal = last.map_or(0, |(_, ordinal)| ordinal + 1);
        self.ordinals[*number as usize] = ordinal;
        wire::encode_into(&&**name, out);
        let LineHead { gone, dropped, retention, .. } = self.lines[*number as usize];
        put(gone, out);
        put(dropped, out);
        let Retention { max_age_millis, max_bytes, max_messages } = retention;
        for max in [max_age_millis, max_bytes, max_messages] {
            put(max.unwrap_or(0), out);
        }
        Stage::Names(Some((name.clone(), ordinal)))
    }

    /// A message's place among those that are past their window, if it is.
    fn head(&self, queues: &Queues, number: SlotNo) -> Option<Reverse<(Position, SlotNo)>> {
        if number == NO_SLOT {
            return None;
        }
        let wait = queues.messages.wait_at(self.at, number).expect("it is in a queue");
        let position = queues.messages.known_at(self.at, number).1.position;
        (!wait.is_remembered()).then_some(Reverse((position, number)))
    }

    fn write_past_window(&mut self, queues: &Queues, out: &mut Vec<u8>) -> Stage {
        let Some(Reverse((_, number))) = self.heads.pop() else { return Stage::Remembered };
        let next = queues.messages.wait_at(self.at, number).expect("it is in a queue").next;
        self.heads.extend(self.head(queues, next));
        self.write_message(queues, number, out);
        Stage::PastWindow
    }

    fn write_remembered(&mut self, queues: &Queues, out: &mut Vec<u8>) -> Stage {
        let (place, left) = &mut self.remembered;
        if *left == 0 {
            return Stage::Done;
        }
        *left -= 1;
        let number = queues.dedup.next_remembered(place).expect("as many as were counted");
        self.write_message(queues, number, out);
        Stage::Remembered
    }

    fn write_message(&mut self, queues: &Queues, number: SlotNo, out: &mut Vec<u8>) {
        let (id, receipt) = queues.messages.known_at(self.at, number);
        let wait = queues.messages.wait_at(self.at, number);
        let state = wait.map_or(State::Gone, Wait::state);
        let last = &mut self.last;
        let flags_at = out.len();
        let mut flags = state.bits() as u8;
        flags |= if wait.is_none_or(Wait::is_remembered) { REMEMBERED } else { 0 };
        out.push(flags);
        out.extend_from_slice(&id.0);

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

        if let Some(wait) = wait {
            let ordinal = self.ordinals[wait.queue as usize];
            put_new(QUEUE, ordinal, &mut last.queue, &mut flags, out);
            put_new(LEN, wait.len, &mut last.len, &mut flags, out);
            put_new(ATTEMPTS, wait.attempts(), &mut 0, &mut flags, out);
        }
        let hold = match (state, self.at) {
            (State::Available | State::Gone, _) => None,
            (State::Leased | State::Delayed, At::Now) => queues.leases.find(receipt.position),
            (State::Leased | State::Delayed, At::Freeze) => queues.leases.frozen(receipt.position),
        };
        if let Some(hold) = hold
            && (hold.until, hold.token) != last.hold
        {
            flags |= HOLD;
            last.hold = (hold.until, hold.token);
            put(hold.until.0.wrapping_sub(receipt.stamp.0), out);
            put(hold.token.0, out);
        }
        out[flags_at] = flags;
    }
}

impl Queues {
    pub(super) fn write_snapshot(&self, out: &mut Vec<u8>) {
        let mut writer = SnapshotWriter::new(self, At::Now);
        while !writer.write(self, usize::MAX, out) {}
    }

    pub(super) fn open_snapshot(&mut self) {
        self.thaw(usize::MAX);
        self.snapshot = Some(Box::new(SnapshotWriter::new(self, At::Freeze)));
        self.messages.freeze();
        self.dedup.freeze();
        self.leases.freeze(self.token_last);
    }

    pub(super) fn write_snapshot_piece(&mut self, bytes_max: usize, out: &mut Vec<u8>) -> bool {
        if let Some(mut writer) = self.snapshot.take() {
            // What is not zero ends.
            if !writer.write(self, bytes_max.max(1), out) {
                self.snapshot = Some(writer);
                return false;
            }
        }
        self.thaw(THAWED_PER_PIECE)
    }

    fn thaw(&mut self, mut chunks_max: usize) -> bool {
        self.dedup.thaw();
        self.leases.thaw();
        self.messages.thaw(&mut chunks_max)
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
            let line = &mut self.lines[line as usize];
            // Its messages are still to be counted in.
            line.sent_total = reader.number(COUNTER_MAX, "a queue's total")?;
            line.dropped_total = reader.number(line.sent_total, "what a queue dropped")?;
            line.retention = read_retention(&mut reader)?;
        }
        let mut last = Last::default();
        for _ in 0..reader.number(u64::from(u32::MAX) - 1, "the number of messages")? {
            self.read_message(&mut reader, &mut last)?;
        }
        self.dedup.sends_since_forgetting = sends_since_forgetting;
        (0..self.lines.len() as u32).for_each(|line| self.watch_excess(line));
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
            self.dedup.insert(&self.messages, hashed, number);
        } else {
            self.messages[number].set_remembered(false);
            self.dedup.insert_forgotten(&self.messages, hashed, number);
        }
        Ok(number)
    }

    fn emptied(&self) -> Self {
        Self::empty(self.dedup.emptied(), self.body_bytes_max)
    }
}

fn read_retention(reader: &mut SnapshotReader<'_>) -> Result<Retention, RestoreError> {
    let mut limit = |max| {
        let limit = reader.number(max, "a queue's limits")?;
        Ok((limit > 0).then_some(limit))
    };
    Ok(Retention {
        max_age_millis: limit(limits::RETENTION_MILLIS_MAX)?,
        max_bytes: limit(u64::MAX)?,
        max_messages: limit(u64::MAX)?,
    })
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
