//! The queues against a model that is too simple to be wrong: one list of all messages ever sent,
//! searched from end to end.
//!
//! Every reply is compared, then every queue and every read; the machine's own invariants are checked
//! after each step, and a second machine fed the same log must have the same digest and snapshot. Now
//! and then one of the two is restored from the other's snapshot.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

use engine::hlc::Hlc;
use engine::ids::{LeaseToken, LogIndex, MessageId, Position, Term};
use engine::limits::{self, Limits};
use engine::queue::{
    Browsed, Command, Delivered, Held, Message, MessageView, Query, QueueInfo, Queues, Receipt,
    ReceiveMode, Reply, Retention, Sent,
};
use engine::state_machine::{BodyChanges, BodyRef, CommandContext, StateMachine, Watched};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

/// Short enough that random sequences see ids forgotten.
const WINDOW_MILLIS: u64 = 50;
const QUEUES: [&str; 3] = ["a", "b", "queue with a longer name"];

fn limits() -> Limits {
    Limits { dedup_window_millis: WINDOW_MILLIS, ..Limits::default() }
}

// ---- the model ------------------------------------------------------------------------------------

#[derive(Clone, Copy, PartialEq, Debug)]
enum Place {
    Available,
    Leased { token: LeaseToken, until: Hlc },
    Delayed { until: Hlc },
    Gone,
}

#[derive(Clone, Debug)]
struct Known {
    id: MessageId,
    queue: String,
    receipt: Receipt,
    len: u32,
    attempts: u32,
    place: Place,
}

impl Known {
    fn until(&self) -> Option<Hlc> {
        match self.place {
            Place::Leased { until, .. } | Place::Delayed { until } => Some(until),
            Place::Available | Place::Gone => None,
        }
    }
}

#[derive(Default, Debug)]
struct Model {
    messages: Vec<Known>,
    sent_totals: BTreeMap<String, u64>,
    retentions: BTreeMap<String, Retention>,
    dropped_totals: BTreeMap<String, u64>,
    token: u64,
    now: Hlc,
}

impl Model {
    fn advance(&mut self, now: Hlc) {
        self.now = now;
        for message in &mut self.messages {
            if message.until().is_some_and(|until| until <= now) {
                message.place = Place::Available;
            }
        }
        self.drop_excess();
        self.forget();
    }

    /// The oldest available messages go until the rest is within the limits.
    fn drop_excess(&mut self) {
        for (queue, retention) in self.retentions.clone() {
            loop {
                let mut waiting = self.in_queue(&queue);
                waiting.retain(|at| self.messages[*at].place == Place::Available);
                let Some(first) = waiting.first() else { break };
                let is_over = |max: Option<u64>, has: u64| max.is_some_and(|max| has > max);
                let bytes = waiting.iter().map(|at| u64::from(self.messages[*at].len)).sum();
                let stamp = self.messages[*first].receipt.stamp;
                let is_too_old = retention
                    .max_age_millis
                    .is_some_and(|millis| stamp.after_millis(millis) <= self.now);
                let is_too_much = is_over(retention.max_messages, waiting.len() as u64)
                    || is_over(retention.max_bytes, bytes);
                if !is_too_old && !is_too_much {
                    break;
                }
                self.messages[*first].place = Place::Gone;
                *self.dropped_totals.entry(queue.clone()).or_default() += 1;
            }
        }
    }

    /// An id is known while its message is in a queue, and within the window.
    fn forget(&mut self) {
        let now = self.now;
        self.messages.retain(|message| {
            message.place != Place::Gone || message.receipt.stamp.after_millis(WINDOW_MILLIS) >= now
        });
    }

    fn in_queue(&self, queue: &str) -> Vec<usize> {
        let found = self.messages.iter().enumerate();
        let found = found.filter(|(_, m)| m.queue == queue && m.place != Place::Gone);
        found.map(|(at, _)| at).collect()
    }

