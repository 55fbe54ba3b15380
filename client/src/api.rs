//! The calls: [`Client`], a cheap handle on the background task.
//!
//! Checks what needs no node, hands the call over, and gives the answer its type. Never talks to a
//! node itself. Next: `driver`.

use crate::call::{Answered, Ask, BODIES_WEIGHT, Caller, CommandCall, Payload};
use crate::driver::{Driver, Ports, Published};
use crate::entropy::Entropy;
use crate::error::{CallError, ConnectError, Rejected, Unknown};
use crate::members::{Changed, Members};
use crate::message::{
    Delivery, Handle, NewMessage, ReceiveOptions, Stored, check_count, check_queue,
    encoded_bytes_max,
};
use crate::options::{Cluster, Options};
use crate::reader::{ReadFrom, Reader};
use bytes::Bytes;
use engine::block::{BLOCK_HEADER_BYTES, LENGTH_BYTES};
use engine::ids::{MessageId, NodeId, Position};
use engine::limits;
use engine::queue::{
    Command, Held, Invalid, Message, Query, QueueInfo, ReceiveMode, Reply, Retention, Sent,
};
use engine::raft::ChangeRequest;
use engine::wire::client::NodeStatus;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

/// What a command takes in a block beyond its own names, messages and handles, bytes, at most.
const COMMAND_FIXED_BYTES: usize = 64;
/// What one handle or id in a command takes, bytes, at most.
const ITEM_BYTES_MAX: usize = 32;
/// What the limits of a queue take in a command, bytes, at most.
const RETENTION_BYTES_MAX: usize = 3 * 10;
/// A waiting receive asks again after this long at the latest.
const WATCH_MAX: Duration = Duration::from_secs(30);

/// A handle on a cluster. Clones share one background task, its connections and its session; the
/// task ends when the last clone is dropped and every call is answered.
#[derive(Clone, Debug)]
pub struct Client {
    ports: Ports,
    entropy: Arc<Entropy>,
    timeout: Duration,
}

impl Client {
    /// Connects to a cluster of which at least one address (`host:port`) answers; the others are
    /// learned from it. Must be called within a tokio runtime with time and network.
    ///
    /// # Errors
    /// Nobody answered within `options.connect_timeout`; tells what went wrong at each address.
    pub async fn connect(addresses: &[String], options: Options) -> Result<Self, ConnectError> {
        let fail = |waited, attempts| ConnectError { waited, attempts };
        let entropy = Entropy::new(options.seed).map_err(|error| {
            fail(Duration::ZERO, vec![("entropy".to_owned(), error.to_string())])
        })?;
        let entropy = Arc::new(entropy);
        let (timeout, connect_timeout) = (options.timeout, options.connect_timeout);
        let (driver, ports) = Driver::new(addresses, options, Arc::clone(&entropy));
        drop(tokio::spawn(driver));
        let mut published = ports.published.clone();
        let is_up = |published: &Published| published.cluster.cluster.is_some();
        let up = tokio::time::timeout(connect_timeout, published.wait_for(is_up)).await;
        if !matches!(up, Ok(Ok(_))) {
            let mut attempts = ports.published.borrow().troubles.clone();
            if attempts.is_empty() {
                let untold = |address: &String| (address.clone(), "no answer".to_owned());
                attempts = addresses.iter().map(untold).collect();
            }
            return Err(fail(connect_timeout, attempts));
        }
        Ok(Self { ports, entropy, timeout })
    }

    /// The same client with another deadline for every call made through this handle.
    #[must_use]
    pub fn with_timeout(&self, timeout: Duration) -> Self {
        Self { timeout, ..self.clone() }
    }

    /// Drops this handle and waits until the background task has answered everything, closed its
    /// session and ended; that takes all clones to be dropped, or `timeout`.
    pub async fn close(self, timeout: Duration) {
        let Ports { commands, asks, mut published } = self.ports;
        drop((commands, asks));
        let ended = async { while published.changed().await.is_ok() {} };
        // Running out of time is as good an end as any: the session expires by itself.
        let _in_time = tokio::time::timeout(timeout, ended).await;
    }

