//! `node bench backlog`: messages wait, and nobody receives them.
//!
//! Memory for each message is the growth of the process's resident memory from a tenth of the messages
//! on, divided by the rest of them; so what a node has for its caches is not counted as theirs. The
//! restart is one after `kill -9`.

use super::super::children::Nodes;
use super::super::{Failure, STRONG};
use super::{SENDERS, Shared, connect, disk_bytes, memory_bytes, only};
use indicatif::{ProgressBar, ProgressStyle};
use node::settings::Size;
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use std::cell::Cell;
use std::fs;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// A node that opens ten million messages may take this long.
const PATIENCE: Duration = Duration::from_secs(600);

/// Sends messages that nobody receives, measures memory and disk, kills the node and measures how long it
/// takes to serve again.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Backlog {
    #[command(flatten)]
    shared: Shared,
    /// How many messages. Ten million of 1 KiB take 11 GiB of disk and some minutes.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1_000..=100_000_000))]
    messages: u64,
    /// Address space that the node's process is limited to, such as 2GiB; it ends if that does not do.
    #[arg(long, value_name = "SIZE")]
    memory_max: Option<Size>,
}

/// What was measured, in the order in which it is printed.
#[derive(serde::Serialize)]
struct Report {
    messages: u64,
    payload: u32,
    send_s: f64,
    /// Resident when all were sent, the most that was, and for each message.
    resident_bytes: u64,
    resident_bytes_max: u64,
    bytes_per_message: f64,
    disk_bytes: u64,
    disk_bytes_per_message: f64,
    /// From the start of the process until its log was open, and until it answered a client.
    opened_ms: Option<u64>,
    serving_ms: u64,
    /// After the restart.
    restarted_resident_bytes: u64,
    restarted_bytes_per_message: f64,
    memory_max: Option<u64>,
}

impl Backlog {
    pub(super) async fn run(self) -> Result<ExitCode, Failure> {
        let mut nodes = Nodes::prepare(self.shared.home()?, 1)?;
        let idle_bytes = self.start(&mut nodes).await?;
        let (send_s, tenth_bytes) = self.fill(&mut nodes).await?;
        let process = only(&mut nodes).process_id().ok_or("the node has ended")?;
        let resident_bytes = memory_bytes(process, "VmRSS:")?;
        let resident_bytes_max = memory_bytes(process, "VmHWM:")?;
        let disk_bytes = disk_bytes(&only(&mut nodes).data)?;

        only(&mut nodes).kill();
        let began = Instant::now();
        self.start(&mut nodes).await?;
        let client = connect(&nodes, PATIENCE).await?;
        let waiting: u64 = client.list().await?.iter().map(|queue| queue.available).sum();
        let serving_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        if waiting < self.messages {
            return Err(format!(
                "{waiting} messages wait after the restart, {} were sent",
                self.messages
            )
            .into());
        }
        let process = only(&mut nodes).process_id().ok_or("the node has ended")?;
        let restarted_resident_bytes = memory_bytes(process, "VmRSS:")?;
        let of_each = |bytes: u64, count: u64| (bytes as f64 / count as f64 * 10.0).round() / 10.0;
        let report = Report {
            messages: self.messages,
            payload: self.shared.payload,
            send_s,
            resident_bytes,
            resident_bytes_max,
            bytes_per_message: of_each(
                resident_bytes.saturating_sub(tenth_bytes),
                self.messages - self.messages / 10,
            ),
            disk_bytes,
            disk_bytes_per_message: of_each(disk_bytes, self.messages),
            opened_ms: opened_ms(&mut nodes),
            serving_ms,
            restarted_resident_bytes,
            restarted_bytes_per_message: of_each(
                restarted_resident_bytes.saturating_sub(idle_bytes),
                self.messages,
            ),
            memory_max: self.memory_max.map(|size| size.0),
        };
        self.print(&report)?;
        nodes.stop_all();
        Ok(ExitCode::SUCCESS)
    }

