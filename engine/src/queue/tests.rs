//! Claims about the machine that random histories rarely reach. The rest is compared with a model in
//! the tests package, `queue_model`.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

use super::machine::EXPIRIES_PER_ADVANCE_MAX;
use super::retention::DROPS_PER_ENTRY_MAX;
use super::*;
use crate::hlc::Hlc;
use crate::ids::{LeaseToken, LogIndex, MessageId, Position, Term};
use crate::limits::{self, Limits};
use crate::state_machine::{CommandContext, StateMachine, Watched};
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use alloc::{format, vec};

const WINDOW_MILLIS: u64 = 1_000;

/// A machine fed with one command for each entry.
struct Fed {
    machine: Queues,
    context: CommandContext,
}

impl Fed {
    fn new() -> Self {
        let limits = Limits { dedup_window_millis: WINDOW_MILLIS, ..Limits::default() };
        let log_time = Hlc::from_millis(1);
        let context = CommandContext { term: Term(3), index: LogIndex(0), log_time, offset: 0 };
        Self { machine: Queues::new(&limits), context }
    }

    fn wait(&mut self, millis: u64) {
        self.context.index = self.context.index.next();
        self.context.log_time = self.context.log_time.after_millis(millis);
        self.machine.advance(self.context.log_time);
        self.machine.check_invariants();
    }

    fn apply(&mut self, command: &Command) -> Reply {
        self.wait(1);
        let reply = self.machine.apply(self.context, &encoded(command));
        self.machine.check_invariants();
        reply
    }

    fn send(&mut self, numbers: core::ops::Range<u64>) -> Vec<Sent> {
        let reply = self.apply(&Command::Send { messages: numbers.map(message).collect() });
        match reply {
            Reply::SentOne(sent) => vec![sent],
            Reply::SentMany(sent) => sent,
            other => panic!("{other:?}"),
        }
    }

    fn receive(&mut self, max: u32, mode: ReceiveMode) -> (LeaseToken, Vec<Delivered>) {
        match self.apply(&Command::Receive { queue: "q".into(), max, mode }) {
            Reply::Received { token, deliveries, .. } => (token, deliveries),
            other => panic!("{other:?}"),
        }
    }

    fn lease(&mut self, max: u32) -> Vec<Held> {
        let (token, deliveries) = self.receive(max, ReceiveMode::Lease { millis: 100 });
        deliveries.iter().map(|d| Held { position: d.position, token }).collect()
    }

    fn acknowledge(&mut self, held: Vec<Held>) -> Vec<bool> {
        match self.apply(&Command::Acknowledge { queue: "q".into(), held }) {
            Reply::Settled(settled) => settled,
            other => panic!("{other:?}"),
        }
    }

    fn browse(&self, after: Option<Position>, max: u32) -> Vec<Position> {
        let query = Query::Browse { queue: "q".into(), after, max };
        match self.machine.query(&query.encode()) {
            Reply::Browsed(found) => found.iter().map(|m| m.receipt.position).collect(),
            other => panic!("{other:?}"),
        }
    }

    fn woken(&mut self) -> usize {
        let mut keys = Vec::new();
        self.machine.take_woken(&mut keys);
        let watch = Query::Available { queue: "q".into() }.encode();
        if let Watched::Wait(key) = Queues::new(&Limits::default()).watch(&watch) {
            assert!(keys.iter().all(|woken| *woken == key));
        }
        keys.len()
    }
}

fn id(number: u64) -> MessageId {
    MessageId(u128::from(number).to_le_bytes())
}

fn message(number: u64) -> Message {
    Message {
        id: id(number),
        from: "test".into(),
        to: "q".into(),
        sent_at: Hlc(number),
        headers: Vec::new(),
        body: Vec::new(),
    }
}

impl Queues {
    fn known_ids(&self) -> u64 {
        self.messages.used()
    }

    fn waiting_chunks(&self) -> usize {
        self.messages.waiting_chunks()
    }
}

fn encoded(command: &Command) -> Vec<u8> {
    let mut bytes = Vec::new();
    command.encode_into(&mut bytes);
    bytes
}

fn queue(bytes: usize) -> String {
    "q".repeat(bytes)
}