    /// A fresh message id, for a caller that wants to know it before sending.
    #[must_use]
    pub fn mint_id(&self) -> MessageId {
        self.entropy.message_id()
    }

    /// Sends a message and waits until it is stored.
    ///
    /// # Errors
    /// As every call: rejected or unknown.
    pub async fn send(&self, message: impl Into<NewMessage>) -> Result<Sent, CallError> {
        self.enqueue(message).await?.await
    }

    /// Hands a message over and returns as soon as it has its place behind all earlier ones, which
    /// is at once unless a window's worth already waits. The answer comes from [`Pending`].
    ///
    /// # Errors
    /// The message is invalid, or found no place within the call's deadline.
    pub async fn enqueue(
        &self,
        message: impl Into<NewMessage>,
    ) -> Result<Pending<Sent>, CallError> {
        let message = message.into().into_message(|| self.mint_id()).map_err(invalid)?;
        let bytes = encoded_bytes_max(&message);
        let command = Command::Send { messages: vec![message] };
        let answer = self.submit(command, bytes).await?;
        Ok(Pending { answer, read: read_sent })
    }

    /// Sends messages, to any queues, all or none of them. One result for each, in order.
    ///
    /// # Errors
    /// As every call; also if there are none or more than 4,096, or together more than one block
    /// takes (16 MiB).
    pub async fn send_many(&self, messages: Vec<NewMessage>) -> Result<Vec<Sent>, CallError> {
        check_count(messages.len(), limits::MESSAGES_PER_SEND_MAX).map_err(invalid)?;
        let messages: Result<Vec<Message>, Invalid> =
            messages.into_iter().map(|message| message.into_message(|| self.mint_id())).collect();
        let messages = messages.map_err(invalid)?;
        let bytes = messages.iter().map(encoded_bytes_max).sum();
        let answer = self.submit(Command::Send { messages }, bytes).await?;
        Pending { answer, read: read_sent_many }.await
    }

    /// Receives messages of a queue, oldest first; none if there are none within `options.wait`.
    ///
    /// # Errors
    /// As every call. After an unknown outcome messages may be leased, or taken, without having
    /// arrived; leases end by themselves.
    pub async fn receive(
        &self,
        queue: &str,
        options: ReceiveOptions,
    ) -> Result<Vec<Delivery>, CallError> {
        check_queue(queue).map_err(invalid)?;
        check_count(options.max, limits::MESSAGES_PER_RECEIVE_MAX).map_err(invalid)?;
        let until = Instant::now() + options.wait;
        loop {
            let deliveries = self.receive_now(queue, options.max, options.mode).await?;
            let now = Instant::now();
            if !deliveries.is_empty() || now >= until {
                return Ok(deliveries);
            }
            if !self.watch(queue, until.min(now + WATCH_MAX)).await? && Instant::now() >= until {
                return Ok(Vec::new());
            }
        }
    }

    async fn receive_now(
        &self,
        queue: &str,
        max: usize,
        mode: ReceiveMode,
    ) -> Result<Vec<Delivery>, CallError> {
        let max = u32::try_from(max).expect("checked by the caller");
        let command = Command::Receive { queue: queue.to_owned(), max, mode };
        let answer = self.submit(command, COMMAND_FIXED_BYTES + queue.len()).await?;
        Pending { answer, read: read_received }.await
    }

    async fn watch(&self, queue: &str, until: Instant) -> Result<bool, CallError> {
        let query = Query::Available { queue: queue.to_owned() };
        let now = Instant::now();
        let (caller, answer) = Caller::new(until.saturating_duration_since(now) + self.timeout);
        self.ask(Ask::Watch { query, until, caller }, answer).await
    }

    /// Acknowledges deliveries: the messages are removed. For each whether its lease was still held;
    /// where it was not, the message may be delivered again, or was.
    ///
    /// # Errors
    /// As every call.
    pub async fn ack(&self, queue: &str, handles: &[Handle]) -> Result<Vec<bool>, CallError> {
        self.settle(queue, handles, |queue, held| Command::Acknowledge { queue, held }).await
    }

