//! Posthaste's engine: replication, the log store and the queues as one deterministic state machine.
//!
//! Sans-IO: no clock, no entropy, no socket, no thread and no file. Time and seed are passed in, and
//! whatever has to happen in the world comes out as an effect. Start with [`manual`].
#![no_std]
#![doc(test(attr(deny(warnings))))]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod api;
pub mod backup;
pub mod block;
pub mod engine;
pub mod hlc;
pub mod ids;
pub mod limits;
pub mod manual;
pub mod queue;
pub mod raft;
pub mod record;
pub mod replica;
pub mod session;
pub mod state_machine;
pub mod storage;
pub mod time;
pub mod wire;

/// The examples on the first page compile.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
#[doc(test(attr(allow(dead_code))))]
struct Readme;
