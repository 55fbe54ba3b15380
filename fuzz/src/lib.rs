//! Fuzz targets: each module takes the fuzzer's bytes, makes a run of them and asserts its claims.
//!
//! The binaries in `fuzz_targets/` only hand over to `run` of the module of the same name, so that
//! the same code can be fed a saved input in a debugger. `fuzz/smoke` builds and runs them all; see
//! `docs/testing.md`.
#![forbid(unsafe_code)]

pub mod cluster;
pub mod frames;
mod host;
pub mod hostile;
pub mod messages;
pub mod recovery;
pub mod restore;
