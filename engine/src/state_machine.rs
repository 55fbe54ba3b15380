//! The seam between consensus and what is replicated: a deterministic state machine.
//!
//! The engine orders commands, makes each take effect once per session, and hands them over here.
//! `queue` is the first implementation. Next: `engine` for who calls this and when.

use crate::hlc::Hlc;
use crate::ids::{LogIndex, Position, Term};
use crate::wire::reader::Reader;
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

/// Why a snapshot cannot be restored.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RestoreError {
    /// A newer build wrote it.
    #[error("the state's snapshot has version {version}, unknown to this build; upgrade this node")]
    Version {
        /// Its first byte.
        version: u8,
    },
    /// The bytes are no snapshot of any state.
    #[error("the state's snapshot is damaged at byte {at}: {what}; use another copy of it")]
    Damaged {
        /// What is wrong there.
        what: &'static str,
        /// Bytes from the start to where reading stopped.
        at: usize,
    },
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

    /// Appends the whole state, its first byte telling the version of what follows. Called between
    /// entries. Equal states give equal bytes on every node, whatever their histories: no order of
    /// hashes, no slot numbers, nothing that a restart or a [`restore`](Self::restore) changes.
    fn snapshot(&self, out: &mut Vec<u8>);

    /// Replaces the whole state, so that all calls are answered as by the machine that wrote the
    /// snapshot. Nothing is woken by it. Total: any bytes give a state or an error, and no length is
    /// believed before the bytes are there. [`SnapshotReader`] does the reading.
    ///
    /// # Errors
    /// What is wrong with the bytes; the machine must not be used any more then.
    fn restore(&mut self, bytes: &[u8]) -> Result<(), RestoreError>;

    /// The oldest entry of which a later reply may name a body, if there is one: the log keeps it
    /// and what follows. (Bodies of replies already given are the engine's care.)
    fn oldest_entry(&self) -> Option<LogIndex>;

    /// Appends a reply that a session remembers. Its form belongs to the version that
    /// [`snapshot`](Self::snapshot) writes.
    fn write_reply(reply: &Self::Reply, out: &mut Vec<u8>);

    /// Reads a reply off the front of `bytes`. Total.
    ///
    /// # Errors
    /// What is wrong with the bytes, at which byte of them.
    fn read_reply(bytes: &mut &[u8]) -> Result<Self::Reply, RestoreError>;
}

/// Reads a snapshot from front to back: the numbers, texts and arrays that
/// [`wire::encode_into`](crate::wire::encode_into) writes. Total; each error says what was read and
/// where.
#[derive(Clone, Copy, Debug)]
pub struct SnapshotReader<'a> {
    rest: Reader<'a>,
    len: usize,
}

impl<'a> SnapshotReader<'a> {
    /// Begins with the first byte, which must be `version`.
    ///
    /// # Errors
    /// [`RestoreError::Version`], or [`RestoreError::Damaged`] if there is none.
    pub fn new(bytes: &'a [u8], version: u8) -> Result<Self, RestoreError> {
        let mut reader = Self { rest: Reader(bytes), len: bytes.len() };
        match reader.array("its version")? {
            [found] if found == version => Ok(reader),
            [version] => Err(RestoreError::Version { version }),
        }
    }

    /// The error that something is wrong here.
    #[must_use]
    pub fn damaged(&self, what: &'static str) -> RestoreError {
        RestoreError::Damaged { what, at: self.len - self.rest.0.len() }
    }

    /// Checks what the bytes said.
    ///
    /// # Errors
    /// [`RestoreError::Damaged`] if the condition does not hold.
    pub fn check(&self, holds: bool, what: &'static str) -> Result<(), RestoreError> {
        if holds { Ok(()) } else { Err(self.damaged(what)) }
    }

    /// A number from 0 to `max`.
    ///
    /// # Errors
    /// [`RestoreError::Damaged`].
    pub fn number(&mut self, max: u64, what: &'static str) -> Result<u64, RestoreError> {
        let number = self.rest.number().filter(|number| *number <= max);
        number.ok_or_else(|| self.damaged(what))
    }

    /// As many bytes as are asked for.
    ///
    /// # Errors
    /// [`RestoreError::Damaged`] if there are fewer.
    pub fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], RestoreError> {
        self.rest.array().ok_or_else(|| self.damaged(what))
    }

    /// A text or a string of bytes: its length, then so many bytes of UTF-8.
    ///
    /// # Errors
    /// [`RestoreError::Damaged`].
    pub fn text(&mut self, what: &'static str) -> Result<&'a str, RestoreError> {
        self.rest.string().ok_or_else(|| self.damaged(what))
    }

    /// Whatever `read` takes off the front of the rest.
    ///
    /// # Errors
    /// The error of `read`, told as of the whole snapshot.
    pub fn with<T>(
        &mut self,
        read: impl FnOnce(&mut &'a [u8]) -> Result<T, RestoreError>,
    ) -> Result<T, RestoreError> {
        let start = self.len - self.rest.0.len();
        read(&mut self.rest.0).map_err(|error| match error {
            RestoreError::Damaged { what, at } => RestoreError::Damaged { what, at: start + at },
            RestoreError::Version { version } => RestoreError::Version { version },
        })
    }

    /// Ends with the last byte.
    ///
    /// # Errors
    /// [`RestoreError::Damaged`] if bytes are left.
    pub fn finish(self) -> Result<(), RestoreError> {
        self.check(self.rest.is_empty(), "bytes are left at its end")
    }
}