#[test]
fn a_position_is_where_the_message_lies_in_the_payload() {
    let mut fed = Fed::new();
    let command = encoded(&Command::Send { messages: vec![message(1), message(2)] });
    fed.context.offset = 40;
    let Reply::SentMany(sent) = fed.machine.apply(fed.context, &command) else { panic!() };
    let mut payload = vec![0xee; 40];
    payload.extend_from_slice(&command);
    let (_, deliveries) = fed.receive(2, ReceiveMode::Take);
    for ((delivered, sent), number) in deliveries.iter().zip(&sent).zip(1..) {
        assert_eq!(delivered.position, sent.receipt.position);
        let start = delivered.position.offset as usize;
        let bytes = &payload[start..start + delivered.len as usize];
        assert_eq!(Message::decode(bytes).unwrap(), message(number));
    }
}

#[test]
fn a_late_acknowledgement_of_an_expired_lease_does_not_touch_the_new_one() {
    let mut fed = Fed::new();
    fed.send(0..1);
    let first = fed.lease(1);
    fed.wait(100);
    let second = fed.lease(1);
    assert!(second[0].token > first[0].token);
    assert_eq!(fed.acknowledge(first), [false]);
    assert_eq!(fed.acknowledge(second.clone()), [true]);
    assert_eq!(fed.acknowledge(second), [false]);
}

#[test]
fn a_lease_ends_exactly_at_its_deadline() {
    let mut fed = Fed::new();
    fed.send(0..1);
    let held = fed.lease(1);
    let until = fed.context.log_time.after_millis(100);
    assert_eq!(fed.machine.next_deadline(), Some(until));
    // The acknowledgement's own entry comes 1 ms later: at the deadline.
    fed.wait(99);
    assert_eq!(fed.acknowledge(held), [false]);
    assert_eq!(fed.machine.next_deadline(), None);
}

#[test]
fn a_message_that_comes_back_is_delivered_before_younger_ones() {
    let mut fed = Fed::new();
    let sent = fed.send(0..4);
    let held = fed.lease(2);
    fed.apply(&Command::Nack { queue: "q".into(), held: vec![held[1]], delay_millis: 0 });
    let (_, deliveries) = fed.receive(2, ReceiveMode::Take);
    assert_eq!(deliveries[0].position, sent[1].receipt.position);
    assert_eq!(deliveries[0].attempt, 2);
    assert_eq!(deliveries[1].position, sent[2].receipt.position);
}

#[test]
fn an_id_is_known_for_the_window_after_its_message_was_taken() {
    let mut fed = Fed::new();
    let receipt = fed.send(0..1)[0].receipt;
    fed.receive(1, ReceiveMode::Take);
    fed.wait(WINDOW_MILLIS - 2);
    // In an entry exactly one window after the first.
    assert_eq!(fed.send(0..1), [Sent { receipt, duplicate: true }]);
    // And one millisecond later it is forgotten.
    assert!(!fed.send(0..1)[0].duplicate);
}

#[test]
fn an_id_is_known_for_as_long_as_its_message_waits() {
    let mut fed = Fed::new();
    let receipt = fed.send(0..1)[0].receipt;
    fed.wait(10 * WINDOW_MILLIS);
    assert_eq!(fed.send(0..1), [Sent { receipt, duplicate: true }]);
    let Reply::Deleted(deleted) =
        fed.apply(&Command::Delete { queue: "q".into(), ids: vec![id(0), id(0)] })
    else {
        panic!()
    };
    assert_eq!(deleted, [true, false]);
    assert!(!fed.send(0..1)[0].duplicate);
}

#[test]
fn a_busy_past_is_forgotten_in_steps_and_its_slots_are_used_again() {
    let mut fed = Fed::new();
    for batch in 0..3 {
        fed.send(batch * 4_096..(batch + 1) * 4_096);
    }
    fed.apply(&Command::Purge { queue: "q".into() });
    let known = |fed: &Fed| fed.machine.dedup.len();
    fed.wait(2 * WINDOW_MILLIS);
    assert_eq!(known(&fed), 2 * 4_096);
    fed.wait(1);
    fed.wait(1);
    assert_eq!((known(&fed), fed.machine.messages.used()), (0, 0));
    let capacity = fed.machine.messages.capacity();
    for batch in 0..3 {
        fed.send(batch * 4_096..(batch + 1) * 4_096);
    }
    assert_eq!(fed.machine.messages.capacity(), capacity);
}

