//! Posthaste's simulator: clusters on faulty networks, disks and clocks, replayed from a seed.
//!
//! A [`scenario::Scenario`] describes a run; a world runs it and writes a [`history::History`];
//! [`oracle`]s judge it. Two worlds: [`lockstep`], engines in one plain event loop, for sweeps of
//! thousands of seeds; and, with feature `sim`, the madsim cluster that runs the real node and client.
//! Deterministic to the bit: no world reads a clock, entropy or the order of a hash map.

pub mod admin;
pub mod atlas;
pub mod bench;
pub mod check;
pub mod damage;
pub mod disk;
pub mod history;
pub mod lockstep;
#[cfg(feature = "sim")]
pub mod madsim;
pub mod oracle;
pub mod outcome;
pub mod scenario;
pub mod streams;
pub mod sweep;
pub mod trace;
pub mod workload;

#[cfg(all(feature = "sim", not(madsim)))]
compile_error!(
    "feature `sim` needs `--cfg madsim`, which .cargo/config.toml sets; build inside the workspace"
);
