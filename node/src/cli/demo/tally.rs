//! Counts what the demo saw, so that its last line can be believed.
//!
//! Knows only what senders were promised and what the receiver got; asks the cluster nothing.

use engine::ids::{MessageId, Position};
use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

/// What was sent, acknowledged and received.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Different messages handed to a client.
    pub(super) sent: u64,
    acknowledged: HashMap<MessageId, Position>,
    received: HashSet<MessageId>,
    /// Deliveries of a message that had been delivered before.
    pub(super) duplicated: u64,
    /// Deliveries whose position, or number within their sender, does not exceed the one before.
    pub(super) out_of_order: u64,
    last_position: Option<Position>,
    last_sequences: HashMap<String, u64>,
    /// Repeated sends that were answered with the first one's receipt.
    pub(super) recognised: u64,
    /// Repeated sends that were answered with another receipt, or as new.
    pub(super) unrecognised: u64,
    gap: Gap,
}

/// The longest time without an acknowledgement since the crash.
#[derive(Debug, Default)]
struct Gap {
    last_acknowledged: Option<Instant>,
    is_open: bool,
    longest: Duration,
}

impl Tally {
    /// A message was stored, at `now`.
    pub(super) fn on_acknowledged(&mut self, id: MessageId, position: Position, now: Instant) {
        self.acknowledged.insert(id, position);
        if let (true, Some(last)) = (self.gap.is_open, self.gap.last_acknowledged) {
            self.gap.longest = self.gap.longest.max(now.duration_since(last));
        }
        self.gap.last_acknowledged = Some(now);
    }

    /// A message was sent once more, and answered.
    pub(super) fn on_repeated(&mut self, id: MessageId, position: Position, duplicate: bool) {
        if duplicate && self.acknowledged.get(&id) == Some(&position) {
            self.recognised += 1;
        } else {
            self.unrecognised += 1;
        }
    }

    /// The leader was killed: gaps count from here.
    pub(super) fn on_kill(&mut self) {
        self.gap.is_open = true;
    }

    /// The receiver got a message.
    pub(super) fn on_received(&mut self, id: MessageId, at: Position, sender: &str, sequence: u64) {
        if !self.received.insert(id) {
            self.duplicated += 1;
            return;
        }
        let last_sequence = self.last_sequences.entry(sender.to_owned()).or_default();
        if self.last_position >= Some(at) || *last_sequence >= sequence {
            self.out_of_order += 1;
        }
        self.last_position = Some(at);
        *last_sequence = sequence;
    }

    /// Messages that a sender was promised to be stored.
    pub(super) fn acknowledged(&self) -> u64 {
        self.acknowledged.len() as u64
    }

    /// Different messages that the receiver got.
    pub(super) fn received(&self) -> u64 {
        self.received.len() as u64
    }

    /// Acknowledged messages that the receiver never got.
    pub(super) fn lost(&self) -> u64 {
        let is_lost = |id: &&MessageId| !self.received.contains(*id);
        self.acknowledged.keys().filter(is_lost).count() as u64
    }

    /// The longest gap between two successive acknowledgements from the kill on.
    pub(super) fn fail_over(&self) -> Duration {
        self.gap.longest
    }

    /// Whether every promise was kept.
    pub(super) fn is_flawless(&self) -> bool {
        let faults = self.lost() + self.duplicated + self.out_of_order + self.unrecognised;
        faults == 0 && self.acknowledged() == self.sent
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine::ids::LogIndex;

    fn id(number: u8) -> MessageId {
        MessageId([number; 16])
    }

    fn at(index: u64) -> Position {
        Position { index: LogIndex(index), offset: 0 }
    }

    #[test]
    fn what_was_acknowledged_and_not_received_is_lost() {
        let mut tally = Tally { sent: 2, ..Tally::default() };
        tally.on_acknowledged(id(1), at(1), Instant::now());
        tally.on_acknowledged(id(2), at(2), Instant::now());
        tally.on_received(id(2), at(2), "a", 2);
        assert_eq!((tally.lost(), tally.received()), (1, 1));
        assert!(!tally.is_flawless());
        tally.on_received(id(1), at(1), "a", 1);
        assert_eq!((tally.lost(), tally.out_of_order), (0, 1));
        assert!(!tally.is_flawless());
    }

    #[test]
    fn a_second_delivery_is_a_duplicate_and_senders_have_their_own_order() {
        let mut tally = Tally::default();
        tally.on_received(id(1), at(1), "a", 1);
        tally.on_received(id(2), at(2), "b", 1);
        tally.on_received(id(3), at(3), "a", 2);
        assert_eq!((tally.duplicated, tally.out_of_order), (0, 0));
        tally.on_received(id(3), at(3), "a", 2);
        assert_eq!((tally.duplicated, tally.out_of_order), (1, 0));
        tally.on_received(id(4), at(4), "b", 1);
        assert_eq!((tally.duplicated, tally.out_of_order), (1, 1));
    }

    #[test]
    fn a_repetition_must_get_the_first_receipt() {
        let mut tally = Tally::default();
        tally.on_acknowledged(id(1), at(1), Instant::now());
        tally.on_repeated(id(1), at(1), true);
        assert_eq!((tally.recognised, tally.unrecognised), (1, 0));
        tally.on_repeated(id(1), at(9), true);
        tally.on_repeated(id(1), at(1), false);
        assert_eq!((tally.recognised, tally.unrecognised), (1, 2));
    }

    #[test]
    fn only_gaps_that_end_after_the_kill_count() {
        let start = Instant::now();
        let millis = |millis| start + Duration::from_millis(millis);
        let mut tally = Tally::default();
        tally.on_acknowledged(id(1), at(1), millis(0));
        tally.on_acknowledged(id(2), at(2), millis(500));
        tally.on_kill();
        tally.on_acknowledged(id(3), at(3), millis(700));
        tally.on_acknowledged(id(4), at(4), millis(750));
        assert_eq!(tally.fail_over(), Duration::from_millis(200));
    }
}
