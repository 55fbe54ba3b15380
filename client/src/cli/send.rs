//! `posthaste send`.

use super::output::Printer;
use super::values::{parse_header, parse_id};
use super::{Failure, Outcome};
use clap::Args;
use client::{CallError, Client, NewMessage, Pending};
use engine::ids::MessageId;
use engine::queue::Sent;
use serde_json::json;
use std::collections::VecDeque;
use std::io::{self, BufRead};
use tokio::sync::mpsc;

/// Lines that are read ahead of what is sent.
const LINES_AHEAD: usize = 1_024;
/// Messages on their way at once.
const PENDING_MAX: usize = 1_024;

#[derive(Args, Debug)]
pub(super) struct SendArgs {
    /// Queue to send to; it exists once something was sent to it
    queue: String,
    /// Body of the message; `-` sends one message for each line of standard input
    body: Option<String>,
    /// Id of the message, a UUID; sending the same id again has no effect
    #[arg(long, value_parser = parse_id)]
    id: Option<MessageId>,
    /// Name of the sender
    #[arg(long, default_value = "")]
    from: String,
    /// Header as key=value; may be given several times
    #[arg(long = "header", value_name = "KEY=VALUE", value_parser = parse_header)]
    headers: Vec<(String, String)>,
}

impl SendArgs {
    fn message(&self, body: impl Into<Vec<u8>>) -> NewMessage {
        let message = NewMessage::to(&self.queue).from(&self.from).body(body);
        NewMessage { headers: self.headers.clone(), ..message }
    }
}

pub(super) async fn send(client: &Client, args: SendArgs, printer: Printer) -> Outcome {
    if args.body.as_deref() == Some("-") {
        return send_lines(client, &args, printer).await;
    }
    let id = args.id.unwrap_or_else(|| client.mint_id());
    let message = args.message(args.body.as_deref().unwrap_or_default()).id(id);
    let sent = client.send(message).await?;
    print(printer, id, &sent)
}

fn print(printer: Printer, id: MessageId, sent: &Sent) -> Outcome {
    let position = sent.receipt.position;
    let value = json!({
        "id": id.to_string(),
        "position": position.to_string(),
        "term": sent.receipt.term.0,
        "stamp": sent.receipt.stamp.0,
        "duplicate": sent.duplicate,
    });
    let again = if sent.duplicate { ", sent before" } else { "" };
    Ok(printer.line(&value, &format!("{id} stored at {position}{again}"))?)
}

async fn send_lines(client: &Client, args: &SendArgs, printer: Printer) -> Outcome {
    if args.id.is_some() {
        let usage = "--id names one message, and `-` sends many; leave one of them out";
        return Err(Failure::Usage(usage.to_owned()));
    }
    let mut lines = read_lines();
    let progress = printer.progress(None);
    let mut pending: VecDeque<(MessageId, Pending<Sent>)> = VecDeque::new();
    let mut is_end = false;
    while !is_end || !pending.is_empty() {
        tokio::select! {
            biased;
            answer = front(&mut pending), if !pending.is_empty() => {
                let (id, sent) = answer?;
                print(printer, id, &sent)?;
                progress.inc(1);
            }
            line = lines.recv(), if !is_end && pending.len() < PENDING_MAX => match line {
                None => is_end = true,
                Some(line) => {
                    let id = client.mint_id();
                    pending.push_back((id, client.enqueue(args.message(line?).id(id)).await?));
                }
            },
        }
    }
    progress.finish_and_clear();
    Ok(())
}

/// The oldest answer; it stays in the queue until it is there.
async fn front(
    pending: &mut VecDeque<(MessageId, Pending<Sent>)>,
) -> Result<(MessageId, Sent), CallError> {
    let Some((id, answer)) = pending.front_mut() else { return std::future::pending().await };
    let (id, sent) = (*id, answer.await);
    pending.pop_front();
    Ok((id, sent?))
}

/// Reads standard input in a thread of its own, as reading it blocks.
fn read_lines() -> mpsc::Receiver<io::Result<Vec<u8>>> {
    let (lines, read) = mpsc::channel(LINES_AHEAD);
    std::thread::spawn(move || {
        for line in io::stdin().lock().split(b'\n') {
            if lines.blocking_send(line).is_err() {
                return;
            }
        }
    });
    read
}
