//! The machine itself: applies commands to the queues and answers reads.
//!
//! Owns the parts and the moves between them: a message is in exactly one state of one queue, and
//! each state's bookkeeping is kept by the part that it belongs to. Reads no time but the stamps of
//! log entries, and no limit that may differ between nodes while it applies.
//! Next: `line` for order, `leases` for holds, `dedup` for ids, `messages` for what is kept, `snapshot`
//! for all of it in bytes.

use super::codec::{CommandView, Items, Messages as SentMessages, SentView};
use super::command::{Command, Held, Query, ReceiveMode};
use super::dedup::{Dedup, HashedId};
use super::leases::{Hold, Leases};
use super::line::{Line, watch_key};
use super::messages::{At, Messages, SlotNo, State};
use super::reply::{Browsed, Delivered, Invalid, QueueInfo, Receipt, Reply, Sent};
use super::retention::Excess;
use super::snapshot::SnapshotWriter;
use crate::hlc::Hlc;
use crate::ids::{LeaseToken, LogIndex, MessageId, Position};
use crate::limits::{self, Limits};
use crate::state_machine::{
    BodyChanges, BodyRef, CommandContext, RestoreError, StateMachine, Watched, read_value,
};
use crate::wire;
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::ops::Bound;
use hashbrown::HashTable;

/// Leases and delays that end at one step of log time. Those of a million messages that end at once
/// come back over several entries; none of them can be settled meanwhile.
pub(super) const EXPIRIES_PER_ADVANCE_MAX: usize = 16_384;

/// The queues of a group: a [`StateMachine`] whose replies are [`Reply`].
///
/// A message costs 50 to 56 bytes here while it waits (and 24 for each log entry that brought any), 30 to
/// 36 after it was taken until its id is forgotten, and a lease about 130 more. While a snapshot is being
/// written, what is changed since it began is there twice.
#[derive(Debug)]
pub struct Queues {
    pub(super) messages: Messages,
    pub(super) dedup: Dedup,
    pub(super) leases: Leases,
    /// In the order of creation; a queue is never removed.
    pub(super) lines: Vec<Line>,
    /// Line numbers by the hash of the name.
    lines_by_key: HashTable<u32>,
    /// The line that was sent to last; looked at first.
    line_last: u32,
    pub(super) lines_by_name: BTreeMap<Box<str>, u32>,
    pub(super) excess: Excess,
    pub(super) token_last: LeaseToken,
    pub(super) message_count: u64,
    /// Lines with something to wake watchers for.
    woken: Vec<u32>,
    /// The snapshot that is being written in pieces.
    pub(super) snapshot: Option<Box<SnapshotWriter>>,
    /// Only for validation: it may differ between nodes.
    pub(super) body_bytes_max: u32,
}

impl Queues {
    /// No queues.
    #[must_use]
    pub fn new(limits: &Limits) -> Self {
        let body_bytes_max = limits.body_bytes_max.min(limits::BODY_BYTES_MAX);
        let dedup = Dedup::new(limits.dedup_window_millis, limits.remembered_ids_max);
        Self::empty(dedup, body_bytes_max)
    }

    pub(super) fn empty(dedup: Dedup, body_bytes_max: u32) -> Self {
        Self {
            messages: Messages::new(),
            dedup,
            leases: Leases::new(),
            lines: Vec::new(),
            lines_by_key: HashTable::new(),
            line_last: 0,
            lines_by_name: BTreeMap::new(),
            excess: Excess::new(),
            token_last: LeaseToken::ZERO,
            message_count: 0,
            woken: Vec::new(),
            snapshot: None,
            body_bytes_max,
        }
    }

    /// Messages in all queues: available, leased and delayed.
    #[must_use]
    pub fn message_count(&self) -> u64 {
        self.message_count
    }

    /// Queues that exist.
    #[must_use]
    pub fn queue_count(&self) -> u64 {
        self.lines.len() as u64
    }

    fn find_line(&self, name: &str) -> Option<u32> {
        let is_it = |line: &u32| *self.lines[*line as usize].name == *name;
        self.lines_by_key.find(watch_key(name), is_it).copied()
    }

