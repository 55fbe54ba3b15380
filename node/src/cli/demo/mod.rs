//! `node demo`: a cluster survives the crash of its leader, and every message is counted.
//!
//! Real processes, real files, real fsyncs; nothing is simulated and nothing is asked of the cluster
//! that a client cannot ask. Next: `tally` for the counting, `traffic` for the sending.

mod tally;
mod traffic;

use super::children::{CHECK_INTERVAL, Home, Nodes};
use super::{Failure, STRONG, runtime, stop_signal};
use client::Client;
use engine::ids::NodeId;
use indicatif::{ProgressBar, ProgressStyle};
use std::cell::RefCell;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tally::Tally;
use traffic::Traffic;

/// How long a restarted node may take to have what the others have.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(10);

/// Starts a cluster of real processes, sends messages, kills the leader in the middle with kill -9,
/// goes on, receives everything and counts: nothing lost, nothing twice, nothing out of order.
#[derive(Debug, clap::Args)]
pub(super) struct Demo {
    /// How many messages to send.
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u64).range(10..=10_000_000))]
    messages: u64,
    /// How many nodes, 3 to 7.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(3..=7))]
    nodes: u64,
    /// Keep the data directories.
    #[arg(long)]
    keep: bool,
    /// End with one line of JSON on standard output, and tell the story on standard error.
    #[arg(long)]
    json: bool,
}

/// Tells the story: on a terminal around a progress bar.
struct Teller {
    began: Instant,
    bar: ProgressBar,
    on_stderr: bool,
}

impl Teller {
    fn tell(&self, line: std::fmt::Arguments<'_>) {
        self.bar.suspend(|| {
            if self.on_stderr {
                anstream::eprintln!("{line}");
            } else {
                anstream::println!("{line}");
            }
        });
    }

    /// A line with the time since the beginning.
    fn at(&self, line: std::fmt::Arguments<'_>) {
        self.tell(format_args!("{:>6.2} s  {line}", self.began.elapsed().as_secs_f64()));
    }
}

