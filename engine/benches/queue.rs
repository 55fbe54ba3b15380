//! What the queue machine alone costs for each message: `cargo bench -p engine --bench queue`.
//!
//! Commands are encoded beforehand, as a client does it; 256-byte bodies; one core, no log, no disk.

use divan::Bencher;
use divan::counter::{BytesCount, ItemsCount};
use engine::hlc::Hlc;
use engine::ids::{LogIndex, MessageId, Term};
use engine::limits::Limits;
use engine::queue::{Command, Held, Message, Queues, ReceiveMode, Reply};
use engine::state_machine::{CommandContext, StateMachine};

fn main() {
    divan::main();
}

/// Messages in each sample.
const MESSAGES: usize = 200_000;

/// A machine and the place in the log of its next command.
struct Fed {
    machine: Queues,
    context: CommandContext,
    commands_in_entry: usize,
}

impl Fed {
    fn new() -> Self {
        let log_time = Hlc::from_millis(1);
        let context = CommandContext { term: Term(1), index: LogIndex(1), log_time, offset: 32 };
        Self { machine: Queues::new(&Limits::default()), context, commands_in_entry: 0 }
    }

    /// Applies a command in an entry of its own, or in the entry of the one before, 64 to an entry.
    fn apply(&mut self, command: &[u8]) -> Reply {
        if self.commands_in_entry == 64 {
            self.commands_in_entry = 0;
            self.context.offset = 32;
            self.context.index = self.context.index.next();
            self.context.log_time = self.context.log_time.next();
            self.machine.advance(self.context.log_time);
        }
        let reply = self.machine.apply(self.context, command);
        self.commands_in_entry += 1;
        self.context.offset += 4 + command.len() as u32;
        reply
    }
}

fn encoded(command: &Command) -> Vec<u8> {
    let mut bytes = Vec::new();
    command.encode_into(&mut bytes);
    bytes
}