    pub(super) fn find_or_create_line(&mut self, name: &str) -> u32 {
        // Sends come in runs to one queue.
        if self.lines.get(self.line_last as usize).is_some_and(|line| *line.name == *name) {
            return self.line_last;
        }
        if let Some(line) = self.find_line(name) {
            self.line_last = line;
            return line;
        }
        let number = u32::try_from(self.lines.len()).expect("4 billion queues fit no memory");
        let line = Line::new(name);
        let lines = &self.lines;
        self.lines_by_key.insert_unique(line.key, number, |line| lines[*line as usize].key);
        self.lines_by_name.insert(name.into(), number);
        self.lines.push(line);
        number
    }

    fn send(&mut self, context: CommandContext, sent: &SentMessages<'_>) -> Reply {
        let mut each = sent.iter().map(|sent| self.send_one(context, &sent));
        if sent.count == 1 {
            return Reply::SentOne(each.next().expect("there is one"));
        }
        let mut replies = Vec::with_capacity(sent.count);
        replies.extend(each);
        Reply::SentMany(replies)
    }

    fn send_one(&mut self, context: CommandContext, sent: &SentView<'_>) -> Sent {
        let message = &sent.message;
        let id = HashedId::new(message.id);
        if let Some(number) = self.dedup.find(&self.messages, id) {
            return Sent { receipt: self.messages.receipt(number), duplicate: true };
        }
        let fits = "a payload is far shorter than 4 GiB";
        let offset =
            context.offset.checked_add(u32::try_from(sent.offset).expect(fits)).expect(fits);
        let len = u32::try_from(sent.encoded.len()).expect(fits);
        let line = self.find_or_create_line(message.to);
        let number = self.messages.insert(context, offset, message.id, len, line);
        self.dedup.insert(&self.messages, id, number);
        self.lines[line as usize].push(&mut self.messages, number);
        self.message_count += 1;
        self.wake(line);
        self.watch_excess(line);
        let CommandContext { term, index, log_time: stamp, offset: _ } = context;
        let receipt = Receipt { position: Position { index, offset }, term, stamp };
        Sent { receipt, duplicate: false }
    }

    fn receive(&mut self, now: Hlc, queue: &str, max: u32, mode: ReceiveMode) -> Reply {
        let nothing =
            Reply::Received { token: LeaseToken::ZERO, until: Hlc::ZERO, deliveries: Vec::new() };
        let Some(line) = self.find_line(queue) else { return nothing };
        let count = self.lines[line as usize].available.min(u64::from(max));
        if count == 0 {
            return nothing;
        }
        let (token, until) = match mode {
            ReceiveMode::Take => (LeaseToken::ZERO, Hlc::ZERO),
            ReceiveMode::Lease { millis } => {
                self.token_last = self.token_last.next();
                (self.token_last, now.after_millis(millis))
            }
        };
        let mut deliveries = Vec::with_capacity(count as usize);
        let mut bytes = 0;
        while let Some(number) = self.lines[line as usize].first_available() {
            bytes += self.messages[number].len as usize;
            let is_full = bytes > limits::DELIVERY_BYTES_TARGET && !deliveries.is_empty();
            if is_full || deliveries.len() == max as usize {
                break;
            }
            deliveries.push(self.deliver(line, number, mode, token, until));
        }
        Reply::Received { token, until, deliveries }
    }

    fn deliver(
        &mut self,
        line: u32,
        number: SlotNo,
        mode: ReceiveMode,
        token: LeaseToken,
        until: Hlc,
    ) -> Delivered {
        let position = self.messages.position(number);
        let len = self.messages[number].len;
        // Withheld first: what is fresh, and so where the message is found, depends on the attempts.
        self.lines[line as usize].withhold(&self.messages, number);
        self.messages[number].count_attempt();
        let attempt = self.messages[number].attempts();
        match mode {
            ReceiveMode::Take => self.remove_withheld(number),
            ReceiveMode::Lease { .. } => {
                self.set_state(number, State::Leased);
                self.leases.insert(Hold { position, until, token, slot: number });
            }
        }
        Delivered { position, len, attempt }
    }

    /// Settles leases: each that is presently held, unexpired and of the named queue goes to `then`.
    fn settle(
        &mut self,
        now: Hlc,
        queue: &str,
        held: Items<'_, Held>,
        mut then: impl FnMut(&mut Self, Hold),
    ) -> Reply {
        let line = self.find_line(queue);
        let each = held.iter().map(|held| {
            let of_queue = |hold: &Hold| Some(self.messages[hold.slot].queue) == line;
            match self.leases.settle(held, now, of_queue) {
                Some(hold) => {
                    then(self, hold);
                    true
                }
                None => false,
            }
        });
        Reply::Settled(each.collect())
    }

