//! Claims about the queues' snapshots that random histories do not reach; `queue_model` has the rest.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

use engine::hlc::Hlc;
use engine::ids::{LeaseToken, LogIndex, MessageId, Position, Term};
use engine::limits::Limits;
use engine::queue::{Command, Held, Message, Query, Queues, ReceiveMode, Reply, Retention};
use engine::state_machine::{BodyRef, CommandContext, RestoreError, StateMachine, Watched};

const WINDOW_MILLIS: u64 = 1_000;

fn limits() -> Limits {
    Limits { dedup_window_millis: WINDOW_MILLIS, ..Limits::default() }
}

/// A machine fed with one command for each entry.
struct Fed {
    machine: Queues,
    context: CommandContext,
}

impl Fed {
    fn new() -> Self {
        let log_time = Hlc::from_millis(1);
        let context = CommandContext { term: Term(3), index: LogIndex(0), log_time, offset: 40 };
        Self { machine: Queues::new(&limits()), context }
    }

    /// A machine in the same state that has no history.
    fn restored(&self) -> Self {
        let mut machine = Queues::new(&limits());
        machine.restore(&self.snapshot()).unwrap();
        machine.check_invariants();
        Self { machine, context: self.context }
    }

    fn snapshot(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.machine.snapshot(&mut bytes);
        bytes
    }

    fn wait(&mut self, millis: u64) {
        self.context.index = self.context.index.next();
        self.context.log_time = self.context.log_time.after_millis(millis);
        self.machine.advance(self.context.log_time);
        self.machine.check_invariants();
    }

    fn apply(&mut self, command: &Command) -> Reply {
        self.wait(1);
        let mut bytes = Vec::new();
        command.encode_into(&mut bytes);
        let reply = self.machine.apply(self.context, &bytes);
        self.machine.check_invariants();
        reply
    }

    fn send(&mut self, queue: &str, numbers: std::ops::Range<u64>) {
        let messages = numbers.map(|number| message(queue, number)).collect();
        self.apply(&Command::Send { messages });
    }

    fn receive(&mut self, queue: &str, max: u32, mode: ReceiveMode) -> Vec<Held> {
        let command = Command::Receive { queue: queue.into(), max, mode };
        let Reply::Received { token, deliveries, .. } = self.apply(&command) else {
            panic!("a receive is answered with what was received")
        };
        deliveries.iter().map(|d| Held { position: d.position, token }).collect()
    }

    fn lease(&mut self, queue: &str, max: u32) -> Vec<Held> {
        self.receive(queue, max, ReceiveMode::Lease { millis: 300 })
    }

    fn browse(&self, queue: &str, after: Option<Position>, max: u32) -> Vec<Position> {
        let query = Query::Browse { queue: queue.into(), after, max };
        let Reply::Browsed(found) = self.machine.query(&query.encode()) else {
            panic!("a browse is answered with what was found")
        };
        found.iter().map(|message| message.receipt.position).collect()
    }
}

fn message(queue: &str, number: u64) -> Message {
    Message {
        id: MessageId(u128::from(number).to_le_bytes()),
        from: "test".into(),
        to: queue.into(),
        sent_at: Hlc(number),
        headers: Vec::new(),
        body: Vec::new(),
    }
}