    /// Gives deliveries back, to be available again after `delay` (at most 12 h). For each whether
    /// its lease was still held.
    ///
    /// # Errors
    /// As every call.
    pub async fn nack(
        &self,
        queue: &str,
        handles: &[Handle],
        delay: Duration,
    ) -> Result<Vec<bool>, CallError> {
        let delay_millis = millis(delay);
        self.settle(queue, handles, |queue, held| Command::Nack { queue, held, delay_millis }).await
    }

    /// Lets leases end `lease` from now (1 ms to 12 h). For each whether it was still held.
    ///
    /// # Errors
    /// As every call.
    pub async fn extend(
        &self,
        queue: &str,
        handles: &[Handle],
        lease: Duration,
    ) -> Result<Vec<bool>, CallError> {
        let lease_millis = millis(lease);
        self.settle(queue, handles, |queue, held| Command::Extend { queue, held, lease_millis })
            .await
    }

    async fn settle(
        &self,
        queue: &str,
        handles: &[Handle],
        command: impl FnOnce(String, Vec<Held>) -> Command,
    ) -> Result<Vec<bool>, CallError> {
        check_queue(queue).map_err(invalid)?;
        check_count(handles.len(), limits::MESSAGES_PER_RECEIVE_MAX).map_err(invalid)?;
        let held = handles.iter().map(|handle| handle.0).collect();
        let bytes = COMMAND_FIXED_BYTES + queue.len() + handles.len() * ITEM_BYTES_MAX;
        let answer = self.submit(command(queue.to_owned(), held), bytes).await?;
        Pending { answer, read: read_settled }.await
    }

    /// Removes messages by id, waiting or leased. For each whether it was there.
    ///
    /// # Errors
    /// As every call.
    pub async fn delete(&self, queue: &str, ids: &[MessageId]) -> Result<Vec<bool>, CallError> {
        check_queue(queue).map_err(invalid)?;
        check_count(ids.len(), limits::MESSAGES_PER_RECEIVE_MAX).map_err(invalid)?;
        let bytes = COMMAND_FIXED_BYTES + queue.len() + ids.len() * ITEM_BYTES_MAX;
        let command = Command::Delete { queue: queue.to_owned(), ids: ids.to_vec() };
        let answer = self.submit(command, bytes).await?;
        Pending { answer, read: read_deleted }.await
    }

    /// Removes all messages of a queue, leased ones too, and says how many there were.
    ///
    /// # Errors
    /// As every call.
    pub async fn purge(&self, queue: &str) -> Result<u64, CallError> {
        check_queue(queue).map_err(invalid)?;
        let command = Command::Purge { queue: queue.to_owned() };
        let answer = self.submit(command, COMMAND_FIXED_BYTES + queue.len()).await?;
        Pending { answer, read: read_purged }.await
    }

    /// Gives a queue these limits in place of those that it has; what exceeds them is dropped, the
    /// oldest first. The queue comes into being if it is not there.
    ///
    /// # Errors
    /// As every call. A limit of 0, or an age beyond 100 years, is rejected as invalid.
    pub async fn configure(&self, queue: &str, retention: Retention) -> Result<(), CallError> {
        check_queue(queue).map_err(invalid)?;
        let command = Command::Configure { queue: queue.to_owned(), retention };
        let bytes = COMMAND_FIXED_BYTES + queue.len() + RETENTION_BYTES_MAX;
        let answer = self.submit(command, bytes).await?;
        Pending { answer, read: read_configured }.await
    }

    /// Reads that are answered where `from` says, with how new the answer is.
    #[must_use]
    pub fn reader(&self, from: ReadFrom) -> Reader {
        Reader::new(self.clone(), from)
    }

    /// Looks a message up by id, if it is waiting or leased.
    ///
    /// # Errors
    /// As every call; a read has no effect, so it is never unknown for want of an answer.
    pub async fn get(&self, queue: &str, id: MessageId) -> Result<Option<Stored>, CallError> {
        Ok(self.reader(ReadFrom::Leader).get(queue, id).await?.value)
    }

