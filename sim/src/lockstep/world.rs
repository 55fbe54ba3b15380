//! The event loop: delivers, turns, performs, and lets the oracles watch.
//!
//! Owns simulated time and everything in it. One event at a time, in the order of time and of its
//! making; every random decision comes from a named stream of the scenario's seed.
//! Next: `faults` for the events that break things, `verify` for the rules.

use super::admin::Admin;
use super::client::{Client, Surroundings, Wish};
use super::event::{Event, EventQueue, Payload, fingerprint};
use super::network::{Address, Links};
use super::node::{ADMIN, Arrival, Node, Standstill, address};
use crate::history::{CommittedLog, History};
use crate::oracle::committed::Committed;
use crate::oracle::digests::Digests;
use crate::oracle::leaders::Leaders;
use crate::oracle::quorums::Votes;
use crate::oracle::snapshots::Snapshots;
use crate::oracle::{Rule, Violation};
use crate::outcome::{Counts, Outcome, Verdict};
use crate::scenario::{CLUSTER, GROUP, Moment, Scenario};
use crate::streams::Stream;
use crate::trace::Trace;
use bytes::{Bytes, BytesMut};
use engine::api::Response;
use engine::ids::NodeId;
use engine::queue::Reply;
use engine::raft::{Body, Membership, Message};
use engine::record::{ChecksumSeed, Record};
use engine::replica::Effect;
use engine::storage::disk::{DiskOp, Job};
use engine::wire::{peer, take_frame};
use std::collections::VecDeque;

/// A pause between two looks at whether the cluster has converged, microseconds.
const CHECK_EVERY_US: u64 = 50_000;
/// Messages among nodes that the network can repeat.
const SENT_LATELY_MAX: usize = 32;
/// Turns in a row that come by deadline alone, a microsecond apart, before a node is said to spin.
const SPIN_TURNS_MAX: u32 = 1_000;
/// Events after which a run is given up: a hundred times what the busiest drawn scenario needs.
const EVENTS_PER_RUN_MAX: u64 = 10_000_000;
/// Longest disk job on a repaired disk, microseconds.
const HEALED_DISK_LATENCY_US_MAX: u64 = 500;

/// A cluster, its clients and its world.
#[derive(Debug)]
pub(super) struct World<'s> {
    pub(super) scenario: &'s Scenario,
    pub(super) now_us: u64,
    pub(super) events: EventQueue,
    pub(super) links: Links,
    pub(super) nodes: Vec<Node>,
    pub(super) clients: Vec<Client>,
    pub(super) admin: Admin,
    admin_wake_us: Option<u64>,
    /// When each client's wake-up is scheduled.
    pub(super) wakes: Vec<Option<u64>>,
    /// What the next leaders are caught at, and whether their followers blink.
    pub(super) ambush: (VecDeque<Moment>, bool),
    /// The last leader that was caught.
    pub(super) ambushed: Option<u64>,
    /// What nodes sent to nodes last.
    sent_lately: VecDeque<(Address, Address, Payload)>,
    pub(super) is_healed: bool,
    pub(super) has_converged: bool,
    pub(super) history: History,
    pub(super) committed: Committed,
    pub(super) leaders: Leaders,
    pub(super) votes: Votes,
    snapshots: Snapshots,
    pub(super) digests: Digests,
    /// How often a disk was struck, and how often the atlas did not allow it.
    pub(super) damages: (u64, u64),
    pub(super) trace: Trace,
    /// Disk latencies and turn delays.
    pace: Stream,
    record_seed: ChecksumSeed,
    effects: Vec<Effect<Reply>>,
    wishes: Vec<Wish>,
}

/// Kinds of events in the trace's hash.
mod kind {
    pub(super) const PEER: u8 = 1;
    pub(super) const CALL: u8 = 2;
    pub(super) const DISCONNECT: u8 = 3;
    pub(super) const RESPONSE: u8 = 4;
    pub(super) const TURN: u8 = 5;
    pub(super) const DISK: u8 = 6;
    pub(super) const WAKE: u8 = 7;
    pub(super) const FAULT: u8 = 8;
    pub(super) const REPAIR: u8 = 9;
    pub(super) const APPLIED: u8 = 10;
    pub(super) const ROLE: u8 = 11;
    pub(super) const OTHER: u8 = 12;
}

