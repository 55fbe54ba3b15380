//! `posthaste bench`: how fast a running cluster is, as one of its clients sees it.
//!
//! Every message is acknowledged by a quorum, and latencies are those of single messages from the
//! call to the answer, waiting included.

use super::output::Printer;
use super::{Failure, Outcome, Shared};
use clap::{Args, Subcommand};
use client::{CallError, Client, Handle, NewMessage, Options, Pending, ReceiveOptions};
use engine::limits;
use engine::queue::Sent;
use hdrhistogram::Histogram;
use indicatif::ProgressBar;
use serde::Serialize;
use std::collections::VecDeque;
use std::time::Duration;
use tokio::time::Instant;

/// Latencies are counted up to this; longer ones count as this.
const LATENCY_MICROS_MAX: u64 = 600_000_000;
/// The bar moves once for so many messages.
const PROGRESS_STEP: usize = 1_024;

#[derive(Subcommand, Debug)]
pub(super) enum BenchCommand {
    /// Send messages
    Send(SendBench),
    /// Receive and acknowledge messages that are there already, a window at a time
    Receive(ReceiveBench),
}

#[derive(Args, Debug)]
pub(super) struct SendBench {
    #[command(flatten)]
    load: Load,
    /// Bytes in each body
    #[arg(long, default_value_t = 256)]
    payload: usize,
}

#[derive(Args, Debug)]
pub(super) struct ReceiveBench {
    #[command(flatten)]
    load: Load,
}

#[derive(Args, Clone, Debug)]
struct Load {
    /// Messages in all
    #[arg(long, default_value_t = 100_000)]
    messages: usize,
    /// Connections, each with a session of its own
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1_024))]
    connections: u16,
    /// Messages that each connection has under way at once
    #[arg(long, default_value_t = 1_024, value_parser = clap::value_parser!(u16).range(1..=4_096))]
    window: u16,
    /// Queues, over which the messages are spread
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=4_096))]
    queues: u16,
    /// First part of the queues' names
    #[arg(long, default_value = "bench")]
    prefix: String,
}

impl Load {
    fn queue(&self, number: usize) -> String {
        format!("{}-{}", self.prefix, number % usize::from(self.queues))
    }

    /// The share of connection `at`.
    fn share(&self, at: usize) -> usize {
        let connections = usize::from(self.connections);
        self.messages / connections + usize::from(at < self.messages % connections)
    }

    async fn connect(&self, shared: &Shared) -> Result<Vec<Client>, Failure> {
        let mut clients = Vec::new();
        for _ in 0..self.connections {
            let options = Options { window: usize::from(self.window), ..Options::default() };
            clients.push(shared.connect(options).await?);
        }
        Ok(clients)
    }
}

/// What was measured, in the order in which it is printed.
#[derive(Serialize, Debug)]
struct Report {
    op: &'static str,
    payload: usize,
    connections: u16,
    window: u16,
    messages: u64,
    msgs_per_s: u64,
    p50_us: u64,
    p99_us: u64,
    p999_us: u64,
    errors: u64,
}

const COLUMNS: [&str; 10] = [
    "op",
    "payload",
    "connections",
    "window",
    "messages",
    "msgs_per_s",
    "p50_us",
    "p99_us",
    "p999_us",
    "errors",
];

impl Report {
    fn cells(&self) -> Vec<String> {
        let Self { payload, connections, window, messages, msgs_per_s, .. } = self;
        let Self { p50_us, p99_us, p999_us, errors, .. } = self;
        let head = [self.op.to_owned(), payload.to_string(), connections.to_string()];
        let tail =
            [u64::from(*window), *messages, *msgs_per_s, *p50_us, *p99_us, *p999_us, *errors];
        head.into_iter().chain(tail.map(|number| number.to_string())).collect()
    }
}

/// What one connection, or all of them, counted.
struct Tally {
    latencies: Histogram<u64>,
    payload_bytes: usize,
    errors: u64,
    last_error: Option<CallError>,
}

impl Tally {
    fn new() -> Self {
        let latencies = Histogram::new_with_max(LATENCY_MICROS_MAX, 3);
        let latencies = latencies.expect("bounds that the histogram takes");
        Self { latencies, payload_bytes: 0, errors: 0, last_error: None }
    }

