//! The command line: arguments in, lines out, and an exit code that scripts can rely on.
//!
//! Owns nothing of the protocol: every command is a few calls of the library. Next: `output` for how
//! things are printed, one module for each family of commands.

mod backup;
mod bench;
mod look;
mod members;
mod output;
mod queues;
mod receive;
mod send;
mod values;

use clap::{Args, Parser, Subcommand};
use client::{CallError, Client, ConnectError, Options, Rejected};
use output::Printer;
use std::io;
use std::process::ExitCode;
use std::time::Duration;
use values::parse_duration;

/// Deadline of a call, if none is given.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  rejected: nothing happened, and nothing will
  2  wrong usage
  3  outcome unknown: it may or may not have happened
  4  no node, or no leader, answered in time; nothing happened
  5  nothing found: an empty queue, an unknown id, a lease that is no longer held
  6  input could not be read or output could not be written; a backup is not whole";

/// Sends to, receives from and looks into a Posthaste cluster.
#[derive(Parser, Debug)]
#[command(name = "posthaste", version, after_help = EXIT_CODES)]
struct Cli {
    #[command(flatten)]
    shared: Shared,
    #[command(subcommand)]
    command: Command,
}

#[derive(Args, Debug)]
struct Shared {
    /// Nodes to ask, as host:port; one that answers is enough, the others are learned from it
    #[arg(
        long,
        env = "POSTHASTE_NODES",
        value_delimiter = ',',
        default_value = "127.0.0.1:7400",
        value_parser = values::parse_address,
        global = true
    )]
    nodes: Vec<String>,
    /// Deadline of each call, like 500ms, 10s or 1m; for `members`, of the whole wait [default: 10s;
    /// none for `members`]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, global = true)]
    timeout: Option<Duration>,
    /// Print one JSON object a line
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Send a message, or one for each line of standard input
    Send(send::SendArgs),
    /// Receive messages, oldest first
    Receive(receive::ReceiveArgs),
    /// Acknowledge received messages: they are removed
    Ack(receive::SettleArgs),
    /// Give received messages back, for others to receive
    Nack(receive::NackArgs),
    /// Hold received messages for longer
    Extend(receive::ExtendArgs),
    /// Show a message without receiving it
    Get(look::GetArgs),
    /// Show the messages of a queue without receiving them
    Browse(look::BrowseArgs),
    /// List the queues
    List(look::ListArgs),
    /// List the queues with their limits and what they dropped
    Queues(queues::QueuesArgs),
    /// Set what a queue keeps
    #[command(subcommand)]
    Queue(queues::QueueCommand),
    /// Delete messages by id
    Delete(look::DeleteArgs),
    /// Delete all messages of a queue
    Purge(look::QueueArg),
    /// Show the nodes and who leads
    Nodes(look::NodesArgs),
    /// Show how each node is, from its own knowledge
    Status(look::StatusArgs),
    /// Show the members and what each does, or change them
    Members(members::MembersArgs),
    /// Let another node lead
    Transfer(members::TransferArgs),
    /// Write everything in the cluster to one file, or check such a file
    Backup(backup::BackupArgs),
    /// Measure a running cluster
    #[command(subcommand)]
    Bench(bench::BenchCommand),
}

/// How a command can fail.
#[derive(Debug)]
enum Failure {
    Call(CallError),
    Connect(ConnectError),
    /// Nothing was there.
    Nothing(String),
    Usage(String),
    /// A backup that could not be made, or is not whole.
    Backup(String),
    Io(io::Error),
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        Self::Call(error)
    }
}

