//! The reference model: queues and sessions in the plainest way that can be right.
//!
//! Owns a second opinion on every reply. Written from the documented behaviour of commands and
//! independently of `engine::queue`, of which it shares the types and the decoder only: messages lie
//! in ordered maps by position, nothing is linked, cached or counted ahead. Never fast, except that
//! deadlines are ordered, so that long runs stay checkable. Next: `replay` feeds it the log.

use engine::api::CommandError;
use engine::block::{Block, BlockKind};
use engine::hlc::Hlc;
use engine::ids::{LeaseToken, MessageId, Position, Sequence, SessionId};
use engine::limits::{DELIVERY_BYTES_TARGET, SESSION_WINDOW};
use engine::queue::{
    Browsed, Command, Delivered, Held, Message, Query, QueueInfo, Receipt, ReceiveMode, Reply,
    Retention, Sent,
};
use engine::state_machine::CommandContext;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Who has a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Holder {
    Nobody,
    Receiver { token: LeaseToken, until: Hlc },
    Delay { until: Hlc },
}

#[derive(Clone, Debug)]
struct Waiting {
    id: MessageId,
    receipt: Receipt,
    len: u32,
    attempts: u32,
    holder: Holder,
}

#[derive(Clone, Default, Debug)]
struct Queue {
    messages: BTreeMap<Position, Waiting>,
    sent_total: u64,
    dropped_total: u64,
    retention: Retention,
}

impl Queue {
    fn available(&self) -> impl Iterator<Item = &Waiting> {
        self.messages.values().filter(|message| message.holder == Holder::Nobody)
    }

    /// The oldest available message, if it must go.
    fn excess(&self, now: Hlc) -> Option<Position> {
        let first = self.available().next()?;
        let Retention { max_age_millis, max_bytes, max_messages } = self.retention;
        let is_old =
            max_age_millis.is_some_and(|millis| first.receipt.stamp.after_millis(millis) <= now);
        let bytes: u64 = self.available().map(|message| u64::from(message.len)).sum();
        let count = self.available().count() as u64;
        let is_much =
            max_bytes.is_some_and(|max| bytes > max) || max_messages.is_some_and(|max| count > max);
        (is_old || is_much).then_some(first.receipt.position)
    }
}

#[derive(Clone, Debug)]
struct KnownId {
    receipt: Receipt,
    queue: String,
    is_waiting: bool,
    is_in_window: bool,
}

/// The queues.
#[derive(Clone, Debug)]
pub struct QueueModel {
    queues: BTreeMap<String, Queue>,
    ids: BTreeMap<MessageId, KnownId>,
    window: VecDeque<(Hlc, MessageId)>,
    deadlines: BTreeSet<(Hlc, String, Position)>,
    token_last: LeaseToken,
    window_millis: u64,
}

/// Bytes of a send command before its first message, and before each message.
const SEND_HEADER_BYTES: u32 = 2;
const MESSAGE_LENGTH_BYTES: u32 = 4;

impl QueueModel {
    /// No queues.
    #[must_use]
    pub fn new(window_millis: u64) -> Self {
        Self {
            queues: BTreeMap::new(),
            ids: BTreeMap::new(),
            window: VecDeque::new(),
            deadlines: BTreeSet::new(),
            token_last: LeaseToken::ZERO,
            window_millis,
        }
    }

    /// Log time has come to `now`: leases and delays that are over end, ids leave the window.
    pub fn advance(&mut self, now: Hlc) {
        while let Some((until, queue, position)) = self.deadlines.first().cloned() {
            if until > now {
                break;
            }
            self.deadlines.pop_first();
            let queue = self.queues.get_mut(&queue).expect("deadlines are of queues that exist");
            let message = queue.messages.get_mut(&position).expect("and of messages in them");
            message.holder = Holder::Nobody;
        }
        self.drop_excess(now);
        while let Some((stamp, id)) = self.window.front().copied() {
            if stamp.after_millis(self.window_millis) >= now {
                break;
            }
            self.window.pop_front();
            let known = self.ids.get_mut(&id).expect("ids in the window are known");
            known.is_in_window = false;
            if !known.is_waiting {
                self.ids.remove(&id);
            }
        }
    }