impl<'s> World<'s> {
    /// The world of a scenario at time 0, with nothing running yet.
    #[must_use]
    pub(super) fn new(scenario: &'s Scenario, trace: Trace) -> Self {
        let nodes = (1..=scenario.machines()).map(|node| Node::new(scenario, NodeId(node)));
        let clients = (0..scenario.workload.clients).map(|client| Client::new(scenario, client));
        let clients: Vec<Client> = clients.collect();
        let mut world = Self {
            scenario,
            now_us: 0,
            events: EventQueue::default(),
            links: Links::new(scenario.seed, &scenario.network),
            nodes: nodes.collect(),
            wakes: vec![None; clients.len()],
            clients,
            ambush: (VecDeque::new(), false),
            sent_lately: VecDeque::new(),
            ambushed: None,
            is_healed: false,
            has_converged: false,
            history: History::default(),
            committed: Committed::new(Membership::founding(scenario.founders(NodeId(1), address))),
            leaders: Leaders::default(),
            votes: Votes::default(),
            snapshots: Snapshots::default(),
            admin: Admin::new(scenario),
            admin_wake_us: None,
            digests: Digests::default(),
            damages: (0, 0),
            trace,
            pace: Stream::new(scenario.seed, "pace"),
            record_seed: ChecksumSeed::of(CLUSTER, GROUP),
            effects: Vec::new(),
            wishes: Vec::new(),
        };
        for (ordinal, fault) in scenario.faults.iter().enumerate() {
            world.events.push(fault.at_ms * 1_000, Event::Fault(ordinal));
        }
        world.events.push(scenario.healed_us(), Event::Repair);
        world
    }

    /// Runs to convergence, or to the first violation.
    ///
    /// # Errors
    /// The rule that does not hold.
    pub(super) fn run(&mut self) -> Result<(), Violation> {
        for node in 1..=self.scenario.machines() {
            self.start_node(node)?;
        }
        self.schedule_admin();
        for client in 0..self.clients.len() {
            self.schedule_wake(client);
        }
        while !self.has_converged {
            let (at_us, event) = self.events.pop().expect("a check is always scheduled");
            self.now_us = at_us;
            self.handle(event)?;
            if self.trace.events() > EVENTS_PER_RUN_MAX {
                let explanation = format!("no end in sight after {EVENTS_PER_RUN_MAX} events");
                return Err(Violation::new(Rule::Progress, at_us, explanation));
            }
        }
        self.verify_all()
    }

    /// How the run ended.
    #[must_use]
    pub(super) fn outcome(&self, result: Result<(), Violation>) -> Outcome {
        let answered = self.history.operations.iter().filter(|one| one.reply().is_some());
        Outcome {
            seed: self.scenario.seed,
            verdict: result.map_or_else(Verdict::from, |()| Verdict::Ok),
            trace_hash: self.trace.hash(),
            counts: Counts {
                events: self.trace.events(),
                simulated_us: self.now_us,
                operations: self.history.operations.len() as u64,
                answered: answered.count() as u64,
                entries: self.committed.log().last_index().0,
                leaders: self.leaders.count() as u64,
                lives: self.nodes.iter().map(|node| node.life).sum(),
                damaged: self.damages.0,
                excused: self.nodes.iter().filter(|node| node.is_excused()).count() as u64,
            },
        }
    }

    /// What the clients saw, and what was committed.
    #[must_use]
    pub(super) fn into_records(self) -> (History, CommittedLog) {
        (self.history, self.committed.log().clone())
    }

