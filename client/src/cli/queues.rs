//! What queues keep: `queues`, `queue set`.

use super::output::Printer;
use super::values::{escape, parse_duration, parse_size};
use super::{Failure, Outcome};
use clap::{Args, Subcommand};
use client::Client;
use engine::queue::{QueueInfo, Retention};
use serde_json::{Value, json};
use std::time::Duration;

#[derive(Args, Debug)]
pub(super) struct QueuesArgs {}

#[derive(Subcommand, Debug)]
pub(super) enum QueueCommand {
    /// Give a queue new limits; one that is not named is taken away
    ///
    /// The limits are of the messages that a receive would get: what exceeds them is dropped, the oldest
    /// first. A message that somebody holds neither counts nor is dropped until it comes back.
    Set(SetArgs),
}

#[derive(Args, Debug)]
pub(super) struct SetArgs {
    /// Queue; made if it is not there
    queue: String,
    /// Drop messages this long after they were sent, like 30s, 5m or 48h
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    max_age: Option<Duration>,
    /// Drop messages while they have more bytes than this together, like 500k, 64M or 2G
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    max_bytes: Option<u64>,
    /// Drop messages while there are more than this
    #[arg(long, value_name = "COUNT")]
    max_messages: Option<u64>,
}

pub(super) async fn queue(client: &Client, command: QueueCommand, printer: Printer) -> Outcome {
    let QueueCommand::Set(args) = command;
    let max_age_millis = args.max_age.map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
    let SetArgs { queue, max_bytes, max_messages, .. } = args;
    let retention = Retention { max_age_millis, max_bytes, max_messages };
    client.configure(&queue, retention).await?;
    let mut value = json!({"queue": queue});
    add_limits(retention, &mut value);
    let limits = described(retention);
    Ok(printer.line(&value, &format!("{} keeps: {limits}", escape(queue.as_bytes())))?)
}

pub(super) async fn queues(client: &Client, _: QueuesArgs, printer: Printer) -> Outcome {
    let queues = client.list().await?;
    if queues.is_empty() {
        let what =
            "there are no queues; a queue exists once something was sent to it or it was set";
        return Err(Failure::Nothing(what.to_owned()));
    }
    let titles = ["queue", "available", "bytes", "held", "dropped", "keeps"];
    Ok(printer.table(&titles, queues.iter().map(row))?)
}

fn row(queue: &QueueInfo) -> (Value, Vec<String>) {
    let held = queue.leased + queue.delayed;
    let mut value = json!({
        "queue": queue.name,
        "available": queue.available,
        "bytes": queue.bytes,
        "leased": queue.leased,
        "delayed": queue.delayed,
        "sent_total": queue.sent_total,
        "dropped_total": queue.dropped_total,
    });
    add_limits(queue.retention, &mut value);
    let counts = [queue.available, queue.bytes, held, queue.dropped_total];
    let mut cells = vec![escape(queue.name.as_bytes())];
    cells.extend(counts.map(|count| count.to_string()));
    cells.push(described(queue.retention));
    (value, cells)
}

fn add_limits(retention: Retention, value: &mut Value) {
    value["max_age_ms"] = json!(retention.max_age_millis);
    value["max_bytes"] = json!(retention.max_bytes);
    value["max_messages"] = json!(retention.max_messages);
}

fn described(retention: Retention) -> String {
    let Retention { max_age_millis, max_bytes, max_messages } = retention;
    let limits = [
        max_age_millis.map(|millis| format!("{:?}", Duration::from_millis(millis))),
        max_bytes.map(|bytes| format!("{bytes} bytes")),
        max_messages.map(|count| format!("{count} messages")),
    ];
    let limits: Vec<String> = limits.into_iter().flatten().collect();
    if limits.is_empty() { "everything".to_owned() } else { limits.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_told_in_words_and_numbers() {
        let none = Retention::default();
        assert_eq!(described(none), "everything");
        let (max_age_millis, max_messages) = (Some(90_000), Some(5));
        let some = Retention { max_age_millis, max_bytes: Some(2048), max_messages };
        assert_eq!(described(some), "90s, 2048 bytes, 5 messages");
        let mut value = json!({});
        add_limits(some, &mut value);
        let expected = json!({"max_age_ms": 90_000, "max_bytes": 2048, "max_messages": 5});
        assert_eq!(value, expected);
    }
}
