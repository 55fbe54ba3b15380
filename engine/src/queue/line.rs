//! One queue: its messages in the order in which they came.
//!
//! Owns the order. All messages of a queue, whatever their states, are one list linked through their
//! slots. Those that nobody has received yet are the end of the list, so the next of them is a
//! cursor; one that came back keeps its old place, is before the cursor, and so is always the older.
//! Never looks at time. Next: `leases` for when messages come back.

use super::command::Retention;
use super::messages::{Messages, NO_SLOT, SlotNo, State};
use super::retention::Due;
use crate::ids::Position;
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use xxhash_rust::xxh3::xxh3_64;

/// One in this many messages is a milestone, from which a browse may start.
const MILESTONE_EVERY: u64 = 256;

/// A queue.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) name: Box<str>,
    /// What a watcher waits for.
    pub(super) key: u64,
    first: SlotNo,
    last: SlotNo,
    /// The oldest message that nobody has received yet.
    fresh: SlotNo,
    /// Available messages that were received before.
    returned: BTreeMap<Position, SlotNo>,
    /// Every so many messages one that is in the list, so that a browse finds its start without
    /// walking there. When a milestone goes, its successor takes its place.
    milestones: BTreeMap<Position, SlotNo>,
    /// The last message was a milestone and went: the next to come takes its place.
    is_milestone_due: bool,
    pub(super) available: u64,
    /// Bytes of the available messages.
    pub(super) bytes: u64,
    pub(super) leased: u64,
    pub(super) delayed: u64,
    pub(super) sent_total: u64,
    pub(super) dropped_total: u64,
    pub(super) retention: Retention,
    /// When something is to be dropped, or earlier; see `retention`.
    pub(super) due: Option<Due>,
    /// Messages that became available since watchers were last woken.
    pub(super) woken: u64,
}

/// The key of a queue's watchers.
pub(super) fn watch_key(name: &str) -> u64 {
    xxh3_64(name.as_bytes())
}