    fn handle(&mut self, event: Event) -> Result<(), Violation> {
        match event {
            Event::Packet { from, to: Address::Node(node), payload } => {
                self.on_packet_at_node(from, node, payload)
            }
            Event::Packet { from: _, to: Address::Client(client), payload } => {
                self.on_packet_at_client(client, payload)
            }
            Event::Turn { node, life } => self.on_turn(node, life),
            Event::Deadline { node, life } => self.on_deadline(node, life),
            Event::DiskDone { node, life, job } => {
                self.aim(node);
                let machine = self.node(node);
                if machine.life == life
                    && let Some(done) = machine.perform(job)
                {
                    let numbers = [job.0, u64::from(done.result.is_ok())];
                    self.trace.event(self.now_us, kind::DISK, node, numbers);
                    self.arrive(node, Arrival::Disk(done));
                }
                Ok(())
            }
            Event::Wake { client } => self.on_wake(client),
            Event::WakeAdmin => {
                self.wake_admin();
                Ok(())
            }
            Event::Packet { from: _, to: Address::Admin, payload } => {
                self.on_packet_at_admin(payload)
            }
            Event::Fault(ordinal) => {
                self.trace.event(self.now_us, kind::FAULT, 0, [ordinal as u64, 0]);
                let fault = self.scenario.faults[ordinal].fault.clone();
                self.on_fault(fault)
            }
            Event::FollowUp(fault) => {
                self.trace.event(self.now_us, kind::FAULT, 1, [0, 0]);
                self.on_fault(fault)
            }
            Event::Ambush { leader, blink } => self.on_ambush(leader, blink),
            Event::Repair => {
                self.trace.event(self.now_us, kind::REPAIR, 0, [0, 0]);
                self.repair()?;
                self.events.push(self.now_us + CHECK_EVERY_US, Event::Check);
                Ok(())
            }
            Event::Check => {
                self.check_convergence()?;
                self.events.push(self.now_us + CHECK_EVERY_US, Event::Check);
                Ok(())
            }
        }
    }

    pub(super) fn node(&mut self, node: u64) -> &mut Node {
        &mut self.nodes[usize::try_from(node - 1).expect("nodes are few")]
    }

    /// Starts a node's process, if it does not run.
    pub(super) fn start_node(&mut self, node: u64) -> Result<(), Violation> {
        let (now_us, scenario) = (self.now_us, self.scenario);
        let machine = self.node(node);
        let was_running = machine.replica.is_some();
        machine.start(now_us, scenario)?;
        if !was_running && machine.replica.is_some() {
            self.schedule_turn(node);
        }
        Ok(())
    }

    /// A line of the readable trace about a node.
    pub(super) fn tell(&mut self, node: u64, what: std::fmt::Arguments<'_>) {
        if self.trace.is_read() {
            let role = self.node(node).role_sign();
            self.trace.line(self.now_us, &format!("n{node}"), role, what);
        }
    }

    fn on_packet_at_node(
        &mut self,
        from: Address,
        node: u64,
        payload: Payload,
    ) -> Result<(), Violation> {
        let now_us = self.now_us;
        match (payload, from) {
            (Payload::PeerBytes(bytes), Address::Node(from)) => {
                let message = self.decode(&bytes)?;
                self.on_message(NodeId(from), node, message);
            }
            (Payload::Peer(message), Address::Node(from)) => {
                self.on_message(NodeId(from), node, message);
            }
            (Payload::Call(number, call), Address::Client(client)) => {
                self.trace.event(now_us, kind::CALL, node, [client, number]);
                self.tell(node, format_args!("c{client} asks {number}: {call:?}"));
                self.arrive(node, Arrival::Call(client, number, call));
            }
            (Payload::Call(number, call), Address::Admin) => {
                self.trace.event(now_us, kind::CALL, node, [ADMIN, number]);
                self.tell(node, format_args!("operator asks {number}: {call:?}"));
                self.arrive(node, Arrival::Call(ADMIN, number, call));
            }
            (Payload::Disconnect, Address::Client(client)) => {
                self.trace.event(now_us, kind::DISCONNECT, node, [client, 0]);
                self.arrive(node, Arrival::Disconnected(client));
            }
            (payload, from) => unreachable!("{from:?} does not send {payload:?}"),
        }
        Ok(())
    }

