//! Every decoder of what others send or what lies in the log, over bytes that mean nothing.
//!
//! Claims: a decoder never panics; what it accepts comes back equal when it is written and read
//! again; the queues answer any command and any query, and refuse by `validate` exactly what they
//! would answer as invalid.

use arbitrary::{Arbitrary, Unstructured};
use bytes::{Bytes, BytesMut};
use engine::block::{Block, BlockBuilder, BlockKind};
use engine::hlc::Hlc;
use engine::ids::{ClusterId, GroupId, LogIndex, Term};
use engine::limits::Limits;
use engine::queue::{Message, Queues, Reply};
use engine::record::{ChecksumSeed, EntryKind, Record, RecordBuilder};
use engine::state_machine::{CommandContext, StateMachine};
use engine::wire::client::{
    Greeting, Hello, read_client_frame, read_server_frame, write_client_frame,
};
use engine::wire::peer::{read_message, write_message};
use engine::wire::{self, Frame, TailCheck, take_frame, write_frame};

const GROUP: GroupId = GroupId(0);

#[derive(Arbitrary, Debug)]
enum Case {
    Handshake(Vec<u8>),
    Client { head: Vec<u8>, tail: Vec<u8> },
    Server { head: Vec<u8>, tail: Vec<u8> },
    Peer { head: Vec<u8>, records: Vec<Entry>, garbage: Vec<u8> },
    Record { entry: Entry, flipped_bit: u32 },
    Block(Vec<u8>),
    Message(Vec<u8>),
    Commands(Vec<Vec<u8>>),
    Query(Vec<u8>),
}

/// A record to seal: the checksum holds, the content is anything.
#[derive(Arbitrary, Debug)]
struct Entry {
    index: u64,
    term: u64,
    hlc: u64,
    kind: u8,
    payload: Vec<u8>,
}

/// One run over the fuzzer's bytes.
pub fn run(bytes: &[u8]) {
    let Ok(case) = Case::arbitrary_take_rest(Unstructured::new(bytes)) else { return };
    match case {
        Case::Handshake(head) => handshake(&head),
        Case::Client { head, tail } => client(head, tail),
        Case::Server { head, tail } => server(head, tail),
        Case::Peer { head, records, garbage } => peer(head, &records, &garbage),
        Case::Record { entry, flipped_bit } => record(entry, flipped_bit),
        Case::Block(bytes) => block(&bytes),
        Case::Message(bytes) => message(&bytes),
        Case::Commands(commands) => queue_commands(&commands),
        Case::Query(query) => queue_query(&query),
    }
}

fn seed() -> ChecksumSeed {
    ChecksumSeed::of(ClusterId([7; 16]), GROUP)
}

/// What a reader finds in the only frame that was written.
fn only_frame(mut wire: BytesMut) -> Frame {
    let frame = take_frame(&mut wire).expect("we wrote it").expect("it is whole");
    assert!(wire.is_empty(), "{} bytes follow the only frame", wire.len());
    frame
}

fn handshake(head: &[u8]) {
    if let Ok(hello) = wire::decode::<Hello>("a hello", head) {
        let again: Hello = wire::decode("a hello", &wire::encode(&hello)).expect("we encoded it");
        assert_eq!(again, hello);
        if let Some(protocol) = hello.common_protocol() {
            assert!(protocol >= wire::PROTOCOL_MIN && protocol <= wire::PROTOCOL_MAX);
        }
    }
    if let Ok(greeting) = wire::decode::<Greeting>("a greeting", head) {
        let bytes = wire::encode(&greeting);
        let again: Greeting = wire::decode("a greeting", &bytes).expect("we encoded it");
        assert_eq!(again, greeting);
    }
}

fn client(head: Vec<u8>, tail: Vec<u8>) {
    let frame = Frame { head: head.into(), tail: tail.into() };
    let Ok(call) = read_client_frame(&frame) else { return };
    let mut wire = BytesMut::new();
    write_client_frame(&mut wire, &call, std::slice::from_ref(&frame.tail));
    let again = only_frame(wire);
    assert_eq!(again.tail, frame.tail);
    assert_eq!(read_client_frame(&again).expect("we wrote it"), call);
}

fn server(head: Vec<u8>, tail: Vec<u8>) {
    let frame = Frame { head: head.into(), tail: tail.into() };
    let Ok((answer, bodies)) = read_server_frame(&frame) else { return };
    let mut wire = BytesMut::new();
    write_frame(&mut wire, &answer, &bodies, TailCheck::Frame);
    let again = read_server_frame(&only_frame(wire)).expect("we wrote it");
    assert_eq!(again, (answer, bodies));
}