    /// Looks at messages of a queue in order, waiting and leased, without taking them: at most
    /// `max` (1 to 4,096), and only later ones than `after`.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn browse(
        &self,
        queue: &str,
        after: Option<Position>,
        max: usize,
    ) -> Result<Vec<Stored>, CallError> {
        Ok(self.reader(ReadFrom::Leader).browse(queue, after, max).await?.value)
    }

    /// All queues in the order of their names.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn list(&self) -> Result<Vec<QueueInfo>, CallError> {
        Ok(self.reader(ReadFrom::Leader).list().await?.value)
    }

    /// The members as their leader sees them, and what is under way.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn members(&self) -> Result<Members, CallError> {
        let (caller, answer) = Caller::new(self.timeout);
        let status = self.ask(Ask::Status { node: None, caller }, answer).await?;
        Ok(Members::of(&status))
    }

    /// Changes the membership, and waits until the change is committed. The same change again is the
    /// same change: it is repeated until the deadline, whoever leads.
    ///
    /// # Errors
    /// As every call. A change that cannot be made, or not now, is rejected with
    /// [`Rejected::Change`].
    pub async fn change_membership(&self, change: ChangeRequest) -> Result<Changed, CallError> {
        let (caller, answer) = Caller::new(self.timeout);
        self.ask(Ask::Change { change, unanswered: 0, caller }, answer).await
    }

    /// Lets another voter lead, `to` or the best, and says who leads then.
    ///
    /// # Errors
    /// As every call. Leadership that cannot be handed over is rejected with [`Rejected::Transfer`].
    pub async fn transfer(&self, to: Option<NodeId>) -> Result<NodeId, CallError> {
        let (caller, answer) = Caller::new(self.timeout);
        self.ask(Ask::Transfer { to, asked: None, unanswered: 0, caller }, answer).await
    }

    /// The cluster as it is known at this moment.
    #[must_use]
    pub fn nodes(&self) -> Cluster {
        self.ports.published.borrow().cluster.clone()
    }

    /// Waits until something about the cluster differs from `known`, and returns how it is then.
    ///
    /// # Errors
    /// The client is closed.
    pub async fn nodes_changed(&self, known: &Cluster) -> Result<Cluster, CallError> {
        let mut published = self.ports.published.clone();
        let changed = published.wait_for(|published| published.cluster != *known).await;
        changed.map(|published| published.cluster.clone()).map_err(|_| Rejected::Closed.into())
    }

    /// Asks one node how it is. It answers from its own knowledge, leader or not.
    ///
    /// # Errors
    /// No such node is known, or it did not answer in time.
    pub async fn status(&self, node: NodeId) -> Result<NodeStatus, CallError> {
        let cluster = self.nodes();
        if !cluster.nodes.iter().any(|known| known.node == node) {
            let known: Vec<String> = cluster.nodes.iter().map(|n| n.node.to_string()).collect();
            return Err(Rejected::NoSuchNode { node: node.0, known: known.join(", ") }.into());
        }
        let (caller, answer) = Caller::new(self.timeout);
        self.ask(Ask::Status { node: Some(node), caller }, answer).await
    }

    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Hands something over that is outside the session, and waits for its answer.
    pub(crate) async fn ask<R>(
        &self,
        ask: Ask,
        answer: oneshot::Receiver<Result<R, CallError>>,
    ) -> Result<R, CallError> {
        hand_over(&self.ports.asks, ask, self.timeout).await?;
        answer.await.map_err(closed)?
    }

    async fn submit(&self, command: Command, bytes_max: usize) -> Result<Answer, CallError> {
        let bytes = BLOCK_HEADER_BYTES + LENGTH_BYTES + COMMAND_FIXED_BYTES + bytes_max;
        if bytes > limits::BLOCK_BYTES_MAX {
            return Err(Rejected::TooLarge { bytes, max: limits::BLOCK_BYTES_MAX }.into());
        }
        let (caller, answer) = Caller::new(self.timeout);
        let bytes_max = LENGTH_BYTES + COMMAND_FIXED_BYTES + bytes_max;
        let weight = reply_weight(&command);
        let call = CommandCall { payload: Payload::Fresh(command), bytes_max, weight, caller };
        hand_over(&self.ports.commands, call, self.timeout).await?;
        Ok(answer)
    }
}