    fn on_message(&mut self, from: NodeId, node: u64, message: Message) {
        self.trace.event(self.now_us, kind::PEER, from.0 << 8 | node, fingerprint(&message));
        if self.trace.is_read() {
            self.tell(node, format_args!("hears n{from}: {}", describe(&message)));
        }
        self.arrive(node, Arrival::Peer(from, message));
    }

    fn on_packet_at_client(&mut self, client: u64, payload: Payload) -> Result<(), Violation> {
        let Payload::Response(number, life, response) = payload else {
            unreachable!("only responses go to clients")
        };
        self.trace.event(self.now_us, kind::RESPONSE, client, [number, 0]);
        if self.trace.is_read() {
            let name = format!("c{client}");
            self.trace.line(self.now_us, &name, ' ', format_args!("answer {number}: {response:?}"));
        }
        let ordinal = usize::try_from(client).expect("clients are few");
        let mut wishes = std::mem::take(&mut self.wishes);
        let (now_us, history) = (self.now_us, &mut self.history);
        let mut around = Surroundings { now_us, history, wishes: &mut wishes };
        self.clients[ordinal].answer(number, life, response, &mut around)?;
        self.perform_wishes(Address::Client(client), wishes);
        self.schedule_wake(ordinal);
        Ok(())
    }

    fn on_wake(&mut self, client: u64) -> Result<(), Violation> {
        let ordinal = usize::try_from(client).expect("clients are few");
        if self.wakes[ordinal] != Some(self.now_us) {
            return Ok(());
        }
        self.wakes[ordinal] = None;
        self.trace.event(self.now_us, kind::WAKE, client, [0, 0]);
        let mut wishes = std::mem::take(&mut self.wishes);
        let (now_us, history) = (self.now_us, &mut self.history);
        let mut around = Surroundings { now_us, history, wishes: &mut wishes };
        self.clients[ordinal].wake(&mut around);
        self.perform_wishes(Address::Client(client), wishes);
        self.schedule_wake(ordinal);
        Ok(())
    }

    fn on_packet_at_admin(&mut self, payload: Payload) -> Result<(), Violation> {
        let Payload::Response(number, _, response) = payload else {
            unreachable!("only responses go to the operator")
        };
        self.trace.event(self.now_us, kind::RESPONSE, ADMIN, [number, 0]);
        if self.trace.is_read() {
            self.trace.line(self.now_us, "op", ' ', format_args!("answer {number}: {response:?}"));
        }
        self.admin.answer(self.now_us, number, response, &mut self.history)?;
        self.schedule_admin();
        Ok(())
    }

    fn wake_admin(&mut self) {
        if self.admin_wake_us != Some(self.now_us) {
            return;
        }
        self.admin_wake_us = None;
        self.trace.event(self.now_us, kind::WAKE, ADMIN, [0, 0]);
        let mut wishes = std::mem::take(&mut self.wishes);
        let (_, membership) = self.committed.memberships().newest();
        self.admin.wake(self.now_us, membership, &mut wishes);
        self.perform_wishes(Address::Admin, wishes);
        self.schedule_admin();
    }

    /// Lets the operator wake when it wants to.
    pub(super) fn schedule_admin(&mut self) {
        let Some(at_us) = self.admin.next_wake_us() else { return };
        let at_us = at_us.max(self.now_us + 1);
        if self.admin_wake_us.is_none_or(|scheduled_us| at_us < scheduled_us) {
            self.admin_wake_us = Some(at_us);
            self.events.push(at_us, Event::WakeAdmin);
        }
    }

    /// Lets a client begin.
    pub(super) fn start_client(&mut self, client: u64) {
        let ordinal = usize::try_from(client).expect("clients are few");
        self.wakes[ordinal] = Some(self.now_us + 1);
        self.events.push(self.now_us + 1, Event::Wake { client });
    }

    pub(super) fn schedule_wake(&mut self, client: usize) {
        let Some(at_us) = self.clients[client].next_wake_us() else { return };
        let at_us = at_us.max(self.now_us + 1);
        if self.wakes[client].is_none_or(|scheduled_us| at_us < scheduled_us) {
            self.wakes[client] = Some(at_us);
            self.events.push(at_us, Event::Wake { client: client as u64 });
        }
    }