    fn record(&mut self, latency: Duration, count: usize) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        self.latencies.saturating_record_n(micros, count as u64);
    }

    fn fail(&mut self, error: CallError, count: usize) {
        self.errors += count as u64;
        self.last_error = Some(error);
    }

    fn add(&mut self, other: Self) {
        self.latencies.add(&other.latencies).expect("equal bounds");
        self.payload_bytes = self.payload_bytes.max(other.payload_bytes);
        self.errors += other.errors;
        self.last_error = other.last_error.or(self.last_error.take());
    }
}

pub(super) async fn run(shared: &Shared, command: BenchCommand, printer: Printer) -> Outcome {
    match command {
        BenchCommand::Send(SendBench { load, payload }) => {
            let clients = load.connect(shared).await?;
            let bar = printer.progress(Some(load.messages as u64));
            let work = |at: usize, client: Client| {
                send(client, load.clone(), load.share(at), payload, bar.clone())
            };
            let (tally, elapsed) = measure(clients, work).await;
            bar.finish_and_clear();
            finish("send", &load, tally, elapsed, printer)
        }
        BenchCommand::Receive(ReceiveBench { load }) => {
            let clients = load.connect(shared).await?;
            check_supply(&clients[0], &load).await?;
            let bar = printer.progress(Some(load.messages as u64));
            let work = |at: usize, client: Client| {
                receive(client, load.clone(), at, load.share(at), bar.clone())
            };
            let (tally, elapsed) = measure(clients, work).await;
            bar.finish_and_clear();
            finish("receive", &load, tally, elapsed, printer)
        }
    }
}

/// Runs one task for each connection, all from the same moment on.
async fn measure<F: Future<Output = Tally> + Send + 'static>(
    clients: Vec<Client>,
    work: impl Fn(usize, Client) -> F,
) -> (Tally, Duration) {
    // Opens each session, so that it is not measured.
    for client in &clients {
        let _opened = client.purge(".bench-warm-up").await;
    }
    let start = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for (at, client) in clients.into_iter().enumerate() {
        tasks.spawn(work(at, client));
    }
    let mut total = Tally::new();
    while let Some(tally) = tasks.join_next().await {
        total.add(tally.expect("a task that neither panics nor is cancelled"));
    }
    (total, start.elapsed())
}

fn finish(
    op: &'static str,
    load: &Load,
    tally: Tally,
    elapsed: Duration,
    printer: Printer,
) -> Outcome {
    let messages = tally.latencies.len();
    let quantile = |quantile| tally.latencies.value_at_quantile(quantile);
    let report = Report {
        op,
        payload: tally.payload_bytes,
        connections: load.connections,
        window: load.window,
        messages,
        msgs_per_s: (messages as f64 / elapsed.as_secs_f64().max(1e-6)).round() as u64,
        p50_us: quantile(0.5),
        p99_us: quantile(0.99),
        p999_us: quantile(0.999),
        errors: tally.errors,
    };
    printer.record(&report, &COLUMNS, report.cells())?;
    tally.last_error.map_or(Ok(()), |error| Err(error.into()))
}

async fn send(client: Client, load: Load, count: usize, payload: usize, bar: ProgressBar) -> Tally {
    let mut tally = Tally { payload_bytes: payload, ..Tally::new() };
    let body: Vec<u8> = (0..payload).map(|at| b'a' + (at % 26) as u8).collect();
    let queues: Vec<String> = (0..usize::from(load.queues)).map(|at| load.queue(at)).collect();
    let mut pending: VecDeque<(Instant, Pending<Sent>)> = VecDeque::new();
    for number in 0..count {
        if pending.len() >= usize::from(load.window) {
            settle(&mut pending, &mut tally).await;
        }
        let message = NewMessage::to(queues[number % queues.len()].as_str()).body(body.as_slice());
        let start = Instant::now();
        match client.enqueue(message).await {
            Ok(answer) => pending.push_back((start, answer)),
            Err(error) => tally.fail(error, 1),
        }
        if number % PROGRESS_STEP == PROGRESS_STEP - 1 {
            bar.inc(PROGRESS_STEP as u64);
        }
    }
    while !pending.is_empty() {
        settle(&mut pending, &mut tally).await;
    }
    tally
}