    /// Starts the node, and says what it has of memory once it leads.
    async fn start(&self, nodes: &mut Nodes) -> Result<u64, Failure> {
        nodes.start_all()?;
        let process = only(nodes).process_id().ok_or("the node has ended")?;
        if let Some(size) = self.memory_max {
            let limit = Rlimit { current: Some(size.0), maximum: Some(size.0) };
            let pid = i32::try_from(process).ok().and_then(Pid::from_raw);
            prlimit(pid, Resource::As, limit)
                .map_err(|error| format!("cannot limit the node's memory: {error}"))?;
        }
        let deadline = Instant::now() + PATIENCE;
        loop {
            match nodes.wait_for_leader().await {
                Ok((client, _)) => {
                    client.close(Duration::from_secs(1)).await;
                    return memory_bytes(process, "VmRSS:");
                }
                // A long log is being opened.
                Err(_) if only(nodes).process_id().is_some() && Instant::now() < deadline => {}
                Err(failure) => return Err(failure),
            }
        }
    }

    /// Sends everything; says how long it took, seconds, and what the process had after a tenth.
    async fn fill(&self, nodes: &mut Nodes) -> Result<(f64, u64), Failure> {
        let process = only(nodes).process_id().ok_or("the node has ended")?;
        let style = "{bar:40} {human_pos}/{human_len} messages, {per_sec}, {eta} left";
        let style = ProgressStyle::with_template(style)?;
        let bar = ProgressBar::new(self.messages).with_style(style);
        let began = Instant::now();
        let left = Rc::new(Cell::new(self.messages));
        let tenth = Rc::new(Cell::new(None));
        let mut senders = tokio::task::JoinSet::new();
        for _ in 0..SENDERS {
            let client = connect(nodes, Duration::from_secs(60)).await?;
            let (left, tenth, bar) = (Rc::clone(&left), Rc::clone(&tenth), bar.clone());
            let (batch, tenth_left) = (self.shared.batch(), self.messages - self.messages / 10);
            let messages = self.shared.messages(batch);
            senders.spawn_local(async move {
                while left.get() > 0 {
                    let count = left.get().min(batch as u64);
                    left.set(left.get() - count);
                    let some = messages[..usize::try_from(count)?].to_vec();
                    client.send_many(some).await?;
                    bar.inc(count);
                    if left.get() <= tenth_left && tenth.get().is_none() {
                        tenth.set(Some(memory_bytes(process, "VmRSS:")?));
                    }
                }
                client.close(Duration::from_secs(1)).await;
                Ok::<(), Failure>(())
            });
        }
        while let Some(ended) = senders.join_next().await {
            if let Err(error) = ended? {
                let words = nodes.ended().unwrap_or_default();
                return Err(format!("{error}; {words}").into());
            }
        }
        bar.finish_and_clear();
        let seconds = (began.elapsed().as_secs_f64() * 10.0).round() / 10.0;
        Ok((seconds, tenth.get().unwrap_or_default()))
    }

    fn print(&self, report: &Report) -> Result<(), Failure> {
        if self.shared.json {
            anstream::println!("{}", serde_json::to_string(report)?);
            return Ok(());
        }
        let mib = |bytes: u64| bytes >> 20;
        let Report { messages, payload, send_s, bytes_per_message, .. } = report;
        anstream::println!(
            "{STRONG}{messages} messages of {payload} bytes wait{STRONG:#}, sent in {send_s} s"
        );
        anstream::println!(
            "  memory   {STRONG}{bytes_per_message} bytes a message{STRONG:#}; {} MiB in all, {} MiB at most",
            mib(report.resident_bytes),
            mib(report.resident_bytes_max)
        );
        anstream::println!(
            "  disk     {} MiB, {} bytes a message",
            mib(report.disk_bytes),
            report.disk_bytes_per_message
        );
        let opened =
            report.opened_ms.map_or_else(String::new, |ms| format!("log open after {ms} ms, "));
        anstream::println!(
            "  restart  {opened}{STRONG}serving after {} ms{STRONG:#}; {} MiB in all, {} bytes a message",
            report.serving_ms,
            mib(report.restarted_resident_bytes),
            report.restarted_bytes_per_message
        );
        Ok(())
    }
}

/// What the node's log says of its last opening.
fn opened_ms(nodes: &mut Nodes) -> Option<u64> {
    let log = fs::read_to_string(only(nodes).log()).ok()?;
    let (_, after) = log.rsplit_once("opened_in_ms=")?;
    after.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}