    /// The oldest available messages go while a queue has more than its limits allow.
    fn drop_excess(&mut self, now: Hlc) {
        let limited = |(_, queue): &(&String, &Queue)| queue.retention != Retention::default();
        let limited = self.queues.iter().filter(limited).map(|(name, _)| name.clone());
        for name in limited.collect::<Vec<_>>() {
            while let Some(position) = self.queues[&name].excess(now) {
                self.remove(&name, position);
                self.queues.get_mut(&name).expect("it was looked up").dropped_total += 1;
            }
        }
    }

    /// Applies a command and says what must be replied.
    pub fn apply(&mut self, context: CommandContext, command: &Command) -> Reply {
        let reply = self.apply_one(context, command);
        self.drop_excess(context.log_time);
        reply
    }

    fn apply_one(&mut self, context: CommandContext, command: &Command) -> Reply {
        let now = context.log_time;
        match command {
            Command::Send { messages } => self.send(context, messages),
            Command::Receive { queue, max, mode } => self.receive(now, queue, *max, *mode),
            Command::Acknowledge { queue, held } => self.settle(now, queue, held, |model, at| {
                model.remove(queue, at);
            }),
            Command::Nack { queue, held, delay_millis } => {
                let holder = match delay_millis {
                    0 => Holder::Nobody,
                    millis => Holder::Delay { until: now.after_millis(*millis) },
                };
                self.settle(now, queue, held, |model, at| model.set_holder(queue, at, holder))
            }
            Command::Extend { queue, held, lease_millis } => {
                let until = now.after_millis(*lease_millis);
                let mut tokens = held.iter().map(|held| (held.position, held.token));
                let tokens: BTreeMap<Position, LeaseToken> = tokens.by_ref().collect();
                self.settle(now, queue, held, |model, at| {
                    let token = model.token_of(queue, at).unwrap_or(tokens[&at]);
                    model.set_holder(queue, at, Holder::Receiver { token, until });
                })
            }
            Command::Delete { queue, ids } => Reply::Deleted(
                ids.iter()
                    .map(|id| match self.ids.get(id) {
                        Some(known) if known.is_waiting && known.queue == *queue => {
                            let position = known.receipt.position;
                            self.remove(queue, position);
                            true
                        }
                        Some(_) | None => false,
                    })
                    .collect(),
            ),
            Command::Purge { queue } => {
                let positions: Vec<Position> = self.positions(queue).collect();
                positions.iter().for_each(|position| self.remove(queue, *position));
                Reply::Purged(positions.len() as u64)
            }
            Command::Configure { queue, retention } => {
                self.queues.entry(queue.clone()).or_default().retention = *retention;
                Reply::Configured
            }
        }
    }

    fn send(&mut self, context: CommandContext, messages: &[Message]) -> Reply {
        let mut offset = context.offset + SEND_HEADER_BYTES;
        let mut sent = Vec::new();
        for message in messages {
            offset += MESSAGE_LENGTH_BYTES;
            let len = u32::try_from(message.encode().len()).expect("messages are short");
            let position = Position { index: context.index, offset };
            let receipt = Receipt { position, term: context.term, stamp: context.log_time };
            sent.push(self.send_one(message, receipt, len));
            offset += len;
        }
        match sent[..] {
            [one] => Reply::SentOne(one),
            _ => Reply::SentMany(sent),
        }
    }

    fn send_one(&mut self, message: &Message, receipt: Receipt, len: u32) -> Sent {
        if let Some(known) = self.ids.get(&message.id) {
            return Sent { receipt: known.receipt, duplicate: true };
        }
        let known =
            KnownId { receipt, queue: message.to.clone(), is_waiting: true, is_in_window: true };
        self.ids.insert(message.id, known);
        self.window.push_back((receipt.stamp, message.id));
        let queue = self.queues.entry(message.to.clone()).or_default();
        queue.sent_total += 1;
        let waiting = Waiting { id: message.id, receipt, len, attempts: 0, holder: Holder::Nobody };
        queue.messages.insert(receipt.position, waiting);
        Sent { receipt, duplicate: false }
    }