async fn settle(pending: &mut VecDeque<(Instant, Pending<Sent>)>, tally: &mut Tally) {
    let Some((start, answer)) = pending.pop_front() else { return };
    match answer.await {
        Ok(_) => tally.record(start.elapsed(), 1),
        Err(error) => tally.fail(error, 1),
    }
}

/// A benchmark of receiving consumes messages that somebody sent before.
async fn check_supply(client: &Client, load: &Load) -> Outcome {
    let wanted: Vec<String> = (0..usize::from(load.queues)).map(|at| load.queue(at)).collect();
    let queues = client.list().await?;
    let there: u64 = queues
        .iter()
        .filter(|queue| wanted.contains(&queue.name))
        .map(|queue| queue.available)
        .sum();
    if there < load.messages as u64 {
        let what = format!(
            "{there} messages are available in {} queues named `{}-N`, {} are wanted; run `posthaste bench send --messages {}` with the same --queues and --prefix first",
            load.queues, load.prefix, load.messages, load.messages
        );
        return Err(Failure::Nothing(what));
    }
    Ok(())
}

async fn receive(client: Client, load: Load, at: usize, count: usize, bar: ProgressBar) -> Tally {
    let mut tally = Tally::new();
    let window = usize::from(load.window).min(limits::MESSAGES_PER_RECEIVE_MAX);
    let (mut received, mut turn, mut empty_turns) = (0, at, 0);
    let mut unacked: Option<(String, Vec<Handle>, Instant)> = None;
    while received < count || unacked.is_some() {
        let queue = load.queue(turn);
        turn += 1;
        let options =
            ReceiveOptions { max: window.min(count - received).max(1), ..Default::default() };
        let start = Instant::now();
        // The last batch is acknowledged while the next one is on its way.
        let acknowledge = acknowledge(&client, unacked.take(), &mut tally);
        let next = async {
            if received < count { client.receive(&queue, options).await } else { Ok(Vec::new()) }
        };
        let ((), next) = tokio::join!(acknowledge, next);
        let deliveries = match next {
            Ok(deliveries) => deliveries,
            Err(error) => {
                tally.fail(error, 1);
                return tally;
            }
        };
        empty_turns = if deliveries.is_empty() { empty_turns + 1 } else { 0 };
        if let Some(first) = deliveries.first() {
            tally.payload_bytes = tally.payload_bytes.max(first.message.body.len());
            received += deliveries.len();
            bar.inc(deliveries.len() as u64);
            let handles = deliveries.iter().map(|delivery| delivery.handle).collect();
            unacked = Some((queue, handles, start));
        } else if empty_turns > usize::from(load.queues) {
            // Other connections were faster with what is left.
            return tally;
        }
    }
    tally
}

async fn acknowledge(
    client: &Client,
    unacked: Option<(String, Vec<Handle>, Instant)>,
    tally: &mut Tally,
) {
    let Some((queue, handles, start)) = unacked else { return };
    match client.ack(&queue, &handles).await {
        Ok(held) => {
            let acked = held.iter().filter(|held| **held).count();
            tally.record(start.elapsed(), acked);
            tally.errors += (held.len() - acked) as u64;
        }
        Err(error) => tally.fail(error, handles.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_columns_and_the_fields_of_the_report_are_the_same() {
        let report = Report {
            op: "send",
            payload: 1,
            connections: 2,
            window: 3,
            messages: 4,
            msgs_per_s: 5,
            p50_us: 6,
            p99_us: 7,
            p999_us: 8,
            errors: 9,
        };
        let json = serde_json::to_string(&report).expect("plain fields");
        let pairs = COLUMNS.iter().zip(report.cells()).enumerate().map(|(at, (name, cell))| {
            if at == 0 { format!("\"{name}\":\"{cell}\"") } else { format!("\"{name}\":{cell}") }
        });
        assert_eq!(json, format!("{{{}}}", pairs.collect::<Vec<_>>().join(",")));
    }

    #[test]
    fn the_shares_of_all_connections_are_all_messages() {
        let load =
            Load { messages: 10, connections: 4, window: 1, queues: 1, prefix: String::new() };
        let shares: Vec<usize> = (0..4).map(|at| load.share(at)).collect();
        assert_eq!(shares, [3, 3, 2, 2]);
    }
}