    fn nack(&mut self, now: Hlc, hold: Hold, delay_millis: u64) {
        if delay_millis == 0 {
            return self.make_available(hold.slot);
        }
        self.set_state(hold.slot, State::Delayed);
        let until = now.after_millis(delay_millis);
        self.leases.insert(Hold { until, token: LeaseToken::ZERO, ..hold });
    }

    fn delete(&mut self, queue: &str, ids: Items<'_, MessageId>) -> Reply {
        let line = self.find_line(queue);
        let each = ids.iter().map(|id| match self.find_in_line(line, id) {
            Some(number) => {
                self.remove_message(number);
                true
            }
            None => false,
        });
        Reply::Deleted(each.collect())
    }

    fn purge(&mut self, queue: &str) -> Reply {
        let Some(line) = self.find_line(queue) else { return Reply::Purged(0) };
        let count = self.lines[line as usize].len();
        // All at once and not one by one: an order to purge comes when there are millions.
        let mut next_detached = self.lines[line as usize].detach_all();
        while let Some(number) = next_detached(&mut self.messages) {
            match self.messages[number].state() {
                State::Available => {}
                State::Leased | State::Delayed => self.let_go(number),
                State::Gone => unreachable!("the message was in a queue"),
            }
            self.become_gone(number);
        }
        Reply::Purged(count)
    }

    /// The message with this id, if it waits or is leased in this queue.
    fn find_in_line(&self, line: Option<u32>, id: MessageId) -> Option<SlotNo> {
        let number = self.dedup.find(&self.messages, HashedId::new(id))?;
        let wait = self.messages.wait_at(At::Now, number)?;
        (Some(wait.queue) == line).then_some(number)
    }

    /// Removes a message that is in a queue, whatever its state.
    pub(super) fn remove_message(&mut self, number: SlotNo) {
        match self.messages[number].state() {
            State::Available => {
                let line = self.messages[number].queue as usize;
                self.lines[line].withhold(&self.messages, number);
            }
            State::Leased | State::Delayed => self.let_go(number),
            State::Gone => unreachable!("the message is in a queue"),
        }
        self.remove_withheld(number);
    }

    /// Ends the lease or delay of a message.
    fn let_go(&mut self, number: SlotNo) {
        let hold = self.leases.remove(self.messages.position(number));
        assert!(hold.is_some(), "a leased or delayed message is held");
    }

    /// Removes a message that no receive can get and that is held no more.
    fn remove_withheld(&mut self, number: SlotNo) {
        let slot = &self.messages[number];
        let (line, state, len) = (slot.queue as usize, slot.state(), slot.len);
        *self.lines[line].count_mut(state) -= 1;
        if state == State::Available {
            self.lines[line].bytes -= u64::from(len);
        }
        self.lines[line].unlink(&mut self.messages, number);
        self.become_gone(number);
    }

    /// A message is in no queue any more.
    fn become_gone(&mut self, number: SlotNo) {
        let is_remembered = self.messages[number].is_remembered();
        self.messages.on_gone(number);
        self.message_count -= 1;
        if !is_remembered {
            self.forget(number);
        }
    }

    /// Frees what is neither in a queue nor remembered.
    fn forget(&mut self, number: SlotNo) {
        self.dedup.remove(&self.messages, number);
        self.messages.remove(number);
    }

    fn set_state(&mut self, number: SlotNo, state: State) {
        let slot = &mut self.messages[number];
        let line = &mut self.lines[slot.queue as usize];
        *line.count_mut(slot.state()) -= 1;
        *line.count_mut(state) += 1;
        if slot.state() == State::Available {
            line.bytes -= u64::from(slot.len);
        }
        if state == State::Available {
            line.bytes += u64::from(slot.len);
        }
        slot.set_state(state);
    }

    /// Puts a message that is held no more back into its old place.
    fn make_available(&mut self, number: SlotNo) {
        self.set_state(number, State::Available);
        let line = self.messages[number].queue;
        self.lines[line as usize].put_back(&self.messages, number);
        self.wake(line);
        self.watch_excess(line);
    }