    fn send(&mut self, context: CommandContext, messages: &[Message]) -> Reply {
        let mut offset = context.offset + 2;
        let mut each = Vec::new();
        for message in messages {
            let len = message.encode().len() as u32;
            offset += 4;
            let position = Position { index: context.index, offset };
            offset += len;
            if let Some(known) = self.messages.iter().find(|known| known.id == message.id) {
                each.push(Sent { receipt: known.receipt, duplicate: true });
                continue;
            }
            let receipt = Receipt { position, term: context.term, stamp: context.log_time };
            let (id, queue) = (message.id, message.to.clone());
            *self.sent_totals.entry(queue.clone()).or_default() += 1;
            let place = Place::Available;
            self.messages.push(Known { id, queue, receipt, len, attempts: 0, place });
            each.push(Sent { receipt, duplicate: false });
        }
        match each[..] {
            [one] => Reply::SentOne(one),
            _ => Reply::SentMany(each),
        }
    }

    fn receive(&mut self, queue: &str, max: u32, mode: ReceiveMode) -> Reply {
        let mut found = self.in_queue(queue);
        found.retain(|at| self.messages[*at].place == Place::Available);
        found.truncate(max as usize);
        let mut bytes = 0;
        found.retain(|at| {
            let is_first = bytes == 0;
            bytes += self.messages[*at].len as usize;
            is_first || bytes <= limits::DELIVERY_BYTES_TARGET
        });
        let (mut token, mut until) = (LeaseToken(0), Hlc(0));
        if let ReceiveMode::Lease { millis } = mode
            && !found.is_empty()
        {
            self.token += 1;
            (token, until) = (LeaseToken(self.token), self.now.after_millis(millis));
        }
        let mut deliveries = Vec::new();
        for at in found {
            let message = &mut self.messages[at];
            message.attempts += 1;
            message.place = match mode {
                ReceiveMode::Take => Place::Gone,
                ReceiveMode::Lease { .. } => Place::Leased { token, until },
            };
            let (position, len) = (message.receipt.position, message.len);
            deliveries.push(Delivered { position, len, attempt: message.attempts });
        }
        Reply::Received { token, until, deliveries }
    }

    fn settle(&mut self, queue: &str, held: &[Held], place: impl Fn(Place) -> Place) -> Reply {
        let mut each = Vec::new();
        for held in held {
            let now = self.now;
            let message = self.messages.iter_mut().find(|message| {
                message.queue == queue
                    && message.receipt.position == held.position
                    && matches!(message.place, Place::Leased { token, until }
                        if token == held.token && until > now)
            });
            each.push(message.is_some());
            if let Some(message) = message {
                message.place = place(message.place);
            }
        }
        Reply::Settled(each)
    }

    fn apply(&mut self, context: CommandContext, command: &Command) -> Reply {
        let reply = self.apply_one(context, command);
        self.drop_excess();
        reply
    }

    fn apply_one(&mut self, context: CommandContext, command: &Command) -> Reply {
        self.forget();
        let now = self.now;
        match command {
            Command::Send { messages } => self.send(context, messages),
            Command::Receive { queue, max, mode } => self.receive(queue, *max, *mode),
            Command::Acknowledge { queue, held } => self.settle(queue, held, |_| Place::Gone),
            Command::Nack { queue, held, delay_millis: 0 } => {
                self.settle(queue, held, |_| Place::Available)
            }
            Command::Nack { queue, held, delay_millis } => {
                let until = now.after_millis(*delay_millis);
                self.settle(queue, held, |_| Place::Delayed { until })
            }
            Command::Extend { queue, held, lease_millis } => {
                let until = now.after_millis(*lease_millis);
                self.settle(queue, held, |place| match place {
                    Place::Leased { token, .. } => Place::Leased { token, until },
                    other => other,
                })
            }
            Command::Delete { queue, ids } => {
                let mut each = Vec::new();
                for id in ids {
                    let found = self.in_queue(queue);
                    let found = found.into_iter().find(|at| self.messages[*at].id == *id);
                    each.push(found.is_some());
                    if let Some(at) = found {
                        self.messages[at].place = Place::Gone;
                    }
                }
                Reply::Deleted(each)
            }
            Command::Purge { queue } => {
                let found = self.in_queue(queue);
                for at in &found {
                    self.messages[*at].place = Place::Gone;
                }
                Reply::Purged(found.len() as u64)
            }
            Command::Configure { queue, retention } => {
                self.sent_totals.entry(queue.clone()).or_default();
                self.retentions.insert(queue.clone(), *retention);
                Reply::Configured
            }
        }
    }