    fn perform_wishes(&mut self, from: Address, mut wishes: Vec<Wish>) {
        for wish in wishes.drain(..) {
            let (to, payload) = match wish {
                Wish::Send { to, request, call } => (to, Payload::Call(request, call)),
                Wish::Disconnect { from } => (from, Payload::Disconnect),
            };
            self.send(from, Address::Node(to), payload);
        }
        self.wishes = wishes;
    }

    /// The network repeats what nodes sent to one another last, as far as the links allow.
    pub(super) fn repeat_lately_sent(&mut self) {
        for (from, to, payload) in self.sent_lately.clone() {
            self.send(from, to, payload);
        }
    }

    fn send(&mut self, from: Address, to: Address, payload: Payload) {
        if let (Address::Node(_), Address::Node(_)) = (from, to)
            && !self.ambush.0.is_empty()
        {
            if self.sent_lately.len() == SENT_LATELY_MAX {
                self.sent_lately.pop_front();
            }
            self.sent_lately.push_back((from, to, payload.clone()));
        }
        match self.links.arrivals(self.now_us, from, to) {
            [None, None] => {}
            [Some(span_us), None] | [None, Some(span_us)] => {
                self.events.push(self.now_us + span_us, Event::Packet { from, to, payload });
            }
            [Some(first_us), Some(second_us)] => {
                let copy = Event::Packet { from, to, payload: payload.clone() };
                self.events.push(self.now_us + first_us, copy);
                self.events.push(self.now_us + second_us, Event::Packet { from, to, payload });
            }
        }
    }

    fn arrive(&mut self, node: u64, arrival: Arrival) {
        self.node(node).arrive(arrival);
        self.schedule_turn(node);
    }

    /// Lets a node's loop turn soon, if nothing has asked for that before.
    pub(super) fn schedule_turn(&mut self, node: u64) {
        let delay_us_max = if self.is_healed { 0 } else { self.scenario.turns.delay_us_max };
        let machine = self.node(node);
        if machine.has_turn || !machine.is_running() {
            return;
        }
        machine.has_turn = true;
        let life = machine.life;
        let delay_us = if delay_us_max == 0 { 0 } else { self.pace.between(0, delay_us_max) };
        self.events.push(self.now_us + delay_us, Event::Turn { node, life });
    }

    /// Lets a node's loop turn when its replica wants it.
    pub(super) fn schedule_deadline(&mut self, node: u64) {
        let now_us = self.now_us;
        let machine = self.node(node);
        let deadline = machine.replica.as_ref().and_then(|replica| replica.next_deadline());
        let Some(deadline) = deadline else { return };
        let at_us = machine.clock.when(deadline, now_us + 1);
        if machine.deadline_us.is_none_or(|scheduled_us| at_us < scheduled_us) {
            machine.deadline_us = Some(at_us);
            let life = machine.life;
            self.events.push(at_us, Event::Deadline { node, life });
        }
    }

    fn on_deadline(&mut self, node: u64, life: u64) -> Result<(), Violation> {
        let now_us = self.now_us;
        let machine = self.node(node);
        if machine.life != life || machine.deadline_us != Some(now_us) {
            return Ok(());
        }
        machine.deadline_us = None;
        if !machine.is_running() || machine.has_turn {
            return Ok(());
        }
        let now = machine.clock.now(now_us).monotonic;
        let deadline = machine.replica.as_ref().and_then(|replica| replica.next_deadline());
        if deadline.is_some_and(|deadline| deadline <= now) {
            return self.turn(node);
        }
        self.schedule_deadline(node);
        Ok(())
    }

    fn on_turn(&mut self, node: u64, life: u64) -> Result<(), Violation> {
        let machine = self.node(node);
        // A pause holds the turn back; going on schedules another.
        if machine.life != life || !std::mem::take(&mut machine.has_turn) || !machine.is_running() {
            return Ok(());
        }
        self.turn(node)
    }