    /// Notes that one more message is available.
    fn wake(&mut self, line: u32) {
        let woken = &mut self.lines[line as usize].woken;
        if *woken == 0 {
            self.woken.push(line);
        }
        *woken += 1;
    }

    fn browsed(&self, number: SlotNo) -> Browsed {
        let (slot, receipt) = (&self.messages[number], self.messages.receipt(number));
        let hold = self.leases.find(receipt.position);
        Browsed {
            receipt,
            len: slot.len,
            attempts: slot.attempts(),
            unavailable_until: hold.map(|hold| hold.until),
        }
    }

    fn browse(&self, queue: &str, after: Option<Position>, max: u32) -> Reply {
        let Some(line) = self.find_line(queue) else { return Reply::Browsed(Vec::new()) };
        let mut found = Vec::new();
        let mut bytes = 0;
        for number in self.lines[line as usize].after(&self.messages, after).take(max as usize) {
            bytes += self.messages[number].len as usize;
            if bytes > limits::DELIVERY_BYTES_TARGET && !found.is_empty() {
                break;
            }
            found.push(self.browsed(number));
        }
        Reply::Browsed(found)
    }

    fn list(&self, after: Option<&str>, max: u32) -> Reply {
        let after = after.map_or(Bound::Unbounded, Bound::Excluded);
        let names = self.lines_by_name.range::<str, _>((after, Bound::Unbounded));
        let info = |line: &u32| {
            let line = &self.lines[*line as usize];
            QueueInfo {
                name: (*line.name).into(),
                available: line.available,
                leased: line.leased,
                delayed: line.delayed,
                sent_total: line.sent_total,
                bytes: line.bytes,
                dropped_total: line.dropped_total,
                retention: line.retention,
            }
        };
        Reply::Queues(names.take(max as usize).map(|(_, line)| info(line)).collect())
    }

    fn is_available(&self, queue: &str) -> bool {
        self.find_line(queue).is_some_and(|line| self.lines[line as usize].available > 0)
    }

    /// Reads a command and checks it against bounds that are the same on every node for ever, but
    /// for `body_bytes_max`.
    fn parse(command: &[u8], body_bytes_max: u32) -> Result<CommandView<'_>, Invalid> {
        let command = CommandView::parse(command, body_bytes_max)?;
        command.check()?;
        Ok(command)
    }
}

impl StateMachine for Queues {
    type Reply = Reply;

    fn validate(&self, command: &[u8]) -> Result<(), Reply> {
        Self::parse(command, self.body_bytes_max).map(drop).map_err(Reply::Invalid)
    }

    fn grows(&self, command: &[u8]) -> bool {
        Command::is_send(command)
    }

    fn apply(&mut self, context: CommandContext, command: &[u8]) -> Reply {
        // The absolute bound: nodes may be configured with different lower ones.
        let command = match Self::parse(command, limits::BODY_BYTES_MAX) {
            Ok(command) => command,
            Err(invalid) => return Reply::Invalid(invalid),
        };
        let now = context.log_time;
        let reply = match command {
            CommandView::Send(sent) => self.send(context, &sent),
            CommandView::Receive { queue, max, mode } => self.receive(now, queue, max, mode),
            CommandView::Acknowledge { queue, held } => {
                self.settle(now, queue, held, |queues, hold| queues.remove_withheld(hold.slot))
            }
            CommandView::Nack { queue, held, delay_millis } => {
                self.settle(now, queue, held, |queues, hold| queues.nack(now, hold, delay_millis))
            }
            CommandView::Extend { queue, held, lease_millis } => {
                let until = now.after_millis(lease_millis);
                self.settle(now, queue, held, |queues, hold| {
                    queues.leases.insert(Hold { until, ..hold });
                })
            }
            CommandView::Delete { queue, ids } => self.delete(queue, ids),
            CommandView::Purge { queue } => self.purge(queue),
            CommandView::Configure { queue, retention } => self.configure(queue, retention),
        };
        self.drop_excess(now);
        reply
    }