    fn browsed(&self, at: usize) -> Browsed {
        let message = &self.messages[at];
        Browsed {
            receipt: message.receipt,
            len: message.len,
            attempts: message.attempts,
            unavailable_until: message.until(),
        }
    }

    fn browse(&self, queue: &str, after: Option<Position>, max: usize) -> Vec<Browsed> {
        let found = self.in_queue(queue).into_iter().map(|at| self.browsed(at));
        found.filter(|message| Some(message.receipt.position) > after).take(max).collect()
    }

    fn get(&self, queue: &str, id: MessageId) -> Option<Browsed> {
        let at = self.in_queue(queue).into_iter().find(|at| self.messages[*at].id == id)?;
        Some(self.browsed(at))
    }

    fn list(&self) -> Vec<QueueInfo> {
        let info = |(name, sent_total): (&String, &u64)| {
            let places: Vec<Place> =
                self.in_queue(name).into_iter().map(|at| self.messages[at].place).collect();
            let waiting = self.in_queue(name).into_iter().map(|at| &self.messages[at]);
            let waiting = waiting.filter(|message| message.place == Place::Available);
            let count = |wanted: fn(&Place) -> bool| {
                places.iter().filter(|place| wanted(place)).count() as u64
            };
            QueueInfo {
                name: name.clone(),
                available: count(|place| *place == Place::Available),
                leased: count(|place| matches!(place, Place::Leased { .. })),
                delayed: count(|place| matches!(place, Place::Delayed { .. })),
                sent_total: *sent_total,
                bytes: waiting.map(|message| u64::from(message.len)).sum(),
                dropped_total: self.dropped_totals.get(name).copied().unwrap_or(0),
                retention: self.retentions.get(name).copied().unwrap_or_default(),
            }
        };
        self.sent_totals.iter().map(info).collect()
    }

    fn live_entries(&self) -> BTreeSet<LogIndex> {
        let in_queues = self.messages.iter().filter(|message| message.place != Place::Gone);
        in_queues.map(|message| message.receipt.position.index).collect()
    }

    fn next_deadline(&self) -> Option<Hlc> {
        let holds = self.messages.iter().filter_map(Known::until);
        let ages = self.messages.iter().filter(|message| message.place == Place::Available);
        let ages = ages.filter_map(|message| {
            let millis = self.retentions.get(&message.queue)?.max_age_millis?;
            Some(message.receipt.stamp.after_millis(millis))
        });
        holds.chain(ages).min()
    }
}

// ---- random histories -----------------------------------------------------------------------------

/// What happens next; refers to what was received before by choice and not by value.
#[derive(Clone, Debug)]
enum Step {
    Send(Vec<(u8, usize, usize)>),
    Receive { queue: usize, max: u32, lease_millis: Option<u64> },
    Settle { queue: usize, picks: Vec<u8>, stale_token: bool, how: Settle },
    Delete { queue: usize, ids: Vec<u8> },
    Purge { queue: usize },
    Configure { queue: usize, limits: [Option<u64>; 3] },
    Wait { millis: u64 },
    Restore,
}

#[derive(Clone, Copy, Debug)]
enum Settle {
    Acknowledge,
    Nack(u64),
    Extend(u64),
}

