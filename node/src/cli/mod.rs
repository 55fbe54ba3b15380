//! The command line: what is asked, and how failures are told.
//!
//! Owns the names of the commands and flags. Next: `start` for a node, `demo` for a show of it all.

mod bench;
mod children;
mod cluster;
mod demo;
mod init;
mod inspect;
mod join;
mod recover;
mod restore;
mod start;

use anstyle::{AnsiColor, Style};
use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Posthaste's server: a replicated message system that never loses or repeats a message.
///
/// New here? `node demo` shows it work and survive a crash. `node cluster` gives you three nodes to
/// play with.
#[derive(Debug, Parser)]
#[command(name = "node", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make the data directory of a node that a new cluster begins with.
    Init(init::Init),
    /// Join a cluster that runs, and run the node.
    Join(Box<join::Join>),
    /// Run a node until it is told to stop.
    Start(Box<start::Start>),
    /// Show what is in a data directory, and check it; its node must be stopped.
    Inspect(inspect::Inspect),
    /// When a majority is lost for good: make a new cluster of one out of what a survivor has.
    RecoverFromLostQuorum(recover::Recover),
    /// Make a new cluster of one node out of a backup.
    Restore(restore::Restore),
    /// Run a whole cluster on this machine, to try things out.
    Cluster(cluster::Cluster),
    /// Measure what a node takes of memory, disk and time.
    #[command(subcommand)]
    Bench(bench::Bench),
    /// Show a cluster that survives the crash of its leader, and count every message.
    Demo(demo::Demo),
}

/// What goes wrong on the command line: a sentence for people, which says what to do.
pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Parses the command line and does what it says.
pub(crate) fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Init(init) => init.run(),
        Command::Join(join) => join.run(),
        Command::Start(start) => start.run(),
        Command::RecoverFromLostQuorum(recover) => recover.run(),
        Command::Inspect(inspect) => inspect.run(),
        Command::Bench(bench) => bench.run(),
        Command::Restore(restore) => restore.run(),
        Command::Cluster(cluster) => cluster.run(),
        Command::Demo(demo) => demo.run(),
    };
    match done {
        Ok(code) => code,
        Err(failure) => {
            let red = AnsiColor::Red.on_default().bold();
            anstream::eprintln!("{red}error:{red:#} {failure}");
            ExitCode::FAILURE
        }
    }
}

/// How what matters most is shown.
pub(crate) const STRONG: Style = Style::new().bold();

/// A runtime for one thread: the engine is one task, and its connections are seldom worth a core.
pub(crate) fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("cannot start the asynchronous runtime: {error}").into())
}

/// Completes at the first SIGINT or SIGTERM, and says which.
pub(crate) fn stop_signal() -> Result<impl Future<Output = &'static str> + Send, Failure> {
    use tokio::signal::unix::{SignalKind, signal};
    let failed = |error| Failure::from(format!("cannot watch for signals: {error}"));
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    Ok(async move {
        tokio::select! {
            biased;
            _ = interrupt.recv() => "interrupt",
            _ = terminate.recv() => "termination signal",
        }
    })
}
