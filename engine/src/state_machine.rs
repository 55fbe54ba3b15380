//! The seam between consensus and what is replicated: a deterministic state machine.
//!
//! The engine orders commands, makes each take effect once per session, and hands them over here.
//! `queue` is the first implementation. Next: `engine` for who calls this and when.

use crate::hlc::Hlc;
use crate::ids::{LogIndex, Position, Term};
use alloc::vec::Vec;
use core::fmt::Debug;

/// Where and when in the log a command stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CommandContext {
    /// Term of the entry.
    pub term: Term,
    /// Index of the entry.
    pub index: LogIndex,
    /// The entry's stamp: the only time that a state machine may read.
    pub log_time: Hlc,
    /// Bytes from the start of the entry's payload to the start of the command.
    pub offset: u32,
}

/// A part of an entry's payload that a reply refers to instead of holding a copy.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct BodyRef {
    /// Entry and offset within its payload.
    pub position: Position,
    /// Bytes.
    pub len: u32,
}

/// What a watch finds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Watched {
    /// What is watched for is already there.
    Ready,
    /// Not yet: wake the watcher when [`StateMachine::take_woken`] yields this key.
    Wait(u64),
    /// The watch is malformed; it is answered as ready, so that the caller's next call tells why.
    Invalid,
}

/// A deterministic state machine: equal sequences of calls give equal states and replies on every
/// node. It may read nothing but its arguments: no clock, no entropy, no iteration order of hashes.
pub trait StateMachine {
    /// What a command or a query answers. Remembered per session, so it should be small and refer
    /// to bodies instead of holding them.
    type Reply: Clone + PartialEq + Debug;

    /// Checks a command before it may enter the log; what it refuses is never proposed.
    ///
    /// # Errors
    /// The reply that tells the caller what is wrong.
    fn validate(&self, command: &[u8]) -> Result<(), Self::Reply>;

    /// Applies a command. Total: a command that [`validate`](Self::validate) would refuse (another
    /// version of this code may have let it in) is answered with a reply that says so.
    fn apply(&mut self, context: CommandContext, command: &[u8]) -> Self::Reply;

    /// Log time has reached `log_time`: expires what is due. Called once for every entry, before
    /// its commands, with stamps that rise.
    fn advance(&mut self, log_time: Hlc);

    /// The log time at which [`advance`](Self::advance) would next change anything. The leader adds
    /// an entry by then even if nobody calls.
    fn next_deadline(&self) -> Option<Hlc>;

    /// Answers a read without changing anything. Total.
    fn query(&self, query: &[u8]) -> Self::Reply;

    /// The payload parts that must be sent along with `reply`, in order.
    fn bodies(reply: &Self::Reply, bodies: &mut Vec<BodyRef>);

    /// Whether what `query` describes can be had now, or which key to wait for.
    fn watch(&self, query: &[u8]) -> Watched;

    /// Keys that became ready since the last call, once for each thing that became available.
    fn take_woken(&mut self, keys: &mut Vec<u64>);

    /// A checksum of the whole state: equal on two nodes that have applied the same entries. May be
    /// slow; tests and simulations compare it.
    fn digest(&self) -> u64;
}
