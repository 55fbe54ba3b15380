//! What a message costs in memory, and what a snapshot costs whoever waits for the loop meanwhile:
//! `cargo bench -p engine --bench memory`. A million messages; with `MESSAGES` in the environment as many.
//!
//! An allocator counts. The bound is checked: less than 64 bytes for a message that waits, with what the
//! store keeps to find it, if 16 or more come with an entry.

use engine::hlc::Hlc;
use engine::ids::{LogIndex, MessageId, Term};
use engine::limits::Limits;
use engine::queue::{Command, Message, Queues, ReceiveMode, Reply};
use engine::state_machine::{BodyChanges, CommandContext, StateMachine};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use std::alloc::System;
use std::time::{Duration, Instant};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// What the store keeps of an entry that the log has left behind: an item of its map, in a chunk that may
/// be half full.
const STORE_BYTES_PER_ENTRY: f64 = 32.0;
const BYTES_PER_MESSAGE_MAX: f64 = 64.0;
/// As in the engine.
const SLICE_BYTES: usize = 128 * 1024;

/// A machine that is fed with entries of so many messages.
struct Fed {
    machine: Queues,
    context: CommandContext,
    numbers: u128,
    changes: BodyChanges,
}

impl Fed {
    fn new() -> Self {
        let log_time = Hlc::from_millis(1);
        let context = CommandContext { term: Term(1), index: LogIndex(0), log_time, offset: 32 };
        let machine = Queues::new(&Limits::default());
        Self { machine, context, numbers: 0, changes: BodyChanges::default() }
    }

    fn apply(&mut self, command: &[u8]) -> Reply {
        self.context.index = self.context.index.next();
        self.context.log_time = self.context.log_time.next();
        self.machine.advance(self.context.log_time);
        let reply = self.machine.apply(self.context, command);
        self.machine.take_body_changes(&mut self.changes);
        self.changes.begun.clear();
        self.changes.ended.clear();
        reply
    }

    fn send(&mut self, count: usize) {
        let message = |number: u128| Message {
            id: MessageId(
                number.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835).to_le_bytes(),
            ),
            from: String::new(),
            to: "orders".into(),
            sent_at: Hlc::ZERO,
            headers: Vec::new(),
            body: Vec::new(),
        };
        let first = self.numbers + 1;
        self.numbers += count as u128;
        let messages = (first..=self.numbers).map(message).collect();
        self.apply(&encoded(&Command::Send { messages }));
    }
}

fn encoded(command: &Command) -> Vec<u8> {
    let mut bytes = Vec::new();
    command.encode_into(&mut bytes);
    bytes
}

fn receive(max: u32, mode: ReceiveMode) -> Vec<u8> {
    encoded(&Command::Receive { queue: "orders".into(), max, mode })
}

fn allocated() -> usize {
    let stats = ALLOCATOR.stats();
    stats.bytes_allocated - stats.bytes_deallocated
}

fn main() {
    let messages = std::env::var("MESSAGES")
        .ok()
        .map_or(1_000_000, |count| count.parse().expect("MESSAGES must be a number of messages"));
    println!("{messages} messages");
    for each in [1, 16, 256] {
        measure_memory(messages, each);
    }
    measure_snapshot(messages);
}

fn measure_memory(messages: usize, each: usize) {
    let before = allocated();
    let mut fed = Fed::new();
    (0..messages / each).for_each(|_| fed.send(each));
    let count = (messages / each * each) as f64;
    let waiting = (allocated() - before) as f64 / count;
    let with_store = waiting + STORE_BYTES_PER_ENTRY / each as f64;
    let take = receive(4_096, ReceiveMode::Take);
    while fed.machine.message_count() > 0 {
        drop(fed.apply(&take));
    }
    let gone = (allocated() - before) as f64 / count;
    println!(
        "{each:>4} an entry: {waiting:.1} bytes a message that waits, {with_store:.1} with the store's; \
         {gone:.1} an id that is remembered"
    );
    assert!(
        each < 16 || with_store < BYTES_PER_MESSAGE_MAX,
        "a message costs {with_store:.1} bytes"
    );
    assert!(gone < waiting, "an id costs {gone:.1} bytes");
}

/// Sends of 64 and receives of 64, one of each a turn, and with each a slice of the snapshot.
fn measure_snapshot(messages: usize) {
    let mut fed = Fed::new();
    (0..messages.div_ceil(64)).for_each(|_| fed.send(64));
    let lease = receive(64, ReceiveMode::Lease { millis: 30_000 });
    let turns = (messages / 3_000).max(100);
    let turn = |fed: &mut Fed| {
        let start = Instant::now();
        fed.send(64);
        drop(fed.apply(&lease));
        start.elapsed()
    };
    let mut alone: Vec<Duration> = (0..turns).map(|_| turn(&mut fed)).collect();

    let mut expected = Vec::new();
    let at_once = Instant::now();
    fed.machine.snapshot(&mut expected);
    let at_once = at_once.elapsed();
    let start = Instant::now();
    fed.machine.begin_snapshot();
    let begin = start.elapsed();
    let (mut written, mut slices, mut beside) = (Vec::new(), Vec::new(), Vec::new());
    let mut is_whole = false;
    while !is_whole {
        let start = Instant::now();
        is_whole = fed.machine.snapshot_piece(SLICE_BYTES, &mut written);
        slices.push(start.elapsed());
        beside.push(turn(&mut fed));
    }
    assert!(written == expected, "the slices are the snapshot of when they began");
    slices.sort_unstable();
    alone.sort_unstable();
    beside.sort_unstable();
    let (median, longest) = (slices[slices.len() / 2], slices[slices.len() - 1]);
    println!(
        "a snapshot of {} bytes: {at_once:?} at once; begun in {begin:?}, then {} slices, median \
         {median:?}, longest {longest:?}",
        written.len(),
        slices.len()
    );
    println!(
        "64 sent and 64 leased, median of {} turns: {:?} alone, {:?} while the snapshot is written (longest \
         {:?} and {:?})",
        beside.len(),
        alone[alone.len() / 2],
        beside[beside.len() / 2],
        alone[alone.len() - 1],
        beside[beside.len() - 1]
    );
}