fn reply_weight(command: &Command) -> usize {
    match command {
        Command::Send { messages } => messages.len(),
        Command::Receive { .. } => BODIES_WEIGHT,
        Command::Acknowledge { held, .. }
        | Command::Nack { held, .. }
        | Command::Extend { held, .. } => held.len(),
        Command::Delete { ids, .. } => ids.len(),
        Command::Purge { .. } | Command::Configure { .. } => 1,
    }
}

type Answer = oneshot::Receiver<Result<Answered, CallError>>;

async fn hand_over<T>(port: &mpsc::Sender<T>, call: T, timeout: Duration) -> Result<(), CallError> {
    let call = match port.try_send(call) {
        Ok(()) => return Ok(()),
        Err(mpsc::error::TrySendError::Closed(_)) => return Err(Rejected::Closed.into()),
        Err(mpsc::error::TrySendError::Full(call)) => call,
    };
    match tokio::time::timeout(timeout, port.send(call)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(Rejected::Closed.into()),
        Err(_) => {
            let trouble = "a window's worth of earlier calls is unanswered".to_owned();
            Err(Rejected::Deadline { timeout, trouble }.into())
        }
    }
}

/// The answer to a command that has its place and is on its way. Dropping it does not call the
/// command back.
#[derive(Debug)]
pub struct Pending<T> {
    answer: Answer,
    read: fn(Answered) -> Result<T, CallError>,
}

impl<T> Future for Pending<T> {
    type Output = Result<T, CallError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let read = self.read;
        Pin::new(&mut self.answer).poll(cx).map(|answer| answer.map_err(closed)?.and_then(read))
    }
}

fn closed(_: oneshot::error::RecvError) -> CallError {
    Unknown::Closed.into()
}

pub(crate) fn invalid(invalid: Invalid) -> CallError {
    Rejected::Invalid(invalid).into()
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

pub(crate) fn unexpected(reply: &Reply) -> CallError {
    let reason = format!("{reply:?}").chars().take(80).collect();
    Unknown::Reply { reason }.into()
}

fn read_sent((reply, _): Answered) -> Result<Sent, CallError> {
    match reply {
        Reply::SentOne(sent) => Ok(sent),
        other => Err(unexpected(&other)),
    }
}

fn read_sent_many((reply, _): Answered) -> Result<Vec<Sent>, CallError> {
    match reply {
        Reply::SentOne(sent) => Ok(vec![sent]),
        Reply::SentMany(sent) => Ok(sent),
        other => Err(unexpected(&other)),
    }
}

fn read_settled((reply, _): Answered) -> Result<Vec<bool>, CallError> {
    match reply {
        Reply::Settled(held) => Ok(held),
        other => Err(unexpected(&other)),
    }
}

fn read_deleted((reply, _): Answered) -> Result<Vec<bool>, CallError> {
    match reply {
        Reply::Deleted(found) => Ok(found),
        other => Err(unexpected(&other)),
    }
}

fn read_purged((reply, _): Answered) -> Result<u64, CallError> {
    match reply {
        Reply::Purged(count) => Ok(count),
        other => Err(unexpected(&other)),
    }
}

fn read_configured((reply, _): Answered) -> Result<(), CallError> {
    match reply {
        Reply::Configured => Ok(()),
        other => Err(unexpected(&other)),
    }
}

fn read_received((reply, bodies): Answered) -> Result<Vec<Delivery>, CallError> {
    let Reply::Received { token, until, deliveries } = reply else {
        return Err(unexpected(&reply));
    };
    let delivery = |(delivered, body): (engine::queue::Delivered, Bytes)| {
        Ok(Delivery {
            handle: Handle(Held { position: delivered.position, token }),
            message: decode(&body)?,
            attempt: delivered.attempt,
            leased_until: until,
        })
    };
    deliveries.into_iter().zip(bodies).map(delivery).collect()
}

pub(crate) fn decode(body: &[u8]) -> Result<Message, CallError> {
    Message::decode(body).map_err(|error| Unknown::Reply { reason: error.to_string() }.into())
}