fn peer(head: Vec<u8>, records: &[Entry], garbage: &[u8]) {
    let mut tail = Vec::new();
    for entry in records {
        tail.extend_from_slice(sealed(entry).bytes());
    }
    tail.extend_from_slice(garbage);
    let frame = Frame { head: head.into(), tail: tail.into() };
    let Ok(message) = read_message(seed(), GROUP, &frame) else { return };
    let mut wire = BytesMut::new();
    write_message(&mut wire, GROUP, &message);
    let again = read_message(seed(), GROUP, &only_frame(wire)).expect("we wrote it");
    assert_eq!(again, message);
}

fn sealed(entry: &Entry) -> Record {
    let mut builder = RecordBuilder::with_capacity(entry.payload.len());
    builder.payload_mut().extend_from_slice(&entry.payload);
    let kind = match entry.kind % 3 {
        0 => EntryKind::Noop,
        1 => EntryKind::Commands,
        _ => EntryKind::Tick,
    };
    let (index, term) = (LogIndex(entry.index), Term(entry.term));
    builder.seal(seed(), GROUP, index, term, Hlc(entry.hlc), kind)
}

fn record(entry: Entry, flipped_bit: u32) {
    let record = sealed(&entry);
    let mut bytes = record.bytes().clone();
    assert_eq!(Record::peek_len(&bytes), Ok(Some(bytes.len())));
    let taken = Record::take(seed(), &mut bytes).expect("it was just sealed");
    assert_eq!(taken, record);
    assert!(bytes.is_empty(), "a record left {} bytes of itself", bytes.len());

    let mut damaged = record.bytes().to_vec();
    let bit = flipped_bit as usize % (damaged.len() * 8);
    damaged[bit / 8] ^= 1 << (bit % 8);
    let mut damaged = Bytes::from(damaged);
    Record::take(seed(), &mut damaged).expect_err("a flipped bit went unnoticed");
    assert_eq!(damaged.len(), record.bytes().len(), "a refused record lost bytes");

    let mut foreign = record.bytes().clone();
    let other = ChecksumSeed::of(ClusterId([8; 16]), GROUP);
    Record::take(other, &mut foreign).expect_err("another cluster's record was taken for ours");
}

fn block(bytes: &[u8]) {
    let Ok(block) = Block::parse(bytes) else { return };
    if block.kind != BlockKind::Commands {
        assert!(block.is_empty(), "a block that opens or closes a session has commands");
        return;
    }
    let mut builder =
        BlockBuilder::commands(block.session, block.first_sequence, block.acked_below);
    for (offset, command) in block.commands() {
        assert_eq!(&bytes[offset..offset + command.len()], command);
        builder.push(command);
    }
    assert_eq!(builder.len(), block.len());
    assert_eq!(builder.finish(), bytes, "a block has two encodings");
}

fn message(bytes: &[u8]) {
    let Ok(message) = Message::decode(bytes) else { return };
    assert_eq!(Message::decode(&message.encode()).expect("we encoded it"), message);
}

/// Commands that mean nothing, one entry each: `validate` and `apply` must agree about them.
fn queue_commands(commands: &[Vec<u8>]) {
    let mut queues = Queues::new(&Limits::default());
    let mut log_time = Hlc::from_millis(1_000);
    for (ordinal, command) in commands.iter().enumerate() {
        log_time = log_time.after_millis(1);
        queues.advance(log_time);
        let context = CommandContext {
            term: Term(1),
            index: LogIndex(ordinal as u64 + 1),
            log_time,
            offset: 0,
        };
        let refused = queues.validate(command).err();
        let before = queues.digest();
        let reply = queues.apply(context, command);
        if let Some(refused) = refused {
            assert_eq!(reply, refused, "apply and validate disagree");
            assert_eq!(queues.digest(), before, "an invalid command changed the queues");
        } else {
            assert!(!matches!(reply, Reply::Invalid(_)), "validate let in what apply refuses");
        }
    }
}

fn queue_query(query: &[u8]) {
    let queues = Queues::new(&Limits::default());
    let before = queues.digest();
    let reply = queues.query(query);
    assert_eq!(queues.query(query), reply, "a query changed its own answer");
    let _watched = queues.watch(query);
    assert_eq!(queues.digest(), before, "a query changed the queues");
}