impl Line {
    pub(super) fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            key: watch_key(name),
            first: NO_SLOT,
            last: NO_SLOT,
            fresh: NO_SLOT,
            returned: BTreeMap::new(),
            milestones: BTreeMap::new(),
            is_milestone_due: false,
            available: 0,
            bytes: 0,
            leased: 0,
            delayed: 0,
            sent_total: 0,
            dropped_total: 0,
            retention: Retention::default(),
            due: None,
            woken: 0,
        }
    }

    /// How many messages are in a state; none is in the queue when it is gone.
    pub(super) fn count_mut(&mut self, state: State) -> &mut u64 {
        match state {
            State::Available => &mut self.available,
            State::Leased => &mut self.leased,
            State::Delayed => &mut self.delayed,
            State::Gone => unreachable!("a message that is gone is in no queue"),
        }
    }

    /// Messages in the queue.
    pub(super) fn len(&self) -> u64 {
        self.available + self.leased + self.delayed
    }

    /// The oldest message.
    pub(super) fn first(&self) -> Option<SlotNo> {
        (self.first != NO_SLOT).then_some(self.first)
    }

    /// Appends a message that was just sent.
    pub(super) fn push(&mut self, messages: &mut Messages, number: SlotNo) {
        if self.fresh == NO_SLOT {
            self.fresh = number;
        }
        self.available += 1;
        self.bytes += u64::from(messages[number].len);
        self.append(messages, number);
    }

    /// Appends a message of a snapshot, whatever its state. To be called for all messages of the
    /// queue in their order, beginning with a `sent_total` that does not count them, so that the
    /// milestones are where they would be had the messages before them been sent and gone.
    ///
    /// Gives false if there can be no such message at this place.
    pub(super) fn push_restored(&mut self, messages: &mut Messages, number: SlotNo) -> bool {
        let slot = &messages[number];
        let state = slot.state();
        let is_possible = match (slot.is_fresh(), state) {
            (true, State::Available) => true,
            (false, State::Available | State::Leased | State::Delayed) => self.fresh == NO_SLOT,
            (true, State::Leased | State::Delayed) | (_, State::Gone) => false,
        };
        if !is_possible {
            return false;
        }
        if slot.is_fresh() {
            self.push(messages, number);
            return true;
        }
        if state == State::Available {
            self.put_back(messages, number);
            self.bytes += u64::from(messages[number].len);
        }
        *self.count_mut(state) += 1;
        self.append(messages, number);
        true
    }

    /// Links a message to the end.
    fn append(&mut self, messages: &mut Messages, number: SlotNo) {
        messages[number].previous = self.last;
        match self.last {
            NO_SLOT => self.first = number,
            last => messages[last].next = number,
        }
        self.last = number;
        let is_due = core::mem::take(&mut self.is_milestone_due);
        if is_due || self.sent_total.is_multiple_of(MILESTONE_EVERY) {
            self.add_milestone(messages, number);
        }
        self.sent_total += 1;
    }

    /// Empties the queue; its former list, still linked, is the caller's to dissolve.
    pub(super) fn detach_all(&mut self) -> impl FnMut(&mut Messages) -> Option<SlotNo> + use<> {
        let mut next = core::mem::replace(&mut self.first, NO_SLOT);
        (self.last, self.fresh) = (NO_SLOT, NO_SLOT);
        self.returned.clear();
        self.milestones.clear();
        self.is_milestone_due = false;
        (self.available, self.leased, self.delayed, self.bytes) = (0, 0, 0, 0);
        move |messages| {
            let number = (next != NO_SLOT).then_some(next)?;
            let slot = &mut messages[number];
            next = core::mem::replace(&mut slot.next, NO_SLOT);
            slot.previous = NO_SLOT;
            Some(number)
        }
    }

    /// The oldest available message.
    pub(super) fn first_available(&self) -> Option<SlotNo> {
        let returned = self.returned.first_key_value().map(|(_, number)| *number);
        returned.or((self.fresh != NO_SLOT).then_some(self.fresh))
    }

    /// Takes an available message out of the reach of receivers; it stays in its place.
    pub(super) fn withhold(&mut self, messages: &Messages, number: SlotNo) {
        let slot = &messages[number];
        assert!(slot.state() == State::Available);
        if number == self.fresh {
            self.fresh = slot.next;
        } else if !slot.is_fresh() {
            self.returned.remove(&messages.position(number));
        }
    }

    /// Makes a message available that was received before.
    pub(super) fn put_back(&mut self, messages: &Messages, number: SlotNo) {
        self.returned.insert(messages.position(number), number);
    }

    /// Takes a withheld message off the list.
    pub(super) fn unlink(&mut self, messages: &mut Messages, number: SlotNo) {
        self.move_milestone(messages, number);
        let (previous, next) = (messages[number].previous, messages[number].next);
        match previous {
            NO_SLOT => self.first = next,
            previous => messages[previous].next = next,
        }
        match next {
            NO_SLOT => self.last = previous,
            next => messages[next].previous = previous,
        }
        messages[number].previous = NO_SLOT;
        messages[number].next = NO_SLOT;
    }

    fn add_milestone(&mut self, messages: &mut Messages, number: SlotNo) {
        messages[number].set_milestone(true);
        self.milestones.insert(messages.position(number), number);
    }

    /// Before a message is unlinked: hands its duty on to its successor, unless its predecessor can
    /// do without. So no two milestones ever get further apart than they were.
    fn move_milestone(&mut self, messages: &mut Messages, number: SlotNo) {
        if !messages[number].is_milestone() {
            return;
        }
        messages[number].set_milestone(false);
        self.milestones.remove(&messages.position(number));
        let (previous, next) = (messages[number].previous, messages[number].next);
        let is_needed = previous != NO_SLOT && !messages[previous].is_milestone();
        if !is_needed {
            return;
        }
        match next {
            NO_SLOT => self.is_milestone_due = true,
            next => self.add_milestone(messages, next),
        }
    }

    /// The messages after a position, in order.
    pub(super) fn after<'a>(
        &self,
        messages: &'a Messages,
        after: Option<Position>,
    ) -> impl Iterator<Item = SlotNo> + use<'a> {
        let milestone = after.and_then(|after| self.milestones.range(..=after).next_back());
        let start = milestone.map_or(self.first, |(_, number)| *number);
        let walk = core::iter::successors((start != NO_SLOT).then_some(start), |number| {
            let next = messages[*number].next;
            (next != NO_SLOT).then_some(next)
        });
        walk.skip_while(move |number| Some(messages.position(*number)) <= after)
    }

    /// Checks this queue's part of the invariants and returns how many messages it has.
    ///
    /// # Panics
    /// With the name of the invariant that does not hold.
    pub(super) fn check_invariants(&self, messages: &Messages, queue: u32) -> u64 {
        let (mut counts, mut returned, mut bytes) = ([0; 3], 0, 0);
        let (mut milestones, mut since_milestone) = (0, 0);
        let (mut before, mut fresh) = (NO_SLOT, NO_SLOT);
        for number in self.after(messages, None) {
            let slot = &messages[number];
            assert!(slot.queue == queue, "message_in_its_own_queue");
            assert!(slot.previous == before, "list_links_agree");
            let in_order =
                before == NO_SLOT || messages.position(before) < messages.position(number);
            assert!(in_order, "queue_in_order_of_arrival");
            match slot.state() {
                State::Available => {
                    counts[0] += 1;
                    bytes += u64::from(slot.len);
                }
                State::Leased => counts[1] += 1,
                State::Delayed => counts[2] += 1,
                State::Gone => panic!("gone_message_in_no_queue"),
            }
            if slot.is_fresh() && fresh == NO_SLOT {
                fresh = number;
            }
            assert!(slot.is_fresh() == (fresh != NO_SLOT), "fresh_messages_are_the_end");
            assert!(!slot.is_fresh() || slot.state() == State::Available, "fresh_is_available");
            let is_returned = !slot.is_fresh() && slot.state() == State::Available;
            let in_returned = self.returned.get(&messages.position(number)) == Some(&number);
            assert!(is_returned == in_returned, "returned_is_available_and_not_fresh");
            returned += usize::from(is_returned);
            let in_milestones = self.milestones.contains_key(&messages.position(number));
            assert!(slot.is_milestone() == in_milestones, "milestones_are_in_the_list");
            milestones += usize::from(in_milestones);
            since_milestone = if in_milestones { 0 } else { since_milestone + 1 };
            assert!(since_milestone < MILESTONE_EVERY, "milestones_are_close");
            before = number;
        }
        assert!(before == self.last, "list_links_agree");
        assert!(fresh == self.fresh, "cursor_at_the_first_fresh_message");
        assert!(returned == self.returned.len(), "returned_is_available_and_not_fresh");
        assert!(counts == [self.available, self.leased, self.delayed], "counts_agree");
        assert!(bytes == self.bytes, "counts_agree");
        assert!(milestones == self.milestones.len(), "milestones_are_in_the_list");
        self.len()
    }
}
