//! The clients: the real client library, asked by the scenario's workload.
//!
//! Each lives on a machine of its own. An [`Actor`] draws operations and has as many under way as
//! its window allows; the [`Probe`] comes when everything is repaired, is served, and empties all
//! queues. Both write down every call and how it ended. Next: `explain` for what is made of that.

use super::explain::{Call, End};
use super::machine::address;
use super::pause::pause_us;
use super::world::{Shared, kind};
use crate::history::Action;
use crate::lockstep::clock::EPOCH_US;
use crate::oracle::{Rule, Violation};
use crate::scenario::{Scenario, Workload};
use crate::streams::Stream;
use crate::workload::{Generator, Intent, body_of, is_intact, mint};
use client::{CallError, Client, Delivery, Handle, NewMessage, Options, ReceiveOptions, Stored};
use engine::hlc::Hlc;
use engine::ids::LeaseToken;
use engine::queue::{Browsed, Command, Delivered, Held, Message, Query, ReceiveMode, Reply};
use madsim::runtime::NodeHandle;
use madsim::task::NodeId as Host;
use madsim_tokio::time::Instant;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Shortest mean pause between operations of all clients together, microseconds: madsim's TCP hands
/// over one packet a millisecond, and without flow control a faster stream would only queue up.
const PAUSE_US_MIN: u64 = 3_000;
/// The queue of the probe, which no other client uses.
const PROBE_QUEUE: &str = "probe";
/// A pause before the probe tries again or looks again, microseconds.
const PROBE_PAUSE_US: u64 = 100_000;
/// Most messages that the probe takes at once.
const PROBE_RECEIVE_MAX: u32 = 100;
/// Longest delay after which a message is available again, beyond the longest lease.
const DRAIN_SLACK_US: u64 = 5_000_000;

/// A client's machine, and how it calls from there.
#[derive(Clone, Debug)]
struct Caller {
    shared: Shared,
    client: u64,
    is_asking: Arc<AtomicBool>,
    unanswered: Arc<AtomicUsize>,
}

fn build_host(client: u64) -> NodeHandle {
    let last = u8::try_from(client + 1).expect("simulated clients are few");
    let ip = IpAddr::V4(Ipv4Addr::new(10, 0, 1, last));
    madsim::runtime::Handle::current().create_node().name(format!("c{client}")).ip(ip).build()
}

impl Caller {
    fn new(shared: &Shared, client: u64) -> Self {
        Self {
            shared: shared.clone(),
            client,
            is_asking: Arc::new(AtomicBool::new(true)),
            unanswered: Arc::default(),
        }
    }

    fn is_asking(&self) -> bool {
        self.is_asking.load(Ordering::Relaxed)
    }

    /// Connects, however long it takes, unless the client is to stop asking.
    async fn connect(&self, workload: &Workload, seed: u64, nodes: u64) -> Option<Client> {
        let addresses: Vec<String> = (1..=nodes).map(address).collect();
        let origin = Instant::now();
        let origin_us = EPOCH_US + self.shared.lock().now_us();
        for attempt in 0.. {
            let options = Options {
                timeout: Duration::from_millis(2 * workload.request_timeout_ms),
                window: workload.window,
                seed: Some(seed.wrapping_add(attempt)),
                now_millis: Arc::new(move || {
                    let elapsed_us = u64::try_from(origin.elapsed().as_micros());
                    (origin_us + elapsed_us.expect("runs are short")) / 1_000
                }),
                ..Options::default()
            };
            match Client::connect(&addresses, options).await {
                Ok(client) => return Some(client),
                Err(_) if self.is_asking() => {}
                Err(_) => return None,
            }
        }
        None
    }

    fn begin(&self, action: &Action, is_waiting: bool) -> usize {
        let mut world = self.shared.lock();
        let (now_us, number) = (world.now_us(), world.calls.len());
        world.event(kind::CALL, self.client, [number as u64, 0]);
        world.tell(&format!("c{}", self.client), ' ', format_args!("asks {number}: {action:?}"));
        world.calls.push(Call::new(self.client, action.clone(), is_waiting, now_us));
        self.unanswered.fetch_add(1, Ordering::Relaxed);
        number
    }

