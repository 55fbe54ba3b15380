//! `node bench`: what a node takes of memory, disk and time, measured on a process of its own.
//!
//! Owns a cluster of one in a directory of its own, so that what is measured is one node's. What a
//! running cluster does as its clients see it is measured by `posthaste bench`. Next: `backlog` for
//! memory and restarts, `space` for the disk.

mod backlog;
mod space;

use super::children::{Home, Nodes};
use super::{Failure, runtime};
use clap::Subcommand;
use client::{Client, NewMessage, Options};
use engine::ids::NodeId;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// Queue of these benchmarks.
const QUEUE: &str = "bench";
/// Messages that are sent with one call.
const BATCH: usize = 256;
/// Clients that send.
const SENDERS: u64 = 4;

/// Measures a node process that it starts itself.
#[derive(Debug, Subcommand)]
pub(super) enum Bench {
    /// Let messages wait: memory for each, disk for all, and how long a restart takes then
    Backlog(backlog::Backlog),
    /// Send, receive and acknowledge steadily: bytes on the disk against bytes that wait
    Space(space::Space),
}

/// What both are given.
#[derive(Debug, clap::Args)]
struct Shared {
    /// Where to keep the data directory; without it, the data is temporary and removed at the end.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Bytes in each body.
    #[arg(long, default_value_t = 1_024, value_parser = clap::value_parser!(u32).range(0..=524_288))]
    payload: u32,
    /// Print one JSON object a line.
    #[arg(long)]
    json: bool,
}

impl Shared {
    fn home(&self) -> Result<Home, Failure> {
        match &self.data {
            Some(data) => Ok(Home::Given(data.clone())),
            None => Home::temporary(),
        }
    }

    /// So many messages of this size fit into one call.
    fn batch(&self) -> usize {
        BATCH.min(4 * 1024 * 1024 / (self.payload as usize + 128)).max(1)
    }

    fn messages(&self, count: usize) -> Vec<NewMessage> {
        let body: Vec<u8> = (0..self.payload).map(|at| b'a' + (at % 26) as u8).collect();
        (0..count).map(|_| NewMessage::to(QUEUE).body(body.as_slice())).collect()
    }
}

impl Bench {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let runtime = runtime()?;
        // Tasks share counters without locks, all on this thread.
        let tasks = tokio::task::LocalSet::new();
        tasks.block_on(&runtime, async {
            match self {
                Self::Backlog(backlog) => backlog.run().await,
                Self::Space(space) => space.run().await,
            }
        })
    }
}

/// The one node that is measured.
fn only(nodes: &mut Nodes) -> &mut super::children::Member {
    nodes.member(NodeId(1))
}

async fn connect(nodes: &Nodes, timeout: Duration) -> Result<Client, Failure> {
    let options = Options {
        timeout,
        connect_timeout: timeout,
        cluster: Some(nodes.cluster),
        ..Options::default()
    };
    Ok(Client::connect(&nodes.addresses(), options).await?)
}

/// A value of the process's status, bytes: `VmRSS` is what it has now, `VmHWM` the most that it had.
fn memory_bytes(process: u32, key: &str) -> Result<u64, Failure> {
    let file = format!("/proc/{process}/status");
    let text = fs::read_to_string(&file).map_err(|error| format!("cannot read {file}: {error}"))?;
    let line = text.lines().find(|line| line.starts_with(key));
    let kilobytes = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
    Ok(kilobytes.ok_or_else(|| format!("{file} does not tell {key}"))? * 1024)
}

/// Bytes of the files in a data directory. A file that goes meanwhile counts no more.
fn disk_bytes(data: &Path) -> Result<u64, Failure> {
    let files =
        fs::read_dir(data).map_err(|error| format!("cannot list {}: {error}", data.display()))?;
    Ok(files.flatten().filter_map(|file| Some(file.metadata().ok()?.len())).sum())
}