#[test]
fn an_entry_whose_messages_are_forgotten_lends_its_stamp_to_no_other() {
    let mut fed = Fed::new();
    fed.send(0..1);
    fed.receive(1, ReceiveMode::Take);
    fed.machine.advance(fed.context.log_time.after_millis(2 * WINDOW_MILLIS));
    // A caller that uses an index again gets a new entry all the same.
    fed.context = CommandContext { index: LogIndex(1), term: Term(4), ..fed.context };
    let command = encoded(&Command::Send { messages: vec![message(1)] });
    let Reply::SentOne(sent) = fed.machine.apply(fed.context, &command) else { panic!() };
    assert_eq!((sent.receipt.term, sent.receipt.stamp), (Term(4), fed.context.log_time));
    fed.machine.check_invariants();
}

#[test]
fn forgetting_keeps_up_with_any_rate_of_sending() {
    let mut fed = Fed::new();
    let mut number = 0;
    for _ in 0..30 {
        fed.wait(WINDOW_MILLIS / 4);
        for _ in 0..3 {
            let messages = (number..number + 4_096).map(message).collect();
            fed.machine.apply(fed.context, &encoded(&Command::Send { messages }));
            fed.context.offset += 1 << 20;
            number += 4_096;
        }
        let purge = encoded(&Command::Purge { queue: "q".into() });
        fed.machine.apply(fed.context, &purge);
        fed.context.offset = 0;
    }
    // The window spans four entries and the present one.
    assert_eq!(fed.machine.dedup.len(), 5 * 3 * 4_096);
}

#[test]
fn leases_that_end_in_masses_come_back_in_steps_and_cannot_be_settled_meanwhile() {
    let mut fed = Fed::new();
    let (batch, batches) = (4_096, 5);
    let mut held = Vec::new();
    for number in 0..batches {
        fed.send(number * batch..(number + 1) * batch);
    }
    let lease = Command::Receive {
        queue: "q".into(),
        max: batch as u32,
        mode: ReceiveMode::Lease { millis: 100 },
    };
    for _ in 0..batches {
        let reply = fed.machine.apply(fed.context, &encoded(&lease));
        let Reply::Received { token, deliveries, .. } = reply else { panic!() };
        held.extend(deliveries.iter().map(|d| Held { position: d.position, token }));
    }
    let left = batch * batches - EXPIRIES_PER_ADVANCE_MAX as u64;
    fed.wait(100);
    assert_eq!(fed.machine.leases.len() as u64, left);
    assert_eq!(fed.machine.next_deadline(), Some(fed.context.log_time));
    let acknowledge = Command::Acknowledge { queue: "q".into(), held: held.split_off(20_479) };
    let reply = fed.machine.apply(fed.context, &encoded(&acknowledge));
    assert_eq!(reply, Reply::Settled(vec![false]));
    fed.wait(1);
    assert_eq!((fed.machine.leases.len(), fed.machine.next_deadline()), (0, None));
}

#[test]
fn a_delivery_stops_at_its_bytes_but_has_at_least_one_message() {
    let mut fed = Fed::new();
    let sizes = [3, 2, 1, 9, 1].map(|mib: usize| mib << 20);
    for (number, size) in (0..).zip(sizes) {
        let body = vec![0; size - 64];
        let messages = vec![Message { body, ..message(number) }];
        fed.apply(&Command::Send { messages });
    }
    let counts: Vec<usize> = (0..4).map(|_| fed.receive(10, ReceiveMode::Take).1.len()).collect();
    assert_eq!(counts, [1, 2, 1, 1]);
}

#[test]
fn one_key_is_woken_for_each_message_that_becomes_available() {
    let mut fed = Fed::new();
    fed.send(0..3);
    assert_eq!(fed.woken(), 3);
    assert_eq!(fed.woken(), 0);
    fed.lease(3);
    assert_eq!(fed.woken(), 0);
    fed.wait(100);
    assert_eq!(fed.woken(), 3);
    // What was taken again before the watchers could be woken is nothing to wake them for.
    fed.send(3..4);
    fed.receive(4, ReceiveMode::Take);
    assert_eq!(fed.woken(), 0);
}