    fn receive(&mut self, now: Hlc, name: &str, max: u32, mode: ReceiveMode) -> Reply {
        let mut deliveries: Vec<Delivered> = Vec::new();
        let mut bytes = 0;
        let messages = self.queues.get_mut(name).map(|queue| queue.messages.values_mut());
        for message in messages.into_iter().flatten() {
            if message.holder != Holder::Nobody {
                continue;
            }
            bytes += message.len as usize;
            let is_full = bytes > DELIVERY_BYTES_TARGET && !deliveries.is_empty();
            if is_full || deliveries.len() == max as usize {
                break;
            }
            message.attempts += 1;
            let (position, len) = (message.receipt.position, message.len);
            deliveries.push(Delivered { position, len, attempt: message.attempts });
        }
        let (mut token, mut until) = (LeaseToken::ZERO, Hlc::ZERO);
        match mode {
            ReceiveMode::Take => {
                deliveries.iter().for_each(|delivered| self.remove(name, delivered.position));
            }
            ReceiveMode::Lease { millis } if !deliveries.is_empty() => {
                self.token_last = self.token_last.next();
                (token, until) = (self.token_last, now.after_millis(millis));
                for delivered in &deliveries {
                    self.set_holder(name, delivered.position, Holder::Receiver { token, until });
                }
            }
            ReceiveMode::Lease { .. } => {}
        }
        Reply::Received { token, until, deliveries }
    }

    fn settle(
        &mut self,
        now: Hlc,
        queue: &str,
        held: &[Held],
        mut then: impl FnMut(&mut Self, Position),
    ) -> Reply {
        let mut settled = Vec::new();
        for held in held {
            let holder =
                self.queues.get(queue).and_then(|queue| queue.messages.get(&held.position));
            let is_held = match holder.map(|message| message.holder) {
                Some(Holder::Receiver { token, until }) => token == held.token && until > now,
                Some(Holder::Nobody | Holder::Delay { .. }) | None => false,
            };
            if is_held {
                then(self, held.position);
            }
            settled.push(is_held);
        }
        Reply::Settled(settled)
    }

    fn token_of(&self, queue: &str, position: Position) -> Option<LeaseToken> {
        match self.queues.get(queue)?.messages.get(&position)?.holder {
            Holder::Receiver { token, .. } => Some(token),
            Holder::Nobody | Holder::Delay { .. } => None,
        }
    }

    fn set_holder(&mut self, queue: &str, position: Position, holder: Holder) {
        let until = |holder| match holder {
            Holder::Nobody => None,
            Holder::Receiver { until, .. } | Holder::Delay { until } => Some(until),
        };
        let messages = &mut self.queues.get_mut(queue).expect("it was looked up").messages;
        let message = messages.get_mut(&position).expect("it was looked up");
        let before = core::mem::replace(&mut message.holder, holder);
        if let Some(until) = until(before) {
            self.deadlines.remove(&(until, queue.to_owned(), position));
        }
        if let Some(until) = until(holder) {
            self.deadlines.insert((until, queue.to_owned(), position));
        }
    }

    fn remove(&mut self, queue: &str, position: Position) {
        self.set_holder(queue, position, Holder::Nobody);
        let messages = &mut self.queues.get_mut(queue).expect("it was looked up").messages;
        let message = messages.remove(&position).expect("it was looked up");
        let known = self.ids.get_mut(&message.id).expect("waiting messages' ids are known");
        known.is_waiting = false;
        if !known.is_in_window {
            self.ids.remove(&message.id);
        }
    }