    fn advance(&mut self, log_time: Hlc) {
        for _ in 0..EXPIRIES_PER_ADVANCE_MAX {
            let Some(hold) = self.leases.take_due(log_time) else { break };
            self.make_available(hold.slot);
        }
        self.excess.renew_budget();
        self.drop_excess(log_time);
        for _ in 0..self.dedup.forget_budget() {
            let gone = self.messages.used() - self.message_count;
            let next = self.dedup.forget_next(&mut self.messages, log_time, gone);
            let Some(number) = next else { break };
            if self.messages.state(number) == State::Gone {
                self.forget(number);
            }
        }
    }

    /// The end of a lease or delay, or when a message is to be dropped; in the past if too many were due
    /// at once, as the next entry goes on with them. Forgetting ids needs no entry of its own.
    fn next_deadline(&self) -> Option<Hlc> {
        let (hold, excess) = (self.leases.next_deadline(), self.excess.next_deadline());
        [hold, excess].into_iter().flatten().min()
    }

    fn query(&self, query: &[u8]) -> Reply {
        match Query::decode(query) {
            Err(invalid) => Reply::Invalid(invalid),
            Ok(Query::Get { queue, id }) => {
                let number = self.find_in_line(self.find_line(&queue), id);
                Reply::Got(number.map(|number| self.browsed(number)))
            }
            Ok(Query::Browse { queue, after, max }) => self.browse(&queue, after, max),
            Ok(Query::List { after, max }) => self.list(after.as_deref(), max),
            Ok(Query::Available { queue }) => Reply::Available(self.is_available(&queue)),
        }
    }

    fn bodies(reply: &Reply, bodies: &mut Vec<BodyRef>) {
        let browsed =
            |message: &Browsed| BodyRef { position: message.receipt.position, len: message.len };
        match reply {
            Reply::Received { deliveries, .. } => {
                bodies.extend(deliveries.iter().map(|Delivered { position, len, .. }| BodyRef {
                    position: *position,
                    len: *len,
                }))
            }
            Reply::Got(message) => bodies.extend(message.iter().map(browsed)),
            Reply::Browsed(messages) => bodies.extend(messages.iter().map(browsed)),
            Reply::SentOne(_)
            | Reply::SentMany(_)
            | Reply::Settled(_)
            | Reply::Deleted(_)
            | Reply::Purged(_)
            | Reply::Queues(_)
            | Reply::Available(_)
            | Reply::Invalid(_)
            | Reply::Configured => {}
        }
    }

    fn watch(&self, query: &[u8]) -> Watched {
        match Query::decode(query) {
            Ok(Query::Available { queue }) if self.is_available(&queue) => Watched::Ready,
            Ok(Query::Available { queue }) => Watched::Wait(watch_key(&queue)),
            Ok(Query::Get { .. } | Query::Browse { .. } | Query::List { .. }) | Err(_) => {
                Watched::Invalid
            }
        }
    }

    /// At most one key for each message that is available now, and for each request that can wait.
    fn take_woken(&mut self, keys: &mut Vec<u64>) {
        for line in self.woken.drain(..) {
            let line = &mut self.lines[line as usize];
            let woken = core::mem::take(&mut line.woken).min(line.available);
            let count = woken.min(limits::WAITING_REQUESTS_MAX as u64) as usize;
            keys.extend(core::iter::repeat_n(line.key, count));
        }
    }

    fn digest(&self) -> u64 {
        self.digest_state()
    }

    fn snapshot(&self, out: &mut Vec<u8>) {
        self.write_snapshot(out);
    }

    fn begin_snapshot(&mut self) {
        self.open_snapshot();
    }

    fn snapshot_piece(&mut self, bytes_max: usize, out: &mut Vec<u8>) -> bool {
        self.write_snapshot_piece(bytes_max, out)
    }

    fn restore(&mut self, bytes: &[u8]) -> Result<(), RestoreError> {
        self.read_snapshot(bytes)
    }

    fn take_body_changes(&mut self, changes: &mut BodyChanges) {
        self.messages.take_changes(changes);
    }

    fn live_entries(&self, entries: &mut Vec<LogIndex>) {
        let before = entries.len();
        entries.extend(self.messages.live_entries());
        entries[before..].sort_unstable();
    }

    fn write_reply(reply: &Reply, out: &mut Vec<u8>) {
        wire::encode_into(reply, out);
    }

    fn read_reply(bytes: &mut &[u8]) -> Result<Reply, RestoreError> {
        read_value(bytes, "a remembered reply")
    }
}
