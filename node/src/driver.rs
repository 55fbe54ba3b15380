//! The loop that drives the replica: what came in, one turn of the engine, what has to go out.
//!
//! Owns the replica and everything that only the loop touches. Every turn hands in all that waits,
//! from sockets and disk alike, before the engine seals its batch; so a batch is whatever came
//! while the last one was on its way, and no timer delays anything. Never waits for a socket or a
//! file. Next: `engine::replica` for what happens in a step.

use crate::clients::{Clients, greet};
use crate::config::NodeConfig;
use crate::connection::{Admitted, ConnectionId, Inbound};
use crate::dialer::{self, Dialer};
use crate::error::NodeError;
use crate::listener;
use crate::outbound::Outbound;
use crate::peers::Peers;
use crate::ports::{ClockPort, DiskPort, Observer, Ports};
use bytes::Bytes;
use engine::api::{Request, Token};
use engine::engine::RoleName;
use engine::hlc::Hlc;
use engine::queue::{Queues, Reply};
use engine::replica::{Effect, Event, Input, Replica};
use engine::storage::Identity;
use engine::storage::disk::JobDone;
use engine::time::{Micros, Now};
use engine::wire::client::{
    Call, ClientFrame, ClusterView, Greeting, NodeStatus, ServerFrame, Welcome,
};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

/// Batches of frames that may wait for the driver; then connections stop reading.
const INBOX_BATCHES_MAX: usize = 1_024;
/// Batches and disk reports taken in one turn, so that a flood cannot keep a turn from ending.
const TURN_INPUTS_MAX: usize = 1_024;

/// Runs a node until its shutdown signal, or until its disk fails.
///
/// The data directory behind `ports.disk` must have been initialised for `config.identity`.
///
/// # Errors
/// The address cannot be listened on, the data directory cannot be opened, or the disk failed.
pub async fn run<D: DiskPort, C: ClockPort>(
    config: NodeConfig,
    ports: Ports<D, C>,
) -> Result<(), NodeError> {
    let listener = listener::bind(&config.listen).await?;
    let (inbox, mut inbound) = mpsc::channel(INBOX_BATCHES_MAX);
    let (done, mut disk_done) = mpsc::unbounded_channel();
    let mut shutdown = ports.shutdown;
    let clock = Clock { origin: Instant::now(), port: ports.clock };
    let mut driver = Driver::open(&config, clock, ports.disk, done, ports.seed, ports.observer)?;
    let _tasks = start_tasks(&config, &driver.peers, ports.seed, listener, &inbox);

    let mut batches = Vec::with_capacity(TURN_INPUTS_MAX);
    let mut reports = Vec::with_capacity(TURN_INPUTS_MAX);
    let mut timer = pin!(sleep_until(Instant::now()));
    driver.turn()?;
    loop {
        let deadline = driver.next_deadline();
        if let Some(deadline) = deadline {
            timer.as_mut().reset(deadline);
            // A replica with much to apply wants one turn after another. They must not keep the
            // connections' tasks, on the same thread, from bringing in heartbeats.
            if deadline <= Instant::now() {
                tokio::task::yield_now().await;
            }
        }
        tokio::select! {
            biased;
            () = &mut shutdown => return Ok(()),
            _ = disk_done.recv_many(&mut reports, TURN_INPUTS_MAX) => {}
            _ = inbound.recv_many(&mut batches, TURN_INPUTS_MAX) => {}
            () = &mut timer, if deadline.is_some() => {}
        }
        while reports.len() < TURN_INPUTS_MAX
            && let Ok(report) = disk_done.try_recv()
        {
            reports.push(report);
        }
        while batches.len() < TURN_INPUTS_MAX
            && let Ok(batch) = inbound.try_recv()
        {
            batches.push(batch);
        }
        driver.begin_turn();
        reports.drain(..).for_each(|report| driver.step(Input::Disk(report)));
        batches.drain(..).for_each(|batch| driver.on_inbound(batch));
        driver.turn()?;
    }
}

/// Ends a task when the node ends.
struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn start_tasks(
    config: &NodeConfig,
    peers: &Peers,
    seed: u64,
    listener: tokio::net::TcpListener,
    inbox: &mpsc::Sender<Inbound>,
) -> Vec<AbortOnDrop> {
    let dialers = peers.outbounds().map(|(to, address, outbound)| Dialer {
        identity: config.identity.clone(),
        to,
        address: address.to_owned(),
        outbound,
        inbox: inbox.clone(),
        seed: dialer::seed_for(seed, config.identity.group, to),
    });
    let mut tasks: Vec<_> = dialers.map(|dialer| AbortOnDrop(tokio::spawn(dialer.run()))).collect();
    let config = config.clone();
    let inbox = inbox.clone();
    tasks.push(AbortOnDrop(tokio::spawn(async move {
        listener::accept_all(listener, &config, inbox).await;
    })));
    tasks
}