fn id(number: u8) -> MessageId {
    MessageId([number; 16])
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let queue = 0..QUEUES.len();
    let message = (0u8..60, queue.clone(), 0usize..40);
    let settle = prop_oneof![
        3 => Just(Settle::Acknowledge),
        1 => Just(Settle::Nack(0)),
        1 => (1u64..60).prop_map(Settle::Nack),
        1 => (1u64..60).prop_map(Settle::Extend),
    ];
    let limits = [1u64..60, 1u64..400, 1u64..8].map(prop::option::of);
    let settled = (queue.clone(), prop::collection::vec(any::<u8>(), 1..6), any::<u8>(), settle);
    let step = prop_oneof![
        6 => prop::collection::vec(message, 1..6).prop_map(Step::Send),
        6 => (queue.clone(), 1u32..8, prop::option::weighted(0.8, 1u64..60))
            .prop_map(|(queue, max, lease_millis)| Step::Receive { queue, max, lease_millis }),
        6 => settled.prop_map(|(queue, picks, stale, how)| {
            Step::Settle { queue, picks, stale_token: stale < 40, how }
        }),
        2 => (queue.clone(), prop::collection::vec(0u8..60, 1..4))
            .prop_map(|(queue, ids)| Step::Delete { queue, ids }),
        1 => queue.clone().prop_map(|queue| Step::Purge { queue }),
        2 => (queue, limits).prop_map(|(queue, limits)| Step::Configure { queue, limits }),
        4 => (1u64..40).prop_map(|millis| Step::Wait { millis }),
        3 => Just(Step::Restore),
    ];
    prop::collection::vec(step, 1..80)
}

struct Run {
    model: Model,
    machine: Queues,
    twin: Queues,
    /// What the body changes of `machine` and of `twin` add up to.
    live: [BTreeSet<LogIndex>; 2],
    context: CommandContext,
    received: Vec<Held>,
}

impl Run {
    fn new() -> Self {
        let log_time = Hlc::from_millis(1_000);
        let context = CommandContext { term: Term(1), index: LogIndex(0), log_time, offset: 0 };
        Self {
            model: Model::default(),
            machine: Queues::new(&limits()),
            twin: Queues::new(&limits()),
            live: [BTreeSet::new(), BTreeSet::new()],
            context,
            received: Vec::new(),
        }
    }

    fn next_entry(&mut self, millis: u64) {
        let context = &mut self.context;
        context.index = context.index.next();
        context.term = Term(1 + context.index.0 / 7);
        context.offset = 32;
        context.log_time = context.log_time.next().after_millis(millis);
        self.model.advance(context.log_time);
        self.machine.advance(context.log_time);
        self.twin.advance(context.log_time);
    }

    fn command(&self, step: &Step) -> Option<Command> {
        let name = |queue: &usize| QUEUES[*queue].to_string();
        Some(match step {
            Step::Send(messages) => Command::Send {
                messages: messages.iter().map(|(n, to, body)| message(*n, *to, *body)).collect(),
            },
            Step::Receive { queue, max, lease_millis } => {
                let mode =
                    lease_millis.map_or(ReceiveMode::Take, |millis| ReceiveMode::Lease { millis });
                Command::Receive { queue: name(queue), max: *max, mode }
            }
            Step::Settle { queue, picks, stale_token, how } => {
                let pick = |pick: &u8| {
                    let recent = self.received.iter().rev().take(12).collect::<Vec<_>>();
                    let mut held = **recent.get(usize::from(*pick) % recent.len().max(1))?;
                    if *stale_token {
                        held.token = LeaseToken(held.token.0 - 1);
                    }
                    Some(held)
                };
                let held: Vec<Held> = picks.iter().filter_map(pick).collect();
                let queue = name(queue);
                match how {
                    _ if held.is_empty() => return None,
                    Settle::Acknowledge => Command::Acknowledge { queue, held },
                    Settle::Nack(delay_millis) => {
                        Command::Nack { queue, held, delay_millis: *delay_millis }
                    }
                    Settle::Extend(lease_millis) => {
                        Command::Extend { queue, held, lease_millis: *lease_millis }
                    }
                }
            }
            Step::Delete { queue, ids } => {
                Command::Delete { queue: name(queue), ids: ids.iter().map(|n| id(*n)).collect() }
            }
            Step::Purge { queue } => Command::Purge { queue: name(queue) },
            Step::Configure { queue, limits: [max_age_millis, max_bytes, max_messages] } => {
                let (max_age_millis, max_bytes) = (*max_age_millis, *max_bytes);
                let max_messages = *max_messages;
                let retention = Retention { max_age_millis, max_bytes, max_messages };
                Command::Configure { queue: name(queue), retention }
            }
            Step::Wait { .. } | Step::Restore => return None,
        })
    }