#[test]
fn a_browse_finds_its_place_in_a_long_queue_whatever_was_removed() {
    let mut fed = Fed::new();
    let mut positions: Vec<Position> =
        fed.send(0..2_000).iter().map(|sent| sent.receipt.position).collect();
    let mut kept = Vec::new();
    // Whole stretches, single messages and every milestone among them.
    for number in 0..2_000_u64 {
        let is_kept = !(300..900).contains(&number) && number % 256 != 0 && number % 7 != 0;
        if is_kept {
            kept.push(positions[number as usize]);
        } else {
            let ids = vec![id(number)];
            fed.machine.apply(fed.context, &encoded(&Command::Delete { queue: "q".into(), ids }));
        }
    }
    fed.machine.check_invariants();
    positions.push(Position { index: LogIndex(u64::MAX), offset: 0 });
    for after in positions {
        let wanted = kept.iter().filter(|position| **position > after).take(3).copied();
        assert_eq!(fed.browse(Some(after), 3), wanted.collect::<Vec<_>>());
    }
}

#[test]
fn a_milestone_at_the_end_of_a_queue_may_go_before_its_successor_comes() {
    let mut fed = Fed::new();
    // The 257th message is the second milestone; the 256 before it stay.
    fed.send(0..257);
    fed.lease(256);
    assert_eq!(fed.receive(1, ReceiveMode::Take).1.len(), 1);
    let sent = fed.send(257..513);
    let after = sent[100].receipt.position;
    assert_eq!(fed.browse(Some(after), 1), [sent[101].receipt.position]);
}

#[test]
fn each_reason_for_refusal_is_named_and_has_no_effect() {
    let held =
        |count: usize| vec![Held { position: Position::default(), token: LeaseToken(1) }; count];
    let (count_max, span_max) = (4_096, limits::LEASE_MILLIS_MAX);
    let count = |count| Invalid::Count { count, max: count_max };
    let span = |millis| Invalid::Span { millis, max: span_max };
    let one = |change: fn(&mut Message)| {
        let mut message = message(1);
        change(&mut message);
        Command::Send { messages: vec![message] }
    };
    let receive = |name: String, max, mode| Command::Receive { queue: name, max, mode };
    let lease = |millis| ReceiveMode::Lease { millis };
    let nack = |delay_millis| Command::Nack { queue: queue(1), held: held(1), delay_millis };
    let extend = |lease_millis| Command::Extend { queue: queue(1), held: held(1), lease_millis };
    let header = |key: usize| (queue(key), String::new());
    let too_many = vec![header(1); 33];
    let cases = [
        (Command::Send { messages: vec![] }, count(0)),
        (Command::Send { messages: (0..4_097).map(message).collect() }, count(4_097)),
        (one(|m| m.to = String::new()), Invalid::QueueName { bytes: 0 }),
        (one(|m| m.to = queue(256)), Invalid::QueueName { bytes: 256 }),
        (one(|m| m.from = queue(256)), Invalid::SenderName { bytes: 256 }),
        (
            Command::Send { messages: vec![Message { headers: too_many, ..message(1) }] },
            Invalid::Headers { id: id(1) },
        ),
        (
            Command::Send {
                messages: vec![Message { headers: vec![header(1_025)], ..message(1) }],
            },
            Invalid::Headers { id: id(1) },
        ),
        (receive(queue(0), 1, ReceiveMode::Take), Invalid::QueueName { bytes: 0 }),
        (receive(queue(1), 0, ReceiveMode::Take), count(0)),
        (receive(queue(1), 4_097, ReceiveMode::Take), count(4_097)),
        (receive(queue(1), 1, lease(0)), span(0)),
        (receive(queue(1), 1, lease(span_max + 1)), span(span_max + 1)),
        (Command::Acknowledge { queue: queue(1), held: vec![] }, count(0)),
        (Command::Acknowledge { queue: queue(1), held: held(4_097) }, count(4_097)),
        (nack(span_max + 1), span(span_max + 1)),
        (extend(0), span(0)),
        (extend(u64::MAX), span(u64::MAX)),
        (Command::Delete { queue: queue(1), ids: vec![] }, count(0)),
        (Command::Purge { queue: queue(300) }, Invalid::QueueName { bytes: 300 }),
    ];
    let mut fed = Fed::new();
    let digest = fed.machine.digest();
    for (command, invalid) in cases {
        let bytes = encoded(&command);
        let refusal = Reply::Invalid(invalid);
        assert_eq!(fed.machine.validate(&bytes), Err(refusal.clone()), "{command:?}");
        assert_eq!(fed.apply(&command), refusal);
    }
    assert_eq!(fed.machine.digest(), digest);
    for valid in [nack(0), nack(span_max), extend(1), one(|m| m.to = queue(255))] {
        assert_eq!(fed.machine.validate(&encoded(&valid)), Ok(()));
    }
}

