//! The queue state machine: messages by reference, leases with fencing tokens, dedup by message id.
//!
//! Owns metadata only: a message's bytes stay in the log entry that brought them, and a queue holds
//! positions. Time is log time. Never reads a clock, never holds a body.
//! Next: `command` for what can be asked, `reply` for what is answered, `machine` for how.

mod codec;
mod command;
mod dedup;
mod invariants;
mod leases;
mod line;
mod machine;
mod messages;
mod remembered;
mod reply;
mod retention;
mod slab;
mod snapshot;
mod table;
#[cfg(test)]
mod tests;

pub use codec::{HeadersView, MessageView};
pub use command::{Command, Held, Message, Query, ReceiveMode, Retention};
pub use machine::Queues;
pub use reply::{Browsed, Delivered, Invalid, QueueInfo, Receipt, Reply, Sent};
