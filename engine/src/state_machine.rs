//! The seam between consensus and what is replicated: a deterministic state machine.
//!
//! The engine orders commands, makes each take effect once per session, and hands them over here, on
//! every member, in the same order. Whoever implements [`StateMachine`] has a replicated one:
//!
//! ```
//! use engine::state_machine::{CommandContext, RestoreError, SnapshotReader, StateMachine};
//! use engine::state_machine::read_value;
//!
//! /// A sum; a command is one byte to add.
//! #[derive(Default)]
//! struct Sum(u64);
//!
//! impl StateMachine for Sum {
//!     type Reply = u64;
//!
//!     fn validate(&self, command: &[u8]) -> Result<(), u64> {
//!         if command.len() == 1 { Ok(()) } else { Err(self.0) }
//!     }
//!
//!     fn apply(&mut self, _: CommandContext, command: &[u8]) -> u64 {
//!         self.0 += command.first().map_or(0, |byte| u64::from(*byte));
//!         self.0
//!     }
//!
//!     fn query(&self, _: &[u8]) -> u64 {
//!         self.0
//!     }
//!
//!     fn snapshot(&self, out: &mut Vec<u8>) {
//!         out.push(1);
//!         engine::wire::encode_into(&self.0, out);
//!     }
//!
//!     fn restore(&mut self, bytes: &[u8]) -> Result<(), RestoreError> {
//!         let mut reader = SnapshotReader::new(bytes, 1)?;
//!         self.0 = reader.number(u64::MAX, "the sum")?;
//!         reader.finish()
//!     }
//!
//!     fn write_reply(reply: &u64, out: &mut Vec<u8>) {
//!         engine::wire::encode_into(reply, out);
//!     }
//!
//!     fn read_reply(bytes: &mut &[u8]) -> Result<u64, RestoreError> {
//!         read_value(bytes, "a sum")
//!     }
//! }
//!
//! let mut sum = Sum::default();
//! # use engine::{hlc::Hlc, ids::{LogIndex, Term}};
//! # let context =
//! #     CommandContext { term: Term(1), index: LogIndex(1), log_time: Hlc(1), offset: 0 };
//! assert_eq!(sum.apply(context, &[7]), 7);
//! let mut bytes = Vec::new();
//! sum.snapshot(&mut bytes);
//! let mut other = Sum(99);
//! other.restore(&bytes)?;
//! assert_eq!(other.digest(), sum.digest());
//! # Ok::<(), RestoreError>(())
//! ```
//!
//! # What must hold
//!
//! - **Nothing but the arguments counts.** No clock, no entropy, no environment, no address and no
//!   iteration order of hashes: two members that are told the same must be in the same state.
//! - **Everything is total.** A command has passed [`validate`](StateMachine::validate) on the leader
//!   that proposed it, perhaps in another version of the program. It is answered, and never panics.
//! - **A behaviour once released stays.** The log is applied again after a restart; what a command
//!   did must be what it does. New behaviour wants a new command, or a version in its first byte.
//!
//! # When what is called
//!
//! [`validate`](StateMachine::validate) on the leader, before a command enters the log. For every
//! committed entry, on every member: [`advance`](StateMachine::advance) with its stamp, then
//! [`apply`](StateMachine::apply) for each of its commands that is not a repetition: repetitions get
//! the remembered reply and do not come here. [`query`](StateMachine::query) where it was asked, after
//! the state was confirmed to be new enough. [`snapshot`](StateMachine::snapshot) between entries;
//! [`restore`](StateMachine::restore) on a machine that starts or was left far behind. All in one
//! thread, none at the same time.
//!
//! # What most machines can leave out
//!
//! - *Time*: `advance` and `next_deadline` are for machines in which something expires.
//! - *Bodies*: a reply may name parts of log entries instead of holding copies; `bodies` says which,
//!   and `take_body_changes` and `live_entries` of which entries it may still be said, so that the store
//!   keeps them. The engine reads the parts and sends them along. Whoever defines one defines all three.
//! - *Space*: `grows` tells which commands must wait while disks are full.
//! - *Watches*: `watch` and `take_woken` let a caller wait until something can be had.
//!
//! Next: `engine` for who calls this and when; `queue` for a large machine; `examples/` for two small
//! ones, a map and a list, driven by three members in one thread.

use crate::hlc::Hlc;
use crate::ids::{LogIndex, Position, Term};
use crate::wire;
use crate::wire::reader::Reader;
use alloc::vec::Vec;
use bincode::BorrowDecode;
use core::fmt::Debug;
use xxhash_rust::xxh3::xxh3_64;

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