    fn end(&self, number: usize, end: End) {
        let mut world = self.shared.lock();
        let now_us = world.now_us();
        let mark = match &end {
            End::Answered(_) => 1,
            End::NoEffect(_) => 2,
            End::Unknown => 3,
        };
        world.event(kind::ANSWER, self.client, [number as u64, mark]);
        world.tell(&format!("c{}", self.client), ' ', format_args!("is told {number}: {end:?}"));
        world.calls[number].conclude(now_us, end);
        self.unanswered.fetch_sub(1, Ordering::Relaxed);
    }

    /// Makes a call and writes down how it ended.
    async fn call(&self, client: &Client, action: Action, wait: Duration) -> Option<Reply> {
        let number = self.begin(&action, !wait.is_zero());
        let result = match action {
            Action::Command(command) => self.command(client, command, wait).await,
            Action::Query(query) | Action::StaleQuery(query) => self.query(client, query).await,
        };
        let reply = result.as_ref().ok().cloned();
        self.end(
            number,
            match result {
                Ok(reply) => End::Answered(reply),
                Err(CallError::Rejected(rejected)) => End::NoEffect(rejected.to_string()),
                Err(CallError::Unknown(_)) => End::Unknown,
            },
        );
        reply
    }

    async fn command(
        &self,
        client: &Client,
        command: Command,
        wait: Duration,
    ) -> Result<Reply, CallError> {
        let handles = |held: Vec<Held>| held.into_iter().map(Handle).collect::<Vec<Handle>>();
        match command {
            Command::Send { messages } => send(client, messages).await,
            Command::Receive { queue, max, mode } => {
                let max = usize::try_from(max).expect("receives are bounded");
                let deliveries = client.receive(&queue, ReceiveOptions { max, mode, wait }).await?;
                Ok(self.received(deliveries))
            }
            Command::Acknowledge { queue, held } => {
                client.ack(&queue, &handles(held)).await.map(Reply::Settled)
            }
            Command::Nack { queue, held, delay_millis } => {
                let delay = Duration::from_millis(delay_millis);
                client.nack(&queue, &handles(held), delay).await.map(Reply::Settled)
            }
            Command::Extend { queue, held, lease_millis } => {
                let lease = Duration::from_millis(lease_millis);
                client.extend(&queue, &handles(held), lease).await.map(Reply::Settled)
            }
            Command::Delete { queue, ids } => client.delete(&queue, &ids).await.map(Reply::Deleted),
            Command::Purge { queue } => client.purge(&queue).await.map(Reply::Purged),
            Command::Configure { queue, retention } => {
                client.configure(&queue, retention).await.map(|()| Reply::Configured)
            }
        }
    }

    async fn query(&self, client: &Client, query: Query) -> Result<Reply, CallError> {
        match query {
            Query::Get { queue, id } => {
                let found = client.get(&queue, id).await?;
                Ok(Reply::Got(found.map(|stored| self.browsed(stored))))
            }
            Query::Browse { queue, after, max } => {
                let max = usize::try_from(max).expect("browses are bounded");
                let found = client.browse(&queue, after, max).await?;
                Ok(Reply::Browsed(found.into_iter().map(|stored| self.browsed(stored)).collect()))
            }
            Query::List { .. } | Query::Available { .. } => client.list().await.map(Reply::Queues),
        }
    }

    fn check_intact(&self, message: &Message) {
        if !is_intact(message) {
            let mut world = self.shared.lock();
            let what =
                format!("message {} came with another body than it was sent with", message.id);
            let violation = Violation::new(Rule::Integrity, world.now_us(), what);
            world.judge(Err(violation));
        }
    }