struct Clock<C> {
    /// Monotonic zero: when the node started.
    origin: Instant,
    port: C,
}

impl<C: ClockPort> Clock<C> {
    fn now(&mut self) -> Now {
        let wall = self.port.wall();
        let elapsed = u64::try_from(self.origin.elapsed().as_micros()).expect("584,000 years");
        Now { monotonic: Micros(elapsed), wall: wall.time, wall_error: wall.error }
    }
}

/// What the loop works on.
struct Driver<D, C> {
    replica: Replica<Queues>,
    effects: Vec<Effect<Reply>>,
    disk: D,
    clock: Clock<C>,
    /// Read once a turn.
    now: Now,
    identity: Identity,
    clients: Clients,
    peers: Peers,
    view: ClusterView,
    view_check_at: Micros,
    view_check_interval: Micros,
    /// Stamp of the last applied entry.
    log_time: Hlc,
    observer: Option<Box<dyn Observer>>,
}

impl<D: DiskPort, C: ClockPort> Driver<D, C> {
    fn open(
        config: &NodeConfig,
        mut clock: Clock<C>,
        mut disk: D,
        done: mpsc::UnboundedSender<JobDone>,
        seed: u64,
        mut observer: Option<Box<dyn Observer>>,
    ) -> Result<Self, NodeError> {
        let now = clock.now();
        let machine = Queues::new(&config.limits);
        let replica = Replica::open(config.engine(seed), machine, now, disk.recovery())?;
        disk.start(done);
        let status = replica.status();
        let (node, last_index, term) = (status.node.0, status.last_index.0, status.term.0);
        tracing::info!(node, term, last_index, listen = config.listen, "log recovered");
        if let Some(observer) = &mut observer {
            observer.on_open(&status);
        }
        let peers = Peers::new(config);
        Ok(Self {
            view: peers.view(now.monotonic, &status),
            replica,
            effects: Vec::new(),
            disk,
            clock,
            now,
            identity: config.identity.clone(),
            clients: Clients::new(config.client_connections_max),
            peers,
            view_check_at: Micros::ZERO,
            view_check_interval: config.election_timeout,
            log_time: Hlc::ZERO,
            observer,
        })
    }

    fn next_deadline(&self) -> Option<Instant> {
        let deadline = self.replica.next_deadline()?;
        // Far deadlines are looked at again within the hour, which keeps the sum in range.
        let wait = deadline.since(self.now.monotonic).0.min(Micros::from_secs(3_600).0);
        Some(self.clock.origin + Duration::from_micros(self.now.monotonic.0 + wait))
    }

    fn begin_turn(&mut self) {
        self.now = self.clock.now();
    }

    fn step(&mut self, input: Input) {
        self.replica.step(self.now, input, &mut self.effects);
    }

    /// Everything that waited is handed in: lets the engine act on it and performs what it wants.
    fn turn(&mut self) -> Result<(), NodeError> {
        self.step(Input::Turn);
        let mut effects = core::mem::take(&mut self.effects);
        let performed = effects.drain(..).try_for_each(|effect| self.perform(effect));
        self.effects = effects;
        performed?;
        if self.now.monotonic >= self.view_check_at {
            self.check_view();
        }
        if let Some(observer) = &mut self.observer {
            observer.on_turn(self.now, &self.replica);
        }
        Ok(())
    }

    fn perform(&mut self, effect: Effect<Reply>) -> Result<(), NodeError> {
        match effect {
            Effect::Disk(job) => self.disk.submit(job),
            Effect::Send { to, message } => self.peers.send(self.now.monotonic, to, &message),
            Effect::Respond { token, response } => self.clients.respond(token, response),
            Effect::Event(event) => return self.on_event(event),
        }
        Ok(())
    }

    fn on_event(&mut self, event: Event) -> Result<(), NodeError> {
        if let Some(observer) = &mut self.observer {
            observer.on_event(self.now, &event);
        }
        match event {
            Event::Role { role, term, leader } => {
                let leader = leader.map(|leader| leader.0);
                tracing::info!(role = role_name(role), term = term.0, leader, "role");
                self.view_check_at = self.now.monotonic;
            }
            Event::Applied { hlc, .. } => self.log_time = hlc,
            Event::Truncated { from } => {
                tracing::info!(from = from.0, "cut entries that another leader has not");
            }
            Event::Membership { index, .. } => {
                tracing::info!(index = index.0, "membership");
            }
            Event::Removed { index } => tracing::warn!(index = index.0, "removed"),
            Event::Installed { index, hlc, .. } => {
                tracing::info!(index = index.0, "installed a snapshot");
                self.log_time = hlc;
            }
            Event::Fatal { reason } => return Err(NodeError::Disk { reason }),
        }
        Ok(())
    }

