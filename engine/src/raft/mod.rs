//! Raft.
mod message;
pub use message::{AppendOutcome, Body, LogPosition, Message};
