//! The client against a cluster in this process that does what a test tells it to.
#![cfg(not(feature = "sim"))]
#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod command_line;
mod failover;
mod fake_cluster;
mod operations;
