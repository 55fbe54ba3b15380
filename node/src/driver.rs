//! The loop that drives the replica: what came in, one turn of the engine, what has to go out.
//!
//! Owns the replica and everything that only the loop touches. Every turn hands in all that waits,
//! from sockets and disk alike, before the engine seals its batch; so a batch is whatever came
//! while the last one was on its way, and no timer delays anything. Never waits for a socket or a
//! file. Next: `calls` for what clients ask, `stop` for the end, `engine::replica` for what happens
//! in a step.

mod calls;
mod stop;

use crate::clients::{Clients, greet};
use crate::config::NodeConfig;
use crate::connection::{Admitted, ConnectionId, Inbound};
use crate::dialer::Dialling;
use crate::error::NodeError;
use crate::listener;
use crate::opening::Opening;
use crate::outbound::Outbound;
use crate::peers::Peers;
use crate::ports::{ClockPort, DiskPort, Observer, Ports};
use crate::task::AbortOnDrop;
use engine::api::Token;
use engine::engine::RoleName;
use engine::hlc::Hlc;
use engine::ids::{ClusterId, LogIndex, NodeId};
use engine::queue::{Queues, Reply};
use engine::raft::Membership;
use engine::replica::{Effect, Event, Input, Replica};
use engine::storage::disk::JobDone;
use engine::time::{Micros, Now};
use engine::wire::client::{ClusterView, Greeting, ServerFrame, Welcome};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use stop::Stopping;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

/// Batches of frames that may wait for the driver; then connections stop reading.
const INBOX_BATCHES_MAX: usize = 1_024;
/// Batches and disk reports taken in one turn, so that a flood cannot keep a turn from ending.
const TURN_INPUTS_MAX: usize = 1_024;
/// Turns that the connections' tasks get, once the driver has stopped, to write what waits.
const LAST_TURNS: usize = 8;

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
    let dialling = Dialling { identity: config.identity.clone(), inbox, seed: ports.seed };
    let mut driver = Driver::open(&config, clock, ports.disk, done, dialling, ports.observer)?;
    let _listening = driver.start_listening(listener, &config);

    let mut batches = Vec::with_capacity(TURN_INPUTS_MAX);
    let mut reports = Vec::with_capacity(TURN_INPUTS_MAX);
    let mut timer = pin!(sleep_until(Instant::now()));
    let mut is_asked_to_stop = false;
    driver.turn()?;
    while !driver.is_stopped() {
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
            () = &mut shutdown, if driver.stopping.is_none() => is_asked_to_stop = true,
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
        if std::mem::take(&mut is_asked_to_stop) {
            driver.begin_to_stop();
        }
        driver.turn()?;
    }
    for _ in 0..LAST_TURNS {
        tokio::task::yield_now().await;
    }
    Ok(())
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
    node: NodeId,
    cluster: ClusterId,
    priority: u8,
    clients: Clients,
    peers: Peers,
    dialling: Dialling,
    view: ClusterView,
    view_check_at: Micros,
    view_check_interval: Micros,
    /// Stamp of the last applied entry.
    log_time: Hlc,
    /// The node is no member any more: it serves nobody and disturbs nobody.
    is_removed: bool,
    /// Set once the node was asked to stop.
    stopping: Option<Stopping>,
    observer: Option<Box<dyn Observer>>,
}

impl<D: DiskPort, C: ClockPort> Driver<D, C> {
    fn open(
        config: &NodeConfig,
        mut clock: Clock<C>,
        mut disk: D,
        done: mpsc::UnboundedSender<JobDone>,
        dialling: Dialling,
        mut observer: Option<Box<dyn Observer>>,
    ) -> Result<Self, NodeError> {
        let now = clock.now();
        let machine = Queues::new(&config.limits);
        let engine = config.engine(dialling.seed);
        let mut opening = Opening::of(disk.recovery());
        let replica = Replica::open(engine, machine, now, &mut opening)?;
        let opened_in_ms = opening.elapsed().as_millis();
        disk.start(done);
        let status = replica.status();
        let (last_index, term) = (status.last_index.0, status.term.0);
        tracing::info!(
            node = status.node.0,
            term,
            last_index,
            opened_in_ms,
            listen = config.listen,
            "log recovered"
        );
        if let Some(observer) = &mut observer {
            observer.on_open(&status);
        }
        let mut peers = Peers::new(config);
        peers.on_membership(now.monotonic, &status.membership);
        let (node, membership) = (status.node, &status.membership);
        if status.is_removed {
            tell_of_removal(node, status.membership_index);
        } else if membership.was_given_out(node) && !membership.contains(node) {
            // It knew that the entry is committed, perhaps, but need not have written that down.
            tracing::warn!(
                "node {node} seems to be REMOVED from the cluster, by entry {}, the last that its log \
                 has of the members; it is quiet unless that is taken back",
                status.membership_index
            );
        }
        Ok(Self {
            view: peers.view(now.monotonic, &status),
            replica,
            effects: Vec::new(),
            disk,
            clock,
            now,
            node: config.identity.node,
            cluster: config.identity.cluster,
            priority: config.priority,
            clients: Clients::new(config.client_connections_max),
            peers,
            dialling,
            view_check_at: Micros::ZERO,
            view_check_interval: config.election_timeout,
            log_time: Hlc::ZERO,
            is_removed: status.is_removed,
            stopping: None,
            observer,
        })
    }