    fn perform(&mut self, step: &Step, new_entry: bool) {
        match step {
            Step::Wait { millis } => self.next_entry(*millis),
            Step::Restore => self.restore(),
            _ if new_entry || self.context.index == LogIndex(0) => self.next_entry(0),
            _ => {}
        }
        let Some(command) = self.command(step) else { return };
        let mut bytes = Vec::new();
        command.encode_into(&mut bytes);
        assert_eq!(Command::decode(&bytes), Ok(command.clone()));
        assert_eq!(self.machine.validate(&bytes), Ok(()));
        let expected = self.model.apply(self.context, &command);
        let reply = self.machine.apply(self.context, &bytes);
        assert_eq!(reply, expected, "{command:?}");
        assert_eq!(self.twin.apply(self.context, &bytes), expected);
        if let Reply::Received { token, deliveries, .. } = &reply {
            let leased = deliveries.iter().filter(|_| *token != LeaseToken::ZERO);
            self.received.extend(leased.map(|d| Held { position: d.position, token: *token }));
        }
        let mut bodies = Vec::new();
        Queues::bodies(&reply, &mut bodies);
        check_bodies(&reply, &bodies);
        self.context.offset += 4 + bytes.len() as u32;
    }

    /// For a machine that is no longer in the model's state.
    fn perform_unmodelled(&mut self, step: &Step) {
        self.next_entry(if let Step::Wait { millis } = step { *millis } else { 0 });
        let Some(command) = self.command(step) else { return };
        let mut bytes = Vec::new();
        command.encode_into(&mut bytes);
        self.machine.apply(self.context, &bytes);
    }

    /// From now on the model is compared with a machine that has another history.
    fn restore(&mut self) {
        std::mem::swap(&mut self.machine, &mut self.twin);
        self.live.swap(0, 1);
        self.machine.restore(&snapshot(&self.twin)).unwrap();
        self.live[0] = live_entries(&self.machine);
    }

    /// Begun without ended is what is live, whenever somebody looks.
    fn follow_body_changes(&mut self) {
        for (machine, live) in [&mut self.machine, &mut self.twin].into_iter().zip(&mut self.live) {
            let mut changes = BodyChanges::default();
            machine.take_body_changes(&mut changes);
            for index in changes.begun {
                assert!(live.insert(index), "entry {index} begins twice");
            }
            for index in changes.ended {
                assert!(live.remove(&index), "entry {index} ends and has not begun");
            }
            assert_eq!(*live, live_entries(machine));
            assert_eq!(*live, self.model.live_entries());
        }
    }

    fn compare(&self) {
        self.machine.check_invariants();
        assert_eq!(self.machine.digest(), self.twin.digest());
        assert_eq!(snapshot(&self.machine), snapshot(&self.twin));
        let query = |query: Query| self.machine.query(&query.encode());
        let infos = self.model.list();
        assert_eq!(self.machine.queue_count(), infos.len() as u64);
        let in_queues = |info: &QueueInfo| info.available + info.leased + info.delayed;
        assert_eq!(self.machine.message_count(), infos.iter().map(in_queues).sum::<u64>());
        assert_eq!(query(Query::List { after: None, max: 10 }), Reply::Queues(infos.clone()));
        let after_a = infos.iter().filter(|info| *info.name > *"a").take(1).cloned().collect();
        assert_eq!(query(Query::List { after: Some("a".into()), max: 1 }), Reply::Queues(after_a));
        // What was taken from the front of a queue with limits is looked for when it would have been due.
        match (self.machine.next_deadline(), self.model.next_deadline()) {
            (None, None) => {}
            (Some(deadline), Some(expected)) => assert!(deadline <= expected),
            (Some(deadline), None) => assert!(deadline > self.context.log_time),
            (None, Some(_)) => panic!("a deadline is missed"),
        }
        if self.model.retentions.is_empty() {
            assert_eq!(self.machine.next_deadline(), self.model.next_deadline());
        }
        for name in QUEUES {
            let queue = name.to_string();
            let all = self.model.browse(name, None, 4_096);
            let browse = Query::Browse { queue: queue.clone(), after: None, max: 4_096 };
            assert_eq!(query(browse), Reply::Browsed(all.clone()));
            for seen in all {
                let after = Some(seen.receipt.position);
                let page = Query::Browse { queue: queue.clone(), after, max: 2 };
                assert_eq!(query(page), Reply::Browsed(self.model.browse(name, after, 2)));
            }
            let is_available = infos.iter().any(|info| info.name == name && info.available > 0);
            let watch = Query::Available { queue: queue.clone() };
            assert_eq!(query(watch.clone()), Reply::Available(is_available));
            let watched = self.machine.watch(&watch.encode());
            assert_eq!(watched == Watched::Ready, is_available);
            for number in 0..60 {
                let get = Query::Get { queue: queue.clone(), id: id(number) };
                assert_eq!(query(get), Reply::Got(self.model.get(name, id(number))));
            }
        }
    }
}