#[test]
fn an_unknown_tag_or_version_is_undecodable() {
    let mut fed = Fed::new();
    let undecodable = Reply::Invalid(Invalid::Undecodable);
    let mut bytes = encoded(&Command::Purge { queue: "q".into() });
    for (at, value) in [(0, 0), (0, 8), (1, 0), (1, 2)] {
        let mut strange = bytes.clone();
        strange[at] = value;
        assert_eq!(fed.machine.validate(&strange), Err(undecodable.clone()));
        assert_eq!(fed.machine.apply(fed.context, &strange), undecodable);
    }
    bytes.push(0);
    assert_eq!(fed.machine.validate(&bytes), Err(undecodable.clone()));
    assert_eq!(fed.machine.query(&[]), undecodable);
    assert_eq!(fed.machine.watch(&[9, 9]), Watched::Invalid);
}

#[test]
fn a_body_is_bounded_by_configuration_before_the_log_and_by_the_maximum_after_it() {
    let limits = Limits { body_bytes_max: 10, ..Limits::default() };
    let mut machine = Queues::new(&limits);
    let context = Fed::new().context;
    let send = |bytes: usize| {
        encoded(&Command::Send { messages: vec![Message { body: vec![0; bytes], ..message(1) }] })
    };
    let too_long = |bytes, max| Reply::Invalid(Invalid::Body { id: id(1), bytes, max });
    assert_eq!(machine.validate(&send(10)), Ok(()));
    assert_eq!(machine.validate(&send(11)), Err(too_long(11, 10)));
    let max = u64::from(limits::BODY_BYTES_MAX);
    let beyond = send(max as usize + 1);
    assert_eq!(machine.apply(context, &beyond), too_long(max + 1, max));
    assert!(matches!(machine.apply(context, &send(11)), Reply::SentOne(_)));
}

#[test]
fn one_invalid_message_keeps_the_whole_send_out() {
    let mut fed = Fed::new();
    let bad = Message { to: String::new(), ..message(2) };
    let reply = fed.apply(&Command::Send { messages: vec![message(1), bad] });
    assert_eq!(reply, Reply::Invalid(Invalid::QueueName { bytes: 0 }));
    assert_eq!((fed.machine.message_count(), fed.machine.queue_count()), (0, 0));
}

#[test]
fn digests_tell_apart_states_that_differ_in_anything() {
    let lease_and_nack = |fed: &mut Fed, max| {
        let held = fed.lease(max);
        fed.apply(&Command::Nack { queue: "q".into(), held, delay_millis: 0 });
    };
    let states: [&dyn Fn(&mut Fed); 8] = [
        &|_| {},
        &|fed| drop(fed.send(0..1)),
        &|fed| drop(fed.send(0..2)),
        &|fed| {
            fed.send(0..2);
            fed.lease(1);
        },
        &|fed| {
            fed.send(0..2);
            fed.receive(1, ReceiveMode::Take);
        },
        &|fed| {
            fed.send(0..2);
            lease_and_nack(fed, 1);
        },
        // These two differ only in how often the second message was handed out.
        &|fed| {
            fed.send(0..2);
            lease_and_nack(fed, 1);
            lease_and_nack(fed, 1);
        },
        &|fed| {
            fed.send(0..2);
            lease_and_nack(fed, 1);
            lease_and_nack(fed, 2);
        },
    ];
    let mut digests: Vec<u64> = Vec::new();
    for state in states {
        let mut fed = Fed::new();
        state(&mut fed);
        digests.push(fed.machine.digest());
    }
    let unique: alloc::collections::BTreeSet<u64> = digests.iter().copied().collect();
    assert_eq!(unique.len(), digests.len(), "{digests:?}");
}

