//! The queue state machine: messages by reference, leases with fencing tokens, dedup by message id.
//!
//! Owns metadata only: a message's bytes stay in the log entry that brought them, and a queue holds
//! positions. Time is log time. Never reads a clock, never holds a body.
//! Next: `command` for what can be asked, `reply` for what is answered.

mod command;
mod reply;

pub use command::{Command, Held, Message, Query, ReceiveMode};
pub use reply::{Browsed, Delivered, Invalid, QueueInfo, Receipt, Reply, Sent};

use crate::hlc::Hlc;
use crate::limits::Limits;
use crate::state_machine::{BodyRef, CommandContext, StateMachine, Watched};
use alloc::vec::Vec;

/// The queues (skeleton).
#[derive(Debug)]
pub struct Queues {}

impl Queues {
    /// No queues.
    #[must_use]
    pub fn new(_limits: &Limits) -> Self {
        todo!()
    }

    /// Messages in all queues: available, leased and delayed.
    #[must_use]
    pub fn message_count(&self) -> u64 {
        todo!()
    }

    /// Queues that exist.
    #[must_use]
    pub fn queue_count(&self) -> u64 {
        todo!()
    }
}

impl StateMachine for Queues {
    type Reply = Reply;
    fn validate(&self, _command: &[u8]) -> Result<(), Reply> {
        todo!()
    }
    fn apply(&mut self, _context: CommandContext, _command: &[u8]) -> Reply {
        todo!()
    }
    fn advance(&mut self, _log_time: Hlc) {
        todo!()
    }
    fn next_deadline(&self) -> Option<Hlc> {
        todo!()
    }
    fn query(&self, _query: &[u8]) -> Reply {
        todo!()
    }
    fn bodies(_reply: &Reply, _bodies: &mut Vec<BodyRef>) {
        todo!()
    }
    fn watch(&self, _query: &[u8]) -> Watched {
        todo!()
    }
    fn take_woken(&mut self, _keys: &mut Vec<u64>) {
        todo!()
    }
    fn digest(&self) -> u64 {
        todo!()
    }
}

impl Command {
    /// Appends the encoding of this command: what goes into a block.
    pub fn encode_into(&self, _out: &mut Vec<u8>) {
        todo!()
    }
}

impl Query {
    /// The encoding of this query: what goes into a request.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        todo!()
    }
}

impl Message {
    /// The encoding of this message: what lies in the log and what a receiver gets.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        todo!()
    }

    /// Decodes what a receiver got.
    ///
    /// # Errors
    /// The bytes are not a message.
    pub fn decode(_bytes: &[u8]) -> Result<Self, crate::wire::WireError> {
        todo!()
    }
}