/// A stranger's id: every bit depends on the number.
fn message(number: usize) -> Message {
    let id = (number as u128 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
    Message {
        id: MessageId(id.to_le_bytes()),
        from: "bench".into(),
        to: "orders".into(),
        sent_at: Hlc::from_millis(1_700_000_000_000),
        headers: vec![("content-type".into(), "text/plain".into())],
        body: vec![7; 256],
    }
}

fn sends(each: usize) -> Vec<Vec<u8>> {
    let numbers: Vec<usize> = (0..MESSAGES).collect();
    let commands = numbers.chunks(each).map(|numbers| Command::Send {
        messages: numbers.iter().map(|number| message(*number)).collect(),
    });
    commands.map(|command| encoded(&command)).collect()
}

fn filled(commands: &[Vec<u8>]) -> Fed {
    let mut fed = Fed::new();
    commands.iter().for_each(|command| drop(fed.apply(command)));
    fed
}

/// The engine validates each command on the leader before it proposes it.
#[divan::bench(sample_count = 10, args = [1, 64])]
fn validate_send(bencher: Bencher<'_, '_>, each: usize) {
    let commands = sends(each);
    let machine = Queues::new(&Limits::default());
    bencher
        .counter(ItemsCount::new(MESSAGES))
        .bench(|| commands.iter().filter(|command| machine.validate(command).is_ok()).count());
}

#[divan::bench(sample_count = 10, args = [1, 64])]
fn apply_send(bencher: Bencher<'_, '_>, each: usize) {
    let commands = sends(each);
    bencher
        .counter(ItemsCount::new(MESSAGES))
        .with_inputs(Fed::new)
        .bench_refs(|fed| commands.iter().for_each(|command| drop(fed.apply(command))));
}

#[divan::bench(sample_count = 10, args = [1, 64])]
fn apply_duplicate_send(bencher: Bencher<'_, '_>, each: usize) {
    let commands = sends(each);
    bencher
        .counter(ItemsCount::new(MESSAGES))
        .with_inputs(|| filled(&commands))
        .bench_refs(|fed| commands.iter().for_each(|command| drop(fed.apply(command))));
}

#[divan::bench(sample_count = 10, args = [1, 256])]
fn apply_take(bencher: Bencher<'_, '_>, max: u32) {
    let commands = sends(64);
    let mode = ReceiveMode::Take;
    let take = encoded(&Command::Receive { queue: "orders".into(), max, mode });
    bencher.counter(ItemsCount::new(MESSAGES)).with_inputs(|| filled(&commands)).bench_refs(
        |fed| {
            while fed.machine.message_count() > 0 {
                fed.apply(&take);
            }
        },
    );
}

/// Lease and acknowledge; the encoding of the acknowledgement is counted in.
#[divan::bench(sample_count = 10, args = [1, 256])]
fn apply_lease_and_acknowledge(bencher: Bencher<'_, '_>, max: u32) {
    let commands = sends(64);
    let mode = ReceiveMode::Lease { millis: 30_000 };
    let lease = encoded(&Command::Receive { queue: "orders".into(), max, mode });
    bencher.counter(ItemsCount::new(MESSAGES)).with_inputs(|| filled(&commands)).bench_refs(
        |fed| {
            let mut bytes = Vec::new();
            while let Reply::Received { token, deliveries, .. } = fed.apply(&lease)
                && !deliveries.is_empty()
            {
                let held =
                    deliveries.iter().map(|d| Held { position: d.position, token }).collect();
                bytes.clear();
                Command::Acknowledge { queue: "orders".into(), held }.encode_into(&mut bytes);
                fed.apply(&bytes);
            }
        },
    );
}

/// Lease all 200,000 first, then acknowledge: many leases outstanding.
#[divan::bench(sample_count = 10, args = [256])]
fn apply_lease_with_many_outstanding(bencher: Bencher<'_, '_>, max: u32) {
    let commands = sends(64);
    let mode = ReceiveMode::Lease { millis: 30_000 };
    let lease = encoded(&Command::Receive { queue: "orders".into(), max, mode });
    bencher.counter(ItemsCount::new(MESSAGES)).with_inputs(|| filled(&commands)).bench_refs(
        |fed| {
            while let Reply::Received { deliveries, .. } = fed.apply(&lease)
                && !deliveries.is_empty()
            {}
        },
    );
}

/// Messages in a snapshot: so many that wait, and so many that are gone and remembered.
const IN_SNAPSHOT: [(usize, usize); 2] = [(100_000, 0), (0, 100_000)];

fn filled_with((waiting, gone): (usize, usize)) -> (Queues, Vec<u8>) {
    let mut fed = filled(&sends(64)[..(waiting + gone).div_ceil(64)]);
    let mode = ReceiveMode::Take;
    let take = encoded(&Command::Receive { queue: "orders".into(), max: 256, mode });
    while fed.machine.message_count() > waiting.next_multiple_of(64) as u64 {
        fed.apply(&take);
    }
    let mut bytes = Vec::new();
    fed.machine.snapshot(&mut bytes);
    (fed.machine, bytes)
}

#[divan::bench(sample_count = 10, args = IN_SNAPSHOT)]
fn snapshot(bencher: Bencher<'_, '_>, counts: (usize, usize)) {
    let (machine, bytes) = filled_with(counts);
    bencher
        .counter(ItemsCount::new(counts.0 + counts.1))
        .counter(BytesCount::new(bytes.len()))
        .with_inputs(Vec::new)
        .bench_refs(|out| machine.snapshot(out));
}

#[divan::bench(sample_count = 10, args = IN_SNAPSHOT)]
fn restore(bencher: Bencher<'_, '_>, counts: (usize, usize)) {
    let (_, bytes) = filled_with(counts);
    bencher
        .counter(ItemsCount::new(counts.0 + counts.1))
        .counter(BytesCount::new(bytes.len()))
        .with_inputs(|| Queues::new(&Limits::default()))
        .bench_refs(|machine| machine.restore(&bytes).expect("a snapshot"));
}