    /// The reply behind deliveries, but for the lengths, which the client does not tell.
    fn received(&self, deliveries: Vec<Delivery>) -> Reply {
        let first = deliveries.first();
        let token = first.map_or(LeaseToken::ZERO, |delivery| delivery.handle.0.token);
        let until = first.map_or(Hlc::ZERO, |delivery| delivery.leased_until);
        let deliveries = deliveries.into_iter().map(|delivery| {
            self.check_intact(&delivery.message);
            let position = delivery.handle.0.position;
            Delivered { position, len: 0, attempt: delivery.attempt }
        });
        Reply::Received { token, until, deliveries: deliveries.collect() }
    }

    fn browsed(&self, stored: Stored) -> Browsed {
        self.check_intact(&stored.message);
        let Stored { receipt, message: _, attempts, unavailable_until } = stored;
        Browsed { receipt, len: 0, attempts, unavailable_until }
    }
}

async fn send(client: &Client, messages: Vec<Message>) -> Result<Reply, CallError> {
    let mut messages: Vec<NewMessage> = messages.into_iter().map(Into::into).collect();
    if messages.len() > 1 {
        return client.send_many(messages).await.map(Reply::SentMany);
    }
    let message = messages.pop().expect("a send has messages");
    let pending = client.enqueue(message).await?;
    pending.await.map(Reply::SentOne)
}

/// A client of the scenario's workload.
pub(super) struct Actor {
    caller: Caller,
    host: NodeHandle,
}

impl Actor {
    /// Starts a client.
    pub(super) fn start(shared: &Shared, client: u64) -> Self {
        let (caller, host) = (Caller::new(shared, client), build_host(client));
        drop(host.spawn(act(caller.clone())));
        Self { caller, host }
    }

    /// Its machine.
    pub(super) fn host(&self) -> Host {
        self.host.id()
    }

    /// Its number.
    pub(super) fn client(&self) -> u64 {
        self.caller.client
    }

    /// Calls that have not ended.
    pub(super) fn unanswered(&self) -> usize {
        self.caller.unanswered.load(Ordering::Relaxed)
    }

    /// Asks nothing new from now on.
    pub(super) fn stop(&self) {
        self.caller.is_asking.store(false, Ordering::Relaxed);
    }
}

async fn act(caller: Caller) {
    let scenario: Scenario = caller.shared.lock().scenario.clone();
    let mut workload = scenario.workload.clone();
    workload.pause_us = workload.pause_us.max(PAUSE_US_MIN * workload.clients);
    let mut seeds = Stream::of(scenario.seed, "client library", caller.client);
    let generator = Generator::new(scenario.seed, caller.client, &workload);
    let generator = Arc::new(Mutex::new(generator));
    let draw = || generator.lock().expect("nothing panics while it draws");
    let mut connection = None;
    loop {
        let span_us = draw().draw_pause_us();
        pause_us(span_us).await;
        if !caller.is_asking() {
            return;
        }
        if draw().draws_churn() {
            connection = None;
        }
        let client = match &connection {
            Some(client) => Client::clone(client),
            None => {
                let connected =
                    caller.connect(&workload, seeds.next_u64(), scenario.machines()).await;
                let Some(client) = connected else { return };
                connection.insert(client).clone()
            }
        };
        if caller.unanswered.load(Ordering::Relaxed) < 2 * workload.window {
            let intent = draw().draw();
            let (caller, generator) = (caller.clone(), Arc::clone(&generator));
            drop(madsim_tokio::spawn(ask(caller, client, generator, intent)));
        }
    }
}

async fn ask(caller: Caller, client: Client, generator: Arc<Mutex<Generator>>, intent: Intent) {
    let draw = || generator.lock().expect("nothing panics while it draws");
    let (action, wait) = match intent {
        Intent::Command(command) => (Action::Command(command), Duration::ZERO),
        Intent::Query(query) => (Action::Query(query), Duration::ZERO),
        Intent::Watch { queue, timeout_ms } => match draw().draw_receive(queue) {
            Intent::Command(command) => {
                (Action::Command(command), Duration::from_millis(timeout_ms))
            }
            Intent::Query(_) | Intent::Watch { .. } => unreachable!("a receive is a command"),
        },
    };
    let reply = caller.call(&client, action.clone(), wait).await;
    if let (Action::Command(command), Some(reply)) = (&action, reply) {
        draw().learn(command, &reply);
    }
}