    fn turn(&mut self, node: u64) -> Result<(), Violation> {
        let now_us = self.now_us;
        self.trace.event(now_us, kind::TURN, node, [0, 0]);
        let mut effects = std::mem::take(&mut self.effects);
        let machine = self.node(node);
        machine.turn(now_us, &mut effects);
        if !effects.is_empty() {
            machine.idle_turns = 0;
        } else if machine.idle_turns > SPIN_TURNS_MAX {
            let explanation = format!("node {node} turns without end and does nothing");
            return Err(Violation::new(Rule::Progress, now_us, explanation));
        }
        let mut fatal = None;
        // A turn is one instant: what was applied in it was applied before what was answered in it.
        for effect in &effects {
            if let Effect::Event(event) = effect {
                self.on_event(node, event, &mut fatal)?;
            }
        }
        for effect in effects.drain(..) {
            match effect {
                // An id that was given out and has no machine: the address of a node that never came.
                Effect::Send { to, .. } if to.0 > self.scenario.machines() => {}
                Effect::Send { to, message } => self.send_message(node, to.0, message)?,
                Effect::Disk(job) => self.submit(node, job)?,
                Effect::Respond { token, response } => self.respond(node, token, response)?,
                Effect::Event(_) => {}
            }
        }
        self.effects = effects;
        if let Some(reason) = fatal {
            return self.on_fatal(node, reason);
        }
        self.watch(node)?;
        self.schedule_deadline(node);
        Ok(())
    }

    /// The disk has failed, and so the process ends; that is right if we made it fail.
    fn on_fatal(&mut self, node: u64, reason: String) -> Result<(), Violation> {
        let now_us = self.now_us;
        self.tell(node, format_args!("stops: {reason}"));
        let is_healed = self.is_healed;
        let machine = self.node(node);
        if !machine.has_broken_disk() {
            let explanation = format!("node {node} stopped, and its disk is sound: {reason}");
            return Err(Violation::new(Rule::Recovery, now_us, explanation));
        }
        if is_healed && machine.is_struck {
            // Once more on what is left of its disk, and then it is right to refuse.
            let stopped_before = machine.standstill == Standstill::DiskFailed(reason.clone());
            let why = if stopped_before { Standstill::CannotOpen } else { Standstill::DiskFailed };
            machine.stop(why(reason), false, false);
            return if stopped_before { Ok(()) } else { self.start_node(node) };
        }
        machine.stop(Standstill::DiskFailed(reason), false, false);
        if self.is_healed { self.start_node(node) } else { Ok(()) }
    }

    fn send_message(&mut self, from: u64, to: u64, message: Message) -> Result<(), Violation> {
        self.overhear(from, to, &message)?;
        let payload = if self.scenario.network.encode {
            let mut bytes = BytesMut::new();
            peer::write_message(&mut bytes, GROUP, &message);
            Payload::PeerBytes(bytes.freeze())
        } else {
            Payload::Peer(message)
        };
        self.send(Address::Node(from), Address::Node(to), payload);
        Ok(())
    }

    /// What a message says, the oracles may hold against its sender.
    fn overhear(&mut self, from: u64, to: u64, message: &Message) -> Result<(), Violation> {
        let (now_us, sender, term) = (self.now_us, NodeId(from), message.term);
        match &message.body {
            Body::Append { records, .. } | Body::Records { records, .. } => {
                for record in records {
                    self.committed.saw_record(now_us, record)?;
                }
                Ok(())
            }
            Body::VoteRequest { .. } => self.votes.voted(now_us, sender, term, sender),
            Body::VoteResponse { granted: true } => {
                self.votes.voted(now_us, sender, term, NodeId(to))
            }
            Body::PreVoteRequest { .. }
            | Body::PreVoteResponse { .. }
            | Body::VoteResponse { granted: false }
            | Body::AppendResponse { .. }
            | Body::SnapshotResponse { .. }
            | Body::ReadRequest { .. }
            | Body::ReadResponse { .. }
            | Body::Removed { .. }
            | Body::RecordsRequest { .. }
            | Body::OlderCopy { .. } => Ok(()),
            Body::Snapshot { meta, .. } => {
                self.spring_ambush(from, Moment::SnapshotSent);
                self.snapshots.saw(now_us, sender, meta, &self.committed)
            }
            Body::TimeoutNow => {
                self.spring_ambush(from, Moment::TransferBegun);
                Ok(())
            }
        }
    }