#[test]
fn equal_states_give_equal_bytes_whatever_their_histories() {
    // Queues made in another order, other messages that came and were forgotten, so other slots.
    let mut histories =
        [("zoo", "ark", 1_000), ("ark", "zoo", 2_000)].map(|(one, other, number)| {
            let mut fed = Fed::new();
            fed.send(one, number..number + 5);
            fed.send(other, number + 5..number + 10);
            fed.receive(one, 3, ReceiveMode::Take);
            fed.receive(other, 5, ReceiveMode::Take);
            fed.receive(one, 2, ReceiveMode::Take);
            fed.wait(WINDOW_MILLIS + 10);
            fed.wait(1);
            assert_eq!(
                fed.snapshot().len(),
                1 + 3 + 2 * (1 + 3 + 1 + 4) + 1,
                "only the queues are left"
            );
            fed
        });
    let mut snapshots = Vec::new();
    for fed in &mut histories {
        fed.send("zoo", 0..40);
        fed.send("ark", 40..50);
        let held = fed.lease("zoo", 10);
        fed.apply(&Command::Nack { queue: "zoo".into(), held, delay_millis: 50 });
        fed.lease("ark", 3);
        fed.receive("zoo", 7, ReceiveMode::Take);
        snapshots.push(fed.snapshot());
    }
    assert_eq!(snapshots[0], snapshots[1]);
    assert_eq!(histories[0].machine.digest(), histories[1].machine.digest());
}

#[test]
fn a_restored_queue_of_thousands_is_browsed_and_goes_on_as_the_original() {
    for taken in [1, 2, 255, 256, 257, 700] {
        let mut original = Fed::new();
        original.send("q", 0..1_400);
        original.receive("q", taken, ReceiveMode::Take);
        original.lease("q", 300);
        let mut restored = original.restored();
        for fed in [&mut original, &mut restored] {
            fed.send("q", 1_400..2_100);
            fed.receive("q", 450, ReceiveMode::Take);
            fed.wait(400);
            fed.lease("q", 20);
        }
        assert_eq!(original.snapshot(), restored.snapshot());
        let all = original.browse("q", None, 4_096);
        for (at, after) in all.iter().enumerate().step_by(97) {
            let found = restored.browse("q", Some(*after), 3);
            assert!(found.iter().eq(all[at + 1..].iter().take(3)));
        }
    }
}

#[test]
fn messages_past_their_window_keep_their_order_across_queues() {
    let mut original = Fed::new();
    for number in 0..30 {
        let queue = ["a", "b", "c"][number as usize % 3];
        original.send(queue, number..number + 1);
    }
    original.wait(WINDOW_MILLIS - 10);
    original.send("b", 30..40);
    original.wait(25);
    let mut restored = original.restored();
    assert_eq!(original.machine.digest(), restored.machine.digest());
    // An id that is forgotten but in a queue is known; one that is forgotten and gone is not.
    for fed in [&mut original, &mut restored] {
        fed.receive("a", 2, ReceiveMode::Take);
        fed.send("a", 0..12);
    }
    assert_eq!(original.snapshot(), restored.snapshot());
}

#[test]
fn how_many_ids_the_next_entry_forgets_is_part_of_the_state() {
    let mut original = Fed::new();
    for first in (0..12_000).step_by(4_000) {
        original.send("q", first..first + 4_000);
    }
    let mut restored = original.restored();
    for fed in [&mut original, &mut restored] {
        fed.wait(WINDOW_MILLIS + 10);
    }
    assert_eq!(original.snapshot(), restored.snapshot());
}

#[test]
fn a_restored_machine_replaces_what_it_had_and_wakes_nobody() {
    let mut original = Fed::new();
    original.send("q", 0..3);
    let mut other = Fed::new();
    other.send("elsewhere", 5..9);
    other.lease("elsewhere", 2);
    other.machine.restore(&original.snapshot()).unwrap();
    other.machine.check_invariants();
    assert_eq!(other.machine.digest(), original.machine.digest());
    let mut keys = Vec::new();
    other.machine.take_woken(&mut keys);
    assert_eq!(keys, []);
    let watch = Query::Available { queue: "q".into() }.encode();
    assert_eq!(other.machine.watch(&watch), Watched::Ready);
}