fn live_entries(machine: &Queues) -> BTreeSet<LogIndex> {
    let mut live = Vec::new();
    machine.live_entries(&mut live);
    assert!(live.is_sorted_by(|a, b| a < b), "rising, each once");
    BTreeSet::from_iter(live)
}

fn snapshot(machine: &Queues) -> Vec<u8> {
    let mut bytes = Vec::new();
    machine.snapshot(&mut bytes);
    bytes
}

fn check_bodies(reply: &Reply, bodies: &[BodyRef]) {
    match reply {
        Reply::Received { deliveries, .. } => {
            let wanted = deliveries.iter().map(|d| BodyRef { position: d.position, len: d.len });
            assert!(wanted.eq(bodies.iter().copied()));
        }
        _ => assert!(bodies.is_empty()),
    }
}

fn message(number: u8, queue: usize, body: usize) -> Message {
    Message {
        id: id(number),
        from: "model".into(),
        to: QUEUES[queue].into(),
        sent_at: Hlc(u64::from(number)),
        headers: vec![("n".into(), number.to_string())],
        body: vec![number; body],
    }
}

fn send(messages: Vec<Message>) -> Vec<u8> {
    let mut bytes = Vec::new();
    Command::Send { messages }.encode_into(&mut bytes);
    bytes
}

fn any_message() -> impl Strategy<Value = Message> {
    let header = (".{0,12}", ".{0,12}");
    let headers = prop::collection::vec(header, 0..5);
    let body = prop::collection::vec(any::<u8>(), 0..300);
    (any::<[u8; 16]>(), ".{0,20}", ".{0,20}", any::<u64>(), headers, body).prop_map(
        |(id, from, to, sent_at, headers, body)| Message {
            id: MessageId(id),
            from,
            to,
            sent_at: Hlc(sent_at),
            headers,
            body,
        },
    )
}