    /// Lets clients and other nodes in, for as long as the task is kept.
    fn start_listening(
        &self,
        listener: tokio::net::TcpListener,
        config: &NodeConfig,
    ) -> AbortOnDrop {
        let (config, inbox) = (config.clone(), self.dialling.inbox.clone());
        AbortOnDrop(tokio::spawn(async move {
            listener::accept_all(listener, &config, inbox).await;
        }))
    }

    fn next_deadline(&self) -> Option<Instant> {
        let own = [self.peers.next_expiry(), self.stop_deadline()];
        let deadline = own.into_iter().chain([self.replica.next_deadline()]).flatten().min()?;
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
        self.peers.expire(self.now.monotonic);
        self.peers.start_dialers(|callee| self.dialling.start(callee));
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
            Effect::Respond { token, response } => {
                if !self.is_handover(token, &response) {
                    self.clients.respond(token, response);
                }
            }
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
            Event::Membership { index, membership } => {
                tracing::info!(index = index.0, "members: {}", describe(&membership));
                self.peers.on_membership(self.now.monotonic, &membership);
                self.view_check_at = self.now.monotonic;
            }
            Event::Removed { index } => {
                tell_of_removal(self.node, index);
                self.is_removed = true;
            }
            Event::Installed { index, hlc, .. } => {
                tracing::info!(index = index.0, "installed a snapshot");
                self.log_time = hlc;
            }
            Event::Damaged { index, is_snapshot } => {
                let what = if is_snapshot { "snapshot" } else { "entry" };
                tracing::error!(%index, "the disk has damaged {what} {index}; it is made good: check the disk");
            }
            Event::Lost { index } => {
                tracing::error!(
                    index = index.0,
                    "an entry with messages in it is on no member any more"
                );
            }
            Event::Space { shortage: Some(shortage) } => {
                tracing::warn!("sends are REFUSED: {shortage}");
            }
            Event::Space { shortage: None } => {
                tracing::info!("there is space again: sends are taken");
            }
            Event::Fatal { reason } => return Err(NodeError::Disk { reason }),
        }
        Ok(())
    }

    fn on_inbound(&mut self, inbound: Inbound) {
        match inbound {
            Inbound::Messages { from, messages, room: _room } => {
                self.peers.on_heard(self.now.monotonic, from);
                for message in messages {
                    self.step(Input::Peer { from, message });
                }
            }
            Inbound::Calls { connection, calls, room: _room } => {
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
            Inbound::Dialled { dialer, to, is_up } => {
                self.peers.on_dialled(dialer, to, is_up);
                self.view_check_at = self.now.monotonic;
            }
        }
    }

    fn on_opened(&mut self, connection: ConnectionId, caller: Admitted, outbound: Arc<Outbound>) {
        let welcome = |protocol| Welcome {
            protocol,
            cluster: self.cluster,
            node: self.node,
            view: self.view.clone(),
        };
        match caller {
            Admitted::Client { address, protocol } => {
                let welcome = welcome(protocol);
                self.clients.on_opened(connection, address, outbound, welcome);
            }
            Admitted::Peer { from, address, protocol } => {
                greet(&outbound, &Greeting::Welcome(welcome(protocol)));
                self.peers.on_called(self.now.monotonic, from, address);
            }
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

/// A membership in a line of the log.
fn describe(membership: &Membership) -> String {
    let list = |nodes: &[NodeId]| {
        let nodes: Vec<String> = nodes.iter().map(NodeId::to_string).collect();
        nodes.join(", ")
    };
    let mut line = format!("voters {}", list(membership.incoming()));
    let learners: Vec<NodeId> = membership.learners().collect();
    if !learners.is_empty() {
        line.push_str(&format!("; learners {}", list(&learners)));
    }
    if membership.is_joint() {
        line.push_str(&format!("; in change from voters {}", list(membership.outgoing())));
    }
    line
}

fn tell_of_removal(node: NodeId, index: LogIndex) {
    tracing::warn!(
        "node {node} WAS REMOVED from the cluster, by entry {index}: it votes, stores and serves no \
         more. Stop it; its data directory may be deleted. To bring this machine back, give it an \
         empty directory and `node join`"
    );
}