#[test]
fn an_entry_is_live_while_a_message_that_it_brought_is_in_a_queue() {
    fn live(machine: &Queues) -> Vec<u64> {
        let mut entries = Vec::new();
        machine.live_entries(&mut entries);
        entries.iter().map(|index| index.0).collect()
    }
    let mut fed = Fed::new();
    assert_eq!(live(&fed.machine), [0; 0]);
    fed.send("b", 0..2);
    fed.send("a", 2..4);
    assert_eq!(live(&fed.machine), [1, 2]);
    let held = fed.lease("b", 2);
    assert_eq!(live(&fed.machine), [1, 2], "a lease may end");
    fed.apply(&Command::Acknowledge { queue: "b".into(), held });
    assert_eq!(live(&fed.machine), [2]);
    assert_eq!(live(&fed.restored().machine), [2]);
    fed.apply(&Command::Purge { queue: "a".into() });
    assert_eq!(live(&fed.machine), [0; 0], "an id that is remembered needs no body");
}

/// A queue with a message in each state, past its window and within.
fn one_of_each() -> Fed {
    let mut fed = Fed::new();
    fed.send("q", 1..2);
    fed.send("r", 2..3);
    fed.lease("r", 1);
    fed.wait(WINDOW_MILLIS + 1);
    fed.send("q", 3..7);
    let held = fed.lease("q", 3);
    fed.apply(&Command::Nack { queue: "q".into(), held: vec![held[0]], delay_millis: 3 });
    fed.apply(&Command::Acknowledge { queue: "q".into(), held: vec![held[1]] });
    let (max_age_millis, max_bytes, max_messages) = (None, Some(300), None);
    let retention = Retention { max_age_millis, max_bytes, max_messages };
    fed.apply(&Command::Configure { queue: "q".into(), retention });
    fed
}

#[test]
fn the_snapshot_of_queues_is_pinned() {
    let fed = one_of_each();
    let id = |number: u8| [&[number][..], &[0; 15]].concat();
    let len = message("q", 1).encode().len() as u8;
    let expected = [
        &[2, 2, 0, 2][..], // version, last token, sends since the last entry, queues
        &[1, b'q', 1, 0, 0, 251, 44, 1, 0], // one is gone, not dropped; a limit of bytes
        &[1, b'r', 0, 0, 0, 0, 0],
        &[6],
        // Forgotten: entry 1 of term 3 at 2 ms; it is delayed until 1 011 ms.
        &[0b1110_1011],
        &id(1),
        &[1, 3, 252, 0, 0, 2, 0, 46, len, 1, 252, 0, 0, 241, 3, 0],
        // Forgotten: entry 2, in the other queue; its lease has ended.
        &[0b0101_1001],
        &id(2),
        &[1, 0, 252, 0, 0, 1, 0, 46, 1, 1],
        // Entry 5 brought a message that is gone,
        &[0b0000_1100],
        &id(3),
        &[3, 0, 252, 0, 0, 235, 3, 46],
        // one in the first queue that is leased until 301 ms after,
        &[0b1101_0110],
        &id(4),
        &[4 + len, 0, 1, 252, 0, 0, 45, 1, 2],
        // and two that wait.
        &[0b0000_0101],
        &id(5),
        &[4 + len],
        &[0b0000_0101],
        &id(6),
        &[4 + len],
    ];
    let expected = expected.concat();
    assert_eq!(fed.snapshot(), expected);
}

#[test]
fn a_snapshot_that_is_cut_anywhere_is_refused() {
    let bytes = one_of_each().snapshot();
    for len in 0..bytes.len() {
        let error = Queues::new(&limits()).restore(&bytes[..len]).unwrap_err();
        assert!(matches!(error, RestoreError::Damaged { at, .. } if at <= len), "{len}: {error}");
    }
    let longer = [&bytes[..], &[0]].concat();
    assert!(Queues::new(&limits()).restore(&longer).is_err());
}

/// A counter that no cluster reaches.
const BEYOND: [u8; 9] = [253, 1, 0, 0, 0, 0, 0, 0, 64];