/// Random bytes, and well-formed ones with a byte changed or the end cut off.
fn damaged_bytes() -> impl Strategy<Value = Vec<u8>> {
    let random = prop::collection::vec(any::<u8>(), 0..80);
    let tagged = (1u8..9, random.clone()).prop_map(|(tag, mut bytes)| {
        bytes.splice(0..0, [tag, 1]);
        bytes
    });
    let damaged = (any_message(), any::<prop::sample::Index>(), any::<u8>(), any::<bool>())
        .prop_map(|(message, at, value, cut)| {
            let mut bytes = send(vec![message]);
            let at = at.index(bytes.len());
            bytes[at] = value;
            bytes.truncate(if cut { at } else { bytes.len() });
            bytes
        });
    prop_oneof![random, tagged, damaged]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn queues_answer_like_the_model(
        steps in steps(),
        new_entries in prop::collection::vec(any::<bool>(), 80),
    ) {
        let mut run = Run::new();
        for (step, new_entry) in steps.iter().zip(new_entries) {
            run.perform(step, new_entry);
            run.compare();
            // Now and then several steps, of one entry too, add up first.
            if new_entry {
                run.follow_body_changes();
            }
        }
    }

    #[test]
    fn a_snapshot_in_pieces_is_that_of_when_it_began(
        before in steps(),
        during in steps(),
        pieces in prop::collection::vec(0usize..200, 80),
        restored: bool,
    ) {
        let mut run = Run::new();
        before.iter().for_each(|step| run.perform(step, true));
        if restored {
            run.restore();
        }
        let expected = snapshot(&run.machine);
        let mut written = Vec::new();
        run.machine.begin_snapshot();
        let mut is_whole = false;
        // The first piece may be small, but comes before anything changes.
        for (step, bytes_max) in during.iter().zip(pieces) {
            is_whole = is_whole || run.machine.snapshot_piece(bytes_max, &mut written);
            let is_restored = matches!(step, Step::Restore);
            if !is_restored {
                run.perform(step, true);
            }
            run.machine.check_invariants();
            prop_assert_eq!(run.machine.digest(), run.twin.digest());
        }
        while !is_whole {
            is_whole = run.machine.snapshot_piece(100, &mut written);
        }
        prop_assert_eq!(&written, &expected);
        prop_assert_eq!(snapshot(&run.machine), snapshot(&run.twin));
    }

    #[test]
    fn a_damaged_snapshot_is_refused_or_a_sound_state(
        before in steps(),
        after in steps(),
        at in any::<prop::sample::Index>(),
        value: u8,
        cut: bool,
    ) {
        let mut run = Run::new();
        before.iter().for_each(|step| run.perform(step, true));
        let mut bytes = snapshot(&run.machine);
        let at = at.index(bytes.len());
        bytes[at] = value;
        bytes.truncate(if cut { at } else { bytes.len() });
        if run.machine.restore(&bytes).is_err() {
            return Ok(());
        }
        run.machine.check_invariants();
        let mut again = Queues::new(&limits());
        again.restore(&snapshot(&run.machine)).unwrap();
        prop_assert_eq!(again.digest(), run.machine.digest());
        // Behind all entries and stamps that the damaged bytes may tell.
        run.context.index = LogIndex(1 << 62);
        run.context.log_time = Hlc(u64::MAX / 2);
        for step in &after {
            run.perform_unmodelled(step);
            run.machine.check_invariants();
        }
    }

    #[test]
    fn messages_survive_encoding_and_the_view_agrees(message in any_message()) {
        let bytes = message.encode();
        prop_assert_eq!(&Message::decode(&bytes).unwrap(), &message);
        let view = MessageView::parse(&bytes).unwrap();
        prop_assert_eq!(
            (view.id, view.from, view.to, view.sent_at, view.body, view.headers.count),
            (message.id, &*message.from, &*message.to, message.sent_at, &*message.body,
                message.headers.len())
        );
    }

    #[test]
    fn damaged_bytes_are_answered_and_never_panic(bytes in damaged_bytes()) {
        let mut queues = Queues::new(&limits());
        let context =
            CommandContext { term: Term(1), index: LogIndex(1), log_time: Hlc(1), offset: 0 };
        queues.query(&bytes);
        queues.watch(&bytes);
        let is_valid = queues.validate(&bytes).is_ok();
        let reply = queues.apply(context, &bytes);
        prop_assert_eq!(is_valid, !matches!(reply, Reply::Invalid(_)));
        prop_assert_eq!(MessageView::parse(&bytes).is_ok(), Message::decode(&bytes).is_ok());
        if is_valid {
            let command = Command::decode(&bytes).unwrap();
            let mut again = Vec::new();
            command.encode_into(&mut again);
            prop_assert_eq!(Command::decode(&again), Ok(command));
        }
        queues.check_invariants();
    }

    #[test]
    fn the_view_accepts_what_decoding_accepts(
        message in any_message(), at in any::<prop::sample::Index>(), value: u8,
    ) {
        let mut bytes = message.encode();
        let at = at.index(bytes.len());
        bytes[at] = value;
        prop_assert_eq!(MessageView::parse(&bytes).is_ok(), Message::decode(&bytes).is_ok());
    }
}