/// A client that comes when everything is repaired.
pub(super) struct Probe {
    caller: Caller,
    host: NodeHandle,
    may_drain: Arc<AtomicBool>,
    has_served: Arc<AtomicBool>,
    extra_us: u64,
}

impl Probe {
    /// A probe with the number that follows those of the clients.
    pub(super) fn new(shared: &Shared, client: u64) -> Self {
        let lease_us_max = shared.lock().scenario.workload.lease_ms_max * 1_000;
        Self {
            caller: Caller::new(shared, client),
            host: build_host(client),
            may_drain: Arc::default(),
            has_served: Arc::default(),
            extra_us: lease_us_max + DRAIN_SLACK_US,
        }
    }

    /// Its machine.
    pub(super) fn host(&self) -> Host {
        self.host.id()
    }

    /// Its number.
    pub(super) fn client(&self) -> u64 {
        self.caller.client
    }

    /// Calls that have not ended.
    pub(super) fn unanswered(&self) -> usize {
        self.caller.unanswered.load(Ordering::Relaxed)
    }

    /// Begins: sends a message and receives it.
    pub(super) fn begin(&self) {
        let (caller, may_drain) = (self.caller.clone(), Arc::clone(&self.may_drain));
        let has_served = Arc::clone(&self.has_served);
        drop(self.host.spawn(async move {
            let scenario: Scenario = caller.shared.lock().scenario.clone();
            let workload = Workload { request_timeout_ms: 1_000, ..Workload::default() };
            let seed = Stream::of(scenario.seed, "client library", caller.client).next_u64();
            let connected = caller.connect(&workload, seed, scenario.machines()).await;
            let Some(client) = connected else { return };
            probe(&caller, &client).await;
            while !may_drain.load(Ordering::Relaxed) {
                pause_us(PROBE_PAUSE_US).await;
            }
            drain(&caller, &client).await;
            has_served.store(true, Ordering::Relaxed);
        }));
    }

    /// Nobody else asks any more: takes all that is left.
    pub(super) fn drain(&self) {
        self.may_drain.store(true, Ordering::Relaxed);
    }

    /// Whether it was served and all queues are empty.
    pub(super) fn has_served(&self) -> bool {
        self.has_served.load(Ordering::Relaxed)
    }

    /// How long queues may take to become empty once the cluster has converged, microseconds.
    pub(super) fn extra_us(&self) -> u64 {
        self.extra_us
    }
}

async fn probe(caller: &Caller, client: &Client) {
    let id = mint(caller.client, 1);
    let message = Message {
        id,
        from: "probe".to_owned(),
        to: PROBE_QUEUE.to_owned(),
        sent_at: Hlc::ZERO,
        headers: Vec::new(),
        body: body_of(id, 16),
    };
    let send = Action::Command(Command::Send { messages: vec![message] });
    while caller.call(client, send.clone(), Duration::ZERO).await.is_none() {
        pause_us(PROBE_PAUSE_US).await;
    }
}

/// Takes messages from all queues until none has any.
async fn drain(caller: &Caller, client: &Client) {
    loop {
        let list = Action::Query(Query::List { after: None, max: 4_096 });
        let Some(Reply::Queues(queues)) = caller.call(client, list, Duration::ZERO).await else {
            continue;
        };
        let is_empty =
            queues.iter().all(|queue| queue.available + queue.leased + queue.delayed == 0);
        if is_empty {
            return;
        }
        let available = queues.into_iter().filter(|queue| queue.available > 0);
        let names: Vec<String> = available.map(|queue| queue.name).collect();
        if names.is_empty() {
            pause_us(PROBE_PAUSE_US).await;
        }
        for queue in names {
            let (max, mode) = (PROBE_RECEIVE_MAX, ReceiveMode::Take);
            let take = Action::Command(Command::Receive { queue, max, mode });
            let _reply_is_written_down = caller.call(client, take, Duration::ZERO).await;
        }
    }
}