#[test]
fn every_contradiction_in_the_head_is_named() {
    let long = [&[2, 5, 0, 1, 251, 0, 1][..], &[b'q'; 256], &[0; 6]].concat();
    let refused: [(&[&[u8]], &str); 10] = [
        (&[&[2], &BEYOND, &[0, 0, 0]], "the last token"),
        (&[&[2, 5], &BEYOND, &[0, 0]], "the latest sends"),
        (&[&[2, 5, 0, 1, 1, 255, 0, 0]], "a queue's name"),
        (&[&[2, 5, 0, 1, 0, 0, 0]], "a queue's name is empty or too long"),
        (&[&long], "a queue's name is empty or too long"),
        (
            &[&[2, 5, 0, 2, 1, b'q', 0, 0, 0, 0, 0, 1, b'q', 0]],
            "queues are not in the order of their names",
        ),
        (&[&[2, 5, 0, 1, 1, b'q'], &BEYOND, &[0]], "a queue's total"),
        (&[&[2, 5, 0, 1, 1, b'q', 3, 4]], "what a queue dropped"),
        (&[&[2, 5, 0, 1, 1, b'q', 3, 0], &BEYOND], "a queue's limits"),
        (&[&[2, 5, 0, 0, 0, 0]], "bytes are left at its end"),
    ];
    for (parts, wrong) in refused {
        let error = Queues::new(&limits()).restore(&parts.concat()).unwrap_err();
        assert!(matches!(error, RestoreError::Damaged { what, .. } if what == wrong), "{error}");
    }
}

#[test]
fn every_contradiction_between_messages_is_named() {
    const GONE: u8 = 0;
    const AVAILABLE: u8 = 1;
    const LEASED: u8 = 2;
    const DELAYED: u8 = 3;
    const REMEMBERED: u8 = 4;
    const ENTRY: u8 = 8;
    const QUEUE: u8 = 16;
    const LEN: u8 = 32;
    const ATTEMPTS: u8 = 64;
    const HOLD: u8 = 128;
    const ENTRY_1: [u8; 4] = [1, 1, 1, 0];
    let message = |flags: u8, id: u8, rest: &[u8]| [&[flags][..], &[id; 16], rest].concat();
    let first = message(AVAILABLE | REMEMBERED | ENTRY, 1, &ENTRY_1);
    let received = |flags: u8, hold: &[u8]| {
        let flags = flags | REMEMBERED | ENTRY | ATTEMPTS;
        message(flags, 1, &[&ENTRY_1, &[1][..], hold].concat())
    };
    let not_placed = "a message's state fits neither its attempts nor its place";
    let refused = [
        (vec![message(AVAILABLE, 1, &[1])], "the first message has no entry"),
        (vec![message(AVAILABLE | ENTRY, 1, &[0, 1, 1, 0])], "entries are not in log order"),
        (vec![message(AVAILABLE | ENTRY, 1, &BEYOND)], "an entry's index"),
        (
            vec![first.clone(), message(AVAILABLE | REMEMBERED, 2, &[0])],
            "messages of an entry are not in their order",
        ),
        (vec![first.clone(), message(AVAILABLE, 2, &[1])], "ids are not forgotten in log order"),
        (vec![first.clone(), message(AVAILABLE | REMEMBERED, 1, &[1])], "two messages have one id"),
        (vec![message(GONE | ENTRY, 1, &ENTRY_1)], "a message is gone and forgotten"),
        (
            vec![message(GONE | REMEMBERED | ENTRY | LEN, 1, &[&ENTRY_1[..], &[1]].concat())],
            "a message that is gone has more than a receipt",
        ),
        (
            vec![message(AVAILABLE | ENTRY | QUEUE, 1, &[&ENTRY_1[..], &[1]].concat())],
            "a message is in no queue",
        ),
        (vec![message(LEASED | ENTRY, 1, &ENTRY_1)], not_placed),
        (vec![first, message(AVAILABLE | REMEMBERED | ATTEMPTS, 2, &[1, 1])], not_placed),
        (vec![received(LEASED | HOLD, &[1, 0])], "a lease has no token"),
        (vec![received(LEASED, &[])], "a lease has no token"),
        (vec![received(LEASED | HOLD, &[1, 6])], "a lease's token"),
        (vec![received(DELAYED | HOLD, &[1, 5])], "a delay has a token"),
        (vec![received(AVAILABLE | HOLD, &[1, 0])], "an available message is held"),
    ];
    let head = |count| [2, 5, 0, 1, 1, b'q', 0, 0, 0, 0, 0, count];
    for (messages, wrong) in refused {
        let bytes = [&head(messages.len() as u8)[..], &messages.concat()].concat();
        let error = Queues::new(&limits()).restore(&bytes).unwrap_err();
        assert!(matches!(error, RestoreError::Damaged { what, .. } if what == wrong), "{error}");
    }
    let sound = [&head(1)[..], &received(LEASED | HOLD, &[1, 5])].concat();
    assert_eq!(Queues::new(&limits()).restore(&sound), Ok(()));
}