#[test]
fn the_encoding_of_commands_is_pinned() {
    let held =
        vec![Held { position: Position { index: LogIndex(7), offset: 300 }, token: LeaseToken(9) }];
    let hex = |command: &Command| -> String {
        encoded(command).iter().map(|byte| format!("{byte:02x}")).collect()
    };
    let sent = Message { headers: vec![("k".into(), "v".into())], body: vec![5], ..message(1) };
    let id_hex = format!("01{}", "00".repeat(15));
    let fields = "0474657374" // from
        .to_string()
        + "0171" // to
        + "01" // sent at
        + "01016b0176" // headers
        + "0105"; // body
    let send = hex(&Command::Send { messages: vec![sent] });
    assert_eq!(send, format!("01011f000000{id_hex}{fields}"));
    let queue = String::from("q");
    let acknowledge = Command::Acknowledge { queue: queue.clone(), held: held.clone() };
    assert_eq!(hex(&acknowledge), "030101710107fb2c0109");
    let nack = Command::Nack { queue: queue.clone(), held, delay_millis: 2 };
    assert_eq!(hex(&nack), "04010171020107fb2c0109");
    let mode = ReceiveMode::Lease { millis: 100 };
    let receive = Command::Receive { queue, max: 3, mode };
    assert_eq!(hex(&receive), "02010171030164");
}

impl Fed {
    fn configure(&mut self, limits: [Option<u64>; 3]) {
        let [max_age_millis, max_bytes, max_messages] = limits;
        let retention = Retention { max_age_millis, max_bytes, max_messages };
        assert_eq!(
            self.apply(&Command::Configure { queue: "q".into(), retention }),
            Reply::Configured
        );
    }

