//! What must always hold, and a checksum of all that is replicated.
//!
//! Owns no state; walks that of `machine`. Slow on purpose: tests and simulations call it.

use super::command::Retention;
use super::machine::Queues;
use super::messages::{At, State, Wait};
use crate::hlc::Hlc;
use crate::ids::Position;
use xxhash_rust::xxh3::Xxh3;

impl Queues {
    /// Checks every named invariant; tests and simulations call it after each step.
    ///
    /// # Panics
    /// With the name of the invariant that does not hold.
    pub fn check_invariants(&self) {
        assert!(self.lines.len() == self.lines_by_name.len(), "each_queue_has_one_name");
        let mut in_queues = 0;
        for (number, line) in (0..).zip(&self.lines) {
            assert!(self.lines_by_name.get(&line.name) == Some(&number), "each_queue_has_one_name");
            in_queues += line.check_invariants(&self.messages, number);
            self.check_holds(number);
        }
        assert!(in_queues == self.message_count, "counts_agree");
        let held: u64 = self.lines.iter().map(|line| line.leased + line.delayed).sum();
        assert!(held == self.leases.len() as u64, "held_is_leased_or_delayed");
        self.check_remembered();
        self.check_excess();
    }

    fn check_holds(&self, line: u32) {
        for number in self.lines[line as usize].after(&self.messages, None) {
            let slot = &self.messages[number];
            let hold = self.leases.find(self.messages.position(number));
            let is_held = matches!(slot.state(), State::Leased | State::Delayed);
            assert!(is_held == hold.is_some(), "held_is_leased_or_delayed");
            if let Some(hold) = hold {
                assert!(hold.slot == number, "hold_names_its_message");
                assert!(hold.token <= self.token_last, "tokens_rise");
                let is_lease = hold.token.0 != 0;
                assert!(is_lease == (slot.state() == State::Leased), "only_a_lease_has_a_token");
            }
        }
    }

    /// Every message in a queue and every remembered one is in the table of ids, and nothing else.
    fn check_remembered(&self) {
        let (mut remembered, mut gone) = (0, 0);
        let mut before = Position::default();
        for number in self.dedup.remembered() {
            let wait = self.messages.wait_at(At::Now, number);
            assert!(wait.is_none_or(Wait::is_remembered), "remembered_is_in_the_window");
            let position = self.messages.position(number);
            assert!(before < position, "ids_forgotten_in_log_order");
            before = position;
            remembered += 1;
            gone += u64::from(wait.is_none());
        }
        let mut past_window = 0;
        for line in &self.lines {
            for number in line.after(&self.messages, None) {
                past_window += u64::from(!self.messages[number].is_remembered());
            }
        }
        let slots = self.messages.used();
        assert!(slots == self.dedup.len(), "each_slot_is_found_by_its_id");
        assert!(slots == self.message_count + gone, "slot_is_in_a_queue_or_remembered");
        assert!(slots == remembered + past_window, "slot_is_in_a_queue_or_remembered");
    }

    /// XXH3 over the state in an order that depends on nothing but the log.
    pub(super) fn digest_state(&self) -> u64 {
        let mut hasher = Xxh3::new();
        let mut number = |value: u64| hasher.update(&value.to_le_bytes());
        number(self.token_last.0);
        number(self.dedup.sends_since_forgetting);
        number(self.lines_by_name.len() as u64);
        for (name, line) in &self.lines_by_name {
            let line = &self.lines[*line as usize];
            number(xxhash_rust::xxh3::xxh3_64(name.as_bytes()));
            number(line.sent_total);
            number(line.dropped_total);
            let Retention { max_age_millis, max_bytes, max_messages } = line.retention;
            for max in [max_age_millis, max_bytes, max_messages] {
                number(max.unwrap_or(0));
            }
            number(line.len());
            for slot_number in line.after(&self.messages, None) {
                self.digest_message(slot_number, &mut number);
            }
        }
        for slot_number in self.dedup.remembered() {
            self.digest_message(slot_number, &mut number);
        }
        hasher.digest()
    }

    fn digest_message(&self, slot_number: u32, number: &mut impl FnMut(u64)) {
        let receipt = self.messages.receipt(slot_number);
        let id = u128::from_le_bytes(self.messages.id(slot_number).0);
        number(id as u64);
        number((id >> 64) as u64);
        number(receipt.position.index.0);
        number(u64::from(receipt.position.offset));
        number(receipt.term.0);
        number(receipt.stamp.0);
        let Some(slot) = self.messages.wait_at(At::Now, slot_number) else {
            return number(State::Gone as u64);
        };
        number(slot.state() as u64);
        let hold = match slot.state() {
            State::Gone | State::Available => None,
            State::Leased | State::Delayed => self.leases.find(receipt.position),
        };
        number(u64::from(slot.len));
        number(u64::from(slot.attempts()));
        number(u64::from(slot.is_remembered()));
        number(hold.map_or(0, |hold| hold.token.0));
        number(hold.map_or(Hlc::ZERO, |hold| hold.until).0);
    }
}