    fn positions(&self, queue: &str) -> impl Iterator<Item = Position> + use<'_> {
        self.queues.get(queue).into_iter().flat_map(|queue| queue.messages.keys().copied())
    }

    /// What a read must answer.
    #[must_use]
    pub fn query(&self, query: &Query) -> Reply {
        match query {
            Query::Get { queue, id } => {
                let known = self.ids.get(id).filter(|known| known.is_waiting);
                let known = known.filter(|known| known.queue == *queue);
                Reply::Got(
                    known.map(|known| {
                        browsed(&self.queues[queue].messages[&known.receipt.position])
                    }),
                )
            }
            Query::Browse { queue, after, max } => {
                let mut found = Vec::new();
                let mut bytes = 0;
                let messages = self.queues.get(queue).map(|queue| &queue.messages);
                for (position, message) in messages.into_iter().flatten() {
                    if Some(*position) <= *after {
                        continue;
                    }
                    bytes += message.len as usize;
                    let is_full = bytes > DELIVERY_BYTES_TARGET && !found.is_empty();
                    if is_full || found.len() == *max as usize {
                        break;
                    }
                    found.push(browsed(message));
                }
                Reply::Browsed(found)
            }
            Query::List { after, max } => {
                let later = self.queues.iter().filter(|(name, _)| Some(*name) > after.as_ref());
                Reply::Queues(later.take(*max as usize).map(info).collect())
            }
            Query::Available { queue } => {
                let messages = self.queues.get(queue).map(|queue| &queue.messages);
                let mut messages = messages.into_iter().flat_map(|messages| messages.values());
                Reply::Available(messages.any(|message| message.holder == Holder::Nobody))
            }
        }
    }

    /// Names of the queues, in order.
    pub fn queue_names(&self) -> impl Iterator<Item = &str> {
        self.queues.keys().map(String::as_str)
    }

    /// The id of a message that is in a queue.
    #[must_use]
    pub fn id_at(&self, queue: &str, position: Position) -> Option<MessageId> {
        Some(self.queues.get(queue)?.messages.get(&position)?.id)
    }
}

fn browsed(message: &Waiting) -> Browsed {
    Browsed {
        receipt: message.receipt,
        len: message.len,
        attempts: message.attempts,
        unavailable_until: match message.holder {
            Holder::Nobody => None,
            Holder::Receiver { until, .. } | Holder::Delay { until } => Some(until),
        },
    }
}

fn info((name, queue): (&String, &Queue)) -> QueueInfo {
    let count = |is_it: fn(&Holder) -> bool| {
        queue.messages.values().filter(|message| is_it(&message.holder)).count() as u64
    };
    QueueInfo {
        name: name.clone(),
        available: count(|holder| matches!(holder, Holder::Nobody)),
        leased: count(|holder| matches!(holder, Holder::Receiver { .. })),
        delayed: count(|holder| matches!(holder, Holder::Delay { .. })),
        sent_total: queue.sent_total,
        bytes: queue.available().map(|message| u64::from(message.len)).sum(),
        dropped_total: queue.dropped_total,
        retention: queue.retention,
    }
}

#[derive(Clone, Debug)]
struct SessionModel {
    active_at: Hlc,
    /// Rises with every block of any session.
    active_ordinal: u64,
    expected: Sequence,
    replies: BTreeMap<Sequence, Reply>,
}

/// What a command did when it took effect.
#[derive(Clone, PartialEq, Debug)]
pub struct Effect {
    /// In which session.
    pub session: SessionId,
    /// Which command.
    pub sequence: Sequence,
    /// What it asked for.
    pub command: Command,
    /// What must be replied to it.
    pub reply: Reply,
}

/// Queues and sessions together.
#[derive(Clone, Debug)]
pub struct Model {
    /// The queues.
    pub queues: QueueModel,
    sessions: BTreeMap<SessionId, SessionModel>,
    session_last: SessionId,
    sessions_max: usize,
    idle_millis_max: u64,
    ordinal: u64,
}

