//! One replica among members that say anything at all.
//!
//! Raft promises nothing when members lie, and neither do we, but a message that decodes must never
//! bring a node down: it is refused, or it is believed. Claims: no panic, and after every input the
//! replica's own invariants hold. What a leader checks before it seals a record is taken for granted:
//! the payload is whole blocks, and stamps rise with the index.

use crate::host::{CLUSTER, GROUP, Host};
use arbitrary::{Arbitrary, Unstructured};
use engine::api::{Request, Token};
use engine::block::BlockBuilder;
use engine::hlc::Hlc;
use engine::ids::{LogIndex, NodeId, Sequence, SessionId, Term};
use engine::raft::{AppendOutcome, Body, LogPosition, Message, Standing};
use engine::record::{ChecksumSeed, EntryKind, Record, RecordBuilder};
use engine::replica::Input;
use engine::time::Micros;

#[derive(Arbitrary, Debug)]
enum Action {
    Peer { from: u8, term: Number, say: Say },
    Propose(Vec<u8>),
    Query(Vec<u8>),
    Watch { query: Vec<u8>, millis: u8 },
    Turn { millis: u8 },
    Write,
    Read,
}

/// Mostly small, so that numbers meet each other, but any number can come.
#[derive(Arbitrary, Debug, Clone, Copy)]
enum Number {
    Small(u8),
    Any(u64),
}

impl Number {
    const fn value(self) -> u64 {
        match self {
            Self::Small(number) => (number % 16) as u64,
            Self::Any(number) => number,
        }
    }
}

#[derive(Arbitrary, Debug)]
enum Say {
    PreVoteRequest(Place),
    PreVoteResponse(bool),
    VoteRequest(Place),
    VoteResponse(bool),
    Append { previous: Place, commit: Number, round: Number, records: Vec<Said> },
    Matched { round: Number, match_index: Number },
    Rejected { round: Number, previous_index: Number, hint: Place },
}

#[derive(Arbitrary, Debug)]
struct Place {
    term: Number,
    index: Number,
}

/// A record: where the one before it ends, unless it says otherwise.
#[derive(Arbitrary, Debug)]
struct Said {
    index: Option<Number>,
    term: Number,
    is_commands: bool,
    blocks: Vec<SaidBlock>,
}

/// A block: of a session, sequence and commands that may be any.
#[derive(Arbitrary, Debug)]
enum SaidBlock {
    Open,
    Close { session: u8 },
    Commands { session: u8, first_sequence: u8, acked_below: Number, commands: Vec<Vec<u8>> },
}

/// One run over the fuzzer's bytes.
pub fn run(bytes: &[u8]) {
    let mut host = Host::new(NodeId(1));
    let mut now = Micros::ZERO;
    let mut tokens = 0;
    let mut choices = Unstructured::new(bytes);
    while !choices.is_empty() {
        let Ok(action) = Action::arbitrary(&mut choices) else { break };
        tokens += 1;
        let token = Token(tokens);
        match action {
            Action::Peer { from, term, say } => {
                let message = Message { term: Term(term.value()), body: body(say) };
                host.step(now, Input::Peer { from: NodeId(u64::from(from % 5)), message });
            }
            Action::Propose(block) => {
                host.step(now, Input::Client { token, request: Request::Propose(block.into()) });
            }
            Action::Query(query) => {
                host.step(now, Input::Client { token, request: Request::Query(query.into()) });
            }
            Action::Watch { query, millis } => {
                let until = now + Micros::from_millis(millis.into());
                let request = Request::Watch { query: query.into(), until };
                host.step(now, Input::Client { token, request });
            }
            Action::Turn { millis } => {
                now = now + Micros::from_millis(millis.into());
                host.step(now, Input::Turn);
            }
            Action::Write => _ = host.write(now),
            Action::Read => _ = host.read(now, 0),
        }
    }
}

const STANDING: Standing =
    Standing { priority: 0, is_fit: true, is_complete: true, is_short: false };

fn body(say: Say) -> Body {
    match say {
        Say::PreVoteRequest(last) => Body::PreVoteRequest { last: place(&last) },
        Say::PreVoteResponse(granted) => Body::PreVoteResponse { granted },
        Say::VoteRequest(last) => Body::VoteRequest { last: place(&last), is_transfer: false },
        Say::VoteResponse(granted) => Body::VoteResponse { granted },
        Say::Append { previous, commit, round, records } => Body::Append {
            previous: place(&previous),
            commit: LogIndex(commit.value()),
            round: round.value(),
            records: sealed(previous.index.value(), &records),
        },
        Say::Matched { round, match_index } => Body::AppendResponse {
            standing: STANDING,
            round: round.value(),
            outcome: AppendOutcome::Matched { match_index: LogIndex(match_index.value()) },
        },
        Say::Rejected { round, previous_index, hint } => Body::AppendResponse {
            standing: STANDING,
            round: round.value(),
            outcome: AppendOutcome::Rejected {
                previous_index: LogIndex(previous_index.value()),
                hint: place(&hint),
            },
        },
    }
}

fn place(place: &Place) -> LogPosition {
    LogPosition { term: Term(place.term.value()), index: LogIndex(place.index.value()) }
}

fn sealed(mut index: u64, records: &[Said]) -> Vec<Record> {
    let seed = ChecksumSeed::of(CLUSTER, GROUP);
    let seal = |said: &Said| {
        index = said.index.map_or(index.wrapping_add(1), Number::value);
        let mut builder = RecordBuilder::default();
        if said.is_commands {
            for block in said.blocks.iter().take(4).map(block) {
                builder.payload_mut().extend_from_slice(&(block.len() as u32).to_le_bytes());
                builder.payload_mut().extend_from_slice(&block);
            }
        }
        let kind = if said.is_commands { EntryKind::Commands } else { EntryKind::Tick };
        let (term, hlc) = (Term(said.term.value()), Hlc(index.saturating_mul(1_000)));
        builder.seal(seed, GROUP, LogIndex(index), term, hlc, kind)
    };
    records.iter().take(8).map(seal).collect()
}

fn block(said: &SaidBlock) -> Vec<u8> {
    match said {
        SaidBlock::Open => BlockBuilder::open_session(),
        SaidBlock::Close { session } => BlockBuilder::close_session(session_of(*session)),
        SaidBlock::Commands { session, first_sequence, acked_below, commands } => {
            let mut block = BlockBuilder::commands(
                session_of(*session),
                Sequence(u64::from(*first_sequence).max(1)),
                Sequence(acked_below.value()),
            );
            block.push(commands.first().map_or(&[], Vec::as_slice));
            for command in commands.iter().skip(1).take(4) {
                block.push(command);
            }
            block.finish()
        }
    }
}

/// Sessions are numbered from 1; small numbers are those that were opened.
fn session_of(which: u8) -> SessionId {
    SessionId(u64::from(which % 8) + 1)
}
