//! Posthaste's server: [`engine::replica::Replica`] driven by tokio.
//!
//! Owns sockets, the disk thread, timers and the configuration; decides nothing about messages, terms
//! or order, which is all the engine's. The same [`run`] serves real clients and, with feature `sim`,
//! runs inside the simulator: whatever touches the world comes in through [`Ports`].
//!
//! Read `driver` first: one loop that fits a screen. Then `listener` and `dialer` for where
//! connections come from, `connection` and `outbound` for how bytes move on them, `clients` and `peers` for
//! what is remembered about either side, and [`disk`] for the files.

#[cfg(all(feature = "sim", not(madsim)))]
compile_error!(
    "feature `sim` needs `--cfg madsim`, which .cargo/config.toml sets; build inside the workspace"
);

#[cfg(feature = "sim")]
extern crate madsim_tokio as tokio;

mod clients;
pub mod clock;
mod config;
mod connection;
mod dialer;
pub mod disk;
mod driver;
mod error;
mod listener;
mod log_limit;
mod opening;
mod outbound;
mod peers;
mod ports;
pub mod settings;
mod task;

pub use config::NodeConfig;
pub use driver::run;
pub use error::NodeError;
pub use ports::{ClockPort, DiskPort, Observer, Ports, Shutdown, Wall};