impl From<ConnectError> for Failure {
    fn from(error: ConnectError) -> Self {
        Self::Connect(error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl Failure {
    fn exit_code(&self) -> u8 {
        match self {
            Self::Call(CallError::Rejected(Rejected::Deadline { .. })) | Self::Connect(_) => 4,
            Self::Call(CallError::Rejected(Rejected::NoSuchNode { .. })) | Self::Nothing(_) => 5,
            Self::Call(CallError::Rejected(_)) => 1,
            Self::Call(CallError::Unknown(_)) => 3,
            Self::Usage(_) => 2,
            Self::Backup(_) | Self::Io(_) => 6,
        }
    }

    /// What happened, and what to do next if that is not obvious.
    fn describe(&self) -> (String, Option<&'static str>) {
        match self {
            Self::Call(error) => (error.to_string(), Some(error.remedy())),
            Self::Connect(error) => (error.to_string(), None),
            Self::Nothing(what) | Self::Usage(what) | Self::Backup(what) => (what.clone(), None),
            Self::Io(error) => (format!("input or output failed: {error}"), None),
        }
    }
}

type Outcome = Result<(), Failure>;

/// Parses the arguments, runs the command, tells how it went.
pub(crate) fn main() -> ExitCode {
    let cli = Cli::parse();
    let printer = Printer::new(cli.shared.json);
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return report(printer, &Failure::Io(error)),
    };
    match runtime.block_on(run(&cli.shared, cli.command, printer)) {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read our output has seen enough.
        Err(Failure::Io(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(failure) => report(printer, &failure),
    }
}

fn report(printer: Printer, failure: &Failure) -> ExitCode {
    let (what, remedy) = failure.describe();
    printer.error(&what, remedy, failure.exit_code());
    ExitCode::from(failure.exit_code())
}

async fn run(shared: &Shared, command: Command, printer: Printer) -> Outcome {
    let command = match command {
        Command::Bench(command) => return bench::run(shared, command, printer).await,
        Command::Backup(args) if args.verify => return backup::verify(&args, printer),
        other => other,
    };
    let client = shared.connect(Options::default()).await?;
    let outcome = match command {
        Command::Send(args) => send::send(&client, args, printer).await,
        Command::Receive(args) => receive::receive(&client, args, printer).await,
        Command::Ack(args) => receive::ack(&client, args, printer).await,
        Command::Nack(args) => receive::nack(&client, args, printer).await,
        Command::Extend(args) => receive::extend(&client, args, printer).await,
        Command::Get(args) => look::get(&client, args, printer).await,
        Command::Browse(args) => look::browse(&client, args, printer).await,
        Command::List(args) => look::list(&client, args, printer).await,
        Command::Queues(args) => queues::queues(&client, args, printer).await,
        Command::Queue(command) => queues::queue(&client, command, printer).await,
        Command::Delete(args) => look::delete(&client, args, printer).await,
        Command::Purge(args) => look::purge(&client, args, printer).await,
        Command::Nodes(args) => look::nodes(&client, args, printer).await,
        Command::Status(args) => look::status(&client, args, printer).await,
        Command::Members(args) => members::members(&client, args, shared.timeout, printer).await,
        Command::Transfer(args) => members::transfer(&client, args, printer).await,
        Command::Backup(args) => backup::backup(&client, &args, printer).await,
        Command::Bench(_) => Ok(()),
    };
    client.close(Duration::from_millis(500)).await;
    outcome
}

impl Shared {
    async fn connect(&self, options: Options) -> Result<Client, Failure> {
        let timeout = self.timeout.unwrap_or(CALL_TIMEOUT);
        let connect_timeout = options.connect_timeout.min(timeout);
        let options = Options { timeout, connect_timeout, ..options };
        Ok(Client::connect(&self.nodes, options).await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn shared_options_may_follow_the_command() {
        let line =
            ["posthaste", "send", "q", "hi", "--json", "--timeout", "2s", "--nodes", "a:1,b:2"];
        let cli = Cli::try_parse_from(line).expect("a valid command line");
        assert!(cli.shared.json);
        assert_eq!(cli.shared.timeout, Some(Duration::from_secs(2)));
        assert_eq!(cli.shared.nodes, ["a:1", "b:2"]);
    }

    #[test]
    fn every_command_parses() {
        let id = "8590d130-3b5b-4025-9360-d9fcb5734fc5";
        let lines = [
            "send q hi --header a=b --from me --id ID",
            "send q -",
            "receive q --max 3 --lease 5s --wait 1s --ack",
            "receive q --take --follow",
            "ack q 1.2.3 4.5.6",
            "nack q 1.2.3 --delay 5s",
            "extend q 1.2.3 --lease 5m",
            "get q ID",
            "browse q --max 5",
            "browse q --stale",
            "get q ID --here",
            "list",
            "list --stale",
            "members",
            "members add n4:7400 --learner",
            "members remove 3 --timeout 1m",
            "members replace 3 n4:7400",
            "members replace 3 4",
            "members promote 4 --stay-joint",
            "members demote 4",
            "members leave",
            "members cancel",
            "transfer",
            "transfer 2",
            "delete q ID",
            "purge q",
            "nodes --follow",
            "status 1 2",
            "backup all.posthaste --from 2",
            "backup --verify all.posthaste",
            "bench send --messages 5 --payload 6 --connections 7 --window 8 --queues 9",
            "bench receive --messages 5 --prefix b",
        ];
        for line in lines {
            let line = format!("posthaste {}", line.replace("ID", id));
            let parsed = Cli::try_parse_from(line.split(' '));
            assert!(parsed.is_ok(), "{line}: {}", parsed.expect_err("checked"));
        }
    }

    #[test]
    fn each_way_to_fail_has_its_exit_code() {
        let deadline = Rejected::Deadline { timeout: Duration::ZERO, trouble: String::new() };
        let codes = [
            Failure::Call(Rejected::Closed.into()),
            Failure::Usage(String::new()),
            Failure::Call(client::Unknown::SessionExpired.into()),
            Failure::Call(deadline.into()),
            Failure::Nothing(String::new()),
            Failure::Io(io::Error::other("x")),
        ];
        assert!(codes.iter().map(Failure::exit_code).eq(1..=6));
    }
}
