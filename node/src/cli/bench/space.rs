//! `node bench space`: as much is acknowledged as is sent, and what was is to leave the disk.
//!
//! Live are the bodies of the messages that wait, and nothing else. A part of the messages is kept for as
//! long as the run takes, spread over it, which is what keeps old segments from going as they are.

use super::super::children::Nodes;
use super::super::{Failure, STRONG};
use super::{QUEUE, Shared, connect, disk_bytes, only};
use client::{Client, ReceiveOptions};
use std::cell::Cell;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// How often the disk is looked at.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(500);
/// While more than this waits beyond the backlog, nothing is sent.
const AHEAD_MAX: u64 = 4_096;

/// Keeps a backlog waiting while messages are sent, received and acknowledged as fast as goes, and
/// compares the bytes on the disk with those that wait.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Space {
    #[command(flatten)]
    shared: Shared,
    /// How long, seconds.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(2..))]
    seconds: u64,
    /// Messages that always wait.
    #[arg(long, default_value_t = 100_000)]
    backlog: u64,
    /// Of so many messages one is put off and waits until the end.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(2..))]
    keep_one_in: u64,
}

/// What was measured, in the order in which it is printed.
#[derive(Default, serde::Serialize)]
struct Report {
    seconds: u64,
    payload: u32,
    acknowledged: u64,
    kept: u64,
    live_bytes: u64,
    disk_bytes: u64,
    disk_bytes_max: u64,
    /// The most that the disk had beyond twice the live bytes.
    beyond_twice_bytes_max: u64,
    /// The greatest ratio in the second half of the run.
    ratio_max: f64,
}

/// Messages, counted as they come and go.
#[derive(Default)]
struct Counts {
    waiting: Cell<u64>,
    acknowledged: Cell<u64>,
    kept: Cell<u64>,
}

impl Space {
    pub(super) async fn run(self) -> Result<ExitCode, Failure> {
        let mut nodes = Nodes::prepare(self.shared.home()?, 1)?;
        nodes.start_all()?;
        let (client, _) = nodes.wait_for_leader().await?;
        let counts = Rc::new(Counts::default());
        let end = Instant::now() + Duration::from_secs(self.seconds);
        let data = only(&mut nodes).data.clone();
        let (sender, receiver) =
            (connect(&nodes, client_patience()).await?, connect(&nodes, client_patience()).await?);
        let mut report =
            Report { seconds: self.seconds, payload: self.shared.payload, ..Report::default() };
        let sampling = self.sample(&data, &counts, end, &mut report);
        let (sent, received, sampled) = tokio::join!(
            self.send(sender, &counts, end),
            self.receive(receiver, &counts, end),
            sampling
        );
        sent.and(received).and(sampled)?;
        (report.acknowledged, report.kept) = (counts.acknowledged.get(), counts.kept.get());
        self.print(&report)?;
        client.close(Duration::from_secs(1)).await;
        nodes.stop_all();
        Ok(ExitCode::SUCCESS)
    }

    async fn send(&self, client: Client, counts: &Counts, end: Instant) -> Result<(), Failure> {
        let messages = self.shared.messages(self.shared.batch());
        while Instant::now() < end {
            if counts.waiting.get() > self.backlog + counts.kept.get() + AHEAD_MAX {
                tokio::time::sleep(Duration::from_millis(1)).await;
                continue;
            }
            client.send_many(messages.clone()).await?;
            counts.waiting.set(counts.waiting.get() + messages.len() as u64);
        }
        Ok(())
    }

    async fn receive(&self, client: Client, counts: &Counts, end: Instant) -> Result<(), Failure> {
        let delay = Duration::from_secs(self.seconds);
        while Instant::now() < end {
            if counts.waiting.get() < self.backlog + counts.kept.get() {
                tokio::time::sleep(Duration::from_millis(1)).await;
                continue;
            }
            let options = ReceiveOptions { max: self.shared.batch(), ..ReceiveOptions::default() };
            let deliveries = client.receive(QUEUE, options).await?;
            let (mut done, mut kept) = (Vec::new(), Vec::new());
            for (number, delivery) in (counts.acknowledged.get()..).zip(&deliveries) {
                let to =
                    if number.is_multiple_of(self.keep_one_in) { &mut kept } else { &mut done };
                to.push(delivery.handle);
            }
            if !kept.is_empty() {
                client.nack(QUEUE, &kept, delay).await?;
                counts.kept.set(counts.kept.get() + kept.len() as u64);
            }
            if !done.is_empty() {
                client.ack(QUEUE, &done).await?;
            }
            counts.waiting.set(counts.waiting.get() - done.len() as u64);
            counts.acknowledged.set(counts.acknowledged.get() + deliveries.len() as u64);
        }
        Ok(())
    }

    async fn sample(
        &self,
        data: &std::path::Path,
        counts: &Counts,
        end: Instant,
        report: &mut Report,
    ) -> Result<(), Failure> {
        let half = end - Duration::from_secs(self.seconds) / 2;
        while Instant::now() < end {
            tokio::time::sleep(SAMPLE_INTERVAL).await;
            let live = counts.waiting.get() * u64::from(self.shared.payload);
            let disk = disk_bytes(data)?;
            (report.live_bytes, report.disk_bytes) = (live, disk);
            report.disk_bytes_max = report.disk_bytes_max.max(disk);
            let beyond = disk.saturating_sub(2 * live);
            report.beyond_twice_bytes_max = report.beyond_twice_bytes_max.max(beyond);
            if Instant::now() > half && live > 0 {
                let ratio = (disk as f64 / live as f64 * 100.0).round() / 100.0;
                report.ratio_max = report.ratio_max.max(ratio);
            }
            if self.shared.json {
                let waiting = counts.waiting.get();
                anstream::println!(
                    "{}",
                    serde_json::json!({"waiting": waiting, "live_bytes": live, "disk_bytes": disk})
                );
            }
        }
        Ok(())
    }

    fn print(&self, report: &Report) -> Result<(), Failure> {
        if self.shared.json {
            anstream::println!("{}", serde_json::to_string(report)?);
            return Ok(());
        }
        let mib = |bytes: u64| bytes >> 20;
        let Report { acknowledged, kept, ratio_max, .. } = report;
        anstream::println!(
            "{STRONG}{acknowledged} messages in {} s{STRONG:#}, {kept} of them kept",
            report.seconds
        );
        anstream::println!(
            "  disk     {} MiB at most, for {} MiB that wait at the end",
            mib(report.disk_bytes_max),
            mib(report.live_bytes)
        );
        anstream::println!(
            "  ratio    {STRONG}{ratio_max}{STRONG:#} at most in the second half; {} MiB beyond twice the \
             live bytes at most",
            mib(report.beyond_twice_bytes_max)
        );
        Ok(())
    }
}

/// A node that cleans its disk is no reason to fail.
const fn client_patience() -> Duration {
    Duration::from_secs(60)
}