/// What must be replied to a block.
#[derive(Clone, PartialEq, Debug)]
pub enum BlockReply {
    /// The session is open.
    Opened(SessionId),
    /// The session is closed.
    Closed,
    /// One for each command.
    Results(Vec<Result<Reply, CommandError>>),
}

impl Model {
    /// Nothing. The bounds are those of the engines.
    #[must_use]
    pub fn new(dedup_window_millis: u64, sessions_max: usize) -> Self {
        Self {
            queues: QueueModel::new(dedup_window_millis),
            sessions: BTreeMap::new(),
            session_last: SessionId::ZERO,
            sessions_max: sessions_max.max(1),
            idle_millis_max: dedup_window_millis,
            ordinal: 0,
        }
    }

    /// An entry of this stamp begins.
    pub fn advance(&mut self, now: Hlc) {
        self.queues.advance(now);
        let idle_millis_max = self.idle_millis_max;
        self.sessions.retain(|_, session| session.active_at.after_millis(idle_millis_max) >= now);
    }

    /// Applies a block. `context` is that of its first byte; `effects` gets what took effect.
    ///
    /// # Errors
    /// A command does not decode, which no client of ours sends.
    pub fn apply_block(
        &mut self,
        context: CommandContext,
        block: &Block<'_>,
        effects: &mut Vec<Effect>,
    ) -> Result<BlockReply, engine::queue::Invalid> {
        self.ordinal += 1;
        match block.kind {
            BlockKind::OpenSession => Ok(BlockReply::Opened(self.open(context.log_time))),
            BlockKind::CloseSession => {
                self.sessions.remove(&block.session);
                Ok(BlockReply::Closed)
            }
            BlockKind::Commands => self.apply_commands(context, block, effects),
        }
    }

    fn open(&mut self, now: Hlc) -> SessionId {
        if self.sessions.len() >= self.sessions_max {
            let idlest = self.sessions.iter().min_by_key(|(_, session)| session.active_ordinal);
            let idlest = *idlest.expect("there is at least one session").0;
            self.sessions.remove(&idlest);
        }
        self.session_last = self.session_last.next();
        let session = SessionModel {
            active_at: now,
            active_ordinal: self.ordinal,
            expected: Sequence(1),
            replies: BTreeMap::new(),
        };
        self.sessions.insert(self.session_last, session);
        self.session_last
    }

    fn apply_commands(
        &mut self,
        context: CommandContext,
        block: &Block<'_>,
        effects: &mut Vec<Effect>,
    ) -> Result<BlockReply, engine::queue::Invalid> {
        let id = block.session;
        let Some(session) = self.sessions.get_mut(&id) else {
            return Ok(BlockReply::Results(vec![Err(CommandError::SessionExpired); block.len()]));
        };
        session.active_at = context.log_time;
        session.active_ordinal = self.ordinal;
        session.replies.retain(|sequence, _| *sequence >= block.acked_below);
        let mut results = Vec::with_capacity(block.len());
        let mut sequence = block.first_sequence;
        for (offset, bytes) in block.commands() {
            let expected = session.expected;
            results.push(if sequence < expected {
                session.replies.get(&sequence).cloned().ok_or(CommandError::ReplyForgotten)
            } else if sequence > expected {
                Err(CommandError::SequenceGap { expected })
            } else {
                let offset = context.offset + u32::try_from(offset).expect("blocks are short");
                let command = Command::decode(bytes)?;
                let reply = self.queues.apply(CommandContext { offset, ..context }, &command);
                session.replies.insert(sequence, reply.clone());
                if session.replies.len() > SESSION_WINDOW {
                    session.replies.pop_first();
                }
                session.expected = sequence.next();
                let effect = Effect { session: id, sequence, command, reply: reply.clone() };
                effects.push(effect);
                Ok(reply)
            });
            sequence = sequence.next();
        }
        Ok(BlockReply::Results(results))
    }

    /// Open sessions.
    #[must_use]
    pub fn session_count(&self) -> usize {
        self.sessions.len()
    }
}