    fn info(&self) -> QueueInfo {
        match self.machine.query(&Query::List { after: None, max: 9 }.encode()) {
            Reply::Queues(queues) => queues[0].clone(),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn more_messages_than_a_queue_may_have_go_oldest_first() {
    let mut fed = Fed::new();
    fed.configure([None, None, Some(3)]);
    let sent = fed.send(0..5);
    let waiting: Vec<Position> = sent[2..].iter().map(|sent| sent.receipt.position).collect();
    assert_eq!(fed.browse(None, 10), waiting);
    assert_eq!((fed.info().dropped_total, fed.info().sent_total), (2, 5));
    // A dropped message's id is remembered as any other's.
    assert!(fed.send(0..1)[0].duplicate);
    assert_eq!(fed.machine.next_deadline(), None);
}

#[test]
fn more_bytes_than_a_queue_may_have_go_oldest_first() {
    let mut fed = Fed::new();
    let each = message(0).encode().len() as u64;
    fed.configure([None, Some(2 * each + 1), None]);
    let sent = fed.send(0..5);
    let waiting: Vec<Position> = sent[3..].iter().map(|sent| sent.receipt.position).collect();
    assert_eq!(fed.browse(None, 10), waiting);
    assert_eq!(fed.info().bytes, 2 * each);
}

#[test]
fn a_message_goes_when_it_reaches_its_age_in_log_time() {
    let mut fed = Fed::new();
    fed.configure([Some(50), None, None]);
    let receipt = fed.send(0..2)[0].receipt;
    assert_eq!(fed.machine.next_deadline(), Some(receipt.stamp.after_millis(50)));
    fed.wait(49);
    assert_eq!(fed.info().available, 2);
    fed.wait(1);
    assert_eq!((fed.info().available, fed.info().dropped_total), (0, 2));
    assert_eq!(fed.machine.next_deadline(), None);
}

#[test]
fn what_is_held_neither_counts_nor_goes_until_it_comes_back() {
    let mut fed = Fed::new();
    fed.configure([Some(60), None, Some(2)]);
    fed.send(0..2);
    let held = fed.lease(2);
    fed.send(2..4);
    assert_eq!((fed.info().available, fed.info().leased), (2, 2));
    // One of the held is given back: it is the oldest, and one too many.
    fed.apply(&Command::Nack { queue: "q".into(), held: vec![held[0]], delay_millis: 0 });
    assert_eq!((fed.info().available, fed.info().dropped_total), (2, 1));
    // The other is past its age, and still its receiver's to acknowledge.
    fed.wait(70);
    assert_eq!((fed.info().available, fed.info().leased), (0, 1));
    assert_eq!(fed.acknowledge(vec![held[1]]), [true]);
    assert_eq!(fed.info().dropped_total, 3);
}

#[test]
fn limits_that_come_late_take_effect_over_several_entries() {
    let mut fed = Fed::new();
    let count = u64::from(DROPS_PER_ENTRY_MAX) * 2 + 10;
    (0..count).step_by(4_000).for_each(|from| _ = fed.send(from..count.min(from + 4_000)));
    fed.configure([None, None, Some(5)]);
    let left = |fed: &Fed| fed.info().available;
    assert_eq!(left(&fed), count - u64::from(DROPS_PER_ENTRY_MAX));
    assert!(fed.machine.next_deadline() <= Some(fed.context.log_time), "the next entry goes on");
    // A machine without this history goes on in the same way.
    let mut bytes = Vec::new();
    fed.machine.snapshot(&mut bytes);
    let mut restored = Fed::new();
    restored.machine.restore(&bytes).unwrap();
    restored.context = fed.context;
    for _ in 0..2 {
        fed.wait(1);
        restored.wait(1);
        assert_eq!(fed.machine.digest(), restored.machine.digest());
    }
    assert_eq!(left(&fed), 5);
    assert_eq!(fed.machine.next_deadline(), None);
}

#[test]
fn limits_that_keep_nothing_or_exceed_a_century_are_refused() {
    let mut fed = Fed::new();
    let too_old = limits::RETENTION_MILLIS_MAX + 1;
    for (max_age_millis, max_messages, invalid) in [
        (Some(0), None, Invalid::Retention),
        (None, Some(0), Invalid::Retention),
        (Some(too_old), None, Invalid::Span { millis: too_old, max: too_old - 1 }),
    ] {
        let retention = Retention { max_age_millis, max_bytes: None, max_messages };
        let reply = fed.apply(&Command::Configure { queue: "q".into(), retention });
        assert_eq!(reply, Reply::Invalid(invalid));
    }
    assert_eq!(fed.machine.queue_count(), 0);
}

#[test]
fn the_oldest_ids_are_forgotten_early_when_too_many_are_remembered() {
    let mut fed = Fed::new();
    let limits = Limits { remembered_ids_max: 10, ..Limits::default() };
    fed.machine = Queues::new(&limits);
    fed.send(0..1);
    fed.send(1..31);
    // All but the first, which somebody holds.
    let held = fed.lease(1);
    fed.receive(30, ReceiveMode::Take);
    fed.wait(1);
    assert_eq!(fed.machine.known_ids(), 1 + 10);
    let again = fed.send(0..31);
    let is_known: Vec<u64> =
        (0..).zip(&again).filter(|(_, s)| s.duplicate).map(|(n, _)| n).collect();
    assert_eq!(is_known, [&[0][..], &Vec::from_iter(21..31)].concat());
    fed.apply(&Command::Extend { queue: "q".into(), held, lease_millis: 10_000 });
}

#[test]
fn what_is_remembered_takes_a_part_of_what_waits() {
    let mut fed = Fed::new();
    for from in (0..40_000).step_by(1_000) {
        fed.send(from..from + 1_000);
    }
    let waiting = fed.machine.waiting_chunks();
    assert!(waiting >= 39);
    while fed.machine.message_count() > 0 {
        fed.receive(4_000, ReceiveMode::Take);
    }
    assert_eq!(fed.machine.known_ids(), 40_000);
    assert_eq!(fed.machine.waiting_chunks(), 1, "only the latest chunk stays");
}