/// Which entries began and ceased to be ones of which a body may be asked, since it was last told.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct BodyChanges {
    /// Entries that a later reply may name a body of from now on.
    pub begun: Vec<LogIndex>,
    /// Entries that no later reply names a body of any more, for good.
    pub ended: Vec<LogIndex>,
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

    /// Whether a command makes the state or the log that it needs grow for longer than the command is
    /// being answered. Such commands are refused while disks are short of space; what takes things away
    /// must not be among them. Looks at the command alone.
    fn grows(&self, command: &[u8]) -> bool {
        let _ = command;
        false
    }

    /// Applies a command. Total: a command that [`validate`](Self::validate) would refuse (another
    /// version of this code may have let it in) is answered with a reply that says so.
    fn apply(&mut self, context: CommandContext, command: &[u8]) -> Self::Reply;

    /// Log time has reached `log_time`: expires what is due. Called once for every entry, before
    /// its commands, with stamps that rise.
    fn advance(&mut self, log_time: Hlc) {
        let _ = log_time;
    }

    /// The log time at which [`advance`](Self::advance) would next change anything. The leader adds
    /// an entry by then even if nobody calls.
    fn next_deadline(&self) -> Option<Hlc> {
        None
    }

    /// Answers a read without changing anything. Total.
    fn query(&self, query: &[u8]) -> Self::Reply;

    /// The payload parts that must be sent along with `reply`, in order. Goes with
    /// [`live_entries`](Self::live_entries) and [`take_body_changes`](Self::take_body_changes).
    fn bodies(reply: &Self::Reply, bodies: &mut Vec<BodyRef>) {
        let _ = (reply, bodies);
    }

    /// Whether what `query` describes can be had now, or which key to wait for.
    fn watch(&self, query: &[u8]) -> Watched {
        let _ = query;
        Watched::Invalid
    }

    /// Keys that became ready since the last call, once for each thing that became available.
    fn take_woken(&mut self, keys: &mut Vec<u64>) {
        let _ = keys;
    }

    /// A checksum of the whole state: equal on two nodes that have applied the same entries. May be
    /// slow; tests and simulations compare it.
    fn digest(&self) -> u64 {
        let mut bytes = Vec::new();
        self.snapshot(&mut bytes);
        xxh3_64(&bytes)
    }

    /// Appends the whole state, its first byte telling the version of what follows. Called between
    /// entries. Equal states give equal bytes on every node, whatever their histories: no order of
    /// hashes, no slot numbers, nothing that a restart or a [`restore`](Self::restore) changes.
    fn snapshot(&self, out: &mut Vec<u8>);

    /// Begins a [`snapshot`](Self::snapshot) of the state as it is now, that is written in pieces while
    /// commands go on being applied. One that was begun before is given up.
    fn begin_snapshot(&mut self) {}

    /// Appends the next piece of the snapshot that was begun, about `bytes_max` bytes of it; true if it
    /// was the last. All pieces together are what `snapshot` would have written when it began. The first
    /// piece is asked for before anything changes, so a machine with a small state can write all of it
    /// then, which is what happens unless both methods are defined.
    fn snapshot_piece(&mut self, bytes_max: usize, out: &mut Vec<u8>) -> bool {
        let _ = bytes_max;
        self.snapshot(out);
        true
    }

    /// Replaces the whole state, so that all calls are answered as by the machine that wrote the
    /// snapshot. Nothing is woken by it. Total: any bytes give a state or an error, and no length is
    /// believed before the bytes are there. [`SnapshotReader`] does the reading.
    ///
    /// # Errors
    /// What is wrong with the bytes; the machine must not be used any more then.
    fn restore(&mut self, bytes: &[u8]) -> Result<(), RestoreError>;

    /// Appends the entries that began and ceased to be ones of which a later reply may name a body, since
    /// the last call; an entry that did both may be left out. Called now and then, between entries. (Bodies
    /// of replies already given are the engine's care.)
    fn take_body_changes(&mut self, changes: &mut BodyChanges) {
        let _ = changes;
    }

    /// Appends all entries of which a later reply may name a body, rising, each once. Called after a
    /// [`restore`](Self::restore), which leaves no change to be taken.
    fn live_entries(&self, entries: &mut Vec<LogIndex>) {
        let _ = entries;
    }

    /// Appends a reply that a session remembers. Its form belongs to the version that
    /// [`snapshot`](Self::snapshot) writes.
    fn write_reply(reply: &Self::Reply, out: &mut Vec<u8>);

    /// Reads a reply off the front of `bytes`. Total.
    ///
    /// # Errors
    /// What is wrong with the bytes, at which byte of them.
    fn read_reply(bytes: &mut &[u8]) -> Result<Self::Reply, RestoreError>;
}

/// Reads a value that [`wire::encode_into`] wrote off the front of `bytes`: what
/// [`StateMachine::read_reply`] does for a reply that has such an encoding.
///
/// # Errors
/// [`RestoreError::Damaged`] with `what` if there is none.
pub fn read_value<'a, T: BorrowDecode<'a, ()>>(
    bytes: &mut &'a [u8],
    what: &'static str,
) -> Result<T, RestoreError> {
    let decoded = wire::decode_prefix(what, bytes);
    let (value, used) = decoded.map_err(|_| RestoreError::Damaged { what, at: 0 })?;
    *bytes = &bytes[used..];
    Ok(value)
}

/// Reads a snapshot from front to back: what [`wire::encode_into`] writes. Total; each error says
/// what was read and where.
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

    /// A text: its length, then so many bytes of UTF-8.
    ///
    /// # Errors
    /// [`RestoreError::Damaged`].
    pub fn text(&mut self, what: &'static str) -> Result<&'a str, RestoreError> {
        self.rest.string().ok_or_else(|| self.damaged(what))
    }

    /// Any value that has an encoding.
    ///
    /// # Errors
    /// [`RestoreError::Damaged`].
    pub fn value<T: BorrowDecode<'a, ()>>(
        &mut self,
        what: &'static str,
    ) -> Result<T, RestoreError> {
        self.with(|bytes| read_value(bytes, what))
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