impl Demo {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let style = ProgressStyle::with_template("          {wide_bar} {pos}/{len} acknowledged")
            .map_err(|error| format!("cannot draw a progress bar: {error}"))?;
        let bar = ProgressBar::new(self.messages).with_style(style);
        let teller = Teller { began: Instant::now(), bar, on_stderr: self.json };
        let mut nodes = Nodes::prepare(Home::temporary()?, self.nodes)?;
        let runtime = runtime()?;
        // Senders share the tally without locks, all on this thread.
        let tasks = tokio::task::LocalSet::new();
        let told = tasks.block_on(&runtime, async {
            let stop = stop_signal()?;
            tokio::select! {
                biased;
                signal = stop => Err(format!("stopped by {signal} before the end").into()),
                told = self.tell_story(&teller, &mut nodes) => told,
            }
        });
        teller.bar.finish_and_clear();
        nodes.stop_all();
        if self.keep {
            let members = nodes.members;
            let home = nodes.home.keep();
            teller.tell(format_args!("\nThe data is kept in {}. To go on:", home.display()));
            for member in &members {
                teller.tell(format_args!("  node start --data {}", member.data.display()));
            }
        }
        let tally = told?;
        Ok(self.conclude(&teller, &tally))
    }

    async fn tell_story(&self, teller: &Teller, nodes: &mut Nodes) -> Result<Tally, Failure> {
        nodes.start_all()?;
        for member in &nodes.members {
            let (node, address) = (member.node, &member.address);
            let process = member.process_id().unwrap_or_default();
            teller.at(format_args!("node {node} starts: process {process} at {address}"));
        }
        let (client, leader) = nodes.wait_for_leader().await?;
        let term = client.nodes().term;
        teller.at(format_args!("node {leader} is elected leader, in term {term}"));

        let tally = Rc::new(RefCell::new(Tally::default()));
        let messages = self.messages;
        teller.at(format_args!("sending {messages} messages, some of them more than once"));
        let mut traffic = Traffic::start(&client, nodes, messages, &tally, &teller.bar).await?;
        traffic.acknowledged(messages / 2, nodes).await?;

        nodes.member(leader).kill();
        tally.borrow_mut().on_kill();
        teller.at(format_args!(
            "{STRONG}kill -9 of node {leader}, the leader{STRONG:#}; the senders go on"
        ));
        let before = tally.borrow().acknowledged();
        traffic.acknowledged(before + 1, nodes).await?;
        let view = client.nodes();
        let (new_leader, term) = (view.leader.unwrap_or_default(), view.term);
        teller.at(format_args!("node {new_leader} leads, in term {term}; sends are stored again"));
        nodes.member(leader).start()?;
        teller.at(format_args!("node {leader} starts again with what is on its disk"));

        let repeated = traffic.finish(nodes).await?;
        teller.bar.finish_and_clear();
        let recognised = tally.borrow().recognised;
        teller.at(format_args!(
            "all are acknowledged; {recognised} of {repeated} repeated sends recognised by their ids"
        ));
        let index = wait_until_caught_up(&client, nodes, leader).await?;
        teller.at(format_args!("node {leader} has caught up to entry {index}"));
        traffic::receive_all(&client, &tally).await?;
        teller.at(format_args!("everything is received and acknowledged; the queue is empty"));
        drop(traffic);
        let tally = Rc::try_unwrap(tally).map_err(|_| "a sender is still running")?;
        Ok(tally.into_inner())
    }

    fn conclude(&self, teller: &Teller, tally: &Tally) -> ExitCode {
        let (sent, acked, received) = (tally.sent, tally.acknowledged(), tally.received());
        let (lost, duplicated, out_of_order) = (tally.lost(), tally.duplicated, tally.out_of_order);
        let failover_ms = tally.fail_over().as_millis();
        let elapsed_s = teller.began.elapsed().as_secs_f64();
        teller.tell(format_args!(
            "\n{STRONG}sent {sent}, acknowledged {acked}, received {received}, lost {lost}, \
             duplicated {duplicated}, out of order {out_of_order}, fail-over {failover_ms} ms{STRONG:#}"
        ));
        if tally.unrecognised > 0 {
            let unrecognised = tally.unrecognised;
            teller.tell(format_args!("{unrecognised} repeated sends got another receipt"));
        }
        teller.tell(format_args!(
            "\nNext:\n  node cluster            three nodes to play with, and the commands to try\n  \
             node demo --nodes 5     the same with five\n  node init --help        a cluster of your own"
        ));
        if self.json {
            let summary = serde_json::json!({
                "nodes": self.nodes,
                "sent": sent,
                "acked": acked,
                "received": received,
                "lost": lost,
                "duplicated": duplicated,
                "out_of_order": out_of_order,
                "failover_ms": u64::try_from(failover_ms).unwrap_or(u64::MAX),
                "elapsed_s": (elapsed_s * 1e3).round() / 1e3,
            });
            println!("{summary}");
        }
        if tally.is_flawless() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

/// Waits until `node` has applied what the leader has committed, and says up to where.
async fn wait_until_caught_up(
    client: &Client,
    nodes: &mut Nodes,
    node: NodeId,
) -> Result<u64, Failure> {
    let deadline = Instant::now() + CATCH_UP_TIMEOUT;
    let client = client.with_timeout(Duration::from_secs(1));
    loop {
        if let Some(words) = nodes.ended() {
            return Err(words.into());
        }
        if let Some(leader) = client.nodes().leader
            && let (Ok(ahead), Ok(behind)) =
                tokio::join!(client.status(leader), client.status(node))
            && behind.applied_index >= ahead.commit_index
        {
            return Ok(behind.applied_index.0);
        }
        if Instant::now() > deadline {
            let seconds = CATCH_UP_TIMEOUT.as_secs();
            return Err(format!("node {node} has not caught up within {seconds} s").into());
        }
        tokio::time::sleep(CHECK_INTERVAL).await;
    }
}
