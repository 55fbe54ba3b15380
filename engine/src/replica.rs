//! A replica: the engine and its store behind one door, which is all that a driver has to know.
//! (Skeleton: signatures are final, bodies follow.)

use crate::api::{Request, Response, Token};
use crate::engine::{Config, RoleName, Status};
use crate::hlc::Hlc;
use crate::ids::{LogIndex, NodeId, Term};
use crate::raft::Message;
use crate::record::Record;
use crate::state_machine::StateMachine;
use crate::storage::disk::{Disk, Job, JobDone};
use crate::time::{Micros, Now};
use alloc::vec::Vec;
use core::marker::PhantomData;

/// What can happen to a replica.
#[derive(Clone, PartialEq, Debug)]
pub enum Input {
    /// A message came from another member.
    Peer {
        /// Who sent it.
        from: NodeId,
        /// What it says.
        message: Message,
    },
    /// A client asks for something.
    Client {
        /// The caller's name for it.
        token: Token,
        /// What.
        request: Request,
    },
    /// The client is gone: the answer to this token is wanted no more (it may still take effect).
    Forget {
        /// Which.
        token: Token,
    },
    /// A disk job is done.
    Disk(JobDone),
    /// The driver's loop has handed in everything that was waiting: seal the batch, look at the
    /// deadlines. Must follow the other inputs of a turn, and must come when a deadline has passed.
    Turn,
}

/// What a replica wants done. Each is safe to perform at once, in any order among different kinds;
/// jobs of the write lane in the order given.
#[derive(Clone, PartialEq, Debug)]
pub enum Effect<R> {
    /// Perform this and report it.
    Disk(Job),
    /// Send this; it may be lost.
    Send {
        /// To whom.
        to: NodeId,
        /// What.
        message: Message,
    },
    /// Tell the client.
    Respond {
        /// The token that came with the request.
        token: Token,
        /// How it ended.
        response: Response<R>,
    },
    /// Something that people and oracles want to know. Needs no action, but for [`Event::Fatal`].
    Event(Event),
}

/// Something worth telling.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// The role, the term or the known leader changed.
    Role {
        /// Now.
        role: RoleName,
        /// Now.
        term: Term,
        /// Now.
        leader: Option<NodeId>,
    },
    /// An entry was applied.
    Applied {
        /// Which.
        index: LogIndex,
        /// Its term.
        term: Term,
        /// Its stamp.
        hlc: Hlc,
    },
    /// Entries were cut off the log because the leader of a later term has others.
    Truncated {
        /// The first that went.
        from: LogIndex,
    },
    /// The disk failed. The replica does nothing more; the process must end (fsync is never retried).
    Fatal {
        /// Why.
        reason: alloc::string::String,
    },
}

/// Why a replica cannot be opened.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum OpenError {
    /// See [`crate::storage`].
    #[error("{0}")]
    Storage(alloc::string::String),
}

/// The engine and its store.
#[derive(Debug)]
pub struct Replica<S: StateMachine> {
    machine: S,
    _config: PhantomData<Config>,
}

impl<S: StateMachine> Replica<S> {
    /// Opens a data directory that was initialised for `config`'s cluster and node, reading its log.
    ///
    /// # Errors
    /// The directory is missing, foreign or damaged; the error says what to do.
    pub fn open(
        _config: Config,
        _machine: S,
        _now: Now,
        _disk: &mut impl Disk,
    ) -> Result<Self, OpenError> {
        todo!()
    }

    /// Takes one input and appends what follows from it to `effects`. Never panics on anything that
    /// comes from outside.
    pub fn step(&mut self, _now: Now, _input: Input, _effects: &mut Vec<Effect<S::Reply>>) {
        todo!()
    }

    /// When [`Input::Turn`] must come at the latest, on the monotonic clock.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Micros> {
        todo!()
    }

    /// How it is.
    #[must_use]
    pub fn status(&self) -> Status {
        todo!()
    }

    /// The state machine, to look at.
    #[must_use]
    pub fn machine(&self) -> &S {
        &self.machine
    }

    /// Segment files and the bytes in them.
    #[must_use]
    pub fn store_size(&self) -> (u64, u64) {
        todo!()
    }

    /// The term of an entry, if it is in the log.
    #[must_use]
    pub fn term_at(&self, _index: LogIndex) -> Option<Term> {
        todo!()
    }

    /// An entry that is still in memory.
    #[must_use]
    pub fn cached_record(&self, _index: LogIndex) -> Option<&Record> {
        todo!()
    }

    /// Checks every named invariant; tests and simulations call it after each step.
    ///
    /// # Panics
    /// With the name of the invariant that does not hold.
    pub fn check_invariants(&self) {
        todo!()
    }
}
