//! The demo's senders and its receiver.
//!
//! Each sender is a client of its own, numbers its messages and keeps a window of them on their way.
//! Some ids are sent twice at once, as an impatient application would, and some once more at the end
//! by a client with another session, as an application would that was restarted.

use super::tally::Tally;
use crate::cli::Failure;
use crate::cli::children::{CHECK_INTERVAL, Nodes};
use client::{Client, NewMessage, Options, Pending, ReceiveOptions};
use engine::ids::MessageId;
use engine::queue::{ReceiveMode, Sent};
use indicatif::ProgressBar;
use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::sync::{Notify, mpsc};
use tokio::task::{JoinHandle, spawn_local};

pub(super) const QUEUE: &str = "demo";
const SENDERS: u64 = 4;
/// Unanswered sends of one sender.
const WINDOW: usize = 128;
/// Every so many messages are sent twice.
const REPEAT_EVERY: u64 = 20;
const RECEIVE_MAX: usize = 1_024;
const LEASE_MILLIS: u64 = 30_000;
/// A send has this long, which is much longer than any fail-over.
const SEND_TIMEOUT: Duration = Duration::from_secs(30);

/// Senders at work.
pub(super) struct Traffic {
    tally: Rc<RefCell<Tally>>,
    progress: Rc<Notify>,
    senders: Vec<JoinHandle<Result<Vec<NewMessage>, Failure>>>,
    again: Client,
}

impl Traffic {
    pub(super) async fn start(
        again: &Client,
        nodes: &Nodes,
        messages: u64,
        tally: &Rc<RefCell<Tally>>,
        bar: &ProgressBar,
    ) -> Result<Self, Failure> {
        let progress = Rc::new(Notify::new());
        let mut senders = Vec::new();
        for number in 0..SENDERS {
            let options = Options {
                timeout: SEND_TIMEOUT,
                window: WINDOW,
                cluster: Some(nodes.cluster),
                ..Options::default()
            };
            let sender = Sender {
                client: Client::connect(&nodes.addresses(), options).await?,
                name: format!("sender-{}", number + 1),
                messages: messages / SENDERS + u64::from(number < messages % SENDERS),
                tally: tally.clone(),
                progress: progress.clone(),
                bar: bar.clone(),
            };
            senders.push(spawn_local(sender.run()));
        }
        Ok(Self { tally: tally.clone(), progress, senders, again: again.clone() })
    }

    /// Waits until `count` messages are acknowledged.
    pub(super) async fn acknowledged(&self, count: u64, nodes: &mut Nodes) -> Result<(), Failure> {
        while self.tally.borrow().acknowledged() < count {
            if let Some(words) = nodes.ended() {
                return Err(words.into());
            }
            if self.senders.iter().all(JoinHandle::is_finished) {
                // An error of theirs is told by `finish`.
                break;
            }
            let _ = tokio::time::timeout(CHECK_INTERVAL, self.progress.notified()).await;
        }
        Ok(())
    }

    /// Waits until all is sent, then repeats some ids from another session. Returns how many sends
    /// were repetitions.
    pub(super) async fn finish(&mut self, nodes: &mut Nodes) -> Result<u64, Failure> {
        let sent = u64::MAX;
        self.acknowledged(sent, nodes).await?;
        let mut repeated = Vec::new();
        for sender in self.senders.drain(..) {
            repeated.extend(sender.await??);
        }
        let early = self.tally.borrow().recognised + self.tally.borrow().unrecognised;
        for messages in repeated.chunks(RECEIVE_MAX) {
            let ids: Vec<MessageId> = messages.iter().filter_map(|message| message.id).collect();
            let answers = self.again.send_many(messages.to_vec()).await?;
            for (id, Sent { receipt, duplicate }) in ids.into_iter().zip(answers) {
                self.tally.borrow_mut().on_repeated(id, receipt.position, duplicate);
            }
        }
        Ok(early + repeated.len() as u64)
    }
}

struct Sender {
    client: Client,
    name: String,
    messages: u64,
    tally: Rc<RefCell<Tally>>,
    progress: Rc<Notify>,
    bar: ProgressBar,
}

/// A send on its way.
struct Underway {
    id: MessageId,
    is_repetition: bool,
    answer: Pending<Sent>,
}

impl Sender {
    /// Sends everything; returns some messages to be sent once more by somebody else.
    async fn run(self) -> Result<Vec<NewMessage>, Failure> {
        let (underway, answers) = mpsc::channel(WINDOW);
        let answered = self.take_answers(answers);
        let sent = self.send_all(underway);
        let (repeat_later, answered) = tokio::join!(sent, answered);
        answered?;
        repeat_later
    }

    async fn send_all(&self, underway: mpsc::Sender<Underway>) -> Result<Vec<NewMessage>, Failure> {
        let mut repeat_later = Vec::new();
        for sequence in 1..=self.messages {
            let id = self.client.mint_id();
            let message =
                NewMessage::to(QUEUE).from(self.name.as_str()).id(id).body(sequence.to_string());
            self.tally.borrow_mut().sent += 1;
            let answer = self.client.enqueue(message.clone()).await?;
            let first = Underway { id, is_repetition: false, answer };
            if underway.send(first).await.is_err() {
                break;
            }
            if sequence % REPEAT_EVERY == 0 {
                let answer = self.client.enqueue(message.clone()).await?;
                let second = Underway { id, is_repetition: true, answer };
                if underway.send(second).await.is_err() {
                    break;
                }
                repeat_later.push(message);
            }
        }
        Ok(repeat_later)
    }

    async fn take_answers(&self, mut answers: mpsc::Receiver<Underway>) -> Result<(), Failure> {
        while let Some(Underway { id, is_repetition, answer }) = answers.recv().await {
            let Sent { receipt, duplicate } = answer.await?;
            let mut tally = self.tally.borrow_mut();
            if is_repetition {
                tally.on_repeated(id, receipt.position, duplicate);
            } else {
                tally.on_acknowledged(id, receipt.position, Instant::now());
                self.bar.inc(1);
                self.progress.notify_one();
            }
        }
        Ok(())
    }
}

/// Receives and acknowledges until the queue is empty.
pub(super) async fn receive_all(
    client: &Client,
    tally: &Rc<RefCell<Tally>>,
) -> Result<(), Failure> {
    let options = ReceiveOptions {
        max: RECEIVE_MAX,
        mode: ReceiveMode::Lease { millis: LEASE_MILLIS },
        wait: Duration::ZERO,
    };
    loop {
        let deliveries = client.receive(QUEUE, options.clone()).await?;
        if deliveries.is_empty() {
            return Ok(());
        }
        let handles: Vec<_> = deliveries.iter().map(|delivery| delivery.handle).collect();
        for delivery in deliveries {
            let message = delivery.message;
            // A body that is not a number is none that was sent; it counts as out of order.
            let sequence = String::from_utf8_lossy(&message.body).parse().unwrap_or(0);
            let position = delivery.handle.0.position;
            tally.borrow_mut().on_received(message.id, position, &message.from, sequence);
        }
        let held = client.ack(QUEUE, &handles).await?;
        if !held.iter().all(|held| *held) {
            return Err("a lease ended before its message was acknowledged".into());
        }
    }
}