    fn on_inbound(&mut self, inbound: Inbound) {
        match inbound {
            Inbound::Messages { from, messages } => {
                self.peers.on_heard(self.now.monotonic, from);
                for message in messages {
                    self.step(Input::Peer { from, message });
                }
            }
            Inbound::Calls { connection, calls } => {
                for (call, tail) in calls {
                    self.on_client_frame(connection, call, tail);
                }
            }
            Inbound::Opened { connection, caller, outbound } => {
                self.on_opened(connection, caller, outbound);
            }
            Inbound::Closed { connection } => {
                let mut forgotten: Vec<Token> = Vec::new();
                self.clients.on_closed(connection, &mut forgotten);
                for token in forgotten {
                    self.step(Input::Forget { token });
                }
            }
            Inbound::Dialled { to, is_up } => {
                self.peers.on_dialled(to, is_up);
                self.view_check_at = self.now.monotonic;
            }
        }
    }

    fn on_opened(&mut self, connection: ConnectionId, caller: Admitted, outbound: Arc<Outbound>) {
        let welcome = |protocol| Welcome {
            protocol,
            cluster: self.identity.cluster,
            node: self.identity.node,
            view: self.view.clone(),
        };
        match caller {
            Admitted::Client { address, protocol } => {
                let welcome = welcome(protocol);
                self.clients.on_opened(connection, address, outbound, welcome);
            }
            Admitted::Peer { protocol } => greet(&outbound, &Greeting::Welcome(welcome(protocol))),
        }
    }

    fn on_client_frame(&mut self, connection: ConnectionId, frame: ClientFrame, tail: Bytes) {
        let (request, call) = match frame {
            ClientFrame::Ping(number) => {
                return self.clients.send(connection, &ServerFrame::Pong(number));
            }
            ClientFrame::Call { request, call } => (request, call),
        };
        let asked = match call {
            Call::Propose => Request::Propose(tail),
            Call::Query => Request::Query(tail),
            Call::QueryHere => Request::QueryHere(tail),
            Call::QueryStale => Request::QueryStale(tail),
            Call::Change(change) => Request::Change(change),
            Call::Transfer { to } => Request::Transfer { to },
            Call::Watch { timeout } => {
                Request::Watch { query: tail, until: self.now.monotonic + timeout }
            }
            Call::Status => {
                let status = self.node_status();
                return self.clients.send(connection, &ServerFrame::Status { request, status });
            }
        };
        if let Some(token) = self.clients.on_call(connection, request) {
            self.step(Input::Client { token, request: asked });
        }
    }

    fn node_status(&self) -> NodeStatus {
        let status = self.replica.status();
        let (segments, log_bytes) = self.replica.store_size();
        NodeStatus {
            node: status.node,
            cluster: self.identity.cluster,
            role: role_name(status.role).to_owned(),
            term: status.term,
            leader: status.leader,
            first_index: status.first_index,
            last_index: status.last_index,
            durable_index: status.durable_index,
            commit_index: status.commit_index,
            applied_index: status.applied_index,
            log_time: self.log_time.0,
            messages: self.replica.machine().message_count(),
            queues: self.replica.machine().queue_count(),
            sessions: status.sessions as u64,
            segments,
            log_bytes,
            membership: status.membership,
            membership_index: status.membership_index,
            is_removed: status.is_removed,
            is_fit: status.is_fit,
            snapshot_index: status.snapshot_index,
            followers: status.followers,
            transfer: status.transfer,
            uptime: self.now.monotonic,
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    /// Tells every client if the leader, the term or somebody's health has changed.
    fn check_view(&mut self) {
        self.view_check_at = self.now.monotonic + self.view_check_interval;
        let view = self.peers.view(self.now.monotonic, &self.replica.status());
        if view != self.view {
            self.view = view;
            self.clients.broadcast(&ServerFrame::View(self.view.clone()));
        }
    }
}

fn role_name(role: RoleName) -> &'static str {
    match role {
        RoleName::Follower => "follower",
        RoleName::PreCandidate => "pre-candidate",
        RoleName::Candidate => "candidate",
        RoleName::Leader => "leader",
    }
}