#[test]
fn a_snapshot_of_a_newer_build_is_refused_as_such() {
    let mut bytes = one_of_each().snapshot();
    bytes[0] += 1;
    let error = Queues::new(&limits()).restore(&bytes).unwrap_err();
    assert_eq!(error, RestoreError::Version { version: bytes[0] });
    assert!(error.to_string().ends_with("upgrade this node"), "{error}");
}

#[test]
fn a_lie_about_a_length_takes_no_memory() {
    let max = [253, 255, 255, 255, 255, 255, 255, 255, 127];
    for bytes in [
        [&[2, 0, 0][..], &max].concat(),
        [&[2, 0, 0, 252, 255, 255, 255, 255][..]].concat(),
        [&[2, 0, 0, 1][..], &max].concat(),
        [&[2, 0, 0, 0, 252, 254, 255, 255, 255][..]].concat(),
    ] {
        assert!(Queues::new(&limits()).restore(&bytes).is_err());
    }
}

#[test]
fn a_waiting_message_takes_about_twenty_bytes() {
    let mut fed = Fed::new();
    for first in (0..6_400).step_by(64) {
        fed.send("q", first..first + 64);
    }
    let bytes = fed.snapshot().len();
    assert!(bytes < 6_400 * 19, "{bytes} bytes for 6,400 messages");
}

#[test]
fn remembered_replies_come_back_as_they_were() {
    let mut fed = one_of_each();
    let position = Position { index: LogIndex(1), offset: 46 };
    let commands = [
        Command::Send { messages: vec![message("q", 50)] },
        Command::Send { messages: (50..53).map(|number| message("q", number)).collect() },
        Command::Receive { queue: "q".into(), max: 9, mode: ReceiveMode::Lease { millis: 5 } },
        Command::Extend {
            queue: "q".into(),
            held: vec![Held { position, token: LeaseToken(1) }],
            lease_millis: 9,
        },
        Command::Delete { queue: "q".into(), ids: vec![message("q", 50).id] },
        Command::Purge { queue: "q".into() },
        Command::Receive { queue: String::new(), max: 1, mode: ReceiveMode::Take },
    ];
    let replies: Vec<Reply> = commands.iter().map(|command| fed.apply(command)).collect();
    let mut bytes = Vec::new();
    replies.iter().for_each(|reply| Queues::write_reply(reply, &mut bytes));
    let mut rest = &bytes[..];
    for reply in &replies {
        assert_eq!(Queues::read_reply(&mut rest).as_ref(), Ok(reply));
    }
    assert!(rest.is_empty());
    assert!(Queues::read_reply(&mut &bytes[..1]).is_err());
    let mut bodies: Vec<BodyRef> = Vec::new();
    Queues::bodies(&replies[2], &mut bodies);
    assert!(!bodies.is_empty(), "the delivery is a reply with bodies");
}