    fn decode(&self, bytes: &Bytes) -> Result<Message, Violation> {
        let violation = |what: String| Violation::new(Rule::Integrity, self.now_us, what);
        let mut buffer = BytesMut::from(bytes.as_ref());
        let frame = take_frame(&mut buffer)
            .map_err(|error| violation(format!("a frame of ours is bad: {error}")))?
            .ok_or_else(|| violation("a frame of ours is incomplete".to_owned()))?;
        peer::read_message(self.record_seed, GROUP, &frame)
            .map_err(|error| violation(format!("a message of ours is bad: {error}")))
    }

    fn submit(&mut self, node: u64, job: Job) -> Result<(), Violation> {
        for op in &job.ops {
            let DiskOp::Write { parts, .. } = op else { continue };
            for part in parts {
                if let Ok(record) = Record::take(self.record_seed, &mut part.clone()) {
                    self.committed.saw_record(self.now_us, &record)?;
                }
            }
        }
        let disk = &self.scenario.disk;
        let latency_us = self.pace.between(disk.latency_us_min, disk.latency_us_max);
        let latency_us = if self.is_healed {
            latency_us.min(HEALED_DISK_LATENCY_US_MAX)
        } else if self.pace.chance(disk.stall_ppm) {
            latency_us + self.pace.between(0, disk.stall_us_max)
        } else {
            latency_us
        };
        let (now_us, id) = (self.now_us, job.id);
        let machine = self.node(node);
        let life = machine.life;
        let at_us = machine.submit(now_us, latency_us, job);
        self.events.push(at_us, Event::DiskDone { node, life, job: id });
        Ok(())
    }

    fn respond(
        &mut self,
        node: u64,
        token: engine::api::Token,
        response: Response<Reply>,
    ) -> Result<(), Violation> {
        let now_us = self.now_us;
        if let Response::Applied { index, .. }
        | Response::Answer { at: index, .. }
        | Response::Stale { at: index, .. } = &response
            && *index > self.committed.log().last_index()
        {
            let explanation =
                format!("node {node} answers from entry {index} before it applies it");
            return Err(Violation::new(Rule::NothingLost, now_us, explanation));
        }
        if let Response::Changed { index, .. } = &response {
            self.check_change_is_committed(node, *index)?;
        }
        let machine = self.node(node);
        let life = machine.life;
        if let Some((client, number)) = machine.resolve(now_us, token)? {
            let payload = Payload::Response(number, life, response);
            let to = if client == ADMIN { Address::Admin } else { Address::Client(client) };
            self.send(Address::Node(node), to, payload);
        }
        Ok(())
    }

    /// Hashes what a node told, for `verify`.
    pub(super) fn trace_applied(&mut self, node: u64, numbers: [u64; 2]) {
        self.trace.event(self.now_us, kind::APPLIED, node, numbers);
    }

    /// Hashes a change of role.
    pub(super) fn trace_role(&mut self, node: u64, numbers: [u64; 2]) {
        self.trace.event(self.now_us, kind::ROLE, node, numbers);
    }

    /// Hashes another event.
    pub(super) fn trace_other(&mut self, node: u64, numbers: [u64; 2]) {
        self.trace.event(self.now_us, kind::OTHER, node, numbers);
    }
}

/// A message in a few words, without the bytes of its records.
fn describe(message: &Message) -> String {
    match &message.body {
        Body::Append { previous, commit, round, records } => {
            let (term, count) = (message.term, records.len());
            let at = previous.index;
            format!("append t{term} after {at}: {count} records, commit {commit}, round {round}")
        }
        body => format!("t{} {body:?}", message.term),
    }
}
