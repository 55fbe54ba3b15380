//! `posthaste receive`, and what can be done with what was received: `ack`, `nack`, `extend`.

use super::output::{Printer, message_json, time};
use super::values::parse_duration;
use super::{Failure, Outcome};
use clap::Args;
use client::{Client, Delivery, Handle, ReceiveOptions};
use engine::limits;
use engine::queue::ReceiveMode;
use serde_json::json;
use std::time::Duration;

/// How long a follower waits in one call; then it asks again.
const FOLLOW_WAIT: Duration = Duration::from_secs(30);
/// Messages that a follower receives in one call.
const FOLLOW_BATCH: usize = 64;

#[derive(Args, Debug)]
pub(super) struct ReceiveArgs {
    /// Queue to receive from
    queue: String,
    /// Messages at most [default: 1; with --follow: no end]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    max: Option<u32>,
    /// Go on until --max messages came or until interrupted
    #[arg(long)]
    follow: bool,
    /// Hold each message for this long; then others may receive it again
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = parse_duration)]
    lease: Duration,
    /// Remove the messages at once instead of holding them
    #[arg(long, conflicts_with_all = ["lease", "ack"])]
    take: bool,
    /// Acknowledge each message once it is printed
    #[arg(long)]
    ack: bool,
    /// Wait this long for a message if there is none
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = parse_duration)]
    wait: Duration,
}

pub(super) async fn receive(client: &Client, args: ReceiveArgs, printer: Printer) -> Outcome {
    let mode = if args.take {
        ReceiveMode::Take
    } else {
        ReceiveMode::Lease { millis: u64::try_from(args.lease.as_millis()).unwrap_or(u64::MAX) }
    };
    let total = match args.max {
        Some(max) => usize::try_from(max).unwrap_or(usize::MAX),
        None if args.follow => usize::MAX,
        None => 1,
    };
    let batch_max = if args.follow { FOLLOW_BATCH } else { limits::MESSAGES_PER_RECEIVE_MAX };
    let mut received = 0;
    while received < total {
        // Whoever does not follow waits for the first message only.
        let wait = match (args.follow, received) {
            (true, _) => FOLLOW_WAIT,
            (false, 0) => args.wait,
            (false, _) => Duration::ZERO,
        };
        let options = ReceiveOptions { max: batch_max.min(total - received), mode, wait };
        let deliveries = client.receive(&args.queue, options).await?;
        for delivery in &deliveries {
            print(printer, delivery, args.take)?;
        }
        if args.ack && !deliveries.is_empty() {
            let handles: Vec<Handle> = deliveries.iter().map(|delivery| delivery.handle).collect();
            let held = client.ack(&args.queue, &handles).await?;
            all_held(&handles, &held)?;
        }
        received += deliveries.len();
        if deliveries.is_empty() && !args.follow {
            break;
        }
    }
    if received == 0 {
        return Err(Failure::Nothing(format!("no message is available in `{}`", args.queue)));
    }
    Ok(())
}

fn print(printer: Printer, delivery: &Delivery, taken: bool) -> Outcome {
    let Delivery { handle, message, attempt, leased_until } = delivery;
    let mut value = message_json(message);
    value["position"] = json!(handle.0.position.to_string());
    value["attempt"] = json!(attempt);
    // What was taken is gone from the queue, so there is nothing left to name.
    let mut name = "-".to_owned();
    if !taken {
        name = handle.to_string();
        value["handle"] = json!(name);
        value["leased_until"] = json!(time(*leased_until));
    }
    Ok(printer.delivery(&value, &name, message)?)
}

#[derive(Args, Debug)]
pub(super) struct SettleArgs {
    /// Queue that the messages were received from
    queue: String,
    /// Handles as receive printed them, like 42.0.7
    #[arg(required = true, value_name = "HANDLE")]
    handles: Vec<Handle>,
}

#[derive(Args, Debug)]
pub(super) struct NackArgs {
    #[command(flatten)]
    settle: SettleArgs,
    /// Keep the messages from everybody for this long
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = parse_duration)]
    delay: Duration,
}

#[derive(Args, Debug)]
pub(super) struct ExtendArgs {
    #[command(flatten)]
    settle: SettleArgs,
    /// Hold the messages for this long from now
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = parse_duration)]
    lease: Duration,
}

pub(super) async fn ack(client: &Client, args: SettleArgs, printer: Printer) -> Outcome {
    let held = client.ack(&args.queue, &args.handles).await?;
    settled(printer, "acknowledged", &args.handles, &held)
}

pub(super) async fn nack(client: &Client, args: NackArgs, printer: Printer) -> Outcome {
    let NackArgs { settle, delay } = args;
    let held = client.nack(&settle.queue, &settle.handles, delay).await?;
    settled(printer, "given back", &settle.handles, &held)
}

pub(super) async fn extend(client: &Client, args: ExtendArgs, printer: Printer) -> Outcome {
    let ExtendArgs { settle, lease } = args;
    let held = client.extend(&settle.queue, &settle.handles, lease).await?;
    settled(printer, "extended", &settle.handles, &held)
}

fn settled(printer: Printer, done: &str, handles: &[Handle], held: &[bool]) -> Outcome {
    for (handle, held) in handles.iter().zip(held) {
        let value = json!({"handle": handle.to_string(), "held": held});
        let text = if *held { done } else { "no longer held" };
        printer.line(&value, &format!("{handle} {text}"))?;
    }
    all_held(handles, held)
}

fn all_held(handles: &[Handle], held: &[bool]) -> Outcome {
    let lost: Vec<String> = handles
        .iter()
        .zip(held)
        .filter(|(_, held)| !**held)
        .map(|(handle, _)| handle.to_string())
        .collect();
    if lost.is_empty() {
        return Ok(());
    }
    let what = format!(
        "no longer held: {}; each was acknowledged before, or its lease ended and another may have it",
        lost.join(", ")
    );
    Err(Failure::Nothing(what))
}
